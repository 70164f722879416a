//! Channels: offered, opened, closed, rescinded, released.
//!
//! ```text
//!            OPEN ok            CLOSE
//!  Offered ───────────▶ Open ───────────▶ Offered
//!     │                  │
//!     └──── rescind ─────┴──▶ Rescinded ── RELID_RELEASED ──▶ (gone)
//! ```
//!
//! Source: Linux `drivers/hv/channel_mgmt.c`; OpenVMM `vmbus_server/src/channels.rs`.

use vmbus::gpadl::GpadlId;
use vmbus::guid::Guid;
use vmbus::mem::Latch;
use vmbus::memory::{HeapMemory, SharedMemory};
use vmbus::protocol::{
    ConnectionId, Message, ModifyChannel, ModifyChannelResponse, Offer, OfferFlags, OpenChannel, OpenResult, RelId,
    Status, USER_DEFINED_LEN, Version, VpIndex,
};
use vmbus::ring::{CONTROL_BYTES, MappedRing, RingMemory, Word};

use super::{Event, Server};
use crate::host::NicId;
use crate::violation::{ViolationKind, ViolationLog};

/// The rings of a channel that was just opened.
#[derive(Debug)]
pub(crate) struct OpenRings {
    /// Which channel: 0 is the primary one.
    pub(crate) index: u16,
    pub(crate) relid: RelId,
    /// The GPADL that both rings lie in.
    pub(crate) gpadl: GpadlId,
    /// Guest → host.
    pub(crate) outgoing: MappedRing<HeapMemory>,
    /// Host → guest.
    pub(crate) incoming: MappedRing<HeapMemory>,
    /// Interrupts the guest, if it wants to be.
    pub(crate) interrupt: Option<Latch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offered,
    Open { ring: GpadlId },
    Rescinded,
}

#[derive(Debug)]
struct Channel {
    relid: RelId,
    index: u16,
    state: State,
}

#[derive(Debug)]
pub(super) struct Channels {
    instance: Guid,
    list: Vec<Channel>,
    /// The last relid given out: they are used round robin, so that a stale one is found out.
    last_relid: u32,
}

impl Channels {
    pub(super) fn new(nic: NicId) -> Self {
        let instance = Guid::new(0x6e65_7476, 0x7363, 0x4000, 0x8000_0000_0000_0000 | u64::from(nic.0));
        Self { instance, list: Vec::new(), last_relid: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// Whether GPADLs may be made on the channel: also on one that was just rescinded, whose guest may not know yet.
    pub(super) fn is_offered(&self, relid: RelId) -> bool {
        self.find(relid).is_some()
    }

    pub(super) fn opened_with(&self, gpadl: GpadlId) -> Option<RelId> {
        self.list.iter().find(|c| c.state == State::Open { ring: gpadl }).map(|c| c.relid)
    }

    pub(super) fn open_count(&self) -> u64 {
        self.list.iter().filter(|c| matches!(c.state, State::Open { .. })).count() as u64
    }

    /// Open channels, and rescinded ones that were not released.
    pub(super) fn held(&self) -> u64 {
        self.list.iter().filter(|c| c.state != State::Offered).count() as u64
    }

    pub(super) fn offer_primary(&mut self) -> Offer {
        self.offer(0)
    }

    pub(super) fn offer_subchannel(&mut self, index: u16) -> Offer {
        self.offer(index)
    }

    fn offer(&mut self, index: u16) -> Offer {
        // At most 64 channels, each of which may be replaced once while its predecessor waits for its release: a free
        // number is always found.
        loop {
            self.last_relid = self.last_relid % RelId::MAX.0 + 1;
            if self.find(RelId(self.last_relid)).is_none() {
                break;
            }
        }
        let relid = RelId(self.last_relid);
        self.list.push(Channel { relid, index, state: State::Offered });
        Offer {
            interface_id: Guid::NIC,
            instance_id: self.instance,
            reserved: [0; 16],
            flags: OfferFlags::default(),
            mmio_megabytes: 0,
            user_defined: [0; USER_DEFINED_LEN],
            sub_channel_index: index,
            mmio_megabytes_optional: 0,
            relid,
            monitor_id: u8::MAX,
            monitor_allocated: false,
            is_dedicated_interrupt: true,
            // As OpenVMM: the SINT above the relid.
            connection_id: ConnectionId(0x2000 | relid.0),
        }
    }

    /// Rescinds the channels whose index is one of `which`, subchannels first: relid, index, whether it was open.
    pub(super) fn rescind(&mut self, which: impl Fn(u16) -> bool) -> Vec<(RelId, u16, bool)> {
        let mut rescinded = Vec::new();
        for channel in self.list.iter_mut().rev() {
            if channel.state == State::Rescinded || !which(channel.index) {
                continue;
            }
            let was_open = matches!(channel.state, State::Open { .. });
            channel.state = State::Rescinded;
            rescinded.push((channel.relid, channel.index, was_open));
        }
        rescinded
    }

    fn find(&self, relid: RelId) -> Option<&Channel> {
        self.list.iter().find(|c| c.relid == relid)
    }

    fn find_mut(&mut self, relid: RelId) -> Option<&mut Channel> {
        self.list.iter_mut().find(|c| c.relid == relid)
    }
}

impl Server {
    pub(super) fn open(&mut self, open: &OpenChannel, bytes: &[u8], log: &mut ViolationLog) -> Event {
        let relid = open.relid;
        let state = self.channels.find(relid).map(|c| c.state);
        // The guest did not know yet; the rescind that is under way wakes it.
        if state == Some(State::Rescinded) {
            return Event::None;
        }
        let result = match state {
            Some(State::Offered) => self.map_rings(open),
            Some(_) => Err((ViolationKind::UnexpectedMessage, format!("channel {relid} is open already"))),
            None => Err((ViolationKind::UnknownChannel, format!("channel {relid} was not offered"))),
        };
        let status = if result.is_ok() { Status::SUCCESS } else { Status::FAILURE };
        self.post(&Message::OpenResult(OpenResult { relid, open_id: open.open_id, status }));
        match result {
            Ok(rings) => {
                if let Some(channel) = self.channels.find_mut(relid) {
                    channel.state = State::Open { ring: open.ring_gpadl };
                }
                Event::Opened(rings)
            }
            Err((kind, text)) => {
                log.record(self.violation(kind, Some(relid), text, bytes));
                Event::None
            }
        }
    }

    fn map_rings(&self, open: &OpenChannel) -> Result<OpenRings, (ViolationKind, String)> {
        let bad = |text: String| (ViolationKind::BadRing, text);
        let gpadl = open.ring_gpadl;
        let memory = self.gpadl(gpadl).ok_or_else(|| bad(format!("ring gpadl {gpadl} does not exist")))?;
        if let Some(other) = self.channels.opened_with(gpadl) {
            return Err(bad(format!("ring gpadl {gpadl} is that of channel {other}")));
        }
        let pages = memory.len() / CONTROL_BYTES;
        let downstream = open.downstream_page_offset as usize;
        if downstream >= pages {
            return Err(bad(format!("downstream page offset {downstream} of {pages} pages")));
        }
        let split = downstream * CONTROL_BYTES;
        let ring = |offset, len| {
            let part = memory.slice(offset, len).map_err(|error| bad(error.to_string()))?;
            let ring = MappedRing::new(part, CONTROL_BYTES).map_err(|error| bad(error.to_string()))?;
            // The guest may have set its own words already: mask, pending size, features.
            for word in [Word::WriteIndex, Word::ReadIndex] {
                let value = ring.load(word);
                if value != 0 {
                    return Err(bad(format!("ring was not zeroed: {word:?} is {value}")));
                }
            }
            Ok(ring)
        };
        let index = self.channels.find(open.relid).map_or(0, |c| c.index);
        Ok(OpenRings {
            index,
            relid: open.relid,
            gpadl,
            outgoing: ring(0, split)?,
            incoming: ring(split, memory.len() - split)?,
            interrupt: (open.target_vp != VpIndex::INTERRUPTS_DISABLED).then(|| self.port.interrupt(open.relid)),
        })
    }

    pub(super) fn close(&mut self, relid: RelId, bytes: &[u8], log: &mut ViolationLog) -> Event {
        let (kind, text) = match self.channels.find_mut(relid) {
            Some(channel) if matches!(channel.state, State::Open { .. }) => {
                channel.state = State::Offered;
                let index = channel.index;
                if index == 0 {
                    self.close_subchannels(bytes, log);
                }
                return Event::Closed { index };
            }
            // Closed by the rescind: a guest closes what it had opened all the same.
            Some(channel) if channel.state == State::Rescinded => return Event::None,
            Some(_) => (ViolationKind::UnexpectedMessage, format!("channel {relid} is not open")),
            None => (ViolationKind::UnknownChannel, format!("channel {relid} was not offered")),
        };
        log.record(self.violation(kind, Some(relid), text, bytes));
        Event::None
    }

    /// The primary channel was closed: its subchannels go with it.
    fn close_subchannels(&mut self, bytes: &[u8], log: &mut ViolationLog) {
        let open = self.rescind(|index| index != 0);
        if !open.is_empty() {
            let text = format!("primary channel closed while {} subchannels are open", open.len());
            log.record(self.violation(ViolationKind::UnexpectedMessage, None, text, bytes));
        }
    }

    pub(super) fn released(&mut self, relid: RelId, bytes: &[u8], log: &mut ViolationLog) -> Event {
        let (kind, text) = match self.channels.find(relid) {
            Some(channel) if channel.state == State::Rescinded => {
                self.channels.list.retain(|c| c.relid != relid);
                self.gpadls.remove_channel(relid);
                return Event::None;
            }
            Some(_) => (ViolationKind::UnexpectedMessage, format!("channel {relid} released, but not rescinded")),
            None => {
                (ViolationKind::UnknownChannel, format!("channel {relid} released, but not offered or released before"))
            }
        };
        log.record(self.violation(kind, Some(relid), text, bytes));
        Event::None
    }

    pub(super) fn modify(&mut self, modify: &ModifyChannel, bytes: &[u8], log: &mut ViolationLog) -> Event {
        let relid = modify.relid;
        let state = self.channels.find(relid).map(|c| c.state);
        let good = matches!(state, Some(State::Open { .. } | State::Rescinded))
            && modify.target_vp != VpIndex::INTERRUPTS_DISABLED;
        if !good {
            let text = format!("channel {relid} to processor {:#x}: not open, or no processor", modify.target_vp.0);
            log.record(self.violation(ViolationKind::UnexpectedMessage, Some(relid), text, bytes));
        }
        if self.version().is_some_and(|version| version >= Version::V5_3) {
            let status = if good { Status::SUCCESS } else { Status::FAILURE };
            self.post(&Message::ModifyChannelResponse(ModifyChannelResponse { relid, status }));
        }
        Event::None
    }
}
