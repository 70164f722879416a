//! One Ethernet frame on its way through the switch.

use core::num::NonZeroU16;

use crate::offload::headers::Headers;

/// How far the checksum of a frame's transport (TCP or UDP) is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checksum {
    /// The frame has what its sender put there: right, wrong or none.
    #[default]
    Unknown,
    /// The field holds the sum of the pseudo header, and whoever sends the frame on a wire completes it: Linux'
    /// `CHECKSUM_PARTIAL`.
    Partial {
        /// Where the bytes begin that are summed, from the frame's first byte on.
        start: u16,
        /// Where the checksum is, counted from there.
        offset: u16,
    },
    /// Known to be right.
    Verified,
}

/// What travels with a frame besides its bytes: what is still to be done with it, and what is known of it.
///
/// Frames are Ethernet frames without a frame check sequence; VLAN tags are in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FrameMeta {
    /// How far the transport's checksum is.
    pub checksum: Checksum,
    /// The frame is a large one, to be cut into frames of so many bytes of TCP or UDP payload each. Its IP lengths are
    /// those of the whole, its checksum is [partial](Checksum::Partial).
    pub segment: Option<NonZeroU16>,
}

impl FrameMeta {
    /// Nothing is to be done, nothing is known.
    pub const PLAIN: Self = Self { checksum: Checksum::Unknown, segment: None };
    /// Nothing is to be done, and the transport's checksum is right.
    pub const VERIFIED: Self = Self { checksum: Checksum::Verified, segment: None };

    /// The same frame with `bytes` more in front of its transport.
    #[must_use]
    pub(crate) fn shifted(self, bytes: u16) -> Self {
        match self.checksum {
            Checksum::Partial { start, offset } => {
                Self { checksum: Checksum::Partial { start: start.saturating_add(bytes), offset }, ..self }
            }
            _ => self,
        }
    }
}

/// A borrowed Ethernet frame, from the destination address on, without frame check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The frame's bytes.
    pub bytes: &'a [u8],
    /// What travels with them.
    pub meta: FrameMeta,
}

impl<'a> Frame<'a> {
    /// A plain frame: no offload is asked for.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, meta: FrameMeta::PLAIN }
    }

    /// A frame of which more is known, or with which more is to be done.
    pub const fn with_meta(bytes: &'a [u8], meta: FrameMeta) -> Self {
        Self { bytes, meta }
    }

    /// Bytes of the longest frame that this one is on a wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        let Some(size) = self.meta.segment else { return self.bytes.len() };
        let payload = Headers::parse_large(self.bytes).and_then(|headers| headers.payload(self.bytes));
        payload.map_or(self.bytes.len(), |payload| self.bytes.len().min(payload + usize::from(size.get())))
    }
}

impl<'a> From<&'a [u8]> for Frame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}

/// What a port does itself with frames that it is given. What it does not, the switch does before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PortOffloads {
    /// Takes frames whose checksum is [partial](Checksum::Partial).
    pub checksum: bool,
    /// Takes large frames of TCP over IPv4.
    pub tcp_ipv4: bool,
    /// Takes large frames of TCP over IPv6.
    pub tcp_ipv6: bool,
    /// Takes large frames of UDP.
    pub udp: bool,
    /// Takes large frames with a VLAN tag in them.
    pub tagged: bool,
}

impl PortOffloads {
    /// Plain frames only.
    pub const NONE: Self = Self { checksum: false, tcp_ipv4: false, tcp_ipv6: false, udp: false, tagged: false };

    /// Whether the port takes this large frame as it is.
    pub(crate) fn takes_segments_of(self, frame: &[u8]) -> bool {
        use crate::offload::headers::{TCP, UDP, tag_bytes};
        use rndis::ppi::IpVersion;
        if !self.checksum {
            return false;
        }
        let Some(headers) = Headers::parse_large(frame) else { return false };
        (self.tagged || tag_bytes(frame) == 0)
            && match (headers.protocol, headers.version) {
                (TCP, IpVersion::V4) => self.tcp_ipv4,
                (TCP, IpVersion::V6) => self.tcp_ipv6,
                (UDP, _) => self.udp,
                _ => false,
            }
    }
}
