//! An adapter on the simulated host, in one process and in paused time.
#![cfg(feature = "host")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use netvsc::Instant;
use netvsc_async::testing::{self, Pair};
use netvsc_async::{Clock, Error, Event, Nic, NicBuilder, Packet, SpinBudget, TokioClock, TxMeta, WaitMode};
use netvsc_host::Host;
use tokio::time::timeout;

const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame of `len` bytes from the far end to everybody, with a number in it.
fn frame(len: usize, number: u64) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| i as u8 ^ number as u8).collect();
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&FAR);
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

/// The same, from the adapter.
fn own_frame(pair: &Pair, len: usize, number: u64) -> Vec<u8> {
    let mut frame = frame(len, number);
    frame[6..12].copy_from_slice(&pair.nic.info().mac.0);
    frame
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[14..22].try_into().unwrap())
}

async fn pair(builder: NicBuilder) -> Pair {
    testing::pair_with(Host::builder(), builder).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn frames_cross_both_ways_and_nothing_is_left() {
    let mut pair = testing::pair().await.unwrap();
    for len in [22, 60, 64, 256, 1500, 1514] {
        let theirs = frame(len, len as u64);
        pair.far.send(&theirs).unwrap();
        let burst = pair.queue.rx.recv_burst().await.unwrap().expect("open");
        assert_eq!(burst.get(0).unwrap().bytes, theirs);
        let ours = own_frame(&pair, len, len as u64);
        pair.queue.tx.send(&ours).await.unwrap();
        assert_eq!(&pair.far.recv().await.unwrap()[..], &ours[..]);
    }
    let report = pair.close().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn every_wait_mode_wakes_up_after_idling() {
    let budget = SpinBudget { time: Duration::from_micros(50), looks: 10 };
    for mode in [WaitMode::Interrupt, WaitMode::Adaptive(budget)] {
        let mut pair = pair(Nic::builder().wait(mode)).await;
        for number in 0..20 {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            pair.far.send(&frame(60, number)).unwrap();
            let burst = pair.queue.rx.recv_burst().await.unwrap().expect("open");
            assert_eq!(burst.get(0).unwrap().bytes, frame(60, number), "{mode:?}");
        }
        pair.close().await.unwrap();
    }
}

#[tokio::test]
async fn poll_mode_receives_without_interrupts() {
    let mut pair = pair(Nic::builder().wait(WaitMode::Poll)).await;
    for number in 0..20 {
        pair.far.send(&frame(60, number)).unwrap();
        let received = timeout(Duration::from_secs(60), pair.queue.rx.recv_burst()).await.expect("the frame comes");
        let burst = received.unwrap().expect("open");
        assert_eq!(burst.get(0).unwrap().bytes, frame(60, number));
    }
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_forwards_into_a_sink() {
    const FRAMES: u64 = 10_000;
    let Pair { host, far, nic, queue } = testing::pair().await.unwrap();
    let mac = nic.info().mac.0;
    let (stream, sink) = queue.into_split();
    let reflect = tokio::spawn(
        stream
            .map(move |packet: Result<Packet, Error>| {
                packet.map(|mut packet| {
                    packet.bytes_mut()[6..12].copy_from_slice(&mac);
                    packet
                })
            })
            .forward(sink),
    );
    let (mut sent, mut received) = (0, 0);
    while received < FRAMES {
        // No more on the way than anybody has room for: nothing may be lost then.
        while sent < FRAMES && sent < received + 200 {
            far.send(&frame(60 + (sent % 1400) as usize, sent)).unwrap();
            sent += 1;
        }
        let back = far.recv().await.unwrap();
        assert_eq!(number(&back), received, "in order");
        assert_eq!(back.len(), 60 + (received % 1400) as usize);
        received += 1;
    }
    nic.close().await.unwrap();
    // The stream ends with the adapter, and the sink has nothing left.
    reflect.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_sink_pushes_back_and_loses_nothing() {
    const FRAMES: u64 = 5_000;
    // Ten sections, and rings of one page of data.
    let rings = vmbus::bus::RingSizes { outgoing_bytes: 8192, incoming_bytes: 8192 };
    let builder = Nic::builder().tune(|config| config.rings(rings).send_sections(10).direct_bytes(0));
    let pair = pair(builder).await;
    let template = own_frame(&pair, 1000, 0);
    let Pair { host, far, nic, queue } = pair;
    let (_stream, mut sink) = queue.into_split();
    let send = tokio::spawn(async move {
        for number in 0..FRAMES {
            let mut frame = template.clone();
            frame[14..22].copy_from_slice(&number.to_le_bytes());
            sink.feed(frame.into()).await.unwrap();
        }
        sink.close().await.unwrap();
    });
    for expected in 0..FRAMES {
        assert_eq!(number(&far.recv().await.unwrap()), expected);
    }
    // Nobody polls the stream: completions are reclaimed all the same, or this would never end.
    send.await.unwrap();
    let stats = &nic.queue_stats()[0];
    assert_eq!(stats.extra.tx_dropped, 0);
    nic.close().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_has_gathered_goes_without_a_flush() {
    const GATHERED: u64 = 64;
    let pair = pair(Nic::builder()).await;
    let template = own_frame(&pair, 100, 0);
    let Pair { host, far, nic, queue } = pair;
    let (_stream, mut sink) = queue.into_split();
    for number in 0..=GATHERED {
        let mut frame = template.clone();
        frame[14..22].copy_from_slice(&number.to_le_bytes());
        sink.feed(frame.into()).await.unwrap();
    }
    // The last one is still in the sink.
    for expected in 0..GATHERED {
        let frame = timeout(Duration::from_secs(1), far.recv()).await.expect("nobody tells the host");
        assert_eq!(number(&frame.unwrap()), expected);
    }
    assert!(far.recv().now_or_never().is_none());
    drop(sink);
    assert_eq!(number(&far.recv().await.unwrap()), GATHERED);
    nic.close().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

/// A clock that counts who looks at it.
struct Counting {
    clock: TokioClock,
    readings: AtomicU64,
}

impl Clock for Counting {
    fn now(&self) -> Instant {
        self.readings.fetch_add(1, Ordering::Relaxed);
        self.clock.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_doorbell_that_is_not_put_off_needs_no_clock() {
    const FLUSHES: u64 = 20;
    let clock = Arc::new(Counting { clock: TokioClock::new(), readings: AtomicU64::new(0) });
    let pair = pair(Nic::builder().clock(Arc::clone(&clock))).await;
    let frame = own_frame(&pair, 100, 0);
    let Pair { host, far, nic, queue } = pair;
    let (_stream, mut sink) = queue.into_split();
    let before = clock.readings.load(Ordering::Relaxed);
    for _ in 0..FLUSHES {
        // Nobody else runs in between: there is room.
        sink.send(sink.packet(&frame)).now_or_never().unwrap().unwrap();
    }
    assert_eq!(clock.readings.load(Ordering::Relaxed), before);
    for _ in 0..FLUSHES {
        far.recv().await.unwrap();
    }
    nic.close().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn frames_that_wait_for_a_doorbell_go_though_their_sender_found_room_and_went() {
    let builder = Nic::builder().tune(|config| config.send_sections(10).direct_bytes(0));
    let mut pair = pair(builder).await;
    let template = own_frame(&pair, 1500, 0);
    let numbered = |number: u64| [&template[..14], &number.to_le_bytes(), &template[22..]].concat();
    // Who polls is not interrupted: what the host completes stays in the ring until somebody looks.
    assert!(pair.queue.rx.try_recv_burst().unwrap().is_none());
    pair.queue.tx.send(&numbered(0)).await.unwrap();
    assert_eq!(number(&pair.far.recv().await.unwrap()), 0);
    assert!(pair.queue.rx.try_recv_burst().unwrap().is_none());
    tokio::time::sleep(Duration::from_micros(100)).await;
    pair.queue.tx.send(&numbered(1)).await.unwrap();
    assert_eq!(number(&pair.far.recv().await.unwrap()), 1);
    let mut sent = 1;
    while pair.queue.tx.try_send(&numbered(sent + 1), &TxMeta::default()).is_ok() {
        sent += 1;
    }
    let ready = pair.queue.tx.ready(template.len()).now_or_never();
    ready.expect("one is completed, and nobody has looked").unwrap();
    for expected in 2..=sent {
        let frame = timeout(Duration::from_secs(1), pair.far.recv()).await.expect("nobody tells the host");
        assert_eq!(number(&frame.unwrap()), expected);
    }
    assert!(pair.close().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn try_send_says_full_and_ready_waits() {
    let builder = Nic::builder().tune(|config| config.send_sections(10).direct_bytes(0));
    let mut pair = pair(builder).await;
    let frame = own_frame(&pair, 1500, 7);
    let mut taken = 0;
    let error = loop {
        match pair.queue.tx.try_send(&frame, &TxMeta::default()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000, "never full");
    };
    assert_eq!(error, Error::Full);
    assert!(taken > 0);
    pair.queue.tx.ready(1500).await.unwrap();
    pair.queue.tx.try_send(&frame, &TxMeta::default()).unwrap();
    pair.queue.tx.drained().await.unwrap();
    for _ in 0..=taken {
        assert_eq!(&pair.far.recv().await.unwrap()[..], &frame[..]);
    }
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn frames_without_a_flush_leave_after_the_latency() {
    let mut pair = pair(Nic::builder().tx_latency(Duration::from_micros(300))).await;
    let frame = own_frame(&pair, 60, 1);
    pair.queue.tx.try_send(&frame, &TxMeta::default()).unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(&pair.far.recv().await.unwrap()[..], &frame[..]);
    let waited = before.elapsed();
    assert!(waited >= Duration::from_micros(300), "too early: {waited:?}");
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_receive_loses_no_frame() {
    let mut pair = testing::pair().await.unwrap();
    for number in 0..50 {
        // Cancelled while it waits.
        let cancelled = tokio::time::timeout(Duration::from_millis(5), pair.queue.rx.recv_burst()).await;
        assert!(cancelled.is_err());
        pair.far.send(&frame(100, number)).unwrap();
        // Received by a poll, and never taken.
        futures::future::poll_fn(|cx| pair.queue.rx.poll_ready(cx)).await.unwrap();
        let burst = pair.queue.rx.recv_burst().await.unwrap().expect("open");
        assert_eq!(number, u64::from_le_bytes(burst.get(0).unwrap().bytes[14..22].try_into().unwrap()));
    }
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ways_to_receive_can_be_mixed_without_losing_the_order() {
    use netvsc_async::PacketPort;
    let mut pair = testing::pair().await.unwrap();
    for n in 0..9 {
        pair.far.send(&frame(60, n)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    // All of them are received, and none taken.
    futures::future::poll_fn(|cx| pair.queue.rx.poll_ready(cx)).await.unwrap();
    let mut buffer = [0; 60];
    pair.queue.rx.recv(&mut buffer).await.unwrap();
    assert_eq!(number(&buffer), 0);
    let mut packets = Vec::new();
    assert_eq!(pair.queue.receive(&mut packets, 2).await.unwrap(), 2);
    let numbers: Vec<_> = packets.iter().map(|packet| number(packet)).collect();
    assert_eq!(numbers, [1, 2]);
    let burst = pair.queue.rx.recv_burst().await.unwrap().expect("open");
    let numbers: Vec<_> = burst.iter().map(|frame| number(frame.bytes)).collect();
    assert_eq!(numbers, [3, 4, 5, 6, 7, 8]);
    pair.close().await.unwrap();
}

#[test]
fn a_queue_ends_with_the_runtime_of_its_adapter() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut pair = runtime.block_on(testing::pair()).unwrap();
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let received = other.block_on(async { pair.queue.rx.recv_burst().await.map(|burst| burst.is_some()) });
    assert_eq!(received, Err(Error::Gone));
    assert_eq!(pair.queue.rx.try_recv_burst().map(|burst| burst.is_some()), Err(Error::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_datagram_style_receive_cuts_long_frames() {
    let mut pair = testing::pair().await.unwrap();
    pair.far.send(&frame(200, 5)).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(pair.queue.rx.recv(&mut buffer).await.unwrap(), 100);
    assert_eq!(buffer, frame(200, 5)[..100]);
    pair.close().await.unwrap();
}

/// In real time: a runtime that is never idle does not advance paused time.
#[tokio::test]
async fn a_full_stream_lets_timers_run() {
    let Pair { far, nic, queue, host } = testing::pair().await.unwrap();
    let (mut stream, _sink) = queue.into_split();
    let feeder = tokio::spawn(async move {
        let mut number = 0;
        loop {
            if far.send(&frame(60, number)).is_err() {
                tokio::task::yield_now().await;
            }
            number += 1;
        }
    });
    // Without tokio's budget this task would never let the others run.
    let consume = async { while stream.next().await.is_some() {} };
    let timed = tokio::time::timeout(Duration::from_millis(20), consume).await;
    assert!(timed.is_err());
    feeder.abort();
    drop(nic);
    drop(host);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_queue_and_later_use_is_told() {
    let mut pair = testing::pair().await.unwrap();
    let mut events = pair.nic.events();
    assert!(pair.queue.rx.recv_burst().now_or_never().is_none());
    let report = pair.nic.close().await.unwrap();
    assert!(report.is_clean());
    assert!(pair.queue.rx.recv_burst().await.unwrap().is_none(), "the end, not an error");
    assert_eq!(pair.queue.tx.send(&[0; 60]).await, Err(Error::Closed));
    assert_eq!(pair.queue.tx.drained().await, Err(Error::Closed));
    assert_eq!(events.next().await, Some(Event::Closed(report)));
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_waits_is_woken_by_close() {
    let Pair { nic, mut queue, host: _host, far: _far } = testing::pair().await.unwrap();
    let waiting = tokio::spawn(async move { queue.rx.recv_burst().await.map(|burst| burst.is_some()) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    nic.close().await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(false));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_closes_in_the_background() {
    let Pair { host, far, nic, queue } = testing::pair().await.unwrap();
    drop((nic, queue));
    tokio::time::sleep(Duration::from_secs(60)).await;
    host.assert_clean();
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn a_rescinded_adapter_says_gone() {
    let Pair { host, nic, mut queue, far: _far } = testing::pair().await.unwrap();
    let mut events = nic.events();
    host.rescind(netvsc_host::NicId(0));
    assert!(matches!(events.next().await, Some(Event::Gone(_))));
    assert_eq!(queue.rx.recv_burst().await.map(|burst| burst.is_some()), Err(Error::Gone));
    assert_eq!(queue.tx.send(&[0; 60]).await, Err(Error::Gone));
}

#[tokio::test(start_paused = true)]
async fn the_packet_filter_stops_delivery_and_sends_still_complete() {
    let mut pair = testing::pair().await.unwrap();
    pair.nic.set_packet_filter(netvsc::PacketFilter::CLOSED).await.unwrap();
    pair.far.send(&frame(60, 1)).unwrap();
    let nothing = tokio::time::timeout(Duration::from_secs(1), pair.queue.rx.recv_burst()).await;
    assert!(nothing.is_err());
    let ours = own_frame(&pair, 60, 2);
    pair.queue.tx.send(&ours).await.unwrap();
    pair.queue.tx.drained().await.unwrap();
    assert_eq!(&pair.far.recv().await.unwrap()[..], &ours[..]);
    pair.nic.set_packet_filter(netvsc::PacketFilter::OPEN).await.unwrap();
    pair.far.send(&frame(60, 3)).unwrap();
    let burst = pair.queue.rx.recv_burst().await.unwrap().expect("open");
    assert_eq!(burst.get(0).unwrap().bytes, frame(60, 3));
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn link_changes_are_events_and_in_the_info() {
    let pair = testing::pair().await.unwrap();
    let mut events = pair.nic.events();
    pair.host.set_link(netvsc_host::NicId(0), false);
    assert_eq!(events.next().await, Some(Event::LinkDown));
    assert_eq!(pair.nic.info().link, netvsc::LinkState::Down);
    pair.host.set_link(netvsc_host::NicId(0), true);
    assert_eq!(events.next().await, Some(Event::LinkUp));
    pair.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_adapter_whose_host_is_silent_fails_in_time() {
    // A connection whose host never steps.
    let host = Host::builder().build();
    let bus = vmbus::mem::MemBus::new(host.add_nic(netvsc_host::NicOptions::new()));
    let before = tokio::time::Instant::now();
    let error = Nic::builder().open_on(bus).await.map(drop).unwrap_err();
    assert!(matches!(error, netvsc_async::OpenError::Failed { .. }), "{error}");
    assert!(before.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_open_closes_what_it_opened() {
    let host = Host::builder().build();
    let bus = vmbus::mem::MemBus::new(host.add_nic(netvsc_host::NicOptions::new()));
    host.spawn();
    assert!(Nic::builder().open_on(bus).now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(120)).await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn sends_that_a_silent_host_leaves_lying_are_told_once() {
    let mut pair = testing::pair().await.unwrap();
    let mut events = pair.nic.events();
    // So that nothing else makes the adapter's task look.
    tokio::time::sleep(Duration::from_secs(60)).await;
    pair.host.inject(netvsc_host::fault::Fault::QueueSilent, netvsc_host::fault::When::Always);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let frame = own_frame(&pair, 60, 1);
    pair.queue.tx.send(&frame).await.unwrap();
    let stalled = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    assert_eq!(stalled, Ok(Some(Event::Stalled { queue: 0, outstanding: 1 })));
    assert!(tokio::time::timeout(Duration::from_secs(600), events.next()).await.is_err(), "once");
}

#[tokio::test(start_paused = true)]
async fn the_first_reader_is_told_of_the_bring_up() {
    let pair = pair(Nic::builder().receive_sections(10)).await;
    let mut first = pair.nic.events();
    let warned = tokio::time::timeout(Duration::from_secs(1), first.next()).await;
    assert!(matches!(warned, Ok(Some(Event::Warning(_)))), "{warned:?}");
    let mut second = pair.nic.events();
    pair.host.set_link(netvsc_host::NicId(0), false);
    for events in [&mut first, &mut second] {
        assert_eq!(events.next().await, Some(Event::LinkDown));
    }
    pair.close().await.unwrap();
}

#[test]
fn public_types_are_send_and_unpin() {
    fn check<T: Send + Unpin>() {}
    type C = vmbus::mem::MemChannel;
    check::<Nic>();
    check::<netvsc_async::Queue<C>>();
    check::<netvsc_async::PacketStream<C>>();
    check::<netvsc_async::PacketSink<C>>();
    check::<Packet>();
    check::<netvsc_async::Events>();
    fn send<T: Send>(_: T) {}
    send(async {
        let mut pair = testing::pair().await.unwrap();
        let _ = pair.queue.rx.recv_burst().await;
        let _ = pair.queue.tx.send(&[0; 60]).await;
        let _ = pair.close().await;
    });
}
