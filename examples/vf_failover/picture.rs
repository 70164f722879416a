//! What there is to see while it runs: rates on both paths, events, losses.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netvsc::meta::Path;
use netvsc_async::{Event, Events};

use crate::flow::Counts;

/// Events that are shown.
const SHOWN: usize = 8;

/// What was told by events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Tale>>);

/// The sums of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tale {
    /// How long each switch to the VF took, and each back.
    pub(crate) to_vf: Vec<Duration>,
    pub(crate) to_synthetic: Vec<Duration>,
    /// Switches before which the old path was not empty.
    pub(crate) not_drained: u64,
    /// Frames reported lost.
    pub(crate) lost: u64,
    /// Events that were missed: the sums are too small then.
    pub(crate) missed: u64,
    lines: Vec<String>,
}

impl Told {
    /// Reads events to their end.
    pub(crate) async fn read(self, mut events: Events) {
        let start = Instant::now();
        while let Some(event) = events.next().await {
            let mut tale = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &event {
                Event::DatapathSwitched { to, drained, took } => {
                    tale.not_drained += u64::from(!drained);
                    match to {
                        Path::VirtualFunction => tale.to_vf.push(*took),
                        _ => tale.to_synthetic.push(*took),
                    }
                }
                Event::VfLost { frames } => tale.lost += frames,
                Event::Missed(events) => tale.missed += events,
                _ => {}
            }
            tale.lines.push(format!("{:9.3} s  {event:?}", start.elapsed().as_secs_f64()));
        }
    }

    /// So far.
    pub(crate) fn tale(&self) -> Tale {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines since the last call.
    fn news(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).lines)
    }
}

/// What has gone by each path, both ways.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) synthetic_packets: u64,
    pub(crate) synthetic_bytes: u64,
    pub(crate) vf_packets: u64,
    pub(crate) vf_bytes: u64,
}

/// The picture: drawn again and again in a terminal, printed line by line elsewhere.
#[derive(Debug)]
pub(crate) struct Picture {
    redraws: bool,
    drawn: bool,
    last: (Instant, Traffic),
    recent: Vec<String>,
}

impl Picture {
    pub(crate) fn new() -> Self {
        let redraws = std::io::stdout().is_terminal();
        Self { redraws, drawn: false, last: (Instant::now(), Traffic::default()), recent: Vec::new() }
    }

    /// Shows how things are. A script's reader is none of a picture's.
    pub(crate) fn show(&mut self, traffic: Traffic, stream_bytes: u64, told: &Told, flows: &[Counts]) {
        let seconds = self.last.0.elapsed().as_secs_f64().max(1e-9);
        let before = std::mem::replace(&mut self.last, (Instant::now(), traffic)).1;
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let path = |name: &str, packets: f64, bytes: f64| {
            format!("{name:<10} {packets:>10.0} packets/s {:>9.3} Gbit/s", bytes * 8.0 / 1e9)
        };
        let sum = |of: fn(&Counts) -> u64| flows.iter().map(of).sum::<u64>();
        let tale = told.tale();
        let summary = [
            path(
                "synthetic",
                rate(traffic.synthetic_packets, before.synthetic_packets),
                rate(traffic.synthetic_bytes, before.synthetic_bytes),
            ),
            path("vf", rate(traffic.vf_packets, before.vf_packets), rate(traffic.vf_bytes, before.vf_bytes)),
            format!(
                "switches {}, tcp {stream_bytes} bytes, frames {}: lost {}, reported lost {}, duplicated {}, reordered {}",
                tale.to_vf.len() + tale.to_synthetic.len(),
                sum(|flow| flow.sent),
                sum(|flow| flow.lost),
                tale.lost,
                sum(|flow| flow.duplicated),
                sum(|flow| flow.reordered)
            ),
        ];
        let news = told.news();
        let mut out = String::new();
        if self.redraws {
            self.recent.extend(news);
            let old = self.recent.len().saturating_sub(SHOWN);
            self.recent.drain(..old);
            if std::mem::replace(&mut self.drawn, true) {
                // Up to where it began.
                out += &format!("\x1b[{}F", summary.len() + SHOWN);
            }
            let events = self.recent.iter().map(String::as_str).chain(std::iter::repeat("")).take(SHOWN);
            for line in summary.iter().map(String::as_str).chain(events) {
                out += &format!("{line}\x1b[K\n");
            }
        } else {
            news.iter().for_each(|line| out += &format!("{line}\n"));
            out += &format!("{}\n", summary.join("; "));
        }
        let mut stdout = std::io::stdout().lock();
        // Nobody looks any more: the numbers at the end are what counts.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}
