//! Reading an OID: `REMOTE_NDIS_QUERY_MSG` and `_CMPLT`.

use crate::bytes::{Fields, Region, emit_len, put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MESSAGE_HEADER_LEN, MessageHeader, MessageType, RequestId};
use crate::oid::Oid;
use crate::status::Status;

/// Bytes in front of the information buffer of a query or set.
pub(super) const REQUEST_FIXED_LEN: usize = 28;
/// The same as the offset field counts it.
const REQUEST_OFFSET: u32 = (REQUEST_FIXED_LEN - MESSAGE_HEADER_LEN) as u32;

/// Asks for the value of an OID (`REMOTE_NDIS_QUERY_MSG`).
///
/// [`Query::emit`] writes the information offset as 20 even when there is no information: FreeBSD's `hn_rndis.c`
/// records that Hyper-V fails the query otherwise. [`Query::parse`] does not insist on it; a host that wants to be as
/// strict compares the bytes with what `emit` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Id that the answer repeats.
    pub request_id: RequestId,
    /// Which value.
    pub oid: Oid,
    /// Input of the query, empty for most OIDs.
    pub information: &'a [u8],
    /// Reserved, 0.
    pub device_vc_handle: u32,
}

impl<'a> Query<'a> {
    /// Bytes of the message without its information buffer.
    pub const FIXED_LEN: usize = REQUEST_FIXED_LEN;

    /// A query without input.
    #[must_use]
    pub const fn new(request_id: RequestId, oid: Oid) -> Self {
        Self { request_id, oid, information: &[], device_vc_handle: 0 }
    }

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong or the first field that is missing.
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::QUERY)?;
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
        emit_request(out, MessageType::QUERY, (self.request_id, self.oid, self.information, self.device_vc_handle))
    }
}

/// Fields that query and set have in common.
pub(super) type Request<'a> = (RequestId, Oid, &'a [u8], u32);

pub(super) fn parse_request(fields: Fields<'_>) -> Result<Request<'_>, ParseError> {
    let request_id = RequestId(fields.u32("RequestID", 8)?);
    let oid = Oid(fields.u32("Oid", 12)?);
    let length = fields.u32("InformationBufferLength", 16)?;
    let offset = fields.u32("InformationBufferOffset", 20)?;
    let device_vc_handle = fields.u32("DeviceVcHandle", 24)?;
    let information = fields.region(Region {
        offset_field: "InformationBufferOffset",
        offset,
        length_field: "InformationBufferLength",
        length,
        base: MESSAGE_HEADER_LEN,
        first: REQUEST_OFFSET,
    })?;
    Ok((request_id, oid, information, device_vc_handle))
}

pub(super) fn emit_request(
    out: &mut [u8],
    message_type: MessageType,
    (request_id, oid, information, device_vc_handle): Request<'_>,
) -> Result<usize, EmitError> {
    let len = REQUEST_FIXED_LEN + information.len();
    let message_len = emit_len("MessageLength", len)?;
    let out = room(out, len)?;
    MessageHeader::put(out, message_type, message_len);
    put_u32(out, 8, request_id.0);
    put_u32(out, 12, oid.0);
    put_u32(out, 16, message_len - REQUEST_FIXED_LEN as u32);
    put_u32(out, 20, REQUEST_OFFSET);
    put_u32(out, 24, device_vc_handle);
    out[REQUEST_FIXED_LEN..].copy_from_slice(information);
    Ok(len)
}

/// Answers [`Query`] with the value (`REMOTE_NDIS_QUERY_CMPLT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryComplete<'a> {
    /// Id of the request.
    pub request_id: RequestId,
    /// Outcome.
    pub status: Status,
    /// The value; the types of [`value`](crate::value) check its length.
    pub information: &'a [u8],
}

impl<'a> QueryComplete<'a> {
    /// Bytes of the message without its information buffer.
    pub const FIXED_LEN: usize = 24;
    const OFFSET: u32 = (Self::FIXED_LEN - MESSAGE_HEADER_LEN) as u32;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong or the first field that is missing. The offset may be anything
    /// if the length is 0.
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::QUERY_COMPLETE)?;
        let request_id = RequestId(fields.u32("RequestID", 8)?);
        let status = Status(fields.u32("Status", 12)?);
        let length = fields.u32("InformationBufferLength", 16)?;
        let offset = fields.u32("InformationBufferOffset", 20)?;
        let information = fields.region(Region {
            offset_field: "InformationBufferOffset",
            offset,
            length_field: "InformationBufferLength",
            length,
            base: MESSAGE_HEADER_LEN,
            first: Self::OFFSET,
        })?;
        Ok(Self { request_id, status, information })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::FIXED_LEN + self.information.len()
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let len = self.buffer_len();
        let message_len = emit_len("MessageLength", len)?;
        let out = room(out, len)?;
        MessageHeader::put(out, MessageType::QUERY_COMPLETE, message_len);
        put_u32(out, 8, self.request_id.0);
        put_u32(out, 12, self.status.0);
        put_u32(out, 16, message_len - Self::FIXED_LEN as u32);
        put_u32(out, 20, Self::OFFSET);
        out[Self::FIXED_LEN..].copy_from_slice(self.information);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_stays_20_without_input() {
        let mut bytes = [0xFF; 28];
        Query::new(RequestId(2), Oid::PERMANENT_ADDRESS).emit(&mut bytes).unwrap();
        assert_eq!(bytes[20..24], [20, 0, 0, 0]);
    }

    #[test]
    fn information_offset_counts_from_byte_8() {
        let answer = QueryComplete { request_id: RequestId(2), status: Status::SUCCESS, information: &[1, 2, 3] };
        let mut bytes = [0; 31];
        answer.emit(&mut bytes[..27]).unwrap();
        // The same value one word further on.
        bytes[4] = 31;
        bytes[20] = 20;
        bytes.copy_within(24..27, 28);
        assert_eq!(QueryComplete::parse(&bytes), Ok(answer));
        bytes[20] = 21;
        assert_eq!(
            QueryComplete::parse(&bytes),
            Err(ParseError::AboveLimit { field: "InformationBufferLength", value: 3, limit: 2 })
        );
        bytes[20] = 15;
        assert_eq!(
            QueryComplete::parse(&bytes),
            Err(ParseError::BelowMinimum { field: "InformationBufferOffset", value: 15, minimum: 16 })
        );
    }
}
