//! What a virtual function does to the adapter's task, beside frames: `tests/tests/vf_async.rs` has those.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use netvsc::PacketFilter;
use netvsc_async::vf::{Adapter, MemoryBackend, OpenedVf, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};
use netvsc_async::{Event, Nic, testing};
use netvsc_host::{Host, NicId};
use rndis::Oid;

const NIC: NicId = NicId(0);

/// Devices in memory that write down whether they were told to receive everything.
#[derive(Clone, Default)]
struct Told {
    inner: MemoryBackend,
    promiscuous: Arc<Mutex<Vec<bool>>>,
}

struct ToldWatch {
    inner: Box<dyn VfWatch>,
    promiscuous: Arc<Mutex<Vec<bool>>>,
}

struct ToldVf {
    inner: Arc<dyn VfHandle>,
    promiscuous: Arc<Mutex<Vec<bool>>>,
}

impl VfBackend for Told {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        let promiscuous = Arc::clone(&self.promiscuous);
        Ok(Box::new(ToldWatch { inner: self.inner.watch(adapter)?, promiscuous }))
    }
}

impl VfWatch for ToldWatch {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<VfEvent> {
        self.inner.poll_event(cx)
    }

    fn find(&mut self, serial: u32) {
        self.inner.find(serial);
    }

    fn open(&mut self, wish: VfWish) -> BoxFuture<'static, io::Result<OpenedVf>> {
        let (opening, promiscuous) = (self.inner.open(wish), Arc::clone(&self.promiscuous));
        async move {
            let opened = opening.await?;
            Ok(OpenedVf { device: Arc::new(ToldVf { inner: opened.device, promiscuous }), ..opened })
        }
        .boxed()
    }
}

impl VfHandle for ToldVf {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn set_mtu(&self, mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        self.inner.set_mtu(mtu)
    }

    fn set_promiscuous(&self, promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        self.promiscuous.lock().unwrap().push(promiscuous);
        future::ok(()).boxed()
    }

    fn close(&self) {
        self.inner.close();
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_not_put_back_by_the_answer_to_something_else() {
    let vfs = Told::default();
    let pair = testing::pair_with(Host::builder(), Nic::builder().vf(vfs.clone())).await.expect("comes up");
    let mut events = pair.nic.events();
    vfs.inner.insert(pair.host.plug_vf(NIC, 7, 64).expect("there is none"));
    pair.host.associate_vf(NIC, 7);
    while !matches!(events.next().await, Some(Event::DatapathSwitched { .. })) {}
    let filter = PacketFilter(pair.nic.info().packet_filter.0 | PacketFilter::PROMISCUOUS.0);
    // Both are asked for before either is answered.
    let answers = futures::join!(pair.nic.query(Oid::VENDOR_DESCRIPTION), pair.nic.set_packet_filter(filter));
    assert!(answers.0.is_ok() && answers.1.is_ok(), "{answers:?}");
    assert_eq!(*vfs.promiscuous.lock().unwrap(), [true]);
    pair.close().await.expect("it had not failed");
}

#[test]
fn a_runtime_may_be_dropped_while_a_batch_is_open() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let builder = Nic::builder().vf(MemoryBackend::new());
        let mut pair = runtime.block_on(testing::pair_with(Host::builder(), builder)).expect("comes up");
        let batch = pair.queue.tx.batch();
        drop(runtime);
        drop(batch);
        done.send(()).expect("somebody waits");
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("the adapter's task does not wait for the batch");
}

#[tokio::test(start_paused = true)]
async fn bursts_have_room_for_as_many_frames_after_a_larger_mtu() {
    let builder = Nic::builder().burst(32).receive_sections(256);
    let mut pair = testing::pair_with(Host::builder(), builder).await.expect("comes up");
    pair.nic.set_mtu(9000).await.expect("possible");
    for _ in 0..32 {
        let mut frame = vec![1; 9014];
        frame[..6].fill(0xFF);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        pair.far.send(&frame).expect("room");
    }
    // All that was sent is there before anything is received.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let burst = pair.queue.rx.try_recv_burst().expect("a sound queue").expect("it has come");
    assert_eq!(burst.len(), 32);
    pair.close().await.expect("it had not failed");
}
