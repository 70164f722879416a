//! Fifty changes of sections, channels and MTU while TCP runs over the adapter, both ways: service goes on after each, every
//! byte arrives and is what it has to be, and nothing is left or complained of.
//!
//! | file | a TCP stack runs | its peer |
//! |---|---|---|
//! | `main` | on the adapter | another on the far end of the simulated switch, in paused time, as any user |
//! | `kernel` | on the adapter | the kernel's, in a network namespace with a TAP interface that is on the switch |
//! | `forwarded` | in the kernel, in a network namespace | in another: the adapter is one of two of a forwarder; iperf3 is a second generator |
//!
//! Namespaces need root: without, a test says `SKIPPED`, and fails where the variable `CI` is set.
//!
//! What is on its way while the adapter is down may be lost, as with any adapter: TCP repeats it. The next change is
//! made when service was seen to go on, so that TCP's patience with lost repetitions is not what is tested.

#[cfg(target_os = "linux")]
mod forwarded;
#[cfg(target_os = "linux")]
mod kernel;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netvsc_async::{Nic, Queue, RingParams, RxHalf, TxMeta};
use netvsc_host::{Host, NicOptions};
use netvsc_tests::frames::FAR;
use netvsc_tests::rig;
use smoltcp::iface::{Config, Context, Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use tokio::task::JoinHandle;
use vmbus::mem::{MemBus, MemChannel};

const CHANGES: usize = 50;
/// Most queues; the changes take as many and fewer.
const QUEUES: u16 = 16;
const PORT: u16 = 7000;
/// The last byte of the addresses in 198.51.100.0/24: of the adapter, and of its peer.
const OURS: u8 = 1;
const PEER: u8 = 2;
/// Bytes that a connection buffers, each way.
const BUFFER: usize = 1 << 16;
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Looks at the stack without a pause. Then a millisecond passes: with traffic that never pauses, paused time would stand still.
const LOOKS: usize = 8;

/// Change `step`: of sections, channels and MTU in turn, no two alike. The queues that came with it.
async fn change(nic: &Nic<MemBus>, step: usize) -> Vec<Queue<MemChannel>> {
    match step % 3 {
        0 => {
            let wish = RingParams { receive_sections: 100 + 97 * step as u32, send_sections: 20 + 31 * step as u32 };
            let came = nic.set_ring(wish).await.unwrap_or_else(|error| panic!("change {step}: {error}"));
            assert_eq!(came.send_sections, wish.send_sections);
            assert!(came.receive_sections.abs_diff(wish.receive_sections) <= 3, "{wish:?} {came:?}");
            Vec::new()
        }
        1 => {
            let queues = [4, 1, 3, 2, 8, 5][step / 3 % 6];
            let added = nic.set_channels(queues).await.unwrap_or_else(|error| panic!("change {step}: {error}"));
            assert_eq!(nic.info().queues, queues);
            added
        }
        _ => {
            let mtu = 1500 + 64 * step as u32;
            assert_eq!(nic.set_mtu(mtu).await, Ok(mtu), "change {step}");
            Vec::new()
        }
    }
}

/// What the driver and the host say at the end.
async fn assert_sound(nic: Nic<MemBus>, host: &Host) {
    let stats = nic.queue_stats();
    let dropped: u64 = stats.iter().map(|queue| queue.extra.tx_dropped + queue.extra.rx_dropped).sum();
    assert_eq!(dropped, 0, "{stats:?}");
    let report = nic.close().await.expect("closes");
    assert!(report.is_clean(), "{report:?}");
    // The host has its turn after the driver.
    let until = tokio::time::Instant::now() + PATIENCE;
    while !host.report().is_clean() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    host.assert_clean();
}

/// Byte `at` of what is sent, either way.
fn content(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29) as u8
}

/// Fills `bytes` with the content from `at`.
fn fill(bytes: &mut [u8], at: u64) {
    for (byte, at) in bytes.iter_mut().zip(at..) {
        *byte = content(at);
    }
}

/// # Panics
/// If `bytes` are not the content from `at`.
fn check(bytes: &[u8], at: u64) {
    for (byte, at) in bytes.iter().zip(at..) {
        assert_eq!(*byte, content(at), "byte {at}");
    }
}

/// One end of the connection: sends until it is told to stop, and checks what it receives.
#[derive(Debug, Default)]
struct End {
    sent: AtomicU64,
    arrived: AtomicU64,
    stop: AtomicBool,
}

impl End {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Does what a socket has room and bytes for. Whether the connection is over.
    fn work(&self, socket: &mut tcp::Socket<'_>) -> bool {
        while socket.can_recv() {
            let take = |bytes: &mut [u8]| {
                check(bytes, self.arrived());
                (bytes.len(), bytes.len())
            };
            let taken = socket.recv(take).expect("there is something");
            self.arrived.fetch_add(taken as u64, Ordering::Relaxed);
        }
        while socket.can_send() && !self.stops() {
            let give = |bytes: &mut [u8]| {
                fill(bytes, self.sent());
                (bytes.len(), bytes.len())
            };
            let given = socket.send(give).expect("room");
            self.sent.fetch_add(given as u64, Ordering::Relaxed);
        }
        if self.stops() && socket.may_send() {
            socket.close();
        }
        let over = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
        assert!(!over || self.stops(), "the connection broke");
        over
    }
}

/// Everything that one end sent arrived at the other.
fn assert_complete(ends: [&End; 2]) {
    let [a, b] = ends;
    assert_eq!((a.sent(), b.sent()), (b.arrived(), a.arrived()));
}

/// Frames that wait for a stack, from however many queues.
#[derive(Debug, Default)]
struct Inbox(Mutex<VecDeque<Vec<u8>>>);

impl Inbox {
    fn push(&self, frame: &[u8]) {
        self.0.lock().expect("no panic").push_back(frame.to_vec());
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.0.lock().expect("no panic").pop_front()
    }

    /// Takes what a queue receives, until it ends.
    fn read(self: &Arc<Self>, mut rx: RxHalf<MemChannel>) {
        let inbox = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(burst) = rx.recv_burst().await.expect("sound") {
                burst.iter().for_each(|frame| inbox.push(frame.bytes));
            }
        });
    }
}

/// A stack's device: an inbox, and something that takes frames (`false`: not now).
struct Wire<S> {
    inbox: Arc<Inbox>,
    outbox: VecDeque<Vec<u8>>,
    send: S,
}

impl<S: FnMut(&[u8]) -> bool> Wire<S> {
    fn new(inbox: &Arc<Inbox>, send: S) -> Self {
        Self { inbox: Arc::clone(inbox), outbox: VecDeque::new(), send }
    }

    fn flush(&mut self) {
        while self.outbox.front().is_some_and(|frame| (self.send)(frame)) {
            self.outbox.pop_front();
        }
    }
}

struct Received(Vec<u8>);
struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

impl phy::TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let mut frame = vec![0; len];
        let result = work(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl<S> Device for Wire<S> {
    type RxToken<'a>
        = Received
    where
        S: 'a;
    type TxToken<'a>
        = Sent<'a>
    where
        S: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        Some((Received(self.inbox.pop()?), Sent(&mut self.outbox)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        (self.outbox.len() < 64).then_some(Sent(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
enum Role {
    Listens,
    Connects,
}

impl Role {
    fn begin(self, socket: &mut tcp::Socket<'_>, context: &mut Context) {
        match self {
            Self::Listens => socket.listen(PORT).expect("a port"),
            Self::Connects => {
                socket.connect(context, (address(OURS), PORT), 50_000).expect("an address");
            }
        }
    }
}

fn address(host: u8) -> IpAddress {
    IpAddress::v4(198, 51, 100, host)
}

/// Runs a stack with one connection until it is over.
async fn run<S: FnMut(&[u8]) -> bool>(mut wire: Wire<S>, mac: [u8; 6], host: u8, role: Role, end: Arc<End>) {
    let epoch = tokio::time::Instant::now();
    let now = || Instant::from_micros(epoch.elapsed().as_micros() as i64);
    let mac = HardwareAddress::Ethernet(EthernetAddress(mac));
    let mut interface = Interface::new(Config::new(mac), &mut wire, now());
    interface.update_ip_addrs(|list| list.push(IpCidr::new(address(host), 24)).expect("room"));
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
    role.begin(sockets.get_mut(handle), interface.context());
    for look in 1.. {
        interface.poll(now(), &mut wire, &mut sockets);
        let over = end.work(sockets.get_mut(handle));
        interface.poll(now(), &mut wire, &mut sockets);
        wire.flush();
        if over && wire.outbox.is_empty() {
            return;
        }
        if look % LOOKS == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// The adapter, with a stack that listens.
struct Ours {
    nic: Nic<MemBus>,
    inbox: Arc<Inbox>,
    end: Arc<End>,
    stack: JoinHandle<()>,
}

impl Ours {
    /// On `host`, with one queue so far.
    async fn up(host: &Host) -> Self {
        let bus = MemBus::new(host.add_nic(NicOptions::new().queues(QUEUES)));
        host.spawn();
        let (nic, mut queues) = Nic::builder().queues(1).open_on(bus).await.expect("up");
        let (inbox, end) = (Arc::new(Inbox::default()), Arc::new(End::default()));
        let Queue { rx, mut tx, .. } = queues.remove(0);
        inbox.read(rx);
        let send = move |frame: &[u8]| tx.try_send(frame, &TxMeta::default()).and_then(|()| tx.flush()).is_ok();
        let wire = Wire::new(&inbox, send);
        let stack = tokio::spawn(run(wire, nic.info().mac.0, OURS, Role::Listens, Arc::clone(&end)));
        Self { nic, inbox, end, stack }
    }

    /// Makes all changes, each after `bytes` more have arrived at either end; `theirs` is the peer's.
    async fn change_all(&self, theirs: &End, bytes: u64) {
        let ends = [&*self.end, theirs];
        for step in 0..CHANGES {
            let goals = ends.map(|end| end.arrived() + bytes);
            let until = tokio::time::Instant::now() + PATIENCE;
            while ends.iter().zip(goals).any(|(end, goal)| end.arrived() < goal) {
                assert!(tokio::time::Instant::now() < until, "no service before change {step}: {ends:?}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for Queue { rx, .. } in change(&self.nic, step).await {
                self.inbox.read(rx);
            }
        }
    }

    /// Once the connection was closed at both ends: every byte arrived, and nothing is left or complained of.
    async fn finish(self, theirs: &End, host: &Host) {
        let Self { nic, end, stack, .. } = self;
        stack.await.expect("the adapter's stack");
        assert_complete([&end, theirs]);
        assert_sound(nic, host).await;
        println!("{CHANGES} changes, {} MiB each way or more", end.arrived().min(theirs.arrived()) >> 20);
    }
}

#[test]
fn two_stacks_in_one_process() {
    /// Between two changes, each way.
    const BYTES: u64 = 256 << 10;

    rig::paused(async {
        let host = Host::builder().build();
        let far = Arc::new(host.memory_pair());
        let (ours, theirs) = (Ours::up(&host).await, Arc::new(End::default()));

        let far_inbox = Arc::new(Inbox::default());
        let reader = tokio::spawn({
            let (far, inbox) = (Arc::clone(&far), Arc::clone(&far_inbox));
            async move {
                while let Some(frame) = far.recv().await {
                    inbox.push(&frame);
                }
            }
        });
        let wire = Wire::new(&far_inbox, move |frame: &[u8]| far.send(frame).is_ok());
        let client = tokio::spawn(run(wire, FAR, PEER, Role::Connects, Arc::clone(&theirs)));

        ours.change_all(&theirs, BYTES).await;
        ours.end.stop();
        theirs.stop();
        client.await.expect("the far end's stack");
        let counters = host.report().nics[0].counters;
        assert!(counters.rx_filtered > CHANGES as u64, "no traffic while the adapter was down: {counters:?}");
        assert_eq!(counters.rx_dropped, 0, "{counters:?}");
        ours.finish(&theirs, &host).await;
        reader.abort();
    });
}
