//! Packet id: where a message stands in a frame that the host coalesced (receive segment coalescing, RSC).
//!
//! Source: Linux `drivers/net/hyperv/hyperv_net.h` (`struct rndis_pktinfo_id`); needs NVSP 6.1.

bit_set! {
    /// Position of a fragment.
    pub struct PacketIdFlags(u8) {
        /// The message is a part of a coalesced frame; without this bit it is a whole frame.
        SUB_ALLOCATION = 0x01,
        /// First fragment, the one that starts with the Ethernet header.
        FIRST = 0x02,
        /// Last fragment.
        LAST = 0x04,
    }
}

/// Position of a message in a coalesced frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketId {
    /// Version of the element, 1.
    pub version: u8,
    /// First, last, or between.
    pub flags: PacketIdFlags,
    /// Id that all fragments of one frame share; informative.
    pub id: u16,
}

impl PacketId {
    /// The only version there is.
    pub const VERSION: u8 = 1;

    /// An element of [`Self::VERSION`].
    #[must_use]
    pub const fn new(flags: PacketIdFlags, id: u16) -> Self {
        Self { version: Self::VERSION, flags, id }
    }

    /// From the word on the wire.
    #[must_use]
    #[inline]
    pub const fn from_wire(word: u32) -> Self {
        let [version, flags, low, high] = word.to_le_bytes();
        Self { version, flags: PacketIdFlags(flags), id: u16::from_le_bytes([low, high]) }
    }

    /// The word on the wire.
    #[must_use]
    #[inline]
    pub const fn to_wire(self) -> u32 {
        let [low, high] = self.id.to_le_bytes();
        u32::from_le_bytes([self.version, self.flags.0, low, high])
    }

    /// Part of a coalesced frame, rather than a whole one.
    #[must_use]
    #[inline]
    pub const fn is_sub_allocation(self) -> bool {
        self.flags.contains(PacketIdFlags::SUB_ALLOCATION)
    }

    /// First fragment.
    #[must_use]
    #[inline]
    pub const fn is_first(self) -> bool {
        self.flags.contains(PacketIdFlags::FIRST)
    }

    /// Last fragment.
    #[must_use]
    #[inline]
    pub const fn is_last(self) -> bool {
        self.flags.contains(PacketIdFlags::LAST)
    }
}
