//! What is done with the frames of one queue.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::{Either, select, try_join};
use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc_allocations as allocations;
use netvsc_async::{Error, Frame, HeldRxBurst, Pinned, RxHalf, TxBatch, TxHalf, TxMeta};
use tokio::sync::watch;
use vmbus::bus::Channel;

use crate::Mode;
use crate::frame;
use crate::measure::Counters;
use crate::syscalls;

/// Bursts that `txonly` sends before it has completions reclaimed. They come in the meantime: looking each time would
/// only move the ring's cache lines to and fro.
const RECLAIM_EVERY: u32 = 8;
/// Bursts without a pause, before the other tasks of the runtime get their turn.
const BURSTS: u32 = 64;

/// Frames that are received here and sent there: by one queue, or by two queues of two adapters.
#[derive(Debug)]
pub(crate) struct Worker<C: Channel> {
    pub(crate) rx: RxHalf<C>,
    pub(crate) tx: TxHalf<C>,
    /// Of the adapter that sends.
    pub(crate) mtu: u32,
    /// Whether segments that came together go on together.
    pub(crate) merge: bool,
    /// Whether checksums are computed anew.
    pub(crate) compute: bool,
    /// Whether frames are held: stay where the host put them, but for their heads, until they are sent on.
    pub(crate) hold: bool,
    pub(crate) mode: Mode,
    /// Whether frames wait for room, or are lost as in a switch that is congested. Only who may sleep can wait.
    pub(crate) patient: bool,
    /// What `txonly` sends.
    pub(crate) frame: Vec<u8>,
    /// What is behind its headers, where that is long: then the headers alone are written anew for each frame, as testpmd does.
    pub(crate) payload: Option<Pinned>,
    pub(crate) burst: u16,
    pub(crate) clock: quanta::Clock,
    pub(crate) counters: Counters,
    /// Packets so far, for others to see.
    pub(crate) progress: Arc<AtomicU64>,
}

/// Goes on until `stop` with all of `workers` in turn, without ever waiting.
pub(crate) fn poll<C: Channel>(workers: &mut [Worker<C>], stop: &AtomicBool) -> Result<(), Error> {
    let before = allocations::count_here();
    syscalls::mark();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for worker in &mut *workers {
            let start = worker.clock.raw();
            moved |= worker.burst(start)?;
        }
        if !moved {
            std::hint::spin_loop();
        }
    }
    syscalls::mark();
    if let Some(worker) = workers.first_mut() {
        worker.counters.allocations = allocations::count_here() - before;
    }
    Ok(())
}

/// Goes on until `stop`; sleeps, in the way that the queues were set up with, while there is nothing to do.
pub(crate) async fn wait<C: Channel>(workers: &mut [Worker<C>], stop: watch::Receiver<bool>) -> Result<(), Error> {
    let before = allocations::count_here();
    syscalls::mark();
    match workers {
        [one] => one.wait(stop).await?,
        [one, other] => drop(try_join(one.wait(stop.clone()), other.wait(stop)).await?),
        _ => {}
    }
    syscalls::mark();
    if let Some(worker) = workers.first_mut() {
        worker.counters.allocations = allocations::count_here() - before;
    }
    Ok(())
}

impl<C: Channel> Worker<C> {
    async fn wait(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut bursts = 0_u32;
        while !*stop.borrow() {
            let stopped = stop.changed();
            let goes_on = if self.hold { self.wait_held(stopped).await? } else { self.wait_copied(stopped).await? };
            if !goes_on {
                break;
            }
            bursts += 1;
            if bursts.is_multiple_of(BURSTS) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Waits for a burst, and does with it what the mode says; whether to go on.
    async fn wait_copied<S>(&mut self, stopped: impl Future<Output = S>) -> Result<bool, Error> {
        let mut stopped = std::pin::pin!(stopped);
        let mut start = 0;
        {
            let ready = poll_fn(|cx| {
                // Again at each poll: the one that finds something counts.
                start = self.clock.raw();
                match self.mode {
                    Mode::Txonly => self.tx.poll_ready(cx, self.frame.len()),
                    Mode::Rxonly | Mode::Io => self.rx.poll_ready(cx),
                }
            });
            match select(ready, stopped.as_mut()).await {
                Either::Left((ready, _)) => ready?,
                Either::Right(_) => return Ok(false),
            }
        }
        if self.patient && self.mode == Mode::Io {
            let forward = std::pin::pin!(self.forward_all());
            match select(forward, stopped).await {
                Either::Left((forwarded, _)) => forwarded?,
                Either::Right(_) => return Ok(false),
            }
        } else {
            self.burst(start)?;
        }
        Ok(true)
    }

    /// Waits for a burst and sends it on with only the heads of its frames copied before; whether to go on.
    async fn wait_held<S>(&mut self, stopped: impl Future<Output = S>) -> Result<bool, Error> {
        let forward = std::pin::pin!(self.forward_all_held());
        match select(forward, std::pin::pin!(stopped)).await {
            Either::Left((is_open, _)) => is_open,
            Either::Right(_) => Ok(false),
        }
    }

    /// One burst, every frame of it: where there is no room it waits, and the sender at the far end of the wire has to.
    async fn forward_all(&mut self) -> Result<(), Error> {
        let Self { rx, tx, mtu, compute, clock, counters, progress, .. } = self;
        let Some(burst) = rx.try_recv_burst()? else { return Ok(()) };
        let burst = burst.merged();
        let mut next = 0;
        while next < burst.len() {
            let start = clock.raw();
            let mut batch = tx.batch();
            let mut waits_for = None;
            while let Some(frame) = burst.get(next) {
                match batch.push(frame.bytes, &passing_on(frame, *mtu, *compute)) {
                    Ok(()) => counters.forwarded(frame.bytes.len()),
                    Err(Error::Full) => {
                        waits_for = Some(frame.bytes.len());
                        break;
                    }
                    // It can never be sent, for instance since it is too long for the other adapter.
                    Err(Error::Send(_)) => counters.lost(),
                    Err(error) => return Err(error),
                }
                next += 1;
            }
            drop(batch);
            counters.cycles += clock.raw().wrapping_sub(start);
            progress.store(counters.packets, Ordering::Relaxed);
            if let Some(len) = waits_for {
                tx.ready(len).await?;
            }
        }
        Ok(())
    }

    /// The same with frames of which only the heads are here: those that wait for room stay held. Waits for the burst, too;
    /// whether the queue is still open.
    async fn forward_all_held(&mut self) -> Result<bool, Error> {
        let Self { rx, tx, mtu, patient, clock, counters, progress, .. } = self;
        let Some(burst) = rx.recv_held().await? else { return Ok(false) };
        let mut next = 0;
        while next < burst.len() {
            let (start, first) = (clock.raw(), next);
            let waits_for = push_held(&burst, &mut next, &mut tx.batch(), *mtu, counters)?.filter(|_| *patient);
            if waits_for.is_none() && next < burst.len() {
                counters.lost += 1;
                next += 1;
            }
            counters.packets += (next - first) as u64;
            counters.cycles += clock.raw().wrapping_sub(start);
            progress.store(counters.packets, Ordering::Relaxed);
            if let Some(len) = waits_for {
                tx.ready(len).await?;
            }
        }
        Ok(true)
    }

    /// One burst, if there is one; `start` is when it began.
    #[inline]
    fn burst(&mut self, start: u64) -> Result<bool, Error> {
        let moved = match self.mode {
            Mode::Rxonly => self.receive()?,
            Mode::Txonly => self.send()?,
            Mode::Io => self.forward()?,
        };
        if moved == 0 {
            return Ok(false);
        }
        self.counters.packets += moved;
        self.counters.cycles += self.clock.raw().wrapping_sub(start);
        self.progress.store(self.counters.packets, Ordering::Relaxed);
        Ok(true)
    }

    fn receive(&mut self) -> Result<u64, Error> {
        let Some(burst) = self.rx.try_recv_burst()? else { return Ok(0) };
        self.counters.bytes += burst.iter().map(|frame| frame.bytes.len() as u64).sum::<u64>();
        Ok(burst.len() as u64)
    }

    fn forward(&mut self) -> Result<u64, Error> {
        if self.hold {
            return self.forward_held();
        }
        let Some(burst) = self.rx.try_recv_burst()? else { return Ok(0) };
        let burst = if self.merge { burst.merged() } else { burst };
        let mut batch = self.tx.batch();
        for frame in &burst {
            match batch.push(frame.bytes, &passing_on(frame, self.mtu, self.compute)) {
                Ok(()) => self.counters.sent(frame.bytes.len()),
                // As a switch does.
                Err(Error::Full | Error::Send(_)) => self.counters.lost += 1,
                Err(error) => return Err(error),
            }
        }
        batch.flush()?;
        Ok(burst.len() as u64)
    }

    fn forward_held(&mut self) -> Result<u64, Error> {
        let Some(burst) = self.rx.try_recv_held()? else { return Ok(0) };
        let mut batch = self.tx.batch();
        let mut next = 0;
        while push_held(&burst, &mut next, &mut batch, self.mtu, &mut self.counters)?.is_some() {
            // As a switch does.
            self.counters.lost += 1;
            next += 1;
        }
        batch.flush()?;
        Ok(burst.len() as u64)
    }

    fn send(&mut self) -> Result<u64, Error> {
        let mut batch = self.tx.batch();
        let mut sent = 0;
        let mut full = false;
        while sent < self.burst && !full {
            let pushed = match &self.payload {
                Some(payload) => batch.push_pinned(&self.frame[..frame::HEADERS], payload, &TxMeta::default()),
                None => batch.push(&self.frame, &TxMeta::default()),
            };
            match pushed {
                Ok(()) => sent += 1,
                Err(Error::Full) => full = true,
                Err(error) => return Err(error),
            }
        }
        batch.flush()?;
        drop(batch);
        self.counters.bytes += u64::from(sent) * self.frame.len() as u64;
        self.counters.bursts = self.counters.bursts.wrapping_add(1);
        if full || self.counters.bursts.is_multiple_of(RECLAIM_EVERY) {
            // Completions come the same way as frames, of which nobody here wants any.
            let _ = self.rx.try_recv_burst()?;
        }
        Ok(sent.into())
    }
}

/// Sends on what is held, from the frame at `next` on; the length of the frame for which there was no room.
#[inline]
fn push_held<C: Channel>(
    burst: &HeldRxBurst<'_>,
    next: &mut usize,
    batch: &mut TxBatch<'_, C>,
    mtu: u32,
    counters: &mut Counters,
) -> Result<Option<usize>, Error> {
    while let Some(held) = burst.get(*next) {
        // The head is enough to go by: a frame on which there is work to be done was copied whole.
        match batch.push_held(held.head, held.rest, &TxMeta::passing_on(held.head, &held.meta, mtu)) {
            Ok(()) => counters.sent(held.len()),
            Err(Error::Full) => return Ok(Some(held.len())),
            // It can never be sent, for instance since it is too long for the other adapter.
            Err(Error::Send(_)) => counters.lost += 1,
            Err(error) => return Err(error),
        }
        *next += 1;
    }
    Ok(None)
}

/// What has to be asked for when a frame is sent as it was received, or as if it had been changed.
#[inline]
fn passing_on(frame: Frame<'_>, mtu: u32, compute: bool) -> TxMeta {
    let mut meta = TxMeta::passing_on(frame.bytes, &frame.meta, mtu);
    // Segments get theirs when they are cut.
    if compute
        && meta.segmentation.is_none()
        && let Some(headers) = Headers::parse(frame.bytes)
    {
        meta.checksum = checksum::request(frame.bytes, &headers);
    }
    meta
}
