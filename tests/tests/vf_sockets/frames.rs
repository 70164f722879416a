//! What is sent and received by the queues.

use std::future::poll_fn;
use std::net::UdpSocket;
use std::task::Poll;

use netvsc::LinkState;
use netvsc::checksum::verify;
use netvsc::meta::{RxMeta, Verdict};
use netvsc::queue::FrameSink;
use netvsc::vf::{VfQueue, VfSendError};
use netvsc_allocations::count_here;
use netvsc_async::vf::sockets::{Method, PacketSettings, SocketVf, XdpSettings};
use netvsc_async::vf::{Adapter, AsyncVfQueue, VfBackend, VfEvent, VfWish};

use crate::wire::{
    FAR, Frames, MAC, METHODS, MTU, PEER, Wire, backend, data, datagram, event, open, payload, peer_socket, receive,
    send_all,
};

#[test]
fn frames_pass_both_ways_byte_by_byte_with_right_checksums() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            for len in [1, 2, 17, 18, 19, 100, 999, 1471, 1472] {
                // The kernel leaves the checksum of what it sends on a veth to be computed.
                let sent = data(len, 1);
                socket.send(&sent).unwrap();
                let (frame, meta) = receive(queue).await;
                assert_eq!(payload(&frame), Some(&sent[..]), "{len}");
                let verdict = verify(&frame);
                assert_eq!((verdict.ip, verdict.transport), (Verdict::Good, Verdict::Good), "{len}");
                assert_eq!(meta.checksum.transport, Verdict::Good, "{len}");
                assert_eq!(meta.vlan, None);

                let sent = data(len, 2);
                send_all(queue, [datagram(PEER, 5000, &sent)]).await;
                let mut received = [0; 2000];
                let received_len = socket.recv(&mut received).unwrap();
                assert_eq!(received[..received_len], sent[..], "{len}");
            }
        });
        assert!(wire.peer.checksum_errors().unwrap().values().all(|errors| *errors == 0));
    }
}

#[test]
fn what_the_kernel_reads_late_is_not_overwritten_by_what_is_sent_next() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    let socket = peer_socket(&wire);
    wire.run(|| async {
        let settings = {
            let mut settings = PacketSettings::default();
            settings.send_slots = 1;
            settings.send_slot_bytes = 30_000;
            settings
        };
        let (_watch, mut opened) = open(&wire, &backend(Method::AfPacket).packet(settings), 1).await;
        let queue = &mut opened.queues[0];
        // More than the ring has slots, none of it read before all is sent; no more than the socket keeps.
        let frames = queue.room() + 10;
        assert!(frames < 60);
        for number in 0..frames {
            send_all(queue, [datagram(PEER, 5000, &data(1000, number))]).await;
        }
        for number in 0..frames {
            let mut received = [0; 2000];
            let len = socket.recv(&mut received).unwrap();
            assert_eq!(received[..len], data(1000, number)[..], "{number}");
        }
    });
}

#[test]
fn a_full_ring_says_so_and_empties() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        wire.run(|| async {
            let mut settings = PacketSettings::default();
            settings.send_slots = 1;
            let mut xdp = XdpSettings::default();
            xdp.frames = 64;
            let (_watch, mut opened) = open(&wire, &backend(method).packet(settings).xdp(xdp), 1).await;
            let queue = &mut opened.queues[0];
            let room = queue.room();
            assert!(room > 10);
            let frame = datagram(PEER, 5000, &data(64, 0));
            for round in 0..3 {
                for taken in 0..room {
                    assert_eq!(queue.room(), room - taken);
                    queue.send(&frame).unwrap();
                }
                assert_eq!(queue.send(&frame), Err(VfSendError::Full), "{round}");
                assert_eq!(queue.room(), 0);
                queue.flush();
                poll_fn(|cx| queue.poll_sent(cx, 0)).await;
                assert_eq!((queue.outstanding(), queue.room()), (0, room));
            }
            let long = vec![0; MTU as usize + 19];
            assert_eq!(queue.send(&long), Err(VfSendError::TooLong { len: 1519, limit: 1518 }));
        });
        let received = wire.peer.link_counters(FAR).unwrap().rx_packets;
        assert!(received >= 192, "{received}");
    }
}

#[test]
fn tags_travel_beside_the_frame() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    wire.run(|| async {
        let (_watch, mut opened) = open(&wire, &backend(Method::AfPacket), 1).await;
        let queue = &mut opened.queues[0];
        let frame = datagram(MAC, 4000, &data(300, 3));
        let tagged = |tags: &[u8]| {
            let mut tagged = frame.clone();
            tagged.splice(12..12, tags.iter().copied());
            tagged
        };
        // 802.1Q; one behind another; 802.1ad, which has no place beside a frame.
        let customer = [0x81, 0, 0x60, 5];
        let twice = [0x81, 0, 0, 6, 0x81, 0, 0, 7];
        let service = [0x88, 0xA8, 0, 8];
        // The kernel of the peer makes such frames only with a module; a function at its end sends anything.
        let sent = [tagged(&customer), tagged(&twice), tagged(&service)];
        wire.peer.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut watch = SocketVf::new()
                    .virtual_interfaces(true)
                    .method(Method::AfPacket)
                    .watch(&Adapter::new(PEER))
                    .unwrap();
                assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
                let mut opened = watch.open(VfWish::new(1, MTU, false)).await.unwrap();
                assert_eq!(opened.link, LinkState::Up);
                send_all(&mut opened.queues[0], sent).await;
            });
        });
        let expected = [(Some(0x6005), frame.clone()), (Some(6), tagged(&twice[4..])), (None, tagged(&service))];
        for (tci, expected) in expected {
            let (frame, meta) = receive(queue).await;
            assert_eq!((meta.vlan.map(|vlan| vlan.tci()), &frame), (tci, &expected));
        }
    });
}

#[test]
fn each_flow_has_one_of_several_queues() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(4);
        let sockets: Vec<UdpSocket> =
            wire.peer.enter(|| (0..32).map(|_| UdpSocket::bind("198.51.100.2:0").unwrap()).collect());
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 4).await;
            assert_eq!(opened.queues.len(), 4);
            let rounds = 4;
            for _ in 0..rounds {
                for socket in &sockets {
                    socket.send_to(&data(40, 0), "198.51.100.1:4000").unwrap();
                }
            }
            let mut seen = vec![Vec::new(); 4];
            while seen.iter().map(Vec::len).sum::<usize>() < sockets.len() * rounds {
                let queue = poll_fn(|cx| {
                    let ready = opened.queues.iter_mut().position(|queue| queue.poll_received(cx).is_ready());
                    ready.map_or(Poll::Pending, Poll::Ready)
                });
                let queue = queue.await;
                let mut sink = Frames::default();
                opened.queues[queue].receive(&mut sink, 64);
                for (frame, _) in sink.all {
                    if payload(&frame).is_some_and(|payload| payload == data(40, 0)) {
                        seen[queue].push([frame[34], frame[35]]);
                    }
                }
            }
            assert!(seen.iter().filter(|ports| !ports.is_empty()).count() > 1, "{seen:?}");
            for socket in &sockets {
                let port = socket.local_addr().unwrap().port().to_be_bytes();
                let times: Vec<usize> =
                    seen.iter().map(|ports| ports.iter().filter(|seen| **seen == port).count()).collect();
                assert!(times.iter().all(|times| [0, rounds].contains(times)), "{times:?}");
                assert_eq!(times.iter().sum::<usize>(), rounds, "nothing comes twice");
            }
        });
    }
}

/// A sink of one buffer.
struct Last {
    buffer: [u8; 2048],
    frames: u64,
}

impl FrameSink for Last {
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(..len)
    }

    fn commit(&mut self, _: usize, _: RxMeta) {
        self.frames += 1;
    }
}

#[test]
fn nothing_is_allocated_for_a_frame() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            let (frame, other) = (datagram(PEER, 5000, &data(1000, 1)), data(1400, 2));
            let mut sink = Last { buffer: [0; 2048], frames: 0 };
            let mut before = 0;
            for round in 0..300 {
                if round == 50 {
                    before = count_here();
                }
                socket.send(&other).unwrap();
                queue.send(&frame).unwrap();
                queue.flush();
                poll_fn(|cx| queue.poll_received(cx)).await;
                queue.receive(&mut sink, 32);
                while queue.outstanding() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            assert_eq!(count_here() - before, 0, "{method:?}");
            assert!(sink.frames >= 250, "{method:?}: {}", sink.frames);
        });
    }
}
