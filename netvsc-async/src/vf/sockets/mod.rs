//! Virtual functions by the kernel's network interfaces: [`SocketVf`].
//!
//! The function stays with its driver, and its frames go through sockets that share rings with the kernel. Needs
//! `CAP_NET_RAW` and `CAP_NET_ADMIN`.
//!
//! | module | is |
//! |---|---|
//! | [`packet`] | AF_PACKET: every driver |
//! | [`xdp`] | AF_XDP: drivers that have it, faster |
//! | [`netlink`] | which interfaces there are, what happens to them, their settings |
//! | `watch` | which of them is the virtual function |
//! | `open` | opening it |
//! | `settings` | its settings, changed in order and elsewhere; putting them back |
//! | `queue` | waiting for its queues |
//! | `syscalls` | the one module of this crate with `unsafe` code |
//!
//! # Which interface it is
//! One that has the adapter's MAC address, does not serve another interface, and is not the adapter's own (which is VMBus').
//! Of several, the one whose PCI slot has the number that the host says; all ports of that function count. Virtual interfaces
//! (veth) have no slot; they are taken if they were [given a number](SocketVf::serial_of), or if
//! [that is wanted](SocketVf::virtual_interfaces).
//!
//! # Keeping others away from it
//! The interface has the adapter's MAC address. Whoever configures network interfaces must leave it alone: an address on it
//! would make the kernel answer beside the application, and a bond or bridge would take its frames. For systemd-networkd, in
//! `/etc/systemd/network/01-netvsc-vf.network`:
//!
//! ```text
//! [Match]
//! Driver=mlx4_en mlx5_core mana
//!
//! [Link]
//! Unmanaged=yes
//! ```
//!
//! For NetworkManager, by udev in `/etc/udev/rules.d/68-netvsc-vf.rules`:
//!
//! ```text
//! SUBSYSTEM=="net", ACTION=="add|change|move", DRIVERS=="mlx4_core|mlx5_core|mana", ENV{NM_UNMANAGED}="1"
//! ```
//!
//! Azure's images have such rules for functions that `hv_netvsc` is in charge of (`AZURE_UNMANAGED_SRIOV`); they match only
//! as long as that driver has the adapter. cloud-init would write a configuration for the interface at boot: in
//! `/etc/cloud/cloud.cfg.d/`, `network: {config: disabled}`, once the machine's other interfaces are configured.
//!
//! When the interface is opened it is taken up, and the kernel is told not to speak IPv6 on it (`disable_ipv6`) and not to forward
//! from it (`net.ipv4.conf.….forwarding`); all multicasts are received. It stays up afterwards; its MTU is put back.

mod error;
pub mod netlink;
mod open;
pub mod packet;
mod queue;
#[cfg(test)]
mod samples;
mod settings;
mod state;
#[expect(unsafe_code, reason = "system calls that no crate has in a safe form")]
mod syscalls;
mod watch;
pub mod xdp;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::{MtuTooLarge, SocketError};
pub use packet::PacketSettings;
pub use xdp::XdpSettings;

use super::backend::{Adapter, VfBackend, VfWatch};

/// How an interface's frames are got at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Method {
    /// By AF_XDP; by AF_PACKET where that cannot be.
    #[default]
    Best,
    /// By AF_XDP.
    AfXdp,
    /// By AF_PACKET.
    AfPacket,
}

/// The backend for virtual functions that are network interfaces.
#[derive(Debug, Clone)]
pub struct SocketVf {
    config: Arc<Config>,
}

#[derive(Debug, Clone)]
struct Config {
    sysfs: PathBuf,
    synthetic: Option<String>,
    virtual_interfaces: bool,
    serials: Vec<(String, u32)>,
    method: Method,
    packet: PacketSettings,
    xdp: XdpSettings,
}

impl Default for SocketVf {
    fn default() -> Self {
        Self::new()
    }
}

impl SocketVf {
    /// Functions of this machine, in the network namespace of the runtime's threads: whoever wants another enters it before the
    /// runtime is made, so that all of them are there. A function that is moved to another namespace is gone.
    #[must_use]
    pub fn new() -> Self {
        let config = Config {
            sysfs: "/sys".into(),
            synthetic: None,
            virtual_interfaces: false,
            serials: Vec::new(),
            method: Method::default(),
            packet: PacketSettings::default(),
            xdp: XdpSettings::default(),
        };
        Self { config: Arc::new(config) }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Where sysfs is mounted, in which PCI slots have their numbers. Default: `/sys`.
    #[must_use]
    pub fn sysfs(self, path: impl Into<PathBuf>) -> Self {
        self.with(|config| config.sysfs = path.into())
    }

    /// The adapter's own interface, if `hv_netvsc` is in charge of it: the function may serve that one. Default: none.
    #[must_use]
    pub fn synthetic(self, name: impl Into<String>) -> Self {
        self.with(|config| config.synthetic = Some(name.into()))
    }

    /// Whether interfaces without hardware count (veth). Default: no, as bridges, VLANs and the like repeat MAC addresses.
    #[must_use]
    pub fn virtual_interfaces(self, wanted: bool) -> Self {
        self.with(|config| config.virtual_interfaces = wanted)
    }

    /// The serial number of the interface of this name, whether there is hardware behind it or not.
    #[must_use]
    pub fn serial_of(self, name: impl Into<String>, serial: u32) -> Self {
        self.with(|config| {
            let name = name.into();
            config.serials.retain(|(known, _)| *known != name);
            config.serials.push((name, serial));
        })
    }

    /// How frames are got at. Default: [`Method::Best`].
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        self.with(|config| config.method = method)
    }

    /// Sizes of AF_XDP's rings.
    #[must_use]
    pub fn xdp(self, settings: XdpSettings) -> Self {
        self.with(|config| config.xdp = settings)
    }

    /// Sizes of AF_PACKET's rings.
    #[must_use]
    pub fn packet(self, settings: PacketSettings) -> Self {
        self.with(|config| config.packet = settings)
    }
}

impl VfBackend for SocketVf {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        Ok(Box::new(watch::Watch::open(Arc::clone(&self.config), adapter.mac)?))
    }
}
