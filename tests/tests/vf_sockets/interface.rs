//! What happens to the interface, and how it is set.

use std::future::poll_fn;
use std::net::UdpSocket;

use netvsc::LinkState;
use netvsc::vf::{VfQueue, VfSendError};
use netvsc_async::vf::sockets::{Method, SocketVf};
use netvsc_async::vf::{Adapter, AsyncVfQueue, VfBackend, VfEvent, VfWish};

use crate::wire::{
    FAR, Frames, MAC, METHODS, MTU, PEER, SERIAL, VF, Wire, backend, data, datagram, event, nothing, open, payload,
    peer_socket, receive, send_all, until, wait_for,
};

#[test]
fn frames_for_others_come_only_if_wanted() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        wire.peer.ip(&format!("neigh add 198.51.100.3 lladdr 00:0d:3a:51:00:03 dev {FAR} nud permanent")).unwrap();
        let socket = peer_socket(&wire);
        let other = wire.peer.enter(|| UdpSocket::bind("198.51.100.2:5001")).unwrap();
        wire.run(|| async {
            let (_watch, mut opened) = open(&wire, &backend(method), 1).await;
            for promiscuous in [false, true, false] {
                opened.device.set_promiscuous(promiscuous).await.unwrap();
                let mut seen = Vec::new();
                other.send_to(b"other", "198.51.100.3:4000").unwrap();
                if promiscuous {
                    // Waited for: sent from different processors, the next frame could overtake it.
                    let (frame, _) = receive(&mut opened.queues[0]).await;
                    seen.push(payload(&frame).unwrap().to_vec());
                }
                socket.send(b"ours").unwrap();
                while seen.last().is_none_or(|last| last != b"ours") {
                    let (frame, _) = receive(&mut opened.queues[0]).await;
                    seen.push(payload(&frame).unwrap().to_vec());
                }
                let expected: &[&[u8]] = if promiscuous { &[b"other", b"ours"] } else { &[b"ours"] };
                assert_eq!(seen, expected);
            }
        });
    }
}

#[test]
fn a_link_that_goes_down_is_told_of_and_works_again() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (mut watch, mut opened) = open(&wire, &backend(method), 1).await;
            let frame = datagram(PEER, 5000, &data(64, 9));
            for _ in 0..2 {
                wire.peer.ip(&format!("link set {FAR} down")).unwrap();
                until(&mut watch, VfEvent::Link(LinkState::Down)).await;
                let queue = &mut opened.queues[0];
                assert_eq!((queue.send(&frame), queue.room()), (Err(VfSendError::NotReady), 0));
                assert_eq!(queue.outstanding(), 0);
                wire.peer.ip(&format!("link set {FAR} up")).unwrap();
                until(&mut watch, VfEvent::Link(LinkState::Up)).await;
                wire.settle(FAR);
                send_all(queue, [frame.clone()]).await;
                let mut received = [0; 100];
                assert_eq!(socket.recv(&mut received).unwrap(), 64);
                // Neighbours were forgotten with the link.
                wire.peer.ip(&format!("neigh replace 198.51.100.1 lladdr {MAC} dev {FAR} nud permanent")).unwrap();
                socket.send(&data(64, 8)).unwrap();
                assert_eq!(payload(&receive(queue).await.0), Some(&data(64, 8)[..]));
            }
        });
    }
}

#[test]
fn an_interface_that_is_deleted_under_load_ends_in_a_loss_and_not_in_a_hang() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let (mut watch, mut opened) = open(&wire, &backend(method), 1).await;
            let queue = &mut opened.queues[0];
            let frame = datagram(PEER, 5000, &data(1000, 1));
            let deleted = std::thread::spawn({
                let guest = wire.guest.clone();
                move || guest.ip(&format!("link del {VF}"))
            });
            let mut sent = 0;
            let gone = loop {
                let _ = socket.send(&data(100, 1));
                match queue.send(&frame) {
                    Ok(()) => sent += 1,
                    Err(VfSendError::Full) => queue.flush(),
                    Err(VfSendError::NotReady) => break queue.outstanding(),
                    Err(error) => panic!("{error}"),
                }
                if sent % 16 == 0 {
                    queue.flush();
                }
                tokio::task::yield_now().await;
            };
            deleted.join().unwrap().unwrap();
            until(&mut watch, VfEvent::Gone).await;
            // What was inside stays inside, and nobody waits for it.
            assert_eq!(queue.send(&frame), Err(VfSendError::NotReady));
            queue.flush();
            assert!(queue.outstanding() <= gone);
            poll_fn(|cx| queue.poll_sent(cx, 0)).await;
            // What was received can be read all the same.
            let mut sink = Frames::default();
            while queue.has_received() {
                queue.receive(&mut sink, 64);
            }
            assert_eq!(queue.receive(&mut sink, 64), 0);
            opened.device.close();
            assert!(opened.device.set_mtu(MTU).await.is_err());
            drop(opened);

            wire.plug(1);
            assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
            let mut opened = watch.open(VfWish::new(1, MTU, false)).await.unwrap();
            if opened.link == LinkState::Down {
                until(&mut watch, VfEvent::Link(LinkState::Up)).await;
            }
            send_all(&mut opened.queues[0], [frame]).await;
        });
    }
}

#[test]
fn the_interface_is_found_by_its_number_and_its_address_and_set() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    wire.run(|| async {
        // A virtual interface is none, unless it is said to be.
        let mut watch = SocketVf::new().watch(&Adapter::new(MAC)).unwrap();
        nothing(&mut watch).await;
        let mut watch = SocketVf::new().virtual_interfaces(true).watch(&Adapter::new(MAC)).unwrap();
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
        watch.find(99);
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: None });
        let mut watch = backend(Method::AfPacket).watch(&Adapter::new(PEER)).unwrap();
        nothing(&mut watch).await;

        let mut watch = backend(Method::AfPacket).watch(&Adapter::new(MAC)).unwrap();
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
        watch.find(SERIAL + 1);
        nothing(&mut watch).await;
        watch.find(SERIAL);
        assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
        // One that serves another is not there for us.
        wire.guest.ip("link add vfsockbr type bridge").unwrap();
        wire.guest.ip(&format!("link set {VF} master vfsockbr")).unwrap();
        until(&mut watch, VfEvent::Gone).await;
        wire.guest.ip(&format!("link set {VF} nomaster")).unwrap();
        until(&mut watch, VfEvent::Arrived { serial: Some(SERIAL) }).await;

        wire.guest.ip(&format!("link set {VF} mtu 1400")).unwrap();
        let opened = watch.open(VfWish::new(1, 1450, false)).await.unwrap();
        let shown = || wire.guest.ip(&format!("link show {VF}")).unwrap();
        assert!(shown().contains("mtu 1450"), "{}", shown());
        assert!(shown().contains("UP"), "{}", shown());
        opened.device.set_mtu(1480).await.unwrap();
        assert!(shown().contains("mtu 1480"), "{}", shown());
        assert!(opened.device.set_mtu(1_000_000).await.is_err());
        assert!(shown().contains("mtu 1480"), "{}", shown());
        assert_eq!(opened.device.name(), VF);
        opened.device.close();
        // Elsewhere.
        wait_for("the MTU as it was", || shown().contains("mtu 1400")).await;
    });
}
