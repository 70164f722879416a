//! Two NICs whose addresses are nearly the same: each has its own VF.

use netvsc_async::Event;
use netvsc_async::vf::{MemoryVf, Stage};
use netvsc_host::NicId;
use netvsc_host::vf::{Scene, Script, ScriptOptions, Step, Wait};

use crate::ledger::Mac;
use crate::world::{MAC, Station, World, ms, paused};

/// As the first, but for one byte: the last, as of NICs of one machine, or any other.
const TWINS: [Mac; 3] = [[0x00, 0x15, 0x5D, 1, 2, 4], [0x00, 0x15, 0x5D, 1, 3, 3], [0x02, 0x15, 0x5D, 1, 2, 3]];

/// The device that a station uses.
fn used(station: &Station) -> Option<(Mac, u32)> {
    let status = station.vf();
    let device = status.device_as::<MemoryVf>()?.device();
    Some((device.mac(), device.serial()))
}

async fn does(world: &World, number: usize, steps: impl IntoIterator<Item = Step>) {
    world.servicing(number, Script::of(steps.into_iter().map(|step| (Wait::Time(ms(0)), step)))).await;
}

/// Serial numbers are those of slots; two hosts, or two buses, may well give the same.
#[test]
fn devices_of_the_same_number() {
    for twin in TWINS {
        paused(async {
            let world = World::with(1, &[MAC, twin]).await;
            // The other one's device first: it must not do.
            does(&world, 1, [Step::Plug { serial: 7 }]).await;
            does(&world, 0, [Step::Associate { serial: 7 }]).await;
            world.station(0).rests(ms(10_000)).await;
            assert_eq!(world.station(0).vf().stage, Stage::Synthetic);
            does(&world, 1, [Step::Associate { serial: 7 }]).await;
            world.station(1).stands(Stage::OnVf).await;
            assert_eq!(used(world.station(1)), Some((twin, 7)));
            assert_eq!(used(world.station(0)), None);
            world.traffic_is_complete().await;
            does(&world, 0, [Step::Plug { serial: 7 }]).await;
            world.station(0).stands(Stage::OnVf).await;
            assert_eq!(used(world.station(0)), Some((MAC, 7)));
            world.traffic_is_complete().await;
            // What happens to one is nothing to the other.
            does(&world, 1, [Step::Revoke, Step::Unplug]).await;
            world.station(1).stands(Stage::Synthetic).await;
            world.traffic_is_complete().await;
            assert_eq!(world.station(0).vf().stage, Stage::OnVf);
            assert_eq!(world.station(0).vf().counters.switched_to_synthetic, 0);
            world.end().await;
        });
    }
}

/// A number alone does not make a device a NIC's: what the host means has the other one's address.
#[test]
fn the_number_of_the_others_device() {
    for twin in TWINS {
        paused(async {
            let world = World::with(2, &[MAC, twin]).await;
            does(&world, 0, [Step::Plug { serial: 7 }, Step::Associate { serial: 8 }]).await;
            does(&world, 1, [Step::Plug { serial: 8 }, Step::Associate { serial: 7 }]).await;
            for (number, expected, found) in [(0, 8, 7), (1, 7, 8)] {
                let station = world.station(number);
                station.tells(|event| *event == Event::VfOtherSerial { expected, found }).await;
            }
            world.station(0).rests(ms(10_000)).await;
            for number in [0, 1] {
                assert_eq!(world.station(number).vf().stage, Stage::Synthetic);
                assert!(!world.host.vf_in_use(NicId(number as u32)));
            }
            world.traffic_is_complete().await;
            // The host puts it right.
            does(&world, 0, [Step::Associate { serial: 7 }]).await;
            does(&world, 1, [Step::Associate { serial: 8 }]).await;
            for (number, own) in [(0, (MAC, 7)), (1, (twin, 8))] {
                world.station(number).stands(Stage::OnVf).await;
                assert_eq!(used(world.station(number)), Some(own));
            }
            world.end().await;
        });
    }
}

/// Both are serviced at the same time, by scripts of their own with the same numbers, while they talk to each other.
#[test]
fn both_are_serviced_at_once() {
    for seed in 0..6 {
        paused(async {
            let world = World::with(seed, &[MAC, TWINS[seed as usize % 3]]).await;
            let options = ScriptOptions::default().cycles(8);
            let options = options.scenes([Scene::Orderly, Scene::DoubleOffer, Scene::MidSwitch, Scene::OtherSerial]);
            let scripts = [seed, seed + 100].map(|seed| Script::new(seed, &options));
            let [first, second] = scripts;
            tokio::join!(world.servicing(0, first), world.servicing(1, second));
            for number in [0, 1] {
                let station = world.station(number);
                station.stands(Stage::OnVf).await;
                let (mac, serial) = used(station).expect("it is in use");
                assert_eq!((mac, Some(serial)), (station.mac, station.vf().serial));
                assert_eq!(station.vf().counters.lost, 0);
            }
            world.end().await;
        });
    }
}
