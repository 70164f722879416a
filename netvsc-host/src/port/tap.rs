//! A Linux TAP interface as a port of the switch: the guest meets the kernel's TCP/IP.
//!
//! The kernel interface is `/dev/net/tun` with `IFF_TAP | IFF_NO_PI` (Linux `Documentation/networking/tuntap.rst`): one
//! read or write is one Ethernet frame. The interface goes away with the port.
//!
//! A TAP cannot wake a `Waker`, so one thread per port blocks in `poll(2)` on it, fills a bounded queue of recycled
//! buffers and wakes the host. Frames to the TAP are written by the host itself; what the kernel does not take at once is
//! dropped and counted.
//!
//! With [`vnet_hdr`](TapConfig::vnet_hdr) the kernel's large frames and unfinished checksums come and go as they are
//! (`IFF_VNET_HDR`). With several [queues](TapConfig::queues) there is a thread for each, and the kernel keeps a flow on
//! the queue that its frames come from.

use core::fmt;
use core::net::Ipv4Addr;
use core::task::Waker;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tun_rs::{DeviceBuilder, InterruptEvent, Layer, SyncDevice};

use super::buffers::FrameQueue;
use super::{Frame, Port, PortOffloads};
use crate::offload::headers::Headers;

mod vnet;

/// Settings of a [`TapPort`].
#[derive(Clone, Debug, Default)]
pub struct TapConfig {
    name: Option<String>,
    mtu: Option<u16>,
    mac: Option<[u8; 6]>,
    ipv4: Option<(Ipv4Addr, u8)>,
    capacity: Option<usize>,
    queues: Option<u16>,
    vnet_hdr: bool,
    plain_writes: bool,
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

    /// How many queues the interface has (`IFF_MULTI_QUEUE`), 1 to 64. Default 1.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = Some(queues.clamp(1, MAX_QUEUES));
        self
    }

    /// Whether large frames and unfinished checksums of the kernel come as they are (`IFF_VNET_HDR`), and those of guests
    /// go to it as they are. Default false: then the kernel finishes its frames, and the switch those of guests.
    #[must_use]
    pub fn vnet_hdr(mut self, on: bool) -> Self {
        self.vnet_hdr = on;
        self
    }

    /// With [`vnet_hdr`](Self::vnet_hdr): whether large frames of guests go to the kernel as they are, or cut and with
    /// checksums, as they would be on a wire. Default true.
    #[must_use]
    pub fn large_writes(mut self, on: bool) -> Self {
        self.plain_writes = !on;
        self
    }
}

/// A TAP interface, up and ready.
pub struct TapPort {
    /// One for each queue.
    devices: Vec<Arc<SyncDevice>>,
    shared: Arc<Mutex<Shared>>,
    readers: Vec<Reading>,
    vnet_hdr: bool,
    takes: PortOffloads,
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
        let queues = config.queues.unwrap_or(1);
        let mut builder = DeviceBuilder::new().layer(Layer::L2).enable(false);
        // What the crate calls offload is the header before each frame, with all that may be in it turned on.
        builder = builder.offload(config.vnet_hdr).multi_queue(queues > 1);
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
        let large = config.vnet_hdr && !config.plain_writes;
        let takes = PortOffloads {
            checksum: large,
            tcp_ipv4: large,
            tcp_ipv6: large,
            udp: large && device.udp_gso(),
            // The kernel looks for the transport behind the Ethernet header.
            tagged: false,
        };
        let mut devices = vec![device];
        for _ in 1..queues {
            devices.push(devices[0].try_clone().map_err(at(TapStep::Queue))?);
        }
        let devices: Vec<_> = devices.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Mutex::new(Shared::new(config.capacity.unwrap_or(Self::DEFAULT_CAPACITY))));
        let frame_bytes = match config.vnet_hdr {
            true => vnet::HEADER_BYTES + LARGE_FRAME_BYTES,
            false => usize::from(mtu) + ETHERNET_AND_VLAN_BYTES,
        };
        // Made one by one: those that run already stop when the port is dropped.
        let readers = Vec::with_capacity(devices.len());
        let mut port =
            Self { devices, shared, readers, vnet_hdr: config.vnet_hdr, takes, batch: Vec::new(), name, mac };
        for (number, device) in port.devices.iter().enumerate() {
            // Writes must never block the host, and reads come after a poll.
            device.set_nonblocking(true).map_err(at(TapStep::NonBlocking))?;
            let stop = Arc::new(InterruptEvent::new().map_err(at(TapStep::Reader))?);
            let reader = Reader {
                device: Arc::clone(device),
                shared: Arc::clone(&port.shared),
                stop: Arc::clone(&stop),
                frame_bytes,
            };
            let thread = thread::Builder::new().name(format!("{}-reader-{number}", port.name));
            let thread = thread.spawn(move || reader.run()).map_err(at(TapStep::Reader))?;
            port.readers.push(Reading { stop, thread });
        }
        Ok(port)
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

    /// The queue that a frame is written to: the same for all of a flow.
    fn queue(&self, frame: &[u8]) -> usize {
        if self.devices.len() == 1 {
            return 0;
        }
        let Some(headers) = Headers::parse(frame) else { return 0 };
        let ports = frame.get(headers.transport..headers.transport + 4).filter(|_| !headers.fragment).unwrap_or(&[]);
        let parts = headers.addresses(frame).iter().chain(ports);
        // FNV-1a.
        let hash = parts.fold(0x811C_9DC5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash as usize % self.devices.len()
    }

    /// A view of the counters that stays when the port is given to a switch.
    pub fn handle(&self) -> TapHandle {
        TapHandle { shared: Arc::clone(&self.shared) }
    }
}

impl Port for TapPort {
    fn offloads(&self) -> PortOffloads {
        self.takes
    }

    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let device = &self.devices[self.queue(frame.bytes)];
        let header = if self.vnet_hdr { vnet::header(&frame) } else { [0; vnet::HEADER_BYTES] };
        let result = loop {
            let written = if self.vnet_hdr {
                device.send_vectored(&[io::IoSlice::new(&header), io::IoSlice::new(frame.bytes)])
            } else {
                device.send(frame.bytes)
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let mut shared = lock(&self.shared);
        match &result {
            Ok(_) => {
                shared.stats.written += 1;
                shared.stats.written_large += u64::from(frame.meta.segment.is_some());
            }
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
        let (mut large, mut unknown) = (0, 0);
        for bytes in &self.batch {
            let frame = if self.vnet_hdr { vnet::read(bytes) } else { Some(Frame::new(bytes)) };
            match frame {
                Some(frame) => {
                    large += u64::from(frame.meta.segment.is_some());
                    out(frame);
                }
                None => unknown += 1,
            }
        }
        let given = self.batch.len();
        let mut shared = lock(&self.shared);
        shared.stats.read_large += large;
        shared.stats.read_unknown += unknown;
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
        for Reading { stop, thread } in self.readers.drain(..) {
            // If a reader cannot be told to stop, waiting for it would not end; it then lives on until the TAP fails.
            if stop.trigger().is_ok() {
                // A reader that panicked has nothing left to stop.
                let _ = thread.join();
            }
        }
    }
}

/// A thread that reads a queue.
struct Reading {
    stop: Arc<InterruptEvent>,
    thread: JoinHandle<()>,
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
    /// Large frames that came from the kernel as they were, among those given to the switch.
    pub read_large: u64,
    /// Frames read from the kernel and dropped: they ask for what was not turned on.
    pub read_unknown: u64,
    /// Frames given to the kernel.
    pub written: u64,
    /// Large frames among them.
    pub written_large: u64,
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
    /// Adding a queue.
    Queue,
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
            TapStep::Queue => "add a queue",
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
        let mut buffer = vec![0; self.frame_bytes + 1];
        loop {
            match self.device.recv_intr(&mut buffer, &self.stop) {
                Ok(len) if len > self.frame_bytes => lock(&self.shared).stats.read_too_long += 1,
                Ok(len) => self.queue(&buffer[..len]),
                Err(_) if self.stop.is_trigger() => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    lock(&self.shared).stats.reader_error = error.raw_os_error();
                    return;
                }
            }
        }
    }

    /// Queues a frame, and wakes the host.
    fn queue(&self, bytes: &[u8]) {
        let mut shared = lock(&self.shared);
        let was_empty = shared.queue.is_empty();
        if shared.queue.push(bytes) {
            shared.stats.read += 1;
        } else {
            shared.stats.read_full += 1;
        }
        let host = if was_empty { shared.host.clone() } else { None };
        drop(shared);
        if let Some(host) = host {
            host.wake();
        }
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
/// Largest frame with a large IP packet in it, and two VLAN tags.
const LARGE_FRAME_BYTES: usize = 0xFFFF + 14 + 8;
/// Most queues of an interface that are of use: as many as a NIC has.
const MAX_QUEUES: u16 = 64;
