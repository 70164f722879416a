//! The adapter under smoltcp, a TCP/IP stack: a [`phy::Device`](Device) over a queue.
//!
//! ```text
//! loop {
//!     device.ready(interface.poll_delay(now, &sockets)).await?;   // frames, or the stack's timer
//!     interface.poll(now, &mut device, &mut sockets);             // receives, sends
//!     device.flush()?;                                            // one doorbell
//! }
//! ```

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use ::smoltcp::time::Instant;
use futures::Sink;
use netvsc::checksum;
use netvsc::frame::Headers;
use vmbus::bus::Channel;

use crate::error::Error;
use crate::packet::{Packet, PacketPool};
use crate::queue::{PacketSink, PacketStream, Queue};

/// Bytes of an Ethernet header, which smoltcp's MTU counts.
const ETHERNET_HEADER: usize = 14;

/// A queue as a smoltcp device.
///
/// It receives in batches and lends the frames to the stack one by one. Sent frames are aggregated; the host is told by
/// [`flush`](Self::flush). When the queue has no room the stack is told so, and keeps what it would send.
#[derive(Debug)]
pub struct NetvscDevice<C: Channel> {
    stream: PacketStream<C>,
    sink: PacketSink<C>,
    pool: PacketPool,
    mtu: usize,
    dropped: u64,
    /// What a call that cannot fail ran into; the next one that can reports it.
    error: Option<Error>,
}

impl<C: Channel> NetvscDevice<C> {
    /// The device over `queue`; `mtu` is the adapter's ([`DeviceInfo::mtu`](crate::DeviceInfo)), without Ethernet header.
    pub fn new(queue: Queue<C>, mtu: u32) -> Self {
        let pool = queue.pool();
        let (stream, sink) = queue.into_split();
        Self { stream, sink, pool, mtu: mtu as usize, dropped: 0, error: None }
    }

    /// Waits until there are frames for the stack and room to answer them, or there is room again after there was none, or
    /// `timeout` is over (`None`: for ever).
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Queue`]: the queue has ended.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn ready(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let ready = poll_fn(|cx| self.poll_ready(cx));
        match timeout {
            None => ready.await,
            Some(timeout) => tokio::time::timeout(timeout, ready).await.unwrap_or(Ok(())),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        if !self.sink.is_empty() {
            // What the last flush had no room for goes as soon as there is some. As long as nothing more can be taken, the
            // stack can do nothing with frames either: it takes one only together with room for an answer.
            let was_full = self.sink.is_full();
            let flushed = match Pin::new(&mut self.sink).poll_flush(cx) {
                Poll::Ready(Err(Error::Send(_))) => {
                    self.dropped += 1;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                flushed => flushed?,
            };
            if was_full {
                return flushed.map(Ok);
            }
        }
        match self.stream.poll_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(true)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(false)) => Poll::Ready(Err(Error::Closed)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Hands what the stack sent to the host, and tells it once. To be called after each `Interface::poll`. What finds no
    /// room now goes at the next call, or while [`ready`](Self::ready) waits.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Queue`]: the queue has ended.
    pub fn flush(&mut self) -> Result<(), Error> {
        loop {
            match self.sink.try_flush() {
                Err(Error::Send(_)) => self.dropped += 1,
                result => return result,
            }
        }
    }

    /// Frames of the stack's that could not be sent at all: too long or too short.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn has_room(&mut self) -> bool {
        loop {
            match self.sink.try_ready() {
                Ok(room) => return room,
                Err(Error::Send(_)) => self.dropped += 1,
                Err(error) => {
                    self.error = Some(error);
                    return false;
                }
            }
        }
    }
}

impl<C: Channel> Device for NetvscDevice<C> {
    type RxToken<'a> = NetvscRx;
    type TxToken<'a> = NetvscTx<'a, C>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(NetvscRx, NetvscTx<'_, C>)> {
        // A frame is only taken if it can be answered: smoltcp wants both.
        if !self.has_room() {
            return None;
        }
        match self.stream.try_next() {
            Ok(Some(mut packet)) => {
                complete(&mut packet);
                Some((NetvscRx(packet), NetvscTx(self)))
            }
            Ok(None) => None,
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<NetvscTx<'_, C>> {
        self.has_room().then_some(NetvscTx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER;
        capabilities
    }
}

/// The stack verifies what it is given, but the checksum in a frame that was merged is that of no frame: it is computed.
fn complete(packet: &mut Packet) {
    if !packet.meta().checksum.transport_stale {
        return;
    }
    let request = Headers::parse(packet.bytes()).and_then(|headers| checksum::request(packet.bytes(), &headers));
    if let Some(request) = request {
        // What cannot be computed the stack drops.
        let _ = checksum::fill(packet.bytes_mut(), request);
    }
}

/// A received frame.
#[derive(Debug)]
pub struct NetvscRx(Packet);

impl RxToken for NetvscRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.bytes())
    }
}

/// Room for a frame to send.
#[derive(Debug)]
pub struct NetvscTx<'a, C: Channel>(&'a mut NetvscDevice<C>);

impl<C: Channel> TxToken for NetvscTx<'_, C> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = self.0.pool.blank(len);
        let result = f(packet.bytes_mut());
        match self.0.sink.try_send(packet) {
            Ok(None) => {}
            Ok(Some(_)) => self.0.dropped += 1,
            Err(error) => self.0.error = Some(error),
        }
        result
    }
}
