//! What can be wrong with bytes from the other side, and with a request to write some.
//!
//! Both types are small and `Copy`, and carry the evidence: the field as the protocol documents spell it, the value
//! seen, and the limit it broke.

use core::fmt;

use crate::message::MessageType;

/// Bytes that are not what the protocol says they must be.
///
/// The other side is at fault: it is not trusted, so every one of these is an ordinary outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// The bytes end before a field does.
    Truncated {
        /// First field that does not fit.
        field: &'static str,
        /// Bytes needed to hold it, from the start of the structure.
        needed: u32,
        /// Bytes there are.
        available: u32,
    },
    /// A length or offset is smaller than the protocol allows.
    BelowMinimum {
        /// Field at fault.
        field: &'static str,
        /// Value seen.
        value: u32,
        /// Smallest value allowed.
        minimum: u32,
    },
    /// A length, offset or number is greater than what holds it.
    AboveLimit {
        /// Field at fault.
        field: &'static str,
        /// Value seen.
        value: u32,
        /// Greatest value allowed here.
        limit: u32,
    },
    /// A length or offset is not a multiple of its unit.
    Misaligned {
        /// Field at fault.
        field: &'static str,
        /// Value seen.
        value: u32,
        /// Unit, in bytes.
        unit: u32,
    },
    /// Two regions of one message share bytes.
    Overlap {
        /// Offset field of one region.
        field: &'static str,
        /// Offset field of the other region.
        other: &'static str,
    },
    /// A field that has to have one value has another.
    Unexpected {
        /// Field at fault.
        field: &'static str,
        /// Value seen.
        value: u32,
        /// The only value allowed.
        expected: u32,
    },
    /// A message of a type that this crate does not know.
    UnknownMessage {
        /// Type seen.
        message_type: MessageType,
    },
}

impl ParseError {
    /// Protocol name of the field at fault, for example `DataOffset`.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match *self {
            Self::Truncated { field, .. }
            | Self::BelowMinimum { field, .. }
            | Self::AboveLimit { field, .. }
            | Self::Misaligned { field, .. }
            | Self::Overlap { field, .. }
            | Self::Unexpected { field, .. } => field,
            Self::UnknownMessage { .. } => "MessageType",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { field, needed, available } => {
                write!(f, "{field} needs {needed} bytes, but there are {available}")
            }
            Self::BelowMinimum { field, value, minimum } => {
                write!(f, "{field} is {value}, less than {minimum}")
            }
            Self::AboveLimit { field, value, limit } => {
                write!(f, "{field} is {value}, more than {limit}")
            }
            Self::Misaligned { field, value, unit } => {
                write!(f, "{field} is {value}, not a multiple of {unit}")
            }
            Self::Overlap { field, other } => {
                write!(f, "the region of {field} overlaps the region of {other}")
            }
            Self::Unexpected { field, value, expected } => {
                write!(f, "{field} is {value:#x} instead of {expected:#x}")
            }
            Self::UnknownMessage { message_type } => {
                write!(f, "message type {message_type} is not known")
            }
        }
    }
}

impl core::error::Error for ParseError {}

/// A value that cannot be written.
///
/// The caller is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmitError {
    /// The slice to write into is shorter than `buffer_len()` said.
    BufferTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// A value does not fit its field, or breaks a limit of the protocol.
    TooLarge {
        /// Field at fault.
        field: &'static str,
        /// Value given.
        value: usize,
        /// Greatest value that fits.
        limit: usize,
    },
    /// A value is smaller than the protocol allows.
    TooSmall {
        /// Field at fault.
        field: &'static str,
        /// Value given.
        value: usize,
        /// Smallest value allowed.
        minimum: usize,
    },
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BufferTooSmall { needed, available } => {
                write!(f, "{needed} bytes to write, but room for {available}")
            }
            Self::TooLarge { field, value, limit } => {
                write!(f, "{field} would be {value}, more than {limit}")
            }
            Self::TooSmall { field, value, minimum } => {
                write!(f, "{field} would be {value}, less than {minimum}")
            }
        }
    }
}

impl core::error::Error for EmitError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn errors_name_field_value_and_limit() {
        let error = ParseError::AboveLimit { field: "DataLength", value: 119, limit: 118 };
        assert_eq!(error.to_string(), "DataLength is 119, more than 118");
        assert_eq!(error.field(), "DataLength");
        let error = EmitError::BufferTooSmall { needed: 44, available: 43 };
        assert_eq!(error.to_string(), "44 bytes to write, but room for 43");
    }

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<ParseError>() <= 40);
        assert!(size_of::<EmitError>() <= 40);
    }
}
