//! Channels that the host takes back, their numbers, and interrupts that move.

use super::*;

#[test]
fn rescind_wakes_an_open_that_is_never_answered() {
    let mut client = offered();
    let ring = lend(&mut client, 4);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    rescind(&mut client);
    let reason = Failure::Rescinded;
    let expected = [Event::OpenFailed { relid: RELID, reason }, Event::Rescinded { relid: RELID, must_close: false }];
    assert_eq!(events(&mut client), expected);
    // The OPENCHANNEL that was not posted yet is dropped.
    assert_eq!(types(&mut client), [MessageType::RELID_RELEASED]);
    hear(&mut client, open_result(14, Status::SUCCESS));
    assert_eq!((events(&mut client), client.counters().unexpected), (vec![], 1));
}

#[test]
fn rescind_right_after_the_offer_neither_overtakes_nor_blocks() {
    let mut client = connected();
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    rescind(&mut client);
    let refused = client.create_gpadl(NOW, RELID, pages(1));
    assert_eq!(refused, Err(RequestError::Rescinded { relid: RELID }));
    // Not released before the user knows.
    assert_eq!(sent(&mut client), []);
    let expected = [Event::Offered(offer(14, 1, 0)), Event::Rescinded { relid: RELID, must_close: false }];
    assert_eq!(events(&mut client), expected);
    assert_eq!(types(&mut client), [MessageType::RELID_RELEASED]);
}

#[test]
fn the_number_is_released_once_and_last() {
    let (mut client, ring) = open();
    rescind(&mut client);
    rescind(&mut client);
    assert_eq!(events(&mut client), [Event::Rescinded { relid: RELID, must_close: true }]);
    assert_eq!(sent(&mut client), [], "open channels have to be closed first");
    client.close_channel(RELID).expect("open");
    client.teardown_gpadl(NOW, ring).expect("void");
    assert!(client.close_channel(RELID).is_err());
    let closing = [MessageType::CLOSE_CHANNEL, MessageType::RELID_RELEASED];
    assert_eq!(types(&mut client), closing);
    let cause = TornDown::Rescinded;
    let torn_down = Event::GpadlTornDown { relid: RELID, gpadl: ring, cause };
    assert_eq!(events(&mut client), [torn_down]);
    rescind(&mut client);
    assert_eq!((events(&mut client), sent(&mut client)), (vec![], vec![]));
    assert_eq!(client.counters().unexpected, 2);
}

#[test]
fn closing_before_the_rescind_is_seen_releases_after_it_is_seen() {
    let (mut client, _) = open();
    rescind(&mut client);
    client.close_channel(RELID).expect("open");
    assert_eq!(types(&mut client), [MessageType::CLOSE_CHANNEL]);
    events(&mut client);
    assert_eq!(types(&mut client), [MessageType::RELID_RELEASED]);
}

#[test]
fn answers_about_a_rescinded_channel_are_harmless() {
    let (mut client, _) = open();
    let lent = lend(&mut client, 1);
    let creating = client.create_gpadl(NOW, RELID, pages(1)).expect("a channel");
    client.teardown_gpadl(NOW, lent).expect("ready");
    client.modify_channel(NOW, RELID, VpIndex(3)).expect("open");
    sent(&mut client);
    rescind(&mut client);
    let (relid, reason, cause) = (RELID, Failure::Rescinded, TornDown::Rescinded);
    let outcome = ModifyOutcome::Failed(reason);
    let expected = [
        Event::ModifyDone { relid, target_vp: VpIndex(3), outcome },
        Event::GpadlTornDown { relid, gpadl: lent, cause },
        Event::GpadlFailed { relid, gpadl: creating, reason },
        Event::Rescinded { relid, must_close: true },
    ];
    assert_eq!(events(&mut client), expected);
    let late = |client: &mut Client| {
        hear(client, created(RELID, creating, Status::SUCCESS));
        hear(client, Message::GpadlTorndown(GpadlTorndown { gpadl: lent }));
        let status = Status::SUCCESS;
        hear(client, Message::ModifyChannelResponse(ModifyChannelResponse { relid, status }));
        assert_eq!(events(client), []);
    };
    late(&mut client);
    client.close_channel(RELID).expect("open");
    sent(&mut client);
    late(&mut client);
    assert_eq!(client.counters().unexpected, 6);
}

#[test]
fn a_new_channel_of_the_same_number_is_another_channel() {
    let mut client = offered();
    let old = client.create_gpadl(NOW, RELID, pages(1)).expect("a channel");
    sent(&mut client);
    rescind(&mut client);
    // Too early: the number was not released.
    let refused = tell(&mut client, Message::Offer(offer(14, 1, 0)));
    assert_eq!(refused, Err(Violation::DuplicateRelId { relid: RELID }));
    events(&mut client);
    assert_eq!(types(&mut client), [MessageType::RELID_RELEASED]);
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    let new = client.create_gpadl(NOW, RELID, pages(1)).expect("a channel");
    sent(&mut client);
    events(&mut client);
    hear(&mut client, created(RELID, old, Status::SUCCESS));
    assert_eq!(events(&mut client), []);
    hear(&mut client, created(RELID, new, Status::SUCCESS));
    assert_eq!(events(&mut client), [Event::GpadlCreated { relid: RELID, gpadl: new }]);
}

#[test]
fn a_device_may_come_back_under_another_number_before_the_old_one_is_released() {
    let (mut client, _) = open();
    rescind(&mut client);
    hear(&mut client, Message::Offer(offer(15, 1, 0)));
    let expected = [Event::Rescinded { relid: RELID, must_close: true }, Event::Offered(offer(15, 1, 0))];
    assert_eq!(events(&mut client), expected);
}

#[test]
fn interrupts_are_moved_once_at_a_time() {
    let (mut client, _) = open();
    let target_vp = VpIndex(3);
    let disabled = client.modify_channel(NOW, RELID, VpIndex::INTERRUPTS_DISABLED);
    assert_eq!(disabled, Err(RequestError::TargetVp { relid: RELID }));
    client.modify_channel(NOW, RELID, target_vp).expect("open");
    let busy = client.modify_channel(NOW, RELID, target_vp);
    assert!(matches!(busy, Err(RequestError::WrongState { .. })));
    let (relid, status) = (RELID, Status::SUCCESS);
    hear(&mut client, Message::ModifyChannelResponse(ModifyChannelResponse { relid, status }));
    let outcome = ModifyOutcome::Moved;
    assert_eq!(events(&mut client), [Event::ModifyDone { relid, target_vp, outcome }]);
    client.modify_channel(NOW, RELID, target_vp).expect("answered");
}

#[test]
fn moving_interrupts_depends_on_the_version() {
    for (version, expected) in [(Version::V4_0, false), (Version::V4_1, true)] {
        let config = Config::default().newest_version(version);
        let mut client = connected_with(config, version.0);
        hear(&mut client, Message::Offer(offer(14, 1, 0)));
        events(&mut client);
        let ring = lend(&mut client, 4);
        client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
        hear(&mut client, open_result(14, Status::SUCCESS));
        events(&mut client);
        let result = client.modify_channel(NOW, RELID, VpIndex(1));
        assert_eq!(result.is_ok(), expected, "{result:?}");
        let outcome = ModifyOutcome::Unacknowledged;
        let done = Event::ModifyDone { relid: RELID, target_vp: VpIndex(1), outcome };
        assert_eq!(events(&mut client), if expected { vec![done] } else { vec![] });
    }
}
