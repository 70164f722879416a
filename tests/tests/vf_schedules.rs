//! The whole life of a virtual function, thousands of times, in virtual time: it arrives, is associated, revoked, returned,
//! vanishes, flaps; its host obliges, refuses or is silent; the adapter is changed and closed; traffic flows both ways meanwhile. Whatever the schedule, what was
//! accepted is delivered, once and in the order of its flow; only what was inside a VF that vanished is missing, and that much
//! is reported; in the end everything has been given back.
//!
//! The adapter has one to four queues, and so has the device, which spreads what it receives by a key and a table of its own:
//! each flow is received by one of the adapter's queues all the same, with the same hash, whatever path its frames took.
//!
//! A schedule is a seed: `VF_SEEDS` says how many there are (10,000 in release builds, 300 in debug builds, unless it is
//! set), `VF_SEED` runs one of them alone.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use netvsc::control::Parameters;
use netvsc::meta::{Hash, Path, RxMeta, TxMeta};
use netvsc::rss::RssKey;
use netvsc::steering::HashProtocol;
use netvsc::vf::{
    Action, Event as VfEvent, Input, Mux, OneThread, RxRules, Settings, Share, Stage, VfQueue, VfSendError,
};
use netvsc::{Burst, Config, Event, FrameSink, Instant, LinkState, Nic, Queue, QueueAccess, SendError};
use netvsc_host::port::MemoryPort;
use netvsc_host::vf::{GuestVf, VfManner, VfOptions, VfSendError as HostVfSendError};
use netvsc_host::{Host, NicId, NicOptions};
use netvsc_tests::flows::Flow;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rndis::rss::HashInfo;
use vmbus::mem::{MemBus, MemChannel};

const NIC: NicId = NicId(0);
const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 2, 3];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Frames that each direction of a queue of a VF holds.
const VF_RING: usize = 64;
/// Frames on their way to the guest at most, so that no ring of the VF overflows.
const WINDOW: u64 = 40;

/// How many queues there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    queues: u16,
    /// Of the VF.
    vf_queues: usize,
}

impl Shape {
    /// Each as often as any other, and surprises (every other seed) with each.
    fn of(seed: u64) -> Self {
        let shape = seed / 2 % 16;
        Self { queues: 1 + (shape % 4) as u16, vf_queues: 1 + (shape / 4) as usize }
    }

    /// The device spreads by its own key, its own types, its own table.
    fn device(self, serial: u32) -> VfOptions {
        let options = VfOptions::new(serial, VF_RING).queues(self.vf_queues);
        match serial {
            7 => {
                let table: Vec<u32> = (0..13).map(|entry| entry * 5 % self.vf_queues as u32).collect();
                options.spread(&RssKey::MLX5.0, HashInfo::LINUX, &table).tells_hash(true).loses_received(true)
            }
            // Addresses alone, so that all flows come by one queue, and not the first.
            _ => options.spread(&RssKey::MICROSOFT.0, HashInfo::IPV4, &[self.vf_queues as u32 - 1]),
        }
    }
}

/// The device is open until its last queue is let go of.
#[derive(Debug)]
struct Opened(GuestVf);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A queue of the guest's side of the VF in memory.
#[derive(Debug)]
struct MemoryVf {
    device: Rc<Opened>,
    index: usize,
    /// Received frames that were lost and told of.
    told: u64,
}

impl MemoryVf {
    fn open(vf: GuestVf) -> Vec<Self> {
        vf.open();
        let queues = vf.queues();
        let device = Rc::new(Opened(vf));
        (0..queues).map(|index| Self { device: Rc::clone(&device), index, told: 0 }).collect()
    }

    fn vf(&self) -> &GuestVf {
        &self.device.0
    }
}

impl VfQueue for MemoryVf {
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.vf().send_on(self.index, frame).map_err(|error| match error {
            HostVfSendError::Full => VfSendError::Full,
            _ => VfSendError::NotReady,
        })
    }

    fn room(&mut self) -> usize {
        if self.vf().link_up() { VF_RING.saturating_sub(self.outstanding()) } else { 0 }
    }

    fn flush(&mut self) {}

    fn outstanding(&mut self) -> usize {
        self.vf().outstanding_on(self.index)
    }

    fn take_received_lost(&mut self) -> u64 {
        let lost = self.vf().received_lost_on(self.index) as u64;
        lost - std::mem::replace(&mut self.told, lost)
    }

    fn has_received(&mut self) -> bool {
        self.vf().received_on(self.index).is_some()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let mut got = 0;
        while got < max
            && let Some(len) = self.vf().received_on(self.index)
            && let Some(room) = sink.buffer(len)
        {
            let frame = self.vf().receive_on(self.index).expect("its length is known");
            room.copy_from_slice(&frame.bytes);
            let hash = frame.hash.map(|(value, covers)| Hash { value, covers });
            sink.commit(len, RxMeta { hash, ..RxMeta::default() });
            got += 1;
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        VF_RING
    }
}

/// Flows of each side: of UDP, one that is no IP, and one for all stations.
const FLOWS: usize = 10;
const NOT_IP: usize = FLOWS - 2;
const FOR_ALL: usize = FLOWS - 1;

/// Numbered frames of flows.
#[derive(Debug, Default, Clone, Copy)]
struct Flows {
    next: [u64; FLOWS],
}

impl Flows {
    fn make(&self, flow: usize, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        let number = self.next[flow];
        let mut payload = vec![number as u8; 46 + (number % 50) as usize];
        payload[0] = flow as u8;
        payload[1..9].copy_from_slice(&number.to_le_bytes());
        if flow < NOT_IP {
            let source = Ipv4Addr::new(198, 51, 100, 1 + 29 * flow as u8).into();
            return Flow { source, ..Flow::numbered(HashProtocol::Udp4, 1000) }.frame(to, from, &payload);
        }
        let to = if flow == FOR_ALL { [0xFF; 6] } else { to };
        [&to[..], &from, &[0x88, 0xB5], &payload].concat()
    }

    /// Checks a frame, which must not come before one that has come; its flow, and how many are missing before it.
    #[track_caller]
    fn check(&mut self, frame: &[u8], what: &str) -> (usize, u64) {
        let payload = &frame[if frame[12..14] == [8, 0] { 42 } else { 14 }..];
        let flow = usize::from(payload[0]);
        let number = u64::from_le_bytes(payload[1..9].try_into().expect("eight bytes"));
        assert_eq!(payload.len(), 46 + (number % 50) as usize, "{what}");
        assert!(number >= self.next[flow], "{what}: frame {number} of flow {flow} behind or again, {:?}", self.next);
        let missing = number - self.next[flow];
        self.next[flow] = number + 1;
        (flow, missing)
    }

    fn count(&self) -> u64 {
        self.next.iter().sum()
    }
}

/// A queue of the adapter, with its part of the VF.
struct Lane {
    queue: Queue<MemChannel>,
    mux: Mux<Share<MemoryVf, OneThread>>,
}

/// Those that there are, in order.
#[derive(Default)]
struct Lanes(Vec<Lane>);

impl QueueAccess<MemChannel> for Lanes {
    fn with_queue<R>(&mut self, index: u16, work: impl FnOnce(&mut Queue<MemChannel>) -> R) -> Option<R> {
        self.0.iter_mut().find(|lane| lane.queue.index() == index).map(|lane| work(&mut lane.queue))
    }
}

impl Lanes {
    /// Lets go of the VF; how many frames it had not sent, and how many it had received and lost.
    fn detach(&mut self) -> (u64, u64) {
        let lost = self.0.iter_mut().map(|lane| (lane.mux.detach(), lane.mux.take_received_lost()));
        lost.fold((0, 0), |sum, lost| (sum.0 + lost.0, sum.1 + lost.1))
    }
}

/// What the guest does a while after it was asked to.
#[derive(Debug, Clone, Copy)]
enum Later {
    Prepared,
    NotPrepared,
    Found,
}

struct Run {
    random: SmallRng,
    clock: Arc<AtomicU64>,
    host: Host,
    far: MemoryPort,
    nic: Nic<MemBus>,
    shape: Shape,
    lanes: Lanes,
    burst: Burst,
    /// By what queue a flow is received, and with what hash.
    known_flows: HashMap<usize, (u16, Option<Hash>)>,
    /// The device that the host shows, and the one that the guest knows of.
    shown: Option<GuestVf>,
    known: Option<GuestVf>,
    open: bool,
    link: bool,
    settling: bool,
    later: Vec<(u64, Later)>,
    /// When the guest notices what became of the device.
    looks_at: u64,
    sent: Flows,
    arrived: Flows,
    far_sent: Flows,
    received: Flows,
    tx_missing: u64,
    rx_missing: u64,
    lost: u64,
    received_lost: u64,
    /// Of devices that vanished: what was in them for the guest.
    inside: u64,
    surprises: bool,
    /// The adapter was changed: what came meanwhile was not delivered to it.
    changed: bool,
    events: Vec<VfEvent>,
    closed: Option<bool>,
    log: Vec<String>,
}

impl Drop for Run {
    /// What happened, where it went wrong.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(60);
            eprintln!("{}", self.log[from..].join("\n"));
        }
    }
}

impl Run {
    fn new(seed: u64, shape: Shape) -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let host = Host::builder().seed(seed).build();
        let far = host.memory_pair();
        let bus = MemBus::new(host.add_nic(NicOptions::new().mac(MAC).queues(shape.queues)));
        let host_clock = Arc::clone(&clock);
        host.run_inline_with_clock(move || Duration::from_micros(host_clock.load(Ordering::Relaxed)));
        let config = Config::default().queues(shape.queues).receive_sections(128);
        let config = config.send_sections(32).direct_bytes(1 << 16);
        let mut nic = Nic::new(bus, config, Instant::ZERO).expect("a configuration that can be");
        nic.use_vf(Instant::ZERO, Settings::default());
        Self {
            random: SmallRng::seed_from_u64(seed),
            clock,
            host,
            far,
            nic,
            shape,
            lanes: Lanes::default(),
            burst: Burst::new(32, 8192),
            known_flows: HashMap::new(),
            shown: None,
            known: None,
            open: false,
            link: true,
            settling: false,
            later: Vec::new(),
            looks_at: 0,
            sent: Flows::default(),
            arrived: Flows::default(),
            far_sent: Flows::default(),
            received: Flows::default(),
            tx_missing: 0,
            rx_missing: 0,
            lost: 0,
            received_lost: 0,
            inside: 0,
            surprises: false,
            changed: false,
            events: Vec::new(),
            closed: None,
            log: Vec::new(),
        }
    }

    /// With an adapter that is up.
    fn up(seed: u64, shape: Shape) -> Self {
        let mut run = Self::new(seed, shape);
        for _ in 0..50 {
            run.turn();
        }
        let info = run.nic.info().expect("up");
        assert_eq!(info.queues, shape.queues);
        run
    }

    fn micros(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn now(&self) -> Instant {
        Instant::new(Duration::from_micros(self.micros()))
    }

    fn wait(&mut self, micros: u64) {
        self.clock.fetch_add(micros, Ordering::Relaxed);
    }

    fn note(&mut self, what: impl std::fmt::Debug) {
        self.log.push(format!("{:>9} {what:?}", self.micros()));
    }

    /// One turn of the guest: bus, control, VF, events.
    fn turn(&mut self) {
        let now = self.now();
        let mut cx = Context::from_waker(Waker::noop());
        self.nic.poll_queues(now, &mut cx, &mut self.lanes).expect("a sound bus");
        while let Some(queue) = self.nic.take_queue() {
            self.lanes.0.push(Lane { queue, mux: Mux::new() });
        }
        self.do_tasks();
        self.look_at_device();
        self.do_later();
        if self.settling {
            let settled = |lane: &mut Lane| lane.mux.is_settled(&mut lane.queue).expect("sound rings");
            // Each is looked after.
            let unsettled = self.lanes.0.iter_mut().filter_map(|lane| (!settled(lane)).then_some(())).count();
            if unsettled == 0 {
                self.settling = false;
                self.put(Input::SendDrained);
            }
        }
        while let Some(event) = self.nic.poll_event() {
            self.note(&event);
            match event {
                Event::Vf(VfEvent::Lost { frames }) => self.lost += frames,
                Event::Vf(VfEvent::ReceivedLost { frames }) => self.received_lost += frames,
                Event::Vf(event) => self.events.push(event),
                Event::Closed(report) => self.closed = Some(report.is_clean()),
                Event::Gone(_) => self.closed = Some(true),
                Event::Failed { .. } | Event::Violation(_) => panic!("{event:?}"),
                _ => {}
            }
        }
    }

    fn put(&mut self, input: Input) {
        self.note(input);
        let now = self.now();
        self.nic.handle_vf(now, input);
        self.do_tasks();
    }

    fn do_tasks(&mut self) {
        while let Some(task) = self.nic.poll_vf() {
            self.note(task);
            let soon = self.micros() + [0, 50, 2000, 150_000][self.random.random_range(0..4)];
            match task.action {
                Action::Find { .. } => self.later.push((soon, Later::Found)),
                Action::Prepare if self.random.random_range(0..20) == 0 => self.later.push((soon, Later::NotPrepared)),
                Action::Prepare => self.later.push((soon, Later::Prepared)),
                Action::Release => {
                    // What it had taken it sends, if it is there.
                    let (lost, received_lost) = self.lanes.detach();
                    self.open = false;
                    if lost > 0 {
                        self.put(Input::Released { lost });
                    }
                    self.tell_received_lost(received_lost);
                }
                Action::Send(path) => {
                    self.lanes.0.iter_mut().for_each(|lane| lane.mux.send_by(path));
                    self.settling = true;
                }
                Action::StopWaiting => {
                    self.lanes.0.iter_mut().for_each(|lane| lane.mux.stop_waiting());
                    self.settling = false;
                }
                Action::Receive(Path::VirtualFunction) => {
                    for Lane { queue, mux } in &mut self.lanes.0 {
                        let position = match queue.index() {
                            0 => task.position,
                            _ => {
                                queue.pump().expect("sound rings");
                                queue.receive_position() + queue.backlog() as u64
                            }
                        };
                        mux.receive_from_both(position);
                    }
                }
                Action::Receive(_) => self.lanes.0.iter_mut().for_each(|lane| lane.mux.receive_from_rings()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What the guest's system says of the device, some time after it happened.
    fn look_at_device(&mut self) {
        if self.micros() < self.looks_at {
            return;
        }
        self.looks_at = self.micros() + [0, 100, 5000][self.random.random_range(0..3)];
        self.forget_what_is_gone();
        if self.known.is_none()
            && let Some(vf) = self.shown.clone().filter(GuestVf::is_present)
        {
            self.link = vf.link_up();
            let serial = Some(vf.serial());
            self.known = Some(vf);
            self.put(Input::Arrived { serial });
        }
        let up = self.known.as_ref().is_some_and(GuestVf::link_up);
        if self.open && up != self.link {
            self.link = up;
            self.put(Input::Link(if up { LinkState::Up } else { LinkState::Down }));
        }
    }

    fn tell_received_lost(&mut self, frames: u64) {
        if frames > 0 {
            self.put(Input::ReceivedLost { frames });
        }
    }

    fn forget_what_is_gone(&mut self) {
        if self.known.as_ref().is_some_and(|vf| !vf.is_present()) {
            self.known = None;
            self.open = false;
            self.later.retain(|(_, what)| matches!(what, Later::Found));
            let (lost, received_lost) = self.lanes.detach();
            self.put(Input::Gone { lost });
            self.tell_received_lost(received_lost);
        }
    }

    fn do_later(&mut self) {
        let now = self.micros();
        while let Some(at) = self.later.iter().position(|(due, _)| *due <= now) {
            let (_, what) = self.later.remove(at);
            if matches!(what, Later::Found) {
                // Whoever looks sees what is there now.
                self.forget_what_is_gone();
            }
            match (what, self.known.clone()) {
                (Later::Found, Some(vf)) => self.put(Input::Arrived { serial: Some(vf.serial()) }),
                (Later::Prepared, Some(vf)) => {
                    self.open = true;
                    self.link = vf.link_up();
                    let scaling = self.nic.info().and_then(|info| info.scaling.as_ref());
                    let rules = Arc::new(RxRules::new(false, scaling));
                    let indices: Vec<u16> = self.lanes.0.iter().map(|lane| lane.queue.index()).collect();
                    let shares = Share::deal(OneThread, MemoryVf::open(vf), &indices, rules);
                    for (lane, share) in self.lanes.0.iter_mut().zip(shares) {
                        lane.mux.attach(share);
                    }
                    let link = if self.link { LinkState::Up } else { LinkState::Down };
                    self.put(Input::Prepared { link });
                }
                (Later::NotPrepared, Some(_)) => self.put(Input::NotPrepared),
                _ => {}
            }
        }
    }

    /// Some frames, each way; some of what has come is looked at.
    fn traffic(&mut self) {
        if self.lanes.0.is_empty() {
            return;
        }
        for _ in 0..self.random.random_range(0..6) {
            let flow = self.some_flow();
            let frame = self.sent.make(flow, FAR, MAC);
            let at = flow % self.lanes.0.len();
            let Lane { queue, mux } = &mut self.lanes.0[at];
            match mux.send(queue, &frame, &TxMeta::default()) {
                Ok(()) => self.sent.next[flow] += 1,
                Err(SendError::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for Lane { queue, mux } in &mut self.lanes.0 {
            if self.random.random_range(0..4) > 0 {
                mux.flush();
                queue.flush().expect("sound rings");
            }
        }
        for _ in 0..self.random.random_range(0..6) {
            // What was sent while the adapter was changed is missing from then on.
            let window = if self.changed { 10 * WINDOW } else { WINDOW };
            if self.far_sent.count() - self.received.count() >= window {
                break;
            }
            let flow = self.some_flow();
            let frame = self.far_sent.make(flow, MAC, FAR);
            self.far.send(&frame).expect("room: the window is small");
            self.far_sent.next[flow] += 1;
        }
        if self.random.random_range(0..3) > 0 {
            // Some queues are looked at more seldom than others.
            let at = self.random.random_range(0..self.lanes.0.len());
            self.receive(at);
            if self.random.random_range(0..2) == 0 {
                self.receive(0);
            }
        }
        self.far_receive();
    }

    fn some_flow(&mut self) -> usize {
        match self.random.random_range(0..10) {
            0 => FOR_ALL,
            1 => NOT_IP,
            _ => self.random.random_range(0..NOT_IP),
        }
    }

    fn receive_all(&mut self) {
        for at in 0..self.lanes.0.len() {
            self.receive(at);
        }
    }

    fn receive(&mut self, at: usize) {
        let Some(Lane { queue, mux }) = self.lanes.0.get_mut(at) else { return };
        let max = self.random.random_range(1..40);
        self.burst.clear();
        mux.receive(queue, &mut self.burst, max).expect("sound rings");
        for frame in &self.burst {
            let (flow, missing) = self.received.check(frame.bytes, "received");
            self.rx_missing += missing;
            let this = (queue.index(), frame.meta.hash);
            let known = *self.known_flows.entry(flow).or_insert(this);
            assert_eq!(this, known, "flow {flow} by {:?}: another queue, or another hash", frame.meta.path);
            let hashed = self.shape.queues > 1 && flow < NOT_IP;
            assert_eq!(this.1.is_some(), hashed, "flow {flow}");
        }
    }

    fn far_receive(&mut self) {
        while let Ok(frame) = self.far.try_recv() {
            self.tx_missing += self.arrived.check(&frame, "arrived").1;
        }
    }

    /// For a while: turns, traffic, time.
    fn go_on(&mut self, turns: usize) {
        for _ in 0..turns {
            self.turn();
            self.traffic();
            let time = [0, 20, 300, 4000][self.random.random_range(0..4)];
            self.wait(time);
        }
    }

    fn plug(&mut self, serial: u32) {
        if self.shown.is_none() {
            self.shown = self.host.plug_vf_with(NIC, self.shape.device(serial));
        }
    }

    fn unplug(&mut self) {
        // The grace in which a host keeps the device, after it has taken it back.
        let grace = [0, 300, 20_000, 500_000][self.random.random_range(0..4)];
        let until = self.micros() + grace;
        while self.micros() < until {
            self.go_on(3);
        }
        self.host.unplug_vf(NIC);
        self.shown = None;
    }

    /// The host, which is about to say something of the data path. What it said before has been heard by now: were a switch and
    /// the way back heard at once, nothing would tell which frames of queues other than the primary one came before the
    /// first and which after the second.
    fn before_a_word(&mut self) -> &Host {
        if self.shape.queues > 1 {
            self.turn();
        }
        &self.host
    }

    /// One thing that hosts do.
    fn something_happens(&mut self, surprises: bool) {
        let serial = self.random.random_range(7..9);
        let what = self.random.random_range(0..if surprises { 14 } else { 13 });
        self.note(("host", what, serial));
        match what {
            0 | 1 => {
                self.plug(serial);
                self.go_on(10);
                self.associate_shown(serial);
            }
            2 | 3 => {
                self.before_a_word().associate_vf(NIC, serial);
                self.go_on(10);
                self.plug(serial);
            }
            4 | 5 => {
                self.before_a_word().revoke_vf(NIC);
                self.unplug();
            }
            // Servicing: taken and given again, at once.
            6 => {
                let serial = self.shown.as_ref().map_or(serial, GuestVf::serial);
                self.before_a_word().revoke_vf(NIC);
                self.unplug();
                self.plug(serial);
                self.before_a_word().associate_vf(NIC, serial);
            }
            7 => self.associate_shown(serial),
            8 => {
                self.host.set_vf_link(NIC, false);
                self.go_on(8);
                self.host.set_vf_link(NIC, true);
            }
            9 => self.before_a_word().take_data_path_back(NIC),
            10 => {
                let manner = [VfManner::Refusing, VfManner::Silent][self.random.random_range(0..2)];
                self.host.set_vf_manner(NIC, manner);
                self.go_on(30);
                let time = [0, 6_000_000, 40_000_000][self.random.random_range(0..3)];
                self.wait(time);
                self.go_on(5);
                self.host.set_vf_manner(NIC, VfManner::Obliging);
            }
            12 => {
                let sections = [64, 128][self.random.random_range(0..2)];
                let now = self.now();
                // Not while another change is on its way.
                if self.nic.reconfigure(now, Parameters::default().receive_sections(sections)).is_ok() {
                    self.changed = true;
                }
            }
            // Long enough for pauses to end.
            11 => {
                let time = self.random.random_range(0..3_000_000);
                self.wait(time);
            }
            _ => {
                self.vanish();
            }
        }
    }

    fn vanish(&mut self) {
        self.surprises = true;
        self.before_a_word().remove_vf_by_surprise(NIC);
        if let Some(device) = self.shown.take() {
            self.inside += (0..device.queues()).map(|queue| device.received_lost_on(queue) as u64).sum::<u64>();
        }
    }

    fn associate_shown(&mut self, serial: u32) {
        let serial = self.shown.as_ref().map_or(serial, GuestVf::serial);
        self.before_a_word().associate_vf(NIC, serial);
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        self.host.set_vf_manner(NIC, VfManner::Obliging);
        let mut quiet = 0;
        for _ in 0..400 {
            self.turn();
            self.receive_all();
            for Lane { queue, mux } in &mut self.lanes.0 {
                mux.flush();
                // After its end there is nothing to flush.
                let _ = queue.flush();
            }
            self.far_receive();
            let known = self.host.nic_report(NIC).expect("the nic").counters;
            let done = self.tx_lost() == known.vf_lost
                && (self.changed || self.rx_lost() == known.vf_rx_dropped)
                && !self.nic.is_reconfiguring();
            // For some milliseconds: the guest looks at its devices every now and then.
            quiet = if done && self.later.is_empty() && self.nic.next_timeout().is_none() { quiet + 1 } else { 0 };
            if quiet == 8 {
                break;
            }
            let next = self.nic.next_timeout().map_or(1000, |at| (at - self.now()).as_micros() as u64);
            self.wait(next.clamp(100, if done { 1_000_000 } else { 5000 }));
        }
    }
}

/// What schedules came to, together.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    switched: u64,
    lost: u64,
    received_lost: u64,
    /// Frames that came by the queue of another.
    steered: u64,
}

impl std::ops::Add for Outcome {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            switched: self.switched + other.switched,
            lost: self.lost + other.lost,
            received_lost: self.received_lost + other.received_lost,
            steered: self.steered + other.steered,
        }
    }
}

/// Runs one schedule.
fn run(seed: u64) -> Outcome {
    let mut run = Run::up(seed, Shape::of(seed));
    let surprises = seed.is_multiple_of(2);
    for _ in 0..run.random.random_range(2..10) {
        run.something_happens(surprises);
        let turns = run.random.random_range(0..60);
        run.go_on(turns);
    }
    let settles_first = run.random.random_range(0..4) > 0;
    let rescinded = run.random.random_range(0..6) == 0;
    end(run, settles_first, rescinded)
}

/// Ends a schedule, with all that is to be true then. The adapter's end is its own wish, or the host's.
fn end(mut run: Run, settles_first: bool, rescinded: bool) -> Outcome {
    if settles_first {
        run.settle();
        run.delivered();
        run.stands_where_it_belongs();
    } else {
        run.host.set_vf_manner(NIC, VfManner::Obliging);
    }
    let switched = run.nic.vf().expect("in use").counters().switched_to_vf;
    if rescinded {
        run.host.rescind(NIC);
    } else {
        let now = run.now();
        run.nic.close(now);
    }
    for _ in 0..2000 {
        run.turn();
        if run.closed.is_some() {
            break;
        }
        run.wait(500);
    }
    assert_eq!(run.closed, Some(true), "closed, and everything given back");
    // Each hears what the other said last.
    for _ in 0..20 {
        run.turn();
        run.host.step(Duration::from_micros(run.micros()));
    }
    assert!(!run.open && run.nic.vf().is_some_and(|vf| vf.stage() == Stage::Synthetic));
    if rescinded {
        // What was on its way then never comes back.
        let report = run.host.report();
        assert_eq!((report.violations, report.leaks.gpadls, report.leaks.memory_blocks), (Vec::new(), 0, 0));
    } else {
        run.host.assert_clean();
    }
    run.far_receive();
    if !settles_first && !rescinded {
        // Closing sends what was accepted, and throws away what was received.
        assert_eq!(run.tx_lost(), run.host.nic_report(NIC).expect("the nic").counters.vf_lost);
    }
    let steered = run.lanes.0.iter().map(|lane| lane.mux.stats().vf_rx_steered).sum();
    Outcome { switched, lost: run.lost, received_lost: run.received_lost, steered }
}

impl Run {
    /// What was accepted has been delivered, but for what is known to be lost.
    fn delivered(&mut self) {
        let report = self.host.nic_report(NIC).expect("the nic").counters;
        let tx_lost = self.tx_lost();
        assert_eq!(tx_lost, report.vf_lost, "missing is what vanished, and nothing else");
        assert!(self.surprises || tx_lost == 0, "lost without a surprise");
        assert!(self.lost >= tx_lost, "reported {} of {tx_lost}", self.lost);
        assert_eq!(self.received_lost, self.inside, "what was lost on its way to the guest is reported");
        if !self.changed {
            let dropped = report.vf_rx_dropped;
            assert_eq!(self.rx_lost(), dropped, "missing is what came while the vf's link was down, and nothing else");
        }
    }

    /// Accepted by the guest, and not arrived at the far end.
    fn tx_lost(&self) -> u64 {
        self.sent.count() + self.tx_missing - self.arrived.count()
    }

    /// Sent by the far end, and not received by the guest.
    fn rx_lost(&self) -> u64 {
        self.far_sent.count() + self.rx_missing - self.received.count()
    }

    fn stands_where_it_belongs(&mut self) {
        let vf = self.nic.vf().expect("in use");
        let device = self.shown.as_ref().filter(|vf| vf.is_present());
        let matching = device.is_some_and(|device| Some(device.serial()) == vf.association());
        let expected = if matching { Stage::OnVf } else { Stage::Synthetic };
        assert_eq!(vf.stage(), expected, "{vf:?}");
    }
}

#[test]
fn whatever_the_schedule_nothing_is_lost_repeated_or_reordered() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("VF_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VF_SEEDS").unwrap_or(if cfg!(debug_assertions) { 300 } else { 10_000 }),
    };
    let outcome = in_threads(seeds.clone(), |&seed| run(seed), |seed| format!("run it alone with VF_SEED={seed}"));
    println!("{} schedules: {outcome:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 100 {
        assert!(outcome.switched > (seeds.end - seeds.start) / 2, "the schedules must get to the vf: {outcome:?}");
        assert!(outcome.lost > 0 && outcome.received_lost > 0, "some must be inside when it vanishes: {outcome:?}");
        assert!(outcome.steered > 1000, "the device spreads otherwise than the rings: {outcome:?}");
    }
}

/// Does `work` for all of them, and says which one went wrong.
fn in_threads<T: std::fmt::Debug + Clone + std::panic::RefUnwindSafe>(
    all: impl Iterator<Item = T> + Clone + Sync + Send,
    work: impl Fn(&T) -> Outcome + Sync + std::panic::RefUnwindSafe,
    again: impl Fn(&T) -> String + Sync,
) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let some = |first: usize| {
        all.clone().skip(first).step_by(threads).fold(Outcome::default(), |sum, one| {
            let result = std::panic::catch_unwind(|| work(&one));
            sum + result.unwrap_or_else(|_| panic!("schedule {one:?}: {}", again(&one)))
        })
    };
    let outcomes = std::thread::scope(|scope| {
        let some = &some;
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || some(first))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    outcomes
        .into_iter()
        .map(|outcome| outcome.expect("every schedule keeps the rules"))
        .fold(Outcome::default(), |a, b| a + b)
}

/// Something that happens, in the test of all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happens {
    Plug,
    Associate,
    Revoke,
    Unplug,
    LinkDown,
    LinkUp,
    TakeBack,
    Refuse,
    FallSilent,
    Oblige,
    Vanish,
    Change,
}

const ALL: [Happens; 12] = {
    use Happens::{
        Associate, Change, FallSilent, LinkDown, LinkUp, Oblige, Plug, Refuse, Revoke, TakeBack, Unplug, Vanish,
    };
    [Plug, Associate, Revoke, Unplug, LinkDown, LinkUp, TakeBack, Refuse, FallSilent, Oblige, Vanish, Change]
};

/// Ways into the states in which pairs happen: what happens, and for how many turns it goes on afterwards.
const WAYS: [&[(Happens, usize)]; 6] = {
    use Happens::{Associate, Plug, Revoke};
    [
        &[],
        &[(Plug, 10)],
        &[(Associate, 10)],
        // The host is being asked, or is about to be.
        &[(Plug, 10), (Associate, 3)],
        // On the VF.
        &[(Plug, 10), (Associate, 60)],
        // On the way back.
        &[(Plug, 10), (Associate, 60), (Revoke, 1)],
    ]
};

impl Run {
    fn happens(&mut self, what: Happens) {
        self.note(what);
        match what {
            Happens::Plug => self.plug(7),
            Happens::Associate => self.associate_shown(7),
            Happens::Revoke => self.before_a_word().revoke_vf(NIC),
            Happens::Unplug => {
                self.host.unplug_vf(NIC);
                self.shown = None;
            }
            Happens::LinkDown => self.host.set_vf_link(NIC, false),
            Happens::LinkUp => self.host.set_vf_link(NIC, true),
            Happens::TakeBack => self.before_a_word().take_data_path_back(NIC),
            Happens::Refuse => self.host.set_vf_manner(NIC, VfManner::Refusing),
            Happens::FallSilent => self.host.set_vf_manner(NIC, VfManner::Silent),
            Happens::Oblige => self.host.set_vf_manner(NIC, VfManner::Obliging),
            Happens::Vanish => self.vanish(),
            Happens::Change => {
                let now = self.now();
                // Not while another change is on its way.
                if self.nic.reconfigure(now, Parameters::default().receive_sections(64)).is_ok() {
                    self.changed = true;
                }
            }
        }
    }
}

/// Any two events in any state, so many turns apart, in the middle of traffic. In debug builds one distance; `VF_PAIRS=full` has
/// all of them, and all shapes, there too.
#[test]
fn any_two_events_in_any_state_lose_nothing() {
    let full = !cfg!(debug_assertions) || std::env::var("VF_PAIRS").is_ok_and(|value| value == "full");
    let shapes: &[(u16, usize)] = if full { &[(1, 1), (2, 2), (2, 1), (1, 2), (3, 2)] } else { &[(1, 1), (2, 2)] };
    let gaps: &[usize] = if full { &[0, 1, 5] } else { &[1] };
    let pairs = (0..shapes.len() * gaps.len() * WAYS.len() * ALL.len() * ALL.len()).map(|number| {
        let mut rest = number;
        let mut pick = |of: usize| {
            let at = rest % of;
            rest /= of;
            at
        };
        let (second, first, way) = (ALL[pick(ALL.len())], ALL[pick(ALL.len())], pick(WAYS.len()));
        let gap = gaps[pick(gaps.len())];
        let (queues, vf_queues) = shapes[pick(shapes.len())];
        (number as u64, Shape { queues, vf_queues }, way, first, gap, second)
    });
    let work = |&(seed, shape, way, first, gap, second): &(u64, Shape, usize, Happens, usize, Happens)| {
        let mut run = Run::up(seed, shape);
        run.go_on(2);
        for &(what, turns) in WAYS[way] {
            run.happens(what);
            run.go_on(turns);
        }
        run.happens(first);
        run.go_on(gap);
        run.happens(second);
        run.go_on(5);
        run.host.set_vf_link(NIC, true);
        end(run, true, false)
    };
    let outcome = in_threads(pairs, work, |_| "it is the same each time".into());
    println!("pairs: {outcome:?}");
    assert!(outcome.switched > 500 && outcome.lost > 0 && outcome.received_lost > 0, "{outcome:?}");
}
