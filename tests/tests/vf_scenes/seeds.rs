//! Scripts of all scenes, by seed. `VF_SCENES_SEEDS` says how many (300 in release builds, 8 in debug builds, unless it is set),
//! `VF_SEED` runs one of them alone.

use std::time::Duration;

use netvsc_async::Event;
use netvsc_async::vf::Stage;
use netvsc_host::vf::{Scene, Script, ScriptOptions, Step};

use crate::world::{World, ms, paused};

/// All in which nothing may be lost.
fn orderly() -> impl Iterator<Item = Scene> {
    Scene::ALL.into_iter().filter(|scene| !matches!(scene, Scene::Surprise | Scene::Reoffer))
}

fn options(unwilling: Duration) -> ScriptOptions {
    ScriptOptions::default().unwilling(ms(0)..=unwilling)
}

/// What one scene, four times in a row, has to leave behind.
async fn one_scene(seed: u64, scene: Scene) {
    let mut world = World::new(seed).await;
    let nic = world.nic();
    let script = Script::new(seed, &options(ms(12_000)).scenes([scene]).cycles(4));
    let offered = script.steps().filter(|(_, step)| matches!(step, Step::Associate { .. })).count() as u64;
    let revoked = script.steps().filter(|(_, step)| matches!(step, Step::Revoke | Step::Vanish)).count() as u64;
    world.play(script).await;
    let last = || nic.vf().stage == Stage::OnVf && world.host.vf_in_use(nic.id);
    nic.until(last, "the last vf in use").await;
    let counters = nic.vf().counters;
    let told = |wanted: fn(&Event) -> bool| nic.told(wanted) as u64;
    assert_eq!(told(|event| matches!(event, Event::VfOffered { .. })), counters.offered);
    assert_eq!(told(|event| matches!(event, Event::VfRevoked { .. })), counters.revoked);
    assert_eq!(told(|event| matches!(event, Event::VfRefused)), counters.refused);
    assert_eq!(told(|event| matches!(event, Event::VfSwitchTimedOut { .. })), counters.timeouts);
    assert_eq!(counters.revoked, revoked, "{scene}");
    // Repeated ones are none.
    assert!(counters.offered == 1 + revoked && counters.offered <= offered, "{scene}: {counters:?}");
    assert!(counters.switched_to_vf >= 5, "{scene}: {counters:?}");
    match scene {
        Scene::Refusal => assert!(counters.refused > 0, "{counters:?}"),
        Scene::Silence => assert!(counters.timeouts > 0, "{counters:?}"),
        Scene::DoubleOffer => assert!(counters.ignored > 0, "{counters:?}"),
        Scene::OtherSerial => assert!(told(|event| matches!(event, Event::VfOtherSerial { .. })) > 0),
        Scene::Migration => assert_eq!(told(|event| *event == Event::NetworkChanged), 4),
        _ => assert_eq!((counters.refused, counters.timeouts), (0, 0), "{scene}"),
    }
    assert_eq!((counters.lost, counters.surprises), (0, 0), "{scene}: {counters:?}");
    assert!(world.dropped_of(nic) == 0 || scene == Scene::Migration, "only without a link");
    world.write_off_what_was_dropped().await;
    world.end().await;
}

#[test]
fn each_scene_alone() {
    for scene in orderly() {
        for seed in 0..3 {
            let result = std::panic::catch_unwind(|| paused(one_scene(seed, scene)));
            assert!(result.is_ok(), "scene {scene}, seed {seed}");
        }
    }
}

/// All scenes by chance; in some of them the NIC is taken away under traffic, and opened again.
async fn all_scenes(seed: u64) -> u64 {
    let mut world = World::new(seed).await;
    let unwilling = [ms(500), ms(8_000), ms(16_000)][seed as usize % 3];
    let scenes = orderly().chain([Scene::Reoffer, Scene::Reoffer]);
    let script = Script::new(seed, &options(unwilling).scenes(scenes).cycles(10));
    let serials = script.steps().filter_map(|(_, step)| match step {
        Step::Associate { serial } => Some(serial),
        _ => None,
    });
    let last = serials.last();
    let taken = script.steps().filter(|(_, step)| *step == Step::TakeNic).count();
    let opened = world.play_through(script).await;
    assert_eq!(opened, taken, "each time");
    let nic = world.nic();
    nic.until(|| nic.vf().stage == Stage::OnVf && nic.vf().serial == last, "the last vf in use").await;
    assert_eq!((nic.vf().counters.lost, nic.vf().counters.surprises), (0, 0));
    world.write_off_what_was_dropped().await;
    world.end().await;
    opened as u64
}

#[test]
fn all_scenes_by_seed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("VF_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VF_SCENES_SEEDS").unwrap_or(if cfg!(debug_assertions) { 8 } else { 300 }),
    };
    let mut opened = 0;
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| paused(all_scenes(seed)));
        opened += result.unwrap_or_else(|_| panic!("script {seed}: run it alone with VF_SEED={seed}"));
    }
    println!("{} scripts, {opened} migrations", seeds.end - seeds.start);
    assert!(seeds.end - seeds.start < 8 || opened > 0);
}
