//! Packet messages: one frame with its per-packet information (`REMOTE_NDIS_PACKET_MSG`).
//!
//! | to do | with |
//! |---|---|
//! | read a message that is one slice | [`PacketMsg`] |
//! | read a message whose frame stays elsewhere | [`PacketHeader`], [`PacketInfo`](crate::ppi::PacketInfo), [`PacketHeader::check_frame`] |
//! | read a section that holds several messages | [`Batch`] |
//! | write the header of a frame to send | [`TxHeader`] |
//! | write any message: data where the caller wants it | [`PacketEncoder`] |
//! | look at or forge header fields | [`RawPacketHeader`] |
//!
//! Offsets on the wire count from byte 8 of the message; **all offsets in the API of this module count from the
//! message's first byte**, except in [`RawPacketHeader`].
//!
//! Source: [MS-RNDIS] 2.2.14; Linux `drivers/net/hyperv/rndis_filter.c`; FreeBSD `hn_rndis.c`, `if_hn.c`; OpenVMM
//! `netvsp/src/lib.rs`.

mod batch;
mod encode;
mod header;
mod msg;
mod raw;

pub use batch::{Batch, BatchIter, BatchLimits, padding};
pub use encode::{PacketEncoder, TxHeader, TxOffload};
pub use header::PacketHeader;
pub use msg::PacketMsg;
pub use raw::RawPacketHeader;

/// Bytes of the fixed part of a packet message.
pub const PACKET_HEADER_LEN: usize = 44;

/// Bytes of an Ethernet header: the least that a frame, or the first fragment of a coalesced one, can have.
pub const MIN_FRAME_LEN: u32 = 14;

/// Smallest offset behind the fixed part, as the wire counts it.
const FIRST_OFFSET: u32 = 36;
