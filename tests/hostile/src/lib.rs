//! A host that does as it is told: what fuzz targets and the test with hostile bytes share.
//!
//! | module | has |
//! |---|---|
//! | [`parsers`] | every parser of the wire crates, over any bytes |
//! | [`ring`] | both roles of a ring whose other side writes anything anywhere |
//! | [`client`] | the guest's control plane, fed with any messages |
//! | [`nic`] | a whole NIC on a host that answers rightly, wrongly, or not at all |
//! | [`corpus`] | messages that are right, to start from |
//! | [`seeded`] | hostile input from a seed, for runs without a fuzzer |
//!
//! Whatever is driven here must not panic, loop or keep more than a bounded amount of what the host said. The first shows by
//! itself, the second by the run not ending; for the third the drivers assert what has a limit, and the test counts bytes.
#![forbid(unsafe_code)]

mod bytes;
pub mod client;
pub mod corpus;
pub mod nic;
pub mod parsers;
pub mod ring;
pub mod seeded;

pub use bytes::Bytes;
