//! Generic receive offload in a queue: see [`netvsc::gro`].
//!
//! Packets of a [`PacketStream`](super::PacketStream) are merged by default, since they carry with them what it takes to be
//! sent on ([`Packet::tx_meta`](crate::Packet::tx_meta)). Frames of a burst are lent as they came, since whoever passes those
//! on says himself what is to be done to them; [`RxBurst::merged`](super::RxBurst::merged) merges them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::vec::Drain;

use netvsc::Instant;
use netvsc::gro::{BurstMerger, Deliver, Gro, GroConfig, GroStats, Merged, Received};
use netvsc::queue::Burst;
use tokio::time::Sleep;

use crate::packet::{Packet, PacketPool, PacketQueue};

/// Counters of a queue's mergers, for whoever asks the NIC.
#[derive(Debug, Default)]
pub(crate) struct GroCounters(Mutex<GroStats>);

impl GroCounters {
    /// What they stand at.
    pub(crate) fn get(&self) -> GroStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stats: &GroStats) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = sum.plus(stats);
    }
}

/// Merges bursts of a queue; made when the first is to be merged.
#[derive(Debug)]
pub(super) struct LentMerger {
    config: GroConfig,
    merger: Option<BurstMerger>,
}

impl LentMerger {
    pub(super) fn new(config: GroConfig) -> Self {
        Self { config, merger: None }
    }

    pub(super) fn config(&self) -> GroConfig {
        self.config
    }

    /// The burst with what belongs together in one buffer each.
    pub(super) fn merge<'b>(&'b mut self, burst: &'b mut Burst, counters: &GroCounters) -> &'b mut Burst {
        let merger = self.merger.get_or_insert_with(|| BurstMerger::new(self.config));
        let any = merger.gather(burst);
        counters.add(&merger.take_stats());
        if any { merger.gathered() } else { burst }
    }

    /// What belongs together, where it is.
    pub(super) fn chains(&mut self, burst: &Burst, counters: &GroCounters, to: impl FnMut(Received<'_, '_>)) {
        let merger = self.merger.get_or_insert_with(|| BurstMerger::new(self.config));
        merger.chains(burst, to);
        counters.add(&merger.take_stats());
    }
}

/// Merges packets that are owned, and may hold them over several polls.
#[derive(Debug)]
pub(super) struct PacketMerger {
    gro: Gro<Packet>,
    /// Received, and not looked at yet.
    incoming: PacketQueue,
    pool: PacketPool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl PacketMerger {
    pub(super) fn new(config: GroConfig, pool: PacketPool, batch: usize) -> Self {
        Self { gro: Gro::new(config), incoming: PacketQueue::new(pool.clone(), batch), pool, timer: None }
    }

    /// Where to receive into.
    pub(super) fn incoming(&mut self) -> &mut PacketQueue {
        &mut self.incoming
    }

    /// Whether there is anything to do: something was received, or is held.
    pub(super) fn is_idle(&self) -> bool {
        self.incoming.len() == 0 && self.gro.deadline().is_none()
    }

    /// Merges what was received; what is complete, and what has been held long enough, goes to `to`.
    pub(super) fn take(&mut self, now: Instant, to: &mut PacketQueue, counters: &GroCounters) {
        let mut outlet = Outlet { pool: &self.pool, to };
        while let Some(packet) = self.incoming.pop() {
            let meta = *packet.meta();
            self.gro.receive_owned(packet, &meta, now, &mut outlet);
        }
        self.gro.end_poll(now, &mut outlet);
        counters.add(&self.gro.take_stats());
    }

    /// Everything that is held goes to `to`.
    pub(super) fn flush(&mut self, to: &mut PacketQueue, counters: &GroCounters) {
        self.gro.flush(&mut Outlet { pool: &self.pool, to });
        counters.add(&self.gro.take_stats());
    }

    /// Ready when something has been held long enough.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(deadline) = self.gro.deadline() else {
            self.timer = None;
            return Poll::Pending;
        };
        if deadline <= now {
            return Poll::Ready(());
        }
        // Held frames only ever become older: a timer that is too early looks again.
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(deadline - now)));
        let passed = timer.as_mut().poll(cx);
        if passed.is_ready() {
            self.timer = None;
        }
        passed
    }
}

/// Takes what is handed out, and makes one buffer of what belongs together.
struct Outlet<'a> {
    pool: &'a PacketPool,
    to: &'a mut PacketQueue,
}

impl Deliver<Packet> for Outlet<'_> {
    fn frame(&mut self, packet: Packet) {
        self.to.push(packet);
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, Packet>) {
        let mut packet = self.pool.blank(merged.len());
        let segments = fragments.as_slice().iter().map(Packet::bytes);
        // The packet is as long as what is written, so that there is nothing to drop.
        if merged.gather(segments, packet.bytes_mut()).is_some() {
            self.to.push(packet.with_meta(merged.meta()));
        }
    }
}
