//! Where received frames go: the [`FrameSink`] trait, and [`Burst`], an arena that is one.

use alloc::vec;
use alloc::vec::Vec;
use core::iter::FusedIterator;

use crate::meta::RxMeta;

/// Takes received frames. [`Queue::receive`](super::Queue::receive) copies each frame once, out of the receive buffer into
/// what [`buffer`](Self::buffer) gives.
pub trait FrameSink {
    /// Room for a frame of exactly `len` bytes; `None` if there is none now: the frame then stays for the next call.
    ///
    /// What is given may be asked for again without a [`commit`](Self::commit) in between: the first is then void. Asked for
    /// with the same length, it is the same again, with what was written into it.
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]>;

    /// The frame is in the buffer that was given last: `len` bytes.
    fn commit(&mut self, len: usize, meta: RxMeta);

    /// Longest frame that [`buffer`](Self::buffer) can ever give room for. Longer ones are dropped and counted, since they
    /// would block those behind them for ever.
    fn max_frame(&self) -> usize {
        usize::MAX
    }
}

impl<S: FrameSink + ?Sized> FrameSink for &mut S {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        (**self).buffer(len)
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: RxMeta) {
        (**self).commit(len, meta);
    }

    #[inline]
    fn max_frame(&self) -> usize {
        (**self).max_frame()
    }
}

/// Frames start at multiples of this: a cache line, so that copies of small frames do not straddle two.
const ALIGNMENT: usize = 64;

/// An arena of frames: allocated once, filled by [`Queue::receive`](super::Queue::receive), read, cleared, filled again.
#[derive(Debug)]
pub struct Burst {
    bytes: Vec<u8>,
    /// Where the next frame goes; a multiple of [`ALIGNMENT`], possibly behind the end.
    next: usize,
    slots: Vec<Slot>,
    max_frames: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    start: usize,
    len: usize,
    meta: RxMeta,
}

/// A received frame, borrowed from a [`Burst`].
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// From its Ethernet header, without frame check sequence.
    pub bytes: &'a [u8],
    /// What the host said about it.
    pub meta: RxMeta,
}

/// A received frame that may be changed in place.
#[derive(Debug)]
pub struct FrameMut<'a> {
    /// From its Ethernet header, without frame check sequence.
    pub bytes: &'a mut [u8],
    /// What the host said about it.
    pub meta: RxMeta,
}

impl Burst {
    /// An arena for at most `frames` frames that together take at most `bytes` bytes, each rounded up to a multiple of 64.
    ///
    /// The memory is allocated here, all of it; nothing is allocated afterwards.
    pub fn new(frames: usize, bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], next: 0, slots: Vec::with_capacity(frames), max_frames: frames }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Most frames that it holds.
    pub fn frame_capacity(&self) -> usize {
        self.max_frames
    }

    /// Bytes of its memory.
    pub fn byte_capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The frame at `index`.
    pub fn get(&self, index: usize) -> Option<Frame<'_>> {
        self.slots.get(index).map(|slot| slot.frame(&self.bytes))
    }

    /// The frames, in the order in which they came.
    pub fn frames(&self) -> Frames<'_> {
        Frames { bytes: &self.bytes, slots: self.slots.iter() }
    }

    /// The frames, to be changed in place.
    pub fn frames_mut(&mut self) -> FramesMut<'_> {
        FramesMut { rest: &mut self.bytes, rest_start: 0, slots: self.slots.iter() }
    }

    /// Forgets all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.slots.clear();
        self.next = 0;
    }
}

impl Slot {
    #[inline]
    fn frame<'a>(&self, bytes: &'a [u8]) -> Frame<'a> {
        Frame { bytes: &bytes[self.start..self.start + self.len], meta: self.meta }
    }
}

impl FrameSink for Burst {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.slots.len() == self.max_frames {
            return None;
        }
        self.bytes.get_mut(self.next..)?.get_mut(..len)
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: RxMeta) {
        // A caller that commits more than it was given gets what there is.
        let start = self.next.min(self.bytes.len());
        let len = len.min(self.bytes.len() - start);
        if self.slots.len() < self.max_frames {
            self.slots.push(Slot { start, len, meta });
            self.next = (start + len).next_multiple_of(ALIGNMENT);
        }
    }

    #[inline]
    fn max_frame(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = Frame<'a>;
    type IntoIter = Frames<'a>;

    fn into_iter(self) -> Frames<'a> {
        self.frames()
    }
}

/// Frames of a [`Burst`].
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    slots: core::slice::Iter<'a, Slot>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        self.slots.next().map(|slot| slot.frame(self.bytes))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.slots.size_hint()
    }
}

impl ExactSizeIterator for Frames<'_> {}
impl FusedIterator for Frames<'_> {}

/// Frames of a [`Burst`], to be changed in place.
#[derive(Debug)]
pub struct FramesMut<'a> {
    /// What has not been given out.
    rest: &'a mut [u8],
    /// Where `rest` starts in the arena.
    rest_start: usize,
    slots: core::slice::Iter<'a, Slot>,
}

impl<'a> Iterator for FramesMut<'a> {
    type Item = FrameMut<'a>;

    #[inline]
    fn next(&mut self) -> Option<FrameMut<'a>> {
        let slot = self.slots.next()?;
        // Frames ascend and do not overlap, so each is split off what the ones before left.
        let rest = core::mem::take(&mut self.rest);
        let (_, rest) = rest.split_at_mut(slot.start - self.rest_start);
        let (bytes, rest) = rest.split_at_mut(slot.len);
        self.rest = rest;
        self.rest_start = slot.start + slot.len;
        Some(FrameMut { bytes, meta: slot.meta })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.slots.size_hint()
    }
}

impl ExactSizeIterator for FramesMut<'_> {}
impl FusedIterator for FramesMut<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_put_in() {
        let mut burst = Burst::new(3, 256);
        for len in [60usize, 64, 100] {
            burst.buffer(len).unwrap().fill(len as u8);
            burst.commit(len, RxMeta::default());
        }
        assert!(burst.buffer(1).is_none(), "three frames are the most");
        assert_eq!(burst.frames().len(), 3);
        assert!(burst.frames().zip([60u8, 64, 100]).all(|(f, len)| f.bytes == vec![len; len as usize]));
        for frame in burst.frames_mut() {
            frame.bytes[0] = 0xEE;
        }
        assert!(burst.frames().all(|f| f.bytes[0] == 0xEE && f.bytes[1] != 0xEE));
        burst.clear();
        assert!(burst.is_empty() && burst.get(0).is_none());
        assert!(burst.buffer(256).is_some());
        assert!(burst.buffer(257).is_none());
    }

    #[test]
    fn a_full_arena_gives_no_room_and_no_panic() {
        let mut burst = Burst::new(8, 100);
        assert!(burst.buffer(90).is_some());
        burst.commit(90, RxMeta::default());
        assert!(burst.buffer(1).is_none(), "the next frame would start behind the end");
        burst.commit(5, RxMeta::default());
        assert_eq!(burst.frames().map(|f| f.bytes.len()).sum::<usize>(), 90);
        assert_eq!(burst.frames_mut().map(|f| f.bytes.len()).collect::<Vec<_>>(), [90, 0]);
    }
}
