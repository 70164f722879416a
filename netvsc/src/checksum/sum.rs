//! The ones' complement sum: 16 bits that wrap around, over any number of bytes.

use core::ops::Add;

/// Bytes whose words add up to less than 2³²; even. Frames are hardly ever longer.
const BLOCK: usize = 1 << 17;

/// A ones' complement sum of 16-bit words (RFC 1071), not complemented.
///
/// Sums of parts add up to the sum of the whole, as long as each part but the last has an even number of bytes; where it has
/// not, the parts behind it are [shifted](Self::shifted).
///
/// The sum is kept in the order of the bytes in memory, as the sum does not care about byte order until it is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u16);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`; an odd last byte is followed by a zero.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() <= BLOCK {
            return Self(fold(sum_block(bytes)));
        }
        bytes.chunks(BLOCK).map(|block| Self(fold(sum_block(block)))).sum()
    }

    /// The sum of one word in host byte order, such as a length or a port.
    #[inline]
    #[must_use]
    pub const fn of_word(word: u16) -> Self {
        Self(word.to_be())
    }

    /// The sum of the two words of a number in host byte order, such as a TCP sequence number.
    #[inline]
    #[must_use]
    pub fn of_double_word(number: u32) -> Self {
        Self::of_word((number >> 16) as u16) + Self::of_word(number as u16)
    }

    /// The sum of a word that stands in a frame as these bytes.
    #[inline]
    #[must_use]
    pub const fn of_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The sum of the same bytes, were there one more byte in front of them.
    #[inline]
    #[must_use]
    pub const fn shifted(self) -> Self {
        Self(self.0.swap_bytes())
    }

    /// Takes the sum of a part away again.
    #[inline]
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        self + Self(!part.0)
    }

    /// The sum in host byte order.
    #[inline]
    #[must_use]
    pub const fn value(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The checksum: the complement, in host byte order.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.value()
    }

    /// Whether this is the sum of data whose right checksum is part of it. Both zeros of ones' complement arithmetic count,
    /// though only data that is all zero has the positive one.
    #[inline]
    #[must_use]
    pub const fn is_right(self) -> bool {
        self.0 == 0xFFFF
    }
}

impl Add for Sum {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // With a carry the sum is at most 0xFFFE.
        Self(sum + u16::from(carry))
    }
}

impl core::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

/// Sums at most [`BLOCK`] bytes: the two words of each 32 bits, which the compiler makes vector code of.
#[inline]
fn sum_block(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<4>();
    let mut sum = 0;
    for &[a, b, c, d] in pairs {
        // No more than 2¹⁶ words of less than 2¹⁶ each.
        sum += u32::from(u16::from_ne_bytes([a, b]));
        sum += u32::from(u16::from_ne_bytes([c, d]));
    }
    let (a, b) = match *rest {
        [a, b, c] => ([a, b], [c, 0]),
        [a, b] => ([a, b], [0, 0]),
        [a] => ([a, 0], [0, 0]),
        _ => return sum,
    };
    sum + u32::from(u16::from_ne_bytes(a)) + u32::from(u16::from_ne_bytes(b))
}

/// Folds to 16 bits. A sum that is not zero never becomes zero.
#[inline]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    // At most 0x1FFFE, which leaves no second carry.
    let sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from);
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn it_is_the_sum_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..700), at in 0usize..8) {
            let bytes = &bytes[at.min(bytes.len())..];
            prop_assert_eq!(Sum::of(bytes).value(), naive(bytes));
        }

        #[test]
        fn parts_add_up_to_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let tail = if head.len() % 2 == 1 { Sum::of(tail).shifted() } else { Sum::of(tail) };
            let whole = Sum::of(&bytes);
            prop_assert_eq!((Sum::of(head) + tail).value(), whole.value());
            // Taking away may give the other zero.
            let without = whole.without(tail).value();
            let head = Sum::of(head).value();
            let zeros = [0, 0xFFFF];
            prop_assert!(without == head || (zeros.contains(&without) && zeros.contains(&head)));
        }
    }

    #[test]
    fn every_carry_comes_around() {
        for len in 0..300 {
            let bytes: Vec<u8> = core::iter::repeat_n(0xFF, len).collect();
            assert_eq!(Sum::of(&bytes).value(), naive(&bytes), "{len}");
        }
        let large: Vec<u8> = core::iter::repeat_n(0xFF, 1 << 20).collect();
        assert_eq!(Sum::of(&large).value(), 0xFFFF);
        assert_eq!(Sum::of(&[0; 200]).value(), 0);
    }

    #[test]
    fn numbers_are_summed_as_the_bytes_they_become() {
        assert_eq!(Sum::of_word(0x1234).value(), Sum::of(&0x1234u16.to_be_bytes()).value());
        assert_eq!(Sum::of_bytes([0x12, 0x34]).value(), 0x1234);
        for number in [0, 1, 0xFFFF_FFFF, 0xFFFE_0001, 0x1234_5678] {
            assert_eq!(Sum::of_double_word(number).value(), Sum::of(&number.to_be_bytes()).value());
        }
    }
}
