//! A queue's share of the send buffer: which sections are free, and writing into them.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use vmbus::memory::{Located, SharedMemory, SharedMemoryExt};

use super::body::{Body, NotWritten, Piece};
use super::error::QueueError;
use super::settings::SendBuffer;

/// The share.
#[derive(Debug)]
pub(super) struct Sections<M> {
    memory: Located<M>,
    section_bytes: u32,
    range: Range<u32>,
    /// The last freed is used next, while it is in the cache.
    free: Vec<u32>,
}

impl<M: SharedMemory> Sections<M> {
    pub(super) fn new(buffer: SendBuffer<M>) -> Result<Self, QueueError> {
        let SendBuffer { memory, section_bytes, sections } = buffer;
        let bad = |field, value, limit| Err(QueueError::BadBuffer { field, value, limit });
        if section_bytes < nvsp::MIN_SECTION_SIZE {
            return bad("send section size", section_bytes as usize, nvsp::MIN_SECTION_SIZE as usize);
        }
        let fit = memory.len() / section_bytes as usize;
        // The last index stands for "no section" on the wire.
        if sections.end as usize > fit || sections.end == u32::MAX {
            return bad("send sections", sections.end as usize, fit);
        }
        if sections.is_empty() {
            return bad("send sections", 0, 1);
        }
        let free = sections.clone().rev().collect();
        let memory = Located::new(memory);
        Ok(Self { memory, section_bytes, range: sections, free })
    }

    /// Adds the sections from the end of the share up to `end`; how many.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn grow(&mut self, end: u32) -> Result<usize, QueueError> {
        let fit = self.memory.len() / self.section_bytes as usize;
        if end as usize > fit || end == u32::MAX {
            return Err(QueueError::BadBuffer { field: "send sections", value: end as usize, limit: fit });
        }
        let more = self.range.end..end.max(self.range.end);
        self.range.end = more.end;
        self.free.extend(more.clone().rev());
        Ok(more.len())
    }

    /// Bytes of a section.
    #[inline]
    pub(super) fn section_bytes(&self) -> usize {
        self.section_bytes as usize
    }

    /// Sections that are free.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Sections of this queue.
    pub(super) fn count(&self) -> usize {
        self.range.len()
    }

    /// Takes a free section.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Has the processor fetch that part of the section which will be taken next: the host has read it since, and until it
    /// has let go of a cache line no byte of it can be written.
    #[inline(always)]
    pub(super) fn fetch_next(&self, at: usize, len: usize) {
        if let Some(&next) = self.free.last() {
            self.memory.prefetch_write(self.place(next, at), len);
        }
    }

    /// Gives a section back.
    #[inline]
    pub(super) fn give_back(&mut self, section: u32) {
        debug_assert!(self.range.contains(&section) && self.free.len() < self.range.len(), "section {section}");
        self.free.push(section);
    }

    /// Writes into a section.
    #[inline]
    pub(super) fn write(&self, section: u32, at: usize, bytes: &[u8]) {
        let inside = self.memory.write(self.place(section, at), bytes);
        debug_assert!(inside.is_ok(), "section {section} at {at}, {} bytes", bytes.len());
    }

    /// Writes a piece of a frame into a section.
    #[inline(always)]
    pub(super) fn write_piece(&self, section: u32, at: usize, piece: impl Piece) -> Result<(), NotWritten> {
        let written = piece.write(&self.memory, self.place(section, at));
        debug_assert!(written != Err(NotWritten::NoPlace), "section {section} at {at}, {} bytes", piece.len());
        written
    }

    /// Writes a message into a section, and zeros up to the next multiple of 8 behind it.
    #[inline(always)]
    pub(super) fn write_headed<'a, const N: usize>(
        &self,
        section: u32,
        at: usize,
        head: [u64; N],
        frame_at: usize,
        frame: impl Body<'a>,
    ) -> Result<(), NotWritten> {
        frame.rest().write_headed(&self.memory, self.place(section, at), head, frame_at, frame.head())
    }

    /// Writes a little-endian word into a section.
    #[inline(always)]
    pub(super) fn write_word(&self, section: u32, at: usize, value: u32) {
        match self.memory.word32(self.place(section, at)) {
            Ok(word) => word.store(value.to_le(), Ordering::Relaxed),
            // Not aligned: a host may ask for odd places.
            Err(_) => self.write(section, at, &value.to_le_bytes()),
        }
    }

    #[inline]
    fn place(&self, section: u32, at: usize) -> usize {
        section as usize * self.section_bytes as usize + at
    }
}
