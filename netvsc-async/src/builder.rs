//! How an adapter is set up and opened.

use std::sync::Arc;
use std::time::Duration;

use netvsc::Config;
use netvsc::gro::GroConfig;
use tokio::runtime::Handle;
use vmbus::bus::Bus;

use crate::clock::{Clock, TokioClock};
use crate::driver;
use crate::nic::Nic;
use crate::open::OpenError;
use crate::queue::{Queue, QueueOptions};
use crate::vf::{Settings, VfBackend};
use crate::wait::{BUSY_POLL, WaitMode};

/// Sets an adapter up: [`Nic::builder`](crate::Nic::builder).
#[derive(Clone)]
pub struct NicBuilder {
    pub(crate) config: Config,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) tx_latency: Duration,
    pub(crate) queue_runtimes: Vec<(u16, Handle)>,
    pub(crate) stall_limit: Duration,
    wait: WaitMode,
    busy_poll: Duration,
    burst_frames: usize,
    pool_packets: usize,
    gro: Option<GroConfig>,
    pub(crate) vf: Option<Arc<dyn VfBackend>>,
    pub(crate) vf_settings: Settings,
    #[cfg(feature = "uio")]
    pub(crate) device: vmbus::uio::Selector,
    #[cfg(feature = "uio")]
    pub(crate) uio: vmbus::uio::Settings,
}

impl std::fmt::Debug for NicBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NicBuilder").field("config", &self.config).field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl Default for NicBuilder {
    fn default() -> Self {
        Self {
            config: Config::default(),
            clock: None,
            tx_latency: Duration::from_micros(50),
            queue_runtimes: Vec::new(),
            stall_limit: Duration::from_secs(5),
            wait: WaitMode::default(),
            busy_poll: BUSY_POLL,
            burst_frames: 64,
            pool_packets: 1024,
            gro: Some(GroConfig::default()),
            vf: None,
            vf_settings: Settings::default(),
            #[cfg(feature = "uio")]
            device: vmbus::uio::Selector::Only,
            #[cfg(feature = "uio")]
            uio: vmbus::uio::Settings::default(),
        }
    }
}

impl NicBuilder {
    /// The settings of the device itself, all at once. Replaces what was set before.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes settings of the device: section counts, MTU, rings, deadlines, NVSP versions.
    #[must_use]
    pub fn tune(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.config = change(self.config);
        self
    }

    /// Sections of the receive buffer, 10 to 18811; default 9709. What the host makes of it is in
    /// [`DeviceInfo`](netvsc::DeviceInfo). Memory: 1728 bytes each.
    #[must_use]
    pub fn receive_sections(mut self, sections: u32) -> Self {
        self.config = self.config.receive_sections(sections);
        self
    }

    /// Sections of the send buffer, 10 to 2560; default 170. Memory: 6144 bytes each.
    #[must_use]
    pub fn send_sections(mut self, sections: u32) -> Self {
        self.config = self.config.send_sections(sections);
        self
    }

    /// Queues, 1 to 64; default 1. How many there are is the number that [`open_on`](Self::open_on) gives: fewer where the
    /// host has fewer, one where it has no scaling or it fails ([`Event::Warning`](crate::Event::Warning) says why). Each is
    /// a task of its own, on its own [runtime](Self::queue_runtime) if so wished, and costs its rings and pools once more.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.config = self.config.queues(queues);
        self
    }

    /// Largest payload of an Ethernet frame, 68 to 65521; default 1500. The host may allow less: see
    /// [`DeviceInfo`](netvsc::DeviceInfo).
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.config = self.config.mtu(mtu);
        self
    }

    /// Which offloads the host is asked for; default
    /// [`OffloadSettings::forwarding`](netvsc::OffloadSettings::forwarding). What it lacks is computed in software. See
    /// [`DeviceInfo::offloads`](netvsc::DeviceInfo) for what became of it, and
    /// [`Nic::set_offloads`](crate::Nic::set_offloads) for changes.
    #[must_use]
    pub fn offloads(mut self, settings: netvsc::OffloadSettings) -> Self {
        self.config = self.config.offloads(settings);
        self
    }

    /// Longest frame that is copied into a send section; longer ones go from direct memory, if there is any. Default: no
    /// limit but the section's size. See [`Config::tx_copybreak`].
    #[must_use]
    pub fn tx_copybreak(mut self, bytes: usize) -> Self {
        self.config = self.config.tx_copybreak(bytes);
        self
    }

    /// Longest frame that [`RxHalf::recv_held`](crate::RxHalf::recv_held) copies whole, and how many bytes it copies of longer ones;
    /// default 256, from 128. Nothing to other ways of receiving, which copy every frame. See [`Config::rx_copybreak`].
    #[must_use]
    pub fn rx_copybreak(mut self, bytes: usize) -> Self {
        self.config = self.config.rx_copybreak(bytes);
        self
    }

    /// How many receive sections held frames may pin at a time, all queues together; default half of those there are. Beyond that,
    /// frames are copied whole (`rx_copied_watermark` counts them), so that no receiver leaves the host without sections. See
    /// [`Config::rx_watermark`].
    #[must_use]
    pub fn rx_watermark(mut self, sections: u32) -> Self {
        self.config = self.config.rx_watermark(sections);
        self
    }

    /// Whether the 802.1Q tags of received frames are put back into them; default false: they come beside the frames, in
    /// [`RxMeta`](netvsc::RxMeta).
    #[must_use]
    pub fn reinsert_tags(mut self, reinsert: bool) -> Self {
        self.config = self.config.reinsert_tags(reinsert);
        self
    }

    /// Whether 802.1Q tags in frames that are sent stay there; default false: they are moved beside the frames, as hosts expect.
    #[must_use]
    pub fn tags_in_band(mut self, keep: bool) -> Self {
        self.config = self.config.tags_in_band(keep);
        self
    }

    /// Whether the host's verdicts on checksums are compared with computed ones; default false. See
    /// [`Config::check_verdicts`].
    #[must_use]
    pub fn check_verdicts(mut self, check: bool) -> Self {
        self.config = self.config.check_verdicts(check);
        self
    }

    /// How the queues wait for frames. Default: adaptive.
    #[must_use]
    pub fn wait(mut self, mode: WaitMode) -> Self {
        self.wait = mode;
        self
    }

    /// How long a receiver that finds nothing looks again within its task, before it gives way to the other tasks of its worker:
    /// what `SO_BUSY_POLL` and `net.core.busy_read` are for the kernel's sockets. Default 20 µs; zero: it gives way after each
    /// look.
    ///
    /// It is about modes that look again ([`WaitMode::Poll`], [`WaitMode::Adaptive`]), whose bounds hold as well, and saves
    /// most of what the runtime does between two looks. So long are other tasks of the same worker kept waiting at a time, and
    /// timers; a task whose [budget](tokio::task::coop) is used up gives way at once. A receiver that has just taken frames gives
    /// way after the first look, so that what was taken can be sent on, and one that found none for long after each.
    #[must_use]
    pub fn busy_poll(mut self, limit: Duration) -> Self {
        self.busy_poll = limit;
        self
    }

    /// How long frames that were handed over without a flush may wait for their doorbell. Default 50 µs, at which
    /// Hyper-V looks at monitored channels itself; zero: the queue's task rings as soon as it runs.
    #[must_use]
    pub fn tx_latency(mut self, latency: Duration) -> Self {
        self.tx_latency = latency;
        self
    }

    /// Most frames that a burst lends at a time, 1 to 4096; default 64. Memory a queue: frames × frame size.
    #[must_use]
    pub fn burst(mut self, frames: usize) -> Self {
        self.burst_frames = frames.clamp(1, 4096);
        self
    }

    /// Buffers for owned packets a queue, allocated when it opens, and once more when a larger MTU is set; default 1024. More
    /// packets may be held than that: each further one is allocated.
    #[must_use]
    pub fn pool_packets(mut self, packets: usize) -> Self {
        self.pool_packets = packets;
        self
    }

    /// Generic receive offload: how segments of one flow are merged after they were received, or `None`: not at all. Default:
    /// TCP, within a poll.
    ///
    /// It is about packets of a [`PacketStream`](crate::PacketStream), which carry what it takes to send them on: a merged one
    /// is cut into the very same segments again, by the host where it can. So it is on for endpoints and forwarders alike,
    /// unlike the host's own coalescing, whose segments nobody knows any more. Bursts lend frames as they came, and merge them
    /// when [asked](crate::RxBurst::merged).
    #[must_use]
    pub fn gro(mut self, config: Option<GroConfig>) -> Self {
        self.gro = config;
        self
    }

    /// Has the adapter use the virtual functions that the host gives it, by this [backend](crate::vf). Default: none is used.
    ///
    /// The queues stay what they are: while the host has moved the traffic to a VF, they send and receive by it, and what still
    /// comes by the rings as well; [`RxMeta::path`](netvsc::RxMeta) says which. When the VF is taken back or vanishes they go on
    /// by the rings. [`Event`](crate::Event)s tell, and [`Nic::vf`](crate::Nic::vf). A confidential guest
    /// ([`Config::isolated`](netvsc::Config::isolated)) is offered none.
    #[must_use]
    pub fn vf(mut self, backend: impl VfBackend) -> Self {
        self.vf = Some(Arc::new(backend));
        self
    }

    /// Deadlines and pauses about virtual functions.
    #[must_use]
    pub fn vf_settings(mut self, settings: Settings) -> Self {
        self.vf_settings = settings;
        self
    }

    /// How long sends may wait for the host without any being completed, before
    /// [`Event::Stalled`](crate::Event::Stalled). Default 5 s.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = limit;
        self
    }

    /// The clock that deadlines and the adaptive wait go by. Default: tokio's. Timers always are tokio's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// The runtime that queue `index`'s background task lives on, for instance that of a
    /// [`PinnedRuntime`](crate::PinnedRuntime). Default: the one that the adapter is opened on.
    #[must_use]
    pub fn queue_runtime(mut self, index: u16, runtime: Handle) -> Self {
        self.queue_runtimes.retain(|(queue, _)| *queue != index);
        self.queue_runtimes.push((index, runtime));
        self
    }

    /// Opens the adapter on `bus`: brings it up, and gives its handle and its queues, in the order of their indices.
    ///
    /// # Errors
    /// [`OpenError`]; what existed by then was undone.
    ///
    /// # Cancel safety
    /// When the future is dropped, the adapter is closed in the background.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub async fn open_on<B: Bus>(self, bus: B) -> Result<(Nic<B>, Vec<Queue<B::Channel>>), OpenError> {
        let clock = self.clock.clone().unwrap_or_else(|| Arc::new(TokioClock::new()));
        driver::open(self, clock, bus).await
    }

    pub(crate) fn queue_options(&self, mtu: u32) -> QueueOptions {
        QueueOptions {
            wait: self.wait,
            busy_poll: self.busy_poll,
            burst_frames: self.burst_frames,
            // Ethernet header and a VLAN tag.
            frame_bytes: mtu as usize + 18,
            pool_packets: self.pool_packets,
            gro: self.gro,
        }
    }
}

impl Nic {
    /// An adapter with default settings, to be changed and opened.
    #[must_use]
    pub fn builder() -> NicBuilder {
        NicBuilder::default()
    }
}
