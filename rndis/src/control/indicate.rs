//! `REMOTE_NDIS_INDICATE_STATUS_MSG`: the host tells of a change.
//!
//! Hosts before about Server 2022 leave the status buffer out of `MessageLength`. Its offset and length are therefore
//! checked against the *range* that holds the message, as Linux does (`rndis_filter.c`).

use crate::bytes::{Fields, Region, emit_len, put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MESSAGE_HEADER_LEN, MessageHeader, MessageType};
use crate::status::Status;

/// Tells of a change of link or offloads (`REMOTE_NDIS_INDICATE_STATUS_MSG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndicateStatus<'a> {
    /// What changed.
    pub status: Status,
    /// Details, whose layout depends on [`Self::status`].
    pub buffer: &'a [u8],
    /// Whether `MessageLength` counts the buffer: true for newer hosts, and whenever the buffer is empty.
    pub buffer_counted: bool,
}

impl<'a> IndicateStatus<'a> {
    /// Bytes of the message without its status buffer.
    pub const FIXED_LEN: usize = 20;
    const OFFSET: u32 = (Self::FIXED_LEN - MESSAGE_HEADER_LEN) as u32;

    /// An indication as newer hosts send it.
    #[must_use]
    pub const fn new(status: Status, buffer: &'a [u8]) -> Self {
        Self { status, buffer, buffer_counted: true }
    }

    /// Reads the message at the start of `range`, which has to end where the host's transfer range ends.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong or the first field that is missing.
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::INDICATE_STATUS)?;
        let status = Status(fields.u32("Status", 8)?);
        let length = fields.u32("StatusBufferLength", 12)?;
        let offset = fields.u32("StatusBufferOffset", 16)?;
        let buffer = Fields::new(range).region(Region {
            offset_field: "StatusBufferOffset",
            offset,
            length_field: "StatusBufferLength",
            length,
            base: MESSAGE_HEADER_LEN,
            first: Self::OFFSET,
        })?;
        let end = MESSAGE_HEADER_LEN as u64 + u64::from(offset) + u64::from(length);
        let buffer_counted = length == 0 || end <= fields.len() as u64;
        Ok(Self { status, buffer, buffer_counted })
    }

    /// Bytes that [`Self::emit`] writes, the buffer included even where `MessageLength` does not count it.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::FIXED_LEN + self.buffer.len()
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let len = self.buffer_len();
        let whole = emit_len("MessageLength", len)?;
        let out = room(out, len)?;
        let counted = if self.buffer_counted { whole } else { Self::FIXED_LEN as u32 };
        MessageHeader::put(out, MessageType::INDICATE_STATUS, counted);
        put_u32(out, 8, self.status.0);
        put_u32(out, 12, whole - Self::FIXED_LEN as u32);
        put_u32(out, 16, if self.buffer.is_empty() { 0 } else { Self::OFFSET });
        out[Self::FIXED_LEN..].copy_from_slice(self.buffer);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_hosts_do_not_count_the_buffer() {
        let old = IndicateStatus {
            status: Status::LINK_SPEED_CHANGE,
            buffer: &[0x00, 0xE1, 0xF5, 0x05],
            buffer_counted: false,
        };
        let mut bytes = [0; 24];
        old.emit(&mut bytes).unwrap();
        assert_eq!(bytes[4], 20);
        assert_eq!(IndicateStatus::parse(&bytes), Ok(old));
        // The range ends before the buffer does.
        assert_eq!(
            IndicateStatus::parse(&bytes[..23]),
            Err(ParseError::AboveLimit { field: "StatusBufferLength", value: 4, limit: 3 })
        );
    }

    #[test]
    fn buffer_offset_must_be_behind_the_fields() {
        let mut bytes = [0; 24];
        IndicateStatus::new(Status::NETWORK_CHANGE, &[2, 0, 0, 0]).emit(&mut bytes).unwrap();
        bytes[16] = 11;
        assert_eq!(
            IndicateStatus::parse(&bytes),
            Err(ParseError::BelowMinimum { field: "StatusBufferOffset", value: 11, minimum: 12 })
        );
    }
}
