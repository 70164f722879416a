//! A global allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Nothing to make and nothing to drop: it may be used while memory is allocated.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator; says how often it was asked for memory. A binary makes it its `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

/// Allocations and reallocations of all threads so far; always 0 where [`Counting`] is not the global allocator.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// As [`count`], of this thread only.
pub fn count_here() -> u64 {
    HERE.with(Cell::get)
}

fn count_one() {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // A thread at its end may have no such place any more, and no interest in the count.
    let _ = HERE.try_with(|here| here.set(here.get() + 1));
}

#[expect(unsafe_code, reason = "passes on to the system's allocator")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_one();
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(block, layout) }
    }
}
