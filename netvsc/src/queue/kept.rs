//! Frames in private memory: what was received before a channel was closed, for whoever reads the queue later.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;

use super::burst::FrameSink;
use crate::meta::RxMeta;
use crate::stats::QueueStats;

/// The frames, oldest first. Each has an allocation of its own: this is for when a device is changed, not for traffic.
#[derive(Debug, Default)]
pub(super) struct Kept {
    frames: VecDeque<(Box<[u8]>, RxMeta)>,
    /// Bytes of all frames.
    bytes: usize,
    /// Most bytes. A host that goes on delivering although it was told not to finds no more room than in the receive buffer.
    limit: usize,
    /// What was asked for last.
    next: Box<[u8]>,
}

impl Kept {
    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Copies at most `max_frames` frames into `sink`; they were counted when they were received.
    pub(super) fn deliver<S: FrameSink>(&mut self, sink: &mut S, max_frames: usize, stats: &mut QueueStats) -> usize {
        let mut delivered = 0;
        while delivered < max_frames
            && let Some((frame, meta)) = self.frames.front()
        {
            if let Some(buffer) = sink.buffer(frame.len()) {
                buffer.copy_from_slice(frame);
                sink.commit(frame.len(), *meta);
                delivered += 1;
            } else if frame.len() <= sink.max_frame() {
                break;
            } else {
                stats.global.rx_no_memory += 1;
                stats.extra.rx_dropped += 1;
            }
            self.bytes -= frame.len();
            self.frames.pop_front();
        }
        delivered
    }
}

impl FrameSink for Kept {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.bytes.saturating_add(len) > self.limit {
            return None;
        }
        if self.next.len() != len {
            self.next = vec![0; len].into_boxed_slice();
        }
        Some(&mut self.next)
    }

    fn commit(&mut self, len: usize, meta: RxMeta) {
        self.bytes += len;
        self.frames.push_back((core::mem::take(&mut self.next), meta));
    }
}
