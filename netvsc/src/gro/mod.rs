//! Generic receive offload: segments of one flow that follow each other are merged into one large frame, so that whoever
//! takes them pays once for many.
//!
//! [`Gro`] decides, frame by frame; it holds what may still grow, and hands out what is complete. It does not care where
//! frames lie: it is shown a frame's bytes and keeps a *token* for it, be it an index into a burst (nothing is copied then,
//! and what comes out is a chain of borrowed fragments) or an owned packet. [`Merged::gather`] makes one buffer of a chain.
//! [`BurstMerger`] is that for [`Burst`](crate::Burst)s.
//!
//! What was merged can be [cut](crate::segment) again into the very segments that came in: the headers of all segments are
//! compared for what cutting does not restore, and what does not fit passes by itself.
//!
//! # Rules
//! Eight buckets of up to eight held frames, one a flow; a ninth evicts the oldest. Frames of a flow never overtake each
//! other: what cannot be merged has the held frame of its flow handed out first.
//!
//! | | merged are |
//! |---|---|
//! | both | same Ethernet header, tags in and out of band, addresses, ports; IPv4 without options, header checksum right; not fragmented; same type of service, time to live, "do not fragment"; identification counting or, with "do not fragment", constant; IPv6 with the same flow label, class, hop limit and extension headers; checksum right, by the host's verdict or computed; payload not empty, not longer than the first one's |
//! | TCP | sequence contiguous (modulo 2³²), same acknowledgment, window, options; flags the same but for FIN and PSH; neither SYN, RST nor URG, and CWR on the first only |
//! | UDP, if [asked for](GroConfig::udp) | checksum not zero, length as IP says |
//!
//! A frame is complete with a payload shorter than the first, FIN or PSH, and at the [limits](GroConfig). Padding behind the
//! IP packet is cut off. Checksums that are right but written as the other zero are not merged, as cutting would not write
//! them so.
//!
//! Source: Linux `net/core/gro.c`, `net/ipv4/af_inet.c` (`inet_gro_receive`), `net/ipv4/tcp_offload.c` (`tcp_gro_receive`),
//! `net/ipv4/udp_offload.c` (`udp_gro_receive_segment`). Stricter than Linux: flow labels, extension headers and urgent
//! pointers that differ end the held frame, lest later segments overtake it; SYN, RST and URG are never held.

mod burst;
mod candidate;
mod held;
mod merged;
mod stats;

use alloc::vec::{Drain, Vec};
use core::time::Duration;

use candidate::{Candidate, Kind};
use held::{Fit, Held};

pub use burst::{BurstMerger, Chain, Received};
pub use merged::Merged;
pub use stats::{FlushReason, GroStats};

use crate::frame::Headers;
use crate::meta::RxMeta;
use crate::time::Instant;

/// Buckets by flow hash (Linux `GRO_HASH_BUCKETS`).
const BUCKETS: usize = 8;
/// Held frames of a bucket (Linux `MAX_GRO_SKBS`).
const DEPTH: usize = 8;
/// Longest IP packet.
const MAX_PACKET: usize = 0xFFFF;

/// What is merged, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroConfig {
    /// Merge TCP. Default: yes.
    pub tcp: bool,
    /// Merge UDP datagrams of one size. Default: no, since whoever takes the frames must know how to take them apart.
    pub udp: bool,
    /// Compute the checksum of frames on which the host gave no verdict. Default: yes; otherwise they pass.
    pub verify: bool,
    /// Longest merged IP packet, up to 65535, the default.
    pub max_bytes: usize,
    /// Most segments of a merged frame, 2 to 1024. Default: 64.
    pub max_segments: u16,
    /// How long a frame may be held. Default: `None`, until the end of the poll that received it.
    pub flush_after: Option<Duration>,
}

impl Default for GroConfig {
    fn default() -> Self {
        Self { tcp: true, udp: false, verify: true, max_bytes: MAX_PACKET, max_segments: 64, flush_after: None }
    }
}

impl GroConfig {
    /// With UDP or without.
    #[must_use]
    pub const fn with_udp(mut self, udp: bool) -> Self {
        self.udp = udp;
        self
    }

    /// With frames held for some time beyond the poll that received them.
    #[must_use]
    pub const fn with_flush_after(mut self, after: Option<Duration>) -> Self {
        self.flush_after = after;
        self
    }

    /// With another limit on the segments of a merged frame.
    #[must_use]
    pub const fn with_max_segments(mut self, segments: u16) -> Self {
        self.max_segments = segments;
        self
    }

    /// With another limit on the length of a merged IP packet.
    #[must_use]
    pub const fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// Takes what [`Gro`] hands out.
pub trait Deliver<T> {
    /// A frame as it came.
    fn frame(&mut self, frame: T);

    /// A merged frame: its fragments in order, two or more.
    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, T>);
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Out, by itself.
    Pass,
    /// Into a slot, which expects it and nothing else.
    Slot {
        slot: usize,
        /// Nothing may follow it.
        complete: bool,
    },
}

/// Merges the frames of one receive queue. `T` is what is kept of each frame.
#[derive(Debug)]
pub struct Gro<T> {
    config: GroConfig,
    slots: Vec<Held<T>>,
    /// Slots that hold something: a byte for each bucket.
    active: u64,
    /// Counts held frames, so that the oldest of a bucket is known.
    turn: u64,
    stats: GroStats,
}

impl<T> Gro<T> {
    /// Holds nothing. Allocates its table here, and room for the tokens of a slot when that is first used.
    #[must_use]
    pub fn new(config: GroConfig) -> Self {
        let config = GroConfig {
            max_bytes: config.max_bytes.min(MAX_PACKET),
            max_segments: config.max_segments.clamp(2, 1024),
            ..config
        };
        let slots = (0..BUCKETS * DEPTH).map(|_| Held::default()).collect();
        Self { config, slots, active: 0, turn: 0, stats: GroStats::default() }
    }

    /// The settings, brought into their limits.
    #[must_use]
    pub fn config(&self) -> &GroConfig {
        &self.config
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &GroStats {
        &self.stats
    }

    /// What happened since the last call; [`stats`](Self::stats) begins anew.
    pub fn take_stats(&mut self) -> GroStats {
        core::mem::take(&mut self.stats)
    }

    /// Whether nothing is held.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active == 0
    }

    /// Takes one received frame: `bytes` and `meta` are looked at now, `token` is kept if the frame is. What has to be
    /// handed out goes to `to`.
    #[inline]
    pub fn receive(&mut self, bytes: &[u8], meta: &RxMeta, token: T, now: Instant, to: &mut impl Deliver<T>) {
        let place = self.look(bytes, meta, now, to);
        self.put(place, token, to);
    }

    /// As [`receive`](Self::receive), for tokens that are the frames.
    #[inline]
    pub fn receive_owned(&mut self, frame: T, meta: &RxMeta, now: Instant, to: &mut impl Deliver<T>)
    where
        T: AsRef<[u8]>,
    {
        let place = self.look(frame.as_ref(), meta, now, to);
        self.put(place, frame, to);
    }

    /// Hands out everything: at the end of a poll, if nothing is to be held beyond it.
    pub fn flush(&mut self, to: &mut impl Deliver<T>) {
        while self.active != 0 {
            self.flush_slot(self.active.trailing_zeros() as usize, FlushReason::PollEnd, to);
        }
    }

    /// The end of a poll: hands out what has been held long enough by the [settings](GroConfig::flush_after), which is
    /// everything if they name no time.
    pub fn end_poll(&mut self, now: Instant, to: &mut impl Deliver<T>) {
        let Some(limit) = self.config.flush_after else { return self.flush(to) };
        let mut rest = self.active;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if self.slots[slot].since + limit <= now {
                self.flush_slot(slot, FlushReason::Age, to);
            }
        }
    }

    /// When [`end_poll`](Self::end_poll) has something to hand out, if nothing is received until then.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let limit = self.config.flush_after.unwrap_or_default();
        (0..self.slots.len())
            .filter(|slot| self.active & (1 << slot) != 0)
            .map(|slot| self.slots[slot].since + limit)
            .min()
    }

    /// Finds a frame's place. What is in its way is handed out.
    // The way of a frame from here on is one function. Headers that are handed on by value are written field by field and
    // read at once, which processors wait for: so inlined, a frame takes about a third less.
    #[inline(always)]
    fn look(&mut self, bytes: &[u8], meta: &RxMeta, now: Instant, to: &mut impl Deliver<T>) -> Place {
        self.stats.frames += 1;
        let Some(headers) = Headers::parse(bytes) else { return Place::Pass };
        match candidate::classify(bytes, headers, meta, &self.config) {
            Kind::Candidate(candidate) => return self.take(&candidate, meta, now, to),
            Kind::OfFlow { hash } => {
                if let Some(slot) = self.find(bytes, &headers, meta, hash) {
                    self.flush_slot(slot, FlushReason::Unmergeable, to);
                }
            }
            Kind::WithoutPorts => self.flush_addresses(headers.addresses(bytes), to),
        }
        Place::Pass
    }

    /// Finds the place of a frame that can be merged.
    #[inline(always)]
    fn take(&mut self, candidate: &Candidate<'_>, meta: &RxMeta, now: Instant, to: &mut impl Deliver<T>) -> Place {
        if let Some(slot) = self.find(candidate.frame, &candidate.headers, meta, candidate.hash) {
            let held = &mut self.slots[slot];
            match held.fit(candidate, &self.config) {
                Fit::Yes => return Place::Slot { slot, complete: held.merge(candidate) },
                Fit::No(reason) => self.flush_slot(slot, reason, to),
            }
        }
        if !candidate.may_start {
            return Place::Pass;
        }
        let slot = self.free_slot(candidate.hash, to);
        self.turn += 1;
        self.slots[slot].start(candidate, meta, now, self.turn, usize::from(self.config.max_segments));
        self.active |= 1 << slot;
        Place::Slot { slot, complete: false }
    }

    /// Puts a frame in its place.
    #[inline(always)]
    fn put(&mut self, place: Place, token: T, to: &mut impl Deliver<T>) {
        match place {
            Place::Pass => {
                self.stats.passed += 1;
                to.frame(token);
            }
            Place::Slot { slot, complete } => {
                let held = &mut self.slots[slot];
                held.fragments.push(token);
                if complete {
                    self.flush_slot(slot, FlushReason::Complete, to);
                } else if held.segments() >= usize::from(self.config.max_segments) {
                    self.flush_slot(slot, FlushReason::Full, to);
                }
            }
        }
    }

    /// The slot that holds a frame of the same flow.
    #[inline(always)]
    fn find(&self, frame: &[u8], headers: &Headers, meta: &RxMeta, hash: u32) -> Option<usize> {
        let first = hash as usize % BUCKETS * DEPTH;
        let mut rest = self.active >> first & 0xFF;
        while rest != 0 {
            let slot = first + rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if self.slots[slot].is_of_flow(frame, headers, meta, hash) {
                return Some(slot);
            }
        }
        None
    }

    /// A slot for a new flow; makes room if there is none.
    #[inline]
    fn free_slot(&mut self, hash: u32, to: &mut impl Deliver<T>) -> usize {
        let first = hash as usize % BUCKETS * DEPTH;
        let free = (!(self.active >> first) & 0xFF).trailing_zeros() as usize;
        if free < DEPTH {
            return first + free;
        }
        let oldest = (first..first + DEPTH).min_by_key(|slot| self.slots[*slot].turn).unwrap_or(first);
        self.flush_slot(oldest, FlushReason::Evicted, to);
        oldest
    }

    /// Hands out the frames that a frame without ports could belong to.
    fn flush_addresses(&mut self, addresses: &[u8], to: &mut impl Deliver<T>) {
        let mut rest = self.active;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if self.slots[slot].addresses() == addresses {
                self.flush_slot(slot, FlushReason::Unmergeable, to);
            }
        }
    }

    fn flush_slot(&mut self, slot: usize, reason: FlushReason, to: &mut impl Deliver<T>) {
        self.active &= !(1 << slot);
        let held = &mut self.slots[slot];
        let segments = held.segments();
        if segments == 1 {
            self.stats.single += 1;
            held.fragments.drain(..).for_each(|frame| to.frame(frame));
            return;
        }
        self.stats.merged += segments as u64;
        self.stats.aggregates += 1;
        self.stats.flushes[reason as usize] += 1;
        let (merged, fragments) = held.split();
        to.merged(&merged, fragments);
    }
}
