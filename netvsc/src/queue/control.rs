//! What a queue carries beside frames: NVSP messages and RNDIS control messages, both ways.

use alloc::boxed::Box;
use core::ops::Deref;

use vmbus::packet::TransactionId;

/// The caller's name for a control message, given back with its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ControlToken(pub u32);

/// Bytes of a control message: a private copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlBytes(Box<[u8]>);

impl Deref for ControlBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for ControlBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for ControlBytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// Something that the host said, apart from frames.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlInput {
    /// A message of ours was completed.
    Completed {
        /// Which.
        token: ControlToken,
        /// The completion's payload, padded to a multiple of 8 bytes; may be empty.
        payload: ControlBytes,
    },
    /// An NVSP message, in band.
    Message {
        /// Its transaction id; 0 if it is unsolicited.
        transaction_id: TransactionId,
        /// Whether the host asks for a completion. Guests never give one (Linux, DPDK, FreeBSD).
        wants_completion: bool,
        /// The message, padded to a multiple of 8 bytes.
        payload: ControlBytes,
    },
    /// An RNDIS message that is no packet, out of the receive buffer.
    Rndis {
        /// The message, without what followed it in its range.
        payload: ControlBytes,
    },
}
