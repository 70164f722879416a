//! Shared memory that this process owns: on the heap, where both sides live in one process, or mapped.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr::NonNull;

use super::{OutOfBounds, PAGE_SIZE, SharedMemory};
use crate::gpadl::GpadlId;

/// Owns the allocation, or the mapping.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) base: NonNull<u8>,
    pub(super) origin: Origin,
}

/// Where a block came from, and so how it is let go.
#[derive(Debug)]
pub(super) enum Origin {
    Heap(Layout),
    /// `mmap` of this many bytes.
    #[cfg(feature = "mmap")]
    Mapping(usize),
}

/// Where a block is in guest physical memory.
#[derive(Debug, Clone)]
enum Addresses {
    Unknown,
    /// In one piece from here on.
    Linear(u64),
    /// Page by page of the block, whatever the slice; pages of so many bytes.
    #[cfg(feature = "mmap")]
    Pages {
        table: Arc<[u64]>,
        page_bytes: usize,
    },
}

// SAFETY: the bytes are reached only through atomics and the copy primitive, from any thread.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        match self.origin {
            // SAFETY: allocated in `HeapMemory::zeroed` with this layout, and freed only here.
            Origin::Heap(layout) => unsafe { dealloc(self.base.as_ptr(), layout) },
            #[cfg(feature = "mmap")]
            Origin::Mapping(len) => super::mapping::unmap(self.base, len),
        }
    }
}

/// Zeroed, page-aligned memory on the heap, shared by clones and [slices](Self::slice).
///
/// This is what in-process backends are made of, those of other people included: it can carry guest physical
/// addresses and a GPADL, and needs no `unsafe` code from whoever uses it.
#[derive(Debug, Clone)]
pub struct HeapMemory {
    block: Arc<Block>,
    offset: usize,
    len: usize,
    addresses: Addresses,
    gpadl: Option<GpadlId>,
}

impl HeapMemory {
    /// Allocates `bytes`, rounded up to whole pages, all zero.
    ///
    /// # Panics
    /// If `bytes` is 0 or more than `isize::MAX` less one page. Aborts when memory runs out.
    pub fn zeroed(bytes: usize) -> Self {
        let len = bytes.next_multiple_of(PAGE_SIZE);
        assert!(len > 0, "shared memory of no bytes");
        let layout = Layout::from_size_align(len, PAGE_SIZE).expect("shared memory larger than the address space");
        // SAFETY: the layout's size is not 0, as asserted.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self::whole(Block { base, origin: Origin::Heap(layout) }, len)
    }

    /// All of a block of `len` bytes.
    pub(super) fn whole(block: Block, len: usize) -> Self {
        Self { block: Arc::new(block), offset: 0, len, addresses: Addresses::Unknown, gpadl: None }
    }

    /// The memory that this is (a part of).
    #[cfg(all(feature = "mmap", target_os = "linux"))]
    pub(super) fn block(&self) -> &Block {
        &self.block
    }

    /// The whole of what `part` is a part of.
    #[cfg(all(feature = "mmap", target_os = "linux"))]
    pub(super) fn whole_of(part: &Self) -> Self {
        let Origin::Mapping(len) = part.block.origin else { return part.clone() };
        Self { offset: 0, len, ..part.clone() }
    }

    /// A part of this memory: `len` bytes from `offset`, a multiple of 8. It keeps the whole alive and has no GPADL of its own.
    ///
    /// # Errors
    /// [`OutOfBounds`]: it is not inside, or does not start there.
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
        use super::SharedMemoryExt;
        self.check(offset, len)?;
        if !offset.is_multiple_of(8) {
            return Err(OutOfBounds { offset, len, size: self.len });
        }
        Ok(Self {
            block: Arc::clone(&self.block),
            offset: self.offset + offset,
            len,
            addresses: match &self.addresses {
                Addresses::Linear(gpa) => Addresses::Linear(gpa + offset as u64),
                other => other.clone(),
            },
            gpadl: None,
        })
    }

    /// The same memory, its first byte at guest physical address `gpa`.
    #[must_use]
    pub fn with_gpa(mut self, gpa: u64) -> Self {
        self.addresses = Addresses::Linear(gpa);
        self
    }

    /// The same memory, whose pages of `page_bytes` (a power of two) are at these guest physical addresses, counted from
    /// the start of the whole block. Pages beyond the table have no known address.
    #[cfg(feature = "mmap")]
    #[must_use]
    pub fn with_page_addresses(mut self, table: impl Into<Arc<[u64]>>, page_bytes: usize) -> Self {
        self.addresses = Addresses::Pages { table: table.into(), page_bytes };
        self
    }

    /// The same memory, known to the host as `gpadl`.
    #[must_use]
    pub fn with_gpadl(mut self, gpadl: GpadlId) -> Self {
        self.gpadl = Some(gpadl);
        self
    }

    /// Whether `other` is (a part of) the same allocation.
    pub fn same_block(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block)
    }

    /// How many clones and slices of this allocation exist, this one included.
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.block)
    }
}

// SAFETY: `offset..offset+len` lies inside the block (checked in `zeroed` and `slice`), which is live, initialised
// (zeroed) and never moves until the last clone drops; page-aligned plus a multiple of 8; no reference to its bytes
// is ever made.
unsafe impl SharedMemory for HeapMemory {
    #[inline]
    fn base(&self) -> NonNull<u8> {
        // SAFETY: inside the block by the type's invariant.
        unsafe { self.block.base.add(self.offset) }
    }

    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn gpadl(&self) -> Option<GpadlId> {
        self.gpadl
    }

    #[inline]
    fn gpa(&self, offset: usize) -> Option<u64> {
        match &self.addresses {
            Addresses::Unknown => None,
            Addresses::Linear(gpa) => Some(gpa + offset as u64),
            #[cfg(feature = "mmap")]
            Addresses::Pages { table, page_bytes } => {
                let at = self.offset + offset;
                table.get(at / page_bytes).map(|page| page + (at % page_bytes) as u64)
            }
        }
    }
}
