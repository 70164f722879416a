//! How long the path of the frames takes to change, to a virtual function and back, under a steady flow both ways.
//!
//! ```text
//! cargo run --release --bin vf-switch -- --cycles 100                      # in memory
//! cargo run --release --bin vf-switch -- --backend af_xdp --cycles 100     # root: a veth as the function
//! ```
//!
//! ```text
//!  far end ── cable ── simulated host ══ rings ══ NIC ── this program
//!                            ╚═ virtual function ═╝
//! ```
//!
//! An orderly servicing, again and again: the host shows a device and offers it; some time later it takes it back, and the
//! device goes. Numbered frames go both ways all the time; none may be lost. For each change of path it prints
//!
//! - the time from the host's word (its offer, its taking back) to the first frame received, and sent, by the new path;
//! - what the adapter says: from its decision to the first frame that could be sent (`DatapathSwitched`);
//! - the longest time without a frame in the 20 ms from the host's word on, beside the same of 20 ms without a change, which is
//!   what the machine does to a flow anyway.
//!
//! | file | has |
//! |---|---|
//! | `flow.rs` | the flow, both ways |
//! | `cycles.rs` | adapter, host, what is done to them and when |

mod cycles;
mod flow;

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use cycles::{Change, Outcome};
use netvsc_async::vf::MemoryBackend;
use netvsc_host::vf::MemoryVfs;
use serde_json::{Value, json};

/// Measures how long changes of the data path take.
#[derive(Debug, Parser)]
struct Options {
    /// How often the virtual function comes and goes.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cycles: u32,
    /// What the virtual function is to the driver. af_packet and af_xdp need root.
    #[arg(long, value_enum, default_value_t = Backend::Memory)]
    backend: Backend,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// A device in this process.
    Memory,
    /// A network interface, by packet sockets.
    #[value(name = "af_packet")]
    AfPacket,
    /// A network interface, by XDP sockets.
    #[value(name = "af_xdp")]
    AfXdp,
}

/// Frames that a device in memory holds.
const FRAMES: usize = 1024;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let outcome = match options.backend {
        Backend::Memory => {
            let backend = MemoryBackend::new();
            let shown = backend.clone();
            in_runtime(cycles::run(options.cycles, backend, MemoryVfs::new(FRAMES, move |vf| shown.insert(vf))))
        }
        Backend::AfPacket | Backend::AfXdp => by_interface(&options),
    }?;
    let name = options.backend.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    println!("| {name}, {} cycles, µs: median (most) | to the function | back |\n|---|---:|---:|", options.cycles);
    for (what, of) in ROWS {
        let [to, back] = [&outcome.to_vf, &outcome.back].map(|changes| spread(changes.iter().map(of)));
        println!("| {what} | {to} | {back} |");
    }
    println!("\nlongest silence in 20 ms without a change: received {}, sent {}", outcome.idle(0), outcome.idle(1));
    println!("{} frames received, {} sent, none lost", outcome.frames[0], outcome.frames[1]);
    if options.json {
        println!("{}", json(&name, &outcome));
    }
    Ok(())
}

type Number = fn(&Change) -> Duration;

const ROWS: [(&str, Number); 5] = [
    ("first frame received by the new path", |change| change.received),
    ("first frame sent by the new path", |change| change.sent),
    ("the adapter's word: decision to first frame that could be sent", |change| change.told),
    ("longest silence, received", |change| change.silence[0]),
    ("longest silence, sent", |change| change.silence[1]),
];

impl Outcome {
    fn idle(&self, way: usize) -> String {
        spread(self.idle.iter().map(|silence| silence[way]))
    }
}

/// Median and most, in microseconds.
fn numbers(times: impl Iterator<Item = Duration>) -> [u128; 2] {
    let mut times: Vec<u128> = times.map(|time| time.as_micros()).collect();
    times.sort_unstable();
    [times.get(times.len() / 2), times.last()].map(|time| time.copied().unwrap_or(0))
}

fn spread(times: impl Iterator<Item = Duration>) -> String {
    let [median, most] = numbers(times);
    format!("{median} ({most})")
}

fn json(backend: &str, outcome: &Outcome) -> Value {
    let part = |changes: &[Change]| {
        let rows = ["received", "sent", "told", "silence_received", "silence_sent"].into_iter().zip(ROWS);
        let rows = rows.map(|(key, (_, of))| {
            let [median, most] = numbers(changes.iter().map(of));
            (key.to_owned(), json!({ "us_median": median as u64, "us_max": most as u64 }))
        });
        Value::Object(rows.collect())
    };
    json!({
        "backend": backend,
        "to_vf": part(&outcome.to_vf),
        "to_synthetic": part(&outcome.back),
        "not_drained": outcome.not_drained,
        "frames": outcome.frames,
    })
}

fn in_runtime(work: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

/// The pair is in a namespace of its own, so that nothing of this machine gets in the way.
#[cfg(target_os = "linux")]
fn by_interface(options: &Options) -> anyhow::Result<Outcome> {
    use netvsc_async::vf::sockets::{Method, SocketVf};
    use netvsc_host::vf::{VethConfig, VethVfs};
    use netvsc_tests::netns::Netns;

    let method = if options.backend == Backend::AfXdp { Method::AfXdp } else { Method::AfPacket };
    let netns = Netns::new().context("make a network namespace, which root may")?;
    netns.enter(|| {
        let backend = SocketVf::new().virtual_interfaces(true).method(method);
        in_runtime(cycles::run(options.cycles, backend, VethVfs::new(VethConfig::new("vfbsw", cycles::MAC))))
    })
}

#[cfg(not(target_os = "linux"))]
fn by_interface(_options: &Options) -> anyhow::Result<Outcome> {
    Err(anyhow::anyhow!("--backend memory")).context("network interfaces are used on Linux only")
}
