//! Frames, buffers and tuples.

pub(crate) use netvsc_benches::frames::MSS;
use netvsc_benches::frames::tcp;

/// Frames handed over at a time.
pub(crate) const BURST: usize = 32;
/// Bytes of Ethernet, IPv4 and TCP headers.
pub(crate) const HEADERS: usize = 54;
/// Where the checksums lie in those.
pub(crate) const CHECKSUMS: [usize; 2] = [24, 50];

/// Frames, tuples and short buffers of a pass: their headers stay in the processor's second cache.
const COUNT: usize = 1024;
/// Bytes of buffers of a pass, for the same reason.
const BYTES: usize = 256 << 10;

/// Buffers of `len` bytes.
pub(crate) fn buffers(len: usize) -> Vec<Vec<u8>> {
    let count = (BYTES / len).clamp(4, COUNT);
    (0..count).map(|first| (0..len).map(|at| (at * 7 + first) as u8).collect()).collect()
}

/// Full segments.
pub(crate) fn full_segments() -> Vec<Vec<u8>> {
    (0..BYTES / MSS).map(|index| tcp(1, index, MSS)).collect()
}

/// Bursts of segments with `payload` bytes of `flows` flows in turn.
pub(crate) fn bursts(flows: usize, payload: usize) -> Vec<Vec<u8>> {
    (0..COUNT).map(|at| tcp((at % flows) as u16, at / flows, payload)).collect()
}

/// Frames of 44 segments.
pub(crate) fn large_frames() -> Vec<Vec<u8>> {
    (0..4).map(|index| tcp(1, index, 44 * MSS)).collect()
}

/// Addresses and ports: 12 bytes with IPv4, 36 with IPv6. Of no pattern, as the plain functions take longer for more ones.
pub(crate) fn tuples(len: usize) -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..COUNT).map(|_| (0..len).map(|_| byte()).collect()).collect()
}
