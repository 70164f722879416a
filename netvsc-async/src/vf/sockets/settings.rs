//! The settings of an interface that is open: changed one after another, by threads that may wait.
//!
//! The kernel has one lock for the settings of all interfaces. Whoever changes one waits for it, as long as somebody plugs a
//! device in or pulls it out, and then for the device's driver: neither is for the adapter's task, on whose thread frames may be
//! waiting. So it only asks.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::sync::oneshot;

use super::SocketError;
use super::netlink::{Link, Links};
use super::queue::{drop_elsewhere, elsewhere};
use super::state::State;
use super::syscalls::{PacketOption, bind_packet, set_packet_option};

/// `PACKET_MR_PROMISC`.
const PROMISCUOUS: u32 = 1;
/// `PACKET_MR_ALLMULTI`.
const ALL_MULTICAST: u32 = 2;

/// What was changed about an interface; dropped, it is put back. The kernel makes whoever does that wait.
#[derive(Debug)]
pub(super) struct Changes {
    links: Links,
    /// A socket that receives nothing: what it asked for in the interface's name ends with it.
    filters: OwnedFd,
    index: u32,
    /// The MTU that it had.
    mtu: u32,
    state: Arc<State>,
}

impl Changes {
    /// None so far.
    pub(super) fn begin(links: Links, link: &Link, state: Arc<State>) -> Result<Self, SocketError> {
        let filters = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(SocketError::when("open an AF_PACKET socket"))?;
        bind_packet(filters.as_fd(), link.index, 0).map_err(SocketError::when("bind an AF_PACKET socket"))?;
        // Whoever opened it before has taken its filters along.
        state.set_promiscuous(false);
        Ok(Self { links, filters, index: link.index, mtu: link.mtu, state })
    }

    /// Takes it up.
    pub(super) fn set_up(&mut self) -> Result<(), SocketError> {
        self.links.set_up(self.index, true)
    }

    pub(super) fn receive_multicasts(&self) -> Result<(), SocketError> {
        self.membership(PacketOption::AddMembership, ALL_MULTICAST).map_err(SocketError::when("receive multicasts"))
    }

    /// Looks how it is now.
    pub(super) fn look(&mut self) -> Result<(), SocketError> {
        let Self { links, index, state, .. } = self;
        state.update_by(|| present(links, *index))
    }

    pub(super) fn set_mtu(&mut self, mtu: u32) -> Result<(), SocketError> {
        self.links.set_mtu(self.index, mtu)?;
        self.state.set_mtu(mtu);
        Ok(())
    }

    pub(super) fn set_promiscuous(&mut self, promiscuous: bool) -> Result<(), SocketError> {
        if promiscuous != self.state.is_promiscuous() {
            let option = if promiscuous { PacketOption::AddMembership } else { PacketOption::DropMembership };
            self.membership(option, PROMISCUOUS)
                .map_err(SocketError::when("change what the virtual function receives"))?;
            self.state.set_promiscuous(promiscuous);
        }
        Ok(())
    }

    /// `packet_mreq`: index, kind, length of the address, address.
    fn membership(&self, option: PacketOption, kind: u32) -> io::Result<()> {
        // Two halves, of which the second is zero, as they lie in memory.
        let [first, second] = (kind as u16).to_ne_bytes();
        let words = [self.index, u32::from_ne_bytes([first, second, 0, 0]), 0, 0];
        set_packet_option(self.filters.as_fd(), option, &words)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let Self { links, index, mtu, .. } = self;
        if self.state.is_gone() || !matches!(links.by_index(*index), Ok(Some(link)) if link.mtu != *mtu) {
            return;
        }
        if let Err(error) = links.set_mtu(*index, *mtu) {
            tracing::warn!(interface = *index, error = &error as &dyn std::error::Error, "MTU not put back");
        }
    }
}

/// The interface of this index.
pub(super) fn present(links: &mut Links, index: u32) -> Result<Link, SocketError> {
    let gone = || SocketError::new("use the network interface", io::Error::from_raw_os_error(libc::ENODEV));
    links.by_index(index)?.ok_or_else(gone)
}

fn closed() -> SocketError {
    SocketError::new("set a virtual function that is closed", io::ErrorKind::NotConnected)
}

/// Something to be changed. Has answered when it returns.
type Job = Box<dyn FnOnce(&mut Changes) + Send>;

/// Changes an interface in the order in which that is asked for.
#[derive(Debug)]
pub(super) struct Settings {
    index: u32,
    work: Mutex<Work>,
}

enum Work {
    /// Nobody is at work.
    Idle(Changes),
    /// Somebody is, and these come next.
    Busy(VecDeque<Job>),
    /// It was closed meanwhile. Whoever is at work puts back what was changed.
    Closing(Ending),
    Closed,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle(_) => "Idle",
            Self::Busy(_) => "Busy",
            Self::Closing(_) => "Closing",
            Self::Closed => "Closed",
        })
    }
}

impl Settings {
    pub(super) fn new(changes: Changes) -> Arc<Self> {
        Arc::new(Self { index: changes.index, work: Mutex::new(Work::Idle(changes)) })
    }

    /// Held for a moment, by nobody who may panic.
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `value`, which `set` sets; `get` tells what there was before, and is again if the future is dropped before it is
    /// answered.
    pub(super) fn ask<T: Copy + Send + 'static>(
        self: &Arc<Self>,
        value: T,
        get: fn(&State) -> T,
        set: fn(&mut Changes, T) -> Result<(), SocketError>,
    ) -> BoxFuture<'static, io::Result<()>> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |changes| {
            if answer.is_closed() {
                return;
            }
            let before = get(&changes.state);
            if let Err(Ok(())) = answer.send(set(changes, value))
                && let Err(error) = set(changes, before)
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "a setting was not undone");
            }
        });
        let mut work = self.lock();
        let mut idle = None;
        *work = match std::mem::replace(&mut *work, Work::Closed) {
            Work::Idle(changes) => {
                idle = Some(changes);
                Work::Busy(VecDeque::from([job]))
            }
            Work::Busy(mut jobs) => {
                jobs.push_back(job);
                Work::Busy(jobs)
            }
            // The job is dropped, which answers.
            over @ (Work::Closing(_) | Work::Closed) => over,
        };
        drop(work);
        if let Some(changes) = idle {
            let settings = Arc::clone(self);
            elsewhere(move || settings.work(changes));
        }
        answered.map(|answer| Ok(answer.unwrap_or_else(|_| Err(closed()))?)).boxed()
    }

    /// Does what is to be done, until there is nothing.
    fn work(&self, mut changes: Changes) {
        loop {
            let mut work = self.lock();
            match &mut *work {
                Work::Busy(jobs) => match jobs.pop_front() {
                    Some(job) => {
                        drop(work);
                        job(&mut changes);
                    }
                    None => {
                        *work = Work::Idle(changes);
                        return;
                    }
                },
                _ => {
                    if let Work::Closing(end) = std::mem::replace(&mut *work, Work::Closed) {
                        drop(work);
                        drop(PutBack { _changes: changes, _end: end });
                    }
                    return;
                }
            }
        }
    }

    /// Nothing is changed any more, and what was is put back. Waits for nothing.
    pub(super) fn close(&self) {
        let mut work = self.lock();
        match std::mem::replace(&mut *work, Work::Closed) {
            Work::Idle(changes) => {
                let end = Ending::begin(self.index);
                drop(work);
                drop_elsewhere(PutBack { _changes: changes, _end: end });
            }
            Work::Busy(jobs) => {
                *work = Work::Closing(Ending::begin(self.index));
                drop(work);
                // They answer that it is closed.
                drop(jobs);
            }
            over @ (Work::Closing(_) | Work::Closed) => *work = over,
        }
    }
}

/// Dropped, what was changed is put back, and then that is told, in this order.
struct PutBack {
    _changes: Changes,
    _end: Ending,
}

/// By index, interfaces that somebody is about to put back what was changed about. They are the kernel's: whoever opens one next
/// may know nothing of who had it open.
static ENDS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static ENDED: Condvar = Condvar::new();

/// Somebody puts back what was changed about an interface, or is about to change it.
#[derive(Debug)]
pub(super) struct Ending(u32);

impl Ending {
    fn begin(index: u32) -> Self {
        ends().push(index);
        Self(index)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut ends = ends();
        if let Some(at) = ends.iter().position(|index| *index == self.0) {
            ends.swap_remove(at);
        }
        drop(ends);
        ENDED.notify_all();
    }
}

fn ends() -> MutexGuard<'static, Vec<u32>> {
    // Poisoned or not, they are right.
    ENDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until all that was changed about an interface before is put back. Others wait for what is given back.
pub(super) fn wait_for_ends(index: u32) -> Ending {
    let mut ends = ENDED.wait_while(ends(), |ends| ends.contains(&index)).unwrap_or_else(PoisonError::into_inner);
    ends.push(index);
    Ending(index)
}
