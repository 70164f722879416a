//! Rings that the test fills and empties itself.

use std::collections::VecDeque;

use netvsc::meta::{RxMeta, TxMeta};
use netvsc::queue::QueueError;
use netvsc::vf::SyntheticPath;
use netvsc::{FrameSink, SendError};

/// Rings whose packets are frames, or the host's word on the data path.
#[derive(Default)]
pub(crate) struct Rings {
    pub(crate) ring: VecDeque<Option<Vec<u8>>>,
    backlog: VecDeque<Vec<u8>>,
    position: u64,
    /// Where the host's words stood.
    pub(crate) words: VecDeque<u64>,
    unflushed: VecDeque<Vec<u8>>,
    pub(crate) sent: VecDeque<Vec<u8>>,
}

impl SyntheticPath for Rings {
    type Error = QueueError;

    fn pump(&mut self) -> Result<(), QueueError> {
        while let Some(packet) = self.ring.pop_front() {
            match packet {
                Some(frame) => self.backlog.push_back(frame),
                None => self.words.push_back(self.position + self.backlog.len() as u64),
            }
        }
        Ok(())
    }

    fn backlog(&self) -> usize {
        self.backlog.len()
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn unread_position(&self) -> Option<u64> {
        self.words.front().copied()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> Result<usize, QueueError> {
        if self.backlog.len() < max {
            self.pump()?;
        }
        let mut got = 0;
        while got < max
            && let Some(frame) = self.backlog.front()
            && let Some(room) = sink.buffer(frame.len())
        {
            room.copy_from_slice(frame);
            sink.commit(frame.len(), RxMeta::default());
            self.backlog.pop_front();
            self.position += 1;
            got += 1;
        }
        Ok(got)
    }

    fn send(&mut self, frame: &[u8], _: &TxMeta) -> Result<(), SendError> {
        if self.outstanding() >= 8 {
            return Err(SendError::Full);
        }
        self.unflushed.push_back(frame.to_vec());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), QueueError> {
        self.sent.append(&mut self.unflushed);
        Ok(())
    }

    fn outstanding(&self) -> usize {
        self.unflushed.len() + self.sent.len()
    }
}
