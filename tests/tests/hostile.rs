//! Hostile bytes from a seed: no panic, no hang, no memory sized by the host.
//!
//! Each message goes through the parsers, and to a NIC (or the client of the control plane) in whatever state it is. By
//! default there are 300 thousand; `HOSTILE_MESSAGES` says how many, `HOSTILE_SEED` where to start.

use core::alloc::Layout;
use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;
use std::env;

use netvsc_hostile::corpus::Corpus;
use netvsc_hostile::nic::{Session, Settings};
use netvsc_hostile::seeded::Seeded;
use netvsc_hostile::{client, parsers};

thread_local! {
    /// Bytes allocated and not freed by this thread.
    static HELD: Cell<usize> = const { Cell::new(0) };
    /// The most that this ever was, since it was reset.
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with bytes counted by thread.
struct Counting;

fn count(add: usize, subtract: usize) {
    // Fails only while the thread ends; nothing is measured then.
    let _ = HELD.try_with(|held| {
        held.set((held.get() + add).saturating_sub(subtract));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait; it hands every call on")]
// SAFETY: every method hands its arguments to `System` unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

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
        let before = HELD.get();
        PEAK.set(before);
        session(self);
        let peak = PEAK.get() - before;
        self.peak_bytes = self.peak_bytes.max(peak);
        assert!(peak <= MAX_BYTES, "a session took {peak} bytes: {self:?}");
        assert_eq!(HELD.get(), before, "bytes left by a session: {self:?}");
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
