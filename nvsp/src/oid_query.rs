//! OID queries outside of RNDIS (types 131 and 132, version 5 and later).
//!
//! Linux, DPDK and FreeBSD do not use them. Source: OpenVMM
//! `vm/devices/net/netvsp/src/protocol.rs`.

use crate::{NdisStatus, field::message};

message! {
    /// Guest asks for an OID.
    OidQueryEx = OID_QUERY_EX, 12 bytes {
        /// Type in the NDIS object header.
        4 => ndis_type: u8,
        /// Revision in the NDIS object header.
        5 => ndis_revision: u8,
        /// Size in the NDIS object header.
        6 => ndis_size: u16,
        /// The OID.
        8 => oid: u32,
    }
}

message! {
    /// Host answers [`OidQueryEx`].
    OidQueryExComplete = OID_QUERY_EX_COMPLETE, 12 bytes {
        /// Outcome; OpenVMM always says [`NOT_SUPPORTED`](NdisStatus::NOT_SUPPORTED).
        4 => status: NdisStatus,
        /// Bytes of the answer.
        8 => byte_count: u32,
    }
}
