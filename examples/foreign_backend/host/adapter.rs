//! The network adapter: NVSP on the two rings, RNDIS messages in sections, pages and transfer pages.
//!
//! Its network is a mirror: what the guest sends comes back with the two addresses exchanged.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, bail, ensure};
use nvsp::{
    ChannelType, GpadlHandle, InitComplete, Message, ReceiveSection, Records, RndisPacket, RndisPacketComplete,
    SendReceiveBufferComplete, SendSendBufferComplete, Sender, Status, Version,
};
use rndis::packet::{Batch, PacketEncoder};
use rndis::value::PacketFilter;
use vmbus::gpadl::{GpaRanges, GpadlId};
use vmbus::memory::{HeapMemory, SharedMemory, SharedMemoryExt};
use vmbus::packet::{Descriptor, PacketType, TransactionId, TransferPages, TransferRange, gpa_direct_ranges};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

use super::Options;
use super::values::{LIMITS, Values};
use crate::line::Line;
use crate::trace::Trace;

/// Longest packet that this host reads, and longest that it writes (an answer, or [`MAX_RANGES`] ranges).
const PACKET_BYTES: usize = 4096;
const ANSWER_BYTES: u32 = 256;
/// Ranges in one transfer packet.
const MAX_RANGES: usize = 8;
/// Bytes of a section of the send buffer, as Hyper-V has it.
const SEND_SECTION_BYTES: u32 = 6144;
/// What a receive section has more than the frame.
const SECTION_OVERHEAD: u32 = 256;
/// Messages that wait for the guest to read; more are dropped, as a switch does. Blocking instead would block the guest's
/// acknowledgments as well, which come through the same ring, and nothing would ever move again.
const MAX_WAITING: usize = 1024;

type Gpadls = BTreeMap<GpadlId, HeapMemory>;

/// The receive buffer, as this host divided it.
#[derive(Debug)]
struct Sections {
    memory: HeapMemory,
    section_bytes: u32,
    free: Vec<u32>,
}

/// The adapter of an open channel.
#[derive(Debug)]
pub(super) struct Adapter {
    from_guest: Consumer<MappedRing<HeapMemory>>,
    to_guest: Producer<MappedRing<HeapMemory>>,
    interrupt: Line,
    ram: HeapMemory,
    options: Options,
    trace: Trace,
    /// The doorbell was rung, and the ring was not seen empty since.
    awake: bool,
    /// Packets of the guest so far.
    packets: u64,
    packet: Vec<u8>,
    version: Option<Version>,
    receive: Option<Sections>,
    send: Option<HeapMemory>,
    values: Values,
    /// RNDIS messages for the guest.
    waiting: VecDeque<(ChannelType, Vec<u8>)>,
    /// Sections that the guest has, by transaction id.
    lent: BTreeMap<TransactionId, Vec<u32>>,
    next_id: u64,
}

impl Adapter {
    pub(super) fn new(
        from_guest: MappedRing<HeapMemory>,
        to_guest: MappedRing<HeapMemory>,
        interrupt: Line,
        ram: HeapMemory,
        options: Options,
        trace: Trace,
    ) -> Self {
        Self {
            from_guest: Consumer::new(from_guest),
            to_guest: Producer::new(to_guest),
            interrupt,
            ram,
            options,
            trace,
            // A new consumer is masked: the first look at the ring unmasks it.
            awake: true,
            packets: 0,
            packet: vec![0; PACKET_BYTES],
            version: None,
            receive: None,
            send: None,
            values: Values { mtu: 1500, filter: PacketFilter::CLOSED },
            waiting: VecDeque::new(),
            lent: BTreeMap::new(),
            next_id: 1,
        }
    }

    pub(super) fn wake_if(&mut self, rung: bool) {
        self.awake |= rung;
    }

    /// Sends a frame to the guest, if it wants frames and there is room.
    pub(super) fn forward(&mut self, frame: &[u8]) {
        if self.values.filter == PacketFilter::CLOSED || self.waiting.len() >= MAX_WAITING {
            return self.trace.say("host", format_args!("frame of {} bytes dropped", frame.len()));
        }
        let encoder = PacketEncoder::default();
        let mut message = vec![0; encoder.buffer_len(frame.len()).unwrap_or_default()];
        if encoder.emit(frame, &mut message).is_ok() {
            self.waiting.push_back((ChannelType::DATA, message));
        }
    }

    /// Gives the guest what waits for it, or else takes one packet of the guest's.
    pub(super) fn step(&mut self, gpadls: &Gpadls) -> anyhow::Result<bool> {
        // Whatever is done next may need an answer: without room for one nothing is begun. The guest signals once there is.
        if self.to_guest.free_bytes()? >= ANSWER_BYTES {
            self.to_guest.stop_waiting();
        } else if !self.to_guest.wait_for_space(ANSWER_BYTES)? {
            self.awake = false;
            return Ok(false);
        }
        if self.deliver()? {
            return Ok(true);
        }
        if !self.awake {
            return Ok(false);
        }
        // Out of `self` while it is read.
        let mut body = std::mem::take(&mut self.packet);
        let taken = self.from_guest.take(&mut body);
        let result = match taken {
            Ok(Some(packet)) => {
                self.packets += 1;
                let (header, payload) = packet.split(&body);
                self.guest_packet(&packet.descriptor, header, payload, gpadls)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.packet = body;
        // Give the room back also if what was in it made no sense.
        if self.from_guest.commit()?.is_needed() {
            self.interrupt.raise();
        }
        result?;
        if taken.is_ok_and(|packet| packet.is_some()) {
            return Ok(true);
        }
        // Nothing there: ask for the doorbell, and look once more, lest something came in between.
        self.awake = self.from_guest.unmask()?;
        Ok(self.awake)
    }

    fn guest_packet(
        &mut self,
        descriptor: &Descriptor,
        header: &[u8],
        payload: &[u8],
        gpadls: &Gpadls,
    ) -> anyhow::Result<()> {
        if self.options.silent_after.is_some_and(|limit| self.packets > limit) {
            self.trace.say("host", "(silence)");
            return Ok(());
        }
        if descriptor.packet_type == PacketType::COMPLETION {
            return self.take_back(descriptor.transaction_id);
        }
        let message = Message::parse(payload, Sender::Guest)?;
        let mut answer = [0; 64];
        let answer_len = match message {
            Message::RndisPacket(packet) => {
                let taken = self.rndis_packet(descriptor, header, &packet);
                let status = if taken.is_ok() { Status::SUCCESS } else { Status::INVALID_RNDIS_PACKET };
                let len = RndisPacketComplete { status }.emit(&mut answer)?;
                self.complete(descriptor, &answer[..len])?;
                return taken;
            }
            ref other => self.nvsp(other, gpadls, &mut answer)?,
        };
        self.complete(descriptor, &answer[..answer_len])
    }

    /// Completes a packet of the guest, if it asked for that.
    fn complete(&mut self, descriptor: &Descriptor, payload: &[u8]) -> anyhow::Result<()> {
        if descriptor.wants_completion() {
            self.to_guest.write(&Outgoing::completion(descriptor.transaction_id, payload))?;
            self.publish()?;
        }
        Ok(())
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        if self.to_guest.publish()?.is_needed() {
            self.interrupt.raise();
        }
        Ok(())
    }

    /// An NVSP message; bytes of the answer.
    fn nvsp(&mut self, message: &Message<'_>, gpadls: &Gpadls, out: &mut [u8]) -> anyhow::Result<usize> {
        // What is not agreed on yet has the length of the oldest version.
        let len = self.version.unwrap_or(Version::V1).message_len();
        match message {
            Message::Init(init) => {
                let offered = init.max_version;
                let agreed = offered.is_released() && offered <= self.options.newest;
                self.version = agreed.then_some(offered);
                let status = if agreed { Status::SUCCESS } else { Status::NONE };
                self.trace.say("host", format_args!("NVSP {offered} offered: {status}"));
                let version = InitComplete::DEPRECATED_VERSION;
                Ok(InitComplete { version, max_mdl_chain_len: 34, status }.emit_padded(out, len)?)
            }
            Message::NdisConfig(config) => {
                self.values.mtu =
                    config.frame_mtu.checked_sub(nvsp::ETHERNET_HEADER_LEN).context("no such frame size")?;
                Ok(0)
            }
            Message::SendReceiveBuffer(buffer) => {
                let memory = granted(gpadls, buffer.gpadl)?;
                let section_bytes = (self.values.mtu + SECTION_OVERHEAD).next_multiple_of(8);
                let count = u32::try_from(memory.len())? / section_bytes;
                self.trace.say("host", format_args!("receive buffer: {count} sections of {section_bytes} bytes"));
                self.receive = Some(Sections { memory, section_bytes, free: (0..count).rev().collect() });
                let section = [ReceiveSection {
                    offset: 0,
                    sub_allocation_size: section_bytes,
                    sub_allocation_count: count,
                    end_offset: section_bytes * count,
                }];
                let sections = Records::from(&section);
                Ok(SendReceiveBufferComplete { status: Status::SUCCESS, sections }.emit_padded(out, len)?)
            }
            Message::SendSendBuffer(buffer) => {
                self.send = Some(granted(gpadls, buffer.gpadl)?);
                self.trace.say("host", format_args!("send buffer: sections of {SEND_SECTION_BYTES} bytes"));
                let answer = SendSendBufferComplete { status: Status::SUCCESS, section_size: SEND_SECTION_BYTES };
                Ok(answer.emit_padded(out, len)?)
            }
            Message::RevokeReceiveBuffer(_) => {
                ensure!(self.lent.is_empty(), "receive buffer revoked with {} packets out", self.lent.len());
                self.trace.say("host", "receive buffer revoked");
                self.receive = None;
                Ok(0)
            }
            Message::RevokeSendBuffer(_) => {
                self.trace.say("host", "send buffer revoked");
                self.send = None;
                Ok(0)
            }
            Message::NdisVersion(_) => Ok(0),
            other => bail!("NVSP message {} from the guest", other.message_type()),
        }
    }

    /// RNDIS messages of the guest: in a section of the send buffer, or in pages that the packet lists, or both.
    fn rndis_packet(&mut self, descriptor: &Descriptor, header: &[u8], packet: &RndisPacket) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        if let Some(section) = packet.section {
            ensure!(packet.section_bytes <= SEND_SECTION_BYTES, "{} bytes in a section", packet.section_bytes);
            let start = section.get().checked_mul(SEND_SECTION_BYTES).context("no such section")?;
            let memory = self.send.as_ref().context("no send buffer")?;
            bytes.resize(packet.section_bytes as usize, 0);
            memory.read(start as usize, &mut bytes)?;
        }
        if descriptor.packet_type == PacketType::GPA_DIRECT {
            let (count, list) = gpa_direct_ranges(header)?;
            for piece in GpaRanges::parse(list, count)?.iter().flat_map(|range| range.pieces()) {
                // The guest's addresses are offsets into its flat memory, whose bounds `read` checks.
                let (gpa, len) = piece.context("address beyond 64 bits")?;
                let at = bytes.len();
                bytes.resize(at + len as usize, 0);
                self.ram.read(usize::try_from(gpa)?, &mut bytes[at..])?;
            }
        }
        let place = match packet.section {
            Some(section) => format!("section {}", section.get()),
            None => "pages of its own".into(),
        };
        if packet.channel_type == ChannelType::CONTROL {
            let message = rndis::Message::parse(&bytes)?;
            self.trace.say("host", format_args!("{} in {place}", subject(&message)));
            let answer = self.values.answer(&message)?;
            if self.values.filter == PacketFilter::CLOSED {
                // What waits is not wanted any more.
                self.waiting.retain(|(channel_type, _)| *channel_type == ChannelType::CONTROL);
            }
            self.waiting.extend(answer.map(|answer| (ChannelType::CONTROL, answer)));
            return Ok(());
        }
        let batch = Batch::parse(&bytes, &LIMITS)?;
        self.trace.say("host", format_args!("{} frame(s), {} bytes, in {place}", batch.count(), bytes.len()));
        for message in batch {
            let mut frame = message.data().to_vec();
            let addresses = frame.first_chunk_mut::<12>().context("frame without addresses")?;
            addresses.rotate_left(6);
            self.forward(&frame);
        }
        Ok(())
    }

    /// Hands messages to the guest: each into a section of the receive buffer, several sections in one packet.
    fn deliver(&mut self) -> anyhow::Result<bool> {
        let Some(receive) = &mut self.receive else { return Ok(false) };
        let Some(&(channel_type, _)) = self.waiting.front() else { return Ok(false) };
        let (mut sections, mut ranges) = (Vec::new(), Vec::new());
        while let Some((_, message)) = self.waiting.pop_front_if(|(kind, _)| *kind == channel_type) {
            let section_bytes = receive.section_bytes;
            let byte_count = message.len() as u32;
            if byte_count > section_bytes {
                self.trace.say("host", format_args!("message of {byte_count} bytes dropped"));
                continue;
            }
            let Some(section) = receive.free.pop() else {
                self.waiting.push_front((channel_type, message));
                break;
            };
            let byte_offset = section * section_bytes;
            receive.memory.write(byte_offset as usize, &message)?;
            sections.push(section);
            ranges.extend(TransferRange { byte_count, byte_offset }.to_bytes());
            if sections.len() == MAX_RANGES {
                break;
            }
        }
        if sections.is_empty() {
            return Ok(false);
        }
        let id = TransactionId(self.next_id);
        self.next_id += 1;
        let mut header = TransferPages::fixed_header(nvsp::BufferId::RECEIVE.0, sections.len() as u32).to_vec();
        header.append(&mut ranges);
        let payload: [u8; nvsp::MESSAGE_LEN] = RndisPacket::without_section(channel_type).to_array();
        self.trace.say("host", format_args!("{} message(s) to the guest, sections {sections:?}", sections.len()));
        self.lent.insert(id, sections);
        let packet =
            Outgoing { packet_type: PacketType::TRANSFER_PAGES, header: &header, ..Outgoing::request(id, &payload) };
        self.to_guest.write(&packet)?;
        self.publish()?;
        Ok(true)
    }

    /// The guest is done with the sections of a packet.
    fn take_back(&mut self, id: TransactionId) -> anyhow::Result<()> {
        let sections = self.lent.remove(&id).context("completion of a packet that is not out")?;
        if let Some(receive) = &mut self.receive {
            receive.free.extend(sections);
        }
        Ok(())
    }
}

fn granted(gpadls: &Gpadls, handle: GpadlHandle) -> anyhow::Result<HeapMemory> {
    gpadls.get(&GpadlId(handle.0)).cloned().context("buffer without GPADL")
}

/// What a message is about.
fn subject(message: &rndis::Message<'_>) -> String {
    match message {
        rndis::Message::Query(query) => format!("QUERY {}", query.oid),
        rndis::Message::Set(set) => format!("SET {}", set.oid),
        other => other.message_type().to_string(),
    }
}
