//! How a switch and its ports are set up.

use core::fmt;
use core::time::Duration;

use rndis::value::{MacAddress, PacketFilter};

use super::ethernet::ETHERNET_HEADER_BYTES;

/// Names one port of one switch. The id of a port that was removed never names another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortId {
    pub(super) index: u16,
    pub(super) generation: u16,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Settings of a [`Switch`](super::Switch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    pub(super) ageing: Duration,
    pub(super) table_entries: usize,
    pub(super) min_frame_bytes: usize,
    pub(super) max_frame_bytes: usize,
    pub(super) max_ports: usize,
    pub(super) cable: bool,
}

impl SwitchConfig {
    /// How long a learned address is believed after its last frame. Default 300 s, as IEEE 802.1D recommends.
    #[must_use]
    pub fn ageing(mut self, ageing: Duration) -> Self {
        self.ageing = ageing;
        self
    }

    /// How many addresses are learned, rounded up to 8 times a power of two. Default 1024; each takes 40 bytes or less.
    #[must_use]
    pub fn table_entries(mut self, entries: usize) -> Self {
        self.table_entries = entries;
        self
    }

    /// Least bytes of a frame, without frame check sequence. Default and least 14, the Ethernet header: frames between
    /// virtual machines are not padded to 60 bytes.
    #[must_use]
    pub fn min_frame_bytes(mut self, bytes: usize) -> Self {
        self.min_frame_bytes = bytes.max(ETHERNET_HEADER_BYTES);
        self
    }

    /// Most bytes of a frame, without frame check sequence. Default 9018: an MTU of 9000, the Ethernet header and one
    /// VLAN tag. A second tag is not counted; of a large frame, each that it is cut into counts.
    #[must_use]
    pub fn max_frame_bytes(mut self, bytes: usize) -> Self {
        self.max_frame_bytes = bytes;
        self
    }

    /// No switch but a cable: every frame goes to all other ports, whatever its addresses. A NIC's packet filter holds.
    /// For two ports that measure or check each other, whose frames come back with the addresses that they had. Default
    /// false.
    #[must_use]
    pub fn cable(mut self, cable: bool) -> Self {
        self.cable = cable;
        self
    }

    /// Most ports at a time. Default 256, at most 65 536.
    #[must_use]
    pub fn max_ports(mut self, ports: usize) -> Self {
        self.max_ports = ports.min(1 << 16);
        self
    }
}

impl Default for SwitchConfig {
    fn default() -> Self {
        Self {
            ageing: Duration::from_secs(300),
            table_entries: 1024,
            min_frame_bytes: ETHERNET_HEADER_BYTES,
            max_frame_bytes: 9018,
            max_ports: 256,
            cable: false,
        }
    }
}

/// How a port takes part in the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    pub(super) role: Role,
    pub(super) filter: PacketFilter,
    pub(super) learning: bool,
    pub(super) spoofing: bool,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A station with one address of its own.
    Nic {
        /// Its address.
        mac: MacAddress,
    },
    /// A network: any number of stations.
    Trunk,
}

impl PortOptions {
    /// A NIC: owns `mac`, sends from it only, receives what its filter selects. The filter is 0 until it is set, as
    /// that of a guest that has not opened its adapter.
    pub fn nic(mac: MacAddress) -> Self {
        Self { role: Role::Nic { mac }, filter: PacketFilter::CLOSED, learning: true, spoofing: false }
    }

    /// A network: its addresses are learned, and it gets every frame that is not known to be elsewhere.
    pub fn trunk() -> Self {
        Self { role: Role::Trunk, filter: PacketFilter::PROMISCUOUS, learning: true, spoofing: false }
    }

    /// The packet filter of a NIC port; a trunk has none. Default [`PacketFilter::CLOSED`].
    #[must_use]
    pub fn filter(mut self, filter: PacketFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Whether addresses are learned at this port. Default true.
    #[must_use]
    pub fn learning(mut self, learning: bool) -> Self {
        self.learning = learning;
        self
    }

    /// Whether a NIC port may send from other addresses than its own, and any port from a NIC port's address.
    /// Default false, as on Hyper-V.
    #[must_use]
    pub fn spoofing(mut self, spoofing: bool) -> Self {
        self.spoofing = spoofing;
        self
    }
}

/// Why a port was not added or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddPortError {
    /// The switch is full.
    TooManyPorts {
        /// Most ports at a time.
        limit: usize,
    },
    /// A group address or all zero.
    NotAStationAddress {
        /// The address.
        mac: MacAddress,
    },
    /// Another port owns the address.
    AddressInUse {
        /// The address.
        mac: MacAddress,
        /// Its port.
        owner: PortId,
    },
    /// No NIC port has this id.
    NotANicPort,
}

impl fmt::Display for AddPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyPorts { limit } => {
                write!(f, "switch has {limit} ports already, the most it may have")
            }
            Self::NotAStationAddress { mac } => write!(f, "port address {mac} is not a station's"),
            Self::AddressInUse { mac, owner } => {
                write!(f, "port address {mac} belongs to port {owner}")
            }
            Self::NotANicPort => f.write_str("no nic port has this id"),
        }
    }
}

impl core::error::Error for AddPortError {}
