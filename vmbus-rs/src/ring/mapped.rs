//! A ring in shared memory.

use core::sync::atomic::Ordering;

use super::{CONTROL_BYTES, RingMemory, Word, trailer, write_pieces};
use crate::memory::{Located, SharedMemory, SharedMemoryExt, copy};
use crate::packet::{DESCRIPTOR_BYTES, TRAILER_BYTES};

/// Memory that cannot be a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRing {
    /// Bytes of memory.
    pub bytes: usize,
    /// Bytes before the data area.
    pub header_bytes: usize,
}

impl core::fmt::Display for BadRing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "ring of {} bytes with a header of {}: the header takes at least {CONTROL_BYTES}, the data a positive multiple of {CONTROL_BYTES} below 4 GiB",
            self.bytes, self.header_bytes
        )
    }
}

impl core::error::Error for BadRing {}

impl crate::error::Error for BadRing {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::Misuse
    }
}

/// A ring in shared memory: control page, then data.
#[derive(Debug, Clone)]
pub struct MappedRing<M> {
    memory: Located<M>,
    header_bytes: u32,
    data_bytes: u32,
}

impl<M: SharedMemory> MappedRing<M> {
    /// A ring over all of `memory`, with `header_bytes` before the data area.
    ///
    /// # Errors
    /// [`BadRing`] unless the header takes at least 4096 bytes and the data a positive multiple of 4096 below 4 GiB.
    pub fn new(memory: M, header_bytes: usize) -> Result<Self, BadRing> {
        let bad = BadRing { bytes: memory.len(), header_bytes };
        let data = memory.len().checked_sub(header_bytes).ok_or(bad)?;
        if header_bytes < CONTROL_BYTES || !header_bytes.is_multiple_of(8) || data == 0 || !data.is_multiple_of(4096) {
            return Err(bad);
        }
        let header_bytes = u32::try_from(header_bytes).map_err(|_| bad)?;
        let data_bytes = u32::try_from(data).map_err(|_| bad)?;
        header_bytes.checked_add(data_bytes).ok_or(bad)?;
        Ok(Self { memory: Located::new(memory), header_bytes, data_bytes })
    }

    /// The memory behind the ring.
    pub fn memory(&self) -> &M {
        self.memory.memory()
    }
}

impl<M: SharedMemory> RingMemory for MappedRing<M> {
    #[inline]
    fn data_bytes(&self) -> u32 {
        self.data_bytes
    }

    #[inline]
    fn load(&self, word: Word) -> u32 {
        // The control page is inside by construction, the fallback is never taken.
        self.memory.word32(word.offset()).map_or(u32::MAX, |w| u32::from_le(w.load(Ordering::Acquire)))
    }

    #[inline]
    fn store(&self, word: Word, value: u32) {
        if let Ok(w) = self.memory.word32(word.offset()) {
            w.store(value.to_le(), Ordering::Release);
        }
    }

    #[inline]
    fn fence(&self) {
        copy::full_fence();
    }

    #[inline]
    fn read(&self, offset: u32, into: &mut [u8]) {
        let inside = self.memory.read((self.header_bytes + offset) as usize, into);
        debug_assert!(inside.is_ok(), "ring data offset {offset}");
    }

    #[inline]
    fn write(&self, offset: u32, from: &[u8]) {
        let inside = self.memory.write((self.header_bytes + offset) as usize, from);
        debug_assert!(inside.is_ok(), "ring data offset {offset}");
    }

    #[inline]
    fn read_descriptor(&self, offset: u32) -> [u64; 2] {
        let at = self.header_bytes + offset;
        if self.data_bytes - offset >= 16 {
            // In bounds, as above.
            self.memory.read_words(at as usize).unwrap_or_default()
        } else {
            let word = |at: u32| self.memory.word64(at as usize).map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)));
            [word(at), word(self.header_bytes)]
        }
    }

    #[inline]
    fn write_packet(&self, offset: u32, descriptor: [u64; 2], header: &[u8], payload: &[u8]) {
        let room = (self.data_bytes - offset) as usize;
        if DESCRIPTOR_BYTES + header.len() + payload.len().next_multiple_of(8) + TRAILER_BYTES <= room {
            let at = (self.header_bytes + offset) as usize;
            let inside = self.memory.write_framed(at, descriptor, [header, payload], trailer(offset));
            debug_assert!(inside.is_ok(), "ring data offset {offset}");
        } else {
            write_pieces(self, offset, descriptor, header, payload);
        }
    }
}
