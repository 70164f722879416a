//! The host's end of a VF: what the NIC has of it, be it in memory or a port of somebody's.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vmbus::mem::Latch;

use super::memory::Device;
use crate::port::{Frame, Port};

/// How long the end of a device that was taken away is listened to at most: what it sent before may be on its way through a
/// kernel.
const LINGER: Duration = Duration::from_secs(5);

/// The host's end of one VF.
pub(crate) struct VfEnd {
    wire: Wire,
    /// The guest heard that it may send by it, ever.
    pub(crate) allowed: bool,
    /// Taken away: until when it is listened to.
    until: Option<Duration>,
}

enum Wire {
    Memory(Arc<Device>),
    Port(Box<dyn Port>),
}

impl fmt::Debug for VfEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.wire {
            Wire::Memory(device) => return device.fmt(f),
            Wire::Port(_) => "port",
        };
        f.debug_struct("VfEnd").field("wire", &kind).field("until", &self.until).finish_non_exhaustive()
    }
}

impl VfEnd {
    pub(crate) fn memory(device: Arc<Device>) -> Self {
        Self { wire: Wire::Memory(device), allowed: false, until: None }
    }

    pub(crate) fn port(port: Box<dyn Port>) -> Self {
        Self { wire: Wire::Port(port), allowed: false, until: None }
    }

    /// The device, if it is in memory.
    pub(crate) fn device(&self) -> Option<&Arc<Device>> {
        match &self.wire {
            Wire::Memory(device) => Some(device),
            Wire::Port(_) => None,
        }
    }

    /// A frame for the guest; false if it was not taken.
    pub(crate) fn deliver(&mut self, frame: Frame<'_>) -> bool {
        match &mut self.wire {
            Wire::Memory(device) => device.deliver(frame.bytes),
            Wire::Port(port) => port.deliver(frame),
        }
    }

    /// A batch of deliveries is over.
    pub(crate) fn flush(&mut self) {
        if let Wire::Port(port) = &mut self.wire {
            port.flush();
        }
    }

    /// Gives at most `budget` frames of the guest's; how many they were.
    pub(crate) fn serve(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        match &mut self.wire {
            Wire::Memory(device) => {
                let mut given = 0;
                while given < budget
                    && let Some(frame) = device.take()
                {
                    given += 1;
                    out(Frame::new(&frame));
                }
                given
            }
            Wire::Port(port) => port.poll(now, budget, out),
        }
    }

    /// The device is taken away from the guest: what it was given to send has left before, or is lost. How much is lost,
    /// and how much of what it was to receive; of a port, only whoever took the device away knows.
    pub(crate) fn remove(&mut self, lose: bool, now: Duration) -> (usize, usize) {
        self.until = Some(now + LINGER);
        match &self.wire {
            Wire::Memory(device) => device.remove(lose),
            Wire::Port(_) => (0, 0),
        }
    }

    /// Of a device that was taken away: whether nothing comes from it any more.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        match &self.wire {
            Wire::Memory(device) => device.is_empty(),
            Wire::Port(port) => self.until.is_some_and(|until| port.is_over() || now >= until),
        }
    }

    /// When it wants to be looked at although nothing is heard of it.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        let Wire::Port(port) = &self.wire else { return None };
        let port = port.next_timeout(now).map(|after| now + after);
        [self.until, port].into_iter().flatten().min()
    }

    pub(crate) fn set_link(&self, up: bool) {
        if let Wire::Memory(device) = &self.wire {
            device.set_link(up);
        }
    }

    /// The NIC has another latch.
    pub(crate) fn follow(&self, latch: &Latch) {
        if let Wire::Memory(device) = &self.wire {
            device.follow(latch.clone());
        }
    }

    pub(crate) fn register_waker(&mut self, waker: &Waker) {
        // One in memory has the NIC's latch.
        if let Wire::Port(port) = &mut self.wire {
            port.register_waker(waker);
        }
    }
}
