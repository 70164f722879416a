//! Where the headers of an Ethernet frame are: the one parser of this crate.
//!
//! [`Headers`] is found once and says what steering, checksums, segmentation and merging need to know: offsets, the transport
//! protocol, and whether the frame is one whose transport they can touch. Nothing of a frame is believed that was not
//! checked against the bytes that are there.
//!
//! Looked behind are up to two VLAN tags (802.1Q, 802.1ad), IPv4 options, and the IPv6 extension headers hop by hop,
//! routing and destination options. Fragments, tunnels and IPsec are not looked into.
//!
//! Sources: RFC 791, RFC 8200, RFC 9293, RFC 768; Linux `net/core/flow_dissector.c` for what is skipped.

pub(crate) mod fields;

use rndis::ppi::{IpVersion, Transport};

use fields::{ethernet, ipv4, ipv6, tcp, udp};

/// VLAN tags that are looked behind.
const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are looked behind.
const MAX_EXTENSIONS: usize = 8;

/// The number of a protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: Self = Self(0);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: Self = Self(60);
}

/// Where the headers of one IP frame are.
///
/// Offsets count from the frame's first byte. Methods that take the frame again want the one that was parsed (the content of
/// its fields may have changed meanwhile); with another one they find nothing, but do not panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    network: u16,
    transport: u16,
    end: usize,
    ip: IpVersion,
    protocol: Protocol,
    marks: u8,
}

/// A fragment, be it the first or a later one.
const FRAGMENT: u8 = 1;
/// IPv4 options or IPv6 extension headers.
const OPTIONS: u8 = 2;
/// The IP length field is zero.
const NO_LENGTH: u8 = 4;
/// Headers or the IP length go beyond the frame.
const CUT: u8 = 8;
/// The pseudo header has other addresses than the IP header.
const OTHER_ADDRESSES: u8 = 16;
/// Four bytes of TCP or UDP are there, and belong to no fragment.
const PORTS: u8 = 32;

impl Headers {
    /// Reads a frame from its Ethernet header on; `None` if it is no IP, or ends inside of the fixed IP header.
    #[inline(always)]
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut at = ethernet::TYPE;
        let mut ether_type = word(frame, at)?;
        for _ in 0..MAX_TAGS {
            if !ethernet::TYPES_OF_TAGS.contains(&ether_type) {
                break;
            }
            at += ethernet::TAG_LEN;
            ether_type = word(frame, at)?;
        }
        let network = at + 2;
        let mut headers = match ether_type {
            ethernet::TYPE_IPV4 => Self::parse_ipv4(frame, network),
            ethernet::TYPE_IPV6 => Self::parse_ipv6(frame, network),
            _ => None,
        }?;
        let has_ports = matches!(headers.protocol, Protocol::TCP | Protocol::UDP)
            && headers.marks & FRAGMENT == 0
            && frame.len() >= headers.transport() + 4;
        if has_ports {
            headers.marks |= PORTS;
        }
        Some(headers)
    }

    #[inline(always)]
    fn parse_ipv4(frame: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; ipv4::LEN] = frame.get(network..)?.first_chunk()?;
        let header_len = usize::from(header[0] & 0xF) * 4;
        if header[0] >> 4 != 4 || header_len < ipv4::LEN {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let mut marks = if header_len > ipv4::LEN { OPTIONS } else { 0 };
        if u16::from_be_bytes([header[6], header[7]]) & ipv4::IS_FRAGMENT != 0 {
            marks |= FRAGMENT;
        }
        let (end, length_marks) = end_of(frame, network, header_len, total_len);
        Some(Self {
            // At most 22, and 60 more.
            network: network as u16,
            transport: (network + header_len) as u16,
            end,
            ip: IpVersion::V4,
            protocol: Protocol(header[ipv4::PROTOCOL]),
            marks: marks | length_marks,
        })
    }

    #[inline]
    fn parse_ipv6(frame: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; ipv6::LEN] = frame.get(network..)?.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut headers = Self {
            network: network as u16,
            transport: (network + ipv6::LEN) as u16,
            end: frame.len(),
            ip: IpVersion::V6,
            protocol: Protocol(header[ipv6::NEXT]),
            marks: 0,
        };
        if !matches!(headers.protocol, Protocol::TCP | Protocol::UDP) {
            headers.skip_extensions(frame);
        }
        let headers_len = headers.transport() - network;
        let packet_len = if payload_len == 0 { 0 } else { ipv6::LEN + payload_len };
        let (end, length_marks) = end_of(frame, network, headers_len, packet_len);
        Some(Self { end, marks: headers.marks | length_marks, ..headers })
    }

    /// Goes on to the first header that is no extension, or cannot be looked behind.
    #[inline(never)]
    fn skip_extensions(&mut self, frame: &[u8]) {
        for _ in 0..MAX_EXTENSIONS {
            let kind = self.protocol;
            match kind {
                Protocol::FRAGMENT => self.marks |= FRAGMENT | OPTIONS,
                Protocol::HOP_BY_HOP | Protocol::ROUTING | Protocol::DESTINATION_OPTIONS => {
                    let rest = frame.get(self.transport()..).unwrap_or_default();
                    let Some(&[next, units]) = rest.first_chunk() else { break };
                    let len = 8 + usize::from(units) * 8;
                    let header = rest.get(..len).unwrap_or(rest);
                    let redirects = match kind {
                        Protocol::ROUTING => header.get(ipv6::SEGMENTS_LEFT).is_none_or(|left| *left != 0),
                        Protocol::DESTINATION_OPTIONS => has_home_address(header),
                        _ => false,
                    };
                    if redirects {
                        self.marks |= OTHER_ADDRESSES;
                    }
                    self.marks |= OPTIONS;
                    self.protocol = Protocol(next);
                    // Eight headers of at most 2048 bytes.
                    self.transport += len as u16;
                    continue;
                }
                _ => {}
            }
            break;
        }
    }

    /// The same, for the head of a frame whose rest is elsewhere: whatever the IP length says, the packet ends with `head`.
    #[inline]
    #[must_use]
    pub(crate) fn ending_with(self, head: &[u8]) -> Self {
        let cut = if self.transport() > head.len() { CUT } else { 0 };
        Self { end: head.len(), marks: self.marks & !(CUT | NO_LENGTH) | cut, ..self }
    }

    /// Offset of the IP header: 14, and 4 more for each VLAN tag.
    #[inline]
    #[must_use]
    pub const fn network(&self) -> usize {
        self.network as usize
    }

    /// Offset of what follows the IP header, its options and extension headers: the transport header, if
    /// [`transport_protocol`](Self::transport_protocol) knows it.
    #[inline]
    #[must_use]
    pub const fn transport(&self) -> usize {
        self.transport as usize
    }

    /// Where the IP packet ends; what lies behind it in the frame is padding. The frame's length, if the packet's own is not
    /// [known](Self::has_length).
    #[inline]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.end
    }

    /// Version of IP.
    #[inline]
    #[must_use]
    pub const fn ip(&self) -> IpVersion {
        self.ip
    }

    /// What the IP header, or the last extension header that was looked behind, says that comes next.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// TCP or UDP, if the ports are there. Fragments have none, not even the first.
    #[inline]
    #[must_use]
    pub const fn transport_protocol(&self) -> Option<Transport> {
        match self.protocol {
            _ if self.marks & PORTS == 0 => None,
            Protocol::TCP => Some(Transport::Tcp),
            _ => Some(Transport::Udp),
        }
    }

    /// Whether this is a fragment of a packet. IPv6 packets that consist of one fragment count.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.marks & FRAGMENT != 0
    }

    /// Whether there are IPv4 options or IPv6 extension headers.
    #[inline]
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.marks & OPTIONS != 0
    }

    /// Whether the IP length field is not zero, as it is in a frame that is to be segmented by the host, and everything
    /// that it and the headers claim to be there is there.
    #[inline]
    #[must_use]
    pub const fn has_length(&self) -> bool {
        self.marks & (NO_LENGTH | CUT) == 0
    }

    /// Whether the IP length field is zero.
    #[inline]
    #[must_use]
    pub const fn is_length_zero(&self) -> bool {
        self.marks & NO_LENGTH != 0
    }

    /// Whether headers or the IP length claim more bytes than the frame has, or than the IP length allows.
    #[inline]
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.marks & CUT != 0
    }

    /// Whether the transport checksum covers the addresses that stand in the IP header. Not so on the way of an IPv6 routing
    /// header, and with a mobile node's home address.
    #[inline]
    #[must_use]
    pub const fn has_own_addresses(&self) -> bool {
        self.marks & OTHER_ADDRESSES == 0
    }

    /// Source and destination address, in network order: 8 bytes or 32.
    #[inline]
    #[must_use]
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (at, len) = match self.ip {
            IpVersion::V4 => (ipv4::ADDRESSES, ipv4::ADDRESSES_LEN),
            IpVersion::V6 => (ipv6::ADDRESSES, ipv6::ADDRESSES_LEN),
        };
        frame.get(self.network() + at..self.network() + at + len).unwrap_or_default()
    }

    /// Source and destination port, in network order, of TCP and UDP.
    #[inline]
    #[must_use]
    pub fn ports<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8; 4]> {
        self.transport_protocol()?;
        frame.get(self.transport()..)?.first_chunk()
    }

    /// Where the payload of TCP or UDP starts, if its header is whole.
    #[inline]
    #[must_use]
    pub fn payload(&self, frame: &[u8]) -> Option<usize> {
        let header_len = match self.transport_protocol()? {
            Transport::Udp => udp::LEN,
            Transport::Tcp => {
                let words = frame.get(self.transport() + tcp::DATA_OFFSET)? >> 4;
                let len = usize::from(words) * 4;
                (len >= tcp::LEN).then_some(len)?
            }
        };
        let start = self.transport() + header_len;
        (start <= self.end && self.end <= frame.len()).then_some(start)
    }
}

/// Where a packet of `packet_len` bytes ends that starts at `network`, and what has to be noted about it.
#[inline]
fn end_of(frame: &[u8], network: usize, headers_len: usize, packet_len: usize) -> (usize, u8) {
    let end = network + packet_len;
    if packet_len >= headers_len && end <= frame.len() {
        return (end, 0);
    }
    let cut = packet_len != 0 || network + headers_len > frame.len();
    let no_length = packet_len == 0;
    (frame.len(), if cut { CUT } else { 0 } | if no_length { NO_LENGTH } else { 0 })
}

/// Whether a destination options header has the home address option, or cannot be read.
fn has_home_address(header: &[u8]) -> bool {
    let mut rest = header.get(2..).unwrap_or_default();
    loop {
        match rest {
            [] => return false,
            // One byte of padding.
            [0, tail @ ..] => rest = tail,
            [ipv6::OPTION_HOME_ADDRESS, ..] => return true,
            [_, len, tail @ ..] => match tail.get(usize::from(*len)..) {
                Some(tail) => rest = tail,
                None => return true,
            },
            [_] => return true,
        }
    }
}

/// The 16 bits at `at`.
#[inline]
pub(crate) fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Writes the 16 bits at `at`; nothing, if the frame ends there.
#[inline]
pub(crate) fn put_word(frame: &mut [u8], at: usize, value: u16) {
    if let Some(bytes) = frame.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
