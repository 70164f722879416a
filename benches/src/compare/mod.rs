//! This project's programs and DPDK's in turn: options, rounds, rows.
//!
//! | file | has |
//! |---|---|
//! | `report` | rows, as table and as JSON |
//! | `round_trip` | the machine: how far apart its processors are now |
//! | `cpu` | what a process takes of it |
//! | `mode` | which way frames go |

pub mod cpu;
mod mode;
pub mod report;
pub mod round_trip;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
pub use mode::Mode;
use report::{Pair, Row, Run, Sample};
use round_trip::Processors;

/// What comparisons can be told.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Seconds of each run that count.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How often each of the two runs, for each row.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How often a pair of runs is made at most, if the machine changed meanwhile.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// One round of one second, whatever the machine does: for a look whether all of it works.
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "attempts"])]
    quick: bool,
    /// The processors of host, or far end, and client.
    #[arg(long, value_name = "HOST,CLIENT", default_value = "0,1")]
    pub cpus: Processors,
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
}

/// Who runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// This project's program.
    Ours,
    /// DPDK's testpmd.
    Dpdk,
}

impl Options {
    /// What is to be known before anything runs: a quick look is skipped where testpmd is missing or `obstacle` says why it
    /// cannot be. Whether to go on.
    ///
    /// # Errors
    /// If something is skipped where nothing may be.
    pub fn prepare(&mut self, obstacle: Option<&str>) -> anyhow::Result<bool> {
        if !self.quick {
            return Ok(true);
        }
        (self.seconds, self.rounds, self.attempts) = (1, 1, 1);
        let Some(why) = obstacle.or((!has_testpmd()).then_some("dpdk-testpmd is not installed")) else {
            return Ok(true);
        };
        anyhow::ensure!(std::env::var_os("CI").is_none(), "{why}");
        println!("SKIPPED: {why}");
        Ok(false)
    }

    /// Whether nothing is to be run.
    #[must_use]
    pub fn only_merges(&self) -> bool {
        !self.merge.is_empty()
    }

    /// Runs both clients in turn for each row that is wanted, by `run`.
    ///
    /// # Errors
    /// What `run` fails with; or if a processor cannot be used.
    pub fn measure<C: Copy + std::fmt::Display>(
        &self,
        cases: impl IntoIterator<Item = C>,
        mut run: impl FnMut(Client, C) -> anyhow::Result<Run>,
    ) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for case in cases.into_iter().filter(|case| case.to_string().contains(&self.only)) {
            let mut row = Row::new(case.to_string());
            for round in 1..=self.rounds {
                let pair = self.pair(&row.name, round, |client| run(client, case))?;
                eprintln!("{case}, round {round}: {pair}");
                row.add(pair);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// One run of each. Again, if the machine was another one for the one than for the other.
    fn pair(&self, name: &str, round: u32, mut run: impl FnMut(Client) -> anyhow::Result<Run>) -> anyhow::Result<Pair> {
        let mut run = |client| -> anyhow::Result<Sample> {
            // On a machine that is busy it takes for ever, and a quick look does not care.
            let trip = || if self.quick { Ok(0.0) } else { round_trip::measure(self.cpus) };
            let before = trip().context("measure the round trip")?;
            let run = run(client)?;
            let after = trip().context("measure the round trip")?;
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
            if pair.is_steady() || attempt >= self.attempts {
                return Ok(pair);
            }
            eprintln!("{name}, round {round}, again, since the machine has changed: {pair}");
            attempt += 1;
        }
    }

    /// Rows of earlier runs, in the order of `cases`.
    ///
    /// # Errors
    /// If a file has none.
    pub fn merge<C: std::fmt::Display>(&self, cases: impl IntoIterator<Item = C>) -> anyhow::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for file in &self.merge {
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
        let cases: Vec<String> = cases.into_iter().map(|case| case.to_string()).collect();
        rows.sort_by_key(|row| cases.iter().position(|case| *case == row.name).unwrap_or(cases.len()));
        Ok(rows)
    }

    /// Prints the rows, and writes them where they are wanted.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn publish(&self, rows: &[Row]) -> anyhow::Result<()> {
        let tables = report::markdown(rows);
        println!("{tables}");
        if let Some(file) = &self.json {
            let json = serde_json::Value::from_iter(rows.iter().map(Row::json));
            write(file, &format!("{json:#}\n"))?;
        }
        if let Some(file) = &self.markdown {
            write(file, &tables)?;
        }
        Ok(())
    }
}

/// Writes a file.
///
/// # Errors
/// If that cannot be; the error has its name.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn has_testpmd() -> bool {
    let mut command = Command::new("dpdk-testpmd");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
