//! Changing an OID: `REMOTE_NDIS_SET_MSG` and `_CMPLT`.

use super::fixed::message;
use super::query::{REQUEST_FIXED_LEN, emit_request, parse_request};
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

message! {
    /// Answers [`Set`] (`REMOTE_NDIS_SET_CMPLT`).
    SetComplete = SET_COMPLETE, 16 bytes {
        /// Id of the request.
        8 => request_id: RequestId = "RequestID",
        /// Outcome.
        12 => status: Status = "Status",
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
