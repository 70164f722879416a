//! A simulated host, adapters on it, and traffic between all stations that goes on whatever happens.

use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use netvsc::meta::Path;
use netvsc_async::vf::{MemoryBackend, Stage, VfStatus};
use netvsc_async::{Error, Event, Nic, NicBuilder, Queue, TxMeta};
use netvsc_host::port::MemoryPort;
use netvsc_host::vf::{MemoryVfs, Script, Servicing, Step, Wait};
use netvsc_host::{Host, NicId, NicOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use vmbus::mem::{GuestPort, MemBus, MemChannel};

use crate::ledger::{Ledger, Mac};

/// The first adapter.
pub(crate) const MAC: Mac = [0x00, 0x15, 0x5D, 1, 2, 3];
/// The other end of the network.
pub(crate) const FAR: Mac = [2, 0, 0, 0, 0, 1];
/// Frames that each direction of a VF holds.
const VF_FRAMES: usize = 64;
/// Frames that are on their way to a station at most, so that no ring of a VF overflows.
const WINDOW: u64 = 40;
/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much is sent. Clones are the same.
#[derive(Debug, Clone)]
struct Pace(Arc<AtomicU8>);

impl Pace {
    const BUSY: u8 = 0;
    /// Nothing happens for long: little is sent.
    const CALM: u8 = 1;
    const PAUSE: u8 = 2;

    fn set(&self, pace: u8) {
        self.0.store(pace, Ordering::Relaxed);
    }

    /// Makes a busy world calm, and the other way round.
    fn change(&self, from: u8, to: u8) {
        // If it is neither, it stays so.
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_paused(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::PAUSE
    }

    /// The time between two bursts.
    fn between(&self, random: &mut SmallRng) -> Duration {
        let micros = [50, 500, 5_000, 30_000][random.random_range(0..4)];
        match self.0.load(Ordering::Relaxed) {
            Self::BUSY => Duration::from_micros(micros),
            Self::CALM => Duration::from_micros(50 * micros),
            _ => ms(20),
        }
    }
}

/// An adapter.
pub(crate) struct Station {
    pub(crate) id: NicId,
    pub(crate) mac: Mac,
    pub(crate) nic: Nic<MemBus>,
    /// What the host had dropped before it was opened.
    dropped_before: u64,
    pace: Pace,
    events: Arc<Mutex<Vec<Event>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// All of it.
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) backend: MemoryBackend,
    pub(crate) ledger: Ledger,
    stations: Vec<Station>,
    random: SmallRng,
    pace: Pace,
    /// NICs that the host has offered again.
    offers: (mpsc::UnboundedSender<GuestPort>, mpsc::UnboundedReceiver<GuestPort>),
    host_task: JoinHandle<()>,
    far_task: JoinHandle<()>,
}

/// Runs `test` in paused time. All is one thread's, and by the seed alone.
pub(crate) fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

fn builder(random: &mut SmallRng) -> NicBuilder {
    let builder = Nic::builder().queues(random.random_range(1..4)).receive_sections(128).send_sections(32);
    builder.tune(|config| config.direct_bytes(1 << 16))
}

/// A millisecond.
pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    /// One adapter.
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with(seed, &[MAC]).await
    }

    /// An adapter of each of these addresses.
    pub(crate) async fn with(seed: u64, macs: &[Mac]) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let host = Host::builder().seed(seed).build();
        let far = host.memory_pair();
        // Until all adapters are up: what is sent to one that is not is lost.
        let pace = Pace(Arc::new(AtomicU8::new(Pace::PAUSE)));
        let (backend, ledger) = (MemoryBackend::new(), Ledger::default());
        let host_task = host.spawn();
        let far_end = far_end(far, macs.to_vec(), ledger.clone(), pace.clone(), SmallRng::seed_from_u64(seed + 7));
        let far_task = tokio::spawn(far_end);
        let mut world = Self {
            host,
            backend,
            ledger,
            stations: Vec::new(),
            random: SmallRng::seed_from_u64(random.random()),
            pace,
            offers: mpsc::unbounded_channel(),
            host_task,
            far_task,
        };
        for (number, &mac) in macs.iter().enumerate() {
            let port = world.host.add_nic(NicOptions::new().mac(mac).queues(4));
            let peers = macs.iter().copied().filter(|&peer| peer != mac).chain([FAR]).collect();
            let station = world.open(NicId(number as u32), mac, peers, port).await;
            world.stations.push(station);
        }
        world.pace.set(Pace::BUSY);
        world
    }

    async fn open(&mut self, id: NicId, mac: Mac, peers: Vec<Mac>, port: GuestPort) -> Station {
        let builder = builder(&mut self.random).vf(self.backend.clone());
        let (nic, queues) = builder.open_on(MemBus::new(port)).await.expect("comes up");
        assert!(nic.vf().is_some(), "from the beginning on");
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut reader = nic.events();
        let mut tasks = vec![tokio::spawn({
            let events = Arc::clone(&events);
            async move {
                while let Some(event) = reader.next().await {
                    assert!(
                        !matches!(
                            event,
                            Event::Failed(_) | Event::Violation(_) | Event::Missed(_) | Event::Stalled { .. }
                        ),
                        "{event:?}"
                    );
                    events.lock().unwrap().push(event);
                }
            }
        })];
        for queue in queues {
            let user = User {
                mac,
                peers: peers.clone(),
                ledger: self.ledger.clone(),
                pace: self.pace.clone(),
                random: SmallRng::seed_from_u64(self.random.random()),
            };
            tasks.push(tokio::spawn(user.run(queue)));
        }
        let dropped_before = self.dropped(id);
        Station { id, mac, nic, dropped_before, pace: self.pace.clone(), events, tasks }
    }

    pub(crate) fn station(&self, number: usize) -> &Station {
        &self.stations[number]
    }

    /// Frames for a NIC that the host has dropped: its link was down, or that of its VF.
    fn dropped(&self, id: NicId) -> u64 {
        let counters = self.host.nic_report(id).expect("the nic").counters;
        counters.rx_dropped + counters.rx_filtered + counters.vf_rx_dropped
    }

    /// As many as that since it was opened.
    pub(crate) fn dropped_of(&self, station: &Station) -> u64 {
        self.dropped(station.id) - station.dropped_before
    }

    /// The first adapter.
    pub(crate) fn nic(&self) -> &Station {
        self.station(0)
    }

    /// Where the VFs of a script come from, and where its NIC goes.
    fn devices(&self) -> MemoryVfs<impl FnMut(netvsc_host::vf::GuestVf) + Send + use<>> {
        let (backend, offers) = (self.backend.clone(), self.offers.0.clone());
        let show = move |vf| backend.insert(vf);
        MemoryVfs::new(VF_FRAMES, show).offer_by(move |guest| drop(offers.send(guest)))
    }

    /// What the host does to one adapter, and nobody waits for.
    pub(crate) fn servicing(&self, number: usize, script: Script) -> impl Future<Output = ()> + Send + use<> {
        let mut servicing = Servicing::new(&self.host, NicId(number as u32), script, self.devices());
        let pace = self.pace.clone();
        async move {
            let (steps, calm) = (tokio::sync::Notify::new(), pace.clone());
            let play = servicing.run(|_| {
                pace.change(Pace::CALM, Pace::BUSY);
                steps.notify_one();
            });
            let calms_down = async {
                loop {
                    if tokio::time::timeout(ms(300), steps.notified()).await.is_err() {
                        calm.change(Pace::BUSY, Pace::CALM);
                    }
                }
            };
            tokio::select! {
                Ok(()) = play => pace.change(Pace::CALM, Pace::BUSY),
                () = calms_down => {}
            }
        }
    }

    /// The host does all this to the first adapter.
    pub(crate) async fn play(&self, script: Script) {
        self.servicing(0, script).await;
    }

    /// The host does this at once.
    pub(crate) async fn does(&self, steps: impl IntoIterator<Item = Step>) {
        let steps = steps.into_iter().map(|step| (Wait::Time(Duration::ZERO), step));
        self.play(Script::of(steps)).await;
    }

    /// A VF comes and is used.
    pub(crate) async fn bring(&self, serial: u32) {
        self.does([Step::Plug { serial }, Step::Associate { serial }]).await;
        self.nic().stands(Stage::OnVf).await;
    }

    /// Plays a script in which the first adapter is taken away as well, and opens it each time that it is offered again; how
    /// often that was.
    pub(crate) async fn play_through(&mut self, script: Script) -> usize {
        let play = tokio::spawn(self.servicing(0, script));
        let mut opened = 0;
        while !play.is_finished() {
            if self.nic().is_gone() {
                self.let_go().await;
                self.reopen().await;
                opened += 1;
            }
            sleep(ms(1)).await;
        }
        play.await.expect("played");
        opened
    }

    /// Nobody sends any more, and all that was sent has come, which it must, but for what the host says that it dropped.
    pub(crate) async fn quiet(&self) {
        self.pace.set(Pace::PAUSE);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // Of each adapter, and at it beyond what is known.
        let missing = || {
            let beyond = |station: &Station| {
                let at = self.ledger.missing_at(station.mac).checked_sub(self.dropped_of(station));
                (self.ledger.missing_of(station.mac), at.expect("what was dropped has not come"))
            };
            self.stations.iter().map(beyond).collect::<Vec<_>>()
        };
        while missing().iter().any(|missing| *missing != (0, 0)) {
            self.are_sound();
            assert!(
                tokio::time::Instant::now() < deadline,
                "missing of and at the adapters: {:?}; {:?}; {:?}",
                missing(),
                self.stations.iter().map(|station| station.nic.vf()).collect::<Vec<_>>(),
                self.stations.iter().map(Station::events).collect::<Vec<_>>(),
            );
            sleep(ms(20)).await;
        }
        // A frame that comes for the second time would come now.
        sleep(ms(300)).await;
        self.are_sound();
    }

    /// What the host says that it dropped for the first adapter is missing, and nothing else; from now on nothing is.
    pub(crate) async fn write_off_what_was_dropped(&mut self) {
        self.quiet().await;
        assert_eq!(self.ledger.forgive(MAC), 0, "of what it sent nothing is missing");
        self.stations[0].dropped_before = self.dropped(NicId(0));
        self.pace.set(Pace::BUSY);
    }

    /// As [`quiet`](Self::quiet), for a moment.
    pub(crate) async fn settle(&self) {
        self.quiet().await;
        self.pace.set(Pace::BUSY);
    }

    /// Frames have gone both ways, and all of them have come, while the adapter stood as it stands.
    pub(crate) async fn traffic_is_complete(&self) {
        self.pace.set(Pace::BUSY);
        let before: Vec<_> = self.stations.iter().map(|station| self.arrived(station)).collect();
        for (station, before) in self.stations.iter().zip(before) {
            let more = || {
                let now = self.arrived(station);
                now.0 >= before.0 + 50 && now.1 >= before.1 + 50
            };
            station.until(more, "frames both ways").await;
        }
        self.settle().await;
    }

    /// Frames of an adapter that have arrived elsewhere, and those that have arrived at it.
    pub(crate) fn arrived(&self, station: &Station) -> (u64, u64) {
        (self.ledger.arrived_of(station.mac), self.ledger.arrived_at(station.mac))
    }

    /// Nobody has found anything wrong.
    fn are_sound(&self) {
        assert!(!self.far_task.is_finished(), "the far end has found something wrong");
        for station in &self.stations {
            assert!(
                station.is_gone() || !station.tasks.iter().any(JoinHandle::is_finished),
                "a user has found something wrong"
            );
        }
    }

    /// Lets go of the first adapter, which the host has taken away; what was sent by it and is lost.
    pub(crate) async fn let_go(&mut self) -> u64 {
        let Station { mac, nic, tasks, .. } = self.stations.remove(0);
        drop(nic);
        for task in tasks {
            task.await.expect("ends in order");
        }
        // What is on its way arrives.
        self.pace.set(Pace::PAUSE);
        sleep(ms(100)).await;
        self.ledger.forgive(mac)
    }

    /// Opens the first adapter again as soon as the host offers it, which was [let go of](Self::let_go).
    pub(crate) async fn reopen(&mut self) {
        let port = self.offers.1.recv().await.expect("the other end is here");
        let station = self.open(NicId(0), MAC, vec![FAR], port).await;
        self.stations.insert(0, station);
        self.pace.set(Pace::BUSY);
    }

    /// All is over: what was sent has come, and everything is given back.
    pub(crate) async fn end(self) {
        self.traffic_is_complete().await;
        self.pace.set(Pace::PAUSE);
        let Self { host, stations, host_task, far_task, .. } = self;
        for Station { nic, tasks, .. } in stations {
            let report = nic.close().await.expect("it had not failed");
            assert!(report.is_clean(), "{report:?}");
            for task in tasks {
                task.await.expect("ends in order");
            }
        }
        sleep(ms(10)).await;
        host.assert_clean();
        far_task.abort();
        host_task.abort();
    }
}

impl Station {
    /// What it has told until now.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// How often it has told such a thing.
    pub(crate) fn told(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events().iter().filter(|event| wanted(event)).count()
    }

    /// Whether the host took it away.
    pub(crate) fn is_gone(&self) -> bool {
        self.told(|event| matches!(event, Event::Gone(_))) > 0
    }

    /// How often its traffic was moved there.
    pub(crate) fn switched(&self, path: Path) -> usize {
        self.told(|event| matches!(event, Event::DatapathSwitched { to, .. } if *to == path))
    }

    pub(crate) fn vf(&self) -> VfStatus {
        self.nic.vf().expect("it has a backend")
    }

    /// Waits for something.
    #[track_caller]
    pub(crate) fn until(&self, done: impl Fn() -> bool, what: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let start = tokio::time::Instant::now();
            while !done() {
                let waited = start.elapsed();
                assert!(waited < PATIENCE, "{caller}: {what}; {:?}; {:?}", self.nic.vf(), self.events());
                if waited < ms(200) {
                    sleep(ms(1)).await;
                } else {
                    self.rests(ms(20)).await;
                }
            }
        }
    }

    /// For so long little is sent.
    pub(crate) async fn rests(&self, time: Duration) {
        self.pace.change(Pace::BUSY, Pace::CALM);
        sleep(time).await;
        self.pace.change(Pace::CALM, Pace::BUSY);
    }

    /// Waits until the data path stands there.
    #[track_caller]
    pub(crate) fn stands(&self, stage: Stage) -> impl Future<Output = ()> {
        self.until(move || self.vf().stage == stage, "the stage")
    }

    /// Waits until it has told such a thing.
    #[track_caller]
    pub(crate) fn tells(&self, wanted: impl Fn(&Event) -> bool) -> impl Future<Output = ()> {
        self.until(move || self.told(&wanted) > 0, "the event")
    }
}

/// Who sends and receives by one queue.
struct User {
    mac: Mac,
    peers: Vec<Mac>,
    ledger: Ledger,
    pace: Pace,
    random: SmallRng,
}

fn is_over(error: &Error) -> bool {
    assert!(matches!(error, Error::Closed | Error::Gone), "{error}");
    true
}

impl User {
    async fn run(mut self, queue: Queue<MemChannel>) {
        // Flows of a queue are its own.
        let flow = queue.index() as u8;
        let Queue { mut rx, mut tx, .. } = queue;
        let (mac, ledger) = (self.mac, self.ledger.clone());
        let receive = async move {
            loop {
                match rx.recv_burst().await {
                    Ok(Some(burst)) => burst.iter().for_each(|frame| ledger.came(mac, frame.bytes)),
                    Ok(None) => return,
                    Err(error) if is_over(&error) => return,
                    Err(_) => unreachable!("it is over or not"),
                }
            }
        };
        let send = async move {
            loop {
                let frames = if self.pace.is_paused() { 0 } else { self.random.random_range(0..8) };
                let peer = self.peers[self.random.random_range(0..self.peers.len())];
                if self.random.random() {
                    let mut batch = tx.batch();
                    for _ in 0..frames {
                        if self.ledger.missing_at(peer) >= WINDOW {
                            break;
                        }
                        match batch.push(&self.ledger.frame(self.mac, peer, flow), &TxMeta::default()) {
                            Ok(()) => self.ledger.sent(self.mac, peer, flow),
                            Err(Error::Full) => break,
                            Err(error) if is_over(&error) => return,
                            Err(_) => unreachable!("it is over or not"),
                        }
                    }
                } else if frames > 0 && self.ledger.missing_at(peer) < WINDOW {
                    match tx.send(&self.ledger.frame(self.mac, peer, flow)).await {
                        Ok(()) => self.ledger.sent(self.mac, peer, flow),
                        Err(error) if is_over(&error) => return,
                        Err(_) => unreachable!("it is over or not"),
                    }
                }
                sleep(self.pace.between(&mut self.random)).await;
                // Whoever has nothing to send learns of the end as well.
                if let Some(Err(error)) = tx.ready(60).now_or_never()
                    && is_over(&error)
                {
                    return;
                }
            }
        };
        futures::join!(receive, send);
    }
}

/// The far end: sends to all adapters, and counts what comes.
async fn far_end(far: MemoryPort, macs: Vec<Mac>, ledger: Ledger, pace: Pace, mut random: SmallRng) {
    loop {
        while let Ok(frame) = far.try_recv() {
            // To whoever it is for: the switch floods what it does not know.
            if frame[..6] == FAR {
                ledger.came(FAR, &frame);
            }
        }
        for &mac in macs.iter().filter(|_| !pace.is_paused()) {
            for _ in 0..random.random_range(0..6) {
                if ledger.missing_at(mac) >= WINDOW {
                    break;
                }
                let flow = random.random_range(0..3);
                far.send(&ledger.frame(FAR, mac, flow)).expect("room: the window is small");
                ledger.sent(FAR, mac, flow);
            }
        }
        sleep(pace.between(&mut random)).await;
    }
}
