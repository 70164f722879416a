//! Switch → guest: frames into receive sub-allocations, sub-allocations into transfer-page packets.
//!
//! A frame is copied once, into the sub-allocation that the guest will read it from. The packets follow when the switch
//! says that the batch is over, each with as many ranges as the guest and the ring take; the guest is signalled once.
//! Without a free sub-allocation frames wait in a bounded backlog, and are dropped beyond it.

use std::collections::VecDeque;

use rndis::packet::PacketEncoder;
use rndis::ppi::{PpiWord, RxChecksum, Vlan};
use vmbus::packet::{Descriptor, PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::Outgoing;

use super::Nic;
use super::queue::{CONTROL_RESERVE, Queue};
use super::session::Phase;
use crate::fault::{Delivery, GuestViolation, PacketFate};
use crate::violation::ViolationKind;

/// Bytes before a frame: packet header, checksum and VLAN information.
pub(super) const HEADER_BYTES: usize = 44 + 2 * 16;
/// Where OpenVMM puts the frame.
pub(super) const OPENVMM_DATA_OFFSET: u32 = 256;
/// Ring bytes of a transfer-page packet besides its ranges: descriptor, fixed header, message, trailer.
const PACKET_OVERHEAD: u32 = 16 + 8 + 40 + 8;
/// Where an in-band VLAN tag stands in a frame, and what it is.
const TAG_AT: usize = 12;
const TAG_BYTES: usize = 4;
const TAG_TYPE: [u8; 2] = [0x81, 0x00];

/// A sub-allocation with a frame in it that the guest has not got yet.
#[derive(Debug, Clone, Copy)]
struct Filled {
    id: u32,
    /// Bytes of the range.
    len: u32,
    /// Bytes of the frame.
    frame: usize,
}

/// Frames on their way to the guest.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// For each queue.
    filled: Vec<VecDeque<Filled>>,
    backlog: VecDeque<Vec<u8>>,
    /// Buffers of frames that waited, for those that will.
    spare: Vec<Vec<u8>>,
    header: Vec<u8>,
}

impl Pending {
    /// The session is over, or its receive buffer is gone.
    pub(super) fn clear(&mut self) {
        self.filled.iter_mut().for_each(VecDeque::clear);
        self.spare.extend(self.backlog.drain(..));
    }

    /// Frames that the guest was not told of yet.
    pub(super) fn waiting(&self) -> usize {
        self.filled.iter().map(VecDeque::len).sum::<usize>() + self.backlog.len()
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

    /// A queue is no more.
    pub(super) fn move_to_primary(&mut self, queue: usize) {
        if queue > 0
            && let Some(moved) = self.filled.get_mut(queue).map(std::mem::take)
        {
            self.filled[0].extend(moved);
        }
    }
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
            self.counters.rx_frames -= 1;
            self.counters.rx_bytes -= filled.frame as u64;
            self.counters.rx_filtered += 1;
        }
        self.receive.clear();
    }

    /// A frame from the switch; false if it is dropped.
    pub(super) fn deliver_frame(&mut self, frame: &[u8]) -> bool {
        let session = &self.session;
        if session.filter == 0 || session.phase != Phase::Ready || !self.link.up || !session.rndis_initialized {
            self.counters.rx_filtered += 1;
            return false;
        }
        if self.faults.is_empty() {
            return self.accept(frame);
        }
        match self.faults.on_deliver_to_guest(frame.len()) {
            Delivery::Drop => {
                self.counters.rx_dropped += 1;
                // Lost on the way: the switch has delivered it.
                true
            }
            Delivery::Corrupt { offset, xor } => {
                let mut bytes = frame.to_vec();
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= xor;
                }
                self.accept(&bytes)
            }
            Delivery::Duplicate => self.accept(frame) & self.accept(frame),
            _ => self.accept(frame),
        }
    }

    fn accept(&mut self, frame: &[u8]) -> bool {
        let tagged = is_tagged(frame);
        let bytes = frame.len() - if tagged { TAG_BYTES } else { 0 };
        if bytes > self.session.frame_mtu as usize {
            self.counters.rx_dropped += 1;
            return false;
        }
        // Order is kept: behind those that wait already.
        if self.receive.backlog.is_empty() && self.fill(frame) {
            return true;
        }
        if self.receive.backlog.len() >= self.config.settings.rx_backlog {
            self.counters.rx_dropped += 1;
            return false;
        }
        let mut copy = self.receive.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.receive.backlog.push_back(copy);
        true
    }

    /// The queue that a frame goes to: the one that the guest's table names, if it is open.
    fn steer(&self, frame: &[u8]) -> usize {
        let queue = self.session.rss.as_ref().map_or(0, |rss| rss.queue(frame));
        if queue < 64 && self.open & 1 << queue != 0 { queue } else { 0 }
    }

    /// Copies a frame into a free sub-allocation; false if there is none.
    fn fill(&mut self, frame: &[u8]) -> bool {
        let queue = self.steer(frame);
        let Some(buffer) = &mut self.session.receive_buffer else { return false };
        let Some(id) = buffer.take_data() else { return false };
        let mut ppis = [PpiWord::from(RxChecksum::EMPTY); 2];
        let mut count = 1;
        let mut parts: [&[u8]; 2] = [frame, &[]];
        if is_tagged(frame) {
            // The guest gets the tag beside the frame, never in it.
            let tci = u16::from_be_bytes([frame[TAG_AT + 2], frame[TAG_AT + 3]]);
            ppis[1] = Vlan::from_tci(tci).into();
            count = 2;
            parts = [&frame[..TAG_AT], &frame[TAG_AT + TAG_BYTES..]];
        }
        let data_len = parts[0].len() + parts[1].len();
        let whole = self.config.settings.whole_ranges;
        let encoder = PacketEncoder {
            ppis: &ppis[..count],
            data_offset: whole.then_some(OPENVMM_DATA_OFFSET),
            message_len: whole.then_some(buffer.size),
        };
        let mut header = [0; OPENVMM_DATA_OFFSET as usize];
        let written = encoder.emit_header(data_len, &mut header).ok().and_then(|start| {
            let message_len = encoder.buffer_len(data_len).ok()?;
            // Between information and data nothing is written: what stood there before still does, as on real hosts.
            let used = start.min(HEADER_BYTES);
            buffer.write(id, 0, &header[..used]).ok()?;
            buffer.write(id, start as u32, parts[0]).ok()?;
            buffer.write(id, (start + parts[0].len()) as u32, parts[1]).ok()?;
            u32::try_from(message_len).ok()
        });
        let Some(len) = written else {
            // A sub-allocation that was made too small by a setting.
            buffer.untake(id);
            self.counters.rx_dropped += 1;
            return true;
        };
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        self.receive.push(queue, Filled { id, len, frame: frame.len() });
        true
    }

    fn fill_from_backlog(&mut self) {
        while let Some(frame) = self.receive.backlog.pop_front() {
            if !self.fill(&frame) {
                self.receive.backlog.push_front(frame);
                return;
            }
            self.receive.spare.push(frame);
        }
    }

    /// Hands what is filled over to the guest.
    pub(super) fn flush_receive(&mut self, queue: &mut Queue) {
        if !self.receive.backlog.is_empty() {
            self.fill_from_backlog();
        }
        let index = usize::from(queue.index);
        while self.receive.filled(index) > 0 {
            let least = PACKET_OVERHEAD + 8 + CONTROL_RESERVE;
            if !queue.has_room(least) {
                self.counters.rx_ring_full += 1;
                return;
            }
            let room = ((queue.room() - PACKET_OVERHEAD - CONTROL_RESERVE) / 8) as usize;
            let count = room.min(self.max_ranges()).min(self.receive.filled(index)).max(1);
            if !self.send_ranges(queue, count) {
                return;
            }
            if !self.receive.backlog.is_empty() {
                self.fill_from_backlog();
            }
        }
    }

    /// Most ranges in one packet, for this guest.
    fn max_ranges(&self) -> usize {
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
                self.counters.rx_dropped += 1;
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

fn is_tagged(frame: &[u8]) -> bool {
    frame.get(TAG_AT..TAG_AT + 2).is_some_and(|kind| kind == TAG_TYPE) && frame.len() >= TAG_AT + TAG_BYTES + 2
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
        let taken = (0..7).filter(|_| nic.deliver_frame(&frame)).count();
        assert_eq!((taken, nic.receive.waiting(), nic.counters.rx_frames), (7, 7, 5), "two wait in the backlog");
        nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::CLOSED.0.to_le_bytes()).expect("a filter");
        assert_eq!((nic.receive.waiting(), nic.counters.rx_frames, nic.counters.rx_bytes), (0, 0, 0));
        assert_eq!(nic.counters.rx_filtered, 7);
        assert!(!nic.deliver_frame(&frame));
        // All five are there again.
        nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::OPEN.0.to_le_bytes()).expect("a filter");
        assert_eq!((0..5).filter(|_| nic.fill(&frame)).count(), 5);
    }
}
