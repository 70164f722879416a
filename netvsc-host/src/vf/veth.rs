//! VFs as veth pairs: one end is the guest's, an interface of the kernel's with the NIC's MAC address, the other is the
//! host's, which opens it as a [port](PacketPort).
//!
//! Both are made in the network namespace of the thread that plugs the VF in; the guest's end may be moved to another. They are
//! made and removed by `ip` (iproute2). The kernel has no say on either: no IPv6, no ARP, no addresses. Both are up before the
//! guest sees its own; one that is moved to another namespace has to be set up there. There is no PCI slot, so the guest cannot
//! read a serial number: it finds the interface by its MAC address. [`Scene::OtherSerial`](super::Scene::OtherSerial) means nothing here.
//!
//! # Taking one away
//! Only the guest's end goes: it is moved to a [namespace](super::limbo) where nobody is, and its driver sees an interface vanish.
//! The host's end lives on, as the host's side of a real device does, until it has read what the guest's end had sent. Only
//! then is the pair deleted. (Were it deleted at once, frames on their way between the ends would die in the kernel, although they
//! had left the guest.) Nothing is held meanwhile: by surprise the host learns of it last, and what it sends into an end that
//! is not there is lost.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use super::VfDevices;
use super::limbo::{Limbo, within};
use crate::host::{Host, NicId};
use crate::port::{PacketConfig, PacketHandle, PacketPort, PacketPortError};

/// A pair is up within so long, or something is wrong with it.
const CARRIER: Duration = Duration::from_secs(30);
/// So long the host's end of a VF that was taken away is left to read what was sent to it.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two looks at either.
const LOOK: Duration = Duration::from_millis(2);
/// Between two looks whether the guest's end is there.
const GLANCE: Duration = Duration::from_micros(100);

/// Settings of [`VethVfs`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethConfig {
    guest: String,
    host: String,
    mac: [u8; 6],
    mtu: u16,
    netns: Option<String>,
}

impl VethConfig {
    /// The guest's end has this name and MAC address, which is to be the NIC's; the host's end is called as the guest's, with
    /// an `h` behind it. At most 14 bytes.
    #[must_use]
    pub fn new(guest: impl Into<String>, mac: [u8; 6]) -> Self {
        let guest = guest.into();
        Self { host: format!("{guest}h"), guest, mac, mtu: 1500, netns: None }
    }

    /// The MTU of both. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// The network namespace that the guest's end is moved to, as `ip` takes it: a name or a process. IPv6 should be off by
    /// default there. Default: none, it stays where it was made.
    #[must_use]
    pub fn netns(mut self, netns: impl Into<String>) -> Self {
        self.netns = Some(netns.into());
        self
    }
}

/// Makes veth pairs, one at a time; the last one is removed with this value.
#[derive(Debug)]
pub struct VethVfs {
    config: VethConfig,
    port: Option<PacketHandle>,
    /// Made when the first VF is taken away.
    limbo: Option<Limbo>,
}

/// Why there is no veth pair, or it is not gone.
#[derive(Debug)]
#[non_exhaustive]
pub enum VethError {
    /// `ip` cannot be run.
    NoTool {
        /// Why.
        source: io::Error,
    },
    /// `ip` failed.
    Tool {
        /// What it was to do.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// IPv6 cannot be turned off.
    Ipv6 {
        /// Why.
        source: io::Error,
    },
    /// The host's end cannot be opened.
    Port {
        /// Why.
        source: PacketPortError,
    },
    /// The pair does not come up.
    NoCarrier,
    /// There is no namespace to take the guest's end away to, or none to take it from.
    Namespace {
        /// Why.
        source: io::Error,
    },
    /// The NIC has a VF, or there is no such NIC.
    Taken,
}

impl fmt::Display for VethError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTool { .. } => f.write_str("veth: cannot run ip, which is part of iproute2"),
            Self::Tool { arguments, said } => write!(f, "veth: ip {arguments}: {said}"),
            Self::Ipv6 { .. } => f.write_str("veth: cannot turn ipv6 off"),
            Self::Port { .. } => f.write_str("veth: cannot open the host's end"),
            Self::NoCarrier => f.write_str("veth: the pair does not come up"),
            Self::Namespace { .. } => f.write_str("veth: cannot enter or make a network namespace"),
            Self::Taken => f.write_str("veth: there is no such nic, or it has a vf"),
        }
    }
}

impl std::error::Error for VethError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoTool { source } | Self::Ipv6 { source } | Self::Namespace { source } => Some(source),
            Self::Port { source } => Some(source),
            Self::Tool { .. } | Self::NoCarrier | Self::Taken => None,
        }
    }
}

impl VethVfs {
    /// Nothing is made yet.
    #[must_use]
    pub fn new(config: VethConfig) -> Self {
        Self { config, port: None, limbo: None }
    }

    /// The counters of the host's end of the last pair.
    #[must_use]
    pub fn port(&self) -> Option<&PacketHandle> {
        self.port.as_ref()
    }

    /// Makes the pair.
    fn make(&self) -> Result<(), VethError> {
        let VethConfig { guest, host, mtu, .. } = &self.config;
        ip(&format!("link add {host} mtu {mtu} type veth peer name {guest} mtu {mtu}")).map(drop)
    }

    /// Sets the pair up and opens the host's end. The guest does not see its own yet: it has another address.
    fn open(&self) -> Result<PacketPort, VethError> {
        let VethConfig { guest, host, mtu, .. } = &self.config;
        for end in [host, guest] {
            // A kernel that has no IPv6 has no such file.
            match fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(VethError::Ipv6 { source: error }),
                _ => {}
            }
        }
        // Both, now: an interface whose carrier comes later drops what is sent by it until the kernel has noticed, and says that
        // it was sent.
        for end in [guest, host] {
            ip(&format!("link set {end} arp off up"))?;
        }
        for end in [guest, host] {
            let since = Instant::now();
            while !ip(&format!("-o link show {end}"))?.contains("state UP") {
                if since.elapsed() > CARRIER {
                    return Err(VethError::NoCarrier);
                }
                std::thread::sleep(LOOK);
            }
        }
        PacketPort::open(PacketConfig::new(host).mtu(*mtu)).map_err(|source| VethError::Port { source })
    }

    /// Shows the guest its end: what it sends from now on is heard.
    fn show(&self) -> Result<(), VethError> {
        let VethConfig { guest, mac: [a, b, c, d, e, f], netns, .. } = &self.config;
        ip(&format!("link set {guest} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))?;
        match netns {
            Some(netns) => ip(&format!("link set {guest} netns {netns}")).map(drop),
            None => Ok(()),
        }
    }

    /// Takes the guest's end away; calls `gone` once it is, be it before all is done about it.
    fn take_away(&mut self, gone: impl FnOnce() + Send) -> Result<(), VethError> {
        let in_namespace = |source| VethError::Namespace { source };
        let limbo = match &self.limbo {
            Some(limbo) => limbo,
            None => self.limbo.insert(Limbo::new().map_err(in_namespace)?),
        };
        let VethConfig { guest, netns, .. } = &self.config;
        let arguments = format!("link set {guest} netns {}", limbo.path());
        let away = move || {
            let mut moving = start_ip(&arguments)?;
            // The kernel takes its time for the rest, in which the host would go on sending.
            while counters_of(guest).is_some() && matches!(moving.try_wait(), Ok(None)) {
                std::thread::sleep(GLANCE);
            }
            gone();
            finish_ip(moving, arguments).map(drop)
        };
        match netns {
            Some(netns) => within(netns, away).map_err(in_namespace)?,
            None => away(),
        }
    }

    /// Frames that have come to the host's end.
    fn come(&self) -> Option<u64> {
        counters_of(&self.config.host)?.split_whitespace().nth(RECEIVED_PACKETS)?.parse().ok()
    }

    /// Waits until the host has read what came, if somebody drives it.
    fn drain(&self) {
        let Some((port, come)) = self.port.as_ref().zip(self.come()) else { return };
        let since = Instant::now();
        loop {
            let stats = port.stats();
            let read = stats.read + stats.read_too_long + stats.read_full;
            if read >= come {
                return;
            }
            if since.elapsed() > DRAIN {
                tracing::warn!(frames = come - read, "sent by a virtual function, and not read by the host");
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Removes the pair: one end takes the other with it.
    fn remove(&mut self) -> Result<(), VethError> {
        self.port = None;
        ip(&format!("link delete {}", self.config.host)).map(drop)
    }
}

impl VfDevices for VethVfs {
    type Error = VethError;

    /// The serial number is for others to tell: the interface has none.
    fn plug(&mut self, host: &Host, nic: NicId, _serial: u32) -> Result<(), VethError> {
        // What is called so already is somebody else's, or the VF that is plugged in: it stays.
        self.make()?;
        let opened = self.open();
        let port = opened.inspect_err(|_| {
            // As far as it went; why it went no further is what counts.
            let _ = self.remove();
        })?;
        let handle = port.handle();
        if !host.plug_vf_port(nic, port) {
            self.remove()?;
            return Err(VethError::Taken);
        }
        self.port = Some(handle);
        let shown = self.show();
        shown.inspect_err(|_| {
            let _ = self.unplug(host, nic, false);
        })
    }

    fn unplug(&mut self, host: &Host, nic: NicId, surprise: bool) -> Result<(), VethError> {
        let away = if surprise {
            // Whoever is to be surprised must not hear of it before.
            let mut host_knows = false;
            let away = self.take_away(|| {
                host.remove_vf_by_surprise(nic);
                host_knows = true;
            });
            if !host_knows {
                host.remove_vf_by_surprise(nic);
            }
            away
        } else {
            host.unplug_vf(nic);
            self.take_away(|| ())
        };
        self.drain();
        // It goes also if it could not be taken away first.
        self.remove()?;
        away
    }
}

impl Drop for VethVfs {
    fn drop(&mut self) {
        if self.port.is_some() {
            // It may be gone, with its namespace.
            let _ = self.remove();
        }
    }
}

/// Its place among the counters of an interface in `/proc/net/dev` (`proc(5)`).
const RECEIVED_PACKETS: usize = 1;

/// The counters of an interface of this thread's namespace; `None` if there is none of that name.
fn counters_of(interface: &str) -> Option<String> {
    let all = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let of = |line: &str| line.trim_start().strip_prefix(interface)?.strip_prefix(':').map(str::to_owned);
    all.lines().find_map(of)
}

/// `ip(8)`, its arguments separated by spaces.
fn ip(arguments: &str) -> Result<String, VethError> {
    finish_ip(start_ip(arguments)?, arguments.into())
}

fn start_ip(arguments: &str) -> Result<Child, VethError> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|source| VethError::NoTool { source })
}

fn finish_ip(running: Child, arguments: String) -> Result<String, VethError> {
    let output = running.wait_with_output().map_err(|source| VethError::NoTool { source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(VethError::Tool { arguments, said })
}
