//! Control messages: requests of the guest, answers and indications of the host.
//!
//! Every `parse` takes the bytes of one range, wants the fields it names and tolerates more; a message that ends
//! early is an error that names the first missing field. Offsets inside a message count from its byte 8, behind the
//! header.
//!
//! Source: [MS-RNDIS] 2.2; Linux `include/linux/rndis.h`, `drivers/net/hyperv/rndis_filter.c`; OpenVMM
//! `netvsp/src/rndisprot.rs`.

mod fixed;
mod indicate;
mod initialize;
mod keepalive;
mod query;
mod reset;
mod set;

pub use indicate::IndicateStatus;
pub use initialize::{Halt, Initialize, InitializeComplete, MAX_ALIGNMENT_LOG2};
pub use keepalive::{KeepAlive, KeepAliveComplete};
pub use query::{Query, QueryComplete};
pub use reset::{Reset, ResetComplete};
pub use set::{Set, SetComplete};
