//! Memory pair: two ends of a cable in one process.
//!
//! One end, [`MemorySwitchPort`], is plugged into the switch. The other, [`MemoryPort`], is the user's: it sends and
//! receives frames from any thread, blocking nowhere, or asynchronously on any executor. Both directions are bounded
//! and use their buffers again.

use core::fmt;
use core::future::poll_fn;
use core::ops::Deref;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffers::FrameQueue;
use super::{Frame, Port};

/// Makes a cable; each direction holds at most `capacity` frames.
///
/// ```
/// use core::time::Duration;
/// use netvsc_host::port::{Frame, Port, memory_pair};
///
/// let (mut inside, outside) = memory_pair(16);
/// outside.send(b"to the switch")?;
/// inside.poll(Duration::ZERO, 8, &mut |frame| assert_eq!(frame.bytes, b"to the switch"));
/// assert!(inside.deliver(Frame::new(b"from the switch")));
/// assert_eq!(&*outside.try_recv()?, b"from the switch");
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub fn memory_pair(capacity: usize) -> (MemorySwitchPort, MemoryPort) {
    let cable =
        Arc::new(Cable { to_switch: Mutex::new(Lane::new(capacity)), to_user: Mutex::new(Lane::new(capacity)) });
    let inside = MemorySwitchPort { cable: Arc::clone(&cable), batch: Vec::new() };
    (inside, MemoryPort { cable })
}

/// The user's end of a memory pair.
///
/// All methods take `&self`, so that one task may send while another receives. Dropping it closes the cable.
#[derive(Debug)]
pub struct MemoryPort {
    cable: Arc<Cable>,
}

impl MemoryPort {
    /// Frames that each direction holds, unless [`memory_pair`] is told otherwise by the host's builder.
    pub const DEFAULT_CAPACITY: usize = 1024;

    /// Sends one frame to the switch; its bytes are copied.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the host has not taken earlier frames yet, [`SendError::Closed`] if the port was taken out
    /// of the switch.
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        let mut lane = lock(&self.cable.to_switch);
        let wake = lane.push(frame)?;
        drop(lane);
        wake.wake();
        Ok(())
    }

    /// Sends one frame as soon as there is room for it.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the port was taken out of the switch.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent if the future is dropped before it is ready.
    pub async fn send_when_ready(&self, frame: &[u8]) -> Result<(), SendError> {
        poll_fn(|cx| {
            let mut lane = lock(&self.cable.to_switch);
            match lane.push(frame) {
                Err(SendError::Full { .. }) => {
                    remember(&mut lane.producers, cx.waker());
                    Poll::Pending
                }
                Err(closed) => Poll::Ready(Err(closed)),
                Ok(wake) => {
                    drop(lane);
                    wake.wake();
                    Poll::Ready(Ok(()))
                }
            }
        })
        .await
    }

    /// The next frame from the switch, if one is here.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if none is, [`TryRecvError::Closed`] if none will ever be.
    pub fn try_recv(&self) -> Result<ReceivedFrame, TryRecvError> {
        let mut lane = lock(&self.cable.to_user);
        match lane.queue.pop() {
            Some(bytes) => Ok(ReceivedFrame { bytes, cable: Arc::clone(&self.cable) }),
            None if lane.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Waits for the next frame from the switch; `None` once the port was taken out of it.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost if the future is dropped before it is ready.
    pub async fn recv(&self) -> Option<ReceivedFrame> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The poll form of [`recv`](Self::recv). Any number of tasks may wait.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<ReceivedFrame>> {
        let mut lane = lock(&self.cable.to_user);
        match lane.queue.pop() {
            Some(bytes) => Poll::Ready(Some(ReceivedFrame { bytes, cable: Arc::clone(&self.cable) })),
            None if lane.closed => Poll::Ready(None),
            None => {
                remember(&mut lane.consumers, cx.waker());
                Poll::Pending
            }
        }
    }

    /// Frames that wait to be received.
    pub fn pending(&self) -> usize {
        lock(&self.cable.to_user).queue.len()
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        self.cable.close();
    }
}

/// The switch's end of a memory pair.
#[derive(Debug)]
pub struct MemorySwitchPort {
    cable: Arc<Cable>,
    /// Frames taken out under one lock and given to the switch without it: the switch may deliver into any other port
    /// and wake any task meanwhile.
    batch: Vec<Vec<u8>>,
}

impl Port for MemorySwitchPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let mut lane = lock(&self.cable.to_user);
        let Ok(wake) = lane.push(frame.bytes) else {
            return false;
        };
        drop(lane);
        wake.wake();
        true
    }

    fn poll(&mut self, _now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        let mut lane = lock(&self.cable.to_switch);
        while self.batch.len() < budget
            && let Some(bytes) = lane.queue.pop()
        {
            self.batch.push(bytes);
        }
        if self.batch.is_empty() {
            return 0;
        }
        let room = Wake::take(&mut lane.producers);
        drop(lane);
        room.wake();
        for bytes in &self.batch {
            out(Frame::new(bytes));
        }
        let given = self.batch.len();
        let mut lane = lock(&self.cable.to_switch);
        for bytes in self.batch.drain(..) {
            lane.queue.recycle(bytes);
        }
        given
    }

    fn register_waker(&mut self, waker: &Waker) {
        let mut lane = lock(&self.cable.to_switch);
        match &mut lane.host {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        let pending = !lane.queue.is_empty();
        drop(lane);
        if pending {
            waker.wake_by_ref();
        }
    }

    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        // Frames left over by a small budget: nothing wakes the host for them again.
        (!lock(&self.cable.to_switch).queue.is_empty()).then_some(Duration::ZERO)
    }
}

impl Drop for MemorySwitchPort {
    fn drop(&mut self) {
        self.cable.close();
    }
}

/// One received frame; its buffer goes back to the cable when it is dropped.
pub struct ReceivedFrame {
    bytes: Vec<u8>,
    cable: Arc<Cable>,
}

impl Deref for ReceivedFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for ReceivedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for ReceivedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReceivedFrame").field(&self.bytes).finish()
    }
}

impl Drop for ReceivedFrame {
    fn drop(&mut self) {
        lock(&self.cable.to_user).queue.recycle(core::mem::take(&mut self.bytes));
    }
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The host has not taken the earlier frames yet.
    Full {
        /// Frames that wait, which is as many as may.
        capacity: usize,
    },
    /// The other end is gone.
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { capacity } => write!(f, "memory port is full: {capacity} frames wait for the switch"),
            Self::Closed => f.write_str("memory port is closed: its other end is gone"),
        }
    }
}

impl core::error::Error for SendError {}

/// Why no frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryRecvError {
    /// No frame is here now.
    Empty,
    /// No frame is here and the other end is gone.
    Closed,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no frame waits at the memory port",
            Self::Closed => "memory port is closed: its other end is gone",
        })
    }
}

impl core::error::Error for TryRecvError {}

/// Both directions. Their locks are never held together.
#[derive(Debug)]
struct Cable {
    to_switch: Mutex<Lane>,
    to_user: Mutex<Lane>,
}

impl Cable {
    fn close(&self) {
        for lane in [&self.to_switch, &self.to_user] {
            let mut lane = lock(lane);
            lane.closed = true;
            let host = lane.host.clone();
            let producers = Wake::take(&mut lane.producers);
            let consumers = Wake::take(&mut lane.consumers);
            drop(lane);
            producers.wake();
            consumers.wake();
            if let Some(host) = host {
                host.wake();
            }
        }
    }
}

/// One direction of the cable.
#[derive(Debug)]
struct Lane {
    queue: FrameQueue,
    /// Tasks that wait for room.
    producers: Vec<Waker>,
    /// Tasks that wait for a frame.
    consumers: Vec<Waker>,
    /// The host, which stays registered.
    host: Option<Waker>,
    closed: bool,
}

impl Lane {
    fn new(capacity: usize) -> Self {
        let queue = FrameQueue::new(capacity);
        Self { queue, producers: Vec::new(), consumers: Vec::new(), host: None, closed: false }
    }

    /// Queues a frame and says whom to wake for it, once the lock is released.
    fn push(&mut self, bytes: &[u8]) -> Result<Wake, SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let was_empty = self.queue.is_empty();
        if !self.queue.push(bytes) {
            return Err(SendError::Full { capacity: self.queue.capacity() });
        }
        let mut wake = Wake::take(&mut self.consumers);
        if was_empty {
            wake.host = self.host.clone();
        }
        Ok(wake)
    }
}

/// Wakers to wake after the lock is released: a waker may run any code.
#[derive(Default)]
struct Wake {
    first: Option<Waker>,
    rest: Vec<Waker>,
    host: Option<Waker>,
}

impl Wake {
    /// Takes all wakers out. The usual single one leaves the vector's memory in place.
    fn take(wakers: &mut Vec<Waker>) -> Self {
        let first = wakers.pop();
        Self { first, rest: if wakers.is_empty() { Vec::new() } else { core::mem::take(wakers) }, host: None }
    }

    fn wake(self) {
        for waker in self.first.into_iter().chain(self.rest).chain(self.host) {
            waker.wake();
        }
    }
}

/// Adds a waker unless it is there already.
fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

/// Locks; no code that may panic runs under these locks, so a poisoned lane is still whole.
fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}
