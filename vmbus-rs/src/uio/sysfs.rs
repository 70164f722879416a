//! What sysfs says of VMBus devices: `/sys/bus/vmbus/devices/<instance>/`.
//!
//! Only text is read here, and nothing is opened that would change a device. Values come as the kernel prints them and
//! as simulated trees do; one device that cannot be read does not hide the others.
//!
//! Source: Linux `Documentation/ABI/stable/sysfs-bus-vmbus`, `drivers/uio/uio.c` (`maps/`), `drivers/hv/vmbus_drv.c`.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::SystemError;
use crate::gpadl::GpadlId;
use crate::guid::Guid;
use crate::monitor::MonitorId;
use crate::protocol::RelId;

/// Where sysfs is mounted: `/sys`, or a tree that a test made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysfsRoot(PathBuf);

impl Default for SysfsRoot {
    fn default() -> Self {
        Self::new("/sys")
    }
}

impl SysfsRoot {
    /// The tree at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All VMBus devices, of any class, by instance; beside each that cannot be read, why.
    ///
    /// # Errors
    /// When there is no VMBus at all.
    pub fn devices(&self) -> Result<Vec<Result<SysfsDevice, SysfsError>>, SysfsError> {
        let directory = self.0.join("bus/vmbus/devices");
        let mut names = list(&directory)?;
        names.sort();
        Ok(names.iter().map(|name| SysfsDevice::read(directory.join(name))).collect())
    }
}

/// A VMBus device as sysfs describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SysfsDevice {
    /// Its directory.
    pub directory: PathBuf,
    /// Device instance.
    pub instance: Guid,
    /// Device class.
    pub class: Guid,
    /// Relid of the primary channel.
    pub relid: RelId,
    /// Monitor of the primary channel, if it has one.
    pub monitor: Option<MonitorId>,
    /// The driver that it is bound to. A simulated tree need not say.
    pub driver: Option<String>,
    /// Its `/dev/uioN`, while `uio_hv_generic` is its driver.
    pub uio: Option<UioNode>,
    /// Network interfaces, while the kernel's own driver has it.
    pub interfaces: Vec<NetInterface>,
}

impl SysfsDevice {
    /// Reads a device's directory.
    ///
    /// # Errors
    /// [`SysfsError`].
    pub fn read(directory: impl Into<PathBuf>) -> Result<Self, SysfsError> {
        let directory = directory.into();
        let driver = std::fs::read_link(directory.join("driver"))
            .ok()
            .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()));
        Ok(Self {
            instance: guid(&directory.join("device_id"))?,
            class: guid(&directory.join("class_id"))?,
            relid: RelId(number(&directory.join("id"))?),
            monitor: monitor(&directory)?,
            driver,
            uio: UioNode::of(&directory)?,
            interfaces: NetInterface::of(&directory),
            directory,
        })
    }

    /// Whether it is a network adapter.
    pub fn is_nic(&self) -> bool {
        self.class == Guid::NIC
    }

    /// Its channels that have a directory, by relid: the primary one, and subchannels as they arrive. What is not complete
    /// yet says so.
    ///
    /// # Errors
    /// When the directory cannot be read; kernels from 4.14 on have it, a little after the device.
    pub fn channels(&self) -> Result<Vec<ChannelDirectory>, SysfsError> {
        let directory = self.channels_directory();
        let mut channels: Vec<_> = list(&directory)?
            .into_iter()
            .filter_map(|name| {
                // Decimal numbers only: the tree may grow other things.
                let relid = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok())??;
                Some(ChannelDirectory::read(RelId(relid), directory.join(&name)))
            })
            .collect();
        channels.sort_by_key(|channel| channel.relid);
        Ok(channels)
    }

    /// Where the directories of its channels are.
    pub fn channels_directory(&self) -> PathBuf {
        self.directory.join("channels")
    }
}

/// A channel's directory, `channels/<relid>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelDirectory {
    /// The channel.
    pub relid: RelId,
    /// The directory.
    pub path: PathBuf,
    /// Which of the device's channels it is: 0 for the primary one. `None` while the kernel is not that far.
    pub subchannel_index: Option<u16>,
    /// Monitor, if it has one.
    pub monitor: Option<MonitorId>,
    /// The file of both rings; it appears last.
    pub ring: Option<RingFile>,
}

/// A channel's `ring` file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of both rings.
    pub bytes: u64,
    /// Tells a channel from an earlier one with the same relid.
    pub inode: u64,
}

impl ChannelDirectory {
    pub(super) fn read(relid: RelId, path: PathBuf) -> Self {
        // First, as it comes last: what is read after it was complete when it came.
        let ring = path.join("ring");
        let ring =
            std::fs::metadata(&ring).ok().map(|meta| RingFile { path: ring, bytes: meta.len(), inode: meta.ino() });
        Self {
            relid,
            subchannel_index: number(&path.join("subchannel_id")).ok().and_then(|index| u16::try_from(index).ok()),
            monitor: monitor(&path).ok().flatten(),
            ring,
            path,
        }
    }
}

/// `/dev/uioN` of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UioNode {
    /// N.
    pub number: u32,
    /// What can be mapped, from map 0 on without gaps.
    pub maps: Vec<MapInfo>,
}

impl UioNode {
    fn of(device: &Path) -> Result<Option<Self>, SysfsError> {
        let directory = device.join("uio");
        let Ok(names) = list(&directory) else { return Ok(None) };
        let Some((name, number)) =
            names.into_iter().find_map(|name| Some((name.clone(), name.strip_prefix("uio")?.parse().ok()?)))
        else {
            return Ok(None);
        };
        let maps = directory.join(name).join("maps");
        let maps = (0..MAX_MAPS)
            .map(|index| maps.join(format!("map{index}")))
            // Older kernels have fewer: none comes after the first that is missing.
            .take_while(|map| map.join("size").exists())
            .map(|map| MapInfo::read(&map))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self { number, maps }))
    }

    /// The first map for this use, and its index.
    pub fn map(&self, is: impl Fn(&MapUse) -> bool) -> Option<(usize, &MapInfo)> {
        self.maps.iter().enumerate().find(|(_, map)| is(&map.usage))
    }
}

/// One map of `/dev/uioN`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapInfo {
    /// What it is.
    pub usage: MapUse,
    /// Its address in the kernel, if it says so; of no use here.
    pub addr: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// Where in its first page it starts.
    pub offset: u64,
}

impl MapInfo {
    fn read(directory: &Path) -> Result<Self, SysfsError> {
        let optional = |name: &str| match unsigned(&directory.join(name)) {
            Ok(value) => Ok(Some(value)),
            Err(SysfsError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let name = directory.join("name");
        let text = text(&name)?;
        Ok(Self {
            usage: MapUse::parse(&text).ok_or_else(|| malformed(name, &text))?,
            addr: optional("addr")?,
            size: unsigned(&directory.join("size"))?,
            offset: optional("offset")?.unwrap_or(0),
        })
    }
}

/// What a map of `/dev/uioN` is for, from its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapUse {
    /// `txrx_rings`: the primary channel's rings, guest→host first.
    Rings,
    /// `int_page`: interrupt bits of all channels of the machine.
    InterruptPage,
    /// `monitor_page`: monitors of all channels of the machine.
    MonitorPage,
    /// `recv:<gpadl>`.
    Receive(GpadlId),
    /// `send:<gpadl>`.
    Send(GpadlId),
    /// Something else.
    Other(String),
}

impl MapUse {
    /// From a map's name; `None` for a GPADL that is no number.
    pub fn parse(name: &str) -> Option<Self> {
        let gpadl = |digits: &str| digits.parse().ok().map(GpadlId);
        Some(match name {
            "txrx_rings" => Self::Rings,
            "int_page" => Self::InterruptPage,
            "monitor_page" => Self::MonitorPage,
            _ => match (name.strip_prefix("recv:"), name.strip_prefix("send:")) {
                (Some(digits), _) => Self::Receive(gpadl(digits)?),
                (_, Some(digits)) => Self::Send(gpadl(digits)?),
                _ => Self::Other(name.to_owned()),
            },
        })
    }
}

/// A network interface of a device that the kernel's driver has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetInterface {
    /// Such as `eth0`.
    pub name: String,
    /// Its address, if it can be read.
    pub mac: Option<[u8; 6]>,
}

impl NetInterface {
    fn of(device: &Path) -> Vec<Self> {
        let directory = device.join("net");
        let mut names = list(&directory).unwrap_or_default();
        names.sort();
        names
            .into_iter()
            .map(|name| {
                let mac = text(&directory.join(&name).join("address")).ok().and_then(|text| parse_mac(&text));
                Self { name, mac }
            })
            .collect()
    }
}

/// A MAC address, six pairs of hexadecimal digits between colons or hyphens.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut pairs = text.trim().split([':', '-']);
    for byte in &mut mac {
        // Digits only: a sign would be taken as well.
        let digits = |pair: &&str| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        let pair = pairs.next().filter(digits)?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(mac)
}

/// Why a device cannot be read from sysfs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SysfsError {
    /// A file or directory is not there, or not for us.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: SystemError,
    },
    /// A file says something else than it should.
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

impl fmt::Display for SysfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Malformed { path, text } => write!(f, "{} says {text:?}", path.display()),
        }
    }
}

impl std::error::Error for SysfsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Malformed { .. } => None,
        }
    }
}

/// Maps that are looked for (`MAX_UIO_MAPS`).
const MAX_MAPS: usize = 5;

/// Longest text that is echoed in an error.
const MAX_TEXT: usize = 80;

fn malformed(path: PathBuf, text: &str) -> SysfsError {
    SysfsError::Malformed { path, text: text.chars().take(MAX_TEXT).collect() }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> SysfsError {
    |error| SysfsError::Unreadable { path: path.to_owned(), error: error.into() }
}

fn list(directory: &Path) -> Result<Vec<String>, SysfsError> {
    std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect())
        .map_err(unreadable(directory))
}

fn text(path: &Path) -> Result<String, SysfsError> {
    let text = std::fs::read_to_string(path).map_err(unreadable(path))?;
    Ok(text.trim_end().to_owned())
}

fn guid(path: &Path) -> Result<Guid, SysfsError> {
    let text = text(path)?;
    text.parse().map_err(|_| malformed(path.to_owned(), &text))
}

fn number(path: &Path) -> Result<u32, SysfsError> {
    let text = text(path)?;
    text.parse().map_err(|_| malformed(path.to_owned(), &text))
}

/// A number in any base that C knows, by its prefix.
fn unsigned(path: &Path) -> Result<u64, SysfsError> {
    let text = text(path)?;
    parse_unsigned(&text).ok_or_else(|| malformed(path.to_owned(), &text))
}

fn parse_unsigned(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// The monitor of a device or channel. The file is missing where there is none, and kernels before 5.2 say a number
/// beyond the last one.
fn monitor(directory: &Path) -> Result<Option<MonitorId>, SysfsError> {
    match number(&directory.join("monitor_id")) {
        Ok(id) => Ok(u8::try_from(id).ok().and_then(MonitorId::new)),
        Err(SysfsError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_every_base() {
        for (text, value) in [
            ("0x0000000000400000", Some(0x40_0000)),
            ("0x1000", Some(4096)),
            ("4096", Some(4096)),
            ("010000", Some(4096)),
            ("0", Some(0)),
            ("0x0", Some(0)),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("0x10000000000000000", None),
            ("", None),
            ("0x", None),
            ("0x+1", None),
            ("-1", None),
            ("09", None),
        ] {
            assert_eq!(parse_unsigned(text), value, "{text:?}");
        }
    }

    #[test]
    fn maps_are_known_by_name() {
        assert_eq!(MapUse::parse("txrx_rings"), Some(MapUse::Rings));
        assert_eq!(MapUse::parse("recv:925200"), Some(MapUse::Receive(GpadlId(925_200))));
        assert_eq!(MapUse::parse("send:0"), Some(MapUse::Send(GpadlId(0))));
        assert_eq!(MapUse::parse("recv:"), None);
        assert_eq!(MapUse::parse("recv:-1"), None);
        assert_eq!(MapUse::parse("other"), Some(MapUse::Other("other".into())));
    }

    #[test]
    fn macs() {
        assert_eq!(parse_mac("00:15:5d:01:02:0A\n"), Some([0, 0x15, 0x5d, 1, 2, 10]));
        assert_eq!(parse_mac("00-15-5d-01-02-0a"), Some([0, 0x15, 0x5d, 1, 2, 10]));
        let wrong = ["", "00:15:5d:01:02", "00:15:5d:01:02:0a:0b", "0:15:5d:01:02:0a", "00:15:5d:01:02:0g"];
        for text in wrong.into_iter().chain(["00:15:5d:01:02:+f", "+0:15:5d:01:02:0a", "00:15:5d:01:02:é"]) {
            assert_eq!(parse_mac(text), None, "{text:?}");
        }
    }
}
