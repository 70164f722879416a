//! Why an adapter could not be bound or given back.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vmbus::ErrorKind;
use vmbus::guid::Guid;
use vmbus::uio::SysfsError;

use super::device::Carries;
use super::plan::Write;
use super::selector::NotFound;

/// Why an adapter could not be bound or given back. Nothing has changed, except where [`Self::NotUndone`] says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// This machine has no VMBus (no guest of Hyper-V, or sysfs is elsewhere), or a device cannot be read.
    Sysfs(SysfsError),
    /// A file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No adapter is what the selector means, or several are.
    NotFound(NotFound),
    /// The machine needs the adapter, and nobody insisted.
    Needed {
        /// The adapter.
        instance: Guid,
        /// Its interface.
        interface: Option<String>,
        /// What for.
        carries: Carries,
    },
    /// A driver is not loaded.
    DriverMissing {
        /// The driver, also its module's name.
        driver: &'static str,
    },
    /// The kernel refused a write.
    Write {
        /// The write.
        write: Write,
        /// What the kernel says.
        error: io::Error,
    },
    /// The kernel took every write, yet another driver or none has the device.
    NotTaken {
        /// The device.
        instance: Guid,
        /// The driver that was to have it.
        expected: String,
        /// The driver that has it.
        found: Option<String>,
    },
    /// The driver has the device but made no UIO node of it.
    NoNode {
        /// The device.
        instance: Guid,
    },
    /// The device has left the bus.
    Gone {
        /// The device.
        instance: Guid,
    },
    /// It failed halfway, and putting things back failed, too: the device is in between.
    NotUndone {
        /// Why it failed.
        cause: Box<BindError>,
        /// Why it could not be undone.
        undo: Box<BindError>,
    },
}

impl BindError {
    pub(super) fn read(path: &Path, error: io::Error) -> Self {
        Self::Read { path: path.to_owned(), error }
    }
}

impl From<SysfsError> for BindError {
    fn from(error: SysfsError) -> Self {
        Self::Sysfs(error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysfs(error) => error.fmt(f),
            Self::Read { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::NotFound(error) => error.fmt(f),
            Self::Needed { instance, interface, carries } => {
                let name = interface.as_deref().unwrap_or("-");
                write!(f, "{name} ({instance}) carries this machine's {carries}")
            }
            Self::DriverMissing { driver } => {
                write!(f, "the driver {driver} is not loaded; load it with: modprobe {driver}")
            }
            Self::Write { write, error } => {
                write!(f, "the kernel refused {:?} for {}: {error}", write.data, write.path.display())
            }
            Self::NotTaken { instance, expected, found } => {
                let found = found.as_deref().unwrap_or("no driver");
                write!(f, "{instance} was to go to {expected} but {found} has it")
            }
            Self::NoNode { instance } => write!(f, "{instance} is bound but has no uio node"),
            Self::Gone { instance } => write!(f, "{instance} has left the vmbus"),
            Self::NotUndone { cause, undo } => write!(f, "{cause}; undoing it failed, too: {undo}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sysfs(error) => Some(error),
            Self::NotFound(error) => Some(&error.error),
            Self::Read { error, .. } | Self::Write { error, .. } => Some(error),
            Self::NotUndone { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl vmbus::Error for BindError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::Misuse,
            Self::Needed { .. } => ErrorKind::Refused,
            Self::Gone { .. } => ErrorKind::Gone,
            Self::NotUndone { cause, .. } => cause.kind(),
            _ => ErrorKind::System,
        }
    }
}
