//! A stack on the adapter, and the kernel's behind a TAP interface of the simulated switch.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use netvsc_host::port::{TapConfig, TapPort};
use netvsc_tests::netns::Netns;
use netvsc_tests::real;
use netvsc_tests::transfer::uninterrupted;

use crate::*;

const TAP: &str = "nvreconf0";
/// Between two changes, each way: more than 64 MiB in all.
const BYTES: u64 = 1400 << 10;

/// Sends until it is told to stop.
fn write(mut stream: TcpStream, end: &End) {
    let mut block = vec![0; 16 << 10];
    while !end.stops() {
        fill(&mut block, end.sent());
        stream.write_all(&block).expect("the adapter takes bytes");
        end.sent.fetch_add(block.len() as u64, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).expect("connected");
}

/// Receives until the other end stops.
fn read(mut stream: TcpStream, end: &End) {
    let mut block = vec![0; 64 << 10];
    loop {
        let read = uninterrupted(|| stream.read(&mut block)).expect("the adapter gives bytes");
        if read == 0 {
            return;
        }
        check(&block[..read], end.arrived());
        end.arrived.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// The kernel's end of the connection, on threads in the namespace.
fn talk(netns: &Netns, end: &Arc<End>) {
    let address = SocketAddr::from(([198, 51, 100, OURS], PORT));
    let stream = netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("connects");
    stream.set_write_timeout(Some(PATIENCE)).expect("is not zero");
    stream.set_read_timeout(Some(PATIENCE)).expect("is not zero");
    let other = stream.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(|| write(other, end));
        read(stream, end);
    });
}

#[test]
fn the_kernels_tcp_behind_a_tap_interface() {
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let host = Host::builder().build();
        host.add_port(TapPort::open(TapConfig::new().name(TAP).vnet_hdr(false)).expect("a TAP interface"));
        netns.adopt(TAP).expect("moves");
        netns.ip(&format!("address add 198.51.100.{PEER}/24 dev {TAP}")).expect("an address");
        netns.ip(&format!("link set dev {TAP} up")).expect("up");
        let (ours, theirs) = (Ours::up(&host).await, Arc::new(End::default()));

        let talker = tokio::task::spawn_blocking({
            let (netns, end) = (netns.clone(), Arc::clone(&theirs));
            move || talk(&netns, &end)
        });
        ours.change_all(&theirs, BYTES).await;
        // The kernel's end first, which then receives the last of ours.
        theirs.stop();
        ours.end.stop();
        talker.await.expect("the kernel's end");
        ours.finish(&theirs, &host).await;
    });
}
