//! What sysfs says of a VMBus device: driver, interfaces, virtual functions.

use std::fmt;
use std::path::Path;

use rndis::value::MacAddress;
use vmbus::guid::Guid;

use super::routes::Needed;
use super::{BindError, UIO_DRIVER, sysfs};

/// A device of the VMBus as sysfs showed it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// The device instance.
    pub instance: Guid,
    /// Its name on the bus: the instance's text, `vmbus_N` on kernels before 4.13.
    pub bus_id: String,
    /// What kind of device it is; [`Guid::NIC`] for network adapters.
    pub class: Guid,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Which driver may have it.
    pub driver_override: DriverOverride,
    /// Its node (`uioN`), once `uio_hv_generic` has it.
    pub uio: Option<String>,
    /// Its network interfaces: one, while the kernel's driver has it.
    pub interfaces: Vec<Interface>,
    /// Interfaces of other hardware with the same MAC address: its SR-IOV virtual function.
    pub virtual_functions: Vec<VirtualFunction>,
    /// What this machine needs its interfaces for.
    pub carries: Carries,
}

impl Device {
    /// Whether it is a network adapter.
    pub fn is_nic(&self) -> bool {
        self.class == Guid::NIC
    }

    /// Whether a program in user space can open it.
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some(UIO_DRIVER) && self.uio.is_some()
    }

    /// The first interface's MAC address. Sysfs knows none once the kernel's driver is gone.
    pub fn mac(&self) -> Option<MacAddress> {
        self.interfaces.iter().find_map(|interface| interface.mac)
    }

    /// Reads one device.
    pub(super) fn read(roots: &sysfs::Roots, bus_id: &str) -> Result<Option<Self>, BindError> {
        let directory = roots.device(bus_id);
        let guid = |name: &str| -> Result<Option<Guid>, BindError> {
            Ok(sysfs::attribute(&directory.join(name))?.and_then(|text| text.parse().ok()))
        };
        // A device that has just left, or is no device: nothing to say of it.
        let Some(class) = guid("class_id")? else { return Ok(None) };
        let instance = match guid("device_id")? {
            Some(instance) => instance,
            None => match bus_id.parse() {
                Ok(instance) => instance,
                Err(_) => return Ok(None),
            },
        };
        let interfaces = sysfs::names(&directory.join("net"))?;
        let interfaces: Result<Vec<_>, _> =
            interfaces.iter().map(|name| Interface::read(&directory.join("net"), name)).collect();
        Ok(Some(Self {
            instance,
            bus_id: bus_id.to_owned(),
            class,
            driver: sysfs::link(&directory.join("driver")),
            driver_override: DriverOverride::read(&directory)?,
            uio: sysfs::names(&directory.join("uio"))?.into_iter().find(|name| name.starts_with("uio")),
            interfaces: interfaces?,
            virtual_functions: Vec::new(),
            carries: Carries::default(),
        }))
    }

    /// Reads every device, and who is whose virtual function.
    pub(super) fn read_all(roots: &sysfs::Roots, needed: &Needed) -> Result<Vec<Self>, BindError> {
        let directory = roots.devices();
        if !directory.is_dir() {
            return Err(BindError::NoBus { path: directory });
        }
        let mut devices = Vec::new();
        for bus_id in sysfs::names(&directory)? {
            devices.extend(Self::read(roots, &bus_id)?);
        }
        let own: Vec<String> = devices.iter().flat_map(|device| &device.interfaces).map(|i| i.name.clone()).collect();
        let others = VirtualFunction::read_others(roots, &own)?;
        for device in &mut devices {
            let mac = device.mac();
            let mates = others.iter().filter(|(other, _)| mac.is_some() && *other == mac);
            device.virtual_functions = mates.map(|(_, function)| function.clone()).collect();
            let names = device.interfaces.iter().map(|interface| &interface.name);
            device.carries = Carries {
                default_route: names.clone().any(|name| needed.default_route.contains(name)),
                login_session: names.clone().any(|name| needed.session.contains(name)),
            };
        }
        Ok(devices)
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name, as `ip link` prints it.
    pub name: String,
    /// Its address, if it has an Ethernet one.
    pub mac: Option<MacAddress>,
}

impl Interface {
    pub(super) fn read(directory: &Path, name: &str) -> Result<Self, BindError> {
        let mac = sysfs::attribute(&directory.join(name).join("address"))?;
        Ok(Self { name: name.to_owned(), mac: mac.and_then(|text| parse_mac(&text)) })
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
    /// Every interface of real hardware that is not one of `own`, with its address. What has no device (bridges, VLANs,
    /// bonds) often repeats a MAC address, too, and is no virtual function.
    fn read_others(roots: &sysfs::Roots, own: &[String]) -> Result<Vec<(Option<MacAddress>, Self)>, BindError> {
        let directory = roots.interfaces();
        let mut others = Vec::new();
        for name in sysfs::names(&directory)? {
            if own.contains(&name) || !directory.join(&name).join("device").exists() {
                continue;
            }
            let interface = Interface::read(&directory, &name)?;
            let master = sysfs::link(&directory.join(&name).join("master"));
            others.push((interface.mac, Self { name, master }));
        }
        Ok(others)
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

/// Six hexadecimal pairs between colons or hyphens.
pub(super) fn parse_mac(text: &str) -> Option<MacAddress> {
    let mut mac = [0; 6];
    let mut pairs = text.split([':', '-']);
    for byte in &mut mac {
        let pair =
            pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(MacAddress(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_is_six_pairs() {
        let mac = MacAddress([0x00, 0x0d, 0x3a, 0xf0, 0x1, 0xff]);
        assert_eq!(parse_mac("00:0d:3a:f0:01:ff"), Some(mac));
        assert_eq!(parse_mac("00-0D-3A-F0-01-FF"), Some(mac));
        for text in
            ["", "00:0d:3a:f0:01", "00:0d:3a:f0:01:ff:00", "00:0d:3a:f0:01:+f", "000d3af001ff", "0:d:3a:f0:1:ff"]
        {
            assert_eq!(parse_mac(text), None, "{text:?}");
        }
    }
}
