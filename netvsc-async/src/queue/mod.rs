//! A queue: one channel's worth of receiving and sending.

mod gro;
mod held;
mod rx;
mod shared;
mod stream;
mod task;
mod tx;
mod vf;

use std::sync::Arc;
use std::time::Duration;

use netvsc::gro::GroConfig;
use netvsc::queue::Burst;
use vmbus::bus::Channel;

pub use held::{HeldPacket, HeldRxBurst};
pub use rx::{RxBurst, RxHalf};
pub use stream::{PacketSink, PacketStream};
pub use tx::{TxBatch, TxHalf};

pub(crate) use shared::Shared;
pub(crate) use task::run;
pub(crate) use vf::VfLane;

use crate::packet::PacketPool;
use crate::wait::{WaitMode, Waiter};

/// A queue of the NIC. Owned, `Send`: give it to a task of its own.
///
/// Receiving and sending are two halves, [`rx`](Self::rx) and [`tx`](Self::tx), so that one task can forward what it
/// borrows from the one to the other:
///
/// ```no_run
/// # use netvsc_async::{Error, Queue}; use vmbus::bus::Channel; use netvsc::meta::TxMeta;
/// async fn reflect<C: Channel>(mut queue: Queue<C>) -> Result<(), Error> {
///     while let Some(burst) = queue.rx.recv_burst().await? {
///         let mut batch = queue.tx.batch();
///         for frame in &burst {
///             // No room: an appliance drops, as a router does; `tx.ready(..)` would wait.
///             let _ = batch.push(frame.bytes, &TxMeta::default());
///         }
///     }
///     Ok(())
/// }
/// ```
///
/// Dropping a queue does not close its channel: what the host still sends waits until the NIC is closed. Its completions
/// are still reclaimed.
#[derive(Debug)]
pub struct Queue<C: Channel> {
    /// Receives.
    pub rx: RxHalf<C>,
    /// Sends.
    pub tx: TxHalf<C>,
    index: u16,
}

/// How a queue is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueOptions {
    pub(crate) wait: WaitMode,
    pub(crate) busy_poll: Duration,
    pub(crate) burst_frames: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) pool_packets: usize,
    pub(crate) gro: Option<GroConfig>,
}

impl QueueOptions {
    /// Bytes that a frame takes in a burst, or has in a buffer.
    pub(crate) fn room_for_frame(&self) -> usize {
        self.frame_bytes.next_multiple_of(64)
    }
}

/// A burst must have room for one frame of any size that can come: an aggregate of 64 KiB and its headers.
pub(crate) const LARGEST_FRAME: usize = 68 * 1024;

/// A burst of frames of these bytes.
fn burst_of(frames: usize, frame_bytes: usize) -> Burst {
    Burst::new(frames, frames.saturating_mul(frame_bytes).max(LARGEST_FRAME))
}

impl<C: Channel> Queue<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, index: u16, options: QueueOptions) -> Self {
        let frame_bytes = options.room_for_frame();
        let burst = burst_of(options.burst_frames, frame_bytes);
        let pool = PacketPool::new(options.pool_packets, frame_bytes, Arc::clone(&shared.frame_bytes));
        let rx =
            RxHalf::new(Arc::clone(&shared), burst, Waiter::new(options.wait, options.busy_poll), pool, options.gro);
        Self { rx, tx: TxHalf { shared }, index }
    }

    /// Which of the NIC's queues it is; 0 is the primary channel.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The queue as a `Stream` of packets and a `Sink` for them, with the same error: `rx.forward(tx)` works.
    pub fn into_split(self) -> (PacketStream<C>, PacketSink<C>) {
        let pool = self.rx.pool.clone();
        (PacketStream::new(self.rx), PacketSink::new(self.tx, pool))
    }

    #[cfg(feature = "smoltcp")]
    pub(crate) fn pool(&self) -> PacketPool {
        self.rx.pool.clone()
    }

    /// A packet with a copy of `frame`, in a buffer of this queue's pool.
    pub fn packet(&self, frame: &[u8]) -> crate::Packet {
        self.rx.pool.packet(frame)
    }
}
