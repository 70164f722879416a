//! A queue as a `Stream` of packets and a `Sink` for them: thin adapters above the bursts.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use vmbus::bus::Channel;

use super::gro::PacketMerger;
use super::rx::RxHalf;
use super::shared::{Core, Shared};
use super::tx::TxHalf;
use crate::error::Error;
use crate::packet::{Packet, PacketPool, PacketQueue};

/// Packets that are received or handed over under one lock.
const BATCH: usize = 64;

/// Packets for which a unit of the task's budget is taken, of which there are 128: a task gives way after a millisecond, if
/// it spends one on a thousand packets.
const PACKETS_A_UNIT: u32 = 8;

/// A queue's received packets. Ends when the NIC is closed.
///
/// TCP segments that follow each other come merged, as one long packet, unless
/// [`NicBuilder::gro`](crate::NicBuilder::gro) says otherwise. Sent on, such a packet becomes the same segments again.
///
/// It takes part in tokio's cooperative scheduling: a queue that never runs dry gives way to other tasks.
#[derive(Debug)]
pub struct PacketStream<C: Channel> {
    half: RxHalf<C>,
    packets: PacketQueue,
    /// Between the two, if segments are to be merged.
    merger: Option<PacketMerger>,
    /// Packets since a unit of the task's budget was taken.
    uncharged: u32,
}

impl<C: Channel> PacketStream<C> {
    pub(super) fn new(half: RxHalf<C>) -> Self {
        let packets = PacketQueue::new(half.pool.clone(), BATCH);
        let merger = half.gro.as_ref().map(|gro| PacketMerger::new(gro.config(), half.pool.clone(), BATCH));
        Self { half, packets, merger, uncharged: 0 }
    }

    /// The next packet, if one is there now.
    ///
    /// # Errors
    /// [`Error::Queue`] when the queue failed.
    pub fn try_next(&mut self) -> Result<Option<Packet>, Error> {
        if self.packets.len() == 0 {
            match &mut self.merger {
                None => self.half.try_packets(&mut self.packets, BATCH)?,
                Some(merger) => {
                    let received = self.half.try_packets(merger.incoming(), BATCH);
                    let shared = &self.half.shared;
                    if !merger.is_idle() {
                        merger.take(shared.clock.now(), &mut self.packets, &shared.gro);
                    }
                    if received.is_err() || shared.ended().is_some() {
                        merger.flush(&mut self.packets, &shared.gro);
                    }
                    // What was received before the failure comes first.
                    if self.packets.len() == 0 {
                        received?;
                    }
                }
            }
        }
        Ok(self.packets.pop())
    }

    /// Ready once there is a packet (`true`), or the queue has ended (`false`).
    ///
    /// # Errors
    /// [`Error::Queue`] when the queue failed.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.packets.len() > 0 {
            return Poll::Ready(Ok(true));
        }
        let Some(merger) = &mut self.merger else {
            ready!(self.half.poll_packets(cx, &mut self.packets, BATCH))?;
            return Poll::Ready(Ok(self.packets.len() > 0));
        };
        loop {
            let received = self.half.poll_packets(cx, merger.incoming(), BATCH);
            if received.is_pending() && merger.is_idle() {
                return Poll::Pending;
            }
            let shared = &self.half.shared;
            let now = shared.clock.now();
            if received.is_pending() {
                ready!(merger.poll_held(cx, now));
            }
            merger.take(now, &mut self.packets, &shared.gro);
            if let Poll::Ready(Ok(0) | Err(_)) = &received {
                merger.flush(&mut self.packets, &shared.gro);
            }
            if self.packets.len() > 0 {
                // An end or a failure is found again by the next call.
                return Poll::Ready(Ok(true));
            }
            match received {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // All of it is held.
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
    }

    /// Back to bursts. Packets that were received and not taken yet are dropped; their number.
    pub fn into_half(mut self) -> (RxHalf<C>, usize) {
        if let Some(merger) = &mut self.merger {
            merger.flush(&mut self.packets, &self.half.shared.gro);
        }
        let left = self.packets.len();
        (self.half, left)
    }
}

impl<C: Channel> Stream for PacketStream<C> {
    type Item = Result<Packet, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // A ring that is always full would keep this task running for ever, and starve timers.
        if this.uncharged >= PACKETS_A_UNIT {
            ready!(pin!(tokio::task::consume_budget()).poll(cx));
            this.uncharged = 0;
        }
        this.uncharged += 1;
        match ready!(this.poll_ready(cx)) {
            Ok(_) => Poll::Ready(this.packets.pop().map(Ok)),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

/// Sends packets. Flushed means handed to the host and the doorbell rung; closed means completed by the host.
///
/// A packet that the sink took is in the adapter until the next flush (or until 64 have gathered). Packets still there
/// when the sink is dropped are handed over as far as there is room; the others are lost, and counted in `tx_dropped`.
#[derive(Debug)]
pub struct PacketSink<C: Channel> {
    half: TxHalf<C>,
    packets: VecDeque<Packet>,
    pool: PacketPool,
}

impl<C: Channel> PacketSink<C> {
    pub(super) fn new(half: TxHalf<C>, pool: PacketPool) -> Self {
        Self { half, packets: VecDeque::with_capacity(BATCH), pool }
    }

    /// A packet with a copy of `frame`, in a buffer of the queue's pool: nothing is allocated while the pool has some.
    pub fn packet(&self, frame: &[u8]) -> Packet {
        self.pool.packet(frame)
    }

    /// Whether a packet can only be taken after some are handed over.
    #[cfg(feature = "smoltcp")]
    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() >= BATCH
    }

    /// Whether there is nothing to hand over.
    #[cfg(feature = "smoltcp")]
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet without waiting; gives it back when there is no room for it now.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn try_send(&mut self, packet: Packet) -> Result<Option<Packet>, Error> {
        if !self.try_ready()? {
            return Ok(Some(packet));
        }
        self.packets.push_back(packet);
        Ok(None)
    }

    /// Whether a packet can be taken now.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn try_ready(&mut self) -> Result<bool, Error> {
        if self.packets.len() >= BATCH {
            self.try_hand_over()?;
        }
        Ok(self.packets.len() < BATCH)
    }

    /// Hands over as many of the gathered packets as there is room for, and rings the doorbell.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`]; [`Error::Send`] for a packet that cannot be sent, which is dropped.
    pub fn try_flush(&mut self) -> Result<(), Error> {
        let shared = &self.half.shared;
        let mut core = shared.lock();
        let (gone, handed_over) = hand_over(&self.packets, shared, &mut core);
        // One that cannot be sent keeps nobody else waiting.
        let flushed = shared.flush(&mut core);
        drop(core);
        self.packets.drain(..gone);
        handed_over.and(flushed)
    }

    fn try_hand_over(&mut self) -> Result<(), Error> {
        let shared = &self.half.shared;
        let mut core = shared.lock();
        let (gone, handed_over) = hand_over(&self.packets, shared, &mut core);
        shared.put_off_doorbell(&mut core);
        drop(core);
        self.packets.drain(..gone);
        handed_over
    }

    /// Ready once a packet can be taken.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Queue`].
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.packets.len() < BATCH { Poll::Ready(Ok(())) } else { self.poll_hand_over(cx, Doorbell::PutOff) }
    }

    /// Hands over what was gathered; ready once nothing is left.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>, doorbell: Doorbell) -> Poll<Result<(), Error>> {
        let shared = &self.half.shared;
        let mut core = shared.lock();
        let mut stuck = false;
        loop {
            let (gone, handed_over) = hand_over(&self.packets, shared, &mut core);
            let full = self.packets.get(gone).filter(|_| handed_over.is_ok()).map(|packet| packet.len());
            let Some(len) = full else {
                let told = match doorbell {
                    Doorbell::Now => shared.flush(&mut core),
                    Doorbell::PutOff => {
                        shared.put_off_doorbell(&mut core);
                        Ok(())
                    }
                };
                drop(core);
                self.packets.drain(..gone);
                return Poll::Ready(handed_over.and(told));
            };
            self.packets.drain(..gone);
            shared.register_sender(&core, cx);
            if !shared.wait_for_room(&mut core, len)? {
                return Poll::Pending;
            }
            if stuck && gone == 0 {
                // Something becomes free again and again, but not enough. What went until now waits for nobody.
                shared.put_off_doorbell(&mut core);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            stuck = gone == 0;
        }
    }
}

/// Hands over as many packets as there is room for, and says how many of them are to be dropped: those, and one that cannot be
/// sent, or it would be tried for ever. Nobody is told of them, which is the caller's.
///
/// They are dropped by the caller, too, all at once and when the host has been told: giving a buffer back takes atomic operations,
/// which wait until all has been stored that was to be before. What is stored here are frames, into memory that the host has
/// read last: a packet at a time, each would wait for the other processor.
fn hand_over<C: Channel>(
    packets: &VecDeque<Packet>,
    shared: &Shared<C>,
    core: &mut Core<C>,
) -> (usize, Result<(), Error>) {
    if packets.is_empty() {
        return (0, Ok(()));
    }
    let frames = packets.iter().map(|packet| (packet.bytes(), packet.tx_meta()));
    match shared.send_all_before_flush(core, frames) {
        (gone, Ok(()) | Err(Error::Full)) => (gone, Ok(())),
        (taken, Err(error)) => (taken + 1, Err(error)),
    }
}

/// When the host is told of what was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doorbell {
    /// At once.
    Now,
    /// By the next flush, or the queue's task.
    PutOff,
}

impl<C: Channel> Sink<Packet> for PacketSink<C> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, packet: Packet) -> Result<(), Error> {
        self.get_mut().packets.push_back(packet);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_hand_over(cx, Doorbell::Now)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        if !this.packets.is_empty() {
            ready!(this.poll_hand_over(cx, Doorbell::Now))?;
        }
        match ready!(this.half.shared.poll_drained(cx)) {
            // The adapter was closed, which waits for everything that was handed over.
            Ok(()) | Err(Error::Closed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<C: Channel> Drop for PacketSink<C> {
    fn drop(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        let shared = &self.half.shared;
        let mut core = shared.lock();
        // Failures are what the other users of the queue are told.
        let (gone, _) = hand_over(&self.packets, shared, &mut core);
        core.queue.count_tx_dropped((self.packets.len() - gone) as u64);
        let _ = shared.flush(&mut core);
    }
}
