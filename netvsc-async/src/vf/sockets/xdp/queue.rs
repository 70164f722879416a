//! One AF_XDP socket with its rings and memory: a queue of a virtual function.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc::info::MacAddress;
use netvsc::meta::{RxChecksum, RxMeta, Transport, Verdict};
use netvsc::queue::FrameSink;
use netvsc::vf::{Unreceived, VfQueue, VfSendError};
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};
use vmbus::memory::{HeapMemory, SharedMemoryExt};

use super::XdpSettings;
use super::program::Program;
use super::ring::{ADDRESS, DESCRIPTOR, Descriptor, Ring};
use crate::vf::backend::AsyncVfQueue;
use crate::vf::sockets::error::SocketError;
use crate::vf::sockets::netlink::Link;
use crate::vf::sockets::queue::{Polled, Socket, news, poll_received, poll_sent};
use crate::vf::sockets::state::State;

/// Bytes of memory for a frame.
const CHUNK: usize = 4096;
/// What drivers keep free before a frame (`XDP_PACKET_HEADROOM`) and behind it (`skb_shared_info`, generously).
const RESERVED: usize = 256 + 384;
/// Longest frame that this receives, from the Ethernet header on.
pub const LONGEST_FRAME: usize = CHUNK - RESERVED;
/// What the kernel accounts for a frame beside its bytes, generously.
const OVERHEAD: usize = 2048;

/// Received frames that are brought nearer before they are looked at.
const AHEAD: u32 = 4;
/// Bytes of them: what follows the processor guesses.
const HEADERS: usize = 128;

/// What a queue has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct XdpStats {
    /// Frames that the kernel had to copy and found no room for: `ring_full`, `no_chunk`, and those that were too long.
    pub missed: u64,
    /// Times that the receive ring was full.
    pub ring_full: u64,
    /// Times that there was no chunk for a received frame. Where the kernel does not copy, each time the driver looked for some:
    /// what it then drops the hardware counts (`rx_out_of_buffer` and the like).
    pub no_chunk: u64,
    /// Descriptors that the kernel took for invalid. None should be.
    pub invalid: u64,
    /// Received frames that were dropped: longer than the reader's buffers.
    pub dropped: u64,
    /// Frames taken to be sent that never were, because the interface was down or had no carrier. Where the kernel does not copy
    /// frames it does not say so.
    pub withdrawn: u64,
    /// The kernel does not copy frames.
    pub zero_copy: bool,
}

/// A queue of a virtual function, by AF_XDP. Its descriptor is readable when something was received.
///
/// The first half of the memory's chunks are for receiving: they are in the fill ring or the receive ring, or with the driver. Those
/// of the other half are free, or sent and not completed.
#[derive(Debug)]
pub struct XdpQueue {
    /// Closed before the memory is let go of.
    socket: Socket,
    receive: Ring<DESCRIPTOR>,
    fill: Ring<ADDRESS>,
    send: Ring<DESCRIPTOR>,
    completion: Ring<ADDRESS>,
    received: u32,
    filled: u32,
    sent: u32,
    /// Of those, what the kernel knows of.
    published: u32,
    completed: u32,
    /// Chunks that may be sent. Those come first that were given back last: they are still in the cache.
    free: Vec<u64>,
    /// How many there are, with those that were sent.
    chunks: usize,
    mac: MacAddress,
    /// Checksums may be missing.
    partial: bool,
    zero_copy: bool,
    dropped: u64,
    withdrawn: u64,
    /// Of those, how many were told of as lost.
    told: u64,
    /// What `take_unreceived` told of.
    told_unreceived: Unreceived,
    state: Arc<State>,
    memory: HeapMemory,
    _program: Arc<Program>,
}

impl XdpQueue {
    pub(super) fn open(
        link: &Link,
        number: u32,
        state: &Arc<State>,
        program: &Arc<Program>,
        settings: &XdpSettings,
    ) -> Result<Self, SocketError> {
        let setting_up = |errno: Errno| SocketError::new("set up an AF_XDP socket", errno);
        let frames = settings.frames.clamp(64, 1 << 16).next_power_of_two();
        let memory = HeapMemory::zeroed(2 * frames as usize * CHUNK);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)
            .map_err(SocketError::when("open an AF_XDP socket"))?;
        let registration = XdpUmemReg {
            addr: memory.virtual_address() as u64,
            len: 2 * u64::from(frames) * CHUNK as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&socket, registration).map_err(setting_up)?;
        sockopt::set_xdp_umem_fill_ring_size(&socket, frames).map_err(setting_up)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, frames).map_err(setting_up)?;
        sockopt::set_xdp_rx_ring_size(&socket, frames).map_err(setting_up)?;
        sockopt::set_xdp_tx_ring_size(&socket, frames).map_err(setting_up)?;
        // As with AF_PACKET: the kernel is to take a full ring.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, frames as usize * (CHUNK + OVERHEAD));
        let offsets = sockopt::xdp_mmap_offsets(&socket).map_err(setting_up)?;
        let fill = map(socket.as_fd(), &offsets.fr, XDP_UMEM_PGOFF_FILL_RING, frames)?;
        for chunk in 0..frames {
            Ring::<ADDRESS>::write(&fill, chunk, (u64::from(chunk) * CHUNK as u64).to_ne_bytes());
        }
        fill.produce(frames);
        let completion = map(socket.as_fd(), &offsets.cr, XDP_UMEM_PGOFF_COMPLETION_RING, frames)?;
        let receive = map(socket.as_fd(), &offsets.rx, XDP_PGOFF_RX_RING, frames)?;
        let send = map(socket.as_fd(), &offsets.tx, XDP_PGOFF_TX_RING, frames)?;
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags.set(SocketAddrXdpFlags::XDP_COPY, settings.copy);
        bind(&socket, &SocketAddrXdp::new(flags, link.index, number))
            .map_err(SocketError::when("bind an AF_XDP socket"))?;
        let zero_copy =
            sockopt::xdp_options(&socket).is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));
        program.direct(number, socket.as_fd())?;
        let socket = Socket::new(socket).map_err(SocketError::when("wait for an AF_XDP socket"))?;
        let first = u64::from(frames);
        Ok(Self {
            socket,
            receive,
            fill,
            send,
            completion,
            received: 0,
            filled: frames,
            sent: 0,
            published: 0,
            completed: 0,
            free: (first..2 * first).map(|chunk| chunk * CHUNK as u64).collect(),
            chunks: frames as usize,
            mac: link.mac.unwrap_or(MacAddress([0; 6])),
            partial: link.kind.is_some(),
            zero_copy,
            dropped: 0,
            withdrawn: 0,
            told: 0,
            told_unreceived: Unreceived::default(),
            state: Arc::clone(state),
            memory,
            _program: Arc::clone(program),
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> XdpStats {
        let mut stats = XdpStats {
            dropped: self.dropped,
            withdrawn: self.withdrawn,
            zero_copy: self.zero_copy,
            ..XdpStats::default()
        };
        // It cannot fail on such a socket. Kernels before 5.9 have fewer of them, and count all in the first.
        if let Ok(counted) = sockopt::xdp_statistics(self.socket.get()) {
            stats.ring_full = counted.rx_ring_full.unwrap_or(0);
            stats.no_chunk = counted.rx_fill_ring_empty_descs.unwrap_or(0);
            stats.invalid = counted.rx_invalid_descs + counted.tx_invalid_descs;
            // A frame without a chunk is in the first as well (`__xsk_rcv`).
            stats.missed = counted.rx_dropped + stats.ring_full;
        }
        stats
    }

    /// Chunks that were sent are free again.
    fn reclaim(&mut self) {
        let produced = self.completion.produced();
        if self.completed == produced {
            return;
        }
        while self.completed != produced && self.free.len() < self.chunks {
            let address = u64::from_ne_bytes(self.completion.read(self.completed));
            self.free.push(address - address % CHUNK as u64);
            self.completed = self.completed.wrapping_add(1);
        }
        self.completion.consume(self.completed);
    }

    /// Has the kernel send what is in the ring.
    fn push(&mut self) {
        if self.published != self.sent {
            self.published = self.sent;
            self.send.produce(self.sent);
        }
        // That an interface was down is told once, even if it is up again.
        let mut old = true;
        while !self.state.is_gone() {
            let before = self.send.consumed();
            if before == self.published || self.zero_copy && !self.send.needs_wakeup() {
                return;
            }
            // It takes a batch at a time.
            match send(self.socket.get(), &[], SendFlags::DONTWAIT) {
                // Drivers (mlx5 before Linux 5.19, i40e) say the same while they set up their queues anew. Who is gone is told of
                // by netlink, too.
                Err(Errno::NXIO | Errno::NODEV) if !self.zero_copy => self.state.set_gone(),
                Err(Errno::NETDOWN) if std::mem::take(&mut old) => {}
                Err(Errno::INTR) => {}
                // `xsk_generic_xmit`: a frame was completed that the interface did not take (`NET_XMIT_DROP`); it looked at no
                // other. The ring has fewer each time, even if that is shown later.
                Err(Errno::BUSY) if !self.zero_copy => self.withdrawn += 1,
                _ if self.zero_copy || self.send.consumed() == before => return,
                _ => {}
            }
        }
    }

    /// Gives a chunk to the driver again.
    #[inline]
    fn give_back(&mut self, address: u64) {
        // The ring has room for all of them.
        self.fill.write(self.filled, (address - address % CHUNK as u64).to_ne_bytes());
        self.filled = self.filled.wrapping_add(1);
    }

    /// Copies a frame to the sink.
    #[inline]
    fn take<S: FrameSink>(&mut self, descriptor: Descriptor, sink: &mut S) -> Taken {
        let (Ok(len), Ok(at)) = (usize::try_from(descriptor.len), usize::try_from(descriptor.address)) else {
            return Taken::Dropped;
        };
        if !self.state.is_promiscuous() && !self.is_ours(at) {
            return Taken::NotOurs;
        }
        if len > sink.max_frame() {
            return Taken::Dropped;
        }
        let Some(frame) = sink.buffer(len) else { return Taken::NoRoom };
        if self.memory.read(at, frame).is_err() {
            return Taken::Dropped;
        }
        let transport = if self.partial && complete(frame) { Verdict::Good } else { Verdict::Unknown };
        let checksum = RxChecksum { transport, ..RxChecksum::default() };
        sink.commit(len, RxMeta { checksum, ..RxMeta::default() });
        Taken::Frame
    }

    /// Whether a frame is addressed to the interface, or to many. Hardware filters others, virtual interfaces do not.
    #[inline]
    fn is_ours(&self, at: usize) -> bool {
        let mut address = [0; 6];
        // One that is not inside of the memory is dropped later.
        let _ = self.memory.read(at, &mut address);
        address[0] & 1 != 0 || address == self.mac.0
    }
}

enum Taken {
    Frame,
    NotOurs,
    Dropped,
    /// The sink is full.
    NoRoom,
}

fn map<const N: usize>(
    socket: BorrowedFd<'_>,
    offsets: &XdpRingOffset,
    page: u64,
    entries: u32,
) -> Result<Ring<N>, SocketError> {
    let bytes = Ring::<N>::bytes(offsets, entries).unwrap_or(0);
    let memory =
        HeapMemory::map_shared(socket, page, bytes).map_err(SocketError::when("map a ring of an AF_XDP socket"))?;
    let unusable = || SocketError::new("use a ring of an AF_XDP socket", io::ErrorKind::Unsupported);
    Ring::new(memory, offsets, entries).ok_or_else(unusable)
}

/// Computes a checksum that was left to be computed: the field has the sum of the pseudo header. Whether there was one.
fn complete(frame: &mut [u8]) -> bool {
    let Some(headers) = Headers::parse(frame).filter(|headers| headers.has_length() && !headers.is_fragment()) else {
        return false;
    };
    let offset = match headers.transport_protocol() {
        Some(Transport::Tcp) => 16,
        Some(Transport::Udp) => 6,
        _ => return false,
    };
    let Some(len) = headers.end().checked_sub(headers.transport()) else { return false };
    let field =
        frame.get(headers.transport() + offset..).and_then(<[u8]>::first_chunk).copied().map(u16::from_be_bytes);
    if field != Some(checksum::pseudo_header(frame, &headers, len).value())
        || checksum::verify_transport(frame, &headers) != Verdict::Bad
    {
        return false;
    }
    checksum::request(frame, &headers).is_some_and(|request| checksum::fill_parsed(frame, &headers, request).is_ok())
}

impl AsFd for XdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get().as_fd()
    }
}

impl VfQueue for XdpQueue {
    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        if !self.state.is_up() {
            return Err(VfSendError::NotReady);
        }
        let limit = self.state.longest_frame().min(CHUNK);
        let too_long = VfSendError::TooLong { len: frame.len(), limit };
        let len = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= limit).ok_or(too_long)?;
        if self.free.is_empty() {
            self.reclaim();
        }
        let address = *self.free.last().ok_or(VfSendError::Full)?;
        self.memory.write(address as usize, frame).map_err(|_| too_long)?;
        self.free.pop();
        // There are as many chunks as the ring has places.
        self.send.write(self.sent, Descriptor { address, len }.to_bytes());
        self.sent = self.sent.wrapping_add(1);
        Ok(())
    }

    fn room(&mut self) -> usize {
        if !self.state.is_up() {
            return 0;
        }
        self.reclaim();
        self.free.len()
    }

    fn flush(&mut self) {
        self.push();
        // What has left already is used next, before all chunks have been: they are more than a cache holds.
        self.reclaim();
    }

    fn outstanding(&mut self) -> usize {
        self.push();
        self.reclaim();
        self.chunks - self.free.len()
    }

    fn take_lost(&mut self) -> u64 {
        self.withdrawn - std::mem::replace(&mut self.told, self.withdrawn)
    }

    fn take_unreceived(&mut self) -> Unreceived {
        let XdpStats { missed, dropped, .. } = self.stats();
        news(&mut self.told_unreceived, Unreceived { missed, dropped })
    }

    #[inline]
    fn has_received(&mut self) -> bool {
        self.receive.produced() != self.received
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let produced = self.receive.produced();
        let before = self.received;
        let mut got = 0;
        // The driver has written them on another processor, perhaps.
        let mut ahead = self.received;
        while got < max && self.received != produced {
            while ahead != produced && ahead.wrapping_sub(self.received) <= AHEAD {
                self.memory.prefetch(Descriptor::from_bytes(self.receive.read(ahead)).start(), HEADERS);
                ahead = ahead.wrapping_add(1);
            }
            let descriptor = Descriptor::from_bytes(self.receive.read(self.received));
            match self.take(descriptor, sink) {
                Taken::Frame => got += 1,
                Taken::NotOurs => {}
                Taken::Dropped => self.dropped += 1,
                Taken::NoRoom => break,
            }
            self.give_back(descriptor.address);
            self.received = self.received.wrapping_add(1);
        }
        self.receive.consume(self.received);
        self.fill.produce(self.filled);
        if self.received != before {
            self.socket.received();
            // Also if none of them was of use: a driver that has run out of chunks receives nothing before it is woken.
            if self.fill.needs_wakeup() {
                // It only has to be told; there is nothing to be received by this call.
                let _ = recv(self.socket.get(), &mut [0u8; 0], RecvFlags::DONTWAIT);
            }
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        self.chunks
    }
}

impl Polled for XdpQueue {
    fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn is_gone(&self) -> bool {
        self.state.is_gone()
    }
}

impl AsyncVfQueue for XdpQueue {
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_received(self, cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<()> {
        poll_sent(self, cx, at_most)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let XdpStats { missed, ring_full, no_chunk, invalid, dropped, withdrawn, zero_copy } = self.stats();
        vec![
            ("rx_missed", missed),
            ("rx_ring_full", ring_full),
            ("rx_fill_ring_empty", no_chunk),
            ("invalid_descriptors", invalid),
            ("rx_dropped", dropped),
            ("tx_withdrawn", withdrawn),
            ("zero_copy", zero_copy.into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use netvsc::checksum::{seed, verify};

    use super::*;
    use crate::vf::sockets::samples::udp;

    #[test]
    fn a_checksum_that_was_left_open_is_computed_and_no_other() {
        let whole = udp();
        let headers = Headers::parse(&whole).unwrap();
        let mut open = whole.clone();
        seed(&mut open, &headers, Some(39)).unwrap();
        assert_eq!(verify(&open).transport, Verdict::Bad);
        assert!(complete(&mut open));
        assert_eq!(open, whole);

        let mut same = whole.clone();
        assert!(!complete(&mut same));
        assert_eq!(same, whole);
        let mut wrong = whole.clone();
        wrong[50] ^= 1;
        let before = wrong.clone();
        assert!(!complete(&mut wrong));
        assert_eq!(wrong, before, "what is wrong stays wrong");
        for len in 0..whole.len() {
            assert!(!complete(&mut whole[..len].to_vec()), "{len}");
        }
    }
}
