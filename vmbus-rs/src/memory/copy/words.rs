//! The portable form: relaxed atomics on a shared side, plain accesses on a private one.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Copies `len` bytes out of shared memory.
///
/// # Safety
/// As [`super::load`].
#[inline]
pub unsafe fn load(to: *mut u8, from: *const u8, len: usize) {
    let (edge, words_end) = split(from, len);
    for at in (0..edge).chain(words_end..len) {
        // SAFETY: byte `at` of `len`, of memory that may be written.
        let value = unsafe { AtomicU8::from_ptr(from.wrapping_add(at).cast_mut()) }.load(Relaxed);
        // SAFETY: byte `at` of `len`, private.
        unsafe { to.wrapping_add(at).write(value) };
    }
    for at in (edge..words_end).step_by(8) {
        // SAFETY: eight of the `len` bytes, aligned after the edge, of memory that may be written.
        let value = unsafe { AtomicU64::from_ptr(from.wrapping_add(at).cast_mut().cast()) }.load(Relaxed);
        // SAFETY: eight of the `len` bytes, private.
        unsafe { to.wrapping_add(at).cast::<u64>().write_unaligned(value) };
    }
}

/// Copies `len` bytes into shared memory.
///
/// # Safety
/// As [`super::store`].
#[inline]
pub unsafe fn store(to: *mut u8, from: *const u8, len: usize) {
    let (edge, words_end) = split(to, len);
    for at in (0..edge).chain(words_end..len) {
        // SAFETY: byte `at` of `len`, private.
        let value = unsafe { from.wrapping_add(at).read() };
        // SAFETY: byte `at` of `len`, of memory that may be written.
        unsafe { AtomicU8::from_ptr(to.wrapping_add(at)) }.store(value, Relaxed);
    }
    for at in (edge..words_end).step_by(8) {
        // SAFETY: eight of the `len` bytes, private.
        let value = unsafe { from.wrapping_add(at).cast::<u64>().read_unaligned() };
        // SAFETY: eight of the `len` bytes, aligned after the edge, of memory that may be written.
        unsafe { AtomicU64::from_ptr(to.wrapping_add(at).cast()) }.store(value, Relaxed);
    }
}

/// Copies `len` bytes from shared memory to shared memory: by words where both are aligned alike.
///
/// # Safety
/// As [`super::transfer`].
#[inline]
pub unsafe fn transfer(to: *mut u8, from: *const u8, len: usize) {
    let alike = to.addr() % 8 == from.addr() % 8;
    let (edge, words_end) = if alike { split(to, len) } else { (len, len) };
    for at in (0..edge).chain(words_end..len) {
        // SAFETY: byte `at` of `len`, of memory that may be written.
        let value = unsafe { AtomicU8::from_ptr(from.wrapping_add(at).cast_mut()) }.load(Relaxed);
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(to.wrapping_add(at)) }.store(value, Relaxed);
    }
    for at in (edge..words_end).step_by(8) {
        // SAFETY: eight of the `len` bytes, aligned after the edge, as `to` is, of memory that may be written.
        let value = unsafe { AtomicU64::from_ptr(from.wrapping_add(at).cast_mut().cast()) }.load(Relaxed);
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(to.wrapping_add(at).cast()) }.store(value, Relaxed);
    }
}

/// Where the aligned words of `shared..shared + len` begin and end.
#[inline]
fn split(shared: *const u8, len: usize) -> (usize, usize) {
    let edge = (shared.addr().wrapping_neg() % 8).min(len);
    (edge, edge + (len - edge) / 8 * 8)
}
