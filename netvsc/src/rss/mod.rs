//! Receive side scaling: the Toeplitz hash, and what the host is told to do with it.
//!
//! The host hashes each received frame's addresses (and ports) with a key, looks the hash up in an indirection table, and
//! puts the frame on the channel that it finds there. [`RssSettings`] is what the guest chooses of it, [`Toeplitz`] the
//! same hash in software. [`EntryLoads`] tells which entries should move if the queues are loaded unevenly.
//!
//! Sources: NDIS `NDIS_RECEIVE_SCALE_PARAMETERS`; Microsoft's "RSS hashing functions" with its verification suite; Linux
//! `drivers/net/hyperv/rndis_filter.c` (`rndis_set_rss_param_msg`, `netvsc_hash_key`).

mod balance;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use rndis::rss::{HashInfo, RssCapabilities, RssCapabilityFlags, RssFlags, RssParametersEncoder};

pub use balance::{EntryLoads, Skew};

/// Bytes of a key.
pub const KEY_BYTES: usize = 40;
/// Longest input: two IPv6 addresses and two ports.
pub const MAX_INPUT_BYTES: usize = 36;
/// Entries of a table whose host says nothing sensible about it (Linux `ITAB_NUM`).
pub const DEFAULT_ENTRIES: usize = 128;
/// Most entries that a host may name (Linux `ITAB_NUM_MAX`).
pub const MAX_ENTRIES: usize = 256;

/// The key of the hash. Not a secret: everybody uses one of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RssKey(pub [u8; KEY_BYTES]);

impl RssKey {
    /// Microsoft's verification suite and Linux' default.
    pub const MICROSOFT: Self = Self([
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F, 0xB0, 0xD0, 0xCA,
        0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30, 0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B,
        0xBE, 0xAC, 0x01, 0xFA,
    ]);
    /// DPDK's default, that of its mlx5 driver: a virtual function then agrees with the synthetic path.
    pub const MLX5: Self = Self([
        0x2C, 0xC6, 0x81, 0xD1, 0x5B, 0xDB, 0xF4, 0xF7, 0xFC, 0xA2, 0x83, 0x19, 0xDB, 0x1A, 0x3E, 0x94, 0x6B, 0x9E,
        0x38, 0xD9, 0x2C, 0x9C, 0x03, 0xD1, 0xAD, 0x99, 0x44, 0xA7, 0xD9, 0x56, 0x3D, 0x59, 0x06, 0x3C, 0x25, 0xF3,
        0xFC, 0x1F, 0xDC, 0x2A,
    ]);
}

impl Default for RssKey {
    fn default() -> Self {
        Self::MICROSOFT
    }
}

impl fmt::Debug for RssKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RssKey(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// The Toeplitz hash with one key.
///
/// A bit of the input that is set adds, by exclusive or, the 32 bits of the key that begin at its place. Here the sums of all
/// values of each input byte are kept: a lookup a byte, 36 KiB a key, of which IPv4 with ports touches 12.
#[derive(Debug, Clone)]
pub struct Toeplitz {
    rows: Box<[[u32; 256]]>,
}

impl Toeplitz {
    /// Computes the tables of `key`.
    #[must_use]
    pub fn new(key: &RssKey) -> Self {
        let mut rows = vec![[0; 256]; MAX_INPUT_BYTES].into_boxed_slice();
        // Byte `at` of the input meets the 40 bits of the key from there on; the key has four bytes more than the input.
        for (row, key) in rows.iter_mut().zip(key.0.windows(5)) {
            let bits = key.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for (value, sum) in row.iter_mut().enumerate() {
                for bit in 0..8 {
                    if value & (0x80 >> bit) != 0 {
                        *sum ^= (bits >> (8 - bit)) as u32;
                    }
                }
            }
        }
        Self { rows }
    }

    /// The hash of `input`: source address, destination address and, if they count, source port and destination port, in
    /// network order. What is longer than [`MAX_INPUT_BYTES`] does not count.
    #[inline]
    #[must_use]
    pub fn hash(&self, input: &[u8]) -> u32 {
        self.rows.iter().zip(input).fold(0, |hash, (row, byte)| hash ^ row[usize::from(*byte)])
    }
}

/// How the host shall spread received frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssSettings {
    /// The key.
    pub key: RssKey,
    /// What is hashed; [`HashInfo::LINUX`], as far as the host can, unless chosen otherwise. Must have
    /// [`HashInfo::TOEPLITZ`].
    pub hash_types: HashInfo,
    /// Queue of each hash value: the hash modulo the table's length picks the entry.
    pub table: Vec<u16>,
}

impl RssSettings {
    /// What Linux sets: its key and types, as far as the host has them, and the queues in turn.
    #[must_use]
    pub fn spread(capabilities: &RssCapabilities, queues: &[u16]) -> Self {
        let table = queues.iter().copied().cycle().take(table_entries(capabilities)).collect();
        Self { key: RssKey::default(), hash_types: HashInfo(HashInfo::LINUX.0 & hash_types(capabilities).0), table }
    }

    /// Checks the settings against a host and the queues there are.
    ///
    /// # Errors
    /// [`RssError`].
    pub fn check(&self, capabilities: &RssCapabilities, queues: &[u16]) -> Result<(), RssError> {
        if !self.hash_types.contains(HashInfo::TOEPLITZ) || self.hash_types.types().0 == 0 {
            return Err(RssError::NoHash { hash_types: self.hash_types });
        }
        let possible = hash_types(capabilities);
        if !possible.contains(self.hash_types) {
            return Err(RssError::HashTypes { hash_types: self.hash_types, possible });
        }
        let limit = table_entries(capabilities);
        if self.table.is_empty() || self.table.len() > limit {
            return Err(RssError::TableLength { entries: self.table.len(), limit });
        }
        match self.table.iter().position(|queue| !queues.contains(queue)) {
            Some(entry) => Err(RssError::NoSuchQueue { entry, queue: self.table[entry] }),
            None => Ok(()),
        }
    }

    /// Puts live queues into the entries of those that are not in `queues`, in turn.
    pub(crate) fn redirect(&mut self, queues: &[u16]) {
        let mut turn = queues.iter().copied().cycle();
        for entry in &mut self.table {
            if !queues.contains(entry) {
                *entry = turn.next().unwrap_or(0);
            }
        }
    }

    /// The value of `OID_GEN_RECEIVE_SCALE_PARAMETERS` that sets these, or switches scaling off in front of that: Linux and
    /// DPDK do so each time, as hosts want it.
    pub(crate) fn encode(&self, disable: bool) -> Vec<u8> {
        let table: Vec<u32> = self.table.iter().copied().map(u32::from).collect();
        let encoder = RssParametersEncoder {
            flags: if disable { RssFlags::DISABLE } else { RssFlags::EMPTY },
            hash_info: self.hash_types,
            table: &table,
            key: &self.key.0,
            default_processor: None,
            key_first: false,
        };
        let mut out = vec![0; encoder.buffer_len()];
        // It needs as many bytes as it said, and tables are short; were it to disagree, the host would refuse the value.
        let written = encoder.emit(&mut out).unwrap_or(0);
        out.truncate(written);
        out
    }
}

/// Entries of the indirection table. Linux takes 0 and more than 256 for 128, as does revision 1, which has no such field.
#[must_use]
pub fn table_entries(capabilities: &RssCapabilities) -> usize {
    match capabilities.indirection_entries.map_or(0, usize::from) {
        0 => DEFAULT_ENTRIES,
        entries if entries > MAX_ENTRIES => DEFAULT_ENTRIES,
        entries => entries,
    }
}

/// What the host can hash; empty if not by Toeplitz. Whoever can hash TCP over IP can hash IP, for which NDIS has no bit.
#[must_use]
pub fn hash_types(capabilities: &RssCapabilities) -> HashInfo {
    if !capabilities.flags.contains(RssCapabilityFlags::TOEPLITZ) {
        return HashInfo(0);
    }
    [
        (RssCapabilityFlags::TCP_IPV4, HashInfo::IPV4 | HashInfo::TCP_IPV4),
        (RssCapabilityFlags::TCP_IPV6, HashInfo::IPV6 | HashInfo::TCP_IPV6),
        (RssCapabilityFlags::TCP_IPV6_EX, HashInfo::IPV6_EX | HashInfo::TCP_IPV6_EX),
        (RssCapabilityFlags::UDP_IPV4, HashInfo::IPV4 | HashInfo::UDP_IPV4),
        (RssCapabilityFlags::UDP_IPV6, HashInfo::IPV6 | HashInfo::UDP_IPV6),
        (RssCapabilityFlags::UDP_IPV6_EX, HashInfo::IPV6_EX | HashInfo::UDP_IPV6_EX),
    ]
    .into_iter()
    .filter(|(flag, _)| capabilities.flags.contains(*flag))
    .fold(HashInfo::TOEPLITZ, |all, (_, types)| all | types)
}

/// Settings that cannot be. The caller is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RssError {
    /// There is nothing to spread over: one queue, or a host without scaling.
    OneQueue,
    /// Neither function nor type, or no function.
    NoHash {
        /// What was given.
        hash_types: HashInfo,
    },
    /// The host cannot hash that.
    HashTypes {
        /// What was given.
        hash_types: HashInfo,
        /// What it can.
        possible: HashInfo,
    },
    /// A table that is empty or longer than the host's.
    TableLength {
        /// Entries given.
        entries: usize,
        /// Most entries.
        limit: usize,
    },
    /// An entry that names no queue.
    NoSuchQueue {
        /// Which entry.
        entry: usize,
        /// What it names.
        queue: u16,
    },
}

impl fmt::Display for RssError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneQueue => f.write_str("there is one queue only"),
            Self::NoHash { hash_types } => write!(f, "hash types {:#x} have no function or no type", hash_types.0),
            Self::HashTypes { hash_types, possible } => {
                write!(f, "hash types {:#x}, the host has {:#x}", hash_types.0, possible.0)
            }
            Self::TableLength { entries, limit } => {
                write!(f, "indirection table of {entries} entries, 1 to {limit} are possible")
            }
            Self::NoSuchQueue { entry, queue } => {
                write!(f, "entry {entry} of the indirection table names queue {queue}, which is not there")
            }
        }
    }
}

impl core::error::Error for RssError {}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABILITIES: RssCapabilities = RssCapabilities {
        revision: 2,
        flags: RssCapabilityFlags(0x301),
        interrupt_messages: 1,
        receive_queues: 8,
        indirection_entries: Some(128),
    };

    #[test]
    fn the_default_is_that_of_linux() {
        let settings = RssSettings::spread(&CAPABILITIES, &[0, 1, 2]);
        assert_eq!(settings.hash_types, HashInfo::LINUX);
        assert_eq!(settings.table.len(), 128);
        assert!(settings.table.iter().enumerate().all(|(at, queue)| usize::from(*queue) == at % 3));
        let bytes = settings.encode(false);
        assert_eq!(bytes.len(), 40 + 128 * 4 + 40);
        assert_eq!(settings.check(&CAPABILITIES, &[0, 1, 2]), Ok(()));
        assert_eq!(settings.check(&CAPABILITIES, &[0, 1]), Err(RssError::NoSuchQueue { entry: 2, queue: 2 }));
    }

    #[test]
    fn types_are_those_of_the_host() {
        let only_v4 = RssCapabilities { flags: RssCapabilityFlags(0x101), ..CAPABILITIES };
        let settings = RssSettings::spread(&only_v4, &[0, 1]);
        assert_eq!(settings.hash_types.0, 0x301);
        let wish = RssSettings { hash_types: HashInfo::LINUX, ..settings };
        assert!(matches!(wish.check(&only_v4, &[0, 1]), Err(RssError::HashTypes { .. })));
        assert_eq!(hash_types(&RssCapabilities { flags: RssCapabilityFlags(0x300), ..CAPABILITIES }).0, 0);
    }

    #[test]
    fn odd_table_sizes_are_read_as_linux_does() {
        for (said, entries) in [(None, 128), (Some(0), 128), (Some(257), 128), (Some(256), 256), (Some(16), 16)] {
            assert_eq!(table_entries(&RssCapabilities { indirection_entries: said, ..CAPABILITIES }), entries);
        }
    }

    #[test]
    fn entries_of_lost_queues_go_to_those_that_live() {
        let mut settings = RssSettings::spread(&CAPABILITIES, &[0, 1, 2, 3]);
        settings.redirect(&[0, 1, 3]);
        assert_eq!(settings.table[..12], [0, 1, 0, 3, 0, 1, 1, 3, 0, 1, 3, 3]);
    }
}
