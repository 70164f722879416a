//! Rows, as table and as JSON.

use std::fmt;

use netvsc_benches::compare::report::median;
use serde_json::{Value, json};

use crate::case::Case;

/// One of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// Nanoseconds a unit.
    pub(crate) ours_ns: f64,
    pub(crate) dpdk_ns: f64,
}

impl Round {
    /// How many times faster ours is.
    fn ratio(&self) -> f64 {
        self.dpdk_ns / self.ours_ns
    }
}

/// The rounds of a case.
#[derive(Debug)]
pub(crate) struct Row {
    case: &'static Case,
    rounds: Vec<Round>,
    skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(case: &'static Case) -> Self {
        Self { case, rounds: Vec::new(), skipped: None }
    }

    /// One that cannot be measured here.
    pub(crate) fn skipped(case: &'static Case, why: String) -> Self {
        Self { skipped: Some(why), ..Self::new(case) }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }

    fn ratios(&self) -> [f64; 3] {
        let ratios = || self.rounds.iter().map(Round::ratio);
        [median(ratios()), ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max)]
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let Case { name, unit, bytes, .. } = self.case;
        if let Some(why) = &self.skipped {
            return json!({ "name": name, "skipped": why });
        }
        let [median, min, max] = self.ratios();
        json!({
            "name": name,
            "unit": unit,
            "bytes": bytes,
            "ours_ns": self.median(|round| round.ours_ns),
            "dpdk_ns": self.median(|round| round.dpdk_ns),
            "ratio_median": median,
            "ratio_min": min,
            "ratio_max": max,
            "rounds": self.rounds.len(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { name, unit, bytes, .. } = self.case;
        if let Some(why) = &self.skipped {
            return write!(f, "| {name} | SKIPPED: {why} | | | | |");
        }
        // A byte a nanosecond is a gigabyte a second.
        let cell = |ns: f64| match bytes {
            Some(bytes) => format!("{ns:.1} ({:.1} GB/s)", *bytes as f64 / ns),
            None => format!("{ns:.1}"),
        };
        let [median, min, max] = self.ratios();
        let (ours, dpdk) = (cell(self.median(|round| round.ours_ns)), cell(self.median(|round| round.dpdk_ns)));
        write!(f, "| {name} | {ours} | {dpdk} | {median:.2} | {min:.2} | {max:.2} | {unit} |")
    }
}

/// The rows as a table.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    format!(
        "| | ours, ns | DPDK, ns | times faster, median | min | max | for each |\n|---|---:|---:|---:|---:|---:|---|\n{lines}"
    )
}
