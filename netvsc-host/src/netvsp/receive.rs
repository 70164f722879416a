//! Switch → guest: frames into receive sub-allocations, sub-allocations into transfer-page packets.
//!
//! A frame is copied once, into the sub-allocation that the guest will read it from. The packets follow when the switch
//! says that the batch is over, each with as many ranges as the guest and the ring take; the guest is signalled once.
//! Without a free sub-allocation frames wait in a bounded backlog, and are dropped beyond it.
//!
//! What the guest is told of a frame, beside its bytes, is found out when it comes (`told`).

use std::collections::VecDeque;

use rndis::packet::PacketEncoder;
use rndis::ppi::{PacketId, PacketIdFlags, PpiWord, Vlan};
use vmbus::packet::{Descriptor, PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::Outgoing;

use super::Nic;
use super::queue::{CONTROL_RESERVE, Queue};
use super::session::Phase;
use super::told::Told;
use crate::fault::{CoalescedFate, Delivery, GuestViolation, PacketFate};
use crate::offload::coalesce::Coalescer;
use crate::offload::headers::{TAG, TYPE_AT};
use crate::offload::sum;
use crate::port::{Checksum, Frame, FrameMeta};
use crate::profile::VlanTags;
use crate::violation::ViolationKind;

/// Most elements of information before a frame: checksum, VLAN, hash value, hash info, packet id.
const MAX_ELEMENTS: usize = 5;
/// Bytes before a frame, at most.
pub(super) const HEADER_BYTES: usize = 44 + MAX_ELEMENTS * PpiWord::LEN;
/// Where OpenVMM puts the frame.
pub(super) const OPENVMM_DATA_OFFSET: u32 = 256;
/// Ring bytes of a transfer-page packet besides its ranges: descriptor, fixed header, message, trailer.
const PACKET_OVERHEAD: u32 = 16 + 8 + 40 + 8;
/// The type that announces the tag which the guest gets beside the frame.
const TAG_TYPE: [u8; 2] = [0x81, 0x00];

/// A sub-allocation with a frame in it that the guest has not got yet.
#[derive(Debug, Clone, Copy)]
struct Filled {
    id: u32,
    /// Bytes of the range.
    len: u32,
    /// Bytes of the frame that ends here; `None`: the next one holds more of it.
    frame: Option<usize>,
}

/// A frame that waits for a sub-allocation.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    told: Told,
}

/// Frames on their way to the guest.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// For each queue.
    filled: Vec<VecDeque<Filled>>,
    backlog: VecDeque<Waiting>,
    /// Buffers of frames that waited, for those that will.
    spare: Vec<Vec<u8>>,
    header: Vec<u8>,
    /// The header of the message that is being written.
    message: Vec<u8>,
    /// Segments that are being put together.
    pub(super) coalescer: Coalescer,
    /// For headers that are changed on their way.
    changed: Vec<u8>,
    /// For frames whose checksums are completed on their way.
    pub(super) completed: Vec<u8>,
}

impl Pending {
    /// The session is over, or its receive buffer is gone.
    pub(super) fn clear(&mut self) {
        self.filled.iter_mut().for_each(VecDeque::clear);
        self.spare.extend(self.backlog.drain(..).map(|waiting| waiting.bytes));
        self.coalescer.clear();
    }

    /// Frames that the guest was not told of yet.
    pub(super) fn waiting(&self) -> usize {
        self.filled.iter().map(VecDeque::len).sum::<usize>() + self.backlog.len() + self.coalescer.len()
    }

    fn push(&mut self, queue: usize, filled: Filled) {
        if self.filled.len() <= queue {
            self.filled.resize_with(queue + 1, VecDeque::new);
        }
        self.filled[queue].push_back(filled);
    }

    fn filled(&self, queue: usize) -> usize {
        self.filled.get(queue).map_or(0, VecDeque::len)
    }

    /// Takes out what the primary channel's guest would be told of next: places and lengths.
    #[cfg(test)]
    pub(super) fn take_filled(&mut self) -> Vec<(u32, u32)> {
        let filled = self.filled.first_mut().map(std::mem::take).unwrap_or_default();
        filled.into_iter().map(|filled| (filled.id, filled.len)).collect()
    }

    /// How many sub-allocations there are, up to `most`, that end with a frame; those of the first frame at least.
    fn whole_frames(&self, queue: usize, most: usize) -> usize {
        let Some(filled) = self.filled.get(queue) else { return 0 };
        let mut whole = 0;
        for (index, filled) in filled.iter().enumerate() {
            if whole > 0 && index >= most {
                break;
            }
            if filled.frame.is_some() {
                whole = index + 1;
            }
        }
        whole
    }

    /// A queue is no more.
    pub(super) fn move_to_primary(&mut self, queue: usize) {
        if queue > 0
            && let Some(moved) = self.filled.get_mut(queue).map(std::mem::take)
        {
            self.filled[0].extend(moved);
        }
    }
}

/// Ranges of the longest packet that fits a ring of so many bytes, with what is kept free of it.
pub(super) fn ranges_in(ring_bytes: u32) -> usize {
    // Rings are never full to the last byte.
    (ring_bytes.saturating_sub(PACKET_OVERHEAD + CONTROL_RESERVE + 8) / 8) as usize
}

impl Nic {
    /// The guest wants nothing any more: what it was not told of yet it will not be. A guest that closes waits for what
    /// came before the answer, so nothing may come after it.
    pub(super) fn stop_receive(&mut self) {
        self.session.filter = 0;
        self.counters.rx_filtered += self.receive.backlog.len() as u64;
        for filled in self.receive.filled.iter_mut().flat_map(|filled| filled.drain(..)) {
            if let Some(buffer) = &mut self.session.receive_buffer {
                buffer.untake(filled.id);
            }
            if let Some(bytes) = filled.frame {
                self.counters.rx_frames -= 1;
                self.counters.rx_bytes -= bytes as u64;
                self.counters.rx_filtered += 1;
            }
        }
        self.receive.clear();
    }

    /// A frame from the switch; false if it is dropped.
    pub(super) fn deliver_frame(&mut self, frame: Frame<'_>) -> bool {
        let session = &self.session;
        if session.filter == 0 || session.phase != Phase::Ready || !self.link.up || !session.rndis_initialized {
            self.counters.rx_filtered += 1;
            return false;
        }
        if self.faults.is_empty() {
            return self.accept(frame);
        }
        match self.faults.on_deliver_to_guest(frame.bytes.len()) {
            Delivery::Drop => {
                self.counters.rx_dropped += 1;
                // Lost on the way: the switch has delivered it.
                true
            }
            Delivery::Corrupt { offset, xor } => {
                let mut bytes = frame.bytes.to_vec();
                let mut meta = frame.meta;
                if meta.segment.is_none() {
                    // Its checksum is to show it.
                    if let Checksum::Partial { start, offset } = meta.checksum {
                        sum::complete(&mut bytes, start.into(), offset.into());
                    }
                    meta = FrameMeta::PLAIN;
                }
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= xor;
                }
                self.accept(Frame::with_meta(&bytes, meta))
            }
            Delivery::Duplicate => self.accept(frame) & self.accept(frame),
            _ => self.accept(frame),
        }
    }

    fn accept(&mut self, frame: Frame<'_>) -> bool {
        let tag = if is_tagged(frame.bytes) { TAG } else { 0 };
        if tag > 0 && self.config.settings.vlan == VlanTags::Refused {
            self.counters.rx_filtered += 1;
            return false;
        }
        if frame.wire_bytes() - tag > self.session.frame_mtu as usize {
            self.counters.rx_dropped += 1;
            return false;
        }
        self.give_told(frame)
    }

    /// Copies a frame into the receive buffer, or into the backlog; false if it is dropped.
    pub(super) fn give(&mut self, frame: &[u8], told: Told) -> bool {
        // Order is kept: behind those that wait already.
        if self.receive.backlog.is_empty() && self.fill(frame, &told) {
            return true;
        }
        if self.receive.backlog.len() >= self.config.settings.rx_backlog {
            self.counters.rx_dropped += 1;
            return false;
        }
        let mut bytes = self.receive.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame);
        self.receive.backlog.push_back(Waiting { bytes, told });
        true
    }

    /// The queue that a frame goes to: the one that the guest's table names, if it is open.
    fn steer(&self, told: &Told) -> usize {
        let queue = self.session.rss.as_ref().map_or(0, |rss| rss.queue(told.hash));
        if queue < 64 && self.open & 1 << queue != 0 { queue } else { 0 }
    }

    /// Copies a frame into free sub-allocations; false if there are not enough.
    fn fill(&mut self, frame: &[u8], told: &Told) -> bool {
        let queue = self.steer(told);
        let pieces = told.pieces(frame.len());
        let Some(buffer) = &self.session.receive_buffer else { return false };
        if buffer.available() < pieces {
            return false;
        }
        let beside = self.config.settings.vlan == VlanTags::PerPacketInfo && is_tagged(frame);
        let mut words = [PpiWord::hash_value(0); MAX_ELEMENTS];
        let mut count = 0;
        let mut push = |word| {
            words[count] = word;
            count += 1;
        };
        push(PpiWord::from(told.checksum));
        let mut parts: [&[u8]; 2] = [&[], frame];
        if beside {
            // The guest gets the tag beside the frame, never in it.
            let tci = u16::from_be_bytes([frame[TYPE_AT + 2], frame[TYPE_AT + 3]]);
            push(Vlan::from_tci(tci).into());
            parts = [&frame[..TYPE_AT], &frame[TYPE_AT + TAG..]];
        }
        if let Some(hash) = told.hash.filter(|_| self.config.settings.rx_hash) {
            push(PpiWord::hash_value(hash.value));
            push(hash.info().into());
        }
        let written = match told.coalesced {
            None => self.write_message(queue, &words[..count], parts, Some(frame.len())),
            Some(_) => self.write_coalesced(queue, &mut words, count, parts[0], parts[1], frame.len(), told),
        };
        if !written {
            // A sub-allocation that was made too small by a setting.
            self.counters.rx_dropped += 1;
            return true;
        }
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        self.counters.rx_vlan += u64::from(is_tagged(frame));
        true
    }

    /// Writes one message into a free sub-allocation; false if it does not fit. `frame` is the length of the frame that
    /// ends with it.
    fn write_message(&mut self, queue: usize, words: &[PpiWord], parts: [&[u8]; 2], frame: Option<usize>) -> bool {
        let Some(buffer) = &mut self.session.receive_buffer else { return false };
        let Some(id) = buffer.take_data() else { return false };
        let data_len = parts[0].len() + parts[1].len();
        let whole = self.config.settings.whole_ranges;
        let encoder = PacketEncoder {
            ppis: words,
            data_offset: whole.then_some(OPENVMM_DATA_OFFSET),
            message_len: whole.then_some(buffer.size),
        };
        let header = &mut self.receive.message;
        header.resize(OPENVMM_DATA_OFFSET as usize, 0);
        let written = encoder.emit_header(data_len, header).ok().and_then(|start| {
            let message_len = encoder.buffer_len(data_len).ok()?;
            if message_len > buffer.size as usize {
                return None;
            }
            // Between information and data nothing is written: what stood there before still does, as on real hosts.
            let used = start.min(HEADER_BYTES);
            buffer.write(id, 0, &header[..used]).ok()?;
            if !parts[0].is_empty() {
                buffer.write(id, start as u32, parts[0]).ok()?;
            }
            buffer.write(id, (start + parts[0].len()) as u32, parts[1]).ok()?;
            buffer.fetch_ahead(start + data_len);
            u32::try_from(message_len).ok()
        });
        let Some(len) = written else {
            buffer.untake(id);
            return false;
        };
        self.receive.push(queue, Filled { id, len, frame });
        true
    }

    /// Writes a coalesced frame: a message for each segment, each with its place in the whole.
    #[expect(clippy::too_many_arguments, reason = "one frame, taken apart")]
    fn write_coalesced(
        &mut self,
        queue: usize,
        words: &mut [PpiWord; MAX_ELEMENTS],
        count: usize,
        front: &[u8],
        rest: &[u8],
        frame_len: usize,
        told: &Told,
    ) -> bool {
        let Some(coalesced) = told.coalesced else { return false };
        let fate = self.faults.on_coalesced();
        let last = told.pieces(frame_len) - 1;
        // Any number will do: it only informs.
        let id = self.counters.rsc_frames as u16;
        // The first message has the headers and a segment, the others a segment each. A tag may be gone from the front.
        let removed = frame_len - front.len() - rest.len();
        let payload_at = coalesced.payload_at - removed - front.len();
        let mut head = std::mem::take(&mut self.receive.changed);
        head.clear();
        head.extend_from_slice(front);
        head.extend_from_slice(&rest[..payload_at]);
        if told.zeroes_ip_header() {
            let field = coalesced.network - removed + 10;
            head[field..field + 2].fill(0);
        }
        let size = usize::from(coalesced.size.get());
        let payload = &rest[payload_at..];
        for index in 0..=last {
            let part = &payload[(index * size).min(payload.len())..payload.len().min((index + 1) * size)];
            let mut flags = PacketIdFlags::SUB_ALLOCATION;
            if (index == 0 && fate != CoalescedFate::NoFirst) || (index == 1 && fate == CoalescedFate::FirstTwice) {
                flags |= PacketIdFlags::FIRST;
            }
            if index == last && fate != CoalescedFate::NoLast {
                flags |= PacketIdFlags::LAST;
            }
            let ends = (index == last).then_some(frame_len);
            let marked = index != 1 || fate != CoalescedFate::Interrupted;
            let packet_id = PpiWord::from(PacketId::new(flags, id));
            let written = if index == 0 {
                words[count] = packet_id;
                self.write_message(queue, &words[..=count], [&head, part], ends)
            } else {
                let alone = [packet_id];
                self.write_message(queue, if marked { &alone } else { &[] }, [&[], part], ends)
            };
            if !written {
                // What there is of it so far is withdrawn.
                self.withdraw(queue, index);
                self.receive.changed = head;
                return false;
            }
        }
        self.receive.changed = head;
        self.counters.rsc_frames += 1;
        self.counters.rsc_segments += last as u64 + 1;
        true
    }

    /// Takes the last `count` messages back that were filled for a queue.
    fn withdraw(&mut self, queue: usize, count: usize) {
        let Some(filled) = self.receive.filled.get_mut(queue) else { return };
        let from = filled.len().saturating_sub(count);
        let Some(buffer) = &mut self.session.receive_buffer else { return };
        for filled in filled.drain(from..) {
            buffer.untake(filled.id);
        }
    }

    fn fill_from_backlog(&mut self) {
        while let Some(waiting) = self.receive.backlog.pop_front() {
            if !self.fill(&waiting.bytes, &waiting.told) {
                self.receive.backlog.push_front(waiting);
                return;
            }
            self.receive.spare.push(waiting.bytes);
        }
    }

    /// Hands what is filled over to the guest.
    pub(super) fn flush_receive(&mut self, queue: &mut Queue) {
        if !self.receive.backlog.is_empty() {
            self.fill_from_backlog();
        }
        let index = usize::from(queue.index);
        while self.receive.filled(index) > 0 {
            // At most as many as a packet may have ranges.
            let least = PACKET_OVERHEAD + 8 * self.receive.whole_frames(index, 1) as u32 + CONTROL_RESERVE;
            if !queue.has_room(least) {
                self.counters.rx_ring_full += 1;
                return;
            }
            let room = ((queue.room() - PACKET_OVERHEAD - CONTROL_RESERVE) / 8) as usize;
            let count = self.receive.whole_frames(index, room.min(self.max_ranges()));
            if !self.send_ranges(queue, count) {
                return;
            }
            if !self.receive.backlog.is_empty() {
                self.fill_from_backlog();
            }
        }
    }

    /// Most ranges in one packet, for this guest.
    pub(super) fn max_ranges(&self) -> usize {
        let guest = match self.session.ndis_version {
            Some((major, _)) if major < 6 => nvsp::LEGACY_MAX_TRANSFER_RANGES,
            _ => nvsp::MAX_TRANSFER_RANGES,
        };
        self.config.settings.max_ranges.clamp(1, guest)
    }

    /// Writes one packet with the first `count` filled sub-allocations.
    fn send_ranges(&mut self, queue: &mut Queue, count: usize) -> bool {
        let message_len = self.session.message_len();
        let Some(filled) = self.receive.filled.get_mut(usize::from(queue.index)) else { return false };
        let Some(buffer) = &mut self.session.receive_buffer else {
            filled.clear();
            return false;
        };
        let fate = if self.faults.is_empty() { PacketFate::Pass } else { self.faults.on_packet_to_guest(count) };
        if fate == PacketFate::Drop {
            for filled in filled.drain(..count) {
                buffer.untake(filled.id);
                self.counters.rx_dropped += u64::from(filled.frame.is_some());
            }
            return true;
        }
        let message: [u8; nvsp::MESSAGE_LEN] = nvsp::RndisPacket::without_section(nvsp::ChannelType::DATA).to_array();
        let header = &mut self.receive.header;
        header.clear();
        header.extend_from_slice(&TransferPages::fixed_header(nvsp::BufferId::RECEIVE.0, count as u32));
        for filled in filled.iter().take(count) {
            let range = TransferRange { byte_count: filled.len, byte_offset: buffer.offset(filled.id) };
            header.extend_from_slice(&range.to_bytes());
        }
        let first = filled[0].id;
        let mut packet = Outgoing {
            packet_type: PacketType::TRANSFER_PAGES,
            completion_requested: true,
            transaction_id: TransactionId(u64::from(first)),
            header,
            payload: &message[..message_len],
        };
        let mut spoiled = Spoiled::default();
        if let PacketFate::Violate(violation) = fate {
            spoiled.spoil(violation, &packet, &mut |at, bytes| {
                // A sub-allocation is longer than any header.
                let _ = buffer.write(first, at, bytes);
            });
            packet = spoiled.packet(&packet);
        }
        if let Err(error) = queue.write(&packet) {
            tracing::debug!(target: "netvsc_host", %error, "frames not sent");
            return false;
        }
        buffer.lend(filled.drain(..count).map(|filled| filled.id));
        self.counters.rx_packets += 1;
        self.did_work = true;
        if let Some(edit) = spoiled.after {
            let mut byte = [0];
            if buffer.read(first, edit, &mut byte).is_ok() {
                let _ = buffer.write(first, edit, &[byte[0] ^ 0x55]);
            }
        }
        true
    }

    /// A completion from the guest: it returns what it was lent.
    pub(super) fn guest_completion(&mut self, queue: &mut Queue, descriptor: &Descriptor, payload: &[u8]) {
        let id = descriptor.transaction_id.0;
        if id >= super::vf_transaction_ids() && self.session.version.is_some() {
            return;
        }
        match nvsp::RndisPacketComplete::parse(payload) {
            Ok(_) => {}
            Err(error) => {
                let text = format!("receive completion {id:#x}: {error}");
                return self.break_queue(queue, ViolationKind::BadReceiveCompletion, text, payload, true);
            }
        }
        let returned = self.session.receive_buffer.as_mut().map(|buffer| buffer.give_back(id));
        match returned {
            Some(true) => self.counters.rx_completions += 1,
            // The buffer was taken back: what comes late means nothing any more.
            None if self.session.phase == Phase::Revoked => {}
            _ => {
                let text = format!("receive completion {id:#x}, which is not outstanding");
                self.break_queue(queue, ViolationKind::BadReceiveCompletion, text, payload, true);
            }
        }
    }
}

pub(super) fn is_tagged(frame: &[u8]) -> bool {
    frame.get(TYPE_AT..TYPE_AT + 2).is_some_and(|kind| kind == TAG_TYPE) && frame.len() >= TYPE_AT + TAG + 2
}

/// What a fault makes of a packet.
#[derive(Debug, Default)]
struct Spoiled {
    packet_type: Option<PacketType>,
    header: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    /// Offset in the first sub-allocation that changes after the guest was told.
    after: Option<u32>,
}

impl Spoiled {
    /// `write` changes the first message.
    fn spoil(&mut self, violation: GuestViolation, packet: &Outgoing<'_>, write: &mut dyn FnMut(u32, &[u8])) {
        let mut header = packet.header.to_vec();
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        match violation {
            GuestViolation::RangeOutOfBounds => put(12, &0xFFFF_FF00_u32.to_le_bytes()),
            GuestViolation::RangesOverlap if packet.header.len() >= 24 => {
                let first = packet.header[8..16].to_vec();
                put(16, &first);
            }
            GuestViolation::RangeCount => put(4, &0x0001_0000_u32.to_le_bytes()),
            GuestViolation::UnknownTransferSet { id } => put(0, &id.to_le_bytes()),
            // Words of the RNDIS header: type, message length, data offset; then the size of the first element.
            GuestViolation::UnknownRndisType { message_type } => write(0, &message_type.to_le_bytes()),
            GuestViolation::MessageLength => write(4, &0xFFFF_FFF0_u32.to_le_bytes()),
            GuestViolation::DataOffset => write(8, &0xFFFF_FFF0_u32.to_le_bytes()),
            GuestViolation::InfoSizeZero => write(44, &0_u32.to_le_bytes()),
            GuestViolation::UnknownNvspType { message_type } => {
                let mut payload = packet.payload.to_vec();
                payload[..4].copy_from_slice(&message_type.to_le_bytes());
                self.payload = Some(payload);
            }
            GuestViolation::UnknownPacketType { packet_type } => self.packet_type = Some(PacketType(packet_type)),
            GuestViolation::Garbage { bytes, seed } => {
                self.payload = Some(noise(seed).take(bytes.min(packet.payload.len())).collect());
            }
            GuestViolation::EditAfterDelivery { seed } => self.after = Some((seed % 44) as u32),
            _ => {}
        }
        self.header = Some(header);
    }

    fn packet<'a>(&'a self, packet: &Outgoing<'a>) -> Outgoing<'a> {
        Outgoing {
            packet_type: self.packet_type.unwrap_or(packet.packet_type),
            header: self.header.as_deref().unwrap_or(packet.header),
            payload: self.payload.as_deref().unwrap_or(packet.payload),
            ..*packet
        }
    }
}

/// Bytes made of a seed (xorshift).
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

#[cfg(test)]
mod tests {
    use rndis::Oid;
    use rndis::value::PacketFilter;
    use vmbus::gpadl::GpadlId;
    use vmbus::memory::HeapMemory;

    use super::*;
    use crate::NicId;
    use crate::fault::FaultPlan;
    use crate::netvsp::NicConfig;
    use crate::netvsp::receive_buffer::ReceiveBuffer;
    use crate::profile::Profile;

    /// A NIC whose guest has set its filter and has eight sub-allocations, five of them for frames.
    fn ready() -> Nic {
        let settings = Profile::Ws2019.settings();
        let config = NicConfig { id: NicId(0), mac: [2; 6], queues: 1, friendly_name: String::new(), settings };
        let (_guest, port) = vmbus::mem::connection();
        let mut nic = Nic::new(config, port, true, 0, FaultPlan::new(1));
        nic.session.phase = Phase::Ready;
        nic.session.rndis_initialized = true;
        nic.session.receive_buffer = Some(ReceiveBuffer::new(GpadlId(1), HeapMemory::zeroed(8 * 1728), 1728, 8, 3));
        nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::OPEN.0.to_le_bytes()).expect("a filter");
        nic
    }

    /// Whoever closes waits for what came before the answer, and for nothing else.
    #[test]
    fn a_guest_that_closes_its_filter_gets_no_frame_that_the_host_had_in_hand() {
        let mut nic = ready();
        let frame = [0xFF; 60];
        let taken = (0..7).filter(|_| nic.deliver_frame(Frame::new(&frame))).count();
        assert_eq!((taken, nic.receive.waiting(), nic.counters.rx_frames), (7, 7, 5), "two wait in the backlog");
        nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::CLOSED.0.to_le_bytes()).expect("a filter");
        assert_eq!((nic.receive.waiting(), nic.counters.rx_frames, nic.counters.rx_bytes), (0, 0, 0));
        assert_eq!(nic.counters.rx_filtered, 7);
        assert!(!nic.deliver_frame(Frame::new(&frame)));
        // All five are there again.
        nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::OPEN.0.to_le_bytes()).expect("a filter");
        assert_eq!((0..5).filter(|_| nic.deliver_frame(Frame::new(&frame))).count(), 5);
    }
}
