//! One opening of a device: the file, its maps, its channels, and how all of it ends.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device_file::DeviceFile;
use super::error::{GoneReason, UioError};
use super::line::{End, Line};
use super::settings::KernelTraits;
use crate::bus::BusEvent;
use crate::mem::Latch;
use crate::memory::{Contents, HeapMemory, copy};
use crate::protocol::RelId;

/// What an event of the session's epoll descriptor is about.
pub(super) const DEVICE: u64 = 0;
pub(super) const WAKE: u64 = 1;
pub(super) const INOTIFY: u64 = 2;

/// Subchannels that are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// How many, all in all.
    pub(super) count: usize,
    /// Until when.
    pub(super) until: Instant,
    /// Whether that has passed.
    pub(super) overdue: bool,
}

/// What the bus, the channels and the reactor share.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` once it ended. Locked for each operation, so that it can be closed at any time.
    device: Mutex<Option<Box<dyn DeviceFile>>>,
    pub(super) interrupt_page: HeapMemory,
    pub(super) monitor_page: HeapMemory,
    /// Receive and send buffer, to let go of.
    receive: Mutex<Option<HeapMemory>>,
    send: Mutex<Option<HeapMemory>>,
    /// Replaced, not changed: whoever wakes others holds no lock.
    lines: Mutex<Arc<[Arc<Line>]>>,
    events: Mutex<VecDeque<BusEvent>>,
    /// Set when there are events.
    pub(super) latch: Latch,
    /// Set when a subchannel came, or is overdue.
    pub(super) arrival: Latch,
    pub(super) wanted: Mutex<Option<Wanted>>,
    /// Subchannels that the driver waits to be offered.
    pub(super) awaited: AtomicU16,
    /// Why channels that are there are not offered.
    pub(super) refusals: Mutex<Vec<(RelId, UioError)>>,
    pub(super) traits: Mutex<KernelTraits>,
    end: OnceLock<End>,
    /// Whether a mapping could not be let go of.
    stuck: AtomicBool,
    pub(super) epoll: Epoll,
    wake: EventFd,
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) device: Box<dyn DeviceFile>,
    pub(super) interrupt_page: HeapMemory,
    pub(super) monitor_page: HeapMemory,
    pub(super) receive: Option<HeapMemory>,
    pub(super) send: Option<HeapMemory>,
    pub(super) traits: KernelTraits,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(parts: Parts) -> Result<Self, UioError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        epoll.add(parts.device.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN, DEVICE))?;
        Ok(Self {
            device: Mutex::new(Some(parts.device)),
            interrupt_page: parts.interrupt_page,
            monitor_page: parts.monitor_page,
            receive: Mutex::new(parts.receive),
            send: Mutex::new(parts.send),
            lines: Mutex::new(Arc::new([])),
            events: Mutex::default(),
            latch: Latch::new(),
            arrival: Latch::new(),
            wanted: Mutex::new(None),
            awaited: AtomicU16::new(0),
            refusals: Mutex::default(),
            traits: Mutex::new(parts.traits),
            end: OnceLock::new(),
            stuck: AtomicBool::new(false),
            epoll,
            wake,
        })
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Nothing if it is still on.
    pub(super) fn check(&self) -> Result<(), UioError> {
        self.end().map_or(Ok(()), |end| Err(end.into()))
    }

    pub(super) fn push(&self, event: BusEvent) {
        lock(&self.events).push_back(event);
        self.latch.set();
    }

    pub(super) fn pop(&self) -> Option<BusEvent> {
        lock(&self.events).pop_front()
    }

    /// The channels.
    pub(super) fn lines(&self) -> Arc<[Arc<Line>]> {
        Arc::clone(&lock(&self.lines))
    }

    /// A channel that was offered.
    pub(super) fn line(&self, relid: RelId) -> Option<Arc<Line>> {
        self.lines().iter().find(|line| line.info.id == relid && line.offered.load(Ordering::Acquire)).cloned()
    }

    /// Subchannels that were offered and are there.
    pub(super) fn subchannels(&self) -> usize {
        let offered = |line: &&Arc<Line>| !line.info.is_primary() && line.offered.load(Ordering::Acquire);
        self.lines().iter().filter(offered).count()
    }

    pub(super) fn add(&self, line: Arc<Line>) {
        let mut lines = lock(&self.lines);
        match self.end() {
            Some(end) => {
                line.finish(end);
            }
            None => *lines = lines.iter().cloned().chain([line]).collect(),
        }
    }

    /// Tells the driver of a channel.
    pub(super) fn offer(&self, line: &Line) {
        line.offered.store(true, Ordering::Release);
        self.push(BusEvent::Offered(line.info));
        self.arrival.set();
    }

    /// Ends one channel; whether there was one.
    pub(super) fn remove(&self, relid: RelId, end: End) -> Option<Arc<Line>> {
        let mut lines = lock(&self.lines);
        let line = lines.iter().find(|line| line.info.id == relid).cloned()?;
        *lines = lines.iter().filter(|line| line.info.id != relid).cloned().collect();
        drop(lines);
        line.finish(end);
        Some(line)
    }

    /// Does something with the device, unless it is over.
    pub(super) fn with_device<T>(&self, act: impl FnOnce(&dyn DeviceFile) -> T) -> Result<T, UioError> {
        match &*lock(&self.device) {
            Some(device) => Ok(act(&**device)),
            None => Err(self.end().unwrap_or(End::Closed).into()),
        }
    }

    /// After an event: wakes the queues that have a reason to look.
    pub(super) fn dispatch(&self) {
        // What is looked at is no older than the count.
        copy::full_fence();
        for line in &*self.lines() {
            if line.needs_look() {
                line.latch.set();
            }
        }
    }

    /// Lets the kernel signal the host, on all channels without monitor that it can. It clears interrupt masks on the way;
    /// those that were set are set again.
    pub(super) fn control(&self) -> Result<(), UioError> {
        self.control_but(None)?.map_err(|error| UioError::Signal(error.into()))
    }

    /// Interrupt control, whose effect on `line` is of interest; whether there was any interrupt control.
    pub(super) fn probe_control(&self, line: &Line) -> Result<bool, UioError> {
        Ok(self.control_but(Some(line.info.id))?.is_ok())
    }

    fn control_but(&self, probed: Option<RelId>) -> Result<std::io::Result<()>, UioError> {
        let lines = self.lines();
        let others = || lines.iter().filter(|line| Some(line.info.id) != probed);
        let done = self.with_device(|device| {
            others().for_each(|line| line.remember_mask());
            let done = device.control(1);
            others().for_each(|line| line.restore_mask());
            done
        })?;
        others().for_each(|line| line.tell_restored());
        Ok(done)
    }

    /// Makes the reactor turn.
    pub(super) fn wake_reactor(&self) {
        // A counter that is full wakes as well.
        let _ = self.wake.write(1);
    }

    /// Takes note of having been woken.
    pub(super) fn drain_wake(&self) {
        let _ = self.wake.read();
    }

    /// Starts or stops listening for events of the device.
    pub(super) fn listen(&self, listen: bool) {
        // Over: then there is nothing to listen to.
        let _ = self.with_device(|device| {
            if listen {
                self.epoll.add(device.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN, DEVICE))
            } else {
                self.epoll.delete(device.descriptor())
            }
        });
    }

    /// The device is gone.
    pub(super) fn vanish(&self, reason: GoneReason) {
        if self.finish(End::Gone(reason)) {
            self.push(BusEvent::Gone);
        }
    }

    /// Closes the device: every descriptor and every mapping goes, whoever holds what of it. Received packets that are
    /// still held keep their bytes, in private memory.
    ///
    /// Whether the kernel has closed it: not if there was no memory for that.
    pub(super) fn close(&self) -> bool {
        let receive = lock(&self.receive).take();
        let send = lock(&self.send).take();
        for (memory, contents) in [(receive, Contents::Kept), (send, Contents::Words(&[]))] {
            if let Some(memory) = memory
                && memory.handles() > 1
                && memory.disconnect(contents).is_err()
            {
                self.stuck.store(true, Ordering::Relaxed);
            }
        }
        self.finish(End::Closed);
        !self.stuck.load(Ordering::Relaxed)
    }

    fn finish(&self, end: End) -> bool {
        if self.end.set(end).is_err() {
            return false;
        }
        let lines = std::mem::replace(&mut *lock(&self.lines), Arc::new([]));
        let mut clean = true;
        for line in &*lines {
            clean &= line.finish(end);
        }
        for page in [&self.interrupt_page, &self.monitor_page] {
            clean &= page.disconnect(Contents::Words(&[])).is_ok();
        }
        self.stuck.fetch_or(!clean, Ordering::Relaxed);
        if let Some(device) = lock(&self.device).take() {
            let _ = self.epoll.delete(device.descriptor().as_fd());
        }
        self.latch.set();
        self.arrival.set();
        self.wake_reactor();
        true
    }
}
