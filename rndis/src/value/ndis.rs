//! The header that starts every NDIS object.
//!
//! Source: NDIS `NDIS_OBJECT_HEADER`; DPDK `drivers/net/netvsc/ndis.h`.

use crate::bytes::{Fields, index, put_u16, wire_len};
use crate::error::ParseError;

/// Type, revision and size of an NDIS object (`NDIS_OBJECT_HEADER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdisHeader {
    /// Type of the object.
    pub object_type: u8,
    /// Revision of its layout, from 1.
    pub revision: u8,
    /// Bytes of the object as the sender counts them, this header included.
    pub size: u16,
}

impl NdisHeader {
    /// Bytes of the header.
    pub const LEN: usize = 4;
    /// Type without a meaning of its own: link state, offload parameters.
    pub const DEFAULT: u8 = 0x80;
    /// Type of the RSS capabilities.
    pub const RSS_CAPABILITIES: u8 = 0x88;
    /// Type of the RSS parameters.
    pub const RSS_PARAMETERS: u8 = 0x89;
    /// Type of the offload capabilities.
    pub const OFFLOAD: u8 = 0xA7;
    /// Type of the offload encapsulation.
    pub const OFFLOAD_ENCAPSULATION: u8 = 0xA8;

    /// Checks type, revision (at least 1) and size (at least `minimum`, at most what there is), and gives the header
    /// with the bytes it covers.
    pub(crate) fn parse(bytes: &[u8], object_type: u8, minimum: usize) -> Result<(Self, Fields<'_>), ParseError> {
        let fields = Fields::new(bytes);
        let header = Self {
            object_type: fields.u8("Header.Type", 0)?,
            revision: fields.u8("Header.Revision", 1)?,
            size: fields.u16("Header.Size", 2)?,
        };
        if header.object_type != object_type {
            return Err(ParseError::Unexpected {
                field: "Header.Type",
                value: header.object_type.into(),
                expected: object_type.into(),
            });
        }
        if header.revision == 0 {
            return Err(ParseError::BelowMinimum { field: "Header.Revision", value: 0, minimum: 1 });
        }
        let (field, value) = ("Header.Size", u32::from(header.size));
        if value < wire_len(minimum) {
            return Err(ParseError::BelowMinimum { field, value, minimum: wire_len(minimum) });
        }
        match bytes.get(..index(value)) {
            Some(object) => Ok((header, Fields::new(object))),
            None => Err(ParseError::AboveLimit { field, value, limit: wire_len(bytes.len()) }),
        }
    }

    /// Writes the header; the caller has checked that `out` has room.
    pub(crate) fn put(self, out: &mut [u8]) {
        out[0] = self.object_type;
        out[1] = self.revision;
        put_u16(out, 2, self.size);
    }
}
