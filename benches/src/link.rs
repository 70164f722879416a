//! A queue and the host end of its channel, on one thread.

use netvsc::queue::{AggregateLimits, Queue, QueueSettings, ReceiveBuffer, SendBuffer};
use nvsp::{ChannelType, RndisPacket, RndisPacketComplete, Status};
use vmbus::bus::{ChannelInfo, ChannelParts, Silent};
use vmbus::guid::Guid;
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::protocol::RelId;
use vmbus::ring::{CONTROL_BYTES, Consumer, MappedRing, Outgoing, Producer};

/// Frames that are moved in one turn.
pub const TURN: usize = 64;
/// Frames to a transfer packet, and to a flush.
pub const BATCH: usize = 32;

const RECEIVE_SECTION: u32 = 1728;
const RECEIVE_SECTIONS: u32 = 4096;
const SEND_SECTION: u32 = 6144;
const SEND_SECTIONS: u32 = 170;
const SET_ID: u16 = 0xCAFE;

/// The guest's end of the channel. Nobody hears its signals: the host end looks when it is told to.
pub type HeapChannel = ChannelParts<HeapMemory, Silent, Silent>;

/// The host's end.
#[derive(Debug)]
pub struct HostEnd {
    consumer: Consumer<MappedRing<HeapMemory>>,
    producer: Producer<MappedRing<HeapMemory>>,
    receive: HeapMemory,
    /// Headers of transfer packets, one for each [`BATCH`] sections.
    transfers: Vec<Vec<u8>>,
    next: usize,
    body: Vec<u8>,
    ids: Vec<TransactionId>,
}

/// A queue with 4096 receive sections of 1728 bytes (more than a cache holds), 170 send sections of 6144 bytes and
/// eight frames to a section; and its host.
///
/// # Panics
/// If the queue refuses what it is given.
pub fn link() -> (Queue<HeapChannel>, HostEnd) {
    let ring = || HeapMemory::zeroed(CONTROL_BYTES + (64 << 10));
    let (to_host, to_guest) = (ring(), ring());
    let receive = HeapMemory::zeroed((RECEIVE_SECTIONS * RECEIVE_SECTION) as usize);
    let send = HeapMemory::zeroed((SEND_SECTIONS * SEND_SECTION) as usize);
    let channel = ChannelParts {
        // A subchannel has no control messages and keeps no section for them.
        info: ChannelInfo::new(RelId(1), Guid::default(), Guid::default(), 1),
        outgoing: to_host.clone(),
        incoming: to_guest.clone(),
        ring_header_bytes: CONTROL_BYTES,
        doorbell: Silent,
        interrupt: Silent,
    };
    let mut queue = Queue::new(channel, QueueSettings::default()).expect("good rings");
    let buffer = ReceiveBuffer {
        memory: receive.clone(),
        set_id: SET_ID,
        section_bytes: RECEIVE_SECTION,
        sections: RECEIVE_SECTIONS,
    };
    queue.attach_receive(buffer).expect("a good buffer");
    queue
        .attach_send(SendBuffer { memory: send, section_bytes: SEND_SECTION, sections: 0..SEND_SECTIONS })
        .expect("a good buffer");
    queue.attach_limits(AggregateLimits { max_packets: 8, max_bytes: 0xEFFF_FFFF, alignment: 8 });
    let mapped = |memory| MappedRing::new(memory, CONTROL_BYTES).expect("a good ring");
    let host = HostEnd {
        consumer: Consumer::new(mapped(to_host)),
        producer: Producer::new(mapped(to_guest)),
        receive,
        transfers: Vec::new(),
        next: 0,
        body: vec![0; 4096],
        ids: Vec::with_capacity(TURN),
    };
    (queue, host)
}

impl HostEnd {
    /// Puts a message into every section of the receive buffer.
    ///
    /// # Panics
    /// If the message is longer than a section.
    pub fn fill(&mut self, message: &[u8]) {
        assert!(message.len() <= RECEIVE_SECTION as usize);
        let ranges: Vec<TransferRange> = (0..RECEIVE_SECTIONS)
            .map(|section| {
                let byte_offset = section * RECEIVE_SECTION;
                self.receive.write(byte_offset as usize, message).expect("inside the buffer");
                TransferRange { byte_count: message.len() as u32, byte_offset }
            })
            .collect();
        self.transfers = ranges
            .chunks(BATCH)
            .map(|ranges| {
                let mut header = TransferPages::fixed_header(SET_ID, ranges.len() as u32).to_vec();
                header.extend(ranges.iter().flat_map(|range| range.to_bytes()));
                header
            })
            .collect();
    }

    /// Hands over the next [`TURN`] sections.
    ///
    /// # Panics
    /// If the guest broke the ring.
    pub fn deliver(&mut self) {
        let payload: [u8; nvsp::MESSAGE_LEN] = RndisPacket::without_section(ChannelType::DATA).to_array();
        for id in 1..=TURN / BATCH {
            let header = &self.transfers[self.next];
            self.next = (self.next + 1) % self.transfers.len();
            let packet = Outgoing {
                packet_type: PacketType::TRANSFER_PAGES,
                header,
                ..Outgoing::request(TransactionId(id as u64), &payload)
            };
            self.producer.write(&packet).expect("room");
        }
        let _ = self.producer.publish().expect("a good guest");
    }

    /// Takes what the guest wrote, and completes what it sent; says how many packets there were.
    ///
    /// # Panics
    /// If the guest broke the ring.
    pub fn answer(&mut self) -> usize {
        let completion: [u8; RndisPacketComplete::LEN] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
        let mut packets = 0;
        while let Some(incoming) = self.consumer.take(&mut self.body).expect("a good guest") {
            packets += 1;
            if incoming.descriptor.wants_completion() {
                self.ids.push(incoming.descriptor.transaction_id);
            }
        }
        let _ = self.consumer.commit().expect("a good guest");
        for id in self.ids.drain(..) {
            self.producer.write(&Outgoing::completion(id, &completion)).expect("room");
        }
        let _ = self.producer.publish().expect("a good guest");
        packets
    }
}
