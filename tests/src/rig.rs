//! An adapter on the simulated host in paused time, and traffic over it.

use std::future::Future;
use std::time::Duration;

use netvsc::stats::QueueStats;
use netvsc_async::testing::{Pair, pair_with};
use netvsc_async::{Nic, NicBuilder, OpenError};
use netvsc_host::fault::{Fault, When};
use netvsc_host::{Host, HostBuilder, NicId, NicOptions, NicReport};
use vmbus::mem::MemBus;

use crate::frames::{FAR, Sequence};

/// The only NIC of a host.
pub const NIC: NicId = NicId(0);
/// Frames that are on their way at most: no port's queue overflows.
const WINDOW: u64 = 200;
/// Paused time that everything must be over in: nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs `test` in paused time.
///
/// # Panics
/// If it waits for something that does not come.
pub fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let patient = async { tokio::time::timeout(PATIENCE, test).await.expect("waits for something that never comes") };
    runtime.expect("a runtime").block_on(patient)
}

/// An adapter that is up.
///
/// # Panics
/// If it does not come up.
pub async fn up(host: HostBuilder, nic: NicBuilder) -> Pair {
    pair_with(host, nic).await.unwrap_or_else(|error| panic!("not up: {error}"))
}

/// An adapter with default settings on a host with these.
///
/// # Panics
/// If it does not come up.
pub async fn up_on(change: impl FnOnce(&mut netvsc_host::Settings)) -> Pair {
    up(Host::builder().tune(change), Nic::builder()).await
}

/// Frames of the adapter itself.
#[must_use]
pub fn own(pair: &Pair, sizes: &[usize]) -> Sequence {
    Sequence::new(pair.nic.info().mac.0, sizes)
}

/// Sends `frames` frames each way at the same time and checks that all arrive, whole and in order.
///
/// # Panics
/// If not.
pub async fn exchange(pair: &mut Pair, sizes: &[usize], frames: u64) {
    let ours = own(pair, sizes);
    let theirs = Sequence::new(FAR, sizes);
    let Pair { far, queue, .. } = pair;
    let far = &*far;
    let netvsc_async::Queue { rx, tx, .. } = queue;
    // No more on the way than the far end's port holds: whatever then is lost was lost by someone else.
    let (arrived, window) = tokio::sync::watch::channel(0);
    let send = {
        let (mut ours, mut window) = (ours.clone(), window);
        async move {
            while ours.count() < frames {
                let sent = ours.count();
                window.wait_for(|arrived| sent < arrived + WINDOW).await.expect("the far end waits for more");
                tx.send(&ours.make()).await.expect("open");
            }
        }
    };
    let far_receives = {
        let mut ours = ours;
        async move {
            while ours.count() < frames {
                ours.check(&far.recv().await.expect("plugged in"));
                arrived.send_replace(ours.count());
            }
        }
    };
    let far_sends_and_we_receive = async {
        let (mut sent, mut received) = (theirs.clone(), theirs);
        while received.count() < frames {
            while sent.count() < frames && sent.count() < received.count() + WINDOW {
                far.send(&sent.make()).expect("room");
            }
            let burst = rx.recv_burst().await.expect("sound").expect("open");
            for frame in &burst {
                received.check(frame.bytes);
            }
        }
    };
    tokio::join!(send, far_receives, far_sends_and_we_receive);
}

/// Nothing more arrives at the far end.
///
/// # Panics
/// If something does.
pub async fn far_is_quiet(pair: &Pair) {
    let more = tokio::time::timeout(Duration::from_secs(1), pair.far.recv()).await;
    assert!(more.is_err(), "a frame that nobody sent, or a second time: {more:?}");
}

/// The queue's counters.
#[must_use]
pub fn stats(pair: &Pair) -> QueueStats {
    pair.nic.queue_stats()[0]
}

/// What the host says about the adapter.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn report(pair: &Pair) -> NicReport {
    pair.host.nic_report(NIC).expect("the nic")
}

/// Closes, and expects that nothing was left anywhere.
///
/// # Panics
/// If the guest did something wrong or did not give everything back.
pub async fn close(pair: Pair) {
    let report = pair.close().await.expect("closes");
    assert!(report.is_clean(), "{report:?}");
}

/// Events that come within `time`.
pub async fn events_within(events: &mut netvsc_async::Events, time: Duration) -> Vec<netvsc_async::Event> {
    let mut seen = Vec::new();
    let collect = async {
        while let Some(event) = events.next().await {
            seen.push(event);
        }
    };
    // Ends by the time, or with the events.
    let _ = tokio::time::timeout(time, collect).await;
    seen
}

/// Arms a fault on the adapter's host from now on.
pub fn inject(pair: &Pair, fault: Fault, when: When) {
    pair.host.inject(fault, when);
}

/// How often a fault struck.
#[must_use]
pub fn strikes(host: &Host, fault: Fault) -> u64 {
    let mut strikes = 0;
    host.with_faults(NIC, |plan| strikes = plan.strikes(fault));
    strikes
}

/// A bring-up on a host with these settings and faults: the adapter, or why there is none, and the host.
pub async fn try_up(host: HostBuilder, faults: &[(Fault, When)], nic: NicBuilder) -> (Host, Result<Pair, OpenError>) {
    let host = host.build();
    for &(fault, when) in faults {
        host.inject(fault, when);
    }
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new()));
    host.spawn();
    let opened = nic.open_on(bus).await;
    let pair = opened.map(|(nic, mut queues)| Pair { host: host.clone(), far, nic, queue: queues.remove(0) });
    (host, pair)
}

/// As [`up`], on a host with faults from the start.
///
/// # Panics
/// If it does not come up.
pub async fn up_with(host: HostBuilder, faults: &[(Fault, When)], nic: NicBuilder) -> Pair {
    let (_, pair) = try_up(host, faults, nic).await;
    pair.unwrap_or_else(|error| panic!("not up: {error}"))
}

/// After a failed bring-up: nothing is left at the host, and nothing was done wrong on the way.
///
/// # Panics
/// If not.
pub async fn all_undone(host: &Host) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}
