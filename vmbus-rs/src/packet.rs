//! Packets in a ring: descriptors, and the headers that some types put between descriptor and payload.
//!
//! | offset | field |
//! |---|---|
//! | 0 | type u16 |
//! | 2 | header bytes, descriptor included, / 8, u16: the payload starts there |
//! | 4 | bytes of the whole packet / 8, u16, without the 8-byte trailer that follows it |
//! | 6 | flags u16: bit 0 asks for a completion |
//! | 8 | transaction id u64 |
//!
//! All little-endian. Source: Linux `include/linux/hyperv.h` (`vmpacket_descriptor`, `vmtransfer_page_packet_header`),
//! OpenVMM `vmbus_ring`.

/// Bytes in a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;
/// Bytes that follow each packet: zero u32, then the ring offset of the packet's descriptor, u32.
pub const TRAILER_BYTES: usize = 8;
/// Largest packet that a descriptor can state, in bytes, trailer not included.
pub const MAX_PACKET_BYTES: usize = 0xFFFF * 8;
/// Bytes of descriptor and transfer-page header, before the first range.
pub const TRANSFER_PAGES_HEADER_BYTES: usize = 24;
/// Bytes of descriptor and GPA-direct header, before the first range.
pub const GPA_DIRECT_HEADER_BYTES: usize = 24;

/// A packet's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketType(pub u16);

impl PacketType {
    /// Data, all in the ring.
    pub const IN_BAND: Self = Self(6);
    /// Data in transfer pages: ranges of a buffer that both sides know (host→guest).
    pub const TRANSFER_PAGES: Self = Self(7);
    /// Data behind guest physical addresses (guest→host).
    pub const GPA_DIRECT: Self = Self(9);
    /// Completion of an earlier packet, with that packet's transaction id.
    pub const COMPLETION: Self = Self(11);

    /// Whether the type is one of the assigned numbers, 1 to 13.
    #[inline]
    pub fn is_known(self) -> bool {
        (1..=13).contains(&self.0)
    }

    /// Bytes of descriptor and fixed header that the type needs at least.
    #[inline]
    pub fn min_header_bytes(self) -> usize {
        match self {
            Self::TRANSFER_PAGES | Self::GPA_DIRECT => 24,
            _ => DESCRIPTOR_BYTES,
        }
    }
}

/// Asks for a completion.
pub const FLAG_COMPLETION_REQUESTED: u16 = 1;

/// A packet's transaction id: opaque to the receiver, who echoes it in the completion.
///
/// A guest should never use 0 for a request: sources disagree on whether Hyper-V answers it (Linux: it does not; DPDK
/// relies on it). An incoming 0 is "unsolicited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TransactionId(pub u64);

/// Why a packet is no packet. The ring that it came from is unusable afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketError {
    /// The type is not an assigned number.
    UnknownType {
        /// What was there.
        value: u16,
    },
    /// The header is shorter than the type needs, or longer than the packet.
    BadHeaderLength {
        /// Header bytes stated.
        value: u32,
        /// Fewest for this type.
        min: u32,
        /// Bytes of the packet.
        max: u32,
    },
    /// The packet is longer than the bytes in the ring.
    BadLength {
        /// Bytes stated, trailer included.
        value: u32,
        /// Bytes in the ring.
        limit: u32,
    },
    /// A flag that is not defined.
    BadFlags {
        /// What was there.
        value: u16,
    },
    /// The packet does not fit the reader's buffer.
    TooLong {
        /// Bytes of the packet.
        value: u32,
        /// Bytes of the buffer.
        limit: u32,
    },
    /// Transfer pages or GPA direct: more ranges than the header holds, or none.
    BadRangeCount {
        /// Ranges stated.
        value: u32,
        /// Most that the header holds.
        limit: u32,
    },
}

impl core::fmt::Display for PacketError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::UnknownType { value } => write!(f, "packet type {value} is not known"),
            Self::BadHeaderLength { value, min, max } => {
                write!(f, "packet header length {value} is not within {min} and {max}")
            }
            Self::BadLength { value, limit } => {
                write!(f, "packet length {value} exceeds the {limit} bytes in the ring")
            }
            Self::BadFlags { value } => write!(f, "packet flags {value:#x} are not known"),
            Self::TooLong { value, limit } => {
                write!(f, "packet of {value} bytes exceeds the buffer of {limit}")
            }
            Self::BadRangeCount { value, limit } => {
                write!(f, "range count {value} is not within 1 and {limit}")
            }
        }
    }
}

impl core::error::Error for PacketError {}

/// A packet's descriptor: a private copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Type.
    pub packet_type: PacketType,
    /// Bytes of descriptor and further header; a multiple of 8.
    pub header_bytes: u32,
    /// Bytes of the whole packet, trailer not included; a multiple of 8.
    pub packet_bytes: u32,
    /// Flags.
    pub flags: u16,
    /// Transaction id.
    pub transaction_id: TransactionId,
}

impl Descriptor {
    /// From the two little-endian words of a descriptor. Anything is accepted: [`check`](Self::check) it.
    #[inline]
    pub fn from_words(first: u64, transaction_id: u64) -> Self {
        Self {
            packet_type: PacketType(first as u16),
            header_bytes: u32::from((first >> 16) as u16) * 8,
            packet_bytes: u32::from((first >> 32) as u16) * 8,
            flags: (first >> 48) as u16,
            transaction_id: TransactionId(transaction_id),
        }
    }

    /// The two words of the descriptor. Lengths are stated in units of 8 bytes.
    #[inline]
    pub fn to_words(self) -> (u64, u64) {
        let first = u64::from(self.packet_type.0)
            | u64::from((self.header_bytes / 8) as u16) << 16
            | u64::from((self.packet_bytes / 8) as u16) << 32
            | u64::from(self.flags) << 48;
        (first, self.transaction_id.0)
    }

    /// Checks every field against the bytes that the ring has for this packet, trailer included.
    ///
    /// # Errors
    /// The first field that cannot be.
    #[inline]
    pub fn check(&self, available: u32) -> Result<(), PacketError> {
        let min = self.packet_type.min_header_bytes() as u32;
        if !self.packet_type.is_known() {
            return Err(PacketError::UnknownType { value: self.packet_type.0 });
        }
        if self.header_bytes < min || self.header_bytes > self.packet_bytes {
            return Err(PacketError::BadHeaderLength { value: self.header_bytes, min, max: self.packet_bytes });
        }
        // At most 0xFFFF * 8 + 8: cannot wrap.
        let value = self.packet_bytes + TRAILER_BYTES as u32;
        if value > available {
            return Err(PacketError::BadLength { value, limit: available });
        }
        if self.flags & !FLAG_COMPLETION_REQUESTED != 0 {
            return Err(PacketError::BadFlags { value: self.flags });
        }
        Ok(())
    }

    /// Whether the sender wants a completion.
    #[inline]
    pub fn wants_completion(&self) -> bool {
        self.flags & FLAG_COMPLETION_REQUESTED != 0
    }
}

/// A range in a buffer that both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferRange {
    /// Bytes.
    pub byte_count: u32,
    /// First byte, from the buffer's start.
    pub byte_offset: u32,
}

impl TransferRange {
    /// The range's wire form.
    #[inline]
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.byte_count) | u64::from(self.byte_offset) << 32).to_le_bytes()
    }

    /// From the range's wire form.
    #[inline]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self { byte_count: word as u32, byte_offset: (word >> 32) as u32 }
    }
}

/// The header of a transfer-page packet, after the descriptor.
#[derive(Debug, Clone, Copy)]
pub struct TransferPages<'a> {
    /// Which buffer: the id that the device protocol gave it.
    pub set_id: u16,
    /// Sender owns the set; unused.
    pub sender_owns_set: u8,
    ranges: &'a [[u8; 8]],
}

impl<'a> TransferPages<'a> {
    /// Reads the header's bytes *after the descriptor* (`header_bytes - 16` of them).
    ///
    /// # Errors
    /// [`PacketError::BadHeaderLength`] for fewer than 8 bytes, [`PacketError::BadRangeCount`] for no ranges or more
    /// than the header holds.
    #[inline]
    pub fn parse(header: &'a [u8]) -> Result<Self, PacketError> {
        let Some((fixed, ranges)) = header.split_first_chunk::<8>() else {
            let value = (header.len() + DESCRIPTOR_BYTES) as u32;
            return Err(PacketError::BadHeaderLength { value, min: TRANSFER_PAGES_HEADER_BYTES as u32, max: value });
        };
        let count = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let (ranges, _) = ranges.as_chunks();
        let bad = PacketError::BadRangeCount { value: count, limit: ranges.len() as u32 };
        match ranges.get(..count as usize) {
            Some(ranges) if count != 0 => {
                Ok(Self { set_id: u16::from_le_bytes([fixed[0], fixed[1]]), sender_owns_set: fixed[2], ranges })
            }
            _ => Err(bad),
        }
    }

    /// How many ranges there are; at least 1.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, in order.
    #[inline]
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = TransferRange> + 'a {
        self.ranges.iter().map(|range| TransferRange::from_bytes(*range))
    }

    /// The first 8 bytes of the header of a packet with `count` ranges.
    #[inline]
    pub fn fixed_header(set_id: u16, count: u32) -> [u8; 8] {
        (u64::from(set_id) | u64::from(count) << 32).to_le_bytes()
    }
}

/// The first 8 bytes after the descriptor of a GPA-direct packet with `range_count` ranges.
#[inline]
pub fn gpa_direct_fixed_header(range_count: u32) -> [u8; 8] {
    (u64::from(range_count) << 32).to_le_bytes()
}

/// Splits the bytes after the descriptor of a GPA-direct packet into range count and range list.
///
/// # Errors
/// [`PacketError::BadHeaderLength`] for fewer than 8 bytes; [`PacketError::BadRangeCount`] for none.
#[inline]
pub fn gpa_direct_ranges(header: &[u8]) -> Result<(u32, &[u8]), PacketError> {
    let Some((fixed, ranges)) = header.split_first_chunk::<8>() else {
        let value = (header.len() + DESCRIPTOR_BYTES) as u32;
        return Err(PacketError::BadHeaderLength { value, min: GPA_DIRECT_HEADER_BYTES as u32, max: value });
    };
    let count = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    // A range is a count, an offset and at least one page number.
    let limit = (ranges.len() / 16) as u32;
    if count == 0 || count > limit {
        return Err(PacketError::BadRangeCount { value: count, limit });
    }
    Ok((count, ranges))
}
