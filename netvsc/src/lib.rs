//! The synthetic network adapter of Hyper-V and Azure, without I/O.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod control;
pub mod info;
pub mod meta;
pub mod queue;
pub mod stats;
pub mod time;

pub use config::{Config, ConfigError, Warning};
pub use control::{CloseReport, Event, RequestHandle};
pub use info::{DeviceInfo, LinkSpeed, LinkState, MacAddress, Sections, VirtualFunction};
pub use time::Instant;
