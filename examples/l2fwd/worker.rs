//! What is done with one queue.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::{Either, select};
use netvsc_async::{Error, Queue, TxMeta};
use netvsc_benches::allocations;
use tokio::sync::watch;
use vmbus::bus::Channel;

use crate::Mode;
use crate::measure::Counters;

/// Bursts that `txonly` sends before it has completions reclaimed. They come in the meantime: looking each time would
/// only move the ring's cache lines to and fro.
const RECLAIM_EVERY: u32 = 8;
/// Bursts without a pause, before the other tasks of the runtime get their turn.
const BURSTS: u32 = 64;

/// A queue and what is to be done with it.
#[derive(Debug)]
pub(crate) struct Worker<C: Channel> {
    pub(crate) queue: Queue<C>,
    pub(crate) mode: Mode,
    /// What `txonly` sends.
    pub(crate) frame: Vec<u8>,
    pub(crate) burst: u16,
    pub(crate) clock: quanta::Clock,
    pub(crate) counters: Counters,
    /// Packets so far, for others to see.
    pub(crate) progress: Arc<AtomicU64>,
}

impl<C: Channel> Worker<C> {
    /// Goes on until `stop`, without ever waiting.
    pub(crate) fn poll(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        let before = allocations::count_here();
        while !stop.load(Ordering::Relaxed) {
            let start = self.clock.raw();
            if !self.burst(start)? {
                std::hint::spin_loop();
            }
        }
        self.counters.allocations = allocations::count_here() - before;
        Ok(())
    }

    /// Goes on until `stop`; sleeps, in the way that the queue was set up with, while there is nothing to do.
    pub(crate) async fn wait(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let before = allocations::count_here();
        let mut bursts = 0_u32;
        while !*stop.borrow() {
            let mut start = 0;
            {
                let ready = poll_fn(|cx| {
                    // Again at each poll: the one that finds something counts.
                    start = self.clock.raw();
                    match self.mode {
                        Mode::Txonly => self.queue.tx.poll_ready(cx, self.frame.len()),
                        Mode::Rxonly | Mode::Io => self.queue.rx.poll_ready(cx),
                    }
                });
                match select(ready, std::pin::pin!(stop.changed())).await {
                    Either::Left((ready, _)) => ready?,
                    Either::Right(_) => break,
                }
            }
            self.burst(start)?;
            bursts += 1;
            if bursts.is_multiple_of(BURSTS) {
                tokio::task::yield_now().await;
            }
        }
        self.counters.allocations = allocations::count_here() - before;
        Ok(())
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
        let Some(burst) = self.queue.rx.try_recv_burst()? else { return Ok(0) };
        self.counters.bytes += burst.iter().map(|frame| frame.bytes.len() as u64).sum::<u64>();
        Ok(burst.len() as u64)
    }

    fn forward(&mut self) -> Result<u64, Error> {
        let Some(burst) = self.queue.rx.try_recv_burst()? else { return Ok(0) };
        let mut batch = self.queue.tx.batch();
        for frame in &burst {
            let meta = TxMeta { vlan: frame.meta.vlan, ..TxMeta::default() };
            match batch.push(frame.bytes, &meta) {
                Ok(()) => self.counters.bytes += frame.bytes.len() as u64,
                // As a switch does.
                Err(Error::Full) => self.counters.lost += 1,
                Err(error) => return Err(error),
            }
        }
        batch.flush()?;
        Ok(burst.len() as u64)
    }

    fn send(&mut self) -> Result<u64, Error> {
        let mut batch = self.queue.tx.batch();
        let mut sent = 0;
        let mut full = false;
        while sent < self.burst && !full {
            match batch.push(&self.frame, &TxMeta::default()) {
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
            let _ = self.queue.rx.try_recv_burst()?;
        }
        Ok(sent.into())
    }
}
