//! The machine that decides which path is used.

use alloc::collections::VecDeque;

use crate::info::LinkState;
use crate::meta::Path;
use crate::time::Instant;

use super::io::{Action, Counters, Event, Input, SwitchId};
use super::settings::{Settings, doubled};

/// Events that wait to be fetched before more are dropped.
const MAX_EVENTS: usize = 64;

/// Where the data path stands.
///
/// ```text
///                     associated, device works, link up, no pause
///        Synthetic ────────────────────────────────────────────────► Asking (SWITCH to VF is sent)
///            ▲  ▲                                                       │ completed       │ not in time,
///  host was  │  │ completed, or the host's own word                     ▼                 │ device gone
///  heard     │  └────────────────────── Returning ◄──────────────── OnVf ─────┐           │
///            │                            │    ▲     any of these is no more       │           │
///         Silent ◄────────────────────────┘    └────────────────────────────────────┴───────────┘
///                   not completed, repeatedly        (SWITCH to synthetic is sent, unless the host did it by itself)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Everything goes by the synthetic path.
    Synthetic,
    /// The host was asked for the VF's path; frames are still sent by the synthetic one.
    Asking,
    /// The path of the VF is used.
    OnVf,
    /// Frames are sent by the synthetic path, and the host was asked for it.
    Returning,
    /// As [`Synthetic`](Self::Synthetic), but the host does not answer: it may still deliver to the VF.
    Silent,
}

/// By what a device is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// The number of its PCI slot.
    Serial(u32),
    /// Its MAC address alone.
    Address,
    /// It was a VF that the host has taken back.
    Doubted,
}

/// The VF as a device of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    None,
    /// There, and closed.
    Closed(Identity),
    /// Being opened.
    Opening(Identity),
    /// Open.
    Open(Identity, LinkState),
}

impl Device {
    const fn identity(self) -> Option<Identity> {
        match self {
            Self::None => None,
            Self::Closed(identity) | Self::Opening(identity) | Self::Open(identity, _) => Some(identity),
        }
    }

    const fn is_open(self) -> bool {
        matches!(self, Self::Open(..))
    }
}

/// A switch that the host was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    id: SwitchId,
    deadline: Instant,
}

/// A change over of the sending side that waits for the old path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    to: Path,
    since: Instant,
    deadline: Instant,
}

/// Decides which path is used; see the [module](super).
///
/// What happened goes in by [`handle`](Self::handle), what is to be done comes out of [`poll_action`](Self::poll_action), what
/// the user should know out of [`poll_event`](Self::poll_event). Time is an argument.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    stage: Stage,
    association: Option<u32>,
    device: Device,
    /// The association or the device that waits for the other is reported then.
    arrival: Option<Instant>,
    /// The switch whose completion is awaited.
    asked: Option<Asked>,
    /// The last switch to the VF.
    asked_for_vf: Option<SwitchId>,
    /// The host said that it took the traffic back, before it completed what it was asked for.
    taken_back: bool,
    /// The host took the traffic back. Until then it should have said that it takes the VF back as well; if not, it has
    /// refused.
    explanation: Option<Instant>,
    /// Failed attempts in a row, since the VF last worked for long.
    failures: u32,
    /// Times in a row that the host was asked to take the traffic back.
    returns: u32,
    /// Nothing is tried before, because it failed.
    pause: Option<Instant>,
    /// Nothing is tried before, because it did not last.
    damped: Option<Instant>,
    /// Where frames are sent, or will be.
    sending: Path,
    change: Option<Change>,
    /// When the machine decided on the change of path under way.
    decided: Instant,
    /// Frames may come by the VF.
    receiving: bool,
    on_vf_since: Option<Instant>,
    flaps: u32,
    stopping: bool,
    last_id: u32,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Machine {
    /// A machine of an adapter without a VF.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            stage: Stage::Synthetic,
            association: None,
            device: Device::None,
            arrival: None,
            asked: None,
            asked_for_vf: None,
            taken_back: false,
            explanation: None,
            failures: 0,
            returns: 0,
            pause: None,
            damped: None,
            sending: Path::Synthetic,
            change: None,
            decided: Instant::ZERO,
            receiving: false,
            on_vf_since: None,
            flaps: 0,
            stopping: false,
            last_id: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes in something that happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Associated { serial } => self.associated(now, serial),
            Input::Revoked => self.revoked(now),
            Input::HostSwitched(path) => self.host_switched(now, path),
            Input::Arrived { serial } => self.arrived(now, serial),
            Input::Gone { lost } => self.gone(now, lost),
            Input::Prepared { link } => self.prepared(link),
            Input::NotPrepared => self.not_prepared(now),
            Input::Link(link) => self.link(link),
            Input::Switched(id) => self.switched(now, id),
            Input::NotSwitched(id) => self.not_switched(now, id),
            Input::Released { lost } => self.lost(lost),
            Input::ReceivedLost { frames } => {
                self.counters.received_lost += frames;
                self.tell(Event::ReceivedLost { frames });
            }
            Input::SendDrained => self.send_drained(now, true),
            Input::Stop => self.stopping = true,
            Input::Resume => self.stopping = false,
        }
        self.go_on(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Instant| at <= now;
        if self.change.is_some_and(|change| due(change.deadline)) {
            self.actions.push_back(Action::StopWaiting);
            self.send_drained(now, false);
        }
        if self.asked.is_some_and(|asked| due(asked.deadline)) {
            self.counters.timeouts += 1;
            self.not_completed(now);
        }
        if self.arrival.is_some_and(due) {
            self.arrival = None;
            self.tell(Event::Missing { serial: self.association });
        }
        for pause in [&mut self.pause, &mut self.damped] {
            pause.take_if(|at| due(*at));
        }
        if self.explanation.take_if(|at| due(*at)).is_some() && self.is_wanted() {
            self.counters.refused += 1;
            self.tell(Event::Refused);
            self.try_later(now);
        }
        self.go_on(now);
    }

    /// What to do next; poll until `None` after each call of [`handle`](Self::handle) and
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What to tell the user; poll after the same calls.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called if nothing else happens; poll after the same calls.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked.map(|asked| asked.deadline);
        let change = self.change.map(|change| change.deadline);
        let pauses = [self.pause, self.damped, self.explanation];
        [asked, change, self.arrival].into_iter().chain(pauses).flatten().min()
    }

    /// The channel to the host has ended: nothing can be asked for any more. What is open is closed, and the association
    /// forgotten; the device may still be there.
    pub fn abort(&mut self) {
        self.association = None;
        self.asked = None;
        self.explanation = None;
        self.stage = Stage::Synthetic;
        self.on_vf_since = None;
        if core::mem::replace(&mut self.sending, Path::Synthetic) == Path::VirtualFunction {
            self.counters.switched_to_synthetic += 1;
            self.actions.push_back(Action::Send(Path::Synthetic));
        }
        if self.change.take().is_some() {
            self.actions.push_back(Action::StopWaiting);
        }
        if let Device::Open(identity, _) = self.device {
            self.release(identity);
        }
    }

    /// Where the data path stands.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// The serial number of the VF that the host associated.
    #[must_use]
    pub const fn association(&self) -> Option<u32> {
        self.association
    }

    /// Whether [`Input::Stop`] is done: the host sends by the synthetic path, or does not answer, and the device is closed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping
            && matches!(self.stage, Stage::Synthetic | Stage::Silent)
            && self.change.is_none()
            && matches!(self.device, Device::None | Device::Closed(_))
    }

    /// Counters.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn associated(&mut self, now: Instant, serial: u32) {
        self.host_speaks(now);
        let before = self.association.replace(serial);
        if before == Some(serial) {
            self.counters.ignored += 1;
            return;
        }
        if let Some(before) = before {
            self.counters.revoked += 1;
            self.tell(Event::Revoked { serial: before });
            self.doubt_device();
        }
        self.counters.offered += 1;
        self.tell(Event::Offered { serial });
        self.begin_anew(now);
        if self.device == Device::None {
            self.actions.push_back(Action::Find { serial });
        }
        self.tell_other_serial();
    }

    fn revoked(&mut self, now: Instant) {
        self.host_speaks(now);
        match self.association.take() {
            Some(serial) => {
                self.counters.revoked += 1;
                self.tell(Event::Revoked { serial });
                self.doubt_device();
                self.begin_anew(now);
            }
            None => self.counters.ignored += 1,
        }
    }

    fn host_switched(&mut self, now: Instant, path: Path) {
        self.host_speaks(now);
        match (path, self.stage) {
            (Path::Synthetic, Stage::OnVf) => self.host_took_it(now, false),
            (Path::Synthetic, Stage::Asking) => self.taken_back = true,
            // What was asked for is done; its completion is still to come, and means nothing new.
            (Path::Synthetic, Stage::Returning) => self.asked = None,
            // No host is known to do it. Nothing shall be lost: frames are taken from there as well.
            (Path::VirtualFunction, Stage::Synthetic) if self.device.is_open() => self.receive_from_vf(),
            _ => self.counters.ignored += 1,
        }
    }

    fn arrived(&mut self, now: Instant, serial: Option<u32>) {
        let found = Device::Closed(serial.map_or(Identity::Address, Identity::Serial));
        let replaces = matches!(self.device, Device::Closed(_)) && self.device != found && !self.is_ours();
        if self.device != Device::None && !replaces {
            self.counters.ignored += 1;
            return;
        }
        self.device = found;
        self.begin_anew(now);
        self.tell_other_serial();
    }

    fn gone(&mut self, now: Instant, lost: u64) {
        if self.device == Device::None {
            self.counters.ignored += 1;
            return;
        }
        let in_use = self.stage == Stage::OnVf;
        self.device = Device::None;
        self.receiving = false;
        if in_use {
            self.counters.surprises += 1;
        }
        if in_use || lost > 0 {
            self.lost(lost);
        }
        match self.stage {
            Stage::OnVf => self.leave(now, true),
            // Whether or not the host has switched: what it sends there is lost.
            Stage::Asking => {
                self.taken_back = false;
                self.return_path(now);
            }
            _ => {}
        }
        self.begin_anew(now);
    }

    fn lost(&mut self, frames: u64) {
        self.counters.lost += frames;
        self.tell(Event::Lost { frames });
    }

    fn prepared(&mut self, link: LinkState) {
        let Device::Opening(identity) = self.device else {
            self.counters.ignored += 1;
            return;
        };
        self.device = Device::Open(identity, link);
        if link.is_up() {
            self.tell(Event::Up);
        }
    }

    fn not_prepared(&mut self, now: Instant) {
        let Device::Opening(identity) = self.device else {
            self.counters.ignored += 1;
            return;
        };
        self.closed(identity);
        self.tell(Event::NotUsable);
        self.try_later(now);
    }

    fn link(&mut self, link: LinkState) {
        match &mut self.device {
            Device::Open(_, known) if *known != link => {
                *known = link;
                self.tell(if link.is_up() { Event::Up } else { Event::Down });
            }
            _ => self.counters.ignored += 1,
        }
    }

    fn switched(&mut self, now: Instant, id: SwitchId) {
        let awaited = self.asked.is_some_and(|asked| asked.id == id);
        // All that was asked for since is the synthetic path.
        let of_return = self.asked_for_vf.is_none_or(|vf| id > vf) && id.0 <= self.last_id;
        match self.stage {
            Stage::Asking if awaited => {
                self.asked = None;
                self.receive_from_vf();
                self.stage = Stage::OnVf;
                if core::mem::take(&mut self.taken_back) {
                    // Which of the two it did last is not known.
                    self.host_took_it(now, true);
                } else if self.is_wanted() {
                    self.counters.switched_to_vf += 1;
                    // What was not wanted any more when the host had done it is no flap: it was not used.
                    self.on_vf_since = Some(now);
                    self.change_over(now, Path::VirtualFunction);
                } else {
                    self.leave(now, true);
                }
            }
            // Also a late one. The end of it is seen to by `go_on`.
            Stage::Returning if of_return => self.asked = None,
            Stage::Silent if of_return => self.host_speaks(now),
            _ => self.counters.ignored += 1,
        }
    }

    fn not_switched(&mut self, now: Instant, id: SwitchId) {
        match self.stage {
            Stage::Asking if self.asked.is_some_and(|asked| asked.id == id) => self.not_completed(now),
            // It is sent once more when its time is up.
            Stage::Returning => {}
            _ => self.counters.ignored += 1,
        }
    }

    /// The host did not do what it was asked for.
    fn not_completed(&mut self, now: Instant) {
        if self.asked.take().is_none() {
            return;
        }
        match self.stage {
            Stage::Asking => {
                self.tell(Event::SwitchTimedOut { to: Path::VirtualFunction });
                self.taken_back = false;
                // It may have switched all the same.
                self.receive_from_vf();
                self.try_later(now);
                self.return_path(now);
            }
            Stage::Returning => {
                self.tell(Event::SwitchTimedOut { to: Path::Synthetic });
                if self.returns < self.settings.return_attempts && !self.stopping {
                    self.ask(now, Path::Synthetic);
                } else {
                    self.stage = Stage::Silent;
                    self.tell(Event::HostSilent);
                }
            }
            _ => {}
        }
    }

    /// Nothing is outstanding on the old path, or it took too long.
    fn send_drained(&mut self, now: Instant, drained: bool) {
        let Some(change) = self.change.take() else {
            self.counters.ignored += 1;
            return;
        };
        if !drained {
            self.counters.not_drained += 1;
        }
        self.tell(Event::DatapathSwitched { to: change.to, drained, took: now.saturating_since(change.since) });
    }

    /// Whether the path of the VF is to be used, apart from pauses.
    fn is_wanted(&self) -> bool {
        let up = matches!(self.device, Device::Open(_, LinkState::Up));
        up && self.is_ours() && !self.stopping
    }

    /// Whether the device is the one that the host associated.
    fn is_ours(&self) -> bool {
        match (self.association, self.device.identity()) {
            (Some(_), Some(Identity::Address)) => true,
            (Some(expected), Some(Identity::Serial(found))) => expected == found,
            _ => false,
        }
    }

    /// What follows from where things stand.
    fn go_on(&mut self, now: Instant) {
        if self.stage == Stage::OnVf && !self.is_wanted() {
            self.leave(now, true);
        }
        if self.stage == Stage::Returning && self.asked.is_none() {
            // Done, by whoever said it.
            self.stage = Stage::Synthetic;
            self.stop_receiving();
        }
        if !matches!(self.stage, Stage::Synthetic | Stage::Silent) {
            return;
        }
        let leaves = self.stopping || !self.is_ours();
        let settled = self.change.is_none();
        let paused = self.pause.is_some() || self.damped.is_some() || self.explanation.is_some();
        match self.device {
            Device::Open(identity, _) if leaves && settled => self.release(identity),
            Device::Closed(identity) if !leaves && !paused => {
                self.device = Device::Opening(identity);
                self.actions.push_back(Action::Prepare);
            }
            Device::Open(_, LinkState::Up) if !leaves && !paused && settled && self.stage == Stage::Synthetic => {
                self.stage = Stage::Asking;
                self.taken_back = false;
                self.decided = now;
                self.ask(now, Path::VirtualFunction);
            }
            _ => {}
        }
    }

    fn release(&mut self, identity: Identity) {
        self.stop_receiving();
        self.actions.push_back(Action::Release);
        self.closed(identity);
    }

    /// The device is there, and closed.
    fn closed(&mut self, identity: Identity) {
        self.device = Device::Closed(identity);
        if identity == Identity::Doubted {
            self.device = Device::None;
            if let Some(serial) = self.association.filter(|_| !self.stopping) {
                self.actions.push_back(Action::Find { serial });
            }
        }
    }

    /// Leaves the path of the VF; `tell_host` unless it did so by itself.
    fn leave(&mut self, now: Instant, tell_host: bool) {
        self.decided = now;
        if let Some(since) = self.on_vf_since.take() {
            self.note_flap(now, since);
        }
        self.change_over(now, Path::Synthetic);
        if tell_host {
            self.return_path(now);
        } else {
            self.stage = Stage::Returning;
            self.asked = None;
        }
    }

    /// The host took the traffic back by itself.
    fn host_took_it(&mut self, now: Instant, tell_host: bool) {
        self.explanation = self.is_wanted().then(|| now + self.settings.retry_pause);
        self.leave(now, tell_host);
    }

    /// A host that was silent said something: it may be asked again, after the pause.
    fn host_speaks(&mut self, now: Instant) {
        if self.stage == Stage::Silent {
            self.stage = Stage::Synthetic;
            self.stop_receiving();
            self.try_later(now);
        }
    }

    fn return_path(&mut self, now: Instant) {
        self.stage = Stage::Returning;
        self.returns = 0;
        self.ask(now, Path::Synthetic);
    }

    fn change_over(&mut self, now: Instant, to: Path) {
        if core::mem::replace(&mut self.sending, to) == to {
            return;
        }
        if to == Path::Synthetic {
            self.counters.switched_to_synthetic += 1;
        }
        self.change = Some(Change { to, since: self.decided, deadline: now + self.settings.drain_limit });
        self.actions.push_back(Action::Send(to));
    }

    fn ask(&mut self, now: Instant, to: Path) {
        if to == Path::Synthetic {
            self.returns += 1;
        }
        self.last_id = self.last_id.wrapping_add(1);
        let id = SwitchId(self.last_id);
        if to == Path::VirtualFunction {
            self.asked_for_vf = Some(id);
        }
        self.asked = Some(Asked { id, deadline: now + self.settings.switch_limit });
        self.actions.push_back(Action::Switch { to, id });
    }

    fn receive_from_vf(&mut self) {
        self.receiving = true;
        self.actions.push_back(Action::Receive(Path::VirtualFunction));
    }

    fn stop_receiving(&mut self) {
        if core::mem::take(&mut self.receiving) {
            self.actions.push_back(Action::Receive(Path::Synthetic));
        }
    }

    /// The host took the VF back: its device goes, if it has not gone yet, and should the host give one again, that is
    /// another, although it may have the same number.
    fn doubt_device(&mut self) {
        match &mut self.device {
            Device::Open(identity, _) | Device::Opening(identity) => *identity = Identity::Doubted,
            // Closed: `associated` has it looked for.
            device => *device = Device::None,
        }
    }

    /// Association or device changed: what went wrong before says nothing about it.
    fn begin_anew(&mut self, now: Instant) {
        self.pause = None;
        self.explanation = None;
        self.failures = 0;
        let one = self.association.is_some() || self.device != Device::None;
        self.arrival = (one && !self.is_ours()).then(|| now + self.settings.arrival_limit);
    }

    fn tell_other_serial(&mut self) {
        if let (Some(expected), Some(Identity::Serial(found))) = (self.association, self.device.identity())
            && expected != found
        {
            self.tell(Event::OtherSerial { expected, found });
        }
    }

    fn try_later(&mut self, now: Instant) {
        let pause = doubled(self.settings.retry_pause, self.failures, self.settings.retry_pause_max);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(now + pause);
    }

    fn note_flap(&mut self, now: Instant, since: Instant) {
        if now.saturating_since(since) >= self.settings.stable_after {
            self.flaps = 0;
            self.failures = 0;
            return;
        }
        self.counters.flaps += 1;
        self.flaps = self.flaps.saturating_add(1);
        if let Some(beyond) = self.flaps.checked_sub(self.settings.flaps_free).filter(|beyond| *beyond > 0) {
            let pause = doubled(self.settings.flap_pause, beyond - 1, self.settings.flap_pause_max);
            self.damped = Some(now + pause);
            self.tell(Event::Damped { pause });
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}
