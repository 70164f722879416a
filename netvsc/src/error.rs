//! What goes wrong with a device as a whole, and who is at fault.

use core::fmt;

use vmbus::ErrorKind;

use crate::config::ConfigError;
use crate::control::NotAccepted;
use crate::rss::RssError;

/// An error of [`Nic`](crate::Nic). What the *host* does wrong or refuses arrives as
/// [`Event::Failed`](crate::Event::Failed) instead, after everything was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicError<E> {
    /// The backend failed; the device is unusable.
    Bus(E),
    /// The device is not up, or not any more.
    NotReady,
    /// As many requests wait as may.
    TooManyRequests {
        /// How many.
        limit: usize,
    },
    /// These settings of receive side scaling cannot be.
    Rss(RssError),
    /// These parameters cannot be.
    Config(ConfigError),
    /// The device is being changed: ask again when that is over.
    Busy,
}

impl<E: vmbus::Error> NicError<E> {
    /// Who is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Bus(error) => error.kind(),
            Self::NotReady | Self::TooManyRequests { .. } | Self::Rss(_) | Self::Config(_) | Self::Busy => {
                ErrorKind::Misuse
            }
        }
    }
}

impl<E> From<NotAccepted> for NicError<E> {
    fn from(error: NotAccepted) -> Self {
        match error {
            NotAccepted::NotReady => Self::NotReady,
            NotAccepted::TooMany { limit } => Self::TooManyRequests { limit },
            NotAccepted::Rss(error) => Self::Rss(error),
            NotAccepted::Config(error) => Self::Config(error),
            NotAccepted::Busy => Self::Busy,
        }
    }
}

impl<E: fmt::Display> fmt::Display for NicError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => write!(f, "bus: {error}"),
            Self::NotReady => f.write_str("the device is not up"),
            Self::Rss(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Busy => f.write_str("the device is being changed"),
            Self::TooManyRequests { limit } => write!(f, "{limit} requests are waiting already"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for NicError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bus(error) => Some(error),
            Self::Rss(error) => Some(error),
            Self::Config(error) => Some(error),
            Self::NotReady | Self::TooManyRequests { .. } | Self::Busy => None,
        }
    }
}
