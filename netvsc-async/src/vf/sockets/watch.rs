//! Which interface is an adapter's virtual function, and what happens to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use netvsc::info::MacAddress;

use super::Config;
use super::netlink::{Link, LinkEvent, LinkMonitor, Links};
use super::state::State;
use super::{SocketError, open};
use crate::vf::backend::{OpenedVf, VfEvent, VfWatch, VfWish};
use crate::vf::discovery::{Origin, origin, slots};

/// Looks after the interfaces with one MAC address.
pub(super) struct Watch {
    config: Arc<Config>,
    mac: MacAddress,
    links: Links,
    /// `None` if it failed: nothing more is told then.
    monitor: Option<LinkMonitor>,
    /// The number that the host said last.
    wanted: Option<u32>,
    current: Option<Current>,
    events: VecDeque<VfEvent>,
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
    pub(super) fn open(config: Arc<Config>, mac: MacAddress) -> Result<Self, SocketError> {
        // First, so that nothing is missed.
        let monitor = LinkMonitor::open()?;
        let links = Links::open()?;
        let mut watch =
            Self { config, mac, links, monitor: Some(monitor), wanted: None, current: None, events: VecDeque::new() };
        watch.look(false);
        Ok(watch)
    }

    /// Says what changed since the last look. If it is `sought`, the best one is spoken of again.
    fn look(&mut self, sought: bool) {
        let candidates = match self.candidates() {
            Ok(candidates) => candidates,
            Err(error) => {
                tracing::warn!(mac = %self.mac, error = &error as &dyn std::error::Error, "virtual functions are not looked for");
                return;
            }
        };
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

    fn candidates(&mut self) -> Result<Vec<Candidate>, SocketError> {
        let links = self.links.list()?;
        let slots = slots(&self.config.sysfs).map_err(SocketError::when("read the PCI slots"))?;
        let synthetic = self.config.synthetic.as_deref();
        let synthetic = links.iter().find(|link| Some(link.name.as_str()) == synthetic).map(|link| link.index);
        let candidate = |link: Link| {
            let serves_another = link.master.is_some() && link.master != synthetic;
            if link.mac != Some(self.mac) || serves_another || Some(link.index) == synthetic {
                return None;
            }
            let given = self.config.serials.iter().find(|(name, _)| *name == link.name).map(|(_, serial)| *serial);
            let serial = match origin(&self.config.sysfs, &link.name, link.parent.as_ref()) {
                _ if given.is_some() => given,
                Origin::Pci(address) => slots.get(address.rsplit_once('.')?.0).copied(),
                Origin::Other => None,
                Origin::Virtual if self.config.virtual_interfaces && link.kind.as_deref() == Some("veth") => None,
                Origin::Virtual | Origin::VmBus => return None,
            };
            Some(Candidate { link, serial })
        };
        Ok(links.into_iter().filter_map(candidate).collect())
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

impl VfWatch for Watch {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let Some(monitor) = &mut self.monitor else { return Poll::Pending };
            match monitor.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(LinkEvent::Gone { index })) if self.concerns(&LinkEvent::Gone { index }) => {
                    // Another one may have its index already.
                    if let Some(current) = self.current.take() {
                        current.state.set_gone();
                        self.events.push_back(VfEvent::Gone);
                    }
                    self.look(false);
                }
                Poll::Ready(Ok(event)) if self.concerns(&event) => self.look(false),
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
        self.look(true);
    }

    fn open(&mut self, wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>> {
        let Some(current) = &self.current else {
            return future::ready(Err(io::Error::from_raw_os_error(libc::ENODEV))).boxed();
        };
        open::open(Arc::clone(&self.config), current.candidate.link.index, Arc::clone(&current.state), wish).boxed()
    }
}
