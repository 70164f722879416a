//! The two kinds of status codes: NVSP's own and NDIS's.

use core::fmt;

use crate::field::wire_newtype;

/// Result of an NVSP request. Only [`SUCCESS`](Self::SUCCESS) is success; zero is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u32);

wire_newtype!(Status(u32));

impl Status {
    /// No status. OpenVMM answers an unsupported version with it.
    pub const NONE: Self = Self(0);
    /// The request succeeded.
    pub const SUCCESS: Self = Self(1);
    /// The request failed.
    pub const FAIL: Self = Self(2);
    /// The offered version is newer than the host's.
    pub const VERSION_TOO_NEW: Self = Self(3);
    /// The offered version is older than the host's.
    pub const VERSION_TOO_OLD: Self = Self(4);
    /// The RNDIS message is malformed.
    pub const INVALID_RNDIS_PACKET: Self = Self(5);
    /// The receiver is busy.
    pub const BUSY: Self = Self(6);
    /// The message type is not supported.
    pub const PROTOCOL_UNSUPPORTED: Self = Self(7);

    /// Whether this is [`SUCCESS`](Self::SUCCESS).
    #[inline]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }

    /// What the code says, if it is a known one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::NONE => Some("none"),
            Self::SUCCESS => Some("success"),
            Self::FAIL => Some("fail"),
            Self::VERSION_TOO_NEW => Some("version too new"),
            Self::VERSION_TOO_OLD => Some("version too old"),
            Self::INVALID_RNDIS_PACKET => Some("invalid rndis packet"),
            Self::BUSY => Some("busy"),
            Self::PROTOCOL_UNSUPPORTED => Some("protocol type unsupported"),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({} {})", self.0, self.name().unwrap_or("unknown"))
    }
}

/// An NDIS (and NT) status, in which zero is success: the OID and Packet Direct answers carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NdisStatus(pub u32);

wire_newtype!(NdisStatus(u32));

impl NdisStatus {
    /// The request succeeded.
    pub const SUCCESS: Self = Self(0);
    /// The host does not know the request: OpenVMM's answer to every OID query.
    pub const NOT_SUPPORTED: Self = Self(0xC000_00BB);

    /// Whether this is [`SUCCESS`](Self::SUCCESS).
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }
}

impl fmt::Display for NdisStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ndis status {:#010x}", self.0)
    }
}

impl fmt::Debug for NdisStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NdisStatus({:#010x})", self.0)
    }
}
