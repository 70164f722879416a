//! Finding, binding, giving back.

use std::path::PathBuf;

use vmbus::uio::SysfsRoot;

use super::routes::Needed;
use super::{
    BindError, BoundDevice, Device, Kernel, NotFound, Plan, Selector, Session, SysfsDevice, SysfsKernel, UIO_DRIVER,
    Write, sysfs,
};

/// Binds adapters to `uio_hv_generic` and gives them back to `hv_netvsc`.
///
/// Needs the right to write to sysfs: in practice root, or `CAP_DAC_OVERRIDE`.
#[derive(Clone, Debug)]
pub struct Binder<K = SysfsKernel> {
    roots: sysfs::Roots,
    kernel: K,
    session: Option<Session>,
    force: bool,
}

impl Binder {
    /// Works on this machine's sysfs.
    pub fn new() -> Self {
        Self::with_kernel(SysfsKernel)
    }
}

impl Default for Binder {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kernel> Binder<K> {
    /// Hands the writes to `kernel`: for tests, and for programs that write through a privileged helper.
    pub fn with_kernel(kernel: K) -> Self {
        Self { roots: sysfs::Roots::default(), kernel, session: None, force: false }
    }

    /// Where sysfs is mounted. Default: `/sys`.
    #[must_use]
    pub fn sysfs(self, path: impl Into<PathBuf>) -> Self {
        Self { roots: sysfs::Roots { sys: SysfsRoot::new(path), ..self.roots }, ..self }
    }

    /// Where procfs is mounted; the routes are read there. Default: `/proc`.
    #[must_use]
    pub fn procfs(self, path: impl Into<PathBuf>) -> Self {
        Self { roots: sysfs::Roots { proc: path.into(), ..self.roots }, ..self }
    }

    /// The login session that must not be cut off. Default: none.
    #[must_use]
    pub fn session(self, session: Option<Session>) -> Self {
        Self { session, ..self }
    }

    /// Whether to bind the adapter of the default route or the login session, too. Default: no.
    #[must_use]
    pub fn force(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// Every device of the VMBus, adapters or not.
    ///
    /// # Errors
    /// [`BindError::Sysfs`], [`BindError::Read`].
    pub fn devices(&self) -> Result<Vec<Device>, BindError> {
        let needed = Needed::read(&self.roots, self.session.as_ref())?;
        Device::read_all(&self.roots, &needed)
    }

    /// The adapter that is meant.
    ///
    /// # Errors
    /// [`BindError::NotFound`] with every candidate, and those of [`Self::devices`].
    pub fn find(&self, selector: &Selector) -> Result<Device, BindError> {
        self.choose(selector, &self.devices()?)
    }

    /// What [`Self::bind`] would write.
    ///
    /// # Errors
    /// [`BindError::Needed`], [`BindError::DriverMissing`], and those of [`Self::find`].
    pub fn plan_bind(&self, selector: &Selector) -> Result<Plan, BindError> {
        let devices = self.devices()?;
        let device = self.choose(selector, &devices)?;
        let plan = Plan::bind(&self.roots, device, &devices);
        self.check(&plan)?;
        if plan.device.carries.any() && !self.force {
            return Err(BindError::Needed {
                instance: plan.device.instance(),
                interface: plan.device.interface().map(str::to_owned),
                carries: plan.device.carries,
            });
        }
        Ok(plan)
    }

    /// What [`Self::unbind`] would write.
    ///
    /// # Errors
    /// [`BindError::DriverMissing`], and those of [`Self::find`].
    pub fn plan_unbind(&self, selector: &Selector) -> Result<Plan, BindError> {
        let plan = Plan::unbind(&self.roots, self.find(selector)?);
        self.check(&plan)?;
        Ok(plan)
    }

    /// Binds an adapter to `uio_hv_generic` and leaves it so. Does nothing where it is bound already.
    ///
    /// # Errors
    /// [`BindError::Write`], [`BindError::NotTaken`], [`BindError::NoNode`] and [`BindError::Gone`], after everything
    /// was put back; [`BindError::NotUndone`] if that failed; those of [`Self::plan_bind`] before anything was written.
    pub fn bind(&self, selector: &Selector) -> Result<Bound, BindError> {
        let plan = self.plan_bind(selector)?;
        let device = self.carry_out(&plan)?;
        // Checked by `carry_out`.
        let uio = device.uio().ok_or(BindError::NoNode { instance: device.instance() })?;
        Ok(Bound { device, uio, plan })
    }

    /// Gives an adapter back to `hv_netvsc`, wherever it is now: also one that a crash left without a driver. Does
    /// nothing where `hv_netvsc` has it already.
    ///
    /// Close every descriptor and mapping of the device first.
    ///
    /// # Errors
    /// As [`Self::bind`], without [`BindError::Needed`].
    pub fn unbind(&self, selector: &Selector) -> Result<Device, BindError> {
        let plan = self.plan_unbind(selector)?;
        self.carry_out(&plan)
    }

    /// Binds an adapter until the guard is dropped.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn hold(self, selector: &Selector) -> Result<BoundDevice<K>, BindError> {
        let bound = self.bind(selector)?;
        Ok(BoundDevice::new(self, bound))
    }

    /// The one of `devices` that is meant.
    fn choose(&self, selector: &Selector, devices: &[Device]) -> Result<Device, BindError> {
        let found = match self.roots.sys.find(selector) {
            Ok(found) => found,
            Err(error) => return Err(BindError::NotFound(NotFound::read(&self.roots, error, devices)?)),
        };
        let device = devices.iter().find(|device| device.instance() == found.instance);
        device.cloned().ok_or(BindError::Gone { instance: found.instance })
    }

    /// Whether the drivers are there.
    fn check(&self, plan: &Plan) -> Result<(), BindError> {
        if plan.is_done() || self.roots.driver(plan.driver).is_dir() {
            return Ok(());
        }
        Err(BindError::DriverMissing { driver: plan.driver })
    }

    /// Makes the writes and looks at what came of them; puts things back if they failed.
    fn carry_out(&self, plan: &Plan) -> Result<Device, BindError> {
        let mut done = Vec::with_capacity(plan.writes.len());
        let outcome = plan.writes.iter().try_for_each(|write| {
            done.push(self.write(write)?);
            Ok(())
        });
        let cause = match outcome.and_then(|()| self.verify(plan)) {
            Ok(device) => return Ok(device),
            Err(cause) => cause,
        };
        match self.undo(plan, &done) {
            Ok(()) => Err(cause),
            Err(undo) => Err(BindError::NotUndone { cause: Box::new(cause), undo: Box::new(undo) }),
        }
    }

    /// Makes one write; `false` if the kernel said that it was done before.
    fn write(&self, write: &Write) -> Result<bool, BindError> {
        match self.kernel.write(&write.path, &write.data) {
            Ok(()) => Ok(true),
            Err(error) if write.tolerates.is_some_and(|tolerates| tolerates.allows(&error)) => Ok(false),
            Err(error) => Err(BindError::Write { write: write.clone(), error }),
        }
    }

    /// The device as it is now, if the plan's driver has it.
    fn verify(&self, plan: &Plan) -> Result<Device, BindError> {
        let device = self.again(&plan.device)?;
        has(&device, Some(plan.driver))?;
        if plan.driver == UIO_DRIVER && device.sysfs.uio.is_none() {
            return Err(BindError::NoNode { instance: device.instance() });
        }
        Ok(device)
    }

    /// Puts back what was before the plan. Goes on after a refused write: each one that works is worth it.
    fn undo(&self, plan: &Plan, done: &[bool]) -> Result<(), BindError> {
        let now = self.again(&plan.device)?;
        let others = Device::read_all(&self.roots, &Needed::default())?;
        let writes = plan.undo(&self.roots, &now, &others, done);
        let refused =
            writes.iter().filter_map(|write| self.write(write).err()).fold(None, |first, error| first.or(Some(error)));
        match refused {
            Some(error) => Err(error),
            None => has(&self.again(&plan.device)?, plan.device.driver()),
        }
    }

    /// Reads a device again.
    fn again(&self, device: &Device) -> Result<Device, BindError> {
        if !device.sysfs.directory.exists() {
            return Err(BindError::Gone { instance: device.instance() });
        }
        Device::alone(SysfsDevice::read(&device.sysfs.directory)?)
    }
}

/// A device that was just bound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// The device as it is now.
    pub device: Device,
    /// Its node below `/dev`.
    pub uio: String,
    /// What was written, and what the device was before.
    pub plan: Plan,
}

/// Whether `driver` has the device.
fn has(device: &Device, driver: Option<&str>) -> Result<(), BindError> {
    if device.driver() == driver {
        return Ok(());
    }
    Err(BindError::NotTaken {
        instance: device.instance(),
        expected: driver.unwrap_or("no driver").to_owned(),
        found: device.driver().map(str::to_owned),
    })
}
