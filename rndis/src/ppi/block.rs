//! The walk over a block of elements.

use core::fmt;
use core::iter::FusedIterator;

use crate::bytes::{index, u32_at, wire_len};
use crate::error::ParseError;

/// Bytes of an element in front of its payload: size, type, payload offset.
pub const ELEMENT_HEADER_LEN: usize = 12;

/// Type of an element with its internal flag (bit 31).
///
/// Internal and other types are separate number spaces: 1 is IPsec, internal 1 ([`PpiType::PACKET_ID`]) is the packet
/// id of receive segment coalescing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PpiType(pub u32);

impl PpiType {
    /// Bit that marks an internal type.
    pub const INTERNAL: u32 = 0x8000_0000;

    /// Checksum request or result: [`TxChecksum`](super::TxChecksum) or [`RxChecksum`](super::RxChecksum).
    pub const CHECKSUM: Self = Self(0);
    /// IPsec.
    pub const IPSEC: Self = Self(1);
    /// Large send: [`Lso`](super::Lso).
    pub const LSO: Self = Self(2);
    /// Classification handle.
    pub const CLASSIFICATION_HANDLE: Self = Self(3);
    /// Scatter-gather list.
    pub const SCATTER_GATHER_LIST: Self = Self(5);
    /// 802.1Q tag: [`Vlan`](super::Vlan).
    pub const IEEE_8021Q: Self = Self(6);
    /// Original packet information, of a pointer's size.
    pub const ORIGINAL_PACKET_INFO: Self = Self(7);
    /// Hash of the flow, `u32` (older name: packet cancel id).
    pub const HASH_VALUE: Self = Self(8);
    /// What the hash covers: [`HashInfo`](super::HashInfo) (older name: original net buffer list).
    pub const HASH_INFO: Self = Self(9);
    /// Cached net buffer list.
    pub const CACHED_NET_BUFFER_LIST: Self = Self(10);
    /// Padding of short packets.
    pub const SHORT_PACKET_PAD_INFO: Self = Self(11);
    /// Position in a coalesced frame: [`PacketId`](super::PacketId); internal type 1.
    pub const PACKET_ID: Self = Self(Self::INTERNAL | 1);

    /// Whether the number is of the internal space.
    #[must_use]
    #[inline]
    pub const fn is_internal(self) -> bool {
        self.0 & Self::INTERNAL != 0
    }

    /// Number without the internal flag.
    #[must_use]
    #[inline]
    pub const fn number(self) -> u32 {
        self.0 & !Self::INTERNAL
    }

    /// Bytes of payload that have to be there: 4 for the types this crate reads, any number for others.
    #[inline]
    const fn min_payload(self) -> u32 {
        match self {
            Self::CHECKSUM | Self::LSO | Self::IEEE_8021Q | Self::HASH_VALUE | Self::HASH_INFO | Self::PACKET_ID => 4,
            _ => 1,
        }
    }

    /// Name of the type, if it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::CHECKSUM => "CHECKSUM",
            Self::IPSEC => "IPSEC",
            Self::LSO => "LSO",
            Self::CLASSIFICATION_HANDLE => "CLASSIFICATION_HANDLE",
            Self::SCATTER_GATHER_LIST => "SCATTER_GATHER_LIST",
            Self::IEEE_8021Q => "IEEE_8021Q",
            Self::ORIGINAL_PACKET_INFO => "ORIGINAL_PACKET_INFO",
            Self::HASH_VALUE => "HASH_VALUE",
            Self::HASH_INFO => "HASH_INFO",
            Self::CACHED_NET_BUFFER_LIST => "CACHED_NET_BUFFER_LIST",
            Self::SHORT_PACKET_PAD_INFO => "SHORT_PACKET_PAD_INFO",
            Self::PACKET_ID => "PACKET_ID",
            _ => return None,
        })
    }
}

impl fmt::Display for PpiType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for PpiType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PpiType({self})")
    }
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ppi<'a> {
    /// Its type.
    pub kind: PpiType,
    /// Its payload: at least 4 bytes for the types that this crate reads, at least 1 for others.
    pub payload: &'a [u8],
}

impl<'a> Ppi<'a> {
    /// Splits the first element off a block that is not empty.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming `PerPacketInfo.Size`, `.Type` or `.Offset`. Every element takes at least 12 bytes off
    /// the block, so a walk ends.
    #[inline]
    pub fn split_first(block: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let available = wire_len(block.len());
        let Some(header) = block.first_chunk::<ELEMENT_HEADER_LEN>() else {
            return Err(short_block(available));
        };
        let size = u32_at(header, 0);
        let kind = PpiType(u32_at(header, 4));
        let offset = u32_at(header, 8);
        if size < ELEMENT_HEADER_LEN as u32 || size > available || !size.is_multiple_of(4) {
            return Err(bad_size(size, available));
        }
        let limit = size.saturating_sub(kind.min_payload());
        if offset < ELEMENT_HEADER_LEN as u32 || offset > limit {
            return Err(bad_offset(offset, limit));
        }
        // Both are within the block: 12 <= offset < size <= block.len().
        let (element, rest) = block.split_at(index(size));
        Ok((Self { kind, payload: &element[index(offset)..] }, rest))
    }

    /// First word of the payload, 0 if there are not four bytes (only types that this crate does not read).
    #[must_use]
    #[inline]
    pub fn word(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
    }
}

#[cold]
fn short_block(available: u32) -> ParseError {
    ParseError::Truncated { field: "PerPacketInfo.Size", needed: ELEMENT_HEADER_LEN as u32, available }
}

#[cold]
fn bad_size(size: u32, available: u32) -> ParseError {
    let field = "PerPacketInfo.Size";
    if size < ELEMENT_HEADER_LEN as u32 {
        ParseError::BelowMinimum { field, value: size, minimum: ELEMENT_HEADER_LEN as u32 }
    } else if size > available {
        ParseError::AboveLimit { field, value: size, limit: available }
    } else {
        ParseError::Misaligned { field, value: size, unit: 4 }
    }
}

#[cold]
fn bad_offset(offset: u32, limit: u32) -> ParseError {
    let field = "PerPacketInfo.Offset";
    if offset < ELEMENT_HEADER_LEN as u32 {
        ParseError::BelowMinimum { field, value: offset, minimum: ELEMENT_HEADER_LEN as u32 }
    } else {
        ParseError::AboveLimit { field, value: offset, limit }
    }
}

/// A block whose elements have all been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PpiBlock<'a> {
    bytes: &'a [u8],
}

impl<'a> PpiBlock<'a> {
    /// Checks every element of the block; an empty block is valid.
    ///
    /// # Errors
    ///
    /// That of the first bad element, see [`Ppi::split_first`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = Ppi::split_first(rest)?;
        }
        Ok(Self { bytes })
    }

    /// The caller has walked `bytes` with [`Ppi::split_first`] to its end.
    pub(crate) const fn from_checked(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The elements in the order they stand.
    #[must_use]
    pub const fn iter(&self) -> PpiIter<'a> {
        PpiIter { rest: self.bytes }
    }

    /// The first element of a type.
    #[must_use]
    pub fn find(&self, kind: PpiType) -> Option<Ppi<'a>> {
        self.iter().find(|ppi| ppi.kind == kind)
    }

    /// The bytes of the block.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> IntoIterator for PpiBlock<'a> {
    type Item = Ppi<'a>;
    type IntoIter = PpiIter<'a>;

    fn into_iter(self) -> PpiIter<'a> {
        self.iter()
    }
}

/// Elements of a [`PpiBlock`].
#[derive(Clone, Debug)]
pub struct PpiIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for PpiIter<'a> {
    type Item = Ppi<'a>;

    #[inline]
    fn next(&mut self) -> Option<Ppi<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        // Cannot fail: the block was walked the same way when it was parsed.
        let (ppi, rest) = Ppi::split_first(self.rest).ok()?;
        self.rest = rest;
        Some(ppi)
    }
}

impl FusedIterator for PpiIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    const VLAN: [u8; 16] = [16, 0, 0, 0, 6, 0, 0, 0, 12, 0, 0, 0, 0x10, 0, 0, 0];

    fn with(at: usize, value: u32) -> [u8; 16] {
        let mut bytes = VLAN;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    #[test]
    fn internal_one_is_not_ipsec() {
        assert_ne!(PpiType::PACKET_ID, PpiType::IPSEC);
        assert_eq!(PpiType::PACKET_ID.number(), PpiType::IPSEC.number());
        assert!(PpiType::PACKET_ID.is_internal() && !PpiType::IPSEC.is_internal());
    }

    #[test]
    fn bad_sizes_end_the_walk() {
        for size in [0, 4, 8, 11, 13, 14, 15, 17, 20, u32::MAX, u32::MAX - 15] {
            let error = PpiBlock::parse(&with(0, size)).unwrap_err();
            assert_eq!(error.field(), "PerPacketInfo.Size", "{size}");
        }
        // An element of a header alone has no room for a payload.
        assert_eq!(PpiBlock::parse(&with(0, 12)).unwrap_err().field(), "PerPacketInfo.Offset");
    }

    #[test]
    fn bad_offsets_are_named() {
        for offset in [0, 4, 11, 13, 15, 16, 17, u32::MAX] {
            let error = PpiBlock::parse(&with(8, offset)).unwrap_err();
            assert_eq!(error.field(), "PerPacketInfo.Offset", "{offset}");
        }
    }

    #[test]
    fn unknown_types_may_have_short_payloads() {
        let mut bytes = with(4, 11);
        bytes[8] = 15;
        assert_eq!(PpiBlock::parse(&bytes).unwrap().iter().next().unwrap().payload, [0]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        for len in 1..VLAN.len() {
            assert_eq!(PpiBlock::parse(&VLAN[..len]).unwrap_err().field(), "PerPacketInfo.Size");
        }
        assert_eq!(PpiBlock::parse(&[]).unwrap().iter().count(), 0);
    }
}
