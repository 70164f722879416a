//! Every test vector, both ways: bytes to values and back to the same bytes.
//!
//! Each file has a test of its own, which names every vector it expects to be refused and counts what it has covered:
//! a vector that is added and not understood fails the test.

use rndis::control::{IndicateStatus, Query, QueryComplete, Set};
use rndis::offload::{Offload, OffloadEncapsulation, OffloadParameters};
use rndis::packet::{
    Batch, BatchLimits, PacketEncoder, PacketHeader, PacketMsg, RawPacketHeader, TxHeader, TxOffload, padding,
};
use rndis::ppi::{
    HashInfo, IpVersion, Lso, LsoVersion, PacketId, PacketIdFlags, PacketInfo, PpiBlock, PpiType, PpiWord, RxChecksum,
    Transport, TxChecksum, Vlan,
};
use rndis::rss::{RssCapabilities, RssParameters, RssParametersEncoder};
use rndis::value::{
    ConfigParameter, ConfigString, FriendlyName, LinkSpeed, LinkState, MacAddress, MaxLinkSpeed, MediaConnectStatus,
    MulticastList, PacketFilter, network_address, u32_value,
};
use rndis::{Message, MessageType, Oid, ParseError, Status};
use serde_json::Value;

fn vectors(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn name(vector: &Value) -> &str {
    vector["name"].as_str().unwrap()
}

fn bytes(vector: &Value) -> Vec<u8> {
    let bytes = unhex(vector["hex"].as_str().unwrap());
    assert_eq!(bytes.len() as u64, vector["length"].as_u64().unwrap(), "{}", name(vector));
    bytes
}

/// Field of a vector by name, as a number.
fn number(vector: &Value, field: &str) -> u32 {
    let field = vector["fields"].as_array().unwrap().iter().find(|f| f["name"] == field);
    field.unwrap_or_else(|| panic!("{}: field", name(vector)))["value"].as_u64().unwrap() as u32
}

/// Field of a vector by name, as bytes; empty if there is none.
fn blob(vector: &Value, field: &str) -> Vec<u8> {
    let field = vector["fields"].as_array().unwrap().iter().find(|f| f["name"] == field);
    field.map_or(Vec::new(), |f| unhex(f["value"].as_str().unwrap()))
}

fn emit(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0xEE; message.buffer_len() + 3];
    let len = message.emit(&mut out).unwrap();
    assert_eq!(len, message.buffer_len());
    assert_eq!(out[len..], [0xEE; 3], "wrote beyond its length");
    assert!(message.emit(&mut out[..len - 1]).is_err());
    out.truncate(len);
    out
}

/// The values of a message that was read, by the names the vectors give its fields.
fn message_fields(message: &Message<'_>) -> Vec<(&'static str, u32)> {
    let mut fields = vec![("message_type", message.message_type().0)];
    if let Some(id) = message.request_id() {
        fields.push(("request_id", id.0));
    }
    let request = |oid: Oid, information: &[u8], handle| {
        [("oid", oid.0), ("information_buffer_length", information.len() as u32), ("device_vc_handle", handle)]
    };
    match *message {
        Message::Initialize(m) => fields.extend([
            ("major_version", m.major_version),
            ("minor_version", m.minor_version),
            ("max_transfer_size", m.max_transfer_size),
        ]),
        Message::InitializeComplete(m) => fields.extend([
            ("status", m.status.0),
            ("major_version", m.major_version),
            ("minor_version", m.minor_version),
            ("device_flags", m.device_flags),
            ("medium", m.medium),
            ("max_packets_per_message", m.max_packets_per_message),
            ("max_transfer_size", m.max_transfer_size),
            ("packet_alignment_factor", m.packet_alignment_log2),
            ("af_list_offset", m.af_list_offset),
            ("af_list_size", m.af_list_size),
        ]),
        Message::Query(m) => fields.extend(request(m.oid, m.information, m.device_vc_handle)),
        Message::Set(m) => fields.extend(request(m.oid, m.information, m.device_vc_handle)),
        Message::QueryComplete(m) => {
            fields.extend([("status", m.status.0), ("information_buffer_length", m.information.len() as u32)])
        }
        Message::SetComplete(m) => fields.push(("status", m.status.0)),
        Message::KeepAliveComplete(m) => fields.push(("status", m.status.0)),
        Message::Reset(m) => fields.push(("reserved", m.reserved)),
        Message::ResetComplete(m) => {
            fields.extend([("status", m.status.0), ("addressing_reset", m.addressing_reset)]);
        }
        Message::IndicateStatus(m) => {
            fields.extend([("status", m.status.0), ("status_buffer_length", m.buffer.len() as u32)])
        }
        Message::Halt(_) | Message::KeepAlive(_) => {}
        _ => panic!("not a control message"),
    }
    fields
}

fn information<'a>(message: &Message<'a>) -> &'a [u8] {
    match *message {
        Message::Query(Query { information, .. })
        | Message::Set(Set { information, .. })
        | Message::QueryComplete(QueryComplete { information, .. })
        | Message::IndicateStatus(IndicateStatus { buffer: information, .. }) => information,
        _ => &[],
    }
}

/// Reads a control message, compares it with the vector's fields, writes it again, and cuts it everywhere.
fn control_both_ways<'a>(vector: &Value, bytes: &'a [u8]) -> Message<'a> {
    let name = name(vector);
    let message = Message::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut covered = vec![
        // Written by the encoder, so the comparison of bytes below covers them.
        "message_length",
        "information_buffer_offset",
        "status_buffer_offset",
    ];
    for (field, value) in message_fields(&message) {
        assert_eq!(value, number(vector, field), "{name}: {field}");
        covered.push(field);
    }
    let buffer = blob(vector, "info_buffer");
    assert_eq!(information(&message), buffer, "{name}");
    covered.push("info_buffer");
    for field in vector["fields"].as_array().unwrap() {
        assert!(covered.contains(&field["name"].as_str().unwrap()), "{name}: {field} not read");
    }
    assert_eq!(emit(&message), bytes, "{name}");

    // No truncation is accepted, neither of the range alone nor with a message length that fits it, but for one: the
    // address family fields of an INITIALIZE completion are optional.
    for len in 0..bytes.len() {
        assert!(Message::parse(&bytes[..len]).is_err(), "{name}: cut to {len}");
        let mut short = bytes[..len].to_vec();
        if len < 8 {
            continue;
        }
        short[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        let optional = matches!(message, Message::InitializeComplete(_)) && len >= 44;
        assert_eq!(Message::parse(&short).is_ok(), optional, "{name}: shortened to {len}");
    }
    // What follows the message in its range does not matter.
    let mut longer = bytes.to_vec();
    longer.extend([0xA5; 9]);
    assert_eq!(Message::parse(&longer), Ok(message), "{name}");
    message
}

#[test]
fn control() {
    // Vectors to refuse, with the field that the error has to name.
    const REFUSED: [(&str, &str); 8] = [
        ("initialize_complete_truncated_20", "MinorVersion"),
        ("message_length_less_than_8", "MessageLength"),
        ("message_length_beyond_buffer", "MessageLength"),
        ("buffer_shorter_than_header", "MessageLength"),
        ("completion_without_request_id", "RequestID"),
        ("indicate_link_speed_change_bad_offset", "StatusBufferOffset"),
        ("indicate_short_16", "StatusBufferOffset"),
        ("unknown_message_type", "MessageType"),
    ];
    let vectors = vectors(include_str!("vectors/control.json"));
    let (mut accepted, mut refused) = (0, 0);
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        if let Some((_, field)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            let error = Message::parse(&bytes).expect_err(name);
            assert_eq!(error.field(), *field, "{name}: {error}");
            refused += 1;
            continue;
        }
        let message = control_both_ways(vector, &bytes);
        let expect = &vector["expect"];
        match message {
            Message::InitializeComplete(complete) => {
                if let Some(alignment) = expect["alignment_bytes"].as_u64() {
                    assert_eq!(complete.alignment(), Ok(alignment as u32), "{name}");
                }
                if let Some(packets) = expect["max_packets"].as_u64() {
                    assert_eq!(complete.max_packets(), packets as u32, "{name}");
                }
                match name {
                    "initialize_complete_align31" | "initialize_complete_align64" => {
                        assert_eq!(complete.alignment().unwrap_err().field(), "PacketAlignmentFactor");
                        assert!(BatchLimits::from_initialize(&complete).is_err());
                    }
                    "initialize_complete_maxpkt0" => assert_eq!(complete.max_packets(), 1),
                    "initialize_complete_failure" => assert_eq!(complete.status, Status::FAILURE),
                    _ => assert!(complete.status.is_success()),
                }
            }
            Message::IndicateStatus(indication) => {
                if let Some(mbps) = expect["mbps"].as_u64() {
                    let speed = LinkSpeed::parse(indication.buffer).unwrap();
                    assert_eq!(speed.bits_per_second(), mbps * 1_000_000, "{name}");
                }
                match expect["link"].as_str() {
                    Some("up") => assert_eq!(indication.status, Status::MEDIA_CONNECT),
                    Some("down") => assert_eq!(indication.status, Status::MEDIA_DISCONNECT),
                    Some(_) => assert_eq!(indication.status, Status::NETWORK_CHANGE),
                    None => assert_eq!(indication.status, Status::LINK_SPEED_CHANGE),
                }
                assert_eq!(indication.buffer_counted, name != "indicate_link_speed_change_old_host_length", "{name}");
            }
            _ => {}
        }
        accepted += 1;
    }
    assert_eq!((accepted, refused), (19, REFUSED.len()));
    assert_eq!(vectors.len(), 27);
}

/// Reads the value of an OID, writes it again, and cuts it everywhere.
fn value_both_ways(name: &str, oid: Oid, value: &[u8]) -> Result<(), ParseError> {
    let mut out = vec![0xEE; value.len()];
    let len = out.len();
    /// Values of fixed layout: read, write, compare.
    macro_rules! both_ways {
        ($type:ty) => {{
            let parsed = <$type>::parse(value)?;
            assert_eq!(parsed.emit(&mut out), Ok(len), "{name}");
            assert_eq!(out, value, "{name}");
            for len in 0..len {
                assert!(<$type>::parse(&value[..len]).is_err(), "{name}: cut to {len}");
                assert!(parsed.emit(&mut out[..len]).is_err(), "{name}: room {len}");
            }
        }};
    }
    match oid {
        Oid::PERMANENT_ADDRESS | Oid::CURRENT_ADDRESS => both_ways!(MacAddress),
        Oid::LINK_SPEED => both_ways!(LinkSpeed),
        Oid::MEDIA_CONNECT_STATUS => both_ways!(MediaConnectStatus),
        Oid::MAX_LINK_SPEED => both_ways!(MaxLinkSpeed),
        Oid::LINK_STATE => both_ways!(LinkState),
        Oid::PACKET_FILTER => both_ways!(PacketFilter),
        Oid::RECEIVE_SCALE_CAPABILITIES => both_ways!(RssCapabilities),
        Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES | Oid::TCP_OFFLOAD_CURRENT_CONFIG => {
            both_ways!(Offload)
        }
        Oid::TCP_OFFLOAD_PARAMETERS => both_ways!(OffloadParameters),
        Oid::OFFLOAD_ENCAPSULATION => both_ways!(OffloadEncapsulation),
        Oid::CONFIG_PARAMETER => both_ways!(ConfigParameter),
        Oid::MAXIMUM_FRAME_SIZE | Oid::MAXIMUM_TOTAL_SIZE => {
            let parsed = u32_value(value)?;
            assert_eq!(rndis::value::emit_u32_value(parsed, &mut out), Ok(4), "{name}");
            assert_eq!(out, value, "{name}");
            assert!((0..4).all(|len| u32_value(&value[..len]).is_err()));
        }
        Oid::FRIENDLY_NAME => {
            let parsed = FriendlyName::parse(value)?;
            assert_eq!(FriendlyName::emit(&parsed.name.to_string(), &mut out), Ok(512), "{name}");
            assert_eq!(out, value, "{name}");
            // Cutting the zeros behind the name, or the name, leaves a name; half a unit is refused.
            for len in 0..512 {
                assert_eq!(FriendlyName::parse(&value[..len]).is_ok(), len % 2 == 0, "{name}: cut to {len}");
            }
        }
        Oid::MULTICAST_LIST => {
            let addresses: Vec<_> = MulticastList::parse(value)?.iter().collect();
            assert_eq!(MulticastList::emit(&addresses, &mut out), Ok(len), "{name}");
            assert_eq!(out, value, "{name}");
            for len in 0..len {
                assert_eq!(MulticastList::parse(&value[..len]).is_ok(), len % 6 == 0, "{name}: cut to {len}");
            }
        }
        Oid::RECEIVE_SCALE_PARAMETERS => {
            let parsed = RssParameters::parse(value)?;
            let table: Vec<_> = parsed.table.iter().collect();
            let encoder = RssParametersEncoder {
                flags: parsed.flags,
                hash_info: parsed.hash_info,
                table: &table,
                key: parsed.key,
                default_processor: parsed.default_processor,
                key_first: value[24..28] == [40, 0, 0, 0],
            };
            assert_eq!((parsed.revision, parsed.base_cpu), (2, 0), "{name}");
            // Two vectors have a size that does not cover all bytes that follow: those bytes get lost.
            if encoder.buffer_len() == len {
                assert_eq!(encoder.emit(&mut out), Ok(len), "{name}");
                assert_eq!(out, value, "{name}");
                for len in 0..len {
                    assert!(RssParameters::parse(&value[..len]).is_err(), "{name}: cut to {len}");
                    assert!(encoder.emit(&mut out[..len]).is_err(), "{name}: room {len}");
                }
            } else {
                assert!(["set_rss_bad_keysize_39", "set_rss_bad_tabsize_zero"].contains(&name), "{name}");
            }
        }
        _ => panic!("{name}: {oid} has no type"),
    }
    Ok(())
}

/// What the vectors say about the meaning of a value.
fn check_meaning(vector: &Value, message: &Message<'_>, oid: Oid) {
    let name = name(vector);
    let value = information(message);
    let expect = &vector["expect"];
    let decoded = &expect["decoded"];
    match oid {
        Oid::PERMANENT_ADDRESS | Oid::CURRENT_ADDRESS => {
            assert_eq!(decoded["mac"], MacAddress::parse(value).unwrap().to_string());
        }
        Oid::MAXIMUM_FRAME_SIZE => assert_eq!(decoded["mtu"], u32_value(value).unwrap()),
        Oid::MAXIMUM_TOTAL_SIZE => assert_eq!(decoded["frame"], u32_value(value).unwrap()),
        Oid::LINK_SPEED => {
            assert_eq!(decoded["mbps"], LinkSpeed::parse(value).unwrap().bits_per_second() / 1_000_000);
        }
        Oid::MEDIA_CONNECT_STATUS => {
            let up = MediaConnectStatus::parse(value).unwrap() == MediaConnectStatus::CONNECTED;
            assert_eq!(decoded["link"], if up { "up" } else { "down" });
        }
        Oid::MAX_LINK_SPEED => {
            assert_eq!(decoded["xmit_bps"], MaxLinkSpeed::parse(value).unwrap().transmit_bps);
        }
        Oid::LINK_STATE => {
            assert_eq!(decoded["connect_state"], LinkState::parse(value).unwrap().connect_state.0);
        }
        Oid::FRIENDLY_NAME => {
            let friendly = FriendlyName::parse(value).unwrap();
            assert_eq!(decoded["name"], friendly.name.to_string());
            assert_eq!(friendly.name, FriendlyName::DEFAULT);
        }
        Oid::RECEIVE_SCALE_CAPABILITIES if message.message_type() == MessageType::QUERY_COMPLETE => {
            let capabilities = RssCapabilities::parse(value).unwrap();
            if let Some(queues) = decoded["receive_queues"].as_u64() {
                assert_eq!(u64::from(capabilities.receive_queues), queues, "{name}");
            }
            let entries = match name {
                "query_complete_rss_capabilities_rev1_size16" => None,
                "query_complete_rss_capabilities_indir0" => Some(0),
                "query_complete_rss_capabilities_indir300" => Some(300),
                _ => Some(128),
            };
            assert_eq!(capabilities.indirection_entries, entries, "{name}");
        }
        Oid::RECEIVE_SCALE_CAPABILITIES => {
            assert_eq!(RssCapabilities::parse(value), Ok(RssCapabilities::REQUEST), "{name}");
        }
        Oid::RECEIVE_SCALE_PARAMETERS => {
            let parameters = RssParameters::parse(value).unwrap();
            if let Some(rss) = expect["rss"].as_str() {
                assert_eq!(parameters.is_disabled(), rss.starts_with("disabled"), "{name}");
            }
            if let Some(entries) = expect["table_entries"].as_u64() {
                assert_eq!(parameters.table.len() as u64, entries, "{name}");
            }
            if expect["hash_info"] == "0x1701" {
                assert_eq!(parameters.hash_info, HashInfo::LINUX);
            }
            let bad = match name {
                "set_rss_bad_keysize_39" => Some("HashSecretKeySize"),
                "set_rss_bad_tabsize_zero" => Some("IndirectionTableSize"),
                "set_rss_bad_entry" => Some("IndirectionTable"),
                _ => None,
            };
            assert_eq!(parameters.check(64).err().map(|error| error.field()), bad, "{name}");
        }
        Oid::PACKET_FILTER => {
            let names = expect["filter"].as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_uppercase());
            let names: Vec<_> = names.collect();
            let filter = PacketFilter::parse(value).unwrap();
            let printed = if names.is_empty() { "0x0".into() } else { names.join(" | ") };
            assert_eq!(filter.to_string(), printed, "{name}");
        }
        Oid::MULTICAST_LIST => {
            assert_eq!(expect["count"], MulticastList::parse(value).unwrap().iter().len());
        }
        Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES if message.message_type() == MessageType::QUERY => {
            let asked = Offload::parse(value).unwrap();
            assert_eq!(asked, Offload::empty(asked.revision), "{name}");
        }
        Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES | Oid::TCP_OFFLOAD_CURRENT_CONFIG => {
            check_offload(name, expect, &Offload::parse(value).unwrap());
        }
        Oid::TCP_OFFLOAD_PARAMETERS => check_parameters(name, expect, &OffloadParameters::parse(value).unwrap()),
        Oid::CONFIG_PARAMETER => {
            let parameter = ConfigParameter::parse(value).unwrap();
            let (key, text) = (parameter.name.to_string(), parameter.text().unwrap().to_string());
            let mut out = vec![0; value.len()];
            ConfigString { name: &key, value: &text }.emit(&mut out).unwrap();
            assert_eq!(out, value, "{name}");
            if expect["mac"].is_string() {
                assert_eq!(key, ConfigParameter::NETWORK_ADDRESS);
                let address = MacAddress([0x00, 0x15, 0x5D, 0x0A, 0x1B, 0x2D]);
                assert_eq!(expect["mac"], address.to_string());
                assert_eq!(text.to_lowercase().as_bytes(), network_address(address));
            }
        }
        Oid::OFFLOAD_ENCAPSULATION => {
            // Well formed both; a header that is not Ethernet's is for the host to refuse.
            let parsed = OffloadEncapsulation::parse(value).unwrap();
            let ipv4 = if name.ends_with("bad_header") { 18 } else { 14 };
            assert_eq!((parsed.ipv4_header_size, parsed.ipv6_header_size), (ipv4, 14), "{name}");
            assert_eq!((parsed.ipv4_enabled, parsed.ipv6_enabled), (1, 1), "{name}");
        }
        _ => panic!("{name}: {oid} has no check"),
    }
}

fn check_offload(name: &str, expect: &Value, offload: &Offload) {
    use rndis::offload::{ChecksumV4Flags as V4, ChecksumV6Flags as V6};
    let (v4, v6) = (offload.checksum_v4_tx.flags, offload.checksum_v6_tx.flags);
    if let Some(tx) = expect["tx"].as_array() {
        let has = [
            ("ip4", v4.contains(V4::IP_HEADER)),
            ("tcp4", v4.contains(V4::TCP)),
            ("udp4", v4.contains(V4::UDP)),
            ("tcp6", v6.contains(V6::TCP)),
            ("udp6", v6.contains(V6::UDP)),
        ];
        for (what, has) in has {
            assert_eq!(has, tx.contains(&what.into()), "{name}: {what}");
        }
    }
    if let Some(size) = expect["lso4"].as_u64() {
        assert_eq!(u64::from(offload.lso_v2_v4.max_size), size, "{name}");
    }
    if let Some(size) = expect["lso6"].as_u64() {
        assert_eq!(u64::from(offload.lso_v2_v6.max_size), size, "{name}");
    }
    if let Some(rsc) = expect["rsc"].as_bool() {
        assert_eq!(offload.rsc_v4 != 0 && offload.rsc_v6 != 0, rsc, "{name}");
    }
    if name == "query_complete_offload_caps_tcp4_without_options" {
        assert!(v4.contains(V4::TCP) && !v4.contains(V4::TCP_OPTIONS));
    }
    if name == "query_complete_offload_caps_lso6_without_ext" {
        use rndis::offload::LsoV6Options;
        assert!(!offload.lso_v2_v6_options.contains(LsoV6Options::EXTENSION_HEADERS));
    }
}

fn check_parameters(name: &str, expect: &Value, parameters: &OffloadParameters) {
    use rndis::offload::{ChecksumSetting, TaskSetting};
    let checksums = [
        ("ip4", parameters.ipv4_checksum),
        ("tcp4", parameters.tcp_v4_checksum),
        ("udp4", parameters.udp_v4_checksum),
        ("tcp6", parameters.tcp_v6_checksum),
        ("udp6", parameters.udp_v6_checksum),
    ];
    for (what, setting) in checksums {
        match expect[what].as_str() {
            Some("off") => assert_eq!(setting, ChecksumSetting::OFF, "{name}: {what}"),
            Some("tx+rx") => assert_eq!(setting, ChecksumSetting::TX_RX, "{name}: {what}"),
            Some(other) => panic!("{name}: {other}"),
            None if expect["all"] == "off" => {
                assert_eq!(setting, ChecksumSetting::OFF, "{name}: {what}")
            }
            None if expect["others"] == "no change" => {
                assert_eq!(setting, ChecksumSetting::NO_CHANGE)
            }
            None => {}
        }
    }
    let tasks = [
        ("lso4", parameters.lso_v2_v4),
        ("lso6", parameters.lso_v2_v6),
        ("rsc", parameters.rsc_v4),
        ("rsc", parameters.rsc_v6),
    ];
    for (what, setting) in tasks {
        match expect[what].as_str() {
            Some("on") => assert_eq!(setting, TaskSetting::ON, "{name}: {what}"),
            Some("off") => assert_eq!(setting, TaskSetting::OFF, "{name}: {what}"),
            Some(other) => panic!("{name}: {other}"),
            None => {}
        }
    }
    let size = match name {
        "set_offload_params_linux_v4" | "set_offload_params_bsd_v4_rev2" => 22,
        "set_offload_params_rev1_20" => 20,
        _ => 28,
    };
    assert_eq!(parameters.size, size, "{name}");
}

#[test]
fn oids() {
    // Messages to refuse, with the field that the error has to name.
    const REFUSED: [(&str, &str); 4] = [
        ("query_complete_bad_offset_small", "InformationBufferOffset"),
        ("query_complete_bad_offset_past_end", "InformationBufferOffset"),
        ("query_complete_bad_len_past_end", "InformationBufferLength"),
        ("query_complete_bad_len_wrap", "InformationBufferLength"),
    ];
    // Good messages whose value has to be refused.
    const BAD_VALUE: [(&str, &str); 7] = [
        ("query_complete_rss_capabilities_bad_type", "Header.Type"),
        ("query_complete_offload_caps_bad_size_111", "Header.Size"),
        ("query_complete_offload_caps_size_field_100", "Header.Size"),
        ("set_offload_params_bad_type", "Header.Type"),
        ("set_offload_params_size_beyond_sent", "Header.Size"),
        ("set_rss_bad_tabsize_unaligned", "IndirectionTableSize"),
        ("set_rss_bad_table_offset", "IndirectionTableOffset"),
    ];
    let vectors = vectors(include_str!("vectors/oids.json"));
    let (mut accepted, mut refused, mut bad_values) = (0, 0, 0);
    // An answer does not say which OID it is about: the query in front of it does.
    let mut asked = Oid(0);
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        if let Some((_, field)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            let error = Message::parse(&bytes).expect_err(name);
            assert_eq!(error.field(), *field, "{name}: {error}");
            refused += 1;
            continue;
        }
        if name == "query_complete_longer_than_asked" {
            // The message is good. Whether the caller has room for the value is the caller's to compare.
            let complete = QueryComplete::parse(&bytes).unwrap();
            assert_eq!(complete.information.len(), 6);
            accepted += 1;
            continue;
        }
        let message = control_both_ways(vector, &bytes);
        accepted += 1;
        let oid = match message {
            Message::Query(query) => {
                asked = query.oid;
                asked
            }
            Message::Set(set) => set.oid,
            Message::QueryComplete(complete) if complete.status.is_success() => asked,
            Message::IndicateStatus(indication) => {
                assert_eq!(indication.status, Status::TASK_OFFLOAD_CURRENT_CONFIG);
                Oid::TCP_OFFLOAD_CURRENT_CONFIG
            }
            Message::QueryComplete(complete) => {
                assert_eq!(complete.status, Status::NOT_SUPPORTED);
                continue;
            }
            Message::SetComplete(complete) => {
                let expected = name.trim_start_matches("set_complete_").to_uppercase();
                let expected = if expected == "OK" { "SUCCESS" } else { &expected };
                assert_eq!(complete.status.name(), Some(expected));
                continue;
            }
            _ => panic!("{name}: {message:?}"),
        };
        assert!(oid.name().is_some(), "{name}: {oid}");
        let value = information(&message);
        if let Some((_, field)) = BAD_VALUE.iter().find(|(bad, _)| *bad == name) {
            let error = value_both_ways(name, oid, value).expect_err(name);
            assert_eq!(error.field(), *field, "{name}: {error}");
            bad_values += 1;
        } else if value.is_empty() {
            assert!(matches!(message, Message::Query(_)), "{name}");
        } else {
            value_both_ways(name, oid, value).unwrap_or_else(|error| panic!("{name}: {error}"));
            check_meaning(vector, &message, oid);
        }
    }
    assert_eq!((accepted, refused, bad_values), (76, REFUSED.len(), BAD_VALUE.len()));
    assert_eq!(vectors.len(), 80);
}

fn raw_fields(raw: &RawPacketHeader) -> [(&'static str, u32); 11] {
    [
        ("message_type", raw.message_type.0),
        ("message_length", raw.message_len),
        ("data_offset", raw.data_offset),
        ("data_length", raw.data_len),
        ("oob_data_offset", raw.oob_data_offset),
        ("oob_data_length", raw.oob_data_len),
        ("num_oob_data_elements", raw.num_oob_data_elements),
        ("per_packet_info_offset", raw.ppi_offset),
        ("per_packet_info_length", raw.ppi_len),
        ("vc_handle", raw.vc_handle),
        ("reserved", raw.reserved),
    ]
}

/// Reads and writes the header, good or bad, as raw fields.
fn raw_both_ways(vector: &Value, bytes: &[u8]) {
    let raw = RawPacketHeader::parse(bytes).unwrap();
    for (field, value) in raw_fields(&raw) {
        assert_eq!(value, number(vector, field), "{}: {field}", name(vector));
    }
    let mut out = [0; 44];
    assert_eq!(raw.emit(&mut out), Ok(44));
    assert_eq!(out, bytes[..44]);
}

/// A message as the encoder for any layout writes it.
fn encode(message: &PacketMsg<'_>) -> Vec<u8> {
    let words: Vec<_> = message.ppis().iter().map(|ppi| PpiWord { kind: ppi.kind, word: ppi.word() }).collect();
    let encoder = PacketEncoder {
        ppis: &words,
        data_offset: Some(message.header().data_offset()),
        message_len: Some(message.header().message_len()),
    };
    let mut out = vec![0xEE; message.as_bytes().len()];
    let len = encoder.emit(message.data(), &mut out).unwrap();
    assert_eq!(len, out.len());
    assert!(encoder.emit(message.data(), &mut out[..len - 1]).is_err());
    encoder.emit(message.data(), &mut out).unwrap();
    out
}

/// A packet as the guest's encoder writes it, if it is one that a guest sends.
fn encode_tx(message: &PacketMsg<'_>) -> Vec<u8> {
    let offload = match (message.lso(), message.tx_checksum()) {
        (Some(lso), None) => TxOffload::Lso(lso),
        (None, Some(checksum)) => TxOffload::Checksum(checksum),
        (None, None) => TxOffload::None,
        (Some(_), Some(_)) => panic!("never both"),
    };
    let header = TxHeader { hash_value: message.hash_value(), vlan: message.vlan(), offload };
    let data_end = message.data_range().end;
    let padding = message.as_bytes().len() - data_end;
    let mut out = vec![0; header.buffer_len()];
    let data_len = message.data().len() as u32;
    header.emit(data_len, padding as u32, &mut out).unwrap();
    out.extend(message.data());
    out.resize(out.len() + padding, 0);
    out
}

/// No truncation of a message is accepted: its length says that bytes are missing. If the length is made to fit, those
/// are accepted that cut bytes behind the data, and there are none but in a layout with padding.
fn cut_packet(name: &str, bytes: &[u8]) {
    let message = PacketMsg::parse(bytes).unwrap();
    let data_end = message.data_range().end;
    for len in 0..bytes.len() {
        let error = PacketMsg::parse(&bytes[..len]).expect_err(name);
        assert!(["PacketHeader", "MessageLength"].contains(&error.field()), "{name}: cut to {len}: {error}");
        let mut short = bytes[..len].to_vec();
        if len < 44 {
            continue;
        }
        short[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        assert_eq!(PacketMsg::parse(&short).is_ok(), len >= data_end, "{name}: shortened to {len}");
    }
    // The header alone tells as much as the whole range does.
    let header = PacketHeader::parse(&bytes[..44], bytes.len() as u32).unwrap();
    assert_eq!(header, *message.header(), "{name}");
}

#[test]
fn packets() {
    let vectors = vectors(include_str!("vectors/packets.json"));
    let mut covered = 0;
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        let expect = &vector["expect"];
        raw_both_ways(vector, &bytes);
        let message = PacketMsg::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Message::parse(&bytes), Ok(Message::Packet(message)));
        assert_eq!(message.data(), blob(vector, "frame"), "{name}");
        cut_packet(name, &bytes);
        assert_eq!(emit(&Message::Packet(message)), bytes);

        if let Some(frame) = expect["frame"].as_str() {
            assert_eq!(message.data(), unhex(frame), "{name}");
        }
        if let Some(offset) = expect["data_offset"].as_u64() {
            assert_eq!(u64::from(message.header().data_offset()) - 8, offset);
        }
        if let Some(id) = expect["vlan_id"].as_u64() {
            assert_eq!(u64::from(message.vlan().unwrap().id()), id, "{name}");
        }
        if let Some(tci) = expect["tci"].as_str() {
            assert_eq!(format!("{:#x}", message.vlan().unwrap().tci()), tci, "{name}");
        }
        if let Some(ppis) = expect["ppis"].as_array() {
            // The elements that this crate reads; a type it does not know is passed over.
            let kinds: Vec<_> = message
                .ppis()
                .iter()
                .filter_map(|ppi| match ppi.kind {
                    PpiType::CHECKSUM if name.starts_with("tx") => Some("tx_checksum"),
                    PpiType::CHECKSUM => Some("rx_checksum"),
                    PpiType::LSO => Some("lso"),
                    PpiType::IEEE_8021Q => Some("vlan"),
                    PpiType::HASH_VALUE => Some("hash_value"),
                    PpiType::HASH_INFO => Some("hash_info"),
                    _ => None,
                })
                .collect();
            assert_eq!(kinds, ppis.iter().map(|kind| kind.as_str().unwrap()).collect::<Vec<_>>(), "{name}");
        }

        match name {
            // Layouts that the encoders do not write: their headers are covered above, as raw fields.
            "rx_ppi_offset_zero_ignored_len" => assert_eq!(message.ppis().iter().count(), 0),
            "rx_ppi_longer_offset" => {
                assert_eq!(message.ppis().iter().next().unwrap().payload.len(), 4)
            }
            // Linux's longest header has elements that never come together.
            "tx_max_ppi_linux_header_108" => {
                assert_eq!(message.header().data_offset(), 108);
                assert_eq!(encode(&message), bytes, "{name}");
            }
            _ => {
                assert_eq!(encode(&message), bytes, "{name}");
                if name.starts_with("tx") {
                    assert_eq!(encode_tx(&message), bytes, "{name}");
                }
            }
        }
        covered += 1;
    }
    assert_eq!(covered, 12);
}

#[test]
fn packets_hostile() {
    const FIELDS: [(&str, &str); 27] = [
        ("short_43", "PacketHeader"),
        ("msglen_bigger_than_range", "MessageLength"),
        ("msglen_smaller_than_header", "MessageLength"),
        ("data_offset_past_end", "DataLength"),
        ("data_offset_wrap", "DataOffset"),
        ("data_offset_into_header", "DataOffset"),
        ("data_len_past_end", "DataLength"),
        ("data_len_wrap", "DataLength"),
        ("data_len_zero", "DataLength"),
        ("data_len_13", "DataLength"),
        ("ppi_offset_into_header", "PerPacketInfoOffset"),
        ("ppi_offset_past_end", "PerPacketInfoOffset"),
        ("ppi_offset_misaligned", "PerPacketInfoOffset"),
        ("ppi_len_past_end", "PerPacketInfoLength"),
        ("ppi_len_wrap", "PerPacketInfoLength"),
        ("ppi_len_less_than_12", "PerPacketInfoLength"),
        ("ppi_size_zero", "PerPacketInfo.Size"),
        ("ppi_size_zero_offset_zero", "PerPacketInfo.Size"),
        ("ppi_size_past_block", "PerPacketInfo.Size"),
        ("ppi_size_huge", "PerPacketInfo.Size"),
        ("ppi_offset_ge_size", "PerPacketInfo.Offset"),
        ("ppi_payload_too_small", "PerPacketInfo.Size"),
        ("ppi_size_not_multiple_of_4", "PerPacketInfo.Size"),
        ("ppi_overlaps_data", "PerPacketInfoOffset"),
        ("oob_overlaps_data", "OOBDataOffset"),
        ("oob_past_end", "OOBDataOffset"),
        ("sum_of_parts_wraps", "DataLength"),
    ];
    let vectors = vectors(include_str!("vectors/packets_hostile.json"));
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        assert_eq!(vector["expect"]["accepted"], false, "{name}");
        let error = PacketMsg::parse(&bytes).expect_err(name);
        let (_, field) = FIELDS.iter().find(|(known, _)| *known == name).expect(name);
        assert_eq!(error.field(), *field, "{name}: {error}");
        assert!(Message::parse(&bytes).is_err(), "{name}");
        assert!(Batch::parse(&bytes, &BatchLimits::NONE).is_err(), "{name}");
        if vector["fields"].is_array() {
            raw_both_ways(vector, &bytes);
        } else {
            assert_eq!(name, "short_43");
        }
    }
    assert_eq!(vectors.len(), FIELDS.len());
}

fn flag(decoded: &Value, name: &str) -> bool {
    decoded[name].as_u64() == Some(1)
}

#[test]
fn ppi() {
    let vectors = vectors(include_str!("vectors/ppi.json"));
    let mut covered = 0;
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        let decoded = &vector["expect"]["decoded"];
        let block = PpiBlock::parse(&bytes).unwrap();
        let elements: Vec<_> = block.iter().collect();
        let [element] = elements[..] else { panic!("{name}") };
        let info = PacketInfo::parse(&bytes).unwrap();
        for len in 1..bytes.len() {
            assert!(PacketInfo::parse(&bytes[..len]).is_err(), "{name}: cut to {len}");
            assert!(PpiBlock::parse(&bytes[..len]).is_err(), "{name}: cut to {len}");
        }

        // The element made anew from what the vector says.
        let word = match element.kind {
            PpiType::CHECKSUM if name.starts_with("tx") => {
                let checksum = info.tx_checksum().unwrap();
                assert_eq!(checksum.is_ipv4(), flag(decoded, "ipv4"), "{name}");
                assert_eq!(checksum.is_ipv6(), flag(decoded, "ipv6"), "{name}");
                assert_eq!(checksum.tcp(), flag(decoded, "tcp"), "{name}");
                assert_eq!(checksum.udp(), flag(decoded, "udp"), "{name}");
                assert_eq!(checksum.ip_header(), flag(decoded, "ip_header"), "{name}");
                let offset = decoded["tcp_header_offset"].as_u64().unwrap_or(0) as u16;
                assert_eq!(checksum.header_offset(), offset, "{name}");
                let ip = if checksum.is_ipv6() { IpVersion::V6 } else { IpVersion::V4 };
                let mut made = match (checksum.tcp(), checksum.udp()) {
                    (true, _) => TxChecksum::transport(ip, Transport::Tcp, offset).unwrap(),
                    (_, true) => TxChecksum::transport(ip, Transport::Udp, offset).unwrap(),
                    _ => TxChecksum::ipv4_header(),
                };
                if checksum.ip_header() {
                    made = made.with_ip_header();
                }
                PpiWord::from(made)
            }
            PpiType::CHECKSUM => {
                let mut made = RxChecksum::EMPTY;
                for bit in decoded.as_array().unwrap() {
                    made |= match bit.as_str().unwrap() {
                        "tcp_failed" => RxChecksum::TCP_FAILED,
                        "udp_failed" => RxChecksum::UDP_FAILED,
                        "ip_failed" => RxChecksum::IP_FAILED,
                        "tcp_succeeded" => RxChecksum::TCP_SUCCEEDED,
                        "udp_succeeded" => RxChecksum::UDP_SUCCEEDED,
                        "ip_succeeded" => RxChecksum::IP_SUCCEEDED,
                        "loopback" => RxChecksum::LOOPBACK,
                        "tcp_value_invalid" => RxChecksum::TCP_VALUE_INVALID,
                        "ip_value_invalid" => RxChecksum::IP_VALUE_INVALID,
                        other => panic!("{name}: {other}"),
                    };
                }
                assert_eq!(info.rx_checksum(), Some(made), "{name}");
                PpiWord::from(made)
            }
            PpiType::LSO => {
                let lso = info.lso.unwrap();
                let mss = decoded["mss"].as_u64().unwrap_or(0) as u32;
                let offset = decoded["tcp_header_offset"].as_u64().unwrap_or(0) as u16;
                let made = match decoded["type"].as_str().unwrap() {
                    "v2" => {
                        let ip = if decoded["ip"] == 6 { IpVersion::V6 } else { IpVersion::V4 };
                        assert_eq!((lso.version(), lso.ip_version()), (LsoVersion::V2, ip), "{name}");
                        Lso::v2(ip, mss, offset).unwrap()
                    }
                    "v1" => {
                        assert_eq!((lso.version(), lso.ip_version()), (LsoVersion::V1, IpVersion::V4));
                        Lso::v1(mss, offset).unwrap()
                    }
                    "v1 complete" => {
                        assert_eq!(decoded["tcp_payload"], lso.v1_completed_payload());
                        lso
                    }
                    other => panic!("{name}: {other}"),
                };
                if mss != 0 {
                    assert_eq!((lso.mss(), lso.header_offset()), (mss, offset), "{name}");
                }
                PpiWord::from(made)
            }
            PpiType::IEEE_8021Q => {
                let vlan = info.vlan.unwrap();
                assert_eq!(decoded["tci_on_wire"], format!("{:#x}", vlan.tci()), "{name}");
                let (id, priority) = (decoded["vlan_id"].as_u64().unwrap(), decoded["priority"].as_u64().unwrap());
                let made = Vlan::new(id as u16, priority as u8, flag(decoded, "dei"));
                assert_eq!(vlan, made, "{name}");
                PpiWord::from(made)
            }
            PpiType::HASH_VALUE => {
                let hash = info.hash_value.unwrap();
                assert_eq!(decoded["hash"], format!("{hash:#x}"));
                PpiWord::hash_value(hash)
            }
            PpiType::HASH_INFO => {
                let made = HashInfo::TOEPLITZ | HashInfo::TCP_IPV4;
                assert_eq!(info.hash_info, Some(made));
                assert_eq!((made.function(), made.types()), (1, HashInfo::TCP_IPV4));
                PpiWord::from(made)
            }
            PpiType::PACKET_ID => {
                let id = info.packet_id.unwrap();
                assert_eq!(id.version, 1, "{name}");
                let flags = PacketIdFlags(decoded["flags"].as_u64().unwrap() as u8);
                let made = PacketId::new(flags, decoded["packet_id"].as_u64().unwrap() as u16);
                assert_eq!(id, made, "{name}");
                assert_eq!(info.is_later_fragment(), [1, 5].contains(&flags.0), "{name}");
                PpiWord::from(made)
            }
            kind => {
                // Known by name, not read.
                assert!([PpiType::ORIGINAL_PACKET_INFO, PpiType::IPSEC].contains(&kind), "{name}");
                assert_eq!(info, PacketInfo::default(), "{name}");
                PpiWord { kind, word: element.word() }
            }
        };
        let mut message = [0; 44 + 16 + 14];
        let encoder = PacketEncoder { ppis: &[word], ..PacketEncoder::default() };
        encoder.emit(&[0; 14], &mut message).unwrap();
        assert_eq!(message[44..60], bytes, "{name}");
        if info != PacketInfo::default() {
            assert_eq!(*info.to_words(), [word], "{name}");
        }
        covered += 1;
    }
    assert_eq!(covered, 31);
}

#[test]
fn rsc() {
    let vectors = vectors(include_str!("vectors/rsc.json"));
    let (mut ranges, mut generated) = (0, 0);
    for vector in &vectors {
        let name = name(vector);
        let Some(list) = vector["ranges_hex"].as_array() else {
            // A rule for the receiver's count, which is not a matter of bytes.
            assert_eq!(name, "limit_562");
            generated += 1;
            continue;
        };
        let list: Vec<_> = list.iter().map(|hex| unhex(hex.as_str().unwrap())).collect();
        let mut merged = Vec::<u8>::new();
        for bytes in &list {
            let message = PacketMsg::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            cut_packet(name, bytes);
            assert_eq!(encode(&message), *bytes, "{name}");
            match message.packet_id() {
                Some(id) => {
                    assert!(id.is_sub_allocation(), "{name}");
                    assert_eq!(message.info().is_later_fragment(), !id.is_first(), "{name}");
                    if id.is_first() {
                        merged.clear();
                        let checksum = message.rx_checksum().unwrap();
                        assert!(checksum.contains(RxChecksum::TCP_VALUE_INVALID | RxChecksum::IP_VALUE_INVALID));
                    }
                    merged.extend(message.data());
                }
                None => {
                    let delivered = vector["expect"]["delivered"][0].as_str().unwrap();
                    assert_eq!(message.data(), unhex(delivered), "{name}");
                }
            }
            ranges += 1;
        }
        if let Some(length) = vector["expect"]["frame_length"].as_u64() {
            assert_eq!(merged.len() as u64, length, "{name}");
        }
        if let Some(frame) = vector["expect"]["frame_hex_before_fixup"].as_str() {
            assert_eq!(merged, unhex(frame), "{name}");
        }
        if name == "short_tail" {
            // The last fragment is shorter than an Ethernet header; as a first fragment it would be refused.
            let mut bytes = list[2].clone();
            let flags = bytes.len() - 6 - 3;
            assert_eq!(bytes[flags], 5);
            bytes[flags] = 7;
            assert_eq!(PacketMsg::parse(&bytes).unwrap_err().field(), "DataLength");
        }
    }
    assert_eq!((ranges, generated), (3 + 3 + 2 + 2 + 3 + 4, 1));
    assert_eq!(vectors.len(), 7);
}

#[test]
fn batches() {
    let vectors = vectors(include_str!("vectors/batches.json"));
    let mut covered = 0;
    for vector in &vectors {
        let bytes = bytes(vector);
        let name = name(vector);
        let expect = &vector["expect"];
        let refused = match name {
            "junk_after_packet" => Some("MessageType"),
            "second_message_invalid" => Some("DataOffset"),
            "first_length_below_header" => Some("MessageLength"),
            _ => None,
        };
        covered += 1;
        if let Some(field) = refused {
            let error = Batch::parse(&bytes, &BatchLimits::NONE).expect_err(name);
            assert_eq!(error.field(), field, "{name}: {error}");
            continue;
        }
        let mut whole = bytes.clone();
        if let Some(rest) = expect["gpa_direct_bytes"].as_str() {
            // The last frame is in pages of the guest: alone, the section is not a batch.
            assert_eq!(Batch::parse(&bytes, &BatchLimits::NONE).unwrap_err().field(), "MessageLength");
            whole.extend(unhex(rest));
        }
        if let Some(size) = expect["section_size_field"].as_u64() {
            assert_eq!(size, bytes.len() as u64, "{name}");
        }
        let alignment = match name {
            "three_messages_align4" => 4,
            "three_messages_align1" => 1,
            _ => 8,
        };
        let limits = BatchLimits { max_messages: 8, max_bytes: 6144, alignment };
        let batch = Batch::parse(&whole, &limits).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(batch.iter().count() as u32, batch.count(), "{name}");
        if let Some(count) = expect["count"].as_u64() {
            assert_eq!(u64::from(batch.count()), count, "{name}");
            let fewer = BatchLimits { max_messages: batch.count() - 1, ..limits };
            assert_eq!(Batch::parse(&whole, &fewer).unwrap_err().field(), "MessageCount");
        }
        if let Some(frames) = expect["frames"].as_array() {
            let frames = frames.iter().map(|frame| unhex(frame.as_str().unwrap()));
            assert!(frames.eq(batch.iter().map(|message| message.data().to_vec())), "{name}");
        }
        if alignment < 8 {
            assert_eq!(
                Batch::parse(&whole, &BatchLimits { alignment: 8, ..limits }).unwrap_err().field(),
                "MessageLength",
                "{name}"
            );
        }

        // The same batch, written anew.
        let (mut out, mut offsets) = (Vec::<u8>::new(), Vec::new());
        for (index, message) in batch.iter().enumerate() {
            offsets.push(out.len());
            assert_eq!(encode_tx(&message), message.as_bytes(), "{name}");
            let header = TxHeader::default();
            let end = (header.buffer_len() + message.data().len()) as u32;
            let last = index + 1 == batch.count() as usize;
            let pad = if last { 0 } else { padding(end, alignment) };
            let at = out.len();
            out.resize(at + header.buffer_len(), 0);
            header.emit(message.data().len() as u32, pad, &mut out[at..]).unwrap();
            out.extend(message.data());
            out.resize(out.len() + pad as usize, 0);
        }
        assert_eq!(out, whole, "{name}");
        if let Some(expected) = expect["message_offsets"].as_array() {
            let expected: Vec<_> = expected.iter().map(|offset| offset.as_u64().unwrap() as usize).collect();
            assert_eq!(offsets, expected, "{name}");
        }

        // A cut is accepted only where a message ends.
        let ends: Vec<_> = offsets.iter().skip(1).copied().collect();
        for len in 0..whole.len() {
            let accepted = Batch::parse(&whole[..len], &BatchLimits::NONE).is_ok();
            assert_eq!(accepted, ends.contains(&len), "{name}: cut to {len}");
        }
    }
    assert_eq!(covered, 8);
}
