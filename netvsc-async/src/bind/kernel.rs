//! Who takes the writes.
//!
//! Sysfs is read as plain files, so a directory can stand in for it; but what a write *does* is the kernel's. Tests
//! put their own [`Kernel`] there.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

/// Takes the writes to sysfs.
pub trait Kernel {
    /// Writes `data` to the existing file at `path`, in one call.
    ///
    /// # Errors
    /// What the kernel says, as it said it: callers look at the error number.
    fn write(&self, path: &Path, data: &str) -> io::Result<()>;
}

impl<K: Kernel + ?Sized> Kernel for &K {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        (**self).write(path, data)
    }
}

impl<K: Kernel + ?Sized> Kernel for std::sync::Arc<K> {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        (**self).write(path, data)
    }
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct SysfsKernel;

impl Kernel for SysfsKernel {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        // Never creates: a file that is not there must say so. One `write`, since each is a command of its own. Sysfs
        // does not care about `truncate`; a shell does it, and plain files in its place then show the last command.
        let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
        match file.write(data.as_bytes())? {
            taken if taken == data.len() => Ok(()),
            taken => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("the kernel took {taken} of {} bytes", data.len()),
            )),
        }
    }
}
