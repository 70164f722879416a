//! Published and computed vectors of checksums: sums, frames to be finished, frames to be judged.

use std::path::PathBuf;

use netvsc::checksum::{self, Sum, Uncomputable};
use netvsc::frame::Headers;
use netvsc::meta::{IpVersion, Transport, TxChecksum, Verdict};
use serde_json::Value;

fn vectors(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/checksum").join(name);
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn word(value: &Value) -> u16 {
    u16::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

/// The vectors' request, from their per-packet information.
fn request(vector: &Value) -> TxChecksum {
    let text = vector["ppi_tx_checksum"].as_str().unwrap();
    let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    TxChecksum {
        ip: if bits & 2 != 0 { IpVersion::V6 } else { IpVersion::V4 },
        ip_header: bits & 16 != 0,
        transport: Some(if bits & 8 != 0 { Transport::Udp } else { Transport::Tcp }),
        transport_offset: (bits >> 16) as u16,
    }
}

#[test]
fn sums_of_rfc_1071() {
    for vector in vectors("basic.json") {
        let input = hex(&vector["input_hex"]);
        let expected = &vector["expect"];
        let sum = Sum::of(&input);
        if let Some(value) = expected.get("sum") {
            assert_eq!(sum.value(), word(value), "{}", vector["name"]);
        }
        if let Some(value) = expected.get("checksum") {
            assert_eq!(sum.checksum(), word(value), "{}", vector["name"]);
        }
        if expected["valid"] == true {
            assert!(sum.is_right(), "{}", vector["name"]);
        }
    }
}

#[test]
fn frames_are_finished() {
    let all = vectors("transport.json");
    assert!(all.len() >= 11);
    for vector in &all {
        let name = vector["name"].as_str().unwrap();
        let seeded = hex(&vector["frame_seeded_hex"]);
        let last = hex(&vector["frame_final_hex"]);
        let field = vector["checksum_field_offset"].as_u64().unwrap() as usize;
        let headers = Headers::parse(&last).unwrap();
        assert_eq!(headers.transport() as u64, vector["transport_header_offset"], "{name}");
        let asked = TxChecksum { ip_header: headers.ip() == IpVersion::V4, ..request(vector) };
        assert_eq!(checksum::request(&last, &headers), Some(asked), "{name}");

        // Whatever stands in the field.
        for before in [seeded.clone(), last.clone()] {
            let mut frame = before;
            checksum::fill(&mut frame, request(vector)).unwrap();
            assert_eq!(frame, last, "{name}");
        }
        // With the IPv4 header's spoiled, and asked for.
        if asked.ip_header {
            let mut frame = seeded.clone();
            frame[24..26].fill(0xAA);
            checksum::fill(&mut frame, asked).unwrap();
            assert_eq!(frame, last, "{name}");
        }
        for (len, expected) in [(None, "pseudo_header_seed"), (Some(0), "pseudo_header_seed_len0_for_lso")] {
            let mut frame = last.clone();
            checksum::seed(&mut frame, &headers, len).unwrap();
            assert_eq!(
                u16::from_be_bytes([frame[field], frame[field + 1]]),
                word(&vector["expect"][expected]),
                "{name}"
            );
        }
        assert_eq!(checksum::verify(&last).transport, Verdict::Good, "{name}");
    }
}

#[test]
fn tags_change_nothing_but_the_offset() {
    for vector in vectors("transport.json") {
        let last = hex(&vector["frame_final_hex"]);
        let tagged = [&last[..12], &[0x88, 0xA8, 0, 5, 0x81, 0, 0x60, 7], &last[12..]].concat();
        let mut frame = tagged.clone();
        let field = vector["checksum_field_offset"].as_u64().unwrap() as usize + 8;
        frame[field..field + 2].fill(0x55);
        checksum::fill(&mut frame, request(&vector)).unwrap();
        assert_eq!(frame, tagged);
        assert_eq!(checksum::verify(&frame).transport, Verdict::Good);
    }
}

#[test]
fn padding_is_not_covered() {
    for vector in vectors("transport.json") {
        let mut last = hex(&vector["frame_final_hex"]);
        last.extend([0xA5; 7]);
        assert_eq!(checksum::verify(&last).transport, Verdict::Good, "{}", vector["name"]);
        let mut frame = last.clone();
        checksum::fill(&mut frame, request(&vector)).unwrap();
        assert_eq!(frame, last);
    }
}

#[test]
fn received_frames_are_judged() {
    for vector in vectors("receive.json") {
        let name = vector["name"].as_str().unwrap();
        let verdicts = checksum::verify(&hex(&vector["frame_hex"]));
        let expected = |field: &str| match vector["expect"][field].as_str().unwrap() {
            "good" => Verdict::Good,
            "bad" => Verdict::Bad,
            "unknown" | "none" | "n/a" | "not computable" => Verdict::Unknown,
            other => panic!("{other}"),
        };
        assert_eq!((verdicts.ip, verdicts.transport), (expected("ip"), expected("l4")), "{name}");
    }
}

#[test]
fn every_changed_bit_is_seen() {
    for vector in vectors("transport.json") {
        let last = hex(&vector["frame_final_hex"]);
        let headers = Headers::parse(&last).unwrap();
        for at in headers.transport() + 8..last.len() {
            for bit in 0..8 {
                let mut frame = last.clone();
                frame[at] ^= 1 << bit;
                let verdict = checksum::verify_transport(&frame, &headers);
                assert_eq!(verdict, Verdict::Bad, "{} {at} {bit}", vector["name"]);
            }
        }
    }
}

#[test]
fn a_change_is_followed_without_the_rest() {
    for vector in vectors("transport.json") {
        let before = hex(&vector["frame_final_hex"]);
        let headers = Headers::parse(&before).unwrap();
        let field = vector["checksum_field_offset"].as_u64().unwrap() as usize;
        for value in [0u32, 1, 0xFFFF_FFFF, 0x1234_ABCD] {
            // The ports.
            let mut after = before.clone();
            let ports = headers.transport()..headers.transport() + 4;
            after[ports.clone()].copy_from_slice(&value.to_be_bytes());
            let old = u16::from_be_bytes([before[field], before[field + 1]]);
            let new = checksum::replace(old, Sum::of(&before[ports.clone()]), Sum::of(&after[ports]));
            after[field..field + 2].copy_from_slice(&new.to_be_bytes());
            assert_ne!(checksum::verify(&after).transport, Verdict::Bad, "{} {value:#x}", vector["name"]);
        }
    }
}

#[test]
fn what_cannot_be_computed_is_refused_and_left_alone() {
    let all = vectors("transport.json");
    let vector = |name: &str| all.iter().find(|vector| vector["name"] == name).unwrap();
    let refused = |frame: &[u8], request: TxChecksum| {
        let mut after = frame.to_vec();
        let error = checksum::fill(&mut after, request).unwrap_err();
        assert_eq!(after, frame);
        error
    };
    let (tcp4, udp6) = (vector("tcp4_64"), vector("udp6_hello"));
    let (frame, asked) = (hex(&tcp4["frame_final_hex"]), request(tcp4));

    assert_eq!(refused(&hex(&udp6["frame_final_hex"]), asked), Uncomputable::Ip { asked: IpVersion::V4 });
    let udp = TxChecksum { transport: Some(Transport::Udp), ..asked };
    assert_eq!(refused(&frame, udp), Uncomputable::Transport { asked: Transport::Udp, protocol: 6 });
    assert_eq!(refused(&[0; 60], asked), Uncomputable::Ip { asked: IpVersion::V4 });

    let fragment = vectors("receive.json").into_iter().find(|vector| vector["name"] == "udp4_fragment").unwrap();
    assert_eq!(refused(&hex(&fragment["frame_hex"]), udp), Uncomputable::Fragment);

    let mut no_length = frame.clone();
    no_length[16..18].fill(0);
    assert_eq!(refused(&no_length, asked), Uncomputable::Length);
    for len in 38..frame.len() {
        assert_eq!(refused(&frame[..len], asked), Uncomputable::Length);
    }
    let mut long_udp = hex(&udp6["frame_final_hex"]);
    long_udp[58..60].copy_from_slice(&0x0400u16.to_be_bytes());
    assert_eq!(refused(&long_udp, request(udp6)), Uncomputable::Length);
}

#[test]
fn no_cut_frame_makes_it_panic() {
    for vector in vectors("transport.json") {
        let frame = hex(&vector["frame_final_hex"]);
        for len in 0..frame.len() {
            let mut cut = frame[..len].to_vec();
            assert!(checksum::fill(&mut cut, request(&vector)).is_err());
            assert_eq!(checksum::verify(&cut).transport, Verdict::Unknown);
        }
    }
}
