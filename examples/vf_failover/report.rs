//! What came of it: for people, and as JSON for scripts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ends::{Common, Outcome};
use crate::flow::Counts;
use crate::picture::Told;
use crate::{Backend, Options};

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    backend: &'static str,
    seed: u64,
    cycles: u32,
    stream: Outcome,
    /// Both flows together; the gap is the longest.
    flows: Counts,
    lost_reported: u64,
    /// How long switches to the VF took, and those back; the fastest first.
    switches: [Vec<Duration>; 2],
    not_drained: u64,
    events_missed: u64,
    /// Where an interface of the kernel's vanishes, more is lost than is reported. Most likely the kernel drops what it was
    /// given for an interface that is being closed (`dev_direct_xmit`) and says that it was sent; it was not traced.
    loss_is_hidden: bool,
    wrong: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        cycles: u32,
        stream: Outcome,
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
            lost_reported: tale.lost,
            switches,
            not_drained: tale.not_drained,
            events_missed: tale.missed,
            loss_is_hidden: options.surprise && options.backend != Backend::Memory,
            wrong,
        }
    }

    fn hash_ok(&self) -> bool {
        self.stream.sent == self.stream.received
    }

    /// Whether all went as it should.
    pub(crate) fn is_good(&self) -> bool {
        self.hash_ok()
            && self.flows.duplicated == 0
            && self.flows.reordered == 0
            && (self.flows.lost <= self.lost_reported || self.loss_is_hidden)
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
            "sent": self.flows.sent,
            "lost": self.flows.lost,
            "lost_reported": self.lost_reported,
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
        write!(
            f,
            "\nflow: {sent} frames, {lost} lost ({} reported), {duplicated} duplicated, {reordered} reordered, longest gap {} µs",
            self.lost_reported,
            gap.as_micros()
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
