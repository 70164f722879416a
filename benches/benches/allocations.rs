//! Heap allocations that the driver makes for a frame, counted by the allocator.
//!
//! `cargo bench -p netvsc-benches --bench allocations`
//!
//! Fails if there are any: buffers are allocated when a queue is made, never for a frame.

use std::hint::black_box;
use std::process::ExitCode;

use netvsc::meta::TxMeta;
use netvsc::queue::Burst;
use netvsc_allocations::{Counting, count};
use netvsc_async::{Nic, Packet, PacketSink, PacketStream};
use netvsc_benches::frames::{LENGTHS, frame, message};
use netvsc_benches::link::{TURN, link};
use netvsc_benches::nic::{Bench, open, own_frame};
use vmbus::mem::MemChannel;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Turns before counting starts, and turns that are counted.
const WARM_UP: usize = 4;
const TURNS: usize = 100;

/// Allocations that a path makes for all counted frames of such a length.
type Path = fn(usize) -> u64;

fn main() -> ExitCode {
    println!("allocations per frame      64 B   1500 B");
    let paths: [(&str, Path); 4] =
        [("burst receive", receive), ("burst transmit", transmit), ("stream", stream), ("sink", sink)];
    let mut clean = true;
    for (name, path) in paths {
        let counts = LENGTHS.map(path);
        let [small, large] = counts.map(|count| count as f64 / (TURNS * TURN) as f64);
        println!("{name:<22} {small:>8} {large:>8}");
        clean &= counts == [0, 0];
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds up the allocations that `guest` makes in a turn; `host` works before it and is not counted.
fn counted<S>(state: &mut S, mut host: impl FnMut(&mut S), mut guest: impl FnMut(&mut S)) -> u64 {
    let mut total = 0;
    for turn in 0..WARM_UP + TURNS {
        host(state);
        let before = count();
        guest(state);
        if turn >= WARM_UP {
            total += count() - before;
        }
    }
    total
}

fn receive(len: usize) -> u64 {
    let (queue, mut host) = link();
    host.fill(&message(&frame(len)));
    let burst = Burst::new(TURN, 256 * 1024);
    counted(
        &mut (queue, host, burst),
        |(_, host, _)| {
            host.answer();
            host.deliver();
        },
        |(queue, _, burst)| {
            assert_eq!(queue.receive(burst, TURN), Ok(TURN));
            black_box(&*burst);
            burst.clear();
        },
    )
}

fn transmit(len: usize) -> u64 {
    let (queue, host) = link();
    let frame = frame(len);
    counted(
        &mut (queue, host),
        |(_, host)| {
            host.answer();
        },
        |(queue, _)| {
            queue.pump().expect("a good host");
            for _ in 0..TURN {
                queue.send(&frame, &TxMeta::default()).expect("room");
            }
            queue.flush().expect("a good host");
        },
    )
}

fn stream(len: usize) -> u64 {
    let (bench, queue) = open(Nic::builder());
    let (stream, _sink) = queue.into_split();
    counted(
        &mut (bench, stream),
        |(bench, _): &mut (Bench, PacketStream<MemChannel>)| bench.deliver(len),
        |(bench, stream)| bench.receive(stream),
    )
}

fn sink(len: usize) -> u64 {
    let (bench, queue) = open(Nic::builder());
    let frame = own_frame(len);
    let packets: Vec<Packet> = Vec::with_capacity(TURN);
    let (_stream, sink) = queue.into_split();
    counted(
        &mut (bench, sink, packets),
        |(bench, sink, packets): &mut (Bench, PacketSink<MemChannel>, Vec<Packet>)| {
            bench.collect();
            packets.extend((0..TURN).map(|_| sink.packet(&frame)));
        },
        |(bench, sink, packets)| bench.send(sink, packets),
    )
}
