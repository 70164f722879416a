//! Link: what the guest is told of it, and when.
//!
//! "Up" while the link is up already is told as down and, some seconds later, up (seen of real hosts).

use std::time::Duration;

use rndis::Status;
use rndis::value::LinkSpeed;

use super::Nic;
use crate::fault::LinkFate;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) up: bool,
    pub(super) speed_bps: u64,
    /// What the guest believes; it assumes the link to be as the query says.
    told: Option<bool>,
    speed_told: bool,
    up_at: Option<Duration>,
}

impl Link {
    pub(super) fn new(up: bool, speed_bps: u64) -> Self {
        Self { up, speed_bps, told: None, speed_told: true, up_at: None }
    }

    pub(super) fn session_ended(&mut self) {
        self.told = None;
        self.speed_told = true;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.up_at
    }

    /// In units of 100 bit/s, as RNDIS counts.
    pub(super) fn speed(&self) -> LinkSpeed {
        LinkSpeed(u32::try_from(self.speed_bps / 100).unwrap_or(u32::MAX))
    }
}

impl Nic {
    pub(crate) fn set_link(&mut self, up: bool) {
        self.link.up_at = None;
        if up && self.link.up {
            self.link_down_until(self.now + self.config.settings.link_flap);
        } else {
            self.link.up = up;
            let flap = if up { self.faults.on_link_up() } else { LinkFate::Steady };
            self.tell_link();
            if let LinkFate::Flap { up_after } = flap {
                self.link_down_until(self.now + up_after);
            }
        }
    }

    pub(crate) fn set_link_speed(&mut self, bps: u64) {
        if self.link.speed_bps != bps {
            self.link.speed_bps = bps;
            self.link.speed_told = false;
        }
    }

    fn link_down_until(&mut self, up_at: Duration) {
        self.link.up = false;
        self.link.up_at = Some(up_at);
        self.tell_link();
    }

    pub(super) fn serve_link(&mut self) {
        if self.link.up_at.is_some_and(|at| at <= self.now) {
            self.link.up_at = None;
            self.link.up = true;
            self.tell_link();
        }
        if !self.session.rndis_initialized {
            return;
        }
        if !self.link.speed_told {
            self.link.speed_told = true;
            if self.session.capabilities.contains(nvsp::Capabilities::TEAMING) {
                let speed = self.link.speed();
                self.indicate(Status::LINK_SPEED_CHANGE, &speed.0.to_le_bytes());
            }
        }
    }

    /// Every change is told, in order; a guest that is not there yet asks.
    fn tell_link(&mut self) {
        if self.session.rndis_initialized && self.link.told != Some(self.link.up) {
            self.link.told = Some(self.link.up);
            let status = if self.link.up { Status::MEDIA_CONNECT } else { Status::MEDIA_DISCONNECT };
            self.indicate(status, &[]);
        }
    }
}
