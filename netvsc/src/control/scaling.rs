//! How the host spreads received frames, changed while the device is up: by the user, or because a queue is gone.
//!
//! ```text
//!  off ─► on, with the new settings ─► done
//!   │      │ refused
//!   │      └─► on, with the old settings ─► failed
//!   └─► failed
//! ```
//!
//! Hosts want scaling switched off before it is set, as Linux and DPDK do it. One change at a time.
//!
//! Source: Linux `drivers/net/hyperv/rndis_filter.c` (`rndis_filter_set_rss_param`).

use alloc::vec::Vec;

use crate::config::Warning;
use crate::rss::{RssError, RssSettings};
use crate::time::Instant;

use super::event::{Event, RequestHandle};
use super::failure::RequestError;
use super::requests::Origin;
use super::setup::set_scaling;
use super::state::State;
use super::{Control, NotAccepted};

/// A change on its way.
#[derive(Debug)]
pub(super) struct Change {
    /// Whose; `None`: the machine's own, or nobody waits for it any more.
    pub(super) request: Option<RequestHandle>,
    /// The user chose it.
    by_user: bool,
    settings: RssSettings,
    stage: Stage,
}

/// What is waited for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Disabling,
    Setting,
    /// The new settings were refused: the old ones are set again.
    Restoring(RequestError),
}

impl Control {
    /// Changes how the host spreads frames; [`Event::Answered`] says whether it does. If it refuses, the settings stay as
    /// they were.
    ///
    /// # Errors
    /// [`NotAccepted`]: also while another change is on its way.
    pub fn set_rss(&mut self, now: Instant, settings: RssSettings) -> Result<RequestHandle, NotAccepted> {
        if self.reconfiguration.is_some() {
            return Err(NotAccepted::Busy);
        }
        let info = self.info().ok_or(NotAccepted::NotReady)?;
        let capabilities = match &info.rss {
            Some(capabilities) if info.scaling.is_some() => capabilities,
            _ => return Err(NotAccepted::Rss(RssError::OneQueue)),
        };
        let live: Vec<u16> = self.live.iter().collect();
        settings.check(capabilities, &live).map_err(NotAccepted::Rss)?;
        if self.change.is_some() {
            return Err(NotAccepted::TooMany { limit: 1 });
        }
        self.last_handle = self.last_handle.wrapping_add(1);
        let request = RequestHandle(self.last_handle);
        self.change_scaling(Some(request), settings);
        self.go_on(now);
        Ok(request)
    }

    fn change_scaling(&mut self, request: Option<RequestHandle>, settings: RssSettings) {
        self.requests.push(Origin::Scaling, set_scaling(&settings, true));
        self.change = Some(Change { request, by_user: request.is_some(), settings, stage: Stage::Disabling });
    }

    /// Takes queues that are gone out of the table, once.
    pub(super) fn rebuild_table(&mut self) {
        let State::Ready(info) = &self.state else { return };
        let Some(scaling) = info.scaling.as_ref().filter(|_| self.change.is_none() && self.reconfiguration.is_none())
        else {
            return;
        };
        if self.rebuilt_for == self.live || scaling.table.iter().all(|queue| self.live.contains(*queue)) {
            return;
        }
        let mut settings = scaling.clone();
        let live: Vec<u16> = self.live.iter().collect();
        settings.redirect(&live);
        self.rebuilt_for = self.live;
        self.change_scaling(None, settings);
    }

    /// One request of the change is over.
    pub(super) fn scaling_answered(&mut self, result: Result<(), RequestError>) {
        let (State::Ready(info), Some(change)) = (&mut self.state, &mut self.change) else { return };
        let lost = matches!(change.stage, Stage::Restoring(_)) && result.is_err();
        let next = match (change.stage, result) {
            (Stage::Disabling, Ok(())) => Ok((Stage::Setting, &change.settings)),
            (Stage::Setting, Ok(())) => {
                info.scaling = Some(change.settings.clone());
                self.scaling_by_user |= change.by_user;
                Err(Ok(()))
            }
            (Stage::Setting, Err(error)) => match &info.scaling {
                Some(before) => Ok((Stage::Restoring(error), before)),
                None => Err(Err(error)),
            },
            (Stage::Restoring(error), _) | (Stage::Disabling, Err(error)) => Err(Err(error)),
        };
        match next {
            Ok((stage, settings)) => {
                let ask = set_scaling(settings, false);
                change.stage = stage;
                self.requests.push(Origin::Scaling, ask);
            }
            Err(result) => self.change_is_over(result, lost),
        }
    }

    /// `lost`: not even the old settings are in force.
    fn change_is_over(&mut self, result: Result<(), RequestError>, lost: bool) {
        let request = self.change.take().and_then(|change| change.request);
        match result {
            Err(error) if lost || request.is_none() => self.warn(Warning::NotSpread { error }),
            Ok(()) if request.is_none() => self.notify(Event::TableRebuilt),
            _ => {}
        }
        if let Some(request) = request {
            self.events.push_back(Event::Answered { request, result: result.map(|()| Vec::new()) });
        }
    }
}
