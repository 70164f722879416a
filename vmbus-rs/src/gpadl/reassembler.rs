//! The host's side: putting range lists together from their messages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use super::{GpaRangeError, GpaRanges, GpadlId, RangeList};
use crate::protocol::{GpadlBody, GpadlHeader, RelId};

/// Collects GPADL_HEADER and GPADL_BODY messages until a range list is complete.
///
/// Memory is bounded by [`ReassemblyLimits`] and by the bytes really received; what a header merely announces is not
/// allocated. Forget a channel's lists with [`Reassembler::remove_channel`] when the channel goes away, or its ids stay
/// taken (OpenVMM commit 29b0ef86e).
#[derive(Debug, Default)]
pub struct Reassembler {
    limits: ReassemblyLimits,
    incomplete: BTreeMap<GpadlId, Incomplete>,
}

/// How much a guest may leave unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Incomplete lists at a time; default 256. Each takes at most 64 KiB.
    pub incomplete: usize,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self { incomplete: 256 }
    }
}

/// A list some of whose bytes have arrived.
#[derive(Debug)]
struct Incomplete {
    relid: RelId,
    range_buflen: usize,
    range_count: u16,
    bytes: Vec<u8>,
}

/// Memory that the guest offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpadlMemory {
    /// The channel it belongs to.
    pub relid: RelId,
    /// The guest's name for it.
    pub gpadl: GpadlId,
    /// Its ranges, checked.
    pub ranges: RangeList,
}

/// What a message did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More messages have to follow.
    Incomplete,
    /// The list is complete, and its id is free here again.
    Complete(GpadlMemory),
}

impl Reassembler {
    /// A reassembler with these limits.
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self { limits, incomplete: BTreeMap::new() }
    }

    /// Starts a list.
    ///
    /// Whether the id names a list that was completed before is for the caller to check.
    ///
    /// # Errors
    /// All are to be answered with a failed GPADL_CREATED, and leave nothing behind.
    pub fn header(&mut self, header: &GpadlHeader<'_>) -> Result<Progress, ReassemblyError> {
        let (relid, gpadl) = (header.relid, header.gpadl);
        if self.incomplete.contains_key(&gpadl) {
            return Err(ReassemblyError::DuplicateId { gpadl });
        }
        if self.incomplete.len() >= self.limits.incomplete {
            return Err(ReassemblyError::TooMany { relid, gpadl, limit: self.limits.incomplete });
        }
        let mut list = Incomplete {
            relid,
            range_buflen: usize::from(header.range_buflen),
            range_count: header.range_count,
            bytes: Vec::new(),
        };
        if list.append(header.data) {
            return list.finish(gpadl).map(Progress::Complete);
        }
        self.incomplete.insert(gpadl, list);
        Ok(Progress::Incomplete)
    }

    /// Continues a list.
    ///
    /// # Errors
    /// [`ReassemblyError::UnknownId`] gets no answer, since no channel is known to send it to;
    /// [`ReassemblyError::BadRanges`] is to be answered with a failed GPADL_CREATED, and the list is gone.
    pub fn body(&mut self, body: &GpadlBody<'_>) -> Result<Progress, ReassemblyError> {
        let gpadl = body.gpadl;
        let list = self.incomplete.get_mut(&gpadl).ok_or(ReassemblyError::UnknownId { gpadl })?;
        if !list.append(body.data) {
            return Ok(Progress::Incomplete);
        }
        let list = self.incomplete.remove(&gpadl).ok_or(ReassemblyError::UnknownId { gpadl })?;
        list.finish(gpadl).map(Progress::Complete)
    }

    /// Forgets all lists of a channel, and says how many those were.
    pub fn remove_channel(&mut self, relid: RelId) -> usize {
        let before = self.incomplete.len();
        self.incomplete.retain(|_, list| list.relid != relid);
        before - self.incomplete.len()
    }

    /// Forgets everything: the connection was reset.
    pub fn clear(&mut self) {
        self.incomplete.clear();
    }

    /// The channel of an incomplete list.
    pub fn channel_of(&self, gpadl: GpadlId) -> Option<RelId> {
        self.incomplete.get(&gpadl).map(|list| list.relid)
    }

    /// How many lists are incomplete.
    pub fn len(&self) -> usize {
        self.incomplete.len()
    }

    /// Whether no list is incomplete.
    pub fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }
}

impl Incomplete {
    /// Takes what is still needed of `data` and says whether the list is complete.
    ///
    /// The rest is dropped, not refused: UEFI always sends messages of 240 bytes.
    fn append(&mut self, data: &[u8]) -> bool {
        let missing = self.range_buflen.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(data.get(..missing).unwrap_or(data));
        self.bytes.len() >= self.range_buflen
    }

    /// Checks the ranges of a complete list.
    fn finish(mut self, gpadl: GpadlId) -> Result<GpadlMemory, ReassemblyError> {
        let relid = self.relid;
        let used = GpaRanges::parse(&self.bytes, u32::from(self.range_count))
            .map_err(|error| ReassemblyError::BadRanges { relid, gpadl, error })?
            .as_bytes()
            .len();
        self.bytes.truncate(used);
        let ranges = RangeList::from_checked(self.bytes, self.range_count);
        Ok(GpadlMemory { relid, gpadl, ranges })
    }
}

/// Why the host does not accept a GPADL message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReassemblyError {
    /// The id names a list that is still incomplete.
    DuplicateId {
        /// The id.
        gpadl: GpadlId,
    },
    /// No header came before the body.
    UnknownId {
        /// The id.
        gpadl: GpadlId,
    },
    /// Too many lists are incomplete.
    TooMany {
        /// The channel.
        relid: RelId,
        /// The id.
        gpadl: GpadlId,
        /// Largest number.
        limit: usize,
    },
    /// The complete list is not valid.
    BadRanges {
        /// The channel.
        relid: RelId,
        /// The id.
        gpadl: GpadlId,
        /// What is wrong.
        error: GpaRangeError,
    },
}

impl fmt::Display for ReassemblyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DuplicateId { gpadl } => write!(f, "gpadl {gpadl} is already being described"),
            Self::UnknownId { gpadl } => write!(f, "no header for gpadl {gpadl}"),
            Self::TooMany { relid, gpadl, limit } => {
                write!(f, "gpadl {gpadl} of channel {relid} exceeds {limit} incomplete lists")
            }
            Self::BadRanges { relid, gpadl, .. } => {
                write!(f, "gpadl {gpadl} of channel {relid} has bad ranges")
            }
        }
    }
}

impl core::error::Error for ReassemblyError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::BadRanges { error, .. } => Some(error),
            _ => None,
        }
    }
}
