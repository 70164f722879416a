//! The clients: building what is ours, running each against a host of its own, reading what it says.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use netvsc_benches::compare::report::{Run, median};
use netvsc_benches::compare::round_trip::Processors;
use netvsc_benches::compare::{Client, Mode, cpu};
use netvsc_benches::process::{interrupt, ours_says, read, testpmd_says};
use serde_json::Value;

use crate::case::{Case, Ours, Work};
use crate::host::Host;

/// Seconds of a run that do not count: DPDK throws frames away when it starts, and the host has to notice.
const WARM_UP: u32 = 2;

/// What has been built, and where it runs.
#[derive(Debug)]
pub(crate) struct Programs {
    host: PathBuf,
    l2fwd: PathBuf,
    layers: PathBuf,
    /// `tests/dpdk`.
    tools: PathBuf,
    cpus: Processors,
}

impl Programs {
    /// Builds what is ours.
    pub(crate) fn build(cpus: Processors) -> anyhow::Result<Self> {
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
            layers: build(&["-p", "netvsc-benches", "--bin", "layers"])?,
            tools: root.join("tests/dpdk"),
            cpus,
        })
    }

    /// One run of `client` against a host of its own.
    pub(crate) fn run(&self, client: Client, case: Case, seconds: u32) -> anyhow::Result<Run> {
        match case.work {
            Work::Frames(mode, size) => self.move_frames(client, case, mode, size, seconds),
            Work::Idle => self.idle(client, case, seconds),
        }
    }

    fn move_frames(&self, client: Client, case: Case, mode: Mode, size: u16, seconds: u32) -> anyhow::Result<Run> {
        let mut host = Host::start(&self.host, case.work, self.cpus.host)?;
        // The host's seconds are not the client's.
        let mut child = self.start(client, case.ours, &host, mode, size, WARM_UP + seconds + 2)?;
        let output = read(child.stdout.take().context("its output")?);
        let rates = host.rates(mode, WARM_UP + seconds);
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
            ensure!(device[field] == 0, "{client:?}, {case}: {field}: {device}");
        }
        let (packets, cycles) = match client {
            Client::Ours => ours_says(&output)?,
            Client::Dpdk => testpmd_says(&output)?,
        };
        // Frames that testpmd's driver took off the ring and threw away were not received.
        let received = if mode == Mode::Rxonly {
            let sent = device["tx_packets"].as_f64().context("tx_packets")?;
            (packets / sent).min(1.0)
        } else {
            1.0
        };
        let mpps = median(rates.into_iter().skip(WARM_UP as usize)) * received;
        Ok(Run { mpps, cycles: Some(cycles), cpu: None })
    }

    fn idle(&self, client: Client, case: Case, seconds: u32) -> anyhow::Result<Run> {
        let mut host = Host::start(&self.host, case.work, self.cpus.host)?;
        // Frames of this length would be forwarded, if there were any.
        let mut child = self.start(client, case.ours, &host, Mode::Io, 64, WARM_UP + seconds + 2)?;
        let output = read(child.stdout.take().context("its output")?);
        let cpu = host.wait_for_client().and_then(|()| {
            std::thread::sleep(Duration::from_secs(WARM_UP.into()));
            cpu::share(child.id(), Duration::from_secs(seconds.into()))
        });
        if client == Client::Dpdk || cpu.is_err() {
            interrupt(&child)?;
        }
        let status = child.wait()?;
        let output = output.recv().unwrap_or_default();
        ensure!(status.success(), "{client:?}: {status}\n{output}");
        host.finish()?;
        Ok(Run { mpps: 0.0, cycles: None, cpu: Some(cpu?) })
    }

    fn start(
        &self,
        client: Client,
        ours: Ours,
        host: &Host,
        mode: Mode,
        size: u16,
        seconds: u32,
    ) -> anyhow::Result<Child> {
        if client == Client::Dpdk {
            return self.testpmd(host, mode, size);
        }
        let library = host.root.join("run");
        std::fs::create_dir_all(&library)?;
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(&self.tools).arg(format!("OUT={}", library.display()));
        ensure!(make.status().context("run make")?.success(), "the preloaded library does not build");
        let mut command = match ours {
            Ours::Bursts => l2fwd(&self.l2fwd, "poll"),
            Ours::Interrupt => l2fwd(&self.l2fwd, "interrupt"),
            Ours::Adaptive => l2fwd(&self.l2fwd, "adaptive"),
            Ours::Packets => layers(&self.layers, "packets"),
            Ours::Smoltcp => layers(&self.layers, "smoltcp"),
        };
        command.args(["--device", &host.device, "--cpu", &self.cpus.client.to_string(), "--mode", mode.name()]);
        command.args(["--packet-size", &size.to_string(), "--seconds", &seconds.to_string()]);
        command.env("VMBUS_SHIM_ROOT", &host.root).env("LD_PRELOAD", library.join("vmbus_uio_shim.so"));
        spawn(command)
    }

    fn testpmd(&self, host: &Host, mode: Mode, size: u16) -> anyhow::Result<Child> {
        let Processors { host: main, client: forwarding } = self.cpus;
        let mut command = Command::new(self.tools.join("run-testpmd"));
        // The first processor that is listed has testpmd's main loop, which waits for input.
        command.env(
            "EAL_DEFAULTS",
            format!("-l {main},{forwarding} --main-lcore {main} --no-huge -m 512 --no-pci --iova-mode=va"),
        );
        command.arg(&host.root).args(["--", "--auto-start", "--stats-period=1", "--record-core-cycles"]);
        command.args(["--total-num-mbufs=16384", "--rxd=4096", "--burst=32"]);
        command.args([format!("--forward-mode={}", mode.name()), format!("--txpkts={size}")]);
        spawn(command)
    }
}

fn l2fwd(program: &Path, wait: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--json", "--wait", wait]);
    command
}

fn layers(program: &Path, layer: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--layer", layer]);
    command
}

fn spawn(mut command: Command) -> anyhow::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}
