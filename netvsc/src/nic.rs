//! [`Nic`]: the control machine at work on a bus.
//!
//! A loop without a protocol decision of its own: bus events and control messages go into [`Control`], its actions are done
//! on the bus and on the primary channel's queue. It owns the memory; the queue has clones of it.

use alloc::vec::Vec;
use core::fmt;
use core::task::{Context, Poll};

use rndis::Oid;
use rndis::value::PacketFilter;
use vmbus::bus::{BufferWish, Bus, BusEvent, Channel, Purpose, RelId};
use vmbus::memory::SharedMemory;

use crate::config::{Config, ConfigError};
use crate::control::{Action, Control, Counters, Event, Input, RequestHandle, Step};
use crate::error::NicError;
use crate::info::DeviceInfo;
use crate::meta::RxMeta;
use crate::queue::{ControlInput, FrameSink, Queue, QueueError, QueueSettings, ReceiveBuffer, SendBuffer, SendError};
use crate::time::Instant;

/// Rounds of one [`Nic::poll`]; if there is more to do, it asks to be polled again.
const MAX_ROUNDS: usize = 64;

/// A network adapter: brings itself up on a [`Bus`], keeps its control side going, and is closed in the right order.
///
/// Dropping it closes nothing: the host then keeps the buffers until the VM ends. See [`close`](Self::close).
pub struct Nic<B: Bus> {
    bus: B,
    control: Control,
    primary: Option<RelId>,
    /// Until it is taken.
    queue: Option<Queue<B::Channel>>,
    memory: Memories<B::Memory>,
    /// An action for which there was no room in the ring, or no queue.
    blocked: Option<Action>,
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
            queue: None,
            memory: Memories { receive: None, send: None, direct: None },
            blocked: None,
        })
    }

    /// Does all that can be done now: bus events, control messages of `primary`, timeouts, and one step of a host that
    /// shares the thread. The bus keeps the waker; the queue's interrupt is the caller's to wait for, and a reason to poll.
    ///
    /// `primary` is the queue that [`take_queue`](Self::take_queue) gave. While the device is being closed, frames that
    /// nobody received are thrown away here, so that the host gets its sections back.
    ///
    /// # Errors
    /// [`NicError::Bus`]: the device is unusable then.
    pub fn poll(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        mut primary: Option<&mut Queue<B::Channel>>,
    ) -> Result<(), NicError<B::Error>> {
        if self.control.poll_timeout().is_some_and(|due| due <= now) {
            let before = self.control.counters().timeouts;
            self.control.handle_timeout(now);
            if self.control.counters().timeouts != before {
                // The machine went on without what could not be sent.
                self.blocked = None;
            }
        }
        let host_moved = self.bus.run_host();
        for _ in 0..MAX_ROUNDS {
            let mut moved = self.take_bus_event(now, cx)?;
            moved |= self.take_control_inputs(now, primary.as_deref_mut());
            moved |= self.do_actions(now, primary.as_deref_mut());
            if !moved {
                if host_moved {
                    // It may have more to say once it runs again.
                    cx.waker().wake_by_ref();
                }
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The primary channel's queue, once it is open (long before [`Event::Ready`]). From then on the caller passes it to
    /// [`poll`](Self::poll).
    pub fn take_queue(&mut self) -> Option<Queue<B::Channel>> {
        self.queue.take()
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

    /// Whether the last event was given.
    pub fn is_over(&self) -> bool {
        self.control.is_over()
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

    /// Gives up on a request: no [`Event::Answered`] comes. Its id stays reserved until the host answers or its deadline.
    pub fn abandon(&mut self, request: RequestHandle) {
        self.control.abandon(request);
    }

    /// The bus.
    pub fn bus_mut(&mut self) -> &mut B {
        &mut self.bus
    }

    /// One event of the bus, if there is one.
    fn take_bus_event(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<bool, NicError<B::Error>> {
        let event = match self.bus.poll_event(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(event) => event.map_err(NicError::Bus)?,
        };
        let ours = |channel| self.primary == Some(channel);
        match event {
            BusEvent::Offered(info) if info.is_primary() && self.primary.is_none() => {
                self.primary = Some(info.id);
                self.control.handle(now, Input::Offered);
            }
            BusEvent::Opened(channel) if ours(channel) => self.opened(now, channel),
            BusEvent::OpenFailed { channel, status } if ours(channel) => {
                self.control.handle(now, Input::OpenFailed { status });
            }
            BusEvent::GpadlCreated(gpadl) => self.control.handle(now, Input::GpadlCreated(gpadl)),
            BusEvent::GpadlFailed { gpadl, status } => self.control.handle(now, Input::GpadlFailed { gpadl, status }),
            BusEvent::GpadlTornDown(gpadl) => self.control.handle(now, Input::GpadlTornDown(gpadl)),
            BusEvent::Rescinded(channel) if ours(channel) => self.rescinded(now),
            BusEvent::Gone => self.rescinded(now),
            // Subchannels are not asked for.
            _ => {}
        }
        Ok(true)
    }

    fn rescinded(&mut self, now: Instant) {
        self.blocked = None;
        self.control.handle(now, Input::Rescinded);
    }

    fn opened(&mut self, now: Instant, channel: RelId) {
        let Some(channel) = self.bus.take(channel) else {
            // A bus that has no channel after all: nothing was opened.
            return self.control.handle(now, Input::OpenFailed { status: u32::MAX });
        };
        match Queue::new(channel, QueueSettings::default()) {
            Ok(queue) => {
                self.queue = Some(queue);
                self.control.handle(now, Input::Opened);
            }
            Err(error) => self.control.handle(now, Input::QueueFailed(error)),
        }
    }

    /// All that the host said on the primary channel, apart from frames.
    fn take_control_inputs(&mut self, now: Instant, primary: Option<&mut Queue<B::Channel>>) -> bool {
        let Some(queue) = primary.or(self.queue.as_mut()) else { return false };
        if self.control.is_over() {
            return false;
        }
        let mut moved = false;
        match queue.pump() {
            Ok(_) => {}
            Err(error) => {
                self.blocked = None;
                self.control.handle(now, Input::QueueFailed(error));
                return true;
            }
        }
        while let Some(input) = queue.poll_control() {
            moved = true;
            match &input {
                ControlInput::Completed { token, payload } => {
                    self.control.handle(now, Input::Completed { token: *token, payload });
                }
                ControlInput::Message { payload, .. } => self.control.handle(now, Input::Nvsp { payload }),
                ControlInput::Rndis { payload } => self.control.handle(now, Input::Rndis { payload }),
            }
        }
        if self.control.is_draining() {
            match drain(queue) {
                Ok((sends, receives)) => self.control.handle(now, Input::Outstanding { sends, receives }),
                Err(error) => self.control.handle(now, Input::QueueFailed(error)),
            }
            // Over once nothing is outstanding; until then there is nothing new.
            moved |= !self.control.is_draining();
        }
        moved
    }

    /// Does what the machine wants, until there is nothing more or no room.
    fn do_actions(&mut self, now: Instant, mut primary: Option<&mut Queue<B::Channel>>) -> bool {
        let mut moved = false;
        while let Some(action) = self.blocked.take().or_else(|| self.control.poll_action()) {
            match self.act(now, action, primary.as_deref_mut()) {
                Outcome::Done => moved = true,
                Outcome::Blocked(action) => {
                    self.blocked = Some(action);
                    break;
                }
            }
        }
        moved
    }

    fn act(&mut self, now: Instant, action: Action, primary: Option<&mut Queue<B::Channel>>) -> Outcome {
        let Some(channel) = self.primary else { return Outcome::Done };
        match action {
            Action::Open(rings) => {
                if self.bus.open(channel, rings).is_err() {
                    self.control.handle(now, Input::OpenFailed { status: u32::MAX });
                }
            }
            Action::Allocate(wish) => self.allocate(now, channel, wish, primary),
            Action::SendNvsp { message, token } => {
                let closing = self.control.step() == Step::Close;
                let sent = primary.or(self.queue.as_mut()).map(|queue| queue.send_nvsp(&message, token));
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
                let sent = primary.or(self.queue.as_mut()).map(|queue| queue.send_rndis_control(&message, token));
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
            Action::AttachReceive { .. } | Action::AttachSend { .. } | Action::AttachLimits(_) => {
                let Some(queue) = primary.or(self.queue.as_mut()) else { return Outcome::Blocked(action) };
                if let Err(error) = attach(queue, &self.memory, &action) {
                    self.control.handle(now, Input::QueueFailed(error));
                }
            }
            Action::Detach => {
                let aborted = primary.or(self.queue.as_mut()).map(Queue::detach_buffers).unwrap_or_default();
                let sends = aborted.controls + usize::try_from(aborted.frames).unwrap_or(usize::MAX);
                self.control.handle(now, Input::Detached { sends, receives: aborted.receive_packets });
            }
            Action::Release(purpose) => {
                if let Some(memory) = self.memory.of(purpose).and_then(Option::take) {
                    self.bus.release(channel, memory);
                }
            }
            Action::Close => self.bus.close(channel),
        }
        Outcome::Done
    }

    fn allocate(&mut self, now: Instant, channel: RelId, wish: BufferWish, primary: Option<&mut Queue<B::Channel>>) {
        let purpose = wish.purpose;
        let Ok(memory) = self.bus.allocate(channel, wish) else {
            return self.control.handle(now, Input::NotAllocated { purpose });
        };
        let (bytes, gpadl) = (memory.len(), memory.gpadl());
        if purpose == Purpose::Direct {
            let queue = primary.or(self.queue.as_mut());
            if queue.is_none_or(|queue| queue.attach_direct(memory.clone()).is_err()) {
                self.bus.release(channel, memory);
                return self.control.handle(now, Input::NotAllocated { purpose });
            }
        }
        if let Some(slot) = self.memory.of(purpose) {
            *slot = Some(memory);
        }
        self.control.handle(now, Input::Allocated { purpose, bytes, gpadl });
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
        (&Action::AttachReceive { section_bytes, sections }, Some(memory), _) => queue.attach_receive(ReceiveBuffer {
            memory: memory.clone(),
            set_id: nvsp::BufferId::RECEIVE.0,
            section_bytes,
            sections,
        }),
        (&Action::AttachSend { section_bytes, sections }, _, Some(memory)) => {
            queue.attach_send(SendBuffer { memory: memory.clone(), section_bytes, sections: 0..sections })
        }
        (&Action::AttachLimits(limits), ..) => {
            queue.attach_limits(limits);
            Ok(())
        }
        // The machine attaches only what was allocated.
        _ => Ok(()),
    }
}

/// Sends what was taken and throws away what was received; what is left: sends, receive packets.
fn drain<C: Channel>(queue: &mut Queue<C>) -> Result<(usize, usize), QueueError> {
    queue.flush()?;
    let mut nowhere = Nowhere(Vec::new());
    queue.receive(&mut nowhere, usize::MAX)?;
    Ok((queue.outstanding(), queue.backlog() + queue.owed_acks()))
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
