//! The synthetic network adapter of Hyper-V and Azure, without I/O.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod control;
mod error;
pub mod info;
pub mod meta;
mod nic;
pub mod queue;
pub mod stats;
pub mod time;

pub use config::{Config, ConfigError, Warning};
pub use control::{CloseReport, Event, RequestHandle};
pub use error::NicError;
pub use info::{DeviceInfo, LinkSpeed, LinkState, MacAddress, PacketFilter, Sections, VirtualFunction};
pub use nic::Nic;
pub use time::Instant;
