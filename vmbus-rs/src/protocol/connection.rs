//! Messages about the connection itself, and hvsock connection requests.
//!
//! Source: Linux `drivers/hv/connection.c`; OpenVMM `vmbus_core/src/protocol.rs`.

use super::codec::{Field, Reader, Writer, fixed_layout};
use super::{ConnectionId, Context, EmitError, FeatureFlags, ParseError, Status, Version, VpIndex};
use crate::guid::Guid;

fixed_layout! {
    /// Guest-physical addresses of the two monitor pages. Both are zero (no monitors) or neither is.
    #[derive(Default)]
    pub struct MonitorPages {
        /// Page 1, which the host triggers.
        pub parent_to_child: u64,
        /// Page 2, which the guest triggers.
        pub child_to_parent: u64,
    }
}

/// INITIATE_CONTACT (type 14, guest to host): opens a connection with one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitiateContact {
    /// The version asked for. It decides how [`InitiateContact::target`] is laid out.
    pub version: Version,
    /// Processor that gets the host's messages; honoured from version 3.0 on.
    pub target_message_vp: VpIndex,
    /// How the host reaches the guest.
    pub target: ContactTarget,
    /// The monitor pages.
    pub monitor_pages: MonitorPages,
    /// The client's id; there exactly when version 6.0 asks for [`FeatureFlags::CLIENT_ID`].
    pub client_id: Option<Guid>,
}

/// The 64-bit field of INITIATE_CONTACT whose meaning changed with version 5.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactTarget {
    /// Below version 5.0: guest-physical address of the interrupt page.
    InterruptPage(u64),
    /// From version 5.0 on.
    Synic {
        /// Interrupt source the host's messages use.
        sint: u8,
        /// Trust level they are sent to; from version 5.1 on.
        vtl: u8,
        /// Features asked for; from version 6.0 on.
        features: FeatureFlags,
    },
}

impl InitiateContact {
    /// Bytes of the shorter body, the header not counted.
    pub(crate) const BODY_LEN: usize = 32;

    /// The features asked for; none below version 6.0.
    pub fn features(&self) -> FeatureFlags {
        match self.target {
            ContactTarget::Synic { features, .. } if self.version >= Version::V6_0 => features,
            _ => FeatureFlags::NONE,
        }
    }

    /// Checks that the optional parts fit the version and the flags.
    pub(crate) fn check(&self) -> Result<(), EmitError> {
        let synic = matches!(self.target, ContactTarget::Synic { .. });
        if synic != (self.version >= Version::V5_0) {
            return Err(EmitError::Inconsistent { field: "target", decided_by: "version", value: self.version.0 });
        }
        let features = self.features();
        if self.client_id.is_some() != features.contains(FeatureFlags::CLIENT_ID) {
            return Err(EmitError::Inconsistent { field: "client_id", decided_by: "feature_flags", value: features.0 });
        }
        Ok(())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let version: Version = reader.take("version")?;
        let target_message_vp = reader.take("target_message_vp")?;
        let target = if version >= Version::V5_0 {
            let sint = reader.take("sint")?;
            let vtl = reader.take("vtl")?;
            let _reserved: u16 = reader.take("reserved")?;
            ContactTarget::Synic { sint, vtl, features: reader.take("feature_flags")? }
        } else {
            ContactTarget::InterruptPage(reader.take("interrupt_page")?)
        };
        let mut contact =
            Self { version, target_message_vp, target, monitor_pages: MonitorPages::read(reader)?, client_id: None };
        if contact.features().contains(FeatureFlags::CLIENT_ID) {
            contact.client_id = Some(reader.take("client_id")?);
        }
        Ok(contact)
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.version);
        writer.put(self.target_message_vp);
        match self.target {
            ContactTarget::InterruptPage(gpa) => writer.put(gpa),
            ContactTarget::Synic { sint, vtl, features } => {
                writer.put(sint);
                writer.put(vtl);
                writer.put(0_u16);
                writer.put(features);
            }
        }
        self.monitor_pages.write(writer);
        if let Some(client_id) = self.client_id {
            writer.put(client_id);
        }
    }
}

/// Why a supported version was refused all the same; meaningful from version 2.4 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionState(pub u8);

impl ConnectionState {
    /// Connected.
    pub const SUCCESSFUL: Self = Self(0);
    /// The host has no resources left.
    pub const FAILED_LOW_RESOURCES: Self = Self(1);
    /// Any other reason.
    pub const FAILED_UNKNOWN: Self = Self(2);
}

/// VERSION_RESPONSE (type 15, host to guest).
///
/// Three forms exist, and a padded short one looks like a long one; the version and the flags decide, not the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionResponse {
    /// Whether the host speaks the version asked for.
    pub version_supported: bool,
    /// Whether the connection stands.
    pub connection_state: ConnectionState,
    /// Below version 5.0 the selected version, from 5.0 on the connection id for messages.
    pub selected: u32,
    /// The features the host supports of those asked for; version 6.0.
    pub supported_features: Option<FeatureFlags>,
    /// The host's monitor pages; version 6.0 with [`FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES`]. Zeros: no monitors.
    pub monitor_pages: Option<MonitorPages>,
}

impl VersionResponse {
    /// Bytes of the shortest body, the header not counted.
    pub(crate) const BODY_LEN: usize = 8;

    /// The connection id for all later messages, when the version asked for was this one.
    pub fn message_connection(&self, version: Version) -> ConnectionId {
        if version >= Version::V5_0 { ConnectionId(self.selected) } else { ConnectionId::MESSAGE }
    }

    /// Bytes of the body, the header not counted.
    pub(crate) fn body_len(&self) -> usize {
        match (self.supported_features, self.monitor_pages) {
            (_, Some(_)) => Self::BODY_LEN + 4 + 4 + MonitorPages::BODY_LEN,
            (Some(_), None) => Self::BODY_LEN + 4,
            (None, None) => Self::BODY_LEN,
        }
    }

    /// Checks that monitor pages come with their flag. The flag may come without them, to a guest that did not ask.
    pub(crate) fn check(&self) -> Result<(), EmitError> {
        let features = self.supported_features.unwrap_or_default();
        if self.monitor_pages.is_some() && !features.contains(SERVER_PAGES) {
            return Err(EmitError::Inconsistent {
                field: "monitor_pages",
                decided_by: "supported_features",
                value: features.0,
            });
        }
        Ok(())
    }

    /// Reads the answer to a contact with `context.version` that asked for `context.features`.
    pub(crate) fn read(reader: &mut Reader<'_>, context: Context) -> Result<Self, ParseError> {
        let version_supported = reader.take::<u8>("version_supported")? != 0;
        let connection_state = reader.take("connection_state")?;
        let _padding: u16 = reader.take("padding")?;
        let mut response = Self {
            version_supported,
            connection_state,
            selected: reader.take("selected")?,
            supported_features: None,
            monitor_pages: None,
        };
        // A host that does not know version 6.0 refuses it with the short form.
        if context.version < Version::V6_0 || reader.rest().len() < FeatureFlags::LEN {
            return Ok(response);
        }
        let supported: FeatureFlags = reader.take("supported_features")?;
        response.supported_features = Some(supported);
        if supported.intersection(context.features).contains(SERVER_PAGES) {
            let _padding: u32 = reader.take("padding")?;
            response.monitor_pages = Some(MonitorPages::read(reader)?);
        }
        Ok(response)
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(u8::from(self.version_supported));
        writer.put(self.connection_state);
        writer.put(0_u16);
        writer.put(self.selected);
        if let Some(features) = self.supported_features {
            writer.put(features);
        }
        if let Some(pages) = self.monitor_pages {
            writer.put(0_u32);
            pages.write(writer);
        }
    }
}

/// Shorthand for the flag that lengthens VERSION_RESPONSE.
const SERVER_PAGES: FeatureFlags = FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES;

fixed_layout! {
    /// MODIFY_CONNECTION (type 25, guest to host).
    pub struct ModifyConnection {
        /// The new monitor pages.
        pub monitor_pages: MonitorPages,
    }
}

fixed_layout! {
    /// MODIFY_CONNECTION_RESPONSE (type 26, host to guest).
    pub struct ModifyConnectionResponse {
        /// Whether the pages were accepted.
        pub connection_state: ConnectionState,
    }
}

impl Field for MonitorPages {
    const LEN: usize = Self::BODY_LEN;

    fn read(reader: &mut Reader<'_>, _: &'static str) -> Result<Self, ParseError> {
        Self::read(reader)
    }

    fn write(self, writer: &mut Writer<'_>) {
        Self::write(self, writer);
    }
}

/// TL_CONNECT_REQUEST (type 21, guest to host): asks a service of the host for an hvsock connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlConnectRequest {
    /// The guest's end.
    pub guest_endpoint: Guid,
    /// The service.
    pub host_service: Guid,
    /// The container the request comes from; from version 5.2 on, if the message is long enough.
    pub silo_id: Option<Guid>,
}

impl TlConnectRequest {
    /// Bytes of the shorter body, the header not counted.
    pub(crate) const BODY_LEN: usize = 32;

    pub(crate) fn read(reader: &mut Reader<'_>, context: Context) -> Result<Self, ParseError> {
        let guest_endpoint = reader.take("guest_endpoint")?;
        let host_service = reader.take("host_service")?;
        let long = context.version >= Version::V5_2 && reader.rest().len() >= Guid::LEN;
        let silo_id = if long { Some(reader.take("silo_id")?) } else { None };
        Ok(Self { guest_endpoint, host_service, silo_id })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.guest_endpoint);
        writer.put(self.host_service);
        if let Some(silo_id) = self.silo_id {
            writer.put(silo_id);
        }
    }
}

fixed_layout! {
    /// TL_CONNECT_RESULT (type 23, host to guest). Sent on failure only; success is an offer.
    pub struct TlConnectResult {
        /// The guest's end.
        pub guest_endpoint: Guid,
        /// The service.
        pub host_service: Guid,
        /// Why not.
        pub status: Status,
    }
}
