//! A VF in memory: a device of a test's, that loses nothing by itself and everything that is inside when it is removed by
//! surprise.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use rndis::ppi::HashInfo;
use vmbus::mem::Latch;

use crate::netvsp::Rss;
use crate::offload::headers::Headers;

/// What a VF in memory is: [`Host::plug_vf_with`](crate::Host::plug_vf_with).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VfOptions {
    serial: u32,
    capacity: usize,
    queues: usize,
    key: Vec<u8>,
    types: HashInfo,
    table: Vec<u32>,
    tells_hash: bool,
    loses_received: bool,
}

impl VfOptions {
    /// One pair of rings, each of which holds `capacity` frames.
    pub fn new(serial: u32, capacity: usize) -> Self {
        let (key, table) = (Vec::new(), Vec::new());
        Self { serial, capacity, queues: 1, key, types: HashInfo(0), table, tells_hash: false, loses_received: false }
    }

    /// Pairs of rings, at least one. What the guest is to receive comes by the first, unless it is spread
    /// ([`spread`](Self::spread)).
    pub fn queues(mut self, queues: usize) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// How the device spreads what the guest is to receive: by a hash of these types with this key, the hash modulo the length
    /// of the table being the entry that says the queue, modulo the number of queues. It is the device's own, whatever the guest
    /// has set for the NIC; frames that are not hashed come by queue 0.
    pub fn spread(mut self, key: &[u8], types: HashInfo, table: &[u32]) -> Self {
        (self.key, self.types, self.table) = (key.to_vec(), types, table.to_vec());
        self
    }

    /// Whether the guest is given the hash with each frame ([`GuestVf::receive_on`]). Default: no.
    pub fn tells_hash(mut self, tells: bool) -> Self {
        self.tells_hash = tells;
        self
    }

    /// Whether what it has received and the guest has not read is lost when it vanishes by surprise: counted as
    /// [`vf_rx_dropped`](crate::report::NicCounters), and by [`GuestVf::received_lost_on`]. Default: no, it can be read all the same.
    pub fn loses_received(mut self, loses: bool) -> Self {
        self.loses_received = loses;
        self
    }
}

/// A frame that came by a VF.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedFrame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The device's hash of it, if it tells: the value, and what it covers.
    pub hash: Option<(u32, HashInfo)>,
}

/// A VF as the guest has it: pairs of rings, one unless [`VfOptions::queues`] says otherwise. Clones are the same device.
#[derive(Clone)]
pub struct GuestVf {
    pub(super) device: Arc<Device>,
}

impl fmt::Debug for GuestVf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = self.device.wire();
        f.debug_struct("GuestVf")
            .field("serial", &self.device.serial)
            .field("present", &wire.present)
            .field("link_up", &wire.link_up)
            .finish_non_exhaustive()
    }
}

/// Why a VF took no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VfSendError {
    /// There is no room now.
    Full,
    /// It is not open, its link is down, or it is gone.
    Down,
}

impl fmt::Display for VfSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no room in the virtual function",
            Self::Down => "the virtual function is down",
        })
    }
}

impl std::error::Error for VfSendError {}

impl GuestVf {
    /// The number of its PCI slot.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.device.serial
    }

    /// Its MAC address: the NIC's.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.device.mac
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.device.wire().present
    }

    /// Whether its link is up.
    #[must_use]
    pub fn link_up(&self) -> bool {
        let wire = self.device.wire();
        wire.present && wire.link_up
    }

    /// Frames that each direction holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.device.capacity
    }

    /// Takes it into use. Until then frames that come by it are dropped, as by any device that was given no buffers.
    pub fn open(&self) {
        self.device.wire().open = true;
    }

    /// The opposite. What it has received is thrown away.
    pub fn close(&self) {
        let mut wire = self.device.wire();
        wire.open = false;
        wire.pairs.iter_mut().for_each(|pair| pair.to_guest.clear());
    }

    /// Pairs of rings.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.device.queues
    }

    /// Sends a frame, by the first queue.
    ///
    /// # Errors
    /// [`VfSendError`]: the frame was not taken.
    pub fn send(&self, frame: &[u8]) -> Result<(), VfSendError> {
        self.send_on(0, frame)
    }

    /// Sends a frame by a queue.
    ///
    /// # Errors
    /// [`VfSendError`]: the frame was not taken.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn send_on(&self, queue: usize, frame: &[u8]) -> Result<(), VfSendError> {
        let mut wire = self.device.wire();
        if !wire.present || !wire.open || !wire.link_up {
            return Err(VfSendError::Down);
        }
        let pair = &mut wire.pairs[queue];
        if pair.from_guest.len() >= self.device.capacity {
            return Err(VfSendError::Full);
        }
        pair.from_guest.push_back(frame.to_vec());
        let host = wire.host.clone();
        drop(wire);
        host.set();
        Ok(())
    }

    /// Frames that were taken and have not left, on all queues: of a device that vanished, those that were inside.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.device.wire().pairs.iter().map(Pair::outstanding).sum()
    }

    /// As [`outstanding`](Self::outstanding), on one queue.
    ///
    /// # Panics
    /// If there is no such queue.
    #[must_use]
    pub fn outstanding_on(&self, queue: usize) -> usize {
        self.device.wire().pairs[queue].outstanding()
    }

    /// Of a device that vanished: frames that it had received on one queue, and that were lost.
    ///
    /// # Panics
    /// If there is no such queue.
    #[must_use]
    pub fn received_lost_on(&self, queue: usize) -> usize {
        self.device.wire().pairs[queue].received_lost
    }

    /// The length of the next received frame, on whichever queue. What was received can be read after the device has vanished.
    #[must_use]
    pub fn received(&self) -> Option<usize> {
        self.device.wire().pairs.iter().find_map(Pair::received)
    }

    /// As [`received`](Self::received), on one queue.
    ///
    /// # Panics
    /// If there is no such queue.
    #[must_use]
    pub fn received_on(&self, queue: usize) -> Option<usize> {
        self.device.wire().pairs[queue].received()
    }

    /// The next received frame, that of which [`received`](Self::received) speaks.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut wire = self.device.wire();
        wire.pairs.iter_mut().find_map(|pair| pair.to_guest.pop_front()).map(|frame| frame.bytes)
    }

    /// As [`receive`](Self::receive), on one queue.
    ///
    /// # Panics
    /// If there is no such queue.
    #[must_use]
    pub fn receive_on(&self, queue: usize) -> Option<ReceivedFrame> {
        self.device.wire().pairs[queue].to_guest.pop_front()
    }

    /// Has `waker` woken when something is received, sent, or changes.
    pub fn register_waker(&self, waker: &Waker) {
        self.device.guest.register(waker);
    }
}

/// The device, between its ends.
pub(crate) struct Device {
    pub(super) serial: u32,
    mac: [u8; 6],
    capacity: usize,
    queues: usize,
    /// How what the guest is to receive is spread.
    rss: Option<Rss>,
    tells_hash: bool,
    loses_received: bool,
    wire: Mutex<Wire>,
    guest: AtomicWaker,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("serial", &self.serial).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Wire {
    present: bool,
    open: bool,
    link_up: bool,
    pairs: Vec<Pair>,
    /// The pair that is asked first for what the guest sends: none is served before the others have been.
    next: usize,
    /// Told of frames that are to be sent.
    host: Latch,
}

/// A pair of rings.
#[derive(Debug, Default)]
struct Pair {
    to_guest: VecDeque<ReceivedFrame>,
    from_guest: VecDeque<Vec<u8>>,
    /// Frames that were inside when the device vanished.
    lost: usize,
    /// The same of frames for the guest.
    received_lost: usize,
}

impl Pair {
    fn outstanding(&self) -> usize {
        self.from_guest.len() + self.lost
    }

    fn received(&self) -> Option<usize> {
        self.to_guest.front().map(|frame| frame.bytes.len())
    }
}

impl Device {
    pub(crate) fn new(options: VfOptions, mac: [u8; 6], host: Latch) -> Arc<Self> {
        let VfOptions { serial, capacity, queues, key, types, table, tells_hash, loses_received } = options;
        let pairs = std::iter::repeat_with(Pair::default).take(queues).collect();
        let wire = Mutex::new(Wire { present: true, open: false, link_up: true, pairs, next: 0, host });
        let rss = (!table.is_empty()).then(|| Rss::new(types, &key, table));
        Arc::new(Self {
            serial,
            mac,
            capacity,
            queues,
            rss,
            tells_hash,
            loses_received,
            wire,
            guest: AtomicWaker::new(),
        })
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame for the guest; false if there is no room.
    pub(super) fn deliver(&self, frame: &[u8]) -> bool {
        let (queue, hash) = match &self.rss {
            None => (0, None),
            Some(rss) => {
                let hash = Headers::parse(frame).and_then(|headers| rss.hash(frame, &headers));
                (rss.queue(hash) % self.queues, hash)
            }
        };
        let mut wire = self.wire();
        let takes = wire.present && wire.open && wire.link_up;
        let ring = &mut wire.pairs[queue].to_guest;
        let room = takes && ring.len() < self.capacity;
        if room {
            let hash = hash.filter(|_| self.tells_hash).map(|hash| (hash.value, hash.info()));
            ring.push_back(ReceivedFrame { bytes: frame.to_vec(), hash });
        }
        drop(wire);
        self.guest.wake();
        room
    }

    /// The next frame of the guest's, of its queues in turn.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut wire = self.wire();
        let first = wire.next;
        let mut order = (0..self.queues).map(|at| (first + at) % self.queues);
        let (queue, frame) = order.find_map(|queue| Some((queue, wire.pairs[queue].from_guest.pop_front()?)))?;
        wire.next = (queue + 1) % self.queues;
        drop(wire);
        self.guest.wake();
        Some(frame)
    }

    /// Takes it out of the guest; what it was given to send has left before, or is lost. How much is lost, of that and of what
    /// the guest was to receive.
    pub(super) fn remove(&self, lose: bool) -> (usize, usize) {
        let mut wire = self.wire();
        wire.present = false;
        let mut lost = (0, 0);
        for pair in &mut wire.pairs {
            if lose {
                pair.lost += pair.from_guest.len();
                pair.from_guest.clear();
            }
            if lose && self.loses_received {
                pair.received_lost += pair.to_guest.len();
                pair.to_guest.clear();
            }
            lost = (lost.0 + pair.lost, lost.1 + pair.received_lost);
        }
        drop(wire);
        self.guest.wake();
        lost
    }

    /// From now on the host hears of frames by `host`.
    pub(super) fn follow(&self, host: Latch) {
        // What was sent before was heard of by the other, or not at all.
        host.set();
        self.wire().host = host;
    }

    /// Whether nothing of the guest's is left in it.
    pub(super) fn is_empty(&self) -> bool {
        self.wire().pairs.iter().all(|pair| pair.from_guest.is_empty())
    }

    pub(super) fn set_link(&self, up: bool) {
        self.wire().link_up = up;
        self.guest.wake();
    }
}
