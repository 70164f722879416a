//! The messages on a device's socket. All integers are little-endian.
//!
//! | from | bytes | descriptors | message |
//! |---|---|---|---|
//! | host | 48 | 5 | [`Setup`], once, first |
//! | client | 32 | 1 | [`Piece`]: guest memory |
//! | host | 4 | | an interrupt: how many there were, i32 |
//! | client | 4 | | interrupt control: 0 masks, everything else unmasks, i32 |

/// Memory objects of a device: rings, interrupt page, monitor page, receive buffer, send buffer.
pub(super) const MAPS: usize = 5;

/// The host's first message, with a descriptor for each map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    /// Bytes of each map.
    pub(super) sizes: [u64; MAPS],
}

impl Setup {
    const MAGIC: u32 = u32::from_le_bytes(*b"VMBS");
    const VERSION: u16 = 1;

    pub(super) fn to_bytes(self) -> [u8; 8 + 8 * MAPS] {
        let mut bytes = [0; 8 + 8 * MAPS];
        bytes[..4].copy_from_slice(&Self::MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&Self::VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(MAPS as u16).to_le_bytes());
        for (place, size) in bytes[8..].chunks_exact_mut(8).zip(self.sizes) {
            place.copy_from_slice(&size.to_le_bytes());
        }
        bytes
    }
}

/// A piece of guest memory: a part of the file that comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Guest physical address of its first byte: the virtual one in the client.
    pub(super) gpa: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// Offset of its first byte in the file.
    pub(super) offset: u64,
}

impl Piece {
    const MAGIC: u32 = u32::from_le_bytes(*b"VMBR");
    pub(super) const LEN: usize = 32;

    pub(super) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let [magic, gpa, len, offset] = [words[0], words[1], words[2], words[3]].map(u64::from_le_bytes);
        (magic == u64::from(Self::MAGIC)).then_some(Self { gpa, bytes: len, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_has_its_layout() {
        let bytes = Setup { sizes: [1, 2, 3, 4, 0x1_0000_0005] }.to_bytes();
        assert_eq!(&bytes[..8], b"VMBS\x01\0\x05\0");
        assert_eq!(&bytes[40..], [5, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn pieces_are_told_by_magic_and_reserved_word() {
        let mut bytes = [0; Piece::LEN];
        bytes[..4].copy_from_slice(b"VMBR");
        bytes[8] = 7;
        bytes[16] = 8;
        bytes[24] = 9;
        assert_eq!(Piece::parse(&bytes), Some(Piece { gpa: 7, bytes: 8, offset: 9 }));
        bytes[4] = 1;
        assert_eq!(Piece::parse(&bytes), None, "reserved");
        assert_eq!(Piece::parse(&[0; Piece::LEN]), None);
    }
}
