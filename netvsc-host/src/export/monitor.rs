//! The two pages that all devices of a virtual machine share, and the hypervisor's look at one of them.
//!
//! A client signals by setting its channel's bit in the monitor page, without a system call; the hypervisor looks at the
//! page every now and then. Which bit it was does not matter here: a host looks at all its rings when it is signalled.

use std::sync::atomic::{AtomicUsize, Ordering};

use vmbus::memory::SharedMemoryExt;
use vmbus::monitor::MonitorId;

use super::ExportError;
use super::memory::Shared;

#[derive(Debug)]
pub(super) struct Pages {
    /// One bit for each channel, each way; nobody looks.
    pub(super) interrupt: Shared,
    pub(super) monitor: Shared,
    /// Monitors given out.
    given: AtomicUsize,
}

impl Pages {
    pub(super) fn new() -> Result<Self, ExportError> {
        let page =
            |name| Shared::new(name, vmbus::monitor::PAGE_LEN).map_err(ExportError::system("make shared memory"));
        Ok(Self { interrupt: page("int_page")?, monitor: page("monitor_page")?, given: AtomicUsize::new(0) })
    }

    /// Monitors for `count` channels; the first.
    pub(super) fn give_monitors(&self, count: usize) -> Result<usize, ExportError> {
        let first = self.given.fetch_add(count, Ordering::Relaxed);
        let (needed, limit) = (first + count, usize::from(MonitorId::COUNT));
        if needed > limit { Err(ExportError::Monitors { needed, limit }) } else { Ok(first) }
    }

    /// Whether anything was signalled since this was last asked.
    pub(super) fn take_signals(&self) -> bool {
        let mut any = false;
        for group in 0..4 {
            // The first monitor of each group of 32 names the group's word.
            let Some(id) = MonitorId::new(group * 32) else { continue };
            if let Ok(word) = self.monitor.memory.word32(id.pending().word_offset)
                && word.load(Ordering::Relaxed) != 0
            {
                // Acquires what was written before the signal.
                any |= word.swap(0, Ordering::AcqRel) != 0;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_of_any_group_is_seen_once() {
        let pages = Pages::new().unwrap();
        assert!(!pages.take_signals());
        for id in [0, 31, 32, 70, 127] {
            let bit = MonitorId::new(id).unwrap().pending();
            pages.monitor.memory.set_bits(bit.word_offset, bit.mask).unwrap();
            assert!(pages.take_signals(), "monitor {id}");
            assert!(!pages.take_signals(), "monitor {id}");
        }
    }

    #[test]
    fn monitors_run_out() {
        let pages = Pages::new().unwrap();
        assert_eq!(pages.give_monitors(64).unwrap(), 0);
        assert_eq!(pages.give_monitors(64).unwrap(), 64);
        assert!(pages.give_monitors(1).is_err());
    }
}
