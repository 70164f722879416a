//! What came of it: for people, and as JSON for scripts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ends::{Common, Generated, Outcome};
use crate::flow::Counts;
use crate::picture::time;
use crate::told::Told;
use crate::{Losses, Options};

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    backend: &'static str,
    seed: u64,
    surprise: bool,
    /// All of that, for people.
    what: String,
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
        common.flows.iter().for_each(|flow| flows.add(flow.counts(true)));
        let tale = told.tale();
        let mut switches = [tale.to_vf, tale.to_synthetic];
        switches.iter_mut().for_each(|took| took.sort_unstable());
        Self {
            backend: options.backend.name(),
            seed: options.seed,
            surprise: options.surprise,
            what: options.to_string(),
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
        self.faults().is_empty()
    }

    /// What did not go as it should.
    fn faults(&self) -> Vec<String> {
        let Self { stream, flows, losses, lost_told, cycles, .. } = self;
        let (lost, reported) = (losses.frames, self.lost_reported());
        let [_, back] = &self.switches;
        let again = stream.retransmissions.unwrap_or_default();
        let mut faults = Vec::new();
        let mut check = |is_good: bool, fault: String| {
            if !is_good {
                faults.push(fault);
            }
        };
        check(self.hash_ok(), "the stream did not arrive as it was sent".into());
        check(flows.duplicated == 0, format!("{} frames were duplicated", flows.duplicated));
        check(flows.reordered == 0, format!("{} frames were reordered", flows.reordered));
        check(lost == reported, format!("{lost} frames were lost, {reported} reported"));
        let from_guest = losses.inside.from_guest;
        check(
            from_guest == *lost_told,
            format!("{from_guest} frames of the driver's were lost, it told of {lost_told}"),
        );
        check(flows.lost <= lost, format!("the numbered flows lost {} of {lost} frames", flows.lost));
        check(self.surprise || lost == 0, format!("{lost} frames were lost, and no device vanished"));
        check(self.surprise || again == 0, format!("tcp sent {again} segments again, and no device vanished"));
        // Of a way there that is revoked at once nothing is told.
        let left = back.len();
        check(left >= *cycles as usize, format!("the vf was left {left} times in {cycles} cycles"));
        self.wrong.iter().for_each(|wrong| check(false, wrong.clone()));
        faults
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let [to_vf, to_synthetic] = &self.switches;
        json!({
            "backend": self.backend,
            "seed": self.seed,
            "surprise": self.surprise,
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
            "switches": to_vf.len() + to_synthetic.len(),
            "switches_not_drained": self.not_drained,
            // To the VF. On the way back the rings are open already, and there is nothing to wait for.
            "switch_us_median": median(to_vf),
            "switch_us_max": slowest(to_vf),
            "switch_back_us_median": median(to_synthetic),
            "switch_back_us_max": slowest(to_synthetic),
            "gap_us_max": self.flows.gap.as_micros() as u64,
            "events_missed": self.events_missed,
            "clean": self.wrong.is_empty(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [to_vf, back] = self.switches.each_ref().map(|switches| {
            let micros = |micros| time(Duration::from_micros(micros));
            format!("{}, median {}, longest {}", switches.len(), micros(median(switches)), micros(slowest(switches)))
        });
        writeln!(f, "cycles            {}: {}", self.cycles, self.what)?;
        writeln!(f, "switches to vf    {to_vf}")?;
        writeln!(f, "switches back     {back}")?;
        let same = if self.hash_ok() { "as they were sent" } else { "not as they were sent" };
        write!(f, "tcp               {} bytes arrived, {same}", self.stream.received.bytes)?;
        if let Some(segments) = self.stream.retransmissions {
            write!(f, "; {segments} segments sent again")?;
        }
        if let Some(generated) = self.stream.generated {
            let Generated { runs, bytes, retransmissions } = generated;
            write!(f, "\niperf3            {runs} runs, {bytes} bytes arrived; {retransmissions} segments sent again")?;
        }
        let Counts { sent, lost, duplicated, reordered, gap } = self.flows;
        writeln!(f)?;
        writeln!(f, "numbered frames   {sent}: {lost} lost, {duplicated} duplicated, {reordered} reordered")?;
        writeln!(f, "longest silence   {}", time(gap))?;
        let Losses { frames, inside } = self.losses;
        writeln!(f, "lost, of all      {frames}")?;
        let (told, sent, host) = (self.lost_told, inside.from_guest, inside.to_guest);
        writeln!(f, "reported lost     {}: by the driver {told} of {sent}, by the host {host}", self.lost_reported())?;
        let faults = self.faults();
        if faults.is_empty() {
            return f.write_str("all as it should be");
        }
        f.write_str("not as it should be:")?;
        faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// In microseconds; of durations in their order.
fn median(sorted: &[Duration]) -> u64 {
    sorted.get(sorted.len() / 2).map_or(0, |took| took.as_micros() as u64)
}

fn slowest(sorted: &[Duration]) -> u64 {
    sorted.last().map_or(0, |took| took.as_micros() as u64)
}
