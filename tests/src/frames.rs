//! Numbered frames: whoever has one can tell from its number what every byte of it must be.

/// Where the number stands: behind the Ethernet header.
const NUMBER_AT: usize = 14;
/// Shortest frame: an Ethernet header and the number.
pub const MIN_LEN: usize = NUMBER_AT + 8;
/// Address of the far end.
pub const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Sizes of frames around the places where something changes: smallest, Ethernet's least, powers of two, Ethernet's most.
pub const SIZES: [usize; 16] = [22, 23, 42, 59, 60, 61, 64, 127, 128, 129, 512, 1000, 1024, 1500, 1513, 1514];

/// A sequence of frames from one station: broadcast, numbered from 0, of sizes that go round.
#[derive(Debug, Clone)]
pub struct Sequence {
    source: [u8; 6],
    sizes: Vec<usize>,
    next: u64,
}

impl Sequence {
    /// Frames from `source` whose sizes go round.
    ///
    /// # Panics
    /// If there are no sizes, or one is below [`MIN_LEN`].
    #[must_use]
    pub fn new(source: [u8; 6], sizes: &[usize]) -> Self {
        assert!(!sizes.is_empty() && sizes.iter().all(|&len| len >= MIN_LEN), "sizes from {MIN_LEN} on: {sizes:?}");
        Self { source, sizes: sizes.to_vec(), next: 0 }
    }

    /// Frame `number`.
    #[must_use]
    pub fn frame(&self, number: u64) -> Vec<u8> {
        let len = self.sizes[(number % self.sizes.len() as u64) as usize];
        let mut frame: Vec<u8> =
            (0..len as u64).map(|at| (at ^ (at >> 8) ^ number.wrapping_mul(0x9E37) >> 3) as u8).collect();
        frame[..6].fill(0xFF);
        frame[6..12].copy_from_slice(&self.source);
        // Local experimental EtherType: no stack takes it for its own.
        frame[12..14].copy_from_slice(&[0x88, 0xB5]);
        frame[NUMBER_AT..MIN_LEN].copy_from_slice(&number.to_le_bytes());
        frame
    }

    /// The next frame.
    pub fn make(&mut self) -> Vec<u8> {
        let frame = self.frame(self.next);
        self.next += 1;
        frame
    }

    /// How many were made, or checked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.next
    }

    /// The number of a frame that is whole.
    ///
    /// # Panics
    /// If it differs in any byte from the frame of its number.
    #[must_use]
    #[track_caller]
    pub fn number(&self, bytes: &[u8]) -> u64 {
        assert!(bytes.len() >= MIN_LEN, "frame of {} bytes", bytes.len());
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[NUMBER_AT..MIN_LEN]);
        let number = u64::from_le_bytes(number);
        let expected = self.frame(number);
        assert_eq!(bytes.len(), expected.len(), "length of frame {number}");
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != expected[at]) {
            panic!(
                "frame {number} of {} bytes differs at byte {at}: {:#x}, not {:#x}",
                bytes.len(),
                bytes[at],
                expected[at]
            );
        }
        number
    }

    /// Checks that this is the next frame, and whole.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn check(&mut self, bytes: &[u8]) {
        let number = self.number(bytes);
        assert_eq!(number, self.next, "frames out of order, lost or repeated");
        self.next += 1;
    }

    /// Checks that this is a later frame than the last one, and whole; how many are missing between them.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn check_with_gaps(&mut self, bytes: &[u8]) -> u64 {
        let number = self.number(bytes);
        assert!(number >= self.next, "frame {number} behind frame {}", self.next);
        let gap = number - self.next;
        self.next = number + 1;
        gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_by_its_number() {
        let mut made = Sequence::new(FAR, &SIZES);
        let mut checked = made.clone();
        for _ in 0..100 {
            checked.check(&made.make());
        }
        assert_eq!(checked.count(), 100);
        assert_eq!(checked.check_with_gaps(&made.frame(103)), 3);
    }

    #[test]
    #[should_panic(expected = "differs at byte 30")]
    fn a_changed_byte_is_found() {
        let sequence = Sequence::new(FAR, &[60]);
        let mut frame = sequence.frame(7);
        frame[30] ^= 1;
        let _ = sequence.number(&frame);
    }

    #[test]
    #[should_panic(expected = "out of order, lost or repeated")]
    fn a_lost_frame_is_found() {
        let mut sequence = Sequence::new(FAR, &[60]);
        let second = sequence.frame(1);
        sequence.check(&second);
    }
}
