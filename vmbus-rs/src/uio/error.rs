//! What can go wrong below a device on `uio_hv_generic`.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::select::SelectError;
use super::sysfs::SysfsError;
use crate::bus::Purpose;
use crate::error::{Error, ErrorKind};
use crate::memory::OutOfBounds;
use crate::protocol::RelId;

/// What the operating system said: the part of an [`io::Error`] that can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemError {
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl SystemError {
    /// What kind it is.
    pub fn kind(self) -> io::ErrorKind {
        self.kind
    }

    /// The `errno`, if there was one.
    pub fn code(self) -> Option<i32> {
        self.code
    }
}

impl From<io::Error> for SystemError {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), code: error.raw_os_error() }
    }
}

impl From<io::ErrorKind> for SystemError {
    fn from(kind: io::ErrorKind) -> Self {
        Self { kind, code: None }
    }
}

impl From<nix::Error> for SystemError {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code).fmt(f),
            None => self.kind.fmt(f),
        }
    }
}

impl std::error::Error for SystemError {}

/// How a device went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoneReason {
    /// Its event count cannot be read any more: with `EIO` it was rescinded or removed.
    Unreadable(SystemError),
    /// The event count ended: who simulates the device has gone.
    EndOfFile,
    /// The event count came in pieces, as it does while some kernels take a device away.
    ShortRead {
        /// Bytes that came, of 4.
        bytes: usize,
    },
    /// The descriptor reports an error or hang-up and nothing else.
    HungUp,
    /// Whoever should drive the [`Reactor`](super::Reactor) dropped it.
    ReactorDropped,
}

impl fmt::Display for GoneReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "its events cannot be read: {error}"),
            Self::EndOfFile => f.write_str("the other side has ended"),
            Self::ShortRead { bytes } => write!(f, "an event count of {bytes} bytes was read, not 4"),
            Self::HungUp => f.write_str("its descriptor was hung up"),
            Self::ReactorDropped => f.write_str("its reactor was dropped"),
        }
    }
}

/// Why there is no memory for GPA-direct sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DirectRefusal {
    /// It is switched off ([`DirectPages::Off`](super::DirectPages::Off)).
    Off,
    /// There are not enough huge pages (`/proc/sys/vm/nr_hugepages`).
    NoPages(SystemError),
    /// `/proc/self/pagemap` cannot be read.
    NoPagemap(SystemError),
    /// `/proc/self/pagemap` keeps page numbers to itself: that takes CAP_SYS_ADMIN.
    Hidden,
    /// A page is not in memory.
    NotPresent {
        /// Its offset.
        offset: usize,
    },
}

impl fmt::Display for DirectRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("switched off"),
            Self::NoPages(error) => write!(f, "no huge pages (see /proc/sys/vm/nr_hugepages): {error}"),
            Self::NoPagemap(error) => write!(f, "/proc/self/pagemap: {error}"),
            Self::Hidden => f.write_str("/proc/self/pagemap hides page numbers: CAP_SYS_ADMIN is needed"),
            Self::NotPresent { offset } => write!(f, "the page at offset {offset} is not in memory"),
        }
    }
}

/// Why something cannot be done on a device on `uio_hv_generic`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UioError {
    /// No such device.
    Select(Box<SelectError>),
    /// The device cannot be read from sysfs.
    Sysfs(SysfsError),
    /// `/dev/uioN` cannot be opened.
    Open {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: SystemError,
    },
    /// Somebody else has the device open: another process would write to the same rings.
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The rings are not fresh: somebody else has the device open, or had, and still maps it.
    RingsInUse {
        /// Write index of the guest→host ring.
        write_index: u32,
        /// Read index of the host→guest ring.
        read_index: u32,
    },
    /// A map that every device has is not there.
    NoMap {
        /// Its name.
        name: &'static str,
    },
    /// A map of a size that cannot be.
    BadMap {
        /// Its name.
        name: &'static str,
        /// Bytes.
        size: u64,
    },
    /// A map cannot be mapped.
    Map {
        /// Its index.
        index: usize,
        /// What the system says.
        error: SystemError,
    },
    /// The system did not give what is needed to wait for events.
    System(SystemError),
    /// The device has no such buffer: it is not a NIC, or the kernel could not make it.
    NoBuffer(Purpose),
    /// The buffer was given already; there is one.
    BufferTaken(Purpose),
    /// GPA-direct sends are not possible here.
    NoDirectMemory(DirectRefusal),
    /// A request for no memory.
    Empty,
    /// The channel is not one of this device's.
    UnknownChannel(RelId),
    /// The channel is open already.
    AlreadyOpen(RelId),
    /// The device was closed: a new session needs a new [`UioBus`](super::UioBus).
    Closed,
    /// The device, or the channel, is gone.
    Gone(GoneReason),
    /// The host took the channel back.
    Rescinded(RelId),
    /// The channel has no monitor, and this kernel signals the host on none but the primary channel.
    NotSignalled(RelId),
    /// The host could not be signalled.
    Signal(SystemError),
}

impl fmt::Display for UioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Select(error) => error.fmt(f),
            Self::Sysfs(error) => error.fmt(f),
            Self::Open { path, error } => write!(f, "cannot open {}: {error}", path.display()),
            Self::InUse { path } => write!(f, "{} is open elsewhere", path.display()),
            Self::RingsInUse { write_index, read_index } => write!(
                f,
                "the rings are in use elsewhere: write index {write_index}, read index {read_index} of a fresh channel"
            ),
            Self::NoMap { name } => write!(f, "the device has no map {name}"),
            Self::BadMap { name, size } => write!(f, "map {name} has {size} bytes, which cannot be"),
            Self::Map { index, error } => write!(f, "cannot map map{index}: {error}"),
            Self::System(error) => write!(f, "cannot wait for events: {error}"),
            Self::NoBuffer(purpose) => write!(f, "the device has no buffer to {purpose:?}"),
            Self::BufferTaken(purpose) => write!(f, "the one buffer to {purpose:?} is taken"),
            Self::NoDirectMemory(refusal) => write!(f, "no memory for gpa-direct sends: {refusal}"),
            Self::Empty => f.write_str("memory of no bytes was asked for"),
            Self::UnknownChannel(channel) => write!(f, "channel {channel} was not offered"),
            Self::AlreadyOpen(channel) => write!(f, "channel {channel} is open already"),
            Self::Closed => f.write_str("the device was closed"),
            Self::Gone(reason) => write!(f, "the device is gone: {reason}"),
            Self::Rescinded(channel) => write!(f, "the host took channel {channel} back"),
            Self::NotSignalled(channel) => {
                write!(
                    f,
                    "channel {channel} has no monitor, and this kernel signals the host on the primary channel only"
                )
            }
            Self::Signal(error) => write!(f, "cannot signal the host: {error}"),
        }
    }
}

impl std::error::Error for UioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Select(error) => error.source(),
            Self::Sysfs(error) => error.source(),
            Self::Open { error, .. } | Self::Map { error, .. } | Self::System(error) | Self::Signal(error) => {
                Some(error)
            }
            _ => None,
        }
    }
}

impl Error for UioError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Gone(_) | Self::Closed | Self::Rescinded(_) => ErrorKind::Gone,
            Self::UnknownChannel(_) | Self::AlreadyOpen(_) | Self::Empty | Self::BufferTaken(_) => ErrorKind::Misuse,
            Self::NoDirectMemory(_) | Self::NoBuffer(_) => ErrorKind::Refused,
            _ => ErrorKind::System,
        }
    }
}

impl From<SysfsError> for UioError {
    fn from(error: SysfsError) -> Self {
        Self::Sysfs(error)
    }
}

impl From<SelectError> for UioError {
    fn from(error: SelectError) -> Self {
        Self::Select(Box::new(error))
    }
}

impl From<nix::Error> for UioError {
    fn from(error: nix::Error) -> Self {
        Self::System(error.into())
    }
}

impl From<OutOfBounds> for UioError {
    fn from(error: OutOfBounds) -> Self {
        Self::BadMap { name: "of rings or pages", size: error.size as u64 }
    }
}

/// Subchannels that did not come in time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingSubchannels {
    /// How many should have come.
    pub expected: usize,
    /// How many have.
    pub arrived: usize,
    /// Those that are there and cannot be used, and why.
    pub refused: Vec<(RelId, UioError)>,
}

impl fmt::Display for MissingSubchannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} subchannels have come", self.arrived, self.expected)?;
        for (relid, error) in &self.refused {
            write!(f, "; {relid}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for MissingSubchannels {}
