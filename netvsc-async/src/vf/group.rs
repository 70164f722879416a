//! The part of a virtual function that belongs to one queue of the adapter: [`Share`], with the locks and wakers of threads and
//! tasks.
//!
//! # Who wakes whom
//! A queue of the device has one waker, a [`Bell`], whoever of the shares asked it last: it wakes the owner of the queue. What is
//! there may be for others who wait, and the owner need not come: its task may have been woken for a future that is no more, or
//! have turned to something else. So a queue whose bell has rung is looked after by the [`Warden`], until its bell is hung up again
//! or its owner is found to be [away](AWAY): then all who wait are woken, now and whenever the bell rings, and take what is there
//! themselves. Nobody who waits needs a timer, nor a runtime.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use netvsc::queue::FrameSink;
use netvsc::vf::{Lock, RxRules, Share, Surroundings, Unreceived, VfQueue, VfSendError};

use super::backend::{AsyncVfQueue, BoxVf};

/// How often the warden looks whether the owner of a queue comes.
const PATIENCE: Duration = Duration::from_millis(2);
/// So many looks for which an owner has not come, and it counts as away. More than one, as the first may be just after the bell.
const AWAY: u8 = 2;

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

/// Who receives by a share.
struct Receiver {
    /// If it waits.
    waker: AtomicWaker,
    /// All of its queues have a bell that has not rung.
    is_hung: AtomicBool,
    /// Looks of the warden for which it has not come, with a bell that has rung; up to [`AWAY`].
    absent: AtomicU8,
}

/// Those who receive, by number of their share.
#[derive(Clone)]
struct Receivers(Arc<Ward>);

struct Ward {
    receivers: Box<[Receiver]>,
    warden: AtomicWaker,
}

impl Surroundings for Receivers {
    type Lock<T> = StdLock<T>;

    fn call(&self, share: usize) {
        self.0.receivers[share].waker.wake();
    }
}

impl Ward {
    fn is_away(&self, owner: usize) -> bool {
        self.receivers[owner].absent.load(Ordering::Relaxed) >= AWAY
    }

    /// The owner looks after its queues.
    fn comes(&self, owner: usize) {
        let absent = &self.receivers[owner].absent;
        if absent.load(Ordering::Relaxed) > 0 {
            absent.store(0, Ordering::Relaxed);
        }
    }

    /// The queues of this one are about to be given bells.
    fn hangs(&self, owner: usize) {
        self.receivers[owner].is_hung.store(true, Ordering::Release);
    }

    /// One of them has something, and no bell that is still to ring.
    fn has_rung(&self, owner: usize) {
        // What is for a lone queue nobody else waits for.
        if self.receivers[owner].is_hung.swap(false, Ordering::AcqRel) && self.receivers.len() > 1 {
            self.warden.wake();
        }
    }

    fn wake_all(&self) {
        self.receivers.iter().for_each(|receiver| receiver.waker.wake());
    }

    /// Those whose queues the warden has to look after.
    fn looked_after(&self) -> impl Iterator<Item = &Receiver> {
        let is = |receiver: &&Receiver| {
            !receiver.is_hung.load(Ordering::Acquire) && receiver.absent.load(Ordering::Relaxed) < AWAY
        };
        self.receivers.iter().filter(is)
    }

    /// One look.
    fn look(&self) {
        let gone = self.looked_after().filter(|receiver| receiver.absent.fetch_add(1, Ordering::Relaxed) + 1 == AWAY);
        if gone.count() > 0 {
            self.wake_all();
        }
    }
}

/// The waker that a queue of the device is given.
struct Bell {
    ward: Arc<Ward>,
    owner: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Self { ward, owner } = &**self;
        ward.has_rung(*owner);
        if ward.is_away(*owner) {
            ward.wake_all();
        } else {
            // If it does not wait it is busy: others would look for nothing.
            ward.receivers[*owner].waker.wake();
        }
    }
}

/// Looks after queues of a device whose bells have rung: to be run beside those who wait.
pub(crate) struct Warden(Arc<Ward>);

impl Warden {
    /// Never ends.
    pub(crate) async fn run(self) {
        let Self(ward) = self;
        loop {
            poll_fn(|cx| {
                ward.warden.register(cx.waker());
                if ward.looked_after().next().is_some() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            tokio::time::sleep(PATIENCE).await;
            ward.look();
        }
    }
}

/// See the [module](self).
pub(crate) struct VfGroup {
    share: Share<BoxVf, Receivers>,
    ward: Arc<Ward>,
    /// By number of the owner's share.
    bells: Arc<[Waker]>,
}

impl std::fmt::Debug for VfGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.share.fmt(f)
    }
}

impl VfGroup {
    /// Deals the queues of a device out to the queues of the adapter with these indices: see [`Share::deal`].
    pub(crate) fn deal(queues: Vec<BoxVf>, adapter: &[u16], rules: Arc<RxRules>) -> (Vec<Self>, Warden) {
        let receiver =
            |_| Receiver { waker: AtomicWaker::new(), is_hung: AtomicBool::new(true), absent: AtomicU8::new(0) };
        let receivers = (0..adapter.len()).map(receiver).collect();
        let ward = Arc::new(Ward { receivers, warden: AtomicWaker::new() });
        let bell = |owner| Waker::from(Arc::new(Bell { ward: Arc::clone(&ward), owner }));
        let bells: Arc<[Waker]> = (0..adapter.len()).map(bell).collect();
        let shares = Share::deal(Receivers(Arc::clone(&ward)), queues, adapter, rules).into_iter();
        let groups = shares.map(|share| Self { share, ward: Arc::clone(&ward), bells: Arc::clone(&bells) }).collect();
        (groups, Warden(ward))
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
        self.ward.comes(self.share.index());
        self.share.receive(sink, max)
    }

    fn receive_capacity(&self) -> usize {
        self.share.receive_capacity()
    }
}

impl AsyncVfQueue for VfGroup {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { share, ward, bells } = self;
        let index = share.index();
        ward.receivers[index].waker.register(cx.waker());
        ward.comes(index);
        for _ in 0..2 {
            (0..bells.len()).for_each(|owner| ward.hangs(owner));
            // All of them, whichever is ready: each has to have its bell.
            let (mut own, mut left) = (false, false);
            share.for_each(|owner, queue| {
                if queue.poll_received(&mut Context::from_waker(&bells[owner])).is_ready() {
                    ward.has_rung(owner);
                    own |= owner == index;
                    left |= owner != index && ward.is_away(owner);
                }
            });
            if own || share.has_mail() {
                return Poll::Ready(());
            }
            if !left {
                // What others come for they give.
                return Poll::Pending;
            }
            share.collect_from(|owner| ward.is_away(owner));
        }
        // There is always more of it, perhaps for this one.
        Poll::Ready(())
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

    /// What has come to a queue, and who is to be told.
    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<(usize, Option<Waker>)>>);

    impl Wire {
        fn arrive(&self) {
            let mut wire = self.0.lock().unwrap();
            wire.0 += 1;
            if let Some(waker) = wire.1.take() {
                drop(wire);
                waker.wake();
            }
        }
    }

    /// Has received so many frames of one byte, its number; takes all that it is given.
    struct Fake {
        number: u8,
        received: Wire,
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
            self.received.0.lock().unwrap().0 > 0
        }

        fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
            let frames = max.min(self.received.0.lock().unwrap().0);
            for _ in 0..frames {
                sink.buffer(1).expect("room")[0] = self.number;
                sink.commit(1, RxMeta::default());
            }
            self.received.0.lock().unwrap().0 -= frames;
            frames
        }

        fn receive_capacity(&self) -> usize {
            10
        }
    }

    impl AsyncVfQueue for Fake {
        fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let mut wire = self.received.0.lock().unwrap();
            if wire.0 > 0 {
                return Poll::Ready(());
            }
            wire.1 = Some(cx.waker().clone());
            Poll::Pending
        }

        fn poll_sent(&mut self, _: &mut Context<'_>, at_most: usize) -> Poll<()> {
            if self.sent <= at_most { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    /// The shares of these queues of the adapter, of a device with three; without a hash all frames are for that with the index 0.
    fn groups(adapter: &[u16]) -> (Vec<VfGroup>, Warden, [Wire; 3]) {
        let wires: [Wire; 3] = Default::default();
        let queue = |(number, received): (u8, &Wire)| BoxVf::new(Fake { number, received: received.clone(), sent: 0 });
        let queues = (0..).zip(&wires).map(queue).collect();
        let (groups, warden) = VfGroup::deal(queues, adapter, Arc::default());
        (groups, warden, wires)
    }

    fn group(received: [usize; 3]) -> VfGroup {
        let (mut groups, _, wires) = groups(&[0]);
        for (wire, frames) in wires.iter().zip(received) {
            (0..frames).for_each(|_| wire.arrive());
        }
        groups.remove(0)
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

    /// Some looks of the warden.
    async fn a_while() {
        tokio::time::sleep(PATIENCE * 4).await;
    }

    /// Waits, as a future that is dropped then.
    fn wait_and_forget(group: &mut VfGroup) {
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx| group.poll_received(cx)));
        assert!(waiting.poll().is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_queue_of_one_who_does_not_come_is_got_by_who_waits_for_it() {
        let (mut groups, warden, wires) = groups(&[0, 1]);
        tokio::spawn(warden.run());
        let (first, second) = groups.split_at_mut(1);
        wires[1].arrive();
        wires[1].arrive();
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx| first[0].poll_received(cx)));
        assert!(waiting.poll().is_pending(), "the other was just made: it may come");
        a_while().await;
        assert!(waiting.is_woken(), "it did not");
        assert!(waiting.poll().is_ready());
        drop(waiting);
        assert_eq!(receive(&mut first[0], 8), [1, 1]);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(second[0].poll_received(&mut cx).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_no_more_keeps_nothing_from_who_waits() {
        let (mut groups, warden, wires) = groups(&[1, 0]);
        tokio::spawn(warden.run());
        let (owner, other) = groups.split_at_mut(1);
        wait_and_forget(&mut owner[0]);
        for _ in 0..3 {
            let mut waiting = tokio_test::task::spawn(poll_fn(|cx| other[0].poll_received(cx)));
            assert!(waiting.poll().is_pending());
            wires[0].arrive();
            a_while().await;
            assert!(waiting.is_woken());
            assert!(waiting.poll().is_ready());
            drop(waiting);
            assert_eq!(receive(&mut other[0], 8), [0]);
        }
    }

    /// It was woken, came once, and never again: no bell hangs at its queue.
    #[tokio::test(start_paused = true)]
    async fn an_owner_that_turns_to_something_else_keeps_nothing_from_who_waits() {
        let (mut groups, warden, wires) = groups(&[1, 0]);
        tokio::spawn(warden.run());
        let (owner, other) = groups.split_at_mut(1);
        wait_and_forget(&mut owner[0]);
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx| other[0].poll_received(cx)));
        assert!(waiting.poll().is_pending());
        wires[0].arrive();
        assert!(receive(&mut owner[0], 8).is_empty());
        assert!(waiting.is_woken(), "by the mail");
        assert!(waiting.poll().is_ready());
        drop(waiting);
        assert_eq!(receive(&mut other[0], 8), [0]);
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx| other[0].poll_received(cx)));
        assert!(waiting.poll().is_pending());
        receive(&mut owner[0], 8);
        wires[0].arrive();
        a_while().await;
        assert!(waiting.is_woken());
        assert!(waiting.poll().is_ready());
    }

    /// Whatever the owners of queues do: who waits gets what is for it.
    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_is_for_it_whatever_the_others_do() {
        let (mut groups, warden, wires) = groups(&[1, 2, 0]);
        tokio::spawn(warden.run());
        let mut live = groups.pop().expect("three");
        let got = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&got);
        tokio::spawn(async move {
            loop {
                poll_fn(|cx| live.poll_received(cx)).await;
                *counted.lock().unwrap() += receive(&mut live, 8).len();
            }
        });
        let mut random = 1_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for arrived in 1..2000 {
            for group in &mut groups {
                match below(4) {
                    // Of one that goes on at once.
                    0 => drop(receive(group, 8)),
                    1 => drop(tokio_test::task::spawn(poll_fn(|cx| group.poll_received(cx))).poll()),
                    _ => {}
                }
                if below(3) == 0 {
                    tokio::time::sleep(PATIENCE.mul_f64(0.3)).await;
                }
            }
            wires[below(3) as usize].arrive();
            if below(2) == 0 {
                receive(&mut groups[below(2) as usize], 8);
            }
            a_while().await;
            assert_eq!(*got.lock().unwrap(), arrived);
        }
    }

    #[test]
    fn waiting_takes_no_runtime() {
        let (mut groups, _, wires) = groups(&[0, 1]);
        wires[1].arrive();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(groups[0].poll_received(&mut cx).is_pending());
        wires[0].arrive();
        assert!(groups[0].poll_received(&mut cx).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_something_by_the_queue_of_another_is_woken() {
        let (mut groups, _, wires) = groups(&[0, 1]);
        let (first, second) = groups.split_at_mut(1);
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx| first[0].poll_received(cx)));
        assert!(waiting.poll().is_pending());
        wires[1].arrive();
        assert!(!waiting.is_woken(), "its owner may come");
        assert!(receive(&mut second[0], 8).is_empty());
        assert!(waiting.is_woken());
        assert!(waiting.poll().is_ready());
    }

    /// The warden sleeps while all bells hang.
    #[tokio::test(start_paused = true)]
    async fn who_waits_and_comes_is_not_looked_after() {
        let (mut groups, warden, wires) = groups(&[0, 1]);
        let mut warden = tokio_test::task::spawn(warden.run());
        assert!(warden.poll().is_pending());
        wait_and_forget(&mut groups[0]);
        a_while().await;
        assert!(!warden.is_woken());
        wires[0].arrive();
        assert!(warden.is_woken());
        assert!(warden.poll().is_pending());
        assert_eq!(receive(&mut groups[0], 8), [0]);
        wait_and_forget(&mut groups[0]);
        a_while().await;
        assert!(warden.is_woken());
        assert!(warden.poll().is_pending());
        a_while().await;
        assert!(!warden.is_woken(), "for good");
    }
}
