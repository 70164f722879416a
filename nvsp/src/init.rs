//! Bring-up: version, NDIS version, MTU and capabilities (types 1, 2, 100 and 125).
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`negotiate_nvsp_ver`, `netvsc_connect_vsp`).

use core::{fmt, ops};

use crate::{
    Status, Version,
    field::{message, wire_newtype},
};

message! {
    /// Guest offers the versions from `min_version` to `max_version`.
    ///
    /// All known guests offer one version at a time; see [`only`](Self::only).
    Init = INIT, 12 bytes {
        /// Lowest version offered.
        4 => min_version: Version,
        /// Highest version offered.
        8 => max_version: Version,
    }
}

impl Init {
    /// An offer of one version.
    #[must_use]
    pub const fn only(version: Version) -> Self {
        Self { min_version: version, max_version: version }
    }
}

message! {
    /// Host answers [`Init`]. Any status but success means "offer another version".
    InitComplete = INIT_COMPLETE, 16 bytes {
        /// The version at version 1, else [`DEPRECATED_VERSION`](Self::DEPRECATED_VERSION); guests
        /// ignore it.
        4 => version: Version,
        /// Longest chain of memory descriptors; 34 from OpenVMM; guests ignore it.
        8 => max_mdl_chain_len: u32,
        /// Whether the host takes the offer.
        12 => status: Status,
    }
}

impl InitComplete {
    /// What hosts put in [`version`](Self::version) unless it is 1.
    pub const DEPRECATED_VERSION: Version = Version(0xFFFF_FFFF);
}

message! {
    /// Guest tells its NDIS version; no answer follows.
    NdisVersion = NDIS_VERSION, 12 bytes {
        /// Major number, 6.
        4 => major: u32,
        /// Minor number, 1 or 30.
        8 => minor: u32,
    }
}

impl NdisVersion {
    /// What a guest announces at `version`; see [`Version::ndis_version`].
    #[must_use]
    pub const fn at(version: Version) -> Self {
        let (major, minor) = version.ndis_version();
        Self { major, minor }
    }
}

message! {
    /// Guest tells its frame size and capabilities (version 2 and later); no answer follows.
    NdisConfig = NDIS_CONFIG, 20 bytes {
        /// Largest frame in bytes: the L3 MTU and [14](crate::ETHERNET_HEADER_LEN) bytes of
        /// Ethernet header.
        4 => frame_mtu: u32,
        /// What the guest can do.
        12 => capabilities: Capabilities,
    }
}

/// Bits of [`NdisConfig::capabilities`]. Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u64);

wire_newtype!(Capabilities(u64));

impl Capabilities {
    /// No capability.
    pub const NONE: Self = Self(0);
    /// Virtual machine queues.
    pub const VMQ: Self = Self(1 << 0);
    /// TCP chimney offload.
    pub const CHIMNEY: Self = Self(1 << 1);
    /// Virtual functions.
    pub const SRIOV: Self = Self(1 << 2);
    /// IEEE 802.1Q priority and VLAN as per-packet info.
    pub const IEEE8021Q: Self = Self(1 << 3);
    /// Correlation ids.
    pub const CORRELATION_ID: Self = Self(1 << 4);
    /// Teaming; it is what makes a host report changes of the link speed.
    pub const TEAMING: Self = Self(1 << 5);
    /// Virtual subnet ids.
    pub const VIRTUAL_SUBNET_ID: Self = Self(1 << 6);
    /// Receive segment coalescing over VMBus.
    pub const RSC_OVER_VMBUS: Self = Self(1 << 7);

    /// Names of the defined bits, lowest first.
    const NAMES: [(Self, &'static str); 8] = [
        (Self::VMQ, "VMQ"),
        (Self::CHIMNEY, "CHIMNEY"),
        (Self::SRIOV, "SRIOV"),
        (Self::IEEE8021Q, "IEEE8021Q"),
        (Self::CORRELATION_ID, "CORRELATION_ID"),
        (Self::TEAMING, "TEAMING"),
        (Self::VIRTUAL_SUBNET_ID, "VIRTUAL_SUBNET_ID"),
        (Self::RSC_OVER_VMBUS, "RSC_OVER_VMBUS"),
    ];

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl ops::BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl ops::BitOrAssign for Capabilities {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({:#x}", self.0)?;
        for (bit, name) in Self::NAMES {
            if self.contains(bit) {
                write!(f, " {name}")?;
            }
        }
        f.write_str(")")
    }
}
