//! Adding up what turns take.

use std::time::Duration;

use crate::link::TURN;

/// Runs `turn`, which moves [`TURN`] frames and says how long the guest took, until at least `frames` are through; the
/// time of `frames`.
pub fn time_of(frames: u64, mut turn: impl FnMut() -> Duration) -> Duration {
    let turns = frames.div_ceil(TURN as u64);
    let total: Duration = (0..turns).map(|_| turn()).sum();
    total.mul_f64(frames as f64 / (turns * TURN as u64) as f64)
}
