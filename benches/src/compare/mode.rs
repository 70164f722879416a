//! Which way frames go.

use clap::ValueEnum;

/// Which way frames go, seen from what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They are received.
    Rxonly,
    /// They are sent.
    Txonly,
    /// They are received, and sent back.
    Io,
}

impl Mode {
    /// As l2fwd and testpmd have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rxonly => "rxonly",
            Self::Txonly => "txonly",
            Self::Io => "io",
        }
    }
}
