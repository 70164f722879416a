//! One NIC: the host's end of a synthetic network adapter (NetVSP), over its VMBus server and under the switch.
//!
//! | file | subject |
//! |---|---|
//! | `session` | what lasts from INIT to the close of the primary channel |
//! | `negotiate` | NVSP messages: versions, buffers, subchannels |
//! | `control` | RNDIS control messages and their answers |
//! | `oid` | values that are queried and set |
//! | `transmit` | guest → switch: sections, GPA-direct ranges, batches |
//! | `receive` | switch → guest: sub-allocations, transfer pages |
//! | `receive_buffer` | who owns which sub-allocation |
//! | `told` | what the guest is told of a frame: checksums, hash, coalescing |
//! | `rss` | which queue a frame goes to |
//! | `steer` | which queues there are for frames of the guest's |
//! | `queue` | one channel's rings and its signals |
//! | `vf` | the virtual function: its association, data path and frames |
//! | `requests` | what a guest asks of the host with a frame |
//!
//! A [`Nic`] is a [`Port`] of the switch: polling it serves the guest and gives its frames, delivering to it fills the
//! guest's receive buffer. Where a guest breaks the protocol, it goes on as long as OpenVMM's netvsp does, and then falls
//! silent ([`Strictness`]): it reads no more, answers nothing, and leaves the interrupt mask at 1.
//!
//! Sources: OpenVMM `vm/devices/net/netvsp`; what it does with guests' errors was recorded from it (`tests/data/captures`).

mod control;
mod link;
mod negotiate;
mod oid;
mod queue;
mod receive;
mod receive_buffer;
mod requests;
mod rss;
mod session;
mod steer;
mod told;
mod transmit;
mod vf;

use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::Duration;

use vmbus::gpadl::GpadlId;
use vmbus::mem::{GuestPort, HostPort};
use vmbus::packet::{PacketType, TransactionId};

use crate::fault::{FaultPlan, Service};
use crate::host::NicId;
use crate::port::{Frame, Port, PortOffloads};
use crate::profile::Settings;
use crate::report::{Leaks, NicCounters, NicReport};
use crate::switch::PacketFilter;
use crate::violation::{Strictness, Violation, ViolationKind, ViolationLog};
use crate::vmbus_server::{Event, Server};
pub(crate) use rss::Rss;

use link::Link;
use queue::{HeldUp, Queue};
use session::Session;

/// Control messages of the VMBus that are handled in one step: a guest that posts without end lets others live.
const MESSAGES_A_STEP: usize = 1024;
/// Packets that are read of a channel that closes: more than any ring holds, so that only a guest that goes on writing is cut
/// off.
const PACKETS_AT_CLOSE: usize = 1 << 20;

/// What a NIC is made of, from [`NicOptions`](crate::NicOptions).
#[derive(Debug, Clone)]
pub(crate) struct NicConfig {
    pub(crate) id: NicId,
    pub(crate) mac: [u8; 6],
    pub(crate) queues: u16,
    pub(crate) friendly_name: String,
    pub(crate) settings: Settings,
}

/// A completion that waits: a fault holds it back.
#[derive(Debug, Clone, Copy)]
struct HeldCompletion {
    queue: usize,
    transaction_id: TransactionId,
    status: nvsp::Status,
    /// Steps that it still waits; `None` until the guest holds no receive sections.
    steps: Option<u32>,
}

/// One NIC.
#[derive(Debug)]
pub(crate) struct Nic {
    config: NicConfig,
    server: Server,
    log: ViolationLog,
    pub(crate) faults: FaultPlan,
    queues: Vec<Option<Queue>>,
    /// Which channels are open, by index: a queue that is being served is not in `queues`.
    open: u64,
    session: Session,
    link: Link,
    counters: NicCounters,
    held: VecDeque<HeldCompletion>,
    now: Duration,
    did_work: bool,
    silent: bool,
    /// The guest has dropped its end of the connection, and its last message was read.
    guest_left: bool,
    /// The channel that is being read was closed.
    closed: bool,
    transmit: transmit::Scratch,
    receive: receive::Pending,
    /// Most ranges of a packet that the smallest ring has room for.
    ranges_a_ring: usize,
    vf: vf::Vf,
}

impl Nic {
    pub(crate) fn new(config: NicConfig, port: HostPort, link_up: bool, speed_bps: u64, faults: FaultPlan) -> Self {
        let server = Server::new(port, config.id, config.settings.vmbus_max);
        Self {
            log: ViolationLog::new(config.settings.strictness),
            server,
            faults,
            queues: Vec::new(),
            open: 0,
            session: Session::new(&config),
            link: Link::new(link_up, speed_bps),
            counters: NicCounters::default(),
            held: VecDeque::new(),
            now: Duration::ZERO,
            did_work: false,
            silent: false,
            guest_left: false,
            closed: false,
            transmit: transmit::Scratch::default(),
            receive: receive::Pending::default(),
            ranges_a_ring: usize::MAX,
            vf: vf::Vf::default(),
            config,
        }
    }

    pub(crate) fn host_port(&self) -> &HostPort {
        self.server.port()
    }

    /// Whether anything was done since this was last asked.
    pub(crate) fn take_did_work(&mut self) -> bool {
        std::mem::take(&mut self.did_work)
    }

    pub(crate) fn violations(&self) -> (&[Violation], u64) {
        (self.log.kept(), self.log.not_kept())
    }

    pub(crate) fn report(&self) -> NicReport {
        let mut leaks = self.server.leaks();
        leaks.add(self.session.leaks());
        leaks.sends += self.held.len() as u64;
        NicReport {
            id: self.config.id,
            nvsp_version: self.session.version.or(self.session.last_version),
            vmbus_version: self.server.version(),
            silent: self.silent,
            packet_filter: self.session.filter,
            rx_waiting: self.receive.waiting() as u64,
            leaks,
            counters: self.counters,
        }
    }

    /// Takes all channels back.
    pub(crate) fn rescind(&mut self) {
        let _ = self.server.rescind(|_| true);
        self.close_all();
    }

    /// A new connection for a guest that starts anew; `None` as long as the old one is in use.
    pub(crate) fn offer_again(&mut self) -> Option<GuestPort> {
        if !std::mem::take(&mut self.guest_left) {
            return None;
        }
        self.close_all();
        let (guest, host) = vmbus::mem::connection();
        self.server = self.server.succeeded_by(host, self.config.settings.vmbus_max);
        self.silent = false;
        self.vf_follows();
        self.did_work = true;
        Some(guest)
    }

    /// The host loses the receive buffer: nothing is delivered any more. What the guest still has comes back late.
    pub(crate) fn lose_receive_buffer(&mut self) {
        self.receive.clear();
        self.session.forget_receive_buffer();
    }

    /// Tells the guest that the network behind the link changed.
    pub(crate) fn network_change(&mut self) {
        if self.session.rndis_initialized {
            self.indicate(rndis::Status::NETWORK_CHANGE, &[]);
        }
    }

    fn close_all(&mut self) {
        for queue in &mut self.queues {
            *queue = None;
        }
        self.open = 0;
        self.ranges_a_ring = usize::MAX;
        self.end_session();
    }

    /// The primary channel is closed: everything that was agreed on is void.
    fn end_session(&mut self) {
        self.session.lose_sends(self.held.len() as u64);
        self.held.clear();
        self.receive.clear();
        self.link.session_ended();
        self.vf.session_ended();
        self.session.end(&self.config);
    }

    fn serve_bus(&mut self, out: &mut dyn FnMut(Frame<'_>)) {
        let gone = self.server.port().guest_is_gone();
        for _ in 0..MESSAGES_A_STEP {
            let Some(event) = self.server.next(&mut self.log) else {
                self.guest_left = gone;
                return;
            };
            self.did_work = true;
            match event {
                Event::None => {}
                Event::Opened(rings) => {
                    let index = usize::from(rings.index);
                    if self.queues.len() <= index {
                        self.queues.resize_with(index + 1, || None);
                    }
                    let masked = self.faults.on_open_masked();
                    let queue = Queue::new(rings, masked);
                    self.ranges_a_ring = self.ranges_a_ring.min(receive::ranges_in(queue.ring_bytes()));
                    self.queues[index] = Some(queue);
                    // At most 64 queues.
                    self.open |= 1 << (index % 64);
                    if index > 0 {
                        self.subchannel_opened();
                    }
                }
                Event::Closed { index } => {
                    self.read_out_closed(usize::from(index), out);
                    match index {
                        0 => self.close_all(),
                        _ => self.close_subchannel(usize::from(index)),
                    }
                }
                Event::TornDown(gpadl) => {
                    if self.session.uses(gpadl) {
                        self.read_out(0, out);
                    }
                    self.memory_gone(gpadl);
                }
                Event::Reset => self.close_all(),
            }
        }
    }

    /// Reads what the guest wrote before it closed: the last receive completions are there, and the messages on the bus
    /// overtake them.
    fn read_out(&mut self, index: usize, out: &mut dyn FnMut(Frame<'_>)) {
        let mut budget = PACKETS_AT_CLOSE;
        self.serve_queue(index, &mut budget, out);
    }

    /// As [`read_out`](Self::read_out), of a channel that is closed: memory that its packets name is the guest's again.
    fn read_out_closed(&mut self, index: usize, out: &mut dyn FnMut(Frame<'_>)) {
        self.closed = true;
        self.read_out(index, out);
        self.closed = false;
    }

    /// Lets go of a channel's rings. What was on its way there takes the primary channel.
    fn close_subchannel(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            *queue = None;
        }
        self.open &= !(1 << (index % 64));
        self.receive.move_to_primary(index);
    }

    /// Memory was taken back by the guest.
    fn memory_gone(&mut self, gpadl: GpadlId) {
        for index in 0..self.queues.len() {
            if self.queues[index].as_ref().is_some_and(|queue| queue.gpadl == gpadl) {
                self.close_subchannel(index);
            }
        }
        if self.session.uses(gpadl) {
            let text = format!("gpadl {gpadl} torn down while it is the receive or send buffer");
            self.record(ViolationKind::GpadlInUse, None, text, &[]);
            self.session.forget(gpadl);
            self.receive.clear();
        }
    }

    /// Reads one queue until it is empty, the budget is used up, or it cannot be answered any more.
    fn serve_queue(&mut self, index: usize, budget: &mut usize, out: &mut dyn FnMut(Frame<'_>)) {
        let Some(mut queue) = self.queues.get_mut(index).and_then(Option::take) else { return };
        if self.faults.on_serve_queue(index as u16) == Service::Silent && !queue.silent {
            queue.silent = true;
            self.silent = true;
        }
        if !queue.silent {
            self.flush_control(&mut queue);
            self.read_queue(&mut queue, budget, out);
            if index == 0 {
                self.do_switch(&mut queue);
            }
            self.flush_control(&mut queue);
            self.finish_queue(&mut queue);
        }
        self.queues[index] = Some(queue);
    }

    fn read_queue(&mut self, queue: &mut Queue, budget: &mut usize, out: &mut dyn FnMut(Frame<'_>)) {
        while *budget > 0 && !queue.silent {
            // Nothing is read that could not be completed.
            let held_up = if self.held.len() >= self.config.settings.tx_quota as usize {
                Some(HeldUp::Quota)
            } else if !queue.has_room_for_completion() {
                Some(HeldUp::Room)
            } else {
                None
            };
            queue.hold_up(held_up);
            if held_up.is_some() {
                return;
            }
            let incoming = match queue.take() {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return,
                Err(error) => {
                    self.break_queue(queue, ViolationKind::CorruptRing, error.to_string(), &[], false);
                    return;
                }
            };
            self.did_work = true;
            *budget -= 1;
            self.fetch_ahead(queue);
            let body = queue.lend_body();
            self.packet(queue, &incoming, &body, budget, out);
            queue.return_body(body);
        }
    }

    fn packet(
        &mut self,
        queue: &mut Queue,
        incoming: &vmbus::ring::Incoming,
        body: &[u8],
        budget: &mut usize,
        out: &mut dyn FnMut(Frame<'_>),
    ) {
        let (header, payload) = incoming.split(body);
        match incoming.descriptor.packet_type {
            PacketType::COMPLETION => self.guest_completion(queue, &incoming.descriptor, payload),
            PacketType::GPA_DIRECT if self.closed => {}
            PacketType::IN_BAND | PacketType::GPA_DIRECT => {
                self.nvsp_message(queue, &incoming.descriptor, header, payload, budget, out);
            }
            other => {
                let text = format!("packet type {}", other.0);
                // As recorded: such a packet does not even count as read.
                self.break_queue(queue, ViolationKind::BadPacketType, text, body, false);
            }
        }
    }

    /// Records a violation after which the channel is served no more.
    fn break_queue(
        &mut self,
        queue: &mut Queue,
        kind: ViolationKind,
        text: impl Into<String>,
        bytes: &[u8],
        count_as_read: bool,
    ) {
        self.record(kind, Some(queue), text, bytes);
        self.silence(queue, count_as_read);
    }

    /// The channel is served no more, as real hosts do: no answer, no rescind; or, if so wished, a rescind.
    fn silence(&mut self, queue: &mut Queue, count_as_read: bool) {
        queue.silent = true;
        queue.stop(count_as_read);
        self.silent = true;
        if self.log.strictness() == Strictness::Rescind {
            let _ = self.server.rescind(|_| true);
        }
    }

    fn record(&mut self, kind: ViolationKind, queue: Option<&Queue>, text: impl Into<String>, bytes: &[u8]) {
        let channel = queue.map(|queue| queue.relid);
        self.log.record(Violation::new(kind, self.config.id, channel, text, bytes));
    }

    /// Publishes, gives room back, and signals once.
    fn finish_queue(&mut self, queue: &mut Queue) {
        if queue.silent {
            return;
        }
        match queue.finish(&mut self.faults) {
            Ok(finished) => {
                self.counters.interrupts += u64::from(finished.interrupted);
                self.did_work |= finished.more;
            }
            Err(error) => self.break_queue(queue, ViolationKind::CorruptRing, error.to_string(), &[], false),
        }
    }

    /// Completes a send, unless a fault says otherwise.
    fn complete(&mut self, queue: &mut Queue, transaction_id: TransactionId, status: nvsp::Status) {
        use crate::fault::CompletionFate as Fate;
        if !self.faults.is_empty() {
            let index = usize::from(queue.index);
            let hold = |steps| HeldCompletion { queue: index, transaction_id, status, steps };
            if self.session.sections_held() > 0 && self.faults.on_completion_while_receives_held() {
                self.held.push_back(hold(None));
                return;
            }
            match self.faults.on_completion() {
                Fate::Delay { steps } => {
                    self.held.push_back(hold(Some(steps)));
                    return;
                }
                Fate::Never => {
                    self.held.push_back(hold(Some(u32::MAX)));
                    return;
                }
                Fate::Duplicate => self.write_completion(queue, transaction_id, status),
                Fate::ForeignId { transaction_id } => {
                    self.write_completion(queue, TransactionId(transaction_id), status);
                }
                Fate::Failed => return self.write_completion(queue, transaction_id, nvsp::Status::FAIL),
                _ => {}
            }
        }
        self.write_completion(queue, transaction_id, status);
    }

    fn write_completion(&mut self, queue: &mut Queue, transaction_id: TransactionId, status: nvsp::Status) {
        let message: [u8; nvsp::MESSAGE_LEN] = nvsp::RndisPacketComplete { status }.to_array();
        queue.complete(transaction_id, &message[..self.session.message_len()]);
    }

    /// Sends completions that were held back long enough.
    fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let nothing_held = self.session.sections_held() == 0;
        let mut waiting = std::mem::take(&mut self.held);
        for mut held in waiting.drain(..) {
            let due = match &mut held.steps {
                None => nothing_held,
                Some(u32::MAX) => false,
                Some(steps) => {
                    *steps = steps.saturating_sub(1);
                    *steps == 0
                }
            };
            let mut queue = self.queues.get_mut(held.queue).and_then(Option::take);
            match &mut queue {
                Some(queue) if due => {
                    if queue.has_room_for_completion() {
                        self.write_completion(queue, held.transaction_id, held.status);
                        self.did_work = true;
                    } else {
                        self.held.push_back(HeldCompletion { steps: Some(1), ..held });
                    }
                }
                _ => self.held.push_back(held),
            }
            if let Some(place) = self.queues.get_mut(held.queue) {
                *place = queue;
            }
        }
    }

    /// When the NIC wants to be served although the guest is quiet, as a time on the host's clock.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let steps = self.held.iter().any(|held| held.steps.is_some_and(|steps| steps != u32::MAX));
        let late = self.queues.iter().flatten().any(Queue::owes_late_interrupt);
        // Steps are counted, not timed: a step a millisecond is what a quiet host makes.
        let soon = (steps || late).then(|| self.now + Duration::from_millis(1));
        [soon, self.link.deadline(), self.session.answers_due(), self.vf_deadline()].into_iter().flatten().min()
    }

    /// Ends the step: what was held back, what the link has to say, signals.
    pub(crate) fn end_step(&mut self, now: Duration) {
        self.now = now;
        self.release_held();
        self.serve_link();
        self.flush_coalesced();
        for index in 0..self.queues.len() {
            if let Some(mut queue) = self.queues[index].take() {
                if !queue.silent {
                    self.flush_control(&mut queue);
                    self.flush_receive(&mut queue);
                    self.finish_queue(&mut queue);
                }
                self.queues[index] = Some(queue);
            }
        }
    }
}

impl Port for Nic {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        self.deliver_by_vf(frame).unwrap_or_else(|| self.deliver_frame(frame))
    }

    fn offloads(&self) -> PortOffloads {
        // A virtual function takes frames as they are on a wire.
        if self.vf.is_active() { PortOffloads::NONE } else { self.takes() }
    }

    fn flush(&mut self) {
        self.flush_vf();
        self.flush_coalesced();
        for index in 0..self.queues.len() {
            let Some(mut queue) = self.queues[index].take() else { continue };
            if !queue.silent {
                self.flush_receive(&mut queue);
                self.finish_queue(&mut queue);
            }
            self.queues[index] = Some(queue);
        }
    }

    /// The guest's: from the moment that it is told of it, the switch delivers by it.
    fn filter(&self) -> Option<PacketFilter> {
        Some(PacketFilter(self.session.filter))
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        self.now = now;
        self.serve_bus(out);
        // First: what the guest sends by the rings after that has left the virtual function comes after it.
        let mut left = self.serve_vf(budget, out);
        for index in 0..self.queues.len() {
            self.serve_queue(index, &mut left, out);
        }
        budget - left
    }

    fn register_waker(&mut self, waker: &Waker) {
        self.register_vf_waker(waker);
        let latch = self.server.port().latch();
        // Set already: whoever registers must not sleep.
        if latch.poll(&mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref();
        }
    }
}

impl Leaks {
    fn of_receive_buffer(sections: u64, receive_ids: u64) -> Self {
        Self { sections, receive_ids, ..Self::default() }
    }
}

/// Transaction ids from here on are those of messages about a VF; guests complete them or not.
const fn vf_transaction_ids() -> u64 {
    1 << 63
}

/// What the published vectors are tried on.
#[cfg(test)]
pub(crate) mod requests_for_tests {
    use rndis::ppi::PacketInfo;

    use super::{oid, requests};
    use crate::port::FrameMeta;
    use crate::profile::Offloads;

    /// Does what is asked for with a frame, as for a guest that may ask for all; nothing may be odd about it.
    pub(crate) fn prepare(frame: &mut [u8], info: &PacketInfo) -> FrameMeta {
        let granted = requests::Granted::new(&oid::offered(&Offloads::ALL));
        let (work, odd) = requests::check(frame, info, &granted).expect("may be asked for");
        assert_eq!(odd, None);
        work.prepare(frame)
    }
}
