//! The guest's memory: one flat block, handed out from front to back.
//!
//! This is the only thing that guest and host have in common. [`HeapMemory`] makes it without `unsafe` code: it is shared
//! memory on the heap that knows guest physical addresses. If your memory is somewhere else (an `mmap` of your VMM, the
//! identity-mapped RAM of a unikernel), implement `vmbus::memory::SharedMemory` for a handle to it; that is the one `unsafe`
//! trait, and its five promises stand in its docs.

use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory, SharedMemoryExt};

use crate::backend::FlatError;

/// All memory that there is, and what of it is in use.
#[derive(Debug)]
pub(crate) struct Ram {
    block: HeapMemory,
    next: usize,
    pieces: usize,
}

impl Ram {
    /// Page 0 is never given out: a page number that somebody forgot to write is then an error, not a piece of memory.
    const FIRST: usize = PAGE_SIZE;

    /// `bytes` of memory. The first byte has guest physical address 0, so addresses are offsets, and page numbers are
    /// offsets by 4096.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { block: HeapMemory::zeroed(bytes).with_gpa(0), next: Self::FIRST, pieces: 0 }
    }

    /// A handle to all of it: the host's view of the guest.
    pub(crate) fn whole(&self) -> HeapMemory {
        self.block.clone()
    }

    /// The next `bytes` bytes, whole pages, zeroed: rings *must* be zeroed before each open, and what was in a buffer before
    /// is none of the host's business.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<HeapMemory, FlatError> {
        let free = self.block.len() - self.next;
        let none = FlatError::OutOfMemory { wanted: bytes, free };
        let len = bytes.checked_next_multiple_of(PAGE_SIZE).filter(|len| *len > 0).ok_or(none)?;
        let piece = self.block.slice(self.next, len).map_err(|_| none)?;
        piece.zero(0, len).map_err(|_| none)?;
        self.next += len;
        self.pieces += 1;
        Ok(piece)
    }

    /// Takes a piece back. An allocator that only goes forward can do no more than start over once nothing is in use.
    pub(crate) fn free(&mut self, piece: HeapMemory) {
        drop(piece);
        self.pieces = self.pieces.saturating_sub(1);
        if self.pieces == 0 {
            self.next = Self::FIRST;
        }
    }

    /// Pieces in use.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces
    }
}
