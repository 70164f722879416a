//! On which queue a frame is sent, for many tasks at a time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use netvsc::rss::{RssKey, Toeplitz};
use netvsc::steering::{self, BUCKETS, HashLevel, HashLevels, HashProtocol};

/// Chooses the queue of each frame that is sent, so that the frames of a flow stay in order:
/// [`Nic::steering`](crate::Nic::steering).
///
/// Cheap to clone; clones are the same chooser. It follows the host's send indirection table and the queues there are. The rules are
/// those of [`netvsc::steering`].
#[derive(Clone)]
pub struct Steering {
    shared: Arc<Shared>,
}

struct Shared {
    toeplitz: Toeplitz,
    levels: AtomicU8,
    buckets: [AtomicU16; BUCKETS],
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("levels", &self.levels()).field("buckets", &self.shared.buckets).finish()
    }
}

impl Steering {
    pub(crate) fn new(buckets: [u16; BUCKETS]) -> Self {
        let shared = Shared {
            toeplitz: Toeplitz::new(&RssKey::default()),
            levels: AtomicU8::new(HashLevels::default().to_bits()),
            buckets: buckets.map(AtomicU16::new),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The index of the queue to send `frame` on; 0 for what is no IP.
    #[inline]
    #[must_use]
    pub fn queue_for(&self, frame: &[u8]) -> u16 {
        steering::bucket(&self.shared.toeplitz, self.levels(), frame)
            .map_or(0, |bucket| self.shared.buckets[bucket].load(Ordering::Relaxed))
    }

    /// How much of a frame of `protocol` tells its flow. Default [`HashLevel::L4`] for all four.
    #[must_use]
    pub fn level(&self, protocol: HashProtocol) -> HashLevel {
        self.levels().get(protocol)
    }

    /// Changes that, as `ethtool -N … rx-flow-hash udp4 sd` does: where datagrams are fragmented, [`HashLevel::L3`] keeps all
    /// of a flow on one queue.
    pub fn set_level(&self, protocol: HashProtocol, level: HashLevel) {
        let change = |bits| Some(HashLevels::from_bits(bits).with(protocol, level).to_bits());
        // Never refuses.
        let _ = self.shared.levels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    #[inline]
    fn levels(&self) -> HashLevels {
        HashLevels::from_bits(self.shared.levels.load(Ordering::Relaxed))
    }

    /// The host's table or the queues changed; whether that makes a difference. Frames that are sent meanwhile go by the old
    /// or the new bucket.
    pub(crate) fn set_buckets(&self, buckets: [u16; BUCKETS]) -> bool {
        let mut changed = false;
        for (bucket, queue) in self.shared.buckets.iter().zip(buckets) {
            changed |= bucket.swap(queue, Ordering::Relaxed) != queue;
        }
        changed
    }
}
