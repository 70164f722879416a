//! The kinds of faults and their names.

use core::fmt;
use core::str::FromStr;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One thing that the host does wrong or oddly.
        ///
        /// The text form, as [`FromStr`] and [`Display`](fmt::Display) have it, is for command lines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])* $variant,)*
        }

        impl Fault {
            /// All faults, in the order of their documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name of the fault: lower case, words joined by hyphens.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

faults! {
    // Frames to the guest.
    /// One byte of a frame to the guest is changed before delivery.
    Corrupt = "corrupt",
    /// A frame to the guest is lost.
    Drop = "drop",
    /// A frame to the guest arrives twice.
    DuplicateFrame = "duplicate-frame",
    /// A whole batch to the guest, up to 375 frames, is lost, as when the ring is full.
    DropBatch = "drop-batch",

    // Offloads.
    /// A checksum that the guest left to the host is computed wrongly.
    ChecksumWrong = "checksum-wrong",
    /// The verdict on a frame's checksums is the opposite of what they are.
    VerdictWrong = "verdict-wrong",
    /// The first segment of a coalesced frame does not say that it is the first.
    RscNoFirst = "rsc-no-first",
    /// The last segment of a coalesced frame does not say that it is the last.
    RscNoLast = "rsc-no-last",
    /// A segment in the middle of a coalesced frame says that it is the first.
    RscFirstTwice = "rsc-first-twice",
    /// A segment in the middle of a coalesced frame does not say that it belongs to it.
    RscInterrupted = "rsc-interrupted",

    // Malformed packets to the guest.
    /// The host breaks the protocol towards the guest, in a way chosen by chance among the `violate-…` ones.
    Violate = "violate",
    /// A transfer range that ends behind the receive buffer.
    RangeOutOfBounds = "violate-range-out-of-bounds",
    /// Two transfer ranges of one packet over the same bytes.
    RangesOverlap = "violate-ranges-overlap",
    /// More ranges announced than the packet holds.
    RangeCount = "violate-range-count",
    /// A transfer set id that was never announced.
    UnknownTransferSet = "violate-unknown-transfer-set",
    /// An RNDIS message longer than its range.
    MessageLength = "violate-message-length",
    /// An RNDIS data offset behind the message's end.
    DataOffset = "violate-data-offset",
    /// Per-packet info whose element size is 0, over which a careless reader loops for ever.
    InfoSizeZero = "violate-info-size-zero",
    /// An RNDIS message type that does not exist.
    UnknownRndisType = "violate-unknown-rndis-type",
    /// An NVSP message type that does not exist.
    UnknownNvspType = "violate-unknown-nvsp-type",
    /// A VMBus packet type that does not exist.
    UnknownPacketType = "violate-unknown-packet-type",
    /// Random bytes instead of an NVSP message.
    Garbage = "violate-garbage",
    /// Bytes in the receive buffer are changed after the guest was told of them.
    EditAfterDelivery = "violate-edit-after-delivery",

    // Completions of what the guest sent.
    /// A completion never comes, so that the guest's send section and id stay taken.
    Leak = "leak",
    /// A completion comes late.
    CompletionDelay = "completion-delay",
    /// A completion comes twice.
    CompletionDuplicate = "completion-duplicate",
    /// A completion with a stale or foreign transaction id comes besides the right one.
    CompletionForeignId = "completion-foreign-id",
    /// A completion comes that nobody asked for.
    CompletionUnasked = "completion-unasked",
    /// A completion says that the send failed.
    CompletionFailed = "completion-failed",

    // Interrupts.
    /// A signal to the guest is lost.
    InterruptLost = "interrupt-lost",
    /// A signal to the guest comes late.
    InterruptLate = "interrupt-late",
    /// A signal to the guest comes although nothing is new.
    InterruptSpurious = "interrupt-spurious",

    // Answers to control requests.
    /// The RNDIS answer comes before the completion of its request.
    AnswerFirst = "answer-first",
    /// The RNDIS answer comes late.
    AnswerLate = "answer-late",
    /// The RNDIS answer never comes.
    AnswerNever = "answer-never",
    /// The RNDIS answer comes twice.
    AnswerDuplicate = "answer-duplicate",
    /// An RNDIS answer to a request id that nobody used comes besides the right one.
    AnswerForeignId = "answer-foreign-id",
    /// The RNDIS answer is shorter than its structure says.
    AnswerShort = "answer-short",
    /// The RNDIS answer says that the request failed.
    AnswerFailed = "answer-failed",
    /// An unsolicited message is sent before the answer.
    Unsolicited = "unsolicited",

    // Queues.
    /// A queue falls silent: the host reads no more, the mask stays 1, nothing is rescinded.
    QueueSilent = "queue-silent",
    /// A subchannel falls silent alone, the primary channel lives on.
    SubchannelSilent = "subchannel-silent",
    /// Sends are not completed while the guest holds receive buffers.
    SendsWaitForReceives = "sends-wait-for-receives",
    /// The low three bits of pending_send_sz are set.
    PendingSendBits = "pending-send-bits",
    /// The host's mask is 1 when a channel opens.
    MaskedAtOpen = "masked-at-open",

    // Events in the life of the device.
    /// The link is reported down and, 5 s later, up, while it was up all the time.
    LinkFlap = "link-flap",
    /// The host takes the receive buffer back by itself.
    RevokeReceiveBuffer = "revoke-receive-buffer",
    /// The NIC is rescinded.
    Rescind = "rescind",
    /// The VF disappears without notice.
    VfRemoved = "vf-removed",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.iter().copied().find(|fault| fault.name() == name).ok_or_else(|| UnknownFault { name: name.into() })
    }
}

/// No fault has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no fault is named {:?}; the faults are", self.name)?;
        for (index, fault) in Fault::ALL.iter().enumerate() {
            write!(f, "{} {fault}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique_and_comes_back() {
        for &fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "corupt".parse::<Fault>().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("no fault is named \"corupt\"; the faults are corrupt, drop,"), "{text}");
    }
}
