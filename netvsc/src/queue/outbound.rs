//! The guest→host ring of a queue: who may write how much, acknowledgments that are owed, the doorbell.
//!
//! Room is kept back for acknowledgments of receive packets, so that a busy sender cannot starve the receiving side: a host
//! without receive sections would stop, and with it possibly the completions that the sender waits for. What finds no
//! room all the same waits here, in order, and is never lost.

use alloc::collections::VecDeque;

use nvsp::{RndisPacketComplete, Status};
use vmbus::Error as _;
use vmbus::bus::Doorbell;
use vmbus::memory::SharedMemory;
use vmbus::packet::{DESCRIPTOR_BYTES, TRAILER_BYTES, TransactionId};
use vmbus::ring::{MappedRing, Outgoing, Producer, RingError, WriteError};

use super::error::QueueError;
use crate::stats::QueueStats;

/// Ring bytes of a packet that hands over a section.
pub(super) const SECTION_PACKET_BYTES: u32 = (DESCRIPTOR_BYTES + nvsp::MESSAGE_LEN + TRAILER_BYTES) as u32;
/// Ring bytes of an acknowledgment.
const ACK_BYTES: u32 = (DESCRIPTOR_BYTES + RndisPacketComplete::LEN + TRAILER_BYTES) as u32;
/// Most ring bytes that are kept for acknowledgments.
const MAX_RESERVE: u32 = 64 * ACK_BYTES;

/// An acknowledgment that waits for room.
#[derive(Debug, Clone, Copy)]
struct Ack {
    id: TransactionId,
    status: Status,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Outbound<M, D> {
    producer: Producer<MappedRing<M>>,
    doorbell: D,
    /// Bytes that are free for certain: the host only adds to them. Saves a look at its cache line for each packet.
    room: u32,
    /// Kept for acknowledgments.
    reserve: u32,
    /// Kept for the aggregate that is being filled.
    kept: u32,
    owed: VecDeque<Ack>,
    /// A sender waits for an interrupt, and has not sent since.
    sender_waits: bool,
    /// An acknowledgment waits for an interrupt.
    ack_waits: bool,
}

impl<M: SharedMemory, D: Doorbell> Outbound<M, D> {
    pub(super) fn new(ring: MappedRing<M>, doorbell: D) -> Self {
        let producer = Producer::new(ring);
        let reserve = (producer.data_bytes() / 8).clamp(ACK_BYTES, MAX_RESERVE);
        Self {
            producer,
            doorbell,
            room: 0,
            reserve,
            kept: 0,
            owed: VecDeque::new(),
            sender_waits: false,
            ack_waits: false,
        }
    }

    /// Makes sure that acknowledgments of `packets` packets can wait.
    pub(super) fn reserve_acks(&mut self, packets: usize) {
        self.owed.reserve(packets.saturating_sub(self.owed.len()));
    }

    /// Acknowledgments that wait for room.
    #[inline]
    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Forgets the acknowledgments that wait; says how many there were.
    pub(super) fn forget_owed(&mut self) -> usize {
        let owed = self.owed.len();
        self.owed.clear();
        owed
    }

    /// Whether `bytes` are free.
    #[inline]
    fn has_room(&mut self, bytes: u32) -> Result<bool, RingError> {
        if bytes <= self.room {
            return Ok(true);
        }
        self.room = self.producer.free_bytes()?;
        Ok(bytes <= self.room)
    }

    /// Whether a sender may write `bytes`.
    #[inline]
    pub(super) fn has_send_room(&mut self, bytes: usize) -> Result<bool, RingError> {
        match u32::try_from(bytes) {
            Ok(bytes) => self.has_room(bytes.saturating_add(self.reserve + self.kept)),
            Err(_) => Ok(false),
        }
    }

    /// Most ring bytes that one packet of a sender may take.
    pub(super) fn max_send_bytes(&self) -> usize {
        self.producer
            .max_packet_bytes()
            .min((self.producer.data_bytes() - 8 - self.reserve - SECTION_PACKET_BYTES) as usize)
    }

    /// Keeps room for the aggregate that is being filled; the caller has asked [`has_send_room`](Self::has_send_room).
    #[inline]
    pub(super) fn keep(&mut self) {
        self.kept = SECTION_PACKET_BYTES;
    }

    /// Lets go of what [`keep`](Self::keep) kept.
    #[inline]
    pub(super) fn unkeep(&mut self) {
        self.kept = 0;
    }

    /// Writes a packet, for which the caller has made sure that there is room; `false` if there is none.
    #[inline]
    pub(super) fn write(&mut self, packet: &Outgoing<'_>) -> Result<bool, QueueError> {
        match self.producer.write(packet) {
            Ok(()) => {
                self.room = self.room.saturating_sub(packet.ring_bytes() as u32);
                Ok(true)
            }
            Err(WriteError::Corrupt(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Acknowledges a receive packet, now or later.
    #[inline]
    pub(super) fn ack(&mut self, id: TransactionId, status: Status, stats: &mut QueueStats) -> Result<(), QueueError> {
        stats.extra.acks += 1;
        let ack = Ack { id, status };
        if self.owed.is_empty() && self.try_ack(ack)? {
            return Ok(());
        }
        stats.global.rx_comp_busy += 1;
        stats.extra.acks_delayed += 1;
        self.owed.push_back(ack);
        Ok(())
    }

    #[inline]
    fn try_ack(&mut self, ack: Ack) -> Result<bool, QueueError> {
        if !self.has_room(ACK_BYTES + self.kept)? {
            return Ok(false);
        }
        let payload: [u8; RndisPacketComplete::LEN] = RndisPacketComplete { status: ack.status }.to_array();
        self.write(&Outgoing::completion(ack.id, &payload))
    }

    /// Writes the acknowledgments that wait, as far as there is room.
    #[inline]
    pub(super) fn flush_owed(&mut self) -> Result<(), QueueError> {
        while let Some(&ack) = self.owed.front() {
            if !self.try_ack(ack)? {
                break;
            }
            self.owed.pop_front();
        }
        if self.ack_waits && self.owed.is_empty() {
            self.ack_waits = false;
            self.stop_waiting();
        }
        Ok(())
    }

    /// A sender found room.
    #[inline]
    pub(super) fn sender_goes_on(&mut self) {
        if self.sender_waits {
            self.sender_waits = false;
            self.stop_waiting();
        }
    }

    /// Left standing while either side waits: it would miss its interrupt.
    fn stop_waiting(&mut self) {
        if !self.sender_waits && !self.ack_waits {
            self.producer.stop_waiting();
        }
    }

    /// Publishes what was written and signals the host if it has to be.
    #[inline]
    pub(super) fn publish(&mut self, stats: &mut QueueStats) -> Result<(), QueueError> {
        if !self.producer.has_unpublished() {
            return Ok(());
        }
        if self.producer.publish()?.is_needed() {
            self.signal(stats)?;
        }
        Ok(())
    }

    /// Signals the host.
    pub(super) fn signal(&mut self, stats: &mut QueueStats) -> Result<(), QueueError> {
        stats.extra.doorbells += 1;
        self.doorbell.signal().map_err(|error| QueueError::Doorbell { kind: error.kind() })
    }

    /// Asks for an interrupt once a sender may write `bytes`; whether it may now. Publish first.
    pub(super) fn wait_for_send_room(&mut self, bytes: u32) -> Result<bool, QueueError> {
        let wanted = bytes.saturating_add(self.reserve + self.kept);
        // Acknowledgments that wait need less than that, so they are woken, too.
        let now = self.producer.wait_for_space(wanted)?;
        self.sender_waits = !now;
        self.ack_waits &= !now;
        Ok(now)
    }

    /// Asks for an interrupt once an acknowledgment that waits can be written; whether one can now. Publish first.
    pub(super) fn wait_for_ack_room(&mut self) -> Result<bool, QueueError> {
        let wanted = ACK_BYTES + self.kept;
        let now = if self.sender_waits { self.has_room(wanted)? } else { self.producer.wait_for_space(wanted)? };
        self.ack_waits = !now;
        Ok(now)
    }
}
