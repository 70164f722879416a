//! The one checksum that the receive path computes: that of an IPv4 header whose sum the host left stale.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_comp_ipcsum`).

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// EtherType of IPv4, after the two addresses.
const IPV4: [u8; 2] = [0x08, 0x00];

/// Computes the IPv4 header checksum of a frame anew; whether there was one.
#[cold]
pub(super) fn mend_ipv4(frame: &mut [u8]) -> bool {
    let Some((ethernet, packet)) = frame.split_at_mut_checked(ETHERNET) else { return false };
    let Some(&version) = packet.first() else { return false };
    let header_len = usize::from(version & 0xF) * 4;
    if ethernet[12..] != IPV4 || version >> 4 != 4 || header_len < 20 {
        return false;
    }
    let Some(header) = packet.get_mut(..header_len) else { return false };
    header[10..12].fill(0);
    // At most 30 words: cannot wrap.
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_sum_is_computed_anew() {
        // The example of RFC 1071's successors: header 45 00 00 73 … with sum B861.
        let mut frame = [0; 14 + 20];
        frame[12..14].copy_from_slice(&IPV4);
        frame[14..].copy_from_slice(&[
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xDE, 0xAD, 0xC0, 0xA8, 0x00, 0x01, 0xC0, 0xA8,
            0x00, 0xC7,
        ]);
        assert!(mend_ipv4(&mut frame));
        assert_eq!(frame[24..26], [0xB8, 0x61]);
    }

    #[test]
    fn what_is_not_ipv4_is_left_alone() {
        for len in 0..34 {
            let mut frame = [0x45; 34];
            frame[12..14].copy_from_slice(&IPV4);
            let before = frame;
            assert!(!mend_ipv4(&mut frame[..len]), "{len}");
            assert_eq!(frame, before);
        }
        let mut frame = [0x45; 60];
        assert!(!mend_ipv4(&mut frame), "another EtherType");
        frame[12..14].copy_from_slice(&IPV4);
        frame[14] = 0x44;
        assert!(!mend_ipv4(&mut frame), "a header of 16 bytes");
    }
}
