//! One queue as its users and its background task share it.
//!
//! The channel's rings and tables ([`netvsc::Queue`]) stand behind a mutex that is taken once a *burst*: by whoever
//! receives, by whoever sends, and by the queue's task when the host interrupts. The task is there so that completions
//! are reclaimed and receive completions go out even when nobody receives or sends.
//!
//! # Who wakes whom
//! Whoever finds nothing to do registers its waker, *then* arms the ring (unmask, look again): either the look finds
//! something, or the next packet interrupts. The interrupt wakes the task; the task pumps the ring and wakes the wakers
//! that got something. If that was the receiver, the ring stays masked while the receiver keeps receiving, so that a
//! busy queue takes no interrupts; the task then looks after it from time to time ([`BACKSTOP`]), lest a receiver that
//! was woken and never came leaves completions lying.
//!
//! A receiver that only polls ([`RxHalf::try_recv_burst`](super::RxHalf::try_recv_burst)) wants no interrupts at all: while it
//! goes on, the task leaves the ring masked and looks every [`BACKSTOP`].
//!
//! A ring that is masked has the task's attention: it has a timer, or has been called. Whoever takes something off the
//! ring wakes those whom it concerns, as the host may see the ring empty again and not interrupt for it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use netvsc::Instant;
use netvsc::meta::TxMeta;
use netvsc::queue::{FrameSink, HeldBurst, Pinned, QueueError, Rest, SendError};
use netvsc::vf::Way;
use vmbus::bus::Channel;
use vmbus::mem::Latch;

use super::gro::GroCounters;
use super::vf::VfLane;
use crate::clock::Clock;
use crate::error::Error;
use crate::wait::{Next, Waiter};

/// How long a ring may stay masked while its receiver is busy, before the queue's task looks itself.
pub(super) const BACKSTOP: Duration = Duration::from_millis(2);

/// How often the queue's task looks whether frames that are [held](netvsc::queue::held) were let go: whoever lets go of them, on
/// whatever thread, tells nobody, and the host may be short of their sections without having anything to say.
pub(super) const HELD_LOOK: Duration = Duration::from_millis(10);

/// What the mutex guards.
pub(crate) struct Core<C: Channel> {
    pub(crate) queue: netvsc::queue::Queue<C>,
    /// The virtual function's part, if one may be used.
    pub(crate) vf: Option<Box<VfLane>>,
    /// Since when frames wait for a doorbell that was put off.
    pub(crate) unflushed_since: Option<Instant>,
    /// The ring is unmasked: the next packet interrupts.
    pub(crate) armed: bool,
    /// The NIC's task has a timer by which it looks whether the host makes progress.
    pub(crate) watched: bool,
    /// Frames are held, and the queue's task has a timer by which it looks whether they still are.
    held_watched: bool,
    /// Completions that the sender was told of.
    completions: u64,
    /// No frames are taken: the NIC is being changed.
    paused: bool,
}

impl<C: Channel> Core<C> {
    /// Whether sends were completed since the last call.
    fn take_reclaimed(&mut self) -> bool {
        let completions = self.queue.completions();
        std::mem::replace(&mut self.completions, completions) != completions
    }

    /// Receives, by whatever path.
    #[inline]
    pub(super) fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> Result<usize, QueueError> {
        match &mut self.vf {
            None => self.queue.receive(sink, max),
            Some(vf) => vf.receive(&mut self.queue, sink, max),
        }
    }

    /// As [`receive`](Self::receive), but that longer frames of the rings are held, unless there is a virtual function.
    #[inline]
    pub(super) fn receive_held(&mut self, burst: &mut HeldBurst, max: usize) -> Result<usize, QueueError> {
        match self.vf.as_mut().filter(|vf| !vf.is_idle()) {
            None => self.queue.receive_held(burst, max),
            Some(vf) => vf.receive(&mut self.queue, burst, max),
        }
    }

    /// Whether a frame of `len` bytes would be taken now.
    pub(super) fn can_send(&mut self, len: usize) -> Result<bool, QueueError> {
        let Some(vf) = self.vf.as_mut().filter(|vf| !vf.is_idle()) else { return Ok(self.queue.can_send(len)) };
        Ok(match vf.way(&mut self.queue)? {
            Way::Rings => self.queue.can_send(len),
            Way::Vf => vf.has_room(len),
            _ => false,
        })
    }

    /// When the queue's task has to look again for the sake of frames that are held.
    pub(super) fn watch_held(&mut self) -> Option<Duration> {
        self.held_watched = self.queue.held_receives().packets > 0;
        self.held_watched.then_some(HELD_LOOK)
    }

    /// Sends that are not completed, by whatever path.
    fn outstanding(&mut self) -> usize {
        self.queue.outstanding() + self.vf.as_mut().map_or(0, |vf| vf.outstanding())
    }
}

pub(crate) struct Shared<C: Channel> {
    pub(crate) index: u16,
    core: Mutex<Core<C>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a doorbell may be put off.
    pub(crate) tx_latency: Duration,
    pub(super) receiver: AtomicWaker,
    pub(super) sender: AtomicWaker,
    /// The NIC's task, which handles control messages; used on the primary channel's queue only.
    pub(crate) control: Arc<AtomicWaker>,
    /// Calls the queue's own task. A latch: a call while the task is busy must not be lost.
    pub(super) task: Latch,
    /// The receiver has looked since the task last asked.
    pub(super) receiver_looked: AtomicBool,
    /// Somebody looks without ever waiting, and has since the task last asked: an interrupt would tell it nothing.
    pub(super) receiver_polls: AtomicBool,
    /// What merging received frames did.
    pub(crate) gro: GroCounters,
    /// The queue went over to a new channel: its task has to take the interrupt of that.
    pub(super) reopened: AtomicBool,
    /// Batches that were opened and dropped so far: odd while one is open.
    batches: AtomicU32,
    /// Frames in the one that is open.
    batched: AtomicU32,
    /// Bytes of a frame since the adapter was changed; 0 before.
    pub(crate) frame_bytes: Arc<AtomicUsize>,
    end: OnceLock<Result<(), Error>>,
}

impl<C: Channel> Shared<C> {
    pub(crate) fn new(
        queue: netvsc::queue::Queue<C>,
        clock: Arc<dyn Clock>,
        tx_latency: Duration,
        control: Arc<AtomicWaker>,
        with_vf: bool,
    ) -> Self {
        let index = queue.index();
        let vf = with_vf.then(|| Box::new(VfLane::new(Arc::clone(&control))));
        let core = Core {
            queue,
            vf,
            unflushed_since: None,
            armed: false,
            watched: false,
            held_watched: false,
            completions: 0,
            paused: false,
        };
        Self {
            index,
            core: Mutex::new(core),
            clock,
            tx_latency,
            receiver: AtomicWaker::new(),
            sender: AtomicWaker::new(),
            control,
            task: Latch::new(),
            receiver_looked: AtomicBool::new(false),
            receiver_polls: AtomicBool::new(false),
            gro: GroCounters::default(),
            reopened: AtomicBool::new(false),
            batches: AtomicU32::new(0),
            batched: AtomicU32::new(0),
            frame_bytes: Arc::default(),
            end: OnceLock::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core<C>> {
        // The tables behind it are consistent between any two of their methods.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`lock`](Self::lock), but `None` if that would have to be waited for.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Core<C>>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A batch is open from now on; the caller holds the lock.
    pub(super) fn batch_begins(&self) {
        self.batched.store(0, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// The batch has so many frames.
    pub(super) fn batch_grew(&self, frames: u32) {
        self.batched.store(frames, Ordering::Relaxed);
    }

    /// The batch is about to let go of the lock.
    pub(super) fn batch_ends(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// Names the batch that is open.
    pub(crate) fn open_batch(&self) -> Option<u32> {
        Some(self.batches.load(Ordering::Relaxed)).filter(|batches| batches % 2 == 1)
    }

    /// Frames in the batch that is open.
    pub(crate) fn batched(&self) -> u32 {
        self.batched.load(Ordering::Relaxed)
    }

    /// Whether waiting for the lock could be for ever: the same batch has been open since `seen`, which is brought up to date.
    /// It may be held across an `await` by a task of this very thread. Who finds it so looks again later.
    pub(crate) fn is_held(&self, seen: &mut Option<u32>) -> bool {
        let open = self.open_batch().filter(|_| matches!(self.core.try_lock(), Err(TryLockError::WouldBlock)));
        // A busy sender has a batch open most of the time, but not the same one.
        let held = open.is_some() && (seen.is_none() || *seen == open);
        *seen = open;
        held
    }

    /// The queue has ended: why, if not by [`close`](Self::close).
    pub(crate) fn ended(&self) -> Option<Result<(), Error>> {
        self.end.get().cloned()
    }

    /// Ends the queue, unless it has ended already; everybody who waits on it is woken.
    pub(crate) fn close(&self, failure: Option<Error>) {
        let _ = self.end.set(failure.map_or(Ok(()), Err));
        self.receiver.wake();
        self.sender.wake();
        self.call_task();
        self.control.wake();
    }

    /// Has the queue's task look.
    pub(super) fn call_task(&self) {
        self.task.set();
    }

    /// The host broke the protocol on this queue, or the channel is gone.
    fn fail(&self, error: QueueError) -> Error {
        let error = Error::Queue(error);
        tracing::error!(%error, "queue failed");
        self.close(Some(error.clone()));
        error
    }

    /// Makes `result`'s error the queue's end.
    pub(crate) fn check<T>(&self, result: Result<T, QueueError>) -> Result<T, Error> {
        result.map_err(|error| self.fail(error))
    }

    /// Unmasks and looks again; `true` means that there is something now.
    pub(super) fn arm(&self, core: &mut Core<C>) -> Result<bool, Error> {
        let found = self.check(core.queue.arm())?;
        if std::mem::replace(&mut core.armed, !found) && found {
            // Masked, perhaps before the host looked whether to interrupt: nobody but the task is sure to look again.
            self.call_task();
        }
        if !core.held_watched && core.watch_held().is_some() {
            // Whoever goes to sleep here does not see them let go.
            self.call_task();
        }
        Ok(found)
    }

    /// Receives up to `max` frames into `sink`; 0 means that the queue has ended.
    pub(crate) fn poll_receive<S: FrameSink>(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        sink: &mut S,
        max: usize,
    ) -> Poll<Result<usize, Error>> {
        self.poll_receive_by(cx, waiter, sink, max, Core::receive)
    }

    /// As [`poll_receive`](Self::poll_receive), by other means.
    pub(super) fn poll_receive_by<S: FrameSink>(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        sink: &mut S,
        max: usize,
        receive: impl Fn(&mut Core<C>, &mut S, usize) -> Result<usize, QueueError>,
    ) -> Poll<Result<usize, Error>> {
        self.receiver_looked.store(true, Ordering::Relaxed);
        let mut has_armed = false;
        loop {
            let mut guard = self.lock();
            let core = &mut *guard;
            if let Some(left) = self.after_end(core, sink, max) {
                return Poll::Ready(left);
            }
            let received = self.check(receive(core, sink, max))?;
            self.after_pump(core);
            if received > 0 {
                waiter.found();
                return Poll::Ready(Ok(received));
            }
            match waiter.empty(cx, &*self.clock) {
                Next::LookAgain => {
                    // Not under the lock: others send.
                    drop(guard);
                    std::hint::spin_loop();
                    continue;
                }
                Next::GiveWay => break,
                Next::Sleep => {}
            }
            self.receiver.register(cx.waker());
            self.receiver_polls.store(false, Ordering::Relaxed);
            let by_rings = self.arm(core)?;
            let by_vf = core.vf.as_mut().is_some_and(|vf| vf.has_received(cx));
            if !by_rings && !by_vf {
                return Poll::Pending;
            }
            // There is something by now: once more.
            if std::mem::replace(&mut has_armed, true) {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Wakes those for whom a pump found something, the receiver excepted.
    pub(crate) fn after_pump(&self, core: &mut Core<C>) {
        if core.queue.pending_controls() > 0 {
            self.control.wake();
        }
        if core.take_reclaimed() {
            self.sender.wake();
            if core.vf.as_ref().is_some_and(|vf| vf.is_settling()) {
                // It was the last one, perhaps, that the other path waits for.
                self.control.wake();
            }
        }
    }

    /// After the adapter's task worked on the queue: wakes whom it concerns that it was paused, resumed, or went over to a new
    /// channel.
    pub(crate) fn follow(&self, core: &mut Core<C>) {
        if core.queue.has_interrupt() {
            core.armed = false;
            core.unflushed_since = None;
            self.reopened.store(true, Ordering::Release);
            self.call_task();
        }
        let paused = core.queue.is_paused();
        if std::mem::replace(&mut core.paused, paused) && !paused {
            self.sender.wake();
        }
    }

    /// The interrupt of the channel that the queue goes over to; `None` if it ends instead.
    pub(super) async fn next_interrupt(&self) -> Option<C::Interrupt> {
        poll_fn(|cx| {
            loop {
                if self.ended().is_some() {
                    return Poll::Ready(None);
                }
                let mut core = self.lock();
                if let Some(interrupt) = core.queue.take_interrupt() {
                    self.reopened.store(false, Ordering::Relaxed);
                    return Poll::Ready(Some(interrupt));
                }
                drop(core);
                if self.task.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Whether an interrupt that fails is no reason to end the queue: its channel was closed to be opened again.
    pub(super) fn is_between_channels(&self) -> bool {
        let core = self.lock();
        core.queue.is_detached() || core.queue.has_interrupt()
    }

    /// What a queue that has ended still gives: frames that were received before it was taken away, in order.
    pub(super) fn after_end<S: FrameSink>(
        &self,
        core: &mut Core<C>,
        sink: &mut S,
        max: usize,
    ) -> Option<Result<usize, Error>> {
        let end = self.ended()?;
        Some(end.map(|()| {
            // What came by a VF came before.
            let by_vf = core.vf.as_mut().map_or(0, |vf| vf.receive_kept(sink, max));
            by_vf + core.queue.receive_kept(sink, max - by_vf)
        }))
    }

    /// Wakes the queue's users for whom the adapter's task found something, as it was after control messages.
    pub(crate) fn wake_users(&self, core: &mut Core<C>) {
        if core.queue.backlog() > 0 {
            self.receiver.wake();
        }
        if core.take_reclaimed() {
            self.sender.wake();
        }
    }

    /// What was received may be given again.
    pub(crate) fn receiver_may_go_on(&self) {
        self.receiver.wake();
    }

    /// The adapter's task changed the paths: whoever waits looks again.
    pub(crate) fn wake_all(&self) {
        self.receiver.wake();
        self.sender.wake();
    }

    /// Sends one frame; the doorbell may be put off by the setting. `Pending`: nothing was taken.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, frame: &[u8], meta: &TxMeta) -> Poll<Result<(), Error>> {
        let mut guard = self.lock();
        self.poll_send_locked(&mut guard, cx, frame, meta)
    }

    /// As [`poll_send`](Self::poll_send), under the caller's lock.
    pub(super) fn poll_send_locked(
        &self,
        core: &mut Core<C>,
        cx: &mut Context<'_>,
        frame: &[u8],
        meta: &TxMeta,
    ) -> Poll<Result<(), Error>> {
        self.poll_taken(core, cx, frame.len(), |core| self.send(core, frame, meta))
    }

    /// As [`poll_send`](Self::poll_send), and the host is told at once.
    pub(super) fn poll_send_and_flush(
        &self,
        cx: &mut Context<'_>,
        frame: &[u8],
        meta: &TxMeta,
    ) -> Poll<Result<(), Error>> {
        let mut guard = self.lock();
        let core = &mut *guard;
        let taken = self.poll_taken(core, cx, frame.len(), |core| self.send_before_flush(core, frame, meta));
        taken.map(|taken| taken.and_then(|()| self.flush(core)))
    }

    /// Ready once `take` has not said that there is no room for its `len` bytes.
    fn poll_taken(
        &self,
        core: &mut Core<C>,
        cx: &mut Context<'_>,
        len: usize,
        take: impl Fn(&mut Core<C>) -> Result<(), Error>,
    ) -> Poll<Result<(), Error>> {
        for _ in 0..2 {
            match take(core) {
                Err(Error::Full) => {}
                result => return Poll::Ready(result),
            }
            self.register_sender(core, cx);
            if !self.wait_for_room(core, len)? {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Asks to be told of room for a frame of `len` bytes; `true` if there may be some now.
    pub(super) fn wait_for_room(&self, core: &mut Core<C>, len: usize) -> Result<bool, Error> {
        if let Some(vf) = core.vf.as_mut().filter(|vf| !vf.is_idle()) {
            vf.flush();
            match self.check(vf.way(&mut core.queue))? {
                Way::Rings => {}
                Way::Vf => return Ok(vf.has_sent_some()),
                Way::AfterVf => return Ok(vf.has_sent(0)),
                // `way` has flushed.
                _ => return Ok(self.pump_for_sender(core)? || self.arm(core)?),
            }
        }
        if self.pump_for_sender(core)? {
            // The host is still to be told of what was handed over: whoever found room may not use it.
            return Ok(true);
        }
        core.unflushed_since = None;
        if self.check(core.queue.want_send_room(len))? {
            return Ok(true);
        }
        self.arm(core)
    }

    /// Registers whoever sends: it is woken when there may be room.
    pub(super) fn register_sender(&self, core: &Core<C>, cx: &mut Context<'_>) {
        self.sender.register(cx.waker());
        if let Some(vf) = &core.vf {
            vf.signal().sender.register(cx.waker());
        }
    }

    /// Takes what is in the ring on the sender's behalf; whether sends were completed.
    fn pump_for_sender(&self, core: &mut Core<C>) -> Result<bool, Error> {
        let pumped = self.check(core.queue.pump())?;
        if pumped.controls > 0 {
            self.control.wake();
        }
        if pumped.ranges > 0 {
            self.receiver.wake();
        }
        let reclaimed = core.take_reclaimed();
        if reclaimed && core.vf.as_ref().is_some_and(|vf| vf.is_settling()) {
            self.control.wake();
        }
        Ok(reclaimed)
    }

    /// Hands one frame to the queue without a doorbell; the queue's task rings it in time.
    ///
    /// # Errors
    /// [`Error::Full`]: nothing was taken.
    pub(super) fn send(&self, core: &mut Core<C>, frame: &[u8], meta: &TxMeta) -> Result<(), Error> {
        self.send_before_flush(core, frame, meta)?;
        self.put_off_doorbell(core);
        Ok(())
    }

    /// Frames were handed over without a doorbell: has somebody ring it in time, if the sender does not.
    pub(super) fn put_off_doorbell(&self, core: &mut Core<C>) {
        if core.unflushed_since.is_none() {
            core.unflushed_since = Some(self.clock.now());
            self.call_task();
        }
    }

    /// As [`send`](Self::send), for a caller that flushes before it lets go of the lock: nobody has to be woken, and no
    /// clock read, for a doorbell that is not put off.
    pub(super) fn send_before_flush(&self, core: &mut Core<C>, frame: &[u8], meta: &TxMeta) -> Result<(), Error> {
        if let Some(end) = self.ended() {
            return Err(end.err().unwrap_or(Error::Closed));
        }
        let (sent, by_rings) = match &mut core.vf {
            None => (core.queue.send(frame, meta), true),
            Some(vf) => (vf.send(&mut core.queue, frame, meta), core.queue.outstanding() > 0),
        };
        self.after_send(core, sent, by_rings)
    }

    /// As [`send_before_flush`](Self::send_before_flush), of several frames, until one is not taken: how many were, and why the next
    /// was not. What is asked and told once a frame there is asked and told once here.
    pub(super) fn send_all_before_flush<'f>(
        &self,
        core: &mut Core<C>,
        frames: impl Iterator<Item = (&'f [u8], &'f TxMeta)>,
    ) -> (usize, Result<(), Error>) {
        let mut taken = 0;
        if core.vf.is_some() {
            for (frame, meta) in frames {
                if let Err(error) = self.send_before_flush(core, frame, meta) {
                    return (taken, Err(error));
                }
                taken += 1;
            }
            return (taken, Ok(()));
        }
        if let Some(end) = self.ended() {
            return (0, Err(end.err().unwrap_or(Error::Closed)));
        }
        let mut sent = Ok(());
        for (frame, meta) in frames {
            sent = core.queue.send(frame, meta);
            if sent.is_err() {
                break;
            }
            taken += 1;
        }
        if taken > 0 {
            // Even if the last one was not: the host has the others.
            let _ = self.after_send(core, Ok(()), true);
        }
        (taken, sent.or_else(|error| self.after_send(core, Err(error), true)))
    }

    /// As [`send_before_flush`](Self::send_before_flush), of a frame whose end is pinned. A virtual function takes whole frames: to
    /// one it goes out of memory of its own.
    pub(super) fn send_pinned_before_flush(
        &self,
        core: &mut Core<C>,
        head: &[u8],
        pinned: &Pinned,
        meta: &TxMeta,
    ) -> Result<(), Error> {
        if core.vf.as_ref().is_some_and(|vf| !vf.is_idle()) {
            return self.send_before_flush(core, &[head, pinned.bytes()].concat(), meta);
        }
        if let Some(end) = self.ended() {
            return Err(end.err().unwrap_or(Error::Closed));
        }
        let sent = core.queue.send_pinned(head, pinned, meta);
        self.after_send(core, sent, true)
    }

    /// As [`send_before_flush`](Self::send_before_flush), of a frame whose rest is held. A virtual function takes whole frames: to
    /// one it goes out of memory of its own.
    pub(super) fn send_held_before_flush(
        &self,
        core: &mut Core<C>,
        head: &[u8],
        rest: Rest<'_>,
        meta: &TxMeta,
    ) -> Result<(), Error> {
        if core.vf.as_ref().is_some_and(|vf| !vf.is_idle()) {
            let mut frame = vec![0; head.len() + rest.len()];
            let (into_head, into_rest) = frame.split_at_mut(head.len());
            into_head.copy_from_slice(head);
            rest.read(0, into_rest).map_err(|_| Error::Send(SendError::Gone))?;
            return self.send_before_flush(core, &frame, meta);
        }
        if let Some(end) = self.ended() {
            return Err(end.err().unwrap_or(Error::Closed));
        }
        let sent = core.queue.send_held(head, rest, meta);
        self.after_send(core, sent, true)
    }

    #[inline(always)]
    fn after_send(&self, core: &mut Core<C>, sent: Result<(), SendError>, by_rings: bool) -> Result<(), Error> {
        match sent {
            // The host's progress matters with what the rings hold.
            Ok(()) if !by_rings => Ok(()),
            Ok(()) => {
                if !std::mem::replace(&mut core.watched, true) {
                    self.control.wake();
                }
                Ok(())
            }
            Err(SendError::Full) => Err(Error::Full),
            Err(SendError::Queue(error)) => Err(self.fail(error)),
            Err(error) => Err(Error::Send(error)),
        }
    }

    /// Rings the doorbell for all that was sent.
    pub(super) fn flush(&self, core: &mut Core<C>) -> Result<(), Error> {
        if let Some(end) = self.ended() {
            return Err(end.err().unwrap_or(Error::Closed));
        }
        core.unflushed_since = None;
        if let Some(vf) = &mut core.vf {
            vf.flush();
        }
        self.check(core.queue.flush())?;
        if core.queue.is_short_of_sections() {
            // Many completions at once, and before frames have to go where they cost more.
            if self.check(core.queue.pump())?.ranges > 0 {
                self.receiver.wake();
            }
            self.after_pump(core);
        }
        Ok(())
    }

    /// Ready once everything that was sent is completed by the host, or the queue has ended.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut guard = self.lock();
        let core = &mut *guard;
        for _ in 0..2 {
            if let Some(end) = self.ended() {
                return Poll::Ready(end.and(Err(Error::Closed)));
            }
            self.flush(core)?;
            if core.outstanding() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.register_sender(core, cx);
            let sent_by_vf = core.vf.as_mut().is_some_and(|vf| vf.outstanding() > 0 && vf.has_sent(0));
            if !sent_by_vf && !self.pump_for_sender(core)? && !self.arm(core)? {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
