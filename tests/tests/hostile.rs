//! Hostile bytes from a seed: no panic, no hang, no memory sized by the host.
//!
//! Each message goes through the parsers, and to a NIC (or the client of the control plane) in whatever state it is. By
//! default there are 300 thousand; `HOSTILE_MESSAGES` says how many, `HOSTILE_SEED` where to start.

use std::env;

use netvsc_allocations::{Counting, held_here, peak_here, reset_peak};
use netvsc_hostile::corpus::Corpus;
use netvsc_hostile::nic::{Session, Settings};
use netvsc_hostile::seeded::Seeded;
use netvsc_hostile::{client, parsers};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Steps of one session with a NIC, at most.
const STEPS: u64 = 400;

/// Messages of one session of the control plane.
const CLIENT_MESSAGES: u64 = 200;

/// Most bytes that a session may hold, and what the messages that are being parsed may take: rings, buffers and the burst
/// take about half a MiB, events and control messages that wait the rest.
const MAX_BYTES: usize = 4 << 20;

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|error| panic!("{name} is {value:?}, which is no number: {error}"))
    })
}

/// What a run has come across.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    sessions: u64,
    came_up: u64,
    frames: u64,
    client_sessions: u64,
    peak_bytes: usize,
}

impl Tally {
    /// Runs `session` and says how much more memory it took than there was before; afterwards nothing of it is left.
    fn measured(&mut self, session: impl FnOnce(&mut Self)) {
        let before = held_here();
        reset_peak();
        session(self);
        let peak = peak_here() - before;
        self.peak_bytes = self.peak_bytes.max(peak);
        assert!(peak <= MAX_BYTES, "a session took {peak} bytes: {self:?}");
        assert_eq!(held_here(), before, "bytes left by a session: {self:?}");
    }

    fn nic_session(&mut self, hostile: &mut Seeded<'_>, limit: u64) {
        // Mostly a device that is up: what is wrong before is seen sooner.
        let bits = hostile.byte();
        let mut settings = Settings::from_bits(bits);
        settings.up |= bits & 0xC0 != 0;
        let mut session = Session::new(settings);
        for _ in 0..STEPS {
            let step = hostile.step();
            session.step(&step);
            if step.is_of_host() {
                self.messages += 1;
                let payload = step.payload();
                parsers::rndis_message(payload);
                parsers::rndis_packet(payload);
                parsers::nvsp_message(payload);
            }
            if session.is_over() || self.messages >= limit {
                break;
            }
        }
        self.sessions += 1;
        self.came_up += u64::from(session.is_up());
        self.frames += session.frames();
        if !session.is_over() {
            session.finish();
        }
    }

    fn client_session(&mut self, hostile: &mut Seeded<'_>, limit: u64) {
        let mut session = client::Session::default();
        for _ in 0..CLIENT_MESSAGES {
            if hostile.byte() < 40 {
                session.ask(hostile.byte(), hostile.byte());
            }
            let message = hostile.vmbus();
            session.message(&message);
            parsers::vmbus_message(&message);
            self.messages += 1;
            if self.messages >= limit {
                break;
            }
        }
        self.client_sessions += 1;
    }
}

#[test]
fn hostile_messages_do_no_harm() {
    let wanted = setting("HOSTILE_MESSAGES", 300_000);
    let seed = setting("HOSTILE_SEED", 1);
    println!("{wanted} hostile messages, seed {seed}");
    let corpus = Corpus::load();
    let mut hostile = Seeded::new(seed, &corpus);
    let mut tally = Tally::default();
    while tally.messages < wanted {
        if tally.client_sessions * 4 < tally.sessions {
            tally.measured(|tally| tally.client_session(&mut hostile, wanted));
        } else {
            tally.measured(|tally| tally.nic_session(&mut hostile, wanted));
        }
    }
    println!("{tally:?}");
    assert!(tally.messages >= wanted);
    assert!(tally.frames * 50 > tally.messages, "some messages are frames after all: {tally:?}");
    assert!(tally.came_up * 2 > tally.sessions, "most sessions get somewhere: {tally:?}");
}
