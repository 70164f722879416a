//! Migrations: the host takes the whole NIC away and offers it again, and the VF with it.

use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::{Step, VfManner};

use crate::world::{World, ms, paused};

/// The VF is taken back first, as by the hosts that are known. What was accepted before has been delivered; the new session
/// hears of the new VF.
#[test]
fn the_vf_goes_first() {
    paused(async {
        let mut world = World::new(1).await;
        for serial in [7, 9] {
            world.bring(serial).await;
            world.traffic_is_complete().await;
            world.does([Step::Revoke, Step::Unplug]).await;
            world.nic().stands(Stage::Synthetic).await;
            // Nothing is on its way: nothing may be missing.
            world.quiet().await;
            world.does([Step::TakeNic]).await;
            world.nic().tells(|event| matches!(event, Event::Gone(_))).await;
            let lost = world.let_go().await;
            assert_eq!(lost, 0, "all that was accepted had been delivered");
            world
                .does([Step::OfferNic, Step::Associate { serial: serial + 1 }, Step::Plug { serial: serial + 1 }])
                .await;
            world.reopen().await;
            world.nic().stands(Stage::OnVf).await;
            assert_eq!(world.nic().vf().serial, Some(serial + 1));
            assert_eq!(world.nic().vf().counters.offered, 1, "of this session");
            world.traffic_is_complete().await;
            world.does([Step::Revoke, Step::Unplug]).await;
        }
        world.end().await;
    });
}

/// The NIC goes while the VF is in use, or asked for, or waited for. The device is closed, and what comes later is used by
/// the next session; under traffic only what was in the rings or in the VF can be missing.
#[test]
fn the_nic_goes_first() {
    for (number, steps) in [
        &[Step::Plug { serial: 7 }, Step::Associate { serial: 7 }][..],
        &[Step::Manner(VfManner::Silent), Step::Plug { serial: 7 }, Step::Associate { serial: 7 }],
        &[Step::Plug { serial: 7 }],
        &[Step::Associate { serial: 7 }],
    ]
    .into_iter()
    .enumerate()
    {
        for stays in [true, false] {
            paused(async {
                let mut world = World::new(number as u64).await;
                world.does(steps.iter().copied()).await;
                world.nic().rests(ms(200)).await;
                world.does([Step::TakeNic]).await;
                world.nic().tells(|event| matches!(event, Event::Gone(_))).await;
                assert!(world.nic().vf().device.is_none(), "it is closed");
                let lost = world.let_go().await;
                assert!(lost <= 40, "what was on its way, at most: {lost}");
                world.does([Step::Manner(VfManner::Obliging)]).await;
                if !stays {
                    world.does([Step::Revoke, Step::Unplug]).await;
                }
                world.does([Step::OfferNic]).await;
                world.reopen().await;
                // What the host had said and shown, it says to the next session; or something new.
                let serial = if stays { 7 } else { 8 };
                world.does([Step::Plug { serial }, Step::Associate { serial }]).await;
                world.nic().stands(Stage::OnVf).await;
                assert_eq!(world.nic().vf().serial, Some(serial));
                world.end().await;
            });
        }
    }
}
