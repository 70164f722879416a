//! How the virtual function stands.

use std::fmt;
use std::sync::Arc;

use netvsc::vf::{Counters, Stage};

use super::backend::VfHandle;

/// How the virtual function stands: [`Nic::vf`](crate::Nic::vf).
#[derive(Clone)]
#[non_exhaustive]
pub struct VfStatus {
    /// Where the data path stands.
    pub stage: Stage,
    /// The serial number of the VF that the host associated with the adapter.
    pub serial: Option<u32>,
    /// How often things happened.
    pub counters: Counters,
    /// The device, while it is open. For what the adapter does not do: queues of one's own, flow direction, hardware counters.
    /// Its queues that the adapter has opened are the adapter's. Do not keep it after
    /// [`VfLost`](crate::Event::VfLost) or [`DatapathSwitched`](crate::Event::DatapathSwitched) to the synthetic path: it was
    /// closed then, or is about to be.
    pub device: Option<Arc<dyn VfHandle>>,
}

impl VfStatus {
    /// The device as what it really is, if it is that.
    #[must_use]
    pub fn device_as<T: VfHandle>(&self) -> Option<&T> {
        let device: &dyn std::any::Any = &**self.device.as_ref()?;
        device.downcast_ref()
    }
}

impl fmt::Debug for VfStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfStatus")
            .field("stage", &self.stage)
            .field("serial", &self.serial)
            .field("counters", &self.counters)
            .field("device", &self.device.as_ref().map(|device| device.name()))
            .finish()
    }
}
