//! A thread for each queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use netvsc_async::{Error, Queue};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use vmbus::uio::UioChannel;

use crate::measure::Counters;
use crate::worker::Worker;
use crate::{Options, Wait, frame};

type Work = Worker<UioChannel>;
type Outcome = (Counters, Result<(), Error>);

/// The threads. Each waits for its queue, works until it is told to stop, and says what it has done.
#[derive(Debug)]
pub(crate) struct Threads {
    lanes: Vec<Lane>,
    progress: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    stop_tasks: watch::Sender<bool>,
}

/// A thread, seen from outside.
#[derive(Debug)]
struct Lane {
    work: Option<oneshot::Sender<Work>>,
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

impl Threads {
    /// Starts a thread for each queue that is asked for.
    pub(crate) fn start(options: &Options) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_tasks, stopped) = watch::channel(false);
        let progress = (0..options.queues).map(|_| Arc::default()).collect();
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
            let (work, take_work) = oneshot::channel::<Work>();
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
                    if let Ok(mut worker) = take_work.blocking_recv() {
                        let result = worker.poll(&stop);
                        let _ = done.send((worker.counters, result));
                        let _ = released.blocking_recv();
                    }
                    return;
                };
                runtime.block_on(async {
                    if let Ok(mut worker) = take_work.await {
                        let result = worker.wait(stopped).await;
                        let _ = done.send((worker.counters, result));
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

    /// Hands the queues over: work begins.
    pub(crate) fn give(&mut self, queues: Vec<Queue<UioChannel>>, mac: [u8; 6], options: &Options) {
        let clock = quanta::Clock::new();
        self.lanes.truncate(queues.len());
        for ((lane, queue), progress) in self.lanes.iter_mut().zip(queues).zip(&self.progress) {
            let worker = Worker {
                queue,
                mode: options.mode,
                frame: frame::udp(mac, options.packet_size.into()),
                burst: options.burst,
                clock: clock.clone(),
                counters: Counters::default(),
                progress: Arc::clone(progress),
            };
            if let Some(work) = lane.work.take() {
                // A thread that has gone has no outcome either.
                let _ = work.send(worker);
            }
        }
    }

    /// Ends the work.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stop_tasks.send_replace(true);
    }

    /// What was done, and the threads, which have to be kept until the adapter is closed.
    pub(crate) async fn collect(self) -> anyhow::Result<(Counters, Vec<Running>)> {
        let mut sum = Counters::default();
        let mut threads = Vec::new();
        for (index, lane) in self.lanes.into_iter().enumerate() {
            let (counters, result) = lane.outcome.await.with_context(|| format!("thread of queue {index}"))?;
            result.with_context(|| format!("queue {index}"))?;
            sum += counters;
            threads.push(lane.thread);
        }
        Ok((sum, threads))
    }
}
