//! Hosts that do not move the traffic when they are asked to.

use netvsc::meta::Path;
use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::{Step, VfManner};

use crate::world::{World, ms, paused};

const OFFER: [Step; 2] = [Step::Plug { serial: 7 }, Step::Associate { serial: 7 }];

/// It completes the switch, and takes the traffic back. The VF is still there: it is tried again, ever more seldom.
#[test]
fn a_host_that_refuses_is_asked_again_after_a_pause_that_doubles() {
    paused(async {
        let world = World::new(1).await;
        let nic = world.nic();
        world.does([Step::Manner(VfManner::Refusing)]).await;
        world.does(OFFER).await;
        nic.tells(|event| *event == Event::VfRefused).await;
        nic.stands(Stage::Synthetic).await;
        world.traffic_is_complete().await;
        nic.rests(ms(100_000)).await;
        // 100, 200, 400 ms... and then 30 s.
        let refused = nic.vf().counters.refused;
        assert!((9..=13).contains(&refused), "{refused}");
        assert_eq!(nic.told(|event| *event == Event::VfRefused) as u64, refused, "each is told");
        assert_eq!(nic.vf().serial, Some(7), "the host has not taken it back");
        assert_eq!(nic.vf().counters.timeouts, 0);
        world.traffic_is_complete().await;
        world.does([Step::Manner(VfManner::Obliging)]).await;
        nic.stands(Stage::OnVf).await;
        assert_eq!(nic.vf().counters.revoked, 0);
        world.end().await;
    });
}

/// A switch that is completed but not done looks like any other. Both paths are received from, so that nothing is lost.
#[test]
fn a_host_that_ignores_a_switch_delivers_by_the_rings() {
    paused(async {
        let world = World::new(2).await;
        let nic = world.nic();
        world.does([Step::Manner(VfManner::Ignoring)]).await;
        world.does(OFFER).await;
        nic.stands(Stage::OnVf).await;
        world.settle().await;
        let before = nic.nic.vf_stats();
        world.traffic_is_complete().await;
        let stats = nic.nic.vf_stats();
        assert!(stats.vf_tx_packets > before.vf_tx_packets, "{stats:?}");
        assert_eq!(stats.vf_rx_packets, 0, "{stats:?}");
        assert!(!world.host.vf_in_use(nic.id));
        // The next switch is none of the ignored ones.
        world.does([Step::Manner(VfManner::Obliging), Step::Revoke, Step::Unplug]).await;
        nic.stands(Stage::Synthetic).await;
        world.bring(8).await;
        world.traffic_is_complete().await;
        assert!(nic.nic.vf_stats().vf_rx_packets > 0);
        world.end().await;
    });
}

/// Nothing is completed, whatever is asked for. After five attempts of five seconds the adapter says so and stops asking; it
/// sends by the rings meanwhile, and takes what comes by either path.
#[test]
fn a_silent_host_is_given_up_and_taken_up_when_it_speaks() {
    paused(async {
        let world = World::new(3).await;
        let nic = world.nic();
        world.does([Step::Manner(VfManner::Silent)]).await;
        world.does(OFFER).await;
        nic.stands(Stage::Asking).await;
        world.traffic_is_complete().await;
        nic.tells(|event| *event == Event::VfHostSilent).await;
        assert_eq!(nic.vf().stage, Stage::Silent);
        let timed_out = |path| nic.told(|event| *event == Event::VfSwitchTimedOut { to: path });
        assert_eq!((timed_out(Path::VirtualFunction), timed_out(Path::Synthetic)), (1, 4));
        assert_eq!(nic.vf().counters.timeouts, 5);
        assert_eq!(nic.switched(Path::VirtualFunction), 0);
        world.traffic_is_complete().await;
        nic.rests(ms(100_000)).await;
        assert_eq!(nic.vf().counters.timeouts, 5, "it is not asked any more");
        // All that it was asked for is completed now, in order: the last word is the rings'.
        world.does([Step::Manner(VfManner::Obliging)]).await;
        nic.stands(Stage::OnVf).await;
        assert_eq!(nic.switched(Path::VirtualFunction), 1);
        assert!(world.host.vf_in_use(nic.id));
        world.end().await;
    });
}

/// A silent host takes back what it has offered: the device can go, although the host may deliver to it.
#[test]
fn a_silent_host_takes_the_vf_back() {
    paused(async {
        let world = World::new(4).await;
        let nic = world.nic();
        world.does([Step::Manner(VfManner::Silent)]).await;
        world.does(OFFER).await;
        nic.tells(|event| *event == Event::VfHostSilent).await;
        world.does([Step::Revoke, Step::Unplug]).await;
        nic.stands(Stage::Synthetic).await;
        assert_eq!(nic.told(|event| *event == Event::VfRevoked { serial: 7 }), 1);
        world.traffic_is_complete().await;
        world.does([Step::Manner(VfManner::Obliging)]).await;
        world.bring(8).await;
        world.end().await;
    });
}

/// Within the deadline a completion may take its time; after it, it is late, and means what it meant.
#[test]
fn late_completions() {
    for (silence, in_time) in [(4_000, true), (4_999, true), (6_000, false), (12_000, false), (23_000, false)] {
        paused(async {
            let world = World::new(silence).await;
            let nic = world.nic();
            world.does([Step::Manner(VfManner::Silent)]).await;
            world.does(OFFER).await;
            nic.stands(Stage::Asking).await;
            nic.rests(ms(silence - 20)).await;
            world.does([Step::Manner(VfManner::Obliging)]).await;
            nic.stands(Stage::OnVf).await;
            let counters = nic.vf().counters;
            assert_eq!(counters.timeouts, if in_time { 0 } else { silence / 5_000 }, "{silence} ms");
            assert_eq!(nic.told(|event| matches!(event, Event::VfSwitchTimedOut { .. })) as u64, counters.timeouts);
            assert_eq!((nic.switched(Path::VirtualFunction), counters.refused), (1, 0));
            world.end().await;
        });
    }
}

/// The guest wants to leave the VF, and the host does not answer: it goes on by the rings at once, and receives from the VF
/// until the host has completed the switch.
#[test]
fn a_host_that_is_silent_about_the_way_back() {
    paused(async {
        let world = World::new(5).await;
        let nic = world.nic();
        world.bring(7).await;
        world.does([Step::Manner(VfManner::Silent)]).await;
        world.host.set_vf_link(nic.id, false);
        nic.stands(Stage::Returning).await;
        // What the host delivers to a device without a link is dropped.
        world.host.set_vf_link(nic.id, true);
        nic.tells(|event| *event == Event::VfSwitchTimedOut { to: Path::Synthetic }).await;
        world.does([Step::Manner(VfManner::Obliging)]).await;
        nic.stands(Stage::OnVf).await;
        assert_eq!(nic.switched(Path::Synthetic), 1);
        world.end().await;
    });
}
