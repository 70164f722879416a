//! AF_XDP: a virtual function by rings and memory that its driver fills, before the kernel's stack sees a frame.
//!
//! | file | has |
//! |---|---|
//! | `queue` | [`XdpQueue`]: a socket, its four rings, the memory of its frames |
//! | `ring` | one ring |
//! | `program` | the program that directs frames to the sockets |
//!
//! Each receive queue of the interface has a socket of its own, with its own memory; all are opened, because frames of the
//! others would go to the kernel. Where the driver has zero copy it is used (mlx5), otherwise the kernel copies. Once the kernel
//! is told to (`XDP_USE_NEED_WAKEUP`) it says itself whether it has to be woken for what is in a ring.
//!
//! The rings are [`HeapMemory`](vmbus::memory::HeapMemory), and the socket's options `rustix`'s, so that no code here is
//! `unsafe` but the four uses of `bpf(2)`. The crates that cover more leave that to their user: in `xdp` every operation on a
//! ring is `unsafe`, `xsk-rs` binds a C library.
//!
//! # What it does not do
//! * Frames of more than one buffer: an MTU above [`LONGEST_FRAME`] cannot be opened.
//! * Tags that the hardware takes out of frames are lost: `ethtool -K … rxvlan off` where tagged frames are expected.
//! * Merging: it is the driver's (LRO) that has to be off, which most drivers see to.
//! * Frames that wait in the send ring while somebody takes the interface down are sent when it is up again.
//! * Where the driver has zero copy, nobody tells whether a frame that was completed has left. (Where the kernel copies, it says of
//!   each that it completed and the driver did not take; those are counted, and told of as lost.)
//!
//! Between virtual interfaces (veth) frames come without their checksum, and nothing tells so. There a frame whose checksum
//! field has the sum of its pseudo header is completed.
//!
//! Source: Linux `Documentation/networking/af_xdp.rst`, `net/xdp/xsk.c`.

mod program;
mod queue;
mod ring;

pub use queue::{LONGEST_FRAME, XdpQueue, XdpStats};

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{MtuTooLarge, SocketError};
use super::netlink::Link;
use super::state::{FRAMING, State};
use program::Program;

/// Largest L3 MTU whose frames fit.
pub(super) const LARGEST_MTU: u32 = LONGEST_FRAME as u32 - FRAMING;
/// Most queues of an interface.
const QUEUES: u32 = 256;
/// How long a socket that was closed a moment ago is waited for: the kernel finishes that by and by.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(5);

/// Sizes of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct XdpSettings {
    /// Frames that each ring holds; rounded up to a power of two. Each costs 4 KiB. Default: 2048, which is 16 MiB for both.
    pub frames: u32,
    /// Have the kernel copy frames even if the driver could do without. Default: no.
    pub copy: bool,
}

impl Default for XdpSettings {
    fn default() -> Self {
        Self { frames: 2048, copy: false }
    }
}

/// Opens all queues of an interface. May wait.
pub(super) fn open(link: &Link, state: &Arc<State>, settings: &XdpSettings) -> Result<Vec<XdpQueue>, SocketError> {
    MtuTooLarge::check(state.mtu(), LARGEST_MTU)?;
    let program = Arc::new(patiently(|| Program::attach(link.index, QUEUES))?);
    let mut queues = Vec::new();
    for number in 0..QUEUES {
        match patiently(|| XdpQueue::open(link, number, state, &program, settings)) {
            Ok(queue) => queues.push(queue),
            // There are no more.
            Err(error) if number > 0 && error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(queues)
}

/// Tries again while something is busy.
fn patiently<T>(mut open: impl FnMut() -> Result<T, SocketError>) -> Result<T, SocketError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}
