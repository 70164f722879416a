//! The header before each frame of a TAP with `IFF_VNET_HDR`: what the kernel leaves to be done, and what it is left.
//!
//! Source: Linux `include/uapi/linux/virtio_net.h`, `include/linux/virtio_net.h`, `drivers/net/tun.c`. Its words are in
//! the machine's order.

use core::num::NonZeroU16;

use rndis::ppi::IpVersion;
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use crate::offload::headers::{Headers, TCP};
use crate::port::{Checksum, Frame, FrameMeta};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = VIRTIO_NET_HDR_LEN;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// What was read: a frame behind its header. `None` if it asks for what was not turned on.
pub(super) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let header = VirtioNetHdr::decode(bytes).ok()?;
    let frame = bytes.get(HEADER_BYTES..)?;
    let checksum = if header.flags & NEEDS_CHECKSUM != 0 {
        Checksum::Partial { start: header.csum_start, offset: header.csum_offset }
    } else if header.flags & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unknown
    };
    let segment = match header.gso_type {
        GSO_NONE => None,
        GSO_TCP_V4 | GSO_TCP_V6 | GSO_UDP_L4 => Some(NonZeroU16::new(header.gso_size)?),
        _ => return None,
    };
    Some(Frame::with_meta(frame, FrameMeta { checksum, segment, ..FrameMeta::PLAIN }))
}

/// The header for a frame that is to be written.
pub(super) fn header(frame: &Frame<'_>) -> [u8; HEADER_BYTES] {
    let mut header = VirtioNetHdr::default();
    match frame.meta.checksum {
        Checksum::Partial { start, offset } => {
            header.flags = NEEDS_CHECKSUM;
            header.csum_start = start;
            header.csum_offset = offset;
        }
        Checksum::Verified => header.flags = DATA_VALID,
        Checksum::Unknown => {}
    }
    if let Some(size) = frame.meta.segment
        && let Some(headers) = Headers::parse_large(frame.bytes)
        && let Some(payload) = headers.payload(frame.bytes)
    {
        header.gso_type = match (headers.protocol, headers.version) {
            (TCP, IpVersion::V4) => GSO_TCP_V4,
            (TCP, IpVersion::V6) => GSO_TCP_V6,
            _ => GSO_UDP_L4,
        };
        header.gso_size = size.get();
        // Headers of a frame are shorter than 64 KiB.
        header.hdr_len = payload as u16;
    }
    let mut bytes = [0; HEADER_BYTES];
    // It has exactly this length.
    let _ = header.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large TCP frame over IPv4, with options of 12 bytes.
    fn large() -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 32 + 3000];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = TCP;
        frame[46] = 0x80;
        frame
    }

    #[test]
    fn what_is_written_reads_back() {
        let bytes = large();
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let meta = FrameMeta { checksum, segment: NonZeroU16::new(1448), ..FrameMeta::PLAIN };
        let header = header(&Frame::with_meta(&bytes, meta));
        // flags, type, header length, size, checksum start and offset.
        let words: Vec<u16> = header[2..].chunks(2).map(|w| u16::from_ne_bytes([w[0], w[1]])).collect();
        assert_eq!((header[0], header[1], &words[..]), (1, 1, &[66, 1448, 34, 16][..]));
        let whole = [&header[..], &bytes].concat();
        assert_eq!(read(&whole), Some(Frame::with_meta(&bytes, meta)));
    }

    #[test]
    fn plain_frames_have_an_empty_header() {
        assert_eq!(header(&Frame::new(&large())), [0; HEADER_BYTES]);
        let verified = header(&Frame::with_meta(&large(), FrameMeta::VERIFIED));
        assert_eq!((verified[0], &verified[1..]), (2, &[0; HEADER_BYTES - 1][..]));
    }

    #[test]
    fn what_was_not_turned_on_is_no_frame() {
        let mut bytes = [0; HEADER_BYTES + 60];
        assert!(read(&bytes).is_some());
        for kind in [3, 0x81, 7] {
            bytes[1] = kind;
            bytes[4] = 100;
            assert_eq!(read(&bytes), None);
        }
        bytes[1] = 1;
        bytes[4..6].fill(0);
        assert_eq!(read(&bytes), None, "segments of nothing");
        for len in 0..HEADER_BYTES {
            assert_eq!(read(&bytes[..len]), None);
        }
    }
}
