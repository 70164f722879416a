//! A ring of slots that an AF_PACKET socket shares with the kernel (`TPACKET_V2`).
//!
//! A slot begins with a header of 32 bytes, whose first word says who owns it. Each side takes the slots in order, and gives
//! one back by that word. Fields are in the order of this machine.
//!
//! ```text
//!   0  status     4  length      8  bytes that are here   12  frame's offset (16 bits)
//!  24  VLAN tag (16 bits)       26  its protocol (16 bits)
//! ```
//!
//! Source: Linux `include/uapi/linux/if_packet.h` (`tpacket2_hdr`), `Documentation/networking/packet_mmap.rst`.

use std::sync::atomic::{AtomicU32, Ordering};

use vmbus::memory::{HeapMemory, SharedMemoryExt};

/// Bytes of a block, which the kernel allocates in one piece if it can. It holds a whole number of pages.
const BLOCK: usize = 1 << 20;
/// Bytes of the header of a slot.
pub(super) const HEADER: usize = 32;
/// Slots start at multiples of it (`TPACKET_ALIGNMENT`).
const ALIGNMENT: usize = 16;

/// `TP_STATUS_KERNEL`, `TP_STATUS_AVAILABLE`: of a receive slot, that the kernel may fill it; of a send slot, that we may.
pub(super) const IDLE: u32 = 0;

/// How a ring is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    slot: usize,
    in_block: usize,
    blocks: usize,
}

impl Layout {
    /// At least `slots` slots that hold `bytes` each, the header included; `None` if there is no such ring.
    pub(super) fn new(slots: usize, bytes: usize) -> Option<Self> {
        let slot = bytes.checked_next_multiple_of(ALIGNMENT)?;
        let in_block = BLOCK.checked_div(slot).filter(|&slots| slots > 0)?;
        let blocks = slots.max(1).div_ceil(in_block);
        // The kernel counts in 32 bits, of which some have a sign.
        i32::try_from(blocks.checked_mul(BLOCK)?).ok()?;
        Some(Self { slot, in_block, blocks })
    }

    /// Slots of the ring.
    pub(super) fn slots(self) -> usize {
        self.in_block * self.blocks
    }

    /// Bytes of the ring.
    pub(super) fn bytes(self) -> usize {
        self.blocks * BLOCK
    }

    /// `tpacket_req`. All of it is less than 2³¹.
    pub(super) fn request(self) -> [u32; 4] {
        [BLOCK, self.blocks, self.slot, self.slots()].map(|value| value as u32)
    }
}

/// The slots of a ring.
#[derive(Debug)]
pub(super) struct Slots {
    memory: HeapMemory,
    /// Where each starts.
    offsets: Box<[usize]>,
    slot: usize,
}

impl Slots {
    /// Those of a ring that starts at `start` of `memory`; `None` if it does not fit.
    pub(super) fn new(memory: &HeapMemory, start: usize, layout: Layout) -> Option<Self> {
        memory.check(start, layout.bytes()).ok().filter(|()| start.is_multiple_of(ALIGNMENT))?;
        let offsets = (0..layout.slots())
            .map(|index| start + index / layout.in_block * BLOCK + index % layout.in_block * layout.slot)
            .collect();
        Some(Self { memory: memory.clone(), offsets, slot: layout.slot })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes of each.
    pub(super) fn slot_bytes(&self) -> usize {
        self.slot
    }

    /// The one behind `index`.
    #[inline]
    pub(super) fn after(&self, index: usize) -> usize {
        if index + 1 == self.offsets.len() { 0 } else { index + 1 }
    }

    /// Who owns a slot, and what is in it. What the kernel wrote before is seen after.
    #[inline]
    pub(super) fn status(&self, index: usize) -> u32 {
        self.status_word(index).load(Ordering::Acquire)
    }

    /// Gives a slot over. The kernel sees what was written before.
    #[inline]
    pub(super) fn set_status(&self, index: usize, status: u32) {
        self.status_word(index).store(status, Ordering::Release);
    }

    #[inline]
    fn status_word(&self, index: usize) -> &AtomicU32 {
        self.memory.word32(self.offsets[index]).expect("slots lie inside of the mapping, at multiples of 16")
    }

    /// The header.
    #[inline]
    pub(super) fn header(&self, index: usize) -> Header {
        let mut bytes = [0; HEADER];
        // Inside of the slot.
        let _ = self.memory.read(self.offsets[index], &mut bytes);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Header {
            len: word(4) as usize,
            present: word(8) as usize,
            offset: usize::from(half(12)),
            tci: half(24),
            tpid: half(26),
        }
    }

    /// Writes the length.
    #[inline]
    pub(super) fn set_len(&self, index: usize, len: u32) {
        // Inside of the slot.
        let _ = self.memory.write(self.offsets[index] + 4, &len.to_ne_bytes());
    }

    /// Copies out of a slot; false if it has not so many bytes there.
    #[inline]
    pub(super) fn read(&self, index: usize, at: usize, into: &mut [u8]) -> bool {
        at.saturating_add(into.len()) <= self.slot && self.memory.read(self.offsets[index] + at, into).is_ok()
    }

    /// One byte of a slot.
    #[inline]
    pub(super) fn byte(&self, index: usize, at: usize) -> Option<u8> {
        let mut byte = [0];
        self.read(index, at, &mut byte).then_some(byte[0])
    }

    /// Copies into a slot; false if it has not so many bytes there.
    #[inline]
    pub(super) fn write(&self, index: usize, at: usize, from: &[u8]) -> bool {
        at.saturating_add(from.len()) <= self.slot && self.memory.write(self.offsets[index] + at, from).is_ok()
    }

    /// Brings the start of a slot nearer.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        self.memory.prefetch(self.offsets[index], 1);
    }
}

/// What a receive slot's header says, apart from its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the frame.
    pub(super) len: usize,
    /// Bytes of it that are in the slot.
    pub(super) present: usize,
    /// Where it starts.
    pub(super) offset: usize,
    /// The tag that was taken out of it.
    pub(super) tci: u16,
    /// That tag's protocol.
    pub(super) tpid: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_do_not_cross_blocks() {
        let layout = Layout::new(40, 69_000).unwrap();
        assert_eq!((layout.slot % ALIGNMENT, layout.in_block), (0, 15));
        assert_eq!(layout.request(), [1 << 20, 3, 69_008, 45]);
        let memory = HeapMemory::zeroed(layout.bytes());
        let slots = Slots::new(&memory, 0, layout).unwrap();
        assert_eq!(slots.len(), 45);
        for pair in slots.offsets.windows(2) {
            assert!(pair[1] >= pair[0] + layout.slot);
        }
        assert!(slots.offsets.iter().all(|offset| offset / BLOCK == (offset + layout.slot - 1) / BLOCK));
        assert_eq!(slots.after(44), 0);
        assert!(Slots::new(&memory, ALIGNMENT, layout).is_none());
    }

    #[test]
    fn impossible_rings_are_refused() {
        assert_eq!(Layout::new(1, BLOCK + 1), None);
        assert_eq!(Layout::new(1, usize::MAX), None);
        assert_eq!(Layout::new(usize::MAX / 2, 2048), None);
        assert_eq!(Layout::new(0, 2048).unwrap().slots(), 512);
    }

    #[test]
    fn copies_stay_inside_of_a_slot() {
        let layout = Layout::new(1, 2048).unwrap();
        let memory = HeapMemory::zeroed(layout.bytes());
        let slots = Slots::new(&memory, 0, layout).unwrap();
        assert!(slots.write(1, 2040, &[7; 8]));
        assert!(!slots.write(1, 2041, &[7; 8]));
        let mut bytes = [0; 8];
        assert!(slots.read(1, 2040, &mut bytes));
        assert_eq!(bytes, [7; 8]);
        assert!(!slots.read(1, usize::MAX, &mut bytes));
    }
}
