//! Undoing what exists: the same way after a failure, on request, and when the host takes the device away.
//!
//! | step | when | waits for |
//! |---|---|---|
//! | queues paused, packet filter 0 | up, and closed as wished | the answer |
//! | RNDIS HALT | INITIALIZE was sent | its completion; the host does not answer |
//! | drain | there is a queue | sends completed, receives acknowledged; for held frames alone, a second |
//! | revoke receive, then send buffer | the host was told of it | nothing: no answer follows |
//! | detach | there is a queue | the queue |
//! | close (subchannels first), GPADL teardown | | GPADLs torn down |
//!
//! Hosts older than VMBus 4.0 want the GPADLs torn down before the close
//! ([`GpadlTeardown::BeforeClose`](crate::config::GpadlTeardown)). The memory of direct sends has no GPADL: a host that has not
//! completed all of them may read it until the channel is closed, so that it is given back after that. A step that takes too long is skipped, and what it would
//! have cleaned up stands in the [`CloseReport`]; all up to "revoke" together have one deadline. After a rescind there is no host to talk to: it begins with "detach".
//!
//! Source: Linux `netvsc.c` (`netvsc_device_remove`), `rndis_filter.c` (`rndis_filter_halt_device`).

use nvsp::{BufferId, RevokeReceiveBuffer, RevokeSendBuffer};
use rndis::control::Halt;
use rndis::value::PacketFilter;
use vmbus::bus::Purpose;
use vmbus::gpadl::GpadlId;

use alloc::vec;
use core::time::Duration;

use crate::config::GpadlTeardown;
use crate::queue::{HeldReceives, QueueError};
use crate::time::Instant;

use super::Control;
use super::event::{CloseReport, Event};
use super::failure::{Cause, RequestError, Step};
use super::io::Action;
use super::requests::Origin;
use super::setup;
use super::state::{Closing, Phase, State, Why};

/// How long the application may hold received frames once nothing else is waited for.
const HELD_LIMIT: Duration = Duration::from_secs(1);

impl Control {
    /// A step failed: undoes everything.
    pub(super) fn fail(&mut self, now: Instant, step: Step, cause: Cause) {
        if !matches!(self.state, State::Closing(_) | State::Over) {
            self.leave(Why::Failed { step, cause });
            self.halt(now);
        }
    }

    pub(super) fn close_as_wished(&mut self, now: Instant) {
        if matches!(self.state, State::Closing(_) | State::Over) {
            return self.close_instead(Why::Wished);
        }
        let was_up = self.info().is_some();
        self.leave(Why::Wished);
        if was_up {
            // Or busy senders would be drained for ever.
            self.actions.push_back(Action::Pause);
            self.phase(now, Phase::Silencing);
            // The request has that deadline itself.
            self.deadline = None;
            self.requests.push(Origin::Close, setup::filter(PacketFilter::CLOSED));
        } else {
            self.halt(now);
        }
    }

    /// The host took the device away: nothing can be said to it any more.
    pub(super) fn rescinded(&mut self, now: Instant) {
        self.close_instead(Why::Rescinded);
        let detaching = match &self.state {
            State::Over => return,
            State::Closing(closing) => matches!(closing.phase, Phase::Detaching | Phase::Releasing),
            _ => {
                self.leave(Why::Rescinded);
                false
            }
        };
        self.cancel_requests();
        // What would be said to the host is not said any more; what is given back is.
        self.actions.retain(|action| {
            matches!(
                action,
                Action::Detach | Action::Release(_) | Action::CloseSubchannel { .. } | Action::Close | Action::Vf(_)
            )
        });
        if let State::Closing(closing) = &mut self.state {
            closing.report.host_gone = true;
            if matches!(closing.phase, Phase::Releasing) {
                return self.finish(now);
            }
        }
        if !detaching {
            self.detach(now);
        }
    }

    /// The rings are unusable: nothing can be said or heard, but the host is there, and lets go of the buffers.
    pub(super) fn queue_failed(&mut self, now: Instant, error: QueueError) {
        match &self.state {
            State::Over => return,
            State::Closing(closing) if matches!(closing.phase, Phase::Detaching | Phase::Releasing) => return,
            State::Closing(_) => self.cancel_requests(),
            _ => self.leave(Why::Failed { step: self.step(), cause: Cause::Queue(error) }),
        }
        self.actions.retain(|action| {
            matches!(action, Action::Release(_) | Action::CloseSubchannel { .. } | Action::Close | Action::Vf(_))
        });
        self.holdings.queue = true;
        self.detach(now);
    }

    /// Ends all that was going on.
    pub(super) fn leave(&mut self, why: Why) {
        self.cancel_requests();
        self.deadline = None;
        self.close_after_vf = None;
        self.vf_abort(matches!(why, Why::Rescinded));
        self.state =
            State::Closing(Closing { why, phase: Phase::Silencing, until: None, report: CloseReport::default() });
    }

    fn cancel_requests(&mut self) {
        let change = self.change.take().and_then(|change| change.request);
        let offloads = self.offload_change.take().and_then(|change| change.request);
        for request in self.requests.cancel_all().into_iter().chain(change).chain(offloads) {
            self.events.push_back(Event::Answered { request, result: Err(RequestError::Closed) });
        }
    }

    fn phase(&mut self, now: Instant, phase: Phase) {
        if let State::Closing(closing) = &mut self.state {
            let deadline = now + self.config.close_deadline;
            self.deadline = Some(match phase {
                // Whoever does not answer the filter may still complete what it was sent.
                Phase::Halting { .. } | Phase::Draining => *closing.until.get_or_insert(deadline),
                Phase::Silencing | Phase::Detaching | Phase::Releasing => deadline,
            });
            closing.phase = phase;
        }
        self.nothing_held();
    }

    /// The packet filter is 0, or cannot be set.
    pub(super) fn silenced(&mut self, now: Instant) {
        if matches!(self.state, State::Closing(Closing { phase: Phase::Silencing, .. })) {
            self.halt(now);
        }
    }

    pub(super) fn halt(&mut self, now: Instant) {
        if !self.holdings.rndis {
            return self.drain(now);
        }
        self.holdings.rndis = false;
        let token = self.next_token();
        let halt = Halt { request_id: self.requests.next_id() };
        let mut message = vec![0; Halt::LEN];
        if halt.emit(&mut message).is_err() {
            // Cannot be: the buffer has the message's length. The host manages without.
            return self.drain(now);
        }
        self.actions.push_back(Action::SendRndis { message, token });
        self.phase(now, Phase::Halting { token });
    }

    /// Waits until nothing is on its way.
    pub(super) fn drain(&mut self, now: Instant) {
        if self.holdings.queue {
            self.phase(now, Phase::Draining);
        } else {
            self.detach(now);
        }
    }

    pub(super) fn outstanding(&mut self, now: Instant, sends: usize, receives: usize, held: HeldReceives) {
        if !self.is_draining() {
            return;
        }
        self.still_outstanding(sends, receives.saturating_sub(held.packets));
        if sends > 0 || receives > held.packets {
            return self.nothing_held();
        }
        if held.packets > 0 {
            self.held = held;
            // It may be held by the very task that waits for this.
            self.held_until.get_or_insert(now + HELD_LIMIT);
            return;
        }
        self.nothing_held();
        if self.is_quiescing() {
            // The host must not be left sending to the virtual function.
            if self.vf_is_stopped() {
                self.take_down(now);
            }
        } else {
            self.revoke(now);
        }
    }

    /// Held frames are not what is waited for.
    pub(super) fn nothing_held(&mut self) {
        self.held = HeldReceives::default();
        self.held_until = None;
    }

    fn revoke(&mut self, now: Instant) {
        if self.holdings.receive.shared {
            self.holdings.receive.shared = false;
            self.send_nvsp(RevokeReceiveBuffer { id: BufferId::RECEIVE }.to_array(), None);
        }
        if self.holdings.send.shared {
            self.holdings.send.shared = false;
            self.send_nvsp(RevokeSendBuffer { id: BufferId::SEND_LINUX }.to_array(), None);
        }
        self.detach(now);
    }

    fn detach(&mut self, now: Instant) {
        if self.holdings.queue {
            self.holdings.queue = false;
            self.actions.push_back(Action::Detach);
            self.phase(now, Phase::Detaching);
        } else {
            self.release(now);
        }
    }

    pub(super) fn detached(&mut self, now: Instant, sends: usize, receives: usize) {
        if let State::Closing(Closing { phase: Phase::Detaching, report, .. }) = &mut self.state {
            report.outstanding_sends = sends;
            report.unreturned_sections = receives;
            self.release(now);
        }
    }

    fn release(&mut self, now: Instant) {
        if self.config.gpadl_teardown == GpadlTeardown::AfterClose {
            self.close_channel();
        }
        for (purpose, held) in
            [(Purpose::Receive, &mut self.holdings.receive.memory), (Purpose::Send, &mut self.holdings.send.memory)]
        {
            if core::mem::take(held) {
                self.actions.push_back(Action::Release(purpose));
            }
        }
        if self.config.gpadl_teardown == GpadlTeardown::AfterClose {
            self.release_direct();
        }
        self.phase(now, Phase::Releasing);
        let host_gone = matches!(&self.state, State::Closing(closing) if closing.report.host_gone);
        if host_gone || self.gpadls_held() == 0 {
            self.finish(now);
        }
    }

    fn gpadls_held(&self) -> usize {
        usize::from(self.holdings.receive.gpadl.is_some()) + usize::from(self.holdings.send.gpadl.is_some())
    }

    /// The host let go of a buffer.
    pub(super) fn gpadl_torn_down(&mut self, now: Instant, gpadl: GpadlId) {
        for held in [&mut self.holdings.receive.gpadl, &mut self.holdings.send.gpadl] {
            held.take_if(|held| *held == gpadl);
        }
        let releasing = matches!(self.state, State::Closing(Closing { phase: Phase::Releasing, .. }));
        if releasing && self.gpadls_held() == 0 {
            self.finish(now);
        }
    }

    pub(super) fn phase_timed_out(&mut self, now: Instant) {
        let State::Closing(closing) = &self.state else { return };
        match closing.phase {
            // The request has its own deadline.
            Phase::Silencing => {}
            Phase::Halting { .. } => self.drain(now),
            Phase::Draining => self.revoke(now),
            Phase::Detaching => self.release(now),
            Phase::Releasing => self.finish(now),
        }
    }

    /// Subchannels first: the host does not let go of the primary channel before them.
    fn close_channel(&mut self) {
        self.close_subchannels();
        if core::mem::take(&mut self.holdings.channel) {
            self.actions.push_back(Action::Close);
        }
    }

    /// Nobody reads it any more: the channel is closed.
    fn release_direct(&mut self) {
        if core::mem::take(&mut self.holdings.direct) {
            self.actions.push_back(Action::Release(Purpose::Direct));
        }
    }

    /// Nothing is left to be done: the last event, unless the device comes up again.
    fn finish(&mut self, now: Instant) {
        self.close_channel();
        self.release_direct();
        self.deadline = None;
        let unreleased = self.gpadls_held();
        if let State::Closing(Closing { why, mut report, .. }) = core::mem::replace(&mut self.state, State::Over) {
            // A host that is gone holds nothing.
            report.unreleased_buffers = if report.host_gone { 0 } else { unreleased };
            if self.comes_up_again(now, why, report) {
                return;
            }
            self.events.push_back(match why {
                Why::Wished | Why::Reconfigured => Event::Closed(report),
                Why::Failed { step, cause } => Event::Failed { step, cause, report },
                Why::Rescinded => Event::Gone(report),
            });
        }
    }
}
