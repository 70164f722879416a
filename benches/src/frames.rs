//! Frames, and the messages that carry them.

use rndis::packet::PacketEncoder;

/// Frame lengths that are measured.
pub const LENGTHS: [usize; 2] = [64, 1500];

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
