//! The adapter's task: drives the control machine of the core.
//!
//! It is woken by the bus, by the primary queue's task when control messages have come, by the handle's commands, and by
//! the machine's deadlines. The primary channel's queue is shared with the frames: its lock is taken for one turn.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use netvsc::{CloseReport, DeviceInfo, RequestHandle};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Sleep;
use vmbus::bus::Bus;

use crate::builder::NicBuilder;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::Event;
use crate::nic::{Command, Common, Nic};
use crate::open::{CloseError, OpenError, RequestError};
use crate::queue::{self, Queue, Shared};

/// Events that a reader may lag behind.
const EVENTS: usize = 256;
/// Turns without a pause, before other tasks of the runtime get theirs.
const TURNS: usize = 16;

type Answer = oneshot::Sender<Result<Vec<u8>, RequestError>>;
type Opened<B> = (Nic<B>, Vec<Queue<<B as Bus>::Channel>>);

/// Brings an adapter up.
pub(crate) async fn open<B: Bus>(builder: NicBuilder, clock: Arc<dyn Clock>, bus: B) -> Result<Opened<B>, OpenError> {
    let nic = netvsc::Nic::new(bus, builder.config, clock.now()).map_err(OpenError::Config)?;
    let (opened, result) = oneshot::channel();
    let task = Driver {
        nic,
        clock,
        builder,
        waker: Arc::new(AtomicWaker::new()),
        primary: None,
        sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        opened: Some(opened),
        running: None,
        requests: HashMap::new(),
        closing: Vec::new(),
        stalled: false,
        early: Vec::new(),
    };
    tokio::spawn(task.run());
    // The task answers or, if its runtime is shut down, vanishes.
    result.await.unwrap_or(Err(OpenError::Gone))
}

/// What there is once the adapter is up.
struct Running<B: Bus> {
    common: std::sync::Weak<Common<B>>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: broadcast::Sender<Event>,
}

struct Driver<B: Bus> {
    nic: netvsc::Nic<B>,
    clock: Arc<dyn Clock>,
    builder: NicBuilder,
    waker: Arc<AtomicWaker>,
    primary: Option<Arc<Shared<B::Channel>>>,
    sleep: Pin<Box<Sleep>>,
    opened: Option<oneshot::Sender<Result<Opened<B>, OpenError>>>,
    running: Option<Running<B>>,
    requests: HashMap<RequestHandle, Answer>,
    closing: Vec<oneshot::Sender<Result<CloseReport, CloseError>>>,
    stalled: bool,
    /// Events from before the adapter was up.
    early: Vec<Event>,
}

/// Whether the adapter has come to its end.
#[derive(PartialEq, Eq)]
enum Turn {
    GoOn,
    End,
}

impl<B: Bus> Driver<B> {
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        if let Some(primary) = &self.primary {
            primary.close(None);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        for _ in 0..TURNS {
            match self.turn(cx) {
                Err(error) => {
                    self.fail(error);
                    return Poll::Ready(());
                }
                Ok(Turn::End) => return Poll::Ready(()),
                Ok(Turn::GoOn) => {}
            }
            let now = self.clock.now();
            let Some(at) = self.next_timeout(now) else { return Poll::Pending };
            let rest = at.saturating_since(now);
            if rest.is_zero() {
                continue;
            }
            self.sleep.as_mut().reset(tokio::time::Instant::now() + rest);
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn next_timeout(&self, now: netvsc::Instant) -> Option<netvsc::Instant> {
        let machine = self.nic.next_timeout();
        let watchdog = self.running.as_ref().and_then(|_| {
            let mut core = self.primary.as_ref()?.lock();
            // Whoever sends wakes this task if it has no timer.
            core.watched = core.queue.outstanding() > 0;
            core.watched.then(|| now + self.builder.stall_limit / 2)
        });
        machine.into_iter().chain(watchdog).min()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, OpenError> {
        self.commands();
        let now = self.clock.now();
        {
            let mut core = self.primary.as_ref().map(|shared| shared.lock());
            let queue = core.as_mut().map(|core| &mut core.queue);
            self.nic
                .poll(now, cx, queue)
                .map_err(|error| OpenError::System { kind: error.kind(), message: error.to_string() })?;
            if let (Some(shared), Some(core)) = (&self.primary, &mut core) {
                shared.wake_users(core);
            }
        }
        if self.primary.is_none()
            && let Some(queue) = self.nic.take_queue()
        {
            self.start_queue(queue);
            // Its ring may hold the first answer already.
            cx.waker().wake_by_ref();
        }
        while let Some(event) = self.nic.poll_event() {
            if self.event(event) == Turn::End {
                return Ok(Turn::End);
            }
        }
        self.watch(now);
        Ok(Turn::GoOn)
    }

    /// Takes over what the handle asks for.
    fn commands(&mut self) {
        let now = self.clock.now();
        let Some(running) = &mut self.running else { return };
        while let Ok(command) = running.commands.try_recv() {
            let (request, answer) = match command {
                Command::SetPacketFilter(filter, answer) => (self.nic.set_packet_filter(now, filter), answer),
                Command::Query(oid, answer) => (self.nic.query(now, oid), answer),
                Command::Set(oid, value, answer) => (self.nic.set(now, oid, &value), answer),
                Command::Close(answer) => {
                    self.closing.push(answer);
                    self.nic.close(now);
                    continue;
                }
            };
            match request {
                Ok(handle) => {
                    self.requests.insert(handle, answer);
                }
                // Who asked may have gone.
                Err(error) => drop(answer.send(Err(RequestError::Failed(error.to_string())))),
            }
        }
        let nic = &mut self.nic;
        self.requests.retain(|&handle, answer| {
            let wanted = !answer.is_closed();
            if !wanted {
                nic.abandon(handle);
            }
            wanted
        });
    }

    /// The primary channel is open: from now on its queue is shared with its own task.
    fn start_queue(&mut self, mut queue: netvsc::queue::Queue<B::Channel>) {
        let index = queue.index();
        let interrupt = queue.take_interrupt();
        let shared =
            Arc::new(Shared::new(queue, Arc::clone(&self.clock), self.builder.tx_latency, Arc::clone(&self.waker)));
        if let Some(interrupt) = interrupt {
            let task = queue::run(Arc::clone(&shared), interrupt);
            match self.builder.queue_runtimes.iter().find(|(queue, _)| *queue == index) {
                Some((_, runtime)) => drop(runtime.spawn(task)),
                None => drop(tokio::spawn(task)),
            }
        }
        self.primary = Some(shared);
    }

    fn event(&mut self, event: netvsc::Event) -> Turn {
        use netvsc::Event as E;
        let event = match event {
            E::Ready(info) => {
                self.ready(*info);
                return Turn::GoOn;
            }
            E::Answered { request, result } => {
                if let Some(answer) = self.requests.remove(&request) {
                    // Who asked may have gone.
                    let _ = answer.send(result.map_err(RequestError::Request));
                }
                return Turn::GoOn;
            }
            E::LinkUp => Event::LinkUp,
            E::LinkDown => Event::LinkDown,
            E::LinkSpeed(speed) => Event::LinkSpeed(speed),
            E::NetworkChanged => Event::NetworkChanged,
            E::Warning(warning) => {
                tracing::warn!(%warning, "network adapter");
                Event::Warning(warning)
            }
            E::Violation(violation) => {
                tracing::warn!(%violation, "host broke the protocol");
                Event::Violation(violation.to_string())
            }
            E::Failed { step, cause, report: _ } => {
                self.fail(OpenError::Failed { step, cause });
                return Turn::End;
            }
            E::Closed(report) => {
                self.end(Ok(report), None);
                self.tell(Event::Closed(report));
                return Turn::End;
            }
            E::Gone(report) => {
                self.end(Ok(report), Some(Error::Gone));
                if let Some(opened) = self.opened.take() {
                    let _ = opened.send(Err(OpenError::Gone));
                }
                self.tell(Event::Gone(report));
                return Turn::End;
            }
            // Virtual functions and send tables are for several queues and paths.
            _ => return Turn::GoOn,
        };
        self.update_info();
        self.tell(event);
        Turn::GoOn
    }

    fn tell(&mut self, event: Event) {
        match &self.running {
            // Nobody may be listening.
            Some(running) => drop(running.events.send(event)),
            // The machine bounds how many a host can cause.
            None if self.early.len() < EVENTS => self.early.push(event),
            None => {}
        }
    }

    fn update_info(&self) {
        if let (Some(info), Some(common)) = (self.nic.info(), self.running.as_ref().and_then(|r| r.common.upgrade())) {
            *common.info.lock().unwrap_or_else(PoisonError::into_inner) = info.clone();
        }
    }

    /// The adapter is up: hands it to whoever opened it.
    fn ready(&mut self, info: DeviceInfo) {
        let (Some(opened), Some(primary)) = (self.opened.take(), &self.primary) else { return };
        primary.lock().queue.attach_mtu(info.mtu);
        tracing::info!(nvsp = %info.nvsp_version, mac = %info.mac, mtu = info.mtu, "network adapter is up");
        // Ethernet header and a VLAN tag.
        let options = self.builder.queue_options(info.mtu as usize + 18);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (events, first) = broadcast::channel(EVENTS);
        for event in self.early.drain(..) {
            let _ = events.send(event);
        }
        let common = Arc::new(Common {
            commands,
            task: Arc::clone(&self.waker),
            events: events.clone(),
            first_events: Mutex::new(Some(first)),
            info: Mutex::new(info),
            queues: vec![Arc::clone(primary)],
        });
        self.running = Some(Running { common: Arc::downgrade(&common), commands: receiver, events });
        let queue = Queue::new(Arc::clone(primary), 0, options);
        // Who no longer wants it drops it, and that closes it.
        let _ = opened.send(Ok((Nic::new(common), vec![queue])));
    }

    /// Reports sends that the host does nothing with.
    fn watch(&mut self, now: netvsc::Instant) {
        let (Some(primary), Some(_)) = (&self.primary, &self.running) else { return };
        let (stalled, outstanding, queue) = {
            let mut core = primary.lock();
            let stalled = core.queue.stalled_for(now).is_some_and(|time| time >= self.builder.stall_limit);
            (stalled, core.queue.outstanding(), core.queue.index())
        };
        if stalled && !self.stalled {
            tracing::warn!(queue, outstanding, "the host makes no progress");
            self.tell(Event::Stalled { queue, outstanding });
        }
        self.stalled = stalled;
    }

    fn fail(&mut self, error: OpenError) {
        tracing::error!(%error, "network adapter failed");
        self.tell(Event::Failed(error.to_string()));
        self.end(Err(CloseError::Failed), Some(Error::Closed));
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(error));
        }
    }

    /// Ends the queues, then answers everybody who waits.
    fn end(&mut self, result: Result<CloseReport, CloseError>, failure: Option<Error>) {
        if let Some(primary) = &self.primary {
            primary.close(failure);
        }
        for answer in self.closing.drain(..) {
            let _ = answer.send(result);
        }
        for (_, answer) in self.requests.drain() {
            let _ = answer.send(Err(RequestError::Closed));
        }
    }
}
