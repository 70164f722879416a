//! What the adapter tells its user while it is open.

use netvsc::control::ReconfigureError;
use netvsc::steering::BUCKETS;
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
    DataPathSwitched(nvsp::DataPath),
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
