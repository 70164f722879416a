//! What each message from the host does.

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::outbox::Item;
use super::state::{Channel, ChannelState, Connection, GpadlState, Modify, Offers, State};
use super::{Client, ConnectFailure, Event, Failure, ModifyOutcome, TornDown, Violation};
use crate::gpadl::GpadlId;
use crate::protocol::{
    ConnectionState, Context, Direction, FeatureFlags, GpadlCreated, Message, ModifyChannelResponse, Offer, OpenResult,
    RelId, Status, Version, VersionResponse,
};

/// Nothing was waiting for the message.
struct Unexpected;

impl Client {
    /// Takes one message from the host: the payload of a SynIC message of type 1, copied out of its slot.
    ///
    /// # Errors
    /// [`Violation`] if the message breaks the protocol. It had no effect, and the client can go on.
    pub fn handle_message(&mut self, now: Duration, bytes: &[u8]) -> Result<(), Violation> {
        let result = self.dispatch(now, bytes);
        if result.is_err() {
            self.counters.violations = self.counters.violations.saturating_add(1);
        }
        result
    }

    fn dispatch(&mut self, now: Duration, bytes: &[u8]) -> Result<(), Violation> {
        let message = Message::parse(bytes, self.parse_context())?;
        let message_type = message.message_type();
        if message_type.direction() == Some(Direction::GuestToHost) {
            return Err(Violation::WrongDirection { message: message_type });
        }
        let handled = match message {
            Message::Offer(offer) => return self.offered(offer),
            Message::VersionResponse(response) => self.version_response(now, &response),
            Message::Rescind(rescind) => self.rescinded(rescind.relid),
            Message::AllOffersDelivered => self.all_offers_delivered(),
            Message::OpenResult(result) => self.open_result(&result),
            Message::GpadlCreated(created) => self.gpadl_created(&created),
            Message::GpadlTorndown(torndown) => self.gpadl_torndown(torndown.gpadl),
            Message::ModifyChannelResponse(response) => self.modify_response(&response),
            Message::UnloadResponse => self.unload_response(),
            // Answers to what this client never asks.
            _ => Err(Unexpected),
        };
        if handled.is_err() {
            self.count_unexpected();
        }
        Ok(())
    }

    /// What decides the form of incoming messages.
    fn parse_context(&self) -> Context {
        match &self.state {
            State::Connecting { version, .. } => {
                Context { version: *version, features: self.config.features_at(*version) }
            }
            State::Connected(Connection { context, .. }) | State::Unloading { context, .. } => *context,
            // Leftovers of an earlier connection have to be recognised, in order to be ignored.
            State::Disconnected => Context::new(Version::V5_3),
        }
    }

    fn count_unexpected(&mut self) {
        self.counters.unexpected = self.counters.unexpected.saturating_add(1);
    }

    fn version_response(&mut self, now: Duration, response: &VersionResponse) -> Result<(), Unexpected> {
        let State::Connecting { version, .. } = self.state else {
            return Err(Unexpected);
        };
        if !response.version_supported {
            self.try_older_version(now);
            return Ok(());
        }
        let state = response.connection_state;
        // Below 2.4 the byte is padding.
        if state != ConnectionState::SUCCESSFUL && version >= Version::V2_4 {
            self.disconnect();
            self.events.push_back(Event::ConnectFailed(ConnectFailure::Refused { version, state }));
            return Ok(());
        }
        let supported = response.supported_features.unwrap_or(FeatureFlags::NONE);
        let features = self.config.features_at(version).intersection(supported);
        self.outbox.clear();
        self.outbox.push(Message::RequestOffers);
        self.state = State::Connected(Connection {
            context: Context { version, features },
            message_connection: response.message_connection(version),
            offers: Offers::Requested { deadline: Some(now.saturating_add(self.config.timeouts.offers)) },
            channels: BTreeMap::new(),
            gpadls: BTreeMap::new(),
        });
        let monitor_pages = response.monitor_pages;
        self.events.push_back(Event::Connected { version, features, monitor_pages });
        Ok(())
    }

    fn offered(&mut self, offer: Offer) -> Result<(), Violation> {
        let State::Connected(connection) = &mut self.state else {
            self.count_unexpected();
            return Ok(());
        };
        let relid = offer.relid;
        if !relid.is_valid() {
            return Err(Violation::RelIdOutOfRange { relid, limit: RelId::MAX });
        }
        if connection.channels.contains_key(&relid) {
            return Err(Violation::DuplicateRelId { relid });
        }
        // A rescinded channel may stand beside its successor until it is released.
        let same = connection.channels.values().find(|channel| {
            !channel.state.is_rescinded()
                && channel.offer.interface_id == offer.interface_id
                && channel.offer.instance_id == offer.instance_id
                && channel.offer.sub_channel_index == offer.sub_channel_index
        });
        if let Some(same) = same {
            return Err(Violation::DuplicateChannel {
                relid,
                existing: same.offer.relid,
                instance_id: offer.instance_id,
                sub_channel_index: offer.sub_channel_index,
            });
        }
        connection.channels.insert(relid, Channel { offer, state: ChannelState::Offered });
        self.events.push_back(Event::Offered(offer));
        Ok(())
    }

    fn all_offers_delivered(&mut self) -> Result<(), Unexpected> {
        let State::Connected(connection) = &mut self.state else {
            return Err(Unexpected);
        };
        if !matches!(connection.offers, Offers::Requested { .. }) {
            return Err(Unexpected);
        }
        connection.offers = Offers::Delivered;
        self.events.push_back(Event::AllOffersDelivered);
        Ok(())
    }

    fn open_result(&mut self, result: &OpenResult) -> Result<(), Unexpected> {
        let relid = result.relid;
        let state = self.channel_state(relid).ok_or(Unexpected)?;
        let ChannelState::Opening { open_id, ring, target_vp, .. } = *state else {
            return Err(Unexpected);
        };
        if open_id != result.open_id {
            return Err(Unexpected);
        }
        if result.status.is_success() {
            *state = ChannelState::Open { ring, target_vp, modify: None };
            self.events.push_back(Event::Opened { relid });
        } else {
            *state = ChannelState::Offered;
            let reason = Failure::Refused(result.status);
            self.events.push_back(Event::OpenFailed { relid, reason });
        }
        Ok(())
    }

    fn gpadl_created(&mut self, created: &GpadlCreated) -> Result<(), Unexpected> {
        let GpadlCreated { relid, gpadl, status } = *created;
        let State::Connected(connection) = &mut self.state else {
            return Err(Unexpected);
        };
        let entry = connection.gpadls.get_mut(&gpadl).ok_or(Unexpected)?;
        let GpadlState::Creating { sent, .. } = entry.state else {
            return Err(Unexpected);
        };
        // A host may refuse after the first message, but cannot accept what it has not seen.
        if entry.relid != relid || (status.is_success() && !sent) {
            return Err(Unexpected);
        }
        if status.is_success() {
            entry.state = GpadlState::Ready;
            self.events.push_back(Event::GpadlCreated { relid, gpadl });
            return Ok(());
        }
        connection.gpadls.remove(&gpadl);
        self.outbox.retain(|item| !matches!(item, Item::Gpadl { gpadl: queued, .. } if *queued == gpadl));
        let reason = Failure::Refused(status);
        self.events.push_back(Event::GpadlFailed { relid, gpadl, reason });
        Ok(())
    }

    fn gpadl_torndown(&mut self, gpadl: GpadlId) -> Result<(), Unexpected> {
        let State::Connected(connection) = &mut self.state else {
            return Err(Unexpected);
        };
        let entry = connection.gpadls.get(&gpadl).ok_or(Unexpected)?;
        if !matches!(entry.state, GpadlState::TearingDown { .. }) {
            return Err(Unexpected);
        }
        let relid = entry.relid;
        connection.gpadls.remove(&gpadl);
        let cause = TornDown::Acknowledged;
        self.events.push_back(Event::GpadlTornDown { relid, gpadl, cause });
        Ok(())
    }

    fn modify_response(&mut self, response: &ModifyChannelResponse) -> Result<(), Unexpected> {
        let relid = response.relid;
        let state = self.channel_state(relid).ok_or(Unexpected)?;
        let ChannelState::Open { target_vp: current, modify, .. } = state else {
            return Err(Unexpected);
        };
        let Modify { target_vp, .. } = modify.take().ok_or(Unexpected)?;
        let outcome = match response.status {
            Status::SUCCESS => {
                *current = target_vp;
                ModifyOutcome::Moved
            }
            status => ModifyOutcome::Failed(Failure::Refused(status)),
        };
        self.events.push_back(Event::ModifyDone { relid, target_vp, outcome });
        Ok(())
    }

    fn unload_response(&mut self) -> Result<(), Unexpected> {
        if !matches!(self.state, State::Unloading { .. }) {
            return Err(Unexpected);
        }
        self.disconnect();
        self.events.push_back(Event::Unloaded);
        Ok(())
    }

    /// The host takes an offer back: everything that waits for an answer about the channel is woken now, since a host
    /// may not answer any more.
    fn rescinded(&mut self, relid: RelId) -> Result<(), Unexpected> {
        let State::Connected(connection) = &mut self.state else {
            return Err(Unexpected);
        };
        let channel = connection.channels.get_mut(&relid).ok_or(Unexpected)?;
        let reason = Failure::Rescinded;
        let must_close = match channel.state {
            ChannelState::Rescinded { .. } | ChannelState::Releasing => return Err(Unexpected),
            ChannelState::Offered => false,
            ChannelState::Opening { .. } => {
                self.events.push_back(Event::OpenFailed { relid, reason });
                false
            }
            ChannelState::Open { modify, .. } => {
                if let Some(Modify { target_vp, .. }) = modify {
                    let outcome = ModifyOutcome::Failed(reason);
                    self.events.push_back(Event::ModifyDone { relid, target_vp, outcome });
                }
                true
            }
        };
        channel.state = ChannelState::Rescinded { must_close, told: false };
        connection.gpadls.retain(|&gpadl, entry| {
            if entry.relid != relid {
                return true;
            }
            match entry.state {
                GpadlState::Creating { .. } => {
                    self.events.push_back(Event::GpadlFailed { relid, gpadl, reason });
                    false
                }
                GpadlState::TearingDown { .. } => {
                    let cause = TornDown::Rescinded;
                    self.events.push_back(Event::GpadlTornDown { relid, gpadl, cause });
                    false
                }
                GpadlState::Ready | GpadlState::Void => {
                    entry.state = GpadlState::Void;
                    true
                }
            }
        });
        // What was not posted yet would be dropped by the host; a close still has to go out.
        self.outbox.retain(|item| match item {
            Item::Gpadl { relid: queued, .. } => *queued != relid,
            Item::Message(Message::OpenChannel(m)) => m.relid != relid,
            Item::Message(Message::ModifyChannel(m)) => m.relid != relid,
            Item::Message(Message::GpadlTeardown(m)) => m.relid != relid,
            Item::Message(_) => true,
        });
        self.events.push_back(Event::Rescinded { relid, must_close });
        Ok(())
    }
}
