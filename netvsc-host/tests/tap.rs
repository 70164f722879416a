//! A TAP port against the kernel of this machine. Needs root, or `CAP_NET_ADMIN`, and `/dev/net/tun`.
#![cfg(all(feature = "tap", target_os = "linux"))]

use core::task::Waker;
use core::time::Duration;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Instant;

use netvsc_host::port::{Frame, Port, TapConfig, TapError, TapPort};

const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x02];
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;

/// After so long without the frame that is waited for, the test has failed.
const WATCHDOG: Duration = Duration::from_secs(30);

#[test]
fn frames_go_to_and_from_the_kernel() {
    // Of 198.18.0.0/15, which RFC 2544 sets aside for tests.
    let kernel = Ipv4Addr::new(198, 18, 77, 1);
    let peer = Ipv4Addr::new(198, 18, 77, 2);
    let Some(mut tap) = open(TapConfig::new().ipv4(kernel, 24).mtu(1400)) else { return };
    let handle = tap.handle();
    let kernel_mac = tap.mac();
    let socket = UdpSocket::bind((kernel, 0)).expect("the kernel's end has the address");
    let port = socket.local_addr().expect("bound").port();

    // The kernel asks for the peer, is answered, and sends the datagram that made it ask.
    socket.send_to(b"to the peer", (peer, 7777)).expect("a route to the peer");
    let request = wait_for(&mut tap, |frame| ether_type(frame) == ARP && frame[38..42] == peer.octets());
    assert_eq!(request[..6], [0xff; 6]);
    assert_eq!(request[6..12], kernel_mac);
    assert!(tap.deliver(Frame::new(&arp_answer(&request))));
    let datagram = wait_for(&mut tap, |frame| ether_type(frame) == IPV4 && frame.ends_with(b"to the peer"));
    assert_eq!(datagram[..6], PEER_MAC);

    // A datagram of the peer reaches the socket.
    assert!(tap.deliver(Frame::new(&udp(kernel_mac, peer, kernel, port, b"from the peer"))));
    socket.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("the datagram");
    assert_eq!((&buffer[..len], from.ip()), (&b"from the peer"[..], peer.into()));

    // The peer pings the kernel.
    assert!(tap.deliver(Frame::new(&echo_request(kernel_mac, peer, kernel))));
    let reply = wait_for(&mut tap, |frame| ether_type(frame) == IPV4 && frame[23] == 1);
    assert_eq!(reply[34], 0, "an echo reply");
    assert_eq!(reply[30..34], peer.octets());

    let stats = handle.stats();
    assert!(stats.read >= 3 && stats.written == 3, "{stats:?}");
    assert_eq!((stats.read_full, stats.write_full, stats.write_failed, stats.reader_error), (0, 0, 0, None));
}

#[test]
fn the_interface_has_its_settings_and_goes_away_with_the_port() {
    let mac = [0x02, 0, 0, 0, 0x77, 0x10];
    let Some(tap) = open(TapConfig::new().name("nvsctest0").mtu(1400).mac(mac)) else { return };
    assert_eq!((tap.name(), tap.mac()), ("nvsctest0", mac));
    let setting = |name| std::fs::read_to_string(format!("/sys/class/net/nvsctest0/{name}"));
    if std::path::Path::new("/sys/class/net/lo").exists() {
        assert_eq!(setting("mtu").expect("the interface").trim(), "1400");
        assert_eq!(setting("address").expect("the interface").trim(), "02:00:00:00:77:10");
    }
    let again = TapPort::open(TapConfig::new().name("nvsctest0")).expect_err("the name is taken");
    assert!(!again.is_missing_privilege(), "{again}");
    drop(tap);
    drop(TapPort::open(TapConfig::new().name("nvsctest0")).expect("the name is free again"));
}

#[test]
fn a_slow_host_loses_frames_and_counts_them() {
    let kernel = Ipv4Addr::new(198, 18, 78, 1);
    let Some(mut tap) = open(TapConfig::new().ipv4(kernel, 24).capacity(2)) else { return };
    let handle = tap.handle();
    let socket = UdpSocket::bind((kernel, 0)).expect("the kernel's end has the address");
    socket.set_broadcast(true).expect("a socket option");
    let started = Instant::now();
    while handle.stats().read_full == 0 {
        // Each broadcast is one frame; nobody polls.
        socket.send_to(b"anyone", (Ipv4Addr::new(198, 18, 78, 255), 7777)).expect("a route");
        thread::yield_now();
        assert!(started.elapsed() < WATCHDOG, "the kernel sent nothing: {:?}", handle.stats());
    }
    assert_eq!(handle.stats().read, 2);
    assert_eq!(tap.next_timeout(Duration::ZERO), Some(Duration::ZERO));
    assert_eq!(tap.poll(Duration::ZERO, 64, &mut |_| ()), 2);
}

/// Opens a TAP. Where that is not possible, the test is skipped on a desk and fails in CI.
fn open(config: TapConfig) -> Option<TapPort> {
    match TapPort::open(config) {
        Ok(tap) => Some(tap),
        Err(error) if error.is_missing_privilege() || error.is_missing_device() => {
            skip(&error);
            None
        }
        Err(error) => panic!("{error}: {:?}", core::error::Error::source(&error)),
    }
}

fn skip(why: &TapError) {
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run this test: {why}");
    println!("SKIPPED: {why}");
}

/// Sleeps until the port has a frame for which `wanted` holds; others, such as IPv6 discovery, are passed over.
fn wait_for(tap: &mut TapPort, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let started = Instant::now();
    let mut found = None;
    loop {
        tap.register_waker(&waker);
        while tap.poll(Duration::ZERO, 1, &mut |frame| {
            if frame.bytes.len() >= 42 && wanted(frame.bytes) {
                found = Some(frame.bytes.to_vec());
            }
        }) > 0
        {
            if let Some(frame) = found.take() {
                return frame;
            }
        }
        let left = WATCHDOG.checked_sub(started.elapsed()).expect("the frame comes from the kernel");
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn ether_type(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

/// "The address that you asked for is [`PEER_MAC`]'s."
fn arp_answer(request: &[u8]) -> Vec<u8> {
    let mut answer = request[..42].to_vec();
    answer[..6].copy_from_slice(&request[6..12]);
    answer[6..12].copy_from_slice(&PEER_MAC);
    answer[20..22].copy_from_slice(&2_u16.to_be_bytes());
    answer[22..28].copy_from_slice(&PEER_MAC);
    answer[28..32].copy_from_slice(&request[38..42]);
    answer[32..42].copy_from_slice(&request[22..32]);
    answer
}

/// An UDP datagram; its checksum of 0 says that there is none.
fn udp(to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("short");
    let mut body = Vec::new();
    for word in [7777, port, len, 0] {
        body.extend_from_slice(&word.to_be_bytes());
    }
    body.extend_from_slice(payload);
    ipv4(to_mac, from, to, 17, &body)
}

fn echo_request(to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut body = *b"\x08\x00\x00\x00\x12\x34\x00\x01ping";
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(to_mac, from, to, 1, &body)
}

fn ipv4(to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + body.len()).expect("short");
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&to_mac[..], &PEER_MAC, &IPV4.to_be_bytes(), &header, body].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
