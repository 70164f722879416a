//! Encapsulation of offloaded frames (`NDIS_OFFLOAD_ENCAPSULATION`).

use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::value::NdisHeader;

/// Encapsulation of offloaded frames (`NDIS_OFFLOAD_ENCAPSULATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadEncapsulation {
    /// Whether to set that of IPv4: 1 yes.
    pub ipv4_enabled: u32,
    /// Encapsulation of IPv4, see [`Encapsulation`](super::Encapsulation).
    pub ipv4_encapsulation: u32,
    /// Bytes of the header in front of IPv4.
    pub ipv4_header_size: u32,
    /// Whether to set that of IPv6: 1 yes.
    pub ipv6_enabled: u32,
    /// Encapsulation of IPv6, see [`Encapsulation`](super::Encapsulation).
    pub ipv6_encapsulation: u32,
    /// Bytes of the header in front of IPv6.
    pub ipv6_header_size: u32,
}

impl OffloadEncapsulation {
    /// Bytes of the value.
    pub const LEN: usize = 28;

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (_, fields) = NdisHeader::parse(bytes, NdisHeader::OFFLOAD_ENCAPSULATION, Self::LEN)?;
        Ok(Self {
            ipv4_enabled: fields.u32("IPv4.Enabled", 4)?,
            ipv4_encapsulation: fields.u32("IPv4.EncapsulationType", 8)?,
            ipv4_header_size: fields.u32("IPv4.HeaderSize", 12)?,
            ipv6_enabled: fields.u32("IPv6.Enabled", 16)?,
            ipv6_encapsulation: fields.u32("IPv6.EncapsulationType", 20)?,
            ipv6_header_size: fields.u32("IPv6.HeaderSize", 24)?,
        })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::LEN
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 28 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::LEN)?;
        let object_type = NdisHeader::OFFLOAD_ENCAPSULATION;
        NdisHeader { object_type, revision: 1, size: Self::LEN as u16 }.put(out);
        put_u32(out, 4, self.ipv4_enabled);
        put_u32(out, 8, self.ipv4_encapsulation);
        put_u32(out, 12, self.ipv4_header_size);
        put_u32(out, 16, self.ipv6_enabled);
        put_u32(out, 20, self.ipv6_encapsulation);
        put_u32(out, 24, self.ipv6_header_size);
        Ok(Self::LEN)
    }
}
