//! `--vf`: virtual functions of the exported devices, as veth pairs, and what happens to them.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use netvsc_host::vf::{Scene, Script, ScriptOptions, Servicing, ServicingThread, Step, VethConfig, VethVfs};
use netvsc_host::{Host, NicId};

use crate::Failure;

/// Longest name of a guest's end: the host's has one byte more, and Linux takes 15.
const NAME_BYTES: usize = 14;

/// A VF of each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VfChoice {
    name: String,
    netns: Option<String>,
    mtu: Option<u16>,
    seed: u64,
    /// None: it comes and stays.
    scenes: Vec<Scene>,
    options: ScriptOptions,
}

impl FromStr for VfChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("veth:").ok_or("veth:NAME[,OPTION...] is needed")?;
        let mut parts = rest.split(',');
        let name = parts.next().unwrap_or_default();
        check_name(name)?;
        let (mut netns, mut mtu, mut seed, mut scenes) = (None, None, 1, Vec::new());
        let mut options = ScriptOptions::default();
        for option in parts {
            let wrong = |why: &str| format!("veth: {option}: {why}");
            let (key, value) = option.split_once('=').ok_or_else(|| wrong("OPTION=VALUE is needed"))?;
            let time = || range(value).map_err(|error| wrong(&error));
            match key {
                "scenes" => scenes = scenes_of(value).map_err(|error| wrong(&error))?,
                "cycles" => options = options.cycles(number(value, u32::MAX).map_err(|error| wrong(&error))?),
                "seed" => seed = number(value, u64::MAX).map_err(|error| wrong(&error))?,
                "serial" => options = options.first_serial(number(value, u32::MAX).map_err(|error| wrong(&error))?),
                "period" => options = options.in_use(time()?),
                "grace" => options = options.grace(time()?),
                "away" => options = options.away(time()?),
                "unwilling" => options = options.unwilling(time()?),
                "netns" if !value.is_empty() => netns = Some(value.to_owned()),
                "netns" => return Err(wrong("the name of a network namespace is needed")),
                "mtu" => match value.parse() {
                    Ok(bytes @ 68..) => mtu = Some(bytes),
                    _ => return Err(wrong("a number from 68 to 65535 is needed")),
                },
                _ => {
                    return Err(wrong(
                        "none of scenes, cycles, seed, serial, period, grace, away, unwilling, netns and mtu",
                    ));
                }
            }
        }
        Ok(Self { name: name.into(), netns, mtu, seed, scenes, options })
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("veth:NAME is needed".into());
    }
    if name.len() > NAME_BYTES {
        return Err(format!("veth: {name:?} has {} bytes, at most {NAME_BYTES} are possible", name.len()));
    }
    if name == "." || name == ".." || name.bytes().any(|byte| byte.is_ascii_whitespace() || b"/:%".contains(&byte)) {
        return Err(format!("veth: {name:?} is no name of an interface"));
    }
    Ok(())
}

/// Scenes that can be played with a veth pair for a device of another process.
fn scenes_of(text: &str) -> Result<Vec<Scene>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let scenes: Result<Vec<Scene>, _> = text.split('+').map(str::parse).collect();
    let scenes = scenes.map_err(|error| error.to_string())?;
    match scenes.iter().find(|scene| matches!(scene, Scene::Reoffer | Scene::OtherSerial)) {
        Some(Scene::Reoffer) => Err("an exported device that was taken away does not come back".into()),
        Some(_) => Err("a veth has no serial number that could be another".into()),
        None => Ok(scenes),
    }
}

fn number<T: FromStr + Display>(text: &str, most: T) -> Result<T, String> {
    text.parse().map_err(|_| format!("a number from 0 to {most} is needed"))
}

/// Milliseconds: one number, or two with a hyphen.
fn range(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let millis = |text: &str| {
        let number = text.parse().map_err(|_| "milliseconds are needed: one number, or two as in 50-200".to_owned());
        number.map(Duration::from_millis)
    };
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (millis(start)?, millis(end)?);
    if start > end { Err("the first number is the lower one".into()) } else { Ok(start..=end) }
}

impl VfChoice {
    /// Whether this process may make interfaces, and what they would be called with so many devices. Before anything is made.
    ///
    /// # Errors
    /// If not: which capability is missing, or which name is too long.
    pub(crate) fn check(&self, devices: u16) -> Result<(), Failure> {
        // The last one's is the longest.
        check_name(&self.name_of(devices.saturating_sub(1), devices)).map_err(|error| format!("--vf: {error}"))?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
        // linux/capability.h
        for (name, bit) in [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13)] {
            if effective >> bit & 1 == 0 {
                return Err(format!("--vf: {name} is needed to make veth pairs, and to open them").into());
            }
        }
        Ok(())
    }

    /// The guest's end of a device's pair; `of` is how many there are.
    fn name_of(&self, number: u16, of: u16) -> String {
        if of > 1 { format!("{}{number}", self.name) } else { self.name.clone() }
    }

    /// Begins to play the script of one device; `of` is how many there are. Steps are told on standard error.
    pub(crate) fn play(
        &self,
        (host, nic): (&Host, NicId),
        mac: [u8; 6],
        (number, of): (u16, u16),
    ) -> ServicingThread<VethVfs> {
        let mut config = VethConfig::new(self.name_of(number, of), mac);
        if let Some(mtu) = self.mtu {
            config = config.mtu(mtu);
        }
        if let Some(netns) = &self.netns {
            config = config.netns(netns);
        }
        let options = self.options.clone().scenes(self.scenes.iter().copied());
        let options = if self.scenes.is_empty() { options.cycles(0) } else { options };
        let script = Script::new(self.seed.wrapping_add(number.into()), &options);
        let mut left = script.steps().len();
        let tell = move |step: Step| {
            left -= 1;
            let over = if left == 0 { ", the last step" } else { "" };
            eprintln!("{number}: {step}{over}");
        };
        Servicing::new(host, nic, script, VethVfs::new(config)).spawn_thread(tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_choices() {
        let all = "veth:v0,scenes=orderly+surprise,cycles=3,seed=7,serial=9,period=50-60,grace=5,away=0-1,unwilling=8,netns=n,mtu=9000";
        let choice: VfChoice = all.parse().unwrap();
        assert_eq!(
            (choice.name.as_str(), choice.netns.as_deref(), choice.mtu, choice.seed),
            ("v0", Some("n"), Some(9000), 7)
        );
        assert_eq!(choice.scenes, [Scene::Orderly, Scene::Surprise]);
        let millis = Duration::from_millis;
        let options = ScriptOptions::default().cycles(3).first_serial(9).in_use(millis(50)..=millis(60));
        let options = options.grace(millis(5)..=millis(5)).away(millis(0)..=millis(1)).unwilling(millis(8)..=millis(8));
        assert_eq!(choice.options, options);
        assert_eq!("veth:v0".parse::<VfChoice>().unwrap().scenes, []);
    }

    /// Each error says which value is wrong, and what is possible.
    #[test]
    fn wrong_choices() {
        for (text, said) in [
            ("memory:v0", "veth:NAME"),
            ("veth:", "veth:NAME"),
            ("veth:abcdefghijklmno", "15 bytes, at most 14"),
            ("veth:a/b", "no name"),
            ("veth:v0,scenes", "OPTION=VALUE"),
            ("veth:v0,scenes=orderly+gentle", "none of orderly"),
            ("veth:v0,scenes=reoffer", "does not come back"),
            ("veth:v0,scenes=other-serial", "no serial number"),
            ("veth:v0,cycles=many", "cycles=many: a number"),
            ("veth:v0,seed=-1", "seed=-1: a number"),
            ("veth:v0,serial=x", "serial=x: a number"),
            ("veth:v0,period=5s", "period=5s: milliseconds"),
            ("veth:v0,grace=9-3", "grace=9-3: the first number"),
            ("veth:v0,away=-", "away=-: milliseconds"),
            ("veth:v0,netns=", "network namespace"),
            ("veth:v0,mtu=67", "68 to 65535"),
            ("veth:v0,color=red", "none of scenes"),
        ] {
            let error = text.parse::<VfChoice>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
