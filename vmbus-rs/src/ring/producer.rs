//! The producer's role.

use super::{FEATURE_PENDING_SEND_SIZE, RingError, RingMemory, Signal, Word, advance, load_index, raw_free, used};
use crate::packet::{
    DESCRIPTOR_BYTES, Descriptor, FLAG_COMPLETION_REQUESTED, MAX_PACKET_BYTES, PacketType, TRAILER_BYTES, TransactionId,
};

/// Why a packet was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// No room now. [`Producer::wait_for_space`] asks for a signal when there is.
    Full {
        /// Bytes that the packet takes.
        needed: u32,
        /// Bytes that there are.
        free: u32,
    },
    /// The packet can never fit.
    TooLong {
        /// Bytes that the packet takes.
        needed: usize,
        /// Most that this ring takes.
        limit: usize,
    },
    /// The header is not a multiple of 8 bytes.
    BadHeader {
        /// Bytes of the header.
        len: usize,
    },
    /// The ring is corrupt.
    Corrupt(RingError),
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full { needed, free } => {
                write!(f, "ring is full: {needed} bytes needed, {free} free")
            }
            Self::TooLong { needed, limit } => write!(f, "packet takes {needed} bytes of a ring that holds {limit}"),
            Self::BadHeader { len } => {
                write!(f, "packet header of {len} bytes is not a multiple of 8")
            }
            Self::Corrupt(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            // Displayed as if it were this error: so is its source.
            Self::Corrupt(error) => error.source(),
            _ => None,
        }
    }
}

impl crate::error::Error for WriteError {
    fn kind(&self) -> crate::error::ErrorKind {
        match self {
            Self::Full { .. } => crate::error::ErrorKind::Refused,
            Self::TooLong { .. } | Self::BadHeader { .. } => crate::error::ErrorKind::Misuse,
            Self::Corrupt(_) => crate::error::ErrorKind::HostViolation,
        }
    }
}

impl From<RingError> for WriteError {
    fn from(error: RingError) -> Self {
        Self::Corrupt(error)
    }
}

/// A packet to be written.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Type.
    pub packet_type: PacketType,
    /// Whether a completion is wanted.
    pub completion_requested: bool,
    /// Echoed in the completion.
    pub transaction_id: TransactionId,
    /// Bytes between descriptor and payload; a multiple of 8 of them.
    pub header: &'a [u8],
    /// Payload; padded with zeros to a multiple of 8.
    pub payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// Data in the ring, with a completion wanted.
    #[inline]
    pub fn request(transaction_id: TransactionId, payload: &'a [u8]) -> Self {
        Self { packet_type: PacketType::IN_BAND, completion_requested: true, transaction_id, header: &[], payload }
    }

    /// Data in the ring, without a completion.
    #[inline]
    pub fn notice(transaction_id: TransactionId, payload: &'a [u8]) -> Self {
        Self { completion_requested: false, ..Self::request(transaction_id, payload) }
    }

    /// The completion of the other side's packet.
    #[inline]
    pub fn completion(transaction_id: TransactionId, payload: &'a [u8]) -> Self {
        Self { packet_type: PacketType::COMPLETION, ..Self::notice(transaction_id, payload) }
    }

    /// Bytes that it takes in a ring, trailer included.
    #[inline]
    pub fn ring_bytes(&self) -> usize {
        DESCRIPTOR_BYTES + self.header.len() + self.payload.len().next_multiple_of(8) + TRAILER_BYTES
    }
}

/// Writes packets into a ring. Packets are *written* one by one and *published* together: one doorbell a batch.
#[derive(Debug)]
pub struct Producer<R> {
    ring: R,
    size: u32,
    /// Where the next packet goes. Private: the shared word is only ever written.
    write: u32,
    /// What the shared `write_index` says: the start of the unpublished batch.
    published: u32,
    /// The consumer's index when it was last looked at.
    read_seen: u32,
    /// What the shared `pending_send_size` says.
    pending: u32,
}

impl<R: RingMemory> Producer<R> {
    /// The producer of a fresh ring: both indices 0. Says that it fills `pending_send_size`.
    pub fn new(ring: R) -> Self {
        let size = ring.data_bytes();
        ring.store(Word::PendingSendSize, 0);
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
        Self { ring, size, write: 0, published: 0, read_seen: 0, pending: 0 }
    }

    /// The producer of a ring that is in use, at the write index that stands there.
    ///
    /// # Errors
    /// [`RingError::BadIndex`].
    pub fn resume(ring: R) -> Result<Self, RingError> {
        let write = load_index(&ring, Word::WriteIndex)?;
        let read = load_index(&ring, Word::ReadIndex)?;
        Ok(Self { write, published: write, read_seen: read, ..Self::new(ring) })
    }

    /// The ring.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// Most bytes that one packet may take, trailer included. One slot less than the ring holds: OpenVMM refuses a
    /// packet that fills it.
    #[inline]
    pub fn max_packet_bytes(&self) -> usize {
        (self.size.saturating_sub(16) as usize).min(MAX_PACKET_BYTES + TRAILER_BYTES)
    }

    /// Bytes of the data area.
    #[inline]
    pub fn data_bytes(&self) -> u32 {
        self.size
    }

    /// Looks at the consumer's index: it may only go on, and not past what was published.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let read = load_index(&self.ring, Word::ReadIndex)?;
        if used(self.published, read, self.size) > used(self.published, self.read_seen, self.size) {
            return Err(RingError::BadMove { word: Word::ReadIndex, value: read, limit: self.published });
        }
        self.read_seen = read;
        Ok(())
    }

    /// Bytes that packets may take now, trailers included.
    ///
    /// # Errors
    /// [`RingError::BadIndex`], [`RingError::BadMove`].
    #[inline]
    pub fn free_bytes(&mut self) -> Result<u32, RingError> {
        self.look()?;
        Ok(raw_free(self.write, self.read_seen, self.size).saturating_sub(8))
    }

    /// Writes a packet after those that wait to be published. Nothing is written on error.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::TooLong`], [`WriteError::BadHeader`], [`WriteError::Corrupt`].
    #[inline]
    pub fn write(&mut self, packet: &Outgoing<'_>) -> Result<(), WriteError> {
        if !packet.header.len().is_multiple_of(8) {
            return Err(WriteError::BadHeader { len: packet.header.len() });
        }
        let needed = packet.ring_bytes();
        if needed > self.max_packet_bytes() {
            return Err(WriteError::TooLong { needed, limit: self.max_packet_bytes() });
        }
        let needed = needed as u32;
        if needed >= raw_free(self.write, self.read_seen, self.size) {
            self.look()?;
            let raw = raw_free(self.write, self.read_seen, self.size);
            if needed >= raw {
                return Err(WriteError::Full { needed, free: raw.saturating_sub(8) });
            }
        }
        let start = self.write;
        let packet_bytes = needed - TRAILER_BYTES as u32;
        let (first, id) = Descriptor {
            packet_type: packet.packet_type,
            header_bytes: (DESCRIPTOR_BYTES + packet.header.len()) as u32,
            packet_bytes,
            flags: if packet.completion_requested { FLAG_COMPLETION_REQUESTED } else { 0 },
            transaction_id: packet.transaction_id,
        }
        .to_words();
        self.ring.write_packet(start, [first, id], packet.header, packet.payload);
        self.write = advance(start, needed, self.size);
        Ok(())
    }

    /// Whether packets wait to be published.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.write != self.published
    }

    /// Publishes all written packets and decides whether the consumer has to be signalled.
    ///
    /// # Errors
    /// [`RingError::BadIndex`], [`RingError::BadMove`]; the packets are published all the same.
    #[inline]
    pub fn publish(&mut self) -> Result<Signal, RingError> {
        if self.write == self.published {
            return Ok(Signal::NotNeeded);
        }
        let before = self.published;
        // Releases the packet bytes; pairs with the consumer's load of the write index.
        self.ring.store(Word::WriteIndex, self.write);
        self.published = self.write;
        // Pairs with the fence between the consumer's unmasking and its last look at the write index.
        self.ring.fence();
        if self.ring.load(Word::InterruptMask) != 0 {
            return Ok(Signal::NotNeeded);
        }
        // After the mask: a consumer that had not emptied the ring yet will see the new index before it sleeps.
        self.look()?;
        Ok(if self.read_seen == before { Signal::Needed } else { Signal::NotNeeded })
    }

    /// Forgets the packets that were written and not published.
    pub fn discard(&mut self) {
        self.write = self.published;
    }

    /// Asks the consumer for a signal once `bytes` are free; whether they are free *now* (then nothing is asked).
    ///
    /// On `false` wait for the channel's interrupt and call again, or write; either way this is taken back by
    /// [`stop_waiting`](Self::stop_waiting), which must be called once there is room, or every later crossing of that
    /// size interrupts. Publish first: what is not published is never freed.
    ///
    /// # Errors
    /// [`RingError::BadIndex`], [`RingError::BadMove`].
    pub fn wait_for_space(&mut self, bytes: u32) -> Result<bool, RingError> {
        debug_assert!(!self.has_unpublished(), "publish before waiting for space");
        let wanted = bytes.next_multiple_of(8).min(self.size.saturating_sub(8)).max(8);
        self.pending = wanted;
        self.ring.store(Word::PendingSendSize, wanted);
        // Pairs with the fence between the consumer's store of its index and its look at the pending size.
        self.ring.fence();
        self.look()?;
        if raw_free(self.write, self.read_seen, self.size) > wanted {
            self.stop_waiting();
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes [`wait_for_space`](Self::wait_for_space) back.
    #[inline]
    pub fn stop_waiting(&mut self) {
        if self.pending != 0 {
            self.pending = 0;
            self.ring.store(Word::PendingSendSize, 0);
        }
    }

    /// Whether a signal for free room is being waited for.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.pending != 0
    }

    /// The consumer's state, for watchdogs: its read index and mask, unchecked.
    pub fn consumer_state(&self) -> (u32, u32) {
        (self.ring.load(Word::ReadIndex), self.ring.load(Word::InterruptMask))
    }
}
