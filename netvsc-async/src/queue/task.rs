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

/// Why the task looks.
enum Wake {
    Interrupt,
    /// Somebody sent without a doorbell, or closed the queue.
    Called,
    Timer,
}

/// Runs until the queue ends.
pub(crate) async fn run<C: Channel>(shared: Arc<Shared<C>>, mut interrupt: C::Interrupt) {
    if let Err(error) = drive(&shared, &mut interrupt).await {
        tracing::debug!(%error, "queue task ends");
    }
}

async fn drive<C: Channel>(shared: &Shared<C>, interrupt: &mut C::Interrupt) -> Result<(), Error> {
    let mut timer: Option<Duration> = Some(Duration::ZERO);
    while shared.ended().is_none() {
        let wake = wait(shared, interrupt, timer).await?;
        timer = turn(shared, interrupt.can_unmask(), &wake)?;
        if timer == Some(Duration::ZERO) {
            // The host is faster than one turn: let the others of this runtime have theirs.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn wait<C: Channel>(
    shared: &Shared<C>,
    interrupt: &mut C::Interrupt,
    timer: Option<Duration>,
) -> Result<Wake, Error> {
    if timer == Some(Duration::ZERO) {
        return Ok(Wake::Timer);
    }
    let mut called = false;
    let signal = poll_fn(|cx| {
        if let Poll::Ready(result) = interrupt.poll_latched(cx) {
            return Poll::Ready(result.map(|()| Wake::Interrupt));
        }
        // The first poll registers; woken later means that somebody called.
        if called || shared.ended().is_some() {
            return Poll::Ready(Ok(Wake::Called));
        }
        called = true;
        shared.task.register(cx.waker());
        if shared.ended().is_some() { Poll::Ready(Ok(Wake::Called)) } else { Poll::Pending }
    });
    let result = match timer {
        None => signal.await,
        Some(after) => tokio::select! {
            biased;
            result = signal => result,
            () = tokio::time::sleep(after) => Ok(Wake::Timer),
        },
    };
    result.map_err(|_| {
        let error = Error::Gone;
        shared.close(Some(error.clone()));
        error
    })
}

/// One look at the queue; when to look again without being woken.
fn turn<C: Channel>(shared: &Shared<C>, can_unmask: bool, wake: &Wake) -> Result<Option<Duration>, Error> {
    let mut guard = shared.lock();
    let core = &mut *guard;
    let mut again = None;

    if let Some(since) = core.unflushed_since {
        let waited = shared.clock.now().saturating_since(since);
        match shared.tx_latency.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => again = Some(rest),
            _ => shared.flush(core)?,
        }
    }
    if matches!(wake, Wake::Called) && core.armed {
        return Ok(again);
    }
    if matches!(wake, Wake::Interrupt) {
        core.armed = false;
        core.queue.mask();
    }

    shared.check(core.queue.pump())?;
    shared.after_pump(core);
    if core.queue.backlog() > 0 {
        shared.receiver.wake();
    }
    if !can_unmask {
        return Ok(Some(POLL_INTERVAL));
    }
    if core.queue.backlog() > 0 && shared.receiver_looked.swap(false, Ordering::Relaxed) {
        // A busy receiver: it arms the ring itself when it has run out of frames.
        return Ok(Some(again.map_or(BACKSTOP, |rest| rest.min(BACKSTOP))));
    }
    if shared.arm(core)? { Ok(Some(Duration::ZERO)) } else { Ok(again) }
}
