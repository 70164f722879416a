//! An appliance whose virtual function comes and goes under load: what TCP and a numbered flow through it notice of that.
//!
//! ```text
//! cargo run --release --example vf_failover                 # no root: all in this process
//! cd target/release/examples                                # the rest as root
//! ./vf_failover --backend af_packet --cycles 100 --json     # the kernel's TCP, a veth as the VF
//! ./vf_failover --backend af_packet --iperf3                # iperf3 beside it, the other way
//! ./vf_failover --backend af_xdp --surprise --cycles 20     # the device vanishes each time
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
//! | `told.rs` | what the driver and the host tell |
//! | `picture.rs`, `watch.rs`, `terminal.rs` | what there is to see meanwhile, who looks, where it is shown |
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
#[cfg(unix)]
mod terminal;
mod told;
mod watch;

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
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
use ends::{Common, Counted, Outcome};
use picture::Picture;
use report::Report;
use told::Told;
use watch::{Interrupt, Watch};

/// Switches a virtual function in and out under a TCP stream, and says what was lost by it.
///
/// What happens meanwhile is on standard error: a picture in a terminal, lines elsewhere. SIGINT or SIGTERM ends it early, with
/// a report; a second one at once.
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
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
/// Between two looks whether something is over.
const LOOK: Duration = Duration::from_millis(20);
/// How long the last VF is left in use.
const EPILOGUE: Duration = Duration::from_millis(500);
/// Until when the last VF must be in use again.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is still under way at the end comes within so long, on however busy a machine, or never.
const LAST_CALL: Duration = Duration::from_secs(20);

impl Options {
    /// How many are asked for; `None`: as many as there is time for.
    fn wanted_cycles(&self) -> Option<u32> {
        self.cycles.or(self.seconds.is_none().then_some(10))
    }

    fn scene(&self) -> Scene {
        if self.surprise { Scene::Surprise } else { Scene::Orderly }
    }

    fn script(&self) -> Script {
        let millis = Duration::from_millis;
        let seconds = self.seconds.unwrap_or_default();
        let fit = || u32::try_from(seconds.saturating_mul(CYCLES_A_SECOND)).unwrap_or(u32::MAX);
        let cycles = self.wanted_cycles().unwrap_or_else(fit);
        let options = ScriptOptions::default().scenes([self.scene()]).cycles(cycles).patience(PATIENCE);
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

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, seed {}", self.backend.name(), self.scene(), self.seed)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.iperf3 && options.backend == Backend::Memory {
        let wrong = "--iperf3 is for machines with the kernel's TCP: --backend af_packet or af_xdp";
        Options::command().error(ErrorKind::ArgumentConflict, wrong).exit()
    }
    let interrupt = Interrupt::default();
    let outcome = match options.backend {
        Backend::Memory => in_runtime(run_in_memory(&options, &interrupt)),
        Backend::AfPacket | Backend::AfXdp => run_in_namespaces(&options, &interrupt),
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            if options.json {
                println!("{}", report.json());
            }
            match interrupt.exit_status() {
                Some(status) => status.into(),
                None if report.is_good() => ExitCode::SUCCESS,
                None => ExitCode::FAILURE,
            }
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

async fn run_in_memory(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let (told, common) = (Told::default(), Common::default());
    let [(near, near_end), (far, far_end)] = [(); 2].map(|()| memory_pair(FRAMES));
    let vfs = MemoryBackend::new();
    let backend = vfs.clone();
    let with_vf = |builder: NicBuilder| builder.vf(backend).vf_settings(patient());
    let appliance = Appliance::start([near, far], with_vf, &told).await?;
    let ends = memory::Ends::start([near_end, far_end], options.seed, &common);
    let run = Run { options, interrupt, told, common };
    run.play(appliance, MemoryVfs::new(FRAMES, move |vf| vfs.insert(vf)), ends.finish()).await
}

/// What there is to play, and what becomes known of it.
struct Run<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    told: Told,
    common: Common,
}

impl Run<'_> {
    /// Plays the script, has the ends `finish`, and closes the appliance; shows what there is to see meanwhile.
    async fn play<D: VfDevices<Error: Send + Sync> + Send + 'static, E: Counted>(
        self,
        appliance: Appliance,
        devices: D,
        finish: impl Future<Output = anyhow::Result<(Outcome, E)>>,
    ) -> anyhow::Result<Report> {
        let Self { options, interrupt, told, common } = self;
        interrupt.listen().context("listen to signals")?;
        let limit = options.seconds.map(Duration::from_secs);
        let picture = Picture::new(options.to_string(), options.wanted_cycles(), limit);
        let mut watch = Watch::new(picture, &told, &common);
        let cycles = watch.cycles();

        let (steps, counted) = (told.clone(), watch.cycles());
        let servicing = Servicing::new(appliance.host(), NicId(0), options.script(), devices);
        let servicing = servicing.spawn_thread(move |step| {
            if matches!(step, Step::Revoke | Step::Vanish) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            steps.done(step);
        });
        let in_use = || appliance.host().vf_in_use(NicId(0));
        let path = || if in_use() { "vf in use" } else { "vf not in use" };
        let start = Instant::now();
        let is_over = || options.is_over(start) || interrupt.came();
        let played = watch.during(&appliance, path, async {
            until(|| servicing.is_over() || is_over()).await;
            let completed = servicing.is_over();
            let servicing = servicing.stop().context("play the script")?;
            if completed {
                let since = Instant::now();
                until(|| in_use() || since.elapsed() > PATIENCE || is_over()).await;
                tokio::time::sleep(EPILOGUE).await;
            }
            anyhow::Ok(servicing)
        });
        let servicing = played.await?;

        let ending = || if interrupt.came() { "interrupted" } else { "finishing" };
        let finished = watch.during(&appliance, ending, async {
            let (outcome, ends) = finish.await?;
            anyhow::Ok((outcome, losses(&appliance, &told, ends).await?))
        });
        let (outcome, losses) = finished.await?;
        // What is said from here on is said on the terminal's own screen.
        drop(watch);
        let wrong = appliance.close().await?;
        // The last device goes after its driver.
        drop(servicing);
        let cycles = cycles.load(Ordering::Relaxed);
        Ok(Report::new(options, cycles, outcome, losses, &common, &told, wrong))
    }
}

/// Waits.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(LOOK).await;
    }
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
        tokio::time::sleep(LOOK).await;
    }
}

/// The hosts, the appliance and its VF are in a namespace of their own, so that nothing of this machine gets in the way.
#[cfg(target_os = "linux")]
fn run_in_namespaces(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let needs = || format!("--backend {} needs root, or CAP_NET_ADMIN, for network namespaces", options.backend.name());
    let netns = Netns::new().with_context(needs)?;
    netns.enter(|| in_runtime(run_among_machines(options, interrupt)))
}

#[cfg(target_os = "linux")]
async fn run_among_machines(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let (told, common) = (Told::default(), Common::default());
    let (machines, taps) = kernel::Machines::new()?;
    let method = if options.backend == Backend::AfXdp { Method::AfXdp } else { Method::AfPacket };
    let backend = SocketVf::new().virtual_interfaces(true).method(method);
    let with_vf = |builder: NicBuilder| builder.vf(backend).vf_settings(patient());
    let appliance = Appliance::start(taps, with_vf, &told).await?;
    let ends = kernel::Ends::start(machines, options.seed, options.iperf3, &common)?;
    let run = Run { options, interrupt, told, common };
    let finish = async { tokio::task::spawn_blocking(|| ends.finish()).await? };
    run.play(appliance, VethVfs::new(VethConfig::new(VETH, VF_MAC)), finish).await
}

#[cfg(not(target_os = "linux"))]
fn run_in_namespaces(_options: &Options, _interrupt: &Interrupt) -> anyhow::Result<Report> {
    anyhow::bail!("network namespaces exist on Linux only: --backend memory")
}
