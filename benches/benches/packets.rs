//! What a packet costs as `Stream` and `Sink`: the same guest as in `nic`, with the queue's lock, its pool of packets and
//! tokio above it.
//!
//! Every row is the time *of one packet*, of the guest alone: the simulated host works in between and is not counted. A turn
//! is 64 packets, taken or fed one by one; packets are dropped (received) or come from the pool (sent, not counted).
//!
//! `cargo bench -p netvsc-benches --bench packets`

mod config;

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netvsc_async::{Nic, Packet};
use netvsc_benches::frames::LENGTHS;
use netvsc_benches::link::TURN;
use netvsc_benches::nic::{open, own_frame};
use netvsc_benches::turns::time_of;

fn stream(c: &mut Criterion) {
    let mut group = c.benchmark_group("packets/stream");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (bench, queue) = open(Nic::builder());
        let (mut stream, _sink) = queue.into_split();
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|packets| {
                time_of(packets, || {
                    bench.deliver(len);
                    let start = Instant::now();
                    bench.receive(&mut stream);
                    start.elapsed()
                })
            });
        });
    }
}

/// The same by bursts, for comparison: what the adapters add is the difference.
fn burst(c: &mut Criterion) {
    let mut group = c.benchmark_group("packets/recv_burst");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (bench, mut queue) = open(Nic::builder());
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|packets| {
                time_of(packets, || {
                    bench.deliver(len);
                    let start = Instant::now();
                    bench.receive_bursts(&mut queue.rx);
                    start.elapsed()
                })
            });
        });
    }
}

fn sink(c: &mut Criterion) {
    let mut group = c.benchmark_group("packets/sink");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (bench, queue) = open(Nic::builder());
        let frame = own_frame(len);
        let (_stream, mut sink) = queue.into_split();
        let mut packets: Vec<Packet> = Vec::with_capacity(TURN);
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|count| {
                time_of(count, || {
                    packets.extend((0..TURN).map(|_| sink.packet(&frame)));
                    let start = Instant::now();
                    bench.send(&mut sink, &mut packets);
                    let took = start.elapsed();
                    assert_eq!(bench.collect(), TURN);
                    took
                })
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = config::short();
    targets = burst, stream, sink
}
criterion_main!(benches);
