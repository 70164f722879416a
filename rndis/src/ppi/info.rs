//! The elements that netvsc uses, collected in one pass.

use super::{
    ELEMENT_HEADER_LEN, HashInfo, Lso, PacketId, Ppi, PpiType, PpiWord, PpiWords, RxChecksum, TxChecksum, Vlan,
};
use crate::bytes::u32_at;
use crate::error::ParseError;

/// What the elements of one message say; `None` where there is no such element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PacketInfo {
    /// Checksum word, whose meaning depends on the direction: see [`Self::rx_checksum`] and [`Self::tx_checksum`].
    pub checksum: Option<u32>,
    /// Large send, guest to host only.
    pub lso: Option<Lso>,
    /// 802.1Q tag.
    pub vlan: Option<Vlan>,
    /// Hash of the flow.
    pub hash_value: Option<u32>,
    /// What the hash covers, host to guest only.
    pub hash_info: Option<HashInfo>,
    /// Position in a coalesced frame, host to guest only.
    pub packet_id: Option<PacketId>,
}

impl PacketInfo {
    /// Checks every element of a block and collects those of known type; the first of a type counts.
    ///
    /// # Errors
    ///
    /// That of the first bad element, see [`Ppi::split_first`]; the whole message has to be dropped then.
    #[inline]
    pub fn parse(block: &[u8]) -> Result<Self, ParseError> {
        // The commonest block is none at all: not worth a call.
        if block.is_empty() {
            return Ok(Self::default());
        }
        Self::walk(block)
    }

    #[inline]
    fn walk(block: &[u8]) -> Result<Self, ParseError> {
        let mut info = Self::default();
        let mut rest = block;
        while !rest.is_empty() {
            let (kind, word);
            ((kind, word), rest) = Self::split_first(rest)?;
            match kind {
                PpiType::CHECKSUM => first(&mut info.checksum, word),
                PpiType::LSO => first(&mut info.lso, Lso(word)),
                PpiType::IEEE_8021Q => first(&mut info.vlan, Vlan::from_wire(word)),
                PpiType::HASH_VALUE => first(&mut info.hash_value, word),
                PpiType::HASH_INFO => first(&mut info.hash_info, HashInfo(word)),
                PpiType::PACKET_ID => first(&mut info.packet_id, PacketId::from_wire(word)),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Type and first word of the first element, and what follows it.
    #[inline]
    fn split_first(block: &[u8]) -> Result<((PpiType, u32), &[u8]), ParseError> {
        // Nearly every element is one word, right behind its header; such a one is good, whatever its type.
        if let Some((element, rest)) = block.split_first_chunk::<{ PpiWord::LEN }>()
            && u32_at(element, 0) == PpiWord::LEN as u32
            && u32_at(element, 8) == ELEMENT_HEADER_LEN as u32
        {
            return Ok(((PpiType(u32_at(element, 4)), u32_at(element, 12)), rest));
        }
        let (ppi, rest) = Ppi::split_first(block)?;
        Ok(((ppi.kind, ppi.word()), rest))
    }

    /// Checksum result of a received frame.
    #[must_use]
    #[inline]
    pub const fn rx_checksum(&self) -> Option<RxChecksum> {
        match self.checksum {
            Some(word) => Some(RxChecksum(word)),
            None => None,
        }
    }

    /// Checksum request of a frame to send.
    #[must_use]
    #[inline]
    pub const fn tx_checksum(&self) -> Option<TxChecksum> {
        match self.checksum {
            Some(word) => Some(TxChecksum(word)),
            None => None,
        }
    }

    /// A fragment of a coalesced frame that is not its first, and so starts without an Ethernet header.
    #[must_use]
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        match self.packet_id {
            Some(id) => id.is_sub_allocation() && !id.is_first(),
            None => false,
        }
    }

    /// The elements in the order hosts send them: checksum, VLAN, hash value, hash info, packet id, large send.
    #[must_use]
    pub fn to_words(&self) -> PpiWords {
        let mut words = PpiWords::new();
        let all = [
            self.checksum.map(|word| PpiWord { kind: PpiType::CHECKSUM, word }),
            self.vlan.map(PpiWord::from),
            self.hash_value.map(PpiWord::hash_value),
            self.hash_info.map(PpiWord::from),
            self.packet_id.map(PpiWord::from),
            self.lso.map(PpiWord::from),
        ];
        for word in all.into_iter().flatten() {
            words.push(word);
        }
        words
    }
}

#[inline]
fn first<T>(slot: &mut Option<T>, value: T) {
    if slot.is_none() {
        *slot = Some(value);
    }
}
