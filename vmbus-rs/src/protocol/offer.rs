//! OFFERCHANNEL: a device, or one more channel of a device.
//!
//! Source: Linux `include/linux/hyperv.h` (`struct vmbus_channel_offer_channel`); OpenVMM
//! `vmbus_core/src/protocol.rs` (`OfferChannel`).

use super::codec::{Reader, Writer};
use super::{ConnectionId, ParseError, RelId, Version};
use crate::guid::Guid;
use crate::monitor::MonitorId;

/// Properties of an offered channel; unknown bits are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OfferFlags(pub u16);

impl OfferFlags {
    /// The device interface is to be enumerated.
    pub const ENUMERATE_DEVICE_INTERFACE: Self = Self(0x1);
    /// The ring may stay encrypted.
    pub const CONFIDENTIAL_RING_BUFFER: Self = Self(0x2);
    /// Memory outside the ring may stay encrypted.
    pub const CONFIDENTIAL_EXTERNAL_MEMORY: Self = Self(0x4);
    /// Memory has to be pinned.
    pub const REQUIRE_PINNED_MEMORY: Self = Self(0x8);
    /// Packets carry the pipe header.
    pub const NAMED_PIPE_MODE: Self = Self(0x10);
    /// A loopback offer.
    pub const LOOPBACK: Self = Self(0x100);
    /// Offered by the parent partition.
    pub const PARENT: Self = Self(0x200);
    /// Monitored notification is asked for.
    pub const REQUEST_MONITORED_NOTIFICATION: Self = Self(0x400);
    /// An hvsock connection.
    pub const TLNPI: Self = Self(0x2000);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags set in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Bytes of the area that each device class fills as it likes.
pub const USER_DEFINED_LEN: usize = 120;

/// OFFERCHANNEL (type 1, host to guest, 196 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Device class, as [`Guid::NIC`].
    pub interface_id: Guid,
    /// The device; all its channels share it.
    pub instance_id: Guid,
    /// Unused by current hosts; older ones had latency, revision and context size here.
    pub reserved: [u8; 16],
    /// Properties.
    pub flags: OfferFlags,
    /// MMIO space wanted, in MiB.
    pub mmio_megabytes: u16,
    /// What the device class puts here; see [`Offer::pipe_type`] and [`Offer::hvsock`].
    pub user_defined: [u8; USER_DEFINED_LEN],
    /// 0 for the primary channel. Subchannels do not have to arrive in order.
    pub sub_channel_index: u16,
    /// Optional MMIO space, in MiB; reserved in Linux.
    pub mmio_megabytes_optional: u16,
    /// The channel's number.
    pub relid: RelId,
    /// Raw monitor id, meaningless unless [`Offer::monitor_allocated`]; use [`Offer::monitor`].
    pub monitor_id: u8,
    /// Whether `monitor_id` is the channel's.
    pub monitor_allocated: bool,
    /// Whether signalling needs no bit in the interrupt page.
    pub is_dedicated_interrupt: bool,
    /// Where to signal the host. Opaque; [`Offer::signal_connection`] applies to hosts of every version.
    pub connection_id: ConnectionId,
}

impl Offer {
    /// Bytes of the body, the header not counted.
    pub(crate) const BODY_LEN: usize = 188;

    /// Whether this is one more channel of a device that has a primary.
    pub fn is_subchannel(&self) -> bool {
        self.sub_channel_index != 0
    }

    /// The monitor to signal through, if the host allocated one and the id exists.
    ///
    /// `monitor_id` holds a number even when none was allocated; using it then leaves the host unsignalled (DPDK commit
    /// 8e4a1b88e1).
    pub fn monitor(&self) -> Option<MonitorId> {
        if self.monitor_allocated { MonitorId::new(self.monitor_id) } else { None }
    }

    /// The connection id that signals this channel on a connection of this version.
    pub fn signal_connection(&self, version: Version) -> ConnectionId {
        // Below 1.1 the offer has no such field and all channels share one.
        if version < Version::V1_1 { ConnectionId::EVENT } else { self.connection_id }
    }

    /// The pipe type of a channel in pipe mode.
    pub fn pipe_type(&self) -> Option<PipeType> {
        let [a, b, c, d, ..] = self.user_defined;
        self.flags.contains(OfferFlags::NAMED_PIPE_MODE).then(|| PipeType(u32::from_le_bytes([a, b, c, d])))
    }

    /// What an hvsock offer says about its connection.
    pub fn hvsock(&self) -> Option<HvsockOffer> {
        if !self.flags.contains(OfferFlags::TLNPI) {
            return None;
        }
        // The fields stand unaligned behind the pipe type.
        let [_, _, _, _, accept, container, v0, v1, v2, v3, rest @ ..] = self.user_defined;
        Some(HvsockOffer {
            is_for_guest_accept: accept != 0,
            is_for_guest_container: container != 0,
            version: u32::from_le_bytes([v0, v1, v2, v3]),
            silo_id: Guid::from_bytes(*rest.first_chunk()?),
        })
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            interface_id: reader.take("interface_id")?,
            instance_id: reader.take("instance_id")?,
            reserved: reader.take("reserved")?,
            flags: reader.take("flags")?,
            mmio_megabytes: reader.take("mmio_megabytes")?,
            user_defined: reader.take("user_defined")?,
            sub_channel_index: reader.take("sub_channel_index")?,
            mmio_megabytes_optional: reader.take("mmio_megabytes_optional")?,
            relid: reader.take("relid")?,
            monitor_id: reader.take("monitor_id")?,
            monitor_allocated: reader.take::<u8>("monitor_allocated")? & 1 != 0,
            is_dedicated_interrupt: reader.take::<u16>("is_dedicated_interrupt")? & 1 != 0,
            connection_id: reader.take("connection_id")?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.interface_id);
        writer.put(self.instance_id);
        writer.put(self.reserved);
        writer.put(self.flags);
        writer.put(self.mmio_megabytes);
        writer.put(self.user_defined);
        writer.put(self.sub_channel_index);
        writer.put(self.mmio_megabytes_optional);
        writer.put(self.relid);
        writer.put(self.monitor_id);
        writer.put(u8::from(self.monitor_allocated));
        writer.put(u16::from(self.is_dedicated_interrupt));
        writer.put(self.connection_id);
    }
}

/// How a channel in pipe mode frames its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipeType(pub u32);

impl PipeType {
    /// A stream of bytes.
    pub const BYTE: Self = Self(0);
    /// Messages with boundaries.
    pub const MESSAGE: Self = Self(4);
}

/// The user-defined area of an hvsock offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvsockOffer {
    /// The host connects to a listener of the guest, rather than the other way round.
    pub is_for_guest_accept: bool,
    /// The connection belongs to a container of the guest.
    pub is_for_guest_container: bool,
    /// Version of this layout.
    pub version: u32,
    /// The container's silo.
    pub silo_id: Guid,
}
