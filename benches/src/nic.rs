//! An open adapter with a queue as `Stream` and `Sink`, on a simulated host that works only when it is told to.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use netvsc_async::{Nic, NicBuilder, Packet, PacketSink, PacketStream, Queue, RxHalf};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions};
use tokio::runtime::Runtime;
use vmbus::mem::{MemBus, MemChannel};

use crate::frames::frame;
use crate::link::TURN;

const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 0, 0, 9];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An adapter, its host and the far end of the network, on one thread.
#[derive(Debug)]
pub struct Bench {
    runtime: Runtime,
    host: Host,
    far: MemoryPort,
    start: Instant,
    _nic: Nic<MemBus>,
}

/// Opens an adapter.
///
/// # Panics
/// If it does not open.
pub fn open(builder: NicBuilder) -> (Bench, Queue<MemChannel>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let host = Host::builder().build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().mac(MAC)));
    let start = Instant::now();
    let (nic, mut queues) = runtime.block_on(async {
        let mut opening = pin!(builder.open_on(bus));
        std::future::poll_fn(|cx| {
            host.step(start.elapsed());
            match opening.as_mut().poll(cx) {
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                ready => ready,
            }
        })
        .await
        .expect("an adapter on a good host")
    });
    let queue = queues.remove(0);
    (Bench { runtime, host, far, start, _nic: nic }, queue)
}

impl Bench {
    /// Lets the host work until it has nothing to do.
    pub fn step(&self) {
        for _ in 0..4 {
            self.host.step(self.start.elapsed());
        }
    }

    /// Sends [`TURN`] frames of `len` bytes from the far end.
    ///
    /// # Panics
    /// If the network is full.
    pub fn deliver(&self, len: usize) {
        let mut frame = frame(len);
        frame[..6].copy_from_slice(&MAC);
        frame[6..12].copy_from_slice(&FAR);
        for _ in 0..TURN {
            self.far.send(&frame).expect("room");
        }
        self.step();
    }

    /// Takes what arrived at the far end, and lets the host complete it; says how many frames there were.
    pub fn collect(&self) -> usize {
        self.step();
        let frames = std::iter::from_fn(|| self.far.try_recv().ok()).count();
        self.step();
        frames
    }

    /// Runs the runtime until `work` is done.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Receives [`TURN`] frames as bursts.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn receive_bursts(&self, rx: &mut RxHalf<MemChannel>) {
        self.run(async {
            let mut left = TURN;
            while left > 0 {
                let burst = rx.recv_burst().await.expect("a good host").expect("open");
                left -= std::hint::black_box(burst).len();
            }
        });
    }

    /// Receives [`TURN`] packets, one by one, and drops them.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn receive(&self, stream: &mut PacketStream<MemChannel>) {
        self.run(async {
            for _ in 0..TURN {
                let packet = stream.next().await.expect("open").expect("a good host");
                std::hint::black_box(packet.bytes());
            }
        });
    }

    /// Sends [`TURN`] packets, one by one, and flushes.
    ///
    /// # Panics
    /// If the queue fails.
    pub fn send(&self, sink: &mut PacketSink<MemChannel>, packets: &mut Vec<Packet>) {
        self.run(async {
            for packet in packets.drain(..) {
                sink.feed(packet).await.expect("a good host");
            }
            sink.flush().await.expect("a good host");
        });
    }
}

/// A frame of `len` bytes from the adapter to the far end.
pub fn own_frame(len: usize) -> Vec<u8> {
    let mut frame = frame(len);
    frame[..6].copy_from_slice(&FAR);
    frame[6..12].copy_from_slice(&MAC);
    frame
}
