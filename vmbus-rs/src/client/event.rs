//! What the client tells its user.

use crate::gpadl::GpadlId;
use crate::protocol::{
    ConnectionState, FeatureFlags, MessageType, MonitorPages, Offer, RelId, Status, Version, VpIndex,
};
use crate::synic::HypercallStatus;

/// Something happened that the user has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The connection stands; the offers have been asked for.
    Connected {
        /// Its version.
        version: Version,
        /// The features in force.
        features: FeatureFlags,
        /// The host's monitor pages, to be used instead of the guest's own.
        monitor_pages: Option<MonitorPages>,
    },
    /// There is no connection; `connect` may be called again.
    ConnectFailed(ConnectFailure),
    /// A channel may be opened. Later ones may come at any time.
    Offered(Offer),
    /// All channels that existed when the connection was made were offered.
    AllOffersDelivered,
    /// The host has the memory.
    GpadlCreated {
        /// The channel.
        relid: RelId,
        /// The memory.
        gpadl: GpadlId,
    },
    /// The host does not have the memory; its id is gone.
    GpadlFailed {
        /// The channel.
        relid: RelId,
        /// The memory.
        gpadl: GpadlId,
        /// Why.
        reason: Failure,
    },
    /// The host does not touch the memory any more; its id is gone.
    GpadlTornDown {
        /// The channel.
        relid: RelId,
        /// The memory.
        gpadl: GpadlId,
        /// How that is known.
        cause: TornDown,
    },
    /// The channel runs. Interrupts may have come before.
    Opened {
        /// The channel.
        relid: RelId,
    },
    /// The channel does not run.
    OpenFailed {
        /// The channel.
        relid: RelId,
        /// Why.
        reason: Failure,
    },
    /// The channel goes away. Failures of whatever was waiting for the host came before this event.
    ///
    /// Once this event was taken, and the channel closed if it was open, the client releases the channel's number; the
    /// host may then offer another channel under it.
    Rescinded {
        /// The channel.
        relid: RelId,
        /// The channel is open: stop using its rings, then call `close_channel`.
        must_close: bool,
    },
    /// The interrupts of a channel were moved, or not.
    ModifyDone {
        /// The channel.
        relid: RelId,
        /// The processor asked for.
        target_vp: VpIndex,
        /// What came of it.
        outcome: ModifyOutcome,
    },
    /// The connection is closed, and the host touches no memory any more.
    Unloaded,
    /// An answer is late. It still counts when it comes: what the host may have done cannot be assumed undone.
    TimedOut(Exchange),
    /// A message that has no answer to fail could not be posted; memory it was about has to be leaked.
    NotSent {
        /// The message.
        message: MessageType,
        /// The channel it was about.
        relid: Option<RelId>,
        /// The memory it was about.
        gpadl: Option<GpadlId>,
        /// What the hypercall returned.
        status: HypercallStatus,
    },
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The host speaks none of the versions allowed.
    NoCommonVersion,
    /// The host speaks the version and refused the connection.
    Refused {
        /// The version.
        version: Version,
        /// The host's reason.
        state: ConnectionState,
    },
    /// The host did not answer.
    TimedOut {
        /// The version asked for.
        version: Version,
    },
    /// INITIATE_CONTACT could not be posted.
    NotSent {
        /// What the hypercall returned.
        status: HypercallStatus,
    },
}

/// Why something asked for will not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The host said no.
    Refused(Status),
    /// The channel was rescinded first.
    Rescinded,
    /// The message could not be posted.
    NotSent(HypercallStatus),
}

/// How it is known that the host does not touch memory any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornDown {
    /// The host said so.
    Acknowledged,
    /// Its channel was rescinded, after which the host uses none of it. Linux, too, waits for no answer then.
    Rescinded,
}

/// What came of moving a channel's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModifyOutcome {
    /// Moved; the old processor sees no further interrupt.
    Moved,
    /// Asked for on a connection below 5.3, where no answer comes: the old processor may see interrupts for a while.
    Unacknowledged,
    /// Not moved.
    Failed(Failure),
}

/// A question to the host whose answer is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exchange {
    /// REQUESTOFFERS, to be answered by ALLOFFERS_DELIVERED.
    Offers,
    /// GPADL_HEADER and bodies.
    CreateGpadl {
        /// The channel.
        relid: RelId,
        /// The memory.
        gpadl: GpadlId,
    },
    /// GPADL_TEARDOWN.
    TearDownGpadl {
        /// The channel.
        relid: RelId,
        /// The memory.
        gpadl: GpadlId,
    },
    /// OPENCHANNEL.
    Open {
        /// The channel.
        relid: RelId,
    },
    /// MODIFYCHANNEL.
    Modify {
        /// The channel.
        relid: RelId,
    },
    /// UNLOAD.
    Unload,
}
