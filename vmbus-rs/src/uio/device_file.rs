//! `/dev/uioN`: the file behind a device. A trait, so that tests and simulators can bring their own.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::error::UioError;
use crate::memory::{HeapMemory, system_page_size};

/// An open device. Closing the last one closes the channel, and all of its subchannels.
pub trait DeviceFile: fmt::Debug + Send + Sync + 'static {
    /// Reads the running count of events: 4 bytes, without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there were no events since the last time; `EIO` once the device is gone.
    fn read_count(&self, into: &mut [u8; 4]) -> io::Result<usize>;

    /// Interrupt control. Any value but 0 clears the interrupt mask, of the primary channel or of all as the kernel will,
    /// and signals the host on channels without monitor; 0 sets the mask.
    ///
    /// # Errors
    /// What the kernel says.
    fn control(&self, value: i32) -> io::Result<()>;

    /// Maps `len` bytes of map `index` from its start.
    ///
    /// # Errors
    /// What the kernel says.
    fn map(&self, index: usize, len: usize) -> io::Result<HeapMemory>;

    /// The descriptor that is ready to be read when there are events.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// Opens devices by the number of their `/dev/uioN`.
pub trait OpenDevice: fmt::Debug + Send + Sync + 'static {
    /// Opens one.
    ///
    /// # Errors
    /// [`UioError::Open`], [`UioError::InUse`].
    fn open(&self, number: u32) -> Result<Box<dyn DeviceFile>, UioError>;
}

/// Opens `/dev/uioN`.
#[derive(Debug, Clone)]
pub struct DevRoot(PathBuf);

impl Default for DevRoot {
    fn default() -> Self {
        Self::new("/dev")
    }
}

impl DevRoot {
    /// Device files are in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl OpenDevice for DevRoot {
    fn open(&self, number: u32) -> Result<Box<dyn DeviceFile>, UioError> {
        let path = self.0.join(format!("uio{number}"));
        // O_CLOEXEC is the standard library's habit.
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = file.map_err(|error| UioError::Open { path: path.clone(), error: error.into() })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(UioError::InUse { path }),
            // A file that cannot be locked is no reason to refuse: the lock only keeps programs like us apart.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Box::new(KernelFile(file))),
        }
    }
}

/// `/dev/uioN`, opened for reading and writing and not to block.
#[derive(Debug)]
pub struct KernelFile(File);

impl KernelFile {
    /// A file that was opened elsewhere: handed over by whoever has the privilege, say. It must not block.
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

impl DeviceFile for KernelFile {
    fn read_count(&self, into: &mut [u8; 4]) -> io::Result<usize> {
        (&self.0).read(into)
    }

    fn control(&self, value: i32) -> io::Result<()> {
        loop {
            match (&self.0).write(&value.to_ne_bytes()) {
                Ok(4) => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn map(&self, index: usize, len: usize) -> io::Result<HeapMemory> {
        // The offset says which map; each starts at its beginning.
        HeapMemory::map_shared(self.0.as_fd(), (index * system_page_size()) as u64, len)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
