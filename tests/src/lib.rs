//! What the tests across crates share: frames that know what they must look like, an adapter on the simulated host, and
//! the programs and privileges that tests on real traffic need.
//!
//! | test file | subject |
//! |---|---|
//! | `matrix` | every profile, NVSP version and section count |
//! | `mtu` | frame sizes beyond 1514 bytes |
//! | `host_quirks` | every behaviour that was seen on independent hosts, one test each |
//! | `control` | bring-up and requests against hosts that are late, silent, refusing or talkative |
//! | `exhaustion` | sections, rings and memory that run out |
//! | `stress` | seeded random traffic under seeded random faults |
//! | `rss_and_hash_levels` | which queue a frame comes by and leaves by |
//! | `forwarder` | `l2fwd` between two adapters, in a process of its own |
//! | `offload_matrix` | the kernel's TCP/IP between two namespaces through the forwarder, under every offload |
//! | `gro_round_trip` | segments merged on receive, forwarded, and cut again; a stack over merged segments |
//! | `appliance` | the example program, reached by the kernel's TCP/IP stack over a TAP interface |
//! | `offloads` | whatever is granted, the frames on the wire are the same |
//! | `close_any_time` | a device that is closed between any two steps of its life |
//! | `reconfigure_under_load` | sections, queues and MTU changed fifty times under TCP |
//! | `uio_nic` | the adapter on the Linux backend, files and sockets in place of a kernel |
//! | `uio_reconfigure` | sections, queues and MTU changed there |
//! | `shim_client` | our driver in a process of its own, against the host in another |
//! | `appliance_device` | the example program on such a device, reached over a TAP interface, its host killed |
//! | `idle` | adapters that sleep, and what wakes them |
//! | `vf_schedules`, `vf_async` | the life of a virtual function by thousands of seeds: the driver's core; the public API |
//! | `vf_sockets`, `vf_veth` | functions by their kernel interface; what the host does with veth pairs |
//! | `vf_scenes` | what hosts do with a function, scene by scene |
//! | `vf_failover` | the example program: TCP while a function comes and goes |
//! | `host_vf` | `netvsc-host --vf` and drivers in processes of their own |
//! | `uio_held` | frames held in the receive buffer, on the Linux backend |
//! | `dpdk`, `dpdk_vf` | the host, judged by DPDK's driver; a function that it moves its traffic to |
//! | `hostile` | bytes that no host should send |
//!
//! # Switches
//!
//! What is drawn at random comes from seeds, which are the same on every machine. The environment changes them, and how
//! much is tried:
//!
//! | variable | of | is |
//! |---|---|---|
//! | `CI` | everything | set to anything: what cannot run here (no root, a program is missing) fails, and is not skipped |
//! | `PROPTEST_RNG_SEED` | property tests of all crates | their seed; `.cargo/config.toml` has the usual one |
//! | `PROPTEST_CASES` | those that do not say how many cases they need | cases of each |
//! | `NETVSC_STRESS_FIRST`, `NETVSC_STRESS_SEEDS` | `stress` | the first seed, and how many |
//! | `NETVSC_STRESS_SEED` | `stress` of `netvsc-async` | the only seed |
//! | `VF_SEED` | `vf_schedules`, `vf_async`, `vf_scenes` | the only seed |
//! | `VF_SEEDS`, `VF_ASYNC_SEEDS`, `VF_SCENES_SEEDS` | the same | how many seeds |
//! | `VF_PAIRS` | `vf_schedules` | `full`: every pair of events, as in a release build |
//! | `HOSTILE_MESSAGES`, `HOSTILE_SEED` | `hostile` | how many messages, and the seed |
//! | `FULL`, `MIB`, `CELLS` | `offload_matrix` | all cells; size of a transfer; which cells |
//! | `NETVSC_HOST_BIN`, `NETVSC_L2FWD_BIN`, … | tests with processes | a program to be used instead of building it |
#![forbid(unsafe_code)]

pub mod flows;
pub mod frames;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
pub mod process;
pub mod real;
pub mod rig;
#[cfg(target_os = "linux")]
pub mod transfer;
#[cfg(target_os = "linux")]
pub mod uio_world;

/// The code samples of the README, compiled as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
