//! What a guest is told of a frame beside its bytes: the verdict on its checksums, its hash, and that it is coalesced.
//!
//! Checksums are verified here in software, unless whoever sent the frame has left them to the host. Segments of TCP are
//! put together while the guest wants it, for as long as a batch of the switch lasts.

use core::num::NonZeroU16;

use rndis::offload::{ChecksumV4Flags, ChecksumV6Flags};
use rndis::ppi::{IpVersion, RxChecksum};

use super::Nic;
use super::rss::FlowHash;
use crate::offload::headers::{Headers, TCP};
use crate::offload::{segment, sum, verdict};
use crate::port::{Checksum, Frame, PortOffloads};
use crate::profile::{RscIpHeader, VlanTags};

/// What a guest is told of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) checksum: RxChecksum,
    pub(super) hash: Option<FlowHash>,
    pub(super) coalesced: Option<Parts>,
}

/// How a coalesced frame is made of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Where the IP header is.
    pub(super) network: usize,
    /// Where the payload begins.
    pub(super) payload_at: usize,
    /// Bytes of each segment but the last.
    pub(super) size: NonZeroU16,
}

impl Told {
    /// How many messages a frame of so many bytes takes.
    pub(super) fn pieces(&self, frame_bytes: usize) -> usize {
        self.coalesced.map_or(1, |parts| {
            segment::count(frame_bytes.saturating_sub(parts.payload_at), usize::from(parts.size.get()))
        })
    }

    /// Whether the guest is told that the IPv4 header's checksum has to be computed anew.
    pub(super) fn zeroes_ip_header(&self) -> bool {
        self.checksum.contains(RxChecksum::IP_VALUE_INVALID)
    }
}

impl Nic {
    /// What the guest takes without the switch's help.
    pub(super) fn takes(&self) -> PortOffloads {
        PortOffloads {
            checksum: true,
            tcp_ipv4: self.coalesces(IpVersion::V4),
            tcp_ipv6: self.coalesces(IpVersion::V6),
            udp: false,
            tagged: self.config.settings.vlan == VlanTags::PerPacketInfo,
        }
    }

    fn coalesces(&self, version: IpVersion) -> bool {
        let now = &self.session.offload;
        let (wanted, verified) = match version {
            IpVersion::V4 => (now.rsc_v4 != 0, now.checksum_v4_rx.flags.contains(ChecksumV4Flags::TCP)),
            IpVersion::V6 => (now.rsc_v6 != 0, now.checksum_v6_rx.flags.contains(ChecksumV6Flags::TCP)),
        };
        wanted && verified && self.max_segments() > 1
    }

    /// Most segments of a coalesced frame.
    fn max_segments(&self) -> usize {
        let settings = &self.config.settings;
        let sections = self.session.receive_buffer.as_ref().map_or(0, |buffer| buffer.for_frames());
        // One packet holds them all: a host that makes short packets makes short frames, too.
        let ranges = if settings.max_ranges < nvsp::MAX_TRANSFER_RANGES { self.max_ranges() } else { usize::MAX };
        settings.rsc_max_segments.min(ranges).min(sections).min(self.ranges_a_ring)
    }

    /// Finds out what the guest is told of a frame, and gives it both; false if it is dropped.
    pub(super) fn give_told(&mut self, frame: Frame<'_>) -> bool {
        let headers = Headers::parse(frame.bytes);
        if let Some(headers) = headers.filter(|_| frame.meta.segment.is_some()) {
            self.flush_coalesced();
            return self.give_large(frame, &headers);
        }
        let Checksum::Partial { start, offset } = frame.meta.checksum else {
            return self.tell_whole(frame.bytes, headers.as_ref(), frame.meta.checksum);
        };
        let (start, offset) = (usize::from(start), usize::from(offset));
        let mut bytes = std::mem::take(&mut self.receive.completed);
        bytes.clear();
        bytes.extend_from_slice(frame.bytes);
        sum::complete(&mut bytes, start, offset);
        // It may be the checksum of another header, within a tunnel.
        let of_transport =
            headers.is_some_and(|headers| start == headers.transport && Some(offset) == headers.checksum_offset());
        let known = if of_transport { Checksum::Verified } else { Checksum::Unknown };
        let given = self.tell_whole(&bytes, headers.as_ref(), known);
        self.receive.completed = bytes;
        given
    }

    fn tell_whole(&mut self, bytes: &[u8], headers: Option<&Headers>, known: Checksum) -> bool {
        let Some(headers) = headers else {
            return self.give(bytes, Told { checksum: RxChecksum::EMPTY, hash: None, coalesced: None });
        };
        let checksum = self.verdict(bytes, headers, known);
        if headers.protocol == TCP && self.coalesces(headers.version) {
            let good = checksum.contains(RxChecksum::TCP_SUCCEEDED);
            let max_segments = self.max_segments();
            let mut coalescer = std::mem::take(&mut self.receive.coalescer);
            let taken = good && coalescer.offer(bytes, headers, max_segments);
            if !good {
                coalescer.flush();
            }
            self.receive.coalescer = coalescer;
            self.give_coalesced();
            if taken {
                return true;
            }
        }
        let hash = self.hash(bytes, headers);
        let checksum = self.as_told(checksum);
        self.give(bytes, Told { checksum, hash, coalesced: None })
    }

    /// Gives the guest all that was being put together.
    pub(super) fn flush_coalesced(&mut self) {
        if self.receive.coalescer.len() > 0 {
            self.receive.coalescer.flush();
            self.give_coalesced();
        }
    }

    fn give_coalesced(&mut self) {
        while let Some(whole) = self.receive.coalescer.pop_ready() {
            let size = NonZeroU16::new(whole.size).filter(|_| whole.segments > 1);
            let headers = Headers::parse(&whole.bytes).unwrap_or(whole.headers);
            match size {
                Some(size) => self.give_segments(&whole.bytes, &headers, size),
                None => {
                    let checksum = self.verdict(&whole.bytes, &headers, Checksum::Verified);
                    let hash = self.hash(&whole.bytes, &headers);
                    let checksum = self.as_told(checksum);
                    self.give(&whole.bytes, Told { checksum, hash, coalesced: None })
                }
            };
            self.receive.coalescer.recycle(whole);
        }
    }

    /// A large frame from another port, in as few coalesced ones as the guest takes.
    fn give_large(&mut self, frame: Frame<'_>, headers: &Headers) -> bool {
        let Some(size) = frame.meta.segment else { return false };
        let payload = headers.payload(frame.bytes).map_or(0, |at| headers.end.saturating_sub(at));
        let step = usize::from(size.get()) * self.max_segments();
        if payload <= step {
            return self.give_segments(frame.bytes, headers, size);
        }
        let mut part = std::mem::take(&mut self.receive.completed);
        let mut given = false;
        segment::cut(frame.bytes, headers, step, &mut part, &mut |part, headers| {
            given |= self.give_segments(part, headers, size);
        });
        self.receive.completed = part;
        given
    }

    fn give_segments(&mut self, bytes: &[u8], headers: &Headers, size: NonZeroU16) -> bool {
        let Some(payload_at) = headers.payload(bytes).filter(|&at| at < headers.end) else { return false };
        let mut checksum = RxChecksum::TCP_SUCCEEDED | RxChecksum::TCP_VALUE_INVALID;
        let mut copy = Vec::new();
        let mut bytes = bytes;
        if headers.version == IpVersion::V4 {
            checksum |= RxChecksum::IP_SUCCEEDED;
            if self.config.settings.rsc_ip_header == RscIpHeader::Invalid {
                checksum |= RxChecksum::IP_VALUE_INVALID;
            } else if !sum::ip_header_is_right(bytes, headers) {
                copy.extend_from_slice(bytes);
                sum::fill_ip_header(&mut copy, headers);
                bytes = &copy;
            }
        }
        let checksum = self.as_told(checksum);
        let hash = self.hash(bytes, headers);
        let coalesced = Some(Parts { network: headers.network, payload_at, size });
        self.give(&bytes[..headers.end], Told { checksum, hash, coalesced })
    }

    fn hash(&self, bytes: &[u8], headers: &Headers) -> Option<FlowHash> {
        self.session.rss.as_ref().and_then(|rss| rss.hash(bytes, headers))
    }

    /// The verdict on a frame, as far as the guest wants to hear it.
    fn verdict(&self, bytes: &[u8], headers: &Headers, known: Checksum) -> RxChecksum {
        let now = &self.session.offload;
        let mut wanted = RxChecksum::EMPTY;
        let mut want = |on: bool, bits: RxChecksum| {
            if on {
                wanted |= bits;
            }
        };
        const IP: RxChecksum = RxChecksum(RxChecksum::IP_SUCCEEDED.0 | RxChecksum::IP_FAILED.0);
        const ON_TCP: RxChecksum = RxChecksum(RxChecksum::TCP_SUCCEEDED.0 | RxChecksum::TCP_FAILED.0);
        const ON_UDP: RxChecksum = RxChecksum(RxChecksum::UDP_SUCCEEDED.0 | RxChecksum::UDP_FAILED.0);
        match headers.version {
            IpVersion::V4 => {
                let flags = now.checksum_v4_rx.flags;
                want(flags.contains(ChecksumV4Flags::IP_HEADER), IP);
                want(flags.contains(ChecksumV4Flags::TCP), ON_TCP);
                want(flags.contains(ChecksumV4Flags::UDP), ON_UDP);
            }
            IpVersion::V6 => {
                let flags = now.checksum_v6_rx.flags;
                want(flags.contains(ChecksumV6Flags::TCP), ON_TCP);
                want(flags.contains(ChecksumV6Flags::UDP), ON_UDP);
            }
        }
        if wanted == RxChecksum::EMPTY {
            return wanted;
        }
        RxChecksum(verdict::of(bytes, Some(headers), known).0 & wanted.0)
    }

    /// What hosts of some releases, and faults, make of a verdict.
    fn as_told(&mut self, verdict: RxChecksum) -> RxChecksum {
        let mut told = verdict;
        if self.faults.on_verdict() {
            told = opposite(told);
        }
        if self.config.settings.tcp_verdict_for_udp && told.contains(RxChecksum::UDP_SUCCEEDED) {
            told = RxChecksum(told.0 & !RxChecksum::UDP_SUCCEEDED.0 | RxChecksum::TCP_SUCCEEDED.0);
        }
        told
    }
}

/// Bad for good, and good for bad.
fn opposite(verdict: RxChecksum) -> RxChecksum {
    const PAIRS: [(RxChecksum, RxChecksum); 2] =
        [(RxChecksum::TCP_SUCCEEDED, RxChecksum::TCP_FAILED), (RxChecksum::UDP_SUCCEEDED, RxChecksum::UDP_FAILED)];
    let mut turned = verdict;
    for (good, bad) in PAIRS {
        let both = good.0 | bad.0;
        if verdict.0 & both != 0 {
            turned = RxChecksum(turned.0 ^ both);
        }
    }
    turned
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
