//! The writes that bring a device to another driver, before anyone makes them.

use std::fmt;
use std::path::PathBuf;

use vmbus::guid::Guid;

use super::device::{Device, DriverOverride};
use super::{KERNEL_DRIVER, UIO_DRIVER, sysfs};

/// The writes that bind a device or give it back, in their order. `Display` prints them as shell commands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The device as it was when the plan was made.
    pub device: Device,
    /// The driver that has the device afterwards.
    pub driver: &'static str,
    /// How the driver is chosen.
    pub way: Way,
    /// The writes; none, if all is done already.
    pub writes: Vec<Write>,
    /// Other adapters that the kernel hands to `uio_hv_generic` on the way, since no driver has them now.
    pub also_taken: Vec<Guid>,
}

impl Plan {
    /// Binds `device` to the UIO driver. `others` are all devices.
    pub(super) fn bind(roots: &sysfs::Roots, device: Device, others: &[Device]) -> Self {
        let way = Way::of(&device.driver_override);
        let mut plan = Self { driver: UIO_DRIVER, way, writes: Vec::new(), also_taken: Vec::new(), device };
        if plan.device.is_bound() {
            return plan;
        }
        let bus_id = &plan.device.bus_id();
        let unbind = plan.device.driver().map(|driver| Write::new(roots.driver(driver).join("unbind"), bus_id));
        match way {
            Way::DriverOverride => {
                plan.writes.push(Write::new(plan.device.sysfs.directory.join("driver_override"), UIO_DRIVER));
                plan.writes.extend(unbind);
                plan.writes.push(Write::new(roots.drivers_probe(), bus_id));
            }
            Way::NewId => {
                plan.also_taken = drivers_without(&plan.device, others);
                let new_id = Write::new(roots.driver(UIO_DRIVER).join("new_id"), &plan.device.sysfs.class.to_string());
                plan.writes.push(Write { tolerates: Some(Tolerates::Exists), ..new_id });
                let bind = Write::new(roots.driver(UIO_DRIVER).join("bind"), bus_id);
                // A device without a driver is taken by the new id itself, but not by one that was there before.
                let tolerates = unbind.is_none().then_some(Tolerates::Taken);
                plan.writes.extend(unbind);
                plan.writes.push(Write { tolerates, ..bind });
            }
        }
        plan
    }

    /// Gives `device` to the kernel's driver.
    pub(super) fn unbind(roots: &sysfs::Roots, device: Device) -> Self {
        let way = Way::of(&device.driver_override);
        let overridden = matches!(&device.driver_override, DriverOverride::Driver(driver) if driver != KERNEL_DRIVER);
        let bound = device.driver() == Some(KERNEL_DRIVER);
        let mut plan = Self { driver: KERNEL_DRIVER, way, writes: Vec::new(), also_taken: Vec::new(), device };
        let bus_id = &plan.device.bus_id();
        if overridden {
            plan.writes.push(Write::new(plan.device.sysfs.directory.join("driver_override"), "\n"));
        }
        if bound {
            return plan;
        }
        // With an override in force no id brought the driver here; without, one may have.
        let remove_id = roots.driver(UIO_DRIVER).join("remove_id");
        if !overridden && roots.driver(UIO_DRIVER).is_dir() {
            let remove_id = Write::new(remove_id, &plan.device.sysfs.class.to_string());
            plan.writes.push(Write { tolerates: Some(Tolerates::NoDevice), ..remove_id });
        }
        if let Some(driver) = plan.device.driver() {
            plan.writes.push(Write::new(roots.driver(driver).join("unbind"), bus_id));
        }
        // Not `drivers_probe`: the first driver that matches would win, an id that somebody else added included.
        plan.writes.push(Write::new(roots.driver(KERNEL_DRIVER).join("bind"), bus_id));
        plan
    }

    /// Brings a device from what it is `now` back to what it was, after this plan failed. `done` tells which of its
    /// writes had an effect; `others` are all devices as they are now.
    pub(super) fn undo(&self, roots: &sysfs::Roots, now: &Device, others: &[Device], done: &[bool]) -> Vec<Write> {
        let before = &self.device;
        let mut writes = Vec::new();
        if now.driver_override != before.driver_override
            && let Some(text) = before.driver_override.text()
        {
            writes.push(Write::new(before.sysfs.directory.join("driver_override"), text));
        }
        let uio = roots.driver(UIO_DRIVER);
        let wrote = |name: &str| {
            let path = uio.join(name);
            self.writes.iter().zip(done).any(|(write, done)| *done && write.path == path)
        };
        if wrote("new_id") {
            let remove_id = Write::new(uio.join("remove_id"), &before.sysfs.class.to_string());
            writes.push(Write { tolerates: Some(Tolerates::NoDevice), ..remove_id });
            let taken = others.iter().filter(|other| self.also_taken.contains(&other.instance()));
            for other in taken.filter(|other| other.driver() == Some(UIO_DRIVER)) {
                writes.push(Write::new(uio.join("unbind"), &other.bus_id()));
            }
        }
        if wrote("remove_id") {
            let new_id = Write::new(uio.join("new_id"), &before.sysfs.class.to_string());
            writes.push(Write { tolerates: Some(Tolerates::Exists), ..new_id });
        }
        if now.driver() != before.driver() {
            let unbind = now.driver().map(|driver| roots.driver(driver).join("unbind"));
            writes.extend(unbind.map(|path| Write::new(path, &before.bus_id())));
            let bind = before.driver().map(|driver| roots.driver(driver).join("bind"));
            let tolerates = wrote("remove_id").then_some(Tolerates::Taken);
            writes.extend(bind.map(|path| Write { tolerates, ..Write::new(path, &before.bus_id()) }));
        }
        writes
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.writes.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for write in &self.writes {
            writeln!(f, "{write}")?;
        }
        Ok(())
    }
}

/// How `uio_hv_generic` is made to take a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// The device's file `driver_override` names the driver.
    DriverOverride,
    /// The driver learns the device's class: the way of kernels before 4.18.
    NewId,
}

impl Way {
    fn of(driver_override: &DriverOverride) -> Self {
        match driver_override {
            DriverOverride::Unsupported => Self::NewId,
            DriverOverride::Unset | DriverOverride::Driver(_) => Self::DriverOverride,
        }
    }
}

/// The file that it goes through.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DriverOverride => "driver_override",
            Self::NewId => "new_id",
        })
    }
}

/// One write to sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// The file.
    pub path: PathBuf,
    /// What is written, in one call.
    pub data: String,
    /// An error that means that it was done already.
    pub tolerates: Option<Tolerates>,
}

impl Write {
    pub(super) fn new(path: PathBuf, data: &str) -> Self {
        Self { path, data: data.to_owned(), tolerates: None }
    }
}

/// A shell command that does the same.
impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "printf '{}' > {}", self.data.replace('\n', "\\n"), self.path.display())?;
        match self.tolerates {
            Some(tolerates) => write!(f, "   # {tolerates} is fine"),
            None => Ok(()),
        }
    }
}

/// An answer that is as good as success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tolerates {
    /// `EEXIST`: the driver knows the id.
    Exists,
    /// `ENODEV`: the driver does not know the id.
    NoDevice,
    /// `EBUSY`, `ENODEV` on older kernels: a driver has the device. Which one is looked at afterwards.
    Taken,
}

impl Tolerates {
    /// Whether this is the answer.
    pub(super) fn allows(self, error: &std::io::Error) -> bool {
        // The same numbers on every port of Linux; `std` has no kind for all of them.
        const EBUSY: i32 = 16;
        const EEXIST: i32 = 17;
        const ENODEV: i32 = 19;
        match self {
            Self::Exists => error.raw_os_error() == Some(EEXIST),
            Self::NoDevice => error.raw_os_error() == Some(ENODEV),
            Self::Taken => matches!(error.raw_os_error(), Some(EBUSY | ENODEV)),
        }
    }
}

impl fmt::Display for Tolerates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "EEXIST",
            Self::NoDevice => "ENODEV",
            Self::Taken => "EBUSY or ENODEV",
        })
    }
}

/// The other devices of the class that no driver has.
fn drivers_without(device: &Device, others: &[Device]) -> Vec<Guid> {
    let others =
        others.iter().filter(|other| other.sysfs.class == device.sysfs.class && other.instance() != device.instance());
    others.filter(|other| other.driver().is_none()).map(Device::instance).collect()
}
