//! What can be set, and what is known of the kernel below.

use std::sync::Arc;
use std::time::Duration;

use super::device_file::{DevRoot, OpenDevice};
use super::sysfs::SysfsRoot;

/// Settings of a device. The default is right on a kernel; tests and simulated hosts change some.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) sysfs: SysfsRoot,
    pub(super) opener: Arc<dyn OpenDevice>,
    pub(super) kernel: Option<KernelVariant>,
    pub(super) latency: Option<Duration>,
    pub(super) direct: DirectPages,
    pub(super) rescan: Duration,
    pub(super) idle_rescan: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sysfs: SysfsRoot::default(),
            opener: Arc::new(DevRoot::default()),
            kernel: None,
            latency: Some(Duration::from_micros(50)),
            direct: DirectPages::Huge,
            rescan: Duration::from_millis(10),
            idle_rescan: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Where sysfs is; `/sys` by default.
    #[must_use]
    pub fn sysfs(mut self, root: SysfsRoot) -> Self {
        self.sysfs = root;
        self
    }

    /// What opens the device file; `/dev/uioN` by default.
    #[must_use]
    pub fn opener(mut self, opener: impl OpenDevice) -> Self {
        self.opener = Arc::new(opener);
        self
    }

    /// How the kernel's driver behaves, for those who know better than what is found out ([`KernelTraits`]).
    ///
    /// Saying [`C`](KernelVariant::C) or [`D`](KernelVariant::D) of another kernel can crash it.
    #[must_use]
    pub fn kernel(mut self, variant: KernelVariant) -> Self {
        self.kernel = Some(variant);
        self
    }

    /// How soon the hypervisor looks at a monitored channel that was signalled: 50 µs by default, in steps of 100 ns up
    /// to 6.5 ms. `None` leaves what the host set. Shorter costs the host time.
    #[must_use]
    pub fn monitor_latency(mut self, latency: Option<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// Where memory for GPA-direct sends comes from; huge pages by default.
    #[must_use]
    pub fn direct(mut self, pages: DirectPages) -> Self {
        self.direct = pages;
        self
    }

    /// How often to look for subchannels while they are awaited ([`Bus::await_offers`], [`UioBus::expect_subchannels`]):
    /// 10 ms by default.
    ///
    /// Sysfs of a kernel does not tell when it grows, so it has to be looked at; a simulated one tells at once.
    ///
    /// [`Bus::await_offers`]: crate::bus::Bus::await_offers
    /// [`UioBus::expect_subchannels`]: super::UioBus::expect_subchannels
    #[must_use]
    pub fn rescan(mut self, interval: Duration) -> Self {
        self.rescan = interval;
        self
    }

    /// How often to look whether subchannels have come or gone when nobody awaits any: 1 s by default. The first looks
    /// follow each other sooner.
    #[must_use]
    pub fn idle_rescan(mut self, interval: Duration) -> Self {
        self.idle_rescan = interval;
        self
    }
}

/// Where memory for GPA-direct sends comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DirectPages {
    /// Nowhere: frames go through the send buffer, and those that do not fit are split. The one choice in confidential
    /// virtual machines, whose ordinary memory the host cannot read.
    Off,
    /// Huge pages, which stay where they are. Needs free ones, and CAP_SYS_ADMIN to learn their addresses.
    #[default]
    Huge,
    /// Ordinary pages. The kernel may move them at any time, and the host then reads somebody else's: only where a
    /// simulated host resolves the addresses.
    Movable,
}

/// The published variants of `uio_hv_generic`. Their numbers are approximate, and distributions mix them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelVariant {
    /// Up to 6.9: monitored channels only.
    A,
    /// 6.10 to 6.16: takes channels without monitor, signals the primary one.
    B,
    /// From 6.16 or 6.17 on: interrupt control and signals for all channels.
    C,
    /// From 6.18 on, and in stable kernels: leaves the interrupt mask to user space.
    D,
    /// A mixture: the control of B, the mask of D.
    BD,
}

/// What of the kernel's behaviour matters, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct KernelTraits {
    /// Whether the kernel sets the interrupt mask at open and on each interrupt. Found out at open.
    pub masks: Option<bool>,
    /// Whether interrupt control reaches subchannels. Found out when the first subchannel comes. Kernels where it does can
    /// take a subchannel's interrupt; those where it does not crash of it.
    pub controls_subchannels: Option<bool>,
    /// Whether it takes channels without monitor and signals the host for them. Found out at open, if the channel is one.
    pub signals: Option<bool>,
}

impl KernelTraits {
    /// What `variant` does.
    pub fn of(variant: KernelVariant) -> Self {
        use KernelVariant::{A, B, BD, C, D};
        Self {
            masks: Some(matches!(variant, A | B | C)),
            controls_subchannels: Some(matches!(variant, C | D)),
            signals: Some(matches!(variant, B | C | D | BD)),
        }
    }

    /// The variants that may be this one.
    pub fn candidates(self) -> impl Iterator<Item = KernelVariant> {
        use KernelVariant::{A, B, BD, C, D};
        let fits = |known: Option<bool>, variant: Option<bool>| known.is_none() || known == variant;
        [A, B, C, D, BD].into_iter().filter(move |&variant| {
            let other = Self::of(variant);
            fits(self.masks, other.masks)
                && fits(self.controls_subchannels, other.controls_subchannels)
                && fits(self.signals, other.signals)
        })
    }

    /// Whether subchannels may interrupt: known to be safe, not just not known to be harmful.
    pub fn may_unmask_subchannels(self) -> bool {
        self.controls_subchannels == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_narrows_the_candidates() {
        use KernelVariant::*;
        let candidates = |traits: KernelTraits| traits.candidates().collect::<Vec<_>>();
        assert_eq!(candidates(KernelTraits::default()), [A, B, C, D, BD]);
        assert_eq!(candidates(KernelTraits { masks: Some(false), ..Default::default() }), [D, BD]);
        let known = KernelTraits { masks: Some(false), controls_subchannels: Some(true), signals: None };
        assert_eq!(candidates(known), [D]);
        for variant in [A, B, C, D, BD] {
            assert_eq!(candidates(KernelTraits::of(variant)), [variant]);
        }
    }

    #[test]
    fn subchannels_interrupt_only_where_that_is_known_to_be_safe() {
        use KernelVariant::*;
        assert!(!KernelTraits::default().may_unmask_subchannels());
        let safe: Vec<_> =
            [A, B, C, D, BD].into_iter().filter(|&v| KernelTraits::of(v).may_unmask_subchannels()).collect();
        assert_eq!(safe, [C, D]);
    }
}
