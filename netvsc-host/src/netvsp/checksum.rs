//! Checksums that a guest leaves to the host: the virtual switch computes them before a frame leaves.
//!
//! The guest's own value in the field is not relied on (it ought to be the pseudo header's sum; DPDK leaves what was
//! there). A frame that is not what the request says is left as it is.

use rndis::ppi::TxChecksum;

const ETHERNET: usize = 14;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Fills in what is asked for.
pub(super) fn fill(frame: &mut [u8], request: TxChecksum) {
    // Out of the frame's bounds is out of its sender's luck.
    let _ = try_fill(frame, request);
}

fn try_fill(frame: &mut [u8], request: TxChecksum) -> Option<()> {
    let packet = frame.get_mut(ETHERNET..)?;
    let version = packet.first()? >> 4;
    if version == 4 && request.ip_header() {
        let header = usize::from(packet[0] & 0xF) * 4;
        let header = packet.get_mut(..header).filter(|h| h.len() >= IPV4_MIN)?;
        header[10..12].fill(0);
        let sum = !fold(add(0, header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if !request.tcp() && !request.udp() {
        return Some(());
    }
    let protocol = if request.tcp() { TCP } else { UDP };
    let (addresses, least, end) = match version {
        4 => {
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            (12..20, usize::from(packet[0] & 0xF) * 4, total)
        }
        6 => (8..40, IPV6, IPV6 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]))),
        _ => return None,
    };
    let start = match usize::from(request.header_offset()) {
        0 => least,
        offset => offset.checked_sub(ETHERNET)?,
    };
    // What follows the packet is padding, and is not summed.
    let end = end.min(packet.len());
    let pseudo = add(u32::from(protocol) + u32::try_from(end.checked_sub(start)?).ok()?, packet.get(addresses)?);
    let transport = packet.get_mut(start..end)?;
    let place = if protocol == TCP { 16 } else { 6 };
    transport.get_mut(place..place + 2)?.fill(0);
    let sum = !fold(add(pseudo, transport));
    // A UDP checksum of 0 means none.
    let sum = if protocol == UDP && sum == 0 { 0xFFFF } else { sum };
    transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    // At most 65535 bytes are summed: no overflow.
    let sum = words.iter().fold(sum, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    sum + odd.first().map_or(0, |&byte| u32::from(byte) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use rndis::ppi::{IpVersion, Transport};

    /// A UDP datagram, as in the recorded sessions, with good checksums.
    const GOOD: [u8; 46] = [
        2, 0, 0, 0, 0, 0x99, 0, 0x15, 0x5d, 1, 2, 3, 8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 0x40, 0x11, 0xb6, 0xc9, 192,
        0, 2, 2, 192, 0, 2, 1, 0x30, 0x39, 0, 9, 0, 12, 0x46, 0xA2, 1, 2, 3, 4,
    ];

    #[test]
    fn a_frame_without_checksums_gets_them() {
        let mut frame = GOOD;
        frame[24..26].fill(0);
        frame[40..42].fill(0x55);
        let request = TxChecksum::transport(IpVersion::V4, Transport::Udp, 34).unwrap().with_ip_header();
        fill(&mut frame, request);
        // Both sums over header and sum are all ones.
        assert_eq!(fold(add(0, &frame[14..34])), 0xFFFF);
        let pseudo = add(17 + 12, &frame[26..34]);
        assert_eq!(fold(add(pseudo, &frame[34..])), 0xFFFF);
    }

    #[test]
    fn no_frame_is_read_beyond_its_end() {
        for len in 0..GOOD.len() {
            for offset in [0, 14, 34, 45, 1023] {
                for version in [0x45, 0x60, 0x4F, 0x00] {
                    let mut frame = GOOD[..len].to_vec();
                    if let Some(byte) = frame.get_mut(14) {
                        *byte = version;
                    }
                    for bits in [0x1D, 0x19, 0x0A, 0x06] {
                        fill(&mut frame, TxChecksum(bits | offset << 16));
                    }
                    assert_eq!(frame.len(), len);
                }
            }
        }
    }
}
