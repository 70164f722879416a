//! Memory that is lent, and channels that are opened.

use super::*;

#[test]
fn memory_of_many_pages_is_described_in_order() {
    let mut client = offered();
    let gpadl = client.create_gpadl(NOW, RELID, pages(60)).expect("a channel");
    let mut expected = vec![MessageType::GPADL_BODY; 3];
    expected[0] = MessageType::GPADL_HEADER;
    // Accepted before all of it was sent: not believable.
    hear(&mut client, created(RELID, gpadl, Status::SUCCESS));
    assert_eq!(events(&mut client), []);
    assert_eq!(types(&mut client), expected);
    // For another channel.
    hear(&mut client, created(RelId(15), gpadl, Status::SUCCESS));
    assert_eq!((events(&mut client), client.counters().unexpected), (vec![], 2));
    hear(&mut client, created(RELID, gpadl, Status::SUCCESS));
    assert_eq!(events(&mut client), [Event::GpadlCreated { relid: RELID, gpadl }]);
}

#[test]
fn a_refusal_stops_the_description() {
    let mut client = offered();
    let gpadl = client.create_gpadl(NOW, RELID, pages(60)).expect("a channel");
    client.poll_transmit(&mut [0; MAX_MESSAGE]).expect("the header");
    hear(&mut client, created(RELID, gpadl, Status::FAILURE));
    let reason = Failure::Refused(Status::FAILURE);
    assert_eq!(events(&mut client), [Event::GpadlFailed { relid: RELID, gpadl, reason }]);
    assert_eq!(sent(&mut client), []);
    let unknown = client.teardown_gpadl(NOW, gpadl);
    assert_eq!(unknown, Err(RequestError::UnknownGpadl { gpadl }));
    assert_ne!(client.create_gpadl(NOW, RELID, pages(1)), Ok(gpadl), "ids are not reused");
}

#[test]
fn rings_of_an_open_channel_cannot_be_torn_down() {
    let (mut client, ring) = open();
    assert!(matches!(client.teardown_gpadl(NOW, ring), Err(RequestError::GpadlBusy { .. })));
    client.close_channel(RELID).expect("open");
    client.teardown_gpadl(NOW, ring).expect("closed");
    let closing = [MessageType::CLOSE_CHANNEL, MessageType::GPADL_TEARDOWN];
    assert_eq!(types(&mut client), closing);
    assert!(matches!(client.teardown_gpadl(NOW, ring), Err(RequestError::GpadlBusy { .. })));
    hear(&mut client, Message::GpadlTorndown(GpadlTorndown { gpadl: ring }));
    let cause = TornDown::Acknowledged;
    let torn_down = Event::GpadlTornDown { relid: RELID, gpadl: ring, cause };
    assert_eq!(events(&mut client), [torn_down]);
}

#[test]
fn open_is_checked_before_it_is_sent() {
    let mut client = offered();
    let ring = lend(&mut client, 4);
    hear(&mut client, Message::Offer(offer(15, 1, 1)));
    events(&mut client);
    let open = |relid, ring, offset| OpenRequest::new(RelId(relid), GpadlId(ring), offset);
    let cases = [
        (open(99, ring.0, 2), RequestError::UnknownChannel { relid: RelId(99) }),
        (open(14, 1, 2), RequestError::UnknownGpadl { gpadl: GpadlId(1) }),
        (open(15, ring.0, 2), RequestError::ForeignGpadl { gpadl: ring, owner: RELID }),
        (open(14, ring.0, 0), RequestError::RingOffset { downstream_page_offset: 0, pages: 4 }),
        (open(14, ring.0, 4), RequestError::RingOffset { downstream_page_offset: 4, pages: 4 }),
    ];
    for (request, error) in cases {
        assert_eq!(client.open_channel(NOW, request), Err(error));
    }
    assert_eq!(sent(&mut client), []);
}

#[test]
fn open_result_is_matched_by_channel_and_open_id() {
    let mut client = offered();
    let ring = lend(&mut client, 4);
    hear(&mut client, open_result(14, Status::SUCCESS));
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    hear(&mut client, open_result(13, Status::SUCCESS));
    assert_eq!((events(&mut client), client.counters().unexpected), (vec![], 2));
    hear(&mut client, open_result(14, Status::FAILURE));
    let reason = Failure::Refused(Status::FAILURE);
    assert_eq!(events(&mut client), [Event::OpenFailed { relid: RELID, reason }]);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("may try again");
}

#[test]
fn interrupts_before_the_open_result_count() {
    let mut client = offered();
    let ring = lend(&mut client, 4);
    assert!(!client.accepts_interrupts(RELID));
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    assert!(client.accepts_interrupts(RELID));
    hear(&mut client, open_result(14, Status::SUCCESS));
    assert!(client.accepts_interrupts(RELID));
    client.close_channel(RELID).expect("open");
    assert!(!client.accepts_interrupts(RELID));
}
