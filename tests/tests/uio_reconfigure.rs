//! Changes of sections, queues and MTU on the Linux backend, where the kernel's rings and buffers stay as they are: the device file
//! is closed and opened again by one and the same bus, and queues go on.
#![cfg(target_os = "linux")]

use std::time::Duration;

use netvsc_async::{Error, HashProtocol, Nic, Queue, RingParams, RssSettings};
use netvsc_host::export::Kernel;
use netvsc_tests::flows::Flow;
use netvsc_tests::frames::{FAR, SIZES, Sequence};
use netvsc_tests::uio_world::{QUEUES, World, open, ping, run};
use vmbus::uio::UioChannel;

/// Nobody broke a rule, and everything was given back, in each of `sessions`.
#[track_caller]
fn assert_sound(world: World, sessions: u64, what: &str) {
    assert!(world.host.violations().is_empty(), "{what}: {:?}", world.host.violations());
    let report = world.end();
    assert_eq!((report.sessions, report.protocol_violations, report.leaks), (sessions, 0, 0), "{what}");
}

#[test]
fn sections_and_mtu_change_while_the_queue_stays() {
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        ping(&world.far, &nic, &mut queue, 10).await;
        let before = nic.info();
        let wish = RingParams { receive_sections: 64, send_sections: 32 };
        assert_eq!(nic.set_ring(wish).await, Ok(wish));
        // The receive buffer is the kernel's, whatever is wished.
        assert_eq!((nic.info().receive.count, nic.info().receive_limit), (before.receive.count, Some(64)));
        assert_eq!(nic.ring().current, wish);
        assert_eq!(nic.set_ring(wish).await, Ok(wish), "nothing is to be done");
        ping(&world.far, &nic, &mut queue, 10).await;
        assert_eq!(nic.set_mtu(4000).await, Ok(4000));
        ping(&world.far, &nic, &mut queue, 10).await;
        // As many as there are.
        let most = nic.ring().max;
        let came = nic.set_ring(most).await.unwrap();
        assert_eq!((came.receive_sections, nic.info().receive_limit), (nic.info().receive.count, None));
        ping(&world.far, &nic, &mut queue, 10).await;
        let report = nic.close().await.unwrap();
        assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0));
    });
    assert_sound(world, 4, "kernel d");
}

#[test]
fn no_more_frames_wait_than_sections_were_wished() {
    const FRAMES: u64 = 100;
    const WISH: u32 = 16;

    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        let came = nic.set_ring(RingParams { receive_sections: WISH, send_sections: 32 }).await.unwrap();
        assert_eq!(came.receive_sections, WISH);
        let mut theirs = Sequence::new(FAR, &SIZES);
        let mut expect = theirs.clone();
        let delivered = || world.host.report().nics[0].counters.rx_frames;
        let before = delivered();
        for sent in 1..=FRAMES {
            world.far.send(&theirs.make()).unwrap();
            // Each in a packet of its own: one that has more than may wait is taken.
            while delivered() < before + sent {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // The completion comes behind them.
        queue.tx.send(&Sequence::new(nic.info().mac.0, &SIZES).make()).await.unwrap();
        queue.tx.drained().await.unwrap();
        let stats = nic.queue_stats().remove(0);
        let dropped = stats.extra.rx_dropped;
        assert_eq!((dropped, stats.global.rx_no_memory), (FRAMES - u64::from(WISH), dropped));
        while expect.count() < u64::from(WISH) {
            let burst = queue.rx.recv_burst().await.unwrap().expect("open");
            burst.iter().for_each(|frame| expect.check(frame.bytes));
        }
        // What comes from now on has room.
        let mut expect = theirs.clone();
        world.far.send(&theirs.make()).unwrap();
        let burst = queue.rx.recv_burst().await.unwrap().expect("open");
        assert_eq!(burst.len(), 1);
        expect.check(burst.get(0).unwrap().bytes);
        nic.close().await.unwrap();
    });
    assert_sound(world, 2, "kernel d");
}

#[test]
fn queues_share_what_may_wait() {
    const FRAMES: u64 = 40;
    const WISH: u32 = 16;

    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, queue) = open(world.device().open().unwrap()).await;
        let mut queues = vec![queue];
        nic.set_ring(RingParams { receive_sections: WISH, send_sections: 32 }).await.unwrap();
        queues.extend(nic.set_channels(QUEUES).await.unwrap());
        let share = u64::from(WISH) / u64::from(QUEUES);
        let delivered = || world.host.report().nics[0].counters.rx_frames;
        let frame = Flow::numbered(HashProtocol::Tcp4, 7).frame(nic.info().mac.0, FAR, b"waits");
        for queue in &mut queues {
            let (index, scaling) = (queue.index(), nic.info().scaling.expect("several queues"));
            let entries = scaling.table.len();
            nic.set_rss(RssSettings { table: vec![index; entries], ..scaling }).await.unwrap();
            let before = delivered();
            for sent in 1..=FRAMES {
                world.far.send(&frame).unwrap();
                // Each in a packet of its own: one that has more than may wait is taken.
                while delivered() < before + sent {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            // The completion comes behind them.
            queue.tx.send(&Sequence::new(nic.info().mac.0, &SIZES).make()).await.unwrap();
            queue.tx.drained().await.unwrap();
            let stats = nic.queue_stats()[usize::from(index)];
            assert_eq!(stats.extra.rx_dropped, FRAMES - share, "queue {index}");
            let mut waited = 0;
            while waited < share {
                let burst = queue.rx.recv_burst().await.unwrap().expect("open");
                assert!(burst.iter().all(|waits| waits.bytes == frame), "queue {index}");
                waited += burst.len() as u64;
            }
        }
        nic.close().await.unwrap();
    });
    assert_sound(world, 3, "kernel d");
}

/// Frames both ways: each queue sends, any receives.
async fn works(world: &World, nic: &Nic<impl vmbus::bus::Bus>, queues: &mut [Queue<UioChannel>]) {
    let mut ours = Sequence::new(nic.info().mac.0, &SIZES);
    let mut expect = ours.clone();
    for _ in 0..5 {
        for queue in &mut *queues {
            queue.tx.send(&ours.make()).await.unwrap();
            queue.tx.flush().unwrap();
            expect.check(&world.far.recv().await.unwrap());
        }
    }
    for queue in &mut *queues {
        queue.tx.drained().await.unwrap();
    }
    let mut theirs = Sequence::new(FAR, &SIZES);
    let mut expect = theirs.clone();
    world.far.send(&theirs.make()).unwrap();
    let receivers = queues.iter_mut().map(|queue| {
        Box::pin(async {
            let burst = queue.rx.recv_burst().await.unwrap().expect("open");
            burst.get(0).unwrap().bytes.to_vec()
        })
    });
    expect.check(&futures::future::select_all(receivers).await.0);
}

#[test]
fn queues_come_and_go_on_every_kernel() {
    for kernel in Kernel::ALL {
        let world = World::new(kernel, true);
        run(async {
            let (nic, queue) = open(world.device().open().unwrap()).await;
            let mut queues = vec![queue];
            works(&world, &nic, &mut queues).await;
            assert_eq!((nic.channels().current, nic.channels().max), (1, QUEUES), "kernel {kernel}");
            for count in [4, 2, 3, 1, 4] {
                let there = queues.len();
                let added = nic.set_channels(count).await.unwrap();
                assert!(added.iter().map(Queue::index).eq(there.min(count.into()) as u16..count), "kernel {kernel}");
                for mut gone in queues.drain(there.min(count.into())..) {
                    assert!(gone.rx.recv_burst().await.unwrap().is_none(), "kernel {kernel}");
                    let frame = Sequence::new(nic.info().mac.0, &SIZES).make();
                    assert_eq!(gone.tx.send(&frame).await, Err(Error::Closed), "kernel {kernel}");
                }
                queues.extend(added);
                assert_eq!(nic.info().queues, count, "kernel {kernel}");
                works(&world, &nic, &mut queues).await;
            }
            let report = nic.close().await.unwrap();
            assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0), "kernel {kernel}");
        });
        assert_sound(world, 6, &format!("kernel {kernel}"));
    }
}
