//! Frames on their way from the host: transfer packets, their ranges, the messages in those, and the frames in these.
//!
//! The host may write the receive buffer at any time. So of each range a *head* is copied first, which holds the RNDIS header
//! and, if it is short, the per-packet information; the copy is checked and only the copy is used. The frame is then
//! copied once, from where the checked copy says straight into the sink's buffer.
//!
//! A transfer packet is acknowledged when its last range was consumed; the acknowledgment gives back all of its ranges at
//! once, and says FAIL if any of them was unusable. Nothing trustworthy can be acknowledged about a packet whose own header
//! makes no sense: it is counted and dropped, as in Linux.
//!
//! Received so that frames are [held](super::held), a packet is acknowledged when its last frame was let go as well. How frames are
//! taken is known when the program is compiled ([`Taking`]): copying all of them costs nothing more than if that were all there is.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_receive`), `rndis_filter.c` (`rndis_filter_receive_data`). Stricter
//! than Linux: see [`PacketHeader`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use nvsp::{ChannelType, RndisPacket, Status};
use rndis::control::IndicateStatus;
use rndis::packet::PacketHeader;
use rndis::ppi::{PacketId, PacketInfo};
use rndis::{MESSAGE_HEADER_LEN, MessageHeader, MessageType};
use vmbus::bus::Doorbell;
use vmbus::memory::{Located, SharedMemory, SharedMemoryExt};
use vmbus::packet::{TransactionId, TransferPages, TransferRange};

use super::backlog::Backlog;
use super::burst::FrameSink;
use super::control::{ControlInput, Controls, MAX_CONTROL_BYTES};
use super::error::QueueError;
use super::held::{HeldBurst, Ledger, Place, Table};
use super::outbound::Outbound;
use super::settings::{QueueSettings, ReceiveBuffer, check_receive_sections};
use super::verdicts::{Disagreement, Verdicts};
use crate::checksum;
use crate::frame::fields::ethernet;
use crate::frame::{Headers, put_word};
use crate::meta::{Coalesced, RxMeta};
use crate::offload::Checksums;
use crate::stats::QueueStats;

/// Bytes of a range that are copied first: a cache line, with the RNDIS header (44) and one element of per-packet
/// information. A block of several is copied by itself.
const HEAD_BYTES: usize = 64;

/// How many ranges ahead of the one at hand the receive buffer is prefetched. A frame takes a third less time by that where
/// the buffer is larger than the cache (`benches/`, `nic/receive`).
const AHEAD: usize = 4;

/// Bytes of each that are: two cache lines, which hold header and frame where frames are small. Of long ones the processor sees
/// by itself how they go on.
const AHEAD_BYTES: usize = 128;

/// A transfer packet that is not acknowledged yet.
#[derive(Debug, Clone, Copy)]
struct Packet {
    id: TransactionId,
    /// Ranges in the backlog.
    left: u16,
    /// All its ranges. A packet is not long enough for more.
    ranges: u16,
    failed: bool,
}

/// A checked fragment of a coalesced frame: where its data is in the receive buffer.
#[derive(Debug, Clone, Copy)]
struct Fragment {
    offset: usize,
    len: usize,
}

/// The receive buffer with what belongs to it.
#[derive(Debug)]
struct Attached<M> {
    buffer: ReceiveBuffer<Located<M>>,
    /// Per-packet information that is not in the head.
    info: Box<[u8]>,
    /// Frames with information need [`assemble`]: what [`Rules`] say.
    careful: bool,
    /// Frames that are held.
    held: Table,
}

/// What is done with frames beside copying them.
#[derive(Debug)]
struct Rules {
    verdicts: Verdicts,
    /// 802.1Q tags are put back into frames.
    reinsert_tags: bool,
    /// Longest segment of a merged frame.
    frame_limit: usize,
}

impl Rules {
    fn is_careful(&self) -> bool {
        self.reinsert_tags || !self.verdicts.is_idle()
    }
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Receive<M> {
    attached: Option<Attached<M>>,
    packets: VecDeque<Packet>,
    /// Ranges of `packets`, in order.
    ranges: Backlog,
    /// Most of them.
    most_waiting: usize,
    /// Most sections that are held; half of those there are if it is not said.
    most_held: Option<usize>,
    /// Bytes that are copied of frames that are held.
    copybreak: usize,
    /// Of the coalesced frame at hand.
    fragments: Vec<Fragment>,
    rules: Rules,
}

/// What the receiving side works with, besides its own.
pub(super) struct With<'a, M, D> {
    pub(super) ring: &'a mut Outbound<M, D>,
    pub(super) controls: &'a mut Controls,
    pub(super) stats: &'a mut QueueStats,
}

/// How frames go into a sink: known when the program is compiled.
pub(super) trait Taking<S> {
    /// Whether frames may be held.
    const HOLDS: bool;

    /// Whether the sink takes frames that this ledger holds.
    fn holds_for(sink: &mut S, ledger: &Arc<Ledger>) -> bool;

    /// The head of a frame is in the buffer that the sink gave last; whether it took that.
    fn commit_held(sink: &mut S, head: usize, place: Place, meta: RxMeta) -> bool;
}

/// All of them are copied whole.
pub(super) struct Copying;

impl<S> Taking<S> for Copying {
    const HOLDS: bool = false;

    fn holds_for(_sink: &mut S, _ledger: &Arc<Ledger>) -> bool {
        false
    }

    fn commit_held(_sink: &mut S, _head: usize, _place: Place, _meta: RxMeta) -> bool {
        false
    }
}

/// Longer ones are held.
pub(super) struct Holding;

impl Taking<HeldBurst> for Holding {
    const HOLDS: bool = true;

    #[inline]
    fn holds_for(sink: &mut HeldBurst, ledger: &Arc<Ledger>) -> bool {
        sink.holds_for(ledger)
    }

    #[inline]
    fn commit_held(sink: &mut HeldBurst, head: usize, place: Place, meta: RxMeta) -> bool {
        sink.commit_held(head, place, meta)
    }
}

/// Receive packets that cannot be acknowledged because frames of them are [held](super::held).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldReceives {
    /// Packets.
    pub packets: usize,
    /// Sections that they pin.
    pub sections: usize,
}

impl core::ops::AddAssign for HeldReceives {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.sections += other.sections;
    }
}

/// What became of the ranges at the front.
enum Outcome {
    /// A frame was delivered out of `ranges` ranges.
    Frame { ranges: u32 },
    /// `ranges` ranges were consumed without a frame.
    Skipped { ranges: u32, failed: bool },
    /// The sink has no room.
    NoRoom,
}

const FAILED: Outcome = Outcome::Skipped { ranges: 1, failed: true };

/// A message's parts, checked.
struct Message {
    /// The data, in the receive buffer.
    data: Fragment,
    /// What its per-packet information says of the frame.
    meta: RxMeta,
    /// Set if it is a part of a coalesced frame, rather than a whole one.
    part: Option<PacketId>,
    /// It is whole, and has only to be copied.
    plain: bool,
}

/// Why a range has no frame.
enum NoFrame {
    /// It is no range of the receive buffer.
    BadRange,
    /// It holds no message that makes sense.
    BadMessage,
    /// It holds a message of another type.
    Control,
}

impl<M: SharedMemory> Receive<M> {
    pub(super) fn new(settings: &QueueSettings) -> Self {
        Self {
            attached: None,
            packets: VecDeque::new(),
            ranges: Backlog::default(),
            most_waiting: usize::MAX,
            most_held: None,
            copybreak: settings.rx_copybreak,
            fragments: Vec::new(),
            rules: Rules {
                verdicts: Verdicts::new(settings.check_verdicts),
                reinsert_tags: settings.reinsert_tags,
                frame_limit: usize::MAX,
            },
        }
    }

    /// Which verdicts of the host are listened to.
    pub(super) fn trust(&mut self, checksums: Checksums) {
        self.rules.verdicts.trust(checksums);
        if let Some(attached) = &mut self.attached {
            attached.careful = self.rules.is_careful();
        }
    }

    /// How many ranges may wait.
    pub(super) fn set_most_waiting(&mut self, ranges: usize) {
        self.most_waiting = ranges;
    }

    /// How many sections may be held.
    pub(super) fn set_most_held(&mut self, sections: usize) {
        self.most_held = Some(sections);
        if let Some(Attached { buffer, held, .. }) = &mut self.attached {
            held.set_most(buffer.memory.memory(), sections.min(buffer.sections as usize));
        }
    }

    /// Packets that are held, and sections that are.
    #[inline]
    pub(super) fn held(&self) -> HeldReceives {
        let held = self.attached.as_ref().map(|attached| &attached.held);
        held.map_or_else(HeldReceives::default, |held| HeldReceives {
            packets: held.packets(),
            sections: held.sections(),
        })
    }

    /// Acknowledges what was let go.
    #[inline]
    pub(super) fn take_let_go<D: Doorbell>(
        &mut self,
        ring: &mut Outbound<M, D>,
        stats: &mut QueueStats,
    ) -> Result<(), QueueError> {
        match &mut self.attached {
            Some(attached) if attached.held.has_let_go() => {
                attached.held.take_let_go(|id, status| ring.ack(id, status, stats))
            }
            _ => Ok(()),
        }
    }

    /// Longest frame that comes in one piece.
    pub(super) fn set_frame_limit(&mut self, limit: usize) {
        self.rules.frame_limit = limit;
    }

    /// The last verdict of the host that was wrong, once.
    pub(super) fn take_disagreement(&mut self) -> Option<Disagreement> {
        self.rules.verdicts.disagreement.take()
    }

    /// Takes the receive buffer; says how many packets of it can be outstanding.
    pub(super) fn attach(&mut self, buffer: ReceiveBuffer<M>) -> Result<usize, QueueError> {
        check_receive_sections(buffer.memory.len(), buffer.section_bytes, buffer.sections)?;
        let sections = buffer.sections as usize;
        self.packets.reserve(sections);
        self.ranges.reserve(sections);
        self.fragments.reserve(nvsp::MAX_TRANSFER_RANGES_RSC);
        let info = vec![0; buffer.section_bytes as usize].into_boxed_slice();
        let ReceiveBuffer { memory, set_id, section_bytes, sections: count } = buffer;
        let held = Table::new(memory.clone(), self.most_held.unwrap_or(sections / 2).min(sections));
        let buffer = ReceiveBuffer { memory: Located::new(memory), set_id, section_bytes, sections: count };
        self.attached = Some(Attached { buffer, info, careful: self.rules.is_careful(), held });
        Ok(sections)
    }

    /// Lets go of the buffer; says how many packets were not acknowledged.
    pub(super) fn detach(&mut self) -> usize {
        let packets = self.packets.len() + self.attached.take().map_or(0, |attached| attached.held.packets());
        self.packets.clear();
        self.ranges.clear();
        packets
    }

    /// Ranges that wait.
    #[inline]
    pub(super) fn backlog(&self) -> usize {
        self.ranges.len()
    }

    /// Takes in a transfer packet: its ranges wait for [`deliver`](Self::deliver).
    #[inline]
    pub(super) fn admit<D: Doorbell>(
        &mut self,
        id: TransactionId,
        header: &[u8],
        payload: &[u8],
        with: &mut With<'_, M, D>,
    ) -> Result<(), QueueError> {
        let (Some(attached), Ok(pages), Ok(message)) =
            (&mut self.attached, TransferPages::parse(header), RndisPacket::parse(payload))
        else {
            with.stats.extra.bad_packets += 1;
            return Ok(());
        };
        if pages.set_id != attached.buffer.set_id {
            with.stats.extra.bad_packets += 1;
            return Ok(());
        }
        let limit = attached.buffer.sections as usize;
        let value = self.ranges.len() + pages.len();
        let unacknowledged = self.packets.len() + attached.held.packets() + with.ring.owed();
        if value > limit || unacknowledged >= limit {
            return Err(QueueError::TooManyRanges { value: value.max(unacknowledged + 1), limit });
        }
        if message.channel_type == ChannelType::CONTROL && pages.ranges().all(|range| attached.is_control(range)) {
            // Not behind frames for which there may be no reader.
            let mut failed = false;
            for range in pages.ranges() {
                failed |= !attached.control(range, with.controls, with.stats);
            }
            return with.ring.ack(id, status(failed), with.stats);
        }
        if value > self.most_waiting && self.ranges.len() > 0 {
            // As a host without free sections does.
            with.stats.global.rx_no_memory += pages.len() as u64;
            with.stats.extra.rx_dropped += pages.len() as u64;
            return with.ring.ack(id, status(true), with.stats);
        }
        self.ranges.extend(pages.ranges());
        // Not more than the packet at hand has bytes, which are fewer than that.
        let ranges = pages.len() as u16;
        self.packets.push_back(Packet { id, left: ranges, ranges, failed: false });
        Ok(())
    }

    /// Gives at most `max_frames` frames to `sink`, and acknowledges the packets whose last range was consumed.
    pub(super) fn deliver<S: FrameSink, T: Taking<S>, D: Doorbell>(
        &mut self,
        sink: &mut S,
        max_frames: usize,
        with: &mut With<'_, M, D>,
    ) -> Result<usize, QueueError> {
        let Some(attached) = &mut self.attached else { return Ok(0) };
        let mut frames = 0;
        while frames < max_frames
            && let Some(packet) = self.packets.front_mut()
        {
            let waiting = self.ranges.waiting();
            let ranges = waiting.get(..packet.left as usize).unwrap_or(waiting);
            let mut at = 0;
            let mut room = true;
            while room
                && frames < max_frames
                && let Some(&range) = ranges.get(at)
            {
                if let Some(ahead) = waiting.get(at + AHEAD) {
                    attached.buffer.memory.prefetch(ahead.byte_offset as usize, AHEAD_BYTES);
                }
                let outcome = match attached.message(range) {
                    Ok(message) if message.plain && T::HOLDS && message.data.len > self.copybreak => {
                        let head = self.copybreak;
                        held::<_, _, T>(attached, &message, head, packet.ranges.into(), sink, with.stats)
                    }
                    Ok(message) if message.plain => whole(attached, &message, sink, with.stats),
                    Ok(message) if message.part.is_none() => {
                        assemble(attached, &[message.data], message.meta, 1, &mut self.rules, sink, with.stats)
                    }
                    Ok(first) => {
                        let rest = ranges.get(at + 1..).unwrap_or_default();
                        coalesced(attached, &first, rest, &mut self.fragments, &mut self.rules, sink, with.stats)
                    }
                    Err(NoFrame::Control) => {
                        Outcome::Skipped { ranges: 1, failed: !attached.control(range, with.controls, with.stats) }
                    }
                    Err(error) => {
                        count(&error, with.stats);
                        FAILED
                    }
                };
                match outcome {
                    Outcome::Frame { ranges } => {
                        frames += 1;
                        at += ranges as usize;
                    }
                    Outcome::Skipped { ranges, failed } => {
                        packet.failed |= failed;
                        at += ranges as usize;
                    }
                    Outcome::NoRoom => room = false,
                }
            }
            let left = ranges.len() - at;
            packet.left = left as u16;
            self.ranges.consume(at);
            if left > 0 {
                break;
            }
            let status = status(packet.failed);
            if !attached.held.close(packet.id, status) {
                with.ring.ack(packet.id, status, with.stats)?;
            }
            self.packets.pop_front();
        }
        Ok(frames)
    }
}

impl<M: SharedMemory> Attached<M> {
    /// Checks a range's place and size.
    #[inline]
    fn check(&self, range: TransferRange) -> Result<(), NoFrame> {
        let (offset, len) = (range.byte_offset as usize, range.byte_count as usize);
        if range.byte_count > self.buffer.section_bytes
            || len < MESSAGE_HEADER_LEN
            || self.buffer.memory.check(offset, len).is_err()
        {
            return Err(NoFrame::BadRange);
        }
        Ok(())
    }

    /// Copies the head of a range and checks the message in it.
    #[inline(always)]
    fn message(&mut self, range: TransferRange) -> Result<Message, NoFrame> {
        self.check(range)?;
        let offset = range.byte_offset as usize;
        let mut head = [0; HEAD_BYTES];
        // Two calls, so that the common one copies a constant number of bytes.
        let head: &[u8] = if range.byte_count as usize >= HEAD_BYTES {
            self.copy(offset, &mut head)?;
            &head
        } else {
            let head = &mut head[..range.byte_count as usize];
            self.copy(offset, head)?;
            head
        };
        let Ok(header) = PacketHeader::parse(head, range.byte_count) else { return Err(not_a_packet(head)) };
        let (meta, part, plain) = if header.ppi_len() == 0 {
            if header.check_frame(&PacketInfo::default()).is_err() {
                return Err(NoFrame::BadMessage);
            }
            (RxMeta::default(), None, true)
        } else {
            let (meta, part) = self.informed(header, head, offset)?;
            (meta, part, part.is_none() && !self.careful)
        };
        let data = header.data_range();
        Ok(Message { data: Fragment { offset: offset + data.start, len: data.len() }, meta, part, plain })
    }

    /// Reads the per-packet information of the message at `offset`: out of its head, if all of it is there.
    #[inline(always)]
    fn informed(
        &mut self,
        header: PacketHeader,
        head: &[u8],
        offset: usize,
    ) -> Result<(RxMeta, Option<PacketId>), NoFrame> {
        let place = header.ppi_range();
        let block = match head.get(place.clone()) {
            Some(block) => block,
            None => {
                let Some(block) = self.info.get_mut(..place.len()) else { return Err(NoFrame::BadMessage) };
                if self.buffer.memory.read(offset + place.start, block).is_err() {
                    return Err(NoFrame::BadRange);
                }
                block
            }
        };
        let Ok(info) = PacketInfo::parse(block) else { return Err(NoFrame::BadMessage) };
        if header.check_frame(&info).is_err() {
            return Err(NoFrame::BadMessage);
        }
        Ok((RxMeta::from_info(&info), info.packet_id.filter(|id| id.is_sub_allocation())))
    }

    #[inline]
    fn copy(&self, offset: usize, into: &mut [u8]) -> Result<(), NoFrame> {
        self.buffer.memory.read(offset, into).map_err(|_| NoFrame::BadRange)
    }

    /// Whether a range seems to hold a message that is no packet. Only a hint: the host may change it.
    fn is_control(&self, range: TransferRange) -> bool {
        let mut word = [0; 4];
        self.check(range).is_ok()
            && self.copy(range.byte_offset as usize, &mut word).is_ok()
            && MessageType(u32::from_le_bytes(word)) != MessageType::PACKET
    }

    /// Hands a control message over; whether it was in order.
    #[cold]
    fn control(&mut self, range: TransferRange, controls: &mut Controls, stats: &mut QueueStats) -> bool {
        let len = (range.byte_count as usize).min(MAX_CONTROL_BYTES).min(self.info.len());
        let copied = match self.check(range) {
            Ok(()) => {
                let copy = &mut self.info[..len];
                self.buffer.memory.read(range.byte_offset as usize, copy).is_ok().then_some(&*copy)
            }
            Err(_) => None,
        };
        let Some(copy) = copied else {
            stats.extra.bad_ranges += 1;
            return false;
        };
        match MessageHeader::parse(copy) {
            Ok(header) if header.message_type != MessageType::PACKET => {
                // Hosts before about Server 2022 do not count an indication's buffer in the message's length (Linux
                // `rndis_filter.c`): such a one is handed over with the rest of its range.
                let uncounted = IndicateStatus::parse(copy).is_ok_and(|indication| !indication.buffer_counted);
                // The header was checked against the copy.
                let counted = copy.get(..header.message_len as usize).unwrap_or(copy);
                let message = if uncounted { copy } else { counted };
                controls.push(ControlInput::Rndis { payload: message.into() }, stats);
                true
            }
            _ => {
                stats.extra.bad_messages += 1;
                false
            }
        }
    }
}

/// A message that is not a packet in order: of another type, or broken.
#[cold]
fn not_a_packet(head: &[u8]) -> NoFrame {
    match head.first_chunk() {
        Some(word) if MessageType(u32::from_le_bytes(*word)) != MessageType::PACKET => NoFrame::Control,
        _ => NoFrame::BadMessage,
    }
}

#[cold]
fn count(error: &NoFrame, stats: &mut QueueStats) {
    match error {
        NoFrame::BadRange => stats.extra.bad_ranges += 1,
        NoFrame::BadMessage => stats.extra.bad_messages += 1,
        NoFrame::Control => return,
    }
    stats.extra.rx_dropped += 1;
}

#[inline]
fn status(failed: bool) -> Status {
    if failed { Status::FAIL } else { Status::SUCCESS }
}

/// Delivers a frame that is whole in its range.
#[inline]
fn whole<M: SharedMemory, S: FrameSink>(
    attached: &Attached<M>,
    message: &Message,
    sink: &mut S,
    stats: &mut QueueStats,
) -> Outcome {
    let len = message.data.len;
    let Some(buffer) = sink.buffer(len).and_then(|buffer| buffer.get_mut(..len)) else {
        return no_room(len, 1, sink, stats);
    };
    if attached.copy(message.data.offset, buffer).is_err() {
        return FAILED;
    }
    let mut meta = message.meta;
    finish(buffer, &mut meta, stats);
    sink.commit(len, meta);
    Outcome::Frame { ranges: 1 }
}

/// Delivers the first `head` bytes of a longer frame that is whole in its range, and has its rest held, if that may be: otherwise
/// all of it. Its packet has `ranges` ranges.
#[inline]
fn held<M: SharedMemory, S: FrameSink, T: Taking<S>>(
    attached: &mut Attached<M>,
    message: &Message,
    head: usize,
    ranges: u32,
    sink: &mut S,
    stats: &mut QueueStats,
) -> Outcome {
    let Fragment { offset, len } = message.data;
    let checksum = &message.meta.checksum;
    // What is to be mended is mended here, or where it is sent: either looks at all of it.
    if checksum.ip_stale || checksum.transport_stale || !T::holds_for(sink, attached.held.ledger()) {
        return whole(attached, message, sink, stats);
    }
    if !attached.held.has_room(ranges) {
        let outcome = whole(attached, message, sink, stats);
        stats.extra.rx_copied_watermark += u64::from(matches!(outcome, Outcome::Frame { .. }));
        return outcome;
    }
    let Some(buffer) = sink.buffer(head).and_then(|buffer| buffer.get_mut(..head)) else {
        return no_room(head, 1, sink, stats);
    };
    if attached.copy(offset, buffer).is_err() {
        return FAILED;
    }
    let multicast = buffer.first().is_some_and(|byte| byte & 1 != 0);
    let Some(packet) = attached.held.hold(ranges) else { return FAILED };
    // No byte of the buffer is further away from its start than that: see `check_receive_sections`.
    let place = Place { packet, offset: (offset + head) as u32, len: (len - head) as u32 };
    if !T::commit_held(sink, head, place, message.meta) {
        attached.held.unhold();
        return Outcome::NoRoom;
    }
    stats.rx.packets += 1;
    stats.rx.bytes += len as u64;
    stats.extra.rx_multicast += u64::from(multicast);
    stats.extra.rx_held += 1;
    Outcome::Frame { ranges: 1 }
}

/// Puts a coalesced frame together: `first` is the message at hand, `rest` the ranges behind it in its packet.
///
/// All fragments are checked before any is copied, so that the frame's length is known and its buffer asked for once.
#[cold]
fn coalesced<M: SharedMemory, S: FrameSink>(
    attached: &mut Attached<M>,
    first: &Message,
    rest: &[TransferRange],
    fragments: &mut Vec<Fragment>,
    rules: &mut Rules,
    sink: &mut S,
    stats: &mut QueueStats,
) -> Outcome {
    fragments.clear();
    fragments.push(first.data);
    let mut ranges = 1;
    let mut whole = first.part.is_some_and(|id| id.is_first());
    let mut ended = first.part.is_some_and(|id| id.is_last());
    if whole && !ended {
        whole = false;
        for &range in rest {
            let message = match attached.message(range) {
                Ok(message) => message,
                Err(NoFrame::Control) => break,
                Err(error) => {
                    count(&error, stats);
                    ranges += 1;
                    break;
                }
            };
            // A whole frame, or the start of another one, abandons what came before; it is looked at next.
            let Some(id) = message.part.filter(|id| !id.is_first()) else { break };
            ranges += 1;
            if fragments.len() < nvsp::MAX_TRANSFER_RANGES_RSC {
                fragments.push(message.data);
                ended = id.is_last();
            } else if id.is_last() {
                // Too many: all of them are consumed, none delivered.
                break;
            }
            if ended {
                whole = true;
                break;
            }
        }
    }
    if !whole {
        stats.extra.bad_coalesced += 1;
        stats.extra.rx_dropped += 1;
        return Outcome::Skipped { ranges, failed: true };
    }
    let mut meta = first.meta;
    meta.coalesced = Some(Coalesced { fragments: fragments.len() as u16, segment_size: 0, fixed_id: false });
    assemble(attached, fragments, meta, ranges, rules, sink, stats)
}

/// Delivers a frame that is to be put together or looked at: out of `fragments`, which are `ranges` ranges.
#[cold]
fn assemble<M: SharedMemory, S: FrameSink>(
    attached: &Attached<M>,
    fragments: &[Fragment],
    mut meta: RxMeta,
    ranges: u32,
    rules: &mut Rules,
    sink: &mut S,
    stats: &mut QueueStats,
) -> Outcome {
    let tag = meta.vlan.take_if(|_| rules.reinsert_tags);
    let tag_len = if tag.is_some() { ethernet::TAG_LEN } else { 0 };
    let len = tag_len + fragments.iter().map(|fragment| fragment.len).sum::<usize>();
    let Some(buffer) = sink.buffer(len).and_then(|buffer| buffer.get_mut(..len)) else {
        return no_room(len, ranges, sink, stats);
    };
    let mut rest = &mut buffer[tag_len..];
    for fragment in fragments {
        // The parts add up to the whole.
        let (part, after) = rest.split_at_mut(fragment.len);
        if attached.copy(fragment.offset, part).is_err() {
            return Outcome::Skipped { ranges, failed: true };
        }
        rest = after;
    }
    if let Some(tag) = tag {
        // The addresses move to the front. A frame has an Ethernet header, or its first fragment has: that was checked.
        buffer.copy_within(tag_len..tag_len + ethernet::TYPE, 0);
        put_word(buffer, ethernet::TYPE, ethernet::TYPES_OF_TAGS[0]);
        put_word(buffer, ethernet::TYPE + 2, tag.tci());
    }
    if let Some(coalesced) = &mut meta.coalesced {
        coalesced.segment_size = segment_size(buffer, tag_len, fragments, rules.frame_limit);
        stats.extra.rx_coalesced += 1;
    }
    finish(buffer, &mut meta, stats);
    rules.verdicts.apply(buffer, &mut meta, stats);
    sink.commit(len, meta);
    Outcome::Frame { ranges }
}

/// Payload bytes of each segment that a merged frame was made from. Hosts do not say it: it is that of the fragments, if they
/// are of one size and segments of the network, and otherwise the most that the MTU allows. 0 if it is no TCP.
fn segment_size(frame: &[u8], tag_len: usize, fragments: &[Fragment], frame_limit: usize) -> u16 {
    let payload = Headers::parse(frame).and_then(|headers| headers.payload(frame));
    let (Some(payload), Some((first, others))) = (payload.map(|at| at - tag_len), fragments.split_first()) else {
        return 0;
    };
    let most = frame_limit.saturating_sub(payload);
    let size = first.len.saturating_sub(payload);
    let (last, middle) = others.split_last().unwrap_or((first, &[]));
    let even = !others.is_empty() && middle.iter().all(|fragment| fragment.len == size) && last.len <= size;
    let size = if even && (1..=most).contains(&size) { size } else { most };
    u16::try_from(size).unwrap_or(0)
}

/// Counts a frame that was copied, and mends it where the host left that to the guest.
#[inline]
fn finish(frame: &mut [u8], meta: &mut RxMeta, stats: &mut QueueStats) {
    stats.rx.packets += 1;
    stats.rx.bytes += frame.len() as u64;
    stats.extra.rx_multicast += u64::from(frame.first().is_some_and(|byte| byte & 1 != 0));
    if meta.checksum.ip_stale && checksum::mend_ipv4(frame) {
        meta.checksum.ip_stale = false;
    }
}

/// The sink has no room, now or ever.
#[cold]
fn no_room<S: FrameSink>(len: usize, ranges: u32, sink: &S, stats: &mut QueueStats) -> Outcome {
    if len <= sink.max_frame() {
        return Outcome::NoRoom;
    }
    stats.global.rx_no_memory += 1;
    stats.extra.rx_dropped += 1;
    Outcome::Skipped { ranges, failed: true }
}
