//! What lasts from INIT to the close of the primary channel.

use std::collections::VecDeque;
use std::time::Duration;

use rndis::offload::Offload;
use vmbus::gpadl::GpadlId;
use vmbus::memory::HeapMemory;

use super::receive_buffer::ReceiveBuffer;
use super::requests::Granted;
use super::rss::Rss;
use super::{NicConfig, oid};
use crate::report::Leaks;

/// Bytes of answers that wait for a receive sub-allocation or for ring space. A guest that asks for more does not listen.
pub(super) const MAX_ANSWER_BYTES: usize = 100 * 1024;

/// How far the NVSP handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// INIT is awaited; others were refused.
    Init,
    /// NDIS configuration, NDIS version and buffers, until the first RNDIS message.
    Setup,
    /// The data path.
    Ready,
    /// The guest took a buffer back: it is about to go.
    Revoked,
}

/// An RNDIS message on its way to the guest.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// A fault makes it late.
    pub(super) not_before: Option<Duration>,
}

/// The send buffer.
#[derive(Debug)]
pub(super) struct SendBuffer {
    pub(super) gpadl: GpadlId,
    pub(super) memory: HeapMemory,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    pub(super) version: Option<nvsp::Version>,
    /// That of the session before, for the report.
    pub(super) last_version: Option<nvsp::Version>,
    legacy_message_len: usize,
    /// Largest frame, Ethernet header included.
    pub(super) frame_mtu: u32,
    pub(super) capabilities: nvsp::Capabilities,
    pub(super) configured: bool,
    pub(super) ndis_version: Option<(u32, u32)>,
    pub(super) receive_buffer: Option<ReceiveBuffer>,
    pub(super) send_buffer: Option<SendBuffer>,
    pub(super) rndis_initialized: bool,
    pub(super) filter: u32,
    /// The offloads in force, as the guest is told.
    pub(super) offload: Offload,
    /// What the guest may ask for with a frame.
    pub(super) granted: Granted,
    pub(super) rss: Option<Rss>,
    pub(super) subchannels: u16,
    pub(super) answers: VecDeque<Answer>,
    pub(super) answer_bytes: usize,
    /// What was lost with earlier sessions: sub-allocations that the guest did not return before it went.
    lost: Leaks,
}

impl Session {
    pub(super) fn new(config: &NicConfig) -> Self {
        Self {
            phase: Phase::Init,
            version: None,
            last_version: None,
            legacy_message_len: config.settings.legacy_message_len.clamp(nvsp::LEGACY_MESSAGE_LEN, nvsp::MESSAGE_LEN),
            frame_mtu: nvsp::DEFAULT_FRAME_MTU,
            capabilities: nvsp::Capabilities::NONE,
            configured: false,
            ndis_version: None,
            receive_buffer: None,
            send_buffer: None,
            rndis_initialized: false,
            filter: 0,
            offload: oid::at_first(oid::offered(&config.settings.offloads)),
            granted: Granted::new(&oid::offered(&config.settings.offloads)),
            rss: None,
            subchannels: 0,
            answers: VecDeque::new(),
            answer_bytes: 0,
            lost: Leaks::default(),
        }
    }

    pub(super) fn end(&mut self, config: &NicConfig) {
        let lost = self.leaks();
        let last_version = self.version.or(self.last_version);
        *self = Self { last_version, lost, ..Self::new(config) };
    }

    /// Bytes of NVSP messages to the guest.
    pub(super) fn message_len(&self) -> usize {
        match self.version {
            Some(version) if version >= nvsp::Version::V6_1 => nvsp::MESSAGE_LEN,
            _ => self.legacy_message_len,
        }
    }

    pub(super) fn sections_held(&self) -> u64 {
        self.receive_buffer.as_ref().map_or(0, ReceiveBuffer::held_sections)
    }

    pub(super) fn leaks(&self) -> Leaks {
        let held = self.receive_buffer.as_ref();
        let mut leaks = Leaks::of_receive_buffer(
            held.map_or(0, ReceiveBuffer::held_sections),
            held.map_or(0, ReceiveBuffer::held_packets),
        );
        leaks.add(self.lost);
        leaks
    }

    pub(super) fn uses(&self, gpadl: GpadlId) -> bool {
        self.receive_buffer.as_ref().is_some_and(|buffer| buffer.gpadl == gpadl)
            || self.send_buffer.as_ref().is_some_and(|buffer| buffer.gpadl == gpadl)
    }

    /// Stops using memory. Sub-allocations that the guest still had are lost with it.
    pub(super) fn forget(&mut self, gpadl: GpadlId) {
        if self.send_buffer.as_ref().is_some_and(|buffer| buffer.gpadl == gpadl) {
            self.send_buffer = None;
        }
        if self.receive_buffer.as_ref().is_some_and(|buffer| buffer.gpadl == gpadl) {
            self.forget_receive_buffer();
        }
    }

    pub(super) fn forget_receive_buffer(&mut self) {
        let leaks = self.leaks();
        self.receive_buffer = None;
        self.lost = leaks;
    }

    /// Sends that will never be completed.
    pub(super) fn lose_sends(&mut self, sends: u64) {
        self.lost.sends += sends;
    }

    /// When an answer that a fault made late is due.
    pub(super) fn answers_due(&self) -> Option<Duration> {
        self.answers.front().and_then(|answer| answer.not_before)
    }
}
