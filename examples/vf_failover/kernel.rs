//! Ends that are machines of their own: network namespaces with the kernel's TCP and UDP, each behind a TAP interface. Needs
//! root.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::Context;
use netvsc_host::port::{TapConfig, TapPort};
use netvsc_tests::netns::Netns;

use crate::ends::{Common, Counted, Drain, Generated, Outcome, Source, Transferred};
use crate::flow;

/// The interfaces' names. Each is in a namespace of its own soon.
const TAPS: [&str; 2] = ["vffo-near", "vffo-far"];
const STREAM_PORT: u16 = 7000;
const FLOW_PORT: u16 = 7001;
/// Stream bytes at a time.
const CHUNK: usize = 64 << 10;
/// How often a reader looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// A stream that stands still for so long will not go on: TCP sends again what was lost after [a while](RETRANSMIT_AFTER).
const PATIENCE: Duration = Duration::from_secs(120);
/// What the namespaces' kernels are told. Windows are small, so that nothing is lost to crowding: queues on the way hold
/// more. TCP does not send again because an answer is late on a busy machine, but for a loss alone.
const SETTINGS: [(&str, &str); 4] = [
    ("ipv4/tcp_rmem", "4096 131072 262144"),
    ("ipv4/tcp_wmem", "4096 131072 262144"),
    ("ipv4/tcp_early_retrans", "0"),
    ("ipv4/tcp_no_metrics_save", "1"),
];
/// So that the kernel says nothing by itself; a kernel without IPv6 has no such files.
const NO_IPV6: [&str; 2] = ["all", "default"];
/// TCP sends again no sooner after it has heard nothing.
const RETRANSMIT_AFTER: &str = "rto_min 20s";

/// The machines at both ends.
#[derive(Debug)]
pub(crate) struct Machines([Netns; 2]);

impl Machines {
    /// Two machines, and the other ends of their interfaces. To be called in the namespace that is neither's.
    pub(crate) fn new() -> anyhow::Result<(Self, [TapPort; 2])> {
        // An interface speaks as soon as it is made.
        silence()?;
        let make = |end: usize| -> anyhow::Result<(Netns, TapPort)> {
            let name = TAPS[end];
            let tap = TapPort::open(TapConfig::new().name(name).capacity(8192)).context("make a TAP interface")?;
            let netns = Netns::new().context("make a network namespace")?;
            netns.enter(silence)?;
            netns.adopt(name)?;
            netns.enter(|| {
                let write = |(file, value)| fs::write(format!("/proc/sys/net/{file}"), value);
                SETTINGS.into_iter().try_for_each(write).context("set up a namespace")
            })?;
            netns.ip(&format!("addr add {}/24 dev {name}", address(end)))?;
            netns.ip(&format!("link set {name} txqueuelen 10000 up"))?;
            let route = format!("198.51.100.0/24 dev {name} proto kernel scope link src {}", address(end));
            netns.ip(&format!("route replace {route} {RETRANSMIT_AFTER}"))?;
            Ok((netns, tap))
        };
        let ((near, near_tap), (far, far_tap)) = (make(0)?, make(1)?);
        Ok((Self([near, far]), [near_tap, far_tap]))
    }

    /// Segments that either has sent again, connecting left out: for a first answer the kernel waits a second, whatever it is
    /// told, and a busy machine takes longer.
    fn retransmissions(&self) -> anyhow::Result<u64> {
        let of = |netns: &Netns| -> anyhow::Result<u64> {
            let text = netns.run("nstat", &["--ignore", "--noupdate", "--zeros", "--json"])?;
            let value: serde_json::Value = serde_json::from_str(&text)?;
            let counter = |name: &str| value["kernel"][name].as_u64().with_context(|| format!("nstat said {text}"));
            Ok(counter("TcpRetransSegs")?.saturating_sub(counter("TcpExtTCPSynRetrans")?))
        };
        self.0.iter().map(of).sum()
    }
}

impl Counted for Machines {
    /// By what the kernels have counted at their interfaces.
    fn missing(&mut self) -> anyhow::Result<u64> {
        let (mut sent, mut received) = (0, 0);
        for (netns, name) in self.0.iter().zip(TAPS) {
            let counters = netns.link_counters(name)?;
            anyhow::ensure!(counters.tx_dropped == 0, "{name}: {counters:?}: a queue of the kernel's was too short");
            sent += counters.tx_packets;
            received += counters.rx_packets;
        }
        sent.checked_sub(received).with_context(|| format!("{sent} frames were sent and {received} received"))
    }
}

/// iperf3, from one machine to the other until it is time to stop: run after run, as iperf3 cannot be told to stop and still say
/// what it did, each with a server of its own.
fn generate(from: &Netns, to: &Netns, address: Ipv4Addr, common: &Common) -> anyhow::Result<Generated> {
    let address = address.to_string();
    let mut all = Generated::default();
    while !common.is_stopped() {
        let server = to.start("iperf3", &["-s", "-1", "-B", &address]).context("start iperf3")?;
        let since = Instant::now();
        while !to.run("ss", &["-Hltn", "sport = :5201"])?.contains("5201") {
            anyhow::ensure!(since.elapsed() < PATIENCE, "iperf3 does not listen");
            std::thread::sleep(LOOK);
        }
        let said = from.run("iperf3", &["-c", &address, "-t", "2", "-i", "0", "--json"])?;
        server.finish()?;
        let report: serde_json::Value = serde_json::from_str(&said)?;
        let number = |sum: &str, name: &str| {
            report["end"][sum][name].as_u64().with_context(|| format!("no {name} in what iperf3 said: {said}"))
        };
        all.runs += 1;
        all.bytes += number("sum_received", "bytes")?;
        all.retransmissions += number("sum_sent", "retransmits")?;
    }
    Ok(all)
}

/// The ends, at work.
#[derive(Debug)]
pub(crate) struct Ends {
    machines: Machines,
    stream: [JoinHandle<io::Result<Transferred>>; 2],
    /// From the far machine to the near one: against the stream.
    generator: Option<JoinHandle<anyhow::Result<Generated>>>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
    /// The receivers of the numbered flows are to end.
    over: Arc<AtomicBool>,
    common: Common,
}

impl Ends {
    /// Begins to talk, with iperf3 beside it if that is wanted.
    pub(crate) fn start(machines: Machines, seed: u64, iperf3: bool, common: &Common) -> anyhow::Result<Self> {
        let [near, far] = &machines.0;
        let listener = far.enter(|| TcpListener::bind((address(1), STREAM_PORT))).context("listen")?;
        let (source, drain) = (Source::new(seed, common), Drain::new(common));
        let stream = [near.spawn(move || send(source)), far.spawn(move || receive(&listener, drain))];
        let over = Arc::new(AtomicBool::new(false));
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        let bind = |end: usize| {
            let socket = machines.0[end].enter(|| UdpSocket::bind((address(end), FLOW_PORT)))?;
            // Some seconds of a flow: what its reader is too slow for would pass for lost on the way.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20)?;
            Ok::<_, io::Error>(socket)
        };
        let sockets = [Arc::new(bind(0)?), Arc::new(bind(1)?)];
        for from in 0..2 {
            let (common_there, socket) = (common.clone(), Arc::clone(&sockets[from]));
            senders.push(std::thread::spawn(move || {
                let to = (address(1 - from), FLOW_PORT);
                let stop = || common_there.is_stopped();
                common_there.flows[from].send_until(stop, |payload| socket.send_to(payload, to).is_ok());
            }));
            let socket = Arc::clone(&sockets[1 - from]);
            socket.set_read_timeout(Some(LOOK))?;
            let (flow, over) = (common.flows[from].clone(), Arc::clone(&over));
            receivers.push(std::thread::spawn(move || {
                let mut payload = [0; flow::PAYLOAD];
                while !over.load(Ordering::Relaxed) {
                    if let Ok(len) = socket.recv(&mut payload) {
                        flow.received(&payload[..len]);
                    }
                }
            }));
        }
        let generator = iperf3.then(|| {
            let ([near, far], common) = (machines.0.clone(), common.clone());
            std::thread::spawn(move || generate(&far, &near, address(0), &common))
        });
        Ok(Self { machines, stream, generator, senders, receivers, over, common: common.clone() })
    }

    /// Has them stop, and waits for what is under way. Blocks.
    pub(crate) fn finish(self) -> anyhow::Result<(Outcome, Machines)> {
        let panicked = |_| anyhow::anyhow!("an end panicked");
        self.common.stop();
        for sender in self.senders {
            sender.join().map_err(panicked)?;
        }
        self.over.store(true, Ordering::Relaxed);
        for receiver in self.receivers {
            receiver.join().map_err(panicked)?;
        }
        let [sent, received] = self.stream.map(JoinHandle::join);
        let sent = sent.map_err(panicked)?.context("send the stream")?;
        let received = received.map_err(panicked)?.context("receive the stream")?;
        let generated = self.generator.map(|generator| generator.join().map_err(panicked)?);
        let generated = generated.transpose().context("iperf3")?;
        let retransmissions = Some(self.machines.retransmissions()?);
        Ok((Outcome { sent, received, retransmissions, generated }, self.machines))
    }
}

/// Turns IPv6 off in the namespace of this thread.
fn silence() -> anyhow::Result<()> {
    for at in NO_IPV6 {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{at}/disable_ipv6"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("turn IPv6 off"),
            _ => {}
        }
    }
    Ok(())
}

fn address(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, end as u8 + 1)
}

fn send(mut source: Source) -> io::Result<Transferred> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address(1), STREAM_PORT)), PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = source.next(&mut chunk);
        if len == 0 {
            break;
        }
        stream.write_all(&chunk[..len])?;
    }
    stream.shutdown(Shutdown::Write)?;
    // The other end closes once it has everything.
    stream.read_to_end(&mut Vec::new())?;
    Ok(source.finish())
}

/// Waits for a connection, but not for ever.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let since = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if since.elapsed() > PATIENCE => return Err(io::Error::new(io::ErrorKind::TimedOut, error)),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn receive(listener: &TcpListener, mut drain: Drain) -> io::Result<Transferred> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(drain.finish()),
            Ok(len) => drain.take(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
