//! What sysfs says of a VMBus device: driver, interfaces, virtual functions.

use std::fmt;
use std::path::Path;

use rndis::value::MacAddress;
use vmbus::guid::Guid;
use vmbus::uio::{SysfsDevice, parse_mac};

use super::routes::Needed;
use super::{BindError, UIO_DRIVER, sysfs};

/// A device of the VMBus as sysfs showed it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Instance, class, driver, node, interfaces.
    pub sysfs: SysfsDevice,
    /// Which driver may have it.
    pub driver_override: DriverOverride,
    /// Interfaces of other hardware with the same MAC address: its SR-IOV virtual function.
    pub virtual_functions: Vec<VirtualFunction>,
    /// What this machine needs its interfaces for.
    pub carries: Carries,
}

impl Device {
    /// The device instance.
    pub fn instance(&self) -> Guid {
        self.sysfs.instance
    }

    /// Its name on the bus, which drivers know it by: the instance's text, `vmbus_N` on kernels before 4.13.
    pub fn bus_id(&self) -> String {
        let name = self.sysfs.directory.file_name();
        name.map_or_else(|| self.instance().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The driver that has it.
    pub fn driver(&self) -> Option<&str> {
        self.sysfs.driver.as_deref()
    }

    /// Its node (`uioN`), once `uio_hv_generic` has it.
    pub fn uio(&self) -> Option<String> {
        self.sysfs.uio.as_ref().map(|node| format!("uio{}", node.number))
    }

    /// Its first interface's name: its only one, while the kernel's driver has it.
    pub fn interface(&self) -> Option<&str> {
        self.sysfs.interfaces.first().map(|interface| interface.name.as_str())
    }

    /// The first interface's MAC address. Sysfs knows none once the kernel's driver is gone.
    pub fn mac(&self) -> Option<MacAddress> {
        self.sysfs.interfaces.iter().find_map(|interface| interface.mac).map(MacAddress)
    }

    /// Whether a program in user space can open it.
    pub fn is_bound(&self) -> bool {
        self.driver() == Some(UIO_DRIVER) && self.sysfs.uio.is_some()
    }

    /// What sysfs says of a device now, without what others say of it.
    pub(super) fn alone(device: SysfsDevice) -> Result<Self, BindError> {
        let driver_override = DriverOverride::read(&device.directory)?;
        Ok(Self { sysfs: device, driver_override, virtual_functions: Vec::new(), carries: Carries::default() })
    }

    /// Reads every device, and who is whose virtual function. A device that cannot be read hides no other.
    pub(super) fn read_all(roots: &sysfs::Roots, needed: &Needed) -> Result<Vec<Self>, BindError> {
        let devices: Vec<SysfsDevice> = roots.sys.devices()?.into_iter().flatten().collect();
        let own = devices.iter().flat_map(|device| &device.interfaces).map(|own| own.name.as_str()).collect::<Vec<_>>();
        let others = OtherInterface::read_all(roots, &own)?;
        let mut devices = devices.into_iter().map(Self::alone).collect::<Result<Vec<_>, _>>()?;
        for device in &mut devices {
            let mac = device.mac();
            let mates = others.iter().filter(|other| mac.is_some() && other.hardware && other.mac == mac);
            device.virtual_functions = mates.map(VirtualFunction::of).collect();
            let names = device.sysfs.interfaces.iter().map(|interface| &interface.name);
            device.carries = Carries {
                default_route: names.clone().any(|name| needed.default_route.contains(name)),
                login_session: names.clone().any(|name| needed.session.contains(name)),
            };
        }
        Ok(devices)
    }
}

/// A network interface that no VMBus device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherInterface {
    pub(super) name: String,
    pub(super) mac: Option<MacAddress>,
    master: Option<String>,
    /// Whether there is a device behind it. Bridges, VLANs and bonds have none; they often repeat a MAC address, too.
    hardware: bool,
}

impl OtherInterface {
    /// Every interface that is not one of `own`, without the loopback.
    pub(super) fn read_all(roots: &sysfs::Roots, own: &[&str]) -> Result<Vec<Self>, BindError> {
        let names = sysfs::names(&roots.interfaces())?;
        let others = names.into_iter().filter(|name| name != "lo" && !own.contains(&name.as_str()));
        others.map(|name| Self::read(&roots.interfaces().join(&name), name)).collect()
    }

    fn read(directory: &Path, name: String) -> Result<Self, BindError> {
        let mac = sysfs::attribute(&directory.join("address"))?;
        Ok(Self {
            mac: mac.and_then(|text| parse_mac(&text)).map(MacAddress),
            master: sysfs::link(&directory.join("master")),
            hardware: directory.join("device").exists(),
            name,
        })
    }
}

/// The interface of a virtual function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualFunction {
    /// Its name, as `ip link` prints it.
    pub name: String,
    /// The interface that it sends and receives for: the synthetic one, while `hv_netvsc` is in charge.
    pub master: Option<String>,
}

impl VirtualFunction {
    fn of(interface: &OtherInterface) -> Self {
        Self { name: interface.name.clone(), master: interface.master.clone() }
    }
}

/// What this machine needs a device for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Carries {
    /// A default route leads through it.
    pub default_route: bool,
    /// The login session comes through it.
    pub login_session: bool,
}

impl Carries {
    /// Whether it must not be taken away unasked.
    pub fn any(&self) -> bool {
        self.default_route || self.login_session
    }
}

impl fmt::Display for Carries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.default_route, self.login_session) {
            (true, true) => "default route, login session",
            (true, false) => "default route",
            (false, true) => "login session",
            (false, false) => "-",
        })
    }
}

/// The file `driver_override` of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverOverride {
    /// The kernel has no such file (before 4.18).
    Unsupported,
    /// Any driver that knows the class may have the device.
    Unset,
    /// Only this driver may.
    Driver(String),
}

impl DriverOverride {
    fn read(directory: &Path) -> Result<Self, BindError> {
        Ok(match sysfs::attribute(&directory.join("driver_override"))?.as_deref() {
            None => Self::Unsupported,
            // What the kernel prints for no string at all.
            Some("(null)" | "") => Self::Unset,
            Some(driver) => Self::Driver(driver.to_owned()),
        })
    }

    /// What to write to get this state. A lone line end clears: an empty write never reaches the kernel's attribute.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Unsupported => None,
            Self::Unset => Some("\n"),
            Self::Driver(driver) => Some(driver),
        }
    }
}

impl fmt::Display for DriverOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "not supported",
            Self::Unset => "-",
            Self::Driver(driver) => driver,
        })
    }
}

/// A device class's name, for people.
pub fn class_name(class: Guid) -> &'static str {
    match class {
        Guid::NIC => "network adapter",
        Guid::IDE => "IDE disk",
        Guid::SCSI => "SCSI controller",
        Guid::FIBRE_CHANNEL => "Fibre Channel adapter",
        Guid::VPCI => "PCI pass-through",
        Guid::SHUTDOWN => "shutdown",
        Guid::TIME_SYNC => "time synchronisation",
        Guid::HEARTBEAT => "heartbeat",
        Guid::KVP => "key-value exchange",
        Guid::VSS => "volume shadow copy",
        Guid::FILE_COPY => "file copy",
        Guid::DYNAMIC_MEMORY => "dynamic memory",
        Guid::RDMA => "RDMA",
        _ => "other",
    }
}
