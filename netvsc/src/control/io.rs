//! What goes into the control machine and what comes out, apart from events for the user.

use alloc::vec::Vec;
use core::ops::Range;

use vmbus::ErrorKind;
use vmbus::bus::{BufferWish, Purpose, RingSizes};
use vmbus::gpadl::GpadlId;

use crate::info::Sections;
use crate::queue::{AggregateLimits, ControlToken, HeldReceives, QueueError};

/// Something that happened on the bus or the channels. Without a name it is about the primary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The primary channel is offered.
    Offered,
    /// It was opened, and its queue exists.
    Opened,
    /// It was not.
    OpenFailed {
        /// The host's word.
        status: u32,
    },
    /// A subchannel is offered.
    SubchannelOffered {
        /// Its index.
        queue: u16,
    },
    /// It was opened, and its queue exists.
    SubchannelOpened {
        /// Its index.
        queue: u16,
    },
    /// It was not.
    SubchannelNotOpened {
        /// Its index.
        queue: u16,
        /// The host's word.
        status: u32,
    },
    /// The host took it back.
    SubchannelRescinded {
        /// Its index.
        queue: u16,
    },
    /// Its queue cannot be made, or not be given its buffers.
    SubchannelFailed {
        /// Its index.
        queue: u16,
        /// Why.
        error: QueueError,
    },
    /// Answers [`Action::Allocate`]: there is memory. A receive or send buffer cannot be used before
    /// [`GpadlCreated`](Self::GpadlCreated).
    Allocated {
        /// What for.
        purpose: Purpose,
        /// How much there is, which may be more or less than wished.
        bytes: usize,
        /// Its GPADL, which is being established; none for [`Purpose::Direct`].
        gpadl: Option<GpadlId>,
    },
    /// Answers [`Action::Allocate`]: there is no such memory.
    NotAllocated {
        /// What for.
        purpose: Purpose,
    },
    /// The GPADL exists.
    GpadlCreated(GpadlId),
    /// The host refused the GPADL.
    GpadlFailed {
        /// Which.
        gpadl: GpadlId,
        /// The host's word.
        status: u32,
    },
    /// The host let go of the memory.
    GpadlTornDown(GpadlId),
    /// The host took the channel back, or the device is gone.
    Rescinded,
    /// The primary channel's queue is unusable: the host broke its rings, or its doorbell is gone.
    QueueFailed(QueueError),
    /// A message that was sent with a token was completed.
    Completed {
        /// Which.
        token: ControlToken,
        /// The completion's payload; may be empty.
        payload: &'a [u8],
    },
    /// An NVSP message from the host, in band.
    Nvsp {
        /// The message.
        payload: &'a [u8],
    },
    /// An RNDIS message from the host that is no packet.
    Rndis {
        /// The message; what follows it in its range may follow here.
        payload: &'a [u8],
    },
    /// A message could not be sent, and never will be.
    NotSent {
        /// Which; `None` for those without a token.
        token: Option<ControlToken>,
        /// Who is at fault.
        kind: ErrorKind,
    },
    /// What the queues have not finished; wanted while [`Control::is_draining`](super::Control::is_draining).
    Outstanding {
        /// Sends that the host has not completed.
        sends: usize,
        /// Receive packets that the host has not been given back, those that are held among them.
        receives: usize,
        /// Of them, those of which the application holds frames.
        held: HeldReceives,
    },
    /// Answers [`Action::Detach`]: the queues let go of the buffers.
    Detached {
        /// Sends that will never be completed.
        sends: usize,
        /// Receive packets that were not given back.
        receives: usize,
    },
}

/// Something to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open the primary channel: [`Input::Opened`] or [`Input::OpenFailed`] follows.
    Open(RingSizes),
    /// Get memory: [`Input::Allocated`] or [`Input::NotAllocated`] follows.
    Allocate(BufferWish),
    /// Send an NVSP message in band.
    SendNvsp {
        /// The message, of the length that Linux and DPDK send at every version.
        message: [u8; nvsp::MESSAGE_LEN],
        /// If a completion is wanted.
        token: Option<ControlToken>,
    },
    /// Send an RNDIS control message; its completion is always wanted.
    SendRndis {
        /// The message.
        message: Vec<u8>,
        /// Named by its completion.
        token: ControlToken,
    },
    /// The host divided the receive buffer: the queues may use it.
    AttachReceive {
        /// Bytes of each section.
        section_bytes: u32,
        /// Sections.
        sections: u32,
        /// Most of them that may wait to be received in a queue ([`Queue::set_most_waiting`](crate::Queue::set_most_waiting)).
        most_waiting: u32,
        /// Most of them that may be held ([`Queue::set_most_held`](crate::Queue::set_most_held)).
        most_held: u32,
    },
    /// The host took the send buffer: the queues may use it.
    AttachSend {
        /// Bytes of each section.
        section_bytes: u32,
        /// Sections.
        sections: u32,
    },
    /// There are fewer queues than reckoned with: the primary channel's queue gets more sections.
    GrowSend {
        /// Sections that it has then, from the first one on.
        sections: u32,
    },
    /// There are more queues than one, or fewer than reckoned with: the primary channel's queue has another share of the receive
    /// buffer.
    ShareReceive {
        /// Most sections that may wait to be received in it then.
        most_waiting: u32,
        /// Most sections that may be held.
        most_held: u32,
    },
    /// Open a subchannel: [`Input::SubchannelOpened`] or [`Input::SubchannelNotOpened`] follows.
    OpenSubchannel {
        /// Its index.
        queue: u16,
        /// Sizes of its rings.
        rings: RingSizes,
    },
    /// Give a subchannel's queue its buffers; [`Input::SubchannelFailed`] follows if it does not take them.
    AttachSubchannel(QueueParts),
    /// A subchannel's queue must let go of its buffers; then close the channel, or give it back if it was rescinded.
    CloseSubchannel {
        /// Its index.
        queue: u16,
    },
    /// How messages may be put together.
    AttachLimits(AggregateLimits),
    /// The queues must take no more frames to send ([`Queue::pause`](crate::Queue::pause)); while
    /// [`Control::is_draining`](super::Control::is_draining) they finish what they have
    /// ([`Queue::quiesce`](crate::Queue::quiesce)).
    Pause,
    /// The queues take frames again ([`Queue::resume`](crate::Queue::resume)).
    Resume,
    /// The queues must let go of all buffers: [`Input::Detached`] follows.
    Detach,
    /// Something is to be done to the virtual function; only after [`Control::use_vf`](super::Control::use_vf). Never
    /// [`Switch`](crate::vf::Action::Switch): that is a [`SendNvsp`](Self::SendNvsp).
    Vf(crate::vf::Action),
    /// Give memory back, and tear its GPADL down: [`Input::GpadlTornDown`] follows if there is one.
    Release(Purpose),
    /// Close the primary channel, or give it back if it was rescinded.
    Close,
}

/// What the queue of a subchannel is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueParts {
    /// Index of the subchannel.
    pub queue: u16,
    /// The receive buffer, which all queues share.
    pub receive: Sections,
    /// Most receive sections that may wait to be received in the queue.
    pub most_waiting: u32,
    /// Most receive sections that may be held.
    pub most_held: u32,
    /// Bytes of a send section, and the sections that are this queue's: may be none.
    pub send: Option<(u32, Range<u32>)>,
    /// Memory to be allocated for its GPA-direct sends; 0 for none.
    pub direct_bytes: usize,
    /// How messages may be put together.
    pub limits: AggregateLimits,
}
