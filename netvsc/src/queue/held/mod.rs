//! Frames that stay in the receive buffer after they were received: *held* frames.
//!
//! [`Queue::receive_held`](super::Queue::receive_held) copies short frames, as [`receive`](super::Queue::receive) copies all, and of
//! longer ones the *head*: as many bytes as [`rx_copybreak`](super::QueueSettings::rx_copybreak) says, which hold every header that
//! is looked at. The *rest* stays in the section in which the host put it. Whoever decides by headers and drops the frame
//! copies no payload; whoever passes it on copies the rest once, straight into the memory that it is sent from
//! ([`Queue::send_held`](super::Queue::send_held)), of whatever queue of whatever adapter.
//!
//! ```text
//!  receive section   ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒   the host's, and the guest's until it is given back
//!                    │ head │             rest              │
//!                       ▼ copied once, checked, changed     ╲
//!  private           ████████                                ╲ copied once, never looked at
//!                       ╲                                     ╲
//!  send section      ███████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
//! ```
//!
//! The host is not trusted here either. All that is looked at is in the head, which is private; the rest is bytes that nobody
//! draws a conclusion from. A host that changes them after delivery, or has ranges overlap, changes what is sent, which
//! it could have sent in the first place.
//!
//! # What it costs the host
//! A transfer packet is acknowledged as a whole, so one frame that is held pins all ranges of its packet. At most
//! [a part](super::Queue::set_most_held) of the receive sections is pinned, the *watermark*: where a packet would go beyond, its frames
//! are copied whole, and counted (`rx_copied_watermark`). A slow consumer does not starve the host.
//!
//! # Letting go
//! [`HeldBurst::clear`], or dropping it or a [`Held`], gives frames back, from any thread and in any order, without a lock. The
//! queue acknowledges what was given back when it is pumped, received from, flushed or [armed](super::Queue::arm) next, and is not
//! told: whoever sleeps while frames are held elsewhere ([`held_receives`](super::Queue::held_receives)) wakes from time to time
//! and looks, as `netvsc-async` does every 10 ms. Between sessions there is no way: once
//! the buffers were [detached](super::Queue::detach_buffers), or the queue was dropped, what is still held cannot be
//! [read](Rest::read) any more, and letting go of it tells nobody.
//!
//! | file | has |
//! |---|---|
//! | `ledger` | who still holds what, shared with those who do; [`Held`], [`Rest`] |
//! | `table` | the packets that are held, and the watermark |

mod ledger;
mod table;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter::FusedIterator;

pub use ledger::{Held, Rest, RestError};

pub(super) use ledger::{Ledger, Place};
pub(super) use table::Table;

use super::burst::{Burst, FrameSink, Frames, FramesMut};
use crate::meta::RxMeta;

/// A [`Burst`] whose longer frames are held: their heads are in it, the rest is where the host put it.
///
/// Until it is [cleared](Self::clear) or dropped the host misses the sections that its frames are in.
#[derive(Debug)]
pub struct HeldBurst {
    heads: Burst,
    /// Where the rest of each is.
    places: Vec<Place>,
    /// Whose the places are.
    ledger: Option<Arc<Ledger>>,
}

/// A received frame, of which a part may not have been copied.
#[derive(Debug, Clone, Copy)]
pub struct HeldFrame<'a> {
    /// From the Ethernet header on, in private memory.
    pub head: &'a [u8],
    /// What follows it; empty if the frame was copied whole.
    pub rest: Rest<'a>,
    /// What the host said about it.
    pub meta: RxMeta,
}

/// A received frame whose head may be changed in place.
#[derive(Debug)]
pub struct HeldFrameMut<'a> {
    /// From the Ethernet header on, in private memory.
    pub head: &'a mut [u8],
    /// What follows it; empty if the frame was copied whole.
    pub rest: Rest<'a>,
    /// What the host said about it.
    pub meta: RxMeta,
}

impl HeldFrame<'_> {
    /// Bytes of the frame.
    #[expect(clippy::len_without_is_empty, reason = "a frame has an Ethernet header")]
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Copies the frame to the start of `into`, as much of it as there is room for; how many bytes.
    ///
    /// # Errors
    /// [`RestError::Gone`]: the session ended meanwhile.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, RestError> {
        let head = self.head.len().min(into.len());
        let (into_head, into_rest) = into.split_at_mut(head);
        into_head.copy_from_slice(&self.head[..head]);
        let rest = self.rest.len().min(into_rest.len());
        self.rest.read(0, &mut into_rest[..rest])?;
        Ok(head + rest)
    }
}

impl HeldBurst {
    /// A burst of at most `frames` frames whose heads, and whole frames, take at most `bytes` bytes together, each rounded up to a
    /// multiple of 64. Frames may be copied whole at any time: there has to be room for the longest.
    ///
    /// The memory is allocated here, all of it; nothing is allocated afterwards.
    pub fn new(frames: usize, bytes: usize) -> Self {
        Self { heads: Burst::new(frames, bytes), places: Vec::with_capacity(frames), ledger: None }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Most frames that it takes.
    pub fn frame_capacity(&self) -> usize {
        self.heads.frame_capacity()
    }

    /// Bytes of its memory.
    pub fn byte_capacity(&self) -> usize {
        self.heads.byte_capacity()
    }

    /// The frame at `index`.
    pub fn get(&self, index: usize) -> Option<HeldFrame<'_>> {
        let head = self.heads.get(index)?;
        let rest = self.places.get(index)?.rest(self.ledger.as_deref());
        Some(HeldFrame { head: head.bytes, rest, meta: head.meta })
    }

    /// The frames, in the order in which they came.
    pub fn frames(&self) -> HeldFrames<'_> {
        HeldFrames { heads: self.heads.frames(), places: self.places.iter(), ledger: self.ledger.as_deref() }
    }

    /// The frames, whose heads may be changed in place.
    pub fn frames_mut(&mut self) -> HeldFramesMut<'_> {
        HeldFramesMut { heads: self.heads.frames_mut(), places: self.places.iter(), ledger: self.ledger.as_deref() }
    }

    /// Takes over the rest of the frame at `index`, which outlives the burst then; `None` if it has none, or it was taken.
    /// What the burst still has of the frame is its head.
    pub fn take_rest(&mut self, index: usize) -> Option<Held> {
        let place = self.places.get_mut(index).filter(|place| place.is_held())?;
        let ledger = self.ledger.as_ref()?;
        Some(Held::new(Arc::clone(ledger), core::mem::replace(place, Place::NOWHERE)))
    }

    /// Lets go of all frames.
    pub fn clear(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            // Neighbours mostly came in one packet.
            for places in self.places.chunk_by(Place::is_of_same_packet) {
                if let Some(first) = places.first().filter(|place| place.is_held()) {
                    // A packet has fewer frames than that.
                    ledger.let_go(first.packet, places.len() as u32);
                }
            }
        }
        self.places.clear();
        self.heads.clear();
    }

    /// Whether it can take frames that `ledger` holds: those of another session have to be let go before.
    #[inline]
    pub(super) fn holds_for(&mut self, ledger: &Arc<Ledger>) -> bool {
        match &self.ledger {
            Some(known) => Arc::ptr_eq(known, ledger),
            None => {
                self.ledger = Some(Arc::clone(ledger));
                true
            }
        }
    }

    /// The head of a frame is in the buffer that was given last; the rest is at `place`. Whether there was room, which there is
    /// if [`buffer`](FrameSink::buffer) gave one.
    #[inline]
    pub(super) fn commit_held(&mut self, head: usize, place: Place, meta: RxMeta) -> bool {
        let before = self.heads.len();
        self.heads.commit(head, meta);
        let taken = self.heads.len() > before;
        if taken {
            self.places.push(place);
        }
        taken
    }
}

impl Drop for HeldBurst {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Frames that were copied whole.
impl FrameSink for HeldBurst {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.heads.buffer(len)
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: RxMeta) {
        self.commit_held(len, Place::NOWHERE, meta);
    }

    #[inline]
    fn max_frame(&self) -> usize {
        self.heads.max_frame()
    }
}

impl<'a> IntoIterator for &'a HeldBurst {
    type Item = HeldFrame<'a>;
    type IntoIter = HeldFrames<'a>;

    fn into_iter(self) -> HeldFrames<'a> {
        self.frames()
    }
}

/// Frames of a [`HeldBurst`].
#[derive(Debug, Clone)]
pub struct HeldFrames<'a> {
    heads: Frames<'a>,
    places: core::slice::Iter<'a, Place>,
    ledger: Option<&'a Ledger>,
}

impl<'a> Iterator for HeldFrames<'a> {
    type Item = HeldFrame<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeldFrame<'a>> {
        let head = self.heads.next()?;
        let rest = self.places.next()?.rest(self.ledger);
        Some(HeldFrame { head: head.bytes, rest, meta: head.meta })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}

impl ExactSizeIterator for HeldFrames<'_> {}
impl FusedIterator for HeldFrames<'_> {}

/// Frames of a [`HeldBurst`], whose heads may be changed in place.
#[derive(Debug)]
pub struct HeldFramesMut<'a> {
    heads: FramesMut<'a>,
    places: core::slice::Iter<'a, Place>,
    ledger: Option<&'a Ledger>,
}

impl<'a> Iterator for HeldFramesMut<'a> {
    type Item = HeldFrameMut<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeldFrameMut<'a>> {
        let head = self.heads.next()?;
        let rest = self.places.next()?.rest(self.ledger);
        Some(HeldFrameMut { head: head.bytes, rest, meta: head.meta })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}

impl ExactSizeIterator for HeldFramesMut<'_> {}
impl FusedIterator for HeldFramesMut<'_> {}
