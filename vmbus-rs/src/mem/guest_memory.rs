//! Guest physical memory: what page numbers mean.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::{HeapMemory, PAGE_SIZE, SharedMemory, SharedMemoryExt};

/// Guest physical addresses that are not memory (any more), or not in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmapped {
    /// First address of the access.
    pub gpa: u64,
    /// Bytes of the access.
    pub bytes: u64,
}

impl std::fmt::Display for Unmapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no memory in one piece at guest physical address {:#x}, {} bytes", self.gpa, self.bytes)
    }
}

impl std::error::Error for Unmapped {}

/// Where the first block goes. Not 0, so that a forgotten address is found out; above 4 GiB, so that a truncated one is.
const FIRST_GPA: u64 = 0x1_0000_0000;

/// The guest's physical memory: blocks by address. Clones are handles to the same memory.
#[derive(Debug, Clone, Default)]
pub struct GuestMemory(Arc<Mutex<Blocks>>);

#[derive(Debug, Default)]
struct Blocks {
    by_gpa: BTreeMap<u64, HeapMemory>,
    next: u64,
}

impl GuestMemory {
    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new zeroed block of `bytes`, rounded up to whole pages. Blocks never touch: a page lies unmapped between them.
    pub fn allocate(&self, bytes: usize) -> HeapMemory {
        let mut blocks = self.lock();
        let gpa = blocks.next.max(FIRST_GPA);
        let block = HeapMemory::zeroed(bytes).with_gpa(gpa);
        blocks.next = gpa + (block.len() + PAGE_SIZE) as u64;
        blocks.by_gpa.insert(gpa, block.clone());
        block
    }

    /// Forgets a block: its addresses mean nothing from now on. Memory that is mapped somewhere stays alive there.
    pub fn free(&self, block: &HeapMemory) {
        if let Some(gpa) = block.gpa(0) {
            let mut blocks = self.lock();
            if blocks.by_gpa.get(&gpa).is_some_and(|found| found.same_block(block)) {
                blocks.by_gpa.remove(&gpa);
            }
        }
    }

    /// How many blocks there are: a leak check.
    pub fn blocks(&self) -> usize {
        self.lock().by_gpa.len()
    }

    /// The memory at `gpa`, in one piece.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn map(&self, gpa: u64, bytes: u64) -> Result<HeapMemory, Unmapped> {
        let unmapped = Unmapped { gpa, bytes };
        let blocks = self.lock();
        let (start, block) = blocks.by_gpa.range(..=gpa).next_back().ok_or(unmapped)?;
        let offset = usize::try_from(gpa - start).map_err(|_| unmapped)?;
        let len = usize::try_from(bytes).map_err(|_| unmapped)?;
        block.slice(offset, len).map_err(|_| unmapped)
    }

    /// The memory behind a list of page numbers, which must follow each other.
    ///
    /// # Errors
    /// [`Unmapped`] for the first page that does not follow, or is not there.
    pub fn map_pages(&self, pages: impl IntoIterator<Item = u64>) -> Result<HeapMemory, Unmapped> {
        let mut pages = pages.into_iter();
        let none = Unmapped { gpa: 0, bytes: 0 };
        let page = PAGE_SIZE as u64;
        let first = pages.next().ok_or(none)?.checked_mul(page).ok_or(none)?;
        let mut bytes = page;
        for pfn in pages {
            if pfn.checked_mul(page) != first.checked_add(bytes) {
                return Err(Unmapped { gpa: pfn.wrapping_mul(page), bytes: page });
            }
            bytes += page;
        }
        self.map(first, bytes)
    }

    /// Copies bytes out, across blocks' ends never.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let unmapped = Unmapped { gpa, bytes: into.len() as u64 };
        let blocks = self.lock();
        let (start, block) = blocks.by_gpa.range(..=gpa).next_back().ok_or(unmapped)?;
        let offset = usize::try_from(gpa - start).map_err(|_| unmapped)?;
        block.read(offset, into).map_err(|_| unmapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_must_follow_each_other_and_exist() {
        let memory = GuestMemory::new();
        let first = memory.allocate(3 * PAGE_SIZE);
        let second = memory.allocate(100);
        let pfn = first.gpa(0).unwrap() / PAGE_SIZE as u64;
        assert_eq!(memory.map_pages([pfn, pfn + 1, pfn + 2]).unwrap().len(), 3 * PAGE_SIZE);
        assert!(memory.map_pages([pfn, pfn + 2]).is_err(), "a gap");
        assert!(memory.map_pages([pfn + 2, pfn + 3]).is_err(), "past the block");
        assert!(memory.map_pages([u64::MAX]).is_err(), "wraps");
        assert!(memory.map_pages([]).is_err());
        second.write(4, b"here").unwrap();
        let mut four = [0; 4];
        memory.read(second.gpa(4).unwrap(), &mut four).unwrap();
        assert_eq!(&four, b"here");
        memory.free(&second);
        assert!(memory.read(second.gpa(4).unwrap(), &mut four).is_err(), "freed");
        assert_eq!(memory.blocks(), 1);
    }
}
