//! This driver and DPDK's, in turn, on the same simulated host with the same settings.
//!
//! ```text
//! cargo run --release -p netvsc-benches --bin side-by-side -- --seconds 5 --rounds 5
//! ```
//!
//! A round runs testpmd and `examples/l2fwd` one after the other, each against a new `netvsc-host`: the host on the first
//! processor, the client's forwarding thread on the second, 32 frames to a burst. The rate is the host's own count, the
//! median of its seconds, so that both are measured alike; cycles are what each client says of polls that moved packets.
//! What remains is the machine: how long a cache line takes to the other processor and back is measured before each run,
//! and rounds in which it changed are to be distrusted.
//!
//! Needs testpmd (Debian: `dpdk dpdk-dev`), a C compiler and make, and a machine that does nothing else.

mod processes;
mod report;
mod round_trip;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

use crate::processes::{Client, Programs};
use crate::report::{Row, Sample};

/// Compares this driver with DPDK's on the same simulated host.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each run that count.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often each of the two runs, for each row.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the rows here, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rows whose name has this in it only.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What is compared in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) mode: &'static str,
    pub(crate) size: u16,
    /// Frames a second that `rxonly` is offered: about what testpmd can take, which drops nearly all of much more.
    pub(crate) offered: u32,
}

const CASES: [Case; 6] = [
    Case { mode: "rxonly", size: 64, offered: 8_000_000 },
    Case { mode: "rxonly", size: 1500, offered: 3_000_000 },
    Case { mode: "txonly", size: 64, offered: 0 },
    Case { mode: "txonly", size: 1500, offered: 0 },
    Case { mode: "io", size: 64, offered: 0 },
    Case { mode: "io", size: 1500, offered: 0 },
];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let programs = Programs::build()?;
    let mut rows = Vec::new();
    for case in CASES {
        let mut row = Row::new(format!("{} {} B", case.mode, case.size));
        if !row.name.contains(&options.only) {
            continue;
        }
        for round in 1..=options.rounds {
            let run = |client| -> anyhow::Result<Sample> {
                let round_trip_ns = round_trip::measure().context("measure the round trip")?;
                let run = programs.run(client, case, options.seconds)?;
                Ok(Sample { run, round_trip_ns })
            };
            // Who comes first changes: the machine may get slower as it gets warmer.
            let (ours, dpdk) = if round % 2 == 1 {
                let ours = run(Client::Ours)?;
                (ours, run(Client::Dpdk)?)
            } else {
                let dpdk = run(Client::Dpdk)?;
                (run(Client::Ours)?, dpdk)
            };
            eprintln!("{}, round {round}: ours {ours}; DPDK {dpdk}", row.name);
            row.add(ours, dpdk);
        }
        rows.push(row);
    }
    println!("{}", report::markdown(&rows));
    if let Some(file) = options.json {
        let json = serde_json::Value::from_iter(rows.iter().map(Row::json));
        std::fs::write(&file, format!("{json:#}\n")).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
