//! Several messages in one send section.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c`; OpenVMM `netvsp/src/lib.rs`. The receive direction has no batches:
//! there each message is in a range of its own.

use core::iter::FusedIterator;

use super::PacketMsg;
use crate::bytes::wire_len;
use crate::control::InitializeComplete;
use crate::error::ParseError;
use crate::message::MessageType;

/// Bytes of padding that make `len` a multiple of `alignment`, which is a power of two.
///
/// Every message of a batch but the last is padded, and counts the padding in its message length.
#[must_use]
#[inline]
pub const fn padding(len: u32, alignment: u32) -> u32 {
    len.wrapping_neg() & alignment.wrapping_sub(1)
}

/// What one batch may be, as the host said in its [`InitializeComplete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most messages.
    pub max_messages: u32,
    /// Most bytes; the size of a send section limits them too.
    pub max_bytes: u32,
    /// Each message starts on a multiple of this many bytes, a power of two.
    pub alignment: u32,
}

impl BatchLimits {
    /// No limits: what a host accepts that checks as little as OpenVMM.
    pub const NONE: Self = Self { max_messages: u32::MAX, max_bytes: u32::MAX, alignment: 1 };

    /// The limits of a session.
    ///
    /// # Errors
    ///
    /// That of [`InitializeComplete::alignment`].
    pub const fn from_initialize(complete: &InitializeComplete) -> Result<Self, ParseError> {
        match complete.alignment() {
            Ok(alignment) => {
                Ok(Self { max_messages: complete.max_packets(), max_bytes: complete.max_transfer_size, alignment })
            }
            Err(error) => Err(error),
        }
    }
}

/// A section whose messages have all been checked.
///
/// All of them are checked before the first is given out, because one bad message fails the batch and none of it may
/// have been sent by then. Where the last frame is not in the section but in pages of the guest, the host has to put
/// both together first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Batch<'a> {
    /// Checks every message in `section`, whose length is the one in the sender's NVSP message.
    ///
    /// # Errors
    ///
    /// The error of the first bad message, with offsets that count from that message; [`ParseError::Unexpected`] for
    /// a message that is no packet; [`ParseError::AboveLimit`] or [`ParseError::Misaligned`] against `limits`.
    pub fn parse(section: &'a [u8], limits: &BatchLimits) -> Result<Self, ParseError> {
        let value = wire_len(section.len());
        if value > limits.max_bytes {
            return Err(ParseError::AboveLimit { field: "SectionSize", value, limit: limits.max_bytes });
        }
        let mut count = 0_u32;
        let mut rest = section;
        loop {
            // A control message may be shorter than a packet's header: say what it is, not that it is short.
            if let Some(word) = rest.first_chunk() {
                let (value, expected) = (u32::from_le_bytes(*word), MessageType::PACKET.0);
                if value != expected {
                    return Err(ParseError::Unexpected { field: "MessageType", value, expected });
                }
            }
            // An empty section is a message too short.
            let message = PacketMsg::parse(rest)?;
            count += 1;
            if count > limits.max_messages {
                let limit = limits.max_messages;
                return Err(ParseError::AboveLimit { field: "MessageCount", value: count, limit });
            }
            // In bounds, and at least 44 bytes further: the loop ends.
            rest = &rest[message.as_bytes().len()..];
            if rest.is_empty() {
                return Ok(Self { bytes: section, count });
            }
            let message_len = message.header().message_len();
            if padding(message_len, limits.alignment) != 0 {
                return Err(ParseError::Misaligned {
                    field: "MessageLength",
                    value: message_len,
                    unit: limits.alignment,
                });
            }
        }
    }

    /// Number of messages, at least 1.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The messages in order.
    #[must_use]
    pub const fn iter(&self) -> BatchIter<'a> {
        BatchIter { rest: self.bytes }
    }
}

impl<'a> IntoIterator for Batch<'a> {
    type Item = PacketMsg<'a>;
    type IntoIter = BatchIter<'a>;

    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

/// Messages of a [`Batch`].
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = PacketMsg<'a>;

    fn next(&mut self) -> Option<PacketMsg<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        // Cannot fail: the section was walked the same way when it was parsed.
        let message = PacketMsg::parse(self.rest).ok()?;
        self.rest = self.rest.get(message.as_bytes().len()..)?;
        Some(message)
    }
}

impl FusedIterator for BatchIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::PacketEncoder;

    #[test]
    fn padding_rounds_up() {
        assert_eq!([0, 1, 7, 8, 9].map(|len| padding(len, 8)), [0, 7, 1, 0, 7]);
        assert_eq!(padding(u32::MAX, 1), 0);
    }

    #[test]
    fn limits_are_kept() {
        let mut section = [0; 200];
        let encoder = PacketEncoder { message_len: Some(64), ..PacketEncoder::default() };
        for message in section[..192].chunks_exact_mut(64) {
            encoder.emit(&[1; 14], message).unwrap();
        }
        let section = &section[..192];
        let none = BatchLimits::NONE;
        let field = |limits| Batch::parse(section, &limits).unwrap_err().field();
        assert_eq!(Batch::parse(section, &BatchLimits { alignment: 64, ..none }).unwrap().count(), 3);
        assert_eq!(field(BatchLimits { alignment: 128, ..none }), "MessageLength");
        assert_eq!(field(BatchLimits { max_messages: 2, ..none }), "MessageCount");
        assert_eq!(field(BatchLimits { max_bytes: 191, ..none }), "SectionSize");
        assert!(Batch::parse(&[], &none).is_err());
    }
}
