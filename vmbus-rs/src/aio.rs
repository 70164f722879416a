//! A channel as async streams: a `Stream` of the packets that come and a `Sink` for those that go.
//!
//! This is the general form, one owned packet at a time: for device drivers that talk little, for tests and for tools.
//! (The NIC's data path works on bursts in place; see the `netvsc` crate.)
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # let (here, there) = vmbus::aio::testing::channel_pair();
//! use futures::{SinkExt, StreamExt};
//! use vmbus::aio::{ChannelStream, Packet};
//!
//! let mut guest = ChannelStream::new(here)?;
//! let mut host = ChannelStream::new(there)?;
//! guest.send(Packet::request(7, b"version?")).await?;
//! let request = host.next().await.expect("open")?;
//! host.send(Packet::completion(request.transaction_id, b"6.1     ")).await?;
//! assert_eq!(guest.next().await.expect("open")?.payload, b"6.1     ");
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use futures::{Sink, Stream};

use crate::bus::{Channel, ChannelInfo, Doorbell, Interrupt};
use crate::error::{Error as _, ErrorKind};
use crate::memory::SharedMemory;
use crate::packet::{MAX_PACKET_BYTES, PacketType, TransactionId};
use crate::ring::{BadRing, Consumer, MappedRing, Outgoing, Producer, RingError, Signal, WriteError};

/// Room of the ring that may be held back before it is given back to the other side, as a fraction of the ring.
const COMMIT_FRACTION: u32 = 4;
/// Looks at a channel whose interrupt fires again and again without cause, before other tasks get their turn.
const LOOKS: usize = 8;

/// A packet, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packet {
    /// Type.
    pub packet_type: PacketType,
    /// Whether the sender wants a completion.
    pub completion_requested: bool,
    /// Echoed in the completion.
    pub transaction_id: TransactionId,
    /// Bytes between descriptor and payload: ranges, for the types that have them. A multiple of 8.
    pub header: Vec<u8>,
    /// Payload. A received one has been padded to a multiple of 8 bytes.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Data in the ring, with a completion wanted.
    pub fn request(transaction_id: u64, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            packet_type: PacketType::IN_BAND,
            completion_requested: true,
            transaction_id: TransactionId(transaction_id),
            header: Vec::new(),
            payload: payload.into(),
        }
    }

    /// Data in the ring, without a completion.
    pub fn notice(payload: impl Into<Vec<u8>>) -> Self {
        Self { completion_requested: false, ..Self::request(0, payload) }
    }

    /// The completion of the other side's packet.
    pub fn completion(transaction_id: TransactionId, payload: impl Into<Vec<u8>>) -> Self {
        Self { packet_type: PacketType::COMPLETION, transaction_id, ..Self::notice(payload) }
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            packet_type: self.packet_type,
            completion_requested: self.completion_requested,
            transaction_id: self.transaction_id,
            header: &self.header,
            payload: &self.payload,
        }
    }
}

/// Why a channel's streams ended, or a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelError {
    /// The other side broke the incoming ring.
    Ring(RingError),
    /// The packet cannot be written, or the other side broke the outgoing ring.
    Write(WriteError),
    /// The backend failed, or the channel is gone.
    Backend(ErrorKind),
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
            Self::Backend(kind) => write!(f, "channel failed ({kind:?})"),
        }
    }
}

impl std::error::Error for ChannelError {}

impl crate::error::Error for ChannelError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ring(error) => error.kind(),
            Self::Write(error) => error.kind(),
            Self::Backend(kind) => *kind,
        }
    }
}

impl From<RingError> for ChannelError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<WriteError> for ChannelError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// The interrupt has one waiter and the channel two users, who may be two tasks: it wakes both.
#[derive(Debug, Default)]
struct Both {
    receiver: AtomicWaker,
    sender: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.receiver.wake();
        self.sender.wake();
    }
}

/// An open channel as a `Stream` of packets and a `Sink` for them.
///
/// The sink's items are in the ring once flushed, and the other side was signalled; completions are packets like any
/// other and come out of the stream. `split` of `futures::StreamExt` makes two halves for two tasks.
#[pin_project::pin_project]
#[derive(Debug)]
pub struct ChannelStream<C: Channel> {
    info: ChannelInfo,
    producer: Producer<MappedRing<C::Memory>>,
    consumer: Consumer<MappedRing<C::Memory>>,
    doorbell: C::Doorbell,
    interrupt: C::Interrupt,
    body: Vec<u8>,
    /// Accepted by the sink, and there was no room for it yet.
    waiting: Option<Packet>,
    both: Arc<Both>,
    ended: bool,
}

impl<C: Channel> ChannelStream<C> {
    /// The streams of a channel that was just opened.
    ///
    /// # Errors
    /// [`BadRing`].
    pub fn new(channel: C) -> Result<Self, BadRing> {
        let parts = channel.into_parts();
        let incoming = MappedRing::new(parts.incoming, parts.ring_header_bytes)?;
        let longest = MAX_PACKET_BYTES.min(incoming.memory().len());
        Ok(Self {
            info: parts.info,
            producer: Producer::new(MappedRing::new(parts.outgoing, parts.ring_header_bytes)?),
            consumer: Consumer::new(incoming),
            doorbell: parts.doorbell,
            interrupt: parts.interrupt,
            body: vec![0; longest],
            waiting: None,
            both: Arc::default(),
            ended: false,
        })
    }

    /// Who the channel is.
    pub fn info(&self) -> &ChannelInfo {
        &self.info
    }
}

fn ring_doorbell<D: Doorbell>(doorbell: &D, signal: Signal) -> Result<(), ChannelError> {
    if signal.is_needed() {
        doorbell.signal().map_err(|error| ChannelError::Backend(error.kind()))?;
    }
    Ok(())
}

/// Ready if the interrupt fired. `own` has been registered in `both`.
fn poll_interrupt<I: Interrupt>(interrupt: &mut I, both: &Arc<Both>) -> Poll<Result<(), ChannelError>> {
    let waker = Waker::from(Arc::clone(both));
    let polled = interrupt.poll_latched(&mut Context::from_waker(&waker));
    if polled.is_ready() {
        // It was reset just now: the other user must look, too.
        waker.wake();
    }
    polled.map_err(|error| ChannelError::Backend(error.kind()))
}

impl<C: Channel> Stream for ChannelStream<C> {
    type Item = Result<Packet, ChannelError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let polled = (|| {
            this.both.receiver.register(cx.waker());
            for _ in 0..LOOKS {
                if let Some(taken) = this.consumer.take(this.body)? {
                    let (header, payload) = taken.split(this.body);
                    let packet = Packet {
                        packet_type: taken.descriptor.packet_type,
                        completion_requested: taken.descriptor.wants_completion(),
                        transaction_id: taken.descriptor.transaction_id,
                        header: header.to_vec(),
                        payload: payload.to_vec(),
                    };
                    if this.consumer.uncommitted_bytes() > this.consumer.data_bytes() / COMMIT_FRACTION {
                        ring_doorbell(this.doorbell, this.consumer.commit()?)?;
                    }
                    return Poll::Ready(Ok(packet));
                }
                ring_doorbell(this.doorbell, this.consumer.commit()?)?;
                let found = this.interrupt.can_unmask() && this.consumer.unmask()?;
                if !found && poll_interrupt(&mut *this.interrupt, this.both)?.is_pending() {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })();
        *this.ended = matches!(polled, Poll::Ready(Err(_)));
        polled.map(Some)
    }
}

impl<C: Channel> Sink<Packet> for ChannelStream<C> {
    type Error = ChannelError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        let this = self.project();
        this.both.sender.register(cx.waker());
        for _ in 0..LOOKS {
            let Some(packet) = this.waiting.as_ref() else { return Poll::Ready(Ok(())) };
            match this.producer.write(&packet.outgoing()) {
                Ok(()) => {
                    this.producer.stop_waiting();
                    *this.waiting = None;
                    return Poll::Ready(Ok(()));
                }
                Err(WriteError::Full { needed, .. }) => {
                    // What is not published is never taken out, and makes no room.
                    ring_doorbell(this.doorbell, this.producer.publish()?)?;
                    if !this.producer.wait_for_space(needed)?
                        && poll_interrupt(&mut *this.interrupt, this.both)?.is_pending()
                    {
                        return Poll::Pending;
                    }
                }
                Err(error) => {
                    *this.waiting = None;
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn start_send(self: Pin<&mut Self>, packet: Packet) -> Result<(), ChannelError> {
        let this = self.project();
        match this.producer.write(&packet.outgoing()) {
            Ok(()) => Ok(()),
            Err(WriteError::Full { .. }) => {
                *this.waiting = Some(packet);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        std::task::ready!(self.as_mut().poll_ready(cx))?;
        let this = self.project();
        Poll::Ready(ring_doorbell(this.doorbell, this.producer.publish()?))
    }

    /// Flushes. The channel stays open: closing it is the bus's business.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.poll_flush(cx)
    }
}

/// Channels without a bus, for tests of what stands on them.
pub mod testing {
    use crate::bus::{ChannelInfo, RelId};
    use crate::guid::Guid;
    use crate::mem::{Latch, MemChannel};
    use crate::memory::HeapMemory;

    /// Both ends of a channel in one process, with rings of 64 KiB.
    pub fn channel_pair() -> (MemChannel, MemChannel) {
        channel_pair_with(64 * 1024)
    }

    /// Both ends of a channel in one process, with rings of `ring_bytes`: at least two pages.
    pub fn channel_pair_with(ring_bytes: usize) -> (MemChannel, MemChannel) {
        let info = ChannelInfo::new(RelId(1), Guid::NIC, Guid::ZERO, 0);
        let (first, second) = (HeapMemory::zeroed(ring_bytes), HeapMemory::zeroed(ring_bytes));
        let (to_first, to_second) = (Latch::new(), Latch::new());
        (
            MemChannel::new(info, first.clone(), second.clone(), to_second.clone(), to_first.clone()),
            MemChannel::new(info, second, first, to_first, to_second),
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};

    use super::testing::channel_pair_with;
    use super::*;

    #[tokio::test]
    async fn two_tasks_exchange_more_than_the_rings_hold() {
        const PACKETS: u64 = 5_000;
        let (guest, host) = channel_pair_with(8192);
        let guest = ChannelStream::new(guest).unwrap();
        let mut host = ChannelStream::new(host).unwrap();
        let (mut sink, mut stream) = guest.split();
        let echo = tokio::spawn(async move {
            while let Some(packet) = host.next().await {
                let packet = packet.unwrap();
                assert!(packet.completion_requested);
                let last = packet.transaction_id.0 == PACKETS;
                host.send(Packet::completion(packet.transaction_id, packet.payload)).await.unwrap();
                if last {
                    break;
                }
            }
        });
        let send = tokio::spawn(async move {
            for id in 1..=PACKETS {
                let payload = vec![id as u8; (id % 900) as usize];
                sink.feed(Packet::request(id, payload)).await.unwrap();
                if id % 7 == 0 {
                    sink.flush().await.unwrap();
                }
            }
            sink.flush().await.unwrap();
        });
        for id in 1..=PACKETS {
            let packet = stream.next().await.unwrap().unwrap();
            assert_eq!(packet.packet_type, PacketType::COMPLETION);
            assert_eq!(packet.transaction_id.0, id);
            let len = (id % 900) as usize;
            assert_eq!(packet.payload.len(), len.next_multiple_of(8));
            assert!(packet.payload[..len].iter().all(|&byte| byte == id as u8));
        }
        send.await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_packet_that_can_never_fit_is_refused_and_the_channel_lives() {
        let (guest, host) = channel_pair_with(8192);
        let mut guest = ChannelStream::new(guest).unwrap();
        let mut host = ChannelStream::new(host).unwrap();
        let error = guest.send(Packet::notice(vec![0; 5000])).await.unwrap_err();
        assert_eq!(error, ChannelError::Write(WriteError::TooLong { needed: 5024, limit: 4080 }));
        guest.send(Packet::notice(*b"12345678")).await.unwrap();
        assert_eq!(host.next().await.unwrap().unwrap().payload, b"12345678");
    }

    #[tokio::test]
    async fn a_corrupt_ring_ends_the_stream_with_an_error() {
        use crate::memory::SharedMemoryExt;
        let (guest, host) = channel_pair_with(8192);
        let incoming = host.into_parts().outgoing;
        incoming.write(0, &12345u32.to_le_bytes()).unwrap();
        let mut guest = ChannelStream::new(guest).unwrap();
        let error = guest.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostViolation);
        assert!(guest.next().await.is_none());
    }
}
