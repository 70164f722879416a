//! The bus: memory, events and rings, all of them reachable from the other side.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use vmbus::bus::{BufferWish, Bus, BusEvent, ChannelInfo, ChannelParts, Purpose, RingSizes, Silent};
use vmbus::error::{Error, ErrorKind, ErrorType};
use vmbus::gpadl::GpadlId;
use vmbus::guid::Guid;
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory};
use vmbus::protocol::RelId;

/// The device's channel.
pub(super) const CHANNEL: RelId = RelId(1);

/// Where the memory for GPA-direct sends is, as the guest counts.
pub(super) const DIRECT_GPA: u64 = 0x1000_0000;

/// Events that may wait: more come only from a bus that makes them up.
const MAX_EVENTS: usize = 64;

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// The host writes it.
    ToGuest,
    /// The guest writes it.
    ToHost,
}

/// An offer of `channel`.
pub(super) fn offer(channel: RelId, subchannel: u16) -> ChannelInfo {
    ChannelInfo::new(channel, Guid::from_bytes([0x63; 16]), Guid::from_bytes([7; 16]), subchannel)
}

/// A channel whose rings the other side has, too. Nobody hears its signals: the session gives everybody a turn anyway.
pub(super) type HostileChannel = ChannelParts<HeapMemory, Silent, Silent>;

/// What both sides reach.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) events: VecDeque<BusEvent>,
    /// True events wait here while they are held back.
    held: Vec<BusEvent>,
    hold: bool,
    pub(super) to_host: Option<HeapMemory>,
    pub(super) to_guest: Option<HeapMemory>,
    pub(super) receive: Option<HeapMemory>,
    pub(super) send: Option<HeapMemory>,
    pub(super) direct: Option<HeapMemory>,
    last_gpadl: u32,
    /// There is no memory whose addresses are known.
    no_direct: bool,
    ready: Option<HostileChannel>,
}

impl Shared {
    /// Something true happened.
    fn tell(&mut self, event: BusEvent) {
        if self.hold {
            self.held.push(event);
        } else {
            self.events.push_back(event);
        }
    }

    /// Something happened, or not.
    pub(super) fn forge(&mut self, event: BusEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    pub(super) fn hold(&mut self, hold: bool) {
        self.hold = hold;
        if !hold {
            self.events.extend(self.held.drain(..));
        }
    }

    /// A ring's memory.
    pub(super) fn ring(&self, ring: Ring) -> Option<&HeapMemory> {
        match ring {
            Ring::ToGuest => self.to_guest.as_ref(),
            Ring::ToHost => self.to_host.as_ref(),
        }
    }
}

/// A handle to what both sides reach.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle(Arc<Mutex<Shared>>);

impl Handle {
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bus that does what it is asked, unless it was told not to.
#[derive(Debug)]
pub struct HostileBus {
    shared: Handle,
}

impl HostileBus {
    /// A bus with an offer of one device.
    pub(super) fn new(no_direct: bool) -> (Self, Handle) {
        let shared = Handle::default();
        {
            let mut shared = shared.lock();
            shared.no_direct = no_direct;
            shared.events.push_back(BusEvent::Offered(offer(CHANNEL, 0)));
        }
        (Self { shared: shared.clone() }, shared)
    }
}

/// It cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

impl ErrorType for HostileBus {
    type Error = Refused;
}

impl Bus for HostileBus {
    type Memory = HeapMemory;
    type Channel = HostileChannel;

    fn allocate(&mut self, _channel: RelId, wish: BufferWish) -> Result<HeapMemory, Refused> {
        let mut shared = self.shared.lock();
        let memory = HeapMemory::zeroed(wish.bytes);
        if wish.purpose == Purpose::Direct {
            if shared.no_direct {
                return Err(Refused);
            }
            let memory = memory.with_gpa(DIRECT_GPA);
            shared.direct = Some(memory.clone());
            return Ok(memory);
        }
        shared.last_gpadl += 1;
        let gpadl = GpadlId(shared.last_gpadl);
        let memory = memory.with_gpadl(gpadl);
        match wish.purpose {
            Purpose::Receive => shared.receive = Some(memory.clone()),
            _ => shared.send = Some(memory.clone()),
        }
        shared.tell(BusEvent::GpadlCreated(gpadl));
        Ok(memory)
    }

    fn release(&mut self, _channel: RelId, memory: HeapMemory) {
        if let Some(gpadl) = memory.gpadl() {
            self.shared.lock().tell(BusEvent::GpadlTornDown(gpadl));
        }
    }

    fn open(&mut self, channel: RelId, rings: RingSizes) -> Result<(), Refused> {
        if channel != CHANNEL {
            return Err(Refused);
        }
        let mut shared = self.shared.lock();
        let outgoing = HeapMemory::zeroed(rings.outgoing_bytes);
        let incoming = HeapMemory::zeroed(rings.incoming_bytes);
        shared.to_host = Some(outgoing.clone());
        shared.to_guest = Some(incoming.clone());
        shared.ready = Some(ChannelParts {
            info: offer(channel, 0),
            outgoing,
            incoming,
            ring_header_bytes: PAGE_SIZE,
            doorbell: Silent,
            interrupt: Silent,
        });
        shared.tell(BusEvent::Opened(channel));
        Ok(())
    }

    fn take(&mut self, _channel: RelId) -> Option<HostileChannel> {
        self.shared.lock().ready.take()
    }

    fn close(&mut self, _channel: RelId) {
        self.shared.lock().ready = None;
    }

    fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<Result<BusEvent, Refused>> {
        match self.shared.lock().events.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => Poll::Pending,
        }
    }
}
