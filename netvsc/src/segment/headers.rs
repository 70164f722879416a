//! The headers of each segment, made from those of the large frame.

use core::fmt;

use crate::checksum::{Sum, checksum_offset, transport_checksum};
use crate::frame::fields::{ipv4, ipv6, tcp, udp};
use crate::frame::{Headers, put_word};
use crate::meta::{IpVersion, Transport};

/// Largest value of a 16-bit length field.
const MAX_LENGTH: usize = 0xFFFF;

/// Why a frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsegmentable {
    /// It is no IP.
    NotIp,
    /// It is a fragment.
    Fragment,
    /// It is neither TCP nor UDP.
    Transport {
        /// What the IP header says.
        protocol: u8,
    },
    /// Lengths in the headers do not fit the frame, or a header is not whole.
    Length,
    /// The checksum covers addresses that do not stand in the IP header.
    Addresses,
    /// A segment size that is zero, or makes segments longer than an IP packet can be.
    SegmentSize {
        /// What was given.
        size: usize,
        /// The most that is possible.
        limit: usize,
    },
}

impl fmt::Display for Unsegmentable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIp => f.write_str("segmentation of a frame that is no IP"),
            Self::Fragment => f.write_str("segmentation of a fragment"),
            Self::Transport { protocol } => write!(f, "segmentation of a frame of protocol {protocol}"),
            Self::Length => f.write_str("lengths in the headers do not fit the frame"),
            Self::Addresses => f.write_str("the checksum covers addresses that are not in the IP header"),
            Self::SegmentSize { size, limit } => write!(f, "segment size of {size} bytes, 1 to {limit} are possible"),
        }
    }
}

impl core::error::Error for Unsegmentable {}

/// Writes the headers of segments: the part of [`Segments`](super::Segments) that does not care where the payload lies, for
/// payload in several pieces.
#[derive(Debug, Clone)]
pub struct SegmentHeaders<'a> {
    /// From the Ethernet header up to the payload.
    template: &'a [u8],
    network: usize,
    transport: usize,
    ip: IpVersion,
    protocol: Transport,
    payload_len: usize,
    size: usize,
    count: usize,
    fixed_id: bool,
    /// Of the IPv4 header without length, identification and checksum.
    network_sum: Sum,
    /// Of the pseudo header without its length.
    pseudo_sum: Sum,
    /// Of the pseudo header and the transport header without what differs, see `write`.
    transport_sum: Sum,
}

impl<'a> SegmentHeaders<'a> {
    /// Those of a whole frame.
    #[inline]
    pub(super) fn of_frame(frame: &'a [u8], size: usize) -> Result<Self, Unsegmentable> {
        let headers = Headers::parse(frame).ok_or(Unsegmentable::NotIp)?;
        let (protocol, payload) = check(frame, &headers)?;
        Self::build(&frame[..payload], &headers, protocol, headers.end() - payload, size)
    }

    /// Those of a frame of which `head` is the beginning, with all of its headers; its IP length may be anything. There are
    /// `payload_len` bytes of payload, up to `size` in a segment.
    ///
    /// # Errors
    /// [`Unsegmentable`].
    pub fn new(head: &'a [u8], payload_len: usize, size: usize) -> Result<Self, Unsegmentable> {
        let headers = Headers::parse(head).ok_or(Unsegmentable::NotIp)?.ending_with(head);
        let (protocol, payload) = check(head, &headers)?;
        Self::build(&head[..payload], &headers, protocol, payload_len, size)
    }

    #[inline]
    fn build(
        template: &'a [u8],
        headers: &Headers,
        protocol: Transport,
        payload_len: usize,
        size: usize,
    ) -> Result<Self, Unsegmentable> {
        let (network, transport, ip) = (headers.network(), headers.transport(), headers.ip());
        // IPv6's length does not count the fixed header.
        let uncounted = if ip == IpVersion::V6 { network + ipv6::LEN } else { network };
        let limit = MAX_LENGTH.saturating_sub(template.len() - uncounted);
        if size == 0 || size.min(payload_len) > limit {
            return Err(Unsegmentable::SegmentSize { size, limit });
        }
        let header = &template[transport..];
        let varying = match protocol {
            // Sequence number, data offset and flags, checksum.
            Transport::Tcp => {
                Sum::of(&header[tcp::SEQUENCE..tcp::SEQUENCE + 4])
                    + Sum::of(&header[tcp::DATA_OFFSET..tcp::DATA_OFFSET + 2])
                    + Sum::of(&header[tcp::CHECKSUM..tcp::CHECKSUM + 2])
            }
            // Length and checksum.
            Transport::Udp => Sum::of(&header[udp::LENGTH..udp::LEN]),
        };
        let network_sum = match ip {
            IpVersion::V4 => Sum::of(&template[network..transport])
                .without(Sum::of(&template[network + ipv4::TOTAL_LEN..network + ipv4::ID + 2]))
                .without(Sum::of(&template[network + ipv4::CHECKSUM..network + ipv4::CHECKSUM + 2])),
            IpVersion::V6 => Sum::ZERO,
        };
        let pseudo_sum = Sum::of(headers.addresses(template)) + Sum::of_word(u16::from(headers.protocol().0));
        Ok(Self {
            template,
            network,
            transport,
            ip,
            protocol,
            payload_len,
            size,
            count: payload_len.div_ceil(size).max(1),
            fixed_id: false,
            network_sum,
            pseudo_sum,
            transport_sum: pseudo_sum + Sum::of(header).without(varying),
        })
    }

    /// With the same IPv4 identification in all segments.
    #[must_use]
    pub fn with_fixed_id(mut self, fixed: bool) -> Self {
        self.fixed_id = fixed;
        self
    }

    /// Bytes of the headers of each segment.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "headers are never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.template.len()
    }

    /// How many segments there are; at least one.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of payload of all segments.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Bytes of segment `index`, headers included.
    #[inline]
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        self.len() + self.size.min(self.payload_len.saturating_sub(index.saturating_mul(self.size)))
    }

    /// The part of `payload` that belongs to `count` segments from `index` on.
    #[inline]
    pub(super) fn payload_of<'p>(&self, index: usize, count: usize, payload: &'p [u8]) -> &'p [u8] {
        let rest = payload.get(index.saturating_mul(self.size)..).unwrap_or_default();
        rest.get(..count.saturating_mul(self.size)).unwrap_or(rest)
    }

    /// Writes the headers of segment `index`, whose payload is `payload`, to the start of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than [`len`](Self::len).
    #[inline]
    pub fn write(&self, index: usize, payload: &[u8], out: &mut [u8]) {
        self.write_summed(index, payload.len(), Sum::of(payload), out);
    }

    /// As [`write`](Self::write), with the payload's length and sum.
    ///
    /// # Panics
    /// If `out` is shorter than [`len`](Self::len).
    #[inline]
    pub fn write_summed(&self, index: usize, payload_len: usize, payload_sum: Sum, out: &mut [u8]) {
        let out = &mut out[..self.template.len()];
        out.copy_from_slice(self.template);
        // What was checked when this was built keeps all of these within 16 bits.
        let segment_len = (self.template.len() - self.transport + payload_len) as u16;
        let before_transport = (self.transport - self.network) as u16;
        match self.ip {
            IpVersion::V4 => {
                let header = &mut out[self.network..self.transport];
                let total_len = before_transport + segment_len;
                let id = self.write_id(index, header);
                put_word(header, ipv4::TOTAL_LEN, total_len);
                let sum = self.network_sum + Sum::of_word(total_len) + Sum::of_word(id);
                put_word(header, ipv4::CHECKSUM, sum.checksum());
            }
            IpVersion::V6 => {
                let payload_len = before_transport - ipv6::LEN as u16 + segment_len;
                put_word(out, self.network + ipv6::PAYLOAD_LEN, payload_len);
            }
        }
        let header = &mut out[self.transport..];
        let varying = match self.protocol {
            Transport::Tcp => self.write_tcp(index, 1, header),
            Transport::Udp => {
                put_word(header, udp::LENGTH, segment_len);
                Sum::of_word(segment_len)
            }
        };
        // Once more for the pseudo header's length.
        let sum = self.transport_sum + varying + Sum::of_word(segment_len) + payload_sum;
        put_word(header, checksum_offset(self.protocol), transport_checksum(self.protocol, sum));
    }

    /// Writes the headers of `count` TCP segments from `index` on to the start of `out`, as of one frame that a host is to cut:
    /// length fields and the IPv4 checksum are zero, and the sum of the pseudo header without its length stands where the TCP
    /// checksum belongs.
    ///
    /// # Panics
    /// If `out` is shorter than [`len`](Self::len).
    pub(super) fn write_large(&self, index: usize, count: usize, out: &mut [u8]) {
        let out = &mut out[..self.template.len()];
        out.copy_from_slice(self.template);
        match self.ip {
            IpVersion::V4 => {
                let header = &mut out[self.network..self.transport];
                self.write_id(index, header);
                put_word(header, ipv4::TOTAL_LEN, 0);
                put_word(header, ipv4::CHECKSUM, 0);
            }
            IpVersion::V6 => put_word(out, self.network + ipv6::PAYLOAD_LEN, 0),
        }
        let header = &mut out[self.transport..];
        self.write_tcp(index, count, header);
        put_word(header, tcp::CHECKSUM, self.pseudo_sum.value());
    }

    /// The IPv4 identification of segment `index`, which it writes.
    #[inline]
    fn write_id(&self, index: usize, header: &mut [u8]) -> u16 {
        let id = u16::from_be_bytes([header[ipv4::ID], header[ipv4::ID + 1]]);
        let id = if self.fixed_id { id } else { id.wrapping_add(index as u16) };
        put_word(header, ipv4::ID, id);
        id
    }

    /// Sequence number and flags of `count` segments from `index` on; their sum.
    #[inline]
    fn write_tcp(&self, index: usize, count: usize, header: &mut [u8]) -> Sum {
        let sequence: [u8; 4] = core::array::from_fn(|at| header[tcp::SEQUENCE + at]);
        // Modulo 2³², as sequence numbers are.
        let sequence = u32::from_be_bytes(sequence).wrapping_add((index * self.size) as u32);
        header[tcp::SEQUENCE..tcp::SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        let mut flags = header[tcp::FLAGS];
        if index + count < self.count {
            flags &= !(tcp::FIN | tcp::PSH);
        }
        if index > 0 {
            flags &= !tcp::CWR;
        }
        header[tcp::FLAGS] = flags;
        Sum::of_double_word(sequence) + Sum::of_bytes([header[tcp::DATA_OFFSET], flags])
    }
}

/// Whether a frame can be cut: its protocol, and where its payload starts.
#[inline]
fn check(frame: &[u8], headers: &Headers) -> Result<(Transport, usize), Unsegmentable> {
    if headers.is_fragment() {
        return Err(Unsegmentable::Fragment);
    }
    if headers.is_cut() {
        return Err(Unsegmentable::Length);
    }
    let Some(protocol) = headers.transport_protocol() else {
        return Err(Unsegmentable::Transport { protocol: headers.protocol().0 });
    };
    if !headers.has_own_addresses() {
        return Err(Unsegmentable::Addresses);
    }
    let payload = headers.payload(frame).ok_or(Unsegmentable::Length)?;
    Ok((protocol, payload))
}
