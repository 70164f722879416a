//! What a queue is told: at construction, and when buffers are attached.

use core::ops::Range;

use super::error::QueueError;
use crate::config::{ConfigError, MIN_RX_COPYBREAK};

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

impl QueueSettings {
    /// Whether these settings can be; others are clamped where they are used.
    ///
    /// # Errors
    /// [`ConfigError::BelowMinimum`]: [`rx_copybreak`](Self::rx_copybreak).
    pub fn check(&self) -> Result<(), ConfigError> {
        let (value, minimum) = (self.rx_copybreak as u64, MIN_RX_COPYBREAK as u64);
        if value < minimum {
            return Err(ConfigError::BelowMinimum { field: "rx_copybreak", value, minimum });
        }
        Ok(())
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

/// Most bytes of a receive buffer: the host says in 32 bits where a range starts.
const MOST_RECEIVE_BYTES: u64 = 1 << 32;

/// Whether a receive buffer of `bytes` can be divided so.
pub(super) fn check_receive_sections(bytes: usize, section_bytes: u32, sections: u32) -> Result<(), QueueError> {
    let bad = |field, value, limit| Err(QueueError::BadBuffer { field, value, limit });
    if bytes as u64 > MOST_RECEIVE_BYTES {
        // Not where an address has no more bits.
        return bad("receive buffer size", bytes, usize::try_from(MOST_RECEIVE_BYTES).unwrap_or(usize::MAX));
    }
    if section_bytes < nvsp::MIN_SECTION_SIZE {
        return bad("receive section size", section_bytes as usize, nvsp::MIN_SECTION_SIZE as usize);
    }
    let (sections, fit) = (sections as usize, bytes / section_bytes as usize);
    if sections == 0 || sections > fit {
        return bad("receive sections", sections, fit);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn no_byte_of_a_receive_buffer_is_beyond_what_a_range_can_name() {
        const MOST: usize = 1 << 32;
        assert_eq!(check_receive_sections(MOST, 1728, 100), Ok(()));
        let error = QueueError::BadBuffer { field: "receive buffer size", value: MOST + 1, limit: MOST };
        assert_eq!(check_receive_sections(MOST + 1, 1728, 100), Err(error));
    }

    #[test]
    fn sections_are_within_the_buffer() {
        let (least, bytes) = (nvsp::MIN_SECTION_SIZE, 10 * nvsp::MIN_SECTION_SIZE as usize);
        assert_eq!(check_receive_sections(bytes, least, 10), Ok(()));
        for (section_bytes, sections, field) in
            [(least - 1, 1, "receive section size"), (least, 0, "receive sections"), (least, 11, "receive sections")]
        {
            let checked = check_receive_sections(bytes, section_bytes, sections);
            assert!(matches!(checked, Err(QueueError::BadBuffer { field: at, .. }) if at == field), "{checked:?}");
        }
    }
}
