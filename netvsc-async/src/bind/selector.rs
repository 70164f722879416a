//! What to say to a wrong name: which interfaces are there that are no adapter's, and whose they are.

use std::fmt;

use rndis::value::MacAddress;
use vmbus::guid::Guid;
use vmbus::uio::SelectError;

use super::device::{Device, OtherInterface};
use super::{BindError, sysfs};

/// No adapter is what was asked for, or several are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotFound {
    /// What was asked for, and every device of the bus with why it is not that.
    pub error: SelectError,
    /// The interfaces that are no device of the bus.
    pub interfaces: Vec<ForeignInterface>,
}

impl NotFound {
    /// Looks at the interfaces, after no device was found.
    pub(super) fn read(roots: &sysfs::Roots, error: SelectError, devices: &[Device]) -> Result<Self, BindError> {
        let own = devices.iter().flat_map(|device| &device.sysfs.interfaces).map(|own| own.name.as_str());
        let others = OtherInterface::read_all(roots, &own.collect::<Vec<_>>())?;
        let interfaces = others.into_iter().map(|other| {
            let mate = |device: &&Device| device.virtual_functions.iter().any(|function| function.name == other.name);
            let mate = devices.iter().find(mate);
            ForeignInterface {
                mac: other.mac,
                virtual_function_of: mate.map(Device::instance),
                adapter: mate.and_then(Device::interface).map(str::to_owned),
                name: other.name,
            }
        });
        Ok(Self { error, interfaces: interfaces.collect() })
    }
}

/// The candidates stand on lines of their own.
impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no network adapter is {}, or not one alone", self.error.selector)?;
        if let Some(unlisted) = &self.error.unlisted {
            write!(f, ": {unlisted}")?;
        }
        for candidate in &self.error.candidates {
            let name = if candidate.interfaces.is_empty() { "-".into() } else { candidate.interfaces.join(",") };
            write!(f, "\n  {name} ")?;
            if let Some(instance) = candidate.instance {
                write!(f, "{instance}")?;
            }
            write!(f, ": {}", candidate.refusal)?;
        }
        self.interfaces.iter().try_for_each(|interface| write!(f, "\n  {interface}"))
    }
}

/// A network interface that is no device of the VMBus, so that it cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignInterface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Option<MacAddress>,
    /// The adapter whose virtual function it is.
    pub virtual_function_of: Option<Guid>,
    /// That adapter's interface.
    pub adapter: Option<String>,
}

impl ForeignInterface {
    /// Why it was refused.
    pub fn reason(&self) -> String {
        let synthetic = "is the virtual function, not the synthetic adapter; that is";
        match (self.virtual_function_of, &self.adapter) {
            (Some(instance), Some(name)) => format!("{synthetic} {name} ({instance})"),
            (Some(instance), None) => format!("{synthetic} {instance}"),
            (None, _) => "is no device of the vmbus".into(),
        }
    }
}

impl fmt::Display for ForeignInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " {mac}")?;
        }
        write!(f, ": {}", self.reason())
    }
}
