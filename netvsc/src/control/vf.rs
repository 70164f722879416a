//! The virtual function's machine inside the control machine: its switches are NVSP messages, and the device is not closed or
//! changed before the traffic is back on the synthetic path.
//!
//! Source: Linux `netvsc.c` (`netvsc_switch_datapath`); DPDK da1fcd9b36 (a host that still sent to the VF after the program
//! had ended).

use alloc::collections::VecDeque;

use nvsp::{DataPath, SwitchDataPath};

use crate::meta::Path;
use crate::queue::ControlToken;
use crate::time::Instant;
use crate::vf::{Action, Event, Input, Machine, Settings, Stage, SwitchId};

use super::state::State;
use super::{Control, io};

/// Switches whose completion is still remembered; of a host that completes none, the oldest are forgotten.
const MAX_SWITCHES: usize = 16;

/// The machine, once somebody has use for it.
#[derive(Debug)]
pub(super) struct VfControl {
    machine: Machine,
    /// The messages that the host has not completed.
    switches: VecDeque<(ControlToken, SwitchId)>,
    running: bool,
}

impl Control {
    /// From now on the virtual function is used: what is to be done comes as [`Action::Vf`](super::Action::Vf), what happens
    /// to it goes in by [`handle_vf`](Self::handle_vf). Nothing if that was said before.
    pub fn use_vf(&mut self, now: Instant, settings: Settings) {
        if self.vf.is_none() {
            let machine = Machine::new(settings);
            self.vf = Some(VfControl { machine, switches: VecDeque::new(), running: false });
            self.vf_handle(now, Input::Stop);
            if let Some(function) = self.virtual_function {
                self.vf_handle(now, Input::Associated { serial: function.serial_number });
            }
            self.go_on(now);
        }
    }

    /// Takes in something that happened to the virtual function.
    pub fn handle_vf(&mut self, now: Instant, input: Input) {
        self.vf_handle(now, input);
        self.go_on(now);
    }

    /// The virtual function's machine; `None` before [`use_vf`](Self::use_vf).
    pub fn vf(&self) -> Option<&Machine> {
        self.vf.as_ref().map(|vf| &vf.machine)
    }

    /// As [`handle_vf`](Self::handle_vf), in the middle of something else.
    pub(super) fn vf_handle(&mut self, now: Instant, input: Input) {
        let Some(vf) = &mut self.vf else { return };
        vf.machine.handle(now, input);
        self.vf_obey();
    }

    pub(super) fn vf_timeout(&self) -> Option<Instant> {
        self.vf.as_ref().and_then(|vf| vf.machine.poll_timeout())
    }

    pub(super) fn vf_handle_timeout(&mut self, now: Instant) {
        let Some(vf) = self.vf.as_mut().filter(|vf| vf.machine.poll_timeout().is_some_and(|at| at <= now)) else {
            return;
        };
        vf.machine.handle_timeout(now);
        self.vf_obey();
    }

    /// Whether the message was a switch of the data path.
    pub(super) fn vf_switched(&mut self, now: Instant, token: ControlToken, sent: bool) -> bool {
        let Some(vf) = &mut self.vf else { return false };
        let Some(at) = vf.switches.iter().position(|(known, _)| *known == token) else { return false };
        let Some((_, id)) = vf.switches.remove(at) else { return false };
        self.vf_handle(now, if sent { Input::Switched(id) } else { Input::NotSwitched(id) });
        true
    }

    /// The virtual function is used while the device is up, and nobody wants to close or change it.
    pub(super) fn vf_keep_up(&mut self, now: Instant) {
        let up =
            matches!(self.state, State::Ready(_)) && self.reconfiguration.is_none() && self.close_after_vf.is_none();
        let Some(vf) = &mut self.vf else { return };
        if core::mem::replace(&mut vf.running, up) != up {
            self.vf_handle(now, if up { Input::Resume } else { Input::Stop });
        }
        if self.close_after_vf.is_some() && self.vf_is_stopped() {
            self.close_after_vf = None;
            self.close_as_wished(now);
        }
    }

    /// Whether the traffic is on the synthetic path, and the virtual function closed.
    pub(super) fn vf_is_stopped(&self) -> bool {
        self.vf.as_ref().is_none_or(|vf| vf.machine.is_stopped())
    }

    /// Everything that was going on ends. A host that is there is told to send by the synthetic path, if it may not.
    pub(super) fn vf_abort(&mut self, host_gone: bool) {
        let Some(vf) = &mut self.vf else { return };
        vf.switches.clear();
        let away = vf.machine.stage() != Stage::Synthetic;
        vf.machine.abort();
        if away && !host_gone {
            self.send_nvsp(SwitchDataPath { active_path: DataPath::SYNTHETIC }.to_array(), None);
        }
        self.vf_obey();
    }

    fn vf_obey(&mut self) {
        loop {
            let Some(vf) = &mut self.vf else { return };
            if let Some(event) = vf.machine.poll_event() {
                self.vf_tell(event);
                continue;
            }
            match vf.machine.poll_action() {
                None => return,
                Some(Action::Switch { to, id }) => {
                    let token = self.next_token();
                    if let Some(vf) = &mut self.vf {
                        if vf.switches.len() >= MAX_SWITCHES {
                            vf.switches.pop_front();
                        }
                        vf.switches.push_back((token, id));
                    }
                    let active_path = if to == Path::VirtualFunction { DataPath::VF } else { DataPath::SYNTHETIC };
                    self.send_nvsp(SwitchDataPath { active_path }.to_array(), Some(token));
                }
                Some(action) => self.actions.push_back(io::Action::Vf(action)),
            }
        }
    }

    fn vf_tell(&mut self, event: Event) {
        self.notify(super::Event::Vf(event));
    }
}
