//! One queue: everything that happens on one channel, receive and transmit.
//!
//! A [`Queue`] owns its channel's rings and its share of the buffers; it has no locks, and allocates when it is made and when
//! buffers are attached, never for a frame. The order of a turn:
//!
//! ```text
//! receive(&mut burst, n)      ring → backlog → frames; acknowledgments; at most one doorbell
//! send(frame, meta) …         frames → sections, pages
//! flush()                     sections, pages → ring; at most one doorbell
//! poll_control()              on the primary channel
//! arm()                       before sleeping: false = the interrupt will come
//! ```
//!
//! Who does not read for a while calls [`pump`](Queue::pump): completions are then reclaimed, frames wait in the backlog, which
//! has room for all that the host can hand over.
//!
//! | file | has |
//! |---|---|
//! | `receive` | transfer packets, ranges, messages, frames; coalesced frames |
//! | `verdicts` | the host's word on checksums, believed or checked |
//! | `backlog` | ranges that wait |
//! | [`held`] | frames that are not copied, but for their heads |
//! | `transmit` | frames into sections and pages; aggregation |
//! | `shape`, `body` | what metadata asks for: elements, changed headers, tags |
//! | `cutting` | segmentation in software |
//! | `outbound` | the guest→host ring: room, acknowledgments, doorbell |
//! | `in_flight` | what is outstanding, by transaction id |
//! | `kept` | frames that outlive the channel on which they came |
//! | `sections`, `pages` | memory that is lent to the host for sending |
//! | `control` | messages beside frames |
//! | `burst` | where received frames go |
//!
//! The host is not trusted: what it wrote is copied, then checked, and only the copy is used. No input makes a queue panic; what is
//! wrong is counted, and ends the queue only where the ring itself is corrupt.

mod backlog;
mod body;
mod burst;
mod control;
mod cutting;
mod error;
pub mod held;
mod in_flight;
mod kept;
mod outbound;
mod pages;
mod pieces;
mod receive;
mod sections;
mod settings;
mod shape;
mod transmit;
mod verdicts;

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use vmbus::bus::{Channel, Interrupt};
use vmbus::memory::SharedMemory;
use vmbus::packet::{DESCRIPTOR_BYTES, PacketType, TransactionId};
use vmbus::ring::{Consumer, MappedRing, Outgoing};

pub use burst::{Burst, Frame, FrameMut, FrameSink, Frames, FramesMut};
pub use control::{ControlBytes, ControlInput, ControlToken};
pub use error::{QueueError, SendError};
pub use held::{Held, HeldBurst, HeldFrame, HeldFrameMut, Rest, RestError};
pub use pages::{Pinned, UnpinError};
pub use receive::HeldReceives;
pub use settings::{AggregateLimits, QueueSettings, ReceiveBuffer, SendBuffer};
pub use verdicts::{Checked, Disagreement};

use self::control::Controls;
use self::in_flight::{Cargo, InFlight, Lent, Sent};
use self::kept::Kept;
use self::outbound::Outbound;
use self::pages::{Owner, Pages};
use self::receive::{Copying, Holding, Receive, Taking};
use self::sections::Sections;
use self::transmit::Transmit;
use crate::meta::TxMeta;
use crate::offload::Offloads;
use crate::stats::QueueStats;
use crate::time::Instant;

/// Longest packet of the host without its descriptor: a transfer packet with the most ranges, as Linux reckons it
/// (`NETVSC_MAX_PKT_SIZE`), rounded up to what a round number of ranges takes.
const MAX_INCOMING_BYTES: usize = 8192 - DESCRIPTOR_BYTES;

/// Packets that one [`Queue::pump`] takes at most: a host that writes as fast as we read must not hold us for ever.
const MAX_PACKETS_PER_PUMP: usize = 4096;

/// Id of a packet for which no completion is wanted; never given to one for which it is. As Linux.
const NO_COMPLETION: TransactionId = TransactionId(u64::MAX - 2);

/// What [`Queue::pump`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pumped {
    /// Completions that gave sections or pages back.
    pub completions: usize,
    /// Frames and fragments that wait for [`Queue::receive`], those from before included.
    pub ranges: usize,
    /// Control messages that wait for [`Queue::poll_control`], those from before included.
    pub controls: usize,
    /// The ring was not emptied: pump again.
    pub more: bool,
}

/// What a queue has not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Unfinished {
    /// Sends that the host has not completed.
    pub sends: usize,
    /// Receive packets that the host has not been given back, those among them that are held, and ranges that wait.
    pub receives: usize,
    /// Of them, those that are held.
    pub held: HeldReceives,
}

impl core::ops::AddAssign for Unfinished {
    fn add_assign(&mut self, other: Self) {
        self.sends += other.sends;
        self.receives += other.receives;
        self.held += other.held;
    }
}

/// What was outstanding when the buffers were detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aborted {
    /// Frames that were accepted, and of which it is not known whether they were sent; counted as dropped.
    pub frames: u64,
    /// Control messages that will not be completed.
    pub controls: usize,
    /// Receive packets that were not acknowledged.
    pub receive_packets: usize,
}

/// One queue. See the [module](self).
#[derive(Debug)]
pub struct Queue<C: Channel> {
    index: u16,
    incoming: Consumer<MappedRing<C::Memory>>,
    outbound: Outbound<C::Memory, C::Doorbell>,
    /// The packet at hand, copied out of the ring.
    packet: Box<[u8]>,
    in_flight: InFlight,
    transmit: Transmit<C::Memory>,
    receive: Receive<C::Memory>,
    kept: Kept,
    controls: Controls,
    /// Ranges that have left the backlog.
    ranges_out: u64,
    stats: QueueStats,
    interrupt: Option<C::Interrupt>,
    can_unmask: bool,
    /// Sends completed so far, for the watchdog.
    completed: u64,
    /// When the watchdog first saw this count.
    stalled: Option<(u64, Instant)>,
    /// As whom it pins.
    pinner: Owner,
    /// Why nothing is taken off the ring any more.
    failed: Option<QueueError>,
    /// The buffers were detached: the rings are the host's no more, and not touched.
    detached: bool,
}

/// What the sending side works with.
macro_rules! transmit_with {
    ($queue:expr) => {
        transmit::With { ring: &mut $queue.outbound, in_flight: &mut $queue.in_flight, stats: &mut $queue.stats }
    };
}

/// What the receiving side works with.
macro_rules! receive_with {
    ($queue:expr) => {
        receive::With { ring: &mut $queue.outbound, controls: &mut $queue.controls, stats: &mut $queue.stats }
    };
}

impl<C: Channel> Queue<C> {
    /// A queue on a channel that was just opened. Buffers are attached later.
    ///
    /// # Errors
    /// [`QueueError::BadRing`]; [`QueueError::Settings`], as [`QueueSettings::check`].
    pub fn new(channel: C, settings: QueueSettings) -> Result<Self, QueueError> {
        settings.check()?;
        let parts = channel.into_parts();
        let outgoing = MappedRing::new(parts.outgoing, parts.ring_header_bytes)?;
        let incoming = MappedRing::new(parts.incoming, parts.ring_header_bytes)?;
        let is_primary = parts.info.is_primary();
        let mut in_flight = InFlight::default();
        in_flight.grow(settings.control_outstanding.max(1));
        Ok(Self {
            index: parts.info.subchannel_index,
            incoming: Consumer::new(incoming),
            outbound: Outbound::new(outgoing, parts.doorbell),
            packet: vec![0; MAX_INCOMING_BYTES].into_boxed_slice(),
            in_flight,
            transmit: Transmit::new(is_primary, &settings),
            receive: Receive::new(&settings),
            kept: Kept::default(),
            controls: Controls::new(is_primary, settings.control_inputs),
            ranges_out: 0,
            stats: QueueStats::default(),
            can_unmask: parts.interrupt.can_unmask(),
            interrupt: Some(parts.interrupt),
            completed: 0,
            stalled: None,
            pinner: Owner::new(),
            failed: None,
            detached: false,
        })
    }

    /// Goes over to a new channel, after the one before was closed and its buffers [detached](Self::detach_buffers).
    /// Counters stay, and frames that were received and not read; the rest is as with a new queue, but that it is
    /// [paused](Self::pause).
    ///
    /// # Errors
    /// As [`new`](Self::new): the queue stays detached.
    pub fn reopen(&mut self, channel: C, settings: QueueSettings) -> Result<(), QueueError> {
        let new = Self::new(channel, settings)?;
        let old = core::mem::replace(self, new);
        self.stats = old.stats;
        self.kept = old.kept;
        self.completed = old.completed;
        self.pinner = old.pinner;
        self.transmit.pause();
        Ok(())
    }

    /// Takes no more frames to send: [`SendError::Full`], until it is [resumed](Self::resume). What was taken is flushed.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn pause(&mut self) -> Result<(), QueueError> {
        self.flush()?;
        self.transmit.pause();
        Ok(())
    }

    /// Takes frames to send again.
    pub fn resume(&mut self) {
        self.transmit.resume();
    }

    /// Whether it was [paused](Self::pause).
    pub fn is_paused(&self) -> bool {
        self.transmit.is_paused()
    }

    /// Whether its buffers were detached, and no [new channel](Self::reopen) has come.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// Moves all frames that were received into private memory, where they wait for [`receive`](Self::receive) whatever
    /// becomes of the channel, and flushes what was taken to be sent. Gives what is left to be waited for.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn quiesce(&mut self) -> Result<Unfinished, QueueError> {
        self.flush()?;
        let mut kept = core::mem::take(&mut self.kept);
        // One after the other: its own is empty.
        let received = self.receive(&mut kept, usize::MAX);
        self.kept = kept;
        received?;
        Ok(self.unfinished())
    }

    /// What is left to be waited for before the buffers can be [detached](Self::detach_buffers) without loss.
    pub fn unfinished(&self) -> Unfinished {
        let held = self.receive.held();
        let receives = self.receive.backlog() + self.owed_acks() + held.packets;
        Unfinished { sends: self.outstanding(), receives, held }
    }

    /// Receive packets that cannot be acknowledged because frames of them are [held], and the sections that they pin. What was
    /// let go counts until the queue has looked: by [`pump`](Self::pump) and whatever else writes acknowledgments.
    pub fn held_receives(&self) -> HeldReceives {
        self.receive.held()
    }

    /// As [`receive`](Self::receive), but only frames that were [put aside](Self::quiesce): the rings are not touched.
    pub fn receive_kept<S: FrameSink>(&mut self, sink: &mut S, max_frames: usize) -> usize {
        self.kept.deliver(sink, max_frames, &mut self.stats)
    }

    /// The channel's index, 0 for the primary one.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The channel's interrupt, once a channel: it is waited on apart from the queue.
    pub fn take_interrupt(&mut self) -> Option<C::Interrupt> {
        self.interrupt.take()
    }

    /// Whether [`take_interrupt`](Self::take_interrupt) has one: it is new, or was [reopened](Self::reopen).
    pub fn has_interrupt(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Counters.
    pub fn stats(&self) -> &QueueStats {
        &self.stats
    }

    /// Sends an NVSP message in band and signals the host. With a token its completion is wanted, and comes as
    /// [`ControlInput::Completed`].
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::TooLong`], [`SendError::Queue`].
    pub fn send_nvsp(&mut self, message: &[u8], completion: Option<ControlToken>) -> Result<(), SendError> {
        if self.detached {
            return Err(SendError::NotAttached);
        }
        let notice = Outgoing::notice(NO_COMPLETION, message);
        let (len, limit) = (notice.ring_bytes(), self.outbound.max_send_bytes());
        if len > limit {
            return Err(SendError::TooLong { len, limit });
        }
        self.transmit.close(&mut transmit_with!(self))?;
        if !self.outbound.has_send_room(len)? {
            return Err(SendError::Full);
        }
        let written = match completion {
            None => self.outbound.write(&notice)?,
            Some(token) => {
                let sent = Sent { lent: Lent::Nothing, cargo: Cargo::Control(token) };
                let Some(id) = self.in_flight.insert(sent) else { return Err(SendError::Full) };
                let written = self.outbound.write(&Outgoing::request(id, message))?;
                if !written {
                    self.in_flight.remove(id);
                }
                written
            }
        };
        if !written {
            return Err(SendError::Full);
        }
        Ok(self.outbound.publish(&mut self.stats)?)
    }

    /// Sends an RNDIS control message and signals the host. It goes into a page of the direct memory, or into a send section;
    /// frames leave one section free for that where there is no direct memory. The completion only says that the
    /// message was taken; an answer comes as [`ControlInput::Rndis`], possibly before it.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::TooLong`], [`SendError::NotAttached`], [`SendError::Queue`].
    pub fn send_rndis_control(&mut self, message: &[u8], token: ControlToken) -> Result<(), SendError> {
        self.transmit.send_control(message, token, transmit_with!(self))?;
        Ok(self.outbound.publish(&mut self.stats)?)
    }

    /// The next thing that the host said, apart from frames. Poll it after [`pump`](Self::pump) and
    /// [`receive`](Self::receive), until there is none.
    pub fn poll_control(&mut self) -> Option<ControlInput> {
        self.controls.pop()
    }

    /// Gives the queue memory for GPA-direct sends.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`] if no page's guest physical address is known.
    pub fn attach_direct(&mut self, memory: C::Memory) -> Result<(), QueueError> {
        let pages = Pages::new(memory)?;
        self.in_flight.grow(pages.count());
        self.transmit.pages = Some(pages);
        self.transmit.buffers_changed();
        Ok(())
    }

    /// Gives the queue the receive buffer. It is shared by all queues; the host decides whose ranges are where.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`].
    pub fn attach_receive(&mut self, buffer: ReceiveBuffer<C::Memory>) -> Result<(), QueueError> {
        self.kept.set_limit(buffer.memory.len());
        let packets = self.receive.attach(buffer)?;
        self.outbound.reserve_acks(packets);
        Ok(())
    }

    /// How many ranges may wait to be received, as if the receive buffer had no more sections: a packet of the host that has
    /// more is thrown away and counted (`rx_no_memory`), unless nothing waits. Default: no limit but the sections there are.
    ///
    /// For a buffer that is larger than what is wanted and cannot be made smaller.
    pub fn set_most_waiting(&mut self, ranges: usize) {
        self.receive.set_most_waiting(ranges);
    }

    /// How many receive sections may be pinned by [held] frames: the watermark. A packet that would take them beyond it is
    /// copied whole. Default: half of the sections there are, which suits a queue that has the buffer to itself.
    ///
    /// Said again while frames are held, it cannot be raised.
    pub fn set_most_held(&mut self, sections: usize) {
        self.receive.set_most_held(sections);
    }

    /// Gives the queue its share of the send buffer.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`].
    pub fn attach_send(&mut self, buffer: SendBuffer<C::Memory>) -> Result<(), QueueError> {
        let sections = Sections::new(buffer)?;
        self.in_flight.grow(sections.count());
        self.transmit.sections = Some(sections);
        self.transmit.buffers_changed();
        Ok(())
    }

    /// Gives the queue the sections of the send buffer that follow its share, up to `end`, which is not among them; what is
    /// in flight is not touched.
    ///
    /// # Errors
    /// [`QueueError::BadBuffer`] if they are not there, or no share was attached before.
    pub fn grow_send(&mut self, end: u32) -> Result<(), QueueError> {
        let missing = QueueError::BadBuffer { field: "send sections", value: end as usize, limit: 0 };
        let more = self.transmit.sections.as_mut().ok_or(missing)?.grow(end)?;
        self.in_flight.grow(more);
        self.transmit.buffers_changed();
        Ok(())
    }

    /// Sets how messages may be put together; [`AggregateLimits::SINGLE`] until then.
    pub fn attach_limits(&mut self, limits: AggregateLimits) {
        self.transmit.set_limits(limits);
    }

    /// Sets the longest frame that is taken by its MTU: Ethernet header included, and an 802.1Q tag if it has one in band.
    /// Longer ones are [`SendError::TooLong`] instead of being thrown away by the host; those to be segmented are not
    /// concerned. No limit until then.
    pub fn attach_mtu(&mut self, mtu: u32) {
        let limit = (mtu as usize).saturating_add(nvsp::ETHERNET_HEADER_LEN as usize);
        self.transmit.set_frame_limit(limit);
        self.receive.set_frame_limit(limit);
    }

    /// Sets what the host does to frames; what it does not is computed here. Until then nothing is left to the host, and all of its
    /// verdicts are listened to.
    pub fn attach_offloads(&mut self, offloads: Offloads) {
        self.transmit.set_offloads(offloads);
        self.receive.trust(offloads.rx_checksum);
    }

    /// The last verdict of the host on a checksum that was wrong, once: found if
    /// [`QueueSettings::check_verdicts`] is set. How many there were is counted ([`ExtraStats`](crate::stats::ExtraStats),
    /// `rx_checksum_wrong_*`).
    pub fn take_disagreement(&mut self) -> Option<Disagreement> {
        self.receive.take_disagreement()
    }

    /// Lets go of all buffers after the channel was closed or rescinded, and says what was outstanding. The rings are not
    /// touched. Until it is [reopened](Self::reopen) the queue receives nothing but what it has put aside, and sends nothing.
    pub fn detach_buffers(&mut self) -> Aborted {
        let mut aborted = Aborted::default();
        aborted.frames += self.transmit.detach(&mut self.in_flight);
        while let Some(sent) = self.in_flight.remove_any() {
            match sent.cargo {
                Cargo::Frames { frames, .. } => aborted.frames += u64::from(frames),
                Cargo::Control(_) => aborted.controls += 1,
            }
        }
        self.stats.extra.tx_dropped += aborted.frames;
        aborted.receive_packets = self.receive.detach() + self.outbound.forget_owed();
        self.detached = true;
        aborted
    }

    /// Takes what is in the ring: reclaims what was completed, queues control messages and ranges, writes the
    /// acknowledgments that wait.
    ///
    /// # Errors
    /// [`QueueError`]; the queue is unusable afterwards.
    pub fn pump(&mut self) -> Result<Pumped, QueueError> {
        let before = self.completed;
        let more = self.drain(usize::MAX)?;
        self.flush_acks()?;
        self.take_returned();
        Ok(Pumped {
            completions: (self.completed - before) as usize,
            ranges: self.receive.backlog(),
            controls: self.controls.len(),
            more,
        })
    }

    /// Takes packets off the ring until `ranges` ranges wait or it is empty; whether something may be left. A failure is
    /// final: what was taken before it is not given back, and what is in the ring means nothing.
    #[inline]
    fn drain(&mut self, ranges: usize) -> Result<bool, QueueError> {
        self.check_failed()?;
        if self.detached {
            return Ok(false);
        }
        self.take_packets(ranges).inspect_err(|error| self.failed = Some(*error))
    }

    #[inline]
    fn check_failed(&self) -> Result<(), QueueError> {
        self.failed.map_or(Ok(()), Err)
    }

    #[inline]
    fn take_packets(&mut self, ranges: usize) -> Result<bool, QueueError> {
        let mut left = MAX_PACKETS_PER_PUMP;
        while left > 0 && self.receive.backlog() < ranges {
            let Some(incoming) = self.incoming.take(&mut self.packet)? else { break };
            left -= 1;
            let (header, payload) = incoming.split(&self.packet);
            let id = incoming.descriptor.transaction_id;
            match incoming.descriptor.packet_type {
                PacketType::TRANSFER_PAGES => self.receive.admit(id, header, payload, &mut receive_with!(self))?,
                PacketType::COMPLETION => match self.in_flight.remove(id) {
                    Some(sent) => {
                        self.completed += 1;
                        if let Some(token) = self.transmit.completed(sent, payload, &mut self.stats) {
                            self.controls.stand_at(self.ranges_out + self.receive.backlog() as u64);
                            self.controls.push_completion(token, payload);
                        }
                    }
                    None => self.stats.extra.stale_completions += 1,
                },
                PacketType::IN_BAND => {
                    let wants_completion = incoming.descriptor.wants_completion();
                    let payload = payload.into();
                    let message = ControlInput::Message { transaction_id: id, wants_completion, payload };
                    self.controls.stand_at(self.ranges_out + self.receive.backlog() as u64);
                    self.controls.push(message, &mut self.stats);
                }
                _ => self.stats.extra.bad_packets += 1,
            }
        }
        if self.incoming.commit()?.is_needed() {
            self.outbound.signal(&mut self.stats)?;
        }
        Ok(left == 0 || self.receive.backlog() >= ranges)
    }

    /// Writes the acknowledgments that wait and what is left of a frame that is being cut, and publishes all that was written.
    #[inline]
    fn flush_acks(&mut self) -> Result<(), QueueError> {
        if self.detached {
            return Ok(());
        }
        if self.transmit.cutting.is_unfinished() {
            self.transmit.go_on(&mut transmit_with!(self))?;
        }
        self.receive.take_let_go(&mut self.outbound, &mut self.stats)?;
        if self.outbound.owed() > 0 {
            self.outbound.flush_owed()?;
        }
        self.outbound.publish(&mut self.stats)
    }

    /// Copies at most `max_frames` received frames into `sink`; says how many. Takes from the ring as needed. Fewer than
    /// `max_frames` means that there are no more, or that the sink has no room; the rest waits for the next call.
    ///
    /// # Errors
    /// [`QueueError`]; the queue is unusable afterwards. Frames that were copied before are in the sink.
    #[inline]
    pub fn receive<S: FrameSink>(&mut self, sink: &mut S, max_frames: usize) -> Result<usize, QueueError> {
        self.take::<S, Copying>(sink, max_frames)
    }

    /// As [`receive`](Self::receive), but that of frames longer than [`rx_copybreak`](QueueSettings::rx_copybreak) only so many
    /// bytes are copied; the rest is [held] until the burst lets go of it, unless too many sections are held
    /// ([`set_most_held`](Self::set_most_held)). Frames that the host coalesced, or on which there is work to be done (tags put back,
    /// verdicts checked, checksums mended), are copied whole.
    ///
    /// [Clear](HeldBurst::clear) the burst before, lest what it holds count for longer than it has to.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    #[inline]
    pub fn receive_held(&mut self, burst: &mut HeldBurst, max_frames: usize) -> Result<usize, QueueError> {
        // What was let go makes room for what is to be held.
        self.receive.take_let_go(&mut self.outbound, &mut self.stats)?;
        self.take::<_, Holding>(burst, max_frames)
    }

    #[inline(always)]
    fn take<S: FrameSink, T: Taking<S>>(&mut self, sink: &mut S, max_frames: usize) -> Result<usize, QueueError> {
        if self.kept.len() > 0 {
            return Ok(self.receive_kept(sink, max_frames));
        }
        if self.receive.backlog() < max_frames {
            self.drain(max_frames)?;
        }
        let waiting = self.receive.backlog();
        let frames = self.receive.deliver::<S, T, _>(sink, max_frames, &mut receive_with!(self))?;
        self.ranges_out += (waiting - self.receive.backlog()) as u64;
        self.flush_acks()?;
        Ok(frames)
    }

    /// Received ranges that were taken off the ring, and frames that were put aside, which wait for [`receive`](Self::receive).
    pub fn backlog(&self) -> usize {
        self.receive.backlog() + self.kept.len()
    }

    /// Received ranges that have left the [backlog](Self::backlog) so far: frames, and what was dropped.
    pub fn receive_position(&self) -> u64 {
        // What was put aside was received, and has not been given to anyone.
        self.ranges_out.saturating_sub(self.kept.len() as u64)
    }

    /// Where the message or completion stood that [`poll_control`](Self::poll_control) gave last: what the host wrote before
    /// it has been received once [`receive_position`](Self::receive_position) gets there. Means nothing after an RNDIS message.
    pub fn control_position(&self) -> u64 {
        self.controls.popped_position()
    }

    /// As [`control_position`](Self::control_position), of what [`poll_control`](Self::poll_control) would give next.
    pub fn unread_position(&self) -> Option<u64> {
        self.controls.next_position()
    }

    /// Control messages that wait for [`poll_control`](Self::poll_control).
    pub fn pending_controls(&self) -> usize {
        self.controls.len()
    }

    /// Sends that the host has completed so far, control messages included: more than before means room to send.
    pub fn completions(&self) -> u64 {
        self.completed
    }

    /// Counts frames that a layer above took for this queue and had to drop.
    pub fn count_tx_dropped(&mut self, frames: u64) {
        self.stats.extra.tx_dropped += frames;
    }

    /// Takes a frame to be sent: copies it. The host learns of it by [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`SendError`]: the frame was not taken.
    #[inline]
    pub fn send(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), SendError> {
        self.transmit.send(frame, meta, transmit_with!(self))
    }

    /// Keeps the end of a frame that will be sent many times, up to a page of it, where the host can read it: see
    /// [`send_pinned`](Self::send_pinned). It takes a page of [direct memory](Self::attach_direct), half of which can be taken so;
    /// beyond that, and without direct memory, the payload is copied each time.
    pub fn pin(&mut self, payload: &[u8]) -> Pinned {
        self.take_returned();
        match &mut self.transmit.pages {
            Some(pages) => pages.pin(payload, self.pinner),
            None => Pinned::copied(payload, self.pinner),
        }
    }

    /// Takes the memory back of pinned payloads that were dropped, if the host reads none of it any more.
    #[inline]
    fn take_returned(&mut self) {
        if self.outstanding() == 0
            && let Some(pages) = &mut self.transmit.pages
        {
            pages.take_returned();
        }
    }

    /// Takes the memory of a pinned payload back.
    ///
    /// # Errors
    /// [`UnpinError`], which has the payload: while anything is [outstanding](Self::outstanding), as the host may still read it,
    /// or if another queue pinned it.
    pub fn unpin(&mut self, pinned: Pinned) -> Result<(), UnpinError> {
        if !pinned.is_of(self.pinner) {
            return Err(UnpinError::OtherQueue { pinned });
        }
        match self.outstanding() {
            0 => {}
            sends => return Err(UnpinError::Outstanding { pinned, sends }),
        }
        if let Some(pages) = &mut self.transmit.pages {
            pages.unpin(pinned);
        }
        Ok(())
    }

    /// As [`send`](Self::send), of a frame that is `head`, from its Ethernet header on, and a [pinned](Self::pin) payload, of which
    /// nothing is copied: for who sends the same content under different headers, such as a traffic generator, or a server.
    /// Short frames are copied all the same, since a section takes many of them.
    ///
    /// Checksums have to be right already, and an 802.1Q tag is beside the frame.
    ///
    /// # Errors
    /// [`SendError`]: the frame was not taken. [`SendError::NotPlain`] if it asks for work on it.
    #[inline]
    pub fn send_pinned(&mut self, head: &[u8], pinned: &Pinned, meta: &TxMeta) -> Result<(), SendError> {
        self.transmit.send_pinned(head, pinned, meta, transmit_with!(self))
    }

    /// As [`send`](Self::send), of a frame that is `head`, from its Ethernet header on, and a rest that is [held], in whatever
    /// queue it was received: that is copied once, from where the host put it to where the host reads it. The head may be another
    /// one than was received, and of another length.
    ///
    /// If the frame asks for work on it (checksums, segmentation, a tag to be taken out) its rest is copied twice.
    ///
    /// # Errors
    /// [`SendError`]: the frame was not taken, and nothing was let go of. [`SendError::Gone`]: nor will it ever be.
    #[inline]
    pub fn send_held(&mut self, head: &[u8], rest: Rest<'_>, meta: &TxMeta) -> Result<(), SendError> {
        if rest.is_empty() {
            return self.send(head, meta);
        }
        self.transmit.send_held(head, rest, meta, transmit_with!(self))
    }

    /// Whether a frame of `frame_len` bytes, with whatever metadata, would be taken now.
    pub fn can_send(&mut self, frame_len: usize) -> bool {
        // A corrupt ring has no room; the next call that touches it says why.
        self.transmit.can_send(frame_len, transmit_with!(self)).unwrap_or(false)
    }

    /// Hands all frames that were taken to the host: at most one doorbell.
    ///
    /// # Errors
    /// [`QueueError`].
    #[inline]
    pub fn flush(&mut self) -> Result<(), QueueError> {
        self.transmit.close(&mut transmit_with!(self))?;
        self.flush_acks()
    }

    /// Asks for an interrupt once a frame of `frame_len` bytes can be sent: `true` means that it can be now. Flushes.
    ///
    /// What it waits for is room in the ring, or a completion; both come with the channel's interrupt, if the queue is
    /// [armed](Self::arm). Ask again after each.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn want_send_room(&mut self, frame_len: usize) -> Result<bool, QueueError> {
        self.flush()?;
        if self.can_send(frame_len) {
            return Ok(true);
        }
        if self.transmit.is_paused() {
            return Ok(false);
        }
        let needed = self.transmit.needed_ring_bytes(frame_len);
        if !self.outbound.has_send_room(needed as usize)? && self.outbound.wait_for_send_room(needed)? {
            // There is room in the ring by now; is that all it took?
            if self.can_send(frame_len) {
                return Ok(true);
            }
        }
        self.transmit.stop(&mut self.stats);
        Ok(false)
    }

    /// Whether there is something to receive or to pump now.
    ///
    /// # Errors
    /// [`QueueError`].
    #[inline]
    pub fn has_work(&mut self) -> Result<bool, QueueError> {
        Ok(self.backlog() > 0 || (!self.detached && self.incoming.has_data()?))
    }

    /// Asks for an interrupt and looks at the ring once more: `true` means that there is something in it now, and that no
    /// interrupt is coming. Writes acknowledgments that wait; should they still find no room, the interrupt comes for
    /// that as well.
    ///
    /// The [backlog](Self::backlog) is not looked at: who has no room for frames can wait for completions all the same.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn arm(&mut self) -> Result<bool, QueueError> {
        self.check_failed()?;
        if self.detached {
            return Ok(false);
        }
        self.flush_acks()?;
        while self.outbound.owed() > 0 && self.outbound.wait_for_ack_room()? {
            self.flush_acks()?;
        }
        while self.transmit.cutting.is_unfinished() && self.wait_to_go_on()? {
            self.flush_acks()?;
        }
        if !self.can_unmask {
            return Ok(self.incoming.has_data()?);
        }
        let work = self.incoming.unmask()?;
        self.stats.extra.arms += u64::from(!work);
        Ok(work)
    }

    /// Asks for an interrupt once a frame that is being cut can go on, if that is for want of room in the ring; whether it
    /// can now.
    #[cold]
    fn wait_to_go_on(&mut self) -> Result<bool, QueueError> {
        let needed = self.transmit.needed_ring_bytes(self.transmit.longest_segment());
        Ok(!self.outbound.has_send_room(needed as usize)? && self.outbound.wait_for_send_room(needed)?)
    }

    /// Asks for no interrupts: while polling, and after one came.
    #[inline]
    pub fn mask(&mut self) {
        if !self.detached {
            self.incoming.mask();
        }
    }

    /// Sends (frames and control messages) that the host has not completed, those that were not flushed included.
    pub fn outstanding(&self) -> usize {
        self.in_flight.len() + usize::from(self.transmit.cutting.is_unfinished())
    }

    /// Sends of frames that the host has not completed, those that were not flushed included.
    pub fn outstanding_frames(&self) -> usize {
        self.in_flight.with_frames() + usize::from(self.transmit.cutting.is_unfinished())
    }

    /// Acknowledgments of receive packets that wait for room in the ring.
    pub fn owed_acks(&self) -> usize {
        self.outbound.owed()
    }

    /// Send sections of this queue that are free.
    pub fn free_send_sections(&self) -> usize {
        self.transmit.sections.as_ref().map_or(0, Sections::free)
    }

    /// Whether more than half of this queue's send sections are with the host: time to [`pump`](Self::pump), for who does not
    /// receive. Once there are none left, frames go into pages one by one, or have to wait.
    #[inline]
    pub fn is_short_of_sections(&self) -> bool {
        self.transmit.sections.as_ref().is_some_and(|sections| sections.free() < sections.count() / 2)
    }

    /// Pages of direct memory that are free.
    pub fn free_direct_pages(&self) -> usize {
        self.transmit.pages.as_ref().map_or(0, Pages::free)
    }

    /// How long sends have been outstanding without any being completed; `None` if nothing is outstanding. A host that broke
    /// down over a packet may just stop reading, on this channel alone.
    ///
    /// Counted from the first call that saw it so: call it regularly, after [`pump`](Self::pump).
    pub fn stalled_for(&mut self, now: Instant) -> Option<Duration> {
        if self.outstanding() == 0 {
            self.stalled = None;
            return None;
        }
        match self.stalled {
            Some((completed, since)) if completed == self.completed => Some(now.saturating_since(since)),
            _ => {
                self.stalled = Some((self.completed, now));
                Some(Duration::ZERO)
            }
        }
    }
}
