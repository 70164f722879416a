//! Rows of the table.

use std::fmt;

use serde_json::{Value, json};

/// What a run has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Millions of packets a second.
    pub(crate) mpps: f64,
    /// Cycles a packet.
    pub(crate) cycles: f64,
}

/// A run, and the machine at that time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) run: Run,
    pub(crate) round_trip_ns: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { mpps, cycles } = self.run;
        write!(f, "{mpps:.3} Mpps, {cycles:.0} cycles, round trip {:.0} ns", self.round_trip_ns)
    }
}

/// The rounds of one case.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    ours: Vec<Sample>,
    dpdk: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(name: String) -> Self {
        Self { name, ours: Vec::new(), dpdk: Vec::new() }
    }

    pub(crate) fn add(&mut self, ours: Sample, dpdk: Sample) {
        self.ours.push(ours);
        self.dpdk.push(dpdk);
    }

    /// Of packets a second, round by round.
    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.dpdk).map(|(ours, dpdk)| ours.run.mpps / dpdk.run.mpps).collect()
    }

    fn round_trip_ns(&self) -> f64 {
        median(self.ours.iter().chain(&self.dpdk).map(|sample| sample.round_trip_ns))
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let ratios = self.ratios();
        json!({
            "name": self.name,
            "ours_mpps": median(self.ours.iter().map(|sample| sample.run.mpps)),
            "dpdk_mpps": median(self.dpdk.iter().map(|sample| sample.run.mpps)),
            "ratio_median": median(ratios.iter().copied()),
            "ratio_min": ratios.iter().copied().fold(f64::INFINITY, f64::min),
            "ratio_max": ratios.iter().copied().fold(0.0, f64::max),
            "ours_cycles": median(self.ours.iter().map(|sample| sample.run.cycles)),
            "dpdk_cycles": median(self.dpdk.iter().map(|sample| sample.run.cycles)),
            "round_trip_ns": self.round_trip_ns(),
        })
    }
}

/// The rows as a table.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut table = String::from(
        "| | ours, Mpps | DPDK, Mpps | ratio, median | min | max | ours, cycles | DPDK, cycles | round trip, ns |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let json = row.json();
        let number = |field: &str, digits: usize| format!("{:.digits$}", json[field].as_f64().unwrap_or(f64::NAN));
        let cells = [
            number("ours_mpps", 3),
            number("dpdk_mpps", 3),
            number("ratio_median", 2),
            number("ratio_min", 2),
            number("ratio_max", 2),
            number("ours_cycles", 0),
            number("dpdk_cycles", 0),
            number("round_trip_ns", 0),
        ];
        table += &format!("| {} | {} |\n", row.name, cells.join(" | "));
    }
    table
}

/// The middle one; of an even number, the mean of the two in the middle. Not a number if there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    f64::midpoint(values[last / 2], values[last.div_ceil(2)])
}
