//! AF_PACKET: a virtual function by rings that its interface shares with this process. Works with every driver.
//!
//! | file | has |
//! |---|---|
//! | `queue` | [`PacketQueue`]: a socket with both rings |
//! | `receive`, `transmit` | each ring's side |
//! | `ring` | slots in shared memory |
//! | `unfinished` | checksums and segments that the kernel left to be done |
//!
//! # Slots of one size
//! Both rings are `TPACKET_V2`, the receive ring although version 3 is the newer one: that packs frames into blocks of which the kernel shows none before it is full or some
//! milliseconds old. That delays frames when there are few, and when the path changes over, frames would still be on their way
//! in a ring that looks empty: their order could not be kept. The price is memory: each slot has to have room for the largest
//! frame that may come, which on interfaces that merge frames is 64 KiB. Only the pages that are used cost cache.
//! The send ring gains nothing by version 3, where its slots are of one size as well; a socket has one version for both.
//!
//! # What the kernel does to frames
//! Frames that it has merged, or not cut yet, are cut here, and checksums that it has left open are computed: the application
//! gets the same as by the rings. A tag comes beside the frame. Encapsulated large segments it does not describe, and does
//! not deliver: merging them is to be off (`ethtool -K`) where they are expected.
//!
//! What is sent goes to the driver directly, past the queueing discipline, which might drop it: a driver that has no room
//! leaves frames in the ring. Each frame is copied by the kernel when it takes it.
//!
//! # Several queues
//! The sockets are a group among which frames are distributed by the hash of their flow (`PACKET_FANOUT`).
//!
//! The interface's frames also reach the kernel's own stack; see [`sockets`](super) about keeping it quiet.
//!
//! Source: `packet(7)`; Linux `Documentation/networking/packet_mmap.rst`, `net/packet/af_packet.c`.

mod queue;
mod receive;
mod ring;
mod transmit;
mod unfinished;

pub use queue::{PacketQueue, PacketStats};

use std::os::fd::AsFd;
use std::sync::Arc;

use super::error::SocketError;
use super::state::State;
use super::syscalls::{PacketOption, packet_option, set_packet_option};

/// Sizes of the rings of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketSettings {
    /// Slots of the receive ring; rounded up to whole blocks of 1 MiB. Default: 480, which is 32 MiB.
    pub receive_slots: usize,
    /// Bytes of each. Default: 65664, enough for the largest frame that the kernel merges. Where merging is off (`ethtool -K
    /// … gro off lro off`) 2048 do for an MTU of 1500. Frames that are longer are lost, and counted.
    pub receive_slot_bytes: usize,
    /// Slots of the send ring; rounded up as above. Default: 512.
    pub send_slots: usize,
    /// Bytes of each. Default: 10240, which holds a frame of an MTU of 9000.
    pub send_slot_bytes: usize,
}

impl Default for PacketSettings {
    fn default() -> Self {
        Self { receive_slots: 480, receive_slot_bytes: 65_664, send_slots: 512, send_slot_bytes: 10_240 }
    }
}

/// `PACKET_FANOUT_FLAG_UNIQUEID`, in the upper half.
const UNIQUE: u32 = 0x2000 << 16;

/// Opens so many queues of an interface.
pub(super) fn open(
    index: u32,
    state: &Arc<State>,
    queues: usize,
    settings: &PacketSettings,
) -> Result<Vec<PacketQueue>, SocketError> {
    let mut all =
        (0..queues.max(1)).map(|_| PacketQueue::open(index, state, settings)).collect::<Result<Vec<_>, _>>()?;
    let [first, others @ ..] = &mut all[..] else { return Ok(all) };
    if others.is_empty() {
        return Ok(all);
    }
    let join = SocketError::when("distribute frames among queues");
    let group = (|| {
        // By hash (0), in a group that is nobody else's.
        set_packet_option(first.as_fd(), PacketOption::Fanout, &[UNIQUE])?;
        let mut group = [0];
        packet_option(first.as_fd(), PacketOption::Fanout, &mut group)?;
        others.iter().try_for_each(|queue| set_packet_option(queue.as_fd(), PacketOption::Fanout, &group))
    })();
    group.map_err(join)?;
    // Until they were a group, each of them received everything.
    all.iter_mut().for_each(PacketQueue::discard_received);
    Ok(all)
}
