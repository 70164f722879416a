//! The Ethernet header, and what its addresses say.

use rndis::value::MacAddress;

/// Destination, source and type.
pub(super) const ETHERNET_HEADER_BYTES: usize = 14;

/// The address of all stations.
pub(super) const BROADCAST: MacAddress = MacAddress([0xff; 6]);

/// Whether the address may name one station: not a group, not all zero.
pub(super) fn is_station(mac: MacAddress) -> bool {
    !mac.is_multicast() && mac.0 != [0; 6]
}

/// Destination and source of a frame; `None` if it is too short to have them and a type.
pub(super) fn addresses(frame: &[u8]) -> Option<(MacAddress, MacAddress)> {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, _, _] = *frame.first_chunk::<ETHERNET_HEADER_BYTES>()?;
    Some((MacAddress([d0, d1, d2, d3, d4, d5]), MacAddress([s0, s1, s2, s3, s4, s5])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_addresses_once_its_header_is_whole() {
        let frame = b"\x02ddddd\x02sssss\x08\x00";
        assert_eq!(addresses(frame), Some((MacAddress(*b"\x02ddddd"), MacAddress(*b"\x02sssss"))));
        for len in 0..frame.len() {
            assert_eq!(addresses(&frame[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        assert!(is_station(MacAddress([0, 0, 0, 0, 0, 1])));
        for mac in [MacAddress::default(), MacAddress([1, 0, 0, 0, 0, 0]), BROADCAST] {
            assert!(!is_station(mac), "{mac}");
        }
    }
}
