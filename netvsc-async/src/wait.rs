//! How a queue waits when there is nothing to receive.
//!
//! A look that finds nothing costs little; giving way to the runtime and being polled again costs many times that, since a worker
//! without other tasks looks at its timers and descriptors each time. So a receiver that looks again does so within its task for
//! a while first, as the kernel's `SO_BUSY_POLL` does ([`NicBuilder::busy_poll`](crate::NicBuilder::busy_poll)). It never does
//! when frames have just been taken: whoever took them may have to finish something before more come.

use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use netvsc::Instant;

use crate::clock::Clock;

/// How a queue waits for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitMode {
    /// Look again and again, giving way to other tasks of the runtime in between. Lowest latency, one whole core.
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
    /// 50 µs, the interval at which a host looks at a monitored channel; at most 1000 looks.
    fn default() -> Self {
        Self { time: Duration::from_micros(50), looks: 1000 }
    }
}

/// What [`NicBuilder::busy_poll`](crate::NicBuilder::busy_poll) is if nobody says.
pub(crate) const BUSY_POLL: Duration = Duration::from_micros(20);

/// Polls in a row that find nothing, after which a receiver that never sleeps gives way after each look: no frames came lately.
const DRY_POLLS: u32 = 64;

/// Looks between two readings of the clock, and for a unit of the task's budget.
const LOOKS_A_READING: u32 = 16;

/// Most looks of one poll, where time stands still.
const MOST_LOOKS: u32 = 1024;

/// What to do after a look that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look again at once.
    LookAgain,
    /// Let other tasks have their turn, then look again.
    GiveWay,
    Sleep,
}

/// One waiter's state.
#[derive(Debug)]
pub(crate) struct Waiter {
    mode: WaitMode,
    busy_poll: Duration,
    /// When the first look found nothing.
    since: Option<Instant>,
    /// Looks since then.
    looks: u32,
    /// Polls since then, without the one at hand.
    dry_polls: u32,
    /// Looks of this poll.
    looks_of_poll: u32,
    /// Until when this poll looks.
    until: Option<Instant>,
}

impl Waiter {
    pub(crate) fn new(mode: WaitMode, busy_poll: Duration) -> Self {
        Self { mode, busy_poll, since: None, looks: 0, dry_polls: 0, looks_of_poll: 0, until: None }
    }

    /// Something was found.
    #[inline]
    pub(crate) fn found(&mut self) {
        self.since = None;
        self.looks = 0;
        self.dry_polls = 0;
        self.begins();
    }

    /// The next look is the first of its poll.
    #[inline]
    fn begins(&mut self) {
        self.looks_of_poll = 0;
        self.until = None;
    }

    /// Nothing was found.
    pub(crate) fn empty(&mut self, cx: &mut Context<'_>, clock: &dyn Clock) -> Next {
        let next = self.after_look(cx, clock);
        if next != Next::LookAgain {
            self.dry_polls = self.dry_polls.saturating_add(1);
            self.begins();
        }
        next
    }

    fn after_look(&mut self, cx: &mut Context<'_>, clock: &dyn Clock) -> Next {
        let sleep = match self.mode {
            WaitMode::Poll => None,
            WaitMode::Interrupt => return Next::Sleep,
            WaitMode::Adaptive(budget) => Some(budget),
        };
        self.looks = self.looks.saturating_add(1);
        if sleep.is_some_and(|budget| self.looks > budget.looks) {
            return Next::Sleep;
        }
        // Not in the first poll after frames, and not if there were none for long.
        let stays = !self.busy_poll.is_zero() && (1..=DRY_POLLS).contains(&self.dry_polls);
        if sleep.is_none() && !stays {
            return Next::GiveWay;
        }
        let read = self.looks_of_poll.is_multiple_of(LOOKS_A_READING);
        self.looks_of_poll += 1;
        if !read {
            return Next::LookAgain;
        }
        let now = clock.now();
        let since = *self.since.get_or_insert(now);
        if sleep.is_some_and(|budget| now.saturating_since(since) >= budget.time) {
            return Next::Sleep;
        }
        if !stays || self.looks_of_poll > MOST_LOOKS || !has_budget(cx) {
            return Next::GiveWay;
        }
        if now < *self.until.get_or_insert(now + self.busy_poll) { Next::LookAgain } else { Next::GiveWay }
    }
}

/// Takes a unit of the task's budget, if there is one.
fn has_budget(cx: &mut Context<'_>) -> bool {
    pin!(tokio::task::consume_budget()).poll(cx).is_ready()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::task::Waker;

    struct Hand(Mutex<Duration>);

    impl Clock for Hand {
        fn now(&self) -> Instant {
            Instant::new(*self.0.lock().unwrap())
        }
    }

    /// What a poll does: its looks, and what they end with.
    fn poll(waiter: &mut Waiter, clock: &Hand, a_look: Duration) -> (u32, Next) {
        poll_in(&mut Context::from_waker(Waker::noop()), waiter, clock, a_look)
    }

    fn poll_in(cx: &mut Context<'_>, waiter: &mut Waiter, clock: &Hand, a_look: Duration) -> (u32, Next) {
        let mut looks = 0;
        loop {
            looks += 1;
            *clock.0.lock().unwrap() += a_look;
            match waiter.empty(cx, clock) {
                Next::LookAgain => {}
                next => return (looks, next),
            }
        }
    }

    fn stopped() -> Hand {
        Hand(Mutex::new(Duration::ZERO))
    }

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn adaptive_sleeps_after_its_time_or_its_looks() {
        let budget = SpinBudget { time: 10 * MICROSECOND, looks: 5 };
        let clock = stopped();
        let mut waiter = Waiter::new(WaitMode::Adaptive(budget), Duration::ZERO);
        assert_eq!(poll(&mut waiter, &clock, MICROSECOND), (1, Next::GiveWay));
        assert_eq!(poll(&mut waiter, &clock, 10 * MICROSECOND), (1, Next::Sleep), "time is up");
        waiter.found();
        for _ in 0..5 {
            assert_eq!(poll(&mut waiter, &clock, Duration::ZERO), (1, Next::GiveWay), "time stands still");
        }
        assert_eq!(poll(&mut waiter, &clock, Duration::ZERO), (1, Next::Sleep), "looks are up");

        let mut waiter = Waiter::new(WaitMode::Adaptive(budget), BUSY_POLL);
        assert_eq!(poll(&mut waiter, &clock, Duration::ZERO), (1, Next::GiveWay));
        assert_eq!(poll(&mut waiter, &clock, Duration::ZERO), (5, Next::Sleep), "all looks count");
        let budget = SpinBudget { looks: u32::MAX, ..budget };
        let mut waiter = Waiter::new(WaitMode::Adaptive(budget), BUSY_POLL);
        assert_eq!(poll(&mut waiter, &clock, MICROSECOND), (1, Next::GiveWay));
        assert_eq!(
            poll(&mut waiter, &clock, MICROSECOND),
            (LOOKS_A_READING + 1, Next::Sleep),
            "time is up while it looks"
        );

        for busy_poll in [Duration::ZERO, BUSY_POLL] {
            let mut waiter = Waiter::new(WaitMode::Interrupt, busy_poll);
            assert_eq!(poll(&mut waiter, &clock, Duration::ZERO), (1, Next::Sleep));
        }
    }

    #[test]
    fn a_receiver_gives_way_after_frames_and_when_there_were_none_for_long() {
        let clock = stopped();
        let mut waiter = Waiter::new(WaitMode::Poll, BUSY_POLL);
        for _ in 0..2 {
            waiter.found();
            assert_eq!(poll(&mut waiter, &clock, MICROSECOND), (1, Next::GiveWay), "what was taken is to be finished");
            for _ in 0..DRY_POLLS {
                let (looks, next) = poll(&mut waiter, &clock, MICROSECOND);
                assert_eq!(
                    (looks, next),
                    (2 * LOOKS_A_READING + 1, Next::GiveWay),
                    "20 µs, and the looks between readings"
                );
            }
            for _ in 0..10 {
                assert_eq!(poll(&mut waiter, &clock, MICROSECOND), (1, Next::GiveWay), "none for long");
            }
        }
        waiter.found();
        poll(&mut waiter, &clock, Duration::ZERO);
        let (looks, next) = poll(&mut waiter, &clock, Duration::ZERO);
        assert_eq!((looks, next), (MOST_LOOKS + 1, Next::GiveWay), "time stands still");
        let mut waiter = Waiter::new(WaitMode::Poll, Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(poll(&mut waiter, &clock, MICROSECOND), (1, Next::GiveWay), "not wished");
        }
    }

    #[tokio::test]
    async fn a_receiver_whose_task_has_used_its_budget_up_gives_way() {
        std::future::poll_fn(|cx| {
            let mut waiter = Waiter::new(WaitMode::Poll, BUSY_POLL);
            let clock = stopped();
            while has_budget(cx) {}
            for _ in 0..10 {
                assert_eq!(poll_in(cx, &mut waiter, &clock, MICROSECOND), (1, Next::GiveWay));
            }
            std::task::Poll::Ready(())
        })
        .await;
    }
}
