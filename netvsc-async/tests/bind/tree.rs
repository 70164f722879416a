//! A sysfs and a procfs of plain files in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The adapter that the tests bind: `eth1`.
pub(crate) const NIC: &str = "ed963694-e847-4b2a-85af-bc9cfc11d6f3";
/// Its MAC address, which its virtual function has, too.
pub(crate) const MAC: &str = "00:0d:3a:f0:01:02";
/// The other adapter, `eth0`, with the default route.
pub(crate) const UPLINK: &str = "1111aaaa-0000-4b2a-85af-bc9cfc11d6f3";
/// A disk controller.
pub(crate) const DISK: &str = "2222bbbb-0000-4b2a-85af-bc9cfc11d6f3";
/// Class of network adapters.
pub(crate) const NIC_CLASS: &str = "f8615163-df3e-46c5-913f-f2d2f965ed0e";
/// Class of SCSI controllers.
const SCSI_CLASS: &str = "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f";

/// Removed on drop.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A guest with two adapters, a virtual function for `eth1`, and a disk; the kernel has `driver_override` or not.
    pub(crate) fn new(driver_override: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("netvsc-bind-{}-{number}", std::process::id()));
        let tree = Self { root };
        for driver in ["hv_netvsc", "hv_storvsc", "uio_hv_generic"] {
            for file in ["bind", "unbind", "new_id", "remove_id"] {
                tree.file(&format!("sys/bus/vmbus/drivers/{driver}/{file}"), "");
            }
        }
        tree.file("sys/bus/vmbus/drivers_probe", "");
        tree.device(UPLINK, NIC_CLASS, Some("hv_netvsc"), driver_override);
        tree.device(NIC, NIC_CLASS, Some("hv_netvsc"), driver_override);
        tree.device(DISK, SCSI_CLASS, Some("hv_storvsc"), driver_override);
        tree.interface(UPLINK, "eth0", "00:0d:3a:f0:00:01");
        tree.interface(NIC, "eth1", MAC);
        tree.virtual_function("enP1s2", MAC, Some("eth1"));
        tree.file("sys/devices/virtual/net/lo/address", "00:00:00:00:00:00\n");
        tree.link("sys/class/net/lo", "sys/devices/virtual/net/lo");
        tree.file("sys/devices/virtual/net/br0/address", "00:0d:3a:f0:01:02\n");
        tree.link("sys/class/net/br0", "sys/devices/virtual/net/br0");
        tree.routes(&[("eth0", [0; 4], 0, 3), ("eth0", [10, 0, 0, 0], 24, 1), ("eth1", [10, 0, 1, 0], 24, 1)]);
        tree
    }

    pub(crate) fn sys(&self) -> PathBuf {
        self.root.join("sys")
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// Writes a file, with its directories.
    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes `path` lead to `target`; both count from the root.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.root.join(target), path).unwrap();
    }

    /// Adds a VMBus device, which stands elsewhere and is linked to by its bus, as in the real one.
    pub(crate) fn device(&self, instance: &str, class: &str, driver: Option<&str>, driver_override: bool) {
        let home = format!("sys/devices/vmbus/{instance}");
        self.file(&format!("{home}/class_id"), &format!("{{{class}}}\n"));
        self.file(&format!("{home}/device_id"), &format!("{{{instance}}}\n"));
        self.file(&format!("{home}/id"), "14\n");
        if driver_override {
            self.file(&format!("{home}/driver_override"), "(null)\n");
        }
        if let Some(driver) = driver {
            self.link(&format!("{home}/driver"), &format!("sys/bus/vmbus/drivers/{driver}"));
        }
        self.link(&format!("sys/bus/vmbus/devices/{instance}"), &home);
    }

    /// Gives a VMBus device an interface.
    pub(crate) fn interface(&self, instance: &str, name: &str, mac: &str) {
        let home = format!("sys/devices/vmbus/{instance}");
        self.file(&format!("{home}/net/{name}/address"), &format!("{mac}\n"));
        self.link(&format!("{home}/net/{name}/device"), &home);
        self.link(&format!("sys/class/net/{name}"), &format!("{home}/net/{name}"));
    }

    /// Adds an interface on the PCI bus.
    pub(crate) fn virtual_function(&self, name: &str, mac: &str, master: Option<&str>) {
        let home = format!("sys/devices/pci/{name}");
        self.file(&format!("{home}/net/{name}/address"), &format!("{mac}\n"));
        self.link(&format!("{home}/net/{name}/device"), &home);
        if let Some(master) = master {
            self.link(&format!("{home}/net/{name}/master"), &format!("sys/class/net/{master}"));
        }
        self.link(&format!("sys/class/net/{name}"), &format!("{home}/net/{name}"));
    }

    /// Writes `/proc/net/route`: interface, destination, prefix length, flags.
    pub(crate) fn routes(&self, routes: &[(&str, [u8; 4], u32, u32)]) {
        let mut text =
            String::from("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n");
        for (interface, destination, prefix, flags) in routes {
            let destination = u32::from_ne_bytes(*destination);
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0).to_be_bytes();
            let mask = u32::from_ne_bytes(mask);
            text += &format!("{interface}\t{destination:08X}\t00000000\t{flags:04X}\t0\t0\t100\t{mask:08X}\t0\t0\t0\n");
        }
        self.file("proc/net/route", &text);
    }

    /// The driver that has a device.
    pub(crate) fn driver(&self, instance: &str) -> Option<String> {
        let link = fs::read_link(self.sys().join("devices/vmbus").join(instance).join("driver")).ok()?;
        Some(link.file_name().unwrap().to_str().unwrap().to_owned())
    }

    /// Every file, directory and link with its content.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
                let content = if kind.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if kind.is_dir() {
                    open.push(path.clone());
                    String::new()
                } else {
                    fs::read_to_string(&path).unwrap()
                };
                found.insert(path, content);
            }
        }
        found
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Whether a link or file is there, wherever it leads.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
