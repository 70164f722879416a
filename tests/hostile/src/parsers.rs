//! Every parser of the wire crates, over any bytes. What can be read has to read the same after being written again.

use rndis::control::QueryComplete;
use rndis::offload::{Offload, OffloadEncapsulation, OffloadParameters};
use rndis::packet::{Batch, BatchLimits, PacketHeader, PacketMsg, RawPacketHeader};
use rndis::ppi::{PacketInfo, PpiBlock};
use vmbus::packet::{Descriptor, TransferPages, gpa_direct_ranges};
use vmbus::protocol::{Context, FeatureFlags, Version};

/// RNDIS messages other than frames, and the values inside them.
pub fn rndis_message(bytes: &[u8]) {
    let Ok(message) = rndis::Message::parse(bytes) else { return rndis_value(bytes) };
    // Written again it may be shorter (gaps go), but it is the same message.
    let mut written = vec![0; message.buffer_len()];
    if let Ok(len) = message.emit(&mut written) {
        assert_eq!(len, written.len(), "{message:?}");
        let again = rndis::Message::parse(&written).expect("what is written can be read");
        assert_eq!(again.message_type(), message.message_type());
        assert_eq!(again.request_id(), message.request_id());
    }
    if let rndis::Message::QueryComplete(QueryComplete { information, .. }) = message {
        rndis_value(information);
    }
    if let rndis::Message::IndicateStatus(indication) = message {
        rndis_value(indication.buffer);
    }
}

/// Values of OIDs.
pub fn rndis_value(bytes: &[u8]) {
    use rndis::value::{self, FriendlyName, LinkSpeed, MacAddress, MediaConnectStatus, MulticastList, SupportedList};
    let _ = value::u32_value(bytes);
    let _ = value::u16_value(bytes);
    let _ = value::counter_value(bytes);
    let _ = MacAddress::parse(bytes);
    let _ = LinkSpeed::parse(bytes);
    let _ = MediaConnectStatus::parse(bytes);
    let _ = MulticastList::parse(bytes).map(|list| list.iter().count());
    let _ = SupportedList::parse(bytes).map(|list| list.iter().count());
    let _ = FriendlyName::parse(bytes).map(|name| name.name.chars().count());
    let _ = Offload::parse(bytes);
    let _ = OffloadParameters::parse(bytes);
    let _ = OffloadEncapsulation::parse(bytes);
    let _ = rndis::rss::RssCapabilities::parse(bytes);
    let _ = rndis::rss::RssParameters::parse(bytes);
}

/// Frames: one message in a range, several in a section, and the data path's two steps of which the second trusts the
/// first.
pub fn rndis_packet(bytes: &[u8]) {
    if let Ok(message) = PacketMsg::parse(bytes) {
        // The ranges are inside, whatever the message said.
        assert_eq!(bytes[message.data_range()].len(), message.data().len());
        assert!(message.data().len() <= bytes.len());
    }
    let range_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if let Ok(header) = PacketHeader::parse(bytes, range_len) {
        let infos = &bytes[header.ppi_range()];
        assert!(header.data_range().end <= bytes.len());
        if let Ok(info) = PacketInfo::parse(infos) {
            let _ = header.check_frame(&info);
            let _ = info.to_words();
        }
        if let Ok(block) = PpiBlock::parse(infos) {
            assert!(block.iter().count() <= infos.len() / 12);
        }
    }
    let _ = RawPacketHeader::parse(bytes);
    let _ = PacketInfo::parse(bytes);
    if let Ok(batch) = Batch::parse(bytes, &BatchLimits::NONE) {
        let frames: usize = batch.iter().map(|message| message.data().len()).sum();
        assert!(frames <= bytes.len());
    }
}

/// NVSP messages of both directions.
pub fn nvsp_message(bytes: &[u8]) {
    for sender in [nvsp::Sender::Guest, nvsp::Sender::Host] {
        let Ok(message) = nvsp::Message::parse(bytes, sender) else { continue };
        let mut written = vec![0; message.buffer_len()];
        if let Ok(len) = message.emit(&mut written) {
            let again = nvsp::Message::parse(&written[..len], sender).expect("what is written can be read");
            assert_eq!(again.message_type(), message.message_type());
        }
    }
}

/// Packet descriptors and headers of VMBus, and messages of its control plane.
pub fn vmbus_message(bytes: &[u8]) {
    for version in Version::ALL {
        for features in [FeatureFlags::NONE, FeatureFlags(u32::MAX)] {
            let context = Context { version, features };
            let Ok(message) = vmbus::protocol::Message::parse(bytes, context) else { continue };
            let mut written = [0; vmbus::protocol::MAX_MESSAGE];
            if let Ok(len) = message.emit(&mut written) {
                assert_eq!(len, message.encoded_len());
            }
        }
    }
    if let Some((words, rest)) = bytes.split_first_chunk::<16>() {
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| words[at + i]));
        let _ = Descriptor::from_words(word(0), word(8)).check(u32::try_from(rest.len()).unwrap_or(u32::MAX));
    }
    let _ = TransferPages::parse(bytes).map(|pages| assert_eq!(pages.ranges().len(), pages.len()));
    let _ = gpa_direct_ranges(bytes);
}
