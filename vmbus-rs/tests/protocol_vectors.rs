//! The wire forms against the test vectors, both ways, and against arbitrary bytes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use vmbus::gpadl::{
    GpaRangeError, GpaRanges, GpadlId, PageError, Progress, RangeList, Reassembler, ReassemblyError, ReassemblyLimits,
    page_numbers,
};
use vmbus::guid::{Guid, ParseGuidError};
use vmbus::monitor::{
    self, MonitorId, MonitorParameter, SignalPath, Trigger, interrupt_page_recv, interrupt_page_send,
};
use vmbus::protocol::*;
use vmbus::synic::{self, HypercallStatus, PostMessage, SignalEvent, Slot, SlotError};

fn vectors(file: &str, key: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("vector file");
    let file: Value = serde_json::from_str(&text).expect("vectors are JSON");
    file[key].as_array().expect("list of vectors").clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex text");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digit")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn emit(message: &Message<'_>) -> Vec<u8> {
    let mut buf = [0xaa; MAX_MESSAGE];
    let len = message.emit(&mut buf).expect("message has bytes");
    assert_eq!(len, message.encoded_len());
    assert!(buf[len..].iter().all(|byte| *byte == 0xaa), "wrote behind the message");
    buf[..len].to_vec()
}

/// Fields of one vector, each of which has to be asked for.
struct Fields<'a> {
    name: &'a str,
    fields: &'a Value,
    asked: BTreeSet<String>,
}

impl<'a> Fields<'a> {
    fn of(vector: &'a Value) -> Self {
        let name = vector["name"].as_str().expect("vectors have names");
        Self { name, fields: &vector["fields"], asked: BTreeSet::new() }
    }

    fn get(&mut self, field: &str) -> Option<&'a Value> {
        self.asked.insert(field.to_owned());
        self.fields.get(field)
    }

    fn need(&mut self, field: &str) -> &'a Value {
        self.get(field).unwrap_or_else(|| panic!("{}: no {field}", self.name))
    }

    fn u64(&mut self, field: &str) -> u64 {
        number(self.need(field))
    }

    fn u32(&mut self, field: &str) -> u32 {
        self.u64(field).try_into().expect("32 bits")
    }

    fn u16(&mut self, field: &str) -> u16 {
        self.u64(field).try_into().expect("16 bits")
    }

    fn u8(&mut self, field: &str) -> u8 {
        self.u64(field).try_into().expect("8 bits")
    }

    fn zero(&mut self, field: &str) {
        assert_eq!(self.u64(field), 0, "{}: {field}", self.name);
    }

    fn guid(&mut self, field: &str) -> Guid {
        self.need(field).as_str().expect("guid text").parse().expect("guid")
    }

    fn array<const N: usize>(&mut self, field: &str) -> [u8; N] {
        bytes(self.need(field)).try_into().expect("length")
    }

    fn monitor_pages(&mut self) -> MonitorPages {
        MonitorPages {
            parent_to_child: self.u64("monitor_page_parent_to_child"),
            child_to_parent: self.u64("monitor_page_child_to_parent"),
        }
    }

    fn finish(self) {
        let there = self.fields.as_object().expect("fields").keys();
        let missed: Vec<_> = there.filter(|field| !self.asked.contains(*field)).collect();
        assert!(missed.is_empty(), "{}: fields not checked: {missed:?}", self.name);
    }
}

/// The connection on which a vector's message exists.
fn context(vector: &Value, message: &Fields<'_>) -> Context {
    let text = vector["min_version"].as_str().expect("min_version");
    let mut context = Context { version: Version::V6_0, features: FeatureFlags::NONE };
    if !text.starts_with("any") {
        let word = text.split(' ').next().expect("a word");
        let (major, minor) = word.split_once('.').expect("major.minor");
        context.version = Version::new(major.parse().expect("major"), minor.parse().expect("minor"));
    }
    if let Some((_, features)) = text.split_once("feature ") {
        for feature in features.split('|') {
            let bit = u32::from_str_radix(feature.trim_start_matches("0x"), 16).expect("hex");
            context.features = context.features.union(FeatureFlags(bit));
        }
    }
    if message.name == "version_response_ok_pre5" {
        context.version = Version::V4_0;
    }
    context
}

/// Builds the value that a vector describes.
fn expected<'a>(kind: u64, f: &mut Fields<'_>, data: &'a [u8]) -> Message<'a> {
    let relid = |f: &mut Fields<'_>| RelId(f.u32("child_relid"));
    let gpadl = |f: &mut Fields<'_>| GpadlId(f.u32("gpadl"));
    match kind {
        1 => {
            let allocated = f.u8("monitor_allocated");
            let dedicated = f.u16("is_dedicated_interrupt");
            Message::Offer(Offer {
                interface_id: f.guid("interface_id"),
                instance_id: f.guid("instance_id"),
                reserved: f.array("reserved16"),
                flags: OfferFlags(f.u16("flags")),
                mmio_megabytes: f.u16("mmio_megabytes"),
                user_defined: f.array("user_defined"),
                sub_channel_index: f.u16("sub_channel_index"),
                mmio_megabytes_optional: f.u16("mmio_megabytes_optional"),
                relid: relid(f),
                monitor_id: f.u8("monitor_id"),
                monitor_allocated: allocated == 1,
                is_dedicated_interrupt: dedicated == 1,
                connection_id: ConnectionId(f.u32("connection_id")),
            })
        }
        2 => Message::Rescind(Rescind { relid: relid(f) }),
        3 => Message::RequestOffers,
        4 => Message::AllOffersDelivered,
        5 => Message::OpenChannel(OpenChannel {
            relid: relid(f),
            open_id: OpenId(f.u32("open_id")),
            ring_gpadl: GpadlId(f.u32("ring_gpadl")),
            target_vp: VpIndex(f.u32("target_vp")),
            downstream_page_offset: f.u32("downstream_page_offset"),
            user_data: f.array("user_data"),
            signal: f.get("connection_id").map(number).map(|id| SignalParameters {
                connection_id: ConnectionId(id.try_into().expect("32 bits")),
                event_flag: f.u16("event_flag"),
                flags: OpenFlags(f.u16("flags")),
            }),
        }),
        6 => Message::OpenResult(OpenResult {
            relid: relid(f),
            open_id: OpenId(f.u32("open_id")),
            status: Status(f.u32("status")),
        }),
        7 => Message::CloseChannel(CloseChannel { relid: relid(f) }),
        8 => {
            if let Some(sample) = f.get("data") {
                assert_eq!(bytes(sample), data);
                f.get("note");
            } else {
                let range = f.need("range");
                let ranges = GpaRanges::parse(data, 1).expect("one range");
                let only = ranges.iter().next().expect("one range");
                let pfns: Vec<u64> = range["pfns"].as_array().expect("pfns").iter().map(number).collect();
                assert_eq!(u64::from(only.byte_count()), number(&range["byte_count"]));
                assert_eq!(u64::from(only.byte_offset()), number(&range["byte_offset"]));
                assert!(only.pfns().eq(pfns.iter().copied()));
                let mut list = RangeList::new();
                list.push(only.byte_count(), only.byte_offset(), pfns).expect("fits");
                assert_eq!(list.as_bytes(), data);
            }
            Message::GpadlHeader(GpadlHeader {
                relid: relid(f),
                gpadl: gpadl(f),
                range_buflen: f.u16("range_buflen"),
                range_count: f.u16("rangecount"),
                data,
            })
        }
        9 => {
            let pfns = f.need("pfns").as_array().expect("pfns");
            let words: Vec<u8> = pfns.iter().flat_map(|pfn| number(pfn).to_le_bytes()).collect();
            assert_eq!(words, data);
            let message_number = f.u32("msgnumber_or_reserved");
            Message::GpadlBody(GpadlBody { message_number, gpadl: gpadl(f), data })
        }
        10 => Message::GpadlCreated(GpadlCreated {
            relid: relid(f),
            gpadl: gpadl(f),
            status: Status(f.u32("creation_status")),
        }),
        11 => Message::GpadlTeardown(GpadlTeardown { relid: relid(f), gpadl: gpadl(f) }),
        12 => Message::GpadlTorndown(GpadlTorndown { gpadl: gpadl(f) }),
        13 => Message::RelIdReleased(RelIdReleased { relid: relid(f) }),
        14 => Message::InitiateContact(InitiateContact {
            version: Version(f.u32("version")),
            target_message_vp: VpIndex(f.u32("target_message_vp")),
            target: match f.get("interrupt_page_gpa") {
                Some(gpa) => ContactTarget::InterruptPage(number(gpa)),
                None => {
                    if f.get("reserved").is_some() {
                        f.zero("reserved");
                    }
                    ContactTarget::Synic {
                        sint: f.u8("msg_sint"),
                        vtl: f.u8("msg_vtl"),
                        features: FeatureFlags(f.u32("feature_flags")),
                    }
                }
            },
            monitor_pages: f.monitor_pages(),
            client_id: f.get("client_id").is_some().then(|| f.guid("client_id")),
        }),
        15 => {
            f.zero("padding");
            let names = ["selected_version", "msg_connection_id", "selected_version_or_connection_id"];
            let selected = names.into_iter().find_map(|name| f.get(name)).expect("selected");
            let supported = f.u8("version_supported");
            let features = f.get("supported_features").map(number);
            let pages = f.get("padding2").map(number).map(|padding| {
                assert_eq!(padding, 0);
                f.monitor_pages()
            });
            Message::VersionResponse(VersionResponse {
                version_supported: supported == 1,
                connection_state: ConnectionState(f.u8("connection_state")),
                selected: number(selected).try_into().expect("32 bits"),
                supported_features: features.map(|bits| FeatureFlags(bits as u32)),
                monitor_pages: pages,
            })
        }
        16 => Message::Unload,
        17 => Message::UnloadResponse,
        18 => Message::OpenReservedChannel(OpenReservedChannel {
            channel_id: f.u32("channel_id"),
            target_vp: VpIndex(f.u32("target_vp")),
            target_sint: f.u32("target_sint"),
            ring_gpadl: GpadlId(f.u32("ring_gpadl")),
            downstream_page_offset: f.u32("downstream_page_offset"),
        }),
        19 => Message::CloseReservedChannel(CloseReservedChannel {
            channel_id: f.u32("channel_id"),
            target_vp: VpIndex(f.u32("target_vp")),
            target_sint: f.u32("target_sint"),
        }),
        20 => Message::CloseReservedResponse(CloseReservedResponse { channel_id: f.u32("channel_id") }),
        21 => Message::TlConnectRequest(TlConnectRequest {
            guest_endpoint: f.guid("guest_endpoint_id"),
            host_service: f.guid("host_service_id"),
            silo_id: f.get("silo_id").is_some().then(|| f.guid("silo_id")),
        }),
        22 => Message::ModifyChannel(ModifyChannel { relid: relid(f), target_vp: VpIndex(f.u32("target_vp")) }),
        23 => Message::TlConnectResult(TlConnectResult {
            guest_endpoint: f.guid("guest_endpoint_id"),
            host_service: f.guid("host_service_id"),
            status: Status(f.u32("status")),
        }),
        24 => {
            Message::ModifyChannelResponse(ModifyChannelResponse { relid: relid(f), status: Status(f.u32("status")) })
        }
        25 => Message::ModifyConnection(ModifyConnection { monitor_pages: f.monitor_pages() }),
        26 => Message::ModifyConnectionResponse(ModifyConnectionResponse {
            connection_state: ConnectionState(f.u8("connection_state")),
        }),
        27 => Message::Pause,
        28 => Message::PauseResponse,
        29 => Message::Resume,
        _ => panic!("no message has type {kind}"),
    }
}

/// Bytes before the variable part of a message.
fn fixed_len(kind: u64, all: &[u8]) -> usize {
    match kind {
        8 => 20,
        9 => 16,
        _ => all.len(),
    }
}

#[test]
fn every_control_message_vector_both_ways() {
    let mut types = BTreeSet::new();
    for vector in vectors("channel_messages", "vectors") {
        let mut fields = Fields::of(&vector);
        let kind = number(&vector["type"]);
        let all = bytes(&vector["hex"]);
        assert_eq!(all.len() as u64, number(&vector["size"]));
        let context = context(&vector, &fields);
        let expected = expected(kind, &mut fields, &all[fixed_len(kind, &all)..]);
        let name = fields.name.to_owned();
        fields.finish();
        assert_eq!(Message::parse(&all, context), Ok(expected), "{name}");
        assert_eq!(emit(&expected), all, "{name}");
        let message_type = expected.message_type();
        assert_eq!(u64::from(message_type.0), kind);
        let direction = match vector["direction"].as_str() {
            Some("host->guest") => Direction::HostToGuest,
            _ => Direction::GuestToHost,
        };
        assert_eq!(message_type.direction(), Some(direction), "{name}");
        types.insert(message_type);
    }
    assert_eq!(types, BTreeSet::from(MessageType::ALL), "some type has no vector");
}

#[test]
fn every_truncation_is_an_error_that_names_a_field() {
    for vector in vectors("channel_messages", "vectors") {
        let fields = Fields::of(&vector);
        let kind = number(&vector["type"]);
        let all = bytes(&vector["hex"]);
        let context = context(&vector, &fields);
        // Where the size selects the form, what is shorter is the older form.
        let shorter_form = match fields.name {
            "version_response2_6_0" | "version_response3_6_0_server_monitor" => 16..20,
            "version_response_ok_5_x" => 16..16,
            "tl_connect_request2_silo" => 40..56,
            _ => 0..0,
        };
        for len in 0..fixed_len(kind, &all) {
            let result = Message::parse(&all[..len], context);
            if shorter_form.contains(&len) {
                assert!(result.is_ok(), "{}: {len}", fields.name);
                continue;
            }
            match result {
                Err(ParseError::Truncated { field, needed, len: seen, message }) => {
                    assert!(!field.is_empty() && needed > len && seen == len);
                    let known = if len < 4 { 0 } else { kind };
                    assert_eq!(u64::from(message.0), known);
                }
                other => panic!("{} cut to {len}: {other:?}", fields.name),
            }
        }
    }
}

#[test]
fn truncation_names_the_field_that_is_cut() {
    let error = Message::parse(&[6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0], Context::UNCONNECTED);
    let expected =
        ParseError::Truncated { message: MessageType::OPEN_CHANNEL_RESULT, field: "open_id", needed: 16, len: 14 };
    assert_eq!(error, Err(expected));
    assert_eq!(expected.to_string(), "OPEN_CHANNEL_RESULT needs 16 bytes to hold open_id and has 14");
}

#[test]
fn padding_to_240_bytes_changes_nothing() {
    for vector in vectors("channel_messages", "vectors") {
        let fields = Fields::of(&vector);
        let kind = number(&vector["type"]);
        let all = bytes(&vector["hex"]);
        // The data of GPADL messages reaches to the end; a silo id is chosen by size.
        if matches!(kind, 8 | 9) || fields.name == "tl_connect_request" {
            continue;
        }
        let mut context = context(&vector, &fields);
        if fields.name == "version_response_ok_5_x" || kind == 15 && all.len() == 16 {
            context.version = context.version.min(Version::V5_3);
        }
        let mut padded = all.clone();
        padded.resize(MAX_MESSAGE, 0xff);
        let padded = Message::parse(&padded, context);
        assert_eq!(padded, Message::parse(&all, context), "{}", fields.name);
    }
}

#[test]
fn version_response_is_chosen_by_the_flag_and_not_by_the_size() {
    let mut all = [0; MAX_MESSAGE];
    let short = VersionResponse {
        version_supported: true,
        connection_state: ConnectionState::SUCCESSFUL,
        selected: 4,
        supported_features: Some(FeatureFlags::CONFIDENTIAL_CHANNELS),
        monitor_pages: None,
    };
    Message::VersionResponse(short).emit(&mut all).expect("fits");
    let mut context = Context { version: Version::V6_0, features: FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES };
    assert_eq!(Message::parse(&all, context), Ok(Message::VersionResponse(short)));
    context.version = Version::V5_3;
    let shortest = VersionResponse { supported_features: None, ..short };
    assert_eq!(Message::parse(&all, context), Ok(Message::VersionResponse(shortest)));
}

#[test]
fn client_id_flag_without_client_id_is_an_error() {
    let vectors = vectors("channel_messages", "vectors");
    let vector = vectors.iter().find(|vector| vector["name"] == "initiate_contact_6_0_client_id").expect("vector");
    let all = bytes(&vector["hex"]);
    let error = Message::parse(&all[..40], Context::UNCONNECTED);
    assert!(matches!(error, Err(ParseError::Truncated { field: "client_id", needed: 56, .. })));
}

#[test]
fn messages_need_their_version_and_feature() {
    for (kind, version, feature) in [
        (MessageType::MODIFY_CHANNEL, Version::V4_1, FeatureFlags::NONE),
        (MessageType::MODIFY_CHANNEL_RESPONSE, Version::V5_3, FeatureFlags::NONE),
        (MessageType::PAUSE, Version::V6_0, FeatureFlags::PAUSE_RESUME),
    ] {
        let mut all = [0; 40];
        all[..4].copy_from_slice(&kind.0.to_le_bytes());
        let enough = Context { version, features: feature };
        assert!(Message::parse(&all, enough).is_ok());
        let older = Context { version: Version(version.0 - 1), features: feature };
        let error = Message::parse(&all, older);
        assert!(matches!(error, Err(ParseError::NotNegotiated { message, .. }) if message == kind));
        if feature != FeatureFlags::NONE {
            let error = Message::parse(&all, Context::new(version));
            assert!(matches!(error, Err(ParseError::NotNegotiated { .. })));
        }
    }
}

#[test]
fn long_and_unknown_messages_are_errors() {
    let error = Message::parse(&[0; 241], Context::UNCONNECTED);
    assert_eq!(error, Err(ParseError::TooLong { len: 241, limit: 240 }));
    for kind in [0, 30, u32::MAX] {
        let mut all = [0; 240];
        all[..4].copy_from_slice(&kind.to_le_bytes());
        let message = MessageType(kind);
        let error = Message::parse(&all, Context::new(Version::V6_0));
        assert_eq!(error, Err(ParseError::UnknownType { message }));
    }
}

#[test]
fn contradictions_cannot_be_written() {
    let mut contact = InitiateContact {
        version: Version::V4_0,
        target_message_vp: VpIndex(0),
        target: ContactTarget::InterruptPage(0),
        monitor_pages: MonitorPages::default(),
        client_id: Some(Guid::NIC),
    };
    let mut buf = [0; MAX_MESSAGE];
    let error = Message::InitiateContact(contact).emit(&mut buf);
    assert!(matches!(error, Err(EmitError::Inconsistent { field: "client_id", .. })));
    contact.version = Version::V5_0;
    let error = Message::InitiateContact(contact).emit(&mut buf);
    assert!(matches!(error, Err(EmitError::Inconsistent { field: "target", .. })));
    let error = Message::Unload.emit(&mut buf[..7]);
    assert_eq!(error, Err(EmitError::BufferTooSmall { needed: 8, len: 7 }));
    let body = GpadlBody { message_number: 0, gpadl: GpadlId(1), data: &[0; 225] };
    let error = Message::GpadlBody(body).emit(&mut [0; 300]);
    assert_eq!(error, Err(EmitError::TooLong { field: "data", len: 241, limit: 240 }));
}

#[test]
fn pipe_and_hvsock_offers_are_told_apart() {
    for vector in vectors("channel_messages", "vectors") {
        if number(&vector["type"]) != 1 {
            continue;
        }
        let all = bytes(&vector["hex"]);
        let Ok(Message::Offer(offer)) = Message::parse(&all, Context::UNCONNECTED) else { panic!("not an offer") };
        if vector["name"] == "offer_pipe_hvsock" {
            assert_eq!(offer.pipe_type(), Some(PipeType::BYTE));
            let hvsock = offer.hvsock().expect("an hvsock offer");
            assert!(hvsock.is_for_guest_accept && !hvsock.is_for_guest_container);
            assert_eq!((hvsock.version, hvsock.silo_id), (1, Guid::ZERO));
        } else {
            assert_eq!((offer.pipe_type(), offer.hvsock()), (None, None));
        }
        assert_eq!(offer.is_subchannel(), vector["name"] == "offer_subchannel_1");
    }
}

#[test]
fn every_gpadl_vector_both_ways() {
    for vector in vectors("gpadl_multi_message", "vectors") {
        let mut fields = Fields::of(&vector);
        let pages = fields.u64("pages");
        if vector["expect"].is_string() {
            let error = RangeList::for_buffer(pages as usize * 4096, |offset| Some(offset as u64));
            let range_bytes = fields.u64("range_buflen_needed") as usize;
            assert_eq!(error, Err(GpaRangeError::TooLarge { range_bytes, limit: 65535 }));
            fields.finish();
            continue;
        }
        assert_eq!(fields.need("contiguous"), true);
        let (relid, gpadl) = (RelId(fields.u32("child_relid")), GpadlId(fields.u32("gpadl")));
        let (first, len) = (fields.u64("first_pfn"), fields.u64("byte_count") as usize);
        fields.zero("byte_offset");
        let list = RangeList::for_buffer(len, |offset| Some(first * 4096 + offset as u64));
        let list = list.expect("fits");
        assert_eq!(list.as_bytes().len() as u64, fields.u64("range_buflen"));
        let ranges = list.ranges().expect("one range");
        assert_eq!((ranges.page_count(), ranges.byte_count()), (pages, len as u64));

        let messages = list.messages(relid, gpadl).expect("one range");
        let sent: Vec<Vec<u8>> = messages.iter().map(|message| emit(&message)).collect();
        assert_eq!(sent.len(), messages.len());
        if let Some(expected) = vector["messages_hex"].as_array() {
            assert_eq!(sent, expected.iter().map(bytes).collect::<Vec<_>>());
            let sizes = vector["message_sizes"].as_array().expect("sizes");
            assert!(sent.iter().map(|m| m.len() as u64).eq(sizes.iter().map(number)));
        } else {
            let last = sent.last().expect("a message");
            assert_eq!(sent.len() as u64, number(&vector["message_count"]));
            assert_eq!(sent[0], bytes(&vector["first_hex"]));
            assert_eq!(last, &bytes(&vector["last_hex"]));
            assert_eq!(sent[0].len() as u64, number(&vector["first_size"]));
            assert_eq!(last.len() as u64, number(&vector["last_size"]));
            let hash = Sha256::digest(sent.concat());
            assert_eq!(hash[..], bytes(&vector["sha256_of_all_messages_concatenated"]));
        }
        fields.finish();

        // The host's side puts the same list together, also from messages padded to 240 bytes.
        for padded in [false, true] {
            let mut reassembler = Reassembler::default();
            let mut complete = None;
            for message in &sent {
                let mut message = message.clone();
                if padded && message.len() != 236 {
                    message.resize(MAX_MESSAGE, 0xee);
                }
                assert!(complete.is_none(), "complete before the last message");
                complete = match reassemble(&mut reassembler, &message).expect("good messages") {
                    Progress::Complete(memory) => Some(memory),
                    Progress::Incomplete => None,
                };
            }
            let memory = complete.expect("complete after the last message");
            assert_eq!((memory.relid, memory.gpadl), (relid, gpadl));
            assert_eq!(memory.ranges, list);
            assert!(reassembler.is_empty());
        }
    }
}

fn reassemble(reassembler: &mut Reassembler, bytes: &[u8]) -> Result<Progress, ReassemblyError> {
    match Message::parse(bytes, Context::UNCONNECTED) {
        Ok(Message::GpadlHeader(header)) => reassembler.header(&header),
        Ok(Message::GpadlBody(body)) => reassembler.body(&body),
        other => panic!("not a gpadl message: {other:?}"),
    }
}

fn header(gpadl: u32, range_buflen: u16, data: &[u8]) -> GpadlHeader<'_> {
    GpadlHeader { relid: RelId(3), gpadl: GpadlId(gpadl), range_buflen, range_count: 1, data }
}

#[test]
fn incomplete_lists_are_bounded_and_forgotten_with_their_channel() {
    let mut reassembler = Reassembler::new(ReassemblyLimits { incomplete: 2 });
    let gpadl = GpadlId(1);
    assert_eq!(reassembler.header(&header(1, 16, &[])), Ok(Progress::Incomplete));
    let again = reassembler.header(&header(1, 16, &[]));
    assert_eq!(again, Err(ReassemblyError::DuplicateId { gpadl }));
    assert_eq!(reassembler.header(&header(2, 16, &[])), Ok(Progress::Incomplete));
    let third = reassembler.header(&header(3, 16, &[]));
    assert!(matches!(third, Err(ReassemblyError::TooMany { limit: 2, .. })));
    assert_eq!(reassembler.remove_channel(RelId(4)), 0);
    assert_eq!(reassembler.remove_channel(RelId(3)), 2);
    // The id can be used again.
    assert_eq!(reassembler.header(&header(1, 16, &[])), Ok(Progress::Incomplete));
    let body = GpadlBody { message_number: 0, gpadl: GpadlId(9), data: &[] };
    let unknown = reassembler.body(&body);
    assert_eq!(unknown, Err(ReassemblyError::UnknownId { gpadl: GpadlId(9) }));
}

#[test]
fn bad_ranges_fail_the_list_and_free_its_id() {
    let mut reassembler = Reassembler::default();
    let bad = reassembler.header(&header(1, 16, &[0; 16]));
    let error = GpaRangeError::Empty { range: 0 };
    let (relid, gpadl) = (RelId(3), GpadlId(1));
    assert_eq!(bad, Err(ReassemblyError::BadRanges { relid, gpadl, error }));
    assert!(reassembler.is_empty());
}

#[test]
fn ranges_are_checked() {
    let range = |count: u32, offset: u32, pages: usize| {
        let mut all = [count.to_le_bytes(), offset.to_le_bytes()].concat();
        all.resize(8 + pages * 8, 0);
        all
    };
    let parse = |all: &[u8], count| GpaRanges::parse(all, count).map(|ranges| ranges.len());
    assert_eq!(parse(&[], 0), Err(GpaRangeError::NoRanges));
    assert_eq!(parse(&range(0, 0, 1), 1), Err(GpaRangeError::Empty { range: 0 }));
    let limit = 4095;
    let error = GpaRangeError::BadOffset { range: 0, byte_offset: 4096, limit };
    assert_eq!(parse(&range(1, 4096, 2), 1), Err(error));
    assert_eq!(parse(&range(4096, 0, 1), 1), Ok(1));
    let error = GpaRangeError::Truncated { range: 0, needed: 24, len: 16 };
    assert_eq!(parse(&range(4096, 1, 1), 1), Err(error));
    let two = [range(1, 4095, 1), range(2, 4095, 2)].concat();
    assert_eq!(parse(&two, 2), Ok(2));
    let error = GpaRangeError::Truncated { range: 2, needed: 8, len: 0 };
    assert_eq!(parse(&two, 3), Err(error));
    assert_eq!(parse(&two, u32::MAX), Err(error));
    let needed = 8 + 8 * ((1_u64 << 32) + 4095 - 1).div_ceil(4096);
    let error = GpaRangeError::Truncated { range: 0, needed, len: 16 };
    assert_eq!(parse(&range(u32::MAX, 4095, 1), 1), Err(error));
}

#[test]
fn pieces_do_not_cross_pages() {
    let mut list = RangeList::new();
    list.push(5000, 100, [7, 3]).expect("fits");
    let range = list.ranges().expect("a range").iter().next().expect("a range");
    let pieces: Vec<_> = range.pieces().collect();
    assert_eq!(pieces, [Some((7 * 4096 + 100, 3996)), Some((3 * 4096, 1004))]);
    list.push(1, 0, [u64::MAX]).expect("fits");
    let range = list.ranges().expect("a range").iter().nth(1).expect("a range");
    assert!(range.pieces().eq([None]));
}

#[test]
fn pages_are_4_kib_whatever_the_guest_pages_are() {
    // Two guest pages of 64 KiB, far apart: sixteen numbers each.
    let gpa = |offset: usize| Some([0x10_0000, 0x90_0000][offset / 65536] + offset as u64 % 65536);
    let pfns: Result<Vec<u64>, _> = page_numbers(2 * 65536, gpa).collect();
    assert_eq!(pfns, Ok((0x100..0x110).chain(0x900..0x910).collect()));
    let unknown = page_numbers(8192, |offset| (offset == 0).then_some(0)).last();
    assert_eq!(unknown, Some(Err(PageError::Unknown { offset: 4096 })));
    let unaligned = page_numbers(1, |_| Some(0x1001)).last();
    assert_eq!(unaligned, Some(Err(PageError::Unaligned { offset: 0, gpa: 0x1001 })));
}

#[test]
fn a_range_takes_exactly_its_pages() {
    let mut list = RangeList::new();
    let error = GpaRangeError::PageCount { found: 1, expected: 2 };
    assert_eq!(list.push(4097, 0, [1]), Err(error));
    let error = GpaRangeError::PageCount { found: 3, expected: 2 };
    assert_eq!(list.push(4097, 0, [1, 2, 3]), Err(error));
    assert!(list.is_empty() && list.as_bytes().is_empty());
    assert_eq!(list.messages(RelId(1), GpadlId(1)).err(), Some(GpaRangeError::NoRanges));
}

#[test]
fn every_synic_vector_both_ways() {
    for vector in vectors("synic_and_hypercall", "vectors") {
        let mut fields = Fields::of(&vector);
        if let Some(offset) = vector.get("slot_offset_in_page_for_sint2") {
            assert_eq!(synic::sint_offset(synic::VMBUS_SINT), Some(number(offset) as usize));
            let all: [u8; 256] = bytes(&vector["hex"]).try_into().expect("slot");
            let slot = Slot::parse(&all).expect("valid").expect("not free");
            assert_eq!(slot.message_type, fields.u32("message_type"));
            assert_eq!(slot.payload.len() as u64, fields.u64("payload_size"));
            assert_eq!(u64::from(slot.more_pending), fields.u64("flags_pending"));
            assert_eq!(slot.id, fields.u64("id"));
            fields.zero("reserved");
            assert_eq!(slot.to_bytes(), Ok(all));
            let message = Message::parse(slot.payload, Context::UNCONNECTED);
            assert_eq!(message, Ok(Message::Rescind(Rescind { relid: RelId(14) })));
        } else if let Some(offset) = vector.get("offset_in_event_page_sint2") {
            let bit = synic::event_flag(2, fields.u32("flag")).expect("a flag");
            assert_eq!(bit.byte_offset() as u64, number(offset));
            assert_eq!(u64::from(bit.byte_mask()), 1 << number(&vector["bit_in_byte"]));
        } else if fields.get("flag_number").is_some() {
            assert_eq!(fields.need("hypercall_code"), "0x5d");
            assert_eq!(synic::HVCALL_SIGNAL_EVENT, 0x5d);
            let event = SignalEvent {
                connection_id: ConnectionId(fields.u32("connection_id")),
                flag_number: fields.u16("flag_number"),
            };
            let word = fields.u64("fast_input_u64");
            assert_eq!((event.to_u64(), SignalEvent::from_u64(word)), (word, event));
            assert_eq!(word.to_le_bytes()[..], bytes(&vector["hex"]));
        } else {
            assert_eq!(fields.need("hypercall_code"), "0x5c");
            assert_eq!(synic::HVCALL_POST_MESSAGE, 0x5c);
            let all: [u8; 256] = bytes(&vector["hex"]).try_into().expect("input");
            let post = PostMessage::parse(&all).expect("valid");
            assert_eq!(post.connection_id.0, fields.u32("connection_id"));
            assert_eq!(post.message_type, fields.u32("message_type"));
            assert_eq!(post.payload.len() as u64, fields.u64("payload_size"));
            fields.zero("reserved");
            assert_eq!(post.to_bytes(), Ok(all));
            let message = Message::parse(post.payload, Context::UNCONNECTED);
            assert_eq!(message, Ok(Message::RequestOffers));
        }
        fields.finish();
    }
}

#[test]
fn slots_with_bad_sizes_are_refused() {
    let mut slot = [0; 256];
    assert_eq!(Slot::parse(&slot), Ok(None));
    slot[0] = 1;
    slot[4] = 240;
    assert_eq!(Slot::parse(&slot).map(|slot| slot.map(|slot| slot.payload.len())), Ok(Some(240)));
    slot[4] = 241;
    let error = SlotError::PayloadTooLong { payload_size: 241, limit: 240 };
    assert_eq!(Slot::parse(&slot), Err(error));
    slot[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = SlotError::PostTooLong { payload_size: u32::MAX, limit: 240 };
    assert_eq!(PostMessage::parse(&slot), Err(error));
    let payload = &[0; 241];
    let connection_id = ConnectionId(1);
    let post = PostMessage { connection_id, message_type: 1, payload };
    let error = SlotError::PostTooLong { payload_size: 241, limit: 240 };
    assert_eq!(post.to_bytes(), Err(error));
    assert_eq!((synic::event_flag(2, 2048), synic::sint_offset(16)), (None, None));
    assert!(HypercallStatus(0x13).is_transient() && !HypercallStatus(0x05).is_transient());
}

#[test]
fn every_monitor_vector() {
    for vector in vectors("monitor_and_interrupt_page", "interrupt_page") {
        let mut fields = Fields::of(&vector);
        let relid = RelId(fields.u32("relid"));
        let recv = interrupt_page_recv(relid).expect("in range");
        let send = interrupt_page_send(relid).expect("in range");
        assert_eq!(recv.byte_offset() as u64, number(&vector["recv_byte_offset"]));
        assert_eq!(send.byte_offset() as u64, number(&vector["send_byte_offset"]));
        assert_eq!(send.word_offset as u64, number(&vector["send_u32_offset"]));
        assert_eq!(send.mask.to_le_bytes()[..], bytes(&vector["u32_mask_hex_le"]));
        assert_eq!(recv.mask, send.mask);
        fields.finish();
    }
    for vector in vectors("monitor_and_interrupt_page", "vectors") {
        if vector["name"] == "page_example" {
            monitor_page_example(&vector);
            continue;
        }
        let mut fields = Fields::of(&vector);
        let monitor = MonitorId::new(fields.u8("monitor_id")).expect("in range");
        fields.finish();
        let places = [
            ("group", monitor.group()),
            ("bit", monitor.bit() as usize),
            ("pending_u32_offset", monitor.pending().word_offset),
            ("armed_u32_offset", monitor.armed().word_offset),
            ("next_check_time_offset", monitor.next_check_time_offset()),
            ("latency_u16_offset", monitor.latency_offset()),
            ("parameter_offset", monitor.parameter_offset()),
        ];
        for (name, place) in places {
            assert_eq!(place as u64, number(&vector[name]), "{}: {name}", vector["name"]);
        }
        assert_eq!(monitor.pending().mask.to_le_bytes()[..], bytes(&vector["mask_hex_le"]));
        assert_eq!(monitor.armed().mask, monitor.pending().mask);
    }
    assert_eq!((MonitorId::new(128), MonitorId::new(255)), (None, None));
    assert_eq!(interrupt_page_send(RelId(16384)), None);
}

fn monitor_page_example(vector: &Value) {
    let mut fields = Fields::of(vector);
    let monitor = MonitorId::new(5).expect("in range");
    let parameter = fields.need("parameter_id5");
    let parameter = MonitorParameter {
        connection_id: ConnectionId(number(&parameter["connection_id"]) as u32),
        flag_number: number(&parameter["flag_number"]) as u16,
    };
    assert_eq!(MonitorParameter::from_bytes(parameter.to_bytes()), parameter);
    let mut page = [0; monitor::PAGE_LEN];
    let mut put = |offset: usize, bytes: &[u8]| {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    assert_eq!(monitor::ALL_GROUPS_ENABLED, fields.u32("group_enable"));
    put(monitor::TRIGGER_STATE_OFFSET, &monitor::ALL_GROUPS_ENABLED.to_le_bytes());
    assert_eq!(monitor.pending().mask, fields.u32("pending_group0"));
    put(monitor.pending().word_offset, &monitor.pending().mask.to_le_bytes());
    put(monitor.latency_offset(), &fields.u16("latency_id5_100ns").to_le_bytes());
    put(monitor.parameter_offset(), &parameter.to_bytes());
    fields.finish();
    assert_eq!(Sha256::digest(page)[..], bytes(&vector["sha256_page"]));
    for part in vector["nonzero_bytes"].as_array().expect("parts") {
        let (offset, expected) = (number(&part["offset"]) as usize, bytes(&part["hex"]));
        assert_eq!(page[offset..offset + expected.len()], expected);
    }
}

fn offer(monitor_id: u8, monitor_allocated: bool, is_dedicated_interrupt: bool) -> Offer {
    Offer {
        interface_id: Guid::NIC,
        instance_id: Guid::NIC,
        reserved: [0; 16],
        flags: OfferFlags::default(),
        mmio_megabytes: 0,
        user_defined: [0; USER_DEFINED_LEN],
        sub_channel_index: 0,
        mmio_megabytes_optional: 0,
        relid: RelId(14),
        monitor_id,
        monitor_allocated,
        is_dedicated_interrupt,
        connection_id: ConnectionId(0x200e),
    }
}

#[test]
fn a_monitor_id_without_a_monitor_is_not_used() {
    let vp = VpIndex(0);
    let hypercall = Trigger::Hypercall(ConnectionId(0x200e));
    for (id, allocated) in [(5, false), (255, false), (200, true)] {
        let path = SignalPath::choose(&offer(id, allocated, true), Version::V5_3, vp, false);
        assert_eq!(path, SignalPath { interrupt_page: None, trigger: hypercall });
    }
    let path = SignalPath::choose(&offer(5, true, true), Version::V5_3, vp, false);
    let monitor = MonitorId::new(5).expect("in range");
    assert_eq!(path.trigger, Trigger::Monitor(monitor));
    assert_eq!(path.interrupt_page, interrupt_page_send(RelId(14)));
    let path = SignalPath::choose(&offer(5, true, true), Version::V5_3, vp, true);
    assert_eq!(path.trigger, hypercall);
}

#[test]
fn a_channel_without_interrupts_does_not_use_its_monitor() {
    let vp = VpIndex::INTERRUPTS_DISABLED;
    let path = SignalPath::choose(&offer(5, true, true), Version::V5_3, vp, false);
    assert_eq!(path.trigger, Trigger::Hypercall(ConnectionId(0x200e)));
}

#[test]
fn shared_interrupts_need_the_interrupt_page() {
    let vp = VpIndex(0);
    let path = SignalPath::choose(&offer(255, false, false), Version::V1_1, vp, false);
    assert_eq!(path.interrupt_page, interrupt_page_send(RelId(14)));
    let path = SignalPath::choose(&offer(255, false, true), Version::V0_13, vp, false);
    assert_eq!(path.interrupt_page, interrupt_page_send(RelId(14)));
    assert_eq!(path.trigger, Trigger::Hypercall(ConnectionId::EVENT));
}

#[test]
fn every_guid_vector_both_ways() {
    for vector in vectors("guid", "vectors") {
        let mut fields = Fields::of(&vector);
        let all: [u8; 16] = bytes(&vector["hex"]).try_into().expect("guid");
        assert_eq!(number(&vector["size"]), 16);
        let guid = Guid::from_bytes(all);
        let text = fields.need("string").as_str().expect("text");
        assert_eq!((guid.to_string().as_str(), guid.to_bytes()), (text, all));
        assert_eq!(text.parse(), Ok(guid));
        assert_eq!(text.to_uppercase().parse(), Ok(guid));
        let line = fields.need("sysfs_class_id_line").as_str().expect("text");
        assert_eq!(line.trim_end().parse(), Ok(guid));
        assert_eq!(format!("{guid:#}\n"), line);
        let alias = fields.need("modalias").as_str().expect("text");
        let hex: String = guid.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(alias, format!("vmbus:{hex}"));
        let class = match fields.name {
            "netvsc_class" => Guid::NIC,
            "ide" => Guid::IDE,
            "scsi" => Guid::SCSI,
            "vpci" => Guid::VPCI,
            "shutdown" => Guid::SHUTDOWN,
            "timesync" => Guid::TIME_SYNC,
            "heartbeat" => Guid::HEARTBEAT,
            "kvp" => Guid::KVP,
            "vss" => Guid::VSS,
            "fcopy" => Guid::FILE_COPY,
            "dynmem" => Guid::DYNAMIC_MEMORY,
            "nd_rdma" => Guid::RDMA,
            "example_instance" => guid,
            name => panic!("no constant for {name}"),
        };
        assert_eq!(class, guid);
        fields.finish();
    }
}

#[test]
fn text_that_is_no_guid_is_refused() {
    let refuse = |text: &str| text.parse::<Guid>().expect_err("no guid");
    assert_eq!(refuse(""), ParseGuidError::BadLength { len: 0, expected: 36 });
    let open = "{f8615163-df3e-46c5-913f-f2d2f965ed0e";
    assert_eq!(refuse(open), ParseGuidError::UnbalancedBraces);
    let bad = ParseGuidError::BadCharacter { position: 8, byte: b'_' };
    assert_eq!(refuse("f8615163_df3e-46c5-913f-f2d2f965ed0e"), bad);
    let bad = ParseGuidError::BadCharacter { position: 35, byte: b'g' };
    assert_eq!(refuse("f8615163-df3e-46c5-913f-f2d2f965ed0g"), bad);
    let umlauts = "äöüäöüäöüäöüäöüäöü";
    assert!(matches!(refuse(umlauts), ParseGuidError::BadCharacter { position: 0, .. }));
}

#[test]
fn every_version_vector() {
    let mut words = BTreeSet::new();
    for vector in vectors("versions", "vectors") {
        let mut fields = Fields::of(&vector);
        let version = Version::new(fields.u16("major"), fields.u16("minor"));
        assert_eq!((version.major(), version.minor()), (fields.u16("major"), fields.u16("minor")));
        assert_eq!(u64::from(version.0), number(&vector["value"]));
        assert_eq!(version.0.to_le_bytes()[..], bytes(&vector["hex"]));
        assert!(version.is_known());
        words.insert(version);
        fields.finish();
    }
    // The list a guest walks is the same, newest first.
    assert!(words.iter().rev().eq(&Version::ALL));
}

fn any_context() -> impl Strategy<Value = Context> {
    (proptest::sample::select(&Version::ALL[..]), 0..=0xff_u32)
        .prop_map(|(version, bits)| Context { version, features: FeatureFlags(bits) })
}

proptest! {
    #[test]
    fn parsing_never_panics_and_what_it_reads_can_be_written_and_read_again(
        kind in 0_u32..32,
        mut all in proptest::collection::vec(any::<u8>(), 0..250),
        context in any_context(),
    ) {
        for (to, from) in all.iter_mut().zip(kind.to_le_bytes()) {
            *to = from;
        }
        let Ok(message) = Message::parse(&all, context) else { return Ok(()) };
        let mut buf = [0; MAX_MESSAGE];
        let len = message.emit(&mut buf).expect("what was read can be written");
        prop_assert_eq!(Message::parse(&buf[..len], context), Ok(message));
    }

    #[test]
    fn reading_ranges_never_panics(
        all in proptest::collection::vec(any::<u8>(), 0..600),
        small in any::<bool>(),
        count in any::<u32>(),
    ) {
        let mut all = all;
        if small && let Some(header) = all.first_chunk_mut::<8>() {
            header[2..4].fill(0);
            header[5] &= 0xf;
            header[6..].fill(0);
        }
        if let Ok(ranges) = GpaRanges::parse(&all, count % 4) {
            let bytes: usize = ranges.iter().map(|range| range.encoded_len()).sum();
            prop_assert_eq!(bytes, ranges.as_bytes().len());
            prop_assert_eq!(ranges.iter().count() as u32, ranges.len());
            for range in ranges {
                let len: u64 = range.pieces().flatten().map(|(_, len)| u64::from(len)).sum();
                prop_assert!(len <= u64::from(range.byte_count()));
            }
        }
        prop_assert!(GpaRanges::parse(&all, u32::MAX).is_err());
    }

    #[test]
    fn range_lists_survive_the_trip_to_the_host(
        specs in proptest::collection::vec((1_u32..60_000, 0_u32..4096), 1..12),
    ) {
        let mut list = RangeList::new();
        for (count, offset) in specs {
            let pages = vmbus::gpadl::page_count(count, offset);
            list.push(count, offset, 100..100 + pages).expect("fits");
        }
        let mut reassembler = Reassembler::default();
        let mut result = Progress::Incomplete;
        for message in list.messages(RelId(1), GpadlId(2)).expect("not empty").iter() {
            result = reassemble(&mut reassembler, &emit(&message)).expect("good messages");
        }
        let Progress::Complete(memory) = result else { panic!("not complete") };
        prop_assert_eq!(memory.ranges, list);
    }
}
