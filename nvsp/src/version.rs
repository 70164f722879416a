//! The protocol version and what each version brings.
//!
//! Source: Linux `drivers/net/hyperv/hyperv_net.h` and `netvsc.c` (`negotiate_nvsp_ver`); OpenVMM
//! `vm/devices/net/netvsp/src/protocol.rs`.

use core::{error, fmt, str::FromStr};

use crate::field::wire_newtype;

/// A protocol version as it stands on the wire.
///
/// From version 2 on the upper half is the major number and the lower half the minor one; the order
/// of the numbers is the order of the versions. There is no version 3. Unknown values are kept.
///
/// ```
/// use nvsp::Version;
///
/// assert_eq!("6.1".parse(), Ok(Version::V6_1));
/// assert!(Version::V5 < Version::V6 && Version::V5.has_subchannels());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

wire_newtype!(Version(u32));

impl Version {
    /// Version 1: buffers and RNDIS packets.
    pub const V1: Self = Self(0x0000_0002);
    /// Version 2: [`NdisConfig`](crate::NdisConfig), jumbo frames.
    pub const V2: Self = Self(0x0003_0002);
    /// Version 4: virtual functions.
    pub const V4: Self = Self(0x0004_0000);
    /// Version 5: subchannels, send indirection table, OID queries.
    pub const V5: Self = Self(0x0005_0000);
    /// Version 6: Packet Direct on paper; one shipped client announces 6 with the messages of 5.
    pub const V6: Self = Self(0x0006_0000);
    /// Version 6.1: 40-byte messages, receive segment coalescing over VMBus.
    pub const V6_1: Self = Self(0x0006_0001);

    /// Every released version, newest first: the order in which a guest offers them.
    pub const ALL: [Self; 6] = [Self::V6_1, Self::V6, Self::V5, Self::V4, Self::V2, Self::V1];

    /// The name (`"6.1"`), if the version is one of [`ALL`](Self::ALL).
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::V1 => Some("1"),
            Self::V2 => Some("2"),
            Self::V4 => Some("4"),
            Self::V5 => Some("5"),
            Self::V6 => Some("6"),
            Self::V6_1 => Some("6.1"),
            _ => None,
        }
    }

    /// Whether the version is one of [`ALL`](Self::ALL).
    #[must_use]
    pub const fn is_released(self) -> bool {
        self.name().is_some()
    }

    /// The newest released version below this one: what a guest offers next after a refusal.
    #[must_use]
    pub fn next_lower(self) -> Option<Self> {
        Self::ALL.into_iter().find(|version| *version < self)
    }

    /// The NDIS version (major, minor) that a guest announces at this version: 6.1 below version 5,
    /// else 6.30.
    ///
    /// 6.30 is minor 30 (`0x1E`), not 3. Source: Linux `netvsc.c` (`netvsc_connect_vsp`).
    #[must_use]
    pub const fn ndis_version(self) -> (u32, u32) {
        if self.0 < Self::V5.0 { (6, 1) } else { (6, 30) }
    }

    /// Bytes of a full message once this version is negotiated: 40 from 6.1 on, else 28.
    ///
    /// [`InitComplete`](crate::InitComplete) always has 28, since the guest does not know the
    /// version before it. Linux and DPDK send 40 at every version, which a host has to accept.
    #[must_use]
    pub const fn message_len(self) -> usize {
        if self.0 < Self::V6_1.0 { crate::LEGACY_MESSAGE_LEN } else { crate::MESSAGE_LEN }
    }

    /// Largest receive buffer in bytes that a guest gives: 15 MiB up to version 2, else 31 MiB
    /// (Linux).
    #[must_use]
    pub const fn max_receive_buffer(self) -> usize {
        if self.0 <= Self::V2.0 { crate::LEGACY_MAX_RECEIVE_BUFFER } else { crate::MAX_RECEIVE_BUFFER }
    }

    /// Whether [`NdisConfig`](crate::NdisConfig) exists (2 and later); without it the MTU is 1500.
    #[must_use]
    pub const fn has_ndis_config(self) -> bool {
        self.0 >= Self::V2.0
    }

    /// Whether the messages about virtual functions exist (4 and later).
    #[must_use]
    pub const fn has_vf(self) -> bool {
        self.0 >= Self::V4.0
    }

    /// Whether subchannels may be asked for (5 and later).
    #[must_use]
    pub const fn has_subchannels(self) -> bool {
        self.0 >= Self::V5.0
    }

    /// Whether the host sends a send indirection table (5 and later).
    #[must_use]
    pub const fn has_send_table(self) -> bool {
        self.0 >= Self::V5.0
    }

    /// Whether the host reports changes of the link speed to a guest that says
    /// [`TEAMING`](crate::Capabilities::TEAMING) (5 and later).
    #[must_use]
    pub const fn has_link_speed_changes(self) -> bool {
        self.0 >= Self::V5.0
    }

    /// Whether receive segment coalescing may be agreed on (6.1 and later).
    #[must_use]
    pub const fn has_rsc(self) -> bool {
        self.0 >= Self::V6_1.0
    }

    /// Whether Packet Direct messages are valid: from 6.1 on, though they were defined for 6.
    #[must_use]
    pub const fn has_packet_direct(self) -> bool {
        self.0 >= Self::V6_1.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

/// The text names no released version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ParseVersionError;

impl fmt::Display for ParseVersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an nvsp version: 1, 2, 4, 5, 6 or 6.1")
    }
}

impl error::Error for ParseVersionError {}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|version| version.name() == Some(text)).ok_or(ParseVersionError)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn names_read_back() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for unknown in ["", "3", "6.0", "7", "0x60001", " 6"] {
            assert_eq!(unknown.parse::<Version>(), Err(ParseVersionError), "{unknown}");
        }
        assert_eq!(Version(0x0007_0000).to_string(), "0x00070000");
    }

    #[test]
    fn all_descends_and_next_lower_walks_it() {
        assert!(Version::ALL.is_sorted_by(|a, b| a > b));
        for pair in Version::ALL.windows(2) {
            assert_eq!(pair[0].next_lower(), Some(pair[1]));
        }
        assert_eq!(Version::V1.next_lower(), None);
        assert_eq!(Version(0x0007_0000).next_lower(), Some(Version::V6_1));
    }

    #[test]
    fn each_version_brings_what_the_table_says() {
        // (version, ndis minor, message bytes, ndis config, vf, subchannels, rsc)
        let table = [
            (Version::V1, 1, 28, false, false, false, false),
            (Version::V2, 1, 28, true, false, false, false),
            (Version::V4, 1, 28, true, true, false, false),
            (Version::V5, 30, 28, true, true, true, false),
            (Version::V6, 30, 28, true, true, true, false),
            (Version::V6_1, 30, 40, true, true, true, true),
        ];
        for (version, minor, len, config, vf, subchannels, rsc) in table {
            assert_eq!(version.ndis_version(), (6, minor));
            assert_eq!(version.message_len(), len);
            assert_eq!(version.has_ndis_config(), config);
            assert_eq!(version.has_vf(), vf);
            assert_eq!(version.has_subchannels(), subchannels);
            assert_eq!(version.has_send_table(), subchannels);
            assert_eq!(version.has_link_speed_changes(), subchannels);
            assert_eq!(version.has_rsc(), rsc);
            assert_eq!(version.has_packet_direct(), rsc);
            assert_eq!(version.max_receive_buffer(), if vf { 31 << 20 } else { 15 << 20 });
        }
    }
}
