//! This project's sockets for virtual functions and DPDK's drivers of the same kind, in turn, on the same kind of veth pair.
//!
//! ```text
//! cargo run --release --bin vf-sockets -- --seconds 2 --rounds 3 --json rows.json      # root, testpmd
//! ```
//!
//! ```text
//!        processor CLIENT                                            processor HOST
//!  queue or adapter │ testpmd ── AF_PACKET or AF_XDP ── veth ══ veth ── far end: AF_PACKET
//! ```
//!
//! What is measured is a process of its own, in a network namespace of its own; each run has a new pair. The kernel passes frames
//! through a veth pair on the processor of whoever sends: what it does to receive them counts for the sender.
//!
//! | file | has |
//! |---|---|
//! | `case.rs` | what is compared |
//! | `wire.rs` | the pair |
//! | `far.rs` | the far end |
//! | `ours.rs` | what is measured of this project |
//! | `clients.rs` | running it, and testpmd |
//!
//! Rounds, rows and what is known of the machine are [`netvsc_benches::compare`]'s.

#[cfg(target_os = "linux")]
mod case;
#[cfg(target_os = "linux")]
mod clients;
#[cfg(target_os = "linux")]
mod far;
#[cfg(target_os = "linux")]
mod ours;
#[cfg(target_os = "linux")]
mod wire;

/// Frames to a burst.
#[cfg(target_os = "linux")]
const BURST: usize = 32;

#[cfg(not(target_os = "linux"))]
fn main() -> anyhow::Result<()> {
    anyhow::bail!("AF_XDP and AF_PACKET exist on Linux only")
}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    use clap::{Parser, Subcommand};
    use netvsc_benches::compare;

    /// Compares this project's AF_XDP and AF_PACKET with DPDK's.
    #[derive(Debug, Parser)]
    #[command(args_conflicts_with_subcommands = true)]
    struct Options {
        #[command(flatten)]
        compare: compare::Options,
        #[command(subcommand)]
        part: Option<Part>,
    }

    #[derive(Debug, Subcommand)]
    enum Part {
        /// What is measured: started by this program itself.
        #[command(hide = true)]
        Ours(ours::Task),
    }

    let Options { mut compare, part } = Options::parse();
    if let Some(Part::Ours(task)) = part {
        return ours::run(&task);
    }
    let obstacle = netvsc_tests::real::privileged(&["ip"]);
    if !compare.prepare(obstacle.as_ref().err().map(String::as_str))? {
        return Ok(());
    }
    let rows = if compare.only_merges() {
        compare.merge(case::cases())?
    } else {
        compare.measure(case::cases(), |client, case| clients::run(client, case, compare.cpus, compare.seconds))?
    };
    compare.publish(&rows)
}
