//! Guest → switch: what the guest sends, from send sections, from GPA-direct ranges, or from both.
//!
//! The bytes are copied out of guest memory once, into one private block: the section's first, then those of the
//! ranges. All messages in it are checked before the first frame goes to the switch; one bad message fails the packet as
//! a whole. (As OpenVMM `netvsp/src/lib.rs`, which learned it by commit f6ce13dff.)

use std::ops::Range;

use rndis::packet::{PacketHeader, RawPacketHeader};
use rndis::ppi::{PacketInfo, Vlan};
use vmbus::gpadl::GpaRanges;
use vmbus::memory::{SharedMemory, SharedMemoryExt};
use vmbus::packet::{Descriptor, PacketType, gpa_direct_ranges};

use super::queue::Queue;
use super::requests::{self, Work};
use super::session::Phase;
use super::{Frame, Nic};
use crate::offload::headers::{TAG, tag_bytes};
use crate::offload::{self, Scratch as OffloadScratch};
use crate::port::{FrameMeta, PortOffloads};
use crate::profile::VlanTags;
use crate::violation::ViolationKind;

/// Most bytes of one packet: 8 messages of the largest segmented frame, and more.
const MAX_PACKET: usize = 1 << 20;
/// Ethernet addresses: where a VLAN tag goes.
const ADDRESSES: usize = 12;
const MIN_FRAME: usize = 14;

/// Bytes of a section that are fetched while the packet before it is looked at: what eight small frames take, or the
/// beginning of a large one, after which the processor goes on by itself.
const AHEAD: usize = 1024;

/// A frame in the private block.
#[derive(Debug, Clone)]
struct Outbound {
    frame: Range<usize>,
    /// Where in [`Scratch::asked`] it stands what is asked for with it; [`PLAIN`] if nothing is.
    asked: usize,
}

/// Nothing is asked for with a frame, as with most.
const PLAIN: usize = usize::MAX;

/// What a guest asks for with a frame.
#[derive(Debug, Clone, Copy)]
struct Asked {
    vlan: Option<Vlan>,
    work: Work,
}

/// Memory that is used again for every packet.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The private block: its first `len` bytes. What is behind them is from packets before, so that nothing has to be
    /// zeroed.
    block: Vec<u8>,
    len: usize,
    frames: Vec<Outbound>,
    asked: Vec<Asked>,
    tagged: Vec<u8>,
    offload: OffloadScratch,
}

impl Scratch {
    /// The bytes of the packet.
    fn bytes(&self) -> &[u8] {
        &self.block[..self.len]
    }

    /// Room for `more` bytes behind those that are there, to be filled by the caller.
    fn grow(&mut self, more: usize) -> &mut [u8] {
        let start = self.len;
        self.len += more;
        if self.block.len() < self.len {
            self.block.resize(self.len, 0);
        }
        &mut self.block[start..self.len]
    }
}

/// Why a packet is not sent.
enum Wrong {
    /// It fails; the channel lives.
    Packet(ViolationKind, String),
    /// The channel falls silent.
    Channel(ViolationKind, String),
}

impl Nic {
    /// NVSP 107: an RNDIS message, or several.
    #[expect(clippy::too_many_arguments, reason = "one packet, taken apart")]
    pub(super) fn rndis_packet(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        packet: &nvsp::RndisPacket,
        header: &[u8],
        payload: &[u8],
        budget: &mut usize,
        out: &mut dyn FnMut(Frame<'_>),
    ) {
        let id = descriptor.transaction_id;
        let control = packet.channel_type == nvsp::ChannelType::CONTROL;
        // A guest that never got a version, or took its buffers back, still says goodbye.
        let leaving = control && (self.session.phase == Phase::Revoked);
        if !leaving && !self.start_data_path(queue, payload) {
            return;
        }
        if !descriptor.wants_completion() {
            // As recorded: answered with the id of the request completed before, and not sent.
            self.record(ViolationKind::NoCompletionRequested, Some(queue), "rndis packet without completion", payload);
            self.counters.tx_failed += 1;
            return self.write_completion(queue, queue.last_completed, nvsp::Status::FAIL);
        }
        let mut scratch = std::mem::take(&mut self.transmit);
        match self.gather(descriptor, packet, header, &mut scratch) {
            Ok(()) if leaving => self.complete(queue, id, nvsp::Status::SUCCESS),
            Ok(()) if control && queue.index != 0 => {
                self.record(ViolationKind::UnexpectedNvsp, Some(queue), "control message on a subchannel", payload);
                self.complete(queue, id, nvsp::Status::FAIL);
            }
            Ok(()) if control => self.control_request(queue, descriptor, scratch.bytes()),
            Ok(()) => self.send_frames(queue, descriptor, &mut scratch, header, budget, out),
            Err(Wrong::Packet(kind, text)) => self.fail_packet(queue, descriptor, kind, text, payload),
            Err(Wrong::Channel(kind, text)) => self.break_queue(queue, kind, text, payload, true),
        }
        self.transmit = scratch;
    }

    fn fail_packet(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        kind: ViolationKind,
        text: String,
        bytes: &[u8],
    ) {
        self.record(kind, Some(queue), text, bytes);
        self.counters.tx_failed += 1;
        self.complete(queue, descriptor.transaction_id, nvsp::Status::FAIL);
    }

    /// Has the processor fetch what the next packet names, while this one is looked at. Only a hint, by words that are not
    /// checked.
    pub(super) fn fetch_ahead(&self, queue: &Queue) {
        let mut message = [0; 16];
        if let Some(buffer) = &self.session.send_buffer
            && queue.peek(&mut message)
            && let Ok(nvsp::RndisPacket { section: Some(section), section_bytes, .. }) =
                nvsp::RndisPacket::parse(&message)
        {
            let at = section.get() as usize * self.config.settings.send_section_bytes as usize;
            buffer.memory.prefetch(at, AHEAD.min(section_bytes as usize));
        }
    }

    /// Copies everything that the packet names into `scratch`.
    fn gather(
        &mut self,
        descriptor: &Descriptor,
        packet: &nvsp::RndisPacket,
        header: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Wrong> {
        scratch.len = 0;
        if let Some(section) = packet.section {
            self.counters.tx_section_packets += 1;
            self.gather_section(section.get(), packet.section_bytes, scratch)?;
        }
        if descriptor.packet_type == PacketType::GPA_DIRECT {
            self.counters.tx_direct_packets += 1;
            self.gather_ranges(header, scratch)?;
        }
        if scratch.len == 0 {
            return Err(Wrong::Packet(ViolationKind::BadRndisPacket, "packet without bytes".into()));
        }
        Ok(())
    }

    fn gather_section(&mut self, index: u32, len: u32, scratch: &mut Scratch) -> Result<(), Wrong> {
        let wrong = |text: String| Wrong::Channel(ViolationKind::BadSection, text);
        let Some(buffer) = &self.session.send_buffer else {
            return Err(wrong(format!("section {index} without a send buffer")));
        };
        let size = u64::from(self.config.settings.send_section_bytes);
        let start = u64::from(index) * size;
        // As OpenVMM: a send may be longer than its section, but not leave the buffer.
        let end = start + u64::from(len);
        let limit = buffer.memory.len() as u64;
        if end > limit || len as usize > MAX_PACKET {
            return Err(wrong(format!("section {index} with {len} bytes ends at {end} of {limit}")));
        }
        // Inside, as checked; both fit usize with the buffer's length.
        buffer.memory.read(start as usize, scratch.grow(len as usize)).map_err(|error| wrong(error.to_string()))?;
        if u64::from(len) > size {
            let text = format!("section {index} with {len} bytes, longer than {size}");
            self.record(ViolationKind::BadSection, None, text, &[]);
        }
        Ok(())
    }

    fn gather_ranges(&self, header: &[u8], scratch: &mut Scratch) -> Result<(), Wrong> {
        let wrong = |text: String| Wrong::Packet(ViolationKind::BadGpaRanges, text);
        let (count, list) = gpa_direct_ranges(header).map_err(|error| wrong(error.to_string()))?;
        let ranges = GpaRanges::parse(list, count).map_err(|error| wrong(error.to_string()))?;
        if ranges.byte_count() > (MAX_PACKET - scratch.len.min(MAX_PACKET)) as u64 {
            return Err(wrong(format!("ranges of {} bytes", ranges.byte_count())));
        }
        // The header of a message lies in the first piece: a host reads it there, and nowhere else.
        if scratch.len == 0
            && let Some(first) = ranges.iter().next()
            && (first.byte_count() as usize) < rndis::packet::PACKET_HEADER_LEN
            && ranges.len() > 1
        {
            return Err(wrong(format!("first range of {} bytes does not hold the rndis header", first.byte_count())));
        }
        let memory = self.server.port().memory();
        for range in ranges.iter() {
            for piece in range.pieces() {
                let (gpa, len) = piece.ok_or_else(|| wrong("page number beyond 64 bits".into()))?;
                memory.read(gpa, scratch.grow(len as usize)).map_err(|error| wrong(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn send_frames(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        scratch: &mut Scratch,
        header: &[u8],
        budget: &mut usize,
        out: &mut dyn FnMut(Frame<'_>),
    ) {
        if let Err((kind, text)) = self.parse_messages(queue, scratch) {
            let _ = header;
            return self.fail_packet(queue, descriptor, kind, text, scratch.bytes());
        }
        self.counters.tx_packets += 1;
        // The packet itself was counted as one.
        *budget = budget.saturating_sub(scratch.frames.len().saturating_sub(1));
        let Scratch { block, frames, asked, tagged, offload, .. } = scratch;
        for outbound in frames.iter() {
            let bytes = &mut block[outbound.frame.clone()];
            let asked = asked.get(outbound.asked);
            if !self.admit(queue, asked, bytes) {
                // As recorded: accepted. What no wire takes goes no further.
                continue;
            }
            let meta = asked.map_or(FrameMeta::PLAIN, |asked| self.do_work(&asked.work, bytes));
            self.counters.tx_frames += 1;
            self.counters.tx_bytes += bytes.len() as u64;
            let frame = match asked.and_then(|asked| asked.vlan) {
                None => Frame::with_meta(bytes, meta),
                Some(vlan) => Frame::with_meta(tag(bytes, vlan, tagged), meta.shifted(TAG as u16)),
            };
            if frame.meta == FrameMeta::PLAIN || self.config.settings.carry_offloads {
                out(frame);
            } else {
                offload::plain(frame, PortOffloads::NONE, offload, out);
            }
        }
        self.complete(queue, descriptor.transaction_id, nvsp::Status::SUCCESS);
    }

    /// Whether a frame may go to the switch; counts it.
    #[inline]
    fn admit(&mut self, queue: &Queue, asked: Option<&Asked>, bytes: &[u8]) -> bool {
        let tags = tag_bytes(bytes);
        // The MTU counts neither a tag beside the frame nor one in it.
        let limit = self.session.frame_mtu as usize + tags.min(TAG);
        let wire = asked.map_or(bytes.len(), |asked| asked.work.wire_bytes(bytes));
        if bytes.len() < MIN_FRAME || wire > limit {
            let text = format!("frame of {wire} bytes, not within {MIN_FRAME} and {limit}");
            self.record(ViolationKind::BadFrame, Some(queue), text, bytes);
            return false;
        }
        if tags > 0 || asked.is_some_and(|asked| asked.vlan.is_some()) {
            if self.config.settings.vlan == VlanTags::Refused {
                self.counters.tx_filtered += 1;
                return false;
            }
            self.counters.tx_vlan += 1;
        }
        true
    }

    /// Does what was asked for with a frame, as far as it is done here; says what is left.
    fn do_work(&mut self, work: &Work, bytes: &mut [u8]) -> FrameMeta {
        if !work.is_some() {
            return FrameMeta::PLAIN;
        }
        if work.is_segmentation() {
            self.counters.lso_frames += 1;
            self.counters.lso_segments += work.segments as u64;
        } else {
            self.counters.tx_checksums += 1;
            if self.faults.on_checksum_to_complete() {
                work.complete_wrongly(bytes);
                return FrameMeta::PLAIN;
            }
        }
        work.prepare(bytes)
    }

    /// Checks all messages of a packet.
    fn parse_messages(&mut self, queue: &Queue, scratch: &mut Scratch) -> Result<(), (ViolationKind, String)> {
        let wrong = |text: String| (ViolationKind::BadRndisPacket, text);
        if !self.session.rndis_initialized {
            return Err((ViolationKind::UnexpectedNvsp, "frames before INITIALIZE".into()));
        }
        scratch.frames.clear();
        scratch.asked.clear();
        let mut at = 0;
        while at < scratch.len {
            let rest = &scratch.block[at..scratch.len];
            let raw = RawPacketHeader::parse(rest).map_err(|error| wrong(error.to_string()))?;
            if raw.num_oob_data_elements != 0 {
                let text = format!("{} out-of-band elements", raw.num_oob_data_elements);
                return Err(wrong(text));
            }
            // A packet has at most MAX_PACKET bytes.
            let parsed = PacketHeader::check(&raw, rest.len() as u32).map_err(|error| wrong(error.to_string()))?;
            let data = parsed.data_range();
            let mut asked = PLAIN;
            if parsed.ppi_len() > 0 {
                let block = rest.get(parsed.ppi_range()).unwrap_or(&[]);
                let info = PacketInfo::parse(block).map_err(|error| wrong(error.to_string()))?;
                let frame = &rest[data.clone()];
                let (work, odd) = requests::check(frame, &info, &self.session.granted)?;
                if let Some(text) = odd {
                    self.record(ViolationKind::BadOffload, Some(queue), text, frame);
                }
                asked = scratch.asked.len();
                scratch.asked.push(Asked { vlan: info.vlan, work });
            }
            scratch.frames.push(Outbound { frame: at + data.start..at + data.end, asked });
            // At least 44: the walk ends.
            at += parsed.message_len() as usize;
        }
        let limit = self.config.settings.max_packets_per_message.max(1) as usize;
        if scratch.frames.len() > limit {
            // Not refused by any host that was seen.
            let text = format!("{} messages in a packet, more than {limit}", scratch.frames.len());
            self.record(ViolationKind::BadRndisPacket, Some(queue), text, scratch.bytes());
        }
        Ok(())
    }
}

/// The frame with its tag where wires have it.
fn tag<'a>(frame: &[u8], vlan: Vlan, into: &'a mut Vec<u8>) -> &'a [u8] {
    into.clear();
    into.extend_from_slice(&frame[..ADDRESSES]);
    into.extend_from_slice(&[0x81, 0x00]);
    into.extend_from_slice(&vlan.tci().to_be_bytes());
    into.extend_from_slice(&frame[ADDRESSES..]);
    into
}
