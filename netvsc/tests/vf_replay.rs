//! Recorded sessions with a virtual function: what an independent host (OpenVMM netvsp) says, and in what order, goes into
//! the machine, which has to ask for what the recorded guest asked for, at the same places.

use std::collections::VecDeque;
use std::path::PathBuf;

use netvsc::meta::Path;
use netvsc::vf::{Action, Event, Input, Machine, Settings, Stage, SwitchId};
use netvsc::{Instant, LinkState};
use nvsp::{DataPath, Message, Sender};
use serde_json::Value;

fn events(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/captures/netvsp-host").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json: Value = serde_json::from_str(&text).unwrap();
    json["events"].as_array().unwrap().clone()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn path(path: DataPath) -> Path {
    if path == DataPath::VF { Path::VirtualFunction } else { Path::Synthetic }
}

/// The machine, with a device that does all it is asked for at once.
struct Guest {
    machine: Machine,
    asked: VecDeque<(SwitchId, Path)>,
    present: bool,
    told: Vec<Event>,
}

impl Guest {
    fn put(&mut self, input: Input) {
        let now = Instant::ZERO;
        self.machine.handle(now, input);
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Prepare => self.machine.handle(now, Input::Prepared { link: LinkState::Up }),
                Action::Switch { to, id } => self.asked.push_back((id, to)),
                Action::Send(_) => self.machine.handle(now, Input::SendDrained),
                _ => {}
            }
        }
        while let Some(event) = self.machine.poll_event() {
            self.told.push(event);
        }
    }
}

/// Replays a session; `guest_had_a_vf` unless the recorded guest asked for a path that there was not.
fn replay(name: &str) -> Guest {
    let mut guest =
        Guest { machine: Machine::new(Settings::default()), asked: VecDeque::new(), present: false, told: Vec::new() };
    let mut switches: Vec<u64> = Vec::new();
    for event in events(name) {
        let payload = hex(&event["payload"]);
        match (event["ev"].as_str().unwrap(), event["dir"].as_str(), event["nvsp"].as_u64()) {
            ("host_vf_device_offered", ..) if !std::mem::replace(&mut guest.present, true) => {
                let serial = guest.machine.association();
                guest.put(Input::Arrived { serial });
            }
            ("packet", Some("h2g"), Some(128)) => {
                let Ok(Message::VfAssociation(said)) = Message::parse(&payload, Sender::Host) else {
                    panic!("{event}")
                };
                if said.allocated {
                    guest.put(Input::Associated { serial: said.serial_number });
                } else {
                    assert_eq!(
                        guest.machine.association(),
                        Some(said.serial_number),
                        "a removal repeats the serial number"
                    );
                    guest.put(Input::Revoked);
                    guest.put(Input::Gone { lost: 0 });
                    guest.present = false;
                }
            }
            ("packet", Some("h2g"), Some(129)) => {
                let Ok(Message::SwitchDataPath(said)) = Message::parse(&payload, Sender::Host) else {
                    panic!("{event}")
                };
                guest.put(Input::HostSwitched(path(said.active_path)));
            }
            ("packet", Some("g2h"), Some(129)) => {
                let Ok(Message::SwitchDataPath(asked)) = Message::parse(&payload, Sender::Guest) else {
                    panic!("{event}")
                };
                let to = path(asked.active_path);
                if to == Path::VirtualFunction && guest.machine.association().is_none() {
                    assert!(guest.asked.is_empty(), "without a vf there is nothing to ask for");
                    continue;
                }
                if to == Path::Synthetic && guest.asked.is_empty() {
                    // The recorded guest had its reasons.
                    guest.put(Input::Link(LinkState::Down));
                }
                assert_eq!(guest.asked.front().map(|(_, to)| *to), Some(to), "{event}");
                switches.push(event["tid"].as_u64().unwrap());
            }
            ("packet", Some("h2g"), None) if event["type"] == 11 => {
                let id = event["tid"].as_u64().unwrap();
                if let Some(at) = switches.iter().position(|asked| *asked == id) {
                    switches.remove(at);
                    assert!(payload.is_empty(), "the host completes a switch without a word");
                    let (id, _) = guest.asked.pop_front().unwrap();
                    guest.put(Input::Switched(id));
                }
            }
            _ => {}
        }
    }
    guest
}

fn switched(guest: &Guest) -> Vec<Path> {
    let switched = guest.told.iter().filter_map(|event| match event {
        Event::DatapathSwitched { to, drained: true, .. } => Some(*to),
        _ => None,
    });
    switched.collect()
}

#[test]
fn a_vf_that_is_given_taken_given_again_and_taken_by_surprise() {
    use Path::{Synthetic as S, VirtualFunction as V};
    let guest = replay("vf.json");
    assert_eq!(switched(&guest), [V, S, V, S]);
    let counters = guest.machine.counters();
    assert_eq!((counters.offered, counters.revoked, counters.switched_to_vf), (2, 2, 2));
    assert_eq!((counters.refused, counters.timeouts, counters.not_drained), (0, 0, 0));
    assert_eq!(guest.machine.stage(), Stage::Synthetic);
}

#[test]
fn a_vf_that_arrives_at_run_time() {
    let guest = replay("vf-linux.json");
    assert_eq!(switched(&guest), [Path::VirtualFunction, Path::Synthetic]);
    assert_eq!(guest.machine.stage(), Stage::Synthetic);
}

#[test]
fn a_host_that_was_not_asked_for_a_vf_says_nothing_of_one() {
    let guest = replay("vf-not-asked.json");
    assert_eq!(guest.told, []);
    assert_eq!(guest.machine.stage(), Stage::Synthetic);
}
