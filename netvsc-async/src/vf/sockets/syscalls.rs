//! The system calls that no crate has in a safe form: the one module of this crate with `unsafe` code.
//!
//! Memory that is shared with the kernel is [`vmbus::memory::HeapMemory`], whose bounds-checked copies and atomic words are all
//! that the rings need; AF_XDP's options and addresses are `rustix`'s. What is left are AF_PACKET's, and `bpf(2)`.
//!
//! Source: Linux `include/uapi/linux/if_packet.h`, `packet(7)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An option of an AF_PACKET socket whose value is numbers without pointers, so that any value is harmless to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum PacketOption {
    /// `PACKET_ADD_MEMBERSHIP`: index (32 bits), kind (16), length of the address (16), address (8 bytes).
    AddMembership = 1,
    /// `PACKET_DROP_MEMBERSHIP`: the same.
    DropMembership = 2,
    /// `PACKET_RX_RING`: bytes of a block, blocks, bytes of a slot, slots.
    RxRing = 5,
    /// `PACKET_STATISTICS`, to be read: packets, drops.
    Statistics = 6,
    /// `PACKET_VERSION`: of the ring's slots.
    Version = 10,
    /// `PACKET_TX_RING`: as [`RxRing`](Self::RxRing).
    TxRing = 13,
    /// `PACKET_LOSS`: slots that make no sense are passed over.
    Loss = 14,
    /// `PACKET_VNET_HDR`: frames have a header that says what is unfinished about them.
    VirtioHeader = 15,
    /// `PACKET_FANOUT`: number of the group, its manner and flags in the upper half.
    Fanout = 18,
    /// `PACKET_QDISC_BYPASS`.
    BypassQdisc = 20,
    /// `PACKET_IGNORE_OUTGOING`.
    IgnoreOutgoing = 23,
}

/// `SOL_PACKET`.
const LEVEL: libc::c_int = 263;

/// Sets an option to `words`.
pub(super) fn set_packet_option(socket: BorrowedFd<'_>, option: PacketOption, words: &[u32]) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of_val(words)).map_err(io::Error::other)?;
    // SAFETY: the value is `bytes` long and only read; the kernel takes no pointer out of it, by `PacketOption`. At a descriptor
    // that is no AF_PACKET socket the call fails.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), LEVEL, option as libc::c_int, words.as_ptr().cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option into `words`.
pub(super) fn packet_option(socket: BorrowedFd<'_>, option: PacketOption, words: &mut [u32]) -> io::Result<()> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(words)).map_err(io::Error::other)?;
    let value = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `bytes` to `value`, which is so long and exclusively ours, and any bytes are a `u32`; the
    // length is a local variable.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), LEVEL, option as libc::c_int, value, &raw mut bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds an AF_PACKET socket to an interface; from then on it receives frames of `protocol`, 0 for none.
pub(super) fn bind_packet(socket: BorrowedFd<'_>, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: libc::c_int::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is `bytes` long, has all of its fields set, and is only read.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
