//! Reading and writing lists of guest-physical ranges, without allocation.

use core::fmt;
use core::slice::ChunksExact;

use super::{PAGE_SIZE, page_count};

/// Bytes before the page numbers of a range.
const RANGE_HEADER_LEN: usize = 8;

/// Bytes of a page number.
const PFN_LEN: usize = 8;

/// A checked list of ranges, borrowed from a message or a packet.
///
/// ```
/// use vmbus::gpadl::GpaRanges;
///
/// let bytes = [100, 0, 0, 0, 0, 16 - 1, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
/// let ranges = GpaRanges::parse(&bytes, 1)?;
/// let range = ranges.iter().next().expect("one range was asked for");
/// assert_eq!((range.byte_count(), range.byte_offset()), (100, 0xf00));
/// assert!(range.pfns().eq([7]));
/// # Ok::<(), vmbus::gpadl::GpaRangeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRanges<'a> {
    /// Exactly the bytes of `count` valid ranges.
    bytes: &'a [u8],
    count: u32,
}

impl<'a> GpaRanges<'a> {
    /// Checks that `bytes` starts with `count` valid ranges; bytes behind them are ignored.
    ///
    /// The work is bounded by the bytes, not by `count`: every range takes at least 16 of them.
    ///
    /// # Errors
    /// [`GpaRangeError`], naming the range at fault.
    pub fn parse(bytes: &'a [u8], count: u32) -> Result<Self, GpaRangeError> {
        if count == 0 {
            return Err(GpaRangeError::NoRanges);
        }
        let mut rest = bytes;
        for index in 0..count {
            (_, rest) = split_range(rest, index)?;
        }
        let used = bytes.len() - rest.len();
        Ok(Self { bytes: bytes.get(..used).unwrap_or(bytes), count })
    }

    /// How many ranges there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "an empty list is an error")]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// The bytes of the ranges, without what followed them.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of memory that the ranges name, all together.
    pub fn byte_count(&self) -> u64 {
        self.iter().map(|range| u64::from(range.byte_count)).sum()
    }

    /// Pages that the ranges name, all together.
    pub fn page_count(&self) -> u64 {
        self.iter().map(|range| range.pfns().len() as u64).sum()
    }

    /// The ranges in order.
    pub fn iter(&self) -> GpaRangesIter<'a> {
        GpaRangesIter { bytes: self.bytes }
    }
}

impl<'a> IntoIterator for GpaRanges<'a> {
    type Item = GpaRange<'a>;
    type IntoIter = GpaRangesIter<'a>;

    fn into_iter(self) -> GpaRangesIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &GpaRanges<'a> {
    type Item = GpaRange<'a>;
    type IntoIter = GpaRangesIter<'a>;

    fn into_iter(self) -> GpaRangesIter<'a> {
        self.iter()
    }
}

/// Iterator over the ranges of a [`GpaRanges`].
#[derive(Clone, Debug)]
pub struct GpaRangesIter<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for GpaRangesIter<'a> {
    type Item = GpaRange<'a>;

    fn next(&mut self) -> Option<GpaRange<'a>> {
        // The bytes were checked by `GpaRanges::parse`, so the list ends where they end.
        let (range, rest) = split_range(self.bytes, 0).ok()?;
        self.bytes = rest;
        Some(range)
    }
}

/// One range of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange<'a> {
    byte_count: u32,
    byte_offset: u32,
    pfns: &'a [u8],
}

impl<'a> GpaRange<'a> {
    /// Bytes of memory; at least one.
    pub fn byte_count(&self) -> u32 {
        self.byte_count
    }

    /// Where the memory starts in its first page; at most 4095.
    pub fn byte_offset(&self) -> u32 {
        self.byte_offset
    }

    /// The numbers of all pages touched: guest-physical address divided by 4096.
    pub fn pfns(&self) -> Pfns<'a> {
        Pfns { words: self.pfns.chunks_exact(PFN_LEN) }
    }

    /// Bytes the range takes in the list.
    pub fn encoded_len(&self) -> usize {
        RANGE_HEADER_LEN + self.pfns.len()
    }

    /// The memory as (guest-physical address, length) pieces, none of which crosses a page; `None` is an address beyond
    /// 64 bits.
    pub fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> + use<'a> {
        let mut left = self.byte_count;
        let mut offset = self.byte_offset;
        self.pfns().map(move |pfn| {
            // The offset is below a page, so the difference is at least 1 and at most 4096.
            let len = left.min((PAGE_SIZE as u32).saturating_sub(offset));
            let gpa = pfn.checked_mul(PAGE_SIZE as u64).and_then(|page| page.checked_add(offset.into()));
            left = left.saturating_sub(len);
            offset = 0;
            gpa.map(|gpa| (gpa, len))
        })
    }
}

/// Iterator over the page numbers of a [`GpaRange`].
#[derive(Clone, Debug)]
pub struct Pfns<'a> {
    words: ChunksExact<'a, u8>,
}

impl Iterator for Pfns<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.words.next().map(word)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.words.size_hint()
    }

    fn nth(&mut self, n: usize) -> Option<u64> {
        self.words.nth(n).map(word)
    }
}

impl DoubleEndedIterator for Pfns<'_> {
    fn next_back(&mut self) -> Option<u64> {
        self.words.next_back().map(word)
    }
}

impl ExactSizeIterator for Pfns<'_> {}

/// Writes one range to the front of `buf` and returns its length.
///
/// # Errors
/// A bad count or offset; [`GpaRangeError::PageCount`] if `pfns` yields more or fewer pages than the range touches;
/// [`GpaRangeError::Truncated`] if `buf` is too short. What is left in `buf` then has no meaning.
pub fn write_range(
    buf: &mut [u8],
    byte_count: u32,
    byte_offset: u32,
    pfns: impl IntoIterator<Item = u64>,
) -> Result<usize, GpaRangeError> {
    let range_bytes = range_bytes(byte_count, byte_offset, 0)?;
    let len = buf.len();
    let truncated = GpaRangeError::Truncated { range: 0, needed: range_bytes, len };
    let target =
        usize::try_from(range_bytes).ok().and_then(|range_bytes| buf.get_mut(..range_bytes)).ok_or(truncated)?;
    let used = target.len();
    let (header, words) = target.split_at_mut_checked(RANGE_HEADER_LEN).ok_or(truncated)?;
    header.copy_from_slice(&(u64::from(byte_offset) << 32 | u64::from(byte_count)).to_le_bytes());
    let expected = page_count(byte_count, byte_offset);
    let mut pfns = pfns.into_iter();
    for (index, word) in words.chunks_exact_mut(PFN_LEN).enumerate() {
        let found = index as u64;
        let pfn = pfns.next().ok_or(GpaRangeError::PageCount { found, expected })?;
        word.copy_from_slice(&pfn.to_le_bytes());
    }
    if pfns.next().is_some() {
        return Err(GpaRangeError::PageCount { found: expected.saturating_add(1), expected });
    }
    Ok(used)
}

/// Bytes that a range takes in a list, if its count and offset are good.
pub(super) fn range_bytes(byte_count: u32, byte_offset: u32, range: u32) -> Result<u64, GpaRangeError> {
    if byte_count == 0 {
        return Err(GpaRangeError::Empty { range });
    }
    let limit = PAGE_SIZE as u32 - 1;
    if byte_offset > limit {
        return Err(GpaRangeError::BadOffset { range, byte_offset, limit });
    }
    // At most 2^20 + 1 pages: far from overflowing 64 bits.
    Ok(RANGE_HEADER_LEN as u64 + PFN_LEN as u64 * page_count(byte_count, byte_offset))
}

/// Checks and takes the first range off a list.
fn split_range(bytes: &[u8], range: u32) -> Result<(GpaRange<'_>, &[u8]), GpaRangeError> {
    let len = bytes.len();
    let header: Option<&[u8; RANGE_HEADER_LEN]> = bytes.first_chunk();
    let &[c0, c1, c2, c3, o0, o1, o2, o3] =
        header.ok_or(GpaRangeError::Truncated { range, needed: RANGE_HEADER_LEN as u64, len })?;
    let byte_count = u32::from_le_bytes([c0, c1, c2, c3]);
    let byte_offset = u32::from_le_bytes([o0, o1, o2, o3]);
    let needed = range_bytes(byte_count, byte_offset, range)?;
    let (own, rest) = usize::try_from(needed)
        .ok()
        .and_then(|needed| bytes.split_at_checked(needed))
        .ok_or(GpaRangeError::Truncated { range, needed, len })?;
    let pfns = own.get(RANGE_HEADER_LEN..).unwrap_or_default();
    Ok((GpaRange { byte_count, byte_offset, pfns }, rest))
}

/// The value of one word; [`ChunksExact`] yields exactly eight bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What is wrong with a list of ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpaRangeError {
    /// The list has no range.
    NoRanges,
    /// A range names no bytes (`byte_count` is 0).
    Empty {
        /// Index of the range.
        range: u32,
    },
    /// `byte_offset` points behind the first page.
    BadOffset {
        /// Index of the range.
        range: u32,
        /// The offset.
        byte_offset: u32,
        /// Largest offset.
        limit: u32,
    },
    /// The bytes end inside a range.
    Truncated {
        /// Index of the range.
        range: u32,
        /// Bytes of the range.
        needed: u64,
        /// Bytes there are.
        len: usize,
    },
    /// The caller gave another number of pages than the range touches.
    PageCount {
        /// Pages given; counting stops one above what was expected.
        found: u64,
        /// Pages the range touches.
        expected: u64,
    },
    /// The range data is too long for a GPADL (`range_buflen`).
    TooLarge {
        /// Bytes of the range data.
        range_bytes: usize,
        /// Largest length.
        limit: usize,
    },
    /// There are more ranges than a GPADL can count (`rangecount`).
    TooManyRanges {
        /// Largest number.
        limit: u16,
    },
    /// The buffer is longer than a range can be (`byte_count`).
    TooLong {
        /// Bytes of the buffer.
        len: usize,
        /// Largest length.
        limit: u32,
    },
    /// A page number of the buffer is not known.
    Page(super::PageError),
}

impl fmt::Display for GpaRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoRanges => f.write_str("range list is empty"),
            Self::Empty { range } => write!(f, "range {range} has byte_count 0"),
            Self::BadOffset { range, byte_offset, limit } => {
                write!(f, "range {range} has byte_offset {byte_offset:#x}, limit {limit:#x}")
            }
            Self::Truncated { range, needed, len } => {
                write!(f, "range {range} needs {needed} bytes, {len} are left")
            }
            Self::PageCount { found, expected } => {
                write!(f, "range has {found} page numbers, expected {expected}")
            }
            Self::TooLarge { range_bytes, limit } => {
                write!(f, "range data has {range_bytes} bytes, range_buflen limit {limit}")
            }
            Self::TooManyRanges { limit } => write!(f, "more ranges than rangecount limit {limit}"),
            Self::TooLong { len, limit } => {
                write!(f, "buffer has {len} bytes, byte_count limit {limit}")
            }
            Self::Page(_) => f.write_str("page number is not known"),
        }
    }
}

impl core::error::Error for GpaRangeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Page(error) => Some(error),
            _ => None,
        }
    }
}

impl From<super::PageError> for GpaRangeError {
    fn from(error: super::PageError) -> Self {
        Self::Page(error)
    }
}
