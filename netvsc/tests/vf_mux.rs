//! Two paths made one, between a host that moves the traffic back and forth and a guest that hears of it late: everything
//! arrives once and in order, both ways.

mod vf_rings;

use std::collections::VecDeque;

use netvsc::meta::{IpVersion, Path, RxMeta, Segmentation, TxMeta};
use netvsc::vf::{Mux, SyntheticPath, VfQueue, VfSendError};
use netvsc::{Burst, FrameSink, SendError};
use vf_rings::Rings;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

fn frame(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 60 + (number % 40) as usize];
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

fn number(frame: &[u8]) -> u64 {
    assert_eq!(frame.len(), 60 + (number_of(frame) % 40) as usize);
    number_of(frame)
}

fn number_of(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[14..22].try_into().unwrap())
}

/// A VF whose far end is the test's.
#[derive(Default)]
struct Vf {
    received: VecDeque<Vec<u8>>,
    taken: VecDeque<Vec<u8>>,
    ready: bool,
    longest: usize,
    /// Frames that it gave up and has not told of.
    lost: u64,
    /// How often it was asked what is outstanding: a real one has the kernel look then.
    asked: usize,
    /// It has received, and always will have, what is for other queues.
    flooded: bool,
    /// Frames that it says it has room for, and has not.
    promised: usize,
}

const VF_RING: usize = 6;

impl VfQueue for Vf {
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        if !self.ready {
            return Err(VfSendError::NotReady);
        }
        if frame.len() > self.longest {
            return Err(VfSendError::TooLong { len: frame.len(), limit: self.longest });
        }
        if self.taken.len() >= VF_RING {
            return Err(VfSendError::Full);
        }
        self.taken.push_back(frame.to_vec());
        Ok(())
    }

    fn room(&mut self) -> usize {
        if self.ready { VF_RING - self.taken.len() + self.promised } else { 0 }
    }

    fn flush(&mut self) {}

    fn outstanding(&mut self) -> usize {
        self.asked += 1;
        self.taken.len()
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn has_received(&mut self) -> bool {
        self.flooded || !self.received.is_empty()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let mut got = 0;
        while got < max
            && let Some(frame) = self.received.front()
            && let Some(room) = sink.buffer(frame.len())
        {
            room.copy_from_slice(frame);
            sink.commit(frame.len(), RxMeta::default());
            self.received.pop_front();
            got += 1;
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        VF_RING
    }
}

fn vf() -> Vf {
    Vf { ready: true, longest: usize::MAX, ..Vf::default() }
}

#[test]
fn received_frames_keep_their_order_over_any_number_of_switches() {
    let mut by_vf = 0;
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let (mut mux, mut rings) = (Mux::new(), Rings::default());
        mux.attach(vf());
        let (mut path, mut next, mut expected) = (Path::Synthetic, 0, 0);
        let mut heard = Path::Synthetic;
        for _ in 0..300 {
            match random.below(10) {
                0 => {
                    // The host switches at once; its word comes by the ring. As the machine has it, no other switch is asked
                    // for before that was read, but the host may take the traffic back at any time.
                    if path == Path::Synthetic
                        && heard == Path::Synthetic
                        && rings.words.is_empty()
                        && !rings.ring.contains(&None)
                    {
                        path = Path::VirtualFunction;
                        rings.ring.push_back(None);
                    } else if path == Path::VirtualFunction {
                        path = Path::Synthetic;
                        rings.ring.push_back(None);
                    }
                }
                1 | 2 => {
                    // The guest reads one word.
                    rings.pump().unwrap();
                    if let Some(position) = rings.words.pop_front() {
                        if heard == Path::Synthetic {
                            heard = Path::VirtualFunction;
                            mux.receive_from_both(position);
                        } else {
                            heard = Path::Synthetic;
                            mux.receive_from_rings();
                        }
                    }
                }
                3..=6 => {
                    if path == Path::Synthetic {
                        rings.ring.push_back(Some(frame(next)));
                        next += 1;
                    } else if mux.vf_mut().unwrap().received.len() < VF_RING {
                        mux.vf_mut().unwrap().received.push_back(frame(next));
                        next += 1;
                    }
                }
                _ => expected = receive(&mut mux, &mut rings, &mut random, expected),
            }
        }
        rings.pump().unwrap();
        while let Some(position) = rings.words.pop_front() {
            if heard == Path::Synthetic {
                heard = Path::VirtualFunction;
                mux.receive_from_both(position);
            } else {
                heard = Path::Synthetic;
                mux.receive_from_rings();
            }
        }
        // What the VF has received stays when it is gone.
        mux.detach();
        for _ in 0..1000 {
            expected = receive(&mut mux, &mut rings, &mut random, expected);
        }
        assert_eq!(expected, next, "seed {seed}: all of them");
        by_vf += mux.stats().vf_rx_packets;
    }
    assert!(by_vf > 50_000, "{by_vf}");
}

fn receive(mux: &mut Mux<Vf>, rings: &mut Rings, random: &mut Random, mut expected: u64) -> u64 {
    let mut burst = Burst::new(1 + random.below(8), 128 * (1 + random.below(6)));
    mux.receive(rings, &mut burst, 1 + random.below(10)).unwrap();
    for frame in &burst {
        assert_eq!(number(frame.bytes), expected, "out of order");
        expected += 1;
    }
    expected
}

#[test]
fn sent_frames_keep_their_order_over_switches_and_detours() {
    let mut by_vf = 0;
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let (mut mux, mut rings) = (Mux::new(), Rings::default());
        mux.attach(vf());
        let (mut next, mut arrived) = (0, Vec::new());
        let mut path = Path::Synthetic;
        let step = |mux: &mut Mux<Vf>, rings: &mut Rings, arrived: &mut Vec<u64>, random: &mut Random| {
            if random.below(2) == 0 {
                arrived.extend(rings.sent.pop_front().map(|frame| number(&frame)));
            } else if let Some(vf) = mux.vf_mut() {
                arrived.extend(vf.taken.pop_front().map(|frame| number(&frame)));
            }
        };
        for _ in 0..300 {
            match random.below(12) {
                0 => {
                    path = if path == Path::Synthetic { Path::VirtualFunction } else { Path::Synthetic };
                    mux.send_by(path);
                }
                1 => mux.vf_mut().unwrap().longest = [usize::MAX, 80][random.below(2)],
                // It stops when it is empty: what is in a VF that stops is nobody's to order.
                2 if mux.outstanding() == 0 => mux.vf_mut().unwrap().ready ^= true,
                3 => rings.flush().unwrap(),
                4..=7 => match mux.send(&mut rings, &frame(next), &TxMeta::default()) {
                    Ok(()) => next += 1,
                    Err(SendError::Full) => {}
                    Err(error) => panic!("{error}"),
                },
                _ => step(&mut mux, &mut rings, &mut arrived, &mut random),
            }
        }
        by_vf += mux.stats().vf_tx_packets;
        mux.send_by(Path::Synthetic);
        for _ in 0..200 {
            rings.flush().unwrap();
            step(&mut mux, &mut rings, &mut arrived, &mut random);
            mux.is_settled(&mut rings).unwrap();
        }
        assert!(mux.send(&mut rings, &frame(next), &TxMeta::default()).is_ok(), "seed {seed}: room again");
        assert_eq!(arrived, (0..next).collect::<Vec<_>>(), "seed {seed}");
    }
    assert!(by_vf > 10_000, "{by_vf}");
}

#[test]
fn a_vf_that_vanishes_loses_what_it_had_not_sent_and_nothing_else() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.send_by(Path::VirtualFunction);
    for number in 0..3 {
        mux.send(&mut rings, &frame(number), &TxMeta::default()).unwrap();
    }
    mux.vf_mut().unwrap().taken.pop_front();
    assert_eq!(mux.detach(), 2);
    assert_eq!(mux.stats().vf_tx_dropped, 2);
    mux.send(&mut rings, &frame(3), &TxMeta::default()).unwrap();
    mux.send_by(Path::Synthetic);
    mux.send(&mut rings, &frame(4), &TxMeta::default()).unwrap();
    assert_eq!(rings.outstanding(), 2, "nothing is sent again");
    assert!(mux.is_idle());
}

/// What waits in a VF whose link goes down is never sent: that is counted at once, and told of when the VF goes.
#[test]
fn what_a_vf_gives_up_is_counted() {
    let mut mux = Mux::default();
    let mut device = vf();
    device.lost = 3;
    mux.attach(device);
    mux.flush();
    assert_eq!((mux.stats().vf_tx_dropped, mux.outstanding()), (3, 0));
    mux.flush();
    assert_eq!(mux.stats().vf_tx_dropped, 3, "once");
    mux.vf_mut().unwrap().lost = 1;
    mux.vf_mut().unwrap().taken.push_back(frame(0));
    assert_eq!(mux.detach(), 5);
    assert_eq!(mux.stats().vf_tx_dropped, 5);
    mux.attach(vf());
    assert_eq!(mux.detach(), 0, "told before");
}

/// The host need not have been heard yet: then what the VF holds has no place among what came by the rings.
#[test]
fn what_a_vf_holds_that_is_not_received_from_is_counted() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.vf_mut().unwrap().received.extend((0..3).map(frame));
    mux.detach();
    assert_eq!((mux.stats().vf_rx_dropped, mux.take_received_lost()), (3, 3));
    assert_eq!(mux.take_received_lost(), 0, "told once");

    mux.attach(vf());
    mux.receive_from_both(0);
    mux.vf_mut().unwrap().received.extend((3..5).map(frame));
    mux.receive_from_rings();
    // Too late: the host has sent by the rings since.
    mux.vf_mut().unwrap().received.push_back(frame(5));
    mux.detach();
    assert_eq!((mux.stats().vf_rx_dropped, mux.take_received_lost()), (4, 1));
    assert_eq!(receive(&mut mux, &mut rings, &mut Random::new(1), 3), 5, "what it held before is kept");
}

/// Ethernet, IPv4, TCP without options, and a payload.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x5A; 54 + payload];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    frame[46] = 0x50;
    frame
}

#[test]
fn what_is_lost_of_a_frame_that_was_cut_is_told_when_the_vf_goes() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(Vf { promised: 100, ..vf() });
    mux.send_by(Path::VirtualFunction);
    let segmentation = Segmentation { ip: IpVersion::V4, mss: 1000, transport_offset: 34, fixed_id: false };
    let meta = TxMeta { segmentation: Some(segmentation), ..TxMeta::default() };
    mux.send(&mut rings, &tcp(9500), &meta).unwrap();
    assert_eq!((mux.stats().vf_tx_packets, mux.stats().vf_tx_dropped), (VF_RING as u64, 4));
    mux.vf_mut().unwrap().taken.clear();
    assert_eq!(mux.detach(), 4);
    assert_eq!(mux.stats().vf_tx_dropped, 4, "counted once");
}

/// What was kept for longer than the frames of whoever comes for it at last is not in the way for ever, and counted.
#[test]
fn a_kept_frame_that_nobody_has_room_for_is_dropped_and_counted() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.receive_from_both(0);
    let received = &mut mux.vf_mut().unwrap().received;
    received.extend([frame(7), vec![0; 900], frame(8)]);
    mux.detach();
    let mut burst = Burst::new(8, 256);
    assert_eq!(mux.receive(&mut rings, &mut burst, 8), Ok(2));
    assert_eq!(burst.frames().map(|frame| number(frame.bytes)).collect::<Vec<_>>(), [7, 8]);
    assert_eq!((mux.stats().vf_rx_packets, mux.stats().vf_rx_dropped), (2, 1));
}

/// Frames of a burst are handed over together, by the flush.
#[test]
fn a_vf_in_use_is_not_asked_for_each_frame_what_is_outstanding() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.send_by(Path::VirtualFunction);
    assert_eq!(mux.is_settled(&mut rings), Ok(true));
    let before = mux.vf_mut().unwrap().asked;
    for number in 0..VF_RING as u64 {
        mux.send(&mut rings, &frame(number), &TxMeta::default()).unwrap();
    }
    let vf = mux.vf_mut().unwrap();
    assert_eq!((vf.taken.len(), vf.asked - before), (VF_RING, 0));
}

#[test]
fn metadata_say_which_path_a_frame_came_by() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    rings.ring.push_back(Some(frame(0)));
    rings.pump().unwrap();
    mux.receive_from_both(1);
    mux.vf_mut().unwrap().received.push_back(frame(1));
    let mut burst = Burst::new(8, 4096);
    assert_eq!(mux.receive(&mut rings, &mut burst, 8), Ok(2));
    let paths: Vec<Path> = burst.frames().map(|frame| frame.meta.path).collect();
    assert_eq!(paths, [Path::Synthetic, Path::VirtualFunction]);
    assert_eq!(mux.stats().vf_rx_packets, 1);
}

#[test]
fn a_busy_vf_does_not_starve_the_rings() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.receive_from_both(0);
    rings.ring.push_back(Some(frame(7)));
    let mut by_vf = 0;
    loop {
        let vf = mux.vf_mut().unwrap();
        while vf.received.len() < VF_RING {
            vf.received.push_back(frame(0));
        }
        let mut burst = Burst::new(1, 128);
        mux.receive(&mut rings, &mut burst, 1).unwrap();
        if number(burst.get(0).unwrap().bytes) == 7 {
            break;
        }
        by_vf += 1;
    }
    assert!(by_vf <= 2 * VF_RING, "{by_vf}");
}

#[test]
fn what_a_vf_holds_for_other_queues_does_not_keep_the_rings_waiting() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(Vf { flooded: true, ..vf() });
    mux.receive_from_both(0);
    let mut expected = 0;
    for number in 0..20 {
        rings.ring.push_back(Some(frame(number)));
        let mut burst = Burst::new(8, 4096);
        mux.receive(&mut rings, &mut burst, 8).unwrap();
        assert_eq!(burst.len(), 1);
        for frame in &burst {
            assert_eq!(self::number(frame.bytes), expected);
            expected += 1;
        }
    }
}

/// A sink that is full says nothing of how much more there is: the turn goes on where it was.
#[test]
fn rings_wait_for_what_a_sink_had_no_room_for() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.receive_from_both(0);
    mux.vf_mut().unwrap().received.extend((36..40).map(frame));
    rings.ring.push_back(Some(frame(40)));
    let mut expected = 36;
    for _ in 0..5 {
        // There is room for the short one of the rings, and for one of the others.
        let mut burst = Burst::new(8, 200);
        mux.receive(&mut rings, &mut burst, 8).unwrap();
        for frame in &burst {
            assert_eq!(number(frame.bytes), expected);
            expected += 1;
        }
    }
    assert_eq!(expected, 41);
}

/// However long a turn takes: what came by the rings since it began may be what the host sent after all that the VF holds.
#[test]
fn a_turn_takes_no_more_of_the_rings_than_they_held_when_it_began() {
    let (mut mux, mut rings) = (Mux::new(), Rings::default());
    mux.attach(vf());
    mux.receive_from_both(0);
    rings.ring.push_back(Some(frame(100)));
    // Two more than a turn takes.
    mux.vf_mut().unwrap().received.extend((0..VF_RING as u64 + 2).map(frame));
    let mut got = Vec::new();
    let mut receive = |mux: &mut Mux<Vf>, rings: &mut Rings, max| {
        let mut burst = Burst::new(16, 4096);
        mux.receive(rings, &mut burst, max).unwrap();
        got.extend(burst.frames().map(|frame| number(frame.bytes)));
    };
    receive(&mut mux, &mut rings, VF_RING);
    // The host has taken the traffic back, and somebody has looked at the ring.
    rings.ring.push_back(Some(frame(200)));
    rings.pump().unwrap();
    receive(&mut mux, &mut rings, 1);
    for _ in 0..3 {
        receive(&mut mux, &mut rings, 16);
    }
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 100, 6, 7, 200]);
}
