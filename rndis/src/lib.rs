//! RNDIS as Hyper-V speaks it: messages, per-packet information and OIDs.
//!
//! (The full text comes with the value types.)
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

mod bytes;
pub mod control;
mod error;
mod message;
mod oid;
pub mod packet;
pub mod ppi;
mod status;

pub use error::{EmitError, ParseError};
pub use message::{MESSAGE_HEADER_LEN, Message, MessageHeader, MessageType, RequestId};
pub use oid::Oid;
pub use status::Status;

#[cfg(doctest)]
extern crate std;
