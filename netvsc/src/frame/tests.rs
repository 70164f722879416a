use alloc::vec;
use alloc::vec::Vec;

use super::*;

/// An Ethernet header with `tags`, and `ip` behind it.
fn ethernet_with(tags: &[u16], ether_type: u16, ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x20, 0x07]);
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(ip);
    frame
}

/// IPv4 with `options`, of `protocol`.
fn ipv4_with(options: &[u8], protocol: u8, rest: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[2..4].copy_from_slice(&((header_len + rest.len()) as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[198, 51, 100, 1, 203, 0, 113, 2]);
    packet.extend(options);
    packet.extend(rest);
    packet
}

/// IPv6 whose first next header is `next`.
fn ipv6_with(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    packet[6] = next;
    packet[8..40].fill(0xFD);
    packet.extend(rest);
    packet
}

fn tcp_with(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    segment[12] = ((20 + options.len()) / 4 * 16) as u8;
    segment.extend(options);
    segment.extend(payload);
    segment
}

#[test]
fn offsets_count_tags_options_and_extension_headers() {
    let segment = tcp_with(&[1; 12], b"payload");
    for (tags, more) in [(&[][..], 0), (&[0x8100], 4), (&[0x88A8, 0x8100], 8), (&[0x9100, 0x8100], 8)] {
        let frame = ethernet_with(tags, 0x0800, &ipv4_with(&[1; 8], 6, &segment));
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!((headers.network(), headers.transport()), (14 + more, 14 + more + 28));
        assert_eq!(headers.payload(&frame), Some(14 + more + 28 + 32));
        assert_eq!(headers.end(), frame.len());
        assert!(headers.has_options() && headers.has_length() && !headers.is_fragment());
        assert_eq!(headers.transport_protocol(), Some(Transport::Tcp));
        assert_eq!(headers.ports(&frame), Some(&[0x30, 0x39, 0, 80]));
        assert_eq!(headers.addresses(&frame), [198, 51, 100, 1, 203, 0, 113, 2]);
    }
    // Hop by hop of 8 bytes, destination options of 16.
    let mut rest = vec![60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12];
    rest.extend([0; 12]);
    rest.extend(&segment);
    let frame = ethernet_with(&[], 0x86DD, &ipv6_with(0, &rest));
    let headers = Headers::parse(&frame).unwrap();
    assert_eq!((headers.transport(), headers.payload(&frame)), (14 + 40 + 24, Some(14 + 40 + 24 + 32)));
    assert!(headers.has_options() && headers.has_own_addresses() && headers.has_length());
    assert_eq!(headers.addresses(&frame), [0xFD; 32]);
}

#[test]
fn a_third_tag_is_not_looked_behind() {
    let frame = ethernet_with(&[0x88A8, 0x8100, 0x8100], 0x0800, &ipv4_with(&[], 6, &tcp_with(&[], b"")));
    assert_eq!(Headers::parse(&frame), None);
}

#[test]
fn padding_is_no_payload() {
    let mut frame = ethernet_with(&[], 0x0800, &ipv4_with(&[], 17, &[0, 1, 0, 2, 0, 10, 0, 0, b'h', b'i']));
    let len = frame.len();
    frame.resize(60, 0);
    let headers = Headers::parse(&frame).unwrap();
    assert_eq!((headers.payload(&frame), headers.end()), (Some(42), len));
}

#[test]
fn fragments_have_no_transport() {
    for word in [0x2000u16, 0x0001, 0x2001, 0x1FFF] {
        let mut packet = ipv4_with(&[], 6, &tcp_with(&[], b""));
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        let frame = ethernet_with(&[], 0x0800, &packet);
        let headers = Headers::parse(&frame).unwrap();
        assert!(headers.is_fragment() && headers.transport_protocol().is_none(), "{word:#x}");
        assert_eq!((headers.payload(&frame), headers.ports(&frame)), (None, None));
    }
    let mut packet = ipv4_with(&[], 6, &tcp_with(&[], b""));
    packet[6] = 0x40;
    assert!(!Headers::parse(&ethernet_with(&[], 0x0800, &packet)).unwrap().is_fragment(), "do not fragment");
    let mut rest = vec![6, 0, 0, 0, 0, 0, 0, 1];
    rest.extend(tcp_with(&[], b""));
    let headers = Headers::parse(&ethernet_with(&[], 0x86DD, &ipv6_with(44, &rest))).unwrap();
    assert!(headers.is_fragment() && headers.transport_protocol().is_none());
}

#[test]
fn a_length_of_zero_is_told_from_one_that_is_wrong() {
    for (length, zero, cut) in [(0u16, true, false), (19, false, true), (41, false, true), (40, false, false)] {
        let mut packet = ipv4_with(&[], 6, &tcp_with(&[], b""));
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let headers = Headers::parse(&ethernet_with(&[], 0x0800, &packet)).unwrap();
        assert_eq!((headers.is_length_zero(), headers.is_cut()), (zero, cut), "{length}");
        assert_eq!(headers.has_length(), !zero && !cut);
        assert_eq!(headers.end(), 54);
    }
}

#[test]
fn addresses_that_the_checksum_does_not_cover_are_noted() {
    let segment = tcp_with(&[], b"");
    let with = |kind: u8, header: &[u8]| {
        let frame = ethernet_with(&[], 0x86DD, &ipv6_with(kind, &[header, &segment].concat()));
        Headers::parse(&frame).unwrap()
    };
    assert!(with(43, &[6, 0, 4, 0, 0, 0, 0, 0]).has_own_addresses(), "no segment left");
    assert!(!with(43, &[6, 0, 4, 1, 0, 0, 0, 0]).has_own_addresses(), "a segment left");
    assert!(with(60, &[6, 0, 0, 0, 1, 2, 0, 0]).has_own_addresses(), "padding only");
    let mut home = vec![6, 2, 1, 2, 0, 0, 0xC9, 16];
    home.extend([0xFD; 16]);
    assert!(!with(60, &home).has_own_addresses(), "home address");
    assert!(!with(60, &[6, 0, 5, 9, 0, 0, 0, 0]).has_own_addresses(), "an option that leaves its header");
}

#[test]
fn no_cut_frame_makes_it_panic_or_look_behind_the_end() {
    let mut rest = vec![43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
    rest.extend(tcp_with(&[1; 8], b"payload"));
    let frames = [
        ethernet_with(&[0x8100], 0x0800, &ipv4_with(&[1; 40], 6, &tcp_with(&[1; 40], b"payload"))),
        ethernet_with(&[0x88A8, 0x8100], 0x86DD, &ipv6_with(0, &rest)),
        ethernet_with(&[], 0x0800, &ipv4_with(&[], 17, &[0, 1, 0, 2, 0, 8, 0, 0])),
    ];
    for frame in frames {
        assert!(Headers::parse(&frame).unwrap().payload(&frame).is_some());
        for len in 0..frame.len() {
            let cut = &frame[..len];
            let Some(headers) = Headers::parse(cut) else { continue };
            assert!(headers.is_cut(), "{len}");
            assert_eq!(headers.end(), len);
            assert!(headers.payload(cut).is_none_or(|payload| payload <= len));
            assert!(headers.ports(cut).is_none_or(|_| headers.transport() + 4 <= len));
        }
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!((headers.addresses(&[]), headers.ports(&[]), headers.payload(&[])), (&[][..], None, None));
    }
}
