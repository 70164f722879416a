//! What waits to be posted, in order, and what to do when posting fails.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::gpadl::GpadlId;
use crate::protocol::{Message, RelId};

/// One entry: a message, or the next of the messages that describe memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Message(Message<'static>),
    Gpadl { relid: RelId, gpadl: GpadlId, index: usize },
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Item>,
    /// The message taken last, until the next one is taken.
    last: Option<Item>,
    /// How often posting the front failed.
    failures: u32,
    /// Nothing is handed out before this time.
    retry_at: Option<Duration>,
}

impl Outbox {
    /// Appends a message.
    pub(super) fn push(&mut self, message: Message<'static>) {
        self.queue.push_back(Item::Message(message));
    }

    /// Appends the messages that describe memory.
    pub(super) fn push_gpadl(&mut self, relid: RelId, gpadl: GpadlId) {
        self.queue.push_back(Item::Gpadl { relid, gpadl, index: 0 });
    }

    /// The next message, unless one has to be waited for.
    pub(super) fn front(&mut self) -> Option<Item> {
        if self.retry_at.is_some() {
            return None;
        }
        if self.last.take().is_some() {
            // Nobody reported a failure, so the one before was posted.
            self.failures = 0;
        }
        self.queue.front().copied()
    }

    /// Drops the front.
    pub(super) fn discard(&mut self) {
        self.queue.pop_front();
    }

    /// The front was handed out; `more` says whether further messages of the same memory follow.
    pub(super) fn taken(&mut self, more: bool) {
        let Some(item) = self.queue.pop_front() else {
            return;
        };
        self.last = Some(item);
        if let (true, Item::Gpadl { relid, gpadl, index }) = (more, item) {
            self.queue.push_front(Item::Gpadl { relid, gpadl, index: index.saturating_add(1) });
        }
    }

    /// What could not be posted.
    pub(super) fn take_last(&mut self) -> Option<Item> {
        self.last.take()
    }

    /// Puts a message back to the front and waits, longer each time; `false` if `attempts` are used up.
    pub(super) fn retry(&mut self, item: Item, now: Duration, attempts: u32) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= attempts {
            self.failures = 0;
            return false;
        }
        if let (Item::Gpadl { gpadl, .. }, Some(Item::Gpadl { gpadl: front, .. })) = (item, self.queue.front())
            && gpadl == *front
        {
            self.queue.pop_front();
        }
        self.queue.push_front(item);
        // 1 µs, then twice as long each time, up to about 2 s (Linux `vmbus_post_msg`).
        let exponent = (self.failures - 1).min(21);
        self.retry_at = Some(now.saturating_add(Duration::from_micros(1 << exponent)));
        true
    }

    /// When to look again.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.retry_at
    }

    /// Ends the wait if its time has come.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps the messages for which `keep` holds.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Item) -> bool) {
        self.queue.retain(keep);
    }
}
