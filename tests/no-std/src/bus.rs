//! A bus with one channel and a host that never says anything: what a foreign backend starts from.

use alloc::collections::VecDeque;
use core::convert::Infallible;
use core::task::{Context, Poll};

use vmbus::ErrorType;
use vmbus::bus::{
    BufferWish, Bus, BusEvent, Channel, ChannelInfo, ChannelParts, Doorbell, Interrupt, PartsOf, RingSizes,
};
use vmbus::gpadl::GpadlId;
use vmbus::guid::Guid;
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory};
use vmbus::protocol::RelId;

const RING_BYTES: usize = 8 * PAGE_SIZE;

/// Both rings of the channel, as the host sees them.
#[derive(Clone)]
pub struct Rings {
    /// Guest→host.
    pub outgoing: HeapMemory,
    /// Host→guest.
    pub incoming: HeapMemory,
}

impl Rings {
    /// Fresh ones.
    pub fn new() -> Self {
        Self { outgoing: HeapMemory::zeroed(RING_BYTES), incoming: HeapMemory::zeroed(RING_BYTES) }
    }
}

/// The bus.
pub struct OneChannelBus {
    rings: Rings,
    events: VecDeque<BusEvent>,
}

impl OneChannelBus {
    /// The bus, and the rings of its channel.
    pub fn new() -> (Self, Rings) {
        let rings = Rings::new();
        let offered = BusEvent::Offered(info());
        (Self { rings: rings.clone(), events: VecDeque::from([offered]) }, rings)
    }
}

fn info() -> ChannelInfo {
    ChannelInfo::new(RelId(1), Guid::ZERO, Guid::ZERO, 0)
}

impl ErrorType for OneChannelBus {
    type Error = Infallible;
}

impl Bus for OneChannelBus {
    type Memory = HeapMemory;
    type Channel = OneChannel;

    fn allocate(&mut self, _: RelId, wish: BufferWish) -> Result<HeapMemory, Infallible> {
        Ok(HeapMemory::zeroed(wish.bytes).with_gpadl(GpadlId(1)))
    }

    fn release(&mut self, _: RelId, memory: HeapMemory) {
        self.events.extend(memory.gpadl().map(BusEvent::GpadlTornDown));
    }

    fn open(&mut self, channel: RelId, _: RingSizes) -> Result<(), Infallible> {
        self.events.push_back(BusEvent::Opened(channel));
        Ok(())
    }

    fn take(&mut self, _: RelId) -> Option<OneChannel> {
        Some(OneChannel { info: info(), rings: self.rings.clone() })
    }

    fn close(&mut self, _: RelId) {}

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Result<BusEvent, Infallible>> {
        self.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Ok(event)))
    }
}

/// Its channel.
pub struct OneChannel {
    info: ChannelInfo,
    rings: Rings,
}

impl OneChannel {
    /// A channel with these rings.
    pub fn new(rings: Rings) -> Self {
        Self { info: info(), rings }
    }
}

impl ErrorType for OneChannel {
    type Error = Infallible;
}

impl Channel for OneChannel {
    type Memory = HeapMemory;
    type Doorbell = Silent;
    type Interrupt = Silent;

    fn info(&self) -> &ChannelInfo {
        &self.info
    }

    fn into_parts(self) -> PartsOf<Self> {
        ChannelParts {
            info: self.info,
            outgoing: self.rings.outgoing,
            incoming: self.rings.incoming,
            ring_header_bytes: PAGE_SIZE,
            doorbell: Silent,
            interrupt: Silent,
        }
    }
}

/// Signals that nobody waits for: host and guest take turns on one thread.
pub struct Silent;

impl ErrorType for Silent {
    type Error = Infallible;
}

impl Doorbell for Silent {
    fn signal(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Interrupt for Silent {
    fn poll_latched(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }
}
