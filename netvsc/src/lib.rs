//! The synthetic network adapter of Hyper-V and Azure as a driver without I/O: what Linux' `hv_netvsc` does, for guests in
//! user space, unikernels, test beds and fuzzers.
//!
//! Nothing here opens a file, starts a thread or asks for the time. A backend gives rings and memory by the traits of
//! [`vmbus::bus`]; the crate does the rest: NVSP of every version, RNDIS, receive and send buffer, aggregation,
//! acknowledgments, link state, teardown. `netvsc-async` puts tokio on top of it.
//!
//! | type | is |
//! |---|---|
//! | [`Nic`] | the device: bring-up, requests, events, close; a loop around [`control::Control`] |
//! | [`Queue`] | the data path of one channel: frames in and out, no locks, no allocation a packet |
//! | [`Config`], [`DeviceInfo`] | what is wished, and what became of it |
//! | [`Event`] | what happened: up, link, failure with its step and cause |
//! | [`Burst`], [`FrameSink`] | where received frames go |
//! | [`vf::Machine`], [`vf::Mux`] | the SR-IOV virtual function: when its path is used, and how the two paths are made one |
//! | [`TxSteering`], [`RssSettings`] | several queues: which one a frame leaves by, and arrives at |
//! | [`OffloadSettings`], [`Offloads`] | what the host shall do to frames, and what it granted |
//! | [`frame`], [`checksum`], [`segment`], [`gro`] | what hosts do not, or not everywhere, in software |
//! | [`RxMeta`], [`TxMeta`] | what travels beside a frame: checksums, VLAN, hash, segmentation |
//!
//! # How it is driven
//! ```
//! use std::task::{Context, Waker};
//! use netvsc::{Config, Event, Instant, Nic, Queue};
//! use vmbus::bus::Bus;
//!
//! /// Brings a device up, on a bus whose host runs on this thread.
//! fn bring_up<B: Bus>(bus: B) -> Result<(Nic<B>, Option<Queue<B::Channel>>), Box<dyn std::error::Error>> {
//!     let mut nic = Nic::new(bus, Config::default(), Instant::ZERO)?;
//!     let mut queue = None;
//!     let mut cx = Context::from_waker(Waker::noop());
//!     loop {
//!         let now = Instant::ZERO; // The time since an epoch of yours.
//!         nic.poll(now, &mut cx, queue.as_mut())?;
//!         queue = queue.or_else(|| nic.take_queue());
//!         while let Some(event) = nic.poll_event() {
//!             match event {
//!                 Event::Ready(_) => return Ok((nic, queue)),
//!                 Event::Failed { step, cause, .. } => return Err(format!("{step}: {cause}").into()),
//!                 _ => {}
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # The host is not trusted
//! Bytes are copied before they are read, and each value is checked where it comes in. Nothing a host does causes a panic, an
//! endless loop or memory that grows without bound; what it does wrong is an [`Event`] or a counter.
//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `std` | yes | nothing of its own: `std` of `vmbus` |
//!
//! The crate is `no_std` and needs `alloc`.
//!
//! # Words
//! NVSP: the protocol between guest and host on the channel. RNDIS: the messages inside it, frames among them. Section:
//! one slot of the send or receive buffer. GPADL: memory lent to the host. GPA direct: a packet that names guest pages. OID: the number of
//! a value that can be read or set. VF: the SR-IOV virtual function. The protocol's sources are named in [`nvsp`] and [`rndis`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod checksum;
pub mod config;
pub mod control;
mod error;
pub mod frame;
pub mod gro;
pub mod info;
pub mod meta;
mod nic;
pub mod offload;
pub mod queue;
pub mod rss;
pub mod segment;
pub mod stats;
pub mod steering;
pub mod time;
pub mod vf;

pub use config::{Config, ConfigError, Warning};
pub use control::{CloseReport, Event, RequestHandle};
pub use error::NicError;
pub use info::{DeviceInfo, LinkSpeed, LinkState, MacAddress, PacketFilter, Sections, VirtualFunction};
pub use meta::{RxMeta, TxMeta};
pub use nic::{Nic, QueueAccess};
pub use offload::{OffloadSettings, Offloads};
pub use queue::{Burst, Frame, FrameMut, FrameSink, Queue, QueueError, SendError};
pub use rss::{RssKey, RssSettings};
pub use steering::{HashLevel, TxSteering};
pub use time::Instant;
