//! Start and end of a session: `REMOTE_NDIS_INITIALIZE_MSG`, `_CMPLT` and `REMOTE_NDIS_HALT_MSG`.

use super::fixed::message;
use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::message::{MessageHeader, MessageType, RequestId};
use crate::status::Status;

/// Greatest packet alignment this crate accepts: 2¹² = 4096 bytes, one page.
///
/// Linux shifts by the host's number unchecked; a greater one would leave no room in a send section, and 32 or more
/// shifts out.
pub const MAX_ALIGNMENT_LOG2: u32 = 12;

message! {
    /// Starts a session (`REMOTE_NDIS_INITIALIZE_MSG`).
    Initialize = INITIALIZE, 24 bytes {
        /// Id that the answer repeats.
        8 => request_id: RequestId = "RequestID",
        /// Major protocol version, 1.
        12 => major_version: u32 = "MajorVersion",
        /// Minor protocol version, 0.
        16 => minor_version: u32 = "MinorVersion",
        /// Largest message the guest takes, in bytes; Linux and DPDK say 0x4000, FreeBSD 2048.
        20 => max_transfer_size: u32 = "MaxTransferSize",
    }
}

/// Answers [`Initialize`] with the host's limits (`REMOTE_NDIS_INITIALIZE_CMPLT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitializeComplete {
    /// Id of the request.
    pub request_id: RequestId,
    /// Outcome; the other fields mean nothing unless it is success.
    pub status: Status,
    /// Major protocol version, 1.
    pub major_version: u32,
    /// Minor protocol version, 0.
    pub minor_version: u32,
    /// 1: connectionless.
    pub device_flags: u32,
    /// Medium, 0: 802.3.
    pub medium: u32,
    /// Most packets the host takes in one batch, as sent; 0 has to be read as 1.
    pub max_packets_per_message: u32,
    /// Largest batch the host takes, in bytes, all headers included.
    pub max_transfer_size: u32,
    /// Each message of a batch starts on a multiple of two to this power, as sent; see [`Self::alignment`].
    pub packet_alignment_log2: u32,
    /// Offset of the address family list, 0; hosts may leave the field out.
    pub af_list_offset: u32,
    /// Size of the address family list, 0; hosts may leave the field out.
    pub af_list_size: u32,
}

impl InitializeComplete {
    /// Bytes of the message as written.
    pub const LEN: usize = 52;
    /// Bytes that have to be there; the address family fields behind them are optional (DPDK wants 48).
    pub const MIN_LEN: usize = 44;

    /// Reads the message at the start of `range`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong or the first field that is missing.
    pub fn parse(range: &[u8]) -> Result<Self, ParseError> {
        let fields = MessageHeader::expect(range, MessageType::INITIALIZE_COMPLETE)?;
        Ok(Self {
            request_id: RequestId(fields.u32("RequestID", 8)?),
            status: Status(fields.u32("Status", 12)?),
            major_version: fields.u32("MajorVersion", 16)?,
            minor_version: fields.u32("MinorVersion", 20)?,
            device_flags: fields.u32("DeviceFlags", 24)?,
            medium: fields.u32("Medium", 28)?,
            max_packets_per_message: fields.u32("MaxPacketsPerMessage", 32)?,
            max_transfer_size: fields.u32("MaxTransferSize", 36)?,
            packet_alignment_log2: fields.u32("PacketAlignmentFactor", 40)?,
            af_list_offset: fields.u32("AFListOffset", 44).unwrap_or(0),
            af_list_size: fields.u32("AFListSize", 48).unwrap_or(0),
        })
    }

    /// Alignment of the messages in a batch, in bytes: a power of two from 1 to 4096.
    ///
    /// # Errors
    ///
    /// [`ParseError::AboveLimit`] if the host's number is more than [`MAX_ALIGNMENT_LOG2`].
    pub const fn alignment(&self) -> Result<u32, ParseError> {
        if self.packet_alignment_log2 > MAX_ALIGNMENT_LOG2 {
            return Err(ParseError::AboveLimit {
                field: "PacketAlignmentFactor",
                value: self.packet_alignment_log2,
                limit: MAX_ALIGNMENT_LOG2,
            });
        }
        Ok(1 << self.packet_alignment_log2)
    }

    /// Most packets in one batch, at least 1.
    #[must_use]
    pub const fn max_packets(&self) -> u32 {
        if self.max_packets_per_message == 0 { 1 } else { self.max_packets_per_message }
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
        MessageHeader::put(out, MessageType::INITIALIZE_COMPLETE, Self::LEN as u32);
        put_u32(out, 8, self.request_id.0);
        put_u32(out, 12, self.status.0);
        put_u32(out, 16, self.major_version);
        put_u32(out, 20, self.minor_version);
        put_u32(out, 24, self.device_flags);
        put_u32(out, 28, self.medium);
        put_u32(out, 32, self.max_packets_per_message);
        put_u32(out, 36, self.max_transfer_size);
        put_u32(out, 40, self.packet_alignment_log2);
        put_u32(out, 44, self.af_list_offset);
        put_u32(out, 48, self.af_list_size);
        Ok(Self::LEN)
    }
}

message! {
    /// Ends a session (`REMOTE_NDIS_HALT_MSG`); the host does not answer.
    Halt = HALT, 12 bytes {
        /// Id, which nothing repeats.
        8 => request_id: RequestId = "RequestID",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: InitializeComplete = InitializeComplete {
        request_id: RequestId(1),
        status: Status::SUCCESS,
        major_version: 1,
        minor_version: 0,
        device_flags: 1,
        medium: 0,
        max_packets_per_message: 8,
        max_transfer_size: 0xEFFF_FFFF,
        packet_alignment_log2: 3,
        af_list_offset: 0,
        af_list_size: 0,
    };

    #[test]
    fn address_family_fields_are_optional() {
        let mut bytes = [0; InitializeComplete::LEN];
        COMPLETE.emit(&mut bytes).unwrap();
        bytes[4] = InitializeComplete::MIN_LEN as u8;
        assert_eq!(InitializeComplete::parse(&bytes[..44]), Ok(COMPLETE));
    }

    #[test]
    fn missing_field_is_named() {
        let mut bytes = [0; InitializeComplete::LEN];
        COMPLETE.emit(&mut bytes).unwrap();
        bytes[4] = 43;
        assert_eq!(
            InitializeComplete::parse(&bytes),
            Err(ParseError::Truncated { field: "PacketAlignmentFactor", needed: 44, available: 43 })
        );
    }

    #[test]
    fn alignment_is_bounded_and_zero_packets_mean_one() {
        assert_eq!(COMPLETE.alignment(), Ok(8));
        assert_eq!(InitializeComplete { packet_alignment_log2: 12, ..COMPLETE }.alignment(), Ok(4096));
        for log2 in [13, 31, 32, 64, u32::MAX] {
            let complete = InitializeComplete { packet_alignment_log2: log2, ..COMPLETE };
            assert_eq!(complete.alignment().unwrap_err().field(), "PacketAlignmentFactor");
        }
        assert_eq!(InitializeComplete { max_packets_per_message: 0, ..COMPLETE }.max_packets(), 1);
    }
}
