//! Configuration keywords: a name with a value, both UTF-16.
//!
//! Linux changes the address of a running adapter with one ([`NETWORK_ADDRESS`](ConfigParameter::NETWORK_ADDRESS)).
//!
//! Source: Linux `drivers/net/hyperv/hyperv_net.h` (`struct rndis_config_parameter_info`); OpenVMM `netvsp`.

use super::MacAddress;
use super::text::Utf16;
use crate::bytes::{Fields, Region, emit_len, put_u32, room};
use crate::error::{EmitError, ParseError};

open_enum! {
    /// How to read the value of a keyword.
    pub struct ConfigType(u32) {
        /// Number.
        INTEGER = 0,
        /// Number, to be shown in hex.
        HEX_INTEGER = 1,
        /// Text.
        STRING = 2,
        /// Several texts.
        MULTI_STRING = 3,
        /// Bytes.
        BINARY = 4,
    }
}

/// A keyword with its value. Offsets on the wire count from the start of this structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigParameter<'a> {
    /// The keyword.
    pub name: Utf16<'a>,
    /// How to read the value.
    pub value_type: ConfigType,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> ConfigParameter<'a> {
    /// Bytes in front of name and value.
    pub const FIXED_LEN: usize = 20;
    /// Keyword of the adapter's address: a text of 12 hex digits, see [`network_address`].
    pub const NETWORK_ADDRESS: &'static str = "NetworkAddress";

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the field that is wrong or the first field that is missing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let fields = Fields::new(bytes);
        let first = Self::FIXED_LEN as u32;
        let name = Region {
            offset_field: "ParameterNameOffset",
            offset: fields.u32("ParameterNameOffset", 0)?,
            length_field: "ParameterNameLength",
            length: fields.u32("ParameterNameLength", 4)?,
            base: 0,
            first,
        };
        let value_type = ConfigType(fields.u32("ParameterType", 8)?);
        let value = Region {
            offset_field: "ParameterValueOffset",
            offset: fields.u32("ParameterValueOffset", 12)?,
            length_field: "ParameterValueLength",
            length: fields.u32("ParameterValueLength", 16)?,
            base: 0,
            first,
        };
        Ok(Self {
            name: Utf16::parse("ParameterNameLength", fields.region(name)?)?,
            value_type,
            value: fields.region(value)?,
        })
    }

    /// The value as text.
    ///
    /// # Errors
    ///
    /// [`ParseError::Unexpected`] if it is of another type, [`ParseError::Misaligned`] if its length is odd.
    pub fn text(&self) -> Result<Utf16<'a>, ParseError> {
        if self.value_type != ConfigType::STRING {
            return Err(ParseError::Unexpected {
                field: "ParameterType",
                value: self.value_type.0,
                expected: ConfigType::STRING.0,
            });
        }
        Utf16::parse("ParameterValueLength", self.value)
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        Self::FIXED_LEN + self.name.as_bytes().len() + self.value.len()
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let name = self.name.as_bytes();
        let out = room(out, self.buffer_len())?;
        put_fixed(out, name.len(), self.value_type, self.value.len())?;
        let (name_place, value_place) = out[Self::FIXED_LEN..].split_at_mut(name.len());
        name_place.copy_from_slice(name);
        value_place.copy_from_slice(self.value);
        Ok(out.len())
    }
}

/// A keyword with a text to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigString<'a> {
    /// The keyword.
    pub name: &'a str,
    /// The text.
    pub value: &'a str,
}

impl ConfigString<'_> {
    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        ConfigParameter::FIXED_LEN + Utf16::encoded_len(self.name) + Utf16::encoded_len(self.value)
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let name_len = Utf16::encoded_len(self.name);
        let out = room(out, self.buffer_len())?;
        put_fixed(out, name_len, ConfigType::STRING, Utf16::encoded_len(self.value))?;
        let (name_place, value_place) = out[ConfigParameter::FIXED_LEN..].split_at_mut(name_len);
        Utf16::emit(self.name, name_place)?;
        Utf16::emit(self.value, value_place)?;
        Ok(out.len())
    }
}

/// Writes the fixed fields; the caller has checked that `out` has room.
fn put_fixed(out: &mut [u8], name_len: usize, value_type: ConfigType, value_len: usize) -> Result<(), EmitError> {
    put_u32(out, 0, ConfigParameter::FIXED_LEN as u32);
    put_u32(out, 4, emit_len("ParameterNameLength", name_len)?);
    put_u32(out, 8, value_type.0);
    put_u32(out, 12, emit_len("ParameterValueOffset", ConfigParameter::FIXED_LEN + name_len)?);
    put_u32(out, 16, emit_len("ParameterValueLength", value_len)?);
    Ok(())
}

/// The text of an address as the keyword
/// [`NETWORK_ADDRESS`](ConfigParameter::NETWORK_ADDRESS) has it: 12 hex digits, in Linux lower case.
#[must_use]
pub fn network_address(address: MacAddress) -> [u8; 12] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 12];
    for (pair, byte) in text.chunks_exact_mut(2).zip(address.0) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xF)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_offset_is_named() {
        let mut good = [0; 44];
        assert_eq!(ConfigString { name: "*LsoV2IPv4", value: "01" }.emit(&mut good), Ok(44));
        for (at, field) in [(0, "ParameterNameOffset"), (12, "ParameterValueOffset")] {
            for offset in [0_u32, 19, 45, u32::MAX] {
                let mut bad = good;
                put_u32(&mut bad, at, offset);
                assert_eq!(ConfigParameter::parse(&bad).unwrap_err().field(), field);
            }
        }
        for (at, field) in [(4, "ParameterNameLength"), (16, "ParameterValueLength")] {
            for length in [26_u32, u32::MAX] {
                let mut bad = good;
                put_u32(&mut bad, at, length);
                assert_eq!(ConfigParameter::parse(&bad).unwrap_err().field(), field);
            }
        }
        for len in 0..44 {
            assert!(ConfigParameter::parse(&good[..len]).is_err());
        }
        assert_eq!(ConfigParameter::parse(&good).unwrap().text().unwrap(), "01");
    }
}
