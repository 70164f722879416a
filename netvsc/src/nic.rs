//! [`Nic`]: the control machine at work on a bus.
//!
//! A loop without a protocol decision of its own: bus events and control messages go into [`Control`], its actions are done
//! on the bus and on the queues. It owns the memory; the queues have clones of it, and are their users' once taken.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::task::{Context, Poll};

use rndis::Oid;
use rndis::value::PacketFilter;
use vmbus::bus::{BufferWish, Bus, BusEvent, Channel, Purpose, RelId};
use vmbus::memory::SharedMemory;

use crate::config::{Config, ConfigError, MAX_QUEUES};
use crate::control::{Action, Control, Counters, Event, Input, Parameters, QueueParts, RequestHandle, Step};
use crate::error::NicError;
use crate::info::{DeviceInfo, Sections};
use crate::meta::RxMeta;
use crate::offload::{OffloadSettings, Offloads};
use crate::queue::{ControlInput, FrameSink, Queue, QueueError, ReceiveBuffer, SendBuffer, SendError, Unfinished};
use crate::rss::RssSettings;
use crate::time::Instant;
use crate::vf;

/// Rounds of one [`Nic::poll`]; if there is more to do, it asks to be polled again.
const MAX_ROUNDS: usize = 64;

/// A network adapter: brings itself up on a [`Bus`], keeps its control side going, and is closed in the right order.
///
/// Dropping it closes nothing: the host then keeps the buffers until the VM ends. See [`close`](Self::close).
pub struct Nic<B: Bus> {
    bus: B,
    control: Control,
    primary: Option<RelId>,
    subchannels: Vec<Subchannel<B::Memory>>,
    /// Until they are taken.
    queues: Vec<Queue<B::Channel>>,
    memory: Memories<B::Memory>,
    /// An action for which there was no room in the ring, or no queue.
    blocked: Option<Action>,
    /// The bus refused to open the primary channel; what it has to say, such as that the channel was taken back, comes first.
    not_opened: bool,
    /// The queues know the MTU that came out: longer frames are refused.
    mtu_told: bool,
    /// What the queues were last told of offloads.
    offloads_told: Option<Offloads>,
    /// Subchannels that the bus knows to be awaited.
    awaited: u16,
    vf_tasks: VecDeque<vf::Task>,
    /// Where the last control input stood.
    position: u64,
}

impl<B: Bus> fmt::Debug for Nic<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic").field("primary", &self.primary).field("control", &self.control).finish_non_exhaustive()
    }
}

struct Memories<M> {
    receive: Option<M>,
    send: Option<M>,
    direct: Option<M>,
}

impl<M> Memories<M> {
    fn of(&mut self, purpose: Purpose) -> Option<&mut Option<M>> {
        match purpose {
            Purpose::Receive => Some(&mut self.receive),
            Purpose::Send => Some(&mut self.send),
            Purpose::Direct => Some(&mut self.direct),
            _ => None,
        }
    }
}

/// One that the host offered.
struct Subchannel<M> {
    queue: u16,
    id: RelId,
    /// For its queue's GPA-direct sends.
    direct: Option<M>,
}

/// Where the queues are that [`Nic::take_queue`] gave, for [`Nic::poll_queues`].
///
/// Implemented for one queue or none, and for vectors of them. Who keeps each queue behind a lock of its own implements it by
/// taking that lock.
pub trait QueueAccess<C: Channel> {
    /// Calls `work` with the queue of this index, and gives what it gave; `None` if the queue is not there (any more).
    fn with_queue<R>(&mut self, index: u16, work: impl FnOnce(&mut Queue<C>) -> R) -> Option<R>;
}

impl<C: Channel> QueueAccess<C> for Option<&mut Queue<C>> {
    fn with_queue<R>(&mut self, index: u16, work: impl FnOnce(&mut Queue<C>) -> R) -> Option<R> {
        self.as_deref_mut().filter(|queue| queue.index() == index).map(work)
    }
}

impl<C: Channel> QueueAccess<C> for Vec<Queue<C>> {
    fn with_queue<R>(&mut self, index: u16, work: impl FnOnce(&mut Queue<C>) -> R) -> Option<R> {
        self.iter_mut().find(|queue| queue.index() == index).map(work)
    }
}

/// The queue, whether it was taken or not.
fn with_queue<C: Channel, A: QueueAccess<C>, R>(
    held: &mut Vec<Queue<C>>,
    taken: &mut A,
    index: u16,
    work: impl FnOnce(&mut Queue<C>) -> R,
) -> Option<R> {
    if held.iter().any(|queue| queue.index() == index) {
        held.with_queue(index, work)
    } else {
        taken.with_queue(index, work)
    }
}

/// What became of an action.
enum Outcome {
    Done,
    /// To be tried again.
    Blocked(Action),
}

impl<B: Bus> Nic<B> {
    /// Starts the bring-up of the device on `bus`; [`poll`](Self::poll) goes on with it.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn new(bus: B, config: Config, now: Instant) -> Result<Self, ConfigError> {
        Ok(Self {
            bus,
            control: Control::new(config, now)?,
            primary: None,
            subchannels: Vec::new(),
            queues: Vec::new(),
            memory: Memories { receive: None, send: None, direct: None },
            blocked: None,
            not_opened: false,
            mtu_told: false,
            offloads_told: None,
            awaited: 0,
            vf_tasks: VecDeque::new(),
            position: 0,
        })
    }

    /// Does all that can be done now: bus events, control messages of `primary`, timeouts, and one step of a host that
    /// shares the thread. The bus keeps the waker; the queue's interrupt is the caller's to wait for, and a reason to poll.
    ///
    /// `primary` is the queue that [`take_queue`](Self::take_queue) gave. While the device is being closed, frames that
    /// nobody received are thrown away here, so that the host gets its sections back. With several queues call
    /// [`poll_queues`](Self::poll_queues) instead.
    ///
    /// # Errors
    /// [`NicError::Bus`]: the device is unusable then.
    pub fn poll(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        mut primary: Option<&mut Queue<B::Channel>>,
    ) -> Result<(), NicError<B::Error>> {
        self.poll_queues(now, cx, &mut primary)
    }

    /// As [`poll`](Self::poll), with all queues that were taken.
    ///
    /// # Errors
    /// [`NicError::Bus`]: the device is unusable then.
    pub fn poll_queues<A: QueueAccess<B::Channel>>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        taken: &mut A,
    ) -> Result<(), NicError<B::Error>> {
        let host_moved = self.bus.run_host();
        let mut settled = self.settle(now, cx, taken)?;
        // Last: what came in time counts, however late it is heard.
        if self.control.poll_timeout().is_some_and(|due| due <= now) {
            let before = self.control.counters().timeouts;
            self.control.handle_timeout(now);
            if self.control.counters().timeouts != before {
                // The machine went on without what could not be sent.
                self.blocked = None;
            }
            settled = self.settle(now, cx, taken)?;
        }
        if host_moved || !settled {
            // There is more to do, or the host may have more to say once it runs again.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Does what there is to be done, if it comes to an end soon; whether it did.
    fn settle<A: QueueAccess<B::Channel>>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        taken: &mut A,
    ) -> Result<bool, NicError<B::Error>> {
        for _ in 0..MAX_ROUNDS {
            let mut moved = self.take_bus_event(now, cx, taken)?;
            if !moved && core::mem::take(&mut self.not_opened) {
                self.control.handle(now, Input::OpenFailed { status: u32::MAX });
                moved = true;
            }
            moved |= self.take_control_inputs(now, taken);
            self.tell_offloads(taken);
            moved |= self.do_actions(now, taken);
            self.tell_mtu(taken);
            self.await_offers();
            if !moved {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A queue that was not taken yet: the primary channel's once it is open (long before [`Event::Ready`]), from when on
    /// the caller passes it to [`poll`](Self::poll); the others, in order, once the device is up.
    pub fn take_queue(&mut self) -> Option<Queue<B::Channel>> {
        let up = self.info().is_some();
        let there = self.queues.iter().map(Queue::index).enumerate().filter(|(_, index)| up || *index == 0);
        let (at, _) = there.min_by_key(|(_, index)| *index)?;
        Some(self.queues.swap_remove(at))
    }

    /// What happened. To be asked until `None` after each call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.control.poll_event()
    }

    /// When [`poll`](Self::poll) has to be called if nothing else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.control.poll_timeout()
    }

    /// The device, while it is up.
    pub fn info(&self) -> Option<&DeviceInfo> {
        self.control.info()
    }

    /// Whether the device is being closed and waits for what its queues have not finished: sends that the host has not
    /// completed, on whichever channel. Poll it again when one of them is interrupted, or after a moment.
    pub fn is_draining(&self) -> bool {
        self.control.is_draining()
    }

    /// Whether the device has ended, and [`poll`](Self::poll) has nothing more to do.
    pub fn is_over(&self) -> bool {
        self.control.is_over() && !self.control.has_actions()
    }

    /// What the host said and was not followed.
    pub fn counters(&self) -> &Counters {
        self.control.counters()
    }

    /// Closes the device, whatever it is doing: [`Event::Closed`] follows, while [`poll`](Self::poll) is called.
    pub fn close(&mut self, now: Instant) {
        self.control.close(now);
    }

    /// Sets which frames the host delivers. [`Event::Answered`] says whether it does.
    ///
    /// # Errors
    /// [`NicError::NotReady`], [`NicError::TooManyRequests`].
    pub fn set_packet_filter(
        &mut self,
        now: Instant,
        filter: PacketFilter,
    ) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.set_packet_filter(now, filter)?)
    }

    /// Asks for a value; [`Event::Answered`] brings it, and the types of [`rndis::value`] read it.
    ///
    /// # Errors
    /// [`NicError::NotReady`], [`NicError::TooManyRequests`].
    pub fn query(&mut self, now: Instant, oid: Oid) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.query(now, oid)?)
    }

    /// Changes a value; `value` is what the types of [`rndis::value`] emit.
    ///
    /// # Errors
    /// [`NicError::NotReady`], [`NicError::TooManyRequests`].
    pub fn set(&mut self, now: Instant, oid: Oid, value: &[u8]) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.set(now, oid, value)?)
    }

    /// Changes how the host spreads received frames over the queues. [`Event::Answered`] says whether it does; if not, all
    /// is as it was.
    ///
    /// # Errors
    /// [`NicError::NotReady`]; [`NicError::Rss`] for what cannot be; [`NicError::TooManyRequests`] while another change is on
    /// its way.
    pub fn set_rss(&mut self, now: Instant, settings: RssSettings) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.set_rss(now, settings)?)
    }

    /// Changes which offloads the host is asked for. [`Event::Answered`] says whether it follows; if not, all is as it was.
    /// What holds is [`DeviceInfo::offloads`]; meanwhile what both settings grant.
    ///
    /// # Errors
    /// [`NicError::NotReady`]; [`NicError::TooManyRequests`] while another change is on its way.
    pub fn set_offloads(
        &mut self,
        now: Instant,
        settings: OffloadSettings,
    ) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.set_offloads(now, settings)?)
    }

    /// Says that a queue other than the primary channel's is unusable: its channel is closed, and the host is told to put
    /// nothing on it. [`Event::QueueGone`] follows. (What fails on the primary channel, [`poll`](Self::poll) sees itself.)
    pub fn queue_failed(&mut self, now: Instant, queue: u16, error: QueueError) {
        self.control.handle(now, Input::SubchannelFailed { queue, error });
    }

    /// Changes section counts, queues or MTU of a device that is up: it is taken down, in order, and brought up again on the
    /// same bus, while [`poll`](Self::poll) is called; [`Event::Reconfigured`] says what became of it.
    ///
    /// Queues that were taken go on: until [`Event::Attached`] they take nothing to send ([`SendError::Full`]) and receive
    /// what they had. Those beyond the new number of queues have ended; [`take_queue`](Self::take_queue) has the new ones. Each
    /// queue that goes on has a new [interrupt](Queue::take_interrupt).
    ///
    /// # Errors
    /// [`NicError::NotReady`], [`NicError::Busy`] while another change is on its way, [`NicError::Config`] and
    /// [`NicError::Rss`] for what cannot be.
    pub fn reconfigure(&mut self, now: Instant, parameters: Parameters) -> Result<RequestHandle, NicError<B::Error>> {
        Ok(self.control.reconfigure(now, parameters)?)
    }

    /// Whether a change is on its way.
    pub fn is_reconfiguring(&self) -> bool {
        self.control.is_reconfiguring()
    }

    /// From now on the virtual function is used, if the host gives one: [`poll_vf`](Self::poll_vf) says what is to be done, and
    /// [`handle_vf`](Self::handle_vf) takes what happened to it.
    pub fn use_vf(&mut self, now: Instant, settings: vf::Settings) {
        self.control.use_vf(now, settings);
    }

    /// Something happened to the virtual function. [`poll`](Self::poll) is called next.
    pub fn handle_vf(&mut self, now: Instant, input: vf::Input) {
        self.control.handle_vf(now, input);
    }

    /// What is to be done to the virtual function, in this order. To be asked until `None` after each call.
    pub fn poll_vf(&mut self) -> Option<vf::Task> {
        self.vf_tasks.pop_front()
    }

    /// How the virtual function stands; `None` before [`use_vf`](Self::use_vf).
    pub fn vf(&self) -> Option<&vf::Machine> {
        self.control.vf()
    }

    /// Gives up on a request: no [`Event::Answered`] comes. Its id stays reserved until the host answers or its deadline.
    pub fn abandon(&mut self, request: RequestHandle) {
        self.control.abandon(request);
    }

    /// The bus.
    pub fn bus_mut(&mut self) -> &mut B {
        &mut self.bus
    }

    /// One event of the bus, if there is one.
    fn take_bus_event<A: QueueAccess<B::Channel>>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        taken: &mut A,
    ) -> Result<bool, NicError<B::Error>> {
        let event = match self.bus.poll_event(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(event) => event.map_err(NicError::Bus)?,
        };
        match event {
            BusEvent::Offered(info) if info.is_primary() && self.primary.is_none() => {
                self.primary = Some(info.id);
                self.control.handle(now, Input::Offered);
            }
            BusEvent::Offered(info) if !info.is_primary() && self.primary.is_some() => {
                let queue = info.subchannel_index;
                if queue < MAX_QUEUES && self.subchannels.iter().all(|known| known.queue != queue) {
                    self.subchannels.push(Subchannel { queue, id: info.id, direct: None });
                }
                self.control.handle(now, Input::SubchannelOffered { queue });
            }
            BusEvent::Opened(channel) if self.primary == Some(channel) => self.opened(now, channel, taken),
            BusEvent::Opened(channel) => self.subchannel_opened(now, channel, taken),
            BusEvent::OpenFailed { channel, status } if self.primary == Some(channel) => {
                self.control.handle(now, Input::OpenFailed { status });
            }
            BusEvent::OpenFailed { channel, status } => {
                if let Some(queue) = self.subchannel(channel) {
                    self.control.handle(now, Input::SubchannelNotOpened { queue, status });
                }
            }
            BusEvent::GpadlCreated(gpadl) => self.control.handle(now, Input::GpadlCreated(gpadl)),
            BusEvent::GpadlFailed { gpadl, status } => self.control.handle(now, Input::GpadlFailed { gpadl, status }),
            BusEvent::GpadlTornDown(gpadl) => self.control.handle(now, Input::GpadlTornDown(gpadl)),
            BusEvent::Rescinded(channel) if self.primary == Some(channel) => self.rescinded(now),
            BusEvent::Rescinded(channel) => match self.subchannel(channel) {
                Some(queue) => self.control.handle(now, Input::SubchannelRescinded { queue }),
                // Closed already, as all are before their primary: the host wants the offer back.
                None => self.bus.close(channel),
            },
            BusEvent::Gone => self.rescinded(now),
            _ => {}
        }
        Ok(true)
    }

    /// Index of the subchannel with this number.
    fn subchannel(&self, id: RelId) -> Option<u16> {
        self.subchannels.iter().find(|known| known.id == id).map(|known| known.queue)
    }

    fn rescinded(&mut self, now: Instant) {
        self.blocked = None;
        self.control.handle(now, Input::Rescinded);
    }

    fn opened<A: QueueAccess<B::Channel>>(&mut self, now: Instant, channel: RelId, taken: &mut A) {
        let Some(channel) = self.bus.take(channel) else {
            // A bus that has no channel after all: nothing was opened.
            return self.control.handle(now, Input::OpenFailed { status: u32::MAX });
        };
        let input = match self.begin_queue(channel, taken) {
            Ok(()) => Input::Opened,
            Err(error) => Input::QueueFailed(error),
        };
        self.control.handle(now, input);
    }

    /// A queue for a channel: the one that was there before, if the device was changed.
    fn begin_queue<A: QueueAccess<B::Channel>>(
        &mut self,
        channel: B::Channel,
        taken: &mut A,
    ) -> Result<(), QueueError> {
        let index = channel.info().subchannel_index;
        let settings = self.control.queue_settings();
        let mut channel = Some(channel);
        let reopened = with_queue(&mut self.queues, taken, index, |queue| {
            channel.take().map_or(Ok(()), |channel| queue.reopen(channel, settings))
        });
        if let Some(channel) = channel {
            self.queues.push(Queue::new(channel, settings)?);
        }
        reopened.unwrap_or(Ok(()))
    }

    fn subchannel_opened<A: QueueAccess<B::Channel>>(&mut self, now: Instant, id: RelId, taken: &mut A) {
        // Opened although it was closed meanwhile: then nobody takes it.
        let Some(queue) = self.subchannel(id) else { return };
        let Some(channel) = self.bus.take(id) else {
            return self.control.handle(now, Input::SubchannelNotOpened { queue, status: u32::MAX });
        };
        // The index is that of the offer, as it is the channel's.
        if channel.info().subchannel_index != queue {
            return self.control.handle(now, Input::SubchannelNotOpened { queue, status: u32::MAX });
        }
        let input = match self.begin_queue(channel, taken) {
            Ok(()) => Input::SubchannelOpened { queue },
            Err(error) => Input::SubchannelFailed { queue, error },
        };
        self.control.handle(now, input);
    }

    /// All that the host said on the primary channel, apart from frames.
    fn take_control_inputs<A: QueueAccess<B::Channel>>(&mut self, now: Instant, taken: &mut A) -> bool {
        if self.control.is_over() {
            return false;
        }
        let Self { control, queues, blocked, position, .. } = self;
        let heard = with_queue(queues, taken, 0, |queue| {
            if let Err(error) = queue.pump() {
                *blocked = None;
                control.handle(now, Input::QueueFailed(error));
                return true;
            }
            let mut moved = false;
            // What is to be done to a virtual function has its place among the frames: nothing more is read before it is done.
            while (blocked.is_none() || control.vf().is_none())
                && let Some(input) = queue.poll_control()
            {
                moved = true;
                *position = queue.control_position();
                match &input {
                    ControlInput::Completed { token, payload } => {
                        control.handle(now, Input::Completed { token: *token, payload });
                    }
                    ControlInput::Message { payload, .. } => control.handle(now, Input::Nvsp { payload }),
                    ControlInput::Rndis { payload } => control.handle(now, Input::Rndis { payload }),
                }
                if control.vf().is_some() {
                    break;
                }
            }
            moved
        });
        let Some(mut moved) = heard else { return false };
        if self.control.is_draining() {
            self.drain(now, taken);
            // Over once nothing is outstanding; until then there is nothing new.
            moved |= !self.control.is_draining();
        }
        moved
    }

    /// Empties all queues, and says what is left. What was received is thrown away if the device is closed for good.
    fn drain<A: QueueAccess<B::Channel>>(&mut self, now: Instant, taken: &mut A) {
        let Self { control, queues, subchannels, .. } = self;
        let drain = if control.is_reconfiguring() { Queue::quiesce } else { drain };
        let mut unfinished = match with_queue(queues, taken, 0, drain) {
            None => return,
            Some(Ok(left)) => left,
            Some(Err(error)) => return control.handle(now, Input::QueueFailed(error)),
        };
        for subchannel in subchannels {
            // One whose rings are corrupt, or that was dropped, has nothing more to finish.
            if let Some(Ok(left)) = with_queue(queues, taken, subchannel.queue, drain) {
                unfinished += left;
            }
        }
        let Unfinished { sends, receives, held } = unfinished;
        control.handle(now, Input::Outstanding { sends, receives, held });
    }

    /// Once the device is up, its queues have to know the MTU: hosts accept longer frames and throw them away.
    fn tell_mtu<A: QueueAccess<B::Channel>>(&mut self, taken: &mut A) {
        let Some(mtu) = self.control.info().map(|info| info.mtu).filter(|_| !self.mtu_told) else { return };
        for index in core::iter::once(0).chain(self.subchannels.iter().map(|known| known.queue)) {
            // One that is gone sends nothing.
            let _ = with_queue(&mut self.queues, taken, index, |queue| queue.attach_mtu(mtu));
        }
        self.mtu_told = true;
    }

    /// The queues have to know what the host does for them, whenever it changes.
    fn tell_offloads<A: QueueAccess<B::Channel>>(&mut self, taken: &mut A) {
        let Some(offloads) = self.control.info().map(|info| info.offloads) else { return };
        if self.offloads_told == Some(offloads) {
            return;
        }
        for index in core::iter::once(0).chain(self.subchannels.iter().map(|known| known.queue)) {
            let _ = with_queue(&mut self.queues, taken, index, |queue| queue.attach_offloads(offloads));
        }
        self.offloads_told = Some(offloads);
    }

    /// Tells the bus how many subchannels should come, when that has changed.
    fn await_offers(&mut self) {
        let awaited = self.control.awaited_subchannels();
        if awaited != self.awaited {
            self.awaited = awaited;
            self.bus.await_offers(awaited);
        }
    }

    /// Does what the machine wants, until there is nothing more or no room.
    fn do_actions<A: QueueAccess<B::Channel>>(&mut self, now: Instant, taken: &mut A) -> bool {
        let mut moved = false;
        while let Some(action) = self.blocked.take().or_else(|| self.control.poll_action()) {
            match self.act(now, action, taken) {
                Outcome::Done => moved = true,
                Outcome::Blocked(action) => {
                    self.blocked = Some(action);
                    break;
                }
            }
        }
        moved
    }

    fn act<A: QueueAccess<B::Channel>>(&mut self, now: Instant, action: Action, taken: &mut A) -> Outcome {
        let Some(channel) = self.primary else { return Outcome::Done };
        match action {
            Action::Open(rings) => {
                self.not_opened = self.bus.open(channel, rings).is_err();
            }
            Action::Allocate(wish) => self.allocate(now, channel, wish, taken),
            Action::SendNvsp { message, token } => {
                let closing = self.control.step() == Step::Close;
                let sent = with_queue(&mut self.queues, taken, 0, |queue| queue.send_nvsp(&message, token));
                match sent {
                    Some(Ok(())) => {}
                    // A revoke that finds no room is no reason to stay open.
                    None | Some(Err(SendError::Full)) if !closing => {
                        return Outcome::Blocked(Action::SendNvsp { message, token });
                    }
                    None | Some(Err(SendError::Full)) => {}
                    Some(Err(error)) => self.not_sent(now, token, error),
                }
            }
            Action::SendRndis { message, token } => {
                let closing = self.control.step() == Step::Close;
                let sent = with_queue(&mut self.queues, taken, 0, |queue| queue.send_rndis_control(&message, token));
                match sent {
                    Some(Ok(())) => {}
                    // Whoever closes the device has let the queue go: nobody is left to say it.
                    None if closing => {
                        self.control.handle(now, Input::NotSent { token: Some(token), kind: vmbus::ErrorKind::Gone });
                    }
                    None | Some(Err(SendError::Full)) => {
                        return Outcome::Blocked(Action::SendRndis { message, token });
                    }
                    Some(Err(error)) => self.not_sent(now, Some(token), error),
                }
            }
            Action::AttachReceive { .. }
            | Action::AttachSend { .. }
            | Action::GrowSend { .. }
            | Action::ShareReceive { .. }
            | Action::AttachLimits(_) => {
                let memory = &self.memory;
                match with_queue(&mut self.queues, taken, 0, |queue| attach(queue, memory, &action)) {
                    None => return Outcome::Blocked(action),
                    Some(Ok(())) => {}
                    Some(Err(error)) => self.control.handle(now, Input::QueueFailed(error)),
                }
            }
            Action::OpenSubchannel { queue, rings } => {
                let offered = self.subchannels.iter().find(|known| known.queue == queue);
                if offered.is_none_or(|offered| self.bus.open(offered.id, rings).is_err()) {
                    self.control.handle(now, Input::SubchannelNotOpened { queue, status: u32::MAX });
                }
            }
            Action::AttachSubchannel(parts) => {
                let queue = parts.queue;
                if let Err(error) = self.attach_subchannel(channel, parts, taken) {
                    self.control.handle(now, Input::SubchannelFailed { queue, error });
                }
            }
            Action::CloseSubchannel { queue } => self.close_subchannel(channel, queue, taken),
            Action::Pause => self.pause(now, taken),
            Action::Resume => {
                for index in self.indices() {
                    with_queue(&mut self.queues, taken, index, Queue::resume);
                }
            }
            Action::Detach => self.detach(now, taken),
            Action::Vf(action) => self.vf_tasks.push_back(vf::Task { action, position: self.position }),
            Action::Release(purpose) => {
                if let Some(memory) = self.memory.of(purpose).and_then(Option::take) {
                    self.bus.release(channel, memory);
                }
            }
            Action::Close => self.bus.close(channel),
        }
        Outcome::Done
    }

    fn allocate<A: QueueAccess<B::Channel>>(&mut self, now: Instant, channel: RelId, wish: BufferWish, taken: &mut A) {
        let purpose = wish.purpose;
        let Ok(memory) = self.bus.allocate(channel, wish) else {
            return self.control.handle(now, Input::NotAllocated { purpose });
        };
        let (bytes, gpadl) = (memory.len(), memory.gpadl());
        if purpose == Purpose::Direct {
            let attached = with_queue(&mut self.queues, taken, 0, |queue| queue.attach_direct(memory.clone()));
            if !matches!(attached, Some(Ok(()))) {
                self.bus.release(channel, memory);
                return self.control.handle(now, Input::NotAllocated { purpose });
            }
        }
        if let Some(slot) = self.memory.of(purpose) {
            *slot = Some(memory);
        }
        self.control.handle(now, Input::Allocated { purpose, bytes, gpadl });
    }

    /// Gives a subchannel's queue its share of everything.
    fn attach_subchannel<A: QueueAccess<B::Channel>>(
        &mut self,
        primary: RelId,
        parts: QueueParts,
        taken: &mut A,
    ) -> Result<(), QueueError> {
        let index = parts.queue;
        let direct = match parts.direct_bytes {
            0 => None,
            // Without it the queue has its sections; if it has none of these either, it says so by its first send.
            bytes => self.bus.allocate(primary, BufferWish { purpose: Purpose::Direct, bytes }).ok(),
        };
        let memory = &self.memory;
        let attached = with_queue(&mut self.queues, taken, index, |queue| {
            queue.set_most_held(parts.most_held as usize);
            if let Some(memory) = &memory.receive {
                let Sections { section_bytes, count: sections, .. } = parts.receive;
                queue.attach_receive(receive_buffer(memory, section_bytes, sections))?;
                queue.set_most_waiting(parts.most_waiting as usize);
            }
            if let (Some(memory), Some((section_bytes, sections))) = (&memory.send, parts.send)
                && !sections.is_empty()
            {
                queue.attach_send(SendBuffer { memory: memory.clone(), section_bytes, sections })?;
            }
            if let Some(direct) = &direct {
                queue.attach_direct(direct.clone())?;
            }
            queue.attach_limits(parts.limits);
            Ok(())
        });
        if let (Some(direct), Some(known)) = (direct, self.subchannels.iter_mut().find(|known| known.queue == index)) {
            known.direct = Some(direct);
        }
        // `None` cannot be: it was made just now.
        attached.unwrap_or(Ok(()))
    }

    fn close_subchannel<A: QueueAccess<B::Channel>>(&mut self, primary: RelId, queue: u16, taken: &mut A) {
        let Some(at) = self.subchannels.iter().position(|known| known.queue == queue) else { return };
        let Subchannel { id, direct, .. } = self.subchannels.swap_remove(at);
        with_queue(&mut self.queues, taken, queue, Queue::detach_buffers);
        self.queues.retain(|held| held.index() != queue);
        self.bus.close(id);
        if let Some(direct) = direct {
            self.bus.release(primary, direct);
        }
    }

    /// The queues there are, the primary channel's last.
    fn indices(&self) -> Vec<u16> {
        self.subchannels.iter().map(|known| known.queue).chain([0]).collect()
    }

    /// No queue takes anything to send any more.
    fn pause<A: QueueAccess<B::Channel>>(&mut self, now: Instant, taken: &mut A) {
        for queue in self.indices() {
            match (queue, with_queue(&mut self.queues, taken, queue, Queue::pause)) {
                (_, None | Some(Ok(()))) => {}
                (0, Some(Err(error))) => self.control.handle(now, Input::QueueFailed(error)),
                (_, Some(Err(error))) => self.control.handle(now, Input::SubchannelFailed { queue, error }),
            }
        }
    }

    /// All queues let go of their buffers.
    fn detach<A: QueueAccess<B::Channel>>(&mut self, now: Instant, taken: &mut A) {
        let (mut sends, mut receives) = (0, 0);
        // The next session may have another one.
        self.mtu_told = false;
        self.offloads_told = None;
        for index in self.indices() {
            let aborted = with_queue(&mut self.queues, taken, index, Queue::detach_buffers).unwrap_or_default();
            sends += aborted.controls + usize::try_from(aborted.frames).unwrap_or(usize::MAX);
            receives += aborted.receive_packets;
        }
        self.control.handle(now, Input::Detached { sends, receives });
    }

    fn not_sent(&mut self, now: Instant, token: Option<crate::queue::ControlToken>, error: SendError) {
        let input = match error {
            SendError::Queue(error) => Input::QueueFailed(error),
            error => Input::NotSent { token, kind: vmbus::Error::kind(&error) },
        };
        self.control.handle(now, input);
    }
}

/// Gives the queue what the host granted.
fn attach<C: Channel>(queue: &mut Queue<C>, memory: &Memories<C::Memory>, action: &Action) -> Result<(), QueueError> {
    match (action, &memory.receive, &memory.send) {
        (&Action::AttachReceive { section_bytes, sections, most_waiting, most_held }, Some(memory), _) => {
            queue.set_most_waiting(most_waiting as usize);
            queue.set_most_held(most_held as usize);
            queue.attach_receive(receive_buffer(memory, section_bytes, sections))
        }
        (&Action::AttachSend { section_bytes, sections }, _, Some(memory)) => {
            queue.attach_send(SendBuffer { memory: memory.clone(), section_bytes, sections: 0..sections })
        }
        (&Action::GrowSend { sections }, ..) => queue.grow_send(sections),
        (&Action::ShareReceive { most_waiting, most_held }, ..) => {
            queue.set_most_waiting(most_waiting as usize);
            queue.set_most_held(most_held as usize);
            Ok(())
        }
        (&Action::AttachLimits(limits), ..) => {
            queue.attach_limits(limits);
            Ok(())
        }
        // The machine attaches only what was allocated.
        _ => Ok(()),
    }
}

fn receive_buffer<M: Clone>(memory: &M, section_bytes: u32, sections: u32) -> ReceiveBuffer<M> {
    ReceiveBuffer { memory: memory.clone(), set_id: nvsp::BufferId::RECEIVE.0, section_bytes, sections }
}

/// Sends what was taken and throws away what was received; what is left.
fn drain<C: Channel>(queue: &mut Queue<C>) -> Result<Unfinished, QueueError> {
    queue.flush()?;
    let mut nowhere = Nowhere(Vec::new());
    queue.receive(&mut nowhere, usize::MAX)?;
    Ok(queue.unfinished())
}

/// Takes frames and forgets them.
struct Nowhere(Vec<u8>);

impl FrameSink for Nowhere {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        self.0.get_mut(..len)
    }

    fn commit(&mut self, _len: usize, _meta: RxMeta) {}
}
