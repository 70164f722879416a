//! What a virtual function's device does not say of a frame, found out here, so that both paths give the same metadata: the tag
//! beside the frame, and the hash of its flow.
//!
//! Verdicts on checksums are left to the device: without one they are unknown, as with a host that gives none.

use core::fmt;

use rndis::rss::HashInfo;

use crate::meta::{Hash, RxMeta, Vlan};
use crate::rss::{RssSettings, Toeplitz};
use crate::steering::Flow;

/// Bytes of the two MAC addresses, behind which a VLAN tag stands.
const ADDRESSES: usize = 12;
/// Bytes of the tag.
const TAG: usize = 4;
/// Tag protocol identifier of 802.1Q.
const TPID: [u8; 2] = [0x81, 0x00];

/// What is done to frames that came by the virtual function.
#[derive(Default)]
pub struct RxRules {
    tags_stay: bool,
    hash: Option<(RssSettings, Toeplitz)>,
}

impl fmt::Debug for RxRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxRules").field("tags_stay", &self.tags_stay).field("hashes", &self.hash.is_some()).finish()
    }
}

impl RxRules {
    /// Tags are left in the frames if they are put back into those of the rings
    /// ([`Config::reinsert_tags`](crate::Config::reinsert_tags)); flows are hashed as the host hashes them
    /// ([`DeviceInfo::scaling`](crate::DeviceInfo)).
    #[must_use]
    pub fn new(tags_stay: bool, scaling: Option<&RssSettings>) -> Self {
        Self { tags_stay, hash: scaling.map(|settings| (settings.clone(), Toeplitz::new(&settings.key))) }
    }

    /// Whether these are the rules for that scaling.
    #[must_use]
    pub fn is_for(&self, scaling: Option<&RssSettings>) -> bool {
        self.hash.as_ref().map(|(settings, _)| settings) == scaling
    }

    /// Completes `meta`; how long the frame is afterwards.
    pub(super) fn apply(&self, frame: &mut [u8], meta: &mut RxMeta) -> usize {
        let mut len = frame.len();
        if !self.tags_stay
            && meta.vlan.is_none()
            && let Some(tci) = tag(frame)
        {
            meta.vlan = Some(Vlan::from_tci(tci));
            frame.copy_within(ADDRESSES + TAG.., ADDRESSES);
            len -= TAG;
        }
        // One of the device's is made with who knows what key.
        meta.hash = self.hash(&frame[..len]);
        len
    }

    /// The hash that the rings would have given.
    fn hash(&self, frame: &[u8]) -> Option<Hash> {
        let (settings, toeplitz) = self.hash.as_ref()?;
        let flow = Flow::of(frame)?;
        let (covers, input) = flow.input_of_host(settings.hash_types)?;
        Some(Hash { value: toeplitz.hash(input), covers: covers | HashInfo::TOEPLITZ })
    }

    /// The queue by which the rings would have given a frame with this hash: the primary one if it has none.
    pub(super) fn queue_of(&self, hash: Option<Hash>) -> u16 {
        let (Some((settings, _)), Some(hash)) = (&self.hash, hash) else { return 0 };
        let entry = (hash.value as usize).checked_rem(settings.table.len());
        entry.and_then(|entry| settings.table.get(entry)).copied().unwrap_or(0)
    }
}

/// Tag control information of a frame that has an 802.1Q tag.
fn tag(frame: &[u8]) -> Option<u16> {
    let tag = frame.get(ADDRESSES..ADDRESSES + TAG)?;
    // What has a tag has a type behind it.
    let is_tagged = tag[..2] == TPID && frame.len() >= ADDRESSES + TAG + 2;
    is_tagged.then(|| u16::from_be_bytes([tag[2], tag[3]]))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::rss::RssKey;

    /// UDP over IPv4, from the verification suite of Microsoft's "RSS hashing types".
    fn frame(tagged: bool) -> Vec<u8> {
        let mut frame = alloc::vec![2; ADDRESSES];
        if tagged {
            frame.extend([0x81, 0, 0x60, 5]);
        }
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 6, 0, 0, 66, 9, 149, 187, 161, 142, 100, 80]);
        frame.extend([0x0A, 0xEA, 0x06, 0xE6, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn a_hash_of_the_device_is_replaced_by_that_of_the_rings() {
        let rules = RxRules::new(false, Some(&scaling()));
        let (mut of_device, mut without) = (RxMeta::default(), RxMeta::default());
        of_device.hash = Some(Hash { value: 1, covers: HashInfo::UDP_IPV4 });
        rules.apply(&mut frame(false), &mut of_device);
        rules.apply(&mut frame(false), &mut without);
        assert_eq!(of_device.hash, without.hash);
        assert!(without.hash.is_some_and(|hash| hash.value != 1));
        assert_eq!(
            without.hash.map(|hash| hash.covers),
            Some(HashInfo::TOEPLITZ | HashInfo::TCP_IPV4),
            "as hosts say it"
        );
        RxRules::default().apply(&mut frame(false), &mut of_device);
        assert_eq!(of_device.hash, None, "as by rings that are not told to hash");
    }

    fn scaling() -> RssSettings {
        let hash_types = HashInfo::TOEPLITZ | HashInfo::IPV4 | HashInfo::TCP_IPV4;
        RssSettings { key: RssKey::default(), hash_types, table: alloc::vec![0] }
    }

    #[test]
    fn a_tag_goes_beside_the_frame_and_does_not_change_the_hash() {
        let rules = RxRules::new(false, Some(&scaling()));
        let (mut tagged, mut plain) = (frame(true), frame(false));
        let (mut of_tagged, mut of_plain) = (RxMeta::default(), RxMeta::default());
        let len = rules.apply(&mut tagged, &mut of_tagged);
        assert_eq!(rules.apply(&mut plain, &mut of_plain), plain.len());
        assert_eq!(tagged[..len], plain[..]);
        assert_eq!(of_tagged.vlan.map(|vlan| vlan.tci()), Some(0x6005));
        assert!(of_plain.hash.is_some() && of_plain.vlan.is_none());
        assert_eq!(of_tagged.hash, of_plain.hash);
    }

    #[test]
    fn a_tag_stays_where_tags_of_the_rings_are_put_back() {
        let (mut bytes, mut meta) = (frame(true), RxMeta::default());
        assert_eq!(RxRules::new(true, None).apply(&mut bytes, &mut meta), bytes.len());
        assert_eq!((bytes, meta), (frame(true), RxMeta::default()));
    }

    #[test]
    fn short_frames_are_left_alone() {
        let whole = frame(true);
        for len in 0..18 {
            let (mut bytes, mut meta) = (whole[..len].to_vec(), RxMeta::default());
            assert_eq!(RxRules::new(false, Some(&scaling())).apply(&mut bytes, &mut meta), len);
        }
    }
}
