//! What a queue's merging did.

/// Why a merged frame was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushReason {
    /// The poll that received it ended.
    PollEnd,
    /// It was held as long as the settings allow.
    Age,
    /// Another flow needed its place.
    Evicted,
    /// It has as many bytes or segments as the settings allow.
    Full,
    /// Its last segment says so: a short one, FIN or PSH.
    Complete,
    /// Headers of the next segment differ, or its payload is longer.
    Headers,
    /// The next segment does not continue it: another sequence number or identification.
    Sequence,
    /// A frame of the same flow came that is never merged.
    Unmergeable,
}

impl FlushReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::PollEnd,
        Self::Age,
        Self::Evicted,
        Self::Full,
        Self::Complete,
        Self::Headers,
        Self::Sequence,
        Self::Unmergeable,
    ];

    /// A name for statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PollEnd => "poll_end",
            Self::Age => "age",
            Self::Evicted => "evicted",
            Self::Full => "full",
            Self::Complete => "complete",
            Self::Headers => "headers",
            Self::Sequence => "sequence",
            Self::Unmergeable => "unmergeable",
        }
    }
}

/// Counters of [`Gro`](super::Gro). Each frame that was handed out is counted in one of `passed`, `single` and `merged`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GroStats {
    /// Frames that came.
    pub frames: u64,
    /// Frames that passed without being held.
    pub passed: u64,
    /// Frames that were held, and nothing came to be merged with.
    pub single: u64,
    /// Frames that were merged.
    pub merged: u64,
    /// Frames that they became.
    pub aggregates: u64,
    /// Aggregates by [`FlushReason`], in its order.
    pub(super) flushes: [u64; FlushReason::ALL.len()],
}

impl GroStats {
    /// Aggregates that were handed out for `reason`.
    #[must_use]
    pub const fn flushes(&self, reason: FlushReason) -> u64 {
        self.flushes[reason as usize]
    }

    /// Adds another queue's.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.frames += other.frames;
        self.passed += other.passed;
        self.single += other.single;
        self.merged += other.merged;
        self.aggregates += other.aggregates;
        for (mine, theirs) in self.flushes.iter_mut().zip(&other.flushes) {
            *mine += theirs;
        }
        self
    }
}
