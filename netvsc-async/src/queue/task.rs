//! A queue's background task: what happens when the host interrupts, and when nobody looks.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use vmbus::bus::{Channel, Interrupt};

use super::shared::{BACKSTOP, Shared};
use crate::error::Error;

/// How often a channel is looked at whose interrupt must not be unmasked ([`Interrupt::can_unmask`]).
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Looks at a batch that somebody keeps open, before waiting for it by timer.
const HELD_LOOKS: u32 = 8;
const HELD_INTERVAL: Duration = Duration::from_millis(1);

/// Why the task does not go on with its interrupt.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// The queue has ended.
    Ended,
    /// The queue goes over to another channel.
    Reopened,
}

/// Why the task looks.
enum Wake {
    Interrupt,
    /// Somebody sent without a doorbell, or closed the queue.
    Called,
    Timer,
    /// The channel was closed, to be opened again.
    Detached,
}

/// Runs until the queue ends.
pub(crate) async fn run<C: Channel>(shared: Arc<Shared<C>>, mut interrupt: C::Interrupt) {
    loop {
        match drive(&shared, &mut interrupt).await {
            Ok(Left::Ended) => return,
            Ok(Left::Reopened) => {}
            Err(error) => {
                tracing::debug!(%error, "queue task ends");
                return;
            }
        }
        match shared.next_interrupt().await {
            Some(next) => interrupt = next,
            None => return,
        }
    }
}

async fn drive<C: Channel, I: Interrupt>(shared: &Shared<C>, interrupt: &mut I) -> Result<Left, Error> {
    let mut timer: Option<Duration> = Some(Duration::ZERO);
    let mut doorbell_due = false;
    while shared.ended().is_none() {
        if shared.reopened.load(Ordering::Acquire) {
            return Ok(Left::Reopened);
        }
        let wake = wait(shared, interrupt, timer).await?;
        if matches!(wake, Wake::Detached) {
            return Ok(Left::Reopened);
        }
        not_held(shared).await;
        timer = turn(shared, interrupt.can_unmask(), &wake, &mut doorbell_due)?;
        if timer == Some(Duration::ZERO) {
            // The host is faster than one turn: let the others of this runtime have theirs.
            tokio::task::yield_now().await;
        }
    }
    Ok(Left::Ended)
}

/// Waits while a batch is kept open: its task may be one of this thread, and wait for something itself.
async fn not_held<C: Channel>(shared: &Shared<C>) {
    let (mut seen, mut looks) = (None, 0);
    while shared.is_held(&mut seen) {
        looks += 1;
        if looks < HELD_LOOKS {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(HELD_INTERVAL).await;
        }
    }
}

async fn wait<C: Channel, I: Interrupt>(
    shared: &Shared<C>,
    interrupt: &mut I,
    timer: Option<Duration>,
) -> Result<Wake, Error> {
    if timer == Some(Duration::ZERO) {
        return Ok(Wake::Timer);
    }
    let signal = poll_fn(|cx| match interrupt.poll_latched(cx) {
        Poll::Ready(result) => Poll::Ready(result.map(|()| Wake::Interrupt)),
        Poll::Pending => shared.task.poll(cx).map(|()| Ok(Wake::Called)),
    });
    let result = match timer {
        None => signal.await,
        Some(after) => tokio::select! {
            biased;
            result = signal => result,
            () = tokio::time::sleep(after) => Ok(Wake::Timer),
        },
    };
    result.or_else(|_| {
        if shared.is_between_channels() {
            return Ok(Wake::Detached);
        }
        let error = Error::Gone;
        shared.close(Some(error.clone()));
        Err(error)
    })
}

/// One look at the queue; when to look again without being woken. `doorbell_due`: the timer is for a doorbell that was put off.
fn turn<C: Channel>(
    shared: &Shared<C>,
    can_unmask: bool,
    wake: &Wake,
    doorbell_due: &mut bool,
) -> Result<Option<Duration>, Error> {
    if matches!(wake, Wake::Timer) && !*doorbell_due && shared.receiver_polls.swap(false, Ordering::Relaxed) {
        // Somebody looks without ever waiting, and does what there is to be done: the lock would only be in the way.
        return Ok(Some(if can_unmask { BACKSTOP } else { POLL_INTERVAL }));
    }
    let mut guard = shared.lock();
    let core = &mut *guard;
    let mut again = None;
    if shared.ended().is_some() {
        // The rings may be the host's no more.
        return Ok(None);
    }

    if let Some(since) = core.unflushed_since {
        let waited = shared.clock.now().saturating_since(since);
        match shared.tx_latency.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => again = Some(rest),
            _ => shared.flush(core)?,
        }
    }
    *doorbell_due = again.is_some();
    if matches!(wake, Wake::Called) && core.armed && can_unmask {
        return Ok(again.into_iter().chain(core.watch_held()).min());
    }
    if matches!(wake, Wake::Interrupt) {
        core.armed = false;
        core.queue.mask();
        // It may say that there is room in the ring, of which no completion need tell: what was in the way can have been
        // acknowledgments.
        shared.sender.wake();
    }

    shared.check(core.queue.pump())?;
    shared.after_pump(core);
    if core.queue.backlog() > 0 {
        shared.receiver.wake();
    }
    if !can_unmask {
        return Ok(Some(again.map_or(POLL_INTERVAL, |rest| rest.min(POLL_INTERVAL))));
    }
    if core.queue.backlog() > 0 && shared.receiver_looked.swap(false, Ordering::Relaxed) {
        // A busy receiver: it arms the ring itself when it has run out of frames.
        return Ok(Some(again.map_or(BACKSTOP, |rest| rest.min(BACKSTOP))));
    }
    if shared.receiver_polls.swap(false, Ordering::Relaxed) {
        return Ok(Some(again.map_or(BACKSTOP, |rest| rest.min(BACKSTOP))));
    }
    let again = again.into_iter().chain(core.watch_held()).min();
    if shared.arm(core)? { Ok(Some(Duration::ZERO)) } else { Ok(again) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::task::{Context, Poll};

    use futures::FutureExt;
    use futures::task::AtomicWaker;
    use netvsc::queue::{Queue, QueueSettings};
    use vmbus::aio::testing::channel_pair;
    use vmbus::error::ErrorType;
    use vmbus::mem::MemChannel;
    use vmbus::packet::TransactionId;
    use vmbus::ring::{MappedRing, Outgoing, Producer};

    use super::*;
    use crate::clock::TokioClock;

    /// An interrupt that never comes; what it does when it is looked at is the test's.
    struct Silent<F> {
        can_unmask: bool,
        look: F,
    }

    impl<F> ErrorType for Silent<F> {
        type Error = Infallible;
    }

    impl<F: FnMut()> Interrupt for Silent<F> {
        fn poll_latched(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            (self.look)();
            Poll::Pending
        }

        fn can_unmask(&self) -> bool {
            self.can_unmask
        }
    }

    type Host = Producer<MappedRing<vmbus::memory::HeapMemory>>;

    /// A queue without buffers, and the ring by which its host talks to it.
    fn queue() -> (Arc<Shared<MemChannel>>, Host) {
        let (guest, host) = channel_pair();
        let parts = host.into_parts();
        let ring = MappedRing::new(parts.outgoing, parts.ring_header_bytes).unwrap();
        let queue = Queue::new(guest, QueueSettings::default()).unwrap();
        let clock = Arc::new(TokioClock::new());
        let shared = Shared::new(queue, clock, Duration::from_micros(50), Arc::new(AtomicWaker::new()), false);
        (Arc::new(shared), Producer::new(ring))
    }

    fn say_something(host: &mut Host) {
        host.write(&Outgoing::notice(TransactionId(0), &[0; 40])).unwrap();
        let _ = host.publish().unwrap();
    }

    /// Whether the task takes what the host says within a second.
    async fn is_heard(shared: &Shared<MemChannel>) -> bool {
        tokio::time::sleep(Duration::from_secs(1)).await;
        shared.lock().queue.pending_controls() > 0
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_between_turn_and_wait_is_not_lost() {
        let (shared, _host) = queue();
        let caller = Arc::clone(&shared);
        let mut called = false;
        let look = || {
            if !std::mem::replace(&mut called, true) {
                caller.call_task();
            }
        };
        let mut interrupt = Silent { can_unmask: true, look };
        let wake = wait(&*shared, &mut interrupt, None).now_or_never();
        assert!(matches!(wake, Some(Ok(Wake::Called))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_cannot_be_unmasked_is_polled_however_the_receiver_waits() {
        let (shared, mut host) = queue();
        let task = Arc::clone(&shared);
        tokio::spawn(async move { drive(&task, &mut Silent { can_unmask: false, look: || {} }).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!shared.arm(&mut shared.lock()).unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
        say_something(&mut host);
        assert!(is_heard(&shared).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_that_arming_left_masked_is_looked_after() {
        let (shared, mut host) = queue();
        let task = Arc::clone(&shared);
        tokio::spawn(async move { drive(&task, &mut Silent { can_unmask: true, look: || {} }).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        // The receiver sees it first, masks the ring before the host has looked at the mask, and is then never seen again.
        say_something(&mut host);
        assert!(shared.arm(&mut shared.lock()).unwrap());
        assert!(is_heard(&shared).await);
    }

    #[test]
    fn a_receiver_that_polls_is_not_interrupted_while_it_does() {
        let (shared, _host) = queue();
        shared.receiver_polls.store(true, Ordering::Relaxed);
        assert_eq!(turn(&shared, true, &Wake::Interrupt, &mut false), Ok(Some(BACKSTOP)));
        assert!(!shared.lock().armed);
        assert_eq!(turn(&shared, true, &Wake::Timer, &mut false), Ok(None), "it has stopped");
        assert!(shared.lock().armed);
    }

    #[test]
    fn a_receiver_that_polls_has_the_queue_for_itself_but_for_doorbells() {
        let (shared, mut host) = queue();
        say_something(&mut host);
        let taken = || shared.lock().queue.pending_controls();
        for can_unmask in [true, false] {
            shared.receiver_polls.store(true, Ordering::Relaxed);
            let again = turn(&shared, can_unmask, &Wake::Timer, &mut false).unwrap();
            assert!(again.is_some_and(|again| again <= BACKSTOP), "it may stop");
            assert_eq!(taken(), 0, "its own to take");
        }
        shared.receiver_polls.store(true, Ordering::Relaxed);
        let mut doorbell_due = true;
        turn(&shared, true, &Wake::Timer, &mut doorbell_due).unwrap();
        assert_eq!((taken(), doorbell_due), (1, false));
    }

    #[test]
    fn an_interrupt_that_says_only_that_the_ring_has_room_wakes_the_sender() {
        let (shared, _host) = queue();
        let mut waiting = tokio_test::task::spawn(poll_fn(|cx: &mut Context<'_>| {
            shared.sender.register(cx.waker());
            Poll::<()>::Pending
        }));
        assert!(waiting.poll().is_pending());
        turn(&shared, true, &Wake::Interrupt, &mut false).unwrap();
        assert!(waiting.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_end_is_the_end() {
        let (shared, _host) = queue();
        shared.close(None);
        shared.close(Some(Error::Gone));
        assert_eq!(shared.ended(), Some(Ok(())));
    }
}
