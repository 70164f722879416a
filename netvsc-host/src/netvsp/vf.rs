//! Virtual functions: there is none so far, but one may be taken away by surprise.
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (messages, their order and transaction ids).

use vmbus::packet::TransactionId;
use vmbus::ring::Outgoing;

use super::queue::CONTROL_RESERVE;
use super::{Nic, vf_transaction_ids};

impl Nic {
    /// The host moves the traffic to the synthetic path by itself, then takes the association back; whatever the guest
    /// knows of a virtual function. Nothing if the session has no such messages, or no room for them.
    pub(crate) fn vf_removed(&mut self) {
        if !self.at_least(nvsp::Version::V4) {
            return;
        }
        let Some(mut queue) = self.queues.first_mut().and_then(Option::take) else { return };
        if !queue.silent && queue.has_room(CONTROL_RESERVE) {
            let path = nvsp::DataPath::SYNTHETIC;
            let switch: [u8; 8] = nvsp::SwitchDataPath { active_path: path }.to_array();
            let gone: [u8; nvsp::MESSAGE_LEN] = nvsp::VfAssociation { allocated: false, serial_number: 0 }.to_array();
            let gone = &gone[..self.session.message_len()];
            for (id, message) in [(vf_transaction_ids() + 1, &switch[..]), (vf_transaction_ids(), gone)] {
                if let Err(error) = queue.write(&Outgoing::request(TransactionId(id), message)) {
                    tracing::debug!(target: "netvsc_host", %error, "word of the vf not sent");
                    break;
                }
                self.counters.vf_messages += 1;
                self.did_work = true;
            }
        }
        self.queues[0] = Some(queue);
    }
}
