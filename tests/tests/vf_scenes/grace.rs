//! The host takes the VF back, and its device some time later.

use netvsc::meta::Path;
use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::Step;
use tokio::time::{Instant, sleep};

use crate::world::{World, ms, paused};

/// Between two looks: senders pause for 30 ms at most, and send nothing now and then.
const LOOK: u64 = 100;

/// The traffic is moved at the message, and nobody holds it while the device is still there: frames arrive both ways all the
/// time, and what was in the device comes out.
#[test]
fn traffic_goes_on_through_the_whole_grace() {
    for grace in [0, 1, 100, 500] {
        paused(async {
            let world = World::new(grace).await;
            world.bring(7).await;
            world.traffic_is_complete().await;
            let nic = world.nic();
            let by_vf = || world.host.nic_report(nic.id).expect("the nic").counters.vf_rx_frames;

            world.does([Step::Revoke]).await;
            let (start, before) = (Instant::now(), by_vf());
            assert!(!world.host.vf_in_use(nic.id), "grace {grace}: moved at the message");
            while start.elapsed() + ms(LOOK) <= ms(grace) {
                let (from, to) = world.arrived(nic);
                sleep(ms(LOOK)).await;
                let now = world.arrived(nic);
                let at = start.elapsed();
                assert!(now.0 > from && now.1 > to, "grace {grace}, {at:?}: held; {from}, {to}, {now:?}");
                assert!(world.host.plugged_vf(nic.id).is_some(), "grace {grace}, {at:?}: the device is still there");
            }
            sleep(ms(grace).saturating_sub(start.elapsed())).await;
            assert_eq!(by_vf(), before, "grace {grace}: nothing is sent into it any more");
            world.does([Step::Unplug]).await;
            assert!(world.host.plugged_vf(nic.id).is_none());

            nic.stands(Stage::Synthetic).await;
            let counters = nic.vf().counters;
            assert_eq!((counters.revoked, counters.lost, counters.surprises), (1, 0, 0), "grace {grace}");
            let back =
                |event: &Event| matches!(event, Event::DatapathSwitched { to: Path::Synthetic, drained: true, .. });
            assert_eq!(nic.told(back), 1, "grace {grace}: {:?}", nic.events());
            assert_eq!(world.dropped_of(nic), 0, "grace {grace}");
            world.end().await;
        });
    }
}
