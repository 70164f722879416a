//! Any input: nothing panics, and what was parsed survives being written and parsed again.

use nvsp::*;
use proptest::prelude::*;

/// Every type with a layout, and one without.
const TYPES: [u32; 26] = [
    1, 2, 100, 101, 102, 103, 104, 105, 106, 107, 108, 119, 120, 121, 122, 123, 125, 128, 129, 130, 131, 132, 133, 134,
    135, 136,
];

/// A message type, then small numbers now and then so that counts and operations are met, then anything.
fn message_bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![0u32..20, any::<u32>(), Just(0xFFFF_FFFF)];
    (prop::sample::select(&TYPES[..]), prop::collection::vec(word, 0..40), 0usize..4).prop_map(|(code, words, cut)| {
        let mut bytes: Vec<u8> = [code].iter().chain(&words).flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(bytes.len() - cut);
        bytes
    })
}

fn sender() -> impl Strategy<Value = Sender> {
    prop_oneof![Just(Sender::Guest), Just(Sender::Host)]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![prop::sample::select(&Version::ALL[..]), any::<u32>().prop_map(Version)]
}

/// Checks that `message` survives being written, padded and unpadded, and refuses a buffer that is one byte short.
fn survives(message: Message<'_>, sender: Sender, pad: usize) -> Result<(), TestCaseError> {
    let needed = message.buffer_len();
    let mut out = vec![0xFF; needed.max(pad) + 1];
    prop_assert_eq!(message.emit(&mut out), Ok(needed));
    prop_assert_eq!(out[needed], 0xFF);
    prop_assert_eq!(Message::parse(&out[..needed], sender), Ok(message));

    let padded = needed.max(pad);
    prop_assert_eq!(message.emit_padded(&mut out, pad), Ok(padded));
    prop_assert!(out[needed..padded].iter().all(|byte| *byte == 0));
    prop_assert_eq!(out[padded], 0xFF);
    // These two take their length from the bytes, padding included.
    if !matches!(message, Message::SendTable(_) | Message::Unknown(_)) {
        prop_assert_eq!(Message::parse(&out[..padded], sender), Ok(message));
    }

    let mut short = vec![0xAA; needed - 1];
    let error = EmitError::BufferTooSmall { needed, available: needed - 1 };
    prop_assert_eq!(message.emit(&mut short), Err(error));
    prop_assert!(short.iter().all(|byte| *byte == 0xAA));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_parses_survives_writing(bytes in message_bytes(), sender in sender(), pad in 0usize..64) {
        if let Ok(message) = Message::parse(&bytes, sender) {
            prop_assert_eq!(message.message_type(), MessageType::peek(&bytes).unwrap());
            survives(message, sender, pad)?;
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..160), sender in sender(), version in version()) {
        let _ = Message::parse(&bytes, sender).map(|message| format!("{message:?}"));
        let _ = SendTable::parse(&bytes, version).map_err(|error| error.to_string());
    }

    #[test]
    fn a_send_table_is_inside_its_message(mut bytes in message_bytes(), offset in 0u32..120, version in version()) {
        bytes.resize(bytes.len().max(12), 0);
        bytes[..4].copy_from_slice(&134u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&16u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&offset.to_le_bytes());
        let at = if version <= Version::V6 && bytes.len() >= 104 { 40 } else { offset as usize };
        match SendTable::parse(&bytes, version) {
            Ok(table) => {
                let expected: Vec<u8> = table.entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                prop_assert_eq!(&bytes[at..at + 64], &expected[..]);
            }
            Err(_) => prop_assert!(at + 64 > bytes.len()),
        }
    }

    #[test]
    fn sections_of_any_number_survive(
        numbers in prop::collection::vec(any::<[u32; 4]>(), 0..40), status in any::<u32>(), pad in 0usize..64,
    ) {
        let sections: Vec<_> = numbers.iter().map(|&[offset, sub_allocation_size, sub_allocation_count, end_offset]| {
            ReceiveSection { offset, sub_allocation_size, sub_allocation_count, end_offset }
        }).collect();
        let complete = SendReceiveBufferComplete { status: Status(status), sections: Records::from(&sections[..]) };
        survives(complete.into(), Sender::Host, pad)?;
        prop_assert!(complete.sections.iter().eq(sections.iter().copied()));
        prop_assert_eq!(complete.sections.iter().len(), sections.len());
        prop_assert_eq!(complete.sections.first(), sections.first().copied());
        prop_assert_eq!(complete.sections.get(sections.len()), None);
    }

    #[test]
    fn rndis_packets_of_every_size_are_the_same(channel in any::<u32>(), index in any::<u32>(), used in any::<u32>()) {
        let packet = RndisPacket {
            channel_type: ChannelType(channel), section: SectionIndex::new(index), section_bytes: used,
        };
        let full: [u8; 40] = packet.to_array();
        prop_assert_eq!(&full[..32], &packet.to_array::<32>()[..]);
        prop_assert_eq!(&full[..16], &packet.to_array::<16>()[..]);
        prop_assert_eq!(&full[16..], &[0; 24][..]);
        prop_assert_eq!(RndisPacket::parse(&full), Ok(packet));
    }
}

#[test]
fn a_batch_longer_than_its_count_field_is_refused() {
    let buffers = vec![PdBuffer { region_offset: 0, region_id: 0, flags: 0 }; 65_536];
    let mut out = vec![0; 8 + 8 * 65_536];
    let batch = PdPostBatch { flags: PdBatchFlags::IS_RECEIVE, buffers: Records::from(&buffers[..]) };
    let error = EmitError::TooManyRecords { field: "count", count: 65_536, limit: 65_535 };
    assert_eq!(batch.emit(&mut out), Err(error));
    let batch = PdPostBatch { buffers: Records::from(&buffers[1..]), ..batch };
    assert_eq!(batch.emit(&mut out), Ok(8 + 8 * 65_535));
    assert_eq!(PdPostBatch::parse(&out), Ok(batch));
}

#[test]
fn errors_name_message_and_field() {
    let bytes: [u8; 40] = Init::only(Version::V5).to_array();
    let error = Init::parse(&bytes[..11]).unwrap_err();
    assert_eq!(error.to_string(), "INIT: max_version is missing, it needs 12 bytes of which there are 11");
    let error = NdisConfig::parse(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "NDIS_CONFIG: message_type is 0x1 where only 0x7d is allowed");
    let request = PdFlushQueueRequest { provider_id: 1, queue_id: 2 }.to_array::<40>();
    let error = PdFreeQueueRequest::parse(&request).unwrap_err();
    assert_eq!(error.to_string(), "PD_API: operation is 0x6 where only 0x7 is allowed");
    let error = Message::parse(&[], Sender::Guest).unwrap_err();
    assert_eq!(error.to_string(), "message: message_type is missing, it needs 4 bytes of which there are 0");
}

#[test]
fn an_offer_has_its_lowest_version_first() {
    let init = Init { min_version: Version::V1, max_version: Version::V5 };
    assert_eq!(init.to_array(), [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 5, 0]);
}

#[test]
fn reserved_bytes_are_ignored() {
    let config = NdisConfig { frame_mtu: 1514, capabilities: Capabilities::IEEE8021Q | Capabilities::SRIOV };
    let mut bytes: [u8; 40] = config.to_array();
    bytes[8..12].fill(0xEE);
    bytes[20..].fill(0xEE);
    assert_eq!(NdisConfig::parse(&bytes), Ok(config));
}

#[test]
fn one_type_means_two_messages() {
    let bytes: [u8; 40] = SubchannelRequest::allocate(3).to_array();
    let request = Message::SubchannelRequest(SubchannelRequest::allocate(3));
    assert_eq!(Message::parse(&bytes, Sender::Guest), Ok(request));
    let complete = SubchannelComplete { status: Status::SUCCESS, count: 3 };
    assert_eq!(Message::parse(&bytes, Sender::Host), Ok(Message::SubchannelComplete(complete)));
}

#[test]
fn an_unknown_type_is_kept() {
    let bytes = [0x39, 0x30, 0, 0, 1, 2, 3];
    let Ok(Message::Unknown(unknown)) = Message::parse(&bytes, Sender::Host) else { panic!("known?") };
    assert_eq!(unknown.message_type(), MessageType(12_345));
    assert_eq!(unknown.bytes(), bytes);
    assert_eq!(unknown.message_type().to_string(), "message type 12345");
}
