//! Where the bits of the monitor and interrupt pages stand, and which way a channel signals the host.
//!
//! Pure arithmetic on offsets; the atomic accesses are [`crate::memory`]'s. A *monitored* channel signals without
//! leaving the guest: it sets one bit of the child-to-parent monitor page, which the hypervisor scans about every
//! latency interval. The *interrupt page* is older: its two halves hold one bit for each channel, and channels with a
//! dedicated interrupt do not need it.
//!
//! Bits have to be set by an atomic OR with sequentially consistent ordering, after the data they announce.
//!
//! Sources: Linux `drivers/hv/channel.c` (`vmbus_setevent`), `hyperv_vmbus.h` (`struct hv_monitor_page`); OpenVMM
//! `vmcore/src/monitor.rs`; DPDK `drivers/bus/vmbus/vmbus_channel.c`.

use crate::protocol::{ConnectionId, Offer, RelId, Version, VpIndex};

/// Bytes of a monitor page and of the interrupt page.
pub const PAGE_LEN: usize = 4096;

/// One bit of a page that both sides change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageBit {
    /// Offset of the aligned 32-bit little-endian word.
    pub word_offset: usize,
    /// The bit in that word.
    pub mask: u32,
}

impl PageBit {
    /// Bit `index` of an array of bits at `base`, which is a multiple of 4.
    const fn new(base: usize, index: u32) -> Self {
        Self { word_offset: base + (index / 32) as usize * 4, mask: 1 << (index % 32) }
    }

    /// Offset of the byte that holds the bit.
    pub const fn byte_offset(self) -> usize {
        self.word_offset + (self.mask.trailing_zeros() / 8) as usize
    }

    /// The bit in that byte.
    pub const fn byte_mask(self) -> u8 {
        1 << (self.mask.trailing_zeros() % 8)
    }
}

/// One of the 128 monitors of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorId(u8);

impl MonitorId {
    /// Number of monitors.
    pub const COUNT: u8 = 128;

    /// The monitor of this number, if there is one. Offers without a monitor tend to hold 255.
    pub const fn new(id: u8) -> Option<Self> {
        if id < Self::COUNT { Some(Self(id)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The group of 32 the monitor belongs to, 0 to 3.
    pub const fn group(self) -> usize {
        (self.0 / 32) as usize
    }

    /// The monitor's bit in its group.
    pub const fn bit(self) -> u32 {
        (self.0 % 32) as u32
    }

    /// The bit to set in order to signal the host.
    pub const fn pending(self) -> PageBit {
        PageBit { word_offset: TRIGGER_GROUPS + self.group() * 8, mask: 1 << self.bit() }
    }

    /// The hypervisor's own bit beside it.
    pub const fn armed(self) -> PageBit {
        PageBit { word_offset: TRIGGER_GROUPS + self.group() * 8 + 4, mask: 1 << self.bit() }
    }

    /// Offset of the 32-bit time at which the hypervisor looks next.
    pub const fn next_check_time_offset(self) -> usize {
        NEXT_CHECK_TIME + self.0 as usize * 4
    }

    /// Offset of the 16-bit latency in units of 100 ns. The guest may write it; the host ignores values out of range.
    pub const fn latency_offset(self) -> usize {
        LATENCY + self.0 as usize * 2
    }

    /// Offset of the eight-byte [`MonitorParameter`].
    pub const fn parameter_offset(self) -> usize {
        PARAMETER + self.0 as usize * MonitorParameter::LEN
    }
}

/// Offset of the 32-bit trigger state, whose bits 0 to 3 enable the groups.
pub const TRIGGER_STATE_OFFSET: usize = 0;

/// Value of the trigger state with all four groups enabled.
pub const ALL_GROUPS_ENABLED: u32 = 0xf;

/// What the hypervisor signals for a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorParameter {
    /// The event connection.
    pub connection_id: ConnectionId,
    /// The flag on it.
    pub flag_number: u16,
}

impl MonitorParameter {
    /// Bytes in the page.
    pub const LEN: usize = 8;

    /// The wire form.
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let [c0, c1, c2, c3] = self.connection_id.0.to_le_bytes();
        let [f0, f1] = self.flag_number.to_le_bytes();
        [c0, c1, c2, c3, f0, f1, 0, 0]
    }

    /// From the wire form.
    pub const fn from_bytes([c0, c1, c2, c3, f0, f1, _, _]: [u8; Self::LEN]) -> Self {
        Self {
            connection_id: ConnectionId(u32::from_le_bytes([c0, c1, c2, c3])),
            flag_number: u16::from_le_bytes([f0, f1]),
        }
    }
}

/// The bit of the interrupt page by which the host signals a channel; `None` if the page has none for it.
pub fn interrupt_page_recv(relid: RelId) -> Option<PageBit> {
    (relid.0 < INTERRUPT_BITS).then(|| PageBit::new(0, relid.0))
}

/// The bit of the interrupt page by which the guest signals a channel; `None` if the page has none for it.
pub fn interrupt_page_send(relid: RelId) -> Option<PageBit> {
    (relid.0 < INTERRUPT_BITS).then(|| PageBit::new(PAGE_LEN / 2, relid.0))
}

/// How a guest tells the host that a ring of one channel changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalPath {
    /// Bit to set in the interrupt page, before anything else.
    pub interrupt_page: Option<PageBit>,
    /// What to do then.
    pub trigger: Trigger,
}

/// The step that makes the host look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Set the pending bit of this monitor. No exit from the guest, but the host looks only after the latency.
    Monitor(MonitorId),
    /// HvCallSignalEvent with this connection id.
    Hypercall(ConnectionId),
}

impl SignalPath {
    /// The path for a channel, as Linux chooses it.
    ///
    /// `target_vp` is that of OPENCHANNEL: a channel opened without interrupts must not use its monitor (OpenVMM commit
    /// d0da5c60e). `low_latency` is the device's wish for the faster path.
    pub fn choose(offer: &Offer, version: Version, target_vp: VpIndex, low_latency: bool) -> Self {
        let bit = interrupt_page_send(offer.relid);
        let monitor = offer.monitor().filter(|_| !low_latency && target_vp != VpIndex::INTERRUPTS_DISABLED);
        match monitor {
            Some(monitor) => Self { interrupt_page: bit, trigger: Trigger::Monitor(monitor) },
            None => Self {
                // Below 1.1 no channel has an interrupt of its own.
                interrupt_page: bit.filter(|_| !offer.is_dedicated_interrupt || version < Version::V1_1),
                trigger: Trigger::Hypercall(offer.signal_connection(version)),
            },
        }
    }
}

/// Bits in one half of the interrupt page.
const INTERRUPT_BITS: u32 = PAGE_LEN as u32 / 2 * 8;

/// Offset of the four pairs of pending and armed words.
const TRIGGER_GROUPS: usize = 0x008;

/// Offset of the next check times.
const NEXT_CHECK_TIME: usize = 0x040;

/// Offset of the latencies.
const LATENCY: usize = 0x240;

/// Offset of the parameters.
const PARAMETER: usize = 0x440;
