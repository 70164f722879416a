//! What happened, in order: printed for people, and as one number by which two runs are compared.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netvsc::Instant;

/// A log that guest and host write. Clones are handles to the same log.
#[derive(Debug, Clone)]
pub(crate) struct Trace(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    print: bool,
    now: Instant,
    hash: u64,
    lines: u64,
}

impl Trace {
    /// An empty log, printed or only hashed.
    pub(crate) fn new(print: bool) -> Self {
        // FNV-1a: short, and the same everywhere, which the standard library's hashers do not promise.
        Self(Arc::new(Mutex::new(Log { print, now: Instant::ZERO, hash: 0xcbf2_9ce4_8422_2325, lines: 0 })))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time that lines bear.
    pub(crate) fn set_time(&self, now: Instant) {
        self.log().now = now;
    }

    /// Writes a line.
    pub(crate) fn say(&self, who: &str, what: impl Display) {
        let mut log = self.log();
        let line = format!("{:>9} µs  {who:<6}{what}", log.now.since_epoch().as_micros());
        for byte in line.bytes() {
            log.hash = (log.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        log.lines += 1;
        if log.print {
            println!("{line}");
        }
    }

    /// Lines, and their hash.
    pub(crate) fn summary(&self) -> (u64, u64) {
        let log = self.log();
        (log.lines, log.hash)
    }
}
