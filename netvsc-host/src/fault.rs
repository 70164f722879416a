//! Faults: what a host does wrong, or oddly, on purpose.
//!
//! A [`FaultPlan`] holds which [`Fault`]s are armed and [when](When) they strike. The host asks it at fixed points
//! ("hooks"), one method each, and does what the answer says. Nothing is armed by default, and then each hook is one
//! branch. All chance comes from one seed, so that a run can be repeated.
//!
//! # Behaviours of real hosts
//!
//! Much of what looks like a fault is what real hosts do. Each behaviour that was observed on independent hosts is either
//! a knob of the [profile](crate::profile) (this host always does so) or a fault (it happens now and then):
//!
//! | # | host behaviour | here |
//! |---|---|---|
//! | 1 | receive sub-allocations of 1728 bytes, or of MTU + 292 at 2-byte aligned offsets that cross pages | profile: sub-allocation size |
//! | 2 | a transfer range covers the whole sub-allocation | profile: range length |
//! | 3 | up to 375 ranges in one transfer-page packet, one completion for all | profile: ranges per packet |
//! | 4 | the first 16 sub-allocations are reserved for control answers | profile: reserved sub-allocations |
//! | 5 | completions of NDIS_CONFIG and NDIS_VERSION are empty and only come if asked for; others are 32 or 40 bytes | profile: completion length |
//! | 6 | INIT_COMPLETE with deprecated fields 0xffffffff; an unknown version is answered with status 0, a second INIT accepted | profile: init answer |
//! | 7 | the RNDIS answer before the completion, or 15 s late, or never | [`Fault::AnswerFirst`], [`Fault::AnswerLate`], [`Fault::AnswerNever`] |
//! | 8 | unsolicited messages in the middle of any exchange | [`Fault::Unsolicited`] |
//! | 9 | nothing is delivered while the packet filter is 0 | always: [`PacketFilter::CLOSED`](crate::switch::PacketFilter::CLOSED) |
//! | 10 | a malformed packet kills the queue silently: the host stops reading, the mask stays 1 | profile: strictness; [`Fault::QueueSilent`] |
//! | 11 | a completion with a stale or foreign transaction id | [`Fault::CompletionForeignId`] |
//! | 12 | ring to the guest full: a whole batch is dropped | always; [`Fault::DropBatch`] |
//! | 13 | pending_send_sz with meaningless low three bits | [`Fault::PendingSendBits`] |
//! | 14 | a guest write to the mask word of its own ring is an error | always: a violation of the guest's |
//! | 15 | the mask may be 1 or 0 at open | [`Fault::MaskedAtOpen`] |
//! | 16 | the host waits for receive buffers while the guest waits for ring space | [`Fault::SendsWaitForReceives`] |
//! | 17 | an RNDIS header that is not within the first GPA range: the send completes with FAILURE | always |
//! | 18 | a completion that nobody asked for | [`Fault::CompletionUnasked`] |
//! | 19 | close of the primary completes only after all subchannels are let go | always |
//! | 20 | ring pages must be zeroed before every open | always: a violation of the guest's |
//! | 21 | packets per message, transfer size and alignment are the host's choice | profile: initialize answer |
//! | 22 | fewer than 16 + queues sub-allocations: the channel falls silent when the data path starts | profile: least sub-allocations |
//! | 23 | link up while up: down, then up 5 s later; the query says connected all the time | [`Fault::LinkFlap`] |
//! | 24 | surprise removal of the VF: the host switches the data path itself, then takes the association back | [`Fault::VfRemoved`] |
//! | 25 | a broken subchannel goes silent alone; a control message on one completes with status 2 | [`Fault::SubchannelSilent`]; always |
//! | 26 | RESET, an unknown type or a second INITIALIZE: completed with status 1, then silence | always |
//! | 27 | offload structures at the host's own revision and size; an RSS answer of 18 bytes | profile: [offload layout](crate::profile::OffloadLayout); [`Fault::AnswerShort`] |
//!
//! Offloads have faults of their own, for those who check what a host says: [`Fault::VerdictWrong`],
//! [`Fault::ChecksumWrong`], and segments of coalesced frames that are marked wrongly ([`Fault::RscNoFirst`] and the
//! others).

mod kind;
mod outcome;
mod plan;

pub use kind::{Fault, UnknownFault};
pub use outcome::{
    AnswerFate, CoalescedFate, CompletionFate, Delivery, GuestViolation, InterruptFate, LinkFate, PacketFate, Service,
    Upset,
};
pub use plan::{Chance, FaultPlan, InvalidChance, When};
