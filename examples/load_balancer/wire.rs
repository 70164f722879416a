//! The little that a balancer says itself: ARP (RFC 826), neighbour discovery (RFC 4861), answers to pings (RFC 792,
//! RFC 4443). And what ICMP errors are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netvsc::checksum::{self, Sum};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const BROADCAST: Mac = [0xFF; 6];
const ETHERNET: usize = 14;
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xDD];
/// Ethernet and IPv4, request and reply: the fixed part in front of the operation.
const ARP_FIXED: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Neighbour discovery is never forwarded: who sees another hop limit was fooled.
const HOP_LIMIT: u8 = 255;
/// Smallest Ethernet frame, without its check sequence.
const SHORTEST: usize = 60;

/// What neighbours say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// "Who has `target`? Tell `source`, who is at `mac`." The source is `None` in a probe for duplicate addresses.
    Asks {
        /// Whose MAC address is asked for.
        target: IpAddr,
        /// Who asks.
        source: Option<IpAddr>,
        /// Where the answer goes.
        mac: Mac,
    },
    /// "`address` is at `mac`."
    Tells {
        /// Who.
        address: IpAddr,
        /// Where.
        mac: Mac,
    },
}

impl Neighbour {
    /// Reads a frame of ARP or neighbour discovery.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        match *frame.get(12..ETHERNET)?.first_chunk()? {
            TYPE_ARP => Self::parse_arp(frame.get(ETHERNET..)?.first_chunk()?),
            TYPE_IPV6 => Self::parse_discovery(frame),
            _ => None,
        }
    }

    fn parse_arp(arp: &[u8; 28]) -> Option<Self> {
        let [.., 0, operation] = arp[..8] else { return None };
        let mac = *arp[8..].first_chunk()?;
        let address = |at: usize| Some(Ipv4Addr::from(*arp[at..].first_chunk::<4>()?));
        let (source, target) = (address(14)?, address(24)?);
        match operation {
            _ if arp[..6] != ARP_FIXED => None,
            ARP_REQUEST => {
                let source = (!source.is_unspecified()).then_some(source.into());
                Some(Self::Asks { target: target.into(), source, mac })
            }
            ARP_REPLY => Some(Self::Tells { address: source.into(), mac }),
            _ => None,
        }
    }

    fn parse_discovery(frame: &[u8]) -> Option<Self> {
        let mac = *frame[6..].first_chunk()?;
        let header: &[u8; 40] = frame.get(ETHERNET..)?.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let message = frame.get(ETHERNET + 40..)?.get(..len)?;
        let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
        let (kind, target) = (*message.first()?, Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?));
        if header[6] != ICMPV6 || header[7] != HOP_LIMIT || icmpv6_checksum(&header[8..], message) != 0 {
            return None;
        }
        match kind {
            SOLICITATION => {
                let source = (!source.is_unspecified()).then_some(source.into());
                let mac = option(message, SOURCE_LINK_ADDRESS).unwrap_or(mac);
                Some(Self::Asks { target: target.into(), source, mac })
            }
            ADVERTISEMENT => {
                let mac = option(message, TARGET_LINK_ADDRESS).unwrap_or(mac);
                Some(Self::Tells { address: target.into(), mac })
            }
            _ => None,
        }
    }
}

/// The MAC address in an option of neighbour discovery.
fn option(message: &[u8], kind: u8) -> Option<Mac> {
    let mut rest = message.get(24..)?;
    while let [found, units, ..] = *rest {
        // An option of no length would never end.
        if units == 0 {
            return None;
        }
        if found == kind {
            return rest.get(2..)?.first_chunk().copied();
        }
        rest = rest.get(usize::from(units) * 8..)?;
    }
    None
}

/// "Who has `target`?", from the station `mac` with the address `source`, to everybody, or to all who might.
pub(crate) fn question(mac: Mac, source: IpAddr, target: IpAddr) -> Option<Vec<u8>> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => Some(arp(BROADCAST, ARP_REQUEST, (mac, source), ([0; 6], target))),
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            // The multicast group of all addresses with the same last three bytes.
            let [.., a, b, c] = target.octets();
            let group = Ipv6Addr::from([0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, a, b, c]);
            let to = [0x33, 0x33, 0xFF, a, b, c];
            Some(discovery(to, mac, source, group, [SOLICITATION, 0], target, SOURCE_LINK_ADDRESS))
        }
        _ => None,
    }
}

/// "`address` is at `mac`", to the station `to`, or to everybody if it did not say who it is.
pub(crate) fn answer(mac: Mac, address: IpAddr, to: Mac, asked_by: Option<IpAddr>) -> Option<Vec<u8>> {
    match (address, asked_by) {
        (IpAddr::V4(address), Some(IpAddr::V4(by))) => Some(arp(to, ARP_REPLY, (mac, address), (to, by))),
        (IpAddr::V4(address), None) => Some(arp(to, ARP_REPLY, (mac, address), (to, Ipv4Addr::UNSPECIFIED))),
        (IpAddr::V6(address), Some(IpAddr::V6(by))) => {
            // Solicited, overrides what was known.
            Some(discovery(to, mac, address, by, [ADVERTISEMENT, 0x60], address, TARGET_LINK_ADDRESS))
        }
        (IpAddr::V6(address), None) => {
            let all_nodes = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
            let to = [0x33, 0x33, 0, 0, 0, 1];
            Some(discovery(to, mac, address, all_nodes, [ADVERTISEMENT, 0x20], address, TARGET_LINK_ADDRESS))
        }
        _ => None,
    }
}

fn arp(to: Mac, operation: u8, source: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST);
    frame.extend(to);
    frame.extend(source.0);
    frame.extend(TYPE_ARP);
    frame.extend(ARP_FIXED);
    frame.extend([0, operation]);
    frame.extend(source.0);
    frame.extend(source.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    frame.resize(SHORTEST, 0);
    frame
}

fn discovery(
    to: Mac,
    mac: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    [kind, flags]: [u8; 2],
    target: Ipv6Addr,
    option: u8,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
    message.extend(target.octets());
    message.extend([option, 1]);
    message.extend(mac);
    let addresses = [source.octets(), destination.octets()].concat();
    let sum = icmpv6_checksum(&addresses, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(ETHERNET + 40 + 32);
    frame.extend(to);
    frame.extend(mac);
    frame.extend(TYPE_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, HOP_LIMIT]);
    frame.extend(addresses);
    frame.extend(message);
    frame
}

/// The checksum over pseudo header and message; 0 if the message has it in it and it is right.
fn icmpv6_checksum(addresses: &[u8], message: &[u8]) -> u16 {
    let pseudo = Sum::of(addresses) + Sum::of_double_word(message.len() as u32) + Sum::of_word(u16::from(ICMPV6));
    (pseudo + Sum::of(message)).checksum()
}

/// Makes a ping's answer of it, in place: addresses change places, which no checksum notices, and the type changes, which the
/// checksum follows (RFC 1624). False if it is no ping.
pub(crate) fn answer_ping(frame: &mut [u8], protocol: u8, network: usize, transport: usize) -> bool {
    let (asks, tells, address_at, len) = match protocol {
        ICMP => (8, 0, 12, 4),
        ICMPV6 => (128, 129, 8, 16),
        _ => return false,
    };
    let Some(&[kind, code, high, low]) = frame.get(transport..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    if (kind, code) != (asks, 0) || frame.len() < network + address_at + 2 * len {
        return false;
    }
    let sum = checksum::replace(u16::from_be_bytes([high, low]), Sum::of(&[asks, 0]), Sum::of(&[tells, 0]));
    frame[transport] = tells;
    frame[transport + 2..transport + 4].copy_from_slice(&sum.to_be_bytes());
    let (source, destination) = frame[network + address_at..network + address_at + 2 * len].split_at_mut(len);
    source.swap_with_slice(destination);
    let (to, from) = frame[..12].split_at_mut(6);
    to.swap_with_slice(from);
    true
}

/// What an ICMP error is about: the packet that it quotes, seen from the other end. Its addresses in network order, changed
/// round, and its ports likewise if it has any.
pub(crate) fn quoted(protocol: u8, message: &[u8]) -> Option<(Vec<u8>, Option<[u8; 4]>)> {
    let is_error = match protocol {
        // Unreachable (among them "fragmentation needed"), time exceeded, parameter problem.
        ICMP => matches!(message.first()?, 3 | 11 | 12),
        ICMPV6 => matches!(message.first()?, 1..=4),
        _ => false,
    };
    let packet = message.get(8..).filter(|_| is_error)?;
    let (addresses, next, rest) = match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let later = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
            let rest = packet.get(usize::from(header[0] & 0xF) * 4..).filter(|_| !later);
            (&header[12..20], header[9], rest)
        }
        6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            (&packet[8..40], header[6], packet.get(40..))
        }
        _ => return None,
    };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let turned = [destination, source].concat();
    let ports = rest.and_then(|rest| rest.first_chunk::<4>()).filter(|_| matches!(next, 6 | 17));
    Some((turned, ports.map(|[a, b, c, d]| [*c, *d, *a, *b])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const OTHER: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn questions_and_answers_read_back() {
        for (one, other) in [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
            let [one, other]: [IpAddr; 2] = [one, other].map(|text| text.parse().unwrap());
            let frame = question(MAC, one, other).unwrap();
            assert_eq!(Neighbour::parse(&frame), Some(Neighbour::Asks { target: other, source: Some(one), mac: MAC }));
            for asked_by in [Some(one), None] {
                let frame = answer(OTHER, other, MAC, asked_by).unwrap();
                assert_eq!(Neighbour::parse(&frame), Some(Neighbour::Tells { address: other, mac: OTHER }));
            }
            for len in 0..frame.len().min(42) {
                assert_eq!(Neighbour::parse(&frame[..len]), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn a_damaged_advertisement_is_not_believed() {
        let address = "2001:db8::2".parse().unwrap();
        let good = answer(OTHER, address, MAC, Some("2001:db8::1".parse().unwrap())).unwrap();
        for at in 54..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Neighbour::parse(&bad), None, "byte {at}");
        }
        let mut routed = good;
        routed[21] = 64;
        assert_eq!(Neighbour::parse(&routed), None);
    }

    #[test]
    fn a_pings_checksum_stays_right() {
        let mut frame = vec![0; 64];
        frame[..6].fill(1);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[26..34].copy_from_slice(&[198, 51, 100, 1, 198, 51, 100, 80]);
        frame[34] = 8;
        frame[38..].fill(0x5A);
        let sum = Sum::of(&frame[34..]).checksum();
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        assert!(answer_ping(&mut frame, ICMP, 14, 34));
        assert!(Sum::of(&frame[34..]).is_right());
        assert_eq!((frame[26..34].to_vec(), frame[34]), (vec![198, 51, 100, 80, 198, 51, 100, 1], 0));
        assert_eq!(frame[6..12], [1; 6]);
        assert!(!answer_ping(&mut frame, ICMP, 14, 34), "an answer is not answered");
    }
}
