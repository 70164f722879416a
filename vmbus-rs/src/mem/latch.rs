//! A signal that is remembered until it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

/// A latch: set any number of times, taken once. One waiter; clones are handles to the same latch.
#[derive(Debug, Clone, Default)]
pub struct Latch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: AtomicBool,
    /// How often it was set: what a test of signalling decisions looks at.
    count: AtomicU64,
    waker: AtomicWaker,
}

impl Latch {
    /// A latch that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it and wakes the waiter.
    pub fn set(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        // Releases what was written before the signal; pairs with the swap in `take`.
        self.0.set.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Whether it was set; resets it.
    pub fn take(&self) -> bool {
        // A load first: waiters look often, and a swap takes the cache line away from the setter.
        self.0.set.load(Ordering::Relaxed) && self.0.set.swap(false, Ordering::Acquire)
    }

    /// Ready once it is set; resets it.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        // Set between the look and the registration: nobody was woken.
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether it is set, without resetting it; if not, the waiter is woken once it is.
    pub fn poll_is_set(&self, cx: &mut Context<'_>) -> bool {
        if self.0.set.load(Ordering::Acquire) {
            return true;
        }
        self.0.waker.register(cx.waker());
        self.0.set.load(Ordering::Acquire)
    }

    /// How often it was set since it exists.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn remembers_a_signal_until_it_is_taken_once() {
        let latch = Latch::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(latch.poll(&mut cx).is_pending());
        latch.set();
        latch.set();
        assert!(latch.poll(&mut cx).is_ready());
        assert!(latch.poll(&mut cx).is_pending(), "two signals coalesce");
        assert_eq!(latch.count(), 2);
    }

    #[test]
    fn wakes_a_waiter_on_another_thread() {
        let latch = Latch::new();
        let setter = latch.clone();
        let thread = std::thread::spawn(move || setter.set());
        tokio_test::block_on(std::future::poll_fn(|cx| latch.poll(cx)));
        thread.join().unwrap();
    }
}
