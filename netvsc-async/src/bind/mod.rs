//! Binding an adapter to `uio_hv_generic`, and giving it back to the kernel.
//!
//! A program that drives the adapter itself needs it bound to Linux's `uio_hv_generic` instead of `hv_netvsc`. That is
//! a handful of writes to sysfs, in an order that matters; done by hand, a crash on the way leaves an adapter without
//! a driver, and the wrong name cuts off the machine. Here it is a call:
//!
//! ```no_run
//! use netvsc_async::bind::{Binder, Selector};
//!
//! let guard = Binder::new().hold(&Selector::Interface("eth1".into()))?; // bound from here ...
//! println!("drive {} through /dev/{}", guard.instance(), guard.uio());
//! guard.release()?; // ... to here: hv_netvsc has it again
//! # Ok::<(), netvsc_async::bind::BindError>(())
//! ```
//!
//! The command `netvsc` (feature `cli`) does the same from a shell.
//!
//! # What it does
//! * Where the kernel has `driver_override` (4.18 and later), that file says which driver may have the device: nothing
//!   else on the bus changes. Older kernels learn a new class id (`new_id`), which makes `uio_hv_generic` take *every*
//!   adapter without a driver; [`Plan::also_taken`] names them.
//! * [`Binder::plan_bind`] and [`Binder::plan_unbind`] say what would be written, and write nothing.
//! * What fails halfway is undone; [`BindError::NotUndone`] says so where that failed too.
//! * The adapter that the default route or the login session needs is refused unless [`Binder::force`] is set.
//!
//! # Keeping and giving back
//! [`Binder::bind`] leaves the adapter bound. [`Binder::hold`] yields a [`BoundDevice`], which puts `hv_netvsc` back
//! when it is dropped, by a panic too (not where panics abort, and not on SIGKILL: bind from another process then, as
//! `netvsc run` does). [`BoundDevice::restore_on_signals`] does so on SIGTERM and SIGINT.
//!
//! **Close the device before it is given back**: every descriptor of `/dev/uioN` closed, every map unmapped. The kernel
//! frees rings and buffers on unbinding, while mappings of them stay. Drop the adapter first, then the guard.
//!
//! The kernel forgets an interface's addresses and routes when it is bound away. They do not come back by themselves:
//! that is for the system's network configuration to do.
//!
//! # Virtual functions
//! A NIC with accelerated networking shows twice: the synthetic interface, and its virtual function with the same MAC
//! address. Only the synthetic one can be bound; [`Binder::devices`] pairs them, and selecting the other names its mate.
//!
//! Source: Linux `Documentation/ABI/stable/sysfs-bus-vmbus` and `drivers/uio/uio_hv_generic.c`.

mod binder;
mod device;
mod error;
mod guard;
mod kernel;
mod plan;
mod routes;
mod selector;
mod session;
mod signals;
mod sysfs;

pub use binder::{Binder, Bound};
pub use device::{Carries, Device, DriverOverride, VirtualFunction, class_name};
pub use error::BindError;
pub use guard::BoundDevice;
pub use kernel::{Kernel, SysfsKernel};
pub use plan::{Plan, Tolerates, Way, Write};
pub use selector::{ForeignInterface, NotFound};
pub use session::{ParseSessionError, Session};
pub use signals::SignalGuard;

pub use vmbus::uio::{DRIVER as UIO_DRIVER, Selector, SysfsDevice};

/// The kernel's own driver of the adapter.
pub const KERNEL_DRIVER: &str = "hv_netvsc";
