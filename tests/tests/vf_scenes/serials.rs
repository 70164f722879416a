//! Devices that are not the one that the host means.

use netvsc::meta::Path;
use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::Step;

use crate::world::{World, ms, paused};

/// A device with another number is left alone until the right one comes.
#[test]
fn a_device_of_another_number_is_not_used() {
    let (other, right) = (Step::Plug { serial: 7 }, Step::Plug { serial: 8 });
    let associate = Step::Associate { serial: 8 };
    for first in [[other, associate], [associate, other]] {
        paused(async {
            let world = World::new(1).await;
            let nic = world.nic();
            world.does(first).await;
            nic.tells(|event| *event == Event::VfOtherSerial { expected: 8, found: 7 }).await;
            nic.rests(ms(60_000)).await;
            assert_eq!(nic.vf().stage, Stage::Synthetic);
            assert!(nic.vf().device.is_none(), "it was not even opened");
            world.traffic_is_complete().await;
            world.does([Step::Unplug, right]).await;
            nic.stands(Stage::OnVf).await;
            assert_eq!(nic.told(|event| matches!(event, Event::VfOtherSerial { .. })), 1);
            let counters = nic.vf().counters;
            assert_eq!((counters.offered, counters.switched_to_vf, counters.surprises), (1, 1, 0));
            world.end().await;
        });
    }
}

/// The host says that it means another device than the one in use.
#[test]
fn the_host_changes_its_mind() {
    paused(async {
        let world = World::new(1).await;
        let nic = world.nic();
        world.bring(7).await;
        world.does([Step::Associate { serial: 8 }]).await;
        nic.tells(|event| *event == Event::VfRevoked { serial: 7 }).await;
        nic.stands(Stage::Synthetic).await;
        nic.tells(|event| *event == Event::VfOtherSerial { expected: 8, found: 7 }).await;
        world.traffic_is_complete().await;
        assert!(!world.host.vf_in_use(nic.id), "the host was told");
        // And back: it is the same device as before.
        world.does([Step::Associate { serial: 7 }]).await;
        nic.stands(Stage::OnVf).await;
        world.traffic_is_complete().await;
        world.does([Step::Associate { serial: 8 }, Step::Unplug, Step::Plug { serial: 8 }]).await;
        nic.until(|| nic.vf().serial == Some(8), "the new number").await;
        nic.stands(Stage::OnVf).await;
        assert_eq!(nic.switched(Path::VirtualFunction), 3);
        world.end().await;
    });
}
