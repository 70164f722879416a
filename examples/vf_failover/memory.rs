//! Ends in this process: a TCP/IP stack (smoltcp) on a memory port of each host, beside the numbered flow. No root needed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use netvsc_examples::link::{self, Link};
use netvsc_examples::stack::{Application, Context, Stack};
use netvsc_host::port::{MemoryPort, ReceivedFrame, SendError};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpCidr};
use tokio::task::JoinHandle;

use crate::ends::{Common, Counted, Drain, Outcome, Source, Transferred};
use crate::flow::Flow;

/// MAC addresses of the ends: locally administered.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x0A], [2, 0, 0, 0, 0, 0x0B]];
/// For experiments (IEEE 802): the numbered flow.
const NUMBERED: [u8; 2] = [0x88, 0xB5];
const HEADER: usize = 14;
const PORT: u16 = 7000;
/// Of each socket, each way: less than a memory port holds, so that nothing is lost to crowding.
const SOCKET_BYTES: usize = 256 << 10;
/// Stream bytes at a time.
const CHUNK: usize = 16 << 10;
/// A port that is full is tried again so soon.
const RETRY: Duration = Duration::from_micros(100);

/// The ends, at work.
#[derive(Debug)]
pub(crate) struct Ends {
    tasks: Vec<JoinHandle<Transferred>>,
    senders: Vec<std::thread::JoinHandle<()>>,
    common: Common,
    ports: Ports,
}

/// The ports, and what was counted at them.
#[derive(Debug, Clone)]
pub(crate) struct Ports([Arc<CountedPort>; 2]);

impl Counted for Ports {
    fn missing(&mut self) -> anyhow::Result<u64> {
        // Nobody else reads them any more.
        for port in &self.0 {
            while port.try_recv().is_some() {}
        }
        let sum = |of: fn(&CountedPort) -> &AtomicU64| -> u64 {
            self.0.iter().map(|port| of(port).load(Ordering::Relaxed)).sum()
        };
        let (sent, received) = (sum(|port| &port.sent), sum(|port| &port.received));
        sent.checked_sub(received).ok_or_else(|| anyhow::anyhow!("{sent} frames were sent and {received} received"))
    }
}

/// A port that counts what goes by it.
#[derive(Debug)]
pub(crate) struct CountedPort {
    port: MemoryPort,
    sent: AtomicU64,
    received: AtomicU64,
}

impl CountedPort {
    fn new(port: MemoryPort) -> Arc<Self> {
        Arc::new(Self { port, sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }

    /// False if there is no room now.
    fn send(&self, frame: &[u8]) -> bool {
        let result = self.port.send(frame);
        self.sent.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        !matches!(result, Err(SendError::Full { .. }))
    }

    fn try_recv(&self) -> Option<ReceivedFrame> {
        let frame = self.port.try_recv().ok()?;
        self.received.fetch_add(1, Ordering::Relaxed);
        Some(frame)
    }

    fn poll_recv(&self, cx: &mut std::task::Context<'_>) -> Poll<Option<ReceivedFrame>> {
        let received = self.port.poll_recv(cx);
        self.received.fetch_add(u64::from(matches!(received, Poll::Ready(Some(_)))), Ordering::Relaxed);
        received
    }
}

impl Ends {
    /// Begins to talk by the two ports.
    pub(crate) fn start(ports: [MemoryPort; 2], seed: u64, common: &Common) -> Self {
        let ports = ports.map(CountedPort::new);
        let source = Source::new(seed, common);
        let near = device(&ports[0], common.flows[1].clone());
        let far = device(&ports[1], common.flows[0].clone());
        let tasks = vec![
            tokio::spawn(send(near, source, seed)),
            tokio::spawn(receive(far, Drain::new(common), seed.wrapping_add(1))),
        ];
        let senders = (0..2).map(|from| {
            let (port, common) = (Arc::clone(&ports[from]), common.clone());
            std::thread::spawn(move || {
                let mut frame = [&MACS[1 - from][..], &MACS[from], &NUMBERED].concat();
                let stop = || common.is_stopped();
                common.flows[from].send_until(stop, |payload| {
                    frame.truncate(HEADER);
                    frame.extend_from_slice(payload);
                    port.send(&frame)
                });
            })
        });
        Self { tasks, senders: senders.collect(), common: common.clone(), ports: Ports(ports.clone()) }
    }

    /// Has them stop, and waits for what is under way.
    pub(crate) async fn finish(self) -> anyhow::Result<(Outcome, Ports)> {
        self.common.stop();
        let mut ends = Vec::new();
        // Both flows are waited for while the stacks still run: they read the ports.
        let senders =
            tokio::task::spawn_blocking(move || self.senders.into_iter().try_for_each(|sender| sender.join()));
        for task in self.tasks {
            ends.push(task.await?);
        }
        senders.await?.map_err(|_| anyhow::anyhow!("a sender panicked"))?;
        let [sent, received] = <[Transferred; 2]>::try_from(ends).map_err(|_| anyhow::anyhow!("two ends"))?;
        Ok((Outcome { sent, received, retransmissions: None, generated: None }, self.ports))
    }
}

fn address(end: u8) -> IpAddress {
    IpAddress::v4(198, 51, 100, end)
}

fn device(port: &Arc<CountedPort>, flow: Flow) -> SharedPort {
    SharedPort { port: Arc::clone(port), next: None, outgoing: Vec::new(), stuck: false, flow }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; SOCKET_BYTES]);
    tcp::Socket::new(buffer(), buffer())
}

async fn send(device: SharedPort, source: Source, seed: u64) -> Transferred {
    let app = Sender { source, handle: None, chunk: vec![0; CHUNK], filled: 0..0, closed: false, done: false };
    run(device, 0, seed, app).await.source.finish()
}

async fn receive(device: SharedPort, drain: Drain, seed: u64) -> Transferred {
    let app = Receiver { drain, handle: None, done: false };
    run(device, 1, seed, app).await.drain.finish()
}

/// Runs an end until its application is done, and then for as long as the other may still want an answer.
async fn run<A: Application + Send>(device: SharedPort, end: usize, seed: u64, mut app: A) -> A {
    let start = Instant::now();
    let cidr = IpCidr::new(address(end as u8 + 1), 24);
    let mut stack = Stack::new(device, MACS[end], &[cidr], seed, Duration::ZERO);
    let Ok(()) = link::run(&mut stack, &mut app, || start.elapsed()).await;
    // The numbered flow is read by the stack's device, and the last acknowledgment may be asked for again.
    let mut idle = Idle;
    let rest = link::run(&mut stack, &mut idle, || start.elapsed());
    let end = tokio::time::sleep(LINGER);
    if let Either::Left((Ok(()), _)) = select(std::pin::pin!(rest), std::pin::pin!(end)).await {}
    app
}

/// How long an end answers after its stream was over.
const LINGER: Duration = Duration::from_secs(1);

/// Has nothing to do, and never ends.
struct Idle;

impl Application for Idle {
    fn poll(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}

struct Sender {
    source: Source,
    handle: Option<smoltcp::iface::SocketHandle>,
    chunk: Vec<u8>,
    /// What of the chunk is still to be handed over.
    filled: std::ops::Range<usize>,
    closed: bool,
    done: bool,
}

impl Application for Sender {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(handle) = self.handle else {
            let handle = cx.sockets.add(socket());
            let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
            // It is new, and both addresses are good.
            socket.connect(cx.interface.context(), (address(2), PORT), 40000).expect("a new socket connects");
            self.handle = Some(handle);
            return true;
        };
        let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let mut busy = false;
        while !self.closed && socket.can_send() {
            if self.filled.is_empty() {
                let len = self.source.next(&mut self.chunk);
                if len == 0 {
                    socket.close();
                    self.closed = true;
                    break;
                }
                self.filled = 0..len;
            }
            let Ok(taken) = socket.send_slice(&self.chunk[self.filled.clone()]) else { break };
            self.filled.start += taken;
            busy |= taken > 0;
        }
        // All is acknowledged, or the other end has given up.
        self.done = !socket.is_active() || (self.closed && socket.state() == tcp::State::TimeWait);
        busy
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

struct Receiver {
    drain: Drain,
    handle: Option<smoltcp::iface::SocketHandle>,
    done: bool,
}

impl Application for Receiver {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(handle) = self.handle else {
            let handle = cx.sockets.add(socket());
            cx.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(PORT).expect("a new socket listens");
            self.handle = Some(handle);
            return true;
        };
        let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let mut busy = false;
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                self.drain.take(bytes);
                (bytes.len(), bytes.len())
            });
            busy |= taken.is_ok_and(|taken| taken > 0);
        }
        if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        self.done = socket.state() == tcp::State::Closed;
        busy
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

/// A memory port as the stack's device; numbered frames are counted on the way.
struct SharedPort {
    port: Arc<CountedPort>,
    next: Option<ReceivedFrame>,
    /// The frame that is being sent: as long as the port is full, no other can be.
    outgoing: Vec<u8>,
    stuck: bool,
    flow: Flow,
}

impl SharedPort {
    /// The frame, unless it is a numbered one, which is counted.
    fn for_stack(flow: &Flow, frame: ReceivedFrame) -> Option<ReceivedFrame> {
        if frame.len() >= HEADER && frame[12..HEADER] == NUMBERED {
            flow.received(&frame[HEADER..]);
            return None;
        }
        Some(frame)
    }

    fn has_room(&mut self) -> bool {
        if self.stuck {
            self.stuck = !self.port.send(&self.outgoing);
        }
        !self.stuck
    }
}

impl Link for SharedPort {
    type Error = Infallible;

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn ready(&mut self, timeout: Option<Duration>) -> Result<(), Infallible> {
        let timeout = if self.has_room() { timeout } else { Some(timeout.unwrap_or(RETRY).min(RETRY)) };
        if self.next.is_some() {
            return Ok(());
        }
        let Self { port, next, flow, .. } = self;
        let received = async {
            // A port that is closed gives nothing any more: only timers go on.
            loop {
                match std::future::poll_fn(|cx| port.poll_recv(cx)).await {
                    Some(frame) => *next = Self::for_stack(flow, frame),
                    None => std::future::pending().await,
                }
                if next.is_some() {
                    return;
                }
            }
        };
        match timeout {
            None => received.await,
            Some(timeout) => drop(tokio::time::timeout(timeout, received).await),
        }
        Ok(())
    }
}

impl Device for SharedPort {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _timestamp: smoltcp::time::Instant) -> Option<(Received, Room<'_>)> {
        if !self.has_room() {
            return None;
        }
        let mut next = self.next.take();
        while next.is_none() {
            next = Self::for_stack(&self.flow, self.port.try_recv()?);
        }
        let Self { port, outgoing, stuck, .. } = self;
        Some((Received(next?), Room { port, outgoing, stuck }))
    }

    fn transmit(&mut self, _timestamp: smoltcp::time::Instant) -> Option<Room<'_>> {
        let has_room = self.has_room();
        let Self { port, outgoing, stuck, .. } = self;
        has_room.then_some(Room { port, outgoing, stuck })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A frame from the switch.
struct Received(ReceivedFrame);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame to the switch.
struct Room<'a> {
    port: &'a CountedPort,
    outgoing: &'a mut Vec<u8>,
    stuck: &'a mut bool,
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.outgoing.clear();
        self.outgoing.resize(len, 0);
        let result = f(self.outgoing);
        *self.stuck = !self.port.send(self.outgoing);
        result
    }
}
