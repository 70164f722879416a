//! A frame to be tested with.

use netvsc::checksum::{fill, request};
use netvsc::frame::Headers;

/// A UDP datagram of 31 bytes, with its checksums.
pub(super) fn udp() -> Vec<u8> {
    let mut frame = vec![0x33; 14 + 20 + 8 + 31];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 59, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    frame[34..42].copy_from_slice(&[0, 7, 0, 8, 0, 39, 0, 0]);
    let headers = Headers::parse(&frame).unwrap();
    let request = request(&frame, &headers).unwrap();
    fill(&mut frame, request).unwrap();
    frame
}
