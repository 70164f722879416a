//! What goes into the virtual function's machine and what comes out.

use core::time::Duration;

use crate::info::LinkState;
use crate::meta::Path;

/// Names a switch of the data path until the host has completed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwitchId(pub u32);

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// The host associated a VF with the adapter; it may say so more than once.
    Associated {
        /// Its serial number.
        serial: u32,
    },
    /// The host took the association back.
    Revoked,
    /// The host moved the traffic by itself.
    HostSwitched(Path),
    /// There is a device that may be the VF.
    Arrived {
        /// The number of its PCI slot; `None` if it has no such slot, and was found by its MAC address alone.
        serial: Option<u32>,
    },
    /// The device is gone, with what was inside.
    Gone {
        /// Frames whose sending it had not completed: they may have left, so they are not sent again.
        lost: u64,
    },
    /// Answers [`Action::Prepare`]: the device works. Not to be said of a device that is gone.
    Prepared {
        /// Its link.
        link: LinkState,
    },
    /// Answers [`Action::Prepare`]: it cannot be used. It is tried again after a pause. Not to be said of a device that is
    /// gone.
    NotPrepared,
    /// The device's link changed.
    Link(LinkState),
    /// The host completed a switch.
    Switched(SwitchId),
    /// A switch could not be sent.
    NotSwitched(SwitchId),
    /// The device was closed, as [`Action::Release`] wants it, and had not completed the sending of these frames in time:
    /// perhaps it has vanished already. To be said only if there were any.
    Released {
        /// How many.
        lost: u64,
    },
    /// Frames that the device had received, or was to receive, are known to be lost: it had them inside when it vanished, say.
    /// To be said only if there were any.
    ReceivedLost {
        /// How many.
        frames: u64,
    },
    /// Answers [`Action::Send`]: nothing is outstanding on the path that was left, on any queue.
    SendDrained,
    /// The VF is not to be used, because the adapter is to be closed or changed.
    Stop,
    /// It may be used again.
    Resume,
}

/// Something to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Look for the device, also if it was found before: [`Input::Arrived`] follows once there is one.
    Find {
        /// Its serial number.
        serial: u32,
    },
    /// Open the device and give it the adapter's settings: [`Input::Prepared`] or [`Input::NotPrepared`] follows, unless the
    /// device is gone.
    Prepare,
    /// Close the device. [`Input::Released`] follows if frames were left in it.
    Release,
    /// Ask the host to move the traffic: [`Input::Switched`] or [`Input::NotSwitched`] follows.
    Switch {
        /// Where to.
        to: Path,
        /// Names the answer.
        id: SwitchId,
    },
    /// New frames go by this path, once nothing is outstanding on the other: then [`Input::SendDrained`] follows.
    Send(Path),
    /// The wait for what is outstanding took too long: send at once.
    StopWaiting,
    /// Receive from the VF as well, after what the rings hold now; or from the rings alone, after what the VF holds now. That
    /// is taken out of it at once, so that it can be closed.
    Receive(Path),
}

/// What [`Nic::poll_vf`](crate::Nic::poll_vf) gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// To be done.
    pub action: Action,
    /// Where the host's last word stood among what the primary channel's queue receives, for
    /// [`Mux::receive_from_both`](super::Mux::receive_from_both).
    pub position: u64,
}

/// Something that the user should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The host offered a VF.
    Offered {
        /// Its serial number.
        serial: u32,
    },
    /// The host took the VF back.
    Revoked {
        /// Its serial number.
        serial: u32,
    },
    /// The device works, and its link is up.
    Up,
    /// Its link is down.
    Down,
    /// The device cannot be used for now.
    NotUsable,
    /// An association waits for its device, or a device for its association, for longer than usual.
    Missing {
        /// The serial number of the association; `None`: it is the association that is missing.
        serial: Option<u32>,
    },
    /// The device is not the one that the host associated; it is left alone.
    OtherSerial {
        /// What the host said.
        expected: u32,
        /// What the device has.
        found: u32,
    },
    /// The data path changed over.
    DatapathSwitched {
        /// Where to.
        to: Path,
        /// Whether nothing was outstanding on the old path before the new one was used: order was kept.
        drained: bool,
        /// From the decision to the first frame that could be sent on the new path.
        took: Duration,
    },
    /// The host has not completed a switch in time.
    SwitchTimedOut {
        /// Where to.
        to: Path,
    },
    /// The host took the traffic back although the VF is still associated. It is asked again after a pause.
    Refused,
    /// The host completes no switch at all. Everything is sent by the synthetic path until the host says something of a
    /// VF again.
    HostSilent,
    /// The VF vanished, or was closed with frames inside.
    Lost {
        /// Frames whose sending was not completed; whether they left is not known.
        frames: u64,
    },
    /// Frames for us are known to be lost, as the VF had them inside when it vanished. Who does not know says nothing.
    ReceivedLost {
        /// How many.
        frames: u64,
    },
    /// The VF came and went too often; it is left alone for this long.
    Damped {
        /// How long.
        pause: Duration,
    },
}

/// How often things happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Times that the host offered a VF.
    pub offered: u64,
    /// Times that it took one back.
    pub revoked: u64,
    /// Times that the path of the VF was taken into use.
    pub switched_to_vf: u64,
    /// Times that the synthetic path was taken into use again.
    pub switched_to_synthetic: u64,
    /// Switches that the host has not completed in time.
    pub timeouts: u64,
    /// Times that the host took the traffic back although the VF was associated.
    pub refused: u64,
    /// Times that the path of the VF was lost soon after it was taken into use.
    pub flaps: u64,
    /// Times that the VF vanished while it was in use.
    pub surprises: u64,
    /// Frames whose sending had not been completed then.
    pub lost: u64,
    /// Received frames that are known to have been lost with a VF.
    pub received_lost: u64,
    /// Changes over for which the old path was not empty in time.
    pub not_drained: u64,
    /// Messages, completions and answers that meant nothing, or nothing new.
    pub ignored: u64,
}
