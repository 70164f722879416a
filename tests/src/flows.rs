//! Flows of TCP and UDP over both versions of IP: frames of theirs, and the Toeplitz hash as its definition reads.
//!
//! None of this is shared with the driver or the simulated host, so that a misreading cannot hide by being made twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netvsc_async::HashProtocol;
use rand::Rng;

/// The numbers by which IP knows its transport protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Whether it is TCP, else UDP.
    pub tcp: bool,
    /// Port of the source.
    pub source_port: u16,
    /// Port of the destination.
    pub destination_port: u16,
}

impl Flow {
    /// A flow of `protocol` between the first addresses that are set aside for documentation, from port `port` to 443.
    #[must_use]
    pub fn numbered(protocol: HashProtocol, port: u16) -> Self {
        let (source, destination) = match protocol {
            HashProtocol::Tcp4 | HashProtocol::Udp4 => {
                (Ipv4Addr::new(198, 51, 100, 1).into(), Ipv4Addr::new(203, 0, 113, 7).into())
            }
            HashProtocol::Tcp6 | HashProtocol::Udp6 => (
                Ipv6Addr::new(0x2001, 0xDB8, 0, 1, 0, 0, 0, 1).into(),
                Ipv6Addr::new(0x2001, 0xDB8, 0, 2, 0, 0, 0, 7).into(),
            ),
        };
        let tcp = matches!(protocol, HashProtocol::Tcp4 | HashProtocol::Tcp6);
        Self { source, destination, tcp, source_port: port, destination_port: 443 }
    }

    /// Any flow: any protocol, addresses and ports.
    pub fn random(rng: &mut impl Rng) -> Self {
        let address = |rng: &mut dyn rand::RngCore, six: bool| -> IpAddr {
            if six {
                Ipv6Addr::from(0x2001_0DB8 << 96 | rng.random::<u128>() >> 32).into()
            } else {
                Ipv4Addr::new(198, rng.random_range(18..20), rng.random(), rng.random()).into()
            }
        };
        let six = rng.random();
        Self {
            source: address(rng, six),
            destination: address(rng, six),
            tcp: rng.random(),
            source_port: rng.random(),
            destination_port: rng.random(),
        }
    }

    /// What the hash is computed of: addresses and, if so wished, ports.
    #[must_use]
    pub fn hash_input(&self, ports: bool) -> Vec<u8> {
        let mut input = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => input.extend(address.octets()),
                IpAddr::V6(address) => input.extend(address.octets()),
            }
        }
        if ports {
            input.extend(self.source_port.to_be_bytes());
            input.extend(self.destination_port.to_be_bytes());
        }
        input
    }

    /// A frame of the flow with `payload`, whole.
    #[must_use]
    pub fn frame(&self, to: [u8; 6], from: [u8; 6], payload: &[u8]) -> Vec<u8> {
        self.ip(to, from, &self.segment(payload), None)
    }

    /// A datagram with `payload` in two fragments, of which only the first has ports.
    #[must_use]
    pub fn fragments(&self, to: [u8; 6], from: [u8; 6], payload: &[u8]) -> [Vec<u8>; 2] {
        let segment = self.segment(payload);
        // Fragments begin at multiples of 8 bytes.
        let cut = segment.len() / 2 / 8 * 8;
        let first = Fragment { offset8: 0, more: true };
        let second = Fragment { offset8: (cut / 8) as u16, more: false };
        [self.ip(to, from, &segment[..cut], Some(first)), self.ip(to, from, &segment[cut..], Some(second))]
    }

    fn segment(&self, payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        if self.tcp {
            // Sequence, acknowledgment, length and ACK, window, checksum, urgent.
            segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0]);
        } else {
            segment.extend((8 + payload.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
        }
        segment.extend(payload);
        let sum = self.transport_sum(&segment);
        let at = if self.tcp { 16 } else { 6 };
        // UDP sends 0 as its other form (RFC 768).
        let sum = if sum == 0 && !self.tcp { 0xFFFF } else { sum };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    fn transport_sum(&self, segment: &[u8]) -> u16 {
        let mut pseudo = self.hash_input(false);
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        pseudo.extend(segment);
        internet_checksum(&pseudo)
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    fn ip(&self, to: [u8; 6], from: [u8; 6], content: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(to);
        frame.extend(from);
        match self.source {
            IpAddr::V4(_) => {
                frame.extend([0x08, 0, 0x45, 0]);
                frame.extend((20 + content.len() as u16).to_be_bytes());
                frame.extend([0x12, 0x34]);
                let flags = fragment.map_or(0, |fragment| fragment.offset8 | u16::from(fragment.more) << 13);
                frame.extend(flags.to_be_bytes());
                frame.extend([64, self.protocol(), 0, 0]);
                frame.extend(self.hash_input(false));
                let sum = internet_checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(_) => {
                frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
                let extension = if fragment.is_some() { 8 } else { 0 };
                frame.extend((content.len() as u16 + extension).to_be_bytes());
                frame.extend([fragment.map_or(self.protocol(), |_| FRAGMENT), 64]);
                frame.extend(self.hash_input(false));
                if let Some(fragment) = fragment {
                    frame.extend([self.protocol(), 0]);
                    frame.extend((fragment.offset8 << 3 | u16::from(fragment.more)).to_be_bytes());
                    frame.extend([0, 0, 0x12, 0x34]);
                }
            }
        }
        frame.extend(content);
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

#[derive(Debug, Clone, Copy)]
struct Fragment {
    offset8: u16,
    more: bool,
}

/// The Internet checksum (RFC 1071), as it reads.
#[must_use]
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// The Toeplitz hash, as it reads: for each bit of the input that is set, the 32 bits of the key that begin there.
#[must_use]
pub fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0, |word: u32, next| word << 1 | u32::from(bit(key, at + next)));
    (0..input.len() * 8).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_right_checksums() {
        for protocol in HashProtocol::ALL {
            let flow = Flow::numbered(protocol, 1000);
            let frame = flow.frame([2; 6], [4; 6], b"seven..");
            let headers = if matches!(protocol, HashProtocol::Tcp4 | HashProtocol::Udp4) { 34 } else { 54 };
            let segment = &frame[headers..headers + if flow.tcp { 27 } else { 15 }];
            assert_eq!(flow.transport_sum(segment), 0, "{protocol}");
        }
    }

    #[test]
    fn fragments_hold_the_datagram() {
        let flow = Flow::numbered(HashProtocol::Udp4, 1000);
        let payload = [7; 1000];
        let whole = flow.segment(&payload);
        let [first, second] = flow.fragments([2; 6], [4; 6], &payload);
        assert_eq!([&first[34..], &second[34..]].concat(), whole);
        assert_eq!((first[20] & 0x20, second[20] & 0x20), (0x20, 0));
    }
}
