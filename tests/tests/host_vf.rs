//! `netvsc-host --vf`: what the program takes and refuses, the interfaces that it makes and takes away, and a script that it plays
//! to a driver in another process, `examples/l2fwd --vf`.
//!
//! What makes interfaces needs root; without it those tests say `SKIPPED`, and fail where the variable `CI` is set.
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netvsc_tests::netns::Netns;
use netvsc_tests::process::{self, CLIENT_TOOLS, Client, Host, PATIENCE, number};
use netvsc_tests::real;
use serde_json::Value;

/// The guest's end.
const VF: &str = "hostvf";
/// Frames after which a path has shown that it works.
const ENOUGH: u64 = 2_000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Standard error of the program, which refuses these arguments before it has done anything.
#[track_caller]
fn refused(arguments: &[&str], status: i32) -> String {
    let (said, made) = failed(arguments, status);
    assert!(!made, "{arguments:?} made a folder: {said}");
    said
}

/// Standard error of the program, which fails with these arguments; whether its folder was made.
#[track_caller]
fn failed(arguments: &[&str], status: i32) -> (String, bool) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = PathBuf::from(format!("/dev/shm/nvr-{}-{number}", std::process::id()));
    // Of a run that was killed.
    let _ = std::fs::remove_dir_all(&root);
    let mut command = Command::new(process::host_program());
    command.arg("--root").arg(&root).args(["--port", "null"]).args(arguments);
    let output = process::output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    (said, std::fs::remove_dir_all(&root).is_ok())
}

/// Each error names the option, the value, and what is possible.
#[test]
fn arguments_that_cannot_be_are_refused_with_field_value_and_limit() {
    for (vf, said) in [
        ("memory:v0", "veth:NAME[,OPTION...] is needed"),
        ("veth:", "veth:NAME is needed"),
        ("veth:abcdefghijklmno", r#""abcdefghijklmno" has 15 bytes, at most 14 are possible"#),
        ("veth:a/b", r#""a/b" is no name of an interface"#),
        ("veth:v0,scenes=gentle", r#"scenes=gentle: scene "gentle" is none of orderly, surprise"#),
        ("veth:v0,scenes=reoffer", "scenes=reoffer: an exported device that was taken away does not come back"),
        ("veth:v0,cycles=4294967296", "cycles=4294967296: a number from 0 to 4294967295 is needed"),
        ("veth:v0,seed=-1", "seed=-1: a number from 0 to 18446744073709551615 is needed"),
        ("veth:v0,serial=x", "serial=x: a number from 0 to 4294967295 is needed"),
        ("veth:v0,period=5s", "period=5s: milliseconds are needed"),
        ("veth:v0,grace=9-3", "grace=9-3: the first number is the lower one"),
        ("veth:v0,netns=", "netns=: the name of a network namespace is needed"),
        ("veth:v0,mtu=67", "mtu=67: a number from 68 to 65535 is needed"),
        ("veth:v0,mtu=65536", "mtu=65536: a number from 68 to 65535 is needed"),
        ("veth:v0,color=red", "color=red: none of scenes, cycles, seed"),
        ("veth:v0,mtu", "mtu: OPTION=VALUE is needed"),
    ] {
        let error = refused(&["--vf", vf], 2);
        assert!(error.contains("'--vf <VF>'") && error.contains(&format!("'{vf}'")), "{vf}: {error}");
        assert!(error.contains(said), "{vf}: {error}");
    }
}

#[test]
fn what_cannot_be_with_other_arguments_or_on_this_machine_is_refused() {
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    // Kernels give some to every namespace, besides `lo`.
    let before = interfaces(&netns);
    netns.enter(|| {
        // Number 10 has two digits.
        let error = refused(&["--vf", "veth:abcdefghijklm", "--devices", "11"], 1);
        assert!(error.contains(r#""abcdefghijklm10" has 15 bytes, at most 14 are possible"#), "{error}");
        netns.ip(&format!("link add {VF}h type veth peer name other")).expect("a name that is taken");
        let (error, _) = failed(&["--vf", &format!("veth:{VF}")], 1);
        assert!(error.contains(&format!("ip link add {VF}h")) && error.contains("File exists"), "{error}");
        let (error, _) = failed(&["--vf", "veth:v0,netns=none-of-this-name"], 1);
        assert!(error.contains("netns none-of-this-name"), "{error}");
        let mut left = interfaces(&netns);
        left.retain(|name| !before.contains(name));
        assert_eq!(left, [&format!("{VF}h"), "other"]);
    });
}

#[test]
fn each_device_has_a_pair_that_comes_and_goes_with_the_host() {
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    let before = interfaces(&netns);
    netns.enter(|| {
        let vf = format!("veth:{VF},mtu=2000,serial=9");
        let mut host = Host::start(&["--port", "null", "--devices", "2", "--vf", &vf]);
        host.wait_for_said("0: vf 9 plugged in");
        host.wait_for_said("1: vf 9 plugged in");
        for number in 0..2 {
            let link = |name: String| -> Value {
                let text = netns.ip(&format!("-j link show {name}")).expect("an interface");
                serde_json::from_str::<Value>(&text).expect("json")[0].clone()
            };
            let (guest, far) = (link(format!("{VF}{number}")), link(format!("{VF}{number}h")));
            assert_eq!(guest["address"], format!("00:15:5d:01:00:0{number}"), "{guest}");
            assert_ne!(far["address"], guest["address"], "{far}");
            assert_eq!((&guest["mtu"], &far["mtu"]), (&2000.into(), &2000.into()), "{guest}\n{far}");
        }
        let devices = host.finish_all();
        assert_eq!(interfaces(&netns), before, "{devices:?}");
    });
}

/// The script goes on to its end, and its last VF stays in use; nothing of the loop is lost on the way.
#[test]
fn a_driver_in_another_process_follows_the_script() {
    // Two of them, which the seed draws: whose VF comes and goes too often waits for a while.
    let unwilling = "refusal+silence+double-offer+mid-switch+withdrawal";
    play_to_l2fwd("af_packet", &format!("scenes={unwilling},cycles=2,seed=3,unwilling=0-200"), 0);
    play_to_l2fwd("af_xdp", "scenes=orderly,cycles=2,seed=5", 0);
}

/// A frame that was in there is lost, and no more than were under way.
#[test]
fn a_driver_in_another_process_goes_on_when_its_vf_vanishes() {
    for how in ["af_packet", "af_xdp"] {
        play_to_l2fwd(how, "scenes=surprise,cycles=2,seed=7", 2);
    }
}

/// Two adapters whose addresses differ in their last bit, each with a driver in a process of its own: each takes its own VF.
#[test]
fn drivers_of_two_devices_use_their_own_vf() {
    let Some(_turn) = process::turn(&CLIENT_TOOLS) else { return };
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    netns.enter(|| {
        let vf = format!("veth:{VF}");
        let mut host = Host::start(&["--port", "loopback", "--credit", "32", "--devices", "2", "--vf", &vf]);
        // Told once all are there.
        host.wait_for_said("000000000001 below");
        let clients: Vec<Client> = host.devices().iter().map(|device| l2fwd(&host, device, "af_packet")).collect();
        for number in 0..2 {
            wait_for_frames(&netns, &format!("{VF}{number}"));
        }
        let clients: Vec<Value> = clients.into_iter().map(ended).collect();
        let devices = host.finish_all();
        // Frames of the other's would be foreign; which client has which device is the host's to say.
        let mut by_vf: Vec<_> = clients.iter().map(|client| number(&client["vfs"][0], "tx_packets")).collect();
        let mut come: Vec<_> = devices.iter().map(|device| number(device, "vf_rx_packets")).collect();
        by_vf.sort_unstable();
        come.sort_unstable();
        assert_eq!(by_vf, come, "{clients:?}\n{devices:?}");
        for device in &devices {
            assert_sound(device, 0, device);
        }
    });
}

/// Plays this to a driver of a process of its own, whose VFs may vanish so often.
#[track_caller]
fn play_to_l2fwd(how: &str, script: &str, surprises: u64) {
    let Some(_turn) = process::turn(&CLIENT_TOOLS) else { return };
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    let before = interfaces(&netns);
    netns.enter(|| {
        // The grace is time enough for a driver that hears late of it: nothing is sent into what has gone.
        let vf = format!("veth:{VF},{script},period=50,grace=500,away=0-20");
        let mut host = Host::start(&["--port", "loopback", "--credit", "64", "--vf", &vf]);
        let client = l2fwd(&host, &host.device(), how);
        host.wait_for_said(", the last step");
        wait_for_frames(&netns, VF);
        let client = ended(client);
        let device = host.finish();
        let what = format!("{how}, {script}: {client}");
        assert_sound(&device, surprises * 64, &what);
        // Frames went by both, and none otherwise than both say.
        let by_vf = &client["vfs"][0];
        assert!(number(by_vf, "rx_packets") >= ENOUGH && number(&device, "rx_packets") > 0, "{what}: {device}");
        if surprises == 0 {
            assert_eq!(number(by_vf, "tx_packets"), number(&device, "vf_rx_packets"), "{what}: {device}");
            assert_eq!((number(by_vf, "rx_dropped"), number(by_vf, "tx_dropped")), (0, 0), "{what}: {device}");
        }
        assert_eq!(interfaces(&netns), before, "{what}");
    });
}

/// Starts a driver that sends back what it receives, until it is interrupted.
fn l2fwd(host: &Host, device: &str, how: &str) -> Client {
    let mut command = host.client(process::example("l2fwd"));
    command.args(["--device", device, "--wait", "interrupt", "--vf", how, "--seconds", "0", "--json"]);
    Client::start(command)
}

/// Ends it; what it says.
#[track_caller]
fn ended(client: Client) -> Value {
    let (status, output) = client.interrupt();
    assert!(status.success(), "{status}: {output:?}");
    let said: Value = serde_json::from_str(output.last().expect("a line")).expect("json");
    assert_eq!(said["clean"], true, "{said}");
    said
}

/// Waits until enough frames went both ways by this interface, which is not waited for.
#[track_caller]
fn wait_for_frames(netns: &Netns, interface: &str) {
    let start = Instant::now();
    let both = || netns.link_counters(interface).map_or(0, |counters| counters.tx_packets.min(counters.rx_packets));
    while both() < ENOUGH {
        assert!(start.elapsed() < PATIENCE, "{interface} is not used");
        std::thread::sleep(LOOK);
    }
}

/// Every frame came back once, but for those lost in VFs that vanished. Their order is `vf_failover`'s subject: here the old path is
/// waited for no longer than drivers usually do, and nobody says that a busy machine let it run in that time.
#[track_caller]
fn assert_sound(device: &Value, lost: u64, what: &impl std::fmt::Display) {
    for field in ["corrupt", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(device[field], 0, "{field}: {what}\n{device}");
    }
    // Late is what came after it was given up.
    let really = number(device, "lost").saturating_sub(number(device, "late"));
    assert!(really <= lost, "{what}\n{device}");
}

/// Names of the namespace's interfaces, in their order.
fn interfaces(netns: &Netns) -> Vec<String> {
    let links: Value = serde_json::from_str(&netns.ip("-j link").expect("a list")).expect("json");
    let names = links.as_array().expect("links").iter().map(|link| link["ifname"].as_str().expect("a name").into());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable_by_key(|name| (name != "lo", name.clone()));
    names
}
