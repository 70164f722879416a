//! What this project computes in software and what DPDK's libraries compute, in turn, on the same input.
//!
//! ```text
//! cargo run --release --bin dpdk-libs
//! ```
//!
//! For each row the other half (`dpdk/`, in C) runs as a process that is asked by a pipe, on the same processor: while one
//! half works the other waits. A round is one of each, a few hundredths of a second long, and who comes first changes. Before
//! anything is measured both tell a digest of what they made, which must be the same.
//!
//! | file | has |
//! |---|---|
//! | `case.rs` | what is compared |
//! | `input.rs` | frames, buffers and tuples |
//! | `ours.rs` | our half |
//! | `theirs.rs`, `dpdk/` | the other one: building and asking it; the program |
//! | `report.rs` | rows |
//!
//! Needs Debian's `libdpdk-dev`, or DPDK from elsewhere with its `libdpdk.pc`, pkg-config and a C compiler.

mod case;
mod input;
mod ours;
mod report;
mod theirs;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use netvsc_benches::compare::{round_trip, write};

use crate::case::{CASES, Case};
use crate::report::{Round, Row};
use crate::theirs::{Built, Program};

/// Compares this project's checksums, hash, merging and cutting with DPDK's libraries.
#[derive(Debug, Parser)]
struct Options {
    /// How often each half, for each row.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// How long each half works in a round.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    milliseconds: u64,
    /// One round a row: for a look whether all of it works.
    #[arg(long, conflicts_with_all = ["rounds", "milliseconds"])]
    quick: bool,
    /// The processor of both.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpu: usize,
    /// For which processor the other half is compiled, if not for the one that DPDK was. Ours is not compiled anew.
    #[arg(long, value_name = "ARCH")]
    march: Option<String>,
    /// Rows whose name has this in it only.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Write the rows here, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table here, too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.milliseconds) = (1, 1);
    }
    let program = match Program::build(options.march.as_deref())? {
        Built::Program(program) => program,
        Built::Not(why) => {
            ensure!(std::env::var_os("CI").is_none(), "{why}");
            println!("SKIPPED: {why}");
            return Ok(());
        }
    };
    ensure!(core_affinity::set_for_current(round_trip::core(options.cpu)?), "processor {} cannot be used", options.cpu);
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
        let row = measure(case, &program, &options)?;
        eprintln!("{row}");
        rows.push(row);
    }
    let table = report::markdown(&rows);
    println!("{table}");
    if let Some(file) = options.json {
        let json = serde_json::Value::from_iter(rows.iter().map(Row::json));
        write(&file, &format!("{json:#}\n"))?;
    }
    if let Some(file) = options.markdown {
        write(&file, &table)?;
    }
    Ok(())
}

/// All rounds of a row.
fn measure(case: &'static Case, program: &Program, options: &Options) -> anyhow::Result<Row> {
    let input = (case.input)();
    let mut theirs = match program.start(case.theirs, &input, options.cpu)? {
        Ok(client) => client,
        Err(why) => return Ok(Row::skipped(case, why)),
    };
    let mut ours = (case.ours)(&input);
    let (made, expected) = (ours::digest(&mut *ours), theirs.digest()?);
    ensure!(made == expected, "{}: the results differ: {made:#x}, and {expected:#x} of DPDK's", case.name);

    let units = (case.units)(&input) as f64;
    let time = Duration::from_millis(options.milliseconds);
    let passes = [calibrate(time, |passes| Ok(ours::time(&mut *ours, passes)))?, calibrate(time, |n| theirs.time(n))?];
    let mut row = Row::new(case);
    for round in 0..options.rounds {
        let mut half = |mine: bool| -> anyhow::Result<f64> {
            let passes = passes[usize::from(!mine)];
            let took = if mine { ours::time(&mut *ours, passes) } else { theirs.time(passes)? };
            Ok(took.as_secs_f64() * 1e9 / (units * passes as f64))
        };
        row.add(if round % 2 == 0 {
            let ours_ns = half(true)?;
            Round { ours_ns, dpdk_ns: half(false)? }
        } else {
            let dpdk_ns = half(false)?;
            Round { ours_ns: half(true)?, dpdk_ns }
        });
    }
    Ok(row)
}

/// How many passes take about as long as `time`.
fn calibrate(time: Duration, mut run: impl FnMut(u64) -> anyhow::Result<Duration>) -> anyhow::Result<u64> {
    let mut passes = 1;
    while run(passes)? < time {
        passes *= 2;
    }
    Ok(passes)
}
