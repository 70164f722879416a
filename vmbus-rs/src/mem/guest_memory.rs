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

/// Where the bytes of new blocks come from: so many zeroed bytes, or none.
type Source = Box<dyn FnMut(usize) -> Option<HeapMemory> + Send>;
/// Told of an address without memory; whether there is some now.
type Missing = Box<dyn FnMut(&GuestMemory, u64) -> bool + Send>;

/// The guest's physical memory: blocks by address. Clones are handles to the same memory.
///
/// By itself it is heap memory of this process. A backend whose guest is another process puts that guest's memory in by
/// [`insert`](Self::insert), takes new blocks from what can be shared ([`set_source`](Self::set_source)), and looks for
/// pieces that were announced meanwhile when one is missing ([`set_missing`](Self::set_missing)).
#[derive(Debug, Clone, Default)]
pub struct GuestMemory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    blocks: Mutex<Blocks>,
    missing: Mutex<Option<Missing>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestMemory").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Blocks {
    by_gpa: BTreeMap<u64, HeapMemory>,
    next: u64,
    source: Option<Source>,
}

impl Blocks {
    /// The block that holds the byte at `gpa`, or ends before it, and the offset of the byte in it.
    fn find(&self, gpa: u64) -> Option<(&HeapMemory, usize)> {
        let (start, block) = self.by_gpa.range(..=gpa).next_back()?;
        Some((block, usize::try_from(gpa - start).ok()?))
    }
}

impl GuestMemory {
    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bytes of all further blocks from `source`, and puts them at `first_gpa` and above. Where the source has
    /// none, a block is heap memory as before.
    pub fn set_source(&self, first_gpa: u64, source: impl FnMut(usize) -> Option<HeapMemory> + Send + 'static) {
        let mut blocks = self.lock();
        blocks.next = first_gpa;
        blocks.source = Some(Box::new(source));
    }

    /// Has `missing` asked, with this memory and the address, before an access to an unknown address fails. If it says
    /// true, the access is tried once more.
    pub fn set_missing(&self, missing: impl FnMut(&Self, u64) -> bool + Send + 'static) {
        *self.0.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(missing));
    }

    /// Puts `memory` at `gpa`. It replaces what was there: of older blocks only the parts outside stay.
    ///
    /// # Errors
    /// [`Unmapped`] if it would reach beyond the last address.
    pub fn insert(&self, gpa: u64, memory: HeapMemory) -> Result<(), Unmapped> {
        let bytes = memory.len() as u64;
        let end = gpa.checked_add(bytes).ok_or(Unmapped { gpa, bytes })?;
        let mut blocks = self.lock();
        while let Some((&start, old)) = blocks.by_gpa.range(..end).next_back() {
            let old_end = start + old.len() as u64;
            if old_end <= gpa {
                break;
            }
            let old = old.clone();
            blocks.by_gpa.remove(&start);
            // What lies outside, on either side; less than the old block, so it fits usize. A part that does not begin
            // at a multiple of 8 is no memory of pages and goes.
            if let Some(head) = gpa.checked_sub(start).filter(|&len| len > 0)
                && let Ok(part) = old.slice(0, head as usize)
            {
                blocks.by_gpa.insert(start, part);
            }
            if let Some(tail) = old_end.checked_sub(end).filter(|&len| len > 0)
                && let Ok(part) = old.slice((end - start) as usize, tail as usize)
            {
                blocks.by_gpa.insert(end, part);
            }
            if start <= gpa {
                break;
            }
        }
        blocks.by_gpa.insert(gpa, memory.with_gpa(gpa));
        Ok(())
    }

    /// Forgets all blocks that begin below `gpa`; memory that is mapped somewhere stays alive there.
    pub fn free_below(&self, gpa: u64) {
        let mut blocks = self.lock();
        blocks.by_gpa = blocks.by_gpa.split_off(&gpa);
    }

    /// Runs `access`, and once more if it fails and missing memory came.
    fn with_missing<T>(&self, gpa: u64, mut access: impl FnMut() -> Result<T, Unmapped>) -> Result<T, Unmapped> {
        let unmapped = match access() {
            Err(unmapped) => unmapped,
            done => return done,
        };
        let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let came = missing.as_mut().is_some_and(|missing| missing(self, gpa));
        if came { access() } else { Err(unmapped) }
    }

    /// A new zeroed block of `bytes`, rounded up to whole pages. Blocks never touch: a page lies unmapped between them.
    pub fn allocate(&self, bytes: usize) -> HeapMemory {
        let mut blocks = self.lock();
        let gpa = blocks.next.max(FIRST_GPA);
        let made = blocks.source.as_mut().and_then(|source| source(bytes));
        let block = made.unwrap_or_else(|| HeapMemory::zeroed(bytes)).with_gpa(gpa);
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
        let len = usize::try_from(bytes).map_err(|_| unmapped)?;
        self.with_missing(gpa, || {
            let blocks = self.lock();
            let (block, offset) = blocks.find(gpa).ok_or(unmapped)?;
            block.slice(offset, len).map_err(|_| unmapped)
        })
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
        self.with_missing(gpa, || {
            let blocks = self.lock();
            let (block, offset) = blocks.find(gpa).ok_or(unmapped)?;
            block.read(offset, into).map_err(|_| unmapped)
        })
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

    #[test]
    fn a_new_piece_replaces_what_it_covers_and_nothing_else() {
        let page = PAGE_SIZE as u64;
        let filled = |pages: usize, byte: u8| {
            let memory = HeapMemory::zeroed(pages * PAGE_SIZE);
            memory.write(0, &vec![byte; pages * PAGE_SIZE]).unwrap();
            memory
        };
        let memory = GuestMemory::new();
        memory.insert(10 * page, filled(4, 1)).unwrap();
        memory.insert(14 * page, filled(2, 2)).unwrap();
        memory.insert(11 * page, filled(2, 3)).unwrap();
        memory.insert(13 * page, filled(2, 4)).unwrap();
        let bytes: Vec<u8> = (9..17)
            .map(|number| {
                let mut byte = [0];
                memory.read(number * page, &mut byte).map_or(0, |()| byte[0])
            })
            .collect();
        assert_eq!(bytes, [0, 1, 3, 3, 4, 4, 2, 0]);
        assert!(memory.map(12 * page, page * 2).is_err(), "not one piece");
        assert!(memory.insert(u64::MAX - page + 1, filled(1, 5)).is_err(), "reaches the end");
        memory.free_below(13 * page);
        assert_eq!(memory.blocks(), 2);
    }

    #[test]
    fn missing_memory_is_asked_for_once() {
        let memory = GuestMemory::new();
        let (send, receive) = std::sync::mpsc::channel();
        memory.set_missing(move |memory, gpa| {
            send.send(gpa).unwrap();
            gpa == 0x5004 && memory.insert(0x5000, HeapMemory::zeroed(PAGE_SIZE)).is_ok()
        });
        assert!(memory.read(0x9000, &mut [0; 4]).is_err());
        memory.read(0x5004, &mut [0; 4]).unwrap();
        memory.read(0x5008, &mut [0; 4]).unwrap();
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [0x9000, 0x5004]);
    }

    #[test]
    fn blocks_come_from_the_source_as_long_as_it_has_some() {
        let memory = GuestMemory::new();
        let mut left = 1;
        memory.set_source(1 << 60, move |bytes| {
            left -= 1;
            (left >= 0).then(|| HeapMemory::zeroed(bytes))
        });
        let first = memory.allocate(PAGE_SIZE);
        let second = memory.allocate(PAGE_SIZE);
        assert_eq!((first.gpa(0), second.gpa(0)), (Some(1 << 60), Some((1 << 60) + 2 * PAGE_SIZE as u64)));
    }
}
