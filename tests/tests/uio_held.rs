//! Held frames on the Linux backend: in the kernel's receive buffer, over its life and beyond, on the adapter and on others.
#![cfg(target_os = "linux")]

use std::time::Duration;

use netvsc_async::{Error, HeldPacket, Nic, Queue, ReconfigureError, RestError, RingParams, TxMeta};
use netvsc_host::export::Kernel;
use netvsc_tests::frames::FAR;
use netvsc_tests::uio_world::{World, open, run};
use vmbus::uio::{UioBus, UioChannel};

/// A broadcast of a long frame with a number in it.
fn frame(from: [u8; 6], number: u64) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..700 + 40 * (number as usize % 20)).map(|at| (at as u64 * 5 + number) as u8).collect();
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Frames of these numbers from the far end, held.
async fn held(world: &World, queue: &mut Queue<UioChannel>, numbers: std::ops::Range<u64>) -> Vec<HeldPacket> {
    numbers.clone().for_each(|number| world.far.send(&frame(FAR, number)).unwrap());
    let mut held = Vec::new();
    while (held.len() as u64) < numbers.end - numbers.start {
        let mut burst = queue.rx.recv_held().await.unwrap().expect("open");
        held.extend((0..burst.len()).map(|at| burst.keep(at).unwrap()));
    }
    held
}

/// They are what was sent.
#[track_caller]
fn assert_whole(held: &[HeldPacket], first: u64) {
    for (number, packet) in (first..).zip(held) {
        let mut bytes = packet.head().to_vec();
        bytes.resize(packet.len(), 0);
        packet.rest().read(0, &mut bytes[packet.head().len()..]).unwrap();
        assert!(bytes == frame(FAR, number), "frame {number}");
    }
}

/// Sends them on as the adapter's own; the far end has them.
async fn send_on(world: &World, nic: &Nic<UioBus>, queue: &mut Queue<UioChannel>, held: &[HeldPacket], first: u64) {
    let mac = nic.info().mac.0;
    {
        let mut batch = queue.tx.batch();
        for packet in held {
            let mut head = packet.head().to_vec();
            head[6..12].copy_from_slice(&mac);
            batch.push_held(&head, packet.rest(), &TxMeta::default()).unwrap();
        }
    }
    for number in (first..).take(held.len()) {
        assert!(world.far.recv().await.unwrap()[..] == frame(mac, number), "frame {number}");
    }
}

#[test]
fn frames_are_held_and_sent_on_on_every_kernel() {
    for kernel in Kernel::ALL {
        let world = World::new(kernel, true);
        run(async {
            let (nic, mut queue) = open(world.device().open().unwrap()).await;
            for round in 0..4 {
                let first = 20 * round;
                let packets = held(&world, &mut queue, first..first + 20).await;
                assert!(packets.iter().all(|packet| !packet.rest().is_empty()), "kernel {kernel}");
                send_on(&world, &nic, &mut queue, &packets, first).await;
                assert_whole(&packets, first);
                if round % 2 == 1 {
                    std::thread::spawn(move || drop(packets)).join().unwrap();
                }
            }
            queue.tx.drained().await.unwrap();
            let stats = nic.queue_stats().remove(0);
            assert_eq!((stats.extra.rx_held, stats.rx.packets), (80, 80), "kernel {kernel}");
            let report = nic.close().await.unwrap();
            assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0), "kernel {kernel}");
        });
        assert!(world.host.violations().is_empty(), "kernel {kernel}: {:?}", world.host.violations());
        let report = world.end();
        assert_eq!(
            (report.sessions, report.protocol_violations, report.leaks, report.held_at_close),
            (1, 0, 0, 0),
            "kernel {kernel}"
        );
    }
}

#[test]
fn a_change_waits_for_held_frames_and_the_next_session_has_the_same_buffer() {
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        let mut packets = held(&world, &mut queue, 0..10).await;
        let error = nic.set_mtu(4000).await.unwrap_err();
        assert!(matches!(error, ReconfigureError::HeldFrames { packets: 1.., .. }), "{error:?}");
        // Nothing has changed: what is held, and what comes.
        packets.extend(held(&world, &mut queue, 10..20).await);
        assert_whole(&packets, 0);
        send_on(&world, &nic, &mut queue, &packets, 0).await;
        let let_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(packets);
        });
        // However long that thread takes: a change that it made fail would be tried again.
        while let Err(error) = nic.set_mtu(4000).await {
            assert!(matches!(error, ReconfigureError::HeldFrames { .. }), "{error:?}");
        }
        let_go.join().unwrap();
        let packets = held(&world, &mut queue, 20..30).await;
        assert_whole(&packets, 20);
        send_on(&world, &nic, &mut queue, &packets, 20).await;
        drop(packets);
        let report = nic.close().await.unwrap();
        assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0));
    });
    assert!(world.host.violations().is_empty(), "{:?}", world.host.violations());
    let report = world.end();
    assert_eq!((report.sessions, report.protocol_violations, report.leaks), (2, 0, 0));
}

#[test]
fn no_more_sections_are_held_than_were_wished_of_a_buffer_that_is_larger() {
    const WISH: u32 = 40;
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        let came = nic.set_ring(RingParams { receive_sections: WISH, send_sections: 32 }).await.unwrap();
        assert_eq!(came.receive_sections, WISH);
        let watermark = nic.info().rx_watermark;
        assert!((1..=WISH / 2).contains(&watermark), "{watermark}");
        let mut packets = Vec::new();
        for number in 0..2 * u64::from(WISH) {
            packets.extend(held(&world, &mut queue, number..number + 1).await);
        }
        assert_whole(&packets, 0);
        let kept = packets.iter().filter(|packet| !packet.rest().is_empty()).count();
        assert_eq!(kept as u32, watermark, "each came by itself");
        let stats = nic.queue_stats().remove(0).extra;
        assert_eq!((stats.rx_held, stats.rx_copied_watermark), (watermark.into(), (2 * WISH - watermark).into()));
        assert_eq!(stats.rx_dropped, 0);
        drop(packets);
        nic.close().await.unwrap();
    });
    let report = world.end();
    assert_eq!((report.protocol_violations, report.leaks), (0, 0));
}

/// The kernel's pages are not there any more by then; whoever reads is told, and nothing is touched.
#[test]
fn what_is_held_of_a_device_that_was_closed_or_taken_away_is_gone() {
    for closed in [true, false] {
        let mut world = Some(World::new(Kernel::D, true));
        let other = World::new(Kernel::D, true);
        run(async {
            let alive = world.take().unwrap();
            let (nic, mut queue) = open(alive.device().open().unwrap()).await;
            let (other_nic, mut other_queue) = open(other.device().open().unwrap()).await;
            let packets = held(&alive, &mut queue, 0..10).await;
            assert_whole(&packets, 0);
            if closed {
                let report = nic.close().await.unwrap();
                assert!(report.unreturned_sections > 0, "{report:?}");
                assert_eq!(alive.end().protocol_violations, 0);
            } else {
                alive.end();
                while let Ok(Some(_)) = queue.rx.recv_held().await {}
                let _ = nic.close().await;
            }
            for packet in &packets {
                let mut bytes = vec![0; packet.rest().len()];
                assert_eq!(packet.rest().read(0, &mut bytes), Err(RestError::Gone), "closed: {closed}");
                let sent = other_queue.tx.batch().push_held(packet.head(), packet.rest(), &TxMeta::default());
                assert_eq!(sent, Err(Error::Send(netvsc::SendError::Gone)));
            }
            drop((queue, packets));
            let packets = held(&other, &mut other_queue, 0..10).await;
            send_on(&other, &other_nic, &mut other_queue, &packets, 0).await;
            drop(packets);
            other_nic.close().await.unwrap();
        });
        let report = other.end();
        assert_eq!((report.protocol_violations, report.leaks), (0, 0));
    }
}
