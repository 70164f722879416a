//! The backend for the simulated host's virtual functions ([`netvsc_host::vf::GuestVf`]): for tests, and the shortest example
//! of a backend.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! use netvsc_async::vf::MemoryBackend;
//! use netvsc_async::{Event, Nic, testing};
//! use netvsc_host::{Host, NicId};
//!
//! let vfs = MemoryBackend::new();
//! let pair = testing::pair_with(Host::builder(), Nic::builder().vf(vfs.clone())).await?;
//! let mut events = pair.nic.events();
//! vfs.insert(pair.host.plug_vf(NicId(0), 7, 64).expect("there is none")); // the device shows up
//! pair.host.associate_vf(NicId(0), 7); // and the host says what it is
//! while !matches!(events.next().await, Some(Event::DatapathSwitched { .. })) {}
//! // From here on frames go by it, and the queue is what it was.
//! pair.close().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use futures::task::AtomicWaker;
use netvsc::LinkState;
use netvsc::info::MacAddress;
use netvsc::meta::{Hash, RxMeta};
use netvsc::queue::FrameSink;
use netvsc::vf::{Unreceived, VfQueue, VfSendError};
use netvsc_host::vf::{GuestVf, VfSendError as HostError};

use super::backend::{Adapter, AsyncVfQueue, BoxVf, OpenedVf, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};

/// Virtual functions of a simulated host. Clones are the same one: keep one to tell it of devices.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    devices: Mutex<Vec<GuestVf>>,
    /// The watches that wait.
    watches: Mutex<Vec<Arc<Wakers>>>,
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("devices", &*self.devices()).finish_non_exhaustive()
    }
}

impl MemoryBackend {
    /// Without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A device has shown up; one that has before is said to have [arrived](VfEvent::Arrived) once more. One that the host
    /// takes away is seen to be gone by itself.
    pub fn insert(&self, device: GuestVf) {
        let same =
            |known: &GuestVf| known.is_present() && (known.mac(), known.serial()) == (device.mac(), device.serial());
        let mut devices = self.devices();
        let again = devices.iter().any(same);
        if !again {
            devices.push(device);
        }
        drop(devices);
        for watch in &*lock(&self.inner.watches) {
            watch.again.fetch_or(again, Ordering::Relaxed);
            watch.events.wake();
        }
    }

    fn devices(&self) -> MutexGuard<'_, Vec<GuestVf>> {
        lock(&self.inner.devices)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VfBackend for MemoryBackend {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        let wakers = Arc::new(Wakers::default());
        lock(&self.inner.watches).push(Arc::clone(&wakers));
        Ok(Box::new(MemoryWatch {
            backend: self.clone(),
            mac: adapter.mac,
            wakers,
            known: None,
            link: false,
            events: VecDeque::new(),
        }))
    }
}

/// A device has one waker; here are all who want to be woken.
#[derive(Debug, Default)]
struct Wakers {
    /// What is there is to be said again.
    again: AtomicBool,
    events: AtomicWaker,
    queues: Mutex<Vec<Arc<QueueWakers>>>,
}

/// Those of one queue.
#[derive(Debug, Default)]
struct QueueWakers {
    received: AtomicWaker,
    sent: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.events.wake();
        for queue in &*lock(&self.queues) {
            queue.received.wake();
            queue.sent.wake();
        }
    }
}

struct MemoryWatch {
    backend: MemoryBackend,
    mac: MacAddress,
    wakers: Arc<Wakers>,
    /// The device that was spoken of last.
    known: Option<GuestVf>,
    /// What was said of its link.
    link: bool,
    events: VecDeque<VfEvent>,
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        lock(&self.backend.inner.watches).retain(|watch| !Arc::ptr_eq(watch, &self.wakers));
    }
}

impl MemoryWatch {
    /// Says what changed since the last look.
    fn look(&mut self) {
        if self.known.as_ref().is_some_and(|known| !known.is_present()) {
            self.known = None;
            self.events.push_back(VfEvent::Gone);
        }
        self.backend.devices().retain(GuestVf::is_present);
        if self.known.is_none() {
            let found = self.backend.devices().iter().find(|device| device.mac() == self.mac.0).cloned();
            if let Some(device) = found {
                self.arrived(device);
            }
        }
        let again = self.wakers.again.swap(false, Ordering::Relaxed);
        let Some(known) = &self.known else { return };
        if again {
            self.events.push_back(VfEvent::Arrived { serial: Some(known.serial()) });
        }
        let up = known.link_up();
        if std::mem::replace(&mut self.link, up) != up {
            self.events.push_back(VfEvent::Link(link_state(up)));
        }
    }

    fn arrived(&mut self, device: GuestVf) {
        device.register_waker(&Waker::from(Arc::clone(&self.wakers)));
        self.link = device.link_up();
        self.events.push_back(VfEvent::Arrived { serial: Some(device.serial()) });
        self.known = Some(device);
    }
}

fn link_state(up: bool) -> LinkState {
    if up { LinkState::Up } else { LinkState::Down }
}

impl VfWatch for MemoryWatch {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent> {
        self.wakers.events.register(cx.waker());
        if let Some(known) = &self.known {
            // Each wake uses it up.
            known.register_waker(&Waker::from(Arc::clone(&self.wakers)));
        }
        self.look();
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn find(&mut self, serial: u32) {
        self.look();
        let wanted = |device: &&GuestVf| device.mac() == self.mac.0 && device.serial() == serial;
        let found = self.backend.devices().iter().find(wanted).cloned();
        if let Some(device) = found.or_else(|| self.known.clone()) {
            self.arrived(device);
        }
        self.wakers.events.wake();
    }

    fn open(&mut self, _wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>> {
        self.look();
        let Some(device) = self.known.clone() else {
            return future::err(io::ErrorKind::NotFound.into()).boxed();
        };
        device.open();
        let up = device.link_up();
        self.link = up;
        let own: Vec<_> = std::iter::repeat_with(Arc::<QueueWakers>::default).take(device.queues()).collect();
        lock(&self.wakers.queues).clone_from(&own);
        let queue = |(index, own)| {
            BoxVf::new(MemoryQueue {
                device: device.clone(),
                index,
                all: Arc::clone(&self.wakers),
                own,
                told: 0,
                too_long: 0,
            })
        };
        let queues = own.into_iter().enumerate().map(queue).collect();
        future::ok(OpenedVf { device: Arc::new(MemoryVf { device }), queues, link: link_state(up) }).boxed()
    }
}

/// The device of a simulated host as [`Nic::vf`](crate::Nic::vf) gives it.
#[derive(Debug)]
pub struct MemoryVf {
    device: GuestVf,
}

impl MemoryVf {
    /// The device itself.
    #[must_use]
    pub fn device(&self) -> &GuestVf {
        &self.device
    }
}

impl VfHandle for MemoryVf {
    fn name(&self) -> String {
        format!("memory{}", self.device.serial())
    }

    fn set_mtu(&self, _mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        future::ok(()).boxed()
    }

    fn set_promiscuous(&self, _promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        future::ok(()).boxed()
    }

    fn close(&self) {
        self.device.close();
    }
}

struct MemoryQueue {
    device: GuestVf,
    index: usize,
    all: Arc<Wakers>,
    own: Arc<QueueWakers>,
    /// Received frames that were lost with the device and told of.
    told: u64,
    /// Received frames that were longer than whoever received had room for, and were not told of.
    too_long: u64,
}

impl VfQueue for MemoryQueue {
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        self.device.send_on(self.index, frame).map_err(|error| match error {
            HostError::Full => VfSendError::Full,
            _ => VfSendError::NotReady,
        })
    }

    fn room(&mut self) -> usize {
        if self.device.link_up() { self.device.capacity().saturating_sub(self.outstanding()) } else { 0 }
    }

    fn flush(&mut self) {}

    fn outstanding(&mut self) -> usize {
        self.device.outstanding_on(self.index)
    }

    fn take_received_lost(&mut self) -> u64 {
        let lost = self.device.received_lost_on(self.index) as u64;
        lost - std::mem::replace(&mut self.told, lost)
    }

    fn take_unreceived(&mut self) -> Unreceived {
        Unreceived { dropped: std::mem::take(&mut self.too_long), ..Unreceived::default() }
    }

    fn has_received(&mut self) -> bool {
        self.device.received_on(self.index).is_some()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let mut got = 0;
        while got < max
            && let Some(len) = self.device.received_on(self.index)
        {
            if len > sink.max_frame() {
                let _ = self.device.receive_on(self.index);
                self.too_long += 1;
                continue;
            }
            let Some(room) = sink.buffer(len) else { break };
            let Some(frame) = self.device.receive_on(self.index) else { break };
            room.copy_from_slice(&frame.bytes);
            let hash = frame.hash.map(|(value, covers)| Hash { value, covers });
            sink.commit(len, RxMeta { hash, ..RxMeta::default() });
            got += 1;
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        self.device.capacity()
    }
}

impl AsyncVfQueue for MemoryQueue {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.own.received.register(cx.waker());
        self.device.register_waker(&Waker::from(Arc::clone(&self.all)));
        if self.has_received() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        self.own.sent.register(cx.waker());
        self.device.register_waker(&Waker::from(Arc::clone(&self.all)));
        if self.outstanding() <= at_most || !self.device.is_present() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use netvsc::queue::Burst;
    use netvsc_host::{Host, NicId, NicOptions};

    use super::*;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 2, 3];

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_nobody_has_room_for_is_not_in_the_way_of_others() {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let bus = vmbus::mem::MemBus::new(host.add_nic(NicOptions::new().mac(MAC)));
        let running = host.spawn();
        let vfs = MemoryBackend::new();
        let nic = crate::Nic::builder().vf(vfs.clone());
        let (nic, _queues) = nic.open_on(bus).await.unwrap();
        let device = host.plug_vf(NicId(0), 7, 8).expect("there is none");
        vfs.insert(device.clone());
        host.associate_vf(NicId(0), 7);
        let mut events = nic.events();
        while !matches!(events.next().await, Some(crate::Event::DatapathSwitched { .. })) {}
        for len in [60, 1000, 61] {
            let mut frame = vec![0; len];
            frame[..6].copy_from_slice(&MAC);
            frame[6] = 2;
            far.send(&frame).unwrap();
        }
        // In virtual time: everybody has done what there was to do.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let (all, own) = Default::default();
        let mut queue = MemoryQueue { device, index: 0, all, own, told: 0, too_long: 0 };
        let mut burst = Burst::new(8, 512);
        assert_eq!(queue.receive(&mut burst, 8), 2);
        assert_eq!(burst.frames().map(|frame| frame.bytes.len()).collect::<Vec<_>>(), [60, 61]);
        assert_eq!((queue.take_unreceived().dropped, queue.take_unreceived().dropped), (1, 0));
        running.abort();
    }
}
