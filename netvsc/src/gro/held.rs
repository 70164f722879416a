//! A frame that is held, and what is merged into it.

use alloc::vec::{Drain, Vec};

use super::GroConfig;
use super::candidate::{Candidate, MAX_HEADERS};
use super::merged::Merged;
use super::stats::FlushReason;
use crate::frame::fields::{ipv4, ipv6, tcp};
use crate::frame::{Headers, word};
use crate::meta::{IpVersion, RxMeta, Transport};
use crate::time::Instant;

/// Whether a segment belongs to a held frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    /// It does not, and the held frame is to be handed out.
    No(FlushReason),
}

/// How the IPv4 identifications of a held frame's segments go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// There is one segment yet, or there are no identifications.
    Open,
    /// One more each.
    Counting,
    /// All the same.
    Fixed,
}

/// A held frame: the headers of its first segment, and tokens of all.
#[derive(Debug)]
pub(super) struct Held<T> {
    /// The first segment's, from the Ethernet header up to the payload.
    header: [u8; MAX_HEADERS],
    header_len: usize,
    headers: Option<Headers>,
    protocol: Transport,
    hash: u32,
    meta: RxMeta,
    pub(super) since: Instant,
    pub(super) turn: u64,
    next_sequence: u32,
    /// Payload bytes of the first segment, and of all but the last.
    segment_size: usize,
    payload_len: usize,
    ids: Ids,
    /// FIN and PSH of the last segment.
    last_flags: u8,
    pub(super) fragments: Vec<T>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self {
            header: [0; MAX_HEADERS],
            header_len: 0,
            headers: None,
            protocol: Transport::Tcp,
            hash: 0,
            meta: RxMeta::default(),
            since: Instant::ZERO,
            turn: 0,
            next_sequence: 0,
            segment_size: 0,
            payload_len: 0,
            ids: Ids::Open,
            last_flags: 0,
            fragments: Vec::new(),
        }
    }
}

impl<T> Held<T> {
    /// Holds a first segment, whose token comes next.
    #[inline]
    pub(super) fn start(&mut self, first: &Candidate<'_>, meta: &RxMeta, now: Instant, turn: u64, max_segments: usize) {
        let header = first.header();
        self.header[..header.len()].copy_from_slice(header);
        self.header_len = header.len();
        self.headers = Some(first.headers);
        self.protocol = first.protocol;
        self.hash = first.hash;
        self.meta = *meta;
        self.since = now;
        self.turn = turn;
        self.segment_size = first.payload_len;
        self.payload_len = first.payload_len;
        self.ids = Ids::Open;
        self.last_flags = 0;
        self.next_sequence = sequence(header, first).wrapping_add(first.payload_len as u32);
        self.fragments.clear();
        self.fragments.reserve(max_segments);
    }

    /// Segments so far.
    #[inline]
    pub(super) fn segments(&self) -> usize {
        self.fragments.len()
    }

    /// Source and destination.
    #[inline]
    pub(super) fn addresses(&self) -> &[u8] {
        self.headers.as_ref().map_or(&[], |headers| headers.addresses(&self.header))
    }

    /// Whether a frame is of the same flow.
    #[inline(always)]
    pub(super) fn is_of_flow(&self, frame: &[u8], headers: &Headers, meta: &RxMeta, hash: u32) -> bool {
        let Some(mine) = &self.headers else { return false };
        let network = mine.network();
        hash == self.hash
            && headers.network() == network
            && headers.protocol() == mine.protocol()
            && meta.vlan == self.meta.vlan
            && frame.get(..network).zip(self.header.get(..network)).is_some_and(|(a, b)| same(a, b))
            && same(headers.addresses(frame), mine.addresses(&self.header))
            && headers.ports(frame) == mine.ports(&self.header)
    }

    /// Whether a segment of the same flow continues this one.
    #[inline(always)]
    pub(super) fn fit(&self, next: &Candidate<'_>, config: &GroConfig) -> Fit {
        let Some(mine) = &self.headers else { return Fit::No(FlushReason::Headers) };
        let differs = Fit::No(FlushReason::Headers);
        let gap = Fit::No(FlushReason::Sequence);
        if next.header_len != self.header_len
            || next.headers.transport() != mine.transport()
            || next.payload_len > self.segment_size
        {
            return differs;
        }
        let (held, new) = (&self.header[..self.header_len], next.header());
        let (network, transport) = (mine.network(), mine.transport());
        match mine.ip() {
            IpVersion::V4 => {
                if !same_but_for_length_v4(&held[network..transport], &new[network..transport]) {
                    return differs;
                }
                if self.ids_with(new, network).is_none() {
                    return gap;
                }
            }
            IpVersion::V6 => {
                if !same_but_for_length_v6(&held[network..transport], &new[network..transport]) {
                    return differs;
                }
            }
        }
        if self.protocol == Transport::Tcp {
            if !same_tcp(&held[transport..], &new[transport..]) {
                return differs;
            }
            if sequence(new, next) != self.next_sequence {
                return gap;
            }
        }
        let packet_len = self.header_len - network + self.payload_len + next.payload_len;
        if packet_len > config.max_bytes { Fit::No(FlushReason::Full) } else { Fit::Yes }
    }

    /// Adds a segment that fits, whose token comes next; whether it is the last.
    #[inline(always)]
    pub(super) fn merge(&mut self, next: &Candidate<'_>) -> bool {
        if let Some(headers) = &self.headers
            && headers.ip() == IpVersion::V4
            && let Some(ids) = self.ids_with(next.header(), headers.network())
        {
            self.ids = ids;
        }
        if self.protocol == Transport::Tcp {
            self.last_flags = next.frame[next.headers.transport() + tcp::FLAGS] & (tcp::FIN | tcp::PSH);
        }
        self.next_sequence = self.next_sequence.wrapping_add(next.payload_len as u32);
        self.payload_len += next.payload_len;
        next.ends || next.payload_len < self.segment_size
    }

    /// What the identifications are with that of `new`; `None` if it does not go on.
    #[inline(always)]
    fn ids_with(&self, new: &[u8], network: usize) -> Option<Ids> {
        let (first, id) = (word(&self.header, network + ipv4::ID)?, word(new, network + ipv4::ID)?);
        let counted = first.wrapping_add(self.segments() as u16);
        let may_be_fixed = word(new, network + ipv4::FRAGMENT)? & ipv4::DONT_FRAGMENT != 0;
        match self.ids {
            Ids::Open | Ids::Counting if id == counted => Some(Ids::Counting),
            Ids::Open | Ids::Fixed if id == first && may_be_fixed => Some(Ids::Fixed),
            _ => None,
        }
    }

    /// What was merged, and the tokens.
    pub(super) fn split(&mut self) -> (Merged<'_>, Drain<'_, T>) {
        let merged = Merged {
            header: &self.header[..self.header_len],
            // Held frames have headers.
            headers: self.headers.as_ref(),
            protocol: self.protocol,
            meta: &self.meta,
            segment_size: self.segment_size,
            payload_len: self.payload_len,
            segments: self.fragments.len(),
            fixed_id: self.ids == Ids::Fixed,
            last_flags: self.last_flags,
        };
        (merged, self.fragments.drain(..))
    }
}

/// The TCP sequence number of a segment; 0 of UDP.
#[inline]
fn sequence(header: &[u8], candidate: &Candidate<'_>) -> u32 {
    let at = candidate.headers.transport() + tcp::SEQUENCE;
    match candidate.protocol {
        Transport::Tcp => header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |n| u32::from_be_bytes(*n)),
        Transport::Udp => 0,
    }
}

/// All but total length, identification and checksum. There are no options.
#[inline(always)]
fn same_but_for_length_v4(held: &[u8], new: &[u8]) -> bool {
    held[..ipv4::TOTAL_LEN] == new[..ipv4::TOTAL_LEN]
        && held[ipv4::FRAGMENT..ipv4::CHECKSUM] == new[ipv4::FRAGMENT..ipv4::CHECKSUM]
}

/// All but the payload length.
#[inline]
fn same_but_for_length_v6(held: &[u8], new: &[u8]) -> bool {
    held[..ipv6::PAYLOAD_LEN] == new[..ipv6::PAYLOAD_LEN] && held[ipv6::NEXT..] == new[ipv6::NEXT..]
}

/// All but sequence number, checksum, and the flags that cutting restores. CWR may be on the first only.
#[inline(always)]
fn same_tcp(held: &[u8], new: &[u8]) -> bool {
    let mask = !(tcp::FIN | tcp::PSH | tcp::CWR);
    held[tcp::ACKNOWLEDGMENT..tcp::FLAGS] == new[tcp::ACKNOWLEDGMENT..tcp::FLAGS]
        && held[tcp::FLAGS] & mask == new[tcp::FLAGS] & mask
        && new[tcp::FLAGS] & tcp::CWR == 0
        && held[tcp::WINDOW..tcp::CHECKSUM] == new[tcp::WINDOW..tcp::CHECKSUM]
        && same(&held[tcp::CHECKSUM + 2..], &new[tcp::CHECKSUM + 2..])
}

/// Whether two short pieces of headers are alike: most have up to 16 bytes, for which a call of `memcmp` takes longest.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.first_chunk::<8>(), a.last_chunk::<8>()) {
        // They overlap.
        (Some(first), Some(last)) if a.len() <= 16 => b.first_chunk() == Some(first) && b.last_chunk() == Some(last),
        (None, _) => a.iter().zip(b).all(|(a, b)| a == b),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn pieces_of_any_length_are_compared_to_the_last_byte() {
        let piece: [u8; 40] = core::array::from_fn(|at| at as u8);
        for len in 0..=piece.len() {
            assert!(same(&piece[..len], &piece[..len]));
            for at in 0..len {
                let mut other = piece;
                other[at] ^= 0x80;
                assert!(!same(&piece[..len], &other[..len]), "byte {at} of {len}");
            }
            assert!(len == 0 || !same(&piece[..len], &piece[..len - 1]));
        }
    }
}
