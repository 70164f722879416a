//! Many threads, in real time: whatever is accepted arrives, in order, and nobody waits for ever.
//!
//! The schedule is the machine's; what the tasks do is a seed's. `NETVSC_STRESS_SEED` repeats one.
#![cfg(feature = "host")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netvsc_async::testing::{self, Pair};
use netvsc_async::{Error, Nic, NicBuilder, Packet, Queue, SpinBudget, TxMeta, WaitMode};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions};
use vmbus::bus::RingSizes;
use vmbus::mem::{MemBus, MemChannel};

/// Frames each way and round; no more than the far end's port holds, as a switch drops what a slow receiver leaves lying.
const FRAMES: u64 = 1_000;
/// Frames that may be on the way to the adapter: fewer than anybody on it has room for, as a switch drops what has none.
const WINDOW: u64 = 200;
/// Far more than a round takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Ends the process if it is not dropped in time: a task that hangs in a poll cannot be timed out.
struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    fn start(what: String) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&done);
        std::thread::spawn(move || {
            let end = std::time::Instant::now() + PATIENCE;
            while watched.load(Ordering::Relaxed) == 0 {
                if std::time::Instant::now() > end {
                    eprintln!("hangs: {what}");
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self(done)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    /// Lets others run: not at all, for a turn, or for a while.
    async fn dawdle(&mut self) {
        match self.below(64) {
            0 => tokio::time::sleep(Duration::from_micros(self.below(3_000))).await,
            1..8 => tokio::task::yield_now().await,
            8 => std::thread::sleep(Duration::from_micros(self.below(200))),
            _ => {}
        }
    }

    /// A time after which a future is dropped: often before it is ready.
    fn patience(&mut self) -> Duration {
        Duration::from_micros(self.below(400))
    }
}

fn frame(source: [u8; 6], number: u64, random: &mut Random) -> Vec<u8> {
    let mut frame = vec![number as u8; 60 + random.below(1440) as usize];
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&source);
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

fn check(frame: &[u8], expected: u64) {
    assert_eq!(u64::from_le_bytes(frame[14..22].try_into().unwrap()), expected, "out of order or lost");
    assert!(frame[22..].iter().all(|&byte| byte == expected as u8), "frame {expected} was changed");
}

/// Everything that the far end sends arrives at `rx`, whichever way it is asked.
async fn receive(mut rx: netvsc_async::RxHalf<MemChannel>, received: Arc<AtomicU64>, mut random: Random) {
    let mut next = 0;
    while next < FRAMES {
        random.dawdle().await;
        let burst = match random.below(4) {
            0 => rx.try_recv_burst().unwrap(),
            1 => match tokio::time::timeout(random.patience(), rx.recv_burst()).await {
                Ok(burst) => Some(burst.unwrap().expect("open")),
                Err(_) => continue,
            },
            _ => Some(rx.recv_burst().await.unwrap().expect("open")),
        };
        for frame in burst.iter().flatten() {
            check(frame.bytes, next);
            next += 1;
        }
        received.store(next, Ordering::Release);
    }
}

/// Sends `FRAMES` frames in all ways that there are.
async fn send(mut tx: netvsc_async::TxHalf<MemChannel>, mac: [u8; 6], mut random: Random) {
    let mut next = 0;
    while next < FRAMES {
        random.dawdle().await;
        let bytes = frame(mac, next, &mut random);
        match random.below(6) {
            0 => {
                // Nothing was taken by a send that was dropped.
                if let Ok(sent) = tokio::time::timeout(random.patience(), tx.send(&bytes)).await {
                    sent.unwrap();
                    next += 1;
                }
            }
            1 => {
                let end = FRAMES.min(next + random.below(32));
                let mut batch = tx.batch();
                while next < end && batch.push(&frame(mac, next, &mut random), &TxMeta::default()).is_ok() {
                    next += 1;
                }
            }
            2 => drop(tokio::time::timeout(random.patience(), tx.drained()).await),
            3 => drop(tokio::time::timeout(random.patience(), tx.ready(bytes.len())).await),
            // Without a flush: the queue's task has to.
            _ => match tx.try_send(&bytes, &TxMeta::default()) {
                Ok(()) => next += 1,
                Err(Error::Full) => tx.ready(bytes.len()).await.unwrap(),
                Err(error) => panic!("{error}"),
            },
        }
        if random.below(200) == 0 {
            tx.drained().await.unwrap();
        }
    }
}

/// The far end: sends no more than `WINDOW` frames ahead, receives everything.
async fn far_end(far: Arc<MemoryPort>, received: Arc<AtomicU64>, mut random: Random) {
    let sender = Arc::clone(&far);
    let mut dawdler = Random(random.below(u64::from(u32::MAX)) + 1);
    let sending = tokio::spawn(async move {
        for number in 0..FRAMES {
            while number >= received.load(Ordering::Acquire) + WINDOW {
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
            dawdler.dawdle().await;
            sender.send_when_ready(&frame(FAR, number, &mut dawdler)).await.unwrap();
        }
    });
    for number in 0..FRAMES {
        random.dawdle().await;
        check(&far.recv().await.unwrap(), number);
    }
    sending.await.unwrap();
}

/// The host, on a thread of its own, hears of a close when it comes to it; then nothing is left.
async fn settle(host: &Host) {
    let end = std::time::Instant::now() + PATIENCE / 2;
    while !host.report().is_clean() && std::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    host.assert_clean();
}

/// A receiving and a sending task for the queue, and one for the far end.
async fn round(seed: u64, host: Host, nic: Nic<MemBus>, queue: Queue<MemChannel>, far: MemoryPort) {
    // Answered: from now on the host's filter lets everything through.
    nic.set_packet_filter(netvsc::PacketFilter::OPEN).await.unwrap();
    let mac = nic.info().mac.0;
    let received = Arc::new(AtomicU64::new(0));
    let Queue { rx, tx, .. } = queue;
    let tasks = [
        tokio::spawn(receive(rx, Arc::clone(&received), Random(seed * 3 + 1))),
        tokio::spawn(send(tx, mac, Random(seed * 5 + 2))),
        tokio::spawn(far_end(Arc::new(far), received, Random(seed * 7 + 3))),
    ];
    for (what, task) in ["receiver", "sender", "far end"].into_iter().zip(tasks) {
        task.await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let report = nic.close().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    settle(&host).await;
}

fn settings(seed: u64) -> NicBuilder {
    let spin = SpinBudget { time: Duration::from_micros(20), looks: 20 };
    let wait = [WaitMode::Interrupt, WaitMode::Adaptive(spin), WaitMode::default()][(seed % 3) as usize];
    let latency = Duration::from_micros([0, 50, 1_000][(seed / 3 % 3) as usize]);
    let builder = Nic::builder().wait(wait).tx_latency(latency);
    // Rings of one page of data, ten sections: somebody always waits for room.
    let rings = RingSizes { outgoing_bytes: 8192, incoming_bytes: 8192 };
    match seed % 2 {
        0 => builder.tune(|config| config.rings(rings).send_sections(10).direct_bytes(0)),
        _ => builder,
    }
}

#[test]
fn what_is_accepted_arrives_in_order_and_nothing_hangs() {
    let only = std::env::var("NETVSC_STRESS_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in only.map_or(1..13, |seed: u64| seed..seed + 1) {
        let _watchdog = Watchdog::start(format!("seed {seed}"));
        println!("NETVSC_STRESS_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async {
            let host = Host::builder().build();
            let far = host.memory_pair();
            let bus = MemBus::new(host.add_nic(NicOptions::new()));
            let _thread = host.spawn_thread();
            let (nic, mut queues) = settings(seed).open_on(bus).await.unwrap();
            round(seed, host, nic, queues.remove(0), far).await;
        });
    }
}

/// One frame at a time, each an answer to the one before: whoever misses a wake-up is never woken by the next frame.
#[test]
fn a_question_and_an_answer_at_a_time_miss_no_wake_up() {
    let _watchdog = Watchdog::start("questions and answers".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let bus = MemBus::new(host.add_nic(NicOptions::new()));
        let _thread = host.spawn_thread();
        // The queue's task rings the doorbells.
        let builder = Nic::builder().wait(WaitMode::Interrupt).tx_latency(Duration::ZERO);
        let (nic, mut queues) = builder.open_on(bus).await.unwrap();
        nic.set_packet_filter(netvsc::PacketFilter::OPEN).await.unwrap();
        let mac = nic.info().mac.0;
        let Queue { mut rx, mut tx, .. } = queues.remove(0);
        // The control side takes from the ring, too.
        let nic = Arc::new(nic);
        let asking = Arc::clone(&nic);
        let control = tokio::spawn(async move {
            loop {
                asking.query(rndis::Oid::MAXIMUM_FRAME_SIZE).await.unwrap();
            }
        });
        let (answers, mut questions) = tokio::sync::mpsc::channel::<Packet>(1);
        let reflect = tokio::spawn(async move {
            while let Some(packet) = questions.recv().await {
                tx.ready(packet.len()).await.unwrap();
                tx.try_send(&packet, &TxMeta::default()).unwrap();
            }
        });
        let receive = tokio::spawn(async move {
            while let Some(burst) = rx.recv_burst().await.unwrap() {
                for index in 0..burst.len() {
                    let mut packet = burst.keep(index).unwrap();
                    packet.bytes_mut()[6..12].copy_from_slice(&mac);
                    answers.send(packet).await.unwrap();
                }
            }
        });
        let mut random = Random(1);
        for number in 0..3_000 {
            far.send(&frame(FAR, number, &mut random)).unwrap();
            check(&far.recv().await.unwrap(), number);
        }
        control.abort();
        let _ = control.await;
        Arc::into_inner(nic).unwrap().close().await.unwrap();
        receive.await.unwrap();
        reflect.await.unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn an_idle_adapter_makes_no_wake_ups() {
    let Pair { host, far, nic, mut queue } = testing::pair().await.unwrap();
    let mac = nic.info().mac.0;
    let mut random = Random(1);
    // Something happened before, both ways.
    far.send(&frame(FAR, 0, &mut random)).unwrap();
    check(queue.rx.recv_burst().await.unwrap().unwrap().get(0).unwrap().bytes, 0);
    queue.tx.send(&frame(mac, 0, &mut random)).await.unwrap();
    queue.tx.drained().await.unwrap();
    let polls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&polls);
    let waiting = tokio::spawn(async move {
        let mut receive = std::pin::pin!(queue.rx.recv_burst());
        std::future::poll_fn(|cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            receive.as_mut().poll(cx).map(|burst| assert!(burst.unwrap().is_none()))
        })
        .await;
    });
    // Whoever still has a timer from before has had it by then.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let (polled, arms) = (polls.load(Ordering::Relaxed), nic.queue_stats()[0].extra.arms);
    let woken = metrics.worker_park_count(0);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(polls.load(Ordering::Relaxed), polled, "the receiver was polled");
    assert_eq!(nic.queue_stats()[0].extra.arms, arms, "the ring was armed");
    // Every timer that runs out is a park of the runtime; this sleep's own is a few.
    assert!(metrics.worker_park_count(0) - woken < 10, "a task of the adapter, or the host, was woken");
    nic.close().await.unwrap();
    waiting.await.unwrap();
    drop(host);
}
