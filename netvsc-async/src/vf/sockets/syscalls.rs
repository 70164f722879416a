//! The system calls that no crate has in a safe form: the one module of this crate with `unsafe` code.
//!
//! Memory that is shared with the kernel is [`vmbus::memory::HeapMemory`], whose bounds-checked copies and atomic words are all
//! that the rings need; AF_XDP's options and addresses are `rustix`'s. What is left are AF_PACKET's, and `bpf(2)`.
//!
//! Source: Linux `include/uapi/linux/if_packet.h`, `packet(7)`; `include/uapi/linux/bpf.h`, `bpf(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

// --- bpf(2) ------------------------------------------------------------------------------------------------------------

/// Commands of `bpf(2)`.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum BpfCommand {
    CreateMap = 0,
    UpdateElement = 2,
    LoadProgram = 5,
    CreateLink = 28,
}

/// `BPF_MAP_TYPE_XSKMAP`.
const XSK_MAP: u32 = 17;
/// `BPF_PROG_TYPE_XDP`.
const XDP_PROGRAM: u32 = 6;
/// `BPF_XDP`, a type of attachment.
const XDP_ATTACHMENT: u32 = 37;

/// Attributes of `BPF_MAP_CREATE`, as far as they are needed; the kernel takes what is behind them for zero.
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

/// Attributes of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Attributes of `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instructions: u32,
    instruction: u64,
    license: u64,
    log: [u32; 4],
}

/// Attributes of `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
}

/// Carries out a command.
///
/// # Safety
/// `attributes` are those of `command`, in C's layout without padding, and pointers in them lead to memory that is as long as the
/// command reads, and lives until this returns. None of the commands writes through them.
unsafe fn bpf<A>(command: BpfCommand, attributes: &A) -> io::Result<i32> {
    let bytes = size_of::<A>();
    // SAFETY: the kernel reads `bytes` of the attributes, which are so long; what they lead to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_ref(attributes), bytes) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    // That of an open descriptor is not negative.
    descriptor.as_raw_fd() as u32
}

/// Takes a descriptor over that the kernel has just made.
fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the callers have it from the kernel, which gave it to nobody else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A map of AF_XDP sockets, by the number of the receive queue.
pub(super) fn create_xsk_map(entries: u32) -> io::Result<OwnedFd> {
    let attributes = MapAttributes { kind: XSK_MAP, key_bytes: 4, value_bytes: 4, entries };
    // SAFETY: the attributes of this command, without pointers.
    unsafe { bpf(BpfCommand::CreateMap, &attributes) }.map(own)
}

/// Puts a socket into such a map.
pub(super) fn set_xsk(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = number(socket);
    let attributes = ElementAttributes {
        map: number(map),
        padding: 0,
        key: (&raw const queue).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the attributes of this command. It reads as many bytes of key and value as the map has: four each in ours. (In another
    // map it would read more of this stack, and write nothing.)
    unsafe { bpf(BpfCommand::UpdateElement, &attributes) }.map(drop)
}

/// Loads an XDP program. The kernel verifies it.
pub(super) fn load_xdp(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let attributes = ProgramAttributes {
        kind: XDP_PROGRAM,
        instructions: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instruction: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log: [0; 4],
    };
    // SAFETY: the attributes of this command: so many instructions of eight bytes, a string with its end, and no log.
    unsafe { bpf(BpfCommand::LoadProgram, &attributes) }.map(own)
}

/// Attaches an XDP program to an interface, as long as the descriptor is open.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, index: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes = LinkAttributes { program: number(program), interface: index, kind: XDP_ATTACHMENT, flags };
    // SAFETY: the attributes of this command, without pointers.
    unsafe { bpf(BpfCommand::CreateLink, &attributes) }.map(own)
}
