//! The checked header of a packet message, without its frame.

use core::ops::Range;

use super::{FIRST_OFFSET, MIN_FRAME_LEN, PACKET_HEADER_LEN, RawPacketHeader};
use crate::bytes::index;
use crate::error::ParseError;
use crate::message::{MESSAGE_HEADER_LEN, MessageType};
use crate::ppi::PacketInfo;

/// What offsets count from.
const BASE: u32 = MESSAGE_HEADER_LEN as u32;

/// Where the parts of a packet message are: checked against each other and against the range that holds the message.
///
/// A receiver that copies only the first bytes of a range out of shared memory needs no more than those:
///
/// ```
/// use rndis::packet::PacketHeader;
/// use rndis::ppi::PacketInfo;
/// # use rndis::packet::PacketEncoder;
/// # use rndis::ppi::{PpiWord, RxChecksum};
/// # let mut range = [0; 324];
/// # let ppis = [PpiWord::from(RxChecksum::TCP_SUCCEEDED)];
/// # PacketEncoder { ppis: &ppis, data_offset: Some(256), message_len: None }.emit(&[0; 60], &mut range)?;
/// // The private copy of what a host wrote; the whole range has 324 bytes.
/// let copy = &range[..60];
/// let header = PacketHeader::parse(copy, 324)?;
/// let block = copy.get(header.ppi_range()).ok_or("more information than expected")?;
/// let info = PacketInfo::parse(block)?;
/// header.check_frame(&info)?;
/// assert_eq!(header.data_range(), 256..316);
/// assert_eq!(info.rx_checksum(), Some(RxChecksum::TCP_SUCCEEDED));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// All offsets count from the message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    message_len: u32,
    data_offset: u32,
    data_len: u32,
    ppi_offset: u32,
    ppi_len: u32,
}

impl PacketHeader {
    /// Checks the header at the start of `header` (44 bytes or more) for a message in a range of `range_len` bytes.
    ///
    /// Type, message length, and place of data, out-of-band data and per-packet information are checked: each behind
    /// the header, within the message, and apart from the others. What the per-packet information says is not known
    /// yet: read it with [`PacketInfo::parse`], then call [`Self::check_frame`].
    ///
    /// Stricter than Linux, which accepts data that starts in the header, overlaps, and unaligned information.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field at fault.
    #[inline]
    pub fn parse(header: &[u8], range_len: u32) -> Result<Self, ParseError> {
        if let Some(header) = Self::usual(&RawPacketHeader::parse(header)?, range_len) {
            return Ok(header);
        }
        // By way of a variable of its own, so that the header above stays in registers.
        let header = Self::parse_each(header, range_len)?;
        Ok(header)
    }

    /// Reads the fields once more, so that the usual way keeps none of them in memory.
    #[cold]
    fn parse_each(header: &[u8], range_len: u32) -> Result<Self, ParseError> {
        Self::check(&RawPacketHeader::parse(header)?, range_len)
    }

    /// Checks header fields; see [`Self::parse`].
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field at fault.
    #[inline]
    pub fn check(raw: &RawPacketHeader, range_len: u32) -> Result<Self, ParseError> {
        let message_len = raw.message_len;
        if raw.message_type != MessageType::PACKET {
            return Err(not_a_packet(raw.message_type));
        }
        at_least("MessageLength", message_len, PACKET_HEADER_LEN as u32)?;
        at_most("MessageLength", message_len, range_len)?;

        // No sum below can wrap: each region is compared with what the message has left of 32 bits.
        let body = message_len - BASE;
        let data = Span { offset: raw.data_offset, len: raw.data_len };
        data.within(body, "DataOffset", "DataLength")?;
        at_least("DataLength", data.len, 1)?;

        let oob = Span { offset: raw.oob_data_offset, len: raw.oob_data_len };
        if oob.len != 0 {
            oob.within(body, "OOBDataOffset", "OOBDataLength")?;
            oob.apart_from(data, "OOBDataOffset", "DataOffset")?;
        }

        let ppi = Span { offset: raw.ppi_offset, len: raw.ppi_len };
        // Linux reads offset 0 as "none", whatever the length says.
        if ppi.offset == 0 || ppi.len == 0 {
            return Ok(Self {
                message_len,
                data_offset: data.offset + BASE,
                data_len: data.len,
                ppi_offset: 0,
                ppi_len: 0,
            });
        }
        if !ppi.offset.is_multiple_of(4) {
            return Err(ParseError::Misaligned { field: "PerPacketInfoOffset", value: ppi.offset, unit: 4 });
        }
        ppi.within(body, "PerPacketInfoOffset", "PerPacketInfoLength")?;
        at_least("PerPacketInfoLength", ppi.len, crate::ppi::ELEMENT_HEADER_LEN as u32)?;
        ppi.apart_from(data, "PerPacketInfoOffset", "DataOffset")?;
        if oob.len != 0 {
            ppi.apart_from(oob, "PerPacketInfoOffset", "OOBDataOffset")?;
        }
        Ok(Self {
            message_len,
            data_offset: data.offset + BASE,
            data_len: data.len,
            ppi_offset: ppi.offset + BASE,
            ppi_len: ppi.len,
        })
    }

    /// The checks as one, for what nearly every message is: no out-of-band data, and the per-packet information, if
    /// there is any, in front of the data. `None` says nothing: it may be good all the same.
    #[inline]
    fn usual(raw: &RawPacketHeader, range_len: u32) -> Option<Self> {
        let data_end = u64::from(raw.data_offset) + u64::from(raw.data_len);
        let good = raw.message_type == MessageType::PACKET
            && raw.message_len <= range_len
            && raw.oob_data_len == 0
            && raw.data_offset >= FIRST_OFFSET
            && raw.data_len != 0
            && data_end + u64::from(BASE) <= u64::from(raw.message_len);
        if !good {
            return None;
        }
        let (ppi_offset, ppi_len) = if raw.ppi_offset == 0 || raw.ppi_len == 0 {
            (0, 0)
        } else {
            let ppi_end = u64::from(raw.ppi_offset) + u64::from(raw.ppi_len);
            let good = raw.ppi_offset >= FIRST_OFFSET
                && raw.ppi_offset.is_multiple_of(4)
                && raw.ppi_len >= crate::ppi::ELEMENT_HEADER_LEN as u32
                && ppi_end <= u64::from(raw.data_offset);
            if !good {
                return None;
            }
            (raw.ppi_offset + BASE, raw.ppi_len)
        };
        // Both ends are within the message, so the sums do not wrap.
        Some(Self {
            message_len: raw.message_len,
            data_offset: raw.data_offset + BASE,
            data_len: raw.data_len,
            ppi_offset,
            ppi_len,
        })
    }

    /// Checks that the data can be what the per-packet information says: at least 14 bytes, or at least 1 in a
    /// fragment of a coalesced frame that is not its first.
    ///
    /// # Errors
    ///
    /// [`ParseError::BelowMinimum`] naming `DataLength`.
    #[inline]
    pub fn check_frame(&self, info: &PacketInfo) -> Result<(), ParseError> {
        // `check` has refused empty data already.
        if self.data_len < MIN_FRAME_LEN && !info.is_later_fragment() {
            return at_least("DataLength", self.data_len, MIN_FRAME_LEN);
        }
        Ok(())
    }

    /// Bytes of the whole message.
    #[must_use]
    #[inline]
    pub const fn message_len(&self) -> u32 {
        self.message_len
    }

    /// Offset of the data from the message's first byte.
    #[must_use]
    #[inline]
    pub const fn data_offset(&self) -> u32 {
        self.data_offset
    }

    /// Bytes of data, at least 1.
    #[must_use]
    #[inline]
    pub const fn data_len(&self) -> u32 {
        self.data_len
    }

    /// Where the data is in the message.
    #[must_use]
    #[inline]
    pub fn data_range(&self) -> Range<usize> {
        index(self.data_offset)..index(self.data_offset + self.data_len)
    }

    /// Offset of the per-packet information from the message's first byte, 0 if there is none.
    #[must_use]
    #[inline]
    pub const fn ppi_offset(&self) -> u32 {
        self.ppi_offset
    }

    /// Bytes of per-packet information, 0 if there is none.
    #[must_use]
    #[inline]
    pub const fn ppi_len(&self) -> u32 {
        self.ppi_len
    }

    /// Where the per-packet information is in the message; empty if there is none.
    #[must_use]
    #[inline]
    pub fn ppi_range(&self) -> Range<usize> {
        index(self.ppi_offset)..index(self.ppi_offset + self.ppi_len)
    }
}

/// A region, as the wire counts it.
#[derive(Clone, Copy)]
struct Span {
    offset: u32,
    len: u32,
}

impl Span {
    /// Behind the header and inside the body.
    #[inline]
    fn within(self, body: u32, offset_field: &'static str, len_field: &'static str) -> Result<(), ParseError> {
        at_least(offset_field, self.offset, FIRST_OFFSET)?;
        at_most(offset_field, self.offset, body)?;
        at_most(len_field, self.len, body - self.offset)
    }

    /// Both are within the body, so the sums do not wrap.
    #[inline]
    fn apart_from(self, other: Self, field: &'static str, other_field: &'static str) -> Result<(), ParseError> {
        if self.offset < other.offset + other.len && other.offset < self.offset + self.len {
            return Err(overlap(field, other_field));
        }
        Ok(())
    }
}

#[inline]
fn at_least(field: &'static str, value: u32, minimum: u32) -> Result<(), ParseError> {
    if value < minimum { Err(below(field, value, minimum)) } else { Ok(()) }
}

#[inline]
fn at_most(field: &'static str, value: u32, limit: u32) -> Result<(), ParseError> {
    if value > limit { Err(above(field, value, limit)) } else { Ok(()) }
}

#[cold]
fn below(field: &'static str, value: u32, minimum: u32) -> ParseError {
    ParseError::BelowMinimum { field, value, minimum }
}

#[cold]
fn above(field: &'static str, value: u32, limit: u32) -> ParseError {
    ParseError::AboveLimit { field, value, limit }
}

#[cold]
fn overlap(field: &'static str, other: &'static str) -> ParseError {
    ParseError::Overlap { field, other }
}

#[cold]
fn not_a_packet(message_type: MessageType) -> ParseError {
    ParseError::Unexpected { field: "MessageType", value: message_type.0, expected: MessageType::PACKET.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: RawPacketHeader = RawPacketHeader {
        message_type: MessageType::PACKET,
        message_len: 160,
        data_offset: 52,
        data_len: 100,
        oob_data_offset: 0,
        oob_data_len: 0,
        num_oob_data_elements: 0,
        ppi_offset: 36,
        ppi_len: 16,
        vc_handle: 0,
        reserved: 0,
    };

    fn field(raw: RawPacketHeader) -> &'static str {
        PacketHeader::check(&raw, 160).unwrap_err().field()
    }

    #[test]
    fn offsets_are_given_from_the_first_byte() {
        let header = PacketHeader::check(&GOOD, 160).unwrap();
        assert_eq!(header.data_range(), 60..160);
        assert_eq!(header.ppi_range(), 44..60);
        assert_eq!(header.message_len(), 160);
    }

    #[test]
    fn both_ways_to_check_agree() {
        const VALUES: [u32; 12] = [0, 1, 12, 16, 36, 37, 40, 52, 100, 116, 160, u32::MAX - 3];
        let mut usual = 0;
        for index in 0..VALUES.len().pow(5) {
            let value = |place: u32| VALUES[index / VALUES.len().pow(place) % VALUES.len()];
            let raw = RawPacketHeader {
                message_len: value(4),
                data_offset: value(0),
                data_len: value(1),
                ppi_offset: value(2),
                ppi_len: value(3),
                ..GOOD
            };
            if let Some(header) = PacketHeader::usual(&raw, 160) {
                assert_eq!(Ok(header), PacketHeader::check(&raw, 160), "{raw:?}");
                usual += 1;
            } else if let Ok(header) = PacketHeader::check(&raw, 160) {
                assert!(header.ppi_offset > header.data_offset, "{raw:?}");
            }
        }
        assert!(usual > 100, "{usual}");
        for raw in
            [RawPacketHeader { oob_data_len: 4, ..GOOD }, RawPacketHeader { message_type: MessageType::SET, ..GOOD }]
        {
            assert_eq!(PacketHeader::usual(&raw, 160), None);
        }
    }

    #[test]
    fn each_bad_field_is_named() {
        assert_eq!(field(RawPacketHeader { message_type: MessageType::SET, ..GOOD }), "MessageType");
        for message_len in [0, 7, 43, 161, u32::MAX] {
            assert_eq!(field(RawPacketHeader { message_len, ..GOOD }), "MessageLength");
        }
        for data_offset in [0, 35, 153, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 7, u32::MAX] {
            assert_eq!(field(RawPacketHeader { data_offset, ..GOOD }), "DataOffset");
        }
        for data_len in [0, 101, 0x8000_0000, u32::MAX] {
            assert_eq!(field(RawPacketHeader { data_len, ..GOOD }), "DataLength");
        }
        for ppi_offset in [1, 4, 20, 32, 37, 38, 156, 0x8000_0000, u32::MAX - 3, u32::MAX] {
            assert_eq!(field(RawPacketHeader { ppi_offset, ..GOOD }), "PerPacketInfoOffset");
        }
        for ppi_len in [1, 11, 117, 0x8000_0000, u32::MAX] {
            assert_eq!(field(RawPacketHeader { ppi_len, ..GOOD }), "PerPacketInfoLength");
        }
        for oob_data_offset in [0, 35, 153, u32::MAX] {
            let raw = RawPacketHeader { oob_data_offset, oob_data_len: 4, ..GOOD };
            assert_eq!(field(raw), "OOBDataOffset");
        }
        for oob_data_len in [117, u32::MAX] {
            let raw = RawPacketHeader { oob_data_offset: 36, oob_data_len, ..GOOD };
            assert_eq!(field(raw), "OOBDataLength");
        }
    }

    #[test]
    fn regions_may_touch_but_not_overlap() {
        let overlap = |field, other| Err(ParseError::Overlap { field, other });
        let check = |raw| PacketHeader::check(&raw, 160);
        assert_eq!(check(RawPacketHeader { ppi_len: 17, ..GOOD }), overlap("PerPacketInfoOffset", "DataOffset"));
        assert_eq!(
            check(RawPacketHeader { oob_data_offset: 48, oob_data_len: 8, ..GOOD }),
            overlap("OOBDataOffset", "DataOffset")
        );
        assert_eq!(
            check(RawPacketHeader { oob_data_offset: 48, oob_data_len: 4, ..GOOD }),
            overlap("PerPacketInfoOffset", "OOBDataOffset")
        );
        let apart = RawPacketHeader { data_offset: 60, data_len: 92, oob_data_offset: 52, oob_data_len: 8, ..GOOD };
        assert!(check(apart).is_ok());
    }

    #[test]
    fn offset_zero_means_no_information() {
        let header = PacketHeader::check(&RawPacketHeader { ppi_offset: 0, ..GOOD }, 160).unwrap();
        assert!(header.ppi_range().is_empty());
    }
}
