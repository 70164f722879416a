//! Memory that the host also writes: the one module of this project with `unsafe` code.
//!
//! Everything else in the crate reaches rings, receive and send buffers through the safe methods of
//! [`SharedMemoryExt`]: bounds are checked, bytes are *copied* in or out, and control words are atomics. No `&[u8]` over
//! shared memory exists anywhere, because the other side may change it at any time.
//!
//! # The copy primitive
//! A copy between private and shared memory must tolerate a concurrent writer. A loop over `AtomicU8` does that, but
//! the compiler does not vectorise it. On x86-64 the copies here are inline assembly: to the language each is a run of
//! relaxed atomic byte accesses (which any hardware load or store refines), to the machine it is 16-byte moves. On
//! other architectures aligned 64-bit relaxed atomics do the bulk and bytes the edges. `benches/` has both beside
//! `memcpy`.
//!
//! Bytes copied out are *a* snapshot, not a consistent one: check what was copied, never the original again.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::gpadl::GpadlId;

/// Bytes in a page as the host counts them, whatever the guest's page size.
pub const PAGE_SIZE: usize = 4096;

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
        write!(f, "access of {} bytes at offset {} leaves shared memory of {} bytes (or is not aligned)", self.len, self.offset, self.size)
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
        // SAFETY: checked just now: `offset` lies inside the mapping or one past its end.
        let from = unsafe { self.base().as_ptr().add(offset) };
        // SAFETY: `from` has `into.len()` readable bytes by the trait's contract; `into` is an exclusive reference, so
        // the two do not overlap (no reference to shared bytes exists).
        unsafe { copy::copy(into.as_mut_ptr(), from, into.len()) };
        Ok(())
    }

    /// Copies `from` into shared memory.
    #[inline]
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        self.check(offset, from.len())?;
        // SAFETY: checked just now: `offset` lies inside the mapping or one past its end.
        let to = unsafe { self.base().as_ptr().add(offset) };
        // SAFETY: `to` has `from.len()` writable bytes by the trait's contract; `from` is a reference to private
        // memory, so the two do not overlap.
        unsafe { copy::copy(to, from.as_ptr(), from.len()) };
        Ok(())
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
        // SAFETY: checked just now that `offset` lies inside.
        let word = unsafe { self.base().as_ptr().add(offset) };
        // SAFETY: four initialised bytes of a mapping that outlives `&self`; aligned, since `base()` and `offset` are;
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
        // SAFETY: checked just now that `offset` lies inside.
        let word = unsafe { self.base().as_ptr().add(offset) };
        // SAFETY: eight initialised bytes of a mapping that outlives `&self`; aligned, since `base()` and `offset`
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

/// Copies between private and shared memory, byte runs of any length and alignment.
///
/// Public for `benches/` only.
#[doc(hidden)]
pub mod copy {
    /// Copies `len` bytes.
    ///
    /// # Safety
    /// `from` has `len` readable and `to` has `len` writable bytes; they do not overlap. One of them may be changed or
    /// read by another thread or by the host meanwhile; the other is private.
    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: passed on from the caller.
        unsafe { x86_64::copy(to, from, len) }
    }

    /// Copies `len` bytes.
    ///
    /// # Safety
    /// As on x86-64.
    #[inline]
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: passed on from the caller.
        unsafe { words::copy(to, from, len) }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    mod x86_64 {
        use core::arch::asm;

        /// Moves 16 bytes from `from + at` to `to + at`.
        ///
        /// # Safety
        /// Both have 16 bytes there.
        #[inline(always)]
        unsafe fn move16(to: *mut u8, from: *const u8, at: usize) {
            // SAFETY: loads and stores only what the caller vouches for; no flags, no stack.
            unsafe {
                asm!("movups {x}, [{from} + {at}]", "movups [{to} + {at}], {x}",
                    from = in(reg) from, to = in(reg) to, at = in(reg) at, x = out(xmm_reg) _,
                    options(nostack, preserves_flags));
            }
        }

        /// # Safety
        /// As [`super::copy`].
        #[inline(always)]
        pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
            if len < 16 {
                // SAFETY: passed on from the caller.
                unsafe { short(to, from, len) };
                return;
            }
            if len > 128 {
                // SAFETY: passed on from the caller.
                unsafe { long(to, from, len) };
                return;
            }
            let mut at = 0;
            while at + 16 < len {
                // SAFETY: at + 16 < len.
                unsafe { move16(to, from, at) };
                at += 16;
            }
            // SAFETY: the last 16 bytes; len >= 16. They may overlap the move before: the same bytes from the same
            // place, once more.
            unsafe { move16(to, from, len - 16) };
        }

        /// More than 128 bytes: 64 a turn, then the last 64 once more (they may overlap the last turn's).
        ///
        /// # Safety
        /// As [`super::copy`], and `len >= 64`.
        #[inline]
        unsafe fn long(to: *mut u8, from: *const u8, len: usize) {
            let last = len - 64;
            // SAFETY: touches [at, at + 64) only for at <= len - 64, which the caller vouches for.
            unsafe {
                asm!(
                    "2:",
                    "movups {a}, [{from} + {at}]",
                    "movups {b}, [{from} + {at} + 16]",
                    "movups {c}, [{from} + {at} + 32]",
                    "movups {d}, [{from} + {at} + 48]",
                    "movups [{to} + {at}], {a}",
                    "movups [{to} + {at} + 16], {b}",
                    "movups [{to} + {at} + 32], {c}",
                    "movups [{to} + {at} + 48], {d}",
                    "add {at}, 64",
                    "cmp {at}, {last}",
                    "jb 2b",
                    "movups {a}, [{from} + {last}]",
                    "movups {b}, [{from} + {last} + 16]",
                    "movups {c}, [{from} + {last} + 32]",
                    "movups {d}, [{from} + {last} + 48]",
                    "movups [{to} + {last}], {a}",
                    "movups [{to} + {last} + 16], {b}",
                    "movups [{to} + {last} + 32], {c}",
                    "movups [{to} + {last} + 48], {d}",
                    from = in(reg) from, to = in(reg) to, last = in(reg) last, at = inout(reg) 0usize => _,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack));
            }
        }

        /// Fewer than 16 bytes: two overlapping moves of the largest power of two that fits.
        ///
        /// # Safety
        /// As [`super::copy`].
        #[inline(always)]
        unsafe fn short(to: *mut u8, from: *const u8, len: usize) {
            if len >= 8 {
                // SAFETY: the first and the last eight of `len >= 8` bytes.
                unsafe {
                    asm!("mov {x}, [{from}]", "mov {y}, [{from} + {last}]", "mov [{to}], {x}", "mov [{to} + {last}], {y}",
                        from = in(reg) from, to = in(reg) to, last = in(reg) len - 8, x = out(reg) _, y = out(reg) _,
                        options(nostack, preserves_flags));
                }
            } else if len >= 4 {
                // SAFETY: the first and the last four of `len >= 4` bytes.
                unsafe {
                    asm!("mov {x:e}, [{from}]", "mov {y:e}, [{from} + {last}]", "mov [{to}], {x:e}", "mov [{to} + {last}], {y:e}",
                        from = in(reg) from, to = in(reg) to, last = in(reg) len - 4, x = out(reg) _, y = out(reg) _,
                        options(nostack, preserves_flags));
                }
            } else {
                for at in 0..len {
                    // SAFETY: byte `at` of `len`.
                    unsafe {
                        asm!("mov {x}, [{from} + {at}]", "mov [{to} + {at}], {x}",
                            from = in(reg) from, to = in(reg) to, at = in(reg) at, x = out(reg_byte) _,
                            options(nostack, preserves_flags));
                    }
                }
            }
        }
    }

    /// The portable form, also a row of the benchmarks.
    pub mod words {
        use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

        /// Copies `len` bytes by relaxed atomics.
        ///
        /// # Safety
        /// As [`super::copy`].
        #[inline]
        pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
            let mut at = 0;
            if to.align_offset(8) == from.align_offset(8) {
                let edge = from.align_offset(8).min(len);
                while at < edge {
                    // SAFETY: byte `at` of `len`.
                    unsafe { byte(to, from, at) };
                    at += 1;
                }
                while at + 8 <= len {
                    // SAFETY: eight bytes at `at`, aligned on both sides after the edge.
                    unsafe { word(to, from, at) };
                    at += 8;
                }
            }
            while at < len {
                // SAFETY: byte `at` of `len`.
                unsafe { byte(to, from, at) };
                at += 1;
            }
        }

        /// # Safety
        /// Both pointers have a byte at `at`.
        #[inline(always)]
        unsafe fn byte(to: *mut u8, from: *const u8, at: usize) {
            // SAFETY: in bounds by the caller.
            let from = unsafe { from.add(at) };
            // SAFETY: in bounds by the caller.
            let to = unsafe { to.add(at) };
            // SAFETY: one valid byte; only loaded from, and read-only memory is never handed in as `from` alone.
            let value = unsafe { AtomicU8::from_ptr(from.cast_mut()) }.load(Relaxed);
            // SAFETY: one valid, writable byte.
            unsafe { AtomicU8::from_ptr(to) }.store(value, Relaxed);
        }

        /// # Safety
        /// Both pointers have eight aligned bytes at `at`.
        #[inline(always)]
        unsafe fn word(to: *mut u8, from: *const u8, at: usize) {
            // SAFETY: in bounds by the caller.
            let from = unsafe { from.add(at) };
            // SAFETY: in bounds by the caller.
            let to = unsafe { to.add(at) };
            // SAFETY: eight valid aligned bytes; only loaded from.
            let value = unsafe { AtomicU64::from_ptr(from.cast_mut().cast()) }.load(Relaxed);
            // SAFETY: eight valid, writable, aligned bytes.
            unsafe { AtomicU64::from_ptr(to.cast()) }.store(value, Relaxed);
        }
    }
}

#[cfg(feature = "alloc")]
pub use heap::HeapMemory;

/// Shared memory on the heap: both sides live in one process.
#[cfg(feature = "alloc")]
mod heap {
    use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
    use alloc::sync::Arc;
    use core::ptr::NonNull;

    use super::{OutOfBounds, PAGE_SIZE, SharedMemory};
    use crate::gpadl::GpadlId;

    /// Owns the allocation.
    #[derive(Debug)]
    struct Block {
        base: NonNull<u8>,
        layout: Layout,
    }

    // SAFETY: the bytes are reached only through atomics and the copy primitive, from any thread.
    unsafe impl Send for Block {}
    // SAFETY: as above.
    unsafe impl Sync for Block {}

    impl Drop for Block {
        fn drop(&mut self) {
            // SAFETY: allocated in `HeapMemory::zeroed` with this layout, and freed only here.
            unsafe { dealloc(self.base.as_ptr(), self.layout) };
        }
    }

    /// Zeroed, page-aligned memory on the heap, shared by clones and [slices](Self::slice).
    ///
    /// This is what in-process backends are made of, those of other people included: it can carry guest physical
    /// addresses and a GPADL, and needs no `unsafe` code from whoever uses it.
    #[derive(Debug, Clone)]
    pub struct HeapMemory {
        block: Arc<Block>,
        offset: usize,
        len: usize,
        gpa: Option<u64>,
        gpadl: Option<GpadlId>,
    }

    impl HeapMemory {
        /// Allocates `bytes`, rounded up to whole pages, all zero.
        ///
        /// # Panics
        /// If `bytes` is 0 or more than `isize::MAX` less one page. Aborts when memory runs out.
        pub fn zeroed(bytes: usize) -> Self {
            let len = bytes.next_multiple_of(PAGE_SIZE);
            assert!(len > 0, "shared memory of no bytes");
            let layout = Layout::from_size_align(len, PAGE_SIZE).expect("shared memory larger than the address space");
            // SAFETY: the layout's size is not 0, as asserted.
            let base = unsafe { alloc_zeroed(layout) };
            let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
            Self { block: Arc::new(Block { base, layout }), offset: 0, len, gpa: None, gpadl: None }
        }

        /// A part of this memory: `len` bytes from `offset`, a multiple of 8. It keeps the whole alive and has no GPADL of its own.
        pub fn slice(&self, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
            use super::SharedMemoryExt;
            self.check(offset, len)?;
            if !offset.is_multiple_of(8) {
                return Err(OutOfBounds { offset, len, size: self.len });
            }
            Ok(Self {
                block: Arc::clone(&self.block),
                offset: self.offset + offset,
                len,
                gpa: self.gpa.map(|gpa| gpa + offset as u64),
                gpadl: None,
            })
        }

        /// The same memory, its first byte at guest physical address `gpa`.
        #[must_use]
        pub fn with_gpa(mut self, gpa: u64) -> Self {
            self.gpa = Some(gpa);
            self
        }

        /// The same memory, known to the host as `gpadl`.
        #[must_use]
        pub fn with_gpadl(mut self, gpadl: GpadlId) -> Self {
            self.gpadl = Some(gpadl);
            self
        }

        /// Whether `other` is (a part of) the same allocation.
        pub fn same_block(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.block, &other.block)
        }

        /// How many clones and slices of this allocation exist, this one included.
        pub fn handles(&self) -> usize {
            Arc::strong_count(&self.block)
        }
    }

    // SAFETY: `offset..offset+len` lies inside the block (checked in `zeroed` and `slice`), which is live, initialised
    // (zeroed) and never moves until the last clone drops; page-aligned plus a multiple of 8; no reference to its bytes
    // is ever made.
    unsafe impl SharedMemory for HeapMemory {
        #[inline]
        fn base(&self) -> NonNull<u8> {
            // SAFETY: inside the block by the type's invariant.
            unsafe { self.block.base.add(self.offset) }
        }

        #[inline]
        fn len(&self) -> usize {
            self.len
        }

        #[inline]
        fn gpadl(&self) -> Option<GpadlId> {
            self.gpadl
        }

        #[inline]
        fn gpa(&self, offset: usize) -> Option<u64> {
            self.gpa.map(|gpa| gpa + offset as u64)
        }
    }
}

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
    fn the_portable_copy_agrees() {
        let source: Vec<u8> = (0..300u32).map(|i| (i * 11 + 5) as u8).collect();
        for from in 0..9 {
            for to in 0..9 {
                for len in 0..200 {
                    let mut out = vec![0u8; 300];
                    // SAFETY: both vectors are longer than offset + length, and distinct.
                    #[allow(unsafe_code)]
                    unsafe {
                        copy::words::copy(out[to..].as_mut_ptr(), source[from..].as_ptr(), len);
                    }
                    assert_eq!(out[to..to + len], source[from..from + len]);
                    assert!(out[to + len..].iter().all(|&b| b == 0));
                }
            }
        }
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
