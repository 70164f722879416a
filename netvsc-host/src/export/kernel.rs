//! What differs between the kernels that have `uio_hv_generic`.
//!
//! | kernel | seen in Linux | mask of the host→guest ring | `write` |
//! |---|---|---|---|
//! | A | to about 6.9 | 1 at open and at each interrupt | masks the primary channel; monitored channels only |
//! | B | about 6.10 to 6.16 | as A | as A, and signals the host of an unmonitored primary channel |
//! | C | about 6.16, 6.17 | as A | all channels: masks, and signals of unmonitored ones |
//! | D | about 6.18 | never touched but by `write` | as C |
//! | B+D | a distribution's | as D | as B |
//!
//! On A, B and B+D an interrupt of a subchannel crashes the kernel: its handler follows a null pointer.
//!
//! Source: Linux `drivers/uio/uio_hv_generic.c`, in the forms that were published.

use std::str::FromStr;

/// A kernel's `uio_hv_generic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Kernel {
    /// To about 6.9.
    A,
    /// About 6.10 to 6.16.
    #[default]
    B,
    /// About 6.16 and 6.17.
    C,
    /// From about 6.18 on, and stable backports.
    D,
    /// B whose handler leaves the mask alone, as D: seen in a distribution.
    BD,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::C, Self::D, Self::BD];

    /// Its name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::BD => "bd",
        }
    }

    /// Whether it sets the mask by itself: when a channel is opened, and at each interrupt.
    pub(super) const fn masks(self) -> bool {
        matches!(self, Self::A | Self::B | Self::C)
    }

    /// Whether an interrupt of a subchannel crashes it.
    pub(super) const fn dies_of_subchannels(self) -> bool {
        matches!(self, Self::A | Self::B | Self::BD)
    }

    /// Whether `write` is for subchannels as well.
    pub(super) const fn writes_to_all(self) -> bool {
        matches!(self, Self::C | Self::D)
    }

    /// Whether a `write` that unmasks signals the host, where there is no monitor.
    pub(super) const fn write_signals(self) -> bool {
        !matches!(self, Self::A)
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseKernelError;

impl std::fmt::Display for ParseKernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a kernel: a, b, c, d or bd")
    }
}

impl std::error::Error for ParseKernelError {}

impl FromStr for Kernel {
    type Err = ParseKernelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == text).ok_or(ParseKernelError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert_eq!("e".parse::<Kernel>(), Err(ParseKernelError));
    }

    #[test]
    fn each_kernel_is_its_row_of_the_table() {
        let rows = Kernel::ALL.map(|k| (k.masks(), k.dies_of_subchannels(), k.writes_to_all(), k.write_signals()));
        assert_eq!(
            rows,
            [
                (true, true, false, false),
                (true, true, false, true),
                (true, false, true, true),
                (false, false, true, true),
                (false, true, false, true),
            ]
        );
    }
}
