//! A virtual function under the public API, in virtual time: schedules by seed of what hosts, devices and backends do, while
//! several queues send and receive in whatever way, and the adapter is changed and closed. What was accepted is delivered,
//! once, in the order of its flow; only what was inside a VF that vanished is missing, and the events have said so.
//!
//! The adapter has one to four queues, and so has the device, which spreads what it receives by a key and a table of its own:
//! each flow is received by one of the adapter's queues all the same. There are flows of UDP, ARP, and such as are no IP, for one
//! station and for all.
//!
//! The same lives without the async layer, many more of them: `vf_schedules.rs`. `VF_ASYNC_SEEDS` says how many there are here
//! (1000 in release builds, 60 in debug builds, unless it is set), `VF_SEED` runs one of them alone.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use netvsc::rss::RssKey;
use netvsc::steering::HashProtocol;
use netvsc_async::vf::{Adapter, MemoryBackend, OpenedVf, Stage, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};
use netvsc_async::{Error, Event, Nic, Queue, RingParams, TxMeta, WaitMode};
use netvsc_host::port::MemoryPort;
use netvsc_host::vf::{GuestVf, VfManner, VfOptions};
use netvsc_host::{Host, NicId, NicOptions};
use netvsc_tests::flows::Flow;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rndis::rss::HashInfo;
use tokio::time::sleep;
use vmbus::mem::{MemBus, MemChannel};

const NIC: NicId = NicId(0);
const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 2, 3];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Frames that each direction of a VF holds.
const VF_RING: usize = 64;
/// Frames on their way to the guest at most, so that no ring of the VF overflows.
const WINDOW: u64 = 40;

/// A backend whose devices open late, or not at all, and refuse settings.
struct Moody {
    inner: MemoryBackend,
    random: Arc<Mutex<SmallRng>>,
}

struct MoodyWatch {
    inner: Box<dyn VfWatch>,
    random: Arc<Mutex<SmallRng>>,
}

struct MoodyVf {
    inner: Arc<dyn VfHandle>,
    random: Arc<Mutex<SmallRng>>,
}

fn chance(random: &Mutex<SmallRng>, one_in: u32) -> bool {
    random.lock().unwrap().random_range(0..one_in) == 0
}

fn late(random: &Mutex<SmallRng>) -> Duration {
    Duration::from_micros([0, 50, 2000, 150_000][random.lock().unwrap().random_range(0..4)])
}

impl VfBackend for Moody {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        let random = Arc::clone(&self.random);
        Ok(Box::new(MoodyWatch { inner: self.inner.watch(adapter)?, random }))
    }
}

impl VfWatch for MoodyWatch {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent> {
        self.inner.poll_event(cx)
    }

    fn find(&mut self, serial: u32) {
        self.inner.find(serial);
    }

    fn open(&mut self, wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>> {
        let (time, fails) = (late(&self.random), chance(&self.random, 20));
        let opening = self.inner.open(wish);
        let random = Arc::clone(&self.random);
        async move {
            sleep(time).await;
            if fails {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let opened = opening.await?;
            Ok(OpenedVf { device: Arc::new(MoodyVf { inner: opened.device, random }), ..opened })
        }
        .boxed()
    }
}

impl MoodyVf {
    fn perhaps(&self) -> BoxFuture<'static, io::Result<()>> {
        let (time, fails) = (late(&self.random), chance(&self.random, 3));
        sleep(time).map(move |()| if fails { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }).boxed()
    }
}

impl VfHandle for MoodyVf {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn set_mtu(&self, _mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        self.perhaps()
    }

    fn set_promiscuous(&self, _promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        self.perhaps()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// Numbered frames of flows.
#[derive(Debug, Default)]
struct Flows {
    next: HashMap<u8, u64>,
    missing: u64,
    /// By which queue they came.
    queue: HashMap<u8, u16>,
}

/// Flows of the far end.
const FLOWS: u8 = 24;
/// Most bytes of a frame.
const LONGEST: usize = 42 + 95;

/// What a flow consists of; those of one kind are so many apart.
const KINDS: u8 = 4;
const UDP: u8 = 0;
const ARP: u8 = 1;
const FOR_ALL: u8 = 2;

fn frame(flow: u8, number: u64, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut payload = vec![number as u8; 46 + (number % 50) as usize];
    payload[0] = flow;
    payload[1..9].copy_from_slice(&number.to_le_bytes());
    match flow % KINDS {
        UDP => {
            let source = Ipv4Addr::new(198, 51, 100, 1 + 7 * flow).into();
            Flow { source, ..Flow::numbered(HashProtocol::Udp4, 1000) }.frame(to, from, &payload)
        }
        ARP => {
            let (own, wanted) = ([198, 51, 100, 1], [198, 51, 100, 2]);
            let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &from, &own, &[0; 6], &wanted].concat();
            [&[0xFF; 6][..], &from, &[8, 6], &request, &payload].concat()
        }
        FOR_ALL => [&[0xFF; 6][..], &from, &[0x88, 0xB5], &payload].concat(),
        _ => [&to[..], &from, &[0x88, 0xB5], &payload].concat(),
    }
}

/// One of those flows: more often than others one of UDP.
fn some_flow(random: &mut SmallRng, flows: u8) -> u8 {
    let flow = random.random_range(0..flows);
    if random.random_range(0..2) == 0 { flow / KINDS * KINDS } else { flow }
}

impl Flows {
    /// A frame has come, which must not be behind one that has.
    #[track_caller]
    fn came(&mut self, frame: &[u8], what: &str) -> u8 {
        let payload = &frame[if frame[12..14] == [0x88, 0xB5] { 14 } else { 42 }..];
        let flow = payload[0];
        let number = u64::from_le_bytes(payload[1..9].try_into().expect("eight bytes"));
        assert_eq!(payload.len(), 46 + (number % 50) as usize, "{what}");
        let next = self.next.entry(flow).or_default();
        assert!(number >= *next, "{what}: frame {number} of flow {flow}, {next} is next");
        self.missing += number - *next;
        *next = number + 1;
        flow
    }

    /// As [`came`](Self::came), by this queue of the adapter.
    #[track_caller]
    fn came_by(&mut self, queue: u16, frame: &[u8]) {
        let flow = self.came(frame, "received");
        let known = *self.queue.entry(flow).or_insert(queue);
        assert_eq!(queue, known, "flow {flow} comes by another queue");
    }

    /// Of frames that were sent: how many.
    fn sent(&self) -> u64 {
        self.next.values().sum()
    }

    /// Of frames that came: how many.
    fn arrived(&self) -> u64 {
        self.sent() - self.missing
    }
}

/// What everybody counts.
#[derive(Default)]
struct Counts {
    sent: Mutex<Flows>,
    arrived: Mutex<Flows>,
    far_sent: Mutex<Flows>,
    received: Mutex<Flows>,
    lost: Mutex<u64>,
    events: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Nothing happens for long: there is little traffic.
    calm: AtomicBool,
    /// The VF vanishes as soon as something was sent, while that is inside.
    surprise: Mutex<Option<Host>>,
}

impl Counts {
    fn tx_lost(&self) -> u64 {
        self.sent.lock().unwrap().sent() - self.arrived.lock().unwrap().arrived()
    }

    fn rx_lost(&self) -> u64 {
        self.far_sent.lock().unwrap().sent() - self.received.lock().unwrap().arrived()
    }

    fn surprise(&self) {
        if let Some(host) = self.surprise.lock().unwrap().take() {
            host.remove_vf_by_surprise(NIC);
        }
    }

    /// The pause between two bursts.
    async fn pause(&self, random: &mut SmallRng) {
        let calm = if self.calm.load(Ordering::Relaxed) { 100 } else { 1 };
        sleep(Duration::from_micros(calm * [20, 100, 500, 4000][random.random_range(0..4)])).await;
    }

    fn next(&self, flow: u8) -> u64 {
        self.sent.lock().unwrap().next.get(&flow).copied().unwrap_or(0)
    }

    fn accepted(&self, flow: u8) {
        *self.sent.lock().unwrap().next.entry(flow).or_default() += 1;
    }
}

/// Sends and receives on one queue by its halves.
async fn by_bursts(queue: Queue<MemChannel>, counts: Arc<Counts>, mut random: SmallRng) {
    let index = queue.index();
    let Queue { mut rx, mut tx, .. } = queue;
    let counts2 = Arc::clone(&counts);
    let receive = async move {
        while let Some(burst) = rx.recv_burst().await.expect("a sound queue") {
            for frame in &burst {
                counts2.received.lock().unwrap().came_by(index, frame.bytes);
            }
        }
    };
    let send = async move {
        while !counts.stop.load(Ordering::Relaxed) {
            let flow = index as u8 * KINDS + some_flow(&mut random, KINDS);
            match random.random_range(0..3) {
                0 => {
                    let mut batch = tx.batch();
                    for _ in 0..random.random_range(1..8) {
                        match batch.push(&frame(flow, counts.next(flow), FAR, MAC), &TxMeta::default()) {
                            Ok(()) => counts.accepted(flow),
                            Err(Error::Full) => break,
                            Err(Error::Closed) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                1 => match tx.ready(LONGEST).await {
                    Ok(()) => match tx.try_send(&frame(flow, counts.next(flow), FAR, MAC), &TxMeta::default()) {
                        Ok(()) => counts.accepted(flow),
                        // The VF has become unable to send, or the paths have changed, since.
                        Err(Error::Full) => {}
                        Err(Error::Closed) => return,
                        Err(error) => panic!("{error}"),
                    },
                    Err(Error::Closed) => return,
                    Err(error) => panic!("{error}"),
                },
                _ => match tx.send(&frame(flow, counts.next(flow), FAR, MAC)).await {
                    Ok(()) => counts.accepted(flow),
                    Err(Error::Closed) => return,
                    Err(error) => panic!("{error}"),
                },
            }
            counts.surprise();
            counts.pause(&mut random).await;
        }
        match tx.drained().await {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    };
    futures::join!(receive, send);
}

/// The same as a stream and a sink.
async fn by_packets(queue: Queue<MemChannel>, counts: Arc<Counts>, mut random: SmallRng) {
    let index = queue.index();
    let (mut stream, mut sink) = queue.into_split();
    let counts2 = Arc::clone(&counts);
    let receive = async move {
        while let Some(packet) = stream.next().await {
            counts2.received.lock().unwrap().came_by(index, packet.expect("a sound queue").bytes());
        }
    };
    let send = async move {
        while !counts.stop.load(Ordering::Relaxed) {
            let flow = index as u8 * KINDS + some_flow(&mut random, KINDS);
            for _ in 0..random.random_range(1..8) {
                let packet = sink.packet(&frame(flow, counts.next(flow), FAR, MAC));
                match sink.send(packet).await {
                    Ok(()) => counts.accepted(flow),
                    Err(Error::Closed) => return,
                    Err(error) => panic!("{error}"),
                }
            }
            counts.surprise();
            counts.pause(&mut random).await;
        }
        sink.close().await.expect("sent, or the adapter was closed");
    };
    futures::join!(receive, send);
}

/// The far end: sends, and counts what comes.
async fn far_end(far: MemoryPort, counts: Arc<Counts>, changed: Arc<AtomicBool>, mut random: SmallRng) {
    loop {
        while let Ok(frame) = far.try_recv() {
            counts.arrived.lock().unwrap().came(&frame, "arrived");
        }
        if !counts.stop.load(Ordering::Relaxed) {
            for _ in 0..random.random_range(0..6) {
                // What was sent while the adapter was changed is missing from then on.
                let window = if changed.load(Ordering::Relaxed) { 10 * WINDOW } else { WINDOW };
                if counts.rx_lost() >= window {
                    break;
                }
                let flow = some_flow(&mut random, FLOWS);
                let number = counts.far_sent.lock().unwrap().next.get(&flow).copied().unwrap_or(0);
                far.send(&frame(flow, number, MAC, FAR)).expect("room: the window is small");
                *counts.far_sent.lock().unwrap().next.entry(flow).or_default() += 1;
            }
        }
        counts.pause(&mut random).await;
    }
}

struct Run {
    random: SmallRng,
    host: Host,
    backend: MemoryBackend,
    nic: Nic<MemBus>,
    shown: Option<GuestVf>,
    counts: Arc<Counts>,
    changed: Arc<AtomicBool>,
    surprises: bool,
    mtu: u32,
}

impl Run {
    fn plug(&mut self, serial: u32) {
        if self.shown.is_none() {
            let queues = self.random.random_range(1..5_usize);
            let options = VfOptions::new(serial, VF_RING).queues(queues);
            // The device spreads by its own key, its own types, its own table.
            let options = match self.random.random_range(0..3) {
                0 => {
                    let table: Vec<u32> = (0..13).map(|entry| entry * 5 % queues as u32).collect();
                    options.spread(&RssKey::MLX5.0, HashInfo::LINUX, &table).tells_hash(true)
                }
                // Addresses alone, so that all flows come by one queue, and not the first.
                1 => options.spread(&RssKey::MICROSOFT.0, HashInfo::IPV4, &[queues as u32 - 1]),
                _ => options,
            };
            self.shown = self.host.plug_vf_with(NIC, options);
            self.backend.insert(self.shown.clone().expect("there was none"));
        }
    }

    fn associate_shown(&mut self, serial: u32) {
        let serial = self.shown.as_ref().map_or(serial, GuestVf::serial);
        self.host.associate_vf(NIC, serial);
    }

    /// The grace in which a host keeps the device, after it has taken it back.
    async fn unplug(&mut self) {
        self.wait(&[0, 300, 20_000, 500_000]).await;
        self.host.unplug_vf(NIC);
        self.shown = None;
    }

    async fn wait(&mut self, micros: &[u64]) {
        let micros = micros[self.random.random_range(0..micros.len())];
        self.counts.calm.store(micros > 100_000, Ordering::Relaxed);
        sleep(Duration::from_micros(micros)).await;
        self.counts.calm.store(false, Ordering::Relaxed);
    }

    /// One thing that happens.
    async fn something_happens(&mut self, surprises: bool) {
        let serial = self.random.random_range(7..9);
        match self.random.random_range(0..if surprises { 17 } else { 15 }) {
            0 | 1 => {
                self.plug(serial);
                self.wait(&[0, 300, 30_000]).await;
                self.associate_shown(serial);
            }
            2 | 3 => {
                self.host.associate_vf(NIC, serial);
                self.wait(&[0, 300, 30_000]).await;
                self.plug(serial);
            }
            4 | 5 => {
                self.host.revoke_vf(NIC);
                self.unplug().await;
            }
            // Servicing: taken and given again, at once.
            6 | 7 => {
                let serial = self.shown.as_ref().map_or(serial, GuestVf::serial);
                self.host.revoke_vf(NIC);
                self.unplug().await;
                self.plug(serial);
                self.host.associate_vf(NIC, serial);
            }
            8 => {
                self.host.set_vf_link(NIC, false);
                self.wait(&[0, 300, 30_000]).await;
                self.host.set_vf_link(NIC, true);
            }
            9 => self.host.take_data_path_back(NIC),
            10 => {
                let manner = [VfManner::Refusing, VfManner::Silent][self.random.random_range(0..2)];
                self.host.set_vf_manner(NIC, manner);
                self.wait(&[30_000, 6_000_000, 40_000_000]).await;
                self.host.set_vf_manner(NIC, VfManner::Obliging);
            }
            11 => self.wait(&[1000, 300_000, 3_000_000]).await,
            12 => {
                self.changed.store(true, Ordering::Relaxed);
                let receive_sections = [64, 128][self.random.random_range(0..2)];
                let wish = RingParams { receive_sections, send_sections: 32 };
                self.nic.set_ring(wish).await.expect("possible");
            }
            13 => {
                self.changed.store(true, Ordering::Relaxed);
                let mtu = [1500, 1400, 2000][self.random.random_range(0..3)];
                match self.nic.set_mtu(mtu).await {
                    Ok(_) => self.mtu = mtu,
                    Err(error) => assert!(error.is_restored(), "{error}"),
                }
                assert_eq!(self.nic.info().mtu, self.mtu, "what the virtual function refuses is not done");
            }
            14 => {
                let filter = [netvsc::PacketFilter::OPEN, netvsc::PacketFilter::PROMISCUOUS];
                let filter = filter[self.random.random_range(0..2)];
                let filter = netvsc::PacketFilter(filter.0 | netvsc::PacketFilter::OPEN.0);
                let before = self.nic.info().packet_filter;
                let expected = if self.nic.set_packet_filter(filter).await.is_ok() { filter } else { before };
                assert_eq!(self.nic.info().packet_filter, expected);
            }
            _ => {
                self.surprises = true;
                self.plug(serial);
                self.associate_shown(serial);
                self.wait(&[20_000, 500_000]).await;
                *self.counts.surprise.lock().unwrap() = Some(self.host.clone());
                self.wait(&[0, 5000, 20_000]).await;
                // If nobody has sent anything meanwhile.
                self.counts.surprise();
                self.shown = None;
            }
        }
    }

    /// Until nothing moves any more.
    async fn settle(&mut self) {
        self.host.set_vf_manner(NIC, VfManner::Obliging);
        self.counts.calm.store(true, Ordering::Relaxed);
        let mut quiet = 0;
        for _ in 0..4000 {
            let known = self.host.nic_report(NIC).expect("the nic").counters;
            let changed = self.changed.load(Ordering::Relaxed);
            let delivered =
                self.counts.tx_lost() == known.vf_lost && (changed || self.counts.rx_lost() == known.vf_rx_dropped);
            quiet = if delivered && self.stands_where_it_belongs() { quiet + 1 } else { 0 };
            if quiet == 5 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let known = self.host.nic_report(NIC).expect("the nic").counters;
        panic!(
            "does not settle: {:?}, lost {} and {}, known {} and {}; {:?}",
            self.nic.vf(),
            self.counts.tx_lost(),
            self.counts.rx_lost(),
            known.vf_lost,
            known.vf_rx_dropped,
            self.counts.events.lock().unwrap()
        );
    }

    fn stands_where_it_belongs(&self) -> bool {
        let vf = self.nic.vf().expect("in use");
        let device = self.shown.as_ref().filter(|vf| vf.is_present());
        let matching = device.is_some_and(|device| Some(device.serial()) == vf.serial);
        vf.stage == if matching { Stage::OnVf } else { Stage::Synthetic }
    }

    /// What was accepted has been delivered, but for what is known to be lost.
    fn delivered(&self) {
        let known = self.host.nic_report(NIC).expect("the nic").counters;
        let lost = self.counts.tx_lost();
        assert_eq!(lost, known.vf_lost, "missing is what vanished, and nothing else");
        assert!(self.surprises || lost == 0, "lost without a surprise");
        let reported = *self.counts.lost.lock().unwrap();
        assert!(reported >= lost, "reported {reported} of {lost}");
    }
}

/// Runs one schedule; what was switched, what was lost, and how many frames came by the queue of another.
async fn run(seed: u64) -> (u64, u64, u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let host = Host::builder().seed(seed).build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().mac(MAC).queues(4)));
    let host_task = host.spawn();
    let backend = MemoryBackend::new();
    let moods = Arc::new(Mutex::new(SmallRng::seed_from_u64(seed + 1)));
    let moody = Moody { inner: backend.clone(), random: moods };
    let mut builder = Nic::builder().queues(random.random_range(1..5)).vf(moody);
    builder = builder.receive_sections(128).send_sections(32).tune(|config| config.direct_bytes(1 << 16));
    if random.random_range(0..2) == 0 {
        builder = builder.wait(WaitMode::Interrupt);
    }
    let (nic, queues) = builder.open_on(bus).await.expect("comes up");
    let counts = Arc::new(Counts::default());
    let changed = Arc::new(AtomicBool::new(false));
    let mut users = Vec::new();
    for queue in queues {
        let random = SmallRng::seed_from_u64(seed.wrapping_mul(31) + u64::from(queue.index()));
        let counts = Arc::clone(&counts);
        users.push(match seed % 3 {
            0 => tokio::spawn(by_packets(queue, counts, random)),
            _ => tokio::spawn(by_bursts(queue, counts, random)),
        });
    }
    let far_random = SmallRng::seed_from_u64(seed + 7);
    let far_task = tokio::spawn(far_end(far, Arc::clone(&counts), Arc::clone(&changed), far_random));
    let mut events = nic.events();
    let listener = tokio::spawn({
        let counts = Arc::clone(&counts);
        async move {
            while let Some(event) = events.next().await {
                if let Event::VfLost { frames } = event {
                    *counts.lost.lock().unwrap() += frames;
                }
                assert!(!matches!(event, Event::Failed(_) | Event::Violation(_)), "{event:?}");
                counts.events.lock().unwrap().push(format!("{:?} {event:?}", tokio::time::Instant::now()));
            }
        }
    });
    let shown = None;
    let mut run = Run { random, host, backend, nic, shown, counts, changed, surprises: false, mtu: 1500 };
    let surprises = seed.is_multiple_of(2);
    for _ in 0..run.random.random_range(2..10) {
        run.something_happens(surprises).await;
        run.wait(&[0, 1000, 20_000, 300_000]).await;
    }
    let settles_first = run.random.random_range(0..4) > 0;
    if settles_first {
        run.settle().await;
        run.counts.stop.store(true, Ordering::Relaxed);
        run.settle().await;
        run.delivered();
    } else {
        run.host.set_vf_manner(NIC, VfManner::Obliging);
    }
    let switched = run.nic.vf().expect("in use").counters.switched_to_vf;
    let Run { host, nic, counts, .. } = run;
    let steered = nic.vf_stats().vf_rx_steered;
    let report = nic.close().await.expect("it had not failed");
    assert!(report.is_clean(), "{report:?}");
    counts.stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.expect("ends in order");
    }
    listener.await.expect("events end");
    // The far end looks by then.
    sleep(Duration::from_secs(2)).await;
    // Closing sends what was accepted, and throws away what was received.
    assert_eq!(counts.tx_lost(), host.nic_report(NIC).expect("the nic").counters.vf_lost);
    host.assert_clean();
    far_task.abort();
    host_task.abort();
    let lost = *counts.lost.lock().unwrap();
    (switched, lost, steered)
}

fn alone(seed: u64) -> (u64, u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(run(seed))
}

#[test]
fn whatever_happens_the_application_misses_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("VF_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VF_ASYNC_SEEDS").unwrap_or(if cfg!(debug_assertions) { 60 } else { 1000 }),
    };
    let (mut switched, mut lost, mut steered) = (0, 0, 0);
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| alone(seed));
        let more = result.unwrap_or_else(|_| panic!("schedule {seed}: run it alone with VF_SEED={seed}"));
        (switched, lost, steered) = (switched + more.0, lost + more.1, steered + more.2);
    }
    let schedules = seeds.end - seeds.start;
    println!("{schedules} schedules, {switched} switches to the vf, {lost} frames reported lost, {steered} steered");
    if schedules >= 50 {
        assert!(switched > schedules / 2, "the schedules must get to the vf: {switched}");
        assert!(steered > 500, "the device spreads otherwise than the rings: {steered}");
    }
    if schedules >= 400 {
        assert!(lost > 0, "some must be inside when it vanishes");
    }
}
