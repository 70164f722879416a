//! The other end of a cable: keeps frames under way, and checks each that comes back.
//!
//! The guest forwards what it gets. At most `credit` frames are under way at a time, so nothing is dropped for want of
//! room, and every frame that does not come back was lost by somebody. Each frame carries, at the end of its headers,
//!
//! | bytes | what |
//! |---|---|
//! | 8 | sequence number |
//! | 2 | slot: which of the `credit` frames it is |
//! | 2 | flow |
//! | 4 | checksum of these |
//!
//! and a filling that differs from slot to slot. What comes back must be, from the Ethernet type on, bit by bit what was
//! sent, its checksums included, and in order within each flow: a host steers a flow to one queue.
//!
//! | a frame that did not come back | within | counts as |
//! |---|---|---|
//! | sent before the first one came back | a second | `flushed_before_start`: programs empty their queues when they start |
//! | later, and the guest gave its receive section back | five seconds | `lost` |
//! | later, but the guest has not taken it yet | | nothing: it is still under way |
//! | under way when the guest closed its filter or went | | `in_flight_at_close` |
//!
//! Time in which the host itself stood still does not count.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::port::{Frame, FrameMeta, Port};

/// How long a frame may be under way: guests share processors with others.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same before the first one came back.
const FLUSHED: Duration = Duration::from_secs(1);
/// How often overdue frames are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Bytes of the mark: sequence, slot, flow, checksum.
const MARK: usize = 16;

/// What kind of frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Traffic {
    /// An Ethernet type for local experiments (0x88b5): all in one flow as far as a host can see.
    Ethernet,
    /// UDP over IPv4; flows differ in address and port.
    #[default]
    Udp,
    /// TCP over IPv4; flows differ in address and port.
    Tcp,
}

impl Traffic {
    const fn headers(self) -> usize {
        match self {
            Self::Ethernet => ETHERNET,
            Self::Udp => ETHERNET + IPV4 + 8,
            Self::Tcp => ETHERNET + IPV4 + 20,
        }
    }
}

/// What a [`ClosedLoopPort`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedLoopConfig {
    /// The guest's address.
    pub destination: [u8; 6],
    /// The port's own.
    pub source: [u8; 6],
    /// Frames under way at most, 1 to 65535.
    pub credit: usize,
    /// Bytes of a frame, without frame check sequence.
    pub frame_bytes: usize,
    /// How many flows, 1 to 250.
    pub flows: usize,
    /// What kind of frames.
    pub traffic: Traffic,
}

/// Why a closed loop cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidClosedLoop {
    /// The frame has no room for headers and mark, or is longer than 9018 bytes.
    FrameBytes {
        /// Bytes asked for.
        value: usize,
        /// Least bytes for this kind.
        least: usize,
    },
    /// Not between 1 and 65535.
    Credit {
        /// What was asked for.
        value: usize,
    },
    /// Not between 1 and 250.
    Flows {
        /// What was asked for.
        value: usize,
    },
}

impl core::fmt::Display for InvalidClosedLoop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::FrameBytes { value, least } => write!(f, "frames of {value} bytes: {least} to 9018 are possible"),
            Self::Credit { value } => write!(f, "credit of {value} frames: 1 to 65535 are possible"),
            Self::Flows { value } => write!(f, "{value} flows: 1 to 250 are possible"),
        }
    }
}

impl core::error::Error for InvalidClosedLoop {}

/// What a closed loop has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedLoopStats {
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back whole, each once.
    pub returned: u64,
    /// Frames that were sent while frames came back, taken by the guest, and did not come back.
    pub lost: u64,
    /// Frames that were sent before the first one came back, and never did.
    pub flushed_before_start: u64,
    /// Frames under way when the guest stopped listening.
    pub in_flight_at_close: u64,
    /// Frames that are not what was sent.
    pub corrupt: u64,
    /// Frames that came back behind a later one of their flow.
    pub reordered: u64,
    /// Frames that came back although they had come back before, or were given up.
    pub late: u64,
    /// Frames that are none of the loop's.
    pub foreign: u64,
}

/// One of the frames.
#[derive(Debug)]
struct Slot {
    frame: Vec<u8>,
    /// Sum over what the transport checksum covers, but the mark.
    sum: u32,
    sequence: u64,
    sent_at: Duration,
    under_way: bool,
    /// Sent before the first one came back.
    early: bool,
}

/// The port. Plug it into a switch with a NIC and nothing else.
#[derive(Debug)]
pub struct ClosedLoopPort {
    config: ClosedLoopConfig,
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    /// The next sequence number that each flow may bring.
    flows: Vec<u64>,
    next_sequence: u64,
    started: bool,
    /// When it was polled last.
    polled_at: Duration,
    /// How long it has been polled for, gaps left out: frames are timed by this.
    watched: Duration,
    next_look: Duration,
    session: u64,
    stats: ClosedLoopStats,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    stats: ClosedLoopStats,
    /// The guest listens.
    listening: bool,
    /// Frames that the guest has, or will get, and has not given back.
    held: u64,
    /// How often a session ended.
    session: u64,
}

/// Watches a [`ClosedLoopPort`].
#[derive(Debug, Clone)]
pub struct ClosedLoopHandle {
    shared: Arc<Mutex<Shared>>,
}

impl ClosedLoopHandle {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has seen, as of its last poll.
    #[must_use]
    pub fn stats(&self) -> ClosedLoopStats {
        self.lock().stats
    }

    /// Says whether the guest listens, and how many frames were sent to it whose receive sections it has not given back.
    pub fn tell(&self, listening: bool, held: u64) {
        let mut shared = self.lock();
        shared.listening = listening;
        shared.held = held;
    }

    /// Says that the guest is gone: what is under way is not lost by it.
    pub fn session_ended(&self) {
        let mut shared = self.lock();
        shared.listening = false;
        shared.session += 1;
    }
}

impl ClosedLoopPort {
    /// A port, and the handle to watch it by. Nothing is sent before the handle was told that the guest listens.
    ///
    /// # Errors
    /// [`InvalidClosedLoop`].
    pub fn new(config: ClosedLoopConfig) -> Result<(Self, ClosedLoopHandle), InvalidClosedLoop> {
        let least = config.traffic.headers() + MARK;
        if !(least..=9018).contains(&config.frame_bytes) {
            return Err(InvalidClosedLoop::FrameBytes { value: config.frame_bytes, least });
        }
        let last = u16::try_from(config.credit).ok().filter(|&credit| credit > 0);
        let last = last.ok_or(InvalidClosedLoop::Credit { value: config.credit })?;
        if !(1..=250).contains(&config.flows) {
            return Err(InvalidClosedLoop::Flows { value: config.flows });
        }
        let shared = Arc::<Mutex<Shared>>::default();
        let port = Self {
            slots: (0..last).map(|slot| Slot::new(&config, slot)).collect(),
            free: (0..last).collect(),
            flows: vec![0; config.flows],
            next_sequence: 0,
            started: false,
            polled_at: Duration::ZERO,
            watched: Duration::ZERO,
            next_look: Duration::ZERO,
            session: 0,
            stats: ClosedLoopStats::default(),
            shared: Arc::clone(&shared),
            config,
        };
        Ok((port, ClosedLoopHandle { shared }))
    }

    /// A frame that is one of ours, and whole.
    fn accept(&mut self, bytes: &[u8]) -> Option<()> {
        let mark = bytes.get(self.config.traffic.headers()..)?.first_chunk::<MARK>()?;
        let (sequence, slot, flow) = read_mark(mark)?;
        let entry = self.slots.get_mut(usize::from(slot))?;
        if entry.sequence != sequence || !entry.under_way {
            self.stats.late += 1;
            return Some(());
        }
        // The addresses may be the forwarder's.
        if bytes.get(12..)? != entry.frame.get(12..)? {
            return None;
        }
        entry.under_way = false;
        self.free.push_back(slot);
        self.stats.returned += 1;
        self.started = true;
        let expected = self.flows.get_mut(usize::from(flow))?;
        if sequence < *expected {
            self.stats.reordered += 1;
        } else {
            *expected = sequence + 1;
        }
        Some(())
    }

    /// The guest stopped listening: what is under way is not lost by it.
    fn close(&mut self) {
        self.started = false;
        for (slot, entry) in (0..).zip(&mut self.slots) {
            if std::mem::take(&mut entry.under_way) {
                self.stats.in_flight_at_close += 1;
                self.free.push_back(slot);
            }
        }
    }

    /// Gives frames up that are overdue.
    fn look(&mut self, held: u64) {
        let now = self.watched;
        let overdue = |entry: &Slot| {
            let patience = if entry.early { FLUSHED } else { PATIENCE };
            entry.under_way && now.saturating_sub(entry.sent_at) > patience
        };
        // Of the overdue frames, as many as the guest may still have are not lost yet.
        let later = self.slots.iter().filter(|entry| overdue(entry) && !entry.early).count() as u64;
        let mut lost = later.saturating_sub(held);
        let unread = held >= self.slots.len() as u64;
        for (slot, entry) in (0..).zip(&mut self.slots) {
            if !overdue(entry) || (!entry.early && lost == 0) || (entry.early && unread) {
                continue;
            }
            if entry.early {
                self.stats.flushed_before_start += 1;
            } else {
                self.stats.lost += 1;
                lost -= 1;
            }
            entry.under_way = false;
            self.free.push_back(slot);
        }
    }
}

impl Port for ClosedLoopPort {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        let (returned, late) = (self.stats.returned, self.stats.late);
        if self.accept(frame.bytes).is_none() && (returned, late) == (self.stats.returned, self.stats.late) {
            let ours = frame.bytes.get(12..14) == self.slots.first().and_then(|slot| slot.frame.get(12..14));
            if ours && frame.bytes.len() == self.config.frame_bytes {
                self.stats.corrupt += 1;
            } else {
                self.stats.foreign += 1;
            }
        }
        true
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        // A host that was stopped finds answers that have waited for it as long.
        self.watched += now.saturating_sub(self.polled_at).min(LOOK_INTERVAL);
        self.polled_at = now;
        let (listening, held, session) = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.stats = self.stats;
            (shared.listening, shared.held, shared.session)
        };
        if session != self.session || !listening {
            self.session = session;
            if self.free.len() < self.slots.len() || self.started {
                self.close();
                self.shared.lock().unwrap_or_else(PoisonError::into_inner).stats = self.stats;
            }
            return 0;
        }
        if self.watched >= self.next_look {
            self.next_look = self.watched + LOOK_INTERVAL;
            self.look(held);
        }
        let count = self.free.len().min(budget);
        for _ in 0..count {
            let Some(slot) = self.free.pop_front() else { break };
            let entry = &mut self.slots[usize::from(slot)];
            entry.send(&self.config, slot, self.next_sequence);
            entry.sent_at = self.watched;
            entry.early = !self.started;
            self.next_sequence += 1;
            self.stats.sent += 1;
            // Its checksums were computed here, and need not be verified.
            out(Frame::with_meta(&entry.frame, FrameMeta::VERIFIED));
        }
        count
    }

    fn next_timeout(&self, _now: Duration) -> Option<Duration> {
        Some(LOOK_INTERVAL)
    }
}

impl Slot {
    fn new(config: &ClosedLoopConfig, slot: u16) -> Self {
        let mut frame = vec![0; config.frame_bytes];
        let flow = usize::from(slot) % config.flows;
        let headers = config.traffic.headers();
        write_headers(&mut frame, config, flow as u8);
        for (chunk, salt) in frame[headers + MARK..].chunks_mut(8).zip(1_u64..) {
            let word = (u64::from(slot) << 32 | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&word.to_be_bytes()[..chunk.len()]);
        }
        let transport = &frame[ETHERNET..];
        let sum = match config.traffic {
            Traffic::Ethernet => 0,
            // Addresses, protocol and length, then the rest of the packet, whose mark and checksum are still 0.
            _ => {
                let bytes = transport.len() - IPV4;
                sum_of(u32::from(transport[9]) + bytes as u32, &transport[12..])
            }
        };
        Self { frame, sum, sequence: 0, sent_at: Duration::ZERO, under_way: false, early: false }
    }

    /// Makes it the frame of this number.
    fn send(&mut self, config: &ClosedLoopConfig, slot: u16, sequence: u64) {
        self.sequence = sequence;
        self.under_way = true;
        let headers = config.traffic.headers();
        let mark = mark(sequence, slot, (usize::from(slot) % config.flows) as u16);
        self.frame[headers..headers + MARK].copy_from_slice(&mark);
        let place = match config.traffic {
            Traffic::Ethernet => return,
            Traffic::Udp => headers - 2,
            Traffic::Tcp => headers - 4,
        };
        let sum = !fold(sum_of(self.sum, &mark));
        // A UDP checksum of 0 would mean that there is none.
        let sum = if sum == 0 && config.traffic == Traffic::Udp { 0xFFFF } else { sum };
        self.frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn mark(sequence: u64, slot: u16, flow: u16) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark[..8].copy_from_slice(&sequence.to_be_bytes());
    mark[8..10].copy_from_slice(&slot.to_be_bytes());
    mark[10..12].copy_from_slice(&flow.to_be_bytes());
    let check = check_of(sequence, slot, flow);
    mark[12..].copy_from_slice(&check.to_be_bytes());
    mark
}

fn read_mark(mark: &[u8; MARK]) -> Option<(u64, u16, u16)> {
    let [a, b, c, d, e, f, g, h, s0, s1, f0, f1, check @ ..] = *mark;
    let sequence = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let (slot, flow) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([f0, f1]));
    (u32::from_be_bytes(check) == check_of(sequence, slot, flow)).then_some((sequence, slot, flow))
}

/// Mixes so that each bit counts (a step of SplitMix64).
fn check_of(sequence: u64, slot: u16, flow: u16) -> u32 {
    let mut word = sequence ^ u64::from(slot) << 48 ^ u64::from(flow) << 32 ^ 0x6c6f_6f70_6c6f_6f70;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word >> 32) as u32
}

fn write_headers(frame: &mut [u8], config: &ClosedLoopConfig, flow: u8) {
    frame[..6].copy_from_slice(&config.destination);
    frame[6..12].copy_from_slice(&config.source);
    let (kind, protocol) = match config.traffic {
        Traffic::Ethernet => (0x88b5_u16, 0),
        Traffic::Udp => (0x0800, 17),
        Traffic::Tcp => (0x0800, 6),
    };
    frame[12..ETHERNET].copy_from_slice(&kind.to_be_bytes());
    if config.traffic == Traffic::Ethernet {
        return;
    }
    let total = (frame.len() - ETHERNET) as u16;
    let (ip, transport) = frame[ETHERNET..].split_at_mut(IPV4);
    // Addresses that are for documentation and benchmarks only (RFC 5737, RFC 2544).
    let (from, to) = ([198, 18, 0, flow + 1], [192, 0, 2, 1]);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let sum = !fold(sum_of(0, ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    transport[..2].copy_from_slice(&(49152 + u16::from(flow)).to_be_bytes());
    transport[2..4].copy_from_slice(&9_u16.to_be_bytes());
    if config.traffic == Traffic::Udp {
        transport[4..6].copy_from_slice(&(total - IPV4 as u16).to_be_bytes());
    } else {
        transport[12] = 5 << 4;
        // ACK.
        transport[13] = 0x10;
        transport[14..16].copy_from_slice(&0xFFFF_u16.to_be_bytes());
    }
}

fn sum_of(sum: u32, bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    // At most 9018 bytes: no overflow.
    let sum = words.iter().fold(sum, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    sum + odd.first().map_or(0, |&byte| u32::from(byte) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(traffic: Traffic) -> ClosedLoopConfig {
        let (destination, source) = ([0, 0x15, 0x5d, 0, 0, 1], [2, 0, 0, 0, 0, 1]);
        ClosedLoopConfig { destination, source, credit: 8, frame_bytes: 101, flows: 2, traffic }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sent(port: &mut ClosedLoopPort, now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        port.poll(now, usize::MAX, &mut |frame| frames.push(frame.bytes.to_vec()));
        frames
    }

    /// Polls as often as it wishes, until then.
    fn pass(port: &mut ClosedLoopPort, until: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while port.polled_at < until {
            let now = until.min(port.polled_at + port.next_timeout(port.polled_at).unwrap());
            frames.extend(sent(port, now));
        }
        frames
    }

    fn back(port: &mut ClosedLoopPort, frame: &[u8]) {
        assert!(port.deliver(Frame::new(frame)));
    }

    #[test]
    fn nothing_is_sent_to_a_guest_that_does_not_listen() {
        let (mut port, handle) = ClosedLoopPort::new(config(Traffic::Udp)).unwrap();
        assert!(sent(&mut port, at(0)).is_empty());
        handle.tell(true, 0);
        assert_eq!(sent(&mut port, at(0)).len(), 8);
        assert!(sent(&mut port, at(1)).is_empty(), "the credit is used up");
    }

    #[test]
    fn checksums_of_every_kind_are_right() {
        for traffic in [Traffic::Udp, Traffic::Tcp] {
            let (mut port, handle) = ClosedLoopPort::new(config(traffic)).unwrap();
            handle.tell(true, 0);
            for frame in sent(&mut port, at(0)) {
                assert_eq!(fold(sum_of(0, &frame[14..34])), 0xFFFF, "{traffic:?} header");
                let pseudo = u32::from(frame[23]) + frame.len() as u32 - 34;
                assert_eq!(fold(sum_of(pseudo, &frame[26..])), 0xFFFF, "{traffic:?}");
            }
        }
    }

    #[test]
    fn every_changed_bit_behind_the_addresses_is_seen() {
        let (mut port, handle) = ClosedLoopPort::new(config(Traffic::Udp)).unwrap();
        handle.tell(true, 0);
        let frames = sent(&mut port, at(0));
        for byte in 12..frames[0].len() {
            for bit in 0..8 {
                let mut frame = frames[0].clone();
                frame[byte] ^= 1 << bit;
                back(&mut port, &frame);
            }
        }
        assert_eq!(port.stats.corrupt + port.stats.foreign, (101 - 12) * 8);
        assert_eq!((port.stats.returned, port.stats.late), (0, 0));
        let mut swapped = frames[0].clone();
        swapped[..12].rotate_left(6);
        back(&mut port, &swapped);
        assert_eq!(port.stats.returned, 1);
        back(&mut port, &frames[0]);
        assert_eq!((port.stats.returned, port.stats.late), (1, 1), "a second time");
        back(&mut port, &frames[1][..100]);
        assert_eq!(port.stats.foreign + port.stats.corrupt, (101 - 12) * 8 + 1, "shortened");
    }

    #[test]
    fn flushed_lost_and_in_flight_are_told_apart() {
        let (mut port, handle) = ClosedLoopPort::new(config(Traffic::Udp)).unwrap();
        handle.tell(true, 0);
        sent(&mut port, at(0));
        // Nothing came back for a second: the guest flushed them.
        let frames = pass(&mut port, at(1100));
        assert_eq!((frames.len(), port.stats.flushed_before_start), (8, 8));
        // One comes back: it has started. The next ones count.
        back(&mut port, &frames[7]);
        let one = sent(&mut port, at(1101));
        assert_eq!(one.len(), 1);
        frames[..7].iter().for_each(|frame| back(&mut port, frame));
        assert_eq!(port.stats.reordered, 3, "those of the same flow");
        assert_eq!(sent(&mut port, at(1102)).len(), 7);
        handle.tell(true, 3);
        pass(&mut port, at(6000));
        assert_eq!(port.stats.lost, 0, "the guest is slow");
        pass(&mut port, at(6500));
        assert_eq!(port.stats.lost, 5, "three are still the guest's");
        handle.session_ended();
        sent(&mut port, at(6501));
        assert_eq!((port.stats.lost, port.stats.in_flight_at_close), (5, 8));
        let stats = handle.stats();
        let all = stats.returned + stats.lost + stats.flushed_before_start + stats.in_flight_at_close;
        assert_eq!(stats.sent, all);
    }

    #[test]
    fn nothing_is_given_up_while_the_host_stands_still() {
        let (mut port, handle) = ClosedLoopPort::new(config(Traffic::Udp)).unwrap();
        handle.tell(true, 0);
        let frames = sent(&mut port, at(0));
        // Answers have waited since; they are read next.
        assert!(sent(&mut port, at(60_000)).is_empty());
        frames.iter().for_each(|frame| back(&mut port, frame));
        let frames = sent(&mut port, at(60_001));
        assert_eq!((frames.len(), port.stats.returned), (8, 8));
        assert!(sent(&mut port, at(120_000)).is_empty());
        frames.iter().for_each(|frame| back(&mut port, frame));
        assert_eq!((port.stats.returned, port.stats.late, port.stats.lost), (16, 0, 0));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let refused = |change: fn(&mut ClosedLoopConfig)| {
            let mut config = config(Traffic::Tcp);
            change(&mut config);
            ClosedLoopPort::new(config).unwrap_err()
        };
        assert_eq!(refused(|c| c.frame_bytes = 69), InvalidClosedLoop::FrameBytes { value: 69, least: 70 });
        assert_eq!(refused(|c| c.credit = 0), InvalidClosedLoop::Credit { value: 0 });
        assert_eq!(refused(|c| c.credit = 65536), InvalidClosedLoop::Credit { value: 65536 });
        assert_eq!(refused(|c| c.flows = 251), InvalidClosedLoop::Flows { value: 251 });
    }
}
