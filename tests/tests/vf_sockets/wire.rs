//! A veth pair, its virtual function, and frames.

use std::future::{Future, poll_fn};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use netvsc::LinkState;
use netvsc::checksum::request;
use netvsc::frame::Headers;
use netvsc::info::MacAddress;
use netvsc::meta::RxMeta;
use netvsc::queue::FrameSink;
use netvsc::vf::{VfQueue, VfSendError};
use netvsc_async::vf::sockets::{Method, SocketVf};
use netvsc_async::vf::{Adapter, AsyncVfQueue, BoxVf, OpenedVf, VfBackend, VfEvent, VfWatch, VfWish};
use netvsc_tests::netns::Netns;

/// After so long something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MAC: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 0x51, 0x00, 0x01]);
pub(crate) const PEER: MacAddress = MacAddress([0x00, 0x0D, 0x3A, 0x51, 0x00, 0x02]);
/// The guest's end.
pub(crate) const VF: &str = "vfsock0";
/// The other end.
pub(crate) const FAR: &str = "vfsock1";
pub(crate) const GUEST_IP: [u8; 4] = [198, 51, 100, 1];
pub(crate) const PEER_IP: [u8; 4] = [198, 51, 100, 2];
pub(crate) const MTU: u32 = 1500;
pub(crate) const SERIAL: u32 = 7;

/// A veth pair between two namespaces.
pub(crate) struct Wire {
    pub(crate) guest: Netns,
    pub(crate) peer: Netns,
}

impl Wire {
    pub(crate) fn new(queues: u16) -> Self {
        let [guest, peer] = [(); 2].map(|()| Netns::new().expect("root makes namespaces"));
        let wire = Self { guest, peer };
        wire.plug(queues);
        wire
    }

    pub(crate) fn plug(&self, queues: u16) {
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

    /// The peer's kernel says nothing by itself: what it sends is what it is told to.
    pub(crate) fn hush(&self) {
        let setting = format!("/proc/sys/net/ipv6/conf/{FAR}/disable_ipv6");
        // A kernel that has no IPv6 has no such file.
        self.peer.enter(|| {
            if let Err(error) = std::fs::write(setting, "1") {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            }
        });
    }

    /// Waits until an interface of the peer's sends: with its link up, the kernel takes a moment to notice.
    pub(crate) fn settle(&self, interface: &str) {
        let since = Instant::now();
        while !self.peer.ip(&format!("-j link show {interface}")).unwrap().contains(r#""operstate":"UP""#) {
            assert!(since.elapsed() < PATIENCE, "{interface} does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a test in the guest's namespace.
    pub(crate) fn run<T: Send, F: Future<Output = T>>(&self, test: impl FnOnce() -> F + Send) -> T {
        self.run_on(512, test)
    }

    /// The same, with a single thread for what may wait.
    pub(crate) fn run_with_one_that_waits<T: Send, F: Future<Output = T>>(&self, test: impl FnOnce() -> F + Send) -> T {
        self.run_on(1, test)
    }

    fn run_on<T: Send, F: Future<Output = T>>(&self, waiting: usize, test: impl FnOnce() -> F + Send) -> T {
        self.guest.enter(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().max_blocking_threads(waiting).build().unwrap();
            runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await.expect("hangs") })
        })
    }
}

pub(crate) const METHODS: [Method; 2] = [Method::AfPacket, Method::AfXdp];

pub(crate) fn backend(method: Method) -> SocketVf {
    SocketVf::new().serial_of(VF, SERIAL).method(method)
}

pub(crate) async fn event(watch: &mut Box<dyn VfWatch>) -> VfEvent {
    poll_fn(|cx| watch.poll_event(cx)).await
}

/// Waits for what happens elsewhere.
pub(crate) async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < PATIENCE, "waited for {what} in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Nothing happens. What would happen does so in another thread, of which nothing tells that it found nothing.
pub(crate) async fn nothing(watch: &mut Box<dyn VfWatch>) {
    let event = tokio::time::timeout(Duration::from_millis(200), event(watch)).await;
    assert!(event.is_err(), "{event:?}");
}

/// Waits for one event, passing over links that go up and down on the way.
pub(crate) async fn until(watch: &mut Box<dyn VfWatch>, wanted: VfEvent) {
    while event(watch).await != wanted {}
}

/// The function, with its link up.
pub(crate) async fn open(wire: &Wire, backend: &SocketVf, queues: u16) -> (Box<dyn VfWatch>, OpenedVf) {
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
pub(crate) struct Frames {
    pub(crate) all: Vec<(Vec<u8>, RxMeta)>,
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
pub(crate) async fn receive(queue: &mut BoxVf) -> (Vec<u8>, RxMeta) {
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

pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    let headers = Headers::parse(frame)?;
    headers.transport_protocol()?;
    frame.get(headers.payload(frame)?..headers.end())
}

/// A UDP datagram from the guest, with its checksums.
pub(crate) fn datagram(to: MacAddress, port: u16, data: &[u8]) -> Vec<u8> {
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
pub(crate) async fn send_all(queue: &mut BoxVf, frames: impl IntoIterator<Item = Vec<u8>>) {
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

pub(crate) fn data(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed * 7 + 1) as u8).collect()
}

/// A socket of the peer's, from which the guest is sent to.
pub(crate) fn peer_socket(wire: &Wire) -> UdpSocket {
    let socket = wire.peer.enter(|| UdpSocket::bind("198.51.100.2:5000")).unwrap();
    socket.connect("198.51.100.1:4000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
