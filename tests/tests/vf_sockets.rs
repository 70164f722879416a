//! Virtual functions by their kernel's network interface (`netvsc_async::vf::sockets`), on veth pairs: the guest's end in one
//! network namespace, the other in a peer's, whose kernel speaks TCP and UDP.
//!
//! Needs root; without it says `SKIPPED`, and fails where the variable `CI` is set.
#![cfg(target_os = "linux")]

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use netvsc::LinkState;
use netvsc::checksum::{request, verify};
use netvsc::frame::Headers;
use netvsc::info::MacAddress;
use netvsc::meta::{RxMeta, Verdict};
use netvsc::queue::FrameSink;
use netvsc::vf::{VfQueue, VfSendError};
use netvsc_allocations::{Counting, count_here};
use netvsc_async::vf::sockets::{Method, PacketSettings, SocketVf, XdpSettings};
use netvsc_async::vf::{Adapter, AsyncVfQueue, BoxVf, OpenedVf, VfBackend, VfEvent, VfWatch, VfWish};
use netvsc_tests::netns::Netns;
use netvsc_tests::real;
use sha2::{Digest, Sha256};

/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const MAC: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 0x51, 0x00, 0x01]);
const PEER: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 0x51, 0x00, 0x02]);
/// The guest's end.
const VF: &str = "vfsock0";
/// The other end.
const FAR: &str = "vfsock1";
const GUEST_IP: [u8; 4] = [198, 51, 100, 1];
const PEER_IP: [u8; 4] = [198, 51, 100, 2];
const MTU: u32 = 1500;
const SERIAL: u32 = 7;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A veth pair between two namespaces.
struct Wire {
    guest: Netns,
    peer: Netns,
}

impl Wire {
    fn new(queues: u16) -> Self {
        let [guest, peer] = [(); 2].map(|()| Netns::new().expect("root makes namespaces"));
        let wire = Self { guest, peer };
        wire.plug(queues);
        wire
    }

    fn plug(&self, queues: u16) {
        let rings = format!("numtxqueues {queues} numrxqueues {queues}");
        let guest = &self.guest;
        guest
            .ip(&format!("link add {VF} address {MAC} {rings} type veth peer name {FAR} address {PEER} {rings}"))
            .unwrap();
        guest.enter(|| self.peer.adopt(FAR)).unwrap();
        self.peer.ip(&format!("addr add 198.51.100.2/24 dev {FAR}")).unwrap();
        self.peer.ip(&format!("link set {FAR} up")).unwrap();
        self.peer.ip(&format!("neigh add 198.51.100.1 lladdr {MAC} dev {FAR} nud permanent")).unwrap();
    }

    /// Waits until an interface of the peer's sends: with its link up, the kernel takes a moment to notice.
    fn settle(&self, interface: &str) {
        let since = Instant::now();
        while !self.peer.ip(&format!("-j link show {interface}")).unwrap().contains(r#""operstate":"UP""#) {
            assert!(since.elapsed() < PATIENCE, "{interface} does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a test in the guest's namespace.
    fn run<T: Send, F: Future<Output = T>>(&self, test: impl FnOnce() -> F + Send) -> T {
        self.guest.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await.expect("hangs") })
        })
    }
}

const METHODS: [Method; 2] = [Method::AfPacket, Method::AfXdp];

fn backend(method: Method) -> SocketVf {
    SocketVf::new().serial_of(VF, SERIAL).method(method)
}

async fn event(watch: &mut Box<dyn VfWatch>) -> VfEvent {
    poll_fn(|cx| watch.poll_event(cx)).await
}

/// Waits for one event, passing over links that go up and down on the way.
async fn until(watch: &mut Box<dyn VfWatch>, wanted: VfEvent) {
    while event(watch).await != wanted {}
}

/// The function, with its link up.
async fn open(wire: &Wire, backend: &SocketVf, queues: u16) -> (Box<dyn VfWatch>, OpenedVf) {
    let mut watch = backend.watch(&Adapter::new(MAC)).unwrap();
    assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
    let opened = watch.open(VfWish::new(queues, MTU, false)).await.unwrap();
    if opened.link == LinkState::Down {
        until(&mut watch, VfEvent::Link(LinkState::Up)).await;
    }
    wire.settle(FAR);
    (watch, opened)
}

/// A sink that keeps frames.
#[derive(Default)]
struct Frames {
    all: Vec<(Vec<u8>, RxMeta)>,
    next: Vec<u8>,
}

impl FrameSink for Frames {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.next = vec![0; len];
        Some(&mut self.next)
    }

    fn commit(&mut self, len: usize, meta: RxMeta) {
        self.next.truncate(len);
        self.all.push((std::mem::take(&mut self.next), meta));
    }
}

/// Receives one frame that is UDP or TCP.
async fn receive(queue: &mut BoxVf) -> (Vec<u8>, RxMeta) {
    loop {
        poll_fn(|cx| queue.poll_received(cx)).await;
        let mut sink = Frames::default();
        queue.receive(&mut sink, 1);
        for frame in sink.all {
            if payload(&frame.0).is_some() {
                return frame;
            }
        }
    }
}

fn payload(frame: &[u8]) -> Option<&[u8]> {
    let headers = Headers::parse(frame)?;
    headers.transport_protocol()?;
    frame.get(headers.payload(frame)?..headers.end())
}

/// A UDP datagram from the guest, with its checksums.
fn datagram(to: MacAddress, port: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 42 + data.len()];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&MAC.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..26].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0]);
    frame[16..18].copy_from_slice(&(28 + data.len() as u16).to_be_bytes());
    frame[26..30].copy_from_slice(&GUEST_IP);
    frame[30..34].copy_from_slice(&PEER_IP);
    frame[34..36].copy_from_slice(&4000u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
    frame[42..].copy_from_slice(data);
    let headers = Headers::parse(&frame).unwrap();
    let wanted = request(&frame, &headers).unwrap();
    netvsc::checksum::fill(&mut frame, wanted).unwrap();
    frame
}

/// Sends all that is taken, and waits until it has left.
async fn send_all(queue: &mut BoxVf, frames: impl IntoIterator<Item = Vec<u8>>) {
    for frame in frames {
        while let Err(error) = queue.send(&frame) {
            assert_eq!(error, VfSendError::Full);
            queue.flush();
            poll_fn(|cx| queue.poll_sent(cx, 0)).await;
        }
    }
    queue.flush();
    poll_fn(|cx| queue.poll_sent(cx, 0)).await;
    assert_eq!(queue.outstanding(), 0);
}

fn data(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed * 7 + 1) as u8).collect()
}

/// A socket of the peer's, from which the guest is sent to.
fn peer_socket(wire: &Wire) -> UdpSocket {
    let socket = wire.peer.enter(|| UdpSocket::bind("198.51.100.2:5000")).unwrap();
    socket.connect("198.51.100.1:4000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

macro_rules! privileged {
    () => {
        match real::privileged(&["ip"]) {
            Ok(lock) => lock,
            Err(why) => return real::skip(&why),
        }
    };
}

#[test]
fn frames_pass_both_ways_byte_by_byte_with_right_checksums() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            for len in [1, 2, 17, 18, 19, 100, 999, 1471, 1472] {
                // The kernel leaves the checksum of what it sends on a veth to be computed.
                let sent = data(len, 1);
                socket.send(&sent).unwrap();
                let (frame, meta) = receive(queue).await;
                assert_eq!(payload(&frame), Some(&sent[..]), "{len}");
                let verdict = verify(&frame);
                assert_eq!((verdict.ip, verdict.transport), (Verdict::Good, Verdict::Good), "{len}");
                assert_eq!(meta.checksum.transport, Verdict::Good, "{len}");
                assert_eq!(meta.vlan, None);

                let sent = data(len, 2);
                send_all(queue, [datagram(PEER, 5000, &sent)]).await;
                let mut received = [0; 2000];
                let received_len = socket.recv(&mut received).unwrap();
                assert_eq!(received[..received_len], sent[..], "{len}");
            }
        });
        assert!(wire.peer.checksum_errors().unwrap().values().all(|errors| *errors == 0));
    }
}

#[test]
fn what_the_kernel_reads_late_is_not_overwritten_by_what_is_sent_next() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    let socket = peer_socket(&wire);
    wire.run(|| async {
        let settings = {
            let mut settings = PacketSettings::default();
            settings.send_slots = 1;
            settings.send_slot_bytes = 30_000;
            settings
        };
        let (_watch, mut opened) = open(&wire, &backend(Method::AfPacket).packet(settings), 1).await;
        let queue = &mut opened.queues[0];
        // More than the ring has slots, none of it read before all is sent; no more than the socket keeps.
        let frames = queue.room() + 10;
        assert!(frames < 60);
        for number in 0..frames {
            send_all(queue, [datagram(PEER, 5000, &data(1000, number))]).await;
        }
        for number in 0..frames {
            let mut received = [0; 2000];
            let len = socket.recv(&mut received).unwrap();
            assert_eq!(received[..len], data(1000, number)[..], "{number}");
        }
    });
}

#[test]
fn a_full_ring_says_so_and_empties() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        wire.run(|| async {
            let mut settings = PacketSettings::default();
            settings.send_slots = 1;
            let mut xdp = XdpSettings::default();
            xdp.frames = 64;
            let (_watch, mut opened) = open(&wire, &backend(method).packet(settings).xdp(xdp), 1).await;
            let queue = &mut opened.queues[0];
            let room = queue.room();
            assert!(room > 10);
            let frame = datagram(PEER, 5000, &data(64, 0));
            for round in 0..3 {
                for taken in 0..room {
                    assert_eq!(queue.room(), room - taken);
                    queue.send(&frame).unwrap();
                }
                assert_eq!(queue.send(&frame), Err(VfSendError::Full), "{round}");
                assert_eq!(queue.room(), 0);
                queue.flush();
                poll_fn(|cx| queue.poll_sent(cx, 0)).await;
                assert_eq!((queue.outstanding(), queue.room()), (0, room));
            }
            let long = vec![0; MTU as usize + 19];
            assert_eq!(queue.send(&long), Err(VfSendError::TooLong { len: 1519, limit: 1518 }));
        });
        let received = wire.peer.link_counters(FAR).unwrap().rx_packets;
        assert!(received >= 192, "{received}");
    }
}

#[test]
fn tags_travel_beside_the_frame() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    wire.run(|| async {
        let (_watch, mut opened) = open(&wire, &backend(Method::AfPacket), 1).await;
        let queue = &mut opened.queues[0];
        let frame = datagram(MAC, 4000, &data(300, 3));
        let tagged = |tags: &[u8]| {
            let mut tagged = frame.clone();
            tagged.splice(12..12, tags.iter().copied());
            tagged
        };
        // 802.1Q; one behind another; 802.1ad, which has no place beside a frame.
        let customer = [0x81, 0, 0x60, 5];
        let twice = [0x81, 0, 0, 6, 0x81, 0, 0, 7];
        let service = [0x88, 0xA8, 0, 8];
        // The kernel of the peer makes such frames only with a module; a function at its end sends anything.
        let sent = [tagged(&customer), tagged(&twice), tagged(&service)];
        wire.peer.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut watch = SocketVf::new()
                    .virtual_interfaces(true)
                    .method(Method::AfPacket)
                    .watch(&Adapter::new(PEER))
                    .unwrap();
                assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
                let mut opened = watch.open(VfWish::new(1, MTU, false)).await.unwrap();
                assert_eq!(opened.link, LinkState::Up);
                send_all(&mut opened.queues[0], sent).await;
            });
        });
        let expected = [(Some(0x6005), frame.clone()), (Some(6), tagged(&twice[4..])), (None, tagged(&service))];
        for (tci, expected) in expected {
            let (frame, meta) = receive(queue).await;
            assert_eq!((meta.vlan.map(|vlan| vlan.tci()), &frame), (tci, &expected));
        }
    });
}

#[test]
fn each_flow_has_one_of_several_queues() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(4);
        let sockets: Vec<UdpSocket> =
            wire.peer.enter(|| (0..32).map(|_| UdpSocket::bind("198.51.100.2:0").unwrap()).collect());
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 4).await;
            assert_eq!(opened.queues.len(), 4);
            let rounds = 4;
            for _ in 0..rounds {
                for socket in &sockets {
                    socket.send_to(&data(40, 0), "198.51.100.1:4000").unwrap();
                }
            }
            let mut seen = vec![Vec::new(); 4];
            while seen.iter().map(Vec::len).sum::<usize>() < sockets.len() * rounds {
                let queue = poll_fn(|cx| {
                    let ready = opened.queues.iter_mut().position(|queue| queue.poll_received(cx).is_ready());
                    ready.map_or(Poll::Pending, Poll::Ready)
                });
                let queue = queue.await;
                let mut sink = Frames::default();
                opened.queues[queue].receive(&mut sink, 64);
                for (frame, _) in sink.all {
                    if payload(&frame).is_some_and(|payload| payload == data(40, 0)) {
                        seen[queue].push([frame[34], frame[35]]);
                    }
                }
            }
            assert!(seen.iter().filter(|ports| !ports.is_empty()).count() > 1, "{seen:?}");
            for socket in &sockets {
                let port = socket.local_addr().unwrap().port().to_be_bytes();
                let times: Vec<usize> =
                    seen.iter().map(|ports| ports.iter().filter(|seen| **seen == port).count()).collect();
                assert!(times.iter().all(|times| [0, rounds].contains(times)), "{times:?}");
                assert_eq!(times.iter().sum::<usize>(), rounds, "nothing comes twice");
            }
        });
    }
}

#[test]
fn frames_for_others_come_only_if_wanted() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        wire.peer.ip(&format!("neigh add 198.51.100.3 lladdr 00:0d:3a:51:00:03 dev {FAR} nud permanent")).unwrap();
        let socket = peer_socket(&wire);
        let other = wire.peer.enter(|| UdpSocket::bind("198.51.100.2:5001")).unwrap();
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            for promiscuous in [false, true, false] {
                opened.device.set_promiscuous(promiscuous).await.unwrap();
                let mut seen = Vec::new();
                other.send_to(b"other", "198.51.100.3:4000").unwrap();
                if promiscuous {
                    // Waited for: sent from different processors, the next frame could overtake it.
                    let (frame, _) = receive(&mut opened.queues[0]).await;
                    seen.push(payload(&frame).unwrap().to_vec());
                }
                socket.send(b"ours").unwrap();
                while seen.last().is_none_or(|last| last != b"ours") {
                    let (frame, _) = receive(&mut opened.queues[0]).await;
                    seen.push(payload(&frame).unwrap().to_vec());
                }
                let expected: &[&[u8]] = if promiscuous { &[b"other", b"ours"] } else { &[b"ours"] };
                assert_eq!(seen, expected);
            }
        });
    }
}

#[test]
fn a_link_that_goes_down_is_told_of_and_works_again() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (mut watch, mut opened) = open(&wire, &backend(method), 1).await;
            let frame = datagram(PEER, 5000, &data(64, 9));
            for _ in 0..2 {
                wire.peer.ip(&format!("link set {FAR} down")).unwrap();
                until(&mut watch, VfEvent::Link(LinkState::Down)).await;
                let queue = &mut opened.queues[0];
                assert_eq!((queue.send(&frame), queue.room()), (Err(VfSendError::NotReady), 0));
                assert_eq!(queue.outstanding(), 0);
                wire.peer.ip(&format!("link set {FAR} up")).unwrap();
                until(&mut watch, VfEvent::Link(LinkState::Up)).await;
                wire.settle(FAR);
                send_all(queue, [frame.clone()]).await;
                let mut received = [0; 100];
                assert_eq!(socket.recv(&mut received).unwrap(), 64);
                // Neighbours were forgotten with the link.
                wire.peer.ip(&format!("neigh replace 198.51.100.1 lladdr {MAC} dev {FAR} nud permanent")).unwrap();
                socket.send(&data(64, 8)).unwrap();
                assert_eq!(payload(&receive(queue).await.0), Some(&data(64, 8)[..]));
            }
        });
    }
}

#[test]
fn an_interface_that_is_deleted_under_load_ends_in_a_loss_and_not_in_a_hang() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (mut watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            let frame = datagram(PEER, 5000, &data(1000, 1));
            let deleted = std::thread::spawn({
                let guest = wire.guest.clone();
                move || guest.ip(&format!("link del {VF}"))
            });
            let mut sent = 0;
            let gone = loop {
                let _ = socket.send(&data(100, 1));
                match queue.send(&frame) {
                    Ok(()) => sent += 1,
                    Err(VfSendError::Full) => queue.flush(),
                    Err(VfSendError::NotReady) => break queue.outstanding(),
                    Err(error) => panic!("{error}"),
                }
                if sent % 16 == 0 {
                    queue.flush();
                }
                tokio::task::yield_now().await;
            };
            deleted.join().unwrap().unwrap();
            until(&mut watch, VfEvent::Gone).await;
            // What was inside stays inside, and nobody waits for it.
            assert_eq!(queue.send(&frame), Err(VfSendError::NotReady));
            queue.flush();
            assert!(queue.outstanding() <= gone);
            poll_fn(|cx| queue.poll_sent(cx, 0)).await;
            // What was received can be read all the same.
            let mut sink = Frames::default();
            while queue.has_received() {
                queue.receive(&mut sink, 64);
            }
            assert_eq!(queue.receive(&mut sink, 64), 0);
            opened.device.close();
            assert!(opened.device.set_mtu(MTU).await.is_err());
            drop(opened);

            wire.plug(1);
            assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
            let mut opened = watch.open(VfWish::new(1, MTU, false)).await.unwrap();
            if opened.link == LinkState::Down {
                until(&mut watch, VfEvent::Link(LinkState::Up)).await;
            }
            send_all(&mut opened.queues[0], [frame]).await;
        });
    }
}

#[test]
fn the_interface_is_found_by_its_number_and_its_address_and_set() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    wire.run(|| async {
        // A virtual interface is none, unless it is said to be.
        let mut watch = SocketVf::new().watch(&Adapter::new(MAC)).unwrap();
        assert!(futures::poll!(poll_fn(|cx| watch.poll_event(cx))).is_pending());
        let mut watch = SocketVf::new().virtual_interfaces(true).watch(&Adapter::new(MAC)).unwrap();
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
        watch.find(99);
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
        let mut watch = backend(Method::AfPacket).watch(&Adapter::new(PEER)).unwrap();
        assert!(futures::poll!(poll_fn(|cx| watch.poll_event(cx))).is_pending());

        let mut watch = backend(Method::AfPacket).watch(&Adapter::new(MAC)).unwrap();
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
        watch.find(SERIAL + 1);
        assert!(futures::poll!(poll_fn(|cx| watch.poll_event(cx))).is_pending());
        watch.find(SERIAL);
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
        // One that serves another is not there for us.
        wire.guest.ip("link add vfsockbr type bridge").unwrap();
        wire.guest.ip(&format!("link set {VF} master vfsockbr")).unwrap();
        until(&mut watch, VfEvent::Gone).await;
        wire.guest.ip(&format!("link set {VF} nomaster")).unwrap();
        until(&mut watch, VfEvent::Arrived { serial: Some(SERIAL) }).await;

        wire.guest.ip(&format!("link set {VF} mtu 1400")).unwrap();
        let opened = watch.open(VfWish::new(1, 1450, false)).await.unwrap();
        let shown = || wire.guest.ip(&format!("link show {VF}")).unwrap();
        assert!(shown().contains("mtu 1450"), "{}", shown());
        assert!(shown().contains("UP"), "{}", shown());
        opened.device.set_mtu(1480).await.unwrap();
        assert!(shown().contains("mtu 1480"), "{}", shown());
        assert!(opened.device.set_mtu(1_000_000).await.is_err());
        assert!(shown().contains("mtu 1480"), "{}", shown());
        assert_eq!(opened.device.name(), VF);
        opened.device.close();
        assert!(shown().contains("mtu 1400"), "{}", shown());
    });
}

/// A sink of one buffer.
struct Last {
    buffer: [u8; 2048],
    frames: u64,
}

impl FrameSink for Last {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(..len)
    }

    fn commit(&mut self, _: usize, _: RxMeta) {
        self.frames += 1;
    }
}

#[test]
fn nothing_is_allocated_for_a_frame() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            let (frame, other) = (datagram(PEER, 5000, &data(1000, 1)), data(1400, 2));
            let mut sink = Last { buffer: [0; 2048], frames: 0 };
            let mut before = 0;
            for round in 0..300 {
                if round == 50 {
                    before = count_here();
                }
                socket.send(&other).unwrap();
                queue.send(&frame).unwrap();
                queue.flush();
                poll_fn(|cx| queue.poll_received(cx)).await;
                queue.receive(&mut sink, 32);
                while queue.outstanding() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            assert_eq!(count_here() - before, 0, "{method:?}");
            assert!(sink.frames >= 250, "{method:?}: {}", sink.frames);
        });
    }
}

/// Between the kernels of two peers, frames are passed on from the function of one to that of the other.
#[test]
fn the_kernels_tcp_passes_through_two_functions_unharmed() {
    let _lock = privileged!();
    for method in METHODS {
        let wires = [Wire::new(1), Wire::new(1)];
        // Each is the other's neighbour, by the address of the function on its own wire.
        let far = &wires[1].peer;
        far.ip(&format!("addr del 198.51.100.2/24 dev {FAR}")).unwrap();
        far.ip(&format!("addr add 198.51.100.1/24 dev {FAR}")).unwrap();
        far.ip(&format!("neigh add 198.51.100.2 lladdr {MAC} dev {FAR} nud permanent")).unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        // Each function lives in its own namespace, and so does its thread; frames cross by a channel.
        let (to_far, from_near) = tokio::sync::mpsc::channel(1024);
        let (to_near, from_far) = tokio::sync::mpsc::channel(1024);
        let cut: u64 = std::thread::scope(|scope| {
            let relays: Vec<_> = [(to_far, from_far), (to_near, from_near)]
                .into_iter()
                .zip(&wires)
                .map(|((to, from), wire)| {
                    let stopped = stopped.clone();
                    scope.spawn(move || wire.run(|| relay(wire, method, to, from, stopped)))
                })
                .collect();
            let total = 6 << 20;
            let listener = far.enter(|| TcpListener::bind("198.51.100.1:5001")).unwrap();
            let far_end = scope.spawn(move || both_ways(listener.accept().unwrap().0, total, 1, 2));
            let near = wires[0].peer.enter(|| {
                let address: SocketAddr = "198.51.100.1:5001".parse().unwrap();
                TcpStream::connect_timeout(&address, PATIENCE).unwrap()
            });
            both_ways(near, total, 2, 1);
            far_end.join().unwrap();
            stop.send_replace(true);
            relays.into_iter().map(|relay| relay.join().unwrap()).sum()
        });
        for wire in &wires {
            assert!(wire.peer.checksum_errors().unwrap().values().all(|errors| *errors == 0));
        }
        let sent: u64 = wires.iter().map(|wire| wire.peer.link_counters(FAR).unwrap().tx_packets).sum();
        assert!(method != Method::AfPacket || cut > sent, "large segments were cut: {sent} became {cut}");
    }
}

/// Passes frames on; says how many were received.
async fn relay(
    wire: &Wire,
    method: Method,
    to: tokio::sync::mpsc::Sender<Vec<u8>>,
    mut from: tokio::sync::mpsc::Receiver<Vec<u8>>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> u64 {
    let (_watch, mut opened) = open(wire, &backend(method), 1).await;
    let queue = &mut opened.queues[0];
    let mut received = 0;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return received,
            frame = from.recv() => {
                let Some(mut frame) = frame else { return received };
                frame[..6].copy_from_slice(&PEER.0);
                frame[6..12].copy_from_slice(&MAC.0);
                send_all(queue, [frame]).await;
            }
            () = poll_fn(|cx| queue.poll_received(cx)) => {
                let mut sink = Frames::default();
                received += queue.receive(&mut sink, 32) as u64;
                for (frame, _) in sink.all {
                    assert!(frame.len() <= 1514, "{}", frame.len());
                    if payload(&frame).is_some() {
                        assert_ne!(verify(&frame).transport, Verdict::Bad);
                        // What finds no room is lost, as on any network: were it waited for, both sides might wait for each
                        // other. The other side may be over already, too.
                        let _ = to.try_send(frame);
                    }
                }
            }
        }
    }
}

/// Sends bytes and receives as many, at the same time.
fn both_ways(stream: TcpStream, total: usize, send: usize, receive: usize) {
    let stream = Arc::new(stream);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let chunk = |seed: usize, at: usize| data(1 << 16, seed + at / (1 << 16));
    std::thread::scope(|scope| {
        let sender = Arc::clone(&stream);
        scope.spawn(move || {
            for at in (0..total).step_by(1 << 16) {
                (&*sender).write_all(&chunk(send, at)).unwrap();
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&*stream).read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), total);
        let expected: Vec<u8> = (0..total).step_by(1 << 16).flat_map(|at| chunk(receive, at)).collect();
        assert_eq!(Sha256::digest(&received), Sha256::digest(&expected));
    });
}
