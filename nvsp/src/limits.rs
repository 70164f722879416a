//! Numbers that the protocol or its known implementations fix.

/// Interface class of the network adapter, `f8615163-df3e-46c5-913f-f2d2f965ed0e`, as it stands in
/// a VMBus offer (the first three groups little-endian). Source: Linux `include/linux/hyperv.h`
/// (`HV_NIC_GUID`).
pub const NIC_CLASS_GUID: [u8; 16] =
    [0x63, 0x51, 0x61, 0xF8, 0x3E, 0xDF, 0xC5, 0x46, 0x91, 0x3F, 0xF2, 0xD2, 0xF9, 0x65, 0xED, 0x0E];

/// Bytes of a full message up to version 6.
pub const LEGACY_MESSAGE_LEN: usize = 28;
/// Bytes of a full message from version 6.1 on; Linux and DPDK send as many at every version.
pub const MESSAGE_LEN: usize = 40;

/// Section index on the wire that stands for "no section".
pub const NO_SECTION: u32 = 0xFFFF_FFFF;
/// Section size of the send buffer that Windows and OpenVMM answer, in bytes.
pub const DEFAULT_SEND_SECTION_SIZE: u32 = 6144;
/// Send buffer of Linux unless configured, in bytes.
pub const DEFAULT_SEND_BUFFER: usize = 1 << 20;
/// Largest send buffer of Linux, in bytes.
pub const MAX_SEND_BUFFER: usize = 15 << 20;
/// Send buffer under `uio_hv_generic`, in bytes.
pub const UIO_SEND_BUFFER: usize = 16 << 20;

/// Receive buffer of Linux unless configured, in bytes.
pub const DEFAULT_RECEIVE_BUFFER: usize = 16 << 20;
/// Largest receive buffer, in bytes; also the one under `uio_hv_generic`.
pub const MAX_RECEIVE_BUFFER: usize = 31 << 20;
/// Largest receive buffer up to version 2, in bytes.
pub const LEGACY_MAX_RECEIVE_BUFFER: usize = 15 << 20;
/// Sub-allocation size that guests reckon with before the host's answer, in bytes: Windows' at an
/// MTU of 1500.
pub const DEFAULT_RECEIVE_SECTION_SIZE: u32 = 1728;
/// Smallest section (of either buffer) that Linux accepts, in bytes.
pub const MIN_SECTION_SIZE: u32 = 68;

/// Bytes of an Ethernet header: what [`NdisConfig::frame_mtu`](crate::NdisConfig::frame_mtu) has
/// more than the L3 MTU.
pub const ETHERNET_HEADER_LEN: u32 = 14;
/// Smallest frame size in [`NdisConfig`](crate::NdisConfig) that OpenVMM accepts, and the one it
/// uses in place of any that it does not.
pub const DEFAULT_FRAME_MTU: u32 = 1514;
/// Largest frame size in [`NdisConfig`](crate::NdisConfig) that OpenVMM accepts.
pub const MAX_FRAME_MTU: u32 = 9216;
/// Longest chain of memory descriptors that OpenVMM names in [`InitComplete`](crate::InitComplete).
pub const MAX_MDL_CHAIN_LEN: u32 = 34;

/// Entries of the send indirection table.
pub const SEND_TABLE_LEN: usize = 16;
/// Page-buffer entries of one GPA-direct packet from Linux (`MAX_PAGE_BUFFER_COUNT`).
pub const MAX_PAGE_BUFFERS: usize = 32;
/// Most ranges of one transfer-page packet to a guest of NDIS 6 or later.
pub const MAX_TRANSFER_RANGES: usize = 375;
/// Most ranges of one transfer-page packet to a guest before NDIS 6.
pub const LEGACY_MAX_TRANSFER_RANGES: usize = 64;
/// Most ranges of one transfer-page packet with receive segment coalescing.
pub const MAX_TRANSFER_RANGES_RSC: usize = 562;
