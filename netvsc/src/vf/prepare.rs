//! What a frame's metadata ask for, done in software: a virtual function sends frames as they are.

use alloc::vec::Vec;

use crate::checksum;
use crate::meta::TxMeta;
use crate::segment::Segments;

/// Bytes of the two MAC addresses, behind which a VLAN tag goes.
const ADDRESSES: usize = 12;
/// Tag protocol identifier of 802.1Q.
const TPID: [u8; 2] = [0x81, 0x00];

/// Frames made ready. Its memory is kept from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The frame with its tag.
    tagged: Vec<u8>,
    /// What comes out, one behind the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Prepared {
    /// Does to `frame` what `meta` asks for; false if that cannot be done to such a frame.
    pub(super) fn fill(&mut self, frame: &[u8], meta: &TxMeta) -> bool {
        self.tagged.clear();
        self.bytes.clear();
        self.ends.clear();
        match (meta.vlan, frame.split_at_checked(ADDRESSES)) {
            (None, _) => self.tagged.extend_from_slice(frame),
            (Some(vlan), Some((addresses, rest))) => {
                self.tagged.extend_from_slice(addresses);
                self.tagged.extend_from_slice(&TPID);
                self.tagged.extend_from_slice(&vlan.tci().to_be_bytes());
                self.tagged.extend_from_slice(rest);
            }
            (Some(_), None) => return false,
        }
        let Some(segmentation) = meta.segmentation else {
            self.ends.push(self.tagged.len());
            core::mem::swap(&mut self.tagged, &mut self.bytes);
            return meta.checksum.is_none_or(|request| checksum::fill(&mut self.bytes, request).is_ok());
        };
        let Ok(mss) = usize::try_from(segmentation.mss) else { return false };
        let Ok(segments) = Segments::new(&self.tagged, mss) else { return false };
        let mut segments = segments.with_fixed_id(segmentation.fixed_id);
        self.bytes.resize(segments.total_len(), 0);
        let mut end = 0;
        while let Some(rest) = self.bytes.get_mut(end..) {
            match segments.next_into(rest) {
                Ok(Some(len)) => end += len,
                Ok(None) => return true,
                Err(_) => return false,
            }
            self.ends.push(end);
        }
        true
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The frames.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().filter_map(move |&end| self.bytes.get(core::mem::replace(&mut start, end)..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::verify;
    use crate::meta::{IpVersion, Segmentation, Transport, TxChecksum, Verdict, Vlan};

    /// Ethernet, IPv4, TCP without options, and a payload.
    fn tcp(payload: usize) -> Vec<u8> {
        let mut frame = alloc::vec![0x5A; 54 + payload];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
        frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        frame[46] = 0x50;
        frame
    }

    #[test]
    fn a_frame_without_requests_stays_as_it_is() {
        let mut prepared = Prepared::default();
        assert!(prepared.fill(&tcp(10), &TxMeta::default()));
        assert_eq!(prepared.frames().collect::<Vec<_>>(), [&tcp(10)[..]]);
    }

    #[test]
    fn checksums_and_tag_are_put_in() {
        let checksum =
            TxChecksum { ip: IpVersion::V4, ip_header: true, transport: Some(Transport::Tcp), transport_offset: 34 };
        let vlan = Vlan::new(5, 3, false);
        let meta = TxMeta { checksum: Some(checksum), vlan: Some(vlan), ..TxMeta::default() };
        let mut prepared = Prepared::default();
        assert!(prepared.fill(&tcp(100), &meta));
        let frame = prepared.frames().next().unwrap();
        assert_eq!(frame.len(), 158);
        assert_eq!(frame[12..16], [0x81, 0, 0x60, 5]);
        let verdict = verify(frame);
        assert_eq!((verdict.ip, verdict.transport), (Verdict::Good, Verdict::Good));
    }

    #[test]
    fn a_large_segment_is_cut_and_summed() {
        let segmentation = Segmentation { ip: IpVersion::V4, mss: 1000, transport_offset: 34, fixed_id: false };
        let meta = TxMeta { segmentation: Some(segmentation), ..TxMeta::default() };
        let mut prepared = Prepared::default();
        assert!(prepared.fill(&tcp(2500), &meta));
        assert_eq!(prepared.frames().map(<[u8]>::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        assert!(prepared.frames().all(|frame| verify(frame).transport == Verdict::Good));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let segmentation = Segmentation { ip: IpVersion::V4, mss: 1000, transport_offset: 34, fixed_id: false };
        let meta = TxMeta { segmentation: Some(segmentation), ..TxMeta::default() };
        assert!(!Prepared::default().fill(&[0; 60], &meta));
    }
}
