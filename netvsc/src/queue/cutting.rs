//! Frames that are cut here, into segments or into [pieces](super::pieces) for the host: the sending side's part of it.
//!
//! A frame is taken whole or not at all. If there is room for its first segments only, what is left is kept in a buffer
//! of the queue's, and goes out as room appears, before anything else: whenever the queue is flushed, pumped or received from.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use vmbus::bus::Doorbell;
use vmbus::memory::SharedMemory;

use super::body::{Body, Parts};
use super::error::{QueueError, SendError};
use super::held::Rest;
use super::pieces::Pieces;
use super::shape::{self, Cut, Rules, Shape, Work};
use super::transmit::{Transmit, With};
use crate::frame::fields::ethernet;
use crate::meta::TxMeta;
use crate::segment::Segments;

/// Longest frame that is cut: the longest IP packet, an Ethernet header and tags, in round numbers.
const LONGEST: usize = 66 * 1024;

/// What cutting works with. Made once.
#[derive(Debug)]
pub(super) struct Cutting {
    /// Changed headers are written here.
    scratch: Box<[u8]>,
    /// The frame that is being cut, if it did not fit.
    buffer: Box<[u8]>,
    left: Option<Left>,
    /// A frame that was in two pieces; as long as the longest so far.
    gathered: Vec<u8>,
}

/// What is left of a frame.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Bytes of the frame in the buffer.
    len: usize,
    cut: Cut,
    /// The next segment.
    next: usize,
}

impl Cutting {
    pub(super) fn new() -> Self {
        Self {
            scratch: vec![0; shape::SCRATCH_BYTES].into_boxed_slice(),
            buffer: vec![0; LONGEST].into_boxed_slice(),
            left: None,
            gathered: Vec::new(),
        }
    }

    /// Whether something is left of a frame.
    #[inline]
    pub(super) fn is_unfinished(&self) -> bool {
        self.left.is_some()
    }

    /// Forgets what is left of a frame; whether there was any.
    pub(super) fn abandon(&mut self) -> bool {
        self.left.take().is_some()
    }
}

impl<M: SharedMemory> Transmit<M> {
    /// Takes a frame that cannot be sent as it is, or that is longer than usual.
    #[inline(never)]
    pub(super) fn send_shaped<D: Doorbell>(
        &mut self,
        frame: &[u8],
        meta: &TxMeta,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        if !self.go_on(&mut with)? {
            return Err(SendError::Full);
        }
        let mut scratch = core::mem::take(&mut self.cutting.scratch);
        let result = self.send_with(frame, meta, &mut scratch, &mut with);
        self.cutting.scratch = scratch;
        result
    }

    /// Takes a frame whose rest is held, and on which there is work to be done: all of it is copied first. What was left of a
    /// frame before it has gone out.
    #[inline(never)]
    pub(super) fn send_gathered<D: Doorbell>(
        &mut self,
        frame: Parts<'_, Rest<'_>>,
        meta: &TxMeta,
        mut with: With<'_, M, D>,
    ) -> Result<(), SendError> {
        let len = frame.len();
        if len > LONGEST {
            with.stats.global.tx_too_big += 1;
            return Err(SendError::TooLong { len, limit: LONGEST });
        }
        let mut gathered = core::mem::take(&mut self.cutting.gathered);
        if gathered.len() < len {
            gathered.resize(len, 0);
        }
        let (head, rest) = gathered[..len].split_at_mut(frame.head.len());
        head.copy_from_slice(frame.head);
        let result = match frame.rest.read(0, rest) {
            Ok(()) => {
                let mut scratch = core::mem::take(&mut self.cutting.scratch);
                let result = self.send_with(&gathered[..len], meta, &mut scratch, &mut with);
                self.cutting.scratch = scratch;
                result
            }
            Err(_) => Err(SendError::Gone),
        };
        self.cutting.gathered = gathered;
        result
    }

    fn send_with<D: Doorbell>(
        &mut self,
        frame: &[u8],
        meta: &TxMeta,
        scratch: &mut [u8],
        with: &mut With<'_, M, D>,
    ) -> Result<(), SendError> {
        match shape::shape(frame, meta, &self.rules(), scratch, with.stats)? {
            Shape::Whole { header, head, rest, work } => {
                let parts = Parts { head: &scratch[..head], rest: &frame[rest] };
                self.put_or_lend(parts, &header, with.again())?;
                match work {
                    Work::Nothing => {}
                    Work::HostSums => with.stats.extra.tx_checksum_host += 1,
                    Work::OwnSums => with.stats.extra.tx_checksum_software += 1,
                    Work::HostCuts => with.stats.extra.tx_lso += 1,
                }
                Ok(())
            }
            Shape::Cut(cut) => {
                if frame.len() > LONGEST {
                    with.stats.global.tx_too_big += 1;
                    return Err(SendError::TooLong { len: frame.len(), limit: LONGEST });
                }
                let (next, result) = self.put_segments(frame, &cut, 0, scratch, with);
                match result {
                    Err(SendError::Full) if next > 0 => {
                        self.cutting.buffer[..frame.len()].copy_from_slice(frame);
                        self.cutting.left = Some(Left { len: frame.len(), cut, next });
                        self.limits_changed();
                    }
                    result => result?,
                }
                with.stats.extra.tx_cut += 1;
                Ok(())
            }
        }
    }

    /// Goes on with a frame that was not cut to its end; whether it is now. What was written is closed, so that it only has to
    /// be published.
    pub(super) fn go_on<D: Doorbell>(&mut self, with: &mut With<'_, M, D>) -> Result<bool, QueueError> {
        let Some(Left { len, cut, next }) = self.cutting.left.take() else { return Ok(true) };
        // The frame was taken before the pause, which waits for it.
        let paused = core::mem::replace(&mut self.paused, false);
        let mut scratch = core::mem::take(&mut self.cutting.scratch);
        let buffer = core::mem::take(&mut self.cutting.buffer);
        let (next, result) = self.put_segments(&buffer[..len], &cut, next, &mut scratch, with);
        self.cutting.scratch = scratch;
        self.cutting.buffer = buffer;
        self.paused = paused;
        let finished = match result {
            Ok(()) => true,
            Err(SendError::Full) => {
                self.cutting.left = Some(Left { len, cut, next });
                false
            }
            Err(error) => {
                // The frame was accepted. Either the queue is unusable, or it has other buffers than before.
                with.stats.extra.tx_dropped += 1;
                self.limits_changed();
                if let SendError::Queue(error) = error {
                    return Err(error);
                }
                true
            }
        };
        self.limits_changed();
        self.close(with)?;
        Ok(finished)
    }

    /// Sends the segments of a frame from `next` on; the first that was not sent, and why.
    fn put_segments<D: Doorbell>(
        &mut self,
        frame: &[u8],
        cut: &Cut,
        mut next: usize,
        scratch: &mut [u8],
        with: &mut With<'_, M, D>,
    ) -> (usize, Result<(), SendError>) {
        let mut segments = match Segments::new(frame, cut.mss) {
            Ok(segments) => segments.with_fixed_id(cut.fixed_id).starting_at(next),
            Err(error) => return (next, Err(error.into())),
        };
        let pieces = Pieces::of(frame, cut, &segments, &self.rules());
        while segments.remaining() > 0 {
            if let Some(pieces) = &pieces {
                match self.put_piece(&segments, pieces, cut, scratch, with) {
                    Ok(0) => {}
                    Ok(count) => {
                        segments.skip(count);
                        next += count;
                        continue;
                    }
                    Err(error) => return (next, Err(error)),
                }
            }
            // The scratch memory holds the headers of any frame.
            let Ok(Some((len, rest))) = segments.next_parts(scratch) else { break };
            if let Err(error) = self.put_or_lend(without_tag(scratch, len, cut.skip, rest), &cut.header, with.again()) {
                return (next, Err(error));
            }
            with.stats.extra.tx_cut_segments += 1;
            next += 1;
        }
        (next, Ok(()))
    }

    /// Sends the next segments as a piece that the host cuts; how many, 0 if it cannot be more than one, or not now.
    fn put_piece<D: Doorbell>(
        &mut self,
        segments: &Segments<'_>,
        pieces: &Pieces,
        cut: &Cut,
        scratch: &mut [u8],
        with: &mut With<'_, M, D>,
    ) -> Result<usize, SendError> {
        let Some(count) = pieces.next(segments.remaining(), self.longest_frame_now()) else { return Ok(0) };
        let Ok((len, rest)) = segments.large_parts(count, scratch) else { return Ok(0) };
        // One segment may find room where all of these do not.
        if !self.has_room(len + rest.len(), with.again())? {
            return Ok(0);
        }
        match self.put_or_lend(without_tag(scratch, len, cut.skip, rest), &pieces.header, with.again()) {
            Ok(()) => {
                with.stats.extra.tx_lso += 1;
                Ok(count)
            }
            Err(SendError::Full) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Longest segment that there can be.
    pub(super) fn longest_segment(&self) -> usize {
        self.frame_limit.saturating_add(shape::MOST_TAG_BYTES).min(LONGEST)
    }

    fn rules(&self) -> Rules {
        Rules {
            offloads: self.offloads,
            tags_in_band: self.tags_in_band,
            frame_limit: self.frame_limit,
            message_limit: self.message_limit(),
        }
    }
}

/// A frame whose headers are the first `len` bytes of `scratch`, without the tag of `skip` bytes that goes beside it: the
/// addresses are moved over that.
fn without_tag<'a>(scratch: &'a mut [u8], len: usize, skip: usize, rest: &'a [u8]) -> Parts<'a> {
    if skip > 0 {
        scratch.copy_within(..ethernet::TYPE, skip);
    }
    Parts { head: &scratch[skip..len], rest }
}
