//! Which interface is an adapter's virtual function, and what happens to it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use netvsc::info::MacAddress;
use tokio::task::JoinHandle;

use super::Config;
use super::netlink::{Link, LinkEvent, LinkMonitor, Links};
use super::state::State;
use super::{SocketError, open};
use crate::vf::backend::{OpenedVf, VfEvent, VfWatch, VfWish};
use crate::vf::discovery::{Origin, origin, slots};

/// Looks after the interfaces with one MAC address.
///
/// The kernel lists interfaces only while nobody changes one, and who does may take long: so that is waited for elsewhere, and
/// not by the adapter's task, which may be holding frames back.
pub(super) struct Watch {
    config: Arc<Config>,
    mac: MacAddress,
    looking: Looking,
    /// Something happened since: what is found is no more.
    outdated: bool,
    /// The interface is sought once more, even if it was spoken of before.
    sought: bool,
    /// `None` if it failed: nothing more is told then.
    monitor: Option<LinkMonitor>,
    /// The number that the host said last.
    wanted: Option<u32>,
    current: Option<Current>,
    events: VecDeque<VfEvent>,
}

/// Who has what interfaces are listed by.
enum Looking {
    /// Nobody looks.
    Idle(Links),
    /// Somebody does.
    Now(JoinHandle<(Links, Result<Vec<Candidate>, SocketError>)>),
    /// Whoever looked did not come back.
    Never,
}

/// The interface that was spoken of last.
struct Current {
    candidate: Candidate,
    state: Arc<State>,
}

/// An interface that may be the function.
#[derive(Debug, Clone)]
struct Candidate {
    link: Link,
    serial: Option<u32>,
}

/// How well an interface fits what the host said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It has another number.
    Other,
    /// It has none.
    Unnumbered,
    /// It has the number.
    Exact,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("mac", &self.mac).field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Watch {
    /// Inside of a tokio runtime.
    pub(super) fn open(config: Arc<Config>, mac: MacAddress) -> Result<Self, SocketError> {
        // First, so that nothing is missed.
        let monitor = LinkMonitor::open()?;
        let looking = Looking::Idle(Links::open()?);
        let (wanted, current) = (None, None);
        let events = VecDeque::new();
        let mut watch = Self {
            config,
            mac,
            looking,
            outdated: false,
            sought: false,
            monitor: Some(monitor),
            wanted,
            current,
            events,
        };
        watch.look();
        Ok(watch)
    }

    /// Has somebody look what interfaces there are.
    fn look(&mut self) {
        match std::mem::replace(&mut self.looking, Looking::Never) {
            Looking::Idle(mut links) => {
                let (config, mac) = (Arc::clone(&self.config), self.mac);
                self.outdated = false;
                self.looking = Looking::Now(tokio::task::spawn_blocking(move || {
                    let candidates = candidates(&mut links, &config, mac);
                    (links, candidates)
                }));
            }
            looking => {
                self.looking = looking;
                self.outdated = true;
            }
        }
    }

    /// Ready with what was found, if somebody looked, and nothing happened since.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Candidate>> {
        while let Looking::Now(look) = &mut self.looking {
            let done = std::task::ready!(Pin::new(look).poll(cx));
            let candidates = match done {
                Ok((links, candidates)) => {
                    self.looking = Looking::Idle(links);
                    candidates
                }
                Err(error) => {
                    self.looking = Looking::Never;
                    Err(SocketError::new("look for virtual functions", io::Error::other(error)))
                }
            };
            if self.outdated {
                self.look();
                continue;
            }
            match candidates {
                Ok(candidates) => return Poll::Ready(candidates),
                Err(error) => {
                    tracing::warn!(mac = %self.mac, error = &error as &dyn std::error::Error, "virtual functions are not looked for");
                }
            }
        }
        Poll::Pending
    }

    /// Says what changed since the last look.
    fn found(&mut self, candidates: Vec<Candidate>) {
        let sought = std::mem::take(&mut self.sought);
        if let Some(current) = &mut self.current {
            match candidates.iter().find(|candidate| candidate.link.index == current.candidate.link.index) {
                Some(candidate) => {
                    current.candidate = candidate.clone();
                    current.state.update(&candidate.link);
                }
                None => {
                    current.state.set_gone();
                    self.events.push_back(VfEvent::Gone);
                    self.current = None;
                }
            }
        }
        let best = candidates.into_iter().max_by_key(|candidate| self.fit(candidate));
        let fits = |candidate: &Candidate| !sought || self.fit(candidate) > Fit::Other;
        if let Some(best) = best.filter(|best| (sought || self.current.is_none()) && fits(best)) {
            self.arrived(best);
        }
        self.tell_link();
    }

    fn arrived(&mut self, candidate: Candidate) {
        self.events.push_back(VfEvent::Arrived { serial: candidate.serial });
        let same = self.current.take().filter(|current| current.candidate.link.index == candidate.link.index);
        let state = same.map_or_else(|| Arc::new(State::new(&candidate.link)), |current| current.state);
        self.current = Some(Current { candidate, state });
    }

    fn tell_link(&mut self) {
        if let Some(link) = self.current.as_ref().and_then(|current| current.state.news()) {
            self.events.push_back(VfEvent::Link(link));
        }
    }

    fn fit(&self, candidate: &Candidate) -> Fit {
        match (candidate.serial, self.wanted) {
            (None, _) => Fit::Unnumbered,
            (Some(has), Some(wanted)) if has != wanted => Fit::Other,
            (Some(_), _) => Fit::Exact,
        }
    }

    /// Whether an event may be about this adapter's function.
    fn concerns(&self, event: &LinkEvent) -> bool {
        let current = self.current.as_ref().map(|current| current.candidate.link.index);
        match event {
            LinkEvent::Changed(link) => link.mac == Some(self.mac) || Some(link.index) == current,
            LinkEvent::Gone { index } => Some(*index) == current,
            LinkEvent::Overrun => true,
        }
    }
}

/// The interfaces that may be the function with this MAC address.
fn candidates(links: &mut Links, config: &Config, mac: MacAddress) -> Result<Vec<Candidate>, SocketError> {
    let links = links.list()?;
    let slots = slots(&config.sysfs).map_err(SocketError::when("read the PCI slots"))?;
    let synthetic = config.synthetic.as_deref();
    let synthetic = links.iter().find(|link| Some(link.name.as_str()) == synthetic).map(|link| link.index);
    let candidate = |link: Link| {
        let serves_another = link.master.is_some() && link.master != synthetic;
        if link.mac != Some(mac) || serves_another || Some(link.index) == synthetic {
            return None;
        }
        let given = config.serials.iter().find(|(name, _)| *name == link.name).map(|(_, serial)| *serial);
        let serial = match origin(&config.sysfs, &link.name, link.parent.as_ref()) {
            _ if given.is_some() => given,
            Origin::Pci(address) => slots.get(address.rsplit_once('.')?.0).copied(),
            Origin::Other => None,
            Origin::Virtual if config.virtual_interfaces && link.kind.as_deref() == Some("veth") => None,
            Origin::Virtual | Origin::VmBus => return None,
        };
        Some(Candidate { link, serial })
    };
    Ok(links.into_iter().filter_map(candidate).collect())
}

impl VfWatch for Watch {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            // What was found before something happened is not what there is.
            let event = self.monitor.as_mut().map_or(Poll::Pending, |monitor| monitor.poll_next(cx));
            match event {
                Poll::Pending => {
                    let candidates = std::task::ready!(self.poll_look(cx));
                    self.found(candidates);
                }
                Poll::Ready(Ok(LinkEvent::Gone { index })) if self.concerns(&LinkEvent::Gone { index }) => {
                    // Another one may have its index already.
                    if let Some(current) = self.current.take() {
                        current.state.set_gone();
                        self.events.push_back(VfEvent::Gone);
                    }
                    self.look();
                }
                Poll::Ready(Ok(event)) if self.concerns(&event) => self.look(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "nothing is heard of network interfaces");
                    self.monitor = None;
                }
            }
        }
    }

    fn find(&mut self, serial: u32) {
        self.wanted = Some(serial);
        self.sought = true;
        self.look();
    }

    fn open(&mut self, wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>> {
        let Some(current) = &self.current else {
            return future::ready(Err(io::Error::from_raw_os_error(libc::ENODEV))).boxed();
        };
        open::open(Arc::clone(&self.config), current.candidate.link.index, Arc::clone(&current.state), wish).boxed()
    }
}
