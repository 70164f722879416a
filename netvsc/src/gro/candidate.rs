//! Whether a frame can be merged at all.

use super::GroConfig;
use crate::checksum::{checksum_offset, verify_ipv4, verify_transport};
use crate::frame::fields::{ipv4, tcp, udp};
use crate::frame::{Headers, word};
use crate::meta::{IpVersion, RxMeta, Transport, Verdict};

/// Most bytes of headers that are kept: two tags, IPv6, TCP with all of its options leave 70 for extension headers.
pub(super) const MAX_HEADERS: usize = 192;
/// The other zero of ones' complement arithmetic.
const OTHER_ZERO: u16 = 0xFFFF;

/// A frame that can be merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) frame: &'a [u8],
    pub(super) headers: Headers,
    pub(super) protocol: Transport,
    /// Bytes of all headers.
    pub(super) header_len: usize,
    /// Bytes of payload: at least one.
    pub(super) payload_len: usize,
    pub(super) hash: u32,
    /// Nothing may follow it.
    pub(super) ends: bool,
    /// It may be the first of several.
    pub(super) may_start: bool,
}

impl<'a> Candidate<'a> {
    /// From the Ethernet header up to the payload.
    #[inline]
    pub(super) fn header(&self) -> &'a [u8] {
        &self.frame[..self.header_len]
    }
}

/// What a frame is to the merger.
#[derive(Debug)]
pub(super) enum Kind<'a> {
    /// It can be merged.
    Candidate(Candidate<'a>),
    /// It is not merged, but those of its flow in front of it must not be overtaken.
    OfFlow { hash: u32 },
    /// As `OfFlow`, of a flow that cannot be told: a fragment, or another protocol.
    WithoutPorts,
}

/// Looks at a frame.
#[inline(always)]
pub(super) fn classify<'a>(frame: &'a [u8], headers: Headers, meta: &RxMeta, config: &GroConfig) -> Kind<'a> {
    let (Some(protocol), Some(ports)) = (headers.transport_protocol(), headers.ports(frame)) else {
        return Kind::WithoutPorts;
    };
    let hash = flow_hash(headers.addresses(frame), *ports);
    match candidate(frame, headers, protocol, hash, meta, config) {
        Some(candidate) => Kind::Candidate(candidate),
        None => Kind::OfFlow { hash },
    }
}

#[inline(always)]
fn candidate<'a>(
    frame: &'a [u8],
    headers: Headers,
    protocol: Transport,
    hash: u32,
    meta: &RxMeta,
    config: &GroConfig,
) -> Option<Candidate<'a>> {
    let wanted = match protocol {
        Transport::Tcp => config.tcp,
        Transport::Udp => config.udp,
    };
    let stale = meta.checksum.ip_stale || meta.checksum.transport_stale;
    if !wanted || stale || meta.coalesced.is_some() || !headers.has_length() || !headers.has_own_addresses() {
        return None;
    }
    let header_len = headers.payload(frame)?;
    let payload_len = headers.end() - header_len;
    if header_len > MAX_HEADERS || payload_len == 0 {
        return None;
    }
    if headers.ip() == IpVersion::V4 {
        let field = word(frame, headers.network() + ipv4::CHECKSUM)?;
        if headers.has_options() || field == OTHER_ZERO || verify_ipv4(frame, &headers) != Verdict::Good {
            return None;
        }
    }
    let transport = &frame[headers.transport()..header_len];
    let field = word(transport, checksum_offset(protocol))?;
    let (ends, may_start) = match protocol {
        Transport::Tcp => {
            let flags = transport[tcp::FLAGS];
            if flags & (tcp::SYN | tcp::RST | tcp::URG) != 0 || field == OTHER_ZERO {
                return None;
            }
            let ends = flags & (tcp::FIN | tcp::PSH) != 0;
            (ends, !ends)
        }
        Transport::Udp => {
            let len = word(transport, udp::LENGTH).map(usize::from)?;
            if field == 0 || len != headers.end() - headers.transport() {
                return None;
            }
            (false, true)
        }
    };
    let verdict = match meta.checksum.transport {
        Verdict::Unknown if config.verify => verify_transport(frame, &headers),
        verdict => verdict,
    };
    (verdict == Verdict::Good).then_some(Candidate {
        frame,
        headers,
        protocol,
        header_len,
        payload_len,
        hash,
        ends,
        may_start,
    })
}

/// Mixes what tells a flow. The host's hash does not do: not every frame of a flow need have one.
#[inline(always)]
fn flow_hash(addresses: &[u8], ports: [u8; 4]) -> u32 {
    let mut hash = u64::from(u32::from_ne_bytes(ports));
    for part in addresses.as_chunks::<8>().0 {
        hash = (hash ^ u64::from_ne_bytes(*part)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^= hash >> 32;
    }
    hash as u32
}
