//! Receive side scaling and transmit steering from outside: on the simulated host, which hashes by itself, steers by the
//! table that the guest set, and has a send indirection table of its own.
//!
//! Published vectors are those of Microsoft's RSS verification suite. The hash is computed here once more, bit by bit.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use netvsc::rss::{EntryLoads, RssKey, Skew};
use netvsc_async::{Error, Event, Frame, HashLevel, HashProtocol, Nic, Queue, RequestError, RssSettings};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicId, NicOptions};
use netvsc_tests::flows::{Flow, toeplitz};
use netvsc_tests::frames::FAR;
use netvsc_tests::rig::paused;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rndis::rss::HashInfo;
use serde_json::Value;
use vmbus::mem::{MemBus, MemChannel};

const NIC: NicId = NicId(0);
/// Frames that the far end's port surely holds.
const WINDOW: usize = 256;

struct Rig {
    host: Host,
    far: MemoryPort,
    nic: Nic<MemBus>,
    queues: Vec<Queue<MemChannel>>,
    mac: [u8; 6],
}

/// An adapter with so many queues, on a host that hashes UDP's ports as well if the guest wants it, and tells the hash.
async fn up(queues: u16) -> Rig {
    let host = Host::builder().tune(|settings| (settings.rss_udp, settings.rx_hash) = (true, true)).build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().queues(64)));
    host.spawn();
    let (nic, queues_there) = Nic::builder().queues(queues).open_on(bus).await.expect("comes up");
    assert_eq!(queues_there.len(), usize::from(queues));
    let mac = nic.info().mac.0;
    Rig { host, far, nic, queues: queues_there, mac }
}

/// Waits until it is so, in paused time.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Rig {
    fn settings(&self) -> RssSettings {
        self.nic.info().scaling.expect("several queues")
    }

    /// The next frames that arrive, and on which queue.
    async fn arrivals(&mut self) -> (u16, Vec<Vec<u8>>) {
        self.arriving(|frame| frame.bytes.to_vec()).await
    }

    /// The hashes that the host tells of the next frames, and on which queue they arrive.
    async fn arriving_hashes(&mut self) -> (u16, Vec<u32>) {
        self.arriving(|frame| frame.meta.hash.expect("a hash of each frame").value).await
    }

    /// What `read` makes of the next frames, and on which queue they arrive; the queues are looked at in turn.
    async fn arriving<T>(&mut self, read: impl Fn(Frame<'_>) -> T) -> (u16, Vec<T>) {
        let queues = &mut self.queues;
        poll_fn(|cx| {
            for queue in queues.iter_mut() {
                if queue.rx.poll_ready(cx).is_ready()
                    && let Ok(Some(burst)) = queue.rx.try_recv_burst()
                {
                    let frames = burst.iter().map(&read).collect();
                    return Poll::Ready((queue.index(), frames));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until `count` frames have arrived, and no more: each is given to `see`, with its queue.
    async fn arrive(&mut self, count: usize, mut see: impl FnMut(u16, &[u8])) {
        let mut left = count;
        while left > 0 {
            let (queue, frames) = self.arrivals().await;
            frames.iter().for_each(|frame| see(queue, frame));
            left -= frames.len();
        }
    }

    /// Sends one frame to the adapter; the queue on which it arrives.
    async fn arrives_on(&mut self, frame: &[u8]) -> u16 {
        self.far.send(frame).expect("room");
        let (queue, frames) = self.arrivals().await;
        assert_eq!(frames, [frame]);
        queue
    }

    /// Sends frames out, each on the queue that the steering chooses; how many left by each queue, as counted there.
    async fn leave(&mut self, frames: &[Vec<u8>]) -> HashMap<u16, u64> {
        let steering = self.nic.steering();
        let before = self.sent();
        for chunk in frames.chunks(WINDOW) {
            for frame in chunk {
                let index = steering.queue_for(frame);
                let queue = self.queues.iter_mut().find(|queue| queue.index() == index);
                queue.expect("steered to a queue that is there").tx.send(frame).await.expect("open");
            }
            for _ in chunk {
                self.far.recv().await.expect("plugged in");
            }
        }
        // They are counted when the guest hears that the host has them, which the far end may have heard before.
        let counted = || self.sent().into_iter().map(|(queue, sent)| (queue, sent - before[&queue]));
        until(|| counted().map(|(_, sent)| sent).sum::<u64>() == frames.len() as u64).await;
        counted().filter(|(_, sent)| *sent > 0).collect()
    }

    fn sent(&self) -> HashMap<u16, u64> {
        (0..).zip(self.nic.queue_stats()).map(|(queue, stats)| (queue, stats.tx.packets)).collect()
    }

    async fn close(self) {
        let Self { host, far: _far, nic, queues, .. } = self;
        let report = nic.close().await.expect("closes");
        assert!(report.is_clean(), "{report:?}");
        drop(queues);
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.assert_clean();
    }
}

fn vectors(name: &str) -> Value {
    let path = format!("{}/../netvsc/tests/vectors/toeplitz/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("json")
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hexadecimal").as_bytes();
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("digits");
    text.chunks(2).map(digits).collect()
}

fn number(value: &Value) -> u32 {
    u32::from_str_radix(value.as_str().expect("a number").trim_start_matches("0x"), 16).expect("hexadecimal")
}

/// A table in which neighbours differ, and which is not the one that the driver sets by itself.
fn scrambled(queues: u16) -> Vec<u16> {
    (0..128).map(|at| (at * 5 + at / 16 + 3) % queues).collect()
}

#[test]
fn published_vectors_arrive_on_the_queue_of_their_hash() {
    paused(async {
        let mut rig = up(8).await;
        let table = scrambled(8);
        let with_udp = HashInfo::LINUX | HashInfo::UDP_IPV4 | HashInfo::UDP_IPV6;
        let (mut published, mut seen) = (0, HashSet::new());
        for vector in vectors("hash")["vectors"].as_array().expect("rows") {
            if vector.get("input_l4_hex").is_none() {
                continue;
            }
            let name = &vector["name"];
            let key = RssKey(hex(&vector["key"]).try_into().expect("40 bytes"));
            let port = |name: &str| vector[name].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
            let address =
                |name: &str| vector[name].as_str().and_then(|text| text.parse::<IpAddr>().ok()).expect("an address");
            let flow = Flow {
                source: address("src"),
                destination: address("dst"),
                tcp: true,
                source_port: port("src_port"),
                destination_port: port("dst_port"),
            };
            let [by_addresses, by_ports] = ["hash_l3", "hash_l4"].map(|level| number(&vector["expect"][level]));
            assert_eq!([false, true].map(|ports| toeplitz(&key.0, &flow.hash_input(ports))), [by_addresses, by_ports]);
            for (tcp, hash_types, hash) in [
                (true, HashInfo::LINUX, by_ports),
                (false, HashInfo::LINUX, by_addresses),
                (false, with_udp, by_ports),
                (true, HashInfo::TOEPLITZ | HashInfo::IPV4 | HashInfo::IPV6, by_addresses),
            ] {
                let settings = RssSettings { key, hash_types, table: table.clone() };
                rig.nic.set_rss(settings).await.expect("the host takes them");
                let frame = Flow { tcp, ..flow }.frame(rig.mac, FAR, b"vector");
                let queue = rig.arrives_on(&frame).await;
                assert_eq!(queue, table[hash as usize % table.len()], "{name}, tcp {tcp}, {hash_types:?}");
                seen.insert(queue);
            }
            published += usize::from(vector["published"] == true);
        }
        assert!(published >= 8 && seen.len() >= 6, "{published} published, queues {seen:?}");
        rig.close().await;
    });
}

#[test]
fn frames_of_all_kinds_arrive_on_the_queue_of_their_class() {
    let vectors = vectors("frames");
    let key = RssKey(hex(&vectors["key"]).try_into().expect("40 bytes"));
    paused(async {
        let mut rig = up(8).await;
        let table = scrambled(8);
        let mut seen = 0;
        for vector in vectors["vectors"].as_array().expect("rows") {
            let name = vector["name"].as_str().expect("a name");
            let (mut frame, expect) = (hex(&vector["frame_hex"]), &vector["expect"]);
            // A tag that stands in the frame itself is looked behind by some hosts only; extension headers likewise.
            if name.contains("vlan") || name.contains("hop_by_hop") {
                continue;
            }
            frame[..6].copy_from_slice(&rig.mac);
            frame[6..12].copy_from_slice(&FAR);
            let udp = name.ends_with("udp_hash_on");
            let hash_types = if udp { HashInfo::LINUX | HashInfo::UDP_IPV4 } else { HashInfo::LINUX };
            rig.nic.set_rss(RssSettings { key, hash_types, table: table.clone() }).await.expect("the host takes them");
            let expected =
                if expect["hash"].is_null() { 0 } else { table[number(&expect["hash"]) as usize % table.len()] };
            assert_eq!(rig.arrives_on(&frame).await, expected, "{name}");
            seen += 1;
        }
        assert!(seen >= 10, "{seen} frames");
        rig.close().await;
    });
}

/// Frames of `flows` with a number each, for round `round`.
fn round(flows: &[Flow], mac: [u8; 6], round: u32) -> Vec<Vec<u8>> {
    let payload = |flow: usize| [(flow as u32).to_be_bytes(), round.to_be_bytes()].concat();
    flows.iter().enumerate().map(|(at, flow)| flow.frame(mac, FAR, &payload(at))).collect()
}

/// The flow and the round that a frame of [`round`] names.
fn read_round(flows: &[Flow], frame: &[u8]) -> (usize, u32) {
    // Ethernet's padding may stand behind it, so it is read from the front.
    let six = frame[12] == 0x86;
    let tcp = frame[if six { 20 } else { 23 }] == 6;
    let at = 14 + if six { 40 } else { 20 } + if tcp { 20 } else { 8 };
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    let flow = word(at) as usize;
    assert!(flow < flows.len(), "flow {flow}");
    (flow, word(at + 4))
}

fn expected_queue(settings: &RssSettings, flow: &Flow) -> u16 {
    // LINUX: ports of TCP, addresses of UDP.
    let hash = toeplitz(&settings.key.0, &flow.hash_input(flow.tcp));
    settings.table[hash as usize % settings.table.len()]
}

#[test]
fn key_and_table_change_while_frames_arrive() {
    paused(async {
        let mut rig = up(4).await;
        let mut rng = SmallRng::seed_from_u64(4);
        let flows: Vec<Flow> = (0..64).map(|_| Flow::random(&mut rng)).collect();
        for change in 0..50 {
            // Frames are on their way while the host is asked: they come by the old settings or the new, but all come.
            for frame in round(&flows, rig.mac, change * 2) {
                rig.far.send(&frame).expect("room");
            }
            let key = RssKey(std::array::from_fn(|_| rng.random()));
            let queues = rng.random_range(1..=4);
            let table = (0..rng.random_range(1..=128)).map(|_| rng.random_range(0..queues)).collect();
            let settings = RssSettings { key, table, ..rig.settings() };
            rig.nic.set_rss(settings.clone()).await.expect("the host takes them");
            assert_eq!(rig.settings(), settings);
            rig.arrive(flows.len(), |_, frame| assert_eq!(read_round(&flows, frame).1, change * 2)).await;
            // From now on by the new ones.
            for frame in round(&flows, rig.mac, change * 2 + 1) {
                rig.far.send(&frame).expect("room");
            }
            let see = |queue, frame: &[u8]| {
                let flow = flows[read_round(&flows, frame).0];
                assert_eq!(queue, expected_queue(&settings, &flow), "{flow:?}");
            };
            rig.arrive(flows.len(), see).await;
        }
        rig.close().await;
    });
}

#[test]
fn a_flow_arrives_in_order_on_one_queue() {
    const ROUNDS: u32 = 200;
    paused(async {
        let mut rig = up(4).await;
        let mut rng = SmallRng::seed_from_u64(5);
        let flows: Vec<Flow> = (0..64).map(|_| Flow::random(&mut rng)).collect();
        let mut next: Vec<(Option<u16>, u32)> = vec![(None, 0); flows.len()];
        for number in 0..ROUNDS {
            for frame in round(&flows, rig.mac, number) {
                rig.far.send(&frame).expect("room");
            }
            // Now and then all that has gathered is taken.
            let gathered = if number % 4 == 3 { 4 * flows.len() } else { 0 };
            let see = |queue, frame: &[u8]| {
                let (flow, number) = read_round(&flows, frame);
                let (on, expected) = &mut next[flow];
                assert_eq!(*on.get_or_insert(queue), queue, "{:?} on one queue", flows[flow]);
                assert_eq!(number, *expected, "{:?} in order", flows[flow]);
                *expected += 1;
            };
            rig.arrive(gathered, see).await;
        }
        assert!(next.iter().all(|(_, number)| *number == ROUNDS));
        let queues: HashSet<_> = next.iter().map(|(on, _)| on).collect();
        assert_eq!(queues.len(), 4, "flows on all queues");
        rig.close().await;
    });
}

#[test]
fn a_flow_leaves_in_order_by_one_queue() {
    const ROUNDS: u32 = 200;
    paused(async {
        let mut rig = up(4).await;
        let mut rng = SmallRng::seed_from_u64(6);
        let flows: Vec<Flow> = (0..64).map(|_| Flow::random(&mut rng)).collect();
        let steering = rig.nic.steering();
        let mut by: Vec<Option<u16>> = vec![None; flows.len()];
        let mut next = vec![0; flows.len()];
        for number in 0..ROUNDS {
            for (flow, mut frame) in round(&flows, FAR, number).into_iter().enumerate() {
                frame[6..12].copy_from_slice(&rig.mac);
                let queue = steering.queue_for(&frame);
                assert_eq!(*by[flow].get_or_insert(queue), queue, "{:?} by one queue", flows[flow]);
                rig.queues[usize::from(queue)].tx.send(&frame).await.expect("open");
            }
            for _ in 0..flows.len() {
                let frame = rig.far.recv().await.expect("plugged in");
                let (flow, number) = read_round(&flows, &frame);
                assert_eq!(number, next[flow], "{:?} in order", flows[flow]);
                next[flow] += 1;
            }
        }
        assert_eq!(by.iter().collect::<HashSet<_>>().len(), 4, "flows by all queues");
        rig.close().await;
    });
}

/// Within 15 % of an equal share.
fn assert_shared_equally(counts: &HashMap<u16, u64>, queues: u64, all: u64) {
    let share = all as f64 / queues as f64;
    assert_eq!(counts.len() as u64, queues, "{counts:?}");
    for (queue, count) in counts {
        let deviation = (*count as f64 - share).abs() / share;
        assert!(
            deviation <= 0.15,
            "queue {queue} has {count} of {all} flows, {:.1} % off: {counts:?}",
            deviation * 100.0
        );
    }
}

#[test]
fn ten_thousand_random_flows_share_four_queues_equally() {
    const FLOWS: u64 = 10_000;
    paused(async {
        let mut rig = up(4).await;
        let mut rng = SmallRng::seed_from_u64(7);
        let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::random(&mut rng)).collect();
        let mut arrived = HashMap::new();
        for chunk in flows.chunks(WINDOW) {
            for flow in chunk {
                rig.far.send(&flow.frame(rig.mac, FAR, b"in")).expect("room");
            }
            rig.arrive(chunk.len(), |queue, _| *arrived.entry(queue).or_default() += 1).await;
        }
        assert_shared_equally(&arrived, 4, FLOWS);
        let frames: Vec<_> = flows.iter().map(|flow| flow.frame(FAR, rig.mac, b"out")).collect();
        let left = rig.leave(&frames).await;
        assert_eq!(left.values().sum::<u64>(), FLOWS);
        assert_shared_equally(&left, 4, FLOWS);
        rig.close().await;
    });
}

#[test]
fn as_many_queues_as_there_may_be_all_receive_and_send() {
    const FLOWS: usize = 4000;
    for queues in [16, 33, 64] {
        paused(async {
            let mut rig = up(queues).await;
            assert_eq!(rig.nic.info().queues, queues);
            let settings = rig.settings();
            let mut rng = SmallRng::seed_from_u64(queues.into());
            let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::random(&mut rng)).collect();
            let frames = round(&flows, rig.mac, 0);
            let mut seen = HashSet::new();
            for chunk in frames.chunks(WINDOW) {
                for frame in chunk {
                    rig.far.send(frame).expect("room");
                }
                let see = |queue, frame: &[u8]| {
                    let flow = flows[read_round(&flows, frame).0];
                    assert_eq!(queue, expected_queue(&settings, &flow), "{flow:?}");
                    seen.insert(queue);
                };
                rig.arrive(chunk.len(), see).await;
            }
            assert_eq!(seen.len(), usize::from(queues), "each receives");
            // The host's table has 16 entries, so that steering names 16 queues: whoever has a queue may send by it.
            let Rig { far, queues: all, mac, .. } = &mut rig;
            for (queue, flow) in all.iter_mut().zip(&flows) {
                let frame = flow.frame(FAR, *mac, b"out");
                queue.tx.send(&frame).await.expect("open");
                assert_eq!(far.recv().await.expect("plugged in")[..], frame);
            }
            until(|| rig.sent().values().all(|sent| *sent == 1)).await;
            rig.close().await;
        });
    }
}

#[test]
fn large_flows_that_met_on_one_queue_are_spread() {
    const QUEUES: [u16; 4] = [0, 1, 2, 3];
    paused(async {
        let mut rig = up(4).await;
        let mut rng = SmallRng::seed_from_u64(8);
        let before = rig.settings();
        // Eight large flows that all fall on queue 2, by entries of their own, and 64 small ones.
        let (mut large, mut entries) = (Vec::new(), HashSet::new());
        while large.len() < 8 {
            let flow = Flow::random(&mut rng);
            let hash = toeplitz(&before.key.0, &flow.hash_input(flow.tcp));
            if expected_queue(&before, &flow) == 2 && entries.insert(hash as usize % before.table.len()) {
                large.push(flow);
            }
        }
        let small: Vec<_> = (0..64).map(|_| Flow::random(&mut rng)).collect();
        let frames: Vec<_> = large
            .iter()
            .flat_map(|flow| std::iter::repeat_n(*flow, 50))
            .chain(small)
            .map(|flow| flow.frame(rig.mac, FAR, b"load"))
            .collect();
        let mut percent = Vec::new();
        for moves in [true, false] {
            let mut loads: Vec<_> = QUEUES.map(|_| EntryLoads::new(before.table.len())).into();
            let mut arrived: HashMap<u16, u64> = HashMap::new();
            for chunk in frames.chunks(WINDOW) {
                for frame in chunk {
                    rig.far.send(frame).expect("room");
                }
                let mut left = chunk.len();
                while left > 0 {
                    let (queue, hashes) = rig.arriving_hashes().await;
                    for hash in &hashes {
                        loads[usize::from(queue)].count(*hash, 1);
                    }
                    *arrived.entry(queue).or_default() += hashes.len() as u64;
                    left -= hashes.len();
                }
            }
            let mut all = loads.remove(0);
            loads.iter().for_each(|more| all.merge(more));
            // By entries and by queues it is the same.
            let skew = all.skew(&rig.settings().table, &QUEUES).expect("a load");
            assert_eq!(Skew::of(QUEUES.map(|queue| (queue, arrived.get(&queue).copied().unwrap_or(0)))), Some(skew));
            percent.push(skew.percent);
            let (settings, moved) = rig.settings().rebalanced(&all, &QUEUES);
            if moves {
                assert_eq!(skew.busiest, 2);
                assert!((4..=12).contains(&moved), "{moved} entries moved");
                rig.nic.set_rss(settings).await.expect("the host takes them");
            }
        }
        assert!(percent[0] > 300 && percent[1] < 115, "busiest queue's percentage of an equal share: {percent:?}");
        rig.close().await;
    });
}

#[test]
fn each_protocol_leaves_by_its_own_hash_level() {
    const FLOWS: u16 = 64;
    paused(async {
        let mut rig = up(8).await;
        let steering = rig.nic.steering();
        let table = rig.nic.info().send_table;
        let frames = |rig: &Rig, protocol| -> Vec<_> {
            (0..FLOWS).map(|port| Flow::numbered(protocol, port).frame(FAR, rig.mac, b"level")).collect()
        };
        for name in ["tcp4", "tcp6", "udp4", "udp6"] {
            let protocol: HashProtocol = name.parse().expect("a name of ethtool's");
            for level in ["sd", "sdfn", "sd"] {
                steering.set_level(protocol, level.parse().expect("a name of ethtool's"));
                assert_eq!(steering.level(protocol).to_string(), level);
                let left = rig.leave(&frames(&rig, protocol)).await;
                if level == "sd" {
                    assert_eq!(left.len(), 1, "{name} {level}: two addresses, one queue: {left:?}");
                } else {
                    assert_eq!(left.len(), 8, "{name} {level}: {left:?}");
                }
                // The queue is the one of the bucket of the hash of just that.
                for port in 0..FLOWS {
                    let flow = Flow::numbered(protocol, port);
                    let hash = toeplitz(&RssKey::MICROSOFT.0, &flow.hash_input(level == "sdfn"));
                    let queue = steering.queue_for(&flow.frame(FAR, rig.mac, b"level"));
                    assert_eq!(queue, table[hash as usize % table.len()], "{name} {level} port {port}");
                }
            }
            // The others go by what they had: those that came before this one by addresses, the rest by ports.
            for other in HashProtocol::ALL {
                let by_addresses = other as u8 <= protocol as u8;
                assert_eq!(steering.level(other), if by_addresses { HashLevel::L3 } else { HashLevel::L4 }, "{other}");
                assert_eq!(rig.leave(&frames(&rig, other)).await.len() == 1, by_addresses, "{other} after {name}");
            }
        }
        rig.close().await;
    });
}

#[test]
fn fragments_of_udp_leave_and_arrive_together() {
    paused(async {
        let mut rig = up(8).await;
        let steering = rig.nic.steering();
        for protocol in [HashProtocol::Udp4, HashProtocol::Udp6] {
            let payload = [0x5A; 2000];
            let pieces = |to, from, port| Flow::numbered(protocol, port).fragments(to, from, &payload);
            // Among themselves at any level: none but the first has ports.
            for level in [HashLevel::L4, HashLevel::L3] {
                steering.set_level(protocol, level);
                for port in 0..64 {
                    let [first, second] = pieces(FAR, rig.mac, port).map(|piece| steering.queue_for(&piece));
                    assert_eq!(first, second, "{protocol} {level}: one datagram, one queue");
                }
            }
            // By addresses also with datagrams of the same flows that are whole, and with those of all other ports.
            let mut frames = Vec::new();
            for port in 0..64 {
                frames.extend(pieces(FAR, rig.mac, port));
                frames.push(Flow::numbered(protocol, port).frame(FAR, rig.mac, b"whole"));
            }
            let left = rig.leave(&frames).await;
            assert_eq!(left.len(), 1, "{protocol} sd: {left:?}");

            // The other way the host hashes.
            let udp = HashInfo::LINUX | HashInfo::UDP_IPV4 | HashInfo::UDP_IPV6;
            for (hash_types, whole_too) in [(udp, false), (HashInfo::LINUX, true)] {
                rig.nic.set_rss(RssSettings { hash_types, ..rig.settings() }).await.expect("the host takes them");
                let mut queues = HashSet::new();
                for port in 0..32 {
                    for piece in pieces(rig.mac, FAR, port) {
                        queues.insert(rig.arrives_on(&piece).await);
                    }
                    if whole_too {
                        let whole = Flow::numbered(protocol, port).frame(rig.mac, FAR, b"whole");
                        queues.insert(rig.arrives_on(&whole).await);
                    }
                }
                assert_eq!(queues.len(), 1, "{protocol}, {hash_types:?}: {queues:?}");
            }
        }
        rig.close().await;
    });
}

#[test]
fn the_hosts_send_table_is_followed_while_frames_leave() {
    paused(async {
        let mut rig = up(4).await;
        let steering = rig.nic.steering();
        let mut rng = SmallRng::seed_from_u64(8);
        let flows: Vec<Flow> = (0..128).map(|_| Flow::random(&mut rng)).collect();
        let frames: Vec<_> = flows.iter().map(|flow| flow.frame(FAR, rig.mac, b"table")).collect();
        let bucket = |flow: &Flow| toeplitz(&RssKey::MICROSOFT.0, &flow.hash_input(true)) as usize % 16;
        for change in 0..20 {
            // Every other table names queues that are not there, which the driver has to turn into ones that are.
            let limit = if change % 2 == 0 { 4 } else { 1000 };
            let entries: [u32; 16] = std::array::from_fn(|_| rng.random_range(0..limit));
            rig.host.set_send_table(NIC, entries);
            let expected = entries.map(|entry| (entry % 4) as u16);
            until(|| rig.nic.info().send_table == expected).await;
            let table = rig.nic.info().send_table;
            let left = rig.leave(&frames).await;
            let mut expected: HashMap<u16, u64> = HashMap::new();
            for flow in &flows {
                *expected.entry(table[bucket(flow)]).or_default() += 1;
            }
            assert_eq!(left, expected);
            assert!(flows.iter().zip(&frames).all(|(flow, frame)| steering.queue_for(frame) == table[bucket(flow)]));
        }
        rig.close().await;
    });
}

#[test]
fn tables_name_only_queues_that_live() {
    paused(async {
        let mut rig = up(4).await;
        let mut events = rig.nic.events();
        let mut rng = SmallRng::seed_from_u64(9);
        let flows: Vec<Flow> = (0..256).map(|_| Flow::random(&mut rng)).collect();
        let mut live = vec![0, 1, 2, 3];
        for lost in [2, 1, 3] {
            let before = rig.settings();
            rig.host.rescind_queue(NIC, lost);
            live.retain(|queue| *queue != lost);
            while events.next().await.expect("open") != (Event::QueueGone { queue: lost }) {}
            // Its own stream ends, and only that one.
            let at = rig.queues.iter().position(|queue| queue.index() == lost).expect("it was there");
            let mut gone = rig.queues.remove(at);
            let end = gone.rx.recv_burst().await.map(|burst| burst.is_none());
            assert!(matches!(end, Ok(true) | Err(Error::Gone)), "{end:?}");
            // Both tables are made anew, of queues that live, and what went to those stays there.
            until(|| !rig.settings().table.contains(&lost)).await;
            let after = rig.settings();
            assert!(after.table.iter().all(|queue| live.contains(queue)), "{after:?}");
            assert!(before.table.iter().zip(&after.table).all(|(old, new)| old == new || *old == lost), "others stay");
            assert!(rig.nic.info().send_table.iter().all(|queue| live.contains(queue)));
            // Nor can it be asked for.
            let refused = rig.nic.set_rss(RssSettings { table: vec![lost], ..after.clone() }).await;
            assert!(matches!(refused, Err(RequestError::Failed(_))), "{refused:?}");
            // The host has the new table as well.
            for frame in round(&flows, rig.mac, 0) {
                rig.far.send(&frame).expect("room");
            }
            let mut left = flows.len();
            while left > 0 {
                let (queue, frames) = rig.arrivals().await;
                for frame in &frames {
                    let (flow, _) = read_round(&flows, frame);
                    assert_eq!(queue, expected_queue(&after, &flows[flow]));
                }
                left -= frames.len();
            }
            let frames: Vec<_> = flows.iter().map(|flow| flow.frame(FAR, rig.mac, b"fewer")).collect();
            let left: HashSet<u16> = rig.leave(&frames).await.into_keys().collect();
            assert_eq!(left, live.iter().copied().collect(), "by all that live");
            // A table of the host's that names it all the same is not followed there.
            rig.host.set_send_table(NIC, [u32::from(lost); 16]);
            let instead = live[usize::from(lost) % live.len()];
            until(|| rig.nic.info().send_table == [instead; 16]).await;
            rig.host.set_send_table(NIC, std::array::from_fn(|bucket| bucket as u32 % 4));
            until(|| live.iter().all(|queue| rig.nic.info().send_table.contains(queue))).await;
        }
        rig.close().await;
    });
}
