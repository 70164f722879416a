//! What the guest wants (`NDIS_OFFLOAD_PARAMETERS`).

use crate::bytes::{put_u32, room};
use crate::error::{EmitError, ParseError};
use crate::value::NdisHeader;

open_enum! {
    /// What to do about one kind of checksum.
    pub struct ChecksumSetting(u8) {
        /// Leave it as it is.
        NO_CHANGE = 0,
        /// Off.
        OFF = 1,
        /// On for frames to send.
        TX = 2,
        /// On for received frames. DPDK writes this when it means both (2 | 3); a host has to go by the elements.
        RX = 3,
        /// On for both.
        TX_RX = 4,
    }
}

open_enum! {
    /// What to do about one kind of task.
    pub struct TaskSetting(u8) {
        /// Leave it as it is.
        NO_CHANGE = 0,
        /// Off.
        OFF = 1,
        /// On.
        ON = 2,
    }
}

/// What the guest wants (`NDIS_OFFLOAD_PARAMETERS`).
///
/// [`Self::size`] says how much of the structure there is: fields behind it read as 0 and are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadParameters {
    /// Revision of the structure.
    pub revision: u8,
    /// Bytes of the structure: at least [`Self::LEN_V1`].
    pub size: u16,
    /// IPv4 header checksums.
    pub ipv4_checksum: ChecksumSetting,
    /// TCP checksums over IPv4.
    pub tcp_v4_checksum: ChecksumSetting,
    /// UDP checksums over IPv4.
    pub udp_v4_checksum: ChecksumSetting,
    /// TCP checksums over IPv6.
    pub tcp_v6_checksum: ChecksumSetting,
    /// UDP checksums over IPv6.
    pub udp_v6_checksum: ChecksumSetting,
    /// Large send version 1.
    pub lso_v1: TaskSetting,
    /// IPsec version 1.
    pub ipsec_v1: u8,
    /// Large send version 2, IPv4.
    pub lso_v2_v4: TaskSetting,
    /// Large send version 2, IPv6.
    pub lso_v2_v6: TaskSetting,
    /// TCP connection offload, IPv4.
    pub tcp_connection_v4: u8,
    /// TCP connection offload, IPv6.
    pub tcp_connection_v6: u8,
    /// Flags.
    pub flags: u32,
    /// IPsec version 2 (from revision 2).
    pub ipsec_v2: u8,
    /// IPsec version 2, IPv4 (from revision 2).
    pub ipsec_v2_v4: u8,
    /// Receive segment coalescing over IPv4 (from revision 3).
    pub rsc_v4: TaskSetting,
    /// Receive segment coalescing over IPv6 (from revision 3).
    pub rsc_v6: TaskSetting,
    /// Tasks for encapsulated frames (from revision 3).
    pub encapsulated_task: u8,
    /// Encapsulations (from revision 3).
    pub encapsulation_types: u8,
}

impl OffloadParameters {
    /// Bytes of revision 1 (NDIS 6.0).
    pub const LEN_V1: usize = 20;
    /// Bytes of revision 2 (NDIS 6.1).
    pub const LEN_V2: usize = 22;
    /// Bytes of revision 3 (NDIS 6.30).
    pub const LEN_V3: usize = 28;

    /// Parameters that change nothing.
    ///
    /// For NVSP 4 and older the value has 22 bytes: DPDK and FreeBSD call that revision 2, Linux revision 3 with the
    /// size of revision 2. Any revision but 1 and 2 gets the layout of 3.
    #[must_use]
    pub const fn no_change(revision: u8) -> Self {
        let size = match revision {
            1 => Self::LEN_V1,
            2 => Self::LEN_V2,
            _ => Self::LEN_V3,
        };
        Self {
            revision,
            size: size as u16,
            ipv4_checksum: ChecksumSetting::NO_CHANGE,
            tcp_v4_checksum: ChecksumSetting::NO_CHANGE,
            udp_v4_checksum: ChecksumSetting::NO_CHANGE,
            tcp_v6_checksum: ChecksumSetting::NO_CHANGE,
            udp_v6_checksum: ChecksumSetting::NO_CHANGE,
            lso_v1: TaskSetting::NO_CHANGE,
            ipsec_v1: 0,
            lso_v2_v4: TaskSetting::NO_CHANGE,
            lso_v2_v6: TaskSetting::NO_CHANGE,
            tcp_connection_v4: 0,
            tcp_connection_v6: 0,
            flags: 0,
            ipsec_v2: 0,
            ipsec_v2_v4: 0,
            rsc_v4: TaskSetting::NO_CHANGE,
            rsc_v6: TaskSetting::NO_CHANGE,
            encapsulated_task: 0,
            encapsulation_types: 0,
        }
    }

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (header, fields) = NdisHeader::parse(bytes, NdisHeader::DEFAULT, Self::LEN_V1)?;
        let checksum = |field, at| fields.u8(field, at).map(ChecksumSetting);
        let task = |field, at| fields.u8(field, at).map(TaskSetting);
        // What the sender's structure does not reach reads as 0.
        let optional = |at| fields.u8("OffloadParameters", at).unwrap_or(0);
        Ok(Self {
            revision: header.revision,
            size: header.size,
            ipv4_checksum: checksum("IPv4Checksum", 4)?,
            tcp_v4_checksum: checksum("TCPIPv4Checksum", 5)?,
            udp_v4_checksum: checksum("UDPIPv4Checksum", 6)?,
            tcp_v6_checksum: checksum("TCPIPv6Checksum", 7)?,
            udp_v6_checksum: checksum("UDPIPv6Checksum", 8)?,
            lso_v1: task("LsoV1", 9)?,
            ipsec_v1: fields.u8("IPsecV1", 10)?,
            lso_v2_v4: task("LsoV2IPv4", 11)?,
            lso_v2_v6: task("LsoV2IPv6", 12)?,
            tcp_connection_v4: fields.u8("TcpConnectionIPv4", 13)?,
            tcp_connection_v6: fields.u8("TcpConnectionIPv6", 14)?,
            flags: fields.u32("Flags", 16)?,
            ipsec_v2: optional(20),
            ipsec_v2_v4: optional(21),
            rsc_v4: TaskSetting(optional(22)),
            rsc_v6: TaskSetting(optional(23)),
            encapsulated_task: optional(24),
            encapsulation_types: optional(25),
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
        NdisHeader { object_type: NdisHeader::DEFAULT, revision: self.revision, size: self.size }.put(&mut whole);
        let first = [
            self.ipv4_checksum.0,
            self.tcp_v4_checksum.0,
            self.udp_v4_checksum.0,
            self.tcp_v6_checksum.0,
            self.udp_v6_checksum.0,
            self.lso_v1.0,
            self.ipsec_v1,
            self.lso_v2_v4.0,
            self.lso_v2_v6.0,
            self.tcp_connection_v4,
            self.tcp_connection_v6,
        ];
        whole[4..15].copy_from_slice(&first);
        put_u32(&mut whole, 16, self.flags);
        let second = [
            self.ipsec_v2,
            self.ipsec_v2_v4,
            self.rsc_v4.0,
            self.rsc_v6.0,
            self.encapsulated_task,
            self.encapsulation_types,
        ];
        whole[20..26].copy_from_slice(&second);
        // A size beyond revision 3 is filled with zeros, one below cuts off.
        out.fill(0);
        for (place, byte) in out.iter_mut().zip(whole) {
            *place = byte;
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_revision_need_not_agree() {
        // Linux at NVSP 4.
        let linux =
            OffloadParameters { size: 22, tcp_v4_checksum: ChecksumSetting::TX_RX, ..OffloadParameters::no_change(3) };
        let mut bytes = [0xFF; 28];
        assert_eq!(linux.emit(&mut bytes), Ok(22));
        assert_eq!(OffloadParameters::parse(&bytes), Ok(linux));
        for len in 0..22 {
            assert!(OffloadParameters::parse(&bytes[..len]).is_err());
        }
    }
}
