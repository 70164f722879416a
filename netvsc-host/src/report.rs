//! What a test asks the host at the end.

use crate::host::NicId;
use crate::violation::Violation;

/// Everything that the host noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What guests did wrong, in order, at most [`MAX_VIOLATIONS`](crate::violation::MAX_VIOLATIONS).
    pub violations: Vec<Violation>,
    /// Violations beyond those.
    pub violations_not_kept: u64,
    /// What was not given back, over all NICs.
    pub leaks: Leaks,
    /// Every NIC, in the order they were added.
    pub nics: Vec<NicReport>,
}

impl Report {
    /// No violations, and everything was given back. Ask after the guest's end: until then memory is in use, not leaked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.violations_not_kept == 0 && self.leaks.is_none()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = self.violations_not_kept;
        writeln!(f, "{} violations, {} leaks", self.violations.len() as u64 + more, self.leaks.total())?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        if more > 0 {
            writeln!(f, "  and {more} more")?;
        }
        if !self.leaks.is_none() {
            writeln!(f, "  {:?}", self.leaks)?;
        }
        Ok(())
    }
}

/// What the guest holds, or made the host hold. After its end all of it is leaked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaks {
    /// Receive sub-allocations that were not given back by a completion.
    pub sections: u64,
    /// Transfer-page packets without a completion.
    pub receive_ids: u64,
    /// Sends that the host has taken and not completed.
    pub sends: u64,
    /// GPADLs not torn down, whole or in the making.
    pub gpadls: u64,
    /// Channels still open, and relids rescinded but not released.
    pub channels: u64,
    /// Blocks of guest memory not freed.
    pub memory_blocks: u64,
}

impl Leaks {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// How many things there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sections + self.sends + self.gpadls + self.channels + self.memory_blocks
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sections += other.sections;
        self.receive_ids += other.receive_ids;
        self.sends += other.sends;
        self.gpadls += other.gpadls;
        self.channels += other.channels;
        self.memory_blocks += other.memory_blocks;
    }
}

/// One NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NicReport {
    /// Which.
    pub id: NicId,
    /// The NVSP version agreed on, in the current or last session.
    pub nvsp_version: Option<nvsp::Version>,
    /// The VMBus version agreed on.
    pub vmbus_version: Option<vmbus::protocol::Version>,
    /// Whether a channel fell silent after a fatal violation.
    pub silent: bool,
    /// The packet filter that the guest set; 0: it wants no frames.
    pub packet_filter: u32,
    /// Frames on their way to the guest that it was not told of yet.
    pub rx_waiting: u64,
    /// What it holds.
    pub leaks: Leaks,
    /// What happened.
    pub counters: NicCounters,
}

/// Counters of one NIC, over its life. "Receive" and "transmit" are the guest's words: receive is host to guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NicCounters {
    /// Frames given to the guest.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Transfer-page packets that carried them.
    pub rx_packets: u64,
    /// Completions of those.
    pub rx_completions: u64,
    /// Coalesced frames among them.
    pub rsc_frames: u64,
    /// The segments that those were made of.
    pub rsc_segments: u64,
    /// Frames that had a VLAN tag, among them.
    pub rx_vlan: u64,
    /// Frames dropped: filter, link down, or tagged where tags do not pass.
    pub rx_filtered: u64,
    /// Frames dropped: no receive sub-allocation free and the backlog full, or longer than the MTU.
    pub rx_dropped: u64,
    /// Times that the host found the host→guest ring full.
    pub rx_ring_full: u64,
    /// Frames taken from the guest.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that carried them.
    pub tx_packets: u64,
    /// Packets by send section.
    pub tx_section_packets: u64,
    /// Packets with GPA-direct ranges.
    pub tx_direct_packets: u64,
    /// Frames whose checksums the guest left to the host, large frames not counted.
    pub tx_checksums: u64,
    /// Large frames (LSO) among them.
    pub lso_frames: u64,
    /// The frames that those are cut into on a wire.
    pub lso_segments: u64,
    /// Frames with a VLAN tag, beside the frame or in it, among them.
    pub tx_vlan: u64,
    /// Frames dropped: tagged where tags do not pass.
    pub tx_filtered: u64,
    /// Packets that were refused.
    pub tx_failed: u64,
    /// RNDIS control messages taken.
    pub control_messages: u64,
    /// Frames given to the guest by the virtual function.
    pub vf_rx_frames: u64,
    /// Frames for it that it had no room for.
    pub vf_rx_dropped: u64,
    /// Frames taken from the guest by the virtual function.
    pub vf_tx_frames: u64,
    /// Frames of the guest's that were in a virtual function when it vanished.
    pub vf_lost: u64,
    /// Messages about a virtual function.
    pub vf_messages: u64,
    /// Interrupts raised.
    pub interrupts: u64,
}
