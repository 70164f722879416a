//! Mapped memory: files that another process, or the kernel, writes as well.
//!
//! `mmap` is the C library's, so that a preloaded library can stand in for the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::HeapMemory;
use super::SharedMemory;
#[cfg(target_os = "linux")]
use super::SharedMemoryExt;
use super::heap::{Block, Origin};

/// What stands in memory that was [disconnected](HeapMemory::disconnect).
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'a> {
    /// The bytes of before.
    Kept,
    /// Zeros, but for these 32-bit little-endian words, by offset; a multiple of 4.
    Words(&'a [(usize, u32)]),
}

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

    /// Linux: puts private pages into the place of the whole mapping, for all clones and slices at once: from now on nobody
    /// else sees what they write, and the file is let go of although they live on.
    ///
    /// This is for pages that their owner takes back while they are still in use here: `uio_hv_generic` frees a ring's
    /// pages when a device is removed, and closes the channel only when its last mapping ends.
    ///
    /// Memory that is not mapped from a file is left alone.
    ///
    /// # Errors
    /// What `mmap` and `mremap` say; [`io::ErrorKind::InvalidInput`] for a word outside. Nothing has changed then.
    #[cfg(target_os = "linux")]
    pub fn disconnect(&self, contents: Contents<'_>) -> io::Result<()> {
        let (base, len) = match *self.block() {
            Block { base, origin: Origin::Mapping(len) } => (base, len),
            _ => return Ok(()),
        };
        let all = Self::whole_of(self);
        let fresh = Fresh::new(len)?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        match contents {
            Contents::Kept => {
                let mut page = [0; super::PAGE_SIZE];
                for at in (0..len).step_by(page.len()) {
                    let page = &mut page[..(len - at).min(super::PAGE_SIZE)];
                    all.read(at, page).map_err(invalid)?;
                    fresh.0.write(at, page).map_err(invalid)?;
                }
            }
            Contents::Words(words) => {
                for &(at, value) in words {
                    fresh.0.write(at, &value.to_le_bytes()).map_err(invalid)?;
                }
            }
        }
        fresh.put_into_place_of(base, len)
    }

    /// The address of the first byte in this process, as a number: what `/proc/self/pagemap` is asked with.
    pub fn virtual_address(&self) -> usize {
        self.base().as_ptr().expose_provenance()
    }
}

/// Private pages on their way into the place of others. Nobody else has a handle to them.
#[cfg(target_os = "linux")]
struct Fresh(HeapMemory);

#[cfg(target_os = "linux")]
impl Fresh {
    fn new(len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: no address is asked for, so that no existing mapping is replaced.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self(HeapMemory::whole(Block { base, origin: Origin::Mapping(len) }, len)))
    }

    fn put_into_place_of(self, base: NonNull<u8>, len: usize) -> io::Result<()> {
        let from: *mut u8 = self.0.base().as_ptr();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: `from` starts the `len` bytes mapped in `new`, to which `self` is the only handle; `base` starts a
        // mapping of `len` bytes, which its block keeps for as long as anybody may use it. It stays one: readable,
        // writable, initialised, reached by atomics and the copy primitive only. The kernel does not let an access
        // fall between the two.
        let moved = unsafe { libc::mremap(from.cast(), len, len, flags, base.as_ptr()) };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Its pages are `base`'s now, to be unmapped by that block; at the old address there is nothing left.
        std::mem::forget(self);
        Ok(())
    }
}

/// Ends a mapping.
pub(super) fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: made in `map_shared` (or put in its place since) with this length, and ended only here, when the last user
    // is gone.
    let _ = unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memory::SharedMemoryExt;

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

    #[cfg(target_os = "linux")]
    #[test]
    fn disconnected_memory_is_nobody_elses() {
        let file = tempfile();
        file.set_len(12288).unwrap();
        let kept = HeapMemory::map_shared(file.as_fd(), 0, 12288).unwrap();
        let wiped = HeapMemory::map_shared(file.as_fd(), 0, 12288).unwrap();
        let slice = wiped.slice(4096, 8192).unwrap();
        let other = HeapMemory::map_shared(file.as_fd(), 0, 12288).unwrap();
        other.write(8190, b"before").unwrap();
        kept.slice(4096, 4096).unwrap().disconnect(Contents::Kept).unwrap();
        assert!(wiped.disconnect(Contents::Words(&[(12288, 1)])).is_err(), "outside");
        let mut bytes = [0; 6];
        slice.read(4094, &mut bytes).unwrap();
        assert_eq!(&bytes, b"before", "nothing changed");
        wiped.disconnect(Contents::Words(&[(4096, 0x0102_0304)])).unwrap();
        other.write(8190, b"after!").unwrap();
        kept.read(8190, &mut bytes).unwrap();
        assert_eq!(&bytes, b"before");
        slice.read(4094, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 6]);
        slice.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 3, 2, 1, 0, 0]);
        slice.write(0, b"here").unwrap();
        other.read(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 6], "not there");
        HeapMemory::zeroed(4096).disconnect(Contents::Kept).unwrap();
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
