//! Instructions that the driver takes for one frame, counted by valgrind's callgrind: exact, whatever else the machine does.
//!
//! `cargo bench -p netvsc-benches --bench instructions`
//!
//! Runs itself under valgrind, each path twice: with N frames and with 2 N. The difference over N is a frame's cost,
//! without what start-up takes. Counted are the guest's turns (the functions `guest_…`), not what the host end does in
//! between. `instructions PATH LENGTH FRAMES` runs one path without valgrind.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use netvsc::meta::TxMeta;
use netvsc::queue::{Burst, HeldBurst};
use netvsc_async::{Nic, Packet, PacketSink, PacketStream, RxHalf};
use netvsc_benches::frames::{LENGTHS, frame, message};
use netvsc_benches::link::{BATCH, HeapChannel, TURN, link};
use netvsc_benches::nic::{Bench, open, own_frame};
use vmbus::mem::MemChannel;

/// Frames of the shorter run; a multiple of [`TURN`].
const FRAMES: usize = 64 * TURN;

/// A path, by name, and what it does with so many frames of such a length.
struct Path {
    name: &'static str,
    run: fn(frames: usize, len: usize),
}

const PATHS: [Path; 9] = [
    Path { name: "burst receive", run: receive },
    Path { name: "burst receive held", run: receive_held },
    Path { name: "burst forward", run: forward },
    Path { name: "burst forward held", run: forward_held },
    Path { name: "burst transmit", run: transmit },
    Path { name: "burst reclaim", run: reclaim },
    Path { name: "async burst receive", run: recv_burst },
    Path { name: "stream", run: stream },
    Path { name: "sink", run: sink },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [] => table(),
        [name, len, frames] => {
            let path = PATHS.iter().find(|path| path.name == name);
            let (Some(path), Ok(len), Ok(frames)) = (path, len.parse(), frames.parse()) else { return usage() };
            (path.run)(frames, len);
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [PATH LENGTH FRAMES]");
    ExitCode::FAILURE
}

/// Prints what each path takes.
fn table() -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind is not installed");
        return if env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    println!("instructions per frame     64 B   1500 B");
    for path in &PATHS {
        let counts = LENGTHS.map(|len| {
            let count = |frames| collected(path.name, len, frames);
            match (count(FRAMES), count(2 * FRAMES)) {
                (Some(once), Some(twice)) => ((twice - once) as f64 / FRAMES as f64).to_string(),
                _ => "failed".to_owned(),
            }
        });
        println!("{:<22} {:>8.6} {:>8.6}", path.name, counts[0], counts[1]);
        if counts.iter().any(|count| count == "failed") {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Instructions within the guest's turns, for `frames` frames.
fn collected(path: &str, len: usize, frames: usize) -> Option<u64> {
    let own = env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=guest_*"])
        .arg(own)
        .args([path, &len.to_string(), &frames.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

fn receive(frames: usize, len: usize) {
    let (mut queue, mut host) = link();
    host.fill(&message(&frame(len)));
    let mut burst = Burst::new(TURN, 256 * 1024);
    for _ in 0..frames / TURN {
        host.deliver();
        guest_receive(&mut queue, &mut burst);
        host.answer();
    }
}

type Queue = netvsc::queue::Queue<HeapChannel>;

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_receive(queue: &mut Queue, burst: &mut Burst) {
    let got = queue.receive(burst, TURN).expect("a good host");
    assert_eq!(got, TURN);
    black_box(&*burst);
    burst.clear();
}

fn receive_held(frames: usize, len: usize) {
    let (mut queue, mut host) = link();
    host.fill(&message(&frame(len)));
    let mut burst = HeldBurst::new(TURN, 256 * 1024);
    for _ in 0..frames / TURN {
        host.deliver();
        guest_receive_held(&mut queue, &mut burst);
        host.answer();
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_receive_held(queue: &mut Queue, burst: &mut HeldBurst) {
    let got = queue.receive_held(burst, TURN).expect("a good host");
    assert_eq!(got, TURN);
    black_box(&*burst);
    burst.clear();
}

fn forward(frames: usize, len: usize) {
    let (mut queue, mut host) = link();
    host.fill(&message(&frame(len)));
    let mut burst = Burst::new(TURN, 256 * 1024);
    for _ in 0..frames / TURN {
        host.deliver();
        guest_forward(&mut queue, &mut burst);
        host.answer();
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_forward(queue: &mut Queue, burst: &mut Burst) {
    let got = queue.receive(burst, TURN).expect("a good host");
    assert_eq!(got, TURN);
    for frame in burst.frames() {
        queue.send(black_box(frame.bytes), &TxMeta::default()).expect("room");
    }
    burst.clear();
    queue.flush().expect("a good host");
}

fn forward_held(frames: usize, len: usize) {
    let (mut queue, mut host) = link();
    host.fill(&message(&frame(len)));
    let mut burst = HeldBurst::new(TURN, 256 * 1024);
    for _ in 0..frames / TURN {
        host.deliver();
        guest_forward_held(&mut queue, &mut burst);
        host.answer();
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_forward_held(queue: &mut Queue, burst: &mut HeldBurst) {
    let got = queue.receive_held(burst, TURN).expect("a good host");
    assert_eq!(got, TURN);
    for frame in burst.frames() {
        queue.send_held(black_box(frame.head), frame.rest, &TxMeta::default()).expect("room");
    }
    burst.clear();
    queue.flush().expect("a good host");
}

fn transmit(frames: usize, len: usize) {
    send(frames, len, guest_transmit, |queue| {
        queue.pump().expect("a good host");
    });
}

fn reclaim(frames: usize, len: usize) {
    let send_turn: fn(&mut Queue, &[u8]) = |queue, frame| transmit_turn(queue, frame);
    send(frames, len, send_turn, guest_reclaim);
}

fn send(frames: usize, len: usize, turn: fn(&mut Queue, &[u8]), reclaim: fn(&mut Queue)) {
    let (mut queue, mut host) = link();
    let frame = frame(len);
    for _ in 0..frames / TURN {
        turn(&mut queue, &frame);
        host.answer();
        reclaim(&mut queue);
    }
}

#[inline(always)]
fn transmit_turn(queue: &mut Queue, frame: &[u8]) {
    for _ in 0..TURN / BATCH {
        for _ in 0..BATCH {
            queue.send(black_box(frame), &TxMeta::default()).expect("room");
        }
        queue.flush().expect("a good host");
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_transmit(queue: &mut Queue, frame: &[u8]) {
    transmit_turn(queue, frame);
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_reclaim(queue: &mut Queue) {
    queue.pump().expect("a good host");
}

fn recv_burst(frames: usize, len: usize) {
    let (bench, mut queue) = open(Nic::builder());
    for _ in 0..frames / TURN {
        bench.deliver(len);
        guest_recv_burst(&bench, &mut queue.rx);
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_recv_burst(bench: &Bench, rx: &mut RxHalf<MemChannel>) {
    bench.receive_bursts(rx);
}

fn stream(frames: usize, len: usize) {
    let (bench, queue) = open(Nic::builder());
    let (mut stream, _sink) = queue.into_split();
    for _ in 0..frames / TURN {
        bench.deliver(len);
        guest_stream(&bench, &mut stream);
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_stream(bench: &Bench, stream: &mut PacketStream<MemChannel>) {
    bench.receive(stream);
}

fn sink(frames: usize, len: usize) {
    let (bench, queue) = open(Nic::builder());
    let frame = own_frame(len);
    let mut packets = Vec::with_capacity(TURN);
    let (_stream, mut sink) = queue.into_split();
    for _ in 0..frames / TURN {
        packets.extend((0..TURN).map(|_| sink.packet(&frame)));
        guest_sink(&bench, &mut sink, &mut packets);
        assert_eq!(bench.collect(), TURN);
    }
}

#[expect(unsafe_code, reason = "a name that callgrind finds")]
#[unsafe(no_mangle)]
#[inline(never)]
fn guest_sink(bench: &Bench, sink: &mut PacketSink<MemChannel>, packets: &mut Vec<Packet>) {
    bench.send(sink, packets);
}
