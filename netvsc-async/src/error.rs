//! What can go wrong above the core.

use netvsc::queue::{QueueError, SendError};
use vmbus::ErrorKind;

/// Why a queue did not do what it was asked to. `Clone`, since it is the same for everybody who uses the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No room for the frame now; nothing was taken.
    Full,
    /// The NIC was closed.
    Closed,
    /// The host took the channel away.
    Gone,
    /// The frame cannot be sent at all; the queue is unharmed.
    Send(SendError),
    /// The queue has ended: the host broke the protocol, or the doorbell failed.
    Queue(QueueError),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("no room to send now"),
            Self::Closed => f.write_str("the network adapter was closed"),
            Self::Gone => f.write_str("the host took the network adapter away"),
            Self::Send(error) => write!(f, "frame cannot be sent: {error}"),
            Self::Queue(error) => write!(f, "queue has ended: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full | Self::Closed | Self::Gone => None,
            Self::Send(error) => Some(error),
            Self::Queue(error) => Some(error),
        }
    }
}

impl vmbus::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Refused,
            Self::Closed | Self::Gone => ErrorKind::Gone,
            Self::Send(_) => ErrorKind::Misuse,
            Self::Queue(error) => vmbus::Error::kind(error),
        }
    }
}
