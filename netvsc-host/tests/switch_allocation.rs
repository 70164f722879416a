//! Frames pass through switch and ports without one allocation, once their buffers exist.

use core::time::Duration;

use netvsc_allocations::{Counting, count_here};
use netvsc_host::port::{GeneratorConfig, GeneratorPort, LoopbackPort, NullPort, Port, memory_pair};
use netvsc_host::switch::{MacAddress, PacketFilter, PortOptions, Switch};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_per_frame() {
    let own = MacAddress([2, 0, 0, 0, 0, 10]);
    let mut switch = Switch::<Box<dyn Port>>::default();
    let (inside, guest) = memory_pair(256);
    let filter = PacketFilter::PROMISCUOUS;
    switch.add_port(Box::new(inside), PortOptions::nic(own).filter(filter)).unwrap();
    let config = GeneratorConfig::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 99]).frame_bytes(1514);
    let (generator, handle) = GeneratorPort::new(config).unwrap();
    switch.add_port(Box::new(generator), PortOptions::trunk()).unwrap();
    switch.add_port(Box::new(LoopbackPort::new()), PortOptions::trunk()).unwrap();
    switch.add_port(Box::new(NullPort), PortOptions::trunk()).unwrap();

    let mut reply = [0; 1514];
    reply[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    reply[6..12].copy_from_slice(&own.0);
    let mut round = |turn: u64| {
        switch.poll(Duration::from_millis(turn), 64);
        while let Ok(frame) = guest.try_recv() {
            assert_eq!(frame.len(), 1514);
            guest.send(&reply).unwrap();
        }
    };
    (0..16).for_each(&mut round);
    let (allocations, frames) = (count_here(), handle.stats().sent);
    (16..256).for_each(&mut round);
    assert!(handle.stats().sent >= frames + 240 * 64);
    assert_eq!(count_here() - allocations, 0);
}
