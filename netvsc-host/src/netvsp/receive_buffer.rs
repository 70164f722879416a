//! The receive buffer: which sub-allocation is the guest's and which the host's.
//!
//! The first sub-allocations are kept for control messages, and used last in, first out; those for frames go round: in
//! ascending order at first, returned ones to the end. A packet is named by its first sub-allocation, and returned as a
//! whole. (All as OpenVMM `netvsp/src/rx_bufs.rs`.)

use std::collections::VecDeque;

use vmbus::gpadl::GpadlId;
use vmbus::memory::{HeapMemory, OutOfBounds, SharedMemoryExt};

/// How many sub-allocations ahead of the one that is taken they are fetched.
const AHEAD: usize = 2;
/// End of a chain.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    pub(super) gpadl: GpadlId,
    memory: HeapMemory,
    /// Bytes of one.
    pub(super) size: u32,
    /// How many there are.
    pub(super) count: u32,
    /// How many of them, from 0 on, are for control messages.
    pub(super) reserved: u32,
    control: Vec<u32>,
    data: VecDeque<u32>,
    /// The next sub-allocation of the same packet.
    next: Vec<u32>,
    /// Whether this is the first one of a packet that the guest has.
    lent: Vec<bool>,
    held_sections: u64,
    held_packets: u64,
}

impl ReceiveBuffer {
    pub(super) fn new(gpadl: GpadlId, memory: HeapMemory, size: u32, count: u32, reserved: u32) -> Self {
        Self {
            gpadl,
            memory,
            size,
            count,
            reserved,
            control: (0..reserved).collect(),
            data: (reserved..count).collect(),
            next: vec![NONE; count as usize],
            lent: vec![false; count as usize],
            held_sections: 0,
            held_packets: 0,
        }
    }

    pub(super) fn held_sections(&self) -> u64 {
        self.held_sections
    }

    pub(super) fn held_packets(&self) -> u64 {
        self.held_packets
    }

    pub(super) fn take_control(&mut self) -> Option<u32> {
        self.control.pop()
    }

    /// How many are free for frames.
    pub(super) fn available(&self) -> usize {
        self.data.len()
    }

    /// How many there are for frames.
    pub(super) fn for_frames(&self) -> usize {
        (self.count - self.reserved) as usize
    }

    pub(super) fn take_data(&mut self) -> Option<u32> {
        self.data.pop_front()
    }

    /// Has the processor fetch the sub-allocation whose turn comes soon, of which `bytes` may be written: the guest has read it
    /// since, on another processor.
    pub(super) fn fetch_ahead(&self, bytes: usize) {
        if let Some(&id) = self.data.get(AHEAD) {
            self.memory.prefetch_write(self.offset(id) as usize, bytes.min(self.size as usize));
        }
    }

    /// Gives one back that was not lent.
    pub(super) fn untake(&mut self, id: u32) {
        if id < self.reserved { self.control.push(id) } else { self.data.push_back(id) }
    }

    pub(super) fn offset(&self, id: u32) -> u32 {
        // Cannot wrap: size × count fits the memory.
        id * self.size
    }

    pub(super) fn write(&self, id: u32, at: u32, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.memory.write((self.offset(id) + at) as usize, bytes)
    }

    /// Reads back; for faults.
    pub(super) fn read(&self, id: u32, at: u32, into: &mut [u8]) -> Result<(), OutOfBounds> {
        self.memory.read((self.offset(id) + at) as usize, into)
    }

    /// The guest has these now, as one packet.
    pub(super) fn lend(&mut self, ids: impl Iterator<Item = u32>) {
        let mut previous = NONE;
        for id in ids {
            self.next[id as usize] = NONE;
            if previous == NONE {
                self.lent[id as usize] = true;
                self.held_packets += 1;
            } else {
                self.next[previous as usize] = id;
            }
            previous = id;
            self.held_sections += 1;
        }
    }

    /// The guest has returned a packet; false if it had no such packet.
    pub(super) fn give_back(&mut self, transaction_id: u64) -> bool {
        let Some(first) = u32::try_from(transaction_id).ok().filter(|&id| id < self.count) else { return false };
        if !std::mem::replace(&mut self.lent[first as usize], false) {
            return false;
        }
        self.held_packets -= 1;
        let mut id = first;
        while id != NONE {
            self.held_sections -= 1;
            let next = std::mem::replace(&mut self.next[id as usize], NONE);
            self.untake(id);
            id = next;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_round_and_control_is_reused_at_once() {
        let memory = HeapMemory::zeroed(4096);
        let mut buffer = ReceiveBuffer::new(GpadlId(1), memory, 100, 8, 3);
        assert_eq!(buffer.take_control(), Some(2));
        buffer.lend([2].into_iter());
        assert!(buffer.give_back(2));
        assert_eq!(buffer.take_control(), Some(2), "the one returned last");
        assert_eq!([buffer.take_data(), buffer.take_data(), buffer.take_data()], [Some(3), Some(4), Some(5)]);
        buffer.lend([3, 4, 5].into_iter());
        assert_eq!((buffer.held_packets(), buffer.held_sections()), (1, 3));
        assert!(!buffer.give_back(4), "not the first of its packet");
        assert!(!buffer.give_back(6), "not lent");
        assert!(!buffer.give_back(u64::MAX));
        assert!(buffer.give_back(3));
        assert!(!buffer.give_back(3), "twice");
        let order: Vec<_> = std::iter::from_fn(|| buffer.take_data()).collect();
        assert_eq!(order, [6, 7, 3, 4, 5]);
        assert_eq!((buffer.held_packets(), buffer.held_sections()), (0, 0));
    }
}
