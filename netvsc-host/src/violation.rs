//! What the guest did wrong, with the evidence.

use vmbus::protocol::RelId;

use crate::host::NicId;

/// Most bytes of evidence that are kept of one violation.
pub const MAX_EVIDENCE_BYTES: usize = 256;
/// Bytes of evidence that are printed; `bytes` has more.
const DISPLAYED_BYTES: usize = 64;
/// Most violations that are kept; more are only counted ([`Report::violations_not_kept`](crate::Report::violations_not_kept)).
pub const MAX_VIOLATIONS: usize = 1024;

/// Something that a guest must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which rule was broken.
    pub kind: ViolationKind,
    /// On which NIC.
    pub nic: NicId,
    /// On which channel; `None` for messages of the control plane that concern none.
    pub channel: Option<RelId>,
    /// What exactly was wrong: field, value, limit.
    pub message: String,
    /// The offending bytes, at most [`MAX_EVIDENCE_BYTES`]: the message or packet as it came.
    pub bytes: Vec<u8>,
}

impl Violation {
    pub(crate) fn new(
        kind: ViolationKind,
        nic: NicId,
        channel: Option<RelId>,
        message: impl Into<String>,
        bytes: &[u8],
    ) -> Self {
        let bytes = bytes[..bytes.len().min(MAX_EVIDENCE_BYTES)].to_vec();
        Self { kind, nic, channel, message: message.into(), bytes }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nic {}", self.nic.0)?;
        if let Some(channel) = self.channel {
            write!(f, " channel {channel}")?;
        }
        write!(f, ": {}: {} [", self.kind, self.message)?;
        let shown = self.bytes.len().min(DISPLAYED_BYTES);
        for byte in &self.bytes[..shown] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(if shown < self.bytes.len() { "…]" } else { "]" })
    }
}

impl std::error::Error for Violation {}

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A control-plane message that is no message, or that this connection does not have.
    BadMessage,
    /// A control-plane message that may not be sent in this state, or posted to the wrong connection id.
    UnexpectedMessage,
    /// A relid that was not offered, or is given back twice.
    UnknownChannel,
    /// A range list that describes no memory, an id that is used twice or not known.
    BadGpadl,
    /// A GPADL torn down while the host still needs it (the ring of an open channel).
    GpadlInUse,
    /// A channel opened with a ring that is none, or that was not zeroed.
    BadRing,
    /// The ring is corrupt: indices or a descriptor that cannot be.
    CorruptRing,
    /// The guest signalled or masked where only the host may.
    RingControl,
    /// A packet type that guests do not send.
    BadPacketType,
    /// An NVSP message that is too short, unknown, or not part of the version.
    BadNvsp,
    /// An NVSP message that may not be sent in this state, or not on this channel.
    UnexpectedNvsp,
    /// A packet that asks for no completion where one is owed.
    NoCompletionRequested,
    /// A buffer that cannot be used: unknown GPADL, too small.
    BadBuffer,
    /// A send section that lies outside the send buffer, or holds fewer bytes than stated.
    BadSection,
    /// GPA ranges that describe no memory.
    BadGpaRanges,
    /// A receive completion for something that is not outstanding.
    BadReceiveCompletion,
    /// A control message of RNDIS that cannot be, or not now.
    BadRndisControl,
    /// A data message of RNDIS that cannot be: its whole packet fails.
    BadRndisPacket,
    /// An offload that was not offered, was turned off, or is asked for of a frame that it does not fit.
    BadOffload,
    /// A frame that is too short, or longer than the MTU.
    BadFrame,
    /// More sends outstanding than a host takes, or a transaction id in use twice.
    BadTransaction,
    /// A value of an OID that cannot be.
    BadOid,
    /// A frame by a virtual function before the data path was switched to it.
    UnexpectedVfFrame,
    /// Guest memory that the host holds was freed.
    MemoryGone,
}

impl std::fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BadMessage => "bad vmbus message",
            Self::UnexpectedMessage => "unexpected vmbus message",
            Self::UnknownChannel => "unknown channel",
            Self::BadGpadl => "bad gpadl",
            Self::GpadlInUse => "gpadl in use",
            Self::BadRing => "bad ring",
            Self::CorruptRing => "corrupt ring",
            Self::RingControl => "ring control word",
            Self::BadPacketType => "bad packet type",
            Self::BadNvsp => "bad nvsp message",
            Self::UnexpectedNvsp => "unexpected nvsp message",
            Self::NoCompletionRequested => "no completion requested",
            Self::BadBuffer => "bad buffer",
            Self::BadSection => "bad send section",
            Self::BadGpaRanges => "bad gpa ranges",
            Self::BadReceiveCompletion => "bad receive completion",
            Self::BadRndisControl => "bad rndis control message",
            Self::BadRndisPacket => "bad rndis packet",
            Self::BadOffload => "bad offload request",
            Self::BadFrame => "bad frame",
            Self::BadTransaction => "bad transaction",
            Self::BadOid => "bad oid value",
            Self::UnexpectedVfFrame => "unexpected vf frame",
            Self::MemoryGone => "memory gone",
        })
    }
}

/// What the host does about a violation, besides recording it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strictness {
    /// Goes on where Hyper-V-like hosts go on (a malformed frame fails its packet), and where they fall silent, falls
    /// silent: no answer, no rescind; close and GPADL teardown still work.
    #[default]
    Report,
    /// As `Report`, but a channel that would fall silent is rescinded, so that the guest learns of it.
    Rescind,
    /// As `Report`, and panics at the first violation: the quickest way to see who did it, with [`Host::run_inline`](crate::Host::run_inline).
    Panic,
}

/// The record of violations: bounded, whatever the guest does.
#[derive(Debug, Default)]
pub(crate) struct ViolationLog {
    kept: Vec<Violation>,
    not_kept: u64,
    strictness: Strictness,
}

impl ViolationLog {
    pub(crate) fn new(strictness: Strictness) -> Self {
        Self { strictness, ..Self::default() }
    }

    pub(crate) fn strictness(&self) -> Strictness {
        self.strictness
    }

    /// # Panics
    /// If the strictness is [`Strictness::Panic`].
    pub(crate) fn record(&mut self, violation: Violation) {
        tracing::warn!(target: "netvsc_host", %violation, "protocol violation");
        assert!(self.strictness != Strictness::Panic, "protocol violation: {violation}");
        if self.kept.len() < MAX_VIOLATIONS {
            self.kept.push(violation);
        } else {
            self.not_kept += 1;
        }
    }

    pub(crate) fn kept(&self) -> &[Violation] {
        &self.kept
    }

    pub(crate) fn not_kept(&self) -> u64 {
        self.not_kept
    }
}
