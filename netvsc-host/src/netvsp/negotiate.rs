//! NVSP: versions, configuration, buffers, subchannels, teardown.
//!
//! The order that is insisted on, and what becomes of a guest that does not keep it, are OpenVMM's (`netvsp/src/lib.rs`):
//! INIT until it is accepted, NDIS_CONFIG (from version 2) and NDIS_VERSION once each, the receive buffer, the send buffer
//! if there is one; the first RNDIS message ends the handshake.

use vmbus::gpadl::GpadlId;
use vmbus::memory::SharedMemory;
use vmbus::packet::{Descriptor, PacketType};

use super::queue::Queue;
use super::receive_buffer::ReceiveBuffer;
use super::session::{Phase, SendBuffer};
use super::{Frame, Nic};
use crate::profile::{SubAllocation, TooFewSections};
use crate::violation::ViolationKind;

/// Fewest sub-allocations with which anything works.
const FEWEST_SUB_ALLOCATIONS: u32 = 10;

impl Nic {
    /// A packet that carries an NVSP message: in band, or with GPA-direct ranges in `header`.
    pub(super) fn nvsp_message(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        header: &[u8],
        payload: &[u8],
        budget: &mut usize,
        out: &mut dyn FnMut(Frame<'_>),
    ) {
        // Nearly all of them: not worth a walk through all kinds of messages.
        if nvsp::MessageType::peek(payload) == Ok(nvsp::MessageType::RNDIS_PACKET)
            && let Ok(packet) = nvsp::RndisPacket::parse(payload)
        {
            return self.rndis_packet(queue, descriptor, &packet, header, payload, budget, out);
        }
        let message = match nvsp::Message::parse(payload, nvsp::Sender::Guest) {
            Ok(message) => message,
            Err(error) => {
                return self.break_queue(queue, ViolationKind::BadNvsp, error.to_string(), payload, true);
            }
        };
        if let nvsp::Message::RndisPacket(packet) = message {
            return self.rndis_packet(queue, descriptor, &packet, header, payload, budget, out);
        }
        if queue.index != 0 || descriptor.packet_type != PacketType::IN_BAND {
            let text = format!("{} on a subchannel, or with gpa ranges", message.message_type());
            return self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
        }
        self.control_message(queue, descriptor, message, payload);
    }

    fn control_message(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        message: nvsp::Message<'_>,
        payload: &[u8],
    ) {
        use nvsp::Message as M;
        let id = descriptor.transaction_id;
        let answered = !matches!(
            message,
            M::NdisConfig(_)
                | M::NdisVersion(_)
                | M::RevokeReceiveBuffer(_)
                | M::RevokeSendBuffer(_)
                | M::SwitchDataPath(_)
        );
        if answered && !descriptor.wants_completion() {
            let text = format!("{} asks for no completion", message.message_type());
            self.record(ViolationKind::NoCompletionRequested, Some(queue), text, payload);
        }
        let result = match message {
            M::Init(init) => return self.init(queue, descriptor, &init, payload),
            // A guest that gives up revokes what it never had, at any time, and more than once.
            M::RevokeReceiveBuffer(_) => return self.revoke(queue, descriptor, true),
            M::RevokeSendBuffer(_) => return self.revoke(queue, descriptor, false),
            _ if self.session.version.is_none() => Err("before a version is agreed on".into()),
            M::NdisConfig(config) => self.ndis_config(&config),
            M::NdisVersion(version) => self.ndis_version(&version),
            M::SendReceiveBuffer(request) => return self.receive_buffer(queue, descriptor, &request, payload),
            M::SendSendBuffer(request) => return self.send_buffer(queue, descriptor, &request, payload),
            M::SubchannelRequest(request) => return self.subchannels(queue, descriptor, &request, payload),
            M::SwitchDataPath(switch) if self.at_least(nvsp::Version::V4) => {
                return self.switch_asked(queue, descriptor, switch.active_path);
            }
            M::OidQueryEx(_) if self.at_least(nvsp::Version::V5) => {
                let status = nvsp::NdisStatus::NOT_SUPPORTED;
                let answer = nvsp::OidQueryExComplete { status, byte_count: 0 };
                return self.answer(queue, descriptor, &answer.into(), 0);
            }
            _ => {
                let text = format!("{} is not part of this session", message.message_type());
                return self.break_queue(queue, ViolationKind::BadNvsp, text, payload, true);
            }
        };
        match result {
            Ok(()) if descriptor.wants_completion() => queue.complete(id, &[]),
            Ok(()) => self.unasked(queue, descriptor),
            Err(text) => {
                let text: String = text;
                let text = format!("{}: {text}", message.message_type());
                self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
            }
        }
    }

    /// A packet asked for no completion; some hosts send one all the same.
    fn unasked(&mut self, queue: &mut Queue, descriptor: &Descriptor) {
        if let Some(id) = self.faults.on_no_completion(descriptor.transaction_id.0) {
            queue.complete(vmbus::packet::TransactionId(id), &[]);
        }
    }

    pub(super) fn at_least(&self, version: nvsp::Version) -> bool {
        self.session.version.is_some_and(|agreed| agreed >= version)
    }

    /// Completes with an NVSP message, padded to the session's length, or to `least` bytes if that is more.
    fn answer(&mut self, queue: &mut Queue, descriptor: &Descriptor, answer: &nvsp::Message<'_>, least: usize) {
        let mut buffer = [0; 64];
        let padded = self.session.message_len().max(least).max(answer.buffer_len());
        match answer.emit_padded(&mut buffer, padded) {
            Ok(len) => queue.complete(descriptor.transaction_id, &buffer[..len]),
            Err(error) => tracing::error!(target: "netvsc_host", %error, "answer not written"),
        }
    }

    fn init(&mut self, queue: &mut Queue, descriptor: &Descriptor, init: &nvsp::Init, payload: &[u8]) {
        if self.session.phase != Phase::Init {
            let text = "INIT after a version was agreed on";
            return self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
        }
        let version = init.max_version;
        let accepted = init.min_version == version && version.is_released() && version <= self.config.settings.nvsp_max;
        let answer = nvsp::InitComplete {
            version: if version == nvsp::Version::V1 { version } else { nvsp::InitComplete::DEPRECATED_VERSION },
            max_mdl_chain_len: nvsp::MAX_MDL_CHAIN_LEN,
            status: if accepted { nvsp::Status::SUCCESS } else { self.config.settings.nvsp_refusal },
        };
        // In the short form: the version is not agreed on yet.
        self.answer(queue, descriptor, &answer.into(), 0);
        if accepted {
            self.session.version = Some(version);
            self.session.phase = Phase::Setup;
        }
    }

    fn ndis_config(&mut self, config: &nvsp::NdisConfig) -> Result<(), String> {
        if !self.at_least(nvsp::Version::V2) {
            return Err("not part of version 1".into());
        }
        if self.session.phase != Phase::Setup || std::mem::replace(&mut self.session.configured, true) {
            return Err("sent twice, or after the handshake".into());
        }
        // Other values silently mean the least, as in OpenVMM.
        if (nvsp::DEFAULT_FRAME_MTU..=nvsp::MAX_FRAME_MTU).contains(&config.frame_mtu) {
            self.session.frame_mtu = config.frame_mtu;
        }
        self.session.capabilities = config.capabilities;
        Ok(())
    }

    fn ndis_version(&mut self, version: &nvsp::NdisVersion) -> Result<(), String> {
        if self.session.phase != Phase::Setup || self.session.ndis_version.is_some() {
            return Err("sent twice, or after the handshake".into());
        }
        self.session.ndis_version = Some((version.major, version.minor));
        // Less is offered to older guests.
        self.offer();
        Ok(())
    }

    fn receive_buffer(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        request: &nvsp::SendReceiveBuffer,
        payload: &[u8],
    ) {
        let session = &self.session;
        let in_order = session.phase == Phase::Setup
            && session.receive_buffer.is_none()
            && session.ndis_version.is_some()
            && (session.configured || !self.at_least(nvsp::Version::V2));
        if !in_order {
            let text = "receive buffer twice, or before the ndis configuration and version";
            return self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
        }
        let gpadl = GpadlId(request.gpadl.0);
        let Some(memory) = self.server.gpadl(gpadl).cloned() else {
            let text = format!("receive buffer of gpadl {gpadl}, which does not exist");
            return self.break_queue(queue, ViolationKind::BadBuffer, text, payload, true);
        };
        if request.id != nvsp::BufferId::RECEIVE {
            let text = format!("receive buffer with id {:#x}", request.id.0);
            self.record(ViolationKind::BadBuffer, Some(queue), text, payload);
        }
        let size = self.sub_allocation_bytes();
        // A buffer that is longer than 4 GiB cannot be: a GPADL holds 8190 pages.
        let count = u32::try_from(memory.len()).unwrap_or(u32::MAX) / size;
        if count < FEWEST_SUB_ALLOCATIONS {
            let text = format!("receive buffer of {} bytes holds {count} sub-allocations of {size}", memory.len());
            self.record(ViolationKind::BadBuffer, Some(queue), text, payload);
            let refusal =
                nvsp::SendReceiveBufferComplete { status: nvsp::Status::FAIL, sections: nvsp::Records::from(&[][..]) };
            return self.answer(queue, descriptor, &refusal.into(), 0);
        }
        let settings = &self.config.settings;
        let enough = count >= settings.control_sub_allocations + u32::from(self.config.queues);
        let reserved = if enough { settings.control_sub_allocations } else { (count / 4).max(1) };
        self.session.receive_buffer = Some(ReceiveBuffer::new(gpadl, memory, size, count, reserved));
        let section = nvsp::ReceiveSection {
            offset: 0,
            sub_allocation_size: size,
            sub_allocation_count: count,
            end_offset: size * count,
        };
        let sections = [section];
        let answer = nvsp::SendReceiveBufferComplete {
            status: nvsp::Status::SUCCESS,
            sections: nvsp::Records::from(&sections[..]),
        };
        self.answer(queue, descriptor, &answer.into(), 0);
    }

    /// Bytes of a sub-allocation for this session's frames.
    fn sub_allocation_bytes(&self) -> u32 {
        let frame = self.session.frame_mtu;
        let least = (frame + super::receive::HEADER_BYTES as u32).next_multiple_of(8);
        match self.config.settings.sub_allocation {
            SubAllocation::Windows => (frame + 214).next_multiple_of(64),
            SubAllocation::OpenVmm => frame + super::receive::OPENVMM_DATA_OFFSET + 36,
            SubAllocation::Bytes(bytes) => bytes.clamp(least, 1 << 20),
        }
    }

    fn send_buffer(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        request: &nvsp::SendSendBuffer,
        payload: &[u8],
    ) {
        let session = &self.session;
        if session.phase != Phase::Setup || session.receive_buffer.is_none() || session.send_buffer.is_some() {
            let text = "send buffer twice, or not right behind the receive buffer";
            return self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
        }
        let gpadl = GpadlId(request.gpadl.0);
        let Some(memory) = self.server.gpadl(gpadl).cloned() else {
            let text = format!("send buffer of gpadl {gpadl}, which does not exist");
            return self.break_queue(queue, ViolationKind::BadBuffer, text, payload, true);
        };
        self.session.send_buffer = Some(SendBuffer { gpadl, memory });
        let section_size = self.config.settings.send_section_bytes;
        let answer = nvsp::SendSendBufferComplete { status: nvsp::Status::SUCCESS, section_size };
        self.answer(queue, descriptor, &answer.into(), 0);
    }

    /// The data path starts with the first RNDIS message. False if it cannot.
    pub(super) fn start_data_path(&mut self, queue: &mut Queue, payload: &[u8]) -> bool {
        match self.session.phase {
            Phase::Ready | Phase::Revoked => return true,
            Phase::Setup => {}
            Phase::Init => {
                self.break_queue(queue, ViolationKind::UnexpectedNvsp, "rndis message before INIT", payload, true);
                return false;
            }
        }
        let Some(buffer) = &self.session.receive_buffer else {
            let text = "rndis message without a receive buffer";
            self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
            return false;
        };
        let needed = self.config.settings.control_sub_allocations + u32::from(self.config.queues);
        if buffer.count < needed && self.config.settings.too_few_sections == TooFewSections::Silent {
            // Not a violation: some hosts serve such a guest, and this one refused nothing.
            self.silence(queue, true);
            return false;
        }
        self.session.phase = Phase::Ready;
        true
    }

    fn subchannels(
        &mut self,
        queue: &mut Queue,
        descriptor: &Descriptor,
        request: &nvsp::SubchannelRequest,
        payload: &[u8],
    ) {
        if !self.at_least(nvsp::Version::V5) || self.session.phase != Phase::Ready {
            let text = "SUBCHANNEL before the data path, or below version 5";
            return self.break_queue(queue, ViolationKind::UnexpectedNvsp, text, payload, true);
        }
        let buffers = self.session.receive_buffer.as_ref().map_or(0, |buffer| buffer.count);
        let count = u16::try_from(request.count).unwrap_or(u16::MAX);
        let wrong = if request.operation != nvsp::SubchannelOperation::ALLOCATE {
            Some(format!("operation {}", request.operation.0))
        } else if count >= self.config.queues {
            Some(format!("{count} subchannels beside the primary channel, of {} queues", self.config.queues))
        } else if self.session.subchannels > 0 {
            Some("subchannels were allocated before".into())
        } else if buffers < self.config.settings.control_sub_allocations + u32::from(count) + 1 {
            Some(format!("{buffers} sub-allocations for {} queues", count + 1))
        } else {
            None
        };
        let granted = if wrong.is_some() { 0 } else { count };
        if let Some(text) = wrong {
            self.record(ViolationKind::UnexpectedNvsp, Some(queue), format!("SUBCHANNEL: {text}"), payload);
        }
        let status = if granted == count { nvsp::Status::SUCCESS } else { nvsp::Status::FAIL };
        let answer = nvsp::SubchannelComplete { status, count: u32::from(granted) };
        // Never shorter: DPDK refuses an answer of less, at any version.
        self.answer(queue, descriptor, &answer.into(), nvsp::MESSAGE_LEN);
        self.session.subchannels = granted;
        for index in 1..=granted {
            self.server.offer_subchannel(index);
        }
    }

    /// After the last subchannel is open, the guest is told how to spread its sends.
    pub(super) fn subchannel_opened(&mut self) {
        let wanted = usize::from(self.session.subchannels);
        let open = self.queues.iter().skip(1).take(wanted).flatten().count();
        if wanted == 0 || open < wanted {
            return;
        }
        let channels = u32::from(self.session.subchannels) + 1;
        self.tell_send_table(std::array::from_fn(|bucket| bucket as u32 % channels));
    }

    /// The guest takes a buffer back: it is about to go.
    fn revoke(&mut self, queue: &mut Queue, descriptor: &Descriptor, receive: bool) {
        self.session.phase = Phase::Revoked;
        self.session.filter = 0;
        self.receive.clear();
        if receive {
            self.session.forget_receive_buffer();
        } else {
            self.session.send_buffer = None;
        }
        if self.config.settings.silent_after_revoke {
            return self.silence(queue, true);
        }
        if descriptor.wants_completion() {
            queue.complete(descriptor.transaction_id, &[]);
        } else {
            self.unasked(queue, descriptor);
        }
    }
}
