//! Who still holds what: counts of held frames by transfer packet, shared between the queue and whoever holds frames.
//!
//! The queue *opens* an entry with the first frame of a packet that it hands out, and *closes* it behind the packet's last one.
//! Whoever holds frames counts them down, with one atomic operation. Who counts to zero pushes the entry onto a stack, from which
//! the queue takes all that are there at once; an entry is on it once, so that its link can be in the entry, and nothing is
//! allocated and no push can fail. Taking all at once is what makes so simple a stack right: an entry that was seen on it does not
//! come back to it while somebody pushes in front of it, or the push starts over.
//!
//! A session has a ledger of its own. Frames that are let go after it has ended count down in one that nobody reads any more,
//! so nothing of theirs is ever acknowledged to the next session, whatever ids that has.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use vmbus::memory::{AnyMemory, OutOfBounds, SharedMemory, SharedMemoryExt};

/// An entry's count while the queue may add to it: more than there can be frames in a packet, so that it does not come to zero.
const OPEN: u32 = 1 << 31;

/// The end of the stack.
const NONE: u32 = u32::MAX;

/// A packet of which frames are held.
#[derive(Debug)]
struct Entry {
    /// Frames that are held; [`OPEN`] less those that were let go, while the queue hands them out.
    frames: AtomicU32,
    /// The entry that was let go before this one.
    next: AtomicU32,
}

/// See the [module](self).
pub(in super::super) struct Ledger {
    memory: AnyMemory,
    entries: Box<[Entry]>,
    /// The entry that was let go last.
    let_go: AtomicU32,
    /// The session has ended: the memory holds the frames no more.
    ended: AtomicBool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("entries", &self.entries.len()).field("ended", &self.ended).finish()
    }
}

impl Ledger {
    pub(super) fn new<M: SharedMemory>(memory: M, packets: usize) -> Self {
        let entry = || Entry { frames: AtomicU32::new(0), next: AtomicU32::new(NONE) };
        Self {
            memory: AnyMemory::new(memory),
            entries: (0..packets).map(|_| entry()).collect(),
            let_go: AtomicU32::new(NONE),
            ended: AtomicBool::new(false),
        }
    }

    /// Frames of the packet will be handed out; nobody else knows of the entry.
    #[inline]
    pub(super) fn open(&self, packet: u32) {
        if let Some(entry) = self.entries.get(packet as usize) {
            // Whoever is handed a frame is so by other means, which order this before.
            entry.frames.store(OPEN, Ordering::Relaxed);
        }
    }

    /// So many frames of the packet were handed out, and no more will be. Whether all of them were let go already: then they are
    /// the caller's to give back, and the entry is not on the stack.
    #[inline]
    pub(super) fn close(&self, packet: u32, frames: u32) -> bool {
        let Some(entry) = self.entries.get(packet as usize) else { return true };
        // Acquire: what those who let go have read is read before the host hears of it.
        let taken = OPEN - frames;
        entry.frames.fetch_sub(taken, Ordering::AcqRel) == taken
    }

    /// `frames` frames of the packet are held no more.
    #[inline]
    pub(super) fn let_go(&self, packet: u32, frames: u32) {
        let Some(entry) = self.entries.get(packet as usize) else { return };
        // Release: our reads come before whatever who counts to zero does. Acquire: if that is us, so do those of the others.
        if entry.frames.fetch_sub(frames, Ordering::AcqRel) != frames {
            return;
        }
        let mut top = self.let_go.load(Ordering::Relaxed);
        loop {
            entry.next.store(top, Ordering::Relaxed);
            // Release: pairs with the swap of `take_let_go`.
            match self.let_go.compare_exchange_weak(top, packet, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Whether entries were let go. A hint: what is seen late is seen later.
    #[inline]
    pub(super) fn has_let_go(&self) -> bool {
        self.let_go.load(Ordering::Relaxed) != NONE
    }

    /// Takes all entries that were let go: the first one. The others follow by [`after`](Self::after).
    pub(super) fn take_let_go(&self) -> Option<u32> {
        // Acquire: pairs with each push, as all of them are read-modify-writes of the same word.
        known(self.let_go.swap(NONE, Ordering::Acquire))
    }

    /// The entry behind one that was [taken](Self::take_let_go), to be asked before that is opened again.
    pub(super) fn after(&self, packet: u32) -> Option<u32> {
        known(self.entries.get(packet as usize)?.next.load(Ordering::Relaxed))
    }

    /// The session has ended: what is held cannot be read from now on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // What is written to the memory from now on comes behind: see `is_whole`.
        fence(Ordering::Release);
    }

    /// Whether what was read just now is what the host had put there, and not what the memory has served for since the session
    /// ended.
    #[inline]
    fn is_whole(&self) -> bool {
        // Who has read what was written behind the fence of `end` sees the word before it.
        fence(Ordering::Acquire);
        !self.ended.load(Ordering::Relaxed)
    }
}

fn known(packet: u32) -> Option<u32> {
    (packet != NONE).then_some(packet)
}

/// Where the rest of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Place {
    /// The entry of its packet.
    pub(in super::super) packet: u32,
    pub(in super::super) offset: u32,
    pub(in super::super) len: u32,
}

impl Place {
    /// That of a frame which was copied whole.
    pub(super) const NOWHERE: Self = Self { packet: NONE, offset: 0, len: 0 };

    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.packet != NONE
    }

    #[inline]
    pub(super) fn is_of_same_packet(&self, other: &Self) -> bool {
        self.packet == other.packet
    }

    #[inline]
    pub(super) fn rest<'a>(&self, ledger: Option<&'a Ledger>) -> Rest<'a> {
        Rest { ledger: ledger.filter(|_| self.is_held()), offset: self.offset as usize, len: self.len as usize }
    }
}

/// What was not copied of a frame: bytes that the host may still change, so that nothing is concluded from them. They are copied
/// to where they are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Rest<'a> {
    /// `None`: there are no bytes.
    ledger: Option<&'a Ledger>,
    offset: usize,
    len: usize,
}

impl<'a> Rest<'a> {
    /// The rest of a frame that was copied whole.
    pub const EMPTY: Rest<'static> = Rest { ledger: None, offset: 0, len: 0 };

    /// Bytes of it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the frame was copied whole.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Two parts of it: the first `at` bytes, and what follows. All of it is in the first if it has no more.
    #[inline]
    #[must_use]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        (Self { len: at, ..self }, Self { offset: self.offset + at, len: self.len - at, ..self })
    }

    /// Copies `into.len()` bytes, from the byte at `offset` on.
    ///
    /// # Errors
    /// [`RestError::OutOfBounds`] if there are not so many; [`RestError::Gone`] if the session has ended: what stands in `into` then
    /// means nothing.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), RestError> {
        let (len, size) = (into.len(), self.len);
        if offset > size || len > size - offset {
            return Err(RestError::OutOfBounds { offset, len, size });
        }
        self.reading(|memory, start| memory.read(start + offset, into))
    }

    /// Copies all of it into other shared memory.
    #[inline]
    pub(in super::super) fn copy_to<M: SharedMemory>(&self, memory: &M, at: usize) -> Result<(), RestError> {
        self.reading(|from, start| memory.copy_from(at, from, start, self.len))
    }

    /// Copies something out of its memory, where it starts at an offset, by `copy`. Whether what was copied are its bytes is
    /// known afterwards.
    #[inline]
    pub(in super::super) fn reading(
        &self,
        copy: impl FnOnce(&AnyMemory, usize) -> Result<(), OutOfBounds>,
    ) -> Result<(), RestError> {
        let Some(ledger) = self.ledger else { return Ok(()) };
        copy(&ledger.memory, self.offset)?;
        if ledger.is_whole() { Ok(()) } else { Err(RestError::Gone) }
    }
}

/// Why what was held of a frame was not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestError {
    /// Its session has ended: the adapter was closed, changed, or taken away by the host.
    Gone,
    /// There are not so many bytes.
    OutOfBounds {
        /// First byte that was asked for.
        offset: usize,
        /// How many.
        len: usize,
        /// How many there are.
        size: usize,
    },
}

impl fmt::Display for RestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Gone => f.write_str("the session in which the frame was received has ended"),
            Self::OutOfBounds { offset, len, size } => {
                write!(f, "{len} bytes at {offset} are more than the {size} that there are")
            }
        }
    }
}

impl core::error::Error for RestError {}

impl vmbus::Error for RestError {
    fn kind(&self) -> vmbus::ErrorKind {
        match self {
            Self::Gone => vmbus::ErrorKind::Gone,
            Self::OutOfBounds { .. } => vmbus::ErrorKind::Misuse,
        }
    }
}

impl From<OutOfBounds> for RestError {
    fn from(OutOfBounds { offset, len, size }: OutOfBounds) -> Self {
        Self::OutOfBounds { offset, len, size }
    }
}

/// The rest of a held frame that outlives its burst: [`HeldBurst::take_rest`](super::HeldBurst::take_rest). Dropping it lets go of
/// it, on whatever thread.
#[derive(Debug)]
pub struct Held {
    ledger: Arc<Ledger>,
    place: Place,
}

impl Held {
    pub(super) fn new(ledger: Arc<Ledger>, place: Place) -> Self {
        Self { ledger, place }
    }

    /// The bytes.
    #[inline]
    pub fn rest(&self) -> Rest<'_> {
        self.place.rest(Some(&self.ledger))
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        self.ledger.let_go(self.place.packet, 1);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use alloc::vec::Vec;
    use std::sync::Barrier;
    use std::thread;

    use vmbus::memory::HeapMemory;

    use super::*;

    fn taken(ledger: &Ledger) -> Vec<u32> {
        let mut taken = Vec::new();
        let mut next = ledger.take_let_go();
        while let Some(packet) = next {
            taken.push(packet);
            next = ledger.after(packet);
        }
        taken
    }

    #[test]
    fn an_entry_comes_back_once_its_last_frame_was_let_go() {
        let ledger = Ledger::new(HeapMemory::zeroed(1), 4);
        for packet in 0..3 {
            ledger.open(packet);
        }
        ledger.let_go(0, 1);
        assert!(!ledger.has_let_go(), "more may be handed out of it");
        assert!(!ledger.close(0, 3) && !ledger.close(1, 1));
        ledger.let_go(0, 1);
        assert!(!ledger.has_let_go());
        ledger.let_go(1, 1);
        ledger.let_go(0, 1);
        ledger.let_go(2, 2);
        assert!(ledger.close(2, 2), "let go before it was closed: the queue gives it back itself");
        assert!(ledger.has_let_go());
        assert_eq!(taken(&ledger), [0, 1]);
        assert_eq!(taken(&ledger), []);
        ledger.let_go(9, 1);
        assert_eq!(taken(&ledger), [], "no entry of this number");
    }

    #[test]
    fn what_was_held_cannot_be_read_after_the_end() {
        let memory = HeapMemory::zeroed(64);
        memory.write(8, &[1, 2, 3, 4, 5]).unwrap();
        let ledger = Arc::new(Ledger::new(memory.clone(), 1));
        ledger.open(0);
        let held = Held::new(Arc::clone(&ledger), Place { packet: 0, offset: 8, len: 5 });
        let mut bytes = [0; 3];
        held.rest().read(2, &mut bytes).unwrap();
        assert_eq!(bytes, [3, 4, 5]);
        let bad = RestError::OutOfBounds { offset: 3, len: 3, size: 5 };
        assert_eq!(held.rest().read(3, &mut bytes), Err(bad));
        assert!(held.rest().read(usize::MAX, &mut bytes).is_err());
        let (first, second) = held.rest().split_at(3);
        assert_eq!((first.len(), second.len(), held.rest().split_at(9).1.len()), (3, 2, 0));
        second.read(0, &mut bytes[..2]).unwrap();
        assert_eq!(bytes[..2], [4, 5]);
        let other = HeapMemory::zeroed(64);
        held.rest().copy_to(&other, 1).unwrap();
        assert!(held.rest().copy_to(&other, 4095).is_err(), "no room");
        ledger.end();
        assert_eq!(held.rest().read(0, &mut bytes), Err(RestError::Gone));
        assert_eq!(held.rest().copy_to(&other, 1), Err(RestError::Gone));
        assert!(Rest::EMPTY.read(0, &mut []).is_ok() && Rest::EMPTY.is_empty());
    }

    #[test]
    fn threads_let_go_of_everything_exactly_once() {
        const THREADS: usize = 4;
        let rounds = if cfg!(miri) { 3 } else { 2000 };
        let ledger = Ledger::new(HeapMemory::zeroed(1), 8);
        let start = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            for thread in 0..THREADS as u32 {
                let (ledger, start) = (&ledger, &start);
                scope.spawn(move || {
                    for _ in 0..rounds {
                        start.wait();
                        // Each packet has a frame of every thread.
                        for packet in 0..8 {
                            ledger.let_go((packet + thread) % 8, 1);
                        }
                        start.wait();
                    }
                });
            }
            for round in 0..rounds {
                (0..8).for_each(|packet| ledger.open(packet));
                start.wait();
                let mut back: Vec<u32> = (0..8).filter(|packet| ledger.close(*packet, THREADS as u32)).collect();
                while back.len() < 8 {
                    back.extend(taken(&ledger));
                    thread::yield_now();
                }
                start.wait();
                back.extend(taken(&ledger));
                back.sort_unstable();
                assert_eq!(back, [0, 1, 2, 3, 4, 5, 6, 7], "round {round}");
            }
        });
    }
}
