//! The host: its builder, its step, and what runs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmbus::mem::GuestPort;

use crate::profile::{Profile, Settings};
use crate::report::Report;
use crate::violation::Violation;

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

    /// Changes settings.
    #[must_use]
    pub fn tune(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
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
        Host {
            shared: Arc::new(Mutex::new(State {
                settings: self.settings,
            })),
        }
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

struct State {
    settings: Settings,
}

/// A simulated host. A cheap handle: clones are the same host.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Mutex<State>>,
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
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a NIC and connects it to the switch. What comes back is the guest's end of its VMBus connection:
    /// `vmbus::mem::MemBus` makes a bus of it. Dropping that end is the guest's end.
    pub fn add_nic(&self, options: NicOptions) -> GuestPort {
        let _ = (options, &self.state().settings);
        vmbus::mem::connection().0
    }

    /// Does all the work that there is now. `now` is any clock that does not go back.
    pub fn step(&self, now: Duration) -> Stepped {
        let _ = now;
        Stepped::default()
    }

    /// Lets every guest run the host on its own thread: `GuestPort::run_host` (and so `Bus::run_host`) is a step, by the
    /// machine's monotonic clock. Holds for NICs added before and after.
    pub fn run_inline(&self) {
        self.run_inline_with_clock(|| Duration::ZERO);
    }

    /// As [`run_inline`](Self::run_inline), by a clock of your own.
    pub fn run_inline_with_clock(&self, clock: impl Fn() -> Duration + Send + Sync + 'static) {
        let _ = clock;
    }

    /// Runs the host on a thread of its own, which sleeps while there is nothing to do. It ends when the handle is
    /// dropped.
    pub fn spawn_thread(&self) -> HostThread {
        HostThread { host: self.clone() }
    }

    /// Runs the host as a task of the current tokio runtime, by its clock, paused or not. The task ends when the last
    /// other handle to the host is dropped, or it is aborted.
    #[cfg(feature = "tokio")]
    pub fn spawn(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async {})
    }

    /// Takes all channels of the NIC back, as when the device is removed.
    pub fn rescind(&self, nic: NicId) {
        let _ = nic;
    }

    /// Sets a NIC's link. Up while it is up: down now, and up after [`Settings::link_flap`].
    pub fn set_link(&self, nic: NicId, up: bool) {
        let _ = (nic, up);
    }

    /// Sets a NIC's link speed, in bit/s, and tells the guest.
    pub fn set_link_speed(&self, nic: NicId, bps: u64) {
        let _ = (nic, bps);
    }

    /// Violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.report().violations
    }

    /// What the host noticed so far, and what it holds now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::default()
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

/// A thread that runs a host. Dropping it ends the thread.
#[derive(Debug)]
pub struct HostThread {
    host: Host,
}

impl HostThread {
    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}
