//! RNDIS as Hyper-V speaks it: messages, per-packet information and OIDs, as bytes and as values.
//!
//! A guest's network adapter on Hyper-V sends and receives its frames, and is configured, by RNDIS messages inside
//! NVSP packets. This crate turns the bytes of those messages into values and back, for either side. It keeps no
//! state, allocates nothing and does no I/O; `no_std`, no dependencies, no unsafe code.
//!
//! # Check once, then read freely
//!
//! The other side is not trusted. Every `parse` checks all lengths and offsets, and never panics or loops without end,
//! whatever the bytes; what it returns has accessors that cannot fail. Errors name the field, its value and the limit.
//! Every `emit` states its length first (`buffer_len`) and writes into the caller's slice.
//!
//! ```
//! use rndis::control::{Query, QueryComplete};
//! use rndis::value::LinkSpeed;
//! use rndis::{Message, Oid, RequestId, Status};
//!
//! // The guest asks …
//! let query = Query::new(RequestId(7), Oid::LINK_SPEED);
//! let mut request = [0; Query::FIXED_LEN];
//! let len = query.emit(&mut request)?;
//!
//! // … the host answers …
//! let Message::Query(asked) = Message::parse(&request[..len])? else { unreachable!() };
//! assert_eq!(asked.oid, Oid::LINK_SPEED);
//! let mut value = [0; LinkSpeed::LEN];
//! LinkSpeed(100_000_000).emit(&mut value)?;
//! let mut answer = [0; 64];
//! QueryComplete { request_id: asked.request_id, status: Status::SUCCESS, information: &value }
//!     .emit(&mut answer)?;
//!
//! // … and the guest reads the value.
//! let complete = QueryComplete::parse(&answer)?;
//! assert_eq!(complete.request_id, RequestId(7));
//! assert_eq!(LinkSpeed::parse(complete.information)?.bits_per_second(), 10_000_000_000);
//!
//! // A value outside its message is an error that says so.
//! answer[16] = 5;
//! let error = QueryComplete::parse(&answer).unwrap_err();
//! assert_eq!(error.to_string(), "InformationBufferLength is 5, more than 4");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | subject | place |
//! |---|---|
//! | any message, by type | [`Message`] |
//! | requests, answers, indications | [`control`] |
//! | frames, and several of them in one section | [`packet`] |
//! | what is said about a frame: checksum, VLAN, hash, large send | [`ppi`] |
//! | names of values | [`Oid`] |
//! | the values | [`value`], [`rss`], [`offload`] |
//!
//! # Words
//!
//! - **message**: one unit of RNDIS: type, length, fields. A **packet** is the message that carries a frame.
//! - **range**: the bytes of the receive buffer, or of the guest's memory, that hold a message. It may be longer.
//! - **section**: one slot of the send buffer; it may hold several packets, a **batch**.
//! - **PPI**: per-packet information; a block of **elements** in a packet, in front of its data.
//! - **OID**: number of a value that can be queried or set. An **indication** is a change that the host tells of.
//! - **request id**: number that a request carries and its answer (**completion**) repeats.
//! - **RSC**: receive segment coalescing; the host merges segments of a flow and delivers the merged frame as several
//!   packets, its **fragments**.
//! - **LSO**: large send offload; the host cuts one large segment into frames.
//! - **RSS**: receive-side scaling; the host spreads flows over channels by their hash.
//!
//! All numbers on the wire are little-endian. Offsets on the wire count from byte 8 of a message, except inside the
//! values of OIDs, where they count from the value's first byte.
//!
//! # Sources
//!
//! [MS-RNDIS], the NDIS reference, and where they are silent or practice differs, the drivers and hosts that are in
//! use: Linux `include/linux/rndis.h` and `drivers/net/hyperv`, DPDK `drivers/net/netvsc`, FreeBSD
//! `sys/dev/hyperv/netvsc`, OpenVMM `vm/devices/net/netvsp`. Each module names its own.
//!
//! [MS-RNDIS]: https://learn.microsoft.com/openspecs/windows_protocols/ms-rndis/
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

mod bytes;
pub mod control;
mod error;
mod message;
pub mod offload;
mod oid;
pub mod packet;
pub mod ppi;
pub mod rss;
mod status;
pub mod value;

pub use error::{EmitError, ParseError};
pub use message::{MESSAGE_HEADER_LEN, Message, MessageHeader, MessageType, RequestId};
pub use oid::Oid;
pub use status::Status;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
