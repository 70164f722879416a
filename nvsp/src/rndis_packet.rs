//! The data path: an RNDIS message is handed over (107) and its memory given back (108).
//!
//! [`RndisPacket::to_array`] and [`RndisPacketComplete::to_array`] are what a data path calls for
//! every packet: the size is a constant and the code a few stores.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_send_pkt`, `send_recv_completions`).

use crate::{
    NO_SECTION, Status,
    field::{Wire, message, wire_newtype},
};

/// What an RNDIS message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelType(pub u32);

wire_newtype!(ChannelType(u32));

impl ChannelType {
    /// Frames (`REMOTE_NDIS_PACKET_MSG`).
    pub const DATA: Self = Self(0);
    /// All other RNDIS messages; on the primary channel only.
    pub const CONTROL: Self = Self(1);
}

/// Index of a section of the send buffer; never [`NO_SECTION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionIndex(u32);

impl SectionIndex {
    /// The section with this index; `None` for [`NO_SECTION`].
    #[inline]
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        if index == NO_SECTION { None } else { Some(Self(index)) }
    }

    /// The index.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Layout of an optional section index: [`NO_SECTION`] stands for none.
struct OptionalSection;

impl Wire for OptionalSection {
    type Value = Option<SectionIndex>;
    const SIZE: usize = 4;

    #[inline]
    fn read(bytes: &[u8]) -> Option<Self::Value> {
        u32::read(bytes).map(SectionIndex::new)
    }

    #[inline]
    fn write(value: Self::Value, out: &mut [u8]) {
        u32::write(value.map_or(NO_SECTION, SectionIndex::get), out);
    }
}

message! {
    /// One RNDIS message.
    ///
    /// From the guest its bytes are in a section of the send buffer, in the pages that the VMBus
    /// packet lists, or first in the one and then in the other. From the host they are in the
    /// transfer pages, one RNDIS message a range, and the section is ignored.
    RndisPacket = RNDIS_PACKET, 16 bytes {
        /// Data or control.
        4 => channel_type: ChannelType,
        /// Section of the send buffer that is used, if any.
        8 => section: Option<SectionIndex> as OptionalSection,
        /// Bytes used in the section.
        12 => section_bytes: u32,
    }
}

impl RndisPacket {
    /// What a host sends with every transfer-page packet, and a guest with a packet that lists all
    /// its pages.
    #[inline]
    #[must_use]
    pub const fn without_section(channel_type: ChannelType) -> Self {
        Self { channel_type, section: None, section_bytes: 0 }
    }
}

message! {
    /// The receiver of one [`RndisPacket`] gives its memory back, whatever the status.
    ///
    /// Linux sends it in 8 bytes, DPDK in 40.
    RndisPacketComplete = RNDIS_PACKET_COMPLETE, 8 bytes {
        /// What became of the message.
        4 => status: Status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_no_section_value_is_not_an_index() {
        assert_eq!(SectionIndex::new(NO_SECTION), None);
        assert_eq!(SectionIndex::new(NO_SECTION - 1).map(SectionIndex::get), Some(NO_SECTION - 1));
    }
}
