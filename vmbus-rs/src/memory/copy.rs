//! Copies between private and shared memory, and from shared to shared memory: byte runs of any length and alignment.
//!
//! Public for `benches/` only.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64;

pub mod words;

/// Copies `len` bytes out of shared memory.
///
/// # Safety
/// * `from` has `len` initialised bytes, writable as far as the language knows (no read-only memory), which other
///   threads or the host may write meanwhile, but this process through atomics or this module only;
/// * `to` has `len` writable bytes that nobody else touches;
/// * the two do not overlap.
#[inline]
pub unsafe fn load(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: passed on from the caller.
    unsafe {
        x86_64::copy(to, from, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: passed on from the caller.
    unsafe {
        words::load(to, from, len);
    }
}

/// Copies `len` bytes into shared memory.
///
/// # Safety
/// * `to` has `len` initialised, writable bytes, which other threads or the host may read or write meanwhile, but this
///   process through atomics or this module only;
/// * `from` has `len` initialised bytes that nobody writes;
/// * the two do not overlap.
#[inline]
pub unsafe fn store(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: passed on from the caller.
    unsafe {
        x86_64::copy(to, from, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: passed on from the caller.
    unsafe {
        words::store(to, from, len);
    }
}

/// Copies `len` bytes from shared memory to shared memory. Where the two overlap, it is not said which bytes come to be there.
///
/// # Safety
/// * `from` has `len` initialised bytes, writable as far as the language knows (no read-only memory), which other
///   threads or the host may write meanwhile, but this process through atomics or this module only;
/// * `to` has `len` such bytes.
#[inline]
pub unsafe fn transfer(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: passed on from the caller. The moves are relaxed atomic accesses on both sides, so it does not matter who else
    // accesses either; bytes that are moved twice, because moves overlap each other, are read twice, and any of the values read
    // is one that was there.
    unsafe {
        x86_64::copy(to, from, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: passed on from the caller.
    unsafe {
        words::transfer(to, from, len);
    }
}

/// Asks the processor to fetch a cache line. Changes nothing that a program can see, whatever the address.
#[inline]
pub fn prefetch(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86_64::prefetch(at);
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Asks the processor to fetch a cache line in order to write to it, which takes it away from others. Changes nothing that a
/// program can see, whatever the address.
#[inline]
pub fn prefetch_write(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86_64::prefetch_write(at);
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// What `fence(SeqCst)` does, at less cost.
///
/// On x86-64 the compiler makes an `mfence` of it, which waits for more than it has to (write-combining stores, of
/// which there are none here). A locked operation is a full fence for ordinary memory; Linux has used one for `smp_mb`
/// since 4.16.
#[inline]
pub fn full_fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86_64::full_fence();
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: [u8; 4096] = [0xEE; 4096];

    type Copy = unsafe fn(*mut u8, *const u8, usize);

    /// Every length from and to many alignments, with guards on both sides.
    fn moves_exactly_these_bytes(copy: Copy, lengths: impl Iterator<Item = usize> + Clone) {
        let source: [u8; 4096] = core::array::from_fn(|i| (i * 11 + i / 256 + 5) as u8);
        for from in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
            for to in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
                for len in lengths.clone() {
                    let mut out = GUARD;
                    // SAFETY: both arrays are longer than 64 + 33 + the longest length, and distinct.
                    unsafe { copy(out.as_mut_ptr().wrapping_add(64 + to), source.as_ptr().wrapping_add(from), len) };
                    let (before, rest) = out.split_at(64 + to);
                    let (copied, after) = rest.split_at(len);
                    assert_eq!(copied, &source[from..from + len], "from {from} to {to} len {len}");
                    assert_eq!(before, &GUARD[..before.len()], "from {from} to {to} len {len}");
                    assert_eq!(after, &GUARD[..after.len()], "from {from} to {to} len {len}");
                }
            }
        }
    }

    #[cfg(not(miri))]
    fn lengths() -> impl Iterator<Item = usize> + Clone {
        (0..=300).chain([383, 384, 385, 511, 512, 513, 1500, 2047, 3000])
    }

    #[cfg(miri)]
    fn lengths() -> impl Iterator<Item = usize> + Clone {
        [0, 1, 7, 8, 9, 15, 16, 17, 40].into_iter()
    }

    #[test]
    fn every_length_and_alignment_is_copied_and_neighbours_are_left() {
        moves_exactly_these_bytes(load, lengths());
        moves_exactly_these_bytes(store, lengths());
        #[cfg(not(miri))]
        moves_exactly_these_bytes(transfer, lengths());
    }

    #[test]
    fn the_portable_form_agrees() {
        // `words::load` wants memory that is writable as far as the language knows: see its copy of the source.
        moves_exactly_these_bytes(words::store, lengths());
        let copy_of_source: Copy = |to, from, len| {
            let mut shared = [0u64; 512];
            let shared = shared.as_mut_ptr().cast::<u8>().wrapping_add(from.addr() % 8);
            // SAFETY: the caller's bytes, at most 4000 of them, into an array of 4096.
            unsafe { core::ptr::copy_nonoverlapping(from, shared, len) };
            // SAFETY: `shared` has these bytes and is writable.
            unsafe { words::load(to, shared, len) };
        };
        moves_exactly_these_bytes(copy_of_source, lengths());
        let transfer_of_source: Copy = |to, from, len| {
            let mut shared = [0u64; 512];
            let shared = shared.as_mut_ptr().cast::<u8>().wrapping_add(from.addr() % 8);
            // SAFETY: as above.
            unsafe { core::ptr::copy_nonoverlapping(from, shared, len) };
            // SAFETY: both have these bytes and are writable.
            unsafe { words::transfer(to, shared, len) };
        };
        moves_exactly_these_bytes(transfer_of_source, lengths());
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn both_widths_agree() {
        let long = |copy: Copy| moves_exactly_these_bytes(copy, lengths().filter(|&len| len > x86_64::SHORT));
        long(x86_64::long_sse);
        #[cfg(feature = "std")]
        if std::is_x86_feature_detected!("avx") {
            long(x86_64::long_avx);
        }
    }
}
