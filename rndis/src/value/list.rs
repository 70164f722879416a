//! The list of OIDs that the host knows.

use crate::bytes::{room, wire_len};
use crate::error::{EmitError, ParseError};
use crate::oid::Oid;

/// OIDs that the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportedList<'a> {
    bytes: &'a [u8],
}

impl<'a> SupportedList<'a> {
    /// Checks the value.
    ///
    /// # Errors
    ///
    /// [`ParseError::Misaligned`] if it is not made of whole OIDs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if !bytes.len().is_multiple_of(4) {
            let value = wire_len(bytes.len());
            return Err(ParseError::Misaligned { field: "SupportedList", value, unit: 4 });
        }
        Ok(Self { bytes })
    }

    /// The OIDs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Oid> + use<'a> {
        let (oids, _) = self.bytes.as_chunks();
        oids.iter().map(|oid| Oid(u32::from_le_bytes(*oid)))
    }

    /// Writes a list and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has no room for all OIDs.
    pub fn emit(oids: &[Oid], out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, oids.len() * 4)?;
        for (place, oid) in out.chunks_exact_mut(4).zip(oids) {
            place.copy_from_slice(&oid.0.to_le_bytes());
        }
        Ok(out.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_the_wire() {
        let mut bytes = [0; 8];
        let oids = [Oid::SUPPORTED_LIST, Oid::TCP_OFFLOAD_PARAMETERS];
        assert_eq!(SupportedList::emit(&oids, &mut bytes), Ok(8));
        assert!(SupportedList::parse(&bytes).unwrap().iter().eq(oids));
        assert!(SupportedList::parse(&bytes[..7]).is_err());
        assert!(SupportedList::emit(&oids, &mut bytes[..7]).is_err());
    }
}
