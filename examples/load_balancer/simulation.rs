//! Clients, a balancer and backends on the switch of a simulated host, and whether all is as it should be.
//!
//! Clients and backends are stations of the simulation's own: they say no more than is needed to see where each flow goes. A
//! backend looks at every frame as a TCP/IP stack does, checksums included, and its answer goes to the client directly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use netvsc::checksum::{self, Sum};
use netvsc::frame::Headers;
use netvsc::meta::Verdict;
use netvsc_async::{HashLevel, Nic};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions};
use vmbus::mem::MemBus;

use crate::balancer::Config;
use crate::table::mix;
use crate::wire::{self, Mac, Neighbour};
use crate::{Options, Running, queue};

/// Machines behind the balancer; each has an IPv4 and an IPv6 address.
const BACKENDS: usize = 4;
/// The one that goes and comes back.
const UNSTEADY: usize = 2;
const CLIENT_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1))];
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 2))];
const SERVICE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 80)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0x80))];
const SERVICE_PORT: u16 = 443;
/// Local experimental EtherType: by which a backend says that it got something that has no answer.
const TYPE_NOTE: [u8; 2] = [0x88, 0xB5];
/// Packets on the way; no port's queue overflows.
const WINDOW: usize = 128;
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) flows: u32,
    pub(crate) queues: u16,
    pub(crate) seed: u64,
    pub(crate) level: HashLevel,
    pub(crate) probe: Duration,
    /// Something that goes wrong, which must be noticed.
    pub(crate) sabotage: Option<Sabotage>,
}

/// What goes wrong on purpose: it has to be noticed, or nothing is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// Backends change their names now and then.
    WanderingFlows,
    /// A byte changes on the way to a backend.
    CorruptFrames,
}

impl Scene {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            flows: options.flows,
            queues: options.queues,
            seed: options.seed,
            level: options.hash,
            // Nobody wants to wait for three seconds in a demonstration.
            probe: Duration::from_millis(options.probe.min(200)),
            sabotage: options.sabotage,
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    flows: u32,
    /// Flows of each backend: at first, without one of them, and after its return.
    pub(crate) shares: Vec<[u32; 3]>,
    /// Flows that had to move.
    pub(crate) moved: u32,
    counters: queue::Summary,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} flows of TCP and UDP, IPv4 and IPv6, over {} backends:", self.flows, self.shares.len())?;
        writeln!(f, "  {:<10}{:>8}{:>9}{:>16}{:>14}", "backend", "flows", "share", "one is gone", "it is back")?;
        for (index, [first, without, after]) in self.shares.iter().enumerate() {
            let share = f64::from(*first) * 100.0 / f64::from(self.flows);
            let name = index + 1;
            writeln!(f, "  {name:<10}{first:>8}{share:>8.1}%{without:>16}{after:>14}")?;
        }
        writeln!(f, "when backend {} went, its {} flows moved, and no other", UNSTEADY + 1, self.moved)?;
        write!(f, "{}", self.counters)
    }
}

/// Runs it.
///
/// # Errors
/// What is not as it should be.
pub(crate) async fn run(scene: &Scene) -> anyhow::Result<Report> {
    let host = Host::builder().seed(scene.seed).build();
    let clients = host.memory_pair();
    let backends: Vec<_> =
        (0..BACKENDS).map(|index| Backend::start(host.memory_pair(), index, scene.sabotage)).collect();
    let bus = MemBus::new(host.add_nic(NicOptions::new().queues(scene.queues)));
    let host_task = host.spawn();
    let (nic, queues) = Nic::builder().queues(scene.queues).open_on(bus).await?;
    let addresses =
        [0, 1].into_iter().flat_map(|version| backends.iter().map(move |backend| backend.addresses[version]));
    let config = Config {
        mac: nic.info().mac.0,
        own: OWN.to_vec(),
        services: SERVICE.to_vec(),
        backends: addresses.collect(),
        level: scene.level,
        seed: scene.seed,
    };
    let running = Running::start(&nic, queues, config, scene.probe)?;
    let mut clients = Clients { port: clients, balancer: nic.info().mac.0, level: scene.level, round: 0 };

    living(&running, 2 * BACKENDS).await?;
    clients.find_the_service().await.context("find the service")?;
    let flows: Vec<Flow> = (0..scene.flows).map(|number| Flow::new(scene.seed, number)).collect();
    let first = clients.open(&flows).await.context("open all flows")?;
    check_shares(&first, &[0, 1, 2, 3], scene.level)?;
    for _ in 0..2 {
        ensure!(clients.open(&flows).await? == first, "flows moved although nothing had changed");
    }
    clients.send_fragments(&flows).await.context("fragments")?;
    clients.send_errors(&flows, &first).await.context("ICMP errors")?;

    backends[UNSTEADY].station.silent.store(true, Ordering::Relaxed);
    living(&running, 2 * (BACKENDS - 1)).await?;
    let without = clients.open(&flows).await.context("while a backend is gone")?;
    let mut moved = 0;
    for (number, (old, new)) in first.iter().zip(&without).enumerate() {
        ensure!(*new != UNSTEADY, "flow {number} goes to a backend that is gone");
        ensure!(old == new || *old == UNSTEADY, "flow {number} moved from a backend that lives");
        moved += u32::from(old != new);
    }
    check_shares(&without, &[0, 1, 3], scene.level)?;

    backends[UNSTEADY].station.silent.store(false, Ordering::Relaxed);
    living(&running, 2 * BACKENDS).await?;
    let after = clients.open(&flows).await.context("after the backend's return")?;
    ensure!(after == first, "flows are not where they were before");

    for backend in &backends {
        backend.station.complaint()?;
    }
    let counters = running.counters();
    check_counters(&counters, scene)?;
    ensure!(nic.close().await?.is_clean(), "not everything was given back when the adapter was closed");
    running.ended().await?;
    drop(running);
    // The host learns of the guest's end at its next step.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let report = host.report();
    ensure!(report.is_clean(), "the host complains: {report}");
    host_task.abort();
    let count = |places: &[usize], backend| places.iter().filter(|place| **place == backend).count() as u32;
    let shares = (0..BACKENDS).map(|backend| [&first, &without, &after].map(|places| count(places, backend))).collect();
    Ok(Report { flows: scene.flows, shares, moved, counters })
}

/// Waits until so many backends live.
async fn living(running: &Running, count: usize) -> anyhow::Result<()> {
    let mut backends = running.balancer.backends();
    let wait = backends.wait_for(|backends| backends.living() == count);
    let found = tokio::time::timeout(PATIENCE, wait).await;
    ensure!(found.is_ok_and(|found| found.is_ok()), "there never were {count} backends");
    Ok(())
}

/// Each backend gets about the same, as far as chance allows.
fn check_shares(places: &[usize], backends: &[usize], level: HashLevel) -> anyhow::Result<()> {
    let even = places.len() as f64 / backends.len() as f64;
    // Flows are thrown like dice: four standard deviations, and what the table's own shares are off. By addresses alone
    // there are fewer dice.
    let dice = if level == HashLevel::L4 { 4.0 } else { 8.0 };
    let allowed = dice * even.sqrt() + 0.03 * even;
    for backend in backends {
        let share = places.iter().filter(|place| *place == backend).count() as f64;
        ensure!((share - even).abs() <= allowed, "backend {} has {share} flows of {even} ± {allowed:.0}", backend + 1);
    }
    Ok(())
}

fn check_counters(counters: &queue::Summary, scene: &Scene) -> anyhow::Result<()> {
    ensure!(counters.no_room == 0, "{} frames were lost for want of room", counters.no_room);
    let frames: u64 = counters.forwarded.iter().flat_map(|(_, by_queue)| by_queue).sum();
    ensure!(frames >= 5 * u64::from(scene.flows), "{frames} frames forwarded");
    for queue in 0..usize::from(scene.queues) {
        let frames: u64 = counters.forwarded.iter().map(|(_, by_queue)| by_queue[queue]).sum();
        ensure!(frames > 0, "queue {queue} forwarded nothing");
    }
    Ok(())
}

/// A flow of a client's.
#[derive(Debug, Clone, Copy)]
struct Flow {
    version: usize,
    protocol: u8,
    client: IpAddr,
    port: u16,
    number: u32,
}

impl Flow {
    fn new(seed: u64, number: u32) -> Self {
        let chance = mix(seed ^ u64::from(number) << 32);
        let [a, b, c, d, port @ .., e, f] = chance.to_be_bytes();
        let version = usize::from(e & 1);
        let client = match version {
            // RFC 2544's and RFC 3849's: clients behind a router.
            0 => Ipv4Addr::new(198, 18 | (a & 1), b, c).into(),
            _ => Ipv6Addr::new(0x2001, 0xDB8, 1, a.into(), b.into(), c.into(), d.into(), 1).into(),
        };
        let protocol = if f & 1 == 0 { TCP } else { UDP };
        Self { version, protocol, client, port: u16::from_be_bytes(port) | 1024, number }
    }

    /// A whole packet with the flow's number in it.
    fn packet(&self, to: Mac, round: u32) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.port.to_be_bytes());
        segment.extend(SERVICE_PORT.to_be_bytes());
        match self.protocol {
            TCP => segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0]),
            _ => segment.extend([0, 16, 0, 0]),
        }
        segment.extend(self.number.to_be_bytes());
        segment.extend(round.to_be_bytes());
        let mut frame = ip(to, self.client, SERVICE[self.version], self.protocol, None, &segment);
        fill(&mut frame);
        frame
    }

    /// A datagram in two fragments.
    fn fragments(&self, to: Mac) -> [Vec<u8>; 2] {
        let datagram = [&self.port.to_be_bytes()[..], &SERVICE_PORT.to_be_bytes(), &[0, 72, 0, 0], &[7; 64]].concat();
        let (first, second) = datagram.split_at(40);
        [(first, 0, true), (second, 5, false)].map(|(content, offset8, more)| {
            let place = Some((offset8, more));
            let mut frame = ip(to, self.client, SERVICE[self.version], UDP, place, content);
            fill(&mut frame);
            frame
        })
    }

    /// What a router says about a packet of the service's that was too big for the way to this client.
    fn too_big(&self, to: Mac) -> Vec<u8> {
        let router = CLIENT[self.version];
        let ports = [SERVICE_PORT.to_be_bytes(), self.port.to_be_bytes()].concat();
        let quoted = ip(to, SERVICE[self.version], self.client, self.protocol, None, &[&ports[..], &[0; 4]].concat());
        let quoted = &quoted[14..if self.version == 0 { 14 + 28 } else { 14 + 48 }];
        let (protocol, kind) = if self.version == 0 { (1, [3, 4]) } else { (58, [2, 0]) };
        let message = [&kind[..], &[0, 0, 0, 0, 5, 0], quoted].concat();
        let mut frame = ip(to, router, SERVICE[self.version], protocol, None, &message);
        fill(&mut frame);
        frame
    }
}

/// An IP packet from the router that all clients are behind.
fn ip(to: Mac, from: IpAddr, destination: IpAddr, protocol: u8, part: Option<(u16, bool)>, content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + 48 + content.len());
    frame.extend(to);
    frame.extend(CLIENT_MAC);
    match (from, destination) {
        (IpAddr::V4(from), IpAddr::V4(destination)) => {
            let place = part.map_or(0, |(offset8, more)| offset8 | u16::from(more) << 13);
            frame.extend([0x08, 0, 0x45, 0]);
            frame.extend((20 + content.len() as u16).to_be_bytes());
            frame.extend([0, 7]);
            frame.extend(place.to_be_bytes());
            frame.extend([64, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(destination.octets());
        }
        (from, destination) => {
            let octets = |address| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            frame.extend((content.len() as u16 + if part.is_some() { 8 } else { 0 }).to_be_bytes());
            frame.extend([part.map_or(protocol, |_| FRAGMENT), 64]);
            frame.extend(octets(from));
            frame.extend(octets(destination));
            if let Some((offset8, more)) = part {
                frame.extend([protocol, 0]);
                frame.extend((offset8 << 3 | u16::from(more)).to_be_bytes());
                frame.extend([0, 0, 0, 7]);
            }
        }
    }
    frame.extend(content);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Computes the checksums that there are.
fn fill(frame: &mut [u8]) {
    let Some(headers) = Headers::parse(frame) else { return };
    checksum::fill_ipv4(frame, &headers);
    if let Some(request) = checksum::request(frame, &headers) {
        // A request for what there is can be met.
        let _ = checksum::fill_parsed(frame, &headers, request);
    }
}

/// All clients, behind one router.
#[derive(Debug)]
struct Clients {
    port: MemoryPort,
    balancer: Mac,
    level: HashLevel,
    round: u32,
}

impl Clients {
    fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        self.port.send(frame).map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// The next frame for which `wanted` has something.
    async fn wait_for<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> anyhow::Result<T> {
        let receive = async {
            loop {
                let frame = self.port.recv().await.context("the switch is gone")?;
                if frame[..6] == CLIENT_MAC
                    && let Some(found) = wanted(&frame)
                {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(PATIENCE, receive).await.unwrap_or_else(|_| bail!("no answer"))
    }

    /// Asks where the service is, and pings it.
    async fn find_the_service(&self) -> anyhow::Result<()> {
        for (service, client) in SERVICE.into_iter().zip(CLIENT) {
            self.send(&wire::question(CLIENT_MAC, client, service).context("one version of IP")?)?;
            let mac = self.wait_for(|frame| match Neighbour::parse(frame) {
                Some(Neighbour::Tells { address, mac }) if address == service => Some(mac),
                _ => None,
            });
            ensure!(mac.await? == self.balancer, "{service} is somewhere else");
            let (protocol, asks, tells) = if service.is_ipv4() { (1, 8, 0) } else { (58, 128, 129) };
            let mut ping = ip(self.balancer, client, service, protocol, None, &[asks, 0, 0, 0, 0, 1, 0, 1]);
            let at = if service.is_ipv4() { 34 } else { 54 };
            let pseudo =
                if service.is_ipv4() { Sum::ZERO } else { Sum::of(&ping[22..54]) + Sum::of_word(8) + Sum::of_word(58) };
            let sum = (pseudo + Sum::of(&ping[at..at + 8])).checksum();
            ping[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            fill(&mut ping);
            self.send(&ping)?;
            let answer = self.wait_for(|frame| {
                let headers = Headers::parse(frame)?;
                (headers.protocol().0 == protocol && frame[at] == tells).then(|| Sum::of(&frame[at..at + 8]) + pseudo)
            });
            ensure!(answer.await?.is_right(), "a ping's answer has a wrong checksum");
        }
        Ok(())
    }

    /// Sends a packet of each flow; the backend that answered each.
    async fn open(&mut self, flows: &[Flow]) -> anyhow::Result<Vec<usize>> {
        self.round += 1;
        let round = self.round;
        let mut places = vec![usize::MAX; flows.len()];
        for chunk in flows.chunks(WINDOW) {
            for flow in chunk {
                self.send(&flow.packet(self.balancer, round))?;
            }
            for _ in chunk {
                let (backend, number) = self.wait_for(|frame| answer(frame, round)).await?;
                let flow = flows.get(number as usize).context("an answer to nothing")?;
                ensure!(
                    std::mem::replace(&mut places[number as usize], backend) == usize::MAX,
                    "{flow:?}: two answers"
                );
            }
        }
        Ok(places)
    }

    /// All fragments of a datagram go to one backend.
    async fn send_fragments(&self, flows: &[Flow]) -> anyhow::Result<()> {
        for flow in flows.iter().take(WINDOW) {
            let mut places = Vec::new();
            for fragment in flow.fragments(self.balancer) {
                self.send(&fragment)?;
                places.push(self.wait_for(note).await?);
            }
            ensure!(places[0] == places[1], "{flow:?}: fragments go to backends {places:?}");
        }
        Ok(())
    }

    /// What is said about a packet reaches the backend that sent it.
    async fn send_errors(&self, flows: &[Flow], places: &[usize]) -> anyhow::Result<()> {
        for (flow, place) in flows.iter().zip(places).take(WINDOW) {
            self.send(&flow.too_big(self.balancer))?;
            let told = self.wait_for(note).await?;
            ensure!(told == *place, "{flow:?} at {:?}: backend {told} is told, not {place}", self.level);
        }
        Ok(())
    }
}

/// The backend and the flow's number in an answer of this round.
fn answer(frame: &[u8], round: u32) -> Option<(usize, u32)> {
    let headers = Headers::parse(frame)?;
    let payload: &[u8; 12] = frame.get(headers.payload(frame)?..)?.first_chunk()?;
    let [backend, number, of] =
        [0, 4, 8].map(|at| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]));
    (of == round).then_some((backend as usize, number))
}

/// The backend that says it got something.
fn note(frame: &[u8]) -> Option<usize> {
    (frame[12..14] == TYPE_NOTE).then(|| usize::from(frame[14]))
}

/// A machine behind the balancer.
#[derive(Debug)]
struct Backend {
    addresses: [IpAddr; 2],
    station: Arc<Station>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Station {
    index: usize,
    mac: Mac,
    addresses: [IpAddr; 2],
    silent: AtomicBool,
    sabotage: Option<Sabotage>,
    /// The first thing that was wrong.
    wrong: Mutex<Option<String>>,
}

impl Backend {
    fn start(port: MemoryPort, index: usize, sabotage: Option<Sabotage>) -> Self {
        let number = index as u8 + 11;
        let addresses = [
            Ipv4Addr::new(198, 51, 100, number).into(),
            Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, number.into()).into(),
        ];
        let station = Arc::new(Station {
            index,
            mac: [0x02, 0, 0, 0, 1, number],
            addresses,
            silent: AtomicBool::new(false),
            sabotage,
            wrong: Mutex::default(),
        });
        let task = tokio::spawn({
            let station = Arc::clone(&station);
            async move {
                while let Some(frame) = port.recv().await {
                    if !station.silent.load(Ordering::Relaxed)
                        && let Some(answer) = station.serve(&frame)
                        && let Err(error) = port.send(&answer)
                    {
                        station.complain(format!("an answer was not taken: {error}"));
                    }
                }
            }
        });
        Self { addresses, station, task }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Station {
    fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn complaint(&self) -> anyhow::Result<()> {
        match self.wrong.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(wrong) => bail!("backend {}: {wrong}", self.index + 1),
            None => Ok(()),
        }
    }

    /// What it says to a frame.
    fn serve(&self, frame: &[u8]) -> Option<Vec<u8>> {
        match Neighbour::parse(frame) {
            Some(Neighbour::Asks { target, source, mac }) if self.addresses.contains(&target) => {
                return wire::answer(self.mac, target, mac, source);
            }
            Some(_) => return None,
            None => {}
        }
        if frame.get(..6)? != self.mac {
            return None;
        }
        let mut frame = frame.to_vec();
        let headers = Headers::parse(&frame)?;
        if self.sabotage == Some(Sabotage::CorruptFrames) {
            // The port that the answer goes to.
            frame[headers.transport() + 1] ^= 1;
        }
        let Some(payload) = headers.payload(&frame) else {
            // A fragment, or an error message.
            let note = [&CLIENT_MAC[..], &self.mac, &TYPE_NOTE, &[self.index as u8], &[0; 45]].concat();
            return Some(note);
        };
        if checksum::verify_parsed(&frame, &headers).transport != Verdict::Good {
            self.complain(format!("a wrong checksum: {frame:02x?}"));
        }
        let (number, round) = (frame.get(payload..payload + 4)?, frame.get(payload + 4..payload + 8)?);
        let half = if frame[12] == 0x08 { 4 } else { 16 };
        let addresses = headers.addresses(&frame);
        let (client, service) = addresses.split_at(half);
        let mut index = self.index as u32;
        if self.sabotage == Some(Sabotage::WanderingFlows) && number[3] == round[3] {
            index = (index + 1) % BACKENDS as u32;
        }
        let protocol = headers.protocol().0;
        let ports = headers.ports(&frame)?;
        let mut segment = [&ports[2..], &ports[..2]].concat();
        match protocol {
            TCP => segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0]),
            _ => segment.extend([0, 20, 0, 0]),
        }
        segment.extend(index.to_be_bytes());
        segment.extend(number);
        segment.extend(round);
        let mut answer = ip(CLIENT_MAC, address(service)?, address(client)?, protocol, None, &segment);
        answer[6..12].copy_from_slice(&self.mac);
        fill(&mut answer);
        Some(answer)
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(*octets.first_chunk::<4>()?).into()),
        _ => Some(Ipv6Addr::from(*octets.first_chunk::<16>()?).into()),
    }
}
