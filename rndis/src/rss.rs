//! Receive-side scaling: what the host can do, and what the guest wants.
//!
//! Source: NDIS `NDIS_RECEIVE_SCALE_CAPABILITIES`, `NDIS_RECEIVE_SCALE_PARAMETERS`; Linux
//! `drivers/net/hyperv/rndis_filter.c`; OpenVMM `netvsp/src/rndisprot.rs`.

use crate::bytes::{Fields, Region, emit_len, put_u16, put_u32, room};
use crate::error::{EmitError, ParseError};
pub use crate::ppi::HashInfo;
use crate::value::NdisHeader;

bit_set! {
    /// What the host can do for receive-side scaling; the low byte holds the hash functions.
    pub struct RssCapabilityFlags(u32) {
        /// Function: Toeplitz.
        TOEPLITZ = 0x0000_0001,
        /// TCP over IPv4.
        TCP_IPV4 = 0x0000_0100,
        /// TCP over IPv6.
        TCP_IPV6 = 0x0000_0200,
        /// TCP over IPv6 with extension headers.
        TCP_IPV6_EX = 0x0000_0400,
        /// UDP over IPv4.
        UDP_IPV4 = 0x0000_0800,
        /// UDP over IPv6.
        UDP_IPV6 = 0x0000_1000,
        /// UDP over IPv6 with extension headers.
        UDP_IPV6_EX = 0x0000_2000,
        /// Message-signalled interrupts.
        MESSAGE_SIGNALED_INTERRUPTS = 0x0100_0000,
        /// Classification in the interrupt handler.
        CLASSIFICATION_AT_ISR = 0x0200_0000,
        /// Classification in the deferred call.
        CLASSIFICATION_AT_DPC = 0x0400_0000,
        /// MSI-X in use.
        USING_MSI_X = 0x0800_0000,
        /// Available on ports.
        AVAILABLE_ON_PORTS = 0x1000_0000,
        /// MSI-X supported.
        SUPPORTS_MSI_X = 0x2000_0000,
        /// Entries of the table can move one by one.
        INDEPENDENT_ENTRY_MOVE = 0x4000_0000,
    }
}

/// What the host can do for receive-side scaling.
///
/// The same structure, with header only, is the input of the query: [`RssCapabilities::REQUEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssCapabilities {
    /// Revision of the structure.
    pub revision: u8,
    /// Hash functions and types.
    pub flags: RssCapabilityFlags,
    /// Interrupt messages.
    pub interrupt_messages: u32,
    /// Receive queues; fewer than 2 mean one channel.
    pub receive_queues: u32,
    /// Entries of the indirection table, `None` in revision 1. Drivers read 0 as 128; Linux reads more than 256 as 128
    /// too, which DPDK and FreeBSD refuse.
    pub indirection_entries: Option<u16>,
}

impl RssCapabilities {
    /// Bytes of revision 1.
    pub const LEN_V1: usize = 16;
    /// Bytes of revision 2.
    pub const LEN_V2: usize = 18;
    /// Input of the query: revision 2, all else 0.
    pub const REQUEST: Self = Self {
        revision: 2,
        flags: RssCapabilityFlags::EMPTY,
        interrupt_messages: 0,
        receive_queues: 0,
        indirection_entries: Some(0),
    };

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (header, fields) = NdisHeader::parse(bytes, NdisHeader::RSS_CAPABILITIES, Self::LEN_V1)?;
        let indirection_entries = match header.revision {
            1 => None,
            _ => fields.u16("NumberOfIndirectionTableEntries", 16).ok(),
        };
        Ok(Self {
            revision: header.revision,
            flags: RssCapabilityFlags(fields.u32("CapabilitiesFlags", 4)?),
            interrupt_messages: fields.u32("NumberOfInterruptMessages", 8)?,
            receive_queues: fields.u32("NumberOfReceiveQueues", 12)?,
            indirection_entries,
        })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        if self.indirection_entries.is_some() { Self::LEN_V2 } else { Self::LEN_V1 }
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let len = self.buffer_len();
        let out = room(out, len)?;
        let object_type = NdisHeader::RSS_CAPABILITIES;
        NdisHeader { object_type, revision: self.revision, size: len as u16 }.put(out);
        put_u32(out, 4, self.flags.0);
        put_u32(out, 8, self.interrupt_messages);
        put_u32(out, 12, self.receive_queues);
        if let Some(entries) = self.indirection_entries {
            put_u16(out, 16, entries);
        }
        Ok(len)
    }
}

bit_set! {
    /// What to leave as it is, and whether to switch scaling off.
    pub struct RssFlags(u16) {
        /// Keep the base processor.
        BASE_CPU_UNCHANGED = 0x01,
        /// Keep the hash information.
        HASH_INFO_UNCHANGED = 0x02,
        /// Keep the indirection table.
        TABLE_UNCHANGED = 0x04,
        /// Keep the key.
        KEY_UNCHANGED = 0x08,
        /// Switch scaling off.
        DISABLE = 0x10,
        /// Keep the default processor.
        DEFAULT_PROCESSOR_UNCHANGED = 0x20,
    }
}

/// The indirection table: hash value modulo its length picks an entry, which is a channel number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectionTable<'a> {
    bytes: &'a [u8],
}

impl<'a> IndirectionTable<'a> {
    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() / 4
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (entries, _) = self.bytes.as_chunks();
        entries.iter().map(|entry| u32::from_le_bytes(*entry))
    }
}

/// Scaling as the guest wants it, borrowed; written with [`RssParametersEncoder`].
///
/// Reading checks the layout alone. [`RssParameters::check`] has the rules for switching scaling on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssParameters<'a> {
    /// Revision of the structure.
    pub revision: u8,
    /// What to leave as it is.
    pub flags: RssFlags,
    /// First processor, 0.
    pub base_cpu: u16,
    /// Hash function and types; function 0 switches scaling off in OpenVMM.
    pub hash_info: HashInfo,
    /// The indirection table, empty if its size is 0.
    pub table: IndirectionTable<'a>,
    /// The key, empty if its size is 0.
    pub key: &'a [u8],
    /// Default processor, from revision 3.
    pub default_processor: Option<u32>,
}

impl<'a> RssParameters<'a> {
    /// Bytes of a Toeplitz key.
    pub const KEY_LEN: usize = 40;

    /// Bytes in front of table and key, by revision.
    const fn fixed_len(revision: u8) -> usize {
        match revision {
            0 | 1 => 28,
            2 => 40,
            _ => 44,
        }
    }

    /// Reads the value. Table and key are where their offsets say, in either order.
    ///
    /// The size in the header covers the fixed fields (Linux) or everything (FreeBSD); it has to cover the fixed
    /// fields of its revision. OpenVMM does not look at the header.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, fixed) = NdisHeader::parse(bytes, NdisHeader::RSS_PARAMETERS, Self::fixed_len(1))?;
        let minimum = Self::fixed_len(header.revision) as u32;
        let value = u32::from(header.size);
        if value < minimum {
            return Err(ParseError::BelowMinimum { field: "Header.Size", value, minimum });
        }
        let table_len = fixed.u16("IndirectionTableSize", 12)?;
        if !table_len.is_multiple_of(4) {
            let value = table_len.into();
            return Err(ParseError::Misaligned { field: "IndirectionTableSize", value, unit: 4 });
        }
        let all = Fields::new(bytes);
        let table = all.region(Region {
            offset_field: "IndirectionTableOffset",
            offset: fixed.u32("IndirectionTableOffset", 16)?,
            length_field: "IndirectionTableSize",
            length: table_len.into(),
            base: 0,
            first: minimum,
        })?;
        let key = all.region(Region {
            offset_field: "HashSecretKeyOffset",
            offset: fixed.u32("HashSecretKeyOffset", 24)?,
            length_field: "HashSecretKeySize",
            length: fixed.u16("HashSecretKeySize", 20)?.into(),
            base: 0,
            first: minimum,
        })?;
        let default_processor =
            if header.revision >= 3 { Some(fixed.u32("DefaultProcessorNumber", 40)?) } else { None };
        Ok(Self {
            revision: header.revision,
            flags: RssFlags(fixed.u16("Flags", 4)?),
            base_cpu: fixed.u16("BaseCpuNumber", 6)?,
            hash_info: HashInfo(fixed.u32("HashInformation", 8)?),
            table: IndirectionTable { bytes: table },
            key,
            default_processor,
        })
    }

    /// Whether scaling shall be off: by flag, or by hash function 0 (as OpenVMM has it).
    #[must_use]
    pub const fn is_disabled(&self) -> bool {
        self.flags.contains(RssFlags::DISABLE) || self.hash_info.function() == 0
    }

    /// Checks what a host with `queues` receive queues needs to switch scaling on: a key of 40 bytes, a table that is
    /// not empty, and no entry beyond the queues. Parts that the flags call unchanged are not looked at.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field at fault.
    pub fn check(&self, queues: u32) -> Result<(), ParseError> {
        if !self.flags.contains(RssFlags::KEY_UNCHANGED) && self.key.len() != Self::KEY_LEN {
            return Err(ParseError::Unexpected {
                field: "HashSecretKeySize",
                value: self.key.len() as u32,
                expected: Self::KEY_LEN as u32,
            });
        }
        if !self.flags.contains(RssFlags::TABLE_UNCHANGED) {
            if self.table.is_empty() {
                return Err(ParseError::BelowMinimum { field: "IndirectionTableSize", value: 0, minimum: 4 });
            }
            if let Some(value) = self.table.iter().find(|entry| *entry >= queues) {
                let limit = queues.saturating_sub(1);
                return Err(ParseError::AboveLimit { field: "IndirectionTable", value, limit });
            }
        }
        Ok(())
    }
}

/// Scaling to ask for, in revision 2 (or 3 with a default processor).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssParametersEncoder<'a> {
    /// What to leave as it is.
    pub flags: RssFlags,
    /// Hash function and types; Linux sends [`HashInfo::LINUX`].
    pub hash_info: HashInfo,
    /// Channel number of each entry; Linux and DPDK send 128.
    pub table: &'a [u32],
    /// The key.
    pub key: &'a [u8],
    /// Default processor; makes it revision 3.
    pub default_processor: Option<u32>,
    /// Key in front of the table, as FreeBSD has it; Linux and DPDK put the table first.
    pub key_first: bool,
}

impl RssParametersEncoder<'_> {
    const fn revision(&self) -> u8 {
        if self.default_processor.is_some() { 3 } else { 2 }
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        RssParameters::fixed_len(self.revision()) + self.table.len() * 4 + self.key.len()
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`]; [`EmitError::TooLarge`] if table or
    /// key have more than 65535 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let fixed_len = RssParameters::fixed_len(self.revision());
        let table_len = half_word("IndirectionTableSize", self.table.len() * 4)?;
        let key_len = half_word("HashSecretKeySize", self.key.len())?;
        let (table_at, key_at) = if self.key_first {
            (fixed_len + self.key.len(), fixed_len)
        } else {
            (fixed_len, fixed_len + self.table.len() * 4)
        };
        let out = room(out, self.buffer_len())?;
        out[..fixed_len].fill(0);
        let object_type = NdisHeader::RSS_PARAMETERS;
        NdisHeader { object_type, revision: self.revision(), size: fixed_len as u16 }.put(out);
        put_u16(out, 4, self.flags.0);
        put_u32(out, 8, self.hash_info.0);
        put_u16(out, 12, table_len);
        put_u32(out, 16, emit_len("IndirectionTableOffset", table_at)?);
        put_u16(out, 20, key_len);
        put_u32(out, 24, emit_len("HashSecretKeyOffset", key_at)?);
        if let Some(processor) = self.default_processor {
            put_u32(out, 40, processor);
        }
        for (place, entry) in out[table_at..].chunks_exact_mut(4).zip(self.table) {
            place.copy_from_slice(&entry.to_le_bytes());
        }
        out[key_at..key_at + self.key.len()].copy_from_slice(self.key);
        Ok(out.len())
    }
}

fn half_word(field: &'static str, value: usize) -> Result<u16, EmitError> {
    u16::try_from(value).map_err(|_| EmitError::TooLarge { field, value, limit: u16::MAX as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [u32; 4] = [0, 1, 2, 3];
    const KEY: [u8; 40] = [7; 40];
    const GOOD: RssParametersEncoder<'_> = RssParametersEncoder {
        flags: RssFlags::EMPTY,
        hash_info: HashInfo::LINUX,
        table: &TABLE,
        key: &KEY,
        default_processor: None,
        key_first: false,
    };

    #[test]
    fn each_bad_field_is_named() {
        let mut good = [0; 96];
        assert_eq!(GOOD.emit(&mut good), Ok(96));
        let cases: [(usize, &[u32], &str); 5] = [
            (2, &[0, 27, 39, 97, 0xFFFF], "Header.Size"),
            (12, &[2, 60, 61, 0xFFFF], "IndirectionTableSize"),
            (16, &[0, 39, 97, u32::MAX], "IndirectionTableOffset"),
            (20, &[41, 0xFFFF], "HashSecretKeySize"),
            (24, &[0, 39, 97, u32::MAX], "HashSecretKeyOffset"),
        ];
        for (at, values, field) in cases {
            for value in values {
                let mut bad = good;
                match at {
                    2 | 12 | 20 => put_u16(&mut bad, at, *value as u16),
                    _ => put_u32(&mut bad, at, *value),
                }
                assert_eq!(RssParameters::parse(&bad).unwrap_err().field(), field, "{value}");
            }
        }
    }

    #[test]
    fn revisions_differ_in_their_fixed_fields() {
        let mut bytes = [0; 100];
        let third = RssParametersEncoder { default_processor: Some(5), key_first: true, ..GOOD };
        assert_eq!(third.emit(&mut bytes), Ok(100));
        let parsed = RssParameters::parse(&bytes).unwrap();
        assert_eq!((parsed.revision, parsed.default_processor), (3, Some(5)));
        assert!(parsed.table.iter().eq(TABLE) && parsed.key == KEY);

        // Revision 1 ends before the processor mask.
        let mut bytes = [0; 32];
        NdisHeader { object_type: 0x89, revision: 1, size: 28 }.put(&mut bytes);
        put_u16(&mut bytes, 12, 4);
        put_u32(&mut bytes, 16, 28);
        let parsed = RssParameters::parse(&bytes).unwrap();
        assert_eq!((parsed.table.len(), parsed.key.len()), (1, 0));
    }

    #[test]
    fn unchanged_parts_are_not_checked() {
        let mut bytes = [0; 40];
        let flags = RssFlags::KEY_UNCHANGED | RssFlags::TABLE_UNCHANGED;
        RssParametersEncoder { flags, table: &[], key: &[], ..GOOD }.emit(&mut bytes).unwrap();
        assert!(RssParameters::parse(&bytes).unwrap().check(1).is_ok());
        bytes[4] = 0;
        assert!(RssParameters::parse(&bytes).unwrap().check(1).is_err());
    }

    #[test]
    fn capabilities_of_revision_1_have_no_table_size() {
        let capabilities = RssCapabilities { revision: 1, indirection_entries: None, ..RssCapabilities::REQUEST };
        let mut bytes = [0xFF; 18];
        assert_eq!(capabilities.emit(&mut bytes), Ok(16));
        assert_eq!(RssCapabilities::parse(&bytes), Ok(capabilities));
        for len in 0..16 {
            assert!(RssCapabilities::parse(&bytes[..len]).is_err());
        }
    }
}
