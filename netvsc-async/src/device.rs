//! Opening an adapter of this machine: one that is bound to `uio_hv_generic`.

use vmbus::uio::{Selector, Settings, UioBus, UioChannel, UioDevice, UioError};

use crate::builder::NicBuilder;
use crate::nic::Nic;
use crate::open::OpenError;
use crate::queue::Queue;

impl NicBuilder {
    /// Which adapter [`open`](Self::open) opens: an instance GUID, a MAC address, `uioN`, or the name of a network
    /// interface. Default: the only one there is.
    #[must_use]
    pub fn device(mut self, selector: impl Into<Device>) -> Self {
        self.device = selector.into().0;
        self
    }

    /// How the kernel's interface is used: where sysfs is, what the kernel is known to be like, pages for direct sends.
    #[must_use]
    pub fn uio(mut self, settings: Settings) -> Self {
        self.uio = settings;
        self
    }

    /// Opens the adapter of this machine that [`device`](Self::device) names. It has to be bound to `uio_hv_generic`
    /// (see the command `netvsc bind`).
    ///
    /// The kernel fixes the rings (2 MiB each) and the buffers (31 MiB and 16 MiB) there: section counts are what the
    /// host makes of them, whatever was wished.
    ///
    /// # Errors
    /// [`OpenError::System`] when there is no such adapter (it says which there are, and why each is not it) or it cannot
    /// be opened; else as [`open_on`](Self::open_on).
    ///
    /// # Cancel safety
    /// As [`open_on`](Self::open_on).
    pub async fn open(self) -> Result<(Nic<UioBus>, Vec<Queue<UioChannel>>), OpenError> {
        let device = self.find()?;
        self.open_device(&device).await
    }

    /// The adapter that is meant.
    pub(crate) fn find(&self) -> Result<UioDevice, OpenError> {
        UioDevice::find(&self.device, self.uio.clone()).map_err(system)
    }

    /// Opens an adapter that was found.
    pub(crate) async fn open_device(
        self,
        device: &UioDevice,
    ) -> Result<(Nic<UioBus>, Vec<Queue<UioChannel>>), OpenError> {
        let bus = device.open().map_err(system)?;
        self.open_on(bus).await
    }
}

fn system(error: UioError) -> OpenError {
    OpenError::System { kind: vmbus::Error::kind(&error), message: error.to_string() }
}

/// Which adapter, as [`NicBuilder::device`] takes it: a [`Selector`], or its text.
#[derive(Debug, Clone)]
pub struct Device(Selector);

impl From<Selector> for Device {
    fn from(selector: Selector) -> Self {
        Self(selector)
    }
}

impl From<&str> for Device {
    fn from(text: &str) -> Self {
        // Every text is one: what is no GUID, address or uioN is an interface's name.
        let Ok(selector) = text.parse();
        Self(selector)
    }
}

impl From<String> for Device {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}
