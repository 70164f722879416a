//! What a backend is: how virtual functions are found, opened, set and used by an adapter.
//!
//! ```text
//!   VfBackend ── watch(mac) ──► VfWatch ── open(wish) ──► OpenedVf { device: Arc<dyn VfHandle>, queues: Vec<BoxVf> }
//!   one for many adapters       one an adapter:           one each time that the VF is taken into use
//!                               what comes, what goes
//! ```
//!
//! # For those who call this: the adapter's task and its queues
//! Nobody else does. The adapter's task has the [`VfWatch`] and the [`VfHandle`], and calls neither from two places at a time
//! (the application may have the handle as well: [`Nic::vf`](crate::Nic::vf)). Each queue of the VF belongs to
//! one queue of the adapter, under whose lock it is used; if the VF has more queues than the adapter, they are dealt out by
//! turns, and frames are sent by the first of each. Whatever queue of the VF a frame came by, it is received by the queue of the
//! adapter that the rings would have used: the VF's key and table may be any, and are best the adapter's, as what comes by the
//! queue of another is copied once more. When the VF is given up, its queues are dropped first, then
//! [`VfHandle::close`] is called.
//!
//! # For those who implement it
//! Nothing blocks: what takes longer than a system call is a future. The futures are `'static` and may be dropped at any point,
//! which undoes what was not finished. All runs inside a tokio runtime with I/O and time enabled, that of
//! [`NicBuilder::open_on`](crate::NicBuilder::open_on); queues are used from whatever thread their user has.
//!
//! Errors are [`std::io::Error`]s: that is what the kernel has. A VF that fails in use is not an error but an event: it is
//! [`Gone`](VfEvent::Gone), or its link goes down.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use netvsc::LinkState;
use netvsc::info::MacAddress;
use netvsc::queue::FrameSink;
use netvsc::vf::{Unreceived, VfQueue, VfSendError};

/// A kind of virtual functions: in the simulated host's memory, or network interfaces of the kernel's, used in one way or
/// another. Given to [`NicBuilder::vf`](crate::NicBuilder::vf).
pub trait VfBackend: Send + Sync + 'static {
    /// Begins to look after the devices that may be the VF of one adapter.
    ///
    /// # Errors
    /// If that cannot be: the adapter then goes without a VF, and says so
    /// ([`Event::VfUnavailable`](crate::Event::VfUnavailable)).
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>>;
}

impl<T: VfBackend + ?Sized> VfBackend for Arc<T> {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        (**self).watch(adapter)
    }
}

/// The adapter whose VF is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adapter {
    /// Its MAC address, and so the VF's.
    pub mac: MacAddress,
}

impl Adapter {
    /// An adapter with this MAC address.
    #[must_use]
    pub fn new(mac: MacAddress) -> Self {
        Self { mac }
    }
}

/// Looks after the devices that may be the VF of one adapter. Dropped with the adapter.
pub trait VfWatch: Send {
    /// The next thing that happened to a device; `cx`'s waker is woken once there is one. From the beginning on: a device that
    /// was there before has [`Arrived`](VfEvent::Arrived), too.
    ///
    /// Of several devices that may be the VF one at a time is spoken of: it is [`Gone`](VfEvent::Gone) before another has
    /// arrived, unless [`find`](Self::find) asked for another.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent>;

    /// The host says that the VF is the device with this serial number: [`Arrived`](VfEvent::Arrived) follows once that is
    /// there, also if it was said before. A device without a number counts as one with the right number.
    fn find(&mut self, serial: u32);

    /// Opens the device that has arrived last and gives it its settings. The application's frames may be in it from
    /// now on until it is closed; what is received by it before the host moves the traffic there may be dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped nothing is open.
    fn open(&mut self, wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>>;
}

/// Something that happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VfEvent {
    /// There is a device that may be the VF.
    Arrived {
        /// The number of its PCI slot; `None` if it has no such slot, and was found by its MAC address alone.
        serial: Option<u32>,
    },
    /// The device that has arrived last is gone. What its queues have received can be read all the same, and their
    /// [`outstanding`](VfQueue::outstanding) frames are those that were inside: they count as lost.
    Gone,
    /// Its link changed. Of interest from [`VfWatch::open`] on.
    Link(LinkState),
}

/// How the device is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VfWish {
    /// Queues of the adapter. A device that receives by all of its queues whatever is wished opens all.
    pub queues: u16,
    /// The adapter's L3 MTU.
    pub mtu: u32,
    /// Whether frames for others are wanted.
    pub promiscuous: bool,
}

impl VfWish {
    /// A wish.
    #[must_use]
    pub fn new(queues: u16, mtu: u32, promiscuous: bool) -> Self {
        Self { queues, mtu, promiscuous }
    }
}

/// An open device.
pub struct OpenedVf {
    /// The device itself.
    pub device: Arc<dyn VfHandle>,
    /// Its queues, at least one. Fewer than the adapter's: the last ones of those go on sending by the rings.
    pub queues: Vec<BoxVf>,
    /// Its link; changes come as [`VfEvent::Link`].
    pub link: LinkState,
}

impl fmt::Debug for OpenedVf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedVf").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

/// An open device: its settings. The application has it by [`Nic::vf`](crate::Nic::vf), and can find out what it
/// really is, as it is [`Any`].
pub trait VfHandle: Any + Send + Sync {
    /// What it is called: for a network interface, the name that `ip link` prints.
    fn name(&self) -> String;

    /// Sets its L3 MTU. Asked before the adapter's is changed.
    ///
    /// # Errors
    /// It cannot be that: nothing is changed then.
    fn set_mtu(&self, mtu: u32) -> BoxFuture<'static, io::Result<()>>;

    /// Whether it receives what is not addressed to it. Asked before the adapter is.
    ///
    /// # Errors
    /// That cannot be set: nothing is changed then.
    fn set_promiscuous(&self, promiscuous: bool) -> BoxFuture<'static, io::Result<()>>;

    /// It is used no more: its queues have been dropped. What was changed about it is put back, as far as it is there. Called
    /// once; whoever still has the handle must not reopen it by any other call.
    fn close(&self);
}

/// A queue of a VF that can be waited for.
///
/// The waker of the last call counts, one for each of the two. Both may wake spuriously.
pub trait AsyncVfQueue: VfQueue + Send + 'static {
    /// Ready once something was received ([`VfQueue::has_received`]). The waker is that of whoever receives.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready once at most so many frames are outstanding ([`VfQueue::outstanding`]). A device that
    /// does not tell when it has sent something looks by itself every now and then, say once a millisecond. Of one that is
    /// gone [`VfEvent::Gone`] tells.
    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()>;

    /// What the device and its driver have counted about this queue, with names as `ethtool -S` has them: for who looks for a
    /// cause. What concerns the adapter's statistics is [`VfQueue::take_unreceived`] and the like. May take system calls.
    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A queue of whatever kind of VF.
pub struct BoxVf(Box<dyn Erased>);

impl fmt::Debug for BoxVf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxVf").finish_non_exhaustive()
    }
}

impl BoxVf {
    /// Makes the kind of `queue` forgotten.
    pub fn new(queue: impl AsyncVfQueue) -> Self {
        Self(Box::new(queue))
    }
}

impl VfQueue for BoxVf {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.0.send(frame)
    }

    fn room(&mut self) -> usize {
        self.0.room()
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn outstanding(&mut self) -> usize {
        self.0.outstanding()
    }

    fn take_lost(&mut self) -> u64 {
        self.0.take_lost()
    }

    fn can_send(&self) -> bool {
        self.0.can_send()
    }

    fn take_received_lost(&mut self) -> u64 {
        self.0.take_received_lost()
    }

    fn take_unreceived(&mut self) -> Unreceived {
        self.0.take_unreceived()
    }

    fn take_steered(&mut self) -> u64 {
        self.0.take_steered()
    }

    fn collect(&mut self) {
        self.0.collect();
    }

    fn completes(&self) -> bool {
        self.0.completes()
    }

    fn has_received(&mut self) -> bool {
        self.0.has_received()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        self.0.receive(sink, max)
    }

    fn receive_capacity(&self) -> usize {
        self.0.receive_capacity()
    }
}

impl AsyncVfQueue for BoxVf {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_received(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        self.0.poll_sent(cx, at_most)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.0.counters()
    }
}

/// [`AsyncVfQueue`] without generic methods.
trait Erased: Send {
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError>;
    fn room(&mut self) -> usize;
    fn flush(&mut self);
    fn outstanding(&mut self) -> usize;
    fn take_lost(&mut self) -> u64;
    fn can_send(&self) -> bool;
    fn take_received_lost(&mut self) -> u64;
    fn take_unreceived(&mut self) -> Unreceived;
    fn take_steered(&mut self) -> u64;
    fn collect(&mut self);
    fn completes(&self) -> bool;
    fn has_received(&mut self) -> bool;
    fn receive(&mut self, sink: &mut dyn FrameSink, max: usize) -> usize;
    fn receive_capacity(&self) -> usize;
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()>;
    fn counters(&mut self) -> Vec<(&'static str, u64)>;
}

impl<Q: AsyncVfQueue> Erased for Q {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        VfQueue::send(self, frame)
    }

    fn room(&mut self) -> usize {
        VfQueue::room(self)
    }

    fn flush(&mut self) {
        VfQueue::flush(self);
    }

    fn outstanding(&mut self) -> usize {
        VfQueue::outstanding(self)
    }

    fn take_lost(&mut self) -> u64 {
        VfQueue::take_lost(self)
    }

    fn can_send(&self) -> bool {
        VfQueue::can_send(self)
    }

    fn take_received_lost(&mut self) -> u64 {
        VfQueue::take_received_lost(self)
    }

    fn take_unreceived(&mut self) -> Unreceived {
        VfQueue::take_unreceived(self)
    }

    fn take_steered(&mut self) -> u64 {
        VfQueue::take_steered(self)
    }

    fn collect(&mut self) {
        VfQueue::collect(self);
    }

    fn completes(&self) -> bool {
        VfQueue::completes(self)
    }

    fn has_received(&mut self) -> bool {
        VfQueue::has_received(self)
    }

    fn receive(&mut self, mut sink: &mut dyn FrameSink, max: usize) -> usize {
        VfQueue::receive(self, &mut sink, max)
    }

    fn receive_capacity(&self) -> usize {
        VfQueue::receive_capacity(self)
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        AsyncVfQueue::poll_received(self, cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        AsyncVfQueue::poll_sent(self, cx, at_most)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        AsyncVfQueue::counters(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use netvsc::queue::FrameSink;

    use super::{AsyncVfQueue, BoxVf, Unreceived, VfQueue, VfSendError};

    /// Notes what it is asked, and answers otherwise than a queue that leaves everything as it is.
    struct Noting(Arc<Mutex<Vec<&'static str>>>);

    impl Noting {
        fn note(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl VfQueue for Noting {
        fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
            self.note("send");
            Err(VfSendError::TooLong { len: frame.len(), limit: 1 })
        }

        fn room(&mut self) -> usize {
            2
        }

        fn flush(&mut self) {
            self.note("flush");
        }

        fn outstanding(&mut self) -> usize {
            3
        }

        fn take_lost(&mut self) -> u64 {
            4
        }

        fn can_send(&self) -> bool {
            false
        }

        fn take_received_lost(&mut self) -> u64 {
            5
        }

        fn take_unreceived(&mut self) -> Unreceived {
            Unreceived { missed: 10, dropped: 11 }
        }

        fn take_steered(&mut self) -> u64 {
            6
        }

        fn collect(&mut self) {
            self.note("collect");
        }

        fn completes(&self) -> bool {
            true
        }

        fn has_received(&mut self) -> bool {
            true
        }

        fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
            assert!(sink.buffer(1).is_some());
            max
        }

        fn receive_capacity(&self) -> usize {
            7
        }
    }

    impl AsyncVfQueue for Noting {
        fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn poll_sent(&mut self, _: &mut Context<'_>, at_most: usize) -> Poll<()> {
            if at_most == 8 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[test]
    fn a_queue_whose_kind_is_forgotten_does_all_that_it_did() {
        let notes = Arc::default();
        let mut queue = BoxVf::new(Noting(Arc::clone(&notes)));
        assert_eq!(queue.send(&[0; 9]), Err(VfSendError::TooLong { len: 9, limit: 1 }));
        queue.flush();
        queue.collect();
        assert_eq!(*notes.lock().unwrap(), ["send", "flush", "collect"]);
        assert_eq!((queue.room(), queue.outstanding(), queue.receive_capacity()), (2, 3, 7));
        assert_eq!((queue.take_lost(), queue.take_received_lost(), queue.take_steered()), (4, 5, 6));
        assert_eq!(queue.take_unreceived(), Unreceived { missed: 10, dropped: 11 });
        assert_eq!((queue.can_send(), queue.completes(), queue.has_received()), (false, true, true));
        assert_eq!(queue.receive(&mut netvsc::queue::Burst::new(1, 64), 9), 9);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(queue.poll_received(&mut cx).is_ready());
        assert!(queue.poll_sent(&mut cx, 7).is_pending() && queue.poll_sent(&mut cx, 8).is_ready());
    }
}
