//! What was told while it ran: by the driver's events, and by the host of what it did.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netvsc::meta::Path;
use netvsc_async::{Event, Events};
use netvsc_host::vf::Step;
use nvsp::DataPath;

/// Lines that wait to be shown, at most: beyond, the oldest are forgotten.
const WAITING: usize = 1024;

/// What was told so far. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    start: Instant,
    tale: Arc<Mutex<Tale>>,
}

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
    news: VecDeque<News>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) by: By,
    pub(crate) text: String,
}

/// Who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Host,
    Driver,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            By::Host => "host",
            By::Driver => "driver",
        };
        write!(f, "{:8.3} s  {by:<6}  {}", self.at.as_secs_f64(), self.text)
    }
}

impl Default for Told {
    fn default() -> Self {
        Self { start: Instant::now(), tale: Arc::default() }
    }
}

impl Told {
    /// Reads events to their end.
    pub(crate) async fn read(self, mut events: Events) {
        while let Some(event) = events.next().await {
            let mut tale = self.lock();
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
            if let Some(text) = in_words(&event) {
                tale.add(News { at: self.elapsed(), by: By::Driver, text });
            }
        }
    }

    /// The host has done this.
    pub(crate) fn done(&self, step: Step) {
        self.lock().add(News { at: self.elapsed(), by: By::Host, text: step.to_string() });
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// So far.
    pub(crate) fn tale(&self) -> Tale {
        self.lock().clone()
    }

    /// What is new since the last call.
    pub(crate) fn news(&self) -> Vec<News> {
        self.lock().news.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Tale> {
        self.tale.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tale {
    fn add(&mut self, news: News) {
        if self.news.len() == WAITING {
            self.news.pop_front();
        }
        self.news.push_back(news);
    }
}

/// `None` for what another event says as well.
fn in_words(event: &Event) -> Option<String> {
    Some(match event {
        Event::VfAssociated(_) | Event::VfRemoved(_) => return None,
        Event::VfOffered { serial } => format!("vf {serial} offered"),
        Event::VfRevoked { serial } => format!("vf {serial} taken back"),
        Event::HostMovedTraffic(path) => {
            let by_vf = *path == DataPath::VF;
            format!("the host moved the traffic to the {}", if by_vf { "vf" } else { "synthetic path" })
        }
        Event::VfUp => "vf open, its link is up".into(),
        Event::VfDown => "vf's link is down".into(),
        Event::VfNotUsable => "vf cannot be opened yet".into(),
        Event::DatapathSwitched { to, drained, took } => {
            let to = if *to == Path::VirtualFunction { "vf" } else { "synthetic path" };
            let order = if *drained { "" } else { ", before the old path was empty" };
            format!("frames go by the {to}, {} later{order}", crate::picture::time(*took))
        }
        Event::VfLost { frames } => format!("vf lost, {frames} frames were inside"),
        Event::VfReceivedLost { frames } => format!("{frames} received frames lost with the vf"),
        Event::VfUnavailable(why) => format!("no vf can be used: {why}"),
        Event::Missed(events) => format!("{events} events missed"),
        other => format!("{other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_reads_as_one_line() {
        let told = Told::default();
        told.done(Step::Revoke);
        told.done(Step::Plug { serial: 7 });
        let mut news = told.news();
        assert_eq!(told.news(), []);
        news.iter_mut().for_each(|news| news.at = Duration::from_millis(61_234));
        assert_eq!(news[0].to_string(), "  61.234 s  host    vf revoked");
        assert_eq!(news[1].to_string(), "  61.234 s  host    vf 7 plugged in");
        let took = Duration::from_micros(511);
        let event = Event::DatapathSwitched { to: Path::VirtualFunction, drained: true, took };
        assert_eq!(in_words(&event).as_deref(), Some("frames go by the vf, 511 µs later"));
        let event = Event::DatapathSwitched { to: Path::Synthetic, drained: false, took };
        let said = "frames go by the synthetic path, 511 µs later, before the old path was empty";
        assert_eq!(in_words(&event).as_deref(), Some(said));
    }

    #[test]
    fn news_that_nobody_reads_are_bounded() {
        let told = Told::default();
        (0..2 * WAITING as u32).for_each(|serial| told.done(Step::Plug { serial }));
        let news = told.news();
        assert_eq!(news.len(), WAITING);
        assert!(news.last().is_some_and(|news| news.text.starts_with("vf 2047 ")), "{:?}", news.last());
    }
}
