//! Ring buffers: how packets cross between guest and host.
//!
//! A ring is a control page and a data area, in memory that both sides see. The producer owns `write_index`, the
//! consumer `read_index` and `interrupt_mask`; a blocked producer says in `pending_send_size` how much room it waits
//! for. [`Producer`] and [`Consumer`] are the two roles; guest and host play both, on two rings.
//!
//! Neither side polls the other when idle: each decides by the ring's state alone whether the other has to be
//! signalled ([`Signal`]). The decisions are the heart of this module:
//!
//! * producer → consumer: after publishing, signal if the mask is clear and the ring *was empty* before;
//! * consumer → producer: after freeing room, signal if that crossed what a blocked producer waits for.
//!
//! Both are Dekker protocols: *store mine, full fence, load yours*, on both sides, so at least one sees the other's
//! store. `tests/loom.rs` explores every interleaving.
//!
//! What comes out of a ring is never trusted: indices are checked on each load, descriptors are copied out first and
//! the copy is checked; own words are kept privately and never read back.
//!
//! Source: Linux `drivers/hv/ring_buffer.c`, `include/linux/hyperv.h`; OpenVMM `vmbus_ring`.

mod consumer;
mod mapped;
mod producer;
#[cfg(all(test, feature = "std"))]
mod tests;

pub use consumer::{Consumer, Incoming};
pub use mapped::{BadRing, MappedRing};
pub use producer::{Outgoing, Producer, WriteError};

use crate::packet::PacketError;

/// Bytes of a ring's control page, as the host counts.
pub const CONTROL_BYTES: usize = 4096;

/// `feature_bits`: the producer fills `pending_send_size` when it is blocked.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// Whether the other side has to be signalled.
#[must_use = "a signal that is needed and not given hangs the other side"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ring the doorbell.
    Needed,
    /// Do not: hosts punish needless signals.
    NotNeeded,
}

impl Signal {
    /// Whether it is needed.
    #[inline]
    pub fn is_needed(self) -> bool {
        self == Self::Needed
    }
}

/// A word of the control page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Where the producer writes next; the producer's.
    WriteIndex,
    /// Where the consumer reads next; the consumer's.
    ReadIndex,
    /// Non-zero: the producer must not signal; the consumer's.
    InterruptMask,
    /// Bytes that a blocked producer waits for; the producer's.
    PendingSendSize,
    /// [`FEATURE_PENDING_SEND_SIZE`]; the producer's.
    FeatureBits,
}

impl Word {
    /// Offset in the control page.
    #[inline]
    pub const fn offset(self) -> usize {
        match self {
            Self::WriteIndex => 0,
            Self::ReadIndex => 4,
            Self::InterruptMask => 8,
            Self::PendingSendSize => 12,
            Self::FeatureBits => 64,
        }
    }
}

/// A ring's memory. [`MappedRing`] is the real one; a model checker plugs in its own.
///
/// Offsets into the data area are always in bounds: the roles check indices before use.
pub trait RingMemory {
    /// Bytes of the data area: a multiple of 8, at least 32, less than 2³². Constant.
    fn data_bytes(&self) -> u32;

    /// Loads a control word; acquires what the other side released by storing it.
    fn load(&self, word: Word) -> u32;

    /// Stores a control word; releases all earlier accesses.
    fn store(&self, word: Word, value: u32);

    /// A full fence: no later load before an earlier store.
    fn fence(&self);

    /// Copies data out. `offset + into.len()` is at most `data_bytes()`.
    fn read(&self, offset: u32, into: &mut [u8]);

    /// Copies data in. `offset + from.len()` is at most `data_bytes()`.
    fn write(&self, offset: u32, from: &[u8]);

    /// The two little-endian words of the descriptor at `offset`, a multiple of 8; it may go round the end.
    #[inline]
    fn read_descriptor(&self, offset: u32) -> [u64; 2] {
        let mut bytes = [[0; 8]; 2];
        self.read(offset, &mut bytes[0]);
        self.read(advance(offset, 8, self.data_bytes()), &mut bytes[1]);
        bytes.map(u64::from_le_bytes)
    }

    /// Writes a packet to `offset`, a multiple of 8: descriptor, header (a multiple of 8 bytes), payload, zeros up to a
    /// multiple of 8, trailer. It is shorter than the data area, and may go round the end.
    #[inline]
    fn write_packet(&self, offset: u32, descriptor: [u64; 2], header: &[u8], payload: &[u8]) {
        write_pieces(self, offset, descriptor, header, payload);
    }
}

/// [`RingMemory::write_packet`], each piece by itself.
fn write_pieces<R: RingMemory + ?Sized>(ring: &R, offset: u32, descriptor: [u64; 2], header: &[u8], payload: &[u8]) {
    const ZEROS: [u8; 8] = [0; 8];
    let [first, id] = descriptor.map(u64::to_le_bytes);
    let padding = &ZEROS[..payload.len().next_multiple_of(8) - payload.len()];
    let trailer = trailer(offset).to_le_bytes();
    let size = ring.data_bytes();
    let mut at = offset;
    for piece in [&first, &id, header, payload, padding, &trailer] {
        let (head, tail) = piece.split_at(piece.len().min((size - at) as usize));
        ring.write(at, head);
        if !tail.is_empty() {
            ring.write(0, tail);
        }
        at = advance(at, piece.len() as u32, size);
    }
}

/// What follows the packet at ring offset `offset`.
#[inline]
fn trailer(offset: u32) -> u64 {
    u64::from(offset) << 32
}

/// The ring is corrupt: the other side broke the protocol, and the channel is unusable until it is reopened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// An index outside the data area, or not a multiple of 8.
    BadIndex {
        /// Which.
        word: Word,
        /// What was there.
        value: u32,
        /// Bytes of the data area.
        limit: u32,
    },
    /// A packet that cannot be.
    BadPacket {
        /// Why.
        error: PacketError,
        /// Ring offset of its descriptor.
        offset: u32,
    },
    /// An index that moved where it cannot: over bytes that were not written, or not given back.
    BadMove {
        /// Which.
        word: Word,
        /// Where it is now.
        value: u32,
        /// What it cannot pass.
        limit: u32,
    },
    /// Too few bytes for a packet.
    BadFill {
        /// Bytes between the indices.
        value: u32,
        /// Fewest that can be.
        limit: u32,
    },
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BadIndex { word, value, limit } => {
                write!(f, "ring {word:?} {value} is not a multiple of 8 below {limit}")
            }
            Self::BadPacket { error, offset } => {
                write!(f, "packet at ring offset {offset}: {error}")
            }
            Self::BadMove { word, value, limit } => {
                write!(f, "ring {word:?} moved to {value}, past {limit}")
            }
            Self::BadFill { value, limit } => {
                write!(f, "ring holds {value} bytes, fewer than {limit}")
            }
        }
    }
}

impl core::error::Error for RingError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::BadPacket { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl crate::error::Error for RingError {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::HostViolation
    }
}

/// Loads an index of the other side and checks it.
#[inline]
fn load_index<R: RingMemory>(ring: &R, word: Word) -> Result<u32, RingError> {
    let value = ring.load(word);
    let limit = ring.data_bytes();
    if value < limit && value.is_multiple_of(8) { Ok(value) } else { Err(RingError::BadIndex { word, value, limit }) }
}

/// Bytes between the indices, `0..size`.
#[inline]
fn used(write: u32, read: u32, size: u32) -> u32 {
    if write >= read { write - read } else { size - read + write }
}

/// Bytes not between the indices: `size` when the ring is empty. One slot always stays free, so what fits is *less*
/// than this.
#[inline]
fn raw_free(write: u32, read: u32, size: u32) -> u32 {
    size - used(write, read, size)
}

/// `index + bytes`, wrapped once; `bytes <= size`.
#[inline]
fn advance(index: u32, bytes: u32, size: u32) -> u32 {
    // Wide: a ring may be larger than half of u32.
    let sum = u64::from(index) + u64::from(bytes);
    let size = u64::from(size);
    (if sum >= size { sum - size } else { sum }) as u32
}
