//! The virtual function's part of a queue: there if the adapter was given a backend, and idle while there is no VF.
//!
//! # Who wakes whom
//! Whoever receives waits for the VF with its own waker, as it waits for the rings. Whoever sends, and the adapter's task while
//! it changes paths, are woken together ([`SentSignal`]) when the VF has sent something.
//!
//! # Held
//! What the host says about the data path has its place among the frames. Between the adapter's task's taking the word and
//! doing what follows from it nothing is received, or frames behind the word could overtake those of the VF.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use futures::task::AtomicWaker;
use netvsc::queue::{FrameSink, Queue, QueueError, SendError};
use netvsc::stats::VfStats;
use netvsc::vf::{Mux, RxRules, Way};
use netvsc::{TxMeta, meta::Path};
use vmbus::bus::Channel;

use crate::vf::{AsyncVfQueue, VfGroup};

/// Wakes those who wait for the VF to send.
#[derive(Debug)]
pub(super) struct SentSignal {
    pub(super) sender: AtomicWaker,
    control: Arc<AtomicWaker>,
}

impl Wake for SentSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.sender.wake();
        self.control.wake();
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct VfLane {
    mux: Mux<VfGroup>,
    signal: Arc<SentSignal>,
    /// `signal` as a waker.
    waker: Waker,
    /// The adapter's task waits until the old path is empty.
    settling: bool,
    held: bool,
    /// Somebody found nothing to receive since it is held.
    turned_away: bool,
}

impl VfLane {
    pub(super) fn new(control: Arc<AtomicWaker>) -> Self {
        let signal = Arc::new(SentSignal { sender: AtomicWaker::new(), control });
        let waker = Waker::from(Arc::clone(&signal));
        Self { mux: Mux::new(), signal, waker, settling: false, held: false, turned_away: false }
    }

    pub(super) fn signal(&self) -> &SentSignal {
        &self.signal
    }

    pub(super) fn receive<C: Channel, S: FrameSink>(
        &mut self,
        queue: &mut Queue<C>,
        sink: &mut S,
        max: usize,
    ) -> Result<usize, QueueError> {
        if self.mux.is_idle() {
            return queue.receive(sink, max);
        }
        if self.held {
            self.turned_away = true;
            return Ok(0);
        }
        self.mux.receive(queue, sink, max)
    }

    /// What VFs that were closed had received.
    pub(super) fn receive_kept<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        self.mux.receive_kept(sink, max)
    }

    /// Whether the VF has something to receive; if not, `cx`'s waker is woken once it has.
    pub(super) fn has_received(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held || !self.mux.is_receiving_from_vf() {
            // Whoever changes that wakes the receiver.
            self.turned_away |= self.held;
            return false;
        }
        self.mux.vf_mut().is_some_and(|vf| vf.poll_received(cx).is_ready())
    }

    pub(super) fn send<C: Channel>(
        &mut self,
        queue: &mut Queue<C>,
        frame: &[u8],
        meta: &TxMeta,
    ) -> Result<(), SendError> {
        self.mux.send(queue, frame, meta)
    }

    pub(super) fn flush(&mut self) {
        self.mux.flush();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }

    pub(super) fn outstanding(&mut self) -> usize {
        self.mux.outstanding()
    }

    pub(super) fn way<C: Channel>(&mut self, queue: &mut Queue<C>) -> Result<Way, QueueError> {
        self.mux.way(queue)
    }

    pub(super) fn has_room(&mut self, len: usize) -> bool {
        self.mux.vf_has_room(len)
    }

    /// Whether the VF holds at most so many frames that are to be sent; if not, those who wait for that are woken then.
    pub(super) fn has_sent(&mut self, at_most: usize) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        self.mux.vf_mut().is_none_or(|vf| vf.poll_sent(&mut cx, at_most).is_ready())
    }

    /// As [`has_sent`](Self::has_sent), of any that it holds.
    pub(super) fn has_sent_some(&mut self) -> bool {
        let outstanding = self.outstanding();
        outstanding == 0 || self.has_sent(outstanding - 1)
    }

    /// Whether the adapter's task waits for the old path.
    pub(super) fn is_settling(&self) -> bool {
        self.settling
    }

    /// Looks whether the old path is empty by now, if the adapter's task waits for that; whether it still does.
    pub(crate) fn settle<C: Channel>(&mut self, queue: &mut Queue<C>) -> Result<bool, QueueError> {
        if self.settling && self.mux.is_settled(queue)? {
            self.settling = false;
        }
        // It may have become empty since: then nobody is woken any more.
        if self.settling && self.has_sent(0) && self.mux.is_settled(queue)? {
            self.settling = false;
        }
        Ok(self.settling)
    }

    /// Holds what is to be received until [`let_go`](Self::let_go).
    pub(crate) fn hold(&mut self) {
        self.held = !self.mux.is_idle();
    }

    /// Whether somebody has to be woken who found nothing meanwhile.
    pub(crate) fn let_go(&mut self) -> bool {
        self.held = false;
        std::mem::take(&mut self.turned_away)
    }

    pub(crate) fn attach(&mut self, vf: VfGroup) {
        self.mux.attach(vf);
    }

    pub(crate) fn detach(&mut self) -> u64 {
        self.mux.detach()
    }

    /// Received frames that are known to be lost, since this was last asked.
    pub(crate) fn take_received_lost(&mut self) -> u64 {
        self.mux.take_received_lost()
    }

    pub(crate) fn send_by(&mut self, path: Path) {
        self.mux.send_by(path);
        self.settling = true;
    }

    pub(crate) fn stop_waiting(&mut self) {
        self.mux.stop_waiting();
        self.settling = false;
    }

    /// From the VF as well, after what the rings hold up to `position`, or all they hold now.
    pub(crate) fn receive_from_both<C: Channel>(
        &mut self,
        queue: &mut Queue<C>,
        position: Option<u64>,
    ) -> Result<(), QueueError> {
        let position = match position {
            Some(position) => position,
            None => {
                queue.pump()?;
                queue.receive_position() + queue.backlog() as u64
            }
        };
        self.mux.receive_from_both(position);
        Ok(())
    }

    pub(crate) fn receive_from_rings(&mut self) {
        self.mux.receive_from_rings();
    }

    /// For all queues that share the device.
    pub(crate) fn set_rules(&mut self, rules: &Arc<RxRules>) {
        if let Some(vf) = self.mux.vf_mut() {
            vf.set_rules(Arc::clone(rules));
        }
    }

    /// What each queue of the device has counted; `None` without one.
    pub(crate) fn counters(&mut self) -> Option<Vec<Vec<(&'static str, u64)>>> {
        self.mux.vf_mut().map(VfGroup::counters)
    }

    /// Up to date, which takes system calls.
    pub(crate) fn stats(&mut self) -> VfStats {
        self.mux.update_stats();
        *self.mux.stats()
    }
}
