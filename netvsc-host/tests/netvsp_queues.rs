//! Recorded sessions of several queues, played to this host: subchannels, the send indirection table, receive side scaling.
//!
//! With an independent host (OpenVMM's netvsp) the answers must agree, and what kills a channel there must kill that one here,
//! alone. What DPDK's driver really sent must be accepted: its recorded host was the simplest that it works with.

mod common;

use std::collections::BTreeSet;

use common::{Guest, Session, Taken, hex, word};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Profile, Report, Settings, ViolationKind};
use serde_json::Value;
use vmbus::packet::PacketType;

/// Rings as `uio_hv_generic` has them are not recorded: a number for those of each channel.
const RINGS: u64 = 2000;
/// Whose values are a host's own.
const RSS_CAPABILITIES: u32 = 0x0001_0203;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x55];

/// What a host has said that nobody has asked about yet.
#[derive(Default)]
struct Heard {
    /// By channel, as the next.
    completions: [Vec<Taken>; 4],
    words: [Vec<Taken>; 4],
    /// To control messages.
    answers: Vec<Vec<u8>>,
    /// With the channel of each.
    frames: Vec<(usize, Vec<u8>)>,
}

/// What came of a session.
struct Outcome {
    report: Report,
    /// Frames that the guest received, and those that the recorded guest had.
    received: [Vec<Vec<u8>>; 2],
    /// Channels that the guest has sent frames by.
    sent_by: BTreeSet<u64>,
    /// Send indirection tables that the host has told.
    tables: usize,
    /// Settings of receive side scaling that the host was seen to follow.
    scalings: usize,
}

impl Outcome {
    fn violations(&self) -> Vec<ViolationKind> {
        self.report.violations.iter().map(|violation| violation.kind).collect()
    }
}

struct Replay<'a> {
    session: &'a Session,
    guest: Guest,
    /// A station beside the recorded endpoint.
    station: MemoryPort,
    channels: usize,
    heard: Heard,
    recorded_frames: Vec<Vec<u8>>,
    sent_by: BTreeSet<u64>,
    tables: usize,
    scalings: usize,
    /// The OID of the last query.
    oid: u32,
}

impl<'a> Replay<'a> {
    fn new(session: &'a Session, settings: Settings) -> Self {
        let guest = Guest::new(session, settings);
        let station = guest.host.memory_pair();
        Self {
            session,
            guest,
            station,
            channels: 1,
            heard: Heard::default(),
            recorded_frames: Vec::new(),
            sent_by: BTreeSet::new(),
            tables: 0,
            scalings: 0,
            oid: 0,
        }
    }

    /// Turns to the channel of `event`; its number.
    fn turn(&mut self, event: &Value) -> usize {
        let channel = event["ch"].as_u64().expect("a channel") as usize;
        self.guest.turn_to(channel);
        channel
    }

    /// Takes what the host has said by all channels, and gives back what carried it.
    fn listen(&mut self) {
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            self.guest.run();
            for channel in 0..self.channels {
                self.guest.turn_to(channel);
                self.guest.read();
                while let Some(taken) = self.guest.inbox.pop_front() {
                    quiet = false;
                    if taken.is_completion() {
                        self.heard.completions[channel].push(taken);
                    } else if taken.packet_type == PacketType::IN_BAND {
                        self.heard.words[channel].push(taken);
                    } else {
                        self.guest.write(&acknowledgment(), taken.id);
                        if taken.is_control() {
                            assert_eq!(channel, 0, "control messages have the primary channel");
                            self.heard.answers.extend(taken.ranges);
                        } else {
                            self.heard.frames.extend(taken.ranges.iter().map(|range| (channel, frame(range))));
                        }
                    }
                }
            }
        }
    }

    fn offered(&mut self, event: &Value, at: &str) {
        let total = self.guest.take_offers();
        assert_eq!(Some(total as u64), event["total"].as_u64(), "{at}");
        self.channels = 1 + total;
    }

    /// What the recorded guest said, but for what it gave back.
    fn say(&mut self, event: &Value) {
        for bytes in [hex(&event["gpa"]["data"]), hex(&event["section"]["data"])] {
            if bytes.len() >= 16 && word(&bytes, 0) == 4 {
                self.oid = word(&bytes, 12);
            }
        }
        let channel = self.turn(event);
        if event["nvsp"] == 107 && word(&hex(&event["payload"]), 4) == 0 {
            self.sent_by.insert(channel as u64);
        }
        self.guest.write(event, event["tid"].as_u64().expect("an id"));
        self.listen();
    }

    /// Something that the recorded host said: this one has said the same.
    fn compare(&mut self, event: &Value, at: &str) {
        let channel = event["ch"].as_u64().expect("a channel") as usize;
        let payload = hex(&event["payload"]);
        let id = event["tid"].as_u64().expect("an id");
        match event["type"].as_u64().expect("a type") {
            11 => {
                let said = &mut self.heard.completions[channel];
                let place = said.iter().position(|taken| taken.id == id);
                let taken = said.remove(place.unwrap_or_else(|| panic!("{at}: no completion of {id}: {said:x?}")));
                if payload.is_empty() {
                    return assert!(taken.payload.is_empty(), "{at}");
                }
                // What comes behind these words is a host's choice, or zero.
                let told = match word(&payload, 0) {
                    2 => 16,
                    105 | 133 => 12,
                    _ => 8,
                };
                assert_eq!(taken.payload[..told], payload[..told], "{at}");
            }
            6 => {
                let said = &mut self.heard.words[channel];
                assert!(!said.is_empty(), "{at}: no word of the host's");
                let taken = said.remove(0);
                assert_eq!((taken.id, taken.payload), (id, payload), "{at}");
                self.tables += 1;
            }
            _ if word(&payload, 4) == 1 => {
                let recorded = hex(&event["xfer"]["ranges"][0]["data"]);
                assert!(!self.heard.answers.is_empty(), "{at}: no answer");
                let said = self.heard.answers.remove(0);
                let told = if self.oid == RSS_CAPABILITIES { 4 } else { recorded.len() };
                assert_eq!(said[..told], recorded[..told], "{at}: oid {:#x}", self.oid);
            }
            _ => {
                let ranges = event["xfer"]["ranges"].as_array().expect("ranges");
                self.recorded_frames.extend(ranges.iter().map(|range| frame(&hex(&range["data"]))));
            }
        }
    }

    /// Frames for the guest come by the channels that the recorded host had understood.
    fn scales(&mut self, rss: &Value, at: &str) {
        self.listen();
        let key = hex(&rss["key"]);
        let table: Vec<_> =
            rss["table"].as_array().into_iter().flatten().map(|entry| entry.as_u64().unwrap()).collect();
        let before = self.heard.frames.len();
        let mut expected = Vec::new();
        for port in 1000..1100_u16 {
            let mut frame =
                [&self.session.mac()[..], &STATION, &[0x08, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]].concat();
            frame.extend([198, 51, 100, 1, 203, 0, 113, 2]);
            frame.extend([port.to_be_bytes(), 443_u16.to_be_bytes()].concat());
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
            // Without a table all have the primary channel.
            let entry = |table: &[u64]| table[toeplitz(&key, &frame[26..38]) as usize % table.len()] as usize;
            expected.push(if table.is_empty() { 0 } else { entry(&table) });
            self.station.send(&frame).expect("room");
            self.listen();
        }
        let came: Vec<_> = self.heard.frames.drain(before..).map(|(channel, _)| channel).collect();
        assert_eq!(came, expected, "{at}");
        self.scalings += 1;
    }

    fn finish(mut self) -> Outcome {
        self.guest.turn_to(0);
        let received = self.heard.frames.into_iter().map(|(_, frame)| frame).collect();
        let Self { sent_by, tables, scalings, recorded_frames, .. } = self;
        let report = self.guest.finish().report();
        Outcome { report, received: [received, recorded_frames], sent_by, tables, scalings }
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0, |word: u32, next| word << 1 | u32::from(bit(key, at + next)));
    (0..input.len() * 8).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}

/// 40 bytes do for every version.
fn acknowledgment() -> Value {
    let payload = format!("6c00000001000000{}", "00".repeat(32));
    serde_json::json!({ "type": 11, "flags": 0, "ext": "", "payload": payload })
}

/// The frame in a range.
fn frame(range: &[u8]) -> Vec<u8> {
    let message = rndis::packet::PacketHeader::parse(range, range.len() as u32).expect("a packet message");
    range[message.data_range()].to_vec()
}

/// A guest on OpenVMM's host.
fn play(name: &str) -> Outcome {
    let session = Session::read("netvsp-host", name);
    let mut settings = Profile::Ws2022.settings().openvmm();
    settings.nvsp_max = nvsp::Version::V6_1;
    let mut replay = Replay::new(&session, settings);
    for event in session.events() {
        let at = format!("{name}, event {}", event["n"]);
        let number = |key: &str| event[key].as_u64().expect("a number");
        match event["ev"].as_str().expect("ev") {
            "gpadl_create" => {
                replay.turn(event);
                assert!(replay.guest.create(number("handle"), Some(number("first_pfn")), number("pages")), "{at}");
            }
            "open" => {
                replay.turn(event);
                assert!(replay.guest.open(number("ring_gpadl"), number("downstream_page") as u32), "{at}");
                replay.listen();
            }
            "subchannels_offered" => replay.offered(event, &at),
            "host_queues" if event["rss"].is_object() || replay.scalings > 0 => replay.scales(&event["rss"], &at),
            "packet" if event["dir"] == "h2g" => replay.compare(event, &at),
            // What comes back goes by this host's own ids.
            "packet" if event["type"] != 11 => replay.say(event),
            "idle" => {
                replay.turn(event);
                assert_eq!(replay.guest.host_is_silent(), event["tx_ring"]["mask"] == 1, "{at}");
            }
            "close" => {
                replay.turn(event);
                replay.guest.close();
            }
            "gpadl_teardown" => {
                replay.turn(event);
                replay.guest.teardown(number("handle"));
            }
            _ => {}
        }
        if event["ev"] == "close" && event["ch"] == 0 {
            let Heard { completions, words, answers, .. } = &replay.heard;
            assert!(completions.iter().chain(words).all(Vec::is_empty) && answers.is_empty(), "{at}: more was said");
        }
    }
    replay.finish()
}

/// What the loopback sent back is what the recorded one did, but for the addresses: this one swaps them.
fn assert_same_frames(name: &str, outcome: &Outcome) {
    let [received, recorded] =
        outcome.received.each_ref().map(|frames| frames.iter().map(|frame| frame[12..].to_vec()).collect::<Vec<_>>());
    assert!(!recorded.is_empty() && received == recorded, "{name}: {} and {} frames", received.len(), recorded.len());
}

#[test]
fn subchannels_are_offered_opened_and_used_and_their_table_is_told() {
    let outcome = play("subchannels");
    // Too many, an operation that is none, and a control message on a subchannel.
    assert_eq!(outcome.violations(), [ViolationKind::UnexpectedNvsp; 3], "{}", outcome.report);
    assert!(outcome.report.leaks.is_none() && !outcome.report.nics[0].silent, "{}", outcome.report);
    assert_eq!((outcome.tables, &outcome.sent_by), (1, &BTreeSet::from([0, 1, 2])));
    assert_same_frames("subchannels", &outcome);
}

#[test]
fn frames_come_by_the_channels_of_the_recorded_table() {
    let outcome = play("rss");
    assert!(outcome.report.is_clean(), "{}", outcome.report);
    // 128 entries, 16 entries, none.
    assert_eq!((outcome.scalings, outcome.tables, &outcome.sent_by), (3, 1, &BTreeSet::from([0, 1, 2])));
    assert_same_frames("rss", &outcome);
}

#[test]
fn a_channel_that_breaks_is_silent_alone() {
    let outcome = play("dead-subchannel");
    assert_eq!(outcome.violations(), [ViolationKind::BadSection], "{}", outcome.report);
    assert!(outcome.report.nics[0].silent && outcome.report.leaks.is_none(), "{}", outcome.report);
    assert_same_frames("dead-subchannel", &outcome);
}

/// DPDK's driver: everything that asked for a completion gets one by its channel, which says success.
fn play_dpdk(name: &str) -> Outcome {
    let session = Session::read("dpdk-guest", name);
    let mut settings = Profile::Ws2019.settings();
    settings.nvsp_max = nvsp::Version(session.host()["nvsp_accepted"][0].as_u64().expect("a version") as u32);
    settings.nvsp_refusal = nvsp::Status(session.host()["nvsp_refusal_status"].as_u64().expect("a status") as u32);
    let mut replay = Replay::new(&session, settings.clone());
    let buffers = ["recv_buffer", "send_buffer"].map(|which| &session.guest()[which]);
    let gpadl = |buffer: &Value| buffer["gpadl"].as_u64().expect("a number");
    for buffer in buffers {
        assert!(replay.guest.create(gpadl(buffer), None, buffer["bytes"].as_u64().expect("a number") / 4096));
    }
    let mut open = Vec::new();
    for event in session.events() {
        let at = format!("{name}, event {}: {}", event["n"], event["note"]);
        match event["ev"].as_str().expect("ev") {
            "open" => {
                let channel = replay.turn(event);
                let downstream = event["downstream_page"].as_u64().expect("a page");
                let ring = RINGS + channel as u64;
                assert!(
                    replay.guest.create(ring, None, downstream * 2) && replay.guest.open(ring, downstream as u32),
                    "{at}"
                );
                open.push((channel, ring));
                replay.listen();
            }
            // This host may have given as many as were asked for, and this guest uses those that it was given.
            "subchannels_offered" => {
                let given = replay.guest.take_offers() as u64;
                assert!(Some(given) >= event["total"].as_u64(), "{at}: {given}");
                replay.channels = 1 + given as usize;
            }
            "packet" if event["dir"] == "g2h" && event["type"] != 11 => {
                replay.say(event);
                let channel = event["ch"].as_u64().expect("a channel") as usize;
                let said: Vec<_> = replay.heard.completions[channel].drain(..).collect();
                assert_eq!(said.len(), usize::from(event["flags"] == 1), "{at}");
                for taken in said {
                    // The answer to INIT, which a newer version than was agreed on is refused by.
                    let init = word(&taken.payload, 0) == 2;
                    let status = nvsp::Status(word(&taken.payload, if init { 12 } else { 4 }));
                    let refused = init && status == settings.nvsp_refusal;
                    assert!(refused || status == nvsp::Status::SUCCESS, "{at}: {:x?}", taken.payload);
                }
                for answer in replay.heard.answers.drain(..) {
                    let set = word(&answer, 0) == 0x8000_0005;
                    assert!(!set || word(&answer, 12) == 0, "{at}: {answer:x?}");
                }
                replay.tables += replay.heard.words[0].drain(..).filter(|taken| word(&taken.payload, 0) == 134).count();
            }
            "client_disconnected" => {
                for (channel, ring) in open.drain(..).rev() {
                    replay.guest.turn_to(channel);
                    replay.guest.close();
                    replay.guest.teardown(ring);
                }
            }
            _ => {}
        }
    }
    replay.guest.turn_to(0);
    for buffer in buffers {
        replay.guest.teardown(gpadl(buffer));
    }
    replay.finish()
}

#[test]
fn dpdks_sessions_of_several_queues_are_accepted() {
    for (name, sent_by, all) in [
        ("queues-2", 0..2, true),
        ("queues-4", 0..4, true),
        ("queues-rx1-tx2", 0..1, true),
        // What they were granted, or the length of the answer, ended these two early.
        ("queues-4-granted-1", 0..0, false),
        ("nvsp5-queues-3", 0..3, true),
        ("nvsp5-queues-3-short-answer", 0..0, false),
    ] {
        let outcome = play_dpdk(name);
        assert!(outcome.report.is_clean(), "{name}: {}", outcome.report);
        assert_eq!(outcome.tables, usize::from(all), "{name}: told once all are open");
        assert_eq!(outcome.sent_by, sent_by.collect(), "{name}");
    }
}
