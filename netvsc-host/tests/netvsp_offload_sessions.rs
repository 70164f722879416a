//! Recorded sessions with offload requests, played to this host: what comes out of its switch.

mod common;

use common::{Guest, Session, hex};
use netvsc_host::fault::{Fault, When};
use netvsc_host::port::{MemoryPort, memory_pair};
use netvsc_host::profile::{Offloads, VlanTags};
use netvsc_host::{NicCounters, NicId, Profile, Settings, ViolationKind};
use rndis::packet::PacketEncoder;
use rndis::ppi::{IpVersion, Lso, PpiWord, Transport, TxChecksum, Vlan};

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

/// A guest that has opened its adapter, as in a recorded session, and sends what it likes.
struct Sender {
    guest: Guest,
    outside: MemoryPort,
    id: u64,
}

impl Sender {
    fn new(settings: Settings) -> Self {
        let session = Session::read("netvsp-host", "tap-linux");
        let (inside, outside) = memory_pair(4096);
        let mut this = Self { guest: Guest::with_port(&session, settings, inside), outside, id: 1 << 32 };
        for event in session.events() {
            let number = |key: &str| event[key].as_u64().expect("a number");
            let guest = &mut this.guest;
            match event["ev"].as_str().expect("ev") {
                "step" if event["name"] == "ARP request" => return this,
                "gpadl_create" => assert!(guest.create(number("handle"), Some(number("first_pfn")), number("pages"))),
                "open" => assert!(guest.open(number("ring_gpadl"), number("downstream_page") as u32)),
                "packet" if event["dir"] == "g2h" && event["type"] != 11 => {
                    guest.write(event, number("tid"));
                    this.settle();
                }
                _ => {}
            }
        }
        panic!("the session has changed");
    }

    /// Runs the host; the status of the last completion.
    fn settle(&mut self) -> Option<u32> {
        let mut status = None;
        self.guest.run();
        self.guest.read();
        while let Some(taken) = self.guest.inbox.pop_front() {
            if taken.is_control() {
                self.guest.write(&acknowledgement(), taken.id);
            } else if taken.payload.len() >= 8 {
                status = Some(common::word(&taken.payload, 4));
            }
        }
        self.guest.run();
        status
    }

    /// Sends a frame; the frames that come out, and the status.
    fn send(&mut self, frame: &[u8], ppis: &[PpiWord]) -> (Vec<Vec<u8>>, u32) {
        let mut message = vec![0; frame.len() + 200];
        let encoder = PacketEncoder { ppis, ..PacketEncoder::default() };
        let len = encoder.emit(frame, &mut message).expect("a message");
        let hex: String = message[..len].iter().map(|byte| format!("{byte:02x}")).collect();
        let size: String = (len as u32).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let event = serde_json::json!({
            "type": 6, "flags": 1, "ext": "", "payload": format!("6b0000000000000001000000{size}{}", "00".repeat(16)),
            "section": { "index": 1, "data": hex },
        });
        self.id += 1;
        self.guest.write(&event, self.id);
        let status = self.settle().expect("a completion");
        let mut frames = Vec::new();
        drain(&self.outside, &mut frames);
        (frames, status)
    }

    fn broken_rules(&self) -> Vec<ViolationKind> {
        self.guest.host.violations().iter().map(|violation| violation.kind).collect()
    }
}

/// A frame of TCP over IPv4 with so many bytes in all, its checksums zero.
fn tcp(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x33; bytes];
    frame[..14].copy_from_slice(b"\x02\x00\x5e\x00\x53\x01\x00\x15\x5d\x01\x02\x03\x08\x00");
    frame[14..16].copy_from_slice(&[0x45, 0]);
    frame[16..18].copy_from_slice(&((bytes - 14) as u16).to_be_bytes());
    frame[18..34].copy_from_slice(&[0, 9, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    frame[46..48].copy_from_slice(&[0x50, 0x18]);
    frame[50..52].fill(0);
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

#[test]
fn a_tag_in_the_frame_does_not_count_for_the_mtu() {
    let mut sender = Sender::new(Profile::Ws2019.settings());
    let longest = tagged(&tcp(1514));
    assert_eq!(sender.send(&longest, &[]), (vec![longest.clone()], 1));
    // The outer tag of two is beside the frame.
    let (frames, _) = sender.send(&longest, &[Vlan::new(9, 0, false).into()]);
    assert_eq!((frames[0].len(), &frames[0][12..20]), (1522, &[0x81, 0, 0, 9, 0x81, 0, 0, 5][..]));
    assert_eq!(sender.broken_rules(), []);
    let (frames, status) = sender.send(&tagged(&tcp(1515)), &[]);
    assert_eq!((frames.len(), status, sender.broken_rules()), (0, 1, vec![ViolationKind::BadFrame]));
}

#[test]
fn checksums_and_segments_are_right_behind_tags() {
    let mut sender = Sender::new(Profile::Ws2019.settings());
    let request = TxChecksum::transport(IpVersion::V4, Transport::Tcp, 34).expect("an offset").with_ip_header();
    let (mut frames, _) = sender.send(&tcp(1000), &[Vlan::new(9, 3, false).into(), request.into()]);
    assert_eq!(frames[0].drain(12..16).collect::<Vec<_>>(), [0x81, 0, 0x60, 9]);
    checked(&frames[0]);
    // The tag stays where it is, and in each of the segments.
    let lso = Lso::v2(IpVersion::V4, 1000, 38).expect("an offset");
    let (frames, status) = sender.send(&tagged(&tcp(3500)), &[lso.into()]);
    assert_eq!((frames.len(), status), (4, 1));
    for mut frame in frames {
        assert_eq!(frame.drain(12..16).collect::<Vec<_>>(), [0x81, 0, 0, 5]);
        checked(&frame);
    }
    assert_eq!(sender.broken_rules(), []);
    // Segments longer than the MTU go nowhere.
    let lso = Lso::v2(IpVersion::V4, 1461, 34).expect("an offset");
    assert_eq!(sender.send(&tcp(3500), &[lso.into()]), (vec![], 1));
    assert_eq!(sender.broken_rules(), [ViolationKind::BadFrame]);
}

#[test]
fn what_was_not_offered_fails_its_packet() {
    let checksum = TxChecksum::transport(IpVersion::V4, Transport::Tcp, 34).expect("an offset");
    let lso = Lso::v2(IpVersion::V4, 1000, 34).expect("an offset");
    let refused = |offloads: Offloads, word: PpiWord| {
        let mut settings = Profile::Ws2019.settings();
        settings.offloads = offloads;
        settings.masks_offload_parameters = true;
        let mut sender = Sender::new(settings);
        let (frames, status) = sender.send(&tcp(3000), &[word]);
        assert_eq!((frames.len(), status), (0, 2));
        assert_eq!(sender.broken_rules(), [ViolationKind::BadOffload]);
        let counters = sender.guest.host.nic_report(NicId(0)).expect("a nic").counters;
        assert_eq!((counters.tx_failed, counters.lso_frames, counters.tx_checksums), (1, 0, 0));
    };
    refused(Offloads::NONE, checksum.into());
    refused(Offloads::CHECKSUMS, lso.into());
    refused(Offloads::ALL.with_tx_checksum(false), lso.into());
}

#[test]
fn a_fault_spoils_a_checksum_and_a_setting_stops_tags() {
    let mut settings = Profile::Ws2019.settings();
    settings.vlan = VlanTags::Refused;
    settings.carry_offloads = false;
    let mut sender = Sender::new(settings);
    let request = TxChecksum::transport(IpVersion::V4, Transport::Tcp, 34).expect("an offset").with_ip_header();
    let (frames, _) = sender.send(&tcp(1000), &[request.into()]);
    checked(&frames[0]);
    sender.guest.host.inject(Fault::ChecksumWrong, When::Once);
    let (spoiled, _) = sender.send(&tcp(1000), &[request.into()]);
    let differ = frames[0].iter().zip(&spoiled[0]).filter(|(right, wrong)| right != wrong).count();
    assert_eq!(differ, 1);
    assert_eq!(sender.send(&tcp(1000), &[Vlan::new(9, 3, false).into()]), (vec![], 1));
    assert_eq!(sender.send(&tagged(&tcp(1000)), &[]), (vec![], 1));
    let counters = sender.guest.host.nic_report(NicId(0)).expect("a nic").counters;
    assert_eq!((counters.tx_filtered, counters.tx_vlan, sender.broken_rules()), (2, 0, vec![]));
}
