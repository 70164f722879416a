//! More channels for one adapter (type 133, version 5 and later).
//!
//! Request and answer share one type; who sent it tells which it is.
//!
//! Source: Linux `drivers/net/hyperv/rndis_filter.c` (`rndis_set_subchannel`).

use crate::{
    Status,
    field::{message, wire_newtype},
};

/// What a [`SubchannelRequest`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubchannelOperation(pub u32);

wire_newtype!(SubchannelOperation(u32));

impl SubchannelOperation {
    /// Allocate subchannels: the only operation there is.
    pub const ALLOCATE: Self = Self(1);
}

message! {
    /// Guest asks for subchannels.
    SubchannelRequest = SUBCHANNEL, 12 bytes {
        /// What to do.
        4 => operation: SubchannelOperation,
        /// Number of subchannels, the primary channel not counted.
        8 => count: u32,
    }
}

impl SubchannelRequest {
    /// Asks for `count` subchannels beside the primary channel.
    #[must_use]
    pub const fn allocate(count: u32) -> Self {
        Self { operation: SubchannelOperation::ALLOCATE, count }
    }
}

message! {
    /// Host answers [`SubchannelRequest`].
    ///
    /// DPDK refuses an answer of fewer than 40 bytes at every version, so a host does well to pad
    /// it to that.
    SubchannelComplete = SUBCHANNEL, 12 bytes {
        /// Whether the host grants any.
        4 => status: Status,
        /// Number of subchannels that the host will offer. A guest has to check it against its
        /// request.
        8 => count: u32,
    }
}
