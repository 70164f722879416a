//! A numbered flow at a fixed rate: what is lost, comes twice, or comes late, and the longest time in which nothing came.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Frames a second.
const RATE: u32 = 2000;
/// How often the sender looks whether something is due.
const TICK: Duration = Duration::from_millis(1);
/// Frames under way at most: a machine that is busy with other things slows the flow down, and loses none of it.
const WINDOW: u64 = 128;
/// A frame that is not there after so long will not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a frame's payload.
pub(crate) const PAYLOAD: usize = 200;

/// What became of a flow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) gap: Duration,
}

impl Counts {
    /// Both flows together; the gap is the longest.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.gap = self.gap.max(other.gap);
    }
}

/// One flow: shared by its sender, its receiver, and who looks on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow(Arc<Mutex<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    /// Numbers that were sent: those below.
    sent: u64,
    /// The highest number that came, and one more.
    next: u64,
    /// Numbers below that did not come.
    missing: BTreeSet<u64>,
    duplicated: u64,
    reordered: u64,
    last: Option<Instant>,
    gap: Duration,
    /// Nothing more is sent: silence is no gap any more.
    over: bool,
}

impl Flow {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A payload came.
    pub(crate) fn received(&self, payload: &[u8]) {
        let Some(number) = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
        let mut numbers = self.numbers();
        let now = Instant::now();
        if let Some(last) = numbers.last.replace(now)
            && !numbers.over
        {
            numbers.gap = numbers.gap.max(now - last);
        }
        if number >= numbers.next {
            let skipped = numbers.next..number;
            numbers.missing.extend(skipped);
            numbers.next = number + 1;
        } else if numbers.missing.remove(&number) {
            numbers.reordered += 1;
        } else {
            numbers.duplicated += 1;
        }
    }

    /// Sends until told to stop, then waits for what is under way. `send` says whether a payload was taken.
    pub(crate) fn send_until(&self, stop: impl Fn() -> bool, mut send: impl FnMut(&[u8]) -> bool) {
        let start = Instant::now();
        let mut paused = Duration::ZERO;
        while !stop() {
            let due = (start.elapsed() - paused).as_micros() as u64 * u64::from(RATE) / 1_000_000;
            let before = Instant::now();
            while self.numbers().sent < due && !stop() {
                if !self.has_room() {
                    self.wait(&stop);
                    paused += before.elapsed();
                    break;
                }
                let number = self.numbers().sent;
                let mut payload = [0; PAYLOAD];
                payload[..8].copy_from_slice(&number.to_le_bytes());
                // Counted first: it may be there at once.
                self.numbers().sent += 1;
                while !send(&payload) {
                    std::thread::sleep(TICK);
                }
            }
            std::thread::sleep(TICK);
        }
        let all = || {
            let numbers = self.numbers();
            numbers.next >= numbers.sent
        };
        let (mut seen, mut since) = (self.numbers().next, Instant::now());
        while !all() && since.elapsed() < PATIENCE {
            std::thread::sleep(TICK);
            let next = self.numbers().next;
            if std::mem::replace(&mut seen, next) != next {
                since = Instant::now();
            }
        }
        self.numbers().over = true;
    }

    fn has_room(&self) -> bool {
        let numbers = self.numbers();
        numbers.sent < numbers.next + WINDOW
    }

    /// Waits for room, or until the frames under way must be lost.
    fn wait(&self, stop: &impl Fn() -> bool) {
        let since = Instant::now();
        while !self.has_room() && !stop() {
            if since.elapsed() > PATIENCE {
                let mut numbers = self.numbers();
                let lost = numbers.next..numbers.sent;
                numbers.missing.extend(lost);
                numbers.next = numbers.sent;
                return;
            }
            std::thread::sleep(TICK);
        }
    }

    /// What became of it so far. Frames under way count as lost once `at_end` is set.
    pub(crate) fn counts(&self, at_end: bool) -> Counts {
        let numbers = self.numbers();
        let under_way = if at_end { numbers.sent - numbers.next } else { 0 };
        Counts {
            sent: numbers.sent,
            lost: numbers.missing.len() as u64 + under_way,
            duplicated: numbers.duplicated,
            reordered: numbers.reordered,
            gap: numbers.gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(numbers: &[u64], sent: u64) -> (u64, u64, u64) {
        let flow = Flow::default();
        flow.numbers().sent = sent;
        numbers.iter().for_each(|number| flow.received(&number.to_le_bytes()));
        let Counts { lost, duplicated, reordered, .. } = flow.counts(true);
        (lost, duplicated, reordered)
    }

    #[test]
    fn each_fault_is_told_apart() {
        assert_eq!(counts_of(&[0, 1, 2, 3], 4), (0, 0, 0));
        assert_eq!(counts_of(&[0, 3], 5), (3, 0, 0));
        assert_eq!(counts_of(&[0, 1, 1, 0, 2], 3), (0, 2, 0));
        assert_eq!(counts_of(&[0, 2, 1, 3], 4), (0, 0, 1));
        assert_eq!(counts_of(&[2, 1, 1], 3), (1, 1, 1));
        assert_eq!(counts_of(&[], 2), (2, 0, 0));
    }

    #[test]
    fn a_sender_ends_when_all_have_come() {
        let flow = Flow::default();
        let stop = || flow.counts(false).sent >= 20;
        flow.send_until(stop, |payload| {
            flow.received(payload);
            true
        });
        let counts = flow.counts(true);
        assert!(counts.sent >= 20 && counts.lost == 0, "{counts:?}");
    }
}
