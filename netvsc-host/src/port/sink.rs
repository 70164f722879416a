//! The port that counts frames, checks what can be checked of them, and keeps none.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Frame, Port};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: u8 = 17;

/// What a [`SinkPort`] has seen. Shared with the port.
#[derive(Debug, Default)]
pub struct SinkCounters {
    frames: AtomicU64,
    corrupt: AtomicU64,
}

impl SinkCounters {
    /// Frames.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Frames of IPv4 whose header contradicts itself or the frame: checksum, or lengths of the packet or of UDP.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }
}

/// Accepts every frame and keeps none. Frames of IPv4 have to be such.
#[derive(Debug, Default)]
pub struct SinkPort {
    counters: Arc<SinkCounters>,
}

impl SinkPort {
    /// A sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen.
    pub fn counters(&self) -> Arc<SinkCounters> {
        Arc::clone(&self.counters)
    }
}

impl Port for SinkPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        count(&self.counters.frames);
        if frame.bytes.get(12..ETHERNET) == Some(&[0x08, 0x00]) && !is_ipv4(&frame.bytes[ETHERNET..]) {
            count(&self.counters.corrupt);
        }
        true
    }

    fn poll(&mut self, _now: Duration, _budget: usize, _out: &mut dyn FnMut(Frame<'_>)) -> usize {
        0
    }
}

/// Counts one more. Only the port writes, so that no locked operation is needed.
#[inline]
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Whether header and lengths fit each other.
fn is_ipv4(packet: &[u8]) -> bool {
    let Some(fixed) = packet.first_chunk::<IPV4>() else { return false };
    let header = usize::from(fixed[0] & 0xF) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] >> 4 != 4 || header < IPV4 || total < header || total > packet.len() {
        return false;
    }
    let (words, _) = packet[..header].as_chunks::<2>();
    // At most 30 words: no overflow.
    let sum = words.iter().fold(0_u32, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    if (sum & 0xFFFF) + (sum >> 16) != 0xFFFF {
        return false;
    }
    if fixed[9] != UDP {
        return true;
    }
    let udp = &packet[header..total];
    udp.len() >= 8 && usize::from(u16::from_be_bytes([udp[4], udp[5]])) == udp.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram of 4 bytes.
    const GOOD: [u8; 46] = [
        2, 0, 0, 0, 0, 0x99, 0, 0x15, 0x5d, 1, 2, 3, 8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 0x40, 0x11, 0xb6, 0xc9, 192,
        0, 2, 2, 192, 0, 2, 1, 0x30, 0x39, 0, 9, 0, 12, 0x46, 0xA2, 1, 2, 3, 4,
    ];

    #[test]
    fn every_changed_bit_of_the_header_is_seen() {
        let mut sink = SinkPort::new();
        let counters = sink.counters();
        assert!(sink.deliver(Frame::new(&GOOD)));
        assert_eq!((counters.frames(), counters.corrupt()), (1, 0));
        for byte in 14..34 {
            for bit in 0..8 {
                let mut frame = GOOD;
                frame[byte] ^= 1 << bit;
                assert!(sink.deliver(Frame::new(&frame)));
            }
        }
        assert_eq!(counters.corrupt(), 160);
        assert!(sink.deliver(Frame::new(&GOOD[..45])));
        assert_eq!(counters.corrupt(), 161, "shortened");
        assert!(sink.deliver(Frame::new(&[0xFF; 60])));
        assert_eq!(counters.corrupt(), 161, "not of IPv4");
    }
}
