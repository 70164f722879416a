//! A bus with one channel and a host that never says anything: what a foreign backend starts from.

use alloc::collections::VecDeque;
use core::convert::Infallible;
use core::task::{Context, Poll};

use vmbus::ErrorType;
use vmbus::bus::{BufferWish, Bus, BusEvent, ChannelInfo, ChannelParts, RingSizes, Silent};
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

    /// A channel with these rings. Nobody waits for its signals: host and guest take turns on one thread.
    pub fn into_channel(self) -> OneChannel {
        ChannelParts {
            info: info(),
            outgoing: self.outgoing,
            incoming: self.incoming,
            ring_header_bytes: PAGE_SIZE,
            doorbell: Silent,
            interrupt: Silent,
        }
    }
}

/// The bus's channel.
pub type OneChannel = ChannelParts<HeapMemory, Silent, Silent>;

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
        Some(self.rings.clone().into_channel())
    }

    fn close(&mut self, _: RelId) {}

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Result<BusEvent, Infallible>> {
        self.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Ok(event)))
    }
}
