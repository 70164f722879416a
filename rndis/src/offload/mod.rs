//! Offloads: what the host can do, what the guest wants, and what is in force.
//!
//! Source: NDIS `NDIS_OFFLOAD`, `NDIS_OFFLOAD_PARAMETERS`, `NDIS_OFFLOAD_ENCAPSULATION`; Linux
//! `drivers/net/hyperv/hyperv_net.h`; DPDK `drivers/net/netvsc/ndis.h`; OpenVMM `netvsp/src/rndisprot.rs`.

mod capabilities;
mod encapsulation;
mod parameters;

pub use capabilities::{ChecksumTask, ChecksumV4Flags, ChecksumV6Flags, LsoTaskV1, LsoTaskV2, LsoV6Options, Offload};
pub use encapsulation::OffloadEncapsulation;
pub use parameters::{ChecksumSetting, OffloadParameters, TaskSetting};

bit_set! {
    /// Encapsulations a task can handle.
    pub struct Encapsulation(u32) {
        /// None.
        NULL = 0x01,
        /// Ethernet.
        IEEE_802_3 = 0x02,
    }
}
