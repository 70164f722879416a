//! The balancer on the simulated host, in paused time; and whether its checks can fail.

use std::time::Duration;

use netvsc_async::HashLevel;

use crate::balancer::{Balancer, Config, Verdict};
use crate::simulation::{Report, Sabotage, Scene, run};
use crate::table::mix;
use crate::wire;

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

#[test]
fn no_frame_does_harm() {
    let [own, service, backend] = [2, 80, 11].map(|last| std::net::IpAddr::from([198, 51, 100, last]));
    let six = |last| std::net::IpAddr::from([0x2001, 0xDB8, 0, 0, 0, 0, 0, last]);
    let config = Config {
        mac: [2; 6],
        own: vec![own, six(2)],
        services: vec![service, six(0x80)],
        backends: vec![backend, six(11)],
        level: HashLevel::L4,
        seed: 1,
    };
    let balancer = Balancer::new(config).unwrap();
    balancer.set_living(vec![Some([4; 6]), Some([6; 6])]);
    let backends = balancer.backends().borrow().clone();
    // A TCP segment, an ICMP error about one, questions and answers of neighbours.
    let mut tcp = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]].concat();
    tcp.extend([198, 18, 0, 1, 198, 51, 100, 80, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    let mut error = tcp[..34].to_vec();
    error[23] = 1;
    error.extend([3, 4, 0, 0, 0, 0, 0, 0]);
    error.extend(&tcp[14..]);
    let neighbours = [(own, backend), (six(2), six(11)), (backend, service), (six(11), six(0x80))];
    let mut frames = vec![tcp.clone(), error];
    frames.extend(neighbours.iter().filter_map(|(from, to)| wire::question([4; 6], *from, *to)));
    frames.extend(neighbours.iter().filter_map(|(from, to)| wire::answer([4; 6], *to, [2; 6], Some(*from))));
    assert!(matches!(balancer.decide(&mut tcp, &backends), Verdict::Forward(_)));
    assert_eq!((&tcp[..6], &tcp[6..12]), (&[4; 6][..], &[2; 6][..]));
    let (mut chance, mut forwarded) = (1, 0);
    for _ in 0..300_000 {
        let mut next = |limit: usize| {
            chance = mix(chance);
            chance as usize % limit
        };
        let mut frame = frames[next(frames.len())].clone();
        for _ in 0..next(4) {
            let at = next(frame.len());
            frame[at] = next(256) as u8;
        }
        frame.truncate(next(2 * frame.len()));
        let len = frame.len();
        forwarded += u32::from(matches!(balancer.decide(&mut frame, &backends), Verdict::Forward(_)));
        assert_eq!(frame.len(), len);
    }
    assert!(forwarded > 10_000, "{forwarded}");
}
