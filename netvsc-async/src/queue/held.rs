//! Receiving without copying: bursts whose longer frames stay in the receive buffer but for their heads.
//!
//! See [`netvsc::queue::held`]. `Stream`s, GRO and `smoltcp` copy all the same: they hand frames out in one piece.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use netvsc::RxMeta;
use netvsc::queue::held::{HeldFrames, HeldFramesMut};
use netvsc::queue::{Burst, FrameSink, Held, HeldBurst, HeldFrame, Rest, RestError};
use vmbus::bus::Channel;

use super::LARGEST_FRAME;
use super::rx::RxHalf;
use super::shared::Core;
use crate::error::Error;
use crate::packet::{Packet, PacketPool};

/// Received frames of which only the heads were copied; the rest is lent by the host until this is dropped.
///
/// All that is looked at is in the heads, which nothing changes any more. The rest is read, or sent on with
/// [`TxBatch::push_held`](crate::TxBatch::push_held).
#[derive(Debug)]
pub struct HeldRxBurst<'q> {
    burst: &'q mut HeldBurst,
    pool: &'q PacketPool,
}

impl HeldRxBurst<'_> {
    /// Frames in it; at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.burst.len()
    }

    /// The frames, in the order in which they came.
    pub fn iter(&self) -> HeldFrames<'_> {
        self.burst.frames()
    }

    /// The frames, whose heads may be changed in place.
    pub fn iter_mut(&mut self) -> HeldFramesMut<'_> {
        self.burst.frames_mut()
    }

    /// The frame at `index`.
    pub fn get(&self, index: usize) -> Option<HeldFrame<'_>> {
        self.burst.get(index)
    }

    /// Takes out the frame at `index`, which outlives the burst: a copy of its head, in a buffer of the queue's pool, and what is
    /// held of it. Taken a second time it has a head alone, so take it once.
    pub fn keep(&mut self, index: usize) -> Option<HeldPacket> {
        let HeldFrame { head, meta, .. } = self.burst.get(index)?;
        let head = self.pool.packet(head).with_meta(meta);
        Some(HeldPacket { head, rest: self.burst.take_rest(index) })
    }
}

impl<'a> IntoIterator for &'a HeldRxBurst<'_> {
    type Item = HeldFrame<'a>;
    type IntoIter = HeldFrames<'a>;

    fn into_iter(self) -> HeldFrames<'a> {
        self.burst.frames()
    }
}

impl Drop for HeldRxBurst<'_> {
    fn drop(&mut self) {
        self.burst.clear();
    }
}

/// A frame of a [`HeldRxBurst`] that outlives it. Until it is dropped, on whatever thread, the host misses all sections of the
/// packet that it came in, and the adapter cannot be [changed](crate::Nic::set_ring).
#[derive(Debug)]
pub struct HeldPacket {
    head: Packet,
    rest: Option<Held>,
}

impl HeldPacket {
    /// From the Ethernet header on, in private memory.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The head, to be changed in place.
    pub fn head_mut(&mut self) -> &mut [u8] {
        self.head.bytes_mut()
    }

    /// What follows it; empty if the frame was copied whole.
    pub fn rest(&self) -> Rest<'_> {
        self.rest.as_ref().map_or(Rest::EMPTY, Held::rest)
    }

    /// What the host said about it.
    pub fn meta(&self) -> &RxMeta {
        self.head.meta()
    }

    /// Bytes of the frame.
    #[expect(clippy::len_without_is_empty, reason = "a frame has an Ethernet header")]
    pub fn len(&self) -> usize {
        self.head.len() + self.rest().len()
    }

    /// The frame in one piece, of which the host has its part back. Allocates if anything was held.
    ///
    /// # Errors
    /// [`RestError::Gone`]: the session in which it was received has ended.
    pub fn into_packet(self) -> Result<Packet, RestError> {
        if self.rest().is_empty() {
            return Ok(self.head);
        }
        let mut bytes = vec![0; self.len()];
        let (head, rest) = bytes.split_at_mut(self.head.len());
        head.copy_from_slice(&self.head);
        self.rest().read(0, rest)?;
        Ok(Packet::from(bytes).with_meta(*self.head.meta()))
    }
}

impl<C: Channel> RxHalf<C> {
    /// As [`recv_burst`](Self::recv_burst), but that of longer frames only the head is copied
    /// ([`NicBuilder::rx_copybreak`](crate::NicBuilder::rx_copybreak)): for who decides by headers, and passes frames on. `None`: the NIC
    /// was closed.
    ///
    /// Frames come whole if they came by a virtual function, or by the rings while there is one, if the host coalesced them, if there
    /// is work to be done on them, or if too many are held already
    /// ([`NicBuilder::rx_watermark`](crate::NicBuilder::rx_watermark)). They are not merged.
    ///
    /// # Errors
    /// As [`recv_burst`](Self::recv_burst).
    ///
    /// # Cancel safety
    /// Yes: while the future is pending nothing is received.
    pub async fn recv_held(&mut self) -> Result<Option<HeldRxBurst<'_>>, Error> {
        let filled = poll_fn(|cx| self.poll_fill(cx)).await?;
        Ok(filled.then(|| self.lend_held()).flatten())
    }

    /// The frames that are there now, without waiting. `None`: there are none.
    ///
    /// # Errors
    /// As [`recv_burst`](Self::recv_burst).
    pub fn try_recv_held(&mut self) -> Result<Option<HeldRxBurst<'_>>, Error> {
        if self.fill_from_burst() {
            return Ok(self.lend_held());
        }
        if self.ended {
            return Ok(None);
        }
        self.shared.receiver_polls.store(true, Ordering::Relaxed);
        self.begin_burst();
        let shared = &self.shared;
        let burst = held_burst(&mut self.held, &self.burst);
        let max = burst.frame_capacity();
        let mut core = shared.lock();
        let received = match shared.after_end(&mut core, burst, max) {
            Some(left) => left?,
            None => {
                let received = shared.check(core.receive_held(burst, max))?;
                shared.after_pump(&mut core);
                received
            }
        };
        drop(core);
        Ok(if received > 0 { self.lend_held() } else { None })
    }

    /// Fills the burst; `false` means that the queue has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.fill_from_burst() {
            return Poll::Ready(Ok(true));
        }
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        self.begin_burst();
        let burst = held_burst(&mut self.held, &self.burst);
        let max = burst.frame_capacity();
        let received = self.shared.poll_receive_by(cx, &mut self.waiter, burst, max, Core::receive_held);
        received.map_ok(|received| {
            self.ended = received == 0;
            received > 0
        })
    }

    /// Frames that were received by other ways and not handed out come first; whether there were any.
    fn fill_from_burst(&mut self) -> bool {
        self.take_back_single();
        if !std::mem::take(&mut self.filled) {
            return false;
        }
        let held = held_burst(&mut self.held, &self.burst);
        for frame in self.burst.frames() {
            // It is as large as the burst that they are in.
            if let Some(buffer) = held.buffer(frame.bytes.len()) {
                buffer.copy_from_slice(frame.bytes);
                held.commit(frame.bytes.len(), frame.meta);
            }
        }
        true
    }

    fn lend_held(&mut self) -> Option<HeldRxBurst<'_>> {
        Some(HeldRxBurst { burst: self.held.as_mut()?, pool: &self.pool })
    }
}

/// The burst, made when it is wanted first, and once more when the other one has become larger; empty.
fn held_burst<'a>(held: &'a mut Option<HeldBurst>, like: &Burst) -> &'a mut HeldBurst {
    let bytes = like.byte_capacity().max(LARGEST_FRAME);
    held.take_if(|held| held.byte_capacity() < bytes);
    let burst = held.get_or_insert_with(|| HeldBurst::new(like.frame_capacity(), bytes));
    // Whoever had it was to clear it by dropping it, and may have forgotten it instead.
    burst.clear();
    burst
}
