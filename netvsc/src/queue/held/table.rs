//! The queue's side of held frames: which packets they belong to, how many sections are pinned, what is allowed.

use alloc::sync::Arc;
use alloc::vec::Vec;

use nvsp::Status;
use vmbus::memory::SharedMemory;
use vmbus::packet::TransactionId;

use super::ledger::Ledger;

/// A packet of which frames are held, and that was received to its end.
#[derive(Debug, Clone, Copy)]
struct Closed {
    id: TransactionId,
    ranges: u32,
    status: Status,
}

/// The packet whose frames are being handed out.
#[derive(Debug, Clone, Copy)]
struct Open {
    packet: u32,
    ranges: u32,
    /// Frames that were handed out.
    frames: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub(in super::super) struct Table {
    ledger: Arc<Ledger>,
    packets: Vec<Closed>,
    /// Entries that are not used.
    free: Vec<u32>,
    open: Option<Open>,
    /// Sections of all packets of which frames are held.
    sections: usize,
    /// Most of them.
    most: usize,
}

impl Table {
    /// For a receive buffer, of which at most `most` sections are held.
    pub(in super::super) fn new<M: SharedMemory>(memory: M, most: usize) -> Self {
        // Each packet has a range at least; indices have 32 bits, and the last one says that there is none.
        let packets = most.min(u32::MAX as usize - 1);
        let unused = Closed { id: TransactionId(0), ranges: 0, status: Status::SUCCESS };
        Self {
            ledger: Arc::new(Ledger::new(memory, packets)),
            packets: alloc::vec![unused; packets],
            free: (0..packets as u32).rev().collect(),
            open: None,
            sections: 0,
            most,
        }
    }

    /// How many sections may be held from now on. While nothing is held there may be more than before.
    pub(in super::super) fn set_most<M: SharedMemory>(&mut self, memory: &M, most: usize) {
        if self.sections == 0 && self.open.is_none() && most > self.packets.len() {
            *self = Self::new(memory.clone(), most);
        }
        self.most = most.min(self.packets.len());
    }

    pub(in super::super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Sections that are pinned.
    #[inline]
    pub(in super::super) fn sections(&self) -> usize {
        self.sections
    }

    /// Packets of which frames are held, the one at hand not among them.
    #[inline]
    pub(in super::super) fn packets(&self) -> usize {
        self.packets.len() - self.free.len() - usize::from(self.open.is_some())
    }

    /// Whether a frame of the packet at hand, which has so many ranges, may be held.
    #[inline]
    pub(in super::super) fn has_room(&self, ranges: u32) -> bool {
        // Fewer packets than sections are held, so that there is an entry.
        self.open.is_some() || self.sections + ranges as usize <= self.most
    }

    /// The entry for a frame of the packet at hand, for which there is [room](Self::has_room).
    #[inline]
    pub(in super::super) fn hold(&mut self, ranges: u32) -> Option<u32> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let packet = self.free.pop()?;
                self.ledger.open(packet);
                self.sections += ranges as usize;
                self.open.insert(Open { packet, ranges, frames: 0 })
            }
        };
        open.frames += 1;
        Some(open.packet)
    }

    /// The frame that was held last was not handed out after all.
    pub(in super::super) fn unhold(&mut self) {
        if let Some(open) = &mut self.open {
            open.frames -= 1;
        }
    }

    /// The packet at hand was received to its end. Whether frames of it are held: then it comes by
    /// [`take_let_go`](Self::take_let_go), and is not to be acknowledged before.
    #[inline]
    pub(in super::super) fn close(&mut self, id: TransactionId, status: Status) -> bool {
        let Some(Open { packet, ranges, frames }) = self.open.take() else { return false };
        if let Some(closed) = self.packets.get_mut(packet as usize) {
            *closed = Closed { id, ranges, status };
        }
        if self.ledger.close(packet, frames) {
            self.sections -= ranges as usize;
            self.free.push(packet);
            return false;
        }
        true
    }

    /// Whether packets were let go.
    #[inline]
    pub(in super::super) fn has_let_go(&self) -> bool {
        self.sections > 0 && self.ledger.has_let_go()
    }

    /// Hands the packets that were let go to `acknowledge`; its first error, after all of them.
    pub(in super::super) fn take_let_go<E>(
        &mut self,
        mut acknowledge: impl FnMut(TransactionId, Status) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut result = Ok(());
        let mut next = self.ledger.take_let_go();
        while let Some(packet) = next {
            next = self.ledger.after(packet);
            // It has an entry, or it could not have been let go.
            let Some(closed) = self.packets.get(packet as usize) else { break };
            self.sections -= closed.ranges as usize;
            self.free.push(packet);
            let acknowledged = acknowledge(closed.id, closed.status);
            result = result.and(acknowledged);
        }
        result
    }
}

impl Drop for Table {
    /// The session has ended, whether the buffers were detached or the queue was dropped with them: its memory may serve for
    /// another one from now on, while others still hold what they had of it.
    fn drop(&mut self) {
        self.ledger.end();
    }
}
