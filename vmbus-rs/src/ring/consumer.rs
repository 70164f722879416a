//! The consumer's role.

use super::{FEATURE_PENDING_SEND_SIZE, RingError, RingMemory, Signal, Word, advance, load_index, raw_free, used};
use crate::packet::{DESCRIPTOR_BYTES, Descriptor, PacketError, TRAILER_BYTES};

/// A packet that was taken off the ring: its checked descriptor. The bytes after the descriptor are in the caller's
/// buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The descriptor, copied out and checked.
    pub descriptor: Descriptor,
    /// Ring offset of the descriptor.
    pub ring_offset: u32,
}

impl Incoming {
    /// Bytes between descriptor and payload.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.descriptor.header_bytes as usize - DESCRIPTOR_BYTES
    }

    /// Bytes after the descriptor: header and payload.
    #[inline]
    pub fn body_len(&self) -> usize {
        self.descriptor.packet_bytes as usize - DESCRIPTOR_BYTES
    }

    /// Splits the bytes after the descriptor into header and payload.
    #[inline]
    pub fn split<'a>(&self, body: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        body[..self.body_len()].split_at(self.header_len())
    }
}

/// Reads packets from a ring. Packets are *taken* one by one and given back to the producer together, by
/// [`commit`](Self::commit).
#[derive(Debug)]
pub struct Consumer<R> {
    ring: R,
    size: u32,
    /// The next packet. Private: the shared word is only ever written.
    read: u32,
    /// What the shared `read_index` says.
    committed: u32,
    /// The producer's index when it was last looked at.
    write_seen: u32,
    /// What the shared `interrupt_mask` says.
    masked: bool,
}

impl<R: RingMemory> Consumer<R> {
    /// The consumer of a fresh ring. Starts masked: the first [`unmask`](Self::unmask) looks at the ring, so nothing
    /// that came before is missed.
    pub fn new(ring: R) -> Self {
        let size = ring.data_bytes();
        ring.store(Word::InterruptMask, 1);
        Self { ring, size, read: 0, committed: 0, write_seen: 0, masked: true }
    }

    /// The consumer of a ring that is in use, at the read index that stands there.
    ///
    /// # Errors
    /// [`RingError::BadIndex`].
    pub fn resume(ring: R) -> Result<Self, RingError> {
        let read = load_index(&ring, Word::ReadIndex)?;
        Ok(Self { read, committed: read, write_seen: read, ..Self::new(ring) })
    }

    /// The ring.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// Bytes of the data area.
    #[inline]
    pub fn data_bytes(&self) -> u32 {
        self.size
    }

    /// Looks at the producer's index: it may be anywhere but within what was taken and not given back.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let write = load_index(&self.ring, Word::WriteIndex)?;
        if used(write, self.committed, self.size) < self.uncommitted_bytes() {
            return Err(RingError::BadMove { word: Word::WriteIndex, value: write, limit: self.committed });
        }
        self.write_seen = write;
        Ok(())
    }

    /// Whether a packet can be taken; looks at the ring anew.
    ///
    /// # Errors
    /// [`RingError::BadIndex`], [`RingError::BadMove`].
    #[inline]
    pub fn has_data(&mut self) -> Result<bool, RingError> {
        if self.write_seen == self.read {
            self.look()?;
        }
        Ok(self.write_seen != self.read)
    }

    /// Takes the next packet: checks a copy of its descriptor and copies what follows it into `body`. `None` when the
    /// ring is empty.
    ///
    /// A packet that is longer than `body` is an error, and is not taken.
    ///
    /// # Errors
    /// [`RingError`]; the ring is unusable afterwards.
    #[inline]
    pub fn take(&mut self, body: &mut [u8]) -> Result<Option<Incoming>, RingError> {
        if !self.has_data()? {
            return Ok(None);
        }
        let available = used(self.write_seen, self.read, self.size);
        if available < (DESCRIPTOR_BYTES + TRAILER_BYTES) as u32 {
            return Err(RingError::BadFill { value: available, limit: (DESCRIPTOR_BYTES + TRAILER_BYTES) as u32 });
        }
        let start = self.read;
        // Once, into private words: what is checked is what is used.
        let [first, id] = self.ring.read_descriptor(start);
        let descriptor = Descriptor::from_words(first, id);
        let bad = |error| RingError::BadPacket { error, offset: start };
        descriptor.check(available).map_err(bad)?;
        let len = descriptor.packet_bytes as usize - DESCRIPTOR_BYTES;
        let limit = body.len() as u32;
        let Some(body) = body.get_mut(..len) else {
            return Err(bad(PacketError::TooLong { value: len as u32, limit }));
        };
        self.get(advance(start, DESCRIPTOR_BYTES as u32, self.size), body);
        self.read = advance(start, descriptor.packet_bytes + TRAILER_BYTES as u32, self.size);
        Ok(Some(Incoming { descriptor, ring_offset: start }))
    }

    /// Copies the first bytes behind the descriptor of the packet that would be taken next, if it has been seen already and
    /// has so many; whether it was. Nothing is checked: a hint of what comes, for who wants to fetch it in good time.
    #[inline]
    pub fn peek(&self, into: &mut [u8]) -> bool {
        let seen =
            used(self.write_seen, self.read, self.size) as usize >= DESCRIPTOR_BYTES + into.len() + TRAILER_BYTES;
        if seen {
            self.get(advance(self.read, DESCRIPTOR_BYTES as u32, self.size), into);
        }
        seen
    }

    #[inline]
    fn get(&self, at: u32, into: &mut [u8]) {
        let room = (self.size - at) as usize;
        if into.len() <= room {
            self.ring.read(at, into);
        } else {
            let (head, tail) = into.split_at_mut(room);
            self.ring.read(at, head);
            self.ring.read(0, tail);
        }
    }

    /// Bytes taken and not yet given back.
    #[inline]
    pub fn uncommitted_bytes(&self) -> u32 {
        used(self.read, self.committed, self.size)
    }

    /// Gives the room of all taken packets back and decides whether a blocked producer has to be signalled.
    ///
    /// # Errors
    /// [`RingError::BadIndex`]; the room is given back all the same.
    #[inline]
    pub fn commit(&mut self) -> Result<Signal, RingError> {
        if self.read == self.committed {
            return Ok(Signal::NotNeeded);
        }
        // From the private copy: the shared word is ours, but reading it back would trust the host with it.
        let freed = used(self.read, self.committed, self.size);
        // Orders the copies before it: the producer may overwrite from here on.
        self.ring.store(Word::ReadIndex, self.read);
        self.committed = self.read;
        if self.ring.load(Word::FeatureBits) & FEATURE_PENDING_SEND_SIZE == 0 {
            return Ok(Signal::NotNeeded);
        }
        // Pairs with the fence between the producer's store of its pending size and its look at our index.
        self.ring.fence();
        let pending = self.ring.load(Word::PendingSendSize);
        if pending == 0 {
            return Ok(Signal::NotNeeded);
        }
        let write = load_index(&self.ring, Word::WriteIndex)?;
        let free = raw_free(write, self.read, self.size);
        // What was free before, had the producer not moved since. It may have, into what was just freed, and more may be
        // gone than there was before: then it is not blocked, or is and has seen our index. (Linux computes this with
        // wrapping arithmetic, to the same effect.)
        let Some(free_before) = free.checked_sub(freed) else {
            return Ok(Signal::NotNeeded);
        };
        // Equal is not enough, one slot stays empty; and the signal is given on the crossing only.
        Ok(if free_before <= pending && free > pending { Signal::Needed } else { Signal::NotNeeded })
    }

    /// Tells the producer not to signal. Only saves interrupts: nothing depends on it.
    #[inline]
    pub fn mask(&mut self) {
        if !self.masked {
            self.masked = true;
            self.ring.store(Word::InterruptMask, 1);
        }
    }

    /// Asks the producer to signal when it writes into the empty ring, and looks once more: `true` means that there is
    /// data *now* (the ring is masked again; drain it), `false` that it is safe to sleep. Commit first.
    ///
    /// The store is made every time: a kernel below (`uio_hv_generic`) may have masked behind our back.
    ///
    /// # Errors
    /// [`RingError::BadIndex`].
    #[inline]
    pub fn unmask(&mut self) -> Result<bool, RingError> {
        debug_assert!(self.read == self.committed, "commit before unmasking");
        self.masked = false;
        self.ring.store(Word::InterruptMask, 0);
        // Pairs with the fence between the producer's store of its index and its look at the mask.
        self.ring.fence();
        self.look()?;
        if self.write_seen != self.read {
            self.mask();
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the producer was told not to signal.
    #[inline]
    pub fn is_masked(&self) -> bool {
        self.masked
    }
}
