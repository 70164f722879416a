//! Forwards, receives or sends Ethernet frames as fast as it can, on the burst API: what DPDK's `testpmd` does, with
//! this driver.
//!
//! ```text
//! l2fwd --device GUID --mode io --seconds 10 --json
//! ```
//!
//! One thread a queue. With `--wait poll` it is a plain loop that never waits and makes no system call; with `interrupt`
//! or `adaptive` it is a task that sleeps while there is nothing to do. The adapter's control side has a thread of its own.
//!
//! - `rxonly` counts frames, `txonly` sends testpmd's default UDP frame, `io` sends each frame back unchanged.
//! - Cycles are counted as testpmd counts them (`set record-core-cycles on`): time stamp counter, only polls that moved
//!   packets.
//!
//! | file | has |
//! |---|---|
//! | `worker.rs` | the loops: the part to copy |
//! | `threads.rs` | a thread for each queue |
//! | `measure.rs` | counters, CPU time of the process |
//! | `frame.rs` | the frame that is sent |

#[cfg(target_os = "linux")]
mod frame;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod worker;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use netvsc_async::{SpinBudget, WaitMode};

#[global_allocator]
static ALLOCATOR: netvsc_benches::allocations::Counting = netvsc_benches::allocations::Counting;

/// Moves Ethernet frames over a network adapter that is bound to uio_hv_generic, and says how fast.
///
/// Ends by itself. The exit status is 0 only if the adapter was closed with everything given back.
#[derive(Debug, Parser)]
struct Options {
    /// The adapter: instance GUID, MAC address, uioN or interface name.
    #[arg(long, value_name = "NAME")]
    device: String,
    /// What to do with frames.
    #[arg(long, value_enum, default_value_t = Mode::Io)]
    mode: Mode,
    /// Bytes of a frame that txonly sends, without frame check sequence.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=1514))]
    packet_size: u16,
    /// Queues, each with a thread of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// How long to go on.
    #[arg(long, value_name = "N", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// How a queue waits for frames.
    #[arg(long, value_enum, default_value_t = Wait::Poll)]
    wait: Wait,
    /// Most frames at a time.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    burst: u16,
    /// The first queue's thread runs on this processor, the next on the one after it, and so on.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Print one JSON object as the last line on standard output. Its `syscalls` is null: they have to be counted from
    /// outside, for instance by `strace -fc`. Its `allocations` are those of the queues' threads while they work.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Rxonly,
    Txonly,
    Io,
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

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "a number of seconds is needed")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // What keeps the adapter going; the queues' threads have what they need themselves.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let summary = runtime.block_on(run(&options))?;
    println!("{summary}");
    if options.json {
        println!("{}", summary.json(&options));
    }
    anyhow::ensure!(summary.clean, "not everything was given back when the adapter was closed");
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() -> anyhow::Result<()> {
    Options::parse();
    anyhow::bail!("uio_hv_generic exists on Linux only")
}

/// Opens the adapter, has frames moved for a while, closes it.
#[cfg(target_os = "linux")]
async fn run(options: &Options) -> anyhow::Result<measure::Summary> {
    use anyhow::Context;

    let mut threads = threads::Threads::start(options).context("start threads")?;
    let mut builder = netvsc_async::Nic::builder().device(options.device.as_str());
    builder = builder.queues(options.queues).wait(options.wait.mode()).burst(options.burst.into());
    for (index, runtime) in threads.runtimes() {
        builder = builder.queue_runtime(index, runtime);
    }
    let (nic, queues) = builder.open().await.context("open the adapter")?;
    let info = nic.info();
    eprintln!("{} is up, NVSP {}, {} queues", info.mac, info.nvsp_version, queues.len());
    let mut meter = measure::Meter::start(threads.progress().to_vec())?;
    threads.give(queues, info.mac.0, options);
    meter.run(options.seconds).await;
    threads.stop();
    let (counters, runtimes) = threads.collect().await?;
    let mut summary = meter.finish(counters);
    let report = nic.close().await?;
    summary.clean = report.is_clean();
    drop(runtimes);
    Ok(summary)
}
