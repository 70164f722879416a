//! Frames that cannot be sent as they are: what their metadata asks for, brought into the form that goes over the wire.
//!
//! | asked for | granted | otherwise |
//! |---|---|---|
//! | checksum | element, and the pseudo header's sum in the frame | computed |
//! | segmentation of TCP | element; IP length, IPv4 checksum zero, pseudo header's sum without length; in several [pieces](super::pieces) if it is too long | cut |
//! | segmentation of UDP | – | cut |
//! | tag in band (802.1Q) | element, and the tag taken out of the frame | sent in band, if so configured |
//!
//! Only headers are changed, in a copy of them (the *head*); the rest of the frame is copied once, from where it is. What
//! stands in the fields that are filled does not matter, so that whoever sends need not know what the host can do.
//!
//! Never left to the host: frames with IPv4 options or IPv6 extension headers. Fragments have no transport checksum that could be
//! computed: theirs stays as it is.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_xmit`).

use core::ops::Range;

use rndis::packet::{TxHeader, TxOffload};
use rndis::ppi::{Lso, TxChecksum, Vlan};

use super::error::SendError;
use super::pieces;
use crate::checksum::{Sum, Uncomputable, checksum_offset, pseudo_header, transport_checksum};
use crate::frame::fields::{ethernet, ipv4, ipv6};
use crate::frame::{Headers, put_word, word};
use crate::meta::{self, IpVersion, Segmentation, Transport, TxMeta};
use crate::offload::Offloads;
use crate::segment::{Segments, Unsegmentable};
use crate::stats::QueueStats;

/// EtherType of a frame with an 802.1Q tag.
const TYPE_8021Q: u16 = ethernet::TYPES_OF_TAGS[0];
/// Bytes of tags in band by which a frame may be longer than the MTU allows.
pub(super) const MOST_TAG_BYTES: usize = 2 * ethernet::TAG_LEN;
/// Farthest place of a transport header that elements can name.
pub(super) const FARTHEST_TRANSPORT: usize = 0x3FF;

/// What a frame may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) offloads: Offloads,
    /// Tags stay in the frame.
    pub(super) tags_in_band: bool,
    /// Longest frame on the wire, without tags.
    pub(super) frame_limit: usize,
    /// Longest message that can be sent in one piece.
    pub(super) message_limit: usize,
}

/// What it became.
#[derive(Debug)]
pub(super) enum Shape {
    /// One message: the head is in the scratch memory.
    Whole {
        header: TxHeader,
        head: usize,
        /// What follows it, of the frame.
        rest: Range<usize>,
        work: Work,
    },
    /// Several messages: segments, or pieces that the host cuts further.
    Cut(Cut),
}

/// Who does what with it, to be counted once it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing is to be done.
    Nothing,
    /// The host computes the transport checksum.
    HostSums,
    /// It was computed here.
    OwnSums,
    /// The host cuts it.
    HostCuts,
}

/// How a frame is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) header: TxHeader,
    pub(super) mss: usize,
    /// All segments have the same IPv4 identification.
    pub(super) fixed_id: bool,
    /// Bytes of a tag that is taken out of each segment.
    pub(super) skip: usize,
}

/// Whether a frame can be sent as it is.
#[inline(always)]
pub(super) fn is_plain(frame: &[u8], meta: &TxMeta) -> bool {
    meta.checksum.is_none()
        && meta.segmentation.is_none()
        && frame.get(ethernet::TYPE..ethernet::TYPE + 2) != Some(&TYPE_8021Q.to_be_bytes())
}

/// Bytes of scratch memory that hold the headers of any frame: two tags, IPv6, eight extension headers of 2 KiB, TCP.
pub(super) const SCRATCH_BYTES: usize = 17 * 1024;

/// Shapes a frame of at least an Ethernet header. `scratch` has [`SCRATCH_BYTES`].
pub(super) fn shape(
    frame: &[u8],
    meta: &TxMeta,
    rules: &Rules,
    scratch: &mut [u8],
    stats: &mut QueueStats,
) -> Result<Shape, SendError> {
    let popped = if rules.tags_in_band { None } else { tag_to_pop(frame, meta, stats)? };
    let skip = if popped.is_some() { ethernet::TAG_LEN } else { 0 };
    let header = TxHeader { hash_value: meta.hash, vlan: popped.or(meta.vlan), offload: TxOffload::None };
    let job = Job { frame, skip, rules, header };
    let limit = rules.frame_limit.saturating_add(tag_bytes(frame, skip));
    // Told as the caller sees it, with the tag.
    let too_long = |len: usize, stats: &mut QueueStats| {
        stats.global.tx_too_big += 1;
        Err(SendError::TooLong { len: len + skip, limit: limit + skip })
    };
    if let Some(cut) = meta.segmentation {
        return match job.segment(cut, scratch, limit)? {
            Ok(shape) => Ok(shape),
            Err(len) => too_long(len, stats),
        };
    }
    let len = frame.len() - skip;
    if len > limit {
        return too_long(len, stats);
    }
    match meta.checksum {
        Some(sums) => job.checksum(sums, scratch),
        None => Ok(job.whole(ethernet::TYPE + skip, TxOffload::None, Work::Nothing, frame.len(), scratch)),
    }
}

/// The frame's 802.1Q tag, if it is to be taken out: not if there is one beside the frame already, which is the outer one
/// then.
fn tag_to_pop(frame: &[u8], meta: &TxMeta, stats: &mut QueueStats) -> Result<Option<Vlan>, SendError> {
    if meta.vlan.is_some() || word(frame, ethernet::TYPE) != Some(TYPE_8021Q) {
        return Ok(None);
    }
    let minimum = ethernet::TYPE + ethernet::TAG_LEN + 2;
    match word(frame, ethernet::TYPE + 2) {
        Some(tci) if frame.len() >= minimum => Ok(Some(Vlan::from_tci(tci))),
        _ => {
            stats.global.vlan_error += 1;
            Err(SendError::TooShort { len: frame.len(), minimum })
        }
    }
}

/// Bytes of the tags that stay in the frame, by which it may be longer.
fn tag_bytes(frame: &[u8], skip: usize) -> usize {
    let tags = (0..2).take_while(|at| {
        word(frame, ethernet::TYPE + skip + at * ethernet::TAG_LEN)
            .is_some_and(|ether_type| ethernet::TYPES_OF_TAGS.contains(&ether_type))
    });
    tags.count() * ethernet::TAG_LEN
}

struct Job<'a> {
    frame: &'a [u8],
    /// Bytes of the tag that is taken out.
    skip: usize,
    rules: &'a Rules,
    header: TxHeader,
}

impl Job<'_> {
    /// Copies the head, up to `head_end` of the frame, and leaves out the tag.
    fn whole(&self, head_end: usize, offload: TxOffload, work: Work, end: usize, scratch: &mut [u8]) -> Shape {
        let (addresses, rest) = scratch.split_at_mut(ethernet::TYPE);
        addresses.copy_from_slice(&self.frame[..ethernet::TYPE]);
        let behind = &self.frame[ethernet::TYPE + self.skip..head_end];
        rest[..behind.len()].copy_from_slice(behind);
        Shape::Whole {
            header: TxHeader { offload, ..self.header },
            head: ethernet::TYPE + behind.len(),
            rest: head_end..end,
            work,
        }
    }

    fn checksum(&self, sums: meta::TxChecksum, scratch: &mut [u8]) -> Result<Shape, SendError> {
        let (frame, granted) = (self.frame, self.rules.offloads.tx_checksum);
        let headers = Headers::parse(frame)
            .filter(|headers| headers.ip() == sums.ip && (!sums.ip_header || sums.ip == IpVersion::V4))
            .ok_or(Uncomputable::Ip { asked: sums.ip })?;
        let ip_header = if sums.ip_header {
            // `parse` looked for the fixed part only.
            Some(frame.get(headers.network()..headers.transport()).ok_or(Uncomputable::Length)?)
        } else {
            None
        };
        let for_host = !headers.has_options();
        let mut word = None;
        let mut head_end = headers.transport().min(frame.len());
        let mut field = None;
        let mut work = Work::Nothing;
        if let Some(asked) = sums.transport.filter(|_| !headers.is_fragment()) {
            let at = transport_field(frame, &headers, asked)?;
            let offset = headers.transport() - self.skip;
            let len = headers.end() - headers.transport();
            let pseudo = pseudo_header(frame, &headers, len);
            if for_host && granted.has(sums.ip, asked) && offset <= FARTHEST_TRANSPORT {
                word = Some(TxChecksum::transport(sums.ip, asked, offset as u16).map_err(SendError::BadMeta)?);
                field = Some((at, pseudo.value()));
                work = Work::HostSums;
            } else {
                let sum = pseudo + Sum::of(&frame[headers.transport()..at]) + Sum::of(&frame[at + 2..headers.end()]);
                field = Some((at, transport_checksum(asked, sum)));
                work = Work::OwnSums;
            }
            head_end = at + 2;
        }
        let mut header_sum = None;
        if let Some(header) = ip_header {
            let by_host = for_host && granted.ipv4_header;
            if by_host {
                word = Some(word.map_or(TxChecksum::ipv4_header(), TxChecksum::with_ip_header));
            }
            let (before, behind) = (&header[..ipv4::CHECKSUM], &header[ipv4::CHECKSUM + 2..]);
            header_sum = Some(if by_host { 0 } else { (Sum::of(before) + Sum::of(behind)).checksum() });
        }
        let shape = self.whole(head_end, word.map_or(TxOffload::None, TxOffload::Checksum), work, frame.len(), scratch);
        if let Some((at, value)) = field {
            put_word(scratch, at - self.skip, value);
        }
        if let Some(value) = header_sum {
            put_word(scratch, headers.network() - self.skip + ipv4::CHECKSUM, value);
        }
        Ok(shape)
    }

    /// The inner error: a segment would have so many bytes, more than `limit`.
    fn segment(&self, cut: Segmentation, scratch: &mut [u8], limit: usize) -> Result<Result<Shape, usize>, SendError> {
        let frame = self.frame;
        let mss = cut.mss as usize;
        let segments = Segments::new(frame, mss)?;
        let headers = Headers::parse(frame).filter(|headers| headers.ip() == cut.ip).ok_or(Unsegmentable::NotIp)?;
        let longest = segments.max_len() - self.skip;
        if longest > limit {
            return Ok(Err(longest));
        }
        if !self.host_cuts(&headers, &segments, cut.fixed_id) {
            let fixed_id = cut.fixed_id;
            return Ok(Ok(Shape::Cut(Cut { header: self.header, mss, fixed_id, skip: self.skip })));
        }
        let offset = headers.transport() - self.skip;
        let word = Lso::v2(cut.ip, cut.mss, offset as u16).map_err(SendError::BadMeta)?;
        let at = headers.transport() + checksum_offset(Transport::Tcp);
        let shape = self.whole(at + 2, TxOffload::Lso(word), Work::HostCuts, headers.end(), scratch);
        put_word(scratch, at - self.skip, pseudo_header(frame, &headers, 0).value());
        let network = headers.network() - self.skip;
        match cut.ip {
            IpVersion::V4 => {
                put_word(scratch, network + ipv4::TOTAL_LEN, 0);
                put_word(scratch, network + ipv4::CHECKSUM, 0);
            }
            IpVersion::V6 => put_word(scratch, network + ipv6::PAYLOAD_LEN, 0),
        }
        Ok(Ok(shape))
    }

    /// Whether the host cuts the frame as it is.
    fn host_cuts(&self, headers: &Headers, segments: &Segments<'_>, fixed_id: bool) -> bool {
        pieces::lso_limits(headers, self.skip, fixed_id, self.rules).is_some_and(|limits| {
            segments.count() >= pieces::fewest(&limits) && self.frame.len() <= pieces::longest(&limits, self.rules)
        })
    }
}

/// Where the checksum field of TCP or UDP is, in a packet whose checksum can be computed.
fn transport_field(frame: &[u8], headers: &Headers, asked: Transport) -> Result<usize, Uncomputable> {
    if headers.transport_protocol() != Some(asked) {
        return Err(Uncomputable::Transport { asked, protocol: headers.protocol().0 });
    }
    if !headers.has_own_addresses() {
        return Err(Uncomputable::Addresses);
    }
    if !headers.has_length() || headers.payload(frame).is_none() {
        return Err(Uncomputable::Length);
    }
    Ok(headers.transport() + checksum_offset(asked))
}
