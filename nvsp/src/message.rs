//! Any message: what a receiver that does not know yet what came parses.

use crate::{
    AllocateReceiveBuffer, AllocateReceiveBufferComplete, EmitError, FreeReceiveBuffer, Init, InitComplete,
    MessageType, NdisConfig, NdisVersion, OidQueryEx, OidQueryExComplete, ParseError, PdComplete, PdPostBatch,
    PdRequest, RevokeReceiveBuffer, RevokeSendBuffer, RndisPacket, RndisPacketComplete, SendReceiveBuffer,
    SendReceiveBufferComplete, SendSendBuffer, SendSendBufferComplete, SendTableMessage, SubchannelComplete,
    SubchannelRequest, SwitchDataPath, UplinkConnectState, VfAssociation, field,
};

/// Who sent a message. Two types (133, 135) mean the request from the guest and the answer from the
/// host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The guest (VSC).
    Guest,
    /// The host (VSP).
    Host,
}

/// A message whose type this crate does not know or has no layout for; kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownMessage<'a> {
    message_type: MessageType,
    bytes: &'a [u8],
}

impl<'a> UnknownMessage<'a> {
    /// The type.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The whole message, type and padding included.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    const fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        field::front_slice(out, self.bytes.len())?.copy_from_slice(self.bytes);
        Ok(self.bytes.len())
    }
}

macro_rules! messages {
    ($($code:ident $(from $sender:ident)? => $variant:ident($ty:ident $(<$lifetime:lifetime>)?),)*) => {
        /// Any message of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Message<'a> {
            $(
                #[doc = concat!("[`MessageType::", stringify!($code), "`].")]
                $variant($ty $(<$lifetime>)?),
            )*
            /// Any other type.
            Unknown(UnknownMessage<'a>),
        }

        impl<'a> Message<'a> {
            /// Reads one message; `bytes` is the whole payload of a VMBus packet, padding included.
            ///
            /// # Errors
            /// [`ParseError::Truncated`] naming the first field that is missing.
            pub fn parse(bytes: &'a [u8], sender: Sender) -> Result<Self, ParseError> {
                let message_type = MessageType::peek(bytes)?;
                match (message_type, sender) {
                    $((MessageType::$code, messages!(@sender $($sender)?)) => $ty::parse(bytes).map(Self::$variant),)*
                    _ => Ok(Self::Unknown(UnknownMessage { message_type, bytes })),
                }
            }

            /// The message's type.
            #[must_use]
            pub const fn message_type(&self) -> MessageType {
                match self {
                    $(Self::$variant(_) => MessageType::$code,)*
                    Self::Unknown(message) => message.message_type,
                }
            }

            /// Bytes that [`emit`](Self::emit) writes.
            #[must_use]
            pub fn buffer_len(&self) -> usize {
                match self {
                    $(Self::$variant(message) => message.buffer_len(),)*
                    Self::Unknown(message) => message.buffer_len(),
                }
            }

            /// Writes the message without padding to the front of `out` and returns the bytes
            /// written.
            ///
            /// # Errors
            /// As the `emit` of the message inside; `out` is then unchanged.
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
                match self {
                    $(Self::$variant(message) => message.emit(out),)*
                    Self::Unknown(message) => message.emit(out),
                }
            }
        }

        $(
            impl<'a> From<$ty $(<$lifetime>)?> for Message<'a> {
                fn from(message: $ty $(<$lifetime>)?) -> Self {
                    Self::$variant(message)
                }
            }
        )*
    };
    (@sender) => { _ };
    (@sender $sender:ident) => { Sender::$sender };
}

messages! {
    INIT => Init(Init),
    INIT_COMPLETE => InitComplete(InitComplete),
    NDIS_VERSION => NdisVersion(NdisVersion),
    SEND_RECEIVE_BUFFER => SendReceiveBuffer(SendReceiveBuffer),
    SEND_RECEIVE_BUFFER_COMPLETE => SendReceiveBufferComplete(SendReceiveBufferComplete<'a>),
    REVOKE_RECEIVE_BUFFER => RevokeReceiveBuffer(RevokeReceiveBuffer),
    SEND_SEND_BUFFER => SendSendBuffer(SendSendBuffer),
    SEND_SEND_BUFFER_COMPLETE => SendSendBufferComplete(SendSendBufferComplete),
    REVOKE_SEND_BUFFER => RevokeSendBuffer(RevokeSendBuffer),
    RNDIS_PACKET => RndisPacket(RndisPacket),
    RNDIS_PACKET_COMPLETE => RndisPacketComplete(RndisPacketComplete),
    ALLOCATE_RECEIVE_BUFFER => AllocateReceiveBuffer(AllocateReceiveBuffer),
    ALLOCATE_RECEIVE_BUFFER_COMPLETE => AllocateReceiveBufferComplete(AllocateReceiveBufferComplete),
    FREE_RECEIVE_BUFFER => FreeReceiveBuffer(FreeReceiveBuffer),
    NDIS_CONFIG => NdisConfig(NdisConfig),
    VF_ASSOCIATION => VfAssociation(VfAssociation),
    SWITCH_DATA_PATH => SwitchDataPath(SwitchDataPath),
    UPLINK_CONNECT_STATE => UplinkConnectState(UplinkConnectState),
    OID_QUERY_EX => OidQueryEx(OidQueryEx),
    OID_QUERY_EX_COMPLETE => OidQueryExComplete(OidQueryExComplete),
    SUBCHANNEL from Guest => SubchannelRequest(SubchannelRequest),
    SUBCHANNEL from Host => SubchannelComplete(SubchannelComplete),
    SEND_TABLE => SendTable(SendTableMessage<'a>),
    PD_API from Guest => PdRequest(PdRequest),
    PD_API from Host => PdComplete(PdComplete),
    PD_POST_BATCH => PdPostBatch(PdPostBatch<'a>),
}

impl Message<'_> {
    /// Writes the message and zeros up to `padded_len` bytes in all (never less than
    /// [`buffer_len`](Self::buffer_len)), and returns the bytes written.
    ///
    /// [`Version::message_len`](crate::Version::message_len) is the length that suits a session.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_padded(&self, out: &mut [u8], padded_len: usize) -> Result<usize, EmitError> {
        field::pad(out, self.buffer_len(), padded_len, |out| self.emit(out))
    }
}
