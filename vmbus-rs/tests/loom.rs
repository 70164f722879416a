//! Every interleaving of a producer and a consumer, under loom's model of the memory orderings.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p vmbus-rs --test loom --release
//! ```
//!
//! The roles are the real ones; only the memory below them is loom's. Data words are not atomics, so any access that
//! the indices do not order is a data race, and loom says so. An interrupt is a latch; a side that waits for one which
//! never comes is a deadlock, and loom says that too.
//!
//! The second half breaks one ordering at a time, in the memory, and asserts that loom notices: a model that cannot
//! fail proves nothing.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;
use vmbus::packet::TransactionId;
use vmbus::ring::{Consumer, Outgoing, Producer, RingError, RingMemory, Signal, Word, WriteError};

/// Bytes of a packet without payload: descriptor and trailer.
const PACKET_BYTES: u32 = 24;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// `fence` does nothing.
    NoFence,
    /// Indices are stored without releasing the data.
    NoRelease,
    /// Indices are loaded without acquiring the data.
    NoAcquire,
    /// The first word is loaded before the second is stored, and that value is what a later load gives: the two are
    /// taken in the wrong order.
    LoadedBeforeStore(Word, Word),
    /// The first word is loaded before the second is loaded.
    LoadedBeforeLoad(Word, Word),
}

/// A ring in loom's memory: the part that both sides share.
struct Shared {
    words: [AtomicU32; 5],
    data: Vec<UnsafeCell<u64>>,
}

// SAFETY: the cells are reached through `with` and `with_mut` only, in which loom panics on a data race before it
// happens; threads of a model run one at a time.
#[expect(unsafe_code, reason = "the cells whose races the model looks for")]
unsafe impl Sync for Shared {}

impl Shared {
    fn new(size: u32) -> Arc<Self> {
        Arc::new(Self {
            words: std::array::from_fn(|_| AtomicU32::new(0)),
            data: (0..size / 8).map(|_| UnsafeCell::new(0)).collect(),
        })
    }
}

/// One side's view of a ring.
struct Model {
    shared: Arc<Shared>,
    fault: Fault,
    /// A word that was loaded too early.
    early: std::cell::Cell<Option<u32>>,
}

impl Model {
    fn new(shared: &Arc<Shared>, fault: Fault) -> Self {
        Self { shared: Arc::clone(shared), fault, early: std::cell::Cell::new(None) }
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        &self.shared.words[match word {
            Word::WriteIndex => 0,
            Word::ReadIndex => 1,
            Word::InterruptMask => 2,
            Word::PendingSendSize => 3,
            Word::FeatureBits => 4,
        }]
    }
}

#[expect(unsafe_code, reason = "the cells whose races the model looks for")]
impl RingMemory for Model {
    fn data_bytes(&self) -> u32 {
        self.shared.data.len() as u32 * 8
    }

    fn load(&self, word: Word) -> u32 {
        match self.fault {
            Fault::LoadedBeforeStore(early, _) | Fault::LoadedBeforeLoad(early, _) if early == word => {
                if let Some(value) = self.early.take() {
                    return value;
                }
            }
            Fault::LoadedBeforeLoad(early, late) if late == word => {
                self.early.set(Some(self.word(early).load(Ordering::Acquire)));
            }
            Fault::NoAcquire => return self.word(word).load(Ordering::Relaxed),
            _ => {}
        }
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: Word, value: u32) {
        match self.fault {
            Fault::LoadedBeforeStore(early, late) if late == word => {
                self.early.set(Some(self.word(early).load(Ordering::Acquire)));
            }
            Fault::NoRelease => return self.word(word).store(value, Ordering::Relaxed),
            _ => {}
        }
        self.word(word).store(value, Ordering::Release);
    }

    fn fence(&self) {
        if self.fault != Fault::NoFence {
            fence(Ordering::SeqCst);
        }
    }

    fn read(&self, offset: u32, into: &mut [u8]) {
        for (word, into) in self.shared.data[offset as usize / 8..].iter().zip(into.chunks_mut(8)) {
            // SAFETY: loom has checked that nobody writes.
            let value = word.with(|word| unsafe { *word });
            into.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write(&self, offset: u32, from: &[u8]) {
        for (word, from) in self.shared.data[offset as usize / 8..].iter().zip(from.chunks(8)) {
            let value = u64::from_le_bytes(from.try_into().expect("packets of whole words"));
            // SAFETY: loom has checked that nobody else touches it.
            word.with_mut(|word| unsafe { *word = value });
        }
    }
}

/// What one run does.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Bytes of the data area.
    size: u32,
    /// Packets of each batch.
    batches: &'static [u64],
    /// What is broken on the producer's side.
    producer: Fault,
    /// What is broken on the consumer's side.
    consumer: Fault,
    /// The consumer sleeps without the last look at the ring.
    skip_recheck: bool,
    /// The producer sleeps without a look after it asked for a signal.
    skip_space_recheck: bool,
}

/// A ring with room for everything.
const ROOMY: Plan = Plan {
    size: 128,
    batches: &[1],
    producer: Fault::None,
    consumer: Fault::None,
    skip_recheck: false,
    skip_space_recheck: false,
};

/// A ring with room for one packet (two would fill it).
const TIGHT: Plan = Plan { size: 48, batches: &[1, 1], ..ROOMY };

fn produce(plan: Plan, shared: &Arc<Shared>, data: &Notify, space: &Notify) {
    let mut producer = Producer::new(Model::new(shared, plan.producer));
    let mut id = 0;
    for &batch in plan.batches {
        let last = id + batch;
        while id < last {
            match producer.write(&Outgoing::notice(TransactionId(id + 1), &[])) {
                Ok(()) => id += 1,
                Err(WriteError::Full { .. }) => {
                    if publish(&mut producer) == Signal::Needed {
                        data.notify();
                    }
                    let room = producer.wait_for_space(PACKET_BYTES).expect("sound ring");
                    if !room || plan.skip_space_recheck {
                        space.wait();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        // There was room: later crossings are nobody's business.
        producer.stop_waiting();
        if publish(&mut producer) == Signal::Needed {
            data.notify();
        }
    }
}

fn publish(producer: &mut Producer<Model>) -> Signal {
    producer.publish().expect("sound ring")
}

fn consume(plan: Plan, shared: &Arc<Shared>, data: &Notify, space: &Notify) {
    let mut consumer = Consumer::new(Model::new(shared, plan.consumer));
    let total: u64 = plan.batches.iter().sum();
    let mut taken = 0;
    loop {
        while let Some(packet) = consumer.take(&mut []).expect("sound ring") {
            taken += 1;
            assert_eq!(packet.descriptor.transaction_id, TransactionId(taken), "in order, each once");
        }
        if consumer.commit().expect("sound ring") == Signal::Needed {
            space.notify();
        }
        if taken == total {
            return;
        }
        let more: Result<bool, RingError> = consumer.unmask();
        if !more.expect("sound ring") || plan.skip_recheck {
            data.wait();
            consumer.mask();
        }
    }
}

fn run(plan: Plan) {
    let mut model = loom::model::Builder::new();
    // A thread that is kept from running where it could have: every bug of this kind that is known needs two at most.
    model.preemption_bound = Some(3);
    model.check(move || {
        let shared = Shared::new(plan.size);
        // The producer says so before the channel opens; the consumer starts masked.
        shared.words[4].store(1, Ordering::Release);
        let data = Arc::new(Notify::new());
        let space = Arc::new(Notify::new());
        let consumer = {
            let (shared, data, space) = (Arc::clone(&shared), Arc::clone(&data), Arc::clone(&space));
            thread::spawn(move || consume(plan, &shared, &data, &space))
        };
        produce(plan, &shared, &data, &space);
        consumer.join().expect("consumer");
    });
}

/// Models that loom must find something wrong with, and what.
///
/// Each runs in a process of its own: a deadlock that loom reports leaves threads behind whose clean-up aborts.
macro_rules! broken {
    ($($name:ident: $finding:expr, $plan:expr;)*) => {$(
        #[test]
        fn $name() {
            if std::env::var_os(CHILD).is_some() {
                return run($plan);
            }
            let output = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", stringify!($name), "--nocapture"])
                .env(CHILD, "1")
                .output()
                .expect("this program runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "loom let this pass: {:?}", $plan);
            assert!(said.contains($finding), "loom found something else: {said}");
        }
    )*};
}

/// Set for the process that runs a broken model.
const CHILD: &str = "VMBUS_LOOM_BROKEN";
/// What loom says of a wake-up that never comes.
const HANGS: &str = "deadlock";
/// What loom says of data that the indices do not order.
const RACES: &str = "Causality violation";

#[test]
fn one_packet_wakes_a_consumer_that_goes_to_sleep() {
    run(ROOMY);
}

#[test]
fn two_packets_published_one_by_one() {
    run(Plan { batches: &[1, 1], ..ROOMY });
}

#[test]
fn two_batches() {
    run(Plan { size: 256, batches: &[2, 2], ..ROOMY });
}

#[test]
fn a_blocked_producer_is_woken() {
    run(TIGHT);
}

#[test]
fn a_blocked_producer_is_woken_twice() {
    run(Plan { batches: &[1, 1, 1], ..TIGHT });
}

#[test]
fn a_batch_that_does_not_fit_is_published_and_goes_on() {
    run(Plan { size: 80, batches: &[4], ..ROOMY });
}

broken! {
    broken_producer_without_fence_loses_a_wakeup: HANGS, Plan { producer: Fault::NoFence, ..ROOMY };
    broken_consumer_without_fence_loses_a_wakeup: HANGS, Plan { consumer: Fault::NoFence, ..ROOMY };
    broken_consumer_without_recheck_loses_a_wakeup: HANGS, Plan { skip_recheck: true, ..ROOMY };
    broken_consumer_that_rechecks_before_it_unmasks_loses_a_wakeup: HANGS, Plan { consumer: Fault::LoadedBeforeStore(Word::WriteIndex, Word::InterruptMask), ..ROOMY };
    broken_producer_that_looks_at_the_mask_before_it_publishes_loses_a_wakeup: HANGS, Plan { producer: Fault::LoadedBeforeStore(Word::InterruptMask, Word::WriteIndex), ..ROOMY };
    broken_producer_that_looks_at_the_read_index_before_it_publishes_loses_a_wakeup: HANGS, Plan { batches: &[1, 1], producer: Fault::LoadedBeforeStore(Word::ReadIndex, Word::WriteIndex), ..ROOMY };
    broken_producer_without_fence_loses_a_space_signal: HANGS, Plan { producer: Fault::NoFence, ..TIGHT };
    broken_consumer_without_fence_loses_a_space_signal: HANGS, Plan { consumer: Fault::NoFence, ..TIGHT };
    broken_producer_that_does_not_look_after_asking_loses_a_space_signal: HANGS, Plan { skip_space_recheck: true, ..TIGHT };
    broken_producer_that_looks_before_asking_loses_a_space_signal: HANGS, Plan { producer: Fault::LoadedBeforeStore(Word::ReadIndex, Word::PendingSendSize), ..TIGHT };
    broken_consumer_that_looks_at_the_pending_size_before_it_commits_loses_a_space_signal: HANGS, Plan { consumer: Fault::LoadedBeforeStore(Word::PendingSendSize, Word::ReadIndex), ..TIGHT };
    broken_consumer_that_looks_at_the_write_index_before_the_pending_size_loses_a_space_signal: HANGS, Plan { size: 80, batches: &[1, 1, 1, 1], consumer: Fault::LoadedBeforeLoad(Word::WriteIndex, Word::PendingSendSize), ..ROOMY };
    broken_producer_that_does_not_release_races: RACES, Plan { producer: Fault::NoRelease, ..ROOMY };
    broken_consumer_that_does_not_acquire_races: RACES, Plan { consumer: Fault::NoAcquire, ..ROOMY };
    broken_consumer_that_does_not_release_races: RACES, Plan { size: 80, batches: &[3, 1], consumer: Fault::NoRelease, ..ROOMY };
    broken_producer_that_does_not_acquire_races: RACES, Plan { size: 80, batches: &[3, 1], producer: Fault::NoAcquire, ..ROOMY };
}
