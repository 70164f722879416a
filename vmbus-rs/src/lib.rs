//! VMBus for guests in user space: how a Hyper-V guest's device driver talks to its host.
//!
//! | word | is |
//! |---|---|
//! | channel | a pair of rings between guest and host, with a signal each way; the *primary* one is offered, *subchannels* are asked for |
//! | ring | a control page and a data area in shared memory, through which packets go one way |
//! | packet | descriptor, optional header, payload; may ask for a *completion* with its *transaction id* |
//! | transfer pages | ranges of a buffer that both sides know: how the host hands data over |
//! | GPADL | guest physical address descriptor list: memory that the guest opened to the host |
//! | GPA direct | a packet whose data stays in guest memory, named by page numbers |
//! | relid | a channel's number on its connection |
//! | doorbell, interrupt | the signals to the host and from it |
//!
//! # Where to look
//! * [`bus`]: the trait layer, which drivers are written against and backends implement;
//! * [`ring`], [`packet`]: how packets cross; [`memory`]: memory that the host also writes, and all `unsafe` code;
//! * [`protocol`], [`gpadl`], [`monitor`], [`synic`]: the control plane's wire forms; [`client`]: the guest's side of it
//!   as a state machine without I/O;
//! * `mem`: the in-process backend; `aio`: a channel as async `Stream` and `Sink`.
//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `alloc` | | `memory::HeapMemory`, `client` |
//! | `std` | yes | `alloc`, and what needs an operating system |
//! | `mem` | | `mem`: guest and host in one process |
//! | `mmap` | | shared memory mapped from files |
//! | `tokio` | | `aio` |
//!
//! Without features the crate is `no_std` and does not allocate.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "tokio")]
pub mod aio;
pub mod bus;
#[cfg(feature = "alloc")]
pub mod client;
pub mod error;
pub mod gpadl;
pub mod guid;
#[cfg(feature = "mem")]
pub mod mem;
#[expect(unsafe_code, reason = "the one module that touches memory which the host also writes")]
pub mod memory;
pub mod monitor;
pub mod packet;
pub mod protocol;
pub mod ring;
pub mod synic;
#[cfg(all(feature = "uio", target_os = "linux"))]
pub mod uio;

pub use error::{Error, ErrorKind, ErrorType};
