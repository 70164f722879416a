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

    fn take_lost(&mut self) -> u64 {
        self.first.take_lost()
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

    fn group(received: [usize; 3]) -> VfGroup {
        let [first, others @ ..] =
            [0, 1, 2].map(|number| BoxVf::new(Fake { number, received: received[usize::from(number)], sent: 0 }));
        let mut group = VfGroup::new(first);
        others.into_iter().for_each(|queue| group.push(queue));
        group
    }

    fn receive(group: &mut VfGroup, max: usize) -> Vec<u8> {
        let mut burst = Burst::new(64, 64 * 64);
        assert_eq!(group.receive(&mut burst, max), burst.len());
        burst.frames().map(|frame| frame.bytes[0]).collect()
    }

    #[test]
    fn all_queues_are_received_from_and_none_starves() {
        let mut group = group([3, 0, 2]);
        assert_eq!(group.receive_capacity(), 30);
        assert!(group.has_received());
        assert_eq!(receive(&mut group, 2), [0, 0]);
        assert_eq!(receive(&mut group, 2), [0, 2]);
        assert_eq!(receive(&mut group, 2), [2]);
        assert!(!group.has_received());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(group.poll_received(&mut cx).is_pending());
    }

    #[test]
    fn whichever_has_received_something_wakes() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
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
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(group.poll_sent(&mut cx, 2).is_pending());
        assert!(group.poll_sent(&mut cx, 3).is_ready());
    }
}
