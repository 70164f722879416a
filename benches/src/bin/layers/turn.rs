//! The loops. A turn moves at most a burst's worth of frames and never waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::{SinkExt, StreamExt};
use netvsc_async::smoltcp::NetvscDevice;
use netvsc_async::{DeviceInfo, Error, PacketSink, PacketStream, Queue};
use netvsc_benches::compare::Mode;
use netvsc_benches::frames::frame;
use serde_json::{Value, json};
use smoltcp::phy::{Device, RxToken, TxToken};
use vmbus::uio::UioChannel;

use crate::Layer;

/// Frames to a turn, as many as to a burst of the other clients.
const BURST: usize = 32;
/// Turns before the other tasks of the runtime get theirs.
const TURNS: usize = 64;

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    packets: u64,
    /// Of the time stamp counter, in turns that moved packets.
    cycles: u64,
}

impl Counters {
    /// With the names that l2fwd has for them.
    pub(crate) fn json(&self) -> Value {
        let cycles = (self.packets > 0).then(|| self.cycles as f64 / self.packets as f64);
        json!({ "packets": self.packets, "cycles_per_packet": cycles })
    }
}

/// Moves frames until `stop`.
pub(crate) async fn run(
    queue: Queue<UioChannel>,
    info: &DeviceInfo,
    layer: Layer,
    mode: Mode,
    len: usize,
    stop: &AtomicBool,
) -> Result<Counters, Error> {
    match layer {
        Layer::Packets => {
            let mut frame = frame(len);
            // Of a type for local experiments: the host checks the checksums of IP.
            frame[12..14].copy_from_slice(&[0x88, 0xB5]);
            let (mut stream, mut sink) = queue.into_split();
            match mode {
                Mode::Rxonly => turns(stop, |cx| receive(&mut stream, cx)).await,
                Mode::Txonly => turns(stop, |cx| send(&mut sink, &frame, cx)).await,
                Mode::Io => turns(stop, |cx| forward(&mut stream, &mut sink, cx)).await,
            }
        }
        Layer::Smoltcp => {
            let mut device = NetvscDevice::new(queue, info.mtu);
            // The device does not look at the time; its interface would.
            turns(stop, |cx| through_device(&mut device, smoltcp::time::Instant::ZERO, cx)).await
        }
    }
}

/// Takes turns until `stop`, and counts.
async fn turns(
    stop: &AtomicBool,
    mut turn: impl FnMut(&mut Context<'_>) -> Result<u64, Error>,
) -> Result<Counters, Error> {
    let clock = quanta::Clock::new();
    let mut counters = Counters::default();
    poll_fn(|cx| {
        if stop.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(counters));
        }
        for _ in 0..TURNS {
            let start = clock.raw();
            let moved = turn(cx)?;
            if moved == 0 {
                break;
            }
            counters.packets += moved;
            counters.cycles += clock.raw().wrapping_sub(start);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

fn receive(stream: &mut PacketStream<UioChannel>, cx: &mut Context<'_>) -> Result<u64, Error> {
    let mut moved = 0;
    while moved < BURST {
        match stream.poll_next_unpin(cx) {
            Poll::Ready(Some(packet)) => {
                std::hint::black_box(packet?.bytes());
                moved += 1;
            }
            Poll::Ready(None) => return Err(Error::Closed),
            Poll::Pending => break,
        }
    }
    Ok(moved as u64)
}

fn send(sink: &mut PacketSink<UioChannel>, frame: &[u8], cx: &mut Context<'_>) -> Result<u64, Error> {
    let mut moved = 0;
    while moved < BURST && sink.poll_ready_unpin(cx)?.is_ready() {
        sink.start_send_unpin(sink.packet(frame))?;
        moved += 1;
    }
    if moved > 0 {
        // What there is no room for stays in the sink.
        let _ = sink.poll_flush_unpin(cx)?;
    }
    Ok(moved as u64)
}

fn forward(
    stream: &mut PacketStream<UioChannel>,
    sink: &mut PacketSink<UioChannel>,
    cx: &mut Context<'_>,
) -> Result<u64, Error> {
    let mut moved = 0;
    while moved < BURST && sink.poll_ready_unpin(cx)?.is_ready() {
        match stream.poll_next_unpin(cx) {
            Poll::Ready(Some(packet)) => {
                sink.start_send_unpin(packet?)?;
                moved += 1;
            }
            Poll::Ready(None) => return Err(Error::Closed),
            Poll::Pending => break,
        }
    }
    if moved > 0 {
        let _ = sink.poll_flush_unpin(cx)?;
    }
    Ok(moved as u64)
}

/// What smoltcp's interface does with its device, but for looking at the frames: each is sent back.
fn through_device(
    device: &mut NetvscDevice<UioChannel>,
    now: smoltcp::time::Instant,
    cx: &mut Context<'_>,
) -> Result<u64, Error> {
    if pin!(device.ready(None)).poll(cx)?.is_pending() {
        return Ok(0);
    }
    let mut moved = 0;
    while moved < BURST {
        let Some((received, answer)) = device.receive(now) else { break };
        received.consume(|frame| answer.consume(frame.len(), |buffer| buffer.copy_from_slice(frame)));
        moved += 1;
    }
    device.flush()?;
    Ok(moved as u64)
}
