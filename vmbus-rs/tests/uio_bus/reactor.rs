//! The reactor: what it reads, how long it sleeps, and the loops that drive it.

use crate::*;

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

#[cfg(feature = "mio")]
#[test]
fn a_mio_loop_drives_it() {
    let kernel = Kernel::new(KernelVariant::C, Some(5));
    let (mut bus, mut reactor) = find(unhurried(&kernel)).open_with_reactor().unwrap();
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
        let (mut bus, reactor) = find(unhurried(&kernel)).open_with_reactor().unwrap();
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
