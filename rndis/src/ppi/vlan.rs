//! 802.1Q tag, which travels beside the frame and never inside it.

use core::fmt;

/// An 802.1Q tag, as tag control information (TCI): priority in bits 13–15, DEI in bit 12, id in bits 0–11.
///
/// The word on the wire has another order: priority in bits 0–2, DEI in bit 3, id in bits 4–15.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Vlan(u16);

impl Vlan {
    /// From tag control information in host byte order.
    #[must_use]
    #[inline]
    pub const fn from_tci(tci: u16) -> Self {
        Self(tci)
    }

    /// From its parts; `id` keeps its low 12 bits, `priority` its low 3.
    #[must_use]
    #[inline]
    pub const fn new(id: u16, priority: u8, dei: bool) -> Self {
        Self((priority as u16 & 7) << 13 | (dei as u16) << 12 | id & 0xFFF)
    }

    /// From the word on the wire; bits 16–31 mean nothing.
    #[must_use]
    #[inline]
    pub const fn from_wire(word: u32) -> Self {
        Self::new((word >> 4) as u16, word as u8, word & 8 != 0)
    }

    /// The word on the wire.
    #[must_use]
    #[inline]
    pub const fn to_wire(self) -> u32 {
        self.priority() as u32 | (self.dei() as u32) << 3 | (self.id() as u32) << 4
    }

    /// Tag control information in host byte order.
    #[must_use]
    #[inline]
    pub const fn tci(self) -> u16 {
        self.0
    }

    /// VLAN id, 0 to 4095; 0 means a priority tag.
    #[must_use]
    #[inline]
    pub const fn id(self) -> u16 {
        self.0 & 0xFFF
    }

    /// Priority, 0 to 7.
    #[must_use]
    #[inline]
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// Drop eligible indicator (formerly CFI).
    #[must_use]
    #[inline]
    pub const fn dei(self) -> bool {
        self.0 & 0x1000 != 0
    }
}

impl fmt::Debug for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vlan")
            .field("id", &self.id())
            .field("priority", &self.priority())
            .field("dei", &self.dei())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_order_is_not_tci_order() {
        let vlan = Vlan::new(100, 5, true);
        assert_eq!((vlan.tci(), vlan.to_wire()), (0xB064, 0x064D));
        assert_eq!(Vlan::from_wire(0xFFFF_064D), vlan);
    }

    #[test]
    fn all_tags_survive_the_wire() {
        for tci in 0..=u16::MAX {
            assert_eq!(Vlan::from_wire(Vlan::from_tci(tci).to_wire()).tci(), tci);
        }
    }
}
