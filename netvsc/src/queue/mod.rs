//! One queue: everything that happens on one channel, receive and transmit.

mod burst;
mod control;
mod error;
mod settings;

use core::time::Duration;

use vmbus::bus::{Channel, Doorbell};
use vmbus::Error as _;

pub use burst::{Burst, Frame, FrameMut, FrameSink, Frames, FramesMut};
pub use control::{ControlBytes, ControlInput, ControlToken};
pub use error::{QueueError, SendError};
pub use settings::{AggregateLimits, QueueSettings, ReceiveBuffer, SendBuffer};

use crate::meta::TxMeta;
use crate::stats::QueueStats;
use crate::time::Instant;

/// What [`Queue::pump`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pumped {
    /// Completions that gave sections or pages back.
    pub completions: usize,
    /// Frames and fragments that wait for [`Queue::receive`], those from before included.
    pub ranges: usize,
    /// Control messages that wait for [`Queue::poll_control`], those from before included.
    pub controls: usize,
    /// The ring was not emptied: pump again.
    pub more: bool,
}

/// What was outstanding when the buffers were detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aborted {
    /// Frames that were accepted, and of which it is not known whether they were sent; counted as dropped.
    pub frames: u64,
    /// Control messages that will not be completed.
    pub controls: usize,
    /// Receive packets that were not acknowledged.
    pub receive_packets: usize,
}

/// One queue.
#[derive(Debug)]
pub struct Queue<C: Channel> {
    index: u16,
    doorbell: C::Doorbell,
    interrupt: Option<C::Interrupt>,
    stats: QueueStats,
}

impl<C: Channel> Queue<C> {
    /// A queue on an open channel. Buffers are attached later.
    ///
    /// # Errors
    /// [`QueueError::BadRing`].
    pub fn new(channel: C, settings: QueueSettings) -> Result<Self, QueueError> {
        let _ = settings;
        let parts = channel.into_parts();
        Ok(Self {
            index: parts.info.subchannel_index,
            doorbell: parts.doorbell,
            interrupt: Some(parts.interrupt),
            stats: QueueStats::default(),
        })
    }

    /// The channel's index, 0 for the primary one.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The channel's interrupt, once: waited on apart from the queue.
    pub fn take_interrupt(&mut self) -> Option<C::Interrupt> {
        self.interrupt.take()
    }

    /// Sends an NVSP message in band and signals the host; with a token its completion is wanted, and comes as
    /// [`ControlInput::Completed`].
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::TooLong`], [`SendError::Queue`].
    pub fn send_nvsp(&mut self, message: &[u8], completion: Option<ControlToken>) -> Result<(), SendError> {
        let _ = (message, completion);
        Err(SendError::NotAttached)
    }

    /// Sends an RNDIS control message.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_rndis_control(&mut self, message: &[u8], token: ControlToken) -> Result<(), SendError> {
        let _ = (message, token);
        Err(SendError::NotAttached)
    }

    /// The next thing the host said, apart from frames. Poll after [`pump`](Self::pump) and [`receive`](Self::receive).
    pub fn poll_control(&mut self) -> Option<ControlInput> {
        None
    }

    /// Gives the queue memory for GPA-direct sends.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`] if no page's guest physical address is known.
    pub fn attach_direct(&mut self, memory: C::Memory) -> Result<(), QueueError> {
        let _ = memory;
        Ok(())
    }

    /// Gives the queue the receive buffer.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`].
    pub fn attach_receive(&mut self, buffer: ReceiveBuffer<C::Memory>) -> Result<(), QueueError> {
        let _ = buffer;
        Ok(())
    }

    /// Gives the queue its share of the send buffer.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`].
    pub fn attach_send(&mut self, buffer: SendBuffer<C::Memory>) -> Result<(), QueueError> {
        let _ = buffer;
        Ok(())
    }

    /// Sets how messages may be put together.
    pub fn attach_limits(&mut self, limits: AggregateLimits) {
        let _ = limits.clamped();
    }

    /// Lets go of all buffers, after the channel was closed or rescinded; says what was outstanding.
    pub fn detach_buffers(&mut self) -> Aborted {
        Aborted::default()
    }

    /// Takes what is in the ring.
    ///
    /// # Errors
    /// [`QueueError`]; the queue is unusable afterwards.
    pub fn pump(&mut self) -> Result<Pumped, QueueError> {
        Ok(Pumped::default())
    }

    /// Copies at most `max_frames` received frames into `sink`; says how many.
    ///
    /// # Errors
    /// [`QueueError`]; the queue is unusable afterwards.
    pub fn receive<S: FrameSink>(&mut self, sink: &mut S, max_frames: usize) -> Result<usize, QueueError> {
        let _ = (sink, max_frames);
        Ok(0)
    }

    /// Takes a frame to be sent. The host learns of it by [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`SendError`]; nothing was taken.
    pub fn send(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), SendError> {
        let _ = (frame, meta);
        Err(SendError::NotAttached)
    }

    /// Whether a frame of `frame_len` bytes would be taken now.
    pub fn can_send(&mut self, frame_len: usize) -> bool {
        let _ = frame_len;
        false
    }

    /// Hands all taken frames to the host: at most one doorbell.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn flush(&mut self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Whether there is something to receive or pump now.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn has_work(&mut self) -> Result<bool, QueueError> {
        Ok(false)
    }

    /// Asks for an interrupt and looks once more: `true` means that there is work now (and no interrupt is coming).
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn arm(&mut self) -> Result<bool, QueueError> {
        Ok(false)
    }

    /// Asks for no interrupts.
    pub fn mask(&mut self) {}

    /// Asks for an interrupt once there is room to send: `true` means that there is room now.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn want_send_room(&mut self) -> Result<bool, QueueError> {
        Ok(false)
    }

    /// Sends (sections, direct sends, control messages) that the host has not completed.
    pub fn outstanding(&self) -> usize {
        0
    }

    /// Acknowledgments of receive packets that wait for room in the ring.
    pub fn owed_acks(&self) -> usize {
        0
    }

    /// How long sends have been outstanding without any being completed; `None` if nothing is outstanding.
    ///
    /// Counted from the first call that saw the state, so call it regularly.
    pub fn stalled_for(&mut self, now: Instant) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Counters.
    pub fn stats(&self) -> &QueueStats {
        &self.stats
    }

    fn ring_doorbell(&self) -> Result<(), QueueError> {
        self.doorbell.signal().map_err(|error| QueueError::Doorbell { kind: error.kind() })
    }
}
