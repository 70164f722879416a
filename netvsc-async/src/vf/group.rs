//! The part of a virtual function that belongs to one queue of the adapter: [`Share`], with the locks and wakers of threads and
//! tasks.
//!
//! # Who wakes whom
//! Whoever waits for its queues of the device waits for those of the others as well: if the one whose they are does not wait,
//! and does not come, what is there for others is taken by who does. [`Bell`] wakes the owner if it waits, else all who do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use netvsc::queue::FrameSink;
use netvsc::vf::{Lock, RxRules, Share, Surroundings, Unreceived, VfQueue, VfSendError};
use tokio::time::{Instant, Sleep};

use super::backend::{AsyncVfQueue, BoxVf};

/// How long a queue of the device is left to its owner, who was there a moment ago, before another looks again.
const PATIENCE: Duration = Duration::from_millis(2);

/// A lock of the standard library's.
pub(crate) struct StdLock<T>(Mutex<T>);

impl<T> Lock<T> for StdLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // What is behind it is consistent between any two of its methods.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Those who wait for what is received, by number of their share.
#[derive(Clone)]
struct Receivers(Arc<[AtomicWaker]>);

impl Surroundings for Receivers {
    type Lock<T> = StdLock<T>;

    fn call(&self, share: usize) {
        self.0[share].wake();
    }
}

/// The waker that a queue of the device is given.
struct Bell {
    receivers: Receivers,
    owner: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.receivers.0[self.owner].take() {
            Some(owner) => owner.wake(),
            None => self.receivers.0.iter().for_each(AtomicWaker::wake),
        }
    }
}

/// See the [module](self).
pub(crate) struct VfGroup {
    share: Share<BoxVf, Receivers>,
    receivers: Receivers,
    /// By number of the owner's share.
    bells: Arc<[Waker]>,
    /// Until when somebody else's queue is left to it.
    patience: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for VfGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.share.fmt(f)
    }
}

impl VfGroup {
    /// Deals the queues of a device out to the queues of the adapter with these indices: see [`Share::deal`].
    pub(crate) fn deal(queues: Vec<BoxVf>, adapter: &[u16], rules: Arc<RxRules>) -> Vec<Self> {
        let receivers = Receivers(adapter.iter().map(|_| AtomicWaker::new()).collect());
        let bell = |owner| Waker::from(Arc::new(Bell { receivers: receivers.clone(), owner }));
        let bells: Arc<[Waker]> = (0..adapter.len()).map(bell).collect();
        let shares = Share::deal(receivers.clone(), queues, adapter, rules).into_iter();
        shares
            .map(|share| Self { share, receivers: receivers.clone(), bells: Arc::clone(&bells), patience: None })
            .collect()
    }

    /// What each of the device's queues has counted, whosever it is.
    pub(crate) fn counters(&mut self) -> Vec<Vec<(&'static str, u64)>> {
        let mut counters = Vec::new();
        self.share.for_each(|_, queue| counters.push(queue.counters()));
        counters
    }

    /// What is received is spread, hashed or tagged in another way from now on, for all shares of the device.
    pub(crate) fn set_rules(&self, rules: Arc<RxRules>) {
        self.share.set_rules(rules);
    }
}

impl VfQueue for VfGroup {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.share.send(frame)
    }

    fn can_send(&self) -> bool {
        self.share.can_send()
    }

    fn room(&mut self) -> usize {
        self.share.room()
    }

    fn flush(&mut self) {
        self.share.flush();
    }

    fn outstanding(&mut self) -> usize {
        self.share.outstanding()
    }

    fn take_lost(&mut self) -> u64 {
        self.share.take_lost()
    }

    fn take_received_lost(&mut self) -> u64 {
        self.share.take_received_lost()
    }

    fn take_unreceived(&mut self) -> Unreceived {
        self.share.take_unreceived()
    }

    fn take_steered(&mut self) -> u64 {
        self.share.take_steered()
    }

    fn collect(&mut self) {
        self.share.collect();
    }

    fn completes(&self) -> bool {
        self.share.completes()
    }

    fn has_received(&mut self) -> bool {
        self.share.has_received()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        self.share.receive(sink, max)
    }

    fn receive_capacity(&self) -> usize {
        self.share.receive_capacity()
    }
}

impl AsyncVfQueue for VfGroup {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { share, receivers, bells, patience } = self;
        let index = share.index();
        receivers.0[index].register(cx.waker());
        // All of them, whichever is ready.
        let (mut own, mut others) = (false, false);
        share.for_each(|owner, queue| {
            let ready = queue.poll_received(&mut Context::from_waker(&bells[owner])).is_ready();
            own |= ready && owner == index;
            others |= ready && owner != index;
        });
        if others {
            share.collect_unattended();
        }
        if own || share.has_mail() {
            return Poll::Ready(());
        }
        if others {
            // Its owner was there a moment ago, or what there was is for others.
            let until = Instant::now() + PATIENCE;
            let sleep = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            sleep.as_mut().reset(until);
            return sleep.as_mut().poll(cx);
        }
        Poll::Pending
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        self.share.with_sending(|queue| queue.poll_sent(cx, at_most)).unwrap_or(Poll::Ready(()))
    }
}

#[cfg(test)]
mod tests {
    use netvsc::meta::RxMeta;
    use netvsc::queue::Burst;

    use super::*;

    /// Has received so many frames of one byte, its number; takes all that it is given.
    struct Fake {
        number: u8,
        received: usize,
        sent: usize,
    }

    impl VfQueue for Fake {
        fn send(&mut self, _: &[u8]) -> Result<(), VfSendError> {
            self.sent += 1;
            Ok(())
        }

        fn room(&mut self) -> usize {
            usize::MAX
        }

        fn flush(&mut self) {}

        fn outstanding(&mut self) -> usize {
            self.sent
        }

        fn has_received(&mut self) -> bool {
            self.received > 0
        }

        fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
            let frames = max.min(self.received);
            for _ in 0..frames {
                sink.buffer(1).expect("room")[0] = self.number;
                sink.commit(1, RxMeta::default());
            }
            self.received -= frames;
            frames
        }

        fn receive_capacity(&self) -> usize {
            10
        }
    }

    impl AsyncVfQueue for Fake {
        fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<()> {
            if self.received > 0 { Poll::Ready(()) } else { Poll::Pending }
        }

        fn poll_sent(&mut self, _: &mut Context<'_>, at_most: usize) -> Poll<()> {
            if self.sent <= at_most { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    /// The shares of so many queues of the adapter; without a hash all frames are for the first.
    fn groups(received: [usize; 3], lanes: u16) -> Vec<VfGroup> {
        let queues =
            [0, 1, 2].map(|number| BoxVf::new(Fake { number, received: received[usize::from(number)], sent: 0 }));
        VfGroup::deal(queues.into(), &(0..lanes).collect::<Vec<_>>(), Arc::default())
    }

    fn group(received: [usize; 3]) -> VfGroup {
        groups(received, 1).remove(0)
    }

    fn receive(group: &mut VfGroup, max: usize) -> Vec<u8> {
        let mut burst = Burst::new(64, 64 * 64);
        assert_eq!(group.receive(&mut burst, max), burst.len());
        burst.frames().map(|frame| frame.bytes[0]).collect()
    }

    #[test]
    fn all_queues_are_received_from_and_none_starves() {
        let mut group = group([3, 0, 2]);
        assert!(group.has_received());
        assert_eq!(receive(&mut group, 2), [0, 0]);
        assert_eq!(receive(&mut group, 2), [2, 2]);
        assert_eq!(receive(&mut group, 2), [0]);
        assert!(!group.has_received());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(group.poll_received(&mut cx).is_pending());
    }

    #[test]
    fn whichever_has_received_something_wakes() {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(group([0, 0, 1]).poll_received(&mut cx).is_ready());
        assert!(group([1, 0, 0]).poll_received(&mut cx).is_ready());
    }

    #[test]
    fn frames_are_sent_by_the_first_alone() {
        let mut group = group([0; 3]);
        for _ in 0..3 {
            group.send(&[0]).unwrap();
        }
        assert_eq!(group.outstanding(), 3);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(group.poll_sent(&mut cx, 2).is_pending());
        assert!(group.poll_sent(&mut cx, 3).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_queue_of_one_who_does_not_come_is_got_by_who_waits_for_it() {
        let mut groups = groups([0, 2, 0], 2);
        let (first, second) = groups.split_at_mut(1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first[0].poll_received(&mut cx).is_pending(), "the other was just made: it may come");
        assert!(first[0].poll_received(&mut cx).is_ready(), "it did not");
        assert_eq!(receive(&mut first[0], 8), [1, 1]);
        assert!(second[0].poll_received(&mut cx).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_something_by_the_queue_of_another_is_woken() {
        let mut groups = groups([0, 2, 0], 2);
        let (first, second) = groups.split_at_mut(1);
        let mut waiting = tokio_test::task::spawn(std::future::poll_fn(|cx| first[0].poll_received(cx)));
        assert!(waiting.poll().is_pending());
        assert_eq!(receive(&mut second[0], 8), []);
        assert!(waiting.is_woken());
        assert!(waiting.poll().is_ready());
    }

    #[test]
    fn a_bell_wakes_the_owner_or_whoever_waits() {
        let groups = groups([0; 3], 2);
        let mut tasks: Vec<_> = groups
            .into_iter()
            .map(|mut group| tokio_test::task::spawn(std::future::poll_fn(move |cx| group.poll_received(cx))))
            .collect();
        assert!(tasks.iter_mut().all(|task| task.poll().is_pending()));
        let bell = {
            let more = super::VfGroup::deal(Vec::new(), &[0, 1], Arc::default());
            (more[0].receivers.clone(), more[0].bells[0].clone())
        };
        let (receivers, bell) = bell;
        let mut other = tokio_test::task::spawn(std::future::poll_fn(|cx| {
            receivers.0[1].register(cx.waker());
            Poll::<()>::Pending
        }));
        assert!(other.poll().is_pending());
        bell.wake_by_ref();
        assert!(other.is_woken(), "the owner does not wait");
    }
}
