//! Our half.

use std::hint::black_box;
use std::time::{Duration, Instant};

use netvsc::checksum::{self, Sum};
use netvsc::frame::Headers;
use netvsc::gro::{BurstMerger, GroConfig, Received};
use netvsc::meta::{RxMeta, TxChecksum, Verdict};
use netvsc::rss::{RssKey, Toeplitz};
use netvsc::segment::Segments;
use netvsc::{Burst, FrameSink};

use crate::input::{BURST, CHECKSUMS, HEADERS, MSS};

/// Some input and what is made of it.
pub(crate) trait Work {
    /// All of the input once: what is measured.
    fn pass(&mut self);

    /// Of what the last pass made.
    fn digest(&mut self) -> u64;

    /// Before each pass, not measured. The other half writes its frames' headers anew, as what it does changes them: here
    /// they are touched alike, so that they are as near to the processor.
    fn restore(&mut self) {}
}

/// Of what one pass makes.
pub(crate) fn digest(work: &mut dyn Work) -> u64 {
    work.restore();
    work.pass();
    work.digest()
}

/// How long the passes take.
pub(crate) fn time(work: &mut dyn Work, passes: u64) -> Duration {
    let pass = |_| {
        work.restore();
        let start = Instant::now();
        work.pass();
        start.elapsed()
    };
    (0..passes).map(pass).sum()
}

/// FNV-1a, 64 bits.
#[derive(Clone, Copy)]
struct Digest(u64);

impl Digest {
    const START: Self = Self(0xCBF2_9CE4_8422_2325);

    fn with(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)))
    }
}

fn without_checksums(frame: &mut [u8]) {
    for field in CHECKSUMS {
        frame[field..field + 2].fill(0);
    }
}

struct Checksums<'a> {
    buffers: &'a [Vec<u8>],
    sums: Vec<u16>,
}

pub(crate) fn checksum(buffers: &[Vec<u8>]) -> Box<dyn Work + '_> {
    Box::new(Checksums { buffers, sums: vec![0; buffers.len()] })
}

impl Work for Checksums<'_> {
    fn pass(&mut self) {
        for (buffer, sum) in self.buffers.iter().zip(&mut self.sums) {
            *sum = Sum::of(buffer).checksum();
        }
        black_box(&self.sums);
    }

    fn digest(&mut self) -> u64 {
        self.sums.iter().fold(Digest::START, |digest, sum| digest.with(&sum.to_be_bytes())).0
    }
}

struct TcpChecksums {
    frames: Vec<(Vec<u8>, TxChecksum)>,
}

pub(crate) fn tcp_checksum(frames: &[Vec<u8>]) -> Box<dyn Work + '_> {
    let of = |frame: &Vec<u8>| {
        let request = checksum::request(frame, &Headers::parse(frame).expect("IP")).expect("TCP");
        (frame.clone(), TxChecksum { ip_header: false, ..request })
    };
    Box::new(TcpChecksums { frames: frames.iter().map(of).collect() })
}

impl Work for TcpChecksums {
    fn pass(&mut self) {
        for (frame, request) in &mut self.frames {
            checksum::fill(black_box(frame), *request).expect("as it was asked for");
        }
    }

    fn digest(&mut self) -> u64 {
        let field = CHECKSUMS[1]..CHECKSUMS[1] + 2;
        self.frames.iter().fold(Digest::START, |digest, (frame, _)| digest.with(&frame[field.clone()])).0
    }
}

struct Hashes<'a> {
    toeplitz: Toeplitz,
    tuples: &'a [Vec<u8>],
    hashes: Vec<u32>,
}

pub(crate) fn toeplitz(tuples: &[Vec<u8>]) -> Box<dyn Work + '_> {
    Box::new(Hashes { toeplitz: Toeplitz::new(&RssKey::MICROSOFT), tuples, hashes: vec![0; tuples.len()] })
}

impl Work for Hashes<'_> {
    fn pass(&mut self) {
        for (tuple, hash) in self.tuples.iter().zip(&mut self.hashes) {
            *hash = self.toeplitz.hash(tuple);
        }
        black_box(&self.hashes);
    }

    fn digest(&mut self) -> u64 {
        self.hashes.iter().fold(Digest::START, |digest, hash| digest.with(&hash.to_ne_bytes())).0
    }
}

struct Merging<'a> {
    frames: &'a [Vec<u8>],
    bursts: Vec<Burst>,
    merger: BurstMerger,
}

pub(crate) fn gro(frames: &[Vec<u8>]) -> Box<dyn Work + '_> {
    let mut meta = RxMeta::default();
    meta.checksum.transport = Verdict::Good;
    let burst = |frames: &[Vec<u8>]| {
        let mut burst = Burst::new(frames.len(), frames.iter().map(Vec::len).sum::<usize>() + 64 * frames.len());
        for frame in frames {
            burst.buffer(frame.len()).expect("room").copy_from_slice(frame);
            burst.commit(frame.len(), meta);
        }
        burst
    };
    let bursts = frames.chunks(BURST).map(burst).collect();
    Box::new(Merging { frames, bursts, merger: BurstMerger::new(GroConfig::default()) })
}

impl Work for Merging<'_> {
    fn restore(&mut self) {
        for (burst, frames) in self.bursts.iter_mut().zip(self.frames.chunks(BURST)) {
            for (frame, from) in burst.frames_mut().zip(frames) {
                frame.bytes[..HEADERS].copy_from_slice(&from[..HEADERS]);
            }
        }
    }

    fn pass(&mut self) {
        for burst in &self.bursts {
            self.merger.chains(burst, |received| {
                black_box(received);
            });
        }
    }

    fn digest(&mut self) -> u64 {
        let (mut sum, mut whole) = (0u64, vec![0; 1 << 16]);
        for burst in &self.bursts {
            self.merger.chains(burst, |received| {
                let len = match received {
                    Received::Frame(frame) => {
                        whole[..frame.bytes.len()].copy_from_slice(frame.bytes);
                        frame.bytes.len()
                    }
                    Received::Chain(chain) => chain.gather(&mut whole).expect("room"),
                };
                without_checksums(&mut whole);
                // In no order: that between flows is nobody's promise.
                sum = sum.wrapping_add(Digest::START.with(&whole[..len]).0);
            });
        }
        sum
    }
}

struct Cutting<'a> {
    frames: &'a [Vec<u8>],
    /// Of each segment, and what belongs behind them.
    headers: Vec<[u8; HEADERS]>,
    payloads: Vec<&'a [u8]>,
    checksums_count: bool,
}

pub(crate) fn segments(frames: &[Vec<u8>]) -> Box<dyn Work + '_> {
    cutting(frames, true)
}

/// The same work, compared with one that leaves the checksums.
pub(crate) fn segments_of_any_checksum(frames: &[Vec<u8>]) -> Box<dyn Work + '_> {
    cutting(frames, false)
}

fn cutting(frames: &[Vec<u8>], checksums_count: bool) -> Box<dyn Work + '_> {
    let count: usize = frames.iter().map(|frame| Segments::new(frame, MSS).expect("TCP").count()).sum();
    Box::new(Cutting { frames, headers: vec![[0; HEADERS]; count], payloads: vec![&[]; count], checksums_count })
}

impl Work for Cutting<'_> {
    fn pass(&mut self) {
        let mut out = self.headers.iter_mut().zip(&mut self.payloads);
        for frame in self.frames {
            let mut segments = Segments::new(black_box(frame), MSS).expect("TCP");
            // As many as there are segments.
            for (header, payload) in out.by_ref().take(segments.count()) {
                if let Some((_, of_this)) = segments.next_parts(header).expect("room") {
                    *payload = of_this;
                }
            }
        }
        black_box((&self.headers, &self.payloads));
    }

    fn digest(&mut self) -> u64 {
        let mut digest = Digest::START;
        for (header, payload) in self.headers.iter().zip(&self.payloads) {
            let mut header = *header;
            if !self.checksums_count {
                without_checksums(&mut header);
            }
            digest = digest.with(&header).with(payload);
        }
        digest.0
    }
}
