//! Which network interface is the virtual function: by the number of its PCI slot and its MAC address.
//!
//! A host names a virtual function by a serial number, which Hyper-V's PCI driver makes the name of the function's slot. All
//! interfaces of the function count: a MANA function has several ports, of which the MAC address finds the right one. Where
//! there is no slot with a number, the MAC address alone decides. Never taken are interfaces that are not Ethernet or have no
//! hardware behind them (VLANs, bonds and bridges repeat MAC addresses), those of VMBus devices, and those that serve another
//! interface.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`get_netvsc_byslot`, `netvsc_register_vf`), `pci-hyperv.c`
//! (`hv_pci_assign_slots`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use netvsc::info::MacAddress;

/// `ARPHRD_ETHER`.
const ETHERNET: u32 = 1;

/// sysfs cannot be read.
#[derive(Debug)]
pub struct DiscoveryError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}", self.path.display())
    }
}

impl From<DiscoveryError> for io::Error {
    fn from(error: DiscoveryError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

impl std::error::Error for DiscoveryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A network interface that may be a virtual function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name, as `ip link` prints it.
    pub name: String,
    /// Its MAC address.
    pub mac: MacAddress,
    /// The address of its PCI function, like `0001:00:02.0`.
    pub pci: Option<String>,
    /// The number of its PCI slot, if that has one.
    pub serial: Option<u32>,
    /// The interface that it serves: the synthetic one, as long as `hv_netvsc` is in charge of that.
    pub master: Option<String>,
}

/// By what an interface was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Match {
    /// Serial number and MAC address.
    Serial,
    /// MAC address; it has no number.
    Address,
}

/// The interface that is the virtual function of this serial number for the adapter with this MAC address, if it is there.
/// `sysfs` is where sysfs is mounted: `/sys`.
///
/// An interface with the same MAC address and another number is not: it belongs to an association that was, or is to come.
/// One that serves another interface is not either, unless that is `synthetic`: the adapter's own, if it has one.
///
/// # Errors
/// [`DiscoveryError`].
pub fn find(
    sysfs: &Path,
    serial: u32,
    mac: MacAddress,
    synthetic: Option<&str>,
) -> Result<Option<(Interface, Match)>, DiscoveryError> {
    let mut by_address = None;
    for interface in interfaces(sysfs)? {
        let serves_another = interface.master.as_deref().is_some_and(|master| Some(master) != synthetic);
        if interface.mac != mac || serves_another {
            continue;
        }
        match interface.serial {
            Some(found) if found == serial => return Ok(Some((interface, Match::Serial))),
            Some(_) => {}
            None => by_address = by_address.or(Some((interface, Match::Address))),
        }
    }
    Ok(by_address)
}

/// All interfaces that may be virtual functions, by name.
///
/// # Errors
/// [`DiscoveryError`].
pub fn interfaces(sysfs: &Path) -> Result<Vec<Interface>, DiscoveryError> {
    let slots = slots(sysfs)?;
    let class = sysfs.join("class/net");
    let mut names = entries(&class)?;
    names.sort();
    Ok(names.into_iter().filter_map(|name| read(&class, name, &slots)).collect())
}

/// One interface; `None` if it cannot be a virtual function, or vanishes meanwhile.
fn read(class: &Path, name: String, slots: &HashMap<String, u32>) -> Option<Interface> {
    let directory = class.join(&name);
    let device = directory.join("device");
    if attribute(&directory.join("type"))?.parse() != Ok(ETHERNET)
        || link(&device.join("subsystem")).as_deref() == Some("vmbus")
        || !device.exists()
    {
        return None;
    }
    let mac = parse_mac(&attribute(&directory.join("address"))?)?;
    let pci = link(&device).filter(|_| link(&device.join("subsystem")).as_deref() == Some("pci"));
    // A slot's address is that of its functions, without their number.
    let serial = pci.as_deref().and_then(|pci| slots.get(pci.rsplit_once('.')?.0)).copied();
    Some(Interface { mac, serial, master: link(&directory.join("master")), pci, name })
}

/// What is behind an interface.
#[cfg(feature = "vf-sockets")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The PCI function at this address.
    Pci(String),
    /// A device of VMBus.
    VmBus,
    /// A device of another bus.
    Other,
    /// None.
    Virtual,
}

/// What is behind an interface: by what netlink told, or what sysfs has where the kernel is older than 5.14.
#[cfg(feature = "vf-sockets")]
pub(super) fn origin(sysfs: &Path, name: &str, parent: Option<&(String, String)>) -> Origin {
    let device = sysfs.join("class/net").join(name).join("device");
    let found = parent.cloned().or_else(|| Some((link(&device.join("subsystem"))?, link(&device)?)));
    match found {
        Some((bus, address)) if bus == "pci" => Origin::Pci(address),
        Some((bus, _)) if bus == "vmbus" => Origin::VmBus,
        Some(_) => Origin::Other,
        None => Origin::Virtual,
    }
}

/// The numbers of PCI slots, by address. A slot whose name is no number is none of Hyper-V's.
pub(super) fn slots(sysfs: &Path) -> Result<HashMap<String, u32>, DiscoveryError> {
    let directory = sysfs.join("bus/pci/slots");
    if !directory.exists() {
        return Ok(HashMap::new());
    }
    let slot = |name: String| Some((attribute(&directory.join(&name).join("address"))?, name.parse().ok()?));
    Ok(entries(&directory)?.into_iter().filter_map(slot).collect())
}

fn entries(directory: &Path) -> Result<Vec<String>, DiscoveryError> {
    let failed = |source| DiscoveryError { path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    // Names that are no UTF-8 are none of the kernel's.
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().into_string().unwrap_or_default())).collect()
}

/// A file's text, without its line end.
fn attribute(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// Where a link leads: the last part.
fn link(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

fn parse_mac(text: &str) -> Option<MacAddress> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddress(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const MAC: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 1, 2, 3]);
    const OTHER: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 1, 2, 4]);

    /// A sysfs of plain files, removed on drop.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("netvsc-vf-{}-{number}", std::process::id()));
            fs::create_dir_all(root.join("class/net")).unwrap();
            Self(root)
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, from: &str, to: &str) {
            let from = self.0.join(from);
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            fs::create_dir_all(self.0.join(to)).unwrap();
            symlink(self.0.join(to), from).unwrap();
        }

        fn slot(&self, name: &str, address: &str) {
            self.put(&format!("bus/pci/slots/{name}/address"), &format!("{address}\n"));
        }

        fn bare(&self, name: &str, mac: MacAddress, hardware_type: u32) {
            self.put(&format!("class/net/{name}/address"), &format!("{mac}\n"));
            self.put(&format!("class/net/{name}/type"), &format!("{hardware_type}\n"));
        }

        /// An interface of a device on a bus; several may have the same.
        fn interface(&self, name: &str, mac: MacAddress, bus: &str, device: &str) {
            self.bare(name, mac, ETHERNET);
            self.link(&format!("class/net/{name}/device"), &format!("devices/{device}"));
            let subsystem = format!("devices/{device}/subsystem");
            if !self.0.join(&subsystem).exists() {
                self.link(&subsystem, &format!("bus/{bus}"));
            }
        }

        #[track_caller]
        fn finds(&self, serial: u32, expected: Option<(&str, Match)>) {
            let found = find(&self.0, serial, MAC, Some("eth0")).unwrap();
            let found = found.as_ref().map(|(interface, by)| (interface.name.as_str(), *by));
            assert_eq!(found, expected);
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_serial_number_is_that_of_the_slot_and_the_address_has_to_agree() {
        let sysfs = Sysfs::new();
        sysfs.slot("2", "0001:00:02");
        sysfs.slot("3", "0002:00:02");
        sysfs.interface("enP1s2", MAC, "pci", "0001:00:02.0");
        sysfs.interface("enP2s2", OTHER, "pci", "0002:00:02.0");
        sysfs.finds(2, Some(("enP1s2", Match::Serial)));
        sysfs.finds(3, None);
        sysfs.finds(4, None);
    }

    #[test]
    fn of_several_ports_of_one_function_the_address_finds_the_right_one() {
        let sysfs = Sysfs::new();
        sysfs.slot("7", "7870:00:00");
        for (name, mac) in [("enP30832s1", OTHER), ("enP30832s2", MAC), ("enP30832s3", MacAddress([2; 6]))] {
            sysfs.interface(name, mac, "pci", "7870:00:00.0");
        }
        sysfs.finds(7, Some(("enP30832s2", Match::Serial)));
    }

    #[test]
    fn without_a_number_the_address_decides_and_a_number_is_better() {
        let sysfs = Sysfs::new();
        sysfs.slot("2-1", "0001:00:02");
        sysfs.interface("enP1s2", MAC, "pci", "0001:00:02.0");
        sysfs.finds(2, Some(("enP1s2", Match::Address)));
        sysfs.slot("2", "0002:00:02");
        sysfs.interface("enP2s2", MAC, "pci", "0002:00:02.0");
        sysfs.finds(2, Some(("enP2s2", Match::Serial)));
    }

    #[test]
    fn what_only_repeats_the_address_is_not_taken() {
        let sysfs = Sysfs::new();
        sysfs.interface("eth0", MAC, "vmbus", "ed963694-e847-4b2a-85af-bc9cfc11d6f3");
        sysfs.bare("bond0", MAC, ETHERNET);
        sysfs.bare("eth0.5", MAC, ETHERNET);
        sysfs.bare("ib0", MAC, 32);
        sysfs.finds(2, None);
        sysfs.interface("enP1s2", MAC, "pci", "0001:00:02.0");
        sysfs.link("class/net/enP1s2/master", "class/net/bond0");
        sysfs.finds(2, None);
        fs::remove_file(sysfs.0.join("class/net/enP1s2/master")).unwrap();
        sysfs.link("class/net/enP1s2/master", "class/net/eth0");
        sysfs.finds(2, Some(("enP1s2", Match::Address)));
    }

    #[test]
    fn nonsense_in_sysfs_is_passed_over() {
        let sysfs = Sysfs::new();
        sysfs.interface("enP1s2", MAC, "pci", "0001:00:02.0");
        for text in ["", "00:0d:3a:01:02", "00:0d:3a:01:02:03:04", "00:0d:3a:01:02:zz", "0:0d:3a:01:02:003"] {
            sysfs.put("class/net/enP1s2/address", text);
            sysfs.finds(2, None);
        }
        let error = find(Path::new("/nonexistent"), 2, MAC, None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/class/net");
    }
}
