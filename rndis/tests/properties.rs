//! Properties of the codecs on random input: what is written reads back the same, and no bytes make a parser panic.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rndis::control::{
    Halt, IndicateStatus, Initialize, InitializeComplete, KeepAlive, KeepAliveComplete, Query, QueryComplete, Reset,
    ResetComplete, Set, SetComplete,
};
use rndis::offload::{
    ChecksumSetting, ChecksumTask, ChecksumV4Flags, ChecksumV6Flags, Encapsulation, LsoTaskV2, Offload,
    OffloadEncapsulation, OffloadParameters, TaskSetting,
};
use rndis::packet::{
    Batch, BatchLimits, PacketEncoder, PacketHeader, PacketMsg, RawPacketHeader, TxHeader, TxOffload, padding,
};
use rndis::ppi::{
    HashInfo, IpVersion, Lso, PacketId, PacketIdFlags, PacketInfo, PpiBlock, PpiWord, RxChecksum, Transport,
    TxChecksum, Vlan,
};
use rndis::rss::{RssCapabilities, RssCapabilityFlags, RssFlags, RssParameters, RssParametersEncoder};
use rndis::value::{
    ConfigParameter, ConfigString, ConnectState, FriendlyName, LinkState, MaxLinkSpeed, MulticastList, SupportedList,
};
use rndis::{Message, MessageType, Oid, RequestId, Status};

/// Writes a message and reads it back.
fn identity(message: Message<'_>) -> Result<(), TestCaseError> {
    let mut bytes = vec![0xEE; message.buffer_len()];
    prop_assert_eq!(message.emit(&mut bytes), Ok(bytes.len()));
    prop_assert_eq!(Message::parse(&bytes), Ok(message));
    Ok(())
}

/// Gives bytes to every parser there is.
fn parse_all(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let mut out = vec![0; message.buffer_len()];
        message.emit(&mut out).unwrap();
        let again = Message::parse(&out).unwrap();
        assert_eq!(again.message_type(), message.message_type());
        assert_eq!(again.request_id(), message.request_id());
        if let (Message::Packet(before), Message::Packet(after)) = (message, again) {
            assert_eq!(before, after);
        }
    }
    for range_len in [0, 44, bytes.len() as u32, u32::MAX] {
        if let Ok(header) = PacketHeader::parse(bytes, range_len) {
            assert!(header.message_len() <= range_len);
            assert!(header.data_range().end <= header.message_len() as usize);
            assert!(header.ppi_range().end <= header.message_len() as usize);
        }
    }
    let block = PpiBlock::parse(bytes);
    let info = PacketInfo::parse(bytes);
    assert_eq!(block.map(|_| ()), info.map(|_| ()));
    if let (Ok(block), Ok(info)) = (block, info) {
        let left: usize = block.iter().map(|ppi| ppi.payload.len() + 12).sum();
        assert!(left <= bytes.len());
        let vlan = block.find(rndis::ppi::PpiType::IEEE_8021Q);
        assert_eq!(vlan.map(|ppi| Vlan::from_wire(ppi.word())), info.vlan);
    }
    if let Ok(batch) = Batch::parse(bytes, &BatchLimits::NONE) {
        assert_eq!(batch.iter().count() as u32, batch.count());
        assert_eq!(batch.iter().map(|message| message.as_bytes().len()).sum::<usize>(), bytes.len());
    }
    if let Ok(parameters) = RssParameters::parse(bytes) {
        assert_eq!(parameters.table.iter().len(), parameters.table.len());
        let _ = parameters.check(64);
    }
    if let Ok(offload) = Offload::parse(bytes) {
        offload.emit(&mut vec![0; offload.buffer_len()]).unwrap();
    }
    if let Ok(parameters) = OffloadParameters::parse(bytes) {
        parameters.emit(&mut vec![0; parameters.buffer_len()]).unwrap();
    }
    if let Ok(parameter) = ConfigParameter::parse(bytes) {
        let _ = (parameter.name.to_string(), parameter.text().map(|text| text.to_string()));
    }
    let _ = RssCapabilities::parse(bytes);
    let _ = OffloadEncapsulation::parse(bytes);
    let _ = LinkState::parse(bytes);
    let _ = MaxLinkSpeed::parse(bytes);
    let _ = FriendlyName::parse(bytes).map(|name| format!("{name:?}"));
    let _ = MulticastList::parse(bytes).map(|list| list.iter().count());
    let _ = SupportedList::parse(bytes).map(|list| list.iter().count());
    let _ = rndis::value::counter_value(bytes);
}

/// Words that lengths and offsets go wrong at.
fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![0..64_u32, 0..256_u32, Just(0x7FFF_FFFF), Just(0x8000_0000), (u32::MAX - 64)..=u32::MAX, any::<u32>(),]
}

/// A good message of every kind, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let emit = |message: Message<'_>| {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes).unwrap();
        bytes
    };
    let id = RequestId(1);
    let mut seeds = vec![
        emit(Message::Query(Query { information: &[1; 18], ..Query::new(id, Oid::LINK_SPEED) })),
        emit(Message::QueryComplete(QueryComplete { request_id: id, status: Status::SUCCESS, information: &[2; 40] })),
        emit(Message::Set(Set::new(id, Oid::PACKET_FILTER, &[0x0D, 0, 0, 0]))),
        emit(Message::IndicateStatus(IndicateStatus::new(Status::LINK_SPEED_CHANGE, &[9; 4]))),
    ];
    let ppis = [
        PpiWord::from(RxChecksum::TCP_SUCCEEDED),
        PpiWord::from(Vlan::new(5, 1, false)),
        PpiWord::from(PacketId::new(PacketIdFlags::SUB_ALLOCATION, 7)),
    ];
    let encoder = PacketEncoder { ppis: &ppis, data_offset: None, message_len: Some(184) };
    let mut packet = vec![0; 184];
    encoder.emit(&[5; 60], &mut packet).unwrap();
    seeds.push(packet[44..92].to_vec());
    seeds.push([packet.clone(), packet.clone()].concat());
    seeds.push(packet);
    let mut value = vec![0; 156];
    Offload::empty(3).emit(&mut value).unwrap();
    seeds.push(value);
    let mut value = vec![0; 28];
    OffloadParameters::no_change(3).emit(&mut value).unwrap();
    seeds.push(value);
    let encoder = RssParametersEncoder {
        flags: RssFlags::EMPTY,
        hash_info: HashInfo::LINUX,
        table: &[0, 1, 2, 3],
        key: &[7; 40],
        default_processor: Some(1),
        key_first: false,
    };
    let mut value = vec![0; encoder.buffer_len()];
    encoder.emit(&mut value).unwrap();
    seeds.push(value);
    let config = ConfigString { name: "NetworkAddress", value: "00155d0a1b2d" };
    let mut value = vec![0; config.buffer_len()];
    config.emit(&mut value).unwrap();
    seeds.push(value);
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn control_messages_survive_the_wire(
        id in any::<u32>(),
        words in any::<[u32; 10]>(),
        buffer in vec(any::<u8>(), 0..80),
        counted in any::<bool>(),
    ) {
        let request_id = RequestId(id);
        let status = Status(words[0]);
        let oid = Oid(words[1]);
        let messages = [
            Message::Initialize(Initialize {
                request_id,
                major_version: words[1],
                minor_version: words[2],
                max_transfer_size: words[3],
            }),
            Message::InitializeComplete(InitializeComplete {
                request_id,
                status,
                major_version: words[1],
                minor_version: words[2],
                device_flags: words[3],
                medium: words[4],
                max_packets_per_message: words[5],
                max_transfer_size: words[6],
                packet_alignment_log2: words[7],
                af_list_offset: words[8],
                af_list_size: words[9],
            }),
            Message::Halt(Halt { request_id }),
            Message::Query(Query { request_id, oid, information: &buffer, device_vc_handle: words[2] }),
            Message::QueryComplete(QueryComplete { request_id, status, information: &buffer }),
            Message::Set(Set { request_id, oid, information: &buffer, device_vc_handle: words[2] }),
            Message::SetComplete(SetComplete { request_id, status }),
            Message::Reset(Reset { reserved: id }),
            Message::ResetComplete(ResetComplete { status, addressing_reset: words[1] }),
            Message::KeepAlive(KeepAlive { request_id }),
            Message::KeepAliveComplete(KeepAliveComplete { request_id, status }),
            Message::IndicateStatus(IndicateStatus {
                status,
                buffer: &buffer,
                buffer_counted: counted || buffer.is_empty(),
            }),
        ];
        for message in messages {
            identity(message)?;
        }
    }

    #[test]
    fn packets_survive_the_wire(
        data in vec(any::<u8>(), 14..200),
        checksum in any::<Option<u32>>(),
        lso in any::<Option<u32>>(),
        tci in any::<Option<u16>>(),
        hash_value in any::<Option<u32>>(),
        hash_info in any::<Option<u32>>(),
        packet_id in any::<Option<u32>>(),
        gap in 0..100_u32,
        tail in 0..100_u32,
    ) {
        let info = PacketInfo {
            checksum,
            lso: lso.map(Lso),
            vlan: tci.map(Vlan::from_tci),
            hash_value,
            hash_info: hash_info.map(HashInfo),
            packet_id: packet_id.map(PacketId::from_wire),
        };
        let words = info.to_words();
        let start = 44 + 16 * words.len() as u32 + gap;
        let encoder = PacketEncoder {
            ppis: &words,
            data_offset: Some(start),
            message_len: Some(start + data.len() as u32 + tail),
        };
        let mut bytes = vec![0xEE; encoder.buffer_len(data.len()).unwrap()];
        prop_assert_eq!(encoder.emit(&data, &mut bytes), Ok(bytes.len()));
        let message = PacketMsg::parse(&bytes).unwrap();
        prop_assert_eq!(message.data(), &data[..]);
        prop_assert_eq!(message.info(), &info);
        prop_assert_eq!(message.data_range().start, start as usize);
        let mut header = vec![0xEE; start as usize];
        prop_assert_eq!(encoder.emit_header(data.len(), &mut header), Ok(start as usize));
        prop_assert_eq!(&header[..], &bytes[..start as usize]);
        identity(Message::Packet(message))?;
    }

    #[test]
    fn sent_headers_survive_the_wire(
        data in vec(any::<u8>(), 14..200),
        hash_value in any::<Option<u32>>(),
        tci in any::<Option<u16>>(),
        kind in 0..3_u8,
        offset in 0..1024_u16,
        mss in 1..0x10_0000_u32,
        v6 in any::<bool>(),
        alignment_log2 in 0..=12_u32,
    ) {
        let ip = if v6 { IpVersion::V6 } else { IpVersion::V4 };
        let offload = match kind {
            0 => TxOffload::None,
            1 => TxOffload::Checksum(TxChecksum::transport(ip, Transport::Udp, offset).unwrap()),
            _ => TxOffload::Lso(Lso::v2(ip, mss, offset).unwrap()),
        };
        let header = TxHeader { hash_value, vlan: tci.map(Vlan::from_tci), offload };
        let data_len = data.len() as u32;
        let pad = padding(header.buffer_len() as u32 + data_len, 1 << alignment_log2);
        let mut bytes = vec![0xEE; header.buffer_len()];
        prop_assert_eq!(header.emit(data_len, pad, &mut bytes), Ok(bytes.len()));
        bytes.extend(&data);
        bytes.resize(bytes.len() + pad as usize, 0);
        prop_assert_eq!(bytes.len() % (1 << alignment_log2), 0);
        let message = PacketMsg::parse(&bytes).unwrap();
        prop_assert_eq!(message.data(), &data[..]);
        prop_assert_eq!(message.hash_value(), hash_value);
        prop_assert_eq!(message.vlan(), header.vlan);
        let back = match (message.tx_checksum(), message.lso()) {
            (Some(checksum), None) => TxOffload::Checksum(checksum),
            (None, Some(lso)) => TxOffload::Lso(lso),
            _ => TxOffload::None,
        };
        prop_assert_eq!(back, offload);
    }

    #[test]
    fn raw_headers_survive_the_wire(words in any::<[u32; 11]>()) {
        let raw = RawPacketHeader {
            message_type: MessageType(words[0]),
            message_len: words[1],
            data_offset: words[2],
            data_len: words[3],
            oob_data_offset: words[4],
            oob_data_len: words[5],
            num_oob_data_elements: words[6],
            ppi_offset: words[7],
            ppi_len: words[8],
            vc_handle: words[9],
            reserved: words[10],
        };
        let mut bytes = [0; 44];
        prop_assert_eq!(raw.emit(&mut bytes), Ok(44));
        prop_assert_eq!(RawPacketHeader::parse(&bytes), Ok(raw));
    }

    #[test]
    fn values_survive_the_wire(
        words in any::<[u32; 10]>(),
        octets in any::<[u8; 32]>(),
        revision in 1..=3_u8,
        entries in any::<u16>(),
    ) {
        let mut bytes = [0xEE; 156];
        let second = |octet: u8| if revision >= 2 { octet } else { 0 };
        let third = |octet: u8| if revision >= 3 { octet } else { 0 };

        let capabilities = RssCapabilities {
            revision,
            flags: RssCapabilityFlags(words[0]),
            interrupt_messages: words[1],
            receive_queues: words[2],
            indirection_entries: (revision > 1).then_some(entries),
        };
        capabilities.emit(&mut bytes).unwrap();
        prop_assert_eq!(RssCapabilities::parse(&bytes), Ok(capabilities));

        let v4 = ChecksumTask { encapsulation: Encapsulation(words[0]), flags: ChecksumV4Flags(words[1]) };
        let v6 = ChecksumTask { encapsulation: Encapsulation(words[2]), flags: ChecksumV6Flags(words[3]) };
        let lso = LsoTaskV2 { encapsulation: Encapsulation(words[4]), max_size: words[5], min_segments: words[6] };
        let offload = Offload {
            checksum_v4_tx: v4,
            checksum_v6_rx: v6,
            lso_v2_v6: lso,
            flags: words[7],
            ipsec_v2: octets.map(second),
            rsc_v4: third(octets[0]),
            rsc_v6: third(octets[1]),
            encapsulated: [third(octets[2]); 8],
            ..Offload::empty(revision)
        };
        offload.emit(&mut bytes).unwrap();
        prop_assert_eq!(Offload::parse(&bytes), Ok(offload));

        let parameters = OffloadParameters {
            ipv4_checksum: ChecksumSetting(octets[0]),
            tcp_v4_checksum: ChecksumSetting(octets[1]),
            udp_v6_checksum: ChecksumSetting(octets[2]),
            lso_v2_v6: TaskSetting(octets[3]),
            flags: words[0],
            ipsec_v2: second(octets[4]),
            ipsec_v2_v4: second(octets[5]),
            rsc_v4: TaskSetting(third(octets[6])),
            rsc_v6: TaskSetting(third(octets[7])),
            encapsulated_task: third(octets[8]),
            ..OffloadParameters::no_change(revision)
        };
        parameters.emit(&mut bytes).unwrap();
        prop_assert_eq!(OffloadParameters::parse(&bytes), Ok(parameters));

        let state = LinkState {
            connect_state: ConnectState(words[0]),
            duplex: words[1],
            transmit_bps: u64::from(words[2]) << 20,
            receive_bps: u64::from(words[3]) << 20,
            pause: words[4],
            auto_negotiation: words[5],
        };
        state.emit(&mut bytes).unwrap();
        prop_assert_eq!(LinkState::parse(&bytes), Ok(state));

        let encapsulation = OffloadEncapsulation {
            ipv4_enabled: words[0],
            ipv4_encapsulation: words[1],
            ipv4_header_size: words[2],
            ipv6_enabled: words[3],
            ipv6_encapsulation: words[4],
            ipv6_header_size: words[5],
        };
        encapsulation.emit(&mut bytes).unwrap();
        prop_assert_eq!(OffloadEncapsulation::parse(&bytes), Ok(encapsulation));
    }

    #[test]
    fn rss_parameters_survive_the_wire(
        flags in any::<u16>(),
        hash_info in any::<u32>(),
        table in vec(any::<u32>(), 0..256),
        key in vec(any::<u8>(), 0..64),
        default_processor in any::<Option<u32>>(),
        key_first in any::<bool>(),
    ) {
        let (flags, hash_info) = (RssFlags(flags), HashInfo(hash_info));
        let encoder =
            RssParametersEncoder { flags, hash_info, table: &table, key: &key, default_processor, key_first };
        let mut bytes = vec![0xEE; encoder.buffer_len()];
        prop_assert_eq!(encoder.emit(&mut bytes), Ok(bytes.len()));
        let parsed = RssParameters::parse(&bytes).unwrap();
        prop_assert_eq!((parsed.flags, parsed.hash_info), (flags, hash_info));
        prop_assert!(parsed.table.iter().eq(table.iter().copied()));
        prop_assert_eq!(parsed.key, &key[..]);
        prop_assert_eq!(parsed.default_processor, default_processor);
    }

    #[test]
    fn keywords_survive_the_wire(name in "\\PC{0,20}", value in "\\PC{0,20}") {
        let config = ConfigString { name: &name, value: &value };
        let mut bytes = vec![0xEE; config.buffer_len()];
        prop_assert_eq!(config.emit(&mut bytes), Ok(bytes.len()));
        let parsed = ConfigParameter::parse(&bytes).unwrap();
        prop_assert!(parsed.name == name.as_str() && parsed.text().unwrap() == value.as_str());
        let mut again = vec![0; parsed.buffer_len()];
        parsed.emit(&mut again).unwrap();
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..400)) {
        parse_all(&bytes);
    }

    #[test]
    fn no_damage_makes_a_parser_panic(
        seed in any::<Index>(),
        words in vec((any::<Index>(), edge()), 0..4),
        cut in any::<Option<Index>>(),
        extra in vec(any::<u8>(), 0..20),
    ) {
        let seeds = seeds();
        let mut bytes = seed.get(&seeds).clone();
        for (at, word) in words {
            // Fields are words or half-words, so most damage should hit one squarely.
            let at = at.index(bytes.len()) / 4 * 4;
            for (place, byte) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                *place = byte;
            }
        }
        bytes.extend(extra);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        parse_all(&bytes);
    }
}
