//! Frames at a steady rate both ways: when each came, and by which path.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netvsc::meta::Path;
use netvsc_async::{Error, Nic, Queue, RxHalf, TxHalf, TxMeta};
use netvsc_host::port::{MemoryPort, SendError};
use vmbus::mem::{MemBus, MemChannel};

use crate::cycles::MAC;

/// Between two frames.
const PERIOD: Duration = Duration::from_micros(200);
/// Address of the far end.
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Bytes of a frame.
const LEN: usize = 200;
/// A frame that has not come after so long is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// A frame that came, or left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) at: Instant,
    pub(crate) by_vf: bool,
}

/// What was noted, in order.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Vec<Passed>>>);

impl Notes {
    fn add(&self, passed: Passed) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(passed);
    }

    fn take(&self) -> Vec<Passed> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn len(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

/// What has passed.
#[derive(Debug)]
pub(crate) struct Record {
    /// By the adapter.
    pub(crate) received: Vec<Passed>,
    /// By the adapter, when it took them.
    pub(crate) sent: Vec<Passed>,
    /// By the far end: by which path is not known there.
    pub(crate) arrived: Vec<Passed>,
}

/// The flow, going.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    received: Notes,
    sent: Notes,
    arrived: Notes,
    told: Arc<AtomicU64>,
    senders: [JoinHandle<anyhow::Result<()>>; 2],
    reader: JoinHandle<()>,
    receiver: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Flow {
    pub(crate) fn start(nic: &Arc<Nic<MemBus>>, queue: Queue<MemChannel>, far: MemoryPort) -> Self {
        let far = Arc::new(far);
        let [stop, over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let [received, sent, arrived] = [(); 3].map(|()| Notes::default());
        let told = Arc::new(AtomicU64::new(0));
        let receiver = tokio::spawn(receive(queue.rx, received.clone()));
        let reader = {
            let (far, over, arrived) = (Arc::clone(&far), Arc::clone(&over), arrived.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match far.try_recv() {
                        Ok(frame) if frame.len() == LEN => arrived.add(Passed { at: Instant::now(), by_vf: false }),
                        Ok(_) => {}
                        Err(_) => std::thread::sleep(PERIOD / 8),
                    }
                }
            })
        };
        let to_adapter = {
            let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
            std::thread::spawn(move || {
                steadily(&stop, || {
                    send_from(&far)?;
                    told.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
            })
        };
        let from_adapter = {
            let (stop, sent, nic, mut tx) = (Arc::clone(&stop), sent.clone(), Arc::clone(nic), queue.tx);
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                let _inside = runtime.enter();
                let mut by_vf = nic.vf_stats().vf_tx_packets;
                steadily(&stop, || {
                    send(&mut tx)?;
                    let at = Instant::now();
                    let before = std::mem::replace(&mut by_vf, nic.vf_stats().vf_tx_packets);
                    sent.add(Passed { at, by_vf: by_vf != before });
                    Ok(())
                })
            })
        };
        let senders = [to_adapter, from_adapter];
        Self { stop, over, received, sent, arrived, told, senders, reader, receiver }
    }

    /// Ends it, once what is under way has come. Blocks.
    pub(crate) fn finish(self) -> anyhow::Result<Record> {
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.join().map_err(panicked)??;
        }
        let since = Instant::now();
        let left = || {
            let told = self.told.load(Ordering::Relaxed);
            (told.saturating_sub(self.received.len()), self.sent.len().saturating_sub(self.arrived.len()))
        };
        while left() != (0, 0) && since.elapsed() < PATIENCE {
            std::thread::sleep(PERIOD);
        }
        self.over.store(true, Ordering::Relaxed);
        self.reader.join().map_err(panicked)?;
        self.receiver.abort();
        ensure!(left() == (0, 0), "frames are lost: {:?}, of those to the adapter and from it", left());
        Ok(Record { received: self.received.take(), sent: self.sent.take(), arrived: self.arrived.take() })
    }
}

async fn receive(mut rx: RxHalf<MemChannel>, received: Notes) -> Result<(), Error> {
    while let Some(burst) = rx.recv_burst().await? {
        let at = Instant::now();
        for frame in burst.iter().filter(|frame| frame.bytes.len() == LEN) {
            received.add(Passed { at, by_vf: frame.meta.path == Path::VirtualFunction });
        }
    }
    Ok(())
}

/// One frame, however long it has to wait: the host may be busy with a new function's interface.
fn send_from(far: &MemoryPort) -> anyhow::Result<()> {
    loop {
        match far.send(&frame(MAC, FAR)) {
            Err(SendError::Full { .. }) => std::thread::sleep(PERIOD / 8),
            sent => return sent.context("send from the far end"),
        }
    }
}

/// One frame, however long it has to wait: only a path that changes over makes it.
fn send(tx: &mut TxHalf<MemChannel>) -> anyhow::Result<()> {
    loop {
        match tx.try_send(&frame(FAR, MAC), &TxMeta::default()) {
            Ok(()) => break,
            Err(Error::Full) => std::thread::sleep(PERIOD / 8),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tx.flush()?)
}

/// Does it once a period. What is late is made up for.
fn steadily(stop: &AtomicBool, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        work()?;
        due += PERIOD;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Of a type for local experiments.
fn frame(to: [u8; 6], from: [u8; 6]) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame
}
