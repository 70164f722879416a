//! Memory that the host also writes: the one module of this project with `unsafe` code.
//!
//! Everything else in the crate reaches rings, receive and send buffers through the safe methods of
//! [`SharedMemoryExt`]: bounds are checked, bytes are *copied* in or out, and control words are atomics. No `&[u8]` over
//! shared memory exists anywhere, because the other side may change it at any time.
//!
//! # The copy primitive
//! A copy between private and shared memory must tolerate a concurrent writer. A loop over `AtomicU8` does that, but
//! the compiler does not vectorise it. On x86-64 the copies here are inline assembly: to the language each is a run of
//! relaxed atomic byte accesses (which any hardware load or store refines), to the machine it is moves of 16 or 32
//! bytes. On other architectures, and under Miri, aligned 64-bit relaxed atomics do the bulk and bytes the edges.
//! `benches/` has both beside `memcpy`.
//!
//! Two sides that follow the ring's protocol never touch the same bytes at once. A peer that breaks it may; what it
//! tears is its own packet. (Should that peer live in this process, its accesses may differ in size from ours, which
//! Rust leaves undefined for now where they race; every machine that Hyper-V runs on just moves the bytes.)
//!
//! Bytes copied out are *a* snapshot, not a consistent one: check what was copied, never the original again.

#[cfg(feature = "alloc")]
mod any;
#[doc(hidden)]
pub mod copy;
#[cfg(feature = "alloc")]
mod heap;
#[cfg(feature = "mmap")]
mod mapping;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::gpadl::GpadlId;

#[cfg(feature = "alloc")]
pub use any::AnyMemory;
#[cfg(feature = "alloc")]
pub use heap::HeapMemory;
#[cfg(all(feature = "mmap", target_os = "linux"))]
pub use mapping::Contents;
#[cfg(feature = "mmap")]
pub use mapping::system_page_size;

/// Bytes in a page as the host counts them, whatever the guest's page size.
pub const PAGE_SIZE: usize = 4096;

/// Bytes in a line of the processor's cache, nearly everywhere. Hints go by it, nothing else.
const CACHE_LINE: usize = 64;

/// A piece of memory shared with the host.
///
/// # Safety
/// While `self` or any clone of it exists, `base()..base()+len()` is one live mapping, readable and writable,
/// initialised, at most `isize::MAX` bytes, and always the same. No Rust reference to any of its bytes exists; all
/// accesses in this process go through [`SharedMemoryExt`] (or are atomic). `base()` is aligned to 8 bytes.
pub unsafe trait SharedMemory: Clone + Send + Sync + 'static {
    /// First byte.
    fn base(&self) -> NonNull<u8>;

    /// Bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The GPADL that describes this memory to the host, if one was established.
    fn gpadl(&self) -> Option<GpadlId> {
        None
    }

    /// Guest physical address of the byte at `offset`, if it is known. `None` everywhere: nothing in here can be
    /// sent by GPA-direct packets.
    fn gpa(&self, offset: usize) -> Option<u64> {
        let _ = offset;
        None
    }
}

/// Shared memory with its place at hand, for paths where asking it each time would count.
#[derive(Debug, Clone)]
pub struct Located<M> {
    memory: M,
    base: NonNull<u8>,
    len: usize,
}

impl<M: SharedMemory> Located<M> {
    /// Asks `memory` for its place.
    pub fn new(memory: M) -> Self {
        let (base, len) = (memory.base(), memory.len());
        Self { memory, base, len }
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

// SAFETY: `base` points into `memory`, which may be sent, and is used as `memory` would be.
unsafe impl<M: SharedMemory> Send for Located<M> {}
// SAFETY: as above.
unsafe impl<M: SharedMemory> Sync for Located<M> {}

// SAFETY: the same mapping as `memory`'s, which says that it is always the same and lives as long as `memory`.
unsafe impl<M: SharedMemory> SharedMemory for Located<M> {
    #[inline]
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn gpadl(&self) -> Option<GpadlId> {
        self.memory.gpadl()
    }

    #[inline]
    fn gpa(&self, offset: usize) -> Option<u64> {
        self.memory.gpa(offset)
    }
}

/// An access outside a piece of shared memory, or one that is not aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First byte of the access.
    pub offset: usize,
    /// Bytes of the access.
    pub len: usize,
    /// Bytes that there are.
    pub size: usize,
}

impl core::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "access of {} bytes at offset {} leaves shared memory of {} bytes (or is not aligned)",
            self.len, self.offset, self.size
        )
    }
}

impl core::error::Error for OutOfBounds {}

/// Safe access to shared memory.
pub trait SharedMemoryExt: SharedMemory {
    /// Checks that `offset..offset+len` lies inside.
    #[inline]
    fn check(&self, offset: usize, len: usize) -> Result<(), OutOfBounds> {
        let size = self.len();
        if len <= size && offset <= size - len { Ok(()) } else { Err(OutOfBounds { offset, len, size }) }
    }

    /// Copies `into.len()` bytes out of shared memory.
    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        self.check(offset, into.len())?;
        let from = self.base().as_ptr().wrapping_add(offset);
        // SAFETY: as checked just now, `from` has `into.len()` bytes by the trait's contract, reached by atomics or this module only; `into`
        // is an exclusive reference, so the two do not overlap (no reference to shared bytes exists).
        unsafe { copy::load(into.as_mut_ptr(), from, into.len()) };
        Ok(())
    }

    /// Brings the cache lines of `len` bytes at `offset` nearer, since they will be read soon. Only a hint: what lies outside
    /// is left alone.
    #[inline]
    fn prefetch(&self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(self.len());
        let mut at = offset;
        while at < end {
            copy::prefetch(self.base().as_ptr().wrapping_add(at));
            at += CACHE_LINE;
        }
    }

    /// Brings the cache lines of `len` bytes at `offset` nearer, since they will be written soon: where the other side has read
    /// them, that takes as long as reading would. Only a hint: what lies outside is left alone.
    #[inline]
    fn prefetch_write(&self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(self.len());
        let mut at = offset;
        while at < end {
            copy::prefetch_write(self.base().as_ptr().wrapping_add(at));
            at += CACHE_LINE;
        }
    }

    /// Copies `from` into shared memory.
    #[inline]
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        self.check(offset, from.len())?;
        let to = self.base().as_ptr().wrapping_add(offset);
        // SAFETY: as checked just now, `to` has `from.len()` bytes by the trait's contract, reached by atomics or this module only; `from` is
        // a reference, so it points to private memory and the two do not overlap.
        unsafe { copy::store(to, from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Copies `len` bytes of other shared memory, from `from_offset` on, into this: straight from one to the other, so that what is
    /// written is what was read, whatever becomes of the source meanwhile. If the two are the same bytes in part, what is
    /// written there is not said.
    #[inline]
    fn copy_from<N: SharedMemory>(
        &self,
        offset: usize,
        from: &N,
        from_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        self.check(offset, len)?;
        from.check(from_offset, len)?;
        let to = self.base().as_ptr().wrapping_add(offset);
        let from = from.base().as_ptr().wrapping_add(from_offset);
        // SAFETY: as checked just now, both have `len` bytes by the trait's contract, reached by atomics or this module only.
        unsafe { copy::transfer(to, from, len) };
        Ok(())
    }

    /// Writes a run of pieces that are checked as one: `head`, the two `pieces` one behind the other, zeros up to the
    /// next multiple of 8, `tail`. Words are little-endian; `offset` is a multiple of 8.
    #[inline]
    fn write_framed(&self, offset: usize, head: [u64; 2], pieces: [&[u8]; 2], tail: u64) -> Result<(), OutOfBounds> {
        let [first, second] = pieces;
        let bad = |len| OutOfBounds { offset, len, size: self.len() };
        // A slice has at most isize::MAX bytes: two and the sixteen of `head` may just wrap.
        let pieces_end = (first.len() + second.len()).checked_add(16).ok_or(bad(usize::MAX))?;
        let tail_at = pieces_end.checked_next_multiple_of(8).ok_or(bad(usize::MAX))?;
        let len = tail_at.checked_add(8).ok_or(bad(usize::MAX))?;
        self.check(offset, len)?;
        if !offset.is_multiple_of(8) {
            return Err(bad(len));
        }
        // The `len` bytes from here lie inside the mapping, as checked just now.
        let base = self.base().as_ptr().wrapping_add(offset);
        let store_word = |at: usize, value: u64| {
            // A multiple of 8, at most `len - 8`, in each call below.
            let word = base.wrapping_add(at);
            // SAFETY: eight initialised bytes of the mapping; aligned, since `base()`, `offset` and `at` are; an atomic
            // allows concurrent accesses.
            unsafe { AtomicU64::from_ptr(word.cast()) }.store(value.to_le(), Ordering::Relaxed);
        };
        store_word(0, head[0]);
        store_word(8, head[1]);
        if pieces_end != tail_at {
            // The word that holds the last bytes and the padding; the bytes come over it.
            store_word(tail_at - 8, 0);
        }
        for (at, piece) in [(16, first), (16 + first.len(), second)] {
            let to = base.wrapping_add(at);
            // SAFETY: `at + piece.len()` is at most `pieces_end`, which is less than `len`: bytes of the mapping, reached
            // by atomics or this module only; `piece` is a reference, so private, and the two do not overlap.
            unsafe { copy::store(to, piece.as_ptr(), piece.len()) };
        }
        store_word(tail_at, tail);
        Ok(())
    }

    /// Writes `head` to `offset`, `body` to `body_at` bytes behind `offset` (over what of the head is there already), and zeros
    /// from its end up to the next multiple of 8: checked as one. Words are little-endian; `offset` is a multiple of 8, and
    /// the body ends behind the head.
    #[inline(always)]
    fn write_headed<const N: usize>(
        &self,
        offset: usize,
        head: [u64; N],
        body_at: usize,
        body: &[u8],
    ) -> Result<(), OutOfBounds> {
        let bad = |len| OutOfBounds { offset, len, size: self.len() };
        let end = body_at.checked_add(body.len()).ok_or(bad(usize::MAX))?;
        let len = end.checked_next_multiple_of(8).ok_or(bad(usize::MAX))?;
        self.check(offset, len)?;
        if !offset.is_multiple_of(8) || len < 8 || len < 8 * N {
            return Err(bad(len));
        }
        // The `len` bytes from here lie inside the mapping, as checked just now.
        let base = self.base().as_ptr().wrapping_add(offset);
        let store_word = |at: usize, value: u64| {
            // A multiple of 8, at most `len - 8`, in each call below.
            let word = base.wrapping_add(at);
            // SAFETY: eight initialised bytes of the mapping; aligned, since `base()`, `offset` and `at` are; an atomic
            // allows concurrent accesses.
            unsafe { AtomicU64::from_ptr(word.cast()) }.store(value.to_le(), Ordering::Relaxed);
        };
        // The word that holds the last bytes and the zeros behind them; what else is in it comes over it.
        store_word(len - 8, 0);
        for (at, word) in head.into_iter().enumerate() {
            store_word(8 * at, word);
        }
        let to = base.wrapping_add(body_at);
        // SAFETY: `body_at + body.len()` is at most `len`: bytes of the mapping, reached by atomics or this module only; `body`
        // is a reference, so private, and the two do not overlap.
        unsafe { copy::store(to, body.as_ptr(), body.len()) };
        Ok(())
    }

    /// As [`write_headed`](Self::write_headed), of a body that is `body` and, behind it, `rest`: so many bytes of other shared
    /// memory from an offset on.
    #[inline]
    fn write_headed_from<const N: usize, R: SharedMemory>(
        &self,
        offset: usize,
        head: [u64; N],
        body_at: usize,
        body: &[u8],
        rest: (&R, usize, usize),
    ) -> Result<(), OutOfBounds> {
        let (from, from_offset, rest_len) = rest;
        let bad = |len| OutOfBounds { offset, len, size: self.len() };
        let rest_at = body_at.checked_add(body.len()).ok_or(bad(usize::MAX))?;
        let end = rest_at.checked_add(rest_len).ok_or(bad(usize::MAX))?;
        let len = end.checked_next_multiple_of(8).ok_or(bad(usize::MAX))?;
        self.check(offset, len)?;
        from.check(from_offset, rest_len)?;
        if !offset.is_multiple_of(8) || len < 8 || len < 8 * N {
            return Err(bad(len));
        }
        // The `len` bytes from here lie inside the mapping, as checked just now.
        let base = self.base().as_ptr().wrapping_add(offset);
        let store_word = |at: usize, value: u64| {
            // A multiple of 8, at most `len - 8`, in each call below.
            let word = base.wrapping_add(at);
            // SAFETY: eight initialised bytes of the mapping; aligned, since `base()`, `offset` and `at` are; an atomic
            // allows concurrent accesses.
            unsafe { AtomicU64::from_ptr(word.cast()) }.store(value.to_le(), Ordering::Relaxed);
        };
        // The word that holds the last bytes and the zeros behind them; what else is in it comes over it.
        store_word(len - 8, 0);
        for (at, word) in head.into_iter().enumerate() {
            store_word(8 * at, word);
        }
        let to = base.wrapping_add(body_at);
        // SAFETY: `body_at + body.len()` is at most `len`: bytes of the mapping, reached by atomics or this module only; `body`
        // is a reference, so private, and the two do not overlap.
        unsafe { copy::store(to, body.as_ptr(), body.len()) };
        let (to, from) = (base.wrapping_add(rest_at), from.base().as_ptr().wrapping_add(from_offset));
        // SAFETY: `rest_at + rest_len` is at most `len`: bytes of this mapping; the source's were checked above. Both are reached
        // by atomics or this module only.
        unsafe { copy::transfer(to, from, rest_len) };
        Ok(())
    }

    /// Two little-endian words, checked as one; `offset` is a multiple of 8.
    #[inline]
    fn read_words(&self, offset: usize) -> Result<[u64; 2], OutOfBounds> {
        self.check(offset, 16)?;
        if !offset.is_multiple_of(8) {
            return Err(OutOfBounds { offset, len: 16, size: self.len() });
        }
        Ok([self.word64(offset)?, self.word64(offset + 8)?].map(|word| u64::from_le(word.load(Ordering::Relaxed))))
    }

    /// Writes `len` zero bytes.
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfBounds> {
        self.check(offset, len)?;
        const ZEROS: [u8; 256] = [0; 256];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS.len());
            self.write(offset + done, &ZEROS[..step])?;
            done += step;
        }
        Ok(())
    }

    /// The 32-bit word at `offset`, a multiple of 4, as an atomic.
    #[inline]
    fn word32(&self, offset: usize) -> Result<&AtomicU32, OutOfBounds> {
        self.check(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(OutOfBounds { offset, len: 4, size: self.len() });
        }
        let word = self.base().as_ptr().wrapping_add(offset);
        // SAFETY: as checked just now, four initialised bytes of a mapping that outlives `&self`; aligned, since `base()` and `offset` are;
        // an atomic allows concurrent writers.
        Ok(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// The 64-bit word at `offset`, a multiple of 8, as an atomic.
    #[inline]
    fn word64(&self, offset: usize) -> Result<&AtomicU64, OutOfBounds> {
        self.check(offset, 8)?;
        if !offset.is_multiple_of(8) {
            return Err(OutOfBounds { offset, len: 8, size: self.len() });
        }
        let word = self.base().as_ptr().wrapping_add(offset);
        // SAFETY: as checked just now, eight initialised bytes of a mapping that outlives `&self`; aligned, since `base()` and `offset`
        // are; an atomic allows concurrent writers.
        Ok(unsafe { AtomicU64::from_ptr(word.cast()) })
    }

    /// Sets `bits` in the little-endian word at `offset` with a locked operation (monitor and interrupt pages are
    /// shared by all devices of the VM: a plain store would lose the others' bits).
    #[inline]
    fn set_bits(&self, offset: usize, bits: u32) -> Result<(), OutOfBounds> {
        self.word32(offset)?.fetch_or(bits.to_le(), Ordering::SeqCst);
        Ok(())
    }
}

impl<M: SharedMemory> SharedMemoryExt for M {}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn every_length_and_alignment_round_trips_and_leaves_its_neighbours() {
        let shared = HeapMemory::zeroed(PAGE_SIZE);
        let source: Vec<u8> = (0..700u32).map(|i| (i * 7 + 1) as u8).collect();
        for offset in [0usize, 1, 3, 8, 13] {
            for len in (0..=300).chain([511, 512, 513, 640]) {
                shared.zero(0, PAGE_SIZE).unwrap();
                shared.write(64 + offset, &source[..len]).unwrap();
                let mut back = vec![0xEE; len + 2];
                shared.read(64 + offset, &mut back[1..=len]).unwrap();
                assert_eq!(&back[1..=len], &source[..len], "offset {offset} len {len}");
                assert_eq!((back[0], back[len + 1]), (0xEE, 0xEE), "offset {offset} len {len}");
                let mut around = [0xEE; 1];
                shared.read(63 + offset, &mut around).unwrap();
                assert_eq!(around, [0], "byte before, offset {offset} len {len}");
                shared.read(64 + offset + len, &mut around).unwrap();
                assert_eq!(around, [0], "byte after, offset {offset} len {len}");
            }
        }
    }

    #[test]
    fn a_head_a_body_and_zeros_are_written_as_one() {
        let body: Vec<u8> = (1..=100).collect();
        for body_at in [0usize, 1, 12, 15, 16, 21] {
            for len in 0..body.len() {
                let shared = HeapMemory::zeroed(PAGE_SIZE);
                shared.write(0, &[0xEE; 256]).unwrap();
                let written = shared.write_headed(8, [u64::from_le_bytes(*b"headhead"); 2], body_at, &body[..len]);
                let end = (body_at + len).next_multiple_of(8);
                let mut wanted = [0xEE; 256];
                if end < 16 {
                    assert!(written.is_err(), "{len} bytes at {body_at} are not behind the head");
                } else {
                    written.unwrap();
                    wanted[8 + end - 8..8 + end].fill(0);
                    wanted[8..24].copy_from_slice(b"headheadheadhead");
                    wanted[8 + body_at..][..len].copy_from_slice(&body[..len]);
                }
                let mut back = [0; 256];
                shared.read(0, &mut back).unwrap();
                assert_eq!(back, wanted, "{len} bytes at {body_at}");
            }
        }
        let shared = HeapMemory::zeroed(PAGE_SIZE);
        assert!(shared.write_headed(4, [0; 1], 8, &body).is_err(), "not aligned");
        assert!(shared.write_headed(4096 - 16, [0; 1], 8, &[0; 9]).is_err(), "the zeros are outside");
        assert!(shared.write_headed(4096 - 16, [0; 1], 8, &[0; 8]).is_ok());
        assert!(shared.write_headed(0, [0; 1], usize::MAX, &[0; 8]).is_err());
        assert!(shared.write_headed(0, [0; 0], 0, &[]).is_err(), "nothing");
    }

    #[test]
    fn bytes_go_from_one_memory_to_another() {
        let source: Vec<u8> = (0..2048u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let from = HeapMemory::zeroed(PAGE_SIZE);
        from.write(0, &source).unwrap();
        let any = AnyMemory::new(from.clone());
        for (to_at, from_at) in [(64usize, 0usize), (65, 0), (64, 3), (71, 13), (72, 8)] {
            for len in (0..=300).chain([511, 512, 513, 1500]) {
                let to = HeapMemory::zeroed(PAGE_SIZE);
                to.copy_from(to_at, &any, from_at, len).unwrap();
                let mut back = vec![0; PAGE_SIZE];
                to.read(0, &mut back).unwrap();
                let (before, rest) = back.split_at(to_at);
                assert_eq!(&rest[..len], &source[from_at..from_at + len], "{len} bytes from {from_at} to {to_at}");
                assert!(before.iter().chain(&rest[len..]).all(|byte| *byte == 0), "{len} bytes to {to_at}");
            }
        }
        let to = HeapMemory::zeroed(PAGE_SIZE);
        assert_eq!(to.copy_from(4095, &from, 0, 2), Err(OutOfBounds { offset: 4095, len: 2, size: 4096 }));
        assert_eq!(to.copy_from(0, &from, 4095, 2), Err(OutOfBounds { offset: 4095, len: 2, size: 4096 }));
        assert!(to.copy_from(0, &from, usize::MAX, 2).is_err() && to.copy_from(usize::MAX, &from, 0, 2).is_err());
        assert!(to.copy_from(4096, &from, 4096, 0).is_ok(), "no bytes at the end");
        // The same bytes in part: anything may be there, and nothing else is touched.
        from.copy_from(100, &any, 90, 500).unwrap();
        let mut around = [0; 2];
        from.read(600, &mut around).unwrap();
        assert_eq!(around, source[600..602]);
    }

    #[test]
    fn memory_of_any_backend_keeps_its_mapping() {
        let memory = HeapMemory::zeroed(PAGE_SIZE);
        memory.write(8, &[1, 2, 3]).unwrap();
        let any = AnyMemory::new(memory).clone();
        let mut back = [0; 3];
        any.read(8, &mut back).unwrap();
        assert_eq!((back, any.len(), any.gpa(0), any.gpadl()), ([1, 2, 3], PAGE_SIZE, None, None));
    }

    #[test]
    fn a_head_and_a_body_in_two_memories_are_written_as_one() {
        let bytes: Vec<u8> = (1..=250).collect();
        let from = HeapMemory::zeroed(PAGE_SIZE);
        from.write(5, &bytes).unwrap();
        for body_at in [0usize, 12, 16, 21] {
            for split in [0usize, 1, 14, 128] {
                for len in split..bytes.len() {
                    let (shared, wanted) = (HeapMemory::zeroed(PAGE_SIZE), HeapMemory::zeroed(PAGE_SIZE));
                    for memory in [&shared, &wanted] {
                        memory.write(0, &[0xEE; 512]).unwrap();
                    }
                    let head = [u64::from_le_bytes(*b"headhead"); 2];
                    let written =
                        shared.write_headed_from(8, head, body_at, &bytes[..split], (&from, 5 + split, len - split));
                    assert_eq!(written, wanted.write_headed(8, head, body_at, &bytes[..len]), "{split} of {len}");
                    let (mut got, mut expected) = ([0; 512], [0; 512]);
                    shared.read(0, &mut got).unwrap();
                    wanted.read(0, &mut expected).unwrap();
                    assert_eq!(got, expected, "{split} of {len} bytes at {body_at}");
                }
            }
        }
        let shared = HeapMemory::zeroed(PAGE_SIZE);
        let write = |offset, body_at, from_offset, len| {
            shared.write_headed_from(offset, [0; 1], body_at, &bytes[..8], (&from, from_offset, len))
        };
        assert!(write(4, 8, 0, 8).is_err(), "not aligned");
        assert!(write(0, 8, 4090, 8).is_err(), "the source ends before");
        assert!(write(4096 - 24, 8, 0, 9).is_err(), "the zeros are outside");
        assert!(write(4096 - 24, 8, 0, 8).is_ok());
        assert!(write(0, usize::MAX - 4, 0, 8).is_err() && write(0, 8, 0, usize::MAX).is_err());
        assert!(write(0, 8, usize::MAX, 8).is_err());
    }

    #[test]
    fn accesses_outside_are_refused() {
        let shared = HeapMemory::zeroed(PAGE_SIZE);
        let mut two = [0; 2];
        assert_eq!(shared.read(4095, &mut two), Err(OutOfBounds { offset: 4095, len: 2, size: 4096 }));
        assert!(shared.write(usize::MAX, &two).is_err());
        assert!(shared.word32(4094).is_err());
        assert!(shared.word32(2).is_err(), "not aligned");
        assert!(shared.word64(4).is_err(), "not aligned");
        assert!(shared.slice(4090, 8).is_err());
        assert!(shared.slice(4, 8).is_err(), "not aligned");
        assert!(shared.read(4096, &mut []).is_ok(), "no bytes at the end");
        for offset in [0, 1, 4095, 4096, usize::MAX] {
            for len in [0, 1, 4096, usize::MAX] {
                shared.prefetch(offset, len);
                shared.prefetch_write(offset, len);
            }
        }
    }

    #[test]
    fn slices_share_bytes_and_addresses() {
        let whole = HeapMemory::zeroed(2 * PAGE_SIZE).with_gpa(0x10_0000);
        let part = whole.slice(4096, 16).unwrap();
        part.write(0, &[7]).unwrap();
        let mut byte = [0];
        whole.read(4096, &mut byte).unwrap();
        assert_eq!(byte, [7]);
        assert_eq!(part.gpa(4), Some(0x10_1004));
        assert!(part.same_block(&whole));
    }
}
