//! Carrying out steps, and what must hold after each.

use core::time::Duration;
use std::collections::VecDeque;
use std::task::{Context, Waker};

use netvsc::meta::{IpVersion, Segmentation, Transport, TxChecksum, TxMeta, Vlan};
use netvsc::queue::{Burst, Queue, SendError};
use netvsc::{Config, Event, Instant, Nic, PacketFilter};
use nvsp::{ChannelType, RndisPacket, Version};
use rndis::Oid;
use vmbus::bus::RingSizes;
use vmbus::memory::{PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

use super::Ring;
use super::bus::{Handle, HostileBus, HostileChannel};
use super::host::{self, RECEIVE_SECTION, Reply, Taken};
use super::step::{Edit, Id, Step};
use crate::Bytes;

/// Bytes of each ring, control page included.
const RING_BYTES: usize = 5 * PAGE_SIZE;

const RECEIVE_SECTIONS: u32 = 18;
const SEND_SECTIONS: u32 = 12;
const DIRECT_BYTES: usize = 8 * PAGE_SIZE;

/// Transaction ids of the guest that completions may name.
const RECENT: usize = 16;

/// Events that one turn may bring: the most that wait, and a few that must not be lost.
const MAX_EVENTS: usize = 2 * netvsc::control::MAX_EVENTS;

/// Rings and buffers.
type Memory = vmbus::memory::HeapMemory;

/// What a session starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The version that the host speaks.
    pub version: Version,
    /// Whether the guest has memory for GPA-direct sends.
    pub direct: bool,
    /// Whether the guest wants a send buffer.
    pub send_buffer: bool,
    /// Whether the device is brought up, before the first step.
    pub up: bool,
}

impl Settings {
    const VERSIONS: [Version; 6] = [Version::V6_1, Version::V6, Version::V5, Version::V4, Version::V2, Version::V1];

    /// The settings that a number stands for.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        let send_buffer = bits & 1 == 0;
        Self {
            version: Self::VERSIONS[usize::from(bits >> 3) % Self::VERSIONS.len()],
            // Without both nothing could be sent.
            direct: bits & 2 == 0 || !send_buffer,
            send_buffer,
            up: bits & 4 == 0,
        }
    }

    /// From a fuzzer's bytes.
    pub(super) fn decode(input: &mut Bytes<'_>) -> Option<Self> {
        Some(Self::from_bits(input.u8()?))
    }
}

/// A driver, and the other side of everything it touches.
pub struct Session {
    version: Version,
    shared: Handle,
    nic: Nic<HostileBus>,
    queue: Option<Queue<HostileChannel>>,
    now: Instant,
    burst: Burst,
    /// The guest→host ring, read.
    from_guest: Option<Consumer<MappedRing<Memory>>>,
    /// The host→guest ring, written.
    to_guest: Option<Producer<MappedRing<Memory>>>,
    packet: Vec<u8>,
    recent: VecDeque<u64>,
    next_section: u32,
    next_id: u64,
    up: bool,
    frames: u64,
    /// The queue said that its ring is corrupt, or the device came to its end.
    over: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("nic", &self.nic).field("now", &self.now).finish_non_exhaustive()
    }
}

impl Session {
    /// A device that was just found; with [`Settings::up`] one that was brought up.
    ///
    /// # Panics
    /// If a NIC does not come up on a host that answers rightly.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (bus, shared) = HostileBus::new(!settings.direct);
        let config = Config::default()
            .receive_sections(RECEIVE_SECTIONS)
            .send_sections(SEND_SECTIONS)
            .send_buffer(settings.send_buffer)
            .direct_bytes(DIRECT_BYTES)
            .rings(RingSizes { outgoing_bytes: RING_BYTES, incoming_bytes: RING_BYTES });
        let mut session = Self {
            version: settings.version,
            shared,
            nic: Nic::new(bus, config, Instant::ZERO).expect("settings that can be"),
            queue: None,
            now: Instant::ZERO,
            burst: Burst::new(64, 256 << 10),
            from_guest: None,
            to_guest: None,
            packet: vec![0; 1 << 14],
            recent: VecDeque::with_capacity(RECENT),
            next_section: 0,
            next_id: 1,
            up: false,
            frames: 0,
            over: false,
        };
        session.turn();
        if settings.up {
            // A version and a request a round, at most.
            for _ in 0..64 {
                if !session.is_up() {
                    session.step(&Step::AnswerAll);
                }
            }
            assert!(session.is_up(), "a host that answers rightly: {session:?}");
        }
        session
    }

    /// Whether the device is, or was, up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Frames that the guest received.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether nothing can happen any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// One step, and then the driver's turn.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Answer(edit) => self.answer(Some(edit)),
            Step::AnswerAll => {
                for _ in 0..RECENT {
                    self.answer(None);
                }
            }
            Step::Ignore => drop(self.take()),
            Step::Packet { packet_type, wants_completion, id, header, payload } => {
                let id = self.id(*id);
                let header = padded(header);
                self.write(&Outgoing {
                    packet_type: PacketType(*packet_type),
                    completion_requested: *wants_completion,
                    transaction_id: TransactionId(id),
                    header: &header,
                    payload: &payload[..payload.len().min(8192)],
                });
            }
            Step::Rndis(message) => self.rndis(message),
            Step::Transfer { set_id, id, ranges } => self.transfer(*set_id, *id, ranges),
            Step::Scribble { at, bytes } => {
                let shared = self.shared.lock();
                if let Some(memory) = &shared.receive {
                    scribble(memory, 0, *at, bytes);
                }
            }
            Step::Word { ring, at, value } => {
                let shared = self.shared.lock();
                let memory = shared.ring(*ring);
                if let Some(Ok(word)) = memory.map(|memory| memory.word32(usize::from(*at) % (PAGE_SIZE / 4) * 4)) {
                    word.store(*value, core::sync::atomic::Ordering::SeqCst);
                }
            }
            Step::RingBytes { ring, at, bytes } => {
                let shared = self.shared.lock();
                if let Some(memory) = shared.ring(*ring) {
                    scribble(memory, PAGE_SIZE, *at, bytes);
                }
            }
            Step::Event(event) => self.shared.lock().forge(*event),
            Step::HoldEvents(hold) => self.shared.lock().hold(*hold),
            Step::Pass { millis } => self.now += Duration::from_millis((*millis).into()),
            Step::Send { len, count, meta } => self.send(*len, *count, *meta),
            Step::Arm => {
                if let Some(queue) = &mut self.queue
                    && (queue.want_send_room(1514).is_err() || queue.arm().is_err())
                {
                    self.over = true;
                }
            }
            Step::Ask(what) => self.ask(*what),
            Step::Close => self.nic.close(self.now),
        }
        self.turn();
    }

    /// Closes the device, whatever state it is in: it has to end, also if the host does not answer any more.
    ///
    /// # Panics
    /// If it does not.
    pub fn finish(&mut self) {
        self.nic.close(self.now);
        for _ in 0..64 {
            self.turn();
            if self.over || self.nic.is_over() {
                return;
            }
            self.now += Duration::from_secs(10);
        }
        panic!("the device does not come to its end: {self:?}");
    }

    /// The driver's turn: control side, frames, completions; then what must hold.
    fn turn(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            if self.nic.poll(self.now, &mut cx, self.queue.as_mut()).is_err() {
                self.over = true;
                return;
            }
            if self.queue.is_none() {
                self.queue = self.nic.take_queue();
                self.connect_rings();
            }
        }
        let mut events = 0;
        while let Some(event) = self.nic.poll_event() {
            self.up |= matches!(event, Event::Ready(_));
            events += 1;
            assert!(events <= MAX_EVENTS, "events without end");
        }
        if self.nic.is_over() {
            self.over = true;
            return;
        }
        let Some(queue) = &mut self.queue else { return };
        self.burst.clear();
        if queue.receive(&mut self.burst, 64).is_err() || queue.flush().is_err() {
            // The device learns of it by itself, in its next turn.
            return;
        }
        for frame in self.burst.frames() {
            self.frames += 1;
            // A coalesced frame is what a frame with the largest IP length is.
            assert!(frame.bytes.len() <= 65_535 + 18, "a frame of {} bytes", frame.bytes.len());
        }
        assert!(queue.backlog() <= RECEIVE_SECTIONS as usize * 2, "backlog of {}", queue.backlog());
        assert!(queue.pending_controls() <= 256, "{} control messages", queue.pending_controls());
        assert!(queue.outstanding() <= 1024, "{} outstanding", queue.outstanding());
        assert!(queue.owed_acks() <= RECEIVE_SECTIONS as usize * 2, "{} owed", queue.owed_acks());
        let _ = queue.stalled_for(self.now);
        let _ = self.nic.next_timeout();
    }

    fn connect_rings(&mut self) {
        let shared = self.shared.lock();
        let ring = |memory: Option<&Memory>| MappedRing::new(memory?.clone(), PAGE_SIZE).ok();
        if self.queue.is_some() && self.from_guest.is_none() {
            self.from_guest = ring(shared.ring(Ring::ToHost)).map(Consumer::new);
            self.to_guest = ring(shared.ring(Ring::ToGuest)).map(Producer::new);
        }
    }

    /// The guest's next packet.
    fn take(&mut self) -> Option<(u64, bool, Taken)> {
        let ring = self.from_guest.as_mut()?;
        // What broke the ring was this side: it goes on without.
        let incoming = ring.take(&mut self.packet).ok().flatten()?;
        let (header, payload) = incoming.split(&self.packet);
        let taken =
            Taken { packet_type: incoming.descriptor.packet_type, header: header.to_vec(), payload: payload.to_vec() };
        let _ = ring.commit();
        let id = incoming.descriptor.transaction_id.0;
        let wants_completion = incoming.descriptor.wants_completion();
        if wants_completion {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(id);
        }
        Some((id, wants_completion, taken))
    }

    fn answer(&mut self, edit: Option<&Edit>) {
        let Some((id, wants_completion, taken)) = self.take() else { return };
        let mut replies = host::answers(self.version, &self.shared.lock(), &taken);
        if let (Some(edit), Some(last)) = (edit, replies.last_mut()) {
            edit.apply(last.bytes_mut());
        }
        for reply in replies {
            match reply {
                Reply::Completion(payload) if wants_completion => {
                    self.write(&Outgoing::completion(TransactionId(id), &payload));
                }
                Reply::Completion(_) => {}
                Reply::Rndis(message) => self.rndis(&message),
            }
        }
    }

    /// Puts a message into the next section and hands it over.
    fn rndis(&mut self, message: &[u8]) {
        let message = &message[..message.len().min(RECEIVE_SECTION as usize)];
        let offset = self.next_section % RECEIVE_SECTIONS * RECEIVE_SECTION;
        self.next_section += 1;
        {
            let shared = self.shared.lock();
            let Some(memory) = &shared.receive else { return };
            if memory.write(offset as usize, message).is_err() {
                return;
            }
        }
        self.next_id += 1;
        let range = TransferRange { byte_count: message.len() as u32, byte_offset: offset };
        self.transfer(nvsp::BufferId::RECEIVE.0, self.next_id, &[range]);
    }

    fn transfer(&mut self, set_id: u16, id: u64, ranges: &[TransferRange]) {
        let mut header = TransferPages::fixed_header(set_id, ranges.len() as u32).to_vec();
        header.extend(ranges.iter().flat_map(|range| range.to_bytes()));
        self.write(&Outgoing {
            packet_type: PacketType::TRANSFER_PAGES,
            completion_requested: true,
            transaction_id: TransactionId(id),
            header: &header,
            payload: &RndisPacket::without_section(ChannelType::DATA).to_array::<40>(),
        });
    }

    /// Writes a packet, if there is room; a guest that does not read is not this side's concern.
    fn write(&mut self, packet: &Outgoing<'_>) {
        let Some(ring) = &mut self.to_guest else { return };
        if ring.write(packet).is_ok() {
            let _ = ring.publish();
        }
    }

    fn id(&self, id: Id) -> u64 {
        match id {
            Id::Recent(at) if !self.recent.is_empty() => self.recent[usize::from(at) % self.recent.len()],
            Id::Recent(at) => at.into(),
            Id::Any(id) => id,
        }
    }

    fn send(&mut self, len: u16, count: u8, meta: u8) {
        let Some(queue) = &mut self.queue else { return };
        let frame = vec![0x45; usize::from(len)];
        let meta = tx_meta(meta);
        for _ in 0..count {
            match queue.send(&frame, &meta) {
                Ok(()) => {}
                Err(SendError::Full) => break,
                Err(_) => return,
            }
        }
        let _ = queue.flush();
    }

    fn ask(&mut self, what: u8) {
        // Refused while the device is not up.
        match what % 4 {
            0 => drop(self.nic.set_packet_filter(self.now, PacketFilter(what.into()))),
            1 => drop(self.nic.query(self.now, Oid::SUPPORTED_LIST)),
            2 => drop(self.nic.set(self.now, Oid::PACKET_FILTER, &[what; 4])),
            _ => {
                if let Ok(request) = self.nic.query(self.now, Oid::LINK_SPEED) {
                    self.nic.abandon(request);
                }
            }
        }
    }
}

/// Bytes over memory behind `first`, cut at its end.
fn scribble(memory: &Memory, first: usize, at: u32, bytes: &[u8]) {
    let at = first + at as usize % (memory.len() - first).max(1);
    let room = memory.len() - at;
    memory.write(at, &bytes[..bytes.len().min(room)]).expect("cut to what there is");
}

fn padded(header: &[u8]) -> Vec<u8> {
    let mut header = header[..header.len().min(8192)].to_vec();
    header.resize(header.len().next_multiple_of(8), 0);
    header
}

fn tx_meta(choice: u8) -> TxMeta {
    let checksum = TxChecksum {
        ip: IpVersion::V4,
        ip_header: choice & 2 != 0,
        transport: Some(Transport::Tcp),
        transport_offset: u16::from(choice) * 2,
    };
    let segmentation = Segmentation {
        ip: IpVersion::V4,
        mss: u32::from(choice) * 16,
        transport_offset: u16::from(choice),
        fixed_id: false,
    };
    TxMeta {
        checksum: (choice & 1 != 0).then_some(checksum),
        vlan: (choice & 4 != 0).then(|| Vlan::from_tci(choice.into())),
        hash: (choice & 8 != 0).then_some(7),
        segmentation: (choice & 16 != 0).then_some(segmentation),
    }
}
