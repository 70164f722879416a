//! What can go wrong between a virtual function's interface and its user.

use std::{fmt, io};

/// The kernel refused something about an interface.
#[derive(Debug)]
pub struct SocketError {
    doing: &'static str,
    source: io::Error,
}

impl SocketError {
    pub(super) fn new(doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self { doing, source: source.into() }
    }

    /// For `map_err`.
    pub(super) fn when<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::new(doing, source)
    }

    /// What the kernel said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the interface is not there any longer.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        is_gone(&self.source)
    }
}

/// An MTU that the sockets of an interface cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MtuTooLarge {
    /// The L3 MTU that was asked for.
    pub mtu: u32,
    /// The largest one.
    pub limit: u32,
}

impl MtuTooLarge {
    /// If `mtu` is larger than `limit`.
    pub(super) fn check(mtu: u32, limit: u32) -> Result<(), SocketError> {
        if mtu <= limit {
            return Ok(());
        }
        let error = io::Error::new(io::ErrorKind::InvalidInput, Self { mtu, limit });
        Err(SocketError::new("receive frames of this mtu by AF_XDP", error))
    }
}

impl fmt::Display for MtuTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mtu of {} bytes exceeds the limit of {}", self.mtu, self.limit)
    }
}

impl std::error::Error for MtuTooLarge {}

/// Whether this says that an interface is not there any longer: no such device, or no such address.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.doing)
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        Self::new(error.kind(), error)
    }
}
