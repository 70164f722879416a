//! Changes of an open adapter: section counts, queues, MTU. What `ethtool -G`, `ethtool -L` and `ip link set mtu` do.
//!
//! The adapter is taken down and brought up again for each ([`netvsc::control`] has the steps). The application's queues,
//! streams and sinks stay what they are: meanwhile receivers get what was received before and then wait, senders wait for room.
//! Nothing that was accepted is lost, in either direction: received packets are copies and pin nothing, so it does not
//! matter how many there are. Only frames that are [held](crate::RxHalf::recv_held) have to be let go before: who holds some while
//! it waits for a change waits for itself, and is told so after a second ([`ReconfigureError::HeldFrames`]).
//!
//! On `uio_hv_generic` the kernel has fixed rings and buffers: there the device file is closed and opened again. The receive
//! sections stay what the host makes of 31 MiB, but no more of them wait for receivers than are wished
//! ([`DeviceInfo::receive_limit`]); of the send buffer's sections as many are used as are wished.

use std::time::Duration;

use netvsc::config::ConfigError;
use netvsc::control::{Limits, Parameters};
use netvsc::queue::HeldReceives;
use netvsc::rss::RssError;
use netvsc::{DeviceInfo, control};
use tokio::sync::oneshot;
use vmbus::ErrorKind;
use vmbus::bus::{Bus, Channel};

use crate::nic::{Command, Common, Nic};
use crate::queue::Queue;

/// How long a change waits for a [`TxBatch`](crate::TxBatch) that is open.
const HELD_LIMIT: Duration = Duration::from_secs(1);
/// How often it looks.
const HELD_INTERVAL: Duration = Duration::from_millis(1);

/// Section counts of both buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingParams {
    /// Of the receive buffer: those that there are, or that may be used where it cannot be made smaller
    /// ([`DeviceInfo::receive_limit`]).
    pub receive_sections: u32,
    /// Of the send buffer; 0 if there is none.
    pub send_sections: u32,
}

/// What `ethtool -g` shows: [`Nic::ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ring {
    /// Most sections of the size that they have now.
    pub max: RingParams,
    /// Sections there are.
    pub current: RingParams,
}

/// What `ethtool -l` shows: [`Nic::channels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Channels {
    /// Most queues that the host gives.
    pub max: u16,
    /// Queues there are.
    pub current: u16,
}

/// Why an adapter was not changed as wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The value cannot be. Nothing was done.
    Config(ConfigError),
    /// The indirection table that was set names queues that there would not be: set another one first. Nothing was done.
    Rss(RssError),
    /// A [`TxBatch`](crate::TxBatch) was open for a second: it holds its queue's lock, perhaps in the very task that waits here.
    /// Nothing was done.
    Held {
        /// Which queue's.
        queue: u16,
        /// Frames in it.
        packets: u32,
    },
    /// Received frames were held for a second after everything else was done: a [`HeldRxBurst`](crate::HeldRxBurst) or
    /// [`HeldPacket`](crate::HeldPacket)s, perhaps of the very task that waits here. The adapter goes on as it was.
    HeldFrames {
        /// Receive packets that they belong to.
        packets: usize,
        /// Sections that those pin.
        sections: usize,
    },
    /// The virtual function cannot be so: it is asked first. Nothing was done.
    VirtualFunction {
        /// What its backend says.
        kind: std::io::ErrorKind,
    },
    /// It failed; [`is_restored`](Self::is_restored) says whether the adapter goes on as it was.
    Device(control::ReconfigureError),
    /// The adapter is closed, or not any more what it was.
    Closed,
}

impl ReconfigureError {
    /// Whether the adapter goes on, as it was.
    #[must_use]
    pub const fn is_restored(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::Rss(_)
            | Self::Held { .. }
            | Self::HeldFrames { .. }
            | Self::VirtualFunction { .. } => true,
            Self::Device(error) => error.is_restored(),
            Self::Closed => false,
        }
    }
}

impl std::fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Rss(error) => error.fmt(f),
            Self::Held { queue, packets } => write!(f, "a batch of {packets} frames is open on queue {queue}"),
            Self::HeldFrames { packets, sections } => {
                write!(f, "frames of {packets} receive packets ({sections} sections) are held")
            }
            Self::VirtualFunction { kind } => write!(f, "the virtual function cannot be so: {kind}"),
            Self::Device(error) => error.fmt(f),
            Self::Closed => f.write_str("the network adapter is closed"),
        }
    }
}

impl std::error::Error for ReconfigureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Rss(error) => Some(error),
            Self::Device(error) => Some(error),
            Self::Held { .. } | Self::HeldFrames { .. } | Self::VirtualFunction { .. } | Self::Closed => None,
        }
    }
}

impl vmbus::Error for ReconfigureError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Rss(_) | Self::Held { .. } | Self::HeldFrames { .. } => ErrorKind::Misuse,
            Self::VirtualFunction { .. } => ErrorKind::System,
            Self::Device(error) => error.kind(),
            Self::Closed => ErrorKind::Gone,
        }
    }
}

impl From<control::ReconfigureError> for ReconfigureError {
    fn from(error: control::ReconfigureError) -> Self {
        match error {
            control::ReconfigureError::NotDetached {
                cause: control::Cause::Held(HeldReceives { packets, sections }),
            } => Self::HeldFrames { packets, sections },
            error => Self::Device(error),
        }
    }
}

/// A change that the adapter's task is asked for.
pub(crate) struct Change<C: Channel> {
    pub(crate) parameters: Parameters,
    /// Whoever asks takes the queues that come with it.
    pub(crate) takes_queues: bool,
    pub(crate) answer: oneshot::Sender<Result<Changed<C>, ReconfigureError>>,
}

/// What came of it.
pub(crate) struct Changed<C: Channel> {
    pub(crate) info: DeviceInfo,
    /// New ones.
    pub(crate) queues: Vec<Queue<C>>,
}

/// The answer to a change. If it was given and is not taken any more, its queues are kept for the next who asks.
struct Answered<'a, B: Bus> {
    answered: oneshot::Receiver<Result<Changed<B::Channel>, ReconfigureError>>,
    common: &'a Common<B>,
}

impl<B: Bus> Drop for Answered<'_, B> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Ok(changed)) = self.answered.try_recv() {
            self.common.unclaimed().extend(changed.queues);
        }
    }
}

fn current(info: &DeviceInfo) -> RingParams {
    let receive_sections = info.receive_limit.map_or(info.receive.count, |limit| limit.min(info.receive.count));
    RingParams { receive_sections, send_sections: info.send.map_or(0, |send| send.count) }
}

impl<B: Bus> Nic<B> {
    /// The section counts, and how far they can be raised.
    #[must_use]
    pub fn ring(&self) -> Ring {
        let info = self.info();
        let Limits { receive_sections, send_sections, .. } = Limits::of(&info);
        Ring { max: RingParams { receive_sections, send_sections }, current: current(&info) }
    }

    /// How many queues there are, and how many there can be.
    #[must_use]
    pub fn channels(&self) -> Channels {
        let info = self.info();
        Channels { max: Limits::of(&info).queues, current: info.queues }
    }

    /// Changes the section counts, as `ethtool -G` does: clamped to 10 and the maxima of [`ring`](Self::ring), and what came
    /// of it is given back, as the host divides its buffers itself. If all is so already, nothing is done.
    ///
    /// Takes as long as bringing the adapter up. One change at a time: others wait, and so do requests to the host. On
    /// failure the adapter is brought up as it was.
    ///
    /// # Errors
    /// [`ReconfigureError`].
    ///
    /// # Cancel safety
    /// The change is asked for at the first poll, or a little later while a batch is open. When the future is dropped after
    /// that the change is made all the same, unless it still waits for another one.
    pub async fn set_ring(&self, wish: RingParams) -> Result<RingParams, ReconfigureError> {
        let parameters =
            Parameters::default().receive_sections(wish.receive_sections).send_sections(wish.send_sections);
        Ok(current(&self.change(parameters, false).await?.info))
    }

    /// Changes the number of queues, as `ethtool -L … combined` does, 1 to the maximum of [`channels`](Self::channels). Gives
    /// the queues that were added; those beyond the new number end (receivers get what was received, then `None`), and
    /// the others go on. Received frames are spread over all queues anew, unless [`set_rss`](Self::set_rss) had been
    /// called: then its table stays, which must not name queues that there would not be.
    ///
    /// As to the rest see [`set_ring`](Self::set_ring).
    ///
    /// # Errors
    /// [`ReconfigureError`].
    ///
    /// # Cancel safety
    /// As [`set_ring`](Self::set_ring). Queues that were added and not taken are given by the next call.
    pub async fn set_channels(&self, queues: u16) -> Result<Vec<Queue<B::Channel>>, ReconfigureError> {
        Ok(self.change(Parameters::default().queues(queues), true).await?.queues)
    }

    /// Changes the MTU, 68 to 65521 (1500 with NVSP 1). Gives the one that came of it: the host may allow less. Frames
    /// longer than that are refused from then on.
    ///
    /// As to the rest see [`set_ring`](Self::set_ring).
    ///
    /// # Errors
    /// [`ReconfigureError`].
    ///
    /// # Cancel safety
    /// As [`set_ring`](Self::set_ring).
    pub async fn set_mtu(&self, mtu: u32) -> Result<u32, ReconfigureError> {
        Ok(self.change(Parameters::default().mtu(mtu), false).await?.info.mtu)
    }

    async fn change(
        &self,
        parameters: Parameters,
        takes_queues: bool,
    ) -> Result<Changed<B::Channel>, ReconfigureError> {
        self.no_batch_is_open().await?;
        let (answer, answered) = oneshot::channel();
        if !self.command(Command::Reconfigure(Change { parameters, takes_queues, answer })) {
            return Err(ReconfigureError::Closed);
        }
        let mut answered = Answered { answered, common: &self.common };
        (&mut answered.answered).await.unwrap_or(Err(ReconfigureError::Closed))
    }

    /// Waits until every batch that is open now was dropped.
    async fn no_batch_is_open(&self) -> Result<(), ReconfigureError> {
        let until = tokio::time::Instant::now() + HELD_LIMIT;
        for queue in self.queues() {
            let Some(batch) = queue.open_batch() else { continue };
            while queue.open_batch() == Some(batch) {
                if tokio::time::Instant::now() >= until {
                    let (queue, packets) = (queue.index, queue.batched());
                    return Err(ReconfigureError::Held { queue, packets });
                }
                tokio::time::sleep(HELD_INTERVAL).await;
            }
        }
        Ok(())
    }
}
