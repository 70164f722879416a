//! A frame as it is copied into a message: in one piece, with changed headers in front, or with a [rest](super::held) that is still
//! where it was received.

use vmbus::memory::{SharedMemory, SharedMemoryExt};

use super::error::SendError;
use super::held::{Rest, RestError};

/// The pieces of a frame.
pub(super) trait Body<'a>: Copy {
    /// Whether there is a head at all: known when the program is compiled, so that the usual way does not look.
    const HAS_HEAD: bool;

    /// What follows the head.
    type Rest: Piece;

    /// Bytes of the frame.
    fn len(self) -> usize;

    /// Headers that were changed; empty if none were.
    fn head(self) -> &'a [u8];

    /// What follows them.
    fn rest(self) -> Self::Rest;
}

/// Bytes that are copied into memory that the host reads.
pub(super) trait Piece: Copy {
    fn len(self) -> usize;

    /// The first `at` bytes, or all if there are no more, and what follows.
    fn parted(self, at: usize) -> (Self, Self);

    /// Copies the bytes.
    fn write<M: SharedMemory>(self, memory: &M, at: usize) -> Result<(), NotWritten>;

    /// Writes words, then `head` at `head_at` over them, then these bytes, then zeros up to a multiple of 8: see
    /// [`SharedMemoryExt::write_headed`].
    fn write_headed<M: SharedMemory, const N: usize>(
        self,
        memory: &M,
        at: usize,
        words: [u64; N],
        head_at: usize,
        head: &[u8],
    ) -> Result<(), NotWritten>;
}

/// Why bytes were not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotWritten {
    /// There is no such place; nothing was written.
    NoPlace,
    /// They are not there any more; what was written means nothing.
    Gone,
}

impl From<NotWritten> for SendError {
    fn from(error: NotWritten) -> Self {
        match error {
            // Whoever writes into a section or a page has looked whether there is room.
            NotWritten::NoPlace => Self::Full,
            NotWritten::Gone => Self::Gone,
        }
    }
}

impl From<RestError> for NotWritten {
    fn from(error: RestError) -> Self {
        match error {
            RestError::Gone => Self::Gone,
            RestError::OutOfBounds { .. } => Self::NoPlace,
        }
    }
}

impl Piece for &[u8] {
    #[inline(always)]
    fn len(self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn parted(self, at: usize) -> (Self, Self) {
        self.split_at(at.min(self.len()))
    }

    #[inline(always)]
    fn write<M: SharedMemory>(self, memory: &M, at: usize) -> Result<(), NotWritten> {
        SharedMemoryExt::write(memory, at, self).map_err(|_| NotWritten::NoPlace)
    }

    #[inline(always)]
    fn write_headed<M: SharedMemory, const N: usize>(
        self,
        memory: &M,
        at: usize,
        words: [u64; N],
        head_at: usize,
        head: &[u8],
    ) -> Result<(), NotWritten> {
        // In two pieces only if headers were changed: such frames go in by other ways.
        if !head.is_empty() {
            return Err(NotWritten::NoPlace);
        }
        SharedMemoryExt::write_headed(memory, at, words, head_at, self).map_err(|_| NotWritten::NoPlace)
    }
}

impl Piece for Rest<'_> {
    #[inline]
    fn len(self) -> usize {
        Rest::len(&self)
    }

    #[inline]
    fn parted(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }

    #[inline]
    fn write<M: SharedMemory>(self, memory: &M, at: usize) -> Result<(), NotWritten> {
        Ok(self.copy_to(memory, at)?)
    }

    #[inline]
    fn write_headed<M: SharedMemory, const N: usize>(
        self,
        memory: &M,
        at: usize,
        words: [u64; N],
        head_at: usize,
        head: &[u8],
    ) -> Result<(), NotWritten> {
        let len = Rest::len(&self);
        self.reading(|from, start| memory.write_headed_from(at, words, head_at, head, (from, start, len)))?;
        Ok(())
    }
}

impl<'a> Body<'a> for &'a [u8] {
    const HAS_HEAD: bool = false;

    type Rest = Self;

    #[inline(always)]
    fn len(self) -> usize {
        <[u8]>::len(self)
    }

    #[inline(always)]
    fn head(self) -> &'a [u8] {
        &[]
    }

    #[inline(always)]
    fn rest(self) -> Self {
        self
    }
}

/// A frame in two pieces: its headers were changed, or its rest is elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a, R = &'a [u8]> {
    /// From the Ethernet header on.
    pub(super) head: &'a [u8],
    /// What follows it.
    pub(super) rest: R,
}

impl<'a, R: Piece> Body<'a> for Parts<'a, R> {
    const HAS_HEAD: bool = true;

    type Rest = R;

    #[inline]
    fn len(self) -> usize {
        self.head.len() + self.rest.len()
    }

    #[inline]
    fn head(self) -> &'a [u8] {
        self.head
    }

    #[inline]
    fn rest(self) -> R {
        self.rest
    }
}
