//! The host: its builder, its step, and what runs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use vmbus::mem::GuestPort;

use crate::fault::{Fault, FaultPlan, Upset, When};
use crate::netvsp::{Nic, NicConfig};
use crate::port::{Frame, MemoryPort, Port, PortOffloads, memory_pair};
use crate::profile::{Profile, Settings, VlanTags};
use crate::report::{NicReport, Report};
#[cfg(feature = "tokio")]
use crate::runner;
use crate::runner::HostThread;
use crate::switch::{AddPortError, MacAddress, PacketFilter, PortCounters, PortId, PortOptions, Switch, SwitchConfig};
use crate::violation::Violation;

/// Frames that each port may give in one step.
const BUDGET: usize = 256;
/// Frames that wait in a memory pair, each way.
const MEMORY_PORT_FRAMES: usize = 1024;
/// First three bytes of MAC addresses that Hyper-V gives.
const MICROSOFT: [u8; 3] = [0x00, 0x15, 0x5D];

/// A NIC of a host: the n-th that was added, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NicId(pub u32);

/// A NIC to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicOptions {
    mac: Option<[u8; 6]>,
    queues: u16,
    link_up: bool,
    link_speed_bps: u64,
    friendly_name: String,
    settings: Option<Settings>,
    offloads: OffloadChoice,
    mac_spoofing: bool,
}

/// Offloads that are chosen apart from the release's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct OffloadChoice {
    tx_checksum: Option<bool>,
    lso: Option<bool>,
    rsc: Option<bool>,
    vlan: Option<VlanTags>,
}

impl OffloadChoice {
    fn apply(self, settings: &mut Settings) {
        let mut offloads = settings.offloads;
        offloads = self.tx_checksum.map_or(offloads, |on| offloads.with_tx_checksum(on));
        offloads = self.lso.map_or(offloads, |on| offloads.with_lso(on));
        settings.offloads = self.rsc.map_or(offloads, |on| offloads.with_rsc(on));
        settings.vlan = self.vlan.unwrap_or(settings.vlan);
    }
}

impl Default for NicOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl NicOptions {
    /// One queue, link up at 10 Gbit/s, the next MAC address of the host's range, the host's settings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mac: None,
            queues: 1,
            link_up: true,
            link_speed_bps: 10_000_000_000,
            friendly_name: String::from("Network Adapter"),
            settings: None,
            offloads: OffloadChoice::default(),
            mac_spoofing: false,
        }
    }

    /// Its permanent MAC address. Default: 00:15:5d (Microsoft) and a running number.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Most queues, 1 to 64: the primary channel and the subchannels that the guest may ask for. Default: 1.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues.clamp(1, 64);
        self
    }

    /// Whether the link is up at first. Default: yes.
    #[must_use]
    pub fn link_up(mut self, up: bool) -> Self {
        self.link_up = up;
        self
    }

    /// Link speed in bit/s. Default: 10 Gbit/s.
    #[must_use]
    pub fn link_speed_bps(mut self, bps: u64) -> Self {
        self.link_speed_bps = bps;
        self
    }

    /// Its name for people. Default: `Network Adapter`, which guests treat as no name.
    #[must_use]
    pub fn friendly_name(mut self, name: impl Into<String>) -> Self {
        self.friendly_name = name.into();
        self
    }

    /// Whether it may send from other addresses than its own, as a bridge does. Default: no, such frames are dropped.
    #[must_use]
    pub fn mac_spoofing(mut self, allowed: bool) -> Self {
        self.mac_spoofing = allowed;
        self
    }

    /// Whether it offers checksums on transmit; without them there is no segmentation either. Default: the settings'.
    #[must_use]
    pub fn tx_checksum(mut self, on: bool) -> Self {
        self.offloads.tx_checksum = Some(on);
        self
    }

    /// Whether it offers segmentation on transmit. Default: the settings'.
    #[must_use]
    pub fn lso(mut self, on: bool) -> Self {
        self.offloads.lso = Some(on);
        self
    }

    /// Whether it offers coalescing on receive, to guests of NVSP 6.1. Default: the settings'.
    #[must_use]
    pub fn rsc(mut self, on: bool) -> Self {
        self.offloads.rsc = Some(on);
        self
    }

    /// What becomes of VLAN tags. Default: the settings'.
    #[must_use]
    pub fn vlan(mut self, tags: VlanTags) -> Self {
        self.offloads.vlan = Some(tags);
        self
    }

    /// Most queues.
    #[cfg(all(feature = "export", target_os = "linux"))]
    pub(crate) fn queue_count(&self) -> u16 {
        self.queues
    }

    /// Settings of its own. Default: the host's.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }
}

/// Builds a [`Host`].
#[derive(Debug, Clone, Default)]
pub struct HostBuilder {
    settings: Settings,
    seed: u64,
    switch: SwitchConfig,
}

impl HostBuilder {
    /// The Windows release. Default: [`Profile::Ws2019`]. Replaces all settings: call it first.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.settings = profile.settings();
        self
    }

    /// The highest NVSP version that is accepted. Default: the profile's.
    #[must_use]
    pub fn nvsp_max(mut self, version: nvsp::Version) -> Self {
        self.settings.nvsp_max = version;
        self
    }

    /// Whether NICs offer checksums on transmit; without them there is no segmentation either. Default: the profile's.
    #[must_use]
    pub fn tx_checksum(mut self, on: bool) -> Self {
        self.settings.offloads = self.settings.offloads.with_tx_checksum(on);
        self
    }

    /// Whether NICs offer segmentation on transmit. Default: the profile's, which is on.
    #[must_use]
    pub fn lso(mut self, on: bool) -> Self {
        self.settings.offloads = self.settings.offloads.with_lso(on);
        self
    }

    /// Whether NICs offer coalescing on receive, to guests of NVSP 6.1. Default: the profile's, which is on.
    #[must_use]
    pub fn rsc(mut self, on: bool) -> Self {
        self.settings.offloads = self.settings.offloads.with_rsc(on);
        self
    }

    /// What becomes of VLAN tags. Default: the guest gets them beside the frame.
    #[must_use]
    pub fn vlan(mut self, tags: VlanTags) -> Self {
        self.settings.vlan = tags;
        self
    }

    /// Changes settings.
    #[must_use]
    pub fn tune(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Settings of the virtual switch.
    #[must_use]
    pub fn switch(mut self, config: SwitchConfig) -> Self {
        self.switch = config;
        self
    }

    /// Seed of everything random (faults). Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The host: a switch without ports.
    #[must_use]
    pub fn build(self) -> Host {
        let state = State {
            settings: self.settings,
            seed: self.seed,
            switch: Switch::new(self.switch),
            nics: Vec::new(),
            inline: None,
            armed: Vec::new(),
        };
        Host { shared: Arc::new(Shared { state: Mutex::new(state), bell: Arc::default() }) }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stepped {
    /// Whether anything was done: call it again soon. If not, wait for a signal, or for `next_timeout`.
    pub did_work: bool,
    /// When there is something to do even if nothing is heard: a point on the clock of `now`.
    pub next_timeout: Option<Duration>,
}

/// What is plugged into the switch.
#[derive(Debug)]
enum Plug {
    Nic(Box<Nic>),
    Other(OtherPort),
}

/// A port of the user's.
struct OtherPort(Box<dyn Port>);

impl std::fmt::Debug for OtherPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OtherPort").finish_non_exhaustive()
    }
}

impl Plug {
    fn port(&self) -> &dyn Port {
        match self {
            Self::Nic(nic) => nic.as_ref(),
            Self::Other(port) => port.0.as_ref(),
        }
    }

    fn port_mut(&mut self) -> &mut dyn Port {
        match self {
            Self::Nic(nic) => nic.as_mut(),
            Self::Other(port) => port.0.as_mut(),
        }
    }
}

impl Port for Plug {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        self.port_mut().deliver(frame)
    }

    fn offloads(&self) -> PortOffloads {
        self.port().offloads()
    }

    fn flush(&mut self) {
        self.port_mut().flush();
    }

    fn filter(&self) -> Option<PacketFilter> {
        self.port().filter()
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        self.port_mut().poll(now, budget, out)
    }

    fn register_waker(&mut self, waker: &Waker) {
        self.port_mut().register_waker(waker);
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        self.port().next_timeout(now)
    }
}

type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

struct State {
    settings: Settings,
    seed: u64,
    switch: Switch<Plug>,
    /// The NICs' places in the switch, by [`NicId`].
    nics: Vec<PortId>,
    /// The clock by which guests run the host.
    inline: Option<Clock>,
    /// Faults for NICs that are still to come.
    armed: Vec<(Fault, When)>,
}

impl State {
    fn nic(&self, id: NicId) -> Option<&Nic> {
        match self.switch.port(*self.nics.get(id.0 as usize)?)? {
            Plug::Nic(nic) => Some(nic),
            Plug::Other(_) => None,
        }
    }

    fn nic_mut(&mut self, id: NicId) -> Option<&mut Nic> {
        match self.switch.port_mut(*self.nics.get(id.0 as usize)?)? {
            Plug::Nic(nic) => Some(nic),
            Plug::Other(_) => None,
        }
    }

    fn step(&mut self, now: Duration) -> Stepped {
        let polled = self.switch.poll(now, BUDGET);
        let mut did_work = polled.frames > 0 || polled.more;
        let mut deadline: Option<Duration> = None;
        for index in 0..self.nics.len() {
            let Some(nic) = self.nic_mut(NicId(index as u32)) else { continue };
            match nic.faults.on_nic_step() {
                Upset::Rescind => nic.rescind(),
                Upset::RevokeReceiveBuffer => nic.lose_receive_buffer(),
                Upset::VfRemoved => nic.vf_removed(),
                _ => {}
            }
            nic.end_step(now);
            did_work |= nic.take_did_work();
            deadline = [deadline, nic.deadline()].into_iter().flatten().min();
        }
        let port = self.switch.next_timeout(now).map(|after| now + after);
        Stepped { did_work, next_timeout: [deadline, port].into_iter().flatten().min() }
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes what runs the host: something was asked of it, or it is no more.
    bell: Arc<AtomicWaker>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bell.wake();
    }
}

/// A simulated host. A cheap handle: clones are the same host.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// A host to be set up.
    #[must_use]
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a NIC and lets the host see to it.
    pub(crate) fn with_nic(&self, nic: NicId, change: impl FnOnce(&mut Nic)) {
        if let Some(nic) = self.state().nic_mut(nic) {
            change(nic);
        }
        self.shared.bell.wake();
    }

    /// Looks at a NIC, if there is one of this number.
    pub(crate) fn look_at_nic<T>(&self, nic: NicId, look: impl FnOnce(&Nic) -> T) -> Option<T> {
        self.state().nic(nic).map(look)
    }

    /// Adds a NIC and connects it to the switch. What comes back is the guest's end of its VMBus connection:
    /// `vmbus::mem::MemBus` makes a bus of it. Dropping that end is the guest's end.
    ///
    /// # Panics
    /// If the switch does not take it: [`try_add_nic`](Self::try_add_nic) says why.
    pub fn add_nic(&self, options: NicOptions) -> GuestPort {
        self.try_add_nic(options).unwrap_or_else(|error| panic!("nic not added: {error}"))
    }

    /// As [`add_nic`](Self::add_nic).
    ///
    /// # Errors
    /// [`AddPortError`] if the MAC address is no station's or taken, or the switch is full.
    pub fn try_add_nic(&self, options: NicOptions) -> Result<GuestPort, AddPortError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let id = NicId(state.nics.len() as u32);
        let number = id.0.to_be_bytes();
        let [a, b, c] = MICROSOFT;
        let mac = options.mac.unwrap_or([a, b, c, number[1] | 1, number[2], number[3]]);
        let mut settings = options.settings.unwrap_or_else(|| state.settings.clone());
        options.offloads.apply(&mut settings);
        let mut faults = FaultPlan::new(state.seed ^ u64::from(id.0) << 32);
        for &(fault, when) in &state.armed {
            faults.arm(fault, when);
        }
        let config = NicConfig { id, mac, queues: options.queues, friendly_name: options.friendly_name, settings };
        let (guest, host) = vmbus::mem::connection();
        let nic = Nic::new(config, host, options.link_up, options.link_speed_bps, faults);
        if let Some(clock) = &state.inline {
            self.run_from(&nic, Arc::clone(clock));
        }
        let port = PortOptions::nic(MacAddress(mac)).spoofing(options.mac_spoofing);
        let port = state.switch.add_port(Plug::Nic(Box::new(nic)), port)?;
        state.nics.push(port);
        drop(guard);
        self.shared.bell.wake();
        Ok(guest)
    }

    /// Plugs a port of your own into the switch, as a network with any number of stations.
    ///
    /// # Panics
    /// If the switch is full: [`try_add_port`](Self::try_add_port) says so.
    pub fn add_port(&self, port: impl Port + 'static) -> PortId {
        self.try_add_port(port, PortOptions::trunk()).unwrap_or_else(|error| panic!("port not added: {error}"))
    }

    /// Plugs a port of your own into the switch.
    ///
    /// # Errors
    /// [`AddPortError`] if the switch does not take it.
    pub fn try_add_port(&self, port: impl Port + 'static, options: PortOptions) -> Result<PortId, AddPortError> {
        let id = self.state().switch.add_port(Plug::Other(OtherPort(Box::new(port))), options);
        self.shared.bell.wake();
        id
    }

    /// Pulls a port out again; false if there is none of this id. NICs stay.
    pub fn remove_port(&self, id: PortId) -> bool {
        let mut state = self.state();
        !state.nics.contains(&id) && state.switch.remove_port(id).is_some()
    }

    /// A port of the switch whose far end is yours: send frames to the switch, receive what it floods or knows to be
    /// there.
    pub fn memory_pair(&self) -> MemoryPort {
        let (inside, outside) = memory_pair(MEMORY_PORT_FRAMES);
        self.add_port(inside);
        outside
    }

    /// What the switch counted at a port.
    #[must_use]
    pub fn port_counters(&self, id: PortId) -> Option<PortCounters> {
        self.state().switch.counters(id)
    }

    /// What the switch counted at a NIC's port.
    #[must_use]
    pub fn nic_port_counters(&self, nic: NicId) -> Option<PortCounters> {
        let state = self.state();
        state.switch.counters(*state.nics.get(nic.0 as usize)?)
    }

    /// Does all the work that there is now, up to some hundred frames a port. `now` is any clock that does not go back.
    pub fn step(&self, now: Duration) -> Stepped {
        self.state().step(now)
    }

    /// Lets every guest run the host on its own thread: `GuestPort::run_host` (and so `Bus::run_host`) is a step, by the
    /// machine's monotonic clock. Holds for NICs added before and after.
    pub fn run_inline(&self) {
        let start = Instant::now();
        self.run_inline_with_clock(move || start.elapsed());
    }

    /// As [`run_inline`](Self::run_inline), by a clock of your own.
    pub fn run_inline_with_clock(&self, clock: impl Fn() -> Duration + Send + Sync + 'static) {
        let clock: Clock = Arc::new(clock);
        let mut state = self.state();
        state.inline = Some(Arc::clone(&clock));
        for index in 0..state.nics.len() {
            if let Some(nic) = state.nic(NicId(index as u32)) {
                self.run_from(nic, Arc::clone(&clock));
            }
        }
    }

    fn run_from(&self, nic: &Nic, clock: Clock) {
        let host = Arc::downgrade(&self.shared);
        nic.host_port().set_runner(move || {
            let Some(shared) = host.upgrade() else { return false };
            Host { shared }.step(clock()).did_work
        });
    }

    /// Runs the host on a thread of its own, which sleeps while there is nothing to do. It ends when the handle is
    /// dropped.
    pub fn spawn_thread(&self) -> HostThread {
        self.spawn_thread_spinning(Duration::ZERO)
    }

    /// As [`spawn_thread`](Self::spawn_thread), but looks for work for `spin` before it sleeps: throughput for
    /// processor time.
    pub fn spawn_thread_spinning(&self, spin: Duration) -> HostThread {
        HostThread::start(self.clone(), spin)
    }

    /// Runs the host as a task of the current tokio runtime, by its clock, paused or not. The task ends when the last
    /// other handle to the host is dropped, or it is aborted.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[cfg(feature = "tokio")]
    pub fn spawn(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(runner::task(Arc::downgrade(&self.shared), Arc::clone(&self.shared.bell)))
    }

    /// Has `waker` woken once there is work for [`step`](Self::step): for those who write a runner of their own. If
    /// there is work already, it is woken at once.
    pub fn register_waker(&self, waker: &Waker) {
        self.shared.bell.register(waker);
        self.state().switch.register_waker(waker);
    }

    /// Arms a fault on every NIC, present and future.
    pub fn inject(&self, fault: Fault, when: When) {
        let mut state = self.state();
        state.armed.push((fault, when));
        for index in 0..state.nics.len() {
            if let Some(nic) = state.nic_mut(NicId(index as u32)) {
                nic.faults.arm(fault, when);
            }
        }
        drop(state);
        self.shared.bell.wake();
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.armed.clear();
        for index in 0..state.nics.len() {
            if let Some(nic) = state.nic_mut(NicId(index as u32)) {
                nic.faults.clear();
            }
        }
    }

    /// Changes the fault plan of one NIC.
    pub fn with_faults(&self, nic: NicId, change: impl FnOnce(&mut FaultPlan)) {
        self.with_nic(nic, |nic| change(&mut nic.faults));
    }

    /// Takes all channels of the NIC back, as when the device is removed.
    pub fn rescind(&self, nic: NicId) {
        self.with_nic(nic, Nic::rescind);
    }

    /// Offers a NIC again that its guest has let go of, as after a live migration or a change of its settings: what comes back
    /// is the guest's end of a new VMBus connection. Nothing of the old one is kept, but what the NIC is, its VF and the
    /// VF's association. `None` if there is no such NIC, or as long as its guest has not dropped the old end, see
    /// [`rescind`](Self::rescind).
    #[must_use]
    pub fn offer_nic_again(&self, nic: NicId) -> Option<GuestPort> {
        let mut guard = self.state();
        let inline = guard.inline.clone();
        let nic = guard.nic_mut(nic)?;
        let guest = nic.offer_again()?;
        if let Some(clock) = inline {
            self.run_from(nic, clock);
        }
        drop(guard);
        self.shared.bell.wake();
        Some(guest)
    }

    /// Takes one subchannel of the NIC back, as when a host reduces the queues of a machine; queue 0 stays.
    pub fn rescind_queue(&self, nic: NicId, queue: u16) {
        self.with_nic(nic, |nic| nic.rescind_subchannel(queue));
    }

    /// Tells the guest on which queue to send each of its 16 hash buckets, as hosts do when they move queues to other
    /// processors. What it is told after the bring-up is the queues in turn. From NVSP 5 on.
    pub fn set_send_table(&self, nic: NicId, entries: [u32; nvsp::SEND_TABLE_LEN]) {
        self.with_nic(nic, |nic| nic.tell_send_table(entries));
    }

    /// Sets a NIC's link. Up while it is up: down now, and up after [`Settings::link_flap`].
    pub fn set_link(&self, nic: NicId, up: bool) {
        self.with_nic(nic, |nic| nic.set_link(up));
    }

    /// Sets a NIC's link speed, in bit/s, and tells the guest.
    pub fn set_link_speed(&self, nic: NicId, bps: u64) {
        self.with_nic(nic, |nic| nic.set_link_speed(bps));
    }

    /// Tells a NIC's guest that the network behind the link changed.
    pub fn network_change(&self, nic: NicId) {
        self.with_nic(nic, Nic::network_change);
    }

    /// Violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.report().violations
    }

    /// How many violations one NIC's guest has made: those that are kept, and more.
    #[cfg(all(feature = "export", target_os = "linux"))]
    pub(crate) fn nic_violations(&self, nic: NicId) -> (u64, u64) {
        let state = self.state();
        let violations = state.nic(nic).map(|nic| nic.violations());
        violations.map_or((0, 0), |(kept, not_kept)| (kept.len() as u64, not_kept))
    }

    /// What one NIC's guest did and holds.
    #[must_use]
    pub fn nic_report(&self, nic: NicId) -> Option<NicReport> {
        self.state().nic(nic).map(Nic::report)
    }

    /// What the host noticed so far, and what it holds now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        let mut report = Report::default();
        for index in 0..state.nics.len() {
            let Some(nic) = state.nic(NicId(index as u32)) else { continue };
            let (kept, not_kept) = nic.violations();
            report.violations.extend_from_slice(kept);
            report.violations_not_kept += not_kept;
            let nic = nic.report();
            report.leaks.add(nic.leaks);
            report.nics.push(nic);
        }
        report
    }

    /// Asserts that guests did nothing wrong and, after their end, gave everything back.
    ///
    /// # Panics
    /// With the report if not.
    #[track_caller]
    pub fn assert_clean(&self) {
        let report = self.report();
        assert!(report.is_clean(), "{report}");
    }
}
