//! `REMOTE_NDIS_RESET_MSG` and `_CMPLT`. OpenVMM does not implement them and treats the request as an error.

use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MessageHeader, MessageType};
use crate::status::Status;

/// Resets the device (`REMOTE_NDIS_RESET_MSG`); carries no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reset {
    /// Reserved, 0.
    pub reserved: u32,
}

impl Reset {
    /// Bytes of the message.
    pub const LEN: usize = 12;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::RESET)?;
        Ok(Self { reserved: fields.u32("Reserved", 8)? })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::LEN
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::LEN)?;
        MessageHeader::put(out, MessageType::RESET, Self::LEN as u32);
        put_u32(out, 8, self.reserved);
        Ok(Self::LEN)
    }
}

/// Answers [`Reset`] (`REMOTE_NDIS_RESET_CMPLT`); the only answer without a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetComplete {
    /// Outcome.
    pub status: Status,
    /// Not 0 if the guest has to set its filter and multicast list again.
    pub addressing_reset: u32,
}

impl ResetComplete {
    /// Bytes of the message.
    pub const LEN: usize = 16;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::RESET_COMPLETE)?;
        Ok(Self { status: Status(fields.u32("Status", 8)?), addressing_reset: fields.u32("AddressingReset", 12)? })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::LEN
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::LEN)?;
        MessageHeader::put(out, MessageType::RESET_COMPLETE, Self::LEN as u32);
        put_u32(out, 8, self.status.0);
        put_u32(out, 12, self.addressing_reset);
        Ok(Self::LEN)
    }
}
