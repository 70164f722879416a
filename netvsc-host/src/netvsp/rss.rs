//! Receive-side scaling: which queue a frame goes to.
//!
//! The guest says what is hashed, by which key, and which queue each of the table's entries means. Frames without
//! anything that it wants hashed go to the primary channel.
//!
//! Source: [MS-NDIS] receive side scaling ("RSS hashing types"): the Toeplitz hash over addresses, and ports where the
//! packet is no fragment.

use rndis::ppi::{HashInfo, IpVersion};

use crate::offload::headers::{Headers, TCP, UDP};

/// Longest input: two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;

/// Receive-side scaling as the guest set it.
#[derive(Debug, Clone)]
pub(crate) struct Rss {
    types: HashInfo,
    table: Vec<u32>,
    toeplitz: Toeplitz,
}

impl Rss {
    /// `table` is not empty.
    pub(crate) fn new(hash_info: HashInfo, key: &[u8], table: Vec<u32>) -> Self {
        Self { types: hash_info.types(), table, toeplitz: Toeplitz::new(key) }
    }

    /// The queue for a frame with this hash.
    pub(crate) fn queue(&self, hash: Option<FlowHash>) -> usize {
        let Some(hash) = hash else { return 0 };
        let queue = self.table.get(hash.value as usize % self.table.len().max(1));
        queue.map_or(0, |&queue| queue as usize)
    }

    /// The hash of a frame with these headers, and what it covers.
    pub(crate) fn hash(&self, frame: &[u8], headers: &Headers) -> Option<FlowHash> {
        let packet = frame.get(headers.network..)?;
        match headers.version {
            IpVersion::V4 => self.hash_v4(packet),
            IpVersion::V6 => self.hash_v6(packet),
        }
    }

    fn hash_v4(&self, packet: &[u8]) -> Option<FlowHash> {
        let fixed = packet.first_chunk::<20>()?;
        let addresses = &fixed[12..20];
        // More fragments, or not the first one: ports are not in each of them.
        let whole = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF == 0;
        let ports = packet.get(usize::from(fixed[0] & 0xF) * 4..).filter(|_| whole);
        let with_ports = self.wants_ports(fixed[9], HashInfo::TCP_IPV4, HashInfo::UDP_IPV4);
        self.hash_flow(addresses, ports, with_ports, HashInfo::IPV4)
    }

    fn hash_v6(&self, packet: &[u8]) -> Option<FlowHash> {
        let fixed = packet.first_chunk::<40>()?;
        // Extension headers are not followed: their packets are hashed by their addresses.
        let with_ports = self.wants_ports(fixed[6], HashInfo::TCP_IPV6, HashInfo::UDP_IPV6);
        self.hash_flow(&fixed[8..40], packet.get(40..), with_ports, HashInfo::IPV6)
    }

    /// The type that covers this protocol's ports, if the guest wants it.
    fn wants_ports(&self, protocol: u8, tcp: HashInfo, udp: HashInfo) -> Option<HashInfo> {
        let kind = match protocol {
            TCP => tcp,
            UDP => udp,
            _ => return None,
        };
        self.types.contains(kind).then_some(kind)
    }

    fn hash_flow(
        &self,
        addresses: &[u8],
        ports: Option<&[u8]>,
        with_ports: Option<HashInfo>,
        alone: HashInfo,
    ) -> Option<FlowHash> {
        let value = self.toeplitz.hash(0, addresses);
        match ports.and_then(|ports| ports.first_chunk::<4>()).zip(with_ports) {
            Some((ports, covers)) => {
                Some(FlowHash { value: value ^ self.toeplitz.hash(addresses.len(), ports), covers })
            }
            None => self.types.contains(alone).then_some(FlowHash { value, covers: alone }),
        }
    }
}

/// A frame's hash, and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowHash {
    pub(crate) value: u32,
    covers: HashInfo,
}

impl FlowHash {
    /// As the guest is told.
    pub(crate) fn info(self) -> HashInfo {
        self.covers | HashInfo::TOEPLITZ
    }
}

/// The Toeplitz hash for one key, with the work for each byte done beforehand.
#[derive(Clone)]
struct Toeplitz {
    /// By place in the input, by value.
    bytes: Box<[[u32; 256]; MAX_INPUT]>,
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

impl Toeplitz {
    /// A key that is too short goes on with zeros.
    fn new(key: &[u8]) -> Self {
        let byte = |at: usize| key.get(at).copied().unwrap_or(0);
        let mut bytes = Box::new([[0; 256]; MAX_INPUT]);
        for (at, values) in bytes.iter_mut().enumerate() {
            let window = u64::from_be_bytes(std::array::from_fn(|next| byte(at + next)));
            for (value, hash) in values.iter_mut().enumerate() {
                // Bit 7 of the byte selects the key's bits from the byte's place on, the next one those from one bit later.
                *hash = (0..8)
                    .filter(|bit| value & (0x80 >> bit) != 0)
                    .fold(0, |hash, bit| hash ^ (window << bit >> 32) as u32);
            }
        }
        Self { bytes }
    }

    /// The part of the hash that `input` makes at place `at`.
    fn hash(&self, at: usize, input: &[u8]) -> u32 {
        let places = self.bytes.iter().skip(at);
        places.zip(input).fold(0, |hash, (values, &byte)| hash ^ values[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// A TCP packet of the same page: 66.9.149.187:2794 to 161.142.100.80:1766.
    fn frame(protocol: u8, fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[17] = 40;
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[23] = protocol;
        frame[26..30].copy_from_slice(&[66, 9, 149, 187]);
        frame[30..34].copy_from_slice(&[161, 142, 100, 80]);
        frame[34..36].copy_from_slice(&2794_u16.to_be_bytes());
        frame[36..38].copy_from_slice(&1766_u16.to_be_bytes());
        frame
    }

    fn hash(rss: &Rss, frame: &[u8]) -> Option<u32> {
        rss.hash(frame, &Headers::parse(frame)?).map(|hash| hash.value)
    }

    fn rss(types: HashInfo) -> Rss {
        Rss::new(types, &KEY, (0..128).collect())
    }

    #[test]
    fn the_published_examples() {
        assert_eq!(hash(&rss(HashInfo::LINUX), &frame(TCP, 0)), Some(0x51cc_c178));
        assert_eq!(hash(&rss(HashInfo::IPV4), &frame(TCP, 0)), Some(0x323e_8fc2));
        let mut six = vec![0; 74];
        six[12..14].copy_from_slice(&[0x86, 0xDD]);
        six[14] = 0x60;
        six[20] = TCP;
        six[38..54].copy_from_slice(&[0x3f, 0xfe, 0x25, 0x01, 0x02, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        six[22..38].copy_from_slice(&[0x3f, 0xfe, 0x25, 0x01, 0x02, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
        six[54..56].copy_from_slice(&2794_u16.to_be_bytes());
        six[56..58].copy_from_slice(&1766_u16.to_be_bytes());
        assert_eq!(hash(&rss(HashInfo::LINUX), &six), Some(0x4020_7d3d));
        assert_eq!(hash(&rss(HashInfo::IPV6), &six), Some(0x2cc1_8cd5));
    }

    #[test]
    fn what_is_hashed_is_the_guests_choice() {
        assert_eq!(hash(&rss(HashInfo::LINUX), &frame(UDP, 0)), Some(0x323e_8fc2), "by addresses");
        assert_eq!(hash(&rss(HashInfo::UDP_IPV4), &frame(UDP, 0)), Some(0x51cc_c178));
        assert_eq!(hash(&rss(HashInfo::LINUX), &frame(TCP, 0x2000)), Some(0x323e_8fc2), "a fragment");
        assert_eq!(hash(&rss(HashInfo::TCP_IPV4), &frame(UDP, 0)), None);
        let rss = rss(HashInfo::LINUX);
        let tcp = frame(TCP, 0);
        let found = rss.hash(&tcp, &Headers::parse(&tcp).unwrap());
        assert_eq!(found.map(FlowHash::info), Some(HashInfo::TCP_IPV4 | HashInfo::TOEPLITZ));
        assert_eq!(rss.queue(found), 0x78);
        assert_eq!(rss.queue(None), 0, "no ip");
    }

    #[test]
    fn no_frame_is_read_beyond_its_end() {
        let rss = rss(HashInfo(!0));
        let whole = frame(TCP, 0);
        for len in 0..whole.len() {
            hash(&rss, &whole[..len]);
        }
    }
}
