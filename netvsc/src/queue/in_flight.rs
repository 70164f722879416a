//! What was sent and is not completed: the owner of every lent section and page, found by transaction id.
//!
//! An id is `generation << 32 | index + 1`. The host's word is never an address: an id that is not outstanding, be it stale,
//! foreign, or completed twice, finds nothing. Ids are never 0, which hosts may take for "unsolicited".

use alloc::vec::Vec;

use vmbus::packet::TransactionId;

use super::control::ControlToken;

/// What the host borrowed for one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lent {
    /// Nothing: the message was in the ring.
    Nothing,
    /// A section of the send buffer.
    Section(u32),
    /// A chain of pages of the direct memory.
    Pages(super::pages::Chain),
}

/// What a send carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    /// Frames: how many, and their bytes.
    Frames { frames: u32, bytes: u32 },
    /// A control message.
    Control(ControlToken),
}

/// A send that is outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) lent: Lent,
    pub(super) cargo: Cargo,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    generation: u32,
    sent: Option<Sent>,
}

/// The table. Its slots are made when buffers are attached; sending and completing do not allocate.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: Vec<Slot>,
    /// Indices of free slots; the last freed is used next, while its cache line is warm.
    free: Vec<u32>,
    /// Control messages among what is outstanding.
    controls: usize,
}

impl InFlight {
    /// Makes `count` more slots.
    pub(super) fn grow(&mut self, count: usize) {
        let first = self.slots.len();
        // Indices, and index + 1, have 32 bits.
        let last = first.saturating_add(count).min(u32::MAX as usize);
        self.slots.resize(last, Slot { generation: 0, sent: None });
        self.free.reserve_exact(self.slots.len() - self.free.len());
        self.free.extend((first as u32..last as u32).rev());
    }

    /// Whether a send can be added.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Sends that are outstanding.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sends that are outstanding and carry frames.
    #[inline]
    pub(super) fn with_frames(&self) -> usize {
        self.len() - self.controls
    }

    /// Adds a send; `None` if there is no slot.
    #[inline]
    pub(super) fn insert(&mut self, sent: Sent) -> Option<TransactionId> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        slot.sent = Some(sent);
        self.controls += usize::from(matches!(sent.cargo, Cargo::Control(_)));
        Some(TransactionId(u64::from(slot.generation) << 32 | u64::from(index + 1)))
    }

    /// Changes a send that the host does not know of yet.
    #[inline]
    pub(super) fn update(&mut self, id: TransactionId, cargo: Cargo) {
        if let Some(sent) = self.slot(id).and_then(|slot| slot.sent.as_mut()) {
            sent.cargo = cargo;
        }
    }

    /// Takes a send out; `None` if `id` is not outstanding.
    #[inline]
    pub(super) fn remove(&mut self, id: TransactionId) -> Option<Sent> {
        let slot = self.slot(id)?;
        let sent = slot.sent.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.controls -= usize::from(matches!(sent.cargo, Cargo::Control(_)));
        // In bounds, or `slot` had found nothing.
        self.free.push(id.0 as u32 - 1);
        Some(sent)
    }

    /// Takes any send out; `None` once there are none.
    pub(super) fn remove_any(&mut self) -> Option<Sent> {
        let (index, slot) = self.slots.iter().enumerate().find(|(_, slot)| slot.sent.is_some())?;
        self.remove(TransactionId(u64::from(slot.generation) << 32 | (index as u64 + 1)))
    }

    #[inline]
    fn slot(&mut self, id: TransactionId) -> Option<&mut Slot> {
        let index = (id.0 as u32).checked_sub(1)?;
        let slot = self.slots.get_mut(index as usize)?;
        (slot.generation == (id.0 >> 32) as u32).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Sent = Sent { lent: Lent::Section(3), cargo: Cargo::Frames { frames: 1, bytes: 60 } };

    #[test]
    fn only_outstanding_ids_find_something_and_only_once() {
        let mut table = InFlight::default();
        table.grow(2);
        let a = table.insert(SENT).unwrap();
        let b = table.insert(SENT).unwrap();
        assert!(table.insert(SENT).is_none() && !table.has_room());
        assert!(a != b && a.0 != 0 && b.0 != 0);
        assert_eq!(table.remove(a), Some(SENT));
        assert_eq!(table.remove(a), None, "a second time");
        let c = table.insert(SENT).unwrap();
        assert_ne!(c, a, "the slot is the same, the id is not");
        for foreign in [0, 3, u64::MAX, u64::MAX - 2, a.0, 0xFFFF_FFFF, 1 << 63, b.0 | 1 << 40] {
            assert_eq!(table.remove(TransactionId(foreign)), None, "{foreign:#x}");
        }
        assert_eq!(table.len(), 2);
        assert!(table.remove(b).is_some() && table.remove(c).is_some());
        assert_eq!(table.len(), 0);
    }
}
