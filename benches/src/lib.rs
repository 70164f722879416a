//! What the benchmarks share: a queue with a minimal host end, frames, and comparing with other programs.
//!
//! The host end has no policy and allocates nothing while it works, so that what is measured is the guest.
//!
//! See `README.md` for the commands and the figures.

pub mod compare;
pub mod frames;
pub mod link;
pub mod nic;
pub mod process;
pub mod turns;
