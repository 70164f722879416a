//! Offloads: what is wished, what the host granted, and what that means for the frames.
//!
//! [`OffloadSettings`] are wishes, in [`Config::offloads`](crate::Config::offloads) and
//! [`Nic::set_offloads`](crate::Nic::set_offloads); [`Offloads`] is what came out of them, in
//! [`DeviceInfo::offloads`](crate::DeviceInfo::offloads). What a frame asks for by its [`TxMeta`](crate::TxMeta) is left to
//! the host where that was granted, and computed here otherwise: who sends need not know which.
//!
//! Deciding is up to the host's capability flags, never to its name. NDIS 6.1 hosts (NVSP 4 and older) have no UDP
//! checksums, whatever they say.
//!
//! Source: Linux `drivers/net/hyperv/rndis_filter.c` (`rndis_netdev_set_hwcaps`, `rndis_filter_set_offload_params`), which
//! looks at the capabilities for sending only, and asks for both directions.

mod granted;
#[cfg(test)]
#[path = "../../tests/offers/mod.rs"]
mod offers;
mod settings;

pub(crate) use granted::parameters;
pub use granted::{LsoLimits, Offloads};
pub use settings::{Checksums, OffloadSettings};
