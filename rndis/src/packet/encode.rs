//! Writing packet messages.

use super::{FIRST_OFFSET, MIN_FRAME_LEN, PACKET_HEADER_LEN, RawPacketHeader};
use crate::bytes::{emit_len, room};
use crate::error::EmitError;
use crate::message::{MESSAGE_HEADER_LEN, MessageType};
use crate::ppi::{Lso, PpiWord, PpiWords, TxChecksum, Vlan};

/// What the host shall do to a frame it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TxOffload {
    /// Nothing.
    #[default]
    None,
    /// Compute checksums.
    Checksum(TxChecksum),
    /// Cut it into segments, which implies checksums.
    Lso(Lso),
}

/// Header and per-packet information of a frame that the guest sends; the frame follows directly.
///
/// Elements are in Linux's order: hash value, VLAN, then large send or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TxHeader {
    /// Hash of the flow, by which the host picks the channel it answers on. Linux sends one only if it is not 0 and
    /// there are several channels; DPDK always sends the queue number.
    pub hash_value: Option<u32>,
    /// 802.1Q tag; the frame itself must have none then.
    pub vlan: Option<Vlan>,
    /// What the host shall do.
    pub offload: TxOffload,
}

impl TxHeader {
    /// Bytes of the longest header: three elements.
    pub const MAX_LEN: usize = PACKET_HEADER_LEN + 3 * PpiWord::LEN;

    /// The header of a frame of `data_len` bytes without elements and padding, as little-endian words: what
    /// [`emit`](Self::emit) writes for the default. The upper half of the last word is behind the header, and 0.
    ///
    /// # Errors
    ///
    /// Those of [`emit`](Self::emit).
    #[inline]
    pub const fn plain_words(data_len: u32) -> Result<[u64; PACKET_HEADER_LEN.div_ceil(8)], EmitError> {
        if data_len < MIN_FRAME_LEN {
            return Err(data_too_short(data_len as usize));
        }
        let Some(message_len) = data_len.checked_add(PACKET_HEADER_LEN as u32) else {
            let value = (data_len as usize).saturating_add(PACKET_HEADER_LEN);
            return Err(EmitError::TooLarge { field: "MessageLength", value, limit: u32::MAX as usize });
        };
        let data_offset = PACKET_HEADER_LEN as u32 - MESSAGE_HEADER_LEN as u32;
        let first = MessageType::PACKET.0 as u64 | (message_len as u64) << 32;
        Ok([first, data_offset as u64 | (data_len as u64) << 32, 0, 0, 0, 0])
    }

    /// Bytes of header and elements; the frame starts behind them.
    #[must_use]
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        let elements = self.hash_value.is_some() as usize
            + self.vlan.is_some() as usize
            + !matches!(self.offload, TxOffload::None) as usize;
        PACKET_HEADER_LEN + elements * PpiWord::LEN
    }

    /// Writes header and elements to the start of `out` and says how many bytes they took.
    ///
    /// `data_len` is the length of the frame, and `padding` the bytes behind it that belong to the message (see
    /// [`padding`](super::padding)): the message length counts them, the data length does not. The caller writes
    /// frame and padding.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`]; [`EmitError::TooSmall`] if
    /// `data_len` is less than an Ethernet header; [`EmitError::TooLarge`] if the message length has not enough bits.
    #[inline]
    pub fn emit(&self, data_len: u32, padding: u32, out: &mut [u8]) -> Result<usize, EmitError> {
        let header_len = self.buffer_len();
        let message_len = header_len as u64 + u64::from(data_len) + u64::from(padding);
        let Ok(message_len) = u32::try_from(message_len) else {
            let value = usize::try_from(message_len).unwrap_or(usize::MAX);
            return Err(EmitError::TooLarge { field: "MessageLength", value, limit: u32::MAX as usize });
        };
        if data_len < MIN_FRAME_LEN {
            return Err(data_too_short(data_len as usize));
        }
        if header_len == PACKET_HEADER_LEN {
            // The commonest header has no elements: nothing to gather.
            put_header(room(out, PACKET_HEADER_LEN)?, &[], PACKET_HEADER_LEN as u32, data_len, message_len)?;
            return Ok(PACKET_HEADER_LEN);
        }
        let mut words = PpiWords::new();
        if let Some(hash) = self.hash_value {
            words.push(PpiWord::hash_value(hash));
        }
        if let Some(vlan) = self.vlan {
            words.push(vlan.into());
        }
        match self.offload {
            TxOffload::None => {}
            TxOffload::Checksum(checksum) => words.push(checksum.into()),
            TxOffload::Lso(lso) => words.push(lso.into()),
        }
        let out = room(out, header_len)?;
        put_header(out, &words, header_len as u32, data_len, message_len)?;
        Ok(header_len)
    }
}

/// Any packet message: any elements, data wherever the caller wants it.
///
/// ```
/// use rndis::packet::{PacketEncoder, PacketMsg};
/// use rndis::ppi::{PpiWord, RxChecksum, Vlan};
///
/// let ppis = [
///     PpiWord::from(RxChecksum::TCP_SUCCEEDED | RxChecksum::IP_SUCCEEDED),
///     PpiWord::from(Vlan::new(200, 3, true)),
/// ];
/// // OpenVMM puts the data at byte 256 and fills the rest of the section.
/// let encoder = PacketEncoder { ppis: &ppis, data_offset: Some(256), message_len: Some(1806) };
/// let mut section = [0xAA; 1806];
/// assert_eq!(encoder.emit(&[0x55; 60], &mut section)?, 1806);
///
/// let msg = PacketMsg::parse(&section)?;
/// assert_eq!(msg.data(), [0x55; 60]);
/// assert_eq!(msg.vlan(), Some(Vlan::new(200, 3, true)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PacketEncoder<'a> {
    /// Elements, in the order they are written.
    pub ppis: &'a [PpiWord],
    /// Offset of the data from the message's first byte; `None`: directly behind the elements, as Windows does.
    pub data_offset: Option<u32>,
    /// Bytes of the whole message; `None`: no more than needed.
    pub message_len: Option<u32>,
}

impl PacketEncoder<'_> {
    /// Offset of the data from the message's first byte.
    ///
    /// # Errors
    ///
    /// [`EmitError::TooSmall`] if [`Self::data_offset`] lies in header or elements.
    pub fn data_start(&self) -> Result<u32, EmitError> {
        let minimum = emit_len("PerPacketInfoLength", PACKET_HEADER_LEN + self.ppis.len() * PpiWord::LEN)?;
        match self.data_offset {
            Some(offset) if offset < minimum => {
                Err(EmitError::TooSmall { field: "DataOffset", value: offset as usize, minimum: minimum as usize })
            }
            Some(offset) => Ok(offset),
            None => Ok(minimum),
        }
    }

    /// Bytes of the whole message with `data_len` bytes of data.
    ///
    /// # Errors
    ///
    /// [`EmitError::TooSmall`] or [`EmitError::TooLarge`] if [`Self::message_len`] does not hold the data, or there
    /// is no data.
    pub fn buffer_len(&self, data_len: usize) -> Result<usize, EmitError> {
        if data_len == 0 {
            return Err(EmitError::TooSmall { field: "DataLength", value: 0, minimum: 1 });
        }
        let minimum = (self.data_start()? as usize).saturating_add(data_len);
        emit_len("MessageLength", minimum)?;
        match self.message_len {
            Some(len) if (len as usize) < minimum => {
                Err(EmitError::TooSmall { field: "MessageLength", value: len as usize, minimum })
            }
            Some(len) => Ok(len as usize),
            None => Ok(minimum),
        }
    }

    /// Writes header and elements, and zeros up to where the data starts; says where that is.
    ///
    /// For callers that place the data themselves. Data of fewer than 14 bytes is allowed, since fragments of
    /// coalesced frames may be that short.
    ///
    /// # Errors
    ///
    /// Those of [`Self::buffer_len`]; [`EmitError::BufferTooSmall`] if `out` ends before the data starts.
    pub fn emit_header(&self, data_len: usize, out: &mut [u8]) -> Result<usize, EmitError> {
        let message_len = emit_len("MessageLength", self.buffer_len(data_len)?)?;
        let data_len = emit_len("DataLength", data_len)?;
        let start = self.data_start()?;
        let out = room(out, start as usize)?;
        put_header(out, self.ppis, start, data_len, message_len)?;
        out[PACKET_HEADER_LEN + self.ppis.len() * PpiWord::LEN..].fill(0);
        Ok(start as usize)
    }

    /// Writes the whole message, with zeros in all gaps, and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// Those of [`Self::buffer_len`]; [`EmitError::BufferTooSmall`] if `out` is shorter than that.
    pub fn emit(&self, data: &[u8], out: &mut [u8]) -> Result<usize, EmitError> {
        let len = self.buffer_len(data.len())?;
        let out = room(out, len)?;
        let start = self.emit_header(data.len(), out)?;
        let (place, tail) = out[start..].split_at_mut(data.len());
        place.copy_from_slice(data);
        tail.fill(0);
        Ok(len)
    }
}

/// Writes header and elements; `out` has room for both, and `data_start` is behind them.
#[inline]
fn put_header(
    out: &mut [u8],
    ppis: &[PpiWord],
    data_start: u32,
    data_len: u32,
    message_len: u32,
) -> Result<(), EmitError> {
    let raw = RawPacketHeader {
        message_type: MessageType::PACKET,
        message_len,
        data_offset: data_start - MESSAGE_HEADER_LEN as u32,
        data_len,
        oob_data_offset: 0,
        oob_data_len: 0,
        num_oob_data_elements: 0,
        ppi_offset: if ppis.is_empty() { 0 } else { FIRST_OFFSET },
        ppi_len: (ppis.len() * PpiWord::LEN) as u32,
        vc_handle: 0,
        reserved: 0,
    };
    raw.emit(out)?;
    for (place, ppi) in out[PACKET_HEADER_LEN..].chunks_exact_mut(PpiWord::LEN).zip(ppis) {
        ppi.put(place);
    }
    Ok(())
}

#[cold]
const fn data_too_short(value: usize) -> EmitError {
    EmitError::TooSmall { field: "DataLength", value, minimum: MIN_FRAME_LEN as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_counts_in_the_message_only() {
        let mut out = [0; 44];
        TxHeader::default().emit(62, 6, &mut out).unwrap();
        let raw = RawPacketHeader::parse(&out).unwrap();
        assert_eq!((raw.message_len, raw.data_offset, raw.data_len), (112, 36, 62));
        assert_eq!((raw.ppi_offset, raw.ppi_len), (0, 0));
    }

    #[test]
    fn words_are_what_is_emitted() {
        for data_len in [14, 60, 1514, 0x0102_0304, u32::MAX - 44] {
            let mut emitted = [0; 48];
            TxHeader::default().emit(data_len, 0, &mut emitted).unwrap();
            let words = TxHeader::plain_words(data_len).unwrap();
            assert!(words.iter().flat_map(|word| word.to_le_bytes()).eq(emitted), "{data_len}");
        }
        for data_len in [0, 13, u32::MAX - 43, u32::MAX] {
            let emitted = TxHeader::default().emit(data_len, 0, &mut [0; 44]).map(|_| [0; 6]);
            assert_eq!(TxHeader::plain_words(data_len), emitted, "{data_len}");
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let mut out = [0; 44];
        let header = TxHeader::default();
        assert!(matches!(header.emit(u32::MAX, 0, &mut out), Err(EmitError::TooLarge { .. })));
        assert!(matches!(header.emit(u32::MAX - 44, 1, &mut out), Err(EmitError::TooLarge { .. })));
        assert!(header.emit(u32::MAX - 44, 0, &mut out).is_ok());
        assert!(matches!(header.emit(13, 0, &mut out), Err(EmitError::TooSmall { .. })));
        assert!(matches!(header.emit(14, 0, &mut out[..43]), Err(EmitError::BufferTooSmall { .. })));
    }

    #[test]
    fn encoder_refuses_impossible_places() {
        let ppis = [PpiWord::hash_value(1)];
        let encoder = PacketEncoder { ppis: &ppis, ..PacketEncoder::default() };
        let mut out = [0; 128];
        assert!(PacketEncoder { data_offset: Some(59), ..encoder }.emit(&[1; 14], &mut out).is_err());
        assert!(PacketEncoder { message_len: Some(73), ..encoder }.emit(&[1; 14], &mut out).is_err());
        assert!(encoder.emit(&[], &mut out).is_err());
        assert_eq!(PacketEncoder { message_len: Some(74), ..encoder }.emit(&[1; 14], &mut out), Ok(74));
    }
}
