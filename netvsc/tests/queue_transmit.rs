//! Frames from the guest to a fake host: where each goes, and what comes back.

mod queue_host;

use netvsc::Instant;
use netvsc::meta::TxMeta;
use netvsc::queue::{AggregateLimits, ControlInput, ControlToken, SendError, UnpinError};
use nvsp::{ChannelType, Status};
use rndis::packet::{Batch, BatchLimits};
use std::time::Duration;
use vmbus::memory::SharedMemoryExt;
use vmbus::packet::TransactionId;
use vmbus::ring::Outgoing;

use queue_host::{FromGuest, Setup, frame, pair, send};

const LIMITS: AggregateLimits = AggregateLimits { max_packets: 8, max_bytes: 0xEFFF_FFFF, alignment: 8 };

fn sections(packets: &[FromGuest]) -> Vec<usize> {
    packets.iter().map(|packet| packet.frames().len()).collect()
}

#[test]
fn frames_share_a_section_until_the_flush() {
    let (mut queue, mut host) = pair(Setup::default());
    let frames: Vec<_> = [60, 61, 118, 47, 1514].into_iter().enumerate().map(|(n, len)| frame(n as u32, len)).collect();
    for frame in &frames {
        send(&mut queue, frame).unwrap();
    }
    assert!(host.take().is_empty(), "nothing before the flush");
    queue.flush().unwrap();
    assert_eq!(host.bell.count(), 1, "one doorbell");
    let packets = host.take();
    let [FromGuest::Section { channel_type: ChannelType::DATA, bytes, .. }] = &packets[..] else {
        panic!("{packets:?}")
    };
    let limits = BatchLimits { max_messages: 8, max_bytes: 6144, alignment: 8 };
    let batch = Batch::parse(bytes, &limits).expect("aligned as the host asked");
    assert_eq!(batch.iter().map(|message| message.data().to_vec()).collect::<Vec<_>>(), frames);
    let last = batch.iter().last().unwrap();
    assert_eq!(last.as_bytes().len(), 44 + 1514, "the last one is not padded");
    let padding = &bytes[104 + 44 + 61..104 + 112];
    assert_eq!(padding, [0; 7], "zeros between messages");
    assert_eq!(queue.outstanding(), 1);
    assert_eq!(queue.stats().tx.packets, 0, "counted when completed");
    host.complete(packets[0].id(), Status::SUCCESS);
    assert_eq!(queue.pump().unwrap().completions, 1);
    assert_eq!((queue.stats().tx.packets, queue.stats().tx.bytes), (5, frames.iter().map(|f| f.len() as u64).sum()));
    assert_eq!((queue.outstanding(), queue.free_send_sections()), (0, 8));
    assert_eq!(queue.stats().extra.tx_aggregates, 1);
}

#[test]
fn a_message_that_does_not_fit_starts_a_section_and_hands_the_last_one_over() {
    let (mut queue, mut host) =
        pair(Setup { limits: AggregateLimits { max_packets: 100, ..LIMITS }, ..Setup::default() });
    for number in 0..10 {
        send(&mut queue, &frame(number, 1500)).unwrap();
    }
    queue.flush().unwrap();
    let packets = host.take();
    assert_eq!(sections(&packets), [3, 3, 3, 1], "3 × 1544 fit into 6144, 4 do not");
    let used: Vec<_> = packets
        .iter()
        .map(|p| match p {
            FromGuest::Section { section, .. } => *section,
            _ => 99,
        })
        .collect();
    assert_eq!(used, [0, 1, 2, 3], "each in its own section");
}

#[test]
fn the_hosts_limits_are_kept() {
    for (max_packets, expected) in [(1, vec![1; 6]), (2, vec![2, 2, 2]), (4, vec![4, 2]), (0, vec![1; 6])] {
        let (mut queue, mut host) =
            pair(Setup { limits: AggregateLimits { max_packets, ..LIMITS }, ..Setup::default() });
        (0..6).for_each(|number| send(&mut queue, &frame(number, 100)).unwrap());
        queue.flush().unwrap();
        assert_eq!(sections(&host.take()), expected, "at most {max_packets} messages");
    }
    // Two messages take 104 + 104 bytes, the limit is one less.
    for (max_bytes, expected) in [(208, vec![2]), (207, vec![1, 1])] {
        let (mut queue, mut host) = pair(Setup { limits: AggregateLimits { max_bytes, ..LIMITS }, ..Setup::default() });
        (0..2).for_each(|number| send(&mut queue, &frame(number, 60)).unwrap());
        queue.flush().unwrap();
        assert_eq!(sections(&host.take()), expected, "at most {max_bytes} bytes");
        assert!(
            matches!(send(&mut queue, &frame(0, 300)), Err(SendError::TooLong { len: 344, limit }) if limit == max_bytes as usize)
        );
    }
    for alignment in [1, 2, 4, 64, 256, 512, 3, 0] {
        let (mut queue, mut host) = pair(Setup { limits: AggregateLimits { alignment, ..LIMITS }, ..Setup::default() });
        (0..3).for_each(|number| send(&mut queue, &frame(number, 61)).unwrap());
        queue.flush().unwrap();
        let packets = host.take();
        if alignment.is_power_of_two() && alignment <= 256 {
            let FromGuest::Section { bytes, .. } = &packets[0] else { panic!("{packets:?}") };
            let limits = BatchLimits { max_messages: 3, max_bytes: 6144, alignment };
            assert_eq!(Batch::parse(bytes, &limits).unwrap().count(), 3, "aligned to {alignment}");
            assert_eq!(bytes.len(), 2 * 105usize.next_multiple_of(alignment as usize) + 105);
        } else {
            assert_eq!(sections(&packets), [1, 1, 1], "no sense in {alignment}: no aggregation");
        }
    }
}

#[test]
fn a_frame_longer_than_the_mtu_is_refused_unless_it_is_tagged() {
    let (mut queue, mut host) = pair(Setup::default());
    send(&mut queue, &frame(0, 1600)).expect("no limit until one is set");
    queue.attach_mtu(1500);
    send(&mut queue, &frame(0, 1514)).unwrap();
    assert_eq!(send(&mut queue, &frame(0, 1515)), Err(SendError::TooLong { len: 1515, limit: 1514 }));
    let tagged = |len| {
        let mut frame = frame(0, len);
        frame[12..14].copy_from_slice(&[0x81, 0x00]);
        frame
    };
    send(&mut queue, &tagged(1518)).unwrap();
    assert_eq!(send(&mut queue, &tagged(1519)), Err(SendError::TooLong { len: 1519, limit: 1518 }));
    assert_eq!(queue.stats().global.tx_too_big, 2);
    queue.flush().unwrap();
    let frames: Vec<_> = host.take().iter().flat_map(|packet| packet.frames().into_iter().map(|f| f.len())).collect();
    assert_eq!(frames, [1600, 1514, 1514], "the tag goes beside the frame");
}

#[test]
fn a_message_may_fill_a_section_to_the_last_byte() {
    let (mut queue, mut host) = pair(Setup::default());
    send(&mut queue, &frame(1, 6144 - 44)).unwrap();
    assert_eq!(
        send(&mut queue, &frame(2, 6144 - 43)),
        Err(SendError::TooLong { len: 6145, limit: 6144 }),
        "longer than a section, and there are no pages"
    );
    assert_eq!(queue.stats().global.tx_too_big, 1);
    assert_eq!(send(&mut queue, &[0; 13]), Err(SendError::TooShort { len: 13, minimum: 14 }));
    queue.flush().unwrap();
    assert_eq!(sections(&host.take()), [1]);
}

#[test]
fn without_a_free_section_a_frame_goes_into_pages_or_is_refused() {
    for direct_pages in [0, 2] {
        let (mut queue, mut host) = pair(Setup { send_sections: 2, direct_pages, ..Setup::default() });
        for number in 0..2 {
            send(&mut queue, &frame(number, 1000)).unwrap();
            queue.flush().unwrap();
        }
        assert_eq!(queue.free_send_sections(), 0);
        assert_eq!(queue.can_send(1000), direct_pages > 0);
        let third = send(&mut queue, &frame(2, 1000));
        assert_eq!(queue.stats().global.tx_send_full, 1);
        queue.flush().unwrap();
        let packets = host.take();
        if direct_pages == 0 {
            assert_eq!(third, Err(SendError::Full));
            assert_eq!(packets.len(), 2, "nothing was taken");
        } else {
            third.unwrap();
            assert!(matches!(&packets[2], FromGuest::Direct { pages: 1, .. }));
            assert_eq!(packets[2].frames(), [frame(2, 1000)]);
            assert_eq!(queue.stats().extra.tx_direct, 1);
        }
        // Sections come back only with their own completion, in any order.
        for packet in packets.iter().rev() {
            host.complete(packet.id(), Status::SUCCESS);
        }
        queue.pump().unwrap();
        assert_eq!((queue.free_send_sections(), queue.free_direct_pages(), queue.outstanding()), (2, direct_pages, 0));
        send(&mut queue, &frame(3, 1000)).unwrap();
    }
}

#[test]
fn a_short_frame_waits_for_one_of_many_sections() {
    let (mut queue, mut host) = pair(Setup { send_sections: 64, direct_pages: 4, ..Setup::default() });
    for number in 0..64 {
        send(&mut queue, &frame(number, 100)).unwrap();
        queue.flush().unwrap();
    }
    assert!(!queue.can_send(100));
    assert_eq!(send(&mut queue, &frame(64, 100)), Err(SendError::Full));
    assert_eq!(queue.free_direct_pages(), 4);
    assert!(!queue.can_send(3000), "it may ask to be cut into short ones");
    // As it is, a section takes few of these.
    send(&mut queue, &frame(64, 3000)).unwrap();
    queue.flush().unwrap();
    let packets = host.take();
    host.complete(packets[0].id(), Status::SUCCESS);
    queue.pump().unwrap();
    assert!(queue.can_send(100));
    send(&mut queue, &frame(65, 100)).unwrap();
}

#[test]
fn a_pinned_payload_is_sent_from_where_it_is() {
    let (mut queue, mut host) = pair(Setup { send_sections: 4, direct_pages: 3, ..Setup::default() });
    queue.attach_mtu(1500);
    queue.attach_limits(LIMITS);
    let whole = frame(1, 1500);
    let (head, payload) = whole.split_at(42);
    let pinned = queue.pin(payload);
    assert_eq!(queue.free_direct_pages(), 2);
    let meta = netvsc::meta::TxMeta::default();
    for _ in 0..3 {
        queue.send_pinned(head, &pinned, &meta).unwrap();
    }
    queue.flush().unwrap();
    let packets = host.take();
    let pages: Vec<_> = packets.iter().map(|packet| matches!(packet, FromGuest::Direct { pages: 2, .. })).collect();
    assert_eq!(pages, [true, true, false], "no page was left for the last one's headers");
    assert!(packets.iter().all(|packet| packet.frames() == [whole.clone()]));
    assert_eq!((queue.stats().extra.tx_direct, queue.outstanding()), (2, 3));
    let refused = queue.unpin(pinned).expect_err("the host may still read it");
    assert!(matches!(refused, UnpinError::Outstanding { sends: 3, .. }), "{refused}");
    let pinned = refused.into_inner();
    for packet in &packets {
        host.complete(packet.id(), Status::SUCCESS);
    }
    queue.pump().unwrap();
    assert_eq!(queue.free_direct_pages(), 2);
    let tag = netvsc::meta::TxMeta { vlan: Some(netvsc::meta::Vlan::new(9, 2, false)), ..meta };
    queue.send_pinned(head, &pinned, &tag).unwrap();
    queue.flush().unwrap();
    let tagged = host.take();
    assert_eq!(tagged[0].frames(), std::slice::from_ref(&whole));
    host.complete(tagged[0].id(), Status::SUCCESS);
    queue.pump().unwrap();
    // What is not for whole frames alone is refused.
    assert_eq!(queue.send_pinned(&head[..13], &pinned, &meta), Err(SendError::TooShort { len: 13, minimum: 14 }));
    assert_eq!(queue.send_pinned(&[2; 100], &pinned, &meta), Err(SendError::TooLong { len: 1558, limit: 1514 }));
    let mut in_band = head.to_vec();
    in_band[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(queue.send_pinned(&in_band, &pinned, &meta), Err(SendError::NotPlain));
    queue.unpin(pinned).unwrap();
    assert_eq!((queue.free_direct_pages(), queue.outstanding()), (3, 0));
}

#[test]
fn what_another_queue_pinned_and_what_is_short_is_copied() {
    let (mut other, _) = pair(Setup { direct_pages: 3, ..Setup::default() });
    let (mut queue, mut host) = pair(Setup { send_sections: 4, direct_pages: 3, ..Setup::default() });
    queue.attach_limits(LIMITS);
    let (long, short) = (frame(1, 1500), frame(2, 64));
    let foreign = other.pin(&long[42..]);
    let own = queue.pin(&short[42..]);
    let meta = netvsc::meta::TxMeta::default();
    queue.send_pinned(&long[..42], &foreign, &meta).unwrap();
    queue.send_pinned(&short[..42], &own, &meta).unwrap();
    queue.flush().unwrap();
    let packets = host.take();
    assert!(matches!(packets[..], [FromGuest::Section { .. }]));
    assert_eq!(packets[0].frames(), [long, short]);
    let refused = other.unpin(own).expect_err("it is not its own");
    assert!(matches!(refused, UnpinError::OtherQueue { .. }), "{refused}");
    assert_eq!(queue.free_direct_pages(), 2);
    drop(refused);
    host.complete(packets[0].id(), Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!(queue.free_direct_pages(), 3, "dropped is given back");
    other.unpin(foreign).unwrap();
}

#[test]
fn a_payload_that_is_dropped_keeps_its_page_while_the_host_may_read_it() {
    let (mut queue, mut host) = pair(Setup { send_sections: 4, direct_pages: 3, ..Setup::default() });
    queue.attach_mtu(1500);
    queue.attach_limits(LIMITS);
    let whole = frame(1, 1500);
    let pinned = queue.pin(&whole[42..]);
    queue.send_pinned(&whole[..42], &pinned, &netvsc::meta::TxMeta::default()).unwrap();
    queue.flush().unwrap();
    drop(pinned);
    queue.pump().unwrap();
    assert_eq!(queue.free_direct_pages(), 1, "the payload's and the headers' are lent");
    let packets = host.take();
    assert_eq!(packets[0].frames(), [whole]);
    host.complete(packets[0].id(), Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!((queue.free_direct_pages(), queue.outstanding()), (3, 0));
}

#[test]
fn a_frame_longer_than_a_section_goes_into_pages_in_order() {
    let (mut queue, mut host) = pair(Setup { direct_pages: 40, ..Setup::default() });
    let frames = [frame(0, 100), frame(1, 9000), frame(2, 100), frame(3, 65_000)];
    frames.iter().for_each(|frame| send(&mut queue, frame).unwrap());
    queue.flush().unwrap();
    let packets = host.take();
    let pages: Vec<_> = packets
        .iter()
        .map(|p| match p {
            FromGuest::Direct { pages, .. } => *pages,
            _ => 0,
        })
        .collect();
    assert_eq!(pages, [0, 3, 0, 16]);
    assert_eq!(packets.iter().flat_map(FromGuest::frames).collect::<Vec<_>>(), frames);
    assert_eq!(send(&mut queue, &vec![0; 200_000]), Err(SendError::TooLong { len: 200_044, limit: 32 * 4096 }));
    assert_eq!(send(&mut queue, &vec![0; 100_000]), Err(SendError::Full), "21 pages are free");
    packets.iter().for_each(|packet| host.complete(packet.id(), Status::SUCCESS));
    queue.pump().unwrap();
    send(&mut queue, &vec![0; 100_000]).unwrap();
    assert_eq!(queue.free_direct_pages(), 40 - 25);
}

#[test]
fn completions_of_ids_that_are_not_outstanding_change_nothing() {
    let (mut queue, mut host) = pair(Setup::default());
    send(&mut queue, &frame(0, 60)).unwrap();
    queue.flush().unwrap();
    let id = host.take()[0].id();
    for foreign in [0, id.0 + 1, id.0 | 1 << 32, u64::MAX, u64::MAX - 2] {
        host.complete(TransactionId(foreign), Status::SUCCESS);
    }
    queue.pump().unwrap();
    assert_eq!((queue.stats().extra.stale_completions, queue.outstanding(), queue.free_send_sections()), (5, 1, 7));
    host.complete(id, Status::SUCCESS);
    host.complete(id, Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!((queue.stats().extra.stale_completions, queue.outstanding(), queue.free_send_sections()), (6, 0, 8));
    // The section is lent again: the old id is stale.
    send(&mut queue, &frame(1, 60)).unwrap();
    queue.flush().unwrap();
    host.complete(id, Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!((queue.stats().extra.stale_completions, queue.outstanding(), queue.free_send_sections()), (7, 1, 7));
    assert_eq!(queue.stats().tx.packets, 1);
}

#[test]
fn whatever_is_not_plainly_a_success_counts_as_dropped() {
    let (mut queue, mut host) = pair(Setup::default());
    let payloads: [&[u8]; 4] = [&[108, 0, 0, 0, 2, 0, 0, 0], &[], &[108, 0, 0, 0], &[107, 0, 0, 0, 1, 0, 0, 0]];
    for payload in payloads {
        send(&mut queue, &frame(0, 60)).unwrap();
        send(&mut queue, &frame(0, 60)).unwrap();
        queue.flush().unwrap();
        let id = host.take()[0].id();
        host.write(&Outgoing::completion(id, payload));
    }
    queue.pump().unwrap();
    let stats = queue.stats();
    assert_eq!((stats.extra.tx_failed, stats.extra.tx_dropped, stats.tx.packets), (4, 8, 0));
    assert_eq!(queue.free_send_sections(), 8, "the sections came back all the same");
}

#[test]
fn a_full_ring_refuses_and_wakes() {
    let setup = Setup {
        ring_bytes: 4096,
        send_sections: 200,
        limits: AggregateLimits { max_packets: 1, ..LIMITS },
        ..Setup::default()
    };
    let (mut queue, mut host) = pair(setup);
    let mut sent = 0;
    while send(&mut queue, &frame(sent, 60)) != Err(SendError::Full) {
        sent += 1;
        queue.flush().unwrap();
    }
    // 4096 bytes, less one slot, less an eighth for acknowledgments; 64 bytes each.
    assert_eq!(sent, (4096 - 8 - 512) / 64);
    assert_eq!(queue.stats().global.tx_busy, 1);
    assert!(!queue.can_send(60));
    assert!(!queue.want_send_room(60).unwrap());
    assert_eq!(queue.stats().global.stop_queue, 1);
    // The host is asked to signal: it does when it gives room back.
    let packets: Vec<_> = std::iter::from_fn(|| host.next()).collect();
    assert_eq!(packets.len(), sent as usize);
    assert!(host.consumer.commit().unwrap().is_needed());
    assert!(queue.want_send_room(60).unwrap());
    send(&mut queue, &frame(99, 60)).unwrap();
    assert_eq!(queue.stats().global.wake_queue, 1);
    queue.flush().unwrap();
    assert!(host.next().is_some());
    assert!(!host.consumer.commit().unwrap().is_needed(), "nobody waits any more");
}

#[test]
fn control_messages_find_a_section_or_a_page_however_busy_the_senders_are() {
    for direct_pages in [0, 1] {
        let (mut queue, mut host) = pair(Setup { subchannel: 0, send_sections: 3, direct_pages, ..Setup::default() });
        while send(&mut queue, &frame(0, 6000)).is_ok() {
            queue.flush().unwrap();
        }
        assert_eq!(queue.free_send_sections(), usize::from(direct_pages == 0));
        host.take();
        queue.send_rndis_control(&[9; 76], ControlToken(5)).unwrap();
        let packets = host.take();
        match &packets[..] {
            [FromGuest::Section { channel_type: ChannelType::CONTROL, bytes, .. }] if direct_pages == 0 => {
                assert_eq!(*bytes, [9; 76]);
            }
            [FromGuest::Direct { channel_type: ChannelType::CONTROL, bytes, .. }] => assert_eq!(*bytes, [9; 76]),
            other => panic!("{other:?}"),
        }
        host.complete(packets[0].id(), Status::SUCCESS);
        queue.pump().unwrap();
        match queue.poll_control() {
            Some(ControlInput::Completed { token: ControlToken(5), payload }) => {
                assert_eq!(payload[..4], [108, 0, 0, 0])
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(queue.stats().tx.packets, 0, "not a frame");
        assert!(matches!(
            queue.send_rndis_control(&[0; 7000], ControlToken(6)),
            Err(SendError::TooLong { len: 7000, limit: 6144 })
        ));
    }
}

#[test]
fn nvsp_messages_go_in_band_behind_the_frames_before_them() {
    let (mut queue, mut host) = pair(Setup { subchannel: 0, ..Setup::default() });
    send(&mut queue, &frame(0, 60)).unwrap();
    queue.send_nvsp(&[1; 40], Some(ControlToken(1))).unwrap();
    queue.send_nvsp(&[2; 28], None).unwrap();
    let packets = host.take();
    assert_eq!(packets[0].frames(), [frame(0, 60)]);
    let FromGuest::InBand { id, wants_completion: true, .. } = packets[1] else { panic!("{packets:?}") };
    let FromGuest::InBand { wants_completion: false, ref payload, id: none } = packets[2] else {
        panic!("{packets:?}")
    };
    assert_eq!((payload.len(), payload[27], payload[28]), (32, 2, 0));
    // An empty completion is one; one that nobody asked for is not.
    host.write(&Outgoing::completion(id, &[]));
    host.write(&Outgoing::completion(none, &[]));
    queue.pump().unwrap();
    assert!(
        matches!(queue.poll_control(), Some(ControlInput::Completed { token: ControlToken(1), payload }) if payload.is_empty())
    );
    assert_eq!(queue.poll_control(), None);
    assert_eq!(queue.stats().extra.stale_completions, 1);
}

#[test]
fn detaching_reports_what_was_outstanding() {
    let (mut queue, mut host) = pair(Setup { subchannel: 0, direct_pages: 4, ..Setup::default() });
    for number in 0..3 {
        send(&mut queue, &frame(number, 100)).unwrap();
    }
    queue.send_rndis_control(&[1; 28], ControlToken(0)).unwrap();
    send(&mut queue, &frame(3, 7000)).unwrap();
    for number in 4..6 {
        send(&mut queue, &frame(number, 100)).unwrap();
    }
    let range = host.put_frame(0, &frame(0, 60));
    host.deliver(1, &[range]);
    queue.pump().unwrap();
    let aborted = queue.detach_buffers();
    assert_eq!((aborted.frames, aborted.controls, aborted.receive_packets), (6, 1, 1));
    assert_eq!(queue.stats().extra.tx_dropped, 6);
    assert_eq!(queue.outstanding(), 0);
    assert_eq!(send(&mut queue, &frame(0, 60)), Err(SendError::NotAttached));
}

#[test]
fn a_silent_host_is_noticed() {
    let (mut queue, mut host) = pair(Setup::default());
    let second = |n| Instant::new(Duration::from_secs(n));
    assert_eq!(queue.stalled_for(second(0)), None);
    (0..2).for_each(|number| {
        send(&mut queue, &frame(number, 60)).unwrap();
        queue.flush().unwrap();
    });
    assert_eq!(queue.stalled_for(second(1)), Some(Duration::ZERO));
    assert_eq!(queue.stalled_for(second(11)), Some(Duration::from_secs(10)));
    let ids: Vec<_> = host.take().iter().map(FromGuest::id).collect();
    host.complete(ids[0], Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!(queue.stalled_for(second(12)), Some(Duration::ZERO), "progress");
    assert_eq!(queue.stalled_for(second(15)), Some(Duration::from_secs(3)));
    host.complete(ids[1], Status::FAIL);
    queue.pump().unwrap();
    assert_eq!(queue.stalled_for(second(16)), None);
}

#[test]
fn what_is_between_messages_is_zeros_and_not_what_was_sent_before() {
    let (mut queue, mut host) = pair(Setup { send_sections: 1, ..Setup::default() });
    // Whatever the section held before.
    host.send.write(0, &vec![0xEE; 6144]).unwrap();
    let hash = |frame: u32| frame.is_multiple_of(2).then_some(7);
    let lengths = [61, 62, 67, 71, 60, 65, 63, 66];
    for (number, len) in (0..).zip(lengths) {
        queue.send(&frame(number, len), &TxMeta { hash: hash(number), ..TxMeta::default() }).unwrap();
    }
    queue.flush().unwrap();
    let packets = host.take();
    let [FromGuest::Section { bytes, .. }] = &packets[..] else { panic!("{packets:?}") };
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut padded) = (0, 0);
    for (number, len) in (0..).zip(lengths) {
        let data = at + 8 + word(at + 8);
        assert_eq!(bytes[data..data + len], frame(number, len), "message {number}");
        let end = at + word(at + 4);
        assert!(bytes[data + len..end].iter().all(|byte| *byte == 0), "behind message {number}");
        padded += end - data - len;
        at = end;
    }
    assert!(at == bytes.len() && padded > 0);
}

#[test]
fn the_only_section_of_a_primary_channel_is_not_kept_from_frames() {
    let (mut queue, mut host) = pair(Setup { send_sections: 1, subchannel: 0, ..Setup::default() });
    send(&mut queue, &frame(1, 60)).unwrap();
    queue.flush().unwrap();
    assert_eq!(sections(&host.take()), [1]);
}
