//! Merging within one [`Burst`].

use alloc::vec::{Drain, Vec};

use super::{Deliver, Gro, GroConfig, GroStats, Merged};
use crate::meta::RxMeta;
use crate::queue::{Burst, Frame, FrameSink};
use crate::time::Instant;

/// Merges the frames of bursts, each burst for itself: nothing is held beyond it.
#[derive(Debug)]
pub struct BurstMerger {
    gro: Gro<u32>,
    /// Made when something is merged for the first time.
    merged: Option<Burst>,
    /// Frames that were handed out before the first aggregate of a burst.
    before: Vec<u32>,
}

/// What [`BurstMerger::chains`] hands out.
#[derive(Debug)]
pub enum Received<'a, 'b> {
    /// A frame by itself, as it came.
    Frame(Frame<'b>),
    /// Frames that belong together.
    Chain(Chain<'a, 'b>),
}

/// Frames that were merged, each where it is: nothing was copied.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a, 'b> {
    /// What they are together.
    pub merged: Merged<'a>,
    frames: &'a [u32],
    burst: &'b Burst,
}

impl<'b> Chain<'_, 'b> {
    /// The frames, in order, as they came.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Frame<'b>> + '_ {
        // The indices are those of frames of this very burst.
        self.frames
            .iter()
            .map(|at| self.burst.get(*at as usize).unwrap_or(Frame { bytes: &[], meta: RxMeta::default() }))
    }

    /// The pieces of the merged payload, in order: behind the headers of [`merged`](Self::merged) they make the frame.
    pub fn payload(&self) -> impl Iterator<Item = &'b [u8]> + '_ {
        self.frames().enumerate().map(|(index, frame)| self.merged.payload_of(index, frame.bytes))
    }

    /// Writes the merged frame to `out`; its length, or `None` if `out` is too short.
    pub fn gather(&self, out: &mut [u8]) -> Option<usize> {
        self.merged.gather(self.frames().map(|frame| frame.bytes), out)
    }
}

impl BurstMerger {
    /// A merger for one receive queue.
    #[must_use]
    pub fn new(config: GroConfig) -> Self {
        Self { gro: Gro::new(config), merged: None, before: Vec::new() }
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &GroStats {
        self.gro.stats()
    }

    /// What happened since the last call; [`stats`](Self::stats) begins anew.
    pub fn take_stats(&mut self) -> GroStats {
        self.gro.take_stats()
    }

    /// Hands out the frames of `burst`, those that belong together as chains of borrowed fragments.
    pub fn chains<'b>(&mut self, burst: &'b Burst, to: impl FnMut(Received<'_, 'b>)) {
        self.receive(burst, &mut Chains { burst, to });
    }

    /// The frames of `burst`, those that belong together each in one buffer, which they are copied to. It is `burst` itself
    /// if nothing belongs together.
    pub fn merge<'b>(&'b mut self, burst: &'b mut Burst) -> &'b mut Burst {
        if self.gather(burst) { self.gathered() } else { burst }
    }

    /// As [`merge`](Self::merge), in two steps: whether anything belongs together. If so, [`gathered`](Self::gathered) has
    /// all of the frames.
    pub fn gather(&mut self, burst: &Burst) -> bool {
        let mut out = Buffers {
            from: burst,
            to: core::mem::take(&mut self.merged),
            before: core::mem::take(&mut self.before),
            any: false,
        };
        out.before.clear();
        self.receive(burst, &mut out);
        let Buffers { to, before, any, .. } = out;
        (self.merged, self.before) = (to, before);
        any
    }

    /// What was gathered last.
    pub fn gathered(&mut self) -> &mut Burst {
        self.merged.get_or_insert_with(|| Burst::new(0, 0))
    }

    fn receive(&mut self, burst: &Burst, to: &mut impl Deliver<u32>) {
        for (at, frame) in burst.frames().enumerate() {
            self.gro.receive(frame.bytes, &frame.meta, at as u32, Instant::ZERO, to);
        }
        self.gro.flush(to);
    }
}

struct Chains<'b, F> {
    burst: &'b Burst,
    to: F,
}

impl<'b, F: FnMut(Received<'_, 'b>)> Deliver<u32> for Chains<'b, F> {
    fn frame(&mut self, frame: u32) {
        if let Some(frame) = self.burst.get(frame as usize) {
            (self.to)(Received::Frame(frame));
        }
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, u32>) {
        (self.to)(Received::Chain(Chain { merged: *merged, frames: fragments.as_slice(), burst: self.burst }));
    }
}

struct Buffers<'b> {
    from: &'b Burst,
    to: Option<Burst>,
    before: Vec<u32>,
    any: bool,
}

impl Buffers<'_> {
    fn copy(&mut self, frame: u32) {
        // The arena is as large as the one that the frames lie in: there is room.
        if let (Some(frame), Some(to)) = (self.from.get(frame as usize), &mut self.to)
            && let Some(buffer) = to.buffer(frame.bytes.len())
        {
            buffer.copy_from_slice(frame.bytes);
            to.commit(frame.bytes.len(), frame.meta);
        }
    }

    /// The first aggregate: from here on everything is copied.
    #[cold]
    fn begin(&mut self) {
        self.any = true;
        let (frames, bytes) = (self.from.frame_capacity(), self.from.byte_capacity());
        let to = self.to.take().filter(|to| to.frame_capacity() >= frames && to.byte_capacity() >= bytes);
        let mut to = to.unwrap_or_else(|| Burst::new(frames, bytes));
        to.clear();
        self.to = Some(to);
        for at in 0..self.before.len() {
            self.copy(self.before[at]);
        }
    }
}

impl Deliver<u32> for Buffers<'_> {
    fn frame(&mut self, frame: u32) {
        if self.any {
            self.copy(frame);
        } else {
            self.before.push(frame);
        }
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, u32>) {
        if !self.any {
            self.begin();
        }
        let (from, len) = (self.from, merged.len());
        let frames = fragments.map(|at| from.get(at as usize).map_or(&[][..], |frame| frame.bytes));
        if let Some(to) = &mut self.to
            && let Some(buffer) = to.buffer(len)
            && merged.gather(frames, buffer).is_some()
        {
            to.commit(len, merged.meta());
        }
    }
}
