//! One AF_PACKET socket with both rings: a queue of a virtual function.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use netvsc::queue::FrameSink;
use netvsc::vf::{Unreceived, VfQueue, VfSendError};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use vmbus::memory::HeapMemory;

use super::PacketSettings;
use super::receive::Receiver;
use super::ring::{Layout, Slots};
use super::transmit::{Told, Transmitter};
use crate::vf::backend::AsyncVfQueue;
use crate::vf::sockets::error::SocketError;
use crate::vf::sockets::queue::{Polled, Socket, news, poll_received, poll_sent};
use crate::vf::sockets::state::State;
use crate::vf::sockets::syscalls::{PacketOption, bind_packet, packet_option, set_packet_option};

/// `TPACKET_V2`.
const VERSION_2: u32 = 1;
/// `ETH_P_ALL`.
const ALL: u16 = 3;
/// What the kernel accounts for a frame beside its bytes, generously.
const OVERHEAD: usize = 2048;

/// What a queue has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PacketStats {
    /// Frames that the receive ring had no room for. One that is not cut yet counts once, and those for others count as well where
    /// the interface does not filter them (veth).
    pub missed: u64,
    /// Received frames that were dropped: longer than a slot or than the reader's buffers, or in a form that is not known.
    pub dropped: u64,
    /// Frames taken to be sent that never were, because the link went down.
    pub withdrawn: u64,
}

/// A queue of a virtual function, by AF_PACKET. Its descriptor is readable when something was received, and writable when
/// sending went on.
#[derive(Debug)]
pub struct PacketQueue {
    socket: Socket,
    receiver: Receiver,
    transmitter: Transmitter,
    state: Arc<State>,
    missed: u64,
    /// What was told of by `take_unreceived`.
    told: Unreceived,
}

impl PacketQueue {
    pub(super) fn open(index: u32, state: &Arc<State>, settings: &PacketSettings) -> Result<Self, SocketError> {
        let invalid = || SocketError::new("lay out a ring", io::ErrorKind::InvalidInput);
        let receive = Layout::new(settings.receive_slots, settings.receive_slot_bytes).ok_or_else(invalid)?;
        let send = Layout::new(settings.send_slots, settings.send_slot_bytes)
            .filter(|_| settings.send_slot_bytes > super::transmit::BEFORE_FRAME)
            .ok_or_else(invalid)?;
        // Without a protocol, so that nothing comes before it is bound.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(SocketError::when("open an AF_PACKET socket"))?;
        let options: [(PacketOption, &[u32]); 7] = [
            (PacketOption::Version, &[VERSION_2]),
            (PacketOption::VirtioHeader, &[1]),
            (PacketOption::Loss, &[1]),
            (PacketOption::BypassQdisc, &[1]),
            (PacketOption::IgnoreOutgoing, &[1]),
            (PacketOption::RxRing, &receive.request()),
            (PacketOption::TxRing, &send.request()),
        ];
        for (option, words) in options {
            set_packet_option(socket.as_fd(), option, words)
                .map_err(SocketError::when("set up an AF_PACKET socket"))?;
        }
        // Else a full ring of frames would not be taken. Above the system's limit it needs a privilege that one who opens
        // such sockets usually has.
        let all = send.slots() * (settings.send_slot_bytes + OVERHEAD);
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, all);
        let memory = HeapMemory::map_shared(socket.as_fd(), 0, receive.bytes() + send.bytes())
            .map_err(SocketError::when("map the rings of an AF_PACKET socket"))?;
        let receiver = Receiver::new(Slots::new(&memory, 0, receive).ok_or_else(invalid)?);
        let transmitter = Transmitter::new(Slots::new(&memory, receive.bytes(), send).ok_or_else(invalid)?);
        bind_packet(socket.as_fd(), index, ALL).map_err(SocketError::when("bind an AF_PACKET socket"))?;
        let socket = Socket::new(socket).map_err(SocketError::when("wait for an AF_PACKET socket"))?;
        Ok(Self { socket, receiver, transmitter, state: Arc::clone(state), missed: 0, told: Unreceived::default() })
    }

    pub(super) fn discard_received(&mut self) {
        self.receiver.discard();
        // What it missed it was not to have, either.
        let _ = self.take_missed();
    }

    /// What the kernel has counted since it was asked last.
    fn take_missed(&self) -> u64 {
        let mut counted = [0; 2];
        // Reading them sets them back. It cannot fail on such a socket.
        packet_option(self.as_fd(), PacketOption::Statistics, &mut counted).map_or(0, |()| u64::from(counted[1]))
    }

    /// What was counted so far.
    pub fn stats(&mut self) -> PacketStats {
        self.missed += self.take_missed();
        PacketStats { missed: self.missed, dropped: self.receiver.dropped(), withdrawn: self.transmitter.withdrawn() }
    }

    /// Has the kernel take what it has not taken.
    fn push(&mut self) {
        if !self.transmitter.has_unsent() || self.state.is_gone() {
            return;
        }
        match self.transmitter.tell(self.socket.get().as_fd()) {
            Told::All => {}
            Told::Congested if self.state.is_up() => {}
            // What waits must not be sent when the link is back, after what went another way meanwhile.
            Told::Congested | Told::Down => self.transmitter.withdraw(),
            Told::Gone => self.state.set_gone(),
        }
    }
}

impl AsFd for PacketQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get().as_fd()
    }
}

impl VfQueue for PacketQueue {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        if !self.state.is_up() {
            self.push();
            return Err(VfSendError::NotReady);
        }
        let limit = self.state.longest_frame();
        if frame.len() > limit {
            return Err(VfSendError::TooLong { len: frame.len(), limit });
        }
        self.transmitter.put(frame)
    }

    fn room(&mut self) -> usize {
        if !self.state.is_up() {
            self.push();
            return 0;
        }
        self.transmitter.room()
    }

    fn flush(&mut self) {
        self.push();
    }

    fn outstanding(&mut self) -> usize {
        // What a congested driver has left is not tried again by anybody else.
        self.push();
        self.transmitter.outstanding()
    }

    fn take_lost(&mut self) -> u64 {
        self.transmitter.take_lost()
    }

    fn take_unreceived(&mut self) -> Unreceived {
        let PacketStats { missed, dropped, .. } = self.stats();
        news(&mut self.told, Unreceived { missed, dropped })
    }

    #[inline]
    fn has_received(&mut self) -> bool {
        self.receiver.is_ready()
    }

    #[inline]
    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let got = self.receiver.receive(sink, max, self.state.is_promiscuous());
        if got > 0 {
            self.socket.received();
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        self.receiver.capacity()
    }
}

impl Polled for PacketQueue {
    fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn is_gone(&self) -> bool {
        self.state.is_gone()
    }
}

impl AsyncVfQueue for PacketQueue {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_received(self, cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        poll_sent(self, cx, at_most)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let PacketStats { missed, dropped, withdrawn } = self.stats();
        vec![("rx_missed", missed), ("rx_dropped", dropped), ("tx_withdrawn", withdrawn)]
    }
}
