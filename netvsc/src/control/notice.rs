//! What the host says by itself, in whatever state: send indirection table, virtual functions, indications.
//!
//! Hosts send these in the middle of any exchange, also during bring-up. What is known by then goes into
//! [`DeviceInfo`](crate::DeviceInfo); later changes are events.

use nvsp::{DataPath, Message, Sender, Version};
use rndis::control::IndicateStatus;
use rndis::offload::Offload;
use rndis::value::LinkSpeed;
use rndis::{MessageHeader, MessageType, Status};

use crate::info::{LinkState, VirtualFunction};
use crate::meta::Path;
use crate::time::Instant;
use crate::vf;

use super::Control;
use super::event::Event;
use super::failure::Violation;
use super::requests::Received;
use super::state::State;

impl Control {
    /// An NVSP message, in band.
    pub(super) fn nvsp_notice(&mut self, now: Instant, payload: &[u8]) {
        let message = match Message::parse(payload, Sender::Host) {
            Ok(message) => message,
            Err(error) => return self.violation(error.into()),
        };
        // Before the negotiation no message is allowed.
        let version = self.version.unwrap_or(Version(0));
        match message {
            Message::SendTable(table) if version.has_send_table() => match table.table(version) {
                Ok(table) => self.send_table(&table),
                Err(error) => self.violation(error.into()),
            },
            // Linux ignores them in an isolated guest, which did not ask for virtual functions.
            Message::VfAssociation(_) | Message::SwitchDataPath(_) if self.config.isolated => {
                self.counters.ignored_messages += 1;
            }
            Message::VfAssociation(association) if version.has_vf() => {
                self.vf_handle(
                    now,
                    match association.allocated {
                        true => vf::Input::Associated { serial: association.serial_number },
                        false => vf::Input::Revoked,
                    },
                );
                self.vf_association(
                    association.allocated,
                    VirtualFunction { serial_number: association.serial_number },
                );
            }
            // The host takes a virtual function away by surprise: it moves the traffic itself.
            Message::SwitchDataPath(switch) if version.has_vf() => {
                let path = if switch.active_path == DataPath::VF { Path::VirtualFunction } else { Path::Synthetic };
                self.vf_handle(now, vf::Input::HostSwitched(path));
                if self.info().is_some() {
                    self.notify(Event::DataPathSwitched(switch.active_path));
                }
            }
            Message::UplinkConnectState(_) => self.counters.ignored_messages += 1,
            other => self.violation(Violation::UnexpectedNvsp { message_type: other.message_type() }),
        }
    }

    /// Keeps the table; it is applied to the queues that live.
    fn send_table(&mut self, table: &nvsp::SendTable) {
        self.send_table = Some(table.entries);
        self.send_table_changed();
    }

    /// The table or the queues changed.
    pub(super) fn send_table_changed(&mut self) {
        let buckets = self.buckets();
        if let State::Ready(info) = &mut self.state {
            info.send_table = buckets;
            self.notify(Event::SendTable(buckets));
        }
    }

    /// A virtual function comes, goes, or is told of once more. A removal repeats the serial number.
    fn vf_association(&mut self, allocated: bool, function: VirtualFunction) {
        let before = self.virtual_function;
        let after = allocated.then_some(function);
        if before == after {
            return;
        }
        self.virtual_function = after;
        let State::Ready(info) = &mut self.state else { return };
        info.virtual_function = after;
        if let Some(before) = before {
            self.notify(Event::VfRemoved(before));
        }
        if let Some(after) = after {
            self.notify(Event::VfAssociated(after));
        }
    }

    /// An RNDIS message that is no packet.
    pub(super) fn rndis_message(&mut self, now: Instant, payload: &[u8]) {
        let message_type = match MessageHeader::parse(payload) {
            Ok(header) => header.message_type,
            Err(error) => return self.violation(error.into()),
        };
        match message_type {
            MessageType::INITIALIZE_COMPLETE | MessageType::QUERY_COMPLETE | MessageType::SET_COMPLETE => {
                match self.requests.answered(payload, message_type) {
                    Received::Done(done) => self.request_done(now, done),
                    Received::Late => self.counters.late_answers += 1,
                    Received::Unsolicited => self.counters.unsolicited_answers += 1,
                    Received::Unreadable(error) => self.violation(error.into()),
                }
            }
            // Never asked for: hosts fall silent after a reset (OpenVMM), and need no keep-alive.
            MessageType::RESET_COMPLETE | MessageType::KEEPALIVE_COMPLETE => self.counters.unsolicited_answers += 1,
            MessageType::INDICATE_STATUS => match IndicateStatus::parse(payload) {
                Ok(indication) => self.indication(&indication),
                Err(error) => self.violation(error.into()),
            },
            _ => self.violation(Violation::UnexpectedRndis { message_type }),
        }
    }

    fn indication(&mut self, indication: &IndicateStatus<'_>) {
        match indication.status {
            Status::MEDIA_CONNECT => self.link.indicated(LinkState::Up),
            Status::MEDIA_DISCONNECT => self.link.indicated(LinkState::Down),
            Status::NETWORK_CHANGE => {
                if self.info().is_some() {
                    self.notify(Event::NetworkChanged);
                }
            }
            Status::LINK_SPEED_CHANGE => match LinkSpeed::parse(indication.buffer) {
                Ok(LinkSpeed(0)) => self.violation(Violation::BadValue { field: "LinkSpeed", value: 0, limit: 1 }),
                Ok(speed) => self.link_speed(speed),
                Err(error) => self.violation(error.into()),
            },
            Status::TASK_OFFLOAD_CURRENT_CONFIG => match Offload::parse(indication.buffer) {
                // Hosts send it in answer to the offload parameters, also during bring-up.
                Ok(offload) => self.offloads_indicated(offload),
                Err(error) => self.violation(error.into()),
            },
            _ => self.counters.ignored_messages += 1,
        }
    }

    fn link_speed(&mut self, speed: LinkSpeed) {
        if self.link_speed == Some(speed) {
            return;
        }
        self.link_speed = Some(speed);
        if let State::Ready(info) = &mut self.state {
            info.link_speed = Some(speed);
            self.notify(Event::LinkSpeed(speed));
        }
    }
}
