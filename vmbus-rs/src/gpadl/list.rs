//! Building a list of ranges on the heap.

use alloc::vec::Vec;

use super::ranges::range_bytes;
use super::{GpaRangeError, GpaRanges, GpadlId, GpadlMessages, MAX_RANGE_BYTES, page_numbers, write_range};
use crate::protocol::RelId;

/// An owned list of ranges that fits one GPADL. An empty one cannot be lent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeList {
    bytes: Vec<u8>,
    count: u16,
}

impl RangeList {
    /// A list without ranges.
    pub fn new() -> Self {
        Self::default()
    }

    /// One range for a page-aligned buffer of `len` bytes whose guest-physical addresses `gpa_of` knows by offset.
    ///
    /// # Errors
    /// As [`RangeList::push`]; [`GpaRangeError::Page`] if an address is not known or not aligned.
    pub fn for_buffer(len: usize, gpa_of: impl FnMut(usize) -> Option<u64>) -> Result<Self, GpaRangeError> {
        let limit = u32::MAX;
        let byte_count = u32::try_from(len).map_err(|_| GpaRangeError::TooLong { len, limit })?;
        // Before the pages are collected: the caller's function may be slow.
        Self::new().room_for(byte_count, 0)?;
        let pfns = page_numbers(len, gpa_of).collect::<Result<Vec<_>, _>>()?;
        let mut list = Self::new();
        list.push(byte_count, 0, pfns)?;
        Ok(list)
    }

    /// Appends a range. The list is unchanged if that fails.
    ///
    /// # Errors
    /// A bad count or offset, another number of pages than the range touches, or [`GpaRangeError::TooLarge`] and
    /// [`GpaRangeError::TooManyRanges`] if a GPADL cannot hold the longer list.
    pub fn push(
        &mut self,
        byte_count: u32,
        byte_offset: u32,
        pfns: impl IntoIterator<Item = u64>,
    ) -> Result<(), GpaRangeError> {
        let needed = self.room_for(byte_count, byte_offset)?;
        let count = self.count.checked_add(1).ok_or(GpaRangeError::TooManyRanges { limit: u16::MAX })?;
        let start = self.bytes.len();
        self.bytes.resize(needed, 0);
        let target = self.bytes.get_mut(start..).unwrap_or_default();
        match write_range(target, byte_count, byte_offset, pfns) {
            Ok(_) => {
                self.count = count;
                Ok(())
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// Takes over bytes that hold `count` valid ranges.
    pub(super) fn from_checked(bytes: Vec<u8>, count: u16) -> Self {
        Self { bytes, count }
    }

    /// How many ranges there are.
    pub fn len(&self) -> u16 {
        self.count
    }

    /// Whether there is no range.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ranges in wire form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The ranges.
    ///
    /// # Errors
    /// [`GpaRangeError::NoRanges`] for an empty list.
    pub fn ranges(&self) -> Result<GpaRanges<'_>, GpaRangeError> {
        GpaRanges::parse(&self.bytes, u32::from(self.count))
    }

    /// The messages that lend this memory to the host.
    ///
    /// # Errors
    /// [`GpaRangeError::NoRanges`] for an empty list.
    pub fn messages(&self, relid: RelId, gpadl: GpadlId) -> Result<GpadlMessages<'_>, GpaRangeError> {
        GpadlMessages::new(relid, gpadl, self.count, &self.bytes)
    }

    /// Bytes of the list with one more range, if a GPADL can hold them.
    fn room_for(&self, byte_count: u32, byte_offset: u32) -> Result<usize, GpaRangeError> {
        let more = range_bytes(byte_count, byte_offset, u32::from(self.count))?;
        // A range is below 2^24 bytes, so this saturates on 16-bit targets only, far above the limit.
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        let range_bytes = self.bytes.len().saturating_add(more);
        if range_bytes > MAX_RANGE_BYTES {
            return Err(GpaRangeError::TooLarge { range_bytes, limit: MAX_RANGE_BYTES });
        }
        Ok(range_bytes)
    }
}
