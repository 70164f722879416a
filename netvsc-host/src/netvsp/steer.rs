//! Which queues there are for the frames that the guest sends: the send indirection table, and queues that go.
//!
//! Source: OpenVMM `netvsp/src/lib.rs`; Linux `drivers/net/hyperv/netvsc.c` (`netvsc_send_table`).

use vmbus::packet::TransactionId;
use vmbus::ring::Outgoing;

use super::Nic;
use super::queue::CONTROL_RESERVE;

/// Bytes of the longest message: 12, padding, 16 entries.
const MESSAGE_BYTES: usize = 80;

impl Nic {
    /// Tells the guest which queue each of its 16 hash buckets shall be sent on. Nothing if the session has no such message,
    /// or no room for it.
    pub(crate) fn tell_send_table(&mut self, entries: [u32; nvsp::SEND_TABLE_LEN]) {
        if !self.at_least(nvsp::Version::V5) {
            return;
        }
        let Some(mut queue) = self.queues.first_mut().and_then(Option::take) else { return };
        let mut message = [0; MESSAGE_BYTES];
        if !queue.silent
            && queue.has_room(CONTROL_RESERVE)
            && let Ok(len) = (nvsp::SendTable { entries }).emit(nvsp::SendTableLayout::COMPACT, &mut message)
        {
            if let Err(error) = queue.write(&Outgoing::notice(TransactionId(0), &message[..len])) {
                tracing::debug!(target: "netvsc_host", %error, "send table not sent");
            }
            self.did_work = true;
        }
        self.queues[0] = Some(queue);
    }

    /// Takes one subchannel back; its frames take the primary channel.
    pub(crate) fn rescind_subchannel(&mut self, index: u16) {
        if index > 0 {
            for open in self.server.rescind(|channel| channel == index) {
                self.close_subchannel(usize::from(open));
            }
        }
    }
}
