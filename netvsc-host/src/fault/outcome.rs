//! What a hook tells the host to do. The first variant of each is what happens without faults.

use core::time::Duration;

/// Fate of one frame to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// Deliver it.
    #[default]
    Pass,
    /// Lose it.
    Drop,
    /// Deliver it with one byte changed.
    Corrupt {
        /// Which byte; less than the frame's length.
        offset: usize,
        /// What it is combined with by exclusive or; not 0.
        xor: u8,
    },
    /// Deliver it twice.
    Duplicate,
}

/// How the segments of one coalesced frame are marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoalescedFate {
    /// As they should be.
    #[default]
    Whole,
    /// None is the first.
    NoFirst,
    /// None is the last.
    NoLast,
    /// The second is the first, too.
    FirstTwice,
    /// The second is a frame by itself.
    Interrupted,
}

/// Fate of one VMBus packet to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketFate {
    /// Send it.
    #[default]
    Pass,
    /// Lose it, as when the ring is full; its receive sections are free again.
    Drop,
    /// Spoil it in this way. Where the way does not fit the packet, the host sends a packet of its own that it fits.
    Violate(GuestViolation),
}

/// A way of breaking the protocol towards the guest. `seed` values are for filling bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestViolation {
    /// See [`Fault::RangeOutOfBounds`](super::Fault::RangeOutOfBounds).
    RangeOutOfBounds,
    /// See [`Fault::RangesOverlap`](super::Fault::RangesOverlap).
    RangesOverlap,
    /// See [`Fault::RangeCount`](super::Fault::RangeCount).
    RangeCount,
    /// See [`Fault::UnknownTransferSet`](super::Fault::UnknownTransferSet).
    UnknownTransferSet {
        /// The id to use instead.
        id: u16,
    },
    /// See [`Fault::MessageLength`](super::Fault::MessageLength).
    MessageLength,
    /// See [`Fault::DataOffset`](super::Fault::DataOffset).
    DataOffset,
    /// See [`Fault::InfoSizeZero`](super::Fault::InfoSizeZero).
    InfoSizeZero,
    /// See [`Fault::UnknownRndisType`](super::Fault::UnknownRndisType).
    UnknownRndisType {
        /// The type to use instead.
        message_type: u32,
    },
    /// See [`Fault::UnknownNvspType`](super::Fault::UnknownNvspType).
    UnknownNvspType {
        /// The type to use instead.
        message_type: u32,
    },
    /// See [`Fault::UnknownPacketType`](super::Fault::UnknownPacketType).
    UnknownPacketType {
        /// The type to use instead.
        packet_type: u16,
    },
    /// See [`Fault::Garbage`](super::Fault::Garbage).
    Garbage {
        /// How many bytes.
        bytes: usize,
        /// From what they are made.
        seed: u64,
    },
    /// See [`Fault::EditAfterDelivery`](super::Fault::EditAfterDelivery).
    EditAfterDelivery {
        /// From what place and value are made.
        seed: u64,
    },
}

/// Fate of one completion of a packet that the guest sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompletionFate {
    /// Send it now.
    #[default]
    Now,
    /// Send it after this many more steps of the host.
    Delay {
        /// At least 1.
        steps: u32,
    },
    /// Do not send it.
    Never,
    /// Send it twice.
    Duplicate,
    /// Send one with this transaction id first, then the right one.
    ForeignId {
        /// An id that the guest did not ask for.
        transaction_id: u64,
    },
    /// Send it with a status that says failure.
    Failed,
}

/// Fate of one signal to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterruptFate {
    /// Send it now.
    #[default]
    Now,
    /// Do not send it.
    Lost,
    /// Send it after this many more steps of the host.
    Late {
        /// At least 1.
        steps: u32,
    },
}

/// Fate of one RNDIS answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerFate {
    /// Send it after the completion of its request.
    #[default]
    Now,
    /// Do not send it.
    Never,
    /// Send it so much later.
    Late {
        /// How much.
        delay: Duration,
    },
    /// Send it before the completion of its request.
    BeforeCompletion,
    /// Send it twice.
    Duplicate,
    /// Send one with this request id first, then the right one.
    ForeignId {
        /// An id that the guest did not use.
        request_id: u32,
    },
    /// Send it so many bytes shorter, with lengths that still count them.
    Short {
        /// At least 1.
        by: usize,
    },
    /// Send it with a status that says failure.
    Failed,
    /// Send an unsolicited message first, such as a link or table message, then the answer.
    Unsolicited,
}

/// Whether a queue is served in this step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Service {
    /// Serve it.
    #[default]
    Serve,
    /// Never serve it again: stop reading, leave the mask at 1, rescind nothing.
    Silent,
}

/// What the link is reported to do although it is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkFate {
    /// Nothing.
    #[default]
    Steady,
    /// Report it down now and up again later. A status query says connected all the time.
    Flap {
        /// When it is up again.
        up_after: Duration,
    },
}

/// An event in the life of a device that the host brings about by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upset {
    /// None.
    #[default]
    None,
    /// Take the receive buffer back.
    RevokeReceiveBuffer,
    /// Rescind the NIC.
    Rescind,
    /// Take the VF away without notice.
    VfRemoved,
}
