//! What can be wrong with bytes ([`ParseError`]) and with a buffer to write to ([`EmitError`]).

use core::{error, fmt};

/// Why bytes are not the message they should be.
///
/// `message` is the message's name as in [`MessageType`](crate::MessageType), `field` the field's
/// name in this crate's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParseError {
    /// The message ends before, or within, a field that must be there.
    Truncated {
        /// The message's name.
        message: &'static str,
        /// The first field that is missing.
        field: &'static str,
        /// Bytes the message must have for that field to be there.
        needed: usize,
        /// Bytes the message has.
        len: usize,
    },
    /// A field that allows one value holds another one.
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// The value seen.
        value: u32,
        /// The only value allowed.
        expected: u32,
    },
    /// An offset leads outside of the message.
    BadOffset {
        /// The message's name.
        message: &'static str,
        /// The field that holds the offset.
        field: &'static str,
        /// The value seen.
        value: u32,
        /// The largest value that stays inside.
        limit: usize,
    },
}

impl ParseError {
    /// The field at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Truncated { field, .. } | Self::Unexpected { field, .. } | Self::BadOffset { field, .. } => field,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { message, field, needed, len } => {
                write!(f, "{message}: {field} is missing, it needs {needed} bytes of which there are {len}")
            }
            Self::Unexpected { message, field, value, expected } => {
                write!(f, "{message}: {field} is {value:#x} where only {expected:#x} is allowed")
            }
            Self::BadOffset { message, field, value, limit } => {
                write!(f, "{message}: {field} is {value:#x}, beyond the limit {limit:#x}")
            }
        }
    }
}

impl error::Error for ParseError {}

/// Why a message could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmitError {
    /// The buffer is shorter than the message.
    BufferTooSmall {
        /// Bytes to be written.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// A list has more entries than its count field can say.
    TooManyRecords {
        /// The field that holds the count.
        field: &'static str,
        /// Entries in the list.
        count: usize,
        /// The largest count the field can hold.
        limit: usize,
    },
    /// A table is to be placed over the fixed fields of its message.
    BadOffset {
        /// The field that holds the offset.
        field: &'static str,
        /// The value given.
        value: usize,
        /// The lowest value allowed.
        minimum: usize,
    },
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BufferTooSmall { needed, available } => {
                write!(f, "the message takes {needed} bytes, the buffer has {available}")
            }
            Self::TooManyRecords { field, count, limit } => {
                write!(f, "{field} can count {limit} entries, there are {count}")
            }
            Self::BadOffset { field, value, minimum } => {
                write!(f, "{field} is {value}, below the minimum {minimum}")
            }
        }
    }
}

impl error::Error for EmitError {}
