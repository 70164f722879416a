//! The synthetic network adapter of Hyper-V and Azure for tokio.
//!
//! ```no_run
//! # async fn example(bus: vmbus::mem::MemBus) -> Result<(), Box<dyn std::error::Error>> {
//! use futures::StreamExt;
//! use netvsc_async::Nic;
//!
//! let (nic, mut queues) = Nic::builder().open_on(bus).await?;
//! println!("{} is up", nic.info().mac);
//! let (packets, sink) = queues.remove(0).into_split();
//! packets.forward(sink).await?; // back to where they came from
//! nic.close().await?;
//! # Ok(()) }
//! ```
//!
//! # Three ways to use a queue
//! * **Bursts** ([`Queue::rx`], [`Queue::tx`]): received frames are lent, as many as there are; sent frames are batched.
//!   No allocation, no lock and no system call a frame. For appliances.
//!   Who decides by headers receives [held](RxHalf::recv_held) bursts, of which the heads are copied, and sends frames on
//!   ([`TxBatch::push_held`]) with one copy of their payload, from the host's buffer to the host's buffer, or none if they are dropped.
//! * **`Stream` and `Sink`** of [`Packet`]s ([`Queue::into_split`]): owned packets from a pool.
//! * **A TCP/IP stack** (module and feature `smoltcp`): a `phy::Device` over a queue.
//!
//! # Where things run
//! The adapter has a task for its control side, and each queue has one that looks after it while nobody uses it: sends
//! are completed and owed completions go out even when nothing is received. A queue's task can be bound to a CPU
//! ([`PinnedRuntime`]).
//!
//! # Trust
//! The host is not trusted: frames are copied out of the memory that it can write before anything is looked at, and what
//! it says is checked. A host that breaks the protocol ends the queue with a typed error.
//!
//! # Features
//! | feature | adds |
//! |---|---|
//! | `smoltcp` | `smoltcp::NetvscDevice` |
//! | `bind` | `bind`: binding adapters to `uio_hv_generic` and giving them back (Linux) |
//! | `cli` | the command `netvsc`; libraries do not need it |
//! | `uio` | `NicBuilder::open`: adapters of this machine, bound to `uio_hv_generic` (Linux); `NicBuilder::reopening`: again after they were taken away |
//! | `vf-sockets` | `vf::sockets`: virtual functions by their network interfaces, AF_XDP and AF_PACKET (Linux) |
//! | `host` | `testing`: an adapter and a simulated host in one line |
#![deny(unsafe_code)]

mod affinity;
#[cfg(all(feature = "bind", target_os = "linux"))]
pub mod bind;
mod builder;
mod clock;
#[cfg(feature = "uio")]
mod device;
mod driver;
mod error;
mod event;
mod nic;
mod open;
mod packet;
mod port;
mod queue;
mod reconfigure;
#[cfg(feature = "uio")]
mod reopen;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;
mod steering;
#[cfg(feature = "host")]
pub mod testing;
pub mod vf;
mod wait;

pub use affinity::PinnedRuntime;
pub use builder::NicBuilder;
pub use clock::{Clock, TokioClock};
#[cfg(feature = "uio")]
pub use device::Device;
pub use error::Error;
pub use event::{Event, Events};
pub use nic::Nic;
pub use open::{CloseError, OpenError, RequestError};
pub use packet::Packet;
pub use port::PacketPort;
pub use queue::{HeldPacket, HeldRxBurst, PacketSink, PacketStream, Queue, RxBurst, RxHalf, TxBatch, TxHalf};
pub use reconfigure::{Channels, ReconfigureError, Ring, RingParams};
#[cfg(feature = "uio")]
pub use reopen::{ReopenError, ReopenPolicy, ReopeningNic};
pub use steering::Steering;
pub use wait::{SpinBudget, WaitMode};

pub use netvsc::gro::{FlushReason, GroConfig, GroStats, Received};
pub use netvsc::meta::{RxMeta, TxMeta};
pub use netvsc::queue::{Frame, FrameMut, HeldFrame, HeldFrameMut, Pinned, Rest, RestError};
pub use netvsc::steering::{HashLevel, HashProtocol};
pub use netvsc::{CloseReport, Config, DeviceInfo, OffloadSettings, Offloads, RssSettings};
