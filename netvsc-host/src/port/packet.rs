//! A network interface of this machine as a port of the switch, by a packet socket (`AF_PACKET`): for one that is not made
//! here, as a [TAP](super::TapPort) is, or that must be a certain kind, such as one end of a veth pair.
//!
//! The port has the interface for itself: the kernel must not answer on it (no addresses, no IPv6, no ARP). Frames that the
//! kernel sends by it are not taken for frames from outside.
//!
//! What comes out of the port is as it is on a wire, and so has to be what goes in: on a veth pair the other end must neither
//! leave checksums to be computed nor send large frames, since nothing between the two would do it. (A kernel that sends by the
//! other end is told so by `ethtool -K … tx off gso off tso off`; packet sockets and XDP do neither.) Frames that are longer
//! than the MTU allows are dropped and counted.
//!
//! Source: Linux `packet(7)`; `drivers/net/veth.c`.

use core::fmt;
use core::task::Waker;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket,
    sockopt,
};

use super::buffers::FrameQueue;
use super::{Frame, Port};

/// Settings of a [`PacketPort`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    interface: String,
    mtu: u16,
    capacity: usize,
}

impl PacketConfig {
    /// The interface of this name, in the network namespace of the thread that opens the port. Its MTU is 1500.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self { interface: interface.into(), mtu: 1500, capacity: 8192 }
    }

    /// The MTU in bytes, without the Ethernet header. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// How many frames from the interface wait for the host at most; more are dropped and counted. Default 8192.
    #[must_use]
    pub fn capacity(mut self, frames: usize) -> Self {
        self.capacity = frames;
        self
    }
}

/// An interface, by a packet socket.
pub struct PacketPort {
    socket: Arc<OwnedFd>,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<EventFd>,
    reader: Option<JoinHandle<()>>,
    /// Frames taken out under one lock and given to the switch without it.
    batch: Vec<Vec<u8>>,
    interface: String,
}

impl PacketPort {
    /// Opens it. The interface must be up to carry anything.
    ///
    /// # Errors
    /// [`PacketPortError`]: there is no such interface, or `CAP_NET_RAW` is missing.
    pub fn open(config: PacketConfig) -> Result<Self, PacketPortError> {
        let at = |step| move |errno| PacketPortError { step, errno };
        let address = link_address(&config.interface).map_err(at(PacketStep::Find))?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        let socket = Arc::new(socket.map_err(at(PacketStep::Create))?);
        // From here on it receives from this interface alone; what it has received by then is told by its index.
        bind(socket.as_raw_fd(), &address).map_err(at(PacketStep::Bind))?;
        // The limit of the system is for those who are not root.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BYTES).map_err(at(PacketStep::Buffer))?;
        }
        let stop = Arc::new(EventFd::new().map_err(at(PacketStep::Reader))?);
        let shared = Arc::new(Mutex::new(Shared::new(config.capacity)));
        let reader = Reader {
            socket: Arc::clone(&socket),
            stop: Arc::clone(&stop),
            shared: Arc::clone(&shared),
            index: address.ifindex(),
            frame_bytes: usize::from(config.mtu) + ETHERNET_AND_VLAN_BYTES,
        };
        let thread = thread::Builder::new().name(format!("{}-reader", config.interface));
        let thread = thread.spawn(move || reader.run()).map_err(|error| PacketPortError {
            step: PacketStep::Reader,
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })?;
        Ok(Self { socket, shared, stop, reader: Some(thread), batch: Vec::new(), interface: config.interface })
    }

    /// A view of the counters that stays when the port is given to a host.
    #[must_use]
    pub fn handle(&self) -> PacketHandle {
        PacketHandle { shared: Arc::clone(&self.shared) }
    }
}

/// The address of an interface, by which a packet socket is bound to it.
fn link_address(interface: &str) -> Result<LinkAddr, Errno> {
    let mut found = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    found.find_map(|entry| entry.address?.as_link_addr().copied()).ok_or(Errno::ENODEV)
}

impl Port for PacketPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let result = loop {
            match send(self.socket.as_raw_fd(), frame.bytes, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        let mut shared = lock(&self.shared);
        match &result {
            Ok(_) => shared.stats.written += 1,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => shared.stats.write_full += 1,
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
        let given = self.batch.len();
        self.batch.iter().for_each(|bytes| out(Frame::new(bytes)));
        let mut shared = lock(&self.shared);
        self.batch.drain(..).for_each(|bytes| shared.queue.recycle(bytes));
        given
    }

    fn register_waker(&mut self, waker: &Waker) {
        let mut shared = lock(&self.shared);
        if !shared.host.as_ref().is_some_and(|known| known.will_wake(waker)) {
            shared.host = Some(waker.clone());
        }
        if !shared.queue.is_empty() {
            waker.wake_by_ref();
        }
    }

    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        // Frames left over by a small budget: nothing wakes the host for them again.
        (!lock(&self.shared).queue.is_empty()).then_some(Duration::ZERO)
    }
}

impl Drop for PacketPort {
    fn drop(&mut self) {
        // If the reader cannot be told to stop, waiting for it would not end.
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.reader.take()
        {
            // A reader that panicked has nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for PacketPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketPort").field("interface", &self.interface).finish_non_exhaustive()
    }
}

/// Counters of a packet port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketStats {
    /// Frames received and queued for the host.
    pub read: u64,
    /// Frames received and dropped: the host was too slow.
    pub read_full: u64,
    /// Frames received and dropped: longer than the MTU.
    pub read_too_long: u64,
    /// Frames given to the kernel.
    pub written: u64,
    /// Frames that the kernel had no room for.
    pub write_full: u64,
    /// Frames that the kernel refused, for example since the interface is down or gone.
    pub write_failed: u64,
    /// The interface is gone, or reading failed for good; everything that had been received is queued.
    pub over: bool,
}

/// Reads the counters of a [`PacketPort`].
#[derive(Clone, Debug)]
pub struct PacketHandle {
    shared: Arc<Mutex<Shared>>,
}

impl PacketHandle {
    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> PacketStats {
        lock(&self.shared).stats
    }
}

/// What was being done when a packet port could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketStep {
    /// Looking for the interface.
    Find,
    /// Making the socket.
    Create,
    /// Binding it to the interface.
    Bind,
    /// Setting the size of its buffer.
    Buffer,
    /// Starting the reader thread.
    Reader,
}

/// Why a packet port could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketPortError {
    step: PacketStep,
    errno: Errno,
}

impl PacketPortError {
    /// What was being done.
    #[must_use]
    pub fn step(&self) -> PacketStep {
        self.step
    }

    /// Whether the caller is not allowed to: it needs root, or `CAP_NET_RAW`.
    #[must_use]
    pub fn is_missing_privilege(&self) -> bool {
        matches!(self.errno, Errno::EPERM | Errno::EACCES)
    }
}

impl fmt::Display for PacketPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.step {
            PacketStep::Find => "packet port: cannot find the interface",
            PacketStep::Create => "packet port: cannot make its socket",
            PacketStep::Bind => "packet port: cannot bind its socket to the interface",
            PacketStep::Buffer => "packet port: cannot set its buffer's size",
            PacketStep::Reader => "packet port: cannot start its reader",
        })?;
        if self.is_missing_privilege() { f.write_str(": needs root or CAP_NET_RAW") } else { Ok(()) }
    }
}

impl core::error::Error for PacketPortError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// What port, reader and handle share.
struct Shared {
    queue: FrameQueue,
    host: Option<Waker>,
    stats: PacketStats,
}

impl Shared {
    fn new(capacity: usize) -> Self {
        Self { queue: FrameQueue::new(capacity), host: None, stats: PacketStats::default() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pending", &self.queue.len()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The thread that waits for the kernel.
struct Reader {
    socket: Arc<OwnedFd>,
    stop: Arc<EventFd>,
    shared: Arc<Mutex<Shared>>,
    /// The interface's.
    index: usize,
    frame_bytes: usize,
}

impl Reader {
    fn run(self) {
        // One byte more than the longest frame: the kernel cuts what does not fit, and here that shows.
        let mut buffer = vec![0; self.frame_bytes + 1];
        let mut gone = false;
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.ifindex() != self.index || from.pkttype() == OUTGOING => {}
                Ok((len, _)) if len > self.frame_bytes => lock(&self.shared).stats.read_too_long += 1,
                Ok((len, _)) => self.queue(&buffer[..len]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if gone => break,
                Err(Errno::EAGAIN) => {
                    if !self.wait() {
                        return;
                    }
                }
                // Said once, when the interface goes down or away; what was received by then can still be read.
                Err(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => gone = link_is_gone(self.index),
                Err(_) => break,
            }
        }
        lock(&self.shared).stats.over = true;
    }

    /// Waits for frames; false if there is to be an end.
    fn wait(&self) -> bool {
        loop {
            let mut sources = [self.socket.as_fd(), self.stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut sources, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(_) => return false,
                Ok(_) => return !sources[1].any().unwrap_or(true),
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

/// Whether there is no interface of this index any more, and not only one that is down.
fn link_is_gone(index: usize) -> bool {
    let Ok(mut interfaces) = getifaddrs() else { return false };
    !interfaces.any(|entry| {
        entry.address.is_some_and(|address| address.as_link_addr().is_some_and(|link| link.ifindex() == index))
    })
}

/// Locks; nothing panics under this lock, so poisoned state is still whole.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ethernet header and one VLAN tag.
const ETHERNET_AND_VLAN_BYTES: usize = 18;
/// What the kernel keeps while the reader does not run.
const RECEIVE_BYTES: usize = 16 << 20;
/// `PACKET_OUTGOING`: a frame of this machine's.
const OUTGOING: u8 = 4;
