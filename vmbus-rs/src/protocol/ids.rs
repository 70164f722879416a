//! Numbers of the control plane that must not be mixed up.

use core::fmt;

/// A channel's number on this connection (`child_relid`).
///
/// Chosen by the host, 1 to [`RelId::MAX`], and free for another channel once the guest has sent RELID_RELEASED. After
/// hibernation the same device may come back under another number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelId(pub u32);

impl RelId {
    /// Largest usable number: the SynIC event-flags page has 2048 bits and bit 0 is reserved.
    pub const MAX: Self = Self(2047);

    /// Whether the number has an event flag of its own.
    pub fn is_valid(self) -> bool {
        (1..=Self::MAX.0).contains(&self.0)
    }
}

impl fmt::Display for RelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The guest's name for one OPENCHANNEL, returned in its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenId(pub u32);

/// Where a hypercall sends a message or an event; opaque to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// Messages on connections below version 5.0.
    pub const MESSAGE: Self = Self(1);
    /// Events of version 0.13 hosts, one for all channels.
    pub const EVENT: Self = Self(2);
    /// INITIATE_CONTACT of version 5.0 and later.
    pub const CONTACT: Self = Self(4);
    /// INITIATE_CONTACT of version 5.0 and later, when a paravisor relays the bus.
    pub const CONTACT_REDIRECTED: Self = Self(0x80_0074);
}

/// A virtual processor by the hypervisor's index, which is not always the operating system's CPU number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VpIndex(pub u32);

impl VpIndex {
    /// In OPENCHANNEL: the channel is opened without interrupts.
    pub const INTERRUPTS_DISABLED: Self = Self(u32::MAX);
}

/// The host's answer to a request: zero, or an NTSTATUS / HRESULT failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// The generic failure (`E_UNEXPECTED`), as OpenVMM answers.
    pub const FAILURE: Self = Self(0x8000_ffff);
    /// Nobody listens on the service (`STATUS_CONNECTION_REFUSED`), in TL_CONNECT_RESULT.
    pub const CONNECTION_REFUSED: Self = Self(0xc000_0236);

    /// Whether the host did what was asked.
    pub fn is_success(self) -> bool {
        self == Self::SUCCESS
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
