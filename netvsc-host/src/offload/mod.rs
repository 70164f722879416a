//! What a network card does for its driver: checksums, segmentation, coalescing; here in software.
//!
//! | file | subject |
//! |---|---|
//! | `headers` | where the headers of a frame are |
//! | `sum` | one's complement sums; checksums completed and seeded |
//! | `verdict` | what a host says of the checksums of a frame that it gives to its guest |
//! | `segment` | a large frame cut into frames for the wire |
//! | `coalesce` | frames of one flow put together |
//!
//! Between ports, what is still to be done with a frame travels beside it ([`FrameMeta`](crate::port::FrameMeta)), in
//! the form of Linux' `CHECKSUM_PARTIAL` and GSO: IP lengths are those of the whole large frame, the IPv4 header's
//! checksum is right for them, and the transport's checksum field holds the sum of the pseudo header. Whoever cannot
//! take that gets [plain frames](plain).
//!
//! Written after RFC 1071, 791, 8200, 9293 and 768, and [MS-NDIS] on task offloads.

pub(crate) mod coalesce;
pub(crate) mod headers;
pub(crate) mod segment;
pub(crate) mod sum;
pub(crate) mod verdict;

#[cfg(test)]
mod vectors;

use crate::port::{Checksum, Frame, PortOffloads};
use headers::Headers;

/// Memory that is used again for every frame.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    whole: Vec<u8>,
    segment: Vec<u8>,
}

/// Gives `frame` to `out` in as many frames as are needed so that nothing is left to be done beyond `can`; says how many
/// they were.
pub(crate) fn plain(
    frame: Frame<'_>,
    can: PortOffloads,
    scratch: &mut Scratch,
    out: &mut dyn FnMut(Frame<'_>),
) -> usize {
    if let Some(size) = frame.meta.segment
        && !can.takes_segments_of(frame.bytes)
    {
        return match Headers::parse_large(frame.bytes) {
            Some(headers) => segment::segments(frame.bytes, &headers, usize::from(size.get()), scratch, out),
            // Cannot be cut: not IP, or cut off itself. Nobody is served by it.
            None => 0,
        };
    }
    match frame.meta.checksum {
        Checksum::Partial { start, offset } if !can.checksum => {
            scratch.whole.clear();
            scratch.whole.extend_from_slice(frame.bytes);
            sum::complete(&mut scratch.whole, start.into(), offset.into());
            out(Frame::new(&scratch.whole));
        }
        _ => out(frame),
    }
    1
}
