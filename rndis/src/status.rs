//! Status codes of completions and indications.
//!
//! Source: [MS-RNDIS] 2.2.1.2; Linux `include/linux/rndis.h`; OpenVMM `netvsp/src/rndisprot.rs`.

open_enum! {
    /// Outcome of a request, or what an indication is about (an `NDIS_STATUS`).
    pub struct Status(u32) {
        /// The request was carried out.
        SUCCESS = 0x0000_0000,
        /// The request is still being worked on.
        PENDING = 0x0000_0103,
        /// Indication: the link came up.
        MEDIA_CONNECT = 0x4001_000B,
        /// Indication: the link went down.
        MEDIA_DISCONNECT = 0x4001_000C,
        /// Indication: the speed changed; the buffer holds a [`LinkSpeed`](crate::value::LinkSpeed).
        LINK_SPEED_CHANGE = 0x4001_0013,
        /// Indication: the network behind the link changed; the guest should renew its addresses.
        NETWORK_CHANGE = 0x4001_0018,
        /// Indication: the offloads now in force; the buffer holds an [`Offload`](crate::offload::Offload).
        TASK_OFFLOAD_CURRENT_CONFIG = 0x4002_0006,
        /// The answer does not fit the buffer.
        BUFFER_OVERFLOW = 0x8000_0005,
        /// The request failed.
        FAILURE = 0xC000_0001,
        /// Not enough resources.
        RESOURCES = 0xC000_009A,
        /// The OID or feature is not supported.
        NOT_SUPPORTED = 0xC000_00BB,
        /// The version is not supported.
        BAD_VERSION = 0xC001_0004,
        /// The multicast list is full.
        MULTICAST_FULL = 0xC001_0009,
        /// A reset is in progress.
        RESET_IN_PROGRESS = 0xC001_000D,
        /// The packet is invalid.
        INVALID_PACKET = 0xC001_000F,
        /// A length is invalid.
        INVALID_LENGTH = 0xC001_0014,
        /// The data of the request is invalid.
        INVALID_DATA = 0xC001_0015,
        /// The buffer of the request is too short.
        BUFFER_TOO_SHORT = 0xC001_0016,
        /// The OID is invalid.
        INVALID_OID = 0xC001_0017,
        /// The adapter was removed.
        ADAPTER_REMOVED = 0xC001_0018,
    }
}

impl Status {
    /// True for [`Status::SUCCESS`] alone: a completion with anything else did not do what was asked.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use super::*;

    #[test]
    fn known_codes_print_by_name_and_unknown_ones_in_hex() {
        assert_eq!(format!("{}", Status::NOT_SUPPORTED), "NOT_SUPPORTED");
        assert_eq!(format!("{:?}", Status(0xC001_FFFF)), "Status(0xc001ffff)");
    }
}
