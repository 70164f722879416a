//! Ranges that were taken off the ring and wait to be received.
//!
//! A plain vector with a place where it starts: the ranges of a packet are one slice. It starts over whenever nothing is
//! left, so that a queue that is read as fast as it fills uses the same few cache lines again and again.

use alloc::vec::Vec;

use vmbus::packet::TransferRange;

/// The ranges.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    ranges: Vec<TransferRange>,
    /// Those before were consumed.
    first: usize,
}

impl Backlog {
    /// Makes room for `count` ranges that wait at the same time.
    ///
    /// Twice that is reserved, so that ranges are moved to the front only when as many have been consumed as wait.
    pub(super) fn reserve(&mut self, count: usize) {
        self.ranges.reserve_exact(count.saturating_mul(2).saturating_sub(self.ranges.len()));
    }

    /// How many wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.ranges.len() - self.first
    }

    /// Those that wait, in order.
    #[inline]
    pub(super) fn waiting(&self) -> &[TransferRange] {
        &self.ranges[self.first..]
    }

    /// Adds ranges. Allocates if more wait then than were [reserved](Self::reserve).
    #[inline]
    pub(super) fn extend(&mut self, ranges: impl ExactSizeIterator<Item = TransferRange>) {
        if ranges.len() > self.ranges.capacity() - self.ranges.len() {
            self.ranges.drain(..self.first);
            self.first = 0;
        }
        self.ranges.extend(ranges);
    }

    /// The first `count` were consumed; all of them if there are not so many.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        if count < self.len() {
            self.first += count;
        } else {
            self.clear();
        }
    }

    /// Forgets all.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;

    use super::*;

    #[test]
    fn it_is_a_queue_that_does_not_grow() {
        let mut backlog = Backlog::default();
        backlog.reserve(20);
        let capacity = backlog.ranges.capacity();
        let mut model = VecDeque::new();
        let mut number = 0;
        for step in 0..1000usize {
            let count = (step * 7 % 9).min(20 - model.len());
            let new: Vec<_> =
                (0..count as u32).map(|at| TransferRange { byte_count: number + at, byte_offset: 1 }).collect();
            number += count as u32;
            model.extend(new.iter().copied());
            backlog.extend(new.into_iter());
            let consumed = (step * 5 % 8).min(model.len());
            model.drain(..consumed);
            backlog.consume(consumed);
            assert_eq!(backlog.len(), model.len());
            assert!(backlog.waiting().iter().eq(&model), "step {step}");
        }
        assert_eq!(backlog.ranges.capacity(), capacity);
        backlog.consume(usize::MAX);
        assert_eq!((backlog.len(), backlog.first), (0, 0));
    }
}
