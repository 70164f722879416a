//! What can go wrong on a queue.

use core::fmt;

use rndis::EmitError;
use vmbus::ErrorKind;
use vmbus::ring::{BadRing, RingError};

use crate::checksum::Uncomputable;
use crate::config::ConfigError;
use crate::segment::Unsegmentable;

/// The queue is unusable, or was used wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The channel's memory is no ring.
    BadRing(BadRing),
    /// The host wrote what cannot be in a ring. The channel has to be reopened.
    Ring(RingError),
    /// The host handed over more ranges of the receive buffer than it has. The channel has to be reopened.
    TooManyRanges {
        /// Ranges that wait or are to be acknowledged, with those of the packet at fault.
        value: usize,
        /// Sections of the receive buffer.
        limit: usize,
    },
    /// The doorbell failed.
    Doorbell {
        /// Who is at fault, by the backend's word.
        kind: ErrorKind,
    },
    /// [Settings](super::QueueSettings) that cannot be.
    Settings(ConfigError),
    /// A buffer that cannot be: a section size of 0 or below the protocol's minimum, more sections than bytes, or more bytes
    /// than the host can name.
    BadBuffer {
        /// Which property.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The bound that it broke.
        limit: usize,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRing(error) => error.fmt(f),
            Self::Ring(error) => error.fmt(f),
            Self::TooManyRanges { value, limit } => {
                write!(f, "host handed over {value} ranges of a receive buffer of {limit} sections")
            }
            Self::Doorbell { kind } => write!(f, "doorbell failed ({kind:?})"),
            Self::Settings(error) => error.fmt(f),
            Self::BadBuffer { field, value, limit } => write!(f, "{field} of {value} breaks the limit of {limit}"),
        }
    }
}

impl core::error::Error for QueueError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::BadRing(error) => Some(error),
            Self::Ring(error) => Some(error),
            Self::Settings(error) => Some(error),
            _ => None,
        }
    }
}

impl vmbus::Error for QueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadRing(_) | Self::Settings(_) | Self::BadBuffer { .. } => ErrorKind::Misuse,
            Self::Ring(_) | Self::TooManyRanges { .. } => ErrorKind::HostViolation,
            Self::Doorbell { kind } => *kind,
        }
    }
}

impl From<RingError> for QueueError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<ConfigError> for QueueError {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error)
    }
}

impl From<BadRing> for QueueError {
    fn from(error: BadRing) -> Self {
        Self::BadRing(error)
    }
}

/// A frame or message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// No room now, nothing was taken: wait for completions, or for room in the ring.
    Full,
    /// Longer than can ever be sent.
    TooLong {
        /// Its bytes: those of the frame where the MTU is the limit, otherwise with the headers of RNDIS.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// Shorter than an Ethernet header.
    TooShort {
        /// Its bytes.
        len: usize,
        /// Fewest bytes.
        minimum: usize,
    },
    /// A value of the [`TxMeta`](crate::meta::TxMeta) that cannot be written.
    BadMeta(EmitError),
    /// The frame is not one whose checksum can be computed as its metadata asks.
    Checksum(Uncomputable),
    /// The frame is not one that can be cut as its metadata asks.
    Segmentation(Unsegmentable),
    /// A frame with a pinned payload asks for work on it, or has an 802.1Q tag in band: only whole frames are worked on.
    NotPlain,
    /// The session in which the frame was received has ended: what was [held](super::held) of it cannot be read any more.
    Gone,
    /// There is neither a send section nor memory for GPA-direct sends: nothing is attached (any more).
    NotAttached,
    /// The queue is unusable.
    Queue(QueueError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room to send now"),
            Self::TooLong { len, limit } => write!(f, "message of {len} bytes exceeds the limit of {limit}"),
            Self::TooShort { len, minimum } => write!(f, "frame of {len} bytes is shorter than {minimum}"),
            Self::BadMeta(error) => error.fmt(f),
            Self::Checksum(error) => error.fmt(f),
            Self::Segmentation(error) => error.fmt(f),
            Self::NotPlain => f.write_str("frame with a pinned payload asks for work on it"),
            Self::Gone => f.write_str("the session in which the held frame was received has ended"),
            Self::NotAttached => f.write_str("no send buffer and no memory for direct sends"),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SendError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::BadMeta(error) => Some(error),
            Self::Checksum(error) => Some(error),
            Self::Segmentation(error) => Some(error),
            Self::Queue(error) => Some(error),
            _ => None,
        }
    }
}

impl vmbus::Error for SendError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Refused,
            Self::Gone => ErrorKind::Gone,
            Self::Queue(error) => error.kind(),
            _ => ErrorKind::Misuse,
        }
    }
}

impl From<Uncomputable> for SendError {
    fn from(error: Uncomputable) -> Self {
        Self::Checksum(error)
    }
}

impl From<Unsegmentable> for SendError {
    fn from(error: Unsegmentable) -> Self {
        Self::Segmentation(error)
    }
}

impl From<QueueError> for SendError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<RingError> for SendError {
    fn from(error: RingError) -> Self {
        Self::Queue(QueueError::Ring(error))
    }
}
