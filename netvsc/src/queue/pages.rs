//! Pages for GPA-direct sends: what is too large for a section, or finds none free.
//!
//! A message takes as many pages as it needs, any pages: they are listed one by one, as Linux does, one range a page. The
//! RNDIS header is at the start of the first, so that it lies within the first range, as hosts demand.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmbus::gpadl::write_range;
use vmbus::memory::{PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::gpa_direct_fixed_header;

use super::body::{NotWritten, Piece};
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

/// The end of a frame that is sent again and again, kept where the host can read it.
///
/// [`Queue::pin`](super::Queue::pin) makes one; [`Queue::send_pinned`](super::Queue::send_pinned) sends it behind headers that
/// differ from frame to frame. It has a copy of its own, which is sent where the host's way to it is gone: by another queue, or
/// after the queue went over to a new channel.
///
/// [`Queue::unpin`](super::Queue::unpin) gives its memory back at once. If it is dropped, wherever that is, the queue takes the
/// memory back as soon as nothing is [outstanding](super::Queue::outstanding).
#[derive(Debug)]
pub struct Pinned {
    bytes: Box<[u8]>,
    /// The queue that it was pinned by.
    owner: Owner,
    place: Option<Place>,
}

/// Where a pinned payload is: a page of one pool.
#[derive(Debug)]
struct Place {
    pool: Arc<Returns>,
    page: u32,
}

/// Who pins: a queue, whatever channels it goes over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u64);

impl Owner {
    /// One that no other is.
    pub(super) fn new() -> Self {
        Self(NEXT_OWNER.fetch_add(1, Ordering::Relaxed))
    }
}

/// The next queue's.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);

/// The pages of a pool whose payloads were dropped. Whoever drops one may be anywhere: no lock is taken.
#[derive(Debug)]
struct Returns {
    /// A bit a page.
    pages: Box<[AtomicU64]>,
    /// There may be some.
    any: AtomicBool,
}

impl Returns {
    fn new(pages: usize) -> Arc<Self> {
        let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { pages: words, any: AtomicBool::new(false) })
    }

    fn put(&self, page: u32) {
        if let Some(word) = self.pages.get(page as usize / 64) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            // Makes the bit seen by who sees this.
            self.any.store(true, Ordering::Release);
        }
    }
}

/// A pinned payload was not taken back. It is in the error: dropping that drops it.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnpinError {
    /// The host may still read it.
    Outstanding {
        /// The payload.
        pinned: Pinned,
        /// Sends that are not completed.
        sends: usize,
    },
    /// It was pinned by another queue.
    OtherQueue {
        /// The payload.
        pinned: Pinned,
    },
}

impl UnpinError {
    /// The payload.
    #[must_use]
    pub fn into_inner(self) -> Pinned {
        match self {
            Self::Outstanding { pinned, .. } | Self::OtherQueue { pinned } => pinned,
        }
    }
}

impl fmt::Display for UnpinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outstanding { sends, .. } => {
                write!(f, "the host may still read the payload: {sends} sends are outstanding")
            }
            Self::OtherQueue { .. } => f.write_str("the payload was pinned by another queue"),
        }
    }
}

impl core::error::Error for UnpinError {}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(Place { pool, page }) = self.place.take() {
            pool.put(page);
        }
    }
}

impl Pinned {
    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
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
    /// Pages of pinned payloads.
    pinned: usize,
    /// Tells the pool from all others as well.
    returns: Arc<Returns>,
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
        let returns = Returns::new(pages.len());
        Ok(Self { memory, free: pages.len(), pages, first_free: 0, pinned: 0, returns })
    }

    /// Pages there are for frames.
    pub(super) fn count(&self) -> usize {
        self.pages.len() - self.pinned
    }

    /// Keeps a payload in a page. Without one, if it takes more, or too few are left, it has its own copy alone.
    pub(super) fn pin(&mut self, payload: &[u8], owner: Owner) -> Pinned {
        let mut pinned = Pinned::copied(payload, owner);
        let enough = self.free > 0 && self.pinned < self.pages.len() / 2;
        // A range without bytes is none.
        if enough
            && (1..=PAGE_SIZE).contains(&payload.len())
            && let Some(page) = self.pages.get(self.first_free as usize)
            && self.memory.write(page.offset, payload).is_ok()
        {
            pinned.place = Some(Place { pool: Arc::clone(&self.returns), page: self.first_free });
            self.first_free = page.next;
            self.free -= 1;
            self.pinned += 1;
        }
        pinned
    }

    /// Takes the page of a payload back that nothing in flight names.
    pub(super) fn unpin(&mut self, mut pinned: Pinned) {
        if let Some(place) = pinned.place.take_if(|place| Arc::ptr_eq(&place.pool, &self.returns)) {
            self.unpin_page(place.page);
        }
    }

    fn unpin_page(&mut self, page: u32) {
        self.pinned -= 1;
        self.give_back(Chain { first: page, pages: 1 });
    }

    /// Takes the pages back of payloads that were dropped. Nothing in flight names them: nothing is in flight.
    #[inline]
    pub(super) fn take_returned(&mut self) {
        if self.returns.any.load(Ordering::Relaxed) {
            self.take_all_returned();
        }
    }

    #[cold]
    fn take_all_returned(&mut self) {
        // Before the bits are looked at: what is put in meanwhile is found next time.
        self.returns.any.swap(false, Ordering::Acquire);
        let returns = Arc::clone(&self.returns);
        for (at, word) in returns.pages.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                // Bits are pages, whose number has 32 bits.
                self.unpin_page(at as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }

    /// Whether [`lend_before`](Self::lend_before) would work for so many bytes.
    #[inline]
    pub(super) fn lends_before(&self, len: usize, pinned: &Pinned) -> bool {
        self.free > 0
            && len <= PAGE_SIZE
            && pinned.place.as_ref().is_some_and(|place| Arc::ptr_eq(&place.pool, &self.returns))
    }

    /// Copies the beginning of a message, which is in pieces, into one page, and lists it and the pinned payload behind it.
    #[inline]
    pub(super) fn lend_before(&mut self, pieces: [&[u8]; 2], pinned: &Pinned) -> Option<(Chain, Header)> {
        let len = pieces[0].len() + pieces[1].len();
        if !self.lends_before(len, pinned) {
            return None;
        }
        let first = self.first_free;
        let page = self.pages.get(first as usize)?;
        let payload = self.pages.get(pinned.place.as_ref()?.page as usize)?;
        self.memory.write(page.offset, pieces[0]).ok()?;
        self.memory.write(page.offset + pieces[0].len(), pieces[1]).ok()?;
        let mut header = Header { bytes: [0; _], len: header_bytes(2) };
        let (fixed, ranges) = header.bytes.split_at_mut(FIXED_BYTES);
        fixed.copy_from_slice(&gpa_direct_fixed_header(2));
        write_range(&mut ranges[..RANGE_BYTES], len as u32, 0, [page.number]).ok()?;
        let rest = &mut ranges[RANGE_BYTES..2 * RANGE_BYTES];
        write_range(rest, pinned.bytes.len() as u32, 0, [payload.number]).ok()?;
        // Nothing was changed before this point.
        self.first_free = page.next;
        self.free -= 1;
        // The host has read what comes next since it was written.
        if let Some(next) = self.pages.get(self.first_free as usize) {
            self.memory.prefetch_write(next.offset, len);
        }
        Some((Chain { first, pages: 1 }, header))
    }

    /// Pages that are free.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Copies a message, which is in pieces, into pages, and lists them.
    ///
    /// # Errors
    /// [`NotWritten::NoPlace`] if there are not enough, or the message takes more than a packet can list.
    pub(super) fn lend(&mut self, pieces: [&[u8]; 2], rest: impl Piece) -> Result<(Chain, Header), NotWritten> {
        const NO_PLACE: NotWritten = NotWritten::NoPlace;
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>() + rest.len();
        let count = len.div_ceil(PAGE_SIZE);
        if count == 0 || count > self.free || count > nvsp::MAX_PAGE_BUFFERS {
            return Err(NO_PLACE);
        }
        let mut header = Header { bytes: [0; _], len: header_bytes(count) };
        header.bytes[..FIXED_BYTES].copy_from_slice(&gpa_direct_fixed_header(count as u32));
        let chain = Chain { first: self.first_free, pages: count as u32 };
        let mut at = self.first_free;
        let (mut pieces, mut rest) = (pieces, rest);
        let ranges = header.bytes[FIXED_BYTES..].chunks_exact_mut(RANGE_BYTES);
        for range in ranges.take(count) {
            let page = self.pages.get(at as usize).ok_or(NO_PLACE)?;
            let mut used = 0;
            for piece in &mut pieces {
                let (here, after) = piece.parted(PAGE_SIZE - used);
                here.write(&self.memory, page.offset + used)?;
                used += here.len();
                *piece = after;
            }
            if used < PAGE_SIZE {
                let (here, after) = rest.parted(PAGE_SIZE - used);
                here.write(&self.memory, page.offset + used)?;
                used += here.len();
                rest = after;
            }
            write_range(range, used as u32, 0, [page.number]).map_err(|_| NO_PLACE)?;
            at = page.next;
        }
        // Nothing was changed before this point.
        self.first_free = at;
        self.free -= count;
        Ok((chain, header))
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

impl Pinned {
    /// A payload that is nowhere else.
    pub(super) fn copied(payload: &[u8], owner: Owner) -> Self {
        Self { bytes: payload.into(), owner, place: None }
    }

    pub(super) fn is_of(&self, owner: Owner) -> bool {
        self.owner == owner
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
        let (one, _) = pool.lend([&[1; 44], &[]], &[2; 16][..]).unwrap();
        let (two, header) = pool.lend([&[3; 44], &[]], &[4; 5000][..]).unwrap();
        assert_eq!(header.as_bytes().len(), 8 + 2 * 16);
        let ranges = GpaRanges::parse(&header.as_bytes()[8..], 2).unwrap();
        let listed: Vec<_> = ranges.iter().map(|range| (range.byte_count(), range.pfns().next().unwrap())).collect();
        assert_eq!(listed, [(4096, 0x101), (948, 0x102)]);
        assert!(pool.lend([&[1; 44], &[]], &[0; 5000][..]).is_err(), "one page is left");
        let (three, _) = pool.lend([&[5; 44], &[]], &[0; 4052][..]).unwrap();
        assert_eq!(pool.free(), 0);
        for chain in [two, one, three] {
            pool.give_back(chain);
        }
        assert_eq!(pool.free(), 4);
        let (all, _) = pool.lend([&[6; 44], &[]], &[7; 4 * PAGE_SIZE - 44][..]).unwrap();
        let mut page = [0; PAGE_SIZE];
        for number in 0..4 {
            memory.read(number * PAGE_SIZE, &mut page).unwrap();
            assert_eq!(page[PAGE_SIZE - 1], 7, "page {number} was used once");
        }
        pool.give_back(all);
        assert_eq!(pool.free(), pool.count());
    }

    #[test]
    fn a_pinned_payload_keeps_its_page_and_no_other_pool_knows_it() {
        let memory = HeapMemory::zeroed(4 * PAGE_SIZE).with_gpa(0x10_0000);
        let mut pool = Pages::new(memory.clone()).unwrap();
        let owner = Owner::new();
        let pinned = pool.pin(&[7; 100], owner);
        assert_eq!((pool.free(), pool.count()), (3, 3));
        let (chain, header) = pool.lend_before([&[1; 44], &[2; 14]], &pinned).unwrap();
        let ranges = GpaRanges::parse(&header.as_bytes()[8..], 2).unwrap();
        let listed: Vec<_> = ranges.iter().map(|range| (range.byte_count(), range.pfns().next().unwrap())).collect();
        assert_eq!(listed, [(58, 0x101), (100, 0x100)]);
        let mut other = Pages::new(HeapMemory::zeroed(4 * PAGE_SIZE).with_gpa(0x20_0000)).unwrap();
        assert!(other.lend_before([&[1; 44], &[2; 14]], &pinned).is_none());
        assert!(pool.lend_before([&[1; 44], &[2; PAGE_SIZE]], &pinned).is_none(), "more than a page before it");
        pool.give_back(chain);
        let second = pool.pin(&[8; 100], owner);
        assert!(pool.pin(&[9; 100], owner).place.is_none(), "half of the pages stay");
        assert!(pool.pin(&[9; PAGE_SIZE + 1], owner).place.is_none());
        let mut bytes = [0; 100];
        memory.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 100]);
        other.unpin(pinned);
        assert_eq!((other.free(), pool.free()), (4, 2), "its own knows that it was dropped");
        pool.take_returned();
        assert_eq!((pool.free(), pool.count()), (3, 3));
        pool.take_returned();
        pool.unpin(second);
        pool.take_returned();
        assert_eq!((pool.free(), pool.count()), (4, 4));
    }

    #[test]
    fn memory_without_addresses_is_refused() {
        assert!(Pages::new(HeapMemory::zeroed(PAGE_SIZE)).is_err());
        assert!(Pages::new(HeapMemory::zeroed(PAGE_SIZE).with_gpa(8)).is_err(), "not on a page");
    }
}
