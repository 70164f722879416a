//! Guest memory lent to the host: ranges of guest-physical pages, and GPADLs made of them.
//!
//! A *range* is a byte count, an offset into the first page, and the numbers of all 4 KiB pages it touches; the pages
//! do not have to be adjacent. Ranges stand in GPADL messages and in GPA-direct ring packets (type 9) alike:
//!
//! ```text
//! u32 byte_count, u32 byte_offset (at most 4095), u64 pfn[ceil((byte_offset + byte_count) / 4096)]
//! ```
//!
//! [`GpaRanges`] reads a list of them in place. [`RangeList`] builds one, [`GpadlMessages`] splits its bytes into one
//! GPADL_HEADER and as many GPADL_BODY messages as needed, and [`Reassembler`] puts them together on the host's side.
//!
//! A page is always 4 KiB here, whatever the guest's own page size is.
//!
//! Sources: Linux `drivers/hv/channel.c` (`create_gpadl_header`); OpenVMM `vmbus_ring/src/gparange.rs` and
//! `vmbus_server/src/channels.rs` (`Gpadl`).

use core::fmt;

use crate::protocol::{GpadlBody, GpadlHeader, Message, RelId};

#[cfg(feature = "alloc")]
mod list;
mod ranges;
#[cfg(feature = "alloc")]
mod reassembler;

#[cfg(feature = "alloc")]
pub use list::RangeList;
pub use ranges::{GpaRange, GpaRangeError, GpaRanges, GpaRangesIter, Pfns, write_range};
#[cfg(feature = "alloc")]
pub use reassembler::{GpadlMemory, Progress, Reassembler, ReassemblyError, ReassemblyLimits};

/// Bytes of a page of guest-physical memory, as the hypervisor counts.
pub const PAGE_SIZE: usize = 4096;

/// Largest byte count of one GPADL's range data: its length field has 16 bits.
///
/// One range of 8190 pages fits; 31 MiB therefore do, 32 MiB do not.
pub const MAX_RANGE_BYTES: usize = u16::MAX as usize;

/// Bytes of range data in one GPADL_HEADER: 27 words, so one range header and 26 page numbers.
///
/// The 240 bytes of a message would hold 220; whole 64-bit words are what Linux sends.
pub const HEADER_RANGE_BYTES: usize = 27 * 8;

/// Bytes of range data in one GPADL_BODY: 28 words.
pub const BODY_RANGE_BYTES: usize = 28 * 8;

/// The guest's name for memory it lent to the host: not zero, and unique on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpadlId(pub u32);

impl GpadlId {
    /// The first one Linux uses; it counts up from here.
    pub const FIRST: Self = Self(0xe_1e10);
}

impl fmt::Display for GpadlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Pages touched by `byte_count` bytes that start `byte_offset` bytes into a page.
pub fn page_count(byte_count: u32, byte_offset: u32) -> u64 {
    (u64::from(byte_offset) + u64::from(byte_count)).div_ceil(PAGE_SIZE as u64)
}

/// The page numbers of a page-aligned buffer of `len` bytes, asked of `gpa_of` by offset into the buffer.
///
/// `gpa_of` is called once for each 4 KiB, also when the guest's own pages are larger, and answers `None` where the
/// address is not known.
pub fn page_numbers(
    len: usize,
    mut gpa_of: impl FnMut(usize) -> Option<u64>,
) -> impl Iterator<Item = Result<u64, PageError>> {
    (0..len).step_by(PAGE_SIZE).map(move |offset| {
        let gpa = gpa_of(offset).ok_or(PageError::Unknown { offset })?;
        if gpa % PAGE_SIZE as u64 != 0 {
            return Err(PageError::Unaligned { offset, gpa });
        }
        Ok(gpa / PAGE_SIZE as u64)
    })
}

/// Why a buffer has no page numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageError {
    /// The guest-physical address is not known.
    Unknown {
        /// Offset into the buffer.
        offset: usize,
    },
    /// The guest-physical address does not start a page.
    Unaligned {
        /// Offset into the buffer.
        offset: usize,
        /// The address.
        gpa: u64,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown { offset } => {
                write!(f, "no guest-physical address is known at offset {offset:#x}")
            }
            Self::Unaligned { offset, gpa } => {
                write!(f, "guest-physical address {gpa:#x} at offset {offset:#x} starts no page")
            }
        }
    }
}

impl core::error::Error for PageError {}

/// The messages that lend one range list to the host, in the order they have to be sent.
///
/// ```
/// use vmbus::gpadl::{GpadlId, GpadlMessages, PAGE_SIZE, write_range};
/// use vmbus::protocol::RelId;
///
/// let mut ranges = [0; 8 + 27 * 8];
/// write_range(&mut ranges, 27 * PAGE_SIZE as u32, 0, 0x100..0x100 + 27)?;
/// let messages = GpadlMessages::new(RelId(14), GpadlId::FIRST, 1, &ranges)?;
/// assert_eq!(messages.len(), 2);
/// # Ok::<(), vmbus::gpadl::GpaRangeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GpadlMessages<'a> {
    relid: RelId,
    gpadl: GpadlId,
    range_count: u16,
    range_buflen: u16,
    ranges: &'a [u8],
}

impl<'a> GpadlMessages<'a> {
    /// The messages for the memory that `range_count` ranges name.
    ///
    /// # Errors
    /// [`GpaRangeError::TooLarge`] if the range data is longer than [`MAX_RANGE_BYTES`], and what [`GpaRanges::parse`]
    /// finds wrong with it.
    pub fn new(relid: RelId, gpadl: GpadlId, range_count: u16, ranges: &'a [u8]) -> Result<Self, GpaRangeError> {
        let range_buflen = u16::try_from(ranges.len())
            .map_err(|_| GpaRangeError::TooLarge { range_bytes: ranges.len(), limit: MAX_RANGE_BYTES })?;
        GpaRanges::parse(ranges, u32::from(range_count))?;
        Ok(Self { relid, gpadl, range_count, range_buflen, ranges })
    }

    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a header")]
    pub fn len(&self) -> usize {
        let behind_header = self.ranges.len().saturating_sub(HEADER_RANGE_BYTES);
        1 + behind_header.div_ceil(BODY_RANGE_BYTES)
    }

    /// Message `index`: the header at 0, then the bodies.
    pub fn get(&self, index: usize) -> Option<Message<'a>> {
        let (head, tail) = self.ranges.split_at_checked(HEADER_RANGE_BYTES).unwrap_or((self.ranges, &[]));
        let Some(body) = index.checked_sub(1) else {
            return Some(Message::GpadlHeader(GpadlHeader {
                relid: self.relid,
                gpadl: self.gpadl,
                range_buflen: self.range_buflen,
                range_count: self.range_count,
                data: head,
            }));
        };
        let data = tail.chunks(BODY_RANGE_BYTES).nth(body)?;
        Some(Message::GpadlBody(GpadlBody { message_number: 0, gpadl: self.gpadl, data }))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let this = *self;
        (0..this.len()).filter_map(move |index| this.get(index))
    }
}
