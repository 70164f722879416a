//! Where the time comes from.

use std::sync::Arc;

use netvsc::Instant;

/// A monotonic clock. Injectable, so that a test decides what time it is.
pub trait Clock: Send + Sync + 'static {
    /// Time since an epoch of the clock's own.
    fn now(&self) -> Instant;
}

impl<T: Clock + ?Sized> Clock for Arc<T> {
    fn now(&self) -> Instant {
        (**self).now()
    }
}

/// Tokio's clock, which stands still in a paused runtime and then jumps to the next timer.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock(tokio::time::Instant);

impl TokioClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::new(self.0.elapsed())
    }
}
