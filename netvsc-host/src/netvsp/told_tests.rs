//! What a guest is told, read out of its receive buffer.

use rndis::offload::{ChecksumSetting, Offload, OffloadParameters, TaskSetting};
use rndis::packet::PacketHeader;
use rndis::ppi::{HashInfo, PacketId, PacketIdFlags, PacketInfo, Vlan};
use rndis::value::PacketFilter;
use rndis::{Oid, Status};
use vmbus::gpadl::GpadlId;
use vmbus::memory::HeapMemory;

use super::*;
use crate::fault::{Fault, FaultPlan, When};
use crate::netvsp::receive_buffer::ReceiveBuffer;
use crate::netvsp::session::Phase;
use crate::netvsp::{NicConfig, NicId, Port};
use crate::offload::Scratch;
use crate::port::FrameMeta;
use crate::profile::{OffloadLayout, Offloads, Profile, Settings};

const SECTION: u32 = 1728;

fn nic(settings: Settings) -> Nic {
    let config = NicConfig { id: NicId(0), mac: [2; 6], queues: 1, friendly_name: String::new(), settings };
    let (_guest, port) = vmbus::mem::connection();
    let mut nic = Nic::new(config, port, true, 0, FaultPlan::new(1));
    nic.session.phase = Phase::Ready;
    nic.session.rndis_initialized = true;
    nic.session.version = Some(nvsp::Version::V6_1);
    let memory = HeapMemory::zeroed(600 * SECTION as usize);
    nic.session.receive_buffer = Some(ReceiveBuffer::new(GpadlId(1), memory, SECTION, 600, 16));
    nic.set_oid(Oid::PACKET_FILTER, &PacketFilter::OPEN.0.to_le_bytes()).expect("a filter");
    nic
}

fn coalescing(settings: Settings) -> Nic {
    let mut nic = nic(settings);
    set(&mut nic, TaskSetting::ON).expect("it is offered");
    nic
}

fn set(nic: &mut Nic, rsc: TaskSetting) -> Result<(), Status> {
    let wanted = OffloadParameters { rsc_v4: rsc, rsc_v6: rsc, ..OffloadParameters::no_change(3) };
    let mut bytes = [0; OffloadParameters::LEN_V3];
    wanted.emit(&mut bytes).expect("there is room");
    nic.set_oid(Oid::TCP_OFFLOAD_PARAMETERS, &bytes).map_err(|refused| refused.status)
}

/// Messages for the guest, in order, as it would see them.
fn messages(nic: &mut Nic) -> Vec<(PacketInfo, Vec<u8>)> {
    nic.flush_coalesced();
    let ids: Vec<(u32, u32)> = nic.receive.take_filled();
    let buffer = nic.session.receive_buffer.as_ref().expect("a buffer");
    let read = |(id, len): (u32, u32)| {
        let mut range = vec![0; len as usize];
        buffer.read(id, 0, &mut range).expect("inside");
        let message = PacketHeader::parse(&range, len).expect("a message");
        let info = PacketInfo::parse(&range[message.ppi_range()]).expect("information");
        (info, range[message.data_range()].to_vec())
    };
    ids.into_iter().map(read).collect()
}

fn vectors(name: &str) -> Vec<serde_json::Value> {
    let text = match name {
        "rsc" => include_str!("../../tests/vectors/rndis/rsc.json"),
        _ => include_str!("../../tests/vectors/checksum/receive.json"),
    };
    let file: serde_json::Value = serde_json::from_str(text).expect("JSON");
    file["vectors"].as_array().expect("rows").clone()
}

fn hex(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().expect("hex");
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

/// A large frame of the vectors, and its segments as they come on a wire.
fn stream() -> (Vec<u8>, Vec<Vec<u8>>) {
    let row = &vectors("rsc")[0];
    let mut large = hex(&row["expect"]["frame_hex_before_fixup"]);
    let headers = Headers::parse_large(&large).expect("TCP");
    let mut segments = Vec::new();
    segment::segments(&large, &headers, 1448, &mut Scratch::default(), &mut |frame| {
        segments.push(frame.bytes.to_vec())
    });
    segment::prepare(&mut large, &headers);
    (large, segments)
}

#[test]
fn segments_come_as_the_vectors_have_them() {
    let row = &vectors("rsc")[0];
    assert_eq!(row["name"], "three_fragments");
    let expected = row["ranges_hex"].as_array().expect("ranges");
    let (large, segments) = stream();
    let mut nic = coalescing(Profile::Ws2019.settings());
    for segment in &segments {
        assert!(nic.deliver(Frame::new(segment)));
    }
    let told = messages(&mut nic);
    assert_eq!(told.len(), expected.len());
    for (index, ((info, data), expected)) in told.iter().zip(expected).enumerate() {
        let range = hex(expected);
        let message = PacketHeader::parse(&range, range.len() as u32).expect("a message");
        let recorded = PacketInfo::parse(&range[message.ppi_range()]).expect("information");
        assert_eq!(info.checksum, recorded.checksum, "{index}");
        let flags = |info: &PacketInfo| info.packet_id.map(|id| id.flags);
        assert_eq!(flags(info), flags(&recorded), "{index}");
        let mut data = data.clone();
        if index == 0 {
            // TCP's checksum is of no value in either.
            data[50..52].fill(0);
        }
        assert_eq!(data, range[message.data_range()], "{index}");
    }
    assert_eq!((nic.counters.rsc_frames, nic.counters.rsc_segments, nic.counters.rx_frames), (1, 3, 1));
    // A large frame of another port comes in the same way.
    let meta = FrameMeta { segment: NonZeroU16::new(1448), ..FrameMeta::VERIFIED };
    assert!(nic.deliver(Frame::with_meta(&large, meta)));
    let again = messages(&mut nic);
    let data = |messages: &[(PacketInfo, Vec<u8>)]| {
        messages.iter().flat_map(|(_, data)| data[..].to_vec()).skip(54).collect::<Vec<_>>()
    };
    assert_eq!(data(&again), data(&told));
}

#[test]
fn a_guest_that_did_not_ask_gets_segments() {
    let (_, segments) = stream();
    let mut nic = nic(Profile::Ws2019.settings());
    assert!(!nic.takes().tcp_ipv4);
    for segment in &segments {
        assert!(nic.deliver(Frame::new(segment)));
    }
    let told = messages(&mut nic);
    assert_eq!(told.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>(), segments);
    assert!(told.iter().all(|(info, _)| info.packet_id.is_none() && info.checksum == Some(0x28)));
    // Nor can it ask where it is not offered.
    nic.session.version = Some(nvsp::Version::V5);
    assert_eq!(set(&mut nic, TaskSetting::ON), Err(Status::NOT_SUPPORTED));
    assert_eq!(set(&mut nic, TaskSetting(7)), Err(Status::INVALID_DATA));
}

#[test]
fn a_frame_of_more_segments_than_a_packet_holds_comes_in_parts() {
    let (large, _) = stream();
    let mut settings = Profile::Ws2019.settings();
    settings.rsc_max_segments = 100;
    settings.rsc_ip_header = RscIpHeader::Right;
    let mut nic = coalescing(settings);
    let meta = FrameMeta { segment: NonZeroU16::new(10), ..FrameMeta::VERIFIED };
    assert!(nic.deliver(Frame::with_meta(&large, meta)));
    let told = messages(&mut nic);
    assert_eq!(told.len(), 435);
    let firsts: Vec<_> = told.iter().filter(|(info, _)| info.packet_id.is_some_and(PacketId::is_first)).collect();
    assert_eq!(firsts.len(), 5);
    for (info, data) in &firsts {
        assert_eq!(info.checksum, Some(0xA8));
        assert!(sum::ip_header_is_right(data, &Headers::parse(data).expect("IP")));
    }
    assert_eq!(nic.counters.rsc_frames, 5);
}

#[test]
fn tag_and_hash_come_with_the_first_segment() {
    let (_, segments) = stream();
    let mut nic = coalescing(Profile::Ws2019.settings());
    nic.session.rss = Some(super::super::rss::Rss::new(HashInfo::LINUX, &[0x6d; 40], vec![0]));
    for segment in &segments {
        let mut tagged = segment.clone();
        tagged.splice(12..12, [0x81, 0, 0x60, 7]);
        assert!(nic.deliver(Frame::new(&tagged)));
    }
    let told = messages(&mut nic);
    let (info, data) = &told[0];
    assert_eq!(info.vlan, Some(Vlan::new(7, 3, false)));
    assert_eq!(info.hash_info, Some(HashInfo::TCP_IPV4 | HashInfo::TOEPLITZ));
    assert!(info.hash_value.is_some());
    assert_eq!(data[12..14], [8, 0]);
    assert!(told[1..].iter().all(|(info, _)| info.vlan.is_none() && info.hash_value.is_none()));
    assert_eq!(told.iter().map(|(_, data)| data.len()).sum::<usize>(), 4410);
}

#[test]
fn verdicts_are_those_of_the_vectors() {
    let rows = vectors("receive");
    for row in &rows {
        let expected =
            u32::from_str_radix(&row["expect"]["rx_checksum_ppi"].as_str().expect("hex")[2..], 16).expect("hex");
        let frame = hex(&row["frame_hex"]);
        let told = |settings: Settings| {
            let mut nic = nic(settings);
            assert!(nic.deliver(Frame::new(&frame)));
            messages(&mut nic)[0].0.checksum
        };
        assert_eq!(told(Profile::Ws2019.settings()), Some(expected), "{}", row["name"]);
        // Some hosts of 2016 call good UDP good TCP.
        let quirk = if expected & 0x10 == 0 { expected } else { expected & !0x10 | 8 };
        assert_eq!(told(Profile::Ws2016.settings()), Some(quirk), "{}", row["name"]);
        // Older ones do not look at UDP.
        assert_eq!(told(Profile::Ws2012R2.settings()), Some(expected & !0x12), "{}", row["name"]);
        let mut silent = Profile::Ws2019.settings();
        silent.offloads = Offloads::NONE;
        assert_eq!(told(silent), Some(0), "{}", row["name"]);
    }
}

#[test]
fn faults_turn_verdicts_and_spoil_sequences() {
    let (_, segments) = stream();
    let marks = |fault: Fault| {
        let mut nic = coalescing(Profile::Ws2019.settings());
        nic.faults.arm(fault, When::Always);
        for segment in &segments {
            assert!(nic.deliver(Frame::new(segment)));
        }
        let flags = messages(&mut nic).into_iter().map(|(info, _)| info.packet_id.map(|id| id.flags.0));
        flags.collect::<Vec<_>>()
    };
    let sub = PacketIdFlags::SUB_ALLOCATION.0;
    let (first, last) = (sub | PacketIdFlags::FIRST.0, sub | PacketIdFlags::LAST.0);
    assert_eq!(marks(Fault::InterruptLost), [Some(first), Some(sub), Some(last)]);
    assert_eq!(marks(Fault::RscNoFirst), [Some(sub), Some(sub), Some(last)]);
    assert_eq!(marks(Fault::RscNoLast), [Some(first), Some(sub), Some(sub)]);
    assert_eq!(marks(Fault::RscFirstTwice), [Some(first), Some(first), Some(last)]);
    assert_eq!(marks(Fault::RscInterrupted), [Some(first), None, Some(last)]);
    let mut nic = nic(Profile::Ws2019.settings());
    nic.faults.arm(Fault::VerdictWrong, When::Always);
    assert!(nic.deliver(Frame::new(&segments[0])));
    assert_eq!(messages(&mut nic)[0].0.checksum, Some(0x21));
}

#[test]
fn unfinished_checksums_are_finished() {
    let (_, segments) = stream();
    let mut frame = segments[0].clone();
    let headers = Headers::parse(&frame).expect("IP");
    sum::seed(&mut frame, &headers);
    let mut nic = nic(Profile::Ws2019.settings());
    let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, ..FrameMeta::PLAIN };
    assert!(nic.deliver(Frame::with_meta(&frame, meta)));
    assert_eq!(messages(&mut nic)[0].1, segments[0]);
}

#[test]
fn capabilities_come_in_the_layout_that_the_profile_has() {
    let told = |layout: OffloadLayout, ndis: (u32, u32)| {
        let mut settings = Profile::Ws2019.settings();
        settings.offload_layout = layout;
        let mut nic = nic(settings);
        nic.session.ndis_version = Some(ndis);
        nic.offer();
        let mut value = [0; crate::netvsp::oid::MAX_VALUE_BYTES];
        let len = nic.query_oid(Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES, &mut value).expect("a value");
        let offload = Offload::parse(&value[..len]).expect("a structure");
        let udp = offload.checksum_v4_tx.flags.contains(ChecksumV4Flags::UDP);
        assert_eq!(nic.session.offload.checksum_v4_tx.flags.contains(ChecksumV4Flags::UDP), udp);
        assert_eq!(nic.session.offload.rsc_v4, 0, "until it is asked for");
        (len, offload.revision, offload.checksum_v4_tx.flags.contains(ChecksumV4Flags::UDP), offload.rsc_v4)
    };
    assert_eq!(told(OffloadLayout::Newest, (6, 1)), (156, 3, true, 1));
    assert_eq!(told(OffloadLayout::Negotiated, (6, 1)), (144, 2, false, 0));
    assert_eq!(told(OffloadLayout::Negotiated, (6, 30)), (156, 3, true, 1));
}

#[test]
fn what_a_guest_turned_off_is_off() {
    let mut nic = nic(Profile::Ws2019.settings());
    let wanted = OffloadParameters {
        tcp_v4_checksum: ChecksumSetting::OFF,
        lso_v2_v4: TaskSetting::OFF,
        ..OffloadParameters::no_change(3)
    };
    let mut bytes = [0; OffloadParameters::LEN_V3];
    wanted.emit(&mut bytes).expect("there is room");
    nic.set_oid(Oid::TCP_OFFLOAD_PARAMETERS, &bytes).expect("it may");
    let (_, segments) = stream();
    assert!(nic.deliver(Frame::new(&segments[0])));
    assert_eq!(messages(&mut nic)[0].0.checksum, Some(0x20), "nothing is said of TCP");
    assert_eq!(nic.session.offload.lso_v2_v4.max_size, 0);
    assert_eq!(nic.session.offload.lso_v2_v6.max_size, Offloads::LSO_MAX_BYTES);
    let mut value = [0; crate::netvsp::oid::MAX_VALUE_BYTES];
    let len = nic.query_oid(Oid::TCP_OFFLOAD_CURRENT_CONFIG, &mut value).expect("a value");
    assert_eq!(Offload::parse(&value[..len]), Ok(nic.session.offload));
}

#[test]
fn tags_pass_as_the_setting_says() {
    let (_, segments) = stream();
    let mut tagged = segments[0].clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let told = |vlan: VlanTags| {
        let mut settings = Profile::Ws2019.settings();
        settings.vlan = vlan;
        let mut nic = nic(settings);
        // As long as the MTU allows, and the tag.
        assert_eq!(tagged.len(), 1518);
        let taken = nic.deliver(Frame::new(&tagged));
        assert_eq!(nic.counters.rx_vlan, u64::from(taken));
        messages(&mut nic).pop()
    };
    let (info, data) = told(VlanTags::PerPacketInfo).expect("a frame");
    assert_eq!((info.vlan, data), (Some(Vlan::new(7, 0, false)), segments[0].clone()));
    let (info, data) = told(VlanTags::InFrame).expect("a frame");
    assert_eq!((info.vlan, &data), (None, &tagged));
    assert_eq!(info.checksum, Some(0x28), "it is looked behind the tag");
    assert_eq!(told(VlanTags::Refused), None);
}

#[test]
fn as_many_segments_as_linux_takes_come_in_one_packet_where_the_ring_holds_it() {
    let (large, _) = stream();
    let mut settings = Profile::Ws2019.settings();
    settings.rsc_max_segments = 562;
    let mut nic = coalescing(settings);
    let firsts = |nic: &mut Nic| {
        let meta = FrameMeta { segment: NonZeroU16::new(8), ..FrameMeta::VERIFIED };
        assert!(nic.deliver(Frame::with_meta(&large, meta)));
        let told = messages(nic);
        assert_eq!(told.len(), 543);
        told.iter().filter(|(info, _)| info.packet_id.is_some_and(PacketId::is_first)).count()
    };
    assert_eq!(firsts(&mut nic), 1);
    nic = coalescing(nic.config.settings);
    nic.ranges_a_ring = crate::netvsp::receive::ranges_in(4096);
    assert_eq!((nic.ranges_a_ring, firsts(&mut nic)), (477, 2));
}

#[test]
fn a_large_frame_that_lies_about_its_length_is_dropped() {
    let (mut large, _) = stream();
    large[16..18].copy_from_slice(&40_u16.to_be_bytes());
    let mut nic = coalescing(Profile::Ws2019.settings());
    let meta = FrameMeta { segment: NonZeroU16::new(1448), ..FrameMeta::VERIFIED };
    assert!(!nic.deliver(Frame::with_meta(&large, meta)));
    assert_eq!(messages(&mut nic), []);
}
