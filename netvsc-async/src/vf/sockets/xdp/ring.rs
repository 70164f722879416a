//! The four rings of an AF_XDP socket: each has one that produces and one that consumes, with 32-bit counters that wrap.
//!
//! Source: Linux `Documentation/networking/af_xdp.rst`, `net/xdp/xsk_queue.h` (which says what each access pairs with).

use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::net::xdp::XdpRingOffset;
use vmbus::memory::{HeapMemory, SharedMemoryExt};

/// `XDP_RING_NEED_WAKEUP`.
const NEEDS_WAKEUP: u32 = 1;

/// A ring that is shared with the kernel; entries of `N` bytes.
#[derive(Debug)]
pub(super) struct Ring<const N: usize> {
    memory: HeapMemory,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    mask: u32,
}

impl<const N: usize> Ring<N> {
    /// Bytes of a ring of so many entries, a power of two.
    pub(super) fn bytes(offsets: &XdpRingOffset, entries: u32) -> Option<usize> {
        usize::try_from(offsets.desc).ok()?.checked_add((entries as usize).checked_mul(N)?)
    }

    /// The ring in `memory`; `None` if that is not its layout.
    pub(super) fn new(memory: HeapMemory, offsets: &XdpRingOffset, entries: u32) -> Option<Self> {
        let at = |offset: u64| usize::try_from(offset).ok();
        let (producer, consumer, flags) = (at(offsets.producer)?, at(offsets.consumer)?, at(offsets.flags?)?);
        memory.check(0, Self::bytes(offsets, entries)?).ok()?;
        for word in [producer, consumer, flags] {
            memory.word32(word).ok()?;
        }
        let mask = entries.checked_sub(1).filter(|_| entries.is_power_of_two())?;
        Some(Self { memory, producer, consumer, flags, entries: at(offsets.desc)?, mask })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.memory.word32(offset).expect("checked when the ring was made")
    }

    /// What the kernel has produced: pairs with its release, so that entries up to there can be read.
    #[inline]
    pub(super) fn produced(&self) -> u32 {
        self.word(self.producer).load(Ordering::Acquire)
    }

    /// What the kernel has consumed: entries before that may be written again.
    #[inline]
    pub(super) fn consumed(&self) -> u32 {
        self.word(self.consumer).load(Ordering::Acquire)
    }

    /// Publishes entries.
    #[inline]
    pub(super) fn produce(&self, count: u32) {
        self.word(self.producer).store(count, Ordering::Release);
    }

    /// Gives entries back.
    #[inline]
    pub(super) fn consume(&self, count: u32) {
        self.word(self.consumer).store(count, Ordering::Release);
    }

    /// Whether the kernel looks at the ring only when it is told to.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // Looked at only after what was produced can be seen: the kernel sets it, then looks at the ring once more.
        fence(Ordering::SeqCst);
        self.word(self.flags).load(Ordering::Relaxed) & NEEDS_WAKEUP != 0
    }

    #[inline]
    fn place(&self, count: u32) -> usize {
        self.entries + (count & self.mask) as usize * N
    }

    #[inline]
    pub(super) fn read(&self, count: u32) -> [u8; N] {
        let mut entry = [0; N];
        // Inside of the ring, as checked when it was made.
        let _ = self.memory.read(self.place(count), &mut entry);
        entry
    }

    #[inline]
    pub(super) fn write(&self, count: u32, entry: [u8; N]) {
        // Inside of the ring, as checked when it was made.
        let _ = self.memory.write(self.place(count), &entry);
    }
}

/// A frame in a receive or send ring (`xdp_desc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where it is in the memory of frames.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) len: u32,
}

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Bytes of an address.
pub(super) const ADDRESS: usize = 8;

impl Descriptor {
    #[inline]
    pub(super) fn from_bytes(bytes: [u8; DESCRIPTOR]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = bytes;
        Self { address: u64::from_ne_bytes([a, b, c, d, e, f, g, h]), len: u32::from_ne_bytes([i, j, k, l]) }
    }

    /// Where it is, as far as that can be in this process.
    #[inline]
    pub(super) fn start(self) -> usize {
        usize::try_from(self.address).unwrap_or(usize::MAX)
    }

    #[inline]
    pub(super) fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let mut bytes = [0; DESCRIPTOR];
        bytes[..8].copy_from_slice(&self.address.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: Some(68) };

    #[test]
    fn entries_wrap_and_stay_inside() {
        let memory = HeapMemory::zeroed(4096);
        let ring = Ring::<ADDRESS>::new(memory, &OFFSETS, 4).unwrap();
        for count in [0, 1, 2, 3, u32::MAX - 1, u32::MAX] {
            ring.write(count, u64::from(count).to_ne_bytes());
            assert_eq!(ring.read(count), u64::from(count).to_ne_bytes());
            assert_eq!(ring.read(count.wrapping_add(4)), ring.read(count));
        }
        ring.produce(7);
        ring.consume(3);
        assert_eq!((ring.produced(), ring.consumed(), ring.needs_wakeup()), (7, 3, false));
    }

    #[test]
    fn a_layout_that_does_not_fit_is_refused() {
        let memory = HeapMemory::zeroed(4096);
        let new =
            |offsets: &XdpRingOffset, entries| Ring::<DESCRIPTOR>::new(memory.clone(), offsets, entries).is_some();
        assert!(new(&OFFSETS, 128));
        assert!(!new(&OFFSETS, 256));
        assert!(!new(&OFFSETS, 100));
        assert!(!new(&OFFSETS, 0));
        for broken in [u64::MAX, 4095, 4096] {
            assert!(!new(&XdpRingOffset { producer: broken, ..OFFSETS }, 128));
            assert!(!new(&XdpRingOffset { desc: broken, ..OFFSETS }, 128));
        }
        // Kernels before 5.4 have no flags.
        assert!(!new(&XdpRingOffset { flags: None, ..OFFSETS }, 128));
    }

    #[test]
    fn descriptors_come_back() {
        let descriptor = Descriptor { address: 0x1234_5678_9ABC, len: 1514 };
        assert_eq!(Descriptor::from_bytes(descriptor.to_bytes()), descriptor);
    }
}
