//! The appliance as its users run it: an unmodified `examples/appliance --device GUID` in a process of its own, on an adapter
//! of the simulated host in another process, and the kernel's TCP/IP stack behind that host's TAP interface. The host is
//! killed, too, and comes back.
//!
//! ```text
//!   curl ── TAP ── netvsc-host ── files, socket, shared memory ── preloaded library ── appliance
//!    (network namespace)                                          (in place of the kernel)
//! ```
//!
//! Needs root for the TAP interface and the namespace.

#![cfg(target_os = "linux")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use netvsc_tests::netns::Netns;
use netvsc_tests::process::{self, CLIENT_TOOLS, Client, Host, PATIENCE, last_line, number};
use netvsc_tests::real;
use serde_json::Value;
use sha2::{Digest, Sha256};

const APPLIANCE: &str = "198.51.100.1";
const NETWORK: &str = "198.51.100.2/24";
const TAP: &str = "uiotap0";
const BLOB_BYTES: usize = 64 << 20;
/// What the appliance says when it serves.
const SERVES: &str = "the appliance is";

/// A host with a TAP interface, in a network namespace.
struct World {
    netns: Netns,
    host: Host,
}

impl World {
    fn new() -> Self {
        let netns = Netns::new().expect("a network namespace");
        let port = format!("tap:{TAP}");
        let host = netns.enter(|| Host::start(&["--port", &port]));
        let world = Self { netns, host };
        world.set_address();
        world
    }

    /// The interface is new each time that its host is.
    fn set_address(&self) {
        self.netns.ip(&format!("addr add {NETWORK} dev {TAP}")).expect("an address");
        self.netns.ip(&format!("link set {TAP} up")).expect("an interface");
    }

    fn restart_host(&mut self) {
        let Self { netns, host } = self;
        netns.enter(|| host.restart());
        self.set_address();
    }

    fn appliance(&self, arguments: &[&str]) -> Client {
        let mut command = self.host.client(process::example("appliance"));
        command.args(["--device", &self.host.device(), "--address", &format!("{APPLIANCE}/24"), "--json"]);
        let mut client = Client::start({
            command.args(arguments);
            command
        });
        client.wait_for_line(0, SERVES);
        client
    }

    fn curl(&self, path: &str) -> Output {
        let (url, seconds) = (format!("http://{APPLIANCE}{path}"), PATIENCE.as_secs().to_string());
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", &seconds, "-D", "/dev/stderr", &url]);
        self.netns.enter(|| command.output().expect("curl"))
    }

    #[track_caller]
    fn body(&self, path: &str) -> Vec<u8> {
        let output = self.curl(path);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// An interface that is new to the kernel has to find its neighbour, which takes as long as it takes.
    #[track_caller]
    fn wait_for_answer(&self) {
        let start = Instant::now();
        while !self.curl("/").status.success() {
            assert!(start.elapsed() < PATIENCE, "the appliance does not answer");
        }
    }

    /// Everything that the appliance has, and every byte of it right.
    #[track_caller]
    fn check_pages(&self) {
        self.wait_for_answer();
        let page = self.body("/");
        assert!(String::from_utf8_lossy(&page).to_lowercase().contains("<html"), "a page");
        let statistics =
            |body: &[u8]| serde_json::from_slice::<Value>(body).expect("json")["nic"]["tx_packets"].as_u64();
        let before = statistics(&self.body("/stats.json")).expect("a counter");
        let blob = self.curl(&format!("/blob?bytes={BLOB_BYTES}"));
        assert!(blob.status.success(), "{}", String::from_utf8_lossy(&blob.stderr));
        assert_eq!(blob.stdout.len(), BLOB_BYTES);
        let hash: String = Sha256::digest(&blob.stdout).iter().map(|byte| format!("{byte:02x}")).collect();
        let headers = String::from_utf8_lossy(&blob.stderr).to_lowercase();
        let stated = headers.lines().find_map(|line| line.strip_prefix("x-sha256:")).map(str::trim);
        assert_eq!(stated, Some(hash.as_str()));
        let after = statistics(&self.body("/stats.json")).expect("a counter");
        assert!(after > before + BLOB_BYTES as u64 / 1500, "{before} frames before, {after} after");
    }
}

/// What a test on real traffic needs, for as long as it runs.
fn privileged() -> Option<impl Sized> {
    let turn = process::turn(&[&CLIENT_TOOLS[..], &["curl", "ip"]].concat())?;
    Some((turn, real::privileged_or_skip(&["ip", "curl"])?))
}

#[track_caller]
fn assert_clean(outcome: &Value) {
    for field in ["tx_dropped", "rx_dropped", "protocol_violations", "leaks"] {
        assert_eq!(number(outcome, field), 0, "{field}: {outcome}");
    }
    assert_eq!(outcome["error"], Value::Null, "{outcome}");
}

#[test]
fn the_kernel_fetches_a_file_byte_exact_from_another_process() {
    let Some(_turn) = privileged() else { return };
    let world = World::new();
    let appliance = world.appliance(&[]);
    world.check_pages();
    let (status, lines) = appliance.interrupt();
    assert!(status.success(), "{status}: {}", lines.join("\n"));
    let outcome = last_line(&lines.join("\n"));
    assert_clean(&outcome);
    assert!(number(&outcome, "bytes") >= BLOB_BYTES as u64, "{outcome}");
    let device = world.host.finish();
    assert_eq!(number(&device, "leaks"), 0, "{device}");
    assert_eq!(number(&device, "held_at_close"), 0, "{device}");
}

#[test]
fn a_host_that_is_killed_is_gone() {
    let Some(_turn) = privileged() else { return };
    let mut world = World::new();
    let appliance = world.appliance(&[]);
    world.wait_for_answer();
    world.host.kill();
    let (status, lines) = appliance.wait();
    assert_eq!(status.code(), Some(1), "no signal, and no success: {}", lines.join("\n"));
    let outcome = last_line(&lines.join("\n"));
    assert_eq!(outcome["error_kind"], "gone", "{outcome}");
    assert_eq!(number(&outcome, "protocol_violations"), 0, "{outcome}");
}

#[test]
fn a_host_that_comes_back_is_served_again() {
    let Some(_turn) = privileged() else { return };
    let mut world = World::new();
    let mut appliance = world.appliance(&["--reopen", "2"]);
    for time in 0..2 {
        world.check_pages();
        let said = appliance.said();
        world.host.kill();
        let gone = appliance.wait_for_line(said, "waiting for");
        assert!(gone.starts_with("gone: "), "{gone}");
        if time == 1 {
            // Long enough for it to have looked in vain, more than once.
            std::thread::sleep(Duration::from_millis(500));
        }
        world.restart_host();
        appliance.wait_for_line(said, SERVES);
    }
    world.check_pages();
    let (status, lines) = appliance.interrupt();
    assert!(status.success(), "{status}: {}", lines.join("\n"));
    assert_clean(&last_line(&lines.join("\n")));
    assert_eq!(number(&world.host.finish(), "leaks"), 0);
}
