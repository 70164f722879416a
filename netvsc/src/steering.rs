//! On which queue a frame is sent.
//!
//! Frames of one flow leave by one queue, or they overtake each other. A flow is told by the [`Toeplitz`] hash of its
//! addresses and, where the [`HashLevel`] of its protocol says so, its ports; the hash picks one of 16 buckets, and the
//! host's send indirection table says which channel each bucket belongs to. Received frames are none of this module's
//! business: the host spreads them by the table of [`RssSettings`](crate::rss::RssSettings).
//!
//! Fragments have no ports but the first, so that all fragments are hashed by addresses. A flow some of whose datagrams are
//! fragmented still leaves by two queues at [`HashLevel::L4`]; what Microsoft recommends against that is `udp4 sd`.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_get_tx_queue`, `netvsc_get_hash`, `netvsc_set_rss_hash_opts`).

use core::fmt;
use core::str::FromStr;

use rndis::rss::HashInfo;

use crate::frame::Headers;
use crate::meta::{IpVersion, Transport};
use crate::rss::{MAX_INPUT_BYTES, RssKey, Toeplitz};

/// Hash buckets: entries of the send indirection table.
pub const BUCKETS: usize = nvsp::SEND_TABLE_LEN;

/// A protocol whose hash level can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashProtocol {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl HashProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    /// As `ethtool` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }

    /// That of a frame with ports.
    #[inline]
    #[must_use]
    pub const fn of(headers: &Headers) -> Option<Self> {
        match (headers.transport_protocol(), headers.ip()) {
            (Some(Transport::Tcp), IpVersion::V4) => Some(Self::Tcp4),
            (Some(Transport::Tcp), IpVersion::V6) => Some(Self::Tcp6),
            (Some(Transport::Udp), IpVersion::V4) => Some(Self::Udp4),
            (Some(Transport::Udp), IpVersion::V6) => Some(Self::Udp6),
            (None, _) => None,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The type by which a host says that it hashed the ports.
    const fn hash_type(self) -> HashInfo {
        match self {
            Self::Tcp4 => HashInfo::TCP_IPV4,
            Self::Tcp6 => HashInfo::TCP_IPV6,
            Self::Udp4 => HashInfo::UDP_IPV4,
            Self::Udp6 => HashInfo::UDP_IPV6,
        }
    }
}

/// How much of a frame tells its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashLevel {
    /// Addresses: `sd`.
    L3,
    /// Addresses and ports: `sdfn`.
    L4,
}

impl HashLevel {
    /// As `ethtool -N … rx-flow-hash` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L3 => "sd",
            Self::L4 => "sdfn",
        }
    }
}

/// A name that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownName {
    expected: &'static str,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown name, expected {}", self.expected)
    }
}

impl core::error::Error for UnknownName {}

impl fmt::Display for HashLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for HashLevel {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = [Self::L3, Self::L4].into_iter().find(|level| level.name() == name);
        known.ok_or(UnknownName { expected: "sd or sdfn" })
    }
}

impl fmt::Display for HashProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for HashProtocol {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.into_iter().find(|protocol| protocol.name() == name);
        known.ok_or(UnknownName { expected: "tcp4, tcp6, udp4 or udp6" })
    }
}

/// The level of each protocol. Default: [`HashLevel::L4`] for all four; everything else is always hashed by addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashLevels {
    /// Bits of the protocols with level L4.
    ports: u8,
}

impl Default for HashLevels {
    fn default() -> Self {
        Self { ports: HashProtocol::ALL.into_iter().fold(0, |all, protocol| all | protocol.bit()) }
    }
}

impl fmt::Debug for HashLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(HashProtocol::ALL.map(|protocol| (protocol, self.get(protocol)))).finish()
    }
}

impl HashLevels {
    /// That of `protocol`.
    #[inline]
    #[must_use]
    pub const fn get(self, protocol: HashProtocol) -> HashLevel {
        if self.ports & protocol.bit() != 0 { HashLevel::L4 } else { HashLevel::L3 }
    }

    /// With another level for `protocol`.
    #[must_use]
    pub const fn with(self, protocol: HashProtocol, level: HashLevel) -> Self {
        let ports = match level {
            HashLevel::L3 => self.ports & !protocol.bit(),
            HashLevel::L4 => self.ports | protocol.bit(),
        };
        Self { ports }
    }

    /// All levels in one byte, for [`from_bits`](Self::from_bits): so that they can be changed while they are in use.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.ports
    }

    /// Back from [`to_bits`](Self::to_bits).
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { ports: bits & 0xF }
    }
}

/// What tells a frame's flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    input: [u8; MAX_INPUT_BYTES],
    address_bytes: u8,
    /// If there are ports: whose.
    protocol: Option<HashProtocol>,
}

impl Flow {
    /// Reads an Ethernet frame; `None` if it is no IP. VLAN tags and IPv6 extension headers are looked behind. Fragments
    /// and frames that end too early have no ports.
    #[inline]
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        Headers::parse(frame).map(|headers| Self::of_headers(frame, &headers))
    }

    /// As [`of`](Self::of), for whoever has the frame's headers already.
    #[inline]
    #[must_use]
    pub fn of_headers(frame: &[u8], headers: &Headers) -> Self {
        let addresses = headers.addresses(frame);
        // 8 or 32.
        let mut flow = Self { input: [0; MAX_INPUT_BYTES], address_bytes: addresses.len() as u8, protocol: None };
        let (start, rest) = flow.input.split_at_mut(addresses.len());
        start.copy_from_slice(addresses);
        if let (Some(ports), Some(at)) = (headers.ports(frame), rest.first_chunk_mut()) {
            *at = *ports;
            flow.protocol = HashProtocol::of(headers);
        }
        flow
    }

    /// Whose ports there are.
    #[must_use]
    pub const fn protocol(&self) -> Option<HashProtocol> {
        self.protocol
    }

    /// The hash's input at `levels`.
    #[inline]
    #[must_use]
    pub fn input(&self, levels: HashLevels) -> &[u8] {
        let ports = self.protocol.is_some_and(|protocol| levels.get(protocol) == HashLevel::L4);
        self.bytes(ports)
    }

    /// What a host hashes that was told to hash `types`, and the type it says it hashed; `None`: the frame is for the primary
    /// channel.
    #[must_use]
    pub fn input_of_host(&self, types: HashInfo) -> Option<(HashInfo, &[u8])> {
        let ports = self.protocol.map(HashProtocol::hash_type).filter(|ports| types.contains(*ports));
        let addresses = if self.address_bytes == 8 { HashInfo::IPV4 } else { HashInfo::IPV6 };
        match ports {
            Some(ports) => Some((ports, self.bytes(true))),
            None if types.contains(addresses) => Some((addresses, self.bytes(false))),
            None => None,
        }
    }

    #[inline]
    fn bytes(&self, ports: bool) -> &[u8] {
        let len = usize::from(self.address_bytes) + if ports { 4 } else { 0 };
        // At most 36.
        self.input.get(..len).unwrap_or(&self.input)
    }
}

/// The queue of each of the 16 hash buckets, for the `queues` that live: the host's entries where it sent a table (reduced
/// to queues that live, as hosts are not believed), else the queues in turn.
#[must_use]
pub fn buckets(send_table: Option<&[u32; BUCKETS]>, queues: &[u16]) -> [u16; BUCKETS] {
    core::array::from_fn(|bucket| {
        let entry = send_table.map_or(bucket, |table| table[bucket] as usize);
        match u16::try_from(entry) {
            Ok(queue) if queues.contains(&queue) => queue,
            _ => entry.checked_rem(queues.len()).map_or(0, |at| queues[at]),
        }
    })
}

/// Chooses the queue of each frame that is sent.
#[derive(Debug, Clone)]
pub struct TxSteering {
    toeplitz: Toeplitz,
    levels: HashLevels,
    buckets: [u16; BUCKETS],
}

impl TxSteering {
    /// A chooser with default levels. `buckets`: [`DeviceInfo::send_table`](crate::DeviceInfo::send_table), which
    /// [`Event::SendTable`](crate::Event::SendTable) changes.
    #[must_use]
    pub fn new(key: &RssKey, buckets: [u16; BUCKETS]) -> Self {
        Self { toeplitz: Toeplitz::new(key), levels: HashLevels::default(), buckets }
    }

    /// The levels.
    #[must_use]
    pub fn levels(&self) -> HashLevels {
        self.levels
    }

    /// Changes the levels.
    pub fn set_levels(&mut self, levels: HashLevels) {
        self.levels = levels;
    }

    /// Changes the queues of the buckets.
    pub fn set_buckets(&mut self, buckets: [u16; BUCKETS]) {
        self.buckets = buckets;
    }

    /// The queue for `frame`; the first queue for what is no IP.
    #[inline]
    #[must_use]
    pub fn queue_for(&self, frame: &[u8]) -> u16 {
        self.bucket(frame).map_or(0, |bucket| self.buckets[bucket])
    }

    /// The bucket of `frame`; `None` if it is no IP.
    #[inline]
    #[must_use]
    pub fn bucket(&self, frame: &[u8]) -> Option<usize> {
        bucket(&self.toeplitz, self.levels, frame)
    }
}

/// The bucket of `frame` at `levels`; `None` if it is no IP.
#[inline]
#[must_use]
pub fn bucket(toeplitz: &Toeplitz, levels: HashLevels, frame: &[u8]) -> Option<usize> {
    Flow::of(frame).map(|flow| toeplitz.hash(flow.input(levels)) as usize % BUCKETS)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn names_are_those_of_ethtool() {
        for (level, name) in [(HashLevel::L3, "sd"), (HashLevel::L4, "sdfn")] {
            assert_eq!((level.to_string().as_str(), name.parse()), (name, Ok(level)));
        }
        for protocol in HashProtocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
            assert_eq!(HashLevels::default().get(protocol), HashLevel::L4);
        }
        assert!("sdf".parse::<HashLevel>().is_err() && "sctp4".parse::<HashProtocol>().is_err());
    }

    #[test]
    fn each_protocol_has_its_level() {
        for protocol in HashProtocol::ALL {
            let levels = HashLevels::default().with(protocol, HashLevel::L3);
            for other in HashProtocol::ALL {
                assert_eq!(levels.get(other) == HashLevel::L3, other == protocol);
            }
            assert_eq!(HashLevels::from_bits(levels.to_bits()), levels);
        }
    }

    #[test]
    fn a_hosts_table_names_only_queues_that_live() {
        let table = core::array::from_fn(|at| if at == 15 { u32::MAX } else { at as u32 });
        let all = buckets(Some(&table), &[0, 1, 2, 3]);
        assert_eq!(all[..8], [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(all[15], 3);
        let without_one = buckets(Some(&table), &[0, 2, 3]);
        assert_eq!(without_one[..4], [0, 2, 2, 3]);
        assert!(without_one.iter().all(|queue| [0, 2, 3].contains(queue)));
        assert_eq!(buckets(None, &[0, 1, 2])[..4], [0, 1, 2, 0]);
        assert_eq!(buckets(None, &[]), [0; 16]);
    }
}
