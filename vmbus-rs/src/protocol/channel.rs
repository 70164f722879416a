//! Messages about one channel: opening, closing, moving, rescinding and releasing it.
//!
//! Source: Linux `drivers/hv/channel.c`, `channel_mgmt.c`; OpenVMM `vmbus_core/src/protocol.rs`.

use super::codec::{Reader, Writer, fixed_layout};
use super::{ConnectionId, Context, FeatureFlags, OpenId, ParseError, RelId, Status, Version};
use super::{USER_DEFINED_LEN, VpIndex};
use crate::gpadl::GpadlId;

fixed_layout! {
    /// RESCIND_CHANNELOFFER (type 2, host to guest): the channel goes away.
    pub struct Rescind {
        /// The channel.
        pub relid: RelId,
    }
}

/// OPENCHANNEL (type 5, guest to host).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenChannel {
    /// The channel.
    pub relid: RelId,
    /// Returned in the result. Linux sends the channel's number, OpenVMM's client 0.
    pub open_id: OpenId,
    /// GPADL that holds both rings.
    pub ring_gpadl: GpadlId,
    /// Where interrupts go, or [`VpIndex::INTERRUPTS_DISABLED`].
    pub target_vp: VpIndex,
    /// Where the host-to-guest ring starts, in 4 KiB pages from the start of the GPADL.
    pub downstream_page_offset: u32,
    /// For the device.
    pub user_data: [u8; USER_DEFINED_LEN],
    /// The longer form of version 6.0; there exactly when one of its two features is in force.
    pub signal: Option<SignalParameters>,
}

fixed_layout! {
    /// What OPENCHANNEL carries on top once GUEST_SPECIFIED_SIGNAL_PARAMETERS or CHANNEL_INTERRUPT_REDIRECTION is in force.
    pub struct SignalParameters {
        /// Where the guest will signal the host.
        pub connection_id: ConnectionId,
        /// Event flag by which the host signals the guest.
        pub event_flag: u16,
        /// Properties.
        pub flags: OpenFlags,
    }
}

/// Flags of the longer OPENCHANNEL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OpenFlags(pub u16);

impl OpenFlags {
    /// Interrupts go through the paravisor.
    pub const REDIRECT_INTERRUPT: Self = Self(0x1);
}

impl OpenChannel {
    /// Bytes of the shorter body, the header not counted.
    pub(crate) const BODY_LEN: usize = 140;

    /// The features that make the message longer.
    pub(crate) const SIGNAL_FEATURES: FeatureFlags =
        FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS.union(FeatureFlags::CHANNEL_INTERRUPT_REDIRECTION);

    pub(crate) fn read(reader: &mut Reader<'_>, context: Context) -> Result<Self, ParseError> {
        let long = context.version >= Version::V6_0 && context.features.intersects(Self::SIGNAL_FEATURES);
        Ok(Self {
            relid: reader.take("relid")?,
            open_id: reader.take("open_id")?,
            ring_gpadl: reader.take("ring_gpadl")?,
            target_vp: reader.take("target_vp")?,
            downstream_page_offset: reader.take("downstream_page_offset")?,
            user_data: reader.take("user_data")?,
            signal: if long { Some(SignalParameters::read(reader)?) } else { None },
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.relid);
        writer.put(self.open_id);
        writer.put(self.ring_gpadl);
        writer.put(self.target_vp);
        writer.put(self.downstream_page_offset);
        writer.put(self.user_data);
        if let Some(signal) = self.signal {
            signal.write(writer);
        }
    }
}

fixed_layout! {
    /// OPENCHANNEL_RESULT (type 6, host to guest).
    pub struct OpenResult {
        /// The channel.
        pub relid: RelId,
        /// As in the request.
        pub open_id: OpenId,
        /// Zero if the channel runs.
        pub status: Status,
    }
}

fixed_layout! {
    /// CLOSECHANNEL (type 7, guest to host). There is no answer.
    pub struct CloseChannel {
        /// The channel.
        pub relid: RelId,
    }
}

fixed_layout! {
    /// RELID_RELEASED (type 13, guest to host): the host may give the number to another channel.
    pub struct RelIdReleased {
        /// The channel that was rescinded.
        pub relid: RelId,
    }
}

fixed_layout! {
    /// MODIFYCHANNEL (type 22, guest to host): moves the interrupts of an open channel.
    pub struct ModifyChannel {
        /// The channel.
        pub relid: RelId,
        /// The new processor; interrupts cannot be disabled or enabled this way.
        pub target_vp: VpIndex,
    }
}

fixed_layout! {
    /// MODIFYCHANNEL_RESPONSE (type 24, host to guest), from version 5.3 on.
    pub struct ModifyChannelResponse {
        /// The channel.
        pub relid: RelId,
        /// Zero if the old processor sees no further interrupt.
        pub status: Status,
    }
}

fixed_layout! {
    /// OPEN_RESERVED_CHANNEL (type 18, guest to host).
    pub struct OpenReservedChannel {
        /// The reserved channel; not a number from an offer.
        pub channel_id: u32,
        /// Where interrupts go.
        pub target_vp: VpIndex,
        /// Interrupt source of the SynIC.
        pub target_sint: u32,
        /// GPADL that holds both rings.
        pub ring_gpadl: GpadlId,
        /// Where the host-to-guest ring starts, in 4 KiB pages.
        pub downstream_page_offset: u32,
    }
}

fixed_layout! {
    /// CLOSE_RESERVED_CHANNEL (type 19, guest to host).
    pub struct CloseReservedChannel {
        /// The reserved channel.
        pub channel_id: u32,
        /// Where the answer goes.
        pub target_vp: VpIndex,
        /// Interrupt source of the SynIC.
        pub target_sint: u32,
    }
}

fixed_layout! {
    /// CLOSE_RESERVED_RESPONSE (type 20, host to guest).
    pub struct CloseReservedResponse {
        /// The reserved channel.
        pub channel_id: u32,
    }
}
