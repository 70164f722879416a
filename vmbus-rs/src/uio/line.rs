//! A channel as the demultiplexer sees it: both rings, and who waits for them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{GoneReason, UioError};
use crate::bus::ChannelInfo;
use crate::mem::Latch;
use crate::memory::{Contents, HeapMemory, OutOfBounds, SharedMemory, SharedMemoryExt, copy, system_page_size};
use crate::protocol::RelId;
use crate::ring::Word;

/// How a channel, or a device, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Rescinded(RelId),
    Gone(GoneReason),
}

impl From<End> for UioError {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::Rescinded(relid) => Self::Rescinded(relid),
            End::Gone(reason) => Self::Gone(reason),
        }
    }
}

/// One channel's rings: guest→host in the first half of the memory, host→guest in the second.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) info: ChannelInfo,
    /// What its queue waits for.
    pub(super) latch: Latch,
    /// Whether the driver was told of it.
    pub(super) offered: AtomicBool,
    rings: HeapMemory,
    half: usize,
    end: OnceLock<End>,
    /// What the mask was before interrupt control; used under the session's device lock only.
    was_masked: AtomicBool,
    /// Whether its mask was set again, so that its queue has to look.
    restored: AtomicBool,
}

impl Line {
    /// A channel whose rings are all of `rings`; `None` if that cannot be two rings.
    pub(super) fn new(info: ChannelInfo, rings: HeapMemory) -> Option<Self> {
        let (half, page) = (rings.len() / 2, system_page_size());
        let fits = rings.len().is_multiple_of(2) && half.is_multiple_of(page) && half >= 2 * page;
        fits.then(|| Self {
            info,
            latch: Latch::new(),
            offered: AtomicBool::new(false),
            rings,
            half,
            end: OnceLock::new(),
            was_masked: AtomicBool::new(true),
            restored: AtomicBool::new(false),
        })
    }

    /// Guest→host and host→guest ring.
    pub(super) fn rings(&self) -> Result<(HeapMemory, HeapMemory), OutOfBounds> {
        Ok((self.rings.slice(0, self.half)?, self.rings.slice(self.half, self.half)?))
    }

    /// Whether nobody has used the rings; else the indices that say so.
    pub(super) fn check_fresh(&self) -> Result<(), UioError> {
        let (write_index, read_index) = (self.load(0, Word::WriteIndex), self.load(self.half, Word::ReadIndex));
        if (write_index, read_index) == (0, 0) { Ok(()) } else { Err(UioError::RingsInUse { write_index, read_index }) }
    }

    /// Whether the host may not interrupt.
    pub(super) fn is_masked(&self) -> bool {
        self.load(self.half, Word::InterruptMask) != 0
    }

    /// Puts a defined value into the words that a kernel leaves as they were: no interrupts, no wish for room.
    pub(super) fn silence(&self) {
        self.store(self.half, Word::InterruptMask, 1);
        self.store(0, Word::PendingSendSize, 0);
        copy::full_fence();
    }

    /// Whether its queue has a reason to look after an event: there is something to read, room was asked for, or the
    /// mask is set, be it by a kernel that does so on each interrupt, and has to be cleared again.
    ///
    /// To be asked after the event count was read: what comes later raises another event.
    pub(super) fn needs_look(&self) -> bool {
        self.load(self.half, Word::WriteIndex) != self.load(self.half, Word::ReadIndex)
            || self.is_masked()
            || self.load(0, Word::PendingSendSize) != 0
    }

    /// Remembers the mask, before somebody clears it.
    pub(super) fn remember_mask(&self) {
        self.was_masked.store(self.is_masked(), Ordering::Relaxed);
    }

    /// Sets a mask again that was set when it was remembered.
    pub(super) fn restore_mask(&self) {
        if !self.was_masked.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mask) = self.rings.word32(self.half + Word::InterruptMask.offset())
            && mask.compare_exchange(0, 1_u32.to_le(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            self.restored.store(true, Ordering::Release);
        }
    }

    /// After the mask was set again: its queue may have cleared it meanwhile in order to sleep, and is told to look. Not
    /// under a lock, since it wakes.
    pub(super) fn tell_restored(&self) {
        if self.restored.swap(false, Ordering::AcqRel) {
            self.latch.set();
        }
    }

    /// How it ended, if it has.
    #[inline]
    pub(super) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Ends it: lets go of the rings, wakes the waiter.
    ///
    /// Whoever still holds the rings finds them empty, and private: the kernel frees their pages, mapped or not.
    ///
    /// Whether they were let go of: without memory for that, they stay mapped until their queue goes.
    pub(super) fn finish(&self, end: End) -> bool {
        if self.end.set(end).is_err() {
            return true;
        }
        let written = self.load(0, Word::WriteIndex);
        let read = self.load(self.half, Word::ReadIndex);
        let at = |ring: usize, word: Word| ring + word.offset();
        let quiet = [
            (at(0, Word::WriteIndex), written),
            (at(0, Word::ReadIndex), written),
            (at(0, Word::InterruptMask), 1),
            (at(self.half, Word::WriteIndex), read),
            (at(self.half, Word::ReadIndex), read),
            (at(self.half, Word::InterruptMask), 1),
        ];
        let gone = self.rings.disconnect(Contents::Words(&quiet)).is_ok();
        self.latch.set();
        gone
    }

    fn load(&self, ring: usize, word: Word) -> u32 {
        // Inside by construction.
        self.rings.word32(ring + word.offset()).map_or(0, |word| u32::from_le(word.load(Ordering::Acquire)))
    }

    fn store(&self, ring: usize, word: Word, value: u32) {
        if let Ok(word) = self.rings.word32(ring + word.offset()) {
            word.store(value.to_le(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guid::Guid;

    const HALF: usize = 16 * 4096;
    const MASK: usize = HALF + 8;

    fn line(rings: &HeapMemory) -> Option<Line> {
        Line::new(ChannelInfo::new(RelId(3), Guid::NIC, Guid::ZERO, 0), rings.clone())
    }

    fn store(rings: &HeapMemory, at: usize, value: u32) {
        rings.write(at, &value.to_le_bytes()).unwrap();
    }

    #[test]
    fn two_rings_of_whole_pages() {
        let page = system_page_size();
        for (bytes, is) in [(4 * page, true), (2 * page, false), (6 * page, true), (7 * page, false)] {
            assert_eq!(line(&HeapMemory::zeroed(bytes)).is_some(), is, "{bytes} bytes");
        }
    }

    #[test]
    fn looks_only_where_there_is_a_reason() {
        let rings = HeapMemory::zeroed(2 * HALF);
        let line = line(&rings).unwrap();
        assert!(!line.needs_look(), "armed and empty");
        for (at, name) in [(HALF, "something to read"), (MASK, "masked"), (12, "room wanted")] {
            store(&rings, at, 8);
            assert!(line.needs_look(), "{name}");
            store(&rings, at, 0);
            assert!(!line.needs_look(), "no longer {name}");
        }
        store(&rings, 0, 8);
        assert!(!line.needs_look(), "what the guest wrote is the host's to read");
    }

    #[test]
    fn a_mask_that_was_cleared_is_restored_and_its_queue_looks_again() {
        let rings = HeapMemory::zeroed(2 * HALF);
        let line = line(&rings).unwrap();
        line.remember_mask();
        line.restore_mask();
        assert!(!line.is_masked(), "was not masked");
        line.silence();
        line.remember_mask();
        line.restore_mask();
        line.tell_restored();
        assert!(line.is_masked());
        assert!(!line.latch.take(), "nobody cleared it");
        store(&rings, MASK, 0);
        line.restore_mask();
        line.tell_restored();
        assert!(line.is_masked());
        assert!(line.latch.take(), "whoever cleared it may be asleep");
    }

    #[test]
    fn rings_in_use_are_found_out() {
        let rings = HeapMemory::zeroed(2 * HALF);
        let line = line(&rings).unwrap();
        assert_eq!(line.check_fresh(), Ok(()));
        store(&rings, HALF, 64);
        assert_eq!(line.check_fresh(), Ok(()), "the host may have spoken");
        store(&rings, 0, 8);
        assert_eq!(line.check_fresh(), Err(UioError::RingsInUse { write_index: 8, read_index: 0 }));
    }
}
