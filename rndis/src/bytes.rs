//! Little-endian access to byte slices, shared by all codecs of this crate.
//!
//! [`Fields`] reads with a check and names the field that does not fit. The `*_at` and `put_*` functions are for
//! places where the length has been checked on the lines above; with fixed arrays the compiler removes their bounds
//! checks.

use crate::error::{EmitError, ParseError};

/// Length as a wire number; lengths beyond 32 bits saturate, which no wire field can reach.
#[inline]
pub(crate) fn wire_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Offset or length from the wire as an index.
///
/// On targets with indices below 32 bits the value saturates and so fails the bounds check that follows.
#[inline]
pub(crate) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Reads the word at `at`; the caller has checked that it is there.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a word at `at`; the caller has checked that it fits.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a half-word at `at`; the caller has checked that it fits.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// The first `needed` bytes of a slice to write into.
#[inline]
pub(crate) fn room(out: &mut [u8], needed: usize) -> Result<&mut [u8], EmitError> {
    let available = out.len();
    out.get_mut(..needed).ok_or(EmitError::BufferTooSmall { needed, available })
}

/// Checks that a length can be written into a 32-bit field.
#[inline]
pub(crate) fn emit_len(field: &'static str, value: usize) -> Result<u32, EmitError> {
    u32::try_from(value).map_err(|_| EmitError::TooLarge { field, value, limit: u32::MAX as usize })
}

/// Bytes of one structure, read field by field.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn take<const N: usize>(&self, field: &'static str, at: usize) -> Result<[u8; N], ParseError> {
        match self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => Ok(*chunk),
            None => Err(ParseError::Truncated {
                field,
                needed: wire_len(at.saturating_add(N)),
                available: wire_len(self.bytes.len()),
            }),
        }
    }

    #[inline]
    pub(crate) fn u8(&self, field: &'static str, at: usize) -> Result<u8, ParseError> {
        self.take::<1>(field, at).map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&self, field: &'static str, at: usize) -> Result<u16, ParseError> {
        self.take(field, at).map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&self, field: &'static str, at: usize) -> Result<u32, ParseError> {
        self.take(field, at).map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&self, field: &'static str, at: usize) -> Result<u64, ParseError> {
        self.take(field, at).map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&self, field: &'static str, at: usize) -> Result<[u8; N], ParseError> {
        self.take(field, at)
    }

    /// A region given by an offset and a length field; `base` is where the offset counts from.
    ///
    /// An empty region may have any offset: senders disagree (see the `query` module).
    pub(crate) fn region(&self, region: Region) -> Result<&'a [u8], ParseError> {
        let Region { offset_field, offset, length_field, length, base, first } = region;
        if length == 0 {
            return Ok(&[]);
        }
        if offset < first {
            return Err(ParseError::BelowMinimum { field: offset_field, value: offset, minimum: first });
        }
        let limit = wire_len(self.bytes.len().saturating_sub(base));
        if offset > limit {
            return Err(ParseError::AboveLimit { field: offset_field, value: offset, limit });
        }
        let room = limit - offset;
        let start = index(offset).saturating_add(base);
        match self.bytes.get(start..).and_then(|rest| rest.get(..index(length))) {
            Some(bytes) if length <= room => Ok(bytes),
            _ => Err(ParseError::AboveLimit { field: length_field, value: length, limit: room }),
        }
    }
}

/// Where a region of a structure claims to be.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    /// Name of the offset field.
    pub(crate) offset_field: &'static str,
    /// Its value.
    pub(crate) offset: u32,
    /// Name of the length field.
    pub(crate) length_field: &'static str,
    /// Its value.
    pub(crate) length: u32,
    /// Byte of the structure that the offset counts from.
    pub(crate) base: usize,
    /// Smallest offset that is behind the fixed fields.
    pub(crate) first: u32,
}
