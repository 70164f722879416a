//! The client against a host played by hand. Names of tests follow the lessons of the guests and hosts that came before.

mod connecting;
mod ending;
mod opening;
mod random;
mod rescinding;

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
