//! What is compared, a row each.

use std::fmt;

use netvsc_benches::compare::Mode;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Frames are moved; bytes of each.
    Frames(Mode, u16),
    /// A client that forwards waits for frames, and none come.
    Idle,
}

/// Which of this project's clients does it. DPDK's is always testpmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ours {
    /// Bursts, by `examples/l2fwd`, which polls.
    Bursts,
    /// `Stream` and `Sink`, by `layers`.
    Packets,
    /// The device for smoltcp, by `layers`.
    Smoltcp,
    /// Bursts, by `examples/l2fwd`, which waits for interrupts.
    Interrupt,
    /// Bursts, by `examples/l2fwd`, which polls for a while, and then waits for interrupts.
    Adaptive,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) ours: Ours,
}

use Mode::{Io, Rxonly, Txonly};
use Ours::{Adaptive, Bursts, Interrupt, Packets, Smoltcp};

/// The rows, in order.
pub(crate) const CASES: [Case; 16] = [
    Case::frames(Rxonly, 64, Bursts),
    Case::frames(Rxonly, 1500, Bursts),
    Case::frames(Txonly, 64, Bursts),
    Case::frames(Txonly, 1500, Bursts),
    Case::frames(Io, 64, Bursts),
    Case::frames(Io, 1500, Bursts),
    Case::frames(Rxonly, 64, Packets),
    Case::frames(Rxonly, 1500, Packets),
    Case::frames(Txonly, 64, Packets),
    Case::frames(Txonly, 1500, Packets),
    Case::frames(Io, 64, Packets),
    Case::frames(Io, 1500, Packets),
    Case::frames(Io, 64, Smoltcp),
    Case::frames(Io, 1500, Smoltcp),
    Case { work: Work::Idle, ours: Interrupt },
    Case { work: Work::Idle, ours: Adaptive },
];

impl Case {
    const fn frames(mode: Mode, size: u16, ours: Ours) -> Self {
        Self { work: Work::Frames(mode, size), ours }
    }

    /// Frames a second that `rxonly` is offered: about what testpmd can take, which drops nearly all of much more.
    pub(crate) fn offered(size: u16) -> u32 {
        if size < 512 { 8_000_000 } else { 3_000_000 }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.work {
            Work::Frames(mode, size) => write!(f, "{} {size} B", mode.name())?,
            Work::Idle => f.write_str("idle")?,
        }
        f.write_str(match (self.ours, self.work) {
            (Bursts, _) => "",
            (Packets, Work::Frames(Rxonly, _)) => ", Stream",
            (Packets, Work::Frames(Txonly, _)) => ", Sink",
            (Packets, _) => ", Stream and Sink",
            (Smoltcp, _) => ", smoltcp device",
            (Interrupt, _) => ", Interrupt",
            (Adaptive, _) => ", Adaptive",
        })
    }
}
