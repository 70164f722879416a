//! Changing an OID: `REMOTE_NDIS_SET_MSG` and `_CMPLT`.

use super::query::{REQUEST_FIXED_LEN, emit_request, parse_request};
use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MessageHeader, MessageType, RequestId};
use crate::oid::Oid;
use crate::status::Status;

/// Gives an OID a new value (`REMOTE_NDIS_SET_MSG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// Id that the answer repeats.
    pub request_id: RequestId,
    /// Which value.
    pub oid: Oid,
    /// The new value. OpenVMM takes all that follows byte 28 as the value and ignores offset and length; what
    /// [`Set::emit`] writes means the same either way.
    pub information: &'a [u8],
    /// Reserved, 0.
    pub device_vc_handle: u32,
}

impl<'a> Set<'a> {
    /// Bytes of the message without its information buffer.
    pub const FIXED_LEN: usize = REQUEST_FIXED_LEN;

    /// A set of `oid` to the bytes of `information`.
    #[must_use]
    pub const fn new(request_id: RequestId, oid: Oid, information: &'a [u8]) -> Self {
        Self { request_id, oid, information, device_vc_handle: 0 }
    }

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong or the first field that is missing.
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::SET)?;
        let (request_id, oid, information, device_vc_handle) = parse_request(fields)?;
        Ok(Self { request_id, oid, information, device_vc_handle })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        REQUEST_FIXED_LEN + self.information.len()
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        emit_request(out, MessageType::SET, (self.request_id, self.oid, self.information, self.device_vc_handle))
    }
}

/// Answers [`Set`] (`REMOTE_NDIS_SET_CMPLT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetComplete {
    /// Id of the request.
    pub request_id: RequestId,
    /// Outcome.
    pub status: Status,
}

impl SetComplete {
    /// Bytes of the message.
    pub const LEN: usize = 16;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::SET_COMPLETE)?;
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
        MessageHeader::put(out, MessageType::SET_COMPLETE, Self::LEN as u32);
        put_u32(out, 8, self.request_id.0);
        put_u32(out, 12, self.status.0);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_outside_the_message_is_refused_even_inside_the_range() {
        let mut bytes = [0; 40];
        Set::new(RequestId(1), Oid::PACKET_FILTER, &[0x0D, 0, 0, 0]).emit(&mut bytes).unwrap();
        bytes[16] = 5;
        assert_eq!(
            Set::parse(&bytes),
            Err(ParseError::AboveLimit { field: "InformationBufferLength", value: 5, limit: 4 })
        );
    }
}
