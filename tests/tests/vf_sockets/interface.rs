//! What happens to the interface, and how it is set.

use std::future::poll_fn;
use std::net::UdpSocket;

use netvsc::LinkState;
use netvsc::vf::{VfQueue, VfSendError};
use netvsc_async::vf::sockets::{Method, SocketVf};
use netvsc_async::vf::{Adapter, AsyncVfQueue, VfBackend, VfEvent, VfWish};

use crate::wire::{
    FAR, Frames, MAC, METHODS, MTU, PATIENCE, PEER, SERIAL, VF, Wire, backend, data, datagram, event, nothing, open,
    payload, peer_socket, receive, send_all, until, wait_for,
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

/// A thread that may wait, the only one of its runtime, which is kept busy.
struct Busy {
    _until: std::sync::mpsc::Sender<()>,
}

impl Busy {
    fn new() -> Self {
        let (until, told) = std::sync::mpsc::channel::<()>();
        let (begins, begun) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || {
            begins.send(()).unwrap();
            told.recv()
        });
        begun.recv_timeout(PATIENCE).unwrap();
        Self { _until: until }
    }
}

#[test]
fn settings_are_changed_elsewhere_in_order_and_undone_if_nobody_waits() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    let socket = peer_socket(&wire);
    wire.run_with_one_that_waits(|| async {
        let (_watch, mut opened) = open(&wire, &backend(Method::AfPacket), 1).await;
        let shown = || wire.guest.ip(&format!("-d link show {VF}")).unwrap();
        let device = opened.device;
        let busy = Busy::new();
        let mut asked = [device.set_mtu(1400), device.set_mtu(1_000_000), device.set_mtu(1480)];
        let promiscuous = device.set_promiscuous(true);
        for future in &mut asked {
            assert!(futures::poll!(future).is_pending());
        }
        assert!(shown().contains("mtu 1500"), "{}", shown());
        // Meanwhile frames pass.
        let sent = data(700, 5);
        send_all(&mut opened.queues[0], [datagram(PEER, 5000, &sent)]).await;
        let mut received = [0; 1500];
        assert_eq!(socket.recv(&mut received).unwrap(), sent.len());
        drop(busy);
        let [first, second, third] = asked;
        assert!(first.await.is_ok());
        let refused = second.await.unwrap_err();
        assert!(third.await.is_ok(), "the last one asked for is the one that counts");
        promiscuous.await.unwrap();
        assert!(refused.to_string().contains("MTU"), "{refused}");
        assert!(shown().contains("mtu 1480") && shown().contains("promiscuity 1"), "{}", shown());

        // Nobody wants it any more before it was begun.
        let busy = Busy::new();
        drop(device.set_mtu(1300));
        let mut late = device.set_promiscuous(false);
        assert!(futures::poll!(&mut late).is_pending());
        drop(busy);
        late.await.unwrap();
        assert!(shown().contains("mtu 1480") && shown().contains("promiscuity 0"), "{}", shown());

        // It is closed while something waits: that is not done, and what was done is put back.
        let busy = Busy::new();
        let mut late = device.set_mtu(1300);
        assert!(futures::poll!(&mut late).is_pending());
        device.close();
        assert_eq!(late.await.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
        assert!(shown().contains("mtu 1480"), "closing waits for nobody: {}", shown());
        drop(busy);
        wait_for("the MTU as it was", || shown().contains("mtu 1500")).await;
        assert!(device.set_promiscuous(true).await.is_err());
    });
}

#[test]
fn whoever_opens_it_next_finds_it_as_it_was() {
    let _lock = privileged!();
    let wire = Wire::new(1);
    wire.run_with_one_that_waits(|| async {
        let shown = || wire.guest.ip(&format!("link show {VF}")).unwrap();
        let opening = |mtu| async move {
            let mut watch = backend(Method::AfPacket).watch(&Adapter::new(MAC)).unwrap();
            assert_eq!(event(&mut watch).await, VfEvent::Arrived { serial: Some(SERIAL) });
            let opening = watch.open(VfWish::new(1, mtu, false));
            (watch, opening)
        };
        let (_watch, first) = opening(1400).await;
        let first = first.await.unwrap();
        assert!(shown().contains("mtu 1400"), "{}", shown());
        let busy = Busy::new();
        first.device.close();
        let (opened, is_open) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel();
        let wire = &wire;
        std::thread::scope(move |scope| {
            // Another one, which knows nothing of the first.
            let other = scope.spawn(move || {
                wire.run(move || async move {
                    let (_watch, second) = opening(1450).await;
                    let second = second.await.unwrap();
                    opened.send(()).unwrap();
                    goes_on.recv_timeout(PATIENCE).unwrap();
                    assert!(shown().contains("mtu 1450"), "{}", shown());
                    // Nobody closes it: it is dropped.
                    drop(second);
                    wait_for("the MTU as it was", || shown().contains("mtu 1500")).await;
                });
            });
            let early = is_open.recv_timeout(std::time::Duration::from_millis(300));
            drop(busy);
            assert!(early.is_err(), "it was opened before it was closed");
            is_open.recv_timeout(PATIENCE).unwrap();
            go_on.send(()).unwrap();
            other.join().unwrap();
        });
        // Nor is it open if nobody waited for that.
        let (_watch, mut third) = opening(1350).await;
        assert!(futures::poll!(&mut third).is_pending());
        wait_for("an interface that is open", || shown().contains("mtu 1350")).await;
        drop(third);
        wait_for("the MTU as it was", || shown().contains("mtu 1500")).await;
    });
}
