//! Recorded sessions, and a guest on raw rings that plays them to the host.
//!
//! The form of the files is told in `tests/data/captures`. The guest says what was recorded, with its own addresses:
//! page numbers are mapped to pages of its memory, and the transaction ids of what it gives back are those that this host
//! used.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use netvsc_host::port::{LoopbackPort, NullPort, Port};
use netvsc_host::{Host, NicOptions, Settings};
use serde_json::Value;
use vmbus::gpadl::{GpadlId, RangeList};
use vmbus::mem::GuestPort;
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages};
use vmbus::protocol::{
    CloseChannel, ConnectionId, ContactTarget, Context, GpadlTeardown, InitiateContact, Message, MonitorPages,
    OpenChannel, OpenId, RelId, RelIdReleased, USER_DEFINED_LEN, Version, VpIndex,
};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

/// A recorded session.
pub(crate) struct Session {
    pub(crate) name: String,
    json: Value,
}

impl Session {
    /// Reads `tests/data/captures/<group>/<name>.json`.
    pub(crate) fn read(group: &str, name: &str) -> Self {
        let path = format!("{}/../tests/data/captures/{group}/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { name: name.into(), json }
    }

    pub(crate) fn events(&self) -> &[Value] {
        self.json["events"].as_array().expect("events")
    }

    pub(crate) fn host(&self) -> &Value {
        &self.json["host"]
    }

    pub(crate) fn guest(&self) -> &Value {
        &self.json["guest"]
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        hex(&self.host()["mac"]).try_into().expect("six bytes")
    }
}

/// Bytes of a hex string.
pub(crate) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or("");
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word"))
}

/// A packet from the host, as the guest took it off the ring.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) packet_type: PacketType,
    pub(crate) id: u64,
    pub(crate) payload: Vec<u8>,
    /// The ranges' bytes.
    pub(crate) ranges: Vec<Vec<u8>>,
}

impl Taken {
    pub(crate) fn is_completion(&self) -> bool {
        self.packet_type == PacketType::COMPLETION
    }

    pub(crate) fn is_control(&self) -> bool {
        self.packet_type == PacketType::TRANSFER_PAGES && word(&self.payload, 4) == 1
    }
}

type Ring = MappedRing<HeapMemory>;

/// What a guest has of a channel that it is not at.
struct Lane {
    relid: RelId,
    channel: Option<(Producer<Ring>, Consumer<Ring>)>,
    ring: Option<u64>,
    inbox: VecDeque<Taken>,
}

/// A guest on raw rings.
pub(crate) struct Guest {
    pub(crate) host: Host,
    port: GuestPort,
    context: Context,
    relid: RelId,
    gpadls: BTreeMap<u64, HeapMemory>,
    pub(crate) channel: Option<(Producer<Ring>, Consumer<Ring>)>,
    ring: Option<u64>,
    /// Where recorded pages are: one block for all that no GPADL names.
    arena: HeapMemory,
    pages: HashMap<u64, u64>,
    receive: u64,
    send: u64,
    /// What came and was not looked at.
    pub(crate) inbox: VecDeque<Taken>,
    pub(crate) now: Duration,
    /// The channel that it is at: 0 is the primary one.
    at: usize,
    /// All others, by their number.
    others: BTreeMap<usize, Lane>,
}

impl Guest {
    /// Connects to a host of these settings, for this session.
    pub(crate) fn new(session: &Session, settings: Settings) -> Self {
        match session.host()["endpoint"].as_str() {
            Some("loopback" | "test") => Self::with_port(session, settings, LoopbackPort::new()),
            _ => Self::with_port(session, settings, NullPort),
        }
    }

    /// As [`new`](Self::new), with a port of one's own in place of the recorded endpoint.
    pub(crate) fn with_port(session: &Session, settings: Settings, other: impl Port + 'static) -> Self {
        let host = Host::builder().tune(|s| *s = settings).build();
        let queues = session.host()["max_queues"].as_u64().unwrap_or(1) as u16;
        let speed = if session.host()["endpoint"] == "test" { 25_000_000_000 } else { 10_000_000_000 };
        let options = NicOptions::new().mac(session.mac()).queues(queues).mac_spoofing(true).link_speed_bps(speed);
        let port = host.add_nic(options);
        host.add_port(other);
        let arena = port.memory().allocate(1024 * PAGE_SIZE);
        let guest = session.guest();
        let mut this = Self {
            host,
            port,
            context: Context::UNCONNECTED,
            relid: RelId(0),
            gpadls: BTreeMap::new(),
            channel: None,
            ring: None,
            arena,
            pages: HashMap::new(),
            receive: guest["recv_buffer"]["gpadl"].as_u64().unwrap_or(2),
            send: guest["send_buffer"]["gpadl"].as_u64().unwrap_or(3),
            inbox: VecDeque::new(),
            now: Duration::ZERO,
            at: 0,
            others: BTreeMap::new(),
        };
        this.connect();
        this
    }

    pub(crate) fn run(&mut self) {
        while self.host.step(self.now).did_work {}
    }

    fn connection(&self) -> ConnectionId {
        if self.context.version >= Version::V5_0 { ConnectionId(0x11) } else { ConnectionId::MESSAGE }
    }

    pub(crate) fn post(&mut self, id: ConnectionId, message: &Message<'_>) {
        let mut bytes = [0; 240];
        let len = message.emit(&mut bytes).expect("a message");
        self.port.post_message(id, &bytes[..len]).expect("short enough");
        self.run();
    }

    /// Posts bytes, whatever they are.
    pub(crate) fn post_raw(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.port.post_message(id, bytes).expect("short enough");
        self.run();
    }

    fn expect<T>(&mut self, mut pick: impl FnMut(Message<'_>) -> Option<T>) -> T {
        while let Some(posted) = self.port.take_message() {
            let message = Message::parse(&posted.bytes, self.context).expect("the host's messages are good");
            if let Some(found) = pick(message) {
                return found;
            }
        }
        panic!("the host has not answered");
    }

    fn connect(&mut self) {
        let mut version = Version::V5_3;
        loop {
            let target = if version >= Version::V5_0 {
                ContactTarget::Synic { sint: 2, vtl: 0, features: Default::default() }
            } else {
                ContactTarget::InterruptPage(0)
            };
            let contact = InitiateContact {
                version,
                target_message_vp: VpIndex(0),
                target,
                monitor_pages: MonitorPages::default(),
                client_id: None,
            };
            let id = if version >= Version::V5_0 { ConnectionId::CONTACT } else { ConnectionId::MESSAGE };
            self.context = Context::new(version);
            self.post(id, &Message::InitiateContact(contact));
            let answer = self.expect(|m| if let Message::VersionResponse(r) = m { Some(r) } else { None });
            if answer.version_supported {
                break;
            }
            let lower = Version::ALL.into_iter().find(|&v| v < version);
            version = lower.expect("a version in common");
        }
        let id = self.connection();
        self.post(id, &Message::RequestOffers);
        self.relid = self.expect(|m| if let Message::Offer(o) = m { Some(o.relid) } else { None });
        self.expect(|m| matches!(m, Message::AllOffersDelivered).then_some(()));
    }

    /// Hears of subchannels; how many were offered by now.
    pub(crate) fn take_offers(&mut self) -> usize {
        self.run();
        while let Some(posted) = self.port.take_message() {
            if let Ok(Message::Offer(offer)) = Message::parse(&posted.bytes, self.context) {
                assert!(offer.is_subchannel());
                let lane = Lane { relid: offer.relid, channel: None, ring: None, inbox: VecDeque::new() };
                assert!(self.others.insert(offer.sub_channel_index.into(), lane).is_none(), "offered twice");
            }
        }
        self.others.len()
    }

    /// From now on this is the channel that is opened, written, read and closed.
    pub(crate) fn turn_to(&mut self, channel: usize) {
        if channel == self.at {
            return;
        }
        let mut lane = self.others.remove(&channel).unwrap_or_else(|| panic!("no channel {channel} was offered"));
        std::mem::swap(&mut lane.relid, &mut self.relid);
        std::mem::swap(&mut lane.channel, &mut self.channel);
        std::mem::swap(&mut lane.ring, &mut self.ring);
        std::mem::swap(&mut lane.inbox, &mut self.inbox);
        self.others.insert(std::mem::replace(&mut self.at, channel), lane);
    }

    /// Lends a new block; the pages from `first` on are there then.
    pub(crate) fn create(&mut self, handle: u64, first: Option<u64>, pages: u64) -> bool {
        let block = self.port.memory().allocate(pages as usize * PAGE_SIZE);
        let gpa = block.gpa(0).expect("an address");
        if let Some(first) = first {
            for page in 0..pages {
                self.pages.insert(first + page, gpa / PAGE_SIZE as u64 + page);
            }
        }
        let list = RangeList::for_buffer(block.len(), |offset| block.gpa(offset)).expect("a list");
        let id = self.connection();
        for message in list.messages(self.relid, GpadlId(handle as u32)).expect("messages").iter() {
            self.post(id, &message);
        }
        let created = self.expect(|m| if let Message::GpadlCreated(c) = m { Some(c) } else { None });
        self.gpadls.insert(handle, block);
        created.status.is_success()
    }

    pub(crate) fn open(&mut self, handle: u64, downstream: u32) -> bool {
        let block = self.gpadls[&handle].clone();
        block.zero(0, block.len()).expect("inside");
        let split = downstream as usize * PAGE_SIZE;
        let ring =
            |at: usize, len: usize| MappedRing::new(block.slice(at, len).expect("inside"), PAGE_SIZE).expect("a ring");
        self.channel = Some((Producer::new(ring(0, split)), Consumer::new(ring(split, block.len() - split))));
        self.ring = Some(handle);
        let open = OpenChannel {
            relid: self.relid,
            open_id: OpenId(7),
            ring_gpadl: GpadlId(handle as u32),
            target_vp: VpIndex(0),
            downstream_page_offset: downstream,
            user_data: [0; USER_DEFINED_LEN],
            signal: None,
        };
        let id = self.connection();
        self.post(id, &Message::OpenChannel(open));
        let result = self.expect(|m| if let Message::OpenResult(r) = m { Some(r) } else { None });
        assert_eq!((result.relid, result.open_id), (self.relid, OpenId(7)));
        result.status.is_success()
    }

    pub(crate) fn close(&mut self) {
        let id = self.connection();
        let relid = self.relid;
        self.post(id, &Message::CloseChannel(CloseChannel { relid }));
        // Subchannels go with their primary channel; the guest lets go of their numbers.
        while let Some(posted) = self.port.take_message() {
            if let Ok(Message::Rescind(rescind)) = Message::parse(&posted.bytes, self.context) {
                let released = RelIdReleased { relid: rescind.relid };
                self.post(id, &Message::RelIdReleased(released));
            }
        }
        self.channel = None;
        self.inbox.clear();
    }

    pub(crate) fn teardown(&mut self, handle: u64) {
        let gpadl = GpadlId(handle as u32);
        let (id, relid) = (self.connection(), self.relid);
        self.post(id, &Message::GpadlTeardown(GpadlTeardown { relid, gpadl }));
        let gone = self.expect(|m| if let Message::GpadlTorndown(t) = m { Some(t.gpadl) } else { None });
        assert_eq!(gone, gpadl);
        if let Some(block) = self.gpadls.remove(&handle) {
            self.port.memory().free(&block);
        }
    }

    /// Gives the primary channel's number back.
    pub(crate) fn release(&mut self) {
        let (id, relid) = (self.connection(), self.relid);
        self.post(id, &Message::RelIdReleased(RelIdReleased { relid }));
    }

    /// Whether the host took the primary channel back.
    pub(crate) fn is_rescinded(&self) -> bool {
        while let Some(posted) = self.port.take_message() {
            if matches!(Message::parse(&posted.bytes, self.context), Ok(Message::Rescind(_))) {
                return true;
            }
        }
        false
    }

    /// Goes, and takes its own memory along.
    pub(crate) fn finish(self) -> Host {
        let host = self.host.clone();
        self.port.memory().free(&self.arena);
        drop(self);
        while host.step(Duration::ZERO).did_work {}
        host
    }

    fn page(&mut self, recorded: u64) -> u64 {
        // What lay outside of guest memory then does so now.
        if recorded == 0x7FFF_FFFF {
            return recorded;
        }
        let next = self.arena.gpa(0).expect("an address") / PAGE_SIZE as u64 + self.pages.len() as u64 % 1024;
        *self.pages.entry(recorded).or_insert(next)
    }

    fn write_page(&self, gpa: u64, bytes: &[u8]) {
        if let Ok(memory) = self.port.memory().map(gpa / 8 * 8, bytes.len() as u64 + 8) {
            memory.write((gpa % 8) as usize, bytes).expect("inside");
        } else if let Ok(memory) = self.port.memory().map(gpa, bytes.len() as u64) {
            memory.write(0, bytes).expect("inside");
        }
    }

    /// Writes a recorded packet to the ring, with its data where it says. Publishes; does not run the host.
    pub(crate) fn write(&mut self, event: &Value, id: u64) {
        let mut ext = hex(&event["ext"]);
        if let Some(ranges) = event["gpa"]["ranges"].as_array() {
            let data = hex(&event["gpa"]["data"]);
            let (mut at, mut taken) = (8, 0);
            for range in ranges {
                let mut left = range["len"].as_u64().expect("len") as usize;
                let mut offset = range["offset"].as_u64().expect("offset");
                at += 8;
                for pfn in range["pfns"].as_array().expect("pfns") {
                    let pfn = self.page(pfn.as_u64().expect("a page number"));
                    ext[at..at + 8].copy_from_slice(&pfn.to_le_bytes());
                    at += 8;
                    let len = left.min(PAGE_SIZE - offset as usize);
                    if let Some(part) = data.get(taken..taken + len) {
                        self.write_page(pfn * PAGE_SIZE as u64 + offset, part);
                    }
                    taken += len;
                    left -= len;
                    offset = 0;
                }
            }
        }
        if let (Some(index), Some(buffer)) = (event["section"]["index"].as_u64(), self.gpadls.get(&self.send)) {
            let data = hex(&event["section"]["data"]);
            if !data.is_empty() {
                buffer.write(index as usize * 6144, &data).expect("inside the send buffer");
            }
        }
        let payload = hex(&event["payload"]);
        let packet = Outgoing {
            packet_type: PacketType(event["type"].as_u64().expect("type") as u16),
            completion_requested: event["flags"].as_u64() == Some(1),
            transaction_id: TransactionId(id),
            header: &ext,
            payload: &payload,
        };
        let (producer, _) = self.channel.as_mut().expect("an open channel");
        producer.write(&packet).expect("ring space");
        if producer.publish().expect("a good ring").is_needed() {
            self.port.doorbell().set();
        }
    }

    /// Takes everything off the ring.
    pub(crate) fn read(&mut self) {
        let Some((_, consumer)) = self.channel.as_mut() else { return };
        let mut body = vec![0; 1 << 16];
        while let Some(incoming) = consumer.take(&mut body).expect("a good ring") {
            let (header, payload) = incoming.split(&body);
            let mut ranges = Vec::new();
            if incoming.descriptor.packet_type == PacketType::TRANSFER_PAGES {
                let pages = TransferPages::parse(header).expect("good ranges");
                let buffer = &self.gpadls[&self.receive];
                for range in pages.ranges() {
                    let mut bytes = vec![0; range.byte_count as usize];
                    buffer.read(range.byte_offset as usize, &mut bytes).expect("inside the receive buffer");
                    ranges.push(bytes);
                }
            }
            self.inbox.push_back(Taken {
                packet_type: incoming.descriptor.packet_type,
                id: incoming.descriptor.transaction_id.0,
                payload: payload.to_vec(),
                ranges,
            });
        }
        if consumer.commit().expect("a good ring").is_needed() {
            self.port.doorbell().set();
        }
        let _ = consumer.unmask().expect("a good ring");
        self.run();
    }

    /// Takes everything off the ring and forgets it.
    pub(crate) fn drain(&mut self) {
        self.read();
        self.inbox.clear();
    }

    /// Whether the host reads no more: the mask it left, and what it has not read.
    pub(crate) fn host_is_silent(&self) -> bool {
        let (producer, _) = self.channel.as_ref().expect("an open channel");
        producer.consumer_state().1 == 1
    }
}
