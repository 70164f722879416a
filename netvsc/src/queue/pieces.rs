//! Frames that are longer than what the host cuts at a time: they go to it in pieces of whole segments, as long as they may be.
//!
//! A piece is a frame of its own to the host, with the headers that its first segment has; the host counts sequence number and
//! identification on from there, so that what is on the wire is the same as if all segments had been cut here. What is left
//! at the end, or has no room as a piece now, is cut here.

use rndis::packet::{TxHeader, TxOffload};
use rndis::ppi::{IpVersion, Lso, Transport};

use super::shape::{Cut, FARTHEST_TRANSPORT, Rules};
use crate::frame::Headers;
use crate::offload::LsoLimits;
use crate::segment::Segments;

/// How the host is given pieces of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    /// Of each piece.
    pub(super) header: TxHeader,
    /// Fewest segments of a piece.
    fewest: usize,
    /// Bytes of the headers of each.
    header_len: usize,
    mss: usize,
    /// Longest frame that the host takes, with a tag that is taken out.
    longest: usize,
}

impl Pieces {
    /// Those of a frame whose segments are `segments`, if the host cuts such frames at all.
    pub(super) fn of(frame: &[u8], cut: &Cut, segments: &Segments<'_>, rules: &Rules) -> Option<Self> {
        let headers = Headers::parse(frame)?;
        let limits = lso_limits(&headers, cut.skip, cut.fixed_id, rules)?;
        let offset = headers.transport() - cut.skip;
        let word = Lso::v2(headers.ip(), u32::try_from(cut.mss).ok()?, u16::try_from(offset).ok()?).ok()?;
        Some(Self {
            header: TxHeader { offload: TxOffload::Lso(word), ..cut.header },
            fewest: fewest(&limits),
            header_len: segments.header_len(),
            mss: cut.mss,
            longest: longest(&limits, rules),
        })
    }

    /// How many of `remaining` segments the next piece has, in a frame of at most `room` bytes; `None` if the next segment
    /// goes by itself.
    pub(super) fn next(&self, remaining: usize, room: usize) -> Option<usize> {
        let most = self.longest.min(room).saturating_sub(self.header_len) / self.mss;
        let count = most.min(remaining);
        (count >= self.fewest).then_some(count)
    }
}

/// What the host cuts of frames with these headers; `fixed_id` if it is not to count the identification, which hosts do.
pub(super) fn lso_limits(headers: &Headers, skip: usize, fixed_id: bool, rules: &Rules) -> Option<LsoLimits> {
    let counts = !fixed_id || headers.ip() == IpVersion::V6;
    let usual = headers.transport_protocol() == Some(Transport::Tcp) && !headers.has_options();
    let in_reach = headers.transport() - skip <= FARTHEST_TRANSPORT;
    rules.offloads.lso(headers.ip()).filter(|_| counts && usual && in_reach)
}

/// Fewest segments of a frame that the host cuts.
pub(super) fn fewest(limits: &LsoLimits) -> usize {
    (limits.min_segments as usize).max(2)
}

/// Longest frame that the host cuts, padding and tag included, so that whoever asks for room by its length has asked for
/// enough.
pub(super) fn longest(limits: &LsoLimits, rules: &Rules) -> usize {
    (limits.max_bytes as usize).min(rules.message_limit.saturating_sub(TxHeader::MAX_LEN))
}
