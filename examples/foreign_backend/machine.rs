//! The guest's main loop: what a unikernel's idle loop or a test bed's scheduler does.
//!
//! One thread, no clock. A turn polls the NIC, which also lets the host take a step; the *alarm* (a waker) says whether
//! another turn is worth it. If it is not, guest and host are both asleep, and only time can change anything: then time jumps
//! to the NIC's next deadline. So 30 seconds pass at once, and a run is the same each time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use netvsc::meta::TxMeta;
use netvsc::queue::{Burst, Queue, SendError};
use netvsc::{Config, DeviceInfo, Event, Instant, Nic};
use vmbus::bus::Interrupt;

use crate::backend::{FlatBus, FlatChannel};
use crate::host::Options;
use crate::line::Line;
use crate::trace::Trace;

/// How long a turn takes.
const TURN: Duration = Duration::from_micros(1);
/// Memory of the guest.
const RAM_BYTES: usize = 8 << 20;
/// Turns after which something that should end by itself goes round in circles.
const MAX_TURNS: usize = 1_000_000;

/// Remembers that it was woken.
#[derive(Debug, Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A guest with a NIC, and its host.
pub(crate) struct Machine {
    nic: Nic<FlatBus>,
    /// From the opening of the channel until the device is closed. The NIC borrows it for each poll, frames are ours.
    queue: Option<Queue<FlatChannel>>,
    interrupt: Option<Line>,
    /// The queue may have something, and is not going to interrupt for it.
    look: bool,
    burst: Burst,
    received: VecDeque<Vec<u8>>,
    last: Option<Event>,
    now: Instant,
    alarm: Arc<Alarm>,
    trace: Trace,
}

impl Machine {
    /// A machine whose NIC is about to come up.
    pub(crate) fn new(config: Config, options: Options, trace: Trace) -> anyhow::Result<Self> {
        let bus = FlatBus::new(RAM_BYTES, options, trace.clone());
        Ok(Self {
            nic: Nic::new(bus, config, Instant::ZERO)?,
            queue: None,
            interrupt: None,
            look: false,
            burst: Burst::new(64, 1 << 20),
            received: VecDeque::new(),
            last: None,
            now: Instant::ZERO,
            alarm: Arc::default(),
            trace,
        })
    }

    /// One turn; whether another one is worth it.
    pub(crate) fn turn(&mut self) -> anyhow::Result<bool> {
        self.now += TURN;
        self.trace.set_time(self.now);
        // Cleared before the work: what wakes us meanwhile counts for the next turn.
        self.alarm.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.alarm));
        let cx = &mut Context::from_waker(&waker);
        self.nic.poll(self.now, cx, self.queue.as_mut())?;
        if let Some(mut queue) = self.nic.take_queue() {
            self.interrupt = queue.take_interrupt();
            self.look = true;
            self.queue = Some(queue);
        }
        while let Some(event) = self.nic.poll_event() {
            self.trace.say("guest", headline(&event));
            if matches!(event, Event::Closed(_) | Event::Failed { .. } | Event::Gone(_)) {
                // Closed: its rings are about to be somebody else's memory.
                self.queue = None;
                self.interrupt = None;
            }
            if !matches!(event, Event::LinkUp | Event::Warning(_)) {
                self.last = Some(event);
            }
        }
        if let Some(interrupt) = &mut self.interrupt {
            self.look |= interrupt.poll_latched(cx).is_ready();
        }
        if std::mem::take(&mut self.look)
            && let Some(queue) = &mut self.queue
        {
            // Everything that is there, then ask for the interrupt; `true` means that more came in between.
            while queue.receive(&mut self.burst, 64)? > 0 {
                self.received.extend(self.burst.frames().map(|frame| frame.bytes.to_vec()));
                self.burst.clear();
            }
            self.look = queue.arm()?;
        }
        Ok(self.look || self.alarm.0.load(Ordering::Relaxed))
    }

    /// Turns until `done`. Guest and host being asleep before that is an error: nobody would ever wake them.
    pub(crate) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        for _ in 0..MAX_TURNS {
            if done(self) {
                return Ok(());
            }
            if !self.turn()? && !done(self) {
                bail!("guest and host are asleep, waiting for: {what} (last event: {})", self.last_headline());
            }
        }
        bail!("{MAX_TURNS} turns were not enough for: {what}")
    }

    /// Turns until guest and host are asleep.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_TURNS {
            if !self.turn()? {
                return Ok(());
            }
        }
        bail!("{MAX_TURNS} turns, and something is still going on")
    }

    /// Turns until the device is over, letting time pass when nothing else happens; its last event.
    #[cfg(test)]
    pub(crate) fn run_to_the_end(&mut self) -> anyhow::Result<Event> {
        for _ in 0..MAX_TURNS {
            if self.nic.is_over() {
                return self.last.clone().context("over without an event");
            }
            if !self.turn()? && !self.nic.is_over() {
                let due = self.nic.next_timeout().context("asleep without a deadline")?;
                self.trace.say("both", format_args!("asleep until {due:?}"));
                self.now = self.now.max(due);
            }
        }
        bail!("{MAX_TURNS} turns were not enough")
    }

    /// Brings the device up.
    pub(crate) fn bring_up(&mut self) -> anyhow::Result<DeviceInfo> {
        self.run_until("bring-up", |machine| matches!(machine.last, Some(Event::Ready(_) | Event::Failed { .. })))?;
        match &self.last {
            Some(Event::Ready(info)) => Ok((**info).clone()),
            _ => bail!("bring-up: {}", self.last_headline()),
        }
    }

    /// Takes a frame to be sent; waits if there is no room. [`flush`](Self::flush) hands over what was taken.
    pub(crate) fn send(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        loop {
            let queue = self.queue.as_mut().context("no channel is open")?;
            match queue.send(frame, &TxMeta::default()) {
                Ok(()) => return Ok(()),
                Err(SendError::Full) => {
                    // Room comes with completions, and so with an interrupt; nothing of what we hold may be missing for it.
                    queue.flush()?;
                    ensure!(self.turn()?, "no room to send, and nobody who makes any");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands all frames that were taken to the host: one doorbell at most.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.queue.as_mut().context("no channel is open")?.flush()?)
    }

    /// Waits until `count` frames are there, and takes them.
    pub(crate) fn receive(&mut self, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        self.run_until("frames from the host", |machine| machine.received.len() >= count)?;
        Ok(self.received.drain(..count).collect())
    }

    /// Lets the host send a frame.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        self.nic.bus_mut().inject(frame);
    }

    /// Closes the device, and checks that nothing is left of it.
    pub(crate) fn close(&mut self) -> anyhow::Result<()> {
        self.nic.close(self.now);
        self.run_until("close", |machine| machine.nic.is_over())?;
        let Some(Event::Closed(report)) = &self.last else { bail!("close: {}", self.last_headline()) };
        ensure!(report.is_clean(), "close left something: {report:?}");
        self.check_nothing_is_left()?;
        ensure!(self.received.is_empty(), "{} frames that nobody asked for", self.received.len());
        let counters = self.nic.counters();
        ensure!(*counters == Default::default(), "the driver ignored something: {counters:?}");
        Ok(())
    }

    /// Checks that all memory came back, and that the host has no complaints.
    pub(crate) fn check_nothing_is_left(&mut self) -> anyhow::Result<()> {
        // The NIC does not wait for the host to act on its last wish, to close the channel: let it.
        self.settle()?;
        let bus = self.nic.bus_mut();
        ensure!(bus.pieces() == 0, "{} pieces of memory were not given back", bus.pieces());
        ensure!(bus.host().gpadls() == 0, "the host still knows {} GPADLs", bus.host().gpadls());
        ensure!(bus.host().violations() == 0, "the host counted {} violations", bus.host().violations());
        Ok(())
    }

    /// The queue of the open channel.
    pub(crate) fn queue(&self) -> anyhow::Result<&Queue<FlatChannel>> {
        self.queue.as_ref().context("no channel is open")
    }

    fn last_headline(&self) -> String {
        self.last.as_ref().map_or_else(|| "none".into(), headline)
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }
}

/// An event in few words.
fn headline(event: &Event) -> String {
    match event {
        Event::Ready(info) => format!("ready: NVSP {}, {}, mtu {}", info.nvsp_version, info.mac, info.mtu),
        Event::Failed { step, cause, .. } => format!("failed to {step}: {cause}"),
        Event::Closed(report) if report.is_clean() => "closed, nothing left behind".into(),
        other => format!("{other:?}"),
    }
}
