//! Memory that the guest lends to the host.
//!
//! Source: Linux `drivers/hv/channel.c` (`vmbus_establish_gpadl`; `vmbus_teardown_gpadl` says nothing after a rescind); OpenVMM `vmbus_server/src/channels.rs`.

use std::collections::BTreeMap;

use vmbus::gpadl::{GpadlId, GpadlMemory, Progress, Reassembler, ReassemblyError};
use vmbus::mem::GuestMemory;
use vmbus::memory::HeapMemory;
use vmbus::protocol::{GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, GpadlTorndown, Message, RelId, Status};

use super::{Event, Server};
use crate::violation::{ViolationKind, ViolationLog};

/// Most GPADLs of one connection. Two for the buffers and one for each channel are what a NIC needs.
const MAX_GPADLS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Gpadls {
    incomplete: Reassembler,
    complete: BTreeMap<GpadlId, Lent>,
}

#[derive(Debug)]
struct Lent {
    relid: RelId,
    memory: HeapMemory,
}

/// What to answer to a message of a GPADL, if anything, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    created: Option<GpadlCreated>,
    wrong: Option<String>,
}

impl Answer {
    fn refused(relid: RelId, gpadl: GpadlId, wrong: impl Into<String>) -> Self {
        let created = GpadlCreated { relid, gpadl, status: Status::FAILURE };
        Self { created: Some(created), wrong: Some(wrong.into()) }
    }
}

impl Gpadls {
    pub(super) fn memory(&self, id: GpadlId) -> Option<&HeapMemory> {
        self.complete.get(&id).map(|lent| &lent.memory)
    }

    pub(super) fn len(&self) -> usize {
        self.complete.len() + self.incomplete.len()
    }

    /// A channel was rescinded and let go of: so is what was lent to it, which guests need not take back one by one.
    pub(super) fn remove_channel(&mut self, relid: RelId) {
        self.complete.retain(|_, lent| lent.relid != relid);
        self.incomplete.remove_channel(relid);
    }

    pub(super) fn clear(&mut self) {
        self.complete.clear();
        self.incomplete.clear();
    }

    pub(super) fn header(&mut self, header: &GpadlHeader<'_>, channel_known: bool, memory: &GuestMemory) -> Answer {
        let (relid, gpadl) = (header.relid, header.gpadl);
        if gpadl.0 == 0 || self.complete.contains_key(&gpadl) {
            return Answer::refused(relid, gpadl, format!("gpadl id {gpadl} is zero or in use"));
        }
        if !channel_known {
            return Answer::refused(relid, gpadl, format!("channel {relid} was not offered"));
        }
        if self.complete.len() >= MAX_GPADLS {
            return Answer::refused(relid, gpadl, format!("more than {MAX_GPADLS} gpadls"));
        }
        match self.incomplete.header(header) {
            Ok(progress) => self.progress(progress, memory),
            Err(error) => Answer::refused(relid, gpadl, error.to_string()),
        }
    }

    pub(super) fn body(&mut self, body: &GpadlBody<'_>, memory: &GuestMemory) -> Answer {
        let relid = self.incomplete.channel_of(body.gpadl);
        match (self.incomplete.body(body), relid) {
            (Ok(progress), _) => self.progress(progress, memory),
            (Err(error @ ReassemblyError::BadRanges { .. }), Some(relid)) => {
                Answer::refused(relid, body.gpadl, error.to_string())
            }
            // No channel is known that an answer could name.
            (Err(error), _) => Answer { created: None, wrong: Some(error.to_string()) },
        }
    }

    fn progress(&mut self, progress: Progress, memory: &GuestMemory) -> Answer {
        let Progress::Complete(GpadlMemory { relid, gpadl, ranges }) = progress else { return Answer::default() };
        let first = ranges.ranges().map(|list| (list.len(), list.iter().next()));
        // In process, guest memory is mapped in one piece or not at all.
        let Ok((1, Some(range))) = first else {
            return Answer::refused(relid, gpadl, "gpadl of several ranges");
        };
        if range.byte_offset() != 0 || !range.byte_count().is_multiple_of(4096) {
            return Answer::refused(relid, gpadl, "gpadl does not consist of whole pages");
        }
        match memory.map_pages(range.pfns()) {
            Ok(memory) => {
                self.complete.insert(gpadl, Lent { relid, memory });
                let created = GpadlCreated { relid, gpadl, status: Status::SUCCESS };
                Answer { created: Some(created), wrong: None }
            }
            Err(error) => Answer::refused(relid, gpadl, error.to_string()),
        }
    }
}

impl Server {
    pub(super) fn gpadl_answer(&mut self, answer: Answer, bytes: &[u8], log: &mut ViolationLog) -> Event {
        if let Some(text) = answer.wrong {
            let channel = answer.created.map(|created| created.relid);
            log.record(self.violation(ViolationKind::BadGpadl, channel, text, bytes));
        }
        if let Some(created) = answer.created {
            self.post(&Message::GpadlCreated(created));
        }
        Event::None
    }

    pub(super) fn teardown(&mut self, teardown: &GpadlTeardown, bytes: &[u8], log: &mut ViolationLog) -> Event {
        let (relid, gpadl) = (teardown.relid, teardown.gpadl);
        match self.gpadls.complete.get(&gpadl) {
            None => {
                let text = format!("teardown of gpadl {gpadl}, which does not exist");
                log.record(self.violation(ViolationKind::BadGpadl, Some(relid), text, bytes));
                return Event::None;
            }
            Some(lent) if lent.relid != relid => {
                let text = format!("teardown of gpadl {gpadl} of channel {} on channel {relid}", lent.relid);
                log.record(self.violation(ViolationKind::BadGpadl, Some(relid), text, bytes));
            }
            Some(_) => {}
        }
        if let Some(open) = self.channels.opened_with(gpadl) {
            let text = format!("teardown of gpadl {gpadl}, the ring of open channel {open}");
            log.record(self.violation(ViolationKind::GpadlInUse, Some(open), text, bytes));
        }
        self.gpadls.complete.remove(&gpadl);
        // The mapping lives on where the device holds it, until the event below; in process that harms nobody.
        self.post(&Message::GpadlTorndown(GpadlTorndown { gpadl }));
        Event::TornDown(gpadl)
    }
}
