//! The appliance on the simulated host: no root, no VM, no waiting.

use std::time::Duration;

use netvsc_async::Nic;
use netvsc_async::testing::{Pair, pair, pair_with};
use netvsc_downstream::reflect;
use netvsc_host::{Host, Profile};

const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

async fn frames_come_back(Pair { host, far, nic, queue }: Pair) {
    let own = nic.info().mac.0;
    let (packets, sink) = queue.into_split();
    let appliance = tokio::spawn(reflect(packets, sink));
    for number in 0..100 {
        let payload = [number; 46];
        far.send(&[&own[..], &FAR, &[0x88, 0xB5], &payload].concat()).expect("there is room");
        let back = far.recv().await.expect("the host runs");
        assert_eq!(&back[..], [&FAR[..], &own, &[0x88, 0xB5], &payload].concat());
    }
    let report = nic.close().await.expect("the host lets go");
    assert!(report.is_clean(), "{report:?}");
    appliance.await.expect("no panic").expect("a clean end");
    // The host learns of the guest's end at its next step.
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn every_frame_comes_back() {
    frames_come_back(pair().await.expect("a NIC")).await;
}

#[tokio::test(start_paused = true)]
async fn on_an_old_host_as_well() {
    let host = Host::builder().profile(Profile::Ws2012R2);
    frames_come_back(pair_with(host, Nic::builder()).await.expect("a NIC")).await;
}
