//! A global allocator that counts, for tests and benchmarks of what allocates nothing, or not much.
//!
//! ```
//! use netvsc_allocations::{Counting, count_here};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! let before = count_here();
//! drop(std::hint::black_box(vec![0; 100]));
//! assert_eq!(count_here() - before, 1);
//! ```
//!
//! All functions give 0 in a program of which [`Counting`] is not the global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Nothing to make and nothing to drop: it may be used while memory is allocated.
    static HERE: Cell<Here> = const { Cell::new(Here { count: 0, held: 0, peak: 0 }) };
}

/// What a thread has allocated.
#[derive(Clone, Copy)]
struct Here {
    count: u64,
    held: usize,
    peak: usize,
}

/// The system's allocator, with a count. A program makes it its `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

/// Allocations and reallocations of all threads so far.
#[must_use]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// As [`count`], of this thread only.
#[must_use]
pub fn count_here() -> u64 {
    HERE.get().count
}

/// Bytes that this thread has allocated and not freed. What another thread frees stays, and what this thread frees of
/// another's is taken off, down to 0.
#[must_use]
pub fn held_here() -> usize {
    HERE.get().held
}

/// The most that [`held_here`] ever was, since [`reset_peak`].
#[must_use]
pub fn peak_here() -> usize {
    HERE.get().peak
}

/// Forgets what [`peak_here`] was, but for what is held now.
pub fn reset_peak() {
    HERE.set(Here { peak: HERE.get().held, ..HERE.get() });
}

fn note(allocations: u64, allocated: usize, freed: usize) {
    COUNT.fetch_add(allocations, Ordering::Relaxed);
    // A thread at its end may have no such place any more, and no interest in the count.
    let _ = HERE.try_with(|here| {
        let Here { count, held, peak } = here.get();
        let held = (held + allocated).saturating_sub(freed);
        here.set(Here { count: count + allocations, held, peak: peak.max(held) });
    });
}

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait; it hands every call on")]
// SAFETY: every method hands its arguments to `System` unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(1, bytes, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(0, 0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}
