//! An appliance whose virtual function comes and goes under load: what TCP and a numbered flow through it notice of that.
//!
//! ```text
//! cargo run --release --example vf_failover                                  # no root: all in this process
//! sudo vf_failover --backend af_packet --cycles 100 --json                   # the kernel's TCP, a veth as the VF
//! sudo vf_failover --backend af_xdp --iperf3                                 # iperf3 beside it, the other way
//! sudo vf_failover --backend af_packet --surprise --cycles 20                # the device vanishes each time
//! ```
//!
//! ```text
//!  TCP, numbered flow                                                                        TCP, numbered flow
//!  near end ── cable ── simulated host ── NIC ── forwarder ── NIC ══ rings ══ simulated host ── cable ── far end
//!                                                              ╚═════ VF ═════╝
//! ```
//!
//! # What is lost
//! All frames are counted where they enter and where they leave, TCP's as well, and what is missing must be what was reported:
//! by the driver, whose events tell how many frames were in a virtual function when it vanished, and by the host for the other
//! direction, as it knows how many it has sent into one that the driver never got. Nothing else may be missing.
//!
//! The host is serviced again and again: it takes the VF's traffic back, then the VF, and returns another one, in an order and
//! with delays that are the seed's. The ends are stacks of this process (`memory`), or network namespaces with the
//! kernel's TCP/IP (`af_packet` and `af_xdp`, where the VF is one end of a veth pair).
//!
//! | file | has |
//! |---|---|
//! | `forward.rs` | the appliance's work: the part to copy |
//! | `appliance.rs` | hosts, adapters, what they say at the end |
//! | `ends.rs`, `memory.rs`, `kernel.rs` | who talks through it |
//! | `flow.rs` | the numbered flow |
//! | `picture.rs` | what there is to see meanwhile |
//! | `report.rs` | what came of it |

mod appliance;
mod ends;
mod flow;
mod forward;
#[cfg(target_os = "linux")]
mod kernel;
mod memory;
mod picture;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use netvsc_async::NicBuilder;
#[cfg(target_os = "linux")]
use netvsc_async::vf::sockets::{Method, SocketVf};
use netvsc_async::vf::{MemoryBackend, Settings};
use netvsc_host::NicId;
use netvsc_host::port::memory_pair;
use netvsc_host::vf::{MemoryVfs, Scene, Script, ScriptOptions, Servicing, Step, VfDevices};
#[cfg(target_os = "linux")]
use netvsc_host::vf::{VethConfig, VethVfs};
#[cfg(target_os = "linux")]
use netvsc_tests::netns::Netns;

#[cfg(target_os = "linux")]
use appliance::VF_MAC;
use appliance::{Appliance, Inside};
use ends::{Common, Counted};
use picture::{Picture, Told};
use report::Report;

/// Switches a virtual function in and out under a TCP stream, and says what was lost by it.
///
/// The exit status is 0 only if the stream arrived as it was sent, nothing came twice or late, as much was lost as was reported
/// and no more, and everything was given back.
#[derive(Debug, Parser)]
#[command(name = "vf_failover")]
struct Options {
    /// How often the virtual function goes and comes back. Default: 10, or as often as fits into --seconds.
    #[arg(long, value_name = "N")]
    cycles: Option<u32>,
    /// End after so long, whatever the number of cycles.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// What the virtual function is to the driver. af_packet and af_xdp need root.
    #[arg(long, value_enum, default_value_t = Backend::Memory)]
    backend: Backend,
    /// The device vanishes with what is inside, instead of being revoked first.
    #[arg(long)]
    surprise: bool,
    /// With af_packet and af_xdp: iperf3 as a second stream, from the far end to the near one.
    #[arg(long)]
    iperf3: bool,
    /// Decides orders, delays and content.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print one JSON object as the last line on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// A device in this process.
    Memory,
    /// A network interface, by packet sockets.
    #[value(name = "af_packet")]
    AfPacket,
    /// A network interface, by XDP sockets.
    #[value(name = "af_xdp")]
    AfXdp,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
        }
    }
}

/// Cycles that may fit into a second.
const CYCLES_A_SECOND: u64 = 20;
/// Frames that each direction of a device in memory, and of a memory port, holds: more than the ends have under way.
const FRAMES: usize = 2048;
/// The guest's end of the veth pair that is the VF.
#[cfg(target_os = "linux")]
const VETH: &str = "vffo-vf";
/// Between two pictures.
const FRAME_TIME: Duration = Duration::from_millis(500);
/// Until when the last VF must be in use again.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is still under way at the end comes within so long, on however busy a machine, or never.
const LAST_CALL: Duration = Duration::from_secs(20);

impl Options {
    fn script(&self) -> Script {
        let millis = Duration::from_millis;
        let cycles = match (self.cycles, self.seconds) {
            (Some(cycles), _) => cycles,
            (None, Some(seconds)) => u32::try_from(seconds.saturating_mul(CYCLES_A_SECOND)).unwrap_or(u32::MAX),
            (None, None) => 10,
        };
        let scene = if self.surprise { Scene::Surprise } else { Scene::Orderly };
        let options = ScriptOptions::default().scenes([scene]).cycles(cycles).patience(PATIENCE);
        Script::new(self.seed, &options.in_use(millis(20)..=millis(100)).away(millis(0)..=millis(20)))
    }

    /// Whether time is up.
    fn is_over(&self, since: Instant) -> bool {
        self.seconds.is_some_and(|seconds| since.elapsed() >= Duration::from_secs(seconds))
    }
}

/// A VF that comes and goes all the time is what is wanted here, not something to be kept away from; and order is to be kept
/// on a machine that is busy with other things, too.
fn patient() -> Settings {
    let mut settings = Settings::default();
    settings.flaps_free = u32::MAX;
    settings.drain_limit = Duration::from_secs(2);
    settings
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.iperf3 && options.backend == Backend::Memory {
        let wrong = "--iperf3 is for machines with the kernel's TCP: --backend af_packet or af_xdp";
        Options::command().error(ErrorKind::ArgumentConflict, wrong).exit()
    }
    let outcome = match options.backend {
        Backend::Memory => in_runtime(run_in_memory(&options)),
        Backend::AfPacket | Backend::AfXdp => run_in_namespaces(&options),
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            if options.json {
                println!("{}", report.json());
            }
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("vf_failover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The threads of the runtime are in the network namespace of the calling thread.
fn in_runtime(work: impl Future<Output = anyhow::Result<Report>>) -> anyhow::Result<Report> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

async fn run_in_memory(options: &Options) -> anyhow::Result<Report> {
    let (told, common) = (Told::default(), Common::default());
    let [(near, near_end), (far, far_end)] = [(); 2].map(|()| memory_pair(FRAMES));
    let vfs = MemoryBackend::new();
    let backend = vfs.clone();
    let with_vf = |builder: NicBuilder| builder.vf(backend).vf_settings(patient());
    let appliance = Appliance::start([near, far], with_vf, &told).await?;
    let ends = memory::Ends::start([near_end, far_end], options.seed, &common);
    let (cycles, servicing) =
        service(options, &appliance, MemoryVfs::new(FRAMES, move |vf| vfs.insert(vf)), &told, &common).await?;
    let (outcome, ports) = ends.finish().await?;
    let losses = losses(&appliance, &told, ports).await?;
    let wrong = appliance.close().await?;
    // The last device goes after its driver.
    drop(servicing);
    Ok(Report::new(options, cycles, outcome, losses, &common, &told, wrong))
}

/// Plays the script, and shows what there is to see. How many cycles there were, and what keeps the last device.
async fn service<D: VfDevices<Error: Send + Sync> + Send + 'static>(
    options: &Options,
    appliance: &Appliance,
    devices: D,
    told: &Told,
    common: &Common,
) -> anyhow::Result<(u32, Servicing<D>)> {
    let cycles = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&cycles);
    let servicing = Servicing::new(appliance.host(), NicId(0), options.script(), devices);
    let servicing = servicing.spawn_thread(move |step| {
        if matches!(step, Step::Revoke | Step::Vanish) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut picture = Picture::new();
    let show = |picture: &mut Picture| {
        let flows = common.flows.each_ref().map(|flow| flow.counts(false));
        picture.show(appliance.traffic(), common.arrived(), told, &flows);
    };
    let start = Instant::now();
    while !servicing.is_over() && !options.is_over(start) {
        tokio::time::sleep(FRAME_TIME).await;
        show(&mut picture);
    }
    let completed = servicing.is_over();
    let servicing = servicing.stop().context("play the script")?;
    if completed {
        let since = Instant::now();
        while !appliance.host().vf_in_use(NicId(0)) && since.elapsed() < PATIENCE && !options.is_over(start) {
            tokio::time::sleep(FRAME_TIME / 50).await;
        }
        tokio::time::sleep(FRAME_TIME).await;
        show(&mut picture);
    }
    Ok((cycles.load(Ordering::Relaxed), servicing))
}

/// What is missing once the ends are silent.
#[derive(Debug, Clone, Copy)]
struct Losses {
    /// Of frames of every kind.
    frames: u64,
    /// Of those, where a virtual function was to take them.
    inside: Inside,
}

impl Losses {
    /// Whether that is what was lost in virtual functions, and what the driver has told of is what it had sent by them.
    fn add_up(&self, told: &Told) -> bool {
        self.inside.from_guest == told.tale().lost && self.frames == self.inside.from_guest + self.inside.to_guest
    }
}

/// Waits until all is there that will come: what is reported to be lost does not, so until that is what is missing, or somebody
/// must have miscounted.
async fn losses(appliance: &Appliance, told: &Told, mut ends: impl Counted) -> anyhow::Result<Losses> {
    let since = Instant::now();
    loop {
        let losses = Losses { frames: ends.missing()?, inside: appliance.inside() };
        if losses.add_up(told) || since.elapsed() > LAST_CALL {
            return Ok(losses);
        }
        tokio::time::sleep(FRAME_TIME / 10).await;
    }
}

/// The hosts, the appliance and its VF are in a namespace of their own, so that nothing of this machine gets in the way.
#[cfg(target_os = "linux")]
fn run_in_namespaces(options: &Options) -> anyhow::Result<Report> {
    let needs = || format!("--backend {} needs root, or CAP_NET_ADMIN, for network namespaces", options.backend.name());
    let netns = Netns::new().with_context(needs)?;
    netns.enter(|| in_runtime(run_among_machines(options)))
}

#[cfg(target_os = "linux")]
async fn run_among_machines(options: &Options) -> anyhow::Result<Report> {
    let (told, common) = (Told::default(), Common::default());
    let (machines, taps) = kernel::Machines::new()?;
    let method = if options.backend == Backend::AfXdp { Method::AfXdp } else { Method::AfPacket };
    let backend = SocketVf::new().virtual_interfaces(true).method(method);
    let with_vf = |builder: NicBuilder| builder.vf(backend).vf_settings(patient());
    let appliance = Appliance::start(taps, with_vf, &told).await?;
    let ends = kernel::Ends::start(machines, options.seed, options.iperf3, &common)?;
    let veths = VethVfs::new(VethConfig::new(VETH, VF_MAC));
    let (cycles, servicing) = service(options, &appliance, veths, &told, &common).await?;
    let (outcome, machines) = tokio::task::spawn_blocking(|| ends.finish()).await??;
    let losses = losses(&appliance, &told, machines).await?;
    let wrong = appliance.close().await?;
    // The last device goes after its driver.
    drop(servicing);
    Ok(Report::new(options, cycles, outcome, losses, &common, &told, wrong))
}

#[cfg(not(target_os = "linux"))]
fn run_in_namespaces(_options: &Options) -> anyhow::Result<Report> {
    anyhow::bail!("network namespaces exist on Linux only: --backend memory")
}
