//! The balancer on the simulated host, in paused time; and whether its checks can fail.

use std::time::Duration;

use netvsc_async::HashLevel;

use crate::simulation::{Report, Sabotage, Scene, run};

fn scene(queues: u16) -> Scene {
    let probe = Duration::from_millis(200);
    Scene { flows: 2000, queues, seed: 1, level: HashLevel::L4, probe, sabotage: None }
}

fn paused(scene: &Scene) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(scene))
}

#[test]
fn flows_stay_where_they_are_as_backends_go_and_come() {
    for queues in [1, 2, 4, 8] {
        let report = paused(&scene(queues)).unwrap();
        assert!(report.shares.iter().all(|[first, _, after]| first == after), "{report}");
        assert_eq!(report.shares[2][1], 0, "{report}");
        assert_eq!(report.moved, report.shares[2][0], "{report}");
    }
}

#[test]
fn a_client_stays_on_one_backend_by_addresses_alone() {
    paused(&Scene { level: HashLevel::L3, ..scene(4) }).unwrap();
}

#[test]
fn another_seed_spreads_otherwise() {
    let [one, other] = [1, 2].map(|seed| paused(&Scene { seed, ..scene(2) }).unwrap());
    assert_ne!(one.shares, other.shares);
}

#[test]
fn flows_that_wander_are_noticed() {
    let error = paused(&Scene { sabotage: Some(Sabotage::WanderingFlows), ..scene(2) }).unwrap_err();
    assert!(error.to_string().contains("moved"), "{error:#}");
}

#[test]
fn changed_content_is_noticed() {
    let error = paused(&Scene { sabotage: Some(Sabotage::CorruptFrames), ..scene(2) }).unwrap_err();
    assert!(format!("{error:#}").contains("checksum"), "{error:#}");
}
