//! The host's side of VMBus: what answers the guest's control messages.
//!
//! One [`Server`] serves one connection with one device: its primary channel, and the subchannels that the device
//! offers later. It keeps the connection, the offers, and the memory that the guest lent; what flows through open
//! channels is the device's. [`Server::next`] handles one message and says what the device has to do.
//!
//! The guest is not trusted: whatever it posts is answered, recorded as a [`Violation`] or dropped, with bounded work
//! and memory a message.
//!
//! Sources: Linux `drivers/hv/{connection,channel,channel_mgmt}.c`; OpenVMM `vmbus_server/src/channels.rs`.

mod channel;
mod connection;
mod gpadl;

use vmbus::gpadl::GpadlId;
use vmbus::mem::HostPort;
use vmbus::memory::HeapMemory;
use vmbus::protocol::{Context, Message, RelId};

use channel::Channels;
pub(crate) use channel::OpenRings;
use connection::Connection;
use gpadl::Gpadls;

use crate::host::NicId;
use crate::report::Leaks;
use crate::violation::{Violation, ViolationKind, ViolationLog};

/// What the device has to do about a message.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing.
    None,
    /// A channel is open. The guest has been told.
    Opened(OpenRings),
    /// A channel was closed: let go of its rings. 0 is the primary channel.
    Closed { index: u16 },
    /// The guest took memory back; the host must not touch it any more.
    TornDown(GpadlId),
    /// All channels are closed and all memory is gone.
    Reset,
}

/// One connection's server.
#[derive(Debug)]
pub(crate) struct Server {
    port: HostPort,
    nic: NicId,
    connection: Connection,
    channels: Channels,
    gpadls: Gpadls,
    /// What the guest left behind when it ended a connection.
    left_behind: Leaks,
}

impl Server {
    pub(crate) fn new(port: HostPort, nic: NicId, vmbus_max: vmbus::protocol::Version) -> Self {
        Self {
            port,
            nic,
            connection: Connection::new(vmbus_max),
            channels: Channels::new(nic),
            gpadls: Gpadls::default(),
            left_behind: Leaks::default(),
        }
    }

    /// The server of a later connection of the same device's. What the guest held at the end of this one it has left behind.
    pub(crate) fn succeeded_by(&self, port: HostPort, vmbus_max: vmbus::protocol::Version) -> Self {
        Self { left_behind: self.leaks(), ..Self::new(port, self.nic, vmbus_max) }
    }

    pub(crate) fn port(&self) -> &HostPort {
        &self.port
    }

    /// The version agreed on, if there is a connection.
    pub(crate) fn version(&self) -> Option<vmbus::protocol::Version> {
        self.connection.context().map(|context| context.version)
    }

    /// The memory of a GPADL.
    pub(crate) fn gpadl(&self, id: GpadlId) -> Option<&HeapMemory> {
        self.gpadls.memory(id)
    }

    /// Handles the next message; `None` when there is none.
    pub(crate) fn next(&mut self, log: &mut ViolationLog) -> Option<Event> {
        let posted = self.port.take_message()?;
        let bytes = posted.bytes.as_slice();
        // Before the contact only that and UNLOAD are understood, at any version.
        let context = self.connection.context().unwrap_or(Context::UNCONNECTED);
        let message = match Message::parse(bytes, context) {
            Ok(message) => message,
            Err(error) => {
                log.record(self.violation(ViolationKind::BadMessage, None, error.to_string(), bytes));
                return Some(Event::None);
            }
        };
        if !self.connection.expects_on(&message, posted.connection_id) {
            let text = format!("{} on connection id {:#x}", message.message_type(), posted.connection_id.0);
            log.record(self.violation(ViolationKind::UnexpectedMessage, None, text, bytes));
        }
        Some(self.handle(message, bytes, log))
    }

    fn handle(&mut self, message: Message<'_>, bytes: &[u8], log: &mut ViolationLog) -> Event {
        if self.connection.context().is_none() && !matches!(message, Message::InitiateContact(_) | Message::Unload) {
            let text = format!("{} before the connection", message.message_type());
            log.record(self.violation(ViolationKind::UnexpectedMessage, None, text, bytes));
            return Event::None;
        }
        match message {
            Message::InitiateContact(contact) => {
                let answer = self.connection.contact(&contact);
                // A guest that contacts again has crashed, or starts over: the old connection is no more.
                let event = self.reset();
                self.post(&Message::VersionResponse(answer));
                event
            }
            Message::RequestOffers => {
                if self.connection.request_offers() {
                    let offer = self.channels.offer_primary();
                    self.post(&Message::Offer(offer));
                } else {
                    let text = "REQUEST_OFFERS for the second time";
                    log.record(self.violation(ViolationKind::UnexpectedMessage, None, text, bytes));
                }
                self.post(&Message::AllOffersDelivered);
                Event::None
            }
            Message::GpadlHeader(header) => {
                let known = self.channels.is_offered(header.relid);
                let answer = self.gpadls.header(&header, known, self.port.memory());
                self.gpadl_answer(answer, bytes, log)
            }
            Message::GpadlBody(body) => {
                let answer = self.gpadls.body(&body, self.port.memory());
                self.gpadl_answer(answer, bytes, log)
            }
            Message::GpadlTeardown(teardown) => self.teardown(&teardown, bytes, log),
            Message::OpenChannel(open) => self.open(&open, bytes, log),
            Message::CloseChannel(close) => self.close(close.relid, bytes, log),
            Message::RelIdReleased(released) => self.released(released.relid, bytes, log),
            Message::ModifyChannel(modify) => self.modify(&modify, bytes, log),
            Message::TlConnectRequest(request) => {
                let answer = connection::refuse_hvsock(&request);
                if self.connection.context().is_some_and(|c| c.version >= vmbus::protocol::Version::V4_1) {
                    self.post(&Message::TlConnectResult(answer));
                }
                Event::None
            }
            Message::Unload => {
                let event = self.reset();
                self.connection.disconnect();
                self.post(&Message::UnloadResponse);
                event
            }
            _ => {
                let text = format!("{} is nothing that this host is sent", message.message_type());
                log.record(self.violation(ViolationKind::BadMessage, None, text, bytes));
                Event::None
            }
        }
    }

    /// Offers one more channel.
    pub(crate) fn offer_subchannel(&mut self, index: u16) {
        let offer = self.channels.offer_subchannel(index);
        self.post(&Message::Offer(offer));
    }

    /// Takes the channels back whose index is one of `which`, subchannels first. Returns the open ones, which the device has
    /// to let go of.
    pub(crate) fn rescind(&mut self, which: impl Fn(u16) -> bool) -> Vec<u16> {
        let mut open = Vec::new();
        for (relid, index, was_open) in self.channels.rescind(which) {
            self.post(&Message::Rescind(vmbus::protocol::Rescind { relid }));
            // Who waits for the channel learns of it, too.
            self.port.interrupt(relid).set();
            if was_open {
                open.push(index);
            }
        }
        open
    }

    /// What the guest holds.
    pub(crate) fn leaks(&self) -> Leaks {
        let mut leaks = self.left_behind;
        leaks.gpadls += self.gpadls.len() as u64;
        leaks.channels += self.channels.held();
        leaks.memory_blocks = self.port.memory().blocks() as u64;
        leaks
    }

    /// The connection is no more: all that the guest lent or opened is let go of. A guest that did not take back what
    /// it lent before is said to have left it behind.
    fn reset(&mut self) -> Event {
        self.left_behind.gpadls += self.gpadls.len() as u64;
        self.left_behind.channels += self.channels.open_count();
        self.gpadls.clear();
        self.channels.clear();
        Event::Reset
    }

    fn post(&self, message: &Message<'_>) {
        let mut buffer = [0; vmbus::protocol::MAX_MESSAGE];
        match message.emit(&mut buffer) {
            // Cannot fail: a message is never longer than the transport takes.
            Ok(len) => drop(self.port.post_message(&buffer[..len])),
            Err(error) => tracing::error!(target: "netvsc_host", %error, "message not sent"),
        }
    }

    fn violation(
        &self,
        kind: ViolationKind,
        channel: Option<RelId>,
        message: impl Into<String>,
        bytes: &[u8],
    ) -> Violation {
        Violation::new(kind, self.nic, channel, message, bytes)
    }
}
