//! A task for each queue: receives, decides, sends.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netvsc_async::{Error, Queue, TxMeta};
use tokio::sync::mpsc;
use vmbus::bus::Channel;

use crate::balancer::{Balancer, Reason, Verdict};
use crate::table::BackendIndex;
use crate::wire::Mac;

/// What one queue counts. Written by its task only, read by anybody.
#[derive(Debug)]
pub(crate) struct Counters {
    forwarded: Vec<AtomicU64>,
    answered: AtomicU64,
    no_backend: AtomicU64,
    not_ours: AtomicU64,
    no_room: AtomicU64,
}

impl Counters {
    /// For so many backends.
    pub(crate) fn new(backends: usize) -> Self {
        let forwarded = (0..backends).map(|_| AtomicU64::new(0)).collect();
        let [answered, no_backend, not_ours, no_room] = std::array::from_fn(|_| AtomicU64::new(0));
        Self { forwarded, answered, no_backend, not_ours, no_room }
    }

    fn forwarded(&self, to: BackendIndex) {
        if let Some(counter) = self.forwarded.get(usize::from(to.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn dropped(&self, reason: Reason) {
        let counter = match reason {
            Reason::NotOurs | Reason::NotAFlow => &self.not_ours,
            Reason::NoBackend => &self.no_backend,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Goes on until the adapter is closed. `questions` are frames of the balancer's own, to be sent.
pub(crate) async fn serve<C: Channel>(
    mut queue: Queue<C>,
    mtu: u32,
    balancer: &Balancer,
    counters: &Counters,
    learned: &mpsc::Sender<(IpAddr, Mac)>,
    questions: Option<mpsc::Receiver<Vec<u8>>>,
) -> anyhow::Result<()> {
    let mut backends = balancer.backends();
    let mut living = Arc::clone(&backends.borrow_and_update());
    // Queues without questions wait for none: the sender of this channel is kept, and says nothing.
    let (_nobody, silence) = mpsc::channel(1);
    let mut questions = questions.unwrap_or(silence);
    loop {
        let mut burst = tokio::select! {
            burst = queue.rx.recv_burst() => match burst? {
                Some(burst) => burst,
                None => return Ok(()),
            },
            Some(question) = questions.recv() => {
                queue.tx.send(&question).await?;
                continue;
            }
        };
        // Once a burst, not once a frame.
        if backends.has_changed().unwrap_or(false) {
            living = Arc::clone(&backends.borrow_and_update());
        }
        // One lock and one signal to the host for all of the burst.
        let mut batch = queue.tx.batch();
        for frame in burst.iter_mut() {
            let passing_on = |bytes: &[u8]| TxMeta::passing_on(bytes, &frame.meta, mtu);
            let sent = match balancer.decide(frame.bytes, &living) {
                Verdict::Forward(index) => {
                    counters.forwarded(index);
                    batch.push(frame.bytes, &passing_on(frame.bytes))
                }
                Verdict::Answered => {
                    counters.answered.fetch_add(1, Ordering::Relaxed);
                    batch.push(frame.bytes, &passing_on(frame.bytes))
                }
                Verdict::Answer(answer) => {
                    counters.answered.fetch_add(1, Ordering::Relaxed);
                    batch.push(&answer, &TxMeta { vlan: frame.meta.vlan, ..TxMeta::default() })
                }
                Verdict::Learned(address, mac) => {
                    // If nobody has time for it, the next answer says the same.
                    let _ = learned.try_send((address, mac));
                    Ok(())
                }
                Verdict::Drop(reason) => {
                    counters.dropped(reason);
                    Ok(())
                }
            };
            match sent {
                // As a router does: who sends too much finds out by what is lost.
                Err(Error::Full) => drop(counters.no_room.fetch_add(1, Ordering::Relaxed)),
                sent => sent?,
            }
        }
    }
}

/// What all queues have counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Frames for each backend, by queue.
    pub(crate) forwarded: Vec<(IpAddr, Vec<u64>)>,
    pub(crate) answered: u64,
    pub(crate) no_backend: u64,
    pub(crate) not_ours: u64,
    pub(crate) no_room: u64,
}

impl Summary {
    pub(crate) fn of(queues: &[Arc<Counters>], backends: &[IpAddr]) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |of: fn(&Counters) -> &AtomicU64| queues.iter().map(|queue| read(of(queue))).sum();
        let by_queue = |index: usize| queues.iter().map(|queue| read(&queue.forwarded[index])).collect();
        Self {
            forwarded: backends.iter().enumerate().map(|(index, address)| (*address, by_queue(index))).collect(),
            answered: sum(|queue| &queue.answered),
            no_backend: sum(|queue| &queue.no_backend),
            not_ours: sum(|queue| &queue.not_ours),
            no_room: sum(|queue| &queue.no_room),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, no_backend, not_ours, no_room, .. } = self;
        for (address, by_queue) in &self.forwarded {
            let frames: u64 = by_queue.iter().sum();
            writeln!(f, "  {:<20} {frames:>9} frames, by queue {by_queue:?}", address.to_string())?;
        }
        write!(f, "  {answered} answered, {no_backend} without backend, {not_ours} not ours, {no_room} without room")
    }
}
