//! What came of it: for people, and as JSON for scripts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ends::{Common, Generated, Outcome};
use crate::flow::Counts;
use crate::picture::Told;
use crate::{Losses, Options};

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    backend: &'static str,
    seed: u64,
    cycles: u32,
    stream: Outcome,
    /// Both flows together; the gap is the longest.
    flows: Counts,
    losses: Losses,
    /// Frames that the driver's events tell of.
    lost_told: u64,
    /// How long switches to the VF took, and those back; the fastest first.
    switches: [Vec<Duration>; 2],
    not_drained: u64,
    events_missed: u64,
    wrong: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        cycles: u32,
        stream: Outcome,
        losses: Losses,
        common: &Common,
        told: &Told,
        wrong: Vec<String>,
    ) -> Self {
        let mut flows = Counts::default();
        for counts in common.flows.iter().map(|flow| flow.counts(true)) {
            flows.sent += counts.sent;
            flows.lost += counts.lost;
            flows.duplicated += counts.duplicated;
            flows.reordered += counts.reordered;
            flows.gap = flows.gap.max(counts.gap);
        }
        let tale = told.tale();
        let mut switches = [tale.to_vf, tale.to_synthetic];
        switches.iter_mut().for_each(|took| took.sort_unstable());
        Self {
            backend: options.backend.name(),
            seed: options.seed,
            cycles,
            stream,
            flows,
            losses,
            lost_told: tale.lost,
            switches,
            not_drained: tale.not_drained,
            events_missed: tale.missed,
            wrong,
        }
    }

    fn hash_ok(&self) -> bool {
        self.stream.sent == self.stream.received
    }

    /// Frames that are known to be lost: by the driver those that it has sent, by the host those that it has.
    fn lost_reported(&self) -> u64 {
        self.lost_told + self.losses.inside.to_guest
    }

    /// Whether all went as it should.
    pub(crate) fn is_good(&self) -> bool {
        self.hash_ok()
            && self.flows.duplicated == 0
            && self.flows.reordered == 0
            && self.losses.frames == self.lost_reported()
            && self.losses.inside.from_guest == self.lost_told
            && self.flows.lost <= self.losses.frames
            && self.wrong.is_empty()
    }

    /// Of all switches.
    fn all_switches(&self) -> Vec<Duration> {
        let mut all = self.switches.concat();
        all.sort_unstable();
        all
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let all = self.all_switches();
        let [to_vf, to_synthetic] = &self.switches;
        json!({
            "backend": self.backend,
            "seed": self.seed,
            "cycles": self.cycles,
            "tcp_bytes": self.stream.received.bytes,
            "hash_ok": self.hash_ok(),
            "tcp_retransmissions": self.stream.retransmissions,
            "iperf3_runs": self.stream.generated.map(|generated| generated.runs),
            "iperf3_bytes": self.stream.generated.map(|generated| generated.bytes),
            "iperf3_retransmissions": self.stream.generated.map(|generated| generated.retransmissions),
            "sent": self.flows.sent,
            "lost": self.losses.frames,
            "lost_reported": self.lost_reported(),
            "lost_by_guest": self.losses.inside.from_guest,
            "lost_by_guest_reported": self.lost_told,
            "lost_by_host_reported": self.losses.inside.to_guest,
            "flow_lost": self.flows.lost,
            "duplicated": self.flows.duplicated,
            "reordered": self.flows.reordered,
            "switches": all.len(),
            "switches_not_drained": self.not_drained,
            "switch_us_median": median(&all),
            "switch_us_max": slowest(&all),
            "to_vf_us_median": median(to_vf),
            "to_synthetic_us_median": median(to_synthetic),
            "gap_us_max": self.flows.gap.as_micros() as u64,
            "events_missed": self.events_missed,
            "clean": self.wrong.is_empty(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { sent, lost, duplicated, reordered, gap } = self.flows;
        writeln!(f, "{} cycles", self.cycles)?;
        for (to, switches) in ["vf", "synthetic"].iter().zip(&self.switches) {
            let (count, median, most) = (switches.len(), median(switches), slowest(switches));
            writeln!(f, "{count} switches to {to}: {median} µs in the median, {most} µs at most")?;
        }
        let same = if self.hash_ok() { "as they were sent" } else { "NOT as they were sent" };
        write!(f, "tcp: {} bytes arrived, {same}", self.stream.received.bytes)?;
        if let Some(segments) = self.stream.retransmissions {
            write!(f, ", {segments} segments sent again")?;
        }
        if let Some(generated) = self.stream.generated {
            let Generated { runs, bytes, retransmissions } = generated;
            write!(f, "\niperf3: {runs} runs, {bytes} bytes arrived, {retransmissions} segments sent again")?;
        }
        let gap = gap.as_micros();
        write!(
            f,
            "\nflow: {sent} frames, {lost} lost, {duplicated} duplicated, {reordered} reordered, longest gap {gap} µs"
        )?;
        let Losses { frames, inside } = self.losses;
        write!(
            f,
            "\nall: {frames} frames lost, {} reported: by the driver {} of {} that it had sent, by the host {}",
            self.lost_reported(),
            self.lost_told,
            inside.from_guest,
            inside.to_guest
        )?;
        self.wrong.iter().try_for_each(|wrong| write!(f, "\n{wrong}"))
    }
}

/// In microseconds; of durations in their order.
fn median(sorted: &[Duration]) -> u64 {
    sorted.get(sorted.len() / 2).map_or(0, |took| took.as_micros() as u64)
}

fn slowest(sorted: &[Duration]) -> u64 {
    sorted.last().map_or(0, |took| took.as_micros() as u64)
}
