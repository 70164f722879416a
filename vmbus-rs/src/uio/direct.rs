//! Memory whose guest physical addresses are known: huge pages and `/proc/self/pagemap`.
//!
//! There is no IOMMU between the host and the guest's memory: an address that is wrong, or not right any more, lets the
//! host read somebody else's page. Huge pages are not swapped and do not move by themselves; the mapping is not inherited
//! by `fork`, so copy-on-write does not move them either.
//!
//! Source: Linux `Documentation/admin-guide/mm/pagemap.rst`; `Documentation/admin-guide/mm/hugetlbpage.rst`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::error::{DirectRefusal, SystemError};
use super::settings::DirectPages;
use crate::memory::{HeapMemory, PAGE_SIZE, SharedMemory, system_page_size};

/// Memory of at least `bytes`, with the address of each page.
pub(super) fn allocate(pages: DirectPages, bytes: usize) -> Result<HeapMemory, DirectRefusal> {
    let no_pages = |error: SystemError| DirectRefusal::NoPages(error);
    let (flags, unit) = match pages {
        DirectPages::Off => return Err(DirectRefusal::Off),
        DirectPages::Huge => (MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB, HUGE_PAGE),
        DirectPages::Movable => (MFdFlags::empty(), system_page_size()),
    };
    let len = bytes.checked_next_multiple_of(unit).ok_or(no_pages(std::io::ErrorKind::OutOfMemory.into()))?;
    let file = memfd_create(c"vmbus-direct", flags | MFdFlags::MFD_CLOEXEC).map_err(|error| no_pages(error.into()))?;
    let file = File::from(file);
    file.set_len(len as u64).map_err(|error| no_pages(error.into()))?;
    // Touches every page. Huge pages are reserved by this call, or it fails.
    let memory = HeapMemory::map_shared(file.as_fd(), 0, len).map_err(|error| no_pages(error.into()))?;
    let (table, page_bytes) = page_addresses(&memory)?;
    Ok(memory.with_page_addresses(table, page_bytes))
}

/// The guest physical address of every page of `memory`, and the size of a page.
fn page_addresses(memory: &HeapMemory) -> Result<(Vec<u64>, usize), DirectRefusal> {
    let page = system_page_size();
    let pagemap = File::open("/proc/self/pagemap").map_err(|error| DirectRefusal::NoPagemap(error.into()))?;
    let first = memory.virtual_address() / page;
    let mut entries = vec![0; memory.len().div_ceil(page) * ENTRY];
    pagemap
        .read_exact_at(&mut entries, (first * ENTRY) as u64)
        .map_err(|error| DirectRefusal::NoPagemap(error.into()))?;
    let (entries, _) = entries.as_chunks::<ENTRY>();
    let table = entries
        .iter()
        .enumerate()
        .map(|(number, entry)| address(u64::from_ne_bytes(*entry), page).ok_or(number))
        .map(|address| {
            address.map_err(|number| DirectRefusal::NotPresent { offset: number * page }).and_then(|address| {
                // Without the privilege every page has the number 0.
                address.ok_or(DirectRefusal::Hidden)
            })
        })
        .collect::<Result<_, _>>()?;
    Ok((table, page))
}

/// The address in an entry of pagemap; `None` for a page that is not present, `Some(None)` for one whose number is
/// hidden.
fn address(entry: u64, page: usize) -> Option<Option<u64>> {
    if entry & PRESENT == 0 || entry & SWAPPED != 0 {
        return None;
    }
    let number = entry & NUMBER;
    Some((number != 0).then(|| number.checked_mul(page as u64)).flatten())
}

/// Bytes of an entry of pagemap.
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Page number, in pages of the system.
const NUMBER: u64 = (1 << 55) - 1;
/// Bytes of the huge pages that are asked for.
const HUGE_PAGE: usize = 512 * PAGE_SIZE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pagemap_entries() {
        assert_eq!(address(PRESENT | 0x1234, 4096), Some(Some(0x123_4000)));
        assert_eq!(address(PRESENT | 0x1234, 65536), Some(Some(0x1234_0000)));
        assert_eq!(address(PRESENT, 4096), Some(None), "hidden");
        assert_eq!(address(0x1234, 4096), None, "not there");
        assert_eq!(address(PRESENT | SWAPPED | 5, 4096), None, "swapped");
        // Soft-dirty and exclusive bits are no part of the number.
        assert_eq!(address(PRESENT | 3 << 55 | 7, 4096), Some(Some(7 * 4096)));
    }

    #[test]
    fn ordinary_pages_have_addresses_where_the_privilege_is_there() {
        match allocate(DirectPages::Movable, 3 * PAGE_SIZE) {
            Ok(memory) => {
                let gpa = memory.gpa(PAGE_SIZE + 5).expect("an address");
                assert_eq!(gpa % PAGE_SIZE as u64, 5);
                assert_ne!(memory.gpa(0), memory.gpa(PAGE_SIZE));
            }
            Err(refusal) => {
                assert!(matches!(refusal, DirectRefusal::Hidden | DirectRefusal::NoPagemap(_)), "{refusal}");
            }
        }
    }

    #[test]
    fn switched_off() {
        assert_eq!(allocate(DirectPages::Off, 1).unwrap_err(), DirectRefusal::Off);
    }

    #[test]
    fn huge_pages_or_a_reason() {
        match allocate(DirectPages::Huge, 1) {
            Ok(memory) => {
                let first = memory.gpa(0).expect("an address");
                assert_eq!(memory.gpa(HUGE_PAGE - 1), Some(first + HUGE_PAGE as u64 - 1), "in one piece");
            }
            Err(refusal) => assert_ne!(refusal, DirectRefusal::Off),
        }
    }
}
