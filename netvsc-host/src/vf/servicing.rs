//! What plays a [`Script`] on a NIC: [`Servicing`], and the devices that it plugs in, [`VfDevices`].
//!
//! It has no clock and no thread: [`Servicing::poll`] does what is due. [`Servicing::spawn_thread`] calls it by the machine's
//! clock, [`Servicing::run`] (feature `tokio`) by tokio's, paused or not. The host goes on with its traffic meanwhile: making
//! and removing a device of the kernel takes milliseconds, which nobody else waits for.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmbus::mem::GuestPort;

use super::GuestVf;
use super::script::{Script, Step, Wait};
use crate::host::{Host, NicId};

/// Between two looks whether the guest uses the VF.
const LOOK: Duration = Duration::from_millis(1);
/// Between two looks whether a thread is to stop.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Where devices come from that a script plugs in.
pub trait VfDevices {
    /// Why there is none.
    type Error: std::error::Error;

    /// Makes a device, and plugs it into the NIC: [`Host::plug_vf`] or [`Host::plug_vf_port`].
    ///
    /// # Errors
    /// If it cannot be made.
    fn plug(&mut self, host: &Host, nic: NicId, serial: u32) -> Result<(), Self::Error>;

    /// Takes it away from the guest and out of the NIC, by [`Host::unplug_vf`] or, with all that is inside,
    /// [`Host::remove_vf_by_surprise`].
    ///
    /// # Errors
    /// If it cannot be removed.
    fn unplug(&mut self, host: &Host, nic: NicId, surprise: bool) -> Result<(), Self::Error>;

    /// Has the guest see the device that is plugged in once more. Default: nothing.
    ///
    /// # Errors
    /// If it cannot.
    fn show_again(&mut self, host: &Host, nic: NicId) -> Result<(), Self::Error> {
        let _ = (host, nic);
        Ok(())
    }

    /// The NIC was taken from the guest, which has let go of it, and is offered again: `guest` is its new connection. Default:
    /// the guest does not take it, and stays without the NIC.
    fn offered_again(&mut self, guest: GuestPort) {
        drop(guest);
    }
}

/// VFs in memory; each is handed to a closure.
pub struct MemoryVfs<F> {
    frames: usize,
    show: F,
    offer: Option<Box<dyn FnMut(GuestPort) + Send>>,
}

impl<F> fmt::Debug for MemoryVfs<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryVfs").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl<F: FnMut(GuestVf)> MemoryVfs<F> {
    /// Devices that hold `frames` each way. `show` is how the guest gets to see one; that it is gone can be seen by the
    /// device.
    pub fn new(frames: usize, show: F) -> Self {
        Self { frames, show, offer: None }
    }

    /// How the guest gets to see its NIC again after it was taken away. Without, it does not.
    #[must_use]
    pub fn offer_by(mut self, offer: impl FnMut(GuestPort) + Send + 'static) -> Self {
        self.offer = Some(Box::new(offer));
        self
    }
}

impl<F: FnMut(GuestVf)> VfDevices for MemoryVfs<F> {
    type Error = Infallible;

    fn plug(&mut self, host: &Host, nic: NicId, serial: u32) -> Result<(), Infallible> {
        if let Some(device) = host.plug_vf(nic, serial, self.frames) {
            (self.show)(device);
        }
        Ok(())
    }

    fn show_again(&mut self, host: &Host, nic: NicId) -> Result<(), Infallible> {
        if let Some(device) = host.plugged_vf(nic) {
            (self.show)(device);
        }
        Ok(())
    }

    fn offered_again(&mut self, guest: GuestPort) {
        if let Some(offer) = &mut self.offer {
            offer(guest);
        }
    }

    fn unplug(&mut self, host: &Host, nic: NicId, surprise: bool) -> Result<(), Infallible> {
        if surprise {
            host.remove_vf_by_surprise(nic)
        } else {
            host.unplug_vf(nic)
        }
        Ok(())
    }
}

/// What [`Servicing::poll`] did, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Turn {
    /// A step; the next may be due as well.
    Did(Step),
    /// Nothing: there is something to do at this time at the latest.
    Wait(Duration),
    /// The script is over.
    Over,
}

/// A script that is being played on a NIC.
pub struct Servicing<D> {
    host: Host,
    nic: NicId,
    devices: D,
    script: Script,
    /// When the last step was done, or, once the VF was found to be in use, that.
    since: Option<Duration>,
    /// The next step waits for the VF to be in use, and it is.
    in_use: bool,
}

impl<D> fmt::Debug for Servicing<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servicing").field("nic", &self.nic).field("left", &self.script.steps).finish_non_exhaustive()
    }
}

impl<D: VfDevices> Servicing<D> {
    /// Plays `script` on this NIC, which has no VF.
    pub fn new(host: &Host, nic: NicId, script: Script, devices: D) -> Self {
        Self { host: host.clone(), nic, devices, script, since: None, in_use: false }
    }

    /// Does at most one step, if one is due. `now` is any clock that does not go back.
    ///
    /// # Errors
    /// What went wrong with a device. The step is not tried again.
    pub fn poll(&mut self, now: Duration) -> Result<Turn, D::Error> {
        let Some(&(wait, step)) = self.script.steps.front() else { return Ok(Turn::Over) };
        let since = *self.since.get_or_insert(now);
        let due = match wait {
            Wait::Time(time) => since + time,
            Wait::InUse(time) if self.in_use => since + time,
            Wait::InUse(_) if self.host.vf_in_use(self.nic) => {
                (self.since, self.in_use) = (Some(now), true);
                return self.poll(now);
            }
            Wait::InUse(_) if now < since + self.script.patience => {
                return Ok(Turn::Wait((now + LOOK).min(since + self.script.patience)));
            }
            Wait::InUse(_) => now,
        };
        if now < due {
            return Ok(Turn::Wait(due));
        }
        if step == Step::OfferNic {
            match self.host.offer_nic_again(self.nic) {
                Some(guest) => self.devices.offered_again(guest),
                // The guest has not let go of it yet.
                None if now < due + self.script.patience => return Ok(Turn::Wait(now + LOOK)),
                None => {}
            }
        }
        self.script.steps.pop_front();
        (self.since, self.in_use) = (Some(now), false);
        self.step(step)?;
        Ok(Turn::Did(step))
    }

    fn step(&mut self, step: Step) -> Result<(), D::Error> {
        let (host, nic) = (&self.host, self.nic);
        match step {
            Step::Plug { serial } => self.devices.plug(host, nic, serial)?,
            Step::Associate { serial } => host.associate_vf(nic, serial),
            Step::Revoke => host.revoke_vf(nic),
            Step::Unplug => self.devices.unplug(host, nic, false)?,
            Step::Vanish => self.devices.unplug(host, nic, true)?,
            Step::Manner(manner) => host.set_vf_manner(nic, manner),
            Step::Link(up) => host.set_link(nic, up),
            Step::NetworkChange => host.network_change(nic),
            Step::ShowAgain => self.devices.show_again(host, nic)?,
            Step::TakeNic => host.rescind(nic),
            // Done by who waits for the guest.
            Step::OfferNic => {}
        }
        Ok(())
    }

    /// Plays it to its end by tokio's clock, and tells of each step.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    ///
    /// # Cancel safety
    /// Yes: what is left can be played later.
    #[cfg(feature = "tokio")]
    pub async fn run(&mut self, mut tell: impl FnMut(Step)) -> Result<(), D::Error> {
        let start = tokio::time::Instant::now();
        loop {
            match self.poll(start.elapsed())? {
                Turn::Did(step) => tell(step),
                Turn::Wait(until) => tokio::time::sleep_until(start + until).await,
                Turn::Over => return Ok(()),
            }
        }
    }
}

impl<D: VfDevices + Send + 'static> Servicing<D>
where
    D::Error: Send,
{
    /// Plays it to its end on a thread of its own, and tells of each step.
    #[must_use]
    pub fn spawn_thread(mut self, mut tell: impl FnMut(Step) + Send + 'static) -> ServicingThread<D> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        let play = move || {
            let start = Instant::now();
            while !stopped.load(Ordering::Acquire) {
                match self.poll(start.elapsed()).inspect_err(|_| has_failed.store(true, Ordering::Release))? {
                    Turn::Did(step) => tell(step),
                    Turn::Wait(until) => std::thread::sleep(until.saturating_sub(start.elapsed()).min(STOP_LOOK)),
                    Turn::Over => break,
                }
            }
            Ok(self)
        };
        let thread = std::thread::Builder::new().name("netvsc-host-vf".into()).spawn(play);
        ServicingThread { stop, failed, thread: Some(thread.expect("a thread can be started")) }
    }
}

/// A thread that plays a script. Dropping it ends it after the step that it is at.
#[derive(Debug)]
pub struct ServicingThread<D: VfDevices> {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Servicing<D>, D::Error>>>,
}

impl<D: VfDevices> ServicingThread<D> {
    /// Whether it has come to its end, or has failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Whether it has failed: [`join`](Self::join) says why.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Ends it after the step that it is at. The devices live as long as what comes back.
    ///
    /// # Errors
    /// As [`Servicing::poll`].
    pub fn stop(self) -> Result<Servicing<D>, D::Error> {
        self.stop.store(true, Ordering::Release);
        self.join()
    }

    /// Waits for its end. The devices live as long as what comes back.
    ///
    /// # Errors
    /// As [`Servicing::poll`].
    pub fn join(mut self) -> Result<Servicing<D>, D::Error> {
        let thread = self.thread.take().expect("taken here and in drop alone");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<D: VfDevices> Drop for ServicingThread<D> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it failed by is of no interest to who did not ask.
            drop(thread.join());
        }
    }
}
