//! What travels beside a frame: checksum verdicts and requests, VLAN tag, flow hash, segmentation, and its path.
//!
//! [`RxMeta`] is what the host said about a frame that was received; [`TxMeta`] is what the host shall do to a frame that is
//! sent. Both are small and `Copy`, and their default means "nothing is known" and "do nothing".
//!
//! Whether the host grants an offload is decided elsewhere; here it is only written down. Wire forms: per-packet
//! information, [`rndis::ppi`]. Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_xmit`, `netvsc_alloc_recv_skb`).

use rndis::ppi::{HashInfo, PacketInfo};

use crate::frame::Headers;

pub use rndis::ppi::{IpVersion, Transport, Vlan};

/// What is known about a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxMeta {
    /// What the host found out about the checksums.
    pub checksum: RxChecksum,
    /// 802.1Q tag; the frame itself has none then.
    pub vlan: Option<Vlan>,
    /// Hash of the flow.
    pub hash: Option<Hash>,
    /// Which way the frame came.
    pub path: Path,
    /// Set if the host merged several segments into this frame.
    pub coalesced: Option<Coalesced>,
}

/// A verdict on one checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// The host said nothing: verify it yourself.
    #[default]
    Unknown,
    /// Right.
    Good,
    /// Wrong. The frame is delivered all the same; it is up to the stack.
    Bad,
}

/// What the host found out about a frame's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxChecksum {
    /// IPv4 header.
    pub ip: Verdict,
    /// TCP or UDP.
    ///
    /// Some hosts of 2016 report UDP as TCP, so either verdict counts for both (FreeBSD `if_hn.c`).
    pub transport: Verdict,
    /// The header was verified, but the sum that stands in the frame is not its sum and has to be computed anew before
    /// the frame is passed on.
    pub ip_stale: bool,
    /// As [`ip_stale`](Self::ip_stale), for TCP.
    pub transport_stale: bool,
}

impl RxChecksum {
    #[inline]
    fn from_wire(bits: rndis::ppi::RxChecksum) -> Self {
        use rndis::ppi::RxChecksum as Bits;
        const TRANSPORT_FAILED: u32 = Bits::TCP_FAILED.0 | Bits::UDP_FAILED.0;
        const TRANSPORT_SUCCEEDED: u32 = Bits::TCP_SUCCEEDED.0 | Bits::UDP_SUCCEEDED.0;
        Self {
            ip: verdict(bits.0, Bits::IP_SUCCEEDED.0, Bits::IP_FAILED.0),
            transport: verdict(bits.0, TRANSPORT_SUCCEEDED, TRANSPORT_FAILED),
            ip_stale: bits.contains(Bits::IP_VALUE_INVALID),
            transport_stale: bits.contains(Bits::TCP_VALUE_INVALID),
        }
    }
}

/// A host that says both is not believed.
#[inline]
fn verdict(bits: u32, good: u32, bad: u32) -> Verdict {
    if bits & bad != 0 {
        Verdict::Bad
    } else if bits & good != 0 {
        Verdict::Good
    } else {
        Verdict::Unknown
    }
}

/// Hash of the flow that a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash {
    /// The hash.
    pub value: u32,
    /// What it covers; [`HashInfo::EMPTY`] if the host did not say.
    pub covers: HashInfo,
}

/// Which way a frame came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Path {
    /// Through the rings.
    #[default]
    Synthetic,
    /// Through the SR-IOV virtual function.
    VirtualFunction,
}

/// A frame that was merged: by the host (receive segment coalescing), or by [`gro`](crate::gro).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalesced {
    /// Ranges that it came in, or frames that it was merged from.
    pub fragments: u16,
    /// Payload bytes of each segment that was merged but the last, which may have fewer; 0 if it is not known. Hosts do not
    /// say it: it is taken from what the frame came in or, if that cannot be, from the MTU.
    pub segment_size: u16,
    /// All segments had the same IPv4 identification, instead of one more each.
    pub fixed_id: bool,
}

impl RxMeta {
    /// From the per-packet information of the frame's (first) message.
    #[inline]
    pub(crate) fn from_info(info: &PacketInfo) -> Self {
        Self {
            checksum: info.rx_checksum().map_or_else(RxChecksum::default, RxChecksum::from_wire),
            vlan: info.vlan,
            hash: info.hash_value.map(|value| Hash { value, covers: info.hash_info.unwrap_or(HashInfo::EMPTY) }),
            path: Path::Synthetic,
            coalesced: None,
        }
    }
}

/// What the host shall do to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxMeta {
    /// Compute checksums. Not looked at if [`segmentation`](Self::segmentation) is asked for, which implies them.
    pub checksum: Option<TxChecksum>,
    /// Add an 802.1Q tag; one that the frame itself has is the inner one then.
    pub vlan: Option<Vlan>,
    /// Hash of the flow, by which the host picks the channel that it answers on.
    pub hash: Option<u32>,
    /// Cut it into segments.
    pub segmentation: Option<Segmentation>,
}

impl TxMeta {
    /// What it takes to send a received frame on, through an adapter of this MTU: its tag; the segments that it was merged
    /// from, or as long ones as the MTU has room for if they are not known; checksums that were left stale.
    ///
    /// The frame's addresses may have been changed, and its IP header, as long as its checksums were.
    #[inline]
    #[must_use]
    pub fn passing_on(frame: &[u8], meta: &RxMeta, mtu: u32) -> Self {
        let plain = Self { vlan: meta.vlan, ..Self::default() };
        if meta.coalesced.is_none() && !meta.checksum.ip_stale && !meta.checksum.transport_stale {
            return plain;
        }
        plain.with_work(frame, meta, mtu)
    }

    #[inline(never)]
    fn with_work(self, frame: &[u8], meta: &RxMeta, mtu: u32) -> Self {
        let Some(headers) = Headers::parse(frame) else { return self };
        let transport_offset = headers.transport() as u16;
        let ip = headers.ip();
        let payload = headers.payload(frame);
        if let (Some(coalesced), Some(payload)) = (meta.coalesced, payload) {
            let mss = match coalesced.segment_size {
                0 => mtu.saturating_sub((payload - headers.network()) as u32),
                known => u32::from(known),
            };
            if mss > 0 {
                let segmentation = Segmentation { ip, mss, transport_offset, fixed_id: coalesced.fixed_id };
                return Self { segmentation: Some(segmentation), ..self };
            }
        }
        let checksum = TxChecksum {
            ip,
            ip_header: ip == IpVersion::V4 && meta.checksum.ip_stale,
            transport: headers.transport_protocol().filter(|_| meta.checksum.transport_stale && payload.is_some()),
            transport_offset,
        };
        Self { checksum: (checksum.ip_header || checksum.transport.is_some()).then_some(checksum), ..self }
    }
}

/// Checksums that shall be computed: by the host where that was granted, otherwise here.
///
/// What stands in the fields does not matter. Fragments keep the transport checksum that they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxChecksum {
    /// Version of IP.
    pub ip: IpVersion,
    /// Compute the IPv4 header checksum, too.
    pub ip_header: bool,
    /// Transport protocol whose checksum is wanted, if any.
    pub transport: Option<Transport>,
    /// Offset of the transport header from the frame's first byte, at most 1023.
    pub transport_offset: u16,
}

/// How a large TCP segment, or a large UDP datagram, is cut: by the host (large send, version 2, TCP only) where that was
/// granted, otherwise here.
///
/// What stands in length and checksum fields does not matter, as long as the IP length is zero or fits the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Version of IP.
    pub ip: IpVersion,
    /// Payload bytes of each segment, behind TCP's or UDP's header; the frames may be no longer than the MTU allows.
    pub mss: u32,
    /// Offset of the TCP header from the frame's first byte, at most 1023.
    pub transport_offset: u16,
    /// All segments have the same IPv4 identification. Hosts count it, so such a frame is cut in software.
    pub fixed_id: bool,
}
