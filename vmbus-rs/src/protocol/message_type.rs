//! The type words, with what each needs before it may be sent.

use core::fmt;

use super::{Context, FeatureFlags, ParseError, Version};

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest.
    GuestToHost,
    /// The host.
    HostToGuest,
}

/// First word of every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType(pub u32);

macro_rules! message_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $direction:ident, $version:ident, $feature:ident;)+) => {
        impl MessageType {
            $($(#[$doc])* pub const $name: Self = Self($value);)+

            /// Every known type, in order of value.
            pub const ALL: [Self; 29] = [$(Self::$name),+];

            /// Name in capitals, if the type is known.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)+
                    _ => None,
                }
            }

            /// Who sends it, if the type is known.
            pub fn direction(self) -> Option<Direction> {
                match self {
                    $(Self::$name => Some(Direction::$direction),)+
                    _ => None,
                }
            }

            /// Version and feature it needs, if the type is known.
            pub fn requires(self) -> Option<Context> {
                let (version, features) = match self {
                    $(Self::$name => (Version::$version, FeatureFlags::$feature),)+
                    _ => return None,
                };
                Some(Context { version, features })
            }
        }
    };
}

message_types! {
    /// A channel is offered.
    OFFER_CHANNEL = 1, HostToGuest, V0_13, NONE;
    /// A channel goes away.
    RESCIND_CHANNEL_OFFER = 2, HostToGuest, V0_13, NONE;
    /// Asks for the offers.
    REQUEST_OFFERS = 3, GuestToHost, V0_13, NONE;
    /// All offers were sent.
    ALL_OFFERS_DELIVERED = 4, HostToGuest, V0_13, NONE;
    /// Opens a channel.
    OPEN_CHANNEL = 5, GuestToHost, V0_13, NONE;
    /// Result of opening.
    OPEN_CHANNEL_RESULT = 6, HostToGuest, V0_13, NONE;
    /// Closes a channel.
    CLOSE_CHANNEL = 7, GuestToHost, V0_13, NONE;
    /// Starts a range list.
    GPADL_HEADER = 8, GuestToHost, V0_13, NONE;
    /// Continues a range list.
    GPADL_BODY = 9, GuestToHost, V0_13, NONE;
    /// Result of a range list.
    GPADL_CREATED = 10, HostToGuest, V0_13, NONE;
    /// Asks for memory back.
    GPADL_TEARDOWN = 11, GuestToHost, V0_13, NONE;
    /// Gives memory back.
    GPADL_TORNDOWN = 12, HostToGuest, V0_13, NONE;
    /// Releases a channel number.
    RELID_RELEASED = 13, GuestToHost, V0_13, NONE;
    /// Opens the connection.
    INITIATE_CONTACT = 14, GuestToHost, V0_13, NONE;
    /// Result of opening the connection.
    VERSION_RESPONSE = 15, HostToGuest, V0_13, NONE;
    /// Closes the connection.
    UNLOAD = 16, GuestToHost, V0_13, NONE;
    /// The connection is closed.
    UNLOAD_RESPONSE = 17, HostToGuest, V1_1, NONE;
    /// Opens a reserved channel.
    OPEN_RESERVED_CHANNEL = 18, GuestToHost, V4_0, NONE;
    /// Closes a reserved channel.
    CLOSE_RESERVED_CHANNEL = 19, GuestToHost, V0_13, NONE;
    /// A reserved channel is closed.
    CLOSE_RESERVED_RESPONSE = 20, HostToGuest, V4_0, NONE;
    /// Asks for an hvsock connection.
    TL_CONNECT_REQUEST = 21, GuestToHost, V4_0, NONE;
    /// Moves a channel's interrupts.
    MODIFY_CHANNEL = 22, GuestToHost, V4_1, NONE;
    /// Refuses an hvsock connection.
    TL_CONNECT_RESULT = 23, HostToGuest, V4_1, NONE;
    /// Result of moving a channel's interrupts.
    MODIFY_CHANNEL_RESPONSE = 24, HostToGuest, V5_3, NONE;
    /// Moves the monitor pages.
    MODIFY_CONNECTION = 25, GuestToHost, V6_0, MODIFY_CONNECTION;
    /// Result of moving the monitor pages.
    MODIFY_CONNECTION_RESPONSE = 26, HostToGuest, V6_0, MODIFY_CONNECTION;
    /// Stops the host's messages.
    PAUSE = 27, GuestToHost, V6_0, PAUSE_RESUME;
    /// The host's messages have stopped.
    PAUSE_RESPONSE = 28, HostToGuest, V6_0, PAUSE_RESUME;
    /// Starts the host's messages again.
    RESUME = 29, GuestToHost, V6_0, PAUSE_RESUME;
}

impl MessageType {
    /// Not a message.
    pub const INVALID: Self = Self(0);

    /// Checks that the type exists on a connection of this kind.
    pub(crate) fn check(self, context: Context) -> Result<(), ParseError> {
        let needs = self.requires().ok_or(ParseError::UnknownType { message: self })?;
        if context.version >= needs.version && context.features.contains(needs.features) {
            return Ok(());
        }
        Err(ParseError::NotNegotiated {
            message: self,
            needed_version: needs.version,
            needed_feature: needs.features,
            version: context.version,
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "message type {:#x}", self.0),
        }
    }
}
