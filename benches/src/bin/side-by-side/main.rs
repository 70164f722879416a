//! This driver and DPDK's, in turn, on the same simulated host with the same settings.
//!
//! ```text
//! cargo run --release --bin side-by-side -- --seconds 5 --rounds 5 --json rows.json
//! ```
//!
//! A round runs testpmd and one of this project's clients one after the other, each against a new `netvsc-host`: the host on
//! one processor, the client's forwarding thread on another, 32 frames to a burst. The rate is the host's own count, the
//! median of its seconds, so that both are measured alike; cycles are what each client says of polls that moved packets.
//!
//! What remains is the machine. How long a cache line takes to the other processor and back is measured before and after
//! each run and printed beside it: a hypervisor moves virtual processors about, and two that share a core are another
//! machine than two that do not. A pair of runs on two different machines compares nothing, and is made again.
//!
//! | file | has |
//! |---|---|
//! | `case.rs` | what is compared |
//! | `host.rs`, `clients.rs` | the programs: building them, running them, reading what they say |
//! | `round_trip.rs`, `cpu.rs` | the machine; what a process takes of it |
//! | `report.rs`, `plot.rs` | rows, as table, JSON and picture |
//!
//! Needs Linux, testpmd (Debian: `dpdk dpdk-dev`), a C compiler and make, and a machine that does nothing else.

mod case;
mod clients;
mod cpu;
mod host;
mod plot;
mod report;
mod round_trip;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use clap::Parser;

use crate::case::{CASES, Case};
use crate::clients::{Client, Programs};
use crate::report::{Pair, Row, Sample};
use crate::round_trip::Processors;

/// Compares this driver with DPDK's on the same simulated host.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each run that count.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often each of the two runs, for each row.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How often a pair of runs is made at most, if the machine changed meanwhile.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// One round of one second, whatever the machine does: for a look whether all of it works.
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "attempts"])]
    quick: bool,
    /// The processors of host and client.
    #[arg(long, value_name = "HOST,CLIENT", default_value = "0,1")]
    cpus: Processors,
    /// Rows whose name has this in it only.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Run nothing: put the rows of earlier runs (--json) together. Rounds of the same row are added up.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["seconds", "rounds", "attempts", "quick", "only"])]
    merge: Vec<PathBuf>,
    /// Write the rows here, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables here, too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw the ratios here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    if options.quick {
        (options.seconds, options.rounds, options.attempts) = (1, 1, 1);
        if !has_testpmd() {
            anyhow::ensure!(std::env::var_os("CI").is_none(), "dpdk-testpmd is not installed");
            println!("SKIPPED: dpdk-testpmd is not installed");
            return Ok(());
        }
    }
    let rows = if options.merge.is_empty() { measure(&options)? } else { merge(&options.merge)? };
    let tables = report::markdown(&rows);
    println!("{tables}");
    if let Some(file) = &options.json {
        let json = serde_json::Value::from_iter(rows.iter().map(Row::json));
        write(file, &format!("{json:#}\n"))?;
    }
    if let Some(file) = &options.markdown {
        write(file, &tables)?;
    }
    if let Some(file) = &options.svg {
        write(file, &plot::svg(&rows)?)?;
    }
    Ok(())
}

/// All rows that are wanted.
fn measure(options: &Options) -> anyhow::Result<Vec<Row>> {
    let programs = Programs::build(options.cpus)?;
    let mut rows = Vec::new();
    for case in CASES.into_iter().filter(|case| case.to_string().contains(&options.only)) {
        let mut row = Row::new(case.to_string());
        for round in 1..=options.rounds {
            let pair = compare(&programs, case, round, options)?;
            eprintln!("{case}, round {round}: {pair}");
            row.add(pair);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Rows of earlier runs, in the order of the table.
fn merge(files: &[PathBuf]) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for file in files {
        let read = || -> anyhow::Result<Vec<Row>> {
            let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
            let rows = json.as_array().and_then(|rows| rows.iter().map(Row::from_json).collect::<Option<_>>());
            rows.context("no rows of a run")
        };
        for row in read().with_context(|| format!("read {}", file.display()))? {
            match rows.iter_mut().find(|known| known.name == row.name) {
                Some(known) => known.merge(row),
                None => rows.push(row),
            }
        }
    }
    let place = |row: &Row| CASES.iter().position(|case| case.to_string() == row.name);
    rows.sort_by_key(|row| place(row).unwrap_or(CASES.len()));
    Ok(rows)
}

/// One run of each. Again, if the machine was another one for the one than for the other.
fn compare(programs: &Programs, case: Case, round: u32, options: &Options) -> anyhow::Result<Pair> {
    let run = |client| -> anyhow::Result<Sample> {
        let before = round_trip::measure(options.cpus).context("measure the round trip")?;
        let run = programs.run(client, case, options.seconds)?;
        let after = round_trip::measure(options.cpus).context("measure the round trip")?;
        Ok(Sample { run, round_trips_ns: [before, after] })
    };
    let mut attempt = 1;
    loop {
        // Who comes first changes: the machine may get slower as it gets warmer.
        let (ours, dpdk) = if round % 2 == 1 {
            let ours = run(Client::Ours)?;
            (ours, run(Client::Dpdk)?)
        } else {
            let dpdk = run(Client::Dpdk)?;
            (run(Client::Ours)?, dpdk)
        };
        let pair = Pair { ours, dpdk };
        if pair.is_steady() || attempt >= options.attempts {
            return Ok(pair);
        }
        eprintln!("{case}, round {round}, again, since the machine has changed: {pair}");
        attempt += 1;
    }
}

fn has_testpmd() -> bool {
    let mut command = Command::new("dpdk-testpmd");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
