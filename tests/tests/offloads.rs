//! Offloads between the driver and the simulated host: whatever is granted, the frames on the wire are the same.

use futures::{SinkExt, StreamExt};
use netvsc::checksum;
use netvsc::frame::{Headers, Protocol};
use netvsc::meta::{IpVersion, Segmentation, TxMeta, Verdict};
use netvsc::offload::Checksums;
use netvsc_async::testing::Pair;
use netvsc_async::{Event, Nic, OffloadSettings, Offloads, Packet};
use netvsc_host::fault::{Fault, When};
use netvsc_host::{Host, NicOptions, Profile, profile};
use netvsc_tests::frames::FAR;
use netvsc_tests::rig::{self, paused};
use vmbus::mem::MemBus;

/// Headers before the payload of TCP over IPv4, without options.
const TCP_V4: usize = 54;

/// A frame of TCP or UDP whose checksums are right.
fn frame(from: [u8; 6], to: [u8; 6], ip: IpVersion, protocol: Protocol, number: u32, payload: usize) -> Vec<u8> {
    let (ethertype, network) = match ip {
        IpVersion::V4 => ([0x08, 0x00], 20),
        IpVersion::V6 => ([0x86, 0xDD], 40),
    };
    let transport = if protocol == Protocol::TCP { 20 } else { 8 };
    let mut frame = [&to[..], &from, &ethertype].concat();
    frame.resize(14 + network + transport, 0);
    frame.extend((0..payload).map(|at| (at as u32 * 7 + at as u32 / 251 + number) as u8));
    let len = frame.len() - 14;
    let header = &mut frame[14..14 + network];
    match ip {
        IpVersion::V4 => {
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            header[4..6].copy_from_slice(&(number as u16).to_be_bytes());
            (header[6], header[8], header[9]) = (0x40, 64, protocol.0);
            header[12..20].copy_from_slice(&[198, 51, 100, 1, 203, 0, 113, 2]);
        }
        IpVersion::V6 => {
            (header[0], header[6], header[7]) = (0x60, protocol.0, 64);
            header[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            header[8..12].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
            header[24..28].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
            (header[23], header[39]) = (1, 2);
        }
    }
    let segment = &mut frame[14 + network..];
    segment[..4].copy_from_slice(&[0x9C, 0x40, 0x01, 0xBB]);
    if protocol == Protocol::TCP {
        segment[4..8].copy_from_slice(&number.to_be_bytes());
        (segment[12], segment[13], segment[15]) = (0x50, 0x18, 0xFF);
    } else {
        let len = segment.len() as u16;
        segment[4..6].copy_from_slice(&len.to_be_bytes());
    }
    let request = checksum::request(&frame, &Headers::parse(&frame).unwrap()).unwrap();
    checksum::fill(&mut frame, request).unwrap();
    frame
}

const KINDS: [(IpVersion, Protocol); 4] = [
    (IpVersion::V4, Protocol::TCP),
    (IpVersion::V4, Protocol::UDP),
    (IpVersion::V6, Protocol::TCP),
    (IpVersion::V6, Protocol::UDP),
];

/// The same with rubbish in its transport checksum.
fn spoilt(frame: &[u8]) -> Vec<u8> {
    let headers = Headers::parse(frame).unwrap();
    let mut frame = frame.to_vec();
    let at = headers.transport() + if headers.protocol() == Protocol::TCP { 16 } else { 6 };
    frame[at] ^= 0x55;
    frame
}

/// Requests all checksums.
fn sums(frame: &[u8]) -> TxMeta {
    TxMeta { checksum: checksum::request(frame, &Headers::parse(frame).unwrap()), ..TxMeta::default() }
}

fn cut(frame: &[u8], mss: u32) -> TxMeta {
    let headers = Headers::parse(frame).unwrap();
    let transport_offset = headers.transport() as u16;
    let segmentation = Segmentation { ip: headers.ip(), mss, transport_offset, fixed_id: false };
    TxMeta { segmentation: Some(segmentation), ..TxMeta::default() }
}

/// Receives segments until all of `whole`'s payload has come; each is right, and no longer than the MTU allows.
async fn assert_segments(pair: &Pair, whole: &[u8], mss: usize, context: &str) {
    let headers = Headers::parse(whole).unwrap();
    let start = headers.payload(whole).unwrap();
    let mut payload = Vec::new();
    while payload.len() < whole.len() - start {
        let segment = pair.far.recv().await.unwrap();
        let found = Headers::parse(&segment).unwrap();
        let verdict = checksum::verify(&segment);
        let ip = if headers.ip() == IpVersion::V4 { Verdict::Good } else { Verdict::Unknown };
        assert_eq!((verdict.ip, verdict.transport), (ip, Verdict::Good), "{context}");
        assert_eq!(found.transport(), headers.transport(), "{context}");
        assert!(segment.len() <= start + mss, "{context}: {} bytes", segment.len());
        if headers.protocol() == Protocol::TCP {
            let sequence = |frame: &[u8]| u32::from_be_bytes(frame[start - 16..start - 12].try_into().unwrap());
            assert_eq!(sequence(&segment), sequence(whole).wrapping_add(payload.len() as u32), "{context}");
        }
        payload.extend_from_slice(&segment[start..found.end()]);
    }
    assert!(payload == whole[start..], "{context}: the payload is another");
}

/// Hosts by what they offer.
fn hosts() -> [(&'static str, profile::Offloads); 4] {
    [
        ("none", profile::Offloads::NONE),
        ("checksums", profile::Offloads::CHECKSUMS),
        ("2012 R2", profile::Offloads::WS2012R2),
        ("all", profile::Offloads::ALL),
    ]
}

#[test]
fn frames_that_ask_for_checksums_or_segments_arrive_right_whoever_computes() {
    for (name, offered) in hosts() {
        for (wish, settings) in [("all", OffloadSettings::forwarding()), ("nothing", OffloadSettings::off())] {
            for version in [nvsp::Version::V6_1, nvsp::Version::V4] {
                // Not all frames fit into the host's sections and pages at once.
                for direct in [1 << 20, 0] {
                    let context = format!("offered: {name}, wished: {wish}, NVSP {version}, {direct} bytes direct");
                    paused(async {
                        let host = Host::builder().nvsp_max(version).tune(|settings| settings.offloads = offered);
                        let nic = Nic::builder().offloads(settings).send_sections(12);
                        let nic = nic.tune(|config| config.direct_bytes(direct));
                        let mut pair = rig::up(host, nic).await;
                        let own = pair.nic.info().mac.0;
                        let granted = pair.nic.info().offloads;
                        for (number, (ip, protocol)) in KINDS.into_iter().enumerate() {
                            for payload in [0, 1, 100, 777, 1400] {
                                let right = frame(own, FAR, ip, protocol, number as u32, payload);
                                let meta = sums(&right);
                                pair.queue.tx.ready(right.len()).await.unwrap();
                                pair.queue.tx.try_send(&spoilt(&right), &meta).unwrap();
                                pair.queue.tx.flush().unwrap();
                                assert!(*pair.far.recv().await.unwrap() == right, "{context}: {ip:?} {protocol:?}");
                            }
                            for (payload, mss) in [(3000, 1400), (20_000, 1000), (62_000, 1400), (65_000, 1400)] {
                                let large = frame(own, FAR, ip, protocol, number as u32, payload);
                                pair.queue.tx.ready(large.len()).await.unwrap();
                                pair.queue.tx.try_send(&spoilt(&large), &cut(&large, mss)).unwrap();
                                pair.queue.tx.flush().unwrap();
                                let context = format!("{context}: {ip:?} {protocol:?}, {payload} by {mss}");
                                assert_segments(&pair, &large, mss as usize, &context).await;
                            }
                        }
                        rig::far_is_quiet(&pair).await;
                        pair.queue.tx.drained().await.unwrap();
                        let stats = rig::stats(&pair);
                        let extra = stats.extra;
                        assert_eq!(extra.tx_checksum_host + extra.tx_checksum_software, 20, "{context}");
                        assert_eq!(extra.tx_checksum_host > 0, granted.tx_checksum.tcp_v4, "{context}");
                        assert_eq!(extra.tx_lso > 0, granted.lso_v4.is_some(), "{context}");
                        // Each of the large frames was left to the host whole or was cut here: into segments, or into
                        // pieces for the host, which count as well.
                        assert!(extra.tx_cut <= 16 && extra.tx_lso + extra.tx_cut >= 16, "{context}: {extra:?}");
                        assert_eq!(stats.tx.packets, 20 + extra.tx_lso + extra.tx_cut_segments, "{context}");
                        assert_eq!(extra.tx_dropped + extra.tx_failed, 0, "{context}");
                        rig::close(pair).await;
                    });
                }
            }
        }
    }
}

#[test]
fn what_profiles_grant() {
    for chosen in Profile::ALL {
        paused(async {
            let pair =
                rig::up(Host::builder().profile(chosen), Nic::builder().offloads(OffloadSettings::endpoint())).await;
            let info = pair.nic.info();
            let udp = chosen != Profile::Ws2012R2;
            for sums in [info.offloads.tx_checksum, info.offloads.rx_checksum] {
                assert_eq!((sums.tcp_v4, sums.tcp_v6, sums.udp_v4, sums.udp_v6), (true, true, udp, udp), "{chosen}");
            }
            assert!(info.offloads.lso_v4.is_some() && info.offloads.lso_v6.is_some(), "{chosen}");
            let newest = matches!(chosen, Profile::Ws2019 | Profile::Ws2022);
            assert_eq!(info.nvsp_version == nvsp::Version::V6_1, newest, "{chosen}");
            assert_eq!((info.offloads.rsc_v4, info.offloads.rsc_v6), (newest, newest), "{chosen}");
            assert_eq!(info.offload_settings, OffloadSettings::endpoint());
            rig::close(pair).await;
        });
    }
}

#[test]
fn the_hosts_verdicts_are_right() {
    for (name, offered) in hosts() {
        paused(async {
            let mut pair = rig::up(
                Host::builder().tune(|settings| settings.offloads = offered),
                Nic::builder().check_verdicts(true),
            )
            .await;
            let own = pair.nic.info().mac.0;
            let mut known = 0;
            for (number, (ip, protocol)) in KINDS.into_iter().enumerate() {
                let right = frame(FAR, own, ip, protocol, number as u32, 333);
                for (sent, expected) in [(right.clone(), Verdict::Good), (spoilt(&right), Verdict::Bad)] {
                    pair.far.send(&sent).unwrap();
                    let burst = pair.queue.rx.recv_burst().await.unwrap().unwrap();
                    let received = burst.get(0).unwrap();
                    assert_eq!(received.bytes, sent, "{name}");
                    let verdict = received.meta.checksum.transport;
                    assert!(verdict == expected || verdict == Verdict::Unknown, "{name}: {ip:?} {protocol:?}");
                    known += usize::from(verdict != Verdict::Unknown);
                }
            }
            assert_eq!(
                known,
                match name {
                    "none" => 0,
                    "2012 R2" => 4,
                    _ => 8,
                },
                "{name}"
            );
            let extra = rig::stats(&pair).extra;
            assert_eq!(extra.rx_checksum_wrong_ip + extra.rx_checksum_wrong_tcp + extra.rx_checksum_wrong_udp, 0);
            assert_eq!(extra.rx_checksum_checked > 0, known > 0);
            rig::close(pair).await;
        });
    }
}

/// Sends `count` segments of one flow from the far end.
fn send_stream(pair: &Pair, ip: IpVersion, count: u32, mss: usize) -> Vec<Vec<u8>> {
    let own = pair.nic.info().mac.0;
    let segments: Vec<_> = (0..count)
        .map(|at| {
            let mut segment = frame(FAR, own, ip, Protocol::TCP, at * mss as u32, mss);
            if at + 1 < count {
                // No push but on the last.
                let at = segment.len() - mss - 7;
                segment[at] = 0x10;
            }
            if ip == IpVersion::V4 {
                segment[18..20].copy_from_slice(&(at as u16).to_be_bytes());
            }
            let request = checksum::request(&segment, &Headers::parse(&segment).unwrap()).unwrap();
            checksum::fill(&mut segment, request).unwrap();
            segment
        })
        .collect();
    segments.iter().for_each(|segment| pair.far.send(segment).unwrap());
    segments
}

#[test]
fn merged_frames_come_to_endpoints_only_and_become_segments_again() {
    for (settings, merges) in [(OffloadSettings::endpoint(), true), (OffloadSettings::forwarding(), false)] {
        for ip in [IpVersion::V4, IpVersion::V6] {
            for through_stream in [false, true] {
                paused(async {
                    let host = Host::builder().tune(|settings| settings.offloads = profile::Offloads::ALL);
                    let pair = rig::up(host, Nic::builder().offloads(settings)).await;
                    assert_eq!(pair.nic.info().offloads.rsc_v4, merges);
                    let segments = send_stream(&pair, ip, 24, 1400);
                    let mut back = 0;
                    let own = pair.nic.info().mac.0;
                    let turned = |segment: &[u8]| [&FAR[..], &own, &segment[12..]].concat();
                    let Pair { host, far, nic, queue } = pair;
                    let mut queue = queue;
                    if through_stream {
                        let (mut stream, mut sink) = queue.into_split();
                        while back < segments.len() {
                            let mut packet = stream.next().await.unwrap().unwrap();
                            assert_eq!(packet.meta().coalesced.is_some(), packet.len() > 1514);
                            packet.bytes_mut()[..6].copy_from_slice(&FAR);
                            packet.bytes_mut()[6..12].copy_from_slice(&own);
                            sink.send(packet).await.unwrap();
                            while let Ok(frame) = far.try_recv() {
                                assert!(*frame == turned(&segments[back]), "segment {back}");
                                back += 1;
                            }
                            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                            while let Ok(frame) = far.try_recv() {
                                assert!(*frame == turned(&segments[back]), "segment {back}");
                                back += 1;
                            }
                        }
                        drop((stream, sink));
                    } else {
                        while back < segments.len() {
                            let mut burst = queue.rx.recv_burst().await.unwrap().unwrap();
                            for frame in burst.iter_mut() {
                                frame.bytes[..6].copy_from_slice(&FAR);
                                frame.bytes[6..12].copy_from_slice(&own);
                                let meta = TxMeta::passing_on(frame.bytes, &frame.meta, 1500);
                                queue.tx.ready(frame.bytes.len()).await.unwrap();
                                queue.tx.try_send(frame.bytes, &meta).unwrap();
                            }
                            queue.tx.flush().unwrap();
                            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                            while let Ok(frame) = far.try_recv() {
                                assert!(*frame == turned(&segments[back]), "segment {back}");
                                back += 1;
                            }
                        }
                    }
                    let extra = nic.queue_stats()[0].extra;
                    assert_eq!(extra.rx_coalesced > 0, merges);
                    assert_eq!(extra.bad_coalesced, 0);
                    assert!(nic.close().await.unwrap().is_clean());
                    drop(far);
                    rig::all_undone(&host).await;
                });
            }
        }
    }
}

#[test]
fn large_packets_go_through_the_sink() {
    for (sections, direct) in [(10, 0), (10, 1 << 20), (170, 0)] {
        paused(async {
            let host = Host::builder().tune(|settings| settings.offloads = profile::Offloads::ALL);
            let nic = Nic::builder().send_sections(sections).tune(|config| config.direct_bytes(direct));
            let Pair { host, far, nic, queue } = rig::up(host, nic).await;
            let own = nic.info().mac.0;
            let frames: Vec<_> = (0..20)
                .map(|number| {
                    let (ip, protocol) = KINDS[number as usize % 4];
                    frame(own, FAR, ip, protocol, number, 60_000)
                })
                .collect();
            let (stream, mut sink) = queue.into_split();
            let send = async {
                for frame in &frames {
                    let mut packet = Packet::from(&frame[..]);
                    assert!(packet.request_segmentation(1400));
                    sink.feed(packet).await.unwrap();
                }
                sink.flush().await.unwrap();
            };
            let pair_far = &far;
            let receive = async {
                for frame in &frames {
                    let start = Headers::parse(frame).unwrap().payload(frame).unwrap();
                    let mut payload = Vec::new();
                    while payload.len() < 60_000 {
                        let segment = pair_far.recv().await.unwrap();
                        assert_eq!(checksum::verify(&segment).transport, Verdict::Good);
                        payload.extend_from_slice(&segment[start..]);
                    }
                    assert!(payload == frame[start..]);
                }
            };
            tokio::join!(send, receive);
            drop((stream, sink));
            assert!(nic.close().await.unwrap().is_clean());
            drop(far);
            rig::all_undone(&host).await;
        });
    }
}

#[test]
fn tags_pass_both_ways() {
    for in_band in [false, true] {
        paused(async {
            let nic = Nic::builder().tags_in_band(in_band).reinsert_tags(in_band);
            let mut pair = rig::up(Host::builder(), nic).await;
            let own = pair.nic.info().mac.0;
            for tci in [5 << 13 | 100, 3 << 13, 4094] {
                let tag = |frame: &[u8]| [&frame[..12], &[0x81, 0x00], &u16::to_be_bytes(tci), &frame[12..]].concat();
                // As long as the MTU allows, and its tag.
                let plain = frame(own, FAR, IpVersion::V4, Protocol::UDP, 1, 1472);
                assert_eq!(plain.len(), 1514);
                pair.queue.tx.send(&tag(&plain)).await.unwrap();
                let received = pair.far.recv().await.unwrap();
                assert!(*received == tag(&plain), "{tci:#x}");
                let plain = frame(FAR, own, IpVersion::V4, Protocol::TCP, 1, 900);
                pair.far.send(&tag(&plain)).unwrap();
                let burst = pair.queue.rx.recv_burst().await.unwrap().unwrap();
                let received = burst.get(0).unwrap();
                if in_band {
                    assert_eq!((received.bytes, received.meta.vlan), (&tag(&plain)[..], None));
                } else {
                    assert_eq!((received.bytes, received.meta.vlan.map(|vlan| vlan.tci())), (&plain[..], Some(tci)));
                }
                // Of two tags the outer one is beside the frame, the inner one in it.
                let inner = |frame: &[u8]| [&frame[..12], &[0x81, 0x00, 0x40, 200], &frame[12..]].concat();
                let plain = inner(&frame(own, FAR, IpVersion::V6, Protocol::TCP, 2, 700));
                pair.queue.tx.send(&tag(&plain)).await.unwrap();
                assert!(*pair.far.recv().await.unwrap() == tag(&plain), "{tci:#x} outside of another");
                let plain = inner(&frame(FAR, own, IpVersion::V6, Protocol::UDP, 2, 700));
                pair.far.send(&tag(&plain)).unwrap();
                let burst = pair.queue.rx.recv_burst().await.unwrap().unwrap();
                let received = burst.get(0).unwrap();
                let expected = if in_band { (tag(&plain), None) } else { (plain, Some(tci)) };
                assert_eq!((received.bytes.to_vec(), received.meta.vlan.map(|vlan| vlan.tci())), expected);
            }
            assert_eq!(rig::stats(&pair).extra.tx_dropped, 0);
            rig::close(pair).await;
        });
    }
}

#[test]
fn offloads_are_switched_while_frames_flow() {
    paused(async {
        let host = Host::builder().tune(|settings| settings.offloads = profile::Offloads::ALL);
        let mut pair = rig::up(host, Nic::builder()).await;
        let mut events = pair.nic.events();
        let own = pair.nic.info().mac.0;
        let before = pair.nic.info().offloads;
        let mut udp_off = OffloadSettings::forwarding();
        udp_off.tx_checksum.udp_v4 = false;
        udp_off.lso_v4 = false;
        for settings in [udp_off, OffloadSettings::off(), OffloadSettings::endpoint(), OffloadSettings::forwarding()] {
            let right = frame(own, FAR, IpVersion::V4, Protocol::TCP, 1, 9000);
            let set = pair.nic.set_offloads(settings);
            let tx = &mut pair.queue.tx;
            let send = async {
                for _ in 0..20 {
                    tx.ready(right.len()).await.unwrap();
                    tx.try_send(&right, &cut(&right, 1000)).unwrap();
                    tx.flush().unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (set, ()) = tokio::join!(set, send);
            set.unwrap();
            for _ in 0..20 {
                assert_segments(&pair, &right, 1000, "while it changes").await;
            }
            let info = pair.nic.info();
            assert_eq!(info.offload_settings, settings);
            assert_eq!(info.offloads.tx_checksum, settings.tx_checksum.and(before.tx_checksum));
            assert_eq!(info.offloads.lso_v4.is_some(), settings.lso_v4);
        }
        assert_eq!(pair.nic.info().offloads, before);
        // Refused: nothing changes.
        rig::inject(&pair, Fault::AnswerFailed, When::Once);
        assert!(pair.nic.set_offloads(OffloadSettings::off()).await.is_err());
        assert_eq!(
            (pair.nic.info().offload_settings, pair.nic.info().offloads),
            (OffloadSettings::forwarding(), before)
        );
        let seen = rig::events_within(&mut events, std::time::Duration::from_secs(1)).await;
        assert!(
            seen.contains(&Event::OffloadsChanged(Offloads::NONE))
                || seen.iter().any(
                    |event| matches!(event, Event::OffloadsChanged(granted) if granted.tx_checksum == Checksums::NONE)
                ),
            "{seen:?}"
        );
        rig::close(pair).await;
    });
}

#[test]
fn a_segment_that_would_be_longer_than_the_mtu_is_refused() {
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder()).await;
        let own = pair.nic.info().mac.0;
        let large = frame(own, FAR, IpVersion::V4, Protocol::TCP, 1, 9000);
        assert!(pair.queue.tx.try_send(&large, &cut(&large, 1461)).is_err());
        pair.queue.tx.try_send(&large, &cut(&large, 1514 - TCP_V4 as u32)).unwrap();
        pair.queue.tx.flush().unwrap();
        assert_segments(&pair, &large, 1460, "as long as it may be").await;
        rig::close(pair).await;
    });
}

#[test]
fn every_queue_leaves_to_the_host_what_it_granted() {
    paused(async {
        let host = Host::builder().tune(|settings| settings.offloads = profile::Offloads::ALL).build();
        let far = host.memory_pair();
        let bus = MemBus::new(host.add_nic(NicOptions::new().queues(4)));
        host.spawn();
        let (nic, mut queues) = Nic::builder().queues(4).open_on(bus).await.unwrap();
        assert_eq!(queues.len(), 4);
        let own = nic.info().mac.0;
        for (settings, by_host) in [(None, 4), (Some(OffloadSettings::off()), 0)] {
            if let Some(settings) = settings {
                nic.set_offloads(settings).await.unwrap();
            }
            let before: Vec<_> = nic.queue_stats().iter().map(|queue| queue.extra.tx_lso).collect();
            for (number, queue) in queues.iter_mut().enumerate() {
                let (ip, _) = KINDS[number];
                let large = frame(own, FAR, ip, Protocol::TCP, number as u32, 40_000);
                queue.tx.ready(large.len()).await.unwrap();
                queue.tx.try_send(&spoilt(&large), &cut(&large, 1400)).unwrap();
                queue.tx.flush().unwrap();
                let start = Headers::parse(&large).unwrap().payload(&large).unwrap();
                let mut payload = Vec::new();
                while payload.len() < 40_000 {
                    let segment = far.recv().await.unwrap();
                    assert_eq!(checksum::verify(&segment).transport, Verdict::Good);
                    payload.extend_from_slice(&segment[start..]);
                }
                assert!(payload == large[start..], "queue {number}");
            }
            let after = nic.queue_stats();
            let grown = after.iter().zip(before).filter(|(after, before)| after.extra.tx_lso > *before).count();
            assert_eq!(grown, by_host);
        }
        drop(queues);
        assert!(nic.close().await.unwrap().is_clean());
        drop(far);
        rig::all_undone(&host).await;
    });
}
