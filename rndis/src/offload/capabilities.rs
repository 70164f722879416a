//! What the host can do, or what is in force (`NDIS_OFFLOAD`).

use super::Encapsulation;
use crate::bytes::{Fields, put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::value::NdisHeader;

bit_set! {
    /// What can be done for IPv4 checksums. On the wire each is a field of two bits, of which 1 means "supported".
    pub struct ChecksumV4Flags(u32) {
        /// Headers with IP options too.
        IP_OPTIONS = 0x001,
        /// Segments with TCP options too.
        TCP_OPTIONS = 0x004,
        /// TCP checksums.
        TCP = 0x010,
        /// UDP checksums.
        UDP = 0x040,
        /// IP header checksums.
        IP_HEADER = 0x100,
    }
}

bit_set! {
    /// What can be done for IPv6 checksums. On the wire each is a field of two bits, of which 1 means "supported".
    pub struct ChecksumV6Flags(u32) {
        /// Frames with extension headers too.
        EXTENSION_HEADERS = 0x01,
        /// Segments with TCP options too.
        TCP_OPTIONS = 0x04,
        /// TCP checksums.
        TCP = 0x10,
        /// UDP checksums.
        UDP = 0x40,
    }
}

bit_set! {
    /// What large send over IPv6 can do.
    pub struct LsoV6Options(u32) {
        /// Frames with extension headers too.
        EXTENSION_HEADERS = 0x1,
        /// Segments with TCP options too.
        TCP_OPTIONS = 0x4,
    }
}

/// Checksum offload of one direction and one version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ChecksumTask<F> {
    /// Encapsulations it can handle.
    pub encapsulation: Encapsulation,
    /// What it can do.
    pub flags: F,
}

/// Large send version 1, IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LsoTaskV1 {
    /// Encapsulations it can handle.
    pub encapsulation: Encapsulation,
    /// Most bytes of one send.
    pub max_size: u32,
    /// Fewest segments.
    pub min_segments: u32,
    /// IP and TCP options it can handle.
    pub options: u32,
}

/// Large send version 2 of one version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LsoTaskV2 {
    /// Encapsulations it can handle; without [`Encapsulation::IEEE_802_3`] there is no large send.
    pub encapsulation: Encapsulation,
    /// Most bytes of one send; OpenVMM says 62780.
    pub max_size: u32,
    /// Fewest segments; OpenVMM says 2.
    pub min_segments: u32,
}

/// What the host can do, or what is in force (`NDIS_OFFLOAD`).
///
/// [`Self::size`] says how much of the structure there is: fields behind it read as 0 and are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Revision of the structure.
    pub revision: u8,
    /// Bytes of the structure: at least [`Self::LEN_V1`].
    pub size: u16,
    /// IPv4 checksums, guest to host.
    pub checksum_v4_tx: ChecksumTask<ChecksumV4Flags>,
    /// IPv4 checksums, host to guest.
    pub checksum_v4_rx: ChecksumTask<ChecksumV4Flags>,
    /// IPv6 checksums, guest to host.
    pub checksum_v6_tx: ChecksumTask<ChecksumV6Flags>,
    /// IPv6 checksums, host to guest.
    pub checksum_v6_rx: ChecksumTask<ChecksumV6Flags>,
    /// Large send version 1.
    pub lso_v1: LsoTaskV1,
    /// IPsec version 1, as it stands.
    pub ipsec_v1: [u8; 28],
    /// Large send version 2, IPv4.
    pub lso_v2_v4: LsoTaskV2,
    /// Large send version 2, IPv6.
    pub lso_v2_v6: LsoTaskV2,
    /// Options of large send version 2, IPv6.
    pub lso_v2_v6_options: LsoV6Options,
    /// Flags.
    pub flags: u32,
    /// IPsec version 2, as it stands (from revision 2).
    pub ipsec_v2: [u8; 32],
    /// Receive segment coalescing over IPv4, not 0 if there is (from revision 3).
    pub rsc_v4: u8,
    /// Receive segment coalescing over IPv6, not 0 if there is (from revision 3).
    pub rsc_v6: u8,
    /// Offload of encapsulated frames, as it stands (from revision 3).
    pub encapsulated: [u8; 8],
}

impl Offload {
    /// Bytes of revision 1 (NDIS 6.0).
    pub const LEN_V1: usize = 112;
    /// Bytes of revision 2 (NDIS 6.1).
    pub const LEN_V2: usize = 144;
    /// Bytes of revision 3 (NDIS 6.30).
    pub const LEN_V3: usize = 156;

    /// A structure with all zeros behind its header: the input of a query, and a base to fill in.
    ///
    /// Guests of NVSP 5 and later ask with revision 3, of NVSP 4 with revision 2, older ones with revision 1. Any other
    /// revision gets the layout of 3.
    #[must_use]
    pub const fn empty(revision: u8) -> Self {
        const CHECKSUM_V4: ChecksumTask<ChecksumV4Flags> =
            ChecksumTask { encapsulation: Encapsulation::EMPTY, flags: ChecksumV4Flags::EMPTY };
        const CHECKSUM_V6: ChecksumTask<ChecksumV6Flags> =
            ChecksumTask { encapsulation: Encapsulation::EMPTY, flags: ChecksumV6Flags::EMPTY };
        const LSO: LsoTaskV2 = LsoTaskV2 { encapsulation: Encapsulation::EMPTY, max_size: 0, min_segments: 0 };
        let size = match revision {
            1 => Self::LEN_V1,
            2 => Self::LEN_V2,
            _ => Self::LEN_V3,
        };
        Self {
            revision,
            size: size as u16,
            checksum_v4_tx: CHECKSUM_V4,
            checksum_v4_rx: CHECKSUM_V4,
            checksum_v6_tx: CHECKSUM_V6,
            checksum_v6_rx: CHECKSUM_V6,
            lso_v1: LsoTaskV1 { encapsulation: Encapsulation::EMPTY, max_size: 0, min_segments: 0, options: 0 },
            ipsec_v1: [0; 28],
            lso_v2_v4: LSO,
            lso_v2_v6: LSO,
            lso_v2_v6_options: LsoV6Options::EMPTY,
            flags: 0,
            ipsec_v2: [0; 32],
            rsc_v4: 0,
            rsc_v6: 0,
            encapsulated: [0; 8],
        }
    }

    /// Reads the value at the start of `bytes`: of a query, its answer, or a
    /// [`TASK_OFFLOAD_CURRENT_CONFIG`](crate::Status::TASK_OFFLOAD_CURRENT_CONFIG) indication.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (header, fields) = NdisHeader::parse(bytes, NdisHeader::OFFLOAD, Self::LEN_V1)?;
        let checksum_v4 = |at| {
            Ok(ChecksumTask {
                encapsulation: Encapsulation(fields.u32("Checksum.Encapsulation", at)?),
                flags: ChecksumV4Flags(fields.u32("Checksum.Flags", at + 4)?),
            })
        };
        let checksum_v6 = |at| {
            Ok(ChecksumTask {
                encapsulation: Encapsulation(fields.u32("Checksum.Encapsulation", at)?),
                flags: ChecksumV6Flags(fields.u32("Checksum.Flags", at + 4)?),
            })
        };
        Ok(Self {
            revision: header.revision,
            size: header.size,
            checksum_v4_tx: checksum_v4(4)?,
            checksum_v4_rx: checksum_v4(12)?,
            checksum_v6_tx: checksum_v6(20)?,
            checksum_v6_rx: checksum_v6(28)?,
            lso_v1: LsoTaskV1 {
                encapsulation: Encapsulation(fields.u32("LsoV1.Encapsulation", 36)?),
                max_size: fields.u32("LsoV1.MaxOffLoadSize", 40)?,
                min_segments: fields.u32("LsoV1.MinSegmentCount", 44)?,
                options: fields.u32("LsoV1.Options", 48)?,
            },
            ipsec_v1: fields.array("IPsecV1", 52)?,
            lso_v2_v4: lso_v2(fields, 80)?,
            lso_v2_v6: lso_v2(fields, 92)?,
            lso_v2_v6_options: LsoV6Options(fields.u32("LsoV2.IPv6.Options", 104)?),
            flags: fields.u32("Flags", 108)?,
            // What the sender's structure does not reach reads as 0.
            ipsec_v2: fields.array("IPsecV2", 112).unwrap_or_default(),
            rsc_v4: fields.u8("Rsc.IPv4", 144).unwrap_or(0),
            rsc_v6: fields.u8("Rsc.IPv6", 145).unwrap_or(0),
            encapsulated: fields.array("EncapsulatedPacketTaskOffloadGre", 148).unwrap_or_default(),
        })
    }

    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        self.size as usize
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` is shorter than [`Self::buffer_len`]; [`EmitError::TooSmall`] if
    /// [`Self::size`] is less than [`Self::LEN_V1`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let len = self.buffer_len();
        if len < Self::LEN_V1 {
            let minimum = Self::LEN_V1;
            return Err(EmitError::TooSmall { field: "Header.Size", value: len, minimum });
        }
        let out = room(out, len)?;
        let mut whole = [0; Self::LEN_V3];
        let bytes = &mut whole;
        NdisHeader { object_type: NdisHeader::OFFLOAD, revision: self.revision, size: self.size }.put(bytes);
        let words = [
            (4, self.checksum_v4_tx.encapsulation.0),
            (8, self.checksum_v4_tx.flags.0),
            (12, self.checksum_v4_rx.encapsulation.0),
            (16, self.checksum_v4_rx.flags.0),
            (20, self.checksum_v6_tx.encapsulation.0),
            (24, self.checksum_v6_tx.flags.0),
            (28, self.checksum_v6_rx.encapsulation.0),
            (32, self.checksum_v6_rx.flags.0),
            (36, self.lso_v1.encapsulation.0),
            (40, self.lso_v1.max_size),
            (44, self.lso_v1.min_segments),
            (48, self.lso_v1.options),
            (80, self.lso_v2_v4.encapsulation.0),
            (84, self.lso_v2_v4.max_size),
            (88, self.lso_v2_v4.min_segments),
            (92, self.lso_v2_v6.encapsulation.0),
            (96, self.lso_v2_v6.max_size),
            (100, self.lso_v2_v6.min_segments),
            (104, self.lso_v2_v6_options.0),
            (108, self.flags),
        ];
        for (at, word) in words {
            put_u32(bytes, at, word);
        }
        bytes[52..80].copy_from_slice(&self.ipsec_v1);
        bytes[112..144].copy_from_slice(&self.ipsec_v2);
        bytes[144] = self.rsc_v4;
        bytes[145] = self.rsc_v6;
        bytes[148..156].copy_from_slice(&self.encapsulated);
        // A size beyond revision 3 is filled with zeros, one below cuts off.
        out.fill(0);
        for (place, byte) in out.iter_mut().zip(whole) {
            *place = byte;
        }
        Ok(len)
    }
}

fn lso_v2(fields: Fields<'_>, at: usize) -> Result<LsoTaskV2, ParseError> {
    Ok(LsoTaskV2 {
        encapsulation: Encapsulation(fields.u32("LsoV2.Encapsulation", at)?),
        max_size: fields.u32("LsoV2.MaxOffLoadSize", at + 4)?,
        min_segments: fields.u32("LsoV2.MinSegmentCount", at + 8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_behind_the_size_read_as_zero() {
        let mut bytes = [0; 156];
        let full = Offload { rsc_v4: 1, rsc_v6: 1, ipsec_v2: [3; 32], encapsulated: [4; 8], ..Offload::empty(3) };
        assert_eq!(full.emit(&mut bytes), Ok(156));
        assert_eq!(Offload::parse(&bytes), Ok(full));
        // The bytes are there, but the sender's header ends before them.
        bytes[2] = 145;
        let cut = Offload::parse(&bytes).unwrap();
        assert_eq!((cut.rsc_v4, cut.rsc_v6, cut.encapsulated), (1, 0, [0; 8]));
        bytes[2] = 112;
        let cut = Offload::parse(&bytes).unwrap();
        assert_eq!((cut.rsc_v4, cut.ipsec_v2), (0, [0; 32]));
    }

    #[test]
    fn longer_structures_of_later_revisions_are_read() {
        let later = Offload { revision: 4, size: 200, ..Offload::empty(3) };
        let mut bytes = [0xFF; 200];
        assert_eq!(later.emit(&mut bytes), Ok(200));
        assert_eq!(Offload::parse(&bytes), Ok(later));
        assert!(Offload { size: 111, ..later }.emit(&mut bytes).is_err());
    }
}
