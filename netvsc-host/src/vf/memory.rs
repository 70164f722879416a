//! A VF in memory: a device of a test's, that loses nothing by itself and everything that is inside when it is removed by
//! surprise.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use vmbus::mem::Latch;

/// A VF as the guest has it: one pair of rings. Clones are the same device.
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
        wire.to_guest.clear();
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`VfSendError`]: the frame was not taken.
    pub fn send(&self, frame: &[u8]) -> Result<(), VfSendError> {
        let mut wire = self.device.wire();
        if !wire.present || !wire.open || !wire.link_up {
            return Err(VfSendError::Down);
        }
        if wire.from_guest.len() >= self.device.capacity {
            return Err(VfSendError::Full);
        }
        wire.from_guest.push_back(frame.to_vec());
        drop(wire);
        self.device.host.set();
        Ok(())
    }

    /// Frames that were taken and have not left: of a device that vanished, those that were inside.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let wire = self.device.wire();
        wire.from_guest.len() + wire.lost
    }

    /// The length of the next received frame. What was received can be read after the device has vanished.
    #[must_use]
    pub fn received(&self) -> Option<usize> {
        self.device.wire().to_guest.front().map(Vec::len)
    }

    /// The next received frame.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.device.wire().to_guest.pop_front()
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
    wire: Mutex<Wire>,
    host: Latch,
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
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
    /// Frames that were inside when it vanished.
    lost: usize,
}

impl Device {
    pub(crate) fn new(serial: u32, mac: [u8; 6], capacity: usize, host: Latch) -> Arc<Self> {
        let (to_guest, from_guest) = (VecDeque::new(), VecDeque::new());
        let wire = Mutex::new(Wire { present: true, open: false, link_up: true, to_guest, from_guest, lost: 0 });
        Arc::new(Self { serial, mac, capacity, wire, host, guest: AtomicWaker::new() })
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame for the guest; false if there is no room.
    pub(super) fn deliver(&self, frame: &[u8]) -> bool {
        let mut wire = self.wire();
        let room = wire.present && wire.open && wire.link_up && wire.to_guest.len() < self.capacity;
        if room {
            wire.to_guest.push_back(frame.to_vec());
        }
        drop(wire);
        self.guest.wake();
        room
    }

    /// The next frame of the guest's.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let frame = self.wire().from_guest.pop_front();
        if frame.is_some() {
            self.guest.wake();
        }
        frame
    }

    /// Takes it out of the guest; what it was given to send has left before, or is lost. How much is lost.
    pub(super) fn remove(&self, lose: bool) -> usize {
        let mut wire = self.wire();
        wire.present = false;
        if lose {
            wire.lost += wire.from_guest.len();
            wire.from_guest.clear();
        }
        let lost = wire.lost;
        drop(wire);
        self.guest.wake();
        lost
    }

    /// Whether nothing of the guest's is left in it.
    pub(super) fn is_empty(&self) -> bool {
        self.wire().from_guest.is_empty()
    }

    pub(super) fn set_link(&self, up: bool) {
        self.wire().link_up = up;
        self.guest.wake();
    }
}
