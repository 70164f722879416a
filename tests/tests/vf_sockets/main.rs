//! Virtual functions by their kernel's network interface (`netvsc_async::vf::sockets`), on veth pairs: the guest's end in one
//! network namespace, the other in a peer's, whose kernel speaks TCP and UDP.
//!
//! Needs root; without it says `SKIPPED`, and fails where the variable `CI` is set.
#![cfg(target_os = "linux")]

use netvsc_allocations::Counting;

macro_rules! privileged {
    () => {{
        let Some(lock) = netvsc_tests::real::privileged_or_skip(&["ip"]) else { return };
        lock
    }};
}

mod adapter;
mod frames;
mod interface;
mod tcp;
mod wire;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
