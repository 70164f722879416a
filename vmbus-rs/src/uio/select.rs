//! Finding one NIC among the devices: by instance, by interface name, by MAC.

use std::fmt;
use std::str::FromStr;

use super::sysfs::{SysfsDevice, SysfsError, SysfsRoot, parse_mac};
use crate::guid::Guid;

/// Which NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// The only one there is.
    Only,
    /// By device instance: the one name that stays, whatever driver the device is bound to.
    Instance(Guid),
    /// By network interface, such as `eth1`: while the kernel's driver has the device.
    Interface(String),
    /// By MAC address: while the kernel's driver has the device.
    Mac([u8; 6]),
    /// By `N` of `/dev/uioN`: while `uio_hv_generic` has the device. The number changes as devices come and go.
    Uio(u32),
}

/// A GUID, a MAC address, `uioN` (`/dev/uioN`), else the name of an interface.
impl FromStr for Selector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uio = text.strip_prefix("/dev/").unwrap_or(text).strip_prefix("uio").and_then(|n| n.parse().ok());
        Ok(if let Ok(instance) = text.parse() {
            Self::Instance(instance)
        } else if let Some(mac) = parse_mac(text) {
            Self::Mac(mac)
        } else if let Some(number) = uio {
            Self::Uio(number)
        } else {
            Self::Interface(text.to_owned())
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("the only nic"),
            Self::Instance(instance) => write!(f, "instance {instance}"),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Mac(mac) => write!(f, "mac {}", Mac(mac)),
            Self::Uio(number) => write!(f, "/dev/uio{number}"),
        }
    }
}

impl Selector {
    /// Why `device` is not it; `None` if it is.
    fn refuses(&self, device: &SysfsDevice) -> Option<Refusal> {
        if !device.is_nic() {
            return Some(Refusal::NotNic { class: device.class });
        }
        let hidden = || match &device.driver {
            // Where the kernel's driver does not have it, neither name nor address is known.
            _ if !device.interfaces.is_empty() => Refusal::Other,
            driver => Refusal::NoInterface { driver: driver.clone() },
        };
        match self {
            Self::Only => None,
            Self::Instance(instance) => (*instance != device.instance).then_some(Refusal::Other),
            Self::Interface(name) => (!device.interfaces.iter().any(|net| net.name == *name)).then(hidden),
            Self::Mac(mac) => (!device.interfaces.iter().any(|net| net.mac == Some(*mac))).then(hidden),
            Self::Uio(number) => {
                (device.uio.as_ref().map(|node| node.number) != Some(*number)).then_some(Refusal::Other)
            }
        }
    }
}

impl SysfsRoot {
    /// All NICs, whoever their driver is.
    ///
    /// # Errors
    /// When there is no VMBus.
    pub fn nics(&self) -> Result<Vec<SysfsDevice>, SysfsError> {
        Ok(self.devices()?.into_iter().flatten().filter(SysfsDevice::is_nic).collect())
    }

    /// The NIC that `selector` means, whoever its driver is: what a program looks for that binds it.
    ///
    /// # Errors
    /// [`SelectError`]: none, or more than one.
    pub fn find(&self, selector: &Selector) -> Result<SysfsDevice, SelectError> {
        self.find_one(selector, |_| None)
    }

    /// The NIC that `selector` means, if it is bound to `uio_hv_generic`.
    ///
    /// # Errors
    /// [`SelectError`]: none, or more than one, or one with another driver.
    pub fn find_bound(&self, selector: &Selector) -> Result<SysfsDevice, SelectError> {
        self.find_one(selector, |device| match &device.driver {
            _ if device.uio.is_some() => None,
            Some(driver) if driver == DRIVER => Some(Refusal::NoUioNode),
            Some(driver) => Some(Refusal::BoundTo { driver: driver.clone() }),
            None => Some(Refusal::Unbound),
        })
    }

    fn find_one(
        &self,
        selector: &Selector,
        unfit: impl Fn(&SysfsDevice) -> Option<Refusal>,
    ) -> Result<SysfsDevice, SelectError> {
        let error = |candidates, unlisted| SelectError { selector: selector.clone(), candidates, unlisted };
        let devices = self.devices().map_err(|unlisted| error(Vec::new(), Some(unlisted)))?;
        let mut candidates = Vec::new();
        let mut found = Vec::new();
        for device in devices {
            match device {
                Ok(device) => match selector.refuses(&device).or_else(|| unfit(&device)) {
                    None => found.push(device),
                    Some(refusal) => candidates.push(Candidate::of(&device, refusal)),
                },
                Err(failure) => candidates.push(Candidate {
                    instance: None,
                    interfaces: Vec::new(),
                    refusal: Refusal::Unreadable(failure),
                }),
            }
        }
        if found.len() > 1 {
            candidates.extend(found.iter().map(|device| Candidate::of(device, Refusal::Ambiguous)));
            found.clear();
        }
        found.pop().ok_or_else(|| error(candidates, None))
    }
}

/// The kernel driver that this module is about.
pub const DRIVER: &str = "uio_hv_generic";

/// A device that was looked at, and why it was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Which.
    pub instance: Option<Guid>,
    /// Its network interfaces.
    pub interfaces: Vec<String>,
    /// Why not.
    pub refusal: Refusal,
}

impl Candidate {
    fn of(device: &SysfsDevice, refusal: Refusal) -> Self {
        let interfaces = device.interfaces.iter().map(|net| net.name.clone()).collect();
        Self { instance: Some(device.instance), interfaces, refusal }
    }
}

/// Why a device was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not a network adapter.
    NotNic {
        /// What it is.
        class: Guid,
    },
    /// It is another network adapter.
    Other,
    /// It has no interface to be known by, as only the kernel's own driver makes one; its instance would do.
    NoInterface {
        /// The driver that has it.
        driver: Option<String>,
    },
    /// It is the one, but another driver has it.
    BoundTo {
        /// Which.
        driver: String,
    },
    /// It is the one, but no driver has it.
    Unbound,
    /// It is the one, but the driver has made no `/dev/uioN` for it (yet).
    NoUioNode,
    /// It is not the only one.
    Ambiguous,
    /// It cannot be read.
    Unreadable(SysfsError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNic { class } => write!(f, "class {class} is not a nic"),
            Self::Other => f.write_str("another nic"),
            Self::NoInterface { driver: Some(driver) } => {
                write!(f, "bound to {driver}, so without an interface: select it by instance")
            }
            Self::NoInterface { driver: None } => f.write_str("without an interface: select it by instance"),
            Self::BoundTo { driver } => write!(f, "bound to {driver}, not to {DRIVER}"),
            Self::Unbound => write!(f, "not bound to any driver; {DRIVER} is needed"),
            Self::NoUioNode => write!(f, "bound to {DRIVER}, which has made no uio device for it"),
            Self::Ambiguous => f.write_str("one of several"),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

/// No device, or none that can be used, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelectError {
    /// What was looked for.
    pub selector: Selector,
    /// What was seen.
    pub candidates: Vec<Candidate>,
    /// Why nothing could be seen.
    pub unlisted: Option<SysfsError>,
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no usable device for {}", self.selector)?;
        if let Some(error) = &self.unlisted {
            return write!(f, ": {error}");
        }
        if self.candidates.is_empty() {
            return f.write_str(": there are no vmbus devices");
        }
        for (number, candidate) in self.candidates.iter().enumerate() {
            f.write_str(if number == 0 { ": " } else { "; " })?;
            if let Some(instance) = candidate.instance {
                write!(f, "{instance} ")?;
            }
            if !candidate.interfaces.is_empty() {
                write!(f, "({}) ", candidate.interfaces.join(", "))?;
            }
            candidate.refusal.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SelectError {}

/// Prints a MAC address.
struct Mac<'a>(&'a [u8; 6]);

impl fmt::Display for Mac<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if number == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}
