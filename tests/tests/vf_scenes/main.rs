//! What hosts do with a virtual function, scene by scene, against a whole adapter in virtual time: what the adapter's state is
//! then, what it tells, what it counts, and that traffic goes on: what was accepted is delivered, once, in the order of its flow.
//!
//! | file | what the host does |
//! |---|---|
//! | `unwilling` | refuses the switch, ignores it, is silent about it, or late |
//! | `offers` | says things twice, in any order, takes back what was not there yet, or in the middle of a switch |
//! | `grace` | leaves the device for a while after it has taken it back |
//! | `serials` | means another device than the one that is there |
//! | `migration` | takes the whole NIC away and offers it again |
//! | `two_nics` | has two NICs whose addresses are nearly the same |
//! | `seeds` | all of these, by seed |
//!
//! What may happen besides in any order, without hosts: `vf_schedules.rs`, `vf_async.rs`.

mod grace;
mod ledger;
mod migration;
mod offers;
mod seeds;
mod serials;
mod two_nics;
mod unwilling;
mod world;
