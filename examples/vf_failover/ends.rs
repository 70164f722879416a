//! The two ends that talk through the appliance, whatever they are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use netvsc_examples::blob::Content;
use sha2::{Digest, Sha256};

use crate::flow::Flow;

/// What the ends and who looks on have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    /// From the near end to the far one, and back.
    pub(crate) flows: [Flow; 2],
}

impl Common {
    /// Nothing new is to be sent.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Bytes of the stream that have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

/// What a stream was at one of its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transferred {
    pub(crate) bytes: u64,
    pub(crate) hash: [u8; 32],
}

/// The sender of a stream: content by a seed, until it is told to stop.
pub(crate) struct Source {
    content: Content,
    sent: u64,
    hash: Sha256,
    common: Common,
}

impl Source {
    pub(crate) fn new(seed: u64, common: &Common) -> Self {
        Self { content: Content::new(seed), sent: 0, hash: Sha256::new(), common: common.clone() }
    }

    /// Fills `buffer` with what comes next; 0 at the end.
    pub(crate) fn next(&mut self, buffer: &mut [u8]) -> usize {
        if self.common.is_stopped() {
            return 0;
        }
        self.content.fill(self.sent, buffer);
        self.hash.update(&*buffer);
        self.sent += buffer.len() as u64;
        buffer.len()
    }

    pub(crate) fn finish(&self) -> Transferred {
        Transferred { bytes: self.sent, hash: self.hash.clone().finalize().into() }
    }
}

/// The receiver of a stream.
pub(crate) struct Drain {
    hash: Sha256,
    bytes: u64,
    common: Common,
}

impl Drain {
    pub(crate) fn new(common: &Common) -> Self {
        Self { hash: Sha256::new(), bytes: 0, common: common.clone() }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.common.arrived.store(self.bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self) -> Transferred {
        Transferred { bytes: self.bytes, hash: self.hash.clone().finalize().into() }
    }
}

/// What became of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) sent: Transferred,
    pub(crate) received: Transferred,
    /// Segments that TCP sent again; `None` where nobody counts them.
    pub(crate) retransmissions: Option<u64>,
    /// What iperf3 did beside it.
    pub(crate) generated: Option<Generated>,
}

/// What iperf3 said of its runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Generated {
    pub(crate) runs: u64,
    /// That its receiver had.
    pub(crate) bytes: u64,
    pub(crate) retransmissions: u64,
}

/// The ends once they are silent: what they have counted, of frames of every kind.
pub(crate) trait Counted {
    /// Frames that either end has sent, and the other has not received so far.
    ///
    /// # Errors
    /// If it cannot be known.
    fn missing(&mut self) -> anyhow::Result<u64>;
}
