//! A ring in shared memory.

use core::sync::atomic::{Ordering, fence};

use super::{CONTROL_BYTES, RingMemory, Word};
use crate::memory::{SharedMemory, SharedMemoryExt};

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
    memory: M,
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
        Ok(Self { memory, header_bytes, data_bytes })
    }

    /// The memory behind the ring.
    pub fn memory(&self) -> &M {
        &self.memory
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
        fence(Ordering::SeqCst);
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
    fn read_word(&self, offset: u32) -> u64 {
        self.memory
            .word64((self.header_bytes + offset) as usize)
            .map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)))
    }
}
