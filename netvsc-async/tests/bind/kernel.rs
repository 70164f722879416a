//! What Linux does when `/sys/bus/vmbus` is written to.
//!
//! Source: Linux `drivers/hv/vmbus_drv.c` (`new_id_store`, `remove_id_store`, `hv_vmbus_get_id`,
//! `driver_override_store`) and `drivers/base/bus.c` (`bind_store`, `unbind_store`, `drivers_probe_store`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use netvsc_async::bind::Kernel;

use super::tree::{NIC_CLASS, Tree, is_there};

pub(crate) const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// Drivers in the order in which they came to the bus, with the class that they know from the start.
const DRIVERS: [(&str, Option<&str>); 2] = [("hv_netvsc", Some(NIC_CLASS)), ("uio_hv_generic", None)];

/// The kernel above a [`Tree`].
#[derive(Debug)]
pub(crate) struct FakeKernel {
    pub(crate) tree: Tree,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every write so far: path below `sys`, and data.
    writes: Vec<(String, String)>,
    /// Writes that are refused, by their number from 0, with the error.
    refused: BTreeMap<usize, i32>,
    /// Classes that `uio_hv_generic` was taught.
    ids: BTreeSet<String>,
    /// Interfaces of devices that the kernel's driver does not have now.
    put_away: BTreeMap<String, (String, String)>,
    /// `uio_hv_generic` fails to take a device.
    probe_fails: bool,
    /// `uio_hv_generic` makes no node.
    without_node: bool,
}

impl FakeKernel {
    pub(crate) fn new(driver_override: bool) -> Self {
        Self { tree: Tree::new(driver_override), state: Mutex::default() }
    }

    /// What was written, in order.
    pub(crate) fn writes(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().writes.clone()
    }

    /// Lets the write with this number fail.
    pub(crate) fn refuse(&self, number: usize) {
        self.state.lock().unwrap().refused.insert(number, EIO);
    }

    pub(crate) fn knows_class(&self) {
        self.state.lock().unwrap().ids.insert(NIC_CLASS.into());
    }

    pub(crate) fn ids(&self) -> usize {
        self.state.lock().unwrap().ids.len()
    }

    pub(crate) fn let_probe_fail(&self) {
        self.state.lock().unwrap().probe_fails = true;
    }

    pub(crate) fn make_no_node(&self) {
        self.state.lock().unwrap().without_node = true;
    }

    /// Takes a device from its driver, as a crash in the middle would have.
    pub(crate) fn orphan(&self, instance: &str) {
        let driver = self.tree.driver(instance).unwrap();
        self.unbind(&mut self.state.lock().unwrap(), &driver, instance).unwrap();
    }

    fn obey(&self, state: &mut State, path: &str, data: &str) -> Result<(), i32> {
        let data = data.trim_end_matches('\n');
        match path.split('/').collect::<Vec<_>>()[..] {
            ["bus", "vmbus", "drivers_probe"] => {
                let driver = DRIVERS.iter().find(|(driver, _)| self.matches(state, driver, data));
                if let Some((driver, _)) = driver {
                    // The bus does not pass on why a probe failed.
                    let _ = self.attach(state, driver, data);
                }
                Ok(())
            }
            ["bus", "vmbus", "devices", instance, "driver_override"] => {
                let text = if data.is_empty() { "(null)" } else { data };
                self.tree.file(&format!("sys/devices/vmbus/{instance}/driver_override"), &format!("{text}\n"));
                Ok(())
            }
            ["bus", "vmbus", "drivers", driver, "unbind"] => self.unbind(state, driver, data),
            ["bus", "vmbus", "drivers", driver, "bind"] => {
                if !self.matches(state, driver, data) {
                    return Err(ENODEV);
                }
                self.attach(state, driver, data)
            }
            ["bus", "vmbus", "drivers", "uio_hv_generic", "new_id"] => self.new_id(state, data),
            ["bus", "vmbus", "drivers", "uio_hv_generic", "remove_id"] => {
                state.ids.remove(data).then_some(()).ok_or(ENODEV)
            }
            _ => Err(EINVAL),
        }
    }

    fn new_id(&self, state: &mut State, class: &str) -> Result<(), i32> {
        if class.len() != 36 {
            return Err(EINVAL);
        }
        if !state.ids.insert(class.to_owned()) {
            return Err(EEXIST);
        }
        for entry in fs::read_dir(self.tree.sys().join("bus/vmbus/devices")).unwrap() {
            let instance = entry.unwrap().file_name().into_string().unwrap();
            if self.tree.driver(&instance).is_none() && self.matches(state, "uio_hv_generic", &instance) {
                let _ = self.attach(state, "uio_hv_generic", &instance);
            }
        }
        Ok(())
    }

    fn matches(&self, state: &State, driver: &str, instance: &str) -> bool {
        let home = self.tree.sys().join("devices/vmbus").join(instance);
        let Ok(class) = fs::read_to_string(home.join("class_id")) else { return false };
        let class = class.trim_matches(['{', '}', '\n']);
        let own = fs::read_to_string(home.join("driver_override")).unwrap_or_default();
        match own.trim_end() {
            "" | "(null)" => {
                let fixed = DRIVERS.iter().any(|(name, known)| *name == driver && *known == Some(class));
                fixed || driver == "uio_hv_generic" && state.ids.contains(class)
            }
            wanted => wanted == driver,
        }
    }

    fn attach(&self, state: &mut State, driver: &str, instance: &str) -> Result<(), i32> {
        if self.tree.driver(instance).is_some() {
            return Err(EBUSY);
        }
        let home = format!("sys/devices/vmbus/{instance}");
        if driver == "uio_hv_generic" {
            if state.probe_fails {
                return Err(EIO);
            }
            if !state.without_node {
                self.tree.file(&format!("{home}/uio/uio0/name"), "uio_hv_generic\n");
            }
        } else if let Some((name, mac)) = state.put_away.remove(instance) {
            self.tree.interface(instance, &name, &mac);
        }
        self.tree.link(&format!("{home}/driver"), &format!("sys/bus/vmbus/drivers/{driver}"));
        Ok(())
    }

    fn unbind(&self, state: &mut State, driver: &str, instance: &str) -> Result<(), i32> {
        if self.tree.driver(instance).as_deref() != Some(driver) {
            return Err(ENODEV);
        }
        let home = self.tree.sys().join("devices/vmbus").join(instance);
        fs::remove_file(home.join("driver")).unwrap();
        if let Ok(entries) = fs::read_dir(home.join("net")) {
            for entry in entries {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let mac = fs::read_to_string(entry.path().join("address")).unwrap().trim_end().to_owned();
                fs::remove_file(self.tree.sys().join("class/net").join(&name)).unwrap();
                state.put_away.insert(instance.to_owned(), (name, mac));
            }
        }
        for made_by_driver in ["net", "uio"] {
            let _ = fs::remove_dir_all(home.join(made_by_driver));
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        let below = path.strip_prefix(self.tree.sys()).expect("a write outside sysfs").to_str().unwrap().to_owned();
        let state = &mut *self.state.lock().unwrap();
        let number = state.writes.len();
        state.writes.push((below.clone(), data.to_owned()));
        let outcome = match state.refused.get(&number) {
            Some(error) => Err(*error),
            None if !is_there(path) => Err(ENOENT),
            None => self.obey(state, &below, data),
        };
        outcome.map_err(io::Error::from_raw_os_error)
    }
}
