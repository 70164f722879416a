//! A binding that ends with its owner.

use std::io;

use vmbus::guid::Guid;

use super::signals::SignalGuard;
use super::{BindError, Binder, Bound, Kernel, Selector, SysfsKernel};

/// An adapter bound to `uio_hv_generic`; dropping it gives the adapter back to `hv_netvsc`.
///
/// Declare it *before* what uses the device: locals are dropped in reverse order, and the device must be closed when
/// the adapter goes back. An adapter that was bound before, such as by a run that was killed, goes back as well.
#[derive(Debug)]
#[must_use = "dropping it gives the adapter back at once"]
pub struct BoundDevice<K: Kernel = SysfsKernel> {
    binder: Binder<K>,
    bound: Bound,
    /// Whether there is something to put back.
    held: bool,
}

impl<K: Kernel> BoundDevice<K> {
    pub(super) fn new(binder: Binder<K>, bound: Bound) -> Self {
        Self { binder, bound, held: true }
    }

    /// The device instance: what backends open it by.
    pub fn instance(&self) -> Guid {
        self.bound.device.instance()
    }

    /// The node below `/dev`, such as `uio0`.
    pub fn uio(&self) -> &str {
        &self.bound.uio
    }

    /// The device, what it was before, and what was written.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Gives the adapter back, and says whether that worked. Dropping does the same but can only log a failure.
    ///
    /// # Errors
    /// As [`Binder::unbind`].
    pub fn release(mut self) -> Result<(), BindError> {
        self.restore()
    }

    /// Leaves the adapter bound.
    pub fn keep(mut self) -> Bound {
        self.held = false;
        self.bound.clone()
    }

    /// Gives the adapter back when SIGTERM or SIGINT arrives, too, and then lets the signal end the process.
    ///
    /// `close` is called first, on the thread that waits for signals. It must have closed the device when it returns:
    /// stop the queues, wait for them, drop the adapter. Programs that end cleanly on signals by themselves (such as
    /// with `tokio::signal`) do not need this: there the guard's drop does it.
    ///
    /// ```no_run
    /// # use netvsc_async::bind::{Binder, Selector};
    /// # fn stop_and_close_adapter() {}
    /// let guard = Binder::new().hold(&Selector::Interface("eth1".into()))?;
    /// let guard = guard.restore_on_signals(stop_and_close_adapter)?;
    /// // ... run ...
    /// guard.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the system says to a signal handler or a thread; the adapter was given back then.
    pub fn restore_on_signals(self, close: impl FnOnce() + Send + 'static) -> io::Result<SignalGuard<K>>
    where
        K: Send + 'static,
    {
        SignalGuard::new(self, close)
    }

    /// Gives the adapter back unless that was done.
    fn restore(&mut self) -> Result<(), BindError> {
        if !std::mem::take(&mut self.held) {
            return Ok(());
        }
        self.binder.unbind(&Selector::Instance(self.instance())).map(drop)
    }
}

impl<K: Kernel> Drop for BoundDevice<K> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            tracing::error!(device = %self.instance(), %error, "could not give the adapter back to the kernel");
        }
    }
}
