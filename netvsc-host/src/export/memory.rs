//! Memory that host and client both map: memfds, sealed so that no client can shorten them under the host.
//!
//! The rings of a subchannel are a file in the device's folder instead, which cannot be sealed: a client that shortens it
//! ends the host, by a signal at its next look.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use vmbus::memory::HeapMemory;

/// Guest physical addresses from here on are the kernel's: no process has such virtual addresses.
pub(super) const KERNEL_GPA: u64 = 1 << 60;

/// Memory, and the descriptor by which others map it.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) memory: HeapMemory,
    pub(super) file: Arc<File>,
}

impl Shared {
    /// Zeroed memory of `bytes`, a multiple of the page size.
    pub(super) fn new(name: &str, bytes: usize) -> io::Result<Self> {
        let file: File = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into();
        file.set_len(bytes as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(file, bytes)
    }

    /// Zeroed memory in a new file.
    fn in_file(path: &Path, bytes: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(bytes as u64)?;
        Self::map(file, bytes)
    }

    fn map(file: File, bytes: usize) -> io::Result<Self> {
        let memory = HeapMemory::map_shared(file.as_fd(), 0, bytes)?;
        Ok(Self { memory, file: Arc::new(file) })
    }

    pub(super) fn bytes(&self) -> u64 {
        use vmbus::memory::SharedMemory;
        self.memory.len() as u64
    }
}

/// Makes the blocks that a bus asks guest memory for, and keeps their files for whoever asked the bus.
#[derive(Debug, Clone, Default)]
pub(super) struct Maker(Arc<Mutex<Workshop>>);

#[derive(Debug, Default)]
struct Workshop {
    /// Where the next block goes; otherwise it is a memfd.
    path: Option<PathBuf>,
    made: Option<io::Result<Shared>>,
}

impl Maker {
    fn lock(&self) -> MutexGuard<'_, Workshop> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `ask`, by which the bus allocates one block, in the file `path` if there is one; the block.
    pub(super) fn made<E>(
        &self,
        path: Option<PathBuf>,
        ask: impl FnOnce() -> Result<(), E>,
    ) -> Result<io::Result<Shared>, E> {
        *self.lock() = Workshop { path, made: None };
        ask()?;
        let made = self.lock().made.take();
        Ok(made.unwrap_or_else(|| Err(io::ErrorKind::OutOfMemory.into())))
    }

    /// The source of blocks for [`GuestMemory::set_source`](vmbus::mem::GuestMemory::set_source).
    pub(super) fn make(&self, bytes: usize) -> Option<HeapMemory> {
        let mut workshop = self.lock();
        let made = match workshop.path.take() {
            Some(path) => Shared::in_file(&path, bytes),
            None => Shared::new("netvsc-host", bytes),
        };
        let memory = made.as_ref().ok().map(|shared| shared.memory.clone());
        workshop.made = Some(made);
        memory
    }
}
