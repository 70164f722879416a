//! Large send offload: the host cuts a big TCP segment into frames.

use super::checksum::{IpVersion, offset_too_large};
use crate::error::EmitError;

/// Layout of an [`Lso`] word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LsoVersion {
    /// Version 1, IPv4 only; not used by netvsc guests.
    V1,
    /// Version 2.
    V2,
}

/// A large-send element.
///
/// It implies checksum offload: no checksum element goes with it. IPv4 total length and header checksum, or IPv6
/// payload length, are 0 in the frame, and its TCP checksum is that of the pseudo header with length 0. (DPDK leaves
/// this to the application, so a host must not rely on it.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Lso(pub u32);

impl Lso {
    const MSS_MAX: u32 = 0xF_FFFF;
    const OFFSET_SHIFT: u32 = 20;
    const OFFSET_MAX: u16 = 0x3FF;
    const VERSION_2: u32 = 1 << 30;
    const IPV6: u32 = 1 << 31;

    /// Version 2: segments of `mss` payload bytes, with the TCP header at `header_offset` from the frame's first byte.
    ///
    /// # Errors
    ///
    /// [`EmitError::TooSmall`] if `mss` is 0, [`EmitError::TooLarge`] if a number does not fit its 20 or 10 bits.
    #[inline]
    pub const fn v2(ip: IpVersion, mss: u32, header_offset: u16) -> Result<Self, EmitError> {
        match Self::v1(mss, header_offset) {
            Ok(Self(word)) => Ok(Self(
                word | Self::VERSION_2
                    | match ip {
                        IpVersion::V4 => 0,
                        IpVersion::V6 => Self::IPV6,
                    },
            )),
            Err(error) => Err(error),
        }
    }

    /// Version 1, for IPv4.
    ///
    /// # Errors
    ///
    /// As [`Lso::v2`].
    #[inline]
    pub const fn v1(mss: u32, header_offset: u16) -> Result<Self, EmitError> {
        if mss == 0 {
            return Err(EmitError::TooSmall { field: "MSS", value: 0, minimum: 1 });
        }
        if mss > Self::MSS_MAX {
            let (value, limit) = (mss as usize, Self::MSS_MAX as usize);
            return Err(EmitError::TooLarge { field: "MSS", value, limit });
        }
        if header_offset > Self::OFFSET_MAX {
            return Err(offset_too_large(header_offset));
        }
        Ok(Self(mss | (header_offset as u32) << Self::OFFSET_SHIFT))
    }

    /// Which layout the word has.
    #[must_use]
    #[inline]
    pub const fn version(self) -> LsoVersion {
        if self.0 & Self::VERSION_2 != 0 { LsoVersion::V2 } else { LsoVersion::V1 }
    }

    /// Payload bytes of each segment. The wire can say 0, which a host has to refuse.
    #[must_use]
    #[inline]
    pub const fn mss(self) -> u32 {
        self.0 & Self::MSS_MAX
    }

    /// Offset of the TCP header from the frame's first byte.
    #[must_use]
    #[inline]
    pub const fn header_offset(self) -> u16 {
        (self.0 >> Self::OFFSET_SHIFT) as u16 & Self::OFFSET_MAX
    }

    /// Version of the Internet protocol; version 1 has IPv4 alone.
    #[must_use]
    #[inline]
    pub const fn ip_version(self) -> IpVersion {
        match self.version() {
            LsoVersion::V2 if self.0 & Self::IPV6 != 0 => IpVersion::V6,
            _ => IpVersion::V4,
        }
    }

    /// A version 1 element in a completion: TCP payload bytes that were sent.
    #[must_use]
    #[inline]
    pub const fn v1_completed_payload(self) -> u32 {
        self.0 & (Self::VERSION_2 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_bounded() {
        let lso = Lso::v2(IpVersion::V6, 0xF_FFFF, 0x3FF).unwrap();
        assert_eq!(lso.0, u32::MAX);
        assert_eq!((lso.mss(), lso.header_offset(), lso.ip_version()), (0xF_FFFF, 0x3FF, IpVersion::V6));
        assert!(Lso::v2(IpVersion::V4, 0, 34).is_err());
        assert!(Lso::v2(IpVersion::V4, 0x10_0000, 34).is_err());
        assert!(Lso::v2(IpVersion::V4, 1460, 0x400).is_err());
    }
}
