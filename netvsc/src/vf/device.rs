//! What a virtual function has to be able to do: the traits [`VfDevice`] and [`VfQueue`].
//!
//! Whoever calls them: one owner a queue; nothing blocks. Whoever implements them: a frame that [`VfQueue::send`] took is sent
//! once or, if the device vanishes, perhaps not at all; what was received stays readable after the device has vanished.

use core::fmt;

use crate::info::{LinkState, MacAddress};
use crate::queue::FrameSink;

/// A virtual function as a device: what it is, and its settings.
pub trait VfDevice {
    /// A pair of its rings.
    type Queue: VfQueue;
    /// Why something cannot be set.
    type Error: core::error::Error;

    /// Its MAC address.
    fn mac(&self) -> MacAddress;

    /// The number of its PCI slot, if it has one.
    fn serial(&self) -> Option<u32>;

    /// Whether its link is up.
    fn link(&mut self) -> LinkState;

    /// Its L3 MTU.
    fn mtu(&self) -> u32;

    /// Sets its L3 MTU.
    ///
    /// # Errors
    /// If it cannot be that: nothing is changed then.
    fn set_mtu(&mut self, mtu: u32) -> Result<(), Self::Error>;

    /// Whether it receives what is not addressed to it.
    ///
    /// # Errors
    /// If that cannot be set: nothing is changed then.
    fn set_promiscuous(&mut self, promiscuous: bool) -> Result<(), Self::Error>;

    /// Its queues, once: as many as were opened.
    fn take_queues(&mut self) -> alloc::vec::Vec<Self::Queue>;
}

/// A pair of rings of a virtual function. Frames go from the Ethernet header on, as they are: no checksum is computed and
/// nothing is cut.
pub trait VfQueue {
    /// Takes a frame to be sent: copies it. The device learns of it by [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`VfSendError`]: the frame was not taken.
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError>;

    /// Frames that [`send`](Self::send) would take now; 0 while it does not send at all.
    fn room(&mut self) -> usize;

    /// Has the device send what was taken.
    fn flush(&mut self);

    /// Frames that were taken and not yet sent.
    fn outstanding(&mut self) -> usize;

    /// Frames that were taken and will never be sent, since this was last asked: what waited when the link went down, say. They
    /// are not [`outstanding`](Self::outstanding) any more.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// Whether it can send at all. One that cannot only receives, and frames are sent by the rings.
    fn can_send(&self) -> bool {
        true
    }

    /// Frames that were received, or were to be, and are known to be lost, since this was last asked: what was in a device that
    /// vanished, say.
    fn take_received_lost(&mut self) -> u64 {
        0
    }

    /// Frames that the device, or this, had no room or no use for, since this was last asked. May take a system call, so it is asked
    /// when somebody looks at the statistics, and in the end. What a device that vanished had inside is
    /// [`take_received_lost`](Self::take_received_lost)'s.
    fn take_unreceived(&mut self) -> Unreceived {
        Unreceived::default()
    }

    /// Frames that came by the queue of another since this was last asked; see [`Share`](super::Share).
    fn take_steered(&mut self) -> u64 {
        0
    }

    /// Takes what the device has received by now, on whichever of its queues, as far as some of it may be for this one:
    /// [`receive`](Self::receive) gives it before anything that comes later. One that has nothing to do with other queues need
    /// not do anything.
    fn collect(&mut self) {}

    /// Whether the metadata of what it receives are complete, tag and hash as [`RxRules`](super::RxRules) have them. If not, they
    /// are completed: a hash of the device's own, with whatever key, is not believed.
    fn completes(&self) -> bool {
        false
    }

    /// Whether something was received.
    fn has_received(&mut self) -> bool;

    /// Copies at most `max` received frames into `sink`; says how many. Fewer means that there were no more, or that the
    /// sink gave no room for one. Those that it can [never](FrameSink::max_frame) give room for are dropped, and
    /// [told of](Self::take_unreceived).
    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize;

    /// Most received frames that the rings hold.
    fn receive_capacity(&self) -> usize;
}

/// Frames that came to a virtual function and did not get to whoever receives by it: [`VfQueue::take_unreceived`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unreceived {
    /// There was no room for them: those before them were not received in time.
    pub missed: u64,
    /// They were taken out of the rings and passed on to nobody: longer than the reader's buffers, say, or in a form that is not
    /// known.
    pub dropped: u64,
}

impl core::ops::AddAssign for Unreceived {
    fn add_assign(&mut self, other: Self) {
        self.missed += other.missed;
        self.dropped += other.dropped;
    }
}

/// A virtual function did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VfSendError {
    /// No room now: there will be.
    Full,
    /// It does not send at all for now: stopped, or its link is down.
    NotReady,
    /// Longer than it can send.
    TooLong {
        /// Bytes of the frame.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
}

impl fmt::Display for VfSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("virtual function has no room now"),
            Self::NotReady => f.write_str("virtual function does not send"),
            Self::TooLong { len, limit } => {
                write!(f, "frame of {len} bytes exceeds the virtual function's limit of {limit}")
            }
        }
    }
}

impl core::error::Error for VfSendError {}
