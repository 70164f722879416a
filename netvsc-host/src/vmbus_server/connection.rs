//! The connection: version, features, and which connection id messages come on.
//!
//! Source: Linux `drivers/hv/connection.c`; OpenVMM `vmbus_server/src/channels.rs`.

use vmbus::protocol::{
    ConnectionId, ConnectionState, Context, InitiateContact, Message, Status, TlConnectRequest, TlConnectResult,
    Version, VersionResponse,
};

/// Oldest version that is accepted: below it, channels have no signals of their own.
const OLDEST: Version = Version::V1_1;
/// What VERSION_RESPONSE says from version 5.0 on: where all further messages go.
const MESSAGES_FROM_5_0: ConnectionId = ConnectionId(0x11);

#[derive(Debug)]
pub(super) struct Connection {
    max: Version,
    state: Option<Connected>,
}

#[derive(Debug, Clone, Copy)]
struct Connected {
    context: Context,
    offers_requested: bool,
}

impl Connection {
    pub(super) fn new(max: Version) -> Self {
        Self { max, state: None }
    }

    pub(super) fn context(&self) -> Option<Context> {
        self.state.map(|state| state.context)
    }

    /// Whether `message` may come on connection `id`.
    pub(super) fn expects_on(&self, message: &Message<'_>, id: ConnectionId) -> bool {
        let expected = match (message, self.state) {
            (Message::InitiateContact(contact), _) if contact.version >= Version::V5_0 => ConnectionId::CONTACT,
            (Message::InitiateContact(_), _) | (_, None) => ConnectionId::MESSAGE,
            (_, Some(state)) if state.context.version >= Version::V5_0 => MESSAGES_FROM_5_0,
            (_, Some(_)) => ConnectionId::MESSAGE,
        };
        id == expected
    }

    /// Answers a contact, and is connected afterwards if the answer says so.
    pub(super) fn contact(&mut self, contact: &InitiateContact) -> VersionResponse {
        self.state = None;
        let refused = VersionResponse {
            version_supported: false,
            connection_state: ConnectionState::SUCCESSFUL,
            selected: 0,
            supported_features: None,
            monitor_pages: None,
        };
        if !contact.version.is_known() || contact.version > self.max || contact.version < OLDEST {
            return refused;
        }
        let pages = contact.monitor_pages;
        let supported = VersionResponse { version_supported: true, ..refused };
        if (pages.parent_to_child == 0) != (pages.child_to_parent == 0) {
            return VersionResponse { connection_state: ConnectionState::FAILED_UNKNOWN, ..supported };
        }
        self.state = Some(Connected { context: Context::new(contact.version), offers_requested: false });
        let selected = if contact.version >= Version::V5_0 { MESSAGES_FROM_5_0.0 } else { contact.version.0 };
        // This host has none of the optional features of version 6.0.
        let features = (contact.version >= Version::V6_0).then_some(vmbus::protocol::FeatureFlags::NONE);
        VersionResponse { selected, supported_features: features, ..supported }
    }

    /// Notes that the offers were asked for; false if they were before.
    pub(super) fn request_offers(&mut self) -> bool {
        self.state.as_mut().is_some_and(|state| !std::mem::replace(&mut state.offers_requested, true))
    }

    pub(super) fn disconnect(&mut self) {
        self.state = None;
    }
}

/// There are no hvsock services here.
pub(super) fn refuse_hvsock(request: &TlConnectRequest) -> TlConnectResult {
    TlConnectResult {
        guest_endpoint: request.guest_endpoint,
        host_service: request.host_service,
        status: Status::CONNECTION_REFUSED,
    }
}
