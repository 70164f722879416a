//! A thread for each queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use netvsc_async::{DeviceInfo, Error, Queue, TxHalf};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use vmbus::bus::Channel;

use crate::measure::Counters;
use crate::worker::{self, Worker};
use crate::{ChecksumMode, Mode, Options, Wait, frame};

type Work<C> = Vec<Worker<C>>;
type Outcome = (Vec<Counters>, Result<(), Error>);

/// The threads. Each waits for its queue, or its queue of each of two adapters, works until it is told to stop, and says what it has done.
#[derive(Debug)]
pub(crate) struct Threads<C: Channel> {
    lanes: Vec<Lane<C>>,
    progress: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    stop_tasks: watch::Sender<bool>,
}

/// A thread, seen from outside.
#[derive(Debug)]
struct Lane<C: Channel> {
    work: Option<oneshot::Sender<Work<C>>>,
    outcome: oneshot::Receiver<Outcome>,
    /// The runtime that the thread drives, if it does not poll.
    runtime: Option<Handle>,
    thread: Running,
}

/// Keeps a thread's runtime going until it is dropped: the queue's background task may live there, and closing needs it.
#[derive(Debug)]
pub(crate) struct Running {
    release: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.release.take();
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl<C: Channel> Threads<C> {
    /// Starts a thread for each queue that is asked for.
    pub(crate) fn start(options: &Options) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_tasks, stopped) = watch::channel(false);
        let progress = (0..options.queues * 2).map(|_| Arc::default()).collect();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut lanes = Vec::new();
        for index in 0..options.queues {
            let core = match options.cpu {
                None => None,
                Some(first) => {
                    let cpu = first + usize::from(index);
                    let core = cores.iter().copied().find(|core| core.id == cpu);
                    Some(core.ok_or_else(|| io::Error::other(format!("processor {cpu} cannot be used")))?)
                }
            };
            let runtime = match options.wait {
                Wait::Poll => None,
                Wait::Interrupt | Wait::Adaptive => {
                    Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
                }
            };
            let handle = runtime.as_ref().map(|runtime| runtime.handle().clone());
            let (work, take_work) = oneshot::channel::<Work<C>>();
            let (done, outcome) = oneshot::channel();
            let (release, released) = oneshot::channel::<()>();
            let (stop, stopped) = (Arc::clone(&stop), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("queue {index}")).spawn(move || {
                if core.is_some_and(|core| !core_affinity::set_for_current(core)) {
                    eprintln!("queue {index}: could not bind the thread to its processor");
                }
                // Whoever does not hear of the outcome any more has failed, and says so. There is no work if the adapter did
                // not open, or has fewer queues. The release is a dropped sender.
                let Some(runtime) = runtime else {
                    if let Ok(mut workers) = take_work.blocking_recv() {
                        let result = worker::poll(&mut workers, &stop);
                        let _ = done.send((counters(&workers), result));
                        let _ = released.blocking_recv();
                    }
                    return;
                };
                runtime.block_on(async {
                    if let Ok(mut workers) = take_work.await {
                        let result = worker::wait(&mut workers, stopped).await;
                        let _ = done.send((counters(&workers), result));
                    }
                    let _ = released.await;
                });
            })?;
            let thread = Running { release: Some(release), thread: Some(thread) };
            lanes.push(Lane { work: Some(work), outcome, runtime: handle, thread });
        }
        Ok(Self { lanes, progress, stop, stop_tasks })
    }

    /// Where the queues' background tasks are to live, by queue; nowhere in particular if the threads poll.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = (u16, Handle)> + '_ {
        (0..).zip(&self.lanes).filter_map(|(index, lane)| Some((index, lane.runtime.clone()?)))
    }

    /// Packets of each queue so far.
    pub(crate) fn progress(&self) -> &[Arc<AtomicU64>] {
        &self.progress
    }

    /// Hands the queues of one adapter or of two over: work begins. Of two, each queue's frames leave by the queue with the
    /// same index of the other, so that flows stay in order.
    pub(crate) fn give(&mut self, adapters: Vec<(Vec<Queue<C>>, DeviceInfo)>, options: &Options) {
        let clock = quanta::Clock::new();
        let two = adapters.len() > 1;
        let mode = if two { Mode::Io } else { options.mode };
        let patient = two && options.wait != Wait::Poll;
        let mut progress = self.progress.iter();
        let mut worker = |rx, mut tx: TxHalf<C>, sender: &DeviceInfo| {
            let frame = frame::udp(sender.mac.0, options.packet_size.into());
            let pinned = mode == Mode::Txonly && frame.len() > frame::COPIED;
            Worker {
                rx,
                payload: pinned.then(|| tx.pin(&frame[frame::HEADERS..])),
                tx,
                mtu: sender.mtu,
                merge: two,
                compute: two && options.checksums == ChecksumMode::Compute,
                hold: options.rx_copybreak.0.is_some(),
                mode,
                patient,
                frame,
                burst: options.burst,
                clock: clock.clone(),
                counters: Counters::default(),
                progress: progress.next().map(Arc::clone).unwrap_or_default(),
            }
        };
        let mut adapters = adapters.into_iter();
        let (Some((queues, info)), other) = (adapters.next(), adapters.next()) else { return };
        let work: Vec<Work<C>> = match other {
            None => queues.into_iter().map(|Queue { rx, tx, .. }| vec![worker(rx, tx, &info)]).collect(),
            Some((others, other)) => {
                let pairs = queues.into_iter().zip(others);
                pairs.map(|(a, b)| vec![worker(a.rx, b.tx, &other), worker(b.rx, a.tx, &info)]).collect()
            }
        };
        self.lanes.truncate(work.len());
        for (lane, work) in self.lanes.iter_mut().zip(work) {
            if let Some(take) = lane.work.take() {
                // A thread that has gone has no outcome either.
                let _ = take.send(work);
            }
        }
    }

    /// Ends the work.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stop_tasks.send_replace(true);
    }

    /// What was done in each direction, and the threads, which have to be kept until the adapters are closed.
    pub(crate) async fn collect(self) -> anyhow::Result<(Vec<Counters>, Vec<Running>)> {
        let mut sums: Vec<Counters> = Vec::new();
        let mut threads = Vec::new();
        for (index, lane) in self.lanes.into_iter().enumerate() {
            let (counters, result) = lane.outcome.await.with_context(|| format!("thread of queue {index}"))?;
            result.with_context(|| format!("queue {index}"))?;
            sums.resize(counters.len(), Counters::default());
            for (sum, counters) in sums.iter_mut().zip(counters) {
                *sum += counters;
            }
            threads.push(lane.thread);
        }
        Ok((sums, threads))
    }
}

fn counters<C: Channel>(workers: &[Worker<C>]) -> Vec<Counters> {
    workers.iter().map(|worker| worker.counters).collect()
}
