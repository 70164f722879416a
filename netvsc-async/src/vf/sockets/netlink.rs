//! Network interfaces over rtnetlink: which there are, what happens to them, and their settings.
//!
//! [`Links`] asks and sets. The kernel carries a request out while it is sent, and its answer is there when that returns: so the
//! calls are not asynchronous, and wait for nothing but the kernel's own lock. [`LinkMonitor`] tells what happens.
//!
//! Both see the network namespace of the thread that opened them.
//!
//! Source: `rtnetlink(7)`; Linux `net/core/rtnetlink.c`.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use netvsc::info::{LinkState, MacAddress};

use super::error::SocketError;

/// `RTNLGRP_LINK`, as a bit.
const LINK_GROUP: u32 = 1;
/// How often interfaces are listed at most until the kernel was not interrupted in it.
const DUMPS: usize = 16;
/// Bytes that the kernel may keep for a monitor that is slow: some thousand events.
const MONITOR_BYTES: u32 = 1 << 20;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number, which no other gets while it exists.
    pub index: u32,
    /// Its name, as `ip link` prints it.
    pub name: String,
    /// Its MAC address, if it is Ethernet.
    pub mac: Option<MacAddress>,
    /// Its L3 MTU.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier as well.
    pub state: LinkState,
    /// What kind of virtual interface it is, like `veth`; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the interface that it serves: a bond, a bridge, a synthetic interface that `hv_netvsc` is in charge of.
    pub master: Option<u32>,
    /// Bus and name of the device behind it, like `pci` and `0001:00:02.0`; Linux 5.14 and later tell it.
    pub parent: Option<(String, String)>,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let up = flags.contains(LinkFlags::Up);
        let carrier = up && flags.contains(LinkFlags::LowerUp);
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up,
            state: if carrier { LinkState::Up } else { LinkState::Down },
            kind: None,
            master: None,
            parent: None,
        };
        let (mut bus, mut device) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = <[u8; 6]>::try_from(&address[..]).ok().map(MacAddress);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
                LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                _ => {}
            }
        }
        link.parent = bus.zip(device);
        link
    }
}

fn kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Veth) => Some("veth".into()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// Asks about interfaces and sets them.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
    sequence: u32,
}

impl Links {
    /// Those of the calling thread's network namespace.
    ///
    /// # Errors
    /// If there is no netlink here.
    pub fn open() -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(SocketError::when("open netlink"))?;
        socket.bind_auto().map_err(SocketError::when("bind a netlink socket"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn list(&mut self) -> Result<Vec<Link>, SocketError> {
        for _ in 1..DUMPS {
            let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
            match self.request(message, NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(SocketError::when("list the network interfaces")),
            }
        }
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.request(message, NLM_F_DUMP).map_err(SocketError::when("list the network interfaces"))
    }

    /// The interface with this index; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn by_index(&mut self, index: u32) -> Result<Option<Link>, SocketError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one(message)
    }

    /// The interface of this name; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn by_name(&mut self, name: &str) -> Result<Option<Link>, SocketError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.one(message)
    }

    fn one(&mut self, message: LinkMessage) -> Result<Option<Link>, SocketError> {
        // Acknowledged, so that there is an end even to an answer that cannot be read.
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if super::error::is_gone(&error) => Ok(None),
            Err(error) => Err(SocketError::new("look for a network interface", error)),
        }
    }

    /// Sets an interface's L3 MTU.
    ///
    /// # Errors
    /// If it cannot be that; nothing has changed then.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), SocketError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set(message).map_err(SocketError::when("set the MTU of the virtual function"))
    }

    /// Takes an interface up, or down.
    ///
    /// # Errors
    /// What the kernel, or the device's driver, says.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), SocketError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.set(message).map_err(SocketError::when("take the virtual function up or down"))
    }

    fn set(&mut self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Link>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        uninterrupted(|| self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0))?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let mut whole = true;
        loop {
            let (bytes, _) = uninterrupted(|| self.socket.recv_from_full())?;
            for message in messages(&bytes) {
                if message.header.sequence_number != self.sequence {
                    // Of a request that was given up.
                    continue;
                }
                // Something changed while the kernel was at it: what it has listed may lack interfaces.
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    // The list ends where the kernel failed: it is not whole then, either.
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Done(_) if !whole => return Err(io::ErrorKind::Interrupted.into()),
                    NetlinkPayload::Done(_) => return Ok(links),
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_some() { Err(error.to_io()) } else { Ok(links) };
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        links.push(Link::from_message(&link));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Does it again if a signal came in between.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The messages of a datagram; those that cannot be read are passed over.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        loop {
            let len = usize::try_from(NetlinkBuffer::new_checked(bytes).ok()?.length()).ok()?;
            let (message, _) = bytes.split_at_checked(len)?;
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    })
}

/// Something that happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// It appeared, or something about it changed; here is how it is now.
    Changed(Link),
    /// It is gone: removed, or moved to another namespace.
    Gone {
        /// Its index.
        index: u32,
    },
    /// Events were lost, because nobody read them. List the interfaces anew.
    Overrun,
}

/// Tells what happens to interfaces.
///
/// What happened before it was opened it does not tell: open it first, then look at what there is.
pub struct LinkMonitor {
    socket: TokioSocket,
    events: VecDeque<LinkEvent>,
}

impl std::fmt::Debug for LinkMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkMonitor").field("events", &self.events).finish_non_exhaustive()
    }
}

impl LinkMonitor {
    /// For the calling thread's network namespace.
    ///
    /// # Errors
    /// If there is no netlink here.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn open() -> Result<Self, SocketError> {
        let mut socket = <TokioSocket as AsyncSocket>::new(NETLINK_ROUTE).map_err(SocketError::when("open netlink"))?;
        socket
            .socket_mut()
            .bind(&SocketAddr::new(0, LINK_GROUP))
            .map_err(SocketError::when("listen for network interfaces"))?;
        // Less than that is what it is; then there may be an overrun.
        let _ = socket.socket_ref().set_rx_buf_sz(MONITOR_BYTES);
        Ok(Self { socket, events: VecDeque::new() })
    }

    /// The next event.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<LinkEvent, SocketError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Ok(event));
            }
            match ready!(self.socket.poll_recv_from_full(cx)) {
                Ok((bytes, _)) => self.events.extend(messages(&bytes).filter_map(event)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Poll::Ready(Ok(LinkEvent::Overrun));
                }
                Err(error) => return Poll::Ready(Err(SocketError::new("listen for network interfaces", error))),
            }
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// As [`poll_next`](Self::poll_next).
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Result<LinkEvent, SocketError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            Some(LinkEvent::Changed(Link::from_message(&link)))
        }
        // A bridge tells of its ports that leave it in the same words, in a family of its own.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family == Default::default() =>
        {
            Some(LinkEvent::Gone { index: link.header.index })
        }
        _ => None,
    }
}
