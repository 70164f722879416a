//! Subchannels come and go; what differs by kernel is found out.

use crate::*;

/// Nothing but the notification can find it: no scan is due for an hour.
#[test]
fn a_subchannel_is_found_when_its_ring_is_renamed_into_place() {
    let kernel = Kernel::new(KernelVariant::C, Some(5));
    let settings = unhurried(&kernel);
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
    let settings = unhurried(&kernel).kernel(KernelVariant::D);
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
