//! What was merged: the large frame's headers, and how its payload lies in the segments.

use crate::checksum::{Sum, checksum_offset, fill_ipv4, pseudo_header, transport_checksum};
use crate::frame::fields::{ipv4, ipv6, tcp, udp};
use crate::frame::{Headers, put_word};
use crate::meta::{Coalesced, IpVersion, RxChecksum, RxMeta, Segmentation, Transport, Verdict};

/// A merged frame that is handed out, without its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Merged<'a> {
    pub(super) header: &'a [u8],
    pub(super) headers: Option<&'a Headers>,
    pub(super) protocol: Transport,
    pub(super) meta: &'a RxMeta,
    pub(super) segment_size: usize,
    pub(super) payload_len: usize,
    pub(super) segments: usize,
    pub(super) fixed_id: bool,
    pub(super) last_flags: u8,
}

impl Merged<'_> {
    /// Bytes of the merged frame.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.len() + self.payload_len
    }

    /// Bytes of its headers, and of each segment's.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Bytes of its payload.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Payload bytes of each segment but the last, which may have fewer.
    #[inline]
    #[must_use]
    pub fn segment_size(&self) -> usize {
        self.segment_size
    }

    /// How many segments there are.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// TCP or UDP.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> Transport {
        self.protocol
    }

    /// Whether all segments have the same IPv4 identification.
    #[inline]
    #[must_use]
    pub fn has_fixed_id(&self) -> bool {
        self.fixed_id
    }

    /// What is known about the merged frame: what was known about its first segment, and that all checksums are right.
    #[inline]
    #[must_use]
    pub fn meta(&self) -> RxMeta {
        let checksum = match self.ip() {
            IpVersion::V4 => RxChecksum { ip: Verdict::Good, transport: Verdict::Good, ..self.meta.checksum },
            IpVersion::V6 => RxChecksum { transport: Verdict::Good, ..self.meta.checksum },
        };
        let coalesced = Coalesced {
            // At most 1024, and 65535.
            fragments: self.segments as u16,
            segment_size: self.segment_size as u16,
            fixed_id: self.fixed_id,
        };
        RxMeta { checksum, coalesced: Some(coalesced), ..*self.meta }
    }

    /// What sending it takes, for the same segments to leave that came.
    #[inline]
    #[must_use]
    pub fn segmentation(&self) -> Segmentation {
        Segmentation {
            ip: self.ip(),
            mss: self.segment_size as u32,
            transport_offset: self.headers.map_or(0, |headers| headers.transport() as u16),
            fixed_id: self.fixed_id,
        }
    }

    /// The part of the merged payload that `frame`, which is segment `index`, has: without padding.
    #[inline]
    #[must_use]
    pub fn payload_of<'f>(&self, index: usize, frame: &'f [u8]) -> &'f [u8] {
        let rest = self.payload_len.saturating_sub(index.saturating_mul(self.segment_size));
        let payload = frame.get(self.header.len()..).unwrap_or_default();
        payload.get(..rest.min(self.segment_size)).unwrap_or(payload)
    }

    /// Writes the merged frame into `out`: headers, and the payload of the segments, which are given in order. Its length;
    /// `None`, if `out` is too short.
    ///
    /// The checksums are right if those of the segments are. The transport's is found from theirs, so that the payload is
    /// not read for it.
    pub fn gather<'f>(&self, segments: impl IntoIterator<Item = &'f [u8]>, out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..self.len())?;
        let (header, mut rest) = out.split_at_mut(self.header.len());
        let mut sums = PayloadSum::new(self);
        for (index, frame) in segments.into_iter().take(self.segments).enumerate() {
            let payload = self.payload_of(index, frame);
            let (to, behind) = rest.split_at_mut_checked(payload.len())?;
            to.copy_from_slice(payload);
            rest = behind;
            sums.add(frame, payload.len());
        }
        self.write_header(sums.total, header);
        Some(self.len())
    }

    /// The merged frame's headers, with the sum of its payload.
    fn write_header(&self, payload: Sum, out: &mut [u8]) {
        out.copy_from_slice(self.header);
        let Some(headers) = self.headers else { return };
        let (network, transport) = (headers.network(), headers.transport());
        let packet_len = self.len() - network;
        let segment_len = self.len() - transport;
        // An IP packet has at most 65535 bytes: the settings' limit.
        match headers.ip() {
            IpVersion::V4 => {
                put_word(out, network + ipv4::TOTAL_LEN, packet_len as u16);
                fill_ipv4(out, headers);
            }
            IpVersion::V6 => put_word(out, network + ipv6::PAYLOAD_LEN, (packet_len - ipv6::LEN) as u16),
        }
        match self.protocol {
            Transport::Tcp => out[transport + tcp::FLAGS] |= self.last_flags,
            Transport::Udp => put_word(out, transport + udp::LENGTH, segment_len as u16),
        }
        let field = transport + checksum_offset(self.protocol);
        put_word(out, field, 0);
        let sum = pseudo_header(out, headers, segment_len) + Sum::of(&out[transport..]) + payload;
        put_word(out, field, transport_checksum(self.protocol, sum));
    }

    fn ip(&self) -> IpVersion {
        self.headers.map_or(IpVersion::V4, Headers::ip)
    }
}

/// The sum of the merged payload, from the checksums of the segments: what a segment's header and pseudo header lack to
/// 0xFFFF is its payload's.
struct PayloadSum {
    transport: usize,
    header_len: usize,
    /// Of the pseudo header, without length.
    pseudo: Sum,
    len: usize,
    total: Sum,
}

impl PayloadSum {
    fn new(merged: &Merged<'_>) -> Self {
        let pseudo = merged.headers.map_or(Sum::ZERO, |headers| pseudo_header(merged.header, headers, 0));
        let transport = merged.headers.map_or(0, Headers::transport);
        Self { transport, header_len: merged.header.len(), pseudo, len: 0, total: Sum::ZERO }
    }

    #[inline]
    fn add(&mut self, frame: &[u8], payload_len: usize) {
        let header = frame.get(self.transport..self.header_len).unwrap_or_default();
        let covered = self.pseudo + Sum::of_word((header.len() + payload_len) as u16) + Sum::of(header);
        let payload = Sum::ZERO.without(covered);
        self.total = self.total + if self.len % 2 == 1 { payload.shifted() } else { payload };
        self.len += payload_len;
    }
}
