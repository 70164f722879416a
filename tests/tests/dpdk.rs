//! DPDK as referee: its unmodified `net_netvsc`, driven by testpmd, against `netvsc-host` as a process.
//!
//! Nobody here wrote that driver, and it shares no code with this project's. Every frame that it sends or forwards is
//! checked by the host. Needs testpmd (Debian: `dpdk dpdk-dev`), a C compiler and make; without them the tests say
//! `SKIPPED` and why, and fail where the variable `CI` is set. `tests/dpdk/README.md` describes the machinery.
//!
//! The host program is built by cargo when the first test needs it; `NETVSC_HOST_BIN` names another one.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything is waited for; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(90);
/// Frames after which a run has shown what it can.
const ENOUGH: u64 = 20_000;

#[test]
fn handshake() {
    let Some(_turn) = referee() else { return };
    for profile in ["ws2012r2", "ws2016", "ws2019", "ws2022"] {
        let mut host = Host::start(&["--port", "loopback", "--credit", "64", "--profile", profile]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io"]);
        host.wait_until("returned", 1);
        testpmd.stop();
        let device = host.finish();
        assert_clean(&device, profile);
        let version = if profile < "ws2019" { "5" } else { "6.1" };
        assert_eq!(device["nvsp_version"], version, "{profile}");
    }
}

#[test]
fn old_nvsp_versions() {
    let Some(_turn) = referee() else { return };
    for version in ["2", "4", "5", "6"] {
        let mut host = Host::start(&["--port", "loopback", "--credit", "64", "--nvsp-max", version]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io"]);
        host.wait_until("returned", 1000);
        testpmd.stop();
        assert_clean(&host.finish(), version);
    }
}

#[test]
fn forwards_every_frame() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("io, {queues} queues, {size} bytes");
        let mut host =
            Host::start(&["--port", "loopback", "--credit", "256", "--queues", queues, "--packet-size", size]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io", &rxq(queues), &txq(queues)]);
        host.wait_until("returned", ENOUGH);
        let output = testpmd.stop();
        for queue in 0..queues.parse::<u32>().unwrap() {
            let name = format!("RX Port= 0/Queue= {queue} ");
            assert!(output.contains(&name) || queues == "1", "{what}: nothing came on queue {queue}\n{output}");
        }
        let device = host.finish();
        assert_clean(&device, &what);
        assert_eq!(number(&device, "lost"), 0, "{what}: {device}");
        assert!(number(&device, "in_flight_at_close") <= 256, "{what}: {device}");
        let accounted = ["returned", "lost", "flushed_before_start", "in_flight_at_close"];
        let sum: u64 = accounted.iter().map(|field| number(&device, field)).sum();
        assert_eq!(sum, number(&device, "tx_packets"), "{what}: {device}");
    }
}

#[test]
fn receives() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("rxonly, {queues} queues, {size} bytes");
        let port = format!("generator:20000,{size}");
        let mut host = Host::start(&["--port", &port, "--queues", queues]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=rxonly", "--rxd=4096", &rxq(queues), &txq(queues)]);
        host.wait_until("tx_packets", ENOUGH);
        let output = testpmd.stop();
        let device = host.finish();
        assert_clean(&device, &what);
        let (sent, received) = (number(&device, "tx_packets"), statistic(&output, "RX-packets"));
        assert!(received > 0 && received <= sent, "{what}: {received} of {sent} received\n{output}");
        assert_eq!(number(&device, "rx_packets"), 0, "{what}");
    }
}

#[test]
fn sends() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("txonly, {queues} queues, {size} bytes");
        let mut host = Host::start(&["--port", "null", "--queues", queues]);
        let size = format!("--txpkts={size}");
        let testpmd = Testpmd::start(&host, &["--forward-mode=txonly", &size, &rxq(queues), &txq(queues)]);
        host.wait_until("rx_packets", ENOUGH);
        let output = testpmd.stop();
        let device = host.finish();
        assert_clean(&device, &what);
        // What testpmd's driver took has come, but for what waited for more to be sent with: 16 on each queue. There is no
        // bound the other way: more come than testpmd's statistics know of once its driver refuses frames of a burst
        // (2,334,937 of 2,330,112 were seen). That none comes twice is shown by the numbered frames of the closed loops.
        let sent = statistic(&output, "TX-packets");
        let (come, waiting) = (number(&device, "rx_packets"), 16 * queues.parse::<u64>().unwrap());
        assert!(sent <= come + waiting, "{what}: {come} of {sent} have come\n{device}\n{output}");
    }
}

#[test]
fn checksums_are_completed() {
    let Some(_turn) = referee() else { return };
    for traffic in ["udp", "tcp"] {
        let credit = ["--port", "loopback", "--credit", "64", "--packet-size", "300"];
        let mut host = Host::start(&[&credit[..], &["--checksum-offload", "--traffic", traffic]].concat());
        // IPv4, UDP and TCP checksums in hardware: RTE_ETH_TX_OFFLOAD_*_CKSUM.
        let testpmd = Testpmd::start(&host, &["--forward-mode=csum", "--tx-offloads=0xe"]);
        host.wait_until("returned", ENOUGH);
        testpmd.stop();
        let device = host.finish();
        assert_clean(&device, traffic);
        assert_eq!(number(&device, "lost"), 0, "{traffic}: {device}");
        // Each one that came back had its checksums left out: the host compares the completed frame with what it sent.
        let (computed, returned) = (number(&device, "tx_checksums"), number(&device, "returned"));
        assert!(computed >= returned && returned >= ENOUGH, "{traffic}: {device}");
    }
}

#[test]
fn killed_at_any_moment() {
    let Some(_turn) = referee() else { return };
    const TIMES: u64 = 20;
    let mut host = Host::start(&["--port", "loopback", "--credit", "256", "--queues", "2"]);
    let mut returned = 0;
    for time in 1..=TIMES {
        let testpmd = Testpmd::start(&host, &["--forward-mode=io", "--rxq=2", "--txq=2"]);
        if time % 4 == 0 {
            // In the middle of its start.
            host.wait_until("sessions", time);
        } else {
            host.wait_until("returned", returned + 1000);
        }
        testpmd.kill();
        host.wait_for_line("no client");
        returned = host.last("returned");
        assert!(host.folders("channels").len() <= 1, "subchannels are gone: {:?}", host.folders("channels"));
    }
    let device = host.finish();
    assert_eq!(number(&device, "sessions"), TIMES, "{device}");
    assert_clean(&device, "killed");
    assert_eq!(number(&device, "lost"), 0, "{device}");
}

#[test]
fn two_devices_at_once() {
    let Some(_turn) = referee() else { return };
    let mut host = Host::start(&["--devices", "2", "--port", "loopback", "--credit", "64"]);
    // DPDK takes every NIC that it finds.
    let testpmd = Testpmd::start(&host, &["--forward-mode=io", "--port-topology=loop"]);
    host.wait_until("returned", 1000);
    testpmd.stop();
    let devices = host.finish_all();
    assert_eq!(devices.len(), 2);
    for device in &devices {
        assert_clean(device, "two devices");
        assert!(number(device, "returned") > 0, "{device}");
        assert_eq!(number(device, "lost"), 0, "{device}");
    }
}

/// Queues and frame sizes that are tried.
fn shapes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ["1", "2", "4"].into_iter().flat_map(|queues| ["64", "1500"].map(|size| (queues, size)))
}

fn rxq(queues: &str) -> String {
    format!("--rxq={queues}")
}

fn txq(queues: &str) -> String {
    format!("--txq={queues}")
}

/// No frame was changed or came twice, no rule was broken, everything was given back.
#[track_caller]
fn assert_clean(device: &Value, what: &str) {
    for field in ["corrupt", "reordered", "late", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(number(device, field), 0, "{what}: {field}: {device}");
    }
}

#[track_caller]
fn number(device: &Value, field: &str) -> u64 {
    device[field].as_u64().unwrap_or_else(|| panic!("no number {field}: {device}"))
}

/// A number of testpmd's final statistics, of all ports.
#[track_caller]
fn statistic(output: &str, name: &str) -> u64 {
    let end = output.rsplit("Accumulated forward statistics").next().unwrap_or_default();
    let value = end.split(name).nth(1).and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{output}"))
}

/// One test at a time, if there is a referee at all.
fn referee() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    for program in ["dpdk-testpmd", "cc", "make"] {
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

/// The host program, built once.
fn host_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("NETVSC_HOST_BIN") {
            return path.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--quiet", "-p", "netvsc-host", "--features", "cli", "--bin", "netvsc-host"]);
        cargo.args(["--message-format", "json"]).current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "netvsc-host does not build");
        let text = String::from_utf8_lossy(&output.stdout);
        let executable = text.lines().rev().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executable.expect("cargo names the program")
    })
}

/// A running `netvsc-host`.
struct Host {
    child: Child,
    root: PathBuf,
    /// Its lines of statistics, as they come.
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Host {
    fn start(arguments: &[&str]) -> Self {
        // Short, and on a tmpfs: a socket's address goes with it.
        let number = std::process::id();
        let root = PathBuf::from(format!("/dev/shm/nvh-{number}-{}", unique()));
        let mut command = Command::new(host_program());
        command.arg("--root").arg(&root).arg("--json").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("netvsc-host starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (lines, errors) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, root, log, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number of the last line of statistics.
    fn last(&self, field: &str) -> u64 {
        let last = self.lines().into_iter().rev().find_map(|line| field_of(&line, field));
        last.unwrap_or(0)
    }

    #[track_caller]
    fn wait_until(&mut self, field: &str, least: u64) {
        self.wait(&format!("{field} {least}"), |line| field_of(line, field).is_some_and(|value| value >= least));
    }

    /// Waits for a line that comes from now on.
    #[track_caller]
    fn wait_for_line(&mut self, text: &str) {
        let after = self.lines().len();
        self.wait_after(after, text, |line| line.contains(text));
    }

    #[track_caller]
    fn wait(&mut self, what: &str, found: impl Fn(&str) -> bool) {
        self.wait_after(0, what, found);
    }

    #[track_caller]
    fn wait_after(&mut self, after: usize, what: &str, found: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !self.lines().iter().skip(after).any(|line| found(line)) {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the host ended: {ended:?}\n{}", self.lines().join("\n"));
            assert!(start.elapsed() < PATIENCE, "waited for {what} in vain:\n{}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Names in a folder of the first device.
    fn folders(&self, name: &str) -> Vec<String> {
        let devices = std::fs::read_dir(self.root.join("sys/bus/vmbus/devices")).expect("devices");
        let device = devices.filter_map(Result::ok).next().expect("a device").path();
        let entries = std::fs::read_dir(device.join(name)).expect("a folder");
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn finish(self) -> Value {
        self.finish_all().remove(0)
    }

    fn finish_all(mut self) -> Vec<Value> {
        interrupt(&self.child);
        let mut output = String::new();
        let stdout = self.child.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut BufReader::new(stdout), &mut output).expect("text");
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the host failed: {status}\n{}", self.lines().join("\n"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("lines were read");
        }
        let last = output.lines().last().expect("a last line");
        let report: Value = serde_json::from_str(last).expect("the last line is JSON");
        let devices = report["devices"].as_array().expect("devices").clone();
        assert!(!devices.is_empty());
        for device in &devices {
            let violations = number(device, "protocol_violations");
            assert_eq!(violations, 0, "{}", self.lines().join("\n"));
        }
        devices
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

/// The number behind a word of a line.
fn field_of(line: &str, field: &str) -> Option<u64> {
    let mut words = line.split([' ', ',']).skip_while(|word| *word != field);
    words.nth(1)?.parse().ok()
}

/// A running testpmd.
struct Testpmd {
    child: Child,
    output: PathBuf,
}

impl Testpmd {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let output = host.root.with_extension("testpmd");
        let file = std::fs::File::create(&output).expect("a file");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dpdk/run-testpmd");
        // The host makes its directory when it starts.
        let start = Instant::now();
        while !host.root.is_dir() {
            assert!(start.elapsed() < PATIENCE, "no host: {}", host.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut command = Command::new(script);
        command.arg(&host.root).args(["--", "--auto-start", "--stats-period=1", "--total-num-mbufs=16384"]);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a file")).stderr(file);
        Self { child: command.spawn().expect("run-testpmd starts"), output }
    }

    /// Stops it as a user does; what it said.
    fn stop(mut self) -> String {
        interrupt(&self.child);
        let status = self.child.wait().expect("a child");
        let output = std::fs::read_to_string(&self.output).unwrap_or_default();
        assert!(status.success(), "testpmd: {status}\n{output}");
        output
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Ended already, unless a test fails: then what it said is of interest.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("testpmd:\n{}", std::fs::read_to_string(&self.output).unwrap_or_default());
        }
        let _ = std::fs::remove_file(&self.output);
    }
}

fn interrupt(child: &Child) {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "kill");
}

fn unique() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
