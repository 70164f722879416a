//! Frames that were cut or changed anywhere; random flows, merged and cut again.

use crate::*;

#[test]
fn every_cut_frame_passes() {
    for first in each_kind() {
        let frames = flow(&first, 2, |_, _| {});
        for len in 0..frames[1].len() {
            let frames = [frames[0].clone(), frames[1][..len].to_vec()];
            let groups = run(&frames);
            assert_eq!(groups.len(), 2, "{len}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever byte of a header is another: either that frame is not merged, or cutting restores it (the outlet sees to
    /// that). With right checksums, lest those be the reason.
    #[test]
    fn any_other_byte_is_restored_or_not_merged(
        kind in 0usize..4,
        tagged in any::<bool>(),
        which in 1usize..4,
        changes in prop::collection::vec((0usize..80, any::<u8>()), 1..4),
        right in prop::bool::weighted(0.9),
    ) {
        let mut first = each_kind()[kind].clone();
        if tagged {
            first.tags = vec![(0x8100, 5)];
        }
        let mut frames = flow(&first, 4, |_, _| {});
        let frame = &mut frames[which];
        for (at, value) in changes {
            frame[at] ^= value;
        }
        if right
            && let Some(headers) = Headers::parse(frame)
            && let Some(request) = checksum::request(frame, &headers)
        {
            checksum::fill(frame, request).unwrap();
        }
        let (out, _) = run_with(GroConfig::default().with_udp(true), &frames, |_| RxMeta::default());
        let mut order: Vec<usize> = out.into_iter().flat_map(|out| out.frames).collect();
        order.sort_unstable();
        prop_assert_eq!(order, [0, 1, 2, 3]);
    }
}

/// What may happen to a segment on its way.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    Nothing,
    Lost,
    Twice,
    Delayed,
    Corrupt,
    Flags(u8),
    Short(usize),
    Mark,
    Hop,
    Window,
    Fragment,
    NoChecksum,
    IdJump,
    Padded,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        30 => Just(Mishap::Nothing),
        1 => Just(Mishap::Lost),
        1 => Just(Mishap::Twice),
        1 => Just(Mishap::Delayed),
        1 => Just(Mishap::Corrupt),
        3 => any::<u8>().prop_map(Mishap::Flags),
        1 => (0usize..200).prop_map(Mishap::Short),
        1 => Just(Mishap::Mark),
        1 => Just(Mishap::Hop),
        1 => Just(Mishap::Window),
        1 => Just(Mishap::Fragment),
        1 => Just(Mishap::NoChecksum),
        1 => Just(Mishap::IdJump),
        1 => Just(Mishap::Padded),
    ]
}

/// A flow's segments, each with its mishap.
fn any_flow() -> impl Strategy<Value = Vec<(Description, Mishap)>> {
    let transport = prop_oneof![
        4 => (any::<u32>(), prop::collection::vec(any::<[u8; 4]>(), 0..3)).prop_map(|(sequence, words)| {
            Transport::Tcp {
                sequence,
                acknowledgment: 3,
                flags: ACK,
                window: 9,
                urgent: 0,
                options: words.concat(),
            }
        }),
        1 => Just(Transport::Udp { with_checksum: true }),
    ];
    let ip = prop_oneof![3 => Just(ipv4()), 3 => Just(ipv6()), 1 => any_ip()];
    (
        ip,
        transport,
        any::<u8>(),
        1usize..200,
        any::<bool>(),
        prop::collection::vec(mishap(), 1..30),
        prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![(0x8100, 5)]), 1 => Just(vec![(0x88A8, 5), (0x8100, 7)])],
    )
        .prop_map(|(ip, transport, port, size, fixed_id, mishaps, tags)| {
            let mut large = Description::new(ip, transport, payload(size * mishaps.len(), port, 5));
            large.ports.0 = u16::from(port);
            large.tags = tags;
            large.cut(size, fixed_id).into_iter().zip(mishaps).collect()
        })
}

/// The frames of a flow as they arrive.
fn arrive(flow: &[(Description, Mishap)]) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut delayed = None;
    for (description, mishap) in flow {
        let mut segment = description.clone();
        match (mishap, &mut segment.ip, &mut segment.transport) {
            (Mishap::Flags(bits), _, Transport::Tcp { flags, .. }) => *flags = *bits,
            (Mishap::Short(len), ..) => segment.payload.truncate(*len),
            (Mishap::Mark, Ip::V4 { tos, .. }, _) => *tos ^= 3,
            (Mishap::Mark, Ip::V6 { class, .. }, _) => *class ^= 3,
            (Mishap::Hop, Ip::V4 { ttl, .. }, _) => *ttl = ttl.wrapping_sub(1),
            (Mishap::Hop, Ip::V6 { hop_limit, .. }, _) => *hop_limit = hop_limit.wrapping_sub(1),
            (Mishap::Window, _, Transport::Tcp { window, .. }) => *window += 1,
            (Mishap::Fragment, Ip::V4 { flags, .. }, _) => *flags = 0x2000,
            (Mishap::NoChecksum, _, Transport::Udp { with_checksum }) => *with_checksum = false,
            (Mishap::IdJump, Ip::V4 { id, .. }, _) => *id = id.wrapping_add(9),
            _ => {}
        }
        let mut frame = segment.build();
        match mishap {
            Mishap::Lost => continue,
            Mishap::Twice => frames.push(frame.clone()),
            Mishap::Corrupt => *frame.last_mut().unwrap() ^= 0x10,
            Mishap::Padded => frame.resize((frame.len() + 3).max(60), PADDING),
            _ => {}
        }
        let held = delayed.take();
        if matches!(mishap, Mishap::Delayed) {
            delayed = Some(frame);
        } else {
            frames.push(frame);
        }
        frames.extend(held);
    }
    frames.extend(delayed);
    frames
}

/// Mixes flows, keeping the order of each; who a frame belongs to comes with it.
fn mix(flows: &[Vec<Vec<u8>>], mut seed: u64) -> Vec<(usize, Vec<u8>)> {
    let mut next = vec![0; flows.len()];
    let mut mixed = Vec::new();
    while mixed.len() < flows.iter().map(Vec::len).sum() {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let flow = (seed >> 33) as usize % flows.len();
        // Some at a time, as they come from wires.
        for _ in 0..=(seed >> 60) {
            if let Some(frame) = flows[flow].get(next[flow]) {
                mixed.push((flow, frame.clone()));
                next[flow] += 1;
            }
        }
    }
    mixed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// What comes out, cut again, is what went in, every byte of it (the outlet sees to that), once, and in the order of
    /// each flow; what was not merged is the very frame.
    #[test]
    fn merged_and_cut_again_it_is_what_went_in(
        flows in prop::collection::vec(any_flow(), 1..12),
        seed in any::<u64>(),
        polls in 1usize..40,
        max_segments in 2u16..70,
    ) {
        let arrived: Vec<_> = flows.iter().map(|flow| arrive(flow)).collect();
        let mixed = mix(&arrived, seed);
        let frames: Vec<_> = mixed.iter().map(|(_, frame)| frame.clone()).collect();
        let config = GroConfig::default().with_udp(!seed.is_multiple_of(4)).with_max_segments(max_segments);
        let mut gro = Gro::new(config);
        let mut outlet = Outlet { frames: &frames, out: Vec::new() };
        for (at, frame) in frames.iter().enumerate() {
            gro.receive(frame, &RxMeta::default(), at, Instant::ZERO, &mut outlet);
            if at.is_multiple_of(polls) {
                gro.end_poll(Instant::ZERO, &mut outlet);
                prop_assert!(gro.is_empty());
            }
        }
        gro.flush(&mut outlet);
        let order: Vec<usize> = outlet.out.iter().flat_map(|out| out.frames.iter().copied()).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, Vec::from_iter(0..frames.len()), "each once");
        // Flows may have the same ports by chance: then they are one, and all the more in order.
        for flow in 0..flows.len() {
            let of_flow: Vec<usize> = order.iter().copied().filter(|at| mixed[*at].0 == flow).collect();
            prop_assert!(of_flow.is_sorted(), "flow {} came as {:?}", flow, of_flow);
        }
        let stats = gro.stats();
        prop_assert_eq!(stats.passed + stats.single + stats.merged, frames.len() as u64);
    }
}
