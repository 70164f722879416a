//! What goes wrong with a device as a whole, and who is at fault.

use core::fmt;

use vmbus::ErrorKind;

use crate::queue::QueueError;

/// An error of [`Nic`](crate::Nic) that ends it. What the *host* refuses arrives as
/// [`Event::Failed`](crate::Event::Failed) instead, after everything was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicError<E> {
    /// The backend failed.
    Bus(E),
    /// The primary channel's rings are unusable.
    Queue(QueueError),
    /// The device is not up, or not any more.
    NotReady,
    /// As many requests wait as may.
    TooManyRequests {
        /// How many.
        limit: usize,
    },
}

impl<E: vmbus::Error> NicError<E> {
    /// Who is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Bus(error) => error.kind(),
            Self::Queue(error) => vmbus::Error::kind(error),
            Self::NotReady | Self::TooManyRequests { .. } => ErrorKind::Misuse,
        }
    }
}

impl<E: fmt::Display> fmt::Display for NicError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => write!(f, "bus: {error}"),
            Self::Queue(error) => write!(f, "primary channel: {error}"),
            Self::NotReady => f.write_str("the device is not up"),
            Self::TooManyRequests { limit } => write!(f, "{limit} requests are waiting already"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for NicError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bus(error) => Some(error),
            Self::Queue(error) => Some(error),
            _ => None,
        }
    }
}
