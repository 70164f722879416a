//! What the user can ask for.

use core::time::Duration;

use super::state::{Channel, ChannelState, Connection, Gpadl, GpadlState, Modify, State};
use super::{Client, Event, ModifyOutcome, RequestError, TornDown};
use crate::gpadl::{GpadlId, RangeList};
use crate::protocol::{
    CloseChannel, FeatureFlags, GpadlTeardown, Message, ModifyChannel, OpenChannel, OpenFlags, OpenId, RelId,
    SignalParameters, USER_DEFINED_LEN, Version, VpIndex,
};

/// How to open a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// The channel.
    pub relid: RelId,
    /// The memory that holds both rings, created on the same channel.
    pub ring_gpadl: GpadlId,
    /// Where the host-to-guest ring starts, in 4 KiB pages: the length of the other ring, control page included.
    pub downstream_page_offset: u32,
    /// The processor that gets the interrupts, by its VP index, or [`VpIndex::INTERRUPTS_DISABLED`].
    pub target_vp: VpIndex,
    /// For the device; zeros for most.
    pub user_data: [u8; USER_DEFINED_LEN],
    /// Signal parameters, if [`FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS`] is in force; by default those of the
    /// offer.
    pub signal: Option<SignalParameters>,
}

impl OpenRequest {
    /// A request with interrupts on processor 0 and no user data.
    pub fn new(relid: RelId, ring_gpadl: GpadlId, downstream_page_offset: u32) -> Self {
        Self {
            relid,
            ring_gpadl,
            downstream_page_offset,
            target_vp: VpIndex(0),
            user_data: [0; USER_DEFINED_LEN],
            signal: None,
        }
    }
}

impl Client {
    /// Starts to connect: ends with [`Event::Connected`] or [`Event::ConnectFailed`].
    ///
    /// Forgets the events of an earlier connection that were not taken. Numbers and connection ids of the same devices
    /// may differ from those of the earlier connection.
    ///
    /// # Errors
    /// [`RequestError::AlreadyConnected`].
    pub fn connect(&mut self, now: Duration) -> Result<(), RequestError> {
        if !matches!(self.state, State::Disconnected) {
            return Err(RequestError::AlreadyConnected);
        }
        // The configuration was checked to allow a version.
        let newest = self.config.version_up_to(self.config.newest);
        self.events.clear();
        self.contact(now, newest.unwrap_or(self.config.newest));
        Ok(())
    }

    /// Closes the connection, whatever is open or lent: ends with [`Event::Unloaded`], after which the host touches no
    /// memory. Channels and lent memory are forgotten at once, and no event about them follows.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`]; [`RequestError::NeedsVersion`] below version 3.0, where there is no way back from
    /// UNLOAD: close channels and tear memory down instead.
    pub fn unload(&mut self, now: Duration) -> Result<(), RequestError> {
        let connection = self.connection()?;
        needs_version(connection, Version::V3_0)?;
        let (context, message_connection) = (connection.context, connection.message_connection);
        self.outbox.clear();
        self.outbox.push(Message::Unload);
        let deadline = Some(now.saturating_add(self.config.timeouts.unload));
        self.state = State::Unloading { context, message_connection, deadline };
        Ok(())
    }

    /// Lends memory to the host: ends with [`Event::GpadlCreated`] or [`Event::GpadlFailed`].
    ///
    /// The host may use the memory from now until the failure, [`Event::GpadlTornDown`], or [`Event::Unloaded`].
    ///
    /// # Errors
    /// No connection or no such channel, a rescinded channel, or an empty list.
    pub fn create_gpadl(&mut self, now: Duration, relid: RelId, ranges: RangeList) -> Result<GpadlId, RequestError> {
        let deadline = Some(now.saturating_add(self.config.timeouts.gpadl));
        let candidate = self.next_gpadl;
        let connection = self.connection()?;
        live_channel(connection, relid)?;
        let pages = ranges.ranges().map_err(RequestError::Ranges)?.page_count();
        // Counting up, an id comes back only after 2^32 others; skip what is in use then.
        let mut gpadl = GpadlId(candidate.0.max(1));
        while connection.gpadls.contains_key(&gpadl) {
            gpadl = GpadlId(gpadl.0.wrapping_add(1).max(1));
        }
        let state = GpadlState::Creating { ranges, sent: false, deadline };
        connection.gpadls.insert(gpadl, Gpadl { relid, pages, state });
        self.next_gpadl = GpadlId(gpadl.0.wrapping_add(1));
        self.outbox.push_gpadl(relid, gpadl);
        Ok(gpadl)
    }

    /// Asks for memory back: ends with [`Event::GpadlTornDown`].
    ///
    /// # Errors
    /// No connection or no such memory; memory that is being created or torn down, or holds the rings of a channel that
    /// is open or opening.
    pub fn teardown_gpadl(&mut self, now: Duration, gpadl: GpadlId) -> Result<(), RequestError> {
        let deadline = Some(now.saturating_add(self.config.timeouts.teardown));
        let connection = self.connection()?;
        let entry = connection.gpadls.get_mut(&gpadl).ok_or(RequestError::UnknownGpadl { gpadl })?;
        let relid = entry.relid;
        match entry.state {
            GpadlState::Ready => {
                let channel = connection.channels.get(&relid);
                if channel.and_then(|channel| channel.state.ring()) == Some(gpadl) {
                    let state = "the ring of an open channel";
                    return Err(RequestError::GpadlBusy { gpadl, state });
                }
                entry.state = GpadlState::TearingDown { deadline };
                self.outbox.push(Message::GpadlTeardown(GpadlTeardown { relid, gpadl }));
            }
            GpadlState::Void => {
                connection.gpadls.remove(&gpadl);
                let cause = TornDown::Rescinded;
                self.events.push_back(Event::GpadlTornDown { relid, gpadl, cause });
            }
            GpadlState::Creating { .. } | GpadlState::TearingDown { .. } => {
                return Err(RequestError::GpadlBusy { gpadl, state: entry.state.name() });
            }
        }
        Ok(())
    }

    /// Opens a channel: ends with [`Event::Opened`] or [`Event::OpenFailed`].
    ///
    /// Register the interrupt handler first: the host may signal before its answer arrives.
    ///
    /// # Errors
    /// No connection or no such channel; a channel that is not closed; ring memory that does not exist, is not ready,
    /// belongs to another channel, or is too short; signal parameters without their feature.
    pub fn open_channel(&mut self, now: Duration, open: OpenRequest) -> Result<(), RequestError> {
        let deadline = Some(now.saturating_add(self.config.timeouts.open));
        let OpenRequest { relid, ring_gpadl: gpadl, downstream_page_offset, target_vp, .. } = open;
        let connection = self.connection()?;
        let features = connection.context.features;
        let ring = connection.gpadls.get(&gpadl);
        let ring = ring.map(|entry| (entry.relid, entry.pages, entry.state.name()));
        let ready = connection.gpadls.get(&gpadl).is_some_and(|entry| matches!(entry.state, GpadlState::Ready));
        let channel = live_channel(connection, relid)?;
        if !matches!(channel.state, ChannelState::Offered) {
            return Err(RequestError::WrongState { relid, state: channel.state.name() });
        }
        let (owner, pages, state) = ring.ok_or(RequestError::UnknownGpadl { gpadl })?;
        if owner != relid {
            return Err(RequestError::ForeignGpadl { gpadl, owner });
        }
        if !ready {
            return Err(RequestError::GpadlBusy { gpadl, state });
        }
        if downstream_page_offset == 0 || u64::from(downstream_page_offset) >= pages {
            return Err(RequestError::RingOffset { downstream_page_offset, pages });
        }
        let signal = signal_parameters(&open, channel, features)?;
        // As Linux does it; any value is echoed.
        let open_id = OpenId(relid.0);
        channel.state = ChannelState::Opening { open_id, ring: gpadl, target_vp, deadline };
        self.outbox.push(Message::OpenChannel(OpenChannel {
            relid,
            open_id,
            ring_gpadl: gpadl,
            target_vp,
            downstream_page_offset,
            user_data: open.user_data,
            signal,
        }));
        Ok(())
    }

    /// Closes an open channel. The host does not answer; it stops using the rings once their memory is torn down.
    ///
    /// Close subchannels before their primary. A channel that was not rescinded can be opened again.
    ///
    /// # Errors
    /// No connection or no such channel, or one that is not open.
    pub fn close_channel(&mut self, relid: RelId) -> Result<(), RequestError> {
        let connection = self.connection()?;
        let channel = connection.channels.get_mut(&relid).ok_or(RequestError::UnknownChannel { relid })?;
        channel.state = match channel.state {
            ChannelState::Open { .. } => ChannelState::Offered,
            ChannelState::Rescinded { must_close: true, told } => ChannelState::Rescinded { must_close: false, told },
            ref state => {
                return Err(RequestError::WrongState { relid, state: state.name() });
            }
        };
        self.outbox.push(Message::CloseChannel(CloseChannel { relid }));
        self.release_if_done(relid);
        Ok(())
    }

    /// Moves the interrupts of an open channel to another processor: ends with [`Event::ModifyDone`].
    ///
    /// Below version 5.3 the host does not answer, and the old processor may see interrupts for a while.
    ///
    /// # Errors
    /// No connection or no such channel; a channel that is not open, is being moved, or has no interrupts; a connection
    /// below version 4.1.
    pub fn modify_channel(&mut self, now: Duration, relid: RelId, target_vp: VpIndex) -> Result<(), RequestError> {
        let deadline = Some(now.saturating_add(self.config.timeouts.modify));
        let connection = self.connection()?;
        needs_version(connection, Version::V4_1)?;
        let answered = connection.context.version >= Version::V5_3;
        let channel = live_channel(connection, relid)?;
        let name = channel.state.name();
        let ChannelState::Open { target_vp: current, modify: modify @ None, .. } = &mut channel.state else {
            return Err(RequestError::WrongState { relid, state: name });
        };
        if [target_vp, *current].contains(&VpIndex::INTERRUPTS_DISABLED) {
            return Err(RequestError::TargetVp { relid });
        }
        if answered {
            *modify = Some(Modify { target_vp, deadline });
        } else {
            *current = target_vp;
            let outcome = ModifyOutcome::Unacknowledged;
            self.events.push_back(Event::ModifyDone { relid, target_vp, outcome });
        }
        self.outbox.push(Message::ModifyChannel(ModifyChannel { relid, target_vp }));
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection, RequestError> {
        match &mut self.state {
            State::Connected(connection) => Ok(connection),
            _ => Err(RequestError::NotConnected),
        }
    }
}

/// The channel, if it was not rescinded.
fn live_channel(connection: &mut Connection, relid: RelId) -> Result<&mut Channel, RequestError> {
    match connection.channels.get_mut(&relid) {
        None => Err(RequestError::UnknownChannel { relid }),
        Some(channel) if channel.state.is_rescinded() => Err(RequestError::Rescinded { relid }),
        Some(channel) => Ok(channel),
    }
}

fn needs_version(connection: &Connection, needed: Version) -> Result<(), RequestError> {
    let version = connection.context.version;
    if version < needed { Err(RequestError::NeedsVersion { needed, version }) } else { Ok(()) }
}

/// What the longer OPENCHANNEL carries, if the connection uses it.
fn signal_parameters(
    open: &OpenRequest,
    channel: &Channel,
    features: FeatureFlags,
) -> Result<Option<SignalParameters>, RequestError> {
    let needed = FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS;
    if !features.contains(needed) {
        return match open.signal {
            None => Ok(None),
            Some(_) => Err(RequestError::NeedsFeature { needed, features }),
        };
    }
    Ok(Some(open.signal.unwrap_or(SignalParameters {
        connection_id: channel.offer.connection_id,
        // Numbers of channels end at 2047, so they fit.
        event_flag: u16::try_from(open.relid.0).unwrap_or(u16::MAX),
        flags: OpenFlags::default(),
    })))
}
