//! A device closed at every moment of its life, between any two steps of guest and host: at its first bring-up, and while it is
//! changed at run time. Whatever the host was asked for last, it is left with nothing.

use std::task::{Context, Waker};
use std::time::Duration;

use netvsc::control::Parameters;
use netvsc::{Config, Event, Instant, Nic, Queue};
use netvsc_host::{Host, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

/// Steps in which everything here is over.
const ENOUGH: usize = 1000;

/// A device and its host, which take turns: one step each.
struct Turns {
    host: Host,
    nic: Nic<MemBus>,
    queues: Vec<Queue<MemChannel>>,
    events: Vec<Event>,
    host_is_next: bool,
}

impl Turns {
    fn new() -> Self {
        let host = Host::builder().build();
        let bus = MemBus::new(host.add_nic(NicOptions::new().queues(4)));
        let config = Config::default().receive_sections(64).send_sections(16).direct_bytes(1 << 16).queues(3);
        let nic = Nic::new(bus, config, Instant::ZERO).expect("a configuration that can be");
        Self { host, nic, queues: Vec::new(), events: Vec::new(), host_is_next: false }
    }

    /// One of the two does what it can, without the other.
    fn step(&mut self) {
        if self.host_is_next {
            self.host.step(Duration::ZERO);
        } else {
            let mut cx = Context::from_waker(Waker::noop());
            self.nic.poll_queues(Instant::ZERO, &mut cx, &mut self.queues).expect("a sound bus");
            self.queues.extend(std::iter::from_fn(|| self.nic.take_queue()));
            self.events.extend(std::iter::from_fn(|| self.nic.poll_event()));
        }
        self.host_is_next = !self.host_is_next;
    }

    /// Steps until `done`; how many.
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> usize {
        let steps = (0..ENOUGH).find(|_| {
            let done = done(self);
            if !done {
                self.step();
            }
            done
        });
        steps.unwrap_or_else(|| panic!("it does not come to an end: {:?}", self.events))
    }

    /// Closes it now; nothing must be left.
    fn close(mut self, moment: &str) {
        self.nic.close(Instant::ZERO);
        self.run_until(|turns| turns.nic.is_over());
        self.events.extend(std::iter::from_fn(|| self.nic.poll_event()));
        let clean = matches!(self.events.last(), Some(Event::Closed(report)) if report.is_clean());
        assert!(clean, "{moment}: {:?}", self.events);
        // Each hears what the other said last.
        (0..20).for_each(|_| self.step());
        let report = self.host.report();
        assert!(report.is_clean(), "{moment}: {report:?}");
    }
}

fn up() -> Turns {
    let mut turns = Turns::new();
    turns.run_until(|turns| turns.nic.info().is_some());
    turns.events.clear();
    turns
}

#[test]
fn a_bring_up_that_is_closed_at_any_moment_leaves_nothing() {
    let all = Turns::new().run_until(|turns| turns.nic.info().is_some());
    assert!(all > 40, "{all} steps");
    for at in 0..=all {
        let mut turns = Turns::new();
        (0..at).for_each(|_| turns.step());
        turns.close(&format!("after {at} of {all} steps of the bring-up"));
    }
}

#[test]
fn a_change_that_is_closed_at_any_moment_leaves_nothing() {
    let change = |turns: &mut Turns| {
        let parameters = Parameters::default().mtu(4000).queues(4);
        turns.nic.reconfigure(Instant::ZERO, parameters).expect("possible");
    };
    let mut turns = up();
    change(&mut turns);
    let all = turns.run_until(|turns| !turns.nic.is_reconfiguring());
    let there_was = |which: fn(&Event) -> bool| turns.events.iter().any(which);
    assert!(there_was(|event| matches!(event, Event::Detached(_))), "{:?}", turns.events);
    assert!(there_was(|event| matches!(event, Event::Attached(_))), "{:?}", turns.events);
    for at in 0..=all {
        let mut turns = up();
        change(&mut turns);
        (0..at).for_each(|_| turns.step());
        turns.close(&format!("after {at} of {all} steps of the change"));
    }
}
