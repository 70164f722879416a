//! What the adapter tells its user while it is open.

use std::time::Duration;

use netvsc::control::ReconfigureError;
use netvsc::steering::BUCKETS;
use netvsc::vf;
use netvsc::{CloseReport, LinkSpeed, Offloads, VirtualFunction, Warning};
use tokio::sync::broadcast;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The link came up.
    LinkUp,
    /// The link went down.
    LinkDown,
    /// The link has another speed.
    LinkSpeed(LinkSpeed),
    /// The network behind the link changed: addresses should be renewed.
    NetworkChanged,
    /// The host said which offloads are in force; these are granted now. It does so after
    /// [`Nic::set_offloads`](crate::Nic::set_offloads), and may at any time.
    OffloadsChanged(Offloads),
    /// Something that works but may not be what was wanted.
    Warning(Warning),
    /// The host broke the protocol in a way that could be ignored; the text says how.
    Violation(String),
    /// A queue has outstanding sends and the host makes no progress with them: it may have stopped serving the channel
    /// without a word, as some do after a packet that they did not like. Reported once a standstill.
    Stalled {
        /// Which.
        queue: u16,
        /// Sends that wait.
        outstanding: usize,
    },
    /// A queue has ended, the others go on: the host took its channel back, or broke it. The host is told to put nothing on
    /// it, and [`Steering`](crate::Steering) chooses it no more.
    QueueGone {
        /// Which.
        queue: u16,
    },
    /// The adapter was taken down to be changed: nothing is sent or received until [`Attached`](Self::Attached), or the end.
    Detached(CloseReport),
    /// The adapter is up again; [`Nic::info`](crate::Nic::info) has what it is now.
    Attached,
    /// A change of the adapter is over: [`set_ring`](crate::Nic::set_ring), [`set_channels`](crate::Nic::set_channels) or
    /// [`set_mtu`](crate::Nic::set_mtu).
    Reconfigured(Result<(), ReconfigureError>),
    /// The host gave a virtual function.
    VfAssociated(VirtualFunction),
    /// The host took the virtual function away.
    VfRemoved(VirtualFunction),
    /// The host moved traffic to another path by itself.
    HostMovedTraffic(nvsp::DataPath),
    /// Virtual functions cannot be looked after: the text is the [backend](crate::NicBuilder::vf)'s. The adapter goes on without.
    VfUnavailable(String),
    /// The host offered a virtual function that may be used.
    VfOffered {
        /// Its serial number.
        serial: u32,
    },
    /// The host took the virtual function back. Its device goes soon.
    VfRevoked {
        /// Its serial number.
        serial: u32,
    },
    /// The virtual function's device was opened, and its link is up.
    VfUp,
    /// Its link is down.
    VfDown,
    /// The device cannot be opened; it is tried again.
    VfNotUsable,
    /// An offer waits for its device, or a device for its offer, for longer than usual. It is waited for all the same.
    VfMissing {
        /// The serial number of the offer; `None`: it is the offer that is missing.
        serial: Option<u32>,
    },
    /// The device is not the one that the host offered; it is left alone.
    VfOtherSerial {
        /// What the host said.
        expected: u32,
        /// What the device has.
        found: u32,
    },
    /// The application's frames go by another path.
    DatapathSwitched {
        /// By which.
        to: netvsc::meta::Path,
        /// Whether nothing was outstanding on the old one before the new one was used: order was kept.
        drained: bool,
        /// From the decision to the first frame that could be sent.
        took: Duration,
    },
    /// The host has not moved the traffic in time. It is asked again.
    VfSwitchTimedOut {
        /// Where to.
        to: netvsc::meta::Path,
    },
    /// The host took the traffic back although it has not taken back the virtual function. It is asked again after a pause.
    VfRefused,
    /// The host answers no wish for another path any more: everything goes by the rings until it says something of a virtual
    /// function again.
    VfHostSilent,
    /// The virtual function vanished, or had to be closed, with frames inside.
    VfLost {
        /// Frames whose sending was not completed: at most these are lost. They are not sent again, as they may have left.
        frames: u64,
    },
    /// Frames for us were lost with the virtual function: it had received them when it vanished, or nobody had room for them.
    /// Said by devices that know; what the others lose of these frames nobody counts.
    VfReceivedLost {
        /// How many.
        frames: u64,
    },
    /// The virtual function came and went too often; it is left alone for this long.
    VfDamped {
        /// How long.
        pause: Duration,
    },
    /// The queue of each hash bucket of sent frames is another one: the host said so, or the queues changed.
    /// [`Steering`](crate::Steering) follows by itself.
    SendTable([u16; BUCKETS]),
    /// Bring-up failed, or the adapter cannot go on; the text says why. Nothing follows.
    Failed(String),
    /// The adapter was closed. Nothing follows.
    Closed(CloseReport),
    /// The host took the adapter away. Nothing follows.
    Gone(CloseReport),
    /// Events that this reader was too slow for.
    Missed(u64),
}

impl Event {
    /// What the machine tells.
    pub(crate) fn of_vf(event: vf::Event) -> Option<Self> {
        Some(match event {
            vf::Event::Offered { serial } => Self::VfOffered { serial },
            vf::Event::Revoked { serial } => Self::VfRevoked { serial },
            vf::Event::Up => Self::VfUp,
            vf::Event::Down => Self::VfDown,
            vf::Event::NotUsable => Self::VfNotUsable,
            vf::Event::Missing { serial } => Self::VfMissing { serial },
            vf::Event::OtherSerial { expected, found } => Self::VfOtherSerial { expected, found },
            vf::Event::DatapathSwitched { to, drained, took } => Self::DatapathSwitched { to, drained, took },
            vf::Event::SwitchTimedOut { to } => Self::VfSwitchTimedOut { to },
            vf::Event::Refused => Self::VfRefused,
            vf::Event::HostSilent => Self::VfHostSilent,
            vf::Event::Lost { frames } => Self::VfLost { frames },
            vf::Event::ReceivedLost { frames } => Self::VfReceivedLost { frames },
            vf::Event::Damped { pause } => Self::VfDamped { pause },
            _ => return None,
        })
    }
}

/// A reader of [`Event`]s.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self(receiver)
    }

    /// The next event. `None` when no more come.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The events as a `Stream`.
    pub fn into_stream(self) -> impl futures::Stream<Item = Event> + Send {
        futures::stream::unfold(self, |mut events| async move { events.next().await.map(|event| (event, events)) })
    }
}
