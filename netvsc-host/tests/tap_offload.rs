//! The kernel's TCP between two network namespaces, each behind a TAP of one switch: with large frames and unfinished
//! checksums, and without. Needs root.
#![cfg(all(feature = "tap", target_os = "linux"))]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netvsc_host::Host;
use netvsc_host::port::{TapConfig, TapHandle, TapPort};

/// Bytes each way.
const BYTES: usize = 8 << 20;
const PORT: u16 = 5301;
const DEADLINE: Duration = Duration::from_secs(60);

/// Two namespaces with an interface of the switch in each.
struct Rig {
    spaces: [String; 2],
    taps: [TapHandle; 2],
    _thread: netvsc_host::HostThread,
}

impl Rig {
    /// `None` where it cannot be made, which only a desk may say.
    fn new(tag: &str, configs: [TapConfig; 2]) -> Option<Self> {
        let host = Host::builder().build();
        let mut spaces = Vec::new();
        let mut taps = Vec::new();
        for (index, config) in configs.into_iter().enumerate() {
            let name = format!("nvh{tag}{index}");
            let tap = match TapPort::open(config.name(name.as_str())) {
                Ok(tap) => tap,
                Err(error) if error.is_missing_privilege() || error.is_missing_device() => {
                    assert!(std::env::var_os("CI").is_none(), "CI must be able to run this test: {error}");
                    println!("SKIPPED: {error}");
                    return None;
                }
                Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
            };
            taps.push(tap.handle());
            host.add_port(tap);
            let space = format!("nvh-{tag}-{index}-{}", std::process::id());
            ip(&["netns", "add", &space]);
            spaces.push(space);
        }
        let rig = Self {
            spaces: spaces.try_into().expect("two"),
            taps: taps.try_into().expect("two"),
            _thread: host.spawn_thread(),
        };
        for (index, space) in rig.spaces.iter().enumerate() {
            let name = format!("nvh{tag}{index}");
            ip(&["link", "set", &name, "netns", space]);
            let last = index + 1;
            ip(&["-n", space, "addr", "add", &format!("198.51.100.{last}/24"), "dev", &name]);
            ip(&["-n", space, "addr", "add", &format!("2001:db8:77::{last}/64"), "dev", &name, "nodad"]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
            ip(&["-n", space, "link", "set", &name, "up"]);
        }
        Some(rig)
    }

    /// This test program again, in a namespace.
    fn child(&self, space: usize, role: &str, address: &str) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.spaces[space]])
            .arg(std::env::current_exe().expect("a path"))
            .args(["--exact", "end_of_a_connection", "--ignored", "--nocapture", "--test-threads", "1"])
            .env("TAP_OFFLOAD_ROLE", role)
            .env("TAP_OFFLOAD_ADDRESS", address)
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip runs")
    }

    /// Sends from the first to the second and back; both must have got what the other sent.
    fn exchange(&self, address: &str) {
        let server = self.child(1, "server", address);
        let client = self.child(0, "client", address);
        let said = [client, server].map(|child| {
            let output = child.wait_with_output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{address}: {text}");
            let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
            (line("sent ").expect("a line"), line("received ").expect("a line"), line("errors ").expect("a line"))
        });
        let [client, server] = said;
        assert_eq!((&client.0, &client.1), (&server.1, &server.0), "{address}");
        assert_eq!((client.2.as_str(), server.2.as_str()), ("0", "0"), "{address}: checksum errors");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// One end of the connection, in its namespace.
#[test]
#[ignore = "run by the other tests, in a namespace"]
fn end_of_a_connection() {
    let Ok(role) = std::env::var("TAP_OFFLOAD_ROLE") else { return };
    let address: IpAddr = std::env::var("TAP_OFFLOAD_ADDRESS").expect("an address").parse().expect("an address");
    let address = SocketAddr::new(address, PORT);
    let (stream, seed) = if role == "server" { (accept(address), 7) } else { (connect(address), 1) };
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
    let mut writing = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        let bytes = noise(seed);
        writing.write_all(&bytes).expect("it is taken");
        writing.shutdown(std::net::Shutdown::Write).expect("an open connection");
        digest(&bytes)
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).expect("the other end closes");
    println!("\nsent {:x}", sender.join().expect("sent"));
    println!("received {:x}", digest(&received));
    assert_eq!(received.len(), BYTES);
    println!("errors {}", checksum_errors());
}

fn accept(address: SocketAddr) -> TcpStream {
    let listener = TcpListener::bind(address).expect("a listener");
    listener.set_nonblocking(true).expect("a socket of this process");
    let started = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{address}: {error}"),
            Err(_) => assert!(started.elapsed() < DEADLINE, "{address}: nobody connects"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.set_nonblocking(false).expect("a socket of this process");
    stream
}

fn connect(address: SocketAddr) -> TcpStream {
    let started = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return stream,
            Err(error) => assert!(started.elapsed() < DEADLINE, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Segments that this namespace's TCP dropped for their checksum, IPv4 and IPv6.
fn checksum_errors() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").expect("statistics");
    let tcp: Vec<_> = snmp.lines().filter(|line| line.starts_with("Tcp:")).collect();
    let place = tcp[0].split_whitespace().position(|name| name == "InCsumErrors").expect("a counter");
    tcp[1].split_whitespace().nth(place).expect("a value").parse().expect("a number")
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(BYTES)
    .collect()
}

/// FNV-1a of 64 bits.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn large_frames_cross_the_switch_whole() {
    let vnet = || TapConfig::new().vnet_hdr(true);
    let Some(rig) = Rig::new("a", [vnet(), vnet()]) else { return };
    for address in ["198.51.100.2", "2001:db8:77::2"] {
        rig.exchange(address);
    }
    let stats = rig.taps.each_ref().map(TapHandle::stats);
    for [one, other] in [stats, [stats[1], stats[0]]] {
        assert!(one.read_large > 0 && other.written_large > 0, "{stats:?}");
        assert_eq!(one.read_unknown, 0, "{stats:?}");
        // Far fewer frames than segments.
        assert!(one.read < (2 * BYTES / 1448) as u64, "{stats:?}");
    }
}

#[test]
fn large_frames_are_cut_for_a_port_that_takes_none() {
    let Some(rig) = Rig::new("b", [TapConfig::new().vnet_hdr(true), TapConfig::new()]) else { return };
    for address in ["198.51.100.2", "2001:db8:77::2"] {
        rig.exchange(address);
    }
    let [large, plain] = rig.taps.each_ref().map(TapHandle::stats);
    assert!(large.read_large > 0, "{large:?}");
    assert_eq!((large.written_large, plain.written_large, plain.read_large), (0, 0, 0), "{large:?}, {plain:?}");
    assert!(plain.written >= (2 * BYTES / 1448) as u64, "{plain:?}");
}

#[test]
fn queues_share_the_flows_and_large_writes_can_be_off() {
    let config = || TapConfig::new().vnet_hdr(true).queues(4);
    let Some(rig) = Rig::new("c", [config(), config().large_writes(false)]) else { return };
    for address in ["198.51.100.2", "2001:db8:77::2"] {
        rig.exchange(address);
    }
    let [one, other] = rig.taps.each_ref().map(TapHandle::stats);
    assert!(one.read_large > 0 && one.written_large > 0 && other.written_large == 0, "{one:?}, {other:?}");
}
