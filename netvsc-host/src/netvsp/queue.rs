//! One channel: its rings, as the host reads and writes them, and its signals.

use vmbus::gpadl::GpadlId;
use vmbus::mem::Latch;
use vmbus::memory::HeapMemory;
use vmbus::packet::{MAX_PACKET_BYTES, TransactionId};
use vmbus::protocol::RelId;
use vmbus::ring::{Consumer, Incoming, MappedRing, Outgoing, Producer, RingError, Signal, WriteError};

use crate::fault::{FaultPlan, InterruptFate};
use crate::vmbus_server::OpenRings;

/// Ring bytes of the longest completion: descriptor, 40 bytes, trailer.
const COMPLETION_BYTES: u32 = 16 + 40 + 8;
/// Ring bytes that only completions and control messages may use: a state change takes 196.
pub(super) const CONTROL_RESERVE: u32 = 200;

/// What [`Queue::finish`] did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    /// The guest was interrupted.
    pub(super) interrupted: bool,
    /// The guest has written more meanwhile.
    pub(super) more: bool,
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) index: u16,
    pub(super) relid: RelId,
    pub(super) gpadl: GpadlId,
    /// Served no more.
    pub(super) silent: bool,
    /// The request that was completed last: its id is what a host repeats that completes what asked for nothing.
    pub(super) last_completed: TransactionId,
    consumer: Consumer<MappedRing<HeapMemory>>,
    producer: Producer<MappedRing<HeapMemory>>,
    interrupt: Option<Latch>,
    /// The body of the packet that was taken; lent while it is looked at.
    body: Vec<u8>,
    /// Room is wanted in the ring to the guest.
    wants_room: Option<u32>,
    /// A fault holds an interrupt back for this many more steps.
    late_interrupt: Option<u32>,
    /// A new channel is interrupted once whatever happens: its guest may have looked too early.
    first: bool,
    /// Whether the mask stays set until there was something to read.
    masked_at_open: bool,
    /// Why reading stopped before the ring was empty.
    held_up: Option<HeldUp>,
}

/// Why packets of the guest stay in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldUp {
    /// There is no room in the ring to the guest for their completions.
    Room,
    /// Too many sends wait for their completion already.
    Quota,
}

impl Queue {
    pub(super) fn new(rings: OpenRings, masked_at_open: bool) -> Self {
        let consumer = Consumer::new(rings.outgoing);
        let body = vec![0; (consumer.data_bytes() as usize).min(MAX_PACKET_BYTES)];
        Self {
            index: rings.index,
            relid: rings.relid,
            gpadl: rings.gpadl,
            silent: false,
            last_completed: TransactionId(0),
            consumer,
            producer: Producer::new(rings.incoming),
            interrupt: rings.interrupt,
            body,
            wants_room: None,
            late_interrupt: None,
            first: true,
            masked_at_open,
            held_up: None,
        }
    }

    pub(super) fn take(&mut self) -> Result<Option<Incoming>, RingError> {
        let taken = self.consumer.take(&mut self.body)?;
        if taken.is_some() {
            self.consumer.mask();
            self.masked_at_open = false;
        }
        Ok(taken)
    }

    /// The first bytes of the packet that comes next, as a hint: unchecked, and only if it was seen already.
    #[inline]
    pub(super) fn peek(&self, into: &mut [u8]) -> bool {
        self.consumer.peek(into)
    }

    /// The body of the packet that was taken last, to be given back.
    pub(super) fn lend_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    pub(super) fn return_body(&mut self, body: Vec<u8>) {
        self.body = body;
    }

    /// Bytes of the ring to the guest.
    pub(super) fn ring_bytes(&self) -> u32 {
        self.producer.data_bytes()
    }

    /// Free bytes in the ring to the guest; 0 if the guest corrupted it, which `finish` finds out.
    pub(super) fn room(&mut self) -> u32 {
        self.producer.free_bytes().unwrap_or(0)
    }

    pub(super) fn has_room_for_completion(&mut self) -> bool {
        self.has_room(COMPLETION_BYTES)
    }

    /// Whether `bytes` can be written; if not, remembers to ask the guest for a signal.
    pub(super) fn has_room(&mut self, bytes: u32) -> bool {
        if self.room() >= bytes {
            return true;
        }
        // With hysteresis, as real hosts: not a signal for every packet that the guest reads. The ring's data is at
        // least one page.
        let quarter = self.producer.data_bytes() / 4;
        self.wants_room = Some(bytes.max(quarter));
        false
    }

    /// Whether reading stops here, and why: unread packets are no reason then to look again, nor for the guest to signal.
    pub(super) fn hold_up(&mut self, why: Option<HeldUp>) {
        self.held_up = why;
    }

    pub(super) fn complete(&mut self, transaction_id: TransactionId, message: &[u8]) {
        self.last_completed = transaction_id;
        if let Err(error) = self.write(&Outgoing::completion(transaction_id, message)) {
            tracing::debug!(target: "netvsc_host", %error, "completion not written");
        }
    }

    pub(super) fn write(&mut self, packet: &Outgoing<'_>) -> Result<(), WriteError> {
        self.producer.write(packet)
    }

    /// Whether a fault holds an interrupt back.
    pub(super) fn owes_late_interrupt(&self) -> bool {
        self.late_interrupt.is_some()
    }

    /// Serves no more; publishes what was answered. The packets taken so far count as read, or not.
    pub(super) fn stop(&mut self, count_as_read: bool) {
        self.consumer.mask();
        let freed = if count_as_read { self.consumer.commit() } else { Ok(Signal::NotNeeded) };
        let published = self.producer.publish();
        let needed = |signal: Result<Signal, RingError>| signal.is_ok_and(Signal::is_needed);
        if needed(freed) | needed(published) {
            self.signal();
        }
    }

    /// Gives room back, publishes, signals once, and unmasks when there is nothing more to read.
    pub(super) fn finish(&mut self, faults: &mut FaultPlan) -> Result<Finished, RingError> {
        let freed = self.consumer.commit()?;
        let published = self.producer.publish()?;
        let mut more = false;
        if self.held_up == Some(HeldUp::Room) {
            // Room that came since is a reason to look again; otherwise it is still wanted.
            more = self.has_room_for_completion();
        }
        match self.wants_room.take() {
            Some(bytes) => more |= self.producer.wait_for_space(faults.on_pending_send_size(bytes))?,
            None => self.producer.stop_waiting(),
        }
        let wanted = freed.is_needed() | published.is_needed() | std::mem::take(&mut self.first);
        let interrupted = self.interrupt_guest(wanted, faults);
        if !self.masked_at_open && self.held_up.is_none() {
            more |= self.consumer.unmask()?;
        }
        Ok(Finished { interrupted, more })
    }

    fn interrupt_guest(&mut self, wanted: bool, faults: &mut FaultPlan) -> bool {
        if let Some(steps) = &mut self.late_interrupt {
            *steps -= 1;
            if *steps == 0 {
                self.late_interrupt = None;
                self.signal();
                return true;
            }
        }
        let now = if wanted {
            match faults.on_interrupt() {
                InterruptFate::Lost => false,
                InterruptFate::Late { steps } => {
                    self.late_interrupt.get_or_insert(steps.max(1));
                    false
                }
                _ => true,
            }
        } else {
            faults.on_no_interrupt()
        };
        if now {
            self.signal();
        }
        now
    }

    fn signal(&self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.set();
        }
    }
}
