//! Numbers of the values that can be queried and set.
//!
//! The types of the values are in [`value`](crate::value), [`rss`](crate::rss) and [`offload`](crate::offload).
//!
//! Source: [MS-RNDIS] 2.2.1 and the NDIS OID reference; Linux `include/linux/rndis.h`; OpenVMM
//! `netvsp/src/rndisprot.rs`.

open_enum! {
    /// An object identifier: which value a query or set is about.
    pub struct Oid(u32) {
        /// OIDs the host knows; [`SupportedList`](crate::value::SupportedList).
        SUPPORTED_LIST = 0x0001_0101,
        /// Hardware status, `u32`, 0 is ready.
        HARDWARE_STATUS = 0x0001_0102,
        /// Medium supported, `u32`, 0 is 802.3.
        MEDIA_SUPPORTED = 0x0001_0103,
        /// Medium in use, `u32`, 0 is 802.3.
        MEDIA_IN_USE = 0x0001_0104,
        /// Greatest lookahead, `u32` bytes.
        MAXIMUM_LOOKAHEAD = 0x0001_0105,
        /// Greatest frame without its Ethernet header (the MTU), `u32` bytes.
        MAXIMUM_FRAME_SIZE = 0x0001_0106,
        /// Link speed; [`LinkSpeed`](crate::value::LinkSpeed).
        LINK_SPEED = 0x0001_0107,
        /// Room for transmission, `u32` bytes.
        TRANSMIT_BUFFER_SPACE = 0x0001_0108,
        /// Room for reception, `u32` bytes.
        RECEIVE_BUFFER_SPACE = 0x0001_0109,
        /// Unit of the transmit buffer, `u32` bytes.
        TRANSMIT_BLOCK_SIZE = 0x0001_010A,
        /// Unit of the receive buffer, `u32` bytes.
        RECEIVE_BLOCK_SIZE = 0x0001_010B,
        /// Vendor, `u32`; Microsoft's is 0x0000155D.
        VENDOR_ID = 0x0001_010C,
        /// Description, ASCII.
        VENDOR_DESCRIPTION = 0x0001_010D,
        /// Which frames the guest receives; [`PacketFilter`](crate::value::PacketFilter).
        PACKET_FILTER = 0x0001_010E,
        /// Current lookahead, `u32` bytes.
        CURRENT_LOOKAHEAD = 0x0001_010F,
        /// Driver version, `u16` 0x0100.
        DRIVER_VERSION = 0x0001_0110,
        /// Greatest frame with its Ethernet header, `u32` bytes.
        MAXIMUM_TOTAL_SIZE = 0x0001_0111,
        /// Options of the MAC, `u32` bits.
        MAC_OPTIONS = 0x0001_0113,
        /// Link up or down; [`MediaConnectStatus`](crate::value::MediaConnectStatus).
        MEDIA_CONNECT_STATUS = 0x0001_0114,
        /// Most packets in one send, `u32`.
        MAXIMUM_SEND_PACKETS = 0x0001_0115,
        /// Version of the vendor's driver, `u32`.
        VENDOR_DRIVER_VERSION = 0x0001_0116,
        /// Network layer addresses, set only.
        NETWORK_LAYER_ADDRESSES = 0x0001_0118,
        /// What the host can do for receive-side scaling; [`RssCapabilities`](crate::rss::RssCapabilities).
        RECEIVE_SCALE_CAPABILITIES = 0x0001_0203,
        /// Receive-side scaling; [`RssParameters`](crate::rss::RssParameters).
        RECEIVE_SCALE_PARAMETERS = 0x0001_0204,
        /// Greatest link speed; [`MaxLinkSpeed`](crate::value::MaxLinkSpeed).
        MAX_LINK_SPEED = 0x0001_0206,
        /// Link state; [`LinkState`](crate::value::LinkState).
        LINK_STATE = 0x0001_0207,
        /// Link parameters, set only.
        LINK_PARAMETERS = 0x0001_0208,
        /// Name of the machine, UTF-16, set only.
        MACHINE_NAME = 0x0001_021A,
        /// A keyword with its value; [`ConfigParameter`](crate::value::ConfigParameter), set only.
        CONFIG_PARAMETER = 0x0001_021B,
        /// VLAN of the adapter.
        VLAN_ID = 0x0001_021C,
        /// Name shown to people; [`FriendlyName`](crate::value::FriendlyName).
        FRIENDLY_NAME = 0x0002_0216,
        /// Bytes received, a counter of 4 or 8 bytes.
        BYTES_RECEIVED = 0x0002_0219,
        /// Bytes sent, a counter of 4 or 8 bytes.
        BYTES_SENT = 0x0002_021A,
        /// Address the adapter was made with; [`MacAddress`](crate::value::MacAddress).
        PERMANENT_ADDRESS = 0x0101_0101,
        /// Address in use; [`MacAddress`](crate::value::MacAddress).
        CURRENT_ADDRESS = 0x0101_0102,
        /// Multicast addresses to receive; [`MulticastList`](crate::value::MulticastList).
        MULTICAST_LIST = 0x0101_0103,
        /// Most addresses in the multicast list, `u32`.
        MAXIMUM_LIST_SIZE = 0x0101_0104,
        /// Encapsulation of offloaded frames; [`OffloadEncapsulation`](crate::offload::OffloadEncapsulation).
        OFFLOAD_ENCAPSULATION = 0x0101_010A,
        /// Offloads in force; [`Offload`](crate::offload::Offload).
        TCP_OFFLOAD_CURRENT_CONFIG = 0xFC01_020B,
        /// Offloads wanted; [`OffloadParameters`](crate::offload::OffloadParameters), set only.
        TCP_OFFLOAD_PARAMETERS = 0xFC01_020C,
        /// Offloads the host could do; [`Offload`](crate::offload::Offload).
        TCP_OFFLOAD_HARDWARE_CAPABILITIES = 0xFC01_020D,
        /// Connection offloads in force; unused.
        TCP_CONNECTION_OFFLOAD_CURRENT_CONFIG = 0xFC01_020E,
        /// Connection offloads the host could do; unused.
        TCP_CONNECTION_OFFLOAD_HARDWARE_CAPABILITIES = 0xFC01_020F,
    }
}
