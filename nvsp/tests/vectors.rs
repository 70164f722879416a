//! Every vector of `tests/vectors/` both ways: the bytes give the listed fields, and the fields give the bytes.
//!
//! The vectors also say what a guest or host must refuse on grounds of policy (a section larger than its buffer, more
//! subchannels than asked for). That is not this crate's to judge: such a vector has to parse and read back here, and only those
//! in [`REFUSED`] and the send table's are malformed as bytes.

use std::{collections::BTreeSet, fs, path::Path};

use nvsp::*;
use serde_json::Value;

/// Vectors that are too short, and the first field that is missing.
const REFUSED: [(&str, &str); 7] = [
    ("init_complete_too_short_12", "status"),
    ("rndis_packet_complete_short_4", "status"),
    ("send_receive_buffer_complete_bad_short_24", "sections"),
    ("send_receive_buffer_complete_bad_two_sections", "sections"),
    ("send_table_bad_short_8", "offset"),
    ("subchannel_complete_short_8", "count"),
    ("vf_association_short_8", "serial_number"),
];

/// Vectors in each file; a vector that is added has to be looked at here.
const FILES: [(&str, usize); 7] = [
    ("buffers.json", 27),
    ("data.json", 14),
    ("init.json", 25),
    ("send_indirection_table.json", 11),
    ("v4_v5.json", 19),
    ("v6_packet_direct.json", 17),
    ("vmbus_framing.json", 19),
];

fn vectors(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    json["vectors"].as_array().unwrap().clone()
}

fn name(vector: &Value) -> &str {
    vector["name"].as_str().unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn bytes(vector: &Value) -> Vec<u8> {
    let bytes = unhex(vector["hex"].as_str().unwrap());
    assert_eq!(bytes.len() as u64, vector["length"].as_u64().unwrap(), "{}", name(vector));
    bytes
}

fn fields(vector: &Value) -> &[Value] {
    vector["fields"].as_array().map_or(&[], Vec::as_slice)
}

fn field<'v>(vector: &'v Value, wanted: &str) -> &'v Value {
    fields(vector)
        .iter()
        .find(|field| field["name"] == wanted)
        .unwrap_or_else(|| panic!("{} has no field {wanted}", name(vector)))
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(vector: &Value, wanted: &str) -> T {
    T::try_from(field(vector, wanted)["value"].as_u64().unwrap()).unwrap()
}

fn flag(vector: &Value, wanted: &str) -> bool {
    number::<u8>(vector, wanted) != 0
}

fn sender(vector: &Value) -> Sender {
    if name(vector).contains("complete") { Sender::Host } else { Sender::Guest }
}

/// The message that a vector's fields describe.
fn described(vector: &Value) -> Message<'static> {
    let u32 = |wanted| number::<u32>(vector, wanted);
    let u16 = |wanted| number::<u16>(vector, wanted);
    let status = || Status(u32("status"));
    match (u32("message_type"), sender(vector)) {
        (1, _) => {
            Init { min_version: Version(u32("protocol_version")), max_version: Version(u32("protocol_version2")) }
                .into()
        }
        (2, _) => InitComplete {
            version: Version(u32("negotiated_or_deprecated")),
            max_mdl_chain_len: u32("maximum_mdl_chain_length"),
            status: status(),
        }
        .into(),
        (100, _) => NdisVersion { major: u32("ndis_major"), minor: u32("ndis_minor") }.into(),
        (101, _) => SendReceiveBuffer { gpadl: GpadlHandle(u32("gpadl_handle")), id: BufferId(u16("id")) }.into(),
        (102, _) => {
            let sections: Vec<_> = (0..u32("num_sections"))
                .map(|index| ReceiveSection {
                    offset: number(vector, &format!("section{index}.offset")),
                    sub_allocation_size: number(vector, &format!("section{index}.sub_allocation_size")),
                    sub_allocation_count: number(vector, &format!("section{index}.num_sub_allocations")),
                    end_offset: number(vector, &format!("section{index}.end_offset")),
                })
                .collect();
            let sections = Records::from(&*sections.leak());
            SendReceiveBufferComplete { status: status(), sections }.into()
        }
        (103, _) => RevokeReceiveBuffer { id: BufferId(u16("id")) }.into(),
        (104, _) => SendSendBuffer { gpadl: GpadlHandle(u32("gpadl_handle")), id: BufferId(u16("id")) }.into(),
        (105, _) => SendSendBufferComplete { status: status(), section_size: u32("section_size") }.into(),
        (106, _) => RevokeSendBuffer { id: BufferId(u16("id")) }.into(),
        (107, _) => RndisPacket {
            channel_type: ChannelType(u32("channel_type")),
            section: SectionIndex::new(u32("send_buffer_section_index")),
            section_bytes: u32("send_buffer_section_size"),
        }
        .into(),
        (108, _) => RndisPacketComplete { status: status() }.into(),
        (120, _) => AllocateReceiveBuffer { allocation_id: u32("alloc_id"), byte_count: u32("length") }.into(),
        (121, _) => AllocateReceiveBufferComplete {
            status: status(),
            allocation_id: u32("alloc_id"),
            gpadl: GpadlHandle(u32("gpadl_handle")),
            receive_buffer_id: number(vector, "recv_buf_id"),
        }
        .into(),
        (122, _) => FreeReceiveBuffer { receive_buffer_id: number(vector, "recv_buf_id") }.into(),
        (125, _) => {
            NdisConfig { frame_mtu: u32("mtu"), capabilities: Capabilities(number(vector, "capabilities")) }.into()
        }
        (128, _) => VfAssociation { allocated: u32("vf_allocated") != 0, serial_number: u32("serial_number") }.into(),
        (129, _) => SwitchDataPath { active_path: DataPath(u32("active_data_path")) }.into(),
        (130, _) => UplinkConnectState {}.into(),
        (131, _) => OidQueryEx {
            ndis_type: number(vector, "ndis_header.type"),
            ndis_revision: number(vector, "ndis_header.revision"),
            ndis_size: u16("ndis_header.size"),
            oid: u32("oid"),
        }
        .into(),
        (132, _) => OidQueryExComplete { status: NdisStatus(u32("status")), byte_count: u32("bytes") }.into(),
        (133, Sender::Guest) => {
            SubchannelRequest { operation: SubchannelOperation(u32("operation")), count: u32("num_sub_channels") }
                .into()
        }
        (133, Sender::Host) => SubchannelComplete { status: status(), count: u32("num_sub_channels") }.into(),
        (135, Sender::Guest) => described_pd_request(vector).into(),
        (135, Sender::Host) => described_pd_complete(vector).into(),
        (136, _) => {
            let buffers: Vec<_> = (0..u16("count"))
                .map(|index| PdBuffer {
                    region_offset: number(vector, &format!("buf{index}.region_offset")),
                    region_id: number(vector, &format!("buf{index}.region_id")),
                    flags: number(vector, &format!("buf{index}.flags")),
                })
                .collect();
            PdPostBatch { flags: PdBatchFlags(u16("flags")), buffers: Records::from(&*buffers.leak()) }.into()
        }
        (other, _) => panic!("{}: type {other} is not covered", name(vector)),
    }
}

fn affinity(vector: &Value) -> GroupAffinity {
    GroupAffinity { mask: number(vector, "affinity.mask"), group: number(vector, "affinity.group") }
}

fn described_pd_request(vector: &Value) -> PdRequest {
    let u32 = |wanted| number::<u32>(vector, wanted);
    let u16 = |wanted| number::<u16>(vector, wanted);
    match PdOperation(u32("operation")) {
        PdOperation::CONFIGURATION => PdRequest::Configuration(PdConfigurationRequest {
            mmio_physical_address: number(vector, "mmio_physical_address"),
            mmio_length: u32("mmio_length"),
            queue_count: u16("num_pd_queues"),
        }),
        PdOperation::SWITCH_DATAPATH => PdRequest::SwitchDatapath(PdSwitchDatapathRequest {
            host_is_packet_direct: flag(vector, "host_datapath_is_packet_direct"),
            guest_is_enabled: flag(vector, "guest_packet_direct_is_enabled"),
        }),
        PdOperation::OPEN_PROVIDER => {
            PdRequest::OpenProvider(PdOpenProviderRequest { provider_id: u32("provider_id"), flags: u32("flags") })
        }
        PdOperation::CLOSE_PROVIDER => {
            PdRequest::CloseProvider(PdCloseProviderRequest { provider_id: u32("provider_id") })
        }
        PdOperation::CREATE_QUEUE => PdRequest::CreateQueue(PdCreateQueueRequest {
            provider_id: u32("provider_id"),
            queue_id: u16("queue_id"),
            queue_size: u16("queue_size"),
            is_receive_queue: flag(vector, "is_receive_queue"),
            is_rss_queue: flag(vector, "is_rss_queue"),
            receive_data_length: u32("receive_data_length"),
            affinity: affinity(vector),
        }),
        PdOperation::FLUSH_QUEUE => {
            PdRequest::FlushQueue(PdFlushQueueRequest { provider_id: u32("provider_id"), queue_id: u16("queue_id") })
        }
        PdOperation::FREE_QUEUE => {
            PdRequest::FreeQueue(PdFreeQueueRequest { provider_id: u32("provider_id"), queue_id: u16("queue_id") })
        }
        PdOperation::ALLOCATE_COMMON_BUFFER => PdRequest::AllocateCommonBuffer(PdAllocateCommonBufferRequest {
            length: u32("length"),
            preferred_node: u32("preferred_node"),
            region_id: u16("region_id"),
        }),
        PdOperation::FREE_COMMON_BUFFER => PdRequest::FreeCommonBuffer(PdFreeCommonBufferRequest {
            length: u32("length"),
            physical_address: number(vector, "physical_address"),
            preferred_node: u32("preferred_node"),
            region_id: u16("region_id"),
            cache_type: number(vector, "cache_type"),
        }),
        other => panic!("{}: {other:?} is not covered", name(vector)),
    }
}

fn described_pd_complete(vector: &Value) -> PdComplete {
    let u32 = |wanted| number::<u32>(vector, wanted);
    let u16 = |wanted| number::<u16>(vector, wanted);
    let status = NdisStatus(u32("status"));
    match PdOperation(u32("operation")) {
        PdOperation::CONFIGURATION => PdComplete::Configuration(PdConfigurationComplete {
            status,
            queue_count: u16("num_pd_queues"),
            receive_rss_queue_count: number(vector, "num_receive_rss_pd_queues"),
            is_supported: flag(vector, "is_supported_by_vsp"),
            is_enabled: flag(vector, "is_enabled_by_vsp"),
        }),
        PdOperation::OPEN_PROVIDER => {
            PdComplete::OpenProvider(PdOpenProviderComplete { status, provider_id: u32("provider_id") })
        }
        PdOperation::CREATE_QUEUE => PdComplete::CreateQueue(PdCreateQueueComplete {
            status,
            provider_id: u32("provider_id"),
            queue_id: u16("queue_id"),
            queue_size: u16("queue_size"),
            receive_data_length: u32("receive_data_length"),
            affinity: affinity(vector),
        }),
        PdOperation::ALLOCATE_COMMON_BUFFER => PdComplete::AllocateCommonBuffer(PdAllocateCommonBufferComplete {
            status,
            physical_address: number(vector, "physical_address"),
            length: u32("length"),
            preferred_node: u32("preferred_node"),
            region_id: u16("region_id"),
            cache_type: number(vector, "cache_type"),
        }),
        other => panic!("{}: {other:?} is not covered", name(vector)),
    }
}

/// Checks one message both ways and each of its truncations.
fn check(vector: &Value) {
    let (name, bytes) = (name(vector), bytes(vector));
    if let Some((_, missing)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        let error = Message::parse(&bytes, sender(vector)).unwrap_err();
        assert!(matches!(error, ParseError::Truncated { .. }), "{name}: {error}");
        assert_eq!(error.field(), *missing, "{name}");
        return;
    }
    let message = described(vector);
    assert_eq!(Message::parse(&bytes, sender(vector)), Ok(message), "{name}");
    assert_eq!(u64::from(message.message_type().0), field(vector, "message_type")["value"], "{name}");

    let mut out = [0xFF; 64];
    let len = message.emit_padded(&mut out, bytes.len()).unwrap();
    assert_eq!(len, bytes.len(), "{name}");
    // This one says "no sections" and has one behind it, which is padding then.
    let stated = if name.ends_with("bad_zero_sections") { 12 } else { len };
    assert_eq!(out[..stated], bytes[..stated], "{name}");
    assert!(out[len..].iter().all(|byte| *byte == 0xFF), "{name} wrote past its end");
    check_truncations(vector, &bytes, stated);
}

/// Ends of the fields a receiver needs, from the vector; parts of one record (`section0.offset`) count as the record.
fn needed_ends(vector: &Value, stated: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut last_record = None;
    for field in fields(vector) {
        let name = field["name"].as_str().unwrap();
        let end = (field["offset"].as_u64().unwrap() + field["size"].as_u64().unwrap()) as usize;
        if name == "reserved" || name == "padding" || end > stated {
            continue;
        }
        let record = name.split_once('.').map(|(record, _)| record.trim_end_matches(char::is_numeric));
        if record.is_some() && record == last_record && record != Some("ndis_header") {
            *ends.last_mut().unwrap() = end;
        } else {
            ends.push(end);
        }
        last_record = record;
    }
    ends
}

fn check_truncations(vector: &Value, bytes: &[u8], stated: usize) {
    let ends = needed_ends(vector, stated);
    let min = *ends.last().unwrap();
    for cut in 0..min {
        let first_missing = *ends.iter().find(|end| **end > cut).unwrap();
        match Message::parse(&bytes[..cut], sender(vector)) {
            Err(ParseError::Truncated { needed, len, field, .. }) => {
                assert_eq!((needed, len), (first_missing, cut), "{} at {cut}: {field}", name(vector));
            }
            other => panic!("{} cut to {cut} gave {other:?}", name(vector)),
        }
    }
    for enough in min..bytes.len() {
        let cut = Message::parse(&bytes[..enough], sender(vector));
        assert_eq!(cut, Ok(described(vector)), "{} at {enough}", name(vector));
    }
}

#[test]
fn every_file_and_vector_is_counted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let found: BTreeSet<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let known: BTreeSet<String> = FILES.iter().map(|(file, _)| file.to_string()).collect();
    assert_eq!(found, known);
    let mut names = BTreeSet::new();
    for (file, count) in FILES {
        let vectors = vectors(file);
        assert_eq!(vectors.len(), count, "{file}");
        names.extend(vectors.iter().map(|vector| name(vector).to_owned()));
    }
    assert_eq!(names.len(), 132, "names are unique");
    for (refused, _) in REFUSED {
        assert!(names.contains(refused), "{refused} is no vector");
    }
}

#[test]
fn messages_read_and_write_as_listed() {
    for file in ["buffers.json", "data.json", "init.json", "v4_v5.json", "v6_packet_direct.json"] {
        vectors(file).iter().for_each(check);
    }
}

#[test]
fn capability_bits_are_the_named_ones() {
    let names = [
        ("vmq", Capabilities::VMQ),
        ("chimney", Capabilities::CHIMNEY),
        ("sriov", Capabilities::SRIOV),
        ("ieee8021q", Capabilities::IEEE8021Q),
        ("correlation_id", Capabilities::CORRELATION_ID),
        ("teaming", Capabilities::TEAMING),
        ("virtual_subnet_id", Capabilities::VIRTUAL_SUBNET_ID),
        ("rsc_over_vmbus", Capabilities::RSC_OVER_VMBUS),
    ];
    let mut checked = 0;
    for vector in vectors("init.json").iter().filter(|vector| vector["expect"]["caps"].is_object()) {
        let capabilities = NdisConfig::parse(&bytes(vector)).unwrap().capabilities;
        let listed = vector["expect"]["caps"].as_object().unwrap();
        assert_eq!(listed.len(), names.len());
        for (key, bit) in names {
            assert_eq!(capabilities.contains(bit), listed[key].as_bool().unwrap(), "{} {key}", name(vector));
        }
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn send_tables_are_found_or_refused_as_listed() {
    let refused = [
        ("send_table_bad_count_0", "count"),
        ("send_table_bad_count_15", "count"),
        ("send_table_bad_offset_past_end", "offset"),
        ("send_table_bad_offset_wrap", "offset"),
        ("send_table_bad_short_8", "offset"),
        ("send_table_shorter_than_table", "entries"),
    ];
    let mut refusals = 0;
    for vector in vectors("send_indirection_table.json") {
        let (name, bytes) = (name(&vector), bytes(&vector));
        let version = vector["expect"]["nvsp_version"].as_str().unwrap();
        let version = Version(u32::from_str_radix(version.trim_start_matches("0x"), 16).unwrap());
        let parsed = SendTable::parse(&bytes, version);
        if vector["expect"]["accepted"] == false {
            let error = parsed.unwrap_err();
            let field = refused.iter().find(|(refused, _)| *refused == name).unwrap().1;
            assert_eq!(error.field(), field, "{name}: {error}");
            refusals += 1;
            continue;
        }
        let entries = std::array::from_fn(|index| number(&vector, &format!("entry{index}")));
        let table = SendTable { entries };
        assert_eq!(parsed, Ok(table), "{name}");
        if let Some(listed) = vector["expect"]["table"].as_array() {
            assert!(listed.iter().map(|entry| entry.as_u64().unwrap()).eq(entries.map(u64::from)), "{name}");
        }

        let layout = SendTableLayout {
            stated_offset: number(&vector, "table_offset"),
            actual_offset: field(&vector, "entry0")["offset"].as_u64().unwrap() as usize,
        };
        let mut out = [0xFF; 128];
        let len = table.emit_padded(layout, &mut out, bytes.len()).unwrap();
        assert_eq!(out[..len], bytes, "{name}");

        let message = Message::parse(&bytes, Sender::Host).unwrap();
        assert_eq!(message.emit(&mut out), Ok(bytes.len()), "{name}");
        assert_eq!(out[..bytes.len()], bytes, "{name}");
    }
    assert_eq!(refusals, refused.len());
}

/// These vectors are about VMBus descriptors, which the crate `vmbus` checks; here only the NVSP message inside.
#[test]
fn payloads_of_vmbus_packets_read_and_write() {
    let data = RndisPacket::without_section(ChannelType::DATA);
    let control = RndisPacket::without_section(ChannelType::CONTROL);
    let ack = RndisPacketComplete { status: Status::SUCCESS };
    for vector in vectors("vmbus_framing.json") {
        let payload = unhex(field(&vector, "payload")["value"].as_str().unwrap());
        let at = field(&vector, "payload")["offset"].as_u64().unwrap() as usize;
        assert_eq!(bytes(&vector)[at..][..payload.len()], payload);
        let expected: Message<'_> = match name(&vector) {
            "inband_subchannel_request_completion_requested" => SubchannelRequest::allocate(3).into(),
            "inband_no_completion_revoke" => RevokeReceiveBuffer { id: BufferId::RECEIVE }.into(),
            "completion_rx_ack" | "transfer_pages_wrong_nvsp_type" => ack.into(),
            "completion_empty_payload" => {
                let error = Message::parse(&payload, Sender::Host).unwrap_err();
                assert_eq!(error.field(), "message_type");
                continue;
            }
            "gpa_direct_control_one_range" => control.into(),
            "gpa_direct_data_header_plus_crossing_range" => data.into(),
            name if name.starts_with("transfer_pages_") => data.into(),
            other => panic!("{other} is not covered"),
        };
        assert_eq!(Message::parse(&payload, Sender::Guest), Ok(expected), "{}", name(&vector));
        let mut out = [0xFF; 40];
        let len = expected.emit_padded(&mut out, payload.len()).unwrap();
        assert_eq!(out[..len], payload, "{}", name(&vector));
    }
}
