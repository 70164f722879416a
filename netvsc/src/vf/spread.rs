//! A device's queues shared by the queues of an adapter: whatever queue of the device a frame came by, it is received by the
//! queue of the adapter that the rings would have used.
//!
//! A virtual function spreads what it receives by a key, a table and a number of queues of its own. Were each of its queues
//! simply received from by one of the adapter's, a flow would change queues with each switch of the data path: its frames
//! would overtake each other, and who keeps something for each flow, a queue a core, would look for it in the wrong place.
//!
//! ```text
//!   device's queue 0 ──► Share 0 ──┬──────────────► adapter's queue 0      flows that the rings would have put there
//!                                  └─ mailbox 1 ─┐
//!   device's queue 1 ──► Share 1 ──┬─────────────┴► adapter's queue 1
//!                                  └─ mailbox 0 ──► …
//! ```
//!
//! A [`Share`] receives from its own queues of the device, gives its own frames, and puts the others into the mailboxes of those
//! whom they are for: one more copy, and none where the device spreads as the rings do. [`VfStats::vf_rx_steered`] counts them.
//! What is in all queues of the device is taken at once by [`VfQueue::collect`], which is what the order across a switch needs.
//! Sending needs nothing of this: each of the adapter's queues has one of the device's to send by, or goes on with its rings.
//!
//! Locks are taken in the order queue of the device, mailbox, and only for as long as frames are copied. A mailbox holds as much as
//! all of the device's queues; what is for a queue of the adapter that nobody receives from is dropped beyond that, and
//! counted ([`VfStats::vf_rx_dropped`]), lest it be in the way of the others.
//!
//! [`VfStats::vf_rx_steered`]: crate::stats::VfStats::vf_rx_steered
//! [`VfStats::vf_rx_dropped`]: crate::stats::VfStats::vf_rx_dropped

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::meta::RxMeta;
use crate::queue::FrameSink;

use super::device::{Unreceived, VfQueue, VfSendError};
use super::rules::RxRules;

/// Calls of [`VfQueue::receive`] after which it is looked whether somebody else does not come for what is in the device. Also of
/// one that finds something each time: what is there for it would wait for as long as that goes on.
const LOOKS: u32 = 32;

/// A lock of some environment.
pub trait Lock<T> {
    /// Puts a value behind it.
    fn new(value: T) -> Self;

    /// Calls `work` with what is behind it; never twice at a time.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

/// What the environment has to give: this crate has neither locks nor tasks.
pub trait Surroundings {
    /// Its lock.
    type Lock<T>: Lock<T>;

    /// There is something in the mailbox of this [`Share`], counted from 0: whoever receives by it has to look.
    fn call(&self, share: usize);
}

/// All shares are used by one thread, which looks at each of them in turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneThread;

impl<T> Lock<T> for RefCell<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.borrow_mut())
    }
}

impl Surroundings for OneThread {
    type Lock<T> = RefCell<T>;

    fn call(&self, _share: usize) {}
}

/// Frames of other queues for one of the adapter's.
struct Mailbox<S: Surroundings> {
    frames: S::Lock<VecDeque<(Vec<u8>, RxMeta)>>,
    /// How many there are: to be read without the lock.
    waiting: AtomicUsize,
    /// Its owner has come for its own queues since somebody looked.
    attended: AtomicBool,
    /// Its owner has gone.
    closed: AtomicBool,
    steered: AtomicU64,
    dropped: AtomicU64,
}

impl<S: Surroundings> Mailbox<S> {
    fn new() -> Self {
        Self {
            frames: Lock::new(VecDeque::new()),
            waiting: AtomicUsize::new(0),
            attended: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            steered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn put(&self, frame: &[u8], meta: RxMeta, limit: usize) {
        let taken = self.frames.with(|frames| {
            let room = frames.len() < limit && !self.closed.load(Ordering::Relaxed);
            if room {
                frames.push_back((frame.to_vec(), meta));
                self.waiting.store(frames.len(), Ordering::Release);
            }
            room
        });
        let counter = if taken { &self.steered } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives at most `max` frames; how many, and whether it is empty.
    fn give<K: FrameSink>(&self, sink: &mut K, max: usize) -> (usize, bool) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return (0, true);
        }
        self.frames.with(|frames| {
            let mut given = 0;
            while given < max
                && let Some((frame, meta)) = frames.front()
            {
                if let Some(room) = sink.buffer(frame.len()) {
                    room.copy_from_slice(frame);
                    sink.commit(frame.len(), *meta);
                    given += 1;
                } else if frame.len() <= sink.max_frame() {
                    break;
                } else {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                frames.pop_front();
            }
            self.waiting.store(frames.len(), Ordering::Release);
            (given, frames.is_empty())
        })
    }
}

/// A counter's value, which begins anew.
fn taken(counter: &AtomicU64) -> u64 {
    // Most often there is nothing to be written.
    if counter.load(Ordering::Relaxed) == 0 { 0 } else { counter.swap(0, Ordering::Relaxed) }
}

/// What all shares of a device have.
struct Common<V, S: Surroundings> {
    surroundings: S,
    queues: Box<[S::Lock<V>]>,
    mailboxes: Box<[Mailbox<S>]>,
    /// By index of the adapter's queue: whose share it is.
    shares: Box<[Option<u16>]>,
    rules: S::Lock<Arc<RxRules>>,
    /// Frames that the rings of all queues hold.
    capacity: usize,
}

impl<V, S: Surroundings> Common<V, S> {
    /// Whose queue of the device it is.
    fn owner(&self, queue: usize) -> usize {
        queue % self.mailboxes.len()
    }

    /// For whom a frame is; one for a queue of the adapter that is not there is for the first.
    fn share_of(&self, rules: &RxRules, meta: &RxMeta) -> usize {
        let queue = usize::from(rules.queue_of(meta.hash));
        self.shares.get(queue).copied().flatten().map_or(0, usize::from)
    }
}

/// The part of a device that one queue of an adapter has.
pub struct Share<V, S: Surroundings> {
    common: Arc<Common<V, S>>,
    index: usize,
    /// Of its own queues: the one that is received from first. It goes round, so that none takes all the room.
    next: usize,
    /// Calls to receive since it was looked whether the others come.
    calls: u32,
    /// Who got something.
    called: Box<[bool]>,
}

impl<V, S: Surroundings> fmt::Debug for Share<V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<V, S: Surroundings> Drop for Share<V, S> {
    fn drop(&mut self) {
        let mailbox = &self.common.mailboxes[self.index];
        mailbox.frames.with(|frames| {
            mailbox.closed.store(true, Ordering::Relaxed);
            // Told of by those who stay.
            mailbox.dropped.fetch_add(frames.len() as u64, Ordering::Relaxed);
            frames.clear();
        });
    }
}

impl<V: VfQueue, S: Surroundings> Share<V, S> {
    /// Deals the queues of a device out, by turns, to the queues of the adapter with these indices: a share for each, in this
    /// order. Frames for one that is not among them go to the first. There may be more of them than the device has
    /// queues: the last ones then only receive.
    pub fn deal(surroundings: S, queues: Vec<V>, adapter: &[u16], rules: Arc<RxRules>) -> Vec<Self> {
        let mut shares = alloc::vec![None; adapter.iter().max().map_or(0, |&last| usize::from(last) + 1)];
        for (share, &queue) in adapter.iter().enumerate() {
            shares[usize::from(queue)] = u16::try_from(share).ok();
        }
        let common = Arc::new(Common {
            surroundings,
            capacity: queues.iter().fold(0, |sum, queue| sum + queue.receive_capacity()),
            queues: queues.into_iter().map(Lock::new).collect(),
            mailboxes: adapter.iter().map(|_| Mailbox::new()).collect(),
            shares: shares.into(),
            rules: Lock::new(rules),
        });
        let called = || alloc::vec![false; adapter.len()].into();
        let share = |index| Self { common: Arc::clone(&common), index, next: 0, calls: 0, called: called() };
        (0..adapter.len()).map(share).collect()
    }

    /// Received frames are spread, hashed or tagged in another way from now on, for all shares.
    pub fn set_rules(&self, rules: Arc<RxRules>) {
        self.common.rules.with(|current| *current = rules);
    }

    /// Calls `work` with the queue of the device that it sends by, if it has one.
    pub fn with_sending<R>(&mut self, work: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.first().map(|queue| queue.with(work))
    }

    /// Calls `work` with each queue of the device, and the share whose own it is, counted from 0.
    pub fn for_each(&mut self, mut work: impl FnMut(usize, &mut V)) {
        for (at, queue) in self.common.queues.iter().enumerate() {
            queue.with(|queue| work(self.common.owner(at), queue));
        }
    }

    /// Whether there is something in its mailbox.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.mailbox().waiting.load(Ordering::Acquire) > 0
    }

    /// Which of them it is, counted from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Takes what is in the queues of other shares, those that `wanted` names, counted from 0: for who waits for something that may
    /// be there, while nobody comes for it.
    pub fn collect_from(&mut self, wanted: impl Fn(usize) -> bool) {
        let index = self.index;
        self.collect_if(|_, owner| owner != index && wanted(owner));
    }

    /// Takes what is in the queues of others for which nobody has come since this was last called.
    fn collect_unattended(&mut self) {
        let index = self.index;
        self.collect_if(|common, owner| {
            owner != index && !common.mailboxes[owner].attended.swap(false, Ordering::Relaxed)
        });
    }

    fn own(&self) -> impl Iterator<Item = &S::Lock<V>> {
        self.common.queues.iter().skip(self.index).step_by(self.common.mailboxes.len())
    }

    /// By which it sends.
    fn first(&self) -> Option<&S::Lock<V>> {
        self.common.queues.get(self.index)
    }

    fn mailbox(&self) -> &Mailbox<S> {
        &self.common.mailboxes[self.index]
    }

    fn rules(&self) -> Arc<RxRules> {
        self.common.rules.with(|rules| Arc::clone(rules))
    }

    /// Empties the queues whose owners `wanted` names into mailboxes.
    fn collect_if(&mut self, wanted: impl Fn(&Common<V, S>, usize) -> bool) {
        let rules = self.rules();
        let Self { common, called, .. } = self;
        let wanted: Vec<bool> = (0..common.mailboxes.len()).map(|owner| wanted(common, owner)).collect();
        for (_, queue) in common.queues.iter().enumerate().filter(|(at, _)| wanted[common.owner(*at)]) {
            queue.with(|queue| {
                if queue.has_received() {
                    let mut sorted =
                        Sorted { sink: Nobody::default(), own: None, given: 0, common, rules: &rules, called };
                    queue.receive(&mut sorted, queue.receive_capacity());
                }
            });
        }
        self.call();
    }

    /// Calls those who got something.
    fn call(&mut self) {
        for (share, called) in self.called.iter_mut().enumerate() {
            if core::mem::take(called) && share != self.index {
                self.common.surroundings.call(share);
            }
        }
    }
}

impl<V: VfQueue, S: Surroundings> VfQueue for Share<V, S> {
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.first().map_or(Err(VfSendError::NotReady), |queue| queue.with(|queue| queue.send(frame)))
    }

    fn can_send(&self) -> bool {
        self.first().is_some()
    }

    fn room(&mut self) -> usize {
        self.first().map_or(0, |queue| queue.with(VfQueue::room))
    }

    fn flush(&mut self) {
        if let Some(queue) = self.first() {
            queue.with(VfQueue::flush);
        }
    }

    fn outstanding(&mut self) -> usize {
        self.first().map_or(0, |queue| queue.with(VfQueue::outstanding))
    }

    fn take_lost(&mut self) -> u64 {
        self.own().map(|queue| queue.with(VfQueue::take_lost)).sum()
    }

    fn take_received_lost(&mut self) -> u64 {
        let own: u64 = self.own().map(|queue| queue.with(VfQueue::take_received_lost)).sum();
        // Who has gone does not ask any more.
        let gone = self.common.mailboxes.iter().filter(|mailbox| mailbox.closed.load(Ordering::Relaxed));
        own + taken(&self.mailbox().dropped) + gone.map(|mailbox| taken(&mailbox.dropped)).sum::<u64>()
    }

    fn take_unreceived(&mut self) -> Unreceived {
        self.own().fold(Unreceived::default(), |mut sum, queue| {
            sum += queue.with(VfQueue::take_unreceived);
            sum
        })
    }

    fn take_steered(&mut self) -> u64 {
        taken(&self.mailbox().steered)
    }

    fn has_received(&mut self) -> bool {
        self.has_mail() || self.own().any(|queue| queue.with(VfQueue::has_received))
    }

    fn receive<K: FrameSink>(&mut self, sink: &mut K, max: usize) -> usize {
        self.mailbox().attended.store(true, Ordering::Relaxed);
        let rules = self.rules();
        let shares = self.common.mailboxes.len();
        let own = self.own().count();
        let mut got = 0;
        for _ in 0..own {
            let Self { common, index, next, called, .. } = self;
            let mailbox = &common.mailboxes[*index];
            let mut mail_first = false;
            let full = common.queues[*index + *next * shares].with(|queue| {
                // What was taken out of this queue before comes before; nobody takes anything out of it now.
                let (given, is_empty) = mailbox.give(sink, max - got);
                got += given;
                mail_first = !is_empty || got == max;
                // Frames for others do not count, so there is another bound.
                let mut left = queue.receive_capacity();
                while is_empty && got < max && left > 0 {
                    let at_once = left.min(max - got);
                    let mut sorted =
                        Sorted { sink: &mut *sink, own: Some(*index), given: 0, common, rules: &rules, called };
                    let taken = queue.receive(&mut sorted, at_once);
                    got += sorted.given;
                    left -= taken.min(left);
                    if taken < at_once {
                        break;
                    }
                }
                mail_first || got == max
            });
            if !mail_first {
                // Also if this one took all the room: it would each time, and the next never have any.
                *next = (*next + 1) % own;
            }
            if full {
                break;
            }
        }
        if own == 0 {
            got += self.mailbox().give(sink, max).0;
        }
        self.calls += 1;
        if self.calls == LOOKS {
            self.calls = 0;
            self.collect_unattended();
            got += self.mailbox().give(sink, max - got).0;
        }
        self.call();
        got
    }

    fn collect(&mut self) {
        self.collect_if(|_, _| true);
    }

    /// Its metadata are complete.
    fn completes(&self) -> bool {
        true
    }

    fn receive_capacity(&self) -> usize {
        // The mailbox, and its own.
        2 * self.common.capacity
    }
}

/// A sink that completes what comes by the device, gives its owner's frames to `sink`, and puts the others into mailboxes.
struct Sorted<'a, K, V, S: Surroundings> {
    sink: K,
    own: Option<usize>,
    given: usize,
    common: &'a Common<V, S>,
    rules: &'a RxRules,
    called: &'a mut [bool],
}

impl<K: FrameSink, V, S: Surroundings> FrameSink for Sorted<'_, K, V, S> {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.sink.buffer(len)
    }

    fn commit(&mut self, len: usize, mut meta: RxMeta) {
        // The frame once more.
        let Some(frame) = self.sink.buffer(len) else { return };
        let len = self.rules.apply(frame, &mut meta);
        let share = self.common.share_of(self.rules, &meta);
        if self.own == Some(share) {
            self.sink.commit(len, meta);
            self.given += 1;
        } else {
            self.common.mailboxes[share].put(&frame[..len], meta, self.common.capacity);
            self.called[share] = true;
        }
    }

    #[inline]
    fn max_frame(&self) -> usize {
        self.sink.max_frame()
    }
}

/// A sink that keeps nothing.
#[derive(Default)]
pub(super) struct Nobody(Vec<u8>);

impl FrameSink for Nobody {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.resize(len, 0);
        Some(&mut self.0)
    }

    fn commit(&mut self, _: usize, _: RxMeta) {}
}
