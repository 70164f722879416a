//! Errors of opening, asking and closing.

use netvsc::ConfigError;
use vmbus::ErrorKind;

/// Why an adapter did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings cannot be.
    Config(ConfigError),
    /// Bring-up failed; what existed was undone.
    Failed {
        /// What was being done.
        step: netvsc::control::Step,
        /// Why it failed.
        cause: netvsc::control::Cause,
    },
    /// The bus or the primary channel failed.
    System {
        /// Who is at fault.
        kind: ErrorKind,
        /// What the backend says.
        message: String,
    },
    /// The host took the device away.
    Gone,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Failed { step, cause } => write!(f, "failed to {step}: {cause}"),
            Self::System { message, .. } => f.write_str(message),
            Self::Gone => f.write_str("the host took the device away during bring-up"),
        }
    }
}

impl std::error::Error for OpenError {}

impl vmbus::Error for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) => ErrorKind::Misuse,
            Self::Failed { cause, .. } => cause.kind(),
            Self::System { kind, .. } => *kind,
            Self::Gone => ErrorKind::Gone,
        }
    }
}

/// Why a request to the host has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The host refused, answered nonsense, or did not answer in time.
    Request(netvsc::control::RequestError),
    /// The request could not be made.
    Failed(String),
    /// The adapter is closed.
    Closed,
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Failed(message) => f.write_str(message),
            Self::Closed => f.write_str("the network adapter was closed"),
        }
    }
}

impl std::error::Error for RequestError {}

/// Why closing has no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseError {
    /// The adapter had failed before, and was taken down then.
    Failed,
}

impl std::fmt::Display for CloseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the network adapter had failed before it was closed")
    }
}

impl std::error::Error for CloseError {}
