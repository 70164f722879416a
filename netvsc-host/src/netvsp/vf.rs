//! The NIC's virtual function: its association, its data path, and its frames.
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (messages, their order and transaction ids). A switch is completed whatever it asks
//! for; without an associated VF it means nothing. A removal repeats the serial number, and follows the word that the data
//! path was moved, if it was on the VF.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vmbus::packet::{Descriptor, TransactionId};
use vmbus::ring::Outgoing;

use super::queue::{CONTROL_RESERVE, Queue};
use super::session::Phase;
use super::{Nic, vf_transaction_ids};
use crate::port::{Frame, Port};
use crate::vf::{Device, VfEnd, VfManner, VfOptions};
use crate::violation::ViolationKind;

/// What the NIC knows of its VF.
#[derive(Debug, Default)]
pub(super) struct Vf {
    device: Option<VfEnd>,
    /// Devices that are gone, with frames that are still to leave.
    leaving: Vec<VfEnd>,
    association: Option<u32>,
    /// What the guest was told in this session.
    told: Option<u32>,
    /// Frames for the guest go to the VF.
    active: bool,
    manner: VfManner,
    /// Switches to be done.
    asked: VecDeque<Asked>,
    /// What the guest is to be told, in order.
    says: VecDeque<Word>,
}

/// A switch that the guest asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: TransactionId,
    to: nvsp::DataPath,
    wants_completion: bool,
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Association(nvsp::VfAssociation),
    DataPath(nvsp::DataPath),
}

impl Vf {
    /// Whether frames for the guest alone go to the VF.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// The primary channel is closed: whatever the guest was told is void.
    pub(super) fn session_ended(&mut self) {
        self.told = None;
        self.active = false;
        self.asked.clear();
        self.says.clear();
    }
}

impl Nic {
    pub(crate) fn plug_vf(&mut self, options: VfOptions) -> Option<Arc<Device>> {
        if self.vf.device.is_some() {
            return None;
        }
        let device = Device::new(options, self.config.mac, self.server.port().latch().clone());
        self.vf.device = Some(VfEnd::memory(Arc::clone(&device)));
        Some(device)
    }

    /// The VF that is there, if it is in memory.
    pub(crate) fn plugged_vf(&self) -> Option<Arc<Device>> {
        self.vf.device.as_ref().and_then(VfEnd::device).cloned()
    }

    /// A VF whose other end is elsewhere; false if there is one.
    pub(crate) fn plug_vf_port(&mut self, port: Box<dyn Port>) -> bool {
        let free = self.vf.device.is_none();
        if free {
            self.vf.device = Some(VfEnd::port(port));
        }
        free
    }

    pub(crate) fn unplug_vf(&mut self, lose: bool) {
        let Some(mut device) = self.vf.device.take() else { return };
        let (lost, received_lost) = device.remove(lose, self.now);
        self.counters.vf_lost += lost as u64;
        self.counters.vf_rx_dropped += received_lost as u64;
        self.vf.leaving.push(device);
    }

    pub(crate) fn vf_in_use(&self) -> bool {
        self.vf.is_active()
    }

    pub(crate) fn set_vf_link(&mut self, up: bool) {
        if let Some(device) = &self.vf.device {
            device.set_link(up);
        }
    }

    pub(crate) fn set_vf_manner(&mut self, manner: VfManner) {
        self.vf.manner = manner;
    }

    pub(crate) fn associate_vf(&mut self, serial: u32) {
        self.vf.association = Some(serial);
        if self.can_hear_of_vf() {
            self.tell_association(serial, true);
        }
    }

    pub(crate) fn revoke_vf(&mut self) {
        self.vf.association = None;
        self.move_data_path_back();
        if let Some(serial) = self.vf.told.take() {
            self.tell_association(serial, false);
        }
    }

    pub(crate) fn move_data_path_back(&mut self) {
        if std::mem::take(&mut self.vf.active) {
            self.vf.says.push_back(Word::DataPath(nvsp::DataPath::SYNTHETIC));
            self.tell_of_vf();
        }
    }

    /// A fault: the host moves the traffic to the synthetic path by itself, then takes the association back; whatever the
    /// guest knows of a virtual function. Nothing if the session has no such messages.
    pub(crate) fn vf_removed(&mut self) {
        if !self.at_least(nvsp::Version::V4) {
            return;
        }
        self.unplug_vf(true);
        self.vf.association = None;
        self.vf.active = false;
        let serial_number = self.vf.told.take().unwrap_or(0);
        self.vf.says.push_back(Word::DataPath(nvsp::DataPath::SYNTHETIC));
        self.vf.says.push_back(Word::Association(nvsp::VfAssociation { allocated: false, serial_number }));
        self.tell_of_vf();
    }

    /// Whether the guest takes messages about a VF: it has the version, asked for it, and has initialized RNDIS.
    fn can_hear_of_vf(&self) -> bool {
        self.at_least(nvsp::Version::V4)
            && self.session.phase == Phase::Ready
            && self.session.rndis_initialized
            && self.session.capabilities.contains(nvsp::Capabilities::SRIOV)
    }

    fn tell_association(&mut self, serial: u32, allocated: bool) {
        if allocated {
            self.vf.told = Some(serial);
        }
        self.vf.says.push_back(Word::Association(nvsp::VfAssociation { allocated, serial_number: serial }));
        self.tell_of_vf();
    }

    /// Says what there is to be said, as far as there is room.
    pub(super) fn tell_of_vf(&mut self) {
        if self.vf.says.is_empty() {
            return;
        }
        let Some(mut queue) = self.queues.first_mut().and_then(Option::take) else { return };
        self.flush_before(&mut queue);
        while !queue.silent
            && queue.has_room(CONTROL_RESERVE)
            && let Some(word) = self.vf.says.pop_front()
        {
            self.say(&mut queue, word);
        }
        self.queues[0] = Some(queue);
        self.did_work = true;
    }

    /// What was delivered before a word of the host comes before it.
    fn flush_before(&mut self, primary: &mut Queue) {
        self.flush_coalesced();
        self.flush_receive(primary);
        for index in 1..self.queues.len() {
            let Some(mut queue) = self.queues[index].take() else { continue };
            if !queue.silent {
                self.flush_receive(&mut queue);
                self.finish_queue(&mut queue);
            }
            self.queues[index] = Some(queue);
        }
    }

    fn say(&mut self, queue: &mut Queue, word: Word) {
        let written = match word {
            Word::DataPath(active_path) => {
                let message: [u8; 8] = nvsp::SwitchDataPath { active_path }.to_array();
                queue.write(&Outgoing::request(TransactionId(vf_transaction_ids() + 1), &message))
            }
            Word::Association(association) => {
                let message: [u8; nvsp::MESSAGE_LEN] = association.to_array();
                let message = &message[..self.session.message_len()];
                queue.write(&Outgoing::request(TransactionId(vf_transaction_ids()), message))
            }
        };
        match written {
            Ok(()) => self.counters.vf_messages += 1,
            Err(error) => tracing::debug!(target: "netvsc_host", %error, "word of the vf not sent"),
        }
    }

    /// The guest asks for a data path.
    pub(super) fn switch_asked(&mut self, queue: &mut Queue, descriptor: &Descriptor, to: nvsp::DataPath) {
        let (id, wants_completion) = (descriptor.transaction_id, descriptor.wants_completion());
        self.vf.asked.push_back(Asked { id, to, wants_completion });
        // One that follows in the same turn does not overtake it.
        self.do_switch(queue);
    }

    /// Does what was asked for.
    pub(super) fn do_switch(&mut self, queue: &mut Queue) {
        let manner = self.vf.manner;
        while manner != VfManner::Silent
            && queue.has_room_for_completion()
            && let Some(Asked { id, to, wants_completion }) = self.vf.asked.pop_front()
        {
            self.flush_before(queue);
            let to_vf = to == nvsp::DataPath::VF;
            // Whatever the manner: nothing is left on the VF that the guest leaves.
            self.vf.active = to_vf && self.vf.told.is_some() && manner == VfManner::Obliging;
            if to_vf
                && self.vf.told.is_some()
                && let Some(device) = &mut self.vf.device
            {
                device.allowed = true;
            }
            if wants_completion {
                queue.complete(id, &[]);
            }
            if to_vf && manner == VfManner::Refusing {
                self.vf.says.push_back(Word::DataPath(nvsp::DataPath::SYNTHETIC));
            }
            self.did_work = true;
        }
    }

    /// A frame for the guest: by the VF, if that is where the data path is and it is for the NIC alone. `None`: by the rings.
    pub(super) fn deliver_by_vf(&mut self, frame: Frame<'_>) -> Option<bool> {
        let for_many = frame.bytes.first().is_none_or(|byte| byte & 1 != 0);
        if !self.vf.active || for_many {
            return None;
        }
        let delivered = self.vf.device.as_mut().is_some_and(|device| device.deliver(frame));
        if delivered {
            self.counters.vf_rx_frames += 1;
        } else {
            self.counters.vf_rx_dropped += 1;
        }
        Some(delivered)
    }

    /// A batch of deliveries is over.
    pub(super) fn flush_vf(&mut self) {
        if let Some(device) = &mut self.vf.device {
            device.flush();
        }
    }

    /// Takes what the guest sends by the VF; what is left of the budget.
    pub(super) fn serve_vf(&mut self, mut budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        if self.can_hear_of_vf()
            && self.vf.told.is_none()
            && let Some(serial) = self.vf.association
        {
            self.tell_association(serial, true);
        }
        self.tell_of_vf();
        let mut leaving = std::mem::take(&mut self.vf.leaving);
        for device in &mut leaving {
            budget = self.serve_vf_end(device, budget, out);
        }
        leaving.retain(|device| !device.is_over(self.now));
        // Nothing that is done with a frame takes one away.
        self.vf.leaving = leaving;
        if let Some(mut device) = self.vf.device.take() {
            budget = self.serve_vf_end(&mut device, budget, out);
            self.vf.device = Some(device);
        }
        budget
    }

    fn serve_vf_end(&mut self, device: &mut VfEnd, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        let allowed = device.allowed;
        let given = device.serve(self.now, budget, &mut |frame| {
            if !allowed {
                let text = "a frame by the vf, before the host completed a switch to it";
                self.record(ViolationKind::UnexpectedVfFrame, None, text, frame.bytes);
            }
            self.counters.vf_tx_frames += 1;
            out(frame);
        });
        self.did_work |= given > 0;
        budget.saturating_sub(given)
    }

    /// When its devices want to be looked at although nothing is heard of them.
    pub(super) fn vf_deadline(&self) -> Option<Duration> {
        let devices = self.vf.leaving.iter().chain(&self.vf.device);
        devices.filter_map(|device| device.deadline(self.now)).min()
    }

    /// The guest has another connection.
    pub(super) fn vf_follows(&mut self) {
        let latch = self.server.port().latch();
        for device in self.vf.leaving.iter().chain(&self.vf.device) {
            device.follow(latch);
        }
    }

    pub(super) fn register_vf_waker(&mut self, waker: &Waker) {
        for device in self.vf.leaving.iter_mut().chain(&mut self.vf.device) {
            device.register_waker(waker);
        }
    }
}
