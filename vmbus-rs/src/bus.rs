//! The trait layer: what a backend must offer so that a VMBus device driver runs on it.
//!
//! Layered as embedded-hal is: small traits, fallible, each naming its error with [`ErrorType`]; the poll form stands
//! here, the async form (module `aio`, feature `tokio`) is a thin adapter above it.
//!
//! | trait | is |
//! |---|---|
//! | [`SharedMemory`] | bytes that the host also sees: rings, receive and send buffer, pages for GPA-direct sends |
//! | [`Doorbell`] | "tell the host" |
//! | [`Interrupt`] | "wait for the host": a latch |
//! | [`Channel`] | a ring pair with its doorbell and interrupt |
//! | [`Bus`] | offers, GPADLs, open, close, rescind |
//!
//! # For those who call the traits
//! A [`Bus`] serves one device: its primary channel and that channel's subchannels. Requests return at once; what the
//! host makes of them arrives as a [`BusEvent`] from [`Bus::poll_event`]. [`Doorbell::signal`] is called only when the
//! ring says so ([`Signal::Needed`](crate::ring::Signal)): hosts punish needless signals.
//!
//! # For those who implement them
//! Needed from your VMM, unikernel or test bed: shared memory (base address, length, and offset → guest physical
//! address where GPA-direct shall work), GPADL create and teardown from a list of page numbers, open and close of a
//! channel from a ring GPADL, "signal", and "wait": a latch that may coalesce and may wake without cause. Optional:
//! [`Bus::run_host`], by which a deterministic, single-threaded backend lets its host take a step.
//! [`HeapMemory`](crate::memory::HeapMemory) is shared memory without `unsafe` code of your own, [`ChannelParts`] is a channel
//! as it is, and [`Silent`] stands for signals that a test bed does without. Rings handed out by
//! [`Bus::take`] must be zeroed before every open. `examples/foreign_backend` is a whole backend with its own host.

use core::convert::Infallible;
use core::task::{Context, Poll};

use crate::error::ErrorType;
use crate::gpadl::GpadlId;
use crate::guid::Guid;
use crate::memory::SharedMemory;
use crate::monitor::MonitorId;
pub use crate::protocol::RelId;

/// Tells the host to look at a channel.
pub trait Doorbell: ErrorType {
    /// Signals the host. Cheap where the channel is monitored, a system call or hypercall where it is not.
    ///
    /// # Errors
    /// When the channel is gone.
    fn signal(&self) -> Result<(), Self::Error>;
}

/// Waits for the host: a latch, with one waiter.
///
/// It may coalesce and wake without cause. Ready means "look at both rings", never "there is data".
pub trait Interrupt: ErrorType {
    /// Ready once the host signalled since the last time that this was ready; resets the latch.
    ///
    /// # Errors
    /// When the channel is gone; a waiter is woken then.
    fn poll_latched(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// Whether the ring's interrupt mask may be cleared. `false` on a `uio_hv_generic` subchannel whose kernel cannot
    /// take its interrupt: such a channel is polled by timer.
    fn can_unmask(&self) -> bool {
        true
    }
}

impl<T: Doorbell + ?Sized> Doorbell for &mut T {
    fn signal(&self) -> Result<(), Self::Error> {
        (**self).signal()
    }
}

impl<T: Interrupt + ?Sized> Interrupt for &mut T {
    fn poll_latched(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        (**self).poll_latched(cx)
    }

    fn can_unmask(&self) -> bool {
        (**self).can_unmask()
    }
}

/// A signal that nobody hears, and one that never comes: for channels whose two ends take turns on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    fn poll_latched(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }
}

/// Who a channel is, from its offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// Relid.
    pub id: RelId,
    /// Device class.
    pub interface: Guid,
    /// Device instance; the same for a primary channel and its subchannels.
    pub instance: Guid,
    /// 0 for the primary channel.
    pub subchannel_index: u16,
    /// Bit in the monitor page by which the host is signalled, if it gave one.
    pub monitor: Option<MonitorId>,
}

impl ChannelInfo {
    /// A channel of `instance` of class `interface`, without monitor.
    pub fn new(id: RelId, interface: Guid, instance: Guid, subchannel_index: u16) -> Self {
        Self { id, interface, instance, subchannel_index, monitor: None }
    }

    /// Whether this is the primary channel.
    pub fn is_primary(&self) -> bool {
        self.subchannel_index == 0
    }
}

/// A channel taken apart: its rings and its two signals.
#[derive(Debug)]
pub struct ChannelParts<M, D, I> {
    /// Who it is.
    pub info: ChannelInfo,
    /// Guest→host ring: control page and data.
    pub outgoing: M,
    /// Host→guest ring: control page and data.
    pub incoming: M,
    /// Bytes before the data area of each ring: the control page, which takes a whole *system* page where those are
    /// larger than 4096 bytes.
    pub ring_header_bytes: usize,
    /// Tells the host.
    pub doorbell: D,
    /// Waits for the host.
    pub interrupt: I,
}

/// An open channel: one queue's worth of rings and signals. Dropping it does **not** close it; [`Bus::close`] does.
pub trait Channel: ErrorType + Send + 'static {
    /// The rings' memory.
    type Memory: SharedMemory;
    /// Tells the host.
    type Doorbell: Doorbell<Error = Self::Error> + Send + 'static;
    /// Waits for the host.
    type Interrupt: Interrupt<Error = Self::Error> + Send + 'static;

    /// Who it is.
    fn info(&self) -> &ChannelInfo;

    /// Takes it apart.
    fn into_parts(self) -> ChannelParts<Self::Memory, Self::Doorbell, Self::Interrupt>;
}

/// A channel that is nothing but its parts: a backend need not have a type of its own for them.
impl<M, D, I> Channel for ChannelParts<M, D, I>
where
    M: SharedMemory,
    D: Doorbell + Send + 'static,
    I: Interrupt<Error = D::Error> + Send + 'static,
{
    type Memory = M;
    type Doorbell = D;
    type Interrupt = I;

    fn info(&self) -> &ChannelInfo {
        &self.info
    }

    fn into_parts(self) -> Self {
        self
    }
}

/// Its errors are those of its signals.
impl<M, D: ErrorType, I> ErrorType for ChannelParts<M, D, I> {
    type Error = D::Error;
}

/// The parts of channel `C`.
pub type PartsOf<C> = ChannelParts<<C as Channel>::Memory, <C as Channel>::Doorbell, <C as Channel>::Interrupt>;

/// Sizes wished for a channel's rings, in bytes, control page included, multiples of 4096.
///
/// A backend whose rings are fixed (`uio_hv_generic`: 2 MiB each) gives what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Guest→host.
    pub outgoing_bytes: usize,
    /// Host→guest.
    pub incoming_bytes: usize,
}

impl Default for RingSizes {
    /// 128 pages each, as Linux hv_netvsc has by default.
    fn default() -> Self {
        Self { outgoing_bytes: 128 * 4096, incoming_bytes: 128 * 4096 }
    }
}

/// What a piece of memory is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// The receive buffer: the host writes it; needs a GPADL.
    Receive,
    /// The send buffer: the host reads it; needs a GPADL.
    Send,
    /// Pages for GPA-direct sends: no GPADL, but every page's guest physical address must be known
    /// ([`SharedMemory::gpa`]).
    Direct,
}

/// A wish for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferWish {
    /// What for.
    pub purpose: Purpose,
    /// How much. A backend whose buffers are fixed (`uio_hv_generic`: 31 MiB receive, 16 MiB send) gives what it has:
    /// the memory's `len()` rules.
    pub bytes: usize,
}

/// What the bus has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent {
    /// A channel of this device is there: first the primary one, subchannels after they were asked for.
    Offered(ChannelInfo),
    /// [`Bus::open`] succeeded: [`Bus::take`] has the channel.
    Opened(RelId),
    /// [`Bus::open`] failed with the host's status.
    OpenFailed {
        /// Which.
        channel: RelId,
        /// The host's word.
        status: u32,
    },
    /// The memory's GPADL exists: the host may be told of it.
    GpadlCreated(GpadlId),
    /// The host refused the GPADL.
    GpadlFailed {
        /// Which.
        gpadl: GpadlId,
        /// The host's word.
        status: u32,
    },
    /// The host has let go of the memory.
    GpadlTornDown(GpadlId),
    /// The host took the channel back. Its rings must not be touched any more.
    Rescinded(RelId),
    /// The device, or the connection to the host, is gone for good.
    Gone,
}

/// The bus as one device sees it: its offers, memory, channels.
pub trait Bus: ErrorType + Send + 'static {
    /// Memory of rings and buffers.
    type Memory: SharedMemory;
    /// An open channel.
    type Channel: Channel<Memory = Self::Memory>;

    /// Zeroed, page-aligned memory. For [`Purpose::Receive`] and [`Purpose::Send`] its GPADL is being established on
    /// `channel`: wait for [`BusEvent::GpadlCreated`] before the host is told of it.
    ///
    /// # Errors
    /// When there is no such memory to be had; for [`Purpose::Direct`] that means that GPA-direct sends are not
    /// possible here, and is no reason to give up.
    fn allocate(&mut self, channel: RelId, wish: BufferWish) -> Result<Self::Memory, Self::Error>;

    /// Gives memory back: tears its GPADL down, if it has one ([`BusEvent::GpadlTornDown`] follows), and frees it once
    /// the host has let go. On doubt it is leaked rather than freed.
    fn release(&mut self, channel: RelId, memory: Self::Memory);

    /// Opens a channel that was offered. The answer arrives as [`BusEvent::Opened`] or [`BusEvent::OpenFailed`].
    ///
    /// # Errors
    /// An unknown or already open channel; ring sizes that the backend cannot give.
    fn open(&mut self, channel: RelId, rings: RingSizes) -> Result<(), Self::Error>;

    /// The opened channel, once.
    fn take(&mut self, channel: RelId) -> Option<Self::Channel>;

    /// Closes a channel and lets its rings go. Infallible: leaks rather than frees on doubt. After a rescind this also
    /// gives the offer back to the host. No event follows: the rings are kept until the host has let go, after the caller
    /// has lost interest. Neither does one from [`open`](Self::open): a channel that is still being opened is closed as soon as
    /// it can be, and may be opened again at once.
    fn close(&mut self, channel: RelId);

    /// What is new. The waker is kept until something is.
    ///
    /// # Errors
    /// When the backend failed; [`BusEvent::Gone`] is not an error.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<BusEvent, Self::Error>>;

    /// Says how many more subchannels the host has been asked for and should offer soon; 0 when none are awaited any more.
    ///
    /// For backends that have to look for offers: how often they do may depend on it, and nothing else may.
    fn await_offers(&mut self, _subchannels: u16) {}

    /// Lets the host take one step, where host and guest share a thread; whether it did anything.
    ///
    /// Such a backend should wake the waker of [`poll_event`](Self::poll_event) when its host gets something to do (a
    /// request, a doorbell): who is woken calls this. Then a caller that is not woken knows that guest and host are both
    /// asleep, and that only time can change that.
    fn run_host(&mut self) -> bool {
        false
    }
}
