//! Frames that are not finished: their checksum is not computed yet, or they are several segments still in one.
//!
//! The kernel passes frames on between its own interfaces before it does such work, and merges received ones (GRO) before an
//! AF_PACKET socket sees them. `PACKET_VNET_HDR` makes it say so, in a header of 10 bytes before the frame. What is described
//! there is done here, so that whoever receives gets what was, or would have been, on the wire.
//!
//! Source: Linux `include/uapi/linux/virtio_net.h`, `include/linux/virtio_net.h` (`virtio_net_hdr_from_skb`),
//! `net/core/dev.c` (`skb_checksum_help`).

use netvsc::checksum::Sum;

/// Bytes of `virtio_net_hdr`.
pub(super) const VIRTIO_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `…_TCPV6`, `…_UDP_L4`.
const SEGMENTED: [u8; 3] = [1, 4, 5];
/// `VIRTIO_NET_HDR_GSO_ECN`.
const ECN: u8 = 0x80;

/// What is not finished about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Nothing; whether somebody has verified its checksum.
    Nothing { verified: bool },
    /// From `start` on its checksum is to be computed, and put `offset` behind that, where the pseudo header's sum stands.
    Checksum { start: usize, offset: usize },
    /// It is to be cut into segments with so much payload.
    Segments { size: usize },
    /// In a way that is not known.
    Unknown,
}

impl Unfinished {
    /// Reads the header.
    pub(super) fn from_header(header: [u8; VIRTIO_HEADER]) -> Self {
        let half = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        let [flags, segmentation, ..] = header;
        match segmentation & !ECN {
            0 if flags & NEEDS_CHECKSUM != 0 => Self::Checksum { start: half(6), offset: half(8) },
            0 => Self::Nothing { verified: flags & DATA_VALID != 0 },
            kind if SEGMENTED.contains(&kind) => Self::Segments { size: half(4) },
            _ => Self::Unknown,
        }
    }
}

/// Has a frame that is sent copied by the kernel as a whole: it is to send what is there now.
///
/// Otherwise it copies the headers and refers to the rest, and gives the slot back when the frame is *orphaned*: between
/// virtual interfaces, and by some drivers, that is before the frame is read. What is put into the slot next would be sent
/// twice then.
pub(super) fn header_to_send(len: u16) -> [u8; VIRTIO_HEADER] {
    let mut header = [0; VIRTIO_HEADER];
    // `hdr_len`: bytes to be copied.
    header[2..4].copy_from_slice(&len.to_ne_bytes());
    header
}

/// Computes a checksum; false if it is not inside of the frame.
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = frame.get_mut(start..) else { return false };
    let sum = match Sum::of(covered).checksum() {
        // The other zero: in UDP none would mean that there is no checksum, and to TCP both are the same.
        0 => 0xFFFF,
        sum => sum,
    };
    match covered.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
        Some(field) => {
            *field = sum.to_be_bytes();
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use netvsc::checksum::{seed, verify};
    use netvsc::frame::Headers;
    use netvsc::meta::Verdict;

    use super::*;
    use crate::vf::sockets::samples::udp;

    #[test]
    fn a_checksum_is_completed_from_the_pseudo_headers_sum() {
        let mut frame = udp();
        let headers = Headers::parse(&frame).unwrap();
        seed(&mut frame, &headers, Some(39)).unwrap();
        assert_eq!(verify(&frame).transport, Verdict::Bad);
        assert!(complete(&mut frame, 34, 6));
        assert_eq!(verify(&frame).transport, Verdict::Good);
    }

    #[test]
    fn offsets_outside_of_the_frame_are_refused() {
        let mut frame = udp();
        let before = frame.clone();
        for (start, offset) in [(usize::MAX, 0), (74, 0), (73, 0), (34, 38), (34, usize::MAX)] {
            assert!(!complete(&mut frame, start, offset), "{start} {offset}");
        }
        assert_eq!(frame, before);
    }

    #[test]
    fn headers_are_read() {
        let header = |flags, kind, size: u16, start: u16, offset: u16| {
            let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
            for (at, value) in [(4, size), (6, start), (8, offset)] {
                header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            }
            Unfinished::from_header(header)
        };
        assert_eq!(header(0, 0, 0, 0, 0), Unfinished::Nothing { verified: false });
        assert_eq!(header(2, 0, 0, 0, 0), Unfinished::Nothing { verified: true });
        assert_eq!(header(1, 0, 0, 34, 16), Unfinished::Checksum { start: 34, offset: 16 });
        for kind in [1, 4, 5, 0x81] {
            assert_eq!(header(1, kind, 1448, 34, 16), Unfinished::Segments { size: 1448 });
        }
        assert_eq!(header(1, 3, 1448, 34, 16), Unfinished::Unknown);
    }
}
