//! What both kinds of queues have in common: waiting for them, and closing them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use std::{fmt, io};

use netvsc::queue::FrameSink;
use netvsc::vf::{Unreceived, VfQueue, VfSendError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::vf::backend::AsyncVfQueue;

/// How often it is looked whether something was sent: sockets tell of that, but not of every kind of it.
const LOOK: Duration = Duration::from_millis(1);

/// Bursts received without a wait in between, after which nobody is thought to wait soon.
const BUSY: u32 = 64;

/// A socket that can be waited for.
///
/// The kernel wakes the runtime's thread for every frame that comes, and for every one that was sent, once that is asked for:
/// a thread of its own, kept busy with nothing, while whoever uses the queue looks by itself. So it is asked for only as long
/// as somebody waits.
pub(super) struct Socket {
    descriptor: Arc<OwnedFd>,
    /// Has the registrations and the timer, wherever this is polled.
    runtime: Handle,
    readable: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Who waits for something to be received, or has found it without waiting to the end.
    waits: Option<Waker>,
    /// Bursts since then.
    bursts: u32,
    /// Another descriptor of the socket: the runtime takes each only once.
    writable: Option<AsyncFd<OwnedFd>>,
    /// The kernel told of an error, after which it seems writable for ever.
    failed: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.descriptor.fmt(f)
    }
}

impl Socket {
    /// Inside of a tokio runtime.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let mut socket = Self {
            descriptor: Arc::new(descriptor),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            readable: None,
            waits: None,
            bursts: 0,
            writable: None,
            failed: false,
            timer: None,
        };
        // So that it is known that it can be.
        socket.readable()?;
        Ok(socket)
    }

    pub(super) fn get(&self) -> &OwnedFd {
        &self.descriptor
    }

    fn readable(&mut self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        if self.readable.is_none() {
            let _inside = self.runtime.enter();
            self.readable = Some(wait_for(Arc::clone(&self.descriptor), Interest::READABLE)?);
        }
        self.readable.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn writable(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        if self.writable.is_none() {
            let _inside = self.runtime.enter();
            self.writable = Some(wait_for(self.descriptor.try_clone()?, Interest::WRITABLE)?);
        }
        self.writable.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// To be told of each burst.
    #[inline]
    pub(super) fn received(&mut self) {
        self.bursts += 1;
        if self.bursts == BUSY {
            self.bursts = 0;
            self.readable = None;
            // Should it be somebody else than who receives, it waits anew.
            if let Some(waker) = self.waits.take() {
                waker.wake();
            }
        }
    }

    /// To be asked after nothing was found. Ready: it is to be looked again.
    pub(super) fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.bursts = 0;
        let ready = match self.readable().map(|descriptor| descriptor.poll_read_ready(cx)) {
            Ok(Poll::Ready(Ok(mut ready))) => {
                ready.clear_ready();
                true
            }
            // The runtime is going down.
            Ok(Poll::Ready(Err(_)) | Poll::Pending) => false,
            Err(_) => {
                // It has no room for another descriptor.
                cx.waker().wake_by_ref();
                false
            }
        };
        if ready {
            self.waits = None;
            return Poll::Ready(());
        }
        match &mut self.waits {
            Some(waker) => waker.clone_from(cx.waker()),
            waits => *waits = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// To be asked after too much was outstanding. Ready: it is to be looked again.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.failed
            && let Ok(Poll::Ready(Ok(mut ready))) = self.writable().map(|descriptor| descriptor.poll_write_ready(cx))
        {
            let failed = ready.ready().is_write_closed();
            ready.clear_ready();
            self.failed = failed;
            return Poll::Ready(());
        }
        let runtime = &self.runtime;
        let timer = self.timer.get_or_insert_with(|| {
            // Whoever polls may be outside of it, where there is no timer.
            let _inside = runtime.enter();
            Box::pin(tokio::time::sleep(LOOK))
        });
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(())
    }

    /// What was outstanding has left: nobody waits for that any more.
    #[inline]
    pub(super) fn sent(&mut self) {
        self.writable = None;
    }
}

fn wait_for<T: AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[allow(deprecated, reason = "unsound for types that lend a descriptor they do not keep: these do")]
    AsyncFd::with_interest(descriptor, interest)
}

/// A queue with a socket, as those who wait see it.
pub(super) trait Polled: VfQueue {
    fn socket(&mut self) -> &mut Socket;

    /// Whether the interface is not there any longer.
    fn is_gone(&self) -> bool;
}

/// [`AsyncVfQueue::poll_received`].
pub(super) fn poll_received(queue: &mut impl Polled, cx: &mut Context<'_>) -> Poll<()> {
    while !queue.has_received() {
        ready!(queue.socket().poll_received(cx));
    }
    Poll::Ready(())
}

/// [`AsyncVfQueue::poll_sent`].
pub(super) fn poll_sent(queue: &mut impl Polled, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
    while queue.outstanding() > at_most && !queue.is_gone() {
        ready!(queue.socket().poll_sent(cx));
    }
    queue.socket().sent();
    Poll::Ready(())
}

/// What was counted beyond what was told of, which is told of now.
pub(super) fn news(told: &mut Unreceived, counted: Unreceived) -> Unreceived {
    let before = std::mem::replace(told, counted);
    Unreceived {
        missed: counted.missed.saturating_sub(before.missed),
        dropped: counted.dropped.saturating_sub(before.dropped),
    }
}

/// A queue whose end takes place elsewhere: the kernel waits for all processors before a socket that received frames is gone,
/// and its rings are large.
#[derive(Debug)]
pub(super) struct Elsewhere<Q: Send + 'static>(Option<Q>);

impl<Q: Send + 'static> Elsewhere<Q> {
    pub(super) fn new(queue: Q) -> Self {
        Self(Some(queue))
    }
}

/// Only `drop` takes the queue out.
const THERE: &str = "a queue that is used was not dropped";

impl<Q: Send + 'static> Elsewhere<Q> {
    #[inline]
    fn queue(&mut self) -> &mut Q {
        self.0.as_mut().expect(THERE)
    }
}

impl<Q: Send + 'static> Drop for Elsewhere<Q> {
    fn drop(&mut self) {
        drop_elsewhere(self.0.take());
    }
}

/// Drops it on a thread that may wait. If the runtime ends before, whoever ends that does it.
pub(super) fn drop_elsewhere<T: Send + 'static>(value: T) {
    elsewhere(move || drop(value));
}

/// Does it on a thread that may wait; here, if there is none.
pub(super) fn elsewhere(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

impl<Q: VfQueue + Send + 'static> VfQueue for Elsewhere<Q> {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.queue().send(frame)
    }

    fn room(&mut self) -> usize {
        self.queue().room()
    }

    fn flush(&mut self) {
        self.queue().flush();
    }

    fn outstanding(&mut self) -> usize {
        self.queue().outstanding()
    }

    fn take_lost(&mut self) -> u64 {
        self.queue().take_lost()
    }

    fn take_unreceived(&mut self) -> Unreceived {
        self.queue().take_unreceived()
    }

    fn has_received(&mut self) -> bool {
        self.queue().has_received()
    }

    #[inline]
    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        self.queue().receive(sink, max)
    }

    fn receive_capacity(&self) -> usize {
        self.0.as_ref().expect(THERE).receive_capacity()
    }
}

impl<Q: AsyncVfQueue> AsyncVfQueue for Elsewhere<Q> {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue().poll_received(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        self.queue().poll_sent(cx, at_most)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.queue().counters()
    }
}
