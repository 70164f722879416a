//! Pages for GPA-direct sends: what is too large for a section, or finds none free.
//!
//! A message takes as many pages as it needs, any pages: they are listed one by one, as Linux does, one range a page. The
//! RNDIS header is at the start of the first, so that it lies within the first range, as hosts demand.

use alloc::vec::Vec;

use vmbus::gpadl::write_range;
use vmbus::memory::{PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::gpa_direct_fixed_header;

use super::error::QueueError;

/// Bytes of a range that lists one page: byte count, offset, page number.
const RANGE_BYTES: usize = 16;
/// Bytes before the ranges.
const FIXED_BYTES: usize = 8;

/// Bytes between descriptor and payload of a packet that lists `pages` pages.
#[inline]
pub(super) fn header_bytes(pages: usize) -> usize {
    FIXED_BYTES + pages * RANGE_BYTES
}

/// The header of a GPA-direct packet.
pub(super) struct Header {
    bytes: [u8; FIXED_BYTES + nvsp::MAX_PAGE_BUFFERS * RANGE_BYTES],
    len: usize,
}

impl Header {
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Pages that are lent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    first: u32,
    pages: u32,
}

#[derive(Debug, Clone, Copy)]
struct Page {
    offset: usize,
    number: u64,
    /// Next in the free list or in a chain; meaningless at the end of either.
    next: u32,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pages<M> {
    memory: M,
    pages: Vec<Page>,
    first_free: u32,
    free: usize,
}

impl<M: SharedMemory> Pages<M> {
    /// All whole pages of `memory` whose guest physical address is known.
    pub(super) fn new(memory: M) -> Result<Self, QueueError> {
        let mut pages = Vec::new();
        for offset in (0..memory.len() / PAGE_SIZE).map(|page| page * PAGE_SIZE) {
            match memory.gpa(offset) {
                Some(gpa) if gpa.is_multiple_of(PAGE_SIZE as u64) && pages.len() < u32::MAX as usize => {
                    let next = pages.len() as u32 + 1;
                    pages.push(Page { offset, number: gpa / PAGE_SIZE as u64, next });
                }
                _ => {}
            }
        }
        if pages.is_empty() {
            return Err(QueueError::BadBuffer { field: "pages with a known address", value: 0, limit: 1 });
        }
        Ok(Self { memory, free: pages.len(), pages, first_free: 0 })
    }

    /// Pages there are.
    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Pages that are free.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Copies a message, which is in pieces, into pages, and lists them. `None` if there are not enough, or the message
    /// takes more than a packet can list.
    pub(super) fn lend(&mut self, pieces: [&[u8]; 3]) -> Option<(Chain, Header)> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let count = len.div_ceil(PAGE_SIZE);
        if count == 0 || count > self.free || count > nvsp::MAX_PAGE_BUFFERS {
            return None;
        }
        let mut header = Header { bytes: [0; _], len: header_bytes(count) };
        header.bytes[..FIXED_BYTES].copy_from_slice(&gpa_direct_fixed_header(count as u32));
        let chain = Chain { first: self.first_free, pages: count as u32 };
        let mut at = self.first_free;
        let mut pieces = pieces;
        let ranges = header.bytes[FIXED_BYTES..].chunks_exact_mut(RANGE_BYTES);
        for range in ranges.take(count) {
            let page = self.pages.get(at as usize)?;
            let mut used = 0;
            for piece in &mut pieces {
                let (here, after) = piece.split_at(piece.len().min(PAGE_SIZE - used));
                self.memory.write(page.offset + used, here).ok()?;
                used += here.len();
                *piece = after;
            }
            write_range(range, used as u32, 0, [page.number]).ok()?;
            at = page.next;
        }
        // Nothing was changed before this point.
        self.first_free = at;
        self.free -= count;
        Some((chain, header))
    }

    /// Takes lent pages back.
    pub(super) fn give_back(&mut self, chain: Chain) {
        let mut last = chain.first;
        for _ in 1..chain.pages {
            let Some(page) = self.pages.get(last as usize) else { return };
            last = page.next;
        }
        if let Some(page) = self.pages.get_mut(last as usize) {
            page.next = self.first_free;
            self.first_free = chain.first;
            self.free += chain.pages as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmbus::gpadl::GpaRanges;
    use vmbus::memory::HeapMemory;

    #[test]
    fn pages_come_and_go_in_any_order() {
        let memory = HeapMemory::zeroed(4 * PAGE_SIZE).with_gpa(0x10_0000);
        let mut pool = Pages::new(memory.clone()).unwrap();
        let (one, _) = pool.lend([&[1; 44], &[], &[2; 16]]).unwrap();
        let (two, header) = pool.lend([&[3; 44], &[], &[4; 5000]]).unwrap();
        assert_eq!(header.as_bytes().len(), 8 + 2 * 16);
        let ranges = GpaRanges::parse(&header.as_bytes()[8..], 2).unwrap();
        let listed: Vec<_> = ranges.iter().map(|range| (range.byte_count(), range.pfns().next().unwrap())).collect();
        assert_eq!(listed, [(4096, 0x101), (948, 0x102)]);
        assert!(pool.lend([&[1; 44], &[], &[0; 5000]]).is_none(), "one page is left");
        let (three, _) = pool.lend([&[5; 44], &[], &[0; 4052]]).unwrap();
        assert_eq!(pool.free(), 0);
        for chain in [two, one, three] {
            pool.give_back(chain);
        }
        assert_eq!(pool.free(), 4);
        let (all, _) = pool.lend([&[6; 44], &[], &[7; 4 * PAGE_SIZE - 44]]).unwrap();
        let mut page = [0; PAGE_SIZE];
        for number in 0..4 {
            memory.read(number * PAGE_SIZE, &mut page).unwrap();
            assert_eq!(page[PAGE_SIZE - 1], 7, "page {number} was used once");
        }
        pool.give_back(all);
        assert_eq!(pool.free(), pool.count());
    }

    #[test]
    fn memory_without_addresses_is_refused() {
        assert!(Pages::new(HeapMemory::zeroed(PAGE_SIZE)).is_err());
        assert!(Pages::new(HeapMemory::zeroed(PAGE_SIZE).with_gpa(8)).is_err(), "not on a page");
    }
}
