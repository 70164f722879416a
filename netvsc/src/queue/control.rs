//! What a queue carries beside frames: NVSP messages and RNDIS control messages, both ways.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::Deref;

use vmbus::packet::TransactionId;

use crate::stats::QueueStats;

/// Longest RNDIS control message that is taken from the host; Linux has room for a page and the fixed part.
pub(super) const MAX_CONTROL_BYTES: usize = 8192;

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
        /// The message, without what followed it in its range; an indication whose buffer is not counted in the
        /// message's length (old hosts) with it.
        payload: ControlBytes,
    },
}

/// What the host said and nobody has asked for yet.
#[derive(Debug)]
pub(super) struct Controls {
    /// With where they stood among the received ranges.
    inputs: VecDeque<(u64, ControlInput)>,
    limit: usize,
    /// Where the next input stands.
    position: u64,
    /// Where the last one that was asked for stood.
    popped: u64,
    /// Only the primary channel carries control messages.
    is_primary: bool,
}

impl Controls {
    pub(super) fn new(is_primary: bool, limit: usize) -> Self {
        Self { inputs: VecDeque::new(), limit, position: 0, popped: 0, is_primary }
    }

    /// What is added next was found behind so many received ranges.
    pub(super) fn stand_at(&mut self, position: u64) {
        self.position = position;
    }

    /// Where the last input that was popped stood.
    pub(super) fn popped_position(&self) -> u64 {
        self.popped
    }

    /// Where the next input stands.
    pub(super) fn next_position(&self) -> Option<u64> {
        self.inputs.front().map(|(position, _)| *position)
    }

    /// Adds what came unasked. Bounded: a host that floods us is not heard.
    pub(super) fn push(&mut self, input: ControlInput, stats: &mut QueueStats) {
        if self.is_primary && self.inputs.len() < self.limit {
            self.inputs.push_back((self.position, input));
        } else {
            stats.extra.control_dropped += 1;
        }
    }

    /// Adds the completion of a message of ours. Always heard: there are no more of them than slots for such messages.
    pub(super) fn push_completion(&mut self, token: ControlToken, payload: &[u8]) {
        self.inputs.push_back((self.position, ControlInput::Completed { token, payload: payload.into() }));
    }

    pub(super) fn pop(&mut self) -> Option<ControlInput> {
        let (position, input) = self.inputs.pop_front()?;
        self.popped = position;
        Some(input)
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }
}
