//! Devices for other processes: the host as a program, its NICs as `uio_hv_generic` shows them.
//!
//! A client (this project's driver, DPDK's, or any other that is written for Linux' `uio_hv_generic`) runs with a small
//! preloaded library, which turns `/sys/bus/vmbus` into a directory that an [`Export`] fills, and `/dev/uioN` into a
//! socket that it listens on. Everything else is shared memory. `tests/dpdk/README.md` of this project specifies it.
//!
//! ```text
//!   client process          Export: the guest's kernel                Host
//!  ┌────────────────┐  ┌──────────────────────────────────┐  ┌─────────────────────┐
//!  │ driver ── shim ┼──┤ sysfs files, socket   MemBus ────┼──┤ VMBus server, NetVSP│
//!  └──┬─────────────┘  └──────────────────────────────────┘  └───┬─────────────────┘
//!     └─────────────── rings, buffers, guest memory ─────────────┘
//! ```
//!
//! Between the client and the simulated host stands what in a virtual machine would be the Linux kernel: it connects to
//! the VMBus, makes the receive and the send buffer and their GPADLs, opens and closes channels, turns interrupts into
//! event counts, and differs by version ([`Kernel`]). That is what this module plays; the [`Host`] below
//! knows nothing of it.
//!
//! | file | subject |
//! |---|---|
//! | `wire` | the messages on the socket |
//! | `inbox` | what the client sends, pieces of guest memory above all |
//! | `memory` | memory that both processes map |
//! | `monitor` | the page by which the client signals without a system call |
//! | `kernel` | what differs between kernels |
//! | `sysfs` | the files |
//! | `device` | one device: its client's coming and going, its channels, its interrupts |
//! | `pace` | when to look, and how long to sleep |
//! | `closed_loop` | a port that keeps frames under way and checks each that comes back |
//!
//! Sources: Linux `drivers/uio/uio_hv_generic.c` (several releases), `drivers/uio/uio.c`, `drivers/hv/vmbus_drv.c`; DPDK
//! `drivers/bus/vmbus/linux`.

mod closed_loop;
mod device;
mod inbox;
mod kernel;
mod memory;
mod monitor;
mod pace;
mod sysfs;
mod wire;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

pub use closed_loop::{
    ClosedLoopConfig, ClosedLoopHandle, ClosedLoopPort, ClosedLoopStats, InvalidClosedLoop, Traffic,
};
pub use device::DeviceReport;
pub use kernel::{Kernel, ParseKernelError};

use crate::host::{Host, NicOptions};
use crate::switch::AddPortError;
use device::Device;
use monitor::Pages;
use pace::Pace;

/// How often sockets and control planes are looked at while frames flow.
const SERVICE_INTERVAL: Duration = Duration::from_micros(50);

/// Settings of an [`Export`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    root: PathBuf,
    kernel: Kernel,
    monitored: bool,
}

impl ExportOptions {
    /// Devices below `root`, a directory on a tmpfs with a short name (a socket's address has 108 bytes at most). It is
    /// made if it does not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), kernel: Kernel::default(), monitored: true }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel to be played. Default: [`Kernel::B`].
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Whether channels have a monitor, so that a client signals by a bit in shared memory. Default: yes. Without, it
    /// signals by `write`, which kernel A does not have.
    #[must_use]
    pub fn monitored(mut self, monitored: bool) -> Self {
        self.monitored = monitored;
        self
    }
}

/// Why devices cannot be exported.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExportError {
    /// A system call failed.
    System {
        /// What was to be done.
        step: &'static str,
        /// Where, if it has a place.
        path: Option<PathBuf>,
        /// Why not.
        source: std::io::Error,
    },
    /// The switch does not take the NIC.
    Switch(AddPortError),
    /// The host did not do what it has to, such as granting a GPADL.
    Host {
        /// What.
        step: &'static str,
    },
    /// This kernel refuses channels without a monitor (ENOTSUPP).
    Unmonitored,
    /// More channels than a virtual machine has monitors.
    Monitors {
        /// Monitors needed.
        needed: usize,
        /// Monitors that there are.
        limit: usize,
    },
}

impl ExportError {
    fn system(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { step, path: None, source }
    }

    fn at(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { step, path: Some(path), source }
    }
}

impl std::fmt::Display for ExportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System { step, path: Some(path), .. } => write!(f, "cannot {step} {}", path.display()),
            Self::System { step, path: None, .. } => write!(f, "cannot {step}"),
            Self::Switch(error) => error.fmt(f),
            Self::Host { step } => write!(f, "the host does not {step}"),
            Self::Unmonitored => f.write_str("kernel a refuses channels without a monitor"),
            Self::Monitors { needed, limit } => write!(f, "{needed} channels need a monitor, there are {limit}"),
        }
    }
}

impl std::error::Error for ExportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Hosts' NICs, for other processes.
///
/// It runs its hosts: [`run`](Self::run) is the loop of a whole program, on one thread. [`step`](Self::step) and
/// [`wait`](Self::wait) are its parts.
#[derive(Debug)]
pub struct Export {
    options: ExportOptions,
    hosts: Vec<Host>,
    devices: Vec<Device>,
    pages: Arc<Pages>,
    bell: Arc<Bell>,
    pace: Pace,
    start: Instant,
    last_service: Duration,
}

impl Export {
    /// No devices yet.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn new(options: ExportOptions) -> Result<Self, ExportError> {
        if !options.monitored && options.kernel == Kernel::A {
            return Err(ExportError::Unmonitored);
        }
        std::fs::create_dir_all(&options.root).map_err(ExportError::at("make directory", &options.root))?;
        Ok(Self {
            pages: Arc::new(Pages::new()?),
            bell: Arc::new(Bell::new()?),
            options,
            hosts: Vec::new(),
            devices: Vec::new(),
            pace: Pace::new(),
            start: Instant::now(),
            last_service: Duration::ZERO,
        })
    }

    /// Adds a NIC to `host` and exports it. Several devices may be NICs of one host: one switch connects them.
    ///
    /// `closed_loop` is the port at the other end of a cable, if there is one: it is told when the guest listens.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn add(
        &mut self,
        host: &Host,
        options: NicOptions,
        closed_loop: Option<ClosedLoopHandle>,
    ) -> Result<(), ExportError> {
        if !self.hosts.iter().any(|known| Arc::ptr_eq(&known.shared, &host.shared)) {
            self.hosts.push(host.clone());
        }
        let number = self.devices.len();
        let device = Device::new(number, host, options, &self.options, &self.pages, closed_loop, self.start)?;
        self.devices.push(device);
        Ok(())
    }

    /// What became of the devices so far.
    #[must_use]
    pub fn reports(&self) -> Vec<DeviceReport> {
        self.devices.iter().map(Device::report).collect()
    }

    /// The export's clock: since it exists.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Does all the work that there is now; whether there was any.
    pub fn step(&mut self, now: Duration) -> bool {
        let mut worked = false;
        if now >= self.last_service + SERVICE_INTERVAL {
            self.last_service = now;
            worked |= self.service(now);
        }
        worked | self.step_hosts(now)
    }

    /// Looks at all sockets.
    fn service(&mut self, now: Duration) -> bool {
        self.devices.iter_mut().fold(false, |worked, device| device.service(now) | worked)
    }

    fn step_hosts(&mut self, now: Duration) -> bool {
        let mut worked = false;
        let mut next: Option<Duration> = None;
        for host in &self.hosts {
            let stepped = host.step(now);
            worked |= stepped.did_work;
            next = [next, stepped.next_timeout].into_iter().flatten().min();
        }
        for device in &mut self.devices {
            device.interrupt();
        }
        self.pace.stepped(now, worked, next);
        worked
    }

    /// Waits until there may be something to do: a while spinning, then asleep, with growing intervals between looks at
    /// the page by which clients signal. Ends at once when `stop` can be read.
    ///
    /// # Errors
    /// What `ppoll` says.
    pub fn wait(&mut self, until: Duration, stop: BorrowedFd<'_>) -> Result<(), ExportError> {
        loop {
            let now = self.now();
            let active = self.devices.iter().any(Device::has_client);
            let Some(nap) = self.pace.nap(now, until, active) else { return Ok(()) };
            if self.bell.arm() {
                let waker = Waker::from(Arc::clone(&self.bell));
                self.hosts.iter().for_each(|host| host.register_waker(&waker));
            }
            if self.sleep(nap, stop)? {
                // Sockets at once, whatever the interval.
                self.last_service = Duration::ZERO;
                return Ok(());
            }
            if self.pages.take_signals() || self.now() >= until {
                return Ok(());
            }
        }
    }

    /// Sleeps; whether a descriptor woke it.
    fn sleep(&self, nap: Duration, stop: BorrowedFd<'_>) -> Result<bool, ExportError> {
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        fds.push(PollFd::new(&self.bell.event, PollFlags::IN));
        fds.extend(self.devices.iter().map(|device| PollFd::from_borrowed_fd(device.waits_for(), PollFlags::IN)));
        // A nap is seconds at most.
        let timeout = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: i64::from(nap.subsec_nanos()) };
        let woken = match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(count) => count > 0,
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(ExportError::system("wait")(error.into())),
        };
        if woken {
            self.bell.clear();
        }
        Ok(woken)
    }

    /// Runs everything until `stop` can be read. `tick` is called about every `interval`, with the export and its clock.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn run(
        &mut self,
        stop: BorrowedFd<'_>,
        interval: Duration,
        mut tick: impl FnMut(&Self, Duration),
    ) -> Result<(), ExportError> {
        pace::sleep_exactly();
        let mut next_tick = self.now() + interval;
        let mut next_look = Duration::ZERO;
        loop {
            let now = self.now();
            if !self.step(now) {
                self.wait(next_tick, stop)?;
            }
            if now >= next_look {
                next_look = now + Duration::from_millis(5);
                if readable(stop)? {
                    return Ok(());
                }
            }
            if now >= next_tick {
                next_tick = now + interval;
                tick(self, now);
            }
        }
    }

    /// Ends all sessions and takes all devices away; what the devices have to say at the end.
    #[must_use]
    pub fn finish(mut self) -> Vec<DeviceReport> {
        self.devices.iter_mut().for_each(Device::finish);
        self.reports()
    }
}

fn readable(fd: BorrowedFd<'_>) -> Result<bool, ExportError> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(ExportError::system("look for the end")(error.into())),
    }
}

/// Ends the sleep: what hosts' ports wake.
#[derive(Debug)]
struct Bell {
    event: OwnedFd,
    armed: std::sync::atomic::AtomicBool,
}

impl Bell {
    fn new() -> Result<Self, ExportError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event =
            rustix::event::eventfd(0, flags).map_err(|error| ExportError::system("make an event")(error.into()))?;
        Ok(Self { event, armed: false.into() })
    }

    /// Whether wakers have to be registered: once after each ring.
    fn arm(&self) -> bool {
        !self.armed.swap(true, std::sync::atomic::Ordering::AcqRel)
    }

    fn clear(&self) {
        let mut count = [0; 8];
        // Not rung: nothing to be read.
        let _ = rustix::io::read(&self.event, &mut count);
        self.armed.store(false, std::sync::atomic::Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Full: rung often enough.
        let _ = rustix::io::write(self.event.as_fd(), &1_u64.to_ne_bytes());
    }
}
