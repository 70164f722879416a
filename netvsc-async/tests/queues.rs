//! Several queues on the simulated host, in one process and in paused time.
#![cfg(feature = "host")]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use netvsc::rss::Toeplitz;
use netvsc::steering::Flow;
use netvsc_async::{
    Error, Event, HashLevel, HashProtocol, Nic, NicBuilder, OpenError, Queue, RssSettings, Steering, TxMeta,
};
use netvsc_host::fault::{Fault, When};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, HostBuilder, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a frame's number is: behind Ethernet, IPv4 and UDP or TCP headers.
const NUMBER: usize = 14 + 20 + 20;

struct Rig {
    host: Host,
    far: MemoryPort,
    nic: Nic<MemBus>,
    queues: Vec<Queue<MemChannel>>,
}

async fn open(host: HostBuilder, host_queues: u16, nic: NicBuilder) -> Result<Rig, OpenError> {
    let host = host.build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().queues(host_queues)));
    host.spawn();
    let (nic, queues) = nic.open_on(bus).await?;
    Ok(Rig { host, far, nic, queues })
}

async fn up(queues: u16) -> Rig {
    let rig = open(Host::builder(), 64, Nic::builder().queues(queues)).await.unwrap();
    assert_eq!(rig.nic.info().queues, queues);
    assert!(rig.queues.iter().map(Queue::index).eq(0..queues));
    rig
}

impl Rig {
    async fn close(self) {
        let Self { host, far: _far, nic, queues } = self;
        let report = nic.close().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        drop(queues);
        // The host learns of the guest's end at its next step, which in real time comes when it does.
        let until = tokio::time::Instant::now() + PATIENCE;
        while !host.report().is_clean() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        host.assert_clean();
    }
}

/// A TCP segment of flow `port` with a number in it.
fn segment(from: [u8; 6], to: [u8; 6], port: u16, number: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(100);
    frame.extend(to);
    frame.extend(from);
    frame.extend([8, 0]);
    // Version and header length, TOS, total length; id, no fragment; TTL, TCP, no checksum; addresses.
    frame.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
    frame.extend(port.to_be_bytes());
    frame.extend(443u16.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0]);
    frame.extend(number.to_le_bytes());
    frame.resize(100, port as u8);
    frame
}

fn port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[NUMBER..NUMBER + 8].try_into().unwrap())
}

/// The queue on which a host with these settings delivers.
fn expected_queue(settings: Option<&RssSettings>, frame: &[u8]) -> u16 {
    let Some(settings) = settings else { return 0 };
    let flow = Flow::of(frame).unwrap();
    let (_, input) = flow.input_of_host(settings.hash_types).unwrap();
    settings.table[Toeplitz::new(&settings.key).hash(input) as usize % settings.table.len()]
}

/// Sends `frames` numbered frames of `flows` flows and checks that each flow arrives in order, and by the queue that was
/// chosen; how many left by each.
async fn send_flows(rig: &mut Rig, flows: u16, frames: u64) -> Vec<u64> {
    let steering: Steering = rig.nic.steering();
    let mac = rig.nic.info().mac.0;
    let before: Vec<u64> = rig.nic.queue_stats().iter().map(|stats| stats.tx.packets).collect();
    let mut sent = vec![0; rig.queues.len()];
    for number in 0..frames {
        let frame = segment(mac, FAR, 1000 + (number % u64::from(flows)) as u16, number);
        let queue = steering.queue_for(&frame);
        assert_eq!(queue, steering.queue_for(&frame), "a flow stays on its queue");
        sent[usize::from(queue)] += 1;
        let at = rig.queues.iter().position(|candidate| candidate.index() == queue).expect("a queue that is there");
        rig.queues[at].tx.send(&frame).await.unwrap();
        // No more on the way than the far end keeps.
        if number % 128 == 127 {
            for queue in &mut rig.queues {
                queue.tx.drained().await.unwrap();
            }
        }
    }
    let mut next: HashMap<u16, u64> = HashMap::new();
    for _ in 0..frames {
        let frame = rig.far.recv().await.unwrap();
        let (flow, number) = (port(&frame), number(&frame));
        let expected = next.entry(flow).or_insert(u64::from(flow - 1000));
        assert_eq!(number, *expected, "flow {flow} in order");
        *expected += u64::from(flows);
    }
    let stats = rig.nic.queue_stats();
    let counted: Vec<u64> = stats.iter().zip(before).map(|(stats, before)| stats.tx.packets - before).collect();
    assert_eq!(counted, sent, "counters per queue");
    sent
}

#[tokio::test(start_paused = true)]
async fn flows_leave_by_all_queues_in_order() {
    for queues in [1, 2, 4, 8] {
        let mut rig = up(queues).await;
        let sent = send_flows(&mut rig, 256, 1024).await;
        assert!(sent.iter().all(|frames| *frames > 0), "{queues}: {sent:?}");
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn flows_arrive_by_the_queue_of_their_table_entry_in_order() {
    for queues in [1u16, 2, 4, 8] {
        let mut rig = up(queues).await;
        let settings = rig.nic.info().scaling;
        let mac = rig.nic.info().mac.0;
        const FLOWS: u16 = 64;
        let mut expected: Vec<u64> = vec![0; usize::from(queues)];
        for round in 0..8 {
            let mut waiting: HashMap<u16, HashSet<u16>> = HashMap::new();
            for flow in 0..FLOWS {
                let frame = segment(FAR, mac, flow, round);
                let queue = expected_queue(settings.as_ref(), &frame);
                waiting.entry(queue).or_default().insert(flow);
                expected[usize::from(queue)] += 1;
                rig.far.send(&frame).unwrap();
            }
            for (queue, mut flows) in waiting {
                while !flows.is_empty() {
                    let burst = rig.queues[usize::from(queue)].rx.recv_burst().await.unwrap().expect("open");
                    for frame in &burst {
                        assert_eq!(number(frame.bytes), round, "in order");
                        assert!(flows.remove(&port(frame.bytes)), "flow {} on queue {queue}", port(frame.bytes));
                    }
                }
            }
        }
        let counted: Vec<u64> = rig.nic.queue_stats().iter().map(|stats| stats.rx.packets).collect();
        assert_eq!(counted, expected);
        assert!(expected.iter().all(|frames| *frames > 0), "{expected:?}");
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn scaling_is_changed_while_the_adapter_is_open() {
    let rig = up(4).await;
    let before = rig.nic.info().scaling.unwrap();
    let wish = RssSettings { table: vec![3], ..before.clone() };
    rig.nic.set_rss(wish.clone()).await.unwrap();
    assert_eq!(rig.nic.info().scaling, Some(wish.clone()));
    let bad = RssSettings { table: vec![4], ..before };
    let error = rig.nic.set_rss(bad).await.unwrap_err();
    assert!(error.to_string().contains("names queue 4"), "{error}");
    assert_eq!(rig.nic.info().scaling, Some(wish));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn frames_follow_a_changed_table() {
    let mut rig = up(4).await;
    let wish = RssSettings { table: vec![3], ..rig.nic.info().scaling.unwrap() };
    rig.nic.set_rss(wish).await.unwrap();
    let mac = rig.nic.info().mac.0;
    for flow in 0..32 {
        rig.far.send(&segment(FAR, mac, flow, 0)).unwrap();
    }
    let mut received = 0;
    while received < 32 {
        received += rig.queues[3].rx.recv_burst().await.unwrap().expect("open").len();
    }
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn there_are_as_many_queues_as_the_host_has() {
    for (host, wished, there) in [(1, 4, 1), (3, 8, 3), (64, 64, 64)] {
        let rig = open(Host::builder(), host, Nic::builder().queues(wished)).await.unwrap();
        assert_eq!(rig.queues.len(), there);
        assert_eq!(rig.nic.queue_stats().len(), there);
        rig.close().await;
    }
    let rig = open(Host::builder(), 1, Nic::builder().queues(2)).await.unwrap();
    let warning = rig.nic.events().next().await;
    assert!(matches!(warning, Some(Event::Warning(_))), "{warning:?}");
    assert!(rig.nic.info().scaling.is_none());
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_level_of_addresses_keeps_all_flows_of_two_hosts_together() {
    let rig = up(8).await;
    let steering = rig.nic.steering();
    let queues = |steering: &Steering| -> HashSet<u16> {
        (0..64).map(|flow| steering.queue_for(&segment(FAR, FAR, flow, 0))).collect()
    };
    assert_eq!(steering.level(HashProtocol::Tcp4), HashLevel::L4);
    assert_eq!(queues(&steering).len(), 8);
    rig.nic.steering().set_level(HashProtocol::Tcp4, HashLevel::L3);
    assert_eq!(queues(&steering).len(), 1, "clones are the same chooser");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn every_queue_ends_with_the_adapter() {
    let Rig { host, far: _far, nic, mut queues } = up(4).await;
    let mac = nic.info().mac.0;
    let readers: Vec<_> = queues
        .drain(..)
        .map(|mut queue| {
            tokio::spawn(async move {
                let end = queue.rx.recv_burst().await.map(|burst| burst.is_none());
                let refused = queue.tx.try_send(&segment(mac, FAR, 1, 1), &TxMeta::default());
                (end, refused)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(nic.close().await.unwrap().is_clean());
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (Ok(true), Err(Error::Closed)));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_is_dropped_closes_its_subchannels() {
    let Rig { host, far: _far, nic, queues } = up(4).await;
    drop((nic, queues));
    tokio::time::sleep(Duration::from_secs(60)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn all_queues_end_when_the_host_takes_the_adapter() {
    let Rig { host, far: _far, nic, mut queues } = up(4).await;
    host.rescind(netvsc_host::NicId(0));
    for queue in &mut queues {
        assert_eq!(queue.rx.recv_burst().await.map(|burst| burst.is_none()), Err(Error::Gone));
    }
    drop(nic);
}

#[test]
fn each_queue_lives_on_its_own_runtime() {
    let runtimes: Vec<_> = (0..4)
        .map(|_| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
        .collect();
    let main = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    main.block_on(async {
        let mut builder = Nic::builder().queues(4);
        for (queue, runtime) in (0..).zip(&runtimes) {
            builder = builder.queue_runtime(queue, runtime.handle().clone());
        }
        let mut rig = open(Host::builder(), 4, builder).await.unwrap();
        let sent = tokio::time::timeout(PATIENCE, send_flows(&mut rig, 64, 256)).await.expect("all frames arrive");
        assert!(sent.iter().all(|frames| *frames > 0), "{sent:?}");
        rig.close().await;
    });
    for runtime in runtimes {
        runtime.shutdown_background();
    }
}

#[tokio::test(start_paused = true)]
async fn a_subchannel_that_falls_silent_is_told_alone() {
    let mut rig = up(4).await;
    let mut events = rig.nic.events();
    rig.host.inject(Fault::SubchannelSilent, When::Always);
    let mac = rig.nic.info().mac.0;
    let frame = segment(mac, FAR, 1, 1);
    for queue in [0, 2] {
        rig.queues[queue].tx.send(&frame).await.unwrap();
        rig.queues[queue].tx.flush().unwrap();
    }
    assert_eq!(events.next().await, Some(Event::Stalled { queue: 2, outstanding: 1 }));
    // The primary channel lives on.
    rig.queues[0].tx.drained().await.unwrap();
    rig.nic.query(rndis::Oid::LINK_SPEED).await.unwrap();
    assert_eq!(rig.nic.queue_stats()[0].tx.packets, 1);
    let report = rig.nic.close().await.unwrap();
    assert_eq!(report.outstanding_sends, 1, "{report:?}");
}
