//! This project's client: a queue of a virtual function, or an adapter that has one in use, on the near end of the pair.
//!
//! A process of its own, as testpmd is, so that what it takes of the processors is seen. It says `ready`, works until its input
//! ends, and says what it has counted.

use std::future::poll_fn;
use std::io::Read;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use futures::future::{Either, select};
use netvsc::meta::Path;
use netvsc::queue::Burst;
use netvsc::vf::VfQueue;
use netvsc_async::{Error, Event, Nic, RxHalf, TxHalf, TxMeta, WaitMode};
use netvsc_benches::compare::Mode;
use netvsc_benches::compare::round_trip::core;
use netvsc_host::vf::GuestVf;
use netvsc_host::{Host, HostThread, NicId, NicOptions};
use serde_json::json;
use tokio::sync::Notify;
use vmbus::mem::{MemBus, MemChannel};

use crate::BURST;
use crate::case::{Layer, Method};
use crate::wire::{MTU, NEAR, Opened, SERIAL, backend};

/// What the process is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Task {
    #[arg(long, value_enum)]
    method: Method,
    #[arg(long, value_enum)]
    layer: Layer,
    #[arg(long, value_enum)]
    mode: Mode,
    #[arg(long)]
    size: u16,
    /// The processor that moves frames.
    #[arg(long)]
    cpu: usize,
}

/// When to end.
#[derive(Debug, Default)]
struct End {
    over: AtomicBool,
    told: Notify,
}

impl End {
    /// With the input.
    fn of_input() -> Arc<Self> {
        let end = Arc::new(Self::default());
        let told = Arc::clone(&end);
        std::thread::spawn(move || {
            // An error is an end, too.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.over.store(true, Ordering::Relaxed);
            told.told.notify_one();
        });
        end
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What is measured: a turn moves at most a burst, and never waits.
trait Port: Send {
    fn receive(&mut self) -> anyhow::Result<usize>;
    fn send(&mut self, frame: &[u8]) -> anyhow::Result<usize>;
    fn forward(&mut self) -> anyhow::Result<usize>;
}

/// A queue of the function.
struct Bare {
    end: Opened,
    burst: Burst,
}

impl Port for Bare {
    fn receive(&mut self) -> anyhow::Result<usize> {
        self.burst.clear();
        Ok(self.end.queue.receive(&mut self.burst, BURST))
    }

    fn send(&mut self, frame: &[u8]) -> anyhow::Result<usize> {
        let mut sent = 0;
        while sent < BURST && self.end.queue.send(frame).is_ok() {
            sent += 1;
        }
        self.end.queue.flush();
        Ok(sent)
    }

    fn forward(&mut self) -> anyhow::Result<usize> {
        let received = self.receive()?;
        if received > 0 {
            for frame in &self.burst {
                // What there is no room for is lost, as in testpmd.
                let _ = self.end.queue.send(frame.bytes);
            }
            self.end.queue.flush();
        }
        Ok(received)
    }
}

/// A queue of the adapter.
struct Whole {
    rx: RxHalf<MemChannel>,
    tx: TxHalf<MemChannel>,
}

impl Port for Whole {
    fn receive(&mut self) -> anyhow::Result<usize> {
        Ok(self.rx.try_recv_burst()?.map_or(0, |burst| burst.len()))
    }

    fn send(&mut self, frame: &[u8]) -> anyhow::Result<usize> {
        let mut batch = self.tx.batch();
        let mut sent = 0;
        while sent < BURST {
            match batch.push(frame, &TxMeta::default()) {
                Ok(()) => sent += 1,
                Err(Error::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        batch.flush()?;
        Ok(sent)
    }

    fn forward(&mut self) -> anyhow::Result<usize> {
        let Some(burst) = self.rx.try_recv_burst()? else { return Ok(0) };
        let mut batch = self.tx.batch();
        for frame in &burst {
            match batch.push(frame.bytes, &TxMeta::passing_on(frame.bytes, &frame.meta, MTU)) {
                Ok(()) | Err(Error::Full | Error::Send(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        batch.flush()?;
        Ok(burst.len())
    }
}

/// Counts, with the clock that cycles are of.
#[derive(Debug)]
struct Counters {
    clock: quanta::Clock,
    packets: u64,
    /// Of the time stamp counter, in turns that moved packets.
    cycles: u64,
}

impl Counters {
    fn new() -> Self {
        Self { clock: quanta::Clock::new(), packets: 0, cycles: 0 }
    }

    /// A turn; `start` is when it began.
    fn turn(&mut self, start: u64, port: &mut impl Port, mode: Mode, frame: &[u8]) -> anyhow::Result<usize> {
        let moved = match mode {
            Mode::Rxonly => port.receive()?,
            Mode::Txonly => port.send(frame)?,
            Mode::Io => port.forward()?,
        };
        if moved > 0 {
            self.packets += moved as u64;
            self.cycles += self.clock.raw().wrapping_sub(start);
        }
        Ok(moved)
    }

    /// With the names that l2fwd has for them.
    fn print(&self) {
        let cycles = self.cycles as f64 / self.packets.max(1) as f64;
        println!("{}", json!({ "packets": self.packets, "cycles_per_packet": cycles }));
    }
}

/// The process.
pub(crate) fn run(task: &Task) -> anyhow::Result<()> {
    let core = core(task.cpu)?;
    let end = End::of_input();
    // What is sent goes nowhere, as testpmd's does.
    let frame = netvsc_benches::frames::frame(task.size.into());
    let counters = match task.layer {
        Layer::Queue => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let opened = runtime.block_on(Opened::open(NEAR, task.method))?;
            let burst = Burst::new(BURST, BURST * 2048);
            poll(core, &mut Bare { end: opened, burst }, task.mode, &frame, &end)?
        }
        Layer::Nic => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let mut adapter = runtime.block_on(Adapter::open(task.method, WaitMode::Poll))?;
            let counters = poll(core, &mut adapter.port, task.mode, &frame, &end)?;
            runtime.block_on(adapter.close())?;
            counters
        }
        Layer::Waiting => {
            core_affinity::set_for_current(core);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut adapter = Adapter::open(task.method, WaitMode::default()).await?;
                let counters = wait(&mut adapter.port, task.mode, &frame, &end).await?;
                adapter.close().await?;
                anyhow::Ok(counters)
            })?
        }
    };
    counters.print();
    Ok(())
}

/// Goes on without a pause, on a thread of its own: this one's children are not to be bound to its processor.
fn poll(
    core: core_affinity::CoreId,
    port: &mut impl Port,
    mode: Mode,
    frame: &[u8],
    end: &End,
) -> anyhow::Result<Counters> {
    std::thread::scope(|scope| {
        let work = || {
            core_affinity::set_for_current(core);
            println!("ready");
            let mut counters = Counters::new();
            while !end.is_over() {
                let start = counters.clock.raw();
                if counters.turn(start, port, mode, frame)? == 0 {
                    std::hint::spin_loop();
                }
            }
            Ok(counters)
        };
        scope.spawn(work).join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}

/// Turns without a pause, before the other tasks of the runtime get theirs.
const TURNS: u32 = 64;

/// Sleeps while there is nothing to do.
async fn wait(port: &mut Whole, mode: Mode, frame: &[u8], end: &End) -> anyhow::Result<Counters> {
    println!("ready");
    let mut counters = Counters::new();
    let mut turns = 0_u32;
    while !end.is_over() {
        let mut start = 0;
        {
            let ready = poll_fn(|cx| {
                // Again at each poll: the one that finds something counts.
                start = counters.clock.raw();
                match mode {
                    Mode::Txonly => port.tx.poll_ready(cx, frame.len()),
                    Mode::Rxonly | Mode::Io => port.rx.poll_ready(cx),
                }
            });
            match select(ready, pin!(end.told.notified())).await {
                Either::Left((ready, _)) => ready?,
                Either::Right(_) => break,
            }
        }
        counters.turn(start, port, mode, frame)?;
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
    }
    Ok(counters)
}

/// An adapter on a simulated host, whose virtual function is the near end and in use.
struct Adapter {
    nic: Nic<MemBus>,
    port: Whole,
    host: Host,
    _host_thread: HostThread,
    /// What the host takes for the function. Nothing goes by it.
    _function: GuestVf,
}

impl Adapter {
    async fn open(method: Method, mode: WaitMode) -> anyhow::Result<Self> {
        const NIC: NicId = NicId(0);
        let host = Host::builder().build();
        let bus = MemBus::new(host.add_nic(NicOptions::new().mac(NEAR.mac.0)));
        let function = host.plug_vf(NIC, SERIAL, 16).context("the host has no such adapter")?;
        let host_thread = host.spawn_thread();
        // Nothing is merged: DPDK's program merges nothing either.
        let builder = Nic::builder().wait(mode).gro(None).vf(backend(NEAR, method));
        let (nic, mut queues) = builder.open_on(bus).await.context("open an adapter")?;
        nic.set_packet_filter(netvsc::PacketFilter::PROMISCUOUS).await.context("receive frames for others")?;
        let mut events = nic.events();
        host.associate_vf(NIC, SERIAL);
        loop {
            match events.next().await.context("the adapter is gone")? {
                Event::DatapathSwitched { to: Path::VirtualFunction, .. } => break,
                event => tracing::debug!(?event, "on the way"),
            }
        }
        let queue = queues.remove(0);
        let port = Whole { rx: queue.rx, tx: queue.tx };
        Ok(Self { nic, port, host, _host_thread: host_thread, _function: function })
    }

    async fn close(self) -> anyhow::Result<()> {
        let by_rings: u64 = self.nic.queue_stats().iter().map(|queue| queue.rx.packets + queue.tx.packets).sum();
        ensure!(self.host.vf_in_use(NicId(0)) && by_rings == 0, "{by_rings} frames did not go by the virtual function");
        drop(self.port);
        self.nic.close().await?;
        Ok(())
    }
}
