//! The virtual function's machine against a model of host, device and queues: every two events after one another in every
//! state, and long seeded walks. After each step what must never be is looked for; in the end everybody answers, time
//! passes, and things must stand where they belong.

use std::collections::VecDeque;
use std::time::Duration;

use netvsc::meta::Path;
use netvsc::vf::{Action, Event, Input, Machine, Settings, Stage, SwitchId};
use netvsc::{Instant, LinkState};

/// What can happen, as it is seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happens {
    Associate(u32),
    Revoke,
    /// The host takes the traffic back by itself, and the VF with it.
    Surprise,
    /// The host takes the traffic back, and leaves the VF.
    TakeBack,
    HostToVf,
    Arrive(Option<u32>),
    Vanish,
    Link(LinkState),
    /// The first of the answers that are outstanding arrives.
    AnswerSwitch,
    SwitchNotSent,
    AnswerPrepare,
    RefusePrepare,
    AnswerDrained,
    Timeout,
    /// The host does not complete anything from now on, or does again.
    Silence(bool),
    Stop,
}

const ALL: [Happens; 22] = [
    Happens::Associate(7),
    Happens::Associate(8),
    Happens::Revoke,
    Happens::Surprise,
    Happens::TakeBack,
    Happens::HostToVf,
    Happens::Arrive(Some(7)),
    Happens::Arrive(Some(8)),
    Happens::Arrive(None),
    Happens::Vanish,
    Happens::Link(LinkState::Up),
    Happens::Link(LinkState::Down),
    Happens::AnswerSwitch,
    Happens::SwitchNotSent,
    Happens::AnswerPrepare,
    Happens::RefusePrepare,
    Happens::AnswerDrained,
    Happens::Timeout,
    Happens::Silence(true),
    Happens::Silence(false),
    Happens::Stop,
    // Once more: a host that repeats itself.
    Happens::Revoke,
];

/// Ways into the states.
const STATES: [(&str, &[Happens]); 13] = {
    use Happens::*;
    [
        ("nothing", &[]),
        ("association alone", &[Associate(7)]),
        ("device alone", &[Arrive(Some(7))]),
        ("opening", &[Arrive(Some(7)), Associate(7)]),
        ("opening, by address", &[Associate(7), Arrive(None)]),
        ("link down", &[Associate(7), Arrive(Some(7)), Link(LinkState::Down), AnswerPrepare]),
        ("asking", &[Associate(7), Arrive(Some(7)), AnswerPrepare]),
        ("asking, taken back", &[Associate(7), Arrive(Some(7)), AnswerPrepare, TakeBack]),
        ("changing over", &[Associate(7), Arrive(Some(7)), AnswerPrepare, AnswerSwitch]),
        ("on the vf", &[Associate(7), Arrive(Some(7)), AnswerPrepare, AnswerSwitch, AnswerDrained]),
        ("on the vf, by address", &[Associate(7), Arrive(None), AnswerPrepare, AnswerSwitch, AnswerDrained]),
        (
            "returning",
            &[Associate(7), Arrive(Some(7)), AnswerPrepare, AnswerSwitch, AnswerDrained, Link(LinkState::Down)],
        ),
        (
            "silent",
            &[
                Associate(7),
                Arrive(Some(7)),
                AnswerPrepare,
                Silence(true),
                Timeout,
                Timeout,
                Timeout,
                Timeout,
                Timeout,
                Timeout,
            ],
        ),
    ]
};

/// What leads to the VF.
const ON_THE_WAY: [Happens; 7] = [
    Happens::Associate(7),
    Happens::Arrive(Some(7)),
    Happens::Link(LinkState::Up),
    Happens::AnswerPrepare,
    Happens::AnswerSwitch,
    Happens::AnswerDrained,
    Happens::Timeout,
];

struct World {
    machine: Machine,
    now: Instant,
    // The host.
    association: Option<u32>,
    switches: VecDeque<(SwitchId, Path)>,
    host_path: Path,
    silent: bool,
    // The device.
    device: Option<Option<u32>>,
    link: LinkState,
    opening: bool,
    /// Somebody looks for the device.
    finding: bool,
    open: bool,
    // The queues.
    sending: Path,
    send_waits: bool,
    receiving: bool,
    // What the guest knows of the host's path.
    allowed: bool,
    stopped: bool,
    log: Vec<String>,
    told: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(Settings::default()),
            now: Instant::ZERO,
            association: None,
            switches: VecDeque::new(),
            host_path: Path::Synthetic,
            silent: false,
            device: None,
            link: LinkState::Up,
            opening: false,
            finding: false,
            open: false,
            sending: Path::Synthetic,
            send_waits: false,
            receiving: false,
            allowed: false,
            stopped: false,
            log: Vec::new(),
            told: Vec::new(),
        }
    }

    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        assert!(holds, "{what}\n{}\n{:?}", self.log.join("\n"), self.machine);
    }

    fn put(&mut self, input: Input) {
        self.log.push(format!("{:?} {input:?}", self.now));
        if let Input::Switched(_) | Input::HostSwitched(Path::Synthetic) = input {
            // The host's word, as the guest reads it.
            self.allowed = matches!(input, Input::Switched(id) if self.last_asked(id) == Some(Path::VirtualFunction));
        }
        self.machine.handle(self.now, input);
        self.obey();
    }

    /// What the guest asked for with the last switch, if it is this one.
    fn last_asked(&self, id: SwitchId) -> Option<Path> {
        let asked = format!("id: {id:?}");
        let last = self.log.iter().rev().find(|line| line.contains("-> Switch"))?;
        last.contains(&asked)
            .then(|| if last.contains("VirtualFunction") { Path::VirtualFunction } else { Path::Synthetic })
    }

    fn obey(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.log.push(format!("    -> {action:?}"));
            match action {
                Action::Find { serial } => {
                    self.check(self.association == Some(serial), "looks for another");
                    self.finding = true;
                }
                Action::Prepare => {
                    self.check(self.device.is_some() && !self.open && !self.opening, "opens what is not closed");
                    self.opening = true;
                }
                Action::Release => {
                    self.check(self.open, "closes what is not open");
                    self.check(self.sending == Path::Synthetic && !self.send_waits, "closes what it sends by");
                    self.check(!self.receiving, "closes what it receives by");
                    self.open = false;
                }
                Action::Switch { to, id } => {
                    self.check(to == Path::Synthetic || self.open, "asks for the path of a device that is closed");
                    self.allowed = false;
                    self.switches.push_back((id, to));
                }
                Action::Send(path) => {
                    self.check(self.sending != path, "changes over to where it is");
                    if path == Path::VirtualFunction {
                        self.check(self.allowed, "sends by the vf without the host's word");
                        self.check(self.open && self.device.is_some(), "sends by a vf that is not there");
                    }
                    self.sending = path;
                    self.send_waits = true;
                }
                Action::StopWaiting => {
                    self.check(self.send_waits, "stops a wait that there is not");
                    self.send_waits = false;
                }
                Action::Receive(Path::VirtualFunction) => {
                    self.check(self.open, "receives from a device that is closed");
                    self.receiving = true;
                }
                Action::Receive(_) => {
                    self.check(self.receiving, "stops receiving what it does not");
                    self.receiving = false;
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = self.machine.poll_event() {
            self.log.push(format!("    => {event:?}"));
            self.told.push(event);
        }
        let on_vf = self.sending == Path::VirtualFunction;
        self.check(
            !on_vf || (self.machine.stage() == Stage::OnVf && self.open && self.allowed),
            "on the vf for no reason",
        );
        let waits = self.opening || self.send_waits || self.awaits_switch();
        let timer = self.machine.poll_timeout().is_some();
        self.check(!waits || timer || self.opening, "waits for ever");
    }

    fn awaits_switch(&self) -> bool {
        matches!(self.machine.stage(), Stage::Asking | Stage::Returning)
    }

    fn happens(&mut self, what: Happens) {
        match what {
            Happens::Associate(serial) => {
                self.association = Some(serial);
                self.put(Input::Associated { serial });
            }
            Happens::Revoke => {
                self.association = None;
                self.put(Input::Revoked);
            }
            Happens::Surprise => {
                // OpenVMM completes what is pending, moves the traffic, and says both.
                self.complete_all();
                self.host_path = Path::Synthetic;
                self.put(Input::HostSwitched(Path::Synthetic));
                self.association = None;
                self.put(Input::Revoked);
            }
            Happens::TakeBack => {
                self.host_path = Path::Synthetic;
                self.put(Input::HostSwitched(Path::Synthetic));
            }
            Happens::HostToVf => {
                self.host_path = Path::VirtualFunction;
                self.put(Input::HostSwitched(Path::VirtualFunction));
            }
            Happens::Arrive(serial) => {
                if self.device.is_none() {
                    self.device = Some(serial);
                    self.put(Input::Arrived { serial });
                }
            }
            Happens::Vanish => {
                if self.device.take().is_some() {
                    (self.opening, self.open, self.receiving) = (false, false, false);
                    let was_sending = self.sending == Path::VirtualFunction;
                    // Its users find out at once; the machine's word comes a moment later.
                    self.machine.handle(self.now, Input::Gone { lost: u64::from(was_sending) });
                    self.log.push("Gone".into());
                    self.obey();
                }
            }
            Happens::Link(link) => {
                self.link = link;
                if self.open {
                    self.put(Input::Link(link));
                }
            }
            Happens::AnswerSwitch => {
                if !self.silent {
                    self.complete_one();
                }
            }
            Happens::SwitchNotSent => {
                if let Some((id, _)) = self.switches.pop_back() {
                    self.put(Input::NotSwitched(id));
                }
            }
            Happens::AnswerPrepare => {
                if let Some(serial) = self.device.filter(|_| std::mem::take(&mut self.finding)) {
                    self.put(Input::Arrived { serial });
                }
                if std::mem::take(&mut self.opening) {
                    self.open = true;
                    let link = self.link;
                    self.put(Input::Prepared { link });
                }
            }
            Happens::RefusePrepare => {
                if std::mem::take(&mut self.opening) {
                    self.put(Input::NotPrepared);
                }
            }
            Happens::AnswerDrained => {
                if std::mem::take(&mut self.send_waits) {
                    self.put(Input::SendDrained);
                }
            }
            Happens::Timeout => {
                if let Some(at) = self.machine.poll_timeout() {
                    self.now = self.now.max(at);
                    self.log.push(format!("{:?} timeout", self.now));
                    // What the machine gives up waiting for is not answered any more.
                    self.machine.handle_timeout(self.now);
                    self.obey();
                }
            }
            Happens::Silence(silent) => self.silent = silent,
            Happens::Stop => {
                self.stopped = true;
                self.put(Input::Stop);
            }
        }
    }

    fn complete_one(&mut self) {
        if let Some((id, path)) = self.switches.pop_front() {
            // Without a VF it means nothing, and is completed all the same.
            if self.association.is_some() || path == Path::Synthetic {
                self.host_path = path;
            }
            self.put(Input::Switched(id));
        }
    }

    fn complete_all(&mut self) {
        while !self.silent && !self.switches.is_empty() {
            self.complete_one();
        }
    }

    /// Everybody answers, and time passes, until nothing is left to be waited for.
    fn settle(&mut self) {
        self.silent = false;
        // So that one that was given up hears of the host again.
        if self.machine.stage() == Stage::Silent
            && let Some(serial) = self.association
        {
            self.put(Input::Associated { serial });
        }
        for _ in 0..200 {
            self.complete_all();
            self.happens(Happens::AnswerPrepare);
            self.happens(Happens::AnswerDrained);
            let busy = self.opening || self.send_waits || !self.switches.is_empty();
            if busy || (self.finding && self.device.is_some()) {
                continue;
            }
            if self.machine.poll_timeout().is_none() {
                return self.stands_where_it_belongs();
            }
            self.happens(Happens::Timeout);
        }
        self.check(false, "never comes to rest");
    }

    fn stands_where_it_belongs(&self) {
        let matching = match (self.association, self.device) {
            (Some(_), Some(None)) => true,
            (Some(expected), Some(Some(found))) => expected == found,
            _ => false,
        };
        if matching && self.link.is_up() && !self.stopped {
            self.check(self.machine.stage() == Stage::OnVf && self.sending == Path::VirtualFunction, "not on the vf");
            self.check(self.receiving && self.host_path == Path::VirtualFunction, "the host is not on the vf");
        } else {
            self.check(self.sending == Path::Synthetic, "on the vf");
            let at_rest = self.machine.stage() == Stage::Synthetic;
            // Messages that could not be sent are not answered, and nobody else says anything.
            let unheard =
                self.machine.stage() == Stage::Silent && self.log.iter().any(|line| line.contains("NotSwitched"));
            self.check(at_rest || unheard, "not at rest");
            self.check(self.open == (matching && !self.stopped), "the device is open or not");
        }
        if self.stopped {
            self.check(self.machine.is_stopped() && !self.open && !self.receiving, "not stopped");
        }
        let alternate = self.told.iter().filter_map(|event| match event {
            Event::DatapathSwitched { to, .. } => Some(*to),
            _ => None,
        });
        let mut at = Path::Synthetic;
        for to in alternate {
            // A change that was taken back before it was done may be missing; none comes twice.
            if to == Path::VirtualFunction {
                self.check(at == Path::Synthetic, "switched to the vf twice");
            }
            at = to;
        }
    }
}

#[test]
fn any_two_events_in_any_state_end_where_they_belong() {
    let mut cases = 0;
    for (_, way) in STATES {
        for first in ALL {
            for second in ALL {
                let mut world = World::new();
                for &step in way {
                    world.happens(step);
                }
                world.happens(first);
                world.happens(second);
                world.settle();
                cases += 1;
            }
        }
    }
    assert_eq!(cases, STATES.len() * ALL.len() * ALL.len());
}

#[test]
fn the_ways_lead_into_the_states() {
    let stages: Vec<Stage> = STATES
        .iter()
        .map(|(_, way)| {
            let mut world = World::new();
            way.iter().for_each(|&step| world.happens(step));
            world.machine.stage()
        })
        .collect();
    use Stage::*;
    assert_eq!(
        stages,
        [
            Synthetic, Synthetic, Synthetic, Synthetic, Synthetic, Synthetic, Asking, Asking, OnVf, OnVf, OnVf,
            Returning, Silent
        ]
    );
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

#[test]
fn long_walks_keep_to_the_rules() {
    let mut switched = 0;
    for seed in 1..=2000u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut world = World::new();
        let steps = 20 + random.below(200);
        for _ in 0..steps {
            let mut what = ALL[random.below(ALL.len())];
            if what == Happens::Stop && random.below(20) > 0 {
                what = Happens::AnswerSwitch;
            }
            // The events that let it go on shall be the more frequent ones.
            if random.below(2) == 0 {
                what = ON_THE_WAY[random.below(ON_THE_WAY.len())];
            }
            world.happens(what);
        }
        world.settle();
        switched += world.machine.counters().switched_to_vf;
    }
    assert!(switched > 1000, "the walks must get to the vf: {switched}");
}

fn on_the_vf() -> World {
    let mut world = World::new();
    for &step in STATES[9].1 {
        world.happens(step);
    }
    world
}

#[test]
fn a_surprise_removal_sends_by_the_rings_at_once_and_tells_the_loss() {
    let mut world = on_the_vf();
    world.happens(Happens::Vanish);
    assert_eq!(world.sending, Path::Synthetic);
    assert!(world.told.contains(&Event::Lost { frames: 1 }));
    assert_eq!((world.machine.counters().surprises, world.machine.counters().lost), (1, 1));
    world.settle();
    assert_eq!(world.host_path, Path::Synthetic, "the host was told as well");
}

#[test]
fn what_is_left_in_a_device_that_is_closed_is_told_as_lost() {
    let mut world = on_the_vf();
    // The host's word comes before anyone sees that the device is gone, with frames inside.
    world.happens(Happens::Surprise);
    world.happens(Happens::Timeout);
    assert!(!world.open, "nothing is sent by it, so it is closed");
    world.put(Input::Released { lost: 3 });
    assert!(world.told.contains(&Event::Lost { frames: 3 }));
    assert_eq!(world.machine.counters().lost, 3);
}

#[test]
fn an_old_path_that_does_not_become_empty_is_waited_for_only_so_long() {
    let mut world = World::new();
    STATES[8].1.iter().for_each(|&step| world.happens(step));
    assert!(world.send_waits);
    world.happens(Happens::Timeout);
    assert!(!world.send_waits);
    let took = Settings::default().drain_limit;
    assert!(world.told.contains(&Event::DatapathSwitched { to: Path::VirtualFunction, drained: false, took }));
    assert_eq!(world.machine.counters().not_drained, 1);
}

#[test]
fn a_host_that_takes_the_traffic_back_without_a_reason_is_asked_again_later_and_later() {
    let mut world = on_the_vf();
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let since = world.now;
        world.happens(Happens::TakeBack);
        world.happens(Happens::AnswerDrained);
        while world.machine.stage() != Stage::Asking {
            world.happens(Happens::Timeout);
        }
        pauses.push(world.now - since);
        world.happens(Happens::AnswerSwitch);
        world.happens(Happens::AnswerDrained);
    }
    assert_eq!(pauses, [200, 300, 500].map(Duration::from_millis));
    assert_eq!(world.machine.counters().refused, 3);
}

#[test]
fn a_vf_that_comes_and_goes_is_left_alone_for_a_while() {
    let mut world = on_the_vf();
    let mut damped = Vec::new();
    for _ in 0..6 {
        world.happens(Happens::Surprise);
        world.happens(Happens::AnswerDrained);
        let since = world.now;
        world.happens(Happens::Associate(7));
        for _ in 0..10 {
            world.happens(Happens::AnswerPrepare);
            if world.machine.stage() != Stage::Asking {
                world.happens(Happens::Timeout);
            }
        }
        assert_eq!(world.machine.stage(), Stage::Asking);
        damped.push((world.now - since).as_secs());
        world.happens(Happens::AnswerSwitch);
        world.happens(Happens::AnswerDrained);
    }
    assert_eq!(damped, [0, 0, 0, 1, 2, 4]);
    world.now += Duration::from_secs(10);
    world.happens(Happens::Surprise);
    world.happens(Happens::AnswerDrained);
    world.happens(Happens::Associate(7));
    world.happens(Happens::AnswerPrepare);
    world.happens(Happens::AnswerPrepare);
    assert_eq!(world.machine.stage(), Stage::Asking, "it had been stable");
}

#[test]
fn a_device_that_never_comes_is_reported_and_still_waited_for() {
    let mut world = World::new();
    world.happens(Happens::Associate(7));
    world.happens(Happens::Timeout);
    assert_eq!(world.now, Instant::ZERO + Settings::default().arrival_limit);
    assert!(world.told.contains(&Event::Missing { serial: Some(7) }));
    world.happens(Happens::Arrive(Some(7)));
    world.settle();
}

#[test]
fn a_device_with_another_number_is_left_alone() {
    let mut world = World::new();
    world.happens(Happens::Associate(7));
    world.happens(Happens::Arrive(Some(9)));
    assert!(world.told.contains(&Event::OtherSerial { expected: 7, found: 9 }));
    assert!(!world.opening);
}

#[test]
fn a_late_completion_of_the_switch_to_the_vf_ends_no_return() {
    let (mut machine, mut now) = (Machine::new(Settings::default()), Instant::ZERO);
    let asked = |machine: &mut Machine| {
        let actions = std::iter::from_fn(|| machine.poll_action());
        actions.filter_map(|action| if let Action::Switch { to, id } = action { Some((to, id)) } else { None }).last()
    };
    machine.handle(now, Input::Associated { serial: 7 });
    machine.handle(now, Input::Arrived { serial: Some(7) });
    machine.handle(now, Input::Prepared { link: LinkState::Up });
    let Some((Path::VirtualFunction, to_vf)) = asked(&mut machine) else { panic!("{machine:?}") };
    while machine.stage() == Stage::Asking {
        now = machine.poll_timeout().expect("it does not wait for ever");
        machine.handle_timeout(now);
    }
    let Some((Path::Synthetic, back)) = asked(&mut machine) else { panic!("{machine:?}") };
    machine.handle(now, Input::Switched(to_vf));
    assert_eq!(machine.stage(), Stage::Returning, "the host delivers to the vf now");
    machine.handle(now, Input::Switched(back));
    assert_eq!(machine.stage(), Stage::Synthetic);
}
