//! Virtual functions of simulated NICs: a second device with the NIC's MAC address, in memory.
//!
//! The host's end is the NIC's: what the guest sends by it goes to the switch, and frames for the NIC's address come by it while
//! the data path is on it (broadcast and multicast come by the rings all the same, as in Azure). The guest's end is a
//! [`GuestVf`]. What happens when is the test's to say: [`Host::plug_vf`], [`Host::associate_vf`], [`Host::revoke_vf`],
//! [`Host::unplug_vf`], [`Host::remove_vf_by_surprise`] may come in any order.
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (`GuestVfState`) for what a host does with a switch and at a removal.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use vmbus::mem::Latch;

use crate::host::{Host, NicId};

/// What a host does when the guest asks for the data path of the VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VfManner {
    /// Moves the traffic, and completes the switch.
    #[default]
    Obliging,
    /// Completes the switch, and takes the traffic back at once.
    Refusing,
    /// Does nothing, and completes nothing, whichever path is asked for, until its manner changes.
    Silent,
}

/// A VF as the guest has it: one pair of rings. Clones are the same device.
#[derive(Clone)]
pub struct GuestVf {
    device: Arc<Device>,
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
    pub(crate) serial: u32,
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
    /// The guest heard that it may send by it.
    allowed: bool,
}

impl Device {
    pub(crate) fn new(serial: u32, mac: [u8; 6], capacity: usize, host: Latch) -> Arc<Self> {
        let (to_guest, from_guest) = (VecDeque::new(), VecDeque::new());
        let wire = Mutex::new(Wire {
            present: true,
            open: false,
            link_up: true,
            to_guest,
            from_guest,
            lost: 0,
            allowed: false,
        });
        Arc::new(Self { serial, mac, capacity, wire, host, guest: AtomicWaker::new() })
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame for the guest; false if there is no room.
    pub(crate) fn deliver(&self, frame: &[u8]) -> bool {
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
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let frame = self.wire().from_guest.pop_front();
        if frame.is_some() {
            self.guest.wake();
        }
        frame
    }

    /// Takes it out of the guest; what it was given to send has left before, or is lost. How much is lost.
    pub(crate) fn remove(&self, lose: bool) -> usize {
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

    /// The guest hears that it may send by it.
    pub(crate) fn allow(&self) {
        self.wire().allowed = true;
    }

    /// Whether the guest heard that it may send by it, ever.
    pub(crate) fn is_allowed(&self) -> bool {
        self.wire().allowed
    }

    /// Whether nothing of the guest's is left in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.wire().from_guest.is_empty()
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.wire().link_up = up;
        self.guest.wake();
    }
}

impl Host {
    /// Shows the guest a VF of this NIC: a device with its MAC address, whose rings hold `capacity` frames each way. `None`
    /// if there is no such NIC, or it has a VF.
    ///
    /// The guest is not told of it by the NIC: see [`associate_vf`](Self::associate_vf).
    #[must_use]
    pub fn plug_vf(&self, nic: NicId, serial: u32, capacity: usize) -> Option<GuestVf> {
        let mut device = None;
        self.with_nic(nic, |nic| device = nic.plug_vf(serial, capacity));
        device.map(|device| GuestVf { device })
    }

    /// Tells the guest that the NIC has a VF of this serial number: now, or once it can hear it, and in every session.
    pub fn associate_vf(&self, nic: NicId, serial: u32) {
        self.with_nic(nic, |nic| nic.associate_vf(serial));
    }

    /// Takes the association back. If the data path is on the VF, it is moved, and the guest is told of that first. The device
    /// stays, and with it what it has received.
    pub fn revoke_vf(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.revoke_vf());
    }

    /// Takes the device away, after what it was given to send has left.
    pub fn unplug_vf(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.unplug_vf(false));
    }

    /// The device vanishes, with the frames that are to be sent inside, and so does the association.
    pub fn remove_vf_by_surprise(&self, nic: NicId) {
        self.with_nic(nic, |nic| {
            nic.unplug_vf(true);
            nic.revoke_vf();
        });
    }

    /// Sets the link of the NIC's VF.
    pub fn set_vf_link(&self, nic: NicId, up: bool) {
        self.with_nic(nic, |nic| nic.set_vf_link(up));
    }

    /// What the host does when the guest asks for another data path. Default: what it is asked for.
    pub fn set_vf_manner(&self, nic: NicId, manner: VfManner) {
        self.with_nic(nic, |nic| nic.set_vf_manner(manner));
    }

    /// Moves the traffic back from the VF, and leaves the VF.
    pub fn take_data_path_back(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.move_data_path_back());
    }
}
