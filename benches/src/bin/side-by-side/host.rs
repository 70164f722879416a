//! The simulated host, as a process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netvsc_benches::compare::Mode;
use netvsc_benches::process::interrupt;
use serde_json::Value;

use crate::case::{Case, Work};

/// Most that a client may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames under way in `io`.
const CREDIT: &str = "256";

/// A running host with its log.
pub(crate) struct Host {
    child: Child,
    pub(crate) root: PathBuf,
    pub(crate) device: String,
    lines: Receiver<String>,
}

impl Host {
    /// Starts one for `work`, on processor `cpu`.
    pub(crate) fn start(program: &Path, work: Work, cpu: usize) -> anyhow::Result<Self> {
        // Short, and on a tmpfs: a socket's address goes with it.
        let root = PathBuf::from(format!("/dev/shm/side-{}", std::process::id()));
        let mut command = Command::new(program);
        command.arg("--root").arg(&root).args(["--json", "--cpu", &cpu.to_string()]);
        match work {
            Work::Frames(Mode::Rxonly, size) => {
                command.args(["--port", &format!("generator:{},{size}", Case::offered(size))])
            }
            Work::Frames(Mode::Io, size) => {
                command.args(["--port", "loopback", "--credit", CREDIT, "--packet-size", &size.to_string()])
            }
            Work::Frames(Mode::Txonly, _) | Work::Idle => command.args(["--port", "null"]),
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
    pub(crate) fn rates(&mut self, mode: Mode, count: u32) -> anyhow::Result<Vec<f64>> {
        let field = if mode == Mode::Rxonly { "tx_packets " } else { "rx_packets " };
        let start = Instant::now();
        let limit = PATIENCE + Duration::from_secs(2 * u64::from(count));
        let mut rates = Vec::new();
        while rates.len() < count as usize {
            let line = self.lines.recv_timeout(limit).context("the host says nothing more")?;
            let rate = line.split(field).nth(1).and_then(|rest| rest.split(['(', ' ']).nth(2)?.parse::<f64>().ok());
            rates.extend(rate.filter(|rate| *rate > 0.0 && line.contains(": client,")));
            ensure!(start.elapsed() < limit, "the client does not come up, or does nothing: {line}");
        }
        Ok(rates)
    }

    /// Waits until it has a client.
    pub(crate) fn wait_for_client(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).context("the host says nothing more")?;
            if line.contains(": client,") && !line.contains("sessions 0") {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "the client does not come up: {line}");
        }
    }

    /// Ends it; what it says of its device.
    pub(crate) fn finish(mut self) -> anyhow::Result<Value> {
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
