//! Every recorded session of one queue, played to this host; those of several are in `netvsp_queues`.
//!
//! What an independent host (OpenVMM's netvsp) accepted must be accepted, what it refused must be refused, and the
//! answers must agree in all that is not a host's free choice: statuses, values, the bytes of frames. What kills its
//! channel silently must do so here.

mod common;

use std::collections::VecDeque;
use std::time::Duration;

use common::{Guest, Session, Taken, hex, word};
use netvsc_host::vf::GuestVf;
use netvsc_host::{NicId, Profile, Settings, ViolationKind};
use serde_json::Value;
use vmbus::packet::PacketType;

/// OIDs whose values are a host's own: list of OIDs, friendly name, offloads, RSS capabilities.
const FREE_VALUES: [u32; 5] = [0x0001_0101, 0x0002_0216, 0xFC01_020B, 0xFC01_020D, 0x0001_0203];

struct Replay {
    guest: Guest,
    /// Recorded ids that the recorded guest had not given back, and this guest's: control and data apart.
    recorded_held: [Vec<u64>; 2],
    held: [Vec<u64>; 2],
    recorded_frames: Vec<Vec<u8>>,
    frames: Vec<Vec<u8>>,
    /// The OID of the last query.
    oid: u32,
    /// Serial numbers that the recorded host is still to say.
    serials: VecDeque<u32>,
    /// The device that the guest sees.
    vf: Option<GuestVf>,
    /// Acknowledgments of frames that are written right before the channel is closed, if they shall be that late.
    late: Option<Vec<(Value, u64)>>,
}

impl Replay {
    fn play(session: &Session, settings: Settings) -> netvsc_host::Report {
        Self::play_with(session, settings, None)
    }

    fn play_with(session: &Session, settings: Settings, late: Option<Vec<(Value, u64)>>) -> netvsc_host::Report {
        let mut this = Self {
            guest: Guest::new(session, settings),
            recorded_held: Default::default(),
            held: Default::default(),
            recorded_frames: Vec::new(),
            frames: Vec::new(),
            oid: 0,
            serials: serials(session),
            vf: None,
            late,
        };
        match session.name.as_str() {
            "vf" => this.associate(),
            // The recorded host had one as well, of whatever number.
            "vf-not-asked" => this.guest.host.associate_vf(NicId(0), 7),
            _ => {}
        }
        for event in session.events() {
            this.event(event, &session.name);
        }
        assert_eq!(this.frames.len(), this.recorded_frames.len(), "{}: frames received", session.name);
        for (index, (frame, recorded)) in this.frames.iter().zip(&this.recorded_frames).enumerate() {
            // This loopback swaps the addresses, the recorded one does not.
            assert_eq!(frame[12..], recorded[12..], "{}: frame {index}", session.name);
            assert_eq!(
                (&frame[..6], &frame[6..12]),
                (&recorded[6..12], &recorded[..6]),
                "{}: frame {index}",
                session.name
            );
        }
        this.guest.finish().report()
    }

    fn event(&mut self, event: &Value, name: &str) {
        let at = format!("{name}, event {}", event["n"]);
        match event["ev"].as_str().expect("ev") {
            "gpadl_create" => {
                let number = |key: &str| event[key].as_u64().expect("a number");
                let ok = self.guest.create(number("handle"), Some(number("first_pfn")), number("pages"));
                assert_eq!(Some(ok), event["ok"].as_bool(), "{at}");
            }
            "open" => {
                let downstream = event["downstream_page"].as_u64().expect("a page") as u32;
                let ok = self.guest.open(event["ring_gpadl"].as_u64().expect("a handle"), downstream);
                assert_eq!(Some(ok), event["ok"].as_bool(), "{at}");
            }
            "close" => {
                self.guest.read();
                let left: Vec<_> =
                    self.guest.inbox.iter().filter(|taken| !taken.is_completion() || taken.id != 0).collect();
                assert!(left.is_empty(), "{at}: the host has said more than recorded: {left:x?}");
                for (event, id) in self.late.iter_mut().flat_map(|late| late.drain(..)) {
                    self.guest.write(&event, id);
                }
                self.guest.close();
            }
            "gpadl_teardown" => self.guest.teardown(event["handle"].as_u64().expect("a handle")),
            "step" => self.step(event["name"].as_str().expect("a name")),
            "packet" if event["dir"] == "g2h" => self.guest_said(event),
            "packet" => self.host_said(event, &at),
            "host_vf_device_offered" if self.vf.is_none() => {
                let serial = *self.serials.front().expect("a device comes after its number");
                let vf = self.guest.host.plug_vf(NicId(0), serial, 64).expect("there is none");
                vf.open();
                self.vf = Some(vf);
            }
            "host_data_path" => {
                self.guest.run();
                assert_eq!(Some(self.guest.host.vf_in_use(NicId(0))), event["vf"].as_bool(), "{at}");
            }
            "idle" => {
                self.guest.run();
                let silent = event["tx_ring"]["mask"] == 1;
                assert_eq!(self.guest.host_is_silent(), silent, "{at}: {}", event["note"]);
            }
            _ => {}
        }
    }

    fn step(&mut self, name: &str) {
        let host = &self.guest.host;
        match name {
            "link down" => host.set_link(NicId(0), false),
            "link up" => host.set_link(NicId(0), true),
            _ if name.starts_with("link up reported while") => {
                host.set_link(NicId(0), true);
                self.guest.run();
                self.guest.now += Duration::from_secs(5);
            }
            "VF arrives at run time" | "VF comes back with another id" => self.associate(),
            "VF removed by the host" | "VF removed" => {
                host.revoke_vf(NicId(0));
                host.unplug_vf(NicId(0));
                self.vf_is_gone();
            }
            "VF removed by surprise while the data path is on it" => {
                host.remove_vf_by_surprise(NicId(0));
                self.vf_is_gone();
            }
            _ => {}
        }
        self.guest.run();
    }

    /// The host says the next number that was recorded.
    fn associate(&self) {
        self.guest.host.associate_vf(NicId(0), *self.serials.front().expect("a number that was recorded"));
    }

    fn vf_is_gone(&mut self) {
        self.serials.pop_front();
        self.vf = None;
    }

    fn guest_said(&mut self, event: &Value) {
        let recorded = event["tid"].as_u64().expect("an id");
        let mut id = recorded;
        if event["type"] == 11 {
            // The same of those that are held now.
            let found = self
                .recorded_held
                .iter()
                .enumerate()
                .find_map(|(kind, held)| held.iter().position(|&held| held == recorded).map(|place| (kind, place)));
            if let Some((kind, place)) = found {
                self.recorded_held[kind].remove(place);
                let last = self.recorded_held[kind].is_empty();
                let held = &mut self.held[kind];
                if let Some(late) = self.late.as_mut().filter(|_| kind == 1) {
                    late.extend(held.drain(..).map(|id| (event.clone(), id)));
                    return;
                }
                if held.is_empty() {
                    return;
                }
                id = held.remove(place.min(held.len() - 1));
                // This host may have made more packets of the same frames.
                if last {
                    for rest in std::mem::take(held) {
                        self.guest.write(event, rest);
                    }
                }
            }
        }
        let oid = hex(&event["gpa"]["data"]);
        let by_section = hex(&event["section"]["data"]);
        for bytes in [oid, by_section] {
            if bytes.len() >= 16 && word(&bytes, 0) == 4 {
                self.oid = word(&bytes, 12);
            }
        }
        self.guest.write(event, id);
    }

    /// Something that the recorded host said: this one must have said the same.
    fn host_said(&mut self, event: &Value, at: &str) {
        self.guest.run();
        self.guest.read();
        let payload = hex(&event["payload"]);
        if event["type"] == 11 {
            let id = event["tid"].as_u64().expect("an id");
            let place = self.guest.inbox.iter().position(|taken| taken.is_completion() && taken.id == id);
            let place = place.unwrap_or_else(|| panic!("{at}: no completion of {id}: {:x?}", self.guest.inbox));
            let taken = self.guest.inbox.remove(place).expect("found just now");
            if payload.is_empty() {
                return assert!(taken.payload.is_empty(), "{at}");
            }
            assert_eq!(taken.payload.len(), payload.len().max(if word(&payload, 0) == 133 { 40 } else { 0 }), "{at}");
            // What comes behind these words is the host's choice, or zero.
            let told = match word(&payload, 0) {
                2 => 16,
                105 | 133 => 12,
                _ => 8,
            };
            assert_eq!(taken.payload[..told], payload[..told], "{at}");
        } else if event["type"] == 6 {
            // What the host says of virtual functions, in that order.
            let place = self.guest.inbox.iter().position(|taken| taken.packet_type == PacketType::IN_BAND);
            let place = place.unwrap_or_else(|| panic!("{at}: no word of the host's: {:x?}", self.guest.inbox));
            let taken = self.guest.inbox.remove(place).expect("found just now");
            assert_eq!(Some(taken.id), event["tid"].as_u64(), "{at}");
            assert_eq!(taken.payload, payload, "{at}");
        } else if event["type"] == 7 {
            let control = word(&payload, 4) == 1;
            let ranges = event["xfer"]["ranges"].as_array().expect("ranges");
            self.recorded_held[usize::from(!control)].push(event["tid"].as_u64().expect("an id"));
            if control {
                let place = self.guest.inbox.iter().position(Taken::is_control);
                let place = place.unwrap_or_else(|| panic!("{at}: no control message: {:x?}", self.guest.inbox));
                let taken = self.guest.inbox.remove(place).expect("found just now");
                self.held[0].push(taken.id);
                self.compare_control(&hex(&ranges[0]["data"]), &taken.ranges[0], at);
            } else {
                for range in ranges {
                    self.recorded_frames.extend(frame(&hex(&range["data"])).filter(|frame| frame.len() >= 14));
                }
            }
        }
        self.collect_frames();
    }

    fn compare_control(&self, recorded: &[u8], said: &[u8], at: &str) {
        let kind = word(recorded, 0);
        assert_eq!(word(said, 0), kind, "{at}: rndis type");
        let told = match kind {
            // Status indication: type, length, status; the offloads are the host's own.
            7 => 12,
            0x8000_0004 if FREE_VALUES.contains(&self.oid) => 16,
            _ => recorded.len(),
        };
        // The length is that of the value, which may be the host's own.
        let same = |bytes: &[u8]| if told < 20 { [&bytes[..4], &bytes[8..told]].concat() } else { bytes.to_vec() };
        assert_eq!(same(said), same(recorded), "{at}: oid {:#x}", self.oid);
    }

    fn collect_frames(&mut self) {
        let mut rest = VecDeque::new();
        while let Some(taken) = self.guest.inbox.pop_front() {
            if taken.is_completion() || taken.is_control() || taken.ranges.is_empty() {
                rest.push_back(taken);
                continue;
            }
            self.held[1].push(taken.id);
            self.frames.extend(taken.ranges.iter().flat_map(|range| frame(range)));
        }
        self.guest.inbox = rest;
        // What the recorded host's endpoint sends back comes by the rings whatever the data path; this host's switch knows
        // which it is.
        while let Some(frame) = self.vf.as_ref().and_then(GuestVf::receive) {
            self.frames.push(frame);
        }
    }
}

/// The serial numbers that a recorded host said, in that order.
fn serials(session: &Session) -> VecDeque<u32> {
    let said = session.events().iter().filter(|event| event["dir"] == "h2g" && event["nvsp"] == 128);
    let given = said.map(|event| hex(&event["payload"])).filter(|payload| word(payload, 4) != 0);
    given.map(|payload| word(&payload, 8)).collect()
}

/// The frame in a range, its VLAN tag put back.
fn frame(range: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let message = rndis::packet::PacketHeader::parse(range, range.len() as u32).expect("a packet message");
    let info = rndis::ppi::PacketInfo::parse(&range[message.ppi_range()]).expect("good information");
    assert!(info.checksum.is_some(), "every frame has a checksum element");
    let mut bytes = range[message.data_range()].to_vec();
    if let Some(vlan) = info.vlan {
        bytes.splice(12..12, [0x81, 0].into_iter().chain(vlan.tci().to_be_bytes()));
    }
    Some(bytes).into_iter()
}

fn openvmm(session: &Session) -> Settings {
    let mut settings = Profile::Ws2022.settings().openvmm();
    settings.nvsp_max = nvsp::Version::V6_1;
    let _ = session;
    settings
}

/// Plays a session and says which rules its guest broke.
fn broken_rules(name: &str) -> Vec<ViolationKind> {
    let session = Session::read("netvsp-host", name);
    let report = Replay::play(&session, openvmm(&session));
    assert!(report.leaks.is_none(), "{name}: {:?}", report.leaks);
    let silent = report.nics[0].silent;
    assert_eq!(
        silent,
        name.starts_with("dead-") || name.starts_with("init-missing") || name.starts_with("init-bad"),
        "{name}"
    );
    report.violations.iter().map(|violation| violation.kind).collect()
}

#[test]
fn good_sessions_are_clean() {
    for name in [
        "v1",
        "v2",
        "v4",
        "v5",
        "v6",
        "v61",
        "null",
        "fallback",
        "init-no-send-buffer",
        "batch",
        "batch-big",
        "link",
        "pause",
        "reopen",
        "wrap",
        "ring-full",
    ] {
        assert_eq!(broken_rules(name), [], "{name}");
    }
}

/// Offered, used, left, taken back, given again, and taken by surprise, with frames each way on either path.
#[test]
fn sessions_with_a_virtual_function_are_clean() {
    for name in ["vf", "vf-linux", "vf-not-asked"] {
        assert_eq!(broken_rules(name), [], "{name}");
    }
}

/// A message on the bus overtakes what stands on the ring: no leak must be seen where there is none.
#[test]
fn what_the_guest_wrote_before_it_closed_is_read() {
    let session = Session::read("netvsp-host", "v61");
    let report = Replay::play_with(&session, openvmm(&session), Some(Vec::new()));
    assert!(report.is_clean(), "{report}");
    assert!(report.nics[0].counters.rx_completions > 0, "{report}");
}

#[test]
fn wrong_values_are_refused_and_the_channel_lives() {
    let rules = broken_rules("oid-errors");
    assert!(rules.iter().all(|&rule| rule == ViolationKind::BadOid), "{rules:?}");
    assert_eq!(rules.len(), 10, "{rules:?}");
}

#[test]
fn malformed_frames_fail_their_packet_only() {
    use ViolationKind as V;
    let rules = broken_rules("rndis-errors");
    assert!(rules.iter().all(|rule| matches!(rule, V::BadRndisPacket | V::BadFrame | V::BadGpaRanges)), "{rules:?}");
    assert!(rules.contains(&V::BadFrame) && rules.contains(&V::BadGpaRanges), "{rules:?}");
}

#[test]
fn a_send_longer_than_its_section_is_accepted_and_recorded() {
    assert!(broken_rules("section-oversize").contains(&ViolationKind::BadSection));
}

#[test]
fn a_send_without_completion_flag_is_answered_with_a_stale_id() {
    let rules = broken_rules("foreign-completion");
    assert!(!rules.is_empty() && rules.iter().all(|&rule| rule == ViolationKind::NoCompletionRequested), "{rules:?}");
}

#[test]
fn what_kills_the_channel_kills_it_silently() {
    use ViolationKind as V;
    for (name, rules) in [
        ("dead-bad-section", &[V::BadSection][..]),
        ("dead-section-size", &[V::BadSection]),
        ("dead-unknown-nvsp", &[V::BadNvsp]),
        ("dead-vmbus-type", &[V::BadPacketType]),
        ("dead-rndis-reset", &[V::BadRndisControl]),
        ("dead-rndis-unknown", &[V::BadRndisControl]),
        ("dead-second-initialize", &[V::BadRndisControl]),
        ("dead-rx-completion", &[V::BadReceiveCompletion]),
        // No rule is broken: Linux sends it at every close.
        ("dead-revoke", &[]),
        ("init-missing-mtu", &[V::UnexpectedNvsp]),
        ("init-bad-gpadl", &[V::BadBuffer]),
    ] {
        assert_eq!(broken_rules(name), rules, "{name}");
    }
}
