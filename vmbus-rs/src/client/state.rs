//! The states of the connection, of a channel and of lent memory.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::gpadl::{GpadlId, RangeList};
use crate::protocol::{ConnectionId, Context, Offer, OpenId, RelId, Version, VpIndex};

/// When an answer is late; `None` once that was reported.
pub(super) type Deadline = Option<Duration>;

/// The connection.
///
/// ```text
///                connect               VERSION_RESPONSE: supported
/// Disconnected ----------> Connecting -----------------------------> Connected
///   ^     ^                 |  |  ^                                      |
///   |     |     refused or  |  |  | not supported,                       | unload
///   |     +--- out of time -+  +--+ or id unknown: older version         v
///   +------------------------------ UNLOAD_RESPONSE ----------------- Unloading
/// ```
#[derive(Debug)]
pub(super) enum State {
    Disconnected,
    /// INITIATE_CONTACT is on its way.
    Connecting {
        version: Version,
        deadline: Duration,
    },
    Connected(Connection),
    /// UNLOAD is on its way; channels and memory are forgotten.
    Unloading {
        context: Context,
        message_connection: ConnectionId,
        deadline: Deadline,
    },
}

/// What exists while connected.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) context: Context,
    pub(super) message_connection: ConnectionId,
    pub(super) offers: Offers,
    /// At most one entry for each valid number, so at most 2047.
    pub(super) channels: BTreeMap<RelId, Channel>,
    /// Entries are made by the user only.
    pub(super) gpadls: BTreeMap<GpadlId, Gpadl>,
}

/// The first round of offers.
#[derive(Debug)]
pub(super) enum Offers {
    Requested { deadline: Deadline },
    Delivered,
}

/// A channel the host offered.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) offer: Offer,
    pub(super) state: ChannelState,
}

/// A channel's state.
///
/// ```text
///             open_channel            result: success
///  Offered ----------------> Opening -----------------> Open
///   |  ^  ^                   |   |                     |  |
///   |  |  +--- result: failure+   |                     |  |
///   |  +--------------------- close_channel ------------+  | rescind
///   | rescind                     | rescind                |
///   v                             v                        v
///  Rescinded { must_close: false }   <-- close_channel -- Rescinded { must_close: true }
///   | the user took the event
///   v
///  Releasing -- RELID_RELEASED was taken --> (no channel)
/// ```
#[derive(Debug)]
pub(super) enum ChannelState {
    Offered,
    /// OPENCHANNEL is on its way.
    Opening {
        open_id: OpenId,
        ring: GpadlId,
        target_vp: VpIndex,
        deadline: Deadline,
    },
    Open {
        ring: GpadlId,
        target_vp: VpIndex,
        modify: Option<Modify>,
    },
    /// The host took the offer back. The number is kept until the user knows.
    Rescinded {
        must_close: bool,
        told: bool,
    },
    /// RELID_RELEASED is the last message of the channel and waits to be sent.
    Releasing,
}

/// A MODIFYCHANNEL on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modify {
    pub(super) target_vp: VpIndex,
    pub(super) deadline: Deadline,
}

impl ChannelState {
    /// The state's name in errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Offered => "not open",
            Self::Opening { .. } => "opening",
            Self::Open { modify: None, .. } => "open",
            Self::Open { .. } => "moving its interrupts",
            Self::Rescinded { .. } => "rescinded",
            Self::Releasing => "released",
        }
    }

    /// Whether the host took the offer back.
    pub(super) fn is_rescinded(&self) -> bool {
        matches!(self, Self::Rescinded { .. } | Self::Releasing)
    }

    /// The memory that holds the rings, if the host may be using them.
    pub(super) fn ring(&self) -> Option<GpadlId> {
        match *self {
            Self::Opening { ring, .. } | Self::Open { ring, .. } => Some(ring),
            _ => None,
        }
    }
}

/// Memory lent to the host.
#[derive(Debug)]
pub(super) struct Gpadl {
    pub(super) relid: RelId,
    /// Pages it names.
    pub(super) pages: u64,
    pub(super) state: GpadlState,
}

/// State of lent memory.
///
/// ```text
///            GPADL_CREATED: success      teardown_gpadl
///  Creating -----------------------> Ready -----------> TearingDown -- GPADL_TORNDOWN --> (gone)
///     |                               |                     |
///     | failure, or rescind           | rescind             | rescind
///     v                               v                     v
///   (gone)                          Void -- teardown_gpadl -> (gone)
/// ```
#[derive(Debug)]
pub(super) enum GpadlState {
    /// The range list is on its way. It is kept until the answer, since the last message may have to be repeated.
    Creating {
        ranges: RangeList,
        /// All messages were taken for sending.
        sent: bool,
        deadline: Deadline,
    },
    Ready,
    TearingDown {
        deadline: Deadline,
    },
    /// The channel is gone, and with it the host's access; the user has not asked for the memory back yet.
    Void,
}

impl GpadlState {
    /// The state's name in errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Creating { .. } => "being created",
            Self::Ready => "in use",
            Self::TearingDown { .. } => "being torn down",
            Self::Void => "void",
        }
    }
}
