//! The port that sends every frame back.

use core::time::Duration;

use super::buffers::FrameQueue;
use super::{Frame, Port};

/// Returns each frame, by default with its two MAC addresses swapped, so that it finds its sender again.
///
/// A frame to a group address gets [`own`](Self::own_mac) as its source when it comes back: a group address is no
/// legal source. Without the swap a frame returns as it came; then its source is the sender's, and the switch lets it
/// in only on a port added with [`spoofing`](crate::switch::PortOptions::spoofing) and without
/// [`learning`](crate::switch::PortOptions::learning).
#[derive(Debug)]
pub struct LoopbackPort {
    queue: FrameQueue,
    swap: bool,
    own: [u8; 6],
}

impl LoopbackPort {
    /// Frames that wait for the next poll at most; more are dropped.
    pub const DEFAULT_CAPACITY: usize = 1024;

    /// A loopback that swaps source and destination.
    pub fn new() -> Self {
        Self { queue: FrameQueue::new(Self::DEFAULT_CAPACITY), swap: true, own: [0x02, 0, 0, 0, 0, 0xfe] }
    }

    /// Whether source and destination are swapped. Default true.
    #[must_use]
    pub fn swap_macs(mut self, swap: bool) -> Self {
        self.swap = swap;
        self
    }

    /// The source of frames that were sent to a group address. Default `02:00:00:00:00:fe`.
    #[must_use]
    pub fn own_mac(mut self, mac: [u8; 6]) -> Self {
        self.own = mac;
        self
    }

    /// How many frames wait for the next poll at most. Default [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY).
    #[must_use]
    pub fn capacity(mut self, frames: usize) -> Self {
        self.queue = FrameQueue::new(frames);
        self
    }
}

impl Default for LoopbackPort {
    fn default() -> Self {
        Self::new()
    }
}

impl Port for LoopbackPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        if self.queue.is_full() {
            return false;
        }
        let mut buffer = self.queue.take_spare();
        buffer.extend_from_slice(frame.bytes);
        if self.swap
            && let Some((addresses, _)) = buffer.split_first_chunk_mut::<12>()
        {
            addresses.rotate_left(6);
            // The old destination is the source now; a group bit there would make the frame illegal.
            if addresses[6] & 1 != 0 {
                addresses[6..].copy_from_slice(&self.own);
            }
        }
        self.queue.push_buffer(buffer)
    }

    fn poll(&mut self, _now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        let mut given = 0;
        while given < budget
            && let Some(buffer) = self.queue.pop()
        {
            out(Frame::new(&buffer));
            self.queue.recycle(buffer);
            given += 1;
        }
        given
    }

    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        (!self.queue.is_empty()).then_some(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(port: &mut LoopbackPort) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        port.poll(Duration::ZERO, usize::MAX, &mut |frame| frames.push(frame.bytes.to_vec()));
        frames
    }

    #[test]
    fn addresses_are_swapped_and_the_rest_is_kept() {
        let mut port = LoopbackPort::new();
        assert!(port.deliver(Frame::new(b"\x02ddddd\x02sssss\x08\x00payload")));
        assert_eq!(returned(&mut port), [b"\x02sssss\x02ddddd\x08\x00payload".to_vec()]);
    }

    #[test]
    fn a_group_address_never_becomes_a_source() {
        let mut port = LoopbackPort::new().own_mac(*b"\x02ownmc");
        assert!(port.deliver(Frame::new(b"\xff\xff\xff\xff\xff\xff\x02sssss\x08\x06")));
        assert_eq!(returned(&mut port), [b"\x02sssss\x02ownmc\x08\x06".to_vec()]);
    }

    #[test]
    fn without_the_swap_the_frame_is_untouched() {
        let mut port = LoopbackPort::new().swap_macs(false);
        assert!(port.deliver(Frame::new(b"\xff\xff\xff\xff\xff\xff\x02sssss\x08\x06")));
        assert_eq!(returned(&mut port), [b"\xff\xff\xff\xff\xff\xff\x02sssss\x08\x06".to_vec()]);
    }

    #[test]
    fn a_full_loopback_drops_and_asks_to_be_polled() {
        let mut port = LoopbackPort::new().capacity(1);
        assert_eq!(port.next_timeout(Duration::ZERO), None);
        assert!(port.deliver(Frame::new(&[0; 14])));
        assert!(!port.deliver(Frame::new(&[0; 14])));
        assert_eq!(port.next_timeout(Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(returned(&mut port).len(), 1);
        assert_eq!(port.next_timeout(Duration::ZERO), None);
    }
}
