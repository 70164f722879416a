//! Segmentation in software: vectors of large send, and random frames against descriptions that are cut before they are
//! built.

mod packets;

use std::path::PathBuf;

use netvsc::segment::{BufferTooSmall, SegmentHeaders, Segments, Unsegmentable};
use packets::{ACK, CWR, Description, FIN, Ip, PSH, Transport, any_description, ipv4, ipv6, payload, tcp};
use proptest::prelude::*;
use serde_json::Value;

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// All segments, by way of both calls.
#[track_caller]
fn cut(segments: Segments<'_>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut by_parts = segments.clone();
    let mut by_copy = segments.clone();
    let mut header = [0; 2048];
    for index in 0..segments.count() {
        assert_eq!(by_copy.remaining(), segments.count() - index);
        let len = by_copy.next_len().unwrap();
        assert_eq!(len, segments.len(index));
        assert!(len <= segments.max_len());
        let mut segment = vec![0xEE; len];
        for short in [0, len / 2, len - 1] {
            let refused = BufferTooSmall { needed: len, len: short };
            assert_eq!(by_copy.next_into(&mut segment[..short]), Err(refused));
        }
        assert_eq!(by_copy.next_into(&mut segment), Ok(Some(len)));
        let (header_len, payload) = by_parts.next_parts(&mut header).unwrap().unwrap();
        assert_eq!([&header[..header_len], payload].concat(), segment);
        out.push(segment);
    }
    assert_eq!((by_copy.next_into(&mut header), by_copy.next_len()), (Ok(None), None));
    assert_eq!(by_parts.next_parts(&mut header), Ok(None));
    assert_eq!(out.iter().map(Vec::len).sum::<usize>(), segments.total_len());
    out
}

#[test]
fn vectors_of_large_send() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/checksum/lso.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let all = file["vectors"].as_array().unwrap();
    assert!(all.len() >= 9);
    for vector in all {
        let frame = hex(&vector["frame_hex"]);
        let segments = Segments::new(&frame, vector["mss"].as_u64().unwrap() as usize).unwrap();
        let expected: Vec<_> = vector["expect"]["segments_hex"].as_array().unwrap().iter().map(hex).collect();
        assert_eq!(segments.count(), expected.len(), "{}", vector["name"]);
        assert_eq!(cut(segments), expected, "{}", vector["name"]);
    }
}

/// How the large frame's length and checksum fields are left.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// As hosts want them.
    Zero,
    /// As testpmd leaves them: right, or what an earlier frame had.
    Complete,
    /// Complete, and padding behind the packet.
    Padded,
}

fn large(description: &Description, form: Form) -> Vec<u8> {
    let mut frame = description.build();
    let network = 14 + 4 * description.tags.len();
    match (form, &description.ip) {
        (Form::Zero, Ip::V4 { .. }) => {
            frame[network + 2..network + 4].fill(0);
            frame[network + 10..network + 12].fill(0);
        }
        (Form::Zero, Ip::V6 { .. }) => frame[network + 4..network + 6].fill(0),
        (Form::Complete, _) => {}
        (Form::Padded, _) => frame.extend([0xA5; 9]),
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_are_those_of_the_description(
        description in any_description(5000),
        size in prop_oneof![1usize..20, 20usize..3000, Just(536usize), Just(1448)],
        form in prop_oneof![Just(Form::Zero), Just(Form::Complete), Just(Form::Padded)],
        fixed_id in any::<bool>(),
    ) {
        let expected: Vec<_> =
            description.cut(size, fixed_id).iter().map(Description::build).collect();
        let frame = large(&description, form);
        let segments = Segments::new(&frame, size).unwrap().with_fixed_id(fixed_id);
        prop_assert_eq!(segments.count(), expected.len());
        prop_assert_eq!(cut(segments), expected);
    }

    #[test]
    fn bytes_never_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0usize..300) {
        let mut frame = bytes;
        for (at, kind) in [(12, [0x08, 0x00]), (12, [0x86, 0xDD])] {
            if frame.len() > 24 {
                frame[at..at + 2].copy_from_slice(&kind);
                frame[14] = if kind[0] == 8 { 0x45 } else { 0x60 };
                frame[if kind[0] == 8 { 23 } else { 20 }] = if size.is_multiple_of(2) { 6 } else { 17 };
            }
            if let Ok(segments) = Segments::new(&frame, size) {
                cut(segments);
            }
        }
    }
}

#[test]
fn the_longest_packets_there_are() {
    for (ip, most) in [(ipv4(), 65_535 - 40), (ipv6(), 65_535 - 20)] {
        let description = Description::new(ip, tcp(0xFFFF_0000, ACK), payload(most, 1, 3));
        let frame = description.build();
        assert_eq!(cut(Segments::new(&frame, most).unwrap()), core::slice::from_ref(&frame));
        assert_eq!(cut(Segments::new(&frame, 1).unwrap()).len(), most);
        // Longer than an IP packet can be, with a length of zero: cut, as long as the segments are not.
        let longer = Description { payload: payload(100_000, 2, 5), ..description };
        let expected: Vec<_> = longer.cut(1448, false).iter().map(Description::build).collect();
        let frame = large(&longer, Form::Zero);
        assert_eq!(cut(Segments::new(&frame, 1448).unwrap()), expected);
        assert_eq!(
            Segments::new(&frame, most + 1).unwrap_err(),
            Unsegmentable::SegmentSize { size: most + 1, limit: most }
        );
    }
}

#[test]
fn flags_go_where_they_belong() {
    let description = Description::new(ipv4(), tcp(1, ACK | FIN | PSH | CWR), payload(3000, 0, 1));
    let frame = description.build();
    let flags: Vec<u8> = cut(Segments::new(&frame, 1000).unwrap()).iter().map(|segment| segment[47]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN | PSH]);
    let flags: Vec<u8> = cut(Segments::new(&frame, 3000).unwrap()).iter().map(|segment| segment[47]).collect();
    assert_eq!(flags, [ACK | FIN | PSH | CWR]);
}

#[test]
fn payload_may_lie_in_pieces() {
    let description = Description::new(ipv6(), Transport::Udp { with_checksum: true }, payload(2500, 9, 7));
    let frame = description.build();
    let headers = SegmentHeaders::new(&frame[..62], 2500, 1000).unwrap();
    for (index, expected) in description.cut(1000, false).iter().enumerate() {
        let mut segment = vec![0; headers.segment_len(index)];
        let (head, tail) = segment.split_at_mut(headers.len());
        tail.copy_from_slice(&expected.payload);
        headers.write(index, tail, head);
        assert_eq!(segment, expected.build());
    }
    assert_eq!(headers.count(), 3);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let description = Description::new(ipv4(), tcp(1, ACK), payload(3000, 0, 1));
    let frame = description.build();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        Segments::new(&frame, 1000).map(|segments| segments.count())
    };
    assert_eq!(with(0, &[]), Ok(3));
    assert_eq!(with(12, &[0x08, 0x06]), Err(Unsegmentable::NotIp));
    assert_eq!(with(20, &[0x20, 0]), Err(Unsegmentable::Fragment));
    assert_eq!(with(23, &[47]), Err(Unsegmentable::Transport { protocol: 47 }));
    assert_eq!(with(16, &[0xFF, 0xFF]), Err(Unsegmentable::Length));
    assert_eq!(with(46, &[0x40]), Err(Unsegmentable::Length), "a TCP header of 16 bytes");
    let limit = 65_535 - 40;
    assert_eq!(Segments::new(&frame, 0).unwrap_err(), Unsegmentable::SegmentSize { size: 0, limit });
    let mut routed = Description::new(ipv6(), tcp(1, ACK), payload(3000, 0, 1));
    if let Ip::V6 { extensions, .. } = &mut routed.ip {
        extensions.push((43, vec![4, 1, 0, 0, 0, 0]));
    }
    assert_eq!(Segments::new(&routed.build(), 1000).unwrap_err(), Unsegmentable::Addresses);
    for len in 0..frame.len() {
        assert!(Segments::new(&frame[..len], 1000).is_err());
    }
}
