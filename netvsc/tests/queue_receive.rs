//! Frames from a fake host to the guest: what is delivered, what is refused, and what the acknowledgments say.

mod queue_host;

use netvsc::meta::{Hash, RxMeta, Verdict, Vlan};
use netvsc::queue::{Burst, ControlInput, FrameSink, QueueError, QueueSettings, ReceiveBuffer};
use nvsp::ChannelType;
use rndis::control::IndicateStatus;
use rndis::packet::{Batch, BatchLimits, PacketEncoder};
use rndis::ppi::{HashInfo, PacketId, PacketIdFlags, PpiWord, RxChecksum};
use serde_json::Value;
use vmbus::memory::{SharedMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferRange};
use vmbus::ring::Outgoing;

use queue_host::{SET_ID, Setup, frame, hex, message, pair, receive_all, send};

const SUCCESS: u32 = 1;
const FAIL: u32 = 2;

fn vectors(name: &str) -> Vec<Value> {
    let path = format!("{}/../rndis/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

#[test]
fn a_packet_is_acknowledged_once_and_after_its_last_frame() {
    let (mut queue, mut host) = pair(Setup::default());
    let frames: Vec<_> = (0..5).map(|number| frame(number, 60 + 300 * number as usize)).collect();
    let ranges: Vec<_> = frames.iter().enumerate().map(|(at, frame)| host.put_frame(at as u32, frame)).collect();
    host.deliver(7, &ranges);
    let mut burst = Burst::new(64, 65536);
    assert_eq!(queue.receive(&mut burst, 3).unwrap(), 3);
    assert_eq!(host.acks(), [], "two frames are left");
    assert_eq!(queue.backlog(), 2);
    assert_eq!(queue.receive(&mut burst, 3).unwrap(), 2);
    assert_eq!(host.acks(), [(7, SUCCESS)]);
    assert_eq!(burst.frames().map(|frame| frame.bytes.to_vec()).collect::<Vec<_>>(), frames);
    assert_eq!(queue.stats().rx.packets, 5);
    assert_eq!(queue.stats().rx.bytes, frames.iter().map(|frame| frame.len() as u64).sum::<u64>());
    assert_eq!(host.bell.count(), 1, "the acknowledgment's");
}

#[test]
fn a_packet_may_have_375_ranges_of_whole_odd_sized_sections() {
    // OpenVMM: sections of 1806 bytes, so that offsets are 2-byte aligned; the data at byte 256; every range spans its
    // whole section, whatever the frame.
    let (mut queue, mut host) = pair(Setup { receive_section_bytes: 1806, ..Setup::default() });
    let checksum = [PpiWord::from(RxChecksum::TCP_SUCCEEDED)];
    let encoder = PacketEncoder { ppis: &checksum, data_offset: Some(256), message_len: Some(1806) };
    let frames: Vec<_> = (0..375).map(|number| frame(number, 14 + 4 * number as usize)).collect();
    let mut section = vec![0xAA; 1806];
    let ranges: Vec<_> = frames
        .iter()
        .enumerate()
        .map(|(at, frame)| {
            encoder.emit(frame, &mut section).unwrap();
            host.put(at as u32 + 16, &section)
        })
        .collect();
    assert!(ranges.iter().any(|range| range.byte_offset % 4 == 2) && ranges.iter().all(|r| r.byte_count == 1806));
    host.deliver(16, &ranges);
    assert_eq!(receive_all(&mut queue), frames);
    assert_eq!(host.acks(), [(16, SUCCESS)]);
}

/// The frames of a recorded loopback host, many to a packet: what comes is what had been sent.
#[test]
fn batches_of_a_recorded_host_are_received_frame_by_frame() {
    const SECTION: usize = 1806;
    for (name, widest) in [("batch", 6), ("batch-big", 27)] {
        let path = format!("{}/../tests/data/captures/netvsp-host/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let session: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let setup = Setup { receive_section_bytes: SECTION as u32, receive_sections: 145, ..Setup::default() };
        let (mut queue, mut host) = pair(setup);
        let (mut sent, mut received, mut most) = (Vec::new(), Vec::new(), 0);
        for packet in session["events"].as_array().unwrap().iter().filter(|event| event["ev"] == "packet") {
            // Control messages are others' business.
            if word(&packet["payload"], 4) == Some(1) {
                continue;
            }
            if let Some(data) = packet["section"]["data"].as_str().map(hex) {
                let batch = Batch::parse(&data, &BatchLimits::NONE).unwrap();
                sent.extend(batch.iter().map(|message| message.data().to_vec()));
            }
            let Some(ranges) = packet["xfer"]["ranges"].as_array() else { continue };
            let id = packet["tid"].as_u64().unwrap();
            let ranges: Vec<_> = ranges
                .iter()
                .map(|range| {
                    let data = hex(range["data"].as_str().unwrap());
                    let put = host.put((range["offset"].as_u64().unwrap() as usize / SECTION) as u32, &data);
                    assert_eq!(u64::from(put.byte_offset), range["offset"].as_u64().unwrap(), "whole sections");
                    put
                })
                .collect();
            most = most.max(ranges.len());
            host.deliver(id, &ranges);
            received.extend(receive_all(&mut queue));
            assert_eq!(host.acks(), [(id, SUCCESS)], "{name}");
        }
        assert_eq!(most, widest, "{name}");
        // The last one was sent while the filter was closed.
        let unheard = sent.pop();
        assert!(unheard.is_some() && received == sent, "{name}: {} of {} frames", received.len(), sent.len());
    }
}

/// A word of a recorded payload.
fn word(payload: &Value, at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(hex(payload.as_str()?).get(at..at + 4)?.try_into().unwrap()))
}

#[test]
fn the_host_s_word_about_a_frame_arrives() {
    let (mut queue, mut host) = pair(Setup::default());
    let cases: [(&[PpiWord], RxMeta); 4] = [
        (&[], RxMeta::default()),
        (
            &[
                PpiWord::from(RxChecksum::UDP_SUCCEEDED | RxChecksum::IP_SUCCEEDED),
                PpiWord::from(Vlan::new(5, 3, false)),
                PpiWord::hash_value(0xDEAD_BEEF),
                PpiWord::from(HashInfo::TOEPLITZ | HashInfo::TCP_IPV4),
            ],
            {
                let mut meta = RxMeta::default();
                meta.checksum.ip = Verdict::Good;
                meta.checksum.transport = Verdict::Good;
                meta.vlan = Some(Vlan::new(5, 3, false));
                meta.hash = Some(Hash { value: 0xDEAD_BEEF, covers: HashInfo(0x201) });
                meta
            },
        ),
        (&[PpiWord::from(RxChecksum::TCP_FAILED | RxChecksum::TCP_SUCCEEDED)], {
            let mut meta = RxMeta::default();
            meta.checksum.transport = Verdict::Bad;
            meta
        }),
        // More than the head holds: the rest is copied for itself.
        (&[PpiWord::hash_value(9); 20], {
            let covers = HashInfo::EMPTY;
            RxMeta { hash: Some(Hash { value: 9, covers }), ..RxMeta::default() }
        }),
    ];
    for (section, (ppis, meta)) in cases.iter().enumerate() {
        let encoder = PacketEncoder { ppis, ..PacketEncoder::default() };
        let frame = frame(section as u32, 100);
        let mut bytes = vec![0; encoder.buffer_len(100).unwrap()];
        encoder.emit(&frame, &mut bytes).unwrap();
        let range = host.put(section as u32, &bytes);
        host.deliver(section as u64 + 1, &[range]);
        let mut burst = Burst::new(1, 4096);
        assert_eq!(queue.receive(&mut burst, 9).unwrap(), 1);
        let got = burst.get(0).unwrap();
        assert_eq!((got.bytes, got.meta), (&frame[..], *meta), "case {section}");
    }
    assert_eq!(host.acks().len(), 4);
}

#[test]
fn bad_ranges_fail_the_packet_and_spare_the_others() {
    // 27 whole pages: the memory ends where the sections end.
    let setup = Setup { receive_sections: 64, ..Setup::default() };
    let size = 64 * 1728;
    let bad = [
        TransferRange { byte_count: 60, byte_offset: size },
        TransferRange { byte_count: 60, byte_offset: size - 59 },
        TransferRange { byte_count: 60, byte_offset: u32::MAX },
        TransferRange { byte_count: u32::MAX, byte_offset: 0 },
        TransferRange { byte_count: u32::MAX, byte_offset: 1 },
        TransferRange { byte_count: 1729, byte_offset: 0 },
        TransferRange { byte_count: 7, byte_offset: 0 },
        TransferRange { byte_count: 0, byte_offset: 0 },
    ];
    for (at, &bad) in bad.iter().enumerate() {
        let (mut queue, mut host) = pair(setup);
        let good = [host.put_frame(0, &frame(1, 60)), host.put_frame(1, &frame(2, 60))];
        host.deliver(5, &[good[0], bad, good[1]]);
        assert_eq!(receive_all(&mut queue), [frame(1, 60), frame(2, 60)], "range {at}");
        assert_eq!(host.acks(), [(5, FAIL)], "range {at}");
        assert_eq!((queue.stats().extra.bad_ranges, queue.stats().extra.rx_dropped), (1, 1), "range {at}");
    }
}

#[test]
fn hostile_messages_are_refused_and_nothing_else() {
    let (mut queue, mut host) = pair(Setup::default());
    let mut refused = 0;
    for (number, vector) in vectors("packets_hostile.json").iter().enumerate() {
        let bytes = hex(vector["hex"].as_str().unwrap());
        let name = vector["name"].as_str().unwrap();
        let is_packet = bytes.first_chunk() == Some(&1u32.to_le_bytes());
        let accepted = vector["expect"]["accepted"].as_bool().unwrap();
        let ranges = [host.put(0, &bytes), host.put_frame(1, &frame(number as u32, 60))];
        host.deliver(1, &ranges);
        let frames = receive_all(&mut queue);
        assert_eq!(frames.len(), 1 + usize::from(accepted), "{name}");
        assert_eq!(frames.last(), Some(&frame(number as u32, 60)), "{name}");
        assert_eq!(host.acks(), [(1, if accepted { SUCCESS } else { FAIL })], "{name}");
        refused += u64::from(!accepted && is_packet);
        // Every truncation, too.
        for len in 8..bytes.len().min(200) {
            let range = host.put(2, &bytes[..len]);
            host.deliver(2, &[range]);
            receive_all(&mut queue);
            assert_eq!(host.acks().len(), 1, "{name} cut to {len}");
        }
    }
    assert!(refused > 20, "{refused} vectors");
    assert!(queue.stats().extra.bad_messages >= refused);
}

#[test]
fn packets_without_sense_are_dropped_unacknowledged() {
    let (mut queue, mut host) = pair(Setup::default());
    let range = host.put_frame(0, &frame(1, 60));
    host.transfer(1, SET_ID + 1, 1, &[range], ChannelType::DATA);
    host.transfer(2, SET_ID, 0, &[range], ChannelType::DATA);
    host.transfer(3, SET_ID, 2, &[range], ChannelType::DATA);
    host.transfer(4, SET_ID, u32::MAX, &[range], ChannelType::DATA);
    let header = [&[0xFE, 0xCA, 0, 0, 1, 0, 0, 0][..], &range.to_bytes()].concat();
    for payload in [&[107, 0, 0, 0][..], &[], &[106, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        host.write(&Outgoing {
            packet_type: PacketType::TRANSFER_PAGES,
            header: &header,
            ..Outgoing::request(TransactionId(5), payload)
        });
    }
    host.write(&Outgoing { packet_type: PacketType(3), ..Outgoing::request(TransactionId(6), &[0; 16]) });
    assert!(receive_all(&mut queue).is_empty());
    assert_eq!(host.acks(), []);
    assert_eq!(queue.stats().extra.bad_packets, 8);
    host.deliver(9, &[range]);
    assert_eq!(receive_all(&mut queue), [frame(1, 60)], "the queue lives on");
    // Before there is a buffer, and after: silently.
    let (mut queue, mut host) = pair(Setup { receive_sections: 0, ..Setup::default() });
    host.deliver(1, &[TransferRange { byte_count: 60, byte_offset: 0 }]);
    assert!(receive_all(&mut queue).is_empty());
    assert_eq!((host.acks(), queue.stats().extra.bad_packets), (vec![], 1));
}

#[test]
fn more_ranges_than_sections_end_the_queue() {
    let (mut queue, mut host) = pair(Setup { receive_sections: 4, ..Setup::default() });
    let range = host.put_frame(0, &frame(1, 60));
    host.deliver(1, &[range; 4]);
    assert_eq!(queue.pump().unwrap().ranges, 4);
    host.deliver(2, &[range]);
    let failed = QueueError::TooManyRanges { value: 5, limit: 4 };
    assert_eq!(queue.pump(), Err(failed));
    // For good: who goes on asking is not left to wait for an interrupt that means nothing.
    assert_eq!(queue.arm(), Err(failed));
    assert_eq!(queue.pump(), Err(failed));
}

#[test]
fn what_is_more_than_may_wait_is_dropped_and_given_back() {
    let (mut queue, mut host) = pair(Setup::default());
    queue.set_most_waiting(4);
    let frames: Vec<_> = (0..12).map(|number| frame(number, 60)).collect();
    let ranges: Vec<_> = frames.iter().enumerate().map(|(at, frame)| host.put_frame(at as u32, frame)).collect();
    for (id, ranges) in [(1, &ranges[..2]), (2, &ranges[2..4]), (3, &ranges[4..5]), (4, &ranges[5..8])] {
        host.deliver(id, ranges);
    }
    assert_eq!(queue.pump().unwrap().ranges, 4);
    queue.flush().unwrap();
    assert_eq!(host.acks(), [(3, FAIL), (4, FAIL)]);
    assert_eq!((queue.stats().global.rx_no_memory, queue.stats().extra.rx_dropped), (4, 4));
    assert_eq!(receive_all(&mut queue), frames[..4]);
    assert_eq!(host.acks(), [(1, SUCCESS), (2, SUCCESS)]);
    // One that has more by itself comes where nothing waits.
    host.deliver(5, &ranges[4..10]);
    assert_eq!(receive_all(&mut queue), frames[4..10]);
    assert_eq!(host.acks(), [(5, SUCCESS)]);
}

#[test]
fn coalesced_frames_follow_the_vectors() {
    for vector in vectors("rsc.json") {
        let Some(ranges) = vector["ranges_hex"].as_array() else { continue };
        let name = vector["name"].as_str().unwrap();
        let expect = &vector["expect"];
        let (mut queue, mut host) = pair(Setup::default());
        let ranges: Vec<_> =
            ranges.iter().enumerate().map(|(at, range)| host.put(at as u32, &hex(range.as_str().unwrap()))).collect();
        host.deliver(1, &ranges);
        let mut burst = Burst::new(8, 65536);
        queue.receive(&mut burst, 8).unwrap();
        assert_eq!(burst.len() as u64, expect["frames"].as_u64().unwrap(), "{name}");
        if let Some(len) = expect["frame_length"].as_u64() {
            let frame = burst.get(0).unwrap();
            assert_eq!(frame.bytes.len() as u64, len, "{name}");
            assert_eq!(frame.meta.coalesced.unwrap().fragments, 3, "{name}");
            if let Some(before) = expect["frame_hex_before_fixup"].as_str() {
                let mut wanted = hex(before);
                wanted[24..26].copy_from_slice(&hex(expect["ip_checksum_after_fixup"].as_str().unwrap()));
                assert_eq!(frame.bytes, wanted, "{name}");
                assert!(!frame.meta.checksum.ip_stale && frame.meta.checksum.transport_stale, "{name}");
            }
        }
        if let Some(delivered) = expect["delivered"].as_array() {
            let delivered: Vec<_> = delivered.iter().map(|frame| hex(frame.as_str().unwrap())).collect();
            assert_eq!(burst.frames().map(|frame| frame.bytes.to_vec()).collect::<Vec<_>>(), delivered, "{name}");
        }
        let status = match expect["ack_status"].as_u64() {
            Some(status) => status as u32,
            None if name == "first_twice" => FAIL,
            None => SUCCESS,
        };
        assert_eq!(host.acks(), [(1, status)], "{name}");
        assert_eq!(queue.backlog(), 0);
    }
}

/// A fragment of a coalesced frame.
fn fragment(flags: PacketIdFlags, data: &[u8]) -> Vec<u8> {
    let ppis = [PpiWord::from(PacketId::new(flags | PacketIdFlags::SUB_ALLOCATION, 1))];
    let encoder = PacketEncoder { ppis: &ppis, ..PacketEncoder::default() };
    let mut bytes = vec![0; encoder.buffer_len(data.len()).unwrap()];
    encoder.emit(data, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_coalesced_frame_has_at_most_562_fragments() {
    let (first, last) = (PacketIdFlags::FIRST, PacketIdFlags::LAST);
    for (count, expected) in [(1, 1), (2, 1), (562, 1), (563, 0)] {
        let (mut queue, mut host) = pair(Setup::default());
        let mut ranges: Vec<_> = (0..count)
            .map(|at| {
                let flags = if at == 0 { first } else { PacketIdFlags::EMPTY };
                let flags = flags | if at + 1 == count { last } else { PacketIdFlags::EMPTY };
                // Fragments but the first may be of one byte.
                host.put(at, &fragment(flags, if at == 0 { &[0x10; 14] } else { &[0x20] }))
            })
            .collect();
        ranges.push(host.put_frame(count, &frame(1, 60)));
        host.deliver(1, &ranges);
        let frames = receive_all(&mut queue);
        assert_eq!(frames.len(), expected + 1, "{count} fragments");
        assert_eq!(frames[0].len(), if expected == 1 { 14 + count as usize - 1 } else { 60 });
        assert_eq!(host.acks(), [(1, if expected == 1 { SUCCESS } else { FAIL })]);
        assert_eq!(queue.stats().extra.bad_coalesced, 1 - expected as u64);
    }
}

#[test]
fn a_bad_range_abandons_the_coalesced_frame() {
    let (mut queue, mut host) = pair(Setup::default());
    let ranges = [
        host.put(0, &fragment(PacketIdFlags::FIRST, &[1; 100])),
        TransferRange { byte_count: 60, byte_offset: u32::MAX },
        host.put(1, &fragment(PacketIdFlags::LAST, &[2; 100])),
        host.put(2, &fragment(PacketIdFlags::FIRST | PacketIdFlags::LAST, &[3; 100])),
    ];
    host.deliver(1, &ranges);
    assert_eq!(receive_all(&mut queue), [vec![3; 100]]);
    assert_eq!(host.acks(), [(1, FAIL)]);
    // Fragments do not go on in the next packet.
    host.deliver(2, &ranges[..1]);
    host.deliver(3, &ranges[2..3]);
    assert!(receive_all(&mut queue).is_empty());
    assert_eq!(host.acks(), [(2, FAIL), (3, FAIL)]);
}

#[test]
fn a_sink_without_room_loses_nothing() {
    let (mut queue, mut host) = pair(Setup::default());
    let coalesced = [
        host.put(10, &fragment(PacketIdFlags::FIRST, &[8; 1000])),
        host.put(11, &fragment(PacketIdFlags::LAST, &[8; 1000])),
    ];
    let ranges: Vec<_> = (0..3).map(|number| host.put_frame(number, &frame(number, 1000))).collect();
    host.deliver(1, &[ranges[0], ranges[1], coalesced[0], coalesced[1], ranges[2]]);
    // Room for 2000 bytes and a bit: two frames, then the coalesced one, then the last.
    let mut burst = Burst::new(8, 2048 + 64);
    let mut turns = Vec::new();
    for _ in 0..4 {
        let count = queue.receive(&mut burst, 8).unwrap();
        turns.push((count, burst.frames().map(|frame| frame.bytes.len()).sum::<usize>(), host.acks().len()));
        burst.clear();
    }
    assert_eq!(turns, [(2, 2000, 0), (1, 2000, 0), (1, 1000, 1), (0, 0, 0)]);
}

#[test]
fn a_frame_that_the_sink_can_never_take_is_dropped() {
    let (mut queue, mut host) = pair(Setup::default());
    let ranges = [host.put_frame(0, &frame(0, 600)), host.put_frame(1, &frame(1, 60))];
    host.deliver(1, &ranges);
    let mut burst = Burst::new(8, 512);
    assert_eq!(burst.max_frame(), 512);
    assert_eq!(queue.receive(&mut burst, 8).unwrap(), 1);
    assert_eq!(burst.get(0).unwrap().bytes, frame(1, 60));
    assert_eq!((queue.stats().global.rx_no_memory, host.acks()), (1, vec![(1, FAIL)]));
}

#[test]
fn control_messages_are_told_apart_by_their_type() {
    let (mut queue, mut host) = pair(Setup { subchannel: 0, ..Setup::default() });
    let connect = IndicateStatus { status: rndis::Status::MEDIA_CONNECT, buffer: &[], buffer_counted: false };
    let mut indication = vec![0xAA; 1728];
    let len = connect.emit(&mut indication).unwrap();
    let control = host.put(0, &indication);
    let data = host.put_frame(1, &frame(1, 60));
    // Among frames, and in a packet of their own, which does not wait for a reader of frames.
    host.deliver(1, &[data, control, data]);
    host.transfer(2, SET_ID, 1, &[control], ChannelType::CONTROL);
    assert_eq!(queue.pump().unwrap().controls, 1);
    assert_eq!(host.acks(), [(2, 1)]);
    assert_eq!(queue.poll_control(), Some(ControlInput::Rndis { payload: indication[..len].into() }));
    assert_eq!(receive_all(&mut queue).len(), 2);
    assert_eq!(queue.poll_control(), Some(ControlInput::Rndis { payload: indication[..len].into() }));
    assert_eq!(host.acks(), [(1, 1)]);
    // A frame under the name of control is a frame all the same.
    host.transfer(3, SET_ID, 2, &[data, control], ChannelType::CONTROL);
    assert_eq!(receive_all(&mut queue).len(), 1);
    assert!(queue.poll_control().is_some());
    // In band.
    host.write(&Outgoing::request(TransactionId(1 << 63), &[128, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]));
    queue.pump().unwrap();
    match queue.poll_control() {
        Some(ControlInput::Message { transaction_id, wants_completion: true, payload }) => {
            assert_eq!((transaction_id.0, payload.len(), payload[0]), (1 << 63, 16, 128));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flood_of_control_messages_is_bounded() {
    for (subchannel, heard) in [(0, 128), (1, 0)] {
        let (mut queue, mut host) = pair(Setup { subchannel, ..Setup::default() });
        for number in 0..500 {
            host.write(&Outgoing::notice(TransactionId(number), &[134, 0, 0, 0]));
        }
        queue.pump().unwrap();
        assert_eq!(std::iter::from_fn(|| queue.poll_control()).count(), heard);
        assert_eq!(queue.stats().extra.control_dropped, 500 - heard as u64);
    }
}

#[test]
fn acknowledgments_wait_for_room_and_are_never_lost() {
    let (mut queue, mut host) = pair(Setup { ring_bytes: 4096, ..Setup::default() });
    let mut given = 0;
    let mut expected = 0;
    // 4088 bytes, 32 an acknowledgment: 127 fit.
    while given < 200 {
        let range = host.put_frame(given, &frame(given, 60));
        host.deliver(u64::from(given) + 1, &[range]);
        given += 1;
        expected += receive_all(&mut queue).len();
    }
    assert_eq!(expected, 200);
    assert_eq!(queue.owed_acks(), 200 - 127);
    assert_eq!((queue.stats().global.rx_comp_busy, queue.stats().extra.acks_delayed), (73, 73));
    // Before it sleeps, the queue asks for a signal when there is room.
    assert!(!queue.arm().unwrap());
    let mut acks: Vec<_> = std::iter::from_fn(|| host.next()).map(|packet| packet.id().0).collect();
    assert!(host.consumer.commit().unwrap().is_needed(), "the host is asked to signal");
    queue.pump().unwrap();
    assert_eq!(queue.owed_acks(), 0);
    acks.extend(host.acks().iter().map(|(id, _)| *id));
    assert_eq!(acks, (1..=200).collect::<Vec<_>>(), "all of them, in order");
}

#[test]
fn a_sender_leaves_room_for_acknowledgments() {
    let limits = netvsc::queue::AggregateLimits { max_packets: 1, max_bytes: u32::MAX, alignment: 1 };
    let (mut queue, mut host) = pair(Setup { ring_bytes: 4096, send_sections: 100, limits, ..Setup::default() });
    while send(&mut queue, &frame(0, 60)).is_ok() {}
    queue.flush().unwrap();
    for number in 0..16 {
        let range = host.put_frame(number, &frame(number, 60));
        host.deliver(u64::from(number) + 1, &[range]);
    }
    assert_eq!(receive_all(&mut queue).len(), 16);
    assert_eq!(queue.owed_acks(), 0, "512 bytes were kept for 16 acknowledgments");
    assert_eq!(host.acks().len(), 16);
}

#[test]
fn the_queue_sleeps_only_when_there_is_nothing() {
    let (mut queue, mut host) = pair(Setup::default());
    assert!(!queue.arm().unwrap());
    let range = host.put_frame(0, &frame(0, 60));
    host.deliver(1, &[range]);
    assert!(queue.has_work().unwrap());
    assert!(queue.arm().unwrap(), "there is something in the ring");
    assert_eq!(receive_all(&mut queue).len(), 1);
    assert!(!queue.arm().unwrap());
    // Unmasked: the next packet is signalled.
    host.producer.write(&Outgoing::notice(TransactionId(0), &[0; 8])).unwrap();
    assert!(host.producer.publish().unwrap().is_needed());
    queue.mask();
    queue.pump().unwrap();
    host.producer.write(&Outgoing::notice(TransactionId(0), &[0; 8])).unwrap();
    assert!(!host.producer.publish().unwrap().is_needed());
}

#[test]
fn a_corrupt_ring_is_an_error() {
    let (mut queue, host) = pair(Setup::default());
    host.producer.ring().memory().word32(0).unwrap().store(13, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(queue.pump(), Err(QueueError::Ring(_))));
    assert!(matches!(queue.has_work(), Err(QueueError::Ring(_))));
    let (mut queue, host) = pair(Setup::default());
    host.consumer.ring().memory().word32(4).unwrap().store(4, std::sync::atomic::Ordering::SeqCst);
    assert!(!queue.can_send(60));
    assert!(send(&mut queue, &frame(0, 60)).is_err());
}

#[test]
fn the_frame_is_what_was_checked_whatever_the_host_writes_later() {
    let (mut queue, mut host) = pair(Setup::default());
    let range = host.put_frame(0, &frame(1, 60));
    host.deliver(1, &[range]);
    let mut burst = Burst::new(4, 4096);
    assert_eq!(queue.receive(&mut burst, 4).unwrap(), 1);
    host.put(0, &message(&frame(2, 90)));
    assert_eq!(burst.get(0).unwrap().bytes, frame(1, 60));
}

#[test]
fn a_receive_buffer_that_cannot_be_is_not_attached() {
    let (channel, mut host) = queue_host::channel(Setup::default());
    let mut queue = queue_host::TestQueue::new(channel, QueueSettings::default()).unwrap();
    let buffer = |section_bytes, sections| ReceiveBuffer {
        memory: host.receive.clone(),
        set_id: queue_host::SET_ID,
        section_bytes,
        sections,
    };
    let fit = host.receive.len() / 1728;
    for (wrong, field) in [
        (buffer(1728, fit as u32 + 1), "receive sections"),
        (buffer(1728, 0), "receive sections"),
        (buffer(nvsp::MIN_SECTION_SIZE - 1, 1), "receive section size"),
    ] {
        let error = queue.attach_receive(wrong).unwrap_err();
        assert!(matches!(error, QueueError::BadBuffer { field: at, .. } if at == field), "{error}");
    }
    // The queue is none the worse for it.
    let range = host.put_frame(0, &frame(1, 60));
    queue_host::attach(&mut queue, &host);
    host.deliver(1, &[range]);
    assert_eq!(receive_all(&mut queue), [frame(1, 60)]);
}
