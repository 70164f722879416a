//! The user's end of a memory port of the simulated host's switch, as a smoltcp device.

use std::convert::Infallible;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use netvsc_host::fault::{Delivery, FaultPlan};
use netvsc_host::port::{MemoryPort, ReceivedFrame, SendError};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::link::Link;
use crate::wire;

/// A device over a memory port.
#[derive(Debug)]
pub struct PortDevice {
    port: MemoryPort,
    /// Taken out of the port while waiting, not yet given to the stack.
    next: Option<ReceivedFrame>,
    /// The frame that is being sent. As long as the port is full it stays here, and no other can be sent.
    outgoing: Vec<u8>,
    stuck: bool,
    faults: FaultPlan,
}

impl PortDevice {
    /// The device over `port`.
    pub fn new(port: MemoryPort) -> Self {
        Self { port, next: None, outgoing: Vec::new(), stuck: false, faults: FaultPlan::new(0) }
    }

    /// Corrupts received frames when the plan says so: in a way that no checksum of TCP/IP notices.
    #[must_use]
    pub fn faults(mut self, faults: FaultPlan) -> Self {
        self.faults = faults;
        self
    }

    /// Tries to get rid of the stuck frame.
    fn has_room(&mut self) -> bool {
        if self.stuck {
            // A closed port takes frames as a pulled cable does.
            self.stuck = matches!(self.port.send(&self.outgoing), Err(SendError::Full { .. }));
        }
        !self.stuck
    }
}

impl Link for PortDevice {
    type Error = Infallible;

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn ready(&mut self, timeout: Option<Duration>) -> Result<(), Infallible> {
        // A full port has frames that the host has not looked at yet: it is asked again soon.
        let timeout = if self.has_room() { timeout } else { Some(timeout.unwrap_or(FULL_RETRY).min(FULL_RETRY)) };
        if self.next.is_some() {
            return Ok(());
        }
        let Self { port, next, .. } = self;
        let received = poll_fn(|cx| match port.poll_recv(cx) {
            Poll::Ready(Some(frame)) => {
                *next = Some(frame);
                Poll::Ready(())
            }
            // Closed: nothing will arrive, only timers go on.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        });
        match timeout {
            None => received.await,
            // Early or late does not matter to the stack.
            Some(timeout) => drop(tokio::time::timeout(timeout, received).await),
        }
        Ok(())
    }
}

const FULL_RETRY: Duration = Duration::from_micros(100);

impl Device for PortDevice {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received<'_>, Room<'_>)> {
        // smoltcp wants room for an answer with every frame.
        if !self.has_room() {
            return None;
        }
        let frame = self.next.take().or_else(|| self.port.try_recv().ok())?;
        let Self { port, outgoing, stuck, faults, .. } = self;
        Some((Received { frame, faults }, Room { port, outgoing, stuck }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Room<'_>> {
        let has_room = self.has_room();
        let Self { port, outgoing, stuck, .. } = self;
        has_room.then_some(Room { port, outgoing, stuck })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A frame from the switch.
#[derive(Debug)]
pub struct Received<'a> {
    frame: ReceivedFrame,
    faults: &'a mut FaultPlan,
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        if self.frame.len() >= wire::MIN_CORRUPTIBLE
            && let Delivery::Corrupt { .. } = self.faults.on_deliver_to_guest(self.frame.len())
        {
            let mut frame = self.frame.to_vec();
            wire::corrupt_unnoticed(&mut frame);
            return f(&frame);
        }
        f(&self.frame)
    }
}

/// Room for a frame to the switch.
#[derive(Debug)]
pub struct Room<'a> {
    port: &'a MemoryPort,
    outgoing: &'a mut Vec<u8>,
    stuck: &'a mut bool,
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.outgoing.clear();
        self.outgoing.resize(len, 0);
        let result = f(self.outgoing);
        *self.stuck = matches!(self.port.send(self.outgoing), Err(SendError::Full { .. }));
        result
    }
}
