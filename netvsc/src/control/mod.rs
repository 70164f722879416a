//! The control side of the device as a machine without I/O: bring-up, requests, notices, teardown.
//!
//! [`Control`] holds no channel and no memory. What happened goes in by [`handle`](Control::handle), what is to be done
//! comes out of [`poll_action`](Control::poll_action), what the user should know out of
//! [`poll_event`](Control::poll_event); time is an argument. [`Nic`](crate::Nic) is the loop around it.
//!
//! | module | is about |
//! |---|---|
//! | `connect` | from the offer to both buffers: VMBus and NVSP |
//! | `setup` | the RNDIS requests of the bring-up |
//! | `subchannels` | from one queue to several |
//! | `scaling` | how the host spreads frames over them, changed at run time |
//! | `offloads` | what the host does to frames, changed at run time |
//! | `requests` | RNDIS requests: ids, deadlines, late answers |
//! | `notice` | what the host says by itself, in any state |
//! | `vf` | the virtual function's machine, and who waits for it |
//! | `link` | link state: who is believed, how often it is told |
//! | `reconfigure` | taking the device down and up again, to change it |
//! | `teardown` | undoing all of it, after a failure or on request |
//!
//! Nothing the host says makes it panic, loop, or keep more than a bounded amount of it: notices that nobody fetches are
//! dropped and counted once there are [`MAX_EVENTS`].
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_device_add`, `netvsc_device_remove`) and `rndis_filter.c`
//! (`rndis_filter_device_add`). Unlike Linux every step has a deadline.

mod connect;
mod event;
mod failure;
mod io;
mod link;
mod notice;
mod offloads;
mod reconfigure;
mod requests;
mod scaling;
mod setup;
mod state;
mod subchannels;
mod teardown;
mod vf;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvsp::Version;
use rndis::Oid;
use rndis::offload::Offload;
use rndis::value::PacketFilter;

use crate::config::{Config, ConfigError, Warning};
use crate::info::{DeviceInfo, LinkSpeed, Sections, VirtualFunction};
use crate::queue::{ControlToken, HeldReceives, QueueSettings};
use crate::rss::RssError;
use crate::steering;
use crate::time::Instant;

pub use event::{CloseReport, Counters, Event, RequestHandle};
pub use failure::{Cause, FewSections, RequestError, Step, Violation};
pub use io::{Action, Input, QueueParts};
pub use reconfigure::{Limits, Parameters, ReconfigureError};

use failure::Cause::TimedOut;
use link::{Link, LinkChange};
use offloads::OffloadChange;
use reconfigure::Reconfiguration;
use requests::{Answer, Ask, Done, MAX_WAITING, Origin, Requests};
use scaling::Change;
use state::{Closing, Holdings, Phase, State};
use subchannels::QueueSet;
use vf::VfControl;

/// Events that wait to be fetched before notices are dropped. What must not be lost (the end of the device, answers to
/// requests) is kept regardless.
pub const MAX_EVENTS: usize = 256;

/// A request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAccepted {
    /// The device is not up, or not any more.
    NotReady,
    /// As many wait as may.
    TooMany {
        /// How many.
        limit: usize,
    },
    /// These settings cannot be.
    Rss(RssError),
    /// These parameters cannot be.
    Config(ConfigError),
    /// The device is being changed.
    Busy,
}

/// The control machine of one device.
#[derive(Debug)]
pub struct Control {
    config: Config,
    state: State,
    /// For what is not an RNDIS request: those have their own.
    deadline: Option<Instant>,
    holdings: Holdings,
    /// Once negotiated.
    version: Option<Version>,
    requests: Requests,
    link: Link,
    link_speed: Option<LinkSpeed>,
    /// Receive sections that may wait, where the backend's buffer is larger than was wished.
    receive_limit: Option<u32>,
    /// Receive sections that all queues together may hold.
    rx_watermark: u32,
    /// What the application holds, by the queues' last word, while nothing else is waited for.
    held: HeldReceives,
    /// How long that may go on.
    held_until: Option<Instant>,
    virtual_function: Option<VirtualFunction>,
    /// The host's, as it sent it.
    send_table: Option<[u32; nvsp::SEND_TABLE_LEN]>,
    /// Queues that work.
    live: QueueSet,
    change: Option<Change>,
    offload_change: Option<OffloadChange>,
    /// What the host last said is in force.
    offload_current: Option<Box<Offload>>,
    /// The same, said while a change is on its way.
    offload_indicated: Option<Box<Offload>>,
    /// The user chose the scaling that is in force.
    scaling_by_user: bool,
    reconfiguration: Option<Box<Reconfiguration>>,
    vf: Option<VfControl>,
    /// The device is closed once the virtual function is not used any more, or then.
    close_after_vf: Option<Instant>,
    /// The queues when the table was last rebuilt for them, successfully or not.
    rebuilt_for: QueueSet,
    last_token: u32,
    last_handle: u32,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Control {
    /// A machine that waits for the offer of the primary channel.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            config,
            state: State::Offered,
            deadline: Some(now + config.step_deadline),
            holdings: Holdings::default(),
            version: None,
            requests: Requests::new(),
            link: Link::new(config.link_pace),
            link_speed: None,
            receive_limit: None,
            rx_watermark: 0,
            held: HeldReceives::default(),
            held_until: None,
            virtual_function: None,
            send_table: None,
            live: QueueSet::PRIMARY,
            change: None,
            offload_change: None,
            offload_current: None,
            offload_indicated: None,
            scaling_by_user: false,
            reconfiguration: None,
            vf: None,
            close_after_vf: None,
            rebuilt_for: QueueSet::default(),
            last_token: 0,
            last_handle: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Takes in something that happened.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Offered => self.offered(now),
            Input::Opened => self.opened(now),
            Input::OpenFailed { status } => self.open_failed(now, status),
            Input::SubchannelOffered { queue } => self.subchannel_offered(queue),
            Input::SubchannelOpened { queue } => self.subchannel_opened(now, queue),
            Input::SubchannelNotOpened { queue, status } => self.subchannel_not_opened(now, queue, status),
            Input::SubchannelRescinded { queue } => self.subchannel_rescinded(now, queue),
            Input::SubchannelFailed { queue, error } => self.subchannel_failed(now, queue, error),
            Input::Allocated { purpose, bytes, gpadl } => self.allocated(now, purpose, bytes, gpadl),
            Input::NotAllocated { purpose } => self.not_allocated(now, purpose),
            Input::GpadlCreated(gpadl) => self.gpadl_created(now, gpadl),
            Input::GpadlFailed { gpadl, status } => self.gpadl_failed(now, gpadl, status),
            Input::GpadlTornDown(gpadl) => self.gpadl_torn_down(now, gpadl),
            Input::Rescinded => self.rescinded(now),
            Input::QueueFailed(error) => self.queue_failed(now, error),
            Input::Completed { token, payload } => self.completed(now, token, payload),
            Input::Nvsp { payload } => self.nvsp_notice(now, payload),
            Input::Rndis { payload } => self.rndis_message(now, payload),
            Input::NotSent { token, kind } => self.not_sent(now, token, kind),
            Input::Outstanding { sends, receives, held } => self.outstanding(now, sends, receives, held),
            Input::Detached { sends, receives } => self.detached(now, sends, receives),
        }
        self.go_on(now);
    }

    /// What to do next; poll until `None` after each [`handle`](Self::handle), [`handle_timeout`](Self::handle_timeout)
    /// and request.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What to tell the user; poll after the same calls.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called if nothing else happens; poll after the same calls.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let link = if self.info().is_some() { self.link.poll_timeout() } else { None };
        let deadlines = [self.deadline, self.held_until, self.requests.deadline(), self.close_after_vf];
        deadlines.into_iter().chain([link, self.vf_timeout()]).flatten().min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let error = RequestError::TimedOut { few_receive_sections: self.few_receive_sections() };
        if let Some(done) = self.requests.expire(now, error) {
            self.counters.timeouts += 1;
            self.request_done(now, done);
        }
        if [self.deadline, self.held_until].into_iter().flatten().any(|deadline| deadline <= now) {
            self.deadline = None;
            self.held_until = None;
            self.counters.timeouts += 1;
            self.step_timed_out(now);
        }
        self.vf_handle_timeout(now);
        if self.close_after_vf.take_if(|deadline| *deadline <= now).is_some() {
            self.counters.timeouts += 1;
            self.close_as_wished(now);
        }
        self.go_on(now);
    }

    /// The device, while it is up.
    pub fn info(&self) -> Option<&DeviceInfo> {
        if let State::Ready(info) = &self.state { Some(info) } else { None }
    }

    /// Settings of the device's queues.
    pub(crate) fn queue_settings(&self) -> QueueSettings {
        self.config.queue_settings()
    }

    /// The negotiated version.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// What was dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the last event was given: nothing follows, and nothing is held any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether [`poll_action`](Self::poll_action) has something.
    pub(crate) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Whether [`Input::Outstanding`] is wanted.
    pub fn is_draining(&self) -> bool {
        self.is_quiescing() || matches!(self.state, State::Closing(Closing { phase: Phase::Draining, .. }))
    }

    /// What the machine is doing, as failures name it.
    pub fn step(&self) -> Step {
        match &self.state {
            State::Offered => Step::WaitForOffer,
            State::Opening => Step::Open,
            State::Negotiating { .. } => Step::Negotiate,
            State::ReceiveGpadl { .. } => Step::AllocateReceiveBuffer,
            State::ReceiveBuffer { .. } => Step::ShareReceiveBuffer,
            State::SendGpadl { .. } | State::DirectMemory { .. } => Step::AllocateSendBuffer,
            State::SendBuffer { .. } => Step::ShareSendBuffer,
            State::Configuring(setup) => setup.step(),
            State::Growing(_) => Step::OpenSubchannels,
            State::Ready(_) => Step::Run,
            State::Closing(_) | State::Over => Step::Close,
        }
    }

    /// Closes the device, whatever it is doing; [`Event::Closed`] follows, or [`Event::Failed`] if it was failing.
    ///
    /// A virtual function is given up first, so that the host sends nothing to it afterwards.
    pub fn close(&mut self, now: Instant) {
        if self.info().is_some() && !self.is_reconfiguring() && self.vf.is_some() {
            self.close_after_vf.get_or_insert(now + self.config.close_deadline);
        } else {
            self.close_as_wished(now);
        }
        self.go_on(now);
    }

    /// Sets which frames the host delivers.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub fn set_packet_filter(&mut self, now: Instant, filter: PacketFilter) -> Result<RequestHandle, NotAccepted> {
        self.set(now, Oid::PACKET_FILTER, &filter.0.to_le_bytes())
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub fn query(&mut self, now: Instant, oid: Oid) -> Result<RequestHandle, NotAccepted> {
        self.request(now, Ask::Query(oid, Vec::new()))
    }

    /// Changes a value.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub fn set(&mut self, now: Instant, oid: Oid, value: &[u8]) -> Result<RequestHandle, NotAccepted> {
        self.request(now, Ask::Set(oid, value.to_vec()))
    }

    /// Gives up on a request: no [`Event::Answered`] comes. Its id stays reserved until the host answers or its deadline.
    pub fn abandon(&mut self, request: RequestHandle) {
        self.requests.abandon(request);
        if let Some(change) = &mut self.change {
            change.request.take_if(|waiting| *waiting == request);
        }
        if let Some(change) = &mut self.offload_change {
            change.request.take_if(|waiting| *waiting == request);
        }
        self.events.retain(|event| !matches!(event, Event::Answered { request: answered, .. } if *answered == request));
    }

    fn request(&mut self, now: Instant, ask: Ask) -> Result<RequestHandle, NotAccepted> {
        if self.reconfiguration.is_some() {
            return Err(NotAccepted::Busy);
        }
        if self.info().is_none() {
            return Err(NotAccepted::NotReady);
        }
        if self.requests.waiting() >= MAX_WAITING {
            return Err(NotAccepted::TooMany { limit: MAX_WAITING });
        }
        self.last_handle = self.last_handle.wrapping_add(1);
        let handle = RequestHandle(self.last_handle);
        self.requests.push(Origin::User(handle), ask);
        self.go_on(now);
        Ok(handle)
    }

    /// What may follow from any input: the next request, news of the link.
    fn go_on(&mut self, now: Instant) {
        self.vf_keep_up(now);
        self.rebuild_table();
        while self.requests.can_start() {
            let token = self.next_token();
            let limit = if matches!(self.state, State::Closing(_)) {
                self.config.close_deadline
            } else {
                self.config.step_deadline
            };
            match self.requests.start(token, now + limit) {
                Some(Ok(message)) => self.actions.push_back(Action::SendRndis { message, token }),
                Some(Err(done)) => self.request_done(now, done),
                None => break,
            }
        }
        self.tell_link(now);
    }

    fn tell_link(&mut self, now: Instant) {
        let State::Ready(info) = &mut self.state else { return };
        let Some(change) = self.link.poll(now) else { return };
        info.link = self.link.actual();
        self.notify(match change {
            LinkChange::Up => Event::LinkUp,
            LinkChange::Down => Event::LinkDown,
            LinkChange::Flapped => Event::NetworkChanged,
        });
    }

    /// A message was completed.
    fn completed(&mut self, now: Instant, token: ControlToken, payload: &[u8]) {
        if self.vf_switched(now, token, true) {
            return;
        }
        match self.state {
            State::Negotiating { token: awaited, candidate } if awaited == token => {
                self.version_answered(now, candidate, payload);
            }
            State::ReceiveBuffer { token: awaited, bytes } if awaited == token => {
                self.receive_buffer_answered(now, bytes, payload);
            }
            State::SendBuffer { receive, token: awaited, bytes } if awaited == token => {
                self.send_buffer_answered(now, receive, bytes, payload);
            }
            State::Growing(ref growing) if growing.awaits(token) => self.subchannels_answered(now, payload),
            State::Closing(Closing { phase: Phase::Halting { token: awaited }, .. }) if awaited == token => {
                self.drain(now);
            }
            // Also the completion of a request whose answer came first.
            _ => {
                if let Some(done) = self.requests.completed(token, payload) {
                    self.request_done(now, done);
                }
            }
        }
    }

    /// A message cannot be sent, ever: whoever waits for its answer must not.
    fn not_sent(&mut self, now: Instant, token: Option<ControlToken>, kind: vmbus::ErrorKind) {
        if token.is_some_and(|token| self.vf_switched(now, token, false)) {
            return;
        }
        if let Some(done) = token.and_then(|token| self.requests.not_sent(token, kind)) {
            return self.request_done(now, done);
        }
        match &self.state {
            State::Closing(Closing { phase: Phase::Halting { token: awaited }, .. }) => {
                if token == Some(*awaited) {
                    self.drain(now);
                }
            }
            State::Closing(_) | State::Over => {}
            State::Growing(growing) if token.is_some_and(|token| growing.awaits(token)) => {
                self.one_queue(now, Cause::CannotSend(kind));
            }
            _ => self.fail(now, self.step(), Cause::CannotSend(kind)),
        }
    }

    /// A request is over, one way or the other.
    fn request_done(&mut self, now: Instant, done: Done) {
        match done.origin {
            Origin::Setup => self.setup_answered(now, done.ask.step(), done.result),
            Origin::Close => self.silenced(now),
            Origin::Scaling => self.scaling_answered(done.result.map(drop)),
            Origin::Offloads => self.offloads_answered(done.result.map(drop)),
            Origin::Reconfigure => self.filter_answered(now, done.result.map(drop)),
            Origin::User(request) => self.user_answered(request, &done.ask, done.result),
            Origin::Abandoned => {}
        }
    }

    fn user_answered(&mut self, request: RequestHandle, ask: &Ask, result: Result<Answer, RequestError>) {
        if let (Ask::Set(Oid::PACKET_FILTER, value), Ok(_), State::Ready(info)) = (ask, &result, &mut self.state)
            && let Ok(filter) = PacketFilter::parse(value)
        {
            info.packet_filter = filter;
        }
        let result = result.map(|answer| match answer {
            Answer::Value(value) => value,
            Answer::Initialize(_) => Vec::new(),
        });
        self.events.push_back(Event::Answered { request, result });
    }

    fn step_timed_out(&mut self, now: Instant) {
        match self.state {
            State::Closing(_) => self.phase_timed_out(now),
            State::Ready(_) => self.not_quiet(),
            State::Over => {}
            State::Growing(_) => {
                let cause = TimedOut { few_receive_sections: self.few_receive_sections() };
                self.one_queue(now, cause);
            }
            _ => {
                let cause = TimedOut { few_receive_sections: self.few_receive_sections() };
                self.fail(now, self.step(), cause);
            }
        }
    }

    /// Set if there are so few receive sections that some hosts fall silent.
    fn few_receive_sections(&self) -> Option<FewSections> {
        let receive: Sections = match &self.state {
            State::SendGpadl { receive, .. }
            | State::SendBuffer { receive, .. }
            | State::DirectMemory { receive, .. } => *receive,
            State::Configuring(setup) => setup.receive(),
            State::Growing(growing) => growing.setup.receive(),
            State::Ready(info) => info.receive,
            _ => return None,
        };
        let minimum = self.config.safe_receive_sections();
        (receive.count < minimum).then_some(FewSections { count: receive.count, minimum })
    }

    /// The queue of each hash bucket.
    fn buckets(&self) -> [u16; nvsp::SEND_TABLE_LEN] {
        let live: Vec<u16> = self.live.iter().collect();
        steering::buckets(self.send_table.as_ref(), &live)
    }

    fn next_token(&mut self) -> ControlToken {
        self.last_token = self.last_token.wrapping_add(1);
        ControlToken(self.last_token)
    }

    /// Sends an NVSP message.
    fn send_nvsp(&mut self, message: [u8; nvsp::MESSAGE_LEN], token: Option<ControlToken>) {
        self.actions.push_back(Action::SendNvsp { message, token });
    }

    fn warn(&mut self, warning: Warning) {
        self.notify(Event::Warning(warning));
    }

    fn violation(&mut self, violation: Violation) {
        self.counters.violations += 1;
        self.notify(Event::Violation(violation));
    }

    /// Tells the user something that the host can cause at will, and that is therefore dropped if nobody listens.
    fn notify(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.counters.dropped_events += 1;
        }
    }
}
