//! What a right answer would be: the smallest host that a NIC comes up on. The steps of a session change its answers.

use nvsp::{
    InitComplete, ReceiveSection, Records, RndisPacket, RndisPacketComplete, SendReceiveBufferComplete,
    SendSendBufferComplete, Sender, Status, Version,
};
use rndis::Oid;
use rndis::control::{InitializeComplete, KeepAliveComplete, Query, QueryComplete, SetComplete};
use vmbus::memory::{PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::PacketType;

use super::bus::{DIRECT_GPA, Shared};

/// Bytes of a section of the receive buffer.
pub(super) const RECEIVE_SECTION: u32 = 1728;

/// Bytes of a section of the send buffer.
pub(super) const SEND_SECTION: u32 = 6144;

/// A packet that the guest wrote.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) packet_type: PacketType,
    pub(super) header: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// What the host says to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// In a completion.
    Completion(Vec<u8>),
    /// As an RNDIS message in the receive buffer.
    Rndis(Vec<u8>),
}

impl Reply {
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Completion(bytes) | Self::Rndis(bytes) => bytes,
        }
    }
}

/// The right answers to a packet, in order.
pub(super) fn answers(version: Version, shared: &Shared, taken: &Taken) -> Vec<Reply> {
    let completion = |message: nvsp::Message<'_>| {
        let mut bytes = vec![0; message.buffer_len()];
        // As long as it said.
        let _ = message.emit(&mut bytes);
        Reply::Completion(bytes)
    };
    let Ok(message) = nvsp::Message::parse(&taken.payload, Sender::Guest) else { return Vec::new() };
    match message {
        nvsp::Message::Init(init) => {
            let status = if init.max_version == version { Status::SUCCESS } else { Status::NONE };
            let complete = InitComplete { version: InitComplete::DEPRECATED_VERSION, max_mdl_chain_len: 34, status };
            vec![completion(complete.into())]
        }
        nvsp::Message::SendReceiveBuffer(_) => {
            let bytes = shared.receive.as_ref().map_or(0, SharedMemory::len) as u32;
            let count = bytes / RECEIVE_SECTION;
            let sections = [ReceiveSection {
                offset: 0,
                sub_allocation_size: RECEIVE_SECTION,
                sub_allocation_count: count,
                end_offset: count * RECEIVE_SECTION,
            }];
            let sections = Records::from(&sections[..]);
            vec![completion(SendReceiveBufferComplete { status: Status::SUCCESS, sections }.into())]
        }
        nvsp::Message::SendSendBuffer(_) => {
            vec![completion(SendSendBufferComplete { status: Status::SUCCESS, section_size: SEND_SECTION }.into())]
        }
        nvsp::Message::RndisPacket(packet) => {
            let mut replies = vec![completion(RndisPacketComplete { status: Status::SUCCESS }.into())];
            if packet.channel_type == nvsp::ChannelType::CONTROL
                && let Some(answer) = rndis_message(shared, taken, &packet).and_then(|message| rndis_answer(&message))
            {
                replies.push(Reply::Rndis(answer));
            }
            replies
        }
        _ => Vec::new(),
    }
}

/// The RNDIS message that the guest hands over: from a section, or from pages.
fn rndis_message(shared: &Shared, taken: &Taken, packet: &RndisPacket) -> Option<Vec<u8>> {
    if let Some(section) = packet.section {
        let mut bytes = vec![0; packet.section_bytes.min(SEND_SECTION) as usize];
        let at = usize::try_from(u64::from(section.get()) * u64::from(SEND_SECTION)).ok()?;
        shared.send.as_ref()?.read(at, &mut bytes).ok()?;
        return Some(bytes);
    }
    if taken.packet_type != PacketType::GPA_DIRECT {
        return None;
    }
    // Count, then one range: bytes, offset, page numbers. A control message is in one page or in pages that follow.
    let field = |at: usize| Some(u32::from_le_bytes(*taken.header.get(at..)?.first_chunk()?));
    let (len, offset) = (field(8)?, field(12)?);
    let pfn = u64::from_le_bytes(*taken.header.get(16..)?.first_chunk()?);
    let mut bytes = vec![0; len.min(2 * PAGE_SIZE as u32) as usize];
    let gpa = pfn.checked_mul(PAGE_SIZE as u64)?.checked_add(offset.into())?;
    let at = usize::try_from(gpa.checked_sub(DIRECT_GPA)?).ok()?;
    shared.direct.as_ref()?.read(at, &mut bytes).ok()?;
    Some(bytes)
}

fn rndis_answer(message: &[u8]) -> Option<Vec<u8>> {
    let answer = match rndis::Message::parse(message).ok()? {
        rndis::Message::Initialize(initialize) => rndis::Message::InitializeComplete(InitializeComplete {
            request_id: initialize.request_id,
            status: rndis::Status::SUCCESS,
            major_version: 1,
            minor_version: 0,
            device_flags: 1,
            medium: 0,
            max_packets_per_message: 8,
            max_transfer_size: 0xEFFF_FFFF,
            packet_alignment_log2: 3,
            af_list_offset: 0,
            af_list_size: 0,
        }),
        rndis::Message::Query(query) => return query_answer(&query),
        rndis::Message::Set(set) => {
            rndis::Message::SetComplete(SetComplete { request_id: set.request_id, status: rndis::Status::SUCCESS })
        }
        rndis::Message::KeepAlive(alive) => rndis::Message::KeepAliveComplete(KeepAliveComplete {
            request_id: alive.request_id,
            status: rndis::Status::SUCCESS,
        }),
        _ => return None,
    };
    emitted(&answer)
}

fn query_answer(query: &Query<'_>) -> Option<Vec<u8>> {
    let value: &[u8] = match query.oid {
        Oid::PERMANENT_ADDRESS | Oid::CURRENT_ADDRESS => &[0, 0x15, 0x5D, 1, 2, 3],
        Oid::MAXIMUM_FRAME_SIZE => &1500_u32.to_le_bytes(),
        Oid::MEDIA_CONNECT_STATUS => &0_u32.to_le_bytes(),
        Oid::LINK_SPEED => &100_000_000_u32.to_le_bytes(),
        // The question has the answer's form, with nothing in it.
        Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES | Oid::RECEIVE_SCALE_CAPABILITIES => query.information,
        _ => &[],
    };
    let status = if value.is_empty() { rndis::Status::NOT_SUPPORTED } else { rndis::Status::SUCCESS };
    let complete = QueryComplete { request_id: query.request_id, status, information: value };
    emitted(&rndis::Message::QueryComplete(complete))
}

fn emitted(message: &rndis::Message<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes).ok()?;
    Some(bytes)
}
