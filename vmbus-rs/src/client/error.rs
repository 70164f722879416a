//! What the host did wrong, and what the user did wrong.

use core::fmt;

use crate::error::ErrorKind;
use crate::gpadl::{GpaRangeError, GpadlId};
use crate::guid::Guid;
use crate::protocol::{FeatureFlags, MessageType, ParseError, RelId, Version};

/// The host broke the protocol. The message at fault had no effect, and the client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are no message of this connection.
    Malformed(ParseError),
    /// Only guests send this message.
    WrongDirection {
        /// The message.
        message: MessageType,
    },
    /// An offer has a number that no channel can have.
    RelIdOutOfRange {
        /// The number.
        relid: RelId,
        /// Largest number.
        limit: RelId,
    },
    /// An offer has the number of a channel that still exists, or was not released.
    DuplicateRelId {
        /// The number.
        relid: RelId,
    },
    /// An offer has the identity of a channel that still exists.
    DuplicateChannel {
        /// The new offer.
        relid: RelId,
        /// The channel that exists.
        existing: RelId,
        /// The device.
        instance_id: Guid,
        /// Which of its channels.
        sub_channel_index: u16,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Malformed(_) => f.write_str("control message is malformed"),
            Self::WrongDirection { message } => write!(f, "host sent {message}"),
            Self::RelIdOutOfRange { relid, limit } => {
                write!(f, "offer has child_relid {relid}, limit {limit}")
            }
            Self::DuplicateRelId { relid } => {
                write!(f, "offer has child_relid {relid}, which is in use")
            }
            Self::DuplicateChannel { relid, existing, instance_id, sub_channel_index } => write!(
                f,
                "offer {relid} repeats channel {sub_channel_index} of {instance_id}, \
                 which is channel {existing}"
            ),
        }
    }
}

impl core::error::Error for Violation {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            _ => None,
        }
    }
}

impl crate::error::Error for Violation {
    fn kind(&self) -> ErrorKind {
        ErrorKind::HostViolation
    }
}

impl From<ParseError> for Violation {
    fn from(error: ParseError) -> Self {
        Self::Malformed(error)
    }
}

/// A request cannot be made now. Nothing was changed or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection.
    NotConnected,
    /// There is a connection, or one is being made or closed.
    AlreadyConnected,
    /// No channel has this number.
    UnknownChannel {
        /// The number.
        relid: RelId,
    },
    /// The channel was rescinded.
    Rescinded {
        /// The channel.
        relid: RelId,
    },
    /// The channel is in a state in which this cannot be asked for.
    WrongState {
        /// The channel.
        relid: RelId,
        /// Its state.
        state: &'static str,
    },
    /// No memory has this id.
    UnknownGpadl {
        /// The id.
        gpadl: GpadlId,
    },
    /// The memory is in a state in which this cannot be asked for.
    GpadlBusy {
        /// The memory.
        gpadl: GpadlId,
        /// Its state.
        state: &'static str,
    },
    /// The memory belongs to another channel.
    ForeignGpadl {
        /// The memory.
        gpadl: GpadlId,
        /// The channel it belongs to.
        owner: RelId,
    },
    /// The host-to-guest ring would not start inside the memory and behind its first page.
    RingOffset {
        /// The offset in pages.
        downstream_page_offset: u32,
        /// Pages of the memory.
        pages: u64,
    },
    /// The list of ranges is empty.
    Ranges(GpaRangeError),
    /// Interrupts can neither be disabled nor enabled by moving them.
    TargetVp {
        /// The channel.
        relid: RelId,
    },
    /// The connection is too old.
    NeedsVersion {
        /// Lowest version that can do it.
        needed: Version,
        /// Version of the connection.
        version: Version,
    },
    /// The connection lacks a feature.
    NeedsFeature {
        /// The feature.
        needed: FeatureFlags,
        /// The features in force.
        features: FeatureFlags,
    },
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotConnected => f.write_str("not connected"),
            Self::AlreadyConnected => f.write_str("already connected"),
            Self::UnknownChannel { relid } => write!(f, "there is no channel {relid}"),
            Self::Rescinded { relid } => write!(f, "channel {relid} was rescinded"),
            Self::WrongState { relid, state } => write!(f, "channel {relid} is {state}"),
            Self::UnknownGpadl { gpadl } => write!(f, "there is no gpadl {gpadl}"),
            Self::GpadlBusy { gpadl, state } => write!(f, "gpadl {gpadl} is {state}"),
            Self::ForeignGpadl { gpadl, owner } => {
                write!(f, "gpadl {gpadl} belongs to channel {owner}")
            }
            Self::RingOffset { downstream_page_offset, pages } => {
                write!(f, "downstream_page_offset is {downstream_page_offset}, the gpadl has {pages} pages")
            }
            Self::Ranges(_) => f.write_str("ranges cannot be lent"),
            Self::TargetVp { relid } => {
                write!(f, "interrupts of channel {relid} cannot be disabled or enabled")
            }
            Self::NeedsVersion { needed, version } => {
                write!(f, "needs version {needed}, connection has {version}")
            }
            Self::NeedsFeature { needed, features } => {
                write!(f, "needs feature {:#x}, connection has {:#x}", needed.0, features.0)
            }
        }
    }
}

impl core::error::Error for RequestError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Ranges(error) => Some(error),
            _ => None,
        }
    }
}

impl crate::error::Error for RequestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotConnected | Self::UnknownChannel { .. } | Self::Rescinded { .. } => ErrorKind::Gone,
            Self::NeedsVersion { .. } | Self::NeedsFeature { .. } => ErrorKind::Refused,
            _ => ErrorKind::Misuse,
        }
    }
}
