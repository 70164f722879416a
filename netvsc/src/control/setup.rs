//! The second half of the bring-up: RNDIS INITIALIZE and one request after the other, until the device is up.
//!
//! Order and tolerance are Linux' (`rndis_filter_device_add`), with two additions of DPDK and FreeBSD: the packet filter is
//! set to 0 first, because some hosts keep the one of the session before; and a value that must not be is not believed.
//! A host that refuses an *optional* value is taken at its word; one that does not answer at all fails the bring-up.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use nvsp::Version;
use rndis::Oid;
use rndis::control::InitializeComplete;
use rndis::offload::Offload;
use rndis::rss::RssCapabilities;
use rndis::value::{FriendlyName, LinkSpeed, MacAddress, MediaConnectStatus, PacketFilter, u32_value};

use crate::config::{Config, DEFAULT_MTU, MIN_MTU, Warning};
use crate::info::{DeviceInfo, LinkState, Sections};
use crate::offload::Offloads;
use crate::queue::AggregateLimits;
use crate::rss::RssSettings;
use crate::time::Instant;

use super::Control;
use super::failure::{Cause, RequestError, Step, Violation};
use super::io::Action;
use super::offloads::{in_force, set_offloads};
use super::requests::{Answer, Ask, Origin};
use super::state::State;

/// Most of what an RNDIS message has beside the frame: header and all per-packet infos that a guest sends.
const MESSAGE_OVERHEAD: u32 = 44 + 64;

/// What exists when the requests start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    pub(super) receive: Sections,
    pub(super) send: Option<Sections>,
    /// Send sections of the primary channel so far.
    pub(super) primary_sections: u32,
    pub(super) direct: bool,
}

/// The requests, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Initialize,
    Silence,
    MaxFrameSize,
    PermanentAddress,
    FriendlyName,
    OffloadCapabilities,
    OffloadParameters,
    ConnectStatus,
    LinkSpeed,
    RssCapabilities,
    /// Not a request: the way to more queues.
    Subchannels,
    DisableRss,
    EnableRss,
    Filter,
}

impl Question {
    const ALL: [Self; 14] = [
        Self::Initialize,
        Self::Silence,
        Self::MaxFrameSize,
        Self::PermanentAddress,
        Self::FriendlyName,
        Self::OffloadCapabilities,
        Self::OffloadParameters,
        Self::ConnectStatus,
        Self::LinkSpeed,
        Self::RssCapabilities,
        Self::Subchannels,
        Self::DisableRss,
        Self::EnableRss,
        Self::Filter,
    ];

    /// Whether it is asked at all.
    fn applies(self, setup: &Setup, config: &Config) -> bool {
        match self {
            Self::LinkSpeed | Self::RssCapabilities => setup.version >= Version::V5,
            Self::Subchannels => config.queues > 1,
            Self::DisableRss | Self::EnableRss => setup.scaling.is_some(),
            Self::Filter => config.packet_filter != PacketFilter::CLOSED,
            _ => true,
        }
    }

    /// Whether a refusal, or an answer that cannot be read, is no reason to give up.
    fn optional(self) -> bool {
        matches!(
            self,
            Self::MaxFrameSize | Self::FriendlyName | Self::ConnectStatus | Self::LinkSpeed | Self::RssCapabilities
        )
    }

    /// The request; `None` if it is none.
    fn ask(self, setup: &Setup, config: &Config) -> Option<Ask> {
        let (version, scaling) = (setup.version, setup.scaling.as_ref());
        let query = |oid| Ask::Query(oid, Vec::new());
        Some(match self {
            Self::Initialize => Ask::Initialize,
            Self::Silence => filter(PacketFilter::CLOSED),
            Self::MaxFrameSize => query(Oid::MAXIMUM_FRAME_SIZE),
            Self::PermanentAddress => query(Oid::PERMANENT_ADDRESS),
            Self::FriendlyName => query(Oid::FRIENDLY_NAME),
            Self::OffloadCapabilities => Ask::Query(Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES, offload_request(version)),
            Self::OffloadParameters => {
                set_offloads(version, &setup.offload, &Offloads::agreed(version, &setup.offload, &config.offloads))
            }
            Self::ConnectStatus => query(Oid::MEDIA_CONNECT_STATUS),
            Self::LinkSpeed => query(Oid::LINK_SPEED),
            Self::RssCapabilities => Ask::Query(Oid::RECEIVE_SCALE_CAPABILITIES, rss_request()),
            Self::Subchannels => return None,
            Self::DisableRss => set_scaling(scaling?, true),
            Self::EnableRss => set_scaling(scaling?, false),
            Self::Filter => filter(config.packet_filter),
        })
    }
}

pub(super) fn filter(filter: PacketFilter) -> Ask {
    Ask::Set(Oid::PACKET_FILTER, filter.0.to_le_bytes().to_vec())
}

/// Sets how the host spreads frames, or switches that off.
pub(super) fn set_scaling(settings: &RssSettings, disable: bool) -> Ask {
    Ask::Set(Oid::RECEIVE_SCALE_PARAMETERS, settings.encode(disable))
}

/// Input of the capabilities query: a structure of which only the header is filled.
fn offload_request(version: Version) -> Vec<u8> {
    let empty = Offload::empty(match version {
        version if version >= Version::V5 => 3,
        Version::V4 => 2,
        _ => 1,
    });
    encoded(empty.buffer_len(), |out| empty.emit(out))
}

fn rss_request() -> Vec<u8> {
    let request = RssCapabilities::REQUEST;
    encoded(request.buffer_len(), |out| request.emit(out))
}

/// A value in as many bytes as it said it needs.
pub(super) fn encoded(len: usize, emit: impl FnOnce(&mut [u8]) -> Result<usize, rndis::EmitError>) -> Vec<u8> {
    let mut out = vec![0; len];
    // `emit` needs `len` bytes and has them; were it to disagree, the host would refuse the shorter value.
    let written = emit(&mut out).unwrap_or(0);
    out.truncate(written);
    out
}

/// What is known so far.
#[derive(Debug)]
pub(super) struct Setup {
    question: Question,
    pub(super) version: Version,
    pub(super) buffers: Buffers,
    pub(super) limits: AggregateLimits,
    mtu: u32,
    mac: MacAddress,
    friendly_name: Option<String>,
    offload: Offload,
    pub(super) rss: Option<RssCapabilities>,
    /// With several queues.
    pub(super) scaling: Option<RssSettings>,
}

/// What an answer has to be told beside.
#[derive(Debug, Default)]
struct Remarks {
    warning: Option<Warning>,
    violation: Option<Violation>,
    link: Option<LinkState>,
    speed: Option<LinkSpeed>,
    limits: Option<AggregateLimits>,
}

impl Setup {
    pub(super) fn receive(&self) -> Sections {
        self.buffers.receive
    }

    /// What the machine waits for.
    pub(super) fn step(&self) -> Step {
        match self.question {
            Question::Initialize => Step::Initialize,
            Question::Silence | Question::Filter => Step::Set(Oid::PACKET_FILTER),
            Question::MaxFrameSize => Step::Query(Oid::MAXIMUM_FRAME_SIZE),
            Question::PermanentAddress => Step::Query(Oid::PERMANENT_ADDRESS),
            Question::FriendlyName => Step::Query(Oid::FRIENDLY_NAME),
            Question::OffloadCapabilities => Step::Query(Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES),
            Question::OffloadParameters => Step::Set(Oid::TCP_OFFLOAD_PARAMETERS),
            Question::ConnectStatus => Step::Query(Oid::MEDIA_CONNECT_STATUS),
            Question::LinkSpeed => Step::Query(Oid::LINK_SPEED),
            Question::RssCapabilities => Step::Query(Oid::RECEIVE_SCALE_CAPABILITIES),
            Question::Subchannels => Step::OpenSubchannels,
            Question::DisableRss | Question::EnableRss => Step::Set(Oid::RECEIVE_SCALE_PARAMETERS),
        }
    }

    /// Takes the answer to the question at hand.
    ///
    /// # Errors
    /// A value that cannot be believed.
    fn take(&mut self, config: &Config, answer: &Answer) -> Result<Remarks, Violation> {
        let mut remarks = Remarks::default();
        let value = match answer {
            Answer::Initialize(complete) => {
                self.limits = aggregate_limits(complete, self.mtu, &mut remarks);
                remarks.limits = Some(self.limits);
                return Ok(remarks);
            }
            Answer::Value(value) => value.as_slice(),
        };
        match self.question {
            Question::MaxFrameSize => {
                let host_mtu = u32_value(value)?;
                if host_mtu < MIN_MTU {
                    return Err(bad("MaximumFrameSize", host_mtu, MIN_MTU));
                }
                if host_mtu < self.mtu {
                    self.mtu = host_mtu;
                    remarks.warning = Some(Warning::MtuLowered { requested: config.mtu, effective: host_mtu });
                }
            }
            Question::PermanentAddress => {
                let mac = MacAddress::parse(value)?;
                if mac.is_multicast() || mac == MacAddress::default() {
                    return Err(bad("PermanentAddress", u32::from(mac.0[0]), 0xFE));
                }
                self.mac = mac;
            }
            Question::FriendlyName => {
                let name: String = FriendlyName::parse(value)?.name.chars().collect();
                self.friendly_name = Some(name).filter(|name| !name.is_empty() && name != FriendlyName::DEFAULT);
            }
            Question::OffloadCapabilities => self.offload = Offload::parse(value)?,
            Question::ConnectStatus => {
                remarks.link = Some(match MediaConnectStatus::parse(value)? {
                    MediaConnectStatus::CONNECTED => LinkState::Up,
                    MediaConnectStatus::DISCONNECTED => LinkState::Down,
                    other => return Err(bad("MediaConnectStatus", other.0, MediaConnectStatus::DISCONNECTED.0)),
                });
            }
            Question::LinkSpeed => {
                let speed = LinkSpeed::parse(value)?;
                if speed.0 == 0 {
                    return Err(bad("LinkSpeed", 0, 1));
                }
                remarks.speed = Some(speed);
            }
            Question::RssCapabilities => self.rss = Some(RssCapabilities::parse(value)?),
            Question::Initialize
            | Question::Silence
            | Question::OffloadParameters
            | Question::Subchannels
            | Question::DisableRss
            | Question::EnableRss
            | Question::Filter => {}
        }
        Ok(remarks)
    }
}

fn bad(field: &'static str, value: u32, limit: u32) -> Violation {
    Violation::BadValue { field, value: value.into(), limit: limit.into() }
}

/// The host's limits, as far as they make sense. Those that do not end aggregation, not the session.
fn aggregate_limits(complete: &InitializeComplete, mtu: u32, remarks: &mut Remarks) -> AggregateLimits {
    let alignment = match complete.alignment() {
        Ok(alignment) => alignment,
        Err(error) => {
            remarks.violation = Some(error.into());
            return AggregateLimits::SINGLE;
        }
    };
    let one_frame = mtu + nvsp::ETHERNET_HEADER_LEN + MESSAGE_OVERHEAD;
    if complete.max_transfer_size < one_frame {
        remarks.violation = Some(bad("MaxTransferSize", complete.max_transfer_size, one_frame));
        return AggregateLimits { alignment, ..AggregateLimits::SINGLE };
    }
    AggregateLimits { max_packets: complete.max_packets(), max_bytes: complete.max_transfer_size, alignment }
}

impl Control {
    /// The buffers are there: RNDIS begins.
    pub(super) fn start_setup(&mut self, buffers: Buffers) {
        // Reached only after the negotiation.
        let Some(version) = self.version else { return };
        let mtu = if version.has_ndis_config() { self.config.mtu } else { self.config.mtu.min(DEFAULT_MTU) };
        self.holdings.rndis = true;
        self.deadline = None;
        self.state = State::Configuring(Box::new(Setup {
            question: Question::Initialize,
            version,
            buffers,
            limits: AggregateLimits::SINGLE,
            mtu,
            mac: MacAddress::default(),
            friendly_name: None,
            offload: Offload::empty(1),
            rss: None,
            scaling: None,
        }));
        self.requests.push(Origin::Setup, Ask::Initialize);
    }

    /// One request of the bring-up is over.
    pub(super) fn setup_answered(&mut self, now: Instant, step: Step, result: Result<Answer, RequestError>) {
        let State::Configuring(setup) = &mut self.state else { return };
        if let (Question::DisableRss | Question::EnableRss, Err(error)) = (setup.question, &result) {
            return self.one_queue(now, (*error).into());
        }
        let optional = setup.question.optional();
        let remarks = match result {
            Ok(answer) => setup.take(&self.config, &answer),
            Err(RequestError::Refused { .. }) if optional => Ok(Remarks::default()),
            Err(RequestError::Violation(violation)) => Err(violation),
            Err(error) => return self.fail(now, step, error.into()),
        };
        match remarks {
            Ok(remarks) => self.note(remarks),
            Err(violation) if optional => self.violation(violation),
            Err(violation) => return self.fail(now, step, Cause::Violation(violation)),
        }
        self.next_question(now);
    }

    fn note(&mut self, remarks: Remarks) {
        if let Some(limits) = remarks.limits {
            self.actions.push_back(Action::AttachLimits(limits));
        }
        if let Some(link) = remarks.link {
            self.link.answered(link);
        }
        if let Some(speed) = remarks.speed {
            // An indication that came meanwhile is newer.
            self.link_speed.get_or_insert(speed);
        }
        if let Some(warning) = remarks.warning {
            self.warn(warning);
        }
        if let Some(violation) = remarks.violation {
            self.violation(violation);
        }
    }

    pub(super) fn next_question(&mut self, now: Instant) {
        let State::Configuring(setup) = &mut self.state else { return };
        let next = Question::ALL
            .into_iter()
            .skip_while(|question| *question != setup.question)
            .skip(1)
            .find(|question| question.applies(setup, &self.config));
        if matches!(next, None | Some(Question::Filter)) && self.lacks_queues() {
            let (requested, effective) = (self.config.queues, self.live.len());
            return self.fail(now, Step::OpenSubchannels, Cause::FewQueues { requested, effective });
        }
        let State::Configuring(setup) = &mut self.state else { return };
        let Some(question) = next else { return self.up() };
        setup.question = question;
        if let (Question::EnableRss, Some(scaling)) = (question, &mut setup.scaling) {
            // Queues may have gone since it was made.
            let live: Vec<u16> = self.live.iter().collect();
            scaling.redirect(&live);
        }
        match question.ask(setup, &self.config) {
            Some(ask) => self.requests.push(Origin::Setup, ask),
            None => self.ask_for_subchannels(now),
        }
    }

    fn up(&mut self) {
        let send_table = self.buckets();
        let State::Configuring(setup) = &mut self.state else { return };
        let info = Box::new(DeviceInfo {
            nvsp_version: setup.version,
            mac: setup.mac,
            mtu: setup.mtu,
            friendly_name: setup.friendly_name.take(),
            receive: setup.buffers.receive,
            receive_limit: self.receive_limit,
            rx_watermark: self.rx_watermark,
            send: setup.buffers.send,
            direct: setup.buffers.direct,
            queues: self.live.len(),
            scaling: setup.scaling.take(),
            send_table,
            link: self.link.actual(),
            link_speed: self.link_speed,
            virtual_function: self.virtual_function,
            packet_filter: self.config.packet_filter,
            limits: setup.limits,
            offload: setup.offload,
            offload_settings: self.config.offloads,
            offloads: in_force(setup.version, &setup.offload, &self.config.offloads, self.offload_current.as_deref()),
            rss: setup.rss,
        });
        self.is_up(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_sent_have_the_sizes_of_their_version() {
        for (version, request) in [(Version::V1, 112), (Version::V4, 144), (Version::V5, 156), (Version::V6_1, 156)] {
            assert_eq!(offload_request(version).len(), request);
            let revision = [1, 2, 3][usize::from(request > 112) + usize::from(request > 144)];
            assert_eq!(offload_request(version)[..4], [0xA7, revision, request as u8, 0]);
        }
    }
}
