//! The switch by what its ports see: who gets which frame, and what is counted.

mod switch_support;

use core::time::Duration;

use netvsc_host::port::{Frame, LoopbackPort, MemoryPort, NullPort, Port};
use netvsc_host::switch::{AddPortError, MacAddress, PacketFilter, PortId, PortOptions, Switch, SwitchConfig};
use switch_support::{Net, frame, mac};

const NOW: Duration = Duration::ZERO;
const BROADCAST: MacAddress = MacAddress([0xff; 6]);
const GROUP: MacAddress = MacAddress([0x33, 0x33, 0, 0, 0, 1]);

/// A NIC port that is open, as a driver opens it.
fn open_nic(number: u8) -> PortOptions {
    PortOptions::nic(mac(number)).filter(PacketFilter::OPEN)
}

#[test]
fn group_and_unknown_frames_reach_all_but_the_sender() {
    let mut net = Net::trunks(4);
    for destination in [BROADCAST, GROUP, mac(99)] {
        assert_eq!(net.send(0, frame(destination, mac(1))), [1, 2, 3], "{destination}");
    }
    assert_eq!(net.counters(0).flooded, 1, "only the unknown station counts as flooded");
}

#[test]
fn a_known_station_gets_its_frames_alone() {
    let mut net = Net::trunks(4);
    net.send(2, frame(BROADCAST, mac(3)));
    assert_eq!(net.switch.lookup(NOW, mac(3)), Some(net.ids[2]));
    assert_eq!(net.send(0, frame(mac(3), mac(1))), [2]);
    assert_eq!(net.send(2, frame(mac(1), mac(3))), [0]);
    assert_eq!(net.switch.learned(NOW), 2);
}

#[test]
fn a_silent_station_is_forgotten_after_the_ageing_time() {
    let mut net = Net::trunks(3);
    net.send(2, frame(BROADCAST, mac(3)));
    net.now = Duration::from_secs(300);
    assert_eq!(net.send(0, frame(mac(3), mac(1))), [2]);
    net.now = Duration::from_secs(301);
    assert_eq!(net.send(0, frame(mac(3), mac(1))), [1, 2]);
}

#[test]
fn a_station_that_moves_is_found_at_its_new_port() {
    let mut net = Net::trunks(3);
    net.send(1, frame(BROADCAST, mac(3)));
    net.send(2, frame(BROADCAST, mac(3)));
    assert_eq!(net.send(0, frame(mac(3), mac(1))), [2]);
    assert_eq!((net.counters(1).moves, net.counters(2).moves), (0, 1));
}

#[test]
fn nothing_returns_to_the_port_it_came_from() {
    let mut net = Net::trunks(3);
    net.send(0, frame(BROADCAST, mac(1)));
    assert_eq!(net.send(0, frame(mac(1), mac(2))), [0_usize; 0]);
    assert_eq!(net.counters(0).in_drops.own_segment, 1);
}

#[test]
fn the_filter_of_a_nic_selects_its_frames() {
    let mut net = Net::trunks(1);
    net.add(PortOptions::nic(mac(10)));
    let to_all = [mac(10), mac(99), GROUP, BROADCAST];
    let received = |net: &mut Net| to_all.map(|to| !net.send(0, frame(to, mac(1))).is_empty());
    assert_eq!(received(&mut net), [false; 4], "a filter of 0 receives nothing");
    for (filter, expected) in [
        (PacketFilter::DIRECTED, [true, false, false, false]),
        (PacketFilter::ALL_MULTICAST, [false, false, true, false]),
        (PacketFilter::BROADCAST, [false, false, false, true]),
        (PacketFilter::PROMISCUOUS, [true; 4]),
        (PacketFilter::OPEN, [true, false, true, true]),
        (PacketFilter::CLOSED, [false; 4]),
    ] {
        assert!(net.switch.set_filter(net.ids[1], filter));
        assert_eq!(received(&mut net), expected, "{filter:?}");
    }
    let counters = net.counters(1);
    assert_eq!((counters.out_frames, counters.out_drops.filtered), (10, 18));
}

#[test]
fn a_closed_nic_still_sends() {
    let mut net = Net::trunks(1);
    net.add(PortOptions::nic(mac(10)));
    assert_eq!(net.send(1, frame(BROADCAST, mac(10))), [0]);
}

#[test]
fn the_address_of_a_nic_is_known_before_it_speaks_and_never_ages() {
    let mut net = Net::trunks(2);
    net.add(open_nic(10));
    net.now = Duration::from_secs(1_000_000);
    assert_eq!(net.send(0, frame(mac(10), mac(1))), [2]);
}

#[test]
fn a_nic_sends_from_its_own_address_only() {
    let mut net = Net::trunks(1);
    net.add(open_nic(10));
    net.add(open_nic(11).spoofing(true));
    assert_eq!(net.send(1, frame(BROADCAST, mac(77))), [0_usize; 0]);
    assert_eq!(net.counters(1).in_drops.spoofed, 1);
    assert_eq!(net.switch.lookup(NOW, mac(77)), None);
    assert_eq!(net.send(2, frame(BROADCAST, mac(77))), [0, 1]);
    assert_eq!(net.switch.lookup(NOW, mac(77)), Some(net.ids[2]));
}

#[test]
fn nobody_takes_a_nics_address_away() {
    let mut net = Net::trunks(2);
    net.add(open_nic(10));
    assert_eq!(net.send(0, frame(BROADCAST, mac(10))), [0_usize; 0]);
    assert_eq!(net.counters(0).in_drops.spoofed, 1);
    assert_eq!(net.send(1, frame(mac(10), mac(2))), [2]);
}

#[test]
fn an_address_learned_earlier_goes_to_the_nic_that_owns_it() {
    let mut net = Net::trunks(2);
    net.send(0, frame(BROADCAST, mac(10)));
    net.add(open_nic(10));
    assert_eq!(net.send(1, frame(mac(10), mac(2))), [2]);
    let other = mac(12);
    net.switch.set_mac(net.ids[2], other).unwrap();
    assert_eq!(net.send(1, frame(other, mac(2))), [2]);
    assert_eq!(net.send(1, frame(mac(10), mac(2))), [0], "the old address is unknown; the nic's filter is directed");
}

#[test]
fn frames_that_are_no_frames_are_refused_and_counted_by_cause() {
    let mut net = Net::with_config(SwitchConfig::default().max_frame_bytes(100));
    net.add(PortOptions::trunk());
    net.add(PortOptions::trunk());
    let good = frame(BROADCAST, mac(1));
    let mut longest = good.clone();
    longest.resize(100, 0);
    let mut oversize = good.clone();
    oversize.resize(101, 0);
    for bad in [Vec::new(), good[..13].to_vec(), oversize, frame(mac(2), GROUP), frame(mac(2), BROADCAST)] {
        assert_eq!(net.send(0, bad), [0_usize; 0]);
    }
    assert_eq!(net.send(0, frame(mac(2), MacAddress([0; 6]))), [0_usize; 0]);
    let counters = net.counters(0);
    assert_eq!((counters.in_drops.runt, counters.in_drops.oversize, counters.in_drops.bad_source), (2, 1, 3));
    assert_eq!((counters.in_frames, counters.in_drops.total(), net.switch.learned(NOW)), (0, 6, 0));
    assert_eq!(net.send(0, good[..14].to_vec()), [1], "a bare header is the shortest frame");
    assert_eq!(net.send(0, longest.clone()), [1]);
    // The limit has room for one tag. A second one does not count.
    longest[12..16].copy_from_slice(&[0x88, 0xA8, 0, 5]);
    longest[16..20].copy_from_slice(&[0x81, 0, 0, 7]);
    longest.resize(104, 0);
    assert_eq!(net.send(0, longest.clone()), [1]);
    longest.push(0);
    assert_eq!(net.send(0, longest), [0_usize; 0]);
}

#[test]
fn frames_and_bytes_are_counted_on_both_sides() {
    let mut net = Net::trunks(3);
    let bytes = frame(BROADCAST, mac(1));
    net.send(0, bytes.clone());
    net.send(0, bytes.clone());
    let len = bytes.len() as u64;
    let from = net.counters(0);
    assert_eq!((from.in_frames, from.in_bytes, from.out_frames, from.out_bytes), (2, 2 * len, 0, 0));
    for port in [1, 2] {
        let to = net.counters(port);
        assert_eq!((to.in_frames, to.out_frames, to.out_bytes), (0, 2, 2 * len));
    }
}

#[test]
fn a_full_port_loses_its_copy_only() {
    let mut net = Net::default();
    net.add_with_capacity(PortOptions::trunk(), 16);
    net.add_with_capacity(PortOptions::trunk(), 1);
    net.add_with_capacity(PortOptions::trunk(), 16);
    for _ in 0..3 {
        net.far[0].send(&frame(BROADCAST, mac(1))).unwrap();
    }
    net.switch.poll(NOW, 64);
    assert_eq!((net.far[1].pending(), net.far[2].pending()), (1, 3));
    assert_eq!((net.counters(1).out_drops.refused, net.counters(2).out_drops.refused), (2, 0));
}

#[test]
fn ports_come_and_go_and_old_ids_stay_dead() {
    let mut net = Net::trunks(3);
    net.send(2, frame(BROADCAST, mac(3)));
    let old = net.ids[2];
    assert!(net.switch.remove_port(old).is_some());
    assert!(net.switch.remove_port(old).is_none());
    assert_eq!(net.switch.lookup(NOW, mac(3)), None);
    net.far[0].send(&frame(mac(3), mac(1))).unwrap();
    net.switch.poll(NOW, 64);
    assert_eq!(net.far[1].pending(), 1);

    let new = net.switch.add_port(Box::new(NullPort), PortOptions::trunk()).unwrap();
    assert_ne!(new, old);
    assert_eq!(net.switch.counters(old), None);
    assert_eq!(net.switch.counters(new).unwrap().out_frames, 0, "a new port counts from 0");
    assert!(net.switch.port(old).is_none() && !net.switch.set_filter(old, PacketFilter::OPEN));
    assert_eq!(net.switch.forward(NOW, old, Frame::new(&frame(BROADCAST, mac(3)))), 0);
    assert_eq!(net.switch.ports().count(), 3);
}

#[test]
fn addresses_and_places_are_given_once() {
    let mut switch = Switch::<NullPort>::new(SwitchConfig::default().max_ports(2));
    let owner = switch.add_port(NullPort, open_nic(1)).unwrap();
    let in_use = AddPortError::AddressInUse { mac: mac(1), owner };
    assert_eq!(switch.add_port(NullPort, open_nic(1)), Err(in_use));
    let group = AddPortError::NotAStationAddress { mac: GROUP };
    assert_eq!(switch.add_port(NullPort, PortOptions::nic(GROUP)), Err(group));
    let second = switch.add_port(NullPort, open_nic(2)).unwrap();
    assert_eq!(switch.set_mac(second, mac(1)), Err(in_use));
    assert_eq!(switch.set_mac(second, GROUP), Err(group));
    assert_eq!(switch.set_mac(second, mac(2)), Ok(()));
    assert_eq!(switch.add_port(NullPort, PortOptions::trunk()), Err(AddPortError::TooManyPorts { limit: 2 }));
    switch.remove_port(owner);
    let trunk = switch.add_port(NullPort, PortOptions::trunk()).unwrap();
    assert_eq!(switch.set_mac(trunk, mac(5)), Err(AddPortError::NotANicPort));
}

#[test]
fn a_budget_bounds_each_port_and_says_that_there_is_more() {
    let mut net = Net::trunks(2);
    for _ in 0..5 {
        net.far[0].send(&frame(BROADCAST, mac(1))).unwrap();
    }
    let polled = net.switch.poll(NOW, 3);
    assert_eq!((polled.frames, polled.more), (3, true));
    assert_eq!(net.switch.next_timeout(NOW), Some(Duration::ZERO));
    let polled = net.switch.poll(NOW, 3);
    assert_eq!((polled.frames, polled.more), (2, false));
    assert_eq!(net.switch.next_timeout(NOW), None);
    assert_eq!(net.far[1].pending(), 5);
}

#[test]
fn a_nic_hears_its_echo_from_a_loopback() {
    let mut net = Net::default();
    net.add(open_nic(10));
    net.switch.add_port(Box::new(LoopbackPort::new()), PortOptions::trunk()).unwrap();
    net.far[0].send(&frame(mac(20), mac(10))).unwrap();
    net.settle();
    let echo = net.far[0].try_recv().unwrap();
    assert_eq!((&echo[..6], &echo[6..12]), (&mac(10).0[..], &mac(20).0[..]));
}

#[test]
fn a_port_is_flushed_once_a_batch_and_only_if_it_got_frames() {
    let mut switch = Switch::<Kind>::default();
    let quiet = switch.add_port(Kind::Recorder { delivered: 0, flushed: 0 }, open_nic(1)).unwrap();
    let busy = switch.add_port(Kind::Recorder { delivered: 0, flushed: 0 }, open_nic(2)).unwrap();
    let (inside, far) = netvsc_host::port::memory_pair(16);
    switch.add_port(Kind::Memory(inside), PortOptions::trunk()).unwrap();
    for _ in 0..4 {
        far.send(&frame(mac(2), mac(9))).unwrap();
    }
    switch.poll(NOW, 64);
    let seen = |id: PortId| match switch.port(id) {
        Some(Kind::Recorder { delivered, flushed }) => (*delivered, *flushed),
        _ => panic!("not a recorder"),
    };
    assert_eq!((seen(busy), seen(quiet)), ((4, 1), (0, 0)));
}

/// A switch may hold ports of a type of its user's, as the host does.
enum Kind {
    Recorder { delivered: u32, flushed: u32 },
    Memory(netvsc_host::port::MemorySwitchPort),
}

impl Port for Kind {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        match self {
            Self::Recorder { delivered, .. } => {
                *delivered += 1;
                true
            }
            Self::Memory(port) => port.deliver(frame),
        }
    }

    fn flush(&mut self) {
        if let Self::Recorder { flushed, .. } = self {
            *flushed += 1;
        }
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        match self {
            Self::Recorder { .. } => 0,
            Self::Memory(port) => port.poll(now, budget, out),
        }
    }
}

#[test]
fn the_other_end_learns_that_its_port_is_gone() {
    let mut net = Net::trunks(1);
    let far: MemoryPort = net.far.remove(0);
    drop(net.switch.remove_port(net.ids[0]));
    assert!(far.send(b"anything").is_err());
}
