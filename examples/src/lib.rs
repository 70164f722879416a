//! What the programs in this package share: a small TCP/IP appliance over any smoltcp device.
//!
//! - [`stack`]: a network interface with its sockets, driven in bounded turns; time is passed in.
//! - [`server`] and [`http`]: an HTTP/1.1 server on such a stack, with statistics and test content ([`blob`]).
//! - [`client`]: fetches test content over a stack of its own and hashes it on the way.
//! - [`link`]: what a device needs so that a task can sleep until there is something to do; the loop of that task.
//! - [`wire`]: two devices joined by a wire in memory, for tests in virtual time.
//! - [`port`]: the far end of the simulated host's network, as such a device.
//! - [`address`], [`size`]: addresses and byte counts as people write them.
//! - [`outcome`]: what an appliance says at its end, for people and for scripts.
//!
//! `appliance.rs` puts these and the NIC together.

pub mod address;
pub mod blob;
pub mod client;
pub mod http;
pub mod link;
pub mod outcome;
pub mod port;
pub mod server;
pub mod size;
pub mod stack;
pub mod wire;
