//! Messages of fixed length, which are words and nothing else: most of the control messages.

use crate::message::RequestId;
use crate::status::Status;

/// A field of four bytes.
pub(super) trait Word: Copy {
    /// The field as it was read.
    fn from_word(word: u32) -> Self;
    /// The field as it is written.
    fn word(self) -> u32;
}

impl Word for u32 {
    fn from_word(word: u32) -> Self {
        word
    }

    fn word(self) -> u32 {
        self
    }
}

impl Word for RequestId {
    fn from_word(word: u32) -> Self {
        Self(word)
    }

    fn word(self) -> u32 {
        self.0
    }
}

impl Word for Status {
    fn from_word(word: u32) -> Self {
        Self(word)
    }

    fn word(self) -> u32 {
        self.0
    }
}

/// Defines a message of fixed length with its `parse` and `emit`.
///
/// `Name = TYPE, n bytes { offset => field: Type = "ProtocolName", … }`: `TYPE` is a constant of
/// [`MessageType`](crate::message::MessageType), offsets count from the message's first byte; the fields cover all that
/// follows the header.
macro_rules! message {
    (
        $(#[$meta:meta])*
        $name:ident = $message_type:ident, $len:literal bytes {
            $( $(#[$field_meta:meta])* $offset:literal => $field:ident: $ty:ty = $protocol_name:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        impl $name {
            /// Bytes of the message.
            pub const LEN: usize = $len;

            /// Reads the message at the start of `range`.
            ///
            /// # Errors
            ///
            /// [`ParseError`](crate::error::ParseError) naming the header field that is wrong or the first field that is
            /// missing.
            pub fn parse(range: &[u8]) -> Result<Self, $crate::error::ParseError> {
                use $crate::control::fixed::Word;
                let message_type = $crate::message::MessageType::$message_type;
                let fields = $crate::message::MessageHeader::expect(range, message_type)?;
                Ok(Self { $( $field: <$ty>::from_word(fields.u32($protocol_name, $offset)?), )* })
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
            /// [`EmitError::BufferTooSmall`](crate::error::EmitError::BufferTooSmall) if `out` is shorter than
            /// [`Self::buffer_len`].
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, $crate::error::EmitError> {
                use $crate::control::fixed::Word;
                let out = $crate::bytes::room(out, Self::LEN)?;
                let message_type = $crate::message::MessageType::$message_type;
                $crate::message::MessageHeader::put(out, message_type, Self::LEN as u32);
                $( $crate::bytes::put_u32(out, $offset, self.$field.word()); )*
                Ok(Self::LEN)
            }
        }

        // Nothing is left out.
        const _: () = assert!($len == $crate::MESSAGE_HEADER_LEN + 4 * [$($offset),*].len());
    };
}
pub(super) use message;
