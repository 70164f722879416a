//! Hostile input from a seed: right messages, changed; now and then just noise.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use vmbus::packet::TransferRange;

use crate::corpus::{Corpus, Packet};
use crate::nic::{Edit, Id, Ring, Step};

/// Values at which something changes, as hosts may write them over a field.
const EDGES: [u32; 16] =
    [0, 1, 2, 7, 8, 11, 12, 36, 44, 1514, 1728, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF8, 0xFFFF_FFFF];

/// A source of hostile input. The same seed gives the same.
#[derive(Debug, Clone)]
pub struct Seeded<'c> {
    rng: SmallRng,
    corpus: &'c Corpus,
}

impl<'c> Seeded<'c> {
    /// From `seed`, starting from the messages in `corpus`.
    #[must_use]
    pub fn new(seed: u64, corpus: &'c Corpus) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), corpus }
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.rng.random()
    }

    /// An RNDIS message.
    pub fn rndis(&mut self) -> Vec<u8> {
        self.mutated(&self.corpus.rndis)
    }

    /// An NVSP message.
    pub fn nvsp(&mut self) -> Vec<u8> {
        self.mutated(&self.corpus.nvsp)
    }

    /// A message of the control plane.
    pub fn vmbus(&mut self) -> Vec<u8> {
        self.mutated(&self.corpus.vmbus)
    }

    /// What comes next in a session with a NIC. Mostly the host: what breaks the session for good is rare, or nothing
    /// else would ever be seen.
    pub fn step(&mut self) -> Step {
        match self.rng.random_range(0..1000) {
            0..150 => Step::Answer(self.edit()),
            150..250 => Step::AnswerAll,
            250..500 => Step::Rndis(self.rndis()),
            500..650 => self.packet(),
            650..700 => {
                let payload = self.nvsp();
                Step::Packet {
                    packet_type: if self.rng.random() { 6 } else { 11 },
                    wants_completion: self.rng.random(),
                    id: self.id(),
                    header: Vec::new(),
                    payload,
                }
            }
            700..790 => self.transfer(),
            790..830 => Step::Scribble { at: self.rng.random(), bytes: self.rndis() },
            830..840 => Step::Event(crate::nic::forged(self.byte(), self.byte())),
            840..845 => Step::HoldEvents(self.rng.random_range(0..4) == 0),
            845..860 => Step::Pass { millis: self.rng.random_range(0..200) },
            860..940 => Step::Send {
                len: self.rng.random_range(0..2000),
                count: self.rng.random_range(1..20),
                meta: self.byte(),
            },
            940..970 => Step::Arm,
            970..990 => Step::Ask(self.byte()),
            990..994 => Step::Ignore,
            994..996 => Step::RingBytes { ring: self.ring(), at: self.rng.random(), bytes: self.noise(64) },
            996..998 => Step::Word { ring: self.ring(), at: self.rng.random_range(0..18), value: self.edge() },
            998 => Step::Pass { millis: 31_000 },
            _ => Step::Close,
        }
    }

    fn packet(&mut self) -> Step {
        let at = self.rng.random_range(0..self.corpus.packets.len());
        let Packet { packet_type, header, payload } = self.corpus.packets[at].clone();
        let (mut header, mut payload) = (header, payload);
        if self.rng.random() {
            self.mutate(&mut header);
        }
        if self.rng.random() {
            self.mutate(&mut payload);
        }
        Step::Packet { packet_type, wants_completion: self.rng.random(), id: self.id(), header, payload }
    }

    fn transfer(&mut self) -> Step {
        let count = if self.rng.random_range(0..20) == 0 { 300 } else { self.rng.random_range(0..6) };
        let ranges = (0..count)
            .map(|_| TransferRange {
                byte_count: if self.rng.random() { self.rng.random_range(0..1729) } else { self.edge() },
                byte_offset: if self.rng.random() { self.rng.random_range(0..18) * 1728 } else { self.edge() },
            })
            .collect();
        let set_id = if self.rng.random_range(0..10) == 0 { self.rng.random() } else { 0xCAFE };
        Step::Transfer { set_id, id: self.rng.random_range(0..64), ranges }
    }

    fn edit(&mut self) -> Edit {
        if self.rng.random_range(0..3) == 0 {
            return Edit::default();
        }
        let bytes = (0..self.rng.random_range(0..4)).map(|_| (self.rng.random_range(0..64), self.byte())).collect();
        let cut = (self.rng.random_range(0..8) == 0).then(|| self.rng.random_range(0..64));
        Edit { bytes, cut }
    }

    fn id(&mut self) -> Id {
        if self.rng.random_range(0..4) == 0 { Id::Any(self.rng.random()) } else { Id::Recent(self.byte() % 16) }
    }

    fn ring(&mut self) -> Ring {
        if self.rng.random() { Ring::ToGuest } else { Ring::ToHost }
    }

    fn edge(&mut self) -> u32 {
        let edge = EDGES[self.rng.random_range(0..EDGES.len())];
        edge.wrapping_add(self.rng.random_range(0..3)).wrapping_sub(1)
    }

    fn noise(&mut self, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(0..=limit)];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn mutated(&mut self, from: &[Vec<u8>]) -> Vec<u8> {
        if self.rng.random_range(0..50) == 0 {
            return self.noise(240);
        }
        let mut message = from[self.rng.random_range(0..from.len())].clone();
        if self.rng.random_range(0..4) != 0 {
            self.mutate(&mut message);
        }
        message
    }

    /// Changes bytes, whole fields (of the header, more often), or the length.
    fn mutate(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.rng.random_range(1..4) {
            if message.is_empty() {
                return;
            }
            let len = message.len();
            let near = if self.rng.random() { len.min(96) } else { len };
            match self.rng.random_range(0..12) {
                0..5 => {
                    let field = self.rng.random_range(0..near) & !3;
                    let value = self.edge().to_le_bytes();
                    for (byte, new) in message[field..].iter_mut().zip(value) {
                        *byte = new;
                    }
                }
                5..8 => message[self.rng.random_range(0..near)] = self.rng.random(),
                8 => message[self.rng.random_range(0..near)] ^= 1 << self.rng.random_range(0..8),
                9 => message.truncate(self.rng.random_range(0..=len)),
                10 => {
                    let more = self.noise(32);
                    message.extend(more);
                }
                _ => {
                    let at = self.rng.random_range(0..len);
                    message.rotate_left(at & !3);
                }
            }
        }
    }
}
