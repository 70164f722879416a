//! The adapter's task: drives the control machine of the core.
//!
//! It is woken by the bus, by the primary queue's task when control messages have come, by the handle's commands, and by
//! the machine's deadlines. The queues are shared with the frames: each lock is taken for one look.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use netvsc::{CloseReport, DeviceInfo, NicError, QueueAccess, QueueError, RequestHandle};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Sleep;
use vmbus::bus::{Bus, Channel};

use crate::builder::NicBuilder;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::Event;
use crate::nic::{Command, Common, Nic};
use crate::open::{CloseError, OpenError, RequestError};
use crate::queue::{self, Queue, Shared};
use crate::reconfigure::{Change, Changed, ReconfigureError};
use crate::steering::Steering;
use crate::vf::{VfSide, VfStatus};

/// Events that a reader may lag behind.
const EVENTS: usize = 256;
/// How often queues are asked whether the host has completed their sends, while the adapter is closed.
const DRAIN_INTERVAL: Duration = Duration::from_millis(1);
/// How often the host's progress is looked at, whatever the limit: a limit of zero must not keep the task running, and one
/// that means never must not be more than a timer takes.
const WATCH_SHORTEST: Duration = Duration::from_millis(1);
const WATCH_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether a batch that is kept open was dropped.
const HELD_INTERVAL: Duration = Duration::from_millis(1);
/// Turns without a pause, before other tasks of the runtime get theirs.
const TURNS: usize = 16;

type Answer = oneshot::Sender<Result<Vec<u8>, RequestError>>;
/// What a virtual function's device does about a wish.
type Asked = BoxFuture<'static, io::Result<()>>;
type Opened<B> = (Nic<B>, Vec<Queue<<B as Bus>::Channel>>);

/// What the host was asked for by the handle.
struct Request {
    answer: Answer,
    /// It sets what the virtual function was set to before.
    mirrored: bool,
}

/// Brings an adapter up.
pub(crate) async fn open<B: Bus>(builder: NicBuilder, clock: Arc<dyn Clock>, bus: B) -> Result<Opened<B>, OpenError> {
    let mut nic = netvsc::Nic::new(bus, builder.config, clock.now()).map_err(OpenError::Config)?;
    let vf = builder.vf.clone().map(|backend| {
        nic.use_vf(clock.now(), builder.vf_settings);
        VfSide::new(backend, builder.config.tags_are_reinserted())
    });
    let (opened, result) = oneshot::channel();
    let task = Driver {
        nic,
        clock,
        builder,
        waker: Arc::new(AtomicWaker::new()),
        lanes: Vec::new(),
        sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        opened: Some(opened),
        running: None,
        requests: HashMap::new(),
        waiting: VecDeque::new(),
        change: None,
        first_vf: None,
        vf,
        closing: Vec::new(),
        early: Vec::new(),
    };
    tokio::spawn(task.run());
    // The task answers or, if its runtime is shut down, vanishes.
    result.await.unwrap_or(Err(OpenError::Gone))
}

/// What there is once the adapter is up.
struct Running<B: Bus> {
    common: std::sync::Weak<Common<B>>,
    commands: mpsc::UnboundedReceiver<Command<B::Channel>>,
    events: broadcast::Sender<Event>,
}

/// A queue as the adapter's task sees it.
struct Lane<C: Channel> {
    index: u16,
    shared: Arc<Shared<C>>,
    /// It was reported that the host makes no progress.
    stalled: bool,
    /// The control machine knows that it has ended.
    gone: bool,
    /// Its [`Queue`] was made.
    handed_out: bool,
    /// The last batch that was found open.
    batch: Option<u32>,
}

/// A change of the adapter on its way.
struct Changing<C: Channel> {
    request: RequestHandle,
    takes_queues: bool,
    answer: oneshot::Sender<Result<Changed<C>, ReconfigureError>>,
}

/// The queues, for the control machine: it takes the lock of the one that it needs.
struct Lanes<'a, C: Channel>(&'a [Lane<C>]);

impl<C: Channel> QueueAccess<C> for Lanes<'_, C> {
    fn with_queue<R>(&mut self, index: u16, work: impl FnOnce(&mut netvsc::Queue<C>) -> R) -> Option<R> {
        let lane = self.0.iter().find(|lane| lane.index == index)?;
        let mut core = lane.shared.lock();
        if index == 0
            && let Some(vf) = &mut core.vf
        {
            // What the host says there has its place among the frames: let go of once what follows from it was done.
            vf.hold();
        }
        let result = work(&mut core.queue);
        lane.shared.wake_users(&mut core);
        lane.shared.follow(&mut core);
        Some(result)
    }
}

struct Driver<B: Bus> {
    nic: netvsc::Nic<B>,
    clock: Arc<dyn Clock>,
    builder: NicBuilder,
    waker: Arc<AtomicWaker>,
    lanes: Vec<Lane<B::Channel>>,
    sleep: Pin<Box<Sleep>>,
    opened: Option<oneshot::Sender<Result<Opened<B>, OpenError>>>,
    running: Option<Running<B>>,
    requests: HashMap<RequestHandle, Request>,
    /// Not begun yet, as the adapter is being changed.
    waiting: VecDeque<Command<B::Channel>>,
    change: Option<Changing<B::Channel>>,
    /// What the virtual function is asked for first, and the command that does the same to the adapter.
    first_vf: Option<(Asked, Command<B::Channel>)>,
    vf: Option<VfSide>,
    closing: Vec<oneshot::Sender<Result<CloseReport, CloseError>>>,
    /// Events from before the adapter was up.
    early: Vec<Event>,
}

impl<B: Bus> Drop for Driver<B> {
    /// The task may be dropped with its runtime, or panic: whoever uses a queue on another runtime must not wait for ever. Nor may
    /// this: a lock may be held, as by an open batch, by who drops the runtime.
    fn drop(&mut self) {
        let lanes = self.shared_lanes();
        if let Some(side) = &mut self.vf {
            side.give_up_at_once(&lanes);
        }
        self.forget_device();
        for lane in &self.lanes {
            // Nothing if it has ended in order.
            lane.shared.close(Some(Error::Gone));
        }
    }
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
        for lane in &self.lanes {
            lane.shared.close(None);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let mut held = false;
        for lane in &mut self.lanes {
            held |= lane.shared.is_held(&mut lane.batch);
        }
        if held {
            return self.sleep(cx, HELD_INTERVAL);
        }
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

    /// Not over: polled again after `time`.
    fn sleep(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<()> {
        self.sleep.as_mut().reset(tokio::time::Instant::now() + time);
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn next_timeout(&self, now: netvsc::Instant) -> Option<netvsc::Instant> {
        let machine = self.nic.next_timeout();
        let watchdog = self.running.as_ref().and_then(|_| {
            let mut outstanding = false;
            for lane in &self.lanes {
                let mut core = lane.shared.lock();
                // Whoever sends wakes this task if it has no timer.
                core.watched = core.queue.outstanding() > 0;
                outstanding |= core.watched;
            }
            outstanding.then(|| now + (self.builder.stall_limit / 2).clamp(WATCH_SHORTEST, WATCH_LONGEST))
        });
        // The completions wake the queues' tasks, not this one.
        let draining = self.nic.is_draining().then(|| now + DRAIN_INTERVAL);
        machine.into_iter().chain(watchdog).chain(draining).min()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, OpenError> {
        self.commands(cx);
        let now = self.clock.now();
        self.report_failed_queues(now);
        self.poll_nic(now, cx)?;
        self.poll_vf(now, cx)?;
        while let Some(queue) = self.nic.take_queue() {
            self.start_queue(queue);
            // Its ring may hold the first answer already.
            cx.waker().wake_by_ref();
        }
        while let Some(event) = self.nic.poll_event() {
            if self.event(event) == Turn::End {
                return Ok(Turn::End);
            }
        }
        if self.change.is_none() && self.first_vf.is_none() && !self.waiting.is_empty() {
            // What they waited for may be over.
            cx.waker().wake_by_ref();
        }
        self.watch(now);
        Ok(Turn::GoOn)
    }

    fn poll_nic(&mut self, now: netvsc::Instant, cx: &mut Context<'_>) -> Result<(), OpenError> {
        self.nic
            .poll_queues(now, cx, &mut Lanes(&self.lanes))
            .map_err(|error| OpenError::System { kind: error.kind(), message: error.to_string() })
    }

    /// Does what is to be done to the virtual function, and says what happened to it.
    fn poll_vf(&mut self, now: netvsc::Instant, cx: &mut Context<'_>) -> Result<(), OpenError> {
        let lanes = self.shared_lanes();
        for _ in 0..TURNS {
            let Some(side) = &mut self.vf else { return Ok(()) };
            let mut moved = false;
            while let Some(task) = self.nic.poll_vf() {
                moved = true;
                if let Some(input) = side.act(task, &lanes, self.nic.info()) {
                    self.nic.handle_vf(now, input);
                }
            }
            if let Some(input) = side.poll(cx, &lanes, self.nic.info()) {
                moved = true;
                self.nic.handle_vf(now, input);
            }
            if !moved {
                self.vf_is_done(&lanes);
                return Ok(());
            }
            self.poll_nic(now, cx)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Nothing is to be done to the virtual function now.
    fn vf_is_done(&mut self, lanes: &[Arc<Shared<B::Channel>>]) {
        if let Some(primary) = lanes.first()
            && let Some(vf) = &mut primary.lock().vf
            && vf.let_go()
        {
            primary.receiver_may_go_on();
        }
        if let Some(status) = self.vf_status()
            && let Some(common) = self.running.as_ref().and_then(|running| running.common.upgrade())
        {
            *common.vf.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        }
    }

    fn vf_status(&self) -> Option<VfStatus> {
        let (side, machine) = (self.vf.as_ref()?, self.nic.vf()?);
        Some(VfStatus {
            stage: machine.stage(),
            serial: machine.association(),
            counters: *machine.counters(),
            device: side.device().cloned(),
        })
    }

    /// In order, if there is a virtual function to be cared for.
    fn shared_lanes(&self) -> Vec<Arc<Shared<B::Channel>>> {
        if self.vf.is_none() {
            return Vec::new();
        }
        let mut lanes: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.shared)).collect();
        lanes.sort_by_key(|shared| shared.index);
        lanes
    }

    /// The adapter ends: the virtual function's device is closed, if it has not been.
    fn give_vf_up(&mut self) {
        let lanes = self.shared_lanes();
        if let Some(side) = &mut self.vf {
            side.give_up(&lanes);
        }
        self.forget_device();
    }

    /// The virtual function's device is closed.
    fn forget_device(&self) {
        if let Some(common) = self.running.as_ref().and_then(|running| running.common.upgrade())
            && let Some(status) = &mut *common.vf.lock().unwrap_or_else(PoisonError::into_inner)
        {
            status.device = None;
        }
    }

    /// Takes over what the handle asks for.
    fn commands(&mut self, cx: &mut Context<'_>) {
        let now = self.clock.now();
        let Some(running) = &mut self.running else { return };
        while let Ok(command) = running.commands.try_recv() {
            match command {
                // Whatever goes on.
                Command::Close(answer) => {
                    self.closing.push(answer);
                    self.nic.close(now);
                }
                command => self.waiting.push_back(command),
            }
        }
        self.poll_first_vf(now, cx);
        while self.change.is_none()
            && self.first_vf.is_none()
            && let Some(command) = self.waiting.pop_front()
        {
            match self.of_vf(&command) {
                Some(asked) => {
                    self.first_vf = Some((asked, command));
                    self.poll_first_vf(now, cx);
                }
                None => {
                    if !self.execute(now, command) {
                        break;
                    }
                }
            }
        }
        let nic = &mut self.nic;
        self.requests.retain(|&handle, request| {
            let wanted = !request.answer.is_closed();
            if !wanted {
                nic.abandon(handle);
            }
            wanted
        });
    }

    /// What the virtual function is asked for before the adapter is.
    fn of_vf(&mut self, command: &Command<B::Channel>) -> Option<Asked> {
        let side = self.vf.as_mut()?;
        match command {
            Command::SetPacketFilter(filter, _) => side.set_promiscuous(*filter),
            Command::Reconfigure(change) if !change.answer.is_closed() => side.set_mtu(change.parameters.wished_mtu()?),
            _ => None,
        }
    }

    /// Once the virtual function does what was asked for, the adapter does; if not, neither.
    fn poll_first_vf(&mut self, now: netvsc::Instant, cx: &mut Context<'_>) {
        let Some((asked, _)) = &mut self.first_vf else { return };
        let Poll::Ready(result) = asked.as_mut().poll(cx) else { return };
        let Some((_, command)) = self.first_vf.take() else { return };
        // One that was taken away meanwhile has no say.
        let is_gone = self.vf.as_ref().is_none_or(|side| side.device().is_none());
        let error = match result {
            Err(error) if !is_gone => error,
            _ => {
                self.execute(now, command);
                return;
            }
        };
        tracing::warn!(%error, "the virtual function refused a setting");
        self.vf_is_as_the_adapter();
        // Who asked may have gone.
        match command {
            Command::SetPacketFilter(_, answer) => {
                let text = format!("the virtual function refused the packet filter: {error}");
                let _ = answer.send(Err(RequestError::Failed(text)));
            }
            Command::Reconfigure(change) => {
                let _ = change.answer.send(Err(ReconfigureError::VirtualFunction { kind: error.kind() }));
            }
            _ => {}
        }
    }

    /// Puts back what was set on the virtual function for an adapter that is not so.
    fn vf_is_as_the_adapter(&mut self) {
        let is_set = self.requests.values().all(|request| !request.mirrored);
        if is_set
            && self.first_vf.is_none()
            && self.change.is_none()
            && let (Some(side), Some(info)) = (&mut self.vf, self.nic.info())
        {
            side.put_back(info);
            // It is polled with the rest.
            self.waker.wake();
        }
    }

    /// Does what the handle asks for; false if it has to wait.
    fn execute(&mut self, now: netvsc::Instant, command: Command<B::Channel>) -> bool {
        let mirrored = matches!(command, Command::SetPacketFilter(..));
        let (request, answer) = match command {
            Command::SetPacketFilter(filter, answer) => (self.nic.set_packet_filter(now, filter), answer),
            Command::Query(oid, answer) => (self.nic.query(now, oid), answer),
            Command::Set(oid, value, answer) => (self.nic.set(now, oid, &value), answer),
            Command::SetRss(settings, answer) => (self.nic.set_rss(now, settings), answer),
            Command::SetOffloads(settings, answer) => (self.nic.set_offloads(now, settings), answer),
            Command::Reconfigure(change) if change.answer.is_closed() => {
                // The virtual function may have been asked before.
                self.vf_is_as_the_adapter();
                return true;
            }
            Command::Reconfigure(change) => match self.begin_change(now, change) {
                None => {
                    self.vf_is_as_the_adapter();
                    return true;
                }
                Some(later) => {
                    self.waiting.push_front(Command::Reconfigure(later));
                    return false;
                }
            },
            Command::Close(_) => return true,
        };
        match request {
            Ok(handle) => {
                self.requests.insert(handle, Request { answer, mirrored });
            }
            Err(error) => {
                self.vf_is_as_the_adapter();
                // Who asked may have gone.
                let _ = answer.send(Err(RequestError::Failed(error.to_string())));
            }
        }
        true
    }

    /// Begins a change; gives it back if that is not possible yet.
    fn begin_change(&mut self, now: netvsc::Instant, change: Change<B::Channel>) -> Option<Change<B::Channel>> {
        let error = match self.nic.reconfigure(now, change.parameters) {
            Ok(request) => {
                let Change { takes_queues, answer, .. } = change;
                self.change = Some(Changing { request, takes_queues, answer });
                return None;
            }
            // The way that frames are spread is being changed: that ends with an event.
            Err(NicError::Busy) => return Some(change),
            Err(NicError::Config(error)) => ReconfigureError::Config(error),
            Err(NicError::Rss(error)) => ReconfigureError::Rss(error),
            Err(_) => ReconfigureError::Closed,
        };
        // Who asked may have gone.
        let _ = change.answer.send(Err(error));
        None
    }

    /// The adapter is down: queues that had ended do not come back with it.
    fn detached(&mut self) {
        self.lanes.retain(|lane| !lane.gone);
    }

    /// The adapter is up again: queues beyond its number end in order, after what they have received.
    fn attached(&mut self, queues: u16, mtu: u32) {
        self.lanes.sort_by_key(|lane| lane.index);
        let frame_bytes = self.builder.queue_options(mtu).room_for_frame();
        for lane in &self.lanes {
            lane.shared.frame_bytes.store(frame_bytes, Ordering::Relaxed);
        }
        for lane in self.lanes.extract_if(.., |lane| lane.index >= queues) {
            lane.shared.close(None);
        }
        if let Some(common) = self.running.as_ref().and_then(|running| running.common.upgrade()) {
            common.unclaimed().retain(|queue| queue.index() < queues);
            let shared = self.lanes.iter().map(|lane| Arc::clone(&lane.shared)).collect();
            *common.queues.lock().unwrap_or_else(PoisonError::into_inner) = shared;
        }
    }

    /// A change is over: says so to whoever asked for it, and gives the queues that came with it.
    fn changed(&mut self, request: RequestHandle, result: Result<(), netvsc::control::ReconfigureError>) {
        let Some(Changing { takes_queues, answer, .. }) = self.change.take_if(|change| change.request == request)
        else {
            return;
        };
        match (result, self.nic.info()) {
            (Ok(()), Some(info)) => {
                let info = info.clone();
                let mut queues = self.hand_out(info.mtu, takes_queues);
                // Without a handle the adapter is closed soon.
                let Some(common) = self.running.as_ref().and_then(|running| running.common.upgrade()) else { return };
                if takes_queues {
                    queues.append(&mut common.unclaimed());
                    queues.sort_by_key(Queue::index);
                }
                if let Err(Ok(Changed { queues, .. })) = answer.send(Ok(Changed { info, queues })) {
                    common.unclaimed().extend(queues);
                }
            }
            (result, info) => {
                if let Some(mtu) = info.map(|info| info.mtu) {
                    let unasked = self.hand_out(mtu, false);
                    debug_assert!(unasked.is_empty(), "nobody takes them");
                }
                // Who asked may have gone.
                let _ = answer.send(Err(result.err().map_or(ReconfigureError::Closed, ReconfigureError::from)));
            }
        }
    }

    /// Makes the queues of new channels, for whoever takes them. If nobody does, the host is told to put nothing on these:
    /// they replace queues that had ended before the adapter was changed for another reason.
    fn hand_out(&mut self, mtu: u32, taken: bool) -> Vec<Queue<B::Channel>> {
        let options = self.builder.queue_options(mtu);
        let now = self.clock.now();
        let mut queues = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| !lane.handed_out) {
            lane.handed_out = true;
            if taken {
                queues.push(Queue::new(Arc::clone(&lane.shared), lane.index, options));
            } else {
                self.nic.queue_failed(now, lane.index, QueueError::Doorbell { kind: vmbus::ErrorKind::Gone });
            }
        }
        queues
    }

    /// Subchannels that broke: the host is told to use them no more. The primary channel's end is seen by the machine.
    fn report_failed_queues(&mut self, now: netvsc::Instant) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.index > 0 && !lane.gone) {
            if let Some(Err(Error::Queue(error))) = lane.shared.ended() {
                lane.gone = true;
                self.nic.queue_failed(now, lane.index, error);
            }
        }
    }

    /// A channel is open: from now on its queue is shared with its own task.
    fn start_queue(&mut self, mut queue: netvsc::queue::Queue<B::Channel>) {
        let index = queue.index();
        let interrupt = queue.take_interrupt();
        let (clock, control) = (Arc::clone(&self.clock), Arc::clone(&self.waker));
        let shared = Arc::new(Shared::new(queue, clock, self.builder.tx_latency, control, self.vf.is_some()));
        if let Some(interrupt) = interrupt {
            let task = queue::run(Arc::clone(&shared), interrupt);
            match self.builder.queue_runtimes.iter().find(|(queue, _)| *queue == index) {
                Some((_, runtime)) => drop(runtime.spawn(task)),
                None => drop(tokio::spawn(task)),
            }
        }
        self.lanes.push(Lane { index, shared, stalled: false, gone: false, handed_out: false, batch: None });
    }

    fn event(&mut self, event: netvsc::Event) -> Turn {
        use netvsc::Event as E;
        let event = match event {
            E::Ready(info) => {
                self.ready(*info);
                return Turn::GoOn;
            }
            E::Answered { request, result } => {
                // What was set stands in there.
                self.update_info();
                let asked = self.requests.remove(&request);
                self.vf_is_as_the_adapter();
                if let Some(Request { answer, .. }) = asked {
                    // Who asked may have gone.
                    let _ = answer.send(result.map_err(RequestError::Request));
                }
                return Turn::GoOn;
            }
            E::LinkUp => Event::LinkUp,
            E::LinkDown => Event::LinkDown,
            E::LinkSpeed(speed) => Event::LinkSpeed(speed),
            E::NetworkChanged => Event::NetworkChanged,
            E::OffloadChanged(_) => {
                let Some(info) = self.nic.info() else { return Turn::GoOn };
                Event::OffloadsChanged(info.offloads)
            }
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
            E::QueueGone { queue } => {
                tracing::warn!(queue, "a queue has ended");
                if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.index == queue) {
                    lane.gone = true;
                    lane.shared.close(Some(Error::Gone));
                }
                Event::QueueGone { queue }
            }
            E::TableRebuilt => {
                self.update_info();
                return Turn::GoOn;
            }
            E::SendTable(buckets) => {
                let Some(common) = self.running.as_ref().and_then(|running| running.common.upgrade()) else {
                    return Turn::GoOn;
                };
                if !common.steering.set_buckets(buckets) {
                    // That of the bring-up, or the same again.
                    return Turn::GoOn;
                }
                Event::SendTable(buckets)
            }
            E::VfAssociated(function) => Event::VfAssociated(function),
            E::VfRemoved(function) => Event::VfRemoved(function),
            E::DataPathSwitched(path) => Event::HostMovedTraffic(path),
            E::Vf(event) => match Event::of_vf(event) {
                Some(event) => event,
                None => return Turn::GoOn,
            },
            E::Detached(report) => {
                self.detached();
                Event::Detached(report)
            }
            E::Attached(info) => {
                self.attached(info.queues, info.mtu);
                Event::Attached
            }
            E::Reconfigured { request, result } => {
                self.update_info();
                if let Err(error) = &result {
                    tracing::warn!(%error, "network adapter was not changed");
                }
                self.changed(request, result);
                Event::Reconfigured(result)
            }
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

    fn update_info(&mut self) {
        if let (Some(info), Some(common)) = (self.nic.info(), self.running.as_ref().and_then(|r| r.common.upgrade())) {
            *common.info.lock().unwrap_or_else(PoisonError::into_inner) = info.clone();
        }
        let lanes = self.shared_lanes();
        if let (Some(info), Some(side)) = (self.nic.info(), &mut self.vf) {
            side.scaling_changed(&lanes, info.scaling.as_ref());
        }
    }

    /// The adapter is up: hands it to whoever opened it.
    fn ready(&mut self, info: DeviceInfo) {
        let Some(opened) = self.opened.take() else { return };
        self.lanes.sort_by_key(|lane| lane.index);
        tracing::info!(nvsp = %info.nvsp_version, mac = %info.mac, mtu = info.mtu, queues = info.queues, "network adapter is up");
        let options = self.builder.queue_options(info.mtu);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (events, first) = broadcast::channel(EVENTS);
        if let Some(side) = &mut self.vf {
            let association = self.nic.vf().and_then(netvsc::vf::Machine::association);
            if let Err(error) = side.begin(info.mac, association) {
                tracing::warn!(%error, "no virtual function can be used");
                self.early.push(Event::VfUnavailable(error.to_string()));
            }
        }
        for event in self.early.drain(..) {
            let _ = events.send(event);
        }
        let common = Arc::new(Common {
            commands,
            task: Arc::clone(&self.waker),
            events: events.clone(),
            first_events: Mutex::new(Some(first)),
            steering: Steering::new(info.send_table),
            unclaimed: Mutex::new(Vec::new()),
            vf: Mutex::new(self.vf_status()),
            info: Mutex::new(info),
            queues: Mutex::new(self.lanes.iter().map(|lane| Arc::clone(&lane.shared)).collect()),
        });
        self.running = Some(Running { common: Arc::downgrade(&common), commands: receiver, events });
        let queue = |lane: &Lane<B::Channel>| Queue::new(Arc::clone(&lane.shared), lane.index, options);
        let queues = self.lanes.iter().map(queue).collect();
        self.lanes.iter_mut().for_each(|lane| lane.handed_out = true);
        // Who no longer wants it drops it, and that closes it.
        let _ = opened.send(Ok((Nic::new(common), queues)));
    }

    /// Reports sends that the host does nothing with.
    fn watch(&mut self, now: netvsc::Instant) {
        if self.running.is_none() {
            return;
        }
        let mut standing = Vec::new();
        for lane in &mut self.lanes {
            let mut core = lane.shared.lock();
            let stalled = core.queue.stalled_for(now).is_some_and(|time| time >= self.builder.stall_limit);
            if stalled && !lane.stalled {
                standing.push((lane.index, core.queue.outstanding()));
            }
            lane.stalled = stalled;
        }
        for (queue, outstanding) in standing {
            tracing::warn!(queue, outstanding, "the host makes no progress");
            self.tell(Event::Stalled { queue, outstanding });
        }
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
        self.give_vf_up();
        for lane in &self.lanes {
            lane.shared.close(failure.clone());
        }
        for answer in self.closing.drain(..) {
            let _ = answer.send(result);
        }
        for (_, request) in self.requests.drain() {
            let _ = request.answer.send(Err(RequestError::Closed));
        }
        if let Some(change) = self.change.take() {
            let _ = change.answer.send(Err(ReconfigureError::Closed));
        }
        // Its answer is dropped, which says the same.
        self.first_vf = None;
    }
}
