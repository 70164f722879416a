//! Changes of a device that is up, for which it has to be taken down and brought up again: section counts, queues, MTU.
//!
//! ```text
//!  Ready ─► queues paused, filter 0 ─► drain ─► halt, revoke, detach, close ─► bring-up, as at first ─► Ready, queues resumed
//!               │ refused, silent                    │ too slow                    │ fails
//!               ├────────────────────────────────────┘                             ▼
//!               └─► queues resumed, filter as before ─► Ready                bring-up with the parameters before ─► Ready
//!                                     │ refused, silent                            ▲          │ fails
//!                                     └─► halt, revoke, detach, close ─────────────┘          └─► over
//! ```
//!
//! Nothing that was accepted is lost: the queues take no more frames, and what they took is completed by the host before RNDIS is
//! halted; what the host delivered waits in private memory ([`Queue::quiesce`](crate::Queue::quiesce)). What the application
//! holds of it where it is ([`queue::held`](crate::queue::held)) it has to let go, within a second from when nothing else is waited for:
//! otherwise all stays as it is ([`Cause::Held`]). The packet
//! filter, offloads, receive side scaling as the user set it, and everything else that [`Config`] holds is set again. What was set by
//! [`Control::set`] alone is not.
//!
//! A rescind or a close wins in every step. Where the original parameters are brought back, fewer queues than before are
//! better than no device; a change that does not reach its number of queues is undone.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_detach`, `netvsc_attach`, `netvsc_set_ringparam`,
//! `netvsc_set_channels`, `netvsc_change_mtu`). Unlike Linux, which leaves a device whose rings do not become empty without
//! filter and queues, all is as before then.

use alloc::boxed::Box;
use core::fmt;

use rndis::Oid;
use rndis::rss::RssCapabilities;
use rndis::value::PacketFilter;

use crate::config::{Config, ConfigError, DEFAULT_MTU, MAX_MTU, MIN_MTU, MIN_SECTIONS};
use crate::info::{DeviceInfo, LinkSpeed, VirtualFunction};
use crate::rss::{RssError, RssSettings};
use crate::time::Instant;

use super::event::{CloseReport, Event, RequestHandle};
use super::failure::{Cause, RequestError, Step};
use super::io::Action;
use super::requests::Origin;
use super::state::{Closing, Holdings, State, Why};
use super::subchannels::{self, QueueSet};
use super::{Control, NotAccepted, setup};

/// What shall be changed; the rest stays.
///
/// ```
/// use netvsc::control::Parameters;
///
/// let jumbo = Parameters::default().mtu(9000).receive_sections(4096);
/// # let _ = jumbo;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    receive_sections: Option<u32>,
    send_sections: Option<u32>,
    queues: Option<u16>,
    mtu: Option<u32>,
}

impl Parameters {
    /// The [`mtu`](Self::mtu) that is wished for.
    #[must_use]
    pub const fn wished_mtu(&self) -> Option<u32> {
        self.mtu
    }

    /// Sections of the receive buffer; clamped to 10 and [`Limits::receive_sections`].
    #[must_use]
    pub const fn receive_sections(mut self, count: u32) -> Self {
        self.receive_sections = Some(count);
        self
    }

    /// Sections of the send buffer; clamped to 10 and [`Limits::send_sections`]. Ignored by a device without one.
    #[must_use]
    pub const fn send_sections(mut self, count: u32) -> Self {
        self.send_sections = Some(count);
        self
    }

    /// Queues, 1 to [`Limits::queues`].
    #[must_use]
    pub const fn queues(mut self, count: u16) -> Self {
        self.queues = Some(count);
        self
    }

    /// MTU, 68 to [`Limits::mtu`]; the host may give less.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
}

/// How far a device can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most receive sections of the size that they have now.
    pub receive_sections: u32,
    /// Most send sections of the size that they have now; 0 without a send buffer.
    pub send_sections: u32,
    /// Most queues that the host has.
    pub queues: u16,
    /// Largest MTU that can be asked for.
    pub mtu: u32,
}

impl Limits {
    /// Those of a device that is up.
    #[must_use]
    pub fn of(info: &DeviceInfo) -> Self {
        let most = |bytes: usize, section: u32| u32::try_from(bytes).unwrap_or(u32::MAX) / section.max(1);
        Self {
            receive_sections: most(info.nvsp_version.max_receive_buffer(), info.receive.section_bytes),
            send_sections: info.send.map_or(0, |send| most(nvsp::MAX_SEND_BUFFER, send.section_bytes)),
            queues: subchannels::most_queues(info.rss.as_ref(), info.nvsp_version, info.send.filter(|_| !info.direct)),
            mtu: if info.nvsp_version.has_ndis_config() { MAX_MTU } else { DEFAULT_MTU },
        }
    }
}

/// Why a device was not changed as wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The device could not be taken down: the host refused, or did not finish what it had. All is as it was.
    NotDetached {
        /// Why.
        cause: Cause,
    },
    /// It did not come up as wished: the parameters before are in force again.
    Restored {
        /// What was being done.
        step: Step,
        /// Why it failed.
        cause: Cause,
    },
    /// It came up neither as wished nor as it was: [`Event::Failed`] follows.
    Failed {
        /// What was being done as wished, or on the way down.
        step: Step,
        /// Why it failed.
        cause: Cause,
    },
    /// It was closed meanwhile.
    Closed,
    /// The host took it away meanwhile.
    Gone,
}

impl ReconfigureError {
    /// Whether the device goes on, as it was.
    #[must_use]
    pub const fn is_restored(&self) -> bool {
        matches!(self, Self::NotDetached { .. } | Self::Restored { .. })
    }

    /// Who is at fault.
    #[must_use]
    pub const fn kind(&self) -> vmbus::ErrorKind {
        match self {
            Self::NotDetached { cause } | Self::Restored { cause, .. } | Self::Failed { cause, .. } => cause.kind(),
            Self::Closed | Self::Gone => vmbus::ErrorKind::Gone,
        }
    }
}

impl fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDetached { cause } => {
                write!(f, "the device could not be taken down, nothing was changed: {cause}")
            }
            Self::Restored { step, cause } => {
                write!(f, "failed to {step}: {cause}; the parameters before are in force again")
            }
            Self::Failed { step, cause } => {
                write!(f, "failed to {step}: {cause}; the parameters before could not be restored")
            }
            Self::Closed => f.write_str("the device was closed"),
            Self::Gone => f.write_str("the host took the device away"),
        }
    }
}

impl core::error::Error for ReconfigureError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::NotDetached { cause } | Self::Restored { cause, .. } | Self::Failed { cause, .. } => Some(cause),
            Self::Closed | Self::Gone => None,
        }
    }
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host was told to deliver nothing more.
    Silencing,
    /// The queues finish what they have.
    Draining,
    /// It cannot be taken down: the host was told to deliver again.
    Resuming { cause: Cause },
    /// It is being taken down.
    Detaching,
    /// It comes up as wished.
    Attaching,
    /// It comes up as it was, since that had failed.
    Restoring { step: Step, cause: Cause },
}

/// A change on its way.
#[derive(Debug)]
pub(super) struct Reconfiguration {
    request: RequestHandle,
    stage: Stage,
    wanted: Config,
    original: Config,
    /// As the user set it.
    scaling: Option<RssSettings>,
    link_speed: Option<LinkSpeed>,
    virtual_function: Option<VirtualFunction>,
    /// Sends and receive packets that were left when this was last asked.
    left: (usize, usize),
}

impl Control {
    /// Changes a device that is up; [`Event::Reconfigured`] says what became of it. Between [`Event::Detached`] and
    /// [`Event::Attached`] there is no device: requests are refused, and [`info`](Self::info) has nothing.
    ///
    /// If all is as wished already, nothing is done. Queues beyond the new number have ended; others go on, and new ones
    /// come as at the first bring-up.
    ///
    /// # Errors
    /// [`NotAccepted`]: `Busy` while another change is on its way, `Config` for what cannot be, `Rss` if the indirection
    /// table that the user set names queues that there would not be.
    pub fn reconfigure(&mut self, now: Instant, parameters: Parameters) -> Result<RequestHandle, NotAccepted> {
        let info = self.info().ok_or(NotAccepted::NotReady)?;
        if self.reconfiguration.is_some() || self.change.is_some() || self.offload_change.is_some() {
            return Err(NotAccepted::Busy);
        }
        let original = self.config_in_force(info);
        let wanted = self.wanted(info, &original, parameters)?;
        let reconfiguration = Reconfiguration {
            request: RequestHandle(self.last_handle.wrapping_add(1)),
            stage: Stage::Silencing,
            wanted,
            original,
            scaling: info.scaling.clone().filter(|_| self.scaling_by_user),
            link_speed: info.link_speed,
            virtual_function: info.virtual_function,
            left: (0, 0),
        };
        let request = reconfiguration.request;
        self.last_handle = request.0;
        // A queue that is gone may leave a gap, which is filled.
        let queues = parameters.queues.is_none_or(|queues| queues == self.live.len());
        if wanted == original && queues {
            self.events.push_back(Event::Reconfigured { request, result: Ok(()) });
            return Ok(request);
        }
        self.reconfiguration = Some(Box::new(reconfiguration));
        self.actions.push_back(Action::Pause);
        self.requests.push(Origin::Reconfigure, setup::filter(PacketFilter::CLOSED));
        self.go_on(now);
        Ok(request)
    }

    /// Whether a change is on its way.
    pub fn is_reconfiguring(&self) -> bool {
        self.reconfiguration.is_some()
    }

    /// The settings by which the device would come up as it is.
    fn config_in_force(&self, info: &DeviceInfo) -> Config {
        let queues = self.live.iter().next_back().map_or(1, |last| last + 1);
        let (packet_filter, offloads) = (info.packet_filter, info.offload_settings);
        Config { mtu: info.mtu, packet_filter, offloads, queues, ..self.config }
    }

    fn wanted(&self, info: &DeviceInfo, original: &Config, parameters: Parameters) -> Result<Config, NotAccepted> {
        let limits = Limits::of(info);
        let mut wanted = *original;
        if let Some(mtu) = parameters.mtu.filter(|mtu| *mtu != info.mtu) {
            in_range("mtu", mtu.into(), MIN_MTU.into(), limits.mtu.into())?;
            wanted.mtu = mtu;
            // The sections will be others.
            wanted.receive_section_bytes = None;
        }
        if let Some(count) = parameters.receive_sections {
            let count = count.clamp(MIN_SECTIONS, limits.receive_sections.max(MIN_SECTIONS));
            let there = count == info.receive.count && info.receive_limit.is_none();
            if !there && count != info.receive.requested {
                wanted.receive_sections = count;
                wanted.receive_section_bytes = Some(info.receive.section_bytes).filter(|_| wanted.mtu == original.mtu);
            }
        }
        if let (Some(count), Some(send)) = (parameters.send_sections, info.send) {
            let count = count.clamp(MIN_SECTIONS, limits.send_sections.max(MIN_SECTIONS));
            if count != send.count {
                wanted.send_sections = count;
                wanted.send_section_bytes = Some(send.section_bytes);
            }
        }
        if let Some(queues) = parameters.queues {
            in_range("queues", queues.into(), 1, limits.queues.into())?;
            wanted.queues = queues;
            if let Some(scaling) = info.scaling.as_ref().filter(|_| self.scaling_by_user)
                && let Some(entry) = scaling.table.iter().position(|queue| *queue >= queues)
            {
                return Err(NotAccepted::Rss(RssError::NoSuchQueue { entry, queue: scaling.table[entry] }));
            }
        }
        Ok(wanted)
    }

    /// Whether the queues have to finish what they have, for a change.
    pub(super) fn is_quiescing(&self) -> bool {
        // Closed instead, it is no more.
        let up = matches!(self.state, State::Ready(_));
        up && self.reconfiguration.as_ref().is_some_and(|change| change.stage == Stage::Draining)
    }

    /// The packet filter was set, or not.
    pub(super) fn filter_answered(&mut self, now: Instant, result: Result<(), RequestError>) {
        let deadline = now + self.config.close_deadline;
        let Some(change) = &mut self.reconfiguration else { return };
        match (change.stage, result) {
            (Stage::Silencing, Ok(())) => {
                change.stage = Stage::Draining;
                self.deadline = Some(deadline);
            }
            (Stage::Silencing, Err(error)) => self.stay(error.into()),
            (Stage::Resuming { cause }, Ok(())) => self.changed(Err(ReconfigureError::NotDetached { cause })),
            (Stage::Resuming { .. }, Err(error)) => {
                // It would deliver nothing, or go by nobody knows what: only another session is sure to.
                change.stage = Stage::Restoring { step: Step::Set(Oid::PACKET_FILTER), cause: error.into() };
                self.actions.push_back(Action::Pause);
                self.leave(Why::Reconfigured);
                self.halt(now);
            }
            _ => {}
        }
    }

    /// What the queues have not finished.
    pub(super) fn still_outstanding(&mut self, sends: usize, receives: usize) {
        if let Some(change) = &mut self.reconfiguration {
            change.left = (sends, receives);
        }
    }

    /// The queues did not finish in time.
    pub(super) fn not_quiet(&mut self) {
        if self.is_quiescing() {
            let held = core::mem::take(&mut self.held);
            let left = self.reconfiguration.as_ref().map_or((0, 0), |change| change.left);
            self.stay(match (held.packets, left) {
                // It is the virtual function that is not closed.
                (0, (0, 0)) => Cause::TimedOut { few_receive_sections: self.few_receive_sections() },
                (0, (sends, receives)) => Cause::NotCompleted { sends, receives },
                _ => Cause::Held(held),
            });
        }
    }

    /// The device cannot be taken down: it goes on as it was.
    fn stay(&mut self, cause: Cause) {
        let Some(change) = &mut self.reconfiguration else { return };
        change.stage = Stage::Resuming { cause };
        self.actions.push_back(Action::Resume);
        self.requests.push(Origin::Reconfigure, setup::filter(change.original.packet_filter));
    }

    /// Nothing is on its way any more: takes the device down.
    pub(super) fn take_down(&mut self, now: Instant) {
        let Some(change) = &mut self.reconfiguration else { return };
        change.stage = Stage::Detaching;
        self.leave(Why::Reconfigured);
        self.halt(now);
    }

    /// Everything was undone: whether the device comes up again.
    pub(super) fn comes_up_again(&mut self, now: Instant, why: Why, report: CloseReport) -> bool {
        let Some(change) = &mut self.reconfiguration else { return false };
        let config = match (why, change.stage) {
            (Why::Reconfigured, Stage::Restoring { .. }) => {
                self.events.push_back(Event::Detached(report));
                change.original
            }
            (Why::Reconfigured, _) => {
                change.stage = Stage::Attaching;
                self.events.push_back(Event::Detached(report));
                change.wanted
            }
            (Why::Failed { step, cause }, Stage::Attaching) => {
                change.stage = Stage::Restoring { step, cause };
                change.original
            }
            (Why::Failed { .. }, Stage::Restoring { step, cause }) | (Why::Failed { step, cause }, _) => {
                self.changed(Err(ReconfigureError::Failed { step, cause }));
                return false;
            }
            (Why::Wished, _) => {
                self.changed(Err(ReconfigureError::Closed));
                return false;
            }
            (Why::Rescinded, _) => {
                self.changed(Err(ReconfigureError::Gone));
                return false;
            }
        };
        self.config = config;
        self.holdings = Holdings::default();
        self.version = None;
        self.link.session_ended();
        self.link_speed = None;
        self.virtual_function = None;
        self.send_table = None;
        self.offload_current = None;
        self.offload_indicated = None;
        self.live = QueueSet::PRIMARY;
        self.rebuilt_for = QueueSet::default();
        self.state = State::Offered;
        self.offered(now);
        true
    }

    /// Whether a device that comes up as wished has not the queues that it shall have.
    pub(super) fn lacks_queues(&self) -> bool {
        let attaching = self.reconfiguration.as_ref().is_some_and(|change| change.stage == Stage::Attaching);
        attaching && self.live.len() < self.config.queues
    }

    /// How the host shall spread frames over the queues that live, when they come up.
    pub(super) fn scaling_for(&self, capabilities: &RssCapabilities, live: &[u16]) -> RssSettings {
        match self.reconfiguration.as_ref().and_then(|change| change.scaling.clone()) {
            Some(mut chosen) => {
                chosen.redirect(live);
                // A host that has less than before.
                if chosen.check(capabilities, live).is_ok() { chosen } else { RssSettings::spread(capabilities, live) }
            }
            None => RssSettings::spread(capabilities, live),
        }
    }

    /// The device is up, for the first time or again.
    pub(super) fn is_up(&mut self, info: Box<DeviceInfo>) {
        let send_table = info.send_table;
        let Some(change) = &self.reconfiguration else {
            self.link.start_telling();
            self.events.push_back(Event::Ready(info.clone()));
            self.state = State::Ready(info);
            if self.send_table.is_some() {
                self.notify(Event::SendTable(send_table));
            }
            return;
        };
        let result = match change.stage {
            Stage::Restoring { step, cause } => Err(ReconfigureError::Restored { step, cause }),
            _ => Ok(()),
        };
        self.scaling_by_user &= info.scaling.is_some();
        let speed = info.link_speed.filter(|speed| change.link_speed != Some(*speed));
        // One that the host told of while the device came up; it may tell later as well.
        let function = info.virtual_function.filter(|function| change.virtual_function != Some(*function));
        self.link.go_on_telling();
        self.actions.push_back(Action::Resume);
        self.events.push_back(Event::Attached(info.clone()));
        self.state = State::Ready(info);
        self.notify(Event::SendTable(send_table));
        speed.into_iter().for_each(|speed| self.notify(Event::LinkSpeed(speed)));
        function.into_iter().for_each(|function| self.notify(Event::VfAssociated(function)));
        self.changed(result);
    }

    /// The change is over.
    fn changed(&mut self, result: Result<(), ReconfigureError>) {
        let Some(change) = self.reconfiguration.take() else { return };
        match result {
            Ok(()) => self.counters.reconfigurations += 1,
            Err(_) => self.counters.failed_reconfigurations += 1,
        }
        self.events.push_back(Event::Reconfigured { request: change.request, result });
    }

    /// What is being taken down, or comes up, for a change is closed instead: there is no more reason to come up again.
    pub(super) fn close_instead(&mut self, instead: Why) {
        if let (State::Closing(Closing { why, .. }), Some(_)) = (&mut self.state, &self.reconfiguration) {
            *why = instead;
        }
    }
}

fn in_range(field: &'static str, value: u64, minimum: u64, limit: u64) -> Result<(), NotAccepted> {
    if value < minimum {
        return Err(NotAccepted::Config(ConfigError::BelowMinimum { field, value, minimum }));
    }
    if value > limit {
        return Err(NotAccepted::Config(ConfigError::AboveLimit { field, value, limit }));
    }
    Ok(())
}
