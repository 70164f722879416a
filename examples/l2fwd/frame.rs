//! The frame that `txonly` sends: testpmd's default (DPDK `app/test-pmd/txonly.c`), a UDP datagram between two addresses
//! that RFC 2544 sets aside for benchmarks.

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Bytes before the payload.
pub(crate) const HEADERS: usize = ETHERNET + IPV4 + UDP;
/// The payload of longer frames is not written anew for each, but sent from where it is: testpmd's `tx_copybreak`.
pub(crate) const COPIED: usize = 512;
const DISCARD: u16 = 9;

/// A frame of `len` bytes, at least 42, from `source`.
pub(crate) fn udp(source: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    frame.extend([0x02, 0, 0, 0, 0, 0]);
    frame.extend(source);
    frame.extend(0x0800_u16.to_be_bytes());
    let datagram = u16::try_from(len - ETHERNET).unwrap_or(u16::MAX);
    frame.extend([0x45, 0]);
    frame.extend(datagram.to_be_bytes());
    // No identification, no fragments; time to live, UDP, checksum.
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([198, 18, 0, 1]);
    frame.extend([198, 18, 0, 2]);
    let sum = checksum(&frame[ETHERNET..]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(DISCARD.to_be_bytes());
    frame.extend(DISCARD.to_be_bytes());
    frame.extend((datagram - IPV4 as u16).to_be_bytes());
    // No UDP checksum.
    frame.extend([0, 0]);
    frame.resize(len, 0);
    frame
}

/// The Internet checksum (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let sum = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
