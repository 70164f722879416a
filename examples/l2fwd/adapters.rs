//! The adapters: of this machine, or of simulated hosts.

use anyhow::Context;
use netvsc::PacketFilter;
use netvsc_async::vf::sockets::{Method, SocketVf};
use netvsc_async::{Nic, NicBuilder, Queue};
use netvsc_host::port::{TapConfig, TapHandle, TapPort};
use netvsc_host::switch::SwitchConfig;
use netvsc_host::{Host, HostThread, NicOptions};
use vmbus::bus::{Bus, Channel};
use vmbus::mem::MemBus;

use crate::measure::{Meter, Summary};
use crate::threads::Threads;
use crate::{Options, Vf};

/// Memory of each queue for long frames of `txonly`, of which the headers take a page: as many as testpmd has descriptors.
const DIRECT_BYTES: usize = 2 << 20;

/// An adapter that is open, and its queues.
type Opened<B> = (Nic<B>, Vec<Queue<<B as Bus>::Channel>>);

/// Opens adapters of this machine, has frames moved for a while, closes them.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Summary> {
    let threads = Threads::start(options).context("start threads")?;
    let mut adapters = Vec::new();
    for device in &options.device {
        let opened = builder(options, &threads).device(device.as_str()).open().await;
        adapters.push(opened.with_context(|| format!("open the adapter {device}"))?);
    }
    work(options, threads, adapters).await
}

/// The same on two simulated hosts.
pub(crate) async fn run_simulated(options: &Options) -> anyhow::Result<Summary> {
    let threads = Threads::start(options).context("start threads")?;
    let mut hosts = Vec::new();
    let mut adapters = Vec::new();
    for (number, name) in (0..).zip(&options.tap) {
        let Simulated { host, thread, handle, bus } = simulate(options, number, name)?;
        let opened = builder(options, &threads).open_on(bus).await;
        adapters.push(opened.with_context(|| format!("open the adapter at {name}"))?);
        hosts.push((host, thread, handle));
    }
    let mut summary = work(options, threads, adapters).await?;
    for (host, thread, handle) in hosts {
        summary.taps.push(handle.stats());
        // Serves what is left before it ends.
        drop(thread);
        let report = host.report();
        if !report.is_clean() {
            eprintln!("{report}");
            summary.clean = false;
        }
    }
    Ok(summary)
}

/// A host of this process.
struct Simulated {
    host: Host,
    thread: HostThread,
    handle: TapHandle,
    bus: MemBus,
}

/// A host with one adapter, at whose other end is a TAP interface.
fn simulate(options: &Options, number: u8, name: &str) -> anyhow::Result<Simulated> {
    // A cable, not a switch: frames are for stations behind the forwarder.
    let host = Host::builder().profile(options.profile).switch(SwitchConfig::default().cable(true)).build();
    let config = TapConfig::new().name(name).queues(options.queues).vnet_hdr(options.vnet_hdr.is_on());
    let tap = TapPort::open(config).with_context(|| format!("make the TAP interface {name}"))?;
    let handle = tap.handle();
    host.add_port(tap);
    let nic = NicOptions::new().mac([0x00, 0x15, 0x5D, 1, 0, number]).queues(options.queues).mac_spoofing(true);
    let bus = MemBus::new(host.add_nic(nic));
    let thread = host.spawn_thread();
    Ok(Simulated { host, thread, handle, bus })
}

fn builder<C: Channel>(options: &Options, threads: &Threads<C>) -> NicBuilder {
    let mut builder = Nic::builder();
    builder = builder
        .tune(|config| config.direct_bytes(DIRECT_BYTES))
        .queues(options.queues)
        .wait(options.wait.mode())
        .burst(options.burst.into())
        .offloads(options.offloads())
        .gro(options.merging());
    if let Some(bytes) = options.rx_copybreak.0 {
        builder = builder.rx_copybreak(bytes);
    }
    if let Some(vf) = options.vf {
        let method = match vf {
            Vf::AfXdp => Method::AfXdp,
            Vf::AfPacket => Method::AfPacket,
        };
        builder = builder.vf(SocketVf::new().virtual_interfaces(true).method(method));
    }
    for (index, runtime) in threads.runtimes() {
        builder = builder.queue_runtime(index, runtime);
    }
    builder
}

/// Has frames moved, and closes the adapters.
async fn work<B: Bus>(
    options: &Options,
    mut threads: Threads<B::Channel>,
    adapters: Vec<Opened<B>>,
) -> anyhow::Result<Summary> {
    let mut nics = Vec::new();
    let mut queues = Vec::new();
    for (nic, of_nic) in adapters {
        let info = nic.info();
        eprintln!("{} is up, NVSP {}, {} queues", info.mac, info.nvsp_version, of_nic.len());
        queues.push((of_nic, info));
        nics.push(nic);
    }
    // Of two adapters, only queues that have a counterpart work, each way.
    let workers = queues.len() * queues.iter().map(|(queues, _)| queues.len()).min().unwrap_or(0);
    let mut meter = Meter::start(threads.progress().iter().take(workers).cloned().collect())?;
    threads.give(queues, options);
    if nics.len() > 1 {
        for nic in &nics {
            nic.set_packet_filter(PacketFilter::PROMISCUOUS).await.context("receive frames for others")?;
        }
    }
    meter.run(options.seconds, options.packets).await;
    threads.stop();
    let (counters, runtimes) = threads.collect().await?;
    let mut summary = meter.finish(counters);
    summary.clean = true;
    for nic in nics {
        summary.merged += nic.gro_stats().iter().map(|queue| queue.merged).sum::<u64>();
        summary.vfs.push(nic.vf_stats());
        summary.adapters.push(nic.queue_stats().into_iter().map(|queue| queue.extra).collect());
        summary.clean &= nic.close().await?.is_clean();
    }
    drop(runtimes);
    Ok(summary)
}
