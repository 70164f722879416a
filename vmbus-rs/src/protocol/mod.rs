//! Control messages between guest and host: what each one holds, and its bytes.
//!
//! All messages are little-endian and packed; each is the payload of one SynIC message ([`crate::synic`]), at most
//! [`MAX_MESSAGE`] bytes. [`Message::parse`] and [`Message::emit`] cover types 1 to 29 in both directions; what the
//! messages *mean* is the subject of [`crate::client`] on the guest's side.
//!
//! Some messages grew over time. Which form is meant depends on what guest and host agreed on, so parsing takes a
//! [`Context`]. Bytes behind the last field are ignored, since some senders always send 240.
//!
//! Sources: Linux `include/linux/hyperv.h`, `drivers/hv/`; OpenVMM `vmbus_core/src/protocol.rs`; DPDK
//! `drivers/bus/vmbus/rte_vmbus_reg.h`; FreeBSD `sys/dev/hyperv/vmbus/vmbus_reg.h`.

mod channel;
mod codec;
mod connection;
mod error;
mod gpadl;
mod ids;
mod message_type;
mod offer;
mod version;

pub use channel::{
    CloseChannel, CloseReservedChannel, CloseReservedResponse, ModifyChannel, ModifyChannelResponse, OpenChannel,
    OpenFlags, OpenReservedChannel, OpenResult, RelIdReleased, Rescind, SignalParameters,
};
pub use connection::{
    ConnectionState, ContactTarget, InitiateContact, ModifyConnection, ModifyConnectionResponse, MonitorPages,
    TlConnectRequest, TlConnectResult, VersionResponse,
};
pub use error::{EmitError, ParseError};
pub use gpadl::{GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, GpadlTorndown};
pub use ids::{ConnectionId, OpenId, RelId, Status, VpIndex};
pub use message_type::{Direction, MessageType};
pub use offer::{HvsockOffer, Offer, OfferFlags, PipeType, USER_DEFINED_LEN};
pub use version::{FeatureFlags, Version};

use crate::guid::Guid;
use codec::{Reader, Writer};

/// Bytes of the largest message: the payload of one SynIC message.
pub const MAX_MESSAGE: usize = 240;

/// Bytes before each body: the type, and four bytes of padding.
pub const HEADER_LEN: usize = 8;

/// What guest and host agreed on, which decides the form of some messages.
///
/// For VERSION_RESPONSE it is what the guest asked for, since nothing is agreed on yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Version of the connection.
    pub version: Version,
    /// Features in force; none below version 6.0.
    pub features: FeatureFlags,
}

impl Context {
    /// Before INITIATE_CONTACT: only what every version has.
    pub const UNCONNECTED: Self = Self::new(Version::V0_13);

    /// A connection without optional features.
    pub const fn new(version: Version) -> Self {
        Self { version, features: FeatureFlags::NONE }
    }
}

/// A control message. Only the range data of GPADL messages is borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A channel is offered.
    Offer(Offer),
    /// A channel goes away.
    Rescind(Rescind),
    /// Asks for the offers.
    RequestOffers,
    /// All channels that exist now were offered.
    AllOffersDelivered,
    /// Opens a channel.
    OpenChannel(OpenChannel),
    /// Answers [`Message::OpenChannel`].
    OpenResult(OpenResult),
    /// Closes a channel.
    CloseChannel(CloseChannel),
    /// Starts a range list.
    GpadlHeader(GpadlHeader<'a>),
    /// Continues a range list.
    GpadlBody(GpadlBody<'a>),
    /// Answers a complete range list.
    GpadlCreated(GpadlCreated),
    /// Asks for memory back.
    GpadlTeardown(GpadlTeardown),
    /// Gives memory back.
    GpadlTorndown(GpadlTorndown),
    /// The guest is done with a rescinded channel.
    RelIdReleased(RelIdReleased),
    /// Opens the connection.
    InitiateContact(InitiateContact),
    /// Answers [`Message::InitiateContact`].
    VersionResponse(VersionResponse),
    /// Closes the connection.
    Unload,
    /// Answers [`Message::Unload`].
    UnloadResponse,
    /// Opens a reserved channel.
    OpenReservedChannel(OpenReservedChannel),
    /// Closes a reserved channel.
    CloseReservedChannel(CloseReservedChannel),
    /// Answers [`Message::CloseReservedChannel`].
    CloseReservedResponse(CloseReservedResponse),
    /// Asks for an hvsock connection.
    TlConnectRequest(TlConnectRequest),
    /// Moves a channel's interrupts.
    ModifyChannel(ModifyChannel),
    /// Refuses an hvsock connection.
    TlConnectResult(TlConnectResult),
    /// Answers [`Message::ModifyChannel`].
    ModifyChannelResponse(ModifyChannelResponse),
    /// Moves the monitor pages.
    ModifyConnection(ModifyConnection),
    /// Answers [`Message::ModifyConnection`].
    ModifyConnectionResponse(ModifyConnectionResponse),
    /// Asks the host to stop sending messages.
    Pause,
    /// Answers [`Message::Pause`].
    PauseResponse,
    /// Ends the pause.
    Resume,
}

impl<'a> Message<'a> {
    /// Reads one message.
    ///
    /// Total over all inputs; the bytes have to be the reader's own copy if the other side could still change them.
    ///
    /// # Errors
    /// Any [`ParseError`]: too long, truncated, of unknown type, or not part of the agreed version and features.
    pub fn parse(bytes: &'a [u8], context: Context) -> Result<Self, ParseError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(ParseError::TooLong { len: bytes.len(), limit: MAX_MESSAGE });
        }
        let mut header = Reader::new(MessageType::INVALID, bytes, 0);
        let message: MessageType = header.take("message_type")?;
        let mut reader = Reader::new(message, bytes, size_of::<MessageType>());
        let _padding: u32 = reader.take("padding")?;
        message.check(context)?;
        let r = &mut reader;
        Ok(match message {
            MessageType::OFFER_CHANNEL => Self::Offer(Offer::read(r)?),
            MessageType::RESCIND_CHANNEL_OFFER => Self::Rescind(Rescind::read(r)?),
            MessageType::REQUEST_OFFERS => Self::RequestOffers,
            MessageType::ALL_OFFERS_DELIVERED => Self::AllOffersDelivered,
            MessageType::OPEN_CHANNEL => Self::OpenChannel(OpenChannel::read(r, context)?),
            MessageType::OPEN_CHANNEL_RESULT => Self::OpenResult(OpenResult::read(r)?),
            MessageType::CLOSE_CHANNEL => Self::CloseChannel(CloseChannel::read(r)?),
            MessageType::GPADL_HEADER => Self::GpadlHeader(GpadlHeader::read(r)?),
            MessageType::GPADL_BODY => Self::GpadlBody(GpadlBody::read(r)?),
            MessageType::GPADL_CREATED => Self::GpadlCreated(GpadlCreated::read(r)?),
            MessageType::GPADL_TEARDOWN => Self::GpadlTeardown(GpadlTeardown::read(r)?),
            MessageType::GPADL_TORNDOWN => Self::GpadlTorndown(GpadlTorndown::read(r)?),
            MessageType::RELID_RELEASED => Self::RelIdReleased(RelIdReleased::read(r)?),
            MessageType::INITIATE_CONTACT => Self::InitiateContact(InitiateContact::read(r)?),
            MessageType::VERSION_RESPONSE => Self::VersionResponse(VersionResponse::read(r, context)?),
            MessageType::UNLOAD => Self::Unload,
            MessageType::UNLOAD_RESPONSE => Self::UnloadResponse,
            MessageType::OPEN_RESERVED_CHANNEL => Self::OpenReservedChannel(OpenReservedChannel::read(r)?),
            MessageType::CLOSE_RESERVED_CHANNEL => Self::CloseReservedChannel(CloseReservedChannel::read(r)?),
            MessageType::CLOSE_RESERVED_RESPONSE => Self::CloseReservedResponse(CloseReservedResponse::read(r)?),
            MessageType::TL_CONNECT_REQUEST => Self::TlConnectRequest(TlConnectRequest::read(r, context)?),
            MessageType::MODIFY_CHANNEL => Self::ModifyChannel(ModifyChannel::read(r)?),
            MessageType::TL_CONNECT_RESULT => Self::TlConnectResult(TlConnectResult::read(r)?),
            MessageType::MODIFY_CHANNEL_RESPONSE => Self::ModifyChannelResponse(ModifyChannelResponse::read(r)?),
            MessageType::MODIFY_CONNECTION => Self::ModifyConnection(ModifyConnection::read(r)?),
            MessageType::MODIFY_CONNECTION_RESPONSE => {
                Self::ModifyConnectionResponse(ModifyConnectionResponse::read(r)?)
            }
            MessageType::PAUSE => Self::Pause,
            MessageType::PAUSE_RESPONSE => Self::PauseResponse,
            MessageType::RESUME => Self::Resume,
            message => return Err(ParseError::UnknownType { message }),
        })
    }

    /// Writes the message to the front of `buf` and returns its length. Padding is written as zeros.
    ///
    /// # Errors
    /// [`EmitError::BufferTooSmall`], [`EmitError::TooLong`] for GPADL data beyond one message, and
    /// [`EmitError::Inconsistent`] if an optional part contradicts the field that decides about it. Nothing is written
    /// then.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize, EmitError> {
        self.check()?;
        let needed = self.encoded_len();
        let len = buf.len();
        let target = buf.get_mut(..needed).ok_or(EmitError::BufferTooSmall { needed, len })?;
        let mut writer = Writer::new(target);
        let w = &mut writer;
        w.put(self.message_type());
        w.put(0_u32);
        match self {
            Self::RequestOffers
            | Self::AllOffersDelivered
            | Self::Unload
            | Self::UnloadResponse
            | Self::Pause
            | Self::PauseResponse
            | Self::Resume => {}
            Self::Offer(m) => m.write(w),
            Self::Rescind(m) => m.write(w),
            Self::OpenChannel(m) => m.write(w),
            Self::OpenResult(m) => m.write(w),
            Self::CloseChannel(m) => m.write(w),
            Self::GpadlHeader(m) => m.write(w),
            Self::GpadlBody(m) => m.write(w),
            Self::GpadlCreated(m) => m.write(w),
            Self::GpadlTeardown(m) => m.write(w),
            Self::GpadlTorndown(m) => m.write(w),
            Self::RelIdReleased(m) => m.write(w),
            Self::InitiateContact(m) => m.write(w),
            Self::VersionResponse(m) => m.write(w),
            Self::OpenReservedChannel(m) => m.write(w),
            Self::CloseReservedChannel(m) => m.write(w),
            Self::CloseReservedResponse(m) => m.write(w),
            Self::TlConnectRequest(m) => m.write(w),
            Self::ModifyChannel(m) => m.write(w),
            Self::TlConnectResult(m) => m.write(w),
            Self::ModifyChannelResponse(m) => m.write(w),
            Self::ModifyConnection(m) => m.write(w),
            Self::ModifyConnectionResponse(m) => m.write(w),
        }
        debug_assert_eq!(writer.remaining(), 0, "message is shorter than its computed length");
        Ok(needed)
    }

    /// Bytes of the whole message, header included.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match self {
                Self::RequestOffers
                | Self::AllOffersDelivered
                | Self::Unload
                | Self::UnloadResponse
                | Self::Pause
                | Self::PauseResponse
                | Self::Resume => 0,
                Self::Offer(_) => Offer::BODY_LEN,
                Self::Rescind(_) => Rescind::BODY_LEN,
                Self::OpenChannel(m) => OpenChannel::BODY_LEN + m.signal.map_or(0, |_| SignalParameters::BODY_LEN),
                Self::OpenResult(_) => OpenResult::BODY_LEN,
                Self::CloseChannel(_) => CloseChannel::BODY_LEN,
                Self::GpadlHeader(m) => GpadlHeader::BODY_LEN + m.data.len(),
                Self::GpadlBody(m) => GpadlBody::BODY_LEN + m.data.len(),
                Self::GpadlCreated(_) => GpadlCreated::BODY_LEN,
                Self::GpadlTeardown(_) => GpadlTeardown::BODY_LEN,
                Self::GpadlTorndown(_) => GpadlTorndown::BODY_LEN,
                Self::RelIdReleased(_) => RelIdReleased::BODY_LEN,
                Self::InitiateContact(m) => InitiateContact::BODY_LEN + m.client_id.map_or(0, |_| Guid::LEN),
                Self::VersionResponse(m) => m.body_len(),
                Self::OpenReservedChannel(_) => OpenReservedChannel::BODY_LEN,
                Self::CloseReservedChannel(_) => CloseReservedChannel::BODY_LEN,
                Self::CloseReservedResponse(_) => CloseReservedResponse::BODY_LEN,
                Self::TlConnectRequest(m) => TlConnectRequest::BODY_LEN + m.silo_id.map_or(0, |_| Guid::LEN),
                Self::ModifyChannel(_) => ModifyChannel::BODY_LEN,
                Self::TlConnectResult(_) => TlConnectResult::BODY_LEN,
                Self::ModifyChannelResponse(_) => ModifyChannelResponse::BODY_LEN,
                Self::ModifyConnection(_) => ModifyConnection::BODY_LEN,
                Self::ModifyConnectionResponse(_) => ModifyConnectionResponse::BODY_LEN,
            }
    }

    /// The message's type.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Offer(_) => MessageType::OFFER_CHANNEL,
            Self::Rescind(_) => MessageType::RESCIND_CHANNEL_OFFER,
            Self::RequestOffers => MessageType::REQUEST_OFFERS,
            Self::AllOffersDelivered => MessageType::ALL_OFFERS_DELIVERED,
            Self::OpenChannel(_) => MessageType::OPEN_CHANNEL,
            Self::OpenResult(_) => MessageType::OPEN_CHANNEL_RESULT,
            Self::CloseChannel(_) => MessageType::CLOSE_CHANNEL,
            Self::GpadlHeader(_) => MessageType::GPADL_HEADER,
            Self::GpadlBody(_) => MessageType::GPADL_BODY,
            Self::GpadlCreated(_) => MessageType::GPADL_CREATED,
            Self::GpadlTeardown(_) => MessageType::GPADL_TEARDOWN,
            Self::GpadlTorndown(_) => MessageType::GPADL_TORNDOWN,
            Self::RelIdReleased(_) => MessageType::RELID_RELEASED,
            Self::InitiateContact(_) => MessageType::INITIATE_CONTACT,
            Self::VersionResponse(_) => MessageType::VERSION_RESPONSE,
            Self::Unload => MessageType::UNLOAD,
            Self::UnloadResponse => MessageType::UNLOAD_RESPONSE,
            Self::OpenReservedChannel(_) => MessageType::OPEN_RESERVED_CHANNEL,
            Self::CloseReservedChannel(_) => MessageType::CLOSE_RESERVED_CHANNEL,
            Self::CloseReservedResponse(_) => MessageType::CLOSE_RESERVED_RESPONSE,
            Self::TlConnectRequest(_) => MessageType::TL_CONNECT_REQUEST,
            Self::ModifyChannel(_) => MessageType::MODIFY_CHANNEL,
            Self::TlConnectResult(_) => MessageType::TL_CONNECT_RESULT,
            Self::ModifyChannelResponse(_) => MessageType::MODIFY_CHANNEL_RESPONSE,
            Self::ModifyConnection(_) => MessageType::MODIFY_CONNECTION,
            Self::ModifyConnectionResponse(_) => MessageType::MODIFY_CONNECTION_RESPONSE,
            Self::Pause => MessageType::PAUSE,
            Self::PauseResponse => MessageType::PAUSE_RESPONSE,
            Self::Resume => MessageType::RESUME,
        }
    }

    /// Checks what the layout cannot express.
    fn check(&self) -> Result<(), EmitError> {
        match self {
            Self::InitiateContact(contact) => contact.check(),
            Self::VersionResponse(response) => response.check(),
            Self::GpadlHeader(_) | Self::GpadlBody(_) if self.encoded_len() > MAX_MESSAGE => {
                Err(EmitError::TooLong { field: "data", len: self.encoded_len(), limit: MAX_MESSAGE })
            }
            _ => Ok(()),
        }
    }
}
