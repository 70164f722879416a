//! A host that says anything, in every state: no panic, no unbounded queue, and always an end.

mod control_host;

use control_host::{Fed, RECEIVE_GPADL, React, Rig, SEND_GPADL};
use netvsc::Config;
use netvsc::control::MAX_EVENTS;
use netvsc::queue::ControlToken;
use proptest::prelude::*;
use vmbus::bus::Purpose;
use vmbus::gpadl::GpadlId;

/// Bytes that look like an NVSP or RNDIS message for as long as it takes to be read further.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![0u32..16, Just(0u32), Just(u32::MAX), 100u32..140, any::<u32>(), Just(0x4001_000B)];
    let kind = prop_oneof![
        0u32..8,
        100u32..140,
        (0u32..12).prop_map(|kind| kind | 0x8000_0000),
        Just(0x8000_0002),
        Just(0x8000_0004),
        Just(7u32),
    ];
    (kind, any::<bool>(), prop::collection::vec(word, 0..24), 0usize..4).prop_map(|(kind, honest, words, cut)| {
        let mut bytes = kind.to_le_bytes().to_vec();
        if honest {
            bytes.extend((8 + 4 * words.len() as u32).to_le_bytes());
        }
        bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        bytes.truncate(bytes.len() - cut);
        bytes
    })
}

fn fed() -> impl Strategy<Value = Fed> {
    let gpadl = prop_oneof![Just(RECEIVE_GPADL), Just(SEND_GPADL), Just(GpadlId(9))];
    let purpose = prop_oneof![Just(Purpose::Receive), Just(Purpose::Send), Just(Purpose::Direct)];
    prop_oneof![
        4 => (0u32..40, message()).prop_map(|(token, bytes)| Fed::Completed(ControlToken(token), bytes)),
        4 => message().prop_map(Fed::Nvsp),
        8 => message().prop_map(Fed::Rndis),
        1 => Just(Fed::Offered),
        1 => Just(Fed::Opened),
        1 => any::<u32>().prop_map(Fed::OpenFailed),
        1 => gpadl.clone().prop_map(Fed::GpadlCreated),
        1 => gpadl.clone().prop_map(|gpadl| Fed::GpadlFailed(gpadl, 1)),
        1 => gpadl.clone().prop_map(Fed::GpadlTornDown),
        1 => purpose.clone().prop_map(Fed::NotAllocated),
        1 => (purpose, any::<usize>(), prop::option::of(gpadl)).prop_map(|(p, b, g)| Fed::Allocated(p, b, g)),
        1 => (0usize..3, 0usize..3).prop_map(|(sends, receives)| Fed::Outstanding(sends, receives)),
        1 => (0usize..3, 0usize..3).prop_map(|(sends, receives)| Fed::Detached(sends, receives)),
        1 => Just(Fed::Rescinded),
        2 => (0u16..6).prop_map(Fed::SubchannelOffered),
        1 => (0u16..6).prop_map(Fed::SubchannelOpened),
        1 => (0u16..6).prop_map(|queue| Fed::SubchannelNotOpened(queue, 1)),
        1 => (0u16..6).prop_map(Fed::SubchannelRescinded),
        1 => (0u16..6).prop_map(Fed::SubchannelFailed),
    ]
}

/// What the honest part of the host does at some steps.
fn react() -> impl Strategy<Value = React> {
    prop_oneof![
        12 => Just(React::Normal),
        1 => Just(React::Silent),
        1 => Just(React::Refuse),
        2 => message().prop_map(React::Raw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_host_leaves_the_machine_sane(
        reacts in prop::collection::vec(react(), 40),
        inputs in prop::collection::vec((0usize..40, fed()), 0..60),
        close_at in 0usize..80,
        queues in prop_oneof![Just(1u16), 2u16..5],
    ) {
        let mut reacts = reacts.into_iter();
        let mut rig = Rig::scripted(Config::default().queues(queues), move |_| reacts.next().unwrap_or(React::Normal));
        let mut inputs = inputs.into_iter().peekable();
        for turn in 0..80 {
            while let Some((_, fed)) = inputs.next_if(|(at, _)| *at <= turn) {
                rig.control.handle(rig.now, fed.input());
            }
            if turn == close_at {
                rig.control.close(rig.now);
            }
            rig.actions();
            if let Some(fed) = rig.feed.pop_front() {
                rig.control.handle(rig.now, fed.input());
            }
        }
        rig.control.close(rig.now);
        rig.run_to_end();
        prop_assert!(rig.events.len() <= MAX_EVENTS + 80);
        let ends = rig.events.iter().filter(|event| matches!(
            event,
            netvsc::Event::Closed(_) | netvsc::Event::Gone(_) | netvsc::Event::Failed { .. }
        ));
        prop_assert_eq!(ends.count(), 1);
        prop_assert!(rig.labels.iter().filter(|label| *label == "close").count() <= 1);
        prop_assert!(rig.control.poll_timeout().is_none());
    }
}
