//! More queues than one: subchannels are asked for, offered, opened, and given their share of the buffers.
//!
//! ```text
//!  capabilities ─► SUBCHANNEL request ─► answer, offers (in any order) ─► all open ─► scaling off, scaling on ─► filter
//!                         │                          │                        │
//!                         └── refused, too many, silent, rescinded: one queue ┴─► filter
//! ```
//!
//! It comes before the packet filter, so that no frame arrives while queues come and go. Whatever fails leaves a device with
//! one queue and a [`Warning`]: what was opened is closed, and the primary channel gets all send sections.
//!
//! Source: Linux `drivers/net/hyperv/rndis_filter.c` (`rndis_filter_device_add`, `rndis_set_subchannel`,
//! `netvsc_sc_open`), which waits for its subchannels without a deadline.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use nvsp::{SubchannelComplete, SubchannelRequest, Version};
use rndis::rss::{HashInfo, RssCapabilities};

use crate::config::{Config, MAX_QUEUES, Warning};
use crate::info::Sections;
use crate::queue::{ControlToken, QueueError};
use crate::rss;
use crate::time::Instant;

use super::Control;
use super::event::Event;
use super::failure::{Cause, Violation};
use super::io::{Action, QueueParts};
use super::setup::Setup;
use super::state::State;

/// Send sections of the primary channel at least: one for control messages, one for frames.
const PRIMARY_SECTIONS: u32 = 2;

/// Queues by index, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct QueueSet(u64);

impl QueueSet {
    /// Queue 0 alone.
    pub(super) const PRIMARY: Self = Self(1);

    const fn bit(queue: u16) -> u64 {
        if queue < MAX_QUEUES { 1 << queue } else { 0 }
    }

    pub(super) const fn contains(self, queue: u16) -> bool {
        self.0 & Self::bit(queue) != 0
    }

    /// Whether it was not in there.
    pub(super) fn insert(&mut self, queue: u16) -> bool {
        let new = !self.contains(queue);
        self.0 |= Self::bit(queue);
        new
    }

    /// Whether it was in there.
    pub(super) fn remove(&mut self, queue: u16) -> bool {
        let known = self.contains(queue);
        self.0 &= !Self::bit(queue);
        known
    }

    /// At most 64.
    pub(super) const fn len(self) -> u16 {
        self.0.count_ones() as u16
    }

    /// In order.
    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = u16> {
        (0..MAX_QUEUES).filter(move |queue| self.contains(*queue))
    }
}

/// Subchannels are on their way.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) setup: Box<Setup>,
    offered: QueueSet,
    open: QueueSet,
    wait: Wait,
}

/// For what.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// The answer to the request. Offers travel another way and may be here first.
    Answer {
        token: ControlToken,
        /// Subchannels asked for.
        wished: u16,
    },
    /// Offers, and the channels to be open.
    Open {
        /// Subchannels granted.
        granted: u16,
    },
}

impl Growing {
    /// Whether `token` names the answer that is waited for.
    pub(super) fn awaits(&self, token: ControlToken) -> bool {
        matches!(self.wait, Wait::Answer { token: awaited, .. } if awaited == token)
    }
}

/// Queues that this host and these buffers can have.
fn possible_queues(setup: &Setup, config: &Config) -> u16 {
    let send = setup.buffers.send.filter(|_| !setup.buffers.direct);
    most_queues(setup.rss.as_ref(), setup.version, send).min(config.queues)
}

/// Most queues that a host can have, and a guest that sends from the sections of `send` alone, if that is given.
pub(super) fn most_queues(capabilities: Option<&RssCapabilities>, version: Version, send: Option<Sections>) -> u16 {
    let Some(capabilities) = capabilities.filter(|_| version >= Version::V5) else { return 1 };
    if rss::hash_types(capabilities).0 & HashInfo::LINUX.0 <= HashInfo::TOEPLITZ.0 {
        return 1;
    }
    let mut queues = u32::from(MAX_QUEUES);
    queues = queues.min(capabilities.receive_queues).min(rss::table_entries(capabilities) as u32);
    if let Some(send) = send {
        // Who can send by sections alone needs some.
        queues = queues.min(send.count / PRIMARY_SECTIONS);
    }
    // At most 64.
    queues.max(1) as u16
}

/// The send sections of `queue`, one of `queues`; may be none.
pub(super) fn share(count: u32, queue: u16, queues: u16) -> Range<u32> {
    let reserved = PRIMARY_SECTIONS.min(count);
    // At most `count`.
    let bound = |queue: u16| (u64::from(count) * u64::from(queue) / u64::from(queues.max(1))) as u32;
    let start = if queue == 0 { 0 } else { bound(queue).max(reserved) };
    start..bound(queue.saturating_add(1)).max(reserved).max(start)
}

impl Control {
    /// Subchannels that the host has been asked for, or has granted, and has not offered yet.
    pub(crate) fn awaited_subchannels(&self) -> u16 {
        let State::Growing(Growing { offered, wait, .. }) = &self.state else { return 0 };
        let asked = match wait {
            Wait::Answer { wished, .. } => *wished,
            Wait::Open { granted } => *granted,
        };
        asked.saturating_sub(offered.len())
    }

    /// Send sections that the primary channel has until it is known how many queues there are.
    pub(super) fn first_share(&self, count: u32) -> u32 {
        let several = self.version.is_some_and(|version| version >= Version::V5);
        share(count, 0, if several { self.config.queues } else { 1 }).end
    }

    /// The capabilities are known: asks for as many subchannels as there can be.
    pub(super) fn ask_for_subchannels(&mut self, now: Instant) {
        let State::Configuring(setup) = &self.state else { return };
        let queues = possible_queues(setup, &self.config);
        if queues == 1 {
            self.few_queues(1);
            self.queues_settled(1);
            return self.next_question(now);
        }
        let State::Configuring(setup) = core::mem::replace(&mut self.state, State::Over) else { return };
        let wished = queues - 1;
        let token = self.next_token();
        self.send_nvsp(SubchannelRequest::allocate(wished.into()).to_array(), Some(token));
        let (offered, open) = (QueueSet::default(), QueueSet::default());
        self.enter(now, State::Growing(Growing { setup, offered, open, wait: Wait::Answer { token, wished } }));
    }

    /// The host granted subchannels, or not.
    pub(super) fn subchannels_answered(&mut self, now: Instant, payload: &[u8]) {
        let State::Growing(growing) = &mut self.state else { return };
        let Wait::Answer { wished, .. } = growing.wait else { return };
        let granted = match SubchannelComplete::parse(payload) {
            Ok(complete) if !complete.status.is_success() => Err(Cause::Refused { status: complete.status }),
            Ok(complete) => match u16::try_from(complete.count) {
                Ok(granted) if granted <= wished => Ok(granted),
                _ => Err(Cause::Violation(Violation::BadValue {
                    field: "subchannels granted",
                    value: complete.count.into(),
                    limit: wished.into(),
                })),
            },
            Err(error) => Err(Cause::Violation(error.into())),
        };
        match granted {
            Err(cause) => self.one_queue(now, cause),
            Ok(0) => {
                self.few_queues(1);
                self.back_to_setup(1);
                self.next_question(now);
            }
            Ok(granted) => {
                growing.wait = Wait::Open { granted };
                let offered = growing.offered;
                // One deadline for the offers and all that follows.
                self.deadline = Some(now + self.config.step_deadline);
                for queue in offered.iter() {
                    self.open_subchannel(queue, granted);
                }
            }
        }
    }

    /// The host offers a subchannel.
    pub(super) fn subchannel_offered(&mut self, queue: u16) {
        let State::Growing(growing) = &mut self.state else {
            // One that was given up waiting for.
            self.counters.ignored_messages += 1;
            return;
        };
        if queue == 0 || queue >= MAX_QUEUES || !growing.offered.insert(queue) {
            let limit = MAX_QUEUES - 1;
            return self.violation(bad_index(queue, limit));
        }
        if let Wait::Open { granted } = growing.wait {
            self.open_subchannel(queue, granted);
        }
    }

    fn open_subchannel(&mut self, queue: u16, granted: u16) {
        if queue > granted {
            return self.violation(bad_index(queue, granted));
        }
        self.holdings.subchannels.insert(queue);
        self.actions.push_back(Action::OpenSubchannel { queue, rings: self.config.rings });
    }

    /// A subchannel is open.
    pub(super) fn subchannel_opened(&mut self, now: Instant, queue: u16) {
        if !self.holdings.subchannels.contains(queue) {
            return;
        }
        let State::Growing(growing) = &mut self.state else { return };
        let Wait::Open { granted } = growing.wait else { return };
        if !growing.open.insert(queue) {
            return;
        }
        let (buffers, limits) = (growing.setup.buffers, growing.setup.limits);
        let all_open = growing.open.len() == granted;
        let parts = QueueParts {
            queue,
            receive: buffers.receive,
            most_waiting: self.most_waiting(granted + 1),
            most_held: self.most_held(granted + 1),
            send: buffers.send.map(|send| (send.section_bytes, share(send.count, queue, granted + 1))),
            direct_bytes: if buffers.direct { self.config.direct_bytes } else { 0 },
            limits,
        };
        self.actions.push_back(Action::AttachSubchannel(parts));
        if all_open {
            self.few_queues(granted + 1);
            self.back_to_setup(granted + 1);
            self.next_question(now);
        }
    }

    /// A subchannel did not open.
    pub(super) fn subchannel_not_opened(&mut self, now: Instant, queue: u16, status: u32) {
        if matches!(self.state, State::Growing(_)) && self.holdings.subchannels.contains(queue) {
            self.one_queue(now, Cause::RefusedByBus { status });
        }
    }

    /// A subchannel's queue cannot be used.
    pub(super) fn subchannel_failed(&mut self, now: Instant, queue: u16, error: QueueError) {
        self.subchannel_gone(now, queue, Cause::Subchannel { queue, error });
    }

    /// The host took a subchannel back.
    pub(super) fn subchannel_rescinded(&mut self, now: Instant, queue: u16) {
        self.subchannel_gone(now, queue, Cause::SubchannelRescinded { queue });
    }

    fn subchannel_gone(&mut self, now: Instant, queue: u16, cause: Cause) {
        if queue == 0 {
            return;
        }
        match &mut self.state {
            State::Growing(growing) if growing.offered.contains(queue) => return self.one_queue(now, cause),
            State::Configuring(_) if self.live.remove(queue) => self.few_queues(self.live.len()),
            State::Ready(info) if self.live.contains(queue) => {
                self.live.remove(queue);
                info.queues = self.live.len();
                self.events.push_back(Event::QueueGone { queue });
                self.send_table_changed();
            }
            _ => {}
        }
        if self.holdings.subchannels.remove(queue) {
            self.actions.push_back(Action::CloseSubchannel { queue });
        }
    }

    /// It does not work with several queues: goes on with one.
    pub(super) fn one_queue(&mut self, now: Instant, cause: Cause) {
        let (step, requested) = (self.step(), self.config.queues);
        self.live = QueueSet::PRIMARY;
        if self.lacks_queues() {
            return self.fail(now, step, cause);
        }
        self.close_subchannels();
        self.warn(Warning::OneQueue { requested, step, cause });
        self.back_to_setup(1);
        self.next_question(now);
    }

    /// Closes all subchannels, the last first.
    pub(super) fn close_subchannels(&mut self) {
        for queue in core::mem::take(&mut self.holdings.subchannels).iter().rev() {
            self.actions.push_back(Action::CloseSubchannel { queue });
        }
    }

    /// The requests go on, for so many queues.
    fn back_to_setup(&mut self, queues: u16) {
        if let State::Growing(_) = self.state
            && let State::Growing(growing) = core::mem::replace(&mut self.state, State::Over)
        {
            self.state = State::Configuring(growing.setup);
            self.deadline = None;
        }
        self.queues_settled(queues);
    }

    /// It is known how many queues there are: the primary channel gets what is left for it.
    fn queues_settled(&mut self, queues: u16) {
        let State::Configuring(setup) = &self.state else { return };
        self.live = (0..queues).fold(QueueSet::default(), |mut live, queue| {
            live.insert(queue);
            live
        });
        let scaling = match (&setup.rss, queues) {
            (Some(capabilities), 2..) => {
                let live: Vec<u16> = self.live.iter().collect();
                Some(self.scaling_for(capabilities, &live))
            }
            _ => None,
        };
        let State::Configuring(setup) = &mut self.state else { return };
        setup.scaling = scaling;
        if let Some(send) = setup.buffers.send {
            let sections = share(send.count, 0, queues).end;
            if sections > setup.buffers.primary_sections {
                setup.buffers.primary_sections = sections;
                self.actions.push_back(Action::GrowSend { sections });
            }
        }
        if self.receive_limit.is_some() && queues > 1 || queues < self.config.queues {
            let (most_waiting, most_held) = (self.most_waiting(queues), self.most_held(queues));
            self.actions.push_back(Action::ShareReceive { most_waiting, most_held });
        }
    }

    fn few_queues(&mut self, effective: u16) {
        let requested = self.config.queues;
        if effective < requested {
            self.warn(Warning::FewQueues { requested, effective });
        }
    }
}

fn bad_index(queue: u16, limit: u16) -> Violation {
    Violation::BadValue { field: "subchannel index", value: queue.into(), limit: limit.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_buffer_once() {
        for count in [1, 2, 3, 10, 64, 170, 2560] {
            for queues in [1, 2, 3, 8, 63, 64] {
                let mut end = 0;
                for queue in 0..queues {
                    let share = share(count, queue, queues);
                    assert!(share.start == end || share.is_empty(), "{count} {queues} {queue} {share:?}");
                    end = end.max(share.end);
                }
                assert_eq!(end, count, "{queues}");
                assert!(share(count, 0, queues).end >= 2.min(count));
            }
        }
        assert_eq!([0, 1, 2, 3].map(|queue| share(170, queue, 4)), [0..42, 42..85, 85..127, 127..170]);
    }

    #[test]
    fn a_set_has_64_places() {
        let mut set = QueueSet::PRIMARY;
        assert!(set.insert(63) && !set.insert(63) && set.contains(63));
        set.insert(64);
        assert!(!set.contains(64) && set.len() == 2 && set.iter().eq([0, 63]));
        assert!(set.remove(0) && !set.remove(0) && set.len() == 1);
    }
}
