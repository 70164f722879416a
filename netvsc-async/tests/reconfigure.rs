//! Changes of an open adapter on the simulated host, in one process and in paused time.
#![cfg(feature = "host")]

use std::collections::VecDeque;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use netvsc::PacketFilter;
use netvsc::control::{Cause, ReconfigureError as DeviceError};
use netvsc_async::{Channels, Error, Event, Events, Nic, NicBuilder, Queue, ReconfigureError, RingParams, TxMeta};
use netvsc_host::fault::{Fault, When};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, HostBuilder, NicId, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    host: Host,
    far: MemoryPort,
    nic: Nic<MemBus>,
    queues: Vec<Queue<MemChannel>>,
}

async fn open(host: HostBuilder, nic: NicBuilder) -> Rig {
    let host = host.build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().queues(64)));
    host.spawn();
    let (nic, queues) = nic.open_on(bus).await.unwrap();
    Rig { host, far, nic, queues }
}

async fn up(queues: u16) -> Rig {
    open(Host::builder(), Nic::builder().queues(queues)).await
}

/// Long enough for the host to do what it has to.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The adapter's address: a switch takes no other from it.
const OURS: [u8; 6] = [0x00, 0x15, 0x5D, 1, 0, 0];

/// A broadcast of the adapter's, with a number in it.
fn ours(number: u64, len: usize) -> Vec<u8> {
    let mut frame = frame(number, len);
    frame[6..12].copy_from_slice(&OURS);
    frame
}

/// A broadcast of the far end's, with a number in it.
fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut frame = vec![number as u8; len];
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[14..22].try_into().unwrap())
}

impl Rig {
    /// One frame each way, by every queue and to whichever.
    async fn works(&mut self) {
        for (index, queue) in self.queues.iter_mut().enumerate() {
            queue.tx.send(&ours(index as u64, 60)).await.unwrap();
            assert_eq!(number(&self.far.recv().await.unwrap()), index as u64);
        }
        self.far.send(&frame(77, 60)).unwrap();
        // No IP: the primary channel's.
        let burst = self.queues[0].rx.recv_burst().await.unwrap().expect("open");
        assert_eq!((burst.len(), number(burst.get(0).unwrap().bytes)), (1, 77));
    }

    async fn close(self) {
        let Self { host, far: _far, nic, queues } = self;
        let report = nic.close().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        drop(queues);
        a_moment().await;
        host.assert_clean();
    }
}

async fn seen(events: &mut Events) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        seen.push(event);
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn sections_and_mtu_change_and_the_queue_goes_on() {
    let mut rig = up(1).await;
    let mut events = rig.nic.events();
    seen(&mut events).await;
    assert_eq!(rig.nic.channels().current, 1);
    let before = rig.nic.ring();
    let wish = RingParams { receive_sections: 64, send_sections: 20 };
    let came = rig.nic.set_ring(wish).await.unwrap();
    assert_eq!(came.send_sections, 20);
    assert!((64..68).contains(&came.receive_sections), "{came:?}");
    assert_eq!((rig.nic.ring().current, rig.nic.ring().max), (came, before.max));
    assert_eq!(seen(&mut events).await.iter().filter(|event| matches!(event, Event::Attached)).count(), 1);
    rig.works().await;

    // The same again is no work.
    assert_eq!(rig.nic.set_ring(wish).await, Ok(came));
    assert_eq!(rig.nic.set_mtu(1500).await, Ok(1500));
    assert_eq!(seen(&mut events).await, [const { Event::Reconfigured(Ok(())) }; 2]);

    assert_eq!(rig.nic.set_mtu(9000).await, Ok(9000));
    let jumbo = ours(5, 9014);
    rig.queues[0].tx.send(&jumbo).await.unwrap();
    assert_eq!(*rig.far.recv().await.unwrap(), jumbo);
    let jumbo = frame(6, 9014);
    rig.far.send(&jumbo).unwrap();
    assert_eq!(rig.queues[0].rx.recv_burst().await.unwrap().unwrap().get(0).unwrap().bytes, jumbo);
    assert_eq!(rig.nic.set_mtu(1280).await, Ok(1280));
    assert!(matches!(rig.queues[0].tx.send(&ours(6, 1300)).await, Err(Error::Send(_))));
    rig.works().await;
    // The host gives less than that: what it gives is what there is.
    assert_eq!(rig.nic.set_mtu(60_000).await, Ok(rig.nic.info().mtu));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn packets_of_a_larger_mtu_are_whole_and_in_buffers_of_the_pool() {
    const HELD: usize = 128;
    let mut rig = open(Host::builder(), Nic::builder().pool_packets(HELD)).await;
    let (mut stream, mut sink) = rig.queues.remove(0).into_split();
    let mut next = 0;
    let mut held = VecDeque::new();
    for (mtu, frames) in [(1500, 200), (9000, 400), (1500, 100), (4000, 100), (9000, 200)] {
        assert_eq!(rig.nic.set_mtu(mtu).await, Ok(mtu));
        for _ in 0..frames / 20 {
            let sent: Vec<_> = (next..next + 20).map(|number| frame(number, mtu as usize + 14)).collect();
            next += 20;
            sent.iter().for_each(|frame| rig.far.send(frame).unwrap());
            for sent in sent {
                let packet = stream.next().await.unwrap().unwrap();
                assert!(packet[..] == sent, "{} of {}", number(&packet), number(&sent));
                held.push_back(packet);
            }
            held.drain(..held.len().saturating_sub(HELD - 20));
        }
        // And those that are made to be sent.
        let longest = ours(next, mtu as usize + 14);
        let packet = sink.packet(&longest);
        sink.send(packet).await.unwrap();
        assert_eq!(*rig.far.recv().await.unwrap(), longest);
    }
    let (half, left) = stream.into_half();
    assert_eq!((half.pool_misses(), left), (0, 0));
    drop((held, half, sink));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_before_anything_is_done() {
    let mut rig = up(2).await;
    for error in [rig.nic.set_mtu(67).await.unwrap_err(), rig.nic.set_mtu(65_522).await.unwrap_err()] {
        assert!(matches!(error, ReconfigureError::Config(_)) && error.is_restored(), "{error}");
    }
    let Channels { max, current, .. } = rig.nic.channels();
    assert_eq!((max, current), (64, 2));
    for queues in [0, 65] {
        let refused = rig.nic.set_channels(queues).await;
        assert!(matches!(refused, Err(ReconfigureError::Config(error)) if error.field() == "queues"));
    }
    let mut settings = rig.nic.info().scaling.unwrap();
    settings.table.fill(1);
    rig.nic.set_rss(settings).await.unwrap();
    assert!(matches!(rig.nic.set_channels(1).await, Err(ReconfigureError::Rss(_))));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn queues_come_and_go() {
    let mut rig = up(2).await;
    let added = rig.nic.set_channels(6).await.unwrap();
    assert!(added.iter().map(Queue::index).eq(2..6));
    rig.queues.extend(added);
    assert_eq!((rig.nic.info().queues, rig.nic.queue_stats().len(), rig.nic.channels().current), (6, 6, 6));
    rig.works().await;
    assert!(rig.nic.set_channels(6).await.unwrap().is_empty());

    // Those that go end, for whoever waits for them as for whoever asks later.
    let mut last = rig.queues.pop().unwrap();
    let waits = tokio::spawn(async move {
        let end = last.rx.recv_burst().await.map(|burst| burst.is_none());
        (end, last.tx.send(&ours(1, 60)).await)
    });
    a_moment().await;
    assert!(rig.nic.set_channels(3).await.unwrap().is_empty());
    assert_eq!(waits.await.unwrap(), (Ok(true), Err(Error::Closed)));
    for mut gone in rig.queues.drain(3..) {
        assert!(gone.rx.recv_burst().await.unwrap().is_none());
    }
    rig.works().await;
    // And back.
    let added = rig.nic.set_channels(4).await.unwrap();
    assert!(added.iter().map(Queue::index).eq([3]));
    rig.queues.extend(added);
    rig.works().await;
    assert!(rig.nic.set_channels(1).await.unwrap().is_empty());
    rig.queues.truncate(1);
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_received_before_comes_after_and_what_was_accepted_is_sent() {
    const FRAMES: u64 = 100;
    let mut rig = up(1).await;
    for n in 0..FRAMES {
        rig.far.send(&frame(n, 60 + n as usize)).unwrap();
    }
    a_moment().await;
    // Accepted, and the host was not even told.
    let mut accepted = 0;
    while accepted < FRAMES && rig.queues[0].tx.try_send(&ours(accepted, 200), &TxMeta::default()).is_ok() {
        accepted += 1;
    }
    assert!(accepted > 10);
    rig.nic.set_mtu(2000).await.unwrap();
    rig.nic.set_ring(RingParams { receive_sections: 32, send_sections: 10 }).await.unwrap();
    for n in 0..accepted {
        assert_eq!(number(&rig.far.recv().await.unwrap()), n);
    }
    let mut received = 0;
    while received < FRAMES {
        for frame in &rig.queues[0].rx.recv_burst().await.unwrap().unwrap() {
            assert_eq!((number(frame.bytes), frame.bytes.len()), (received, 60 + received as usize));
            received += 1;
        }
    }
    assert_eq!(rig.nic.queue_stats()[0].extra.tx_dropped, 0);
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_goes_gives_what_it_has_and_then_ends() {
    let mut rig = up(2).await;
    let mut settings = rig.nic.info().scaling.unwrap();
    let default = settings.clone();
    settings.table.fill(1);
    rig.nic.set_rss(settings).await.unwrap();
    let mac = rig.nic.info().mac.0;
    for n in 0..10u64 {
        // UDP over IPv4, which the table puts on queue 1.
        let mut frame = frame(n, 100);
        frame[..6].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 86, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
        frame[34..42].copy_from_slice(&[0, 7, 0, 7, 0, 66, 0, 0]);
        frame[50] = n as u8;
        rig.far.send(&frame).unwrap();
    }
    a_moment().await;
    rig.nic.set_rss(default.clone()).await.unwrap();
    let mut one_only = default;
    one_only.table.fill(0);
    rig.nic.set_rss(one_only).await.unwrap();
    let (mut stream, mut sink) = rig.queues.pop().unwrap().into_split();
    assert!(rig.nic.set_channels(1).await.unwrap().is_empty());
    for n in 0..10 {
        assert_eq!(stream.next().await.unwrap().unwrap()[50], n);
    }
    assert!(stream.next().await.is_none());
    let packet = rig.queues[0].packet(&ours(1, 60));
    assert_eq!(sink.send(packet).await, Err(Error::Closed));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn streams_and_sinks_forward_through_changes() {
    const ROUNDS: u64 = 40;
    let Rig { host, far, nic, mut queues } = up(1).await;
    let (packets, sink) = queues.remove(0).into_split();
    // From our address: a switch takes no other.
    let readdressed = packets.map(|packet| {
        packet.map(|mut packet| {
            packet.bytes_mut()[6..12].copy_from_slice(&OURS);
            packet
        })
    });
    let forward = tokio::spawn(readdressed.forward(sink));
    let mut next = 0;
    for round in 0..ROUNDS {
        for n in 0..20 {
            far.send(&frame(round * 20 + n, 100)).unwrap();
        }
        if round % 4 == 0 {
            nic.set_mtu(1500 + round as u32).await.unwrap();
        }
        // Frames that came while the filter was 0 are lost on the network, and no others.
        while let Ok(Some(back)) = tokio::time::timeout(Duration::from_secs(1), far.recv()).await {
            assert!(number(&back) >= next, "in order and once");
            next = number(&back) + 1;
        }
        far.send(&frame(u64::MAX >> 1 | round, 64)).ok();
        let _ = tokio::time::timeout(Duration::from_secs(1), far.recv()).await.expect("forwarded").unwrap();
    }
    assert!(next > 0);
    assert!(nic.close().await.unwrap().is_clean());
    forward.await.unwrap().unwrap();
    a_moment().await;
    host.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn one_change_at_a_time_and_requests_wait_for_it() {
    let mut rig = up(2).await;
    let nic = &rig.nic;
    let (ring, mtu, queues, filter, speed) = tokio::join!(
        nic.set_ring(RingParams { receive_sections: 100, send_sections: 30 }),
        nic.set_mtu(4000),
        nic.set_channels(3),
        nic.set_packet_filter(PacketFilter(0x2B)),
        nic.query(rndis::Oid::LINK_SPEED),
    );
    assert_eq!(ring.unwrap().send_sections, 30);
    assert_eq!(mtu, Ok(4000));
    rig.queues.extend(queues.unwrap());
    filter.unwrap();
    assert_eq!(speed.unwrap().len(), 4);
    let info = rig.nic.info();
    assert_eq!((info.mtu, info.queues, info.send.unwrap().count, info.packet_filter.0), (4000, 3, 30, 0x2B));
    // What was set meanwhile holds after the next one.
    rig.nic.set_mtu(1500).await.unwrap();
    let info = rig.nic.info();
    assert_eq!((info.mtu, info.queues, info.send.unwrap().count, info.packet_filter.0), (1500, 3, 30, 0x2B));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn queues_that_nobody_took_are_given_by_the_next_call() {
    let mut rig = up(1).await;
    {
        let change = rig.nic.set_channels(3);
        tokio::pin!(change);
        assert!(futures::poll!(change.as_mut()).is_pending());
        a_moment().await;
    }
    a_moment().await;
    assert_eq!(rig.nic.info().queues, 3, "it was made all the same");
    let added = rig.nic.set_channels(3).await.unwrap();
    assert!(added.iter().map(Queue::index).eq(1..3));
    rig.queues.extend(added);
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_kept_open_is_an_error_and_no_deadlock() {
    let mut rig = up(1).await;
    let mut batch = rig.queues[0].tx.batch();
    for n in 0..3 {
        batch.push(&ours(n, 60), &TxMeta::default()).unwrap();
    }
    // Frames that come meanwhile interrupt: whoever looks after the queue must not wait for its lock either.
    rig.far.send(&frame(9, 60)).unwrap();
    let error = rig.nic.set_mtu(9000).await.unwrap_err();
    assert_eq!(error, ReconfigureError::Held { queue: 0, packets: 3 });
    assert!(error.is_restored());
    drop(batch);
    for n in 0..3 {
        assert_eq!(number(&rig.far.recv().await.unwrap()), n);
    }
    assert_eq!(number(rig.queues[0].rx.recv_burst().await.unwrap().unwrap().get(0).unwrap().bytes), 9);
    assert_eq!(rig.nic.set_mtu(9000).await, Ok(9000));
    rig.works().await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn packets_that_are_held_are_in_nobodys_way() {
    let mut rig = up(1).await;
    for n in 0..50 {
        rig.far.send(&frame(n, 60)).unwrap();
    }
    let mut held = Vec::new();
    while held.len() < 50 {
        let burst = rig.queues[0].rx.recv_burst().await.unwrap().unwrap();
        held.extend((0..burst.len()).map(|at| burst.keep(at).unwrap()));
    }
    rig.nic.set_ring(RingParams { receive_sections: 20, send_sections: 20 }).await.unwrap();
    for (n, packet) in held.iter().enumerate() {
        assert_eq!(number(packet), n as u64);
    }
    rig.works().await;
    drop(held);
    rig.close().await;
}

/// The faults that break a bring-up or a way down, whatever they meet.
const FAULTS: [Fault; 5] =
    [Fault::AnswerFailed, Fault::AnswerNever, Fault::AnswerShort, Fault::AnswerLate, Fault::InterruptLate];

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_answer_leaves_the_adapter_changed_or_as_it_was_or_closed() {
    let builder = || {
        Nic::builder()
            .queues(2)
            .tune(|config| config.step_deadline(Duration::from_secs(2)).close_deadline(Duration::from_secs(2)))
    };
    let (mut changed, mut restored, mut over) = (0, 0, 0);
    for fault in FAULTS {
        // More answers than one change has.
        for spared in 0..24 {
            let mut rig = open(Host::builder(), builder()).await;
            rig.host.inject(fault, When::After { spared });
            let result = rig.nic.set_mtu(3000).await;
            match result {
                Ok(mtu) => {
                    changed += 1;
                    assert!((1500..=3000).contains(&mtu), "{fault} {spared}");
                }
                Err(error) if error.is_restored() => {
                    restored += 1;
                    assert_eq!(rig.nic.info().mtu, 1500, "{fault} {spared}: {error}");
                    assert_eq!(rig.nic.info().packet_filter, PacketFilter::OPEN);
                }
                Err(error) => {
                    over += 1;
                    assert!(matches!(error, ReconfigureError::Device(DeviceError::Failed { .. })), "{error}");
                    assert!(rig.queues[0].tx.send(&ours(0, 60)).await.is_err());
                    continue;
                }
            }
            rig.host.clear_faults();
            let queues = usize::from(rig.nic.info().queues);
            rig.queues.truncate(queues);
            rig.works().await;
            assert_eq!(rig.nic.set_mtu(4000).await, Ok(4000), "{fault} {spared}: the next one is made");
            rig.works().await;
        }
    }
    // One fault at a time is always survived.
    assert_eq!(over, 0);
    assert!(changed > 20 && restored > 20, "{changed} {restored}");
}

#[tokio::test(start_paused = true)]
async fn a_close_is_bounded_whatever_the_host_leaks() {
    let builder = || Nic::builder().tune(|config| config.close_deadline(Duration::from_secs(10)));
    for fault in [Fault::Leak, Fault::AnswerNever] {
        let Rig { host, far: _far, nic, mut queues } = open(Host::builder(), builder()).await;
        host.inject(fault, When::Always);
        queues[0].tx.send(&ours(0, 60)).await.unwrap();
        let begin = tokio::time::Instant::now();
        let report = nic.close().await.unwrap();
        // Who answers nothing still completes what it was sent.
        assert_eq!(report.outstanding_sends > 0, fault == Fault::Leak, "{fault}: {report:?}");
        // One deadline, either for the filter's answer or for all completions.
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{fault}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_goes_silent_is_an_error_in_time() {
    let builder = Nic::builder().tune(|config| config.step_deadline(Duration::from_secs(2)));
    let mut rig = open(Host::builder(), builder).await;
    rig.host.inject(Fault::QueueSilent, When::Always);
    rig.queues[0].tx.try_send(&ours(0, 60), &TxMeta::default()).unwrap();
    let error = rig.nic.set_mtu(9000).await.unwrap_err();
    assert!(matches!(error, ReconfigureError::Device(DeviceError::Failed { .. })), "{error}");
    assert!(rig.queues[0].rx.recv_burst().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_never_completed_leaves_all_as_it_was() {
    let builder = Nic::builder().tune(|config| config.close_deadline(Duration::from_secs(2)));
    let mut rig = open(Host::builder(), builder).await;
    rig.host.inject(Fault::Leak, When::Once);
    rig.queues[0].tx.send(&ours(0, 60)).await.unwrap();
    rig.far.recv().await.unwrap();
    let error = rig.nic.set_mtu(9000).await.unwrap_err();
    let ReconfigureError::Device(DeviceError::NotDetached { cause: Cause::NotCompleted { sends: 1, receives: 0 } }) =
        error
    else {
        panic!("{error:?}")
    };
    assert_eq!(rig.nic.info().mtu, 1500);
    rig.works().await;
}

#[tokio::test(start_paused = true)]
async fn a_rescind_in_the_middle_ends_everything_in_order() {
    for after in [0, 1, 2, 5, 10, 20, 50, 100, 200, 500] {
        let Rig { host, far: _far, nic, mut queues } = up(2).await;
        let mut events = nic.events();
        seen(&mut events).await;
        let change = async {
            let result = nic.set_channels(4).await;
            result.map(|added| added.len())
        };
        let rescind = async {
            for _ in 0..after {
                tokio::task::yield_now().await;
            }
            host.rescind(NicId(0));
        };
        let (result, ()) = tokio::join!(change, rescind);
        match result {
            // It came too late.
            Ok(added) => assert_eq!(added, 2),
            Err(error) => {
                assert!(
                    matches!(error, ReconfigureError::Device(DeviceError::Gone) | ReconfigureError::Closed),
                    "after {after}: {error}"
                );
            }
        }
        assert!(queues[0].rx.recv_burst().await.is_err(), "{after}");
        a_moment().await;
        let seen = seen(&mut events).await;
        assert!(matches!(seen.last(), Some(Event::Gone(_))), "{after}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_in_the_middle_wins() {
    for after in [0, 1, 2, 5, 10, 20, 50, 100] {
        let Rig { host, far: _far, nic, queues } = up(2).await;
        let mut events = nic.events();
        {
            let change = nic.set_ring(RingParams { receive_sections: 100, send_sections: 100 });
            tokio::pin!(change);
            for _ in 0..after {
                if futures::poll!(change.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert!(nic.close().await.unwrap().is_clean(), "{after}");
        drop(queues);
        a_moment().await;
        host.assert_clean();
        assert!(matches!(seen(&mut events).await.last(), Some(Event::Closed(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_had_ended_stays_away_until_queues_are_asked_for() {
    let mut rig = up(3).await;
    rig.host.rescind_queue(NicId(0), 1);
    a_moment().await;
    assert_eq!(rig.nic.info().queues, 2);
    let mut gone = rig.queues.remove(1);
    gone.rx.recv_burst().await.unwrap_err();
    rig.nic.set_mtu(4000).await.unwrap();
    a_moment().await;
    // Nobody would read it.
    assert_eq!(rig.nic.info().queues, 2);
    assert!(!rig.nic.info().scaling.unwrap().table.contains(&1));
    gone.rx.recv_burst().await.unwrap_err();
    rig.works().await;
    let added = rig.nic.set_channels(3).await.unwrap();
    assert!(added.iter().map(Queue::index).eq([1]));
    rig.queues.extend(added);
    assert_eq!(rig.nic.info().queues, 3);
    rig.works().await;
    rig.close().await;
}

#[test]
fn changes_go_on_while_many_threads_send_and_receive() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let Rig { host, far, nic, queues } = up(4).await;
        let far = std::sync::Arc::new(far);
        let mut tasks = Vec::new();
        for mut queue in queues {
            tasks.push(tokio::spawn(async move {
                let mut sent = 0u64;
                loop {
                    let mut full = false;
                    {
                        let mut batch = queue.tx.batch();
                        for _ in 0..16 {
                            match batch.push(&ours(sent, 120), &TxMeta::default()) {
                                Ok(()) => sent += 1,
                                Err(Error::Full) => full = true,
                                Err(_) => return sent,
                            }
                        }
                    }
                    while let Ok(Some(burst)) = queue.rx.try_recv_burst() {
                        assert!(burst.len() > 0);
                    }
                    if full && queue.tx.ready(120).await.is_err() {
                        return sent;
                    }
                    tokio::task::yield_now().await;
                }
            }));
        }
        let sink = {
            let far = std::sync::Arc::clone(&far);
            tokio::spawn(async move {
                let mut arrived = 0u64;
                while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(2), far.recv()).await {
                    arrived += 1;
                }
                arrived
            })
        };
        for round in 0..12u32 {
            let change = async {
                match round % 3 {
                    0 => drop(nic.set_mtu(1500 + round).await.unwrap()),
                    1 => {
                        let wish = RingParams { receive_sections: 200 + round, send_sections: 100 + round };
                        nic.set_ring(wish).await.unwrap();
                    }
                    _ => drop(nic.set_channels(if round % 2 == 0 { 3 } else { 4 }).await.unwrap()),
                }
            };
            tokio::time::timeout(PATIENCE, change).await.unwrap_or_else(|_| panic!("change {round} does not end"));
        }
        let report = nic.close().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let mut sent = 0;
        for task in tasks {
            sent += task.await.unwrap();
        }
        let arrived = sink.await.unwrap();
        assert!(sent > 0 && arrived > 0 && arrived <= sent);
        // In real time: the host's task comes to it when it does.
        let until = tokio::time::Instant::now() + PATIENCE;
        while !host.report().is_clean() && tokio::time::Instant::now() < until {
            a_moment().await;
        }
        host.assert_clean();
    });
}
