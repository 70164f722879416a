//! Which offloads are in force: as agreed on at bring-up, changed at run time by the user, limited by what the host says.
//!
//! ```text
//!  set the new ones ─► done
//!   │ refused, or not answered
//!   └─► set the old ones ─► failed
//! ```
//!
//! Until a change is over only what both the old and the new settings grant is used: the host may follow it at any moment in
//! between. One change at a time.
//!
//! Source: Linux `drivers/net/hyperv/rndis_filter.c` (`rndis_filter_set_offload_params`); the indication: OpenVMM
//! `netvsp/src/lib.rs`, which sends it after the answer, with what came out.

use alloc::boxed::Box;
use alloc::vec::Vec;

use nvsp::Version;
use rndis::Oid;
use rndis::offload::Offload;

use crate::info::DeviceInfo;
use crate::offload::{OffloadSettings, Offloads, parameters};
use crate::time::Instant;

use super::event::{Event, RequestHandle};
use super::failure::RequestError;
use super::requests::{Ask, Origin};
use super::setup::encoded;
use super::state::State;
use super::{Control, NotAccepted};

/// A change on its way.
#[derive(Debug)]
pub(super) struct OffloadChange {
    /// Whose; `None`: nobody waits for it any more.
    pub(super) request: Option<RequestHandle>,
    settings: OffloadSettings,
    /// The host did not follow: the old settings are set again.
    failed: Option<RequestError>,
}

/// The request that puts `agreed` into force.
pub(super) fn set_offloads(version: Version, offered: &Offload, agreed: &Offloads) -> Ask {
    let parameters = parameters(version, offered, agreed);
    Ask::Set(Oid::TCP_OFFLOAD_PARAMETERS, encoded(parameters.buffer_len(), |out| parameters.emit(out)))
}

/// What `settings` come to, with what the host last said is in force.
pub(super) fn in_force(
    version: Version,
    offered: &Offload,
    settings: &OffloadSettings,
    current: Option<&Offload>,
) -> Offloads {
    let agreed = Offloads::agreed(version, offered, settings);
    current.map_or(agreed, |current| agreed.limited_to(version, current))
}

impl Control {
    /// Changes which offloads the host is asked for; [`Event::Answered`] says whether it follows. If not, all is as it was.
    ///
    /// # Errors
    /// [`NotAccepted`]: also while another change is on its way.
    pub fn set_offloads(&mut self, now: Instant, settings: OffloadSettings) -> Result<RequestHandle, NotAccepted> {
        if self.reconfiguration.is_some() {
            return Err(NotAccepted::Busy);
        }
        let State::Ready(info) = &mut self.state else { return Err(NotAccepted::NotReady) };
        if self.offload_change.is_some() {
            return Err(NotAccepted::TooMany { limit: 1 });
        }
        self.last_handle = self.last_handle.wrapping_add(1);
        let request = RequestHandle(self.last_handle);
        let agreed = Offloads::agreed(info.nvsp_version, &info.offload, &settings);
        info.offloads = info.offloads.and(agreed);
        self.requests.push(Origin::Offloads, set_offloads(info.nvsp_version, &info.offload, &agreed));
        self.offload_change = Some(OffloadChange { request: Some(request), settings, failed: None });
        self.offload_indicated = None;
        self.go_on(now);
        Ok(request)
    }

    /// One request of the change was answered, or never will be.
    pub(super) fn offloads_answered(&mut self, result: Result<(), RequestError>) {
        let (State::Ready(info), Some(change)) = (&mut self.state, &mut self.offload_change) else { return };
        let result = match (change.failed, result) {
            (None, Ok(())) => {
                info.offload_settings = change.settings;
                Ok(())
            }
            (None, Err(error)) => {
                change.failed = Some(error);
                // Of the settings that were refused: of no interest.
                self.offload_indicated = None;
                let before = Offloads::agreed(info.nvsp_version, &info.offload, &info.offload_settings);
                self.requests.push(Origin::Offloads, set_offloads(info.nvsp_version, &info.offload, &before));
                return;
            }
            // Whether the host has put the old ones back it indicates itself.
            (Some(error), _) => Err(error),
        };
        let request = change.request;
        self.offload_change = None;
        // A host that indicates nothing has what was set.
        self.offload_current = self.offload_indicated.take();
        put_into_force(info, self.offload_current.as_deref());
        if let Some(request) = request {
            self.events.push_back(Event::Answered { request, result: result.map(|()| Vec::new()) });
        }
    }

    /// The host says what is in force; also during bring-up.
    pub(super) fn offloads_indicated(&mut self, current: Offload) {
        let current = Box::new(current);
        if self.offload_change.is_some() {
            // Of the old settings or the new: known by its answer.
            self.offload_indicated = Some(current.clone());
        } else {
            self.offload_current = Some(current.clone());
        }
        if let State::Ready(info) = &mut self.state {
            if self.offload_change.is_none() {
                put_into_force(info, self.offload_current.as_deref());
            }
            self.notify(Event::OffloadChanged(current));
        }
    }
}

fn put_into_force(info: &mut DeviceInfo, current: Option<&Offload>) {
    info.offloads = in_force(info.nvsp_version, &info.offload, &info.offload_settings, current);
}
