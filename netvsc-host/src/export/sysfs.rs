//! A device's files: what `uio_hv_generic` and the VMBus have in sysfs, as ordinary files below the root.
//!
//! Every value ends with a line feed, on which DPDK insists.
//!
//! Source: Linux `Documentation/ABI/stable/sysfs-bus-vmbus`, `Documentation/driver-api/uio-howto.rst`.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmbus::guid::Guid;

use super::ExportError;

/// Where things are in the maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: u64,
}

/// One device's part of the tree.
#[derive(Debug)]
pub(super) struct Tree {
    device: PathBuf,
    socket: PathBuf,
}

impl Tree {
    /// An empty folder for the device; what stood there is gone.
    pub(super) fn new(root: &Path, number: usize, instance: Guid) -> Result<Self, ExportError> {
        let bus = root.join("sys/bus/vmbus");
        let device = bus.join("devices").join(instance.to_string());
        let socket = root.join(format!("dev/uio{number}.sock"));
        for path in [&bus.join("drivers/uio_hv_generic"), &root.join("dev")] {
            fs::create_dir_all(path).map_err(ExportError::at("make directory", path))?;
        }
        remove(&device).map_err(ExportError::at("remove", &device))?;
        fs::remove_file(&socket)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(ExportError::at("remove", &socket))?;
        Ok(Self { device, socket })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes everything but the channels.
    pub(super) fn write(
        &self,
        number: usize,
        instance: Guid,
        relid: u32,
        monitor: Option<usize>,
        maps: &[Map<'_>],
    ) -> io::Result<()> {
        let class = Guid::NIC;
        self.value("class_id", format_args!("{{{class}}}"))?;
        self.value("device_id", format_args!("{{{instance}}}"))?;
        self.value("id", relid)?;
        self.value("state", 0)?;
        self.value("numa_node", 0)?;
        self.value("vendor", "0x1414")?;
        self.value("device", "0x3")?;
        self.value("driver_override", "uio_hv_generic")?;
        if let Some(monitor) = monitor {
            self.value("monitor_id", monitor)?;
        }
        std::os::unix::fs::symlink("../../drivers/uio_hv_generic", self.device.join("driver"))?;
        let uio = format!("uio/uio{number}");
        self.value(&format!("{uio}/name"), "uio_hv_generic")?;
        self.value(&format!("{uio}/version"), "0.02.1")?;
        self.value(&format!("{uio}/event"), 0)?;
        for (index, map) in maps.iter().enumerate() {
            self.value(&format!("{uio}/maps/map{index}/name"), map.name)?;
            self.value(&format!("{uio}/maps/map{index}/addr"), format_args!("{:#018x}", 0))?;
            self.value(&format!("{uio}/maps/map{index}/size"), format_args!("{:#x}", map.bytes))?;
            self.value(&format!("{uio}/maps/map{index}/offset"), "0x0")?;
        }
        Ok(())
    }

    /// Whether the primary channel is open.
    pub(super) fn set_open(&self, open: bool) -> io::Result<()> {
        self.value("state", if open { 3 } else { 0 })
    }

    /// Writes a channel's files but its ring.
    pub(super) fn write_channel(&self, relid: u32, index: u16, monitor: Option<usize>) -> io::Result<()> {
        let channel = format!("channels/{relid}");
        self.value(&format!("{channel}/subchannel_id"), index)?;
        self.value(&format!("{channel}/cpu"), 0)?;
        if let Some(monitor) = monitor {
            self.value(&format!("{channel}/monitor_id"), monitor)?;
        }
        Ok(())
    }

    /// Where a channel's ring is, or is made before it appears.
    pub(super) fn ring(&self, relid: u32, ready: bool) -> PathBuf {
        self.device.join(format!("channels/{relid}/{}", if ready { "ring" } else { ".ring" }))
    }

    pub(super) fn remove_channel(&self, relid: u32) -> io::Result<()> {
        remove(&self.device.join(format!("channels/{relid}")))
    }

    fn value(&self, name: &str, value: impl Display) -> io::Result<()> {
        let path = self.device.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // At once, also for whoever reads it while it changes.
        let fresh = path.with_extension("new");
        fs::write(&fresh, format!("{value}\n"))?;
        fs::rename(fresh, path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for result in [remove(&self.device), fs::remove_file(&self.socket)] {
            if let Err(error) = result
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(target: "netvsc_host", %error, device = %self.device.display(), "not removed");
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
