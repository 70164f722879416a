//! Ethernet addresses, one or a list.

use core::fmt;

use crate::bytes::{Fields, room, wire_len};
use crate::error::{EmitError, ParseError};

/// An Ethernet address: the value of the permanent and the current address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Bytes of the value.
    pub const LEN: usize = 6;

    /// Reads the address at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 6 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Fields::new(bytes).array("MacAddress", 0).map(Self)
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 6 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        room(out, Self::LEN)?.copy_from_slice(&self.0);
        Ok(Self::LEN)
    }

    /// Group address: multicast or broadcast.
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

/// Multicast addresses to receive. No netvsc guest sets them: all ask for every multicast frame instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MulticastList<'a> {
    bytes: &'a [u8],
}

impl<'a> MulticastList<'a> {
    /// Checks the value.
    ///
    /// # Errors
    ///
    /// [`ParseError::Misaligned`] if it is not made of whole addresses.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if !bytes.len().is_multiple_of(MacAddress::LEN) {
            return Err(ParseError::Misaligned {
                field: "MulticastList",
                value: wire_len(bytes.len()),
                unit: MacAddress::LEN as u32,
            });
        }
        Ok(Self { bytes })
    }

    /// The addresses in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MacAddress> + use<'a> {
        let (addresses, _) = self.bytes.as_chunks();
        addresses.iter().copied().map(MacAddress)
    }

    /// Writes a list and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has no room for all addresses.
    pub fn emit(addresses: &[MacAddress], out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, addresses.len() * MacAddress::LEN)?;
        for (place, address) in out.chunks_exact_mut(MacAddress::LEN).zip(addresses) {
            place.copy_from_slice(&address.0);
        }
        Ok(out.len())
    }
}
