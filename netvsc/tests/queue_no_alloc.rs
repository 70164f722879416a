//! The data path does not allocate: counted by the allocator itself.

mod packets;
mod queue_host;

use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc::gro::{BurstMerger, GroConfig, Received};
use netvsc::meta::{IpVersion, RxMeta, Segmentation, TxMeta};
use netvsc::queue::{Burst, FrameSink, HeldBurst};
use netvsc::segment::Segments;
use netvsc_allocations::{Counting, count_here};
use nvsp::{ChannelType, RndisPacket, RndisPacketComplete, Status};
use vmbus::packet::{PacketType, TransactionId, TransferPages};
use vmbus::ring::Outgoing;

use packets::{ACK, Description, ipv4, ipv6, payload, tcp};
use queue_host::{SET_ID, Setup, frame, pair};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn frames_allocate_nothing() {
    let (mut queue, mut host) = pair(Setup { direct_pages: 16, ring_bytes: 16384, ..Setup::default() });
    let mut burst = Burst::new(64, 256 * 1024);
    let received = frame(1, 1000);
    let ranges: Vec<_> = (0..32).map(|section| host.put_frame(section, &received).to_bytes()).collect();
    let mut header = TransferPages::fixed_header(SET_ID, ranges.len() as u32).to_vec();
    header.extend(ranges.concat());
    let transfer: [u8; 40] = RndisPacket::without_section(ChannelType::DATA).to_array();
    let completion: [u8; 8] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
    let (small, large) = (frame(2, 100), frame(3, 9000));
    let mut body = vec![0; 8192];
    let mut ids = Vec::with_capacity(64);
    let (mut sent, mut got) = (0, 0);

    let before = count_here();
    for turn in 0..1000u64 {
        for _ in 0..20 {
            queue.send(&small, &TxMeta::default()).unwrap();
        }
        queue.send(&large, &TxMeta::default()).unwrap();
        sent += 21;
        queue.flush().unwrap();
        // The host, without this file's helpers, which allocate.
        while let Some(incoming) = host.consumer.take(&mut body).unwrap() {
            if incoming.descriptor.packet_type != PacketType::COMPLETION {
                ids.push(incoming.descriptor.transaction_id);
            }
        }
        let _ = host.consumer.commit().unwrap();
        for id in ids.drain(..) {
            host.producer.write(&Outgoing::completion(id, &completion)).unwrap();
        }
        let id = TransactionId(turn + 1);
        let packet =
            Outgoing { packet_type: PacketType::TRANSFER_PAGES, header: &header, ..Outgoing::request(id, &transfer) };
        host.producer.write(&packet).unwrap();
        let _ = host.producer.publish().unwrap();
        got += queue.receive(&mut burst, 64).unwrap();
        assert!(burst.frames().all(|frame| frame.bytes == received));
        burst.clear();
        assert!(queue.pump().unwrap().completions < 64);
        queue.arm().unwrap();
        queue.mask();
    }
    let allocated = count_here() - before;
    assert_eq!(allocated, 0, "{sent} frames sent and {got} received");
    assert_eq!((queue.stats().tx.packets, queue.stats().rx.packets), (sent, got as u64));
    assert_eq!((sent, got), (21_000, 32_000));
}

#[test]
fn held_frames_allocate_nothing() {
    let (mut from, mut host) = pair(Setup { ring_bytes: 16384, ..Setup::default() });
    let (mut to, mut to_host) = pair(Setup { direct_pages: 16, ring_bytes: 16384, ..Setup::default() });
    from.set_most_held(80);
    let mut burst = HeldBurst::new(64, 256 * 1024);
    let received = frame(1, 1500);
    let ranges: Vec<_> = (0..32).map(|section| host.put_frame(section, &received).to_bytes()).collect();
    let mut header = TransferPages::fixed_header(SET_ID, ranges.len() as u32).to_vec();
    header.extend(ranges.concat());
    let transfer: [u8; 40] = RndisPacket::without_section(ChannelType::DATA).to_array();
    let completion: [u8; 8] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
    let mut body = vec![0; 8192];
    let mut ids = Vec::with_capacity(64);
    let mut kept = Vec::with_capacity(64);

    let before = count_here();
    for turn in 0..1000u64 {
        let id = TransactionId(turn + 1);
        let packet =
            Outgoing { packet_type: PacketType::TRANSFER_PAGES, header: &header, ..Outgoing::request(id, &transfer) };
        host.producer.write(&packet).unwrap();
        let _ = host.producer.publish().unwrap();
        assert_eq!(from.receive_held(&mut burst, 64).unwrap(), 32);
        // Those of the turn before: at most two packets are held, and never more than may be.
        kept.clear();
        for at in 0..32 {
            let frame = burst.get(at).unwrap();
            let _ = to.send_held(frame.head, frame.rest, &TxMeta::default());
            kept.extend(burst.take_rest(at).filter(|_| at % 3 == 0));
        }
        burst.clear();
        to.flush().unwrap();
        while let Some(incoming) = to_host.consumer.take(&mut body).unwrap() {
            ids.push(incoming.descriptor.transaction_id);
        }
        let _ = to_host.consumer.commit().unwrap();
        for id in ids.drain(..) {
            to_host.producer.write(&Outgoing::completion(id, &completion)).unwrap();
        }
        let _ = to_host.producer.publish().unwrap();
        to.pump().unwrap();
        while host.consumer.take(&mut body).unwrap().is_some() {}
        let _ = host.consumer.commit().unwrap();
    }
    let allocated = count_here() - before;
    assert_eq!(allocated, 0);
    let stats = (from.stats().rx.packets, from.stats().extra.rx_held, to.stats().tx.packets);
    assert_eq!(stats, (32_000, 32_000, 32_000));
}

#[test]
fn offloads_allocate_nothing() {
    // Two sections: frames that are cut wait for room.
    let (mut queue, mut host) =
        pair(Setup { send_sections: 2, direct_pages: 4, ring_bytes: 16384, ..Setup::default() });
    queue.attach_mtu(1500);
    let mut small = Description::new(ipv4(), tcp(1, ACK), payload(500, 1, 1));
    small.tags = vec![(0x8100, 5)];
    let (small, large) = (small.build(), Description::new(ipv6(), tcp(1, ACK), payload(30_000, 1, 1)).build());
    let headers = Headers::parse(&small).unwrap();
    let sums = TxMeta { checksum: checksum::request(&small, &headers), ..TxMeta::default() };
    let segmentation = Segmentation { ip: IpVersion::V6, mss: 1400, transport_offset: 54, fixed_id: false };
    let cut = TxMeta { segmentation: Some(segmentation), ..TxMeta::default() };
    let completion: [u8; 8] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
    let mut body = vec![0; 8192];
    let mut ids = Vec::with_capacity(64);
    let before = count_here();
    let mut sent = 0;
    for _ in 0..2000 {
        sent += u64::from(queue.send(&small, &sums).is_ok());
        if queue.can_send(large.len()) {
            queue.send(&large, &cut).unwrap();
        }
        queue.flush().unwrap();
        while let Some(incoming) = host.consumer.take(&mut body).unwrap() {
            ids.push(incoming.descriptor.transaction_id);
        }
        let _ = host.consumer.commit().unwrap();
        for id in ids.drain(..) {
            host.producer.write(&Outgoing::completion(id, &completion)).unwrap();
        }
        let _ = host.producer.publish().unwrap();
        queue.pump().unwrap();
    }
    assert_eq!(count_here() - before, 0);
    let extra = queue.stats().extra;
    assert!(sent > 100 && extra.tx_checksum_software == sent && extra.tx_cut > 100, "{extra:?}");
    assert_eq!(extra.tx_cut_segments / 22, extra.tx_cut - u64::from(queue.outstanding() > 0));
}

#[test]
fn merging_and_cutting_allocate_nothing_once_a_place_was_used() {
    let large = Description::new(ipv4(), tcp(1, ACK), payload(40_000, 3, 5));
    let frames: Vec<_> = large.cut(1000, false).iter().map(Description::build).collect();
    let mut received = Burst::new(64, 256 * 1024);
    for frame in &frames {
        received.buffer(frame.len()).unwrap().copy_from_slice(frame);
        received.commit(frame.len(), RxMeta::default());
    }
    let mut merger = BurstMerger::new(GroConfig::default());
    let mut segment = [0; 1514];
    for round in 0..3 {
        let before = count_here();
        let mut chained = 0;
        merger.chains(&received, |item| {
            if let Received::Chain(chain) = item {
                chained += chain.frames().len();
            }
        });
        let merged = merger.merge(&mut received).get(0).unwrap();
        let mut segments = Segments::new(merged.bytes, 1000).unwrap();
        while let Some(len) = segments.next_into(&mut segment).unwrap() {
            assert!(len <= 1054);
        }
        let allocated = count_here() - before;
        assert_eq!((chained, segments.count()), (40, 40));
        assert_eq!(allocated > 0, round == 0, "round {round}: {allocated}");
    }
}
