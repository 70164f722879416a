//! What every fallible trait of the layer has in common: who is at fault.
//!
//! The shape is embedded-hal's: a trait names its error with [`ErrorType`], and every error can be asked for an
//! [`ErrorKind`], so that generic code decides what to do next without knowing the backend.

/// Who is at fault, which decides what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host broke the protocol: the channel is unusable until it is reopened.
    HostViolation,
    /// The host answered, and said no.
    Refused,
    /// The caller used the API wrongly; the device is unharmed.
    Misuse,
    /// The operating system or the backend failed.
    System,
    /// The device was rescinded, removed or closed.
    Gone,
}

/// An error of this layer.
pub trait Error: core::error::Error + Send + Sync + 'static {
    /// Who is at fault.
    fn kind(&self) -> ErrorKind;
}

/// Names the error type of a trait's implementation.
pub trait ErrorType {
    /// The error that the methods return.
    type Error: Error;
}

impl<T: ErrorType + ?Sized> ErrorType for &mut T {
    type Error = T::Error;
}

impl Error for core::convert::Infallible {
    fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
