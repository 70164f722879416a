//! Which faults are armed, when they strike, and the hooks that ask.

use core::fmt;
use core::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::kind::Fault;
use super::outcome::{
    AnswerFate, CoalescedFate, CompletionFate, Delivery, GuestViolation, InterruptFate, LinkFate, PacketFate, Service,
    Upset,
};

/// How often an armed fault strikes. What is counted are the events that it could strike.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum When {
    /// At every event.
    Always,
    /// At the next event only.
    Once,
    /// At the next so many events.
    Times {
        /// How many.
        count: u64,
    },
    /// At one event, after so many others.
    After {
        /// How many are spared.
        spared: u64,
    },
    /// At every n-th event; every 0th is never.
    Every {
        /// The n.
        nth: u64,
    },
    /// By chance.
    Chance(Chance),
}

impl When {
    /// By chance, with a probability from 0 to 1.
    ///
    /// # Errors
    ///
    /// [`InvalidChance`] if it is not in that range.
    pub fn chance(probability: f64) -> Result<Self, InvalidChance> {
        if (0.0..=1.0).contains(&probability) {
            Ok(Self::Chance(Chance(probability)))
        } else {
            Err(InvalidChance { probability })
        }
    }
}

/// A probability that was checked; see [`When::chance`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance(f64);

/// A probability that is not from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidChance {
    /// The value.
    pub probability: f64,
}

impl fmt::Display for InvalidChance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault probability {} is not from 0 to 1", self.probability)
    }
}

impl core::error::Error for InvalidChance {}

/// The armed faults of one host or NIC.
///
/// ```
/// use netvsc_host::fault::{Delivery, Fault, FaultPlan, When};
///
/// let mut plan = FaultPlan::new(1);
/// plan.arm(Fault::Drop, When::Every { nth: 3 });
/// let fates = [(); 4].map(|()| plan.on_deliver_to_guest(60));
/// assert_eq!(fates, [Delivery::Pass, Delivery::Pass, Delivery::Drop, Delivery::Pass]);
/// assert_eq!(plan.strikes(Fault::Drop), 1);
/// ```
#[derive(Clone, Debug)]
pub struct FaultPlan {
    rng: SmallRng,
    armed: Vec<Armed>,
    /// Steps that a late completion or interrupt waits.
    late_steps: u32,
    answer_delay: Duration,
    link_up_after: Duration,
}

impl FaultPlan {
    /// A plan without faults; `seed` decides all chance.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            armed: Vec::new(),
            late_steps: 3,
            answer_delay: Duration::from_secs(15),
            link_up_after: Duration::from_secs(5),
        }
    }

    /// How many steps late completions and interrupts wait. Default 3, least 1.
    #[must_use]
    pub fn late_steps(mut self, steps: u32) -> Self {
        self.late_steps = steps.max(1);
        self
    }

    /// How much later late answers come. Default 15 s, the longest that was seen.
    #[must_use]
    pub fn answer_delay(mut self, delay: Duration) -> Self {
        self.answer_delay = delay;
        self
    }

    /// When a flapping link is up again. Default 5 s, as was seen.
    #[must_use]
    pub fn link_up_after(mut self, delay: Duration) -> Self {
        self.link_up_after = delay;
        self
    }

    /// Arms a fault. Armed again, it counts afresh and keeps its strikes.
    pub fn arm(&mut self, fault: Fault, when: When) {
        match self.armed.iter_mut().find(|armed| armed.fault == fault) {
            Some(armed) => (armed.when, armed.events) = (when, 0),
            None => self.armed.push(Armed { fault, when, events: 0, strikes: 0 }),
        }
    }

    /// Disarms a fault; its strikes stay counted.
    pub fn disarm(&mut self, fault: Fault) {
        if let Some(armed) = self.armed.iter_mut().find(|armed| armed.fault == fault) {
            armed.when = When::Times { count: 0 };
        }
    }

    /// Disarms all faults and forgets their strikes. The seed's sequence goes on.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// How often a fault has struck.
    pub fn strikes(&self, fault: Fault) -> u64 {
        self.armed.iter().find(|armed| armed.fault == fault).map_or(0, |armed| armed.strikes)
    }

    /// Whether no fault was ever armed, so that all hooks answer the usual thing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    /// A frame of `frame_len` bytes is about to be copied to the guest.
    #[inline]
    pub fn on_deliver_to_guest(&mut self, frame_len: usize) -> Delivery {
        if self.is_empty() { Delivery::Pass } else { self.deliver_to_guest(frame_len) }
    }

    /// A packet with a batch of `ranges` transfer ranges is about to go to the guest; 0 for one in band.
    #[inline]
    pub fn on_packet_to_guest(&mut self, ranges: usize) -> PacketFate {
        if self.is_empty() { PacketFate::Pass } else { self.packet_to_guest(ranges) }
    }

    /// A checksum is about to be computed for the guest: whether wrongly.
    #[inline]
    pub fn on_checksum_to_complete(&mut self) -> bool {
        !self.is_empty() && self.strikes_now(Fault::ChecksumWrong)
    }

    /// The guest is about to be told of a frame's checksums: whether the opposite.
    #[inline]
    pub fn on_verdict(&mut self) -> bool {
        !self.is_empty() && self.strikes_now(Fault::VerdictWrong)
    }

    /// A coalesced frame is about to be copied to the guest.
    #[inline]
    pub fn on_coalesced(&mut self) -> CoalescedFate {
        if self.is_empty() { CoalescedFate::Whole } else { self.coalesced() }
    }

    /// A packet of the guest's is about to be completed.
    #[inline]
    pub fn on_completion(&mut self) -> CompletionFate {
        if self.is_empty() { CompletionFate::Now } else { self.completion() }
    }

    /// A packet of the guest's was taken that asks for no completion: the transaction id of one to send nevertheless.
    #[inline]
    pub fn on_no_completion(&mut self, transaction_id: u64) -> Option<u64> {
        (!self.is_empty() && self.strikes_now(Fault::CompletionUnasked)).then_some(transaction_id)
    }

    /// The guest is about to be signalled.
    #[inline]
    pub fn on_interrupt(&mut self) -> InterruptFate {
        if self.is_empty() { InterruptFate::Now } else { self.interrupt() }
    }

    /// A step found nothing to signal for: whether to signal nevertheless.
    #[inline]
    pub fn on_no_interrupt(&mut self) -> bool {
        !self.is_empty() && self.strikes_now(Fault::InterruptSpurious)
    }

    /// An RNDIS request is about to be answered with `answer_len` bytes.
    #[inline]
    pub fn on_control_answer(&mut self, answer_len: usize) -> AnswerFate {
        if self.is_empty() { AnswerFate::Now } else { self.control_answer(answer_len) }
    }

    /// A queue is about to be read; subchannel 0 is the primary channel.
    #[inline]
    pub fn on_serve_queue(&mut self, subchannel: u16) -> Service {
        if self.is_empty() { Service::Serve } else { self.serve_queue(subchannel) }
    }

    /// Sends are about to be completed while the guest holds receive sections: whether to wait until it holds none.
    #[inline]
    pub fn on_completion_while_receives_held(&mut self) -> bool {
        !self.is_empty() && self.strikes_now(Fault::SendsWaitForReceives)
    }

    /// The pending_send_sz word is about to be written: the value to write.
    #[inline]
    pub fn on_pending_send_size(&mut self, value: u32) -> u32 {
        if !self.is_empty() && self.strikes_now(Fault::PendingSendBits) { value | 7 } else { value }
    }

    /// A channel is about to be opened: whether the host's mask is 1 then.
    #[inline]
    pub fn on_open_masked(&mut self) -> bool {
        !self.is_empty() && self.strikes_now(Fault::MaskedAtOpen)
    }

    /// A step of a NIC whose link is up.
    #[inline]
    pub fn on_link_up(&mut self) -> LinkFate {
        if !self.is_empty() && self.strikes_now(Fault::LinkFlap) {
            LinkFate::Flap { up_after: self.link_up_after }
        } else {
            LinkFate::Steady
        }
    }

    /// A step of a NIC that is up.
    #[inline]
    pub fn on_nic_step(&mut self) -> Upset {
        if self.is_empty() { Upset::None } else { self.nic_step() }
    }

    #[cold]
    fn deliver_to_guest(&mut self, frame_len: usize) -> Delivery {
        if self.strikes_now(Fault::Drop) {
            return Delivery::Drop;
        }
        if frame_len > 0 && self.strikes_now(Fault::Corrupt) {
            let offset = self.rng.random_range(0..frame_len);
            return Delivery::Corrupt { offset, xor: self.rng.random_range(1..=u8::MAX) };
        }
        if self.strikes_now(Fault::DuplicateFrame) {
            return Delivery::Duplicate;
        }
        Delivery::Pass
    }

    #[cold]
    fn packet_to_guest(&mut self, ranges: usize) -> PacketFate {
        if ranges > 0 && self.strikes_now(Fault::DropBatch) {
            return PacketFate::Drop;
        }
        let Some(mut fault) = self.first_of(&VIOLATIONS) else {
            return PacketFate::Pass;
        };
        if fault == Fault::Violate {
            // All but `Violate` itself, which stands first.
            fault = VIOLATIONS[self.rng.random_range(1..VIOLATIONS.len())];
        }
        self.guest_violation(fault).map_or(PacketFate::Pass, PacketFate::Violate)
    }

    fn guest_violation(&mut self, fault: Fault) -> Option<GuestViolation> {
        Some(match fault {
            Fault::RangeOutOfBounds => GuestViolation::RangeOutOfBounds,
            Fault::RangesOverlap => GuestViolation::RangesOverlap,
            Fault::RangeCount => GuestViolation::RangeCount,
            // The transfer set of a NIC's receive buffer is 0xcafe; any other is unknown.
            Fault::UnknownTransferSet => GuestViolation::UnknownTransferSet { id: self.rng.random_range(0..0xcafe) },
            Fault::MessageLength => GuestViolation::MessageLength,
            Fault::DataOffset => GuestViolation::DataOffset,
            Fault::InfoSizeZero => GuestViolation::InfoSizeZero,
            // Known RNDIS types are 1 to 8, with or without the completion bit 31.
            Fault::UnknownRndisType => {
                GuestViolation::UnknownRndisType { message_type: self.rng.random_range(0x100..0x8000_0000) }
            }
            // Known NVSP types end below 256.
            Fault::UnknownNvspType => {
                GuestViolation::UnknownNvspType { message_type: self.rng.random_range(0x100..=u32::MAX) }
            }
            // Known VMBus packet types end at 0x10.
            Fault::UnknownPacketType => {
                GuestViolation::UnknownPacketType { packet_type: self.rng.random_range(0x11..=u16::MAX) }
            }
            Fault::Garbage => {
                GuestViolation::Garbage { bytes: self.rng.random_range(0..=256), seed: self.rng.random() }
            }
            Fault::EditAfterDelivery => GuestViolation::EditAfterDelivery { seed: self.rng.random() },
            _ => return None,
        })
    }

    #[cold]
    fn coalesced(&mut self) -> CoalescedFate {
        let faults = [Fault::RscNoFirst, Fault::RscNoLast, Fault::RscFirstTwice, Fault::RscInterrupted];
        match self.first_of(&faults) {
            Some(Fault::RscNoFirst) => CoalescedFate::NoFirst,
            Some(Fault::RscNoLast) => CoalescedFate::NoLast,
            Some(Fault::RscFirstTwice) => CoalescedFate::FirstTwice,
            Some(Fault::RscInterrupted) => CoalescedFate::Interrupted,
            _ => CoalescedFate::Whole,
        }
    }

    #[cold]
    fn completion(&mut self) -> CompletionFate {
        match self.first_of(&[
            Fault::Leak,
            Fault::CompletionDelay,
            Fault::CompletionDuplicate,
            Fault::CompletionForeignId,
            Fault::CompletionFailed,
        ]) {
            Some(Fault::Leak) => CompletionFate::Never,
            Some(Fault::CompletionDelay) => CompletionFate::Delay { steps: self.late_steps },
            Some(Fault::CompletionDuplicate) => CompletionFate::Duplicate,
            Some(Fault::CompletionForeignId) => CompletionFate::ForeignId { transaction_id: self.foreign_id() },
            Some(Fault::CompletionFailed) => CompletionFate::Failed,
            _ => CompletionFate::Now,
        }
    }

    #[cold]
    fn interrupt(&mut self) -> InterruptFate {
        match self.first_of(&[Fault::InterruptLost, Fault::InterruptLate]) {
            Some(Fault::InterruptLost) => InterruptFate::Lost,
            Some(Fault::InterruptLate) => InterruptFate::Late { steps: self.late_steps },
            _ => InterruptFate::Now,
        }
    }

    #[cold]
    fn control_answer(&mut self, answer_len: usize) -> AnswerFate {
        match self.first_of(&[
            Fault::AnswerNever,
            Fault::AnswerLate,
            Fault::AnswerFirst,
            Fault::AnswerDuplicate,
            Fault::AnswerForeignId,
            Fault::AnswerFailed,
            Fault::AnswerShort,
            Fault::Unsolicited,
        ]) {
            Some(Fault::AnswerNever) => AnswerFate::Never,
            Some(Fault::AnswerLate) => AnswerFate::Late { delay: self.answer_delay },
            Some(Fault::AnswerFirst) => AnswerFate::BeforeCompletion,
            Some(Fault::AnswerDuplicate) => AnswerFate::Duplicate,
            Some(Fault::AnswerForeignId) => {
                AnswerFate::ForeignId { request_id: self.rng.random_range(0x8000_0000..=u32::MAX) }
            }
            Some(Fault::AnswerFailed) => AnswerFate::Failed,
            Some(Fault::AnswerShort) if answer_len > 0 => {
                AnswerFate::Short { by: self.rng.random_range(1..=answer_len) }
            }
            Some(Fault::Unsolicited) => AnswerFate::Unsolicited,
            _ => AnswerFate::Now,
        }
    }

    #[cold]
    fn serve_queue(&mut self, subchannel: u16) -> Service {
        let silent =
            self.strikes_now(Fault::QueueSilent) || (subchannel > 0 && self.strikes_now(Fault::SubchannelSilent));
        if silent { Service::Silent } else { Service::Serve }
    }

    #[cold]
    fn nic_step(&mut self) -> Upset {
        match self.first_of(&[Fault::Rescind, Fault::RevokeReceiveBuffer, Fault::VfRemoved]) {
            Some(Fault::Rescind) => Upset::Rescind,
            Some(Fault::RevokeReceiveBuffer) => Upset::RevokeReceiveBuffer,
            Some(Fault::VfRemoved) => Upset::VfRemoved,
            _ => Upset::None,
        }
    }

    /// An id that no driver uses by chance: drivers count up from a small number or use addresses.
    fn foreign_id(&mut self) -> u64 {
        self.rng.random_range(1 << 63..=u64::MAX)
    }

    /// The first of `faults` that strikes; those behind it do not count the event.
    fn first_of(&mut self, faults: &[Fault]) -> Option<Fault> {
        faults.iter().copied().find(|&fault| self.strikes_now(fault))
    }

    /// Counts an event that `fault` could strike and says whether it does.
    fn strikes_now(&mut self, fault: Fault) -> bool {
        let Some(armed) = self.armed.iter_mut().find(|armed| armed.fault == fault) else {
            return false;
        };
        armed.events += 1;
        let strikes = match armed.when {
            When::Always => true,
            When::Once => armed.events == 1,
            When::Times { count } => armed.events <= count,
            When::After { spared } => armed.events == spared.saturating_add(1),
            When::Every { nth } => nth > 0 && armed.events % nth == 0,
            When::Chance(Chance(probability)) => self.rng.random_bool(probability),
        };
        armed.strikes += u64::from(strikes);
        strikes
    }
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::new(0)
    }
}

#[derive(Clone, Debug)]
struct Armed {
    fault: Fault,
    when: When,
    /// Events seen since it was armed.
    events: u64,
    strikes: u64,
}

/// The faults that [`FaultPlan::on_packet_to_guest`] turns into violations.
const VIOLATIONS: [Fault; 13] = [
    Fault::Violate,
    Fault::RangeOutOfBounds,
    Fault::RangesOverlap,
    Fault::RangeCount,
    Fault::UnknownTransferSet,
    Fault::MessageLength,
    Fault::DataOffset,
    Fault::InfoSizeZero,
    Fault::UnknownRndisType,
    Fault::UnknownNvspType,
    Fault::UnknownPacketType,
    Fault::Garbage,
    Fault::EditAfterDelivery,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(fault: Fault, when: When) -> FaultPlan {
        let mut plan = FaultPlan::new(7);
        plan.arm(fault, when);
        plan
    }

    fn drops(when: When) -> Vec<usize> {
        let mut plan = plan(Fault::Drop, when);
        (0..10).filter(|_| plan.on_deliver_to_guest(60) == Delivery::Drop).collect()
    }

    #[test]
    fn nothing_happens_by_default() {
        let mut plan = FaultPlan::default();
        assert_eq!(plan.on_deliver_to_guest(60), Delivery::default());
        assert_eq!(plan.on_packet_to_guest(1), PacketFate::default());
        assert_eq!(plan.on_completion(), CompletionFate::default());
        assert_eq!(plan.on_no_completion(1), None);
        assert_eq!(plan.on_interrupt(), InterruptFate::default());
        assert!(!plan.on_no_interrupt());
        assert_eq!(plan.on_control_answer(24), AnswerFate::default());
        assert_eq!(plan.on_serve_queue(0), Service::default());
        assert!(!plan.on_completion_while_receives_held());
        assert_eq!(plan.on_pending_send_size(16), 16);
        assert!(!plan.on_open_masked());
        assert_eq!(plan.on_link_up(), LinkFate::default());
        assert_eq!(plan.on_nic_step(), Upset::default());
    }

    #[test]
    fn each_when_strikes_at_its_events() {
        assert_eq!(drops(When::Always), (0..10).collect::<Vec<_>>());
        assert_eq!(drops(When::Once), [0]);
        assert_eq!(drops(When::Times { count: 2 }), [0, 1]);
        assert_eq!(drops(When::After { spared: 4 }), [4]);
        assert_eq!(drops(When::Every { nth: 4 }), [3, 7]);
        assert_eq!(drops(When::Every { nth: 0 }), [0_usize; 0]);
        assert_eq!(drops(When::chance(0.0).unwrap()), [0_usize; 0]);
        assert_eq!(drops(When::chance(1.0).unwrap()).len(), 10);
    }

    #[test]
    fn chance_must_be_a_probability() {
        for probability in [-0.1, 1.1, f64::INFINITY] {
            assert_eq!(When::chance(probability), Err(InvalidChance { probability }));
        }
        assert!(When::chance(f64::NAN).is_err());
    }

    #[test]
    fn the_seed_repeats_the_run() {
        let run = |seed| {
            let mut plan = FaultPlan::new(seed);
            plan.arm(Fault::Corrupt, When::chance(0.5).unwrap());
            plan.arm(Fault::Violate, When::chance(0.5).unwrap());
            (0..64).map(|_| (plan.on_deliver_to_guest(1500), plan.on_packet_to_guest(3))).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn corruption_changes_a_byte_of_the_frame() {
        let mut plan = plan(Fault::Corrupt, When::Always);
        for len in 1..200 {
            let Delivery::Corrupt { offset, xor } = plan.on_deliver_to_guest(len) else { panic!("not corrupted") };
            assert!(offset < len && xor != 0, "byte {offset} of {len}, xor {xor}");
        }
        assert_eq!(plan.on_deliver_to_guest(0), Delivery::Pass);
    }

    #[test]
    fn every_fault_reaches_its_hook() {
        for &fault in Fault::ALL {
            let mut plan = plan(fault, When::Always);
            let usual = [
                plan.on_deliver_to_guest(60) == Delivery::Pass,
                plan.on_packet_to_guest(3) == PacketFate::Pass,
                !plan.on_checksum_to_complete(),
                !plan.on_verdict(),
                plan.on_coalesced() == CoalescedFate::Whole,
                plan.on_completion() == CompletionFate::Now,
                plan.on_no_completion(9).is_none(),
                plan.on_interrupt() == InterruptFate::Now,
                !plan.on_no_interrupt(),
                plan.on_control_answer(24) == AnswerFate::Now,
                plan.on_serve_queue(1) == Service::Serve,
                !plan.on_completion_while_receives_held(),
                plan.on_pending_send_size(16) == 16,
                !plan.on_open_masked(),
                plan.on_link_up() == LinkFate::Steady,
                plan.on_nic_step() == Upset::None,
            ];
            assert_eq!(usual.iter().filter(|usual| !**usual).count(), 1, "{fault}: exactly one hook must answer");
            assert_eq!(plan.strikes(fault), 1, "{fault}");
        }
    }

    #[test]
    fn violate_tries_every_violation() {
        let mut plan = plan(Fault::Violate, When::Always);
        let mut kinds = std::collections::HashSet::new();
        for _ in 0..1000 {
            let PacketFate::Violate(violation) = plan.on_packet_to_guest(3) else { panic!("not violated") };
            kinds.insert(core::mem::discriminant(&violation));
        }
        assert_eq!(kinds.len(), VIOLATIONS.len() - 1);
    }

    #[test]
    fn only_subchannels_fall_silent_alone() {
        let mut plan = plan(Fault::SubchannelSilent, When::Always);
        assert_eq!(plan.on_serve_queue(0), Service::Serve);
        assert_eq!(plan.on_serve_queue(2), Service::Silent);
    }

    #[test]
    fn a_disarmed_fault_keeps_its_strikes() {
        let mut plan = plan(Fault::Leak, When::Always);
        assert_eq!(plan.on_completion(), CompletionFate::Never);
        plan.disarm(Fault::Leak);
        assert_eq!(plan.on_completion(), CompletionFate::Now);
        assert_eq!(plan.strikes(Fault::Leak), 1);
        plan.arm(Fault::Leak, When::Once);
        assert_eq!((plan.on_completion(), plan.strikes(Fault::Leak)), (CompletionFate::Never, 2));
        plan.clear();
        assert!(plan.is_empty());
    }
}
