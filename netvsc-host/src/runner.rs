//! What runs a host by itself: a thread, or a task. Both sleep while there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::host::Host;

/// A thread that runs a host. Dropping it ends the thread.
#[derive(Debug)]
pub struct HostThread {
    host: Host,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HostThread {
    pub(crate) fn start(host: Host, spin: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, stopped) = (host.clone(), Arc::clone(&stop));
        let spawned = std::thread::Builder::new().name("netvsc-host".into()).spawn(move || run(&own, &stopped, spin));
        let thread = spawned.expect("a thread can be started");
        Self { host, stop, thread: Some(thread) }
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Drop for HostThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics only if the host does, which its user has seen.
            drop(thread.join());
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

fn run(host: &Host, stop: &AtomicBool, spin: Duration) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let start = Instant::now();
    let mut last_work = start;
    while !stop.load(Ordering::Acquire) {
        let now = start.elapsed();
        let stepped = host.step(now);
        if stepped.did_work {
            last_work = start + now;
            continue;
        }
        if !spin.is_zero() && last_work.elapsed() < spin {
            std::hint::spin_loop();
            continue;
        }
        // Woken at once if something came since the step; an unpark before the park is remembered.
        host.register_waker(&waker);
        match stepped.next_timeout {
            Some(at) => std::thread::park_timeout(at.saturating_sub(start.elapsed())),
            None => std::thread::park(),
        }
    }
}

/// Runs the host until it is dropped, by tokio's clock.
#[cfg(feature = "tokio")]
pub(crate) async fn task(host: std::sync::Weak<crate::host::Shared>, bell: Arc<futures::task::AtomicWaker>) {
    use std::future::poll_fn;
    use std::task::Poll;

    let start = tokio::time::Instant::now();
    loop {
        let stepped = {
            let Some(shared) = host.upgrade() else { return };
            Host { shared }.step(start.elapsed())
        };
        if stepped.did_work {
            tokio::task::yield_now().await;
            continue;
        }
        let mut registered = false;
        let woken = poll_fn(|cx| {
            if std::mem::replace(&mut registered, true) {
                return Poll::Ready(());
            }
            bell.register(cx.waker());
            match host.upgrade() {
                Some(shared) => {
                    Host { shared }.register_waker(cx.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            }
        });
        match stepped.next_timeout {
            Some(at) => drop(tokio::time::timeout_at(start + at, woken).await),
            None => woken.await,
        }
    }
}
