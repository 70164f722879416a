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
//! Frames are read when the port is polled, so that what has arrived comes before whatever is looked at afterwards; the
//! kernel keeps them until then. A thread does nothing but wake the host when there are any.
//!
//! Source: Linux `packet(7)`; `drivers/net/veth.c`.

use core::fmt;
use core::task::Waker;
use core::time::Duration;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg, send,
    setsockopt, socket, sockopt,
};

use super::{Frame, Port};

/// Settings of a [`PacketPort`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    interface: String,
    mtu: u16,
}

impl PacketConfig {
    /// The interface of this name, in the network namespace of the thread that opens the port. Its MTU is 1500.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self { interface: interface.into(), mtu: 1500 }
    }

    /// The MTU in bytes, without the Ethernet header. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }
}

/// An interface, by a packet socket.
pub struct PacketPort {
    socket: Arc<OwnedFd>,
    shared: Arc<Mutex<Shared>>,
    /// Has the watcher look again, or end.
    bell: Arc<EventFd>,
    watcher: Option<JoinHandle<()>>,
    /// The frame that is being read, and one byte more: the kernel cuts what does not fit, and there that shows.
    buffer: Vec<u8>,
    /// What the kernel says beside it.
    beside: Vec<u8>,
    /// Frames that the kernel had no room for so far, as it said last.
    dropped: u32,
    /// The interface's.
    index: usize,
    /// The interface went down, and may be gone: what was received by then can still be read.
    down: Option<Down>,
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
        // Has it say with each frame how many it had no room for before.
        setsockopt(&socket, sockopt::RxqOvfl, &1).map_err(at(PacketStep::Buffer))?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = Arc::new(bell.map_err(at(PacketStep::Watcher))?);
        let shared = Arc::<Mutex<Shared>>::default();
        let watcher = Watcher { socket: Arc::clone(&socket), bell: Arc::clone(&bell), shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name(format!("{}-watcher", config.interface));
        let thread = thread.spawn(move || watcher.run()).map_err(|error| PacketPortError {
            step: PacketStep::Watcher,
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })?;
        Ok(Self {
            socket,
            shared,
            bell,
            watcher: Some(thread),
            buffer: vec![0; usize::from(config.mtu) + ETHERNET_AND_VLAN_BYTES + 1],
            beside: cmsg_space!(u32),
            dropped: 0,
            index: address.ifindex(),
            down: None,
            interface: config.interface,
        })
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
        let limit = self.buffer.len() - 1;
        let (mut given, mut skipped, mut too_long) = (0, 0, 0);
        let mut end = None;
        while given + skipped < budget && end.is_none() {
            match self.read() {
                Ok(Read::Foreign) => skipped += 1,
                Ok(Read::Frame(len)) if len > limit => {
                    skipped += 1;
                    too_long += 1;
                }
                Ok(Read::Frame(len)) => {
                    // Nothing of before was left, so it is up again.
                    self.down = self.down.filter(|down| !down.emptied);
                    given += 1;
                    out(Frame::new(&self.buffer[..len]));
                }
                Err(Errno::EINTR) => {}
                // Said once, when the interface goes down or away; what was received by then can still be read.
                Err(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => {
                    self.down = Some(Down { emptied: false });
                }
                Err(error) => end = Some(error),
            }
        }
        // Whether it is gone, or only down, is asked when nothing is left: it takes the kernel a while.
        let gone = end.is_some() && self.down.is_some() && !exists(self.index);
        if let Some(down) = &mut self.down {
            down.emptied |= end.is_some();
        }
        let mut shared = lock(&self.shared);
        shared.stats.read += given as u64;
        shared.stats.read_too_long += too_long;
        shared.stats.read_full = u64::from(self.dropped);
        shared.stats.over |= gone || end.is_some_and(|error| error != Errno::EAGAIN);
        drop(shared);
        // Those passed over count as well: there may be more, and the budget is what the caller has time for.
        if end.is_none() { budget } else { given }
    }

    fn register_waker(&mut self, waker: &Waker) {
        let mut shared = lock(&self.shared);
        if !shared.host.as_ref().is_some_and(|known| known.will_wake(waker)) {
            shared.host = Some(waker.clone());
        }
        // Nothing comes any more: a socket without an interface would be readable for ever.
        if !shared.stats.over {
            drop(shared);
            // It can fail only when it has been rung more often than can be counted.
            let _ = self.bell.write(1);
        }
    }

    /// While the interface is down: nothing tells when it goes.
    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        (self.down.is_some() && !self.is_over()).then_some(DOWN_LOOK)
    }

    fn is_over(&self) -> bool {
        lock(&self.shared).stats.over
    }
}

/// What was read.
enum Read {
    /// A frame of so many bytes, or of more than there is room for.
    Frame(usize),
    /// Of another interface, or one that the kernel sends.
    Foreign,
}

impl PacketPort {
    /// Reads a frame into the buffer.
    fn read(&mut self) -> Result<Read, Errno> {
        let mut buffer = [IoSliceMut::new(&mut self.buffer)];
        let message =
            recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer, Some(&mut self.beside), MsgFlags::MSG_DONTWAIT)?;
        for said in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::RxqOvfl(dropped) = said {
                self.dropped = dropped;
            }
        }
        let foreign = message.address.is_some_and(|from| from.ifindex() != self.index || from.pkttype() == OUTGOING);
        Ok(if foreign { Read::Foreign } else { Read::Frame(message.bytes) })
    }
}

/// An interface that went down.
#[derive(Debug, Clone, Copy)]
struct Down {
    /// All that had been received by then was read.
    emptied: bool,
}

/// Whether there is an interface of this index, be it down or up. The kernel looks without waiting for whoever is changing its
/// interfaces, as it would before listing them.
fn exists(index: usize) -> bool {
    // Of one that does not exist the name may be empty: not every release of `nix` makes an error of it.
    u32::try_from(index).is_ok_and(|index| if_indextoname(index).is_ok_and(|name| !name.is_empty()))
}

impl Drop for PacketPort {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        // If the watcher cannot be told, waiting for it would not end.
        if self.bell.write(1).is_ok()
            && let Some(thread) = self.watcher.take()
        {
            // A watcher that panicked has nothing left to stop.
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
    /// Frames received and given to the host.
    pub read: u64,
    /// Frames received and dropped: longer than the MTU.
    pub read_too_long: u64,
    /// Frames that the kernel dropped because they were not read in time; known once a later one was read.
    pub read_full: u64,
    /// Frames given to the kernel.
    pub written: u64,
    /// Frames that the kernel had no room for.
    pub write_full: u64,
    /// Frames that the kernel refused, for example since the interface is down or gone.
    pub write_failed: u64,
    /// The interface is gone, or reading failed for good; everything that had been received was given to the host.
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
    /// Starting the thread that wakes the host.
    Watcher,
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
            PacketStep::Watcher => "packet port: cannot start its watcher",
        })?;
        if self.is_missing_privilege() { f.write_str(": needs root or CAP_NET_RAW") } else { Ok(()) }
    }
}

impl core::error::Error for PacketPortError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// What port, watcher and handle share.
#[derive(Default)]
struct Shared {
    host: Option<Waker>,
    stats: PacketStats,
    stop: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The thread that waits for frames when the host is about to sleep, and wakes it.
struct Watcher {
    socket: Arc<OwnedFd>,
    bell: Arc<EventFd>,
    shared: Arc<Mutex<Shared>>,
}

impl Watcher {
    fn run(self) {
        loop {
            // Rung each time that the host is about to sleep, and at the end.
            if !self.wait_for_bell() || lock(&self.shared).stop {
                return;
            }
            let mut sources = [self.socket.as_fd(), self.bell.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if !wait_for(&mut sources) {
                return;
            }
            if sources[0].any() == Some(true) {
                let host = lock(&self.shared).host.clone();
                if let Some(host) = host {
                    host.wake();
                }
            }
        }
    }

    fn wait_for_bell(&self) -> bool {
        let rung = wait_for(&mut [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)]);
        // All of its rings at once.
        rung && self.bell.read().is_ok()
    }
}

/// Waits for one of these; false if that is not possible.
fn wait_for(sources: &mut [PollFd<'_>]) -> bool {
    loop {
        match poll(sources, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => return result.is_ok(),
        }
    }
}

/// Locks; nothing panics under this lock, so poisoned state is still whole.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ethernet header and one VLAN tag.
const ETHERNET_AND_VLAN_BYTES: usize = 18;
/// What the kernel keeps while the reader does not run.
const RECEIVE_BYTES: usize = 16 << 20;
/// Between two looks whether an interface that is down is gone.
const DOWN_LOOK: Duration = Duration::from_millis(20);
/// `PACKET_OUTGOING`: a frame of this machine's.
const OUTGOING: u8 = 4;
