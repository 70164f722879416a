//! What a virtual function does to the adapter's task, beside frames: `tests/tests/vf_async.rs` has those.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use netvsc::PacketFilter;
use netvsc::meta::Path;
use netvsc_async::testing::{self, Pair};
use netvsc_async::vf::{Adapter, MemoryBackend, OpenedVf, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};
use netvsc_async::{Event, Nic, NicBuilder, ReconfigureError};
use netvsc_host::fault::{Fault, When};
use netvsc_host::{Host, NicId};
use rndis::Oid;

const NIC: NicId = NicId(0);

/// What devices were told.
#[derive(Default)]
struct Log {
    /// Whether to receive everything.
    promiscuous: Mutex<Vec<bool>>,
    /// Their MTU.
    mtu: Mutex<Vec<u32>>,
    /// The largest MTU that they can have, if there is one.
    limit: Mutex<Option<u32>>,
    /// How long they take to change it.
    delay: Mutex<Duration>,
}

/// Devices in memory that write down what they are told.
#[derive(Clone, Default)]
struct Told {
    inner: MemoryBackend,
    log: Arc<Log>,
}

struct ToldWatch {
    inner: Box<dyn VfWatch>,
    log: Arc<Log>,
}

struct ToldVf {
    inner: Arc<dyn VfHandle>,
    log: Arc<Log>,
}

impl VfBackend for Told {
    fn watch(&self, adapter: &Adapter) -> io::Result<Box<dyn VfWatch>> {
        let log = Arc::clone(&self.log);
        Ok(Box::new(ToldWatch { inner: self.inner.watch(adapter)?, log }))
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
        let (opening, log) = (self.inner.open(wish), Arc::clone(&self.log));
        self.log.mtu.lock().unwrap().push(wish.mtu);
        async move {
            let opened = opening.await?;
            Ok(OpenedVf { device: Arc::new(ToldVf { inner: opened.device, log }), ..opened })
        }
        .boxed()
    }
}

impl VfHandle for ToldVf {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn set_mtu(&self, mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        let delay = *self.log.delay.lock().unwrap();
        let answer = if self.log.limit.lock().unwrap().is_some_and(|limit| mtu > limit) {
            future::err(io::ErrorKind::InvalidInput.into()).boxed()
        } else {
            self.log.mtu.lock().unwrap().push(mtu);
            self.inner.set_mtu(mtu)
        };
        async move {
            tokio::time::sleep(delay).await;
            answer.await
        }
        .boxed()
    }

    fn set_promiscuous(&self, promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        self.log.promiscuous.lock().unwrap().push(promiscuous);
        future::ok(()).boxed()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// An adapter that has such a device in use.
async fn on_vf(builder: NicBuilder) -> (Told, Pair) {
    let vfs = Told::default();
    let pair = testing::pair_with(Host::builder(), builder.vf(vfs.clone())).await.expect("comes up");
    let mut events = pair.nic.events();
    vfs.inner.insert(pair.host.plug_vf(NIC, 7, 64).expect("there is none"));
    pair.host.associate_vf(NIC, 7);
    while !matches!(events.next().await, Some(Event::DatapathSwitched { .. })) {}
    (vfs, pair)
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_not_put_back_by_the_answer_to_something_else() {
    let (vfs, pair) = on_vf(Nic::builder()).await;
    let filter = PacketFilter(pair.nic.info().packet_filter.0 | PacketFilter::PROMISCUOUS.0);
    // Both are asked for before either is answered.
    let answers = futures::join!(pair.nic.query(Oid::VENDOR_DESCRIPTION), pair.nic.set_packet_filter(filter));
    assert!(answers.0.is_ok() && answers.1.is_ok(), "{answers:?}");
    assert_eq!(*vfs.log.promiscuous.lock().unwrap(), [true]);
    pair.close().await.expect("it had not failed");
}

#[tokio::test(start_paused = true)]
async fn the_mtu_is_the_devices_first_and_is_put_back_if_the_adapter_cannot_have_it() {
    let (vfs, pair) = on_vf(Nic::builder().tune(|config| config.step_deadline(Duration::from_secs(2)))).await;
    let told = || std::mem::take(&mut *vfs.log.mtu.lock().unwrap());
    let mut events = pair.nic.events();
    assert_eq!(told(), [1500]);
    assert_eq!(pair.nic.set_mtu(3000).await, Ok(3000));
    // It is opened again once the adapter is up again.
    while !matches!(events.next().await, Some(Event::DatapathSwitched { to: Path::VirtualFunction, .. })) {}
    assert_eq!(told(), [3000, 3000]);
    let mut taken_down = || {
        let news = std::iter::from_fn(|| events.next().now_or_never().flatten());
        news.filter(|event| matches!(event, Event::Detached(_))).count()
    };
    // A device that cannot: the adapter is not even taken down. What the device has by now it may not know itself.
    *vfs.log.limit.lock().unwrap() = Some(5000);
    let refused = pair.nic.set_mtu(9000).await.unwrap_err();
    assert_eq!(refused, ReconfigureError::VirtualFunction { kind: io::ErrorKind::InvalidInput });
    assert_eq!((told(), pair.nic.info().mtu, taken_down()), (vec![3000], 3000, 0));
    // An adapter that cannot, and is not taken down either.
    pair.host.inject(Fault::AnswerFailed, When::Once);
    let refused = pair.nic.set_mtu(4000).await.unwrap_err();
    assert!(refused.is_restored(), "{refused}");
    assert_eq!((told(), pair.nic.info().mtu, taken_down()), (vec![4000, 3000], 3000, 0));
    // One that does not come up with it, but as it was.
    pair.host.inject(Fault::AnswerNever, When::After { spared: 3 });
    let refused = pair.nic.set_mtu(4000).await.unwrap_err();
    assert!(refused.is_restored(), "{refused}");
    pair.host.clear_faults();
    assert_eq!(pair.nic.info().mtu, 3000);
    assert!(taken_down() > 0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let told = told();
    assert!(told[0] == 4000 && told[1..].iter().all(|mtu| *mtu == 3000) && told.len() > 1, "{told:?}");
    pair.close().await.expect("it had not failed");
}

#[tokio::test(start_paused = true)]
async fn an_mtu_that_nobody_waits_for_any_more_is_not_left_on_the_device() {
    let (vfs, pair) = on_vf(Nic::builder()).await;
    *vfs.log.delay.lock().unwrap() = Duration::from_secs(5);
    let change = tokio::time::timeout(Duration::from_secs(1), pair.nic.set_mtu(3000));
    assert!(change.await.is_err(), "the device takes longer");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((pair.nic.info().mtu, &vfs.log.mtu.lock().unwrap()[..]), (1500, &[1500, 3000, 1500][..]));
    pair.close().await.expect("it had not failed");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_goes_while_it_is_asked_does_not_refuse() {
    let (vfs, pair) = on_vf(Nic::builder()).await;
    *vfs.log.delay.lock().unwrap() = Duration::from_secs(5);
    *vfs.log.limit.lock().unwrap() = Some(2000);
    let goes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        pair.host.revoke_vf(NIC);
        tokio::time::sleep(Duration::from_secs(1)).await;
        pair.host.unplug_vf(NIC);
    };
    assert_eq!(futures::join!(pair.nic.set_mtu(3000), goes).0, Ok(3000));
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
