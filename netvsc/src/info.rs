//! What became of the wishes: the effective values of a device that is up.

use alloc::string::String;
use core::fmt;

use nvsp::Version;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A buffer divided into sections: what was wished and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sections {
    /// Sections wished for.
    pub requested: u32,
    /// Sections there are.
    pub count: u32,
    /// Bytes of each, which the host chose.
    pub section_bytes: u32,
}

/// Whether the link is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LinkState {
    /// Frames go nowhere; also as long as the host has not said anything.
    #[default]
    Down,
    /// Frames may flow.
    Up,
}

impl LinkState {
    /// Whether it is up.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Speed of the link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkSpeed {
    /// In units of 100 bit/s, as the host counts.
    pub units_100bps: u32,
}

impl LinkSpeed {
    /// In bit/s.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        // Cannot wrap: 32 bits times 100.
        self.units_100bps as u64 * 100
    }
}

impl fmt::Debug for LinkSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.bits_per_second())
    }
}

/// A virtual function that the host associated with this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtualFunction {
    /// Its serial number, by which the PCI function is found; a removal repeats it.
    pub serial_number: u32,
}

/// Everything that bring-up found out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Negotiated version.
    pub nvsp_version: Version,
    /// Permanent address.
    pub mac: MacAddress,
    /// L3 MTU: the smaller of the configured and the host's.
    pub mtu: u32,
    /// Name that the host's administrator gave the adapter, if it is not the default text.
    pub friendly_name: Option<String>,
    /// The receive buffer.
    pub receive: Sections,
    /// The send buffer; `None`: every message goes by GPA-direct.
    pub send: Option<Sections>,
    /// Whether GPA-direct sends are possible.
    pub direct: bool,
    /// Queues there are.
    pub queues: u16,
    /// Whether the link is up; follows the link events.
    pub link: LinkState,
    /// Speed of the link, if the host says it; follows the link events.
    pub link_speed: Option<LinkSpeed>,
    /// The virtual function, if there is one; follows the events.
    pub virtual_function: Option<VirtualFunction>,
}
