//! What binding reads of sysfs and procfs beyond [`vmbus::uio`], below roots that can be moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmbus::uio::SysfsRoot;

use super::BindError;

/// Where sysfs and procfs are.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    /// `/sys`.
    pub(super) sys: SysfsRoot,
    /// `/proc`.
    pub(super) proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: SysfsRoot::default(), proc: "/proc".into() }
    }
}

impl Roots {
    /// The directory of one VMBus driver.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.sys.path().join("bus/vmbus/drivers").join(name)
    }

    /// The file that makes the bus look for a device's driver.
    pub(super) fn drivers_probe(&self) -> PathBuf {
        self.sys.path().join("bus/vmbus/drivers_probe")
    }

    /// The directory of all network interfaces.
    pub(super) fn interfaces(&self) -> PathBuf {
        self.sys.path().join("class/net")
    }
}

/// The text of an attribute without the line end; `None` if there is none, or if the kernel has no value for it now.
pub(super) fn attribute(path: &Path) -> Result<Option<String>, BindError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        // An interface that vanishes while it is read, or an attribute without a value, say EINVAL, ENODEV or EIO.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(BindError::read(path, error)),
        Err(_) => Ok(None),
    }
}

/// The last component of what a link points to; `None` if there is no link.
pub(super) fn link(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// The names in a directory, sorted; none if there is no such directory.
pub(super) fn names(path: &Path) -> Result<Vec<String>, BindError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BindError::read(path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| BindError::read(path, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_by(|a, b| natural(a).cmp(&natural(b)));
    Ok(names)
}

/// Sorts `eth2` before `eth10`.
fn natural(name: &str) -> (&str, Option<u32>, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().ok(), name)
}
