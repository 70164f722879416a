//! From the offer to both buffers: the first half of the bring-up, on VMBus and in NVSP.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_connect_vsp`, `negotiate_nvsp_ver`, `netvsc_init_buf`).

use nvsp::{
    BufferId, Capabilities, GpadlHandle, Init, InitComplete, NdisConfig, NdisVersion, SendReceiveBuffer,
    SendReceiveBufferComplete, SendSendBuffer, SendSendBufferComplete, Version,
};
use vmbus::bus::{BufferWish, Purpose};
use vmbus::gpadl::GpadlId;

use crate::config::{DEFAULT_MTU, MAX_SEND_SECTIONS, Warning};
use crate::info::Sections;
use crate::time::Instant;

use super::failure::{Cause, Step, Violation};
use super::io::Action;
use super::state::{Memory, SendShare, State};
use super::{Control, setup};

impl Control {
    /// Goes to a state in which the host, or the bus, has something to do.
    pub(super) fn enter(&mut self, now: Instant, state: State) {
        self.state = state;
        self.deadline = Some(now + self.config.step_deadline);
    }

    pub(super) fn offered(&mut self, now: Instant) {
        if matches!(self.state, State::Offered) {
            self.holdings.channel = true;
            self.actions.push_back(Action::Open(self.config.rings));
            self.enter(now, State::Opening);
        }
    }

    pub(super) fn open_failed(&mut self, now: Instant, status: u32) {
        if matches!(self.state, State::Opening) {
            self.holdings.channel = false;
            self.fail(now, Step::Open, Cause::RefusedByBus { status });
        }
    }

    pub(super) fn opened(&mut self, now: Instant) {
        if matches!(self.state, State::Opening) {
            self.holdings.queue = true;
            self.offer_version(now, self.config.nvsp_max);
        }
    }

    fn offer_version(&mut self, now: Instant, candidate: Version) {
        let token = self.next_token();
        self.send_nvsp(Init::only(candidate).to_array(), Some(token));
        self.enter(now, State::Negotiating { token, candidate });
    }

    /// The host answered INIT. A refusal is answered by the next lower version on the same channel.
    pub(super) fn version_answered(&mut self, now: Instant, candidate: Version, payload: &[u8]) {
        let status = match InitComplete::parse(payload) {
            Ok(complete) => complete.status,
            Err(error) => return self.fail(now, Step::Negotiate, Cause::Violation(error.into())),
        };
        if status.is_success() {
            return self.negotiated(now, candidate);
        }
        match candidate.next_lower() {
            Some(next) if self.config.isolated && next < Version::V6_1 => {
                self.fail(now, Step::Negotiate, Cause::TooOld { minimum: Version::V6_1 });
            }
            Some(next) => self.offer_version(now, next),
            None => self.fail(now, Step::Negotiate, Cause::NoVersion { status }),
        }
    }

    fn negotiated(&mut self, now: Instant, version: Version) {
        self.version = Some(version);
        if version.has_ndis_config() {
            let config = NdisConfig {
                // At most 65521 and 14.
                frame_mtu: self.config.mtu + nvsp::ETHERNET_HEADER_LEN,
                capabilities: capabilities(version, self.config.isolated),
            };
            self.send_nvsp(config.to_array(), None);
        } else if self.config.mtu > DEFAULT_MTU {
            self.warn(Warning::MtuLowered { requested: self.config.mtu, effective: DEFAULT_MTU });
        }
        self.send_nvsp(NdisVersion::at(version).to_array(), None);
        let bytes = self.config.receive_buffer_bytes(version);
        self.actions.push_back(Action::Allocate(BufferWish { purpose: Purpose::Receive, bytes }));
        self.enter(now, State::ReceiveGpadl { memory: None });
    }

    /// There is memory.
    pub(super) fn allocated(&mut self, now: Instant, purpose: Purpose, bytes: usize, gpadl: Option<GpadlId>) {
        match (&mut self.state, purpose, gpadl) {
            (State::ReceiveGpadl { memory: memory @ None }, Purpose::Receive, Some(gpadl)) => {
                *memory = Some(Memory { bytes, gpadl });
                let wished = self.version.map_or(0, |version| self.config.receive_buffer_bytes(version));
                self.receive_limit = (bytes > wished).then_some(self.config.receive_sections);
                self.holdings.receive.memory = true;
                self.holdings.receive.gpadl = Some(gpadl);
            }
            (State::SendGpadl { memory: memory @ None, .. }, Purpose::Send, Some(gpadl)) => {
                *memory = Some(Memory { bytes, gpadl });
                self.holdings.send.memory = true;
                self.holdings.send.gpadl = Some(gpadl);
            }
            (State::DirectMemory { receive, send }, Purpose::Direct, _) => {
                let (receive, send) = (*receive, *send);
                self.holdings.direct = true;
                self.buffers_done(now, receive, send);
            }
            // Nobody waits for it (any more), or it is not what was asked for.
            _ => {
                self.actions.push_back(Action::Release(purpose));
                self.not_allocated(now, purpose);
            }
        }
    }

    /// There is no such memory.
    pub(super) fn not_allocated(&mut self, now: Instant, purpose: Purpose) {
        match (&self.state, purpose) {
            (State::ReceiveGpadl { memory: None }, Purpose::Receive) => {
                // The state is entered with a version.
                let bytes = self.version.map_or(0, |version| self.config.receive_buffer_bytes(version));
                self.fail(now, Step::AllocateReceiveBuffer, Cause::NoMemory { bytes });
            }
            (&State::SendGpadl { receive, memory: None }, Purpose::Send) => {
                self.want_direct(now, receive, SendShare::Refused(None));
            }
            (&State::DirectMemory { receive, send }, Purpose::Direct) => self.buffers_done(now, receive, send),
            _ => {}
        }
    }

    /// The GPADL exists: now the host may be told of the buffer.
    pub(super) fn gpadl_created(&mut self, now: Instant, created: GpadlId) {
        match self.state {
            State::ReceiveGpadl { memory: Some(Memory { bytes, gpadl }) } if gpadl == created => {
                let message = SendReceiveBuffer { gpadl: GpadlHandle(gpadl.0), id: BufferId::RECEIVE };
                let token = self.next_token();
                self.holdings.receive.shared = true;
                self.send_nvsp(message.to_array(), Some(token));
                self.enter(now, State::ReceiveBuffer { token, bytes });
            }
            State::SendGpadl { receive, memory: Some(Memory { bytes, gpadl }) } if gpadl == created => {
                let message = SendSendBuffer { gpadl: GpadlHandle(gpadl.0), id: BufferId::SEND_LINUX };
                let token = self.next_token();
                self.holdings.send.shared = true;
                self.send_nvsp(message.to_array(), Some(token));
                self.enter(now, State::SendBuffer { receive, token, bytes });
            }
            _ => {}
        }
    }

    /// The host refused the GPADL.
    pub(super) fn gpadl_failed(&mut self, now: Instant, failed: GpadlId, status: u32) {
        match self.state {
            State::ReceiveGpadl { memory: Some(Memory { gpadl, .. }) } if gpadl == failed => {
                self.holdings.receive.gpadl = None;
                self.fail(now, Step::AllocateReceiveBuffer, Cause::RefusedByBus { status });
            }
            State::SendGpadl { receive, memory: Some(Memory { gpadl, .. }) } if gpadl == failed => {
                self.holdings.send.gpadl = None;
                self.without_send_buffer(now, receive, None);
            }
            // It is being undone already: then there is nothing to wait for.
            _ => self.gpadl_torn_down(now, failed),
        }
    }

    /// The host divided the receive buffer.
    pub(super) fn receive_buffer_answered(&mut self, now: Instant, bytes: usize, payload: &[u8]) {
        match self.read_receive_buffer_answer(bytes, payload) {
            Ok(receive) => {
                let Sections { section_bytes, count: sections, .. } = receive;
                self.rx_watermark =
                    self.config.rx_watermark_of(self.receive_limit.map_or(sections, |limit| limit.min(sections)));
                // There may be fewer: that is told then.
                let (most_waiting, most_held) = (self.most_waiting(1), self.most_held(self.config.queues));
                self.actions.push_back(Action::AttachReceive { section_bytes, sections, most_waiting, most_held });
                self.receive_buffer_taken(now, receive);
            }
            Err(cause) => self.fail(now, Step::ShareReceiveBuffer, cause),
        }
    }

    /// How many receive sections may wait in each of so many queues: where a backend's fixed buffer holds more than was wished,
    /// a share of what was.
    pub(super) fn most_waiting(&self, queues: u16) -> u32 {
        self.receive_limit.map_or(u32::MAX, |limit| (limit / u32::from(queues.max(1))).max(1))
    }

    /// How many receive sections may be held in each of so many queues.
    pub(super) fn most_held(&self, queues: u16) -> u32 {
        self.rx_watermark / u32::from(queues.max(1))
    }

    /// Checks the answer: one section list from the buffer's start, whose sections are there and large enough.
    fn read_receive_buffer_answer(&self, bytes: usize, payload: &[u8]) -> Result<Sections, Cause> {
        let bad = |field, value: u64, limit: u64| Cause::Violation(Violation::BadValue { field, value, limit });
        let complete = SendReceiveBufferComplete::parse(payload).map_err(|error| Cause::Violation(error.into()))?;
        if !complete.status.is_success() {
            return Err(Cause::Refused { status: complete.status });
        }
        let count = complete.sections.len();
        let section = match complete.sections.first() {
            Some(section) if count == 1 => section,
            _ => return Err(bad("section count", count as u64, 1)),
        };
        if section.offset != 0 {
            return Err(bad("section offset", section.offset.into(), 0));
        }
        let (size, count) = (section.sub_allocation_size, section.sub_allocation_count);
        if size < nvsp::MIN_SECTION_SIZE {
            return Err(bad("receive section size", size.into(), nvsp::MIN_SECTION_SIZE.into()));
        }
        if count == 0 {
            return Err(bad("receive section count", 0, 1));
        }
        let total = u64::from(size) * u64::from(count);
        if total > bytes as u64 {
            return Err(bad("receive sections' bytes", total, bytes as u64));
        }
        Ok(Sections { requested: self.config.receive_sections, count, section_bytes: size })
    }

    fn receive_buffer_taken(&mut self, now: Instant, receive: Sections) {
        let limit = self.version.map_or(0, Version::max_receive_buffer) / nvsp::DEFAULT_RECEIVE_SECTION_SIZE as usize;
        if receive.requested as usize > limit {
            let (requested, effective) = (receive.requested, receive.count);
            self.warn(Warning::Clamped { field: "receive_sections", requested, effective });
        }
        let minimum = self.config.safe_receive_sections();
        if receive.count < minimum {
            self.warn(Warning::FewReceiveSections { count: receive.count, minimum });
        }
        if self.config.send_buffer {
            let bytes = self.config.send_buffer_bytes();
            self.actions.push_back(Action::Allocate(BufferWish { purpose: Purpose::Send, bytes }));
            self.enter(now, State::SendGpadl { receive, memory: None });
        } else {
            self.want_direct(now, receive, SendShare::NotWanted);
        }
    }

    /// The host took the send buffer, or not.
    pub(super) fn send_buffer_answered(&mut self, now: Instant, receive: Sections, bytes: usize, payload: &[u8]) {
        let complete = match SendSendBufferComplete::parse(payload) {
            Ok(complete) => complete,
            Err(error) => return self.fail(now, Step::ShareSendBuffer, Cause::Violation(error.into())),
        };
        if !complete.status.is_success() {
            return self.without_send_buffer(now, receive, Some(complete.status));
        }
        let size = complete.section_size;
        let bad = |limit: u64| {
            Cause::Violation(Violation::BadValue { field: "send section size", value: size.into(), limit })
        };
        if size < nvsp::MIN_SECTION_SIZE {
            return self.fail(now, Step::ShareSendBuffer, bad(nvsp::MIN_SECTION_SIZE.into()));
        }
        if size as usize > bytes {
            return self.fail(now, Step::ShareSendBuffer, bad(bytes as u64));
        }
        let requested = self.config.send_sections;
        // A backend's fixed buffer may hold more than was wished; then the first of them are used.
        let there = u32::try_from(bytes / size as usize).unwrap_or(u32::MAX);
        let count = there.min(requested);
        if requested > MAX_SEND_SECTIONS {
            self.warn(Warning::Clamped { field: "send_sections", requested, effective: count });
        }
        let sections = self.first_share(count);
        self.actions.push_back(Action::AttachSend { section_bytes: size, sections });
        self.want_direct(now, receive, SendShare::Taken(Sections { requested, count, section_bytes: size }));
    }

    /// The host did not take the send buffer: its memory is of no use.
    fn without_send_buffer(&mut self, now: Instant, receive: Sections, status: Option<nvsp::Status>) {
        // A buffer that was refused is not revoked: there is nothing to revoke.
        self.holdings.send.shared = false;
        self.holdings.send.memory = false;
        self.actions.push_back(Action::Release(Purpose::Send));
        self.want_direct(now, receive, SendShare::Refused(status));
    }

    fn want_direct(&mut self, now: Instant, receive: Sections, send: SendShare) {
        if let SendShare::Refused(status) = send {
            self.warn(Warning::NoSendBuffer { status });
        }
        let bytes = self.config.direct_bytes;
        if bytes == 0 {
            return self.buffers_done(now, receive, send);
        }
        self.actions.push_back(Action::Allocate(BufferWish { purpose: Purpose::Direct, bytes }));
        self.enter(now, State::DirectMemory { receive, send });
    }

    fn buffers_done(&mut self, now: Instant, receive: Sections, send: SendShare) {
        if send.sections().is_none() && !self.holdings.direct {
            return self.fail(now, Step::AllocateSendBuffer, Cause::NoWayToSend { status: send.status() });
        }
        let send = send.sections();
        let primary_sections = send.map_or(0, |send| self.first_share(send.count));
        let direct = self.holdings.direct;
        self.start_setup(setup::Buffers { receive, send, primary_sections, direct });
    }
}

/// What Linux announces (`netvsc_connect_vsp`, `negotiate_nvsp_ver`).
fn capabilities(version: Version, isolated: bool) -> Capabilities {
    let mut capabilities = Capabilities::IEEE8021Q;
    if version >= Version::V5 {
        // Teaming is what makes a host report changes of the link speed.
        capabilities = capabilities.union(Capabilities::TEAMING);
        if !isolated {
            capabilities = capabilities.union(Capabilities::SRIOV);
        }
    }
    if version.has_rsc() {
        capabilities = capabilities.union(Capabilities::RSC_OVER_VMBUS);
    }
    capabilities
}
