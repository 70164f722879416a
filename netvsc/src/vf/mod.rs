//! The SR-IOV virtual function: when its path is used, and how frames change over without loss, duplicates or reordering.
//!
//! A virtual function (VF) is a second device with the MAC address of the adapter. The host *associates* it with the adapter
//! (`VF_ASSOC`), shows it to the guest as a PCI device some time before or after, and moves the traffic to it when the guest
//! asks for that (`SWITCH_DATA_PATH`). It takes all of it back whenever it wants to.
//!
//! | module | is |
//! |---|---|
//! | `machine` | [`Machine`]: what to do when, without I/O |
//! | `settings` | [`Settings`]: its deadlines and pauses |
//! | `io` | [`Input`], [`Action`], [`Event`], [`Counters`] |
//! | `device` | [`VfDevice`], [`VfQueue`]: what a VF has to be able to do |
//! | `mux` | [`Mux`]: two paths made one, for each queue |
//! | `spread` | [`Share`]: what the device has spread over its queues, spread as the rings have it |
//! | `prepare` | checksums, tags and segmentation in software |
//! | `rules` | tags and hashes of received frames in software |
//!
//! Nothing here opens a device: who has one tells the machine of it ([`Input::Arrived`]) and does what it wants
//! ([`Machine::poll_action`]).
//!
//! # Order of frames
//! *Sending:* the new path waits until the host has completed what was sent on the old one. *Receiving:* what came by the
//! rings before the host's word on the switch comes before what came by the VF, and, on the way back, what is in the VF before
//! what comes by the rings afterwards. Both waits are bounded ([`Settings::drain_limit`]).
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_vf_handle_frame`, `netvsc_vf_changed`), `netvsc.c`
//! (`netvsc_switch_datapath`); DPDK `drivers/net/netvsc/hn_vf.c`; OpenVMM `netvsp/src/lib.rs` (the host's states). Linux
//! waits without a deadline for the association, and neither of the guests retries a switch that the host took back.

mod device;
mod io;
mod machine;
mod mux;
mod prepare;
mod rules;
mod settings;
mod spread;

pub use device::{Unreceived, VfDevice, VfQueue, VfSendError};
pub use io::{Action, Counters, Event, Input, SwitchId, Task};
pub use machine::{Machine, Stage};
pub use mux::{Mux, SyntheticPath, Way};
pub use rules::RxRules;
pub use settings::Settings;
pub use spread::{Lock, OneThread, Share, Surroundings};
