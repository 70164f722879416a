//! What a frame costs the driver on its way through a queue: the burst path, over rings in this process.
//!
//! Every row is the time *of one frame*, on one thread, and of the guest alone: what the host end does in between is not
//! counted. Received frames come 32 to a transfer packet, sent ones go 32 to a flush; a turn is 64 frames. The receive buffer
//! does not fit into the cache, as in life.
//!
//! `cargo bench -p netvsc-benches --bench nic`

mod config;

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netvsc::meta::TxMeta;
use netvsc::queue::{Burst, HeldBurst};
use netvsc_benches::frames::{LENGTHS, frame, message};
use netvsc_benches::link::{BATCH, TURN, link};
use netvsc_benches::turns::time_of;

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("nic/receive");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut queue, mut host) = link();
        host.fill(&message(&frame(len)));
        let mut burst = Burst::new(TURN, 256 * 1024);
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|frames| {
                time_of(frames, || {
                    host.deliver();
                    let start = Instant::now();
                    let got = queue.receive(&mut burst, TURN).expect("a good host");
                    black_box(&burst);
                    burst.clear();
                    let took = start.elapsed();
                    assert_eq!(got, TURN);
                    host.answer();
                    took
                })
            });
        });
    }
}

/// Sending, and taking the completions back.
fn transmit(c: &mut Criterion) {
    let mut group = c.benchmark_group("nic/transmit");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut queue, mut host) = link();
        let frame = frame(len);
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|frames| {
                time_of(frames, || {
                    let start = Instant::now();
                    for _ in 0..TURN / BATCH {
                        for _ in 0..BATCH {
                            queue.send(black_box(&frame), &TxMeta::default()).expect("room");
                        }
                        queue.flush().expect("a good host");
                    }
                    let mut took = start.elapsed();
                    host.answer();
                    let start = Instant::now();
                    queue.pump().expect("a good host");
                    took += start.elapsed();
                    took
                })
            });
        });
    }
}

/// Receiving, and sending on what was received: copied twice, or held and copied once.
fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("nic/forward");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut queue, mut host) = link();
        host.fill(&message(&frame(len)));
        let mut burst = Burst::new(TURN, 256 * 1024);
        group.bench_function(BenchmarkId::new("copied", len), |b| {
            b.iter_custom(|frames| {
                time_of(frames, || {
                    host.deliver();
                    let start = Instant::now();
                    let got = queue.receive(&mut burst, TURN).expect("a good host");
                    for frame in &burst {
                        queue.send(black_box(frame.bytes), &TxMeta::default()).expect("room");
                    }
                    burst.clear();
                    queue.flush().expect("a good host");
                    let took = start.elapsed();
                    assert_eq!(got, TURN);
                    host.answer();
                    took
                })
            });
        });
        let mut burst = HeldBurst::new(TURN, 256 * 1024);
        group.bench_function(BenchmarkId::new("held", len), |b| {
            b.iter_custom(|frames| {
                time_of(frames, || {
                    host.deliver();
                    let start = Instant::now();
                    let got = queue.receive_held(&mut burst, TURN).expect("a good host");
                    for frame in &burst {
                        queue.send_held(black_box(frame.head), frame.rest, &TxMeta::default()).expect("room");
                    }
                    burst.clear();
                    queue.flush().expect("a good host");
                    let took = start.elapsed();
                    assert_eq!(got, TURN);
                    host.answer();
                    took
                })
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = config::short();
    targets = receive, transmit, forward
}
criterion_main!(benches);
