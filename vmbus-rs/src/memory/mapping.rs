//! Mapped memory: files that another process, or the kernel, writes as well.
//!
//! `mmap` is the C library's, so that a preloaded library can stand in for the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::HeapMemory;
use super::heap::{Block, Origin};

/// Bytes of a page of this system; at least [`PAGE_SIZE`](super::PAGE_SIZE).
pub fn system_page_size() -> usize {
    // SAFETY: no arguments but the name; no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(super::PAGE_SIZE)
}

impl HeapMemory {
    /// Maps `len` bytes of `file` from `offset` on, a multiple of the system's page size: shared, readable, writable. The
    /// pages are touched at once, so that a device that is removed later does not fault on them.
    ///
    /// A file that is shortened while it is mapped kills the process on the next access (SIGBUS): map files whose owner
    /// does not do that.
    ///
    /// # Errors
    /// What `mmap` says; [`io::ErrorKind::InvalidInput`] for a length of 0.
    pub fn map_shared(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        if len == 0 || isize::try_from(len).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("mapping of {len} bytes")));
        }
        let offset =
            libc::off_t::try_from(offset).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: no address is asked for, so that no existing mapping is replaced; the descriptor is open.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A mapping at address 0 is not made unless it is asked for.
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // A process that forks must not have these pages moved under the device by copy-on-write, nor share them.
        // SAFETY: exactly the mapping made above. A refusal (a kernel or a stand-in without it) changes nothing.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTFORK) };
        Ok(Self::whole(Block { base, origin: Origin::Mapping(len) }, len))
    }

    /// The address of the first byte in this process, as a number: what `/proc/self/pagemap` is asked with.
    pub fn virtual_address(&self) -> usize {
        use super::SharedMemory;
        self.base().as_ptr().expose_provenance()
    }
}

/// Ends a mapping.
pub(super) fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: made in `map_shared` with this length, and ended only here, when the last user is gone.
    let _ = unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memory::{SharedMemory, SharedMemoryExt};

    #[test]
    fn two_mappings_of_a_file_are_the_same_memory() {
        let file = tempfile();
        file.set_len(8192).unwrap();
        let one = HeapMemory::map_shared(file.as_fd(), 0, 8192).unwrap();
        let two = HeapMemory::map_shared(file.as_fd(), 4096, 4096).unwrap();
        one.write(4096 + 5, b"shared").unwrap();
        let mut bytes = [0; 6];
        two.read(5, &mut bytes).unwrap();
        assert_eq!(&bytes, b"shared");
        drop(one);
        two.read(5, &mut bytes).unwrap();
        assert!(HeapMemory::map_shared(file.as_fd(), 0, 0).is_err());
        assert!(HeapMemory::map_shared(file.as_fd(), 7, 4096).is_err(), "not aligned");
    }

    #[test]
    fn pages_have_addresses_of_their_own() {
        let file = tempfile();
        file.set_len(16384).unwrap();
        let memory = HeapMemory::map_shared(file.as_fd(), 0, 16384).unwrap();
        let memory = memory.with_page_addresses(vec![0x7000, 0x3000, 0x9000], 4096);
        assert_eq!(memory.gpa(4097), Some(0x3001));
        assert_eq!(memory.gpa(12288), None, "beyond the table");
        assert_eq!(memory.slice(8192, 8).unwrap().gpa(4), Some(0x9004));
    }

    fn tempfile() -> std::fs::File {
        let path = std::env::temp_dir().join(format!(
            "vmbus-mapping-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
