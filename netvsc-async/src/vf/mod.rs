//! Virtual functions of the adapter (SR-IOV, "accelerated networking"): found, opened and used by a [backend](VfBackend).
//!
//! When a virtual function is used, and how its path and the synthetic one are made one, is [`netvsc::vf`]'s to say. The
//! application's queues stay what they are.
//!
//! | module | is |
//! |---|---|
//! | `backend` | what a backend is |
//! | `memory` | the backend for the simulated host (feature `host`) |
//! | `sockets` | the backend for network interfaces of the kernel's (feature `vf-sockets`, Linux) |
//! | `discovery` | which network interface is the VF (Linux): it stays with its kernel driver (mlx4, mlx5, MANA), so that nothing of a vendor's is needed in user space |

mod backend;
#[cfg(target_os = "linux")]
mod discovery;
mod group;
#[cfg(feature = "host")]
mod memory;
mod side;
#[cfg(all(feature = "vf-sockets", target_os = "linux"))]
pub mod sockets;
mod status;

pub use backend::{Adapter, AsyncVfQueue, BoxVf, OpenedVf, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};
#[cfg(target_os = "linux")]
pub use discovery::{DiscoveryError, Interface, Match, find, interfaces};
#[cfg(feature = "host")]
pub use memory::{MemoryBackend, MemoryVf};

pub(crate) use group::VfGroup;
pub(crate) use side::VfSide;
pub use status::VfStatus;

pub use netvsc::vf::{Counters, Settings, Stage, Unreceived, VfQueue, VfSendError};
