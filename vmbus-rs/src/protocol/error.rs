//! Why bytes are not a control message, and why a message has no bytes.

use core::fmt;

use super::{FeatureFlags, MessageType, Version};

/// Why bytes are not a control message that may be used on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// More bytes than the payload of one SynIC message.
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes of the largest payload.
        limit: usize,
    },
    /// The message ends inside a field.
    Truncated {
        /// The message; [`MessageType::INVALID`] if not even the type is there.
        message: MessageType,
        /// The field, by its name in this crate.
        field: &'static str,
        /// Bytes needed, from the start of the message to the end of the field.
        needed: usize,
        /// Bytes given.
        len: usize,
    },
    /// No message has this type.
    UnknownType {
        /// The type word found.
        message: MessageType,
    },
    /// The message exists, but not on a connection of this version and with these features.
    NotNegotiated {
        /// The message.
        message: MessageType,
        /// The lowest version that has it.
        needed_version: Version,
        /// Feature that must have been agreed on, if one has.
        needed_feature: FeatureFlags,
        /// Version of the connection.
        version: Version,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLong { len, limit } => {
                write!(f, "control message has {len} bytes, limit {limit}")
            }
            Self::Truncated { message, field, needed, len } => {
                write!(f, "{message} needs {needed} bytes to hold {field} and has {len}")
            }
            Self::UnknownType { message } => {
                write!(f, "control message has unknown type {:#x}", message.0)
            }
            Self::NotNegotiated { message, needed_version, needed_feature, version } => {
                write!(f, "{message} needs version {needed_version}")?;
                if needed_feature != FeatureFlags::NONE {
                    write!(f, " and feature {:#x}", needed_feature.0)?;
                }
                write!(f, ", not agreed on at version {version}")
            }
        }
    }
}

impl core::error::Error for ParseError {}

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmitError {
    /// The buffer is shorter than the message.
    BufferTooSmall {
        /// Bytes of the message.
        needed: usize,
        /// Bytes of the buffer.
        len: usize,
    },
    /// The message is longer than the payload of one SynIC message.
    TooLong {
        /// The variable-length field.
        field: &'static str,
        /// Bytes of the message.
        len: usize,
        /// Bytes of the largest payload.
        limit: usize,
    },
    /// A field contradicts another one that decides whether it exists.
    Inconsistent {
        /// The field that may not be there, or is missing.
        field: &'static str,
        /// The field that decides.
        decided_by: &'static str,
        /// Value of the field that decides.
        value: u32,
    },
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BufferTooSmall { needed, len } => {
                write!(f, "message needs {needed} bytes and the buffer has {len}")
            }
            Self::TooLong { field, len, limit } => {
                write!(f, "{field} makes the message {len} bytes long, limit {limit}")
            }
            Self::Inconsistent { field, decided_by, value } => {
                write!(f, "presence of {field} contradicts {decided_by} {value:#x}")
            }
        }
    }
}

impl core::error::Error for EmitError {}
