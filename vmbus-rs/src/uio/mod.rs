//! The Linux backend: NICs that are bound to `uio_hv_generic`.
//!
//! The kernel keeps the control plane: it has made the GPADLs, opens the channels, sees the rescind. User space gets the
//! rings, the pages through which the host is signalled, two buffers, and one descriptor on which events are counted.
//!
//! ```no_run
//! use vmbus::uio::{Selector, Settings, UioDevice};
//!
//! let device = UioDevice::find(&"ed963694-e847-4b2a-85af-bc9cfc11d6f3".parse::<Selector>()?, Settings::default())?;
//! let bus = device.open()?; // a `Bus`, for the driver above
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module part | is |
//! |---|---|
//! | [`SysfsRoot`], [`SysfsDevice`], [`Selector`] | what there is, and which of it is meant |
//! | [`UioDevice`] | one NIC; opens it, as often as that takes |
//! | [`UioBus`], [`UioChannel`] | one session, as a [`Bus`](crate::bus::Bus) |
//! | [`Reactor`] | waits for events and wakes the queues: on a thread, in a mio loop, as a tokio task |
//! | [`Settings`], [`KernelVariant`], [`KernelTraits`] | what can be set, and what is known of the kernel |
//! | [`OpenDevice`], [`DeviceFile`] | `/dev/uioN`, or what stands in for it |
//!
//! # One session
//! A [`UioBus`] is one opening of the device. Rings and buffers are as large as the kernel made them (2 MiB for each
//! ring, 31 MiB to receive, 16 MiB to send), whatever is wished for. The host is given the GPADLs of the buffers as they
//! are, so other buffers, another MTU or another number of channels need another session: [`UioBus::reopen`].
//!
//! The kernel closes a channel when the last descriptor *and the last mapping* are gone. Closing here takes both from
//! everybody: whoever still has a queue, a doorbell or a received packet keeps an address with private pages behind it
//! ([`HeapMemory::disconnect`](crate::memory::HeapMemory::disconnect)), and received bytes stay what they were.
//!
//! The same happens to rings as soon as the host takes the device away (`EIO` on the descriptor, or its end where a
//! process simulates the device), because the kernel frees their pages whether they are mapped or not:
//! [`BusEvent::Gone`](crate::bus::BusEvent::Gone) follows, all waiters are woken, and the descriptor is closed, without
//! which some kernels do not offer the device again. [`UioDevice::wait_until_bound`] waits for that.
//!
//! # Events and masks
//! All channels share one count of events. The reactor reads it and wakes those queues that have something to read, asked
//! for room, or whose interrupt mask is set; each looks at its rings, stores 0 into its mask, *whatever it thinks stands
//! there*, and looks again ([`Consumer::unmask`](crate::ring::Consumer::unmask)). Some kernels set the mask on every
//! interrupt, even one whose data was taken already; such a store is followed by an event, and the set mask wakes the
//! queue. So no wake-up is lost on any of them.
//!
//! Published kernels differ ([`KernelVariant`]), and numbers do not tell which is which, since distributions mix them:
//! what matters is found out ([`KernelTraits`]). Some crash when a subchannel interrupts. A subchannel may interrupt
//! ([`Interrupt::can_unmask`](crate::bus::Interrupt::can_unmask)) only where interrupt control has been seen to reach
//! subchannels, which those do not have; else it stays masked and its queue has to look by timer.
//!
//! # Signalling the host
//! A monitored channel sets its bit in the monitor page: no system call, and the hypervisor looks within
//! [`Settings::monitor_latency`]. On a channel without monitor the kernel has to do it, by a write to the descriptor. Such
//! a write reaches all channels without monitor, and clears interrupt masks; those that were set are set again.
//!
//! # Subchannels
//! They arrive in sysfs, `ring` last, and nothing says when none will. They are looked for often while the driver awaits
//! them ([`Bus::await_offers`](crate::bus::Bus::await_offers)), else once a second, so that an idle device costs nothing.
//! [`UioBus::expect_subchannels`] is for those without such a driver; [`UioBus::poll_subchannels`] then says when they are
//! overdue, and what was wrong with those that are there.
//!
//! # Frames that do not fit into the send buffer
//! They can be sent from the guest's own memory where its physical addresses are known: huge pages, and CAP_SYS_ADMIN to
//! read their addresses ([`DirectPages`]). Without either, [`Bus::allocate`](crate::bus::Bus::allocate) refuses
//! [`Purpose::Direct`](crate::bus::Purpose::Direct) with a [`DirectRefusal`]; drivers then send through the send buffer
//! only. In confidential virtual machines that is the only way: set [`DirectPages::Off`].
//!
//! # Running without root
//! Binding a device takes root: do that at start-up, `driverctl --bus vmbus set-override <guid> uio_hv_generic` for
//! instance. Using it takes no capability, only access to two kinds of files, which are root's at first. udev can hand
//! them over; a subchannel's `ring` appears a moment after the event that announces the channel:
//!
//! ```text
//! # /etc/udev/rules.d/60-vmbus-uio.rules
//! SUBSYSTEM=="uio", ATTR{name}=="uio_hv_generic", GROUP="netvsc", MODE="0660"
//! SUBSYSTEM=="channels", ACTION=="add", DEVPATH=="*/channels/*", RUN+="/usr/local/sbin/vmbus-ring %p"
//!
//! # /usr/local/sbin/vmbus-ring
//! #!/bin/sh
//! cd "/sys$1" || exit
//! for try in 1 2 3 4 5 6 7 8 9 10; do
//!     [ -e ring ] && chgrp netvsc ring && chmod 0660 ring && exit
//!     sleep 0.1
//! done
//! ```
//!
//! Until it may be opened a subchannel is not offered, and [`UioBus::refusals`] says why. (The alternative is
//! CAP_DAC_OVERRIDE until all subchannels are there. One queue needs neither.)
//!
//! | for | needed |
//! |---|---|
//! | one queue | read and write on `/dev/uioN` |
//! | more | the same on `channels/*/ring` in sysfs |
//! | GPA-direct sends | CAP_SYS_ADMIN, free huge pages (`vm.nr_hugepages`) |
//! | containers | `--device /dev/uioN`, `/sys` to be read, and writable for more than one queue; the number may change when the device comes back |
//!
//! Everything is opened, mapped, read and written through the C library, so that a preloaded library can stand in for the
//! kernel.
//!
//! Sources: Linux `drivers/uio/uio_hv_generic.c`, `drivers/uio/uio.c`, `drivers/hv/vmbus_drv.c`,
//! `Documentation/driver-api/uio-howto.rst`; DPDK `drivers/bus/vmbus`.

mod bus;
mod channel;
mod device;
mod device_file;
mod direct;
mod error;
mod line;
mod reactor;
mod select;
mod session;
mod settings;
mod sysfs;
mod watch;

pub use bus::UioBus;
pub use channel::{UioChannel, UioDoorbell, UioInterrupt};
pub use device::UioDevice;
pub use device_file::{DevRoot, DeviceFile, KernelFile, OpenDevice};
pub use error::{DirectRefusal, GoneReason, MissingSubchannels, SystemError, UioError};
pub use reactor::{Reactor, Turn};
pub use select::{Candidate, DRIVER, Refusal, SelectError, Selector};
pub use settings::{DirectPages, KernelTraits, KernelVariant, Settings};
pub use sysfs::{
    ChannelDirectory, MapInfo, MapUse, NetInterface, RingFile, SysfsDevice, SysfsError, SysfsRoot, UioNode, parse_mac,
};
