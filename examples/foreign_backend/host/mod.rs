//! The host: the other side of the backend, about as small as a host can be.
//!
//! It sees the guest as a real one does: a flat memory, page numbers into it, a doorbell. It trusts nothing of that: what it
//! reads it copies first, and what makes no sense it refuses and counts ([`Host::violations`]).
//!
//! | file | has |
//! |---|---|
//! | this one | the control plane: rings and GPADLs from page numbers |
//! | `adapter` | the network adapter: NVSP, sections, frames |
//! | `values` | what the adapter answers to RNDIS requests |
//!
//! If your VMM has a host side already, this folder is what you do not need.

mod adapter;
mod values;

pub(crate) use self::values::GUEST_MAC;

use std::collections::{BTreeMap, VecDeque};

use nvsp::Version;
use vmbus::gpadl::GpadlId;
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory};
use vmbus::ring::{BadRing, MappedRing};

use self::adapter::Adapter;
use crate::line::Line;
use crate::trace::Trace;

/// How the host shall behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Newest NVSP version that it takes.
    pub(crate) newest: Version,
    /// Falls silent after this many packets of the guest: reads on, but answers nothing.
    pub(crate) silent_after: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { newest: Version::V6_1, silent_after: None }
    }
}

/// What the guest wants of the control plane.
#[derive(Debug)]
pub(crate) enum Request {
    /// Open the channel on these pages: the guest→host ring, then the other.
    Open { pages: Vec<u64>, outgoing_pages: usize, interrupt: Line },
    /// Close it.
    Close,
    /// Take note of memory.
    CreateGpadl { gpadl: GpadlId, pages: Vec<u64> },
    /// Forget it.
    TeardownGpadl { gpadl: GpadlId },
}

/// What the host says to that.
#[derive(Debug)]
pub(crate) enum Answer {
    Opened,
    NotOpened { status: u32 },
    Closed,
    GpadlCreated(GpadlId),
    GpadlRefused { gpadl: GpadlId, status: u32 },
    GpadlTornDown(GpadlId),
}

/// Any status but 0 is a refusal; this one says nothing more.
const REFUSED: u32 = 0xC000_0001;

/// The host.
#[derive(Debug)]
pub(crate) struct Host {
    ram: HeapMemory,
    options: Options,
    trace: Trace,
    requests: VecDeque<Request>,
    answers: VecDeque<Answer>,
    gpadls: BTreeMap<GpadlId, HeapMemory>,
    /// While the channel is open.
    adapter: Option<Adapter>,
    violations: u64,
}

impl Host {
    /// A host of the guest whose memory is `ram`.
    pub(crate) fn new(ram: HeapMemory, options: Options, trace: Trace) -> Self {
        let (requests, answers) = (VecDeque::new(), VecDeque::new());
        Self { ram, options, trace, requests, answers, gpadls: BTreeMap::new(), adapter: None, violations: 0 }
    }

    /// Takes a request; [`step`](Self::step) deals with it.
    pub(crate) fn post(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// A frame for the guest.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        if let Some(adapter) = &mut self.adapter {
            adapter.forward(frame);
        }
    }

    /// What the guest did that it may not.
    pub(crate) fn violations(&self) -> u64 {
        self.violations
    }

    /// Memory that it has not been told to forget.
    pub(crate) fn gpadls(&self) -> usize {
        self.gpadls.len()
    }

    /// Does one thing, if there is one to do. `rung` says that the doorbell was: without it the rings are not looked at, so
    /// a driver that forgets to signal is found out.
    pub(crate) fn step(&mut self, rung: bool) -> bool {
        if let Some(adapter) = &mut self.adapter {
            adapter.wake_if(rung);
        }
        // The rings first: what was signalled before a close is still read.
        if self.step_adapter() {
            return true;
        }
        let Some(request) = self.requests.pop_front() else { return false };
        let answer = self.control(request);
        self.answers.push_back(answer);
        true
    }

    fn step_adapter(&mut self) -> bool {
        let Some(adapter) = &mut self.adapter else { return false };
        adapter.step(&self.gpadls).unwrap_or_else(|wrong| {
            self.trace.say("host", format_args!("violation: {wrong:#}"));
            self.violations += 1;
            // Counted and skipped, unless the ring itself is broken: then nothing that is in it can be believed.
            if wrong.is::<vmbus::ring::RingError>() {
                self.adapter = None;
            }
            true
        })
    }

    fn control(&mut self, request: Request) -> Answer {
        match request {
            Request::Open { pages, outgoing_pages, interrupt } => {
                let opened = self.open(&pages, outgoing_pages, interrupt);
                self.trace.say("host", format_args!("open on {} ring pages: {}", pages.len(), said(opened.is_some())));
                if opened.is_some() { Answer::Opened } else { Answer::NotOpened { status: REFUSED } }
            }
            Request::Close => {
                self.adapter = None;
                self.trace.say("host", "channel closed");
                Answer::Closed
            }
            Request::CreateGpadl { gpadl, pages } => {
                let memory = self.map(&pages).filter(|_| !self.gpadls.contains_key(&gpadl));
                let what =
                    format_args!("gpadl {gpadl} of {} pages: {}", pages.len(), said(memory.is_some())).to_string();
                self.trace.say("host", what);
                match memory {
                    Some(memory) => {
                        self.gpadls.insert(gpadl, memory);
                        Answer::GpadlCreated(gpadl)
                    }
                    None => Answer::GpadlRefused { gpadl, status: REFUSED },
                }
            }
            Request::TeardownGpadl { gpadl } => {
                let known = self.gpadls.remove(&gpadl).is_some();
                self.violations += u64::from(!known);
                self.trace.say("host", format_args!("gpadl {gpadl} torn down"));
                Answer::GpadlTornDown(gpadl)
            }
        }
    }

    fn open(&mut self, pages: &[u64], outgoing_pages: usize, interrupt: Line) -> Option<()> {
        let from_guest = self.ring(pages.get(..outgoing_pages)?)?.ok()?;
        let to_guest = self.ring(pages.get(outgoing_pages..)?)?.ok()?;
        self.adapter =
            Some(Adapter::new(from_guest, to_guest, interrupt, self.ram.clone(), self.options, self.trace.clone()));
        Some(())
    }

    fn ring(&self, pages: &[u64]) -> Option<Result<MappedRing<HeapMemory>, BadRing>> {
        self.map(pages).map(|memory| MappedRing::new(memory, PAGE_SIZE))
    }

    /// Makes one piece of memory of pages. In flat memory this is a slice, if the pages follow each other, as those of
    /// [`Ram`](crate::ram::Ram) do; another host would map them side by side.
    fn map(&self, pages: &[u64]) -> Option<HeapMemory> {
        let adjacent = pages.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
        let first = pages.first().filter(|first| adjacent && **first != 0)?;
        let offset = usize::try_from(*first).ok()?.checked_mul(PAGE_SIZE)?;
        self.ram.slice(offset, pages.len() * PAGE_SIZE).ok().filter(|memory| memory.len() > 0)
    }
}

fn said(yes: bool) -> &'static str {
    if yes { "granted" } else { "refused" }
}
