//! Waits for a device's events and wakes whoever waits on its channels.
//!
//! All channels of a device share one event count on one descriptor. Somebody has to read it, and to tell which queues
//! have a reason to look; each queue then scans its rings, clears its mask and looks again by itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::error::GoneReason;
use super::session::{DEVICE, INOTIFY, Session, WAKE};
use super::watch::Watcher;

/// What [`Reactor::turn`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the reactor has to be turned again"]
pub enum Turn {
    /// To be turned when its descriptor is ready, at the latest after this time.
    Wait(Duration),
    /// Nothing: the device was closed, or is gone.
    Over,
}

/// Drives one open device: [`turn`](Self::turn) it whenever its descriptor is ready.
///
/// [`UioDevice::open`](super::UioDevice::open) has a thread do that. Those with a loop of their own take it from
/// [`UioDevice::open_with_reactor`](super::UioDevice::open_with_reactor): it is a `mio` event source with feature `mio`,
/// and runs as a task with feature `tokio` ([`run`](Self::run)). It must not sit where somebody may block: while it
/// does not turn, all queues of the device sleep.
///
/// Dropping it before it is over ends the device.
#[derive(Debug)]
pub struct Reactor {
    session: Arc<Session>,
    watcher: Watcher,
    fruitless: u32,
    /// Not listening to the device before this.
    paused: Option<Instant>,
}

impl Reactor {
    pub(super) fn new(session: Arc<Session>, watcher: Watcher) -> Self {
        Self { session, watcher, fruitless: 0, paused: None }
    }

    /// Does all that can be done without waiting.
    pub fn turn(&mut self, now: Instant) -> Turn {
        if self.session.end().is_some() {
            return Turn::Over;
        }
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
            self.session.listen(true);
        }
        let mut events = [EpollEvent::empty(); 3];
        // An error (a signal, at most) is like no events: it is turned again.
        let ready = self.session.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut more = false;
        for event in &events[..ready] {
            match event.data() {
                DEVICE => more |= self.device_ready(event.events(), now),
                WAKE => {
                    self.session.drain_wake();
                    self.watcher.hurry(now);
                }
                INOTIFY => self.watcher.notified(now),
                _ => {}
            }
        }
        let due = self.watcher.turn(&self.session, now);
        let paused = self.paused.map(|until| until.saturating_duration_since(now));
        if self.session.end().is_some() {
            return Turn::Over;
        }
        Turn::Wait(if more { Duration::ZERO } else { paused.map_or(due, |paused| paused.min(due)) })
    }

    /// Sleeps until [`turn`](Self::turn) has something to do, for `longest` at most.
    pub fn wait(&self, longest: Duration) {
        // Rounded up, or the last part of a millisecond would be spent turning.
        let millis = longest.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        // An error (a signal, at most) is like being woken for nothing.
        let _ = poll(&mut [PollFd::new(self.session.epoll.0.as_fd(), PollFlags::POLLIN)], timeout);
    }

    /// Turns until it is over, on this thread.
    pub fn run_blocking(mut self) {
        while let Turn::Wait(longest) = self.turn(Instant::now()) {
            self.wait(longest);
        }
    }

    /// Reads the count of events, and tells the queues; whether there may be more.
    fn device_ready(&mut self, flags: EpollFlags, now: Instant) -> bool {
        let mut seen = false;
        for _ in 0..MAX_READS {
            let mut count = [0; 4];
            // Over, by another thread: the turn's end finds out.
            let Ok(read) = self.session.with_device(|device| device.read_count(&mut count)) else { return false };
            match read {
                // How often does not matter: several interrupts are one reason to look.
                Ok(4) => seen = true,
                Ok(0) => return self.vanish(GoneReason::EndOfFile),
                Ok(bytes) => return self.vanish(GoneReason::ShortRead { bytes }),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::Interrupted => {}
                    std::io::ErrorKind::WouldBlock => {
                        if seen {
                            self.fruitless = 0;
                            self.session.dispatch();
                        } else if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                            self.vanish(GoneReason::HungUp);
                        } else {
                            self.nothing_there(now);
                        }
                        return false;
                    }
                    // Every other error stays: to read again would be to spin.
                    _ => return self.vanish(GoneReason::Unreadable(error.into())),
                },
            }
        }
        if seen {
            self.fruitless = 0;
            self.session.dispatch();
        } else {
            self.nothing_there(now);
        }
        true
    }

    fn vanish(&self, reason: GoneReason) -> bool {
        self.session.vanish(reason);
        false
    }

    /// Ready, and nothing to read: may happen once in a while. A descriptor that goes on like that is not listened to
    /// for a moment.
    fn nothing_there(&mut self, now: Instant) {
        self.fruitless += 1;
        if self.fruitless >= MAX_FRUITLESS {
            self.fruitless = 0;
            self.paused = Some(now + PAUSE);
            self.session.listen(false);
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // If it is over, it stays what it is.
        self.session.vanish(GoneReason::ReactorDropped);
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.epoll.0.as_fd()
    }
}

impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> RawFd {
        self.session.epoll.0.as_raw_fd()
    }
}

#[cfg(feature = "mio")]
impl mio::event::Source for Reactor {
    fn register(
        &mut self,
        registry: &mio::Registry,
        token: mio::Token,
        interests: mio::Interest,
    ) -> std::io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &mio::Registry,
        token: mio::Token,
        interests: mio::Interest,
    ) -> std::io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}

#[cfg(feature = "tokio")]
impl Reactor {
    /// Turns until it is over, as a task. The runtime must have its I/O and time drivers.
    ///
    /// # Errors
    /// When the runtime cannot watch the descriptor. The device ends with that.
    ///
    /// # Cancel safety
    /// A future that is dropped ends the device.
    pub async fn run(self) -> std::io::Result<()> {
        #[allow(deprecated, reason = "its successor is unsafe; this descriptor is ours, and stays open and the same")]
        let mut this = tokio::io::unix::AsyncFd::with_interest(self, tokio::io::Interest::READABLE)?;
        while let Turn::Wait(longest) = this.get_mut().turn(Instant::now()) {
            // Cleared before the turn, which reads all there is: what comes meanwhile makes it ready again.
            match tokio::time::timeout(longest, this.readable()).await {
                Ok(ready) => ready?.clear_ready(),
                // A device that is faster than this turns at once again: the others get their turn.
                Err(_) => tokio::task::consume_budget().await,
            }
        }
        Ok(())
    }
}

/// Reads of the event count in one turn. A kernel has one value to give; who simulates it may have queued several.
const MAX_READS: usize = 64;
/// Times that the descriptor may be ready without anything to read.
const MAX_FRUITLESS: u32 = 16;
/// How long it is not listened to then.
const PAUSE: Duration = Duration::from_millis(10);
