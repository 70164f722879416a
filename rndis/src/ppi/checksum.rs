//! Checksum element: a request when sending, a result when receiving. Both have the same type number.

use crate::error::EmitError;

bit_set! {
    /// What the host found out about the checksums of a received frame.
    pub struct RxChecksum(u32) {
        /// The TCP checksum is wrong.
        TCP_FAILED = 0x001,
        /// The UDP checksum is wrong.
        UDP_FAILED = 0x002,
        /// The IPv4 header checksum is wrong.
        IP_FAILED = 0x004,
        /// The TCP checksum is right.
        TCP_SUCCEEDED = 0x008,
        /// The UDP checksum is right.
        UDP_SUCCEEDED = 0x010,
        /// The IPv4 header checksum is right.
        IP_SUCCEEDED = 0x020,
        /// The frame came from this host.
        LOOPBACK = 0x040,
        /// The host verified the segment, but the TCP checksum in the frame is not that of the merged segment.
        TCP_VALUE_INVALID = 0x080,
        /// The host verified the header, but the checksum in the frame has to be computed anew.
        IP_VALUE_INVALID = 0x100,
    }
}

/// Version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Transport protocol whose checksum the host shall compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which checksums the host shall compute in a frame to send.
///
/// The checksum field of the frame holds the sum of the pseudo header, not complemented, length included. (DPDK does
/// not prepare it, so a host must not rely on it.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TxChecksum(pub u32);

impl TxChecksum {
    const IPV4: u32 = 1 << 0;
    const IPV6: u32 = 1 << 1;
    const TCP: u32 = 1 << 2;
    const UDP: u32 = 1 << 3;
    const IP_HEADER: u32 = 1 << 4;
    const OFFSET_SHIFT: u32 = 16;
    const OFFSET_MAX: u16 = 0x3FF;

    /// Computes the checksum of the transport header at `header_offset`, counted from the frame's first byte.
    ///
    /// # Errors
    ///
    /// [`EmitError::TooLarge`] if the offset does not fit its 10 bits.
    #[inline]
    pub const fn transport(ip: IpVersion, transport: Transport, header_offset: u16) -> Result<Self, EmitError> {
        if header_offset > Self::OFFSET_MAX {
            return Err(offset_too_large(header_offset));
        }
        let ip = match ip {
            IpVersion::V4 => Self::IPV4,
            IpVersion::V6 => Self::IPV6,
        };
        let transport = match transport {
            Transport::Tcp => Self::TCP,
            Transport::Udp => Self::UDP,
        };
        Ok(Self(ip | transport | (header_offset as u32) << Self::OFFSET_SHIFT))
    }

    /// Computes the IPv4 header checksum alone.
    #[must_use]
    #[inline]
    pub const fn ipv4_header() -> Self {
        Self(Self::IPV4 | Self::IP_HEADER)
    }

    /// Computes the IPv4 header checksum as well.
    #[must_use]
    #[inline]
    pub const fn with_ip_header(self) -> Self {
        Self(self.0 | Self::IP_HEADER)
    }

    /// Whether the frame is marked as IPv4.
    #[must_use]
    #[inline]
    pub const fn is_ipv4(self) -> bool {
        self.0 & Self::IPV4 != 0
    }

    /// Whether the frame is marked as IPv6.
    #[must_use]
    #[inline]
    pub const fn is_ipv6(self) -> bool {
        self.0 & Self::IPV6 != 0
    }

    /// Whether to compute the TCP checksum; beats [`Self::udp`] in OpenVMM.
    #[must_use]
    #[inline]
    pub const fn tcp(self) -> bool {
        self.0 & Self::TCP != 0
    }

    /// Whether to compute the UDP checksum.
    #[must_use]
    #[inline]
    pub const fn udp(self) -> bool {
        self.0 & Self::UDP != 0
    }

    /// Whether to compute the IPv4 header checksum.
    #[must_use]
    #[inline]
    pub const fn ip_header(self) -> bool {
        self.0 & Self::IP_HEADER != 0
    }

    /// Offset of the transport header from the frame's first byte, 0 if not given.
    #[must_use]
    #[inline]
    pub const fn header_offset(self) -> u16 {
        (self.0 >> Self::OFFSET_SHIFT) as u16 & Self::OFFSET_MAX
    }
}

/// Offsets in checksum and large-send elements have 10 bits.
pub(super) const fn offset_too_large(header_offset: u16) -> EmitError {
    EmitError::TooLarge {
        field: "TcpHeaderOffset",
        value: header_offset as usize,
        limit: TxChecksum::OFFSET_MAX as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_offset_has_ten_bits() {
        let most = TxChecksum::transport(IpVersion::V6, Transport::Udp, 0x3FF).unwrap();
        assert_eq!((most.0, most.header_offset()), (0x03FF_000A, 0x3FF));
        assert!(TxChecksum::transport(IpVersion::V6, Transport::Udp, 0x400).is_err());
    }
}
