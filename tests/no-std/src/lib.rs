//! Proof that the driver needs no `std`: wire crates, rings, control plane and driver in a static library that brings its own
//! allocator and panic handler, and links against nothing but `memcpy` and the like.
//!
//! [`netvsc_no_std_check`] calls into each crate, so that generic code is really generated, and says which of them does not
//! do as it should. `check.sh` builds the library, looks at its symbols, links it to a C program and runs that.
#![no_std]

extern crate alloc;

mod bus;
mod data_path;
mod runtime;

use core::task::{Context, Waker};
use core::time::Duration;

use netvsc::{Config, Instant, Nic};
use nvsp::{Init, Sender, Version};
use rndis::packet::{PacketMsg, TxHeader};
use vmbus::client::{self, Client};
use vmbus::memory::PAGE_SIZE;
use vmbus::protocol::{self, MAX_MESSAGE};
use vmbus::ring::{Consumer, MappedRing};

use bus::OneChannelBus;

/// What did not do as it should; 0 is nothing.
type Finding = i32;

/// One thing to look at; `None` if it does not do as it should.
type Part = fn() -> Option<()>;

/// Runs everything; 0 if it did as it should.
#[unsafe(no_mangle)]
pub extern "C" fn netvsc_no_std_check() -> Finding {
    let parts: [(Finding, Part); 4] = [(1, wire), (2, control_plane), (3, driver), (4, data_path::there_and_back)];
    parts.into_iter().find(|(_, part)| part().is_none()).map_or(0, |(finding, _)| finding)
}

/// A frame in an RNDIS message, written and read.
fn wire() -> Option<()> {
    let frame = [0x5A; 60];
    let mut section = [0; 128];
    let start = TxHeader::default().emit(60, 0, &mut section).ok()?;
    section[start..start + 60].copy_from_slice(&frame);
    (PacketMsg::parse(&section[..start + 60]).ok()?.data() == frame).then_some(())
}

/// The client of the control plane asks for a connection.
fn control_plane() -> Option<()> {
    let mut client = Client::new(client::Config::default()).ok()?;
    client.connect(Duration::ZERO).ok()?;
    let mut message = [0; MAX_MESSAGE];
    let outgoing = client.poll_transmit(&mut message)?;
    let context = protocol::Context::new(protocol::Version::V5_3);
    match protocol::Message::parse(&message[..outgoing.len], context).ok()? {
        protocol::Message::InitiateContact(_) => Some(()),
        _ => None,
    }
}

/// A NIC finds its channel, opens it, and offers the newest version; the host stays silent, and it gives up.
fn driver() -> Option<()> {
    let (bus, rings) = OneChannelBus::new();
    let mut nic = Nic::new(bus, Config::default().receive_sections(64).send_sections(16), Instant::ZERO).ok()?;
    let mut cx = Context::from_waker(Waker::noop());
    nic.poll(Instant::ZERO, &mut cx, None).ok()?;
    let mut queue = nic.take_queue()?;
    nic.poll(Instant::ZERO, &mut cx, Some(&mut queue)).ok()?;

    let mut host = Consumer::new(MappedRing::new(rings.outgoing, PAGE_SIZE).ok()?);
    let mut body = [0; 256];
    let incoming = host.take(&mut body).ok()??;
    let (_, payload) = incoming.split(&body);
    match nvsp::Message::parse(payload, Sender::Guest).ok()? {
        nvsp::Message::Init(Init { max_version: Version::V6_1, .. }) => {}
        _ => return None,
    }

    for seconds in (0..600).step_by(10) {
        let now = Instant::new(Duration::from_secs(seconds));
        nic.poll(now, &mut cx, Some(&mut queue)).ok()?;
        while nic.poll_event().is_some() {}
    }
    nic.is_over().then_some(())
}
