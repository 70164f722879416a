//! Preparing frames that are generated, and judging one that was received.

use super::config::GeneratorConfig;

/// First byte behind the generator's header.
pub(super) const HEADER_END: usize = 34;

const MAGIC: [u8; 4] = *b"nvsg";
/// Ethernet type, where the checksum begins.
const COVERED: usize = 12;
const STREAM: usize = 18;
const SEQUENCE: usize = 22;
const CHECKSUM: usize = 30;

/// What a generator has sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GeneratorStats {
    /// Frames sent.
    pub sent: u64,
    /// Different, intact frames of the stream received.
    pub received: u64,
    /// Intact frames received once more, or so late (1024 numbers and more) that it cannot be told.
    pub duplicates: u64,
    /// Frames, counted in `received` too, behind one with a higher number.
    pub reordered: u64,
    /// Frames of the stream with a wrong checksum.
    pub corrupt: u64,
    /// Frames that are not of the stream.
    pub foreign: u64,
    /// The number after the highest one received: how many frames there must have been.
    pub expected: u64,
}

impl GeneratorStats {
    /// Frames that are missing below the highest number received.
    pub fn lost(&self) -> u64 {
        self.lost_of(self.expected)
    }

    /// Frames that are missing if `sent` were sent, for use when nothing is on its way any more.
    pub fn lost_of(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }
}

/// The generator's header of a received frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) stream: u32,
    pub(super) sequence: u64,
    /// Whether the checksum is right.
    pub(super) intact: bool,
}

/// Reads the header; `None` if the frame is not a generator's.
pub(super) fn read_header(frame: &[u8]) -> Option<Header> {
    let header = frame.first_chunk::<HEADER_END>()?;
    if header[14..STREAM] != MAGIC {
        return None;
    }
    Some(Header {
        stream: u32::from_be_bytes(part(header, STREAM)),
        sequence: u64::from_be_bytes(part(header, SEQUENCE)),
        intact: u32::from_be_bytes(part(header, CHECKSUM)) == checksum(frame, header),
    })
}

/// A frame that has everything but its number.
#[derive(Debug)]
pub(super) struct Prepared {
    frame: Vec<u8>,
    /// The checksum, as far as the filling goes.
    state: u64,
}

impl Prepared {
    /// A frame of [`GeneratorConfig::frame_bytes`] with the given filling.
    pub(super) fn new(config: &GeneratorConfig, filling: u64) -> Self {
        let mut frame = vec![0; config.frame_bytes];
        if let Some((header, rest)) = frame.split_first_chunk_mut::<HEADER_END>() {
            header[..6].copy_from_slice(&config.destination);
            header[6..12].copy_from_slice(&config.source);
            header[12..14].copy_from_slice(&config.ether_type.to_be_bytes());
            header[14..STREAM].copy_from_slice(&MAGIC);
            header[STREAM..SEQUENCE].copy_from_slice(&config.stream.to_be_bytes());
            for (chunk, salt) in rest.chunks_mut(8).zip(0_u64..) {
                // Differs from frame to frame and from place to place, so that a mixed-up frame does not look right.
                let word = filling.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                chunk.copy_from_slice(&word.to_be_bytes()[..chunk.len()]);
            }
        }
        let state = sum_filling(&frame);
        Self { frame, state }
    }

    /// The frame number `sequence`.
    pub(super) fn numbered(&mut self, sequence: u64) -> &[u8] {
        if let Some(header) = self.frame.first_chunk_mut::<HEADER_END>() {
            header[SEQUENCE..CHECKSUM].copy_from_slice(&sequence.to_be_bytes());
            let sum = sum_header(self.state, header);
            header[CHECKSUM..].copy_from_slice(&sum.to_be_bytes());
        }
        &self.frame
    }
}

/// FNV-1a over everything from the Ethernet type on but the checksum, 8 bytes at a time, folded to 32 bits: the filling first,
/// so that a frame whose number alone changes need not be summed again.
///
/// Each step is a bijection of the state for a given word and of the word for a given state, so that one changed word
/// always changes the 64-bit state. The length is mixed in first: a shortened frame never looks whole.
fn checksum(frame: &[u8], header: &[u8; HEADER_END]) -> u32 {
    sum_header(sum_filling(frame), header)
}

/// The state after the filling of a frame.
fn sum_filling(frame: &[u8]) -> u64 {
    let state = 0xcbf2_9ce4_8422_2325_u64 ^ frame.len() as u64;
    let (words, rest) = frame.get(HEADER_END..).unwrap_or_default().as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| mix(state, u64::from_be_bytes(*word)));
    if rest.is_empty() { state } else { mix(state, padded(rest)) }
}

/// The checksum of a frame whose filling has led to `state`.
fn sum_header(state: u64, header: &[u8; HEADER_END]) -> u32 {
    let [first, second] = [part(header, COVERED), part(header, COVERED + 8)].map(u64::from_be_bytes);
    let state = mix(mix(mix(state, first), second), padded(&header[COVERED + 16..CHECKSUM]));
    // The upper half. Once more, so that it depends on every bit of the last words.
    (mix(state, 0) >> 32) as u32
}

fn mix(state: u64, word: u64) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let state = (state ^ word).wrapping_mul(PRIME);
    // Multiplication carries upwards only; this brings the upper bits down again.
    state ^ state >> 32
}

/// Fewer than 8 bytes as a word.
fn padded(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

/// `N` bytes of the header. Called with constants only, all of which lie within it.
fn part<const N: usize>(header: &[u8; HEADER_END], at: usize) -> [u8; N] {
    core::array::from_fn(|index| header[at + index])
}

/// Sequence numbers that are remembered one by one.
const WINDOW: u64 = 1024;

/// Judges received sequence numbers.
#[derive(Debug)]
pub(super) struct Checker {
    stats: GeneratorStats,
    /// Which of the last [`WINDOW`] numbers below `stats.expected` were seen; the bit of a number is number % WINDOW.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for Checker {
    fn default() -> Self {
        Self { stats: GeneratorStats::default(), seen: [0; (WINDOW / 64) as usize] }
    }
}

impl Checker {
    pub(super) fn stats(&self) -> GeneratorStats {
        self.stats
    }

    /// A frame that is not of the stream came.
    pub(super) fn see_foreign(&mut self) {
        self.stats.foreign += 1;
    }

    /// A frame of the stream came.
    pub(super) fn see(&mut self, sequence: u64, intact: bool) {
        // The last number has no successor; a generator does not get that far.
        if !intact || sequence == u64::MAX {
            self.stats.corrupt += 1;
            return;
        }
        let ahead = sequence.checked_sub(self.stats.expected);
        if let Some(skipped) = ahead {
            self.forget(self.stats.expected, skipped.saturating_add(1));
            self.stats.expected = sequence + 1;
        } else if self.stats.expected - sequence > WINDOW {
            self.stats.duplicates += 1;
            return;
        }
        let (word, bit) = place(sequence);
        if self.seen[word] & bit != 0 {
            self.stats.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.stats.received += 1;
        self.stats.reordered += u64::from(ahead.is_none());
    }

    /// Clears the bits of `count` numbers from `first` on: they come into the window.
    fn forget(&mut self, first: u64, count: u64) {
        if count >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for number in first..first.saturating_add(count) {
            let (word, bit) = place(number);
            self.seen[word] &= !bit;
        }
    }
}

/// Word and bit of a sequence number in the window.
fn place(sequence: u64) -> (usize, u64) {
    ((sequence % WINDOW / 64) as usize, 1 << (sequence % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(numbers: impl IntoIterator<Item = u64>) -> GeneratorStats {
        let mut checker = Checker::default();
        for number in numbers {
            checker.see(number, true);
        }
        checker.stats()
    }

    #[test]
    fn the_window_goes_on_for_ever() {
        let stats = judged(0..5000);
        assert_eq!((stats.received, stats.duplicates, stats.reordered, stats.lost()), (5000, 0, 0, 0));
    }

    #[test]
    fn a_gap_as_wide_as_the_window_leaves_no_old_bits() {
        for gap in [WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW] {
            let stats = judged((0..WINDOW).chain(WINDOW + gap..2 * WINDOW + gap));
            assert_eq!((stats.received, stats.duplicates, stats.lost()), (2 * WINDOW, 0, gap), "gap {gap}");
        }
    }

    #[test]
    fn a_late_frame_counts_within_the_window_only() {
        let stats = judged([0, WINDOW + 1, 2, 1]);
        assert_eq!((stats.received, stats.reordered, stats.duplicates), (3, 1, 1));
    }

    #[test]
    fn the_last_number_does_not_overflow() {
        let stats = judged([u64::MAX, u64::MAX - 1]);
        assert_eq!((stats.corrupt, stats.received, stats.expected), (1, 1, u64::MAX));
    }
}
