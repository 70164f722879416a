//! Reading and writing one field at a known offset: the only place of the crate that touches raw
//! bytes.
//!
//! Everything in NVSP is little-endian and sits at an offset counted from the message's own first
//! byte (its type). The [`message!`] macro turns a table of offsets into a type with `parse` and
//! `emit`; see its comment.

use crate::ParseError;

/// How one field is laid out: the implementing type names the layout, `Value` is what the program
/// sees.
///
/// Integers and open newtypes are their own layout; [`Bool32`] shows a layout that differs from its
/// value.
pub(crate) trait Wire {
    /// What the field holds once read.
    type Value: Copy;
    /// Bytes on the wire.
    const SIZE: usize;
    /// Reads from the front of `bytes`; `None` if there are fewer than [`SIZE`](Self::SIZE).
    fn read(bytes: &[u8]) -> Option<Self::Value>;
    /// Writes to `out`, which is exactly [`SIZE`](Self::SIZE) bytes long.
    fn write(value: Self::Value, out: &mut [u8]);
}

/// Reads the field `field` of message `message` at `offset`.
#[inline]
pub(crate) fn read<W: Wire>(
    bytes: &[u8],
    message: &'static str,
    offset: usize,
    field: &'static str,
) -> Result<W::Value, ParseError> {
    bytes.get(offset..).and_then(W::read).ok_or(ParseError::Truncated {
        message,
        field,
        needed: offset.saturating_add(W::SIZE),
        len: bytes.len(),
    })
}

macro_rules! integer {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            type Value = $ty;
            const SIZE: usize = size_of::<$ty>();
            #[inline]
            fn read(bytes: &[u8]) -> Option<$ty> {
                bytes.first_chunk().copied().map(<$ty>::from_le_bytes)
            }
            #[inline]
            fn write(value: $ty, out: &mut [u8]) {
                out.copy_from_slice(&value.to_le_bytes());
            }
        }
    )*};
}
integer!(u8, u16, u32, u64);

/// One byte; zero is false, anything else true, true is written as 1.
impl Wire for bool {
    type Value = bool;
    const SIZE: usize = 1;
    #[inline]
    fn read(bytes: &[u8]) -> Option<bool> {
        u8::read(bytes).map(|value| value != 0)
    }
    #[inline]
    fn write(value: bool, out: &mut [u8]) {
        u8::write(value.into(), out);
    }
}

/// A truth value in four bytes; zero is false, anything else true, true is written as 1.
pub(crate) struct Bool32;

impl Wire for Bool32 {
    type Value = bool;
    const SIZE: usize = 4;
    #[inline]
    fn read(bytes: &[u8]) -> Option<bool> {
        u32::read(bytes).map(|value| value != 0)
    }
    #[inline]
    fn write(value: bool, out: &mut [u8]) {
        u32::write(value.into(), out);
    }
}

/// Gives an open newtype (`struct Status(pub u32)`) the layout of the integer inside.
macro_rules! wire_newtype {
    ($ty:ident($int:ty)) => {
        impl $crate::field::Wire for $ty {
            type Value = $ty;
            const SIZE: usize = <$int as $crate::field::Wire>::SIZE;
            #[inline]
            fn read(bytes: &[u8]) -> Option<$ty> {
                <$int as $crate::field::Wire>::read(bytes).map($ty)
            }
            #[inline]
            fn write(value: $ty, out: &mut [u8]) {
                <$int as $crate::field::Wire>::write(value.0, out);
            }
        }
    };
}
pub(crate) use wire_newtype;

/// Declares a message of fixed layout.
///
/// `Name = TYPE, n bytes { offset => field: Type, … }`: `TYPE` is a constant of
/// [`MessageType`](crate::MessageType), `n` the length that is written (reserved bytes at the end
/// included), the offsets count from the message's first byte and must ascend. `field: Type as
/// Layout` names a layout that is not the type's own. `fixed` is one more field that must hold one
/// value. A receiver needs the named fields only, so `MIN_LEN` ends with the last of them; bytes in
/// between and after are ignored when read and zero when written.
macro_rules! message {
    (
        $(#[$meta:meta])*
        $name:ident = $message_type:ident, $len:literal bytes
        $(, fixed $fixed_offset:literal => $fixed_field:ident: $fixed_ty:ty = $fixed_value:expr;)?
        {
            $($(#[$field_meta:meta])* $offset:literal => $field:ident: $ty:ty $(as $layout:ty)?),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl $name {
            /// The type this message carries in its first four bytes.
            pub const MESSAGE_TYPE: $crate::MessageType = $crate::MessageType::$message_type;
            /// Bytes a receiver needs: the message up to the end of its last field that means
            /// something.
            pub const MIN_LEN: usize = {
                let min = 4;
                $(let min = $crate::field::end_of::<$fixed_ty>(min, $fixed_offset);)?
                $(let min = $crate::field::end_of::<$crate::field::layout!($ty $(, $layout)?)>(min, $offset);)*
                assert!(min <= $len, "fields must fit in the stated length");
                min
            };
            /// Bytes written without padding: [`MIN_LEN`](Self::MIN_LEN) and the reserved bytes
            /// behind it.
            pub const LEN: usize = $len;

            /// Reads the message from the front of `bytes`; more bytes than needed are fine.
            ///
            /// # Errors
            /// [`ParseError::Truncated`](crate::ParseError::Truncated) naming the first field that
            /// is missing, [`ParseError::Unexpected`](crate::ParseError::Unexpected) if `bytes`
            /// hold another message.
            #[inline]
            pub fn parse(bytes: &[u8]) -> Result<Self, $crate::ParseError> {
                $crate::message_type::expect(bytes, Self::MESSAGE_TYPE)?;
                $(
                    let found = $crate::field::read::<$fixed_ty>(
                        bytes, const { Self::MESSAGE_TYPE.label() }, $fixed_offset, stringify!($fixed_field))?;
                    let expected: $fixed_ty = $fixed_value;
                    if found != expected {
                        return Err($crate::ParseError::Unexpected {
                            message: Self::MESSAGE_TYPE.label(),
                            field: stringify!($fixed_field),
                            value: found.0,
                            expected: expected.0,
                        });
                    }
                )?
                Ok(Self {
                    $($field: $crate::field::read::<$crate::field::layout!($ty $(, $layout)?)>(
                        bytes, const { Self::MESSAGE_TYPE.label() }, $offset, stringify!($field))?,)*
                })
            }

            /// The message in an array, zero-padded to `N` bytes; `N` below [`LEN`](Self::LEN) does
            /// not compile.
            #[inline]
            #[must_use]
            pub fn to_array<const N: usize>(&self) -> [u8; N] {
                const { assert!(N >= $len && Self::MIN_LEN <= $len, "the message is longer than the array") };
                let mut out = [0; N];
                // Every range below ends at or before `MIN_LEN`, which the assertion keeps within
                // `N`.
                $crate::field::put::<$crate::MessageType>(&mut out, 0, Self::MESSAGE_TYPE);
                $($crate::field::put::<$fixed_ty>(&mut out, $fixed_offset, $fixed_value);)?
                $($crate::field::put::<$crate::field::layout!($ty $(, $layout)?)>(&mut out, $offset, self.$field);)*
                out
            }

            /// Bytes that [`emit`](Self::emit) writes.
            #[inline]
            #[must_use]
            pub const fn buffer_len(&self) -> usize {
                Self::LEN
            }

            /// Writes the message without padding to the front of `out` and returns the bytes
            /// written.
            ///
            /// # Errors
            /// [`EmitError::BufferTooSmall`](crate::EmitError::BufferTooSmall); `out` is then
            /// unchanged.
            #[inline]
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, $crate::EmitError> {
                *$crate::field::front(out)? = self.to_array::<$len>();
                Ok($len)
            }

            /// Writes the message and zeros up to `padded_len` bytes in all (never less than
            /// [`buffer_len`](Self::buffer_len)), and returns the bytes written.
            ///
            /// # Errors
            /// [`EmitError::BufferTooSmall`](crate::EmitError::BufferTooSmall); `out` is then
            /// unchanged.
            #[inline]
            pub fn emit_padded(&self, out: &mut [u8], padded_len: usize) -> Result<usize, $crate::EmitError> {
                $crate::field::pad(out, self.buffer_len(), padded_len, |out| self.emit(out))
            }
        }
    };
}
pub(crate) use message;

/// The layout of a field: the one named, or else the type's own.
macro_rules! layout {
    ($ty:ty) => {
        $ty
    };
    ($ty:ty, $layout:ty) => {
        $layout
    };
}
pub(crate) use layout;

/// The end of a field of layout `W` at `offset`, checked at compile time to lie behind the end so
/// far.
pub(crate) const fn end_of<W: Wire>(so_far: usize, offset: usize) -> usize {
    assert!(offset >= so_far, "fields must ascend and not overlap");
    offset + W::SIZE
}

/// Writes one field. `offset` and `N` are constants that the caller has checked against each other
/// at compile time.
#[inline]
pub(crate) fn put<W: Wire>(out: &mut [u8], offset: usize, value: W::Value) {
    W::write(value, &mut out[offset..offset + W::SIZE]);
}

/// The first `N` bytes of `out`.
#[inline]
pub(crate) fn front<const N: usize>(out: &mut [u8]) -> Result<&mut [u8; N], crate::EmitError> {
    let available = out.len();
    out.first_chunk_mut().ok_or(crate::EmitError::BufferTooSmall { needed: N, available })
}

/// The first `needed` bytes of `out`.
#[inline]
pub(crate) fn front_slice(out: &mut [u8], needed: usize) -> Result<&mut [u8], crate::EmitError> {
    let available = out.len();
    out.get_mut(..needed).ok_or(crate::EmitError::BufferTooSmall { needed, available })
}

/// Runs `emit`, which writes `len` bytes, and zeroes the rest up to `padded_len`.
#[inline]
pub(crate) fn pad(
    out: &mut [u8],
    len: usize,
    padded_len: usize,
    emit: impl FnOnce(&mut [u8]) -> Result<usize, crate::EmitError>,
) -> Result<usize, crate::EmitError> {
    let out = front_slice(out, len.max(padded_len))?;
    let written = emit(out)?;
    if let Some(rest) = out.get_mut(written..) {
        rest.fill(0);
    }
    Ok(out.len())
}
