//! Protocol versions, and the feature flags of version 6.0.
//!
//! Source: Linux `include/linux/hyperv.h` (`VERSION_*`); OpenVMM `vmbus_core/src/protocol.rs` (`FeatureFlags`).

use core::fmt;

/// A protocol version: `major << 16 | minor`, so versions compare as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// Windows Server 2008.
    pub const V0_13: Self = Self::new(0, 13);
    /// Windows 7, Server 2008 R2: signalling per channel, UNLOAD_RESPONSE.
    pub const V1_1: Self = Self::new(1, 1);
    /// Windows 8, Server 2012: subchannels, event flags per channel. The oldest one Linux speaks.
    pub const V2_4: Self = Self::new(2, 4);
    /// Windows 8.1, Server 2012 R2: reconnecting after UNLOAD.
    pub const V3_0: Self = Self::new(3, 0);
    /// Windows 10, Server 2016: hvsock, reserved channels.
    pub const V4_0: Self = Self::new(4, 0);
    /// Windows 10 RS3: MODIFYCHANNEL.
    pub const V4_1: Self = Self::new(4, 1);
    /// Windows 10 RS3 and later: the message connection id comes with VERSION_RESPONSE.
    pub const V5_0: Self = Self::new(5, 0);
    /// Windows 10 RS4: target VTL in INITIATE_CONTACT.
    pub const V5_1: Self = Self::new(5, 1);
    /// Windows 10 RS5, Server 2019: silo id in TL_CONNECT_REQUEST.
    pub const V5_2: Self = Self::new(5, 2);
    /// Iron, Server 2022: MODIFYCHANNEL is always answered.
    pub const V5_3: Self = Self::new(5, 3);
    /// Copper, Server 2025: feature flags.
    pub const V6_0: Self = Self::new(6, 0);

    /// Every version, newest first: the order in which a guest tries them.
    pub const ALL: [Self; 11] = [
        Self::V6_0,
        Self::V5_3,
        Self::V5_2,
        Self::V5_1,
        Self::V5_0,
        Self::V4_1,
        Self::V4_0,
        Self::V3_0,
        Self::V2_4,
        Self::V1_1,
        Self::V0_13,
    ];

    /// A version from its two parts.
    pub const fn new(major: u16, minor: u16) -> Self {
        // Widening casts: `From` is not const.
        Self((major as u32) << 16 | minor as u32)
    }

    /// The major part.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The minor part.
    pub const fn minor(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Whether this crate knows the version.
    pub fn is_known(self) -> bool {
        Self::ALL.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// Optional parts of version 6.0.
///
/// The guest asks in INITIATE_CONTACT, the host answers with what it knows, and the intersection is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FeatureFlags(pub u32);

impl FeatureFlags {
    /// No optional part.
    pub const NONE: Self = Self(0);
    /// OPENCHANNEL carries the connection id and event flag the guest wants.
    pub const GUEST_SPECIFIED_SIGNAL_PARAMETERS: Self = Self(0x1);
    /// OPENCHANNEL can ask for interrupts through a paravisor.
    pub const CHANNEL_INTERRUPT_REDIRECTION: Self = Self(0x2);
    /// MODIFY_CONNECTION exists.
    pub const MODIFY_CONNECTION: Self = Self(0x4);
    /// INITIATE_CONTACT carries a client id.
    pub const CLIENT_ID: Self = Self(0x8);
    /// Channels may use encrypted rings and memory.
    pub const CONFIDENTIAL_CHANNELS: Self = Self(0x10);
    /// PAUSE, PAUSE_RESPONSE and RESUME exist.
    pub const PAUSE_RESUME: Self = Self(0x20);
    /// The host chooses the monitor pages.
    pub const SERVER_SPECIFIED_MONITOR_PAGES: Self = Self(0x40);
    /// Guest memory may be pinned.
    pub const GPA_PINNING: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flags set in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags set in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags set here and not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
