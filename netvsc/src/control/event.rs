//! What the control machine tells its user.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::config::Warning;
use crate::info::{DeviceInfo, LinkSpeed, VirtualFunction};

use super::failure::{Cause, RequestError, Step, Violation};
use super::reconfigure::ReconfigureError;

/// Names a request until its [`Event::Answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestHandle(pub(crate) u32);

/// What the host said and was not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Steps and requests that were not answered in time.
    pub timeouts: u64,
    /// Answers to requests that were over: late or repeated.
    pub late_answers: u64,
    /// Answers to no request, or of another type than asked for.
    pub unsolicited_answers: u64,
    /// Messages that a guest may ignore.
    pub ignored_messages: u64,
    /// Messages that may not be, or not then.
    pub violations: u64,
    /// Notices that nobody fetched.
    pub dropped_events: u64,
    /// Changes of the device at run time that were made.
    pub reconfigurations: u64,
    /// Changes of the device at run time that were not: it went on as it was, or failed.
    pub failed_reconfigurations: u64,
}

/// What is left when a device was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// Receive packets whose sections were not given back to the host.
    pub unreturned_sections: usize,
    /// Sends that the host did not complete.
    pub outstanding_sends: usize,
    /// Buffers whose GPADL the host did not let go.
    pub unreleased_buffers: usize,
    /// The host took the device away before it was closed.
    pub host_gone: bool,
}

impl CloseReport {
    /// Whether everything was given back.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.unreturned_sections == 0 && self.outstanding_sends == 0 && self.unreleased_buffers == 0 && !self.host_gone
    }
}

/// Something that happened to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The device is up; [`Nic::info`](crate::Nic::info) has the same from now on.
    Ready(Box<DeviceInfo>),
    /// The link came up.
    LinkUp,
    /// The link went down.
    LinkDown,
    /// The link has another speed.
    LinkSpeed(LinkSpeed),
    /// The network behind the link changed, or the link went away and came back faster than is reported: addresses should
    /// be renewed.
    NetworkChanged,
    /// The offloads in force changed.
    OffloadChanged(Box<rndis::offload::Offload>),
    /// The host gave a virtual function.
    VfAssociated(VirtualFunction),
    /// The host took the virtual function away.
    VfRemoved(VirtualFunction),
    /// The host moved traffic to another path by itself.
    DataPathSwitched(nvsp::DataPath),
    /// Something happened to the virtual function; only after [`Control::use_vf`](super::Control::use_vf).
    Vf(crate::vf::Event),
    /// A queue's subchannel was taken back, or cannot be used: the queue has ended, and the host is told to put nothing on
    /// it. Its share of the send buffer stays unused.
    QueueGone {
        /// Which.
        queue: u16,
    },
    /// The host spreads received frames by another table, which nobody asked for: a queue is gone.
    /// [`DeviceInfo::scaling`] has it.
    TableRebuilt,
    /// A new send indirection table: which queue each of 16 hash buckets belongs to, clamped to the queues there are.
    SendTable([u16; nvsp::SEND_TABLE_LEN]),
    /// A request was answered, refused, or not answered in time.
    Answered {
        /// Which.
        request: RequestHandle,
        /// The value of a query (empty for a set), or why there is none.
        result: Result<Vec<u8>, RequestError>,
    },
    /// The device was taken down to be changed: its channels are closed, and there is no data path. [`Attached`](Self::Attached)
    /// follows, or the end.
    Detached(CloseReport),
    /// It is up again, as wished or as it was: [`Reconfigured`](Self::Reconfigured) follows. Queues beyond
    /// [`DeviceInfo::queues`] have ended. Traffic is on the synthetic path.
    Attached(Box<DeviceInfo>),
    /// A change of the device is over.
    Reconfigured {
        /// Which.
        request: RequestHandle,
        /// Whether the device is as wished, or why not.
        result: Result<(), ReconfigureError>,
    },
    /// Something that works but may not be what was wanted.
    Warning(Warning),
    /// The host broke the protocol in a way that could be ignored.
    Violation(Violation),
    /// Bring-up failed, or a device that was up cannot go on. All was undone; nothing follows.
    Failed {
        /// What was being done.
        step: Step,
        /// Why it failed.
        cause: Cause,
        /// What could not be undone.
        report: CloseReport,
    },
    /// The device was closed, as wished. Nothing follows.
    Closed(CloseReport),
    /// The host took the device away. Nothing follows.
    Gone(CloseReport),
}
