//! The kernel's TCP, through two functions.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use netvsc::checksum::verify;
use netvsc::meta::Verdict;
use netvsc::vf::VfQueue;
use netvsc_async::vf::AsyncVfQueue;
use netvsc_async::vf::sockets::Method;
use sha2::{Digest, Sha256};

use crate::wire::{FAR, Frames, MAC, METHODS, PATIENCE, PEER, Wire, backend, data, open, payload, send_all};

/// Between the kernels of two peers, frames are passed on from the function of one to that of the other.
#[test]
fn the_kernels_tcp_passes_through_two_functions_unharmed() {
    let _lock = privileged!();
    for method in METHODS {
        let wires = [Wire::new(1), Wire::new(1)];
        // Each is the other's neighbour, by the address of the function on its own wire.
        let far = &wires[1].peer;
        far.ip(&format!("addr del 198.51.100.2/24 dev {FAR}")).unwrap();
        far.ip(&format!("addr add 198.51.100.1/24 dev {FAR}")).unwrap();
        far.ip(&format!("neigh add 198.51.100.2 lladdr {MAC} dev {FAR} nud permanent")).unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        // Each function lives in its own namespace, and so does its thread; frames cross by a channel.
        let (to_far, from_near) = tokio::sync::mpsc::channel(1024);
        let (to_near, from_far) = tokio::sync::mpsc::channel(1024);
        let cut: u64 = std::thread::scope(|scope| {
            let relays: Vec<_> = [(to_far, from_far), (to_near, from_near)]
                .into_iter()
                .zip(&wires)
                .map(|((to, from), wire)| {
                    let stopped = stopped.clone();
                    scope.spawn(move || wire.run(|| relay(wire, method, to, from, stopped)))
                })
                .collect();
            let total = 6 << 20;
            let listener = far.enter(|| TcpListener::bind("198.51.100.1:5001")).unwrap();
            let far_end = scope.spawn(move || both_ways(listener.accept().unwrap().0, total, 1, 2));
            let near = wires[0].peer.enter(|| {
                let address: SocketAddr = "198.51.100.1:5001".parse().unwrap();
                TcpStream::connect_timeout(&address, PATIENCE).unwrap()
            });
            both_ways(near, total, 2, 1);
            far_end.join().unwrap();
            stop.send_replace(true);
            relays.into_iter().map(|relay| relay.join().unwrap()).sum()
        });
        for wire in &wires {
            assert!(wire.peer.checksum_errors().unwrap().values().all(|errors| *errors == 0));
        }
        let sent: u64 = wires.iter().map(|wire| wire.peer.link_counters(FAR).unwrap().tx_packets).sum();
        assert!(method != Method::AfPacket || cut > sent, "large segments were cut: {sent} became {cut}");
    }
}

/// Passes frames on; says how many were received.
async fn relay(
    wire: &Wire,
    method: Method,
    to: tokio::sync::mpsc::Sender<Vec<u8>>,
    mut from: tokio::sync::mpsc::Receiver<Vec<u8>>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> u64 {
    let (_watch, mut opened) = open(wire, &backend(method), 1).await;
    let queue = &mut opened.queues[0];
    let mut received = 0;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return received,
            frame = from.recv() => {
                let Some(mut frame) = frame else { return received };
                frame[..6].copy_from_slice(&PEER.0);
                frame[6..12].copy_from_slice(&MAC.0);
                send_all(queue, [frame]).await;
            }
            () = poll_fn(|cx| queue.poll_received(cx)) => {
                let mut sink = Frames::default();
                received += queue.receive(&mut sink, 32) as u64;
                for (frame, _) in sink.all {
                    assert!(frame.len() <= 1514, "{}", frame.len());
                    if payload(&frame).is_some() {
                        assert_ne!(verify(&frame).transport, Verdict::Bad);
                        // What finds no room is lost, as on any network: were it waited for, both sides might wait for each
                        // other. The other side may be over already, too.
                        let _ = to.try_send(frame);
                    }
                }
            }
        }
    }
}

/// Sends bytes and receives as many, at the same time.
fn both_ways(stream: TcpStream, total: usize, send: usize, receive: usize) {
    let stream = Arc::new(stream);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let chunk = |seed: usize, at: usize| data(1 << 16, seed + at / (1 << 16));
    std::thread::scope(|scope| {
        let sender = Arc::clone(&stream);
        scope.spawn(move || {
            for at in (0..total).step_by(1 << 16) {
                (&*sender).write_all(&chunk(send, at)).unwrap();
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&*stream).read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), total);
        let expected: Vec<u8> = (0..total).step_by(1 << 16).flat_map(|at| chunk(receive, at)).collect();
        assert_eq!(Sha256::digest(&received), Sha256::digest(&expected));
    });
}
