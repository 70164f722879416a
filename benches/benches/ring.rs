//! What a packet costs on its way through a ring, and what the copy below it costs.
//!
//! Every row is the time *of one packet* (or one copy). Rings are written and read in batches of 16, as a driver under
//! load does: 16 packets, one publication; 16 packets, one commit.
//!
//! `cargo bench -p netvsc-benches --bench ring`

mod config;

use core::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vmbus::memory::{HeapMemory, SharedMemory, copy};
use vmbus::packet::TransactionId;
use vmbus::ring::{CONTROL_BYTES, Consumer, MappedRing, Outgoing, Producer, WriteError};

type Ring = MappedRing<HeapMemory>;

/// Packets a batch.
const BATCH: u64 = 16;

/// A ring of a real channel: 2 MiB with its control page, so the data area is no power of two.
const LARGE: (&str, usize) = ("2MiB", 2 << 20);
/// A ring that stays in the first or second level cache.
const SMALL: (&str, usize) = ("64KiB", 64 << 10);

fn ring(bytes: usize) -> (Producer<Ring>, Consumer<Ring>) {
    let ring = Ring::new(HeapMemory::zeroed(bytes), CONTROL_BYTES).expect("a good size");
    (Producer::new(ring.clone()), Consumer::new(ring))
}

/// Runs `batch` (which moves [`BATCH`] packets) until at least `packets` are through; the time of `packets`.
fn time_of(packets: u64, mut batch: impl FnMut()) -> Duration {
    let batches = packets.div_ceil(BATCH);
    let start = Instant::now();
    for _ in 0..batches {
        batch();
    }
    start.elapsed().mul_f64(packets as f64 / (batches * BATCH) as f64)
}

/// Writes and reads on one thread: the sum of what both sides compute, without the cache line's way between cores.
fn one_thread(c: &mut Criterion) {
    for (name, bytes) in [LARGE, SMALL] {
        let mut group = c.benchmark_group(format!("ring/one-thread/{name}"));
        for len in [64usize, 1500] {
            group.throughput(Throughput::Bytes(len as u64));
            let payload = vec![0x5A; len];
            let mut body = vec![0; 4096];
            let (mut producer, mut consumer) = ring(bytes);
            group.bench_function(BenchmarkId::from_parameter(len), |b| {
                b.iter_custom(|packets| {
                    time_of(packets, || {
                        for id in 0..BATCH {
                            producer.write(&Outgoing::request(TransactionId(id), black_box(&payload))).expect("fits");
                        }
                        let _ = black_box(producer.publish().expect("sound ring"));
                        while let Some(packet) = consumer.take(&mut body).expect("sound ring") {
                            black_box((packet, &mut body));
                        }
                        let _ = black_box(consumer.commit().expect("sound ring"));
                    })
                });
            });
        }
        group.finish();
    }
}

/// Looks in a row that found nothing.
#[derive(Debug, Default)]
struct Idle(u32);

impl Idle {
    /// Looks that are made before the processor is offered to others.
    const SPINS: u32 = 100;

    fn next(&mut self, found: bool) {
        self.0 = if found { 0 } else { self.0 + 1 };
        if self.0 >= Self::SPINS {
            self.0 = 0;
            thread::yield_now();
        } else if !found {
            core::hint::spin_loop();
        }
    }
}

/// One thread writes, another reads: the ring's throughput, with its cache lines going to and fro between two processors.
///
/// Nobody is signalled and nobody sleeps. Who finds nothing to do looks again, and after a while offers its processor to others:
/// on a machine that is busy, or has one processor, this measures the scheduler as well.
fn two_threads(c: &mut Criterion) {
    for (name, bytes) in [LARGE, SMALL] {
        let mut group = c.benchmark_group(format!("ring/two-threads/{name}"));
        for len in [64usize, 1500] {
            group.throughput(Throughput::Bytes(len as u64));
            let payload = vec![0x5A; len];
            group.bench_function(BenchmarkId::from_parameter(len), |b| {
                b.iter_custom(|packets| {
                    let (mut producer, mut consumer) = ring(bytes);
                    let go = AtomicBool::new(false);
                    thread::scope(|scope| {
                        let reader = scope.spawn(|| {
                            let mut body = vec![0; 4096];
                            while !go.load(Ordering::Acquire) {
                                core::hint::spin_loop();
                            }
                            let mut left = packets;
                            let mut idle = Idle::default();
                            while left > 0 {
                                let before = left;
                                let batch = left.min(BATCH);
                                for _ in 0..batch {
                                    if consumer.take(&mut body).expect("sound ring").is_none() {
                                        break;
                                    }
                                    black_box(&mut body);
                                    left -= 1;
                                }
                                let _ = black_box(consumer.commit().expect("sound ring"));
                                idle.next(left < before);
                            }
                        });
                        go.store(true, Ordering::Release);
                        let start = Instant::now();
                        let mut idle = Idle::default();
                        for id in 0..packets {
                            let packet = Outgoing::request(TransactionId(id), black_box(&payload));
                            loop {
                                match producer.write(&packet) {
                                    Ok(()) => {
                                        idle.next(true);
                                        break;
                                    }
                                    Err(WriteError::Full { .. }) => {
                                        let _ = black_box(producer.publish().expect("sound ring"));
                                        idle.next(false);
                                    }
                                    Err(error) => panic!("{error}"),
                                }
                            }
                            if id % BATCH == BATCH - 1 {
                                let _ = black_box(producer.publish().expect("sound ring"));
                            }
                        }
                        let _ = black_box(producer.publish().expect("sound ring"));
                        reader.join().expect("reader");
                        start.elapsed()
                    })
                });
            });
        }
        group.finish();
    }
}

/// The copy below it: out of shared memory, by four ways.
#[expect(unsafe_code, reason = "measures the primitives below the safe ones")]
fn copies(c: &mut Criterion) {
    type Copy = unsafe fn(*mut u8, *const u8, usize);
    /// What a slice does: may not be used on shared memory, here for comparison.
    #[inline(always)]
    unsafe fn slice(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: `len` bytes that nobody writes in this benchmark.
        let from = unsafe { core::slice::from_raw_parts(from, len) };
        // SAFETY: `len` bytes that nobody else touches.
        let to = unsafe { core::slice::from_raw_parts_mut(to, len) };
        to.copy_from_slice(from);
    }
    /// As above.
    #[inline(always)]
    unsafe fn memcpy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: `len` bytes each, of different allocations.
        unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
    }
    let ways: [(&str, Copy); 4] =
        [("memcpy", memcpy), ("slice", slice), ("copy::load", copy::load), ("copy::words::load", copy::words::load)];
    let shared = HeapMemory::zeroed(16384);
    let mut private = vec![0u8; 16384];
    for len in [64usize, 256, 1500, 9000] {
        let mut group = c.benchmark_group(format!("copy/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        for (name, way) in ways {
            group.bench_function(name, |b| {
                // Sixteen bytes into the packet, as a payload lies.
                let from = shared.base().as_ptr().wrapping_add(16);
                b.iter(|| {
                    // SAFETY: both have 16 KiB, and are different allocations.
                    unsafe { way(black_box(private.as_mut_ptr()), black_box(from), black_box(len)) }
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = config::short();
    targets = one_thread, two_threads, copies
}
criterion_main!(benches);
