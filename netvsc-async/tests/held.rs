//! Held bursts on the simulated host, in one process and in paused time: forwarding between adapters, changes and ends of adapters
//! while frames are held.
#![cfg(feature = "host")]

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use netvsc::ConfigError;
use netvsc::meta::Path;
use netvsc_async::vf::MemoryBackend;
use netvsc_async::{
    Error, Event, Events, HeldPacket, Nic, NicBuilder, OpenError, Queue, ReconfigureError, RestError, RingParams,
    RssSettings, TxMeta,
};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicId, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

struct Rig {
    host: Host,
    far: Arc<MemoryPort>,
    nic: Nic<MemBus>,
    queue: Queue<MemChannel>,
}

async fn open(builder: NicBuilder) -> Rig {
    let host = Host::builder().build();
    let far = Arc::new(host.memory_pair());
    let bus = MemBus::new(host.add_nic(NicOptions::new().mac_spoofing(true)));
    host.spawn();
    let (nic, mut queues) = builder.open_on(bus).await.unwrap();
    Rig { host, far, nic, queue: queues.remove(0) }
}

impl Rig {
    async fn close(self) {
        let Self { host, nic, queue, .. } = self;
        let report = nic.close().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        drop(queue);
        // The host learns of the guest's end at its next step.
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.assert_clean();
    }

    /// So many frames from the far end, of which one at least is held.
    async fn keep(&mut self, numbers: std::ops::Range<u64>) -> Vec<HeldPacket> {
        let wanted = (numbers.end - numbers.start) as usize;
        for number in numbers {
            self.far.send(&frame(number, 1000)).unwrap();
        }
        let mut kept = Vec::new();
        while kept.len() < wanted {
            let mut burst = self.queue.rx.recv_held().await.unwrap().unwrap();
            kept.extend((0..burst.len()).map(|at| burst.keep(at).unwrap()));
        }
        assert!(kept.iter().any(|packet| !packet.rest().is_empty()));
        kept
    }

    async fn works(&mut self) {
        self.far.send(&frame(77, 1200)).unwrap();
        loop {
            let burst = self.queue.rx.recv_held().await.unwrap().unwrap();
            if burst.iter().any(|held| number(held.head) == 77) {
                break;
            }
        }
        self.queue.tx.send(&frame(78, 60)).await.unwrap();
        while number(&self.far.recv().await.unwrap()) != 78 {}
    }
}

/// A broadcast with a number in it.
fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u64 * 7 + number) as u8).collect();
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[14..22].try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_one_adapter_holds_another_sends() {
    let mut left = open(Nic::builder()).await;
    let mut right = open(Nic::builder().send_sections(10)).await;
    const FRAMES: u64 = 2000;
    let len = |number: u64| 60 + (number as usize * 37) % 1400;
    let far = Arc::clone(&left.far);
    let sender = tokio::spawn(async move {
        for number in 0..FRAMES {
            far.send(&frame(number, len(number))).unwrap();
            if number % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let far = Arc::clone(&right.far);
    let receiver = tokio::spawn(async move {
        for n in 0..FRAMES {
            let got = far.recv().await.unwrap();
            let mut wanted = frame(n, len(n));
            wanted[..6].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
            wanted[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            assert!(got[..] == wanted[..], "frame {n}");
        }
    });
    let mut forwarded = 0;
    while forwarded < FRAMES {
        let mut burst = left.queue.rx.recv_held().await.unwrap().unwrap();
        for held in burst.iter_mut() {
            held.head[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        }
        // Where there is no room the frames are held meanwhile.
        let mut next = 0;
        while let Some(held) = burst.get(next) {
            let pushed = right.queue.tx.batch().push_held(held.head, held.rest, &TxMeta::default());
            match pushed {
                Ok(()) => next += 1,
                Err(Error::Full) => right.queue.tx.ready(held.len()).await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        forwarded += next as u64;
    }
    sender.await.unwrap();
    receiver.await.unwrap();
    let stats = left.nic.queue_stats()[0].extra;
    assert!(stats.rx_held > FRAMES / 2, "{stats:?}");
    left.close().await;
    right.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_for_held_frames_for_a_second_and_then_leaves_all_as_it_was() {
    let mut rig = open(Nic::builder()).await;
    let before = rig.nic.ring().current;
    let kept = rig.keep(0..5).await;
    let started = tokio::time::Instant::now();
    let wish = RingParams { receive_sections: 100, send_sections: 20 };
    let error = rig.nic.set_ring(wish).await.unwrap_err();
    let ReconfigureError::HeldFrames { packets, sections } = error else { panic!("{error:?}") };
    assert!((1..=5).contains(&packets) && sections >= packets, "{error}");
    assert!(error.is_restored());
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(rig.nic.ring().current, before);
    // Traffic goes on, and what is held can be read.
    rig.works().await;
    for (n, packet) in kept.into_iter().enumerate() {
        assert_eq!(packet.into_packet().unwrap().bytes(), frame(n as u64, 1000));
    }
    let now = rig.nic.set_ring(wish).await.unwrap();
    // The host rounds.
    assert!((100..110).contains(&now.receive_sections) && now.send_sections == 20, "{now:?}");
    rig.works().await;

    // Let go of in time, by another task, they are no hindrance, nor do frames get lost that come meanwhile.
    let kept = rig.keep(10..13).await;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(kept);
    });
    assert_eq!(rig.nic.set_mtu(4000).await, Ok(4000));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_that_is_kept_over_its_own_change_is_an_error_and_no_deadlock() {
    let mut rig = open(Nic::builder()).await;
    rig.far.send(&frame(1, 1500)).unwrap();
    let burst = rig.queue.rx.recv_held().await.unwrap().unwrap();
    let error = rig.nic.set_mtu(4000).await.unwrap_err();
    assert_eq!(error, ReconfigureError::HeldFrames { packets: 1, sections: 1 });
    assert_eq!(error.to_string(), "frames of 1 receive packets (1 sections) are held");
    let mut bytes = [0; 1500];
    assert_eq!(burst.get(0).unwrap().read(&mut bytes), Ok(1500));
    assert_eq!(bytes[..], frame(1, 1500));
    drop(burst);
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_of_an_adapter_that_was_closed_or_taken_away_is_gone() {
    for rescind in [false, true] {
        let mut rig = open(Nic::builder()).await;
        let mut other = open(Nic::builder()).await;
        let kept = rig.keep(0..3).await;
        let held = kept.iter().find(|packet| !packet.rest().is_empty()).unwrap();
        if rescind {
            rig.host.rescind(NicId(0));
            while let Ok(Some(_)) = rig.queue.rx.recv_held().await {}
        }
        let Rig { nic, queue, host, .. } = rig;
        let report = nic.close().await;
        if !rescind {
            assert!(report.unwrap().unreturned_sections > 0, "they were not given back");
        }
        let mut byte = [0];
        assert_eq!(held.rest().read(0, &mut byte), Err(RestError::Gone), "rescind: {rescind}");
        let sent = other.queue.tx.batch().push_held(held.head(), held.rest(), &TxMeta::default());
        assert_eq!(sent, Err(Error::Send(netvsc::SendError::Gone)));
        assert_eq!(number(held.head()), 0, "the head is the guest's");
        drop((kept, queue, host));
        other.works().await;
        other.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ways_of_receiving_may_alternate_and_be_given_up() {
    let mut rig = open(Nic::builder()).await;
    let mut next = 0;
    for turn in 0..60u64 {
        let count = 1 + turn % 7;
        for n in 0..count {
            rig.far.send(&frame(turn * 10 + n, 300 + 100 * n as usize)).unwrap();
        }
        let mut got = 0;
        while got < count {
            let expected = turn * 10 + got;
            match next % 5 {
                0 => {
                    // Given up before anything comes, and when something has.
                    let given_up = tokio::time::timeout(Duration::ZERO, rig.queue.rx.recv_held()).await;
                    if let Ok(burst) = given_up {
                        let burst = burst.unwrap().unwrap();
                        assert!(burst.iter().map(|held| number(held.head)).eq(expected..expected + burst.len() as u64));
                        got += burst.len() as u64;
                    }
                }
                1 => {
                    let mut buffer = [0; 2000];
                    let len = rig.queue.rx.recv(&mut buffer).await.unwrap();
                    assert_eq!(buffer[..len], frame(expected, 300 + 100 * got as usize));
                    got += 1;
                }
                2 => {
                    // Received, and not taken: what comes next has it first.
                    std::future::poll_fn(|cx| rig.queue.rx.poll_ready(cx)).await.unwrap();
                }
                3 => {
                    let Some(burst) = rig.queue.rx.try_recv_held().unwrap() else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    let mut bytes = [0; 2000];
                    for held in &burst {
                        let len = held.read(&mut bytes).unwrap();
                        assert_eq!(bytes[..len], frame(turn * 10 + got, 300 + 100 * got as usize));
                        got += 1;
                    }
                }
                _ => {
                    let burst = rig.queue.rx.recv_burst().await.unwrap().unwrap();
                    for frame in &burst {
                        assert_eq!(number(frame.bytes), turn * 10 + got);
                        got += 1;
                    }
                }
            }
            next += 1;
        }
    }
    assert!(rig.queue.rx.try_recv_held().unwrap().is_none());
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_larger_mtu_a_held_burst_takes_what_a_burst_takes() {
    let mut rig = open(Nic::builder().burst(32)).await;
    rig.far.send(&frame(1, 1000)).unwrap();
    assert_eq!(rig.queue.rx.recv_held().await.unwrap().unwrap().len(), 1);
    assert_eq!(rig.nic.set_mtu(9000).await, Ok(9000));
    for n in 0..64 {
        rig.far.send(&frame(n, 9000)).unwrap();
    }
    let mut got = 0;
    while got < 64 {
        if got < 32 {
            // Received into the other burst, and not taken: nothing of it is lost.
            std::future::poll_fn(|cx| rig.queue.rx.poll_ready(cx)).await.unwrap();
        }
        let burst = rig.queue.rx.recv_held().await.unwrap().unwrap();
        for held in &burst {
            assert_eq!((number(held.head), held.len()), (got, 9000));
            got += 1;
        }
    }
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_let_go_elsewhere_is_given_back_though_nothing_happens_on_the_queue() {
    let mut rig = open(Nic::builder()).await;
    for _ in 0..3 {
        let kept = rig.keep(0..3).await;
        let acks = rig.nic.queue_stats()[0].extra.acks;
        {
            let waiting = rig.queue.rx.recv_held();
            tokio::pin!(waiting);
            // Somebody waits, and the adapter has come to rest.
            assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
            assert_eq!(rig.nic.queue_stats()[0].extra.acks, acks, "they are held");
            std::thread::spawn(move || drop(kept)).join().unwrap();
            // Not looked at by this task meanwhile.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(rig.nic.queue_stats()[0].extra.acks > acks);
    }
    rig.works().await;
    rig.close().await;
}

/// The adapter's address.
const OURS: [u8; 6] = [0x00, 0x15, 0x5D, 1, 0, 0];

/// As [`frame`], for the adapter alone: what goes by a virtual function, if there is one.
fn for_us(number: u64, len: usize) -> Vec<u8> {
    let mut frame = frame(number, len);
    frame[..6].copy_from_slice(&OURS);
    frame
}

/// Until the traffic goes by `path`.
async fn switched(events: &mut Events, path: Path) {
    loop {
        match events.next().await.expect("open") {
            Event::DatapathSwitched { to, .. } if to == path => return,
            _ => {}
        }
    }
}

/// All of a held frame.
fn whole(head: &[u8], rest: netvsc::queue::Rest<'_>) -> Vec<u8> {
    let mut bytes = vec![0; head.len() + rest.len()];
    bytes[..head.len()].copy_from_slice(head);
    rest.read(0, &mut bytes[head.len()..]).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn what_the_rings_hold_stays_while_a_virtual_function_comes_and_goes() {
    const NIC: NicId = NicId(0);
    let vfs = MemoryBackend::new();
    let mut rig = open(Nic::builder().vf(vfs.clone())).await;
    let mut events = rig.nic.events();
    for round in 0..3u32 {
        // Held before there is one.
        let mut kept = rig.keep(0..4).await;
        vfs.insert(rig.host.plug_vf(NIC, round, 64).expect("there is none"));
        rig.host.associate_vf(NIC, round);
        switched(&mut events, Path::VirtualFunction).await;
        // Both paths in turn; all of it comes whole now.
        for number in 10..30 {
            rig.far.send(&if number % 2 == 0 { for_us(number, 1400) } else { frame(number, 1300) }).unwrap();
        }
        let (mut by_rings, mut by_vf) = (Vec::new(), Vec::new());
        while by_rings.len() + by_vf.len() < 20 {
            let mut burst = rig.queue.rx.recv_held().await.unwrap().unwrap();
            for at in 0..burst.len() {
                let packet = burst.keep(at).unwrap();
                assert!(packet.rest().is_empty());
                let of = if packet.meta().path == Path::VirtualFunction { &mut by_vf } else { &mut by_rings };
                of.push(packet);
            }
        }
        assert!(by_vf.iter().map(|packet| number(packet.head())).eq((10..30).step_by(2)));
        assert!(by_rings.iter().map(|packet| number(packet.head())).eq((11..30).step_by(2)));
        assert!(by_vf.iter().all(|packet| *packet.head() == for_us(number(packet.head()), 1400)[..]));
        assert!(by_rings.iter().all(|packet| *packet.head() == frame(number(packet.head()), 1300)[..]));
        // What is held goes out by the virtual function, as it was, by a batch that has frames of both kinds.
        {
            let mut batch = rig.queue.tx.batch();
            for packet in kept.iter().chain(&by_vf) {
                let mut head = packet.head().to_vec();
                head[6..12].copy_from_slice(&OURS);
                batch.push_held(&head, packet.rest(), &TxMeta::default()).unwrap();
            }
        }
        for n in 0..4 {
            let mut expected = frame(n, 1000);
            expected[6..12].copy_from_slice(&OURS);
            assert!(rig.far.recv().await.unwrap()[..] == expected, "frame {n}");
        }
        // The adapter cannot be changed meanwhile, and is as it was afterwards, the virtual function included.
        let change = RingParams { receive_sections: 200 + 100 * round, send_sections: 30 + round };
        let error = rig.nic.set_ring(change).await.unwrap_err();
        assert!(matches!(error, ReconfigureError::HeldFrames { packets: 1.., .. }), "{error:?}");
        if rig.nic.vf().expect("in use").stage != netvsc_async::vf::Stage::OnVf {
            switched(&mut events, Path::VirtualFunction).await;
        }
        rig.far.send(&for_us(40, 1000)).unwrap();
        let burst = rig.queue.rx.recv_held().await.unwrap().unwrap();
        assert_eq!((burst.len(), burst.get(0).unwrap().meta.path), (1, Path::VirtualFunction));
        drop(burst);
        for (n, packet) in kept.iter().enumerate() {
            assert!(whole(packet.head(), packet.rest()) == frame(n as u64, 1000), "frame {n}");
        }
        // Let go of while the change waits for it, from the way on the rings, which nobody looks at otherwise.
        let last = kept.pop();
        drop(kept);
        let let_go = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            drop(last);
        });
        let came = rig.nic.set_ring(change).await.unwrap();
        assert_eq!(came.send_sections, 30 + round);
        let_go.await.unwrap();
        rig.far.send(&for_us(41, 1000)).unwrap();
        assert_eq!(rig.queue.rx.recv_held().await.unwrap().unwrap().len(), 1);
        // Without it frames of the rings are held again.
        rig.host.revoke_vf(NIC);
        rig.host.unplug_vf(NIC);
        while rig.nic.vf().expect("in use").stage != netvsc_async::vf::Stage::Synthetic {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop((by_rings, by_vf));
        drop(rig.keep(50..52).await);
        while events.next().now_or_never().is_some() {}
    }
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn queues_send_what_other_queues_hold() {
    const QUEUES: u16 = 4;
    const FRAMES: u64 = 12;
    let host = Host::builder().build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().queues(8).mac_spoofing(true)));
    host.spawn();
    let (nic, mut queues) = Nic::builder().queues(QUEUES).open_on(bus).await.unwrap();
    let scaling = nic.info().scaling.expect("several queues");
    let flow = |number: u64| {
        // TCP over IPv4, as the host spreads it.
        let mut frame = for_us(number, 800 + 10 * number as usize);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1, 203, 0, 113, 1]);
        frame[34..38].copy_from_slice(&[4, 0, 0, 80]);
        frame[46] = 0x50;
        frame[60..68].copy_from_slice(&number.to_le_bytes());
        frame
    };
    let of = |head: &[u8]| u64::from_le_bytes(head[60..68].try_into().unwrap());
    // Frames of every queue are held, one packet after the other.
    let mut kept: Vec<Vec<HeldPacket>> = Vec::new();
    for queue in &mut queues {
        let table = vec![queue.index(); scaling.table.len()];
        nic.set_rss(RssSettings { table, ..scaling.clone() }).await.unwrap();
        let first = u64::from(queue.index()) * FRAMES;
        (first..first + FRAMES).for_each(|number| far.send(&flow(number)).unwrap());
        let mut held = Vec::new();
        while (held.len() as u64) < FRAMES {
            let mut burst = queue.rx.recv_held().await.unwrap().unwrap();
            held.extend((0..burst.len()).map(|at| burst.keep(at).unwrap()));
        }
        assert!(held.iter().map(|packet| of(packet.head())).eq(first..first + FRAMES));
        assert!(held.iter().all(|packet| !packet.rest().is_empty()));
        kept.push(held);
    }
    let held_of = |index: usize| nic.queue_stats()[index].extra.rx_held;
    assert!((0..4).all(|index| held_of(index) == FRAMES));
    // Each goes out by the next queue, and is let go of in another order than it came.
    for (index, held) in kept.iter().enumerate() {
        let next = (index + 1) % queues.len();
        {
            let mut batch = queues[next].tx.batch();
            for packet in held.iter() {
                let head = [&[0xFF; 6], &OURS, &packet.head()[12..]].concat();
                batch.push_held(&head, packet.rest(), &TxMeta::default()).unwrap();
            }
        }
        let mut came = Vec::new();
        for _ in 0..FRAMES {
            came.push(far.recv().await.unwrap());
        }
        let first = index as u64 * FRAMES;
        for (number, came) in (first..).zip(came) {
            let expected = [&[0xFF; 6], &OURS, &flow(number)[12..]].concat();
            assert!(came[..] == expected, "frame {number} of queue {index} by queue {next}");
        }
    }
    // A table of those that will be left.
    let table = (0..scaling.table.len()).map(|entry| entry as u16 % 2).collect();
    nic.set_rss(RssSettings { table, ..scaling }).await.unwrap();
    // A change of one queue's end waits for what others hold of it, and leaves all as it was.
    let error = nic.set_channels(2).await.unwrap_err();
    let ReconfigureError::HeldFrames { packets, sections } = error else { panic!("{error:?}") };
    assert!(packets >= 4 && sections as u64 >= 4 * FRAMES, "of all queues: {error}");
    assert_eq!((nic.info().queues, queues.len()), (QUEUES, 4));
    let last_of_3 = kept[3].pop().unwrap();
    // In threads, from the last to the first, each those of a queue that another one reads.
    for held in kept.into_iter().rev() {
        std::thread::spawn(move || held.into_iter().rev().for_each(drop)).join().unwrap();
    }
    let error = nic.set_channels(2).await.unwrap_err();
    assert!(matches!(error, ReconfigureError::HeldFrames { packets: 1, .. }), "what queue 3 still has: {error:?}");
    assert!(whole(last_of_3.head(), last_of_3.rest()) == flow(4 * FRAMES - 1));
    drop(last_of_3);
    assert!(nic.set_channels(2).await.unwrap().is_empty());
    for mut gone in queues.drain(2..) {
        assert!(gone.rx.recv_held().await.unwrap().is_none());
    }
    let acks = nic.queue_stats().iter().map(|stats| stats.extra.acks).sum::<u64>();
    assert!(acks > 0);
    let report = nic.close().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    drop(queues);
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn settings_are_checked_and_the_watermark_is_told() {
    let open_with = async |builder: NicBuilder| {
        let host = Host::builder().build();
        let bus = MemBus::new(host.add_nic(NicOptions::new()));
        host.spawn();
        builder.open_on(bus).await.map(drop).unwrap_err()
    };
    let error = open_with(Nic::builder().receive_sections(100).rx_watermark(84)).await;
    let limit = ConfigError::AboveLimit { field: "rx_watermark", value: 84, limit: 83 };
    assert!(matches!(error, OpenError::Config(error) if error == limit), "{error}");
    let error = open_with(Nic::builder().rx_copybreak(100)).await;
    let limit = ConfigError::BelowMinimum { field: "rx_copybreak", value: 100, minimum: 128 };
    assert!(matches!(error, OpenError::Config(error) if error == limit), "{error}");

    let mut rig = open(Nic::builder().receive_sections(100).rx_watermark(3).rx_copybreak(500)).await;
    assert_eq!(rig.nic.info().rx_watermark, 3);
    let mut kept = Vec::new();
    for n in 0..20 {
        rig.far.send(&frame(n, 1000)).unwrap();
        let mut burst = rig.queue.rx.recv_held().await.unwrap().unwrap();
        kept.push(burst.keep(0).unwrap());
    }
    let lengths: Vec<_> = kept.iter().map(|packet| packet.head().len()).collect();
    assert_eq!(lengths, [&[500; 3][..], &[1000; 17]].concat(), "whole, once three sections are held");
    assert_eq!(rig.nic.queue_stats()[0].extra.rx_copied_watermark, 17);
    drop(kept);
    rig.works().await;
    rig.close().await;
}
