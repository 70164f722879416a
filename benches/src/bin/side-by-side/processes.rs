//! The programs: building them, running them, reading what they say.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::Case;
use crate::report::{Run, median};

/// Most that a client may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds of a run that do not count: DPDK throws frames away when it starts, and the host has to notice.
const WARM_UP: u32 = 2;
/// Frames under way in `io`.
const CREDIT: &str = "256";
const HOST_CPU: &str = "0";
const CLIENT_CPU: &str = "1";

/// Who runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Ours,
    Dpdk,
}

/// What has been built.
#[derive(Debug)]
pub(crate) struct Programs {
    host: PathBuf,
    l2fwd: PathBuf,
    /// `tests/dpdk`.
    tools: PathBuf,
}

impl Programs {
    /// Builds what is ours.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?.to_path_buf();
        let build = |arguments: &[&str]| -> anyhow::Result<PathBuf> {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["build", "--release", "--quiet", "--message-format", "json"]).args(arguments);
            let output = command.current_dir(&root).stderr(Stdio::inherit()).output().context("run cargo")?;
            ensure!(output.status.success(), "{arguments:?} does not build");
            let text = String::from_utf8_lossy(&output.stdout);
            let executable = text.lines().rev().find_map(|line| {
                let message: Value = serde_json::from_str(line).ok()?;
                message["executable"].as_str().map(PathBuf::from)
            });
            executable.context("cargo names no program")
        };
        Ok(Self {
            host: build(&["-p", "netvsc-host", "--features", "cli", "--bin", "netvsc-host"])?,
            l2fwd: build(&["-p", "netvsc-examples", "--example", "l2fwd"])?,
            tools: root.join("tests/dpdk"),
        })
    }

    /// One run of `client` against a host of its own.
    pub(crate) fn run(&self, client: Client, case: Case, seconds: u32) -> anyhow::Result<Run> {
        let mut host = Host::start(&self.host, case)?;
        let mut child = match client {
            Client::Ours => self.l2fwd(&host, case, seconds)?,
            Client::Dpdk => self.testpmd(&host, case)?,
        };
        let output = read(child.stdout.take().context("its output")?);
        let rates = host.rates(case, WARM_UP + seconds);
        // Our own ends by itself.
        if client == Client::Dpdk || rates.is_err() {
            interrupt(&child)?;
        }
        let status = child.wait()?;
        let output = output.recv().unwrap_or_default();
        let rates = rates?;
        ensure!(status.success(), "{client:?}: {status}\n{output}");
        let device = host.finish()?;
        for field in ["corrupt", "lost", "protocol_violations", "leaks"] {
            ensure!(device[field] == 0, "{client:?}, {case:?}: {field}: {device}");
        }
        let (packets, cycles) = match client {
            Client::Ours => l2fwd_says(&output)?,
            Client::Dpdk => testpmd_says(&output)?,
        };
        // Frames that testpmd's driver took off the ring and threw away were not received.
        let received = if case.mode == "rxonly" {
            let sent = device["tx_packets"].as_f64().context("tx_packets")?;
            (packets / sent).min(1.0)
        } else {
            1.0
        };
        Ok(Run { mpps: median(rates.into_iter().skip(WARM_UP as usize)) * received, cycles })
    }

    fn l2fwd(&self, host: &Host, case: Case, seconds: u32) -> anyhow::Result<Child> {
        let library = host.root.join("run");
        std::fs::create_dir_all(&library)?;
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(&self.tools).arg(format!("OUT={}", library.display()));
        ensure!(make.status().context("run make")?.success(), "the preloaded library does not build");
        let mut command = Command::new(&self.l2fwd);
        command.args(["--json", "--device", &host.device, "--cpu", CLIENT_CPU, "--mode", case.mode]);
        command.args(["--packet-size", &case.size.to_string()]);
        // The host's seconds are not the client's.
        command.args(["--seconds", &(WARM_UP + seconds + 2).to_string()]);
        command.env("VMBUS_SHIM_ROOT", &host.root).env("LD_PRELOAD", library.join("vmbus_uio_shim.so"));
        spawn(command)
    }

    fn testpmd(&self, host: &Host, case: Case) -> anyhow::Result<Child> {
        let mut command = Command::new(self.tools.join("run-testpmd"));
        command.arg(&host.root).args(["--", "--auto-start", "--stats-period=1", "--record-core-cycles"]);
        command.args(["--total-num-mbufs=16384", "--rxd=4096", "--burst=32"]);
        command.args([format!("--forward-mode={}", case.mode), format!("--txpkts={}", case.size)]);
        spawn(command)
    }
}

/// A running host with its log.
struct Host {
    child: Child,
    root: PathBuf,
    device: String,
    lines: Receiver<String>,
}

impl Host {
    fn start(program: &Path, case: Case) -> anyhow::Result<Self> {
        // Short, and on a tmpfs: a socket's address goes with it.
        let root = PathBuf::from(format!("/dev/shm/side-{}", std::process::id()));
        let mut command = Command::new(program);
        command.arg("--root").arg(&root).args(["--json", "--cpu", HOST_CPU]);
        let size = case.size.to_string();
        match case.mode {
            "rxonly" => command.args(["--port", &format!("generator:{},{size}", case.offered)]),
            "txonly" => command.args(["--port", "null"]),
            _ => command.args(["--port", "loopback", "--credit", CREDIT, "--packet-size", &size]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start netvsc-host")?;
        let errors = child.stderr.take().context("its log")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                // Nobody reads the last ones.
                let _ = sender.send(line);
            }
        });
        let mut host = Self { child, root, device: String::new(), lines };
        let first = host.lines.recv_timeout(PATIENCE).context("the host says nothing")?;
        let device = first.strip_prefix("device ").and_then(|rest| rest.split(' ').next());
        host.device = device.with_context(|| format!("the host says: {first}"))?.to_owned();
        let start = Instant::now();
        while !host.root.join("sys/bus/vmbus/devices").join(&host.device).is_dir() {
            ensure!(start.elapsed() < PATIENCE, "the host exports nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(host)
    }

    /// Millions of packets in each of the next `count` seconds in which there are any.
    fn rates(&mut self, case: Case, count: u32) -> anyhow::Result<Vec<f64>> {
        let field = if case.mode == "rxonly" { "tx_packets " } else { "rx_packets " };
        let start = Instant::now();
        let mut rates = Vec::new();
        while rates.len() < count as usize {
            let limit = PATIENCE + Duration::from_secs(2 * u64::from(count));
            let line = self.lines.recv_timeout(limit).context("the host says nothing more")?;
            let rate = line.split(field).nth(1).and_then(|rest| rest.split(['(', ' ']).nth(2)?.parse::<f64>().ok());
            rates.extend(rate.filter(|rate| *rate > 0.0 && line.contains(": client,")));
            ensure!(start.elapsed() < limit, "the client does not come up, or does nothing: {line}");
        }
        Ok(rates)
    }

    fn finish(mut self) -> anyhow::Result<Value> {
        interrupt(&self.child)?;
        let mut output = String::new();
        self.child.stdout.take().context("its output")?.read_to_string(&mut output)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "netvsc-host: {status}");
        let report: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
        Ok(report["devices"][0].clone())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn spawn(mut command: Command) -> anyhow::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}

/// Reads in the background, lest the pipe fill up.
fn read(mut from: ChildStdout) -> Receiver<String> {
    let (sender, text) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if from.read_to_end(&mut bytes).is_ok() {
            // Nobody reads it if something else failed.
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        }
    });
    text
}

fn interrupt(child: &Child) -> anyhow::Result<()> {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status().context("run kill")?;
    ensure!(done.success(), "kill: {done}");
    Ok(())
}

/// Packets, and cycles for each.
fn l2fwd_says(output: &str) -> anyhow::Result<(f64, f64)> {
    let report: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
    let number = |field: &str| report[field].as_f64().with_context(|| format!("no {field}: {report}"));
    Ok((number("packets")?, number("cycles_per_packet")?))
}

/// The same of testpmd's final statistics: "CPU cycles/packet=12.3 (total cycles=… / total io packets=45) at …".
fn testpmd_says(output: &str) -> anyhow::Result<(f64, f64)> {
    let Some((_, end)) = output.rsplit_once("CPU cycles/packet=") else {
        bail!("testpmd says nothing of cycles:\n{output}");
    };
    let number = |text: &str| text.split([' ', ')']).next().and_then(|number| number.parse::<f64>().ok());
    let packets = end.split("packets=").nth(1).and_then(number);
    packets.zip(number(end)).with_context(|| format!("not understood: {end}"))
}
