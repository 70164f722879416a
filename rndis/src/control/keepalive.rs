//! `REMOTE_NDIS_KEEPALIVE_MSG` and `_CMPLT`.

use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MessageHeader, MessageType, RequestId};
use crate::status::Status;

/// Asks whether the other side still answers (`REMOTE_NDIS_KEEPALIVE_MSG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Id that the answer repeats.
    pub request_id: RequestId,
}

impl KeepAlive {
    /// Bytes of the message.
    pub const LEN: usize = 12;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::KEEPALIVE)?;
        Ok(Self { request_id: RequestId(fields.u32("RequestID", 8)?) })
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
        MessageHeader::put(out, MessageType::KEEPALIVE, Self::LEN as u32);
        put_u32(out, 8, self.request_id.0);
        Ok(Self::LEN)
    }
}

/// Answers [`KeepAlive`] (`REMOTE_NDIS_KEEPALIVE_CMPLT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveComplete {
    /// Id of the request.
    pub request_id: RequestId,
    /// Outcome.
    pub status: Status,
}

impl KeepAliveComplete {
    /// Bytes of the message.
    pub const LEN: usize = 16;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::KEEPALIVE_COMPLETE)?;
        Ok(Self { request_id: RequestId(fields.u32("RequestID", 8)?), status: Status(fields.u32("Status", 12)?) })
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
        MessageHeader::put(out, MessageType::KEEPALIVE_COMPLETE, Self::LEN as u32);
        put_u32(out, 8, self.request_id.0);
        put_u32(out, 12, self.status.0);
        Ok(Self::LEN)
    }
}
