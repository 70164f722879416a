//! When to look again: a while spinning, then asleep, with growing intervals.
//!
//! A client signals by a bit in shared memory, which wakes nobody. While frames flow nothing is lost by spinning; when
//! they stop, the page is looked at about as often as a hypervisor does (50 to 100 µs), and after a second of silence every
//! millisecond. Without a client there is nothing to look at: a socket wakes.

use std::time::Duration;

/// Looks without pause.
const SPIN: Duration = Duration::from_micros(20);
/// Looks, but lets others run between: the client may need this very processor.
const YIELD: Duration = Duration::from_micros(200);
const SHORT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_micros(50));
const MIDDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_micros(100));
const LONG: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Pace {
    last_work: Duration,
    next_timeout: Option<Duration>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { last_work: Duration::ZERO, next_timeout: None }
    }

    pub(super) fn stepped(&mut self, now: Duration, worked: bool, next_timeout: Option<Duration>) {
        if worked {
            self.last_work = now;
        }
        self.next_timeout = next_timeout;
    }

    /// How long to sleep; `None` if not at all. Not beyond `until`.
    pub(super) fn nap(&self, now: Duration, until: Duration, client: bool) -> Option<Duration> {
        let idle = now.saturating_sub(self.last_work);
        if idle < YIELD && client {
            if idle < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            return None;
        }
        let until = self.next_timeout.map_or(until, |at| at.min(until));
        let left = until.checked_sub(now).filter(|left| !left.is_zero())?;
        let interval = match idle {
            _ if !client => left,
            idle if idle < SHORT.0 => SHORT.1,
            idle if idle < MIDDLE.0 => MIDDLE.1,
            _ => LONG,
        };
        Some(interval.min(left))
    }
}

/// Has the kernel wake this thread when it asked for it, and not up to 50 µs later.
pub(super) fn sleep_exactly() {
    if let Some(nanosecond) = std::num::NonZeroU64::new(1) {
        // Refused: then sleeps are a little longer.
        let _ = rustix::thread::set_current_timer_slack(Some(nanosecond));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn sleeps_grow_with_the_silence() {
        let mut pace = Pace::new();
        pace.stepped(micros(1000), true, None);
        let far = Duration::from_secs(100);
        let nap = |after: u64| pace.nap(micros(1000 + after), far, true);
        assert_eq!(nap(10), None);
        assert_eq!(nap(100), None);
        assert_eq!(nap(300), Some(micros(50)));
        assert_eq!(nap(20_000), Some(micros(100)));
        assert_eq!(nap(2_000_000), Some(micros(1000)));
        assert_eq!(pace.nap(micros(1010), far, false), Some(far - micros(1010)), "nobody to look for");
    }

    #[test]
    fn what_is_due_is_not_slept_over() {
        let mut pace = Pace::new();
        pace.stepped(micros(0), true, Some(micros(2_000_010)));
        assert_eq!(pace.nap(micros(2_000_000), micros(9_000_000), true), Some(micros(10)));
        assert_eq!(pace.nap(micros(2_000_010), micros(9_000_000), true), None);
        assert_eq!(pace.nap(micros(2_000_000), micros(2_000_003), true), Some(micros(3)));
    }
}
