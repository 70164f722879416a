//! Which frames a NIC port wants: the NDIS packet filter.

use core::ops::{BitOr, BitOrAssign};

use super::mac::MacAddr;

/// A packet filter, bits as in `OID_GEN_CURRENT_PACKET_FILTER`; 0 receives nothing.
///
/// Source: [MS-RNDIS] 2.2.10 with the NDIS OID `0x0001_010E`; Linux `include/linux/rndis.h`, `NDIS_PACKET_TYPE_*`. Bits
/// that are not named here are kept and select nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReceiveFilter(pub u32);

impl ReceiveFilter {
    /// Nothing is delivered.
    pub const NONE: Self = Self(0);
    /// Frames to the NIC's own address.
    pub const DIRECTED: Self = Self(0x01);
    /// Frames to the group addresses of the NIC's multicast list. The switch holds no such list, so this alone
    /// selects nothing; guests on Hyper-V ask for [`ALL_MULTICAST`](Self::ALL_MULTICAST).
    pub const MULTICAST: Self = Self(0x02);
    /// Frames to any group address but broadcast.
    pub const ALL_MULTICAST: Self = Self(0x04);
    /// Frames to `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self(0x08);
    /// Every frame that the switch sends towards the port, whatever its address.
    pub const PROMISCUOUS: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a NIC with the address `own` receives a frame to `destination`.
    pub fn accepts(self, own: MacAddr, destination: MacAddr) -> bool {
        let wanted = if destination.is_broadcast() {
            Self::BROADCAST
        } else if destination.is_group() {
            Self::ALL_MULTICAST
        } else if destination == own {
            Self::DIRECTED
        } else {
            Self::PROMISCUOUS
        };
        self.contains(wanted) || self.contains(Self::PROMISCUOUS)
    }
}

impl BitOr for ReceiveFilter {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ReceiveFilter {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

    fn accepted(filter: ReceiveFilter) -> [bool; 4] {
        [OWN, OTHER, GROUP, MacAddr::BROADCAST].map(|destination| filter.accepts(OWN, destination))
    }

    #[test]
    fn each_bit_selects_its_frames() {
        assert_eq!(accepted(ReceiveFilter::NONE), [false, false, false, false]);
        assert_eq!(
            accepted(ReceiveFilter::DIRECTED),
            [true, false, false, false]
        );
        assert_eq!(
            accepted(ReceiveFilter::MULTICAST),
            [false, false, false, false]
        );
        assert_eq!(
            accepted(ReceiveFilter::ALL_MULTICAST),
            [false, false, true, false]
        );
        assert_eq!(
            accepted(ReceiveFilter::BROADCAST),
            [false, false, false, true]
        );
        assert_eq!(
            accepted(ReceiveFilter::PROMISCUOUS),
            [true, true, true, true]
        );
    }

    #[test]
    fn unnamed_bits_select_nothing() {
        assert_eq!(
            accepted(ReceiveFilter(0xffff_f0d0)),
            [false, false, false, false]
        );
    }
}
