//! Nothing is lost: seeded random traffic against a fake host that takes its time, both ways at once.

mod queue_host;

use std::collections::VecDeque;

use netvsc::queue::{AggregateLimits, Burst, ControlInput, ControlToken, SendError};
use nvsp::Status;
use vmbus::packet::{TransactionId, TransferRange};

use queue_host::{FromGuest, Host, Setup, TestQueue, frame, message, pair, send};

/// A source of numbers that is the same on every run (SplitMix64).
struct Random(u64);

impl Random {
    fn new(seed: u8) -> Self {
        Self(u64::from(seed))
    }

    /// A number in `0..limit`.
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed >> 32) as u32) % limit
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }
}

/// The host's policy: which of its sections are with the guest, what waits.
struct Server {
    host: Host,
    random: Random,
    free: Vec<u32>,
    /// Packets with the guest, and their sections.
    lent: Vec<(u64, Vec<u32>)>,
    next_id: u64,
    /// Sends that are not completed yet.
    uncompleted: Vec<TransactionId>,
    received: Vec<Vec<u8>>,
    delivered: u32,
    controls: usize,
}

impl Server {
    fn read(&mut self) {
        let budget = self.random.below(40);
        for _ in 0..budget {
            let Some(packet) = self.host.next() else { break };
            match &packet {
                FromGuest::Ack { id, status } => {
                    assert_eq!(*status, Status::SUCCESS);
                    let at =
                        self.lent.iter().position(|(lent, _)| *lent == id.0).expect("an id that is with the guest");
                    self.free.extend(self.lent.swap_remove(at).1);
                }
                FromGuest::InBand { id, .. } => {
                    self.controls += 1;
                    self.uncompleted.push(*id);
                }
                FromGuest::Section { .. } | FromGuest::Direct { .. } => {
                    self.received.extend(packet.frames());
                    self.uncompleted.push(packet.id());
                }
            }
        }
        self.host.commit();
    }

    fn complete(&mut self) {
        for _ in 0..self.random.below(10) {
            if self.uncompleted.is_empty() {
                break;
            }
            let at = self.random.below(self.uncompleted.len() as u32) as usize;
            let id = self.uncompleted[at];
            if self.host.producer.free_bytes().unwrap() < 64 {
                break;
            }
            self.uncompleted.swap_remove(at);
            self.host.complete(id, Status::SUCCESS);
            if self.random.one_in(8) {
                // Once more, and one that never was.
                let foreign = TransactionId(u64::from(self.random.below(u32::MAX)));
                for id in [id, foreign] {
                    if !self.uncompleted.contains(&id) && self.host.producer.free_bytes().unwrap() >= 64 {
                        self.host.complete(id, Status::SUCCESS);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, total: u32) {
        while self.delivered < total && !self.random.one_in(3) {
            let wanted = (1 + self.random.below(20)).min(total - self.delivered);
            if self.free.len() < wanted as usize || self.host.producer.free_bytes().unwrap() < 128 + 8 * wanted {
                break;
            }
            let mut sections = Vec::new();
            let ranges: Vec<TransferRange> = (0..wanted)
                .map(|_| {
                    let section = self.free.remove(0);
                    sections.push(section);
                    let len = 60 + self.random.below(1400) as usize;
                    let mut bytes = message(&frame(self.delivered, len));
                    if self.random.one_in(2) {
                        bytes.resize(1728, 0xAA);
                    }
                    self.delivered += 1;
                    self.host.put(section, &bytes)
                })
                .collect();
            self.next_id += 1;
            self.host.deliver(self.next_id, &ranges);
            self.lent.push((self.next_id, sections));
        }
    }
}

/// Numbers of the frames, which tell their order.
fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[2..6].try_into().unwrap())
}

fn run(seed: u8, setup: Setup, total: u32) {
    let (mut queue, host) = pair(setup);
    let mut server = Server {
        host,
        random: Random::new(seed),
        free: (0..setup.receive_sections).collect(),
        lent: Vec::new(),
        next_id: 100,
        uncompleted: Vec::new(),
        received: Vec::new(),
        delivered: 0,
        controls: 0,
    };
    let mut random = Random::new(seed ^ 0x55);
    let mut burst = Burst::new(32, 32 * 1024);
    let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
    let (mut sent, mut got, mut tokens, mut completed) = (0, 0, 0, 0);
    let mut idle = 0;
    while sent < total || got < total || queue.outstanding() > 0 || !server.lent.is_empty() {
        let before = (sent, got, queue.outstanding(), server.lent.len());
        guest_sends(&mut queue, &mut random, &mut sent, total, setup, &mut expected);
        if random.one_in(10) && tokens < 1000 && queue.send_nvsp(&[9; 40], Some(ControlToken(tokens))).is_ok() {
            tokens += 1;
        }
        if random.one_in(3) {
            queue.flush().unwrap();
        }
        server.read();
        server.complete();
        server.deliver(total);
        if random.one_in(2) {
            queue.pump().unwrap();
        }
        if !random.one_in(3) {
            let max = 1 + random.below(40) as usize;
            queue.receive(&mut burst, max).unwrap();
            for received in burst.frames() {
                assert_eq!(received.bytes, frame(got, received.bytes.len()), "in order, byte by byte");
                got += 1;
            }
            burst.clear();
        }
        while let Some(input) = queue.poll_control() {
            assert!(matches!(input, ControlInput::Completed { .. }));
            completed += 1;
        }
        if sent == total {
            queue.flush().unwrap();
        }
        idle = if before == (sent, got, queue.outstanding(), server.lent.len()) { idle + 1 } else { 0 };
        assert!(idle < 1000, "stuck: sent {sent}, got {got}, {} outstanding", queue.outstanding());
    }
    assert_eq!(server.received.len(), total as usize);
    assert!(server.received.iter().eq(expected.iter()), "what was sent arrived, in order");
    assert!(server.received.iter().map(|frame| number(frame)).eq(0..total));
    assert_eq!((completed, server.controls as u32), (tokens, tokens));
    assert_eq!(queue.free_send_sections(), setup.send_sections as usize, "all sections are back");
    assert_eq!(queue.free_direct_pages(), setup.direct_pages);
    assert_eq!(queue.owed_acks(), 0);
    server.free.sort_unstable();
    assert!(server.free.into_iter().eq(0..setup.receive_sections), "the host has all its sections back");
    let stats = queue.stats();
    assert_eq!((stats.tx.packets, stats.rx.packets), (u64::from(total), u64::from(total)));
    assert_eq!((stats.extra.tx_dropped, stats.extra.rx_dropped, stats.extra.bad_packets), (0, 0, 0));
    assert_eq!(stats.tx.bytes, expected.iter().map(|frame| frame.len() as u64).sum::<u64>());
}

fn guest_sends(
    queue: &mut TestQueue,
    random: &mut Random,
    sent: &mut u32,
    total: u32,
    setup: Setup,
    expected: &mut VecDeque<Vec<u8>>,
) {
    for _ in 0..random.below(12) {
        if *sent == total {
            break;
        }
        let longest = if setup.direct_pages > 0 && random.one_in(10) { 9000 } else { 1500 };
        let frame = frame(*sent, 60 + random.below(longest) as usize);
        let could = queue.can_send(frame.len());
        match send(queue, &frame) {
            Ok(()) => {
                expected.push_back(frame);
                *sent += 1;
            }
            Err(SendError::Full) => {
                assert!(!could, "promised room for {} bytes", frame.len());
                let room = queue.want_send_room(frame.len()).unwrap();
                assert_eq!(room, queue.can_send(frame.len()));
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn nothing_is_lost() {
    let base = Setup { receive_sections: 64, ..Setup::default() };
    let limits = |max_packets, alignment| AggregateLimits { max_packets, max_bytes: 4000, alignment };
    let setups = [
        base,
        Setup { ring_bytes: 4096, ..base },
        Setup { ring_bytes: 4096, send_sections: 2, receive_sections: 20, ..base },
        Setup { direct_pages: 8, send_sections: 3, ..base },
        Setup { direct_pages: 32, send_sections: 0, ring_bytes: 8192, ..base },
        Setup { limits: limits(1, 1), ..base },
        Setup { limits: limits(100, 64), send_sections: 170, ..base },
        Setup { subchannel: 0, send_sections: 10, ring_bytes: 4096, ..base },
    ];
    for (at, setup) in setups.into_iter().enumerate() {
        for seed in 0..4 {
            run(at as u8 * 16 + seed, setup, 1500);
        }
    }
}
