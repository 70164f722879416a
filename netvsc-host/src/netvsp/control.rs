//! RNDIS control messages: what the guest asks, and the queue of what it is told.
//!
//! A request comes as an NVSP packet of channel type 1, which is completed at once; its RNDIS answer is a message of its
//! own in the receive buffer. What cannot be answered is completed all the same, and then the channel is silent, as
//! recorded from OpenVMM.
//!
//! Source: [MS-RNDIS] 2.2; OpenVMM `netvsp/src/lib.rs`.

use std::time::Duration;

use rndis::control::{IndicateStatus, InitializeComplete, KeepAliveComplete, Query, QueryComplete, Set, SetComplete};
use rndis::{Message, RequestId, Status};
use vmbus::packet::{Descriptor, PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::Outgoing;

use super::queue::{CONTROL_RESERVE, Queue};
use super::session::{Answer, MAX_ANSWER_BYTES, Phase};
use super::{Nic, oid};
use crate::fault::AnswerFate;
use crate::profile::AnswerOrder;
use crate::violation::ViolationKind;

/// What is wrong with a control message, after which the channel is silent.
type Fatal = String;

impl Nic {
    /// A control message on the primary channel. `bytes` is the guest's message, copied out.
    pub(super) fn control_request(&mut self, queue: &mut Queue, descriptor: &Descriptor, bytes: &[u8]) {
        self.counters.control_messages += 1;
        let first = self.session.answers.len();
        let result = self.handle_request(bytes);
        let early = self.config.settings.answer_order == AnswerOrder::AnswerFirst || self.apply_answer_faults(first);
        if early {
            self.flush_control(queue);
        }
        self.complete(queue, descriptor.transaction_id, nvsp::Status::SUCCESS);
        if let Err(text) = result {
            return self.break_queue(queue, ViolationKind::BadRndisControl, text, bytes, true);
        }
        if self.session.answer_bytes > MAX_ANSWER_BYTES {
            let text = format!("more than {MAX_ANSWER_BYTES} bytes of answers wait for the guest");
            return self.break_queue(queue, ViolationKind::BadRndisControl, text, bytes, true);
        }
        self.flush_control(queue);
    }

    fn handle_request(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        // A guest on its way out may have cleared the message already (DPDK does): nothing in it matters any more.
        if self.session.phase == Phase::Revoked {
            return Ok(());
        }
        match Message::parse(bytes).map_err(|error| error.to_string())? {
            Message::Initialize(request) => {
                if std::mem::replace(&mut self.session.rndis_initialized, true) {
                    return Err("INITIALIZE for the second time".into());
                }
                let settings = &self.config.settings;
                let answer = InitializeComplete {
                    request_id: request.request_id,
                    status: Status::SUCCESS,
                    major_version: 1,
                    minor_version: 0,
                    device_flags: 1,
                    medium: 0,
                    max_packets_per_message: settings.max_packets_per_message,
                    max_transfer_size: settings.max_transfer_bytes,
                    packet_alignment_log2: settings.alignment_log2,
                    af_list_offset: 0,
                    af_list_size: 0,
                };
                self.tell(answer.buffer_len(), |out| answer.emit(out));
            }
            Message::Halt(_) => self.stop_receive(),
            Message::Query(query) => self.query(&query),
            Message::Set(set) => self.set(&set, bytes),
            Message::KeepAlive(request) => {
                let answer = KeepAliveComplete { request_id: request.request_id, status: Status::SUCCESS };
                self.tell(answer.buffer_len(), |out| answer.emit(out));
            }
            other => return Err(format!("{} is nothing that a guest may send here", other.message_type())),
        }
        Ok(())
    }

    fn query(&mut self, query: &Query<'_>) {
        let mut value = [0; oid::MAX_VALUE_BYTES];
        let (status, len) = match self.query_oid(query.oid, &mut value) {
            Ok(len) => (Status::SUCCESS, len),
            Err(status) => (status, 0),
        };
        let answer = QueryComplete { request_id: query.request_id, status, information: &value[..len] };
        self.tell(answer.buffer_len(), |out| answer.emit(out));
    }

    fn set(&mut self, set: &Set<'_>, bytes: &[u8]) {
        let result = self.set_oid(set.oid, set.information);
        let status = result.as_ref().err().map_or(Status::SUCCESS, |refused| refused.status);
        if let Err(refused) = &result
            && let Some(text) = &refused.violation
        {
            let text = format!("{}: {text}", set.oid);
            self.record(ViolationKind::BadOid, None, text, bytes);
        }
        let answer = SetComplete { request_id: set.request_id, status };
        self.tell(answer.buffer_len(), |out| answer.emit(out));
        if result.is_ok() && set.oid == rndis::Oid::TCP_OFFLOAD_PARAMETERS {
            self.indicate_offload();
        }
    }

    /// Tells which offloads are in force now.
    fn indicate_offload(&mut self) {
        let mut config = [0; rndis::offload::Offload::LEN_V3];
        if let Ok(len) = self.laid_out(self.session.offload).emit(&mut config) {
            self.indicate(Status::TASK_OFFLOAD_CURRENT_CONFIG, &config[..len]);
        }
    }

    /// Tells of a change.
    pub(super) fn indicate(&mut self, status: Status, buffer: &[u8]) {
        let buffer_counted = self.config.settings.counts_status_buffer || buffer.is_empty();
        let message = IndicateStatus { status, buffer, buffer_counted };
        self.tell(message.buffer_len(), |out| message.emit(out));
    }

    /// Queues a message for the guest.
    fn tell(&mut self, len: usize, emit: impl FnOnce(&mut [u8]) -> Result<usize, rndis::EmitError>) {
        let mut bytes = vec![0; len];
        match emit(&mut bytes) {
            Ok(len) => bytes.truncate(len),
            Err(error) => return tracing::error!(target: "netvsc_host", %error, "message not written"),
        }
        self.queue_answer(bytes, None);
    }

    fn queue_answer(&mut self, bytes: Vec<u8>, not_before: Option<Duration>) {
        self.session.answer_bytes += bytes.len();
        self.session.answers.push_back(Answer { bytes, not_before });
    }

    /// Does to the answers from `first` on what faults want; whether they come before the completion.
    fn apply_answer_faults(&mut self, first: usize) -> bool {
        if self.faults.is_empty() || self.session.answers.len() <= first {
            return false;
        }
        let mut early = false;
        let answers: Vec<Answer> = self.session.answers.drain(first..).collect();
        for Answer { mut bytes, not_before } in answers {
            self.session.answer_bytes -= bytes.len();
            match self.faults.on_control_answer(bytes.len()) {
                AnswerFate::Never => continue,
                AnswerFate::Late { delay } => {
                    self.queue_answer(bytes, Some(self.now + delay));
                    continue;
                }
                AnswerFate::BeforeCompletion => early = true,
                AnswerFate::Duplicate => self.queue_answer(bytes.clone(), not_before),
                AnswerFate::ForeignId { request_id } => {
                    self.queue_answer(with_request_id(&bytes, RequestId(request_id)), not_before);
                }
                AnswerFate::Short { by } => bytes.truncate(bytes.len().saturating_sub(by).max(1)),
                AnswerFate::Failed => bytes = failed(&bytes),
                AnswerFate::Unsolicited => self.indicate(Status::NETWORK_CHANGE, &[]),
                _ => {}
            }
            self.queue_answer(bytes, not_before);
        }
        early
    }

    /// Hands queued messages over, as long as there are sub-allocations and ring space.
    pub(super) fn flush_control(&mut self, queue: &mut Queue) {
        if queue.index != 0 {
            return;
        }
        let message: [u8; nvsp::MESSAGE_LEN] =
            nvsp::RndisPacket::without_section(nvsp::ChannelType::CONTROL).to_array();
        let message = &message[..self.session.message_len()];
        while let Some(answer) = self.session.answers.front() {
            if answer.not_before.is_some_and(|due| due > self.now) || !queue.has_room(CONTROL_RESERVE) {
                return;
            }
            let Some(buffer) = &mut self.session.receive_buffer else { return };
            let Some(id) = buffer.take_control() else { return };
            let Some(Answer { bytes, .. }) = self.session.answers.pop_front() else { return };
            self.session.answer_bytes -= bytes.len();
            // Never longer than a sub-allocation, but a guest may have chosen a tiny one: then it sees a part.
            let len = bytes.len().min(buffer.size as usize);
            if let Err(error) = buffer.write(id, 0, &bytes[..len]) {
                tracing::error!(target: "netvsc_host", %error, "answer not written");
            }
            let range = TransferRange { byte_count: len as u32, byte_offset: buffer.offset(id) };
            let mut header = [0; 16];
            header[..8].copy_from_slice(&TransferPages::fixed_header(nvsp::BufferId::RECEIVE.0, 1));
            header[8..].copy_from_slice(&range.to_bytes());
            let packet = Outgoing {
                packet_type: PacketType::TRANSFER_PAGES,
                completion_requested: true,
                transaction_id: TransactionId(u64::from(id)),
                header: &header,
                payload: message,
            };
            if let Err(error) = queue.write(&packet) {
                tracing::debug!(target: "netvsc_host", %error, "answer not sent");
                buffer.untake(id);
                return;
            }
            buffer.lend(std::iter::once(id));
            self.did_work = true;
        }
    }
}

/// The answer, to another request.
fn with_request_id(bytes: &[u8], request_id: RequestId) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Every answer has it behind its header.
    if let Some(place) = bytes.get_mut(8..12) {
        place.copy_from_slice(&request_id.0.to_le_bytes());
    }
    bytes
}

/// The answer, but failed: without a value.
fn failed(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len().max(64)];
    let status = Status::FAILURE;
    let len = match Message::parse(bytes) {
        Ok(Message::QueryComplete(m)) => QueryComplete { status, information: &[], ..m }.emit(&mut out),
        Ok(Message::SetComplete(m)) => SetComplete { status, ..m }.emit(&mut out),
        Ok(Message::InitializeComplete(m)) => InitializeComplete { status, ..m }.emit(&mut out),
        Ok(Message::KeepAliveComplete(m)) => KeepAliveComplete { status, ..m }.emit(&mut out),
        _ => return bytes.to_vec(),
    };
    out.truncate(len.unwrap_or(0));
    out
}
