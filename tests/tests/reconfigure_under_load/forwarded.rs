//! Two streams of the kernel's TCP between two namespaces, through a forwarder whose adapters are changed in turn: one whose
//! content is hashed at both ends, and one of iperf3 the other way.
//!
//! ```text
//!  namespace ── TAP ── host ── adapter ── this test ── adapter ── host ── TAP ── namespace
//!      content ───────────────────────────────────────────────────────────────────►
//!      ◄──────────────────────────────────────────────────────────────────── iperf3
//! ```
//!
//! Each change is made once so many more bytes have passed both ways. What passes is bounded until it is made, but for the
//! acknowledgments of the stream the other way: however slow the machine, both streams go on beyond the last change.

use std::net::{IpAddr, Ipv4Addr};

use netvsc::PacketFilter;
use netvsc_async::{Error, TxHalf};
use netvsc_host::port::{TapConfig, TapPort};
use netvsc_host::switch::SwitchConfig;
use netvsc_tests::netns::{Netns, Program};
use netvsc_tests::real;
use netvsc_tests::transfer::{Protocol, Transfer};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::*;

const TAPS: [&str; 2] = ["nvrecl", "nvrecr"];
/// Bytes on the wire between two changes, each way.
const BYTES: u64 = 1 << 20;
/// How many more may pass until the change is made.
const AHEAD: u64 = 2 * BYTES;
/// Bytes of each stream: there is something left after the last change.
const CONTENT: u64 = (CHANGES as u64 + 2) * BYTES + AHEAD;
/// Longest frame that always passes: an acknowledgment, with whatever options.
const SHORT: usize = 128;
/// Of the namespaces' interfaces.
const MTU: u32 = 1500;

/// Frames that go from one adapter to the other.
#[derive(Debug)]
struct Way {
    frames: Mutex<VecDeque<(Vec<u8>, TxMeta)>>,
    came: Notify,
    /// Bytes that have passed.
    passed: AtomicU64,
    /// Bytes that may.
    may_pass: watch::Sender<u64>,
}

impl Way {
    fn new() -> Arc<Self> {
        let (frames, came, passed) = Default::default();
        Arc::new(Self { frames, came, passed, may_pass: watch::Sender::new(0) })
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Takes what a queue receives, until it ends.
    fn read(self: &Arc<Self>, mut rx: RxHalf<MemChannel>) {
        let way = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(burst) = rx.recv_burst().await.expect("sound") {
                let burst = burst.merged();
                let frames = burst.iter().map(|frame| {
                    let meta = TxMeta::passing_on(frame.bytes, &frame.meta, MTU);
                    (frame.bytes.to_vec(), meta)
                });
                way.frames.lock().expect("no panic").extend(frames);
                way.came.notify_one();
            }
        });
    }

    /// The next frame that may pass.
    fn take(&self, may_pass: u64) -> Option<(Vec<u8>, TxMeta)> {
        let mut frames = self.frames.lock().expect("no panic");
        let open = self.passed() < may_pass;
        let at = frames.iter().position(|(frame, _)| open || frame.len() <= SHORT)?;
        frames.remove(at)
    }

    /// Sends what was taken.
    fn write(self: &Arc<Self>, mut tx: TxHalf<MemChannel>) -> JoinHandle<()> {
        let way = Arc::clone(self);
        tokio::spawn(async move {
            let mut may_pass = way.may_pass.subscribe();
            loop {
                let limit = *may_pass.borrow_and_update();
                let Some((frame, meta)) = way.take(limit) else {
                    tx.flush().expect("sound");
                    tokio::select! {
                        () = way.came.notified() => {}
                        changed = may_pass.changed() => changed.expect("the way is here"),
                    }
                    continue;
                };
                loop {
                    match tx.try_send(&frame, &meta) {
                        Ok(()) => break,
                        Err(Error::Full) => tx.ready(frame.len()).await.expect("sound"),
                        Err(error) => panic!("{} bytes, {meta:?}: {error}", frame.len()),
                    }
                }
                way.passed.fetch_add(frame.len() as u64, Ordering::Relaxed);
            }
        })
    }
}

/// An adapter at whose other end is the interface of a namespace.
struct Adapter {
    host: Host,
    nic: Nic<MemBus>,
}

async fn adapter(number: u8, netns: &Netns) -> (Adapter, Queue<MemChannel>) {
    let tap = TAPS[usize::from(number)];
    // A cable, not a switch: frames are for stations behind the forwarder.
    let host = Host::builder().switch(SwitchConfig::default().cable(true)).build();
    host.add_port(TapPort::open(TapConfig::new().name(tap)).expect("a TAP interface"));
    netns.adopt(tap).expect("moves");
    netns.ip(&format!("address add 198.51.100.{}/24 dev {tap}", number + 1)).expect("an address");
    netns.ip(&format!("link set dev {tap} up")).expect("up");
    let options = NicOptions::new().mac([0x00, 0x15, 0x5D, 1, 0, number]).queues(QUEUES).mac_spoofing(true);
    let bus = MemBus::new(host.add_nic(options));
    host.spawn();
    let (nic, mut queues) = Nic::builder().queues(1).open_on(bus).await.expect("up");
    nic.set_packet_filter(PacketFilter::PROMISCUOUS).await.expect("receives frames for others");
    (Adapter { host, nic }, queues.remove(0))
}

/// A stream of iperf3 from one namespace to an address of another: the client and the server.
fn iperf3(from: &Netns, to: &Netns, address: Ipv4Addr) -> [Program; 2] {
    let address = address.to_string();
    let server = to.start("iperf3", &["-s", "-1", "-B", &address]).expect("starts");
    let until = std::time::Instant::now() + PATIENCE;
    while !to.run("ss", &["-Hltn", "sport = :5201"]).expect("ss").contains("5201") {
        assert!(std::time::Instant::now() < until, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let client = from.start("iperf3", &["-c", &address, "-n", &CONTENT.to_string(), "-i", "0", "--json"]);
    [client.expect("starts"), server]
}

/// Waits for the end of a stream of iperf3: everything was sent.
fn assert_complete_stream([client, server]: [Program; 2]) {
    let said = client.finish().expect("iperf3");
    server.finish().expect("iperf3's server");
    let report: Value = serde_json::from_str(&said).expect("json");
    assert!(report["error"].is_null(), "{said}");
    let [sent, received] = ["sum_sent", "sum_received"].map(|sum| report["end"][sum]["bytes"].as_u64());
    assert!(sent.is_some_and(|bytes| bytes >= CONTENT), "{said}");
    // It ends by what it has sent; some of that is still on its way.
    assert!(received.is_some_and(|bytes| bytes >= CHANGES as u64 * BYTES), "{said}");
}

#[test]
fn iperf3_and_content_through_a_forwarder() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "iperf3", "ss"]) else { return };
    let ends = [(); 2].map(|()| Netns::new().expect("root makes namespaces"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let ways = [Way::new(), Way::new()];
        let (left, left_queue) = adapter(0, &ends[0]).await;
        let (right, right_queue) = adapter(1, &ends[1]).await;
        let mut writers = Vec::new();
        for (at, queue) in [left_queue, right_queue].into_iter().enumerate() {
            ways[at].read(queue.rx);
            writers.push(ways[1 - at].write(queue.tx));
        }
        let address = |end: u8| Ipv4Addr::new(198, 51, 100, end + 1);
        let content = tokio::task::spawn_blocking({
            let [from, to] = ends.clone();
            move || {
                let (address, bytes) = (IpAddr::V4(address(1)), CONTENT as usize);
                let transfer = Transfer { from: &from, to: &to, address, protocol: Protocol::Tcp, bytes, seed: 0x5EED };
                transfer.run().expect("what was sent arrives")
            }
        });
        let generator = iperf3(&ends[1], &ends[0], address(0));

        let adapters = [left, right];
        for step in 0..CHANGES {
            let goal = (step as u64 + 1) * BYTES;
            for way in &ways {
                way.may_pass.send_replace(goal + AHEAD);
            }
            let until = tokio::time::Instant::now() + PATIENCE;
            while ways.iter().any(|way| way.passed() < goal) {
                assert!(
                    tokio::time::Instant::now() < until,
                    "no service before change {step}: {:?}",
                    ways.each_ref().map(|way| way.passed())
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let at = step % 2;
            for queue in change(&adapters[at].nic, step).await {
                ways[at].read(queue.rx);
            }
        }
        assert!(!content.is_finished(), "the content ended before the last change");
        for way in &ways {
            way.may_pass.send_replace(u64::MAX);
        }
        content.await.expect("the content");
        tokio::task::spawn_blocking(|| assert_complete_stream(generator)).await.expect("iperf3");
        for writer in writers {
            writer.abort();
        }
        for Adapter { host, nic } in adapters {
            assert_sound(nic, &host).await;
        }
        println!("{CHANGES} changes, {} MiB each way", CONTENT >> 20);
    });
}
