//! A network appliance in user space: an HTTP server with a TCP/IP stack of its own on a synthetic NIC.
//!
//! ```text
//! cargo run --release --example appliance                 # no root: a client in the same process fetches 256 MiB
//! sudo appliance --tap tap-nic --address 192.0.2.1/24     # curl http://192.0.2.1/ and ping from this machine
//! sudo appliance --device eth1 --address 10.0.0.9/24      # in a guest of Hyper-V, on an adapter bound to uio_hv_generic
//! ```
//!
//! ```text
//!  HTTP server                                                    client stack        or   curl, ping
//!  TCP/IP (smoltcp)                                               TCP/IP (smoltcp)         the kernel's TCP/IP
//!  NIC (netvsc-async) ── VMBus rings ── simulated host ── switch ──┴─ memory port           TAP interface
//! ```

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use netvsc::Config;
use netvsc::stats::{NicStats, VfStats};
use netvsc_async::smoltcp::NetvscDevice;
use netvsc_async::{DeviceInfo, Event, Nic, Queue};
use netvsc_examples::address::HostAddress;
use netvsc_examples::blob::Content;
use netvsc_examples::client::{Fetch, FetchError, Fetched, Progress};
use netvsc_examples::link;
use netvsc_examples::outcome::Outcome;
use netvsc_examples::port::PortDevice;
use netvsc_examples::server::{Counters, Server, Settings};
use netvsc_examples::size;
use netvsc_examples::stack::{Stack, link_local};
use netvsc_host::fault::{Fault, FaultPlan, When};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions, Profile};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use vmbus::ErrorKind;
use vmbus::bus::Bus;
use vmbus::mem::MemBus;

/// The client's MAC address: locally administered.
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Serves HTTP from user space over a synthetic network adapter of a simulated Hyper-V host.
///
/// Without --tap, a client in the same process fetches some data through the adapter, compares its hash and ends.
/// With --tap, this machine reaches the server over a TAP interface, until Ctrl-C. The exit status is 0 only if all
/// went well: content unchanged, no frame dropped, no violation of the protocol, everything given back.
#[derive(Debug, Parser)]
struct Options {
    /// Print one JSON object as the last line on standard output.
    #[arg(long)]
    json: bool,
    /// How much the client fetches, in bytes or with KiB, MiB or GiB.
    #[arg(long, value_name = "N", default_value = "268435456", value_parser = size::parse)]
    bytes: u64,
    /// Which Windows release the host behaves like: ws2012r2, ws2016, ws2019 or ws2022.
    #[arg(long, value_name = "NAME", default_value_t)]
    profile: Profile,
    /// Highest NVSP version that the host accepts: 1, 2, 4, 5, 6 or 6.1; at most what the profile has.
    #[arg(long, value_name = "VERSION")]
    nvsp_max: Option<nvsp::Version>,
    /// Sections of the adapter's send buffer, from 10; clamped to 2560.
    #[arg(long, value_name = "N")]
    send_sections: Option<u32>,
    /// Sections of the adapter's receive buffer, from 10; clamped to 18811, and to 9102 up to NVSP 2.
    #[arg(long, value_name = "N")]
    receive_sections: Option<u32>,
    /// Something that goes wrong on purpose: the exit status must not be 0.
    #[arg(long, value_name = "KIND", value_enum)]
    fault: Option<FaultKind>,
    /// Make a TAP interface with this name and serve this machine (needs root, or CAP_NET_ADMIN).
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// Serve on an adapter of this machine that is bound to uio_hv_generic: instance GUID, MAC address or uioN.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tap", "fault", "profile", "nvsp_max"])]
    device: Option<String>,
    /// With --device: how often to open the adapter again after the host took it away; it is waited for a minute each time.
    #[arg(long, value_name = "N", default_value_t = 0)]
    reopen: u32,
    /// The appliance's address. This machine's side of the TAP gets the first other address of the network.
    #[arg(long, value_name = "A/LEN", default_value = "192.0.2.1/24")]
    address: HostAddress,
    /// Decides the content, TCP's sequence numbers, and when faults strike.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FaultKind {
    /// Content is changed on its way, unnoticed by any checksum of TCP/IP.
    Corrupt,
    /// Frames to the adapter are lost.
    Drop,
    /// The host never completes some of the adapter's sends.
    Leak,
    /// The host sends what the protocol forbids.
    Violate,
}

impl FaultKind {
    fn name(self) -> &'static str {
        self.fault().name()
    }

    fn fault(self) -> Fault {
        match self {
            Self::Corrupt => Fault::Corrupt,
            Self::Drop => Fault::Drop,
            Self::Leak => Fault::Leak,
            Self::Violate => Fault::Violate,
        }
    }

    /// Seldom enough for the transfer to go on, often enough for a few megabytes to meet it: TCP acknowledges hundreds of
    /// frames at a time, so that few go to the adapter.
    fn when(self) -> When {
        match self {
            Self::Corrupt => When::Every { nth: 500 },
            Self::Drop | Self::Violate => When::Every { nth: 7 },
            Self::Leak => When::Times { count: 3 },
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("start tokio").and_then(|runtime| {
        runtime.block_on(async {
            match &options.device {
                Some(device) => device::run(device, &options).await,
                None => run(&options).await,
            }
        })
    });
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(error) = &outcome.error {
        eprintln!("error: {error}");
    }
    if options.json {
        match serde_json::to_string(&outcome) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("error: {error}"),
        }
    } else {
        println!("{}", if outcome.is_ok() { "all went well" } else { "FAILED" });
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds the network, serves, takes it down again.
async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let mut host = Host::builder().profile(options.profile).seed(options.seed);
    if let Some(max) = options.nvsp_max {
        host = host.tune(|settings| settings.nvsp_max = settings.nvsp_max.min(max));
    }
    let host = host.build();
    let tap = options.tap.as_deref().map(|name| add_tap(&host, name, options.address.first_other())).transpose()?;
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new()));
    let host_thread = host.spawn_thread();

    let mut config = config(options);
    if options.fault.is_some() {
        // Some have the host never answer; when it does, it is at once.
        config = config.close_deadline(Duration::from_secs(2));
    }
    let (nic, mut queues) = Nic::builder().config(config).open_on(bus).await?;
    let nic = Arc::new(nic);
    let info = nic.info();
    let mut outcome = Outcome {
        fault: options.fault.map(|fault| fault.name().to_owned()),
        ..is_up(&info, options.profile.to_string())
    };
    // From now on: a host that is broken while the adapter comes up only shows that it does not.
    let mut client_faults = FaultPlan::new(options.seed);
    match options.fault {
        None => {}
        Some(kind @ FaultKind::Corrupt) => client_faults.arm(kind.fault(), kind.when()),
        Some(kind) => host.inject(kind.fault(), kind.when()),
    }
    let violations = watch(&nic);
    let mut appliance = Appliance::start(&nic, queues.remove(0), options, options.profile.to_string());
    match tap {
        Some(name) => {
            explain(&name, options.address);
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted.context("wait for Ctrl-C")?,
                () = appliance.ended() => {}
            }
        }
        None => tokio::select! {
            fetched = fetch(far, client_faults, options) => match fetched {
                Ok(fetched) => outcome.received(&fetched),
                Err(error) => outcome.failed_transfer(&error),
            },
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("wait for Ctrl-C")?;
                outcome.fail("interrupted");
            }
            () = appliance.ended() => outcome.hash_ok = Some(false),
        },
    }
    let mut fatal_violations = 0;
    match appliance.stop().await {
        Ok(counters) if options.tap.is_some() => outcome.bytes = counters.body_bytes,
        Ok(_) => {}
        Err(error) => {
            let error_kind = error.downcast_ref::<netvsc_async::Error>().map(vmbus::Error::kind);
            fatal_violations += u64::from(error_kind == Some(ErrorKind::HostViolation));
            outcome.fail(format!("the server ended early: {error}"));
        }
    }

    let queues = nic.queue_stats();
    print_statistics(&NicStats::new(&queues, VfStats::default()));
    // The server and its statistics are gone: this is the last handle.
    let nic = Arc::into_inner(nic).context("the adapter is still in use")?;
    let unreturned = match nic.close().await {
        Ok(report) => report.unreturned_sections + report.outstanding_sends + report.unreleased_buffers,
        Err(error) => {
            outcome.fail(error);
            0
        }
    };
    let totals = NicStats::new(&queues, VfStats::default()).totals();
    let extra = NicStats::new(&queues, VfStats::default()).extra();
    drop(host_thread);
    let report = host.report();
    if !report.is_clean() {
        print!("the host says: {report}");
    }
    let at_host = report.nics.first().map(|nic| nic.counters).unwrap_or_default();
    (outcome.tx_packets, outcome.tx_bytes) = (totals.tx_packets, totals.tx_bytes);
    (outcome.rx_packets, outcome.rx_bytes) = (totals.rx_packets, totals.rx_bytes);
    outcome.tx_dropped = totals.tx_dropped + at_host.tx_failed;
    outcome.rx_dropped = totals.rx_dropped + at_host.rx_dropped;
    let by_host = extra.bad_packets + extra.bad_ranges + extra.bad_messages + extra.bad_coalesced;
    let by_guest = report.violations.len() as u64 + report.violations_not_kept;
    outcome.protocol_violations = by_guest + by_host + extra.stale_completions + fatal_violations;
    outcome.protocol_violations += violations.await.unwrap_or(0);
    // The two sides see the same things: a send that is outstanding here is one not completed there.
    outcome.leaks = report.leaks.total().max(unreturned as u64);
    Ok(outcome)
}

/// The adapter's settings.
fn config(options: &Options) -> Config {
    let mut config = Config::default();
    if let Some(sections) = options.send_sections {
        config = config.send_sections(sections);
    }
    if let Some(sections) = options.receive_sections {
        config = config.receive_sections(sections);
    }
    config
}

/// Says what came up; the outcome so far.
fn is_up(info: &DeviceInfo, host: String) -> Outcome {
    let send_sections = info.send.map_or(0, |send| send.count);
    println!(
        "{} is up: host {host}, NVSP {}, {send_sections} send and {} receive sections, MTU {}",
        info.mac, info.nvsp_version, info.receive.count, info.mtu
    );
    Outcome {
        profile: host,
        nvsp_version: info.nvsp_version.to_string(),
        send_sections,
        receive_sections: info.receive.count,
        mtu: info.mtu,
        ..Outcome::default()
    }
}

/// The same server on an adapter of this machine.
#[cfg(target_os = "linux")]
mod device {
    use netvsc_async::ReopenPolicy;
    use vmbus::uio::{UioBus, UioChannel};

    use super::*;

    /// What the page calls the host: nobody says what it is.
    const HOST: &str = "Hyper-V";
    /// What scripts are told when the host took the adapter away.
    const GONE: &str = "gone";

    /// Serves until Ctrl-C, or until the adapter is gone more often than it shall be opened again. The outcome is that of
    /// the last time.
    pub(super) async fn run(device: &str, options: &Options) -> anyhow::Result<Outcome> {
        let policy = ReopenPolicy::default().times(options.reopen);
        let mut adapter = Nic::builder().config(config(options)).device(device).reopening(policy);
        loop {
            let opened = tokio::select! {
                opened = adapter.open() => opened.with_context(|| format!("open {device}"))?,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.context("wait for Ctrl-C")?;
                    anyhow::bail!("interrupted while {device} was not there");
                }
            };
            let (nic, mut queues) = opened;
            let outcome = session(nic, queues.remove(0), options).await?;
            if outcome.error_kind != Some(GONE) || adapter.opened() > options.reopen {
                return Ok(outcome);
            }
            println!("{GONE}: {}; waiting for {device} to come back", outcome.error.unwrap_or_default());
        }
    }

    /// From one opening of the adapter to its end.
    async fn session(nic: Nic<UioBus>, queue: Queue<UioChannel>, options: &Options) -> anyhow::Result<Outcome> {
        let nic = Arc::new(nic);
        let mut outcome = is_up(&nic.info(), HOST.into());
        let violations = watch(&nic);
        let mut appliance = Appliance::start(&nic, queue, options, HOST.into());
        println!("the appliance is {}; Ctrl-C ends it", options.address.address());
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.context("wait for Ctrl-C")?,
            () = appliance.ended() => {}
        }
        match appliance.stop().await {
            Ok(counters) => outcome.bytes = counters.body_bytes,
            Err(error) => {
                let kind = error.downcast_ref::<netvsc_async::Error>().map(vmbus::Error::kind);
                outcome.error_kind = (kind == Some(ErrorKind::Gone)).then_some(GONE);
                outcome.fail(format!("the server ended early: {error:#}"));
            }
        }
        let queues = nic.queue_stats();
        let stats = NicStats::new(&queues, VfStats::default());
        print_statistics(&stats);
        let nic = Arc::into_inner(nic).context("the adapter is still in use")?;
        match nic.close().await {
            Ok(report) if !report.host_gone => {
                let kept = report.unreturned_sections + report.outstanding_sends + report.unreleased_buffers;
                outcome.leaks = kept as u64;
            }
            // Went away: nothing can be given back.
            Ok(_) | Err(_) => {}
        }
        let (totals, extra) = (stats.totals(), stats.extra());
        (outcome.tx_packets, outcome.tx_bytes) = (totals.tx_packets, totals.tx_bytes);
        (outcome.rx_packets, outcome.rx_bytes) = (totals.rx_packets, totals.rx_bytes);
        (outcome.tx_dropped, outcome.rx_dropped) = (totals.tx_dropped, totals.rx_dropped);
        let by_host = extra.bad_packets + extra.bad_ranges + extra.bad_messages + extra.bad_coalesced;
        outcome.protocol_violations = by_host + extra.stale_completions + violations.await.unwrap_or(0);
        Ok(outcome)
    }
}

#[cfg(not(target_os = "linux"))]
mod device {
    use super::*;

    pub(super) async fn run(_device: &str, _options: &Options) -> anyhow::Result<Outcome> {
        anyhow::bail!("uio_hv_generic exists on Linux only: run this without --device")
    }
}

/// The server on the NIC, as a task.
struct Appliance {
    task: JoinHandle<anyhow::Result<Counters>>,
    stop: Option<oneshot::Sender<()>>,
    /// What the task ended with.
    result: Option<Result<anyhow::Result<Counters>, JoinError>>,
}

impl Appliance {
    fn start<B: Bus>(nic: &Arc<Nic<B>>, queue: Queue<B::Channel>, options: &Options, host: String) -> Self {
        let info = nic.info();
        let addresses = [options.address.into(), link_local(info.mac.0)];
        let device = NetvscDevice::new(queue, info.mtu);
        let mut stack = Stack::new(device, info.mac.0, &addresses, options.seed, Duration::ZERO);
        let statistics = statistics(Arc::clone(nic), host);
        let mut server = Server::new(Settings::new(Content::new(options.seed)), statistics);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            tokio::select! {
                result = link::run(&mut stack, &mut server, || started.elapsed()) => result?,
                _ = stopped => {}
            }
            Ok(server.counters())
        });
        Self { task, stop: Some(stop), result: None }
    }

    /// Waits until the server has ended by itself, which it only does when the NIC has.
    async fn ended(&mut self) {
        if self.result.is_none() {
            self.result = Some((&mut self.task).await);
        }
    }

    /// Ends the server and gives its queue back to the NIC.
    async fn stop(mut self) -> anyhow::Result<Counters> {
        // Nobody hears it if the server has ended by itself; its result says why.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.ended().await;
        self.result.context("server task")?.context("server task")?
    }
}

/// The numbers on the page.
fn statistics<B: Bus>(nic: Arc<Nic<B>>, host: String) -> impl FnMut() -> Value + Send {
    move || {
        let info = nic.info();
        let queues = nic.queue_stats();
        let stats = NicStats::new(&queues, VfStats::default());
        let ethtool = stats.iter().map(|(name, value)| (name.to_string(), Value::from(value)));
        let extra = stats.extra().iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
        let totals = stats.totals();
        json!({
            "nic": {
                "mac": info.mac.to_string(), "mtu": info.mtu, "link": format!("{:?}", info.link),
                "host": host, "nvsp_version": info.nvsp_version.to_string(),
                "send_sections": info.send.map_or(0, |send| send.count), "receive_sections": info.receive.count,
                "rx_packets": totals.rx_packets, "rx_bytes": totals.rx_bytes, "rx_dropped": totals.rx_dropped,
                "tx_packets": totals.tx_packets, "tx_bytes": totals.tx_bytes, "tx_dropped": totals.tx_dropped,
            },
            "ethtool": ethtool.collect::<serde_json::Map<_, _>>(),
            "more": extra.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// Fetches the content over a stack on the far side of the switch.
async fn fetch(port: MemoryPort, faults: FaultPlan, options: &Options) -> Result<Fetched, FetchError> {
    // Any address of the network will do.
    let address = options.address.first_other();
    let device = PortDevice::new(port).faults(faults);
    let mut stack = Stack::new(device, CLIENT_MAC, &[address.into()], !options.seed, Duration::ZERO);
    let server = (options.address.address(), 80).into();
    let mut client = Fetch::new(server, 49_152, options.bytes, show_progress);
    let started = Instant::now();
    let Ok(()) = link::run(&mut stack, &mut client, || started.elapsed()).await;
    let fetched = client.into_outcome()?;
    println!(
        "{} in {:.3} s: {:.2} Gbit/s, SHA-256 {}",
        size::display(fetched.progress.received),
        fetched.progress.elapsed.as_secs_f64(),
        fetched.progress.gbits_per_s(),
        if fetched.hash_ok() { "as stated" } else { "WRONG" }
    );
    Ok(fetched)
}

/// One line, drawn over and over again where somebody watches.
fn show_progress(progress: &Progress) {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return;
    }
    let Progress { received, total, .. } = *progress;
    let percent = (u128::from(received) * 100).checked_div(total.into()).unwrap_or(100);
    let end = if received >= total { "\n" } else { "" };
    // Who cannot be shown the progress does not miss it.
    let _ = write!(
        stderr,
        "\r{percent:3} %  {} of {}  {:.2} Gbit/s   {end}",
        size::display(received),
        size::display(total),
        progress.gbits_per_s()
    );
    let _ = stderr.flush();
}

/// Says how to reach the server.
fn explain(tap: &str, address: HostAddress) {
    let at = address.address();
    println!("{tap} is up with {}; the appliance is {at}. Try", address.first_other());
    println!("  ping -c 3 {at}");
    println!("  curl http://{at}/stats.json");
    println!("  curl -o /dev/null -D - 'http://{at}/blob?bytes=67108864'");
    println!("Ctrl-C ends it.");
}

/// Adds a TAP interface to the switch; its name.
#[cfg(target_os = "linux")]
fn add_tap(host: &Host, name: &str, address: HostAddress) -> anyhow::Result<String> {
    use netvsc_host::port::{TapConfig, TapPort};
    let config = TapConfig::new().name(name).ipv4(address.address(), address.prefix());
    let port = TapPort::open(config).map_err(|error| {
        let hint = if error.is_missing_privilege() {
            ": run this with sudo, or without --tap"
        } else if error.is_missing_device() {
            "; the kernel's tun module is missing: try modprobe tun"
        } else {
            ""
        };
        anyhow::anyhow!("{error}{hint}")
    })?;
    let name = port.name().to_owned();
    host.add_port(port);
    Ok(name)
}

#[cfg(not(target_os = "linux"))]
fn add_tap(_host: &Host, _name: &str, _address: HostAddress) -> anyhow::Result<String> {
    anyhow::bail!("TAP interfaces exist on Linux only: run this without --tap")
}

/// Prints what the adapter has to say; in the end, how often the host broke the protocol.
fn watch<B: Bus>(nic: &Nic<B>) -> JoinHandle<u64> {
    let mut events = nic.events();
    tokio::spawn(async move {
        let mut violations = 0;
        while let Some(event) = events.next().await {
            match event {
                Event::Closed(_) => {}
                Event::Violation(_) if violations >= 10 => violations += 1,
                Event::Violation(text) => {
                    violations += 1;
                    println!("the host broke the protocol: {text}");
                }
                Event::Warning(warning) => println!("warning: {warning}"),
                event => println!("{event:?}"),
            }
        }
        violations
    })
}

fn print_statistics(stats: &NicStats<'_>) {
    println!("NIC statistics:");
    let ours = stats.extra();
    let counters = stats.iter().map(|(name, value)| (name.to_string(), value));
    let counters = counters.chain(ours.iter().map(|(name, value)| (name.to_owned(), value)));
    for (name, value) in counters.filter(|(_, value)| *value != 0) {
        println!("  {name:<24}{value:>14}");
    }
}
