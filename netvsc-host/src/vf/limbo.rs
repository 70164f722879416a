//! Where a guest's interface goes when it is taken away from it: a network namespace in which nobody is.
//!
//! Sockets on an interface that leaves their namespace see what they see when hardware goes: it is down, then unregistered, and
//! netlink says that it was deleted. Its other end stays, as the host's side of a real device does.
//!
//! Source: Linux `net/core/dev.c` (`netif_change_net_namespace`); `network_namespaces(7)`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// A namespace without a name in the file system. What is in it goes with it.
#[derive(Debug)]
pub(super) struct Limbo {
    handle: File,
}

impl Limbo {
    /// A new one.
    pub(super) fn new() -> io::Result<Self> {
        // A thread for it: it is left in there, and ends.
        let handle = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })?;
        Ok(Self { handle })
    }

    /// As `ip(8)` takes it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }
}

/// Runs `work` in the namespace that `ip(8)` knows by this name: one of its own, or a process.
pub(super) fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let named = Path::new("/run/netns").join(netns);
    let file = File::open(named).or_else(|_| File::open(format!("/proc/{netns}/ns/net")))?;
    in_thread(|| {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
