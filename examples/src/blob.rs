//! Test content of any length: the same bytes for the same seed, every offset computable.
//!
//! The bytes are those of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), little
//! endian. Its state is a counter, so that word `i` needs no word before it.

use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// An endless stream of bytes, of which a blob is the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    seed: u64,
}

impl Content {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `out` with the bytes from `offset` on.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        let mut index = offset / 8;
        // The part of a word that lies before the first whole one.
        let skip = (offset % 8) as usize;
        let mut out = out;
        if skip != 0 {
            let word = self.word(index).to_le_bytes();
            let len = out.len().min(8 - skip);
            let (head, rest) = out.split_at_mut(len);
            head.copy_from_slice(&word[skip..skip + len]);
            out = rest;
            index += 1;
        }
        let mut words = out.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.word(index).to_le_bytes());
            index += 1;
        }
        let tail = words.into_remainder();
        let len = tail.len();
        tail.copy_from_slice(&self.word(index).to_le_bytes()[..len]);
    }

    fn word(&self, index: u64) -> u64 {
        let mut z = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The hash of a blob in the making: computed piece by piece, so that nobody waits for it.
#[derive(Debug, Clone)]
pub struct Hashing {
    content: Content,
    hasher: Sha256,
    done: u64,
    bytes: u64,
}

impl Hashing {
    /// Starts on the first `bytes` of `content`.
    pub fn new(content: Content, bytes: u64) -> Self {
        Self { content, hasher: Sha256::new(), done: 0, bytes }
    }

    /// How long the blob is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hashes at most `budget` bytes more. The hash, once there are none left.
    pub fn step(&mut self, budget: u64) -> Option<Hash> {
        let mut buffer = [0; 8192];
        let end = self.bytes.min(self.done.saturating_add(budget));
        while self.done < end {
            let len = (end - self.done).min(buffer.len() as u64) as usize;
            self.content.fill(self.done, &mut buffer[..len]);
            self.hasher.update(&buffer[..len]);
            self.done += len as u64;
        }
        (self.done == self.bytes).then(|| self.hasher.clone().finalize().into())
    }
}

/// A hash as 64 hexadecimal digits.
pub fn hex(hash: &Hash) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads what [`hex`] writes.
pub fn from_hex(text: &str) -> Option<Hash> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_splitmix64() {
        // The first outputs of the published generator for seed 1234567.
        let content = Content::new(1_234_567);
        assert_eq!(content.word(0), 6_457_827_717_110_365_317);
        assert_eq!(content.word(1), 3_203_168_211_198_807_973);
        assert_eq!(content.word(2), 9_817_491_932_198_370_423);
    }

    #[test]
    fn every_offset_gives_the_same_bytes() {
        let content = Content::new(7);
        let mut whole = [0; 100];
        content.fill(0, &mut whole);
        for start in 0..40 {
            for len in 0..60 {
                let mut part = vec![0; len];
                content.fill(start as u64, &mut part);
                assert_eq!(part, whole[start..start + len], "{len} bytes from {start}");
            }
        }
    }

    #[test]
    fn the_hash_does_not_depend_on_the_steps() {
        let content = Content::new(7);
        let mut whole = vec![0; 20_001];
        content.fill(0, &mut whole);
        let expected: Hash = Sha256::digest(&whole).into();
        for budget in [1_000, 8_192, 1 << 20] {
            let mut hashing = Hashing::new(content, 20_001);
            let mut steps = 0;
            let hash = loop {
                steps += 1;
                if let Some(hash) = hashing.step(budget) {
                    break hash;
                }
            };
            assert_eq!((hash, steps), (expected, 20_001u64.div_ceil(budget)));
        }
        assert_eq!(Hashing::new(content, 0).step(0), Some(Sha256::digest(b"").into()));
    }

    #[test]
    fn hex_reads_back() {
        let hash: Hash = Sha256::digest(b"").into();
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&hash), text);
        assert_eq!(from_hex(text), Some(hash));
        assert_eq!(from_hex(&text[1..]), None);
        assert_eq!(from_hex(&text.replace('e', "g")), None);
    }
}
