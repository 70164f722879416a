//! Frames, and the messages that carry them.

use netvsc::checksum;
use netvsc::frame::Headers;
use rndis::packet::PacketEncoder;

/// Frame lengths that are measured.
pub const LENGTHS: [usize; 2] = [64, 1500];

/// Payload of a full segment with time stamps.
pub const MSS: usize = 1448;

/// A unicast IPv4 frame of `len` bytes, at least 34.
pub fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame
}

/// The RNDIS message that carries `frame`, as Windows writes it without per-packet information.
///
/// # Panics
/// If the frame is empty.
pub fn message(frame: &[u8]) -> Vec<u8> {
    let encoder = PacketEncoder::default();
    let mut message = vec![0; encoder.buffer_len(frame.len()).expect("a frame")];
    encoder.emit(frame, &mut message).expect("as long as it said");
    message
}

/// An Ethernet frame with IPv4, TCP and `payload` bytes, the `index`th of its flow, with right checksums.
///
/// # Panics
/// If the checksums of such a frame cannot be computed.
pub fn tcp(flow: u16, index: usize, payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(u16::try_from(40 + payload).unwrap_or(0).to_be_bytes());
    frame.extend((index as u16).to_be_bytes());
    frame.extend([0x40, 0, 64, 6, 0, 0, 198, 51, 100, 1, 203, 0, 113, 2]);
    frame.extend(flow.to_be_bytes());
    frame.extend([1, 187]);
    frame.extend(((index * payload) as u32).to_be_bytes());
    frame.extend([0, 0, 0, 9, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| (at * 7 + index) as u8));
    let headers = Headers::parse(&frame).expect("IP");
    if let Some(request) = checksum::request(&frame, &headers) {
        checksum::fill(&mut frame, request).expect("computed");
    }
    frame
}
