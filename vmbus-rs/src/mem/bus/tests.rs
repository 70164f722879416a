//! The bus against a host of one message at a time.

use std::task::Waker;

use super::*;
use crate::mem::{HostPort, connection};
use crate::protocol::{
    ConnectionId, ConnectionState, Context as Session, GpadlCreated, GpadlTorndown, MAX_MESSAGE, Message, Offer,
    OpenId, OpenResult, Status, USER_DEFINED_LEN, Version, VersionResponse,
};

fn poll(bus: &mut MemBus) -> Poll<BusEvent> {
    bus.poll_event(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
}

#[test]
fn contacts_the_host_and_sees_it_go() {
    let (guest, host) = connection();
    let mut bus = MemBus::new(guest);
    assert!(poll(&mut bus).is_pending());
    let contact = host.take_message().expect("a message");
    assert_eq!(contact.bytes[0], 14, "INITIATE_CONTACT");
    drop(host);
    assert_eq!(poll(&mut bus), Poll::Ready(BusEvent::Gone));
    assert!(poll(&mut bus).is_pending(), "once");
}

const PRIMARY: RelId = RelId(3);
const SUBCHANNEL: RelId = RelId(4);
const RINGS: RingSizes = RingSizes { outgoing_bytes: 2 * PAGE_SIZE, incoming_bytes: 2 * PAGE_SIZE };

fn say(host: &HostPort, message: Message<'_>) {
    let mut bytes = [0; MAX_MESSAGE];
    let len = message.emit(&mut bytes).unwrap();
    host.post_message(&bytes[..len]).unwrap();
}

fn offer(relid: RelId, sub_channel_index: u16) -> Offer {
    Offer {
        interface_id: crate::guid::Guid::NIC,
        instance_id: crate::guid::Guid::from_bytes([1; 16]),
        reserved: [0; 16],
        flags: Default::default(),
        mmio_megabytes: 0,
        user_defined: [0; USER_DEFINED_LEN],
        sub_channel_index,
        mmio_megabytes_optional: 0,
        relid,
        monitor_id: u8::MAX,
        monitor_allocated: false,
        is_dedicated_interrupt: true,
        connection_id: ConnectionId(0x2000 | relid.0),
    }
}

fn open_result(host: &HostPort, relid: RelId, status: Status) {
    say(host, Message::OpenResult(OpenResult { relid, open_id: OpenId(relid.0), status }));
}

/// Lets both go on until neither has anything to say; what the host was asked and has not answered, and what the bus
/// told. This host takes its time over OPENCHANNEL.
fn settle(bus: &mut MemBus, host: &HostPort) -> (Vec<String>, Vec<BusEvent>) {
    let (mut asked, mut told) = (Vec::new(), Vec::new());
    loop {
        while let Poll::Ready(event) = poll(bus) {
            told.push(event);
        }
        let Some(message) = host.take_message() else { return (asked, told) };
        match Message::parse(&message.bytes, Session::new(Version::V5_3)).unwrap() {
            Message::InitiateContact(_) => say(
                host,
                Message::VersionResponse(VersionResponse {
                    version_supported: true,
                    connection_state: ConnectionState::SUCCESSFUL,
                    selected: 1,
                    supported_features: None,
                    monitor_pages: None,
                }),
            ),
            Message::RequestOffers => {
                say(host, Message::Offer(offer(PRIMARY, 0)));
                say(host, Message::Offer(offer(SUBCHANNEL, 1)));
            }
            Message::GpadlHeader(m) => {
                let (relid, gpadl, status) = (m.relid, m.gpadl, Status::SUCCESS);
                say(host, Message::GpadlCreated(GpadlCreated { relid, gpadl, status }));
            }
            Message::GpadlTeardown(m) => {
                asked.push(format!("take back {}", m.relid));
                say(host, Message::GpadlTorndown(GpadlTorndown { gpadl: m.gpadl }));
            }
            Message::OpenChannel(m) => asked.push(format!("open {}", m.relid)),
            Message::CloseChannel(m) => asked.push(format!("close {}", m.relid)),
            other => panic!("{other:?}"),
        }
    }
}

fn settled() -> (MemBus, HostPort) {
    let (guest, host) = connection();
    let mut bus = MemBus::with_config(guest, client::Config::default().newest_version(Version::V5_3));
    assert_eq!(settle(&mut bus, &host).1.len(), 2, "both channels are offered");
    (bus, host)
}

#[test]
fn a_channel_that_was_let_go_of_is_closed_once_it_is_open() {
    for (status, heard) in [(Status::SUCCESS, false), (Status::SUCCESS, true), (Status::FAILURE, false)] {
        let (mut bus, host) = settled();
        let before = bus.port.memory().blocks();
        bus.open(PRIMARY, RINGS).unwrap();
        assert_eq!(settle(&mut bus, &host), (vec!["open 3".to_owned()], vec![]));
        if heard {
            open_result(&host, PRIMARY, status);
            bus.advance();
        }
        bus.close(PRIMARY);
        // And wanted again: that has to wait.
        bus.open(PRIMARY, RINGS).unwrap();
        if !heard {
            assert_eq!(settle(&mut bus, &host), (vec![], vec![]));
            open_result(&host, PRIMARY, status);
        }
        let (mut asked, told) = settle(&mut bus, &host);
        assert_eq!(told, [], "the first opening is nobody's business any more");
        if status.is_success() {
            assert_eq!(asked.remove(0), "close 3");
        }
        assert_eq!(asked, ["take back 3", "open 3"]);
        open_result(&host, PRIMARY, Status::SUCCESS);
        assert_eq!(settle(&mut bus, &host), (vec![], vec![BusEvent::Opened(PRIMARY)]));
        assert!(bus.take(PRIMARY).is_some());
        bus.close(PRIMARY);
        assert_eq!(settle(&mut bus, &host).0, ["close 3", "take back 3"]);
        assert_eq!(bus.port.memory().blocks(), before);
    }
}

#[test]
fn a_primary_channel_waits_for_its_subchannels_but_not_for_ever() {
    for silent in [false, true] {
        let (mut bus, host) = settled();
        bus.open(PRIMARY, RINGS).unwrap();
        settle(&mut bus, &host);
        open_result(&host, PRIMARY, Status::SUCCESS);
        settle(&mut bus, &host);
        bus.open(SUBCHANNEL, RINGS).unwrap();
        assert_eq!(settle(&mut bus, &host).0, ["open 4"]);
        bus.close(SUBCHANNEL);
        bus.close(PRIMARY);
        assert_eq!(settle(&mut bus, &host), (vec![], vec![]));
        if silent {
            bus.open(PRIMARY, RINGS).unwrap();
            assert_eq!(settle(&mut bus, &host).0, ["close 3", "take back 3", "open 3"]);
        } else {
            open_result(&host, SUBCHANNEL, Status::SUCCESS);
            assert_eq!(settle(&mut bus, &host).0, ["close 4", "take back 4", "close 3", "take back 3"]);
        }
    }
}

#[test]
fn falls_back_and_unloads_at_its_end() {
    let (guest, host) = connection();
    let mut bus = MemBus::new(guest);
    let mut versions = 0;
    while poll(&mut bus).is_pending() {
        let Some(message) = host.take_message() else { break };
        let mut answer = [0; 16];
        answer[0] = 15;
        if message.bytes[0] == 14 {
            versions += 1;
            // Refused until 4.0, then accepted.
            let version = u32::from_le_bytes(message.bytes[8..12].try_into().unwrap());
            answer[8] = u8::from(version == 0x4_0000);
            answer[12..16].copy_from_slice(&version.to_le_bytes());
            host.post_message(&answer).unwrap();
        }
    }
    assert!(versions > 1, "newer versions were tried first");
    assert!(bus.context().is_some());
    drop(bus);
    let last = std::iter::from_fn(|| host.take_message()).last().expect("a message");
    assert_eq!(last.bytes[0], 16, "UNLOAD");
    assert!(host.guest_is_gone());
}

/// Packets that the host has not read yet may name it.
#[test]
fn memory_outlives_the_rings_that_may_name_it() {
    let (mut bus, host) = settled();
    let before = bus.port.memory().blocks();
    bus.open(PRIMARY, RINGS).unwrap();
    settle(&mut bus, &host);
    open_result(&host, PRIMARY, Status::SUCCESS);
    settle(&mut bus, &host);
    let memory = bus.allocate(PRIMARY, BufferWish { purpose: Purpose::Direct, bytes: PAGE_SIZE }).unwrap();
    let gpa = memory.gpa(0).unwrap();
    bus.close(PRIMARY);
    bus.release(PRIMARY, memory);
    assert!(host.memory().map(gpa, 12).is_ok());
    settle(&mut bus, &host);
    assert!(host.memory().map(gpa, 12).is_err());
    assert_eq!(bus.port.memory().blocks(), before);
}
