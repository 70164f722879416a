//! The header of a packet message, field by field and unchecked.

use super::PACKET_HEADER_LEN;
use crate::bytes::{put_u32, room, u32_at, wire_len};
use crate::error::{EmitError, ParseError};
use crate::message::MessageType;

/// The header fields as they stand on the wire: offsets count from byte 8, nothing is checked.
///
/// For tracing, and for tests that need wrong headers. Use [`PacketHeader`](super::PacketHeader) to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPacketHeader {
    /// Type of the message, [`MessageType::PACKET`].
    pub message_type: MessageType,
    /// Bytes of the message (`MessageLength`).
    pub message_len: u32,
    /// Offset of the data from byte 8 (`DataOffset`).
    pub data_offset: u32,
    /// Bytes of data (`DataLength`).
    pub data_len: u32,
    /// Offset of the out-of-band data from byte 8 (`OOBDataOffset`).
    pub oob_data_offset: u32,
    /// Bytes of out-of-band data (`OOBDataLength`).
    pub oob_data_len: u32,
    /// Number of out-of-band records (`NumOOBDataElements`).
    pub num_oob_data_elements: u32,
    /// Offset of the per-packet information from byte 8 (`PerPacketInfoOffset`).
    pub ppi_offset: u32,
    /// Bytes of per-packet information (`PerPacketInfoLength`).
    pub ppi_len: u32,
    /// Virtual circuit, 0 (`VcHandle`).
    pub vc_handle: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

impl RawPacketHeader {
    /// Reads the first 44 bytes of a message.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer.
    #[inline]
    pub fn parse(header: &[u8]) -> Result<Self, ParseError> {
        match header.first_chunk() {
            Some(header) => Ok(Self::read(header)),
            None => Err(ParseError::Truncated {
                field: "PacketHeader",
                needed: PACKET_HEADER_LEN as u32,
                available: wire_len(header.len()),
            }),
        }
    }

    #[inline]
    fn read(header: &[u8; PACKET_HEADER_LEN]) -> Self {
        Self {
            message_type: MessageType(u32_at(header, 0)),
            message_len: u32_at(header, 4),
            data_offset: u32_at(header, 8),
            data_len: u32_at(header, 12),
            oob_data_offset: u32_at(header, 16),
            oob_data_len: u32_at(header, 20),
            num_oob_data_elements: u32_at(header, 24),
            ppi_offset: u32_at(header, 28),
            ppi_len: u32_at(header, 32),
            vc_handle: u32_at(header, 36),
            reserved: u32_at(header, 40),
        }
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        PACKET_HEADER_LEN
    }

    /// Writes the header to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 44 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, PACKET_HEADER_LEN)?;
        put_u32(out, 0, self.message_type.0);
        put_u32(out, 4, self.message_len);
        put_u32(out, 8, self.data_offset);
        put_u32(out, 12, self.data_len);
        put_u32(out, 16, self.oob_data_offset);
        put_u32(out, 20, self.oob_data_len);
        put_u32(out, 24, self.num_oob_data_elements);
        put_u32(out, 28, self.ppi_offset);
        put_u32(out, 32, self.ppi_len);
        put_u32(out, 36, self.vc_handle);
        put_u32(out, 40, self.reserved);
        Ok(PACKET_HEADER_LEN)
    }
}
