//! Traffic generator: numbered, checksummed frames at a steady rate, and the check of what comes back.
//!
//! Each frame carries a header after the Ethernet one, big endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 14 | 4 | `nvsg` |
//! | 18 | 4 | stream |
//! | 22 | 8 | sequence number, from 0 |
//! | 30 | 4 | checksum of everything from the Ethernet type on, itself left out (FNV-1a) |
//! | 34 | … | filling, one of 61 by the sequence number |
//!
//! The addresses are not covered, so that a station that swaps them returns a good frame.

mod check;
mod config;

use core::task::Waker;
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use check::GeneratorStats;
pub use config::{GeneratorConfig, InvalidGenerator};

use super::{Frame, Port};
use check::{Checker, Prepared, read_header};

/// Frames that are prepared, so that one is sent with little more than its number written. More than a burst has, and prime: a
/// ring or a buffer whose places come round after any other number of frames does not bring two of the same filling together.
const PREPARED: u64 = 61;

/// The generator as a port of the switch.
///
/// ```
/// use core::time::Duration;
/// use netvsc_host::port::{GeneratorConfig, GeneratorPort, LoopbackPort, Port};
/// use netvsc_host::switch::{PortOptions, Switch};
///
/// let config = GeneratorConfig::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).packets_per_second(1000).count(10);
/// let (port, generator) = GeneratorPort::new(config)?;
/// let mut switch = Switch::<Box<dyn Port>>::default();
/// switch.add_port(Box::new(port), PortOptions::trunk())?;
/// switch.add_port(Box::new(LoopbackPort::new()), PortOptions::trunk())?;
/// for millisecond in 0..20 {
///     switch.poll(Duration::from_millis(millisecond), 64);
/// }
/// let stats = generator.stats();
/// assert_eq!((stats.sent, stats.received, stats.lost(), stats.corrupt), (10, 10, 0, 0));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GeneratorPort {
    config: GeneratorConfig,
    shared: Arc<Mutex<Shared>>,
    /// [`PREPARED`] of them, used in turn.
    frames: Vec<Prepared>,
}

impl GeneratorPort {
    /// A generator and the handle to watch it by. It starts with its first poll.
    ///
    /// # Errors
    ///
    /// [`InvalidGenerator`] if the frame is too short for the generator's header or the rate is 0.
    pub fn new(config: GeneratorConfig) -> Result<(Self, GeneratorHandle), InvalidGenerator> {
        config.check()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let handle = GeneratorHandle { shared: Arc::clone(&shared) };
        let frames = (0..PREPARED).map(|filling| Prepared::new(&config, filling)).collect();
        Ok((Self { config, shared, frames }, handle))
    }

    /// Frames that may be sent until `now`, of those not sent yet.
    fn due(&self, shared: &Shared, now: Duration) -> u64 {
        let left = self.config.count.map_or(u64::MAX, |count| count.saturating_sub(shared.sent_in_all));
        let Some(rate) = self.config.packets_per_second else {
            return left;
        };
        let Some(pace) = shared.pace else {
            return left.min(1);
        };
        // The first frame goes out at once, the n-th after n / rate.
        let elapsed = now.saturating_sub(pace.since).as_nanos();
        let until_now = elapsed.saturating_mul(u128::from(rate)) / NANOS_PER_SECOND + 1;
        left.min(u64::try_from(until_now).unwrap_or(u64::MAX).saturating_sub(pace.sent))
    }
}

impl Port for GeneratorPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let mut shared = lock(&self.shared);
        match read_header(frame.bytes) {
            Some(header) if header.stream == self.config.receive_stream => {
                shared.checker.see(header.sequence, header.intact);
            }
            _ => shared.checker.see_foreign(),
        }
        true
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        let (first, count) = {
            let mut shared = lock(&self.shared);
            if shared.stopped {
                return 0;
            }
            let due = self.due(&shared, now).min(budget as u64);
            let first = shared.sent_in_all;
            let pace = shared.pace.get_or_insert(Pace { since: now, sent: 0 });
            pace.sent += due;
            shared.sent_in_all += due;
            (first, due)
        };
        // Without the lock: what the switch delivers to may call the handle.
        for sequence in first..first + count {
            // There are that many.
            if let Some(frame) = self.frames.get_mut((sequence % PREPARED) as usize) {
                out(Frame::new(frame.numbered(sequence)));
            }
        }
        // At most `budget`, which is a usize.
        count as usize
    }

    fn register_waker(&mut self, waker: &Waker) {
        let mut shared = lock(&self.shared);
        match &mut shared.host {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let shared = lock(&self.shared);
        let finished = self.config.count.is_some_and(|count| shared.sent_in_all >= count);
        if shared.stopped || finished {
            return None;
        }
        let (Some(rate), Some(pace)) = (self.config.packets_per_second, shared.pace) else {
            return Some(Duration::ZERO);
        };
        let after = (u128::from(pace.sent) * NANOS_PER_SECOND).div_ceil(u128::from(rate));
        let next = pace.since.saturating_add(duration_from_nanos(after));
        Some(next.saturating_sub(now))
    }
}

/// Watches and controls a [`GeneratorPort`] from any thread.
#[derive(Clone, Debug)]
pub struct GeneratorHandle {
    shared: Arc<Mutex<Shared>>,
}

impl GeneratorHandle {
    /// What was sent and received so far.
    pub fn stats(&self) -> GeneratorStats {
        let shared = lock(&self.shared);
        GeneratorStats { sent: shared.sent_in_all, ..shared.checker.stats() }
    }

    /// Stops sending; received frames are still checked.
    pub fn stop(&self) {
        lock(&self.shared).stopped = true;
    }

    /// Goes on sending, with the next sequence number. The pause is not made up for.
    pub fn resume(&self) {
        let mut shared = lock(&self.shared);
        shared.stopped = false;
        shared.pace = None;
        let host = shared.host.clone();
        drop(shared);
        if let Some(host) = host {
            host.wake();
        }
    }
}

/// What port and handle share.
#[derive(Debug, Default)]
struct Shared {
    sent_in_all: u64,
    pace: Option<Pace>,
    stopped: bool,
    checker: Checker,
    host: Option<Waker>,
}

/// From when the rate counts, and how many frames were sent since.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Duration,
    sent: u64,
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

fn duration_from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Locks; nothing panics under this lock, so poisoned state is still whole.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GeneratorConfig {
        GeneratorConfig::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sent(port: &mut GeneratorPort, now: Duration, budget: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let count = port.poll(now, budget, &mut |frame| frames.push(frame.bytes.to_vec()));
        assert_eq!(count, frames.len());
        frames
    }

    #[test]
    fn the_rate_is_kept_whatever_the_polls() {
        let (mut port, _) = GeneratorPort::new(config().packets_per_second(100)).unwrap();
        assert_eq!(sent(&mut port, at(0), 64).len(), 1);
        assert_eq!(port.next_timeout(at(0)), Some(at(10)));
        assert_eq!(sent(&mut port, at(9), 64).len(), 0);
        assert_eq!(port.next_timeout(at(9)), Some(at(1)));
        assert_eq!(sent(&mut port, at(10), 64).len(), 1);
        assert_eq!(sent(&mut port, at(50), 3).len(), 3);
        assert_eq!(port.next_timeout(at(50)), Some(at(0)));
        assert_eq!(sent(&mut port, at(50), 64).len(), 1);
    }

    #[test]
    fn it_stops_after_the_count() {
        let (mut port, handle) = GeneratorPort::new(config().count(5)).unwrap();
        assert_eq!(sent(&mut port, at(0), 3).len(), 3);
        assert_eq!(sent(&mut port, at(0), 3).len(), 2);
        assert_eq!((port.next_timeout(at(0)), handle.stats().sent), (None, 5));
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let (mut port, handle) = GeneratorPort::new(config().packets_per_second(1000)).unwrap();
        assert_eq!(sent(&mut port, at(0), 64).len(), 1);
        handle.stop();
        assert_eq!((sent(&mut port, at(20), 64).len(), port.next_timeout(at(20))), (0, None));
        handle.resume();
        assert_eq!(sent(&mut port, at(20), 64).len(), 1);
        assert_eq!(sent(&mut port, at(22), 64).len(), 2);
    }

    #[test]
    fn loss_duplicates_order_and_corruption_are_told_apart() {
        let (mut port, handle) = GeneratorPort::new(config().count(10)).unwrap();
        let mut frames = sent(&mut port, at(0), 64);
        frames[9][40] ^= 1;
        for index in [0, 1, 1, 3, 2, 6, 9] {
            assert!(port.deliver(Frame::new(&frames[index])));
        }
        assert!(port.deliver(Frame::new(b"\x02ddddd\x02sssss\x08\x00something else altogether")));
        let stats = handle.stats();
        assert_eq!((stats.sent, stats.received, stats.foreign), (10, 5, 1));
        assert_eq!((stats.duplicates, stats.reordered, stats.corrupt), (1, 1, 1));
        // 4 and 5 are missing before the highest number seen, 6; 7 to 9 may be on their way.
        assert_eq!((stats.lost(), stats.lost_of(10)), (2, 5));
    }

    #[test]
    fn swapped_addresses_do_not_spoil_the_checksum() {
        let (mut port, handle) = GeneratorPort::new(config().frame_bytes(64).count(1)).unwrap();
        let mut frame = sent(&mut port, at(0), 1).remove(0);
        frame[..12].rotate_left(6);
        assert!(port.deliver(Frame::new(&frame)));
        assert_eq!((handle.stats().received, handle.stats().corrupt), (1, 0));
    }

    #[test]
    fn every_changed_bit_behind_the_stream_is_seen() {
        let (mut port, handle) = GeneratorPort::new(config().frame_bytes(46).count(1)).unwrap();
        let frame = sent(&mut port, at(0), 1).remove(0);
        let mut changes = 0;
        for byte in 22..frame.len() {
            for bit in 0..8 {
                let mut bad = frame.clone();
                bad[byte] ^= 1 << bit;
                assert!(port.deliver(Frame::new(&bad)));
                changes += 1;
            }
        }
        assert_eq!((handle.stats().corrupt, handle.stats().received), (changes, 0));
    }

    #[test]
    fn a_truncated_frame_is_corrupt_or_foreign_never_good() {
        let (mut port, handle) = GeneratorPort::new(config().frame_bytes(60).count(1)).unwrap();
        let frame = sent(&mut port, at(0), 1).remove(0);
        for len in 0..frame.len() {
            assert!(port.deliver(Frame::new(&frame[..len])));
        }
        let stats = handle.stats();
        assert_eq!((stats.received, stats.corrupt + stats.foreign), (0, 60));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let short = GeneratorPort::new(config().frame_bytes(33)).unwrap_err();
        assert_eq!(short, InvalidGenerator::FrameBytes { value: 33, least: 34 });
        let still = GeneratorPort::new(config().packets_per_second(0)).unwrap_err();
        assert_eq!(still, InvalidGenerator::ZeroRate);
    }
}
