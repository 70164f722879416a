//! How much is held, for how long, and what is handed out first.

use crate::*;

#[test]
fn limits_hand_the_frame_out() {
    let frames = flow(&tcp4(), 10, |_, _| {});
    let lengths = |config: GroConfig| {
        let (out, gro) = run_with(config, &frames, |_| RxMeta::default());
        assert!(gro.stats().flushes(FlushReason::Full) > 0);
        out.iter().map(|out| out.frames.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(GroConfig::default().with_max_segments(4)), [4, 4, 2]);
    assert_eq!(lengths(GroConfig::default().with_max_bytes(40 + 350)), [3, 3, 3, 1]);
    // IPv4's own limit: 44 × 1460 + 40 is less than 65536, one more is not.
    let first = Description { payload: payload(1460, 0, 1), ..tcp4() };
    let groups = run(&flow(&first, 60, |_, _| {}));
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [44, 16]);
    let first = Description { payload: payload(65_535 - 40, 0, 1), ..tcp4() };
    assert_eq!(run(&flow(&first, 2, |_, _| {})), [[0], [1]]);
}

#[test]
fn many_flows_at_once_and_the_ninth_of_a_bucket() {
    // One segment of each flow in turn: 64 flows have a place at most, so with 1000 nothing meets its predecessor.
    let with_flows = |flows: u16| {
        let mut frames = Vec::new();
        for round in 0..4usize {
            for number in 0..flows {
                let segments = Description { ports: (number, 443), payload: payload(400, 1, 3), ..tcp4() };
                frames.push(segments.cut(100, false)[round].build());
            }
        }
        let (out, gro) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
        let mut order: HashMap<usize, Vec<usize>> = HashMap::new();
        for frame in out.iter().flat_map(|out| &out.frames) {
            order.entry(frame % usize::from(flows)).or_default().push(frame / usize::from(flows));
        }
        assert!(order.values().all(|frames| frames == &[0, 1, 2, 3]), "each flow in order");
        (gro.stats().aggregates, gro.stats().merged, gro.stats().flushes(FlushReason::Evicted))
    };
    assert_eq!(with_flows(8), (8, 32, 0));
    let (aggregates, merged, evicted) = with_flows(1000);
    assert_eq!((aggregates, merged, evicted), (0, 0, 0), "singles are not counted as aggregates");
}

#[test]
fn the_oldest_of_a_bucket_is_evicted() {
    // Pairs of segments, so that what is evicted are aggregates.
    let mut frames = Vec::new();
    for number in 0..200u16 {
        let segments = Description { ports: (number, 443), payload: payload(200, 1, 3), ..tcp4() };
        frames.extend(segments.cut(100, false).iter().map(Description::build));
    }
    let (out, gro) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
    let evicted = gro.stats().flushes(FlushReason::Evicted);
    assert!(evicted >= 200 - 64, "{evicted}");
    assert_eq!(gro.stats().aggregates, 200);
    let positions: Vec<usize> =
        (0..200).map(|flow| out.iter().position(|out| out.frames == [2 * flow, 2 * flow + 1]).unwrap()).collect();
    // What is left at the end comes last, and it is the youngest: nothing of the first half is left.
    let left = 200 - evicted as usize;
    assert!(positions[..100].iter().all(|position| *position < 200 - left));
}

#[test]
fn other_protocols_pass_and_keep_their_order() {
    let tcp = flow(&tcp4(), 3, |_, _| {});
    let mut icmp = tcp4().build();
    icmp[23] = 1;
    let mut arp = vec![0xFF; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let frames = [tcp[0].clone(), tcp[1].clone(), icmp, tcp[2].clone()];
    assert_eq!(run(&frames), [vec![0, 1], vec![2], vec![3]], "the same addresses");
    let frames = [tcp[0].clone(), arp, vec![1; 5], tcp[1].clone(), tcp[2].clone()];
    assert_eq!(run(&frames), [vec![1], vec![2], vec![0, 3, 4]], "no IP");
}

#[test]
fn what_the_host_merged_passes() {
    let frames = flow(&tcp4(), 3, |_, _| {});
    let (out, _) = run_with(GroConfig::default(), &frames, |_| RxMeta {
        coalesced: Some(Coalesced { fragments: 2, segment_size: 0, fixed_id: false }),
        ..RxMeta::default()
    });
    assert_eq!(out.len(), 3);
    for of_ip in [false, true] {
        let (out, _) = run_with(GroConfig::default(), &frames, |_| {
            let mut meta = RxMeta::default();
            meta.checksum.ip_stale = of_ip;
            meta.checksum.transport_stale = !of_ip;
            meta
        });
        assert_eq!(out.len(), 3, "with a stale sum, of IP: {of_ip}");
    }
}

#[test]
fn frames_are_held_over_polls_for_as_long_as_the_settings_say() {
    let limit = Duration::from_micros(20);
    let frames = flow(&tcp4(), 6, |_, _| {});
    let mut gro = Gro::new(GroConfig::default().with_flush_after(Some(limit)));
    let mut outlet = Outlet { frames: &frames, out: Vec::new() };
    let at = |micros: u64| Instant::new(Duration::from_micros(micros));
    for (number, frame) in frames.iter().enumerate().take(4) {
        let now = at(number as u64 * 6);
        gro.receive(frame, &RxMeta::default(), number, now, &mut outlet);
        gro.end_poll(now, &mut outlet);
        assert_eq!(gro.deadline(), Some(at(20)), "from the first segment on");
    }
    gro.end_poll(at(19), &mut outlet);
    assert!(outlet.out.is_empty());
    gro.end_poll(at(20), &mut outlet);
    assert_eq!(outlet.out.len(), 1);
    assert_eq!(outlet.out[0].frames, [0, 1, 2, 3]);
    assert_eq!((gro.stats().flushes(FlushReason::Age), gro.deadline()), (1, None));
    for (number, frame) in frames.iter().enumerate().skip(4) {
        gro.receive(frame, &RxMeta::default(), number, at(30), &mut outlet);
    }
    gro.flush(&mut outlet);
    assert_eq!(outlet.out[1].frames, [4, 5]);
    assert_eq!(gro.stats().flushes(FlushReason::PollEnd), 1);
}
