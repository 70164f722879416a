//! Text: UTF-16, little-endian.

use core::fmt;

use crate::bytes::{room, wire_len};
use crate::error::{EmitError, ParseError};

/// UTF-16 text of whole units, which need not be valid: unpaired surrogates print as U+FFFD.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Utf16<'a> {
    bytes: &'a [u8],
}

impl<'a> Utf16<'a> {
    /// Checks that `bytes` are whole units; `field` is named in the error.
    pub(crate) fn parse(field: &'static str, bytes: &'a [u8]) -> Result<Self, ParseError> {
        if !bytes.len().is_multiple_of(2) {
            return Err(ParseError::Misaligned { field, value: wire_len(bytes.len()), unit: 2 });
        }
        Ok(Self { bytes })
    }

    /// The text's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The code units.
    pub fn units(&self) -> impl ExactSizeIterator<Item = u16> + Clone + use<'a> {
        let (units, _) = self.bytes.as_chunks();
        units.iter().map(|unit| u16::from_le_bytes(*unit))
    }

    /// The characters, with U+FFFD for what is not valid.
    pub fn chars(&self) -> impl Iterator<Item = char> + Clone + use<'a> {
        char::decode_utf16(self.units()).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// Bytes that [`Self::emit`] writes for a text.
    #[must_use]
    pub fn encoded_len(text: &str) -> usize {
        text.encode_utf16().count() * 2
    }

    /// Writes a text without terminator and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::encoded_len`].
    pub fn emit(text: &str, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::encoded_len(text))?;
        for (place, unit) in out.chunks_exact_mut(2).zip(text.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        Ok(out.len())
    }
}

impl PartialEq<str> for Utf16<'_> {
    fn eq(&self, other: &str) -> bool {
        self.units().eq(other.encode_utf16())
    }
}

impl PartialEq<&str> for Utf16<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Display for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chars().try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

impl fmt::Debug for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        self.chars().flat_map(char::escape_debug).try_for_each(|c| fmt::Write::write_char(f, c))?;
        f.write_str("\"")
    }
}

/// Name of the adapter as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FriendlyName<'a> {
    /// The name, without what follows its first NUL.
    pub name: Utf16<'a>,
}

impl<'a> FriendlyName<'a> {
    /// Most bytes of the value; hosts send this many, with zeros behind the name.
    pub const MAX_LEN: usize = 512;
    /// The name of an adapter to which nobody gave one; Linux ignores it.
    pub const DEFAULT: &'static str = "Network Adapter";

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// [`ParseError::AboveLimit`] if it is longer than 512 bytes, [`ParseError::Misaligned`] if its length is odd.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (field, value) = ("FriendlyName", wire_len(bytes.len()));
        if bytes.len() > Self::MAX_LEN {
            return Err(ParseError::AboveLimit { field, value, limit: Self::MAX_LEN as u32 });
        }
        let whole = Utf16::parse(field, bytes)?;
        let units = whole.units().take_while(|unit| *unit != 0).count();
        Ok(Self { name: Utf16 { bytes: &bytes[..units * 2] } })
    }

    /// Writes a name as hosts do, 512 bytes with zeros at the end, and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::TooLarge`] if the name is longer than that; [`EmitError::BufferTooSmall`] if `out` is shorter.
    pub fn emit(name: &str, out: &mut [u8]) -> Result<usize, EmitError> {
        let value = Utf16::encoded_len(name);
        if value > Self::MAX_LEN {
            return Err(EmitError::TooLarge { field: "FriendlyName", value, limit: Self::MAX_LEN });
        }
        let out = room(out, Self::MAX_LEN)?;
        Utf16::emit(name, out)?;
        out[value..].fill(0);
        Ok(Self::MAX_LEN)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use super::*;

    #[test]
    fn text_that_is_not_valid_still_prints() {
        let text = Utf16::parse("Name", &[0x41, 0, 0, 0xD8, 0x42, 0]).unwrap();
        assert_eq!(format!("{text} {text:?}"), "A\u{FFFD}B \"A\u{FFFD}B\"");
        assert!(Utf16::parse("Name", &[0x41]).is_err());
    }

    #[test]
    fn friendly_names_end_at_their_nul() {
        let mut bytes = [1; 512];
        FriendlyName::emit("Azure Ethernet", &mut bytes).unwrap();
        assert_eq!(FriendlyName::parse(&bytes).unwrap().name, "Azure Ethernet");
        assert_eq!(FriendlyName::parse(&bytes[..6]).unwrap().name, "Azu");
        assert!(FriendlyName::parse(&bytes[..7]).is_err());
        assert!(FriendlyName::parse(&[0; 514]).is_err());
        assert!(FriendlyName::emit(&"x".repeat(257), &mut bytes).is_err());
    }
}
