//! The code in the first four bytes of every message.

use core::fmt;

use crate::{
    ParseError,
    field::{self, wire_newtype},
};

/// Type of an NVSP message (`NVSP_MSG_*` in Linux `hyperv_net.h`). Unknown codes are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType(pub u32);

wire_newtype!(MessageType(u32));

macro_rules! message_types {
    ($($(#[$meta:meta])* $name:ident = $code:literal;)*) => {
        impl MessageType {
            $($(#[$meta])* pub const $name: Self = Self($code);)*

            /// The constant's name, if the code has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

message_types! {
    /// Guest offers a range of versions.
    INIT = 1;
    /// Host answers [`INIT`](Self::INIT).
    INIT_COMPLETE = 2;
    /// Guest tells its NDIS version.
    NDIS_VERSION = 100;
    /// Guest gives the receive buffer.
    SEND_RECEIVE_BUFFER = 101;
    /// Host tells how it divided the receive buffer.
    SEND_RECEIVE_BUFFER_COMPLETE = 102;
    /// Guest takes the receive buffer back.
    REVOKE_RECEIVE_BUFFER = 103;
    /// Guest gives the send buffer.
    SEND_SEND_BUFFER = 104;
    /// Host tells the send buffer's section size.
    SEND_SEND_BUFFER_COMPLETE = 105;
    /// Guest takes the send buffer back.
    REVOKE_SEND_BUFFER = 106;
    /// An RNDIS message, in either direction.
    RNDIS_PACKET = 107;
    /// The receiver of [`RNDIS_PACKET`](Self::RNDIS_PACKET) is done with its memory.
    RNDIS_PACKET_COMPLETE = 108;
    /// Deprecated, see [`AllocateReceiveBuffer`](crate::AllocateReceiveBuffer).
    ALLOCATE_RECEIVE_BUFFER = 120;
    /// Deprecated, see [`AllocateReceiveBufferComplete`](crate::AllocateReceiveBufferComplete).
    ALLOCATE_RECEIVE_BUFFER_COMPLETE = 121;
    /// Deprecated, see [`FreeReceiveBuffer`](crate::FreeReceiveBuffer).
    FREE_RECEIVE_BUFFER = 122;
    /// Never used; the layout is not part of this crate.
    SEND_VMQ_RNDIS_PACKET = 123;
    /// Never used; the layout is not part of this crate.
    SEND_VMQ_RNDIS_PACKET_COMPLETE = 124;
    /// Guest tells its MTU and capabilities.
    NDIS_CONFIG = 125;
    /// Never used; the layout is not part of this crate.
    ALLOCATE_CHIMNEY_HANDLE = 126;
    /// Never used; the layout is not part of this crate.
    ALLOCATE_CHIMNEY_HANDLE_COMPLETE = 127;
    /// Host gives or takes away a virtual function.
    VF_ASSOCIATION = 128;
    /// Traffic moves between the synthetic path and the virtual function.
    SWITCH_DATA_PATH = 129;
    /// Deprecated; ignored by everyone.
    UPLINK_CONNECT_STATE = 130;
    /// Guest asks for an OID outside of RNDIS.
    OID_QUERY_EX = 131;
    /// Host answers [`OID_QUERY_EX`](Self::OID_QUERY_EX).
    OID_QUERY_EX_COMPLETE = 132;
    /// Guest asks for subchannels; the host's answer has the same code.
    SUBCHANNEL = 133;
    /// Host gives the send indirection table.
    SEND_TABLE = 134;
    /// Packet Direct control; request and answer have the same code.
    PD_API = 135;
    /// Packet Direct buffers.
    PD_POST_BATCH = 136;
}

impl MessageType {
    /// The name, or `"message"` for a code without one: what errors call the message.
    pub(crate) const fn label(self) -> &'static str {
        match self.name() {
            Some(name) => name,
            None => "message",
        }
    }

    /// Whether this is one of the TCP chimney messages 109 to 119 that no known implementation
    /// uses.
    #[must_use]
    pub const fn is_chimney(self) -> bool {
        matches!(self.0, 109..=119)
    }

    /// Reads the type of a message and nothing else.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] if there are fewer than four bytes.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Self, ParseError> {
        field::read::<Self>(bytes, "message", 0, "message_type")
    }
}

/// Checks that `bytes` hold a message of type `expected`.
#[inline]
pub(crate) fn expect(bytes: &[u8], expected: MessageType) -> Result<(), ParseError> {
    match bytes.first_chunk() {
        Some(word) if u32::from_le_bytes(*word) == expected.0 => Ok(()),
        _ => Err(not_expected(bytes, expected)),
    }
}

/// Apart from the check, which is made for each packet, and finds nothing.
#[cold]
fn not_expected(bytes: &[u8], expected: MessageType) -> ParseError {
    let message = expected.label();
    match field::read::<MessageType>(bytes, message, 0, "message_type") {
        Ok(found) => ParseError::Unexpected { message, field: "message_type", value: found.0, expected: expected.0 },
        Err(error) => error,
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "message type {}", self.0),
        }
    }
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageType({} {})", self.0, self.name().unwrap_or("unknown"))
    }
}
