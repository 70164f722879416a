//! Replay of recorded sessions: the answers of an independent host (OpenVMM netvsp), byte for byte but for request ids.
//!
//! The recorded guest asked some other things in another order, so that each request of ours gets the recorded answer to
//! the request of the same kind; what that session never asked is taken from the NVSP 6.1 one, of the same host.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use netvsc::control::{Action, Control, Event, Input};
use netvsc::{Config, DeviceInfo, Instant, LinkState};
use nvsp::{MessageType, Version};
use serde_json::Value;
use vmbus::bus::Purpose;
use vmbus::gpadl::GpadlId;

/// RNDIS message type and, of queries and sets, OID.
type Kind = (u32, u32);

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap()))
}

fn kind(rndis: &[u8]) -> Kind {
    let message_type = word(rndis, 0);
    (message_type, if matches!(message_type, 4 | 5) { word(rndis, 12) } else { 0 })
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A recorded session, sorted by what it is needed for.
struct Session {
    version: Version,
    /// NVSP messages of the guest before its first RNDIS message.
    handshake: Vec<Vec<u8>>,
    /// Completions of NVSP messages by the type of what they complete, in order.
    completions: HashMap<u32, VecDeque<Vec<u8>>>,
    answers: HashMap<Kind, Vec<u8>>,
    /// What the host said by itself over RNDIS.
    indications: Vec<Vec<u8>>,
    /// What the host said by itself over NVSP.
    notices: Vec<Vec<u8>>,
    /// The first request for subchannels.
    subchannel_request: Option<Vec<u8>>,
    /// Key and table as the host first understood them.
    scaling: Option<(Vec<u8>, Vec<u64>)>,
}

impl Session {
    fn read(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/data/captures/netvsp-host")
            .join(name)
            .with_extension("json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let json: Value = serde_json::from_str(&text).unwrap();
        let mut session = Self {
            version: Version(json["guest"]["nvsp_version"].as_u64().unwrap() as u32),
            handshake: Vec::new(),
            completions: HashMap::new(),
            answers: HashMap::new(),
            indications: Vec::new(),
            notices: Vec::new(),
            subchannel_request: None,
            scaling: None,
        };
        session.scaling = json["events"].as_array().unwrap().iter().find_map(|event| {
            let rss = event["rss"].as_object()?;
            Some((hex(&rss["key"]), rss["table"].as_array()?.iter().map(|entry| entry.as_u64().unwrap()).collect()))
        });
        let mut sent = HashMap::new();
        let mut requests = HashMap::new();
        let mut rndis_began = false;
        let packets = json["events"].as_array().unwrap().iter().filter(|event| event["ev"] == "packet");
        for packet in packets.filter(|packet| packet["ch"] == 0) {
            let payload = hex(&packet["payload"]);
            let (from_guest, id) = (packet["dir"] == "g2h", packet["tid"].as_u64().unwrap());
            let control = word(&payload, 0) == 107 && word(&payload, 4) == 1;
            match (from_guest, packet["type"].as_u64().unwrap()) {
                (true, 6 | 9) if control => {
                    rndis_began = true;
                    let section = if packet["gpa"].is_object() { &packet["gpa"] } else { &packet["section"] };
                    let message = hex(&section["data"]);
                    requests.insert(word(&message, 8), kind(&message));
                }
                (false, 6) => session.notices.push(payload),
                (true, 6) => {
                    if word(&payload, 0) == MessageType::SUBCHANNEL.0 {
                        session.subchannel_request.get_or_insert_with(|| payload.clone());
                    }
                    sent.insert(id, word(&payload, 0));
                    if !rndis_began {
                        session.handshake.push(payload);
                    }
                }
                (false, 11) => {
                    if let Some(kind) = sent.remove(&id) {
                        session.completions.entry(kind).or_default().push_back(payload);
                    }
                }
                (false, 7) if control => {
                    for range in packet["xfer"]["ranges"].as_array().unwrap() {
                        let message = hex(&range["data"]);
                        match requests.get(&word(&message, 8)) {
                            Some(kind) if word(&message, 0) == kind.0 | 0x8000_0000 => {
                                session.answers.entry(*kind).or_insert(message);
                            }
                            _ => session.indications.push(message),
                        }
                    }
                }
                _ => {}
            }
        }
        assert!(rndis_began && !session.answers.is_empty(), "{name} has a bring-up");
        session
    }
}

struct Replayed {
    control: Control,
    events: Vec<Event>,
    handshake: Vec<Vec<u8>>,
    session: Session,
    recorded: usize,
    /// All messages that set scaling.
    scalings: Vec<Vec<u8>>,
    /// Subchannels that were opened.
    subchannels: Vec<u16>,
}

fn replay(name: &str, config: Config) -> Replayed {
    let mut session = Session::read(name);
    let (spare, scaling) = (Session::read("v61"), Session::read("rss"));
    let (mut scalings, mut subchannels) = (Vec::new(), Vec::new());
    let now = Instant::ZERO;
    let mut control = Control::new(config, now).unwrap();
    let mut handshake = Vec::new();
    let mut recorded = 0;
    control.handle(now, Input::Offered);
    while let Some(action) = control.poll_action() {
        match action {
            Action::Open(_) => control.handle(now, Input::Opened),
            Action::Allocate(wish) => {
                let gpadl = match wish.purpose {
                    Purpose::Receive => Some(GpadlId(2)),
                    Purpose::Send => Some(GpadlId(3)),
                    _ => None,
                };
                control.handle(now, Input::Allocated { purpose: wish.purpose, bytes: wish.bytes, gpadl });
                if let Some(gpadl) = gpadl {
                    control.handle(now, Input::GpadlCreated(gpadl));
                }
            }
            Action::SendNvsp { message, token } => {
                handshake.push(message.to_vec());
                let answers = session.completions.get_mut(&word(&message, 0));
                if let (Some(token), Some(payload)) = (token, answers.and_then(VecDeque::pop_front)) {
                    control.handle(now, Input::Completed { token, payload: &payload });
                    if word(&message, 0) == MessageType::SUBCHANNEL.0 {
                        // Offers have no order of their own.
                        for queue in (1..=word(&payload, 8) as u16).rev() {
                            control.handle(now, Input::SubchannelOffered { queue });
                        }
                    }
                }
            }
            Action::OpenSubchannel { queue, .. } => {
                subchannels.push(queue);
                control.handle(now, Input::SubchannelOpened { queue });
            }
            Action::SendRndis { message, token } => {
                control.handle(now, Input::Completed { token, payload: &[108, 0, 0, 0, 1, 0, 0, 0] });
                let kind = kind(&message);
                if kind.1 == rndis::Oid::RECEIVE_SCALE_PARAMETERS.0 {
                    scalings.push(message.clone());
                }
                recorded += usize::from(session.answers.contains_key(&kind));
                let answer = session
                    .answers
                    .get(&kind)
                    .or_else(|| spare.answers.get(&kind))
                    .or_else(|| scaling.answers.get(&kind));
                let mut answer = match answer {
                    Some(answer) => answer.clone(),
                    // Never asked in any session (the name of the adapter): hosts do not have it.
                    None => [kind.0 | 0x8000_0000, 24, 0, 0xC000_00BB, 0, 0].map(u32::to_le_bytes).concat(),
                };
                answer[8..12].copy_from_slice(&message[8..12]);
                control.handle(now, Input::Rndis { payload: &answer });
            }
            _ => {}
        }
    }
    let events = std::iter::from_fn(|| control.poll_event()).collect();
    Replayed { control, events, handshake, session, recorded, scalings, subchannels }
}

impl Replayed {
    fn info(&self) -> &DeviceInfo {
        self.control.info().unwrap_or_else(|| panic!("not up at {}: {:?}", self.control.step(), self.events))
    }

    fn same_handshake(&self) {
        let kinds = |messages: &[Vec<u8>]| messages.iter().map(|message| word(message, 0)).collect::<Vec<_>>();
        assert_eq!(kinds(&self.handshake), kinds(&self.session.handshake));
        for (ours, theirs) in self.handshake.iter().zip(&self.session.handshake) {
            if [MessageType::NDIS_VERSION.0, MessageType::SEND_RECEIVE_BUFFER.0].contains(&word(ours, 0)) {
                assert_eq!(ours[..10], theirs[..10]);
            }
        }
    }
}

/// What the recorded guest gave: 262144 bytes for reception, 65536 to send.
fn config(version: Version) -> Config {
    Config::default().nvsp_max(version).receive_sections(151).send_sections(10)
}

#[test]
fn whole_sessions_of_every_version() {
    for (name, version) in [
        ("v1", Version::V1),
        ("v2", Version::V2),
        ("v4", Version::V4),
        ("v5", Version::V5),
        ("v6", Version::V6),
        ("v61", Version::V6_1),
    ] {
        let replayed = replay(name, config(version));
        let info = replayed.info();
        assert_eq!((info.nvsp_version, replayed.session.version), (version, version));
        replayed.same_handshake();
        assert_eq!(info.mac.0, [0x00, 0x15, 0x5D, 0x01, 0x02, 0x03]);
        assert_eq!((info.mtu, info.link), (1500, LinkState::Up));
        assert_eq!((info.receive.count, info.receive.section_bytes), (145, 1806));
        assert_eq!(info.send.unwrap().section_bytes, 6144);
        assert_eq!((info.limits.max_packets, info.limits.alignment), (8, 8));
        assert_eq!(info.rss.is_some(), version >= Version::V5);
        assert_eq!(replayed.control.counters().violations, 0, "{name}: {:?}", replayed.events);
        assert!(replayed.recorded >= 6, "{name}: only {} of our requests are in the recording", replayed.recorded);
    }
}

#[test]
fn three_refused_versions_and_the_fourth_is_taken() {
    let replayed = replay("fallback", config(Version::V6_1));
    // The recording refuses three and takes the fourth, whatever they are: ours is 4.
    assert_eq!(replayed.info().nvsp_version, Version::V4);
    let kinds = replayed.handshake.iter().map(|message| word(message, 0)).collect::<Vec<_>>();
    assert_eq!(kinds, [1, 1, 1, 1, 125, 100, 101, 104]);
}

#[test]
fn a_session_without_send_buffer_and_with_jumbo_frames() {
    // The recorded guest announced frames of 9000 bytes.
    let config = config(Version::V6).receive_sections(28).mtu(8986).send_buffer(false);
    let replayed = replay("init-no-send-buffer", config);
    let info = replayed.info();
    replayed.same_handshake();
    assert!(info.send.is_none() && info.direct);
    assert_eq!((info.receive.count, info.receive.section_bytes, info.mtu), (28, 9292, 8986));
    let config = replayed.handshake.iter().find(|message| word(message, 0) == 125).unwrap();
    assert_eq!(word(config, 4), 9000);
}

#[test]
fn link_indications() {
    let mut replayed = replay("link", config(Version::V5));
    replayed.same_handshake();
    assert_eq!(replayed.info().link, LinkState::Up);
    let mut told = Vec::new();
    let mut now = Instant::ZERO;
    assert_eq!(replayed.session.indications.len(), 4, "down, up, and once more");
    for indication in &replayed.session.indications {
        now += core::time::Duration::from_secs(5);
        replayed.control.handle(now, Input::Rndis { payload: indication });
        told.extend(std::iter::from_fn(|| replayed.control.poll_event()));
    }
    assert_eq!(told, [Event::LinkDown, Event::LinkUp, Event::LinkDown, Event::LinkUp]);
    assert_eq!(replayed.control.counters().violations, 0);
}

#[test]
fn subchannels_and_scaling_over_them() {
    for (name, version) in [("subchannels", Version::V5), ("rss", Version::V6)] {
        let mut replayed = replay(name, config(version).queues(3));
        assert_eq!(replayed.info().queues, 3, "{name}: {:?}", replayed.events);
        assert_eq!(replayed.subchannels, [2, 1]);
        let requests = |message: &&Vec<u8>| word(message, 0) == MessageType::SUBCHANNEL.0;
        let ours = replayed.handshake.iter().find(requests).unwrap();
        let theirs = replayed.session.subchannel_request.as_ref().unwrap();
        assert_eq!(ours[..12], theirs[..12], "{name}");

        // The host tells how to spread sends once all are open.
        let [notice] = &replayed.session.notices[..] else { panic!("{name}: {:?}", replayed.session.notices) };
        replayed.control.handle(Instant::ZERO, Input::Nvsp { payload: notice });
        let table = core::array::from_fn(|at| at as u16 % 3);
        assert_eq!(replayed.control.poll_event(), Some(Event::SendTable(table)), "{name}");
        assert_eq!(replayed.control.counters().violations, 0, "{name}: {:?}", replayed.events);

        let [off, on] = &replayed.scalings[..] else { panic!("{name}: {} times", replayed.scalings.len()) };
        let read = |message: &[u8]| {
            let Ok(rndis::Message::Set(set)) = rndis::Message::parse(message) else { panic!("a set") };
            let parameters = rndis::rss::RssParameters::parse(set.information).unwrap();
            let table = parameters.table.iter().map(u64::from).collect::<Vec<_>>();
            (parameters.is_disabled(), (parameters.key.to_vec(), table))
        };
        assert!(read(off).0 && !read(on).0);
        if let Some(understood) = &replayed.session.scaling {
            assert_eq!(&read(on).1, understood, "{name}: as the recorded guest set it");
        }
    }
}

#[test]
fn a_session_with_subchannels_and_one_queue_of_ours() {
    let replayed = replay("subchannels", config(Version::V5));
    replayed.same_handshake();
    assert_eq!(replayed.info().queues, 1);
    assert!(replayed.subchannels.is_empty() && replayed.scalings.is_empty());
}
