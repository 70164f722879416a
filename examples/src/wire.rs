//! Two devices joined by a wire in memory, for tests in virtual time: frames take a fixed time, and some get lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// What a wire is like.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a frame takes.
    pub delay: Duration,
    /// Frames on the wire in one direction; the sender waits while there are as many.
    pub capacity: usize,
    /// One frame of this many, of both directions together, gets lost; 0: none.
    pub lose_one_in: u64,
    /// One frame of this many has two words of its payload exchanged, which no checksum notices; 0: none.
    pub corrupt_one_in: u64,
}

impl Default for Settings {
    /// 100 µs, 64 frames, nothing lost or corrupted.
    fn default() -> Self {
        Self { delay: Duration::from_micros(100), capacity: 64, lose_one_in: 0, corrupt_one_in: 0 }
    }
}

/// Both ends of a new wire.
pub fn pair(settings: Settings) -> (End, End) {
    let wire = Arc::new(Mutex::new(Wire { settings, directions: Default::default(), sent: 0 }));
    (End { wire: Arc::clone(&wire), side: 0 }, End { wire, side: 1 })
}

/// One end of a wire.
#[derive(Debug)]
pub struct End {
    wire: Arc<Mutex<Wire>>,
    side: usize,
}

#[derive(Debug)]
struct Wire {
    settings: Settings,
    directions: [VecDeque<InFlight>; 2],
    sent: u64,
}

#[derive(Debug)]
struct InFlight {
    arrival: Duration,
    frame: Vec<u8>,
}

impl End {
    /// When the next frame arrives at this end, if one is on its way.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.wire().directions[1 - self.side].front().map(|in_flight| in_flight.arrival)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        // A panic elsewhere leaves whole frames behind.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for End {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, timestamp: Instant) -> Option<(Received, Room<'_>)> {
        let now = since_epoch(timestamp);
        let frame = {
            let mut wire = self.wire();
            let direction = &mut wire.directions[1 - self.side];
            direction.pop_front_if(|in_flight| in_flight.arrival <= now)?.frame
        };
        Some((Received(frame), Room { end: self, now }))
    }

    fn transmit(&mut self, timestamp: Instant) -> Option<Room<'_>> {
        let has_room = {
            let wire = self.wire();
            wire.directions[self.side].len() < wire.settings.capacity
        };
        has_room.then_some(Room { end: self, now: since_epoch(timestamp) })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A frame that arrived.
#[derive(Debug)]
pub struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame to be sent.
#[derive(Debug)]
pub struct Room<'a> {
    end: &'a End,
    now: Duration,
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let mut wire = self.end.wire();
        wire.sent += 1;
        let is_nth = |n: u64| n != 0 && wire.sent.is_multiple_of(n);
        if is_nth(wire.settings.corrupt_one_in) && frame.len() >= MIN_CORRUPTIBLE {
            corrupt_unnoticed(&mut frame);
        }
        if !is_nth(wire.settings.lose_one_in) {
            let arrival = self.now + wire.settings.delay;
            wire.directions[self.end.side].push_back(InFlight { arrival, frame });
        }
        result
    }
}

/// Frames of this many bytes hold more than headers.
pub(crate) const MIN_CORRUPTIBLE: usize = 1000;

/// Changes a frame of at least [`MIN_CORRUPTIBLE`] bytes in a way that no checksum of TCP/IP notices: a sum of 16-bit
/// words stays the same when two of them change places.
pub(crate) fn corrupt_unnoticed(frame: &mut [u8]) {
    let end = frame.len() & !1;
    frame.swap(end - 1, end - 3);
    frame.swap(end - 2, end - 4);
}

fn since_epoch(timestamp: Instant) -> Duration {
    Duration::from_micros(timestamp.total_micros().try_into().unwrap_or(0))
}
