//! Rows, as table and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// Round trips that differ by more than this are of different machines.
const STEADY: f64 = 2.0;

/// What a run has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Millions of packets a second.
    pub(crate) mpps: f64,
    /// Cycles a packet, if there were any.
    pub(crate) cycles: Option<f64>,
    /// Processors that were kept busy, of a run without packets.
    pub(crate) cpu: Option<f64>,
}

/// A run, and the machine before and after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) run: Run,
    pub(crate) round_trips_ns: [f64; 2],
}

impl Sample {
    fn json(&self) -> Value {
        let Run { mpps, cycles, cpu } = self.run;
        json!({ "mpps": mpps, "cycles": cycles, "cpu": cpu, "round_trips_ns": self.round_trips_ns })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let trip = |at: usize| value["round_trips_ns"][at].as_f64();
        let run = Run { mpps: value["mpps"].as_f64()?, cycles: value["cycles"].as_f64(), cpu: value["cpu"].as_f64() };
        Some(Self { run, round_trips_ns: [trip(0)?, trip(1)?] })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { mpps, cycles, cpu } = self.run;
        if let Some(cpu) = cpu {
            write!(f, "{:.2} % of a processor", cpu * 100.0)?;
        } else {
            write!(f, "{mpps:.3} Mpps")?;
        }
        if let Some(cycles) = cycles {
            write!(f, ", {cycles:.0} cycles")?;
        }
        let [before, after] = self.round_trips_ns;
        write!(f, ", round trip {before:.0} and {after:.0} ns")
    }
}

/// One run of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: Sample,
    pub(crate) dpdk: Sample,
}

impl Pair {
    /// Both ran on the same machine, as far as the round trips tell.
    pub(crate) fn is_steady(&self) -> bool {
        let trips = self.round_trips_ns();
        let (least, most) =
            trips.fold((f64::INFINITY, 0.0_f64), |(least, most), trip| (least.min(trip), most.max(trip)));
        most <= STEADY * least
    }

    fn json(&self) -> Value {
        json!({ "ours": self.ours.json(), "dpdk": self.dpdk.json() })
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self { ours: Sample::from_json(&value["ours"])?, dpdk: Sample::from_json(&value["dpdk"])? })
    }

    fn round_trips_ns(&self) -> impl Iterator<Item = f64> {
        self.ours.round_trips_ns.into_iter().chain(self.dpdk.round_trips_ns)
    }

    /// How many times better ours is: packets a second; without packets, DPDK's share of a processor over ours.
    fn ratio(&self) -> f64 {
        match (self.ours.run.cpu, self.dpdk.run.cpu) {
            (Some(ours), Some(dpdk)) => dpdk / ours,
            _ => self.ours.run.mpps / self.dpdk.run.mpps,
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ratio {:.2}; ours {}; DPDK {}", self.ratio(), self.ours, self.dpdk)?;
        if self.is_steady() { Ok(()) } else { f.write_str("; UNSTEADY") }
    }
}

/// The rounds of one case.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pairs: Vec<Pair>,
}

/// What the rounds of a row show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratios {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Row {
    pub(crate) fn new(name: String) -> Self {
        Self { name, pairs: Vec::new() }
    }

    pub(crate) fn add(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }

    /// Whether packets were moved in it.
    pub(crate) fn has_packets(&self) -> bool {
        self.pairs.iter().all(|pair| pair.ours.run.cpu.is_none())
    }

    pub(crate) fn ratios(&self) -> Ratios {
        let ratios = || self.pairs.iter().map(Pair::ratio);
        Ratios {
            median: median(ratios()),
            min: ratios().fold(f64::INFINITY, f64::min),
            max: ratios().fold(0.0, f64::max),
        }
    }

    /// Medians: ours, DPDK's. Nothing if no run has the number.
    pub(crate) fn medians(&self, number: impl Fn(&Run) -> Option<f64>) -> [Option<f64>; 2] {
        let of = |sample: fn(&Pair) -> &Sample| {
            Some(median(self.pairs.iter().filter_map(|pair| number(&sample(pair).run)))).filter(|it| !it.is_nan())
        };
        [of(|pair| &pair.ours), of(|pair| &pair.dpdk)]
    }

    fn round_trip_ns(&self) -> f64 {
        median(self.pairs.iter().flat_map(Pair::round_trips_ns))
    }

    /// Pairs during which the machine changed.
    fn unsteady(&self) -> usize {
        self.pairs.iter().filter(|pair| !pair.is_steady()).count()
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let ratios = self.ratios();
        let [ours_mpps, dpdk_mpps] = self.medians(|run| Some(run.mpps));
        let [ours_cycles, dpdk_cycles] = self.medians(|run| run.cycles);
        let [ours_cpu, dpdk_cpu] = self.medians(|run| run.cpu);
        json!({
            "name": self.name,
            "ours_mpps": ours_mpps,
            "dpdk_mpps": dpdk_mpps,
            "ratio_median": ratios.median,
            "ratio_min": ratios.min,
            "ratio_max": ratios.max,
            "ours_cycles": ours_cycles,
            "dpdk_cycles": dpdk_cycles,
            "ours_cpu": ours_cpu,
            "dpdk_cpu": dpdk_cpu,
            "round_trip_ns": self.round_trip_ns(),
            "rounds": self.pairs.len(),
            "unsteady": self.unsteady(),
            "pairs": Value::from_iter(self.pairs.iter().map(Pair::json)),
        })
    }

    /// What [`json`](Self::json) gave; `None` if this is something else.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let pairs = value["pairs"].as_array()?.iter().map(Pair::from_json).collect::<Option<_>>()?;
        Some(Self { name: value["name"].as_str()?.to_owned(), pairs })
    }

    /// The rounds of another run of the same case, too.
    pub(crate) fn merge(&mut self, other: Self) {
        self.pairs.extend(other.pairs);
    }

    /// The last cells of each table's row.
    fn machine(&self) -> String {
        let mark = match self.unsteady() {
            0 => String::new(),
            count => format!(", {count} unsteady"),
        };
        format!("{:.0}{mark}", self.round_trip_ns())
    }
}

/// The rows as tables: those with packets, those without.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let (moving, idle): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.has_packets());
    let mut text = String::new();
    if !moving.is_empty() {
        text += "| | ours, Mpps | DPDK, Mpps | ratio, median | min | max | ours, cycles | DPDK, cycles | round trip, ns |\n\
                 |---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    }
    let number = |number: Option<f64>, digits: usize| number.map_or("–".to_owned(), |it| format!("{it:.digits$}"));
    for row in &moving {
        let [ours, dpdk] = row.medians(|run| Some(run.mpps));
        let [ours_cycles, dpdk_cycles] = row.medians(|run| run.cycles);
        let Ratios { median, min, max } = row.ratios();
        let cells = [
            row.name.clone(),
            number(ours, 3),
            number(dpdk, 3),
            format!("{median:.2} | {min:.2} | {max:.2}"),
            number(ours_cycles, 0),
            number(dpdk_cycles, 0),
            row.machine(),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    if !moving.is_empty() && !idle.is_empty() {
        text += "\n";
    }
    if !idle.is_empty() {
        text += "| | ours, % of a processor | DPDK | times less, median | min | max | round trip, ns |\n\
                 |---|---:|---:|---:|---:|---:|---:|\n";
    }
    for row in &idle {
        let [ours, dpdk] = row.medians(|run| run.cpu.map(|cpu| cpu * 100.0));
        let Ratios { median, min, max } = row.ratios();
        let cells = [
            row.name.clone(),
            number(ours, 2),
            number(dpdk, 2),
            format!("{median:.0} | {min:.0} | {max:.0}"),
            row.machine(),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// The middle one; of an even number, the mean of the two in the middle. Not a number if there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    f64::midpoint(values[last / 2], values[last.div_ceil(2)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ours: f64, dpdk: f64, trips: [f64; 4]) -> Pair {
        let sample =
            |mpps, round_trips_ns| Sample { run: Run { mpps, cycles: Some(100.0), cpu: None }, round_trips_ns };
        Pair { ours: sample(ours, [trips[0], trips[1]]), dpdk: sample(dpdk, [trips[2], trips[3]]) }
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert!(median([].into_iter()).is_nan());
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn a_pair_on_two_machines_is_seen() {
        assert!(pair(1.0, 1.0, [65.0, 66.0, 70.0, 130.0]).is_steady());
        assert!(!pair(1.0, 1.0, [65.0, 330.0, 66.0, 66.0]).is_steady());
        assert!(!pair(1.0, 1.0, [65.0, 66.0, 330.0, 330.0]).is_steady());
    }

    #[test]
    fn ratios_are_of_pairs_not_of_medians() {
        let mut row = Row::new("io".into());
        for (ours, dpdk) in [(2.0, 1.0), (9.0, 3.0), (8.0, 8.0)] {
            row.add(pair(ours, dpdk, [65.0; 4]));
        }
        let json = row.json();
        assert_eq!((json["ratio_median"].as_f64(), json["ours_mpps"].as_f64()), (Some(2.0), Some(8.0)));
        assert_eq!((json["ratio_min"].as_f64(), json["ratio_max"].as_f64()), (Some(1.0), Some(3.0)));
        assert!(json["ours_cpu"].is_null());
        assert!(markdown(&[row]).contains("| io | 8.000 | 3.000 | 2.00 | 1.00 | 3.00 | 100 | 100 | 65 |\n"));
    }

    #[test]
    fn rows_come_back_out_of_json() {
        let mut row = Row::new("io".into());
        row.add(pair(2.0, 1.0, [65.0, 66.0, 67.0, 68.0]));
        let mut back = Row::from_json(&row.json()).unwrap();
        assert_eq!(back.json(), row.json());
        back.merge(row);
        assert_eq!(back.json()["rounds"], 2);
        assert!(Row::from_json(&json!({ "name": "io" })).is_none());
    }

    #[test]
    fn idle_rows_have_a_table_of_their_own() {
        let sample = |cpu| Sample { run: Run { mpps: 0.0, cycles: None, cpu: Some(cpu) }, round_trips_ns: [65.0; 2] };
        let mut row = Row::new("idle".into());
        row.add(Pair { ours: sample(0.005), dpdk: sample(1.0) });
        assert_eq!(row.json()["ratio_median"].as_f64(), Some(200.0));
        assert!(row.json()["ours_cycles"].is_null());
        assert!(markdown(&[row]).ends_with("| idle | 0.50 | 100.00 | 200 | 200 | 200 | 65 |\n"));
    }
}
