//! The end of a connection; answers that are late, posts that are refused.

use super::*;

#[test]
fn unload_response_without_unload_is_harmless() {
    let mut client = Client::new(Config::default()).expect("good configuration");
    hear(&mut client, Message::UnloadResponse);
    client.connect(NOW).expect("not connected yet");
    hear(&mut client, Message::UnloadResponse);
    let mut client = connected();
    hear(&mut client, Message::UnloadResponse);
    assert_eq!((events(&mut client), client.counters().unexpected), (vec![], 1));
    assert!(client.context().is_some());
}

#[test]
fn unload_ends_everything_and_numbers_may_differ_afterwards() {
    let (mut client, ring) = open();
    client.create_gpadl(NOW, RELID, pages(100)).expect("a channel");
    client.unload(NOW).expect("connected");
    assert_eq!(sent(&mut client), [(ConnectionId(77), vec![16, 0, 0, 0, 0, 0, 0, 0])]);
    hear(&mut client, created(RELID, ring, Status::SUCCESS));
    hear(&mut client, Message::UnloadResponse);
    assert_eq!(events(&mut client), [Event::Unloaded]);
    client.connect(NOW).expect("unloaded");
    sent(&mut client);
    hear(&mut client, version_response(true, 78));
    hear(&mut client, Message::Offer(offer(20, 1, 0)));
    assert_eq!(client.offers().map(|offer| offer.relid).collect::<Vec<_>>(), [RelId(20)]);
    let gone = client.close_channel(RELID);
    assert_eq!(gone, Err(RequestError::UnknownChannel { relid: RELID }));
}

#[test]
fn unload_is_not_sent_to_hosts_that_cannot_come_back_from_it() {
    let config = Config::default().newest_version(Version::V2_4);
    let mut client = connected_with(config, Version::V2_4.0);
    let (needed, version) = (Version::V3_0, Version::V2_4);
    assert_eq!(client.unload(NOW), Err(RequestError::NeedsVersion { needed, version }));
}

#[test]
fn late_answers_are_reported_once_and_still_count() {
    let (mut client, _) = open();
    hear(&mut client, Message::AllOffersDelivered);
    assert_eq!(events(&mut client), [Event::AllOffersDelivered]);
    let lent = lend(&mut client, 1);
    assert_eq!(client.poll_timeout(), None);
    let creating = client.create_gpadl(NOW, RELID, pages(1)).expect("a channel");
    client.teardown_gpadl(NOW, lent).expect("ready");
    client.modify_channel(NOW, RELID, VpIndex(3)).expect("open");
    sent(&mut client);
    let first = client.poll_timeout().expect("answers are awaited");
    assert_eq!(first, NOW + Timeouts::default().gpadl);
    client.handle_timeout(first - Duration::from_nanos(1));
    assert_eq!(events(&mut client), []);
    client.handle_timeout(LATER);
    client.handle_timeout(LATER);
    let relid = RELID;
    let expected = [
        Event::TimedOut(Exchange::Modify { relid }),
        Event::TimedOut(Exchange::TearDownGpadl { relid, gpadl: lent }),
        Event::TimedOut(Exchange::CreateGpadl { relid, gpadl: creating }),
    ];
    assert_eq!(events(&mut client), expected);
    assert_eq!(client.poll_timeout(), None);
    hear(&mut client, created(RELID, creating, Status::SUCCESS));
    assert_eq!(events(&mut client), [Event::GpadlCreated { relid, gpadl: creating }]);
    client.unload(NOW).expect("connected");
    client.handle_timeout(LATER);
    assert_eq!(events(&mut client), [Event::TimedOut(Exchange::Unload)]);
}

#[test]
fn a_host_that_does_not_answer_the_contact_fails_it() {
    let mut client = client(Config::default());
    let at = client.poll_timeout().expect("an answer is awaited");
    client.handle_timeout(at);
    let failure = ConnectFailure::TimedOut { version: Version::V5_3 };
    assert_eq!(events(&mut client), [Event::ConnectFailed(failure)]);
    assert_eq!((client.poll_timeout(), sent(&mut client)), (None, vec![]));
}

#[test]
fn refused_posts_are_repeated_in_place_and_later() {
    let mut client = offered();
    client.create_gpadl(NOW, RELID, pages(60)).expect("a channel");
    let mut buf = [0; MAX_MESSAGE];
    let mut first = [0; MAX_MESSAGE];
    client.poll_transmit(&mut buf).expect("the header");
    client.poll_transmit(&mut first).expect("the first body");
    let mut now = NOW;
    for pause in [1, 2, 4] {
        client.transmit_failed(now, HypercallStatus::INSUFFICIENT_BUFFERS);
        assert_eq!(client.poll_transmit(&mut buf), None);
        let at = client.poll_timeout().expect("a pause");
        assert_eq!(at, now + Duration::from_micros(pause));
        now = at;
        client.handle_timeout(now);
        client.poll_transmit(&mut buf).expect("the first body again");
        assert_eq!(buf, first);
    }
    assert_eq!(types(&mut client), [MessageType::GPADL_BODY]);
}

#[test]
fn posts_that_stay_refused_fail_what_they_were_for() {
    let status = HypercallStatus::INSUFFICIENT_MEMORY;
    let reason = Failure::NotSent(status);
    let mut client = connected_with(Config::default().post_attempts(2), 77);
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    events(&mut client);
    let gpadl = client.create_gpadl(NOW, RELID, pages(60)).expect("a channel");
    let mut buf = [0; MAX_MESSAGE];
    for _ in 0..2 {
        client.poll_transmit(&mut buf).expect("the header");
        client.transmit_failed(NOW, status);
        client.handle_timeout(NOW + Duration::from_secs(1));
    }
    assert_eq!(events(&mut client), [Event::GpadlFailed { relid: RELID, gpadl, reason }]);
    assert_eq!(sent(&mut client), []);

    let fatal = HypercallStatus(0x5);
    let ring = lend(&mut client, 4);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    send_one(&mut client);
    client.transmit_failed(NOW, fatal);
    let reason = Failure::NotSent(fatal);
    assert_eq!(events(&mut client), [Event::OpenFailed { relid: RELID, reason }]);

    client.teardown_gpadl(NOW, ring).expect("not open");
    send_one(&mut client);
    client.transmit_failed(NOW, fatal);
    let (relid, gpadl) = (Some(RELID), Some(ring));
    let message = MessageType::GPADL_TEARDOWN;
    assert_eq!(events(&mut client), [Event::NotSent { message, relid, gpadl, status: fatal }]);
    client.teardown_gpadl(NOW, ring).expect("may try again");
}
