//! [`MemBus`]: the in-process connection as a [`Bus`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{GuestPort, Latch};
use crate::bus::{
    BufferWish, Bus, BusEvent, Channel, ChannelInfo, ChannelParts, Doorbell, Interrupt, PartsOf, Purpose, RingSizes,
};
use crate::client::{self, Client, Failure, OpenRequest};
use crate::error::{Error, ErrorKind, ErrorType};
use crate::gpadl::{GpaRangeError, GpadlId, RangeList};
use crate::memory::{HeapMemory, OutOfBounds, PAGE_SIZE, SharedMemory};
use crate::protocol::RelId;

/// The client's deadlines are the device driver's business, which has one for each of its steps: here time stands still.
const NOW: Duration = Duration::ZERO;

/// Why something cannot be done on an in-process bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemError {
    /// The control plane does not allow it now.
    Request(client::RequestError),
    /// The channel is not one of this device's.
    UnknownChannel(RelId),
    /// The channel is being opened or open already.
    AlreadyOpen(RelId),
    /// A ring needs a control page and at least one page of data, and whole pages.
    RingBytes {
        /// What was wished.
        value: usize,
    },
    /// The memory has more pages than a GPADL can list.
    Ranges(GpaRangeError),
    /// A request for no memory.
    Empty,
}

impl std::fmt::Display for MemError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::UnknownChannel(channel) => write!(f, "channel {channel} was not offered"),
            Self::AlreadyOpen(channel) => write!(f, "channel {channel} is open already"),
            Self::RingBytes { value } => {
                write!(f, "ring of {value} bytes: a multiple of {PAGE_SIZE}, at least {}, is needed", 2 * PAGE_SIZE)
            }
            Self::Ranges(error) => error.fmt(f),
            Self::Empty => f.write_str("memory of no bytes was asked for"),
        }
    }
}

impl std::error::Error for MemError {}

impl Error for MemError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(client::RequestError::NotConnected) => ErrorKind::Gone,
            _ => ErrorKind::Misuse,
        }
    }
}

impl From<client::RequestError> for MemError {
    fn from(error: client::RequestError) -> Self {
        Self::Request(error)
    }
}

/// What became of a channel's opening.
#[derive(Debug)]
enum Opening {
    /// Not open.
    Closed,
    /// Its rings' GPADL is being made.
    Rings(GpadlId),
    /// It exists; OPENCHANNEL follows once the channel's rings before are done with.
    Waiting(GpadlId),
    /// OPENCHANNEL is under way.
    Asked(GpadlId),
    /// Open.
    Open(GpadlId),
}

#[derive(Debug)]
struct Known {
    info: ChannelInfo,
    sizes: RingSizes,
    opening: Opening,
    /// Rings that were let go of, and that the host still has to hear it about. A CLOSECHANNEL before the answer to
    /// OPENCHANNEL means nothing.
    leaving: Option<GpadlId>,
    ready: Option<MemChannel>,
}

/// An in-process connection as one device's [`Bus`].
///
/// It connects at the first [`poll_event`](Bus::poll_event), and serves the first device that the host offers.
/// Dropping it unloads the connection.
#[derive(Debug)]
pub struct MemBus {
    port: GuestPort,
    client: Client,
    connecting: bool,
    gone: bool,
    channels: HashMap<RelId, Known>,
    /// Memory that the host knows, by GPADL.
    lent: HashMap<GpadlId, HeapMemory>,
    /// GPADLs that are none of the driver's business (any more): rings, which the bus makes and tears down by itself.
    own: HashSet<GpadlId>,
    /// GPADLs to tear down as soon as they exist.
    unwanted: HashSet<GpadlId>,
    /// Memory that packets in rings which are on their way back may name: freed after these.
    parked: Vec<(HashSet<GpadlId>, HeapMemory)>,
    events: VecDeque<BusEvent>,
}

impl MemBus {
    /// A bus at the guest's end of a connection.
    pub fn new(port: GuestPort) -> Self {
        Self::with_config(port, client::Config::default())
    }

    /// As [`new`](Self::new), with settings of the control plane: which versions to offer.
    ///
    /// # Panics
    /// If the settings contradict each other, as [`Client::new`] says.
    pub fn with_config(port: GuestPort, config: client::Config) -> Self {
        Self {
            port,
            client: Client::new(config).expect("consistent settings"),
            connecting: false,
            gone: false,
            channels: HashMap::new(),
            lent: HashMap::new(),
            own: HashSet::new(),
            unwanted: HashSet::new(),
            parked: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The guest's end of the connection.
    pub fn port(&self) -> &GuestPort {
        &self.port
    }

    /// The control plane's version and features, once connected.
    pub fn context(&self) -> Option<crate::protocol::Context> {
        self.client.context()
    }

    /// Posts what the client has to say.
    fn transmit(&mut self) {
        let mut message = [0; crate::protocol::MAX_MESSAGE];
        while let Some(outgoing) = self.client.poll_transmit(&mut message) {
            // Never longer than the transport takes: both are 240 bytes.
            let posted = self.port.post_message(outgoing.connection_id, &message[..outgoing.len]);
            debug_assert!(posted.is_ok());
        }
    }

    /// Lends memory to the host; the memory with its GPADL.
    fn lend(&mut self, channel: RelId, memory: &HeapMemory) -> Result<GpadlId, MemError> {
        let ranges = RangeList::for_buffer(memory.len(), |offset| memory.gpa(offset)).map_err(MemError::Ranges)?;
        let gpadl = self.client.create_gpadl(NOW, channel, ranges)?;
        self.lent.insert(gpadl, memory.clone().with_gpadl(gpadl));
        self.transmit();
        Ok(gpadl)
    }

    /// Asks for lent memory back; it is freed when the host has let go.
    fn take_back(&mut self, gpadl: GpadlId) {
        match self.client.teardown_gpadl(NOW, gpadl) {
            Ok(()) => {}
            // What the client does not know (any more) the host does not touch.
            Err(client::RequestError::UnknownGpadl { .. } | client::RequestError::NotConnected) => {
                self.free(gpadl);
            }
            // Still being made. (Or being torn down: then nothing of it is heard again but that.)
            Err(_) => {
                self.unwanted.insert(gpadl);
            }
        }
        self.transmit();
    }

    /// The host has let go of memory; whether the driver has to know.
    fn free(&mut self, gpadl: GpadlId) -> bool {
        if let Some(memory) = self.lent.remove(&gpadl) {
            self.port.memory().free(&memory);
        }
        self.unwanted.remove(&gpadl);
        for (rings, _) in &mut self.parked {
            rings.remove(&gpadl);
        }
        for (_, memory) in self.parked.extract_if(.., |(rings, _)| rings.is_empty()) {
            self.port.memory().free(&memory);
        }
        !self.own.remove(&gpadl)
    }

    /// The channel whose rings are behind `gpadl`.
    fn ring_owner(&self, gpadl: GpadlId) -> Option<RelId> {
        self.channels.iter().find_map(|(&relid, known)| match known.opening {
            Opening::Rings(ring) | Opening::Waiting(ring) | Opening::Asked(ring) | Opening::Open(ring) => {
                (ring == gpadl).then_some(relid)
            }
            Opening::Closed => None,
        })
    }

    fn client_event(&mut self, event: client::Event) {
        use client::Event as E;
        match event {
            E::ConnectFailed(_) => self.vanish(),
            E::Offered(offer) => {
                let mine = self.channels.values().all(|known| known.info.instance == offer.instance_id);
                if mine {
                    let mut info =
                        ChannelInfo::new(offer.relid, offer.interface_id, offer.instance_id, offer.sub_channel_index);
                    info.monitor = offer.monitor();
                    let (sizes, opening) = (RingSizes::default(), Opening::Closed);
                    self.channels.insert(offer.relid, Known { info, sizes, opening, leaving: None, ready: None });
                    self.events.push_back(BusEvent::Offered(info));
                }
            }
            E::GpadlCreated { gpadl, .. } => {
                if self.unwanted.remove(&gpadl) {
                    self.take_back(gpadl);
                } else if let Some(channel) = self.ring_owner(gpadl) {
                    self.rings_are_ready(channel, gpadl);
                } else {
                    self.events.push_back(BusEvent::GpadlCreated(gpadl));
                }
            }
            E::GpadlFailed { gpadl, reason, .. } => {
                let owner = self.ring_owner(gpadl);
                let status = status_of(reason);
                let tell = self.free(gpadl);
                if let Some(channel) = owner {
                    self.open_failed(channel, status);
                } else if tell {
                    self.events.push_back(BusEvent::GpadlFailed { gpadl, status });
                }
            }
            E::GpadlTornDown { gpadl, .. } => {
                let tell = self.free(gpadl);
                self.events.extend(tell.then_some(BusEvent::GpadlTornDown(gpadl)));
            }
            E::Opened { relid } | E::OpenFailed { relid, .. } if self.is_leaving(relid) => self.close_leaving(),
            E::Opened { relid } => self.opened(relid),
            E::OpenFailed { relid, reason } => {
                if let Some(known) = self.channels.get_mut(&relid)
                    && let Opening::Asked(gpadl) = std::mem::replace(&mut known.opening, Opening::Closed)
                {
                    self.take_back(gpadl);
                }
                self.open_failed(relid, status_of(reason));
            }
            E::Rescinded { relid, .. } if self.channels.contains_key(&relid) => {
                self.port.interrupt(relid).set();
                self.events.push_back(BusEvent::Rescinded(relid));
            }
            // Connected, all offers delivered; moved interrupts; late answers, which have no deadline here; unloaded.
            _ => {}
        }
    }

    fn rings_are_ready(&mut self, channel: RelId, gpadl: GpadlId) {
        let Some(known) = self.channels.get_mut(&channel) else { return };
        if known.leaving.is_some() {
            known.opening = Opening::Waiting(gpadl);
            return;
        }
        known.opening = Opening::Asked(gpadl);
        let pages = (known.sizes.outgoing_bytes / PAGE_SIZE) as u32;
        if self.client.open_channel(NOW, OpenRequest::new(channel, gpadl, pages)).is_err() {
            // Rescinded meanwhile: that event follows or has come.
            self.open_failed(channel, u32::MAX);
            self.take_back(gpadl);
        }
        self.transmit();
    }

    fn is_leaving(&self, channel: RelId) -> bool {
        self.channels.get(&channel).is_some_and(|known| known.leaving.is_some())
    }

    /// Closes the channels that were let go of, as far as the host has answered; subchannels before their primary.
    fn close_leaving(&mut self) {
        let leaving = |known: &&Known| known.leaving.is_some();
        let (primaries, subchannels): (Vec<_>, Vec<_>) =
            self.channels.values().filter(leaving).map(|known| known.info).partition(ChannelInfo::is_primary);
        for subchannel in &subchannels {
            self.close_if_answered(subchannel.id);
        }
        if !subchannels.iter().any(|subchannel| self.is_leaving(subchannel.id)) {
            primaries.iter().for_each(|primary| self.close_if_answered(primary.id));
        }
    }

    /// Closes a channel that was let go of, unless it is still being opened.
    fn close_if_answered(&mut self, channel: RelId) {
        // Refused: still being opened; or not open after all, or gone, and there is nothing to close.
        if self.client.close_channel(channel).is_err() && self.client.accepts_interrupts(channel) {
            return;
        }
        let Some(known) = self.channels.get_mut(&channel) else { return };
        let (rings, next) = (known.leaving.take(), &known.opening);
        let next = if let Opening::Waiting(gpadl) = next { Some(*gpadl) } else { None };
        if let Some(rings) = rings {
            self.take_back(rings);
        }
        if let Some(next) = next {
            self.rings_are_ready(channel, next);
        }
    }

    fn open_failed(&mut self, channel: RelId, status: u32) {
        if let Some(known) = self.channels.get_mut(&channel) {
            known.opening = Opening::Closed;
            self.events.push_back(BusEvent::OpenFailed { channel, status });
        }
    }

    fn opened(&mut self, channel: RelId) {
        let Some(known) = self.channels.get_mut(&channel) else { return };
        let Opening::Asked(gpadl) = known.opening else { return };
        let Some(rings) = self.lent.get(&gpadl) else { return };
        let RingSizes { outgoing_bytes, incoming_bytes } = known.sizes;
        let halves: Result<_, OutOfBounds> = rings
            .slice(0, outgoing_bytes)
            .and_then(|outgoing| Ok((outgoing, rings.slice(outgoing_bytes, incoming_bytes)?)));
        // Checked when the opening was asked for.
        let Ok((outgoing, incoming)) = halves else { return };
        known.opening = Opening::Open(gpadl);
        let (doorbell, interrupt) = (self.port.doorbell(), self.port.interrupt(channel));
        known.ready = Some(MemChannel::new(known.info, outgoing, incoming, doorbell, interrupt));
        self.events.push_back(BusEvent::Opened(channel));
    }

    fn vanish(&mut self) {
        if !self.gone {
            self.gone = true;
            self.events.push_back(BusEvent::Gone);
        }
    }

    /// Does all that can be done without waiting.
    fn advance(&mut self) {
        if !self.connecting {
            self.connecting = true;
            // Not connected yet: cannot fail.
            let _ = self.client.connect(NOW);
        }
        self.transmit();
        while let Some(message) = self.port.take_message() {
            // A message that cannot be is counted by the client, and means nothing.
            let _ = self.client.handle_message(NOW, &message.bytes);
            self.transmit();
        }
        while let Some(event) = self.client.poll_event() {
            self.client_event(event);
            self.transmit();
        }
        if self.port.host_is_gone() {
            self.vanish();
        }
    }
}

fn status_of(failure: Failure) -> u32 {
    match failure {
        Failure::Refused(status) => status.0,
        Failure::Rescinded | Failure::NotSent(_) => u32::MAX,
    }
}

impl ErrorType for MemBus {
    type Error = MemError;
}

impl Bus for MemBus {
    type Memory = HeapMemory;
    type Channel = MemChannel;

    fn allocate(&mut self, channel: RelId, wish: BufferWish) -> Result<HeapMemory, MemError> {
        if wish.bytes == 0 {
            return Err(MemError::Empty);
        }
        let memory = self.port.memory().allocate(wish.bytes);
        if wish.purpose == Purpose::Direct {
            return Ok(memory);
        }
        match self.lend(channel, &memory) {
            Ok(gpadl) => Ok(memory.with_gpadl(gpadl)),
            Err(error) => {
                self.port.memory().free(&memory);
                Err(error)
            }
        }
    }

    fn release(&mut self, _channel: RelId, memory: HeapMemory) {
        match memory.gpadl() {
            Some(gpadl) => self.take_back(gpadl),
            None => {
                let in_use = |ring: &&GpadlId| self.ring_owner(**ring).is_some();
                let leaving: HashSet<_> = self.own.iter().filter(|ring| !in_use(ring)).copied().collect();
                if leaving.is_empty() {
                    self.port.memory().free(&memory);
                } else {
                    self.parked.push((leaving, memory));
                }
            }
        }
    }

    fn open(&mut self, channel: RelId, rings: RingSizes) -> Result<(), MemError> {
        let known = self.channels.get(&channel).ok_or(MemError::UnknownChannel(channel))?;
        if !matches!(known.opening, Opening::Closed) {
            return Err(MemError::AlreadyOpen(channel));
        }
        if known.leaving.is_some() {
            // Closed before, and waiting for subchannels whose opening the host does not answer: not any longer.
            self.close_if_answered(channel);
        }
        for value in [rings.outgoing_bytes, rings.incoming_bytes] {
            if value < 2 * PAGE_SIZE || !value.is_multiple_of(PAGE_SIZE) {
                return Err(MemError::RingBytes { value });
            }
        }
        let memory = self.port.memory().allocate(rings.outgoing_bytes + rings.incoming_bytes);
        let gpadl = self.lend(channel, &memory).inspect_err(|_| self.port.memory().free(&memory))?;
        self.own.insert(gpadl);
        if let Some(known) = self.channels.get_mut(&channel) {
            known.sizes = rings;
            known.opening = Opening::Rings(gpadl);
        }
        Ok(())
    }

    fn take(&mut self, channel: RelId) -> Option<MemChannel> {
        self.channels.get_mut(&channel)?.ready.take()
    }

    fn close(&mut self, channel: RelId) {
        let Some(known) = self.channels.get_mut(&channel) else { return };
        known.ready = None;
        match std::mem::replace(&mut known.opening, Opening::Closed) {
            Opening::Closed => {}
            Opening::Rings(gpadl) | Opening::Waiting(gpadl) => self.take_back(gpadl),
            Opening::Asked(gpadl) | Opening::Open(gpadl) => {
                known.leaving = Some(gpadl);
                self.close_leaving();
            }
        }
        // What became of this opening is no word on the next.
        self.events.retain(
            |event| !matches!(event, BusEvent::Opened(of) | BusEvent::OpenFailed { channel: of, .. } if *of == channel),
        );
        self.transmit();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<BusEvent, MemError>> {
        loop {
            self.advance();
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Ok(event));
            }
            if self.port.latch().poll(cx).is_pending() {
                // What was asked for just now, or a doorbell later, has to wake whoever lets the host run.
                if self.port.poll_host_has_work(cx) {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    }

    fn run_host(&mut self) -> bool {
        self.port.run_host()
    }
}

impl Drop for MemBus {
    fn drop(&mut self) {
        // Refused where there is no way back from it; the host then sees the guest's end itself.
        if self.client.unload(NOW).is_ok() {
            self.transmit();
        }
        let parked = self.parked.drain(..).map(|(_, memory)| memory);
        for memory in self.lent.drain().map(|(_, memory)| memory).chain(parked) {
            self.port.memory().free(&memory);
        }
    }
}

/// An open in-process channel.
#[derive(Debug)]
pub struct MemChannel {
    parts: PartsOf<Self>,
}

impl MemChannel {
    /// A channel over rings that exist: `outgoing` to the other side, `incoming` from it, whole pages each.
    pub fn new(
        info: ChannelInfo,
        outgoing: HeapMemory,
        incoming: HeapMemory,
        doorbell: Latch,
        interrupt: Latch,
    ) -> Self {
        let (doorbell, interrupt) = (MemDoorbell(doorbell), MemInterrupt(interrupt));
        Self { parts: ChannelParts { info, outgoing, incoming, ring_header_bytes: PAGE_SIZE, doorbell, interrupt } }
    }
}

impl ErrorType for MemChannel {
    type Error = Infallible;
}

impl Channel for MemChannel {
    type Memory = HeapMemory;
    type Doorbell = MemDoorbell;
    type Interrupt = MemInterrupt;

    fn info(&self) -> &ChannelInfo {
        &self.parts.info
    }

    fn into_parts(self) -> PartsOf<Self> {
        self.parts
    }
}

/// The signal to an in-process host.
#[derive(Debug, Clone)]
pub struct MemDoorbell(Latch);

impl ErrorType for MemDoorbell {
    type Error = Infallible;
}

impl Doorbell for MemDoorbell {
    fn signal(&self) -> Result<(), Infallible> {
        self.0.set();
        Ok(())
    }
}

/// The signal from an in-process host.
#[derive(Debug)]
pub struct MemInterrupt(Latch);

impl ErrorType for MemInterrupt {
    type Error = Infallible;
}

impl Interrupt for MemInterrupt {
    fn poll_latched(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests;
