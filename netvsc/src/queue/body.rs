//! A frame as it is copied into a message: in one piece, or with changed headers in front.

/// The pieces of a frame.
pub(super) trait Body<'a>: Copy {
    /// Whether there is a head at all: known when the program is compiled, so that the usual way does not look.
    const HAS_HEAD: bool;

    /// Bytes of the frame.
    fn len(self) -> usize;

    /// Headers that were changed; empty if none were.
    fn head(self) -> &'a [u8];

    /// What follows them.
    fn rest(self) -> &'a [u8];
}

impl<'a> Body<'a> for &'a [u8] {
    const HAS_HEAD: bool = false;

    #[inline(always)]
    fn len(self) -> usize {
        <[u8]>::len(self)
    }

    #[inline(always)]
    fn head(self) -> &'a [u8] {
        &[]
    }

    #[inline(always)]
    fn rest(self) -> &'a [u8] {
        self
    }
}

/// A frame whose headers were changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// From the Ethernet header on.
    pub(super) head: &'a [u8],
    /// What follows it.
    pub(super) rest: &'a [u8],
}

impl<'a> Body<'a> for Parts<'a> {
    const HAS_HEAD: bool = true;

    #[inline]
    fn len(self) -> usize {
        self.head.len() + self.rest.len()
    }

    #[inline]
    fn head(self) -> &'a [u8] {
        self.head
    }

    #[inline]
    fn rest(self) -> &'a [u8] {
        self.rest
    }
}
