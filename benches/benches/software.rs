//! What is computed here where no host does it: checksums, segmentation, merging, and the hash that queues are chosen by,
//! each against a plain twin or another crate's.
//!
//! `cargo bench -p netvsc-benches --bench software`

mod config;

use std::hint::black_box;
use std::vec::Drain;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netvsc::Instant;
use netvsc::checksum::{self, Sum};
use netvsc::frame::Headers;
use netvsc::gro::{Deliver, Gro, GroConfig, Merged};
use netvsc::meta::{RxMeta, Verdict};
use netvsc::rss::{RssKey, Toeplitz};
use netvsc::segment::Segments;
use netvsc_benches::frames::{MSS, tcp};
use smoltcp::wire::{IpAddress, TcpPacket};

/// Frames of a burst.
const BURST: usize = 64;

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("software/checksum");
    for len in [20, 64, MSS, 9000, 65_000] {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("netvsc", len), &bytes, |b, bytes| {
            b.iter(|| Sum::of(black_box(bytes)).checksum());
        });
        group.bench_with_input(BenchmarkId::new("internet-checksum", len), &bytes, |b, bytes| {
            b.iter(|| internet_checksum::checksum(black_box(bytes)));
        });
        group.bench_with_input(BenchmarkId::new("word by word", len), &bytes, |b, bytes| {
            b.iter(|| {
                let mut sum = 0u32;
                for word in black_box(bytes).chunks(2) {
                    sum += u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from);
                    sum = (sum & 0xFFFF) + (sum >> 16);
                }
                !(sum as u16)
            });
        });
    }
    group.finish();
    // Whole segments, as smoltcp computes them: pseudo header and all.
    let mut group = c.benchmark_group("software/tcp checksum");
    let mut frame = tcp(1, 0, MSS);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    let headers = Headers::parse(&frame).expect("IP");
    let request = checksum::request(&frame, &headers).expect("TCP");
    let request = netvsc::meta::TxChecksum { ip_header: false, ..request };
    group.bench_function("netvsc", |b| b.iter(|| checksum::fill(black_box(&mut frame), request)));
    let (source, destination) = (IpAddress::v4(198, 51, 100, 1), IpAddress::v4(203, 0, 113, 2));
    group.bench_function("smoltcp", |b| {
        b.iter(|| TcpPacket::new_unchecked(black_box(&mut frame[34..])).fill_checksum(&source, &destination));
    });
    group.finish();
}

fn segments(c: &mut Criterion) {
    let mut group = c.benchmark_group("software/segment");
    let frame = tcp(1, 0, 44 * MSS);
    group.throughput(Throughput::Elements(44));
    let mut out = vec![0; 1514];
    group.bench_function("copied", |b| {
        b.iter(|| {
            let mut segments = Segments::new(black_box(&frame), MSS).expect("TCP");
            while let Ok(Some(len)) = segments.next_into(&mut out) {
                black_box(len);
            }
        });
    });
    group.bench_function("headers only", |b| {
        b.iter(|| {
            let mut segments = Segments::new(black_box(&frame), MSS).expect("TCP");
            while let Ok(Some(parts)) = segments.next_parts(&mut out) {
                black_box(parts);
            }
        });
    });
    group.finish();
}

/// Takes what is merged, as chains or as buffers.
struct Outlet<'a> {
    frames: &'a [Vec<u8>],
    out: Option<Vec<u8>>,
    handed_out: usize,
}

impl Deliver<u32> for Outlet<'_> {
    fn frame(&mut self, _: u32) {
        self.handed_out += 1;
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, u32>) {
        self.handed_out += 1;
        let frames = self.frames;
        if let Some(out) = &mut self.out {
            black_box(merged.gather(fragments.map(|at| &frames[at as usize][..]), out));
        }
    }
}

fn merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("software/gro");
    group.throughput(Throughput::Elements(BURST as u64));
    for (flows, payload) in [(1, MSS), (8, MSS), (1, 64)] {
        let frames: Vec<_> = (0..BURST).map(|at| tcp((at % flows) as u16, at / flows, payload)).collect();
        for (verdict, known) in [(Verdict::Good, "verdict"), (Verdict::Unknown, "computed")] {
            for (out, kind) in [(None, "chains"), (Some(vec![0; 66_000]), "buffers")] {
                let mut meta = RxMeta::default();
                meta.checksum.transport = verdict;
                let mut gro = Gro::new(GroConfig::default());
                let mut outlet = Outlet { frames: &frames, out, handed_out: 0 };
                let name = format!("{kind}, {known}, {flows} flows of {payload} bytes");
                group.bench_function(name, |b| {
                    b.iter(|| {
                        for (at, frame) in frames.iter().enumerate() {
                            gro.receive(black_box(frame), &meta, at as u32, Instant::ZERO, &mut outlet);
                        }
                        gro.flush(&mut outlet);
                    });
                });
                assert!(outlet.handed_out > 0);
            }
        }
    }
    group.finish();
}

fn hash(c: &mut Criterion) {
    let mut group = c.benchmark_group("software/toeplitz");
    let key = RssKey::MICROSOFT;
    let toeplitz = Toeplitz::new(&key);
    for (name, len) in [("IPv4 with ports", 12), ("IPv6 with ports", 36)] {
        let input: Vec<u8> = (0..len).map(|at| at * 29 + 7).collect();
        group.bench_function(BenchmarkId::new("netvsc", name), |b| b.iter(|| toeplitz.hash(black_box(&input))));
        group.bench_function(BenchmarkId::new("bit by bit", name), |b| {
            b.iter(|| {
                let mut window = u64::from_be_bytes(key.0[..8].try_into().expect("eight")) >> 32;
                let mut hash = 0;
                for (at, byte) in black_box(&input).iter().enumerate() {
                    let mut next = key.0[at + 4];
                    for bit in 0..8 {
                        if byte & (0x80 >> bit) != 0 {
                            hash ^= window as u32;
                        }
                        window = window << 1 | u64::from(next >> 7);
                        next <<= 1;
                    }
                }
                hash
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = config::short();
    targets = sums, segments, merge, hash
}
criterion_main!(benches);
