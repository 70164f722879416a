//! Ports: anything that packets come out of and go into, behind one object-safe trait.
//!
//! An appliance that is written against `dyn PacketPort` runs on a NIC's queue, on the far end of a simulated switch, and
//! on whatever its user plugs in. One call moves a batch, so what dynamic dispatch and `async-trait` cost (an indirect
//! call and an allocation) is paid a batch, not a packet. On a data path of your own use [`Queue`]'s bursts.
//!
//! ```
//! # #[cfg(not(feature = "host"))] fn main() {}
//! # #[cfg(feature = "host")] fn main() {
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! use netvsc_async::{Error, PacketPort};
//!
//! /// Forwards whatever comes from one port to another.
//! async fn wire(from: &mut dyn PacketPort, to: &mut dyn PacketPort) -> Result<(), Error> {
//!     let mut packets = Vec::new();
//!     while from.receive(&mut packets, 64).await? > 0 {
//!         to.send(&mut packets).await?;
//!     }
//!     Ok(())
//! }
//! # let mut pair = netvsc_async::testing::pair().await?;
//! # let mut frame = vec![0xFF; 60];
//! # frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
//! # let mut packets = vec![frame.clone().into()];
//! # PacketPort::send(&mut pair.far, &mut packets).await?;
//! # let mut other = pair.host.memory_pair();
//! # tokio::select! {
//! #     end = wire(&mut pair.far, &mut other) => end?,
//! #     received = pair.queue.rx.recv_burst() => assert_eq!(received?.unwrap().get(0).unwrap().bytes, frame),
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap(); }
//! ```

use std::future::poll_fn;
#[cfg(feature = "host")]
use std::task::Poll;

use async_trait::async_trait;
use vmbus::bus::Channel;

use crate::error::Error;
use crate::packet::{Packet, PacketQueue};
use crate::queue::Queue;

/// Something that packets come out of and go into.
///
/// # For those who implement it
/// Frames are Ethernet frames without FCS. `receive` must be cancel safe; `send` takes packets from the front of the
/// list as it sends them, so that what is left in the list after an error or a cancellation was not sent.
#[async_trait]
pub trait PacketPort: Send {
    /// Waits for packets and appends at most `max` of them (at least one) to `into`; how many. 0: the port has ended.
    ///
    /// # Errors
    /// When the port failed.
    ///
    /// # Cancel safety
    /// Yes.
    async fn receive(&mut self, into: &mut Vec<Packet>, max: usize) -> Result<usize, Error>;

    /// Sends all packets of the list, in order, and waits for room where there is none.
    ///
    /// # Errors
    /// When a packet cannot be sent, or the port has ended. Packets before it were sent and are gone from the list.
    ///
    /// # Cancel safety
    /// Packets that were sent are gone from the list, the others are still in it.
    async fn send(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error>;
}

/// Takes the first `sent` packets away when it is dropped: also when its future is.
struct Sending<'a> {
    packets: &'a mut Vec<Packet>,
    sent: usize,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.packets.drain(..self.sent);
    }
}

#[async_trait]
impl<C: Channel> PacketPort for Queue<C> {
    async fn receive(&mut self, into: &mut Vec<Packet>, max: usize) -> Result<usize, Error> {
        let max = max.max(1);
        let mut batch = PacketQueue::new(self.rx.pool.clone(), max);
        poll_fn(|cx| self.rx.poll_packets(cx, &mut batch, max)).await?;
        let before = into.len();
        into.extend(std::iter::from_fn(|| batch.pop()).take(max));
        self.rx.put_back(batch);
        Ok(into.len() - before)
    }

    async fn send(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        let mut sending = Sending { packets, sent: 0 };
        while let Some(packet) = sending.packets.get(sending.sent) {
            let sent = poll_fn(|cx| self.tx.shared.poll_send(cx, packet.bytes(), packet.tx_meta())).await;
            // One that cannot be sent goes, too: it would fail again.
            sending.sent += usize::from(!matches!(sent, Err(Error::Closed | Error::Gone | Error::Queue(_))));
            sent?;
        }
        self.tx.flush()
    }
}

#[cfg(feature = "host")]
#[async_trait]
impl PacketPort for netvsc_host::port::MemoryPort {
    async fn receive(&mut self, into: &mut Vec<Packet>, max: usize) -> Result<usize, Error> {
        let (max, mut received) = (max.max(1), 0);
        poll_fn(|cx| {
            while received < max {
                match self.poll_recv(cx) {
                    Poll::Ready(Some(frame)) => {
                        into.push(Packet::from(&frame[..]));
                        received += 1;
                    }
                    Poll::Ready(None) => break,
                    Poll::Pending if received > 0 => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
        Ok(received)
    }

    async fn send(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        let mut sending = Sending { packets, sent: 0 };
        while let Some(packet) = sending.packets.get(sending.sent) {
            self.send_when_ready(packet.bytes()).await.map_err(|_| Error::Closed)?;
            sending.sent += 1;
        }
        Ok(())
    }
}
