//! A bounded queue of frames whose buffers are used again: nothing is allocated per frame once it has warmed up.

use std::collections::VecDeque;

/// Frames in order, at most `capacity` of them, and the empty buffers of frames that have left.
#[derive(Debug)]
pub(super) struct FrameQueue {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    capacity: usize,
}

impl FrameQueue {
    /// A queue for `capacity` frames, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self { frames: VecDeque::new(), spare: Vec::new(), capacity: capacity.max(1) }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= self.capacity
    }

    /// Copies `bytes` in; false if the queue is full.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        if self.is_full() {
            return false;
        }
        let mut buffer = self.take_spare();
        buffer.extend_from_slice(bytes);
        self.frames.push_back(buffer);
        true
    }

    /// Moves a filled buffer in; false, with the buffer recycled, if the queue is full.
    pub(super) fn push_buffer(&mut self, buffer: Vec<u8>) -> bool {
        if self.is_full() {
            self.recycle(buffer);
            return false;
        }
        self.frames.push_back(buffer);
        true
    }

    /// The oldest frame; give its buffer back with [`recycle`](Self::recycle).
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// An empty buffer, a used one if there is any.
    pub(super) fn take_spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes the buffer of a frame that has left. No more are kept than the queue has places.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < self.capacity {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let mut queue = FrameQueue::new(2);
        assert!(queue.push(b"one"));
        assert!(queue.push(b"two"));
        assert!(!queue.push(b"three"));
        assert_eq!((queue.len(), queue.is_full()), (2, true));
        assert_eq!(queue.pop().as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn buffers_come_back_empty_and_with_their_memory() {
        let mut queue = FrameQueue::new(2);
        assert!(queue.push(&[7; 1500]));
        let buffer = queue.pop().unwrap();
        let place = buffer.as_ptr();
        queue.recycle(buffer);
        assert!(queue.push(b"short"));
        let again = queue.pop().unwrap();
        assert_eq!((again.as_slice(), again.as_ptr()), (&b"short"[..], place));
    }

    #[test]
    fn spare_buffers_are_bounded() {
        let mut queue = FrameQueue::new(1);
        queue.recycle(vec![1]);
        queue.recycle(vec![2]);
        assert_eq!(queue.spare.len(), 1);
    }
}
