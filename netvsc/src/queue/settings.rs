//! What a queue is told: at construction, and when buffers are attached.

use core::ops::Range;

/// Settings of a [`Queue`](super::Queue).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSettings {
    /// Control messages of the host that may wait for [`poll_control`](super::Queue::poll_control); more are dropped and
    /// counted. Default 128.
    pub control_inputs: usize,
    /// Control messages of the guest that may be outstanding at the same time. Default 32.
    pub control_outstanding: usize,
    /// Pages of direct memory that one send may take, 1 to 32 (Linux `MAX_PAGE_BUFFER_COUNT`). Default 32.
    pub max_direct_pages: usize,
    /// Longest frame that is copied into a send section where there is direct memory as well; longer ones are sent from
    /// there. Default: no limit, what fits into a section goes into one. DPDK's is 512 (`tx_copybreak`).
    pub tx_copybreak: usize,
    /// Longest frame that [`receive_held`](super::Queue::receive_held) copies whole, and how much it copies of longer ones: at least
    /// [`MIN_RX_COPYBREAK`](crate::config::MIN_RX_COPYBREAK), into which the headers go that are looked at. Default 256, as in DPDK.
    pub rx_copybreak: usize,
    /// Whether an 802.1Q tag that a frame to be sent has in band stays there. Default false: it is moved beside the frame, as
    /// in Linux and DPDK, since hosts expect none in band.
    pub tags_in_band: bool,
    /// Whether the 802.1Q tag of a received frame is put back into it. Default false: it comes beside the frame.
    pub reinsert_tags: bool,
    /// Whether each verdict of the host on a checksum is compared with one computed here. Default false. Costs a pass over
    /// each frame; see [`Disagreement`](super::Disagreement).
    pub check_verdicts: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            control_inputs: 128,
            control_outstanding: 32,
            max_direct_pages: nvsp::MAX_PAGE_BUFFERS,
            tx_copybreak: usize::MAX,
            rx_copybreak: crate::config::DEFAULT_RX_COPYBREAK,
            tags_in_band: false,
            reinsert_tags: false,
            check_verdicts: false,
        }
    }
}

/// The receive buffer, as the host divided it.
#[derive(Debug, Clone)]
pub struct ReceiveBuffer<M> {
    /// The memory.
    pub memory: M,
    /// The id under which the host was told of it ([`nvsp::BufferId`], 0xCAFE).
    pub set_id: u16,
    /// Bytes of one section (sub-allocation), as the host answered: no range is longer.
    pub section_bytes: u32,
    /// How many sections there are: no more ranges can be outstanding.
    pub sections: u32,
}

/// A queue's share of the send buffer.
#[derive(Debug, Clone)]
pub struct SendBuffer<M> {
    /// The memory, all of it: section 0 is at its start.
    pub memory: M,
    /// Bytes of one section, as the host answered.
    pub section_bytes: u32,
    /// The sections that are this queue's.
    pub sections: Range<u32>,
}

/// How messages may be put together in one section; the host's answer to RNDIS INITIALIZE.
///
/// Anything is accepted: [`Queue::attach_limits`](super::Queue::attach_limits) brings it within what makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregateLimits {
    /// Most messages.
    pub max_packets: u32,
    /// Most bytes, of one message and of all together.
    pub max_bytes: u32,
    /// Each message starts on a multiple of this many bytes: a power of two.
    pub alignment: u32,
}

impl AggregateLimits {
    /// One message at a time: what holds until the host has answered.
    pub const SINGLE: Self = Self { max_packets: 1, max_bytes: u32::MAX, alignment: 1 };

    /// Most bytes of padding that are put between messages; Linux' hosts ask for 8.
    pub(super) const MAX_ALIGNMENT: u32 = 256;

    /// The limits within what makes sense: at least one message; an alignment that is no power of two, or more than
    /// anyone asks for, ends aggregation rather than the session.
    pub(super) fn clamped(self) -> Self {
        if !self.alignment.is_power_of_two() || self.alignment > Self::MAX_ALIGNMENT {
            return Self { max_packets: 1, alignment: 1, ..self };
        }
        Self { max_packets: self.max_packets.max(1), ..self }
    }
}
