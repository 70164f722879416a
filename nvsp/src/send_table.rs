//! The send indirection table (type 134, version 5 and later): which channel a flow is sent on.
//!
//! Two sides have read the offset differently, so parsing needs the negotiated version; see
//! [`SendTable::parse`].
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_send_table`), with "hv_netvsc: Fix offset
//! usage in netvsc_send_table()" and "hv_netvsc: Fix send_table offset in case of a host bug".

use crate::{EmitError, MESSAGE_LEN, MessageType, ParseError, SEND_TABLE_LEN, Version, field, message_type};

const NAME: &str = MessageType::SEND_TABLE.label();
/// Bytes of the table itself.
const TABLE_BYTES: usize = 4 * SEND_TABLE_LEN;
/// End of the fixed fields; the table may start here.
const HEADER_LEN: usize = 12;
/// Where the table is in a message of the host bug, and from which message length on that can be.
const HOST_BUG_OFFSET: usize = MESSAGE_LEN;
const HOST_BUG_MIN_LEN: usize = HOST_BUG_OFFSET + TABLE_BYTES;

/// The table itself: entry `hash mod 16` is the channel number of a flow.
///
/// The numbers are the host's: reduce them to the channels that are open before they index
/// anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SendTable {
    /// Channel numbers.
    pub entries: [u32; SEND_TABLE_LEN],
}

/// Where a host puts the table, and where it says it did, in bytes from the message's first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SendTableLayout {
    /// What the offset field says.
    pub stated_offset: u32,
    /// Where the table is; at least 12.
    pub actual_offset: usize,
}

impl SendTableLayout {
    /// OpenVMM: right behind the fixed fields.
    pub const COMPACT: Self = Self { stated_offset: 12, actual_offset: HEADER_LEN };
    /// Behind a 40-byte message, as from version 6.1 on.
    pub const FULL: Self = Self { stated_offset: 40, actual_offset: 40 };
    /// Behind a 28-byte message.
    pub const LEGACY: Self = Self { stated_offset: 28, actual_offset: 28 };
    /// The host bug at versions up to 6: the offset is of a 28-byte message, the table behind a
    /// 40-byte one.
    pub const HOST_BUG: Self = Self { stated_offset: 28, actual_offset: HOST_BUG_OFFSET };
}

impl SendTable {
    /// The type this message carries in its first four bytes.
    pub const MESSAGE_TYPE: MessageType = MessageType::SEND_TABLE;

    /// Reads the table from a whole message, `negotiated` being the version of the session.
    ///
    /// The stated offset counts from the message's first byte. If the version is at most 6 and the
    /// message has 104 bytes or more, the table is at 40 whatever is stated (a host bug). An offset
    /// below 12, into the fixed fields, is let through as in Linux: the entries mean nothing then,
    /// but no entry can be trusted anyway.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] for a message without room for its fields or any table,
    /// [`ParseError::Unexpected`] if it is another message or the count is not 16,
    /// [`ParseError::BadOffset`] if the table would end outside.
    pub fn parse(bytes: &[u8], negotiated: Version) -> Result<Self, ParseError> {
        SendTableMessage::parse(bytes)?.table(negotiated)
    }

    /// Bytes that [`emit`](Self::emit) writes with `layout`.
    #[must_use]
    pub const fn buffer_len(&self, layout: SendTableLayout) -> usize {
        layout.actual_offset.saturating_add(TABLE_BYTES)
    }

    /// Writes the message to the front of `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`EmitError::BufferTooSmall`], or [`EmitError::BadOffset`] if the table would cover the
    /// fixed fields; `out` is then unchanged.
    pub fn emit(&self, layout: SendTableLayout, out: &mut [u8]) -> Result<usize, EmitError> {
        if layout.actual_offset < HEADER_LEN {
            return Err(EmitError::BadOffset {
                field: "actual_offset",
                value: layout.actual_offset,
                minimum: HEADER_LEN,
            });
        }
        let out = field::front_slice(out, self.buffer_len(layout))?;
        out.fill(0);
        field::put::<MessageType>(out, 0, Self::MESSAGE_TYPE);
        field::put::<u32>(out, 4, SEND_TABLE_LEN as u32);
        field::put::<u32>(out, 8, layout.stated_offset);
        for (entry, out) in self.entries.iter().zip(out[layout.actual_offset..].chunks_exact_mut(4)) {
            out.copy_from_slice(&entry.to_le_bytes());
        }
        Ok(out.len())
    }

    /// Writes the message and zeros up to `padded_len` bytes in all, and returns the bytes written.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_padded(&self, layout: SendTableLayout, out: &mut [u8], padded_len: usize) -> Result<usize, EmitError> {
        field::pad(out, self.buffer_len(layout), padded_len, |out| self.emit(layout, out))
    }
}

/// A send table message whose table is not looked up yet, for that takes the negotiated version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendTableMessage<'a> {
    bytes: &'a [u8],
    count: u32,
    offset: u32,
}

impl<'a> SendTableMessage<'a> {
    /// The type this message carries in its first four bytes.
    pub const MESSAGE_TYPE: MessageType = MessageType::SEND_TABLE;
    /// Bytes of the fixed fields.
    pub const MIN_LEN: usize = HEADER_LEN;

    /// Reads the fixed fields. All of `bytes` are the message: its length decides where the table
    /// is.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] naming the first field that is missing, [`ParseError::Unexpected`]
    /// for another message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        message_type::expect(bytes, Self::MESSAGE_TYPE)?;
        Ok(Self {
            bytes,
            count: field::read::<u32>(bytes, NAME, 4, "count")?,
            offset: field::read::<u32>(bytes, NAME, 8, "offset")?,
        })
    }

    /// Number of entries as stated; anything but 16 makes [`table`](Self::table) fail.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Offset of the table as stated.
    #[must_use]
    pub const fn stated_offset(&self) -> u32 {
        self.offset
    }

    /// The message's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Finds and reads the table.
    ///
    /// # Errors
    /// As [`SendTable::parse`].
    pub fn table(&self, negotiated: Version) -> Result<SendTable, ParseError> {
        let len = self.bytes.len();
        if self.count as usize != SEND_TABLE_LEN {
            return Err(ParseError::Unexpected {
                message: NAME,
                field: "count",
                value: self.count,
                expected: SEND_TABLE_LEN as u32,
            });
        }
        let Some(limit) = len.checked_sub(TABLE_BYTES) else {
            return Err(ParseError::Truncated { message: NAME, field: "entries", needed: TABLE_BYTES, len });
        };
        let offset = if negotiated <= Version::V6 && len >= HOST_BUG_MIN_LEN {
            HOST_BUG_OFFSET
        } else {
            usize::try_from(self.offset).unwrap_or(usize::MAX)
        };
        let bad = ParseError::BadOffset { message: NAME, field: "offset", value: self.offset, limit };
        let table = self.bytes.get(offset..).and_then(|rest| rest.first_chunk::<TABLE_BYTES>()).ok_or(bad)?;
        let mut entries = [0; SEND_TABLE_LEN];
        for (entry, bytes) in entries.iter_mut().zip(table.as_chunks().0) {
            *entry = u32::from_le_bytes(*bytes);
        }
        Ok(SendTable { entries })
    }

    /// Bytes that [`emit`](Self::emit) writes: as many as were parsed.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    /// Copies the message to the front of `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`EmitError::BufferTooSmall`]; `out` is then unchanged.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        field::front_slice(out, self.bytes.len())?.copy_from_slice(self.bytes);
        Ok(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    const TABLE: SendTable = SendTable { entries: [7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7] };

    fn emitted(layout: SendTableLayout) -> Vec<u8> {
        let mut out = [0xFF; 128];
        let len = TABLE.emit(layout, &mut out).unwrap();
        assert_eq!(len, TABLE.buffer_len(layout));
        out[..len].to_vec()
    }

    #[test]
    fn every_layout_reads_back_at_the_version_that_sends_it() {
        for (layout, version) in [
            (SendTableLayout::COMPACT, Version::V5),
            (SendTableLayout::COMPACT, Version::V6_1),
            (SendTableLayout::LEGACY, Version::V5),
            (SendTableLayout::HOST_BUG, Version::V5),
            (SendTableLayout::HOST_BUG, Version::V6),
            (SendTableLayout::FULL, Version::V6_1),
        ] {
            assert_eq!(SendTable::parse(&emitted(layout), version), Ok(TABLE), "{layout:?} {version}");
        }
    }

    #[test]
    fn from_6_1_on_the_stated_offset_is_believed() {
        let bytes = emitted(SendTableLayout::HOST_BUG);
        assert_eq!(bytes.len(), 104);
        let table = SendTable::parse(&bytes, Version::V6_1).unwrap();
        assert_eq!(table.entries[..3], [0, 0, 0]);
        assert_eq!(table.entries[3..], TABLE.entries[..13]);
    }

    #[test]
    fn the_bug_rule_starts_at_104_bytes() {
        // 103 bytes hold no table at 40; the stated 28 counts.
        let bytes = emitted(SendTableLayout::HOST_BUG);
        let table = SendTable::parse(&bytes[..103], Version::V5).unwrap();
        assert_eq!(table.entries[3], TABLE.entries[0]);
    }

    #[test]
    fn a_table_over_the_fixed_fields_is_not_written() {
        let layout = SendTableLayout { stated_offset: 8, actual_offset: 8 };
        let expected = EmitError::BadOffset { field: "actual_offset", value: 8, minimum: 12 };
        assert_eq!(TABLE.emit(layout, &mut [0; 128]), Err(expected));
        let far = SendTableLayout { stated_offset: 0, actual_offset: usize::MAX };
        assert!(TABLE.emit(far, &mut [0; 128]).is_err());
    }
}
