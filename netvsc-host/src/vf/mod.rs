//! Virtual functions of simulated NICs: a second device with the NIC's MAC address.
//!
//! The host's end is the NIC's: what the guest sends by it goes to the switch, and frames for the NIC's address come by it while
//! the data path is on it (broadcast and multicast come by the rings all the same, as in Azure). The guest's end is in memory,
//! a [`GuestVf`], or whatever is behind a [`Port`]: a kernel's interface, with the feature `veth`. What happens when is
//! for a test to say, or for a [`Script`]: [`Host::plug_vf`], [`Host::associate_vf`], [`Host::revoke_vf`],
//! [`Host::unplug_vf`], [`Host::remove_vf_by_surprise`] may come in any order.
//!
//! | file | has |
//! |---|---|
//! | `memory` | a VF in memory, both ends |
//! | `end` | the NIC's end, of any kind |
//! | `script` | what happens to a VF over time, by a seed |
//! | `servicing` | what plays a script |
//! | `veth` | VFs that are interfaces of the kernel's |
//! | `limbo` | where such an interface goes when it is taken away |
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (`GuestVfState`) for what a host does with a switch and at a removal.

mod end;
#[cfg(all(feature = "veth", target_os = "linux"))]
mod limbo;
mod memory;
mod script;
mod servicing;
#[cfg(all(feature = "veth", target_os = "linux"))]
mod veth;

use crate::host::{Host, NicId};
use crate::netvsp::Nic;
use crate::port::Port;

pub(crate) use end::VfEnd;
pub(crate) use memory::Device;
pub use memory::{GuestVf, ReceivedFrame, VfOptions, VfSendError};
pub use script::{Scene, Script, ScriptOptions, Step, UnknownScene, Wait};
pub use servicing::{MemoryVfs, Servicing, ServicingThread, Turn, VfDevices};
#[cfg(all(feature = "veth", target_os = "linux"))]
pub use veth::{VethConfig, VethError, VethVfs};

/// What a host does when the guest asks for the data path of the VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VfManner {
    /// Moves the traffic, and completes the switch.
    #[default]
    Obliging,
    /// Completes the switch, and takes the traffic back at once.
    Refusing,
    /// Completes the switch, and leaves the traffic where it is, as a host does whose own state has no place for a switch:
    /// it cannot be told from an obliging one.
    Ignoring,
    /// Does nothing, and completes nothing, whichever path is asked for, until its manner changes.
    Silent,
}

impl Host {
    /// Shows the guest a VF of this NIC: a device with its MAC address, whose rings hold `capacity` frames each way. `None`
    /// if there is no such NIC, or it has a VF.
    ///
    /// The guest is not told of it by the NIC: see [`associate_vf`](Self::associate_vf).
    #[must_use]
    pub fn plug_vf(&self, nic: NicId, serial: u32, capacity: usize) -> Option<GuestVf> {
        self.plug_vf_with(nic, VfOptions::new(serial, capacity))
    }

    /// As [`plug_vf`](Self::plug_vf), with several queues.
    #[must_use]
    pub fn plug_vf_with(&self, nic: NicId, options: VfOptions) -> Option<GuestVf> {
        let mut device = None;
        self.with_nic(nic, |nic| device = nic.plug_vf(options));
        device.map(|device| GuestVf { device })
    }

    /// The VF of this NIC that [`plug_vf`](Self::plug_vf) made, if it is there.
    #[must_use]
    pub fn plugged_vf(&self, nic: NicId) -> Option<GuestVf> {
        self.look_at_nic(nic, Nic::plugged_vf)?.map(|device| GuestVf { device })
    }

    /// As [`plug_vf`](Self::plug_vf), with the guest's end elsewhere: the host delivers to `port` what comes by the VF, and polls
    /// it for what the guest sends by it. False if there is no such NIC, or it has a VF.
    ///
    /// What the guest's end sent before [`unplug_vf`](Self::unplug_vf) may still come by the port: it is polled until it
    /// [is over](Port::is_over), for some seconds at most, and dropped then.
    pub fn plug_vf_port(&self, nic: NicId, port: impl Port + 'static) -> bool {
        let mut plugged = false;
        self.with_nic(nic, |nic| plugged = nic.plug_vf_port(Box::new(port)));
        plugged
    }

    /// Tells the guest that the NIC has a VF of this serial number: now, or once it can hear it, and in every session.
    pub fn associate_vf(&self, nic: NicId, serial: u32) {
        self.with_nic(nic, |nic| nic.associate_vf(serial));
    }

    /// Takes the association back. If the data path is on the VF, it is moved, and the guest is told of that first. The device
    /// stays, and with it what it has received.
    pub fn revoke_vf(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.revoke_vf());
    }

    /// Takes the device away, after what it was given to send has left.
    pub fn unplug_vf(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.unplug_vf(false));
    }

    /// The device vanishes, with the frames that are to be sent inside, and so does the association.
    pub fn remove_vf_by_surprise(&self, nic: NicId) {
        self.with_nic(nic, |nic| {
            nic.unplug_vf(true);
            nic.revoke_vf();
        });
    }

    /// Whether the NIC's traffic is on its VF.
    #[must_use]
    pub fn vf_in_use(&self, nic: NicId) -> bool {
        self.look_at_nic(nic, Nic::vf_in_use).unwrap_or(false)
    }

    /// Sets the link of the NIC's VF.
    pub fn set_vf_link(&self, nic: NicId, up: bool) {
        self.with_nic(nic, |nic| nic.set_vf_link(up));
    }

    /// What the host does when the guest asks for another data path. Default: what it is asked for.
    pub fn set_vf_manner(&self, nic: NicId, manner: VfManner) {
        self.with_nic(nic, |nic| nic.set_vf_manner(manner));
    }

    /// Moves the traffic back from the VF, and leaves the VF.
    pub fn take_data_path_back(&self, nic: NicId) {
        self.with_nic(nic, |nic| nic.move_data_path_back());
    }
}
