//! Sections, pages and rings that run out: nothing that was accepted is lost, and the counters add up.

use std::time::Duration;

use netvsc::stats::{NicStats, VfStats};
use netvsc_async::testing::Pair;
use netvsc_async::{Error, Nic, TxMeta};
use netvsc_host::Host;
use netvsc_host::fault::{Fault, When};
use netvsc_tests::frames::{FAR, SIZES, Sequence};
use netvsc_tests::rig::{self, paused};
use tokio::time::Instant;
use vmbus::bus::RingSizes;

/// Hands frames over until there is no room, without letting the host run; how many were taken.
fn fill(pair: &mut Pair, ours: &mut Sequence) -> u64 {
    let before = ours.count();
    loop {
        let frame = ours.frame(ours.count());
        match pair.queue.tx.try_send(&frame, &TxMeta::default()) {
            Ok(()) => drop(ours.make()),
            Err(Error::Full) => return ours.count() - before,
            Err(error) => panic!("{error}"),
        }
        assert!(ours.count() - before < 100_000, "never full");
    }
}

/// The far end gets everything that was accepted so far.
async fn far_gets_all(pair: &mut Pair, ours: &Sequence, seen: &mut Sequence) {
    pair.queue.tx.flush().unwrap();
    while seen.count() < ours.count() {
        seen.check(&pair.far.recv().await.unwrap());
    }
    pair.queue.tx.drained().await.unwrap();
}

/// Value of a counter as `ethtool -S` names it.
fn shown(pair: &Pair, name: &str) -> u64 {
    let queues = pair.nic.queue_stats();
    let stats = NicStats::new(&queues, VfStats::default());
    let found = stats.iter().find(|(shown, _)| shown.to_string() == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}

#[test]
fn without_a_free_section_frames_go_from_pages() {
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder().send_sections(10)).await;
        let mut ours = rig::own(&pair, &[1500]);
        let mut seen = ours.clone();
        for round in 1..=5 {
            let taken = fill(&mut pair, &mut ours);
            // Ten sections take three frames each.
            assert!(taken > 100, "{taken}");
            far_gets_all(&mut pair, &ours, &mut seen).await;
            assert!(shown(&pair, "tx_send_full") >= round);
        }
        let (stats, report) = (rig::stats(&pair), rig::report(&pair));
        assert!(stats.extra.tx_direct > 0 && stats.extra.tx_aggregates > 0, "both ways: {stats:?}");
        assert!(report.counters.tx_section_packets > 0 && report.counters.tx_direct_packets > 0);
        rig::close(pair).await;
    });
}

#[test]
fn without_sections_and_pages_the_sender_is_pushed_back() {
    paused(async {
        let nic = Nic::builder().send_sections(10).tune(|config| config.direct_bytes(0));
        let mut pair = rig::up(Host::builder(), nic).await;
        let mut ours = rig::own(&pair, &[1500]);
        let mut seen = ours.clone();
        for _ in 0..5 {
            // One section stays for control messages.
            assert_eq!(fill(&mut pair, &mut ours), 9 * 3);
            // Which therefore work, however full it is.
            assert!(pair.nic.query(rndis::Oid::LINK_SPEED).await.is_ok());
            far_gets_all(&mut pair, &ours, &mut seen).await;
        }
        assert!(shown(&pair, "tx_send_full") > 0);
        assert_eq!(rig::stats(&pair).extra.tx_direct, 0);
        let (stats, report) = (rig::stats(&pair), rig::report(&pair));
        assert_eq!([stats.tx.packets, report.counters.tx_frames], [ours.count(); 2]);
        rig::close(pair).await;
    });
}

#[test]
fn a_full_ring_pushes_back_and_goes_on() {
    paused(async {
        let rings = RingSizes { outgoing_bytes: 8192, incoming_bytes: 8192 };
        let nic = Nic::builder().tune(|config| config.rings(rings).send_sections(2560));
        let mut pair = rig::up(Host::builder(), nic).await;
        let mut ours = rig::own(&pair, &[1500]);
        let mut seen = ours.clone();
        for _ in 0..20 {
            let taken = fill(&mut pair, &mut ours);
            assert!((30..800).contains(&taken), "a ring of 4096 bytes: {taken}");
            far_gets_all(&mut pair, &ours, &mut seen).await;
        }
        assert!(shown(&pair, "tx_busy") > 0);
        rig::close(pair).await;
    });
}

#[test]
fn a_host_without_room_for_completions_sleeps_until_there_is_some() {
    paused(async {
        let start = Instant::now();
        let rings = RingSizes { outgoing_bytes: 1 << 16, incoming_bytes: 8192 };
        let nic = Nic::builder().send_sections(2560).tune(|config| config.rings(rings));
        let mut pair = rig::up(Host::builder().tune(|settings| settings.max_packets_per_message = 1), nic).await;
        let mut ours = rig::own(&pair, &SIZES);
        let mut seen = ours.clone();
        let taken = fill(&mut pair, &mut ours);
        pair.queue.tx.flush().unwrap();
        // The guest does not run meanwhile.
        let steps = (0..1000).take_while(|_| pair.host.step(start.elapsed()).did_work).count();
        assert!(steps < 1000, "it looks again and again");
        let completed = rig::report(&pair).counters.tx_frames;
        assert!(completed < taken, "all {taken} sends were completed: nothing was held up");
        far_gets_all(&mut pair, &ours, &mut seen).await;
        rig::close(pair).await;
    });
}

#[test]
fn when_receive_sections_run_out_frames_wait_at_the_host() {
    paused(async {
        let start = Instant::now();
        let mut pair = rig::up(Host::builder(), Nic::builder().receive_sections(20)).await;
        let mut theirs = Sequence::new(FAR, &SIZES);
        let mut received = theirs.clone();
        for _ in 0..500 {
            pair.far.send(&theirs.make()).unwrap();
            pair.host.step(start.elapsed());
        }
        // A reader that is slow, and sections that come back a few at a time.
        while received.count() < 500 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for frame in &pair.queue.rx.recv_burst().await.unwrap().expect("open") {
                received.check(frame.bytes);
            }
        }
        assert_eq!(shown(&pair, "rx_queue_0_packets"), 500);
        rig::close(pair).await;
    });
}

#[test]
fn what_was_accepted_is_what_was_completed_and_what_arrived() {
    for (sections, direct) in [(10, 0), (10, 64 << 10), (170, 1 << 20), (2560, 1 << 20)] {
        paused(async {
            let nic = Nic::builder().send_sections(sections).tune(|config| config.direct_bytes(direct));
            let mut pair = rig::up(Host::builder(), nic).await;
            let mut ours = rig::own(&pair, &SIZES);
            let mut seen = ours.clone();
            let mut bytes = 0;
            while ours.count() < 3000 {
                let frame = ours.make();
                bytes += frame.len() as u64;
                pair.queue.tx.send(&frame).await.unwrap();
                while let Ok(frame) = pair.far.try_recv() {
                    seen.check(&frame);
                }
            }
            far_gets_all(&mut pair, &ours, &mut seen).await;
            rig::far_is_quiet(&pair).await;
            let report = rig::report(&pair).counters;
            assert_eq!([shown(&pair, "tx_queue_0_packets"), report.tx_frames, seen.count()], [3000; 3]);
            assert_eq!([shown(&pair, "tx_queue_0_bytes"), report.tx_bytes], [bytes; 2]);
            let stats = rig::stats(&pair);
            assert_eq!([stats.extra.tx_dropped, stats.extra.tx_failed, report.tx_failed], [0; 3]);
            rig::close(pair).await;
        });
    }
}

/// A send that the host failed is not one that it completed: it is counted as dropped, once.
#[test]
fn failed_sends_are_counted_as_dropped() {
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder()).await;
        rig::inject(&pair, Fault::CompletionFailed, When::Every { nth: 10 });
        let mut ours = rig::own(&pair, &SIZES);
        for _ in 0..500 {
            pair.queue.tx.send(&ours.make()).await.unwrap();
            pair.queue.tx.drained().await.unwrap();
        }
        let stats = rig::stats(&pair);
        assert_eq!((stats.extra.tx_failed, stats.extra.tx_dropped, stats.tx.packets), (50, 50, 450));
        pair.host.clear_faults();
        rig::close(pair).await;
    });
}

/// Sends that are never completed keep their sections, and that is told at the end on both sides.
#[test]
fn completions_that_never_come_are_reported_as_leaks() {
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder()).await;
        rig::inject(&pair, Fault::Leak, When::Times { count: 3 });
        let mut ours = rig::own(&pair, &SIZES);
        let mut seen = ours.clone();
        for _ in 0..100 {
            pair.queue.tx.send(&ours.make()).await.unwrap();
            seen.check(&pair.far.recv().await.unwrap());
        }
        let Pair { host, nic, .. } = pair;
        let report = nic.close().await.unwrap();
        assert_eq!(report.outstanding_sends, 3, "{report:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(host.report().leaks.sends, 3);
        assert!(!host.report().is_clean());
    });
}
