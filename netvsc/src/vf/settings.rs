//! Deadlines and pauses of the virtual function's machine.

use core::time::Duration;

/// How long things may take, and how often they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Until when the host must have completed a switch. Default 5 s.
    pub switch_limit: Duration,
    /// How long the new path waits for what is outstanding on the old one. Default 20 ms: a host that is not overloaded
    /// completes a send within one.
    pub drain_limit: Duration,
    /// After how long an association without a device, or a device without an association, is reported; it is waited for
    /// all the same. Default 120 s: a MANA device takes its time.
    pub arrival_limit: Duration,
    /// First pause before something that failed is tried again; it doubles with each failure. Default 100 ms.
    pub retry_pause: Duration,
    /// Longest pause before something is tried again. Default 30 s.
    pub retry_pause_max: Duration,
    /// Times that the host is asked to take the traffic back to the synthetic path before it counts as silent. Default 4.
    pub return_attempts: u32,
    /// The path of the VF has to last this long, or losing it was a flap. Default 10 s.
    pub stable_after: Duration,
    /// Flaps in a row that have no consequence. From then on the VF is left alone for a while, which doubles with each.
    /// Default 3.
    pub flaps_free: u32,
    /// First pause after too many flaps. Default 1 s.
    pub flap_pause: Duration,
    /// Longest pause after flaps. Default 60 s.
    pub flap_pause_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            switch_limit: Duration::from_secs(5),
            drain_limit: Duration::from_millis(20),
            arrival_limit: Duration::from_secs(120),
            retry_pause: Duration::from_millis(100),
            retry_pause_max: Duration::from_secs(30),
            return_attempts: 4,
            stable_after: Duration::from_secs(10),
            flaps_free: 3,
            flap_pause: Duration::from_secs(1),
            flap_pause_max: Duration::from_secs(60),
        }
    }
}

/// `pause` doubled `times` times, but at most `limit`.
pub(super) fn doubled(pause: Duration, times: u32, limit: Duration) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    pause.checked_mul(factor).map_or(limit, |pause| pause.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_limit() {
        let (pause, limit) = (Duration::from_millis(100), Duration::from_secs(30));
        assert_eq!(doubled(pause, 0, limit), pause);
        assert_eq!(doubled(pause, 3, limit), Duration::from_millis(800));
        assert_eq!(doubled(pause, 40, limit), limit);
        assert_eq!(doubled(Duration::MAX, 31, limit), limit);
    }
}
