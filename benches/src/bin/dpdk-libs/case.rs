//! What is compared, a row each.

use crate::input::{self, HEADERS, MSS};
use crate::ours::{self, Work};

/// A row.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The other half's name for its work.
    pub(crate) theirs: &'static str,
    pub(crate) input: fn() -> Vec<Vec<u8>>,
    pub(crate) ours: fn(&[Vec<u8>]) -> Box<dyn Work + '_>,
    /// What time is told of.
    pub(crate) unit: &'static str,
    /// How many of those there are.
    pub(crate) units: fn(&[Vec<u8>]) -> usize,
    /// Bytes of one, where they are read.
    pub(crate) bytes: Option<usize>,
}

type Input = fn() -> Vec<Vec<u8>>;

/// The rows, in order.
pub(crate) const CASES: [Case; 21] = [
    raw("checksum 20 B", || input::buffers(20), 20),
    raw("checksum 64 B", || input::buffers(64), 64),
    raw("checksum 1448 B", || input::buffers(MSS), MSS),
    raw("checksum 9000 B", || input::buffers(9000), 9000),
    raw("checksum 65000 B", || input::buffers(65_000), 65_000),
    Case {
        name: "TCP checksum of a frame, 1448 B",
        theirs: "tcp-checksum",
        input: input::full_segments,
        ours: ours::tcp_checksum,
        unit: "frame",
        units: <[_]>::len,
        bytes: Some(MSS),
    },
    hash("Toeplitz IPv4 with ports, rte_softrss", "softrss", || input::tuples(12)),
    hash("Toeplitz IPv4 with ports, rte_softrss_be", "softrss-be", || input::tuples(12)),
    hash("Toeplitz IPv4 with ports, GFNI", "gfni", || input::tuples(12)),
    hash("Toeplitz IPv4 with ports, GFNI in bulk", "gfni-bulk", || input::tuples(12)),
    hash("Toeplitz IPv6 with ports, rte_softrss", "softrss", || input::tuples(36)),
    hash("Toeplitz IPv6 with ports, rte_softrss_be", "softrss-be", || input::tuples(36)),
    hash("Toeplitz IPv6 with ports, GFNI", "gfni", || input::tuples(36)),
    hash("Toeplitz IPv6 with ports, GFNI in bulk", "gfni-bulk", || input::tuples(36)),
    gro("GRO 1448 B, 1 flow", "gro-parsed", || input::bursts(1, MSS)),
    gro("GRO 1448 B, 8 flows", "gro-parsed", || input::bursts(8, MSS)),
    gro("GRO 1448 B, 32 flows: nothing to merge", "gro-parsed", || input::bursts(32, MSS)),
    gro("GRO 64 B, 1 flow", "gro-parsed", || input::bursts(1, 64)),
    gro("GRO 1448 B, 8 flows, DPDK is told the headers", "gro-given", || input::bursts(8, MSS)),
    segments("segments of 1448 B with checksums", "gso-checksums", ours::segments),
    segments("segments of 1448 B, DPDK without checksums", "gso", ours::segments_of_any_checksum),
];

const fn raw(name: &'static str, input: Input, bytes: usize) -> Case {
    Case {
        name,
        theirs: "raw-checksum",
        input,
        ours: ours::checksum,
        unit: "buffer",
        units: <[_]>::len,
        bytes: Some(bytes),
    }
}

const fn hash(name: &'static str, theirs: &'static str, input: Input) -> Case {
    Case { name, theirs, input, ours: ours::toeplitz, unit: "hash", units: <[_]>::len, bytes: None }
}

const fn gro(name: &'static str, theirs: &'static str, input: Input) -> Case {
    Case { name, theirs, input, ours: ours::gro, unit: "segment", units: <[_]>::len, bytes: None }
}

const fn segments(name: &'static str, theirs: &'static str, ours: fn(&[Vec<u8>]) -> Box<dyn Work + '_>) -> Case {
    let units = |frames: &[Vec<u8>]| frames.iter().map(|frame| (frame.len() - HEADERS).div_ceil(MSS)).sum();
    Case { name, theirs, input: input::large_frames, ours, unit: "segment", units, bytes: None }
}
