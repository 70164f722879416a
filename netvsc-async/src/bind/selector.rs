//! Naming one adapter, and what to say to a wrong name.

use std::fmt;

use rndis::value::MacAddress;
use vmbus::guid::Guid;

use super::device::{Device, Interface, class_name, parse_mac};
use super::{BindError, sysfs};

/// Which adapter is meant.
///
/// ```
/// use netvsc_async::bind::Selector;
///
/// assert!(matches!(Selector::from("ed963694-e847-4b2a-85af-bc9cfc11d6f3"), Selector::Instance(_)));
/// assert!(matches!(Selector::from("00:0d:3a:f0:01:02"), Selector::Mac(_)));
/// assert!(matches!(Selector::from("eth1"), Selector::Name(_)));
/// assert_eq!(Selector::from("/dev/uio0"), Selector::from("uio0"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// By the device instance; the only way that works at any time.
    Instance(Guid),
    /// By the MAC address, while the kernel's driver has the adapter.
    Mac(MacAddress),
    /// By the name of the interface, of the UIO node, or of the device on the bus.
    Name(String),
}

/// Takes text as people write it: a GUID with or without braces, a MAC address, a name, a path that ends in one.
impl From<&str> for Selector {
    fn from(text: &str) -> Self {
        let text = text.trim();
        let text = text.trim_end_matches('/').rsplit('/').next().unwrap_or(text);
        if let Ok(instance) = text.parse() {
            Self::Instance(instance)
        } else if let Some(mac) = parse_mac(text) {
            Self::Mac(mac)
        } else {
            Self::Name(text.to_owned())
        }
    }
}

impl From<Guid> for Selector {
    fn from(instance: Guid) -> Self {
        Self::Instance(instance)
    }
}

impl From<MacAddress> for Selector {
    fn from(mac: MacAddress) -> Self {
        Self::Mac(mac)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(instance) => instance.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Selector {
    /// The one adapter among `devices` that is meant.
    pub(super) fn choose(&self, roots: &sysfs::Roots, devices: Vec<Device>) -> Result<Device, BindError> {
        let mut found: Vec<Device> =
            devices.iter().filter(|device| device.is_nic() && self.means(device)).cloned().collect();
        match (found.pop(), found.is_empty()) {
            (Some(device), true) => Ok(device),
            (Some(device), false) => {
                found.push(device);
                let instances = found.into_iter().map(|device| device.instance).collect();
                Err(BindError::Ambiguous { selector: self.clone(), instances })
            }
            (None, _) => {
                Err(BindError::NotFound { selector: self.clone(), candidates: self.refused(roots, &devices)? })
            }
        }
    }

    fn means(&self, device: &Device) -> bool {
        match self {
            Self::Instance(instance) => device.instance == *instance,
            Self::Mac(mac) => device.interfaces.iter().any(|interface| interface.mac == Some(*mac)),
            Self::Name(name) => {
                device.interfaces.iter().any(|interface| interface.name == *name)
                    || device.uio.as_ref() == Some(name)
                    || device.bus_id == *name
            }
        }
    }

    /// Why each candidate is not what was asked for: adapters first, then other interfaces, then what else matches.
    fn refused(&self, roots: &sysfs::Roots, devices: &[Device]) -> Result<Vec<Candidate>, BindError> {
        let mut candidates = Vec::new();
        for device in devices.iter().filter(|device| device.is_nic()) {
            let reason = match self {
                Self::Instance(_) => Refusal::OtherInstance,
                _ if device.interfaces.is_empty() => Refusal::WithoutInterface { driver: device.driver.clone() },
                Self::Mac(_) => Refusal::OtherMac,
                Self::Name(_) => Refusal::OtherName,
            };
            let interface = device.interfaces.first().cloned();
            candidates.push(Candidate { instance: Some(device.instance), interface, reason });
        }
        for name in sysfs::names(&roots.interfaces())? {
            let Some(refusal) = self.refused_interface(&name, devices) else { continue };
            let interface = Some(Interface::read(&roots.interfaces(), &name)?);
            candidates.push(Candidate { instance: None, interface, reason: refusal });
        }
        for device in devices.iter().filter(|device| !device.is_nic() && self.means(device)) {
            let reason = Refusal::OtherClass { class: device.class };
            candidates.push(Candidate { instance: Some(device.instance), interface: None, reason });
        }
        Ok(candidates)
    }

    /// Why an interface that is no adapter's own is refused; `None` for those and for the loopback.
    fn refused_interface(&self, name: &str, devices: &[Device]) -> Option<Refusal> {
        if name == "lo" || devices.iter().any(|device| device.interfaces.iter().any(|own| own.name == name)) {
            return None;
        }
        let mate = devices.iter().find(|device| device.virtual_functions.iter().any(|function| function.name == name));
        Some(match mate {
            Some(device) => Refusal::VirtualFunction {
                of: device.instance,
                interface: device.interfaces.first().map(|interface| interface.name.clone()),
            },
            None => Refusal::OtherBus,
        })
    }
}

/// Something that was not meant, or cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The device instance, if it is a VMBus device.
    pub instance: Option<Guid>,
    /// Its interface, if it has one.
    pub interface: Option<Interface>,
    /// Why it was refused.
    pub reason: Refusal,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.interface.as_ref().map_or("-", |interface| interface.name.as_str());
        write!(f, "{name}")?;
        if let Some(mac) = self.interface.as_ref().and_then(|interface| interface.mac) {
            write!(f, " {mac}")?;
        }
        if let Some(instance) = self.instance {
            write!(f, " {instance}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Why a candidate was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// An adapter, but another instance.
    OtherInstance,
    /// An adapter with another MAC address.
    OtherMac,
    /// An adapter with another name.
    OtherName,
    /// An adapter without an interface, so that neither its name nor its MAC address is known.
    WithoutInterface {
        /// The driver that has it.
        driver: Option<String>,
    },
    /// The virtual function that belongs to an adapter: hardware of its own, with the adapter's MAC address.
    VirtualFunction {
        /// The adapter.
        of: Guid,
        /// The adapter's interface.
        interface: Option<String>,
    },
    /// An interface that is no VMBus device.
    OtherBus,
    /// A VMBus device that is no network adapter.
    OtherClass {
        /// What it is.
        class: Guid,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherInstance => f.write_str("another instance"),
            Self::OtherMac => f.write_str("another mac address"),
            Self::OtherName => f.write_str("another name"),
            Self::WithoutInterface { driver: Some(driver) } => {
                write!(f, "has no interface while {driver} has it; name it by its instance")
            }
            Self::WithoutInterface { driver: None } => {
                f.write_str("has no interface and no driver; name it by its instance")
            }
            Self::VirtualFunction { of, interface } => {
                f.write_str("is the virtual function, not the synthetic adapter; that is ")?;
                match interface {
                    Some(interface) => write!(f, "{interface} ({of})"),
                    None => write!(f, "{of}"),
                }
            }
            Self::OtherBus => f.write_str("is no device of the vmbus"),
            Self::OtherClass { class } => write!(f, "is of class {class} ({}), no network adapter", class_name(*class)),
        }
    }
}
