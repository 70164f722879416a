//! Queues of a virtual function that belong to one queue of the adapter.

use std::task::{Context, Poll};

use netvsc::queue::FrameSink;
use netvsc::vf::{VfQueue, VfSendError};

use super::backend::{AsyncVfQueue, BoxVf};

/// One or several: a VF may have more queues than the adapter. Sends by the first, so that the order of flows is kept.
#[derive(Debug)]
pub(crate) struct VfGroup {
    first: BoxVf,
    others: Vec<BoxVf>,
    /// Of the others: the one that is received from first, as the one before it took all the room.
    next: usize,
}

impl VfGroup {
    pub(crate) fn new(first: BoxVf) -> Self {
        Self { first, others: Vec::new(), next: 0 }
    }

    pub(crate) fn push(&mut self, queue: BoxVf) {
        self.others.push(queue);
    }
}

impl VfQueue for VfGroup {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.first.send(frame)
    }

    fn room(&mut self) -> usize {
        self.first.room()
    }

    fn flush(&mut self) {
        self.first.flush();
    }

    fn outstanding(&mut self) -> usize {
        self.first.outstanding()
    }

    fn has_received(&mut self) -> bool {
        self.first.has_received() || self.others.iter_mut().any(VfQueue::has_received)
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        if self.others.is_empty() {
            return self.first.receive(sink, max);
        }
        let all = 1 + self.others.len();
        let mut got = 0;
        for _ in 0..all {
            let queue = self.next.checked_sub(1).and_then(|other| self.others.get_mut(other));
            got += queue.unwrap_or(&mut self.first).receive(sink, max - got);
            if got == max {
                break;
            }
            self.next = (self.next + 1) % all;
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        self.others.iter().fold(self.first.receive_capacity(), |sum, queue| sum + queue.receive_capacity())
    }
}

impl AsyncVfQueue for VfGroup {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // All of them, whichever is ready.
        let mut poll = self.first.poll_received(cx);
        for queue in &mut self.others {
            if queue.poll_received(cx).is_ready() {
                poll = Poll::Ready(());
            }
        }
        poll
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        self.first.poll_sent(cx, at_most)
    }
}
