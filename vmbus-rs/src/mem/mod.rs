//! The in-process backend: guest and host in one program.
//!
//! It is VMBus with everything but the hypervisor: the control plane's messages ([`crate::protocol`]) really cross,
//! GPADLs really list pages, rings really are shared memory. What it replaces is the transport below: posting a message,
//! signalling an event, and guest physical memory.
//!
//! ```text
//!  MemBus (implements Bus) ── client state machine        a host's VMBus server
//!        │                                                        │
//!    GuestPort ───── messages, signals, guest memory ────────── HostPort
//! ```
//!
//! [`connection`] makes both ends. The host's end is used by a VMBus server (that of `netvsc-host`, or a test's); it may
//! run on another thread, as a task, or only when the guest lets it ([`HostPort::set_runner`], single-threaded and
//! deterministic).

mod bus;
mod guest_memory;
mod latch;
mod link;

pub use bus::{MemBus, MemChannel, MemDoorbell, MemError, MemInterrupt};
pub use guest_memory::{GuestMemory, Unmapped};
pub use latch::Latch;
pub use link::{GuestPort, HostPort, MAX_MESSAGE_BYTES, MessageTooLong, PostedMessage, connection};
