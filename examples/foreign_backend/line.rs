//! A signal line: the doorbell to the host and the interrupt from it.
//!
//! Both are latches: raised any number of times, taken once, and remembered in between. In a VMM the one is an `ioeventfd`
//! or a hypercall exit, the other an injected interrupt that an `eventfd` or a flag in your scheduler stands for.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use vmbus::ErrorType;
use vmbus::bus::{Doorbell, Interrupt};

/// A latch with one waiter. Clones are handles to the same line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    raised: bool,
    waiter: Option<Waker>,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        // A flag and a waker are sound whatever panicked while it held them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the line and wakes who waits for it.
    pub(crate) fn raise(&self) {
        let waiter = {
            let mut state = self.state();
            state.raised = true;
            state.waiter.take()
        };
        // Not while holding the lock: waking may poll at once.
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether it was raised; takes it down.
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut self.state().raised)
    }

    /// Wakes `cx` once the line is raised, at once if it is, and leaves it raised.
    pub(crate) fn wake_when_raised(&self, cx: &Context<'_>) {
        let mut state = self.state();
        if state.raised {
            drop(state);
            cx.waker().wake_by_ref();
        } else {
            state.waiter = Some(cx.waker().clone());
        }
    }
}

impl ErrorType for Line {
    type Error = Infallible;
}

impl Doorbell for Line {
    fn signal(&self) -> Result<(), Infallible> {
        self.raise();
        Ok(())
    }
}

impl Interrupt for Line {
    fn poll_latched(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut state = self.state();
        if std::mem::take(&mut state.raised) {
            return Poll::Ready(Ok(()));
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}
