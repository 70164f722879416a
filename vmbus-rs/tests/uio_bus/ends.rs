//! A device that is taken away, and one that is closed.

use crate::*;

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
