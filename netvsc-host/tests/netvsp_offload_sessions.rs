//! Recorded sessions with offload requests, played to this host: what comes out of its switch.

mod common;

use common::{Guest, Session, hex};
use netvsc_host::port::{MemoryPort, memory_pair};
use netvsc_host::{NicCounters, Profile};

/// Plays a session into a port that only listens.
fn play(name: &str) -> (Vec<Vec<u8>>, NicCounters, Session) {
    let session = Session::read("netvsp-host", name);
    let (inside, outside) = memory_pair(4096);
    let mut guest = Guest::with_port(&session, Profile::Ws2022.settings().openvmm(), inside);
    let mut frames = Vec::new();
    for event in session.events() {
        let number = |key: &str| event[key].as_u64().expect("a number");
        match event["ev"].as_str().expect("ev") {
            "gpadl_create" => assert!(guest.create(number("handle"), Some(number("first_pfn")), number("pages"))),
            "open" => assert!(guest.open(number("ring_gpadl"), number("downstream_page") as u32)),
            "close" => guest.close(),
            "gpadl_teardown" => guest.teardown(number("handle")),
            "packet" if event["dir"] == "g2h" && event["type"] != 11 => {
                guest.write(event, number("tid"));
                guest.run();
                guest.read();
                while let Some(taken) = guest.inbox.pop_front() {
                    assert!(taken.is_completion() || taken.is_control(), "nothing is sent to the guest");
                    if taken.is_control() {
                        guest.write(&acknowledgement(), taken.id);
                    }
                }
                guest.run();
                drain(&outside, &mut frames);
            }
            _ => {}
        }
    }
    let report = guest.finish().report();
    assert!(report.is_clean(), "{name}: {report}");
    (frames, report.nics[0].counters, session)
}

fn drain(port: &MemoryPort, frames: &mut Vec<Vec<u8>>) {
    while let Ok(frame) = port.try_recv() {
        frames.push(frame.to_vec());
    }
}

fn acknowledgement() -> serde_json::Value {
    let payload = format!("6c00000001000000{}", "00".repeat(32));
    serde_json::json!({ "type": 11, "flags": 0, "ext": "", "payload": payload })
}

/// Words in network order, added up in one's complement.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// Where the transport begins; checks both checksums of TCP and UDP over IP without options.
fn checked(frame: &[u8]) -> usize {
    let at = 14;
    let (transport, addresses, protocol) = match frame[12..14] {
        [8, 0] => {
            assert_eq!(sum(&[&frame[at..at + 20]]), 0xFFFF, "header checksum");
            (at + 20, &frame[at + 12..at + 20], frame[at + 9])
        }
        [0x86, 0xDD] => (at + 40, &frame[at + 8..at + 40], frame[at + 6]),
        _ => panic!("no IP"),
    };
    let end = match frame[12] {
        8 => at + usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]])),
        _ => at + 40 + usize::from(u16::from_be_bytes([frame[at + 4], frame[at + 5]])),
    };
    let len = (end - transport) as u16;
    let pseudo = [0, protocol, (len >> 8) as u8, len as u8];
    assert_eq!(sum(&[addresses, &pseudo, &frame[transport..end]]), 0xFFFF, "transport checksum");
    transport
}

#[test]
fn each_recorded_request_is_done() {
    let (frames, counters, session) = play("offload");
    let mut frames = frames.into_iter();
    let mut large = 0;
    for event in session.events().iter().filter(|event| event["ev"] == "host_tx") {
        let recorded = hex(&event["frame"]);
        let at = format!("event {}", event["n"]);
        let mut payload = Vec::new();
        let mss = event["mss"].as_u64().expect("a number") as usize;
        if event["tso"] == true {
            let headers = event["transport_offset"].as_u64().expect("a number") as usize + 20;
            let data = &recorded[headers..];
            let mut sequence = u32::from_be_bytes(recorded[headers - 16..headers - 12].try_into().expect("four bytes"));
            for _ in 0..data.len().div_ceil(mss) {
                let segment = frames.next().expect("a segment");
                let transport = checked(&segment);
                assert_eq!(segment[transport + 4..transport + 8], sequence.to_be_bytes(), "{at}");
                sequence += (segment.len() - headers) as u32;
                payload.extend_from_slice(&segment[headers..]);
            }
            assert_eq!(payload, data, "{at}");
            large += 1;
            continue;
        }
        let mut frame = frames.next().expect("a frame");
        if event["vlan"].is_object() {
            let tci = u16::from_be_bytes([frame[14], frame[15]]);
            assert_eq!(frame[12..14], [0x81, 0], "{at}");
            assert_eq!(Some(u64::from(tci & 0xFFF)), event["vlan"]["id"].as_u64(), "{at}");
            assert_eq!(Some(u64::from(tci >> 13)), event["vlan"]["priority"].as_u64(), "{at}");
            frame.drain(12..16);
        }
        let transport = checked(&frame);
        assert_eq!(frame[..transport][..24], recorded[..transport][..24], "{at}");
        assert_eq!(frame[transport + 20..], recorded[transport + 20..], "{at}");
    }
    assert_eq!(frames.next(), None);
    assert_eq!((large, counters.lso_frames, counters.lso_segments), (3, 3, 3 + 7 + 3));
    assert_eq!((counters.tx_checksums, counters.tx_vlan), (3, 2));
}

#[test]
fn what_linux_accepted_goes_out_whole() {
    let (frames, counters, _) = play("tap-linux");
    assert_eq!((counters.lso_frames, counters.lso_segments, counters.tx_checksums), (1, 7, 1));
    let tcp: Vec<_> = frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 6).collect();
    for frame in &tcp {
        checked(frame);
    }
    assert_eq!(tcp.len() as u64, 8 + counters.lso_segments);
}
