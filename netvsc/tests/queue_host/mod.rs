//! A tiny host end of one channel: the other side of its rings and buffers, without any policy of its own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netvsc::meta::TxMeta;
use netvsc::queue::{AggregateLimits, Burst, Queue, QueueSettings, ReceiveBuffer, SendBuffer};
use nvsp::{ChannelType, RndisPacket, RndisPacketComplete, Status};
use rndis::packet::{BatchLimits, PacketEncoder, PacketMsg};
use vmbus::bus::{ChannelInfo, ChannelParts, Doorbell, Silent};
use vmbus::gpadl::GpaRanges;
use vmbus::guid::Guid;
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages, TransferRange, gpa_direct_ranges};
use vmbus::protocol::RelId;
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

pub(crate) const SET_ID: u16 = 0xCAFE;
const DIRECT_GPA: u64 = 0x4000_0000;

/// Counts the signals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<AtomicU64>);

impl Bell {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl vmbus::ErrorType for Bell {
    type Error = Infallible;
}

impl Doorbell for Bell {
    fn signal(&self) -> Result<(), Infallible> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) type TestChannel = ChannelParts<HeapMemory, Bell, Silent>;
pub(crate) type TestQueue = Queue<TestChannel>;

/// What a test wants its channel to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) ring_bytes: usize,
    pub(crate) send_sections: u32,
    pub(crate) send_section_bytes: u32,
    pub(crate) direct_pages: usize,
    pub(crate) receive_sections: u32,
    pub(crate) receive_section_bytes: u32,
    pub(crate) limits: AggregateLimits,
    pub(crate) subchannel: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            ring_bytes: 64 * 1024,
            send_sections: 8,
            send_section_bytes: 6144,
            direct_pages: 0,
            receive_sections: 1024,
            receive_section_bytes: 1728,
            limits: AggregateLimits { max_packets: 8, max_bytes: 0xEFFF_FFFF, alignment: 8 },
            // A subchannel has no control messages and keeps no section for them.
            subchannel: 1,
        }
    }
}

/// Something the guest wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromGuest {
    Section { id: TransactionId, channel_type: ChannelType, section: u32, bytes: Vec<u8> },
    Direct { id: TransactionId, channel_type: ChannelType, pages: usize, bytes: Vec<u8> },
    InBand { id: TransactionId, wants_completion: bool, payload: Vec<u8> },
    Ack { id: TransactionId, status: Status },
}

impl FromGuest {
    pub(crate) fn id(&self) -> TransactionId {
        match *self {
            Self::Section { id, .. } | Self::Direct { id, .. } | Self::InBand { id, .. } | Self::Ack { id, .. } => id,
        }
    }

    /// The frames of a section or of pages.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Section { bytes, .. } => rndis::packet::Batch::parse(bytes, &BatchLimits::NONE)
                .unwrap()
                .iter()
                .map(|message| message.data().to_vec())
                .collect(),
            Self::Direct { bytes, .. } => vec![PacketMsg::parse(bytes).unwrap().data().to_vec()],
            other => panic!("{other:?} has no frames"),
        }
    }
}

pub(crate) struct Host {
    pub(crate) consumer: Consumer<MappedRing<HeapMemory>>,
    pub(crate) producer: Producer<MappedRing<HeapMemory>>,
    pub(crate) receive: HeapMemory,
    pub(crate) send: HeapMemory,
    pub(crate) direct: HeapMemory,
    pub(crate) setup: Setup,
    pub(crate) bell: Bell,
    body: Vec<u8>,
}

pub(crate) fn pair(setup: Setup) -> (TestQueue, Host) {
    pair_with(setup, QueueSettings::default())
}

pub(crate) fn pair_with(setup: Setup, settings: QueueSettings) -> (TestQueue, Host) {
    let (channel, host) = channel(setup);
    let mut queue = Queue::new(channel, settings).unwrap();
    attach(&mut queue, &host);
    (queue, host)
}

/// Has a queue whose buffers were detached go over to a new channel, with buffers of its own.
pub(crate) fn reopen(queue: &mut TestQueue, setup: Setup) -> Host {
    let (channel, host) = channel(setup);
    queue.reopen(channel, QueueSettings::default()).unwrap();
    attach(queue, &host);
    queue.resume();
    host
}

pub(crate) fn channel(setup: Setup) -> (TestChannel, Host) {
    let to_host = HeapMemory::zeroed(4096 + setup.ring_bytes);
    let to_guest = HeapMemory::zeroed(4096 + setup.ring_bytes);
    let receive = HeapMemory::zeroed((setup.receive_sections * setup.receive_section_bytes).max(1) as usize);
    let send = HeapMemory::zeroed((setup.send_sections * setup.send_section_bytes).max(1) as usize);
    let direct = HeapMemory::zeroed(setup.direct_pages.max(1) * 4096).with_gpa(DIRECT_GPA);
    let bell = Bell::default();
    let guid = Guid::default();
    let channel = ChannelParts {
        info: ChannelInfo::new(RelId(1), guid, guid, setup.subchannel),
        outgoing: to_host.clone(),
        incoming: to_guest.clone(),
        ring_header_bytes: 4096,
        doorbell: bell.clone(),
        interrupt: Silent,
    };
    let mut consumer = Consumer::new(MappedRing::new(to_host, 4096).unwrap());
    assert!(!consumer.unmask().unwrap());
    let producer = Producer::new(MappedRing::new(to_guest, 4096).unwrap());
    (channel, Host { consumer, producer, receive, send, direct, setup, bell, body: vec![0; 65536] })
}

pub(crate) fn attach(queue: &mut TestQueue, host: &Host) {
    let setup = host.setup;
    if setup.direct_pages > 0 {
        queue.attach_direct(host.direct.clone()).unwrap();
    }
    if setup.receive_sections > 0 {
        let buffer = ReceiveBuffer {
            memory: host.receive.clone(),
            set_id: SET_ID,
            section_bytes: setup.receive_section_bytes,
            sections: setup.receive_sections,
        };
        queue.attach_receive(buffer).unwrap();
    }
    if setup.send_sections > 0 {
        let buffer = SendBuffer {
            memory: host.send.clone(),
            section_bytes: setup.send_section_bytes,
            sections: 0..setup.send_sections,
        };
        queue.attach_send(buffer).unwrap();
    }
    queue.attach_limits(setup.limits);
}

impl Host {
    /// The next thing the guest wrote. The ring's room is given back by [`commit`](Self::commit).
    pub(crate) fn next(&mut self) -> Option<FromGuest> {
        let incoming = self.consumer.take(&mut self.body).unwrap()?;
        let id = incoming.descriptor.transaction_id;
        let (header, payload) = incoming.split(&self.body);
        Some(match incoming.descriptor.packet_type {
            PacketType::COMPLETION => {
                assert!(!incoming.descriptor.wants_completion());
                FromGuest::Ack { id, status: RndisPacketComplete::parse(payload).unwrap().status }
            }
            PacketType::IN_BAND => match RndisPacket::parse(payload) {
                Ok(message) => {
                    assert!(incoming.descriptor.wants_completion());
                    let section = message.section.expect("an in-band RNDIS message is in a section").get();
                    assert!(section < self.setup.send_sections, "section {section}");
                    assert!(message.section_bytes <= self.setup.send_section_bytes);
                    let mut bytes = vec![0; message.section_bytes as usize];
                    self.send.read((section * self.setup.send_section_bytes) as usize, &mut bytes).unwrap();
                    FromGuest::Section { id, channel_type: message.channel_type, section, bytes }
                }
                Err(_) => FromGuest::InBand {
                    id,
                    wants_completion: incoming.descriptor.wants_completion(),
                    payload: payload.to_vec(),
                },
            },
            PacketType::GPA_DIRECT => {
                assert!(incoming.descriptor.wants_completion());
                let message = RndisPacket::parse(payload).unwrap();
                assert_eq!(message.section, None);
                let (count, ranges) = gpa_direct_ranges(header).unwrap();
                let mut bytes = Vec::new();
                for range in GpaRanges::parse(ranges, count).unwrap().iter() {
                    assert_eq!(range.pfns().len(), 1);
                    let gpa = range.pfns().next().unwrap() * 4096 + u64::from(range.byte_offset());
                    let at = bytes.len();
                    bytes.resize(at + range.byte_count() as usize, 0);
                    self.direct.read((gpa - DIRECT_GPA) as usize, &mut bytes[at..]).unwrap();
                }
                FromGuest::Direct { id, channel_type: message.channel_type, pages: count as usize, bytes }
            }
            other => panic!("unexpected {other:?}"),
        })
    }

    pub(crate) fn commit(&mut self) {
        let _ = self.consumer.commit().unwrap();
    }

    /// All that the guest wrote.
    pub(crate) fn take(&mut self) -> Vec<FromGuest> {
        let all = std::iter::from_fn(|| self.next()).collect();
        self.commit();
        all
    }

    /// Ids and statuses of the acknowledgments among all that the guest wrote.
    pub(crate) fn acks(&mut self) -> Vec<(u64, u32)> {
        self.take()
            .iter()
            .filter_map(|packet| match packet {
                FromGuest::Ack { id, status } => Some((id.0, status.0)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn write(&mut self, packet: &Outgoing<'_>) {
        self.producer.write(packet).unwrap();
        let _ = self.producer.publish().unwrap();
    }

    pub(crate) fn complete(&mut self, id: TransactionId, status: Status) {
        let payload: [u8; 8] = RndisPacketComplete { status }.to_array();
        self.write(&Outgoing::completion(id, &payload));
    }

    /// Writes a transfer packet as stated, whatever it is worth.
    pub(crate) fn transfer(
        &mut self,
        id: u64,
        set_id: u16,
        count: u32,
        ranges: &[TransferRange],
        channel_type: ChannelType,
    ) {
        let mut header = TransferPages::fixed_header(set_id, count).to_vec();
        header.extend(ranges.iter().flat_map(|range| range.to_bytes()));
        let payload: [u8; 40] = RndisPacket::without_section(channel_type).to_array();
        self.write(&Outgoing {
            packet_type: PacketType::TRANSFER_PAGES,
            header: &header,
            ..Outgoing::request(TransactionId(id), &payload)
        });
    }

    pub(crate) fn deliver(&mut self, id: u64, ranges: &[TransferRange]) {
        self.transfer(id, SET_ID, ranges.len() as u32, ranges, ChannelType::DATA);
    }

    /// Puts bytes into a section of the receive buffer.
    pub(crate) fn put(&self, section: u32, bytes: &[u8]) -> TransferRange {
        let byte_offset = section * self.setup.receive_section_bytes;
        self.receive.write(byte_offset as usize, bytes).unwrap();
        TransferRange { byte_count: bytes.len() as u32, byte_offset }
    }

    /// Puts a frame into a section, as Windows does: no more than needed.
    pub(crate) fn put_frame(&self, section: u32, frame: &[u8]) -> TransferRange {
        self.put(section, &message(frame))
    }
}

/// A packet message of one frame.
pub(crate) fn message(frame: &[u8]) -> Vec<u8> {
    let encoder = PacketEncoder::default();
    let mut bytes = vec![0; encoder.buffer_len(frame.len()).unwrap()];
    encoder.emit(frame, &mut bytes).unwrap();
    bytes
}

/// A frame of `len` bytes that tells its number.
pub(crate) fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8).collect();
    frame[0] &= !1;
    frame[2..6].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Sends without metadata.
pub(crate) fn send(queue: &mut TestQueue, frame: &[u8]) -> Result<(), netvsc::queue::SendError> {
    queue.send(frame, &TxMeta::default())
}

/// Receives all that there is.
pub(crate) fn receive_all(queue: &mut TestQueue) -> Vec<Vec<u8>> {
    let mut burst = Burst::new(64, 256 * 1024);
    let mut all = Vec::new();
    loop {
        let count = queue.receive(&mut burst, usize::MAX).unwrap();
        assert_eq!(count, burst.len());
        all.extend(burst.frames().map(|frame| frame.bytes.to_vec()));
        if count == 0 {
            return all;
        }
        burst.clear();
    }
}

/// A field of a JSON test vector: bytes in hexadecimal.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
