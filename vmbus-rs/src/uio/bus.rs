//! [`UioBus`]: an open device as a [`Bus`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::channel::UioChannel;
use super::device::UioDevice;
use super::direct;
use super::error::{GoneReason, MissingSubchannels, UioError};
use super::line::End;
use super::session::{Session, Wanted, lock};
use super::settings::KernelTraits;
use crate::bus::{BufferWish, Bus, BusEvent, Purpose, RingSizes};
use crate::error::ErrorType;
use crate::memory::{HeapMemory, SharedMemory, SharedMemoryExt};
use crate::protocol::RelId;

/// An open device: one session. When it was closed, or is gone, a new one is [opened](UioDevice::open).
///
/// Dropping it closes the device.
#[derive(Debug)]
pub struct UioBus {
    device: UioDevice,
    number: u32,
    session: Arc<Session>,
    thread: Option<JoinHandle<()>>,
    primary: RelId,
    /// Receive and send buffer, until they are asked for.
    receive: Option<HeapMemory>,
    send: Option<HeapMemory>,
    has: [bool; 2],
    /// Open channels, until they are taken.
    open: HashMap<RelId, Option<UioChannel>>,
    /// Memory that the host may still read.
    parked: Vec<HeapMemory>,
}

impl UioBus {
    pub(super) fn new(
        device: UioDevice,
        number: u32,
        session: Arc<Session>,
        primary: RelId,
        [receive, send]: [Option<HeapMemory>; 2],
    ) -> Self {
        Self {
            device,
            number,
            session,
            thread: None,
            primary,
            has: [receive.is_some(), send.is_some()],
            receive,
            send,
            open: HashMap::new(),
            parked: Vec::new(),
        }
    }

    pub(super) fn attach_thread(&mut self, thread: JoinHandle<()>) {
        self.thread = Some(thread);
    }

    /// What the device is called, such as `uio0`.
    pub fn name(&self) -> String {
        format!("uio{}", self.number)
    }

    /// The device behind it.
    pub fn device(&self) -> &UioDevice {
        &self.device
    }

    /// What is known of the kernel by now.
    pub fn kernel(&self) -> KernelTraits {
        *lock(&self.session.traits)
    }

    /// Why the device is gone, if it is.
    pub fn gone(&self) -> Option<GoneReason> {
        match self.session.end() {
            Some(End::Gone(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Says that the host was asked for subchannels, of which there should be `count` within `time`: they are looked for
    /// more often until then. They are offered as ever; [`poll_subchannels`](Self::poll_subchannels) waits for all.
    pub fn expect_subchannels(&mut self, count: usize, time: Duration) {
        *lock(&self.session.wanted) = Some(Wanted { count, until: Instant::now() + time, overdue: false });
        self.session.wake_reactor();
    }

    /// Ready once all expected subchannels were offered, or are overdue. The waker is apart from that of
    /// [`poll_event`](Bus::poll_event).
    ///
    /// # Errors
    /// [`MissingSubchannels`]: some are overdue, or the device has ended.
    pub fn poll_subchannels(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MissingSubchannels>> {
        loop {
            // Before the look: what comes after it is remembered.
            let woken = self.session.arrival.poll(cx);
            let Some(Wanted { count: expected, overdue, .. }) = *lock(&self.session.wanted) else {
                return Poll::Ready(Ok(()));
            };
            let arrived = self.session.subchannels();
            if arrived >= expected {
                return Poll::Ready(Ok(()));
            }
            if overdue || self.session.end().is_some() {
                let refused = self.refusals();
                return Poll::Ready(Err(MissingSubchannels { expected, arrived, refused }));
            }
            if woken.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Channels that are there and are not offered, and why.
    pub fn refusals(&self) -> Vec<(RelId, UioError)> {
        lock(&self.session.refusals).clone()
    }

    /// Closes this session and opens another: all rings new, no subchannels.
    ///
    /// # Errors
    /// As [`UioDevice::open`]. This session is closed all the same.
    pub fn reopen(self) -> Result<Self, UioError> {
        let device = self.device.clone();
        drop(self);
        device.open()
    }

    fn buffer(&mut self, purpose: Purpose) -> Result<HeapMemory, UioError> {
        let (slot, exists) = match purpose {
            Purpose::Receive => (&mut self.receive, self.has[0]),
            _ => (&mut self.send, self.has[1]),
        };
        let memory =
            slot.take().ok_or(if exists { UioError::BufferTaken(purpose) } else { UioError::NoBuffer(purpose) })?;
        // An earlier session's frames are nobody's business.
        memory.zero(0, memory.len())?;
        if let Some(gpadl) = memory.gpadl() {
            // The kernel made it when it was bound.
            self.session.push(BusEvent::GpadlCreated(gpadl));
        }
        Ok(memory)
    }

    fn close_all(&mut self) {
        self.open.clear();
        self.receive = None;
        self.send = None;
        let parked = std::mem::take(&mut self.parked);
        if !self.session.close() {
            // The channel may still be open, and the host may read: leaked rather than freed.
            std::mem::forget(parked);
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // It ends now that the session has. (Had it panicked, its device would be gone.)
            let _ = thread.join();
        }
    }
}

impl ErrorType for UioBus {
    type Error = UioError;
}

impl Bus for UioBus {
    type Memory = HeapMemory;
    type Channel = UioChannel;

    /// The receive and the send buffer are what the kernel made, whatever is wished for.
    fn allocate(&mut self, _channel: RelId, wish: BufferWish) -> Result<HeapMemory, UioError> {
        self.session.check()?;
        if wish.bytes == 0 {
            return Err(UioError::Empty);
        }
        match wish.purpose {
            Purpose::Direct => {
                direct::allocate(self.device.settings().direct, wish.bytes).map_err(UioError::NoDirectMemory)
            }
            purpose => self.buffer(purpose),
        }
    }

    fn release(&mut self, _channel: RelId, memory: HeapMemory) {
        match memory.gpadl() {
            // The kernel keeps it, for the next session.
            Some(gpadl) => self.session.push(BusEvent::GpadlTornDown(gpadl)),
            // The host may have sends to read from it, as long as the channel is open.
            None if self.session.end() != Some(End::Closed) => self.parked.push(memory),
            None => {}
        }
    }

    /// The rings are what the kernel made, whatever is wished for.
    ///
    /// The primary channel can be opened again after it was closed: that opens the device anew, with new rings and without
    /// subchannels.
    fn open(&mut self, channel: RelId, _rings: RingSizes) -> Result<(), UioError> {
        if channel == self.primary && self.session.end() == Some(End::Closed) {
            *self = self.device.clone().open()?;
        }
        self.session.check()?;
        let line = self.session.line(channel).ok_or(UioError::UnknownChannel(channel))?;
        if self.open.contains_key(&channel) {
            return Err(UioError::AlreadyOpen(channel));
        }
        // The kernel has opened it, with the device or when it came.
        let opened = UioChannel::new(&self.session, &line)?;
        self.open.insert(channel, Some(opened));
        self.session.push(BusEvent::Opened(channel));
        Ok(())
    }

    fn take(&mut self, channel: RelId) -> Option<UioChannel> {
        self.open.get_mut(&channel)?.take()
    }

    /// Closing the primary channel closes the device; a subchannel by itself is only let go of.
    fn close(&mut self, channel: RelId) {
        if channel == self.primary {
            self.close_all();
        } else if self.open.remove(&channel).is_some() {
            self.session.remove(channel, End::Closed);
        }
    }

    fn await_offers(&mut self, subchannels: u16) {
        let before = self.session.awaited.swap(subchannels, Ordering::AcqRel);
        // Fewer: the pauses grow by themselves.
        if subchannels > before {
            self.session.wake_reactor();
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<BusEvent, UioError>> {
        loop {
            if let Some(event) = self.session.pop() {
                return Poll::Ready(Ok(event));
            }
            if self.session.latch.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for UioBus {
    fn drop(&mut self) {
        self.close_all();
    }
}
