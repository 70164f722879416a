//! What stands above bursts, moved as fast as it can: `Stream` and `Sink` of packets, and the device for smoltcp.
//!
//! A client of a simulated host as `examples/l2fwd` is, and counted like it. `side-by-side` runs it; it is of no other use.

#[cfg(target_os = "linux")]
mod turn;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use netvsc_benches::compare::Mode;

/// Moves Ethernet frames through the layers above bursts, and says how fast, as one JSON object.
#[derive(Debug, Parser)]
struct Options {
    /// The adapter: instance GUID, MAC address, uioN or interface name.
    #[arg(long, value_name = "NAME")]
    device: String,
    /// Through what.
    #[arg(long, value_enum)]
    layer: Layer,
    /// What to do with frames.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Bytes of a frame that txonly sends.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(60..=1514))]
    packet_size: u16,
    /// How long to go on.
    #[arg(long, value_name = "N")]
    seconds: u32,
    /// The processor that moves frames.
    #[arg(long, value_name = "N")]
    cpu: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// `Stream` and `Sink` of packets.
    Packets,
    /// The device that smoltcp's interface receives from and sends to, without the interface; `io` whatever the mode.
    Smoltcp,
}

#[cfg(not(target_os = "linux"))]
fn main() -> anyhow::Result<()> {
    Options::parse();
    anyhow::bail!("uio_hv_generic exists on Linux only")
}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::Context;
    use netvsc_async::{Nic, WaitMode};
    use tokio::sync::oneshot;

    let options = Options::parse();
    let core = core_affinity::get_core_ids().unwrap_or_default().into_iter().find(|core| core.id == options.cpu);
    let core = core.with_context(|| format!("processor {} cannot be used", options.cpu))?;
    // The adapter's control side has a thread of its own, as in l2fwd.
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on_thread = runtime.handle().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let (give, take) = oneshot::channel();
    let (done, counters) = oneshot::channel();
    // Closing needs the queue's background task, which lives there.
    let (release, released) = oneshot::channel::<()>();
    let (layer, mode, len) = (options.layer, options.mode, options.packet_size);
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        core_affinity::set_for_current(core);
        runtime.block_on(async {
            // A sender that is gone means that the adapter did not open, which is told below.
            if let Ok((queue, info)) = take.await {
                let counters = turn::run(queue, &info, layer, mode, len.into(), &stopped).await;
                let _ = done.send(counters);
            }
            let _ = released.await;
        });
    });
    let report = control.block_on(async {
        // Nothing is merged: DPDK's program merges nothing either.
        let builder = Nic::builder().device(options.device.as_str()).wait(WaitMode::Poll).gro(None);
        let builder = builder.queue_runtime(0, on_thread);
        let (nic, mut queues) = builder.open().await.context("open the adapter")?;
        let sent = give.send((queues.remove(0), nic.info()));
        anyhow::ensure!(sent.is_ok(), "the thread is gone");
        tokio::time::sleep(Duration::from_secs(options.seconds.into())).await;
        stop.store(true, Ordering::Relaxed);
        let counters = counters.await.context("the thread is gone")??;
        let report = nic.close().await?;
        anyhow::ensure!(report.is_clean(), "not everything was given back: {report:?}");
        Ok(counters.json())
    });
    drop(release);
    let ended = thread.join();
    println!("{}", report?);
    anyhow::ensure!(ended.is_ok(), "the thread panicked");
    Ok(())
}
