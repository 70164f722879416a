//! What can go wrong in the control machine: where, why, and who is at fault.

use core::fmt;

use rndis::{Oid, Status};

use crate::queue::{HeldReceives, QueueError};

/// What the machine was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Waiting for the primary channel's offer.
    WaitForOffer,
    /// Opening the primary channel.
    Open,
    /// Agreeing on an NVSP version.
    Negotiate,
    /// Getting memory for the receive buffer, and its GPADL.
    AllocateReceiveBuffer,
    /// Giving the receive buffer to the host.
    ShareReceiveBuffer,
    /// Getting memory for the send buffer, and its GPADL.
    AllocateSendBuffer,
    /// Giving the send buffer to the host.
    ShareSendBuffer,
    /// RNDIS INITIALIZE.
    Initialize,
    /// Reading a value.
    Query(Oid),
    /// Changing a value.
    Set(Oid),
    /// Getting subchannels and opening them.
    OpenSubchannels,
    /// Up and running.
    Run,
    /// Closing.
    Close,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitForOffer => "wait for the offer",
            Self::Open => "open the primary channel",
            Self::Negotiate => "negotiate the NVSP version",
            Self::AllocateReceiveBuffer => "allocate the receive buffer",
            Self::ShareReceiveBuffer => "share the receive buffer",
            Self::AllocateSendBuffer => "allocate the send buffer",
            Self::ShareSendBuffer => "share the send buffer",
            Self::Initialize => "initialize RNDIS",
            Self::Query(oid) => return write!(f, "query {oid}"),
            Self::Set(oid) => return write!(f, "set {oid}"),
            Self::OpenSubchannels => "open the subchannels",
            Self::Run => "run",
            Self::Close => "close",
        })
    }
}

/// Why a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The host did not answer in time.
    TimedOut {
        /// Set if there are so few receive sections that some hosts fall silent.
        few_receive_sections: Option<FewSections>,
    },
    /// The host has neither completed these sends nor taken these acknowledgments in time. What it still holds could be read or
    /// written by it after it was taken away: to go on without, close the device and open it anew.
    NotCompleted {
        /// Sends.
        sends: usize,
        /// Receive packets.
        receives: usize,
    },
    /// The host refused every version.
    NoVersion {
        /// Its answer to the last one.
        status: nvsp::Status,
    },
    /// The host is older than an isolated guest accepts.
    TooOld {
        /// Oldest version accepted.
        minimum: nvsp::Version,
    },
    /// The host refused, in NVSP.
    Refused {
        /// Its word.
        status: nvsp::Status,
    },
    /// The host refused, in RNDIS.
    RefusedRequest {
        /// Its word.
        status: Status,
    },
    /// The host refused, in the VMBus control protocol.
    RefusedByBus {
        /// Its word.
        status: u32,
    },
    /// The host's answer cannot be.
    Violation(Violation),
    /// The host took no send buffer, and there is no memory with known guest physical addresses either.
    NoWayToSend {
        /// Its answer to the send buffer; `None` if there was no memory for one.
        status: Option<nvsp::Status>,
    },
    /// The backend has no such memory.
    NoMemory {
        /// Bytes wished for.
        bytes: usize,
    },
    /// A message could not be sent.
    CannotSend(vmbus::ErrorKind),
    /// The primary channel is unusable.
    Queue(QueueError),
    /// A subchannel is unusable.
    Subchannel {
        /// Which.
        queue: u16,
        /// Why.
        error: QueueError,
    },
    /// The host took a subchannel back.
    SubchannelRescinded {
        /// Which.
        queue: u16,
    },
    /// The application holds received frames, and has not let go of them in time.
    Held(HeldReceives),
    /// There are fewer queues than a change was for.
    FewQueues {
        /// What was asked for.
        requested: u16,
        /// What there is.
        effective: u16,
    },
}

impl Cause {
    /// Who is at fault.
    #[must_use]
    pub const fn kind(&self) -> vmbus::ErrorKind {
        use vmbus::ErrorKind;
        match self {
            Self::TimedOut { .. } | Self::NotCompleted { .. } | Self::Violation(_) => ErrorKind::HostViolation,
            Self::NoMemory { .. } => ErrorKind::System,
            Self::Held(_) => ErrorKind::Misuse,
            Self::Queue(QueueError::Doorbell { kind })
            | Self::Subchannel { error: QueueError::Doorbell { kind }, .. } => *kind,
            Self::SubchannelRescinded { .. } => ErrorKind::Gone,
            Self::Queue(_) | Self::Subchannel { .. } => ErrorKind::HostViolation,
            Self::CannotSend(kind) => *kind,
            _ => ErrorKind::Refused,
        }
    }
}

/// Receive sections there are, and those that some hosts need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FewSections {
    /// Sections there are.
    pub count: u32,
    /// 16 and one a queue.
    pub minimum: u32,
}

impl fmt::Display for FewSections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "with {} receive sections some hosts fall silent, use at least {}", self.count, self.minimum)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { few_receive_sections: None } => f.write_str("the host did not answer in time"),
            Self::TimedOut { few_receive_sections: Some(few) } => write!(f, "the host did not answer in time; {few}"),
            Self::NotCompleted { sends, receives } => {
                write!(f, "the host left {sends} sends and {receives} receive packets unfinished")
            }
            Self::NoVersion { status } => write!(f, "the host refused every NVSP version, the last with {status}"),
            Self::TooOld { minimum } => write!(f, "the host has no NVSP {minimum}, which an isolated guest needs"),
            Self::Refused { status } => write!(f, "the host refused: {status}"),
            Self::RefusedRequest { status } => write!(f, "the host refused: {status}"),
            Self::RefusedByBus { status } => write!(f, "the host refused: status {status:#010x}"),
            Self::Violation(violation) => violation.fmt(f),
            Self::NoWayToSend { status } => {
                f.write_str("there is no send buffer")?;
                if let Some(status) = status {
                    write!(f, " (the host answered {status})")?;
                }
                f.write_str(", and no guest physical addresses are known either")
            }
            Self::NoMemory { bytes } => write!(f, "no memory of {bytes} bytes to share with the host"),
            Self::CannotSend(kind) => write!(f, "the message could not be sent ({kind:?})"),
            Self::Queue(error) => write!(f, "primary channel: {error}"),
            Self::Subchannel { queue, error } => write!(f, "subchannel {queue}: {error}"),
            Self::SubchannelRescinded { queue } => write!(f, "the host took subchannel {queue} back"),
            Self::Held(HeldReceives { packets, sections }) => {
                write!(f, "frames of {packets} receive packets ({sections} sections) are held")
            }
            Self::FewQueues { requested, effective } => write!(f, "{requested} queues wished, {effective} given"),
        }
    }
}

impl core::error::Error for Cause {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Violation(violation) => Some(violation),
            Self::Queue(error) | Self::Subchannel { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The host refused.
    Refused {
        /// Its word.
        status: Status,
    },
    /// The host did not answer in time.
    TimedOut {
        /// Set if there are so few receive sections that some hosts fall silent.
        few_receive_sections: Option<FewSections>,
    },
    /// The host's answer cannot be.
    Violation(Violation),
    /// The host did not take the message.
    NotTaken {
        /// Its word.
        status: nvsp::Status,
    },
    /// The message could not be sent.
    CannotSend(vmbus::ErrorKind),
    /// The value is too large for a message.
    CannotEncode(rndis::EmitError),
    /// The device is being closed, or is gone.
    Closed,
}

impl From<RequestError> for Cause {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused { status } => Self::RefusedRequest { status },
            RequestError::TimedOut { few_receive_sections } => Self::TimedOut { few_receive_sections },
            RequestError::Violation(violation) => Self::Violation(violation),
            RequestError::NotTaken { status } => Self::Refused { status },
            RequestError::CannotSend(kind) => Self::CannotSend(kind),
            RequestError::CannotEncode(_) => Self::CannotSend(vmbus::ErrorKind::Misuse),
            RequestError::Closed => Self::CannotSend(vmbus::ErrorKind::Gone),
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status } => write!(f, "the host refused: {status}"),
            Self::TimedOut { few_receive_sections } => {
                Cause::TimedOut { few_receive_sections: *few_receive_sections }.fmt(f)
            }
            Self::Violation(violation) => violation.fmt(f),
            Self::NotTaken { status } => write!(f, "the host did not take the message: {status}"),
            Self::CannotSend(kind) => Cause::CannotSend(*kind).fmt(f),
            Self::CannotEncode(error) => error.fmt(f),
            Self::Closed => f.write_str("the device is closed"),
        }
    }
}

impl core::error::Error for RequestError {}

/// Something that the host may not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// An NVSP message that cannot be read.
    Nvsp(nvsp::ParseError),
    /// An RNDIS message or value that cannot be read.
    Rndis(rndis::ParseError),
    /// An NVSP message that a host does not send, or not now.
    UnexpectedNvsp {
        /// Its type.
        message_type: nvsp::MessageType,
    },
    /// An RNDIS message that a host does not send.
    UnexpectedRndis {
        /// Its type.
        message_type: rndis::MessageType,
    },
    /// A completion without the message that was asked for.
    EmptyCompletion,
    /// A value out of its range.
    BadValue {
        /// Which.
        field: &'static str,
        /// What the host said.
        value: u64,
        /// The bound that it broke.
        limit: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvsp(error) => write!(f, "NVSP message from the host: {error}"),
            Self::Rndis(error) => write!(f, "RNDIS message from the host: {error}"),
            Self::UnexpectedNvsp { message_type } => write!(f, "NVSP message {message_type} from the host"),
            Self::UnexpectedRndis { message_type } => write!(f, "RNDIS message {message_type} from the host"),
            Self::EmptyCompletion => f.write_str("the host completed a request without its answer"),
            Self::BadValue { field, value, limit } => {
                write!(f, "the host says {field} is {value}, the bound is {limit}")
            }
        }
    }
}

impl core::error::Error for Violation {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Nvsp(error) => Some(error),
            Self::Rndis(error) => Some(error),
            _ => None,
        }
    }
}

impl From<nvsp::ParseError> for Violation {
    fn from(error: nvsp::ParseError) -> Self {
        Self::Nvsp(error)
    }
}

impl From<rndis::ParseError> for Violation {
    fn from(error: rndis::ParseError) -> Self {
        Self::Rndis(error)
    }
}
