//! What the user wishes.

use rndis::ppi::{IpVersion, Transport};

/// Which checksums, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksums {
    /// IPv4 headers.
    pub ipv4_header: bool,
    /// TCP over IPv4.
    pub tcp_v4: bool,
    /// UDP over IPv4.
    pub udp_v4: bool,
    /// TCP over IPv6.
    pub tcp_v6: bool,
    /// UDP over IPv6.
    pub udp_v6: bool,
}

impl Checksums {
    /// None of them.
    pub const NONE: Self = Self { ipv4_header: false, tcp_v4: false, udp_v4: false, tcp_v6: false, udp_v6: false };
    /// All of them.
    pub const ALL: Self = Self { ipv4_header: true, tcp_v4: true, udp_v4: true, tcp_v6: true, udp_v6: true };

    /// Those of TCP and UDP, without IPv4 headers.
    pub const TRANSPORT: Self = Self { ipv4_header: false, ..Self::ALL };

    /// Whether that of `transport` over `ip` is among them.
    #[must_use]
    #[inline]
    pub const fn has(&self, ip: IpVersion, transport: Transport) -> bool {
        match (ip, transport) {
            (IpVersion::V4, Transport::Tcp) => self.tcp_v4,
            (IpVersion::V4, Transport::Udp) => self.udp_v4,
            (IpVersion::V6, Transport::Tcp) => self.tcp_v6,
            (IpVersion::V6, Transport::Udp) => self.udp_v6,
        }
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            ipv4_header: self.ipv4_header && other.ipv4_header,
            tcp_v4: self.tcp_v4 && other.tcp_v4,
            udp_v4: self.udp_v4 && other.udp_v4,
            tcp_v6: self.tcp_v6 && other.tcp_v6,
            udp_v6: self.udp_v6 && other.udp_v6,
        }
    }
}

/// Which offloads the host is asked for, per protocol. What it lacks is computed in software.
///
/// ```
/// use netvsc::offload::OffloadSettings;
///
/// let mut settings = OffloadSettings::forwarding();
/// assert!(settings.lso_v4 && !settings.rsc_v4);
/// settings.tx_checksum.udp_v6 = false;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OffloadSettings {
    /// Checksums that the host shall compute in frames that are sent, if [`TxMeta::checksum`](crate::TxMeta::checksum) asks
    /// for them. Those of IPv4 headers are left out by the presets: computing one costs as much as asking for it, and Linux
    /// does the same.
    pub tx_checksum: Checksums,
    /// Checksums that the host shall verify in received frames, and whose verdicts
    /// [`RxMeta::checksum`](crate::RxMeta::checksum) gives.
    pub rx_checksum: Checksums,
    /// Large send over IPv4: the host cuts TCP segments that [`TxMeta::segmentation`](crate::TxMeta::segmentation) marks.
    pub lso_v4: bool,
    /// As [`lso_v4`](Self::lso_v4), over IPv6.
    pub lso_v6: bool,
    /// Receive segment coalescing over IPv4: the host merges TCP segments into frames longer than the MTU (NVSP 6.1).
    pub rsc_v4: bool,
    /// As [`rsc_v4`](Self::rsc_v4), over IPv6.
    pub rsc_v6: bool,
}

impl OffloadSettings {
    /// For what passes frames on: checksums and large send, no coalescing. Merged frames are longer than any MTU, their
    /// checksums are stale, and cutting them again costs more than merging saved.
    #[must_use]
    pub const fn forwarding() -> Self {
        Self {
            tx_checksum: Checksums::TRANSPORT,
            rx_checksum: Checksums::ALL,
            lso_v4: true,
            lso_v6: true,
            rsc_v4: false,
            rsc_v6: false,
        }
    }

    /// For what terminates connections: as [`forwarding`](Self::forwarding), with coalescing.
    #[must_use]
    pub const fn endpoint() -> Self {
        Self { rsc_v4: true, rsc_v6: true, ..Self::forwarding() }
    }

    /// Nothing: everything is computed here.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            tx_checksum: Checksums::NONE,
            rx_checksum: Checksums::NONE,
            lso_v4: false,
            lso_v6: false,
            rsc_v4: false,
            rsc_v6: false,
        }
    }
}

impl Default for OffloadSettings {
    /// [`forwarding`](Self::forwarding).
    fn default() -> Self {
        Self::forwarding()
    }
}
