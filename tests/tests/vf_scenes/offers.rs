//! Offers and devices in every order, twice, and taken back too early.

use netvsc::meta::Path;
use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::{Script, Step, VfManner, Wait};

use crate::world::{World, ms, paused};

const PLUG: Step = Step::Plug { serial: 7 };
const ASSOCIATE: Step = Step::Associate { serial: 7 };

/// Whatever comes first waits for the other, however long it takes, and says so after a while.
#[test]
fn either_may_come_first() {
    for (first, second, missing) in [(PLUG, ASSOCIATE, None), (ASSOCIATE, PLUG, Some(7))] {
        for apart in [0, 1_000, 119_000, 121_000] {
            paused(async {
                let world = World::new(apart).await;
                let nic = world.nic();
                world.does([first]).await;
                nic.rests(ms(apart)).await;
                assert_eq!(nic.vf().stage, Stage::Synthetic);
                let told = nic.told(|event| *event == Event::VfMissing { serial: missing });
                assert_eq!(told, usize::from(apart > 120_000), "{first}, {apart} ms");
                world.does([second]).await;
                nic.stands(Stage::OnVf).await;
                let counters = nic.vf().counters;
                assert_eq!((counters.offered, counters.switched_to_vf, counters.flaps), (1, 1, 0));
                world.end().await;
            });
        }
    }
}

/// An offer that is repeated is the same offer, and a device that shows up again the same device, whatever is going on.
#[test]
fn what_is_said_twice_is_done_once() {
    for (number, steps) in [
        &[ASSOCIATE, ASSOCIATE, PLUG][..],
        &[ASSOCIATE, PLUG, ASSOCIATE],
        &[PLUG, Step::ShowAgain, ASSOCIATE],
        &[PLUG, ASSOCIATE, Step::ShowAgain],
        &[PLUG, Step::ShowAgain, ASSOCIATE, ASSOCIATE, Step::ShowAgain],
    ]
    .into_iter()
    .enumerate()
    {
        for apart in [0, 3] {
            paused(async {
                let world = World::new(number as u64).await;
                let nic = world.nic();
                world.play(Script::of(steps.iter().map(|&step| (Wait::Time(ms(apart)), step)))).await;
                nic.stands(Stage::OnVf).await;
                world.traffic_is_complete().await;
                // And while it is in use.
                let ignored = nic.vf().counters.ignored;
                world.does([ASSOCIATE, Step::ShowAgain]).await;
                world.traffic_is_complete().await;
                let counters = nic.vf().counters;
                assert!(counters.ignored >= ignored + 2, "{counters:?}");
                assert_eq!((counters.offered, counters.switched_to_vf, counters.revoked), (1, 1, 0));
                assert_eq!(nic.told(|event| *event == Event::VfOffered { serial: 7 }), 1);
                assert_eq!(nic.told(|event| *event == Event::VfUp), 1);
                assert_eq!((nic.switched(Path::VirtualFunction), nic.switched(Path::Synthetic)), (1, 0));
                world.end().await;
            });
        }
    }
}

/// The host takes back the offer of a device that has not come; should it come, it is nobody's.
#[test]
fn an_offer_that_is_withdrawn_before_its_device_came() {
    paused(async {
        let world = World::new(1).await;
        let nic = world.nic();
        world.does([ASSOCIATE, Step::Revoke]).await;
        nic.tells(|event| *event == Event::VfRevoked { serial: 7 }).await;
        assert_eq!(nic.vf().serial, None);
        world.does([PLUG]).await;
        nic.rests(ms(10_000)).await;
        assert_eq!(nic.vf().stage, Stage::Synthetic);
        assert!(nic.vf().device.is_none());
        assert_eq!(nic.told(|event| *event == Event::VfUp), 0);
        world.traffic_is_complete().await;
        // It was meant for later.
        world.does([ASSOCIATE]).await;
        nic.stands(Stage::OnVf).await;
        let counters = nic.vf().counters;
        assert_eq!((counters.offered, counters.revoked, counters.switched_to_vf), (2, 1, 1));
        world.end().await;
    });
}

/// The host takes the VF back while it is asked for it. It completes what it was asked for then; the VF is never used.
#[test]
fn revoked_in_the_middle_of_a_switch() {
    // What the host does while its answer is awaited, when it answers, and whether the offer goes orderly.
    for (number, steps) in [
        &[Step::Revoke, Step::Manner(VfManner::Obliging), Step::Unplug][..],
        &[Step::Revoke, Step::Unplug, Step::Manner(VfManner::Obliging)],
        &[Step::Unplug, Step::Revoke, Step::Manner(VfManner::Obliging)],
        &[Step::Vanish, Step::Manner(VfManner::Obliging)],
        &[Step::Manner(VfManner::Obliging), Step::Revoke, Step::Unplug],
    ]
    .into_iter()
    .enumerate()
    {
        for apart in [0, 5, 700] {
            paused(async {
                let world = World::new(number as u64).await;
                let nic = world.nic();
                world.does([Step::Manner(VfManner::Silent), PLUG, ASSOCIATE]).await;
                nic.stands(Stage::Asking).await;
                world.play(Script::of(steps.iter().map(|&step| (Wait::Time(ms(apart)), step)))).await;
                nic.tells(|event| *event == Event::VfRevoked { serial: 7 }).await;
                nic.stands(Stage::Synthetic).await;
                let counters = nic.vf().counters;
                // Asked and answered before the last of them took it back: it was in use for that long.
                if steps[0] != Step::Manner(VfManner::Obliging) {
                    assert_eq!((counters.switched_to_vf, counters.flaps), (0, 0), "{steps:?}");
                    assert_eq!(nic.switched(Path::VirtualFunction), 0, "{steps:?}");
                }
                assert_eq!((counters.timeouts, counters.refused, counters.lost), (0, 0, 0), "{steps:?}");
                world.traffic_is_complete().await;
                world.bring(8).await;
                assert_eq!(nic.vf().serial, Some(8));
                world.end().await;
            });
        }
    }
}

/// The same device, with the same number, taken and given again at once: frames that it held before are not sent twice, and
/// its second life is none of the first.
#[test]
fn taken_and_given_again_at_once() {
    paused(async {
        let world = World::new(1).await;
        let nic = world.nic();
        world.bring(7).await;
        for round in 1..10 {
            world.does([Step::Revoke, Step::Unplug, PLUG, ASSOCIATE]).await;
            nic.until(|| nic.vf().counters.revoked == round, "the news").await;
            nic.stands(Stage::OnVf).await;
        }
        let counters = nic.vf().counters;
        assert_eq!((counters.offered, counters.revoked, counters.switched_to_vf), (10, 9, 10));
        assert!(counters.flaps == 9 && nic.told(|event| matches!(event, Event::VfDamped { .. })) == 6, "{counters:?}");
        world.end().await;
    });
}
