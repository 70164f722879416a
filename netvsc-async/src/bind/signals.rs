//! Giving adapters back when a signal ends the process.
//!
//! One thread waits for SIGTERM and SIGINT on behalf of all guards, since the process must live until the last adapter
//! is back. It stays when the guards are gone: a handler, once installed, cannot be taken out again safely, so the
//! thread does what the signals did before.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use vmbus::guid::Guid;

use super::{BindError, BoundDevice, Kernel, SysfsKernel};

/// A [`BoundDevice`] that SIGTERM and SIGINT give back as well.
///
/// A second signal ends the process at once, should closing the device hang.
#[derive(Debug)]
#[must_use = "dropping it gives the adapter back at once"]
pub struct SignalGuard<K: Kernel = SysfsKernel> {
    /// Taken by whoever is first: the signal or the owner.
    device: Arc<Mutex<Option<BoundDevice<K>>>>,
    instance: Guid,
    uio: String,
    ticket: u64,
}

impl<K: Kernel + Send + 'static> SignalGuard<K> {
    pub(super) fn new(device: BoundDevice<K>, close: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (instance, uio) = (device.instance(), device.uio().to_owned());
        let device = Arc::new(Mutex::new(Some(device)));
        let shared = Arc::clone(&device);
        let exit = move || {
            close();
            drop(lock(&shared).take());
        };
        let ticket = register(Box::new(exit))?;
        Ok(Self { device, instance, uio, ticket })
    }
}

impl<K: Kernel> SignalGuard<K> {
    /// The device instance: what backends open it by.
    pub fn instance(&self) -> Guid {
        self.instance
    }

    /// The node below `/dev`, such as `uio0`.
    pub fn uio(&self) -> &str {
        &self.uio
    }

    /// Gives the adapter back, and says whether that worked; `Ok` if a signal did it already.
    ///
    /// # Errors
    /// As [`Binder::unbind`](super::Binder::unbind).
    pub fn release(self) -> Result<(), BindError> {
        self.take().map_or(Ok(()), BoundDevice::release)
    }

    /// The device, unless a signal was first. Waits while one gives it back.
    fn take(&self) -> Option<BoundDevice<K>> {
        lock(&WAITING).exits.remove(&self.ticket);
        lock(&self.device).take()
    }
}

impl<K: Kernel> Drop for SignalGuard<K> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// What is done when a signal arrives.
type Exit = Box<dyn FnOnce() + Send>;

/// All guards of this process.
struct Waiting {
    /// Whether the thread runs.
    started: bool,
    next_ticket: u64,
    exits: BTreeMap<u64, Exit>,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { started: false, next_ticket: 0, exits: BTreeMap::new() });

/// Adds an exit, and starts the thread for the first one.
fn register(exit: Exit) -> io::Result<u64> {
    let mut waiting = lock(&WAITING);
    if !waiting.started {
        let signals = Signals::new([SIGTERM, SIGINT])?;
        std::thread::Builder::new().name("netvsc-signals".into()).spawn(move || wait(signals))?;
        waiting.started = true;
    }
    let ticket = waiting.next_ticket;
    waiting.next_ticket += 1;
    waiting.exits.insert(ticket, exit);
    Ok(ticket)
}

/// The thread's work: the first signal starts the exits, the next one waits for nothing.
fn wait(mut signals: Signals) {
    let mut first = true;
    for signal in signals.forever() {
        let exits = move || {
            // Taken out first: an exit may drop another guard, which looks in there.
            let exits = std::mem::take(&mut lock(&WAITING).exits);
            exits.into_values().for_each(|exit| exit());
            end(signal);
        };
        let spawned = first && std::thread::Builder::new().name("netvsc-exit".into()).spawn(exits).is_ok();
        if !spawned {
            end(signal);
        }
        first = false;
    }
}

/// Lets the signal do what it does where nobody handles it.
fn end(signal: i32) {
    if let Err(error) = emulate_default_handler(signal) {
        tracing::error!(signal, %error, "could not end the process");
    }
}

/// A panic under a lock here leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
