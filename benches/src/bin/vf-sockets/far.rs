//! The far end: sends as fast as it can, or keeps frames going round, by AF_PACKET whatever is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use netvsc::queue::Burst;
use netvsc::vf::VfQueue;
use netvsc_benches::compare::Mode;
use netvsc_benches::compare::round_trip::core;

use crate::BURST;
use crate::case::Method;
use crate::wire::{FAR, NEAR, Opened, Wire};

/// Frames under way in `io`.
const CREDIT: u64 = 256;
/// Frames that are not back after so long will not come.
const LOST: Duration = Duration::from_millis(500);

/// What the far end does, and has done.
#[derive(Debug, Default)]
struct State {
    go: AtomicBool,
    stop: AtomicBool,
    sent: AtomicU64,
    returned: AtomicU64,
    lost: AtomicU64,
}

/// The far end at work, on a thread of its own.
#[derive(Debug)]
pub(crate) struct FarEnd {
    state: Arc<State>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl FarEnd {
    /// Opens it. `None` in `txonly`: what arrives is counted by the interface, and goes no further.
    pub(crate) fn open(wire: &Wire, mode: Mode, size: u16, cpu: usize) -> anyhow::Result<Option<Self>> {
        if mode == Mode::Txonly {
            return Ok(None);
        }
        let core = core(cpu)?;
        let state = Arc::new(State::default());
        let (opened, is_open) = mpsc::channel();
        let there = Arc::clone(&state);
        let thread = wire.far.spawn(move || {
            core_affinity::set_for_current(core);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut end = Opened::open(FAR, Method::AfPacket).await?;
                // Nobody waits any more if something else has failed.
                let _ = opened.send(());
                while !there.go.load(Ordering::Acquire) && !there.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let frame = frame(size);
                match mode {
                    Mode::Io => there.keep_going_round(&mut end.queue, &frame),
                    Mode::Rxonly | Mode::Txonly => there.send(&mut end.queue, &frame),
                }
                Ok(())
            })
        });
        if is_open.recv().is_err() {
            // It has ended: why is what counts.
            thread.join().map_err(|_| anyhow::anyhow!("the far end panicked"))??;
            anyhow::bail!("the far end has ended");
        }
        Ok(Some(Self { state, thread }))
    }

    /// Begins.
    pub(crate) fn go(&self) {
        self.state.go.store(true, Ordering::Release);
    }

    /// Frames that came back so far.
    pub(crate) fn returned(&self) -> u64 {
        self.state.returned.load(Ordering::Relaxed)
    }

    /// Ends it; how many frames of those that were sent did not come back.
    pub(crate) fn finish(self) -> anyhow::Result<u64> {
        self.state.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the far end panicked"))?.context("the far end")?;
        Ok(self.state.lost.load(Ordering::Relaxed))
    }
}

impl State {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One burst, or as much of it as there is room for.
    fn burst(&self, queue: &mut impl VfQueue, frame: &[u8], frames: u64) -> u64 {
        let mut sent = 0;
        while sent < frames && queue.send(frame).is_ok() {
            sent += 1;
        }
        queue.flush();
        self.sent.fetch_add(sent, Ordering::Relaxed);
        sent
    }

    fn send(&self, queue: &mut impl VfQueue, frame: &[u8]) {
        while !self.stopped() {
            self.burst(queue, frame, BURST as u64);
        }
    }

    fn keep_going_round(&self, queue: &mut impl VfQueue, frame: &[u8]) {
        let mut burst = Burst::new(BURST, BURST * frame.len().next_multiple_of(64));
        let mut under_way = 0;
        let mut heard = Instant::now();
        while !self.stopped() {
            let room = (CREDIT - under_way).min(BURST as u64);
            under_way += self.burst(queue, frame, room);
            burst.clear();
            queue.receive(&mut burst, BURST);
            let back = burst.frames().filter(|came| came.bytes == frame).count() as u64;
            self.returned.fetch_add(back, Ordering::Relaxed);
            under_way = under_way.saturating_sub(back);
            if back > 0 {
                heard = Instant::now();
            } else if heard.elapsed() > LOST {
                self.lost.fetch_add(std::mem::take(&mut under_way), Ordering::Relaxed);
                heard = Instant::now();
            }
        }
    }
}

/// What the far end sends: addressed to the near one.
fn frame(size: u16) -> Vec<u8> {
    let mut frame = netvsc_benches::frames::frame(size.into());
    frame[..6].copy_from_slice(&NEAR.mac.0);
    frame[6..12].copy_from_slice(&FAR.mac.0);
    frame
}
