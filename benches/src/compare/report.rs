//! Rows, as table and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// Round trips that differ by more than this are of different machines.
const STEADY: f64 = 2.0;

/// What a run has shown.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Millions of packets a second; 0 in a run without packets.
    pub mpps: f64,
    /// Cycles a packet, if there were any.
    pub cycles: Option<f64>,
    /// Processors that were kept busy, where that counts.
    pub cpu: Option<f64>,
}

impl Run {
    /// Millions of packets a second and processor.
    fn mpps_of_one(&self) -> Option<f64> {
        self.cpu.filter(|cpu| self.mpps > 0.0 && *cpu > 0.0).map(|cpu| self.mpps / cpu)
    }
}

/// What a row's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Packets a second, of clients that have a processor each and poll.
    Rate,
    /// Packets a second of a processor's time.
    PerProcessor,
    /// A processor's time, without packets.
    Idle,
}

/// A run, and the machine before and after it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// What was measured.
    pub run: Run,
    /// Before and after.
    pub round_trips_ns: [f64; 2],
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
        if mpps > 0.0 {
            write!(f, "{mpps:.3} Mpps")?;
        }
        if let Some(cpu) = cpu {
            write!(f, "{}{:.2} % of a processor", if mpps > 0.0 { ", " } else { "" }, cpu * 100.0)?;
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
pub struct Pair {
    /// This project's.
    pub ours: Sample,
    /// DPDK's.
    pub dpdk: Sample,
}

impl Pair {
    /// Both ran on the same machine, as far as the round trips tell.
    pub fn is_steady(&self) -> bool {
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

    fn kind(&self) -> Kind {
        match self.ours.run {
            Run { cpu: None, .. } => Kind::Rate,
            Run { mpps, .. } if mpps > 0.0 => Kind::PerProcessor,
            _ => Kind::Idle,
        }
    }

    /// How many times better ours is: packets a second, or a second of a processor's; without packets, DPDK's share of a
    /// processor over ours.
    fn ratio(&self) -> f64 {
        let over = |ours: Option<f64>, theirs: Option<f64>| ours.zip(theirs).map_or(f64::NAN, |(a, b)| a / b);
        match self.kind() {
            Kind::Rate => self.ours.run.mpps / self.dpdk.run.mpps,
            Kind::PerProcessor => over(self.ours.run.mpps_of_one(), self.dpdk.run.mpps_of_one()),
            Kind::Idle => over(self.dpdk.run.cpu, self.ours.run.cpu),
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
pub struct Row {
    /// What is compared.
    pub name: String,
    pairs: Vec<Pair>,
}

/// What the rounds of a row show.
#[derive(Debug, Clone, Copy)]
pub struct Ratios {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Row {
    /// Without rounds.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, pairs: Vec::new() }
    }

    /// One more round.
    pub fn add(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }

    /// Whether packets were moved in it.
    #[must_use]
    pub fn has_packets(&self) -> bool {
        self.kind() != Kind::Idle
    }

    fn kind(&self) -> Kind {
        self.pairs.first().map_or(Kind::Rate, Pair::kind)
    }

    /// Of all rounds.
    #[must_use]
    pub fn ratios(&self) -> Ratios {
        let ratios = || self.pairs.iter().map(Pair::ratio);
        Ratios {
            median: median(ratios()),
            min: ratios().fold(f64::INFINITY, f64::min),
            max: ratios().fold(0.0, f64::max),
        }
    }

    /// Medians: ours, DPDK's. Nothing if no run has the number.
    pub fn medians(&self, number: impl Fn(&Run) -> Option<f64>) -> [Option<f64>; 2] {
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
    #[must_use]
    pub fn json(&self) -> Value {
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
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let pairs = value["pairs"].as_array()?.iter().map(Pair::from_json).collect::<Option<_>>()?;
        Some(Self { name: value["name"].as_str()?.to_owned(), pairs })
    }

    /// The rounds of another run of the same case, too.
    pub fn merge(&mut self, other: Self) {
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

/// The rows as tables, one for each kind.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let tables = [(Kind::Rate, RATES), (Kind::PerProcessor, PER_PROCESSOR), (Kind::Idle, IDLE)].map(|(kind, head)| {
        let lines: String = rows.iter().filter(|row| row.kind() == kind).map(Row::line).collect();
        if lines.is_empty() { lines } else { format!("{head}{lines}") }
    });
    tables.into_iter().filter(|table| !table.is_empty()).collect::<Vec<_>>().join("\n")
}

const RATES: &str = "\
| | ours, Mpps | DPDK, Mpps | ratio, median | min | max | ours, cycles | DPDK, cycles | round trip, ns |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
";
const PER_PROCESSOR: &str = "\
| | ours, Mpps | DPDK, Mpps | ours, processors | DPDK | ratio of Mpps a processor, median | min | max | ours, cycles | DPDK, cycles | round trip, ns |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";
const IDLE: &str = "\
| | ours, % of a processor | DPDK | times less, median | min | max | round trip, ns |
|---|---:|---:|---:|---:|---:|---:|
";

impl Row {
    /// A line of its table.
    fn line(&self) -> String {
        let number =
            |number: Option<f64>, digits: usize| number.map_or("–".to_owned(), |it| format!("{it:.digits$}"));
        let both =
            |[ours, dpdk]: [Option<f64>; 2], digits| format!("{} | {}", number(ours, digits), number(dpdk, digits));
        let Ratios { median, min, max } = self.ratios();
        let digits = if self.kind() == Kind::Idle { 0 } else { 2 };
        let mut cells = vec![self.name.clone()];
        if self.kind() != Kind::Idle {
            cells.push(both(self.medians(|run| Some(run.mpps)), 3));
        }
        match self.kind() {
            Kind::Rate => {}
            Kind::PerProcessor => cells.push(both(self.medians(|run| run.cpu), 2)),
            Kind::Idle => cells.push(both(self.medians(|run| run.cpu.map(|cpu| cpu * 100.0)), 2)),
        }
        cells.push(format!("{median:.digits$} | {min:.digits$} | {max:.digits$}"));
        if self.kind() != Kind::Idle {
            cells.push(both(self.medians(|run| run.cycles), 0));
        }
        cells.push(self.machine());
        format!("| {} |\n", cells.join(" | "))
    }
}

/// The middle one; of an even number, the mean of the two in the middle. Not a number if there are none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
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

    #[test]
    fn packets_of_a_processors_time_are_compared_where_both_are_known() {
        let sample = |mpps, cpu| Sample { run: Run { mpps, cycles: None, cpu: Some(cpu) }, round_trips_ns: [65.0; 2] };
        let mut row = Row::new("rxonly".into());
        row.add(Pair { ours: sample(0.5, 0.25), dpdk: sample(0.5, 1.0) });
        assert!(row.has_packets());
        let line = "| rxonly | 0.500 | 0.500 | 0.25 | 1.00 | 4.00 | 4.00 | 4.00 | – | – | 65 |\n";
        assert!(markdown(&[row]).ends_with(line));
    }
}
