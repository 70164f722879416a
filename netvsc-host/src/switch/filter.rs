//! Which frames a NIC port gets: the meaning of the packet filter.
//!
//! Source: the NDIS packet filter OID `0x0001_010E`; bits as in Linux `include/linux/rndis.h`.

use rndis::value::{MacAddress, PacketFilter};

use super::ethernet::BROADCAST;

/// Whether a NIC with the address `own` and this filter receives a frame to `destination`.
///
/// The switch holds no multicast list, so [`PacketFilter::MULTICAST`] alone selects nothing; guests of Hyper-V set
/// [`PacketFilter::ALL_MULTICAST`]. Bits that have no meaning on Ethernet select nothing.
pub(super) fn accepts(filter: PacketFilter, own: MacAddress, destination: MacAddress) -> bool {
    let wanted = if destination == BROADCAST {
        PacketFilter::BROADCAST
    } else if destination.is_multicast() {
        PacketFilter::ALL_MULTICAST
    } else if destination == own {
        PacketFilter::DIRECTED
    } else {
        PacketFilter::PROMISCUOUS
    };
    filter.contains(wanted) || filter.contains(PacketFilter::PROMISCUOUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const GROUP: MacAddress = MacAddress([0x33, 0x33, 0, 0, 0, 1]);

    fn accepted(filter: PacketFilter) -> [bool; 4] {
        [OWN, OTHER, GROUP, BROADCAST].map(|destination| accepts(filter, OWN, destination))
    }

    #[test]
    fn each_bit_selects_its_frames() {
        assert_eq!(accepted(PacketFilter::CLOSED), [false, false, false, false]);
        assert_eq!(accepted(PacketFilter::DIRECTED), [true, false, false, false]);
        assert_eq!(accepted(PacketFilter::MULTICAST), [false, false, false, false]);
        assert_eq!(accepted(PacketFilter::ALL_MULTICAST), [false, false, true, false]);
        assert_eq!(accepted(PacketFilter::BROADCAST), [false, false, false, true]);
        assert_eq!(accepted(PacketFilter::PROMISCUOUS), [true, true, true, true]);
        assert_eq!(accepted(PacketFilter::OPEN), [true, false, true, true]);
    }

    #[test]
    fn bits_without_meaning_on_ethernet_select_nothing() {
        assert_eq!(accepted(PacketFilter(0xffff_ffd0)), [false, false, false, false]);
    }
}
