//! Two paths made one: [`Mux`] sends and receives by the rings and the virtual function as the machine says.
//!
//! ```text
//!           Send(VF)              rings empty                        not ready, too long, cannot be made ready
//!  Rings ─────────────► ToVf ─────────────────► Vf ──────────────────────────────────────────────┐
//!    ▲                           ▲              │                                                ▼
//!    │         VF empty          └────────────────────────────────── it has room ───────────── Detour
//!    └──────────────────────── ToRings ◄────────┘ Send(rings)
//! ```
//!
//! *Sending.* While it waits for the old path, [`Mux::send`] takes nothing ([`SendError::Full`]). The same holds for a frame
//! that has to take the other path than the ones before it: it waits for them, and those behind it wait for it. Only if the
//! VF does not send at all, what it holds is not waited for.
//!
//! *Receiving.* What is to be received is a list: so many ranges of the rings, what was taken out of a VF before it was
//! closed, and in the end both paths by turns, or the rings alone. By turns means: note how much the rings hold, take all that
//! the VF holds, then that much of the rings. So what the host sent by the VF before it switched back comes before what it
//! sends by the rings afterwards. Other queues than the primary one do not hear the host's words in their own ring: if it
//! completes a switch to the VF and moves the traffic back before the first of that was read, nothing tells which of their
//! ranges came before the one and which after the other.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use vmbus::bus::Channel;

use crate::meta::{Path, RxMeta, TxMeta};
use crate::queue::{FrameSink, Queue, QueueError, SendError};
use crate::stats::VfStats;

use super::device::{Unreceived, VfQueue, VfSendError};
use super::prepare::Prepared;
use super::rules::RxRules;
use super::spread::Nobody;

/// The rings, as far as the mux needs them: [`Queue`].
pub trait SyntheticPath {
    /// The host broke the rings.
    type Error;

    /// Takes what is in the ring.
    ///
    /// # Errors
    /// The rings are unusable.
    fn pump(&mut self) -> Result<(), Self::Error>;

    /// Ranges that wait.
    fn backlog(&self) -> usize;

    /// Ranges that were received so far; see [`Queue::receive_position`].
    fn position(&self) -> u64;

    /// Where the first word of the host stands that nobody has read; see [`Queue::unread_position`].
    fn unread_position(&self) -> Option<u64>;

    /// Receives; see [`Queue::receive`].
    ///
    /// # Errors
    /// The rings are unusable.
    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> Result<usize, Self::Error>;

    /// Sends; see [`Queue::send`].
    ///
    /// # Errors
    /// The frame was not taken.
    fn send(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), SendError>;

    /// Hands what was taken to the host.
    ///
    /// # Errors
    /// The rings are unusable.
    fn flush(&mut self) -> Result<(), Self::Error>;

    /// Sends of frames that the host has not completed; see [`Queue::outstanding_frames`].
    fn outstanding(&self) -> usize;
}

impl<C: Channel> SyntheticPath for Queue<C> {
    type Error = QueueError;

    fn pump(&mut self) -> Result<(), QueueError> {
        Queue::pump(self).map(drop)
    }

    fn backlog(&self) -> usize {
        Queue::backlog(self)
    }

    fn position(&self) -> u64 {
        self.receive_position()
    }

    fn unread_position(&self) -> Option<u64> {
        Queue::unread_position(self)
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> Result<usize, QueueError> {
        Queue::receive(self, sink, max)
    }

    fn send(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), SendError> {
        Queue::send(self, frame, meta)
    }

    fn flush(&mut self) -> Result<(), QueueError> {
        Queue::flush(self)
    }

    fn outstanding(&self) -> usize {
        self.outstanding_frames()
    }
}

/// Where a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Rings,
    ToVf,
    Vf,
    /// By the rings, although it should be the VF.
    Detour,
    ToRings,
}

/// Where the next frame goes, for who waits until it is taken: [`Mux::way`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// Into the rings.
    Rings,
    /// Into the VF.
    Vf,
    /// Nowhere, before the host has completed what is in the rings.
    AfterRings,
    /// Nowhere, before the VF has sent what it holds.
    AfterVf,
}

/// What is to be received before anything else.
#[derive(Debug)]
enum First {
    /// The rings, up to this range.
    Rings(u64),
    /// Frames out of a VF that is closed.
    Kept(VecDeque<(Vec<u8>, RxMeta)>),
}

/// A turn of both paths.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Where the rings stood when it began.
    rings: u64,
    /// Frames that may still be taken out of the VF: more than it held when the turn began have been.
    vf: usize,
}

/// One queue of the adapter: its rings, and the queue of the VF that belongs to it.
#[derive(Debug)]
pub struct Mux<V> {
    vf: Option<V>,
    sending: Sending,
    first: VecDeque<First>,
    /// Both paths are received from, once `first` is empty.
    both: bool,
    turn: Option<Turn>,
    prepared: Prepared,
    /// Room in the VF without which the frame that it refused last is refused again.
    wanted: usize,
    /// Frames that the VF gave up, of which [`detach`](Self::detach) has not told yet. They are counted.
    given_up: u64,
    /// Received frames that are lost, of which nobody was told. They are counted.
    received_lost: u64,
    rules: RxRules,
    stats: VfStats,
}

impl<V> Default for Mux<V> {
    fn default() -> Self {
        Self {
            vf: None,
            sending: Sending::Rings,
            first: VecDeque::new(),
            both: false,
            turn: None,
            prepared: Prepared::default(),
            wanted: 0,
            given_up: 0,
            received_lost: 0,
            rules: RxRules::default(),
            stats: VfStats::default(),
        }
    }
}

impl<V: VfQueue> Mux<V> {
    /// A queue without a VF.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to merge: the rings may be used without this.
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.vf.is_none() && self.first.is_empty() && self.sending == Sending::Rings
    }

    /// What is done to frames that come by the VF, from the next one on. Default: tags go beside them, nothing is hashed.
    pub fn set_rules(&mut self, rules: RxRules) {
        self.rules = rules;
    }

    /// As [`set_rules`](Self::set_rules) gave them.
    #[must_use]
    pub fn rules(&self) -> &RxRules {
        &self.rules
    }

    /// The VF was opened; it is not used before the machine says so.
    pub fn attach(&mut self, vf: V) {
        self.vf = Some(vf);
    }

    /// The VF's queue, for what this does not do. What is sent or received there is not in the order of the rest.
    pub fn vf_mut(&mut self) -> Option<&mut V> {
        self.vf.as_mut()
    }

    /// Lets go of the VF, because it is to be closed or has vanished, and says how many frames it had taken and not sent, those
    /// included that it gave up before. What it had received is kept, and received in its turn; if it was not received from, that
    /// is lost ([`take_received_lost`](Self::take_received_lost)), as its place among what came by the rings is not known.
    pub fn detach(&mut self) -> u64 {
        self.receive_from_rings();
        self.discard();
        self.update_stats();
        let Some(mut vf) = self.vf.take() else { return 0 };
        let inside = vf.outstanding() as u64 + vf.take_lost();
        self.stats.vf_tx_dropped += inside;
        let lost = inside + core::mem::take(&mut self.given_up);
        if self.sending != Sending::Rings {
            // Without it there is nothing to wait for.
            self.sending = Sending::ToRings;
        }
        lost
    }

    /// Received frames, or such as were to be, that are known to be lost, since this was last asked: to be told to the machine
    /// after [`detach`](Self::detach) ([`Input::ReceivedLost`](super::Input)).
    pub fn take_received_lost(&mut self) -> u64 {
        core::mem::take(&mut self.received_lost)
    }

    /// The machine's word: where frames are sent from now on.
    pub fn send_by(&mut self, path: Path) {
        self.flush();
        self.sending = match (path, self.sending) {
            (Path::VirtualFunction, _) if self.vf.as_ref().is_some_and(VfQueue::can_send) => Sending::ToVf,
            (_, Sending::Rings | Sending::Detour) => Sending::Rings,
            // Also if nothing has been sent there yet: something may be left from before.
            (_, Sending::ToVf | Sending::Vf | Sending::ToRings) => Sending::ToRings,
        };
    }

    /// The machine's word: what is outstanding on the old path is not waited for any longer.
    pub fn stop_waiting(&mut self) {
        self.sending = match self.sending {
            Sending::ToVf => Sending::Vf,
            Sending::ToRings => Sending::Rings,
            settled => settled,
        };
    }

    /// Whether the old path is empty, so that the new one is used; looks after it. To be asked after each completion while
    /// it is not, as nothing is taken meanwhile.
    ///
    /// # Errors
    /// The rings are unusable.
    pub fn is_settled<P: SyntheticPath>(&mut self, rings: &mut P) -> Result<bool, P::Error> {
        match self.sending {
            Sending::ToVf => {
                // What waits for a doorbell would be waited for for ever.
                rings.flush()?;
                if rings.outstanding() == 0 {
                    self.sending = Sending::Vf;
                }
            }
            // Only where it is of interest: the device is handed what it has taken, which for each frame is dear.
            Sending::ToRings => {
                if self.outstanding() == 0 {
                    self.sending = Sending::Rings;
                }
            }
            Sending::Rings | Sending::Vf | Sending::Detour => {}
        }
        Ok(!matches!(self.sending, Sending::ToVf | Sending::ToRings))
    }

    /// Where the next frame goes; brings itself up to date, as [`is_settled`](Self::is_settled) does.
    ///
    /// # Errors
    /// The rings are unusable.
    pub fn way<P: SyntheticPath>(&mut self, rings: &mut P) -> Result<Way, P::Error> {
        if self.sending == Sending::Detour && self.vf.as_mut().is_some_and(|vf| vf.room() > 0) {
            self.sending = Sending::ToVf;
        }
        self.is_settled(rings)?;
        Ok(match self.sending {
            Sending::Rings | Sending::Detour => Way::Rings,
            Sending::Vf => Way::Vf,
            Sending::ToVf => Way::AfterRings,
            Sending::ToRings => Way::AfterVf,
        })
    }

    /// Whether the VF takes a frame of `len` bytes now, or says for good that it cannot: for [`Way::Vf`]. If it refused one, not
    /// before that would be taken, whatever the guess: whoever asks would go round without end.
    pub fn vf_has_room(&mut self, len: usize) -> bool {
        let needed = self.wanted.max(1 + len / LEAST_SEGMENT);
        self.vf.as_mut().is_none_or(|vf| vf.room() >= needed || vf.outstanding() == 0)
    }

    /// Whether frames are received from the VF, so that it is worth waiting for.
    #[must_use]
    pub fn is_receiving_from_vf(&self) -> bool {
        self.both && self.vf.is_some()
    }

    /// Receives what was taken out of VFs that were closed, and nothing else: for a queue that has ended.
    pub fn receive_kept<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let Self { first, stats, .. } = self;
        first.retain(|first| matches!(first, First::Kept(_)));
        let mut got = 0;
        while got < max
            && let Some(First::Kept(kept)) = first.front_mut()
        {
            got += give(kept, sink, max - got, stats);
            if !kept.is_empty() {
                break;
            }
            first.pop_front();
        }
        got
    }

    /// The machine's word: the VF is received from as well, once the rings have been received up to `position`
    /// ([`Queue::control_position`] for the queue on which the host said so, all that it holds for the others).
    pub fn receive_from_both(&mut self, position: u64) {
        if !self.both && self.vf.is_some() {
            self.first.push_back(First::Rings(position));
            self.both = true;
            self.turn = None;
        }
    }

    /// The machine's word: the VF is received from no more. What it holds is taken out now.
    pub fn receive_from_rings(&mut self) {
        if !core::mem::take(&mut self.both) {
            return;
        }
        self.turn = None;
        let Some(vf) = &mut self.vf else { return };
        vf.collect();
        let mut kept = Kept::default();
        let most = vf.receive_capacity();
        vf.receive(&mut Completed { sink: &mut kept, rules: rules_for(vf, &self.rules) }, most);
        if !kept.frames.is_empty() {
            self.first.push_back(First::Kept(kept.frames));
        }
    }

    /// Throws away what the VF holds for this queue, and counts it.
    fn discard(&mut self) {
        let Some(vf) = &mut self.vf else { return };
        vf.collect();
        let most = vf.receive_capacity();
        let discarded = vf.receive(&mut Nobody::default(), most) as u64;
        self.stats.vf_rx_dropped += discarded;
        self.received_lost += discarded;
    }

    /// Receives at most `max` frames from whatever path they came by.
    ///
    /// # Errors
    /// The rings are unusable; what was received before is in the sink.
    pub fn receive<P: SyntheticPath, S: FrameSink>(
        &mut self,
        rings: &mut P,
        sink: &mut S,
        max: usize,
    ) -> Result<usize, P::Error> {
        let mut got = 0;
        while got < max {
            let (frames, more) = match self.first.front_mut() {
                Some(First::Rings(end)) => {
                    let (frames, more) = receive_up_to(rings, sink, *end, max - got)?;
                    if more == More::No {
                        self.first.pop_front();
                    }
                    (frames, more != More::NoRoom)
                }
                Some(First::Kept(kept)) => {
                    let frames = give(kept, sink, max - got, &mut self.stats);
                    let more = kept.is_empty();
                    if more {
                        self.first.pop_front();
                    }
                    (frames, more)
                }
                None if self.both => self.take_turn(rings, sink, max - got)?,
                None if self.vf.is_some() => {
                    // Nothing behind a word of the host that nobody has read: it may be that the traffic was moved, and back.
                    rings.pump()?;
                    let end = rings.unread_position().unwrap_or_else(|| rings.position() + rings.backlog() as u64);
                    return Ok(got + receive_up_to(rings, sink, end, max - got)?.0);
                }
                None => return Ok(got + rings.receive(sink, max - got)?),
            };
            got += frames;
            if !more {
                break;
            }
        }
        Ok(got)
    }

    /// Goes on with a turn; how many frames came, and whether there may be more.
    fn take_turn<P: SyntheticPath, S: FrameSink>(
        &mut self,
        rings: &mut P,
        sink: &mut S,
        max: usize,
    ) -> Result<(usize, bool), P::Error> {
        let Some(vf) = &mut self.vf else {
            self.both = false;
            return Ok((0, true));
        };
        let turn = match &mut self.turn {
            Some(turn) => turn,
            none => {
                rings.pump()?;
                let backlog = rings.backlog();
                if backlog > 0 {
                    // It may have come after the way back, and what came by other queues of the device before it.
                    vf.collect();
                }
                none.insert(Turn { rings: rings.position() + backlog as u64, vf: vf.receive_capacity() })
            }
        };
        let mut counted = Counted::new(sink, &mut self.stats);
        let rules = rules_for(vf, &self.rules);
        let frames = vf.receive(&mut Completed { sink: &mut counted, rules }, max.min(turn.vf));
        turn.vf -= frames.min(turn.vf);
        if frames == max {
            return Ok((frames, true));
        }
        if counted.is_full {
            return Ok((frames, false));
        }
        // What the VF held when the turn began has been taken. It may have received more since, or hold what is for others: were
        // that waited for, the rings would be kept waiting for as long as it comes.
        let end = turn.rings;
        let (more_frames, more) = receive_up_to(rings, counted.sink, end, max - frames)?;
        if more != More::No {
            return Ok((frames + more_frames, more == More::Yes));
        }
        self.turn = None;
        self.account();
        // Another turn only if this one found something.
        Ok((frames + more_frames, frames + more_frames > 0))
    }

    /// Takes a frame to be sent by whatever path is due.
    ///
    /// # Errors
    /// [`SendError`]: the frame was not taken.
    pub fn send<P: SyntheticPath>(&mut self, rings: &mut P, frame: &[u8], meta: &TxMeta) -> Result<(), SendError>
    where
        SendError: From<P::Error>,
    {
        if self.sending == Sending::Rings {
            return rings.send(frame, meta);
        }
        if self.sending == Sending::Detour && self.vf.as_mut().is_some_and(|vf| vf.room() > 0) {
            self.sending = Sending::ToVf;
        }
        if !self.is_settled(rings)? {
            return Err(SendError::Full);
        }
        match self.sending {
            Sending::Vf => self.send_by_vf(rings, frame, meta),
            _ => rings.send(frame, meta),
        }
    }

    /// Hands what the VF took to it; the rings have a flush of their own.
    pub fn flush(&mut self) {
        if let Some(vf) = &mut self.vf {
            vf.flush();
            let lost = vf.take_lost();
            self.stats.vf_tx_dropped += lost;
            self.given_up += lost;
        }
    }

    /// Counts what the VF says of frames that were received, or were to be.
    fn account(&mut self) {
        if let Some(vf) = &mut self.vf {
            let lost = vf.take_received_lost();
            self.stats.vf_rx_dropped += lost;
            self.received_lost += lost;
            self.stats.vf_rx_steered += vf.take_steered();
        }
    }

    /// Asks the VF what it had no room or no use for, so that [`stats`](Self::stats) has that, too. May take a system call.
    pub fn update_stats(&mut self) {
        self.account();
        if let Some(vf) = &mut self.vf {
            let Unreceived { missed, dropped } = vf.take_unreceived();
            self.stats.vf_rx_missed += missed;
            self.stats.vf_rx_dropped += dropped;
        }
    }

    /// Frames that the VF has taken and not sent.
    pub fn outstanding(&mut self) -> usize {
        self.vf.as_mut().map_or(0, VfQueue::outstanding)
    }

    /// What went through the VF. A frame that was cut counts as what became of it. What the VF had no room for is what it was when
    /// it was last [asked](Self::update_stats).
    #[must_use]
    pub const fn stats(&self) -> &VfStats {
        &self.stats
    }

    fn send_by_vf<P: SyntheticPath>(&mut self, rings: &mut P, frame: &[u8], meta: &TxMeta) -> Result<(), SendError> {
        let Some(vf) = &mut self.vf else { return rings.send(frame, meta) };
        let plain = meta.checksum.is_none() && meta.vlan.is_none() && meta.segmentation.is_none();
        let result = if plain {
            vf.send(frame).map(|()| {
                self.stats.vf_tx_packets += 1;
                self.stats.vf_tx_bytes += frame.len() as u64;
            })
        } else if self.prepared.fill(frame, meta) {
            send_all(vf, &self.prepared, &mut self.stats).map(|lost| self.given_up += lost)
        } else {
            // The host may be able to do it.
            Err(VfSendError::TooLong { len: frame.len(), limit: 0 })
        };
        self.wanted = match result {
            Err(VfSendError::Full) if !plain => self.prepared.len(),
            // Until the VF is empty, see below.
            Err(VfSendError::TooLong { .. }) if vf.outstanding() > 0 => usize::MAX,
            _ => 0,
        };
        match result {
            Ok(()) => Ok(()),
            Err(VfSendError::Full) => Err(SendError::Full),
            Err(VfSendError::NotReady) => {
                self.sending = Sending::Detour;
                rings.send(frame, meta)
            }
            Err(VfSendError::TooLong { .. }) => {
                if vf.outstanding() > 0 {
                    vf.flush();
                    return Err(SendError::Full);
                }
                self.sending = Sending::Detour;
                rings.send(frame, meta)
            }
        }
    }
}

/// All frames or none; how many are lost, should the VF break its word that it has room.
fn send_all<V: VfQueue>(vf: &mut V, prepared: &Prepared, stats: &mut VfStats) -> Result<u64, VfSendError> {
    if vf.room() < prepared.len() {
        // One that never has so much room cannot send it at all.
        return Err(if vf.outstanding() == 0 {
            VfSendError::TooLong { len: prepared.len(), limit: vf.room() }
        } else {
            VfSendError::Full
        });
    }
    let mut lost = 0;
    for (index, frame) in prepared.frames().enumerate() {
        match vf.send(frame) {
            Ok(()) => {
                stats.vf_tx_packets += 1;
                stats.vf_tx_bytes += frame.len() as u64;
            }
            Err(error) if index == 0 => return Err(error),
            // The rest is lost, as on a wire: those before it have left.
            Err(_) => lost += 1,
        }
    }
    stats.vf_tx_dropped += lost;
    Ok(lost)
}

/// Whether there is more to be received up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
    /// The sink is full.
    NoRoom,
}

/// Receives from the rings, but nothing behind `end`.
fn receive_up_to<P: SyntheticPath, S: FrameSink>(
    rings: &mut P,
    sink: &mut S,
    end: u64,
    max: usize,
) -> Result<(usize, More), P::Error> {
    let mut frames = 0;
    while frames < max {
        let left = end.saturating_sub(rings.position());
        if left == 0 || rings.backlog() == 0 {
            return Ok((frames, More::No));
        }
        // A frame may take several ranges, so the last ones are taken one by one.
        let at_once = usize::try_from(left / MAX_RANGES_OF_A_FRAME).unwrap_or(usize::MAX).clamp(1, max - frames);
        let before = rings.position();
        let got = rings.receive(sink, at_once.min(rings.backlog()))?;
        frames += got;
        if got == 0 && rings.position() == before {
            return Ok((frames, More::NoRoom));
        }
    }
    Ok((frames, More::Yes))
}

/// More ranges than a coalesced frame has: 64 KiB in pieces of one Ethernet frame.
const MAX_RANGES_OF_A_FRAME: u64 = 64;

/// Payload that a frame is cut into at least, to guess how many frames become of one.
const LEAST_SEGMENT: usize = 1000;

/// Gives frames that were kept.
fn give<S: FrameSink>(kept: &mut VecDeque<(Vec<u8>, RxMeta)>, sink: &mut S, max: usize, stats: &mut VfStats) -> usize {
    let mut given = 0;
    let mut counted = Counted::new(sink, stats);
    while given < max
        && let Some((frame, meta)) = kept.front()
    {
        if let Some(room) = counted.buffer(frame.len()) {
            room.copy_from_slice(frame);
            counted.commit(frame.len(), *meta);
            given += 1;
        } else if frame.len() <= counted.max_frame() {
            break;
        } else {
            counted.stats.vf_rx_dropped += 1;
        }
        kept.pop_front();
    }
    given
}

/// The rules for what comes by this VF: `None` if it keeps to them by itself.
fn rules_for<'a, V: VfQueue>(vf: &V, rules: &'a RxRules) -> Option<&'a RxRules> {
    (!vf.completes()).then_some(rules)
}

/// A sink for frames of the VF: completes their metadata.
struct Completed<'a, S> {
    sink: S,
    rules: Option<&'a RxRules>,
}

impl<S: FrameSink> FrameSink for Completed<'_, S> {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.sink.buffer(len)
    }

    fn commit(&mut self, len: usize, mut meta: RxMeta) {
        let len = match self.rules {
            // The frame once more.
            Some(rules) => self.sink.buffer(len).map_or(len, |frame| rules.apply(frame, &mut meta)),
            None => len,
        };
        self.sink.commit(len, meta);
    }

    #[inline]
    fn max_frame(&self) -> usize {
        self.sink.max_frame()
    }
}

/// A sink for frames of the VF: says which path they came by, and counts them.
struct Counted<'a, S> {
    sink: &'a mut S,
    stats: &'a mut VfStats,
    /// It had no room for a frame that it could have had room for.
    is_full: bool,
}

impl<'a, S> Counted<'a, S> {
    fn new(sink: &'a mut S, stats: &'a mut VfStats) -> Self {
        Self { sink, stats, is_full: false }
    }
}

impl<S: FrameSink> FrameSink for Counted<'_, S> {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        let most = self.sink.max_frame();
        let room = self.sink.buffer(len);
        self.is_full |= room.is_none() && len <= most;
        room
    }

    fn commit(&mut self, len: usize, meta: RxMeta) {
        self.stats.vf_rx_packets += 1;
        self.stats.vf_rx_bytes += len as u64;
        self.sink.commit(len, RxMeta { path: Path::VirtualFunction, ..meta });
    }

    #[inline]
    fn max_frame(&self) -> usize {
        self.sink.max_frame()
    }
}

/// A sink that keeps frames.
#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<(Vec<u8>, RxMeta)>,
    next: Vec<u8>,
}

impl FrameSink for Kept {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.next.resize(len, 0);
        Some(&mut self.next)
    }

    fn commit(&mut self, len: usize, meta: RxMeta) {
        let mut frame = core::mem::take(&mut self.next);
        frame.truncate(len);
        self.frames.push_back((frame, meta));
    }
}
