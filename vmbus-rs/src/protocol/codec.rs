//! Reading and writing the little-endian fields of control messages, one named field at a time.
//!
//! Every access is by bytes, never by casting: the 64-bit fields of INITIATE_CONTACT are not aligned in every place a
//! message may stand (OpenVMM commit a70e5c457 fixed such a read).

use super::{ConnectionId, OpenId, RelId, Status, Version, VpIndex};
use super::{ConnectionState, FeatureFlags, MessageType, OfferFlags, OpenFlags, ParseError};
use crate::gpadl::GpadlId;
use crate::guid::Guid;

/// Takes fields off the front of a message.
pub(crate) struct Reader<'a> {
    message: MessageType,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader that stands behind the header.
    pub(crate) fn new(message: MessageType, bytes: &'a [u8], at: usize) -> Self {
        Self { message, bytes, at }
    }

    /// The next field.
    pub(crate) fn take<F: Field>(&mut self, field: &'static str) -> Result<F, ParseError> {
        F::read(self, field)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        let array = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).ok_or(ParseError::Truncated {
            message: self.message,
            field,
            needed: self.at.saturating_add(N),
            len: self.bytes.len(),
        })?;
        self.at += N;
        Ok(*array)
    }

    /// Everything behind the fields read so far.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }
}

/// Puts fields into a buffer whose length was checked beforehand.
pub(crate) struct Writer<'b> {
    rest: &'b mut [u8],
}

impl<'b> Writer<'b> {
    /// A writer over exactly the bytes of one message.
    pub(crate) fn new(message: &'b mut [u8]) -> Self {
        Self { rest: message }
    }

    /// Writes the next field.
    pub(crate) fn put<F: Field>(&mut self, value: F) {
        value.write(self);
    }

    /// Writes the next bytes.
    ///
    /// [`super::Message::emit`] sizes the buffer by `encoded_len`, so running out of room is a bug in this crate; it is
    /// caught in debug builds and drops the bytes, never panics, in release builds.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((head, tail)) = rest.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.rest = tail;
        } else {
            debug_assert!(false, "message is longer than its computed length");
        }
    }

    /// Bytes not written yet.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// A value with one fixed-size little-endian form.
pub(crate) trait Field: Sized {
    /// Bytes on the wire.
    const LEN: usize;

    /// Takes the value off the reader.
    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError>;

    /// Appends the value.
    fn write(self, writer: &mut Writer<'_>);
}

macro_rules! integer_fields {
    ($($int:ty),+) => {$(
        impl Field for $int {
            const LEN: usize = size_of::<$int>();

            fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError> {
                reader.array(field).map(Self::from_le_bytes)
            }

            fn write(self, writer: &mut Writer<'_>) {
                writer.bytes(&self.to_le_bytes());
            }
        }
    )+};
}

integer_fields!(u8, u16, u32, u64);

macro_rules! newtype_fields {
    ($($name:ident($int:ty)),+ $(,)?) => {$(
        impl Field for $name {
            const LEN: usize = size_of::<$int>();

            fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError> {
                reader.take(field).map(Self)
            }

            fn write(self, writer: &mut Writer<'_>) {
                writer.put(self.0);
            }
        }
    )+};
}

newtype_fields!(
    ConnectionId(u32),
    ConnectionState(u8),
    FeatureFlags(u32),
    GpadlId(u32),
    MessageType(u32),
    OfferFlags(u16),
    OpenFlags(u16),
    OpenId(u32),
    RelId(u32),
    Status(u32),
    Version(u32),
    VpIndex(u32),
);

impl<const N: usize> Field for [u8; N] {
    const LEN: usize = N;

    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError> {
        reader.array(field)
    }

    fn write(self, writer: &mut Writer<'_>) {
        writer.bytes(&self);
    }
}

impl Field for Guid {
    const LEN: usize = Guid::LEN;

    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError> {
        reader.array(field).map(Self::from_bytes)
    }

    fn write(self, writer: &mut Writer<'_>) {
        writer.bytes(&self.to_bytes());
    }
}

/// Declares the body of a message whose layout is one fixed sequence of fields.
macro_rules! fixed_layout {
    (
        $(#[$outer:meta])*
        pub struct $name:ident {
            $($(#[$inner:meta])* pub $field:ident: $kind:ty,)*
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$inner])* pub $field: $kind,)*
        }

        impl $name {
            /// Bytes of the body, the header not counted.
            pub(crate) const BODY_LEN: usize = 0 $(+ <$kind as $crate::protocol::codec::Field>::LEN)*;

            pub(crate) fn read(
                reader: &mut $crate::protocol::codec::Reader<'_>,
            ) -> Result<Self, $crate::protocol::ParseError> {
                Ok(Self { $($field: reader.take(stringify!($field))?,)* })
            }

            pub(crate) fn write(self, writer: &mut $crate::protocol::codec::Writer<'_>) {
                $(writer.put(self.$field);)*
            }
        }
    };
}

pub(crate) use fixed_layout;
