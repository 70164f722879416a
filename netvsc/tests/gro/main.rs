//! Generic receive offload: each rule of what is merged and what is not, and random flows that are merged and cut again.

#[path = "../packets/mod.rs"]
mod packets;

mod burst;
mod holding;
mod random;
mod rules;

use std::collections::HashMap;
use std::time::Duration;
use std::vec::Drain;

use netvsc::frame::Headers;
use netvsc::gro::{BurstMerger, Deliver, FlushReason, Gro, GroConfig, Merged, Received};
use netvsc::meta::{Coalesced, RxMeta, TxMeta, Verdict, Vlan};
use netvsc::queue::{Burst, FrameSink};
use netvsc::segment::Segments;
use netvsc::{Instant, checksum};
use packets::{ACK, CWR, Description, ECE, FIN, Ip, PSH, RST, SYN, Transport, URG, any_ip, ipv4, ipv6, payload, tcp};
use proptest::prelude::*;

/// What came out: the frames' numbers, and the merged frame.
#[derive(Debug, Clone)]
struct Out {
    frames: Vec<usize>,
    merged: Option<Vec<u8>>,
}

/// Looks at what comes out, given the frames that went in.
struct Outlet<'a> {
    frames: &'a [Vec<u8>],
    out: Vec<Out>,
}

impl Deliver<usize> for Outlet<'_> {
    fn frame(&mut self, frame: usize) {
        self.out.push(Out { frames: vec![frame], merged: None });
    }

    fn merged(&mut self, merged: &Merged<'_>, fragments: Drain<'_, usize>) {
        let frames: Vec<usize> = fragments.collect();
        assert_eq!(frames.len(), merged.segments());
        assert!(frames.len() >= 2);
        let mut bytes = vec![0xEE; merged.len()];
        let segments = || frames.iter().map(|at| &self.frames[*at][..]);
        assert_eq!(merged.gather(segments(), &mut bytes[..merged.len() - 1]), None, "no room");
        assert_eq!(merged.gather(segments(), &mut bytes), Some(merged.len()));

        // One right frame, and what is said of it.
        let verdicts = checksum::verify(&bytes);
        assert_eq!(verdicts.transport, Verdict::Good);
        assert_ne!(verdicts.ip, Verdict::Bad);
        let meta = merged.meta();
        assert_eq!((meta.checksum.transport, meta.checksum.ip), (Verdict::Good, verdicts.ip));
        let coalesced = Coalesced {
            fragments: frames.len() as u16,
            segment_size: merged.segment_size() as u16,
            fixed_id: merged.has_fixed_id(),
        };
        assert_eq!(meta.coalesced, Some(coalesced));

        // Cut again, it is what came in, but for padding.
        let cut = merged.segmentation();
        let mut segments = Segments::new(&bytes, cut.mss as usize).unwrap().with_fixed_id(cut.fixed_id);
        assert_eq!(segments.count(), frames.len());
        for at in &frames {
            let original = &self.frames[*at];
            let mut segment = vec![0; segments.next_len().unwrap()];
            segments.next_into(&mut segment).unwrap();
            assert_eq!(segment, original[..segment.len()], "frame {at}");
            let end = Headers::parse(original).unwrap().end();
            assert_eq!(segment.len(), end, "frame {at}: all but what lies behind the packet");
        }
        self.out.push(Out { frames, merged: Some(bytes) });
    }
}

const PADDING: u8 = 0x5A;

/// Puts frames with their metadata through, as one poll.
fn run_with(config: GroConfig, frames: &[Vec<u8>], meta: impl Fn(usize) -> RxMeta) -> (Vec<Out>, Gro<usize>) {
    let mut gro = Gro::new(config);
    let mut outlet = Outlet { frames, out: Vec::new() };
    for (at, frame) in frames.iter().enumerate() {
        gro.receive(frame, &meta(at), at, Instant::ZERO, &mut outlet);
    }
    gro.end_poll(Instant::ZERO, &mut outlet);
    assert!(gro.is_empty() && gro.deadline().is_none());
    let stats = gro.stats();
    assert_eq!(stats.frames, frames.len() as u64);
    assert_eq!(stats.passed + stats.single + stats.merged, stats.frames);
    assert_eq!(FlushReason::ALL.iter().map(|reason| stats.flushes(*reason)).sum::<u64>(), stats.aggregates);
    assert_eq!(outlet.out.iter().filter(|out| out.merged.is_some()).count() as u64, stats.aggregates);
    (outlet.out, gro)
}

fn run(frames: &[Vec<u8>]) -> Vec<Vec<usize>> {
    let (out, _) = run_with(GroConfig::default().with_udp(true), frames, |_| RxMeta::default());
    out.into_iter().map(|out| out.frames).collect()
}

/// Segments of one flow that would all be merged, each changed by `change`.
fn flow(first: &Description, count: usize, change: impl Fn(usize, &mut Description)) -> Vec<Vec<u8>> {
    let mut large = first.clone();
    large.payload = payload(first.payload.len() * count, 1, 3);
    let mut segments = large.cut(first.payload.len(), false);
    assert_eq!(segments.len(), count);
    segments.iter_mut().enumerate().for_each(|(at, segment)| change(at, segment));
    segments.iter().map(Description::build).collect()
}

fn tcp4() -> Description {
    Description::new(ipv4(), tcp(1000, ACK), payload(100, 0, 1))
}

fn tcp6() -> Description {
    Description::new(ipv6(), tcp(1000, ACK), payload(100, 0, 1))
}

fn udp4() -> Description {
    Description::new(ipv4(), Transport::Udp { with_checksum: true }, payload(100, 0, 1))
}

fn udp6() -> Description {
    Description::new(ipv6(), Transport::Udp { with_checksum: true }, payload(100, 0, 1))
}

fn each_kind() -> [Description; 4] {
    [tcp4(), tcp6(), udp4(), udp6()]
}

fn flags_of(description: &mut Description) -> &mut u8 {
    match &mut description.transport {
        Transport::Tcp { flags, .. } => flags,
        Transport::Udp { .. } => panic!("no flags"),
    }
}

fn sequence_of(description: &mut Description) -> &mut u32 {
    match &mut description.transport {
        Transport::Tcp { sequence, .. } => sequence,
        Transport::Udp { .. } => panic!("no sequence"),
    }
}

/// Four segments of which the third is changed: never merged with those in front of it.
#[track_caller]
fn third_is_apart(first: &Description, change: impl Fn(&mut Description)) {
    let groups = run(&flow(first, 4, |at, segment| {
        if at == 2 {
            change(segment);
        }
    }));
    assert_eq!(groups[0], [0, 1], "{groups:?}");
    let order: Vec<usize> = groups.concat();
    assert_eq!(order, [0, 1, 2, 3], "one flow");
}
