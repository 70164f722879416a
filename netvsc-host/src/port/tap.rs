//! A Linux TAP interface as a port of the switch: the guest meets the kernel's TCP/IP.
//!
//! The kernel interface is `/dev/net/tun` with `IFF_TAP | IFF_NO_PI` (Linux `Documentation/networking/tuntap.rst`): one
//! read or write is one Ethernet frame. The interface goes away with the port.
//!
//! A TAP cannot wake a `Waker`, so one thread per port blocks in `poll(2)` on it, fills a bounded queue of recycled
//! buffers and wakes the host. Frames to the TAP are written by the host itself; what the kernel does not take at once is
//! dropped and counted.

use core::fmt;
use core::net::Ipv4Addr;
use core::task::Waker;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tun_rs::{DeviceBuilder, InterruptEvent, Layer, SyncDevice};

use super::buffers::FrameQueue;
use super::{Frame, Port};

/// Settings of a [`TapPort`].
#[derive(Clone, Debug, Default)]
pub struct TapConfig {
    name: Option<String>,
    mtu: Option<u16>,
    mac: Option<[u8; 6]>,
    ipv4: Option<(Ipv4Addr, u8)>,
    capacity: Option<usize>,
}

impl TapConfig {
    /// An interface that the kernel names, with its default MTU of 1500 and no address.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the interface, at most 15 bytes. Default: the kernel's choice, `tap0` and so on.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The MTU in bytes, without the Ethernet header. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The address of the kernel's end. Default: random.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// An IPv4 address for the kernel's end, with the length of its prefix. Default: none.
    #[must_use]
    pub fn ipv4(mut self, address: Ipv4Addr, prefix: u8) -> Self {
        self.ipv4 = Some((address, prefix));
        self
    }

    /// How many frames from the kernel wait for the host at most; more are dropped and counted. Default 1024.
    #[must_use]
    pub fn capacity(mut self, frames: usize) -> Self {
        self.capacity = Some(frames);
        self
    }
}

/// A TAP interface, up and ready.
pub struct TapPort {
    device: Arc<SyncDevice>,
    shared: Arc<Mutex<Shared>>,
    reader: Option<JoinHandle<()>>,
    stop: Arc<InterruptEvent>,
    /// Frames taken out under one lock and given to the switch without it.
    batch: Vec<Vec<u8>>,
    name: String,
    mac: [u8; 6],
}

impl TapPort {
    /// Creates the interface, sets it up and brings it up, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`TapError`] says what was missing; without `CAP_NET_ADMIN` in that namespace, or without `/dev/net/tun`, nothing
    /// is created.
    pub fn open(config: TapConfig) -> Result<Self, TapError> {
        let at = |step| move |source| TapError { step, source };
        let mut builder = DeviceBuilder::new().layer(Layer::L2).enable(false);
        if let Some(name) = config.name {
            builder = builder.name(name);
        }
        if let Some((address, prefix)) = config.ipv4 {
            builder = builder.ipv4(address, prefix, None);
        }
        let device = builder.build_sync().map_err(at(TapStep::Create))?;
        if let Some(mtu) = config.mtu {
            device.set_mtu(mtu).map_err(at(TapStep::Mtu))?;
        }
        if let Some(mac) = config.mac {
            device.set_mac_address(mac).map_err(at(TapStep::Mac))?;
        }
        let name = device.name().map_err(at(TapStep::Query))?;
        let mac = device.mac_address().map_err(at(TapStep::Query))?;
        let mtu = device.mtu().map_err(at(TapStep::Query))?;
        device.enabled(true).map_err(at(TapStep::Up))?;
        // Writes must never block the host, and reads come after a poll.
        device.set_nonblocking(true).map_err(at(TapStep::NonBlocking))?;
        let stop = Arc::new(InterruptEvent::new().map_err(at(TapStep::Reader))?);
        let device = Arc::new(device);
        let shared = Arc::new(Mutex::new(Shared::new(config.capacity.unwrap_or(Self::DEFAULT_CAPACITY))));
        let reader = Reader {
            device: Arc::clone(&device),
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            frame_bytes: usize::from(mtu) + ETHERNET_AND_VLAN_BYTES,
        };
        let thread = thread::Builder::new().name(format!("{name}-reader")).spawn(move || reader.run());
        let reader = Some(thread.map_err(at(TapStep::Reader))?);
        Ok(Self { device, shared, reader, stop, batch: Vec::new(), name, mac })
    }

    /// Frames from the kernel that wait for the host, unless the configuration says otherwise.
    pub const DEFAULT_CAPACITY: usize = 1024;

    /// The name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of the kernel's end.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// A view of the counters that stays when the port is given to a switch.
    pub fn handle(&self) -> TapHandle {
        TapHandle { shared: Arc::clone(&self.shared) }
    }
}

impl Port for TapPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let result = loop {
            match self.device.send(frame.bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let mut shared = lock(&self.shared);
        match &result {
            Ok(_) => shared.stats.written += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => shared.stats.write_full += 1,
            Err(_) => shared.stats.write_failed += 1,
        }
        result.is_ok()
    }

    fn poll(&mut self, _now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        let mut shared = lock(&self.shared);
        while self.batch.len() < budget
            && let Some(bytes) = shared.queue.pop()
        {
            self.batch.push(bytes);
        }
        drop(shared);
        if self.batch.is_empty() {
            return 0;
        }
        for bytes in &self.batch {
            out(Frame::new(bytes));
        }
        let given = self.batch.len();
        let mut shared = lock(&self.shared);
        for bytes in self.batch.drain(..) {
            shared.queue.recycle(bytes);
        }
        given
    }

    fn register_waker(&mut self, waker: &Waker) {
        let mut shared = lock(&self.shared);
        match &mut shared.host {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        let pending = !shared.queue.is_empty();
        drop(shared);
        if pending {
            waker.wake_by_ref();
        }
    }

    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        // Frames left over by a small budget: nothing wakes the host for them again.
        (!lock(&self.shared).queue.is_empty()).then_some(Duration::ZERO)
    }
}

impl Drop for TapPort {
    fn drop(&mut self) {
        // If the reader cannot be told to stop, waiting for it would not end; it then lives on until the TAP fails.
        if self.stop.trigger().is_ok()
            && let Some(reader) = self.reader.take()
        {
            // A reader that panicked has nothing left to stop.
            let _ = reader.join();
        }
    }
}

impl fmt::Debug for TapPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapPort").field("name", &self.name).field("mac", &self.mac).finish_non_exhaustive()
    }
}

/// Counters of a TAP port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TapStats {
    /// Frames read from the kernel and queued for the host.
    pub read: u64,
    /// Frames read from the kernel and dropped: the host was too slow.
    pub read_full: u64,
    /// Frames read from the kernel and dropped: longer than the MTU when the port was opened.
    pub read_too_long: u64,
    /// Frames given to the kernel.
    pub written: u64,
    /// Frames that the kernel had no room for.
    pub write_full: u64,
    /// Frames that the kernel refused, for example since the interface is down.
    pub write_failed: u64,
    /// The error code (`errno`) that ended reading, if it has ended.
    pub reader_error: Option<i32>,
}

/// Reads the counters of a [`TapPort`].
#[derive(Clone, Debug)]
pub struct TapHandle {
    shared: Arc<Mutex<Shared>>,
}

impl TapHandle {
    /// What was counted so far.
    pub fn stats(&self) -> TapStats {
        lock(&self.shared).stats
    }
}

/// What was being done when a TAP could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TapStep {
    /// Opening `/dev/net/tun`, creating the interface and giving it its IPv4 address.
    Create,
    /// Setting the MTU.
    Mtu,
    /// Setting the MAC address.
    Mac,
    /// Bringing the interface up.
    Up,
    /// Asking for name, MTU or address.
    Query,
    /// Switching to non-blocking writes.
    NonBlocking,
    /// Starting the reader thread.
    Reader,
}

/// Why a TAP could not be made.
#[derive(Debug)]
pub struct TapError {
    step: TapStep,
    source: io::Error,
}

impl TapError {
    /// What was being done.
    pub fn step(&self) -> TapStep {
        self.step
    }

    /// Whether the caller is not allowed to: it needs root, or `CAP_NET_ADMIN`.
    pub fn is_missing_privilege(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    /// Whether there is no `/dev/net/tun`, or no driver behind it.
    pub fn is_missing_device(&self) -> bool {
        self.step == TapStep::Create && (self.source.kind() == io::ErrorKind::NotFound || self.is_no_such_device())
    }

    fn is_no_such_device(&self) -> bool {
        // ENXIO and ENODEV: the device node is there, the tun module is not.
        matches!(self.source.raw_os_error(), Some(6 | 19))
    }
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            TapStep::Create => "create the interface",
            TapStep::Mtu => "set its mtu",
            TapStep::Mac => "set its mac address",
            TapStep::Up => "bring it up",
            TapStep::Query => "read its settings",
            TapStep::NonBlocking => "make it non-blocking",
            TapStep::Reader => "start its reader",
        };
        write!(f, "tap: cannot {what}")?;
        if self.is_missing_privilege() {
            f.write_str(": needs root or CAP_NET_ADMIN, and /dev/net/tun")
        } else if self.is_missing_device() {
            f.write_str(": there is no /dev/net/tun, or the tun module is not loaded")
        } else {
            Ok(())
        }
    }
}

impl core::error::Error for TapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What port, reader and handle share.
struct Shared {
    queue: FrameQueue,
    host: Option<Waker>,
    stats: TapStats,
}

impl Shared {
    fn new(capacity: usize) -> Self {
        Self { queue: FrameQueue::new(capacity), host: None, stats: TapStats::default() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pending", &self.queue.len()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The thread that waits for the kernel.
struct Reader {
    device: Arc<SyncDevice>,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<InterruptEvent>,
    frame_bytes: usize,
}

impl Reader {
    fn run(self) {
        // One byte more than the longest frame: the kernel cuts what does not fit, and here that shows.
        let buffer_bytes = self.frame_bytes + 1;
        let mut buffer = vec![0; buffer_bytes];
        loop {
            match self.device.recv_intr(&mut buffer, &self.stop) {
                Ok(len) if len > self.frame_bytes => lock(&self.shared).stats.read_too_long += 1,
                Ok(len) => {
                    buffer.truncate(len);
                    buffer = self.queue(buffer);
                    buffer.resize(buffer_bytes, 0);
                }
                Err(_) if self.stop.is_trigger() => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    lock(&self.shared).stats.reader_error = error.raw_os_error();
                    return;
                }
            }
        }
    }

    /// Queues a frame, wakes the host, and returns a buffer for the next one.
    fn queue(&self, buffer: Vec<u8>) -> Vec<u8> {
        let mut shared = lock(&self.shared);
        let was_empty = shared.queue.is_empty();
        if shared.queue.push_buffer(buffer) {
            shared.stats.read += 1;
        } else {
            shared.stats.read_full += 1;
        }
        let next = shared.queue.take_spare();
        let host = if was_empty { shared.host.clone() } else { None };
        drop(shared);
        if let Some(host) = host {
            host.wake();
        }
        next
    }
}

/// Whether reading may go on after this error.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Locks; nothing panics under this lock, so poisoned state is still whole.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ethernet header and one VLAN tag.
const ETHERNET_AND_VLAN_BYTES: usize = 18;
