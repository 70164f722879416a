//! Frames pass through switch and ports without one allocation, once their buffers exist.

use core::alloc::Layout;
use core::cell::Cell;
use core::time::Duration;
use std::alloc::{GlobalAlloc, System};

use netvsc_host::port::{GeneratorConfig, GeneratorPort, LoopbackPort, NullPort, Port, memory_pair};
use netvsc_host::switch::{MacAddress, PacketFilter, PortOptions, Switch};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with allocations counted by thread.
struct Counting;

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait; it hands every call on")]
// SAFETY: every method hands its arguments to `System` unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Fails only while the thread ends; nothing is measured then.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

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
    let (allocations, frames) = (ALLOCATIONS.get(), handle.stats().sent);
    (16..256).for_each(&mut round);
    assert!(handle.stats().sent >= frames + 240 * 64);
    assert_eq!(ALLOCATIONS.get() - allocations, 0);
}
