//! A large frame cut into frames for the wire: TCP's as LSO and GSO do it, UDP's as USO does.
//!
//! Each has the headers of the large one, with its own lengths, IPv4 identification (one more each), sequence number and
//! checksums. FIN and PSH stand in the last one only, CWR in the first. Whatever the large frame had in its lengths and
//! checksums does not matter; in particular a header checksum of zero, as NDIS wants it in an LSO request, never leaves.
//!
//! Source: [MS-NDIS] "Offloading the segmentation of large TCP packets"; compare Linux `net/ipv4/tcp_offload.c`.

use rndis::ppi::IpVersion;

use super::headers::{Headers, TCP, UDP};
use super::{Scratch, sum};
use crate::port::Frame;

/// Where TCP has its flags.
const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// How many frames a payload makes: one at least.
pub(crate) fn count(payload: usize, size: usize) -> usize {
    payload.div_ceil(size.max(1)).max(1)
}

/// Cuts `frame` into frames of at most `size` bytes of payload, with complete checksums; says how many.
pub(crate) fn segments(
    frame: &[u8],
    headers: &Headers,
    size: usize,
    scratch: &mut Scratch,
    out: &mut dyn FnMut(Frame<'_>),
) -> usize {
    cut(frame, headers, size, &mut scratch.segment, &mut |segment, headers| {
        sum::fill_transport(segment, headers);
        out(Frame::new(segment));
    })
}

/// As [`segments`], with checksums of the transport left as they were.
pub(crate) fn cut(
    frame: &[u8],
    headers: &Headers,
    size: usize,
    scratch: &mut Vec<u8>,
    out: &mut dyn FnMut(&mut [u8], &Headers),
) -> usize {
    let Some(payload_at) = headers.payload(frame).filter(|&at| at <= headers.end) else { return 0 };
    let payload = &frame[payload_at..headers.end];
    let last = count(payload.len(), size) - 1;
    for index in 0..=last {
        let from = index * size.max(1);
        let part = &payload[from..payload.len().min(from + size.max(1))];
        scratch.clear();
        scratch.extend_from_slice(&frame[..payload_at]);
        scratch.extend_from_slice(part);
        let headers = Headers { end: scratch.len(), cut_off: false, ..*headers };
        // At most as many segments as bytes in a frame; sequence numbers and identifications go round.
        mend_transport(scratch, &headers, from as u32, index == 0, index == last);
        mend_network(scratch, &headers, index as u16);
        out(scratch, &headers);
    }
    last + 1
}

fn mend_transport(segment: &mut [u8], headers: &Headers, from: u32, first: bool, last: bool) {
    let end = headers.end;
    let Some(transport) = segment.get_mut(headers.transport..) else { return };
    match headers.protocol {
        TCP => {
            if let Some(sequence) = transport.get_mut(4..8).and_then(|rest| rest.first_chunk_mut::<4>()) {
                *sequence = u32::from_be_bytes(*sequence).wrapping_add(from).to_be_bytes();
            }
            if let Some(flags) = transport.get_mut(TCP_FLAGS) {
                *flags &= !if first { 0 } else { CWR };
                *flags &= !if last { 0 } else { FIN | PSH };
            }
        }
        UDP => {
            if let Some(len) = transport.get_mut(4..6) {
                len.copy_from_slice(&((end - headers.transport) as u16).to_be_bytes());
            }
        }
        _ => {}
    }
}

/// Lengths, identification and header checksum.
fn mend_network(segment: &mut [u8], headers: &Headers, index: u16) {
    let end = headers.end;
    let Some(packet) = segment.get_mut(headers.network..) else { return };
    match headers.version {
        IpVersion::V4 => {
            let Some(fixed) = packet.first_chunk_mut::<6>() else { return };
            fixed[2..4].copy_from_slice(&((end - headers.network) as u16).to_be_bytes());
            let id = u16::from_be_bytes([fixed[4], fixed[5]]).wrapping_add(index);
            fixed[4..6].copy_from_slice(&id.to_be_bytes());
            sum::fill_ip_header(segment, headers);
        }
        IpVersion::V6 => {
            if let Some(len) = packet.get_mut(4..6) {
                len.copy_from_slice(&((end - headers.network - 40) as u16).to_be_bytes());
            }
        }
    }
}

/// Gives a large frame the lengths of the whole of it, the header checksum, and the pseudo header's sum: the form in
/// which it travels between ports.
pub(crate) fn prepare(frame: &mut [u8], headers: &Headers) {
    mend_network(frame, headers, 0);
    if headers.protocol == UDP {
        mend_transport(frame, headers, 0, true, true);
    }
    sum::seed(frame, headers);
}
