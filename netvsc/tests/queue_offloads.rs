//! Frames whose metadata asks for something: what the host gets to see where it granted it, and where it did not.

mod offers;
mod packets;
mod queue_host;

use std::path::PathBuf;

use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc::meta::{IpVersion, Segmentation, TxChecksum, TxMeta, Verdict, Vlan};
use netvsc::offload::{Checksums, OffloadSettings, Offloads};
use netvsc::queue::{QueueSettings, SendError};
use nvsp::{Status, Version};
use packets::{ACK, CWR, Description, FIN, PSH, Transport, ipv4, ipv6, payload, tcp};
use proptest::prelude::*;
use queue_host::{FromGuest, Host, Setup, TestQueue, hex, pair, pair_with};
use rndis::offload::{LsoTaskV2, Offload};
use rndis::packet::{Batch, BatchLimits, PacketMsg};
use rndis::ppi::PpiType;
use serde_json::Value;

/// All that a host can grant.
fn everything(settings: &OffloadSettings) -> Offloads {
    granted(settings, 0xF53C, 2)
}

/// The same with other limits of large send.
fn granted(settings: &OffloadSettings, max_size: u32, min_segments: u32) -> Offloads {
    let offered = offers::everything();
    let lso = LsoTaskV2 { max_size, min_segments, ..offered.lso_v2_v4 };
    let offered = Offload { lso_v2_v4: lso, lso_v2_v6: lso, ..offered };
    Offloads::agreed(Version::V6_1, &offered, settings)
}

/// With IPv4 header checksums, which the presets leave out.
fn all() -> Offloads {
    let mut settings = OffloadSettings::forwarding();
    settings.tx_checksum = Checksums::ALL;
    everything(&settings)
}

/// A queue of MTU 1500 with pages.
fn queue(offloads: Offloads) -> (TestQueue, Host) {
    let (mut queue, host) = pair(Setup { direct_pages: 64, ..Setup::default() });
    queue.attach_mtu(1500);
    queue.attach_offloads(offloads);
    (queue, host)
}

/// The request for all checksums of a frame.
fn sums(frame: &[u8]) -> TxMeta {
    TxMeta { checksum: checksum::request(frame, &Headers::parse(frame).unwrap()), ..TxMeta::default() }
}

fn cut(frame: &[u8], mss: u32) -> TxMeta {
    let headers = Headers::parse(frame).unwrap();
    let segmentation =
        Segmentation { ip: headers.ip(), mss, transport_offset: headers.transport() as u16, fixed_id: false };
    TxMeta { segmentation: Some(segmentation), ..TxMeta::default() }
}

/// Every message that the host got.
fn messages(host: &mut Host) -> Vec<Vec<u8>> {
    host.take().iter().flat_map(messages_of).collect()
}

/// The messages of a packet.
fn messages_of(packet: &FromGuest) -> Vec<Vec<u8>> {
    match packet {
        FromGuest::Section { bytes, .. } => {
            Batch::parse(bytes, &BatchLimits::NONE).unwrap().iter().map(|it| it.as_bytes().to_vec()).collect()
        }
        FromGuest::Direct { bytes, .. } => vec![bytes.clone()],
        _ => Vec::new(),
    }
}

/// The one message that the host got for one frame.
fn message(queue: &mut TestQueue, host: &mut Host, frame: &[u8], meta: &TxMeta) -> Vec<u8> {
    queue.send(frame, meta).unwrap();
    queue.flush().unwrap();
    let mut all = messages(host);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// A frame with rubbish where checksums belong.
fn spoilt(frame: &[u8]) -> Vec<u8> {
    let headers = Headers::parse(frame).unwrap();
    let mut frame = frame.to_vec();
    if headers.ip() == IpVersion::V4 {
        frame[headers.network() + 10..headers.network() + 12].fill(0xAB);
    }
    let field = headers.transport() + if headers.protocol().0 == 6 { 16 } else { 6 };
    frame[field..field + 2].fill(0xCD);
    frame
}

fn datagram(len: usize) -> Description {
    Description::new(ipv4(), Transport::Udp { with_checksum: true }, payload(len, 3, 7))
}

fn capture(folder: &str, name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/captures")
        .join(folder)
        .join(name)
        .with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The data messages of a recorded guest.
fn recorded(session: &Value) -> Vec<Vec<u8>> {
    let packets = session["events"].as_array().unwrap().iter().filter(|event| event["dir"] == "g2h");
    let data = packets.filter_map(|packet| {
        let message = packet["gpa"]["data"].as_str().or(packet["section"]["data"].as_str()).map(hex)?;
        Some(
            Batch::parse(&message, &BatchLimits::NONE)
                .ok()?
                .iter()
                .map(|it| it.as_bytes().to_vec())
                .collect::<Vec<_>>(),
        )
    });
    data.flatten().collect()
}

/// The metadata that a recorded message was made from.
fn meta_of(message: &PacketMsg<'_>) -> TxMeta {
    let checksum = message.tx_checksum().map(|word| TxChecksum {
        ip: if word.is_ipv6() { IpVersion::V6 } else { IpVersion::V4 },
        ip_header: word.ip_header(),
        transport: match (word.tcp(), word.udp()) {
            (true, _) => Some(rndis::ppi::Transport::Tcp),
            (_, true) => Some(rndis::ppi::Transport::Udp),
            _ => None,
        },
        transport_offset: word.header_offset(),
    });
    let segmentation = message.lso().map(|word| Segmentation {
        ip: word.ip_version(),
        mss: word.mss(),
        transport_offset: word.header_offset(),
        fixed_id: false,
    });
    TxMeta { checksum, segmentation, vlan: message.vlan(), hash: message.hash_value() }
}

#[test]
fn a_recorded_guests_requests_come_out_byte_for_byte() {
    let session = capture("netvsp-host", "offload");
    let (mut queue, mut host) = queue(all());
    let mut requests = [0; 3];
    for theirs in recorded(&session) {
        let Ok(packet) = PacketMsg::parse(&theirs) else { continue };
        let meta = meta_of(&packet);
        let ours = message(&mut queue, &mut host, packet.data(), &meta);
        if packet.ppis().iter().any(|ppi| ppi.kind == PpiType::HASH_INFO) {
            // That guest sent the hash under this number, which guests do not use.
            let ours = PacketMsg::parse(&ours).unwrap();
            assert_eq!(
                (ours.data(), ours.vlan(), ours.tx_checksum()),
                (packet.data(), packet.vlan(), packet.tx_checksum())
            );
        } else {
            assert_eq!(ours, theirs, "{meta:?}");
        }
        requests[0] += usize::from(meta.checksum.is_some());
        requests[1] += usize::from(meta.segmentation.is_some());
        requests[2] += usize::from(meta.vlan.is_some());
    }
    assert_eq!(requests, [3, 3, 2]);
    let stats = queue.stats().extra;
    assert_eq!((stats.tx_checksum_host, stats.tx_lso, stats.tx_cut, stats.tx_checksum_software), (3, 3, 0, 0));
}

#[test]
fn what_the_linux_kernel_took_from_a_recorded_guest_is_what_we_send() {
    let (mut queue, mut host) = queue(all());
    let mut asked = 0;
    for mut theirs in recorded(&capture("netvsp-host", "tap-linux")) {
        let (meta, frame, by_host) = {
            let Ok(packet) = PacketMsg::parse(&theirs) else { continue };
            (meta_of(&packet), packet.data().to_vec(), packet.tx_checksum().is_some_and(|word| word.ip_header()))
        };
        let ours = message(&mut queue, &mut host, &frame, &meta);
        if by_host {
            // That guest left the sum in the field; we leave nothing there that a host might add to.
            let at = theirs.len() - frame.len() + 24;
            theirs[at..at + 2].fill(0);
        }
        assert_eq!(ours, theirs, "{meta:?}");
        asked += usize::from(meta.checksum.is_some()) + usize::from(meta.segmentation.is_some());
    }
    assert_eq!(asked, 2, "one checksum, one large send");
}

#[test]
fn dpdks_requests_are_ours_but_for_what_it_leaves_unprepared() {
    for (name, kinds) in [
        ("csum-hw", &[PpiType::CHECKSUM][..]),
        ("csum-hw-ip-only", &[PpiType::CHECKSUM]),
        ("tso-500", &[PpiType::LSO]),
        ("tso-100", &[PpiType::LSO]),
        ("vlan-insert", &[PpiType::IEEE_8021Q]),
        ("vlan-inband", &[PpiType::IEEE_8021Q]),
    ] {
        let (mut queue, mut host) = queue(all());
        let mut seen = 0;
        for theirs in recorded(&capture("dpdk-guest", name)) {
            let Ok(packet) = PacketMsg::parse(&theirs) else { continue };
            let kind = |ppi: &rndis::ppi::Ppi<'_>| kinds.contains(&ppi.kind);
            if !packet.ppis().iter().any(|ppi| kind(&ppi)) {
                continue;
            }
            seen += 1;
            let meta = meta_of(&packet);
            let ours = message(&mut queue, &mut host, packet.data(), &meta);
            let ours = PacketMsg::parse(&ours).unwrap();
            let words =
                |packet: &PacketMsg<'_>| packet.ppis().iter().map(|ppi| (ppi.kind, ppi.word())).collect::<Vec<_>>();
            // Beside a tag that was in band DPDK counts its 4 bytes all the same.
            let moved = meta.vlan.is_some() && name != "vlan-insert";
            let fixed = words(&packet).into_iter().map(|(kind, word)| match kind {
                PpiType::CHECKSUM if moved => (kind, word - (4 << 16)),
                PpiType::LSO if moved => (kind, word - (4 << 20)),
                _ => (kind, word),
            });
            let in_hardware = words(&ours);
            let fixed: Vec<_> = fixed.collect();
            // The segments that DPDK leaves to the host although there is one only are none to us.
            if in_hardware.iter().any(|(kind, _)| kinds.contains(kind)) {
                assert_eq!(in_hardware, fixed, "{name}");
            } else {
                assert!(meta.segmentation.is_some_and(|cut| packet.data().len() < cut.mss as usize + 80), "{name}");
            }
            assert_eq!(ours.data()[..12], packet.data()[..12]);
            let headers = Headers::parse(ours.data()).unwrap();
            let behind = headers.transport() + 18;
            assert_eq!(
                ours.data()[behind..],
                packet.data()[behind + packet.data().len() - ours.data().len()..],
                "{name}: headers alone differ"
            );
        }
        assert!(seen >= 3, "{name}: {seen}");
    }
}

#[test]
fn vectors_of_seeds_and_sums() {
    let text = include_str!("vectors/checksum/transport.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let mut seen = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let (Some(seeded), Some(done)) = (vector["frame_seeded_hex"].as_str(), vector["frame_final_hex"].as_str())
        else {
            continue;
        };
        let (seeded, done) = (hex(seeded), hex(done));
        let mut meta = sums(&done);
        if let Some(checksum) = &mut meta.checksum {
            checksum.ip_header = false;
        }
        if meta.checksum.is_none_or(|checksum| checksum.transport.is_none()) {
            continue;
        }
        seen += 1;
        let (mut queue, mut host) = queue(Offloads::NONE);
        let ours = message(&mut queue, &mut host, &seeded, &meta);
        assert_eq!(PacketMsg::parse(&ours).unwrap().data(), done, "{}: in software", vector["name"]);
        queue.attach_offloads(all());
        let ours = message(&mut queue, &mut host, &done, &meta);
        let ours = PacketMsg::parse(&ours).unwrap();
        if Headers::parse(&done).unwrap().has_options() {
            assert_eq!(
                (ours.tx_checksum(), ours.data()),
                (None, &done[..]),
                "{}: never left to the host",
                vector["name"]
            );
            continue;
        }
        assert_eq!(ours.data(), seeded, "{}: seeded", vector["name"]);
        if let Some(word) = vector["ppi_tx_checksum"].as_str() {
            assert_eq!(format!("0x{:08x}", ours.tx_checksum().unwrap().0), word);
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn vectors_of_segmentation() {
    let text = include_str!("vectors/checksum/lso.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    for vector in vectors["vectors"].as_array().unwrap() {
        let frame = hex(vector["frame_hex"].as_str().unwrap());
        let mss = vector["mss"].as_u64().or(vector["expect"]["mss"].as_u64());
        let Some(mss) = mss else { panic!("{:?}", vector.as_object().unwrap().keys()) };
        let meta = cut(&frame, mss as u32);
        let headers = Headers::parse(&frame).unwrap();
        let (mut queue, mut host) = queue(all());
        if !headers.has_options() && frame.len() > mss as usize + 100 {
            let ours = message(&mut queue, &mut host, &frame, &meta);
            let ours = PacketMsg::parse(&ours).unwrap();
            assert_eq!(ours.data(), frame, "{}: prepared as it was", vector["name"]);
            assert_eq!(ours.lso().map(|word| word.mss()), Some(mss as u32));
        }
        queue.attach_offloads(Offloads::NONE);
        queue.send(&frame, &meta).unwrap();
        queue.flush().unwrap();
        let segments: Vec<_> =
            messages(&mut host).iter().map(|message| PacketMsg::parse(message).unwrap().data().to_vec()).collect();
        let expected = vector["expect"]["segments_hex"].as_array().or(vector["segments_hex"].as_array());
        let expected: Vec<_> = expected.unwrap().iter().map(|it| hex(it.as_str().unwrap())).collect();
        assert_eq!(segments, expected, "{}", vector["name"]);
    }
}

#[test]
fn the_host_gets_no_more_than_it_granted() {
    let frames = [
        Description::new(ipv4(), tcp(1, ACK), payload(101, 1, 1)),
        datagram(101),
        Description::new(ipv6(), tcp(1, ACK), payload(101, 1, 1)),
        Description::new(ipv6(), Transport::Udp { with_checksum: true }, payload(100, 1, 1)),
    ];
    for granted in 0..32u32 {
        let bit = |at: u32| granted & 1 << at != 0;
        let mut settings = OffloadSettings::off();
        settings.tx_checksum =
            Checksums { tcp_v4: bit(0), udp_v4: bit(1), tcp_v6: bit(2), udp_v6: bit(3), ipv4_header: bit(4) };
        let (mut queue, mut host) = queue(everything(&settings));
        for (at, description) in frames.iter().enumerate() {
            let done = description.build();
            let ours = message(&mut queue, &mut host, &spoilt(&done), &sums(&done));
            let ours = PacketMsg::parse(&ours).unwrap();
            let word = ours.tx_checksum();
            let is_v4 = at < 2;
            assert_eq!(word.is_some_and(|word| word.tcp() || word.udp()), bit(at as u32));
            assert_eq!(word.is_some_and(|word| word.ip_header()), is_v4 && bit(4));
            if word.is_none() {
                assert_eq!(ours.data(), done);
            }
        }
        assert_eq!(queue.stats().extra.tx_checksum_host, u64::from((granted & 15).count_ones()));
        assert_eq!(queue.stats().extra.tx_checksum_software, 4 - u64::from((granted & 15).count_ones()));
    }
}

#[test]
fn extension_headers_options_and_tags_are_summed_here() {
    let mut extended = Description::new(ipv6(), tcp(9, ACK), payload(33, 1, 3));
    if let packets::Ip::V6 { extensions, .. } = &mut extended.ip {
        *extensions = vec![(0, vec![0; 6]), (60, vec![1, 4, 0, 0, 0, 0])];
    }
    let mut options = Description::new(ipv4(), tcp(9, ACK), payload(34, 1, 3));
    if let packets::Ip::V4 { options, .. } = &mut options.ip {
        *options = vec![1, 1, 1, 0];
    }
    for description in [extended, options] {
        let (mut queue, mut host) = queue(all());
        let done = description.build();
        let ours = message(&mut queue, &mut host, &spoilt(&done), &sums(&done));
        let ours = PacketMsg::parse(&ours).unwrap();
        assert_eq!((ours.tx_checksum(), ours.data()), (None, &done[..]));
    }
}

#[test]
fn fragments_are_left_as_they_are() {
    let mut done = datagram(64).build();
    done[20] |= 0x20;
    let (mut queue, mut host) = queue(all());
    for offloads in [all(), Offloads::NONE] {
        queue.attach_offloads(offloads);
        let transport = TxChecksum {
            ip: IpVersion::V4,
            ip_header: true,
            transport: Some(rndis::ppi::Transport::Udp),
            transport_offset: 34,
        };
        let meta = TxMeta { checksum: Some(transport), ..TxMeta::default() };
        let ours = message(&mut queue, &mut host, &done, &meta);
        let ours = PacketMsg::parse(&ours).unwrap();
        assert_eq!(ours.data()[34..], done[34..]);
        assert!(ours.tx_checksum().is_none_or(|word| word.0 == 0x11));
        if ours.tx_checksum().is_none() {
            assert_eq!(checksum::verify(ours.data()).ip, Verdict::Good);
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    // The last two bytes of the payload make the sum come out as zero.
    let mut description = datagram(10);
    description.payload[8..].fill(0);
    let sum = {
        let frame = description.build();
        u16::from_be_bytes([frame[40], frame[41]])
    };
    description.payload[8..].copy_from_slice(&sum.to_be_bytes());
    let mut frame = description.build();
    frame[40..42].fill(0);
    let (mut queue, mut host) = queue(Offloads::NONE);
    let ours = message(&mut queue, &mut host, &frame, &sums(&description.build()));
    assert_eq!(PacketMsg::parse(&ours).unwrap().data()[40..42], [0xFF, 0xFF]);
}

#[test]
fn what_the_metadata_says_and_the_frame_is_not_is_refused() {
    let (mut queue, mut host) = queue(all());
    let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    let udp = datagram(64).build();
    let as_tcp = TxChecksum {
        ip: IpVersion::V4,
        ip_header: false,
        transport: Some(rndis::ppi::Transport::Tcp),
        transport_offset: 34,
    };
    let meta = |checksum| TxMeta { checksum: Some(checksum), ..TxMeta::default() };
    assert!(matches!(queue.send(&arp, &meta(as_tcp)), Err(SendError::Checksum(_))));
    assert!(matches!(queue.send(&udp, &meta(as_tcp)), Err(SendError::Checksum(_))));
    assert!(matches!(queue.send(&udp[..36], &meta(as_tcp)), Err(SendError::Checksum(_))));
    assert!(matches!(queue.send(&udp, &meta(TxChecksum { ip: IpVersion::V6, ..as_tcp })), Err(SendError::Checksum(_))));
    let cut = Segmentation { ip: IpVersion::V4, mss: 1000, transport_offset: 34, fixed_id: false };
    let meta = |cut| TxMeta { segmentation: Some(cut), ..TxMeta::default() };
    assert!(matches!(queue.send(&arp, &meta(cut)), Err(SendError::Segmentation(_))));
    assert!(matches!(queue.send(&udp, &meta(Segmentation { mss: 0, ..cut })), Err(SendError::Segmentation(_))));
    let long = datagram(3000).build();
    let too_long = queue.send(&long, &meta(Segmentation { mss: 1473, ..cut }));
    assert_eq!(too_long, Err(SendError::TooLong { len: 1515, limit: 1514 }), "segments do not fit the MTU");
    assert!(messages(&mut host).is_empty() && queue.outstanding() == 0, "what was refused took nothing");
}

#[test]
fn tags_go_beside_the_frame_and_the_inner_one_stays() {
    let (mut queue, mut host) = queue(all());
    let mut description = datagram(50);
    let plain = description.build();
    description.tags = vec![(0x8100, 5 << 13 | 100)];
    let tagged = description.build();
    let ours = message(&mut queue, &mut host, &tagged, &TxMeta::default());
    let ours = PacketMsg::parse(&ours).unwrap();
    assert_eq!((ours.vlan(), ours.data()), (Some(Vlan::new(100, 5, false)), &plain[..]));
    // Priority only.
    description.tags = vec![(0x8100, 3 << 13)];
    let ours = message(&mut queue, &mut host, &description.build(), &TxMeta::default());
    let ours = PacketMsg::parse(&ours).unwrap();
    assert_eq!((ours.vlan(), ours.data()), (Some(Vlan::new(0, 3, false)), &plain[..]));
    // Two tags: the outer one goes.
    description.tags = vec![(0x8100, 100), (0x8100, 200)];
    let ours = message(&mut queue, &mut host, &description.build(), &TxMeta::default());
    let ours = PacketMsg::parse(&ours).unwrap();
    description.tags.remove(0);
    assert_eq!((ours.vlan().unwrap().id(), ours.data()), (100, &description.build()[..]));
    // One beside the frame already: the one in it is the inner one.
    let beside = TxMeta { vlan: Some(Vlan::new(7, 0, false)), ..TxMeta::default() };
    let ours = message(&mut queue, &mut host, &description.build(), &beside);
    let ours = PacketMsg::parse(&ours).unwrap();
    assert_eq!((ours.vlan().unwrap().id(), ours.data()), (7, &description.build()[..]));
    // With checksums: the host counts from the frame that it sees.
    let done = description.build();
    let ours = message(&mut queue, &mut host, &done, &sums(&done));
    let ours = PacketMsg::parse(&ours).unwrap();
    assert_eq!((ours.tx_checksum().unwrap().header_offset(), ours.data().len()), (34, done.len() - 4));
    // A tag that is cut off.
    assert!(queue.send(&tagged[..17], &TxMeta::default()).is_err());
    assert_eq!(queue.stats().global.vlan_error, 1);
}

#[test]
fn a_frame_may_be_longer_by_two_tags_that_stay_in_it() {
    let mut settings = QueueSettings::default();
    settings.tags_in_band = true;
    for tags in 0..=3 {
        let (mut queue, mut host) = pair_with(Setup::default(), settings);
        queue.attach_mtu(1500);
        let mut description = datagram(1472);
        description.tags = vec![(0x8100, 100); tags];
        let frame = description.build();
        assert_eq!(frame.len(), 1514 + 4 * tags);
        match queue.send(&frame, &TxMeta::default()) {
            Ok(()) => assert_eq!((tags <= 2, run(&mut queue, &mut host)), (true, vec![frame])),
            Err(error) => assert_eq!((tags, error), (3, SendError::TooLong { len: 1526, limit: 1522 })),
        }
    }
}

#[test]
fn large_frames_go_to_the_host_in_one_piece_up_to_its_limits() {
    let (mut queue, mut host) = queue(all());
    let frame = |len: usize| Description::new(ipv4(), tcp(5, ACK | PSH), payload(len, 1, 7)).build();
    // The largest that the host takes: by pages, and counted as one packet.
    let most = frame(0xF53C - 54);
    queue.send(&most, &cut(&most, 1460)).unwrap();
    queue.flush().unwrap();
    let packets = host.take();
    let [FromGuest::Direct { pages: 16, bytes, .. }] = &packets[..] else { panic!("{} packets", packets.len()) };
    let sent = PacketMsg::parse(bytes).unwrap();
    assert_eq!((sent.lso().unwrap().mss(), sent.data().len()), (1460, 0xF53C));
    assert_eq!((&sent.data()[16..18], &sent.data()[24..26]), (&[0, 0][..], &[0, 0][..]), "length and checksum");
    host.complete(packets[0].id(), Status::SUCCESS);
    queue.pump().unwrap();
    assert_eq!((queue.stats().tx.packets, queue.stats().tx.bytes), (1, 0xF53C));
    // One byte more, a size the host does not take: a piece of as many segments as it takes, and what is left.
    let more = frame(0xF53C - 53);
    queue.send(&more, &cut(&more, 1460)).unwrap();
    queue.flush().unwrap();
    let got = messages(&mut host);
    let got: Vec<_> = got.iter().map(|message| PacketMsg::parse(message).unwrap()).collect();
    let [piece, rest] = &got[..] else { panic!("{} messages", got.len()) };
    assert_eq!((piece.lso().unwrap().mss(), piece.data().len()), (1460, 54 + 42 * 1460));
    assert_eq!((rest.lso(), rest.data().len()), (None, 54 + (0xF53C - 53 - 42 * 1460)));
    let extra = queue.stats().extra;
    assert_eq!((extra.tx_lso, extra.tx_cut, extra.tx_cut_segments), (2, 1, 1));
    // What has no more than one segment is only summed.
    let (mut queue, mut host) = self::queue(all());
    let small = frame(1000);
    let ours = message(&mut queue, &mut host, &spoilt(&small), &cut(&small, 1460));
    assert_eq!(PacketMsg::parse(&ours).unwrap().data(), small);
}

/// Runs a host that completes everything, until nothing is left; the frames that it saw.
fn run(queue: &mut TestQueue, host: &mut Host) -> Vec<Vec<u8>> {
    let messages = run_for_messages(queue, host);
    messages.iter().map(|message| PacketMsg::parse(message).unwrap().data().to_vec()).collect()
}

/// As [`run`]; the messages.
fn run_for_messages(queue: &mut TestQueue, host: &mut Host) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for turn in 0.. {
        assert!(turn < 10_000, "no end");
        queue.flush().unwrap();
        let packets = host.take();
        if packets.is_empty() && queue.outstanding() == 0 {
            return messages;
        }
        for packet in packets {
            messages.extend(messages_of(&packet));
            host.complete(packet.id(), Status::SUCCESS);
        }
        queue.pump().unwrap();
    }
    unreachable!()
}

#[test]
fn a_frame_that_is_cut_waits_for_room_with_what_is_left_of_it() {
    for (send_sections, direct_pages) in [(1, 0), (2, 0), (2, 3), (0, 1), (8, 64)] {
        let setup = Setup { send_sections, direct_pages, ..Setup::default() };
        let (mut queue, mut host) = pair(setup);
        queue.attach_mtu(1500);
        let description = Description::new(ipv6(), tcp(u32::MAX - 10, ACK | FIN), payload(65_000, 1, 7));
        let frame = description.build();
        let expected: Vec<_> = description.cut(1440, false).iter().map(Description::build).collect();
        assert!(queue.can_send(frame.len()));
        queue.send(&frame, &cut(&frame, 1440)).unwrap();
        if send_sections < 8 {
            assert!(!queue.can_send(60), "what is left goes first");
            assert_eq!(queue.send(&frame, &cut(&frame, 1440)), Err(SendError::Full));
            assert_eq!(queue_host::send(&mut queue, &frame[..60]), Err(SendError::Full));
        }
        let frames = run(&mut queue, &mut host);
        assert_eq!(frames, expected, "{send_sections} sections, {direct_pages} pages");
        assert_eq!(queue.stats().extra.tx_cut_segments, expected.len() as u64);
        assert_eq!(queue.stats().tx.packets, expected.len() as u64, "each is a packet");
        assert!(queue.can_send(frame.len()));
        queue_host::send(&mut queue, &frame[..60]).unwrap();
    }
}

#[test]
fn a_frame_that_is_being_cut_goes_on_when_the_ring_has_room() {
    // A ring of one page, full of packets that the host has not read.
    let (mut queue, mut host) = pair(Setup { ring_bytes: 4096, send_sections: 200, ..Setup::default() });
    queue.attach_mtu(1500);
    let description = Description::new(ipv4(), tcp(1, ACK), payload(60_000, 1, 7));
    let frame = description.build();
    while queue.can_send(1000) {
        queue_host::send(&mut queue, &[2; 1000]).unwrap();
        queue.flush().unwrap();
    }
    assert_eq!(queue.send(&frame, &cut(&frame, 1460)), Err(SendError::Full));
    let first = host.next().unwrap();
    host.commit();
    queue.send(&frame, &cut(&frame, 1460)).unwrap();
    assert!(!queue.arm().unwrap() && queue.outstanding() > 0);
    host.take();
    assert!(host.consumer.commit().is_ok());
    // No completion, only room: whoever is interrupted pumps.
    queue.pump().unwrap();
    assert!(!host.take().is_empty(), "it went on");
    host.complete(first.id(), Status::SUCCESS);
    queue.pump().unwrap();
}

#[test]
fn a_frame_that_is_being_cut_goes_out_whole_though_its_queue_pauses() {
    let (mut queue, mut host) = pair(Setup { send_sections: 2, ..Setup::default() });
    queue.attach_mtu(1500);
    let description = Description::new(ipv4(), tcp(1, ACK), payload(60_000, 1, 7));
    let frame = description.build();
    queue.send(&frame, &cut(&frame, 1460)).unwrap();
    queue.pause().unwrap();
    let expected: Vec<_> = description.cut(1460, false).iter().map(Description::build).collect();
    assert_eq!(run(&mut queue, &mut host), expected);
    assert!(queue.is_paused() && !queue.can_send(60));
    assert_eq!(queue.outstanding(), 0);
}

#[test]
fn what_is_left_of_a_frame_is_lost_with_the_buffers_and_counted() {
    let (mut queue, _host) = pair(Setup { send_sections: 1, ..Setup::default() });
    queue.attach_mtu(1500);
    let frame = datagram(60_000).build();
    queue.send(&frame, &cut(&frame, 1472)).unwrap();
    assert_eq!(queue.outstanding(), 2);
    assert!(queue.detach_buffers().frames >= 2);
    assert_eq!(queue.outstanding(), 0);
}

#[test]
fn tags_are_taken_out_of_segments_too() {
    let mut description = datagram(4000);
    description.tags = vec![(0x8100, 2 << 13 | 9)];
    let frame = description.build();
    let (mut queue, mut host) = queue(all());
    queue.send(&frame, &cut(&frame, 1000)).unwrap();
    queue.flush().unwrap();
    let got = messages(&mut host);
    description.tags.clear();
    let expected = description.cut(1000, false);
    assert_eq!(got.len(), expected.len());
    for (message, expected) in got.iter().zip(expected) {
        let message = PacketMsg::parse(message).unwrap();
        assert_eq!((message.vlan(), message.data()), (Some(Vlan::new(9, 2, false)), &expected.build()[..]));
    }
}

#[test]
fn longer_frames_than_the_copybreak_go_from_pages() {
    let mut settings = netvsc::queue::QueueSettings::default();
    settings.tx_copybreak = 512;
    let (mut queue, mut host) = queue_host::pair_with(Setup { direct_pages: 1, ..Setup::default() }, settings);
    for len in [512, 513, 513] {
        queue_host::send(&mut queue, &vec![2; len]).unwrap();
    }
    queue.flush().unwrap();
    let packets = host.take();
    let direct: Vec<_> = packets.iter().map(|packet| matches!(packet, FromGuest::Direct { .. })).collect();
    assert_eq!(direct, [false, true, false], "no page was left for the last");
}

/// What a host makes of a large frame.
fn cut_by_host(mut segments: netvsc::segment::Segments<'_>) -> Vec<Vec<u8>> {
    let mut out = vec![0; 2048];
    let next = || segments.next_into(&mut out).unwrap().map(|len| out[..len].to_vec());
    std::iter::from_fn(next).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No frame makes the queue panic, and what is refused takes nothing.
    #[test]
    fn any_bytes_with_any_request(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        real in prop::option::of(packets::any_description(300)),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        type_and_version in prop_oneof![
            Just([0x08, 0x00, 0x45]), Just([0x86, 0xDD, 0x60]), Just([0x81, 0x00, 0x00]), any::<[u8; 3]>()
        ],
        (v6, udp, ip_header, with_transport) in any::<(bool, bool, bool, bool)>(),
        mss in prop::option::of(prop_oneof![0u32..2000, any::<u32>()]),
        tags_in_band in any::<bool>(),
        granted in any::<bool>(),
    ) {
        let mut frame = real.map_or(bytes, |description| description.build());
        if frame.len() >= 15 && changes.is_empty() {
            frame[12..15].copy_from_slice(&type_and_version);
        }
        for (at, byte) in changes {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
        }
        let ip = if v6 { IpVersion::V6 } else { IpVersion::V4 };
        let transport = if udp { rndis::ppi::Transport::Udp } else { rndis::ppi::Transport::Tcp };
        let checksum = TxChecksum { ip, ip_header, transport: with_transport.then_some(transport), transport_offset: 34 };
        let segmentation = mss.map(|mss| Segmentation { ip, mss, transport_offset: 34, fixed_id: ip_header });
        let meta = TxMeta { checksum: Some(checksum), segmentation, ..TxMeta::default() };
        let mut settings = netvsc::queue::QueueSettings::default();
        settings.tags_in_band = tags_in_band;
        let (mut queue, mut host) = queue_host::pair_with(Setup { direct_pages: 64, ..Setup::default() }, settings);
        queue.attach_mtu(1500);
        queue.attach_offloads(if granted { all() } else { Offloads::NONE });
        let sent = queue.send(&frame, &meta);
        queue.flush().unwrap();
        prop_assert_eq!(sent.is_err(), host.take().is_empty());
        prop_assert_eq!(sent.is_err(), queue.outstanding() == 0);
    }

    /// Frames that are longer than the host cuts at a time go to it in pieces: within its limits, and on the wire the same as
    /// segments that are cut here, however little room there is.
    #[test]
    fn long_frames_in_pieces_are_the_same_on_the_wire(
        v6 in any::<bool>(),
        tag in prop::option::of(Just((0x8100, 7))),
        flags in prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR]),
        (len, sequence, mss) in (3000usize..65_000, any::<u32>(), 100u32..1440),
        (max_size, min_segments) in (1514u32..0x1_0000, 0u32..6),
        (send_sections, direct_pages) in (1u32..8, prop_oneof![Just(0usize), 1usize..20, Just(64)]),
    ) {
        let mut description = Description::new(if v6 { ipv6() } else { ipv4() }, tcp(sequence, flags), payload(len, 1, 7));
        description.tags.extend(tag);
        let frame = description.build();
        let (mut queue, mut host) = pair(Setup { send_sections, direct_pages, ..Setup::default() });
        queue.attach_mtu(1500);
        queue.attach_offloads(granted(&OffloadSettings::forwarding(), max_size, min_segments));
        queue.send(&spoilt(&frame), &cut(&frame, mss)).unwrap();
        let mut got = Vec::new();
        let messages = run_for_messages(&mut queue, &mut host);
        let pieces = messages.len();
        for message in messages {
            let message = PacketMsg::parse(&message).unwrap();
            prop_assert_eq!(message.vlan().is_some(), tag.is_some());
            let Some(lso) = message.lso() else {
                got.push(message.data().to_vec());
                continue;
            };
            let segments = netvsc::segment::Segments::new(message.data(), lso.mss() as usize).unwrap();
            prop_assert!(message.data().len() <= max_size as usize, "{} bytes", message.data().len());
            prop_assert!(segments.count() >= min_segments.max(2) as usize, "{} segments", segments.count());
            got.extend(cut_by_host(segments));
        }
        description.tags.clear();
        let expected: Vec<_> = description.cut(mss as usize, false).iter().map(Description::build).collect();
        prop_assert!(got == expected, "{} of {} segments in {} pieces", got.len(), expected.len(), pieces);
        // With room for it, no piece is smaller than it has to be.
        if direct_pages == 64 && min_segments <= 2 {
            let most = ((max_size as usize).min(0xFFFF) - (frame.len() - len)) / mss as usize;
            prop_assert!(pieces <= expected.len().div_ceil(most.max(1)) + 1, "{} pieces of {}", pieces, most);
        }
    }

    /// Whatever is asked for and granted, the frames that a host would put on the wire are the same.
    #[test]
    fn with_any_grant_the_frames_on_the_wire_are_the_same(
        description in packets::any_description(4000),
        // A segment is no longer than a frame may be, behind any headers: two tags, the longest of IP and TCP.
        mss in 200u32..=1514 - (14 + 2 * 4 + 60 + 60),
        host_sums in any::<bool>(),
    ) {
        let done = description.build();
        let Some(headers) = Headers::parse(&done) else { return Ok(()) };
        let large = done.len() > 1514;
        let meta = if large { cut(&done, mss) } else { sums(&done) };
        prop_assume!(large || headers.transport_protocol().is_some());
        let (mut queue, mut host) = queue(if host_sums { all() } else { Offloads::NONE });
        queue.send(&spoilt(&done), &meta).unwrap();
        let mut expected = description.clone();
        let popped = expected.tags.first().is_some_and(|tag| tag.0 == 0x8100);
        if popped {
            expected.tags.remove(0);
        }
        let expected: Vec<_> = if large {
            expected.cut(mss as usize, false).iter().map(Description::build).collect()
        } else {
            vec![expected.build()]
        };
        queue.flush().unwrap();
        let mut got = Vec::new();
        for message in messages(&mut host) {
            let message = PacketMsg::parse(&message).unwrap();
            prop_assert_eq!(message.vlan().is_some(), popped);
            let mut frame = message.data().to_vec();
            // What a host does.
            if let Some(lso) = message.lso() {
                got.extend(cut_by_host(netvsc::segment::Segments::new(&frame, lso.mss() as usize).unwrap()));
                continue;
            }
            if let Some(word) = message.tx_checksum() {
                let request = meta_of(&message).checksum.unwrap();
                prop_assert_eq!(usize::from(word.header_offset()), headers.transport() - if popped { 4 } else { 0 });
                checksum::fill(&mut frame, request).unwrap();
            }
            got.push(frame);
        }
        // A datagram without checksum gets one, as it was asked for.
        let with_sum = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            if let Some(request) = sums(&frame).checksum {
                checksum::fill(&mut frame, request).unwrap();
            }
            frame
        };
        prop_assert_eq!(got, expected.iter().map(with_sum).collect::<Vec<_>>());
    }
}
