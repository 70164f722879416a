//! The guest's side of the control plane, without I/O.
//!
//! [`Client`] negotiates a version, collects offers, lends memory to the host, opens, moves and closes channels, and
//! follows rescinds. It neither posts messages nor reads clocks nor owns memory: bytes and times go in, bytes and
//! [`Event`]s come out. Whoever drives it does, after each call that may have changed something:
//!
//! ```
//! use core::time::Duration;
//! use vmbus::client::{Client, Config, Event};
//! # fn post(_: vmbus::protocol::ConnectionId, _: &[u8]) -> vmbus::synic::HypercallStatus { Default::default() }
//! # let now = Duration::ZERO;
//!
//! let mut client = Client::new(Config::default())?;
//! client.connect(now)?;
//! let mut buf = [0; 240];
//! while let Some(message) = client.poll_transmit(&mut buf) {
//!     let status = post(message.connection_id, &buf[..message.len]);
//!     if status != vmbus::synic::HypercallStatus::SUCCESS {
//!         client.transmit_failed(now, status);
//!     }
//! }
//! while let Some(event) = client.poll_event() {
//!     if let Event::Offered(offer) = event { /* create_gpadl, open_channel */ }
//! }
//! let wake = client.poll_timeout(); // call handle_timeout at that time
//! # let _ = wake;
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! Messages have to be handed in in the order the host sent them, each from a private copy of its slot. Nothing here
//! waits: a rescind takes effect at once, whatever is outstanding, and cannot overtake the offer it belongs to.
//!
//! The host is not trusted. A message that breaks the protocol is returned as [`Violation`] and has no effect; one that
//! merely comes at the wrong time, such as a late answer about a rescinded channel, is counted ([`Counters`]). Memory is
//! bounded by the 2047 channel numbers and by what the user asked for.
//!
//! Sources: Linux `drivers/hv/{connection,channel,channel_mgmt,vmbus_drv}.c`; OpenVMM `vmbus_client/src/lib.rs`.

mod config;
mod error;
mod event;
mod incoming;
mod outbox;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod timeout;

pub use config::{Config, ConfigError, Timeouts};
pub use error::{RequestError, Violation};
pub use event::{ConnectFailure, Event, Exchange, Failure, ModifyOutcome, TornDown};
pub use request::OpenRequest;

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::gpadl::GpadlId;
use crate::protocol::{
    ConnectionId, ContactTarget, Context, InitiateContact, MAX_MESSAGE, Message, Offer, RelId, RelIdReleased, Version,
};
use crate::synic::HypercallStatus;
use outbox::{Item, Outbox};
use state::{ChannelState, Connection, GpadlState, State};

/// A guest's connection to VMBus.
#[derive(Debug)]
pub struct Client {
    config: Config,
    state: State,
    outbox: Outbox,
    events: VecDeque<Event>,
    next_gpadl: GpadlId,
    counters: Counters,
}

/// A message to post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to post it.
    pub connection_id: ConnectionId,
    /// Its bytes in the buffer.
    pub len: usize,
}

/// What the host sent that should not have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages returned as [`Violation`].
    pub violations: u64,
    /// Valid messages that nothing was waiting for: late answers, and rescinds of unknown channels.
    pub unexpected: u64,
}

impl Client {
    /// A client that is not connected.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting at fault.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            config,
            state: State::Disconnected,
            outbox: Outbox::default(),
            events: VecDeque::new(),
            next_gpadl: GpadlId::FIRST,
            counters: Counters::default(),
        })
    }

    /// The next message to post, written to the front of `buf`; the rest of `buf` is zeroed.
    ///
    /// Poll after every other call, until `None`. Asking for the next message says that the one before was posted,
    /// unless [`Client::transmit_failed`] was called in between.
    pub fn poll_transmit(&mut self, buf: &mut [u8; MAX_MESSAGE]) -> Option<Outgoing> {
        loop {
            let item = self.outbox.front()?;
            buf.fill(0);
            // An entry without a message is about memory that is gone.
            let Some((len, more)) = self.write_item(item, buf) else {
                self.outbox.discard();
                continue;
            };
            let connection_id = self.connection_id();
            self.outbox.taken(more);
            self.note_taken(item, more);
            return Some(Outgoing { connection_id, len });
        }
    }

    /// The message that [`Client::poll_transmit`] returned last could not be posted.
    ///
    /// An unknown connection id makes INITIATE_CONTACT fall back to an older version at once. Other transient failures
    /// are tried again, up to [`Config::post_attempts`] times with growing pauses ([`Client::poll_timeout`]); whatever
    /// remains fails what the message was for.
    pub fn transmit_failed(&mut self, now: Duration, status: HypercallStatus) {
        let Some(item) = self.outbox.take_last() else {
            return;
        };
        if !self.is_wanted(item) {
            return;
        }
        let contact = matches!(item, Item::Message(Message::InitiateContact(_)));
        if contact && status == HypercallStatus::INVALID_CONNECTION_ID {
            self.try_older_version(now);
        } else if !(status.is_transient() && self.outbox.retry(item, now, self.config.post_attempts)) {
            self.give_up(item, status);
        }
    }

    /// The next event. Poll after every other call, until `None`.
    ///
    /// Taking [`Event::Rescinded`] lets the client release the channel's number, so poll for messages afterwards.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Rescinded { relid, .. } = event {
            if let Some(ChannelState::Rescinded { told, .. }) = self.channel_state(relid) {
                *told = true;
            }
            self.release_if_done(relid);
        }
        Some(event)
    }

    /// The version and features in force, while connected.
    pub fn context(&self) -> Option<Context> {
        match &self.state {
            State::Connected(connection) => Some(connection.context),
            _ => None,
        }
    }

    /// The offers of all channels that were not rescinded, by number.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        let connection = match &self.state {
            State::Connected(connection) => Some(connection),
            _ => None,
        };
        connection
            .into_iter()
            .flat_map(|connection| connection.channels.values())
            .filter(|channel| !channel.state.is_rescinded())
            .map(|channel| &channel.offer)
    }

    /// Whether an interrupt of this channel may mean something: it is open, or being opened.
    ///
    /// A host may signal before OPENCHANNEL_RESULT arrives, and the signal is not repeated.
    pub fn accepts_interrupts(&self, relid: RelId) -> bool {
        let State::Connected(connection) = &self.state else {
            return false;
        };
        let channel = connection.channels.get(&relid);
        channel.is_some_and(|channel| channel.state.ring().is_some())
    }

    /// What came and should not have.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes the message of an entry; says its length and whether the same memory needs more messages.
    fn write_item(&self, item: Item, buf: &mut [u8; MAX_MESSAGE]) -> Option<(usize, bool)> {
        match item {
            Item::Message(message) => Some((message.emit(buf).ok()?, false)),
            Item::Gpadl { relid, gpadl, index } => {
                let State::Connected(connection) = &self.state else {
                    return None;
                };
                let GpadlState::Creating { ranges, .. } = &connection.gpadls.get(&gpadl)?.state else {
                    return None;
                };
                let messages = ranges.messages(relid, gpadl).ok()?;
                let message = messages.get(index)?;
                Some((message.emit(buf).ok()?, index + 1 < messages.len()))
            }
        }
    }

    /// Where messages go now.
    fn connection_id(&self) -> ConnectionId {
        match &self.state {
            State::Connecting { version, .. } if *version >= Version::V5_0 => self.config.contact_connection,
            State::Connected(Connection { message_connection, .. }) | State::Unloading { message_connection, .. } => {
                *message_connection
            }
            State::Disconnected | State::Connecting { .. } => ConnectionId::MESSAGE,
        }
    }

    /// What follows from a message having been handed out.
    fn note_taken(&mut self, item: Item, more: bool) {
        let State::Connected(connection) = &mut self.state else {
            return;
        };
        match item {
            Item::Gpadl { gpadl, .. } if !more => {
                if let Some(gpadl) = connection.gpadls.get_mut(&gpadl)
                    && let GpadlState::Creating { sent, .. } = &mut gpadl.state
                {
                    *sent = true;
                }
            }
            Item::Message(Message::RelIdReleased(RelIdReleased { relid })) => {
                connection.channels.remove(&relid);
            }
            _ => {}
        }
    }

    /// Whether a message that was not posted still has a purpose.
    fn is_wanted(&self, item: Item) -> bool {
        let connection = match (&self.state, item) {
            (State::Connected(connection), _) => connection,
            (State::Connecting { version, .. }, Item::Message(Message::InitiateContact(m))) => {
                return m.version == *version;
            }
            (State::Unloading { .. }, Item::Message(Message::Unload)) => return true,
            _ => return false,
        };
        let channel = |relid: RelId| connection.channels.get(&relid).map(|channel| &channel.state);
        match item {
            Item::Message(Message::OpenChannel(m)) => {
                matches!(channel(m.relid), Some(ChannelState::Opening { .. }))
            }
            Item::Message(Message::ModifyChannel(m)) => {
                matches!(channel(m.relid), Some(ChannelState::Open { .. }))
            }
            Item::Message(Message::GpadlTeardown(m)) => {
                let gpadl = connection.gpadls.get(&m.gpadl).map(|gpadl| &gpadl.state);
                matches!(gpadl, Some(GpadlState::TearingDown { .. }))
            }
            Item::Gpadl { gpadl, .. } => {
                let gpadl = connection.gpadls.get(&gpadl).map(|gpadl| &gpadl.state);
                matches!(gpadl, Some(GpadlState::Creating { .. }))
            }
            Item::Message(Message::CloseChannel(_) | Message::RelIdReleased(_) | Message::RequestOffers) => true,
            Item::Message(_) => false,
        }
    }

    /// Fails what a message was for.
    fn give_up(&mut self, item: Item, status: HypercallStatus) {
        let reason = Failure::NotSent(status);
        let (message, relid, gpadl) = match item {
            Item::Message(Message::InitiateContact(_)) => {
                self.disconnect();
                self.events.push_back(Event::ConnectFailed(ConnectFailure::NotSent { status }));
                return;
            }
            Item::Message(Message::OpenChannel(m)) => {
                if let Some(state) = self.channel_state(m.relid) {
                    *state = ChannelState::Offered;
                    self.events.push_back(Event::OpenFailed { relid: m.relid, reason });
                }
                return;
            }
            Item::Gpadl { relid, gpadl, .. } => {
                self.outbox.retain(|item| !matches!(item, Item::Gpadl { gpadl: queued, .. } if *queued == gpadl));
                if let State::Connected(connection) = &mut self.state
                    && connection.gpadls.remove(&gpadl).is_some()
                {
                    self.events.push_back(Event::GpadlFailed { relid, gpadl, reason });
                }
                return;
            }
            Item::Message(Message::ModifyChannel(m)) => {
                if let Some(ChannelState::Open { modify: modify @ Some(_), .. }) = self.channel_state(m.relid) {
                    *modify = None;
                    let outcome = ModifyOutcome::Failed(reason);
                    let (relid, target_vp) = (m.relid, m.target_vp);
                    self.events.push_back(Event::ModifyDone { relid, target_vp, outcome });
                    return;
                }
                (Message::ModifyChannel(m), Some(m.relid), None)
            }
            Item::Message(message @ Message::GpadlTeardown(m)) => {
                // The host still has the memory; the user may ask for it again.
                if let State::Connected(connection) = &mut self.state
                    && let Some(gpadl) = connection.gpadls.get_mut(&m.gpadl)
                {
                    gpadl.state = GpadlState::Ready;
                }
                (message, Some(m.relid), Some(m.gpadl))
            }
            Item::Message(message @ Message::CloseChannel(m)) => (message, Some(m.relid), None),
            Item::Message(message @ Message::RelIdReleased(m)) => (message, Some(m.relid), None),
            Item::Message(message) => (message, None, None),
        };
        let message = message.message_type();
        self.events.push_back(Event::NotSent { message, relid, gpadl, status });
    }

    /// Asks for a connection with `version`.
    fn contact(&mut self, now: Duration, version: Version) {
        let config = &self.config;
        let features = config.features_at(version);
        let target = if version >= Version::V5_0 {
            let vtl = if version >= Version::V5_1 { config.vtl } else { 0 };
            ContactTarget::Synic { sint: config.sint, vtl, features }
        } else {
            ContactTarget::InterruptPage(config.interrupt_page)
        };
        self.outbox.clear();
        self.outbox.push(Message::InitiateContact(InitiateContact {
            version,
            target_message_vp: config.message_vp,
            target,
            monitor_pages: config.monitor_pages,
            client_id: config.client_id.filter(|_| version >= Version::V6_0),
        }));
        let deadline = now.saturating_add(config.timeouts.connect);
        self.state = State::Connecting { version, deadline };
    }

    /// Goes on with the next older version, if there is one.
    fn try_older_version(&mut self, now: Duration) {
        let State::Connecting { version, .. } = self.state else {
            return;
        };
        if let Some(older) = self.config.version_below(version) {
            self.contact(now, older);
        } else {
            self.disconnect();
            self.events.push_back(Event::ConnectFailed(ConnectFailure::NoCommonVersion));
        }
    }

    /// Forgets the connection and what was to be sent on it.
    fn disconnect(&mut self) {
        self.outbox.clear();
        self.state = State::Disconnected;
    }

    /// A channel's state, if there is such a channel.
    fn channel_state(&mut self, relid: RelId) -> Option<&mut ChannelState> {
        match &mut self.state {
            State::Connected(connection) => connection.channels.get_mut(&relid).map(|channel| &mut channel.state),
            _ => None,
        }
    }

    /// Queues RELID_RELEASED once the user knows of the rescind and the channel is closed.
    ///
    /// The state change makes it happen once; nothing is queued for the channel afterwards, so it is the last message.
    fn release_if_done(&mut self, relid: RelId) {
        let Some(state) = self.channel_state(relid) else {
            return;
        };
        if matches!(state, ChannelState::Rescinded { must_close: false, told: true }) {
            *state = ChannelState::Releasing;
            self.outbox.push(Message::RelIdReleased(RelIdReleased { relid }));
        }
    }
}
