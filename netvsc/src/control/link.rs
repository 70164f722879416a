//! The link's state: who is believed, and how often changes are told.
//!
//! Linux (`netvsc_drv.c`, `netvsc_link_change`) handles one link event every two seconds and drops duplicates. Hosts tell
//! of "up" while already up as "down" and, seconds later, "up"; and their answer to the connect status query says
//! "connected" even while the link is down (seen with OpenVMM). So an indication, once there was one, wins over the query.

use core::time::Duration;

use crate::info::LinkState;
use crate::time::Instant;

/// What to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkChange {
    /// It came up.
    Up,
    /// It went down.
    Down,
    /// It went away and came back (or came and went) faster than is told.
    Flapped,
}

/// The link.
#[derive(Debug)]
pub(super) struct Link {
    pace: Duration,
    /// What the host said last.
    actual: LinkState,
    /// What was told last.
    told: LinkState,
    /// Whether the host ever said anything by itself.
    indicated: bool,
    /// Nothing is told before this.
    quiet_until: Instant,
    /// Something changed since it was told.
    pending: bool,
}

impl Link {
    pub(super) const fn new(pace: Duration) -> Self {
        Self {
            pace,
            actual: LinkState::Down,
            told: LinkState::Down,
            indicated: false,
            quiet_until: Instant::ZERO,
            pending: false,
        }
    }

    /// What the host said last.
    pub(super) const fn actual(&self) -> LinkState {
        self.actual
    }

    /// The host answered the query.
    pub(super) fn answered(&mut self, state: LinkState) {
        if !self.indicated {
            self.actual = state;
        }
    }

    /// The host told of a change. [`poll`](Self::poll) says what to tell.
    pub(super) fn indicated(&mut self, state: LinkState) {
        self.indicated = true;
        if self.actual != state {
            self.actual = state;
            self.pending = true;
        }
    }

    /// From now on changes are told; the state so far is known.
    pub(super) fn start_telling(&mut self) {
        self.told = self.actual;
        self.pending = false;
    }

    /// The session with the host is over; another one may begin.
    pub(super) fn session_ended(&mut self) {
        self.indicated = false;
    }

    /// From now on changes are told again, those since the session before included.
    pub(super) fn go_on_telling(&mut self) {
        self.pending = self.told != self.actual;
    }

    /// What is to be told now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<LinkChange> {
        if !self.pending || now < self.quiet_until {
            return None;
        }
        self.pending = false;
        self.quiet_until = now + self.pace;
        let change = match (self.told, self.actual) {
            (LinkState::Down, LinkState::Up) => LinkChange::Up,
            (LinkState::Up, LinkState::Down) => LinkChange::Down,
            _ => LinkChange::Flapped,
        };
        self.told = self.actual;
        Some(change)
    }

    /// When there will be something to tell.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.then_some(self.quiet_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::new(Duration::from_millis(millis))
    }

    fn link() -> Link {
        Link::new(Duration::from_secs(2))
    }

    #[test]
    fn the_first_change_is_told_at_once_and_the_next_after_the_pause() {
        let mut link = link();
        link.indicated(LinkState::Up);
        assert_eq!(link.poll(at(1)), Some(LinkChange::Up));
        link.indicated(LinkState::Down);
        assert_eq!((link.poll(at(2)), link.poll_timeout()), (None, Some(at(2001))));
        assert_eq!(link.poll(at(2001)), Some(LinkChange::Down));
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn duplicates_are_not_told() {
        let mut link = link();
        link.indicated(LinkState::Down);
        assert_eq!(link.poll(at(0)), None);
        link.indicated(LinkState::Up);
        link.indicated(LinkState::Up);
        assert_eq!(link.poll(at(0)), Some(LinkChange::Up));
        link.indicated(LinkState::Up);
        assert_eq!((link.poll(at(9000)), link.poll_timeout()), (None, None));
    }

    #[test]
    fn a_flap_within_the_pause_is_told_as_one() {
        let mut link = link();
        link.indicated(LinkState::Up);
        assert_eq!(link.poll(at(0)), Some(LinkChange::Up));
        link.indicated(LinkState::Down);
        link.indicated(LinkState::Up);
        assert_eq!(link.poll(at(1999)), None);
        assert_eq!(link.poll(at(2000)), Some(LinkChange::Flapped));
    }

    #[test]
    fn an_indication_wins_over_a_later_answer() {
        let mut link = link();
        link.answered(LinkState::Up);
        assert_eq!(link.actual(), LinkState::Up);
        link.indicated(LinkState::Down);
        link.answered(LinkState::Up);
        assert_eq!(link.actual(), LinkState::Down);
    }
}
