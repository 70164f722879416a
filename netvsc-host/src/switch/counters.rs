//! What the switch counts for each port.

/// Counters of one port. "In" is from the port into the switch, "out" from the switch to the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortCounters {
    /// Frames that the switch took from the port.
    pub in_frames: u64,
    /// Their bytes.
    pub in_bytes: u64,
    /// Frames that the port took from the switch.
    pub out_frames: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// Frames from the port that were refused.
    pub in_drops: IngressDrops,
    /// Frames towards the port that it did not get.
    pub out_drops: EgressDrops,
    /// Frames from the port that went to all other ports since their destination was not known.
    pub flooded: u64,
    /// Addresses that appeared at this port while known at another.
    pub moves: u64,
}

/// Why frames from a port were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngressDrops {
    /// Shorter than the least size.
    pub runt: u64,
    /// Longer than the greatest size.
    pub oversize: u64,
    /// The source is a group address or all zero.
    pub bad_source: u64,
    /// The source is not this port's to use.
    pub spoofed: u64,
    /// The destination is at the port itself: it has the frame already.
    pub own_segment: u64,
}

impl IngressDrops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.runt + self.oversize + self.bad_source + self.spoofed + self.own_segment
    }
}

/// Why frames towards a port did not get there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EgressDrops {
    /// The port's packet filter does not select them.
    pub filtered: u64,
    /// The port refused them, usually because it is full.
    pub refused: u64,
}

impl EgressDrops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.filtered + self.refused
    }
}
