//! To the host and from it: who is signalled how, and who is woken.

use crate::*;

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
