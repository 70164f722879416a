//! The NIC: what a user holds, and the task that keeps its control side going.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::task::AtomicWaker;
use netvsc::gro::GroStats;
use netvsc::stats::{QueueStats, VfStats};
use netvsc::{CloseReport, DeviceInfo, OffloadSettings, PacketFilter, RssSettings};

use tokio::sync::{broadcast, mpsc, oneshot};
use vmbus::bus::{Bus, Channel};

use crate::event::{Event, Events};
use crate::open::{CloseError, RequestError};
use crate::queue::{Queue, Shared};
use crate::reconfigure::Change;
use crate::steering::Steering;
use crate::vf::VfStatus;

/// What the handle asks of the task.
pub(crate) enum Command<C: Channel> {
    SetPacketFilter(PacketFilter, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    Query(rndis::Oid, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    Set(rndis::Oid, Vec<u8>, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    SetRss(RssSettings, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    SetOffloads(OffloadSettings, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    Reconfigure(Change<C>),
    Close(oneshot::Sender<Result<CloseReport, CloseError>>),
}

/// What the handle and the task share.
pub(crate) struct Common<B: Bus> {
    pub(crate) commands: mpsc::UnboundedSender<Command<B::Channel>>,
    pub(crate) task: Arc<AtomicWaker>,
    pub(crate) events: broadcast::Sender<Event>,
    /// The first reader's: it has what happened during the bring-up.
    pub(crate) first_events: Mutex<Option<broadcast::Receiver<Event>>>,
    pub(crate) info: Mutex<DeviceInfo>,
    /// Those there are, in order; a change of the adapter replaces them.
    pub(crate) queues: Mutex<Vec<Arc<Shared<B::Channel>>>>,
    pub(crate) steering: Steering,
    /// Queues that were added for somebody who had gone by then.
    pub(crate) unclaimed: Mutex<Vec<Queue<B::Channel>>>,
    /// How the virtual function stands, if one may be used.
    pub(crate) vf: Mutex<Option<VfStatus>>,
}

impl<B: Bus> Common<B> {
    pub(crate) fn unclaimed(&self) -> MutexGuard<'_, Vec<Queue<B::Channel>>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open network adapter.
///
/// The queues that came with it carry the frames; this handle is for everything else. Its task runs on the runtime that
/// [`NicBuilder::open_on`](crate::NicBuilder::open_on) was called on.
///
/// Dropping it closes the adapter in the background, in the right order but without a report: see
/// [`close`](Self::close).
pub struct Nic<B: Bus = vmbus::mem::MemBus> {
    pub(crate) common: Arc<Common<B>>,
}

impl<B: Bus> fmt::Debug for Nic<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic").field("info", &self.info()).finish_non_exhaustive()
    }
}

impl<B: Bus> Nic<B> {
    pub(crate) fn new(common: Arc<Common<B>>) -> Self {
        Self { common }
    }

    /// The device as it is now: addresses, versions, effective section counts, link.
    #[must_use]
    pub fn info(&self) -> DeviceInfo {
        self.common.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What happens: link changes, warnings, the end. The first reader gets all from the start of the bring-up on, others
    /// what happens from now on. A reader that lags far behind misses some, and is told how many.
    #[must_use]
    pub fn events(&self) -> Events {
        let first = self.common.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        Events::new(first.unwrap_or_else(|| self.common.events.subscribe()))
    }

    /// Counters of every queue, in order; [`NicStats`](netvsc::stats::NicStats) sums them up under the names of
    /// `ethtool -S`. Takes each queue's lock for a moment.
    #[must_use]
    pub fn queue_stats(&self) -> Vec<QueueStats> {
        let of_queue = |queue: &Arc<Shared<B::Channel>>| {
            let mut stats = *queue.lock().queue.stats();
            let gro = queue.gro.get();
            (stats.extra.gro_merged, stats.extra.gro_aggregates) = (gro.merged, gro.aggregates);
            stats
        };
        self.queues().iter().map(of_queue).collect()
    }

    /// What merging received frames did, of every queue, in order: more than [`queue_stats`](Self::queue_stats) has of it.
    #[must_use]
    pub fn gro_stats(&self) -> Vec<GroStats> {
        self.queues().iter().map(|queue| queue.gro.get()).collect()
    }

    /// What went through the virtual function, of all queues; [`NicStats`](netvsc::stats::NicStats) has it with the rest, so that
    /// the totals are those of both paths. Frames that were inside a VF that vanished are among those sent, and among those
    /// dropped; frames that found the VF's receive rings full are those missed. Takes system calls.
    #[must_use]
    pub fn vf_stats(&self) -> VfStats {
        let of_queue = |queue: &Arc<Shared<B::Channel>>| queue.lock().vf.as_mut().map(|vf| vf.stats());
        self.queues().iter().filter_map(of_queue).fold(VfStats::default(), |mut sum, stats| {
            sum += stats;
            sum
        })
    }

    /// What the virtual function's driver has counted about each of its queues, with names as `ethtool -S` has them; nothing while
    /// none is open. For who looks for the cause of what [`vf_stats`](Self::vf_stats) shows. Takes system calls.
    #[must_use]
    pub fn vf_queue_counters(&self) -> Vec<Vec<(&'static str, u64)>> {
        // Each queue of the adapter can see all of the device's.
        self.queues().iter().find_map(|queue| queue.lock().vf.as_mut()?.counters()).unwrap_or_default()
    }

    /// How the virtual function stands; `None` if the adapter was given no [backend](crate::NicBuilder::vf).
    #[must_use]
    pub fn vf(&self) -> Option<VfStatus> {
        self.common.vf.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn queues(&self) -> Vec<Arc<Shared<B::Channel>>> {
        self.common.queues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chooses the queue of frames that are sent, so that flows stay in order.
    #[must_use]
    pub fn steering(&self) -> Steering {
        self.common.steering.clone()
    }

    pub(crate) fn command(&self, command: Command<B::Channel>) -> bool {
        let sent = self.common.commands.send(command).is_ok();
        self.common.task.wake();
        sent
    }

    async fn request(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Vec<u8>, RequestError>>) -> Command<B::Channel>,
    ) -> Result<Vec<u8>, RequestError> {
        let (answer, answered) = oneshot::channel();
        if !self.command(command(answer)) {
            return Err(RequestError::Closed);
        }
        answered.await.unwrap_or(Err(RequestError::Closed))
    }

    /// Sets which frames the host delivers; 0 stops delivery, while sends still complete.
    ///
    /// # Errors
    /// [`RequestError`]: the host refused, or did not answer in time.
    ///
    /// # Cancel safety
    /// The request is made at the first poll; when the future is dropped after that, the host may or may not follow it.
    pub async fn set_packet_filter(&self, filter: PacketFilter) -> Result<(), RequestError> {
        self.request(|answer| Command::SetPacketFilter(filter, answer)).await.map(drop)
    }

    /// Asks the host for the value of `oid`; the types of [`rndis`] read it.
    ///
    /// # Errors
    /// [`RequestError`].
    ///
    /// # Cancel safety
    /// Yes: a late answer is dropped.
    pub async fn query(&self, oid: rndis::Oid) -> Result<Vec<u8>, RequestError> {
        self.request(|answer| Command::Query(oid, answer)).await
    }

    /// Sets the value of `oid`.
    ///
    /// # Errors
    /// [`RequestError`].
    ///
    /// # Cancel safety
    /// As [`set_packet_filter`](Self::set_packet_filter).
    pub async fn set(&self, oid: rndis::Oid, value: &[u8]) -> Result<(), RequestError> {
        self.request(|answer| Command::Set(oid, value.to_vec(), answer)).await.map(drop)
    }

    /// Changes how the host spreads received frames over the queues: key, hash types, indirection table. What holds now is
    /// [`DeviceInfo::scaling`]. If the host refuses, all is as it was.
    ///
    /// # Errors
    /// [`RequestError`]: there is one queue only, the settings cannot be, or the host refused.
    ///
    /// # Cancel safety
    /// As [`set_packet_filter`](Self::set_packet_filter).
    pub async fn set_rss(&self, settings: RssSettings) -> Result<(), RequestError> {
        self.request(|answer| Command::SetRss(settings, answer)).await.map(drop)
    }

    /// Changes which offloads the host is asked for, while frames flow: what it does no more is computed in software from then
    /// on. What holds now is [`DeviceInfo::offloads`]. If the host refuses, all is as it was.
    ///
    /// # Errors
    /// [`RequestError`]: another change is on its way, or the host refused.
    ///
    /// # Cancel safety
    /// As [`set_packet_filter`](Self::set_packet_filter).
    pub async fn set_offloads(&self, settings: OffloadSettings) -> Result<(), RequestError> {
        self.request(|answer| Command::SetOffloads(settings, answer)).await.map(drop)
    }

    /// Closes the adapter: frames that were handed over are sent, the host's buffers given back, the channel closed.
    /// Queues end: receivers get `None` (frames that nobody received by then are thrown away), senders
    /// [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Errors
    /// [`CloseError::Failed`] if the adapter had failed before.
    ///
    /// # Cancel safety
    /// Closing goes on in the background when the future is dropped.
    pub async fn close(self) -> Result<CloseReport, CloseError> {
        let (answer, answered) = oneshot::channel();
        if !self.command(Command::Close(answer)) {
            return Err(CloseError::Failed);
        }
        answered.await.unwrap_or(Err(CloseError::Failed))
    }
}

impl<B: Bus> Drop for Nic<B> {
    fn drop(&mut self) {
        let (answer, _) = oneshot::channel();
        self.command(Command::Close(answer));
    }
}
