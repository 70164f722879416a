//! Frames that are held in the receive buffer: exact when read or sent on, given back once and in any order, never more of them
//! than may be, and gone with their session.

mod packets;
mod queue_host;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::thread;

use netvsc::checksum;
use netvsc::config::ConfigError;
use netvsc::frame::Headers;
use netvsc::meta::{IpVersion, Segmentation, TxMeta, Vlan};
use netvsc::queue::{Burst, Held, HeldBurst, HeldReceives, QueueError, QueueSettings, Rest, RestError, SendError};
use nvsp::Status;
use rndis::packet::{PacketEncoder, PacketMsg};
use rndis::ppi::{PacketId, PacketIdFlags, PpiWord, RxChecksum};
use vmbus::memory::SharedMemoryExt;
use vmbus::packet::TransferRange;

use packets::{ACK, Description, ipv4, payload, tcp};
use queue_host::{FromGuest, Host, Setup, TestQueue, frame, message, pair, pair_with};

const SUCCESS: u32 = 1;
const COPYBREAK: usize = 256;

fn held_burst() -> HeldBurst {
    HeldBurst::new(64, 256 * 1024)
}

/// Frames of these lengths, numbered from `first` on, in sections of the same numbers.
fn put(host: &Host, first: u32, lengths: &[usize]) -> (Vec<Vec<u8>>, Vec<TransferRange>) {
    let frames: Vec<_> = (first..).zip(lengths).map(|(number, len)| frame(number, *len)).collect();
    let ranges = (first..).zip(&frames).map(|(section, frame)| host.put_frame(section, frame)).collect();
    (frames, ranges)
}

/// All bytes of the burst's frames.
fn whole(burst: &HeldBurst) -> Vec<Vec<u8>> {
    let read = |frame: netvsc::queue::HeldFrame<'_>| {
        let mut bytes = vec![0; frame.len() + 1];
        assert_eq!(frame.read(&mut bytes), Ok(frame.len()));
        bytes.pop();
        bytes
    };
    burst.frames().map(read).collect()
}

#[test]
fn long_frames_are_held_until_the_burst_lets_go() {
    let (mut queue, mut host) = pair(Setup::default());
    let (frames, ranges) = put(&host, 0, &[60, 1500, COPYBREAK, COPYBREAK + 1]);
    host.deliver(7, &ranges);
    let mut burst = held_burst();
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 4);
    assert_eq!(whole(&burst), frames);
    let lengths: Vec<_> = burst.frames().map(|frame| (frame.head.len(), frame.rest.len())).collect();
    assert_eq!(lengths, [(60, 0), (COPYBREAK, 1500 - COPYBREAK), (COPYBREAK, 0), (COPYBREAK, 1)]);
    queue.pump().unwrap();
    assert_eq!(host.acks(), [], "two are held");
    assert_eq!(queue.held_receives(), HeldReceives { packets: 1, sections: 4 });
    for frame in burst.frames_mut() {
        frame.head[0] = 0xEE;
    }
    assert!(burst.frames().all(|frame| frame.head[0] == 0xEE));
    burst.clear();
    assert!(burst.is_empty() && burst.get(0).is_none());
    queue.pump().unwrap();
    assert_eq!(host.acks(), [(7, SUCCESS)]);
    assert_eq!(queue.held_receives(), HeldReceives::default());
    let stats = queue.stats();
    assert_eq!((stats.rx.packets, stats.rx.bytes), (4, 60 + 1500 + 256 + 257));
    assert_eq!((stats.extra.rx_held, stats.extra.rx_copied_watermark, stats.extra.acks), (2, 0, 1));
}

#[test]
fn a_packet_is_given_back_after_its_last_frame_whoever_holds_it() {
    let (mut queue, mut host) = pair(Setup::default());
    for packet in 0..3u32 {
        let (_, ranges) = put(&host, packet * 4, &[1000, 1001, 1002, 1003]);
        host.deliver(u64::from(packet) + 1, &ranges);
    }
    let (mut first, mut second) = (held_burst(), held_burst());
    // The second packet is in both.
    assert_eq!(queue.receive_held(&mut first, 6).unwrap(), 6);
    let two = first.take_rest(1).unwrap();
    assert!(first.take_rest(1).is_none(), "taken");
    first.clear();
    queue.pump().unwrap();
    assert_eq!(host.acks(), [], "a frame of the first is held, two of the second were not even received");
    assert_eq!(queue.receive_held(&mut second, 64).unwrap(), 6);
    let kept: Vec<Held> = (0..6).map(|at| second.take_rest(at).unwrap()).collect();
    drop(second);
    queue.pump().unwrap();
    assert_eq!(host.acks(), []);
    assert_eq!(queue.held_receives().packets, 3);
    let mut kept = kept.into_iter();
    let last_of_second: Vec<_> = kept.by_ref().take(2).collect();
    thread::spawn(move || drop(kept)).join().unwrap();
    queue.pump().unwrap();
    assert_eq!(host.acks(), [(3, SUCCESS)]);
    drop(last_of_second);
    queue.flush().unwrap();
    assert_eq!(host.acks(), [(2, SUCCESS)]);
    let mut bytes = vec![0; two.rest().len()];
    two.rest().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, frame(1, 1001)[COPYBREAK..]);
    drop(two);
    assert!(!queue.arm().unwrap());
    assert_eq!(host.acks(), [(1, SUCCESS)]);
}

#[test]
fn a_packet_of_which_a_range_was_unusable_is_said_to_have_failed_when_it_is_given_back() {
    const FAIL: u32 = 2;
    let (mut queue, mut host) = pair(Setup::default());
    let (_, mut ranges) = put(&host, 0, &[1000, 1000]);
    ranges[1].byte_offset = u32::MAX;
    host.deliver(1, &ranges);
    host.deliver(2, &ranges[..1]);
    let mut burst = held_burst();
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 2);
    assert_eq!(host.acks(), []);
    burst.clear();
    queue.pump().unwrap();
    let mut acks = host.acks();
    acks.sort_unstable();
    assert_eq!(acks, [(1, FAIL), (2, SUCCESS)]);
}

#[test]
fn the_watermark_is_not_raised_beyond_what_there_is_room_for_while_frames_are_held() {
    let (mut queue, mut host) = pair(Setup { receive_sections: 8, ..Setup::default() });
    let (_, ranges) = put(&host, 0, &[1000; 8]);
    let mut burst = held_burst();
    for (id, range) in ranges.iter().enumerate() {
        if id == 1 {
            queue.set_most_held(8);
        }
        host.deliver(id as u64 + 1, &[*range]);
        assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 1, "packet {id}");
    }
    assert_eq!(burst.len(), 8);
    assert_eq!(queue.held_receives(), HeldReceives { packets: 4, sections: 4 }, "half of the sections, as before");
    assert_eq!(queue.stats().extra.rx_copied_watermark, 4);
    burst.clear();
    queue.pump().unwrap();
    assert_eq!(host.acks().len(), 8);
    queue.set_most_held(8);
    for (id, range) in ranges.iter().enumerate().take(7) {
        host.deliver(id as u64 + 1, &[*range]);
        assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 1, "packet {id}");
    }
    assert_eq!(queue.held_receives(), HeldReceives { packets: 7, sections: 7 });
}

#[test]
fn beyond_the_watermark_frames_are_copied_whole() {
    let (mut queue, mut host) = pair(Setup::default());
    queue.set_most_held(8);
    let mut all = Vec::new();
    for packet in 0..3u32 {
        let (frames, ranges) = put(&host, packet * 4, &[1000, 60, 1000, 1000]);
        host.deliver(u64::from(packet) + 1, &ranges);
        all.extend(frames);
    }
    let mut burst = held_burst();
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 12);
    assert_eq!(whole(&burst), all);
    assert_eq!(host.acks(), [(3, SUCCESS)], "the third found no room");
    assert_eq!(queue.held_receives(), HeldReceives { packets: 2, sections: 8 });
    assert_eq!((queue.stats().extra.rx_held, queue.stats().extra.rx_copied_watermark), (6, 3));
    // What is let go makes room at once.
    burst.clear();
    let (_, ranges) = put(&host, 0, &[1000; 9]);
    host.deliver(4, &ranges[..8]);
    host.deliver(5, &ranges);
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 17);
    assert_eq!(queue.held_receives(), HeldReceives { packets: 1, sections: 8 });
    assert_eq!(queue.stats().extra.rx_copied_watermark, 3 + 9, "more ranges than may be held at all");
    queue.set_most_held(0);
    burst.clear();
    host.deliver(6, &ranges[..1]);
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 1);
    assert_eq!(burst.get(0).unwrap().rest.len(), 0);
    assert_eq!(host.acks().iter().map(|ack| ack.0).collect::<Vec<_>>(), [2, 1, 5, 4, 6]);
}

#[test]
fn what_needs_work_is_copied_whole() {
    let stale = PpiWord::from(RxChecksum::IP_SUCCEEDED | RxChecksum::IP_VALUE_INVALID);
    let tag = PpiWord::from(Vlan::new(5, 3, false));
    let settings = |reinsert_tags, check_verdicts| {
        let mut settings = QueueSettings::default();
        (settings.reinsert_tags, settings.check_verdicts) = (reinsert_tags, check_verdicts);
        settings
    };
    let part = |flags| PpiWord::from(PacketId { id: 1, version: 1, flags });
    let first = part(PacketIdFlags::SUB_ALLOCATION | PacketIdFlags::FIRST);
    let last = part(PacketIdFlags::SUB_ALLOCATION | PacketIdFlags::LAST);
    let unsummed = PpiWord::from(RxChecksum::IP_SUCCEEDED | RxChecksum::TCP_SUCCEEDED | RxChecksum::TCP_VALUE_INVALID);
    let cases: [(&[&[PpiWord]], QueueSettings, bool); 6] = [
        (&[&[tag]], settings(false, false), true),
        (&[&[tag]], settings(true, false), false),
        (&[&[stale]], settings(false, false), false),
        (&[&[unsummed]], settings(false, false), false),
        (&[&[PpiWord::from(RxChecksum::TCP_SUCCEEDED)]], settings(false, true), false),
        (&[&[first], &[last]], settings(false, false), false),
    ];
    for (case, (messages, settings, held)) in cases.into_iter().enumerate() {
        let (mut queue, mut host) = pair_with(Setup::default(), settings);
        let frame = Description::new(ipv4(), tcp(1, ACK), payload(1200, 1, 1)).build();
        let ranges: Vec<_> = (0..)
            .zip(messages)
            .map(|(section, ppis)| {
                let encoder = PacketEncoder { ppis, ..PacketEncoder::default() };
                let mut bytes = vec![0; encoder.buffer_len(frame.len()).unwrap()];
                encoder.emit(&frame, &mut bytes).unwrap();
                host.put(section, &bytes)
            })
            .collect();
        host.deliver(1, &ranges);
        let mut burst = held_burst();
        assert_eq!(queue.receive_held(&mut burst, 9).unwrap(), 1, "case {case}");
        assert_eq!(burst.get(0).unwrap().rest.is_empty(), !held, "case {case}");
        assert_eq!(host.acks().len(), usize::from(!held), "case {case}");
    }
}

/// What the guest sent, completed.
fn sent(host: &mut Host) -> Vec<Vec<u8>> {
    let packets: Vec<_> = host.take().into_iter().filter(|packet| !matches!(packet, FromGuest::Ack { .. })).collect();
    for packet in &packets {
        host.complete(packet.id(), Status::SUCCESS);
    }
    packets.iter().flat_map(FromGuest::frames).collect()
}

#[test]
fn frames_are_sent_on_by_another_queue_under_other_heads() {
    let ways = [
        Setup::default(),
        Setup { send_sections: 2, direct_pages: 32, ..Setup::default() },
        Setup { send_sections: 0, direct_pages: 64, ..Setup::default() },
        Setup { receive_sections: 0, ..Setup::default() },
        // Messages at odd places.
        Setup {
            limits: netvsc::queue::AggregateLimits { max_packets: 8, max_bytes: 6144, alignment: 1 },
            ..Setup::default()
        },
    ];
    for (way, setup) in ways.into_iter().enumerate() {
        for copybreak in [usize::MAX, 512] {
            let mut settings = QueueSettings::default();
            settings.tx_copybreak = copybreak;
            let (mut from, mut from_host) = pair(Setup::default());
            let (mut to, mut to_host) = pair_with(setup, settings);
            to.attach_mtu(1700);
            let lengths: Vec<usize> = (0..24).map(|at| 200 + 61 * at).collect();
            let (frames, ranges) = put(&from_host, 0, &lengths);
            from_host.deliver(1, &ranges);
            let mut burst = held_burst();
            assert_eq!(from.receive_held(&mut burst, 64).unwrap(), 24);
            let heads = |head: &[u8], at: usize| match at % 3 {
                0 => head.to_vec(),
                // Encapsulated, and shortened to what an address change leaves.
                1 => [&[0x02; 50], head].concat(),
                _ => [&[0x02; 12], &head[60..]].concat(),
            };
            let (mut wanted, mut arrived) = (Vec::new(), Vec::new());
            for (at, held) in burst.frames().enumerate() {
                let head = heads(held.head, at);
                let vlan = (at % 5 == 1).then_some(Vlan::new(0, 9, false));
                let meta = TxMeta { hash: (at % 4 == 1).then_some(7), vlan, ..TxMeta::default() };
                wanted.push([&head[..], &frames[at][held.head.len()..]].concat());
                loop {
                    match to.send_held(&head, held.rest, &meta) {
                        Ok(()) => break,
                        Err(SendError::Full) => {
                            to.flush().unwrap();
                            arrived.extend(sent(&mut to_host));
                            to.pump().unwrap();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            to.flush().unwrap();
            arrived.extend(sent(&mut to_host));
            assert!(arrived == wanted, "way {way}, tx_copybreak {copybreak}");
            drop(burst);
            from.pump().unwrap();
            assert_eq!(from_host.acks(), [(1, SUCCESS)]);
            to.pump().unwrap();
            assert_eq!((to.outstanding(), to.stats().tx.packets), (0, 24));
            assert_eq!(to.free_send_sections(), setup.send_sections as usize);
            assert_eq!(to.free_direct_pages(), setup.direct_pages);
        }
    }
}

#[test]
fn a_frame_goes_out_by_the_queue_that_it_came_by() {
    let (mut queue, mut host) = pair(Setup::default());
    let (frames, ranges) = put(&host, 0, &[1500, 1500]);
    host.deliver(1, &ranges);
    let mut burst = held_burst();
    queue.receive_held(&mut burst, 64).unwrap();
    for frame in &burst {
        queue.send_held(frame.head, frame.rest, &TxMeta::default()).unwrap();
    }
    burst.clear();
    queue.flush().unwrap();
    let packets = host.take();
    let [FromGuest::Section { bytes, .. }, FromGuest::Ack { .. }] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(packets[0].frames(), frames);
    // As long as with `send`, to the byte.
    let (mut plain, mut plain_host) = pair(Setup::default());
    frames.iter().for_each(|frame| queue_host::send(&mut plain, frame).unwrap());
    plain.flush().unwrap();
    let FromGuest::Section { bytes: by_send, .. } = &plain_host.take()[0] else { panic!() };
    assert_eq!(bytes, by_send);
}

#[test]
fn work_on_a_held_frame_is_done() {
    let (mut from, mut from_host) = pair(Setup::default());
    let (mut to, mut to_host) = pair(Setup::default());
    to.attach_mtu(1500);
    let mut tagged = Description::new(ipv4(), tcp(1, ACK), payload(1300, 1, 1));
    tagged.tags = vec![(0x8100, 5)];
    let (plain, tagged) = (Description::new(ipv4(), tcp(1, ACK), payload(1400, 1, 1)).build(), tagged.build());
    let ranges = [from_host.put_frame(0, &plain), from_host.put_frame(1, &tagged), from_host.put_frame(2, &plain)];
    from_host.deliver(1, &ranges);
    let mut burst = held_burst();
    assert_eq!(from.receive_held(&mut burst, 64).unwrap(), 3);
    let headers = Headers::parse(&plain).unwrap();
    let sums = TxMeta { checksum: checksum::request(&plain, &headers), ..TxMeta::default() };
    let segmentation = Segmentation { ip: IpVersion::V4, mss: 500, transport_offset: 34, fixed_id: false };
    let cut = TxMeta { segmentation: Some(segmentation), ..TxMeta::default() };
    let mut messages = Vec::new();
    for (queue, meta) in [(0, sums), (1, TxMeta::default()), (2, cut)] {
        let held = burst.get(queue).unwrap();
        // The same by `send`, of the whole frame.
        let (mut by_send, mut by_send_host) = pair(Setup::default());
        by_send.attach_mtu(1500);
        by_send.send(&whole(&burst)[queue], &meta).unwrap();
        by_send.flush().unwrap();
        to.send_held(held.head, held.rest, &meta).unwrap();
        to.flush().unwrap();
        let sent = to_host.take();
        let bytes = |packets: &[FromGuest]| match packets {
            [FromGuest::Section { bytes, .. }] => bytes.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(&sent), bytes(&by_send_host.take()), "frame {queue}");
        messages.push(bytes(&sent));
    }
    assert_eq!(PacketMsg::parse(&messages[1]).unwrap().data().len(), tagged.len() - 4, "the tag went beside it");
    assert_eq!(to.stats().extra.tx_cut_segments, 3);
    let too_long = Rest::EMPTY.split_at(0).0;
    assert!(matches!(to.send_held(&[0; 9], too_long, &TxMeta::default()), Err(SendError::TooShort { .. })));
    let held = burst.get(0).unwrap();
    let error = to.send_held(&[2; 400], held.rest, &TxMeta::default()).unwrap_err();
    assert_eq!(error, SendError::TooLong { len: 400 + 1454 - COPYBREAK, limit: 1514 });
    assert!(matches!(to.send_held(&[2; 13], held.rest, &TxMeta::default()), Err(SendError::TooShort { .. })));
}

#[test]
fn a_host_that_writes_after_delivery_changes_bytes_and_nothing_else() {
    let (mut from, mut from_host) = pair(Setup::default());
    let (mut to, mut to_host) = pair(Setup::default());
    let one = frame(1, 1500);
    let range = from_host.put_frame(0, &one);
    // The same bytes twice, and once from their middle on: a message inside of the first one's frame.
    from_host.put(1, &[0; 1728]);
    let inner = message(&frame(2, 700));
    let at = range.byte_offset + 44 + 600;
    from_host.receive.write(at as usize, &inner).unwrap();
    let overlapping = TransferRange { byte_count: inner.len() as u32, byte_offset: at };
    from_host.deliver(1, &[range, range, overlapping]);
    let mut burst = held_burst();
    assert_eq!(from.receive_held(&mut burst, 64).unwrap(), 3);
    let heads: Vec<_> = burst.frames().map(|frame| frame.head.to_vec()).collect();
    // Everything is overwritten: message headers, heads, rests.
    from_host.receive.write(0, &[0xA5; 4 * 1728]).unwrap();
    for (at, held) in burst.frames().enumerate() {
        assert_eq!(held.head, heads[at], "what is looked at does not change");
        assert_eq!(held.head.len(), COPYBREAK);
        to.send_held(held.head, held.rest, &TxMeta::default()).unwrap();
    }
    to.flush().unwrap();
    let arrived = sent(&mut to_host);
    assert_eq!(arrived.iter().map(Vec::len).collect::<Vec<_>>(), [1500, 1500, 700]);
    for (at, bytes) in arrived.iter().enumerate() {
        assert_eq!(bytes[..COPYBREAK], heads[at]);
        assert!(bytes[COPYBREAK..].iter().all(|byte| *byte == 0xA5));
    }
    drop(burst);
    from.pump().unwrap();
    assert_eq!(from_host.acks(), [(1, SUCCESS)]);
}

#[test]
fn a_host_cannot_have_more_packets_outstanding_than_sections_by_having_them_held() {
    let (mut queue, mut host) = pair(Setup { receive_sections: 8, ..Setup::default() });
    queue.set_most_held(8);
    let (_, ranges) = put(&host, 0, &[1000]);
    let mut burst = held_burst();
    for id in 1..=8 {
        host.deliver(id, &ranges);
        assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 1);
    }
    host.deliver(9, &ranges);
    let error = queue.receive_held(&mut burst, 64).unwrap_err();
    assert_eq!(error, netvsc::queue::QueueError::TooManyRanges { value: 9, limit: 8 });
}

#[test]
fn a_held_frame_does_not_overtake_what_is_left_of_one_that_is_being_cut() {
    let (mut from, mut from_host) = pair(Setup::default());
    let (_, ranges) = put(&from_host, 0, &[1000]);
    from_host.deliver(1, &ranges);
    let mut burst = held_burst();
    from.receive_held(&mut burst, 1).unwrap();
    let held = burst.get(0).unwrap();
    let (short, _) = held.rest.split_at(20);

    // Two of four segments find room, and there would be some for a short frame behind them.
    let (mut to, mut to_host) = pair(Setup { send_sections: 1, send_section_bytes: 1200, ..Setup::default() });
    to.attach_mtu(1500);
    let long = Description::new(ipv4(), tcp(1, ACK), payload(1400, 1, 1)).build();
    let segmentation = Segmentation { ip: IpVersion::V4, mss: 400, transport_offset: 34, fixed_id: false };
    to.send(&long, &TxMeta { segmentation: Some(segmentation), ..TxMeta::default() }).unwrap();
    assert_eq!(to.send_held(&held.head[..40], short, &TxMeta::default()), Err(SendError::Full));
    let mut lengths = Vec::new();
    for _ in 0..2 {
        to.flush().unwrap();
        lengths.extend(sent(&mut to_host).iter().map(Vec::len));
        to.pump().unwrap();
    }
    lengths.extend(sent(&mut to_host).iter().map(Vec::len));
    to.pump().unwrap();
    to.send_held(&held.head[..40], short, &TxMeta::default()).unwrap();
    to.flush().unwrap();
    lengths.extend(sent(&mut to_host).iter().map(Vec::len));
    assert_eq!(lengths, [454, 454, 454, 254, 60]);
}

#[test]
fn nothing_of_a_session_is_read_sent_or_acknowledged_in_the_next() {
    let (mut queue, mut host) = pair(Setup::default());
    let (_, ranges) = put(&host, 0, &[1000, 1000, 1000, 1000]);
    host.deliver(5, &ranges[..2]);
    host.deliver(6, &ranges[2..]);
    let mut burst = held_burst();
    // The second is held in part, and not received to its end.
    assert_eq!(queue.receive_held(&mut burst, 3).unwrap(), 3);
    let kept = burst.take_rest(1).unwrap();
    assert_eq!(queue.unfinished().held, HeldReceives { packets: 1, sections: 4 });
    let aborted = queue.detach_buffers();
    assert_eq!(aborted.receive_packets, 2);
    assert_eq!(queue.held_receives(), HeldReceives::default());
    let mut bytes = [0; 10];
    assert_eq!(kept.rest().read(0, &mut bytes), Err(RestError::Gone));
    assert_eq!(burst.get(0).unwrap().read(&mut [0; 1000]), Err(RestError::Gone));
    assert_eq!(burst.get(0).unwrap().head.len(), COPYBREAK, "the head stays");

    let (mut other, mut other_host) = pair(Setup { direct_pages: 8, ..Setup::default() });
    let tagged = TxMeta { vlan: Some(Vlan::new(0, 9, false)), ..TxMeta::default() };
    let frame = burst.get(0).unwrap();
    for meta in [TxMeta::default(), tagged] {
        assert_eq!(other.send_held(frame.head, frame.rest, &meta), Err(SendError::Gone));
        queue_host::send(&mut other, &[2; 60]).unwrap();
        assert_eq!(other.send_held(frame.head, frame.rest, &meta), Err(SendError::Gone));
    }
    queue_host::send(&mut other, &[2; 61]).unwrap();
    other.flush().unwrap();
    assert_eq!(sent(&mut other_host).iter().map(Vec::len).collect::<Vec<_>>(), [60, 60, 61]);
    other.pump().unwrap();
    assert_eq!((other.free_send_sections(), other.outstanding()), (8, 0));

    // The next session has packets of the same ids.
    let mut host = queue_host::reopen(&mut queue, Setup::default());
    let (frames, ranges) = put(&host, 0, &[1000, 1000, 1000, 1000]);
    host.deliver(5, &ranges[..2]);
    host.deliver(6, &ranges[2..]);
    let mut next = held_burst();
    assert_eq!(queue.receive_held(&mut next, 64).unwrap(), 4);
    drop((burst, kept));
    queue.pump().unwrap();
    assert_eq!(host.acks(), []);
    assert_eq!(queue.held_receives(), HeldReceives { packets: 2, sections: 4 });
    assert_eq!(whole(&next), frames);
    next.clear();
    queue.pump().unwrap();
    assert_eq!(host.acks().len(), 2);
}

#[test]
fn a_burst_of_another_session_takes_copies_until_it_is_cleared() {
    let (mut queue, mut host) = pair(Setup::default());
    let (_, ranges) = put(&host, 0, &[1000]);
    host.deliver(5, &ranges);
    let mut burst = held_burst();
    queue.receive_held(&mut burst, 64).unwrap();
    queue.detach_buffers();
    let mut host = queue_host::reopen(&mut queue, Setup::default());
    let (frames, ranges) = put(&host, 3, &[1000]);
    host.deliver(5, &ranges);
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 1);
    let got = burst.get(1).unwrap();
    assert_eq!((got.head, got.rest.len()), (&frames[0][..], 0));
    assert_eq!(host.acks(), [(5, SUCCESS)]);
}

#[test]
fn what_is_held_is_waited_for_and_what_is_not_is_put_aside() {
    let (mut queue, mut host) = pair(Setup::default());
    let (frames, ranges) = put(&host, 0, &[1000, 1000, 1000]);
    host.deliver(5, &ranges);
    let mut burst = held_burst();
    assert_eq!(queue.receive_held(&mut burst, 1).unwrap(), 1);
    queue.pause().unwrap();
    let left = queue.quiesce().unwrap();
    let held = HeldReceives { packets: 1, sections: 3 };
    assert_eq!((left.sends, left.receives, left.held), (0, 1, held));
    drop(burst);
    let left = queue.quiesce().unwrap();
    assert_eq!((left.receives, left.held), (0, HeldReceives::default()));
    assert_eq!(host.acks(), [(5, SUCCESS)]);
    let mut burst = held_burst();
    assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 2);
    assert_eq!(whole(&burst), frames[1..], "out of private memory");
    assert_eq!(queue.receive(&mut Burst::new(1, 2000), 9).unwrap(), 0);
}

/// A source of numbers that is the same on every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed >> 32) as u32) % limit
    }
}

/// A host that overwrites each section as soon as it is given back, and knows which are.
struct Server {
    host: Host,
    free: VecDeque<u32>,
    lent: BTreeMap<u64, Vec<u32>>,
    next_id: u64,
    delivered: u32,
}

impl Server {
    fn turn(&mut self, random: &mut Random, total: u32) {
        for (id, status) in self.host.acks() {
            assert_eq!(status, SUCCESS);
            for section in self.lent.remove(&id).expect("an id that is with the guest, once") {
                self.host.put(section, &[0x5A; 1728]);
                self.free.push_back(section);
            }
        }
        while self.delivered < total && random.below(3) > 0 {
            let wanted = if random.below(8) == 0 { 30 } else { 1 + random.below(6) };
            let wanted = wanted.min(total - self.delivered);
            if self.free.len() < wanted as usize || self.host.producer.free_bytes().unwrap() < 128 + 8 * wanted {
                break;
            }
            let sections: Vec<u32> = self.free.drain(..wanted as usize).collect();
            let mut ranges = Vec::new();
            for section in &sections {
                ranges.push(self.host.put_frame(*section, &frame(self.delivered, 60 + random.below(1450) as usize)));
                self.delivered += 1;
            }
            self.next_id += 1;
            self.host.deliver(self.next_id, &ranges);
            self.lent.insert(self.next_id, sections);
        }
    }
}

/// Checks a frame against what the host sent, however much of it was copied when.
fn check(number: u32, head: &[u8], rest: Rest<'_>) {
    let mut bytes = vec![0; head.len() + rest.len()];
    bytes[..head.len()].copy_from_slice(head);
    rest.read(0, &mut bytes[head.len()..]).unwrap();
    assert!(bytes == frame(number, bytes.len()), "frame {number}");
}

fn run(seed: u64, sections: u32, watermark: usize, total: u32) {
    let (mut queue, host) = pair(Setup { receive_sections: sections, ring_bytes: 4096, ..Setup::default() });
    queue.set_most_held(watermark);
    let mut server = Server { host, free: (0..sections).collect(), lent: BTreeMap::new(), next_id: 100, delivered: 0 };
    let mut random = Random(seed);
    let mut burst = HeldBurst::new(24, 48 * 1024);
    let mut copies = Burst::new(24, 48 * 1024);
    // Frames that this thread keeps, and one that drops what it is given, whenever it comes to it.
    let mut kept: Vec<(u32, Vec<u8>, Held)> = Vec::new();
    let (give, taken) = mpsc::channel::<(u32, Vec<u8>, Held)>();
    let dropper = thread::spawn(move || {
        for (number, head, held) in taken {
            check(number, &head, held.rest());
        }
    });
    let (mut got, mut stuck) = (0, 0);
    while got < total {
        server.turn(&mut random, total);
        let before = got;
        let max = 1 + random.below(40) as usize;
        if random.below(10) == 0 {
            queue.receive(&mut copies, max).unwrap();
            for frame in copies.frames() {
                check(got, frame.bytes, Rest::EMPTY);
                got += 1;
            }
            copies.clear();
        } else {
            queue.receive_held(&mut burst, max).unwrap();
            let held = queue.held_receives();
            assert!(held.sections <= watermark, "{held:?} with a watermark of {watermark}");
            for at in 0..burst.len() {
                let frame = burst.get(at).unwrap();
                check(got, frame.head, frame.rest);
                let head = frame.head.to_vec();
                match (random.below(4), burst.take_rest(at)) {
                    (0, Some(held)) => kept.push((got, head, held)),
                    (1, Some(held)) => give.send((got, head, held)).unwrap(),
                    _ => {}
                }
                got += 1;
            }
            burst.clear();
        }
        for _ in 0..random.below(20) {
            if !kept.is_empty() {
                let at = random.below(kept.len() as u32) as usize;
                let (number, head, held) = kept.swap_remove(at);
                check(number, &head, held.rest());
            }
        }
        if random.below(3) == 0 {
            queue.pump().unwrap();
        }
        // Even if nothing is ever let go, the host has sections left.
        stuck = if got == before { stuck + 1 } else { 0 };
        assert!(stuck < 1000, "stuck at {got}: {:?}", queue.held_receives());
    }
    drop((give, kept));
    dropper.join().unwrap();
    queue.pump().unwrap();
    server.turn(&mut random, total);
    assert_eq!(queue.held_receives(), HeldReceives::default());
    assert!(server.lent.is_empty(), "every packet was acknowledged, once: {:?}", server.lent);
    server.free.make_contiguous().sort_unstable();
    assert!(server.free.into_iter().eq(0..sections), "the host has all its sections back");
    let stats = queue.stats();
    assert_eq!((stats.rx.packets, stats.extra.rx_dropped), (u64::from(total), 0));
    assert!(stats.extra.rx_held > 0);
}

#[test]
fn every_byte_is_exact_and_every_section_comes_back_once_whatever_is_held() {
    for seed in 0..6 {
        for (sections, watermark) in [(64, 32), (64, 6), (200, 150), (40, 30)] {
            run(seed, sections, watermark, 1500);
        }
    }
}

#[test]
fn what_is_held_ends_with_a_queue_that_is_dropped_without_ado() {
    // The queue is dropped, gets another channel, or another buffer: the one before may serve anybody then.
    for way in 0..3 {
        let (mut queue, mut host) = pair(Setup::default());
        let (frames, ranges) = put(&host, 0, &[1500; 3]);
        host.deliver(1, &ranges);
        let mut burst = held_burst();
        assert_eq!(queue.receive_held(&mut burst, 64).unwrap(), 3);
        let kept = burst.take_rest(0).unwrap();
        let mut bytes = vec![0; 1500];
        assert_eq!(burst.get(1).unwrap().read(&mut bytes), Ok(1500));
        assert_eq!(bytes, frames[1]);
        let mut new_host = None;
        let queue = match way {
            0 => {
                drop(queue);
                None
            }
            1 => {
                new_host = Some(queue_host::reopen(&mut queue, Setup::default()));
                Some(queue)
            }
            _ => {
                queue_host::attach(&mut queue, &host);
                Some(queue)
            }
        };
        host.receive.write(0, &vec![0xEE; 3 * 1728]).unwrap();
        assert_eq!(burst.get(1).unwrap().read(&mut bytes), Err(RestError::Gone), "way {way}");
        assert_eq!(kept.rest().read(0, &mut bytes[..1]), Err(RestError::Gone), "way {way}");
        let (mut other, _other_host) = pair(Setup::default());
        assert_eq!(other.send_held(&frames[0][..60], kept.rest(), &TxMeta::default()), Err(SendError::Gone));
        drop(kept);
        burst.clear();
        if let Some(mut queue) = queue {
            // Nobody is told of what belonged to the session before.
            queue.pump().unwrap();
            assert_eq!(queue.held_receives(), HeldReceives::default());
            assert_eq!(new_host.as_mut().unwrap_or(&mut host).acks(), [], "way {way}");
        }
    }
}

#[test]
fn heads_are_not_shorter_than_what_is_looked_at() {
    let settings = |rx_copybreak| {
        let mut settings = QueueSettings::default();
        settings.rx_copybreak = rx_copybreak;
        settings
    };
    let wrong = ConfigError::BelowMinimum { field: "rx_copybreak", value: 127, minimum: 128 };
    let (channel, _host) = queue_host::channel(Setup::default());
    let error = TestQueue::new(channel, settings(127)).unwrap_err();
    assert_eq!(error, QueueError::Settings(wrong));
    assert_eq!((vmbus::Error::kind(&error), error.to_string()), (vmbus::ErrorKind::Misuse, wrong.to_string()));
    let (mut queue, _host) = pair_with(Setup::default(), settings(128));
    queue.detach_buffers();
    let (channel, _host) = queue_host::channel(Setup::default());
    assert_eq!(queue.reopen(channel, settings(0)).unwrap_err().to_string(), "rx_copybreak is 0, the minimum is 128");
    assert!(queue.is_detached());
}
