//! Elements to write: all that netvsc uses have a payload of one word.

use core::ops::Deref;

use super::{HashInfo, Lso, PacketId, PpiType, RxChecksum, TxChecksum, Vlan};
use crate::bytes::put_u32;

/// An element with a payload of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PpiWord {
    /// Its type.
    pub kind: PpiType,
    /// Its payload as it stands on the wire.
    pub word: u32,
}

impl PpiWord {
    /// Bytes of the element.
    pub const LEN: usize = 16;

    /// Hash of the flow.
    #[must_use]
    #[inline]
    pub const fn hash_value(hash: u32) -> Self {
        Self { kind: PpiType::HASH_VALUE, word: hash }
    }

    /// Writes the element; the caller has checked that `out` has room.
    #[inline]
    pub(crate) fn put(self, out: &mut [u8]) {
        put_u32(out, 0, Self::LEN as u32);
        put_u32(out, 4, self.kind.0);
        put_u32(out, 8, super::ELEMENT_HEADER_LEN as u32);
        put_u32(out, 12, self.word);
    }
}

impl From<RxChecksum> for PpiWord {
    #[inline]
    fn from(checksum: RxChecksum) -> Self {
        Self { kind: PpiType::CHECKSUM, word: checksum.0 }
    }
}

impl From<TxChecksum> for PpiWord {
    #[inline]
    fn from(checksum: TxChecksum) -> Self {
        Self { kind: PpiType::CHECKSUM, word: checksum.0 }
    }
}

impl From<Lso> for PpiWord {
    #[inline]
    fn from(lso: Lso) -> Self {
        Self { kind: PpiType::LSO, word: lso.0 }
    }
}

impl From<Vlan> for PpiWord {
    #[inline]
    fn from(vlan: Vlan) -> Self {
        Self { kind: PpiType::IEEE_8021Q, word: vlan.to_wire() }
    }
}

impl From<HashInfo> for PpiWord {
    #[inline]
    fn from(info: HashInfo) -> Self {
        Self { kind: PpiType::HASH_INFO, word: info.0 }
    }
}

impl From<PacketId> for PpiWord {
    #[inline]
    fn from(id: PacketId) -> Self {
        Self { kind: PpiType::PACKET_ID, word: id.to_wire() }
    }
}

/// Up to six elements, one for each type that netvsc uses; made by
/// [`PacketInfo::to_words`](super::PacketInfo::to_words).
#[derive(Clone, Copy, Debug)]
pub struct PpiWords {
    words: [PpiWord; Self::CAPACITY],
    len: usize,
}

impl PpiWords {
    const CAPACITY: usize = 6;

    pub(crate) const fn new() -> Self {
        Self { words: [PpiWord { kind: PpiType::CHECKSUM, word: 0 }; Self::CAPACITY], len: 0 }
    }

    /// The callers push each type once, so there is room.
    #[inline]
    pub(crate) fn push(&mut self, word: PpiWord) {
        if let Some(slot) = self.words.get_mut(self.len) {
            *slot = word;
            self.len += 1;
        }
    }
}

impl Deref for PpiWords {
    type Target = [PpiWord];

    #[inline]
    fn deref(&self) -> &[PpiWord] {
        &self.words[..self.len]
    }
}
