//! What a frame costs the driver on its way through a queue: the burst path, over rings in this process.
//!
//! Every row is the time *of one frame*, on one thread, and of the guest alone: what the fake host does in between is not
//! counted. Received frames come 32 to a transfer packet, sent ones go 32 to a flush; a turn is 64 frames.
//!
//! `cargo bench -p netvsc-benches --bench nic`

#[path = "../../netvsc/tests/queue_host/mod.rs"]
mod queue_host;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netvsc::meta::TxMeta;
use netvsc::queue::Burst;
use nvsp::{RndisPacketComplete, Status};
use queue_host::{Setup, frame, pair};
use vmbus::packet::{PacketType, TransferRange};
use vmbus::ring::Outgoing;

/// Frames a turn.
const TURN: u64 = 64;
/// Frames a transfer packet, and a flush.
const BATCH: u64 = 32;

/// Adds up what `turn` says it took, until `frames` frames are through.
fn time_of(frames: u64, mut turn: impl FnMut() -> Duration) -> Duration {
    let turns = frames.div_ceil(TURN);
    let total: Duration = (0..turns).map(|_| turn()).sum();
    total.mul_f64(frames as f64 / (turns * TURN) as f64)
}

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("nic/receive");
    for len in [64usize, 1500] {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut queue, mut host) = pair(Setup { receive_sections: 4096, ..Setup::default() });
        let mut burst = Burst::new(TURN as usize, 256 * 1024);
        let frame = frame(1, len);
        // Every section has its frame: the receive buffer does not fit into the cache, as in life.
        let ranges: Vec<TransferRange> = (0..4096).map(|section| host.put_frame(section, &frame)).collect();
        let mut chunks = ranges.chunks(BATCH as usize).cycle();
        let mut body = vec![0; 4096];
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter_custom(|frames| {
                time_of(frames, || {
                    for id in 0..TURN / BATCH {
                        host.deliver(id + 1, chunks.next().expect("endless"));
                    }
                    let start = Instant::now();
                    let got = queue.receive(&mut burst, TURN as usize).expect("a good host");
                    black_box(&burst);
                    burst.clear();
                    let took = start.elapsed();
                    assert_eq!(got as u64, TURN);
                    while host.consumer.take(&mut body).expect("a good guest").is_some() {}
                    host.commit();
                    took
                })
            });
        });
    }
}

fn transmit(c: &mut Criterion) {
    let mut group = c.benchmark_group("nic/transmit");
    for len in [64usize, 1500] {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut queue, mut host) = pair(Setup { send_sections: 170, ..Setup::default() });
        let frame = frame(1, len);
        let completion: [u8; 8] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
        let mut body = vec![0; 4096];
        let mut ids = Vec::with_capacity(TURN as usize);
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
                    while let Some(incoming) = host.consumer.take(&mut body).expect("a good guest") {
                        assert_eq!(incoming.descriptor.packet_type, PacketType::IN_BAND);
                        ids.push(incoming.descriptor.transaction_id);
                    }
                    host.commit();
                    for id in ids.drain(..) {
                        host.producer.write(&Outgoing::completion(id, &completion)).expect("room");
                    }
                    let _ = host.producer.publish().expect("a good guest");
                    let start = Instant::now();
                    queue.pump().expect("a good host");
                    took += start.elapsed();
                    took
                })
            });
        });
    }
}

criterion_group!(benches, receive, transmit);
criterion_main!(benches);
