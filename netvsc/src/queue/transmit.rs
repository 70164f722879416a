//! Frames on their way to the host: into a section with others, or into pages.
//!
//! | the frame's message | goes |
//! |---|---|
//! | fits into the section that is being filled | there |
//! | fits into a section, and one is free | into a new one; what was being filled is handed over first |
//! | fits into a section, and none is free (`tx_send_full`) | into pages, if there are any; otherwise it is refused for now, and so are short frames of queues with many sections |
//! | is longer than a section | into pages; without them it is refused for good |
//! | holds a frame longer than `tx_copybreak` | into pages, if there are enough now; otherwise as above |
//!
//! Every message of a section but the last is padded to the host's alignment, which is done when the next one comes. Linux
//! also puts the headers of a frame into what is left of a section, and lists the frame's own pages beside it ("partial
//! copy"): that saves a copy only where frames are in memory that the host can read, which here they are not.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_send`); limits: [MS-RNDIS] `REMOTE_NDIS_INITIALIZE_CMPLT`.

use nvsp::{ChannelType, RndisPacket, RndisPacketComplete, SectionIndex};
use rndis::packet::{MIN_FRAME_LEN, PACKET_HEADER_LEN, TxHeader, TxOffload, padding};
use vmbus::bus::Doorbell;
use vmbus::memory::{PAGE_SIZE, SharedMemory};
use vmbus::packet::{DESCRIPTOR_BYTES, PacketType, TRAILER_BYTES, TransactionId};
use vmbus::ring::Outgoing;

use super::body::{Body, Parts, Piece};
use super::control::ControlToken;
use super::cutting::Cutting;
use super::error::{QueueError, SendError};
use super::held::Rest;
use super::in_flight::{Cargo, InFlight, Lent, Sent};
use super::outbound::{Outbound, SECTION_PACKET_BYTES};
use super::pages::{self, Chain, Pages, Pinned};
use super::sections::Sections;
use super::settings::{AggregateLimits, QueueSettings};
use super::shape;
use crate::meta::TxMeta;
use crate::offload::Offloads;
use crate::stats::QueueStats;

/// What nearly all hosts want messages aligned to.
const WORD: usize = 8;

/// Sections with which the host has enough to do, so that a short frame waits for one of them rather than going into a page.
const ENOUGH_SECTIONS: usize = 64;

/// How many frames a section takes at least that are short in that sense.
const SHORT_FRAMES: usize = 4;

/// How many frames with a pinned payload a section takes at least that are copied all the same.
const MANY_FRAMES: usize = 8;

/// A section that is being filled. Its send is in the table already, and room for its packet is kept in the ring.
#[derive(Debug, Clone, Copy)]
struct Open {
    id: TransactionId,
    section: u32,
    /// Bytes used.
    used: usize,
    /// Where the last message starts.
    last: usize,
    frames: u32,
    /// Bytes of the frames alone.
    bytes: u32,
    /// Zeros follow the last message up to a multiple of 8.
    padded: bool,
}

/// The sending side.
#[derive(Debug)]
pub(super) struct Transmit<M> {
    pub(super) sections: Option<Sections<M>>,
    pub(super) pages: Option<Pages<M>>,
    limits: AggregateLimits,
    /// Most bytes in one section: its size, or less if the host says so.
    section_limit: usize,
    /// Messages start and sections end at multiples of 8, as nearly everywhere.
    by_words: bool,
    open: Option<Open>,
    max_pages: usize,
    pub(super) offloads: Offloads,
    /// 802.1Q tags are left in the frame.
    pub(super) tags_in_band: bool,
    /// Longest frame, Ethernet header included, unless it is to be segmented or tagged in band.
    pub(super) frame_limit: usize,
    /// Longest frame that is copied into a section if there are pages.
    copybreak: usize,
    /// Longest frame that goes the usual way: none while a frame waits that is being cut.
    usual_limit: usize,
    pub(super) cutting: Cutting,
    /// Sections that frames leave for control messages.
    spare_sections: usize,
    is_primary: bool,
    /// Sending waits for room.
    stopped: bool,
    /// No frames are taken. Then nothing is being filled either: whoever fills an aggregate need not ask.
    pub(super) paused: bool,
}

/// What the sending side works with, besides its own.
pub(super) struct With<'a, M, D> {
    pub(super) ring: &'a mut Outbound<M, D>,
    pub(super) in_flight: &'a mut InFlight,
    pub(super) stats: &'a mut QueueStats,
}

impl<M, D> With<'_, M, D> {
    /// The same, for another call.
    #[inline]
    pub(super) fn again(&mut self) -> With<'_, M, D> {
        With { ring: &mut *self.ring, in_flight: &mut *self.in_flight, stats: &mut *self.stats }
    }
}

impl<M: SharedMemory> Transmit<M> {
    pub(super) fn new(is_primary: bool, settings: &QueueSettings) -> Self {
        Self {
            sections: None,
            pages: None,
            limits: AggregateLimits::SINGLE,
            section_limit: 0,
            by_words: false,
            open: None,
            max_pages: settings.max_direct_pages.clamp(1, nvsp::MAX_PAGE_BUFFERS),
            offloads: Offloads::NONE,
            tags_in_band: settings.tags_in_band,
            frame_limit: usize::MAX,
            copybreak: settings.tx_copybreak,
            usual_limit: settings.tx_copybreak,
            cutting: Cutting::new(),
            spare_sections: 0,
            is_primary,
            stopped: false,
            paused: false,
        }
    }

    pub(super) fn set_limits(&mut self, limits: AggregateLimits) {
        self.limits = limits.clamped();
        self.buffers_changed();
    }

    pub(super) fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    pub(super) fn set_frame_limit(&mut self, limit: usize) {
        self.frame_limit = limit;
        self.limits_changed();
    }

    /// Takes no more frames; the caller has handed over what was being filled, or let go of it.
    pub(super) fn pause(&mut self) {
        debug_assert!(self.open.is_none(), "an aggregate is being filled");
        self.paused = true;
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Brings what follows from the buffers and limits up to date.
    pub(super) fn buffers_changed(&mut self) {
        let section_bytes = self.sections.as_ref().map_or(0, Sections::section_bytes);
        self.section_limit = section_bytes.min(self.limits.max_bytes as usize);
        self.by_words = self.limits.alignment == WORD as u32 && section_bytes.is_multiple_of(WORD);
        // Control messages go into pages; where there are none they need a section, however busy the senders are.
        let several = self.sections.as_ref().is_some_and(|sections| sections.count() > 1);
        self.spare_sections = usize::from(self.is_primary && self.pages.is_none() && several);
    }

    /// Brings the limit of the usual way up to date.
    pub(super) fn limits_changed(&mut self) {
        self.usual_limit = if self.cutting.is_unfinished() { 0 } else { self.frame_limit.min(self.copybreak) };
    }

    /// Lets go of everything; frames of which a part was not even handed over.
    pub(super) fn detach(&mut self, in_flight: &mut InFlight) -> u64 {
        if let Some(open) = self.open.take() {
            in_flight.update(open.id, Cargo::Frames { frames: open.frames, bytes: open.bytes });
        }
        self.sections = None;
        self.pages = None;
        self.limits = AggregateLimits::SINGLE;
        self.buffers_changed();
        let abandoned = self.cutting.abandon();
        self.limits_changed();
        u64::from(abandoned)
    }

    /// Takes a frame.
    #[inline(always)]
    pub(super) fn send<D: Doorbell>(
        &mut self,
        frame: &[u8],
        meta: &TxMeta,
        with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        if frame.len() < MIN_FRAME_LEN as usize {
            return Err(SendError::TooShort { len: frame.len(), minimum: MIN_FRAME_LEN as usize });
        }
        if frame.len() > self.usual_limit || !shape::is_plain(frame, meta) {
            return self.send_shaped(frame, meta, with);
        }
        if meta.hash.is_none() && meta.vlan.is_none() && self.add_plain(frame) {
            return Ok(());
        }
        self.send_other(frame, meta, with)
    }

    /// Takes a frame with an element, or the first one of a section.
    #[inline(never)]
    fn send_other<D: Doorbell>(&mut self, frame: &[u8], meta: &TxMeta, with: With<'_, M, D>) -> Result<(), SendError> {
        let header = TxHeader { hash_value: meta.hash, vlan: meta.vlan, offload: TxOffload::None };
        self.put(frame, &header, with)
    }

    /// Takes a frame that is ready for the wire: into pages if it is longer than what is copied into sections.
    pub(super) fn put_or_lend<'a, D: Doorbell>(
        &mut self,
        frame: impl Body<'a>,
        header: &TxHeader,
        with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let len = header.buffer_len() + frame.len();
        // As many as with all metadata, so that what `has_room` says holds.
        if frame.len() > self.copybreak && self.lends((TxHeader::MAX_LEN + frame.len()).div_ceil(PAGE_SIZE)) {
            self.check_len(len, with.stats)?;
            return self.send_pages(frame, header, len, with);
        }
        self.put(frame, header, with)
    }

    /// Takes a frame that is ready for the wire.
    #[inline(always)]
    fn put<'a, D: Doorbell>(
        &mut self,
        frame: impl Body<'a>,
        header: &TxHeader,
        with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let len = header.buffer_len() + frame.len();
        if let Some(open) = &mut self.open
            && open.frames < self.limits.max_packets
        {
            let pad = padding(open.used as u32, self.limits.alignment) as usize;
            let at = open.used + pad;
            if at + len <= self.section_limit
                && let Some(sections) = &self.sections
            {
                put_message(sections, open.section, open.used, pad, header, frame)?;
                sections.fetch_next(at, len);
                if pad != 0 {
                    // The padding belongs to the message before it.
                    let last_len = (at - open.last) as u32;
                    sections.write_word(open.section, open.last + MESSAGE_LEN_AT, last_len);
                }
                open.last = at;
                open.used = at + len;
                open.frames += 1;
                open.bytes += frame.len() as u32;
                open.padded = false;
                return Ok(());
            }
        }
        self.start(frame, header, len, with)
    }

    /// Puts a frame without elements into the section that is being filled, in whole words; `false` if it does not fit, or not
    /// that way.
    #[inline(always)]
    fn add_plain<'a>(&mut self, frame: impl Body<'a>) -> bool {
        let (Some(open), Some(sections)) = (&mut self.open, &self.sections) else { return false };
        let at = open.used.next_multiple_of(WORD);
        let end = at + PACKET_HEADER_LEN + frame.len();
        if open.frames >= self.limits.max_packets || end > self.section_limit || !self.by_words || !open.padded {
            return false;
        }
        let Ok(head) = TxHeader::plain_words(frame.len() as u32) else { return false };
        // What is gone is found out once more by whoever tries another way.
        if sections.write_headed(open.section, at, head, PACKET_HEADER_LEN, frame).is_err() {
            return false;
        }
        sections.fetch_next(at, end - at);
        if at != open.used {
            // The padding belongs to the message before it.
            sections.write_word(open.section, open.last + MESSAGE_LEN_AT, (at - open.last) as u32);
        }
        open.last = at;
        open.used = end;
        open.frames += 1;
        open.bytes += frame.len() as u32;
        true
    }

    /// Takes a frame that does not fit into what is being filled.
    fn start<'a, D: Doorbell>(
        &mut self,
        frame: impl Body<'a>,
        header: &TxHeader,
        len: usize,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        if self.paused {
            return Err(SendError::Full);
        }
        if len > self.section_limit {
            self.check_len(len, with.stats)?;
            return self.send_pages(frame, header, len, with);
        }
        if self.free_sections() == 0 {
            with.stats.global.tx_send_full += 1;
            if self.pages.is_none() || self.waits_for_section(frame.len()) {
                return Err(SendError::Full);
            }
            return self.send_pages(frame, header, len, with);
        }
        if !with.in_flight.has_room() {
            return Err(SendError::Full);
        }
        if !with.ring.has_send_room(SECTION_PACKET_BYTES as usize)? {
            with.stats.global.tx_busy += 1;
            return Err(SendError::Full);
        }
        self.close(&mut with)?;
        let Some(sections) = &mut self.sections else { return Err(SendError::NotAttached) };
        let Some(section) = sections.take() else { return Err(SendError::Full) };
        let bytes = frame.len() as u32;
        let padded = self.by_words
            && len == PACKET_HEADER_LEN + frame.len()
            && TxHeader::plain_words(bytes)
                .is_ok_and(|head| sections.write_headed(section, 0, head, PACKET_HEADER_LEN, frame).is_ok());
        if !padded && let Err(error) = put_message(sections, section, 0, 0, header, frame) {
            sections.give_back(section);
            return Err(error);
        }
        sections.fetch_next(0, len);
        let cargo = Cargo::Frames { frames: 1, bytes };
        let Some(id) = with.in_flight.insert(Sent { lent: Lent::Section(section), cargo }) else {
            sections.give_back(section);
            return Err(SendError::Full);
        };
        with.ring.keep();
        self.open = Some(Open { id, section, used: len, last: 0, frames: 1, bytes, padded });
        self.went_on(with);
        Ok(())
    }

    /// Sends a frame from pages, behind what was being filled.
    fn send_pages<'a, D: Doorbell>(
        &mut self,
        frame: impl Body<'a>,
        header: &TxHeader,
        len: usize,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let count = len.div_ceil(PAGE_SIZE);
        let free = self.pages.as_ref().map_or(0, Pages::free);
        if count > free || !with.in_flight.has_room() {
            return Err(SendError::Full);
        }
        if !with.ring.has_send_room(direct_packet_bytes(count))? {
            with.stats.global.tx_busy += 1;
            return Err(SendError::Full);
        }
        let mut head = [0; TxHeader::MAX_LEN];
        let head_len = header.emit(frame.len() as u32, 0, &mut head).map_err(SendError::BadMeta)?;
        self.close(&mut with)?;
        let bytes = frame.len() as u32;
        let cargo = Cargo::Frames { frames: 1, bytes };
        self.write_pages([&head[..head_len], frame.head()], frame.rest(), ChannelType::DATA, cargo, &mut with)?;
        with.stats.extra.tx_direct += 1;
        self.went_on(with);
        Ok(())
    }

    /// Takes a frame whose end is pinned. It goes the usual way where the host cannot read it in its place, and where a
    /// section takes many of its length.
    pub(super) fn send_pinned<D: Doorbell>(
        &mut self,
        head: &[u8],
        pinned: &Pinned,
        meta: &TxMeta,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let body = Parts { head, rest: pinned.bytes() };
        let frame_len = body.len();
        if head.len() < MIN_FRAME_LEN as usize {
            return Err(SendError::TooShort { len: head.len(), minimum: MIN_FRAME_LEN as usize });
        }
        if !shape::is_plain(head, meta) {
            return Err(SendError::NotPlain);
        }
        if frame_len > self.frame_limit {
            with.stats.global.tx_too_big += 1;
            return Err(SendError::TooLong { len: frame_len, limit: self.frame_limit });
        }
        if self.paused || self.cutting.is_unfinished() {
            return Err(SendError::Full);
        }
        let header = TxHeader { hash_value: meta.hash, vlan: meta.vlan, offload: TxOffload::None };
        let before = header.buffer_len() + head.len();
        let in_place = frame_len > self.section_limit / MANY_FRAMES
            && before + pinned.bytes().len() <= self.message_limit()
            && self.max_pages > 1
            && self.pages.as_ref().is_some_and(|pages| pages.lends_before(before, pinned))
            && with.in_flight.has_room()
            && with.ring.has_send_room(direct_packet_bytes(2))?;
        if !in_place {
            return self.put_or_lend(body, &header, with);
        }
        let mut bytes = [0; TxHeader::MAX_LEN];
        let len = header.emit(frame_len as u32, 0, &mut bytes).map_err(SendError::BadMeta)?;
        self.close(&mut with)?;
        let lent = self.pages.as_mut().and_then(|pages| pages.lend_before([&bytes[..len], head], pinned));
        let cargo = Cargo::Frames { frames: 1, bytes: frame_len as u32 };
        self.write_lent(lent, ChannelType::DATA, cargo, &mut with)?;
        with.stats.extra.tx_direct += 1;
        self.went_on(with);
        Ok(())
    }

    /// Takes a frame whose rest is held.
    #[inline]
    pub(super) fn send_held<D: Doorbell>(
        &mut self,
        head: &[u8],
        rest: Rest<'_>,
        meta: &TxMeta,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        if head.len() < MIN_FRAME_LEN as usize {
            return Err(SendError::TooShort { len: head.len(), minimum: MIN_FRAME_LEN as usize });
        }
        let frame = Parts { head, rest };
        let plain = shape::is_plain(head, meta);
        if plain
            && frame.len() <= self.usual_limit
            && meta.hash.is_none()
            && meta.vlan.is_none()
            && self.add_plain(frame)
        {
            return Ok(());
        }
        if !self.go_on(&mut with)? {
            return Err(SendError::Full);
        }
        if !plain || frame.len() > self.frame_limit {
            return self.send_gathered(frame, meta, with);
        }
        let header = TxHeader { hash_value: meta.hash, vlan: meta.vlan, offload: TxOffload::None };
        self.put_or_lend(frame, &header, with)
    }

    /// Writes a GPA-direct packet, for which there is room.
    fn write_pages<D: Doorbell>(
        &mut self,
        pieces: [&[u8]; 2],
        rest: impl Piece,
        channel_type: ChannelType,
        cargo: Cargo,
        with: &mut With<'_, M, D>,
    ) -> Result<(), SendError> {
        let Some(pages) = &mut self.pages else { return Err(SendError::NotAttached) };
        let lent = pages.lend(pieces, rest)?;
        self.write_lent(Some(lent), channel_type, cargo, with)
    }

    /// Writes the packet that lists what was lent, if anything was.
    #[inline]
    fn write_lent<D: Doorbell>(
        &mut self,
        lent: Option<(Chain, pages::Header)>,
        channel_type: ChannelType,
        cargo: Cargo,
        with: &mut With<'_, M, D>,
    ) -> Result<(), SendError> {
        let Some(pages) = &mut self.pages else { return Err(SendError::NotAttached) };
        let Some((chain, list)) = lent else { return Err(SendError::Full) };
        let Some(id) = with.in_flight.insert(Sent { lent: Lent::Pages(chain), cargo }) else {
            pages.give_back(chain);
            return Err(SendError::Full);
        };
        let payload: [u8; nvsp::MESSAGE_LEN] = RndisPacket::without_section(channel_type).to_array();
        let packet = Outgoing {
            packet_type: PacketType::GPA_DIRECT,
            header: list.as_bytes(),
            ..Outgoing::request(id, &payload)
        };
        if !with.ring.write(&packet)? {
            with.in_flight.remove(id);
            pages.give_back(chain);
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Hands over what is being filled: writes its packet. The caller publishes.
    #[inline]
    pub(super) fn close<D: Doorbell>(&mut self, with: &mut With<'_, M, D>) -> Result<(), QueueError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        with.ring.unkeep();
        if open.frames > 1 {
            with.in_flight.update(open.id, Cargo::Frames { frames: open.frames, bytes: open.bytes });
            with.stats.extra.tx_aggregates += 1;
        }
        let written = write_section(open.id, open.section, open.used, ChannelType::DATA, with.ring)?;
        // Room was kept for it.
        debug_assert!(written, "no room for the section that was being filled");
        if !written {
            self.lose(open, with);
        }
        Ok(())
    }

    /// Cannot happen; if it does, the frames are counted and the section comes back.
    #[cold]
    fn lose<D>(&mut self, open: Open, with: &mut With<'_, M, D>) {
        with.stats.extra.tx_dropped += u64::from(open.frames);
        if let Some(sent) = with.in_flight.remove(open.id) {
            self.give_back(sent.lent);
        }
    }

    /// Sends an RNDIS control message: from a page, or from a section.
    pub(super) fn send_control<D: Doorbell>(
        &mut self,
        message: &[u8],
        token: ControlToken,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let len = message.len();
        let in_page = self.pages.is_some() && len <= PAGE_SIZE;
        let section_bytes = self.sections.as_ref().map_or(0, Sections::section_bytes);
        if !in_page && len > section_bytes {
            let limit = if self.pages.is_some() { PAGE_SIZE.max(section_bytes) } else { section_bytes };
            return Err(if limit == 0 { SendError::NotAttached } else { SendError::TooLong { len, limit } });
        }
        let needed = if in_page { direct_packet_bytes(1) } else { SECTION_PACKET_BYTES as usize };
        if !with.in_flight.has_room() || !with.ring.has_send_room(needed)? {
            return Err(SendError::Full);
        }
        self.close(&mut with)?;
        let cargo = Cargo::Control(token);
        if in_page && self.pages.as_ref().is_some_and(|pages| pages.free() > 0) {
            return self.write_pages([message, &[]], &[][..], ChannelType::CONTROL, cargo, &mut with);
        }
        let Some(sections) = &mut self.sections else { return Err(SendError::Full) };
        if len > section_bytes {
            return Err(SendError::Full);
        }
        let Some(section) = sections.take() else { return Err(SendError::Full) };
        sections.write(section, 0, message);
        let Some(id) = with.in_flight.insert(Sent { lent: Lent::Section(section), cargo }) else {
            sections.give_back(section);
            return Err(SendError::Full);
        };
        if !write_section(id, section, len, ChannelType::CONTROL, with.ring)? {
            with.in_flight.remove(id);
            sections.give_back(section);
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// The host completed a send: gives back what it borrowed and counts. The token, if it was a control message.
    #[inline]
    pub(super) fn completed(&mut self, sent: Sent, payload: &[u8], stats: &mut QueueStats) -> Option<ControlToken> {
        self.give_back(sent.lent);
        match sent.cargo {
            Cargo::Frames { frames, bytes } => {
                // Whatever is not plainly a success is a failure, a short or foreign message included.
                if RndisPacketComplete::parse(payload).is_ok_and(|complete| complete.status.is_success()) {
                    stats.tx.packets += u64::from(frames);
                    stats.tx.bytes += u64::from(bytes);
                } else {
                    stats.extra.tx_failed += 1;
                    stats.extra.tx_dropped += u64::from(frames);
                }
                None
            }
            Cargo::Control(token) => Some(token),
        }
    }

    #[inline]
    pub(super) fn give_back(&mut self, lent: Lent) {
        match lent {
            Lent::Nothing => {}
            Lent::Section(section) => {
                if let Some(sections) = &mut self.sections {
                    sections.give_back(section);
                }
            }
            Lent::Pages(chain) => {
                if let Some(pages) = &mut self.pages {
                    pages.give_back(chain);
                }
            }
        }
    }

    /// Whether a frame of `frame_len` bytes, with whatever metadata, would be taken now.
    pub(super) fn can_send<D: Doorbell>(&self, frame_len: usize, mut with: With<'_, M, D>) -> Result<bool, QueueError> {
        if self.paused || self.cutting.is_unfinished() {
            return Ok(false);
        }
        // What is cut from it may be short, and wait for a section where the frame itself finds pages: whoever was told that
        // there is room, and is refused, would ask again without waiting for anything.
        if !self.has_room(MIN_FRAME_LEN as usize, with.again())? {
            return Ok(false);
        }
        let longest = self.frame_limit.saturating_add(shape::MOST_TAG_BYTES);
        if frame_len <= longest {
            return self.has_room(frame_len, with);
        }
        // To be cut: room for one segment is enough. But if it is the host who cuts, it needs all of it at once.
        let by_host = self.offloads.longest_lso().min(self.message_limit().saturating_sub(TxHeader::MAX_LEN));
        Ok(self.has_room(longest, with.again())? && (frame_len > by_host || self.has_room(frame_len, with)?))
    }

    /// Longest frame that can be lent now, or has its place in a section.
    pub(super) fn longest_frame_now(&self) -> usize {
        let pages = self.pages.as_ref().map_or(0, |pages| pages.free().min(self.max_pages));
        self.section_limit.max(pages * PAGE_SIZE).saturating_sub(TxHeader::MAX_LEN)
    }

    /// Whether a message with a frame of `frame_len` bytes finds room.
    pub(super) fn has_room<D: Doorbell>(&self, frame_len: usize, with: With<'_, M, D>) -> Result<bool, QueueError> {
        let len = TxHeader::MAX_LEN + frame_len;
        let count = len.div_ceil(PAGE_SIZE);
        let enough = self.lends(count);
        if frame_len <= self.copybreak || !enough {
            if let Some(open) = &self.open
                && open.frames < self.limits.max_packets
                && open.used + padding(open.used as u32, self.limits.alignment) as usize + len <= self.section_limit
            {
                return Ok(true);
            }
            if !with.in_flight.has_room() {
                return Ok(false);
            }
            if len <= self.section_limit && self.free_sections() > 0 {
                return Ok(with.ring.has_send_room(SECTION_PACKET_BYTES as usize)?);
            }
            // Without the tag that may be moved out of it.
            if self.free_sections() == 0 && self.waits_for_section(frame_len.saturating_sub(shape::MOST_TAG_BYTES)) {
                return Ok(false);
            }
        }
        Ok(enough && with.in_flight.has_room() && with.ring.has_send_room(direct_packet_bytes(count))?)
    }

    /// Whether a frame for which there is no section waits for one, though there may be pages: a short one, many of which a
    /// section takes. A packet each would cost the host several times as much, and it is the host who is behind. Where there
    /// are few sections, pages are needed to keep it busy.
    #[inline]
    fn waits_for_section(&self, frame_len: usize) -> bool {
        frame_len <= self.section_limit / SHORT_FRAMES
            && self.sections.as_ref().is_some_and(|sections| sections.count() >= ENOUGH_SECTIONS)
    }

    /// Whether a message of `count` pages can be lent now.
    fn lends(&self, count: usize) -> bool {
        count <= self.pages.as_ref().map_or(0, Pages::free) && count <= self.max_pages
    }

    /// Ring bytes that a frame of `frame_len` bytes may take.
    pub(super) fn needed_ring_bytes(&self, frame_len: usize) -> u32 {
        let len = TxHeader::MAX_LEN + frame_len;
        if len <= self.section_limit {
            return SECTION_PACKET_BYTES;
        }
        direct_packet_bytes(len.div_ceil(PAGE_SIZE).min(self.max_pages)) as u32
    }

    /// Sending has to wait for room.
    pub(super) fn stop(&mut self, stats: &mut QueueStats) {
        if !self.stopped {
            self.stopped = true;
            stats.global.stop_queue += 1;
        }
    }

    /// Sending found room.
    #[inline]
    fn went_on<D: Doorbell>(&mut self, with: With<'_, M, D>) {
        with.ring.sender_goes_on();
        if self.stopped {
            self.stopped = false;
            with.stats.global.wake_queue += 1;
        }
    }

    /// Sections that a frame may take.
    #[inline]
    fn free_sections(&self) -> usize {
        self.sections.as_ref().map_or(0, |sections| sections.free().saturating_sub(self.spare_sections))
    }

    /// Longest message that can ever be sent in one piece.
    pub(super) fn message_limit(&self) -> usize {
        let direct = self.pages.as_ref().map_or(0, |pages| pages.count().min(self.max_pages) * PAGE_SIZE);
        direct.min(self.limits.max_bytes as usize).max(self.section_limit)
    }

    /// Whether a message that no section holds can ever be sent.
    fn check_len(&self, len: usize, stats: &mut QueueStats) -> Result<(), SendError> {
        let limit = self.message_limit();
        if self.pages.is_none() && self.sections.is_none() {
            return Err(SendError::NotAttached);
        }
        if len > limit {
            stats.global.tx_too_big += 1;
            return Err(SendError::TooLong { len, limit });
        }
        Ok(())
    }
}

/// Ring bytes of a packet that lists `count` pages.
#[inline]
fn direct_packet_bytes(count: usize) -> usize {
    DESCRIPTOR_BYTES + pages::header_bytes(count) + nvsp::MESSAGE_LEN + TRAILER_BYTES
}

/// Writes the packet that hands a section over; `false` if there is no room.
#[inline]
fn write_section<M: SharedMemory, D: Doorbell>(
    id: TransactionId,
    section: u32,
    used: usize,
    channel_type: ChannelType,
    ring: &mut Outbound<M, D>,
) -> Result<bool, QueueError> {
    let message = RndisPacket { channel_type, section: SectionIndex::new(section), section_bytes: used as u32 };
    let payload: [u8; nvsp::MESSAGE_LEN] = message.to_array();
    ring.write(&Outgoing::request(id, &payload))
}

/// Where a message states its length, from its first byte.
const MESSAGE_LEN_AT: usize = 4;

/// Writes `pad` zeros and a frame's message into a section, where they fit.
#[inline(always)]
fn put_message<'a, M: SharedMemory, B: Body<'a>>(
    sections: &Sections<M>,
    section: u32,
    at: usize,
    pad: usize,
    header: &TxHeader,
    frame: B,
) -> Result<(), SendError> {
    /// Zeros that are written together with the header: more than hosts ask for.
    const FRONT: usize = 8;
    let mut head = [0; FRONT + TxHeader::MAX_LEN];
    let head_len = header.emit(frame.len() as u32, 0, &mut head[FRONT..]).map_err(SendError::BadMeta)?;
    let front = pad.min(FRONT);
    if front < pad {
        static ZEROS: [u8; AggregateLimits::MAX_ALIGNMENT as usize] = [0; _];
        sections.write(section, at, &ZEROS[..pad - front]);
    }
    sections.write(section, at + pad - front, &head[FRONT - front..FRONT + head_len]);
    let at = at + pad + head_len;
    if B::HAS_HEAD {
        sections.write(section, at, frame.head());
    }
    Ok(sections.write_piece(section, at + frame.head().len(), frame.rest())?)
}
