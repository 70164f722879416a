//! Per-packet information (PPI): what a packet message says about its frame.
//!
//! A block of elements, each {size, type, payload offset, payload}. [`PpiBlock`] checks a block and gives its
//! elements; [`PacketInfo`] checks it and collects the elements that netvsc uses, in the same single pass. Of several
//! elements of one type the **first** counts, as in Linux (DPDK keeps the last).
//!
//! Source: [MS-RNDIS] 2.2.15; Linux `include/linux/rndis.h`, `drivers/net/hyperv/hyperv_net.h`; DPDK
//! `drivers/net/netvsc/ndis.h`.

mod block;
mod checksum;
mod hash;
mod info;
mod lso;
mod packet_id;
mod vlan;
mod word;

pub use block::{ELEMENT_HEADER_LEN, Ppi, PpiBlock, PpiIter, PpiType};
pub use checksum::{IpVersion, RxChecksum, Transport, TxChecksum};
pub use hash::HashInfo;
pub use info::PacketInfo;
pub use lso::{Lso, LsoVersion};
pub use packet_id::{PacketId, PacketIdFlags};
pub use vlan::Vlan;
pub use word::{PpiWord, PpiWords};
