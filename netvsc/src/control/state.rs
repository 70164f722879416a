//! Where the machine stands, and what exists at the host that has to be undone.

use alloc::boxed::Box;

use nvsp::Version;
use vmbus::gpadl::GpadlId;

use crate::info::{DeviceInfo, Sections};
use crate::queue::ControlToken;
use crate::time::Instant;

use super::event::CloseReport;
use super::failure::{Cause, Step};
use super::setup::Setup;
use super::subchannels::{Growing, QueueSet};

/// Where the machine stands.
///
/// ```text
///  Offered ─► Opening ─► Negotiating ─► ReceiveGpadl ─► ReceiveBuffer ─► SendGpadl ─► SendBuffer ─┐
///                             │ ▲ refused:                                   │ no memory, refused │
///                             └─┘ next lower version                         └────────┬───────────┘
///                                                                                     ▼
///                                            Ready ◄── Configuring: INITIALIZE and ◄─ DirectMemory
///                                              │       one request after the other
///                                              │          │ ▲
///                                              │          ▼ │ several queues wished, and the host has them
///                                              │        Growing: subchannels
///                                              ▼ close
///   failure or close in any state ────────► Closing: silence ─► halt ─► drain ─► detach ─► release ─► Over
///   rescind in any state ─────────────────► Closing, from "detach" on
///   change of a device that is up ────────► Closing, after a drain; then Opening again instead of Over
/// ```
///
/// Messages that the host sends by itself are no transitions: [`notice`](super::notice) takes them in every state.
#[derive(Debug)]
pub(super) enum State {
    /// Waiting for the primary channel's offer.
    Offered,
    /// Waiting for the channel to open.
    Opening,
    /// Waiting for the host's word on a version.
    Negotiating {
        /// Names the answer.
        token: ControlToken,
        /// The version offered.
        candidate: Version,
    },
    /// Waiting for memory and GPADL of the receive buffer.
    ReceiveGpadl {
        /// The memory, once there is some.
        memory: Option<Memory>,
    },
    /// Waiting for the host to divide the receive buffer.
    ReceiveBuffer {
        /// Names the answer.
        token: ControlToken,
        /// What the host may divide.
        bytes: usize,
    },
    /// Waiting for memory and GPADL of the send buffer.
    SendGpadl {
        /// What the host made of the receive buffer.
        receive: Sections,
        /// The memory, once there is some.
        memory: Option<Memory>,
    },
    /// Waiting for the host to take the send buffer.
    SendBuffer {
        /// What the host made of the receive buffer.
        receive: Sections,
        /// Names the answer.
        token: ControlToken,
        /// What can be divided into sections.
        bytes: usize,
    },
    /// Waiting for memory for GPA-direct sends.
    DirectMemory {
        /// What the host made of the receive buffer.
        receive: Sections,
        /// What the host made of the send buffer.
        send: SendShare,
    },
    /// Asking and setting values over RNDIS.
    Configuring(Box<Setup>),
    /// Waiting for subchannels.
    Growing(Growing),
    /// Up.
    Ready(Box<DeviceInfo>),
    /// Being undone.
    Closing(Closing),
    /// Nothing is left.
    Over,
}

/// Memory of which a GPADL is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) bytes: usize,
    pub(super) gpadl: GpadlId,
}

/// Whether there is a send buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendShare {
    /// The host took it.
    Taken(Sections),
    /// None was wanted.
    NotWanted,
    /// The host refused it (or its GPADL: no status), or there was no memory for one.
    Refused(Option<nvsp::Status>),
}

impl SendShare {
    pub(super) const fn sections(self) -> Option<Sections> {
        match self {
            Self::Taken(sections) => Some(sections),
            Self::NotWanted | Self::Refused(_) => None,
        }
    }

    pub(super) const fn status(self) -> Option<nvsp::Status> {
        match self {
            Self::Refused(status) => status,
            Self::Taken(_) | Self::NotWanted => None,
        }
    }
}

/// The device on its way down.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) why: Why,
    pub(super) phase: Phase,
    /// When completions are not waited for any more: one deadline for HALT's and all others.
    pub(super) until: Option<Instant>,
    pub(super) report: CloseReport,
}

/// Why a device is closed; decides on the last event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// The user wished it.
    Wished,
    /// It cannot go on.
    Failed {
        /// What was being done.
        step: Step,
        /// Why it failed.
        cause: Cause,
    },
    /// The host took it away.
    Rescinded,
    /// To be brought up again, otherwise.
    Reconfigured,
}

/// What of the teardown is being waited for.
#[derive(Debug)]
pub(super) enum Phase {
    /// The answer to "packet filter 0".
    Silencing,
    /// The completion of RNDIS HALT.
    Halting {
        /// Names it.
        token: ControlToken,
    },
    /// The host's completions of our sends, and room for our acknowledgments.
    Draining,
    /// The queues' word that they let go of the buffers.
    Detaching,
    /// The host's word that it let go of the buffers.
    Releasing,
}

/// What exists and has to be undone, in whichever state.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// The channel is open, or the host was asked to open it.
    pub(super) channel: bool,
    /// The channel's queue exists.
    pub(super) queue: bool,
    /// Subchannels that are open, or that the host was asked to open.
    pub(super) subchannels: QueueSet,
    /// The receive buffer.
    pub(super) receive: Buffer,
    /// The send buffer.
    pub(super) send: Buffer,
    /// There is memory for GPA-direct sends.
    pub(super) direct: bool,
    /// RNDIS INITIALIZE was sent.
    pub(super) rndis: bool,
}

/// How far a buffer has come.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// There is memory.
    pub(super) memory: bool,
    /// Its GPADL, from its creation to the end of its teardown.
    pub(super) gpadl: Option<GpadlId>,
    /// The host was told of it by NVSP.
    pub(super) shared: bool,
}
