//! What a connection asks for, and how long it waits.

use core::fmt;
use core::time::Duration;

use crate::guid::Guid;
use crate::protocol::{ConnectionId, FeatureFlags, MonitorPages, Version, VpIndex};
use crate::synic::{SINT_COUNT, VMBUS_SINT};

/// Settings of a [`super::Client`]. The default connects like Linux, without monitor pages.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) newest: Version,
    pub(super) oldest: Version,
    pub(super) features: FeatureFlags,
    pub(super) client_id: Option<Guid>,
    pub(super) message_vp: VpIndex,
    pub(super) sint: u8,
    pub(super) vtl: u8,
    pub(super) interrupt_page: u64,
    pub(super) monitor_pages: MonitorPages,
    pub(super) contact_connection: ConnectionId,
    pub(super) timeouts: Timeouts,
    pub(super) post_attempts: u32,
}

/// How long to wait for each answer before [`super::Event::TimedOut`] says that it is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For VERSION_RESPONSE, each version anew; default 10 s. Ends the attempt to connect.
    pub connect: Duration,
    /// For ALLOFFERS_DELIVERED; default 10 s.
    pub offers: Duration,
    /// For GPADL_CREATED; default 10 s.
    pub gpadl: Duration,
    /// For GPADL_TORNDOWN; default 30 s.
    pub teardown: Duration,
    /// For OPENCHANNEL_RESULT; default 10 s.
    pub open: Duration,
    /// For MODIFYCHANNEL_RESPONSE; default 10 s.
    pub modify: Duration,
    /// For UNLOAD_RESPONSE; default 100 s, as Linux waits: the host may have to flush disks first.
    pub unload: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let usual = Duration::from_secs(10);
        Self {
            connect: usual,
            offers: usual,
            gpadl: usual,
            teardown: Duration::from_secs(30),
            open: usual,
            modify: usual,
            unload: Duration::from_secs(100),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            newest: Version::V5_3,
            oldest: Version::V2_4,
            features: FeatureFlags::NONE,
            client_id: None,
            message_vp: VpIndex(0),
            sint: VMBUS_SINT,
            vtl: 0,
            interrupt_page: 0,
            monitor_pages: MonitorPages::default(),
            contact_connection: ConnectionId::CONTACT,
            timeouts: Timeouts::default(),
            post_attempts: 100,
        }
    }
}

impl Config {
    /// The features that [`super::Client`] implements; asking for others would promise what it cannot do.
    pub const IMPLEMENTED: FeatureFlags = FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS
        .union(FeatureFlags::CLIENT_ID)
        .union(FeatureFlags::CONFIDENTIAL_CHANNELS)
        .union(FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES);

    /// First version to try; default 5.3.
    pub fn newest_version(mut self, version: Version) -> Self {
        self.newest = version;
        self
    }

    /// Last version to try; default 2.4. Confidential virtual machines should not go below 5.2.
    pub fn oldest_version(mut self, version: Version) -> Self {
        self.oldest = version;
        self
    }

    /// Features to ask for with version 6.0; default none. At most [`Config::IMPLEMENTED`].
    pub fn features(mut self, features: FeatureFlags) -> Self {
        self.features = features;
        self
    }

    /// Id to show with version 6.0, and asks for [`FeatureFlags::CLIENT_ID`]; default none.
    pub fn client_id(mut self, id: Guid) -> Self {
        self.client_id = Some(id);
        self.features = self.features.union(FeatureFlags::CLIENT_ID);
        self
    }

    /// Processor that gets the host's messages; default 0, which is what hosts below version 3.0 use anyway.
    pub fn message_vp(mut self, vp: VpIndex) -> Self {
        self.message_vp = vp;
        self
    }

    /// Interrupt source for the host's messages, from version 5.0 on; default 2.
    pub fn sint(mut self, sint: u8) -> Self {
        self.sint = sint;
        self
    }

    /// Trust level for the host's messages, from version 5.1 on; default 0.
    pub fn vtl(mut self, vtl: u8) -> Self {
        self.vtl = vtl;
        self
    }

    /// Guest-physical address of the interrupt page, below version 5.0; default 0, none.
    pub fn interrupt_page(mut self, gpa: u64) -> Self {
        self.interrupt_page = gpa;
        self
    }

    /// The monitor pages; default both 0, none.
    pub fn monitor_pages(mut self, pages: MonitorPages) -> Self {
        self.monitor_pages = pages;
        self
    }

    /// Where INITIATE_CONTACT of version 5.0 and later goes; default [`ConnectionId::CONTACT`].
    pub fn contact_connection(mut self, connection: ConnectionId) -> Self {
        self.contact_connection = connection;
        self
    }

    /// How long to wait for answers.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How often to post one message before giving up on it; default 100, as Linux.
    pub fn post_attempts(mut self, attempts: u32) -> Self {
        self.post_attempts = attempts;
        self
    }

    /// The newest version in the range that is not newer than `version`.
    pub(super) fn version_up_to(&self, version: Version) -> Option<Version> {
        Version::ALL.into_iter().find(|known| (self.oldest..=self.newest.min(version)).contains(known))
    }

    /// The next version to try after `version`.
    pub(super) fn version_below(&self, version: Version) -> Option<Version> {
        self.version_up_to(Version(version.0.checked_sub(1)?))
    }

    /// The features to ask for with `version`.
    pub(super) fn features_at(&self, version: Version) -> FeatureFlags {
        if version >= Version::V6_0 { self.features } else { FeatureFlags::NONE }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let unsupported = self.features.difference(Self::IMPLEMENTED);
        if unsupported != FeatureFlags::NONE {
            return Err(ConfigError::Features { unsupported });
        }
        if self.version_up_to(self.newest).is_none() {
            return Err(ConfigError::Versions { newest: self.newest, oldest: self.oldest });
        }
        if self.features.contains(FeatureFlags::CLIENT_ID) != self.client_id.is_some() {
            return Err(ConfigError::ClientId);
        }
        if self.sint >= SINT_COUNT {
            return Err(ConfigError::Sint { sint: self.sint, count: SINT_COUNT });
        }
        let MonitorPages { parent_to_child, child_to_parent } = self.monitor_pages;
        if (parent_to_child == 0) != (child_to_parent == 0) {
            return Err(ConfigError::OneMonitorPage { pages: self.monitor_pages });
        }
        Ok(())
    }
}

/// Which setting is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `features` asks for something that is not implemented.
    Features {
        /// The flags at fault.
        unsupported: FeatureFlags,
    },
    /// No known version lies between `oldest_version` and `newest_version`.
    Versions {
        /// First version to try.
        newest: Version,
        /// Last version to try.
        oldest: Version,
    },
    /// `features` asks for a client id, and `client_id` gives none.
    ClientId,
    /// There is no such interrupt source.
    Sint {
        /// The setting.
        sint: u8,
        /// Number of interrupt sources.
        count: u8,
    },
    /// One monitor page is given and the other is not, which hosts refuse.
    OneMonitorPage {
        /// The setting.
        pages: MonitorPages,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Features { unsupported } => {
                write!(f, "features {:#x} are not implemented", unsupported.0)
            }
            Self::Versions { newest, oldest } => {
                write!(f, "no known version lies between {oldest} and {newest}")
            }
            Self::ClientId => f.write_str("features ask for a client id and none is set"),
            Self::Sint { sint, count } => write!(f, "sint is {sint}, must be below {count}"),
            Self::OneMonitorPage { pages } => write!(
                f,
                "monitor pages are {:#x} and {:#x}, both or none must be zero",
                pages.parent_to_child, pages.child_to_parent
            ),
        }
    }
}

impl core::error::Error for ConfigError {}
