//! Shared memory whose backend is not known any more.

use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;

use super::SharedMemory;

/// Shared memory of any backend: for who keeps pieces of several in one place, or hands one to somebody who knows nothing of
/// backends. It has its place at hand, so that reading it costs what it costs with the backend's own type.
///
/// Addresses and GPADL are left behind: nothing is lent to the host from here.
#[derive(Clone)]
pub struct AnyMemory {
    base: NonNull<u8>,
    len: usize,
    /// Keeps the mapping.
    _memory: Arc<dyn Send + Sync>,
}

impl AnyMemory {
    /// Forgets the type of `memory`. Allocates.
    pub fn new<M: SharedMemory>(memory: M) -> Self {
        let (base, len) = (memory.base(), memory.len());
        Self { base, len, _memory: Arc::new(memory) }
    }
}

impl fmt::Debug for AnyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyMemory").field("len", &self.len).finish_non_exhaustive()
    }
}

// SAFETY: `base` points into the memory behind the `Arc`, which may be sent, and is used as that would be.
unsafe impl Send for AnyMemory {}
// SAFETY: as above.
unsafe impl Sync for AnyMemory {}

// SAFETY: the mapping is that of the memory behind the `Arc`, which is an instance of a `SharedMemory` type: it says that the
// mapping is always the same, initialised, aligned, and lives as long as any instance of it, so as long as any clone of `self`.
unsafe impl SharedMemory for AnyMemory {
    #[inline]
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    fn len(&self) -> usize {
        self.len
    }
}
