//! A packet message that is one slice.

use core::ops::Range;

use super::PacketHeader;
use crate::bytes::{index, room, wire_len};
use crate::error::{EmitError, ParseError};
use crate::ppi::{HashInfo, Lso, PacketId, PacketInfo, PpiBlock, RxChecksum, TxChecksum, Vlan};

/// One checked `REMOTE_NDIS_PACKET_MSG`, borrowed; its accessors cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMsg<'a> {
    bytes: &'a [u8],
    data: &'a [u8],
    ppis: PpiBlock<'a>,
    header: PacketHeader,
    info: PacketInfo,
}

impl<'a> PacketMsg<'a> {
    /// Checks the message at the start of `range`, which may be longer than the message.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field at fault; see [`PacketHeader::parse`], [`PacketInfo::parse`] and
    /// [`PacketHeader::check_frame`], which are all that is checked.
    #[inline]
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let header = PacketHeader::parse(range, wire_len(range.len()))?;
        // The header was checked against the range, so none of these is out of bounds.
        let bytes = &range[..index(header.message_len())];
        let data = &bytes[header.data_range()];
        let block = &bytes[header.ppi_range()];
        let info = PacketInfo::parse(block)?;
        header.check_frame(&info)?;
        Ok(Self { bytes, data, ppis: PpiBlock::from_checked(block), header, info })
    }

    /// The frame, or the fragment of a coalesced one: from its Ethernet header, without frame check sequence.
    #[must_use]
    #[inline]
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Where [`Self::data`] is in the message.
    #[must_use]
    #[inline]
    pub fn data_range(&self) -> Range<usize> {
        self.header.data_range()
    }

    /// The whole message, padding included.
    #[must_use]
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The checked header.
    #[must_use]
    #[inline]
    pub const fn header(&self) -> &PacketHeader {
        &self.header
    }

    /// Every element of per-packet information, known or not, in the order they stand.
    #[must_use]
    #[inline]
    pub const fn ppis(&self) -> PpiBlock<'a> {
        self.ppis
    }

    /// The elements that netvsc uses.
    #[must_use]
    #[inline]
    pub const fn info(&self) -> &PacketInfo {
        &self.info
    }

    /// Checksum result, if the host sent the message.
    #[must_use]
    #[inline]
    pub const fn rx_checksum(&self) -> Option<RxChecksum> {
        self.info.rx_checksum()
    }

    /// Checksum request, if the guest sent the message.
    #[must_use]
    #[inline]
    pub const fn tx_checksum(&self) -> Option<TxChecksum> {
        self.info.tx_checksum()
    }

    /// 802.1Q tag.
    #[must_use]
    #[inline]
    pub const fn vlan(&self) -> Option<Vlan> {
        self.info.vlan
    }

    /// Hash of the flow.
    #[must_use]
    #[inline]
    pub const fn hash_value(&self) -> Option<u32> {
        self.info.hash_value
    }

    /// What the hash covers.
    #[must_use]
    #[inline]
    pub const fn hash_info(&self) -> Option<HashInfo> {
        self.info.hash_info
    }

    /// Position in a coalesced frame.
    #[must_use]
    #[inline]
    pub const fn packet_id(&self) -> Option<PacketId> {
        self.info.packet_id
    }

    /// Large send.
    #[must_use]
    #[inline]
    pub const fn lso(&self) -> Option<Lso> {
        self.info.lso
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    /// Copies the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        room(out, self.bytes.len())?.copy_from_slice(self.bytes);
        Ok(self.bytes.len())
    }
}
