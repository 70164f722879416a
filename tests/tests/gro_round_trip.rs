//! Segments that are merged on receive, forwarded, and cut again: what arrives at the far end of the forwarder is what was
//! sent, byte for byte and in the order of each flow, whether the host cuts or this side does. And a stack that is given
//! merged segments gets the same content.
//!
//! ```text
//!  left ── host ── adapter ── merge ── cut ── adapter ── host ── right
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc::gro::{FlushReason, GroConfig, GroStats, Received};
use netvsc::meta::Path;
use netvsc_async::smoltcp::NetvscDevice;
use netvsc_async::vf::MemoryBackend;
use netvsc_async::{Error, Event, Nic, NicBuilder, Queue, RxHalf, TxHalf, TxMeta};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, HostBuilder, NicOptions};
use netvsc_tests::frames::FAR;
use netvsc_tests::rig::{self, paused};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use vmbus::mem::{MemBus, MemChannel};

const SEEDS: [u64; 3] = [1, 0x5EED, 20_261_123];
const FLOWS: usize = 6;
const SEGMENTS: usize = 300;
/// Frames on the way at most: no port overflows.
const WINDOW: usize = 300;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// An adapter, its queue, and the far end.
struct End {
    host: Host,
    far: MemoryPort,
    nic: Nic<MemBus>,
    queue: Queue<MemChannel>,
}

async fn end(number: u8, host: HostBuilder, nic: NicBuilder) -> End {
    let host = host.build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().mac([0x00, 0x15, 0x5D, 1, 0, number]).mac_spoofing(true)));
    host.spawn();
    let (nic, mut queues) = nic.open_on(bus).await.expect("comes up");
    End { host, far, nic, queue: queues.remove(0) }
}

/// How frames are taken and passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `rx.forward(tx)`.
    Stream,
    /// As `Stream`, with frames that are held over several polls.
    HeldStream,
    /// Bursts, merged into one buffer each.
    Bursts,
    /// Bursts, as chains of borrowed frames.
    Chains,
    /// Bursts as they came.
    Plain,
}

impl Way {
    fn config(self) -> Option<GroConfig> {
        let config = GroConfig::default().with_udp(true);
        match self {
            Self::Plain => None,
            Self::HeldStream => Some(config.with_flush_after(Some(Duration::from_micros(200)))),
            Self::Stream | Self::Bursts | Self::Chains => Some(config),
        }
    }

    async fn forward(self, from: Queue<MemChannel>, to: Queue<MemChannel>, mtu: u32) -> Result<(), Error> {
        match self {
            Self::Stream | Self::HeldStream => {
                let (packets, sink) = (from.into_split().0, to.into_split().1);
                packets.forward(sink).await
            }
            Self::Bursts | Self::Chains | Self::Plain => self.forward_bursts(from.rx, to.tx, mtu).await,
        }
    }

    async fn forward_bursts(
        self,
        mut rx: RxHalf<MemChannel>,
        mut tx: TxHalf<MemChannel>,
        mtu: u32,
    ) -> Result<(), Error> {
        while let Some(mut burst) = rx.recv_burst().await? {
            let mut frames: Vec<(Vec<u8>, TxMeta)> = Vec::new();
            if self == Self::Chains {
                burst.chains(|received| match received {
                    Received::Frame(frame) => {
                        frames.push((frame.bytes.to_vec(), TxMeta::passing_on(frame.bytes, &frame.meta, mtu)));
                    }
                    Received::Chain(chain) => {
                        let mut bytes = vec![0; chain.merged.len()];
                        chain.gather(&mut bytes).expect("room");
                        let meta = TxMeta::passing_on(&bytes, &chain.merged.meta(), mtu);
                        assert_eq!(meta.segmentation, Some(chain.merged.segmentation()));
                        frames.push((bytes, meta));
                    }
                });
            } else {
                let merged = burst.merged();
                let pass_on = merged
                    .iter()
                    .map(|frame| (frame.bytes.to_vec(), TxMeta::passing_on(frame.bytes, &frame.meta, mtu)));
                frames.extend(pass_on);
            }
            for (bytes, meta) in frames {
                while let Err(error) = tx.try_send(&bytes, &meta) {
                    if !matches!(error, Error::Full) {
                        return Err(error);
                    }
                    tx.ready(bytes.len()).await?;
                }
            }
            tx.flush()?;
        }
        Ok(())
    }
}

/// A flow, from one address to another.
#[derive(Debug, Clone, Copy)]
struct Flow {
    number: u16,
    tcp: bool,
    v6: bool,
    fixed_id: bool,
    size: usize,
}

/// What differs from segment to segment.
#[derive(Debug, Clone)]
struct Segment {
    index: usize,
    flags: u8,
    ecn: u8,
    ttl: u8,
    len: usize,
}

impl Flow {
    fn build(&self, destination: [u8; 6], source: [u8; 6], segment: &Segment) -> Vec<u8> {
        let mut frame = [destination, source].concat();
        let header_len = if self.tcp { 20 } else { 8 };
        let len = (header_len + segment.len) as u16;
        if self.v6 {
            frame.extend([0x86, 0xDD, 0x60, segment.ecn << 4, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([if self.tcp { 6 } else { 17 }, segment.ttl]);
            for host in [1, 2] {
                frame.extend([0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            let id = if self.fixed_id { 7 } else { (segment.index as u16).wrapping_add(0xFFF0) };
            frame.extend([0x08, 0x00, 0x45, segment.ecn]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend(id.to_be_bytes());
            frame.extend([0x40, 0, segment.ttl, if self.tcp { 6 } else { 17 }, 0, 0]);
            frame.extend([198, 51, 100, 1, 203, 0, 113, 2]);
        }
        frame.extend(self.number.to_be_bytes());
        frame.extend(443u16.to_be_bytes());
        let sequence = 0xFFFF_0000u32.wrapping_add((segment.index * self.size) as u32);
        if self.tcp {
            frame.extend(sequence.to_be_bytes());
            frame.extend([0, 0, 0, 9, 0x50, segment.flags, 0x10, 0, 0, 0, 0, 0]);
        } else {
            frame.extend(len.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend((0..segment.len).map(|at| (at * 7 + segment.index * 13 + usize::from(self.number)) as u8));
        let headers = Headers::parse(&frame).expect("IP");
        let request = checksum::request(&frame, &headers).expect("sums");
        checksum::fill(&mut frame, request).expect("computed");
        frame
    }

    /// The flow's frames as they arrive, with what happened to them on their way.
    fn arrive(&self, destination: [u8; 6], source: [u8; 6], rng: &mut StdRng) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for index in 0..SEGMENTS {
            let mut segment = Segment { index, flags: ACK, ecn: 2, ttl: 64, len: self.size };
            let mishap = rng.random_range(0..60);
            match mishap {
                0 => continue,
                1 => segment.flags |= PSH,
                2 => segment.flags |= FIN,
                3 => segment.flags |= RST,
                4 => segment.ecn = 3,
                5 => segment.ttl -= 1,
                6 => segment.len = rng.random_range(0..self.size),
                _ => {}
            }
            let mut frame = self.build(destination, source, &segment);
            match mishap {
                7 => *frame.last_mut().expect("bytes") ^= 4,
                8 => frames.push(frame.clone()),
                9 if !frames.is_empty() => std::mem::swap(frames.last_mut().expect("one"), &mut frame),
                _ => {}
            }
            frames.push(frame);
        }
        frames
    }
}

/// The flow that a frame belongs to, by its source port.
fn flow_of(frame: &[u8]) -> u16 {
    let at = if frame[12] == 0x08 { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Mixes flows as they come over wires: some frames of one, some of another.
fn mix(mut flows: Vec<VecDeque<Vec<u8>>>, rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut mixed = Vec::new();
    while flows.iter().any(|flow| !flow.is_empty()) {
        let flow = rng.random_range(0..flows.len());
        let count = rng.random_range(1..30).min(flows[flow].len());
        mixed.extend(flows[flow].drain(..count));
    }
    mixed
}

/// Sends seeded flows through a forwarder, and checks what comes out; what merging did, and frames that the host cut.
fn round_trip(way: Way, lso: bool, seed: u64) -> (GroStats, u64) {
    paused(async move {
        let host = || Host::builder().lso(lso).seed(seed);
        let left = end(1, host(), Nic::builder().gro(way.config())).await;
        let right = end(2, host(), Nic::builder()).await;
        let (destination, source) = (left.nic.info().mac.0, right.nic.info().mac.0);
        let mtu = right.nic.info().mtu;

        let mut rng = StdRng::seed_from_u64(seed);
        let flows: Vec<VecDeque<Vec<u8>>> = (0..FLOWS)
            .map(|number| {
                let flow = Flow {
                    number: number as u16 + 1000,
                    tcp: number % 3 != 2,
                    v6: rng.random(),
                    fixed_id: rng.random(),
                    size: [1440, 1400, 536, 101, 1000, 8][number],
                };
                flow.arrive(destination, source, &mut rng).into()
            })
            .collect();
        let sent = mix(flows, &mut rng);
        let mut expected: HashMap<u16, VecDeque<&[u8]>> = HashMap::new();
        for frame in &sent {
            expected.entry(flow_of(frame)).or_default().push_back(frame);
        }

        let End { host: left_host, far: left_far, nic: left_nic, queue: left_queue } = left;
        let End { host: right_host, far: right_far, nic: right_nic, queue: right_queue } = right;
        let forwarder = tokio::spawn(way.forward(left_queue, right_queue, mtu));
        let (arrived, mut window) = tokio::sync::watch::channel(0);
        let send = async {
            for (number, frame) in sent.iter().enumerate() {
                window.wait_for(|arrived| number < arrived + WINDOW).await.expect("the other end waits for more");
                left_far.send(frame).expect("room");
            }
        };
        let receive = async {
            for number in 1..=sent.len() {
                let frame = right_far.recv().await.expect("plugged in");
                let next = expected.get_mut(&flow_of(&frame)).and_then(VecDeque::pop_front);
                let same = next == Some(&frame[..]);
                assert!(
                    same,
                    "{way:?}, LSO {lso}, seed {seed}, frame {number}: {} bytes, not {:?}",
                    frame.len(),
                    next.map(<[u8]>::len)
                );
                arrived.send_replace(number);
            }
        };
        tokio::join!(send, receive);
        assert!(tokio::time::timeout(Duration::from_secs(1), right_far.recv()).await.is_err(), "more than was sent");

        let stats = left_nic.gro_stats()[0];
        let counted = left_nic.queue_stats()[0].extra;
        assert_eq!((counted.gro_merged, counted.gro_aggregates), (stats.merged, stats.aggregates));
        let by_host = right_nic.queue_stats()[0].extra.tx_lso;
        left_nic.close().await.expect("closes");
        forwarder.await.expect("no panic").expect("ends as the adapter does");
        right_nic.close().await.expect("closes");
        tokio::time::sleep(Duration::from_millis(1)).await;
        left_host.assert_clean();
        right_host.assert_clean();
        drop((left_far, right_far));
        (stats, by_host)
    })
}

/// Checks the counters of a way that merges.
fn check(stats: &GroStats, way: Way) {
    assert!(stats.frames > 1000, "{way:?}: {stats:?}");
    assert_eq!(stats.passed + stats.single + stats.merged, stats.frames, "{way:?}: {stats:?}");
    assert!(stats.merged > stats.frames / 3, "{way:?}: {stats:?}");
    assert!(stats.aggregates * 2 <= stats.merged, "{way:?}: {stats:?}");
    let reasons: u64 = FlushReason::ALL.iter().map(|reason| stats.flushes(*reason)).sum();
    assert_eq!(reasons, stats.aggregates, "{way:?}: {stats:?}");
    assert!(stats.flushes(FlushReason::Headers) > 0 && stats.flushes(FlushReason::Complete) > 0, "{way:?}: {stats:?}");
}

#[test]
fn merged_forwarded_and_cut_by_the_host() {
    for seed in SEEDS {
        for way in [Way::Stream, Way::HeldStream, Way::Bursts, Way::Chains] {
            let (stats, by_host) = round_trip(way, true, seed);
            check(&stats, way);
            assert!(by_host > 0, "{way:?}, seed {seed}: nothing was left to the host");
        }
    }
}

#[test]
fn merged_forwarded_and_cut_in_software() {
    for seed in SEEDS {
        for way in [Way::Stream, Way::Bursts, Way::Chains] {
            let (stats, by_host) = round_trip(way, false, seed);
            check(&stats, way);
            assert_eq!(by_host, 0);
        }
    }
}

#[test]
fn switched_off_nothing_is_merged() {
    let (stats, by_host) = round_trip(Way::Plain, true, SEEDS[0]);
    assert_eq!((stats, by_host), (GroStats::default(), 0));
}

/// The far end of a switch under smoltcp.
struct Far<'a>(&'a MemoryPort);

struct FarRx(Vec<u8>);

struct FarTx<'a>(&'a MemoryPort);

impl Device for Far<'_> {
    type RxToken<'t>
        = FarRx
    where
        Self: 't;
    type TxToken<'t>
        = FarTx<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(FarRx, FarTx<'_>)> {
        let frame = self.0.try_recv().ok()?;
        Some((FarRx(frame.to_vec()), FarTx(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<FarTx<'_>> {
        Some(FarTx(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl RxToken for FarRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for FarTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A full port loses it, as wires do; the stack repeats it.
        let _ = self.0.send(&frame);
        result
    }
}

fn interface(device: &mut impl Device, mac: [u8; 6], host: u8, now: Instant) -> Interface {
    let mut interface = Interface::new(Config::new(EthernetAddress(mac).into()), device, now);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(198, 51, 100, host), 24)).expect("room");
    });
    interface
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
    tcp::Socket::new(buffer(), buffer())
}

/// Sends bytes from the far end's stack to the adapter's; hash and number of what arrived, and what merging did.
fn bulk_tcp(gro: Option<GroConfig>, bytes: usize) -> ([u8; 32], usize, GroStats) {
    paused(async move {
        let content = |at: usize| (at * 31 + (at >> 8) * 7) as u8;
        let End { host, far, nic, queue } = end(1, Host::builder(), Nic::builder().gro(gro)).await;
        let start = tokio::time::Instant::now();
        let now = || Instant::from_micros(i64::try_from(start.elapsed().as_micros()).expect("in time"));
        let (mac, mtu) = (nic.info().mac.0, nic.info().mtu);

        let server = async {
            let mut device = NetvscDevice::new(queue, mtu);
            let mut interface = interface(&mut device, mac, 1, now());
            let mut sockets = SocketSet::new(Vec::new());
            let handle = sockets.add(socket());
            sockets.get_mut::<tcp::Socket<'_>>(handle).listen(7).expect("listens");
            let (mut hash, mut received) = (Sha256::new(), 0);
            loop {
                let delay = interface.poll_delay(now(), &sockets).map(Duration::from);
                device.ready(delay).await.expect("open");
                interface.poll(now(), &mut device, &mut sockets);
                let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
                while socket.can_recv() {
                    received += socket
                        .recv(|data| {
                            hash.update(&*data);
                            (data.len(), data.len())
                        })
                        .expect("open");
                }
                let ended = received == bytes && !socket.may_recv();
                if ended {
                    socket.close();
                }
                interface.poll(now(), &mut device, &mut sockets);
                device.flush().expect("open");
                if ended {
                    return (hash.finalize().into(), received);
                }
            }
        };
        let client = async {
            let mut device = Far(&far);
            let mut interface = interface(&mut device, [2, 0, 0, 0, 0, 9], 2, now());
            let mut sockets = SocketSet::new(Vec::new());
            let handle = sockets.add(socket());
            let address = (IpAddress::v4(198, 51, 100, 1), 7);
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            socket.connect(interface.context(), address, 50_000).expect("connects");
            let mut written = 0;
            loop {
                interface.poll(now(), &mut device, &mut sockets);
                let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
                while socket.can_send() && written < bytes {
                    written += socket
                        .send(|room| {
                            let len = room.len().min(bytes - written);
                            (0..len).for_each(|at| room[at] = content(written + at));
                            (len, len)
                        })
                        .expect("open");
                }
                if written == bytes {
                    socket.close();
                }
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
        };
        let (hash, received) = tokio::select! {
            arrived = server => arrived,
            () = client => unreachable!("goes on"),
        };
        let expected: Vec<u8> = (0..bytes).map(content).collect();
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&expected)));
        let stats = nic.gro_stats()[0];
        nic.close().await.expect("closes");
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.assert_clean();
        (hash, received, stats)
    })
}

#[test]
fn a_stack_gets_the_same_content_merged_or_not() {
    const BYTES: usize = 8 << 20;
    let (hash, received, stats) = bulk_tcp(Some(GroConfig::default()), BYTES);
    assert_eq!(received, BYTES);
    assert!(stats.merged > BYTES as u64 / 1460 / 2 && stats.aggregates > 0, "{stats:?}");
    let (without, _, stats) = bulk_tcp(None, BYTES);
    assert_eq!((without, stats), (hash, GroStats::default()));
}

#[test]
fn merging_is_on_by_default() {
    paused(async {
        let pair = rig::up(Host::builder(), Nic::builder()).await;
        let (destination, source) = (pair.nic.info().mac.0, [2, 0, 0, 0, 0, 9]);
        let flow = Flow { number: 1, tcp: true, v6: false, fixed_id: false, size: 1000 };
        let frames: Vec<_> = (0..10)
            .map(|index| flow.build(destination, source, &Segment { index, flags: ACK, ecn: 0, ttl: 64, len: 1000 }))
            .collect();
        let (mut packets, _sink) = pair.queue.into_split();
        for frame in &frames {
            pair.far.send(frame).expect("room");
        }
        let mut taken = 0;
        let mut longest = 0;
        while taken < 10_000 {
            let packet = packets.next().await.expect("open").expect("sound");
            taken += packet.len() - 54;
            longest = longest.max(packet.len());
            let coalesced = packet.meta().coalesced;
            assert_eq!(coalesced.is_some(), packet.len() > 1054);
            assert_eq!(packet.tx_meta().segmentation.map(|cut| cut.mss), coalesced.map(|_| 1000));
        }
        assert!(longest > 1054, "nothing was merged");
        assert_eq!(taken, 10_000);
    });
}

/// A virtual function neither merges nor cuts: both are done here, and whoever forwards sees no difference.
#[test]
fn by_a_virtual_function_segments_are_merged_and_cut_as_by_the_rings() {
    paused(async {
        let vfs = MemoryBackend::new();
        let pair = rig::up(Host::builder(), Nic::builder().vf(vfs.clone())).await;
        let mut events = pair.nic.events();
        let (ours, theirs) = (pair.nic.info().mac.0, FAR);
        let Queue { mut rx, mut tx, .. } = pair.queue;
        for (number, path) in (1..).zip([Path::Synthetic, Path::VirtualFunction]) {
            if path == Path::VirtualFunction {
                vfs.insert(pair.host.plug_vf(rig::NIC, 7, 64).expect("there is none"));
                pair.host.associate_vf(rig::NIC, 7);
                while !matches!(events.next().await, Some(Event::DatapathSwitched { to: Path::VirtualFunction, .. })) {}
            }
            for v6 in [false, true] {
                let flow = Flow { number, tcp: true, v6, fixed_id: false, size: 1000 };
                let segment = |index| Segment { index, flags: ACK, ecn: 0, ttl: 64, len: 1000 };
                for index in 0..10 {
                    pair.far.send(&flow.build(ours, theirs, &segment(index))).expect("room");
                }
                let (mut segments, mut merged) = (0, 0);
                while segments < 10 {
                    let burst = rx.recv_burst().await.expect("sound").expect("open").merged();
                    let mut passed_on = Vec::new();
                    for frame in &burst {
                        assert_eq!(frame.meta.path, path);
                        let meta = TxMeta::passing_on(frame.bytes, &frame.meta, 1500);
                        assert_eq!(meta.segmentation.map(|cut| cut.mss), frame.meta.coalesced.map(|_| 1000));
                        let count = frame.bytes.len() / 1000;
                        merged += usize::from(count > 1);
                        segments += count;
                        passed_on.push(([&theirs[..], &ours, &frame.bytes[12..]].concat(), meta));
                    }
                    for (frame, meta) in passed_on {
                        tx.try_send(&frame, &meta).expect("room");
                    }
                    tx.flush().expect("open");
                }
                assert!(segments == 10 && merged > 0, "{path:?}: {merged} of {segments} segments");
                for index in 0..10 {
                    let frame = pair.far.recv().await.expect("plugged in");
                    assert!(frame[..] == flow.build(theirs, ours, &segment(index)), "{path:?}, segment {index}");
                }
            }
        }
        let stats = pair.nic.vf_stats();
        assert_eq!((stats.vf_rx_packets, stats.vf_tx_packets), (20, 20));
        let totals = pair.nic.queue_stats()[0];
        assert_eq!((totals.rx.packets, totals.extra.tx_lso > 0), (20, true), "{totals:?}");
        pair.nic.close().await.expect("closes");
        tokio::time::sleep(Duration::from_millis(1)).await;
        pair.host.assert_clean();
    });
}
