//! Frames beyond 1514 bytes: MTUs that the host grants or not, and frames that are too long in any case.

use netvsc::Warning;
use netvsc::queue::SendError;
use netvsc_async::{Error, Event, Nic, TxMeta};
use netvsc_host::switch::SwitchConfig;
use netvsc_host::{Host, Profile};
use netvsc_tests::frames::Sequence;
use netvsc_tests::rig::{self, paused};
use nvsp::Version;

/// Ethernet header.
const HEADER: usize = 14;

/// Sizes up to the MTU's longest frame, around a send section's 6144 bytes and page boundaries.
fn sizes(mtu: usize) -> Vec<usize> {
    let all = [22, 60, 1500, 1514, 2048, 4000, 4052, 4096, 6099, 6100, 6101, 6144, 8192, 9000, 16384, 65000];
    all.into_iter().filter(|&len| len < mtu + HEADER).chain([mtu + HEADER - 1, mtu + HEADER]).collect()
}

#[test]
fn every_profile_carries_jumbo_frames() {
    for profile in Profile::ALL {
        // The host's most is more than its switch carries unless it is told to.
        let switch = SwitchConfig::default().max_frame_bytes(9216);
        for mtu in [68, 1499, 1501, 4000, 9000, 9202] {
            paused(async {
                let mut pair = rig::up(Host::builder().profile(profile).switch(switch), Nic::builder().mtu(mtu)).await;
                assert_eq!(pair.nic.info().mtu, mtu);
                rig::exchange(&mut pair, &sizes(mtu as usize), 60).await;
                assert_eq!(rig::stats(&pair).extra.tx_dropped, 0);
                rig::close(pair).await;
            });
        }
    }
}

/// NVSP 1 has no way to ask for an MTU, and a host takes 9216 bytes at most.
#[test]
fn an_mtu_that_the_host_does_not_grant_falls_back_and_is_told() {
    for (max, mtu, effective) in
        [(Version::V1, 9000, 1500), (Version::V1, 1400, 1400), (Version::V6_1, 65521, 1500), (Version::V2, 9000, 9000)]
    {
        paused(async {
            let mut pair = rig::up(Host::builder().nvsp_max(max), Nic::builder().mtu(mtu)).await;
            let mut events = pair.nic.events();
            assert_eq!(pair.nic.info().mtu, effective, "NVSP {max}");
            let seen = rig::events_within(&mut events, std::time::Duration::from_secs(1)).await;
            let lowered = Event::Warning(Warning::MtuLowered { requested: mtu, effective });
            assert_eq!(seen.contains(&lowered), mtu > effective, "{seen:?}");
            rig::exchange(&mut pair, &sizes(effective as usize), 50).await;
            rig::close(pair).await;
        });
    }
}

/// A frame longer than the MTU is refused here and not left to a host, which throws such frames away.
#[test]
fn frames_that_are_too_long_or_too_short_are_typed_errors_and_do_no_harm() {
    for mtu in [1500, 4000, 9000] {
        paused(async {
            let mut pair = rig::up(Host::builder(), Nic::builder().mtu(mtu)).await;
            let longest = mtu as usize + HEADER;
            let source = pair.nic.info().mac.0;
            for len in [longest + 1, 2 * longest, 65536 * 4] {
                let frame = Sequence::new(source, &[len]).frame(0);
                let error = pair.queue.tx.send(&frame).await.unwrap_err();
                assert_eq!(error, Error::Send(SendError::TooLong { len, limit: longest }));
                assert!(matches!(pair.queue.tx.try_send(&frame, &TxMeta::default()), Err(Error::Send(_))));
            }
            for len in [0, 1, 13] {
                let error = pair.queue.tx.send(&vec![0; len]).await.unwrap_err();
                assert_eq!(error, Error::Send(SendError::TooShort { len, minimum: 14 }));
            }
            assert!(rig::stats(&pair).global.tx_too_big >= 6);
            rig::exchange(&mut pair, &sizes(mtu as usize), 40).await;
            rig::close(pair).await;
        });
    }
}

/// Without pages that the host can reach, a send section is the longest that there is.
#[test]
fn without_direct_memory_a_frame_beyond_a_section_is_too_long() {
    paused(async {
        let nic = Nic::builder().mtu(9000).tune(|config| config.direct_bytes(0));
        let mut pair = rig::up(Host::builder(), nic).await;
        assert!(!pair.nic.info().direct);
        let source = pair.nic.info().mac.0;
        let error = pair.queue.tx.send(&Sequence::new(source, &[6200]).frame(0)).await.unwrap_err();
        let Error::Send(SendError::TooLong { len, limit: 6144 }) = error else { panic!("{error:?}") };
        assert!(len > 6200, "headers included: {len}");
        pair.queue.tx.send(&Sequence::new(source, &[6000]).frame(0)).await.unwrap();
        assert_eq!(pair.far.recv().await.unwrap().len(), 6000);
        rig::close(pair).await;
    });
}
