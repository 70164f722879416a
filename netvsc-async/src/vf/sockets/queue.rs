//! What both kinds of queues have in common: waiting for them, and closing them.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use netvsc::queue::FrameSink;
use netvsc::vf::{VfQueue, VfSendError};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::vf::backend::AsyncVfQueue;

/// How often it is looked whether something was sent: sockets tell of that, but not of every kind of it.
const LOOK: Duration = Duration::from_millis(1);

/// A socket that can be waited for.
pub(super) struct Socket {
    descriptor: AsyncFd<OwnedFd>,
    /// The kernel told of an error, after which it seems writable for ever.
    failed: bool,
    /// Has the timer, wherever this is polled.
    runtime: Handle,
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
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        #[allow(deprecated, reason = "unsound for types that lend a descriptor they do not keep: this one does")]
        Ok(Self { descriptor: AsyncFd::new(descriptor)?, failed: false, runtime, timer: None })
    }

    pub(super) fn get(&self) -> &OwnedFd {
        self.descriptor.get_ref()
    }

    /// To be asked after nothing was found. Ready: it is to be looked again.
    pub(super) fn poll_received(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.descriptor.poll_read_ready(cx) {
            Poll::Ready(Ok(mut ready)) => {
                ready.clear_ready();
                Poll::Ready(())
            }
            // The runtime is going down.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// To be asked after too much was outstanding. Ready: it is to be looked again.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.failed
            && let Poll::Ready(Ok(mut ready)) = self.descriptor.poll_write_ready(cx)
        {
            self.failed = ready.ready().is_write_closed();
            ready.clear_ready();
            return Poll::Ready(());
        }
        let runtime = &self.runtime;
        let timer = self.timer.get_or_insert_with(|| {
            // Whoever polls may be outside of it, where there is no timer.
            let _inside = runtime.enter();
            Box::pin(tokio::time::sleep(LOOK))
        });
        std::task::ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(())
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
        let queue = self.0.take();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(queue))),
            Err(_) => drop(queue),
        }
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
}
