//! What the host did to received frames: verdicts, tags, merged segments; and what becomes of them when they are sent on.

mod packets;
mod queue_host;

use std::path::PathBuf;

use netvsc::checksum;
use netvsc::meta::{RxChecksum, Transport, TxMeta, Verdict, Vlan};
use netvsc::offload::{OffloadSettings, Offloads};
use netvsc::queue::{Burst, Checked, Disagreement, QueueSettings};
use nvsp::Version;
use packets::{ACK, Description, PSH, ipv4, ipv6, payload, tcp};
use queue_host::{Host, Setup, TestQueue, hex, pair, pair_with};
use rndis::offload::{ChecksumTask, ChecksumV4Flags, ChecksumV6Flags, Encapsulation, Offload};
use rndis::packet::{PacketEncoder, PacketMsg};
use rndis::ppi::{PacketId, PacketIdFlags, PpiWord, RxChecksum as Word};
use serde_json::Value;
use vmbus::packet::TransferRange;

fn message(ppis: &[PpiWord], data: &[u8]) -> Vec<u8> {
    let encoder = PacketEncoder { ppis, ..PacketEncoder::default() };
    let mut bytes = vec![0; encoder.buffer_len(data.len()).unwrap()];
    encoder.emit(data, &mut bytes).unwrap();
    bytes
}

/// Delivers one packet of these ranges; the frames.
fn receive(queue: &mut TestQueue, host: &mut Host, ranges: &[TransferRange]) -> Burst {
    host.deliver(1, ranges);
    let mut burst = Burst::new(8, 128 * 1024);
    queue.receive(&mut burst, 8).unwrap();
    host.take();
    burst
}

fn verdict_on(queue: &mut TestQueue, host: &mut Host, word: Word, frame: &[u8]) -> RxChecksum {
    let range = host.put(0, &message(&[word.into()], frame));
    let burst = receive(queue, host, &[range]);
    assert_eq!(burst.get(0).unwrap().bytes, frame);
    burst.get(0).unwrap().meta.checksum
}

fn word(text: &Value) -> Word {
    Word(u32::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
}

fn expected(text: &Value) -> Verdict {
    match text.as_str().unwrap() {
        "good" => Verdict::Good,
        "bad" => Verdict::Bad,
        _ => Verdict::Unknown,
    }
}

fn checking() -> QueueSettings {
    let mut settings = QueueSettings::default();
    settings.check_verdicts = true;
    settings
}

fn datagram() -> Vec<u8> {
    Description::new(ipv4(), packets::Transport::Udp { with_checksum: true }, payload(40, 3, 7)).build()
}

#[test]
fn verdicts_of_the_vectors_are_believed_and_stand_up_to_a_check() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/checksum/receive.json")).unwrap();
    for settings in [QueueSettings::default(), checking()] {
        let (mut queue, mut host) = pair_with(Setup::default(), settings);
        for vector in vectors["vectors"].as_array().unwrap() {
            let frame = hex(vector["frame_hex"].as_str().unwrap());
            let expect = &vector["expect"];
            let found = verdict_on(&mut queue, &mut host, word(&expect["rx_checksum_ppi"]), &frame);
            assert_eq!(
                (found.ip, found.transport),
                (expected(&expect["ip"]), expected(&expect["l4"])),
                "{}",
                vector["name"]
            );
        }
        let stats = queue.stats().extra;
        assert_eq!(stats.rx_checksum_checked > 5, settings.check_verdicts);
        assert_eq!(stats.rx_checksum_wrong_ip + stats.rx_checksum_wrong_tcp + stats.rx_checksum_wrong_udp, 0);
        assert_eq!(queue.take_disagreement(), None);
    }
}

#[test]
fn either_protocols_verdict_counts_for_both() {
    let (mut queue, mut host) = pair_with(Setup::default(), checking());
    // Hosts of 2016 say TCP of UDP.
    let found = verdict_on(&mut queue, &mut host, Word::TCP_SUCCEEDED | Word::IP_SUCCEEDED, &datagram());
    assert_eq!(found.transport, Verdict::Good);
    assert_eq!(queue.stats().extra.rx_checksum_checked, 2);
    assert_eq!(verdict_on(&mut queue, &mut host, Word::IP_SUCCEEDED, &datagram()).transport, Verdict::Unknown);
}

#[test]
fn a_wrong_verdict_is_counted_named_and_put_right() {
    let (mut queue, mut host) = pair_with(Setup::default(), checking());
    let good = datagram();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let found = verdict_on(&mut queue, &mut host, Word::UDP_SUCCEEDED | Word::IP_SUCCEEDED, &bad);
    assert_eq!((found.ip, found.transport), (Verdict::Good, Verdict::Bad));
    let udp = Checked::Transport { ip: netvsc::meta::IpVersion::V4, transport: Transport::Udp };
    let expected = Disagreement { checked: udp, host: Verdict::Good, frame_len: good.len() };
    assert_eq!(queue.take_disagreement(), Some(expected));
    assert_eq!(queue.take_disagreement(), None);
    let found = verdict_on(&mut queue, &mut host, Word::UDP_FAILED | Word::IP_FAILED, &good);
    assert_eq!((found.ip, found.transport), (Verdict::Good, Verdict::Good));
    let segment = Description::new(ipv6(), tcp(1, ACK), payload(9, 1, 1)).build();
    assert_eq!(verdict_on(&mut queue, &mut host, Word::TCP_FAILED, &segment).transport, Verdict::Good);
    let stats = queue.stats().extra;
    assert_eq!((stats.rx_checksum_wrong_ip, stats.rx_checksum_wrong_tcp, stats.rx_checksum_wrong_udp), (1, 1, 2));
    // Nobody compares unless it is wished.
    let (mut queue, mut host) = pair(Setup::default());
    assert_eq!(verdict_on(&mut queue, &mut host, Word::UDP_SUCCEEDED, &bad).transport, Verdict::Good);
    assert_eq!(queue.stats().extra.rx_checksum_checked, 0);
}

#[test]
fn verdicts_that_are_not_wished_are_not_given() {
    let offered = Offload {
        checksum_v4_tx: ChecksumTask { encapsulation: Encapsulation::IEEE_802_3, flags: ChecksumV4Flags(0x155) },
        checksum_v6_tx: ChecksumTask { encapsulation: Encapsulation::IEEE_802_3, flags: ChecksumV6Flags(0x55) },
        ..Offload::empty(3)
    };
    let mut settings = OffloadSettings::forwarding();
    settings.rx_checksum.udp_v4 = false;
    settings.rx_checksum.ipv4_header = false;
    let (mut queue, mut host) = pair(Setup::default());
    queue.attach_offloads(Offloads::agreed(Version::V6_1, &offered, &settings));
    let good = Word::TCP_SUCCEEDED | Word::UDP_SUCCEEDED | Word::IP_SUCCEEDED;
    assert_eq!(verdict_on(&mut queue, &mut host, good, &datagram()), RxChecksum::default());
    let segment = Description::new(ipv4(), tcp(1, ACK), payload(9, 1, 1)).build();
    let found = verdict_on(&mut queue, &mut host, good, &segment);
    assert_eq!((found.ip, found.transport), (Verdict::Unknown, Verdict::Good));
    queue.attach_offloads(Offloads::agreed(Version::V6_1, &offered, &OffloadSettings::forwarding()));
    assert_eq!(verdict_on(&mut queue, &mut host, good, &datagram()).transport, Verdict::Good);
}

#[test]
fn a_recorded_hosts_frames_and_verdicts() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/captures/netvsp-host/offload.json");
    let session: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let setup = Setup { receive_section_bytes: 1806, ..Setup::default() };
    let (mut queue, mut host) = pair_with(setup, checking());
    let mut found = Vec::new();
    for event in session["events"].as_array().unwrap() {
        let Some(data) = event["xfer"]["ranges"][0]["data"].as_str().map(hex) else { continue };
        let Ok(theirs) = PacketMsg::parse(&data) else { continue };
        let range = host.put(0, &data);
        let burst = receive(&mut queue, &mut host, &[range]);
        let frame = burst.get(0).unwrap();
        if !frame.meta.checksum.ip_stale && theirs.rx_checksum().is_some_and(|word| word.0 & 0x100 == 0) {
            assert_eq!(frame.bytes, theirs.data());
        }
        assert_eq!(frame.meta.vlan, theirs.vlan());
        found.push((frame.meta.checksum.ip, frame.meta.checksum.transport));
    }
    use Verdict::{Good, Unknown};
    // The endpoint said what it was told to say, also of frames that are right.
    let states = [(Unknown, Unknown), (Good, Unknown), (Good, Good), (Good, Good), (Good, Unknown), (Good, Good)];
    assert_eq!(found[..6], states);
    assert!(found.len() >= 12, "{}", found.len());
    let stats = queue.stats().extra;
    assert_eq!((stats.rx_checksum_wrong_tcp, stats.rx_checksum_wrong_ip, stats.rx_checksum_wrong_udp), (1, 1, 1));
}

#[test]
fn what_dpdk_made_of_a_session_is_what_we_make_of_it() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/captures/dpdk-guest/rx-ppi-vlan-strip.json");
    let session: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut queue, mut host) = pair(Setup { receive_section_bytes: 2048, ..Setup::default() });
    let events = session["events"].as_array().unwrap();
    let told: Vec<_> = events.iter().filter_map(|event| event["name"].as_str()?.strip_prefix("delivered: ")).collect();
    let mut told = told.into_iter();
    let mut frames = 0;
    for event in events.iter().filter(|event| event["dir"] == "h2g") {
        let Some(ranges) = event["xfer"]["ranges"].as_array() else { continue };
        for range in ranges {
            let data = hex(range["data"].as_str().unwrap());
            if data[..4] != [1, 0, 0, 0] {
                continue;
            }
            let range = host.put(0, &data);
            let burst = receive(&mut queue, &mut host, &[range]);
            let frame = burst.get(0).unwrap();
            let told = told.next().unwrap();
            let has = |flag: &str| told.contains(flag);
            let number = |name: &str| {
                let text = told.split_once(name)?.1.split([',', ' ']).next()?;
                u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
            };
            assert!(has(&format!("length {},", frame.bytes.len())), "{told}: {} bytes", frame.bytes.len());
            assert_eq!(frame.meta.checksum.transport == Verdict::Good, has("RX_L4_CKSUM_GOOD"), "{told}");
            assert_eq!(frame.meta.checksum.transport == Verdict::Bad, has("RX_L4_CKSUM_BAD"), "{told}");
            assert_eq!(frame.meta.checksum.ip == Verdict::Good, has("RX_IP_CKSUM_GOOD"), "{told}");
            // Of repeated elements the first counts here, the last there.
            if frame.meta.vlan.map(|vlan| u32::from(vlan.tci())) != number("VLAN TCI ") {
                assert_eq!((frame.meta.vlan.map(|vlan| vlan.tci()), number("VLAN TCI ")), (Some(1), Some(2)));
            }
            if let Some(hash) = number("hash ") {
                assert_eq!(frame.meta.hash.unwrap().value, hash, "{told}");
            }
            frames += 1;
        }
    }
    assert_eq!((frames, told.next()), (20, None));
}

#[test]
fn tags_come_beside_the_frame_or_in_it() {
    for (id, priority) in [(100, 5), (0, 3), (4095, 0)] {
        let vlan = Vlan::new(id, priority, false);
        let mut description = Description::new(ipv4(), tcp(1, ACK), payload(20, 1, 1));
        let plain = description.build();
        description.tags = vec![(0x8100, vlan.tci())];
        let tagged = description.build();
        let (mut queue, mut host) = pair(Setup::default());
        let range = host.put(0, &message(&[vlan.into()], &plain));
        let burst = receive(&mut queue, &mut host, &[range]);
        assert_eq!((burst.get(0).unwrap().bytes, burst.get(0).unwrap().meta.vlan), (&plain[..], Some(vlan)));
        assert_eq!(
            TxMeta::passing_on(&plain, &burst.get(0).unwrap().meta, 1500).vlan,
            Some(vlan),
            "it stays when the frame goes on"
        );
        let mut settings = QueueSettings::default();
        settings.reinsert_tags = true;
        let (mut queue, mut host) = pair_with(Setup::default(), settings);
        let words = [Word::TCP_SUCCEEDED.into(), vlan.into()];
        let range = host.put(0, &message(&words, &plain));
        let untagged = host.put(1, &message(&words[..1], &plain));
        let burst = receive(&mut queue, &mut host, &[range, untagged]);
        let frame = burst.get(0).unwrap();
        assert_eq!((frame.bytes, frame.meta.vlan), (&tagged[..], None));
        assert_eq!(frame.meta.checksum.transport, Verdict::Good);
        assert_eq!(burst.get(1).unwrap().bytes, plain);
        assert_eq!(queue.stats().rx.bytes, (tagged.len() + plain.len()) as u64);
    }
}

/// The ranges of one merged frame, cut at these lengths of data.
fn merged(host: &Host, frame: &[u8], lengths: &[usize], extra: &[PpiWord]) -> Vec<TransferRange> {
    let mut rest = frame;
    let last = lengths.len() - 1;
    lengths
        .iter()
        .enumerate()
        .map(|(at, &len)| {
            let (data, after) = rest.split_at(len);
            rest = after;
            let mut flags = PacketIdFlags::SUB_ALLOCATION;
            let mut words = Vec::new();
            if at == 0 {
                flags |= PacketIdFlags::FIRST;
                words.extend_from_slice(extra);
            }
            if at == last {
                flags |= PacketIdFlags::LAST;
            }
            words.push(PacketId::new(flags, 7).into());
            host.put(at as u32, &message(&words, data))
        })
        .collect()
}

#[test]
fn a_merged_frame_that_goes_on_becomes_segments_again() {
    let stale = Word::TCP_SUCCEEDED | Word::IP_SUCCEEDED | Word::TCP_VALUE_INVALID | Word::IP_VALUE_INVALID;
    for ip in [ipv4(), ipv6()] {
        let description = Description::new(ip, tcp(u32::MAX - 2000, ACK | PSH), payload(4000, 1, 7));
        let whole = description.build();
        let headers = whole.len() - 4000;
        let mut sent = whole.clone();
        // The sums are those of no frame.
        sent[headers - 4] ^= 0x5A;
        // By segments of 1200 bytes, by sections of the receive buffer, and all in one: the MTU decides.
        let most = 1514 - headers;
        for (lengths, mss) in [
            (vec![headers + 1200, 1200, 1200, 400], 1200),
            (vec![1600, 1600, whole.len() - 3200], most),
            (vec![headers + 1200, 1201, 1199, 400], most),
            // The last is never longer; none is longer than the network's.
            (vec![headers + 1200, 1200, 1600], most),
            (vec![headers + 1500, 1500, 1000], most),
        ] {
            // Who checks the host's verdicts leaves such a frame's alone: its sum is wrong on purpose.
            let (mut queue, mut host) = pair_with(Setup { direct_pages: 64, ..Setup::default() }, checking());
            queue.attach_mtu(1500);
            let ranges = merged(&host, &sent, &lengths, &[stale.into()]);
            let burst = receive(&mut queue, &mut host, &ranges);
            let frame = burst.get(0).unwrap();
            let coalesced = frame.meta.coalesced.unwrap();
            assert_eq!((usize::from(coalesced.fragments), usize::from(coalesced.segment_size)), (lengths.len(), mss));
            assert_eq!(frame.meta.checksum.transport, Verdict::Good, "verified, though the field is stale");
            let meta = TxMeta::passing_on(frame.bytes, &frame.meta, 1500);
            queue.send(frame.bytes, &meta).unwrap();
            queue.flush().unwrap();
            let frames: Vec<_> = host.take().iter().flat_map(|packet| packet.frames()).collect();
            let expected: Vec<_> = description.cut(mss, false).iter().map(Description::build).collect();
            assert_eq!(frames, expected);
            assert!(frames.iter().all(|frame| checksum::verify(frame).transport == Verdict::Good));
        }
    }
}

#[test]
fn a_tag_goes_back_into_a_merged_frame() {
    let mut settings = QueueSettings::default();
    settings.reinsert_tags = true;
    let (mut queue, mut host) = pair_with(Setup::default(), settings);
    queue.attach_mtu(1500);
    let vlan = Vlan::new(9, 1, false);
    let mut description = Description::new(ipv4(), tcp(1, ACK), payload(3000, 1, 7));
    let plain = description.build();
    let ranges = merged(&host, &plain, &[54 + 1000, 1000, 1000], &[vlan.into()]);
    let burst = receive(&mut queue, &mut host, &ranges);
    description.tags = vec![(0x8100, vlan.tci())];
    let frame = burst.get(0).unwrap();
    assert_eq!(frame.bytes, description.build());
    assert_eq!(frame.meta.coalesced.unwrap().segment_size, 1000);
    assert_eq!(queue.stats().extra.rx_coalesced, 1);
}

#[test]
fn a_merged_frame_longer_than_the_sink_is_dropped_and_counted() {
    let (mut queue, mut host) = pair(Setup::default());
    let frame = Description::new(ipv4(), tcp(1, ACK), payload(4000, 1, 7)).build();
    let ranges = merged(&host, &frame, &[1054, 1000, 1000, 1000], &[]);
    host.deliver(1, &ranges);
    let mut burst = Burst::new(8, 2048);
    assert_eq!(queue.receive(&mut burst, 8), Ok(0));
    assert_eq!((queue.stats().global.rx_no_memory, queue.stats().extra.rx_dropped), (1, 1));
    assert_eq!(host.acks(), [(1, 2)]);
}
