//! What became of the wishes: the effective values of a device that is up.

use crate::offload::{OffloadSettings, Offloads};
use crate::queue::AggregateLimits;
use crate::rss::RssSettings;
use crate::steering::BUCKETS;
use alloc::string::String;
use nvsp::Version;
use rndis::offload::Offload;
use rndis::rss::RssCapabilities;

pub use rndis::value::{LinkSpeed, MacAddress, PacketFilter};

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
    /// How many receive sections may wait for receivers at a time, each queue having an equal share, if a limit is needed: where
    /// the buffer is the backend's and larger than was wished, as on `uio_hv_generic`. What is beyond is dropped as by a host
    /// that has no free section.
    pub receive_limit: Option<u32>,
    /// How many receive sections may be [held](crate::queue::held) at a time, each queue having an equal share: what became of
    /// [`Config::rx_watermark`](crate::Config::rx_watermark).
    pub rx_watermark: u32,
    /// The send buffer; `None`: every message goes by GPA-direct.
    pub send: Option<Sections>,
    /// Whether GPA-direct sends are possible.
    pub direct: bool,
    /// Queues there are; follows [`Event::QueueGone`](crate::Event::QueueGone).
    pub queues: u16,
    /// How the host spreads received frames over them; `None` with one queue. Follows
    /// [`Nic::set_rss`](crate::Nic::set_rss) and queues that are gone.
    pub scaling: Option<RssSettings>,
    /// Which queue each of 16 hash buckets of sent frames belongs to, for [`TxSteering`](crate::TxSteering). Follows
    /// [`Event::SendTable`](crate::Event::SendTable).
    pub send_table: [u16; BUCKETS],
    /// Whether the link is up; follows the link events.
    pub link: LinkState,
    /// Speed of the link, if the host says it; follows the link events.
    pub link_speed: Option<LinkSpeed>,
    /// The virtual function, if there is one; follows the events.
    pub virtual_function: Option<VirtualFunction>,
    /// Which frames the host delivers; follows [`Nic::set_packet_filter`](crate::Nic::set_packet_filter).
    pub packet_filter: PacketFilter,
    /// How messages may be put together in one section.
    pub limits: AggregateLimits,
    /// What the host could offload, as it said.
    pub offload: Offload,
    /// What it was asked for. Follows [`Nic::set_offloads`](crate::Nic::set_offloads).
    pub offload_settings: OffloadSettings,
    /// What of it is granted and in force. Follows [`Nic::set_offloads`](crate::Nic::set_offloads) and
    /// [`Event::OffloadChanged`](crate::Event::OffloadChanged).
    pub offloads: Offloads,
    /// What the host offers of receive side scaling; `None` below NVSP 5, or if it did not say.
    pub rss: Option<RssCapabilities>,
}
