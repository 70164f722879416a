//! Programs in processes of their own: `netvsc-host`, DPDK's testpmd, and clients of this project, which take the host's
//! files and sockets for a kernel's by the preloaded library of `tests/dpdk`.
//!
//! The programs are built by cargo, in release mode, when they are needed first; `NETVSC_HOST_BIN`, `NETVSC_L2FWD_BIN` and
//! so on name others. Everything is ended with the value that stands for it, also when a test fails.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::real;

/// How long anything is waited for; a busy machine takes long.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a program that ends by itself may run: longer than it was told to.
const LONGEST_RUN: Duration = Duration::from_secs(240);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Runs a program to its end; what it said.
///
/// # Panics
/// If it does not start, or does not end: then it is killed, and what it said until then is told.
#[must_use]
#[track_caller]
pub fn output(command: Command) -> Output {
    output_within(command, LONGEST_RUN)
}

/// As [`output`], for one that may run this long.
///
/// # Panics
/// As there.
#[must_use]
#[track_caller]
pub fn output_within(mut command: Command, longest: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut said = Whole::read(child.stdout.take().expect("piped"));
    let mut complained = Whole::read(child.stderr.take().expect("piped"));
    let status = ended(&mut child, longest);
    if status.is_none() {
        // It may end in this very moment.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (said.finish(), complained.finish());
    let Some(status) = status else {
        let [said, complained] = [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes));
        panic!("{command:?} does not end\n{said}\n{complained}");
    };
    Output { status, stdout, stderr }
}

/// Waits for the end of a process; nothing if it does not come in time.
fn ended(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        if start.elapsed() > patience {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// One test at a time, if there are the programs that it needs; else the test is skipped.
///
/// # Panics
/// If one is missing and `CI` is set in the environment.
pub fn turn(programs: &[&str]) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&str| std::env::split_paths(&paths).any(|path| path.join(program).is_file());
    if let Some(missing) = programs.iter().find(|program| !there(program)) {
        real::skip(&format!("{missing} is missing"));
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What clients under the preloaded library need to be built.
pub const CLIENT_TOOLS: [&str; 2] = ["cc", "make"];

/// An example of this workspace, such as `l2fwd`.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    program(&format!("NETVSC_{}_BIN", name.to_uppercase()), &["-p", "netvsc-examples", "--example", name])
}

/// The program `netvsc-host`.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn host_program() -> PathBuf {
    program("NETVSC_HOST_BIN", &["-p", "netvsc-host", "--features", "cli", "--bin", "netvsc-host"])
}

/// A program of this workspace: the one that `variable` names, or built by cargo, once.
fn program(variable: &str, arguments: &[&str]) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(variable) {
        return path.clone();
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
    let executable = executable.expect("cargo names the program");
    built.insert(variable.to_owned(), executable.clone());
    executable
}

/// A running `netvsc-host` and its directory.
#[derive(Debug)]
pub struct Host {
    child: Child,
    root: PathBuf,
    arguments: Vec<String>,
    /// What it says of itself, as it comes.
    log: Log,
    /// What it says in the end.
    report: Whole,
}

impl Host {
    /// Starts it, in the calling thread's network namespace, and waits until its device is there.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, and on a tmpfs: a socket's address goes with it.
        let root = PathBuf::from(format!("/dev/shm/nvh-{}-{number}", std::process::id()));
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (child, log, report) = spawn_host(&root, &arguments);
        let mut host = Self { child, root, arguments, log, report };
        host.wait_for_device();
        host
    }

    #[track_caller]
    fn wait_for_device(&mut self) {
        let start = Instant::now();
        // The socket comes last.
        while !entries(&self.root.join("dev")).iter().any(|name| name.ends_with(".sock")) {
            self.assert_runs();
            assert!(start.elapsed() < PATIENCE, "no device of the host: {}", self.log.text());
            std::thread::sleep(LOOK);
        }
    }

    #[track_caller]
    fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("a child");
        assert!(ended.is_none(), "the host ended: {ended:?}\n{}", self.log.text());
    }

    /// Kills it, as a crash does: its files stay.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// Starts it again after it was killed, with the same directory and arguments, in the calling thread's network namespace.
    ///
    /// # Panics
    /// If it does not come up.
    #[track_caller]
    pub fn restart(&mut self) {
        // Left by the one that was killed, and nobody listens: it would be taken for the new one's.
        let sockets = entries(&self.root.join("dev"));
        sockets.iter().for_each(|name| drop(std::fs::remove_file(self.root.join("dev").join(name))));
        (self.child, self.log, self.report) = spawn_host(&self.root, &self.arguments);
        self.wait_for_device();
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The instance of its first device.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn device(&self) -> String {
        self.devices().into_iter().next().expect("a device")
    }

    /// The instances of its devices, in their order.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let mut devices = entries(&self.root.join("sys/bus/vmbus/devices"));
        devices.sort();
        devices
    }

    /// Names in a folder of the first device.
    #[must_use]
    #[track_caller]
    pub fn folders(&self, name: &str) -> Vec<String> {
        entries(&self.root.join("sys/bus/vmbus/devices").join(self.device()).join(name))
    }

    /// A program that takes this host's devices for the machine's.
    ///
    /// # Panics
    /// If the preloaded library does not build.
    #[must_use]
    #[track_caller]
    pub fn client(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, value) in self.client_environment() {
            command.env(name, value);
        }
        command.stdin(Stdio::null());
        command
    }

    /// The environment of such a program.
    ///
    /// # Panics
    /// If the preloaded library does not build.
    #[must_use]
    #[track_caller]
    pub fn client_environment(&self) -> [(&'static str, OsString); 2] {
        let library = self.root.join("run");
        std::fs::create_dir_all(&library).expect("a folder");
        let mut out = OsString::from("OUT=");
        out.push(&library);
        let made = Command::new("make").arg("-s").arg("-C").arg(dpdk_folder()).arg(out).status().expect("make runs");
        assert!(made.success(), "the preloaded library does not build");
        [
            ("VMBUS_SHIM_ROOT", self.root.clone().into()),
            ("LD_PRELOAD", library.join("vmbus_uio_shim.so").into_os_string()),
        ]
    }

    /// A number of the last line of statistics that has it.
    #[must_use]
    pub fn last(&self, field: &str) -> u64 {
        self.log.lines().iter().rev().find_map(|line| field_of(line, field)).unwrap_or(0)
    }

    /// Waits until a number of the statistics is `least` or more.
    ///
    /// # Panics
    /// If it does not get there.
    #[track_caller]
    pub fn wait_until(&mut self, field: &str, least: u64) {
        let enough = |line: &str| field_of(line, field).is_some_and(|value| value >= least);
        self.wait_after(0, &format!("{field} {least}"), enough);
    }

    /// Waits for a line, whether it came before or not.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn wait_for_said(&mut self, text: &str) {
        self.wait_after(0, text, |line| line.contains(text));
    }

    /// Waits for a line that comes from now on.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str) {
        self.wait_after(self.log.lines().len(), text, |line| line.contains(text));
    }

    #[track_caller]
    fn wait_after(&mut self, after: usize, what: &str, found: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !self.log.lines().iter().skip(after).any(|line| found(line)) {
            self.assert_runs();
            assert!(start.elapsed() < PATIENCE, "waited for {what} in vain:\n{}", self.log.text());
            std::thread::sleep(LOOK);
        }
    }

    /// Interrupts it; what became of its first device.
    ///
    /// # Panics
    /// As [`finish_all`](Self::finish_all).
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Value {
        self.finish_all().remove(0)
    }

    /// Interrupts it; what became of its devices.
    ///
    /// # Panics
    /// If it fails, or somebody broke the protocol.
    #[must_use]
    #[track_caller]
    pub fn finish_all(mut self) -> Vec<Value> {
        interrupt(&self.child);
        let status = ended(&mut self.child, PATIENCE);
        let status = status.unwrap_or_else(|| panic!("the host does not end:\n{}", self.log.text()));
        assert!(status.success(), "the host failed: {status}\n{}", self.log.text());
        let report = last_line(&String::from_utf8_lossy(&self.report.finish()));
        let devices = report["devices"].as_array().expect("devices").clone();
        assert!(!devices.is_empty());
        for device in &devices {
            assert_eq!(number(device, "protocol_violations"), 0, "{device}\n{}", self.log.text());
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

fn spawn_host(root: &Path, arguments: &[String]) -> (Child, Log, Whole) {
    let mut command = Command::new(host_program());
    command.arg("--root").arg(root).arg("--json").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("netvsc-host starts");
    let log = Log::read(child.stderr.take().expect("piped"));
    let report = Whole::read(child.stdout.take().expect("piped"));
    (child, log, report)
}

/// A running client that tells what it does on standard output.
#[derive(Debug)]
pub struct Client {
    child: Child,
    log: Log,
}

impl Client {
    /// Starts it.
    ///
    /// # Panics
    /// If that is not possible.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the client starts");
        let log = Log::read(child.stdout.take().expect("piped"));
        Self { child, log }
    }

    /// How many lines it has said.
    #[must_use]
    pub fn said(&self) -> usize {
        self.log.lines().len()
    }

    /// Waits for a line with `text` among those after the first `after`; the line.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn wait_for_line(&mut self, after: usize, text: &str) -> String {
        let start = Instant::now();
        loop {
            // Before the look: what it said at its end counts.
            let ended = self.child.try_wait().expect("a child");
            if let Some(line) = self.log.lines().into_iter().skip(after).find(|line| line.contains(text)) {
                return line;
            }
            assert!(ended.is_none(), "the client ended ({ended:?}) without {text:?}:\n{}", self.log.text());
            assert!(start.elapsed() < PATIENCE, "waited for {text:?} in vain:\n{}", self.log.text());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end; its status and what it has said.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let status = ended(&mut self.child, PATIENCE);
        let status = status.unwrap_or_else(|| panic!("the client does not end:\n{}", self.log.text()));
        (status, self.log.finish())
    }

    /// Interrupts it as Ctrl-C does, and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn interrupt(self) -> (ExitStatus, Vec<String>) {
        interrupt(&self.child);
        self.wait()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already, unless a test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running testpmd.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    output: PathBuf,
}

impl Testpmd {
    /// Starts it on a host's devices.
    ///
    /// # Panics
    /// If that is not possible.
    #[must_use]
    pub fn start(host: &Host, arguments: &[&str]) -> Self {
        let output = host.root.with_extension("testpmd");
        let file = File::create(&output).expect("a file");
        let mut command = Command::new(dpdk_folder().join("run-testpmd"));
        command.arg(&host.root).args(["--", "--auto-start", "--stats-period=1", "--total-num-mbufs=16384"]);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a file")).stderr(file);
        Self { child: command.spawn().expect("run-testpmd starts"), output }
    }

    /// Stops it as a user does; what it said.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn stop(mut self) -> String {
        interrupt(&self.child);
        // Unless it ends, what it said is told when it is killed.
        let status = ended(&mut self.child, PATIENCE).expect("testpmd ends after an interrupt");
        let output = std::fs::read_to_string(&self.output).unwrap_or_default();
        assert!(status.success(), "testpmd: {status}\n{output}");
        output
    }

    /// Kills it, wherever it is.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn kill(mut self) {
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

/// A number of a report.
///
/// # Panics
/// If there is none of this name.
#[must_use]
#[track_caller]
pub fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no number {field}: {report}"))
}

/// Checks what a host's closed loop says: each frame that it sent came back, or is accounted for.
///
/// # Panics
/// If not.
#[track_caller]
pub fn assert_accounted(device: &Value, what: &str) {
    let sum = |fields: &[&str]| fields.iter().map(|field| number(device, field)).sum::<u64>();
    // Of those under way when the client closed its filter the device had passed some on, and counts no others.
    let done = sum(&["returned", "lost", "flushed_before_start"]);
    let sent = done..=done + sum(&["in_flight_at_close"]);
    assert!(sent.contains(&number(device, "tx_packets")), "{what}: {device}");
}

/// The last line, which is JSON.
///
/// # Panics
/// If it is not.
#[must_use]
#[track_caller]
pub fn last_line(output: &str) -> Value {
    let last = output.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// All that comes out of a pipe, read as it comes: whoever writes never waits.
#[derive(Debug)]
struct Whole(Option<JoinHandle<Vec<u8>>>);

impl Whole {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        Self(Some(std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error counts.
            let _ = from.read_to_end(&mut bytes);
            bytes
        })))
    }

    /// Of a program that has ended; once.
    fn finish(&mut self) -> Vec<u8> {
        self.0.take().map(|reader| reader.join().expect("bytes are read")).unwrap_or_default()
    }
}

/// The lines of a pipe, as they come.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let write = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                write.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// All lines of a program that has ended.
    fn finish(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("lines are read");
        }
        self.lines()
    }
}

/// The number behind a word of a line.
fn field_of(line: &str, field: &str) -> Option<u64> {
    let mut words = line.split([' ', ',']).skip_while(|word| *word != field);
    words.nth(1)?.parse().ok()
}

/// Names in a folder; none if it does not exist.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn dpdk_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dpdk")
}

#[track_caller]
fn interrupt(child: &Child) {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "kill");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_the_word_before_them() {
        let line = "0: client, sessions 2, rx_packets 17 (0.1 Mpps), violations 0";
        assert_eq!(field_of(line, "rx_packets"), Some(17));
        assert_eq!(field_of(line, "sessions"), Some(2));
        assert_eq!(field_of(line, "packets"), None);
    }
}
