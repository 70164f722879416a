//! The client against a host played by hand. Names of tests follow the lessons of the guests and hosts that came before.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::gpadl::RangeList;
use crate::guid::Guid;
use crate::protocol::*;

const NOW: Duration = Duration::from_secs(1000);
const LATER: Duration = Duration::from_secs(2000);

fn client(config: Config) -> Client {
    let mut client = Client::new(config).expect("good configuration");
    client.connect(NOW).expect("not connected yet");
    client
}

/// All that is to be sent, parsed, with where it goes.
fn sent(client: &mut Client) -> Vec<(ConnectionId, Vec<u8>)> {
    let mut buf = [0xaa; MAX_MESSAGE];
    let mut all = Vec::new();
    while let Some(Outgoing { connection_id, len }) = client.poll_transmit(&mut buf) {
        assert!(buf[len..].iter().all(|byte| *byte == 0), "old bytes behind the message");
        all.push((connection_id, buf[..len].to_vec()));
        buf.fill(0xaa);
    }
    all
}

/// Takes one message and does not say yet that it was posted.
fn send_one(client: &mut Client) -> ConnectionId {
    let outgoing = client.poll_transmit(&mut [0; MAX_MESSAGE]);
    outgoing.expect("a message").connection_id
}

fn types(client: &mut Client) -> Vec<MessageType> {
    let all = sent(client);
    let word = |bytes: &[u8]| u32::from_le_bytes(*bytes.first_chunk().expect("a header"));
    all.iter().map(|(_, bytes)| MessageType(word(bytes))).collect()
}

fn events(client: &mut Client) -> Vec<Event> {
    core::iter::from_fn(|| client.poll_event()).collect()
}

fn tell(client: &mut Client, message: Message<'_>) -> Result<(), Violation> {
    let mut buf = [0; MAX_MESSAGE];
    let len = message.emit(&mut buf).expect("good message");
    client.handle_message(NOW, &buf[..len])
}

fn hear(client: &mut Client, message: Message<'_>) {
    assert_eq!(tell(client, message), Ok(()));
}

fn version_response(version_supported: bool, selected: u32) -> Message<'static> {
    Message::VersionResponse(VersionResponse {
        version_supported,
        connection_state: ConnectionState::SUCCESSFUL,
        selected,
        supported_features: None,
        monitor_pages: None,
    })
}

/// A client connected with 5.3, whose messages go to connection id 77.
fn connected() -> Client {
    connected_with(Config::default(), 77)
}

fn connected_with(config: Config, selected: u32) -> Client {
    let mut client = client(config);
    sent(&mut client);
    hear(&mut client, version_response(true, selected));
    sent(&mut client);
    events(&mut client);
    client
}

fn offer(relid: u32, instance: u8, sub_channel_index: u16) -> Offer {
    Offer {
        interface_id: Guid::NIC,
        instance_id: Guid::from_bytes([instance; 16]),
        reserved: [0; 16],
        flags: OfferFlags::default(),
        mmio_megabytes: 0,
        user_defined: [0; USER_DEFINED_LEN],
        sub_channel_index,
        mmio_megabytes_optional: 0,
        relid: RelId(relid),
        monitor_id: 0,
        monitor_allocated: false,
        is_dedicated_interrupt: true,
        connection_id: ConnectionId(0x2000 | relid),
    }
}

const RELID: RelId = RelId(14);

/// With channel 14 offered.
fn offered() -> Client {
    let mut client = connected();
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    assert_eq!(events(&mut client), [Event::Offered(offer(14, 1, 0))]);
    client
}

fn pages(count: u32) -> RangeList {
    let mut list = RangeList::new();
    list.push(count * 4096, 0, 0..u64::from(count)).expect("fits");
    list
}

fn created(relid: RelId, gpadl: GpadlId, status: Status) -> Message<'static> {
    Message::GpadlCreated(GpadlCreated { relid, gpadl, status })
}

/// Lends `count` pages on channel 14.
fn lend(client: &mut Client, count: u32) -> GpadlId {
    let gpadl = client.create_gpadl(NOW, RELID, pages(count)).expect("a channel");
    sent(client);
    hear(client, created(RELID, gpadl, Status::SUCCESS));
    assert_eq!(events(client), [Event::GpadlCreated { relid: RELID, gpadl }]);
    gpadl
}

fn open_result(open_id: u32, status: Status) -> Message<'static> {
    Message::OpenResult(OpenResult { relid: RELID, open_id: OpenId(open_id), status })
}

/// With channel 14 open, and the memory of its rings.
fn open() -> (Client, GpadlId) {
    let mut client = offered();
    let ring = lend(&mut client, 4);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    assert_eq!(types(&mut client), [MessageType::OPEN_CHANNEL]);
    hear(&mut client, open_result(14, Status::SUCCESS));
    assert_eq!(events(&mut client), [Event::Opened { relid: RELID }]);
    (client, ring)
}

fn rescind(client: &mut Client) {
    hear(client, Message::Rescind(Rescind { relid: RELID }));
}

#[test]
fn versions_are_tried_from_newest_to_oldest() {
    let mut client = client(Config::default());
    let mut tried = Vec::new();
    while let [(connection, bytes)] = &sent(&mut client)[..] {
        let Ok(Message::InitiateContact(contact)) = Message::parse(bytes, Context::UNCONNECTED) else {
            panic!("not a contact")
        };
        let expected = if contact.version >= Version::V5_0 { 4 } else { 1 };
        assert_eq!(*connection, ConnectionId(expected));
        tried.push(contact.version);
        hear(&mut client, version_response(false, 0));
    }
    assert_eq!(tried, Version::ALL[1..9]);
    assert_eq!(events(&mut client), [Event::ConnectFailed(ConnectFailure::NoCommonVersion)]);
    client.connect(NOW).expect("may try again");
}

#[test]
fn unknown_contact_connection_falls_back_at_once() {
    let mut client = client(Config::default());
    for _ in 0..4 {
        assert_eq!(send_one(&mut client), ConnectionId::CONTACT);
        client.transmit_failed(NOW, HypercallStatus::INVALID_CONNECTION_ID);
    }
    let [(connection, bytes)] = &sent(&mut client)[..] else { panic!("one contact") };
    assert_eq!(*connection, ConnectionId::MESSAGE);
    let version = Message::parse(bytes, Context::UNCONNECTED);
    assert!(matches!(version, Ok(Message::InitiateContact(m)) if m.version == Version::V4_1));
}

#[test]
fn later_messages_use_the_returned_connection_id() {
    let mut client = client(Config::default());
    sent(&mut client);
    hear(&mut client, version_response(true, 77));
    let all = sent(&mut client);
    assert_eq!(all, [(ConnectionId(77), vec![3, 0, 0, 0, 0, 0, 0, 0])]);
    let old = Config::default().newest_version(Version::V4_0);
    let mut client = connected_with(old, Version::V4_0.0);
    client.unload(NOW).expect("connected");
    assert_eq!(sent(&mut client)[0].0, ConnectionId::MESSAGE);
}

#[test]
fn a_supported_version_that_failed_is_not_followed_by_an_older_one() {
    let mut client = client(Config::default());
    sent(&mut client);
    let state = ConnectionState::FAILED_LOW_RESOURCES;
    let Message::VersionResponse(response) = version_response(true, 0) else { unreachable!() };
    let response = VersionResponse { connection_state: state, ..response };
    hear(&mut client, Message::VersionResponse(response));
    let failure = ConnectFailure::Refused { version: Version::V5_3, state };
    assert_eq!(events(&mut client), [Event::ConnectFailed(failure)]);
    assert_eq!(sent(&mut client), []);
}

#[test]
fn only_features_that_are_implemented_can_be_asked_for() {
    let unsupported = FeatureFlags::PAUSE_RESUME;
    let config = Config::default().features(unsupported.union(FeatureFlags::CONFIDENTIAL_CHANNELS));
    assert_eq!(Client::new(config).err(), Some(ConfigError::Features { unsupported }));
    let config = Config::default().features(FeatureFlags::CLIENT_ID);
    assert_eq!(Client::new(config).err(), Some(ConfigError::ClientId));
    let config = Config::default().newest_version(Version::V2_4).oldest_version(Version::V3_0);
    assert!(matches!(Client::new(config).err(), Some(ConfigError::Versions { .. })));
    let pages = MonitorPages { parent_to_child: 0, child_to_parent: 4096 };
    let config = Config::default().monitor_pages(pages);
    assert_eq!(Client::new(config).err(), Some(ConfigError::OneMonitorPage { pages }));
}

#[test]
fn features_in_force_are_those_of_both_sides() {
    let asked = FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS.union(FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES);
    let config = Config::default().newest_version(Version::V6_0).features(asked);
    let mut client = client(config.client_id(Guid::NIC));
    assert_eq!(sent(&mut client)[0].1.len(), 56);
    let pages = MonitorPages { parent_to_child: 0, child_to_parent: 0x7f_e000 };
    hear(
        &mut client,
        Message::VersionResponse(VersionResponse {
            version_supported: true,
            connection_state: ConnectionState::SUCCESSFUL,
            selected: 5,
            supported_features: Some(asked.union(FeatureFlags::PAUSE_RESUME)),
            monitor_pages: Some(pages),
        }),
    );
    let connected = Event::Connected { version: Version::V6_0, features: asked, monitor_pages: Some(pages) };
    assert_eq!(events(&mut client), [connected]);
    // Signal parameters make OPENCHANNEL longer.
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    events(&mut client);
    let ring = lend(&mut client, 4);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    let context = client.context().expect("connected");
    let all = sent(&mut client);
    let Ok(Message::OpenChannel(open)) = Message::parse(&all[0].1, context) else { panic!("not an open") };
    let signal = open.signal.expect("signal parameters");
    assert_eq!((signal.connection_id, signal.event_flag), (ConnectionId(0x200e), 14));
}

#[test]
fn offers_are_complete_only_when_the_host_says_so() {
    let mut client = connected();
    hear(&mut client, Message::Offer(offer(2, 1, 1)));
    hear(&mut client, Message::Offer(offer(1, 1, 0)));
    assert_eq!(client.offers().count(), 2);
    client.handle_timeout(LATER);
    hear(&mut client, Message::AllOffersDelivered);
    hear(&mut client, Message::AllOffersDelivered);
    hear(&mut client, Message::Offer(offer(3, 2, 0)));
    let expected = [
        Event::Offered(offer(2, 1, 1)),
        Event::Offered(offer(1, 1, 0)),
        Event::TimedOut(Exchange::Offers),
        Event::AllOffersDelivered,
        Event::Offered(offer(3, 2, 0)),
    ];
    assert_eq!(events(&mut client), expected);
    assert_eq!(client.counters().unexpected, 1);
}

#[test]
fn duplicate_and_impossible_offers_are_refused() {
    let mut client = offered();
    let refused = tell(&mut client, Message::Offer(offer(14, 2, 0)));
    assert_eq!(refused, Err(Violation::DuplicateRelId { relid: RELID }));
    let refused = tell(&mut client, Message::Offer(offer(15, 1, 0)));
    assert!(matches!(refused, Err(Violation::DuplicateChannel { existing: RELID, .. })));
    for relid in [0, 2048] {
        let refused = tell(&mut client, Message::Offer(offer(relid, 3, 0)));
        assert!(matches!(refused, Err(Violation::RelIdOutOfRange { .. })));
    }
    assert_eq!((events(&mut client), client.counters().violations), (vec![], 4));
}

#[test]
fn malformed_and_misdirected_messages_have_no_effect() {
    let mut client = connected();
    for bytes in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 0, 14], &[0xff; 240], &[0; 241]] {
        let refused = client.handle_message(NOW, bytes);
        assert!(matches!(refused, Err(Violation::Malformed(_))));
    }
    let message = MessageType::UNLOAD;
    assert_eq!(tell(&mut client, Message::Unload), Err(Violation::WrongDirection { message }));
    assert_eq!((events(&mut client), sent(&mut client)), (vec![], vec![]));
}

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

/// One step of a host, or of the user.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Offer(u32, u8, u16),
    Rescind(u32),
    Created(u32, u32, bool),
    Torndown(u32),
    OpenResult(u32, bool),
    Modified(u32),
    Version(bool),
    UnloadResponse,
    Lend(u32, u32),
    Open(u32, u32),
    Close(u32),
    TearDown(u32),
    Modify(u32),
    Unload,
    Connect,
    Send,
    FailToSend(u16),
    Take,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let relid = 1_u32..6;
    let gpadl = 0_u32..6;
    prop_oneof![
        (1_u8..30, proptest::collection::vec(any::<u8>(), 0..240)).prop_map(|(kind, mut bytes)| {
            bytes.splice(0..0, [kind, 0, 0, 0]);
            Step::Bytes(bytes)
        }),
        (0_u32..8, 0_u8..3, 0_u16..3).prop_map(|(r, i, s)| Step::Offer(r, i, s)),
        relid.clone().prop_map(Step::Rescind),
        (relid.clone(), gpadl.clone(), any::<bool>()).prop_map(|(r, g, ok)| Step::Created(r, g, ok)),
        gpadl.clone().prop_map(Step::Torndown),
        (relid.clone(), any::<bool>()).prop_map(|(r, ok)| Step::OpenResult(r, ok)),
        relid.clone().prop_map(Step::Modified),
        any::<bool>().prop_map(Step::Version),
        Just(Step::UnloadResponse),
        (relid.clone(), 1_u32..60).prop_map(|(r, pages)| Step::Lend(r, pages)),
        (relid.clone(), gpadl.clone()).prop_map(|(r, g)| Step::Open(r, g)),
        relid.clone().prop_map(Step::Close),
        gpadl.prop_map(Step::TearDown),
        relid.prop_map(Step::Modify),
        Just(Step::Unload),
        Just(Step::Connect),
        Just(Step::Send),
        prop_oneof![Just(0x12), Just(0x13), Just(5)].prop_map(Step::FailToSend),
        Just(Step::Take),
        (0_u64..20_000).prop_map(Step::Wait),
    ]
}

fn gpadl_id(index: u32) -> GpadlId {
    GpadlId(GpadlId::FIRST.0 + index)
}

fn status(ok: bool) -> Status {
    if ok { Status::SUCCESS } else { Status::FAILURE }
}

/// Violations and refused requests are expected here; that they are values and no panics is what is tested.
fn take_step(client: &mut Client, now: &mut Duration, step: Step) {
    let (at, relid) = (*now, RelId);
    let heard = match step {
        Step::Bytes(bytes) => client.handle_message(at, &bytes),
        Step::Offer(r, instance, sub) => tell(client, Message::Offer(offer(r, instance, sub))),
        Step::Rescind(r) => tell(client, Message::Rescind(Rescind { relid: relid(r) })),
        Step::Created(r, g, ok) => tell(client, created(relid(r), gpadl_id(g), status(ok))),
        Step::Torndown(g) => tell(client, Message::GpadlTorndown(GpadlTorndown { gpadl: gpadl_id(g) })),
        Step::OpenResult(r, ok) => {
            tell(client, Message::OpenResult(OpenResult { relid: relid(r), open_id: OpenId(r), status: status(ok) }))
        }
        Step::Modified(r) => tell(
            client,
            Message::ModifyChannelResponse(ModifyChannelResponse { relid: relid(r), status: Status::SUCCESS }),
        ),
        Step::Version(ok) => tell(client, version_response(ok, 9)),
        Step::UnloadResponse => tell(client, Message::UnloadResponse),
        request => {
            let asked = match request {
                Step::Lend(r, count) => client.create_gpadl(at, relid(r), pages(count)).map(|_| ()),
                Step::Open(r, g) => client.open_channel(at, OpenRequest::new(relid(r), gpadl_id(g), 1)),
                Step::Close(r) => client.close_channel(relid(r)),
                Step::TearDown(g) => client.teardown_gpadl(at, gpadl_id(g)),
                Step::Modify(r) => client.modify_channel(at, relid(r), VpIndex(1)),
                Step::Unload => client.unload(at),
                Step::Connect => client.connect(at),
                Step::FailToSend(code) => {
                    client.transmit_failed(at, HypercallStatus(code));
                    Ok(())
                }
                Step::Wait(micros) => {
                    *now += Duration::from_micros(micros);
                    client.handle_timeout(*now);
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = asked {
                assert!(!alloc::format!("{error}").is_empty());
            }
            Ok(())
        }
    };
    if let Err(violation) = heard {
        assert!(!alloc::format!("{violation}").is_empty());
    }
}

proptest! {
    // A case is up to 200 steps.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_panics_and_each_rescind_releases_at_most_once(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut client = connected();
        let mut now = NOW;
        let mut offers = [0_u32; 8];
        let mut released = [0_u32; 8];
        for step in steps {
            if matches!(step, Step::Take) {
                while let Some(event) = client.poll_event() {
                    if let Event::Offered(offer) = event && offer.relid.0 < 8 {
                        offers[offer.relid.0 as usize] += 1;
                    }
                    if matches!(event, Event::Unloaded) {
                        (offers, released) = ([0; 8], [0; 8]);
                    }
                }
            } else if matches!(step, Step::Send) {
                let mut buf = [0; MAX_MESSAGE];
                if client.poll_transmit(&mut buf).is_some() && buf[0] == 13 && buf[8] < 8 {
                    released[usize::from(buf[8])] += 1;
                }
            } else if !matches!(step, Step::FailToSend(_)) {
                // A release that failed to be posted is rightly repeated; failures have the test below.
                take_step(&mut client, &mut now, step);
            }
            for (released, offers) in released.iter().zip(&offers) {
                prop_assert!(released <= offers);
            }
        }
    }

    #[test]
    fn no_sequence_with_failing_posts_panics(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut client = connected();
        let mut now = NOW;
        let mut buf = [0; MAX_MESSAGE];
        for step in steps {
            match step {
                Step::Take => drop(events(&mut client)),
                Step::Send => {
                    client.poll_transmit(&mut buf);
                }
                step => take_step(&mut client, &mut now, step),
            }
        }
    }
}

#[test]
fn a_host_that_offers_and_rescinds_forever_fills_bounded_memory() {
    let mut client = connected();
    for round in 0..3_u32 {
        for relid in 0..3000 {
            let instance = Guid::new(relid, round as u16, 0, 0);
            let offer = Offer { instance_id: instance, ..offer(relid, 0, 0) };
            let accepted = tell(&mut client, Message::Offer(offer));
            assert_eq!(accepted.is_ok(), round == 0 && (1..=2047).contains(&relid));
        }
        assert_eq!(client.offers().count(), if round == 0 { 2047 } else { 0 });
        for relid in 1..=2047 {
            hear(&mut client, Message::Rescind(Rescind { relid: RelId(relid) }));
        }
    }
    // The user was away all the time: one offer and one rescind for each number.
    assert_eq!(client.events.len(), 2 * 2047);
    events(&mut client);
    assert_eq!(types(&mut client).len(), 2047);
    let State::Connected(connection) = &client.state else { panic!("connected") };
    assert!(connection.channels.is_empty());
}
