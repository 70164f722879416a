//! Copies in inline assembly: to the language runs of relaxed atomic byte accesses, to the machine wide moves.
//!
//! A block may do what Rust code at its place might; so each is that run (or that fence), written by hand. No block says `nomem`, so the compiler moves no access to memory across one.

use core::arch::asm;

/// Longest copy that is made without a loop.
pub(super) const SHORT: usize = 128;

/// # Safety
/// As [`super::load`] or [`super::store`].
#[inline(always)]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    if len > SHORT {
        // SAFETY: passed on from the caller; longer than `SHORT`.
        unsafe { long(to, from, len) };
    } else if len > 64 {
        // SAFETY: the first 64 of more than 64 bytes.
        unsafe { up_to_64(to, from, 64) };
        // The last 64 may overlap the first: the same bytes from the same place, once more.
        // SAFETY: the last 64 of more than 64 bytes.
        unsafe { up_to_64(to.wrapping_add(len - 64), from.wrapping_add(len - 64), 64) };
    } else if len > 32 {
        // SAFETY: passed on from the caller; 33 to 64 bytes.
        unsafe { up_to_64(to, from, len) };
    } else if len >= 16 {
        // SAFETY: the first and the last 16 of `len >= 16` bytes; nothing on the stack, no flags.
        unsafe {
            asm!("movups {x}, [{from}]", "movups {y}, [{from} + {len} - 16]",
                "movups [{to}], {x}", "movups [{to} + {len} - 16], {y}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len, x = out(xmm_reg) _, y = out(xmm_reg) _,
                options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: passed on from the caller; fewer than 16 bytes.
        unsafe { below_16(to, from, len) };
    }
}

/// 33 to 64 bytes: the first 32 and the last 32, which may overlap.
///
/// # Safety
/// As [`copy`], and `len` is within 32 and 64.
#[inline(always)]
unsafe fn up_to_64(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: touches the first and the last 32 of `len >= 32` bytes; nothing on the stack, no flags.
    unsafe {
        asm!("movups {a}, [{from}]", "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + {len} - 32]", "movups {d}, [{from} + {len} - 16]",
            "movups [{to}], {a}", "movups [{to} + 16], {b}",
            "movups [{to} + {len} - 32], {c}", "movups [{to} + {len} - 16], {d}",
            from = in(reg) from, to = in(reg) to, len = in(reg) len,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags));
    }
}

/// Fewer than 16 bytes: two overlapping moves of the largest power of two that fits.
///
/// # Safety
/// As [`copy`], and `len < 16`.
#[inline(always)]
unsafe fn below_16(to: *mut u8, from: *const u8, len: usize) {
    if len >= 8 {
        // SAFETY: the first and the last eight of `len >= 8` bytes; nothing on the stack, no flags.
        unsafe {
            asm!("mov {x}, [{from}]", "mov {y}, [{from} + {len} - 8]", "mov [{to}], {x}", "mov [{to} + {len} - 8], {y}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len, x = out(reg) _, y = out(reg) _,
                options(nostack, preserves_flags));
        }
    } else if len >= 4 {
        // SAFETY: the first and the last four of `len >= 4` bytes; nothing on the stack, no flags.
        unsafe {
            asm!("mov {x:e}, [{from}]", "mov {y:e}, [{from} + {len} - 4]",
                "mov [{to}], {x:e}", "mov [{to} + {len} - 4], {y:e}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len, x = out(reg) _, y = out(reg) _,
                options(nostack, preserves_flags));
        }
    } else {
        for at in 0..len {
            // SAFETY: byte `at` of `len`; nothing on the stack, no flags.
            unsafe {
                asm!("mov {x}, [{from} + {at}]", "mov [{to} + {at}], {x}",
                    from = in(reg) from, to = in(reg) to, at = in(reg) at, x = out(reg_byte) _,
                    options(nostack, preserves_flags));
            }
        }
    }
}

/// # Safety
/// As [`copy`], and `len > SHORT`.
#[inline]
unsafe fn long(to: *mut u8, from: *const u8, len: usize) {
    // One relaxed load and a test; the processor is asked once.
    #[cfg(feature = "std")]
    let avx = std::is_x86_feature_detected!("avx");
    #[cfg(not(feature = "std"))]
    let avx = cfg!(target_feature = "avx");
    if avx {
        // SAFETY: passed on from the caller; the processor and the system have AVX.
        unsafe { long_avx(to, from, len) };
    } else {
        // SAFETY: passed on from the caller.
        unsafe { long_sse(to, from, len) };
    }
}

/// The first 32 bytes, then 128 a turn to aligned places, then the last 128 (they may overlap what came before).
///
/// Stores that cross cache lines are what unaligned copies lose time with; loads that do cost less.
///
/// # Safety
/// As [`copy`], `len >= 128`, and the processor has AVX.
#[target_feature(enable = "avx")]
#[inline(never)]
pub(super) unsafe fn long_avx(to: *mut u8, from: *const u8, len: usize) {
    // 1 to 32: what is skipped was moved by the first 32 bytes.
    let skip = 32 - to.addr() % 32;
    let last = len - 128;
    // SAFETY: touches [0, 32), [at, at + 128) only for at < last = len - 128, and [last, len), all of which the caller
    // vouches for (`rax` is that `at`); nothing on the stack. `vzeroupper` clears upper halves, all of which are among the clobbers.
    unsafe {
        asm!(
            "vmovups ymm0, [{from}]",
            "vmovups [{to}], ymm0",
            "cmp rax, {last}",
            "jae 3f",
            "2:",
            "vmovups ymm0, [{from} + rax]",
            "vmovups ymm1, [{from} + rax + 32]",
            "vmovups ymm2, [{from} + rax + 64]",
            "vmovups ymm3, [{from} + rax + 96]",
            "vmovups [{to} + rax], ymm0",
            "vmovups [{to} + rax + 32], ymm1",
            "vmovups [{to} + rax + 64], ymm2",
            "vmovups [{to} + rax + 96], ymm3",
            "sub rax, -128",
            "cmp rax, {last}",
            "jb 2b",
            "3:",
            "vmovups ymm0, [{from} + {last}]",
            "vmovups ymm1, [{from} + {last} + 32]",
            "vmovups ymm2, [{from} + {last} + 64]",
            "vmovups ymm3, [{from} + {last} + 96]",
            "vmovups [{to} + {last}], ymm0",
            "vmovups [{to} + {last} + 32], ymm1",
            "vmovups [{to} + {last} + 64], ymm2",
            "vmovups [{to} + {last} + 96], ymm3",
            "vzeroupper",
            from = in(reg) from, to = in(reg) to, last = in(reg) last, inout("rax") skip => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, clobber_abi("C"),
            options(nostack));
    }
}

/// 64 bytes a turn, then the last 64 (they may overlap what came before).
///
/// # Safety
/// As [`copy`], and `len >= 64`.
#[inline(never)]
pub(super) unsafe fn long_sse(to: *mut u8, from: *const u8, len: usize) {
    let last = len - 64;
    // SAFETY: touches [at, at + 64) only for at = 0 or at < last = len - 64, and [last, len), all of which the caller
    // vouches for; nothing on the stack.
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

/// A hint that never faults.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch of any address is no access: it faults nowhere and changes no register, memory or flag.
    unsafe { asm!("prefetcht0 [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// A hint that never faults: the line will be written, so the other processors may let go of it.
#[inline(always)]
pub(super) fn prefetch_write(at: *const u8) {
    // SAFETY: a prefetch of any address is no access: it faults nowhere and changes no register, memory or flag. Processors
    // that do not know it take it for no operation.
    unsafe { asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// As a sequentially consistent fence.
#[inline(always)]
pub(super) fn full_fence() {
    // SAFETY: stores what is there already, below the stack's top, where a block without `nostack` may write. A locked
    // operation orders all accesses to ordinary memory around it; since the block does not say `nomem`, the compiler
    // moves none across it either.
    unsafe { asm!("lock or dword ptr [rsp - 8], 0") };
}
