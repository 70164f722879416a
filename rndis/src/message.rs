//! The header that starts every message, and the choice of the right parser by type.
//!
//! Source: [MS-RNDIS] 2.2.2 and following; Linux `include/linux/rndis.h`.

use crate::bytes::{Fields, put_u32, wire_len};
use crate::control::{
    Halt, IndicateStatus, Initialize, InitializeComplete, KeepAlive, KeepAliveComplete, Query, QueryComplete, Reset,
    ResetComplete, Set, SetComplete,
};
use crate::error::{EmitError, ParseError};
use crate::packet::PacketMsg;

/// Bytes of the header of every message: type and total length.
pub const MESSAGE_HEADER_LEN: usize = 8;

open_enum! {
    /// Type of a message; an answer has the type of its request with [`MessageType::COMPLETION`] set.
    pub struct MessageType(u32) {
        /// A frame with its per-packet information.
        PACKET = 0x0000_0001,
        /// Start of a session.
        INITIALIZE = 0x0000_0002,
        /// End of a session; there is no answer.
        HALT = 0x0000_0003,
        /// Read the value of an OID.
        QUERY = 0x0000_0004,
        /// Change the value of an OID.
        SET = 0x0000_0005,
        /// Reset the device.
        RESET = 0x0000_0006,
        /// The host tells of a change.
        INDICATE_STATUS = 0x0000_0007,
        /// Ask whether the other side still answers.
        KEEPALIVE = 0x0000_0008,
        /// Change an OID with a reserved layout; not used by netvsc.
        SET_EX = 0x0000_0009,
        /// Answer to [`MessageType::INITIALIZE`].
        INITIALIZE_COMPLETE = 0x8000_0002,
        /// Answer to [`MessageType::QUERY`].
        QUERY_COMPLETE = 0x8000_0004,
        /// Answer to [`MessageType::SET`].
        SET_COMPLETE = 0x8000_0005,
        /// Answer to [`MessageType::RESET`].
        RESET_COMPLETE = 0x8000_0006,
        /// Answer to [`MessageType::KEEPALIVE`].
        KEEPALIVE_COMPLETE = 0x8000_0008,
        /// Answer to [`MessageType::SET_EX`]; not used by netvsc.
        SET_EX_COMPLETE = 0x8000_0009,
        /// Bus message; not used by netvsc.
        BUS = 0xFF00_0001,
    }
}

impl MessageType {
    /// Bit that tells an answer from its request.
    pub const COMPLETION: u32 = 0x8000_0000;

    /// Type of the answer to this request, `None` where the protocol has none.
    #[must_use]
    pub const fn completion(self) -> Option<Self> {
        match self {
            Self::INITIALIZE | Self::QUERY | Self::SET | Self::RESET | Self::KEEPALIVE | Self::SET_EX => {
                Some(Self(self.0 | Self::COMPLETION))
            }
            _ => None,
        }
    }
}

/// Number that a request carries and its answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u32);

/// Type and length of a message, checked against the bytes that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// Type of the message.
    pub message_type: MessageType,
    /// Bytes of the whole message, this header included (`MessageLength`).
    pub message_len: u32,
}

impl MessageHeader {
    /// Reads the header of the message at the start of `bytes`; more bytes may follow the message.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 8 bytes; [`ParseError::BelowMinimum`] or
    /// [`ParseError::AboveLimit`] if `MessageLength` is less than 8 or more than there are bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let fields = Fields::new(bytes);
        let message_type = MessageType(fields.u32("MessageType", 0)?);
        let message_len = fields.u32("MessageLength", 4)?;
        let minimum = MESSAGE_HEADER_LEN as u32;
        if message_len < minimum {
            return Err(ParseError::BelowMinimum { field: "MessageLength", value: message_len, minimum });
        }
        let limit = wire_len(bytes.len());
        if message_len > limit {
            return Err(ParseError::AboveLimit { field: "MessageLength", value: message_len, limit });
        }
        Ok(Self { message_type, message_len })
    }

    /// Checks the header and the type, and gives the bytes of the message without what follows it.
    pub(crate) fn expect(bytes: &[u8], expected: MessageType) -> Result<Fields<'_>, ParseError> {
        let header = Self::parse(bytes)?;
        if header.message_type != expected {
            return Err(ParseError::Unexpected {
                field: "MessageType",
                value: header.message_type.0,
                expected: expected.0,
            });
        }
        // Cannot be out of bounds: `parse` has compared the length with the slice.
        Ok(Fields::new(bytes.get(..crate::bytes::index(header.message_len)).unwrap_or(bytes)))
    }

    /// Writes the header; the caller has checked that `out` has room.
    pub(crate) fn put(out: &mut [u8], message_type: MessageType, message_len: u32) {
        put_u32(out, 0, message_type.0);
        put_u32(out, 4, message_len);
    }
}

/// One message of any type this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A frame; the data path parses it with [`PacketHeader`](crate::packet::PacketHeader) instead.
    Packet(PacketMsg<'a>),
    /// Start of a session.
    Initialize(Initialize),
    /// Answer to `Initialize`.
    InitializeComplete(InitializeComplete),
    /// End of a session.
    Halt(Halt),
    /// Read an OID.
    Query(Query<'a>),
    /// Answer to `Query`.
    QueryComplete(QueryComplete<'a>),
    /// Change an OID.
    Set(Set<'a>),
    /// Answer to `Set`.
    SetComplete(SetComplete),
    /// Reset the device.
    Reset(Reset),
    /// Answer to `Reset`.
    ResetComplete(ResetComplete),
    /// The host tells of a change.
    IndicateStatus(IndicateStatus<'a>),
    /// Ask whether the other side still answers.
    KeepAlive(KeepAlive),
    /// Answer to `KeepAlive`.
    KeepAliveComplete(KeepAliveComplete),
}

/// Runs the same expression on whichever message it is.
macro_rules! each {
    ($message:expr, $inner:ident => $result:expr) => {
        match $message {
            Message::Packet($inner) => $result,
            Message::Initialize($inner) => $result,
            Message::InitializeComplete($inner) => $result,
            Message::Halt($inner) => $result,
            Message::Query($inner) => $result,
            Message::QueryComplete($inner) => $result,
            Message::Set($inner) => $result,
            Message::SetComplete($inner) => $result,
            Message::Reset($inner) => $result,
            Message::ResetComplete($inner) => $result,
            Message::IndicateStatus($inner) => $result,
            Message::KeepAlive($inner) => $result,
            Message::KeepAliveComplete($inner) => $result,
        }
    };
}

impl<'a> Message<'a> {
    /// Reads the message at the start of `range`, which may be longer than the message.
    ///
    /// # Errors
    ///
    /// Those of the message's own `parse`, and [`ParseError::UnknownMessage`].
    pub fn parse(range: &'a [u8]) -> Result<Self, ParseError> {
        let message_type = MessageHeader::parse(range)?.message_type;
        Ok(match message_type {
            MessageType::PACKET => Self::Packet(PacketMsg::parse(range)?),
            MessageType::INITIALIZE => Self::Initialize(Initialize::parse(range)?),
            MessageType::INITIALIZE_COMPLETE => Self::InitializeComplete(InitializeComplete::parse(range)?),
            MessageType::HALT => Self::Halt(Halt::parse(range)?),
            MessageType::QUERY => Self::Query(Query::parse(range)?),
            MessageType::QUERY_COMPLETE => Self::QueryComplete(QueryComplete::parse(range)?),
            MessageType::SET => Self::Set(Set::parse(range)?),
            MessageType::SET_COMPLETE => Self::SetComplete(SetComplete::parse(range)?),
            MessageType::RESET => Self::Reset(Reset::parse(range)?),
            MessageType::RESET_COMPLETE => Self::ResetComplete(ResetComplete::parse(range)?),
            MessageType::INDICATE_STATUS => Self::IndicateStatus(IndicateStatus::parse(range)?),
            MessageType::KEEPALIVE => Self::KeepAlive(KeepAlive::parse(range)?),
            MessageType::KEEPALIVE_COMPLETE => Self::KeepAliveComplete(KeepAliveComplete::parse(range)?),
            _ => return Err(ParseError::UnknownMessage { message_type }),
        })
    }

    /// Type of the message.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::Packet(_) => MessageType::PACKET,
            Self::Initialize(_) => MessageType::INITIALIZE,
            Self::InitializeComplete(_) => MessageType::INITIALIZE_COMPLETE,
            Self::Halt(_) => MessageType::HALT,
            Self::Query(_) => MessageType::QUERY,
            Self::QueryComplete(_) => MessageType::QUERY_COMPLETE,
            Self::Set(_) => MessageType::SET,
            Self::SetComplete(_) => MessageType::SET_COMPLETE,
            Self::Reset(_) => MessageType::RESET,
            Self::ResetComplete(_) => MessageType::RESET_COMPLETE,
            Self::IndicateStatus(_) => MessageType::INDICATE_STATUS,
            Self::KeepAlive(_) => MessageType::KEEPALIVE,
            Self::KeepAliveComplete(_) => MessageType::KEEPALIVE_COMPLETE,
        }
    }

    /// Request id, `None` for the messages that carry none (packet, reset, reset complete, indication).
    #[must_use]
    pub const fn request_id(&self) -> Option<RequestId> {
        match self {
            Self::Initialize(m) => Some(m.request_id),
            Self::InitializeComplete(m) => Some(m.request_id),
            Self::Halt(m) => Some(m.request_id),
            Self::Query(m) => Some(m.request_id),
            Self::QueryComplete(m) => Some(m.request_id),
            Self::Set(m) => Some(m.request_id),
            Self::SetComplete(m) => Some(m.request_id),
            Self::KeepAlive(m) => Some(m.request_id),
            Self::KeepAliveComplete(m) => Some(m.request_id),
            Self::Packet(_) | Self::Reset(_) | Self::ResetComplete(_) | Self::IndicateStatus(_) => None,
        }
    }

    /// Bytes that [`Message::emit`] writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        each!(self, inner => inner.buffer_len())
    }

    /// Writes the message to the start of `out` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Message::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        each!(self, inner => inner.emit(out))
    }
}
