//! Published vectors: every row of `tests/vectors/checksum`.

use rndis::ppi::{Lso, PacketInfo, RxChecksum};
use serde_json::Value;

use super::headers::Headers;
use super::{Scratch, plain, sum, verdict};
use crate::netvsp::requests_for_tests::prepare;
use crate::port::{Checksum, Frame, PortOffloads};

fn rows(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("JSON");
    file["vectors"].as_array().expect("rows").clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex");
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

fn number(value: &Value) -> u32 {
    let text = value.as_str().expect("hex").trim_start_matches("0x");
    u32::from_str_radix(text, 16).expect("hex")
}

/// What a port without offloads gets.
fn finished(frame: &mut [u8], info: &PacketInfo) -> Vec<Vec<u8>> {
    let meta = prepare(frame, info);
    let mut out = Vec::new();
    let frame = Frame::with_meta(frame, meta);
    plain(frame, PortOffloads::NONE, &mut Scratch::default(), &mut |frame| out.push(frame.bytes.to_vec()));
    out
}

#[test]
fn sums() {
    let rows = rows(include_str!("../../tests/vectors/checksum/basic.json"));
    assert_eq!(rows.len(), 5);
    for row in &rows {
        let (input, expect) = (bytes(&row["input_hex"]), &row["expect"]);
        let sum = sum::fold(sum::add(0, &input));
        if expect["sum"].is_string() {
            assert_eq!(u32::from(sum), number(&expect["sum"]), "{}", row["name"]);
        }
        if expect["checksum"].is_string() {
            assert_eq!(u32::from(!sum), number(&expect["checksum"]), "{}", row["name"]);
        }
        if expect["valid"] == true {
            assert_eq!(sum, 0xFFFF, "{}", row["name"]);
        }
    }
}

#[test]
fn transport_checksums_are_completed() {
    let rows = rows(include_str!("../../tests/vectors/checksum/transport.json"));
    assert_eq!(rows.len(), 11);
    for row in &rows {
        let name = &row["name"];
        let mut frame = bytes(&row["frame_seeded_hex"]);
        let headers = Headers::parse(&frame).expect("a packet");
        assert_eq!(Some(headers.transport as u64), row["transport_header_offset"].as_u64(), "{name}");
        let seed = |len| u32::from(sum::fold(sum::pseudo_header(&frame, &headers, len)));
        assert_eq!(seed(headers.end - headers.transport), number(&row["expect"]["pseudo_header_seed"]), "{name}");
        assert_eq!(seed(0), number(&row["expect"]["pseudo_header_seed_len0_for_lso"]), "{name}");
        let info = PacketInfo { checksum: Some(number(&row["ppi_tx_checksum"])), ..PacketInfo::default() };
        let finished = finished(&mut frame, &info);
        assert_eq!(finished, [bytes(&row["frame_final_hex"])], "{name}");
        let headers = Headers::parse(&finished[0]).expect("a packet");
        assert!(sum::transport_is_right(&finished[0], &headers), "{name}");
    }
}

#[test]
fn large_frames_are_cut() {
    let rows = rows(include_str!("../../tests/vectors/checksum/lso.json"));
    assert!(rows.len() >= 6, "{}", rows.len());
    for row in &rows {
        let mut frame = bytes(&row["frame_hex"]);
        let info = PacketInfo { lso: Some(Lso(number(&row["lso_ppi"]))), ..PacketInfo::default() };
        let segments = finished(&mut frame, &info);
        let expected: Vec<_> = row["expect"]["segments_hex"].as_array().expect("segments").iter().map(bytes).collect();
        assert_eq!(
            segments.len() as u64,
            row["expect"]["segment_count"].as_u64().expect("a number"),
            "{}",
            row["name"]
        );
        for (index, (segment, expected)) in segments.iter().zip(&expected).enumerate() {
            assert_eq!(segment, expected, "{}, segment {index}", row["name"]);
        }
    }
}

#[test]
fn verdicts() {
    let rows = rows(include_str!("../../tests/vectors/checksum/receive.json"));
    assert_eq!(rows.len(), 7);
    for row in &rows {
        let frame = bytes(&row["frame_hex"]);
        let verdict = verdict::of(&frame, Headers::parse(&frame).as_ref(), Checksum::Unknown);
        assert_eq!(verdict, RxChecksum(number(&row["expect"]["rx_checksum_ppi"])), "{}", row["name"]);
    }
}
