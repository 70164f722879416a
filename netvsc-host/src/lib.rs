//! A simulated Hyper-V host for synthetic NICs.
//!
//! ```text
//!   guest (driver under test)            another NIC, or a Port: memory pair, TAP, generator, …
//!        │ GuestPort                                     │
//!  ┌─────┴──────┐   ┌─────────────┐   frames   ┌─────────┴─┐
//!  │VMBus server├───┤ NetVSP + RNDIS├──────────┤  Switch   │
//!  └────────────┘   └─────────────┘            └───────────┘
//! ```
//!
//! One [`Host`] has one virtual switch and any number of NICs, each with a VMBus connection of its own. It checks
//! everything that guests send and records what they must not do ([`Violation`], with the bytes); at the end a
//! [`Report`] says what was not given back. What it says and how it behaves follows a [`Profile`] (a Windows release) and
//! its [`Settings`]; it shares wire types with the driver, and none of its logic.
//!
//! The host does nothing by itself. [`Host::step`] does all the work that there is, at a time that is passed in: tests
//! are deterministic. The runners call it: [`Host::run_inline`] on the guest's thread, [`Host::spawn_thread`] on its own,
//! and `Host::spawn` (feature `tokio`) as a task. None of them costs anything while there is nothing to do.
//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `tap` | | a switch port on a Linux TAP interface |
//! | `veth` | | a switch port on any interface of this machine, and virtual functions as veth pairs, on Linux |
//! | `tokio` | | `Host::spawn`; `vf::Servicing::run` |
//! | `pcap` | | a switch port that plays a capture file |
//! | `export` | | devices for other processes, on Linux: module `export` |
//! | `cli` | | the program `netvsc-host` |
#![forbid(unsafe_code)]

#[cfg(all(feature = "export", target_os = "linux"))]
pub mod export;
pub mod fault;
mod host;
mod netvsp;
mod offload;
pub mod port;
pub mod profile;
mod report;
mod runner;
pub mod switch;
pub mod vf;
pub mod violation;
mod vmbus_server;

pub use host::{Host, HostBuilder, NicId, NicOptions, Stepped};
pub use profile::{Profile, Settings};
pub use report::{Leaks, NicCounters, NicReport, Report};
pub use runner::HostThread;
pub use violation::{Strictness, Violation, ViolationKind};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
