//! Lists of fixed-size records inside a message.

use core::{fmt, marker::PhantomData};

use crate::{EmitError, ParseError, field::Wire};

/// A list inside a message, borrowed from its bytes or from a slice of values.
///
/// Both forms compare and iterate alike; writing either gives the same bytes.
pub struct Records<'a, T> {
    source: Source<'a, T>,
}

enum Source<'a, T> {
    /// A multiple of the record's size.
    Bytes(&'a [u8], PhantomData<T>),
    Values(&'a [T]),
}

#[expect(private_bounds, reason = "the records of this crate are all there are")]
impl<'a, T: Wire<Value = T> + Copy> Records<'a, T> {
    /// Takes `count` records from `bytes` at `offset`.
    pub(crate) fn parse(
        bytes: &'a [u8],
        message: &'static str,
        field: &'static str,
        offset: usize,
        count: usize,
    ) -> Result<Self, ParseError> {
        // Saturating, so that a count from the wire cannot wrap: no slice is usize::MAX long.
        let end = count.saturating_mul(T::SIZE).saturating_add(offset);
        let records =
            bytes.get(offset..end).ok_or(ParseError::Truncated { message, field, needed: end, len: bytes.len() })?;
        Ok(Self { source: Source::Bytes(records, PhantomData) })
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.source {
            Source::Bytes(bytes, _) => bytes.len() / T::SIZE,
            Source::Values(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first record.
    #[must_use]
    pub fn first(&self) -> Option<T> {
        self.get(0)
    }

    /// The record at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        match self.source {
            Source::Bytes(bytes, _) => bytes.get(index.checked_mul(T::SIZE)?..).and_then(T::read),
            Source::Values(values) => values.get(index).copied(),
        }
    }

    /// All records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + 'a
    where
        T: 'a,
    {
        RecordIter { records: *self, next: 0 }
    }

    /// Bytes of all records.
    pub(crate) fn byte_len(&self) -> usize {
        self.len() * T::SIZE
    }

    /// The count as `field` holds it, if it is no more than `limit`.
    pub(crate) fn count(&self, field: &'static str, limit: usize) -> Result<usize, EmitError> {
        let count = self.len();
        if count <= limit { Ok(count) } else { Err(EmitError::TooManyRecords { field, count, limit }) }
    }

    /// Writes all records to `out`, which has [`byte_len`](Self::byte_len) bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        for (record, out) in self.iter().zip(out.chunks_exact_mut(T::SIZE)) {
            T::write(record, out);
        }
    }
}

struct RecordIter<'a, T> {
    records: Records<'a, T>,
    next: usize,
}

impl<T: Wire<Value = T> + Copy> Iterator for RecordIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let record = self.records.get(self.next)?;
        self.next += 1;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.records.len() - self.next;
        (left, Some(left))
    }
}

impl<T: Wire<Value = T> + Copy> ExactSizeIterator for RecordIter<'_, T> {}

impl<'a, T> From<&'a [T]> for Records<'a, T> {
    fn from(values: &'a [T]) -> Self {
        Self { source: Source::Values(values) }
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Records<'a, T> {
    fn from(values: &'a [T; N]) -> Self {
        Self { source: Source::Values(values) }
    }
}

impl<T> Default for Records<'_, T> {
    fn default() -> Self {
        Self { source: Source::Values(&[]) }
    }
}

impl<T> Clone for Records<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Records<'_, T> {}

impl<T> Clone for Source<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Source<'_, T> {}

impl<T: Wire<Value = T> + Copy + PartialEq> PartialEq for Records<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Wire<Value = T> + Copy + Eq> Eq for Records<'_, T> {}

impl<T: Wire<Value = T> + Copy + fmt::Debug> fmt::Debug for Records<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
