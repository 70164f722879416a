//! Bursts: chains, buffers, and passing on.

use crate::*;

/// A burst of these frames.
fn burst(frames: &[Vec<u8>]) -> Burst {
    let mut burst = Burst::new(frames.len().max(1), 256 * 1024);
    for frame in frames {
        burst.buffer(frame.len()).unwrap().copy_from_slice(frame);
        burst.commit(frame.len(), RxMeta::default());
    }
    burst
}

#[test]
fn a_burst_becomes_chains_or_a_burst_of_buffers() {
    let mut frames = flow(&tcp4(), 3, |_, _| {});
    frames.insert(1, vec![9; 60]);
    frames.extend(flow(&tcp6(), 4, |_, _| {}));
    let mut merger = BurstMerger::new(GroConfig::default());
    for round in 1..=2 {
        let mut received = burst(&frames);
        let (mut single, mut chains) = (Vec::new(), Vec::new());
        merger.chains(&received, |item| match item {
            Received::Frame(frame) => single.push(frame.bytes),
            Received::Chain(chain) => {
                let mut bytes = vec![0; chain.merged.len()];
                assert_eq!(chain.gather(&mut bytes), Some(bytes.len()));
                assert_eq!(chain.payload().collect::<Vec<_>>().concat(), bytes[chain.merged.header_len()..]);
                chains.push((chain.frames().len(), bytes));
            }
        });
        assert_eq!(single, [&frames[1][..]], "lies where it lay");
        chains.sort();
        assert_eq!(chains.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [3, 4]);

        let merged = merger.merge(&mut received);
        assert_eq!(merged.len(), 3);
        let mut buffers: Vec<_> = merged.frames().filter(|frame| frame.meta.coalesced.is_some()).collect();
        buffers.sort_by_key(|frame| frame.bytes.len());
        for (frame, (count, bytes)) in buffers.iter().zip(&chains) {
            assert_eq!(frame.bytes, bytes);
            assert_eq!(usize::from(frame.meta.coalesced.unwrap().fragments), *count);
        }
        assert_eq!(merger.stats().aggregates, 4 * round);
    }
    // Nothing to merge: the burst itself, in the order of the ring.
    let frames = [vec![9; 60], tcp4().build(), vec![8; 60]];
    let mut received = burst(&frames);
    let merged = merger.merge(&mut received);
    assert!(merged.frames().zip(&frames).all(|(frame, bytes)| frame.bytes == bytes) && merged.len() == 3);
}

#[test]
fn what_was_merged_is_passed_on_as_it_came() {
    for first in each_kind() {
        let frames = flow(&first, 3, |_, _| {});
        let mut merger = BurstMerger::new(GroConfig::default().with_udp(true));
        let mut received = burst(&frames);
        let frame = merger.merge(&mut received).get(0).unwrap();
        let meta = TxMeta::passing_on(frame.bytes, &frame.meta, 1500);
        let cut = meta.segmentation.unwrap();
        assert_eq!((cut.mss, meta.checksum), (100, None));
        let mut segments = Segments::new(frame.bytes, cut.mss as usize).unwrap().with_fixed_id(cut.fixed_id);
        for frame in &frames {
            let mut segment = vec![0; frame.len()];
            assert_eq!(segments.next_into(&mut segment), Ok(Some(frame.len())));
            assert_eq!(&segment, frame);
        }
        assert_eq!(TxMeta::passing_on(&frames[0], &RxMeta::default(), 1500), TxMeta::default());
    }
}

#[test]
fn what_a_host_merged_is_passed_on_in_segments_of_the_mtu() {
    let frame = Description { payload: payload(5000, 0, 1), ..tcp4() }.build();
    let mut meta = RxMeta {
        vlan: Some(Vlan::new(5, 1, false)),
        coalesced: Some(Coalesced { fragments: 4, segment_size: 0, fixed_id: false }),
        ..RxMeta::default()
    };
    meta.checksum.transport_stale = true;
    let sent = TxMeta::passing_on(&frame, &meta, 1500);
    assert_eq!((sent.vlan, sent.segmentation.map(|cut| cut.mss)), (meta.vlan, Some(1460)));
    // Stale sums of a frame that is not merged are computed.
    meta.coalesced = None;
    let sent = TxMeta::passing_on(&frame, &meta, 1500);
    let checksum = sent.checksum.unwrap();
    assert_eq!((checksum.transport_offset, checksum.ip_header), (34, false));
    assert!(checksum.transport.is_some() && sent.segmentation.is_none());
}
