//! How a queue waits when there is nothing to receive.

use std::time::Duration;

use netvsc::Instant;

use crate::clock::Clock;

/// How a queue waits for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitMode {
    /// Look again and again, giving way to other tasks of the runtime between looks. Lowest latency, one whole core.
    /// Never goes idle: not for a runtime with paused time.
    Poll,
    /// Sleep until the host interrupts. Idle costs nothing; waking up costs microseconds.
    Interrupt,
    /// Look again for a while, then sleep.
    Adaptive(SpinBudget),
}

impl Default for WaitMode {
    /// [`Adaptive`](Self::Adaptive) with the default budget.
    fn default() -> Self {
        Self::Adaptive(SpinBudget::default())
    }
}

/// How long [`WaitMode::Adaptive`] looks before it sleeps: whichever ends first.
///
/// The number of looks bounds the wait where time stands still (a paused runtime never gets idle while a task spins).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpinBudget {
    /// Time since the last frame.
    pub time: Duration,
    /// Looks since the last frame.
    pub looks: u32,
}

impl Default for SpinBudget {
    /// 50 µs, the interval at which a host looks at a monitored channel; at most 200 looks.
    fn default() -> Self {
        Self { time: Duration::from_micros(50), looks: 200 }
    }
}

/// What to do after a look that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    LookAgain,
    Sleep,
}

/// One waiter's state.
#[derive(Debug)]
pub(crate) struct Waiter {
    mode: WaitMode,
    since: Option<Instant>,
    looks: u32,
}

impl Waiter {
    pub(crate) fn new(mode: WaitMode) -> Self {
        Self { mode, since: None, looks: 0 }
    }

    /// Something was found.
    pub(crate) fn found(&mut self) {
        self.since = None;
        self.looks = 0;
    }

    /// Nothing was found.
    pub(crate) fn empty(&mut self, clock: &dyn Clock) -> Next {
        let budget = match self.mode {
            WaitMode::Poll => return Next::LookAgain,
            WaitMode::Interrupt => return Next::Sleep,
            WaitMode::Adaptive(budget) => budget,
        };
        self.looks = self.looks.saturating_add(1);
        if self.looks > budget.looks {
            return Next::Sleep;
        }
        let now = clock.now();
        let since = *self.since.get_or_insert(now);
        if now.saturating_since(since) >= budget.time { Next::Sleep } else { Next::LookAgain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Hand(Mutex<Duration>);

    impl Clock for Hand {
        fn now(&self) -> Instant {
            Instant::new(*self.0.lock().unwrap())
        }
    }

    #[test]
    fn adaptive_sleeps_after_its_time_or_its_looks() {
        let clock = Hand(Mutex::new(Duration::ZERO));
        let budget = SpinBudget { time: Duration::from_micros(10), looks: 5 };
        let mut waiter = Waiter::new(WaitMode::Adaptive(budget));
        assert_eq!(waiter.empty(&clock), Next::LookAgain);
        *clock.0.lock().unwrap() = Duration::from_micros(10);
        assert_eq!(waiter.empty(&clock), Next::Sleep, "time is up");
        waiter.found();
        for _ in 0..5 {
            assert_eq!(waiter.empty(&clock), Next::LookAgain, "time stands still");
        }
        assert_eq!(waiter.empty(&clock), Next::Sleep, "looks are up");
        assert_eq!(Waiter::new(WaitMode::Interrupt).empty(&clock), Next::Sleep);
        assert_eq!(Waiter::new(WaitMode::Poll).empty(&clock), Next::LookAgain);
    }
}
