//! What `std` would bring: an allocator, and something to do on panic.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes there are, for ever: nothing is given back.
const ARENA_BYTES: usize = 8 << 20;

#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);

// SAFETY: bytes are handed out once each, so no two owners ever share any.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

struct Bump;

// SAFETY: every block lies in the arena, aligned as asked for, and apart from all others: `NEXT` only ever grows past it.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let place = |next: usize| {
            // The arena's alignment is that of a page, so offsets have the alignment of addresses.
            let start = next.checked_next_multiple_of(layout.align())?;
            let end = start.checked_add(layout.size())?;
            (layout.align() <= 4096 && end <= ARENA_BYTES).then_some((start, end))
        };
        let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| place(next).map(|(_, end)| end));
        match taken.ok().and_then(place) {
            Some((start, _)) => ARENA.0.get().cast::<u8>().wrapping_add(start),
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // Nowhere to say it; who links this sees the program stand still.
    loop {
        core::hint::spin_loop();
    }
}

/// The precompiled `core` names it, although nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
