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
//! | `plot.rs` | rows, as a picture |
//!
//! Rounds, rows and what is known of the machine are [`netvsc_benches::compare`]'s.
//!
//! Needs Linux, testpmd (Debian: `dpdk dpdk-dev`), a C compiler and make, and a machine that does nothing else.

mod case;
mod clients;
mod host;
mod plot;

use std::path::PathBuf;

use clap::Parser;
use netvsc_benches::compare::{self, write};

use crate::case::CASES;
use crate::clients::Programs;

/// Compares this driver with DPDK's on the same simulated host.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    compare: compare::Options,
    /// Draw the ratios here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Options { mut compare, svg } = Options::parse();
    if !compare.prepare(None)? {
        return Ok(());
    }
    let rows = if compare.only_merges() {
        compare.merge(CASES)?
    } else {
        let programs = Programs::build(compare.cpus)?;
        compare.measure(CASES, |client, case| programs.run(client, case, compare.seconds))?
    };
    compare.publish(&rows)?;
    if let Some(file) = svg {
        write(&file, &plot::svg(&rows)?)?;
    }
    Ok(())
}
