//! One run of a client: what goes by the pair meanwhile, and what the client takes and says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netvsc_benches::compare::report::Run;
use netvsc_benches::compare::round_trip::Processors;
use netvsc_benches::compare::{Client, Mode, cpu};
use netvsc_benches::process::{interrupt, ours_says, testpmd_says};

use crate::BURST;
use crate::case::Case;
use crate::far::FarEnd;
use crate::wire::{NEAR, Wire};

/// Time that does not count.
const WARM_UP: Duration = Duration::from_millis(300);
/// Most that a client may take to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One run of `client`, on a pair of its own.
pub(crate) fn run(client: Client, case: Case, cpus: Processors, seconds: u32) -> anyhow::Result<Run> {
    let wire = Wire::new()?;
    let far = FarEnd::open(&wire, case.mode, case.size, cpus.host)?;
    let running = Running::start(client, case, &wire, cpus)?;
    let begin = Instant::now();
    if let Some(far) = &far {
        far.go();
    }
    std::thread::sleep(WARM_UP);
    let look = || -> anyhow::Result<(Instant, u64, Duration)> {
        let passed = match (case.mode, &far) {
            (Mode::Io, Some(far)) => far.returned(),
            (Mode::Txonly, _) => wire.arrived()?,
            // The client counts.
            _ => 0,
        };
        Ok((Instant::now(), passed, cpu::taken(running.child.id())?))
    };
    let (start, before, taken_before) = look()?;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let (end, after, taken) = look()?;
    let lost = far.map(FarEnd::finish).transpose()?.unwrap_or(0);
    let worked = begin.elapsed();
    let said = running.finish()?;
    let (packets, cycles) = match client {
        Client::Ours => ours_says(&said)?,
        Client::Dpdk => testpmd_says(&said)?,
    };
    ensure!(lost == 0, "{client:?}, {case}: {lost} frames did not come back\n{said}");
    let time = (end - start).as_secs_f64();
    let rate = match case.mode {
        Mode::Rxonly => packets / worked.as_secs_f64(),
        Mode::Txonly | Mode::Io => (after - before) as f64 / time,
    };
    ensure!(rate > 0.0, "{client:?}, {case}: nothing has passed\n{said}");
    Ok(Run { mpps: rate / 1e6, cycles: Some(cycles), cpu: Some((taken - taken_before).as_secs_f64() / time) })
}

/// A client at work.
struct Running {
    client: Client,
    child: Child,
    said: Receiver<String>,
    /// So far.
    text: String,
}

impl Running {
    /// Starts it, and waits until it is ready.
    fn start(client: Client, case: Case, wire: &Wire, cpus: Processors) -> anyhow::Result<Self> {
        let mut command = match client {
            Client::Ours => ours(case, cpus)?,
            Client::Dpdk => testpmd(case, cpus),
        };
        let input = if client == Client::Ours { Stdio::piped() } else { Stdio::null() };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null());
        let name = command.get_program().to_owned();
        let mut child = wire.near.enter(|| command.spawn()).with_context(|| format!("start {}", name.display()))?;
        let output = child.stdout.take().context("its output")?;
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            // Nobody reads it if something else failed.
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut running = Self { client, child, said, text: String::new() };
        let sign = if client == Client::Ours { "ready" } else { "Port statistics" };
        while !running.text.contains(sign) {
            running.hear().with_context(|| format!("{client:?} does not come up:\n{}", running.text))?;
        }
        Ok(running)
    }

    fn hear(&mut self) -> anyhow::Result<()> {
        self.text += &self.said.recv_timeout(PATIENCE)?;
        self.text.push('\n');
        Ok(())
    }

    /// Ends it; what it has said.
    fn finish(mut self) -> anyhow::Result<String> {
        match self.client {
            // The end of its input.
            Client::Ours => drop(self.child.stdin.take()),
            Client::Dpdk => interrupt(&self.child)?,
        }
        while self.hear().is_ok() {}
        let status = self.child.wait()?;
        ensure!(status.success(), "{:?}: {status}\n{}", self.client, self.text);
        Ok(std::mem::take(&mut self.text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ours(case: Case, cpus: Processors) -> anyhow::Result<Command> {
    let Case { method, mode, size, layer } = case;
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    command.args(["ours", "--method", method.name(), "--layer", layer.name(), "--mode", mode.name()]);
    command.args(["--size", &size.to_string(), "--cpu", &cpus.client.to_string()]);
    Ok(command)
}

fn testpmd(case: Case, cpus: Processors) -> Command {
    let Processors { host: main, client: forwarding } = cpus;
    let Case { method, mode, size, .. } = case;
    let mut command = Command::new("dpdk-testpmd");
    // The first processor that is listed has testpmd's main loop, which waits for a signal.
    command.args(["-l", &format!("{main},{forwarding}"), "--main-lcore", &main.to_string()]);
    command.args(["--no-huge", "-m", "512", "--no-pci", "--iova-mode=va", "--no-telemetry"]);
    command.arg(format!("--vdev=net_{}0,iface={}", method.name(), NEAR.name));
    command.args(["--", "--auto-start", "--stats-period=1", "--record-core-cycles", "--total-num-mbufs=16384"]);
    command.args([format!("--burst={BURST}"), format!("--forward-mode={}", mode.name()), format!("--txpkts={size}")]);
    command
}
