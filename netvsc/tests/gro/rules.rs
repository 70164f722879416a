//! Each rule of what is merged and what is not.

use crate::*;

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
