//! A scripted host for the control machine: it does what a host does, and at a step of the test's choice something else.
//!
//! Every action of the machine gets a label (`init 6.1`, `query MAXIMUM_FRAME_SIZE`, `release Send`); the labels are kept in
//! order, and the test's script is asked what to do at each.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use netvsc::control::{Action, Control, Event, Input};
use netvsc::queue::{ControlToken, HeldReceives, QueueError};
use netvsc::{Config, DeviceInfo, Instant};
use nvsp::{
    InitComplete, Message, ReceiveSection, RndisPacketComplete, SendReceiveBufferComplete, SendSendBufferComplete,
    Sender, Status, SubchannelComplete, Version,
};
use rndis::Oid;
use rndis::control::{InitializeComplete, QueryComplete, SetComplete};
use rndis::offload::Offload;
use rndis::rss::{RssCapabilities, RssCapabilityFlags};
use vmbus::bus::Purpose;
use vmbus::gpadl::GpadlId;

/// What the host does at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum React {
    /// What hosts do.
    Normal,
    /// Nothing, ever.
    Silent,
    /// It says no.
    Refuse,
    /// It completes an NVSP message with these bytes, or answers a query with this value, or INITIALIZE with this message.
    Raw(Vec<u8>),
    /// It takes the device away.
    Rescind,
}

/// Something for the machine, kept until it is delivered.
#[derive(Debug, Clone)]
pub(crate) enum Fed {
    Offered,
    Opened,
    OpenFailed(u32),
    Allocated(Purpose, usize, Option<GpadlId>),
    NotAllocated(Purpose),
    GpadlCreated(GpadlId),
    GpadlFailed(GpadlId, u32),
    GpadlTornDown(GpadlId),
    Rescinded,
    SubchannelOffered(u16),
    SubchannelOpened(u16),
    SubchannelNotOpened(u16, u32),
    SubchannelRescinded(u16),
    SubchannelFailed(u16),
    Completed(ControlToken, Vec<u8>),
    Nvsp(Vec<u8>),
    Rndis(Vec<u8>),
    Outstanding(usize, usize),
    Detached(usize, usize),
}

impl Fed {
    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Offered => Input::Offered,
            Self::Opened => Input::Opened,
            Self::OpenFailed(status) => Input::OpenFailed { status: *status },
            Self::Allocated(purpose, bytes, gpadl) => {
                Input::Allocated { purpose: *purpose, bytes: *bytes, gpadl: *gpadl }
            }
            Self::NotAllocated(purpose) => Input::NotAllocated { purpose: *purpose },
            Self::GpadlCreated(gpadl) => Input::GpadlCreated(*gpadl),
            Self::GpadlFailed(gpadl, status) => Input::GpadlFailed { gpadl: *gpadl, status: *status },
            Self::GpadlTornDown(gpadl) => Input::GpadlTornDown(*gpadl),
            Self::Rescinded => Input::Rescinded,
            Self::SubchannelOffered(queue) => Input::SubchannelOffered { queue: *queue },
            Self::SubchannelOpened(queue) => Input::SubchannelOpened { queue: *queue },
            Self::SubchannelNotOpened(queue, status) => Input::SubchannelNotOpened { queue: *queue, status: *status },
            Self::SubchannelRescinded(queue) => Input::SubchannelRescinded { queue: *queue },
            Self::SubchannelFailed(queue) => {
                let error = QueueError::Doorbell { kind: vmbus::ErrorKind::Gone };
                Input::SubchannelFailed { queue: *queue, error }
            }
            Self::Completed(token, payload) => Input::Completed { token: *token, payload },
            Self::Nvsp(payload) => Input::Nvsp { payload },
            Self::Rndis(payload) => Input::Rndis { payload },
            Self::Outstanding(sends, receives) => {
                Input::Outstanding { sends: *sends, receives: *receives, held: HeldReceives::default() }
            }
            Self::Detached(sends, receives) => Input::Detached { sends: *sends, receives: *receives },
        }
    }
}

pub(crate) type Script = Box<dyn FnMut(&str) -> React>;

/// Machine and host.
pub(crate) struct Rig {
    pub(crate) control: Control,
    pub(crate) now: Instant,
    pub(crate) newest: Version,
    pub(crate) labels: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) feed: VecDeque<Fed>,
    /// Bytes of a receive section, as this host divides.
    pub(crate) receive_section: u32,
    pub(crate) send_section: u32,
    /// The RNDIS answer comes before the completion of its request.
    pub(crate) answer_first: bool,
    pub(crate) direct: bool,
    /// What the host grants of the subchannels that are asked for.
    pub(crate) most_subchannels: u16,
    /// The order in which it offers them; the answer to the request comes after so many.
    pub(crate) offers: fn(u16) -> Vec<u16>,
    pub(crate) offers_before_answer: usize,
    /// Subchannels that are open.
    pub(crate) open: BTreeSet<u16>,
    /// Queue, first section and end of each share of the send buffer.
    pub(crate) shares: Vec<(u16, u32, u32)>,
    /// The last RNDIS messages sent by the machine.
    pub(crate) rndis_sent: Vec<Vec<u8>>,
    pub(crate) outstanding: (usize, usize),
    script: Script,
}

pub(crate) const RECEIVE_GPADL: GpadlId = GpadlId(2);
pub(crate) const SEND_GPADL: GpadlId = GpadlId(3);
pub(crate) const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 2, 3];

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        Self::scripted(config, |_| React::Normal)
    }

    pub(crate) fn scripted(config: Config, script: impl FnMut(&str) -> React + 'static) -> Self {
        let control = Control::new(config, Instant::ZERO).expect("a valid configuration");
        Self {
            control,
            now: Instant::ZERO,
            newest: Version::V6_1,
            labels: Vec::new(),
            events: Vec::new(),
            feed: VecDeque::from([Fed::Offered]),
            receive_section: 1728,
            send_section: 6144,
            answer_first: false,
            direct: true,
            most_subchannels: 7,
            offers: |granted| (1..=granted).collect(),
            offers_before_answer: 0,
            open: BTreeSet::new(),
            shares: Vec::new(),
            rndis_sent: Vec::new(),
            outstanding: (0, 0),
            script: Box::new(script),
        }
    }

    /// Runs until both sides have nothing to do; time stands still.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            while let Some(event) = self.control.poll_event() {
                self.events.push(event);
            }
            if let Some(action) = self.control.poll_action() {
                self.act(action);
            } else if let Some(fed) = self.feed.pop_front() {
                self.control.handle(self.now, fed.input());
            } else if self.control.is_draining() && self.outstanding == (0, 0) {
                let held = HeldReceives::default();
                self.control.handle(self.now, Input::Outstanding { sends: 0, receives: 0, held });
            } else {
                return;
            }
        }
        panic!("machine and host never settle; the last labels: {:?}", self.labels.iter().rev().take(8));
    }

    /// As [`settle`](Self::settle), one thing at a time, until `enough`.
    pub(crate) fn settle_until(&mut self, enough: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            while let Some(event) = self.control.poll_event() {
                self.events.push(event);
            }
            if enough(self) {
                return;
            }
            if let Some(action) = self.control.poll_action() {
                self.act(action);
            } else if let Some(fed) = self.feed.pop_front() {
                self.control.handle(self.now, fed.input());
            } else if self.control.is_draining() && self.outstanding == (0, 0) {
                let held = HeldReceives::default();
                self.control.handle(self.now, Input::Outstanding { sends: 0, receives: 0, held });
            } else {
                return;
            }
        }
        panic!("machine and host never settle");
    }

    /// Does what the machine wants, without delivering what comes of it.
    pub(crate) fn actions(&mut self) {
        while let Some(action) = self.control.poll_action() {
            self.act(action);
        }
    }

    /// Lets time pass until the machine's next timeout; false if there is none.
    pub(crate) fn time_out(&mut self) -> bool {
        let Some(due) = self.control.poll_timeout() else { return false };
        self.now = self.now.max(due);
        self.control.handle_timeout(self.now);
        self.settle();
        true
    }

    /// As [`settle`](Self::settle), through as many timeouts as it takes to end.
    pub(crate) fn run_to_end(&mut self) {
        self.settle();
        for _ in 0..64 {
            if self.control.is_over() || !self.time_out() {
                break;
            }
        }
        assert!(self.control.is_over(), "still in {:?}, after {:?}", self.control.step(), self.labels);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.control.handle_timeout(self.now);
        self.settle();
    }

    pub(crate) fn feed(&mut self, fed: Fed) {
        self.feed.push_back(fed);
        self.settle();
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        self.control.info().unwrap_or_else(|| panic!("not up: {:?} {:?}", self.events, self.labels))
    }

    /// Labels since the label `from`, that one included.
    pub(crate) fn since(&self, from: &str) -> Vec<&str> {
        let start = self.labels.iter().position(|label| label == from).unwrap_or(self.labels.len());
        self.labels[start..].iter().map(String::as_str).collect()
    }

    fn act(&mut self, action: Action) {
        let label = label(&action);
        let react = (self.script)(&label);
        self.labels.push(label);
        if let (React::Rescind, Action::CloseSubchannel { queue }) = (&react, &action) {
            // Closing is the guest's own.
            self.open.remove(queue);
        }
        if react == React::Rescind {
            self.feed.push_back(Fed::Rescinded);
            return;
        }
        match action {
            Action::Open(_) => match react {
                React::Refuse => self.feed.push_back(Fed::OpenFailed(0x8000_FFFF)),
                React::Silent => {}
                _ => self.feed.push_back(Fed::Opened),
            },
            Action::Allocate(wish) => self.allocate(wish.purpose, wish.bytes, react),
            Action::OpenSubchannel { queue, .. } => match react {
                React::Refuse => self.feed.push_back(Fed::SubchannelNotOpened(queue, 0x8000_FFFF)),
                React::Silent => {}
                _ => {
                    assert!(self.open.insert(queue), "{queue} is open already");
                    self.feed.push_back(Fed::SubchannelOpened(queue));
                }
            },
            Action::AttachSubchannel(parts) => match react {
                React::Refuse => self.feed.push_back(Fed::SubchannelFailed(parts.queue)),
                _ => self.shares.extend(parts.send.map(|(_, share)| (parts.queue, share.start, share.end))),
            },
            Action::CloseSubchannel { queue } => {
                self.open.remove(&queue);
                self.shares.retain(|share| share.0 != queue);
            }
            Action::AttachSend { sections, .. } => self.shares.push((0, 0, sections)),
            Action::GrowSend { sections } => {
                self.shares.retain(|share| share.0 != 0);
                self.shares.push((0, 0, sections));
            }
            Action::Close => assert!(self.open.is_empty(), "the primary channel is closed last"),
            Action::SendNvsp { message, token } => {
                let answer = match react {
                    React::Silent => return,
                    React::Raw(bytes) => Some(bytes),
                    react => self.answer_nvsp(&message, react == React::Refuse),
                };
                let (before, after) = self.offer_subchannels(&message, answer.as_deref());
                self.feed.extend(before);
                if let (Some(token), Some(answer)) = (token, answer) {
                    self.feed.push_back(Fed::Completed(token, answer));
                }
                self.feed.extend(after);
            }
            Action::SendRndis { message, token } => self.answer_rndis(message, token, react),
            Action::Detach if react != React::Silent => {
                self.feed.push_back(Fed::Detached(self.outstanding.0, self.outstanding.1));
            }
            Action::Release(purpose) => match (purpose, react) {
                (_, React::Silent) => {}
                (Purpose::Receive, _) => self.feed.push_back(Fed::GpadlTornDown(RECEIVE_GPADL)),
                (Purpose::Send, _) => self.feed.push_back(Fed::GpadlTornDown(SEND_GPADL)),
                _ => {}
            },
            _ => {}
        }
    }

    fn allocate(&mut self, purpose: Purpose, bytes: usize, react: React) {
        let gpadl = match purpose {
            Purpose::Receive => Some(RECEIVE_GPADL),
            Purpose::Send => Some(SEND_GPADL),
            _ => None,
        };
        if (purpose == Purpose::Direct && !self.direct) || (gpadl.is_none() && react == React::Refuse) {
            return self.feed.push_back(Fed::NotAllocated(purpose));
        }
        if let React::Raw(_) = react {
            return self.feed.push_back(Fed::NotAllocated(purpose));
        }
        self.feed.push_back(Fed::Allocated(purpose, bytes, gpadl));
        if let Some(gpadl) = gpadl {
            match react {
                React::Silent => {}
                React::Refuse => self.feed.push_back(Fed::GpadlFailed(gpadl, 0xC000_0001)),
                _ => self.feed.push_back(Fed::GpadlCreated(gpadl)),
            }
        }
    }

    /// `None`: hosts complete these only if asked, and with nothing in it.
    fn answer_nvsp(&mut self, message: &[u8], refuse: bool) -> Option<Vec<u8>> {
        let status = if refuse { Status::FAIL } else { Status::SUCCESS };
        let answer: Message<'_> = match Message::parse(message, Sender::Guest).expect("a readable message") {
            Message::Init(init) => {
                let taken = !refuse && init.max_version <= self.newest;
                let status = if taken { Status::SUCCESS } else { Status::NONE };
                InitComplete { version: InitComplete::DEPRECATED_VERSION, max_mdl_chain_len: 34, status }.into()
            }
            Message::SendReceiveBuffer(_) => {
                let bytes = self.control_receive_bytes();
                let count = bytes / self.receive_section;
                return Some(receive_answer(status, 0, self.receive_section, count));
            }
            Message::SendSendBuffer(_) => SendSendBufferComplete { status, section_size: self.send_section }.into(),
            Message::SubchannelRequest(request) => {
                let count = if refuse { 0 } else { request.count.min(self.most_subchannels.into()) };
                SubchannelComplete { status, count }.into()
            }
            _ => return Some(Vec::new()),
        };
        let mut out = vec![0; 40];
        answer.emit_padded(&mut out, 32).expect("room");
        out.truncate(32);
        Some(out)
    }

    /// What is offered before and after the answer to a subchannel request.
    fn offer_subchannels(&self, message: &[u8], answer: Option<&[u8]>) -> (Vec<Fed>, Vec<Fed>) {
        let (Ok(Message::SubchannelRequest(_)), Some(answer)) = (Message::parse(message, Sender::Guest), answer) else {
            return Default::default();
        };
        let granted = SubchannelComplete::parse(answer).map_or(0, |complete| complete.count.min(100) as u16);
        let mut offers: Vec<Fed> = (self.offers)(granted).into_iter().map(Fed::SubchannelOffered).collect();
        let after = offers.split_off(self.offers_before_answer.min(offers.len()));
        (offers, after)
    }

    /// From the label of the allocation, as a host knows it from the GPADL.
    fn control_receive_bytes(&self) -> u32 {
        let label = self.labels.iter().rev().find_map(|label| label.strip_prefix("allocate Receive "));
        label.and_then(|bytes| bytes.parse().ok()).expect("a receive buffer was allocated before it was shared")
    }

    fn answer_rndis(&mut self, message: Vec<u8>, token: ControlToken, react: React) {
        let complete = |status: Status| {
            let mut out = vec![0; 8];
            RndisPacketComplete { status }.emit(&mut out).expect("room");
            out
        };
        if react != React::Silent {
            let answer = answer(&message, &react);
            let completion = Fed::Completed(token, complete(Status::SUCCESS));
            match (answer, self.answer_first) {
                (Some(answer), true) => self.feed.extend([Fed::Rndis(answer), completion]),
                (Some(answer), false) => self.feed.extend([completion, Fed::Rndis(answer)]),
                (None, _) => self.feed.push_back(completion),
            }
        }
        self.rndis_sent.push(message);
    }
}

/// The answer to a request, if the request has one.
pub(crate) fn answer(message: &[u8], react: &React) -> Option<Vec<u8>> {
    let mut out = vec![0; 1024];
    let status = if *react == React::Refuse { rndis::Status::NOT_SUPPORTED } else { rndis::Status::SUCCESS };
    let len = match rndis::Message::parse(message).expect("a readable message") {
        rndis::Message::Initialize(initialize) => {
            if let React::Raw(bytes) = react {
                return Some(bytes.clone());
            }
            let complete = InitializeComplete { request_id: initialize.request_id, status, ..INITIALIZE_COMPLETE };
            complete.emit(&mut out)
        }
        rndis::Message::Query(query) => {
            let value = match react {
                React::Raw(value) => value.clone(),
                React::Refuse => Vec::new(),
                _ => value(query.oid),
            };
            QueryComplete { request_id: query.request_id, status, information: &value }.emit(&mut out)
        }
        rndis::Message::Set(set) => SetComplete { request_id: set.request_id, status }.emit(&mut out),
        rndis::Message::Halt(_) => return None,
        other => panic!("hosts do not answer {other:?}"),
    };
    out.truncate(len.expect("room"));
    Some(out)
}

pub(crate) const INITIALIZE_COMPLETE: InitializeComplete = InitializeComplete {
    request_id: rndis::RequestId(0),
    status: rndis::Status::SUCCESS,
    major_version: 1,
    minor_version: 0,
    device_flags: 1,
    medium: 0,
    max_packets_per_message: 8,
    max_transfer_size: 0xEFFF_FFFF,
    packet_alignment_log2: 3,
    af_list_offset: 0,
    af_list_size: 0,
};

fn value(oid: Oid) -> Vec<u8> {
    let mut out = vec![0; 600];
    let len = match oid {
        Oid::MAXIMUM_FRAME_SIZE => return 9000u32.to_le_bytes().to_vec(),
        Oid::PERMANENT_ADDRESS => return MAC.to_vec(),
        Oid::FRIENDLY_NAME => rndis::value::FriendlyName::emit("uplink", &mut out),
        Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => Offload::empty(3).emit(&mut out),
        Oid::MEDIA_CONNECT_STATUS => return 0u32.to_le_bytes().to_vec(),
        Oid::LINK_SPEED => return 100_000_000u32.to_le_bytes().to_vec(),
        Oid::RECEIVE_SCALE_CAPABILITIES => RssCapabilities {
            revision: 2,
            flags: RssCapabilityFlags(0x301),
            interrupt_messages: 1,
            receive_queues: 8,
            indirection_entries: Some(128),
        }
        .emit(&mut out),
        other => panic!("hosts are not asked for {other}"),
    };
    out.truncate(len.expect("room"));
    out
}

pub(crate) fn receive_answer(status: Status, offset: u32, size: u32, count: u32) -> Vec<u8> {
    let sections = [ReceiveSection {
        offset,
        sub_allocation_size: size,
        sub_allocation_count: count,
        end_offset: size.wrapping_mul(count),
    }];
    let mut out = vec![0; 64];
    let len = SendReceiveBufferComplete { status, sections: (&sections).into() }.emit(&mut out).expect("room");
    out.truncate(len);
    out
}

pub(crate) fn label(action: &Action) -> String {
    match action {
        Action::Open(_) => "open".into(),
        Action::Allocate(wish) => format!("allocate {:?} {}", wish.purpose, wish.bytes),
        Action::SendNvsp { message, .. } => match Message::parse(message, Sender::Guest).expect("a readable message") {
            Message::Init(init) => format!("init {}", init.max_version.name().unwrap_or("?")),
            Message::NdisConfig(_) => "ndis config".into(),
            Message::NdisVersion(version) => format!("ndis version {}.{}", version.major, version.minor),
            Message::SendReceiveBuffer(_) => "share receive".into(),
            Message::SendSendBuffer(_) => "share send".into(),
            Message::SubchannelRequest(request) => format!("subchannels {}", request.count),
            Message::RevokeReceiveBuffer(_) => "revoke receive".into(),
            Message::RevokeSendBuffer(_) => "revoke send".into(),
            other => panic!("guests do not send {other:?}"),
        },
        Action::SendRndis { message, .. } => match rndis::Message::parse(message).expect("a readable message") {
            rndis::Message::Initialize(_) => "initialize".into(),
            rndis::Message::Query(query) => format!("query {}", query.oid),
            rndis::Message::Set(set) if set.oid == Oid::PACKET_FILTER => format!("filter {}", set.information[0]),
            rndis::Message::Set(set) if set.oid == Oid::RECEIVE_SCALE_PARAMETERS => {
                let off = rndis::rss::RssParameters::parse(set.information).expect("readable").is_disabled();
                format!("scaling {}", if off { "off" } else { "on" })
            }
            rndis::Message::Set(set) => format!("set {}", set.oid),
            rndis::Message::Halt(_) => "halt".into(),
            other => panic!("guests do not send {other:?}"),
        },
        Action::AttachReceive { .. } => "attach receive".into(),
        Action::AttachSend { .. } => "attach send".into(),
        Action::AttachLimits(_) => "attach limits".into(),
        Action::GrowSend { .. } => "grow send".into(),
        Action::ShareReceive { .. } => "share receive".into(),
        Action::OpenSubchannel { queue, .. } => format!("open {queue}"),
        Action::AttachSubchannel(parts) => format!("attach {}", parts.queue),
        Action::CloseSubchannel { queue } => format!("close {queue}"),
        Action::Detach => "detach".into(),
        Action::Release(purpose) => format!("release {purpose:?}"),
        Action::Close => "close".into(),
        Action::Pause => "pause".into(),
        Action::Resume => "resume".into(),
        Action::Vf(_) => "vf".to_owned(),
        other => panic!("unknown action {other:?}"),
    }
}

/// Steps of a whole bring-up at NVSP 6.1, as labels.
pub(crate) const BRING_UP: [&str; 23] = [
    "open",
    "init 6.1",
    "ndis config",
    "ndis version 6.30",
    "allocate Receive 16777216",
    "share receive",
    "attach receive",
    "allocate Send 1044480",
    "share send",
    "attach send",
    "allocate Direct 1048576",
    "initialize",
    "attach limits",
    "filter 0",
    "query MAXIMUM_FRAME_SIZE",
    "query PERMANENT_ADDRESS",
    "query FRIENDLY_NAME",
    "query TCP_OFFLOAD_HARDWARE_CAPABILITIES",
    "set TCP_OFFLOAD_PARAMETERS",
    "query MEDIA_CONNECT_STATUS",
    "query LINK_SPEED",
    "query RECEIVE_SCALE_CAPABILITIES",
    "filter 13",
];
