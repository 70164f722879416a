//! An open device: its channels, signals, subchannels, and its end. Each file has one of these.
#![cfg(all(feature = "uio", target_os = "linux"))]

#[path = "../uio_fake/mod.rs"]
mod uio_fake;

mod ends;
mod opening;
mod reactor;
mod signals;
mod subchannels;

use std::fs::{self, File};
use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use uio_fake::{EIO, GUID, Kernel, NIC, PRIMARY, RING, get, maps, set};
use vmbus::bus::{BufferWish, Bus, BusEvent, Channel, ChannelInfo, Doorbell, Interrupt, PartsOf, Purpose, RingSizes};
use vmbus::error::{Error as _, ErrorKind};
use vmbus::gpadl::GpadlId;
use vmbus::memory::{SharedMemory, SharedMemoryExt};
use vmbus::packet::TransactionId;
use vmbus::protocol::RelId;
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};
use vmbus::uio::{
    DirectPages, DirectRefusal, GoneReason, KernelVariant, Reactor, Selector, Settings, Turn, UioBus, UioChannel,
    UioDevice, UioError,
};

/// Longer than any test takes.
const AGES: Duration = Duration::from_secs(3600);
const ID: RelId = RelId(PRIMARY);

/// Waits for something that must come.
fn wait<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time") })
}

fn find(settings: Settings) -> UioDevice {
    UioDevice::find(&Selector::Only, settings).unwrap()
}

fn open(kernel: &Arc<Kernel>) -> UioBus {
    find(kernel.settings()).open().unwrap()
}

fn next(bus: &mut UioBus) -> BusEvent {
    wait(poll_fn(|cx| bus.poll_event(cx))).unwrap()
}

fn now(bus: &mut UioBus) -> Option<BusEvent> {
    match bus.poll_event(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => Some(event.unwrap()),
        Poll::Pending => None,
    }
}

fn take(bus: &mut UioBus, channel: RelId) -> PartsOf<UioChannel> {
    bus.open(channel, RingSizes::default()).unwrap();
    assert_eq!(next(bus), BusEvent::Opened(channel));
    let channel = bus.take(channel).unwrap();
    channel.into_parts()
}

/// The primary channel, opened.
fn primary(bus: &mut UioBus) -> PartsOf<UioChannel> {
    assert!(matches!(next(bus), BusEvent::Offered(info) if info.id == ID && info.is_primary()));
    take(bus, ID)
}

fn offered(bus: &mut UioBus) -> ChannelInfo {
    match next(bus) {
        BusEvent::Offered(info) => info,
        other => panic!("{other:?} instead of an offer"),
    }
}

fn wish(purpose: Purpose) -> BufferWish {
    BufferWish { purpose, bytes: 123_456 }
}

fn interrupted(interrupt: &mut impl Interrupt<Error = UioError>) -> Result<(), UioError> {
    wait(poll_fn(|cx| interrupt.poll_latched(cx)))
}

fn is_interrupted(interrupt: &mut impl Interrupt<Error = UioError>) -> bool {
    interrupt.poll_latched(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Clears what a channel's interrupt remembers.
fn settle(interrupt: &mut impl Interrupt<Error = UioError>) {
    while is_interrupted(interrupt) {}
}

/// A bus with three subchannels, and all four channels in order.
fn four(kernel: &Arc<Kernel>) -> (UioBus, Vec<PartsOf<UioChannel>>) {
    let mut bus = open(kernel);
    let mut channels = vec![primary(&mut bus)];
    bus.expect_subchannels(3, AGES);
    for index in 1..4 {
        kernel.add_subchannel(20 + u32::from(index), index, Some(5 + index as u8));
        let info = offered(&mut bus);
        assert_eq!((info.id.0, info.subchannel_index), (20 + u32::from(index), index));
        assert_eq!(info.monitor.map(|monitor| monitor.get()), Some(5 + index as u8));
        channels.push(take(&mut bus, info.id));
    }
    wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap();
    (bus, channels)
}

/// Looks for nothing by the time: what is not woken by its descriptor sleeps.
fn unhurried(kernel: &Arc<Kernel>) -> Settings {
    kernel.settings().rescan(AGES).idle_rescan(AGES)
}

/// A device and its reactor, turned by hand.
fn by_hand(kernel: &Arc<Kernel>) -> (UioBus, Reactor) {
    let (mut bus, reactor) = find(unhurried(kernel)).open_with_reactor().unwrap();
    primary(&mut bus);
    (bus, reactor)
}
