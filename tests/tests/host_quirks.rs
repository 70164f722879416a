//! What real hosts do that a reading of the structures does not tell, one test each: the table is that of
//! [`netvsc_host::fault`], seen from the driver.

use std::time::Duration;

use futures::StreamExt;
use netvsc::control::{Cause, FewSections, Step};
use netvsc::{LinkState, PacketFilter, Warning};
use netvsc_async::testing::Pair;
use netvsc_async::{Event, Nic, OpenError, Packet, RequestError};
use netvsc_host::fault::{Fault, When};
use netvsc_host::profile::{AnswerOrder, Offloads, SubAllocation, TooFewSections};
use netvsc_host::{Host, NicOptions, Profile};
use netvsc_tests::frames::{FAR, SIZES, Sequence};
use netvsc_tests::rig::{self, NIC, paused};
use rndis::Oid;
use tokio::time::Instant;
use vmbus::bus::{Bus, BusEvent, RingSizes};
use vmbus::mem::MemBus;
use vmbus::memory::SharedMemoryExt;

const NEVER: When = When::Times { count: 0 };
const SMALL_RINGS: RingSizes = RingSizes { outgoing_bytes: 8192, incoming_bytes: 8192 };

#[test]
fn row_01_sections_are_as_large_and_as_aligned_as_the_host_likes() {
    for (division, expected) in
        [(SubAllocation::OpenVmm, 1806), (SubAllocation::Windows, 1728), (SubAllocation::Bytes(1731), 1731)]
    {
        paused(async {
            let host = Host::builder().tune(|settings| settings.sub_allocation = division);
            let mut pair = rig::up(host, Nic::builder().receive_sections(100)).await;
            assert_eq!(pair.nic.info().receive.section_bytes, expected);
            // All sections come round: offsets of every alignment that there is, and frames that cross pages.
            rig::exchange(&mut pair, &SIZES, 1000).await;
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_02_a_range_may_span_the_whole_section() {
    paused(async {
        let mut pair = rig::up_on(|settings| *settings = settings.clone().openvmm_ranges()).await;
        rig::exchange(&mut pair, &SIZES, 500).await;
        assert_eq!(rig::stats(&pair).extra.bad_messages, 0);
        rig::close(pair).await;
    });
}

/// Row 2's part of OpenVMM's ways.
trait OpenVmmRanges {
    fn openvmm_ranges(self) -> Self;
}

impl OpenVmmRanges for netvsc_host::Settings {
    fn openvmm_ranges(mut self) -> Self {
        self.sub_allocation = SubAllocation::OpenVmm;
        self.whole_ranges = true;
        self
    }
}

#[test]
fn row_03_a_packet_of_375_ranges_is_completed_once_with_its_last_frame() {
    paused(async {
        let start = Instant::now();
        let mut pair = rig::up(Host::builder(), Nic::builder().burst(64)).await;
        let other = pair.host.memory_pair();
        let mut theirs = [Sequence::new(FAR, &[60]), Sequence::new([2, 0, 0, 0, 0, 2], &[60])];
        let mut received = theirs.clone();
        let sections = |pair: &Pair| {
            pair.host.step(start.elapsed());
            rig::report(pair).leaks.sections
        };
        assert_eq!(sections(&pair), 0);
        let before = rig::report(&pair).counters;
        // The host takes 256 frames of each port in a step.
        for _ in 0..256 {
            pair.far.send(&theirs[0].make()).unwrap();
        }
        for _ in 256..375 {
            other.send(&theirs[1].make()).unwrap();
        }
        assert_eq!(sections(&pair), 375);
        assert_eq!(rig::report(&pair).counters.rx_packets - before.rx_packets, 1, "one packet");
        let count = |received: &[Sequence; 2]| received.iter().map(Sequence::count).sum::<u64>();
        while count(&received) < 375 {
            assert_eq!(sections(&pair), 375, "nothing comes back before the last frame, now {}", count(&received));
            let burst = pair.queue.rx.try_recv_burst().unwrap().expect("frames");
            for frame in &burst {
                let sender = usize::from(frame.bytes[11] == 2);
                received[sender].check(frame.bytes);
            }
        }
        // The completion may wait for the next look at the ring.
        assert!(pair.queue.rx.try_recv_burst().unwrap().is_none());
        assert_eq!(sections(&pair), 0);
        assert_eq!(rig::report(&pair).counters.rx_completions - before.rx_completions, 1, "one completion");
        rig::close(pair).await;
    });
}

#[test]
fn row_04_answers_and_frames_have_sections_of_their_own() {
    for reserved in [1, 16, 40] {
        paused(async {
            let host = Host::builder().tune(|settings| settings.control_sub_allocations = reserved);
            let mut pair = rig::up(host, Nic::builder().receive_sections(50)).await;
            for _ in 0..50 {
                rig::exchange(&mut pair, &SIZES, 20).await;
                let speed = pair.nic.query(Oid::LINK_SPEED).await.unwrap();
                assert_eq!(speed, 100_000_000_u32.to_le_bytes());
            }
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_05_completions_have_the_length_of_their_kind() {
    for version in nvsp::Version::ALL {
        for len in [nvsp::LEGACY_MESSAGE_LEN, 32, 36, nvsp::MESSAGE_LEN] {
            paused(async {
                let host = Host::builder().nvsp_max(version).tune(|settings| settings.legacy_message_len = len);
                let mut pair = rig::up(host, Nic::builder()).await;
                rig::exchange(&mut pair, &SIZES, 50).await;
                rig::close(pair).await;
            });
        }
    }
}

#[test]
fn row_06_whatever_the_refusal_an_older_version_is_tried_on_the_same_channel() {
    for status in [0, 2, 3] {
        for version in nvsp::Version::ALL {
            paused(async {
                let host =
                    Host::builder().nvsp_max(version).tune(|settings| settings.nvsp_refusal = nvsp::Status(status));
                let mut pair = rig::up(host, Nic::builder()).await;
                assert_eq!(pair.nic.info().nvsp_version, version, "refusals of status {status}");
                rig::exchange(&mut pair, &SIZES, 20).await;
                rig::close(pair).await;
            });
        }
    }
}

#[test]
fn row_07_an_answer_may_come_before_its_completion_or_late_or_never() {
    // Before: always, or now and then.
    for (order, fault) in [
        (AnswerOrder::AnswerFirst, NEVER),
        (AnswerOrder::CompletionFirst, When::Always),
        (AnswerOrder::CompletionFirst, When::Every { nth: 2 }),
    ] {
        paused(async {
            let host = Host::builder().tune(|settings| settings.answer_order = order);
            let mut pair = rig::up_with(host, &[(Fault::AnswerFirst, fault)], Nic::builder()).await;
            rig::exchange(&mut pair, &SIZES, 20).await;
            rig::close(pair).await;
        });
    }
    // Late: waited for.
    paused(async {
        let start = Instant::now();
        let late = [(Fault::AnswerLate, When::After { spared: 3 })];
        let mut pair = rig::up_with(Host::builder(), &late, Nic::builder()).await;
        assert!(start.elapsed() >= Duration::from_secs(15));
        rig::exchange(&mut pair, &SIZES, 20).await;
        rig::close(pair).await;
    });
    // Too late: the request has failed by then, its answer is dropped, and the next one is not mistaken for it.
    paused(async {
        let nic = Nic::builder().tune(|config| config.step_deadline(Duration::from_secs(10)));
        let mut pair = rig::up(Host::builder(), nic).await;
        rig::inject(&pair, Fault::AnswerLate, When::Once);
        let error = pair.nic.query(Oid::LINK_SPEED).await.unwrap_err();
        let timed_out = netvsc::control::RequestError::TimedOut { few_receive_sections: None };
        assert_eq!(error, RequestError::Request(timed_out));
        let mac = pair.nic.info().mac.0.to_vec();
        assert_eq!(pair.nic.query(Oid::PERMANENT_ADDRESS).await.unwrap(), mac);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(pair.nic.query(Oid::PERMANENT_ADDRESS).await.unwrap(), mac);
        rig::exchange(&mut pair, &SIZES, 20).await;
        rig::close(pair).await;
    });
    // Never: `control` has it for every step.
}

#[test]
fn row_08_unsolicited_messages_come_at_any_time() {
    paused(async {
        let unsolicited = [(Fault::Unsolicited, When::Always)];
        let mut pair = rig::up_with(Host::builder(), &unsolicited, Nic::builder()).await;
        assert!(rig::strikes(&pair.host, Fault::Unsolicited) >= 9, "in the middle of every exchange of the bring-up");
        let mut events = pair.nic.events();
        for _ in 0..10 {
            pair.nic.query(Oid::LINK_SPEED).await.unwrap();
        }
        let seen = rig::events_within(&mut events, Duration::from_secs(1)).await;
        assert_eq!(seen, vec![Event::NetworkChanged; 10], "now that the adapter is up they are told");
        rig::exchange(&mut pair, &SIZES, 20).await;
        rig::close(pair).await;
    });
}

#[test]
fn row_09_filter_0_stops_delivery_and_not_completions() {
    paused(async {
        let nic = Nic::builder().tune(|config| config.packet_filter(PacketFilter::CLOSED));
        let mut pair = rig::up(Host::builder(), nic).await;
        let (mut ours, mut theirs) = (rig::own(&pair, &SIZES), Sequence::new(FAR, &SIZES));
        for _ in 0..50 {
            pair.far.send(&theirs.make()).unwrap();
            pair.queue.tx.send(&ours.make()).await.unwrap();
        }
        pair.queue.tx.drained().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((rig::stats(&pair).rx.packets, rig::stats(&pair).tx.packets), (0, 50));
        assert_eq!(rig::report(&pair).counters.rx_frames, 0);
        while pair.far.try_recv().is_ok() {}
        pair.nic.set_packet_filter(PacketFilter::OPEN).await.unwrap();
        rig::exchange(&mut pair, &SIZES, 50).await;
        rig::close(pair).await;
    });
}

#[test]
fn row_10_a_queue_that_falls_silent_is_told_by_the_watchdog() {
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder().stall_limit(Duration::from_secs(5))).await;
        rig::exchange(&mut pair, &SIZES, 20).await;
        let mut events = pair.nic.events();
        rig::inject(&pair, Fault::QueueSilent, When::Always);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ours = rig::own(&pair, &SIZES);
        for number in 0..3 {
            pair.queue.tx.send(&ours.frame(number)).await.unwrap();
        }
        let seen = rig::events_within(&mut events, Duration::from_secs(30)).await;
        assert!(matches!(seen[..], [Event::Stalled { queue: 0, outstanding: 1..=3 }]), "once, not again: {seen:?}");
        // A host that is silent does not keep the adapter from closing, and what it owes is told.
        let start = Instant::now();
        let report = pair.nic.close().await.unwrap();
        assert!(report.outstanding_sends > 0, "{report:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(pair.host.violations(), []);
    });
}

#[test]
fn row_11_completions_of_foreign_ids_are_counted_and_ignored() {
    paused(async {
        let foreign = [(Fault::CompletionForeignId, When::Always)];
        let mut pair = rig::up_with(Host::builder(), &foreign, Nic::builder()).await;
        let before = rig::stats(&pair).extra.stale_completions;
        rig::exchange(&mut pair, &SIZES, 200).await;
        let stats = rig::stats(&pair);
        assert!(stats.extra.stale_completions > before && before > 0, "{stats:?}");
        assert_eq!((stats.tx.packets, stats.extra.tx_failed), (200, 0));
        rig::close(pair).await;
    });
}

#[test]
fn row_12_frames_that_the_host_drops_leave_gaps_and_nothing_else() {
    // A batch is lost now and then.
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder()).await;
        rig::inject(&pair, Fault::DropBatch, When::Every { nth: 5 });
        let mut sent = Sequence::new(FAR, &SIZES);
        let mut received = sent.clone();
        let mut missing = 0;
        for _ in 0..100 {
            for _ in 0..7 {
                pair.far.send(&sent.make()).unwrap();
            }
            missing += receive_what_comes(&mut pair, &mut received).await;
        }
        missing += sent.count() - received.count();
        let dropped = rig::report(&pair).counters.rx_dropped;
        assert!(dropped > 0);
        assert_eq!(missing, dropped, "frames missing, and frames that the host dropped");
        rig::close(pair).await;
    });
    // The ring is full for long, because the guest does not run; what the host could not keep is lost.
    paused(async {
        let start = Instant::now();
        let nic = Nic::builder().receive_sections(100).tune(|config| config.rings(SMALL_RINGS));
        let mut pair = rig::up(Host::builder(), nic).await;
        let mut sent = Sequence::new(FAR, &SIZES);
        let mut received = sent.clone();
        for _ in 0..4000 {
            pair.far.send(&sent.make()).unwrap();
            pair.host.step(start.elapsed());
        }
        let counters = rig::report(&pair).counters;
        assert!(counters.rx_ring_full > 0 && counters.rx_dropped > 0, "{counters:?}");
        let missing = receive_what_comes(&mut pair, &mut received).await + sent.count() - received.count();
        assert_eq!(missing, rig::report(&pair).counters.rx_dropped);
        rig::exchange(&mut pair, &SIZES, 100).await;
        rig::close(pair).await;
    });
}

/// Receives until nothing has come for a while; how many frames were missing.
async fn receive_what_comes(pair: &mut Pair, received: &mut Sequence) -> u64 {
    let mut missing = 0;
    while let Ok(burst) = tokio::time::timeout(Duration::from_millis(10), pair.queue.rx.recv_burst()).await {
        for frame in &burst.unwrap().expect("open") {
            missing += received.check_with_gaps(frame.bytes);
        }
    }
    missing
}

#[test]
fn row_13_low_bits_of_the_pending_send_size_mean_nothing() {
    for when in [When::Always, NEVER] {
        paused(async {
            let start = Instant::now();
            let nic = Nic::builder().tune(|config| config.rings(SMALL_RINGS));
            let mut pair = rig::up_with(Host::builder(), &[(Fault::PendingSendBits, when)], nic).await;
            let mut received = Sequence::new(FAR, &SIZES);
            let mut sent = received.clone();
            for _ in 0..20 {
                // Until the host waits for room in its ring; then it runs only when the guest signals.
                let full = rig::report(&pair).counters.rx_ring_full;
                while rig::report(&pair).counters.rx_ring_full == full {
                    pair.far.send(&sent.make()).unwrap();
                    pair.host.step(start.elapsed());
                }
                // Some more, which only fit once the host was signalled.
                for _ in 0..100 {
                    pair.far.send(&sent.make()).unwrap();
                    pair.host.step(start.elapsed());
                }
                while received.count() < sent.count() {
                    for frame in &pair.queue.rx.recv_burst().await.unwrap().expect("open") {
                        received.check(frame.bytes);
                    }
                }
            }
            if when == When::Always {
                assert!(rig::strikes(&pair.host, Fault::PendingSendBits) > 0);
            }
            assert_eq!(rig::report(&pair).counters.rx_dropped, 0);
            rig::close(pair).await;
        });
    }
}

/// Guest physical address of the first block of memory that a guest allocates, which is its rings.
const RINGS_GPA: u64 = 0x1_0000_0000;
/// Offset of the interrupt mask in a ring's control page.
const MASK: usize = 8;

#[test]
fn row_14_the_mask_of_the_ring_to_the_host_is_the_hosts() {
    paused(async {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let bus = MemBus::new(host.add_nic(NicOptions::new()));
        let memory = bus.port().memory().clone();
        host.spawn();
        let (nic, mut queues) = Nic::builder().open_on(bus).await.unwrap();
        let mut pair = Pair { host, far, nic, queue: queues.remove(0) };
        rig::exchange(&mut pair, &SIZES, 100).await;
        let rings = memory.map(RINGS_GPA, 8192).unwrap();
        let mask = || {
            let mut word = [0; 4];
            rings.read(MASK, &mut word).unwrap();
            u32::from_le_bytes(word)
        };
        let mut ours = rig::own(&pair, &SIZES);
        for value in [0, 1, 0x5A5A_5A5A] {
            // The host does not run before the next await.
            rings.write(MASK, &u32::to_le_bytes(value)).unwrap();
            for _ in 0..50 {
                pair.queue.tx.try_send(&ours.make(), &netvsc_async::TxMeta::default()).unwrap();
                pair.queue.tx.flush().unwrap();
                let _ = pair.queue.rx.try_recv_burst().unwrap();
            }
            assert_eq!(mask(), value, "the guest wrote the host's mask");
            rings.write(MASK, &u32::to_le_bytes(0)).unwrap();
            // What was sent while the host was not to be signalled needs a signal now.
            pair.queue.tx.send(&ours.make()).await.unwrap();
            pair.queue.tx.drained().await.unwrap();
        }
        let mut seen = rig::own(&pair, &SIZES);
        while seen.count() < ours.count() {
            seen.check(&pair.far.recv().await.unwrap());
        }
        rig::close(pair).await;
    });
}

#[test]
fn row_15_the_hosts_mask_at_open_may_be_set_or_not() {
    for when in [When::Always, NEVER] {
        paused(async {
            let mut pair = rig::up_with(Host::builder(), &[(Fault::MaskedAtOpen, when)], Nic::builder()).await;
            assert_eq!(rig::strikes(&pair.host, Fault::MaskedAtOpen), u64::from(when == When::Always));
            rig::exchange(&mut pair, &SIZES, 50).await;
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_16_neither_side_waits_for_the_other_for_ever() {
    let nic = || Nic::builder().receive_sections(20).send_sections(10).tune(|config| config.rings(SMALL_RINGS));
    // The host completes no send while the guest holds receive sections.
    paused(async {
        let waits = [(Fault::SendsWaitForReceives, When::Always)];
        let mut pair = rig::up_with(Host::builder(), &waits, nic()).await;
        rig::exchange(&mut pair, &SIZES, 2000).await;
        assert!(rig::strikes(&pair.host, Fault::SendsWaitForReceives) > 0);
        rig::close(pair).await;
    });
    // Every frame that is received is sent, from within the receiving task, and the sender pushes back.
    paused(async {
        let Pair { host, far, nic, queue } = rig::up(Host::builder(), nic()).await;
        let mac = nic.info().mac.0;
        let (stream, sink) = queue.into_split();
        let own = move |packet: Result<Packet, _>| {
            packet.map(|mut packet| {
                packet.bytes_mut()[6..12].copy_from_slice(&mac);
                packet
            })
        };
        let reflect = tokio::spawn(stream.map(own).forward(sink));
        let mut sent = Sequence::new(FAR, &SIZES);
        let mut back = Sequence::new(mac, &SIZES);
        while back.count() < 5000 {
            while sent.count() < back.count() + 500 {
                far.send(&sent.make()).unwrap();
            }
            back.check(&far.recv().await.unwrap());
        }
        nic.close().await.unwrap();
        let _ = reflect.await.unwrap();
        rig::all_undone(&host).await;
    });
}

#[test]
fn row_17_the_rndis_header_lies_within_the_first_range() {
    paused(async {
        let nic = Nic::builder().mtu(9000).tune(|config| config.send_buffer(false));
        let mut pair = rig::up(Host::builder(), nic).await;
        rig::exchange(&mut pair, &[22, 60, 1514, 4000, 4052, 4096, 8192, 9014], 400).await;
        let counters = rig::report(&pair).counters;
        assert_eq!(counters.tx_section_packets, 0);
        assert!(counters.tx_direct_packets >= 400, "{counters:?}");
        assert_eq!((counters.tx_failed, rig::stats(&pair).extra.tx_failed), (0, 0));
        rig::close(pair).await;
    });
}

#[test]
fn row_18_completions_that_nobody_asked_for_do_no_harm() {
    paused(async {
        let unasked = [(Fault::CompletionUnasked, When::Always)];
        let mut pair = rig::up_with(Host::builder(), &unasked, Nic::builder()).await;
        assert!(rig::strikes(&pair.host, Fault::CompletionUnasked) > 0);
        rig::exchange(&mut pair, &SIZES, 50).await;
        rig::close(pair).await;
    });
}

#[test]
fn row_19_a_device_with_more_queues_than_are_used_is_closed_in_order() {
    for profile in Profile::ALL {
        paused(async {
            let host = Host::builder().profile(profile).build();
            let far = host.memory_pair();
            let bus = MemBus::new(host.add_nic(NicOptions::new().queues(8)));
            host.spawn();
            let (nic, mut queues) = Nic::builder().open_on(bus).await.unwrap();
            let mut pair = Pair { host, far, nic, queue: queues.remove(0) };
            rig::exchange(&mut pair, &SIZES, 50).await;
            // Channel, GPADLs and memory are given back: the pair's close insists on it.
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_20_rings_are_zero_at_every_open() {
    let host = Host::builder().build();
    host.run_inline_with_clock(|| Duration::ZERO);
    let mut bus = MemBus::new(host.add_nic(NicOptions::new()));
    let memory = bus.port().memory().clone();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut until = |bus: &mut MemBus, wanted: fn(&BusEvent) -> bool| {
        for _ in 0..100 {
            bus.run_host();
            if let std::task::Poll::Ready(event) = bus.poll_event(&mut cx)
                && wanted(event.as_ref().unwrap())
            {
                return event.unwrap();
            }
        }
        panic!("the event does not come");
    };
    let BusEvent::Offered(info) = until(&mut bus, |event| matches!(event, BusEvent::Offered(_))) else { panic!() };
    let mut gpa = RINGS_GPA;
    for _ in 0..3 {
        bus.open(info.id, SMALL_RINGS).unwrap();
        until(&mut bus, |event| matches!(event, BusEvent::Opened(_)));
        let channel = bus.take(info.id).unwrap();
        let rings = memory.map(gpa, 16384).unwrap();
        let mut bytes = vec![0; 16384];
        rings.read(0, &mut bytes).unwrap();
        // The host may have set its mask and its feature bits by now, in either control page.
        for page in [4096..8192, 12288..16384] {
            assert!(bytes[page].iter().all(|&byte| byte == 0), "data of a ring that was just opened");
        }
        rings.write(4096, &[0xAA; 4096]).unwrap();
        drop(channel);
        bus.close(info.id);
        for _ in 0..10 {
            bus.run_host();
            let _ = bus.poll_event(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        }
        gpa += 16384 + 4096;
    }
    // The host looks at the rings of every open, too.
    assert_eq!(host.violations(), []);
}

#[test]
fn row_21_the_hosts_limits_are_clamped_to_sense() {
    for (packets, bytes, alignment) in [
        (8, 0xEFFF_FFFF, 3),
        (1, 0xEFFF_FFFF, 3),
        (0, 0xEFFF_FFFF, 0),
        (u32::MAX, u32::MAX, 0),
        (32, 2000, 3),
        (32, 0, 3),
        (8, 0xEFFF_FFFF, 8),
        (8, 0xEFFF_FFFF, 31),
        (8, 0xEFFF_FFFF, u32::MAX),
    ] {
        paused(async {
            let host = Host::builder().tune(|settings| {
                settings.max_packets_per_message = packets;
                settings.max_transfer_bytes = bytes;
                settings.alignment_log2 = alignment;
            });
            let mut pair = rig::up(host, Nic::builder()).await;
            let mut ours = rig::own(&pair, &SIZES);
            let mut seen = ours.clone();
            // Unflushed, so that they are put together as far as the host allows; it complains of more.
            for _ in 0..20 {
                for _ in 0..40 {
                    pair.queue.tx.try_send(&ours.make(), &netvsc_async::TxMeta::default()).unwrap();
                }
                pair.queue.tx.drained().await.unwrap();
                while seen.count() < ours.count() {
                    seen.check(&pair.far.recv().await.unwrap());
                }
            }
            let counters = rig::report(&pair).counters;
            assert_eq!(counters.tx_frames, 800);
            let (least, most) = match (packets, bytes, alignment) {
                (0 | 1, ..) | (_, 0, _) | (.., 31 | u32::MAX) => (800, 800),
                (8, ..) => (100, 400),
                _ => (20, 799),
            };
            let case = (packets, bytes, alignment);
            assert!((least..=most).contains(&counters.tx_packets), "{case:?}: {} packets", counters.tx_packets);
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_22_too_few_receive_sections_are_warned_of_and_named_when_the_host_falls_silent() {
    // Served: works, with a warning.
    paused(async {
        let mut pair = rig::up(Host::builder(), Nic::builder().receive_sections(10)).await;
        let mut events = pair.nic.events();
        let seen = rig::events_within(&mut events, Duration::from_secs(1)).await;
        let count = pair.nic.info().receive.count;
        assert_eq!(seen, [Event::Warning(Warning::FewReceiveSections { count, minimum: 17 })]);
        rig::exchange(&mut pair, &SIZES, 50).await;
        rig::close(pair).await;
    });
    // Silent: the error says what to do.
    paused(async {
        let host = Host::builder().tune(|settings| settings.too_few_sections = TooFewSections::Silent);
        let (host, pair) = rig::try_up(host, &[], Nic::builder().receive_sections(10)).await;
        let error = pair.unwrap_err();
        let OpenError::Failed { step: Step::Initialize, cause: Cause::TimedOut { few_receive_sections: Some(few) } } =
            error
        else {
            panic!("{error:?}");
        };
        assert!(matches!(few, FewSections { count: 10..17, minimum: 17 }), "{few:?}");
        assert!(error.to_string().contains("use at least 17"), "{error}");
        assert!(few.count < few.minimum);
        // Silent hosts complete nothing, but nothing was done wrong, and all memory came back.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = host.report();
        assert_eq!((report.violations.len(), report.leaks.gpadls, report.leaks.memory_blocks), (0, 0, 0), "{report}");
    });
    // Fewer than 10 are refused before anything is done.
    paused(async {
        let (_, pair) = rig::try_up(Host::builder(), &[], Nic::builder().receive_sections(9)).await;
        assert_eq!(pair.unwrap_err().to_string(), "receive_sections is 9, the minimum is 10");
    });
}

#[test]
fn row_23_link_up_while_up_is_down_and_later_up() {
    paused(async {
        let mut pair = rig::up_on(|settings| settings.media_status_follows_link = false).await;
        let mut events = pair.nic.events();
        let start = Instant::now();
        pair.host.set_link(NIC, true);
        assert_eq!(events.next().await, Some(Event::LinkDown));
        assert_eq!(pair.nic.info().link, LinkState::Down);
        // The host says "connected" all the time; what it indicates wins.
        let status = pair.nic.query(Oid::MEDIA_CONNECT_STATUS).await.unwrap();
        assert_eq!(status, [0; 4]);
        assert_eq!(pair.nic.info().link, LinkState::Down);
        assert_eq!(events.next().await, Some(Event::LinkUp));
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(pair.nic.info().link, LinkState::Up);
        rig::exchange(&mut pair, &SIZES, 20).await;
        // A burst of changes is told as what came out of it.
        for up in [false, true, false, true, false, true] {
            pair.host.set_link(NIC, up);
        }
        let seen = rig::events_within(&mut events, Duration::from_secs(30)).await;
        assert!(seen.len() <= 4, "{seen:?}");
        assert_eq!(pair.nic.info().link, LinkState::Up);
        rig::exchange(&mut pair, &SIZES, 20).await;
        rig::close(pair).await;
    });
}

#[test]
fn row_24_a_vf_that_is_taken_away_by_surprise_does_no_harm() {
    // At any time of the bring-up.
    for spared in 0..40 {
        paused(async {
            let removed = [(Fault::VfRemoved, When::After { spared })];
            let mut pair = rig::up_with(Host::builder(), &removed, Nic::builder().receive_sections(64)).await;
            rig::exchange(&mut pair, &SIZES, 20).await;
            rig::close(pair).await;
        });
    }
    // And all the time.
    for version in nvsp::Version::ALL {
        paused(async {
            let often = [(Fault::VfRemoved, When::Every { nth: 3 })];
            let mut pair = rig::up_with(Host::builder().nvsp_max(version), &often, Nic::builder()).await;
            let mut events = pair.nic.events();
            rig::exchange(&mut pair, &SIZES, 500).await;
            let told = rig::report(&pair).counters.vf_messages;
            assert_eq!(told > 0, version >= nvsp::Version::V4, "{told} messages");
            let seen = rig::events_within(&mut events, Duration::from_secs(1)).await;
            assert!(!seen.iter().any(|event| matches!(event, Event::Violation(_) | Event::Failed(_))), "{seen:?}");
            assert_eq!(pair.nic.info().virtual_function, None);
            rig::close(pair).await;
        });
    }
}

#[test]
fn row_25_a_broken_subchannel_leaves_the_primary_channel_alone() {
    paused(async {
        let broken = [(Fault::SubchannelSilent, When::Always)];
        let mut pair = rig::up_with(Host::builder(), &broken, Nic::builder()).await;
        rig::exchange(&mut pair, &SIZES, 100).await;
        assert_eq!(rig::strikes(&pair.host, Fault::SubchannelSilent), 0);
        rig::close(pair).await;
    });
}

#[test]
fn row_26_nothing_is_sent_that_makes_a_host_fall_silent() {
    for profile in Profile::ALL {
        for openvmm in [false, true] {
            paused(async {
                let host = Host::builder().profile(profile).tune(|settings| {
                    if openvmm {
                        *settings = settings.clone().openvmm();
                    }
                });
                let mut pair = rig::up(host, Nic::builder()).await;
                for _ in 0..5 {
                    pair.nic.set_packet_filter(PacketFilter::CLOSED).await.unwrap();
                    pair.nic.set_packet_filter(PacketFilter::OPEN).await.unwrap();
                    assert!(pair.nic.query(Oid(0xFFFF_FFFF)).await.is_err(), "a question, not a wrong");
                    rig::exchange(&mut pair, &SIZES, 20).await;
                }
                assert!(!rig::report(&pair).silent);
                let Pair { host, far: _far, nic, queue: _queue } = pair;
                let report = nic.close().await.unwrap();
                assert!(report.is_clean(), "{report:?}");
                rig::all_undone(&host).await;
            });
        }
    }
}

#[test]
fn row_27_structures_come_at_the_hosts_own_revision_and_size() {
    for version in nvsp::Version::ALL {
        for offloads in [Offloads::NONE, Offloads::ALL] {
            paused(async {
                // The host answers with revision 3 whatever was asked for.
                let host = Host::builder().nvsp_max(version).tune(|settings| settings.offloads = offloads);
                let mut pair = rig::up(host, Nic::builder()).await;
                let info = pair.nic.info();
                assert_eq!(info.offload.lso_v2_v4.max_size, offloads.lso_max_bytes);
                assert_eq!(info.rss.is_some(), version >= nvsp::Version::V5);
                rig::exchange(&mut pair, &SIZES, 20).await;
                rig::close(pair).await;
            });
        }
    }
}
