//! Cuts large frames into segments in software: TCP as the host's large send does it (TSO), UDP into datagrams of one size
//! (USO), and frames that the host or [`gro`](crate::gro) merged back into what they were merged from.
//!
//! [`Segments`] knows from the start how many segments there are and how long each is, and writes one after the other into
//! memory of the caller's; it allocates nothing. Every segment has the frame's headers, VLAN tags, options and extension
//! headers included, but for
//!
//! | field | is |
//! |---|---|
//! | IPv4 total length, IPv6 payload length, UDP length | the segment's |
//! | IPv4 identification | one more each, or [the same in all](Segments::with_fixed_id) |
//! | TCP sequence number | that of the segment's first byte |
//! | TCP FIN and PSH | on the last segment only |
//! | TCP CWR | on the first segment only |
//! | checksums | right |
//!
//! What stands in length and checksum fields of the large frame does not matter, as long as the IP length is zero (the form
//! that hosts want) or fits the frame: bytes behind the packet's end are padding and not sent.
//!
//! Sources: NDIS "Offloading the Segmentation of Large TCP Packets"; Linux `net/ipv4/tcp_offload.c` (`tcp_gso_segment`),
//! `net/ipv4/udp_offload.c` (`__udp_gso_segment`).

mod headers;

use core::fmt;

pub use headers::{SegmentHeaders, Unsegmentable};

/// A buffer that a segment does not fit in. The segment is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// Bytes of the segment.
    pub needed: usize,
    /// Bytes of the buffer.
    pub len: usize,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment of {} bytes does not fit a buffer of {}", self.needed, self.len)
    }
}

impl core::error::Error for BufferTooSmall {}

/// The segments of one frame.
///
/// ```
/// use netvsc::segment::Segments;
/// # fn send(_: &[u8]) {}
/// # fn example(frame: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// let mut segments = Segments::new(frame, 1448)?;
/// let mut buffer = vec![0; segments.max_len()];
/// while let Some(len) = segments.next_into(&mut buffer)? {
///     send(&buffer[..len]);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    payload: &'a [u8],
    headers: SegmentHeaders<'a>,
    next: usize,
}

impl<'a> Segments<'a> {
    /// The segments of `frame`, each with at most `mss` bytes behind the TCP or UDP header.
    ///
    /// # Errors
    /// [`Unsegmentable`].
    #[inline]
    pub fn new(frame: &'a [u8], mss: usize) -> Result<Self, Unsegmentable> {
        let headers = SegmentHeaders::of_frame(frame, mss)?;
        // Both ends were found in this frame.
        let payload = frame.get(headers.len()..headers.len() + headers.payload_len()).unwrap_or_default();
        Ok(Self { payload, headers, next: 0 })
    }

    /// With the same IPv4 identification in all segments, as frames have it that may not be fragmented and whose sender does
    /// not count them.
    #[must_use]
    pub fn with_fixed_id(mut self, fixed: bool) -> Self {
        self.headers = self.headers.with_fixed_id(fixed);
        self
    }

    /// Without the first `index` segments.
    #[must_use]
    pub fn starting_at(mut self, index: usize) -> Self {
        self.next = index.min(self.headers.count());
        self
    }

    /// The next `count` TCP segments as one frame that a host is to cut: writes its headers to the start of `out`, and gives
    /// their length and the payload. The segments stay where they are until [`skip`](Self::skip).
    ///
    /// # Errors
    /// [`BufferTooSmall`].
    pub(crate) fn large_parts(&self, count: usize, out: &mut [u8]) -> Result<(usize, &'a [u8]), BufferTooSmall> {
        let (needed, len) = (self.headers.len(), out.len());
        let header = out.get_mut(..needed).ok_or(BufferTooSmall { needed, len })?;
        self.headers.write_large(self.next, count, header);
        Ok((needed, self.headers.payload_of(self.next, count, self.payload)))
    }

    /// Leaves out the next `count` segments.
    pub(crate) fn skip(&mut self, count: usize) {
        self.next = self.next.saturating_add(count).min(self.headers.count());
    }

    /// Bytes of the headers of each segment.
    pub(crate) fn header_len(&self) -> usize {
        self.headers.len()
    }

    /// How many segments there are in all; at least one.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.headers.count()
    }

    /// How many are still to come.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.headers.count() - self.next
    }

    /// Bytes of segment `index`, from its Ethernet header on.
    #[inline]
    #[must_use]
    pub fn len(&self, index: usize) -> usize {
        self.headers.segment_len(index)
    }

    /// Bytes of the next segment.
    #[inline]
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        (self.remaining() > 0).then(|| self.len(self.next))
    }

    /// Bytes of the longest segment.
    #[inline]
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.len(0)
    }

    /// Bytes of all segments together.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.headers.count() * self.headers.len() + self.payload.len()
    }

    /// Writes the next segment to the start of `out`; its length, or `None` after the last.
    ///
    /// # Errors
    /// [`BufferTooSmall`]; the same segment comes again then.
    #[inline]
    pub fn next_into(&mut self, out: &mut [u8]) -> Result<Option<usize>, BufferTooSmall> {
        let header_len = self.headers.len();
        let Some(needed) = self.next_len() else { return Ok(None) };
        let too_small = BufferTooSmall { needed, len: out.len() };
        let (header, rest) = out.split_at_mut_checked(header_len).ok_or(too_small)?;
        let to = rest.get_mut(..needed - header_len).ok_or(too_small)?;
        let payload = self.headers.payload_of(self.next, 1, self.payload);
        to.copy_from_slice(payload);
        self.headers.write(self.next, payload, header);
        self.next += 1;
        Ok(Some(needed))
    }

    /// Writes the next segment's headers to the start of `out`, and gives their length and the payload that belongs behind
    /// them: for whoever gathers. `None` after the last.
    ///
    /// # Errors
    /// [`BufferTooSmall`]; the same segment comes again then.
    #[inline]
    pub fn next_parts(&mut self, out: &mut [u8]) -> Result<Option<(usize, &'a [u8])>, BufferTooSmall> {
        if self.remaining() == 0 {
            return Ok(None);
        }
        let needed = self.headers.len();
        let len = out.len();
        let header = out.get_mut(..needed).ok_or(BufferTooSmall { needed, len })?;
        let payload = self.headers.payload_of(self.next, 1, self.payload);
        self.headers.write(self.next, payload, header);
        self.next += 1;
        Ok(Some((needed, payload)))
    }
}
