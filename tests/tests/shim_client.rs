//! Our driver in a process of its own, against `netvsc-host` in another: `examples/l2fwd` with the very code that runs on
//! `uio_hv_generic`, the kernel played by the preloaded library of `tests/dpdk`.
//!
//! The host keeps frames under way in a closed loop and checks each that comes back. Needs a C compiler and make; without
//! them the tests say `SKIPPED` and why, and fail where the variable `CI` is set.
//!
//! The programs are built by cargo; `NETVSC_HOST_BIN` and `NETVSC_L2FWD_BIN` name others.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything is waited for; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_polling_client_forwards_every_frame_without_allocating() {
    let Some(_turn) = tools() else { return };
    for size in ["64", "1500"] {
        let (client, _) = forward(&["--packet-size", size], &["--wait", "poll"]);
        assert_eq!(client["allocations"], 0, "{size} bytes: {client}");
    }
}

#[test]
fn a_sleeping_client_forwards_every_frame() {
    let Some(_turn) = tools() else { return };
    for wait in ["interrupt", "adaptive"] {
        forward(&[], &["--wait", wait]);
    }
}

#[test]
fn queues_forward_side_by_side() {
    let Some(_turn) = tools() else { return };
    for wait in ["poll", "interrupt"] {
        let queues = ["--queues", "2"];
        let (client, _) = forward(&queues, &[&queues[..], &["--wait", wait]].concat());
        assert_eq!(client["queues"], 2, "{client}");
    }
}

/// Has frames go round for a while; what client and host say in the end.
#[track_caller]
fn forward(host: &[&str], client: &[&str]) -> (Value, Value) {
    let what = format!("host {host:?}, client {client:?}");
    let host = Host::start(&[&["--port", "loopback", "--credit", "64"], host].concat());
    let client = host.client(&[&["--mode", "io", "--seconds", "1"], client].concat());
    let device = host.finish();
    for field in ["lost", "corrupt", "reordered", "late", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(device[field], 0, "{what}: {field}: {device}");
    }
    let number = |field: &str| device[field].as_u64().unwrap_or_else(|| panic!("{what}: no number {field}: {device}"));
    assert!(number("returned") > 0, "{what}: {device}");
    let accounted = number("returned") + number("flushed_before_start") + number("in_flight_at_close");
    assert_eq!(accounted, number("tx_packets"), "{what}: {device}");
    assert_eq!(client["lost"], 0, "{what}: {client}");
    assert_eq!(client["clean"], true, "{what}: {client}");
    assert_eq!(client["packets"], device["returned"], "{what}: {device}");
    (client, device)
}

/// One test at a time, if there is what they need.
fn tools() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    for program in ["cc", "make"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|paths| std::env::split_paths(&paths).any(|path| path.join(program).is_file()));
        if !found {
            assert!(std::env::var_os("CI").is_none(), "{program} is missing");
            eprintln!("SKIPPED: {program} is missing");
            return None;
        }
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A program of this workspace: the one that `variable` names, or built by cargo.
fn program(variable: &str, arguments: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--message-format", "json"]).args(arguments);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{arguments:?} does not build");
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = text.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executable.expect("cargo names the program")
}

/// A running `netvsc-host`.
struct Host {
    child: Child,
    root: PathBuf,
}

impl Host {
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Short, and on a tmpfs: a socket's address goes with it.
        let root = PathBuf::from(format!("/dev/shm/nvs-{}-{number}", std::process::id()));
        let build = ["-p", "netvsc-host", "--features", "cli", "--bin", "netvsc-host"];
        let mut command = Command::new(program("NETVSC_HOST_BIN", &build));
        command.arg("--root").arg(&root).args(["--json", "--quiet"]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("netvsc-host starts");
        let mut host = Self { child, root };
        let start = Instant::now();
        // The socket comes last.
        while !entries(&host.root.join("dev")).iter().any(|name| name.ends_with(".sock")) {
            let ended = host.child.try_wait().expect("a child");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "no device of the host: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        host
    }

    /// Runs `l2fwd` on the host's device; the last line it says.
    #[track_caller]
    fn client(&self, arguments: &[&str]) -> Value {
        let library = self.root.join("run");
        std::fs::create_dir_all(&library).expect("a folder");
        let mut out = std::ffi::OsString::from("OUT=");
        out.push(&library);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("dpdk");
        let made = Command::new("make").arg("-s").arg("-C").arg(sources).arg(out).status().expect("make runs");
        assert!(made.success(), "the library does not build");
        let device = entries(&self.root.join("sys/bus/vmbus/devices")).pop().expect("a device");
        let mut command = Command::new(program("NETVSC_L2FWD_BIN", &["-p", "netvsc-examples", "--example", "l2fwd"]));
        command.args(["--device", &device, "--json"]).args(arguments).stdin(Stdio::null());
        command.env("VMBUS_SHIM_ROOT", &self.root).env("LD_PRELOAD", library.join("vmbus_uio_shim.so"));
        let output = command.stderr(Stdio::inherit()).output().expect("l2fwd starts");
        assert!(output.status.success(), "l2fwd: {}", output.status);
        last_line(&output.stdout)
    }

    #[track_caller]
    fn finish(mut self) -> Value {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill");
        let mut output = Vec::new();
        let mut stdout = self.child.stdout.take().expect("piped");
        std::io::Read::read_to_end(&mut stdout, &mut output).expect("output");
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the host failed: {status}");
        last_line(&output)["devices"][0].clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ended already, unless a test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// The last line, which is JSON.
#[track_caller]
fn last_line(output: &[u8]) -> Value {
    let text = String::from_utf8_lossy(output);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Names in a folder; none if it does not exist.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
