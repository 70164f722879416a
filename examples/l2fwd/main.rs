//! Forwards, receives or sends Ethernet frames as fast as it can, on the burst API: what DPDK's `testpmd` does, with
//! this driver.
//!
//! ```text
//! l2fwd --device GUID --mode io --seconds 10 --json    # one adapter: frames go back to where they came from
//! l2fwd --device GUID --device GUID --queues 4         # two: what comes in by one leaves by the other
//! l2fwd --device GUID --vf af_xdp                      # by the adapter's virtual function, while there is one
//! l2fwd --tap left --tap right --wait interrupt        # between two simulated hosts' adapters, with TAP interfaces
//! ```
//!
//! One thread a queue. With `--wait poll` it is a plain loop that never waits and makes no system call; with `interrupt`
//! or `adaptive` it is a task that sleeps while there is nothing to do. The adapters' control side has a thread of its own.
//!
//! - `rxonly` counts frames, `txonly` sends testpmd's default UDP frame, `io` sends each frame back unchanged.
//! - Between two adapters frames keep their addresses, as in a bridge: both receive whatever there is (promiscuous mode), and
//!   send from addresses that are not theirs, which Hyper-V allows where "MAC address spoofing" is on.
//! - Cycles are counted as testpmd counts them (`set record-core-cycles on`): time stamp counter, only polls that moved
//!   packets.
//!
//! ```text
//!  left (TAP) ── cable ── simulated host ── NIC ─┐
//!                                                l2fwd
//!  right (TAP) ── cable ── simulated host ── NIC ─┘
//! ```
//!
//! | file | has |
//! |---|---|
//! | `worker.rs` | the loops: the part to copy |
//! | `threads.rs` | a thread for each queue |
//! | `adapters.rs` | adapters of this machine, and simulated ones |
//! | `measure.rs` | counters, CPU time of the process |
//! | `syscalls.rs` | system calls, counted from outside |
//! | `frame.rs` | the frame that is sent |

#[cfg(target_os = "linux")]
mod adapters;
#[cfg(target_os = "linux")]
mod frame;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod syscalls;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod worker;

use std::error::Error;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use netvsc::Config;
use netvsc::offload::Checksums;
use netvsc_async::{GroConfig, OffloadSettings, SpinBudget, WaitMode};
use netvsc_host::Profile;

#[global_allocator]
static ALLOCATOR: netvsc_allocations::Counting = netvsc_allocations::Counting;

/// Moves Ethernet frames over a network adapter that is bound to uio_hv_generic, or between two, and says how fast.
///
/// Ends by itself, or with Ctrl-C. The exit status is 0 only if the adapters were closed with everything given back, and
/// a simulated host has nothing to complain of.
#[derive(Debug, Parser)]
#[command(name = "l2fwd")]
struct Options {
    /// The adapter: instance GUID, MAC address, uioN or interface name. Twice: frames go from one to the other.
    #[arg(long, value_name = "NAME", required_unless_present = "tap", conflicts_with = "tap")]
    device: Vec<String>,
    /// Twice: two simulated hosts in this process, each with a network adapter and a TAP interface of this name. Needs
    /// root, or CAP_NET_ADMIN.
    #[arg(long, value_name = "NAME")]
    tap: Vec<String>,
    /// With --tap: whether the kernel's large frames and unfinished checksums come as they are, and go to it as they are.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    vnet_hdr: Switch,
    /// With --tap: which Windows release the hosts behave like: ws2012r2, ws2016, ws2019 or ws2022.
    #[arg(long, value_name = "NAME", default_value_t)]
    profile: Profile,
    /// With --device: go by the virtual function while the host has one for the adapter, on its network interface (a veth will
    /// do). Needs CAP_NET_RAW and CAP_NET_ADMIN.
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "tap")]
    vf: Option<Vf>,
    /// What to do with frames of one adapter.
    #[arg(long, value_enum, default_value_t = Mode::Io)]
    mode: Mode,
    /// Bytes of a frame that txonly sends, without frame check sequence.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=1514))]
    packet_size: u16,
    /// Queues, each with a thread of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// How long to go on; 0 is until Ctrl-C.
    #[arg(long, value_name = "N", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// End as soon as each queue has moved so many packets.
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// How a queue waits for frames.
    #[arg(long, value_enum, default_value_t = Wait::Poll)]
    wait: Wait,
    /// Most frames at a time.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    burst: u16,
    /// The first queue's thread runs on this processor, the next on the one after it, and so on.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Between two adapters: merge TCP segments that arrive together, and have them cut into the same segments again when
    /// they leave.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    gro: Switch,
    /// With --gro on: merge UDP datagrams of one size, too.
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    gro_udp: Switch,
    /// With --mode io: receive no more than the first N bytes of longer frames. The rest stays in the host's memory until it is
    /// sent on, and is copied once. Frames go on as they came: they are not merged, whatever --gro says.
    #[arg(long, value_name = "N|off", default_value = "off", value_parser = copybreak)]
    rx_copybreak: Copybreak,
    /// Between two adapters: keep the checksums of TCP and UDP that frames have, or compute them anew, as whoever changes
    /// frames has to.
    #[arg(long, value_enum, default_value_t = ChecksumMode::Keep)]
    checksums: ChecksumMode,
    /// Have the host compute checksums that have to be computed; off: in software.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    tx_checksum: Switch,
    /// Listen to the host's verdicts on checksums of frames that are received.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    rx_checksum: Switch,
    /// Have the host cut frames that are longer than the MTU (large send); off: in software.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    lso: Switch,
    /// Have the host merge TCP segments into frames longer than the MTU (receive segment coalescing).
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    rsc: Switch,
    /// Print one JSON object as the last line on standard output. Its `allocations` are those of the queues' threads while
    /// they work; its `syscalls` too, with --strace, and null without.
    #[arg(long)]
    json: bool,
    /// With --json: count system calls, as strace(1) sees them. The program runs itself under it, and counts what the queues'
    /// threads called from the start of their work to its end; calls of other threads, which go by time and not by packets,
    /// are not in there. It slows down whoever makes system calls.
    #[arg(long, requires = "json")]
    strace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Rxonly,
    Txonly,
    Io,
}

/// How the frames of a virtual function's interface are got at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Vf {
    #[value(name = "af_xdp")]
    AfXdp,
    #[value(name = "af_packet")]
    AfPacket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChecksumMode {
    Keep,
    Compute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Switch {
    fn is_on(self) -> bool {
        self == Self::On
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Never: one whole processor.
    Poll,
    /// Sleep until the host interrupts.
    Interrupt,
    /// Look for a while, then sleep.
    Adaptive,
}

impl Wait {
    fn mode(self) -> WaitMode {
        match self {
            Self::Poll => WaitMode::Poll,
            Self::Interrupt => WaitMode::Interrupt,
            Self::Adaptive => WaitMode::Adaptive(SpinBudget::default()),
        }
    }
}

/// How much of each frame is received, if not all of it.
#[derive(Debug, Clone, Copy)]
struct Copybreak(Option<usize>);

fn copybreak(text: &str) -> Result<Copybreak, Box<dyn Error + Send + Sync>> {
    if text == "off" {
        return Ok(Copybreak(None));
    }
    let bytes = text.parse().map_err(|_| "a number of bytes is needed, or off")?;
    // The adapter would say so as well, once it is found.
    Config::default().rx_copybreak(bytes).check()?;
    Ok(Copybreak(Some(bytes)))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "a number of seconds is needed")?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    Ok(if time.is_zero() { Duration::MAX } else { time })
}

impl Options {
    /// What the hosts are asked for.
    fn offloads(&self) -> OffloadSettings {
        let checksums = |switch: Switch, all| if switch.is_on() { all } else { Checksums::NONE };
        let mut offloads = OffloadSettings::forwarding();
        offloads.tx_checksum = checksums(self.tx_checksum, offloads.tx_checksum);
        offloads.rx_checksum = checksums(self.rx_checksum, offloads.rx_checksum);
        (offloads.lso_v4, offloads.lso_v6) = (self.lso.is_on(), self.lso.is_on());
        (offloads.rsc_v4, offloads.rsc_v6) = (self.rsc.is_on(), self.rsc.is_on());
        offloads
    }

    /// How received segments are merged here.
    fn merging(&self) -> Option<GroConfig> {
        self.gro.is_on().then(|| GroConfig::default().with_udp(self.gro_udp.is_on()))
    }

    fn checked() -> Self {
        let options = Self::parse();
        let holds = options.rx_copybreak.0.is_some();
        if holds && (options.mode != Mode::Io || options.checksums == ChecksumMode::Compute) {
            let wrong = "--rx-copybreak is for frames that go on as they came: --mode io, --checksums keep";
            Self::command().error(ErrorKind::ArgumentConflict, wrong).exit()
        }
        if [&options.device, &options.tap].iter().any(|names| matches!(&names[..], [one, other] if one == other)) {
            let wrong = "frames go from one adapter to another, not from one to itself";
            Self::command().error(ErrorKind::ValueValidation, wrong).exit()
        }
        let wrong = match (options.device.len(), options.tap.len()) {
            (1 | 2, 0) | (0, 2) => return options,
            (0, _) => "--tap is needed twice",
            _ => "--device is possible once or twice",
        };
        Self::command().error(ErrorKind::WrongNumberOfValues, wrong).exit()
    }
}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    let options = Options::checked();
    if options.strace {
        let (status, report) = syscalls::run_again("--strace")?;
        println!("{report}");
        anyhow::ensure!(status.success(), "{status}");
        return Ok(());
    }
    // What keeps the adapters going; the queues' threads have what they need themselves.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let summary = runtime.block_on(async {
        if options.tap.is_empty() { adapters::run(&options).await } else { adapters::run_simulated(&options).await }
    })?;
    println!("{summary}");
    if options.json {
        println!("{}", summary.json(&options));
    }
    anyhow::ensure!(summary.clean, "not everything was given back when the adapters were closed");
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() -> anyhow::Result<()> {
    Options::checked();
    anyhow::bail!("uio_hv_generic and TAP interfaces exist on Linux only")
}
