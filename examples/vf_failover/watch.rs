//! Who looks on while it runs: takes the picture ten times a second, and shows it in a terminal or tells it line by line. Who
//! interrupts it still gets a report.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::appliance::Appliance;
use crate::ends::Common;
use crate::flow::Counts;
use crate::picture::{Now, Picture, SAMPLES_A_SECOND};
#[cfg(unix)]
use crate::terminal::{self, Screen};
use crate::told::Told;

/// Between two samples.
const TICK: Duration = Duration::from_millis(1000 / SAMPLES_A_SECOND as u64);
/// Ticks between two lines.
const TICKS_A_LINE: u32 = SAMPLES_A_SECOND as u32;

/// Looks on, until it is dropped.
pub(crate) struct Watch {
    told: Told,
    common: Common,
    cycles: Arc<AtomicU32>,
    picture: Picture,
    ticks: u32,
    #[cfg(unix)]
    screen: Option<Screen>,
}

impl Watch {
    pub(crate) fn new(picture: Picture, told: &Told, common: &Common) -> Self {
        Self {
            told: told.clone(),
            common: common.clone(),
            cycles: Arc::default(),
            picture,
            ticks: 0,
            #[cfg(unix)]
            screen: Screen::enter(),
        }
    }

    /// Counts cycles.
    pub(crate) fn cycles(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.cycles)
    }

    /// Looks on while `work` is done. `doing` says what that is.
    pub(crate) async fn during<T>(
        &mut self,
        appliance: &Appliance,
        doing: impl Fn() -> &'static str,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        // A sample that came late is followed by one at its time.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.look(appliance, doing()),
                done = &mut work => {
                    self.look(appliance, doing());
                    return done;
                }
            }
        }
    }

    fn look(&mut self, appliance: &Appliance, doing: &'static str) {
        let (tale, mut flows) = (self.told.tale(), Counts::default());
        self.common.flows.iter().for_each(|flow| flows.add(flow.counts(false)));
        let now = Now {
            elapsed: self.told.elapsed(),
            doing,
            cycles: self.cycles.load(Ordering::Relaxed),
            traffic: appliance.traffic(),
            tcp_bytes: self.common.arrived(),
            flows,
            switches: [tale.to_vf.len(), tale.to_synthetic.len()],
            reported: tale.lost,
        };
        let news = self.told.news();
        #[cfg(unix)]
        if let Some(screen) = &self.screen {
            self.picture.update(now, news);
            screen.show(&self.picture.lines(screen.size()));
            return;
        }
        news.iter().for_each(|news| eprintln!("{news}"));
        self.picture.update(now, news);
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_A_LINE) {
            eprintln!("{}", self.picture.line());
        }
    }
}

/// Whether somebody wants it to end: at the first signal in good order, at the second one at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Listens from now on, to the end of the runtime.
    ///
    /// # Errors
    /// If that is not possible.
    #[cfg(unix)]
    pub(crate) fn listen(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};

        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let (mut signals, came) = (signal(kind)?, Arc::clone(&self.0));
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if came.swap(kind.as_raw_value(), Ordering::Relaxed) != 0 {
                        terminal::leave();
                        std::process::exit(128 + kind.as_raw_value());
                    }
                }
            });
        }
        Ok(())
    }

    #[cfg(not(unix))]
    pub(crate) fn listen(&self) -> std::io::Result<()> {
        Ok(())
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// As shells say that a signal ended a program.
    pub(crate) fn exit_status(&self) -> Option<u8> {
        let signal = self.0.load(Ordering::Relaxed);
        u8::try_from(128 + signal).ok().filter(|_| signal != 0)
    }
}
