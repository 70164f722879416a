//! The sending half of a queue.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use netvsc::meta::TxMeta;
use netvsc::queue::{Pinned, Rest, UnpinError};
use vmbus::bus::Channel;

use super::shared::{Core, Shared};
use crate::error::Error;

/// The sending half of a [`Queue`](crate::Queue).
///
/// A frame that was accepted is handed to the host once, or counted in `tx_dropped`. It is aggregated with its
/// neighbours; the host is told by [`flush`](Self::flush), or after the latency of
/// [`NicBuilder::tx_latency`](crate::NicBuilder::tx_latency) by the queue's task.
pub struct TxHalf<C: Channel> {
    pub(crate) shared: Arc<Shared<C>>,
}

impl<C: Channel> fmt::Debug for TxHalf<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxHalf").finish_non_exhaustive()
    }
}

impl<C: Channel> TxHalf<C> {
    /// Sends one Ethernet frame and tells the host; waits while there is no room.
    ///
    /// # Errors
    /// [`Error::Send`] for a frame that cannot be sent at all, [`Error::Closed`], [`Error::Queue`].
    ///
    /// # Cancel safety
    /// Yes: while the future is pending nothing was taken.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        let meta = TxMeta::default();
        poll_fn(|cx| self.shared.poll_send_and_flush(cx, frame, &meta)).await
    }

    /// Hands one frame over without telling the host yet, and without waiting.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no room now: nothing was taken, [`ready`](Self::ready) waits for room. Else as
    /// [`send`](Self::send).
    pub fn try_send(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), Error> {
        self.shared.send(&mut self.shared.lock(), frame, meta)
    }

    /// Ready once [`try_send`](Self::try_send) has room for a frame of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<Result<(), Error>> {
        let mut guard = self.shared.lock();
        let core = &mut *guard;
        for _ in 0..2 {
            if let Some(end) = self.shared.ended() {
                return Poll::Ready(end.and(Err(Error::Closed)));
            }
            if self.shared.check(core.can_send(len))? {
                return Poll::Ready(Ok(()));
            }
            self.shared.register_sender(core, cx);
            if !self.shared.wait_for_room(core, len)? {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until [`try_send`](Self::try_send) has room for a frame of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    ///
    /// # Cancel safety
    /// Yes: it takes nothing.
    pub async fn ready(&mut self, len: usize) -> Result<(), Error> {
        poll_fn(|cx| self.poll_ready(cx, len)).await
    }

    /// Tells the host of all frames that were handed over.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.shared.flush(&mut self.shared.lock())
    }

    /// A batch of frames: handed over under one lock, the host told once, when the batch is dropped.
    pub fn batch(&mut self) -> TxBatch<'_, C> {
        let core = self.shared.lock();
        self.shared.batch_begins();
        TxBatch { core, shared: &self.shared, frames: 0 }
    }

    /// Keeps the end of a frame that will be sent many times where the host can read it: see [`netvsc::Queue::pin`] and
    /// [`TxBatch::push_pinned`].
    pub fn pin(&mut self, payload: &[u8]) -> Pinned {
        self.shared.lock().queue.pin(payload)
    }

    /// Takes the memory of a pinned payload back.
    ///
    /// # Errors
    /// [`UnpinError`], which has the payload: while the host may still read it, see [`drained`](Self::drained), or if another
    /// queue pinned it.
    pub fn unpin(&mut self, pinned: Pinned) -> Result<(), UnpinError> {
        self.shared.lock().queue.unpin(pinned)
    }

    /// Waits until the host has completed every frame that was handed over.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn drained(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.shared.poll_drained(cx)).await
    }
}

/// See [`TxHalf::batch`]. Holds the queue's lock while it lives: do not keep it across an `await`, and use neither the
/// queue's receiving half nor [`Nic::queue_stats`](crate::Nic::queue_stats) or [`Nic::vf_stats`](crate::Nic::vf_stats) in the
/// same thread meanwhile, which would wait for it for ever.
pub struct TxBatch<'q, C: Channel> {
    core: MutexGuard<'q, Core<C>>,
    shared: &'q Shared<C>,
    frames: u32,
}

impl<C: Channel> fmt::Debug for TxBatch<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxBatch").finish_non_exhaustive()
    }
}

impl<C: Channel> TxBatch<'_, C> {
    /// Hands one frame over.
    ///
    /// # Errors
    /// As [`TxHalf::try_send`].
    pub fn push(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), Error> {
        // Dropping the batch flushes.
        self.shared.send_before_flush(&mut self.core, frame, meta)?;
        self.frames = self.frames.wrapping_add(1);
        self.shared.batch_grew(self.frames);
        Ok(())
    }

    /// Hands over one frame whose end is pinned: see [`netvsc::Queue::send_pinned`].
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_pinned(&mut self, head: &[u8], pinned: &Pinned, meta: &TxMeta) -> Result<(), Error> {
        self.shared.send_pinned_before_flush(&mut self.core, head, pinned, meta)?;
        self.frames = self.frames.wrapping_add(1);
        self.shared.batch_grew(self.frames);
        Ok(())
    }

    /// Hands over one frame whose rest is held, by whatever queue of whatever adapter it was received
    /// ([`RxHalf::recv_held`](crate::RxHalf::recv_held)): `head`, which may have been changed and may have another length, and the rest,
    /// which is copied once, from the host's buffer to the host's buffer. See [`netvsc::Queue::send_held`].
    ///
    /// # Errors
    /// As [`push`](Self::push): nothing was taken, and the frame is still held. [`Error::Send`] with
    /// [`SendError::Gone`](netvsc::SendError::Gone) if the session in which it was received has ended.
    pub fn push_held(&mut self, head: &[u8], rest: Rest<'_>, meta: &TxMeta) -> Result<(), Error> {
        self.shared.send_held_before_flush(&mut self.core, head, rest, meta)?;
        self.frames = self.frames.wrapping_add(1);
        self.shared.batch_grew(self.frames);
        Ok(())
    }

    /// Tells the host of all frames so far.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.shared.flush(&mut self.core)
    }
}

impl<C: Channel> Drop for TxBatch<'_, C> {
    fn drop(&mut self) {
        // Whoever uses the queue next is told if it has ended.
        let _ = self.shared.flush(&mut self.core);
        self.shared.batch_ends();
    }
}
