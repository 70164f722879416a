//! A load balancer for TCP and UDP, IPv4 and IPv6: the part of an appliance that a user would start from.
//!
//! It works as IPVS' "direct routing" and the first tier of large sites do: frames for the address of a service go on to a
//! backend with nothing changed but the MAC addresses, and the backend answers the client directly. So there is no state for
//! each flow, no checksum to compute, and answers, which are most of the bytes, never come through here.
//!
//! ```text
//!  clients ── router ──┬── switch ── NIC ── one task a queue: hash of the flow ─► backend's MAC address ─┐
//!                      │             ▲                                                                   │
//!                      │             └───────────────────────────────────────────────────────────────────┘
//!                      └◄─ answers ─ backends, each with the service's address on its loopback interface
//! ```
//!
//! - **Which backend** a flow goes to is decided by rendezvous hashing: a backend that goes takes no flow of the others with
//!   it, and one that comes takes an equal share. Several balancers with the same list agree, so that any of them can fail.
//! - **Backends are looked after** with ARP and neighbour solicitations: who does not answer gets no flows.
//! - **Fragments** go by their addresses alone, as only the first has ports. Where datagrams are fragmented, `--hash sd`
//!   keeps whole and fragmented ones of a client together.
//! - **ICMP errors** (among them "packet too big", without which large transfers hang) go to the backend whose packet they
//!   are about. Pings to the service are answered here.
//!
//! ```text
//! load_balancer                                             # on a simulated host: shows what it does, and checks it
//! load_balancer --device eth1 --address 198.51.100.2 --service 198.51.100.80 \
//!               --backend 198.51.100.11 --backend 198.51.100.12 --queues 4
//! ```
//!
//! On each backend (Linux), so that it takes the service's address but does not claim it on the wire:
//!
//! ```text
//! ip address add 198.51.100.80/32 dev lo
//! sysctl net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
//! ```
//!
//! | file | has |
//! |---|---|
//! | `balancer.rs` | what is done with a frame: no I/O, the part to change |
//! | `table.rs` | which backend a flow goes to |
//! | `queue.rs` | a task for each queue: receives, decides, sends |
//! | `neighbours.rs` | which backends live |
//! | `wire.rs` | ARP, neighbour discovery, ICMP |
//! | `simulation.rs` | clients and backends on the simulated host's switch, and what is checked |

mod balancer;
mod neighbours;
mod queue;
mod simulation;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use netvsc_async::{HashLevel, Nic, Queue};
use vmbus::bus::Bus;

use balancer::{Balancer, Config};
use neighbours::Neighbours;
use queue::Counters;

/// Spreads TCP and UDP flows over backends, by direct routing.
///
/// Without --device it runs on a simulated host, with clients and backends of its own: it prints how flows were spread,
/// takes a backend away and gives it back meanwhile, and fails unless every flow stayed where it belongs.
///
/// With --device it balances until Ctrl-C. Frames are sent from the adapter's own MAC address, so that the virtual switch
/// needs no "MAC address spoofing". Backends must be on the same network, and have the service's address on a loopback
/// interface.
#[derive(Debug, Parser)]
struct Options {
    /// The adapter: instance GUID, MAC address, uioN or interface name; bound to uio_hv_generic.
    #[arg(long, value_name = "NAME", requires_all = ["address", "service", "backend"])]
    device: Option<String>,
    /// The balancer's own address, from which it asks for backends; one for each version of IP.
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// An address whose flows are spread, all ports of it.
    #[arg(long, value_name = "IP")]
    service: Vec<IpAddr>,
    /// A machine that flows go to: those of its version of IP.
    #[arg(long, value_name = "IP")]
    backend: Vec<IpAddr>,
    /// What tells a flow: addresses and ports (sdfn), or addresses alone (sd), which keeps a client on one backend.
    #[arg(long, value_name = "LEVEL", default_value_t = HashLevel::L4)]
    hash: HashLevel,
    /// Decides which backend each flow goes to. Balancers that share a service must have the same.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How often backends are asked whether they are there; after three times without an answer they get no flows.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    probe: u64,
    /// Queues, each with a task of its own.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Without --device: how many flows the clients open.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    flows: u32,
    /// Without --device: something that goes wrong on purpose: the exit status must not be 0.
    #[arg(long, value_name = "KIND", value_enum, conflicts_with = "device")]
    sabotage: Option<simulation::Sabotage>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("start tokio").and_then(|runtime| {
        runtime.block_on(async {
            match &options.device {
                Some(device) => balance(device, &options).await,
                None => simulation::run(&simulation::Scene::new(&options)).await.map(|report| println!("{report}")),
            }
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Balances on an adapter of this machine, until Ctrl-C.
#[cfg(target_os = "linux")]
async fn balance(device: &str, options: &Options) -> anyhow::Result<()> {
    let (nic, queues) =
        Nic::builder().device(device).queues(options.queues).open().await.context("open the adapter")?;
    let config = Config {
        mac: nic.info().mac.0,
        own: options.address.clone(),
        services: options.service.clone(),
        backends: options.backend.clone(),
        level: options.hash,
        seed: options.seed,
    };
    let running = Running::start(&nic, queues, config, Duration::from_millis(options.probe))?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("wait for Ctrl-C")?,
        ended = running.ended() => ended?,
    }
    println!("{}", running.counters());
    anyhow::ensure!(nic.close().await?.is_clean(), "not everything was given back when the adapter was closed");
    Ok(())
}

#[cfg(not(target_os = "linux"))]
async fn balance(_device: &str, _options: &Options) -> anyhow::Result<()> {
    anyhow::bail!("uio_hv_generic exists on Linux only")
}

/// A balancer at work. Ends with the adapter, or when it is dropped.
#[derive(Debug)]
struct Running {
    balancer: Arc<Balancer>,
    tasks: tokio::sync::Mutex<tokio::task::JoinSet<anyhow::Result<()>>>,
    counters: Vec<Arc<Counters>>,
}

impl Running {
    /// A task for each queue, and one that looks after the backends.
    fn start<B: Bus>(
        nic: &Nic<B>,
        queues: Vec<Queue<B::Channel>>,
        config: Config,
        probe: Duration,
    ) -> anyhow::Result<Self> {
        let info = nic.info();
        eprintln!("{} is up, NVSP {}, {} queues", info.mac, info.nvsp_version, queues.len());
        let balancer = Arc::new(Balancer::new(config)?);
        let (learned, answers) = tokio::sync::mpsc::channel(1024);
        let (neighbours, mut questions) = Neighbours::new(Arc::clone(&balancer), answers, probe);
        let mut tasks = tokio::task::JoinSet::new();
        let mut counters = Vec::new();
        for queue in queues {
            let count = Arc::new(Counters::new(balancer.config().backends.len()));
            counters.push(Arc::clone(&count));
            // Questions leave by the first queue.
            let questions = questions.take();
            let (balancer, learned) = (Arc::clone(&balancer), learned.clone());
            tasks.spawn(async move { queue::serve(queue, info.mtu, &balancer, &count, &learned, questions).await });
        }
        tasks.spawn(neighbours.look_after());
        Ok(Self { balancer, tasks: tasks.into(), counters })
    }

    /// Ready when a task has ended, which none does before the adapter is closed or fails.
    async fn ended(&self) -> anyhow::Result<()> {
        let ended = self.tasks.lock().await.join_next().await;
        ended.map_or(Ok(()), |task| task.context("a task panicked")?)
    }

    /// What all queues have counted.
    fn counters(&self) -> queue::Summary {
        queue::Summary::of(&self.counters, &self.balancer.config().backends)
    }
}
