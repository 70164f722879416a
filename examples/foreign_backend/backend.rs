//! The backend: `vmbus::bus::Bus` on top of [`Ram`], two [`Line`]s and a [`Host`].
//!
//! What the driver wants becomes a [`Request`] to the host, what the host answers becomes a [`BusEvent`]. Nothing here knows
//! what a network adapter is: the same backend carries any VMBus device.
//!
//! | the driver calls | the host gets | the driver hears |
//! |---|---|---|
//! | | | `Offered` |
//! | `open` | `Open` with the rings' page numbers | `Opened` or `OpenFailed`, then `take`s the channel |
//! | `allocate` | `CreateGpadl` with page numbers | `GpadlCreated` or `GpadlFailed` |
//! | `release` | `TeardownGpadl` | `GpadlTornDown` |
//! | `close` | `Close` | |

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::task::{Context, Poll};

use vmbus::bus::{BufferWish, Bus, BusEvent, ChannelInfo, ChannelParts, Purpose, RelId, RingSizes};
use vmbus::gpadl::{GpadlId, page_numbers};
use vmbus::guid::Guid;
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory};
use vmbus::{ErrorKind, ErrorType};

use crate::host::{Answer, Host, Options, Request};
use crate::line::Line;
use crate::ram::Ram;
use crate::trace::Trace;

/// The number of the one channel that this bus has.
const CHANNEL: RelId = RelId(1);

/// What the backend itself cannot do. What the *host* refuses is an event, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlatError {
    /// The flat block is used up.
    OutOfMemory { wanted: usize, free: usize },
    /// There is one channel, and this is another.
    UnknownChannel(RelId),
    /// The channel is open, or on its way.
    AlreadyOpen,
    /// A ring needs a control page and at least one page of data, whole pages.
    RingBytes { value: usize, minimum: usize },
}

impl fmt::Display for FlatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { wanted, free } => write!(f, "{wanted} bytes wanted, {free} free"),
            Self::UnknownChannel(channel) => write!(f, "there is no channel {channel}"),
            Self::AlreadyOpen => f.write_str("the channel is open already"),
            Self::RingBytes { value, minimum } => {
                write!(f, "ring of {value} bytes: whole pages, at least {minimum} bytes, are needed")
            }
        }
    }
}

impl std::error::Error for FlatError {}

/// Every error of the trait layer says who is at fault, so that generic code knows what to do next.
impl vmbus::Error for FlatError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfMemory { .. } => ErrorKind::System,
            Self::UnknownChannel(_) | Self::AlreadyOpen | Self::RingBytes { .. } => ErrorKind::Misuse,
        }
    }
}

/// An open channel. There is nothing to it but its parts.
pub(crate) type FlatChannel = ChannelParts<HeapMemory, Line, Line>;

/// A bus with one device on it.
#[derive(Debug)]
pub(crate) struct FlatBus {
    ram: Ram,
    host: Host,
    /// Rung by the channel and for each request: one line, as the host looks at everything anyway.
    doorbell: Line,
    offer: ChannelInfo,
    /// Rings that the host knows.
    rings: Option<HeapMemory>,
    /// The channel, from `open` until `take`.
    channel: Option<FlatChannel>,
    /// Buffers that the host knows.
    lent: BTreeMap<GpadlId, HeapMemory>,
    next_gpadl: GpadlId,
    events: VecDeque<BusEvent>,
}

impl FlatBus {
    /// A machine with `ram_bytes` of memory, and a host that offers it a network adapter.
    pub(crate) fn new(ram_bytes: usize, options: Options, trace: Trace) -> Self {
        let ram = Ram::new(ram_bytes);
        let host = Host::new(ram.whole(), options, trace);
        let instance = Guid::new(0x0f1a_7bac, 0x0000, 0x4e0d, 1);
        let offer = ChannelInfo::new(CHANNEL, Guid::NIC, instance, 0);
        Self {
            ram,
            host,
            doorbell: Line::default(),
            offer,
            rings: None,
            channel: None,
            lent: BTreeMap::new(),
            next_gpadl: GpadlId::FIRST,
            // Known from the start here; elsewhere this is the answer to "what do you offer?".
            events: VecDeque::from([BusEvent::Offered(offer)]),
        }
    }

    /// The host, to be looked at.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// A frame for the guest from the host's side.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        self.host.inject(frame);
        self.doorbell.raise();
    }

    /// Pieces of memory in use: 0 once everything was closed.
    pub(crate) fn pieces(&self) -> usize {
        self.ram.pieces()
    }

    /// Leaves a request where the host finds it in its next step.
    fn ask(&mut self, request: Request) {
        self.host.post(request);
        self.doorbell.raise();
    }

    fn check(&self, channel: RelId) -> Result<(), FlatError> {
        if channel == CHANNEL { Ok(()) } else { Err(FlatError::UnknownChannel(channel)) }
    }

    /// What the host answered, for the driver; and memory is free for something else once the host let go of it.
    fn take_answers(&mut self) {
        while let Some(answer) = self.host.answer() {
            match answer {
                Answer::Opened => self.events.push_back(BusEvent::Opened(CHANNEL)),
                Answer::NotOpened { status } => {
                    self.channel = None;
                    if let Some(rings) = self.rings.take() {
                        self.ram.free(rings);
                    }
                    self.events.push_back(BusEvent::OpenFailed { channel: CHANNEL, status });
                }
                Answer::Closed => {
                    if let Some(rings) = self.rings.take() {
                        self.ram.free(rings);
                    }
                }
                Answer::GpadlCreated(gpadl) => self.events.push_back(BusEvent::GpadlCreated(gpadl)),
                Answer::GpadlRefused { gpadl, status } => {
                    if let Some(memory) = self.lent.remove(&gpadl) {
                        self.ram.free(memory);
                    }
                    self.events.push_back(BusEvent::GpadlFailed { gpadl, status });
                }
                Answer::GpadlTornDown(gpadl) => {
                    if let Some(memory) = self.lent.remove(&gpadl) {
                        self.ram.free(memory);
                    }
                    self.events.push_back(BusEvent::GpadlTornDown(gpadl));
                }
            }
        }
    }
}

/// The numbers of all pages of a piece of memory, which is how the host is told of it.
fn pages_of(memory: &HeapMemory) -> Vec<u64> {
    // All memory here has an address, at a page's start: none is left out.
    page_numbers(memory.len(), |offset| memory.gpa(offset)).filter_map(Result::ok).collect()
}

impl ErrorType for FlatBus {
    type Error = FlatError;
}

impl Bus for FlatBus {
    type Memory = HeapMemory;
    type Channel = FlatChannel;

    fn allocate(&mut self, channel: RelId, wish: BufferWish) -> Result<HeapMemory, FlatError> {
        self.check(channel)?;
        let memory = self.ram.allocate(wish.bytes)?;
        if wish.purpose == Purpose::Direct {
            // No GPADL: each packet names the pages it uses.
            return Ok(memory);
        }
        let gpadl = self.next_gpadl;
        self.next_gpadl = GpadlId(gpadl.0 + 1);
        self.ask(Request::CreateGpadl { gpadl, pages: pages_of(&memory) });
        let memory = memory.with_gpadl(gpadl);
        // The bus keeps a handle until the teardown: the driver may drop its own, the host goes on using the pages.
        self.lent.insert(gpadl, memory.clone());
        Ok(memory)
    }

    fn release(&mut self, _channel: RelId, memory: HeapMemory) {
        match memory.gpadl() {
            Some(gpadl) => self.ask(Request::TeardownGpadl { gpadl }),
            None => self.ram.free(memory),
        }
    }

    fn open(&mut self, channel: RelId, sizes: RingSizes) -> Result<(), FlatError> {
        self.check(channel)?;
        if self.rings.is_some() {
            return Err(FlatError::AlreadyOpen);
        }
        let minimum = 2 * PAGE_SIZE;
        for value in [sizes.outgoing_bytes, sizes.incoming_bytes] {
            if value < minimum || !value.is_multiple_of(PAGE_SIZE) {
                return Err(FlatError::RingBytes { value, minimum });
            }
        }
        // Both rings are one piece, guest→host first: VMBus hosts get one GPADL and the number of pages of the first.
        let rings = self.ram.allocate(sizes.outgoing_bytes + sizes.incoming_bytes)?;
        let part = |at, len| rings.slice(at, len).map_err(|_| FlatError::RingBytes { value: len, minimum });
        let (outgoing, incoming) = (part(0, sizes.outgoing_bytes)?, part(sizes.outgoing_bytes, sizes.incoming_bytes)?);
        let interrupt = Line::default();
        let outgoing_pages = sizes.outgoing_bytes / PAGE_SIZE;
        self.ask(Request::Open { pages: pages_of(&rings), outgoing_pages, interrupt: interrupt.clone() });
        let doorbell = self.doorbell.clone();
        let ring_header_bytes = PAGE_SIZE;
        let info = self.offer;
        self.channel = Some(ChannelParts { info, outgoing, incoming, ring_header_bytes, doorbell, interrupt });
        self.rings = Some(rings);
        Ok(())
    }

    fn take(&mut self, channel: RelId) -> Option<FlatChannel> {
        self.check(channel).ok().and_then(|()| self.channel.take())
    }

    fn close(&mut self, channel: RelId) {
        if self.check(channel).is_ok() && self.rings.is_some() {
            self.channel = None;
            self.ask(Request::Close);
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<BusEvent, FlatError>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => {
                // Events only come out of `run_host`. So "wake me when there is an event" means: wake me when the host has
                // something to do, since whoever is woken lets it run.
                self.doorbell.wake_when_raised(cx);
                Poll::Pending
            }
        }
    }

    fn run_host(&mut self) -> bool {
        // The one place where the host runs. A host with a thread or process of its own leaves this method out.
        let rung = self.doorbell.take();
        let moved = self.host.step(rung);
        self.take_answers();
        moved
    }
}
