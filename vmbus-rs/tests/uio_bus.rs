//! An open device: its channels, signals, subchannels, and its end.
#![cfg(all(feature = "uio", target_os = "linux"))]

mod uio_fake;

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

/// Whatever a kernel left in the words that it does not reset.
#[test]
fn opens_with_the_kernels_rings_and_defined_masks() {
    let kernel = Kernel::new(KernelVariant::A, Some(5));
    let mut bus = open(&kernel);
    assert_eq!(bus.name(), "uio0");
    let rings = kernel.map(0);
    let parts = primary(&mut bus);
    assert_eq!((parts.outgoing.len(), parts.incoming.len()), (RING, RING));
    assert_eq!(parts.ring_header_bytes, vmbus::memory::system_page_size());
    assert_eq!(get(&rings, RING + 8), 1, "host→guest interrupts masked");
    assert_eq!(get(&rings, 12), 0, "no room wanted");
    parts.outgoing.write(parts.ring_header_bytes, b"out").unwrap();
    parts.incoming.write(parts.ring_header_bytes, b"in!").unwrap();
    let mut both = [0; 3];
    for (ring, text) in [(0, b"out"), (RING, b"in!")] {
        rings.read(ring + parts.ring_header_bytes, &mut both).unwrap();
        assert_eq!(&both, text);
    }
    assert!(parts.interrupt.can_unmask());
    assert_eq!(bus.open(ID, RingSizes::default()), Err(UioError::AlreadyOpen(ID)));
    assert_eq!(bus.open(RelId(99), RingSizes::default()), Err(UioError::UnknownChannel(RelId(99))));
    assert!(bus.take(ID).is_none(), "once");
}

#[test]
fn gives_the_buffers_that_the_kernel_made_zeroed() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    kernel.map(3).write(77, b"somebody's").unwrap();
    let mut bus = open(&kernel);
    primary(&mut bus);
    for (purpose, gpadl, index, len) in
        [(Purpose::Receive, GpadlId(925_200), 3, 1 << 20), (Purpose::Send, GpadlId(925_201), 4, 1 << 19)]
    {
        let memory = bus.allocate(ID, wish(purpose)).unwrap();
        assert_eq!(next(&mut bus), BusEvent::GpadlCreated(gpadl), "at once");
        assert_eq!((memory.gpadl(), memory.len()), (Some(gpadl), len), "what there is, not what was wished for");
        assert_eq!(get(&memory, 77), 0);
        memory.write(5, b"shared").unwrap();
        let mut bytes = [0; 6];
        kernel.map(index).read(5, &mut bytes).unwrap();
        assert_eq!(&bytes, b"shared");
        assert_eq!(bus.allocate(ID, wish(purpose)).unwrap_err(), UioError::BufferTaken(purpose));
        bus.release(ID, memory);
        assert_eq!(next(&mut bus), BusEvent::GpadlTornDown(gpadl));
    }
    assert_eq!(bus.allocate(ID, BufferWish { purpose: Purpose::Direct, bytes: 0 }).unwrap_err(), UioError::Empty);
}

#[test]
fn a_device_without_buffers_has_none() {
    let kernel = Kernel::with_maps(KernelVariant::B, None, maps()[..3].to_vec());
    let mut bus = open(&kernel);
    primary(&mut bus);
    let error = bus.allocate(ID, wish(Purpose::Receive)).unwrap_err();
    assert_eq!((error.kind(), &error), (ErrorKind::Refused, &UioError::NoBuffer(Purpose::Receive)));
}

#[test]
fn maps_that_cannot_be_are_refused_by_name() {
    let maps = |change: fn(&mut Vec<(String, usize)>)| {
        let mut maps = maps();
        change(&mut maps);
        let kernel = Kernel::with_maps(KernelVariant::D, Some(5), maps);
        let error = find(kernel.settings()).open().unwrap_err();
        assert_eq!(kernel.sessions(), (1, 1), "closed again");
        error
    };
    assert_eq!(maps(|maps| maps.truncate(2)), UioError::NoMap { name: "monitor_page" });
    assert_eq!(maps(|maps| maps[1].1 = 2048), UioError::BadMap { name: "int_page", size: 2048 });
    assert_eq!(maps(|maps| maps[4].1 += 1), UioError::BadMap { name: "send", size: (1 << 19) + 1 });
}

#[test]
fn direct_memory_or_a_reason() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = find(kernel.settings().direct(DirectPages::Off)).open().unwrap();
    let error = bus.allocate(ID, wish(Purpose::Direct)).unwrap_err();
    assert_eq!((error.kind(), error), (ErrorKind::Refused, UioError::NoDirectMemory(DirectRefusal::Off)));
    let mut bus = find(kernel.settings().direct(DirectPages::Movable)).open().unwrap();
    match bus.allocate(ID, wish(Purpose::Direct)) {
        Ok(memory) => assert!(memory.len() >= 123_456 && memory.gpa(memory.len() - 1).is_some()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{error}"),
    }
}

#[test]
fn a_monitored_channel_signals_by_its_bit_and_leaves_the_others() {
    for (monitor, word, bit) in [(0, 8, 0), (31, 8, 31), (32, 16, 0), (77, 24, 13), (127, 32, 31)] {
        let kernel = Kernel::new(KernelVariant::A, Some(monitor));
        let page = kernel.map(2);
        set(&page, word, 0x0020_0400);
        let latency = Duration::from_micros(80);
        let mut bus = find(kernel.settings().monitor_latency(Some(latency))).open().unwrap();
        assert_eq!(get(&page, 0x240 + 2 * (monitor as usize & !1)) >> (16 * (monitor & 1)), 800, "in steps of 100 ns");
        let parts = primary(&mut bus);
        parts.doorbell.signal().unwrap();
        assert_eq!(get(&page, word), 0x0020_0400 | 1 << bit, "monitor {monitor}");
        assert!(kernel.controls().is_empty(), "no system call");
    }
}

#[test]
fn the_hosts_latency_can_be_left_alone() {
    let kernel = Kernel::new(KernelVariant::A, Some(4));
    set(&kernel.map(2), 0x248, 77);
    let _bus = find(kernel.settings().monitor_latency(None)).open().unwrap();
    assert_eq!(get(&kernel.map(2), 0x248), 77);
}

#[test]
fn an_unmonitored_channel_signals_by_interrupt_control_and_keeps_its_mask() {
    let kernel = Kernel::new(KernelVariant::C, None);
    let mut bus = open(&kernel);
    let mut parts = primary(&mut bus);
    let (rings, page) = (kernel.map(0), kernel.map(1));
    set(&page, 2048, 0x10);
    settle(&mut parts.interrupt);

    parts.doorbell.signal().unwrap();
    assert_eq!(get(&page, 2048), 0x10 | 1 << PRIMARY, "the others' bits stay");
    assert_eq!(kernel.controls(), [1]);
    assert_eq!(get(&rings, RING + 8), 1, "the mask that the kernel cleared is set again");
    assert!(is_interrupted(&mut parts.interrupt), "its queue may have cleared it in order to sleep");

    set(&rings, RING + 8, 0);
    parts.doorbell.signal().unwrap();
    assert_eq!(get(&rings, RING + 8), 0);
    assert!(!is_interrupted(&mut parts.interrupt));
    assert_eq!(get(&kernel.map(2), 8), 0, "no monitor's bit");
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

/// Turned by hand: who is not woken by a count is not woken later either.
#[test]
fn one_event_count_wakes_the_queues_that_have_a_reason() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, mut reactor) = find(kernel.settings()).open_with_reactor().unwrap();
    let mut turn = || assert!(matches!(reactor.turn(Instant::now()), Turn::Wait(_)));
    let mut channels = vec![primary(&mut bus)];
    for index in 1..4 {
        kernel.add_subchannel(20 + u32::from(index), index, Some(5 + index as u8));
        turn();
        let id = offered(&mut bus).id;
        channels.push(take(&mut bus, id));
    }
    let mut queues: Vec<_> = channels
        .into_iter()
        .map(|parts| {
            let header = parts.ring_header_bytes;
            let host = Producer::new(MappedRing::new(parts.incoming.clone(), header).unwrap());
            let guest = Consumer::new(MappedRing::new(parts.incoming, header).unwrap());
            (host, guest, parts.interrupt)
        })
        .collect();
    for (_, guest, interrupt) in &mut queues {
        assert!(!guest.unmask().unwrap());
        settle(interrupt);
    }
    for chosen in [0, 3, 1, 2, 2, 0] {
        let (host, guest, interrupt) = &mut queues[chosen];
        host.write(&Outgoing::notice(TransactionId(7), b"for one queue")).unwrap();
        assert!(host.publish().unwrap().is_needed());
        kernel.raise();
        turn();
        assert!(is_interrupted(interrupt));
        let mut body = [0; 64];
        assert!(guest.take(&mut body).unwrap().is_some());
        let _ = guest.commit().unwrap();
        assert!(!guest.unmask().unwrap());
        for (other, (_, _, interrupt)) in queues.iter_mut().enumerate() {
            assert!(other == chosen || !is_interrupted(interrupt), "queue {other} has nothing to do");
        }
    }
}

/// On kernels that mask by themselves an interrupt may set the mask after its data was already taken: the queue has to
/// look, or never hears again.
#[test]
fn a_mask_that_the_kernel_set_wakes_its_queue_although_its_ring_is_empty() {
    let kernel = Kernel::new(KernelVariant::B, Some(5));
    let mut bus = open(&kernel);
    let mut parts = primary(&mut bus);
    let mut guest = Consumer::new(MappedRing::new(parts.incoming, parts.ring_header_bytes).unwrap());
    assert!(!guest.unmask().unwrap());
    settle(&mut parts.interrupt);
    set(&kernel.map(0), RING + 8, 1);
    kernel.raise();
    interrupted(&mut parts.interrupt).unwrap();
    assert!(!guest.unmask().unwrap());
    assert_eq!(get(&kernel.map(0), RING + 8), 0, "cleared again, although it was thought to be");
}

#[test]
fn room_that_was_asked_for_wakes_too() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = open(&kernel);
    let mut parts = primary(&mut bus);
    set(&kernel.map(0), RING + 8, 0);
    settle(&mut parts.interrupt);
    set(&kernel.map(0), 12, 4096);
    kernel.raise();
    interrupted(&mut parts.interrupt).unwrap();
}

/// Nothing but the notification can find it: no scan is due for an hour.
#[test]
fn a_subchannel_is_found_when_its_ring_is_renamed_into_place() {
    let kernel = Kernel::new(KernelVariant::C, Some(5));
    let settings = kernel.settings().rescan(AGES).idle_rescan(AGES);
    let mut bus = find(settings).open().unwrap();
    primary(&mut bus);
    bus.expect_subchannels(1, AGES);
    kernel.prepare_subchannel(21, 1, Some(6));
    assert_eq!(now(&mut bus), None, "not without its ring");
    let host = kernel.complete_subchannel(21);
    let info = offered(&mut bus);
    assert_eq!((info.id, info.subchannel_index, info.interface), (RelId(21), 1, NIC.parse().unwrap()));
    let parts = take(&mut bus, info.id);
    parts.outgoing.write(5000, b"sub").unwrap();
    let mut bytes = [0; 3];
    host.read(5000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"sub");
    assert_eq!(get(&host, RING + 8), 1, "masked until its queue wants it");
    parts.doorbell.signal().unwrap();
    assert_eq!(get(&kernel.map(2), 8), 1 << 6, "its own monitor");
}

/// As in the sysfs of a kernel: it grows without saying so.
#[test]
fn a_subchannel_is_found_although_nothing_is_notified() {
    let kernel = Kernel::new(KernelVariant::C, Some(5));
    let mut bus = open(&kernel);
    primary(&mut bus);
    kernel.prepare_subchannel(21, 1, Some(6));
    let path = kernel.tree.device(GUID).join("channels/21/ring");
    let ring = File::create(&path).unwrap();
    bus.expect_subchannels(1, Duration::ZERO);
    let missing = wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap_err();
    assert_eq!((missing.expected, missing.arrived), (1, 0));
    assert_eq!(missing.refused, [(RelId(21), UioError::BadMap { name: "ring", size: 0 })]);
    // Changes what is there, and adds nothing.
    ring.set_len(2 * RING as u64).unwrap();
    assert_eq!(offered(&mut bus).id, RelId(21));
    assert!(bus.refusals().is_empty());
    wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap();
}

#[test]
fn subchannels_that_never_come_are_overdue() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = open(&kernel);
    primary(&mut bus);
    bus.expect_subchannels(2, Duration::from_millis(30));
    kernel.add_subchannel(21, 1, Some(6));
    offered(&mut bus);
    let missing = wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap_err();
    assert_eq!((missing.expected, missing.arrived), (2, 1));
    assert_eq!(missing.to_string(), "1 of 2 subchannels have come");
}

#[test]
fn a_subchannel_of_an_earlier_session_is_not_taken_for_one_of_this() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    kernel.add_subchannel(21, 1, Some(6));
    let mut bus = open(&kernel);
    primary(&mut bus);
    kernel.add_subchannel(22, 2, Some(7));
    assert_eq!(offered(&mut bus).id, RelId(22), "the other one is old");
    kernel.remove_subchannel(21);
    kernel.add_subchannel(21, 1, Some(6));
    assert_eq!(offered(&mut bus).id, RelId(21), "the same number, anew");
}

#[test]
fn a_subchannel_that_is_taken_back_is_rescinded_and_let_go_of() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, mut channels) = four(&kernel);
    let mut second = channels.remove(2);
    settle(&mut second.interrupt);
    kernel.remove_subchannel(22);
    assert_eq!(next(&mut bus), BusEvent::Rescinded(RelId(22)));
    assert_eq!(interrupted(&mut second.interrupt), Err(UioError::Rescinded(RelId(22))));
    assert_eq!(second.doorbell.signal().unwrap_err().kind(), ErrorKind::Gone);
    bus.close(RelId(22));
    channels[1].doorbell.signal().unwrap();
    assert_eq!(bus.gone(), None, "the others stay");
}

#[test]
fn variants_are_told_apart_and_subchannels_unmasked_only_where_that_is_safe() {
    use KernelVariant::{A, B, BD, C, D};
    for (variant, candidates, safe) in
        [(A, &[A, B][..], false), (B, &[A, B], false), (C, &[C], true), (D, &[D], true), (BD, &[BD], false)]
    {
        let kernel = Kernel::new(variant, Some(5));
        let mut bus = open(&kernel);
        let initial = bus.kernel();
        assert_eq!(initial.masks, matches!(variant, D | BD).then_some(false), "{variant:?}");
        let parts = primary(&mut bus);
        let rings = kernel.add_subchannel(21, 1, Some(6));
        let info = offered(&mut bus);
        assert_eq!(bus.kernel().candidates().collect::<Vec<_>>(), candidates, "{variant:?}");
        assert_eq!(get(&rings, RING + 8), 1, "{variant:?}: masked whatever it was");
        assert_eq!(get(&kernel.map(0), RING + 8), 1, "{variant:?}: found out without a trace");
        assert_eq!(take(&mut bus, info.id).interrupt.can_unmask(), safe, "{variant:?}");
        assert!(parts.interrupt.can_unmask());
        assert_eq!(kernel.controls(), [1], "found out once");
        kernel.add_subchannel(22, 2, Some(7));
        offered(&mut bus);
        assert_eq!(kernel.controls(), [1]);
    }
}

#[test]
fn a_variant_that_is_known_is_not_found_out() {
    for (variant, safe) in [(KernelVariant::C, true), (KernelVariant::B, false)] {
        let kernel = Kernel::new(KernelVariant::B, Some(5));
        let mut bus = find(kernel.settings().kernel(variant)).open().unwrap();
        primary(&mut bus);
        kernel.add_subchannel(21, 1, Some(6));
        let id = offered(&mut bus).id;
        assert_eq!(take(&mut bus, id).interrupt.can_unmask(), safe);
        assert!(kernel.controls().is_empty());
    }
}

#[test]
fn a_subchannel_on_which_the_host_cannot_be_signalled_is_not_offered() {
    let kernel = Kernel::new(KernelVariant::B, None);
    let mut bus = open(&kernel);
    primary(&mut bus);
    bus.expect_subchannels(2, Duration::from_secs(3));
    kernel.add_subchannel(21, 1, None);
    kernel.add_subchannel(22, 2, Some(7));
    assert_eq!(offered(&mut bus).id, RelId(22));
    let missing = wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap_err();
    assert_eq!(missing.refused, [(RelId(21), UioError::NotSignalled(RelId(21)))]);

    let kernel = Kernel::new(KernelVariant::D, None);
    let mut bus = open(&kernel);
    primary(&mut bus);
    kernel.add_subchannel(21, 1, None);
    let id = offered(&mut bus).id;
    let parts = take(&mut bus, id);
    parts.doorbell.signal().unwrap();
    assert_eq!(get(&kernel.map(1), 2048), 1 << 21);
}

/// What everybody sees when the device ends.
fn assert_gone(kernel: &Kernel, bus: &mut UioBus, channels: &mut [PartsOf<UioChannel>], reason: GoneReason) {
    assert_eq!(next(bus), BusEvent::Gone);
    assert_eq!(bus.gone(), Some(reason));
    assert_eq!(now(bus), None, "once");
    for parts in channels {
        assert_eq!(interrupted(&mut parts.interrupt), Err(UioError::Gone(reason)));
        assert_eq!(interrupted(&mut parts.interrupt), Err(UioError::Gone(reason)), "and again");
        assert_eq!(parts.doorbell.signal(), Err(UioError::Gone(reason)));
    }
    assert_eq!(kernel.sessions().1, 1, "closed");
    assert_eq!(bus.allocate(ID, wish(Purpose::Send)).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(bus.open(ID, RingSizes::default()).unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn a_removed_device_wakes_all_who_wait_and_its_rings_are_not_touched_any_more() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, mut channels) = four(&kernel);
    let receive = bus.allocate(ID, wish(Purpose::Receive)).unwrap();
    next(&mut bus);
    kernel.map(3).write(100, b"frame").unwrap();
    // Asleep when it happens.
    let mut waiter = channels.pop().unwrap();
    settle(&mut waiter.interrupt);
    let asleep = std::thread::spawn(move || interrupted(&mut waiter.interrupt));

    let (rings, doorbells) = (kernel.map(0), kernel.map(2));
    set(&rings, 0, 64);
    set(&rings, RING + 4, 32);
    kernel.fail(EIO);
    assert_eq!(next(&mut bus), BusEvent::Gone);
    let Some(reason @ GoneReason::Unreadable(error)) = bus.gone() else { panic!("{:?}", bus.gone()) };
    assert_eq!(error.code(), Some(EIO));
    assert_eq!(asleep.join().unwrap(), Err(UioError::Gone(reason)));
    for parts in &mut channels {
        assert_eq!(interrupted(&mut parts.interrupt), Err(UioError::Gone(reason)));
        assert!(parts.doorbell.signal().is_err());
    }
    assert_eq!(get(&doorbells, 8), 0);

    // Whoever has not noticed yet works on private pages, and finds nothing there.
    let parts = &channels[0];
    assert_eq!((get(&parts.outgoing, 0), get(&parts.outgoing, 4)), (64, 64), "all sent");
    assert_eq!((get(&parts.incoming, 0), get(&parts.incoming, 4)), (32, 32), "nothing to read");
    set(&parts.outgoing, 0, 128);
    set(&parts.incoming, 8, 0);
    assert_eq!((get(&rings, 0), get(&rings, RING + 8)), (64, 1), "not the kernel's pages");

    // What was received stays readable, before and after the driver has closed the device.
    let mut frame = [0; 5];
    for close in [false, true] {
        if close {
            bus.close(ID);
        }
        receive.read(100, &mut frame).unwrap();
        assert_eq!(&frame, b"frame");
    }
    assert_eq!(kernel.sessions(), (1, 1));
}

#[test]
fn a_host_that_ends_is_gone() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, mut channels) = four(&kernel);
    kernel.hang_up();
    assert_gone(&kernel, &mut bus, &mut channels, GoneReason::EndOfFile);
    let missing = {
        bus.expect_subchannels(9, AGES);
        wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap_err()
    };
    assert_eq!(missing.arrived, 0);
}

#[test]
fn part_of_a_count_is_the_end() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = open(&kernel);
    let parts = primary(&mut bus);
    kernel.raise_bytes(&[1, 2]);
    assert_gone(&kernel, &mut bus, &mut [parts], GoneReason::ShortRead { bytes: 2 });
}

/// A device and its reactor, turned by hand.
fn by_hand(kernel: &Arc<Kernel>) -> (UioBus, Reactor) {
    let (mut bus, reactor) = find(kernel.settings().rescan(AGES).idle_rescan(AGES)).open_with_reactor().unwrap();
    primary(&mut bus);
    (bus, reactor)
}

/// A kernel's sysfs has to be looked at, and an idle device must not.
#[test]
fn subchannels_are_looked_for_often_only_while_they_are_awaited() {
    const OFTEN: Duration = Duration::from_millis(10);
    const SELDOM: Duration = Duration::from_secs(1);
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, mut reactor) = find(kernel.settings().rescan(OFTEN).idle_rescan(SELDOM)).open_with_reactor().unwrap();
    primary(&mut bus);
    let mut now = Instant::now();
    // Turns at once, since somebody woke it, and then as often as it likes; how long it sleeps in between.
    let mut sleeps = |count: usize| -> Vec<Duration> {
        let mut sleeps = Vec::new();
        for _ in 0..count {
            let Turn::Wait(sleep) = reactor.turn(now) else { panic!("over") };
            sleeps.push(sleep);
            now += sleep;
        }
        sleeps
    };
    let growing = [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(Duration::from_millis);
    assert_eq!(sleeps(9), growing, "nobody has asked for any");
    bus.await_offers(2);
    assert_eq!(sleeps(500), [OFTEN; 500]);
    kernel.add_subchannel(PRIMARY + 1, 1, Some(6));
    bus.await_offers(1);
    assert!(sleeps(100).iter().all(|sleep| *sleep <= OFTEN));
    assert_eq!(offered(&mut bus).subchannel_index, 1);
    bus.await_offers(0);
    assert_eq!(sleeps(10).last(), Some(&SELDOM));
}

/// Who plays the kernel in another process, on a busy machine, does not do it at once. Where a queue depends on it, that is
/// waited for longer than where it only interrupts.
#[test]
fn interrupt_control_of_unmonitored_subchannels_may_take_its_time() {
    for reached in [true, false] {
        let kernel = Kernel::new(KernelVariant::B, None);
        let (mut bus, mut reactor) = by_hand(&kernel);
        let rings = kernel.add_subchannel(PRIMARY + 1, 1, None);
        let start = Instant::now();
        for after in [0, 100, 500] {
            assert!(matches!(reactor.turn(start + Duration::from_millis(after)), Turn::Wait(_)));
            assert_eq!((now(&mut bus), bus.refusals().len()), (None, 0), "after {after} ms");
        }
        if reached {
            set(&rings, RING + 8, 0);
        }
        let _ = reactor.turn(start + Duration::from_secs(5));
        match now(&mut bus) {
            Some(BusEvent::Offered(info)) => assert!(reached && info.subchannel_index == 1),
            None => assert!(!reached && matches!(bus.refusals()[..], [(_, UioError::NotSignalled(_))])),
            other => panic!("{other:?}"),
        }
        assert_eq!(bus.kernel().may_unmask_subchannels(), reached);
    }
}

/// One whose coming nothing has told of is not missed for want of a look.
#[test]
fn before_subchannels_are_overdue_they_are_looked_for_once_more() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let settings = kernel.settings().rescan(AGES).idle_rescan(AGES).kernel(KernelVariant::D);
    let (mut bus, mut reactor) = find(settings).open_with_reactor().unwrap();
    primary(&mut bus);
    kernel.prepare_subchannel(21, 1, Some(6));
    let ring = File::create(kernel.tree.device(GUID).join("channels/21/ring")).unwrap();
    let (now, patience) = (Instant::now(), Duration::from_secs(60));
    bus.expect_subchannels(1, patience);
    assert!(matches!(reactor.turn(now), Turn::Wait(_)));
    assert_eq!(bus.refusals(), [(RelId(21), UioError::BadMap { name: "ring", size: 0 })]);
    ring.set_len(2 * RING as u64).unwrap();
    let _ = reactor.turn(now + 2 * patience);
    wait(poll_fn(|cx| bus.poll_subchannels(cx))).unwrap();
    assert_eq!(offered(&mut bus).id, RelId(21));
}

#[test]
fn an_error_is_read_once() {
    const EINVAL: i32 = 22;
    for error in [EIO, EINVAL] {
        let kernel = Kernel::new(KernelVariant::D, Some(5));
        let (bus, mut reactor) = by_hand(&kernel);
        let before = kernel.reads();
        kernel.fail(error);
        for _ in 0..100 {
            assert_eq!(reactor.turn(Instant::now()), Turn::Over);
        }
        assert_eq!(kernel.reads() - before, 1);
        assert!(matches!(bus.gone(), Some(GoneReason::Unreadable(found)) if found.code() == Some(error)));
    }
}

#[test]
fn a_descriptor_that_is_ready_for_nothing_is_not_spun_on() {
    const EAGAIN: i32 = 11;
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (bus, mut reactor) = by_hand(&kernel);
    kernel.fail(EAGAIN);
    let now = Instant::now();
    let before = kernel.reads();
    let turns = 10_000;
    for _ in 0..turns {
        assert!(matches!(reactor.turn(now), Turn::Wait(_)));
    }
    assert!(kernel.reads() - before < 100, "{} reads in {turns} turns", kernel.reads() - before);
    assert!(matches!(reactor.turn(now), Turn::Wait(wait) if !wait.is_zero() && wait < AGES), "looks again some time");
    let read = kernel.reads();
    let _ = reactor.turn(now + Duration::from_secs(1));
    assert_eq!(kernel.reads(), read + 1);
    assert_eq!(bus.gone(), None);
}

/// As a signal that interrupts each call: tried again, but not for ever within one turn.
#[test]
fn interrupted_calls_do_not_hold_a_turn() {
    const EINTR: i32 = 4;
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (bus, mut reactor) = by_hand(&kernel);
    kernel.fail(EINTR);
    assert_eq!(reactor.turn(Instant::now()), Turn::Wait(Duration::ZERO));
    assert_eq!(bus.gone(), None);
}

#[test]
fn counts_are_read_until_there_are_none_and_then_it_sleeps() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (_bus, mut reactor) = by_hand(&kernel);
    let _ = reactor.turn(Instant::now());
    for _ in 0..10 {
        kernel.raise();
    }
    let before = kernel.reads();
    assert!(matches!(reactor.turn(Instant::now()), Turn::Wait(wait) if wait > Duration::from_secs(60)));
    assert_eq!(kernel.reads() - before, 11, "ten counts, and that there are no more");
    let _ = reactor.turn(Instant::now());
    assert_eq!(kernel.reads() - before, 11, "not ready, not read");
}

#[test]
fn a_reactor_that_is_dropped_ends_its_device() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, reactor) = by_hand(&kernel);
    drop(reactor);
    assert_eq!(next(&mut bus), BusEvent::Gone);
    assert_eq!(bus.gone(), Some(GoneReason::ReactorDropped));
}

#[test]
fn closing_lets_go_of_everything_and_another_session_is_fresh() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let (mut bus, channels) = four(&kernel);
    let receive = bus.allocate(ID, wish(Purpose::Receive)).unwrap();
    let send = bus.allocate(ID, wish(Purpose::Send)).unwrap();
    kernel.map(3).write(9, b"held").unwrap();
    set(&kernel.map(0), 0, 4000);
    // Mappings of the device's maps, and of subchannels' rings (three of which are the host's own).
    let mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let directory = kernel.tree.0.to_str().unwrap();
        let of = |name: &str| maps.lines().filter(|line| line.contains(directory) && line.contains(name)).count();
        (of("/map-"), of("/ring"))
    };
    assert_eq!(mapped(), (5, 6));

    bus.close(ID);
    assert_eq!(kernel.sessions(), (1, 1));
    assert_eq!(mapped(), (0, 3), "although handles to all of them are left");
    for parts in &channels {
        assert_eq!(parts.doorbell.signal(), Err(UioError::Closed));
    }
    let held = |memory: &vmbus::memory::HeapMemory| {
        let mut bytes = [0; 4];
        memory.read(9, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(&held(&receive), b"held", "in private pages by now");
    kernel.map(3).write(9, b"next").unwrap();
    assert_eq!(&held(&receive), b"held");
    send.write(9, b"mine").unwrap();
    assert_eq!(get(&kernel.map(4), 8), 0);

    let mut seen = Vec::new();
    while let Some(event) = now(&mut bus) {
        seen.push(event);
    }
    assert!(!seen.contains(&BusEvent::Gone), "closed, not gone");
    bus.release(ID, receive.clone());
    assert_eq!(next(&mut bus), BusEvent::GpadlTornDown(GpadlId(925_200)));

    let mut bus = bus.reopen().unwrap();
    let parts = primary(&mut bus);
    assert_eq!(kernel.sessions(), (2, 1));
    assert_eq!((get(&parts.outgoing, 0), get(&parts.incoming, 8)), (0, 1));
    assert_eq!(now(&mut bus), None, "the old subchannels are not offered");
    kernel.raise();
    bus.close(ID);
    assert_eq!(kernel.sessions(), (2, 2));

    // The same bus opens the device once more with its primary channel.
    bus.open(ID, RingSizes::default()).unwrap();
    assert_eq!(kernel.sessions(), (3, 2));
    drop(bus);
    assert_eq!(kernel.sessions(), (3, 3));
}

#[test]
fn memory_that_the_host_may_read_stays_until_the_device_is_closed() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = find(kernel.settings().direct(DirectPages::Movable)).open().unwrap();
    let Ok(memory) = bus.allocate(ID, wish(Purpose::Direct)) else { return };
    bus.release(ID, memory.clone());
    assert_eq!(memory.handles(), 2, "kept");
    bus.close(ID);
    assert_eq!(memory.handles(), 1);
}

#[test]
fn rings_that_somebody_else_uses_are_not_touched() {
    /// Opens it without making the rings new, as the second opening of a device does.
    #[derive(Debug)]
    struct Second(Arc<Kernel>);
    #[derive(Debug)]
    struct SecondFile(Arc<Kernel>, std::os::unix::net::UnixStream);
    impl vmbus::uio::OpenDevice for Second {
        fn open(&self, _: u32) -> Result<Box<dyn vmbus::uio::DeviceFile>, UioError> {
            let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
            Ok(Box::new(SecondFile(Arc::clone(&self.0), stream)))
        }
    }
    impl vmbus::uio::DeviceFile for SecondFile {
        fn read_count(&self, _: &mut [u8; 4]) -> std::io::Result<usize> {
            unreachable!()
        }
        fn control(&self, _: i32) -> std::io::Result<()> {
            unreachable!()
        }
        fn map(&self, index: usize, _: usize) -> std::io::Result<vmbus::memory::HeapMemory> {
            Ok(self.0.map(index))
        }
        fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = open(&kernel);
    primary(&mut bus);
    set(&kernel.map(0), 0, 320);
    set(&kernel.map(0), RING + 8, 0);
    let error = find(kernel.settings().opener(Second(Arc::clone(&kernel)))).open().unwrap_err();
    assert_eq!(error, UioError::RingsInUse { write_index: 320, read_index: 0 });
    assert_eq!(get(&kernel.map(0), RING + 8), 0, "as it was");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let settings = kernel.settings().opener(vmbus::uio::DevRoot::new("/nonexistent"));
    let error = find(settings).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System);
    assert!(error.to_string().starts_with("cannot open /nonexistent/uio0: No such file"), "{error}");
}

#[test]
fn a_file_that_another_program_has_open_is_refused() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let other = File::create(kernel.tree.0.join("uio0")).unwrap();
    other.lock().unwrap();
    let settings = kernel.settings().opener(vmbus::uio::DevRoot::new(&kernel.tree.0));
    assert!(matches!(find(settings).open(), Err(UioError::InUse { path }) if path.ends_with("uio0")));
}

#[test]
fn a_device_that_comes_back_is_waited_for() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let device = find(kernel.settings());
    let (here, away) = (kernel.tree.device(GUID), kernel.tree.0.join("away"));
    fs::rename(&here, &away).unwrap();
    assert!(matches!(device.open(), Err(UioError::Select(_))));
    assert!(matches!(device.wait_until_bound(Duration::ZERO), Err(UioError::Select(_))));
    let back = std::thread::spawn(move || fs::rename(away, here));
    device.wait_until_bound(AGES).unwrap();
    back.join().unwrap().unwrap();
    drop(device.open().unwrap());
}

#[cfg(feature = "mio")]
#[test]
fn a_mio_loop_drives_it() {
    let kernel = Kernel::new(KernelVariant::C, Some(5));
    let (mut bus, mut reactor) = find(kernel.settings()).open_with_reactor().unwrap();
    let driver = std::thread::spawn(move || {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        poll.registry().register(&mut reactor, mio::Token(0), mio::Interest::READABLE).unwrap();
        while let Turn::Wait(longest) = reactor.turn(Instant::now()) {
            if let Err(error) = poll.poll(&mut events, Some(longest)) {
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
            }
        }
        poll.registry().deregister(&mut reactor).unwrap();
    });
    let mut parts = primary(&mut bus);
    for _ in 0..50 {
        settle(&mut parts.interrupt);
        kernel.raise();
        interrupted(&mut parts.interrupt).unwrap();
    }
    kernel.add_subchannel(21, 1, Some(6));
    assert_eq!(offered(&mut bus).id, RelId(21));
    kernel.hang_up();
    assert_eq!(next(&mut bus), BusEvent::Gone);
    driver.join().unwrap();
}

#[cfg(feature = "tokio")]
#[test]
fn a_tokio_task_drives_it() {
    wait(async {
        let kernel = Kernel::new(KernelVariant::C, Some(5));
        let (mut bus, reactor) = find(kernel.settings()).open_with_reactor().unwrap();
        let task = tokio::spawn(reactor.run());
        assert!(matches!(poll_fn(|cx| bus.poll_event(cx)).await, Ok(BusEvent::Offered(_))));
        bus.open(ID, RingSizes::default()).unwrap();
        assert_eq!(poll_fn(|cx| bus.poll_event(cx)).await, Ok(BusEvent::Opened(ID)));
        let mut parts = bus.take(ID).unwrap().into_parts();
        for _ in 0..50 {
            settle(&mut parts.interrupt);
            kernel.raise();
            poll_fn(|cx| parts.interrupt.poll_latched(cx)).await.unwrap();
        }
        kernel.add_subchannel(21, 1, Some(6));
        assert!(matches!(poll_fn(|cx| bus.poll_event(cx)).await, Ok(BusEvent::Offered(_))));
        bus.close(ID);
        task.await.unwrap().unwrap();
    });
}
