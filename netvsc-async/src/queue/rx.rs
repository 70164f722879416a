//! The receiving half of a queue.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use netvsc::gro::{GroConfig, Received};
use netvsc::queue::{Burst, Frame, FrameMut, FrameSink, Frames, HeldBurst};
use vmbus::bus::Channel;

use super::burst_of;
use super::gro::{GroCounters, LentMerger};
use super::shared::Shared;
use crate::error::Error;
use crate::packet::{PacketPool, PacketQueue};
use crate::wait::Waiter;

/// The receiving half of a [`Queue`](crate::Queue).
pub struct RxHalf<C: Channel> {
    pub(super) shared: Arc<Shared<C>>,
    pub(super) burst: Burst,
    /// What [`recv_held`](Self::recv_held) receives into; made at its first call.
    pub(super) held: Option<HeldBurst>,
    /// The burst holds frames that were received by [`poll_ready`](Self::poll_ready) and not handed out yet.
    pub(super) filled: bool,
    pub(super) waiter: Waiter,
    /// What a frame takes in the burst, as the adapter said it last.
    frame_bytes: usize,
    pub(crate) pool: PacketPool,
    /// What [`recv`](Self::recv) receives into; made at its first call.
    one: Option<PacketQueue>,
    pub(super) ended: bool,
    /// What merges bursts, if that is wished.
    pub(super) gro: Option<LentMerger>,
}

impl<C: Channel> fmt::Debug for RxHalf<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxHalf").finish_non_exhaustive()
    }
}

/// Received frames, borrowed until the next call.
///
/// They were copied out of the memory that the host can write: nothing changes them any more, and the host has its
/// buffers back already.
#[derive(Debug)]
pub struct RxBurst<'q> {
    burst: &'q mut Burst,
    pool: &'q PacketPool,
    /// Where frames are merged, unless they are, or nobody wishes it.
    merging: Option<(&'q mut LentMerger, &'q GroCounters)>,
}

impl<'q> RxBurst<'q> {
    /// The same burst, with frames that belong together merged into one buffer each, by
    /// [`NicBuilder::gro`](crate::NicBuilder::gro)'s settings; as it is, if that was switched off.
    ///
    /// Merged frames are longer than the MTU: [`TxMeta::passing_on`](crate::TxMeta::passing_on) says what sending one takes.
    /// Frames of one flow keep their order. If anything is merged, all frames are copied once.
    #[must_use]
    pub fn merged(self) -> Self {
        let Self { burst, pool, merging } = self;
        let burst = match merging {
            Some((merger, counters)) => merger.merge(burst, counters),
            None => burst,
        };
        Self { burst, pool, merging: None }
    }

    /// Hands out the frames, those that belong together as chains of borrowed fragments: nothing is copied. All frames by
    /// themselves, if merging was switched off, or is done.
    pub fn chains(&mut self, mut to: impl FnMut(Received<'_, '_>)) {
        match &mut self.merging {
            Some((merger, counters)) => merger.chains(self.burst, counters, to),
            None => self.burst.frames().for_each(|frame| to(Received::Frame(frame))),
        }
    }

    /// Frames in it; at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.burst.len()
    }

    /// The frames, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Frame<'_>> + '_ {
        self.burst.frames()
    }

    /// The frames, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = FrameMut<'_>> + '_ {
        self.burst.frames_mut()
    }

    /// The frame at `index`.
    pub fn get(&self, index: usize) -> Option<Frame<'_>> {
        self.burst.get(index)
    }

    /// Takes a copy of the frame at `index` that outlives the burst, in a buffer of the queue's pool.
    pub fn keep(&self, index: usize) -> Option<crate::Packet> {
        self.burst.get(index).map(|frame| self.pool.packet(frame.bytes).with_meta(frame.meta))
    }
}

impl<'a, 'q> IntoIterator for &'a RxBurst<'q> {
    type Item = Frame<'a>;
    type IntoIter = Frames<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.burst.frames()
    }
}

impl<C: Channel> RxHalf<C> {
    pub(super) fn new(
        shared: Arc<Shared<C>>,
        burst: Burst,
        waiter: Waiter,
        pool: PacketPool,
        gro: Option<GroConfig>,
    ) -> Self {
        let gro = gro.map(LentMerger::new);
        Self { shared, burst, held: None, filled: false, waiter, frame_bytes: 0, pool, one: None, ended: false, gro }
    }

    /// Ready once [`try_recv_burst`](Self::try_recv_burst) has frames, or the queue has ended.
    ///
    /// # Errors
    /// [`Error::Queue`] when the queue failed; at every call from then on.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.take_back_single();
        if self.filled || self.ended {
            return Poll::Ready(Ok(()));
        }
        self.begin_burst();
        let max = self.burst.frame_capacity();
        match self.shared.poll_receive(cx, &mut self.waiter, &mut self.burst, max) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(received)) => {
                self.filled = received > 0;
                self.ended = received == 0;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Waits for frames and lends them, as many as there are and the burst's capacity takes
    /// ([`NicBuilder::burst`](crate::NicBuilder::burst)). `None`: the NIC was closed.
    ///
    /// # Errors
    /// [`Error::Queue`] when the queue failed; at every call from then on.
    ///
    /// # Cancel safety
    /// Yes: frames that were received when the future is dropped are lent by the next call.
    pub async fn recv_burst(&mut self) -> Result<Option<RxBurst<'_>>, Error> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        Ok(self.take_burst())
    }

    /// The frames that are there now, without waiting. `None`: there are none.
    ///
    /// # Errors
    /// As [`recv_burst`](Self::recv_burst).
    pub fn try_recv_burst(&mut self) -> Result<Option<RxBurst<'_>>, Error> {
        self.take_back_single();
        if !self.filled && !self.ended {
            self.shared.receiver_polls.store(true, Ordering::Relaxed);
            self.begin_burst();
            let mut core = self.shared.lock();
            let max = self.burst.frame_capacity();
            match self.shared.after_end(&mut core, &mut self.burst, max) {
                Some(left) => self.filled = left? > 0,
                None => {
                    let received = self.shared.check(core.receive(&mut self.burst, max))?;
                    self.shared.after_pump(&mut core);
                    self.filled = received > 0;
                }
            }
        }
        Ok(self.take_burst())
    }

    /// Packets for which the pool had no buffer (too many were held, or the frame was larger than its buffers), so that
    /// one was allocated.
    pub fn pool_misses(&self) -> u64 {
        self.pool.allocated()
    }

    /// Empties the burst. After a larger MTU was set it becomes so large that as many frames fit as before.
    pub(super) fn begin_burst(&mut self) {
        self.burst.clear();
        let frame_bytes = self.shared.frame_bytes.load(Ordering::Relaxed);
        if frame_bytes > self.frame_bytes {
            self.frame_bytes = frame_bytes;
            let frames = self.burst.frame_capacity();
            self.burst = burst_of(frames, frame_bytes);
        }
    }

    fn take_burst(&mut self) -> Option<RxBurst<'_>> {
        if !std::mem::take(&mut self.filled) {
            return None;
        }
        let merging = self.gro.as_mut().map(|merger| (merger, &self.shared.gro));
        Some(RxBurst { burst: &mut self.burst, pool: &self.pool, merging })
    }

    /// Waits for one frame and copies it to the start of `buffer`, as a datagram socket does; its length. A longer frame
    /// is cut off. 0: the NIC was closed.
    ///
    /// # Errors
    /// As [`recv_burst`](Self::recv_burst).
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn recv(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some(packet) = poll_fn(|cx| self.poll_one(cx)).await? else { return Ok(0) };
        let len = packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet[..len]);
        Ok(len)
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<crate::Packet>, Error>> {
        let mut one = std::mem::take(&mut self.one).unwrap_or_else(|| PacketQueue::new(self.pool.clone(), 1));
        let result = if one.len() > 0 { Poll::Ready(Ok(1)) } else { self.poll_packets(cx, &mut one, 1) };
        let packet = one.pop();
        self.one = Some(one);
        result.map_ok(|_| packet)
    }

    /// Frames that [`recv`](Self::recv) took over from a burst and did not need: back into the burst, lest later ones
    /// overtake them.
    pub(super) fn take_back_single(&mut self) {
        let Some(one) = self.one.as_mut().filter(|one| one.len() > 0 && !self.filled) else { return };
        self.burst.clear();
        while let Some(packet) = one.pop() {
            // They came out of this burst: there is room for them.
            if let Some(buffer) = self.burst.buffer(packet.len()) {
                buffer.copy_from_slice(&packet);
                self.burst.commit(packet.len(), *packet.meta());
            }
        }
        self.filled = true;
    }

    /// Gives back packets that were received and not needed: the next call has them first.
    pub(crate) fn put_back(&mut self, packets: PacketQueue) {
        if packets.len() > 0 {
            self.one = Some(packets);
        }
    }

    /// Receives the packets that are there now.
    pub(super) fn try_packets(&mut self, into: &mut PacketQueue, max: usize) -> Result<(), Error> {
        if self.take_left_behind(into) || self.ended {
            return Ok(());
        }
        into.prepare();
        let mut core = self.shared.lock();
        if let Some(left) = self.shared.after_end(&mut core, into, max) {
            return left.map(drop);
        }
        self.shared.check(core.receive(into, max))?;
        self.shared.after_pump(&mut core);
        Ok(())
    }

    /// Frames that a dropped `recv_burst` received come first.
    fn take_left_behind(&mut self, into: &mut PacketQueue) -> bool {
        self.take_back_single();
        let left = std::mem::take(&mut self.filled);
        if left {
            for frame in self.burst.frames() {
                into.push(self.pool.packet(frame.bytes).with_meta(frame.meta));
            }
        }
        left
    }

    /// Receives packets that outlive the burst; 0 means that the queue has ended.
    pub(crate) fn poll_packets(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut PacketQueue,
        max: usize,
    ) -> Poll<Result<usize, Error>> {
        if self.take_left_behind(into) {
            return Poll::Ready(Ok(into.len()));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        into.prepare();
        self.shared.poll_receive(cx, &mut self.waiter, into, max)
    }
}
