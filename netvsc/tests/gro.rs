//! Generic receive offload: each rule of what is merged and what is not, and random flows that are merged and cut again.

mod packets;

use std::collections::HashMap;
use std::time::Duration;
use std::vec::Drain;

use netvsc::frame::Headers;
use netvsc::gro::{BurstMerger, Deliver, FlushReason, Gro, GroConfig, Merged, Received};
use netvsc::meta::{Coalesced, RxMeta, TxMeta, Verdict, Vlan};
use netvsc::queue::{Burst, FrameSink};
use netvsc::segment::Segments;
use netvsc::{Instant, checksum};
use packets::{ACK, CWR, Description, ECE, FIN, Ip, PSH, RST, SYN, Transport, URG, any_ip, ipv4, ipv6, payload, tcp};
use proptest::prelude::*;

/// What came out: the frames' numbers, and the merged frame.
#[derive(Debug, Clone)]
struct Out {
    frames: Vec<usize>,
    merged: Option<Vec<u8>>,
}

/// Looks at what comes out, given the frames that went in.
struct Outlet<'a> {
    frames: &'a [Vec<u8>],
    out: Vec<Out>,
}

impl Deliver<usize> for Outlet<'_> {
    fn frame(&mut self, frame: usize) {
        self.out.push(Out { frames: vec![frame], merged: None });
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, usize>) {
        let frames: Vec<usize> = fragments.collect();
        assert_eq!(frames.len(), merged.segments());
        assert!(frames.len() >= 2);
        let mut bytes = vec![0xEE; merged.len()];
        let segments = || frames.iter().map(|at| &self.frames[*at][..]);
        assert_eq!(merged.gather(segments(), &mut bytes[..merged.len() - 1]), None, "no room");
        assert_eq!(merged.gather(segments(), &mut bytes), Some(merged.len()));

        // One right frame, and what is said of it.
        let verdicts = checksum::verify(&bytes);
        assert_eq!(verdicts.transport, Verdict::Good);
        assert_ne!(verdicts.ip, Verdict::Bad);
        let meta = merged.meta();
        assert_eq!((meta.checksum.transport, meta.checksum.ip), (Verdict::Good, verdicts.ip));
        let coalesced = Coalesced {
            fragments: frames.len() as u16,
            segment_size: merged.segment_size() as u16,
            fixed_id: merged.has_fixed_id(),
        };
        assert_eq!(meta.coalesced, Some(coalesced));

        // Cut again, it is what came in, but for padding.
        let cut = merged.segmentation();
        let mut segments = Segments::new(&bytes, cut.mss as usize).unwrap().with_fixed_id(cut.fixed_id);
        assert_eq!(segments.count(), frames.len());
        for at in &frames {
            let original = &self.frames[*at];
            let mut segment = vec![0; segments.next_len().unwrap()];
            segments.next_into(&mut segment).unwrap();
            assert_eq!(segment, original[..segment.len()], "frame {at}");
            let end = Headers::parse(original).unwrap().end();
            assert_eq!(segment.len(), end, "frame {at}: all but what lies behind the packet");
        }
        self.out.push(Out { frames, merged: Some(bytes) });
    }
}

const PADDING: u8 = 0x5A;

/// Puts frames with their metadata through, as one poll.
fn run_with(config: GroConfig, frames: &[Vec<u8>], meta: impl Fn(usize) -> RxMeta) -> (Vec<Out>, Gro<usize>) {
    let mut gro = Gro::new(config);
    let mut outlet = Outlet { frames, out: Vec::new() };
    for (at, frame) in frames.iter().enumerate() {
        gro.receive(frame, &meta(at), at, Instant::ZERO, &mut outlet);
    }
    gro.end_poll(Instant::ZERO, &mut outlet);
    assert!(gro.is_empty() && gro.deadline().is_none());
    let stats = gro.stats();
    assert_eq!(stats.frames, frames.len() as u64);
    assert_eq!(stats.passed + stats.single + stats.merged, stats.frames);
    assert_eq!(FlushReason::ALL.iter().map(|reason| stats.flushes(*reason)).sum::<u64>(), stats.aggregates);
    assert_eq!(outlet.out.iter().filter(|out| out.merged.is_some()).count() as u64, stats.aggregates);
    (outlet.out, gro)
}

fn run(frames: &[Vec<u8>]) -> Vec<Vec<usize>> {
    let (out, _) = run_with(GroConfig::default().with_udp(true), frames, |_| RxMeta::default());
    out.into_iter().map(|out| out.frames).collect()
}

/// Segments of one flow that would all be merged, each changed by `change`.
fn flow(first: &Description, count: usize, change: impl Fn(usize, &mut Description)) -> Vec<Vec<u8>> {
    let mut large = first.clone();
    large.payload = payload(first.payload.len() * count, 1, 3);
    let mut segments = large.cut(first.payload.len(), false);
    assert_eq!(segments.len(), count);
    segments.iter_mut().enumerate().for_each(|(at, segment)| change(at, segment));
    segments.iter().map(Description::build).collect()
}

fn tcp4() -> Description {
    Description::new(ipv4(), tcp(1000, ACK), payload(100, 0, 1))
}

fn tcp6() -> Description {
    Description::new(ipv6(), tcp(1000, ACK), payload(100, 0, 1))
}

fn udp4() -> Description {
    Description::new(ipv4(), Transport::Udp { with_checksum: true }, payload(100, 0, 1))
}

fn udp6() -> Description {
    Description::new(ipv6(), Transport::Udp { with_checksum: true }, payload(100, 0, 1))
}

fn each_kind() -> [Description; 4] {
    [tcp4(), tcp6(), udp4(), udp6()]
}

fn flags_of(description: &mut Description) -> &mut u8 {
    match &mut description.transport {
        Transport::Tcp { flags, .. } => flags,
        Transport::Udp { .. } => panic!("no flags"),
    }
}

fn sequence_of(description: &mut Description) -> &mut u32 {
    match &mut description.transport {
        Transport::Tcp { sequence, .. } => sequence,
        Transport::Udp { .. } => panic!("no sequence"),
    }
}

/// Four segments of which the third is changed: never merged with those in front of it.
#[track_caller]
fn third_is_apart(first: &Description, change: impl Fn(&mut Description)) {
    let groups = run(&flow(first, 4, |at, segment| {
        if at == 2 {
            change(segment);
        }
    }));
    assert_eq!(groups[0], [0, 1], "{groups:?}");
    let order: Vec<usize> = groups.concat();
    assert_eq!(order, [0, 1, 2, 3], "one flow");
}

#[test]
fn segments_that_follow_each_other_become_one() {
    for first in each_kind() {
        assert_eq!(run(&flow(&first, 20, |_, _| {})), [Vec::from_iter(0..20)]);
    }
}

#[test]
fn a_single_frame_comes_out_as_it_went_in() {
    for first in each_kind() {
        let (out, gro) = run_with(GroConfig::default(), &[first.build()], |_| RxMeta::default());
        assert_eq!((out.len(), out[0].merged.is_some()), (1, false));
        assert_eq!(gro.stats().single + gro.stats().passed, 1);
    }
}

#[test]
fn the_aggregate_is_the_frame_that_was_cut() {
    for first in each_kind() {
        let large = Description { payload: payload(1000, 5, 7), ..first };
        let frames: Vec<_> = large.cut(300, false).iter().map(Description::build).collect();
        let (out, _) = run_with(GroConfig::default().with_udp(true), &frames, |_| RxMeta::default());
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].merged.as_ref(), Some(&large.build()));
    }
}

#[test]
fn flags_of_the_last_segment_are_the_aggregates() {
    let large = Description::new(ipv4(), tcp(1, ACK | FIN | PSH | CWR | ECE), payload(1000, 5, 7));
    let frames: Vec<_> = large.cut(300, false).iter().map(Description::build).collect();
    let (out, gro) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
    assert_eq!(out[0].merged.as_ref(), Some(&large.build()));
    assert_eq!(gro.stats().flushes(FlushReason::Complete), 1);
}

#[test]
fn ip_options_are_never_merged() {
    for mut first in [tcp4(), udp4()] {
        if let Ip::V4 { options, .. } = &mut first.ip {
            *options = vec![1; 4];
        }
        assert_eq!(run(&flow(&first, 3, |_, _| {})), [[0], [1], [2]]);
    }
}

#[test]
fn extension_headers_are_merged_if_they_are_the_same() {
    let mut first = tcp6();
    if let Ip::V6 { extensions, .. } = &mut first.ip {
        extensions.push((60, vec![1, 4, 0, 0, 0, 0]));
    }
    assert_eq!(run(&flow(&first, 4, |_, _| {})), [[0, 1, 2, 3]]);
    third_is_apart(&first, |segment| {
        if let Ip::V6 { extensions, .. } = &mut segment.ip {
            // Another option of no meaning.
            extensions[0].1[0] = 0x1E;
        }
    });
    third_is_apart(&tcp6(), |segment| {
        if let Ip::V6 { extensions, .. } = &mut segment.ip {
            extensions.push((60, vec![1, 4, 0, 0, 0, 0]));
        }
    });
}

#[test]
fn fragments_are_never_merged_and_do_not_overtake() {
    for flag in [0x2000, 0x0001] {
        for first in [tcp4(), udp4()] {
            third_is_apart(&first, |segment| {
                if let Ip::V4 { flags, .. } = &mut segment.ip {
                    *flags = flag;
                }
            });
        }
    }
}

#[test]
fn bad_checksums_are_never_merged() {
    for first in each_kind() {
        let frames = |at: usize| {
            let mut frames = flow(&first, 4, |_, _| {});
            frames[2][at] ^= 1;
            run(&frames)
        };
        let apart = [vec![0, 1], vec![2], vec![3]];
        assert_eq!(frames(first.build().len() - 1), apart, "payload");
        if matches!(first.ip, Ip::V4 { .. }) {
            assert_eq!(frames(24), apart, "IPv4 header");
        }
    }
}

#[test]
fn the_other_zero_is_not_merged_as_cutting_would_not_write_it() {
    // Payload that makes the checksum 0, written as 0xFFFF.
    let mut frames = flow(&tcp4(), 3, |_, _| {});
    let sum = u16::from_be_bytes([frames[1][50], frames[1][51]]);
    let word = u16::from_be_bytes([frames[1][60], frames[1][61]]);
    let fixed = packets::checksum(&[(!word).to_be_bytes(), (!sum).to_be_bytes()].concat());
    frames[1][60..62].copy_from_slice(&fixed.to_be_bytes());
    for (field, groups) in [([0, 0], vec![vec![0, 1, 2]]), ([0xFF, 0xFF], vec![vec![0], vec![1], vec![2]])] {
        frames[1][50..52].copy_from_slice(&field);
        assert_eq!(checksum::verify(&frames[1]).transport, Verdict::Good);
        assert_eq!(run(&frames), groups);
    }
}

#[test]
fn the_hosts_verdict_is_taken_and_without_one_it_is_computed() {
    let mut frames = flow(&tcp4(), 3, |_, _| {});
    let meta = |verdict| {
        move |_: usize| {
            let mut meta = RxMeta::default();
            meta.checksum.transport = verdict;
            meta
        }
    };
    let groups = |frames: &[Vec<u8>], verify: bool, verdict| {
        let mut config = GroConfig::default();
        config.verify = verify;
        run_with(config, frames, meta(verdict)).0.len()
    };
    assert_eq!(groups(&frames, true, Verdict::Unknown), 1);
    assert_eq!(groups(&frames, false, Verdict::Unknown), 3);
    assert_eq!(groups(&frames, true, Verdict::Bad), 3);
    assert_eq!(groups(&frames, false, Verdict::Good), 1);
    // Not even if it is wrong does it look again; what cutting writes is right then, and the only difference.
    frames[1][60] ^= 1;
    assert_eq!(groups(&frames, true, Verdict::Unknown), 3);
}

#[test]
fn syn_rst_and_urg_are_never_merged() {
    for flag in [SYN, RST, URG] {
        for first in [tcp4(), tcp6()] {
            third_is_apart(&first, |segment| *flags_of(segment) |= flag);
            assert_eq!(run(&flow(&first, 3, |_, segment| *flags_of(segment) |= flag)), [[0], [1], [2]]);
        }
    }
}

#[test]
fn fin_and_psh_are_merged_and_end_the_frame() {
    for flag in [FIN, PSH, FIN | PSH] {
        let groups = run(&flow(&tcp4(), 5, |at, segment| {
            if at == 2 {
                *flags_of(segment) |= flag;
            }
        }));
        assert_eq!(groups, [vec![0, 1, 2], vec![3, 4]]);
        // Each by itself, each ends.
        assert_eq!(run(&flow(&tcp4(), 3, |_, segment| *flags_of(segment) |= flag)), [[0], [1], [2]]);
    }
}

#[test]
fn cwr_may_be_on_the_first_only() {
    let first = |at: usize, segment: &mut Description| {
        if at == 0 {
            *flags_of(segment) |= CWR;
        }
    };
    assert_eq!(run(&flow(&tcp4(), 3, first)), [[0, 1, 2]]);
    let groups = run(&flow(&tcp4(), 4, |at, segment| {
        if at == 2 {
            *flags_of(segment) |= CWR;
        }
    }));
    assert_eq!(groups, [[0, 1], [2, 3]]);
}

#[test]
fn other_flags_must_be_the_same() {
    third_is_apart(&tcp4(), |segment| *flags_of(segment) |= ECE);
    third_is_apart(&tcp4(), |segment| *flags_of(segment) &= !ACK);
}

#[test]
fn another_ttl_tos_or_ecn_is_not_merged() {
    for first in [tcp4(), udp4()] {
        third_is_apart(&first, |segment| {
            if let Ip::V4 { ttl, .. } = &mut segment.ip {
                *ttl -= 1;
            }
        });
        // DSCP, ECT(0), congestion experienced.
        for value in [0x20, 0x02, 0x03] {
            third_is_apart(&first, |segment| {
                if let Ip::V4 { tos, .. } = &mut segment.ip {
                    *tos = value;
                }
            });
        }
    }
    for first in [tcp6(), udp6()] {
        third_is_apart(&first, |segment| {
            if let Ip::V6 { hop_limit, .. } = &mut segment.ip {
                *hop_limit -= 1;
            }
        });
        third_is_apart(&first, |segment| {
            if let Ip::V6 { class, .. } = &mut segment.ip {
                *class = 0x03;
            }
        });
        third_is_apart(&first, |segment| {
            if let Ip::V6 { label, .. } = &mut segment.ip {
                *label += 1;
            }
        });
    }
}

#[test]
fn a_congestion_mark_survives() {
    let mut first = tcp4();
    if let Ip::V4 { tos, .. } = &mut first.ip {
        *tos = 0x02;
    }
    let frames = flow(&first, 4, |at, segment| {
        if let (2, Ip::V4 { tos, .. }) = (at, &mut segment.ip) {
            *tos = 0x03;
        }
    });
    let (out, _) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
    assert_eq!(out.iter().map(|out| out.frames.len()).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(out[0].merged.as_ref().unwrap()[15], 0x02);
}

#[test]
fn options_window_acknowledgment_and_urgent_pointer_must_be_the_same() {
    let mut first = tcp4();
    if let Transport::Tcp { options, .. } = &mut first.transport {
        *options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 9];
    }
    assert_eq!(run(&flow(&first, 4, |_, _| {})), [[0, 1, 2, 3]]);
    let change = |kind: usize| {
        move |segment: &mut Description| {
            if let Transport::Tcp { options, acknowledgment, window, urgent, .. } = &mut segment.transport {
                match kind {
                    // The time stamp, fewer options.
                    0 => options[7] += 1,
                    1 => options.truncate(8),
                    2 => *acknowledgment += 1,
                    3 => *window += 1,
                    _ => *urgent += 1,
                }
            }
        }
    };
    for kind in 0..5 {
        third_is_apart(&first, change(kind));
    }
}

#[test]
fn another_vlan_is_another_flow() {
    let tagged = |tag: u16| {
        let mut first = tcp4();
        first.tags = vec![(0x8100, tag)];
        first
    };
    assert_eq!(run(&flow(&tagged(5), 3, |_, _| {})), [[0, 1, 2]]);
    let in_band = flow(&tagged(5), 4, |at, segment| segment.tags[0].1 = 5 + at as u16 % 2);
    let mut groups = run(&in_band);
    groups.sort();
    // Each VLAN for itself, where sequence numbers have gaps.
    assert_eq!(groups, [[0], [1], [2], [3]]);
    let frames = flow(&tcp4(), 4, |_, _| {});
    let (out, _) = run_with(GroConfig::default(), &frames, |at| RxMeta {
        vlan: Some(Vlan::new(if at < 2 { 5 } else { 6 }, 0, false)),
        ..RxMeta::default()
    });
    let groups: Vec<_> = out.into_iter().map(|out| out.frames).collect();
    assert_eq!(groups, [[0, 1], [2, 3]], "tags out of band");
}

#[test]
fn another_ethernet_address_is_another_flow() {
    let frames = flow(&tcp4(), 4, |at, segment| segment.source[5] += u8::from(at >= 2));
    assert_eq!(run(&frames), [[0, 1], [2, 3]]);
}

#[test]
fn empty_payload_is_never_merged() {
    for first in each_kind() {
        third_is_apart(&first, |segment| segment.payload.clear());
    }
}

#[test]
fn gaps_overlaps_and_repetitions_are_not_merged() {
    for delta in [1i32, -1, 100, -100, -200] {
        for first in [tcp4(), tcp6()] {
            third_is_apart(&first, |segment| {
                let sequence = sequence_of(segment);
                *sequence = sequence.wrapping_add_signed(delta);
            });
        }
    }
}

#[test]
fn reordered_segments_stay_in_the_order_they_came_in() {
    let mut frames = flow(&tcp4(), 5, |_, _| {});
    frames.swap(2, 3);
    assert_eq!(run(&frames), [vec![0, 1], vec![2], vec![3], vec![4]]);
}

#[test]
fn sequence_numbers_wrap() {
    for start in [0xFFFF_FF9C, 0xFFFF_FFFF, 0xFFFF_FF00] {
        for ip in [ipv4(), ipv6()] {
            let first = Description::new(ip, tcp(start, ACK), payload(100, 0, 1));
            assert_eq!(run(&flow(&first, 4, |_, _| {})), [[0, 1, 2, 3]]);
        }
    }
}

#[test]
fn a_short_segment_ends_and_a_longer_one_begins_anew() {
    for first in each_kind() {
        let groups = run(&flow(&first, 4, |at, segment| {
            if at == 1 {
                segment.payload.truncate(99);
            }
        }));
        assert_eq!(groups[0], [0, 1]);
    }
    for first in [udp4(), udp6()] {
        let frames = flow(&first, 4, |at, segment| {
            if at == 2 {
                segment.payload.push(0);
            }
        });
        assert_eq!(run(&frames), [[0, 1], [2, 3]]);
    }
}

#[test]
fn identifications_count_or_stay() {
    let ids = |df: bool, ids: [u16; 4]| {
        run(&flow(&tcp4(), 4, |at, segment| {
            if let Ip::V4 { id, flags, .. } = &mut segment.ip {
                *id = ids[at];
                *flags = if df { 0x4000 } else { 0 };
            }
        }))
    };
    let whole = [[0, 1, 2, 3]];
    assert_eq!(ids(true, [1, 2, 3, 4]), whole);
    assert_eq!(ids(false, [1, 2, 3, 4]), whole);
    assert_eq!(ids(false, [0xFFFE, 0xFFFF, 0, 1]), whole);
    assert_eq!(ids(true, [9, 9, 9, 9]), whole);
    assert_eq!(ids(true, [0, 0, 0, 0]), whole);
    assert_eq!(ids(false, [9, 9, 9, 9]), [[0], [1], [2], [3]], "could be fragmented");
    assert_eq!(ids(true, [1, 2, 2, 2]), [vec![0, 1], vec![2, 3]]);
    assert_eq!(ids(true, [1, 1, 2, 3]), [vec![0, 1], vec![2, 3]]);
    assert_eq!(ids(true, [1, 3, 4, 5]), [vec![0], vec![1, 2, 3]]);
    assert_eq!(ids(true, [5, 4, 3, 2]), [[0], [1], [2], [3]]);
}

#[test]
fn do_not_fragment_must_be_the_same() {
    third_is_apart(&tcp4(), |segment| {
        if let Ip::V4 { flags, .. } = &mut segment.ip {
            *flags = 0;
        }
    });
}

#[test]
fn ports_that_are_swapped_are_another_flow() {
    for first in each_kind() {
        let frames = flow(&first, 4, |at, segment| {
            if at >= 2 {
                segment.ports = (segment.ports.1, segment.ports.0);
            }
        });
        let mut groups = run(&frames);
        groups.sort();
        assert_eq!(groups, [[0, 1], [2, 3]]);
    }
}

#[test]
fn udp_without_checksum_is_never_merged() {
    for first in [udp4(), udp6()] {
        third_is_apart(&first, |segment| segment.transport = Transport::Udp { with_checksum: false });
    }
}

#[test]
fn udp_is_merged_only_if_asked_for() {
    for first in [udp4(), udp6()] {
        let frames = flow(&first, 3, |_, _| {});
        let (out, gro) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
        assert_eq!((out.len(), gro.stats().passed), (3, 3));
    }
    let mut config = GroConfig::default();
    config.tcp = false;
    let (out, _) = run_with(config, &flow(&tcp4(), 3, |_, _| {}), |_| RxMeta::default());
    assert_eq!(out.len(), 3);
}

#[test]
fn udp_whose_length_is_not_ips_is_never_merged() {
    let mut frames = flow(&udp4(), 3, |_, _| {});
    // Two bytes less, the checksum made right for that.
    frames[1][38..40].copy_from_slice(&106u16.to_be_bytes());
    let headers = Headers::parse(&frames[1]).unwrap();
    let request = checksum::request(&frames[1], &headers).unwrap();
    checksum::fill(&mut frames[1], request).unwrap();
    assert_eq!(run(&frames), [[0], [1], [2]]);
}

#[test]
fn padding_is_cut_off() {
    let small = Description { payload: vec![7; 3], ..tcp4() };
    let mut frames = flow(&small, 4, |_, _| {});
    frames.iter_mut().for_each(|frame| frame.resize(60, PADDING));
    let (out, _) = run_with(GroConfig::default(), &frames, |_| RxMeta::default());
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].merged.as_ref().unwrap().len(), 54 + 12);
}

#[test]
fn payload_of_odd_length_keeps_the_sum_right() {
    for len in [1, 3, 99, 101] {
        for first in each_kind() {
            let first = Description { payload: payload(len, 0, 1), ..first };
            assert_eq!(run(&flow(&first, 7, |_, _| {})), [Vec::from_iter(0..7)]);
        }
    }
}

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
    let (out, _) = run_with(GroConfig::default(), &frames, |_| {
        let mut meta = RxMeta::default();
        meta.checksum.transport_stale = true;
        meta
    });
    assert_eq!(out.len(), 3, "with a stale sum");
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

/// A burst of these frames.
fn burst(frames: &[Vec<u8>]) -> Burst {
    let mut burst = Burst::new(frames.len().max(1), 256 * 1024);
    for frame in frames {
        burst.buffer(frame.len()).unwrap().copy_from_slice(frame);
        burst.commit(frame.len(), RxMeta::default());
    }
    burst
}

#[test]
fn a_burst_becomes_chains_or_a_burst_of_buffers() {
    let mut frames = flow(&tcp4(), 3, |_, _| {});
    frames.insert(1, vec![9; 60]);
    frames.extend(flow(&tcp6(), 4, |_, _| {}));
    let mut merger = BurstMerger::new(GroConfig::default());
    for round in 1..=2 {
        let mut received = burst(&frames);
        let (mut single, mut chains) = (Vec::new(), Vec::new());
        merger.chains(&received, |item| match item {
            Received::Frame(frame) => single.push(frame.bytes),
            Received::Chain(chain) => {
                let mut bytes = vec![0; chain.merged.len()];
                assert_eq!(chain.gather(&mut bytes), Some(bytes.len()));
                assert_eq!(chain.payload().collect::<Vec<_>>().concat(), bytes[chain.merged.header_len()..]);
                chains.push((chain.frames().len(), bytes));
            }
        });
        assert_eq!(single, [&frames[1][..]], "lies where it lay");
        chains.sort();
        assert_eq!(chains.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [3, 4]);

        let merged = merger.merge(&mut received);
        assert_eq!(merged.len(), 3);
        let mut buffers: Vec<_> = merged.frames().filter(|frame| frame.meta.coalesced.is_some()).collect();
        buffers.sort_by_key(|frame| frame.bytes.len());
        for (frame, (count, bytes)) in buffers.iter().zip(&chains) {
            assert_eq!(frame.bytes, bytes);
            assert_eq!(usize::from(frame.meta.coalesced.unwrap().fragments), *count);
        }
        assert_eq!(merger.stats().aggregates, 4 * round);
    }
    // Nothing to merge: the burst itself, in the order of the ring.
    let frames = [vec![9; 60], tcp4().build(), vec![8; 60]];
    let mut received = burst(&frames);
    let merged = merger.merge(&mut received);
    assert!(merged.frames().zip(&frames).all(|(frame, bytes)| frame.bytes == bytes) && merged.len() == 3);
}

#[test]
fn what_was_merged_is_passed_on_as_it_came() {
    for first in each_kind() {
        let frames = flow(&first, 3, |_, _| {});
        let mut merger = BurstMerger::new(GroConfig::default().with_udp(true));
        let mut received = burst(&frames);
        let frame = merger.merge(&mut received).get(0).unwrap();
        let meta = TxMeta::passing_on(frame.bytes, &frame.meta, 1500);
        let cut = meta.segmentation.unwrap();
        assert_eq!((cut.mss, meta.checksum), (100, None));
        let mut segments = Segments::new(frame.bytes, cut.mss as usize).unwrap().with_fixed_id(cut.fixed_id);
        for frame in &frames {
            let mut segment = vec![0; frame.len()];
            assert_eq!(segments.next_into(&mut segment), Ok(Some(frame.len())));
            assert_eq!(&segment, frame);
        }
        assert_eq!(TxMeta::passing_on(&frames[0], &RxMeta::default(), 1500), TxMeta::default());
    }
}

#[test]
fn what_a_host_merged_is_passed_on_in_segments_of_the_mtu() {
    let frame = Description { payload: payload(5000, 0, 1), ..tcp4() }.build();
    let mut meta = RxMeta {
        vlan: Some(Vlan::new(5, 1, false)),
        coalesced: Some(Coalesced { fragments: 4, segment_size: 0, fixed_id: false }),
        ..RxMeta::default()
    };
    meta.checksum.transport_stale = true;
    let sent = TxMeta::passing_on(&frame, &meta, 1500);
    assert_eq!((sent.vlan, sent.segmentation.map(|cut| cut.mss)), (meta.vlan, Some(1460)));
    // Stale sums of a frame that is not merged are computed.
    meta.coalesced = None;
    let sent = TxMeta::passing_on(&frame, &meta, 1500);
    let checksum = sent.checksum.unwrap();
    assert_eq!((checksum.transport_offset, checksum.ip_header), (34, false));
    assert!(checksum.transport.is_some() && sent.segmentation.is_none());
}
