//! What a host does with a VF over time: a [`Script`], chosen by a seed.
//!
//! A script is a list of [`Step`]s and of what each waits for. Most are made of [`Scene`]s: a host is serviced, a machine
//! migrates, a device is pulled out. The order of the two ways in which a guest hears of a device (its appearance, and the
//! host's word) and all delays are the seed's.
//!
//! Nothing here does anything: see [`Servicing`](super::Servicing).

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::VfManner;

/// Something that happens to a VF. Each begins with the VF in use, and ends with the VF on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scene {
    /// The host is serviced: it takes the traffic and the association back, and the device after a grace.
    Orderly,
    /// The device vanishes, with what is inside.
    Surprise,
    /// As [`Orderly`](Self::Orderly); then the host refuses for a while to move the traffic to the VF again.
    Refusal,
    /// As [`Orderly`](Self::Orderly); then the host says nothing for a while when it is asked for another data path.
    Silence,
    /// As [`Orderly`](Self::Orderly); then the host completes switches, and leaves the traffic where it is.
    Ignorance,
    /// As [`Orderly`](Self::Orderly); then the host offers the VF twice, or the device shows up twice, or both.
    DoubleOffer,
    /// As [`Orderly`](Self::Orderly), twice: the second time while the guest waits for its switch to be completed.
    MidSwitch,
    /// As [`Orderly`](Self::Orderly); then the link goes down and up, and the network behind it is another one, as after a
    /// migration. The channel stays, as it does for a guest that was saved and restored.
    Migration,
    /// As [`Orderly`](Self::Orderly); then a device with another serial number shows up before the right one.
    OtherSerial,
    /// As [`Orderly`](Self::Orderly); then the host offers a VF and takes it back before its device was there, which may come
    /// all the same and goes again.
    Withdrawal,
    /// A migration in which everything is offered again: the VF is taken back, mostly, and the whole NIC taken away; both come
    /// back. Only where [`VfDevices::offered_again`](super::VfDevices::offered_again) gives the NIC to a guest.
    Reoffer,
}

impl Scene {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::Orderly,
        Self::Surprise,
        Self::Refusal,
        Self::Silence,
        Self::Ignorance,
        Self::DoubleOffer,
        Self::MidSwitch,
        Self::Migration,
        Self::OtherSerial,
        Self::Withdrawal,
        Self::Reoffer,
    ];

    /// Its name, as [`FromStr`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::Surprise => "surprise",
            Self::Refusal => "refusal",
            Self::Silence => "silence",
            Self::DoubleOffer => "double-offer",
            Self::MidSwitch => "mid-switch",
            Self::Migration => "migration",
            Self::OtherSerial => "other-serial",
            Self::Ignorance => "ignorance",
            Self::Withdrawal => "withdrawal",
            Self::Reoffer => "reoffer",
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No scene has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownScene(String);

impl fmt::Display for UnknownScene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Scene::ALL.map(Scene::name).join(", ");
        write!(f, "scene {:?} is none of {names}", self.0)
    }
}

impl std::error::Error for UnknownScene {}

impl FromStr for Scene {
    type Err = UnknownScene;

    fn from_str(text: &str) -> Result<Self, UnknownScene> {
        Self::ALL.into_iter().find(|scene| scene.name() == text).ok_or_else(|| UnknownScene(text.into()))
    }
}

/// One thing that the host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Shows the guest a device.
    Plug {
        /// Its serial number.
        serial: u32,
    },
    /// Tells the guest that the VF is the device of this number.
    Associate {
        /// The number.
        serial: u32,
    },
    /// Takes traffic and association back.
    Revoke,
    /// Takes the device away, after what it was given to send has left.
    Unplug,
    /// The device vanishes, and with it association and traffic.
    Vanish,
    /// From now on the host does this when it is asked for a data path.
    Manner(VfManner),
    /// Sets the adapter's link.
    Link(bool),
    /// The network behind the link is another one.
    NetworkChange,
    /// The guest sees the device that is plugged in once more.
    ShowAgain,
    /// Takes the whole NIC from the guest.
    TakeNic,
    /// Offers it again, as soon as the guest has let go of it. It is waited for that no longer than
    /// [`ScriptOptions::patience`].
    OfferNic,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plug { serial } => write!(f, "vf {serial} plugged in"),
            Self::Associate { serial } => write!(f, "vf {serial} associated"),
            Self::Revoke => f.write_str("vf revoked"),
            Self::Unplug => f.write_str("vf unplugged"),
            Self::Vanish => f.write_str("vf vanished"),
            Self::Manner(manner) => write!(f, "host is {manner:?}"),
            Self::Link(up) => write!(f, "link {}", if *up { "up" } else { "down" }),
            Self::NetworkChange => f.write_str("network changed"),
            Self::ShowAgain => f.write_str("vf shown again"),
            Self::TakeNic => f.write_str("nic taken away"),
            Self::OfferNic => f.write_str("nic offered again"),
        }
    }
}

/// What a step waits for, from the step before it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// So much time.
    Time(Duration),
    /// That the traffic is on the VF, and then so much time. A guest that never gets there is waited for no longer than
    /// [`ScriptOptions::patience`].
    InUse(Duration),
}

/// How a script is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptOptions {
    scenes: Vec<Scene>,
    cycles: u32,
    in_use: RangeInclusive<Duration>,
    grace: RangeInclusive<Duration>,
    away: RangeInclusive<Duration>,
    unwilling: RangeInclusive<Duration>,
    patience: Duration,
    first_serial: u32,
}

impl Default for ScriptOptions {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self {
            scenes: vec![Scene::Orderly],
            cycles: 10,
            in_use: millis(50)..=millis(200),
            grace: millis(0)..=millis(500),
            away: millis(0)..=millis(100),
            unwilling: millis(0)..=millis(500),
            patience: Duration::from_secs(30),
            first_serial: 1,
        }
    }
}

impl ScriptOptions {
    /// Which scenes there are; each cycle is one of them, by chance. Default: [`Scene::Orderly`]. None at all: the same.
    #[must_use]
    pub fn scenes(mut self, scenes: impl IntoIterator<Item = Scene>) -> Self {
        self.scenes = scenes.into_iter().collect();
        self
    }

    /// How many there are one after the other. Default 10.
    #[must_use]
    pub fn cycles(mut self, cycles: u32) -> Self {
        self.cycles = cycles;
        self
    }

    /// How long the VF is in use before anything happens to it. Default 50–200 ms.
    #[must_use]
    pub fn in_use(mut self, time: RangeInclusive<Duration>) -> Self {
        self.in_use = time;
        self
    }

    /// How long a device stays after it was revoked. Default 0–500 ms.
    #[must_use]
    pub fn grace(mut self, time: RangeInclusive<Duration>) -> Self {
        self.grace = time;
        self
    }

    /// How long it is away, and how long the second of the two ways to hear of it comes after the first. Default 0–100 ms.
    #[must_use]
    pub fn away(mut self, time: RangeInclusive<Duration>) -> Self {
        self.away = time;
        self
    }

    /// How long a host refuses, is silent, or ignores what it is asked for. Default 0–500 ms.
    #[must_use]
    pub fn unwilling(mut self, time: RangeInclusive<Duration>) -> Self {
        self.unwilling = time;
        self
    }

    /// How long a guest is waited for that does not use the VF. Default 30 s.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// The serial number of the first device; each that follows has the next one. Default 1.
    #[must_use]
    pub fn first_serial(mut self, serial: u32) -> Self {
        self.first_serial = serial;
        self
    }
}

/// What is to happen to the VF of one NIC. It begins without a VF, and ends with one in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub(super) steps: VecDeque<(Wait, Step)>,
    pub(super) patience: Duration,
}

impl Script {
    /// The script of this seed.
    #[must_use]
    pub fn new(seed: u64, options: &ScriptOptions) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        let mut writer = Writer { random, options, serial: options.first_serial, steps: VecDeque::new() };
        writer.bring(options.first_serial);
        for _ in 0..options.cycles {
            let scene = options.scenes.choose(&mut writer.random).copied().unwrap_or(Scene::Orderly);
            writer.scene(scene);
        }
        Self { steps: writer.steps, patience: options.patience }
    }

    /// A script of one's own.
    #[must_use]
    pub fn of(steps: impl IntoIterator<Item = (Wait, Step)>) -> Self {
        Self { steps: steps.into_iter().collect(), patience: ScriptOptions::default().patience }
    }

    /// The steps that are left, and what each waits for.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = (Wait, Step)> + '_ {
        self.steps.iter().copied()
    }
}

/// Device numbers that no script gives to a VF that is associated.
const OTHER_SERIALS: u32 = 1 << 31;

struct Writer<'a> {
    random: SmallRng,
    options: &'a ScriptOptions,
    serial: u32,
    steps: VecDeque<(Wait, Step)>,
}

impl Writer<'_> {
    fn at_once(&mut self, step: Step) {
        self.steps.push_back((Wait::Time(Duration::ZERO), step));
    }

    fn after(&mut self, time: &RangeInclusive<Duration>, step: Step) {
        let wait = self.some(time);
        self.steps.push_back((Wait::Time(wait), step));
    }

    fn some(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        // An empty range is its start.
        let end = *range.end().max(range.start());
        self.random.random_range(*range.start()..=end)
    }

    /// The next device comes, in either order.
    fn bring_next(&mut self) {
        self.serial = self.serial.wrapping_add(1) % OTHER_SERIALS;
        self.bring(self.serial);
    }

    fn bring(&mut self, serial: u32) {
        let mut news = [Step::Plug { serial }, Step::Associate { serial }];
        if self.random.random() {
            news.reverse();
        }
        for step in news {
            self.after(&self.options.away, step);
        }
    }

    /// The device goes.
    fn take(&mut self, first: Step) {
        let dwell = self.some(&self.options.in_use);
        self.steps.push_back((Wait::InUse(dwell), first));
        if first == Step::Revoke {
            self.after(&self.options.grace, Step::Unplug);
        }
    }

    fn scene(&mut self, scene: Scene) {
        let away = &self.options.away;
        if scene == Scene::Reoffer {
            return self.reoffer();
        }
        self.take(if scene == Scene::Surprise { Step::Vanish } else { Step::Revoke });
        match scene {
            Scene::Orderly | Scene::Surprise => self.bring_next(),
            Scene::Refusal => self.unwilling(VfManner::Refusing),
            Scene::Silence => self.unwilling(VfManner::Silent),
            Scene::Ignorance => {
                self.unwilling(VfManner::Ignoring);
                // The guest believes that it has what it asked for: without this nothing would move the traffic.
                self.after(away, Step::Revoke);
                self.after(&self.options.grace, Step::Unplug);
                self.bring_next();
            }
            Scene::DoubleOffer => {
                self.bring_next();
                let twice = self.random.random_range(0..3);
                if twice != 1 {
                    self.after(away, Step::Associate { serial: self.serial });
                }
                if twice != 0 {
                    self.after(away, Step::ShowAgain);
                }
            }
            Scene::MidSwitch => {
                self.at_once(Step::Manner(VfManner::Silent));
                self.bring_next();
                self.after(away, Step::Revoke);
                self.at_once(Step::Manner(VfManner::Obliging));
                self.after(&self.options.grace, Step::Unplug);
                self.bring_next();
            }
            Scene::Migration => {
                self.after(away, Step::Link(false));
                self.after(away, Step::Link(true));
                self.at_once(Step::NetworkChange);
                self.bring_next();
            }
            Scene::OtherSerial => {
                self.serial = self.serial.wrapping_add(1) % OTHER_SERIALS;
                let serial = self.serial;
                self.after(away, Step::Associate { serial });
                self.after(away, Step::Plug { serial: serial | OTHER_SERIALS });
                self.after(away, Step::Unplug);
                self.after(away, Step::Plug { serial });
            }
            Scene::Withdrawal => {
                self.serial = self.serial.wrapping_add(1) % OTHER_SERIALS;
                let serial = self.serial;
                self.after(away, Step::Associate { serial });
                self.after(away, Step::Revoke);
                if self.random.random() {
                    self.after(away, Step::Plug { serial });
                    self.after(&self.options.grace, Step::Unplug);
                }
                self.bring_next();
            }
            Scene::Reoffer => {}
        }
    }

    fn unwilling(&mut self, manner: VfManner) {
        self.at_once(Step::Manner(manner));
        self.bring_next();
        self.after(&self.options.unwilling, Step::Manner(VfManner::Obliging));
    }

    /// Hosts take the VF first, mostly; the device goes with the old machine, before the NIC or after it.
    fn reoffer(&mut self) {
        let (grace, away) = (&self.options.grace, &self.options.away);
        let vf_first = self.random.random_range(0..4) > 0;
        self.take(if vf_first { Step::Revoke } else { Step::TakeNic });
        self.after(grace, if vf_first { Step::TakeNic } else { Step::Revoke });
        if !vf_first {
            self.after(grace, Step::Unplug);
        }
        self.after(away, Step::OfferNic);
        self.bring_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_script() {
        let options = ScriptOptions::default().scenes(Scene::ALL).cycles(50);
        let script = Script::new(7, &options);
        assert_eq!(script, Script::new(7, &options));
        assert_ne!(script, Script::new(8, &options));
    }

    /// Whatever the scenes: never two devices at a time, and one, associated, at the end.
    #[test]
    fn scripts_make_sense() {
        for seed in 0..200 {
            let script = Script::new(seed, &ScriptOptions::default().scenes(Scene::ALL).cycles(20));
            let (mut device, mut told, mut manner) = (None, None, VfManner::Obliging);
            for (wait, step) in script.steps() {
                match step {
                    Step::Plug { serial } => assert_eq!(device.replace(serial), None, "seed {seed}"),
                    Step::Associate { serial } => told = Some(serial),
                    Step::Revoke => assert!(told.take().is_some(), "seed {seed}"),
                    Step::Unplug => assert!(device.take().is_some(), "seed {seed}"),
                    Step::Vanish => (device, told) = (None, None),
                    Step::Manner(next) => manner = next,
                    _ => {}
                }
                // It would be waited for in vain.
                if matches!(wait, Wait::InUse(_)) {
                    assert_eq!(manner, VfManner::Obliging, "seed {seed}");
                }
            }
            assert!(device.is_some() && device == told && manner == VfManner::Obliging, "seed {seed}");
        }
    }

    #[test]
    fn delays_are_within_their_ranges() {
        let millis = Duration::from_millis;
        let options = ScriptOptions::default().cycles(300).grace(millis(3)..=millis(5)).away(millis(1)..=millis(1));
        for (wait, step) in Script::new(1, &options).steps() {
            match (step, wait) {
                (Step::Unplug, Wait::Time(time)) => assert!((millis(3)..=millis(5)).contains(&time)),
                (Step::Revoke, Wait::InUse(time)) => assert!((millis(50)..=millis(200)).contains(&time)),
                (Step::Plug { .. } | Step::Associate { .. }, Wait::Time(time)) => assert_eq!(time, millis(1)),
                other => panic!("{other:?}"),
            }
        }
        let reversed = ScriptOptions::default().grace(millis(5)..=millis(3));
        let _ = Script::new(1, &reversed);
    }

    #[test]
    fn names_are_read_back() {
        for scene in Scene::ALL {
            assert_eq!(scene.to_string().parse(), Ok(scene));
        }
        let error = "orderly,surprise".parse::<Scene>().unwrap_err();
        assert!(error.to_string().contains("double-offer"), "{error}");
    }
}
