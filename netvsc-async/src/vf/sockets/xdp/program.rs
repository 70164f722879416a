//! The program at the interface: every frame goes to the socket of the queue that it came by.
//!
//! ```c
//! return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
//! ```
//!
//! It is so short that its instructions stand here; no compiler and no loader are needed. A frame of a queue without a socket is
//! passed to the kernel's stack.
//!
//! Source: Linux `include/uapi/linux/bpf.h`; RFC 9669 (the instruction set).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::vf::sockets::error::SocketError;
use crate::vf::sockets::syscalls::{attach_xdp, create_xsk_map, load_xdp, set_xsk};

/// `XDP_FLAGS_SKB_MODE`: behind the driver instead of inside of it.
const GENERIC: u32 = 1 << 1;

/// The program, attached as long as this lives.
#[derive(Debug)]
pub(super) struct Program {
    sockets: OwnedFd,
    _attached: OwnedFd,
}

impl Program {
    /// Attaches it to an interface of at most so many queues: inside of the driver, if that can.
    pub(super) fn attach(index: u32, queues: u32) -> Result<Self, SocketError> {
        let sockets = create_xsk_map(queues).map_err(SocketError::when("make a map of AF_XDP sockets"))?;
        let program = load_xdp(&instructions(sockets.as_raw_fd())).map_err(SocketError::when("load an XDP program"))?;
        let attached = match attach_xdp(program.as_fd(), index, 0) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => attach_xdp(program.as_fd(), index, GENERIC),
            result => result,
        };
        Ok(Self { sockets, _attached: attached.map_err(SocketError::when("attach an XDP program"))? })
    }

    /// Directs what comes by a queue to a socket.
    pub(super) fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SocketError> {
        set_xsk(self.sockets.as_fd(), queue, socket).map_err(SocketError::when("direct frames to an AF_XDP socket"))
    }
}

/// Registers are named by number; the context comes in 1, what is returned stands in 0.
fn instructions(map: i32) -> [u64; 6] {
    const LOAD_WORD: u8 = 0x61;
    const LOAD_CONSTANT: u8 = 0x18;
    const MOVE: u8 = 0xB7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    /// `rx_queue_index` in `xdp_md`.
    const QUEUE: i16 = 16;
    /// The constant is the descriptor of a map.
    const MAP: u8 = 1;
    const REDIRECT_MAP: i32 = 51;
    const PASS: i32 = 2;
    [
        instruction(LOAD_WORD, 2, 1, QUEUE, 0),
        instruction(LOAD_CONSTANT, 1, MAP, 0, map),
        // The constant's upper half.
        0,
        instruction(MOVE, 3, 0, 0, PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    let [a, b] = offset.to_ne_bytes();
    let [c, d, e, f] = constant.to_ne_bytes();
    u64::from_ne_bytes([code, registers, a, b, c, d, e, f])
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_an_assembler_does() {
        // r2 = *(u32 *)(r1 + 16); r1 = map[fd:5] ll; r3 = 2; call 51; exit
        let expected: [u64; 6] = [
            0x0000_0000_0010_1261,
            0x0000_0005_0000_1118,
            0,
            0x0000_0002_0000_03B7,
            0x0000_0033_0000_0085,
            0x0000_0000_0000_0095,
        ];
        assert_eq!(instructions(5), expected);
    }
}
