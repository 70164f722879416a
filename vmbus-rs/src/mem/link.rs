//! What the hypervisor does between guest and host: messages, signals, guest memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use super::{GuestMemory, Latch};
use crate::protocol::{ConnectionId, RelId};

/// Most bytes that a message carries, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 240;

/// Messages that may wait on their way to the guest; a SynIC slot has a queue in the hypervisor, too. A host that posts
/// more is not heard: the guest is not listening.
const MAX_QUEUED: usize = 4096;

/// A message that is longer than the transport takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageTooLong {
    /// Its bytes.
    pub bytes: usize,
}

impl std::fmt::Display for MessageTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message of {} bytes exceeds {MAX_MESSAGE_BYTES}", self.bytes)
    }
}

impl std::error::Error for MessageTooLong {}

/// A message as it was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedMessage {
    /// Where the guest posted it to; 0 for messages to the guest.
    pub connection_id: ConnectionId,
    /// Its bytes, at most [`MAX_MESSAGE_BYTES`].
    pub bytes: Vec<u8>,
}

type Runner = Box<dyn FnMut() -> bool + Send>;

#[derive(Default)]
struct Link {
    memory: GuestMemory,
    to_host: Mutex<VecDeque<PostedMessage>>,
    to_guest: Mutex<VecDeque<PostedMessage>>,
    /// Messages for the guest, or the host went away.
    guest_latch: Latch,
    /// Messages or events for the host, or the guest went away.
    host_latch: Latch,
    /// Event flags to the guest, by relid.
    interrupts: Mutex<HashMap<RelId, Latch>>,
    host_gone: AtomicBool,
    guest_gone: AtomicBool,
    runner: Mutex<Option<Runner>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn post(
    queue: &Mutex<VecDeque<PostedMessage>>,
    connection_id: ConnectionId,
    bytes: &[u8],
) -> Result<(), MessageTooLong> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(MessageTooLong { bytes: bytes.len() });
    }
    let mut queue = lock(queue);
    if queue.len() < MAX_QUEUED {
        queue.push_back(PostedMessage { connection_id, bytes: bytes.to_vec() });
    }
    Ok(())
}

/// Connects a guest and a host.
pub fn connection() -> (GuestPort, HostPort) {
    let link = Arc::new(Link::default());
    (GuestPort { link: Arc::clone(&link) }, HostPort { link })
}

/// The guest's end. Dropping it is the guest's end, too: the host sees [`HostPort::guest_is_gone`].
pub struct GuestPort {
    link: Arc<Link>,
}

impl std::fmt::Debug for GuestPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestPort").finish_non_exhaustive()
    }
}

impl GuestPort {
    /// The guest's physical memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.link.memory
    }

    /// Posts a message to the host.
    ///
    /// # Errors
    /// [`MessageTooLong`].
    pub fn post_message(&self, connection_id: ConnectionId, bytes: &[u8]) -> Result<(), MessageTooLong> {
        post(&self.link.to_host, connection_id, bytes)?;
        self.link.host_latch.set();
        Ok(())
    }

    /// The next message from the host.
    pub fn take_message(&self) -> Option<PostedMessage> {
        lock(&self.link.to_guest).pop_front()
    }

    /// Set when a message has come, or the host has gone.
    pub fn latch(&self) -> &Latch {
        &self.link.guest_latch
    }

    /// The doorbell: what signals the host. One latch for all channels, as the host looks at all its rings anyway.
    pub fn doorbell(&self) -> Latch {
        self.link.host_latch.clone()
    }

    /// The latch that the host sets for a channel. Made at the first call from either side, so that an interrupt that
    /// comes before the channel is fully open is not lost.
    pub fn interrupt(&self, channel: RelId) -> Latch {
        lock(&self.link.interrupts).entry(channel).or_default().clone()
    }

    /// Whether the host has gone.
    pub fn host_is_gone(&self) -> bool {
        self.link.host_gone.load(Ordering::Acquire)
    }

    /// Whether there is something for a host that runs on the guest's thread to do; if not, `cx` is woken when there is.
    /// Never for a host that runs by itself.
    pub fn poll_host_has_work(&self, cx: &mut Context<'_>) -> bool {
        lock(&self.link.runner).is_some() && self.link.host_latch.poll_is_set(cx)
    }

    /// Lets the host take one step, if it is one that runs on the guest's thread; whether it did anything.
    pub fn run_host(&self) -> bool {
        // Taken out while it runs: a host that lets the guest run must not come back here.
        let Some(mut runner) = lock(&self.link.runner).take() else { return false };
        // Whatever it was told of it sees now.
        self.link.host_latch.take();
        let did = runner();
        lock(&self.link.runner).get_or_insert(runner);
        did
    }
}

impl Drop for GuestPort {
    fn drop(&mut self) {
        self.link.guest_gone.store(true, Ordering::Release);
        // A host that runs on our thread learns of it now; it may have more to do than it ever finishes.
        for _ in 0..64 {
            if !self.run_host() {
                break;
            }
        }
        lock(&self.link.runner).take();
        self.link.host_latch.set();
    }
}

/// The host's end. Dropping it is as if the device vanished.
pub struct HostPort {
    link: Arc<Link>,
}

impl std::fmt::Debug for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostPort").finish_non_exhaustive()
    }
}

impl HostPort {
    /// The guest's physical memory: GPADLs and GPA-direct packets are resolved here.
    pub fn memory(&self) -> &GuestMemory {
        &self.link.memory
    }

    /// The next message from the guest.
    pub fn take_message(&self) -> Option<PostedMessage> {
        lock(&self.link.to_host).pop_front()
    }

    /// Posts a message to the guest.
    ///
    /// # Errors
    /// [`MessageTooLong`].
    pub fn post_message(&self, bytes: &[u8]) -> Result<(), MessageTooLong> {
        post(&self.link.to_guest, ConnectionId(0), bytes)?;
        self.link.guest_latch.set();
        Ok(())
    }

    /// Set when the guest has posted a message, signalled a channel, or gone.
    pub fn latch(&self) -> &Latch {
        &self.link.host_latch
    }

    /// The latch by which the host interrupts a channel of the guest.
    pub fn interrupt(&self, channel: RelId) -> Latch {
        lock(&self.link.interrupts).entry(channel).or_default().clone()
    }

    /// Makes `runner` the host's step: what [`GuestPort::run_host`] calls, on the guest's thread. It should hold its host
    /// by a weak reference; it is dropped with the guest's end.
    pub fn set_runner(&self, runner: impl FnMut() -> bool + Send + 'static) {
        *lock(&self.link.runner) = Some(Box::new(runner));
    }

    /// Whether the guest has gone. Its memory is still there.
    pub fn guest_is_gone(&self) -> bool {
        self.link.guest_gone.load(Ordering::Acquire)
    }
}

impl Drop for HostPort {
    fn drop(&mut self) {
        self.link.host_gone.store(true, Ordering::Release);
        self.link.guest_latch.set();
        for latch in lock(&self.link.interrupts).values() {
            latch.set();
        }
    }
}
